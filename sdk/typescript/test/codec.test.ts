import assert from "node:assert/strict";
import { createHash, createHmac } from "node:crypto";
import { test } from "node:test";
import { Reader, WireError, Writer } from "../src/bytes.ts";
import { decodeDown, decodeUp, splitFrame } from "../src/frame.ts";
import { kindId, methodId } from "../src/ids.ts";
import { DecodeError, Decoder, Encoder, Fields, decodeValue, encodeValue, within } from "../src/msgpack.ts";
import { hmacSha256, sha256 } from "../src/sha256.ts";
import { readGrant } from "../src/ticket.ts";

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");

test("hashes agree with the runtime's", () => {
  for (const length of [0, 1, 31, 54, 55, 56, 63, 64, 65, 119, 120, 1000]) {
    const bytes = Uint8Array.from({ length }, (_, index) => (index * 7) & 0xff);
    assert.equal(hex(sha256(bytes)), createHash("sha256").update(bytes).digest("hex"));
    assert.equal(hex(sha256(bytes.subarray(0, length >> 1), bytes.subarray(length >> 1))), hex(sha256(bytes)));
    assert.equal(hex(hmacSha256(bytes, bytes)), createHmac("sha256", bytes).update(bytes).digest("hex"));
  }
});

test("ids are hashes of names", () => {
  assert.equal(kindId("counter"), kindId("counter"));
  assert.notEqual(methodId("bag.use_item"), methodId("use_item"));
  assert.notEqual(methodId("a.b.c"), methodId("b.c"));
});

test("varints have one form each", () => {
  for (const value of [0, 1, 127, 128, 300, 2 ** 32, Number.MAX_SAFE_INTEGER]) {
    const out = new Writer();
    out.varint(value);
    assert.equal(new Reader(out.bytes()).varint(), value);
    const wide = new Writer();
    wide.varint(BigInt(value));
    assert.deepEqual(wide.bytes(), out.bytes());
  }
  const bad = (...bytes: number[]) => () => new Reader(Uint8Array.from(bytes)).varint();
  assert.throws(bad(0x80, 0x00), { problem: "varint" });
  assert.throws(bad(...Array(9).fill(0xff), 0x02), { problem: "varint" });
  assert.throws(bad(0x80), { problem: "truncated" });
  assert.throws(bad(...Array(9).fill(0xff), 0x01), { problem: "range" });
});

test("hostile frames are refused", () => {
  const frame = (...bytes: number[]) => Uint8Array.from(bytes);
  assert.throws(() => splitFrame(frame(0), 0, 10), { problem: "empty" });
  assert.throws(() => splitFrame(frame(11), 0, 10), { problem: "too_long" });
  assert.equal(splitFrame(frame(3, 1), 0, 10), undefined);
  assert.throws(() => decodeDown(frame(0x99)), { problem: "kind" });
  assert.throws(() => decodeDown(frame(0x1b, 1)), { problem: "truncated" });
  assert.throws(() => decodeDown(frame(0x1c, 1, 2, 0)), { problem: "trailing" });
  assert.throws(() => decodeUp(frame(0x0a, 0, 1, 0xff)), { problem: "utf8" });
  let seed = 7;
  const random = () => (seed = (Math.imul(seed, 1103515245) + 12345) & 0x7fffffff) >> 8;
  for (let round = 0; round < 20_000; round++) {
    const bytes = Uint8Array.from({ length: random() % 40 }, () => random() & 0xff);
    if (bytes.length > 0) bytes[0] &= 0x1f;
    for (const read of [decodeUp, decodeDown, decodeValue]) {
      try {
        read(bytes);
      } catch (error) {
        assert(error instanceof WireError || error instanceof DecodeError, String(error));
      }
    }
  }
});

test("values are written in their smallest form and read from any", () => {
  const forms: [unknown, string][] = [
    [null, "c0"],
    [true, "c3"],
    [0, "00"],
    [127, "7f"],
    [128, "cc80"],
    [256, "cd0100"],
    [65536, "ce00010000"],
    [2 ** 32, "cf0000000100000000"],
    [-1, "ff"],
    [-32, "e0"],
    [-33, "d0df"],
    [-129, "d1ff7f"],
    [-32769, "d2ffff7fff"],
    [-(2 ** 31) - 1, "d3ffffffff7fffffff"],
    [0xffffffffffffffffn, "cfffffffffffffffff"],
    [-(1n << 63n), "d38000000000000000"],
    [1.5, "cb3ff8000000000000"],
    ["é", "a2c3a9"],
    ["x".repeat(32), `d920${"78".repeat(32)}`],
    [Uint8Array.of(1, 2), "c4020102"],
    [[1, [2]], "92019102"],
    [new Map([["a", 1]]), "81a16101"],
  ];
  for (const [value, form] of forms) {
    assert.equal(hex(encodeValue(value)), form);
    assert.deepEqual(decodeValue(Buffer.from(form, "hex")), value);
  }
  const read = (form: string) => new Decoder(Buffer.from(form, "hex"));
  assert.equal(read("cf0000000000000007").uint(), 7);
  assert.equal(read("d3ffffffffffffffff").int(), -1);
  assert.equal(read("07").f64(), 7);
  assert.throws(() => read("cfffffffffffffffff").uint(), /is outside/);
  assert.throws(() => read("cb7fefffffffffffff").f32(), /32 bits/);
  assert.throws(() => read("a1ff").text(), /UTF-8/);
  assert.throws(() => read("dd7fffffff").array(), /bytes end/);
  assert.throws(() => decodeValue(Buffer.from("91".repeat(40) + "00", "hex")), /nested deeper/);
  assert.throws(() => decodeValue(Buffer.from("0000", "hex")), /1 bytes follow/);
  assert.throws(() => decodeValue(Buffer.from("82a16101a16102", "hex")), /twice/);
});

test("structs grow at their end", () => {
  const read = (values: unknown[]) => {
    const d = new Decoder(encodeValue(values));
    const fields = Fields.begin(d);
    const a = fields.required(d, "a", (d) => d.uint(255));
    const b = fields.orElse(d, "b", (d) => d.text(), () => "none");
    fields.retired(d);
    fields.end(d);
    d.end();
    return [a, b];
  };
  assert.deepEqual(read([1]), [1, "none"]);
  assert.deepEqual(read([1, null]), [1, "none"]);
  assert.deepEqual(read([1, "x", 5, 6, [7]]), [1, "x"]);
  assert.throws(() => read([]), /^DecodeError: a: field is missing/);
  assert.throws(() => read([256]), /^DecodeError: a: 256 is outside 0..=255/);
  const variant = (value: unknown) => Fields.variant(new Decoder(encodeValue(value))).number;
  assert.deepEqual([variant(3), variant([3, "x"])], [3, 3]);
  const nested = () => within("items", () => within("[3]", () => within("count", () => new Decoder(Uint8Array.of()).nil())));
  assert.throws(nested, /^DecodeError: items\[3\]\.count: bytes end/);
});

test("numbers that do not fit are refused at writing", () => {
  assert.throws(() => new Encoder().uint(-1), RangeError);
  assert.throws(() => new Encoder().uint(1.5), RangeError);
  assert.throws(() => new Encoder().int(1n << 63n), RangeError);
  assert.throws(() => encodeValue({}), TypeError);
});

test("grants are read", () => {
  const secret = Buffer.alloc(32, 5).toString("base64");
  const grant = readGrant({ ticket: "AQID", secret });
  assert.deepEqual([...grant.ticket, grant.secret[31]], [1, 2, 3, 5]);
  assert.throws(() => readGrant({ ticket: "AQID", secret: "AQID" }), TypeError);
});
