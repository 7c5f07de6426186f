/** Numbered directions of a stream, as on the server. */

/** The sending half: numbers commands and keeps them until the server has applied them. */
export class Outbound<T> {
  last = 0;
  acked = 0;
  bytes = 0;
  private items: { item: T; bytes: number }[] = [];
  private readonly framesMax: number;
  private readonly bytesMax: number;

  constructor(framesMax: number, bytesMax: number) {
    this.framesMax = framesMax;
    this.bytesMax = bytesMax;
  }

  get size(): number {
    return this.items.length;
  }

  /** Whether `bytes` more would be over a limit. */
  isFull(bytes: number): boolean {
    return this.items.length >= this.framesMax || (this.bytes + bytes > this.bytesMax && this.items.length > 0);
  }

  /** Keeps `item` and gives its number. Ask `isFull` before. */
  push(item: T, bytes: number): number {
    this.bytes += bytes;
    this.items.push({ item, bytes });
    return ++this.last;
  }

  /** Forgets everything up to `number`; false for what was never sent. */
  acknowledge(number: number): boolean {
    if (number > this.last) return false;
    if (number > this.acked) {
      for (const { bytes } of this.items.splice(0, number - this.acked)) this.bytes -= bytes;
      this.acked = number;
    }
    return true;
  }

  /** What is kept, up to `last`, with its numbers, oldest first. */
  *kept(last = this.last): IterableIterator<[number, T]> {
    let number = this.acked;
    for (const { item } of this.items) if (++number <= last) yield [number, item];
  }

  /** What is kept as `number`, if it is. */
  find(number: number): T | undefined {
    return this.items[number - this.acked - 1]?.item;
  }
}

/** The receiving half. */
export class Inbound {
  /** Frames handled without telling the server before it must be told. */
  static readonly UNTOLD_MAX = 32;

  applied = 0;
  private told = 0;

  arrive(number: number): "next" | "duplicate" | "gap" {
    if (number <= this.applied) return "duplicate";
    if (number > this.applied + 1) return "gap";
    this.applied = number;
    return "next";
  }

  /** The number to acknowledge in a frame that is being sent anyway. */
  tell(): number {
    this.told = this.applied;
    return this.applied;
  }

  isDue(): boolean {
    return this.applied - this.told >= Inbound.UNTOLD_MAX;
  }
}
