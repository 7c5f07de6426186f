import { type Connector } from "./connect.ts";
import { Core, type Stats } from "./core.ts";
import { type End, type Lost } from "./error.ts";
import { CloseCode, Status } from "./frame.ts";
import type { Limits } from "./limits.ts";
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
    connected: {
        resumed: boolean;
    };
    /** The connection broke; the session goes on and reconnecting has begun. */
    lost: {
        reason: Lost;
    };
    /** The next attempt to connect comes in `inMs`. */
    retry: {
        attempt: number;
        inMs: number;
    };
    /** A stream leads to an entity now, or to another one than before. */
    bound: {
        stream: string;
        kind: number;
    };
    unbound: {
        stream: string;
        code: CloseCode;
    };
    /** `missed` of the group's messages are lost to us, because we were away too long. */
    joined: {
        group: string;
        kind: number;
        missed: number;
    };
    left: {
        group: string;
    };
    /** A tell reached the entity's node but was not taken, such as by a full mailbox. */
    refused: {
        stream: string;
        tell: number | undefined;
        status: Status;
    };
    /** The stream of a tell ended before the server said that it was handled. If it was `sent` its
     * outcome is unknown; if not, it did not run and will not. */
    unconfirmed: {
        stream: string;
        tell: number;
        sent: boolean;
    };
    /** An entity crashed and went back to an earlier state. */
    rolledBack: {
        stream: string;
        durable: number;
        sent: number;
    };
    /** A handler of the game threw, or could not read what the server sent. Without a listener it is
     * written to the console; the session goes on in any case. */
    error: {
        error: unknown;
    };
    /** The session is over; `nextAfter(end)` says what can be done. */
    ended: {
        end: End;
    };
}
/** Handles a message; the body is the encoded argument list. */
export type Handler = (body: Uint8Array) => void;
/** Answers a call of the server with an encoded value. A thrown `AppError` is the method's own
 * error; a thrown `DecodeError` tells the server that its arguments were wrong. */
export type Answerer = (body: Uint8Array) => Uint8Array | Promise<Uint8Array>;
/** The own error of a method that the server called; `body` is its encoded value. */
export declare class AppError extends Error {
    readonly body: Uint8Array;
    constructor(body: Uint8Array);
}
/** Methods of one stream or group that this side handles. */
declare class Handlers {
    private readonly byMethod;
    add(method: number, handler: Handler): () => void;
    run(method: number, body: Uint8Array, failed: (error: unknown) => void): void;
}
/** A numbered line to one entity, found by name. Lives as long as the session object; messages
 * pass while the server has it bound. */
export declare class Stream {
    readonly name: string;
    private readonly session;
    /** @internal */ readonly handlers: Handlers;
    /** @internal */ readonly answerers: Map<number, Answerer>;
    /** @internal */
    constructor(session: Session, name: string);
    /** Whether the server has bound it to an entity. */
    get isBound(): boolean;
    /** Calls a method; gives the encoded answer or throws `CallError`. Waits for the binding and
     * over broken connections, at most until the deadline. */
    request(method: number, body: Uint8Array, options?: {
        deadlineMs?: number;
        signal?: AbortSignal;
    }): Promise<Uint8Array>;
    /** Sends a message: in order and at most once. The number it gives names it in the events
     * `refused` and `unconfirmed`. With `latest` only the newest per key matters, it may be lost, and
     * has the number 0. Throws `CallError` if it was not taken. */
    tell(method: number, body: Uint8Array, options?: {
        latest?: string | number;
    }): number;
    /** Handles a message of the entity. Gives a function that stops it. */
    on(method: number, handler: Handler): () => void;
    /** Publishes a method that the entity may call. Methods not published cannot be called. */
    answer(method: number, answerer: Answerer): void;
}
/** A group of clients that are told the same. */
export declare class Group {
    readonly name: string;
    /** @internal */ readonly handlers: Handlers;
    /** Whether we are a member now. */
    isMember: boolean;
    /** @internal */
    constructor(name: string);
    /** Handles a message to the group. Gives a function that stops it. */
    on(method: number, handler: Handler): () => void;
}
/** A session with a game server: logs in, reconnects and resumes by itself. */
export declare class Session {
    /** Where it stands now. */
    state: SessionState;
    /** Settles when the server lets us in for the first time, or cannot. */
    readonly ready: Promise<void>;
    /** @internal */ core: Core | undefined;
    private readonly options;
    private readonly urls;
    private readonly streams;
    private readonly groups;
    private readonly pending;
    private readonly published;
    private readonly listeners;
    private readonly waiting;
    private connection;
    private opened;
    private timer;
    private pumping;
    private readonly comeBack;
    /** Starts to log in. */
    constructor(options: SessionOptions);
    /** The stream called `name`. */
    stream(name: string): Stream;
    /** The group called `name`. */
    group(name: string): Group;
    /** Calls `listener` at each event of this type. Gives a function that stops it. */
    on<T extends keyof SessionEvents>(type: T, listener: (event: SessionEvents[T]) => void): () => void;
    /** Counters so far; `undefined` before the grant has come. */
    stats(): Stats | undefined;
    /** The server's wall clock in milliseconds since 1970, as far as the handshake told. */
    serverWallMs(): number | undefined;
    /** Measures the round trip now. */
    measure(): void;
    /** Breaks the connection on purpose; the session resumes. */
    cut(): void;
    /** Tries to connect now instead of at the end of the pause. */
    hurry(): void;
    /** Says goodbye. Open requests fail. */
    close(): void;
    /** @internal */
    request(stream: string, method: number, body: Uint8Array, options: {
        deadlineMs?: number;
        signal?: AbortSignal;
    }): Promise<Uint8Array>;
    /** @internal */
    tell(stream: string, method: number, body: Uint8Array, latest: string | number | undefined): number;
    /** @internal */
    publish(method: number): void;
    /** Gets a grant and starts the core. */
    private begin;
    private act;
    /** Does what the core wants until it wants nothing more. */
    private pump;
    private arm;
    private connect;
    private drop;
    private flush;
    private handle;
    private answer;
    private ended;
    private renewing;
    private finish;
    private emit;
    private readonly failed;
}
export {};
