import assert from "node:assert/strict";
import { type AddressInfo, type Server, type Socket, createServer } from "node:net";
import { test } from "node:test";
import { CloseCode } from "../src/frame.ts";
import { AppError, CallError, DecodeError, Session, type SessionOptions } from "../src/index.ts";
import { CALL, ECHO, FAIL, FakeServer, MUTE, NOTE, PUSH, ROOM, STREAM, bytes, grant, text } from "./fake.ts";

/** The fake behind a real port. */
class Gate {
  readonly server = new FakeServer();
  private readonly sockets = new Map<number, Socket>();
  private made = 0;
  private readonly listener: Server;
  url = "";

  constructor() {
    this.listener = createServer((socket) => {
      const id = ++this.made;
      this.sockets.set(id, socket);
      this.server.open(id, false);
      socket.on("data", (data) => {
        this.server.handleBytes(id, data);
        this.flush();
      });
      socket.on("error", () => {});
      socket.on("close", () => {
        this.server.close(id);
        this.sockets.delete(id);
      });
    });
  }

  async open(): Promise<this> {
    await new Promise<void>((done) => this.listener.listen(0, "127.0.0.1", done));
    this.url = `tcp://127.0.0.1:${(this.listener.address() as AddressInfo).port}`;
    return this;
  }

  flush(): void {
    for (const [id, socket] of this.sockets) {
      const { bytes, closed } = this.server.takeOutput(id);
      if (bytes.length > 0) socket.write(bytes);
      if (closed) socket.end();
    }
  }

  async close(): Promise<void> {
    for (const socket of this.sockets.values()) socket.destroy();
    await new Promise((done) => this.listener.close(done));
  }
}

const QUICK = { retryFirstMs: 10, retryMaxMs: 50 };

async function play(run: (gate: Gate, options: SessionOptions) => Promise<void>): Promise<void> {
  const gate = await new Gate().open();
  try {
    await run(gate, { url: gate.url, grant: grant("ada"), limits: QUICK });
  } finally {
    await gate.close();
  }
}

function next<T extends Parameters<Session["on"]>[0]>(session: Session, type: T): Promise<unknown> {
  return new Promise((resolve) => {
    const stop = session.on(type, (event) => {
      stop();
      resolve(event);
    });
  });
}

test("a session plays, is cut, and goes on", () =>
  play(async (gate, options) => {
    const session = new Session(options);
    const stream = session.stream(STREAM);
    const early = stream.request(ECHO, bytes("early"));
    assert.throws(() => stream.tell(NOTE, bytes("x")), { problem: "not bound" });
    await session.ready;
    assert.equal(text(await early), "early");
    await assert.rejects(stream.request(FAIL, bytes("no")), (error: CallError) => text(error.body!) === "no");

    const heard: string[] = [];
    const stop = stream.on(PUSH, (body) => heard.push(text(body)));
    session.group("room").on(ROOM, (body) => heard.push(`room ${text(body)}`));
    const echoes = Array.from({ length: 100 }, (_, n) => {
      if (n === 50) session.cut();
      return stream.request(ECHO, bytes(String(n)));
    });
    stream.tell(PUSH, bytes("1"));
    stream.tell(ROOM, bytes("2"));
    stream.tell(NOTE, bytes("old"), { latest: "aim" });
    stream.tell(NOTE, bytes("new"), { latest: "aim" });
    assert.equal((await Promise.all(echoes)).map(text).join(), [...Array(100).keys()].join());
    await stream.request(ECHO, bytes("after"));
    assert.deepEqual(heard, ["1", "room 2"]);
    assert(session.group("room").isMember);
    assert.equal(gate.server.bodies(NOTE), "new");
    const stats = session.stats()!;
    assert.deepEqual([stats.logins, stats.resumes, stats.losses], [1, 1, 1]);
    stop();

    session.close();
    await assert.rejects(stream.request(ECHO, bytes("late")), { problem: "ended" });
    assert.equal(session.state, "ended");
    while (gate.server.sessions.size > 0) await new Promise(setImmediate);
  }));

test("the server calls published methods and gets answers and errors", () =>
  play(async (gate, options) => {
    const session = new Session(options);
    const stream = session.stream(STREAM);
    await session.ready;
    await stream.request(ECHO, bytes("bound"));
    stream.tell(CALL, bytes("unpublished"));
    await stream.request(ECHO, bytes("1"));
    stream.answer(CALL, async (body) => {
      const word = text(body);
      if (word === "app") throw new AppError(bytes("own"));
      if (word === "bad") throw new DecodeError("wrong");
      return bytes(`re ${word}`);
    });
    for (const word of ["fine", "app", "bad"]) stream.tell(CALL, bytes(word));
    while (gate.server.answers.length < 4) await stream.request(ECHO, bytes("2"));
    assert.deepEqual(
      gate.server.answers.map(({ status, body }) => `${status} ${body}`.trim()),
      ["11", "0 re fine", "1 own", "7"],
    );
    session.close();
  }));

test("requests end by deadline and by signal", () =>
  play(async (_gate, options) => {
    const session = new Session(options);
    const stream = session.stream(STREAM);
    await assert.rejects(stream.request(MUTE, bytes("a"), { deadlineMs: 20 }), { problem: /timeout|not sent/ });
    await session.ready;
    const abort = new AbortController();
    const request = stream.request(MUTE, bytes("b"), { signal: abort.signal });
    abort.abort();
    await assert.rejects(request, { problem: "timeout" });
    await assert.rejects(stream.request(MUTE, bytes("c"), { signal: AbortSignal.abort() }), { problem: "timeout" });
    session.close();
  }));

test("a lost session logs in again with a new grant", () =>
  play(async (gate, options) => {
    let logins = 0;
    const session = new Session({ ...options, grant: async () => grant(`login ${++logins}`) });
    await session.ready;
    gate.server.forgets = true;
    const lost = session.stream(STREAM).request(MUTE, bytes("x"));
    const again = next(session, "connected");
    session.cut();
    await assert.rejects(lost, { problem: "ended" });
    assert.deepEqual(await again, { resumed: false });
    assert.equal(logins, 2);
    assert.equal(text(await session.stream(STREAM).request(ECHO, bytes("fine"))), "fine");
    gate.server.closeAll(CloseCode.Kicked);
    gate.flush();
    const { end } = (await next(session, "ended")) as { end: { kind: string; code: CloseCode } };
    assert.deepEqual([end.kind, end.code], ["server", CloseCode.Kicked]);
  }));

test("a session that cannot begin says why", async () => {
  await play(async (_gate, options) => {
    const refused = new Session({ ...options, grant: grant("bad") });
    await assert.rejects(refused.ready, /Ticket/);
    const noTicket = new Session({
      ...options,
      grant: () => Promise.reject(new Error("the login service is closed")),
    });
    const waiting = noTicket.stream(STREAM).request(ECHO, bytes("x"));
    await assert.rejects(noTicket.ready, /the login service is closed/);
    await assert.rejects(waiting, { problem: "ended" });
  });
  const nobody = new Session({ url: "tcp://127.0.0.1:1", grant: grant("ada"), limits: { ...QUICK, triesMax: 2 } });
  await assert.rejects(nobody.ready, /no server answered/);
  assert.throws(() => new Session({ grant: grant("ada") }), /say which url/);
});
