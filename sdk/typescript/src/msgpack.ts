/** MessagePack bodies by Mainstay's rules: structs are arrays that only grow at their end, enums
 * are numbers, every value is written in its smallest form. */

import { WireError, Writer, readText, textBytes } from "./bytes.ts";

/** How deep arrays and maps may be nested in one value. */
export const DEPTH_MAX = 32;

/** What is wrong with bytes, in one word; `value` if a game's own reader says so. */
export type DecodeKind =
  | "truncated"
  | "trailing"
  | "type"
  | "range"
  | "utf8"
  | "missing"
  | "depth"
  | "duplicate"
  | "value";

/** Why bytes are no value of the wanted type, and where. */
export class DecodeError extends Error {
  /** Path of the wrong value, such as `items[3].count`; empty for the whole. */
  readonly path: string;
  /** What is wrong, without the path. */
  readonly problem: string;
  readonly kind: DecodeKind;

  constructor(problem: string, path = "", kind: DecodeKind = "value") {
    super(path ? `${path}: ${problem}` : problem);
    this.name = "DecodeError";
    this.problem = problem;
    this.path = path;
    this.kind = kind;
  }

  /** The same error, one step further out: `"name"` or `"[3]"`. */
  within(step: string): DecodeError {
    const joined = this.path === "" || this.path.startsWith("[") ? step + this.path : `${step}.${this.path}`;
    return new DecodeError(this.problem, joined, this.kind);
  }
}

/** Writes one value after the other. */
export class Encoder {
  private readonly out = new Writer(64);

  /** A copy of what was written. */
  bytes(): Uint8Array {
    return this.out.bytes();
  }

  nil(): void {
    this.out.byte(0xc0);
  }

  bool(value: boolean): void {
    this.out.byte(value ? 0xc3 : 0xc2);
  }

  /** An integer that is not negative and fits 64 bits. */
  uint(value: number | bigint): void {
    if (typeof value === "bigint" ? value < 0n || value > 0xffffffffffffffffn : !(Number.isSafeInteger(value) && value >= 0)) {
      throw new RangeError(`${value} is no unsigned integer`);
    }
    const out = this.out;
    if (value < 0x80) out.byte(Number(value));
    else if (value <= 0xff) {
      out.byte(0xcc);
      out.byte(Number(value));
    } else if (value <= 0xffff) {
      out.byte(0xcd);
      out.big("u16", value);
    } else if (value <= 0xffffffff) {
      out.byte(0xce);
      out.big("u32", value);
    } else {
      out.byte(0xcf);
      out.big("u64", value);
    }
  }

  /** An integer that fits 64 bits with a sign. */
  int(value: number | bigint): void {
    if (typeof value === "bigint" ? value < -(1n << 63n) || value >= 1n << 63n : !Number.isSafeInteger(value)) {
      throw new RangeError(`${value} is no integer`);
    }
    const out = this.out;
    if (value >= 0) this.uint(value);
    else if (value >= -32) out.byte(Number(value) & 0xff);
    else if (value >= -0x80) {
      out.byte(0xd0);
      out.byte(Number(value) & 0xff);
    } else if (value >= -0x8000) {
      out.byte(0xd1);
      out.big("i16", value);
    } else if (value >= -0x80000000) {
      out.byte(0xd2);
      out.big("i32", value);
    } else {
      out.byte(0xd3);
      out.big("i64", value);
    }
  }

  f32(value: number): void {
    this.out.byte(0xca);
    this.out.big("f32", value);
  }

  f64(value: number): void {
    this.out.byte(0xcb);
    this.out.big("f64", value);
  }

  text(text: string): void {
    const bytes = textBytes(text);
    if (bytes.length < 32) this.out.byte(0xa0 | bytes.length);
    else if (bytes.length <= 0xff) {
      this.out.byte(0xd9);
      this.out.byte(bytes.length);
    } else this.length(bytes.length, 0xda, 0xdb);
    this.out.put(bytes);
  }

