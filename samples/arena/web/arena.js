// The arena's page: joins, sends inputs, draws. The session reconnects and resumes by itself.
import { PassRefused, Session, decodeValue, encodeValue, guestGrant, methodId } from "/mainstay.js";
import { Mirror, View } from "/view.js";

const $ = (id) => document.getElementById(id);
const method = Object.fromEntries(
  ["play", "drop_me", "steer", "say", "respawn", "score", "view", "names", "left", "table", "own", "chat", "beaten",
    "purse", "profile", "wallet.purse", "wallet.buy_hat"]
    .map((name) => [name, methodId(name)]),
);

const HAT_COINS = 25;
const mirror = new Mirror();
const view = new View($("field"));
const game = {
  me: 0, edge: 900, playing: false, players: 0, resumes: 0, live: false,
  names: new Map(), purse: undefined, profile: undefined, score: { id: 0, points: 0, kills: 0, deaths: 0 },
  input: { x: 0, y: 0, angle: 0, fire: false },
};
let session, arena, avatar, lostAt = 0;

// ---- joining -------------------------------------------------------------------------------

// Who has the pass is the player: this browser comes back as the same one, also after the server was
// killed. A second tab plays as another guest, because an account plays in one place.
const PASS = "arena pass";
const isFirstTab = new Promise((tell) => {
  if (!navigator.locks) return tell(true);
  navigator.locks.request(PASS, { ifAvailable: true }, (lock) => {
    tell(lock !== null);
    return lock && new Promise(() => {});
  });
});

async function grant(name) {
  if (!(await isFirstTab)) return guestGrant(name);
  let granted;
  try {
    granted = await guestGrant(name, "", localStorage.getItem(PASS) ?? "");
  } catch (error) {
    if (!(error instanceof PassRefused)) throw error;
    feed("this server does not know you any more: you start anew");
    granted = await guestGrant(name);
  }
  localStorage.setItem(PASS, granted.pass);
  return granted;
}

$("name").value = sessionStorage.getItem("name") ?? localStorage.getItem("name") ?? "";
$("welcome").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = $("name").value.trim() || `Guest ${Math.floor(Math.random() * 900 + 100)}`;
  sessionStorage.setItem("name", name);
  localStorage.setItem("name", name);
  $("play").disabled = true;
  join(name).catch((error) => {
    $("play").disabled = false;
    feed(`could not join: ${error.message}`);
  });
});

async function join(name) {
  session?.close();
  session = new Session({ grant: () => grant(name), agent: "arena-page/1", renew: false });
  avatar = session.stream("avatar");
  arena = session.stream("arena");
  listen();
  await session.ready;
  const [me, edge] = decodeValue(await avatar.request(method.play, encodeValue([name, 250])));
  Object.assign(game, { me, edge, playing: true });
  $("welcome").hidden = true;
  $("welcome").style.display = "none";
  $("field").focus();
  purse(decodeValue(await avatar.request(method["wallet.purse"], encodeValue([]))));
  const { games, kills } = (game.profile = await profile());
  if (games > 1) feed(`welcome back: game ${games}, ${kills} beaten so far`);
}

async function profile() {
  const [name, games, kills, deaths, points] = decodeValue(await avatar.request(method.profile, encodeValue([])));
  return { name, games, kills, deaths, points };
}

