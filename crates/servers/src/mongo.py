"""Serves MongoDB's protocol: python mongo.py PORT FILE"""

import asyncio
import sys
import time

import mongoeco.wire.executor as executor
import mongoeco.wire.protocol as protocol
from bson.int64 import Int64
from mongoeco.engines.sqlite import SQLiteEngine
from mongoeco.errors import OperationFailure
from mongoeco.wire import AsyncMongoEcoProxyServer
from mongoeco.wire.sessions import WireSessionStore

encode, decode = protocol.encode_wire_value, protocol.decode_wire_value


def encode_with_long_cursors(document):
    """The Rust driver reads cursor ids as 64-bit integers."""
    out = encode(document)
    cursor = out.get("cursor") if isinstance(out, dict) else None
    if isinstance(cursor, dict) and isinstance(cursor.get("id"), int):
        cursor["id"] = Int64(cursor["id"])
    return out


def plain(value):
    """The Rust driver sends many numbers as 64-bit integers, which the server takes for a type of their own."""
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, list):
        return [plain(part) for part in value]
    if type(value).__name__ == "BsonInt64":
        return int(value.value)
    return value


protocol.encode_wire_value = encode_with_long_cursors
protocol.decode_wire_value = lambda document: plain(decode(document))

NO_TRANSACTION = "no such transaction"
describe = executor.build_error_document


def describe_as_mongodb(error):
    """Every error has a code. It has one transaction at a time; MongoDB would tell the second of the conflict."""
    out = describe(error)
    message = str(out.get("errmsg"))
    if "active transaction bound to another session" in message:
        out.update(code=112, codeName="WriteConflict", errorLabels=["TransientTransactionError"])
    elif NO_TRANSACTION in message:
        out.update(code=251, codeName="NoSuchTransaction", errorLabels=["TransientTransactionError"])
    elif "already exists" in message:
        out.setdefault("code", 48)
    out.setdefault("code", 8)
    return out


executor.build_error_document = describe_as_mongodb

LIFETIME = 2.0
used = {}
running = set()
committed = {}
apply = WireSessionStore._apply_transaction_metadata
execute = executor.WireCommandExecutor.execute_prepared


def apply_and_note(session, body):
    """What belongs to a transaction that is over must not be done without one."""
    apply(session, body)
    used[session.session_id] = (session, time.monotonic())
    is_end = "commitTransaction" in body or "abortTransaction" in body
    if body.get("autocommit") is False and not is_end and not session.transaction_active:
        raise OperationFailure(NO_TRANSACTION)


async def execute_and_note(self, context):
    session = context.session
    if session is None:
        return await execute(self, context)
    running.add(session.session_id)
    try:
        return await execute(self, context)
    finally:
        running.discard(session.session_id)
        used[session.session_id] = (session, time.monotonic())


def commit_or_refuse(self, body):
    """Only the last transaction that was committed may be committed again."""
    session = self._require_session(body)
    number = body.get("txnNumber")
    if session.transaction_active:
        session.commit_transaction()
        committed[session.session_id] = number
    elif number is None or committed.get(session.session_id) != number:
        raise OperationFailure(NO_TRANSACTION)
    return {"ok": 1.0}


WireSessionStore._apply_transaction_metadata = staticmethod(apply_and_note)
WireSessionStore.commit_transaction = commit_or_refuse
executor.WireCommandExecutor.execute_prepared = execute_and_note


async def end_old_transactions():
    """As `transactionLifetimeLimitSeconds`: a client that is gone must not hold others up for ever."""
    while True:
        await asyncio.sleep(0.25)
        for key, (session, at) in list(used.items()):
            if key not in running and time.monotonic() - at > LIFETIME:
                del used[key]
                if session.transaction_active:
                    session.abort_transaction()


async def main():
    engine = SQLiteEngine(sys.argv[2])
    await AsyncMongoEcoProxyServer(engine=engine, host="127.0.0.1", port=int(sys.argv[1])).start()
    await end_old_transactions()


asyncio.run(main())