  binary(bytes: Uint8Array): void {
    if (bytes.length <= 0xff) {
      this.out.byte(0xc4);
      this.out.byte(bytes.length);
    } else this.length(bytes.length, 0xc5, 0xc6);
    this.out.put(bytes);
  }

  /** The head of an array; `length` values follow. */
  array(length: number): void {
    if (length < 16) this.out.byte(0x90 | length);
    else this.length(length, 0xdc, 0xdd);
  }

  /** The head of a map; `length` pairs follow. */
  map(length: number): void {
    if (length < 16) this.out.byte(0x80 | length);
    else this.length(length, 0xde, 0xdf);
  }

  /** A value of any type: `null`, booleans, numbers (whole ones as integers), bigints, strings,
   * `Uint8Array` as binary, arrays, and `Map`s. */
  value(value: unknown): void {
    if (value === null || value === undefined) this.nil();
    else if (typeof value === "boolean") this.bool(value);
    else if (typeof value === "number") Number.isSafeInteger(value) ? this.int(value) : this.f64(value);
    else if (typeof value === "bigint") value < 0n ? this.int(value) : this.uint(value);
    else if (typeof value === "string") this.text(value);
    else if (value instanceof Uint8Array) this.binary(value);
    else if (Array.isArray(value)) {
      this.array(value.length);
      for (const item of value) this.value(item);
    } else if (value instanceof Map) {
      this.map(value.size);
      for (const [key, item] of value) {
        this.value(key);
        this.value(item);
      }
    } else throw new TypeError(`${typeof value} cannot travel; use arrays for structs and Map for maps`);
  }

  private length(length: number, short: number, long: number): void {
    this.out.byte(length <= 0xffff ? short : long);
    this.out.big(length <= 0xffff ? "u16" : "u32", length);
  }
}

/** Reads one value after the other. Every misfit throws a `DecodeError`. */
export class Decoder {
  private readonly data: Uint8Array;
  private readonly view: DataView;
  private at = 0;
  private depth = 0;

