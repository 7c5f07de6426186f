//! Sagas over shards and stores in memory, whose drivers die at every step, hear nothing, or are heard
//! late. Whatever happens, each saga is done or undone as a whole, and nothing is made or lost.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use env::{Instant, Random};

use super::ids::{PLACE_KIND, saga_record};
use super::*;
use crate::error::Error;
use crate::ledger::{Currency, Item, ItemId, ItemKind, LedgerOp, Transaction, TxnId};
use crate::options::Limits;
use crate::record::RecordId;
use crate::store::Store;
use crate::types::Key;

const GOLD: Currency = Currency(1);
const SWORD: ItemKind = ItemKind(4);
const ID: SagaId = SagaId(0xabc);
/// More than any saga here asks for.
const ASKS_MAX: usize = 400;

struct World {
    /// Whether the default store is a set of shards. Else the second player is in a store of its own,
    /// which takes less time to make.
    sharded: bool,
    stores: BTreeMap<String, Store>,
    now: Instant,
    amends: Arc<Amends>,
    options: SagaOptions,
    seed: u64,
    /// Commits that are still under way from a driver that is dead.
    late: Vec<SagaAsk>,
    /// A shard of the default store that cannot be reached.
    away: Option<usize>,
    /// Whether all is added up after each request, which takes its time.
    watched: bool,
    faults: Vec<String>,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Served,
    /// The driver dies before it is served; it may be served late.
    DiesBefore,
    /// The driver dies before it hears the answer.
    DiesAfter,
    /// It was served, and the driver is told that nobody knows.
    Unknown,
    /// It was not served.
    Away,
}

#[derive(Debug, PartialEq, Eq)]
enum Fall {
    Ended(Result<SagaEnd, SagaError>),
    Died,
    Endless,
}

impl World {
    fn new(sharded: bool, mutant: Option<SagaMutant>) -> Self {
        let shard = |name: &str| (name.to_owned(), Store::memory(Limits::default()));
        let shards = [shard("a"), shard("b"), shard("c")];
        let mut stores: BTreeMap<_, _> = [shard("far")].into();
        if sharded {
            let set = Store::sharded(shards.into()).expect("they are new");
            stores.insert(String::new(), set);
        } else {
            stores.extend([shard(""), shard("east")]);
        }
        let mut amends = Amends::new();
        amends.add("join", |body, who| {
            let mut members = body.unwrap_or_default().to_vec();
            if members.len() >= 2 {
                return Err("the guild is full".to_owned());
            }
            members.extend(who);
            Ok(Some(members))
        });
        amends.add("leave", |body, who| {
            let mut members = body.unwrap_or_default().to_vec();
            match members.iter().position(|member| who.contains(member)) {
                Some(at) => drop(members.remove(at)),
                None => return Err("no such member".to_owned()),
            }
            Ok(Some(members))
        });
        World {
            sharded,
            stores,
            now: Instant::ZERO,
            amends: Arc::new(amends),
            options: SagaOptions { mutant, ..SagaOptions::default() },
            seed: 0,
            late: Vec::new(),
            away: None,
            watched: false,
            faults: Vec::new(),
        }
    }

