/** The protocol as a pure state machine: no I/O, no clock, no randomness of its own. The same
 * machine as the Rust SDK's `client::Core`; times are milliseconds of the caller's clock. */
import { CallError, type End, type Lost } from "./error.ts";
import { CloseCode, Status } from "./frame.ts";
import { type Limits } from "./limits.ts";
import { type Grant } from "./ticket.ts";
/** What happened, in order. */
export type CoreEvent = {
    type: "connected";
    session: Uint8Array;
    resumed: boolean;
} | {
    type: "bound";
    stream: string;
    kind: number;
} | {
    type: "unbound";
    stream: string;
    code: CloseCode;
} | {
    type: "push";
    stream: string;
    method: number;
    body: Uint8Array;
} | {
    type: "call";
    call: number;
    stream: string;
    method: number;
    deadline: number;
    body: Uint8Array;
}
/** We are in a group now, or still are; `missed` of its messages are lost to us for good. */
 | {
    type: "joined";
    group: string;
    kind: number;
    missed: number;
} | {
    type: "left";
    group: string;
} | {
    type: "cast";
    group: string;
    method: number;
    body: Uint8Array;
}
/** A request ended; exactly once for each that was taken. */
 | {
    type: "reply";
    request: number;
    body?: Uint8Array;
    error?: CallError;
}
/** A tell reached the entity's node but was not taken, such as by a full mailbox. `tell` is
 * `undefined` for one that was sent as `latest`. */
 | {
    type: "refused";
    stream: string;
    tell: number | undefined;
    status: Status;
}
/** The stream of a tell ended before the server said that it was handled. If it was `sent` its
 * outcome is unknown; if not, it did not run and will not. */
 | {
    type: "unconfirmed";
    stream: string;
    tell: number;
    sent: boolean;
}
/** Commands after `durable` did not last; requests among them that waited have failed. */
 | {
    type: "rolledBack";
    stream: string;
    durable: number;
    sent: number;
} | {
    type: "lost";
    reason: Lost;
} | {
    type: "retry";
    attempt: number;
    at: number;
} | {
    type: "ended";
    end: End;
};
/** What the loop around a `Core` has to do: connect, send `takeOutgoing()`, or drop the connection
 * and report nothing more of it. */
export type CoreOutput = {
    type: "connect";
    attempt: number;
} | {
    type: "flush";
} | {
    type: "close";
};
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
/** One client. After each `handle...` and each act, call `pollOutput` until it gives `undefined`,
 * then `pollEvent`. Call `handleTimeout` when `pollTimeout` has passed. */
