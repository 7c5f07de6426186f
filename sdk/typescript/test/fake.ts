/** A server in one value, as `client::fake` on the Rust side: strict where a gate is. */

import { Writer } from "../src/bytes.ts";
import {
  CloseCode,
  type DownFrame,
  PREFACE,
  type Seen,
  type SeenGroup,
  Status,
  type UpFrame,
  VERSION,
  decodeUp,
  encodeDown,
  splitFrame,
} from "../src/frame.ts";
import { kindId, methodId } from "../src/ids.ts";
import { Inbound, Outbound } from "../src/numbers.ts";
import { hmacSha256 } from "../src/sha256.ts";
import { type Grant, loginProof, resumeProof } from "../src/ticket.ts";

export const STREAM = "counter";
export const ECHO = methodId("echo");
export const FAIL = methodId("fail");
export const MUTE = methodId("mute");
export const NOTE = methodId("note");
export const PUSH = methodId("push");
export const CALL = methodId("call");
export const ROOM = methodId("room");

export const HANDLE = 7;
const GROUP = 3;

export const text = (body: Uint8Array): string => new TextDecoder().decode(body);
export const bytes = (words: string): Uint8Array => new TextEncoder().encode(words);

/** A grant whose secret the fake can find again from the ticket. */
export function grant(ticket: string): Grant {
  return { ticket: bytes(ticket), secret: hmacSha256(bytes("fake"), bytes(ticket)) };
}

type Down =
  | { type: "reply"; request: number; status: Status; body: Uint8Array }
  | { type: "push"; body: Uint8Array }
  | { type: "call"; call: bigint; body: Uint8Array };

interface Session {
  generation: number;
  epoch: bigint;
  connection: number | undefined;
  outbound: Outbound<Down>;
  inbound: Inbound;
  calls: bigint;
  casts: Uint8Array[];
  inGroup: boolean;
}

interface Connection {
  inbox: Uint8Array;
  outbox: Writer;
  greeted: boolean;
  nonce: Uint8Array;
  ticket: string | undefined;
  closed: boolean;
}

function assert(good: boolean, message: string): asserts good {
  if (!good) throw new Error(`the client broke the protocol: ${message}`);
}

function fresh(): Session {
  return {
    generation: 0,
    epoch: 1n,
    connection: undefined,
    outbound: new Outbound(256, 65536),
    inbound: new Inbound(),
    calls: 0n,
    casts: [],
    inGroup: false,
  };
}

export class FakeServer {
  connections = new Map<number, Connection>();
  sessions = new Map<string, Session>();
  log: { epoch: bigint; method: number; body: string }[] = [];
  answers: { status: Status; body: string }[] = [];
  forgets = false;
  hangs = false;

  open(id: number, webSocket: boolean): void {
    this.connections.set(id, {
      inbox: new Uint8Array(0),
      outbox: new Writer(),
      greeted: webSocket,
      nonce: new Uint8Array(16).fill(id),
      ticket: undefined,
      closed: false,
    });
  }

  close(id: number): void {
    this.connections.delete(id);
    for (const session of this.sessions.values()) if (session.connection === id) session.connection = undefined;
  }

  takeOutput(id: number): { bytes: Uint8Array; closed: boolean } {
    const known = this.connections.get(id);
    if (this.hangs) return { bytes: new Uint8Array(0), closed: false };
    return known ? { bytes: known.outbox.take(), closed: known.closed } : { bytes: new Uint8Array(0), closed: true };
  }

  bound(): number[] {
    return [...this.sessions.values()].flatMap((session) => session.connection ?? []);
  }

  closeAll(code: CloseCode): void {
    for (const id of this.bound()) {
      this.say(id, { type: "close", code, reason: "by the test" });
      this.connections.get(id)!.closed = true;
    }
  }

  crash(announce: boolean): void {
    for (const [ticket, old] of this.sessions) {
      const { generation, connection } = old;
      const session = { ...fresh(), generation, connection, epoch: old.epoch + 1n };
      this.sessions.set(ticket, session);
      if (announce && connection !== undefined) this.bind(connection, session);
    }
  }

  unbind(): void {
    for (const id of this.bound()) this.say(id, { type: "unbound", stream: HANDLE, code: CloseCode.Goodbye });
  }

  bodies(method: number): string {
    return this.log.filter((entry) => entry.method === method).map((entry) => entry.body).join("");
  }

  handleBytes(id: number, input: Uint8Array): void {
    const known = this.connections.get(id);
    if (!known) return;
    const inbox = new Uint8Array(known.inbox.length + input.length);
    inbox.set(known.inbox);
    inbox.set(input, known.inbox.length);
    let at = 0;
    if (!known.greeted) {
      if (inbox.length < PREFACE.length) {
        known.inbox = inbox;
        return;
      }
      assert(PREFACE.every((byte, index) => inbox[index] === byte), "no preface");
      known.greeted = true;
      at = PREFACE.length;
    }
    for (;;) {
      const split = splitFrame(inbox, at, 65536);
      if (!split) break;
      at = split.end;
      this.handleFrame(id, known, decodeUp(split.payload));
    }
    known.inbox = inbox.slice(at);
  }

  private say(id: number, frame: DownFrame): void {
    const known = this.connections.get(id);
    if (!known || known.closed) return;
    const payload = new Writer();
    encodeDown(payload, frame);
    known.outbox.varint(payload.length);
    known.outbox.put(payload.bytes());
  }

  private refuse(id: number, known: Connection, code: CloseCode): void {
    this.say(id, { type: "close", code, reason: "refused" });
    known.closed = true;
  }

