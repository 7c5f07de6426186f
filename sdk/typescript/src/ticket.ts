import { textBytes } from "./bytes.ts";
import { hmacSha256 } from "./sha256.ts";

/** What a login service gives: a ticket for the gate, and the secret that proves it is ours. */
export interface Grant {
  /** Shown to the gate. */
  ticket: Uint8Array;
  /** Never sent to a gate. */
  secret: Uint8Array;
  /** Shown at the next login, it gives the same account again. Whoever has it is that player. */
  pass?: string;
}

/** The JSON form of a grant, as `POST /ticket/guest` answers; bytes are base64. */
export interface GrantText {
  ticket: string;
  secret: string;
  session?: string;
  account?: number;
  expires_ms?: number;
  pass?: string;
}

const LOGIN = textBytes("mainstay login v1");
const RESUME = textBytes("mainstay resume v1");

/** Proves that a ticket is ours, for one nonce of one gate. */
export function loginProof(secret: Uint8Array, nonce: Uint8Array, ticket: Uint8Array): Uint8Array {
  return hmacSha256(secret, LOGIN, nonce, ticket);
}

/** Proves that a resume token is ours, asking for `generation`. */
export function resumeProof(
  secret: Uint8Array,
  nonce: Uint8Array,
  token: Uint8Array,
  generation: number | bigint,
): Uint8Array {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(generation), true);
  return hmacSha256(secret, RESUME, nonce, token, bytes);
}

/** Reads the JSON form of a grant. Throws if it is none. */
export function readGrant(text: GrantText): Grant {
  const grant: Grant = { ticket: fromBase64(text.ticket), secret: fromBase64(text.secret) };
  if (text.pass) grant.pass = text.pass;
  if (grant.secret.length !== 32 || grant.ticket.length === 0) throw new TypeError("this is no grant");
  return grant;
}

/** The login service does not know a pass (any more): without it one is a new guest. */
export class PassRefused extends Error {
  override name = "PassRefused";
}

/**
 * Fetches a guest ticket from `POST {base}/ticket/guest`. `base` defaults to the page's origin. With the
 * `pass` of an earlier grant one is the same guest again; throws `PassRefused` if it is not known.
 */
export async function guestGrant(name = "", base = "", pass = ""): Promise<Grant> {
  const headers: Record<string, string> = pass ? { authorization: `Bearer ${pass}` } : {};
  const response = await fetch(`${base}/ticket/guest?name=${encodeURIComponent(name)}`, { method: "POST", headers });
  const text = (await response.json()) as GrantText & { error?: string; message?: string };
  if (text.error === "bad_pass") throw new PassRefused(text.message);
  if (!response.ok) throw new Error(text.message ?? `no ticket: HTTP ${response.status}`);
  return readGrant(text);
}

function fromBase64(text: string): Uint8Array {
  const binary = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
  return Uint8Array.from(binary, (char) => char.charCodeAt(0));
}
