import assert from "node:assert/strict";
import { test } from "node:test";
import { Core, type CoreEvent } from "../src/core.ts";
import { CallError, endText, nextAfter } from "../src/error.ts";
import { Writer } from "../src/bytes.ts";
import { CloseCode, type DownFrame, Status, closeName, encodeDown } from "../src/frame.ts";
import { kindId } from "../src/ids.ts";
import type { Limits } from "../src/limits.ts";
import { CALL, ECHO, FAIL, FakeServer, HANDLE, MUTE, NOTE, PUSH, ROOM, STREAM, bytes, grant, text } from "./fake.ts";

/** A client, a server and the wire between them, on one clock that jumps. */
class Pair {
  core: Core;
  server = new FakeServer();
  now = 1_000;
  connection: number | undefined;
  connections = 0;
  refuses = false;
  /** Bytes that still pass, in both directions together, until the connection breaks. */
  budget = Infinity;
  moved = 0;
  piece = Infinity;
  events: CoreEvent[] = [];
  trace: string[] = [];

  constructor(limits: Partial<Limits> = {}) {
    this.core = new Core(grant("ticket"), { agent: "test", limits, random: () => 0.5 });
  }

  static up(limits: Partial<Limits> = {}): Pair {
    const pair = new Pair(limits);
    pair.core.start(pair.now);
    pair.settle();
    assert(pair.core.isConnected());
    return pair;
  }

  settle(): void {
    for (let moved = true; moved; ) {
      moved = false;
      for (let output; (output = this.core.pollOutput()); moved = true) {
        if (output.type === "flush") this.moveUp();
        else if (output.type === "close") this.drop();
        else if (this.refuses) this.core.handleClosed(this.now);
        else {
          this.connection = ++this.connections;
          this.server.open(this.connection, false);
          this.core.handleConnected(this.now, "tcp");
        }
      }
      moved = this.moveDown() || moved;
      for (let event; (event = this.core.pollEvent()); ) {
        this.events.push(event);
        this.note(event);
      }
    }
  }

  private drop(): void {
    if (this.connection !== undefined) this.server.close(this.connection);
    this.connection = undefined;
  }

  private pass(length: number): number {
    const passed = Math.min(length, this.budget);
    this.budget -= passed;
    this.moved += passed;
    return passed;
  }

  private breaks(): boolean {
    if (this.budget > 0 || this.connection === undefined) return false;
    this.budget = Infinity;
    this.drop();
    this.core.handleClosed(this.now);
    return true;
  }

  private pieces(all: Uint8Array, take: (piece: Uint8Array) => void): void {
    const step = Math.min(this.piece, Math.max(1, all.length));
    for (let at = 0; at < all.length; at += step) take(all.subarray(at, at + step));
  }

  private moveUp(): void {
    const all = this.core.takeOutgoing();
    const { connection } = this;
    if (connection === undefined) return;
    const passed = this.pass(all.length);
    this.pieces(all.subarray(0, passed), (piece) => this.server.handleBytes(connection, piece));
    this.breaks();
  }

  private moveDown(): boolean {
    if (this.connection === undefined) return false;
    const { bytes: all, closed } = this.server.takeOutput(this.connection);
    const passed = this.pass(all.length);
    this.pieces(all.subarray(0, passed), (piece) => this.core.handleBytes(this.now, piece));
    if (this.breaks()) return true;
    if (closed) {
      this.drop();
      this.core.handleClosed(this.now);
    }
    return closed || all.length > 0;
  }

  wait(span: number): void {
    this.settle();
    const end = this.now + span;
    for (let at; (at = this.core.pollTimeout()) !== undefined && at <= end; ) {
      this.now = Math.max(this.now, at);
      this.core.handleTimeout(this.now);
      this.settle();
    }
    this.now = end;
  }