function listen() {
  session.on("connected", ({ resumed }) => {
    game.live = true;
    show("state", "connected", "ok");
    $("banner").hidden = true;
    if (resumed) {
      game.resumes += 1;
      $("resumes").textContent = game.resumes;
      feed(`session resumed after ${Math.round(performance.now() - lostAt)} ms`);
    }
    session.measure();
  });
  session.on("lost", () => {
    game.live = false;
    lostAt = performance.now();
    show("state", "reconnecting", "away");
    banner("connection lost – resuming");
  });
  session.on("ended", ({ end }) => {
    game.live = game.playing = false;
    show("state", "ended", "away");
    banner(`session ended (${end.kind}) – reload to play again`);
  });
  arena.on(method.view, (body) => {
    const [packet] = decodeValue(body);
    mirror.apply(packet, performance.now());
  });
  arena.on(method.own, (body) => {
    const [[id, points, kills, deaths]] = decodeValue(body);
    game.score = { id, points, kills, deaths };
    $("own").replaceChildren(...cells(["you", `${kills} / ${deaths}`, points]));
  });
  avatar.on(method.purse, (body) => purse(decodeValue(body)[0]));
  arena.on(method.names, (body) => learn(decodeValue(body)[0]));
  arena.on(method.beaten, (body) => beaten(...decodeValue(body)));
  const group = session.group("arena");
  group.on(method.names, (body) => learn(decodeValue(body)[0]));
  group.on(method.left, (body) => game.names.delete(decodeValue(body)[0]));
  group.on(method.table, (body) => table(...decodeValue(body)));
  group.on(method.chat, (body) => chat(...decodeValue(body)));
}

// ---- what the server tells -----------------------------------------------------------------

function learn(names) {
  for (const [id, name] of names) game.names.set(id, name);
}

const nameOf = (id) => game.names.get(id) ?? `#${id}`;

function cells(values) {
  return values.map((value) => Object.assign(document.createElement("span"), { textContent: value }));
}

/** What one owns, as the server's ledger has it. */
function purse([coins, stars, hats]) {
  game.purse = { coins, stars, hats };
  for (const [id, count] of Object.entries(game.purse)) $(id).textContent = count;
  $("buy").disabled = coins < HAT_COINS;
}

/** What a purchase came to that was not made. */
const NOT_BOUGHT = [
  `a hat costs ${HAT_COINS} coins`,
  "the ledger is away just now – play on and ask again: nothing is lost, and you pay once",
];

let order;
async function buy() {
  // The same number until it is known what became of it: asking again buys no second hat.
  order ??= crypto.getRandomValues(new BigUint64Array(1))[0] >> 1n;
  try {
    purse(decodeValue(await avatar.request(method["wallet.buy_hat"], encodeValue([order]))));
    order = undefined;
    feed("a fine hat");
  } catch (error) {
    const why = error.problem === "app" ? NOT_BOUGHT[decodeValue(error.body)] : undefined;
    feed(`no hat: ${why ?? error.message}`);
  }
}

function table(rows, players) {
  game.players = players;
  $("table").replaceChildren(...rows.map(([id, points, kills, deaths]) => {
    const line = document.createElement("li");
    if (id === game.me) line.className = "me";
    line.append(...cells([nameOf(id), `${kills} / ${deaths}`, points]));
    return line;
  }));
  $("in-view").textContent =
    `${[...mirror.replicas.values()].filter((r) => r.kind === 0).length} of ${players}`;
}

function beaten(killer, victim) {
  const body = mirror.replicas.get(victim);
  if (body) view.burst(body.x, body.y, View.colour(body.colour));
  feed(killer === game.me ? `you beat ${nameOf(victim)}` : `${nameOf(killer)} beat you`);
}

function chat(from, text) {
  const line = document.createElement("li");
  line.append(Object.assign(document.createElement("b"), { textContent: from }), ` ${text}`);
  $("lines").append(line);
  while ($("lines").children.length > 7) $("lines").firstChild.remove();
}

function feed(text) {
  const line = Object.assign(document.createElement("div"), { textContent: text });
  $("feed").append(line);
  setTimeout(() => line.remove(), 4000);
}

function banner(text) {
  $("banner").textContent = text;
  $("banner").hidden = false;
}

function show(id, text, className) {
  $(id).textContent = text;
  $(id).className = className;
}

// ---- what the player wants -----------------------------------------------------------------

const held = new Set();
const keys = { w: "up", a: "left", s: "down", d: "right", ArrowUp: "up", ArrowLeft: "left", ArrowDown: "down", ArrowRight: "right" };

