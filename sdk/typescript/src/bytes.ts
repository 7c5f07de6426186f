/** Growing output and strict input of header fields; see docs/protocol.md. */

/** What is wrong with a frame, in one word. */
export type WireProblem = "truncated" | "varint" | "range" | "utf8" | "trailing" | "empty" | "too_long" | "kind";

/** Why bytes from the server could not be read. */
export class WireError extends Error {
  /** What is wrong. */
  readonly problem: WireProblem;

  constructor(problem: WireProblem, message: string = problem) {
    super(message);
    this.name = "WireError";
    this.problem = problem;
  }
}

const utf8 = new TextEncoder();
const strictUtf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** The UTF-8 bytes of a text. */
export function textBytes(text: string): Uint8Array {
  return utf8.encode(text);
}

/** Appends bytes to a buffer that grows. */
export class Writer {
  private buffer: Uint8Array;
  private view: DataView;
  /** How many bytes were written. */
  length = 0;

  constructor(capacity = 64) {
    this.buffer = new Uint8Array(capacity);
    this.view = new DataView(this.buffer.buffer);
  }

  /** A copy of what was written. */
  bytes(): Uint8Array {
    return this.buffer.slice(0, this.length);
  }

  /** Takes the written bytes out and starts over. */
  take(): Uint8Array {
    const taken = this.bytes();
    this.length = 0;
    if (this.buffer.length > 65536) {
      this.buffer = new Uint8Array(64);
      this.view = new DataView(this.buffer.buffer);
    }
    return taken;
  }

  byte(value: number): void {
    this.reserve(1);
    this.buffer[this.length++] = value;
  }

  put(bytes: Uint8Array): void {
    this.reserve(bytes.length);
    this.buffer.set(bytes, this.length);
    this.length += bytes.length;
  }

  varint(value: number | bigint): void {
    if (typeof value === "bigint") {
      while (value >= 0x80n) {
        this.byte(Number(value & 0x7fn) | 0x80);
        value >>= 7n;
      }
      this.byte(Number(value));
      return;
    }
    while (value >= 0x80) {
      this.byte((value % 0x80) | 0x80);
      value = Math.floor(value / 0x80);
    }
    this.byte(value);
  }

  blob(bytes: Uint8Array): void {
    this.varint(bytes.length);
    this.put(bytes);
  }

  text(text: string): void {
    this.blob(utf8.encode(text));
  }

  /** Little-endian. */
  u32(value: number): void {
    this.reserve(4);
    this.view.setUint32(this.length, value, true);
    this.length += 4;
  }

  /** Little-endian. */
  u64(value: bigint): void {
    this.reserve(8);
    this.view.setBigUint64(this.length, value, true);
    this.length += 8;
  }

  /** Big-endian numbers, for MessagePack. */
  big(kind: "u16" | "u32" | "u64" | "i16" | "i32" | "i64" | "f32" | "f64", value: number | bigint): void {
    this.reserve(8);
    const at = this.length;
    switch (kind) {
      case "u16": this.view.setUint16(at, Number(value)); this.length += 2; break;
      case "u32": this.view.setUint32(at, Number(value)); this.length += 4; break;
      case "u64": this.view.setBigUint64(at, BigInt(value)); this.length += 8; break;
      case "i16": this.view.setInt16(at, Number(value)); this.length += 2; break;
      case "i32": this.view.setInt32(at, Number(value)); this.length += 4; break;
      case "i64": this.view.setBigInt64(at, BigInt(value)); this.length += 8; break;
      case "f32": this.view.setFloat32(at, Number(value)); this.length += 4; break;
      case "f64": this.view.setFloat64(at, Number(value)); this.length += 8; break;
    }
  }

  /** Forgets what was written after `length`. */
  truncate(length: number): void {
    this.length = Math.min(this.length, length);
  }

  private reserve(more: number): void {
    const needed = this.length + more;
    if (needed <= this.buffer.length) return;
    const grown = new Uint8Array(Math.max(needed, this.buffer.length * 2));
    grown.set(this.buffer.subarray(0, this.length));
    this.buffer = grown;
    this.view = new DataView(grown.buffer);
  }
}

/** Reads header fields of a frame, front to back. Every misfit throws a `WireError`. */
export class Reader {
  private readonly data: Uint8Array;
  private readonly view: DataView;
  /** Position of the next byte. */
  at = 0;

  constructor(bytes: Uint8Array) {
    // Node's Buffer copies nothing where an array does, so it is looked at as a plain array.
    this.data = new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  left(): number {
    return this.data.length - this.at;
  }

  byte(): number {
    if (this.at >= this.data.length) throw new WireError("truncated", "frame ends inside a field");
    return this.data[this.at++];
  }

  /** A byte that is 0 or 1. */
  flag(): boolean {
    const byte = this.byte();
    if (byte > 1) throw new WireError("range", "field is out of its range");
    return byte === 1;
  }

  /** A varint of up to 64 bits. Longer than needed is refused. */
  varint64(): bigint {
    let value = 0n;
    for (let index = 0; index < 10; index++) {
      const byte = this.byte();
      if (index === 9 && byte > 1) break;
      value |= BigInt(byte & 0x7f) << BigInt(7 * index);
      if (byte < 0x80) {
        if (byte === 0 && index > 0) break;
        return value;
      }
    }
    throw new WireError("varint", "varint is too long");
  }

  /** A varint that must be an exact JavaScript number (below 2^53). */
  varint(): number {
    const first = this.data[this.at];
    if (first !== undefined && first < 0x80) {
      this.at++;
      return first;
    }
    const value = this.varint64();
    if (value > 0x1fffffffffffffn) throw new WireError("range", "number is over 2^53");
    return Number(value);
  }

  varint32(): number {
    const value = this.varint64();
    if (value > 0xffffffffn) throw new WireError("range", "field is out of its range");
    return Number(value);
  }

  /** `length` bytes, not copied. */
  bytes(length: number): Uint8Array {
    if (length > this.left()) throw new WireError("truncated", "frame ends inside a field");
    const bytes = this.data.subarray(this.at, this.at + length);
    this.at += length;
    return bytes;
  }

  u32(): number {
    if (this.left() < 4) throw new WireError("truncated", "frame ends inside a field");
    const value = this.view.getUint32(this.at, true);
    this.at += 4;
    return value;
  }

  u64(): bigint {
    if (this.left() < 8) throw new WireError("truncated", "frame ends inside a field");
    const value = this.view.getBigUint64(this.at, true);
    this.at += 8;
    return value;
  }

  blob(max: number): Uint8Array {
    const length = this.varint64();
    if (length > BigInt(max)) throw new WireError("range", "field is out of its range");
    return this.bytes(Number(length));
  }

  text(max: number): string {
    return readText(this.blob(max));
  }

  /** All that is left. */
  rest(): Uint8Array {
    return this.bytes(this.left());
  }

  end(): void {
    if (this.left() > 0) throw new WireError("trailing", "frame has bytes after its last field");
  }
}

/** Strict UTF-8. */
export function readText(bytes: Uint8Array): string {
  try {
    return strictUtf8.decode(bytes);
  } catch {
    throw new WireError("utf8", "text is not UTF-8");
  }
}
