// Built from src/ by `npm run build`; do not edit.

// src/bytes.ts
var WireError = class extends Error {
  /** What is wrong. */
  problem;
  constructor(problem, message = problem) {
    super(message);
    this.name = "WireError";
    this.problem = problem;
  }
};
var utf8 = new TextEncoder();
var strictUtf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
function textBytes(text) {
  return utf8.encode(text);
}
var Writer = class {
  buffer;
  view;
  /** How many bytes were written. */
  length = 0;
  constructor(capacity = 64) {
    this.buffer = new Uint8Array(capacity);
    this.view = new DataView(this.buffer.buffer);
  }
  /** A copy of what was written. */
  bytes() {
    return this.buffer.slice(0, this.length);
  }
  /** Takes the written bytes out and starts over. */
  take() {
    const taken = this.bytes();
    this.length = 0;
    if (this.buffer.length > 65536) {
      this.buffer = new Uint8Array(64);
      this.view = new DataView(this.buffer.buffer);
    }
    return taken;
  }
  byte(value) {
    this.reserve(1);
    this.buffer[this.length++] = value;
  }
  put(bytes) {
    this.reserve(bytes.length);
    this.buffer.set(bytes, this.length);
    this.length += bytes.length;
  }
  varint(value) {
    if (typeof value === "bigint") {
      while (value >= 0x80n) {
        this.byte(Number(value & 0x7fn) | 128);
        value >>= 7n;
      }
      this.byte(Number(value));
      return;
    }
    while (value >= 128) {
      this.byte(value % 128 | 128);
      value = Math.floor(value / 128);
    }
    this.byte(value);
  }
  blob(bytes) {
    this.varint(bytes.length);
    this.put(bytes);
  }
  text(text) {
    this.blob(utf8.encode(text));
  }
  /** Little-endian. */
  u32(value) {
    this.reserve(4);
    this.view.setUint32(this.length, value, true);
    this.length += 4;
  }
  /** Little-endian. */
  u64(value) {
    this.reserve(8);
    this.view.setBigUint64(this.length, value, true);
    this.length += 8;
  }
  /** Big-endian numbers, for MessagePack. */
  big(kind, value) {
    this.reserve(8);
    const at = this.length;
    switch (kind) {
      case "u16":
        this.view.setUint16(at, Number(value));
        this.length += 2;
        break;
      case "u32":
        this.view.setUint32(at, Number(value));
        this.length += 4;
        break;
      case "u64":
        this.view.setBigUint64(at, BigInt(value));
        this.length += 8;
        break;
      case "i16":
        this.view.setInt16(at, Number(value));
        this.length += 2;
        break;
      case "i32":
        this.view.setInt32(at, Number(value));
        this.length += 4;
        break;
      case "i64":
        this.view.setBigInt64(at, BigInt(value));
        this.length += 8;
        break;
      case "f32":
        this.view.setFloat32(at, Number(value));
        this.length += 4;
        break;
      case "f64":
        this.view.setFloat64(at, Number(value));
        this.length += 8;
        break;
    }
  }
  /** Forgets what was written after `length`. */
  truncate(length) {
    this.length = Math.min(this.length, length);
  }
  reserve(more) {
    const needed = this.length + more;
    if (needed <= this.buffer.length) return;
    const grown = new Uint8Array(Math.max(needed, this.buffer.length * 2));
    grown.set(this.buffer.subarray(0, this.length));
    this.buffer = grown;
    this.view = new DataView(grown.buffer);
  }
};
var Reader = class {
  data;
  view;
  /** Position of the next byte. */
  at = 0;
  constructor(bytes) {
    this.data = new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }
  left() {
    return this.data.length - this.at;
  }
  byte() {
    if (this.at >= this.data.length) throw new WireError("truncated", "frame ends inside a field");
    return this.data[this.at++];
  }
  /** A byte that is 0 or 1. */
  flag() {
    const byte = this.byte();
    if (byte > 1) throw new WireError("range", "field is out of its range");
    return byte === 1;
  }
  /** A varint of up to 64 bits. Longer than needed is refused. */
  varint64() {
    let value = 0n;
    for (let index = 0; index < 10; index++) {
      const byte = this.byte();
      if (index === 9 && byte > 1) break;
      value |= BigInt(byte & 127) << BigInt(7 * index);
      if (byte < 128) {
        if (byte === 0 && index > 0) break;
        return value;
      }
    }
    throw new WireError("varint", "varint is too long");
  }
  /** A varint that must be an exact JavaScript number (below 2^53). */
  varint() {
    const first = this.data[this.at];
    if (first !== void 0 && first < 128) {
      this.at++;
      return first;
    }
    const value = this.varint64();
    if (value > 0x1fffffffffffffn) throw new WireError("range", "number is over 2^53");
    return Number(value);
  }
  varint32() {
    const value = this.varint64();
    if (value > 0xffffffffn) throw new WireError("range", "field is out of its range");
    return Number(value);
  }
  /** `length` bytes, not copied. */
  bytes(length) {
    if (length > this.left()) throw new WireError("truncated", "frame ends inside a field");
    const bytes = this.data.subarray(this.at, this.at + length);
    this.at += length;
    return bytes;
  }
  u32() {
    if (this.left() < 4) throw new WireError("truncated", "frame ends inside a field");
    const value = this.view.getUint32(this.at, true);
    this.at += 4;
    return value;
  }
  u64() {
    if (this.left() < 8) throw new WireError("truncated", "frame ends inside a field");
    const value = this.view.getBigUint64(this.at, true);
    this.at += 8;
    return value;
  }
  blob(max) {
    const length = this.varint64();
    if (length > BigInt(max)) throw new WireError("range", "field is out of its range");
    return this.bytes(Number(length));
  }
  text(max) {
    return readText(this.blob(max));
  }
  /** All that is left. */
  rest() {
    return this.bytes(this.left());
  }
  end() {
    if (this.left() > 0) throw new WireError("trailing", "frame has bytes after its last field");
  }
};
function readText(bytes) {
  try {
    return strictUtf8.decode(bytes);
  } catch {
    throw new WireError("utf8", "text is not UTF-8");
  }
}

// src/connect.ts
var connect = (url, listener) => {
  if (url.startsWith("tcp:")) return connectTcp(url, listener);
  return connectWebSocket(url, listener);
};
function connectWebSocket(url, listener) {
  if (typeof WebSocket === "undefined") {
    throw new TypeError("this runtime has no WebSocket: use a tcp:// address, or Node 22 and later");
  }
  const socket = new WebSocket(url, "mainstay.1");
  socket.binaryType = "arraybuffer";
  let heard = true;
  socket.onopen = () => heard && listener.opened("websocket");
  socket.onmessage = (event) => heard && listener.received(new Uint8Array(event.data));
  socket.onclose = () => heard && listener.closed();
  return {
    send: (bytes) => socket.readyState === WebSocket.OPEN && socket.send(bytes),
    close: () => {
      heard = false;
      socket.close();
    },
    buffered: () => socket.bufferedAmount
  };
}
function connectTcp(url, listener) {
  const { hostname, port } = new URL(url.replace(/^tcp:/, "http:"));
  let heard = true;
  let socket;
  import("node:net").then(
    (net) => {
      if (!heard) return;
      socket = net.connect({ host: hostname.replace(/^\[|\]$/g, ""), port: Number(port), noDelay: true });
      socket.on("connect", () => heard && listener.opened("tcp"));
      socket.on("data", ({ buffer, byteOffset, length }) => {
        if (heard) listener.received(new Uint8Array(buffer, byteOffset, length));
      });
      socket.on("error", () => {
      });
      socket.on("close", () => heard && listener.closed());
    },
    () => heard && listener.closed()
  );
  return {
    send: (bytes) => socket?.write(bytes),
    close: () => {
      heard = false;
      socket?.end();
      socket?.setTimeout(1e3, () => socket?.destroy());
      socket?.unref();
    },
    buffered: () => socket?.writableLength ?? 0
  };
}