    /// Where the second player is.
    fn east(&self) -> &'static str {
        if self.sharded { "" } else { "east" }
    }

    fn store(&self) -> &Store {
        &self.stores[""]
    }

    fn give(&self, store: &str, ops: Vec<LedgerOp>) {
        for (n, op) in ops.into_iter().enumerate() {
            let holder = op.holders().next().map_or(0, |key| key.0);
            let id = TxnId(holder << 8 | n as u128);
            let store = &self.stores[store];
            let generation = store.generation().wait().unwrap();
            store.commit(Transaction::new(id, generation).with(op)).wait().unwrap();
        }
    }

    fn gold(&self, store: &str, key: Key) -> u64 {
        let held = self.stores[store].holdings(key).wait().unwrap();
        held.balances.get(&GOLD).copied().unwrap_or(0)
    }

    fn items(&self, store: &str, key: Key) -> Vec<u128> {
        let held = self.stores[store].holdings(key).wait().unwrap();
        held.items.keys().map(|item| item.0).collect()
    }

    fn guild(&self) -> Vec<u8> {
        let found = self.store().records(vec![guild()]).wait().unwrap();
        found.records[0].body.clone().unwrap_or_default()
    }

    fn begin(&mut self, plan: &SagaPlan) -> SagaRun {
        let stores = &self.stores;
        plan.check(|name| stores.contains_key(name), &self.amends).expect("it is a good plan");
        self.seed += 1;
        let random = Random::from_seed(self.seed);
        let (amends, options) = (Arc::clone(&self.amends), self.options.clone());
        SagaRun::begin(ID, plan.clone(), amends, options, random, self.now)
    }

    fn shard_of(&self, ask: &SagaAsk) -> Option<usize> {
        let SagaWant::Commit(txn) = &ask.want else { return None };
        let slot = *txn.slots().first()?;
        ask.store.is_empty().then(|| self.store().shard_of_slot(slot))
    }

    fn serve(&self, ask: SagaAsk) -> SagaTold {
        let store = &self.stores[&ask.store];
        if self.away.is_some() && self.shard_of(&ask) == self.away {
            return SagaTold::Committed(Err(Error::Unavailable("away".to_owned())));
        }
        match ask.want {
            SagaWant::Read(ids) => SagaTold::Read(store.records(ids).wait()),
            SagaWant::Write(generation, writes) => {
                SagaTold::Written(store.write_records(generation, writes).wait().map(drop))
            }
            SagaWant::Commit(txn) => SagaTold::Committed(store.commit(*txn).wait()),
        }
    }

    /// Drives it until it is over or its driver dies; `fate` is asked for each request by its number.
    fn drive(
        &mut self,
        run: &mut SagaRun,
        mut fate: impl FnMut(usize, &mut World) -> Fate,
    ) -> Fall {
        let mut end = None;
        for number in 0..ASKS_MAX {
            while let Some(at) = run.poll_timeout() {
                self.now = self.now.max(at);
                run.handle_timeout(self.now, 1_000 + self.now.as_millis());
            }
            end = run.poll_end().or(end);
            let Some(ask) = run.poll_ask() else { break };
            let told = match fate(number, self) {
                Fate::Served => self.serve(ask),
                Fate::DiesBefore => {
                    if let SagaWant::Commit(_) = ask.want {
                        self.late.push(ask);
                    }
                    return Fall::Died;
                }
                Fate::DiesAfter => {
                    self.serve(ask);
                    return Fall::Died;
                }
                Fate::Unknown => match self.serve(ask) {
                    SagaTold::Read(_) => SagaTold::Read(Err(unknown())),
                    SagaTold::Written(_) => SagaTold::Written(Err(unknown())),
                    SagaTold::Committed(_) => SagaTold::Committed(Err(unknown())),
                },
                Fate::Away => {
                    let away = || Error::Unavailable("away".to_owned());
                    match ask.want {
                        SagaWant::Read(_) => SagaTold::Read(Err(away())),
                        SagaWant::Write(..) => SagaTold::Written(Err(away())),
                        SagaWant::Commit(_) => SagaTold::Committed(Err(away())),
                    }
                }
            };
            if self.watched {
                self.audit();
            }
            run.handle_told(self.now, told);
        }
        end = run.poll_end().or(end);
        match end.filter(|_| run.is_over()) {
            Some(end) => Fall::Ended(end),
            None => Fall::Endless,
        }
    }

    /// Whoever looks after sagas goes on with what it finds. `late_at`: before which request what is
    /// late arrives.
    fn go_on(&mut self, late_at: usize) -> Option<Result<SagaEnd, SagaError>> {
        let mut watch = SagaWatch::new(self.options.clone(), self.now);
        let mut end = None;
        for _ in 0..8 {
            let Some(at) = watch.poll_timeout() else { panic!("it looks for ever") };
            self.now = self.now.max(at);
            assert!(watch.handle_timeout(self.now));
            let mut after = None;
            loop {
                let page = self.store().scan_records(PLACE_KIND, after, SagaWatch::PAGE).wait();
                after = watch.handle_page(&page.unwrap());
                if after.is_none() {
                    break;
                }
            }
            for (id, place) in watch.handle_end(self.now, |_| false) {
                self.seed += 1;
                let random = Random::from_seed(self.seed);
                let (amends, options) = (Arc::clone(&self.amends), self.options.clone());
                let mut run = SagaRun::resume(id, place, amends, options, random, self.now);
                let fall = self.drive(&mut run, |number, world| {
                    if number == late_at {
                        world.arrive();
                    }
                    Fate::Served
                });
                match fall {
                    Fall::Ended(ended) => end = Some(ended),
                    Fall::Endless => self.faults.push("it does not end".to_owned()),
                    Fall::Died => unreachable!("nothing kills it"),
                }
            }
        }
        let left = self.store().scan_records(PLACE_KIND, None, 10).wait().unwrap();
        if !left.is_empty() {
            self.faults.push("a place was not given back".to_owned());
        }
        self.arrive();
        end
    }

    fn arrive(&mut self) {
        for ask in std::mem::take(&mut self.late) {
            self.serve(ask);
        }
    }

    /// What there is, with what is on its way, is what there was.
    fn audit(&mut self) {
        let (mut gold, mut swords) = (0, 0);
        for (name, store) in &self.stores {
            let verdict = store.verify().wait().unwrap();
            self.faults.extend(verdict.faults.iter().map(|fault| format!("{name:?}: {fault}")));
            gold += verdict.currencies.get(&GOLD).map_or(0, |n| *n as i128);
            gold += verdict.transit.get(&GOLD).copied().unwrap_or(0);
            swords += verdict.items.get(&SWORD).map_or(0, |n| *n as i128);
            swords += verdict.items_transit.get(&SWORD).copied().unwrap_or(0);
        }
        if (gold, swords) != (150, 1) {
            self.faults.push(format!("there are {gold} gold and {swords} swords"));
        }
    }
}