  private note(event: CoreEvent): void {
    const say = (line: string): void => void this.trace.push(`${((this.now - 1_000) / 1_000).toFixed(1)}s ${line}`);
    switch (event.type) {
      case "reply": return say(`reply ${event.request} ${event.body ? text(event.body) : `failed: ${event.error?.problem}`}`);
      case "connected": return say(`connected resumed=${event.resumed}`);
      case "bound": return say(`bound ${event.stream}`);
      case "unbound": return say(`unbound ${event.stream} ${closeName(event.code)}`);
      case "push": return say(`push ${text(event.body)}`);
      case "cast": return say(`cast ${event.group} ${text(event.body)}`);
      case "joined": return say(`joined ${event.group}`);
      case "left": return say(`left ${event.group}`);
      case "rolledBack": return say(`rolled back ${event.durable}..${event.sent}`);
      case "refused": return say(`refused ${event.tell} ${event.status}`);
      case "unconfirmed": return say(`unconfirmed ${event.tell} ${event.sent ? "sent" : "not sent"}`);
      case "lost": return say(`lost: ${event.reason}`);
      case "retry": return say(`retry ${event.attempt} in ${Math.round(event.at - this.now)}ms`);
      case "ended": return say(`ended: ${endText(event.end)} -> ${nextAfter(event.end)}`);
      case "call":
        say(`call ${event.call} ${text(event.body)}`);
        this.core.answer(this.now, event.call, Status.Ok, bytes(`re ${text(event.body)}`));
        return;
    }
  }

  request(method: number, body: string): number {
    return this.core.request(this.now, STREAM, method, bytes(body));
  }

  tell(method: number, body: string): void {
    this.core.tell(this.now, STREAM, method, bytes(body));
  }

  act(line: string): void {
    const [verb, ...rest] = line.split(" ");
    const word = rest.join(" ");
    try {
      switch (verb) {
        case "start": return this.core.start(this.now);
        case "echo": return void this.request(ECHO, word);
        case "fail": return void this.request(FAIL, word);
        case "mute": return void this.request(MUTE, word);
        case "note": return this.tell(NOTE, word);
        case "push": return this.tell(PUSH, word);
        case "call": return this.tell(CALL, word);
        case "room": return this.tell(ROOM, word);
        case "publish": return this.core.publish(CALL);
        case "login": return this.core.login(this.now, grant(word));
        case "cut": return this.core.cut(this.now);
        case "hurry": return this.core.hurry(this.now);
        case "bye": return this.core.close();
        case "wait": return this.wait(Number(word));
        case "refuse": this.refuses = word !== "no"; return;
        case "hang": this.server.hangs = word !== "no"; return;
        case "forget": this.server.forgets = true; return;
        case "crash": return this.server.crash(word === "announced");
        case "unbind": return this.server.unbind();
        case "close": return this.server.closeAll(CloseCode[word as keyof typeof CloseCode]);
        case "log":
          for (const { epoch, method, body } of this.server.log) {
            this.trace.push(`  server ${epoch}: ${method === ECHO ? "echo" : "other"} ${body}`);
          }
          for (const { status, body } of this.server.answers) this.trace.push(`  answer ${status} ${body}`);
          return;
        default: throw new Error(`no verb ${verb}`);
      }
    } catch (error) {
      if (!(error instanceof CallError)) throw error;
      this.trace.push(`${verb} refused: ${error.problem}`);
    }
  }
}

function check(script: string, expected: string): void {
  const pair = new Pair();
  for (const line of script.split(";")) {
    pair.act(line.trim());
    pair.settle();
  }
  assert.deepEqual(pair.trace, expected.trim().split("\n").map((line) => line.replace(/^ {4}/, "")));
}

test("requests, tells, pushes, casts and calls pass", () => {
  check(
    "start; echo a; fail b; note c; push d; room e; call f; publish; call g; log",
    `
    0.0s connected resumed=false
    0.0s bound counter
    0.0s reply 1 a
    0.0s reply 2 failed: app
    0.0s push d
    0.0s joined room
    0.0s cast room e
    0.0s call 1 g
      server 1: echo a
      server 1: other b
      server 1: other c
      server 1: other d
      server 1: other e
      server 1: other f
      server 1: other g
      answer ${Status.UnknownMethod} 
      answer ${Status.Ok} re g`,
  );
});

