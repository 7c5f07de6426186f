/** Runs the protocol's vectors, docs/vectors. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { Reader, WireError, Writer } from "../src/bytes.ts";
import {
  CloseCode,
  PREFACE,
  Status,
  VERSION,
  closeName,
  decodeDown,
  decodeUp,
  encodeDown,
  encodeUp,
  mayResume,
  splitFrame,
  statusName,
} from "../src/frame.ts";
import { methodId, nameHash } from "../src/ids.ts";
import { DecodeError, Decoder, Encoder, Fields, within } from "../src/msgpack.ts";
import { loginProof, resumeProof } from "../src/ticket.ts";

type Any = any;
const vectors = (name: string): Any => JSON.parse(readFileSync(`../../docs/vectors/${name}.json`, "utf8"));
const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");
const unhex = (text: string): Uint8Array => Uint8Array.from(Buffer.from(text, "hex"));

test("varints", () => {
  const { good, bad } = vectors("varints");
  for (const { value, bytes } of good) {
    const out = new Writer();
    out.varint(BigInt(value));
    assert.equal(hex(out.bytes()), bytes);
    const reader = new Reader(unhex(bytes));
    assert.equal(reader.varint64(), BigInt(value));
    reader.end();
  }
  for (const { name, bytes, error } of bad) {
    assert.throws(() => new Reader(unhex(bytes)).varint64(), { problem: error }, name);
  }
});

test("names and codes", () => {
  const { names, methods } = vectors("names");
  for (const { name, hash } of names) assert.equal(nameHash(name), hash, name);
  for (const { path, id } of methods) assert.equal(methodId(path), id, path);
  const { status, close } = vectors("codes");
  for (const { code, name } of status.slice(0, -1)) assert.equal(statusName(code), name);
  assert.equal(Object.keys(Status).length, status.length - 1);
  for (const { code, name, may_resume } of close.slice(0, -1)) {
    assert.equal(closeName(code), name);
    assert.equal(mayResume(code), may_resume, name);
  }
  assert.equal(Object.keys(CloseCode).length, close.length - 1);
  // An unknown number reads as the last line says.
  const unknown = decodeDown(Uint8Array.of(0x0a, close.at(-1).code, 0));
  assert(unknown.type === "close" && closeName(unknown.code) === close.at(-1).name);
  const fault = decodeDown(Uint8Array.of(0x1d, 1, 1, status.at(-1).code));
  assert(fault.type === "fault" && statusName(fault.status) === status.at(-1).name);
});

test("proofs", () => {
  const { login, resume } = vectors("proofs");
  for (const { secret, nonce, ticket, proof } of login) {
    assert.equal(hex(loginProof(unhex(secret), unhex(nonce), unhex(ticket))), proof);
  }
  for (const { secret, nonce, token, generation, proof } of resume) {
    assert.equal(hex(resumeProof(unhex(secret), unhex(nonce), unhex(token), BigInt(generation))), proof);
  }
});

/** A decoded frame in the vectors' form: bytes as hex, 64-bit numbers as texts. */
function plain(frame: Any, like: Any): Any {
  const fields: Any = {};
  for (const [key, value] of Object.entries<Any>(frame)) {
    if (key === "type") continue;
    const name = key.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
    if (value instanceof Uint8Array) fields[name] = hex(value);
    else if (Array.isArray(value)) fields[name] = value.map((item, index) => plain(item, like[name]?.[index] ?? {}));
    else fields[name] = typeof like[name] === "string" && typeof value !== "string" ? String(value) : value;
  }
  return fields;
}

test("frames", () => {
  const { up, down, bad_up, bad_down, split, preface, version } = vectors("frames");
  assert.equal(hex(PREFACE), preface);
  assert.equal(VERSION, version);
  const unsafe = (fields: Any) => Object.entries<Any>(fields).some(([key, value]) =>
    ["number", "ack", "generation"].includes(key) && BigInt(value) > 0x1fffffffffffffn);
  let passed = 0;
  for (const [frames, decode, encode] of [[up, decodeUp, encodeUp], [down, decodeDown, encodeDown]] as Any) {
    for (const { name, type, payload, frame, fields } of frames) {
      if (unsafe(fields)) {
        // Numbers above 2^53 would take 28,000 years to be reached; this SDK refuses them.
        assert.throws(() => decode(unhex(payload)), { problem: "range" }, name);
        continue;
      }
      const decoded = decode(unhex(payload));
      assert.equal(decoded.type.replace("ackDown", "ack"), type, name);
      assert.deepEqual(plain(decoded, fields), fields, name);
      const out = new Writer();
      encode(out, decoded);
      assert.equal(hex(out.bytes()), payload, name);
      const whole = unhex(frame);
      const found = splitFrame(whole, 0, 1000);
      assert(found && found.end === whole.length && hex(found.payload) === payload, name);
      passed++;
    }
  }
  assert(passed >= 30);
  for (const { name, payload, error } of bad_up) {
    assert.throws(() => decodeUp(unhex(payload)), { problem: error }, name);
  }
  for (const { name, payload, error } of bad_down) {
    assert.throws(() => decodeDown(unhex(payload)), { problem: error }, name);
  }
  for (const { name, max, bytes, payloads, rest, error } of split) {
    const input = unhex(bytes);
    const found: string[] = [];
    let at = 0;
    let problem: string | undefined;
    try {
      for (let next; (next = splitFrame(input, at, max)); at = next.end) found.push(hex(next.payload));
    } catch (thrown) {
      assert(thrown instanceof WireError);
      problem = thrown.problem;
    }
    assert.deepEqual([found, hex(input.subarray(at)), problem], [payloads, rest, error], name);
  }
});

