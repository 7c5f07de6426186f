import { CloseCode, type Status } from "./frame.ts";
/** Why a session ended for good. */
export type End = {
    kind: "server";
    code: CloseCode;
    reason: string;
}
/** The server's bytes are not of this protocol, or the versions do not match. */
 | {
    kind: "protocol";
    reason: string;
}
/** No server could be reached within the allowed tries. */
 | {
    kind: "unreachable";
}
/** This side said goodbye. */
 | {
    kind: "goodbye";
};
/** What can be done after the end: log in with a new ticket, ask the player (the account is in use
 * elsewhere), update this program, try later, or nothing. */
export type Next = "login" | "ask" | "update" | "later" | "stop";
/** What can be done now. */
export declare function nextAfter(end: End): Next;
/** The end in words. */
export declare function endText(end: End): string;
/** Why a connection broke; the session goes on. */
export type Lost = "closed" | "silent" | "slow" | "stuck" | "gap" | "cut" | `told ${string}`;
/** Which way a call failed:
 * - `app`: the method's own error, in `body`
 * - `refused`: by the server, see `status`
 * - `timeout`: no answer in time; it may have run, repeat only what is idempotent
 * - `not sent`: no connection in time, or its stream ended before; it did not run and will not
 * - `rolled back`: the server went back to an earlier state
 * - `full`, `too long`, `not bound`: nothing was taken
 * - `ended`: the session is over, see `end` */
export type CallProblem = "app" | "refused" | "timeout" | "not sent" | "rolled back" | "full" | "too long" | "not bound" | "ended";
/** Why a request gave no value, or why nothing could be sent. */
export declare class CallError extends Error {
    readonly problem: CallProblem;
    /** With `refused`. */
    readonly status?: Status;
    /** With `app`: the encoded error. */
    readonly body?: Uint8Array;
    /** With `ended`. */
    readonly end?: End;
    constructor(problem: CallProblem, message: string, more?: {
        status?: Status;
        body?: Uint8Array;
        end?: End;
    });
    static app(body: Uint8Array): CallError;
    static refused(status: Status): CallError;
    static timeout(): CallError;
    static notSent(): CallError;
    static rolledBack(): CallError;
    static full(frames: number, bytes: number): CallError;
    static tooLong(length: number, max: number): CallError;
    static notBound(stream: string): CallError;
    static ended(end: End): CallError;
}