fn unknown() -> Error {
    Error::Unknown("the answer was lost".to_owned())
}

fn guild() -> RecordId {
    RecordId { kind: 77, key: b"owls".to_vec() }
}

/// Keys in shards of their own.
fn keys() -> [Key; 3] {
    static KEYS: std::sync::OnceLock<[Key; 3]> = std::sync::OnceLock::new();
    *KEYS.get_or_init(|| {
        let set = World::new(true, None);
        let of = |shard| (1..).map(Key).find(|key| set.store().shard_of(*key) == shard);
        [0, 1, 2].map(|shard| of(shard).expect("each shard has some"))
    })
}

fn sword() -> (ItemId, Item) {
    let data = b"sharp".to_vec();
    let item = Item { kind: SWORD, holder: None, last_txn: TxnId(0), data };
    (ItemId(7), item)
}

/// One game: who has what, what is asked for, and how it looks undone and done.
struct Case {
    name: &'static str,
    plan: SagaPlan,
    /// Gold of three players, of the far bank, and who has the sword; guild members.
    before: Stand,
    after: Option<Stand>,
}

type Stand = ([u64; 3], u64, usize, Vec<u8>);

fn stand(world: &World) -> Stand {
    let [one, two, three] = keys();
    let places = [("", one), (world.east(), two), ("", three)];
    let gold = places.map(|(store, key)| world.gold(store, key));
    let has = places.iter().position(|(store, key)| !world.items(store, *key).is_empty());
    (gold, world.gold("far", BANK), has.unwrap_or(9), world.guild())
}

const BANK: Key = Key(5);

fn world(sharded: bool, mutant: Option<SagaMutant>, members: &[u8]) -> World {
    let world = World::new(sharded, mutant);
    let [one, two, _] = keys();
    let mint = |holder, amount| LedgerOp::Mint { holder, currency: GOLD, amount };
    let (item, Item { kind, data, .. }) = sword();
    world.give("", vec![mint(one, 50), LedgerOp::Make { item, kind, holder: one, data }]);
    world.give(world.east(), vec![mint(two, 90)]);
    world.give("far", vec![mint(BANK, 10)]);
    for member in members {
        let found = world.store().records(vec![guild()]).wait().unwrap();
        let mut body = found.records[0].body.clone().unwrap_or_default();
        body.push(*member);
        let change = crate::Change::Put(body);
        let version = found.records[0].version;
        let write = crate::RecordWrite { id: guild(), version, change, fence: None, unlock: false };
        world.store().write_records(found.generation, vec![write]).wait().unwrap();
    }
    world
}