// -- bodies: a reader and a writer that follow shapes, as generated code does --

type Shape = string | Record<string, Any>;

/** Shapes of values are texts (`list<u8>`), those of fields are JSON (`{"list": "u8"}`). */
function parse(text: string): Shape {
  const at = text.indexOf("<");
  if (at < 0) return /^[A-Z]/.test(text) ? { type: text } : text;
  const parts: string[] = [];
  let depth = 0;
  let part = "";
  for (const char of text.slice(at + 1, -1)) {
    if (char === "<") depth++;
    if (char === ">") depth--;
    if (char === "," && depth === 0) {
      parts.push(part.trim());
      part = "";
    } else part += char;
  }
  parts.push(part.trim());
  const made = text.slice(0, at);
  if (made === "array") return { array: [parse(parts[0]), Number(parts[1])] };
  if (made === "tuple") return { tuple: parts.map(parse) };
  if (made === "map") return { map: parts.map(parse) };
  return { [made]: parse(parts[0]) };
}

const UNSIGNED: Record<string, number> = { u8: 0xff, u16: 0xffff, u32: 0xffffffff, kind: 0xffffffff, method: 0xffffffff };
const SIGNED: Record<string, number> = { i8: 0x80, i16: 0x8000, i32: 0x80000000 };
const WIDE = ["u64", "incarnation", "account", "wall"];
let types: Any;

function exactly(d: Decoder, expected: number): void {
  const found = d.array();
  if (found !== expected) throw new DecodeError(`${found} items where ${expected} are wanted`);
}

function inside(bounds: string, value: number): boolean {
  const [low, high] = bounds.split("..=");
  return value >= Number(low) && value <= Number(high);
}

function read(d: Decoder, shape: Shape): Any {
  if (typeof shape === "string") {
    if (shape in UNSIGNED) return d.uint(UNSIGNED[shape]);
    if (shape in SIGNED) return d.int(-SIGNED[shape], SIGNED[shape] - 1);
    if (WIDE.includes(shape)) return String(d.uint64());
    const number = (value: number) => (Number.isFinite(value) ? value : String(value).replace("Infinity", "inf"));
    switch (shape) {
      case "unit": return d.nil(), null;
      case "bool": return d.bool();
      case "i64": return String(d.int64());
      case "f32": return number(d.f32());
      case "f64": return number(d.f64());
      case "text": return d.text();
      case "bytes": return hex(d.binary());
      case "session": {
        const id = d.binary();
        if (id.length !== 16) throw new DecodeError("a session id has 16 bytes");
        return hex(id);
      }
      case "entity": {
        exactly(d, 3);
        const id = { kind: d.uint(0xffffffff), home: String(d.uint64()), key: String(d.uint64()) };
        d.leave();
        return id;
      }
      default: throw new Error(`no shape ${shape}`);
    }
  }
  if (shape.option) return d.takeNil() ? null : read(d, shape.option);
  if (shape.list || shape.set) {
    const items: Any[] = [];
    const length = d.array();
    for (let at = 0; at < length; at++) {
      const item = within(`[${at}]`, () => read(d, shape.list ?? shape.set));
      if (shape.set && items.includes(item)) throw new DecodeError("item stands twice", `[${at}]`, "duplicate");
      items.push(item);
    }
    d.leave();
    return items;
  }
  if (shape.array || shape.tuple) {
    const inner: Shape[] = shape.tuple ?? Array(shape.array[1]).fill(shape.array[0]);
    exactly(d, inner.length);
    const items = inner.map((item) => read(d, item));
    d.leave();
    return items;
  }
  if (shape.map) {
    const pairs: Any[] = [];
    const length = d.map();
    for (let at = 0; at < length; at++) {
      const key = read(d, shape.map[0]);
      if (pairs.some(([known]) => known === key)) throw new DecodeError("key stands twice", `[${at}]`, "duplicate");
      pairs.push([key, read(d, shape.map[1])]);
    }
    d.leave();
    return pairs;
  }
  const body = types[shape.type];
  if (body.struct) return readFields(d, Fields.begin(d), body.struct);
  const { number, fields } = Fields.variant(d);
  const variant = body.enum.find((known: Any) => known.number === number);
  const known = variant ?? body.enum.find((other: Any) => other.number === body.fallback);
  if (!known) throw new DecodeError(`no variant has number ${number}`);
  return { variant: known.name, fields: readFields(d, fields, variant?.fields ?? []) };
}

