// Starts the built command and plays the arena in headless Chromium.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { chromium } from "playwright-core";

const root = new URL("../../..", import.meta.url).pathname;
const target = process.env.CARGO_TARGET_DIR ?? join(root, "target");
const command = process.env.MAINSTAY ?? join(target, "release", "mainstay");
const screenshots = process.env.SCREENSHOT_DIR;

let demo, address, browser, folder, startedAt;

/** Starts the demo with the data of this run; its address. */
function start(listen) {
  demo = spawn(command, ["demo", "--bots", "100", "--listen", listen, "--data", folder], { stdio: ["ignore", "pipe", "inherit"] });
  return new Promise((resolve, reject) => {
    let text = "";
    demo.on("exit", (code) => reject(new Error(`the demo ended with ${code}: ${text}`)));
    demo.stdout.on("data", (piece) => {
      text += piece;
      const found = text.match(/http:\/\/[\w.:]+\/?/);
      if (found) resolve(found[0].replace(/\/$/, ""));
    });
  });
}

before(async () => {
  assert.ok(existsSync(command), `${command} is missing: run \`cargo build --release\` first`);
  folder = mkdtempSync(join(tmpdir(), "mainstay-browser-"));
  startedAt = performance.now();
  address = await start("127.0.0.1:0");
  browser = await chromium.launch({
    executablePath: "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
      "--disable-component-update", "--disable-sync"],
  });
});

after(async () => {
  await browser?.close();
  if (demo && demo.exitCode === null) {
    const ended = new Promise((resolve) => demo.once("exit", resolve));
    demo.kill("SIGTERM");
    const code = await ended;
    assert.equal(code, 0, "the demo ends cleanly on TERM");
  }
  if (folder) rmSync(folder, { recursive: true, force: true });
});

async function open(name, visitor = browser) {
  const page = await visitor.newPage({ viewport: { width: 1280, height: 800 } });
  const errors = [];
  page.on("pageerror", (error) => errors.push(error.message));
  page.on("console", (line) => line.type() === "error" && errors.push(line.text()));
  await page.goto(address);
  await page.fill("#name", name);
  await page.click("#play");
  await page.waitForFunction(() => globalThis.arena?.playing);
  return { page, errors };
}

/** Wanders and shoots until `done`: a pick-up or a hit comes soon among a hundred. */
async function wander(page, done) {
  const keys = ["w", "d", "s", "a"];
  await page.mouse.move(900, 400);
  await page.mouse.down();
  for (let turn = 0; turn < 120 && !done(await read(page)); turn++) {
    const key = keys[turn % 4];
    await page.keyboard.down(key);
    await page.mouse.move(640 + 200 * Math.cos(turn), 400 + 200 * Math.sin(turn));
    await page.waitForTimeout(500);
    await page.keyboard.up(key);
  }
  await page.mouse.up();
}

const read = (page) => page.evaluate(() => globalThis.arena.snapshot());
const until = (page, condition, value) => page.waitForFunction(condition, value, { timeout: 20_000, polling: 50 });

test("the page shows a hundred moving bots soon after the start", async (t) => {
  const { page, errors } = await open("Watcher");
  await until(page, () => globalThis.arena.snapshot().players >= 101);
  t.diagnostic(`all are there ${Math.round(performance.now() - startedAt)} ms after the start, Chromium's own included`);
  const first = await read(page);
  await until(page, (step) => globalThis.arena.snapshot().step >= step + 20, first.step);
  const second = await read(page);
  const moved = second.seen.filter(({ id, x, y }) => {
    const before = first.seen.find((other) => other.id === id);
    return before && Math.hypot(before.x - x, before.y - y) > 5;
  });
  assert.ok(moved.length > 0, "bots in view move");
  assert.deepEqual(errors, []);
  await page.close();
});

