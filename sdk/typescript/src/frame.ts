/** The frames between a client and a gate; docs/protocol.md describes them byte by byte. */

import { Reader, WireError, Writer, textBytes } from "./bytes.ts";

/** The protocol version that this SDK speaks. */
export const VERSION = 1;

/** First bytes of a plain TCP connection. */
export const PREFACE = textBytes("MSY1");

/** The longest text field, in bytes. */
export const TEXT_BYTES_MAX = 256;

/** The longest ticket, in bytes. */
export const TICKET_BYTES_MAX = 1024;

/** The longest resume token, in bytes. */
export const TOKEN_BYTES_MAX = 256;

/** The most streams that one `resume` frame lists. */
export const RESUME_STREAMS_MAX = 32;

/** The most memberships in groups that one `resume` frame lists. */
export const RESUME_GROUPS_MAX = 160;

const HEAD_FLAGS = 0xe0;

/** Head bytes. */
const Head = {
  HELLO: 0x01,
  LOGIN: 0x02,
  RESUME: 0x03,
  TELL: 0x04,
  REQUEST: 0x05,
  ANSWER: 0x06,
  ACK_UP: 0x07,
  PING: 0x08,
  PONG: 0x09,
  CLOSE: 0x0a,
  CHALLENGE: 0x11,
  WELCOME: 0x12,
  BOUND: 0x13,
  UNBOUND: 0x14,
  RESUMED: 0x15,
  REPLY: 0x16,
  PUSH: 0x17,
  CALL: 0x18,
  ACK_DOWN: 0x19,
  CAST: 0x1a,
  JOINED: 0x1b,
  LEFT: 0x1c,
  FAULT: 0x1d,
} as const;

/** How a call or request ended. */
export const Status = {
  Ok: 0,
  /** The method's own error; the body carries it. */
  App: 1,
  /** No answer in time; the outcome is unknown. */
  Timeout: 2,
  Busy: 3,
  Gone: 4,
  NotFound: 5,
  Denied: 6,
  BadArgument: 7,
  Cycle: 8,
  Unavailable: 9,
  RolledBack: 10,
  UnknownMethod: 11,
  Repeated: 12,
  Failed: 13,
} as const;
/** One of the values of `Status`. */
export type Status = (typeof Status)[keyof typeof Status];

/** The name of a status. */
export function statusName(status: Status): string {
  return Object.keys(Status)[status];
}

function statusFrom(code: number): Status {
  return code <= 13 ? (code as Status) : Status.Failed;
}

/** Why a connection or session was closed. */
export const CloseCode = {
  Goodbye: 0,
  Protocol: 1,
  /** Get a new ticket. */
  Ticket: 2,
  /** Log in again. */
  SessionLost: 3,
  Replaced: 4,
  Kicked: 5,
  GoingAway: 6,
  SlowReader: 7,
  SlowSender: 8,
  Limit: 9,
  Idle: 10,
  Unavailable: 11,
  /** The client is too old. */
  Version: 12,
  AlreadyPlaying: 13,
} as const;
/** One of the values of `CloseCode`. */
export type CloseCode = (typeof CloseCode)[keyof typeof CloseCode];

/** The name of a close code. */
export function closeName(code: CloseCode): string {
  return Object.keys(CloseCode)[code];
}

function closeFrom(code: number): CloseCode {
  return code <= 13 ? (code as CloseCode) : CloseCode.Protocol;
}

/** Whether the client may come back with its resume token. */
export function mayResume(code: CloseCode): boolean {
  return code >= CloseCode.GoingAway && code <= CloseCode.Unavailable;
}

/** A stream that a resuming client lists. */
export interface Seen {
  handle: number;
  number: number;
}

/** A membership that a resuming client lists: the group, and the stream by which it is in it. */
export interface SeenGroup {
  group: number;
  stream: number;
  number: number;
}

/** What a client sends. */
export type UpFrame =
  | { type: "hello"; version: number; features: bigint; interface: bigint; agent: string }
  | { type: "login"; ticket: Uint8Array; proof: Uint8Array }
  | { type: "resume"; token: Uint8Array; proof: Uint8Array; generation: number; streams: Seen[]; groups: SeenGroup[] }
  | { type: "tell"; stream: number; number: number; ack: number; method: number; body: Uint8Array }
  | { type: "request"; stream: number; number: number; ack: number; method: number; deadlineMs: number; body: Uint8Array }
  | { type: "answer"; stream: number; number: number; ack: number; call: bigint; status: Status; body: Uint8Array }
  | { type: "ack"; stream: number; ack: number }
  | { type: "ping"; token: bigint }
  | { type: "pong"; token: bigint }
  | { type: "close"; code: CloseCode; reason: string };