  constructor(bytes: Uint8Array) {
    // Node's Buffer copies nothing where an array does, so it is looked at as a plain array.
    this.data = new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  /** How many bytes have not been read. */
  left(): number {
    return this.data.length - this.at;
  }

  /** Throws if bytes are left over. */
  end(): void {
    if (this.left() > 0) throw new DecodeError(`${this.left()} bytes follow the value`, "", "trailing");
  }

  /** The first byte of the next value, or `undefined` at the end. */
  peek(): number | undefined {
    return this.data[this.at];
  }

  /** Takes a nil, if one stands here. */
  takeNil(): boolean {
    if (this.data[this.at] !== 0xc0) return false;
    this.at++;
    return true;
  }

  nil(): void {
    if (!this.takeNil()) this.unexpected("nil");
  }

  bool(): boolean {
    const head = this.data[this.at];
    if (head !== 0xc2 && head !== 0xc3) this.unexpected("a bool");
    this.at++;
    return head === 0xc3;
  }

  /** An unsigned integer below 2^53 and not above `max`. */
  uint(max = Number.MAX_SAFE_INTEGER): number {
    const value = this.integer();
    if (value < 0 || value > max) throw new DecodeError(`${value} is outside 0..=${max}`, "", "range");
    return Number(value);
  }

  /** An unsigned integer of up to 64 bits. */
  uint64(): bigint {
    const value = BigInt(this.integer());
    if (value < 0n) throw new DecodeError(`${value} is outside 0..=18446744073709551615`, "", "range");
    return value;
  }

  /** A signed integer within ±2^53 and the given range. */
  int(min = Number.MIN_SAFE_INTEGER, max = Number.MAX_SAFE_INTEGER): number {
    const value = this.integer();
    if (value < min || value > max) throw new DecodeError(`${value} is outside ${min}..=${max}`, "", "range");
    return Number(value);
  }

  /** A signed integer of up to 64 bits. */
  int64(): bigint {
    const value = BigInt(this.integer());
    if (value >= 1n << 63n) {
      throw new DecodeError(`${value} is outside -9223372036854775808..=9223372036854775807`, "", "range");
    }
    return value;
  }

  private integer(): number | bigint {
    const head = this.head();
    if (head < 0x80) {
      this.at++;
      return head;
    }
    if (head >= 0xe0) {
      this.at++;
      return head - 0x100;
    }
    switch (head) {
      case 0xcc: return this.take(1, (at) => this.view.getUint8(at));
      case 0xcd: return this.take(2, (at) => this.view.getUint16(at));
      case 0xce: return this.take(4, (at) => this.view.getUint32(at));
      case 0xcf: return this.take(8, (at) => this.view.getBigUint64(at));
      case 0xd0: return this.take(1, (at) => this.view.getInt8(at));
      case 0xd1: return this.take(2, (at) => this.view.getInt16(at));
      case 0xd2: return this.take(4, (at) => this.view.getInt32(at));
      case 0xd3: return this.take(8, (at) => this.view.getBigInt64(at));
      default: return this.unexpected("an integer");
    }
  }

  /** A float of either width, or an integer. */
  f64(): number {
    const head = this.head();
    if (head === 0xca) return this.take(4, (at) => this.view.getFloat32(at));
    if (head === 0xcb) return this.take(8, (at) => this.view.getFloat64(at));
    if (head < 0x80 || head >= 0xe0 || (head >= 0xcc && head <= 0xd3)) return Number(this.integer());
    return this.unexpected("a number");
  }

  /** A number rounded to 32 bits. */
  f32(): number {
    const wide = this.f64();
    const value = Math.fround(wide);
    if (!Number.isFinite(value) && Number.isFinite(wide)) {
      throw new DecodeError(`${wide} is outside what 32 bits can hold`, "", "range");
    }
    return value;
  }

  text(): string {
    const head = this.head();
    let length: number;
    let start: number;
    if (head >= 0xa0 && head <= 0xbf) [length, start] = [head & 0x1f, 1];
    else if (head === 0xd9) [length, start] = [this.ahead(1), 2];
    else if (head === 0xda) [length, start] = [this.ahead(2), 3];
    else if (head === 0xdb) [length, start] = [this.ahead(4), 5];
    else return this.unexpected("a text");
    try {
      return readText(this.body(start, length));
    } catch (error) {
      if (error instanceof WireError) throw new DecodeError("text is not UTF-8", "", "utf8");
      throw error;
    }
  }

  /** Binary data, copied. */
  binary(): Uint8Array {
    const head = this.head();
    if (head === 0xc4) return this.body(2, this.ahead(1)).slice();
    if (head === 0xc5) return this.body(3, this.ahead(2)).slice();
    if (head === 0xc6) return this.body(5, this.ahead(4)).slice();
    return this.unexpected("binary data");
  }

  /** The head of an array; `leave` after the last item. The bytes can hold that many items. */
  array(): number {
    const head = this.head();
    let length: number;
    let start: number;
    if (head >= 0x90 && head <= 0x9f) [length, start] = [head & 0x0f, 1];
    else if (head === 0xdc) [length, start] = [this.ahead(2), 3];
    else if (head === 0xdd) [length, start] = [this.ahead(4), 5];
    else return this.unexpected("an array");
    this.at += start;
    if (length > this.left()) this.truncated();
    this.enter();
    return length;
  }

  /** The head of a map; `leave` after the last pair. */
  map(): number {
    const head = this.head();
    let length: number;
    let start: number;
    if (head >= 0x80 && head <= 0x8f) [length, start] = [head & 0x0f, 1];
    else if (head === 0xde) [length, start] = [this.ahead(2), 3];
    else if (head === 0xdf) [length, start] = [this.ahead(4), 5];
    else return this.unexpected("a map");
    this.at += start;
    if (length > this.left() / 2) this.truncated();
    this.enter();
    return length;
  }

  /** Whether an array stands here. */
  isArray(): boolean {
    const head = this.data[this.at];
    return (head >= 0x90 && head <= 0x9f) || head === 0xdc || head === 0xdd;
  }

  enter(): void {
    if (this.depth === DEPTH_MAX) throw new DecodeError(`values are nested deeper than ${DEPTH_MAX}`, "", "depth");
    this.depth++;
  }

  leave(): void {
    this.depth--;
  }

  /** Skips one value of any type. */
  skip(): void {
    let open = 1;
    while (open > 0) {
      if (open > this.left()) this.truncated();
      open += this.skipOne() - 1;
    }
  }

  /** Skips one head with its own data; gives how many values are inside. */
  private skipOne(): number {
    const head = this.head();
    const plain = (start: number, length = 0): number => {
      this.body(start, length);
      return 0;
    };
    if (head < 0x80 || head >= 0xe0) return plain(1);
    if (head <= 0x8f) return plain(1) + 2 * (head & 0x0f);
    if (head <= 0x9f) return plain(1) + (head & 0x0f);
    if (head <= 0xbf) return plain(1, head & 0x1f);
    switch (head) {
      case 0xc0: case 0xc2: case 0xc3: return plain(1);
      case 0xc4: case 0xd9: return plain(2, this.ahead(1));
      case 0xc5: case 0xda: return plain(3, this.ahead(2));
      case 0xc6: case 0xdb: return plain(5, this.ahead(4));
      case 0xc7: return plain(3, this.ahead(1));
      case 0xc8: return plain(4, this.ahead(2));
      case 0xc9: return plain(6, this.ahead(4));
      case 0xca: case 0xce: case 0xd2: return plain(5);
      case 0xcb: case 0xcf: case 0xd3: return plain(9);
      case 0xcc: case 0xd0: return plain(2);
      case 0xcd: case 0xd1: return plain(3);
      case 0xd4: case 0xd5: case 0xd6: case 0xd7: case 0xd8: return plain(2, 1 << (head - 0xd4));
      case 0xdc: { const items = this.ahead(2); return plain(3) + items; }
      case 0xdd: { const items = this.ahead(4); return plain(5) + items; }
      case 0xde: { const pairs = this.ahead(2); return plain(3) + 2 * pairs; }
      case 0xdf: { const pairs = this.ahead(4); return plain(5) + 2 * pairs; }
      default: return this.unexpected("a value");
    }
  }

  /** One value of any type. Integers over 2^53 come as bigint, arrays as arrays, maps as `Map`. */
  value(): unknown {
    const head = this.head();
    if (head === 0xc0) return this.nil(), null;
    if (head === 0xc2 || head === 0xc3) return this.bool();
    if (head < 0x80 || head >= 0xe0 || (head >= 0xcc && head <= 0xd3)) {
      const value = this.integer();
      const safe = value >= Number.MIN_SAFE_INTEGER && value <= Number.MAX_SAFE_INTEGER;
      return safe ? Number(value) : value;
    }
    if (head === 0xca || head === 0xcb) return this.f64();
    if ((head >= 0xa0 && head <= 0xbf) || (head >= 0xd9 && head <= 0xdb)) return this.text();
    if (head >= 0xc4 && head <= 0xc6) return this.binary();
    if (this.isArray()) {
      const items: unknown[] = [];
      for (let left = this.array(); left > 0; left--) items.push(this.value());
      this.leave();
      return items;
    }
    if (head <= 0x8f || head === 0xde || head === 0xdf) {
      const pairs = new Map<unknown, unknown>();
      for (let left = this.map(); left > 0; left--) {
        const key = this.value();
        if (pairs.has(key)) throw new DecodeError("key stands twice", "", "duplicate");
        pairs.set(key, this.value());
      }
      this.leave();
      return pairs;
    }
    return this.unexpected("a value");
  }

  private head(): number {
    if (this.at >= this.data.length) this.truncated();
    return this.data[this.at];
  }

  private take<T>(length: number, read: (at: number) => T): T {
    if (this.left() < 1 + length) this.truncated();
    const value = read(this.at + 1);
    this.at += 1 + length;
    return value;
  }

  /** The big-endian number after the head byte. */
  private ahead(length: 1 | 2 | 4): number {
    if (this.left() < 1 + length) this.truncated();
    const at = this.at + 1;
    return length === 1 ? this.view.getUint8(at) : length === 2 ? this.view.getUint16(at) : this.view.getUint32(at);
  }

  private body(start: number, length: number): Uint8Array {
    if (start + length > this.left()) this.truncated();
    const body = this.data.subarray(this.at + start, this.at + start + length);
    this.at += start + length;
    return body;
  }

  private truncated(): never {
    throw new DecodeError("bytes end inside the value", "", "truncated");
  }

  private unexpected(expected: string): never {
    const head = this.head();
    throw new DecodeError(`${nameOf(head)} where ${expected} is wanted`, "", "type");
  }
}

function nameOf(head: number): string {
  if (head < 0x80 || head >= 0xe0 || (head >= 0xcc && head <= 0xd3)) return "an integer";
  if (head <= 0x8f || head === 0xde || head === 0xdf) return "a map";
  if (head <= 0x9f || head === 0xdc || head === 0xdd) return "an array";
  if (head <= 0xbf || (head >= 0xd9 && head <= 0xdb)) return "a text";
  if (head === 0xc0) return "nil";
  if (head === 0xc1) return "the unused byte 0xc1";
  if (head === 0xc2 || head === 0xc3) return "a bool";
  if (head >= 0xc4 && head <= 0xc6) return "binary data";
  if (head === 0xca || head === 0xcb) return "a float";
  return "an extension";
}

/** The fields of one struct, argument list or enum variant, first to last. What the writer did
 * not know is missing at the end; what the reader does not know is skipped. */
export class Fields {
  private left: number;
  private readonly inArray: boolean;

