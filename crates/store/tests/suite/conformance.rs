//! One list of cases, run on every backend.

use std::collections::BTreeMap;
#[cfg(feature = "remote")]
use std::sync::LazyLock;

use store::*;

#[cfg(feature = "remote")]
use crate::database::Database;
use crate::folder::Folder;
use crate::{indexes, records};

/// A backend under test. `reopen` gives the same store after its process went away, if there is
/// anything that could outlive it.
pub struct Bench {
    open: Box<dyn Fn() -> Store>,
    store: Option<Store>,
    lasting: bool,
}

impl Bench {
    pub fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    pub fn reopen(&mut self) {
        if self.lasting {
            self.store = None;
            self.store = Some((self.open)());
        }
    }
}

type Case = (&'static str, fn(&mut Bench));

const CASES: &[Case] = &[
    ("beats count and nodes are listed", beats_count_and_nodes_are_listed),
    ("death is one way", death_is_one_way),
    ("an entity has one owner", an_entity_has_one_owner),
    ("only known living nodes take entities", only_known_living_nodes_take_entities),
    ("a dead owner's entity is taken and its writes are refused", dead_owner_is_fenced),
    ("an owner reclaims by its exact epoch", an_owner_reclaims_by_its_exact_epoch),
    ("many are activated, each with its own outcome", many_are_activated),
    ("a version is written once", a_version_is_written_once),
    ("patches replace, add and remove", patches_replace_add_and_remove),
    ("documents stay within their limits", documents_stay_within_their_limits),
    ("a raised generation refuses every older claim", a_raised_generation_refuses_older_claims),
    ("a transaction happens once", a_transaction_happens_once),
    ("balances are never negative", balances_are_never_negative),
    ("items are unique for ever", items_are_unique_for_ever),
    ("all or nothing", all_or_nothing),
    ("a trade needs both claims and both ledgers", a_trade_needs_both_claims_and_both_ledgers),
    ("an unknown outcome is looked up", an_unknown_outcome_is_looked_up),
    ("malformed transactions are refused", malformed_transactions_are_refused),
    ("the outbox holds what was committed until told", the_outbox_holds_what_was_committed),
    ("forgotten transactions stay in the audit", forgotten_transactions_stay_in_the_audit),
    ("requests see what was asked before them", requests_see_what_was_asked_before_them),
    ("records are written at their version or not at all", records::at_their_version),
    ("a removed record keeps its version", records::removed_ones_keep_their_version),
    ("records change together with the ledger", records::together_with_the_ledger),
    ("a lock keeps others out until it is given back", records::a_lock_keeps_others_out),
    ("a lock that stands still may be broken", records::a_lock_that_stands_still_may_be_broken),
    ("records are listed in the order of their keys", records::listed_in_order),
    ("an entity is found by what it has saved", indexes::entities_are_found_by_what_they_saved),
    ("a record is found by what it has", indexes::records_are_found_by_what_they_have),
    ("a unique value is of one record", indexes::a_unique_value_is_of_one_record),
];

/// Opens a store of one case, again after it was closed if it is one that lasts.
type Open = Box<dyn Fn() -> Store>;
type Backend = (&'static str, bool, fn() -> Open);

const MEMORY: Backend = ("memory", false, || Box::new(|| Store::memory(Limits::default())));

const EMBEDDED: Backend = ("embedded", true, || {
    let folder = Folder::new("conformance");
    Box::new(move || Store::embedded(folder.file(), Options::default()).unwrap())
});

#[cfg(feature = "sqlite")]
const SQLITE: Backend = ("sqlite", true, || {
    let folder = Folder::new("conformance");
    Box::new(move || Store::sqlite(folder.file(), Options::default()).unwrap())
});

#[cfg(feature = "postgres")]
const POSTGRES: Backend = ("postgres", true, || {
    static SERVER: LazyLock<Database> = LazyLock::new(Database::postgres);
    on_server(&SERVER)
});

#[cfg(feature = "mysql")]
const MYSQL: Backend = ("mysql", true, || {
    static SERVER: LazyLock<Database> = LazyLock::new(Database::mysql);
    on_server(&SERVER)
});

#[cfg(feature = "redis")]
const REDIS: Backend = ("redis", true, || {
    static SERVER: LazyLock<Database> = LazyLock::new(Database::redis);
    on_server(&SERVER)
});

#[cfg(feature = "mongodb")]
const MONGODB: Backend = ("mongodb", true, || {
    static SERVER: LazyLock<Database> = LazyLock::new(Database::mongodb);
    on_server(&SERVER)
});

/// Two shards as one store, each opened by one of these. All slots have moved to the second, so that
/// every key of a case is in one.
fn sharded([a, b]: [Open; 2]) -> Open {
    Box::new(move || {
        let named = vec![("a".to_owned(), a()), ("b".to_owned(), b())];
        let store = Store::sharded(named).unwrap();
        let map = store.slot_map().unwrap();
        let slots = map[0].1.slots.iter().filter(|slot| slot.state.is_here());
        let slots: Vec<Slot> = slots.map(|slot| slot.slot).collect();
        if !slots.is_empty() {
            let (end, _) = store.move_slots(slots, (0, 1), 1, 1, |_| true);
            assert_eq!(end, MoveEnd::Moved);
        }
        store
    })
}

const SHARDS_MEMORY: Backend = ("2 memory", false, || {
    let (_, _, open) = MEMORY;
    sharded([open(), open()])
});

const SHARDS_EMBEDDED: Backend = ("2 embed.", true, || {
    let (_, _, open) = EMBEDDED;
    sharded([open(), open()])
});

#[cfg(feature = "postgres")]
const SHARDS_POSTGRES: Backend = ("2 postgr.", true, || {
    let (_, _, open) = POSTGRES;
    sharded([open(), open()])
});

/// A data process in front of a file.
const PROXY: Backend = ("proxy", true, || {
    let (_, _, open) = EMBEDDED;
    behind(&open(), 1)
});

/// Two data processes in front of PostgreSQL, each with the store open.
#[cfg(feature = "postgres")]
const PROXY_POSTGRES: Backend = ("2 proxies", true, || {
    let (_, _, open) = POSTGRES;
    behind(&open(), 2)
});

fn behind(open: &Open, processes: usize) -> Open {
    let services: Vec<DataService> = (0..processes).map(|_| crate::proxy::serve(&open())).collect();
    Box::new(move || {
        let at: Vec<_> = services.iter().map(|service| service.address().to_string()).collect();
        Store::proxy(&at, "", &crate::proxy::KEY, ProxyOptions::default()).unwrap()
    })
}

/// The shard whose outbox and audit a case looks at: of a set, each is asked by itself.
fn book(store: &Store) -> &Store {
    store.shards().last().map_or(store, |(_, store)| store)
}

/// A journal in Redis over a file, what is valuable answered when it is in the journal.
#[cfg(feature = "redis")]
const JOURNAL: Backend = ("journal", true, || {
    static SERVER: LazyLock<Database> = LazyLock::new(Database::redis);
    let folder = Folder::new("conformance");
    let open = move || Store::embedded(folder.file(), Options::default()).unwrap();
    journal_of(&SERVER, Box::new(open), Acknowledge::Journal)
});

/// The same over PostgreSQL, answered when it has landed there.
#[cfg(all(feature = "redis", feature = "postgres"))]
const LANDED: Backend = ("landed", true, || {
    static SERVER: LazyLock<Database> = LazyLock::new(Database::redis);
    static TARGET: LazyLock<Database> = LazyLock::new(Database::postgres);
    journal_of(&SERVER, on_server(&TARGET), Acknowledge::Landed)
});

#[cfg(feature = "redis")]
fn journal_of(server: &'static Database, target: Open, acknowledge: Acknowledge) -> Open {
    let url = server.url(server.admin(), server.instance().port(), &server.make());
    let interval = std::time::Duration::from_millis(50);
    let landing = LandingOptions { acknowledge, interval, ..LandingOptions::default() };
    Box::new(move || {
        Store::journal(&url, crate::database::quick(), target(), landing.clone()).unwrap()
    })
}

/// One server for all cases of a process, a database for each.
#[cfg(feature = "remote")]
fn on_server(server: &'static Database) -> Open {
    let name = server.make();
    Box::new(move || server.open(server.instance().port(), &name))
}

fn run((_, lasting, open): Backend, (name, case): &Case) {
    let open = open();
    let mut bench = Bench { store: Some(open()), open, lasting };
    case(&mut bench);
    let verdict = bench.store().verify().wait().unwrap();
    assert_eq!(verdict.faults, Vec::<String>::new(), "{name}");
    bench.reopen();
    assert_eq!(bench.store().verify().wait().unwrap(), verdict, "{name}");
}

fn run_all(backend: Backend) {
    for case in CASES {
        println!("{}", case.0);
        run(backend, case);
    }
}

#[test]
fn memory_store_conforms() {
    run_all(MEMORY);
}

#[test]
fn a_store_behind_a_data_process_conforms() {
    run_all(PROXY);
}

#[cfg(feature = "postgres")]
#[test]
fn a_store_behind_two_data_processes_conforms() {
    if !servers::skipped() {
        run_all(PROXY_POSTGRES);
    }
}

#[test]
fn a_set_of_shards_conforms() {
    run_all(SHARDS_MEMORY);
}

#[test]
fn embedded_store_conforms() {
    run_all(EMBEDDED);
}

#[cfg(feature = "sqlite")]
#[test]
fn sqlite_store_conforms() {
    run_all(SQLITE);
}

/// Prints backends × cases: `cargo test -p store --all-features backends_and_cases -- --nocapture`.
#[test]
fn table_of_backends_and_cases() {
    let backends = [
        MEMORY,
        EMBEDDED,
        #[cfg(feature = "sqlite")]
        SQLITE,
        #[cfg(feature = "postgres")]
        POSTGRES,
        #[cfg(feature = "mysql")]
        MYSQL,
        #[cfg(feature = "redis")]
        REDIS,
        #[cfg(feature = "mongodb")]
        MONGODB,
        SHARDS_MEMORY,
        SHARDS_EMBEDDED,
        #[cfg(feature = "postgres")]
        SHARDS_POSTGRES,
        #[cfg(feature = "redis")]
        JOURNAL,
        #[cfg(all(feature = "redis", feature = "postgres"))]
        LANDED,
        PROXY,
        #[cfg(feature = "postgres")]
        PROXY_POSTGRES,
    ];
    let alone = ["memory", "embedded", "sqlite", "2 memory", "2 embed.", "proxy"];
    let needs_server = |name: &str| !alone.contains(&name);
    let skipped = servers::skipped();
    let backends: Vec<Backend> =
        backends.into_iter().filter(|(name, ..)| !skipped || !needs_server(name)).collect();
    let heads: String = backends.iter().map(|(name, ..)| format!(" {name:>9}")).collect();
    println!("{:<60}{heads}", "case");
    let mut failed = Vec::new();
    for case in CASES {
        let mut line = format!("{:<60}", case.0);
        for &backend in &backends {
            let ran = std::panic::catch_unwind(|| run(backend, case));
            line += &format!(" {:>9}", if ran.is_ok() { "passes" } else { "FAILS" });
            if ran.is_err() {
                failed.push((backend.0, case.0));
            }
        }
        println!("{line}");
    }
    assert_eq!(failed, []);
}

pub const A: Incarnation = Incarnation(0xa);
pub const B: Incarnation = Incarnation(0xb);
const GOLD: Currency = Currency(1);
const SWORD: ItemKind = ItemKind(7);

fn ask(key: u128, incarnation: Incarnation) -> Activate {
    Activate { key: Key(key), generation: 1, incarnation, reclaim: None }
}

pub fn patch(name: &str, document: &str) -> Patch {
    Patch::from([(name.to_owned(), Some(document.as_bytes().to_vec()))])
}

fn save(claim: Claim, version: u64, document: &str) -> Save {
    Save { claim, version, patch: patch("bag", document) }
}

fn two_nodes(store: &Store) {
    store.beat(A).wait().unwrap();
    store.beat(B).wait().unwrap();
}

fn taken(store: &Store, key: u128, by: Incarnation) -> Claim {
    store.activate(ask(key, by)).wait().unwrap().claim
}

fn txn(id: u128) -> Transaction {
    Transaction::new(TxnId(id), 1)
}

fn mint(holder: u128, amount: u64) -> LedgerOp {
    LedgerOp::Mint { holder: Key(holder), currency: GOLD, amount }
}

fn pay(from: u128, to: u128, amount: u64) -> LedgerOp {
    LedgerOp::Pay { from: Key(from), to: Key(to), currency: GOLD, amount }
}

fn make(item: u128, holder: u128) -> LedgerOp {
    let data = b"sharp".to_vec();
    LedgerOp::Make { item: ItemId(item), kind: SWORD, holder: Key(holder), data }
}

fn hand(item: u128, from: u128, to: u128) -> LedgerOp {
    LedgerOp::Move { item: ItemId(item), from: Key(from), to: Key(to) }
}

fn gold(store: &Store, holder: u128) -> u64 {
    let holdings = store.holdings(Key(holder)).wait().unwrap();
    holdings.balances.get(&GOLD).copied().unwrap_or(0)
}

fn beats_count_and_nodes_are_listed(bench: &mut Bench) {
    let store = bench.store();
    assert_eq!(store.generation().wait(), Ok(1));
    assert_eq!(store.beat(A).wait(), Ok(Pulse { generation: 1, beat: 1 }));
    assert_eq!(store.beat(A).wait(), Ok(Pulse { generation: 1, beat: 2 }));
    assert_eq!(store.beat(B).wait(), Ok(Pulse { generation: 1, beat: 1 }));
    bench.reopen();
    let store = bench.store();
    let row = |incarnation, beat| NodeBeat { incarnation, alive: true, beat };
    assert_eq!(store.nodes().wait(), Ok(vec![row(A, 2), row(B, 1)]));
    assert_eq!(store.node(Incarnation(9)).wait(), Ok(None));
}

fn death_is_one_way(bench: &mut Bench) {
    let store = bench.store();
    assert_eq!(store.mark_dead(A, 0).wait(), Err(Error::UnknownNode(A)));
    two_nodes(store);
    store.beat(A).wait().unwrap();
    let moved = Error::BeatMoved { incarnation: A, current: 2 };
    assert_eq!(store.mark_dead(A, 1).wait(), Err(moved));
    assert_eq!(store.mark_dead(A, 2).wait(), Ok(()));
    assert_eq!(store.mark_dead(A, 2).wait(), Ok(()), "a second observer is content");
    bench.reopen();
    let store = bench.store();
    assert_eq!(store.beat(A).wait(), Err(Error::Dead(A)));
    assert_eq!(store.mark_dead(A, 7).wait(), Ok(()));
    let row = NodeBeat { incarnation: A, alive: false, beat: 2 };
    assert_eq!(store.node(A).wait(), Ok(Some(row)));
    assert_eq!(store.nodes().wait().unwrap().len(), 1);
}

fn an_entity_has_one_owner(bench: &mut Bench) {
    let store = bench.store();
    two_nodes(store);
    assert_eq!(store.load(Key(1)).wait(), Ok(None));
    let first = store.activate(ask(1, A)).wait().unwrap();
    assert_eq!((first.claim.epoch, first.version, first.documents.len()), (1, 0, 0));
    let owner = Owner { epoch: 1, incarnation: A, released: false };
    let owned = Err(Error::Owned { key: Key(1), owner });
    assert_eq!(store.activate(ask(1, B)).wait(), owned);
    assert_eq!(store.activate(ask(1, A)).wait(), owned, "not even its owner by accident");

    assert_eq!(store.save(save(first.claim, 0, "rope")).wait(), Ok(1));
    let early = store.release(first.claim, 0).wait();
    assert_eq!(early, Err(Error::Conflict { key: Key(1), current: 1 }), "saved means saved");
    assert_eq!(store.release(first.claim, 1).wait(), Ok(()));
    bench.reopen();
    let store = bench.store();
    let owner = Owner { released: true, ..owner };
    let fenced = Error::Fenced { key: Key(1), owner: Some(owner) };
    assert_eq!(store.save(save(first.claim, 1, "late")).wait(), Err(fenced.clone()));
    assert_eq!(store.release(first.claim, 1).wait(), Err(fenced));

    let second = store.activate(ask(1, B)).wait().unwrap();
    assert_eq!((second.claim.epoch, second.version), (2, 1));
    assert_eq!(second.documents["bag"], b"rope");
    let owner = Owner { epoch: 2, incarnation: B, released: false };
    let fenced = Error::Fenced { key: Key(1), owner: Some(owner) };
    assert_eq!(store.save(save(first.claim, 1, "late")).wait(), Err(fenced));
}

fn only_known_living_nodes_take_entities(bench: &mut Bench) {
    let store = bench.store();
    assert_eq!(store.activate(ask(1, A)).wait(), Err(Error::UnknownNode(A)));
    two_nodes(store);
    store.mark_dead(A, 1).wait().unwrap();
    assert_eq!(store.activate(ask(1, A)).wait(), Err(Error::Dead(A)));
    let other = Activate { generation: 2, ..ask(1, B) };
    assert_eq!(store.activate(other).wait(), Err(Error::Generation { current: 1 }));
    assert_eq!(store.load(Key(1)).wait(), Ok(None), "refused activations leave nothing");
}

fn dead_owner_is_fenced(bench: &mut Bench) {
    let store = bench.store();
    two_nodes(store);
    let old = taken(store, 1, A);
    store.save(save(old, 0, "one")).wait().unwrap();
    store.mark_dead(A, 1).wait().unwrap();
    // What A had sent before anyone took the entity still counts: B will load it.
    assert_eq!(store.save(save(old, 1, "two")).wait(), Ok(2));
    let new = store.activate(ask(1, B)).wait().unwrap();
    assert_eq!((new.claim.epoch, &new.documents["bag"][..]), (2, &b"two"[..]));
    bench.reopen();
    let store = bench.store();
    let refused = [
        store.save(save(old, 2, "three")).wait().map(drop),
        store.release(old, 2).wait(),
        store.commit(Transaction { claims: vec![old], ..txn(1) }.with(mint(1, 5))).wait().map(drop),
        store.commit(Transaction { writes: vec![save(old, 2, "x")], ..txn(2) }).wait().map(drop),
    ];
    for refused in refused {
        assert!(matches!(refused, Err(Error::Fenced { key: Key(1), .. })), "{refused:?}");
    }
    let never = Claim { key: Key(2), ..old };
    let fenced = Error::Fenced { key: Key(2), owner: None };
    assert_eq!(store.save(save(never, 0, "x")).wait(), Err(fenced));
    // The same epoch in another's hands is no claim either.
    let forged = Claim { incarnation: A, ..new.claim };
    assert!(matches!(store.save(save(forged, 2, "x")).wait(), Err(Error::Fenced { .. })));
    assert_eq!(store.load(Key(1)).wait().unwrap().unwrap().documents["bag"], b"two");
    assert_eq!(gold(store, 1), 0);
}

fn an_owner_reclaims_by_its_exact_epoch(bench: &mut Bench) {
    let store = bench.store();
    two_nodes(store);
    let first = taken(store, 1, A);
    let reclaim = |by, epoch| Activate { reclaim: Some(epoch), ..ask(1, by) };
    assert!(matches!(store.activate(reclaim(B, 1)).wait(), Err(Error::Owned { .. })));
    assert!(matches!(store.activate(reclaim(A, 2)).wait(), Err(Error::Owned { .. })));
    let second = store.activate(reclaim(A, 1)).wait().unwrap().claim;
    assert_eq!(second.epoch, 2);
    let stale = store.save(save(first, 0, "x")).wait();
    assert!(matches!(stale, Err(Error::Fenced { .. })), "its own older claim has ended");
    assert_eq!(store.save(save(second, 0, "x")).wait(), Ok(1));
    let late = store.activate(reclaim(A, 1)).wait();
    assert!(matches!(late, Err(Error::Owned { .. })), "a copy of the request takes nothing");
}

fn many_are_activated(bench: &mut Bench) {
    let store = bench.store();
    two_nodes(store);
    taken(store, 2, A);
    let asks = [1, 2, 3, 1].map(|key| ask(key, B)).to_vec();
    let outcomes = store.activate_many(asks).wait().unwrap();
    let epochs: Vec<_> =
        outcomes.iter().map(|outcome| outcome.as_ref().map(|a| a.claim.epoch).ok()).collect();
    assert_eq!(epochs, [Some(1), None, Some(1), None]);
    assert!(matches!(outcomes[1], Err(Error::Owned { key: Key(2), .. })));
    bench.reopen();
    let store = bench.store();
    assert_eq!(store.load(Key(3)).wait().unwrap().unwrap().owner.incarnation, B);
    let too_many = (0..1_025).map(|key| ask(100 + key, B)).collect();
    assert!(matches!(store.activate_many(too_many).wait(), Err(Error::TooLarge { .. })));
    assert_eq!(store.load(Key(100)).wait(), Ok(None));
    // As many as there may be are looked up, which some servers take only in parts.
    let most = (0..1_024).map(|key| ask(100 + key, Incarnation(0xff))).collect();
    let outcomes = store.activate_many(most).wait().unwrap();
    assert!(outcomes.iter().all(Result::is_err), "nobody knows that node");
    // More than one part, new and then again.
    for reclaim in [None, Some(1)] {
        let many = (0..260).map(|key| Activate { reclaim, ..ask(100 + key, B) }).collect();
        let outcomes = store.activate_many(many).wait().unwrap();
        assert_eq!(outcomes.iter().find(|outcome| outcome.is_err()), None);
    }
}

fn a_version_is_written_once(bench: &mut Bench) {
    let store = bench.store();
    two_nodes(store);
    let claim = taken(store, 1, A);
    assert_eq!(store.save(save(claim, 0, "one")).wait(), Ok(1));
    let conflict = Err(Error::Conflict { key: Key(1), current: 1 });
    assert_eq!(store.save(save(claim, 0, "again")).wait(), conflict);
    assert_eq!(store.save(save(claim, 2, "ahead")).wait(), conflict);
    bench.reopen();
    let store = bench.store();
    let entity = store.load(Key(1)).wait().unwrap().unwrap();
    assert_eq!((entity.version, &entity.documents["bag"][..]), (1, &b"one"[..]));
    // Several in flight, each building on the one before, are done in their order.
    let answers: Vec<_> = (1..50).map(|v| store.save(save(claim, v, &v.to_string()))).collect();
    for (answer, version) in answers.into_iter().zip(2..) {
        assert_eq!(answer.wait(), Ok(version));
    }
}

fn patches_replace_add_and_remove(bench: &mut Bench) {
    let store = bench.store();
    two_nodes(store);
    let claim = taken(store, 1, A);
    let set = |name: &str, value: &str| (name.to_owned(), Some(value.as_bytes().to_vec()));
    let patches = [
        Patch::from([set("bag", "rope"), set("pet", "cat")]),
        Patch::from([set("bag", "lamp"), ("pet".to_owned(), None), ("none".to_owned(), None)]),
        Patch::from([set("quest", "")]),
    ];
    for (version, patch) in (0..).zip(patches) {
        store.save(Save { claim, version, patch }).wait().unwrap();
    }
    bench.reopen();
    let entity = bench.store().load(Key(1)).wait().unwrap().unwrap();
    let documents = [("bag", &b"lamp"[..]), ("quest", b"")];
    let expected: Documents =
        documents.into_iter().map(|(name, bytes)| (name.to_owned(), bytes.to_vec())).collect();
    assert_eq!((entity.version, entity.documents), (3, expected));
}

fn documents_stay_within_their_limits(bench: &mut Bench) {
    let store = bench.store();
    two_nodes(store);
    let claim = taken(store, 1, A);
    let save = |patch| store.save(Save { claim, version: 0, patch }).wait();
    let long = "x".repeat(65);
    assert!(matches!(save(patch(&long, "")), Err(Error::TooLarge { max: 64, .. })));
    assert!(matches!(save(patch("", "")), Err(Error::Malformed(_))));
    let many = (0..65).map(|n| (n.to_string(), Some(Vec::new()))).collect();
    assert!(matches!(save(many), Err(Error::TooLarge { size: 65, max: 64, .. })));
    let big = Patch::from([("bag".to_owned(), Some(vec![0; 1 << 20]))]);
    assert!(matches!(save(big), Err(Error::TooLarge { .. })));
    let fits = Patch::from([("bag".to_owned(), Some(vec![0; (1 << 20) - 3]))]);
    assert_eq!(save(fits), Ok(1), "refused saves changed nothing");
}

fn a_raised_generation_refuses_older_claims(bench: &mut Bench) {
    let store = bench.store();
    two_nodes(store);
    let old = taken(store, 1, A);
    assert_eq!(store.raise_generation(2).wait(), Err(Error::Generation { current: 1 }));
    assert_eq!(store.raise_generation(1).wait(), Ok(2));
    bench.reopen();
    let store = bench.store();
    let refused = [
        store.save(save(old, 0, "x")).wait().map(drop),
        store.release(old, 0).wait(),
        store.activate(ask(2, A)).wait().map(drop),
        store.commit(txn(1).with(mint(1, 1))).wait().map(drop),
        // A transaction of the new generation that shows a claim of the old.
        store.commit(Transaction { claims: vec![old], generation: 2, ..txn(1) }).wait().map(drop),
    ];
    for refused in refused {
        assert_eq!(refused, Err(Error::Generation { current: 2 }));
    }
    assert_eq!(store.beat(A).wait().unwrap().generation, 2);
    let again = |by| Activate { generation: 2, reclaim: Some(1), ..ask(1, by) };
    assert!(matches!(store.activate(again(B)).wait(), Err(Error::Owned { .. })));
    let new = store.activate(again(A)).wait().unwrap().claim;
    assert_eq!((new.generation, new.epoch), (2, 2));
    assert_eq!(store.save(save(new, 0, "x")).wait(), Ok(1));
}

fn a_transaction_happens_once(bench: &mut Bench) {
    let store = bench.store();
    two_nodes(store);
    let claim = taken(store, 1, A);
    let first = Transaction { writes: vec![save(claim, 0, "paid")], ..txn(1) }.with(mint(1, 10));
    let receipt = store.commit(first.clone()).wait().unwrap();
    assert_eq!(receipt.sequence, 1);
    assert_eq!(receipt.versions, BTreeMap::from([(Key(1), 1)]));
    assert_eq!(receipt.ledgers, BTreeMap::from([(Key(1), 1)]));
    assert_eq!(receipt.balances, BTreeMap::from([((Key(1), GOLD), 10)]));
    bench.reopen();
    let store = bench.store();
    store.commit(txn(2).with(mint(1, 5))).wait().unwrap();
    assert_eq!(store.commit(first.clone()).wait().as_ref(), Ok(&receipt), "as it was then");
    // After a move the same try comes with another claim, version, ledger and time.
    store.raise_generation(1).wait().unwrap();
    let moved =
        Transaction { generation: 2, at_ms: 99, ledgers: [(Key(1), 9)].into(), ..first.clone() };
    assert_eq!(store.commit(moved).wait().as_ref(), Ok(&receipt));
    assert_eq!(gold(store, 1), 15);
    assert_eq!(store.load(Key(1)).wait().unwrap().unwrap().version, 1);
    for other in [
        txn(1).with(mint(1, 10)),
        first.clone().with(mint(1, 1)),
        Transaction { note: "?".to_owned(), ..first },
    ] {
        assert_eq!(store.commit(other).wait(), Err(Error::TxnReused(TxnId(1))));
    }
    assert_eq!(gold(store, 1), 15);
}

fn balances_are_never_negative(bench: &mut Bench) {
    let store = bench.store();
    store.commit(txn(1).with(mint(1, 10))).wait().unwrap();
    let burn = |amount| LedgerOp::Burn { holder: Key(1), currency: GOLD, amount };
    let short = |has, needs| {
        let refusal = Refusal::Insufficient { holder: Key(1), currency: GOLD, has, needs };
        Err(Error::Refused(refusal))
    };
    assert_eq!(store.commit(txn(2).with(burn(11))).wait(), short(10, 11));
    assert_eq!(store.commit(txn(3).with(pay(1, 2, 11))).wait(), short(10, 11));
    let twice = txn(4).with(pay(1, 2, 6)).with(pay(1, 2, 5));
    assert_eq!(store.commit(twice).wait(), short(4, 5), "steps see the steps before them");
    assert_eq!(store.commit(txn(5).with(pay(1, 1, 11))).wait(), short(10, 11));
    let overflow = txn(6).with(mint(1, u64::MAX));
    let refusal = Refusal::Overflow { holder: Key(1), currency: GOLD };
    assert_eq!(store.commit(overflow).wait(), Err(Error::Refused(refusal)));
    assert_eq!((gold(store, 1), gold(store, 2)), (10, 0));
    // A refused id is free: the same try succeeds once there is enough.
    store.commit(txn(7).with(mint(1, 1))).wait().unwrap();
    let receipt = store.commit(txn(3).with(pay(1, 2, 11))).wait().unwrap();
    assert_eq!(receipt.balances, BTreeMap::from([((Key(1), GOLD), 0), ((Key(2), GOLD), 11)]));
    bench.reopen();
    let store = bench.store();
    assert_eq!((gold(store, 1), gold(store, 2)), (0, 11));
    let supply = store.supply(Of::Currency(GOLD)).wait().unwrap();
    assert_eq!(supply, Supply { made: 11, destroyed: 0 });
}

fn items_are_unique_for_ever(bench: &mut Bench) {
    let store = bench.store();
    store.commit(txn(1).with(make(5, 1))).wait().unwrap();
    let exists = Err(Error::Refused(Refusal::ItemExists(ItemId(5))));
    assert_eq!(store.commit(txn(2).with(make(5, 2))).wait(), exists);
    let twice = txn(3).with(make(6, 1)).with(make(6, 2));
    assert_eq!(store.commit(twice).wait(), Err(Refusal::ItemExists(ItemId(6)).into()));
    let not_held = |holder| Err(Refusal::NotHeld { item: ItemId(5), holder: Key(holder) }.into());
    assert_eq!(store.commit(txn(4).with(hand(5, 2, 3))).wait(), not_held(2));
    let double = txn(5).with(hand(5, 1, 2)).with(hand(5, 1, 3));
    assert_eq!(store.commit(double).wait(), not_held(1), "given away twice");
    store.commit(txn(6).with(hand(5, 1, 2))).wait().unwrap();
    let change = LedgerOp::Change { item: ItemId(5), holder: Key(2), data: b"dull".to_vec() };
    store.commit(txn(7).with(change)).wait().unwrap();
    bench.reopen();
    let store = bench.store();
    assert_eq!(store.holdings(Key(1)).wait().unwrap().items.len(), 0);
    let held = store.holdings(Key(2)).wait().unwrap();
    assert_eq!((held.version, &held.items[&ItemId(5)].data[..]), (2, &b"dull"[..]));
    let destroy = |holder| LedgerOp::Destroy { item: ItemId(5), holder: Key(holder) };
    assert_eq!(store.commit(txn(8).with(destroy(1))).wait(), not_held(1));
    store.commit(txn(9).with(destroy(2))).wait().unwrap();
    assert_eq!(store.commit(txn(10).with(make(5, 1))).wait(), exists, "gone, and still used");
    let gone = store.item(ItemId(5)).wait().unwrap().unwrap();
    assert_eq!((gone.holder, gone.last_txn), (None, TxnId(9)));
    let supply = store.supply(Of::Items(SWORD)).wait().unwrap();
    assert_eq!(supply, Supply { made: 1, destroyed: 1 });
}

fn all_or_nothing(bench: &mut Bench) {
    let store = bench.store();
    two_nodes(store);
    let (one, two) = (taken(store, 1, A), taken(store, 2, B));
    store.save(save(two, 0, "there")).wait().unwrap();
    let message = Message { topic: "sold".to_owned(), body: b"5".to_vec() };
    let whole = Transaction {
        writes: vec![save(one, 0, "x"), save(two, 1, "y")],
        messages: vec![message],
        ..txn(1)
    };
    let whole = whole.with(mint(1, 10)).with(make(5, 1)).with(pay(1, 2, 4));
    let mut broken = vec![
        (whole.clone().with(pay(2, 1, 5)), "last step"),
        (Transaction { ledgers: [(Key(2), 3)].into(), ..whole.clone() }, "ledger version"),
        (Transaction { claims: vec![Claim { key: Key(3), ..one }], ..whole.clone() }, "claim"),
    ];
    let mut version = whole.clone();
    version.writes[1].version = 0;
    broken.push((version, "version of the second document"));
    for (broken, what) in broken {
        assert!(store.commit(broken).wait().is_err(), "{what}");
    }
    bench.reopen();
    let store = bench.store();
    assert_eq!(store.load(Key(1)).wait().unwrap().unwrap().version, 0);
    assert_eq!(store.load(Key(2)).wait().unwrap().unwrap().version, 1);
    assert_eq!(store.holdings(Key(1)).wait(), Ok(Holdings::default()));
    assert_eq!(store.item(ItemId(5)).wait(), Ok(None));
    assert_eq!(book(store).outbox(0, 10).wait(), Ok(vec![]));
    assert_eq!(book(store).audit(0, 10).wait(), Ok(vec![]));
    assert_eq!(store.lookup(TxnId(1)).wait(), Ok(None));
    let receipt = store.commit(whole).wait().unwrap();
    assert_eq!((receipt.sequence, gold(store, 1), gold(store, 2)), (1, 6, 4));
    assert_eq!(receipt.versions, BTreeMap::from([(Key(1), 1), (Key(2), 2)]));
}

fn a_trade_needs_both_claims_and_both_ledgers(bench: &mut Bench) {
    let store = bench.store();
    two_nodes(store);
    let (one, two) = (taken(store, 1, A), taken(store, 2, B));
    store.commit(txn(1).with(make(5, 1)).with(mint(2, 100))).wait().unwrap();
    let trade = |id, ledgers: [u64; 2], claims: [Claim; 2]| {
        let ledgers = [(Key(1), ledgers[0]), (Key(2), ledgers[1])].into();
        let trade = Transaction { claims: claims.to_vec(), ledgers, ..txn(id) };
        store.commit(trade.with(hand(5, 1, 2)).with(pay(2, 1, 30))).wait()
    };
    // The buyer spends between the offer and the trade.
    store.commit(txn(2).with(pay(2, 3, 10))).wait().unwrap();
    let moved = Err(Error::LedgerMoved { holder: Key(2), current: 2 });
    assert_eq!(trade(3, [1, 1], [one, two]), moved);
    // The seller's node was replaced meanwhile.
    store.mark_dead(A, 1).wait().unwrap();
    let new = store.activate(ask(1, B)).wait().unwrap().claim;
    assert!(matches!(trade(3, [1, 2], [one, two]), Err(Error::Fenced { key: Key(1), .. })));
    let receipt = trade(3, [1, 2], [new, two]).unwrap();
    assert_eq!(receipt.ledgers, BTreeMap::from([(Key(1), 2), (Key(2), 3)]));
    assert_eq!((gold(store, 1), gold(store, 2), gold(store, 3)), (30, 60, 10));
    let audit = book(store).audit(2, 10).wait().unwrap();
    assert_eq!((audit.len(), &audit[0].claims[..]), (1, &[new, two][..]));
}

fn an_unknown_outcome_is_looked_up(bench: &mut Bench) {
    let store = bench.store();
    assert_eq!(store.lookup(TxnId(1)).wait(), Ok(None));
    // The answer is thrown away, as by a caller that died.
    drop(store.commit(txn(1).with(mint(1, 10))));
    drop(store.commit(txn(2).with(pay(1, 2, 11))));
    bench.reopen();
    let store = bench.store();
    let receipt = store.lookup(TxnId(1)).wait().unwrap().expect("it was committed");
    assert_eq!(receipt.balances[&(Key(1), GOLD)], 10);
    assert_eq!(store.lookup(TxnId(2)).wait(), Ok(None), "it was refused");
}

fn malformed_transactions_are_refused(bench: &mut Bench) {
    let store = bench.store();
    two_nodes(store);
    let claim = taken(store, 1, A);
    let claims = |n| (0..n).map(|n| Claim { key: Key(100 + n), ..claim }).collect();
    let big = LedgerOp::Change { item: ItemId(1), holder: Key(1), data: vec![0; 4_097] };
    let message = Message { topic: String::new(), body: vec![0; (64 << 10) + 1] };
    let small = Message { topic: String::new(), body: Vec::new() };
    let refused = [
        Transaction { claims: claims(17), ..txn(1) },
        Transaction { ops: vec![mint(1, 1); 65], ..txn(1) },
        Transaction { messages: vec![small; 17], ..txn(1) },
        Transaction { messages: vec![message], ..txn(1) },
        Transaction { note: "x".repeat(257), ..txn(1) },
        txn(1).with(big),
        txn(1).with(mint(1, 0)),
        txn(1).with(pay(1, 1, 0)),
        Transaction { claims: vec![claim; 2], ..txn(1) },
        Transaction { writes: vec![save(claim, 0, "x")], claims: vec![claim], ..txn(1) },
    ];
    for txn in refused {
        let refused = store.commit(txn).wait();
        let refused = matches!(refused, Err(Error::TooLarge { .. } | Error::Malformed(_)));
        assert!(refused);
    }
    let sixteen: Vec<_> = (1..=16).map(|key| ask(200 + key, A)).collect();
    let taken = store.activate_many(sixteen).wait().unwrap();
    let writes = taken.into_iter().map(|taken| save(taken.unwrap().claim, 0, "x")).collect();
    let receipt = store.commit(Transaction { writes, ..txn(1) }).wait().unwrap();
    assert_eq!(receipt.versions.len(), 16);
}

/// Without waiting for any answer, so that many are in one batch.
fn requests_see_what_was_asked_before_them(bench: &mut Bench) {
    let store = bench.store();
    let mut answers = Vec::new();
    for n in 1..=50 {
        let item =
            LedgerOp::Make { item: ItemId(n), kind: SWORD, holder: Key(1), data: Vec::new() };
        let mint = LedgerOp::Mint { holder: Key(1), currency: GOLD, amount: 1 };
        let mut txn = Transaction::new(TxnId(n), 1).with(item).with(mint);
        txn.messages.push(Message { topic: "made".to_owned(), body: vec![n as u8] });
        let done = store.commit(txn);
        let (holdings, told) = (store.holdings(Key(1)), book(store).outbox(0, 1_000));
        let (gone, left) = (book(store).outbox_ack(n as u64 - 1), book(store).outbox(0, 1_000));
        let audit = book(store).audit(0, 1_000);
        answers.push((n as usize, done, holdings, told, gone, left, audit));
    }
    for (n, done, holdings, told, gone, left, audit) in answers {
        assert_eq!(done.wait().unwrap().sequence, n as u64);
        let holdings = holdings.wait().unwrap();
        assert_eq!((holdings.items.len(), holdings.balances[&GOLD]), (n, n as u64));
        // Each round acknowledges what was told before the last message.
        assert_eq!(told.wait().unwrap().len(), n.min(2));
        assert_eq!(gone.wait().unwrap(), usize::from(n > 1));
        assert_eq!(left.wait().unwrap().len(), 1);
        assert_eq!(audit.wait().unwrap().len(), n);
    }
}

fn the_outbox_holds_what_was_committed(bench: &mut Bench) {
    let store = bench.store();
    for id in 1..=3 {
        let message = Message { topic: "mail".to_owned(), body: vec![id as u8] };
        let txn = Transaction { messages: vec![message.clone(), message], ..txn(id) };
        store.commit(txn).wait().unwrap();
    }
    bench.reopen();
    let store = bench.store();
    let all = book(store).outbox(0, 100).wait().unwrap();
    let seen: Vec<_> =
        all.iter().map(|out| (out.sequence, out.txn.0, out.message.body[0])).collect();
    assert_eq!(seen, [(1, 1, 1), (2, 1, 1), (3, 2, 2), (4, 2, 2), (5, 3, 3), (6, 3, 3)]);
    assert_eq!(book(store).outbox(4, 1).wait().unwrap(), all[4..5]);
    assert_eq!(book(store).outbox_ack(4).wait(), Ok(4));
    assert_eq!(book(store).outbox_ack(4).wait(), Ok(0));
    bench.reopen();
    let store = bench.store();
    assert_eq!(book(store).outbox(0, 100).wait().unwrap(), all[4..]);
    book(store).outbox_ack(u64::MAX).wait().unwrap();
    let message = Message { topic: "mail".to_owned(), body: vec![9] };
    store.commit(Transaction { messages: vec![message], ..txn(9) }).wait().unwrap();
    assert_eq!(
        book(store).outbox(0, 100).wait().unwrap()[0].sequence,
        7,
        "places are not used again"
    );
}

fn forgotten_transactions_stay_in_the_audit(bench: &mut Bench) {
    let store = bench.store();
    for id in 1..=4u64 {
        let txn = Transaction { at_ms: id * 10, ..txn(id.into()) };
        store.commit(txn.with(mint(1, id))).wait().unwrap();
    }
    assert_eq!(store.forget(10).wait(), Ok(0));
    assert_eq!(store.forget(30).wait(), Ok(2));
    assert_eq!(store.forget(30).wait(), Ok(0));
    bench.reopen();
    let store = bench.store();
    let known: Vec<_> =
        (1..=4).map(|id| store.lookup(TxnId(id)).wait().unwrap().is_some()).collect();
    assert_eq!(known, [false, false, true, true]);
    let audit = book(store).audit(0, 100).wait().unwrap();
    let seen: Vec<_> = audit.iter().map(|entry| (entry.sequence, entry.at_ms)).collect();
    assert_eq!(seen, [(1, 10), (2, 20), (3, 30), (4, 40)]);
    assert_eq!(audit[3].ops, [mint(1, 4)]);
}