/** Admission: what the client needs to know from now on. */
export interface Welcome {
  type: "welcome";
  session: Uint8Array;
  generation: number;
  resumed: boolean;
  token: Uint8Array;
  resumeWindowMs: number;
  heartbeatMs: number;
  frameBytesMax: number;
}

/** What a client receives. */
export type DownFrame =
  | { type: "challenge"; version: number; features: bigint; nonce: Uint8Array; wallMs: number }
  | Welcome
  | { type: "bound"; stream: number; kind: number; epoch: bigint; name: string }
  | { type: "unbound"; stream: number; code: CloseCode }
  | { type: "resumed"; stream: number; epoch: bigint; applied: number; durable: number }
  | { type: "reply"; stream: number; number: number; ack: number; request: number; status: Status; body: Uint8Array }
  | { type: "push"; stream: number; number: number; ack: number; method: number; body: Uint8Array }
  | { type: "call"; stream: number; number: number; ack: number; call: bigint; deadlineMs: number; method: number; body: Uint8Array }
  | { type: "ackDown"; stream: number; applied: number; durable: number }
  | { type: "cast"; group: number; number: number; method: number; body: Uint8Array }
  | { type: "joined"; group: number; stream: number; kind: number; number: number; name: string }
  | { type: "left"; group: number; stream: number }
  | { type: "fault"; stream: number; number: number; status: Status }
  | { type: "ping"; token: bigint }
  | { type: "pong"; token: bigint }
  | { type: "close"; code: CloseCode; reason: string };

/** Looks for one whole frame in `bytes` from `at` on; `undefined` if more bytes are needed. */
export function splitFrame(bytes: Uint8Array, at: number, max: number): { payload: Uint8Array; end: number } | undefined {
  const reader = new Reader(bytes.subarray(at));
  let length: bigint;
  try {
    length = reader.varint64();
  } catch (error) {
    if (error instanceof WireError && error.problem === "truncated") return undefined;
    throw error;
  }
  if (length === 0n) throw new WireError("empty", "frame is empty");
  if (length > BigInt(max)) throw new WireError("too_long", `frame of ${length} bytes is over the limit of ${max}`);
  const start = at + reader.at;
  const end = start + Number(length);
  return end <= bytes.length ? { payload: bytes.subarray(start, end), end } : undefined;
}

/** Appends one frame. */
export function putFrame(out: Writer, frame: UpFrame): void {
  const payload = new Writer(32);
  encodeUp(payload, frame);
  out.varint(payload.length);
  out.put(payload.bytes());
}

/** Appends the payload of a frame (no length). */
export function encodeUp(out: Writer, frame: UpFrame): void {
  switch (frame.type) {
    case "hello":
      out.byte(Head.HELLO);
      out.byte(frame.version);
      out.varint(frame.features);
      out.u64(frame.interface);
      out.text(cut(frame.agent));
      break;
    case "login":
      out.byte(Head.LOGIN);
      out.blob(frame.ticket);
      out.put(frame.proof);
      break;
    case "resume":
      out.byte(Head.RESUME);
      out.blob(frame.token);
      out.put(frame.proof);
      out.varint(frame.generation);
      putSeen(out, frame.streams);
      putSeenGroups(out, frame.groups);
      break;
    case "tell":
      putNumbered(out, Head.TELL, frame);
      out.u32(frame.method);
      out.put(frame.body);
      break;
    case "request":
      putNumbered(out, Head.REQUEST, frame);
      out.u32(frame.method);
      out.varint(frame.deadlineMs);
      out.put(frame.body);
      break;
    case "answer":
      putNumbered(out, Head.ANSWER, frame);
      out.varint(frame.call);
      out.varint(frame.status);
      out.put(frame.body);
      break;
    case "ack":
      out.byte(Head.ACK_UP);
      out.varint(frame.stream);
      out.varint(frame.ack);
      break;
    case "ping":
      out.byte(Head.PING);
      out.varint(frame.token);
      break;
    case "pong":
      out.byte(Head.PONG);
      out.varint(frame.token);
      break;
    case "close":
      out.byte(Head.CLOSE);
      out.varint(frame.code);
      out.text(cut(frame.reason));
      break;
  }
}

function putNumbered(out: Writer, head: number, frame: { stream: number; number: number; ack: number }): void {
  out.byte(head);
  out.varint(frame.stream);
  out.varint(frame.number);
  out.varint(frame.ack);
}

function putSeen(out: Writer, items: Seen[]): void {
  const listed = items.slice(0, RESUME_STREAMS_MAX);
  out.varint(listed.length);
  for (const item of listed) {
    out.varint(item.handle);
    out.varint(item.number);
  }
}

