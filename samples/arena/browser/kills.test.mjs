// Plays the arena in headless Chromium on the reference layout while each of its processes and servers is
// killed in turn: the page goes on, in the same session, with its score and its place.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";
import { chromium } from "playwright-core";

const root = new URL("../../..", import.meta.url).pathname;
const target = process.env.CARGO_TARGET_DIR ?? join(root, "target");
const command = process.env.REFERENCE ?? join(target, "release", "reference");
const screenshots = process.env.SCREENSHOT_DIR;
const skipped = process.env.MAINSTAY_SKIP_SERVERS === "1";

/** What is waited for takes longer only by a fault. */
const PATIENCE = 60_000;
/** Of the map. */
const MIDDLE = { x: 450, y: 450 };
const GAME = ["gate-1", "gate-2", "gate-3", "scene-1", "scene-2", "scene-3", "service-1", "service-2"];
const SERVERS = ["etcd-1", "etcd-2", "etcd-3", "nats", "postgres"];

let layout, folder, browser, page;
let said = "";
const listeners = new Set();

/** Waits until the layout has said `what` after the place `from` in all that it says. */
function saying(what, from = 0) {
  return new Promise((resolve, reject) => {
    const look = () => {
      const found = said.slice(from).match(what);
      if (!found) return;
      stop();
      resolve(found);
    };
    const late = setTimeout(() => {
      stop();
      reject(new Error(`it does not say ${what}: ${said.slice(-4000)}`));
    }, PATIENCE);
    const stop = () => (clearTimeout(late), listeners.delete(look));
    listeners.add(look);
    look();
  });
}

/** Kills or starts one of the layout. */
async function order(what, name) {
  const from = said.length;
  layout.stdin.write(`${what} ${name}\n`);
  const [line] = await saying(new RegExp(`^(${name} is (killed|back)|not done.*)$`, "m"), from);
  assert.ok(line.startsWith(name), line);
}

before(async () => {
  if (skipped) return;
  assert.ok(existsSync(command), `${command} is missing: run \`cargo build --release -p reference\` first`);
  folder = mkdtempSync(join(tmpdir(), "mainstay-kills-"));
  layout = spawn(command, ["--listen", "127.0.0.1:0", "--data", folder], { stdio: "pipe" });
  // By whole lines: what comes of the two in pieces would be mixed.
  for (const input of [layout.stdout, layout.stderr]) {
    createInterface({ input }).on("line", (line) => {
      said += `${line}\n`;
      for (const look of listeners) look();
    });
  }
  await saying(/(is ready: [^]*){3}/);
  const addresses = [...said.matchAll(/\[(gate-\d)\].*is ready: (http:\/\/[\w.:]+)/g)];
  browser = await chromium.launch({
    executablePath: "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
      "--disable-component-update", "--disable-sync"],
  });
  page = await browser.newPage({ viewport: { width: 1280, height: 800 } });
  await page.goto(addresses.find(([, name]) => name === "gate-1")[2]);
});

after(async () => {
  await browser?.close();
  if (layout && layout.exitCode === null) {
    const ended = new Promise((resolve) => layout.once("exit", resolve));
    layout.kill("SIGTERM");
    assert.equal(await ended, 0, "the layout ends cleanly on TERM");
  }
  if (folder) rmSync(folder, { recursive: true, force: true });
});

/** What the page's own player is told of its profile. A call may fail in the moment in which something goes away. */
async function profile() {
  const begun = performance.now();
  for (;;) {
    const [told, why] = await page.evaluate(() =>
      globalThis.arena.profile().then((profile) => [profile, ""], (error) => [null, error.message]));
    if (told) return told;
    assert.ok(performance.now() - begun < PATIENCE, `its profile is not told: ${why}`);
    await page.waitForTimeout(50);
  }
}

const read = () => page.evaluate(() => globalThis.arena.snapshot());
const until = (condition, value) => page.waitForFunction(condition, value, { timeout: PATIENCE, polling: 50 });

/** Comes in; the layout may be starting still. */
async function enter(name) {
  await page.fill("#name", name);
  const begun = performance.now();
  while (!(await page.evaluate(() => globalThis.arena?.playing))) {
    assert.ok(performance.now() - begun < PATIENCE, "nobody is let in");
    if (await page.isEnabled("#play")) await page.click("#play");
    await page.waitForTimeout(100);
  }
  await until(() => globalThis.arena.snapshot().x !== undefined);
}

/** Walks to the nearest pick-up, or to the middle where none is in view, until something was picked up. */
async function collect() {
  const { points } = await read();
  const begun = performance.now();
  for (;;) {
    const now = await read();
    if (now.points > points) return;
    assert.ok(performance.now() - begun < PATIENCE, "something was picked up");
    const far = ({ x, y }) => Math.hypot(x - now.x, y - now.y);
    const goal = now.pickups.reduce((best, other) => (far(other) < far(best) ? other : best), now.pickups[0] ?? MIDDLE);
    const [x, y] = [goal.x - now.x, goal.y - now.y];
    const key = Math.abs(x) > Math.abs(y) ? (x > 0 ? "d" : "a") : y > 0 ? "s" : "w";
    await page.keyboard.down(key);
    await page.waitForTimeout(100);
    await page.keyboard.up(key);
  }
}

