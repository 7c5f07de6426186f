import { type Connection, type Connector, connect } from "./connect.ts";
import { Core, type CoreEvent, type Stats } from "./core.ts";
import { CallError, type End, type Lost, nextAfter } from "./error.ts";
import { CloseCode, Status } from "./frame.ts";
import type { Limits } from "./limits.ts";
import { DecodeError } from "./msgpack.ts";
import type { Grant } from "./ticket.ts";

/** How to reach the game. */
export interface SessionOptions {
  /** Gates, tried in turn: `ws://host:port/play`, `wss://...`, or `tcp://host:port` (Node only).
   * Default: `/play` of the page's own origin. */
  url?: string | string[];
  /** The grant of the login service, or a function that gets one. */
  grant: Grant | (() => Promise<Grant>);
  /** Program and version, for the server's logs. */
  agent?: string;
  /** Hash of the interface that the program was generated from. */
  interfaceHash?: bigint;
  limits?: Partial<Limits>;
  /** Whether a lost session is followed by a new login by itself. Needs `grant` to be a function;
   * true by default. */
  renew?: boolean;
  /** Replaces the connections, for tests. */
  connector?: Connector;
}

/** Where a session stands. */
export type SessionState = "connecting" | "connected" | "reconnecting" | "ended";

/** What a session tells about itself. */
export interface SessionEvents {
  /** `resumed`: the session goes on; otherwise it is new and all state of the server comes anew. */
  connected: { resumed: boolean };
  /** The connection broke; the session goes on and reconnecting has begun. */
  lost: { reason: Lost };
  /** The next attempt to connect comes in `inMs`. */
  retry: { attempt: number; inMs: number };
  /** A stream leads to an entity now, or to another one than before. */
  bound: { stream: string; kind: number };
  unbound: { stream: string; code: CloseCode };
  /** `missed` of the group's messages are lost to us, because we were away too long. */
  joined: { group: string; kind: number; missed: number };
  left: { group: string };
  /** A tell reached the entity's node but was not taken, such as by a full mailbox. */
  refused: { stream: string; tell: number | undefined; status: Status };
  /** The stream of a tell ended before the server said that it was handled. If it was `sent` its
   * outcome is unknown; if not, it did not run and will not. */
  unconfirmed: { stream: string; tell: number; sent: boolean };
  /** An entity crashed and went back to an earlier state. */
  rolledBack: { stream: string; durable: number; sent: number };
  /** A handler of the game threw, or could not read what the server sent. Without a listener it is
   * written to the console; the session goes on in any case. */
  error: { error: unknown };
  /** The session is over; `nextAfter(end)` says what can be done. */
  ended: { end: End };
}

/** Handles a message; the body is the encoded argument list. */
export type Handler = (body: Uint8Array) => void;

/** Answers a call of the server with an encoded value. A thrown `AppError` is the method's own
 * error; a thrown `DecodeError` tells the server that its arguments were wrong. */
export type Answerer = (body: Uint8Array) => Uint8Array | Promise<Uint8Array>;

/** The own error of a method that the server called; `body` is its encoded value. */
export class AppError extends Error {
  readonly body: Uint8Array;
  constructor(body: Uint8Array) {
    super("the method's own error");
    this.name = "AppError";
    this.body = body;
  }
}

interface Pending {
  resolve(body: Uint8Array): void;
  reject(error: unknown): void;
  done?: () => void;
}

/** Methods of one stream or group that this side handles. */
class Handlers {
  private readonly byMethod = new Map<number, Set<Handler>>();

  add(method: number, handler: Handler): () => void {
    let known = this.byMethod.get(method);
    if (!known) this.byMethod.set(method, (known = new Set()));
    known.add(handler);
    return () => known.delete(handler);
  }

  run(method: number, body: Uint8Array, failed: (error: unknown) => void): void {
    for (const handler of this.byMethod.get(method) ?? []) {
      try {
        handler(body);
      } catch (error) {
        failed(error);
      }
    }
  }
}

/** A numbered line to one entity, found by name. Lives as long as the session object; messages
 * pass while the server has it bound. */
export class Stream {
  readonly name: string;
  private readonly session: Session;
  /** @internal */ readonly handlers = new Handlers();
  /** @internal */ readonly answerers = new Map<number, Answerer>();

  /** @internal */
  constructor(session: Session, name: string) {
    this.session = session;
    this.name = name;
  }

  /** Whether the server has bound it to an entity. */
  get isBound(): boolean {
    return this.session.core?.isBound(this.name) ?? false;
  }