function putSeenGroups(out: Writer, items: SeenGroup[]): void {
  const listed = items.slice(0, RESUME_GROUPS_MAX);
  out.varint(listed.length);
  for (const item of listed) {
    out.varint(item.group);
    out.varint(item.stream);
    out.varint(item.number);
  }
}

/** The longest prefix of `text` that fits a text field. */
function cut(text: string): string {
  while (textBytes(text).length > TEXT_BYTES_MAX) text = [...text].slice(0, -1).join("");
  return text;
}

/** Reads a payload from the server. Bodies are views into `payload`. */
export function decodeDown(payload: Uint8Array): DownFrame {
  const r = new Reader(payload);
  const head = readHead(r);
  const frame = decodeDownFields(head, r);
  r.end();
  return frame;
}

function decodeDownFields(head: number, r: Reader): DownFrame {
  switch (head) {
    case Head.CHALLENGE:
      return { type: "challenge", version: r.byte(), features: r.varint64(), nonce: r.bytes(16).slice(), wallMs: r.varint() };
    case Head.WELCOME:
      return {
        type: "welcome",
        session: r.bytes(16).slice(),
        generation: r.varint(),
        resumed: r.flag(),
        token: r.blob(TOKEN_BYTES_MAX).slice(),
        resumeWindowMs: r.varint32(),
        heartbeatMs: r.varint32(),
        frameBytesMax: r.varint32(),
      };
    case Head.BOUND:
      return { type: "bound", stream: r.varint32(), kind: r.u32(), epoch: r.varint64(), name: r.text(TEXT_BYTES_MAX) };
    case Head.UNBOUND:
      return { type: "unbound", stream: r.varint32(), code: closeFrom(r.varint()) };
    case Head.RESUMED:
      return { type: "resumed", stream: r.varint32(), epoch: r.varint64(), applied: r.varint(), durable: r.varint() };
    case Head.REPLY:
      return {
        type: "reply",
        stream: r.varint32(),
        number: r.varint(),
        ack: r.varint(),
        request: r.varint(),
        status: statusFrom(r.varint()),
        body: r.rest(),
      };
    case Head.PUSH:
      return { type: "push", stream: r.varint32(), number: r.varint(), ack: r.varint(), method: r.u32(), body: r.rest() };
    case Head.CALL:
      return {
        type: "call",
        stream: r.varint32(),
        number: r.varint(),
        ack: r.varint(),
        call: r.varint64(),
        deadlineMs: r.varint32(),
        method: r.u32(),
        body: r.rest(),
      };
    case Head.ACK_DOWN:
      return { type: "ackDown", stream: r.varint32(), applied: r.varint(), durable: r.varint() };
    case Head.CAST:
      return { type: "cast", group: r.varint32(), number: r.varint(), method: r.u32(), body: r.rest() };
    case Head.JOINED:
      return {
        type: "joined",
        group: r.varint32(),
        stream: r.varint32(),
        kind: r.u32(),
        number: r.varint(),
        name: r.text(TEXT_BYTES_MAX),
      };
    case Head.LEFT:
      return { type: "left", group: r.varint32(), stream: r.varint32() };
    case Head.FAULT:
      return { type: "fault", stream: r.varint32(), number: r.varint(), status: statusFrom(r.varint()) };
    case Head.PING:
      return { type: "ping", token: r.varint64() };
    case Head.PONG:
      return { type: "pong", token: r.varint64() };
    case Head.CLOSE:
      return { type: "close", code: closeFrom(r.varint()), reason: r.text(TEXT_BYTES_MAX) };
    default:
      throw new WireError("kind", `frame kind 0x${head.toString(16)} is not known here`);
  }
}

/** Reads a payload from a client. A client needs it only in tests. */
export function decodeUp(payload: Uint8Array): UpFrame {
  const r = new Reader(payload);
  const head = readHead(r);
  const frame = decodeUpFields(head, r);
  r.end();
  return frame;
}

