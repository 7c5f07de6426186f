//! Several shards as one store, and slots on their way between them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use store::*;

const GOLD: Currency = Currency(1);
const SWORD: ItemKind = ItemKind(7);
const ME: Incarnation = Incarnation(11);
const PLAYERS: u128 = 300;

/// Two shards that outlive the handles over them.
struct Shards {
    stores: Vec<(String, Store)>,
}

impl Shards {
    fn new() -> Self {
        let named = |name: &str| (name.to_owned(), Store::memory(Limits::default()));
        Shards { stores: ["a", "b"].map(named).to_vec() }
    }

    fn open(&self) -> Store {
        Store::sharded(self.stores.clone()).unwrap()
    }
}

fn id(n: u128) -> TxnId {
    TxnId(n)
}

fn keys() -> impl Iterator<Item = Key> {
    (0..PLAYERS).map(Key)
}

fn key_in(store: &Store, shard: usize, from: u128) -> Key {
    (from..).map(Key).find(|key| store.shard_of(*key) == shard).unwrap()
}

/// Players with documents, gold, a sword and a record each.
fn populate(store: &Store) -> Vec<Activated> {
    let generation = store.beat(ME).wait().unwrap().generation;
    let asks = keys().map(|key| Activate { key, generation, incarnation: ME, reclaim: None });
    let taken: Vec<Activated> = store
        .activate_many(asks.collect())
        .wait()
        .unwrap()
        .into_iter()
        .map(Result::unwrap)
        .collect();
    for taken in &taken {
        let key = taken.claim.key;
        let mut txn = Transaction::new(id(1_000_000 + key.0), generation);
        txn.claims.push(taken.claim);
        txn.ops.push(LedgerOp::Mint { holder: key, currency: GOLD, amount: 100 });
        let (item, data) = (ItemId(5_000 + key.0), vec![1]);
        txn.ops.push(LedgerOp::Make { item, kind: SWORD, holder: key, data });
        store.commit(txn).wait().unwrap();
        let patch = Patch::from([("bag".to_owned(), Some(vec![key.0 as u8]))]);
        store.save(Save { claim: taken.claim, version: 0, patch }).wait().unwrap();
        let write = RecordWrite {
            id: record(key),
            version: 0,
            change: Change::Put(vec![key.0 as u8]),
            fence: None,
            unlock: false,
        };
        store.write_records(generation, vec![write]).wait().unwrap();
    }
    taken
}

fn record(key: Key) -> RecordId {
    RecordId { kind: 3, key: key.0.to_be_bytes().to_vec() }
}

/// All is there, once.
fn check(store: &Store, what: &str) {
    for key in keys() {
        let entity = store.load(key).wait().unwrap().unwrap_or_else(|| panic!("{what}: {key}"));
        assert_eq!(entity.documents["bag"], [key.0 as u8], "{what}");
        let held = store.holdings(key).wait().unwrap();
        assert_eq!(
            held.items.keys().copied().collect::<Vec<_>>(),
            [ItemId(5_000 + key.0)],
            "{what}"
        );
        let read = store.records(vec![record(key)]).wait().unwrap();
        assert_eq!(read.records[0].body, Some(vec![key.0 as u8]), "{what}");
    }
    let listed = store.scan_records(3, None, 10_000).wait().unwrap();
    let mut all = listed.len();
    let mut after = listed.last().map(|(key, _)| key.clone());
    while let Some(from) = after.take() {
        let more = store.scan_records(3, Some(from), 10_000).wait().unwrap();
        all += more.len();
        after = more.last().map(|(key, _)| key.clone());
    }
    assert_eq!(all, PLAYERS as usize, "{what}");
    let verdict = store.verify().wait().unwrap();
    assert_eq!(verdict.faults, Vec::<String>::new(), "{what}");
    assert_eq!(verdict.currencies[&GOLD], 100 * PLAYERS, "{what}");
    assert_eq!(verdict.items[&SWORD], PLAYERS, "{what}");
}

fn slots_of(store: &Store, shard: usize) -> Vec<Slot> {
    let map = store.slot_map().unwrap();
    map[shard].1.slots.iter().filter(|slot| slot.state.is_here()).map(|slot| slot.slot).collect()
}

fn move_all(store: &Store, from: usize, to: usize, token: u64) -> MoveEnd {
    let slots = slots_of(store, from);
    store.move_slots(slots, (from, to), token, 1, |_| true).0
}