  private constructor(left: number, inArray: boolean) {
    this.left = left;
    this.inArray = inArray;
  }

  /** Takes the head of a struct or argument list. */
  static begin(d: Decoder): Fields {
    return new Fields(d.array(), true);
  }

  /** Takes the number of an enum's variant: `number` or `[number, fields...]`. */
  static variant(d: Decoder): { number: number; fields: Fields } {
    if (!d.isArray()) return { number: d.uint(), fields: new Fields(0, false) };
    const left = d.array();
    if (left === 0) throw new DecodeError("field is missing", "", "missing");
    return { number: d.uint(), fields: new Fields(left - 1, true) };
  }

  /** Takes a field that must be there. */
  required<T>(d: Decoder, name: string, read: (d: Decoder) => T): T {
    if (this.left === 0) throw new DecodeError("field is missing", name, "missing");
    this.left--;
    return within(name, () => read(d));
  }

  /** Takes a field, or its default if the writer did not have it or wrote nil. */
  orElse<T>(d: Decoder, name: string, read: (d: Decoder) => T, otherwise: () => T, nilIsValue = false): T {
    if (this.left === 0) return otherwise();
    this.left--;
    if (!nilIsValue && d.takeNil()) return otherwise();
    return within(name, () => read(d));
  }

  /** Skips a retired field. */
  retired(d: Decoder): void {
    if (this.left === 0) return;
    this.left--;
    d.skip();
  }

  /** Skips what the reader does not know. */
  end(d: Decoder): void {
    for (; this.left > 0; this.left--) d.skip();
    if (this.inArray) d.leave();
  }
}

/** Runs `read` and adds `step` to the path of its error. */
export function within<T>(step: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    throw error instanceof DecodeError ? error.within(step) : error;
  }
}

/** The bytes of a value of any type, see `Encoder.value`. */
export function encodeValue(value: unknown): Uint8Array {
  const encoder = new Encoder();
  encoder.value(value);
  return encoder.bytes();
}

/** The only value in `bytes`, see `Decoder.value`. */
export function decodeValue(bytes: Uint8Array): unknown {
  const decoder = new Decoder(bytes);
  const value = decoder.value();
  decoder.end();
  return value;
}