fn join_plan(player: Key, east: &str) -> SagaPlan {
    let change = |by: &str| {
        SagaWork::new().amend(Amend { record: guild(), by: by.to_owned(), with: vec![3] })
    };
    let pay = SagaStep::new("pay", SagaWork::new().send(player, GOLD, 30));
    let join = SagaStep::new("join", change("join")).undone_by(change("leave"));
    let bank = SagaWork::new().receive(BANK, GOLD, 30).tell("guild", b"joined".to_vec());
    SagaPlan::new("guild join")
        .step(pay.at(east).undone_by(SagaWork::new().receive(player, GOLD, 30)))
        .step(join)
        .step(SagaStep::new("bank", bank).at("far"))
}

/// The last step is refused before it decides, so that a change of a record is undone.
fn broken_join(player: Key, east: &str) -> SagaPlan {
    let mut plan = join_plan(player, east);
    let burn = LedgerOp::Burn { holder: BANK, currency: GOLD, amount: 1_000 };
    plan.steps[2].act.ops.push(burn);
    plan
}

fn cases(sharded: bool) -> Vec<Case> {
    let east = if sharded { "" } else { "east" };
    let [one, two, _] = keys();
    let (id, item) = sword();
    let trade = |price| {
        let seller = Offer::new(one).item(id, item.clone());
        SagaPlan::trade("trade", seller, Offer::new(two).at(east).amount(GOLD, price))
    };
    let before = ([50, 90, 0], 10, 0, vec![]);
    let case = |name, plan, after| Case { name, plan, before: before.clone(), after };
    vec![
        case("trade", trade(80), Some(([130, 10, 0], 10, 1, vec![]))),
        case("trade without money", trade(91), None),
        case("guild", join_plan(two, east), Some(([50, 60, 0], 40, 0, vec![3]))),
        case("guild refused late", broken_join(two, east), None),
        Case {
            name: "guild full",
            plan: join_plan(two, east),
            before: ([50, 90, 0], 10, 0, vec![1, 2]),
            after: None,
        },
    ]
}

/// Runs a case with its driver's fate at one request, and gives what is wrong.
fn run(
    case: &Case,
    mutant: Option<SagaMutant>,
    at: usize,
    fate: Fate,
    late_at: usize,
) -> Vec<String> {
    let mut world = world(false, mutant, &case.before.3);
    assert_eq!(stand(&world), case.before, "{}", case.name);
    let mut first = world.begin(&case.plan);
    let fall = world.drive(&mut first, |n, _| if n == at { fate } else { Fate::Served });
    let mut end = match fall {
        Fall::Ended(end) => Some(end),
        Fall::Died | Fall::Endless => None,
    };
    end = world.go_on(late_at).or(end);
    // Asking again is the same saga, whatever became of it.
    let mut again = world.begin(&case.plan);
    let Fall::Ended(told) = world.drive(&mut again, |_, _| Fate::Served) else {
        world.faults.push("it does not end when it is asked for again".to_owned());
        return world.faults;
    };
    world.audit();
    if let Some(end) = end.filter(|end| *end != told && *end != Err(SagaError::Busy)) {
        world.faults.push(format!("it ended as {end:?}, then as {told:?}"));
    }
    let should = match (&told, &case.after) {
        (Ok(SagaEnd::Done), Some(after)) => after,
        (Ok(SagaEnd::Undone { .. }), None) => &case.before,
        other => {
            world.faults.push(format!("it ended as {other:?}"));
            return world.faults;
        }
    };
    let is = stand(&world);
    if is != *should {
        world.faults.push(format!("{is:?} should be {should:?} after {told:?}"));
    }
    world.faults
}

/// How many requests a case makes undisturbed.
fn length(sharded: bool, case: &Case) -> usize {
    let mut world = world(sharded, None, &case.before.3);
    world.watched = true;
    let mut run = world.begin(&case.plan);
    let mut count = 0;
    let fall = world.drive(&mut run, |n, _| {
        count = n + 1;
        Fate::Served
    });
    assert!(matches!(fall, Fall::Ended(Ok(_))), "{}: {fall:?}", case.name);
    assert_eq!(world.faults, Vec::<String>::new(), "{}", case.name);
    count
}

