// Builds dist/mainstay.js (one ES module) and dist/types. With --check, builds into build/ and
// fails if what is committed differs.
import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const root = fileURLToPath(new URL("..", import.meta.url));
const check = process.argv.includes("--check");
const out = join(root, check ? "build/dist" : "dist");

rmSync(out, { recursive: true, force: true });
await build({
  absWorkingDir: root,
  entryPoints: ["src/index.ts"],
  outfile: join(out, "mainstay.js"),
  bundle: true,
  format: "esm",
  platform: "neutral",
  target: "es2022",
  external: ["node:*"],
  charset: "utf8",
  banner: { js: "// Built from src/ by `npm run build`; do not edit." },
});
execFileSync(
  process.execPath,
  [join(root, "node_modules/typescript/bin/tsc"), "-p", "tsconfig.types.json", "--outDir", join(out, "types")],
  { cwd: root, stdio: "inherit" },
);

if (check) {
  const files = (dir) => readdirSync(dir, { recursive: true }).filter((name) => /\.(js|ts)$/.test(name)).sort();
  const committed = join(root, "dist");
  const differing = [...new Set([...files(out), ...files(committed)])].filter((name) => {
    try {
      return readFileSync(join(out, name), "utf8") !== readFileSync(join(committed, name), "utf8");
    } catch {
      return true;
    }
  });
  if (differing.length > 0) {
    console.error(`dist is not what src builds to: ${differing.join(", ")}. Run \`npm run build\` and commit.`);
    process.exit(1);
  }
  console.log("dist is up to date");
}
