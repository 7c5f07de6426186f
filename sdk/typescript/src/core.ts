/** The protocol as a pure state machine: no I/O, no clock, no randomness of its own. The same
 * machine as the Rust SDK's `client::Core`; times are milliseconds of the caller's clock. */

import { WireError, Writer } from "./bytes.ts";
import { CallError, type End, type Lost } from "./error.ts";
import {
  CloseCode,
  type DownFrame,
  PREFACE,
  RESUME_GROUPS_MAX,
  RESUME_STREAMS_MAX,
  Status,
  type UpFrame,
  VERSION,
  type Welcome,
  closeName,
  decodeDown,
  mayResume,
  putFrame,
  splitFrame,
} from "./frame.ts";
import { DEFAULT_LIMITS, type Limits } from "./limits.ts";
import { Inbound, Outbound } from "./numbers.ts";
import { type Kept, NOTHING, type Stream, hold, isCalled, settle, tell, toldAs, upFrame } from "./stream.ts";
import { type Grant, loginProof, resumeProof } from "./ticket.ts";

/** What happened, in order. */
export type CoreEvent =
  | { type: "connected"; session: Uint8Array; resumed: boolean }
  | { type: "bound"; stream: string; kind: number }
  | { type: "unbound"; stream: string; code: CloseCode }
  | { type: "push"; stream: string; method: number; body: Uint8Array }
  | { type: "call"; call: number; stream: string; method: number; deadline: number; body: Uint8Array }
  /** We are in a group now, or still are; `missed` of its messages are lost to us for good. */
  | { type: "joined"; group: string; kind: number; missed: number }
  | { type: "left"; group: string }
  | { type: "cast"; group: string; method: number; body: Uint8Array }
  /** A request ended; exactly once for each that was taken. */
  | { type: "reply"; request: number; body?: Uint8Array; error?: CallError }
  /** A tell reached the entity's node but was not taken, such as by a full mailbox. `tell` is
   * `undefined` for one that was sent as `latest`. */
  | { type: "refused"; stream: string; tell: number | undefined; status: Status }
  /** The stream of a tell ended before the server said that it was handled. If it was `sent` its
   * outcome is unknown; if not, it did not run and will not. */
  | { type: "unconfirmed"; stream: string; tell: number; sent: boolean }
  /** Commands after `durable` did not last; requests among them that waited have failed. */
  | { type: "rolledBack"; stream: string; durable: number; sent: number }
  | { type: "lost"; reason: Lost }
  | { type: "retry"; attempt: number; at: number }
  | { type: "ended"; end: End };

/** What the loop around a `Core` has to do: connect, send `takeOutgoing()`, or drop the connection
 * and report nothing more of it. */
export type CoreOutput = { type: "connect"; attempt: number } | { type: "flush" } | { type: "close" };

/** Counters of one session, and what its pings measured. */
export interface Stats {
  /** The last round trip in milliseconds, or `undefined` before the first. */
  rtt: number | undefined;
  rttSmooth: number;
  jitter: number;
  bytesIn: number;
  bytesOut: number;
  framesIn: number;
  framesOut: number;
  logins: number;
  resumes: number;
  losses: number;
  requests: number;
  resent: number;
  /** Frames for streams or groups that we do not have. */
  strays: number;
}

type State =
  | { at: "rest" }
  | { at: "pausing"; until: number }
  | { at: "connecting"; until: number }
  | { at: "greeting"; until: number }
  | { at: "admitting"; until: number; resuming: boolean }
  | { at: "up"; since: number };

/** Thrown inside to end the connection or the session. */
class Break {
  readonly lost: Lost | undefined;
  readonly end: End | undefined;
  constructor(lost: Lost | undefined, end?: End) {
    this.lost = lost;
    this.end = end;
  }
}

function protocol(reason: string): Break {
  return new Break(undefined, { kind: "protocol", reason });
}

/** One client. After each `handle...` and each act, call `pollOutput` until it gives `undefined`,
 * then `pollEvent`. Call `handleTimeout` when `pollTimeout` has passed. */
