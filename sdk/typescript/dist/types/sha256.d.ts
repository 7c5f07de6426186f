/** SHA-256 (FIPS 180-4) and HMAC (RFC 2104). Own code, because `crypto.subtle` is missing on
 * pages that are served over plain http. */
/** The SHA-256 digest of the concatenated parts. */
export declare function sha256(...parts: Uint8Array[]): Uint8Array;
/** HMAC-SHA-256 of the concatenated parts. */
export declare function hmacSha256(key: Uint8Array, ...parts: Uint8Array[]): Uint8Array;