  /** Calls a method; gives the encoded answer or throws `CallError`. Waits for the binding and
   * over broken connections, at most until the deadline. */
  request(
    method: number,
    body: Uint8Array,
    options: { deadlineMs?: number; signal?: AbortSignal } = {},
  ): Promise<Uint8Array> {
    return this.session.request(this.name, method, body, options);
  }

  /** Sends a message: in order and at most once. The number it gives names it in the events
   * `refused` and `unconfirmed`. With `latest` only the newest per key matters, it may be lost, and
   * has the number 0. Throws `CallError` if it was not taken. */
  tell(method: number, body: Uint8Array, options: { latest?: string | number } = {}): number {
    return this.session.tell(this.name, method, body, options.latest);
  }

  /** Handles a message of the entity. Gives a function that stops it. */
  on(method: number, handler: Handler): () => void {
    return this.handlers.add(method, handler);
  }

  /** Publishes a method that the entity may call. Methods not published cannot be called. */
  answer(method: number, answerer: Answerer): void {
    this.answerers.set(method, answerer);
    this.session.publish(method);
  }
}

/** A group of clients that are told the same. */
export class Group {
  readonly name: string;
  /** @internal */ readonly handlers = new Handlers();
  /** Whether we are a member now. */
  isMember = false;

  /** @internal */
  constructor(name: string) {
    this.name = name;
  }

  /** Handles a message to the group. Gives a function that stops it. */
  on(method: number, handler: Handler): () => void {
    return this.handlers.add(method, handler);
  }
}

/** A session with a game server: logs in, reconnects and resumes by itself. */
export class Session {
  /** Where it stands now. */
  state: SessionState = "connecting";
  /** Settles when the server lets us in for the first time, or cannot. */
  readonly ready: Promise<void>;
  /** @internal */ core: Core | undefined;
  private readonly options: SessionOptions;
  private readonly urls: string[];
  private readonly streams = new Map<string, Stream>();
  private readonly groups = new Map<string, Group>();
  private readonly pending = new Map<number, Pending>();
  private readonly published = new Set<number>();
  private readonly listeners = new Map<keyof SessionEvents, Set<(event: never) => void>>();
  private readonly waiting: (() => void)[] = [];
  private connection: Connection | undefined;
  private opened = false;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private pumping = false;
  private readonly comeBack = () => this.hurry();

  /** Starts to log in. */
  constructor(options: SessionOptions) {
    this.options = options;
    const url = options.url ?? pageUrl();
    this.urls = typeof url === "string" ? [url] : url;
    if (this.urls.length === 0) throw new TypeError("no url to connect to");
    this.ready = new Promise((resolve, reject) => {
      const first = this.on("connected", () => settle(resolve));
      const never = this.on("ended", ({ end }) => settle(() => reject(CallError.ended(end))));
      const settle = (done: () => void) => (first(), never(), done());
    });
    this.ready.catch(() => {});
    if (typeof addEventListener === "function") addEventListener("online", this.comeBack);
    void this.begin();
  }

  /** The stream called `name`. */
  stream(name: string): Stream {
    let stream = this.streams.get(name);
    if (!stream) this.streams.set(name, (stream = new Stream(this, name)));
    return stream;
  }

  /** The group called `name`. */
  group(name: string): Group {
    let group = this.groups.get(name);
    if (!group) this.groups.set(name, (group = new Group(name)));
    return group;
  }

  /** Calls `listener` at each event of this type. Gives a function that stops it. */
  on<T extends keyof SessionEvents>(type: T, listener: (event: SessionEvents[T]) => void): () => void {
    let known = this.listeners.get(type);
    if (!known) this.listeners.set(type, (known = new Set()));
    known.add(listener as (event: never) => void);
    return () => known.delete(listener as (event: never) => void);
  }

  /** Counters so far; `undefined` before the grant has come. */
  stats(): Stats | undefined {
    return this.core?.stats();
  }

  /** The server's wall clock in milliseconds since 1970, as far as the handshake told. */
  serverWallMs(): number | undefined {
    return this.core?.serverWallMs(performance.now());
  }

  /** Measures the round trip now. */
  measure(): void {
    this.act((core) => core.measure(performance.now()));
  }

  /** Breaks the connection on purpose; the session resumes. */
  cut(): void {
    this.act((core) => core.cut(performance.now()));
  }

  /** Tries to connect now instead of at the end of the pause. */
  hurry(): void {
    this.act((core) => {
      core.hurry(performance.now());
      core.handleTimeout(performance.now());
    });
  }

  /** Says goodbye. Open requests fail. */
  close(): void {
    if (this.core && !this.core.isEnded()) this.act((core) => core.close());
    else if (this.state !== "ended") this.finish({ kind: "goodbye" });
  }

