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
/** Proves that a ticket is ours, for one nonce of one gate. */
export declare function loginProof(secret: Uint8Array, nonce: Uint8Array, ticket: Uint8Array): Uint8Array;
/** Proves that a resume token is ours, asking for `generation`. */
export declare function resumeProof(secret: Uint8Array, nonce: Uint8Array, token: Uint8Array, generation: number | bigint): Uint8Array;
/** Reads the JSON form of a grant. Throws if it is none. */
export declare function readGrant(text: GrantText): Grant;
/** The login service does not know a pass (any more): without it one is a new guest. */
export declare class PassRefused extends Error {
    name: string;
}
/**
 * Fetches a guest ticket from `POST {base}/ticket/guest`. `base` defaults to the page's origin. With the
 * `pass` of an earlier grant one is the same guest again; throws `PassRefused` if it is not known.
 */
export declare function guestGrant(name?: string, base?: string, pass?: string): Promise<Grant>;
