/** What a client holds, waits for and sends at most. */
export interface Limits {
  /** Longest frame taken from the server before it let us in, in bytes. */
  greetingBytesMax: number;
  /** Longest frame taken from the server after that, in bytes. */
  frameBytesMax: number;
  /** Most commands of one stream kept until the server has applied them. */
  resendFramesMax: number;
  /** Most bytes of bodies of one stream kept until the server has applied them. */
  resendBytesMax: number;
  /** Most requests without an answer, over all streams. */
  requestsMax: number;
  /** Most server calls that wait for our answer; further ones are answered `Busy`. */
  callsMax: number;
  /** Most streams, bound or asked for by name. */
  streamsMax: number;
  /** Most keys of `tellLatest` that wait for the next flush, over all streams. */
  latestMax: number;
  /** Most bytes that wait for a server that does not read; more breaks the connection. */
  outgoingBytesMax: number;
  /** How long a request waits for its answer if it does not say. */
  requestWaitMs: number;
  /** How long connecting may take. */
  connectWaitMs: number;
  /** How long the server may take to let us in. */
  handshakeWaitMs: number;
  /** A ping goes out this often; a shorter interval named by the server wins. */
  heartbeatMs: number;
  /** Silence of this many heartbeats breaks the connection. */
  missedMax: number;
  /** An acknowledgement waits at most this long for a frame to ride on. */
  ackWaitMs: number;
  /** The pause before the first reconnect; each further one is twice as long. */
  retryFirstMs: number;
  /** The longest pause between reconnects. */
  retryMaxMs: number;
  /** Reconnects in a row that may fail before the session ends; `undefined` tries for ever. */
  triesMax: number | undefined;
  /** A connection that held this long makes the next pause short again. */
  stableAfterMs: number;
}

/** The limits used unless told otherwise. */
export const DEFAULT_LIMITS: Readonly<Limits> = {
  greetingBytesMax: 4 * 1024,
  frameBytesMax: 1024 * 1024,
  resendFramesMax: 256,
  resendBytesMax: 64 * 1024,
  requestsMax: 256,
  callsMax: 64,
  streamsMax: 64,
  latestMax: 64,
  outgoingBytesMax: 1024 * 1024,
  requestWaitMs: 5_000,
  connectWaitMs: 3_000,
  handshakeWaitMs: 5_000,
  heartbeatMs: 6_000,
  missedMax: 3,
  ackWaitMs: 1_000,
  retryFirstMs: 600,
  retryMaxMs: 10_000,
  triesMax: 6,
  stableAfterMs: 10_000,
};