test("a request before the binding waits for it", () => {
  check(
    "echo early; note early; start; log",
    `
    note refused: not bound
    0.0s connected resumed=false
    0.0s bound counter
    0.0s reply 1 early
      server 1: echo early`,
  );
});

test("a break resumes and sends again what was not applied", () => {
  check(
    "start; echo a; cut; echo b; note c; push d; wait 2000; log",
    `
    0.0s connected resumed=false
    0.0s bound counter
    0.0s reply 1 a
    0.0s lost: cut
    0.0s retry 1 in 600ms
    0.6s connected resumed=true
    0.6s reply 2 b
    0.6s push d
      server 1: echo a
      server 1: echo b
      server 1: other c
      server 1: other d`,
  );
});

test("a request that was never sent does not run later", () => {
  check(
    "start; refuse; cut; echo late; wait 5500; refuse no; wait 9000; echo next; log",
    `
    0.0s connected resumed=false
    0.0s bound counter
    0.0s lost: cut
    0.0s retry 1 in 600ms
    0.6s retry 2 in 1200ms
    1.8s retry 3 in 2400ms
    4.2s retry 4 in 4800ms
    5.0s reply 1 failed: not sent
    9.0s connected resumed=true
    14.5s reply 2 next
      server 1: echo next`,
  );
});

test("silence is noticed and requests end", () => {
  check(
    "start; hang; echo a; wait 30000; hang no; wait 20000; log",
    `
    0.0s connected resumed=false
    0.0s bound counter
    5.0s reply 1 failed: timeout
    18.0s lost: silent
    18.0s retry 1 in 600ms
    23.6s retry 2 in 1200ms
    29.8s retry 3 in 2400ms
    32.2s connected resumed=true
      server 1: echo a`,
  );
});

test("pauses grow until the tries are used up", () => {
  check(
    "refuse; start; wait 60000; echo late",
    `
    0.0s retry 2 in 600ms
    0.6s retry 3 in 1200ms
    1.8s retry 4 in 2400ms
    4.2s retry 5 in 4800ms
    9.0s retry 6 in 9600ms
    18.6s ended: no server answered -> later
    echo refused: ended`,
  );
});

test("close codes say what to do", () => {
  const up = "\n    0.0s connected resumed=false\n    0.0s bound counter\n";
  check(
    "start; close GoingAway; wait 2000",
    `${up}    0.0s lost: told GoingAway\n    0.0s retry 1 in 600ms\n    0.6s connected resumed=true`,
  );
  check(
    "start; close Limit; hurry; wait 2000",
    `${up}    0.0s lost: told Limit\n    0.0s retry 1 in 1200ms\n    0.0s connected resumed=true`,
  );
  check(
    "start; mute a; close Kicked; wait 2000",
    `${up}    0.0s reply 1 failed: ended\n    0.0s ended: closed by the server: Kicked by the test -> stop`,
  );
  check("start; close Replaced", `${up}    0.0s ended: closed by the server: Replaced by the test -> ask`);
  check("start; close Version", `${up}    0.0s ended: closed by the server: Version by the test -> update`);
  check("login bad", "    0.0s ended: closed by the server: Ticket refused -> login");
});

test("a lost session asks for a new login", () => {
  check(
    "start; forget; echo a; cut; mute b; wait 2000; login other; echo c",
    `
    0.0s connected resumed=false
    0.0s bound counter
    0.0s reply 1 a
    0.0s lost: cut
    0.0s retry 1 in 600ms
    0.6s reply 2 failed: ended
    0.6s ended: closed by the server: SessionLost refused -> login
    2.0s connected resumed=false
    2.0s bound counter
    2.0s reply 3 c`,
  );
});