/// All faults of all cases, one for each request and fate.
fn all(mutant: Option<SagaMutant>) -> Vec<String> {
    let mut found = Vec::new();
    for case in cases(false) {
        let length = length(false, &case);
        for at in 0..length {
            for fate in [Fate::DiesBefore, Fate::DiesAfter, Fate::Unknown, Fate::Away] {
                let lates = if fate == Fate::DiesBefore { length + 4 } else { 1 };
                for late_at in 0..lates {
                    if mutant.is_some() && !found.is_empty() {
                        return found;
                    }
                    let faults = run(&case, mutant, at, fate, late_at);
                    let told =
                        |fault| format!("{} {fate:?} at {at}, {late_at}: {fault}", case.name);
                    found.extend(faults.into_iter().map(told));
                }
            }
        }
    }
    found
}

#[test]
fn f8_a_saga_whose_driver_dies_at_any_step_is_done_or_undone_once() {
    let faults = all(None);
    assert!(faults.is_empty(), "{} faults, first: {:?}", faults.len(), faults.first());
}

#[test]
fn f8_without_any_of_its_safeties_the_check_above_fails() {
    for mutant in [SagaMutant::UndoSkipped, SagaMutant::IdsOfTheDriver, SagaMutant::RefusedUnsealed]
    {
        let faults = all(Some(mutant));
        assert!(!faults.is_empty(), "nobody notices {mutant:?}");
    }
}

#[test]
fn f8_a_shard_that_is_away_in_the_middle_holds_a_saga_up_and_loses_nothing() {
    for case in cases(true) {
        for shard in 0..3 {
            for from in (shard..length(true, &case)).step_by(3) {
                let mut world = world(true, None, &case.before.3);
                let mut saga = world.begin(&case.plan);
                let fall = world.drive(&mut saga, |n, world| {
                    world.away = (from..from + 12).contains(&n).then_some(shard);
                    Fate::Served
                });
                let Fall::Ended(Ok(end)) = fall else { panic!("{}: {fall:?}", case.name) };
                let should = match end {
                    SagaEnd::Done => case.after.as_ref().expect("it cannot be done"),
                    SagaEnd::Undone { .. } => &case.before,
                };
                assert_eq!(end == SagaEnd::Done, case.after.is_some(), "{}", case.name);
                assert_eq!(stand(&world), *should, "{} without {shard}", case.name);
                assert_eq!(world.faults, Vec::<String>::new());
            }
        }
    }
}

#[test]
fn f8_two_drivers_of_one_saga_do_it_once() {
    for case in cases(false) {
        for seed in 0..40 {
            let mut world = world(false, None, &case.before.3);
            world.options.stale_after = Duration::from_millis(40);
            world.seed = 1_000 * (seed + 1);
            let mut runs = [world.begin(&case.plan), world.begin(&case.plan)];
            let mut random = Random::from_seed(seed);
            let mut ends = [None, None];
            for _ in 0..2_000 {
                let at = random.index(2);
                let run = &mut runs[at];
                world.now += Duration::from_millis(random.below(30));
                run.handle_timeout(world.now, 1_000);
                if let Some(ask) = run.poll_ask() {
                    let told = world.serve(ask);
                    run.handle_told(world.now, told);
                }
                ends[at] = run.poll_end().or(ends[at].take());
            }
            world.audit();
            assert_eq!(world.faults, Vec::<String>::new(), "{} {seed}", case.name);
            assert!(ends[0].is_some() && ends[0] == ends[1], "{} {seed}: {ends:?}", case.name);
            assert_eq!(ends[0] == Some(Ok(SagaEnd::Done)), case.after.is_some());
            let should = case.after.as_ref().unwrap_or(&case.before);
            assert_eq!(stand(&world), *should, "{} {seed}", case.name);
        }
    }
}

#[test]
fn f8_what_must_be_done_waits_in_transit_until_it_can_be() {
    let [one, two, _] = keys();
    let mut world = world(true, None, &[]);
    let limit = LedgerOp::Mint { holder: one, currency: GOLD, amount: u64::MAX - 100 };
    let spend = LedgerOp::Burn { holder: one, currency: GOLD, amount: u64::MAX - 100 };
    let (id, item) = sword();
    let plan =
        SagaPlan::trade("trade", Offer::new(one).item(id, item), Offer::new(two).amount(GOLD, 80));
    let store = world.store().clone();
    let change = |n, op: &LedgerOp| {
        let generation = store.generation().wait().unwrap();
        let txn = Transaction::new(TxnId(n), generation).with(op.clone());
        store.commit(txn).wait().unwrap();
    };
    change(900_001, &limit);
    let mut run = world.begin(&plan);
    let fall = world.drive(&mut run, |n, world| {
        if n == 40 {
            assert_eq!(store.verify().wait().unwrap().transit, BTreeMap::from([(GOLD, 80)]));
            world.faults.clear();
            change(900_002, &spend);
        }
        Fate::Served
    });
    assert_eq!(fall, Fall::Ended(Ok(SagaEnd::Done)));
    assert_eq!((world.gold("", one), world.gold("", two)), (130, 10));
}

