/** MessagePack bodies by Mainstay's rules: structs are arrays that only grow at their end, enums
 * are numbers, every value is written in its smallest form. */
/** How deep arrays and maps may be nested in one value. */
export declare const DEPTH_MAX = 32;
/** What is wrong with bytes, in one word; `value` if a game's own reader says so. */
export type DecodeKind = "truncated" | "trailing" | "type" | "range" | "utf8" | "missing" | "depth" | "duplicate" | "value";
/** Why bytes are no value of the wanted type, and where. */
export declare class DecodeError extends Error {
    /** Path of the wrong value, such as `items[3].count`; empty for the whole. */
    readonly path: string;
    /** What is wrong, without the path. */
    readonly problem: string;
    readonly kind: DecodeKind;
    constructor(problem: string, path?: string, kind?: DecodeKind);
    /** The same error, one step further out: `"name"` or `"[3]"`. */
    within(step: string): DecodeError;
}
/** Writes one value after the other. */
export declare class Encoder {
    private readonly out;
    /** A copy of what was written. */
    bytes(): Uint8Array;
    nil(): void;
    bool(value: boolean): void;
    /** An integer that is not negative and fits 64 bits. */
    uint(value: number | bigint): void;
    /** An integer that fits 64 bits with a sign. */
    int(value: number | bigint): void;
    f32(value: number): void;
    f64(value: number): void;
    text(text: string): void;
    binary(bytes: Uint8Array): void;
    /** The head of an array; `length` values follow. */
    array(length: number): void;
    /** The head of a map; `length` pairs follow. */
    map(length: number): void;
    /** A value of any type: `null`, booleans, numbers (whole ones as integers), bigints, strings,
     * `Uint8Array` as binary, arrays, and `Map`s. */
    value(value: unknown): void;
    private length;
}
/** Reads one value after the other. Every misfit throws a `DecodeError`. */
export declare class Decoder {
    private readonly data;
    private readonly view;
    private at;
    private depth;
    constructor(bytes: Uint8Array);
    /** How many bytes have not been read. */
    left(): number;
    /** Throws if bytes are left over. */
    end(): void;
    /** The first byte of the next value, or `undefined` at the end. */
    peek(): number | undefined;
    /** Takes a nil, if one stands here. */
    takeNil(): boolean;
    nil(): void;
    bool(): boolean;
    /** An unsigned integer below 2^53 and not above `max`. */
    uint(max?: number): number;
    /** An unsigned integer of up to 64 bits. */
    uint64(): bigint;
    /** A signed integer within ±2^53 and the given range. */
    int(min?: number, max?: number): number;
    /** A signed integer of up to 64 bits. */
    int64(): bigint;
    private integer;
    /** A float of either width, or an integer. */
    f64(): number;
    /** A number rounded to 32 bits. */
    f32(): number;
    text(): string;
    /** Binary data, copied. */
    binary(): Uint8Array;
    /** The head of an array; `leave` after the last item. The bytes can hold that many items. */
    array(): number;
    /** The head of a map; `leave` after the last pair. */
    map(): number;
    /** Whether an array stands here. */
    isArray(): boolean;
    enter(): void;
    leave(): void;
    /** Skips one value of any type. */
    skip(): void;
    /** Skips one head with its own data; gives how many values are inside. */
    private skipOne;
    /** One value of any type. Integers over 2^53 come as bigint, arrays as arrays, maps as `Map`. */
    value(): unknown;
    private head;
    private take;
    /** The big-endian number after the head byte. */
    private ahead;
    private body;
    private truncated;
    private unexpected;
}
/** The fields of one struct, argument list or enum variant, first to last. What the writer did
 * not know is missing at the end; what the reader does not know is skipped. */
export declare class Fields {
    private left;
    private readonly inArray;
    private constructor();
    /** Takes the head of a struct or argument list. */
    static begin(d: Decoder): Fields;
    /** Takes the number of an enum's variant: `number` or `[number, fields...]`. */
    static variant(d: Decoder): {
        number: number;
        fields: Fields;
    };
    /** Takes a field that must be there. */
    required<T>(d: Decoder, name: string, read: (d: Decoder) => T): T;
    /** Takes a field, or its default if the writer did not have it or wrote nil. */
    orElse<T>(d: Decoder, name: string, read: (d: Decoder) => T, otherwise: () => T, nilIsValue?: boolean): T;
    /** Skips a retired field. */
    retired(d: Decoder): void;
    /** Skips what the reader does not know. */
    end(d: Decoder): void;
}
/** Runs `read` and adds `step` to the path of its error. */
export declare function within<T>(step: string, read: () => T): T;
/** The bytes of a value of any type, see `Encoder.value`. */
export declare function encodeValue(value: unknown): Uint8Array;
/** The only value in `bytes`, see `Decoder.value`. */
export declare function decodeValue(bytes: Uint8Array): unknown;