/** Stands still for as long as what happened may take to be saved. */
async function rest() {
  const { step } = await read();
  await until((step) => globalThis.arena.snapshot().step >= step + 45, step);
  return read();
}

/** The page plays: steps come after `then`, what the player wants happens, and the avatar answers. */
async function plays(then) {
  await until((step) => globalThis.arena.snapshot().live && globalThis.arena.snapshot().step > step + 20, then.step);
  const seen = await read();
  const key = seen.x > 450 ? "a" : "d";
  await page.keyboard.down(key);
  await until((x) => Math.abs(globalThis.arena.snapshot().x - x) > 20, seen.x);
  await page.keyboard.up(key);
  await profile();
  return seen;
}

/** It is the same session and the same player, with all that was reached. */
async function goesOn(name, before, seen) {
  const now = await read();
  assert.equal(now.logins, 1, `${name}: nobody logs in again`);
  assert.equal(now.me, before.me, `${name}: the same player of the same arena`);
  assert.ok(now.points >= before.points, `${name}: ${now.points} points after ${before.points}`);
  const { games } = await profile();
  assert.equal(games, 1, `${name}: the arena was not entered anew`);
  const way = Math.hypot(seen.x - before.x, seen.y - before.y);
  assert.ok(way < 5, `${name}: the player stands ${way} units from where it stood`);
}

/** Asks for a hat; gives what the player is told. In one step: what the player is told of its purse meanwhile
 * disables the button. */
async function buy() {
  await page.evaluate(() => {
    const button = document.getElementById("buy");
    document.getElementById("feed").replaceChildren();
    button.disabled = false;
    button.click();
  });
  const told = await until(() => /[^]*hat[^]*/.exec(document.getElementById("feed").textContent)?.[0]);
  return told.jsonValue();
}

/** A test beside whose failure stands what the layout said last. */
const told = (body) => async (t) => {
  try {
    await body(t);
  } catch (error) {
    console.error(said.slice(-20_000));
    throw error;
  }
};

test("the page plays on while each process and server is killed in turn", { skip: skipped, timeout: 900_000 }, told(async (t) => {
  const errors = [];
  page.on("pageerror", (error) => errors.push(error.message));
  await enter("Survivor");
  await collect();
  const hit = new Set();
  for (const name of [...GAME, ...SERVERS]) {
    const before = await rest();
    await order("kill", name);
    const begun = performance.now();
    const seen = await plays(await read());
    await goesOn(name, before, seen);
    // An arena that goes on elsewhere counts its steps from further on.
    if (seen.step > before.step + 150) hit.add(name.replace(/-.*/, ""));
    if (seen.resumes > before.resumes) hit.add(name.replace(/-.*/, ""));
    t.diagnostic(`${name}: seen to play ${Math.round(performance.now() - begun)} ms after it was killed`);
    if (GAME.includes(name)) await saying(new RegExp(`^${name} has ended: signal: 9`, "m"));
    else await order("start", name);
  }
  assert.ok(hit.has("gate") && hit.has("scene"), `the page's own gate and arena were among them: ${[...hit]}`);
  assert.deepEqual(errors, []);
}));

test("without its only database the page plays on in memory, and says what cannot be", { skip: skipped, timeout: 300_000 }, told(async (t) => {
  if (!(await page.evaluate(() => globalThis.arena?.playing))) await enter("Survivor");
  assert.match(await buy(), /a hat costs|a fine hat/);
  const before = await rest();
  await order("kill", "redis");
  const gone = performance.now();
  assert.match(await buy(), /the ledger is away/);
  if (screenshots) await page.screenshot({ path: join(screenshots, "ledger-away.png") });
  await goesOn("redis", before, await plays(await read()));
  // For longer than a node that is alone in this would go on.
  while (performance.now() - gone < 9_000) {
    const then = await rest();
    await goesOn("redis", then, await plays(await read()));
  }
  const last = await rest();
  assert.match(await buy(), /the ledger is away/);
  await order("start", "redis");
  const back = performance.now();
  let told = await buy();
  while (/the ledger is away|no answer/.test(told)) {
    assert.ok(performance.now() - back < PATIENCE, told);
    // As often as its rate allows; more is refused.
    await page.waitForTimeout(250);
    told = await buy();
  }
  assert.match(told, /a hat costs|a fine hat/);
  t.diagnostic(`the ledger answers ${Math.round(performance.now() - back)} ms after it was started`);
  await goesOn("redis", last, await plays(await read()));
}));