function steer() {
  game.input.x = held.has("right") - held.has("left");
  game.input.y = held.has("down") - held.has("up");
}

addEventListener("keydown", (event) => {
  if (event.target.tagName === "INPUT") return;
  if (event.key === "Enter") return $("say").focus();
  const way = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!way) return;
  event.preventDefault();
  held.add(way);
  steer();
});
addEventListener("keyup", (event) => {
  held.delete(keys[event.key.length === 1 ? event.key.toLowerCase() : event.key]);
  steer();
});
addEventListener("blur", () => {
  held.clear();
  game.input.fire = false;
  steer();
});
addEventListener("pointermove", (event) => { game.input.angle = view.aim(event.clientX, event.clientY); });
$("field").addEventListener("pointerdown", () => {
  document.activeElement?.blur();
  game.input.fire = true;
});
addEventListener("pointerup", () => { game.input.fire = false; });
$("say").addEventListener("keydown", (event) => {
  if (event.key === "Escape") return event.target.blur();
  if (event.key !== "Enter") return;
  const text = event.target.value.trim();
  event.target.value = "";
  event.target.blur();
  if (text) tell(arena, method.say, [text]);
});
$("cut").addEventListener("click", () => session?.cut());
$("buy").addEventListener("click", buy);
$("kick").addEventListener("click", () => tell(avatar, method.drop_me, []));

function tell(stream, id, values, options) {
  try {
    stream?.tell(id, encodeValue(values), options);
  } catch (error) {
    // Not bound just now (reconnecting): the next input counts, a chat line can be sent again.
    if (!options) feed(`not sent: ${error.message}`);
  }
}

// A page that is left is a player who has gone, not one to be waited for.
addEventListener("pagehide", () => session?.close());

let sent = "";
setInterval(() => {
  if (!game.playing || !game.live || !arena?.isBound) return;
  const { x, y, angle, fire } = game.input;
  const input = [mirror.step, x, y, angle, fire];
  // While nothing moves and nothing is seen, there is nothing to say.
  const text = input.join();
  if (text === sent) return;
  sent = text;
  tell(arena, method.steer, [input], { latest: "input" });
}, 50);

// ---- the panel and the picture -------------------------------------------------------------

let before = { bytesIn: 0, bytesOut: 0 };
setInterval(() => {
  const stats = session?.stats();
  if (!stats) return;
  $("rtt").textContent = stats.rtt === undefined ? "–" : stats.rtt.toFixed(1);
  $("rate-in").textContent = Math.max(0, stats.bytesIn - before.bytesIn).toLocaleString("en");
  $("rate-out").textContent = Math.max(0, stats.bytesOut - before.bytesOut).toLocaleString("en");
  before = stats;
  if (game.live) session.measure();
}, 1000);

let drawnAt = performance.now();
function frame(now) {
  const elapsed = Math.min(100, now - drawnAt);
  drawnAt = now;
  const me = mirror.replicas.get(game.me);
  view.predict(me, game.input, game.edge, elapsed);
  if (game.playing && game.live) {
    const dead = me && me.health === 0;
    if (dead) banner("beaten – back in a moment");
    else if (!$("banner").hidden) $("banner").hidden = true;
  }
  view.draw(mirror, game, now, elapsed);
  requestAnimationFrame(frame);
}
requestAnimationFrame(frame);

/** What tests look at. */
globalThis.arena = {
  get playing() { return game.playing; },
  profile,
  snapshot() {
    const me = mirror.replicas.get(game.me);
    const placed = (wanted) => [...mirror.replicas.values()].filter(wanted).map(({ id, x, y }) => ({ id, x, y }));
    const seen = placed((r) => r.kind === 0), pickups = placed((r) => r.kind > 1);
    return {
      me: game.me, logins: session?.stats()?.logins, x: me?.x, y: me?.y, points: game.score.points,
      purse: game.purse, profile: game.profile, players: game.players, resumes: game.resumes, live: game.live, step: mirror.step, seen, pickups,
    };
  },
};
