//! Records, on every backend: see the cases of `conformance`.

use store::*;

use crate::conformance::Bench;

const GOLD: Currency = Currency(1);

fn id(key: &str) -> RecordId {
    RecordId { kind: 7, key: key.as_bytes().to_vec() }
}

fn write(key: &str, version: u64, body: &str) -> RecordWrite {
    let change = Change::Put(body.as_bytes().to_vec());
    RecordWrite { id: id(key), version, change, fence: None, unlock: false }
}

fn read(store: &Store, key: &str) -> Record {
    let found = store.records(vec![id(key)]).wait().unwrap();
    assert_eq!(found.generation, 1);
    found.records.into_iter().next().unwrap()
}

fn body(store: &Store, key: &str) -> (u64, Option<String>) {
    let record = read(store, key);
    (record.version, record.body.map(|body| String::from_utf8(body).unwrap()))
}

fn conflict(key: &str, current: u64) -> Error {
    Error::RecordConflict { id: id(key), current }
}

pub fn at_their_version(bench: &mut Bench) {
    let store = bench.store();
    assert_eq!(body(store, "guild"), (0, None));
    let both = vec![write("guild", 0, "Owls"), write("map", 0, "plain")];
    assert_eq!(store.write_records(1, both).wait(), Ok(vec![1, 1]));
    let stale = vec![write("guild", 1, "Ravens"), write("map", 0, "hills")];
    assert_eq!(store.write_records(1, stale).wait(), Err(conflict("map", 1)));
    assert_eq!(body(store, "guild"), (1, Some("Owls".to_owned())), "all or none");

    // What was only read must still be so.
    let keep = RecordWrite { change: Change::Keep, ..write("map", 1, "") };
    let writes = vec![keep, write("guild", 1, "Ravens")];
    assert_eq!(store.write_records(1, writes.clone()).wait(), Ok(vec![1, 2]));
    store.write_records(1, vec![write("map", 1, "hills")]).wait().unwrap();
    assert_eq!(store.write_records(1, writes).wait(), Err(conflict("map", 2)));

    let twice = vec![write("guild", 2, "a"), write("guild", 2, "b")];
    assert!(matches!(store.write_records(1, twice).wait(), Err(Error::Malformed(_))));
    let large = vec![write("guild", 2, &"x".repeat((1 << 20) + 1))];
    assert!(matches!(store.write_records(1, large).wait(), Err(Error::TooLarge { .. })));
    let other = store.write_records(2, vec![write("guild", 2, "x")]).wait();
    assert_eq!(other, Err(Error::Generation { current: 1 }));
    bench.reopen();
    assert_eq!(body(bench.store(), "guild"), (2, Some("Ravens".to_owned())));
}

pub fn removed_ones_keep_their_version(bench: &mut Bench) {
    let store = bench.store();
    store.write_records(1, vec![write("guild", 0, "Owls")]).wait().unwrap();
    let remove = RecordWrite { change: Change::Remove, ..write("guild", 1, "") };
    assert_eq!(store.write_records(1, vec![remove]).wait(), Ok(vec![2]));
    bench.reopen();
    let store = bench.store();
    assert_eq!(body(store, "guild"), (2, None));
    // Who read it before it was removed cannot write over what came afterwards.
    assert_eq!(store.write_records(1, vec![write("guild", 2, "Ravens")]).wait(), Ok(vec![3]));
    let late = store.write_records(1, vec![write("guild", 1, "late")]).wait();
    assert_eq!(late, Err(conflict("guild", 3)));
}

pub fn together_with_the_ledger(bench: &mut Bench) {
    let store = bench.store();
    let mint = LedgerOp::Mint { holder: Key(1), currency: GOLD, amount: 100 };
    let burn = LedgerOp::Burn { holder: Key(1), currency: GOLD, amount: 60 };
    store.commit(Transaction::new(TxnId(1), 1).with(mint)).wait().unwrap();
    let found = |id, name: &str| {
        let mut txn = Transaction::new(TxnId(id), 1).with(burn.clone());
        txn.records.push(write(name, 0, "founded"));
        txn
    };
    let first = store.commit(found(2, "owls")).wait().unwrap();
    assert_eq!(store.commit(found(2, "owls")).wait(), Ok(first), "a second try changes nothing");
    let other = store.commit(found(2, "ravens")).wait();
    assert_eq!(other, Err(Error::TxnReused(TxnId(2))), "what is written is part of the deal");
    assert_eq!(store.commit(found(3, "owls")).wait(), Err(conflict("owls", 1)));
    // The second guild cannot be paid for, so it is not founded.
    assert!(matches!(store.commit(found(4, "ravens")).wait(), Err(Error::Refused(_))));
    assert_eq!(body(store, "ravens"), (0, None));
    assert_eq!(body(store, "owls"), (1, Some("founded".to_owned())));
}

