"""Serves MongoDB's protocol: python mongo.py PORT FILE"""

import asyncio
import sys

import mongoeco.wire.protocol as protocol
from bson.int64 import Int64
from mongoeco.engines.sqlite import SQLiteEngine

encode, decode = protocol.encode_wire_value, protocol.decode_wire_value
INTEGERS = ("limit", "skip", "batchSize", "getMore", "maxTimeMS")


def encode_with_long_cursors(document):
    """The Rust driver reads cursor ids as 64-bit integers."""
    out = encode(document)
    cursor = out.get("cursor") if isinstance(out, dict) else None
    if isinstance(cursor, dict) and isinstance(cursor.get("id"), int):
        cursor["id"] = Int64(cursor["id"])
    return out


def decode_with_plain_integers(document):
    """The Rust driver sends limits as 64-bit integers."""
    out = decode(document)
    if isinstance(out, dict):
        for part in (out, out.get("cursor")):
            if isinstance(part, dict):
                for name in INTEGERS:
                    value = part.get(name)
                    if hasattr(value, "value"):
                        part[name] = int(value.value)
    return out


protocol.encode_wire_value = encode_with_long_cursors
protocol.decode_wire_value = decode_with_plain_integers

# Takes the two functions when it is imported.
from mongoeco.wire import AsyncMongoEcoProxyServer  # noqa: E402


async def main():
    engine = SQLiteEngine(sys.argv[2])
    await AsyncMongoEcoProxyServer(engine=engine, host="127.0.0.1", port=int(sys.argv[1])).start()
    await asyncio.Event().wait()


asyncio.run(main())
