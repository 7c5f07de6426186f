// Generated from the interface of the game; do not edit.

import { AppError, CallError, DecodeError, Decoder, Encoder, Fields, type Group, type Stream, within } from "mainstay";

/** Hash of the interface, for `interfaceHash` of a session. */
export const INTERFACE_HASH = 0x0225b6b826a2ba81n;

function writeListI16(e: Encoder, value: number[]): void {
  e.array(value.length);
  for (const item of value) e.int(item);
}

function readI16(d: Decoder): number {
  return d.int(-0x8000, 0x7fff);
}

function readListI16(d: Decoder): number[] {
  const items: number[] = [];
  const length = d.array();
  for (let at = 0; at < length; at++) items.push(within(`[${at}]`, () => readI16(d)));
  d.leave();
  return items;
}

function readU8(d: Decoder): number {
  return d.uint(0xff);
}

function writeOptionPlace(e: Encoder, value: Place | null): void {
  if (value === null) e.nil();
  else encodePlace(e, value);
}

function readU64(d: Decoder): bigint {
  return d.uint64();
}

function readU32(d: Decoder): number {
  return d.uint(0xffffffff);
}

function readText(d: Decoder): string {
  return d.text();
}

function readOptionPlace(d: Decoder): Place | null {
  return d.takeNil() ? null : decodePlace(d);
}

function writeOptionNode(e: Encoder, value: Node | null): void {
  if (value === null) e.nil();
  else encodeNode(e, value);
}

function writeListNode(e: Encoder, value: Node[]): void {
  e.array(value.length);
  for (const item of value) encodeNode(e, item);
}

function readOptionNode(d: Decoder): Node | null {
  return d.takeNil() ? null : decodeNode(d);
}

function readListNode(d: Decoder): Node[] {
  const items: Node[] = [];
  const length = d.array();
  for (let at = 0; at < length; at++) items.push(within(`[${at}]`, () => decodeNode(d)));
  d.leave();
  return items;
}

function readF32(d: Decoder): number {
  return d.f32();
}

/** A method's own error. */
export class Refused<E> extends Error {
  readonly error: E;

  constructor(error: E) {
    super("the method answered with its own error");
    this.name = "Refused";
    this.error = error;
  }
}

/** How to make a request. */
export interface CallOptions {
  deadlineMs?: number;
  signal?: AbortSignal;
}

function whole<T>(bytes: Uint8Array, read: (d: Decoder) => T): T {
  const d = new Decoder(bytes);
  const value = read(d);
  d.end();
  return value;
}

async function answer<T, E>(
  body: Promise<Uint8Array>,
  read: (d: Decoder) => T,
  readError?: (d: Decoder) => E,
): Promise<T> {
  let bytes: Uint8Array;
  try {
    bytes = await body;
  } catch (error) {
    if (readError && error instanceof CallError && error.problem === "app" && error.body) {
      throw new Refused(whole(error.body, readError));
    }
    throw error;
  }
  return whole(bytes, read);
}

function readOptionItem(d: Decoder): Item | null {
  return d.takeNil() ? null : decodeItem(d);
}

function writeText(e: Encoder, value: string): void {
  e.text(value);
}

/** What tells messages of which only the newest matters apart. */
function keyOf<T>(method: number, write: (e: Encoder, value: T) => void, value: T): string {
  const e = new Encoder();
  write(e, value);
  return `${method}:${e.bytes().join()}`;
}

function readUnit(d: Decoder): null {
  d.nil();
  return null;
}

function writeListItem(e: Encoder, value: Item[]): void {
  e.array(value.length);
  for (const item of value) encodeItem(e, item);
}

/** Names an entity of the cluster. */
export interface EntityId {
  kind: number;
  home: bigint;
  key: bigint;
}

function exactly(d: Decoder, expected: number): void {
  const found = d.array();
  if (found !== expected) throw new DecodeError(`${found} items where ${expected} are wanted`);
}

function readBool(d: Decoder): boolean {
  return d.bool();
}

function readArrayU83(d: Decoder): number[] {
  exactly(d, 3);
  const items = Array.from({ length: 3 }, () => readU8(d));
  d.leave();
  return items;
}

function readI64(d: Decoder): bigint {
  return d.int64();
}

function readOptionI64(d: Decoder): bigint | null {
  return d.takeNil() ? null : readI64(d);
}

function readListOptionI64(d: Decoder): (bigint | null)[] {
  const items: (bigint | null)[] = [];
  const length = d.array();
  for (let at = 0; at < length; at++) items.push(within(`[${at}]`, () => readOptionI64(d)));
  d.leave();
  return items;
}

