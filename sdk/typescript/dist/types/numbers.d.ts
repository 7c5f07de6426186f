/** Numbered directions of a stream, as on the server. */
/** The sending half: numbers commands and keeps them until the server has applied them. */
export declare class Outbound<T> {
    last: number;
    acked: number;
    bytes: number;
    private items;
    private readonly framesMax;
    private readonly bytesMax;
    constructor(framesMax: number, bytesMax: number);
    get size(): number;
    /** Whether `bytes` more would be over a limit. */
    isFull(bytes: number): boolean;
    /** Keeps `item` and gives its number. Ask `isFull` before. */
    push(item: T, bytes: number): number;
    /** Forgets everything up to `number`; false for what was never sent. */
    acknowledge(number: number): boolean;
    /** What is kept, up to `last`, with its numbers, oldest first. */
    kept(last?: number): IterableIterator<[number, T]>;
    /** What is kept as `number`, if it is. */
    find(number: number): T | undefined;
}
/** The receiving half. */
export declare class Inbound {
    /** Frames handled without telling the server before it must be told. */
    static readonly UNTOLD_MAX = 32;
    applied: number;
    private told;
    arrive(number: number): "next" | "duplicate" | "gap";
    /** The number to acknowledge in a frame that is being sent anyway. */
    tell(): number;
    isDue(): boolean;
}