test("a new epoch fails what was sent and renumbers the rest", () => {
  check(
    "start; echo a; mute b; cut; echo c; crash; wait 2000; echo d; log",
    `
    0.0s connected resumed=false
    0.0s bound counter
    0.0s reply 1 a
    0.0s lost: cut
    0.0s retry 1 in 600ms
    0.6s connected resumed=true
    0.6s rolled back 0..2
    0.6s reply 2 failed: rolled back
    0.6s bound counter
    0.6s reply 3 c
    2.0s reply 4 d
      server 1: echo a
      server 1: other b
      server 2: echo c
      server 2: echo d`,
  );
});

test("an unbound stream fails its requests", () => {
  check(
    "start; mute a; unbind; note b",
    `
    0.0s connected resumed=false
    0.0s bound counter
    0.0s reply 1 failed: refused
    0.0s unbound counter Goodbye
    note refused: not bound`,
  );
});

/** Sends a frame to the client. */
function down(pair: Pair, frame: DownFrame): void {
  const payload = new Writer();
  encodeDown(payload, frame);
  const out = new Writer();
  out.blob(payload.bytes());
  pair.core.handleBytes(pair.now, out.bytes());
}

function bound(pair: Pair, stream: number, name: string, epoch = 1n): void {
  down(pair, { type: "bound", stream, kind: kindId("arena"), epoch, name });
}

function joined(pair: Pair, stream: number, group: number, number: number): void {
  down(pair, { type: "joined", group, stream, kind: kindId("room"), number, name: `g${group}` });
}

function since(pair: Pair, start: number): string[] {
  pair.settle();
  return pair.trace.slice(start).map((line) => line.replace("0.0s ", ""));
}

/* A new owner announced its stream first, then the one before it announced its own, late: the
 * client took the old stream for the newest and spoke to nobody. */
test("a stream that is announced late does not take the place of the newer one", () => {
  const pair = Pair.up();
  const start = pair.trace.length;
  pair.server.hangs = true;
  bound(pair, 12, "moving");
  bound(pair, 11, "moving");
  down(pair, { type: "push", stream: 11, number: 1, ack: 0, method: PUSH, body: bytes("late") });
  pair.core.tell(pair.now, "moving", NOTE, bytes("to the newer"));
  down(pair, { type: "ackDown", stream: 12, applied: 1, durable: 1 });
  // Nothing was sent on the late one, and its end is none of the name's.
  down(pair, { type: "unbound", stream: 11, code: CloseCode.Unavailable });
  assert(pair.core.isBound("moving"));
  pair.connection = undefined;
  pair.core.tell(pair.now, "moving", NOTE, bytes("unheard"));
  down(pair, { type: "unbound", stream: 12, code: CloseCode.Goodbye });
  assert.deepEqual(since(pair, start), [
    "bound moving",
    "push late",
    "unconfirmed 2 sent",
    "unbound moving Goodbye",
  ]);
});

test("frames of streams that are not known are strays, not errors", () => {
  const pair = Pair.up();
  const [stream, number, ack] = [99, 4, 7];
  down(pair, { type: "unbound", stream, code: CloseCode.Goodbye });
  down(pair, { type: "resumed", stream, epoch: 1n, applied: 3, durable: 3 });
  down(pair, { type: "reply", stream, number, ack, request: 1, status: Status.Ok, body: bytes("") });
  down(pair, { type: "push", stream, number, ack, method: PUSH, body: bytes("") });
  down(pair, { type: "call", stream, number, ack, call: 1n, deadlineMs: 9, method: CALL, body: bytes("") });
  down(pair, { type: "ackDown", stream, applied: 3, durable: 3 });
  down(pair, { type: "fault", stream, number, status: Status.NotFound });
  down(pair, { type: "cast", group: 5, number, method: ROOM, body: bytes("") });
  joined(pair, stream, 5, 0);
  down(pair, { type: "left", group: 5, stream });
  pair.settle();
  assert(pair.core.isConnected());
  assert.equal(pair.core.stats().strays, 9);
});