function readMapTextListOptionI64(d: Decoder): Map<string, (bigint | null)[]> {
  const map: Map<string, (bigint | null)[]> = new Map();
  for (let left = d.map(); left > 0; left--) {
    const key = readText(d);
    map.set(key, readListOptionI64(d));
  }
  d.leave();
  return map;
}

function readU16(d: Decoder): number {
  return d.uint(0xffff);
}

function readSetU16(d: Decoder): number[] {
  const items: number[] = [];
  const length = d.array();
  for (let at = 0; at < length; at++) items.push(within(`[${at}]`, () => readU16(d)));
  d.leave();
  return items;
}

function readBytes(d: Decoder): Uint8Array {
  return d.binary();
}

function readEntity(d: Decoder): EntityId {
  exactly(d, 3);
  const value = { kind: d.uint(0xffffffff), home: d.uint64(), key: d.uint64() };
  d.leave();
  return value;
}

function readSession(d: Decoder): Uint8Array {
  const value = d.binary();
  if (value.length !== 16) throw new DecodeError("a session id has 16 bytes");
  return value;
}

function readTuple2(d: Decoder): [EntityId, Uint8Array] {
  exactly(d, 2);
  const value: [EntityId, Uint8Array] = [readEntity(d), readSession(d)];
  d.leave();
  return value;
}

function readF64(d: Decoder): number {
  return d.f64();
}

function readTuple7(d: Decoder): [boolean, number[], Map<string, (bigint | null)[]>, number[], Uint8Array, [EntityId, Uint8Array], number] {
  exactly(d, 7);
  const value: [boolean, number[], Map<string, (bigint | null)[]>, number[], Uint8Array, [EntityId, Uint8Array], number] = [readBool(d), readArrayU83(d), readMapTextListOptionI64(d), readSetU16(d), readBytes(d), readTuple2(d), readF64(d)];
  d.leave();
  return value;
}

function writeArrayU83(e: Encoder, value: number[]): void {
  if (value.length !== 3) throw new RangeError(`${value.length} items where 3 are wanted`);
  e.array(3);
  for (const item of value) e.uint(item);
}

function writeOptionI64(e: Encoder, value: bigint | null): void {
  if (value === null) e.nil();
  else e.int(value);
}

function writeListOptionI64(e: Encoder, value: (bigint | null)[]): void {
  e.array(value.length);
  for (const item of value) writeOptionI64(e, item);
}

function writeMapTextListOptionI64(e: Encoder, value: Map<string, (bigint | null)[]>): void {
  e.map(value.size);
  for (const [key, item] of value) {
    e.text(key);
    writeListOptionI64(e, item);
  }
}

function writeSetU16(e: Encoder, value: number[]): void {
  e.array(value.length);
  for (const item of value) e.uint(item);
}

function writeEntity(e: Encoder, value: EntityId): void {
  e.array(3);
  e.uint(value.kind);
  e.uint(value.home);
  e.uint(value.key);
}

function writeTuple2(e: Encoder, value: [EntityId, Uint8Array]): void {
  e.array(2);
  writeEntity(e, value[0]);
  e.binary(value[1]);
}

function writeTuple7(e: Encoder, value: [boolean, number[], Map<string, (bigint | null)[]>, number[], Uint8Array, [EntityId, Uint8Array], number]): void {
  e.array(7);
  e.bool(value[0]);
  writeArrayU83(e, value[1]);
  writeMapTextListOptionI64(e, value[2]);
  writeSetU16(e, value[3]);
  e.binary(value[4]);
  writeTuple2(e, value[5]);
  e.f64(value[6]);
}

export type Deed =
  | { type: "Rest" }
  | { type: "Move"; to: Place; steps: number[] }
  | { type: "Give"; value0: Item; value1: number };

export function encodeDeed(e: Encoder, value: Deed): void {
  switch (value.type) {
    case "Rest":
      e.uint(0);
      return;
    case "Move":
      e.array(3);
      e.uint(1);
      encodePlace(e, value.to);
      writeListI16(e, value.steps);
      return;
    case "Give":
      e.array(3);
      e.uint(2);
      encodeItem(e, value.value0);
      e.uint(value.value1);
      return;
  }
}