pub fn a_lock_keeps_others_out(bench: &mut Bench) {
    let store = bench.store();
    let ask = || LockAsk { id: id("guild"), expiry_ms: 1_000, seen: None };
    let (lock, found) = store.lock_record(ask()).wait().unwrap();
    assert_eq!(lock, Lock { fence: 1, beat: 0, expiry_ms: 1_000 });
    assert_eq!((found.generation, found.records[0].version), (1, 0), "locked before it is there");
    let locked = Error::Locked { id: id("guild"), lock };
    assert_eq!(store.lock_record(ask()).wait(), Err(locked.clone()));
    assert_eq!(store.write_records(1, vec![write("guild", 0, "x")]).wait(), Err(locked));
    assert_eq!(read(store, "guild").lock, Some(lock), "it can be read all the same");

    let own = RecordWrite { fence: Some(1), ..write("guild", 0, "Owls") };
    assert_eq!(store.write_records(1, vec![own]).wait(), Ok(vec![1]));
    bench.reopen();
    let store = bench.store();
    let last = RecordWrite { fence: Some(1), unlock: true, ..write("guild", 1, "Ravens") };
    assert_eq!(store.write_records(1, vec![last.clone()]).wait(), Ok(vec![2]));
    let lost = || Error::LockLost(id("guild"));
    let again = RecordWrite { version: 2, ..last };
    assert_eq!(store.write_records(1, vec![again]).wait(), Err(lost()));
    let (lock, _) = store.lock_record(ask()).wait().unwrap();
    assert_eq!(lock.fence, 2);
    assert_eq!(store.unlock_record(id("guild"), 1).wait(), Err(lost()));
    assert_eq!(store.unlock_record(id("guild"), 2).wait(), Ok(()));
    assert_eq!(store.write_records(1, vec![write("guild", 2, "free")]).wait(), Ok(vec![3]));
    let zero = LockAsk { expiry_ms: 0, ..ask() };
    assert!(matches!(store.lock_record(zero).wait(), Err(Error::Malformed(_))));
}

pub fn a_lock_that_stands_still_may_be_broken(bench: &mut Bench) {
    let store = bench.store();
    let ask = |seen| LockAsk { id: id("guild"), expiry_ms: 1_000, seen };
    store.lock_record(ask(None)).wait().unwrap();
    store.renew_lock(id("guild"), 1).wait().unwrap();
    // Its holder has said meanwhile that it is still there.
    let beaten = Lock { fence: 1, beat: 1, expiry_ms: 1_000 };
    let locked = Error::Locked { id: id("guild"), lock: beaten };
    assert_eq!(store.lock_record(ask(Some((1, 0)))).wait(), Err(locked));
    let (lock, _) = store.lock_record(ask(Some((1, 1)))).wait().unwrap();
    assert_eq!(lock.fence, 2);
    // The late commit of the first holder, and everything else of it, is refused.
    let late = RecordWrite { fence: Some(1), ..write("guild", 0, "late") };
    let lost = || Error::LockLost(id("guild"));
    assert_eq!(store.write_records(1, vec![late]).wait(), Err(lost()));
    assert_eq!(store.renew_lock(id("guild"), 1).wait(), Err(lost()));
    assert_eq!(store.unlock_record(id("guild"), 1).wait(), Err(lost()));
    assert_eq!(body(store, "guild"), (0, None));
}

pub fn listed_in_order(bench: &mut Bench) {
    let store = bench.store();
    for key in ["b", "a", "c", "aa"] {
        store.write_records(1, vec![write(key, 0, key)]).wait().unwrap();
    }
    let remove = RecordWrite { change: Change::Remove, ..write("b", 1, "") };
    store.write_records(1, vec![remove]).wait().unwrap();
    let other = RecordWrite { id: RecordId { kind: 8, key: b"a".to_vec() }, ..write("", 0, "x") };
    store.write_records(1, vec![other]).wait().unwrap();
    let list = |after: Option<&str>, max| {
        let after = after.map(|after| after.as_bytes().to_vec());
        let found = store.scan_records(7, after, max).wait().unwrap();
        let keys = found.into_iter().map(|(key, _)| String::from_utf8(key).unwrap());
        keys.collect::<Vec<_>>()
    };
    assert_eq!(list(None, 10), ["a", "aa", "c"]);
    assert_eq!(list(None, 2), ["a", "aa"]);
    assert_eq!(list(Some("a"), 2), ["aa", "c"]);
    assert_eq!(list(Some("c"), 2), Vec::<String>::new());
}
