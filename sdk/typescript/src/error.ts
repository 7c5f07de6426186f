import { CloseCode, type Status, closeName, mayResume, statusName } from "./frame.ts";

/** Why a session ended for good. */
export type End =
  | { kind: "server"; code: CloseCode; reason: string }
  /** The server's bytes are not of this protocol, or the versions do not match. */
  | { kind: "protocol"; reason: string }
  /** No server could be reached within the allowed tries. */
  | { kind: "unreachable" }
  /** This side said goodbye. */
  | { kind: "goodbye" };

/** What can be done after the end: log in with a new ticket, ask the player (the account is in use
 * elsewhere), update this program, try later, or nothing. */
export type Next = "login" | "ask" | "update" | "later" | "stop";

/** What can be done now. */
export function nextAfter(end: End): Next {
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

/** The end in words. */
export function endText(end: End): string {
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
export type CallProblem =
  | "app"
  | "refused"
  | "timeout"
  | "not sent"
  | "rolled back"
  | "full"
  | "too long"
  | "not bound"
  | "ended";

/** Why a request gave no value, or why nothing could be sent. */
export class CallError extends Error {
  readonly problem: CallProblem;
  /** With `refused`. */
  readonly status?: Status;
  /** With `app`: the encoded error. */
  readonly body?: Uint8Array;
  /** With `ended`. */
  readonly end?: End;

  constructor(problem: CallProblem, message: string, more: { status?: Status; body?: Uint8Array; end?: End } = {}) {
    super(message);
    this.name = "CallError";
    this.problem = problem;
    this.status = more.status;
    this.body = more.body;
    this.end = more.end;
  }

  static app(body: Uint8Array): CallError {
    return new CallError("app", `the method answered with its own error (${body.length} bytes)`, { body });
  }

  static refused(status: Status): CallError {
    return new CallError("refused", `the server answered ${statusName(status)}`, { status });
  }

  static timeout(): CallError {
    return new CallError("timeout", "no answer in time; the request may have run");
  }

  static notSent(): CallError {
    return new CallError("not sent", "the request was not sent");
  }

  static rolledBack(): CallError {
    return new CallError("rolled back", "the server went back to an earlier state");
  }

  static full(frames: number, bytes: number): CallError {
    return new CallError("full", `${frames} commands of ${bytes} bytes wait for the server already`);
  }

  static tooLong(length: number, max: number): CallError {
    return new CallError("too long", `a frame of ${length} bytes is over the server's limit of ${max}`);
  }

  static notBound(stream: string): CallError {
    return new CallError("not bound", `no stream "${stream}" is bound`);
  }

  static ended(end: End): CallError {
    return new CallError("ended", `the session ended: ${endText(end)}`, { end });
  }
}