export function decodeDeed(d: Decoder): Deed {
  const { number, fields } = Fields.variant(d);
  let value: Deed;
  switch (number) {
    case 0: {
      value = { type: "Rest" };
      break;
    }
    case 1: {
      const field0 = fields.required(d, "to", decodePlace);
      const field1 = fields.required(d, "steps", readListI16);
      value = { type: "Move", to: field0, steps: field1 };
      break;
    }
    case 2: {
      const field0 = fields.required(d, "0", decodeItem);
      const field1 = fields.required(d, "1", readU8);
      value = { type: "Give", value0: field0, value1: field1 };
      break;
    }
    default:
      throw new DecodeError(`no variant has number ${number}`);
  }
  fields.end(d);
  return value;
}

export interface Item {
  id: bigint;
  /** is in 1..=99 */
  count: number;
  /** has a length in ..=20 */
  label: string;
  owner: Place | null;
}

export function encodeItem(e: Encoder, value: Item): void {
  e.array(5);
  e.uint(value.id);
  e.uint(value.count);
  e.text(value.label);
  e.nil();
  writeOptionPlace(e, value.owner);
}

export function decodeItem(d: Decoder): Item {
  const fields = Fields.begin(d);
  const field0 = fields.required(d, "id", readU64);
  const field1 = fields.required(d, "count", readU32);
  const field2 = fields.orElse<string>(d, "label", readText, () => "");
  fields.retired(d);
  const field4 = fields.orElse<Place | null>(d, "owner", readOptionPlace, () => null, true);
  fields.end(d);
  return { id: field0, count: field1, label: field2, owner: field4 };
}

export type Mood =
  | "Calm"
  | "Angry"
  | "Unknown";

export function encodeMood(e: Encoder, value: Mood): void {
  switch (value) {
    case "Calm":
      e.uint(0);
      return;
    case "Angry":
      e.uint(1);
      return;
    case "Unknown":
      e.uint(9);
      return;
  }
}

export function decodeMood(d: Decoder): Mood {
  const { number, fields } = Fields.variant(d);
  let value: Mood;
  switch (number) {
    case 0: {
      value = "Calm";
      break;
    }
    case 1: {
      value = "Angry";
      break;
    }
    case 9: {
      value = "Unknown";
      break;
    }
    default:
      value = "Unknown";
  }
  fields.end(d);
  return value;
}

export interface Node {
  next: Node | null;
  children: Node[];
  mood: Mood;
}

export function encodeNode(e: Encoder, value: Node): void {
  e.array(3);
  writeOptionNode(e, value.next);
  writeListNode(e, value.children);
  encodeMood(e, value.mood);
}

export function decodeNode(d: Decoder): Node {
  const fields = Fields.begin(d);
  const field0 = fields.required(d, "next", readOptionNode);
  const field1 = fields.required(d, "children", readListNode);
  const field2 = fields.orElse<Mood>(d, "mood", decodeMood, () => "Calm");
  fields.end(d);
  return { next: field0, children: field1, mood: field2 };
}

export interface Place {
  /** is finite */
  value0: number;
  value1: number;
}

export function encodePlace(e: Encoder, value: Place): void {
  e.array(2);
  e.f32(value.value0);
  e.f32(value.value1);
}

export function decodePlace(d: Decoder): Place {
  const fields = Fields.begin(d);
  const field0 = fields.required(d, "0", readF32);
  const field1 = fields.required(d, "1", readF32);
  fields.end(d);
  return { value0: field0, value1: field1 };
}

export type ShopError =
  | { type: "Poor"; missing: bigint }
  | { type: "Closed" };

export function encodeShopError(e: Encoder, value: ShopError): void {
  switch (value.type) {
    case "Poor":
      e.array(2);
      e.uint(0);
      e.uint(value.missing);
      return;
    case "Closed":
      e.uint(1);
      return;
  }
}

export function decodeShopError(d: Decoder): ShopError {
  const { number, fields } = Fields.variant(d);
  let value: ShopError;
  switch (number) {
    case 0: {
      const field0 = fields.required(d, "missing", readU64);
      value = { type: "Poor", missing: field0 };
      break;
    }
    case 1: {
      value = { type: "Closed" };
      break;
    }
    default:
      throw new DecodeError(`no variant has number ${number}`);
  }
  fields.end(d);
  return value;
}

/** What servers tell a client by `arena_client`. */
export interface ArenaClientHandlers {
  joined(name: string): void;
  shrunk(edge: number): void;
}