export class Core {
  private readonly limits: Limits;
  private readonly agent: string;
  private readonly interfaceHash: bigint;
  private readonly random: () => number;
  private grant: Grant | undefined;
  private endedBy: End | undefined;
  private resume: { session: Uint8Array; secret: Uint8Array; token: Uint8Array; generation: number } | undefined;
  private state: State = { at: "rest" };
  private attached = false;
  private wantsConnect: number | undefined;
  private wantsClose = false;
  private flushTold = false;
  private inbox: Uint8Array = NOTHING;
  private readonly outbox = new Writer();
  private events: CoreEvent[] = [];
  private streak = 0;
  private tries = 0;
  private heartbeat: number;
  private sendBytesMax: number;
  private heardAt = 0;
  private pingAt = 0;
  private ping: { token: bigint; at: number } | undefined;
  private pings = 0n;
  private serverWall: { wallMs: number; at: number } | undefined;
  private streams: Stream[] = [];
  private streamsMade = 0;
  /** `streams`: handles of the streams by which we are members. */
  private groups: { handle: number; name: string; last: number; streams: number[] }[] = [];
  private requests = new Map<number, { stream: number; number: number; deadline: number }>();
  private requestsMade = 0;
  private tellsMade = 0;
  private calls = new Map<number, { stream: number; call: bigint; deadline: number }>();
  private callsSeen = 0;
  private published = new Set<number>();
  private counters: Stats = {
    rtt: undefined,
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
    strays: 0,
  };