  private handleFrame(id: number, known: Connection, frame: UpFrame): void {
    if (known.closed) return;
    switch (frame.type) {
      case "hello":
        assert(frame.version === VERSION, "version");
        this.say(id, { type: "challenge", version: VERSION, features: 0n, nonce: known.nonce, wallMs: 1000 });
        return;
      case "login": {
        const ticket = text(frame.ticket);
        const proof = loginProof(grant(ticket).secret, known.nonce, frame.ticket);
        assert(proof.every((byte, index) => frame.proof[index] === byte), "login proof");
        if (ticket.startsWith("bad")) return this.refuse(id, known, CloseCode.Ticket);
        if (!this.sessions.has(ticket)) this.sessions.set(ticket, fresh());
        this.admit(id, known, ticket, undefined, []);
        return;
      }
      case "resume": {
        const ticket = text(frame.token);
        const session = this.sessions.get(ticket);
        const proof = resumeProof(grant(ticket).secret, known.nonce, frame.token, frame.generation);
        assert(proof.every((byte, index) => frame.proof[index] === byte), "resume proof");
        if (this.forgets || !session || frame.generation <= session.generation) {
          return this.refuse(id, known, CloseCode.SessionLost);
        }
        session.generation = frame.generation;
        this.admit(id, known, ticket, frame.streams, frame.groups);
        return;
      }
      case "ping":
        this.say(id, { type: "pong", token: frame.token });
        return;
      case "pong":
        return;
      case "close":
        assert(frame.code === CloseCode.Goodbye, "it found our frames wrong");
        this.sessions.delete(known.ticket ?? "");
        known.closed = true;
        return;
      default:
        this.handleStream(id, known, frame);
    }
  }

  private admit(id: number, known: Connection, ticket: string, streams: Seen[] | undefined, groups: SeenGroup[]): void {
    known.ticket = ticket;
    const session = this.sessions.get(ticket)!;
    session.generation = Math.max(session.generation, 1);
    session.connection = id;
    this.say(id, {
      type: "welcome",
      session: new Uint8Array(16),
      generation: session.generation,
      resumed: streams !== undefined,
      token: bytes(ticket),
      resumeWindowMs: 60_000,
      heartbeatMs: 6_000,
      frameBytesMax: 65536,
    });
    this.bind(id, session);
    if (!streams) return;
    const seen = streams.find((stream) => stream.handle === HANDLE)?.number ?? 0;
    if (seen <= session.outbound.last) session.outbound.acknowledge(seen);
    const applied = session.inbound.tell();
    this.say(id, { type: "resumed", stream: HANDLE, epoch: session.epoch, applied, durable: applied });
    for (const [number, down] of session.outbound.kept()) this.sayDown(id, down, number, applied);
    const cast = groups.find((seen) => seen.group === GROUP)?.number;
    if (!session.inGroup || cast === undefined) return;
    session.casts.slice(cast).forEach((body, index) => {
      this.say(id, { type: "cast", group: GROUP, number: cast + index + 1, method: ROOM, body });
    });
  }

  private bind(id: number, session: Session): void {
    this.say(id, { type: "bound", stream: HANDLE, kind: kindId(STREAM), epoch: session.epoch, name: STREAM });
  }

  private sayDown(id: number, down: Down, number: number, ack: number): void {
    const stream = HANDLE;
    if (down.type === "reply") this.say(id, { ...down, stream, number, ack });
    else if (down.type === "push") this.say(id, { ...down, stream, number, ack, method: PUSH });
    else this.say(id, { ...down, stream, number, ack, method: CALL, deadlineMs: 2_000 });
  }

  private send(id: number, session: Session, down: Down): void {
    const number = session.outbound.push(down, 1);
    this.sayDown(id, down, number, session.inbound.tell());
  }

  private handleStream(id: number, known: Connection, frame: UpFrame): void {
    if (frame.type !== "tell" && frame.type !== "request" && frame.type !== "answer" && frame.type !== "ack") return;
    const session = this.sessions.get(known.ticket ?? "");
    assert(session !== undefined && frame.stream === HANDLE, "a frame of no stream");
    assert(session.outbound.acknowledge(frame.ack), "it saw what was never sent");
    if (frame.type === "ack") return;
    if (frame.number !== 0) {
      const arrival = session.inbound.arrive(frame.number);
      assert(arrival !== "gap", `a gap before ${frame.number}`);
      if (arrival === "duplicate") return;
      if (session.inbound.isDue()) {
        const applied = session.inbound.tell();
        this.say(id, { type: "ackDown", stream: HANDLE, applied, durable: applied });
      }
    }
    if (frame.type === "answer") {
      if (frame.call !== 0n) this.answers.push({ status: frame.status, body: text(frame.body) });
      return;
    }
    const body = frame.body.slice();
    this.log.push({ epoch: session.epoch, method: frame.method, body: text(body) });
    if (frame.type === "request") {
      if (frame.method === MUTE) return;
      const status = frame.method === ECHO ? Status.Ok : frame.method === FAIL ? Status.App : Status.UnknownMethod;
      this.send(id, session, { type: "reply", request: frame.number, status, body });
    } else if (frame.method === PUSH) this.send(id, session, { type: "push", body });
    else if (frame.method === CALL) this.send(id, session, { type: "call", call: ++session.calls, body });
    else if (frame.method === ROOM) {
      session.casts.push(body);
      const number = session.casts.length;
      if (!session.inGroup) {
        session.inGroup = true;
        this.say(id, { type: "joined", group: GROUP, stream: HANDLE, kind: kindId("room"), number: number - 1, name: "room" });
      }
      this.say(id, { type: "cast", group: GROUP, number, method: ROOM, body });
    }
  }
}