function readFields(d: Decoder, fields: Fields, declared: Any[]): Any {
  const value: Any = {};
  for (const { name, shape, range, len, ...field } of declared) {
    if (field.retired) {
      fields.retired(d);
      continue;
    }
    const one = (d: Decoder): Any => read(d, shape);
    const found = field.default ? fields.orElse(d, name, one, () => undefined) : fields.required(d, name, one);
    if (found === undefined) continue;
    if (range && !inside(range, found)) throw new DecodeError(`${found} is outside ${range}`, name, "range");
    if (len && !inside(len, [...found].length)) throw new DecodeError("length is outside", name);
    value[name] = found;
  }
  fields.end(d);
  return value;
}

function write(e: Encoder, shape: Shape, value: Any): void {
  if (typeof shape === "string") {
    if (shape in UNSIGNED) return e.uint(value);
    if (shape in SIGNED) return e.int(value);
    if (WIDE.includes(shape)) return e.uint(BigInt(value));
    switch (shape) {
      case "unit": return e.nil();
      case "bool": return e.bool(value);
      case "i64": return e.int(BigInt(value));
      case "f32": return e.f32(value);
      case "f64": return e.f64(value === "inf" ? Infinity : value);
      case "text": return e.text(value);
      case "bytes":
      case "session": return e.binary(unhex(value));
      case "entity":
        e.array(3);
        e.uint(value.kind);
        e.uint(BigInt(value.home));
        return e.uint(BigInt(value.key));
      default: throw new Error(`no shape ${shape}`);
    }
  }
  if (shape.option) return value === null ? e.nil() : write(e, shape.option, value);
  if (shape.map) {
    e.map(value.length);
    for (const [key, item] of value) {
      write(e, shape.map[0], key);
      write(e, shape.map[1], item);
    }
    return;
  }
  if (shape.type) {
    const body = types[shape.type];
    if (body.struct) return writeFields(e, body.struct, value, undefined);
    const variant = body.enum.find((known: Any) => known.name === value.variant);
    return variant.fields.length === 0 ? e.uint(variant.number) : writeFields(e, variant.fields, value.fields, variant.number);
  }
  e.array(value.length);
  value.forEach((item: Any, at: number) => write(e, shape.list ?? shape.set ?? shape.tuple?.[at] ?? shape.array[0], item));
}

function writeFields(e: Encoder, declared: Any[], value: Any, number: number | undefined): void {
  e.array(declared.length + (number === undefined ? 0 : 1));
  if (number !== undefined) e.uint(number);
  const defaults: Any = { u16: 0 };
  for (const { name, shape, retired } of declared) {
    if (retired) e.nil();
    else write(e, shape, value[name] ?? defaults[shape] ?? []);
  }
}

test("bodies", () => {
  const all = vectors("messages");
  types = all.types;
  const whole = (shape: string, bytes: string): Any => {
    const d = new Decoder(unhex(bytes));
    const value = read(d, parse(shape));
    d.end();
    return value;
  };
  for (const { name, shape, bytes, value } of all.values) {
    const e = new Encoder();
    write(e, parse(shape), value);
    assert.equal(hex(e.bytes()), bytes, name);
    assert.deepEqual(whole(shape, bytes), whole(shape, hex(e.bytes())), name);
    if (!/[A-Z]/.test(shape)) assert.deepEqual(whole(shape, bytes), value, name);
  }
  for (const { name, shape, bytes, value } of all.reads) assert.deepEqual(whole(shape, bytes), value, name);
  for (const { name, shape, bytes, problem, path } of all.refused) {
    // What only a shape's reader can know has no kind of its own here.
    const own = ["count", "variant", "length"].includes(problem) ? "value" : problem;
    assert.throws(() => whole(shape, bytes), (error: DecodeError) => {
      assert(error instanceof DecodeError, `${name}: ${error}`);
      assert.deepEqual([error.kind, error.path], [own, path], name);
      return true;
    });
  }
});