  /** `random` gives numbers in 0..1, for the jitter of pauses. */
  constructor(
    grant: Grant,
    options: { agent?: string; interfaceHash?: bigint; limits?: Partial<Limits>; random: () => number },
  ) {
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
  start(now: number): void {
    if (this.state.at !== "rest" || !this.grant) return;
    this.tries = 0;
    this.streak = 0;
    this.connect(now);
  }

  /** Starts over as a new session; one that still goes on is dropped and its requests fail. */
  login(now: number, grant: Grant): void {
    if (this.state.at !== "rest") this.finish({ kind: "goodbye" });
    this.grant = grant;
    this.endedBy = undefined;
    this.start(now);
  }

  /** Says goodbye and ends the session. */
  close(): void {
    if (this.state.at === "rest") return;
    if (this.state.at === "up") {
      this.send({ type: "close", code: CloseCode.Goodbye, reason: "" });
      this.wantsClose = true;
    }
    this.finish({ kind: "goodbye" });
  }

  /** Breaks the connection on purpose; the session resumes after the usual pause. */
  cut(now: number): void {
    if (this.attached && this.isBusy()) this.lose(now, "cut");
  }

  /** Tries to connect now instead of at the end of the pause, as when the network came back. */
  hurry(now: number): void {
    if (this.state.at === "pausing") this.state = { at: "pausing", until: now };
  }

  /** Allows the server to call `method`. Other calls are answered `UnknownMethod`. */
  publish(method: number): void {
    this.published.add(method);
  }

  /** Sends a request; it ends with a `reply` event. Without `deadlineMs` the method's own holds.
   * Throws `CallError` (`full`, `too long`, `ended`) if nothing was taken. */
  request(now: number, stream: string, method: number, body: Uint8Array, deadlineMs?: number): number {
    if (this.requests.size >= this.limits.requestsMax) throw CallError.full(this.requests.size, 0);
    const known = this.streamNamed(stream);
    const request = this.requestsMade + 1;
    const deadline = now + (deadlineMs ?? this.limits.requestWaitMs);
    const kept: Kept = { type: "request", request, method, own: deadlineMs === undefined, body };
    const number = this.push(now, known, kept, deadline);
    this.requestsMade = request;
    this.counters.requests++;
    known.waiting.set(number, request);
    this.requests.set(request, { stream: known.id, number, deadline });
    return request;
  }

  /** Forgets a request: it completes with `timeout` or `not sent` at once. */
  cancel(request: number): void {
    this.expire(request);
  }

  /** Sends a message: in order, at most once, kept over breaks. Throws `CallError`. The number it
   * gives names the tell in `refused` and `unconfirmed`; without such an event it was handled. */
  tell(now: number, stream: string, method: number, body: Uint8Array): number {
    const tell = this.tellsMade + 1;
    this.push(now, this.boundNamed(stream), { type: "tell", tell, method, body }, undefined);
    this.tellsMade = tell;
    return tell;
  }

  /** Sends a message of which only the newest per `key` matters. Throws `CallError`. */
  tellLatest(stream: string, method: number, key: string, body: Uint8Array): void {
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
  answer(now: number, call: number, status: Status, body: Uint8Array): void {
    const waiting = this.calls.get(call);
    if (!waiting) return;
    const stream = this.streams.find((known) => known.id === waiting.stream);
    if (!stream) return;
    this.push(now, stream, { type: "answer", call: waiting.call, status, body }, undefined);
    this.calls.delete(call);
  }

  /** Measures the round trip now, instead of at the next heartbeat. */
  measure(now: number): void {
    if (this.state.at === "up" && !this.ping) this.sendPing(now);
  }

  // -- what goes on --

  isConnected(): boolean {
    return this.state.at === "up";
  }

  isEnded(): boolean {
    return this.state.at === "rest";
  }

  isBound(stream: string): boolean {
    return this.streams.some((known) => isCalled(known, stream) && known.handle !== undefined);
  }

  /** The names of the bound streams. */
  boundStreams(): string[] {
    return this.streams.filter((known) => known.handle !== undefined && !known.retired).map((known) => known.name);
  }

  requestsOpen(): number {
    return this.requests.size;
  }

  stats(): Stats {
    return { ...this.counters };
  }

  /** The server's wall clock, as far as the handshake told. */
  serverWallMs(now: number): number | undefined {
    return this.serverWall && this.serverWall.wallMs + (now - this.serverWall.at);
  }

  // -- outputs --

  pollOutput(): CoreOutput | undefined {
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
    if (this.wantsConnect === undefined) return undefined;
    const attempt = this.wantsConnect;
    this.wantsConnect = undefined;
    this.attached = true;
    return { type: "connect", attempt };
  }

  /** Takes the bytes to send. A driver whose transport holds much already comes back later, so
   * that newer states may still replace older ones. */
  takeOutgoing(): Uint8Array {
    this.putLatest();
    return this.outbox.take();
  }

  pollEvent(): CoreEvent | undefined {
    return this.events.shift();
  }

  /** When `handleTimeout` has something to do; `undefined` if never. */
  pollTimeout(): number | undefined {
    let at = Infinity;
    if (this.state.at === "up") {
      at = Math.min(this.pingAt, this.deadAt());
      for (const stream of this.streams) at = Math.min(at, stream.ackAt ?? Infinity);
    } else if (this.state.at !== "rest") at = this.state.until;
    for (const request of this.requests.values()) at = Math.min(at, request.deadline);
    for (const call of this.calls.values()) at = Math.min(at, call.deadline);
    return at === Infinity ? undefined : at;
  }

  // -- inputs --

  /** The connection asked for stands. A plain TCP one begins with the preface. */
  handleConnected(now: number, transport: "tcp" | "websocket"): void {
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
  handleClosed(now: number): void {
    this.attached = false;
    if (this.isBusy()) this.lose(now, "closed");
  }

  /** Bytes arrived; a later call may bring the rest of a frame. */
  handleBytes(now: number, bytes: Uint8Array): void {
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
  handleTimeout(now: number): void {
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
      if (stream.ackAt !== undefined && stream.ackAt <= now) this.sendAck(stream);
    }
  }

  // -- connection --

  /** Handles all whole frames; how many bytes they took, or all if the connection is over. */
  private handleFrames(now: number, bytes: Uint8Array): number {
    let at = 0;
    for (;;) {
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

  private handleFrame(now: number, frame: DownFrame): void {
    switch (frame.type) {
      case "close":
        throw this.told(frame.code, frame.reason);
      case "ping":
        this.send({ type: "pong", token: frame.token });
        return;
      case "pong":
        if (this.ping?.token === frame.token) {
          this.measured(now - this.ping.at);
          this.ping = undefined;
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

  private told(code: CloseCode, reason: string): Break {
    if (!mayResume(code)) return new Break(undefined, { kind: "server", code, reason });
    // Coming back at once would make it worse.
    if (code === CloseCode.Limit || code === CloseCode.Unavailable) this.streak = Math.max(this.streak, 1);
    return new Break(`told ${closeName(code)}`);
  }

  /** Shows ticket or resume token, with a proof that it is ours. */
  private prove(now: number, nonce: Uint8Array): void {
    const resume = this.resume;
    this.state = { at: "admitting", until: now + this.limits.handshakeWaitMs, resuming: resume !== undefined };
    if (resume) {
      // Each attempt asks for the next generation, so that the server can tell a late one.
      resume.generation++;
      this.dropOldest();
      const streams = this.streams
        .filter((stream) => stream.handle !== undefined)
        .map((stream) => ({ handle: stream.handle as number, number: stream.inbound.applied }));
      const groups = this.groups.flatMap(({ handle, last, streams: by }) =>
        by.map((stream) => ({ group: handle, stream, number: last })),
      );
      const proof = resumeProof(resume.secret, nonce, resume.token, resume.generation);
      this.send({ type: "resume", token: resume.token, proof, generation: resume.generation, streams, groups });
    } else if (this.grant) {
      const proof = loginProof(this.grant.secret, nonce, this.grant.ticket);
      this.send({ type: "login", ticket: this.grant.ticket, proof });
    }
  }

  private welcome(now: number, resuming: boolean, welcome: Welcome): void {
    const secret = this.resume?.secret ?? this.grant?.secret;
    if (!secret) throw protocol("a welcome for nobody");
    const resumed = resuming && welcome.resumed;
    // The server began anew: nothing of before lasts.
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

  private sendPing(now: number): void {
    this.pingAt = now + this.heartbeat;
    this.ping = { token: ++this.pings, at: now };
    this.send({ type: "ping", token: this.pings });
  }

  private measured(rtt: number): void {
    const counters = this.counters;
    if (counters.rtt === undefined) counters.rttSmooth = rtt;
    else {
      counters.rttSmooth = (counters.rttSmooth * 7 + rtt) / 8;
      counters.jitter = (counters.jitter * 15 + Math.abs(rtt - counters.rtt)) / 16;
    }
    counters.rtt = rtt;
  }

  private deadAt(): number {
    return this.heardAt + this.heartbeat * this.limits.missedMax;
  }

  /** Whether there is a connection, or one is being made. */
  private isBusy(): boolean {
    return this.state.at !== "rest" && this.state.at !== "pausing";
  }

  private connect(now: number): void {
    this.tries++;
    this.state = { at: "connecting", until: now + this.limits.connectWaitMs };
    this.wantsConnect = this.tries;
  }

  /** The connection is of no use any more: pause, then connect again. */
  private lose(now: number, reason: Lost): void {
    if (this.attached) this.wantsClose = true;
    this.wantsConnect = undefined;
    this.clearBuffers();
    this.ping = undefined;
    if (this.state.at === "up") {
      this.counters.losses++;
      if (now - this.state.since >= this.limits.stableAfterMs) this.streak = 0;
      this.events.push({ type: "lost", reason });
    }
    for (const stream of this.streams) hold(stream);
    if (this.limits.triesMax !== undefined && this.tries >= this.limits.triesMax) {
      this.finish({ kind: "unreachable" });
      return;
    }
    this.streak++;
    const { retryFirstMs, retryMaxMs } = this.limits;
    const pause = Math.min(retryFirstMs * 2 ** Math.min(this.streak - 1, 30), retryMaxMs);
    // Jitter of a quarter up or down keeps a crowd from coming back in step.
    const at = now + pause * (0.75 + 0.5 * this.random());
    this.state = { at: "pausing", until: at };
    this.events.push({ type: "retry", attempt: this.tries + 1, at });
  }

  /** Ends the session: fails all requests, forgets streams and groups. */
  private finish(end: End): void {
    this.state = { at: "rest" };
    this.wantsConnect = undefined;
    // A farewell that was just written still goes out.
    if (this.attached && !this.wantsClose) {
      this.clearBuffers();
      this.wantsClose = true;
    }
    this.grant = undefined;
    this.resume = undefined;
    this.endedBy = end;
    this.forgetStreams(CallError.ended(end));
    this.events.push({ type: "ended", end });
  }

  private forgetStreams(error: CallError): void {
    for (const stream of this.streams) this.unconfirmed(stream, stream.outbound.kept());
    const failed = [...this.requests.keys()];
    this.requests.clear();
    for (const request of failed) this.events.push({ type: "reply", request, error });
    this.calls.clear();
    this.streams = [];
    this.groups = [];
  }

  private send(frame: UpFrame): void {
    const before = this.outbox.length;
    putFrame(this.outbox, frame);
    this.counters.bytesOut += this.outbox.length - before;
    this.counters.framesOut++;
    this.flushTold = false;
  }

  private hasOutgoing(): boolean {
    return this.outbox.length > 0 || this.streams.some((stream) => stream.live && stream.latest.length > 0);
  }

  private clearBuffers(): void {
    this.inbox = NOTHING;
    this.outbox.truncate(0);
  }

  // -- streams --

  private streamNamed(name: string): Stream {
    if (this.endedBy) throw CallError.ended(this.endedBy);
    const known = this.streams.find((stream) => isCalled(stream, name));
    if (known) return known;
    if (this.streams.length >= this.limits.streamsMax) throw CallError.full(this.streams.length, 0);
    const stream = this.newStream(name);
    this.streams.push(stream);
    return stream;
  }

  private newStream(name: string): Stream {
    return {
      id: ++this.streamsMade,
      name,
      retired: false,
      handle: undefined,
      kind: 0,
      epoch: 0n,
      live: false,
      outbound: this.newOutbound(),
      sent: 0,
      durable: 0,
      inbound: new Inbound(),
      ackAt: undefined,
      waiting: new Map(),
      settling: [],
      latest: [],
    };
  }

  private newOutbound(): Outbound<Kept> {
    return new Outbound(this.limits.resendFramesMax, this.limits.resendBytesMax);
  }

  private boundNamed(name: string): Stream {
    const known = this.streams.find((stream) => isCalled(stream, name) && stream.handle !== undefined);
    if (known) return known;
    throw this.endedBy ? CallError.ended(this.endedBy) : CallError.notBound(name);
  }

  private checkLength(body: number): void {
    // Head, handle, number, acknowledgement, method and deadline at their longest.
    const length = body + 40;
    if (length > this.sendBytesMax) throw CallError.tooLong(length, this.sendBytesMax);
  }

  /** Numbers and keeps a command, and sends it if the stream is live. */
  private push(now: number, stream: Stream, kept: Kept, deadline: number | undefined): number {
    this.checkLength(kept.body.length);
    const { outbound } = stream;
    if (outbound.isFull(kept.body.length)) throw CallError.full(outbound.size, outbound.bytes);
    const number = outbound.push(kept, kept.body.length);
    if (stream.live && stream.handle !== undefined) {
      stream.sent = number;
      this.send(upFrame(stream.handle, kept, number, tell(stream), now, deadline));
    }
    return number;
  }

  /** Sends all kept commands of a stream, in order. */
  private resend(now: number, stream: Stream): void {
    if (stream.handle === undefined) return;
    stream.live = true;
    this.flushTold = false;
    if (stream.outbound.size === 0) return;
    const ack = tell(stream);
    for (const [number, kept] of stream.outbound.kept()) {
      const request = stream.waiting.get(number);
      const deadline = request === undefined ? undefined : this.requests.get(request)?.deadline;
      this.send(upFrame(stream.handle, kept, number, ack, now, deadline));
      if (number <= stream.sent) this.counters.resent++;
    }
    stream.sent = stream.outbound.last;
  }

  private putLatest(): void {
    for (const stream of this.streams) {
      if (!stream.live || stream.handle === undefined || stream.latest.length === 0) continue;
      const { latest, handle } = stream;
      stream.latest = [];
      const ack = tell(stream);
      for (const { method, body } of latest) {
        this.send({ type: "tell", stream: handle, number: 0, ack, method, body });
      }
    }
    this.flushTold = true;
  }

  private sendAck(stream: Stream): void {
    const ack = tell(stream);
    if (stream.live && stream.handle !== undefined) this.send({ type: "ack", stream: stream.handle, ack });
  }

  private handleStreamFrame(now: number, frame: DownFrame): void {
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
        // Its own `ack` forgets the tell that it refuses.
        const known = this.streams.find((stream) => stream.handle === frame.stream);
        const told = known && toldAs(known, frame.request);
        const stream = this.arrive(now, frame);
        if (!stream) return;
        const request = stream.waiting.get(frame.request);
        if (request !== undefined) {
          stream.waiting.delete(frame.request);
          this.completeWith(request, frame.status, frame.body);
        } else if (told !== undefined && frame.status !== Status.Ok) {
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
        if (request !== undefined) {
          stream.waiting.delete(frame.number);
          this.completeWith(request, frame.status, NOTHING);
          return;
        }
        const told = toldAs(stream, frame.number);
        if (told !== undefined || frame.number === 0) {
          this.events.push({ type: "refused", stream: stream.name, tell: told, status: frame.status });
        }
        return;
      }
      default:
        throw protocol("a frame out of order");
    }
  }

  private byHandle(handle: number): Stream | undefined {
    const found = this.streams.find((stream) => stream.handle === handle);
    if (!found) this.counters.strays++;
    return found;
  }

  private acknowledged(stream: Stream, number: number): void {
    if (!stream.outbound.acknowledge(number)) throw protocol("an acknowledgement of what was never sent");
  }

  /** Takes note of a frame that arrived; its stream, if the frame is to be handled. */
  private arrive(now: number, frame: { stream: number; number: number; ack: number }): Stream | undefined {
    const stream = this.byHandle(frame.stream);
    if (!stream) return undefined;
    this.acknowledged(stream, frame.ack);
    if (frame.number === 0) return stream;
    const arrival = stream.inbound.arrive(frame.number);
    if (arrival === "duplicate") return undefined;
    if (arrival === "gap") throw new Break("gap");
    if (stream.inbound.isDue()) this.sendAck(stream);
    else stream.ackAt ??= now + this.limits.ackWaitMs;
    return stream;
  }

  private bound(now: number, handle: number, kind: number, epoch: bigint, name: string): void {
    const other = this.streams.find((stream) => stream.handle === handle);
    // It goes on as what it was, also if a newer stream has its name by now.
    let stream = other?.name === name ? other : undefined;
    try {
      stream ??= this.streamNamed(name);
    } catch {
      throw protocol("too many streams");
    }
    // A handle leads to one stream: what else had it is gone.
    if (other && other !== stream) this.dropStream(other, CloseCode.Goodbye);
    if (stream.handle !== undefined && stream.handle > handle) {
      this.boundLate(handle, kind, epoch, name);
      return;
    }
    if (stream.handle !== undefined && stream.handle !== handle) {
      // The name moves to another stream; what was sent on this one may still be answered.
      stream.retired = true;
      this.leave(stream.handle, () => true);
      this.bound(now, handle, kind, epoch, name);
      return;
    }
    const known = stream.handle !== undefined;
    stream.handle = handle;
    // After a resume `resumed` follows and tells what to send again.
    if (known && stream.epoch === epoch && stream.kind === kind) return;
    if (known) this.startEpoch(stream, epoch, stream.kind !== kind);
    stream.kind = kind;
    stream.epoch = epoch;
    if (!stream.retired) this.events.push({ type: "bound", stream: name, kind });
    this.resend(now, stream);
  }

  /** A stream whose name a newer one has already, so nothing will be sent on it. */
  private boundLate(handle: number, kind: number, epoch: bigint, name: string): void {
    if (this.streams.length >= this.limits.streamsMax) throw protocol("too many streams");
    this.streams.push({ ...this.newStream(name), retired: true, handle, kind, epoch, live: true });
  }

  /** The owner begins a new epoch: what it was sent before did not last, what it was not sent is
   * numbered anew. */
  private startEpoch(stream: Stream, epoch: bigint, otherKind: boolean): void {
    const { outbound, waiting, sent, durable } = stream;
    const touched = sent > 0 || stream.inbound.applied > 0;
    stream.epoch = epoch;
    stream.outbound = this.newOutbound();
    stream.waiting = new Map();
    stream.inbound = new Inbound();
    stream.ackAt = undefined;
    stream.sent = 0;
    stream.durable = 0;
    stream.settling = [];
    const failed: [number, CallError][] = [];
    for (const [number, request] of waiting) if (number <= sent) failed.push([request, CallError.rolledBack()]);
    for (const [number, kept] of outbound.kept()) {
      const request = waiting.get(number);
      if (number <= sent || kept.type === "answer" || (kept.type === "request" && request === undefined)) continue;
      if (otherKind) {
        if (request !== undefined) failed.push([request, CallError.notSent()]);
        continue;
      }
      const renumbered = stream.outbound.push(kept, kept.body.length);
      const pending = request === undefined ? undefined : this.requests.get(request);
      if (request === undefined || !pending) continue;
      stream.waiting.set(renumbered, request);
      pending.number = renumbered;
    }
    for (const [call, { stream: id }] of this.calls) if (id === stream.id) this.calls.delete(call);
    if (touched && !otherKind) this.events.push({ type: "rolledBack", stream: stream.name, durable, sent });
    this.unconfirmed({ name: stream.name, sent }, otherKind ? outbound.kept() : outbound.kept(sent));
    if (stream.handle !== undefined) this.leave(stream.handle, () => true);
    for (const [request, error] of failed) this.complete(request, { error });
  }

  private dropStream(stream: Stream, code: CloseCode): void {
    this.streams = this.streams.filter((known) => known !== stream);
    if (stream.handle !== undefined) this.leave(stream.handle, () => true);
    this.unconfirmed(stream, stream.outbound.kept());
    for (const [call, { stream: id }] of this.calls) if (id === stream.id) this.calls.delete(call);
    for (const [number, request] of stream.waiting) {
      const sent = number <= stream.sent;
      this.complete(request, { error: sent ? CallError.refused(Status.Gone) : CallError.notSent() });
    }
    if (!stream.retired) this.events.push({ type: "unbound", stream: stream.name, code });
  }

  /** Says of the tells among `kept` that it will not become known whether they were handled. */
  private unconfirmed(stream: { name: string; sent: number }, kept: Iterable<[number, Kept]>): void {
    for (const [number, item] of kept) {
      if (item.type !== "tell") continue;
      this.events.push({ type: "unconfirmed", stream: stream.name, tell: item.tell, sent: number <= stream.sent });
    }
  }

  /** Makes room for all streams in a resume: the oldest of those whose name is taken give way. */
  private dropOldest(): void {
    for (;;) {
      const bound = this.streams.filter((stream) => stream.handle !== undefined);
      const oldest = bound.find((stream) => stream.retired) ?? bound[0];
      if (bound.length <= RESUME_STREAMS_MAX || !oldest) return;
      this.dropStream(oldest, CloseCode.Limit);
    }
  }

  private joined(handle: number, stream: number, kind: number, number: number, name: string): void {
    // A stream that has ended, or whose name another has, took its memberships with it.
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
  private leave(stream: number, meant: (group: number) => boolean): void {
    for (const group of this.groups) {
      if (!meant(group.handle) || !group.streams.includes(stream)) continue;
      group.streams = group.streams.filter((other) => other !== stream);
      if (group.streams.length === 0) this.events.push({ type: "left", group: group.name });
    }
    this.groups = this.groups.filter((group) => group.streams.length > 0);
  }

  private called(now: number, stream: Stream, call: bigint, deadline: number, method: number, body: Uint8Array): void {
    const known = this.published.has(method);
    if (!known || this.calls.size >= this.limits.callsMax) {
      const status = known ? Status.Busy : Status.UnknownMethod;
      try {
        this.push(now, stream, { type: "answer", call, status, body: NOTHING }, undefined);
      } catch {
        // If even this finds no room, the server's deadline ends the call.
      }
      return;
    }
    const id = ++this.callsSeen;
    this.calls.set(id, { stream: stream.id, call, deadline });
    this.events.push({ type: "call", call: id, stream: stream.name, method, deadline, body });
  }

  private cast(handle: number, number: number, method: number, body: Uint8Array): void {
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

  private completeWith(request: number, status: Status, body: Uint8Array): void {
    if (status === Status.Ok) this.complete(request, { body: body.slice() });
    else if (status === Status.App) this.complete(request, { error: CallError.app(body.slice()) });
    else if (status === Status.Timeout) this.complete(request, { error: CallError.timeout() });
    else if (status === Status.RolledBack) this.complete(request, { error: CallError.rolledBack() });
    else this.complete(request, { error: CallError.refused(status) });
  }

  private complete(request: number, result: { body?: Uint8Array; error?: CallError }): void {
    if (this.requests.delete(request)) this.events.push({ type: "reply", request, ...result });
  }

  /** Ends a request without an answer. */
  private expire(request: number): void {
    const known = this.requests.get(request);
    if (!known) return;
    const stream = this.streams.find((other) => other.id === known.stream);
    stream?.waiting.delete(known.number);
    const sent = !stream || known.number <= stream.sent;
    this.complete(request, { error: sent ? CallError.timeout() : CallError.notSent() });
  }
}
