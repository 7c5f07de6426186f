//! Indexes, on every backend: see the cases of `conformance`.

use store::*;

use crate::conformance::Bench;

fn id(key: &str) -> RecordId {
    RecordId { kind: 7, key: key.as_bytes().to_vec() }
}

fn leader(name: &str) -> IndexEntry {
    IndexEntry { index: "guild.leader".to_owned(), value: name.as_bytes().to_vec(), unique: false }
}

fn title(name: &str) -> IndexEntry {
    IndexEntry { index: "guild.title".to_owned(), value: name.as_bytes().to_vec(), unique: true }
}

fn write(key: &str, version: u64, entries: &[IndexEntry]) -> RecordWrite {
    let body = format!("{key} {version}").into_bytes();
    let change = Change::Indexed { body, entries: entries.to_vec() };
    RecordWrite { id: id(key), version, change, fence: None, unlock: false }
}

fn remove(key: &str, version: u64) -> RecordWrite {
    RecordWrite { change: Change::Remove, ..write(key, version, &[]) }
}

/// Whom the index names for a value, read row by row.
fn found(store: &Store, entry: &IndexEntry) -> Vec<Indexed> {
    let (mut after, mut all) = (entry.prefix(), Vec::new());
    loop {
        let page = store.scan_records(INDEX_KIND, Some(after.clone()), 1).wait().unwrap();
        let (hits, ends) = entry.hits(page).expect("its rows can be read");
        let Some(last) = hits.last() else { return all };
        after.clone_from(&last.at);
        all.extend(hits.into_iter().map(|hit| hit.of));
        if ends {
            return all;
        }
    }
}

fn records(store: &Store, entry: &IndexEntry) -> String {
    let names = found(store, entry).into_iter().map(|of| match of {
        Indexed::Record(id) => String::from_utf8(id.key).unwrap(),
        Indexed::Entity(key) => key.to_string(),
    });
    let mut names: Vec<String> = names.collect();
    names.sort();
    names.join(" ")
}

fn no_faults(store: &Store) {
    match store.verify().wait() {
        Ok(verdict) => assert_eq!(verdict.faults, Vec::<String>::new()),
        Err(error) => panic!("{error}"),
    }
}

pub fn entities_are_found_by_what_they_saved(bench: &mut Bench) {
    let store = bench.store();
    let me = Incarnation(1);
    store.beat(me).wait().unwrap();
    let level = |level: u8| IndexEntry {
        index: "avatar.level".to_owned(),
        value: vec![level],
        unique: false,
    };
    let save = |store: &Store, claim, version, entries: &[IndexEntry]| {
        let sheet = Some(IndexEntry::sheet(entries));
        let patch = Patch::from([(INDEX_SHEET.to_owned(), sheet), ("self".to_owned(), None)]);
        store.save(Save { claim, version, patch }).wait()
    };
    let mut claims = Vec::new();
    for key in [Key(5 << 64 | 1), Key(5 << 64 | 2)] {
        let ask = Activate { key, generation: 1, incarnation: me, reclaim: None };
        let claim = store.activate(ask).wait().unwrap().claim;
        assert_eq!(save(store, claim, 0, &[level(7), level(9)]), Ok(1));
        claims.push(claim);
    }
    let both: Vec<_> = claims.iter().map(|claim| Indexed::Entity(claim.key)).collect();
    assert_eq!(found(store, &level(7)), both);
    // A write that is refused changes no index either.
    assert_eq!(
        save(store, claims[0], 0, &[level(8)]),
        Err(Error::Conflict { key: claims[0].key, current: 1 })
    );
    let unique = IndexEntry { unique: true, ..level(8) };
    assert!(matches!(save(store, claims[0], 1, &[unique]), Err(Error::Malformed(_))));
    assert_eq!(found(store, &level(8)), []);
    assert_eq!(found(store, &level(9)), both);
    assert_eq!(save(store, claims[0], 1, &[level(8)]), Ok(2));
    bench.reopen();
    let store = bench.store();
    assert_eq!(found(store, &level(8)), both[..1]);
    assert_eq!(found(store, &level(7)), both[1..]);
    no_faults(store);
}

