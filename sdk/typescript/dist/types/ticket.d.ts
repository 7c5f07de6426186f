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
/** Proves that a ticket is ours, for one nonce of one gate. */
export declare function loginProof(secret: Uint8Array, nonce: Uint8Array, ticket: Uint8Array): Uint8Array;
/** Proves that a resume token is ours, asking for `generation`. */
export declare function resumeProof(secret: Uint8Array, nonce: Uint8Array, token: Uint8Array, generation: number | bigint): Uint8Array;
/** Reads the JSON form of a grant. Throws if it is none. */
export declare function readGrant(text: GrantText): Grant;
/** Fetches a guest ticket from `POST {base}/ticket/guest`. `base` defaults to the page's origin. */
export declare function guestGrant(name?: string, base?: string): Promise<Grant>;