/** Handles what servers tell by `arena_client` on a stream or a group. Gives a function that stops it. */
export function onArenaClient(from: Stream | Group, handlers: Partial<ArenaClientHandlers>): () => void {
  const stops = [
    from.on(0xffc8ab55, (body) => {
      const d = new Decoder(body);
      const fields = Fields.begin(d);
      const arg0 = fields.required(d, "name", readText);
      fields.end(d);
      d.end();
      handlers.joined?.(arg0);
    }),
    from.on(0x55db3efd, (body) => {
      const d = new Decoder(body);
      const fields = Fields.begin(d);
      const arg0 = fields.required(d, "edge", readF32);
      fields.end(d);
      d.end();
      handlers.shrunk?.(arg0);
    }),
  ];
  return () => stops.forEach((stop) => stop());
}

/** What servers ask a client by `arena_client`. */
export interface ArenaClientAnswers {
  /** May throw `Refused<ShopError>`. */
  choose(mood: Mood): Item | Promise<Item>;
  confirm(question: string): boolean | Promise<boolean>;
}

/** Publishes answers to what servers ask by `arena_client` on a stream. */
export function answerArenaClient(stream: Stream, answers: ArenaClientAnswers): void {
  stream.answer(0x97e49cd4, async (body) => {
    const e = new Encoder();
    try {
      const d = new Decoder(body);
      const fields = Fields.begin(d);
      const arg0 = fields.required(d, "mood", decodeMood);
      fields.end(d);
      d.end();
      const value = await answers.choose(arg0);
      encodeItem(e, value);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      const e = new Encoder();
      encodeShopError(e, error.error as ShopError);
      throw new AppError(e.bytes());
    }
    return e.bytes();
  });
  stream.answer(0xa84d9801, async (body) => {
    const e = new Encoder();
    const d = new Decoder(body);
    const fields = Fields.begin(d);
    const arg0 = fields.required(d, "question", readText);
    fields.end(d);
    d.end();
    const value = await answers.confirm(arg0);
    e.bool(value);
    return e.bytes();
  });
}

/** The component `bag` of the entity `avatar`. */
export class AvatarBagStub {
  readonly #stream: Stream;

  constructor(stream: Stream) {
    this.#stream = stream;
  }

  /** `bag.use_item`. Throws `Refused<ShopError>`. */
  async useItem(id: bigint, count: number, options?: CallOptions): Promise<Item | null> {
    const e = new Encoder();
    e.array(2);
    e.uint(id);
    e.uint(count);
    return answer(this.#stream.request(0x37ed3d94, e.bytes(), options), readOptionItem, decodeShopError);
  }
}

/** Calls the entity `avatar` behind a stream. */
export class AvatarStub {
  readonly #stream: Stream;
  readonly bag: AvatarBagStub;

  constructor(stream: Stream) {
    this.#stream = stream;
    this.bag = new AvatarBagStub(stream);
  }

  /** `act`. */
  async act(deed: Deed, options?: CallOptions): Promise<Mood> {
    const e = new Encoder();
    e.array(1);
    encodeDeed(e, deed);
    return answer(this.#stream.request(0x12ed85c3, e.bytes(), { deadlineMs: 1500, ...options }), decodeMood);
  }

  /** `rest`. */
  rest(): number {
    const e = new Encoder();
    e.array(0);
    return this.#stream.tell(0x3eafe7fe, e.bytes());
  }

  /** `steer`. `angle` is in 0..=359. */
  steer(class_: string, angle: number): void {
    const e = new Encoder();
    e.array(2);
    e.text(class_);
    e.uint(angle);
    this.#stream.tell(0x10779505, e.bytes(), { latest: keyOf(0x10779505, writeText, class_) });
  }

  /** `think`. */
  think(body_: Node): number {
    const e = new Encoder();
    e.array(1);
    encodeNode(e, body_);
    return this.#stream.tell(0x6ac73d17, e.bytes());
  }
}

/** Calls the service `shop` behind a stream. */
export class ShopStub {
  readonly #stream: Stream;

  constructor(stream: Stream) {
    this.#stream = stream;
  }

  /** `buy`. Throws `Refused<ShopError>`. */
  async buy(items: Item[], options?: CallOptions): Promise<void> {
    const e = new Encoder();
    e.array(1);
    writeListItem(e, items);
    await answer(this.#stream.request(0x9b461b7c, e.bytes(), options), readUnit, decodeShopError);
  }

  /** `echo`. */
  async echo(value: [boolean, number[], Map<string, (bigint | null)[]>, number[], Uint8Array, [EntityId, Uint8Array], number], options?: CallOptions): Promise<[boolean, number[], Map<string, (bigint | null)[]>, number[], Uint8Array, [EntityId, Uint8Array], number]> {
    const e = new Encoder();
    e.array(1);
    writeTuple7(e, value);
    return answer(this.#stream.request(0xd3a3595d, e.bytes(), options), readTuple7);
  }
}