#[test]
fn f8_a_key_stands_for_one_saga() {
    let [one, two, _] = keys();
    let mut world = world(true, None, &[]);
    let plan = |amount| {
        let offer = Offer::new(one).amount(GOLD, amount);
        SagaPlan::trade("gift", offer, Offer::new(two))
    };
    let mut run = world.begin(&plan(5));
    assert_eq!(world.drive(&mut run, |_, _| Fate::Served), Fall::Ended(Ok(SagaEnd::Done)));
    let mut other = world.begin(&plan(6));
    let fall = world.drive(&mut other, |_, _| Fate::Served);
    assert_eq!(fall, Fall::Ended(Err(SagaError::Reused(ID))));
    assert_eq!((world.gold("", one), world.gold("", two)), (45, 95));
}

#[test]
fn f8_a_saga_that_was_never_begun_gives_its_place_back() {
    let mut world = world(true, None, &[]);
    let [one, two, _] = keys();
    let plan = SagaPlan::trade("gift", Offer::new(one).amount(GOLD, 5), Offer::new(two));
    let mut run = world.begin(&plan);
    // It has its place, and dies before it says what it is.
    let fall = world.drive(&mut run, |n, _| if n == 3 { Fate::DiesBefore } else { Fate::Served });
    assert_eq!(fall, Fall::Died);
    let places = || world.store().scan_records(PLACE_KIND, None, 10).wait().unwrap().len();
    assert_eq!(places(), 1);
    assert_eq!(world.go_on(99), Some(Err(SagaError::Busy)));
    let found = world.store().records(vec![saga_record(ID)]).wait().unwrap();
    assert_eq!((found.records[0].version, found.records[0].body.clone()), (1, None));
    let mut again = world.begin(&plan);
    assert_eq!(world.drive(&mut again, |_, _| Fate::Served), Fall::Ended(Ok(SagaEnd::Done)));
}

/// What people are told of a saga before each of its requests, each stage once.
fn told(plan: &SagaPlan) -> Vec<String> {
    let mut world = world(false, None, &[]);
    let mut run = world.begin(plan);
    let mut all: Vec<String> = Vec::new();
    let mut note = |said: String| {
        if all.last() != Some(&said) {
            all.push(said);
        }
    };
    world.drive(&mut run, |_, world| {
        let reports = world.store().sagas().unwrap();
        assert_eq!(reports.first().cloned(), world.store().saga(ID).unwrap());
        let [report] = &reports[..] else {
            assert!(reports.is_empty());
            return Fate::Served;
        };
        note(match &report.stage {
            SagaStage::Forward(at) => format!("{} of {}, now {:?}", at.done, at.steps, at.step),
            SagaStage::Back { at, step, why } => {
                let place = format!("{} left of {}", at.done, at.steps);
                format!("{place}, now {:?} in {:?}, {step}: {why}", at.step, at.store)
            }
            SagaStage::Ended { end, .. } => format!("{end:?}"),
            SagaStage::Unreadable => "unreadable".to_owned(),
        });
        Fate::Served
    });
    assert_eq!(world.store().sagas().unwrap(), []);
    let ended = world.store().saga(ID).unwrap().map(|report| report.stage);
    assert!(matches!(ended, Some(SagaStage::Ended { .. })), "{ended:?}");
    all
}