// src/frame.ts
var VERSION = 1;
var PREFACE = textBytes("MSY1");
var TEXT_BYTES_MAX = 256;
var TICKET_BYTES_MAX = 1024;
var TOKEN_BYTES_MAX = 256;
var RESUME_STREAMS_MAX = 32;
var RESUME_GROUPS_MAX = 160;
var HEAD_FLAGS = 224;
var Head = {
  HELLO: 1,
  LOGIN: 2,
  RESUME: 3,
  TELL: 4,
  REQUEST: 5,
  ANSWER: 6,
  ACK_UP: 7,
  PING: 8,
  PONG: 9,
  CLOSE: 10,
  CHALLENGE: 17,
  WELCOME: 18,
  BOUND: 19,
  UNBOUND: 20,
  RESUMED: 21,
  REPLY: 22,
  PUSH: 23,
  CALL: 24,
  ACK_DOWN: 25,
  CAST: 26,
  JOINED: 27,
  LEFT: 28,
  FAULT: 29
};
var Status = {
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
  Failed: 13
};
function statusName(status) {
  return Object.keys(Status)[status];
}
function statusFrom(code) {
  return code <= 13 ? code : Status.Failed;
}
var CloseCode = {
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
  AlreadyPlaying: 13
};
function closeName(code) {
  return Object.keys(CloseCode)[code];
}
function closeFrom(code) {
  return code <= 13 ? code : CloseCode.Protocol;
}
function mayResume(code) {
  return code >= CloseCode.GoingAway && code <= CloseCode.Unavailable;
}
function splitFrame(bytes, at, max) {
  const reader = new Reader(bytes.subarray(at));
  let length;
  try {
    length = reader.varint64();
  } catch (error) {
    if (error instanceof WireError && error.problem === "truncated") return void 0;
    throw error;
  }
  if (length === 0n) throw new WireError("empty", "frame is empty");
  if (length > BigInt(max)) throw new WireError("too_long", `frame of ${length} bytes is over the limit of ${max}`);
  const start = at + reader.at;
  const end = start + Number(length);
  return end <= bytes.length ? { payload: bytes.subarray(start, end), end } : void 0;
}
function putFrame(out, frame) {
  const payload = new Writer(32);
  encodeUp(payload, frame);
  out.varint(payload.length);
  out.put(payload.bytes());
}
function encodeUp(out, frame) {
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
function putNumbered(out, head, frame) {
  out.byte(head);
  out.varint(frame.stream);
  out.varint(frame.number);
  out.varint(frame.ack);
}
function putSeen(out, items) {
  const listed = items.slice(0, RESUME_STREAMS_MAX);
  out.varint(listed.length);
  for (const item of listed) {
    out.varint(item.handle);
    out.varint(item.number);
  }
}
function putSeenGroups(out, items) {
  const listed = items.slice(0, RESUME_GROUPS_MAX);
  out.varint(listed.length);
  for (const item of listed) {
    out.varint(item.group);
    out.varint(item.stream);
    out.varint(item.number);
  }
}
function cut(text) {
  while (textBytes(text).length > TEXT_BYTES_MAX) text = [...text].slice(0, -1).join("");
  return text;
}
function decodeDown(payload) {
  const r = new Reader(payload);
  const head = readHead(r);
  const frame = decodeDownFields(head, r);
  r.end();
  return frame;
}
function decodeDownFields(head, r) {
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
        frameBytesMax: r.varint32()
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
        body: r.rest()
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
        body: r.rest()
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
        name: r.text(TEXT_BYTES_MAX)
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
function decodeUp(payload) {
  const r = new Reader(payload);
  const head = readHead(r);
  const frame = decodeUpFields(head, r);
  r.end();
  return frame;
}
function decodeUpFields(head, r) {
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
        groups: readSeenGroups(r)
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
        body: r.rest()
      };
    case Head.ANSWER:
      return {
        type: "answer",
        stream: r.varint32(),
        number: r.varint(),
        ack: r.varint(),
        call: r.varint64(),
        status: statusFrom(r.varint()),
        body: r.rest()
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
function encodeDown(out, frame) {
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
function readHead(r) {
  const head = r.byte();
  if (head & HEAD_FLAGS) throw new WireError("kind", `frame kind 0x${head.toString(16)} is not known here`);
  return head;
}
function readSeen(r) {
  const length = readCount(r, RESUME_STREAMS_MAX);
  return Array.from({ length }, () => ({ handle: r.varint32(), number: r.varint() }));
}
function readSeenGroups(r) {
  const length = readCount(r, RESUME_GROUPS_MAX);
  return Array.from({ length }, () => ({ group: r.varint32(), stream: r.varint32(), number: r.varint() }));
}
function readCount(r, max) {
  const count = r.varint();
  if (count > max) throw new WireError("range", "field is out of its range");
  return count;
}

// src/error.ts
function nextAfter(end) {
  if (end.kind === "protocol") return "update";
  if (end.kind === "unreachable") return "later";
  if (end.kind === "goodbye") return "stop";
  switch (end.code) {
    case CloseCode.Ticket:
    case CloseCode.SessionLost:
      return "login";
    case CloseCode.Replaced:
    case CloseCode.AlreadyPlaying:
      return "ask";
    case CloseCode.Version:
      return "update";
    default:
      return mayResume(end.code) ? "later" : "stop";
  }
}
function endText(end) {
  switch (end.kind) {
    case "server":
      return `closed by the server: ${closeName(end.code)} ${end.reason}`.trimEnd();
    case "protocol":
      return `the server speaks something else: ${end.reason}`;
    case "unreachable":
      return "no server answered";
    case "goodbye":
      return "logged out";
  }
}
var CallError = class _CallError extends Error {
  problem;
  /** With `refused`. */
  status;
  /** With `app`: the encoded error. */
  body;
  /** With `ended`. */
  end;
  constructor(problem, message, more = {}) {
    super(message);
    this.name = "CallError";
    this.problem = problem;
    this.status = more.status;
    this.body = more.body;
    this.end = more.end;
  }
  static app(body) {
    return new _CallError("app", `the method answered with its own error (${body.length} bytes)`, { body });
  }
  static refused(status) {
    return new _CallError("refused", `the server answered ${statusName(status)}`, { status });
  }
  static timeout() {
    return new _CallError("timeout", "no answer in time; the request may have run");
  }
  static notSent() {
    return new _CallError("not sent", "the request was not sent");
  }
  static rolledBack() {
    return new _CallError("rolled back", "the server went back to an earlier state");
  }
  static full(frames, bytes) {
    return new _CallError("full", `${frames} commands of ${bytes} bytes wait for the server already`);
  }
  static tooLong(length, max) {
    return new _CallError("too long", `a frame of ${length} bytes is over the server's limit of ${max}`);
  }
  static notBound(stream) {
    return new _CallError("not bound", `no stream "${stream}" is bound`);
  }
  static ended(end) {
    return new _CallError("ended", `the session ended: ${endText(end)}`, { end });
  }
};

// src/limits.ts
var DEFAULT_LIMITS = {
  greetingBytesMax: 4 * 1024,
  frameBytesMax: 1024 * 1024,
  resendFramesMax: 256,
  resendBytesMax: 64 * 1024,
  requestsMax: 256,
  callsMax: 64,
  streamsMax: 64,
  latestMax: 64,
  outgoingBytesMax: 1024 * 1024,
  requestWaitMs: 5e3,
  connectWaitMs: 3e3,
  handshakeWaitMs: 5e3,
  heartbeatMs: 6e3,
  missedMax: 3,
  ackWaitMs: 1e3,
  retryFirstMs: 600,
  retryMaxMs: 1e4,
  triesMax: 6,
  stableAfterMs: 1e4
};

// src/numbers.ts
var Outbound = class {
  last = 0;
  acked = 0;
  bytes = 0;
  items = [];
  framesMax;
  bytesMax;
  constructor(framesMax, bytesMax) {
    this.framesMax = framesMax;
    this.bytesMax = bytesMax;
  }
  get size() {
    return this.items.length;
  }
  /** Whether `bytes` more would be over a limit. */
  isFull(bytes) {
    return this.items.length >= this.framesMax || this.bytes + bytes > this.bytesMax && this.items.length > 0;
  }
  /** Keeps `item` and gives its number. Ask `isFull` before. */
  push(item, bytes) {
    this.bytes += bytes;
    this.items.push({ item, bytes });
    return ++this.last;
  }
  /** Forgets everything up to `number`; false for what was never sent. */
  acknowledge(number) {
    if (number > this.last) return false;
    if (number > this.acked) {
      for (const { bytes } of this.items.splice(0, number - this.acked)) this.bytes -= bytes;
      this.acked = number;
    }
    return true;
  }
  /** What is kept, up to `last`, with its numbers, oldest first. */
  *kept(last = this.last) {
    let number = this.acked;
    for (const { item } of this.items) if (++number <= last) yield [number, item];
  }
  /** What is kept as `number`, if it is. */
  find(number) {
    return this.items[number - this.acked - 1]?.item;
  }
};
var Inbound = class _Inbound {
  /** Frames handled without telling the server before it must be told. */
  static UNTOLD_MAX = 32;
  applied = 0;
  told = 0;
  arrive(number) {
    if (number <= this.applied) return "duplicate";
    if (number > this.applied + 1) return "gap";
    this.applied = number;
    return "next";
  }
  /** The number to acknowledge in a frame that is being sent anyway. */
  tell() {
    this.told = this.applied;
    return this.applied;
  }
  isDue() {
    return this.applied - this.told >= _Inbound.UNTOLD_MAX;
  }
};

// src/stream.ts
var NOTHING = new Uint8Array(0);
function isCalled(stream, name) {
  return stream.name === name && !stream.retired;
}
function hold(stream) {
  stream.live = false;
  stream.ackAt = void 0;
}
function tell(stream) {
  stream.ackAt = void 0;
  return stream.inbound.tell();
}
function toldAs(stream, number) {
  const kept = stream.outbound.find(number);
  if (kept !== void 0) return kept.type === "tell" ? kept.tell : void 0;
  return stream.settling.find((sent) => sent.number === number)?.tell;
}
function settle(stream, applied, atMost) {
  for (const [number, kept] of stream.outbound.kept(applied)) {
    if (kept.type === "tell") stream.settling.push({ number, tell: kept.tell });
  }
  stream.settling.splice(0, stream.settling.length - atMost);
}
function upFrame(stream, kept, number, ack, now, deadline) {
  switch (kept.type) {
    case "tell":
      return { type: "tell", stream, number, ack, method: kept.method, body: kept.body };
    case "answer":
      return { type: "answer", stream, number, ack, call: kept.call, status: kept.status, body: kept.body };
    case "request": {
      if (deadline === void 0) {
        return { type: "answer", stream, number, ack, call: 0n, status: Status.Timeout, body: NOTHING };
      }
      const deadlineMs = kept.own ? 0 : Math.max(1, Math.min(4294967295, Math.floor(deadline - now)));
      return { type: "request", stream, number, ack, method: kept.method, deadlineMs, body: kept.body };
    }
  }
}

// src/sha256.ts
var K = new Uint32Array(64);
var INITIAL = new Uint32Array(8);
{
  let found = 0;
  for (let n = 2; found < 64; n++) {
    let prime = true;
    for (let d = 2; d * d <= n; d++) if (n % d === 0) prime = false;
    if (!prime) continue;
    if (found < 8) INITIAL[found] = fraction(n, 2);
    K[found++] = fraction(n, 3);
  }
}
function fraction(n, root) {
  const wanted = BigInt(n) << BigInt(32 * root);
  let low = 0n;
  let high = 1n << 40n;
  while (low + 1n < high) {
    const middle = low + high >> 1n;
    if (middle ** BigInt(root) <= wanted) low = middle;
    else high = middle;
  }
  return Number(low & 0xffffffffn);
}
function sha256(...parts) {
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  const padded = new Uint8Array((length + 8 >> 6) * 64 + 64);
  let at = 0;
  for (const part of parts) {
    padded.set(part, at);
    at += part.length;
  }
  padded[length] = 128;
  const view = new DataView(padded.buffer);
  view.setBigUint64(padded.length - 8, BigInt(length) * 8n);
  const state = INITIAL.slice();
  const w = new Uint32Array(64);
  for (let block = 0; block < padded.length; block += 64) {
    for (let i = 0; i < 16; i++) w[i] = view.getUint32(block + 4 * i);
    for (let i = 16; i < 64; i++) {
      const s0 = turn(w[i - 15], 7) ^ turn(w[i - 15], 18) ^ w[i - 15] >>> 3;
      const s1 = turn(w[i - 2], 17) ^ turn(w[i - 2], 19) ^ w[i - 2] >>> 10;
      w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    let [a, b, c, d, e, f, g, h] = state;
    for (let i = 0; i < 64; i++) {
      const s1 = turn(e, 6) ^ turn(e, 11) ^ turn(e, 25);
      const t1 = h + s1 + (e & f ^ ~e & g) + K[i] + w[i] | 0;
      const s0 = turn(a, 2) ^ turn(a, 13) ^ turn(a, 22);
      const t2 = s0 + (a & b ^ a & c ^ b & c) | 0;
      h = g;
      g = f;
      f = e;
      e = d + t1 | 0;
      d = c;
      c = b;
      b = a;
      a = t1 + t2 | 0;
    }
    [a, b, c, d, e, f, g, h].forEach((value, i) => state[i] += value);
  }
  const digest = new Uint8Array(32);
  const out = new DataView(digest.buffer);
  state.forEach((word, i) => out.setUint32(4 * i, word));
  return digest;
}
function turn(word, by) {
  return word >>> by | word << 32 - by;
}
function hmacSha256(key, ...parts) {
  const short = key.length > 64 ? sha256(key) : key;
  const inner = new Uint8Array(64).fill(54);
  const outer = new Uint8Array(64).fill(92);
  short.forEach((byte, i) => {
    inner[i] ^= byte;
    outer[i] ^= byte;
  });
  return sha256(outer, sha256(inner, ...parts));
}

// src/ticket.ts
var LOGIN = textBytes("mainstay login v1");
var RESUME = textBytes("mainstay resume v1");
function loginProof(secret, nonce, ticket) {
  return hmacSha256(secret, LOGIN, nonce, ticket);
}
function resumeProof(secret, nonce, token, generation) {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(generation), true);
  return hmacSha256(secret, RESUME, nonce, token, bytes);
}
function readGrant(text) {
  const grant = { ticket: fromBase64(text.ticket), secret: fromBase64(text.secret) };
  if (text.pass) grant.pass = text.pass;
  if (grant.secret.length !== 32 || grant.ticket.length === 0) throw new TypeError("this is no grant");
  return grant;
}
var PassRefused = class extends Error {
  name = "PassRefused";
};
async function guestGrant(name = "", base = "", pass = "") {
  const headers = pass ? { authorization: `Bearer ${pass}` } : {};
  const response = await fetch(`${base}/ticket/guest?name=${encodeURIComponent(name)}`, { method: "POST", headers });
  const text = await response.json();
  if (text.error === "bad_pass") throw new PassRefused(text.message);
  if (!response.ok) throw new Error(text.message ?? `no ticket: HTTP ${response.status}`);
  return readGrant(text);
}
function fromBase64(text) {
  const binary = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
  return Uint8Array.from(binary, (char) => char.charCodeAt(0));
}

// src/core.ts
var Break = class {
  lost;
  end;
  constructor(lost, end) {
    this.lost = lost;
    this.end = end;
  }
};
function protocol(reason) {
  return new Break(void 0, { kind: "protocol", reason });
}
var Core = class {
  limits;
  agent;
  interfaceHash;
  random;
  grant;
  endedBy;
  resume;
  state = { at: "rest" };
  attached = false;
  wantsConnect;
  wantsClose = false;
  flushTold = false;
  inbox = NOTHING;
  outbox = new Writer();
  events = [];
  streak = 0;
  tries = 0;
  heartbeat;
  sendBytesMax;
  heardAt = 0;
  pingAt = 0;
  ping;
  pings = 0n;
  serverWall;
  streams = [];
  streamsMade = 0;
  /** `streams`: handles of the streams by which we are members. */
  groups = [];
  requests = /* @__PURE__ */ new Map();
  requestsMade = 0;
  tellsMade = 0;
  calls = /* @__PURE__ */ new Map();
  callsSeen = 0;
  published = /* @__PURE__ */ new Set();
  counters = {
    rtt: void 0,
    rttSmooth: 0,
    jitter: 0,
    bytesIn: 0,
    bytesOut: 0,
    framesIn: 0,
    framesOut: 0,
    logins: 0,
    resumes: 0,
    losses: 0,
    requests: 0,
    resent: 0,
    strays: 0
  };
  /** `random` gives numbers in 0..1, for the jitter of pauses. */
  constructor(grant, options) {
    this.limits = { ...DEFAULT_LIMITS, ...options.limits };
    this.agent = options.agent ?? "";
    this.interfaceHash = options.interfaceHash ?? 0n;
    this.random = options.random;
    this.grant = grant;
    this.heartbeat = this.limits.heartbeatMs;
    this.sendBytesMax = 64 * 1024;
  }
  // -- acts --
  /** Starts to connect. Does nothing unless at rest. */
  start(now) {
    if (this.state.at !== "rest" || !this.grant) return;
    this.tries = 0;
    this.streak = 0;
    this.connect(now);
  }
  /** Starts over as a new session; one that still goes on is dropped and its requests fail. */
  login(now, grant) {
    if (this.state.at !== "rest") this.finish({ kind: "goodbye" });
    this.grant = grant;
    this.endedBy = void 0;
    this.start(now);
  }
  /** Says goodbye and ends the session. */
  close() {
    if (this.state.at === "rest") return;
    if (this.state.at === "up") {
      this.send({ type: "close", code: CloseCode.Goodbye, reason: "" });
      this.wantsClose = true;
    }
    this.finish({ kind: "goodbye" });
  }
  /** Breaks the connection on purpose; the session resumes after the usual pause. */
  cut(now) {
    if (this.attached && this.isBusy()) this.lose(now, "cut");
  }
  /** Tries to connect now instead of at the end of the pause, as when the network came back. */
  hurry(now) {
    if (this.state.at === "pausing") this.state = { at: "pausing", until: now };
  }
  /** Allows the server to call `method`. Other calls are answered `UnknownMethod`. */
  publish(method) {
    this.published.add(method);
  }
  /** Sends a request; it ends with a `reply` event. Without `deadlineMs` the method's own holds.
   * Throws `CallError` (`full`, `too long`, `ended`) if nothing was taken. */
  request(now, stream, method, body, deadlineMs) {
    if (this.requests.size >= this.limits.requestsMax) throw CallError.full(this.requests.size, 0);
    const known = this.streamNamed(stream);
    const request = this.requestsMade + 1;
    const deadline = now + (deadlineMs ?? this.limits.requestWaitMs);
    const kept = { type: "request", request, method, own: deadlineMs === void 0, body };
    const number = this.push(now, known, kept, deadline);
    this.requestsMade = request;
    this.counters.requests++;
    known.waiting.set(number, request);
    this.requests.set(request, { stream: known.id, number, deadline });
    return request;
  }
  /** Forgets a request: it completes with `timeout` or `not sent` at once. */
  cancel(request) {
    this.expire(request);
  }
  /** Sends a message: in order, at most once, kept over breaks. Throws `CallError`. The number it
   * gives names the tell in `refused` and `unconfirmed`; without such an event it was handled. */
  tell(now, stream, method, body) {
    const tell2 = this.tellsMade + 1;
    this.push(now, this.boundNamed(stream), { type: "tell", tell: tell2, method, body }, void 0);
    this.tellsMade = tell2;
    return tell2;
  }
  /** Sends a message of which only the newest per `key` matters. Throws `CallError`. */
  tellLatest(stream, method, key, body) {
    const known = this.boundNamed(stream);
    this.checkLength(body.length);
    const old = known.latest.find((latest) => latest.method === method && latest.key === key);
    if (old) {
      old.body = body;
      return;
    }
    const waiting = this.streams.reduce((sum, other) => sum + other.latest.length, 0);
    if (waiting >= this.limits.latestMax) throw CallError.full(waiting, 0);
    known.latest.push({ method, key, body });
    this.flushTold = false;
  }
  /** Answers a call of the server. One whose deadline has passed is dropped quietly. */
  answer(now, call, status, body) {
    const waiting = this.calls.get(call);
    if (!waiting) return;
    const stream = this.streams.find((known) => known.id === waiting.stream);
    if (!stream) return;
    this.push(now, stream, { type: "answer", call: waiting.call, status, body }, void 0);
    this.calls.delete(call);
  }
  /** Measures the round trip now, instead of at the next heartbeat. */
  measure(now) {
    if (this.state.at === "up" && !this.ping) this.sendPing(now);
  }
  // -- what goes on --
  isConnected() {
    return this.state.at === "up";
  }
  isEnded() {
    return this.state.at === "rest";
  }
  isBound(stream) {
    return this.streams.some((known) => isCalled(known, stream) && known.handle !== void 0);
  }
  /** The names of the bound streams. */
  boundStreams() {
    return this.streams.filter((known) => known.handle !== void 0 && !known.retired).map((known) => known.name);
  }
  requestsOpen() {
    return this.requests.size;
  }
  stats() {
    return { ...this.counters };
  }
  /** The server's wall clock, as far as the handshake told. */
  serverWallMs(now) {
    return this.serverWall && this.serverWall.wallMs + (now - this.serverWall.at);
  }
  // -- outputs --
  pollOutput() {
    if (this.attached && !this.flushTold && this.hasOutgoing()) {
      this.flushTold = true;
      return { type: "flush" };
    }
    if (this.wantsClose) {
      this.wantsClose = false;
      this.attached = false;
      this.clearBuffers();
      return { type: "close" };
    }
    if (this.wantsConnect === void 0) return void 0;
    const attempt = this.wantsConnect;
    this.wantsConnect = void 0;
    this.attached = true;
    return { type: "connect", attempt };
  }
  /** Takes the bytes to send. A driver whose transport holds much already comes back later, so
   * that newer states may still replace older ones. */
  takeOutgoing() {
    this.putLatest();
    return this.outbox.take();
  }
  pollEvent() {
    return this.events.shift();
  }
  /** When `handleTimeout` has something to do; `undefined` if never. */
  pollTimeout() {
    let at = Infinity;
    if (this.state.at === "up") {
      at = Math.min(this.pingAt, this.deadAt());
      for (const stream of this.streams) at = Math.min(at, stream.ackAt ?? Infinity);
    } else if (this.state.at !== "rest") at = this.state.until;
    for (const request of this.requests.values()) at = Math.min(at, request.deadline);
    for (const call of this.calls.values()) at = Math.min(at, call.deadline);
    return at === Infinity ? void 0 : at;
  }
  // -- inputs --
  /** The connection asked for stands. A plain TCP one begins with the preface. */
  handleConnected(now, transport) {
    if (this.state.at !== "connecting") return;
    this.state = { at: "greeting", until: now + this.limits.handshakeWaitMs };
    this.clearBuffers();
    if (transport === "tcp") {
      this.outbox.put(PREFACE);
      this.counters.bytesOut += PREFACE.length;
    }
    this.send({ type: "hello", version: VERSION, features: 0n, interface: this.interfaceHash, agent: this.agent });
  }
  /** The connection ended, or could not be made. */
  handleClosed(now) {
    this.attached = false;
    if (this.isBusy()) this.lose(now, "closed");
  }
  /** Bytes arrived; a later call may bring the rest of a frame. */
  handleBytes(now, bytes) {
    if (!this.attached || !this.isBusy()) return;
    this.heardAt = now;
    this.counters.bytesIn += bytes.length;
    let input = bytes;
    if (this.inbox.length > 0) {
      input = new Uint8Array(this.inbox.length + bytes.length);
      input.set(this.inbox);
      input.set(bytes, this.inbox.length);
      this.inbox = NOTHING;
    }
    const taken = this.handleFrames(now, input);
    if (taken < input.length) this.inbox = input.slice(taken);
  }
  /** Does what is due. */
  handleTimeout(now) {
    for (const [request, { deadline }] of this.requests) if (deadline <= now) this.expire(request);
    for (const [call, { deadline }] of this.calls) if (deadline <= now) this.calls.delete(call);
    const state = this.state;
    if (state.at === "rest") return;
    if (state.at !== "up") {
      if (state.until > now) return;
      if (state.at === "pausing") this.connect(now);
      else this.lose(now, "slow");
      return;
    }
    if (now - state.since >= this.limits.stableAfterMs) this.streak = 0;
    if (now >= this.deadAt()) {
      this.lose(now, "silent");
      return;
    }
    if (now >= this.pingAt) this.sendPing(now);
    for (const stream of this.streams) {
      if (stream.ackAt !== void 0 && stream.ackAt <= now) this.sendAck(stream);
    }
  }
  // -- connection --
  /** Handles all whole frames; how many bytes they took, or all if the connection is over. */
  handleFrames(now, bytes) {
    let at = 0;
    for (; ; ) {
      if (!this.attached || !this.isBusy()) return bytes.length;
      try {
        const max = this.isConnected() ? this.limits.frameBytesMax : this.limits.greetingBytesMax;
        const split = splitFrame(bytes, at, max);
        if (!split) return at;
        at = split.end;
        this.counters.framesIn++;
        this.handleFrame(now, decodeDown(split.payload));
        if (this.outbox.length > this.limits.outgoingBytesMax) this.lose(now, "stuck");
      } catch (thrown) {
        const reason = thrown instanceof WireError ? protocol(thrown.message) : thrown;
        if (!(reason instanceof Break)) throw reason;
        if (reason.lost) this.lose(now, reason.lost);
        else if (reason.end) {
          if (this.isConnected() && reason.end.kind === "protocol") {
            this.send({ type: "close", code: CloseCode.Protocol, reason: "" });
            this.wantsClose = true;
          }
          this.finish(reason.end);
        }
      }
    }
  }
  handleFrame(now, frame) {
    switch (frame.type) {
      case "close":
        throw this.told(frame.code, frame.reason);
      case "ping":
        this.send({ type: "pong", token: frame.token });
        return;
      case "pong":
        if (this.ping?.token === frame.token) {
          this.measured(now - this.ping.at);
          this.ping = void 0;
        }
        return;
      case "challenge":
        if (this.state.at !== "greeting") throw protocol("a frame out of order");
        if (frame.version !== VERSION) throw protocol(`version ${frame.version} instead of ${VERSION}`);
        this.serverWall = { wallMs: frame.wallMs, at: now };
        this.prove(now, frame.nonce);
        return;
      case "welcome":
        if (this.state.at !== "admitting") throw protocol("a frame out of order");
        this.welcome(now, this.state.resuming, frame);
        return;
      default:
        if (this.state.at !== "up") throw protocol("a frame out of order");
        this.handleStreamFrame(now, frame);
    }
  }
  told(code, reason) {
    if (!mayResume(code)) return new Break(void 0, { kind: "server", code, reason });
    if (code === CloseCode.Limit || code === CloseCode.Unavailable) this.streak = Math.max(this.streak, 1);
    return new Break(`told ${closeName(code)}`);
  }
  /** Shows ticket or resume token, with a proof that it is ours. */
  prove(now, nonce) {
    const resume = this.resume;
    this.state = { at: "admitting", until: now + this.limits.handshakeWaitMs, resuming: resume !== void 0 };
    if (resume) {
      resume.generation++;
      this.dropOldest();
      const streams = this.streams.filter((stream) => stream.handle !== void 0).map((stream) => ({ handle: stream.handle, number: stream.inbound.applied }));
      const groups = this.groups.flatMap(
        ({ handle, last, streams: by }) => by.map((stream) => ({ group: handle, stream, number: last }))
      );
      const proof = resumeProof(resume.secret, nonce, resume.token, resume.generation);
      this.send({ type: "resume", token: resume.token, proof, generation: resume.generation, streams, groups });
    } else if (this.grant) {
      const proof = loginProof(this.grant.secret, nonce, this.grant.ticket);
      this.send({ type: "login", ticket: this.grant.ticket, proof });
    }
  }
  welcome(now, resuming, welcome) {
    const secret = this.resume?.secret ?? this.grant?.secret;
    if (!secret) throw protocol("a welcome for nobody");
    const resumed = resuming && welcome.resumed;
    if (resuming && !resumed) this.forgetStreams(CallError.rolledBack());
    const { session, token, generation } = welcome;
    this.resume = { session, secret, token, generation };
    this.state = { at: "up", since: now };
    this.tries = 0;
    const own = this.limits.heartbeatMs;
    this.heartbeat = welcome.heartbeatMs > 0 ? Math.min(own, welcome.heartbeatMs) : own;
    this.sendBytesMax = welcome.frameBytesMax;
    for (const stream of this.streams) hold(stream);
    if (resumed) this.counters.resumes++;
    else this.counters.logins++;
    this.events.push({ type: "connected", session, resumed });
    this.sendPing(now);
  }
  sendPing(now) {
    this.pingAt = now + this.heartbeat;
    this.ping = { token: ++this.pings, at: now };
    this.send({ type: "ping", token: this.pings });
  }
  measured(rtt) {
    const counters = this.counters;
    if (counters.rtt === void 0) counters.rttSmooth = rtt;
    else {
      counters.rttSmooth = (counters.rttSmooth * 7 + rtt) / 8;
      counters.jitter = (counters.jitter * 15 + Math.abs(rtt - counters.rtt)) / 16;
    }
    counters.rtt = rtt;
  }
  deadAt() {
    return this.heardAt + this.heartbeat * this.limits.missedMax;
  }
  /** Whether there is a connection, or one is being made. */
  isBusy() {
    return this.state.at !== "rest" && this.state.at !== "pausing";
  }
  connect(now) {
    this.tries++;
    this.state = { at: "connecting", until: now + this.limits.connectWaitMs };
    this.wantsConnect = this.tries;
  }
  /** The connection is of no use any more: pause, then connect again. */
  lose(now, reason) {
    if (this.attached) this.wantsClose = true;
    this.wantsConnect = void 0;
    this.clearBuffers();
    this.ping = void 0;
    if (this.state.at === "up") {
      this.counters.losses++;
      if (now - this.state.since >= this.limits.stableAfterMs) this.streak = 0;
      this.events.push({ type: "lost", reason });
    }
    for (const stream of this.streams) hold(stream);
    if (this.limits.triesMax !== void 0 && this.tries >= this.limits.triesMax) {
      this.finish({ kind: "unreachable" });
      return;
    }
    this.streak++;
    const { retryFirstMs, retryMaxMs } = this.limits;
    const pause = Math.min(retryFirstMs * 2 ** Math.min(this.streak - 1, 30), retryMaxMs);
    const at = now + pause * (0.75 + 0.5 * this.random());
    this.state = { at: "pausing", until: at };
    this.events.push({ type: "retry", attempt: this.tries + 1, at });
  }
  /** Ends the session: fails all requests, forgets streams and groups. */
  finish(end) {
    this.state = { at: "rest" };
    this.wantsConnect = void 0;
    if (this.attached && !this.wantsClose) {
      this.clearBuffers();
      this.wantsClose = true;
    }
    this.grant = void 0;
    this.resume = void 0;
    this.endedBy = end;
    this.forgetStreams(CallError.ended(end));
    this.events.push({ type: "ended", end });
  }
  forgetStreams(error) {
    for (const stream of this.streams) this.unconfirmed(stream, stream.outbound.kept());
    const failed = [...this.requests.keys()];
    this.requests.clear();
    for (const request of failed) this.events.push({ type: "reply", request, error });
    this.calls.clear();
    this.streams = [];
    this.groups = [];
  }
  send(frame) {
    const before = this.outbox.length;
    putFrame(this.outbox, frame);
    this.counters.bytesOut += this.outbox.length - before;
    this.counters.framesOut++;
    this.flushTold = false;
  }
  hasOutgoing() {
    return this.outbox.length > 0 || this.streams.some((stream) => stream.live && stream.latest.length > 0);
  }
  clearBuffers() {
    this.inbox = NOTHING;
    this.outbox.truncate(0);
  }
  // -- streams --
  streamNamed(name) {
    if (this.endedBy) throw CallError.ended(this.endedBy);
    const known = this.streams.find((stream2) => isCalled(stream2, name));
    if (known) return known;
    if (this.streams.length >= this.limits.streamsMax) throw CallError.full(this.streams.length, 0);
    const stream = this.newStream(name);
    this.streams.push(stream);
    return stream;
  }
  newStream(name) {
    return {
      id: ++this.streamsMade,
      name,
      retired: false,
      handle: void 0,
      kind: 0,
      epoch: 0n,
      live: false,
      outbound: this.newOutbound(),
      sent: 0,
      durable: 0,
      inbound: new Inbound(),
      ackAt: void 0,
      waiting: /* @__PURE__ */ new Map(),
      settling: [],
      latest: []
    };
  }
  newOutbound() {
    return new Outbound(this.limits.resendFramesMax, this.limits.resendBytesMax);
  }
  boundNamed(name) {
    const known = this.streams.find((stream) => isCalled(stream, name) && stream.handle !== void 0);
    if (known) return known;
    throw this.endedBy ? CallError.ended(this.endedBy) : CallError.notBound(name);
  }
  checkLength(body) {
    const length = body + 40;
    if (length > this.sendBytesMax) throw CallError.tooLong(length, this.sendBytesMax);
  }
  /** Numbers and keeps a command, and sends it if the stream is live. */
  push(now, stream, kept, deadline) {
    this.checkLength(kept.body.length);
    const { outbound } = stream;
    if (outbound.isFull(kept.body.length)) throw CallError.full(outbound.size, outbound.bytes);
    const number = outbound.push(kept, kept.body.length);
    if (stream.live && stream.handle !== void 0) {
      stream.sent = number;
      this.send(upFrame(stream.handle, kept, number, tell(stream), now, deadline));
    }
    return number;
  }
  /** Sends all kept commands of a stream, in order. */
  resend(now, stream) {
    if (stream.handle === void 0) return;
    stream.live = true;
    this.flushTold = false;
    if (stream.outbound.size === 0) return;
    const ack = tell(stream);
    for (const [number, kept] of stream.outbound.kept()) {
      const request = stream.waiting.get(number);
      const deadline = request === void 0 ? void 0 : this.requests.get(request)?.deadline;
      this.send(upFrame(stream.handle, kept, number, ack, now, deadline));
      if (number <= stream.sent) this.counters.resent++;
    }
    stream.sent = stream.outbound.last;
  }
  putLatest() {
    for (const stream of this.streams) {
      if (!stream.live || stream.handle === void 0 || stream.latest.length === 0) continue;
      const { latest, handle } = stream;
      stream.latest = [];
      const ack = tell(stream);
      for (const { method, body } of latest) {
        this.send({ type: "tell", stream: handle, number: 0, ack, method, body });
      }
    }
    this.flushTold = true;
  }
  sendAck(stream) {
    const ack = tell(stream);
    if (stream.live && stream.handle !== void 0) this.send({ type: "ack", stream: stream.handle, ack });
  }
  handleStreamFrame(now, frame) {
    switch (frame.type) {
      case "bound":
        this.bound(now, frame.stream, frame.kind, frame.epoch, frame.name);
        return;
      case "unbound": {
        const stream = this.byHandle(frame.stream);
        if (stream) this.dropStream(stream, frame.code);
        return;
      }
      case "resumed": {
        const stream = this.byHandle(frame.stream);
        if (!stream) return;
        if (stream.epoch === frame.epoch) {
          stream.durable = Math.max(stream.durable, frame.durable);
          settle(stream, frame.applied, this.limits.resendFramesMax);
          this.acknowledged(stream, frame.applied);
        } else this.startEpoch(stream, frame.epoch, false);
        this.resend(now, stream);
        return;
      }
      case "reply": {
        const known = this.streams.find((stream2) => stream2.handle === frame.stream);
        const told = known && toldAs(known, frame.request);
        const stream = this.arrive(now, frame);
        if (!stream) return;
        const request = stream.waiting.get(frame.request);
        if (request !== void 0) {
          stream.waiting.delete(frame.request);
          this.completeWith(request, frame.status, frame.body);
        } else if (told !== void 0 && frame.status !== Status.Ok) {
          this.events.push({ type: "refused", stream: stream.name, tell: told, status: frame.status });
        }
        return;
      }
      case "push": {
        const stream = this.arrive(now, frame);
        if (stream) this.events.push({ type: "push", stream: stream.name, method: frame.method, body: frame.body.slice() });
        return;
      }
      case "call": {
        const stream = this.arrive(now, frame);
        if (stream) this.called(now, stream, frame.call, now + frame.deadlineMs, frame.method, frame.body.slice());
        return;
      }
      case "ackDown": {
        const stream = this.byHandle(frame.stream);
        if (!stream) return;
        stream.durable = Math.max(stream.durable, frame.durable);
        this.acknowledged(stream, frame.applied);
        return;
      }
      case "cast":
        this.cast(frame.group, frame.number, frame.method, frame.body);
        return;
      case "joined":
        this.joined(frame.group, frame.stream, frame.kind, frame.number, frame.name);
        return;
      case "left":
        this.leave(frame.stream, (group) => group === frame.group);
        return;
      case "fault": {
        const stream = this.byHandle(frame.stream);
        const request = stream?.waiting.get(frame.number);
        if (!stream) return;
        if (request !== void 0) {
          stream.waiting.delete(frame.number);
          this.completeWith(request, frame.status, NOTHING);
          return;
        }
        const told = toldAs(stream, frame.number);
        if (told !== void 0 || frame.number === 0) {
          this.events.push({ type: "refused", stream: stream.name, tell: told, status: frame.status });
        }
        return;
      }
      default:
        throw protocol("a frame out of order");
    }
  }
  byHandle(handle) {
    const found = this.streams.find((stream) => stream.handle === handle);
    if (!found) this.counters.strays++;
    return found;
  }
  acknowledged(stream, number) {
    if (!stream.outbound.acknowledge(number)) throw protocol("an acknowledgement of what was never sent");
  }
  /** Takes note of a frame that arrived; its stream, if the frame is to be handled. */
  arrive(now, frame) {
    const stream = this.byHandle(frame.stream);
    if (!stream) return void 0;
    this.acknowledged(stream, frame.ack);
    if (frame.number === 0) return stream;
    const arrival = stream.inbound.arrive(frame.number);
    if (arrival === "duplicate") return void 0;
    if (arrival === "gap") throw new Break("gap");
    if (stream.inbound.isDue()) this.sendAck(stream);
    else stream.ackAt ??= now + this.limits.ackWaitMs;
    return stream;
  }
  bound(now, handle, kind, epoch, name) {
    const other = this.streams.find((stream2) => stream2.handle === handle);
    let stream = other?.name === name ? other : void 0;
    try {
      stream ??= this.streamNamed(name);
    } catch {
      throw protocol("too many streams");
    }
    if (other && other !== stream) this.dropStream(other, CloseCode.Goodbye);
    if (stream.handle !== void 0 && stream.handle > handle) {
      this.boundLate(handle, kind, epoch, name);
      return;
    }
    if (stream.handle !== void 0 && stream.handle !== handle) {
      stream.retired = true;
      this.leave(stream.handle, () => true);
      this.bound(now, handle, kind, epoch, name);
      return;
    }
    const known = stream.handle !== void 0;
    stream.handle = handle;
    if (known && stream.epoch === epoch && stream.kind === kind) return;
    if (known) this.startEpoch(stream, epoch, stream.kind !== kind);
    stream.kind = kind;
    stream.epoch = epoch;
    if (!stream.retired) this.events.push({ type: "bound", stream: name, kind });
    this.resend(now, stream);
  }
  /** A stream whose name a newer one has already, so nothing will be sent on it. */
  boundLate(handle, kind, epoch, name) {
    if (this.streams.length >= this.limits.streamsMax) throw protocol("too many streams");
    this.streams.push({ ...this.newStream(name), retired: true, handle, kind, epoch, live: true });
  }
  /** The owner begins a new epoch: what it was sent before did not last, what it was not sent is
   * numbered anew. */
  startEpoch(stream, epoch, otherKind) {
    const { outbound, waiting, sent, durable } = stream;
    const touched = sent > 0 || stream.inbound.applied > 0;
    stream.epoch = epoch;
    stream.outbound = this.newOutbound();
    stream.waiting = /* @__PURE__ */ new Map();
    stream.inbound = new Inbound();
    stream.ackAt = void 0;
    stream.sent = 0;
    stream.durable = 0;
    stream.settling = [];
    const failed = [];
    for (const [number, request] of waiting) if (number <= sent) failed.push([request, CallError.rolledBack()]);
    for (const [number, kept] of outbound.kept()) {
      const request = waiting.get(number);
      if (number <= sent || kept.type === "answer" || kept.type === "request" && request === void 0) continue;
      if (otherKind) {
        if (request !== void 0) failed.push([request, CallError.notSent()]);
        continue;
      }
      const renumbered = stream.outbound.push(kept, kept.body.length);
      const pending = request === void 0 ? void 0 : this.requests.get(request);
      if (request === void 0 || !pending) continue;
      stream.waiting.set(renumbered, request);
      pending.number = renumbered;
    }
    for (const [call, { stream: id }] of this.calls) if (id === stream.id) this.calls.delete(call);
    if (touched && !otherKind) this.events.push({ type: "rolledBack", stream: stream.name, durable, sent });
    this.unconfirmed({ name: stream.name, sent }, otherKind ? outbound.kept() : outbound.kept(sent));
    if (stream.handle !== void 0) this.leave(stream.handle, () => true);
    for (const [request, error] of failed) this.complete(request, { error });
  }
  dropStream(stream, code) {
    this.streams = this.streams.filter((known) => known !== stream);
    if (stream.handle !== void 0) this.leave(stream.handle, () => true);
    this.unconfirmed(stream, stream.outbound.kept());
    for (const [call, { stream: id }] of this.calls) if (id === stream.id) this.calls.delete(call);
    for (const [number, request] of stream.waiting) {
      const sent = number <= stream.sent;
      this.complete(request, { error: sent ? CallError.refused(Status.Gone) : CallError.notSent() });
    }
    if (!stream.retired) this.events.push({ type: "unbound", stream: stream.name, code });
  }
  /** Says of the tells among `kept` that it will not become known whether they were handled. */
  unconfirmed(stream, kept) {
    for (const [number, item] of kept) {
      if (item.type !== "tell") continue;
      this.events.push({ type: "unconfirmed", stream: stream.name, tell: item.tell, sent: number <= stream.sent });
    }
  }
  /** Makes room for all streams in a resume: the oldest of those whose name is taken give way. */
  dropOldest() {
    for (; ; ) {
      const bound = this.streams.filter((stream) => stream.handle !== void 0);
      const oldest = bound.find((stream) => stream.retired) ?? bound[0];
      if (bound.length <= RESUME_STREAMS_MAX || !oldest) return;
      this.dropStream(oldest, CloseCode.Limit);
    }
  }
  joined(handle, stream, kind, number, name) {
    if (this.byHandle(stream)?.retired !== false) return;
    const known = this.groups.find((group) => group.handle === handle);
    const last = known?.last ?? number;
    const by = known ? known.streams.filter((other) => other !== stream) : [];
    this.groups = this.groups.filter((group) => group.handle !== handle && group.name !== name);
    const memberships = this.groups.reduce((sum, group) => sum + group.streams.length, by.length);
    if (memberships >= RESUME_GROUPS_MAX) throw protocol("too many groups");
    this.groups.push({ handle, name, last: Math.max(last, number), streams: [...by, stream] });
    this.events.push({ type: "joined", group: name, kind, missed: Math.max(0, number - last) });
  }
  /** Ends the memberships that came by `stream`, of the groups that `meant` names. */
  leave(stream, meant) {
    for (const group of this.groups) {
      if (!meant(group.handle) || !group.streams.includes(stream)) continue;
      group.streams = group.streams.filter((other) => other !== stream);
      if (group.streams.length === 0) this.events.push({ type: "left", group: group.name });
    }
    this.groups = this.groups.filter((group) => group.streams.length > 0);
  }
  called(now, stream, call, deadline, method, body) {
    const known = this.published.has(method);
    if (!known || this.calls.size >= this.limits.callsMax) {
      const status = known ? Status.Busy : Status.UnknownMethod;
      try {
        this.push(now, stream, { type: "answer", call, status, body: NOTHING }, void 0);
      } catch {
      }
      return;
    }
    const id = ++this.callsSeen;
    this.calls.set(id, { stream: stream.id, call, deadline });
    this.events.push({ type: "call", call: id, stream: stream.name, method, deadline, body });
  }
  cast(handle, number, method, body) {
    const group = this.groups.find((known) => known.handle === handle);
    if (!group) {
      this.counters.strays++;
      return;
    }
    if (number !== 0) {
      if (number <= group.last) return;
      if (number > group.last + 1) throw new Break("gap");
      group.last = number;
    }
    this.events.push({ type: "cast", group: group.name, method, body: body.slice() });
  }
  completeWith(request, status, body) {
    if (status === Status.Ok) this.complete(request, { body: body.slice() });
    else if (status === Status.App) this.complete(request, { error: CallError.app(body.slice()) });
    else if (status === Status.Timeout) this.complete(request, { error: CallError.timeout() });
    else if (status === Status.RolledBack) this.complete(request, { error: CallError.rolledBack() });
    else this.complete(request, { error: CallError.refused(status) });
  }
  complete(request, result) {
    if (this.requests.delete(request)) this.events.push({ type: "reply", request, ...result });
  }
  /** Ends a request without an answer. */
  expire(request) {
    const known = this.requests.get(request);
    if (!known) return;
    const stream = this.streams.find((other) => other.id === known.stream);
    stream?.waiting.delete(known.number);
    const sent = !stream || known.number <= stream.sent;
    this.complete(request, { error: sent ? CallError.timeout() : CallError.notSent() });
  }
};

// src/ids.ts
function nameHash(name) {
  let hash = 2166136261;
  for (const byte of textBytes(name)) hash = Math.imul(hash ^ byte, 16777619);
  hash ^= hash >>> 16;
  hash = Math.imul(hash, 2246822507);
  return (hash ^ hash >>> 13) >>> 0;
}
function kindId(name) {
  return nameHash(name);
}
function methodId(path) {
  const dot = path.indexOf(".");
  if (dot < 0) return nameHash(path);
  const field = nameHash(path.slice(0, dot));
  const method = methodId(path.slice(dot + 1));
  const turned = field << 13 | field >>> 19;
  const mixed = turned ^ Math.imul(method, 2654435761);
  return (mixed ^ mixed >>> 15) >>> 0;
}

// src/msgpack.ts
var DEPTH_MAX = 32;
var DecodeError = class _DecodeError extends Error {
  /** Path of the wrong value, such as `items[3].count`; empty for the whole. */
  path;
  /** What is wrong, without the path. */
  problem;
  kind;
  constructor(problem, path = "", kind = "value") {
    super(path ? `${path}: ${problem}` : problem);
    this.name = "DecodeError";
    this.problem = problem;
    this.path = path;
    this.kind = kind;
  }
  /** The same error, one step further out: `"name"` or `"[3]"`. */
  within(step) {
    const joined = this.path === "" || this.path.startsWith("[") ? step + this.path : `${step}.${this.path}`;
    return new _DecodeError(this.problem, joined, this.kind);
  }
};
var Encoder = class {
  out = new Writer(64);
  /** A copy of what was written. */
  bytes() {
    return this.out.bytes();
  }
  nil() {
    this.out.byte(192);
  }
  bool(value) {
    this.out.byte(value ? 195 : 194);
  }
  /** An integer that is not negative and fits 64 bits. */
  uint(value) {
    if (typeof value === "bigint" ? value < 0n || value > 0xffffffffffffffffn : !(Number.isSafeInteger(value) && value >= 0)) {
      throw new RangeError(`${value} is no unsigned integer`);
    }
    const out = this.out;
    if (value < 128) out.byte(Number(value));
    else if (value <= 255) {
      out.byte(204);
      out.byte(Number(value));
    } else if (value <= 65535) {
      out.byte(205);
      out.big("u16", value);
    } else if (value <= 4294967295) {
      out.byte(206);
      out.big("u32", value);
    } else {
      out.byte(207);
      out.big("u64", value);
    }
  }
  /** An integer that fits 64 bits with a sign. */
  int(value) {
    if (typeof value === "bigint" ? value < -(1n << 63n) || value >= 1n << 63n : !Number.isSafeInteger(value)) {
      throw new RangeError(`${value} is no integer`);
    }
    const out = this.out;
    if (value >= 0) this.uint(value);
    else if (value >= -32) out.byte(Number(value) & 255);
    else if (value >= -128) {
      out.byte(208);
      out.byte(Number(value) & 255);
    } else if (value >= -32768) {
      out.byte(209);
      out.big("i16", value);
    } else if (value >= -2147483648) {
      out.byte(210);
      out.big("i32", value);
    } else {
      out.byte(211);
      out.big("i64", value);
    }
  }
  f32(value) {
    this.out.byte(202);
    this.out.big("f32", value);
  }
  f64(value) {
    this.out.byte(203);
    this.out.big("f64", value);
  }
  text(text) {
    const bytes = textBytes(text);
    if (bytes.length < 32) this.out.byte(160 | bytes.length);
    else if (bytes.length <= 255) {
      this.out.byte(217);
      this.out.byte(bytes.length);
    } else this.length(bytes.length, 218, 219);
    this.out.put(bytes);
  }
  binary(bytes) {
    if (bytes.length <= 255) {
      this.out.byte(196);
      this.out.byte(bytes.length);
    } else this.length(bytes.length, 197, 198);
    this.out.put(bytes);
  }
  /** The head of an array; `length` values follow. */
  array(length) {
    if (length < 16) this.out.byte(144 | length);
    else this.length(length, 220, 221);
  }
  /** The head of a map; `length` pairs follow. */
  map(length) {
    if (length < 16) this.out.byte(128 | length);
    else this.length(length, 222, 223);
  }
  /** A value of any type: `null`, booleans, numbers (whole ones as integers), bigints, strings,
   * `Uint8Array` as binary, arrays, and `Map`s. */
  value(value) {
    if (value === null || value === void 0) this.nil();
    else if (typeof value === "boolean") this.bool(value);
    else if (typeof value === "number") Number.isSafeInteger(value) ? this.int(value) : this.f64(value);
    else if (typeof value === "bigint") value < 0n ? this.int(value) : this.uint(value);
    else if (typeof value === "string") this.text(value);
    else if (value instanceof Uint8Array) this.binary(value);
    else if (Array.isArray(value)) {
      this.array(value.length);
      for (const item of value) this.value(item);
    } else if (value instanceof Map) {
      this.map(value.size);
      for (const [key, item] of value) {
        this.value(key);
        this.value(item);
      }
    } else throw new TypeError(`${typeof value} cannot travel; use arrays for structs and Map for maps`);
  }
  length(length, short, long) {
    this.out.byte(length <= 65535 ? short : long);
    this.out.big(length <= 65535 ? "u16" : "u32", length);
  }
};
var Decoder = class {
  data;
  view;
  at = 0;
  depth = 0;
  constructor(bytes) {
    this.data = new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }
  /** How many bytes have not been read. */
  left() {
    return this.data.length - this.at;
  }
  /** Throws if bytes are left over. */
  end() {
    if (this.left() > 0) throw new DecodeError(`${this.left()} bytes follow the value`, "", "trailing");
  }
  /** The first byte of the next value, or `undefined` at the end. */
  peek() {
    return this.data[this.at];
  }
  /** Takes a nil, if one stands here. */
  takeNil() {
    if (this.data[this.at] !== 192) return false;
    this.at++;
    return true;
  }
  nil() {
    if (!this.takeNil()) this.unexpected("nil");
  }
  bool() {
    const head = this.data[this.at];
    if (head !== 194 && head !== 195) this.unexpected("a bool");
    this.at++;
    return head === 195;
  }
  /** An unsigned integer below 2^53 and not above `max`. */
  uint(max = Number.MAX_SAFE_INTEGER) {
    const value = this.integer();
    if (value < 0 || value > max) throw new DecodeError(`${value} is outside 0..=${max}`, "", "range");
    return Number(value);
  }
  /** An unsigned integer of up to 64 bits. */
  uint64() {
    const value = BigInt(this.integer());
    if (value < 0n) throw new DecodeError(`${value} is outside 0..=18446744073709551615`, "", "range");
    return value;
  }
  /** A signed integer within ±2^53 and the given range. */
  int(min = Number.MIN_SAFE_INTEGER, max = Number.MAX_SAFE_INTEGER) {
    const value = this.integer();
    if (value < min || value > max) throw new DecodeError(`${value} is outside ${min}..=${max}`, "", "range");
    return Number(value);
  }
  /** A signed integer of up to 64 bits. */
  int64() {
    const value = BigInt(this.integer());
    if (value >= 1n << 63n) {
      throw new DecodeError(`${value} is outside -9223372036854775808..=9223372036854775807`, "", "range");
    }
    return value;
  }
  integer() {
    const head = this.head();
    if (head < 128) {
      this.at++;
      return head;
    }
    if (head >= 224) {
      this.at++;
      return head - 256;
    }
    switch (head) {
      case 204:
        return this.take(1, (at) => this.view.getUint8(at));
      case 205:
        return this.take(2, (at) => this.view.getUint16(at));
      case 206:
        return this.take(4, (at) => this.view.getUint32(at));
      case 207:
        return this.take(8, (at) => this.view.getBigUint64(at));
      case 208:
        return this.take(1, (at) => this.view.getInt8(at));
      case 209:
        return this.take(2, (at) => this.view.getInt16(at));
      case 210:
        return this.take(4, (at) => this.view.getInt32(at));
      case 211:
        return this.take(8, (at) => this.view.getBigInt64(at));
      default:
        return this.unexpected("an integer");
    }
  }
  /** A float of either width, or an integer. */
  f64() {
    const head = this.head();
    if (head === 202) return this.take(4, (at) => this.view.getFloat32(at));
    if (head === 203) return this.take(8, (at) => this.view.getFloat64(at));
    if (head < 128 || head >= 224 || head >= 204 && head <= 211) return Number(this.integer());
    return this.unexpected("a number");
  }
  /** A number rounded to 32 bits. */
  f32() {
    const wide = this.f64();
    const value = Math.fround(wide);
    if (!Number.isFinite(value) && Number.isFinite(wide)) {
      throw new DecodeError(`${wide} is outside what 32 bits can hold`, "", "range");
    }
    return value;
  }
  text() {
    const head = this.head();
    let length;
    let start;
    if (head >= 160 && head <= 191) [length, start] = [head & 31, 1];
    else if (head === 217) [length, start] = [this.ahead(1), 2];
    else if (head === 218) [length, start] = [this.ahead(2), 3];
    else if (head === 219) [length, start] = [this.ahead(4), 5];
    else return this.unexpected("a text");
    try {
      return readText(this.body(start, length));
    } catch (error) {
      if (error instanceof WireError) throw new DecodeError("text is not UTF-8", "", "utf8");
      throw error;
    }
  }
  /** Binary data, copied. */
  binary() {
    const head = this.head();
    if (head === 196) return this.body(2, this.ahead(1)).slice();
    if (head === 197) return this.body(3, this.ahead(2)).slice();
    if (head === 198) return this.body(5, this.ahead(4)).slice();
    return this.unexpected("binary data");
  }
  /** The head of an array; `leave` after the last item. The bytes can hold that many items. */
  array() {
    const head = this.head();
    let length;
    let start;
    if (head >= 144 && head <= 159) [length, start] = [head & 15, 1];
    else if (head === 220) [length, start] = [this.ahead(2), 3];
    else if (head === 221) [length, start] = [this.ahead(4), 5];
    else return this.unexpected("an array");
    this.at += start;
    if (length > this.left()) this.truncated();
    this.enter();
    return length;
  }
  /** The head of a map; `leave` after the last pair. */
  map() {
    const head = this.head();
    let length;
    let start;
    if (head >= 128 && head <= 143) [length, start] = [head & 15, 1];
    else if (head === 222) [length, start] = [this.ahead(2), 3];
    else if (head === 223) [length, start] = [this.ahead(4), 5];
    else return this.unexpected("a map");
    this.at += start;
    if (length > this.left() / 2) this.truncated();
    this.enter();
    return length;
  }
  /** Whether an array stands here. */
  isArray() {
    const head = this.data[this.at];
    return head >= 144 && head <= 159 || head === 220 || head === 221;
  }
  enter() {
    if (this.depth === DEPTH_MAX) throw new DecodeError(`values are nested deeper than ${DEPTH_MAX}`, "", "depth");
    this.depth++;
  }
  leave() {
    this.depth--;
  }
  /** Skips one value of any type. */
  skip() {
    let open = 1;
    while (open > 0) {
      if (open > this.left()) this.truncated();
      open += this.skipOne() - 1;
    }
  }
  /** Skips one head with its own data; gives how many values are inside. */
  skipOne() {
    const head = this.head();
    const plain = (start, length = 0) => {
      this.body(start, length);
      return 0;
    };
    if (head < 128 || head >= 224) return plain(1);
    if (head <= 143) return plain(1) + 2 * (head & 15);
    if (head <= 159) return plain(1) + (head & 15);
    if (head <= 191) return plain(1, head & 31);
    switch (head) {
      case 192:
      case 194:
      case 195:
        return plain(1);
      case 196:
      case 217:
        return plain(2, this.ahead(1));
      case 197:
      case 218:
        return plain(3, this.ahead(2));
      case 198:
      case 219:
        return plain(5, this.ahead(4));
      case 199:
        return plain(3, this.ahead(1));
      case 200:
        return plain(4, this.ahead(2));
      case 201:
        return plain(6, this.ahead(4));
      case 202:
      case 206:
      case 210:
        return plain(5);
      case 203:
      case 207:
      case 211:
        return plain(9);
      case 204:
      case 208:
        return plain(2);
      case 205:
      case 209:
        return plain(3);
      case 212:
      case 213:
      case 214:
      case 215:
      case 216:
        return plain(2, 1 << head - 212);
      case 220: {
        const items = this.ahead(2);
        return plain(3) + items;
      }
      case 221: {
        const items = this.ahead(4);
        return plain(5) + items;
      }
      case 222: {
        const pairs = this.ahead(2);
        return plain(3) + 2 * pairs;
      }
      case 223: {
        const pairs = this.ahead(4);
        return plain(5) + 2 * pairs;
      }
      default:
        return this.unexpected("a value");
    }
  }
  /** One value of any type. Integers over 2^53 come as bigint, arrays as arrays, maps as `Map`. */
  value() {
    const head = this.head();
    if (head === 192) return this.nil(), null;
    if (head === 194 || head === 195) return this.bool();
    if (head < 128 || head >= 224 || head >= 204 && head <= 211) {
      const value = this.integer();
      const safe = value >= Number.MIN_SAFE_INTEGER && value <= Number.MAX_SAFE_INTEGER;
      return safe ? Number(value) : value;
    }
    if (head === 202 || head === 203) return this.f64();
    if (head >= 160 && head <= 191 || head >= 217 && head <= 219) return this.text();
    if (head >= 196 && head <= 198) return this.binary();
    if (this.isArray()) {
      const items = [];
      for (let left = this.array(); left > 0; left--) items.push(this.value());
      this.leave();
      return items;
    }
    if (head <= 143 || head === 222 || head === 223) {
      const pairs = /* @__PURE__ */ new Map();
      for (let left = this.map(); left > 0; left--) {
        const key = this.value();
        if (pairs.has(key)) throw new DecodeError("key stands twice", "", "duplicate");
        pairs.set(key, this.value());
      }
      this.leave();
      return pairs;
    }
    return this.unexpected("a value");
  }
  head() {
    if (this.at >= this.data.length) this.truncated();
    return this.data[this.at];
  }
  take(length, read) {
    if (this.left() < 1 + length) this.truncated();
    const value = read(this.at + 1);
    this.at += 1 + length;
    return value;
  }
  /** The big-endian number after the head byte. */
  ahead(length) {
    if (this.left() < 1 + length) this.truncated();
    const at = this.at + 1;
    return length === 1 ? this.view.getUint8(at) : length === 2 ? this.view.getUint16(at) : this.view.getUint32(at);
  }
  body(start, length) {
    if (start + length > this.left()) this.truncated();
    const body = this.data.subarray(this.at + start, this.at + start + length);
    this.at += start + length;
    return body;
  }
  truncated() {
    throw new DecodeError("bytes end inside the value", "", "truncated");
  }
  unexpected(expected) {
    const head = this.head();
    throw new DecodeError(`${nameOf(head)} where ${expected} is wanted`, "", "type");
  }
};
function nameOf(head) {
  if (head < 128 || head >= 224 || head >= 204 && head <= 211) return "an integer";
  if (head <= 143 || head === 222 || head === 223) return "a map";
  if (head <= 159 || head === 220 || head === 221) return "an array";
  if (head <= 191 || head >= 217 && head <= 219) return "a text";
  if (head === 192) return "nil";
  if (head === 193) return "the unused byte 0xc1";
  if (head === 194 || head === 195) return "a bool";
  if (head >= 196 && head <= 198) return "binary data";
  if (head === 202 || head === 203) return "a float";
  return "an extension";
}
var Fields = class _Fields {
  left;
  inArray;
  constructor(left, inArray) {
    this.left = left;
    this.inArray = inArray;
  }
  /** Takes the head of a struct or argument list. */
  static begin(d) {
    return new _Fields(d.array(), true);
  }
  /** Takes the number of an enum's variant: `number` or `[number, fields...]`. */
  static variant(d) {
    if (!d.isArray()) return { number: d.uint(), fields: new _Fields(0, false) };
    const left = d.array();
    if (left === 0) throw new DecodeError("field is missing", "", "missing");
    return { number: d.uint(), fields: new _Fields(left - 1, true) };
  }
  /** Takes a field that must be there. */
  required(d, name, read) {
    if (this.left === 0) throw new DecodeError("field is missing", name, "missing");
    this.left--;
    return within(name, () => read(d));
  }
  /** Takes a field, or its default if the writer did not have it or wrote nil. */
  orElse(d, name, read, otherwise, nilIsValue = false) {
    if (this.left === 0) return otherwise();
    this.left--;
    if (!nilIsValue && d.takeNil()) return otherwise();
    return within(name, () => read(d));
  }
  /** Skips a retired field. */
  retired(d) {
    if (this.left === 0) return;
    this.left--;
    d.skip();
  }
  /** Skips what the reader does not know. */
  end(d) {
    for (; this.left > 0; this.left--) d.skip();
    if (this.inArray) d.leave();
  }
};
function within(step, read) {
  try {
    return read();
  } catch (error) {
    throw error instanceof DecodeError ? error.within(step) : error;
  }
}
function encodeValue(value) {
  const encoder = new Encoder();
  encoder.value(value);
  return encoder.bytes();
}
function decodeValue(bytes) {
  const decoder = new Decoder(bytes);
  const value = decoder.value();
  decoder.end();
  return value;
}

// src/session.ts
var AppError = class extends Error {
  body;
  constructor(body) {
    super("the method's own error");
    this.name = "AppError";
    this.body = body;
  }
};
var Handlers = class {
  byMethod = /* @__PURE__ */ new Map();
  add(method, handler) {
    let known = this.byMethod.get(method);
    if (!known) this.byMethod.set(method, known = /* @__PURE__ */ new Set());
    known.add(handler);
    return () => known.delete(handler);
  }
  run(method, body, failed) {
    for (const handler of this.byMethod.get(method) ?? []) {
      try {
        handler(body);
      } catch (error) {
        failed(error);
      }
    }
  }
};
var Stream = class {
  name;
  session;
  /** @internal */
  handlers = new Handlers();
  /** @internal */
  answerers = /* @__PURE__ */ new Map();
  /** @internal */
  constructor(session, name) {
    this.session = session;
    this.name = name;
  }
  /** Whether the server has bound it to an entity. */
  get isBound() {
    return this.session.core?.isBound(this.name) ?? false;
  }
  /** Calls a method; gives the encoded answer or throws `CallError`. Waits for the binding and
   * over broken connections, at most until the deadline. */
  request(method, body, options = {}) {
    return this.session.request(this.name, method, body, options);
  }
  /** Sends a message: in order and at most once. The number it gives names it in the events
   * `refused` and `unconfirmed`. With `latest` only the newest per key matters, it may be lost, and
   * has the number 0. Throws `CallError` if it was not taken. */
  tell(method, body, options = {}) {
    return this.session.tell(this.name, method, body, options.latest);
  }
  /** Handles a message of the entity. Gives a function that stops it. */
  on(method, handler) {
    return this.handlers.add(method, handler);
  }
  /** Publishes a method that the entity may call. Methods not published cannot be called. */
  answer(method, answerer) {
    this.answerers.set(method, answerer);
    this.session.publish(method);
  }
};
var Group = class {
  name;
  /** @internal */
  handlers = new Handlers();
  /** Whether we are a member now. */
  isMember = false;
  /** @internal */
  constructor(name) {
    this.name = name;
  }
  /** Handles a message to the group. Gives a function that stops it. */
  on(method, handler) {
    return this.handlers.add(method, handler);
  }
};
var Session = class {
  /** Where it stands now. */
  state = "connecting";
  /** Settles when the server lets us in for the first time, or cannot. */
  ready;
  /** @internal */
  core;
  options;
  urls;
  streams = /* @__PURE__ */ new Map();
  groups = /* @__PURE__ */ new Map();
  pending = /* @__PURE__ */ new Map();
  published = /* @__PURE__ */ new Set();
  listeners = /* @__PURE__ */ new Map();
  waiting = [];
  connection;
  opened = false;
  timer;
  pumping = false;
  comeBack = () => this.hurry();
  /** Starts to log in. */
  constructor(options) {
    this.options = options;
    const url = options.url ?? pageUrl();
    this.urls = typeof url === "string" ? [url] : url;
    if (this.urls.length === 0) throw new TypeError("no url to connect to");
    this.ready = new Promise((resolve, reject) => {
      const first = this.on("connected", () => settle2(resolve));
      const never = this.on("ended", ({ end }) => settle2(() => reject(CallError.ended(end))));
      const settle2 = (done) => (first(), never(), done());
    });
    this.ready.catch(() => {
    });
    if (typeof addEventListener === "function") addEventListener("online", this.comeBack);
    void this.begin();
  }
  /** The stream called `name`. */
  stream(name) {
    let stream = this.streams.get(name);
    if (!stream) this.streams.set(name, stream = new Stream(this, name));
    return stream;
  }
  /** The group called `name`. */
  group(name) {
    let group = this.groups.get(name);
    if (!group) this.groups.set(name, group = new Group(name));
    return group;
  }
  /** Calls `listener` at each event of this type. Gives a function that stops it. */
  on(type, listener) {
    let known = this.listeners.get(type);
    if (!known) this.listeners.set(type, known = /* @__PURE__ */ new Set());
    known.add(listener);
    return () => known.delete(listener);
  }
  /** Counters so far; `undefined` before the grant has come. */
  stats() {
    return this.core?.stats();
  }
  /** The server's wall clock in milliseconds since 1970, as far as the handshake told. */
  serverWallMs() {
    return this.core?.serverWallMs(performance.now());
  }
  /** Measures the round trip now. */
  measure() {
    this.act((core) => core.measure(performance.now()));
  }
  /** Breaks the connection on purpose; the session resumes. */
  cut() {
    this.act((core) => core.cut(performance.now()));
  }
  /** Tries to connect now instead of at the end of the pause. */
  hurry() {
    this.act((core) => {
      core.hurry(performance.now());
      core.handleTimeout(performance.now());
    });
  }
  /** Says goodbye. Open requests fail. */
  close() {
    if (this.core && !this.core.isEnded()) this.act((core) => core.close());
    else if (this.state !== "ended") this.finish({ kind: "goodbye" });
  }
  /** @internal */
  request(stream, method, body, options) {
    return new Promise((resolve, reject) => {
      const send = () => {
        const core = this.core;
        if (this.state === "ended" || !core) return reject(CallError.ended({ kind: "goodbye" }));
        let id;
        try {
          id = core.request(performance.now(), stream, method, body, options.deadlineMs);
        } catch (error) {
          return reject(error);
        }
        const { signal } = options;
        const cancel = () => this.act((core2) => core2.cancel(id));
        signal?.addEventListener("abort", cancel);
        this.pending.set(id, { resolve, reject, done: () => signal?.removeEventListener("abort", cancel) });
        if (signal?.aborted) cancel();
        this.pump();
      };
      if (this.core || this.state === "ended") send();
      else if (this.waiting.length < 256) this.waiting.push(send);
      else reject(CallError.full(this.waiting.length, 0));
    });
  }
  /** @internal */
  tell(stream, method, body, latest) {
    if (!this.core) throw CallError.notBound(stream);
    let tell2 = 0;
    if (latest === void 0) tell2 = this.core.tell(performance.now(), stream, method, body);
    else this.core.tellLatest(stream, method, String(latest), body);
    if (!this.pumping) queueMicrotask(() => this.pump());
    return tell2;
  }
  /** @internal */
  publish(method) {
    this.published.add(method);
    this.core?.publish(method);
  }
  /** Gets a grant and starts the core. */
  async begin() {
    const { grant, agent, interfaceHash, limits } = this.options;
    let got;
    try {
      got = typeof grant === "function" ? await grant() : grant;
    } catch (error) {
      this.finish({ kind: "protocol", reason: `no ticket: ${error instanceof Error ? error.message : error}` });
      return;
    }
    if (this.state === "ended") return;
    if (this.core) this.core.login(performance.now(), got);
    else {
      this.core = new Core(got, { agent, interfaceHash, limits, random: Math.random });
      for (const method of this.published) this.core.publish(method);
      this.core.start(performance.now());
    }
    for (const send of this.waiting.splice(0)) send();
    this.pump();
  }
  act(act) {
    if (!this.core) return;
    act(this.core);
    this.pump();
  }
  /** Does what the core wants until it wants nothing more. */
  pump() {
    const { core } = this;
    if (!core || this.pumping) return;
    this.pumping = true;
    try {
      for (; ; ) {
        const output = core.pollOutput();
        if (output?.type === "connect") this.connect(output.attempt);
        else if (output?.type === "close") this.drop();
        else if (output?.type === "flush") this.flush();
        if (output) continue;
        const event = core.pollEvent();
        if (!event) break;
        this.handle(event);
      }
    } finally {
      this.pumping = false;
    }
    this.arm();
  }
  arm() {
    clearTimeout(this.timer);
    const at = this.core?.pollTimeout();
    if (at === void 0) return;
    const inMs = Math.min(Math.max(0, at - performance.now()) + 1, 2147483647);
    this.timer = setTimeout(() => this.act((core) => core.handleTimeout(performance.now())), inMs);
  }
  connect(attempt) {
    const url = this.urls[(attempt - 1) % this.urls.length];
    const listener = {
      opened: (transport) => {
        this.opened = true;
        this.act((core) => core.handleConnected(performance.now(), transport));
      },
      received: (bytes) => this.act((core) => core.handleBytes(performance.now(), bytes)),
      closed: () => {
        this.connection = void 0;
        this.act((core) => core.handleClosed(performance.now()));
      }
    };
    this.opened = false;
    try {
      this.connection = (this.options.connector ?? connect)(url, listener);
    } catch (error) {
      this.finish({ kind: "protocol", reason: error instanceof Error ? error.message : String(error) });
    }
  }
  drop() {
    this.connection?.close();
    this.connection = void 0;
  }
  flush() {
    const { connection, core } = this;
    if (!connection || !core || !this.opened) return;
    if (connection.buffered() > 256 * 1024) {
      setTimeout(() => this.connection === connection && (this.flush(), this.arm()), 50);
      return;
    }
    const bytes = core.takeOutgoing();
    if (bytes.length > 0) connection.send(bytes);
  }
  handle(event) {
    switch (event.type) {
      case "reply": {
        const pending = this.pending.get(event.request);
        this.pending.delete(event.request);
        pending?.done?.();
        if (event.body) pending?.resolve(event.body);
        else pending?.reject(event.error);
        return;
      }
      case "push":
        this.streams.get(event.stream)?.handlers.run(event.method, event.body, this.failed);
        return;
      case "cast":
        this.groups.get(event.group)?.handlers.run(event.method, event.body, this.failed);
        return;
      case "call":
        void this.answer(event.call, event.stream, event.method, event.body);
        return;
      case "connected":
        this.state = "connected";
        this.emit("connected", { resumed: event.resumed });
        return;
      case "lost":
        this.state = "reconnecting";
        this.emit("lost", { reason: event.reason });
        return;
      case "retry":
        this.emit("retry", { attempt: event.attempt, inMs: Math.max(0, event.at - performance.now()) });
        return;
      case "ended":
        this.ended(event.end);
        return;
      case "bound":
      case "unbound":
      case "refused":
      case "unconfirmed":
      case "rolledBack":
        this.emit(event.type, event);
        return;
      case "joined":
        this.group(event.group).isMember = true;
        this.emit("joined", event);
        return;
      case "left":
        this.group(event.group).isMember = false;
        this.emit("left", event);
        return;
    }
  }
  async answer(call, stream, method, body) {
    const answerer = this.streams.get(stream)?.answerers.get(method);
    let status = Status.Ok;
    let answer = new Uint8Array(0);
    try {
      if (answerer) answer = await answerer(body);
      else status = Status.UnknownMethod;
    } catch (error) {
      if (error instanceof AppError) [status, answer] = [Status.App, error.body];
      else if (error instanceof DecodeError) status = Status.BadArgument;
      else {
        status = Status.Failed;
        this.failed(error);
      }
    }
    this.act((core) => {
      try {
        core.answer(performance.now(), call, status, answer);
      } catch {
      }
    });
  }
  ended(end) {
    for (const group of this.groups.values()) group.isMember = false;
    const renews = this.options.renew !== false && typeof this.options.grant === "function";
    if (renews && nextAfter(end) === "login" && !this.renewing) {
      this.renewing = true;
      this.state = "reconnecting";
      const healed = this.on("connected", () => {
        this.renewing = false;
        healed();
      });
      void this.begin();
      return;
    }
    this.finish(end);
  }
  renewing = false;
  finish(end) {
    if (this.state === "ended") return;
    this.state = "ended";
    clearTimeout(this.timer);
    if (typeof removeEventListener === "function") removeEventListener("online", this.comeBack);
    this.drop();
    for (const send of this.waiting.splice(0)) send();
    for (const pending of this.pending.values()) pending.reject(CallError.ended(end));
    this.pending.clear();
    this.emit("ended", { end });
  }
  emit(type, event) {
    for (const listener of this.listeners.get(type) ?? []) {
      try {
        listener(event);
      } catch (error) {
        if (type === "error") console.error(error);
        else this.failed(error);
      }
    }
  }
  failed = (error) => {
    if (this.listeners.get("error")?.size) this.emit("error", { error });
    else console.error(error);
  };
};
function pageUrl() {
  if (typeof location === "undefined") throw new TypeError("outside a page, say which url to connect to");
  return `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/play`;
}
export {
  AppError,
  CallError,
  CloseCode,
  Core,
  DEFAULT_LIMITS,
  DEPTH_MAX,
  DecodeError,
  Decoder,
  Encoder,
  Fields,
  Group,
  PREFACE,
  PassRefused,
  Reader,
  Session,
  Status,
  Stream,
  VERSION,
  WireError,
  Writer,
  closeName,
  connect,
  decodeDown,
  decodeUp,
  decodeValue,
  encodeDown,
  encodeUp,
  encodeValue,
  endText,
  guestGrant,
  hmacSha256,
  kindId,
  loginProof,
  mayResume,
  methodId,
  nameHash,
  nextAfter,
  putFrame,
  readGrant,
  resumeProof,
  sha256,
  splitFrame,
  statusName,
  within
};