export declare class Core {
    private readonly limits;
    private readonly agent;
    private readonly interfaceHash;
    private readonly random;
    private grant;
    private endedBy;
    private resume;
    private state;
    private attached;
    private wantsConnect;
    private wantsClose;
    private flushTold;
    private inbox;
    private readonly outbox;
    private events;
    private streak;
    private tries;
    private heartbeat;
    private sendBytesMax;
    private heardAt;
    private pingAt;
    private ping;
    private pings;
    private serverWall;
    private streams;
    private streamsMade;
    /** `streams`: handles of the streams by which we are members. */
    private groups;
    private requests;
    private requestsMade;
    private tellsMade;
    private calls;
    private callsSeen;
    private published;
    private counters;
    /** `random` gives numbers in 0..1, for the jitter of pauses. */
    constructor(grant: Grant, options: {
        agent?: string;
        interfaceHash?: bigint;
        limits?: Partial<Limits>;
        random: () => number;
    });
    /** Starts to connect. Does nothing unless at rest. */
    start(now: number): void;
    /** Starts over as a new session; one that still goes on is dropped and its requests fail. */
    login(now: number, grant: Grant): void;
    /** Says goodbye and ends the session. */
    close(): void;
    /** Breaks the connection on purpose; the session resumes after the usual pause. */
    cut(now: number): void;
    /** Tries to connect now instead of at the end of the pause, as when the network came back. */
    hurry(now: number): void;
    /** Allows the server to call `method`. Other calls are answered `UnknownMethod`. */
    publish(method: number): void;
    /** Sends a request; it ends with a `reply` event. Without `deadlineMs` the method's own holds.
     * Throws `CallError` (`full`, `too long`, `ended`) if nothing was taken. */
    request(now: number, stream: string, method: number, body: Uint8Array, deadlineMs?: number): number;
    /** Forgets a request: it completes with `timeout` or `not sent` at once. */
    cancel(request: number): void;
    /** Sends a message: in order, at most once, kept over breaks. Throws `CallError`. The number it
     * gives names the tell in `refused` and `unconfirmed`; without such an event it was handled. */
    tell(now: number, stream: string, method: number, body: Uint8Array): number;
    /** Sends a message of which only the newest per `key` matters. Throws `CallError`. */
    tellLatest(stream: string, method: number, key: string, body: Uint8Array): void;
    /** Answers a call of the server. One whose deadline has passed is dropped quietly. */
    answer(now: number, call: number, status: Status, body: Uint8Array): void;
    /** Measures the round trip now, instead of at the next heartbeat. */
    measure(now: number): void;
    isConnected(): boolean;
    isEnded(): boolean;
    isBound(stream: string): boolean;
    /** The names of the bound streams. */
    boundStreams(): string[];
    requestsOpen(): number;
    stats(): Stats;
    /** The server's wall clock, as far as the handshake told. */
    serverWallMs(now: number): number | undefined;
    pollOutput(): CoreOutput | undefined;
    /** Takes the bytes to send. A driver whose transport holds much already comes back later, so
     * that newer states may still replace older ones. */
    takeOutgoing(): Uint8Array;
    pollEvent(): CoreEvent | undefined;
    /** When `handleTimeout` has something to do; `undefined` if never. */
    pollTimeout(): number | undefined;
    /** The connection asked for stands. A plain TCP one begins with the preface. */
    handleConnected(now: number, transport: "tcp" | "websocket"): void;
    /** The connection ended, or could not be made. */
    handleClosed(now: number): void;
    /** Bytes arrived; a later call may bring the rest of a frame. */
    handleBytes(now: number, bytes: Uint8Array): void;
    /** Does what is due. */
    handleTimeout(now: number): void;
    /** Handles all whole frames; how many bytes they took, or all if the connection is over. */
    private handleFrames;
    private handleFrame;
    private told;
    /** Shows ticket or resume token, with a proof that it is ours. */
    private prove;
    private welcome;
    private sendPing;
    private measured;
    private deadAt;
    /** Whether there is a connection, or one is being made. */
    private isBusy;
    private connect;
    /** The connection is of no use any more: pause, then connect again. */
    private lose;
    /** Ends the session: fails all requests, forgets streams and groups. */
    private finish;
    private forgetStreams;
    private send;
    private hasOutgoing;
    private clearBuffers;
    private streamNamed;
    private newStream;
    private newOutbound;
    private boundNamed;
    private checkLength;
    /** Numbers and keeps a command, and sends it if the stream is live. */
    private push;
    /** Sends all kept commands of a stream, in order. */
    private resend;
    private putLatest;
    private sendAck;
    private handleStreamFrame;
    private byHandle;
    private acknowledged;
    /** Takes note of a frame that arrived; its stream, if the frame is to be handled. */
    private arrive;
    private bound;
    /** A stream whose name a newer one has already, so nothing will be sent on it. */
    private boundLate;
    /** The owner begins a new epoch: what it was sent before did not last, what it was not sent is
     * numbered anew. */
    private startEpoch;
    private dropStream;
    /** Says of the tells among `kept` that it will not become known whether they were handled. */
    private unconfirmed;
    /** Makes room for all streams in a resume: the oldest of those whose name is taken give way. */
    private dropOldest;
    private joined;
    /** Ends the memberships that came by `stream`, of the groups that `meant` names. */
    private leave;
    private called;
    private cast;
    private completeWith;
    private complete;
    /** Ends a request without an answer. */
    private expire;
}