test("a player moves, shoots, chats, and keeps the score through a cut and a drop", async () => {
  const { page, errors } = await open("Chrome");
  // The player is in the arena before its own avatar comes into view.
  await until(page, () => globalThis.arena.snapshot().x !== undefined);
  const start = await read(page);
  let moved = 0;
  for (let turn = 0; turn < 40 && moved <= 60; turn++) {
    // The other way at every second try: the first may be barred by the edge.
    const held = turn % 2 === 0 ? ["d", "s"] : ["a", "w"];
    for (const key of held) await page.keyboard.down(key);
    await page.waitForTimeout(700);
    for (const key of held) await page.keyboard.up(key);
    const now = await read(page);
    moved = Math.hypot(now.x - start.x, now.y - start.y);
  }
  assert.ok(moved > 60, `the player moved ${moved} units`);

  await page.fill("#say", "hello from a browser");
  await page.press("#say", "Enter");
  await until(page, () => document.getElementById("lines").textContent.includes("hello from a browser"));
  await wander(page, ({ points }) => points > 0);
  const scored = await read(page);
  assert.ok(scored.points > 0, "the player scored something");
  if (screenshots) await page.screenshot({ path: join(screenshots, "arena.png") });

  await page.click("#cut");
  await until(page, () => globalThis.arena.snapshot().resumes === 1 && globalThis.arena.snapshot().live);
  await until(page, (step) => globalThis.arena.snapshot().step > step + 10, scored.step);
  const resumed = await read(page);
  assert.ok(resumed.points >= scored.points, `${resumed.points} after, ${scored.points} before`);
  assert.equal(resumed.logins, 1, "the session goes on: there was one login");
  assert.equal(resumed.me, scored.me, "and the same player in the arena");

  await page.click("#kick");
  await until(page, () => globalThis.arena.snapshot().resumes === 2 && globalThis.arena.snapshot().live);
  const dropped = await read(page);
  assert.ok(dropped.points >= resumed.points);
  assert.equal(dropped.logins, 1);
  assert.deepEqual(errors.filter((error) => !error.includes("WebSocket")), []);
  await page.close();
});

test("coins and items are seen, and are there again after the server was killed", async () => {
  const visitor = await browser.newContext();
  const { page, errors } = await open("Keeper", visitor);
  const owned = (purse) => purse !== undefined && purse.coins + purse.stars > 0;
  await wander(page, ({ purse }) => owned(purse));
  const { purse } = await read(page);
  assert.ok(owned(purse), "something was collected and is in the ledger");
  const shown = await page.evaluate(() => ["coins", "stars"].map((id) => Number(document.getElementById(id).textContent)));
  assert.ok(shown[0] >= purse.coins && shown[1] >= purse.stars, `the page shows ${shown}`);
  assert.deepEqual(errors, []);
  const last = (await read(page)).purse;

  demo.removeAllListeners("exit");
  const ended = new Promise((resolve) => demo.once("exit", resolve));
  demo.kill("SIGKILL");
  await ended;
  assert.equal(await start(new URL(address).host), address);
  await page.reload();
  await page.click("#play");
  await until(page, () => globalThis.arena?.playing && globalThis.arena.snapshot().profile);
  const back = await read(page);
  assert.ok(back.purse.coins >= last.coins && back.purse.stars >= last.stars, `${JSON.stringify(back.purse)} after ${JSON.stringify(last)}`);
  assert.equal(back.profile.name, "Keeper");
  assert.equal(back.profile.games, 2, "it is the same player");
  await visitor.close();
});

test("the console lists sessions, entities and scenes", async () => {
  const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
  await page.goto(`${address}/console`);
  await until(page, () => document.querySelectorAll("section table").length >= 2);
  const text = await page.textContent("body");
  for (const word of ["sessions", "Entities", "Scenes"]) assert.ok(text.includes(word), `the console says ${word}`);
  if (screenshots) await page.screenshot({ path: join(screenshots, "console.png") });
  await page.close();
});