test("every tell is confirmed or named", () => {
  const pair = Pair.up();
  const start = pair.trace.length;
  pair.tell(NOTE, "a");
  pair.settle();
  down(pair, { type: "ackDown", stream: HANDLE, applied: 1, durable: 1 });
  pair.tell(NOTE, "b");
  pair.settle();
  bound(pair, HANDLE + 1, STREAM);
  down(pair, { type: "unbound", stream: HANDLE, code: CloseCode.Unavailable });
  pair.connection = undefined;
  pair.tell(NOTE, "c");
  down(pair, { type: "fault", stream: HANDLE + 1, number: 1, status: Status.Busy });
  pair.core.cut(pair.now);
  pair.tell(NOTE, "d");
  pair.core.close();
  assert.deepEqual(since(pair, start), [
    `bound ${STREAM}`,
    "unconfirmed 2 sent",
    `refused 3 ${Status.Busy}`,
    "lost: cut",
    "retry 1 in 600ms",
    "unconfirmed 3 sent",
    "unconfirmed 4 not sent",
    "ended: logged out -> stop",
  ]);
});

test("a tell that was refused is named also after a break", () => {
  const pair = Pair.up();
  const start = pair.trace.length;
  pair.tell(NOTE, "a");
  pair.tell(NOTE, "b");
  const refused = (number: number, ack: number, request: number): DownFrame =>
    ({ type: "reply", stream: HANDLE, number, ack, request, status: Status.Busy, body: new Uint8Array(0) });
  down(pair, refused(1, 1, 1));
  down(pair, { type: "resumed", stream: HANDLE, epoch: 1n, applied: 2, durable: 2 });
  down(pair, refused(1, 2, 1));
  down(pair, refused(2, 2, 2));
  assert.deepEqual(since(pair, start), [`refused 1 ${Status.Busy}`, `refused 2 ${Status.Busy}`]);
});

test("memberships end with their stream", () => {
  const pair = Pair.up();
  const start = pair.trace.length;
  pair.server.hangs = true;
  bound(pair, 18, "s18");
  bound(pair, 19, "s19");
  joined(pair, 18, 1, 0);
  joined(pair, 18, 2, 0);
  joined(pair, 19, 2, 0);
  down(pair, { type: "unbound", stream: 18, code: CloseCode.Unavailable });
  // The name moves to another entity.
  bound(pair, 20, "s19");
  joined(pair, 20, 2, 0);
  for (const number of [1, 2, 2]) down(pair, { type: "cast", group: 2, number, method: ROOM, body: bytes(`${number}`) });
  joined(pair, 20, 2, 1);
  down(pair, { type: "cast", group: 2, number: 2, method: ROOM, body: bytes("again") });
  down(pair, { type: "left", group: 2, stream: 20 });
  assert.deepEqual(since(pair, start), [
    "bound s18",
    "bound s19",
    "joined g1",
    "joined g2",
    "joined g2",
    "left g1",
    "unbound s18 Unavailable",
    "left g2",
    "bound s19",
    "joined g2",
    "cast g2 1",
    "cast g2 2",
    "joined g2",
    "left g2",
  ]);
});

test("a resume names as many streams as it may and the oldest replaced ones give way", () => {
  const pair = Pair.up();
  pair.server.hangs = true;
  for (let stream = 20; stream < 60; stream++) bound(pair, stream, "moving");
  pair.server.hangs = false;
  pair.core.cut(pair.now);
  pair.wait(2_000);
  assert(pair.core.isConnected() && pair.core.isBound("moving") && pair.core.isBound(STREAM));
});

test("latest of a key replaces what waits", () => {
  const pair = Pair.up({ latestMax: 2 });
  for (let n = 0; n < 100; n++) pair.core.tellLatest(STREAM, NOTE, String(n % 2), bytes(` ${n}`));
  assert.throws(() => pair.core.tellLatest(STREAM, NOTE, "x", bytes("x")), { problem: "full" });
  pair.settle();
  assert.equal(pair.server.bodies(NOTE), " 98 99");
});