pub fn records_are_found_by_what_they_have(bench: &mut Bench) {
    let store = bench.store();
    let long = "x".repeat(500);
    let first = vec![write("owls", 0, &[leader("ann")]), write("elks", 0, &[leader("ann")])];
    assert_eq!(store.write_records(1, first).wait(), Ok(vec![1, 1]));
    store.write_records(1, vec![write("bats", 0, &[leader(&long)])]).wait().unwrap();
    assert_eq!(records(store, &leader("ann")), "elks owls");
    assert_eq!(records(store, &leader(&long)), "bats");
    assert_eq!(records(store, &leader(&long[1..])), "");

    // With a deal, and not without it.
    let deal = |txn, version| {
        let burn = LedgerOp::Burn { holder: Key(1), currency: Currency(1), amount: 1 };
        let mut txn = Transaction::new(TxnId(txn), 1).with(burn);
        txn.records.push(write("owls", version, &[leader("bob")]));
        txn
    };
    assert!(matches!(store.commit(deal(1, 1)).wait(), Err(Error::Refused(_))));
    assert_eq!(records(store, &leader("ann")), "elks owls");
    let mint = LedgerOp::Mint { holder: Key(1), currency: Currency(1), amount: 1 };
    store.commit(Transaction::new(TxnId(2), 1).with(mint)).wait().unwrap();
    store.commit(deal(3, 1)).wait().unwrap();
    assert_eq!(
        (records(store, &leader("ann")), records(store, &leader("bob"))),
        both("elks", "owls")
    );
    // What is written without a word about indexes stays where it was.
    let put = RecordWrite { change: Change::Put(vec![1]), ..write("owls", 2, &[]) };
    store.write_records(1, vec![put, remove("elks", 1)]).wait().unwrap();
    bench.reopen();
    let store = bench.store();
    assert_eq!((records(store, &leader("ann")), records(store, &leader("bob"))), both("", "owls"));
    // Nobody else writes the rows of an index.
    let (at, _) = store.scan_records(INDEX_KIND, None, 1).wait().unwrap().remove(0);
    let forged = RecordWrite { id: RecordId { kind: INDEX_KIND, key: at }, ..remove("", 1) };
    let refused = store.write_records(1, vec![forged]).wait();
    assert!(matches!(refused, Err(Error::Malformed(_))), "{refused:?}");
    no_faults(store);
}

fn both(one: &str, other: &str) -> (String, String) {
    (one.to_owned(), other.to_owned())
}

pub fn a_unique_value_is_of_one_record(bench: &mut Bench) {
    let store = bench.store();
    store.write_records(1, vec![write("owls", 0, &[title("Owls")])]).wait().unwrap();
    let taken = |by: &str| Error::Taken { index: "guild.title".into(), by: id(by) };
    let others = vec![write("bats", 0, &[]), write("elks", 0, &[leader("ann"), title("Owls")])];
    assert_eq!(store.write_records(1, others).wait(), Err(taken("owls")));
    assert_eq!(records(store, &leader("ann")), "", "nothing of it was written");
    let twins = vec![write("bats", 0, &[title("Bats")]), write("elks", 0, &[title("Bats")])];
    assert_eq!(store.write_records(1, twins).wait(), Err(taken("bats")));
    // Its own is no obstacle, and what one gives up another may have in the same write.
    store.write_records(1, vec![write("owls", 1, &[title("Owls"), leader("ann")])]).wait().unwrap();
    let swap = vec![write("elks", 0, &[title("Owls")]), write("owls", 2, &[title("Elks")])];
    assert_eq!(store.write_records(1, swap).wait(), Ok(vec![1, 3]));
    bench.reopen();
    let store = bench.store();
    assert_eq!(
        (records(store, &title("Owls")), records(store, &title("Elks"))),
        both("elks", "owls")
    );
    store.write_records(1, vec![remove("elks", 1)]).wait().unwrap();
    store.write_records(1, vec![write("bats", 0, &[title("Owls")])]).wait().unwrap();
    assert_eq!(records(store, &title("Owls")), "bats");
    no_faults(store);
}

