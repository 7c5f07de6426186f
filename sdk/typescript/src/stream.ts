import { Status, type UpFrame } from "./frame.ts";
import type { Inbound, Outbound } from "./numbers.ts";

/** No bytes. */
export const NOTHING = new Uint8Array(0);

/** A command as it is kept until the server has applied it. `own`: the method's own deadline holds. */
export type Kept =
  | { type: "tell"; tell: number; method: number; body: Uint8Array }
  | { type: "request"; request: number; method: number; own: boolean; body: Uint8Array }
  | { type: "answer"; call: bigint; status: Status; body: Uint8Array };

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
  settling: { number: number; tell: number }[];
  latest: { method: number; key: string; body: Uint8Array }[];
}

/** Whether `name` means this stream. */
export function isCalled(stream: Stream, name: string): boolean {
  return stream.name === name && !stream.retired;
}

/** Sends nothing until the server has told what it has applied. */
export function hold(stream: Stream): void {
  stream.live = false;
  stream.ackAt = undefined;
}

/** The number to acknowledge in a frame that is being sent anyway. */
export function tell(stream: Stream): number {
  stream.ackAt = undefined;
  return stream.inbound.tell();
}

/** The tell that was sent as `number`. */
export function toldAs(stream: Stream, number: number): number | undefined {
  const kept = stream.outbound.find(number);
  if (kept !== undefined) return kept.type === "tell" ? kept.tell : undefined;
  return stream.settling.find((sent) => sent.number === number)?.tell;
}

/** Keeps in mind which tells are confirmed by `applied` before what refuses one is sent again. */
export function settle(stream: Stream, applied: number, atMost: number): void {
  for (const [number, kept] of stream.outbound.kept(applied)) {
    if (kept.type === "tell") stream.settling.push({ number, tell: kept.tell });
  }
  stream.settling.splice(0, stream.settling.length - atMost);
}

/** A command as it goes out. `deadline`: of the request, if it still waits. */
export function upFrame(
  stream: number,
  kept: Kept,
  number: number,
  ack: number,
  now: number,
  deadline: number | undefined,
): UpFrame {
  switch (kept.type) {
    case "tell":
      return { type: "tell", stream, number, ack, method: kept.method, body: kept.body };
    case "answer":
      return { type: "answer", stream, number, ack, call: kept.call, status: kept.status, body: kept.body };
    case "request": {
      if (deadline === undefined) {
        // Given up here, so it must not run there any more; its number is taken all the same.
        // An answer to call 0, which is never made, does nothing.
        return { type: "answer", stream, number, ack, call: 0n, status: Status.Timeout, body: NOTHING };
      }
      const deadlineMs = kept.own ? 0 : Math.max(1, Math.min(0xffffffff, Math.floor(deadline - now)));
      return { type: "request", stream, number, ack, method: kept.method, deadlineMs, body: kept.body };
    }
  }
}
