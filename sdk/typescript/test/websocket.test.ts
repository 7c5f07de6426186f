/** The driver for browsers, over a stand-in for their WebSocket. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { Session } from "../src/index.ts";
import { ECHO, FakeServer, STREAM, bytes, grant, text } from "./fake.ts";

const server = new FakeServer();
const made: FakeSocket[] = [];

/** As much of a browser's WebSocket as the SDK uses. */
class FakeSocket {
  static readonly OPEN = 1;
  readyState = 0;
  binaryType = "blob";
  bufferedAmount = 0;
  onopen?: () => void;
  onmessage?: (event: { data: ArrayBuffer }) => void;
  onclose?: () => void;
  readonly id = made.push(this);
  readonly url: string;
  readonly protocol: string;

  constructor(url: string, protocol: string) {
    this.url = url;
    this.protocol = protocol;
    setImmediate(() => {
      server.open(this.id, true);
      this.readyState = FakeSocket.OPEN;
      this.onopen?.();
    });
  }

  send(data: Uint8Array): void {
    assert.equal(this.readyState, FakeSocket.OPEN);
    server.handleBytes(this.id, data.slice());
    setImmediate(() => this.deliver());
  }

  private deliver(): void {
    const { bytes, closed } = server.takeOutput(this.id);
    assert.equal(this.binaryType, "arraybuffer");
    // Messages are cut where frames are not.
    for (let at = 0; at < bytes.length; at += 5) this.onmessage?.({ data: bytes.slice(at, at + 5).buffer });
    if (closed) this.close();
  }

  close(): void {
    if (this.readyState > FakeSocket.OPEN) return;
    this.readyState = 3;
    server.close(this.id);
    setImmediate(() => this.onclose?.());
  }
}

test("a page plays over WebSocket, at its own origin, and resumes", async () => {
  const globals = globalThis as unknown as Record<string, unknown>;
  globals.WebSocket = FakeSocket;
  globals.location = { protocol: "https:", host: "game.example" };
  try {
    const session = new Session({ grant: grant("ada"), limits: { retryFirstMs: 5 } });
    await session.ready;
    assert.deepEqual([made[0].url, made[0].protocol], ["wss://game.example/play", "mainstay.1"]);
    const stream = session.stream(STREAM);
    assert.equal(text(await stream.request(ECHO, bytes("a"))), "a");

    // The connection breaks by itself; a request made meanwhile goes on after the resume.
    made[0].close();
    assert.equal(text(await stream.request(ECHO, bytes("b"))), "b");
    assert.deepEqual([made.length, session.stats()!.resumes], [2, 1]);

    // While the socket is full, states replace each other and only the newest goes out.
    made[1].bufferedAmount = 1 << 20;
    stream.tell(ECHO, bytes("old"), { latest: 1 });
    await new Promise((resolve) => setTimeout(resolve, 20));
    stream.tell(ECHO, bytes("new"), { latest: 1 });
    made[1].bufferedAmount = 0;
    while (server.log.at(-1)?.body !== "new") await new Promise((resolve) => setTimeout(resolve, 5));
    assert(!server.log.some(({ body }) => body === "old"));

    session.close();
    assert.equal(server.sessions.size, 0);
  } finally {
    delete globals.WebSocket;
    delete globals.location;
  }
});
