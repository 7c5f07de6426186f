import { Status, type UpFrame } from "./frame.ts";
import type { Inbound, Outbound } from "./numbers.ts";
/** No bytes. */
export declare const NOTHING: Uint8Array<ArrayBuffer>;
/** A command as it is kept until the server has applied it. `own`: the method's own deadline holds. */
export type Kept = {
    type: "tell";
    tell: number;
    method: number;
    body: Uint8Array;
} | {
    type: "request";
    request: number;
    method: number;
    own: boolean;
    body: Uint8Array;
} | {
    type: "answer";
    call: bigint;
    status: Status;
    body: Uint8Array;
};
/** One stream by name; it may not be bound yet. */
export interface Stream {
    id: number;
    name: string;
    /** Another stream has its name now; the server is about to end this one. */
    retired: boolean;
    /** `undefined` until the server binds it. */
    handle: number | undefined;
    kind: number;
    epoch: bigint;
    /** Whether commands may go out: bound, connected, and the server told what it has applied. */
    live: boolean;
    outbound: Outbound<Kept>;
    /** Number of the last command that went out at least once in this epoch. */
    sent: number;
    durable: number;
    inbound: Inbound;
    ackAt: number | undefined;
    /** Requests of this epoch without an answer, by their number. */
    waiting: Map<number, number>;
    /** The last tells that a `resumed` confirmed: the refusal of one may still be sent again. */
    settling: {
        number: number;
        tell: number;
    }[];
    latest: {
        method: number;
        key: string;
        body: Uint8Array;
    }[];
}
/** Whether `name` means this stream. */
export declare function isCalled(stream: Stream, name: string): boolean;
/** Sends nothing until the server has told what it has applied. */
export declare function hold(stream: Stream): void;
/** The number to acknowledge in a frame that is being sent anyway. */
export declare function tell(stream: Stream): number;
/** The tell that was sent as `number`. */
export declare function toldAs(stream: Stream, number: number): number | undefined;
/** Keeps in mind which tells are confirmed by `applied` before what refuses one is sent again. */
export declare function settle(stream: Stream, applied: number, atMost: number): void;
/** A command as it goes out. `deadline`: of the request, if it still waits. */
export declare function upFrame(stream: number, kept: Kept, number: number, ack: number, now: number, deadline: number | undefined): UpFrame;