#[test]
fn f17_each_key_is_in_the_shard_that_has_its_slot() {
    let shards = Shards::new();
    let store = shards.open();
    populate(&store);
    check(&store, "as founded");
    assert_eq!(slots_of(&store, 0).len(), 512);
    for (at, (_, alone)) in shards.stores.iter().enumerate() {
        let there = keys().filter(|key| alone.load(*key).wait().unwrap().is_some());
        let believed = keys().filter(|key| store.shard_of(*key) == at);
        assert_eq!(there.collect::<Vec<_>>(), believed.collect::<Vec<_>>());
    }
    // Opened again, also in another order, it is the same.
    drop(store);
    let turned = shards.stores.iter().rev().cloned().collect();
    check(&Store::sharded(turned).unwrap(), "opened again");
}

#[test]
fn f17_an_old_map_is_redirected_once() {
    let shards = Shards::new();
    let (store, old) = (shards.open(), shards.open());
    let taken = populate(&store);
    assert_eq!(move_all(&store, 0, 1, 9), MoveEnd::Moved);
    let moved = taken.iter().find(|taken| old.shard_of(taken.claim.key) == 0).unwrap();
    let key = moved.claim.key;
    assert_eq!(old.redirects(), 0);
    let save = |version| Save { claim: moved.claim, version, patch: Patch::new() };
    assert_eq!(old.save(save(1)).wait(), Ok(2));
    assert_eq!((old.redirects(), old.shard_of(key)), (1, 1));
    assert_eq!(old.save(save(2)).wait(), Ok(3));
    assert_eq!(old.redirects(), 1);
    // And so for whatever else is asked.
    old.beat(ME).wait().unwrap();
    check(&old, "over the old map");
    assert_eq!(old.shards().len(), 2);
}

#[test]
fn f17_what_concerns_two_shards_is_refused_at_once() {
    let store = Shards::new().open();
    let taken = populate(&store);
    let generation = taken[0].claim.generation;
    let of = |shard| taken.iter().find(|t| store.shard_of(t.claim.key) == shard).unwrap().claim.key;
    let (one, other) = (of(0), of(1));
    let generation = store.beat(ME).wait().map_or(generation, |pulse| pulse.generation);
    let pay = LedgerOp::Pay { from: one, to: other, currency: GOLD, amount: 1 };
    let txn = Transaction::new(id(77), generation).with(pay);
    let refused = store.commit(txn).wait().unwrap_err();
    assert_eq!(
        refused.to_string(),
        "it concerns shards \"a\" and \"b\": no transaction is across shards"
    );
    assert_eq!(store.lookup(id(77)).wait(), Ok(None));
    check(&store, "after it was refused");
}

#[test]
fn f17_a_transaction_that_was_done_is_known_after_its_slots_parted() {
    let store = Shards::new().open();
    populate(&store);
    let generation = store.beat(ME).wait().unwrap().generation;
    let one = key_in(&store, 0, 0);
    let other = key_in(&store, 0, one.0 + 1);
    let pay = LedgerOp::Pay { from: one, to: other, currency: GOLD, amount: 1 };
    let txn = Transaction::new(id(78), generation).with(pay);
    let back = LedgerOp::Pay { from: other, to: one, currency: GOLD, amount: 1 };
    let receipt = store.commit(txn.clone()).wait().unwrap();
    store.commit(Transaction::new(id(79), generation).with(back)).wait().unwrap();
    let (end, _) = store.move_slots(vec![Slot::of(other)], (0, 1), 3, 1, |_| true);
    assert_eq!(end, MoveEnd::Moved);
    // Now it could not be done any more, but it was.
    assert_eq!(store.commit(txn.clone()).wait(), Ok(receipt.clone()));
    let (end, _) = store.move_slots(vec![Slot::of(one)], (0, 1), 4, 1, |_| true);
    assert_eq!(end, MoveEnd::Moved);
    assert_eq!(store.commit(txn).wait(), Ok(receipt));
    check(&store, "done once");
}

#[test]
fn f18_slots_move_there_and_back_with_all_that_they_have() {
    let shards = Shards::new();
    let store = shards.open();
    populate(&store);
    for (round, (from, to)) in [(0, 1), (1, 0), (0, 1)].into_iter().enumerate() {
        assert_eq!(move_all(&store, from, to, 20 + round as u64), MoveEnd::Moved);
        assert_eq!(slots_of(&store, from), []);
        check(&store, "moved");
        check(&shards.open(), "moved, seen anew");
        // Nothing is left behind.
        let left = keys().filter(|key| shards.stores[from].1.load(*key).wait().unwrap().is_some());
        assert_eq!(left.count(), 0);
    }
}

