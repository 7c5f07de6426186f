/** Growing output and strict input of header fields; see docs/protocol.md. */
/** What is wrong with a frame, in one word. */
export type WireProblem = "truncated" | "varint" | "range" | "utf8" | "trailing" | "empty" | "too_long" | "kind";
/** Why bytes from the server could not be read. */
export declare class WireError extends Error {
    /** What is wrong. */
    readonly problem: WireProblem;
    constructor(problem: WireProblem, message?: string);
}
/** The UTF-8 bytes of a text. */
export declare function textBytes(text: string): Uint8Array;
/** Appends bytes to a buffer that grows. */
export declare class Writer {
    private buffer;
    private view;
    /** How many bytes were written. */
    length: number;
    constructor(capacity?: number);
    /** A copy of what was written. */
    bytes(): Uint8Array;
    /** Takes the written bytes out and starts over. */
    take(): Uint8Array;
    byte(value: number): void;
    put(bytes: Uint8Array): void;
    varint(value: number | bigint): void;
    blob(bytes: Uint8Array): void;
    text(text: string): void;
    /** Little-endian. */
    u32(value: number): void;
    /** Little-endian. */
    u64(value: bigint): void;
    /** Big-endian numbers, for MessagePack. */
    big(kind: "u16" | "u32" | "u64" | "i16" | "i32" | "i64" | "f32" | "f64", value: number | bigint): void;
    /** Forgets what was written after `length`. */
    truncate(length: number): void;
    private reserve;
}
/** Reads header fields of a frame, front to back. Every misfit throws a `WireError`. */
export declare class Reader {
    private readonly data;
    private readonly view;
    /** Position of the next byte. */
    at: number;
    constructor(bytes: Uint8Array);
    left(): number;
    byte(): number;
    /** A byte that is 0 or 1. */
    flag(): boolean;
    /** A varint of up to 64 bits. Longer than needed is refused. */
    varint64(): bigint;
    /** A varint that must be an exact JavaScript number (below 2^53). */
    varint(): number;
    varint32(): number;
    /** `length` bytes, not copied. */
    bytes(length: number): Uint8Array;
    u32(): number;
    u64(): bigint;
    blob(max: number): Uint8Array;
    text(max: number): string;
    /** All that is left. */
    rest(): Uint8Array;
    end(): void;
}
/** Strict UTF-8. */
export declare function readText(bytes: Uint8Array): string;