test("buffers are bounded", () => {
  const pair = Pair.up({ requestsMax: 2 });
  pair.server.hangs = true;
  for (let n = 0; n < 256; n++) pair.tell(NOTE, String(n));
  assert.throws(() => pair.tell(NOTE, "x"), { problem: "full" });
  assert.throws(() => pair.tell(NOTE, "x".repeat(70_000)), { problem: "too long" });
  const other = Pair.up({ requestsMax: 2 });
  const first = other.request(MUTE, "a");
  other.request(MUTE, "b");
  assert.throws(() => other.request(MUTE, "c"), { problem: "full" });
  other.core.cancel(first);
  other.settle();
  assert.equal(other.trace.at(-1), "0.0s reply 1 failed: timeout");
});

test("acknowledgements go out by count and by time, heartbeats keep the connection", () => {
  const pair = Pair.up();
  for (let n = 0; n < 40; n++) pair.tell(PUSH, String(n));
  pair.settle();
  const kept = () => [...pair.server.sessions.values()][0].outbound.size;
  assert.equal(kept(), 8);
  pair.wait(1_001);
  assert.equal(kept(), 0);
  pair.wait(600_000);
  const stats = pair.core.stats();
  assert.deepEqual([stats.losses, stats.logins, stats.rtt], [0, 1, 0]);
});

test("foreign bytes end the session and nothing else", () => {
  let seed = 1;
  const random = () => (seed = (Math.imul(seed, 1103515245) + 12345) & 0x7fffffff) >> 8;
  for (let round = 0; round < 2_000; round++) {
    const pair = Pair.up();
    const length = (random() % 64) + 1;
    pair.core.handleBytes(pair.now, Uint8Array.from({ length }, () => random() & 0xff));
    while (pair.core.pollOutput() || pair.core.pollEvent()) pair.core.takeOutgoing();
  }
  const pair = Pair.up();
  pair.core.handleBytes(pair.now, Uint8Array.of(0xff, 0xff, 0xff, 0x7f));
  assert(pair.core.isEnded());
});

/** Every kind of traffic that is kept over a break. */
function busy(killAfter: number, piece: number): Pair {
  const pair = new Pair({ triesMax: undefined });
  pair.budget = killAfter;
  pair.piece = piece;
  pair.core.publish(CALL);
  pair.request(ECHO, "0");
  pair.core.start(pair.now);
  pair.settle();
  for (let round = 1; round < 4; round++) {
    while (!pair.core.isBound(STREAM)) pair.wait(100);
    pair.request(ECHO, String(round));
    pair.tell(PUSH, String(round));
    pair.settle();
    pair.tell(ROOM, String(round));
    pair.tell(CALL, String(round));
    pair.request(FAIL, `f${round}`);
    pair.settle();
  }
  pair.wait(4_000);
  const context = `killed after ${killAfter} bytes:\n${pair.trace.join("\n")}`;
  const replies = pair.events.flatMap((event) => {
    if (event.type !== "reply") return [];
    return [`${event.request} ${text(event.body ?? event.error?.body ?? bytes(event.error?.problem ?? "?"))}`];
  });
  assert.deepEqual(replies, ["1 0", "2 1", "3 f1", "4 2", "5 f2", "6 3", "7 f3"], context);
  for (const method of [PUSH, ROOM, CALL]) assert.equal(pair.server.bodies(method), "123", context);
  const heard = (type: "push" | "cast") =>
    pair.events.map((event) => (event.type === type ? text(event.body) : "")).join("");
  assert.equal(heard("push"), "123", context);
  assert.equal(pair.server.answers.length, 3, context);
  // A cast that comes before its `joined` was heard is missed; what is heard is in order.
  assert("123".endsWith(heard("cast")), context);
  return pair;
}

test("a break between any two bytes loses and doubles nothing", () => {
  const whole = busy(Infinity, Infinity).moved;
  assert(whole > 300);
  for (let after = 1; after < whole; after++) busy(after, Infinity);
});

test("frames may be split at every byte", () => {
  for (const after of [Infinity, 100, 250]) busy(after, 1);
});