#[test]
fn f18_owners_stay_owners_while_their_slot_moves() {
    let store = Shards::new().open();
    let taken = populate(&store);
    assert_eq!(move_all(&store, 0, 1, 5), MoveEnd::Moved);
    for taken in &taken {
        let save = Save { claim: taken.claim, version: 1, patch: Patch::new() };
        assert_eq!(store.save(save).wait(), Ok(2));
    }
    // A failover of the shard that has them now ends every claim, as it would have there.
    let (_, target) = &store.shards()[1];
    assert_eq!(target.raise_generation(1).wait(), Ok(2));
    let save = Save { claim: taken[0].claim, version: 2, patch: Patch::new() };
    assert!(matches!(store.save(save).wait(), Err(Error::Generation { .. })));
    let generation = store.beat(ME).wait().unwrap().generation;
    let (key, reclaim) = (taken[0].claim.key, Some(taken[0].claim.epoch));
    let again = Activate { key, generation, incarnation: ME, reclaim };
    assert_eq!(store.activate(again).wait().unwrap().claim.epoch, taken[0].claim.epoch + 1);
}

#[test]
fn f18_a_move_that_is_cut_off_at_any_step_loses_and_doubles_nothing() {
    let mut steps = 0;
    for stop_at in 0.. {
        let shards = Shards::new();
        let store = shards.open();
        populate(&store);
        let (slots, spare) = (slots_of(&store, 0), key_in(&store, 0, PLAYERS));
        let (mut at, mut cut) = (0, None);
        let (end, _) = store.move_slots(slots, (0, 1), 5, 1, |step| {
            at += 1;
            let goes_on = at <= stop_at;
            if !goes_on {
                cut = Some(step.step());
            }
            goes_on
        });
        drop(store);
        let what = format!("cut off at step {stop_at}, {cut:?}");
        // Whoever comes next finds all of it, whether it opened before or after.
        let store = shards.open();
        let generation = store.beat(ME).wait().unwrap().generation;
        check(&store, &what);
        let mint = LedgerOp::Mint { holder: spare, currency: Currency(2), amount: 1 };
        let txn = Transaction::new(id(90), generation).with(mint);
        // A slot that stands frozen is thawed by who needs it.
        store.commit(txn).wait().unwrap_or_else(|error| panic!("{what}: {error}"));
        // And the move can be made anew.
        let from = usize::from(slots_of(&store, 0).is_empty());
        let again = move_all(&store, from, 1 - from, 6);
        assert_eq!(again, MoveEnd::Moved, "{what}");
        check(&store, &what);
        if cut.is_none() {
            assert_eq!(end, MoveEnd::Moved);
            break;
        }
        steps += 1;
    }
    assert!(steps > 12, "a move of {steps} steps is no move");
}

/// Seed 331 of the suite of slots: a slot was on its way, and another move that would have brought it
/// back had already removed what was left at its source. Nobody served it any more.
#[test]
fn f18_a_slot_on_its_way_is_taken_over_although_its_source_was_cleared() {
    for opened_before in [true, false] {
        let shards = Shards::new();
        let (store, other) = (shards.open(), shards.open());
        populate(&store);
        let slots = slots_of(&store, 0);
        assert_eq!(move_all(&store, 0, 1, 5), MoveEnd::Moved);
        // Back, up to the moment in which the target would be told that it has them.
        let there = slots.clone();
        let stopped = store.move_slots(there, (1, 0), 6, 1, |step| step.step() != "arrive");
        assert!(stopped.1.rows > 0, "{stopped:?}");
        let (mut after, mut steps) = (None, 0);
        loop {
            let slots = slots.clone();
            let clear = SlotAsk::Clear { slots, token: 0, back: false, after };
            match shards.stores[1].1.slots(clear).wait().unwrap() {
                SlotTold::Next(None) => break,
                SlotTold::Next(next) => after = next,
                told => panic!("{told:?}"),
            }
            steps += 1;
            assert!(steps < 1_000);
        }
        let store = if opened_before { other } else { shards.open() };
        check(&store, &format!("opened before: {opened_before}"));
    }
}

#[test]
fn f18_the_late_steps_of_a_move_that_was_given_up_do_nothing() {
    let shards = Shards::new();
    let store = shards.open();
    populate(&store);
    let slot = slots_of(&store, 0)[0];
    let [(_, a), (_, b)] = shards.stores.as_slice() else { unreachable!() };
    let mut asked = Vec::new();
    let mut job = SlotMove::new(vec![slot], "a", "b", 5, 1);
    // Up to its commit point.
    while let Some((side, ask)) = job.poll_ask() {
        asked.push((side, ask.clone()));
        if matches!(ask, SlotAsk::CutOver { .. }) {
            break;
        }
        let store = if side == Side::From { a } else { b };
        job.handle(store.slots(ask).wait());
    }
    // Another move takes over and ends.
    let (end, _) = store.move_slots(vec![slot], (0, 1), 6, 1, |_| true);
    assert_eq!(end, MoveEnd::Moved);
    for (side, ask) in &asked {
        let store = if *side == Side::From { a } else { b };
        drop(store.slots(ask.clone()).wait());
    }
    check(&shards.open(), "after late steps");
    // And the same after it went back.
    let (end, _) = store.move_slots(vec![slot], (1, 0), 7, 1, |_| true);
    assert_eq!(end, MoveEnd::Moved);
    for (side, ask) in asked {
        let store = if side == Side::From { a } else { b };
        drop(store.slots(ask).wait());
    }
    let store = shards.open();
    store.beat(ME).wait().unwrap();
    check(&store, "after late steps of long ago");
}

