//! The driver over a server that is a value: what is cut, in the way, or away is scripted.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;
use crate::error::Error;
use crate::store::Store;
use crate::tables::Read;
use crate::types::{Activate, Claim, Incarnation, Key, Patch, Save};
use crate::{Currency, ItemId, ItemKind, LedgerOp, Transaction, TxnId};

const A: Incarnation = Incarnation(0xA);

/// What happens to the next commits, one each.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    /// Another process commits first.
    Conflict,
    /// The connection breaks, and the commit never arrives.
    CutBefore,
    /// The commit is done, the answer is lost.
    CutAfter,
    /// As before, and the server is away for so many tries.
    CutAfterAndAway(usize),
}

#[derive(Default)]
struct World {
    tables: MemoryTables,
    commits: u64,
    fates: VecDeque<Fate>,
    /// Tries to connect that fail.
    away: usize,
    /// Raised when another server takes over: the connections to the one before are gone.
    life: u64,
    trips: usize,
}

#[derive(Clone, Default)]
struct Fake {
    world: Arc<Mutex<World>>,
    /// Held by a test to let requests gather.
    gate: Arc<Mutex<()>>,
}

struct FakeLink {
    fake: Fake,
    seen: u64,
    life: u64,
}

impl Fake {
    fn store(&self) -> Store {
        Store::of_remote(Remote::open(self.clone(), quick()).expect("opens"))
    }

    fn then(&self, fates: impl IntoIterator<Item = Fate>) {
        self.world.lock().unwrap().fates.extend(fates);
    }

    /// Another server takes over, with what it had received.
    fn fail_over(&self, received: MemoryTables) {
        let mut world = self.world.lock().unwrap();
        world.tables = received;
        world.life += 1;
    }

    fn tables(&self) -> MemoryTables {
        self.world.lock().unwrap().tables.clone()
    }

    fn trips(&self) -> usize {
        self.world.lock().unwrap().trips
    }
}

fn quick() -> ServerOptions {
    ServerOptions {
        away_wait: Duration::from_millis(200),
        pause_max: Duration::from_millis(50),
        ..ServerOptions::default()
    }
}

impl Server for Fake {
    type Link = FakeLink;
    const KIND: &'static str = "fake";

    fn shown(&self) -> String {
        "fake".to_owned()
    }

    async fn connect(&self, _: usize) -> Result<FakeLink, ConnectError> {
        let mut world = self.world.lock().unwrap();
        if world.away > 0 {
            world.away -= 1;
            return Err(ConnectError::Away("nobody listens".to_owned()));
        }
        if world.tables == MemoryTables::default() {
            world.tables.apply(first_writes());
        }
        Ok(FakeLink { fake: self.clone(), seen: 0, life: world.life })
    }
}

impl Link for FakeLink {
    async fn begin(&mut self, _: Mode, first: &[Place]) -> Result<Vec<Found>, Failure> {
        drop(self.fake.gate.lock().unwrap());
        let (commits, life) = {
            let world = self.fake.world.lock().unwrap();
            (world.commits, world.life)
        };
        if life != self.life {
            return Err(Failure::Lost("the server is gone".to_owned()));
        }
        self.seen = commits;
        self.get_many(first).await
    }

    async fn get_many(&mut self, places: &[Place]) -> Result<Vec<Found>, Failure> {
        let mut world = self.fake.world.lock().unwrap();
        world.trips += 1;
        Ok(places.iter().map(|(table, key)| world.tables.get(*table, key).unwrap()).collect())
    }

    async fn page(&mut self, table: Table, from: &[u8], max: usize) -> Result<Page, Failure> {
        let mut world = self.fake.world.lock().unwrap();
        world.trips += 1;
        let mut page = Page::new();
        let seen = world.tables.scan(table, from, &mut |key, row| {
            page.push((key.to_vec(), row.to_vec()));
            Ok(page.len() < max)
        });
        seen.map_err(|error| Failure::Lost(error.to_string()))?;
        Ok(page)
    }