/// Over shards whose slots move: a search finds each once, and what belongs together stays so.
#[test]
fn f1_a_search_goes_over_all_shards_also_while_slots_move() {
    let shard = |name: &str| (name.to_owned(), Store::memory(Limits::default()));
    let store = Store::sharded(vec![shard("a"), shard("b"), shard("c")]).unwrap();
    let names: Vec<String> = (0..30).map(|n| format!("guild {n:02}")).collect();
    for name in &names {
        store.write_records(1, vec![write(name, 0, &[leader("ann")])]).wait().unwrap();
    }
    let me = Incarnation(1);
    store.beat(me).wait().unwrap();
    for n in 1..=30 {
        let ask = Activate { key: Key(5 << 64 | n), generation: 1, incarnation: me, reclaim: None };
        let claim = store.activate(ask).wait().unwrap().claim;
        let sheet = Some(IndexEntry::sheet(&[leader("bob")]));
        let patch = Patch::from([(INDEX_SHEET.to_owned(), sheet)]);
        store.save(Save { claim, version: 0, patch }).wait().unwrap();
    }
    let check = |store: &Store| {
        assert_eq!(records(store, &leader("ann")), names.join(" ").as_str());
        assert_eq!(found(store, &leader("bob")).len(), 30);
        no_faults(store);
    };
    check(&store);
    let per_shard = store.shards().iter().map(|(_, shard)| found(shard, &leader("ann")).len());
    assert!(per_shard.clone().filter(|count| *count > 0).count() > 1, "they are spread");
    // All of one shard goes to the others and comes back.
    for (token, from, to) in [(1, 0, 1), (2, 1, 2), (3, 2, 0)] {
        let map = store.slot_map().unwrap();
        let here = map[from].1.slots.iter().filter(|slot| slot.state.is_here());
        let slots: Vec<Slot> = here.map(|slot| slot.slot).collect();
        let (end, _) = store.move_slots(slots, (from, to), token, 1, |_| true);
        assert_eq!(end, MoveEnd::Moved);
        check(&store);
    }
    assert_eq!(
        store.shards().iter().map(|(_, shard)| found(shard, &leader("ann")).len()).max(),
        Some(30)
    );
    // And one is written anew where it is now.
    store.write_records(1, vec![write("guild 00", 1, &[leader("cid")])]).wait().unwrap();
    store.write_records(1, vec![remove("guild 01", 1)]).wait().unwrap();
    assert_eq!(records(&store, &leader("ann")), names[2..].join(" "));
    assert_eq!(records(&store, &leader("cid")), "guild 00");
    no_faults(&store);
}

/// A unique value has a slot of its own, and no transaction goes over two shards.
#[test]
fn f2_a_unique_value_of_another_shard_is_refused_at_once_and_nothing_is_written() {
    let shard = |name: &str| (name.to_owned(), Store::memory(Limits::default()));
    let store = Store::sharded(vec![shard("a"), shard("b")]).unwrap();
    let (mut done, mut refused) = (Vec::new(), 0);
    for n in 0..40 {
        let name = format!("guild {n:02}");
        match store.write_records(1, vec![write(&name, 0, &[title(&name)])]).wait() {
            Ok(_) => done.push(name),
            Err(Error::AcrossShards { .. }) => {
                refused += 1;
                let read = store.records(vec![id(&name)]).wait().unwrap();
                assert_eq!(read.records[0].version, 0);
                assert_eq!(records(&store, &title(&name)), "");
            }
            Err(error) => panic!("{error:?}"),
        }
    }
    assert!(refused > 5 && done.len() > 5, "{refused} were refused of 40");
    no_faults(&store);
    // Half of a shard's slots go: what is parted by that is refused as well, and is no fault.
    let map = store.slot_map().unwrap();
    let here = map[1].1.slots.iter().filter(|slot| slot.state.is_here() && slot.slot.0 % 4 < 2);
    let slots: Vec<Slot> = here.map(|slot| slot.slot).collect();
    let (end, _) = store.move_slots(slots, (1, 0), 9, 1, |_| true);
    assert_eq!(end, MoveEnd::Moved);
    no_faults(&store);
    let renamed = done.iter().map(|name| store.write_records(1, vec![write(name, 1, &[])]).wait());
    let parted = renamed.filter(|told| matches!(told, Err(Error::AcrossShards { .. }))).count();
    assert!(parted > 0 && parted < done.len(), "{parted} of {}", done.len());
    no_faults(&store);
    // In one shard all of them can be.
    let map = store.slot_map().unwrap();
    let here = map[0].1.slots.iter().filter(|slot| slot.state.is_here());
    let slots: Vec<Slot> = here.map(|slot| slot.slot).collect();
    let (end, _) = store.move_slots(slots, (0, 1), 1, 1, |_| true);
    assert_eq!(end, MoveEnd::Moved);
    for name in &done {
        if records(&store, &title(name)).is_empty() {
            // It gave its title up above.
            continue;
        }
        let second = store.write_records(1, vec![write("second", 0, &[title(name)])]).wait();
        assert_eq!(second, Err(Error::Taken { index: "guild.title".into(), by: id(name) }));
    }
    no_faults(&store);
}
