/** Client for Mainstay game servers. `Session` is what a game uses; generated code adds typed
 * stubs over its streams and groups. `Core` is the protocol alone, for other loops. */
export { Reader, WireError, type WireProblem, Writer } from "./bytes.ts";
export { type Connection, type Connector, type Listener, connect } from "./connect.ts";
export { Core, type CoreEvent, type CoreOutput, type Stats } from "./core.ts";
export { CallError, type CallProblem, type End, type Lost, type Next, endText, nextAfter } from "./error.ts";
export { CloseCode, type DownFrame, PREFACE, type Seen, type SeenGroup, Status, type UpFrame, VERSION, type Welcome, closeName, decodeDown, decodeUp, encodeDown, encodeUp, mayResume, putFrame, splitFrame, statusName, } from "./frame.ts";
export { kindId, methodId, nameHash } from "./ids.ts";
export { DEFAULT_LIMITS, type Limits } from "./limits.ts";
export { DEPTH_MAX, DecodeError, type DecodeKind, Decoder, Encoder, Fields, decodeValue, encodeValue, within, } from "./msgpack.ts";
export { type Answerer, AppError, Group, type Handler, Session, type SessionEvents, type SessionOptions, type SessionState, Stream, } from "./session.ts";
export { hmacSha256, sha256 } from "./sha256.ts";
export { type Grant, type GrantText, PassRefused, guestGrant, loginProof, readGrant, resumeProof } from "./ticket.ts";
