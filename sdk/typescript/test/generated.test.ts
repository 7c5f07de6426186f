/** What `mainstay schema --typescript` writes fits this SDK and does what it says. */

import assert from "node:assert/strict";
import { test } from "node:test";
import {
  type Answerer,
  AppError,
  CallError,
  DecodeError,
  Decoder,
  Encoder,
  type Handler,
  type Stream,
  methodId,
} from "mainstay";
import {
  AvatarStub,
  INTERFACE_HASH,
  type Item,
  Refused,
  type ShopError,
  ShopStub,
  answerArenaClient,
  decodeDeed,
  decodeItem,
  encodeItem,
  encodeShopError,
  onArenaClient,
} from "../../../crates/proto/tests/golden/game.ts";

/** A stream that keeps what is sent and answers with what it is told. */
function fake(answer: (method: number, body: Uint8Array) => Uint8Array = () => new Uint8Array(0)) {
  const sent: { method: number; body: Uint8Array; options?: object }[] = [];
  const handlers = new Map<number, Handler>();
  const answerers = new Map<number, Answerer>();
  const stream = {
    async request(method: number, body: Uint8Array, options?: object) {
      sent.push({ method, body, options });
      return answer(method, body);
    },
    tell: (method: number, body: Uint8Array, options?: object) => void sent.push({ method, body, options }),
    on: (method: number, handler: Handler) => (handlers.set(method, handler), () => handlers.delete(method)),
    answer: (method: number, answerer: Answerer) => void answerers.set(method, answerer),
  } as unknown as Stream;
  return { stream, sent, handlers, answerers };
}

const encoded = (write: (e: Encoder) => void): Uint8Array => {
  const e = new Encoder();
  write(e);
  return e.bytes();
};

const item: Item = { id: 1n << 60n, count: 3, label: "axe", owner: { value0: 0.5, value1: -1 } };

test("stubs write arguments and read answers", async () => {
  assert.equal(typeof INTERFACE_HASH, "bigint");
  const { stream, sent } = fake((method) =>
    encoded((e) => (method === methodId("bag.use_item") ? encodeItem(e, item) : e.uint(1))),
  );
  const avatar = new AvatarStub(stream);
  assert.equal(await avatar.act({ type: "Move", to: { value0: 1, value1: 2 }, steps: [-3, 4] }), "Angry");
  const d = new Decoder(sent[0].body);
  assert.equal(d.array(), 1);
  assert.deepEqual(decodeDeed(d), { type: "Move", to: { value0: 1, value1: 2 }, steps: [-3, 4] });
  assert.deepEqual(sent[0].options, { deadlineMs: 1500 });
  assert.deepEqual(await avatar.bag.useItem(7n, 2), item);
  avatar.rest();
  avatar.steer("left", 90);
  assert.deepEqual([...sent[2].body], [0x90]);
  assert(sent[3].options && "latest" in sent[3].options);
});

test("a method's own error is typed", async () => {
  const poor: ShopError = { type: "Poor", missing: 5n };
  const { stream } = fake(() => {
    throw CallError.app(encoded((e) => encodeShopError(e, poor)));
  });
  await assert.rejects(new ShopStub(stream).buy([item]), (error: Refused<ShopError>) => {
    assert(error instanceof Refused);
    assert.deepEqual(error.error, poor);
    return true;
  });
});

test("handlers and answers read what the server sends", async () => {
  const { stream, handlers, answerers } = fake();
  const joined: string[] = [];
  const stop = onArenaClient(stream, { joined: (name) => joined.push(name) });
  const args = (write: (e: Encoder) => void) => encoded((e) => (e.array(1), write(e)));
  handlers.get(methodId("joined"))!(args((e) => e.text("Ada")));
  assert.deepEqual(joined, ["Ada"]);
  assert.throws(() => handlers.get(methodId("joined"))!(args((e) => e.uint(1))), DecodeError);
  stop();
  assert.equal(handlers.size, 0);

  answerArenaClient(stream, {
    choose: (mood) => {
      if (mood === "Calm") throw new Refused<ShopError>({ type: "Closed" });
      return item;
    },
    confirm: async (question) => question.length > 3,
  });
  const ask = (name: string, write: (e: Encoder) => void) => answerers.get(methodId(name))!(args(write));
  assert.deepEqual([...(await ask("confirm", (e) => e.text("sure?")))], [0xc3]);
  assert.deepEqual(decodeItem(new Decoder(await ask("choose", (e) => e.uint(1)))), item);
  await assert.rejects(async () => ask("choose", (e) => e.uint(0)), AppError);
});