    async fn commit(&mut self, writes: &Writes) -> Result<(), CommitFailure> {
        let mut world = self.fake.world.lock().unwrap();
        world.trips += 1;
        let fate = world.fates.pop_front();
        match fate {
            Some(Fate::Conflict) => world.commits += 1,
            Some(Fate::CutBefore) => return Err(CommitFailure::Unknown("cut".to_owned())),
            _ => {}
        }
        if writes.contains_key(&poison()) {
            return Err(CommitFailure::Lost("the server does not like this row".to_owned()));
        }
        if world.commits != self.seen {
            return Err(CommitFailure::Retry("another was first".to_owned()));
        }
        world.commits += 1;
        world.tables.apply(writes.clone());
        match fate {
            Some(Fate::CutAfter) => Err(CommitFailure::Unknown("cut".to_owned())),
            Some(Fate::CutAfterAndAway(tries)) => {
                world.away = tries;
                Err(CommitFailure::Unknown("cut".to_owned()))
            }
            _ => Ok(()),
        }
    }

    async fn abort(&mut self) -> Result<(), Failure> {
        Ok(())
    }
}

fn activate(store: &Store, key: u128) -> Claim {
    store.beat(A).wait().expect("beats");
    let ask = Activate { key: Key(key), generation: 1, incarnation: A, reclaim: None };
    store.activate(ask).wait().expect("free").claim
}

fn save(claim: Claim, version: u64) -> Save {
    Save { claim, version, patch: Patch::from([("a".to_owned(), Some(vec![version as u8]))]) }
}

fn mint(id: u128) -> Transaction {
    Transaction::new(TxnId(id), 1).with(LedgerOp::Mint {
        holder: Key(1),
        currency: Currency(1),
        amount: 10,
    })
}

/// The transaction whose row the server refuses.
const POISON: u128 = 13;

fn poison() -> Place {
    (Table::Txn, POISON.to_be_bytes().to_vec())
}

fn balance(store: &Store) -> u64 {
    store.holdings(Key(1)).wait().expect("reads").balances.get(&Currency(1)).copied().unwrap_or(0)
}

#[test]
fn requests_that_wait_together_cost_a_handful_of_round_trips() {
    let fake = Fake::default();
    let store = fake.store();
    let claims: Vec<Claim> = (0..100).map(|key| activate(&store, key)).collect();
    let gate = fake.gate.lock().unwrap();
    let first = store.save(save(claims[0], 0));
    let before = fake.trips();
    let rest: Vec<_> = claims[1..].iter().map(|claim| store.save(save(*claim, 0))).collect();
    drop(gate);
    assert_eq!(first.wait(), Ok(1));
    for answer in rest {
        assert_eq!(answer.wait(), Ok(1));
    }
    // Begin and commit of the first, begin, the rest of the rows, and commit of the others.
    let trips = fake.trips() - before;
    assert!(trips <= 6, "{trips} round trips");
}

/// Each item was fetched in a round trip of its own, after looking at all before it once more.
#[test]
fn what_a_holder_has_and_a_check_of_it_cost_a_handful_of_round_trips() {
    let fake = Fake::default();
    let store = fake.store();
    for id in 1_000..3_000 {
        let (item, kind) = (ItemId(id), ItemKind(3));
        let make = LedgerOp::Make { item, kind, holder: Key(1), data: vec![7] };
        store.commit(Transaction::new(TxnId(id), 1).with(make)).wait().expect("makes");
    }
    let before = fake.trips();
    assert_eq!(store.holdings(Key(1)).wait().expect("reads").items.len(), 2_000);
    let trips = fake.trips() - before;
    assert!(trips <= 20, "{trips} round trips for 2,000 items");
    let before = fake.trips();
    let verdict = store.verify().wait().expect("verifies");
    assert_eq!((verdict.faults, verdict.items[&ItemKind(3)]), (vec![], 2_000));
    let trips = fake.trips() - before;
    assert!(trips <= 60, "{trips} round trips for 10,000 rows");
}

#[test]
fn later_requests_of_a_batch_see_what_earlier_ones_wrote() {
    let fake = Fake::default();
    let store = fake.store();
    let claim = activate(&store, 1);
    let gate = fake.gate.lock().unwrap();
    let saves: Vec<_> = (0..50).map(|version| store.save(save(claim, version))).collect();
    let stale = store.save(save(claim, 7));
    let seen = store.load(Key(1));
    let nodes = store.beat(Incarnation(0xB));
    let listed = store.nodes();
    drop(gate);
    for (answer, version) in saves.into_iter().zip(1..) {
        assert_eq!(answer.wait(), Ok(version));
    }
    assert_eq!(stale.wait(), Err(Error::Conflict { key: Key(1), current: 50 }));
    assert_eq!(seen.wait().unwrap().map(|entity| entity.version), Some(50));
    assert!(nodes.wait().is_ok());
    assert_eq!(listed.wait().unwrap().len(), 2);
}