function decodeUpFields(head: number, r: Reader): UpFrame {
  switch (head) {
    case Head.HELLO:
      return { type: "hello", version: r.byte(), features: r.varint64(), interface: r.u64(), agent: r.text(TEXT_BYTES_MAX) };
    case Head.LOGIN:
      return { type: "login", ticket: r.blob(TICKET_BYTES_MAX), proof: r.bytes(32) };
    case Head.RESUME:
      return {
        type: "resume",
        token: r.blob(TOKEN_BYTES_MAX),
        proof: r.bytes(32),
        generation: r.varint(),
        streams: readSeen(r),
        groups: readSeenGroups(r),
      };
    case Head.TELL:
      return { type: "tell", stream: r.varint32(), number: r.varint(), ack: r.varint(), method: r.u32(), body: r.rest() };
    case Head.REQUEST:
      return {
        type: "request",
        stream: r.varint32(),
        number: r.varint(),
        ack: r.varint(),
        method: r.u32(),
        deadlineMs: r.varint32(),
        body: r.rest(),
      };
    case Head.ANSWER:
      return {
        type: "answer",
        stream: r.varint32(),
        number: r.varint(),
        ack: r.varint(),
        call: r.varint64(),
        status: statusFrom(r.varint()),
        body: r.rest(),
      };
    case Head.ACK_UP:
      return { type: "ack", stream: r.varint32(), ack: r.varint() };
    case Head.PING:
      return { type: "ping", token: r.varint64() };
    case Head.PONG:
      return { type: "pong", token: r.varint64() };
    case Head.CLOSE:
      return { type: "close", code: closeFrom(r.varint()), reason: r.text(TEXT_BYTES_MAX) };
    default:
      throw new WireError("kind", `frame kind 0x${head.toString(16)} is not known here`);
  }
}

/** Appends the payload of a frame from a server. A client needs it only in tests. */
export function encodeDown(out: Writer, frame: DownFrame): void {
  switch (frame.type) {
    case "challenge":
      out.byte(Head.CHALLENGE);
      out.byte(frame.version);
      out.varint(frame.features);
      out.put(frame.nonce);
      out.varint(frame.wallMs);
      break;
    case "welcome":
      out.byte(Head.WELCOME);
      out.put(frame.session);
      out.varint(frame.generation);
      out.byte(frame.resumed ? 1 : 0);
      out.blob(frame.token);
      out.varint(frame.resumeWindowMs);
      out.varint(frame.heartbeatMs);
      out.varint(frame.frameBytesMax);
      break;
    case "bound":
      out.byte(Head.BOUND);
      out.varint(frame.stream);
      out.u32(frame.kind);
      out.varint(frame.epoch);
      out.text(frame.name);
      break;
    case "unbound":
      out.byte(Head.UNBOUND);
      out.varint(frame.stream);
      out.varint(frame.code);
      break;
    case "resumed":
      out.byte(Head.RESUMED);
      out.varint(frame.stream);
      out.varint(frame.epoch);
      out.varint(frame.applied);
      out.varint(frame.durable);
      break;
    case "reply":
      putNumbered(out, Head.REPLY, frame);
      out.varint(frame.request);
      out.varint(frame.status);
      out.put(frame.body);
      break;
    case "push":
      putNumbered(out, Head.PUSH, frame);
      out.u32(frame.method);
      out.put(frame.body);
      break;
    case "call":
      putNumbered(out, Head.CALL, frame);
      out.varint(frame.call);
      out.varint(frame.deadlineMs);
      out.u32(frame.method);
      out.put(frame.body);
      break;
    case "ackDown":
      out.byte(Head.ACK_DOWN);
      out.varint(frame.stream);
      out.varint(frame.applied);
      out.varint(frame.durable);
      break;
    case "cast":
      out.byte(Head.CAST);
      out.varint(frame.group);
      out.varint(frame.number);
      out.u32(frame.method);
      out.put(frame.body);
      break;
    case "joined":
      out.byte(Head.JOINED);
      out.varint(frame.group);
      out.varint(frame.stream);
      out.u32(frame.kind);
      out.varint(frame.number);
      out.text(frame.name);
      break;
    case "left":
      out.byte(Head.LEFT);
      out.varint(frame.group);
      out.varint(frame.stream);
      break;
    case "fault":
      out.byte(Head.FAULT);
      out.varint(frame.stream);
      out.varint(frame.number);
      out.varint(frame.status);
      break;
    case "ping":
    case "pong":
    case "close":
      encodeUp(out, frame);
      break;
  }
}

function readHead(r: Reader): number {
  const head = r.byte();
  if (head & HEAD_FLAGS) throw new WireError("kind", `frame kind 0x${head.toString(16)} is not known here`);
  return head;
}

function readSeen(r: Reader): Seen[] {
  const length = readCount(r, RESUME_STREAMS_MAX);
  return Array.from({ length }, () => ({ handle: r.varint32(), number: r.varint() }));
}

function readSeenGroups(r: Reader): SeenGroup[] {
  const length = readCount(r, RESUME_GROUPS_MAX);
  return Array.from({ length }, () => ({ group: r.varint32(), stream: r.varint32(), number: r.varint() }));
}

function readCount(r: Reader, max: number): number {
  const count = r.varint();
  if (count > max) throw new WireError("range", "field is out of its range");
  return count;
}
