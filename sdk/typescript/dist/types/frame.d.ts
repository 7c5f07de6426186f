/** The frames between a client and a gate; docs/protocol.md describes them byte by byte. */
import { Writer } from "./bytes.ts";
/** The protocol version that this SDK speaks. */
export declare const VERSION = 1;
/** First bytes of a plain TCP connection. */
export declare const PREFACE: Uint8Array<ArrayBufferLike>;
/** The longest text field, in bytes. */
export declare const TEXT_BYTES_MAX = 256;
/** The longest ticket, in bytes. */
export declare const TICKET_BYTES_MAX = 1024;
/** The longest resume token, in bytes. */
export declare const TOKEN_BYTES_MAX = 256;
/** The most streams that one `resume` frame lists. */
export declare const RESUME_STREAMS_MAX = 32;
/** The most memberships in groups that one `resume` frame lists. */
export declare const RESUME_GROUPS_MAX = 160;
/** How a call or request ended. */
export declare const Status: {
    readonly Ok: 0;
    /** The method's own error; the body carries it. */
    readonly App: 1;
    /** No answer in time; the outcome is unknown. */
    readonly Timeout: 2;
    readonly Busy: 3;
    readonly Gone: 4;
    readonly NotFound: 5;
    readonly Denied: 6;
    readonly BadArgument: 7;
    readonly Cycle: 8;
    readonly Unavailable: 9;
    readonly RolledBack: 10;
    readonly UnknownMethod: 11;
    readonly Repeated: 12;
    readonly Failed: 13;
};
/** One of the values of `Status`. */
export type Status = (typeof Status)[keyof typeof Status];
/** The name of a status. */
export declare function statusName(status: Status): string;
/** Why a connection or session was closed. */
export declare const CloseCode: {
    readonly Goodbye: 0;
    readonly Protocol: 1;
    /** Get a new ticket. */
    readonly Ticket: 2;
    /** Log in again. */
    readonly SessionLost: 3;
    readonly Replaced: 4;
    readonly Kicked: 5;
    readonly GoingAway: 6;
    readonly SlowReader: 7;
    readonly SlowSender: 8;
    readonly Limit: 9;
    readonly Idle: 10;
    readonly Unavailable: 11;
    /** The client is too old. */
    readonly Version: 12;
    readonly AlreadyPlaying: 13;
};
/** One of the values of `CloseCode`. */
export type CloseCode = (typeof CloseCode)[keyof typeof CloseCode];
/** The name of a close code. */
export declare function closeName(code: CloseCode): string;
/** Whether the client may come back with its resume token. */
export declare function mayResume(code: CloseCode): boolean;
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
export type UpFrame = {
    type: "hello";
    version: number;
    features: bigint;
    interface: bigint;
    agent: string;
} | {
    type: "login";
    ticket: Uint8Array;
    proof: Uint8Array;
} | {
    type: "resume";
    token: Uint8Array;
    proof: Uint8Array;
    generation: number;
    streams: Seen[];
    groups: SeenGroup[];
} | {
    type: "tell";
    stream: number;
    number: number;
    ack: number;
    method: number;
    body: Uint8Array;
} | {
    type: "request";
    stream: number;
    number: number;
    ack: number;
    method: number;
    deadlineMs: number;
    body: Uint8Array;
} | {
    type: "answer";
    stream: number;
    number: number;
    ack: number;
    call: bigint;
    status: Status;
    body: Uint8Array;
} | {
    type: "ack";
    stream: number;
    ack: number;
} | {
    type: "ping";
    token: bigint;
} | {
    type: "pong";
    token: bigint;
} | {
    type: "close";
    code: CloseCode;
    reason: string;
};
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
export type DownFrame = {
    type: "challenge";
    version: number;
    features: bigint;
    nonce: Uint8Array;
    wallMs: number;
} | Welcome | {
    type: "bound";
    stream: number;
    kind: number;
    epoch: bigint;
    name: string;
} | {
    type: "unbound";
    stream: number;
    code: CloseCode;
} | {
    type: "resumed";
    stream: number;
    epoch: bigint;
    applied: number;
    durable: number;
} | {
    type: "reply";
    stream: number;
    number: number;
    ack: number;
    request: number;
    status: Status;
    body: Uint8Array;
} | {
    type: "push";
    stream: number;
    number: number;
    ack: number;
    method: number;
    body: Uint8Array;
} | {
    type: "call";
    stream: number;
    number: number;
    ack: number;
    call: bigint;
    deadlineMs: number;
    method: number;
    body: Uint8Array;
} | {
    type: "ackDown";
    stream: number;
    applied: number;
    durable: number;
} | {
    type: "cast";
    group: number;
    number: number;
    method: number;
    body: Uint8Array;
} | {
    type: "joined";
    group: number;
    stream: number;
    kind: number;
    number: number;
    name: string;
} | {
    type: "left";
    group: number;
    stream: number;
} | {
    type: "fault";
    stream: number;
    number: number;
    status: Status;
} | {
    type: "ping";
    token: bigint;
} | {
    type: "pong";
    token: bigint;
} | {
    type: "close";
    code: CloseCode;
    reason: string;
};
/** Looks for one whole frame in `bytes` from `at` on; `undefined` if more bytes are needed. */
export declare function splitFrame(bytes: Uint8Array, at: number, max: number): {
    payload: Uint8Array;
    end: number;
} | undefined;
/** Appends one frame. */
export declare function putFrame(out: Writer, frame: UpFrame): void;
/** Appends the payload of a frame (no length). */
export declare function encodeUp(out: Writer, frame: UpFrame): void;
/** Reads a payload from the server. Bodies are views into `payload`. */
export declare function decodeDown(payload: Uint8Array): DownFrame;
/** Reads a payload from a client. A client needs it only in tests. */
export declare function decodeUp(payload: Uint8Array): UpFrame;
/** Appends the payload of a frame from a server. A client needs it only in tests. */
export declare function encodeDown(out: Writer, frame: DownFrame): void;