#[test]
fn f8_people_are_told_how_far_each_saga_is() {
    let [_, two, _] = keys();
    let forward = |done, step: &str| format!("{done} of 3, now Some({step:?})");
    let forward = [forward(0, "pay"), forward(1, "join"), forward(2, "bank")];
    let east = World::new(false, None).east();
    let done = told(&join_plan(two, east));
    assert_eq!(done[..3], forward);
    assert_eq!(done[3..], ["Done"]);
    let undone = told(&broken_join(two, east));
    assert_eq!(undone[..3], forward);
    let why = format!("{BANK} has 40 of currency 1, 1000 are needed");
    let end = SagaEnd::Undone { step: "bank".to_owned(), why: why.clone() };
    let back = [
        format!("2 left of 3, now Some(\"join\") in \"\", bank: {why}"),
        format!("1 left of 3, now Some(\"pay\") in {east:?}, bank: {why}"),
        format!("{end:?}"),
    ];
    assert_eq!(undone[3..], back);
}

#[test]
fn f8_plans_that_cannot_be_are_refused() {
    let [one, two, _] = keys();
    let mut amends = Amends::new();
    amends.add("join", |_, _| Ok(None));
    let check = |plan: &SagaPlan| plan.check(|name| name == "far", &amends).unwrap_err();
    let send = |key| SagaWork::new().send(key, GOLD, 5);
    let receive = |key| SagaWork::new().receive(key, GOLD, 5);
    let gift = |take: SagaStep, give: SagaStep| SagaPlan::new("gift").step(take).step(give);
    let take = SagaStep::new("take", send(one)).undone_by(receive(one));
    let give = SagaStep::new("give", receive(two));
    let (name, text) = (str::to_owned, |error: SagaError| error.to_string());
    assert_eq!(check(&SagaPlan::new("nothing")), SagaError::Empty);
    let bare = SagaStep::new("take", send(one));
    let undoable = give.clone().undone_by(send(two));
    assert_eq!(check(&gift(bare, undoable)), SagaError::NoCompensation(name("take")));
    let lost = SagaError::NotConserved { step: name("give"), what: name("currency 1") };
    let less = SagaStep::new("give", SagaWork::new().receive(two, GOLD, 4));
    assert_eq!(check(&gift(take.clone(), less)), lost);
    let more = SagaStep::new("give", SagaWork::new().receive(two, GOLD, 6));
    assert_eq!(check(&gift(take.clone(), more)), lost);
    let half = SagaStep::new("take", send(one)).undone_by(SagaWork::new());
    let kept = SagaError::NotConserved { step: name("take"), what: name("currency 1") };
    assert_eq!(check(&gift(half, give.clone())), kept);
    let other = SagaError::UnknownStore { step: name("give"), store: name("fra") };
    assert_eq!(check(&gift(take.clone(), give.clone().at("fra"))), other);
    let across = SagaStep::new("give", receive(two).and(send(one)).and(receive(one)));
    assert_eq!(check(&gift(take.clone(), across)), SagaError::AcrossSlots(name("give")));
    let same = SagaStep::new("take", receive(two));
    assert_eq!(check(&gift(take.clone(), same)), SagaError::StepName(name("take")));
    let amend = Amend { record: guild(), by: name("jion"), with: Vec::new() };
    let unknown =
        gift(take.clone(), give.clone()).step(SagaStep::new("join", SagaWork::new().amend(amend)));
    let told = "step \"join\" changes a record by \"jion\", which is not registered";
    assert_eq!(text(check(&unknown)), told);
    let many = (0..33).fold(SagaPlan::new("many"), |plan, n| {
        plan.step(SagaStep::new(n.to_string(), SagaWork::new()))
    });
    assert!(matches!(check(&many), SagaError::TooLarge { size: 33, max: 32, .. }));
    assert_eq!(gift(take, give.at("far")).check(|name| name == "far", &amends), Ok(()));
}

#[test]
fn f8_a_damaged_record_of_a_saga_is_refused_and_never_panics() {
    let plan = join_plan(Key(3), "");
    let state = state::State {
        hash: state::hash_of(&plan),
        driver: 1,
        place: 2,
        tries: 0,
        began_ms: 3,
        phase: state::Phase::Back(1, plan, "join".to_owned(), "full".to_owned()),
    };
    let bytes = state.encode();
    assert_eq!(state::State::decode(&bytes), Some(state));
    for end in 0..bytes.len() {
        assert_eq!(state::State::decode(&bytes[..end]), None);
    }
    let mut random = Random::from_seed(1);
    for _ in 0..2_000 {
        let mut hit = bytes.clone();
        let at = random.index(hit.len());
        hit[at] ^= 1 << random.below(8);
        drop(state::State::decode(&hit));
    }
}