  /** @internal */
  request(
    stream: string,
    method: number,
    body: Uint8Array,
    options: { deadlineMs?: number; signal?: AbortSignal },
  ): Promise<Uint8Array> {
    return new Promise((resolve, reject) => {
      const send = () => {
        const core = this.core;
        if (this.state === "ended" || !core) return reject(CallError.ended({ kind: "goodbye" }));
        let id: number;
        try {
          id = core.request(performance.now(), stream, method, body, options.deadlineMs);
        } catch (error) {
          return reject(error);
        }
        const { signal } = options;
        const cancel = () => this.act((core) => core.cancel(id));
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
  tell(stream: string, method: number, body: Uint8Array, latest: string | number | undefined): number {
    if (!this.core) throw CallError.notBound(stream);
    let tell = 0;
    if (latest === undefined) tell = this.core.tell(performance.now(), stream, method, body);
    else this.core.tellLatest(stream, method, String(latest), body);
    // All tells of one turn of the event loop go out together.
    if (!this.pumping) queueMicrotask(() => this.pump());
    return tell;
  }

  /** @internal */
  publish(method: number): void {
    this.published.add(method);
    this.core?.publish(method);
  }

  /** Gets a grant and starts the core. */
  private async begin(): Promise<void> {
    const { grant, agent, interfaceHash, limits } = this.options;
    let got: Grant;
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

  private act(act: (core: Core) => void): void {
    if (!this.core) return;
    act(this.core);
    this.pump();
  }

  /** Does what the core wants until it wants nothing more. */
  private pump(): void {
    const { core } = this;
    if (!core || this.pumping) return;
    this.pumping = true;
    try {
      for (;;) {
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

  private arm(): void {
    clearTimeout(this.timer);
    const at = this.core?.pollTimeout();
    if (at === undefined) return;
    // Timers may fire a little early; a millisecond more avoids an empty round.
    const inMs = Math.min(Math.max(0, at - performance.now()) + 1, 0x7fffffff);
    this.timer = setTimeout(() => this.act((core) => core.handleTimeout(performance.now())), inMs);
  }

  private connect(attempt: number): void {
    const url = this.urls[(attempt - 1) % this.urls.length];
    const listener = {
      opened: (transport: "tcp" | "websocket") => {
        this.opened = true;
        this.act((core) => core.handleConnected(performance.now(), transport));
      },
      received: (bytes: Uint8Array) => this.act((core) => core.handleBytes(performance.now(), bytes)),
      closed: () => {
        this.connection = undefined;
        this.act((core) => core.handleClosed(performance.now()));
      },
    };
    this.opened = false;
    try {
      this.connection = (this.options.connector ?? connect)(url, listener);
    } catch (error) {
      this.finish({ kind: "protocol", reason: error instanceof Error ? error.message : String(error) });
    }
  }

  private drop(): void {
    this.connection?.close();
    this.connection = undefined;
  }

  private flush(): void {
    const { connection, core } = this;
    if (!connection || !core || !this.opened) return;
    if (connection.buffered() > 256 * 1024) {
      // The transport is full: newer states may replace older ones meanwhile.
      setTimeout(() => this.connection === connection && (this.flush(), this.arm()), 50);
      return;
    }
    const bytes = core.takeOutgoing();
    if (bytes.length > 0) connection.send(bytes);
  }

  private handle(event: CoreEvent): void {
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
        this.emit(event.type, event as never);
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

  private async answer(call: number, stream: string, method: number, body: Uint8Array): Promise<void> {
    const answerer = this.streams.get(stream)?.answerers.get(method);
    let status: Status = Status.Ok;
    let answer: Uint8Array = new Uint8Array(0);
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
        // No room or no stream any more: the server's deadline ends the call.
      }
    });
  }

  private ended(end: End): void {
    for (const group of this.groups.values()) group.isMember = false;
    const renews = this.options.renew !== false && typeof this.options.grant === "function";
    if (renews && nextAfter(end) === "login" && !this.renewing) {
      // Once at a time: a ticket that is refused at once must not become a storm.
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
  private renewing = false;

  private finish(end: End): void {
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

  private emit<T extends keyof SessionEvents>(type: T, event: SessionEvents[T]): void {
    for (const listener of this.listeners.get(type) ?? []) {
      try {
        (listener as (event: SessionEvents[T]) => void)(event);
      } catch (error) {
        if (type === "error") console.error(error);
        else this.failed(error);
      }
    }
  }

  private readonly failed = (error: unknown): void => {
    if (this.listeners.get("error")?.size) this.emit("error", { error });
    else console.error(error);
  };
}

function pageUrl(): string {
  if (typeof location === "undefined") throw new TypeError("outside a page, say which url to connect to");
  return `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/play`;
}