#[test]
fn f18_players_trade_while_slots_move_and_see_no_error() {
    let shards = Shards::new();
    let store = shards.open();
    let taken = Arc::new(populate(&store));
    let generation = store.beat(ME).wait().unwrap().generation;
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let players: Vec<_> = (0..2u64)
        .map(|player| {
            let (store, taken) = (shards.open(), Arc::clone(&taken));
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            std::thread::spawn(move || {
                store.beat(ME).wait().unwrap();
                let mut random = env::Random::from_seed(player);
                let mut n = 0u128;
                while !stop.load(Ordering::Relaxed) {
                    n += 1;
                    let at = random.below(taken.len() as u64) as usize;
                    let key = taken[at].claim.key;
                    // With somebody of the same slot, which here is oneself.
                    let escrow = Key(key.0 | 1 << 100);
                    let to = LedgerOp::Pay { from: key, to: escrow, currency: GOLD, amount: 1 };
                    let back = LedgerOp::Pay { from: escrow, to: key, currency: GOLD, amount: 1 };
                    let txn = TxnId((u128::from(player) + 1) << 64 | n);
                    let mut txn = Transaction::new(txn, generation).with(to).with(back);
                    txn.claims.push(taken[at].claim);
                    store.commit(txn).wait().unwrap_or_else(|error| panic!("{key}: {error}"));
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let (mut copied_again, mut round) = (0, 0);
    let met = |copied_again| done.load(Ordering::Relaxed) > 100 && copied_again > 0;
    // How much is done beside one move is for the machine to say: moves go on until enough met.
    while round < 20 || !met(copied_again) {
        assert!(!players.iter().any(JoinHandle::is_finished), "a player failed");
        assert!(round < 5_000, "{done:?} deals, {copied_again} copied again");
        let from = (round % 2) as usize;
        let slots = slots_of(&store, from);
        let slots = slots.into_iter().take(100).collect();
        let (end, counts) = store.move_slots(slots, (from, 1 - from), 100 + round, 1, |_| true);
        assert_eq!(end, MoveEnd::Moved, "round {round}");
        copied_again += counts.again;
        round += 1;
    }
    stop.store(true, Ordering::Relaxed);
    players.into_iter().for_each(|player| player.join().unwrap());
    let store = shards.open();
    store.beat(ME).wait().unwrap();
    check(&store, "after the moves");
}

#[test]
fn a_store_that_was_alone_becomes_the_first_shard() {
    let alone = Store::memory(Limits::default());
    let taken = populate(&alone);
    check(&alone, "alone");
    let new = Store::memory(Limits::default());
    let named = vec![("old".to_owned(), alone.clone()), ("new".to_owned(), new.clone())];
    let store = Store::sharded(named.clone()).unwrap();
    assert_eq!(slots_of(&store, 0).len(), usize::from(SLOTS));
    store.beat(ME).wait().unwrap();
    check(&store, "first shard");
    let slots = slots_of(&store, 0).into_iter().take(512).collect();
    assert_eq!(store.move_slots(slots, (0, 1), 9, 1, |_| true).0, MoveEnd::Moved);
    check(&store, "spread");
    let save = Save { claim: taken[0].claim, version: 1, patch: Patch::new() };
    assert_eq!(store.save(save).wait(), Ok(2));
    // A node that does not know of the set is kept away.
    assert!(matches!(alone.beat(ME).wait(), Err(Error::Stopped(_))));
    // And so is a set without one of them.
    let wrong = |shards| Store::sharded(shards).unwrap_err().to_string();
    assert!(wrong(vec![named[0].clone()]).contains("is with shard \"new\""));
    let renamed = vec![named[0].clone(), ("young".to_owned(), new)];
    assert!(wrong(renamed).contains("\"young\" is shard \"new\" of a set"));
    let full = Store::memory(Limits::default());
    populate(&full);
    let two = vec![named[0].clone(), named[1].clone(), ("full".to_owned(), full)];
    assert!(wrong(two).contains("\"full\" holds something"));
}