#[test]
fn commit_of_unknown_outcome_is_found_out_and_done_once() {
    let fake = Fake::default();
    let store = fake.store();
    store.beat(A).wait().expect("beats");
    for (n, fate) in [Fate::CutBefore, Fate::CutAfter, Fate::Conflict].into_iter().enumerate() {
        fake.then([fate]);
        let receipt = store.commit(mint(n as u128 + 1)).wait();
        assert_eq!(receipt.map(|receipt| receipt.sequence), Ok(n as u64 + 1), "{fate:?}");
        assert_eq!(balance(&store), 10 * (n as u64 + 1), "{fate:?}");
    }
}

#[test]
fn outcome_is_unknown_only_while_the_server_stays_away() {
    let fake = Fake::default();
    let store = fake.store();
    fake.then([Fate::CutAfterAndAway(1_000)]);
    let cut = store.commit(mint(1)).wait();
    assert!(matches!(cut, Err(Error::Unknown(_))), "{cut:?}");
    let away = store.commit(mint(2)).wait();
    assert!(matches!(away, Err(Error::Unavailable(_))), "{away:?}");
    fake.world.lock().unwrap().away = 0;
    let known = loop {
        match store.lookup(TxnId(1)).wait() {
            Err(Error::Unavailable(_)) => std::thread::yield_now(),
            other => break other,
        }
    };
    assert!(known.expect("is back").is_some());
    assert_eq!(balance(&store), 10);
}

#[test]
fn request_that_the_server_refuses_does_not_take_others_with_it() {
    let fake = Fake::default();
    let store = fake.store();
    let gate = fake.gate.lock().unwrap();
    let first = store.beat(A);
    let answers: Vec<_> = (11..16).map(|id| (id, store.commit(mint(id)))).collect();
    drop(gate);
    first.wait().expect("was under way alone");
    for (id, answer) in answers {
        let answer = answer.wait();
        assert_eq!(matches!(answer, Err(Error::Unavailable(_))), id == POISON, "{answer:?}");
        assert_eq!(answer.is_ok(), id != POISON);
    }
    assert_eq!(balance(&store), 40);
}

#[test]
fn scan_over_many_pages_shows_each_row_once() {
    let fake = Fake::default();
    let store = fake.store();
    for n in 1_000..1_700 {
        drop(store.commit(mint(n)));
    }
    let audit = store.audit(0, usize::MAX).wait().expect("reads");
    let sequences: Vec<u64> = audit.iter().map(|entry| entry.sequence).collect();
    assert_eq!(sequences, (1..=700).collect::<Vec<_>>());
    let verdict = store.verify().wait().expect("reads");
    assert_eq!(verdict.faults, Vec::<String>::new());
}

/// A standby that had not received the last commits took over: owners went on with claims and
/// versions that were built on what is gone.
#[test]
fn a_failover_that_lost_commits_raises_the_generation_once() {
    let fake = Fake::default();
    let stores = [fake.store(), fake.store()];
    let claim = activate(&stores[0], 1);
    stores[1].beat(A).wait().expect("beats");
    // Nothing is lost: everything goes on.
    fake.fail_over(fake.tables());
    assert_eq!(stores[0].save(save(claim, 0)).wait(), Ok(1));
    let received = fake.tables();
    for (store, id) in stores.iter().zip(1..) {
        store.commit(mint(id)).wait().expect("is done");
    }
    fake.fail_over(received);
    for (store, id) in stores.iter().zip(1..) {
        assert_eq!(store.lookup(TxnId(id)).wait(), Ok(None));
        let late = store.commit(mint(id)).wait();
        assert_eq!(late, Err(Error::Generation { current: 2 }));
    }
    assert_eq!(stores[0].save(save(claim, 1)).wait(), Err(Error::Generation { current: 2 }));
    // The next one raises it again, also where the raises before are lost.
    let received = fake.tables();
    let again = Transaction { generation: 2, ..mint(1) };
    stores[1].commit(again.clone()).wait().expect("is done");
    fake.fail_over(received);
    assert_eq!(stores[1].commit(again).wait(), Err(Error::Generation { current: 3 }));
    let all_gone = {
        let mut tables = MemoryTables::default();
        tables.apply(first_writes());
        tables
    };
    fake.fail_over(all_gone);
    for store in stores.iter().rev() {
        assert_eq!(store.generation().wait(), Ok(4), "above all that was seen");
    }
    assert_eq!(balance(&stores[0]), 0);
}
