import { textBytes } from "./bytes.ts";
import { hmacSha256 } from "./sha256.ts";

/** What a login service gives: a ticket for the gate, and the secret that proves it is ours. */
export interface Grant {
  /** Shown to the gate. */
  ticket: Uint8Array;
  /** Never sent to a gate. */
  secret: Uint8Array;
}

/** The JSON form of a grant, as `POST /ticket/guest` answers; bytes are base64. */
export interface GrantText {
  ticket: string;
  secret: string;
  session?: string;
  account?: number;
  expires_ms?: number;
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
  const grant = { ticket: fromBase64(text.ticket), secret: fromBase64(text.secret) };
  if (grant.secret.length !== 32 || grant.ticket.length === 0) throw new TypeError("this is no grant");
  return grant;
}

/** Fetches a guest ticket from `POST {base}/ticket/guest`. `base` defaults to the page's origin. */
export async function guestGrant(name = "", base = ""): Promise<Grant> {
  const response = await fetch(`${base}/ticket/guest?name=${encodeURIComponent(name)}`, { method: "POST" });
  const text = (await response.json()) as GrantText & { message?: string };
  if (!response.ok) throw new Error(text.message ?? `no ticket: HTTP ${response.status}`);
  return readGrant(text);
}

function fromBase64(text: string): Uint8Array {
  const binary = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
  return Uint8Array.from(binary, (char) => char.charCodeAt(0));
}
