//! A simulated store server: the rules of a real shard over a journal on a disk that may fail.
//!
//! What waits is done as one batch, written as one record, synced, and only then answered, as
//! every store must. It ends at the first sync that fails, and believes only its disk afterwards.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use env::{Instant, Random};
use node::data::{Ask, BeatAsk, Told};
use store::{Error, Limits, Receipt, Save, Shard, Store, Transaction, TxnId, journal};

use crate::disk::{Disk, Sync};
use crate::wire::{BeatTold, Reply, Want};

/// What goes wrong at and on the way to the store. Chances are per thousand.
#[derive(Clone, Debug, Default)]
pub struct StoreFaults {
    /// A request never arrives.
    pub lose_request: u64,
    /// An answer never arrives.
    pub lose_answer: u64,
    /// A request arrives twice.
    pub duplicate: u64,
    /// A request or an answer is late, up to `delay_max`.
    pub delay: u64,
    /// The longest delay: longer than a node waits for an answer.
    pub delay_max: Duration,
    /// A sync takes up to `slow_max`.
    pub slow_sync: u64,
    /// The longest sync.
    pub slow_max: Duration,
    /// A sync fails, and the store's process ends with it.
    pub fail_sync: u64,
    /// For up to `lie_max` every sync says done and is not, per second: what they were for is gone if
    /// the power fails before the next that is true, and a power cut is ten times as likely.
    pub lie: u64,
    /// The longest time of lies.
    pub lie_max: Duration,
    /// The store's process is killed, per second.
    pub crash: u64,
    /// The power of the store's machine fails, per second.
    pub power_cut: u64,
    /// The store stands still up to `stall_max`, per second.
    pub stall: u64,
    /// The longest standstill.
    pub stall_max: Duration,
    /// The longest time that a store which has ended takes to be back.
    pub away_max: Duration,
}

impl StoreFaults {
    /// Nothing goes wrong.
    pub fn none() -> Self {
        StoreFaults::default()
    }

    /// Everything goes wrong now and then.
    pub fn all() -> Self {
        StoreFaults {
            lose_request: 10,
            lose_answer: 10,
            duplicate: 20,
            delay: 20,
            delay_max: Duration::from_secs(5),
            slow_sync: 10,
            slow_max: Duration::from_secs(2),
            fail_sync: 1,
            lie: 20,
            lie_max: Duration::from_secs(5),
            crash: 10,
            power_cut: 20,
            stall: 10,
            stall_max: Duration::from_secs(9),
            away_max: Duration::from_secs(12),
        }
    }

    /// A random choice of faults at random rates.
    pub fn swarm(random: &mut Random) -> Self {
        let all = StoreFaults::all();
        let mut some = |rate: u64| rate * [0, 0, 1, 2, 4][random.below(5) as usize] / 2;
        StoreFaults {
            lose_request: some(all.lose_request),
            lose_answer: some(all.lose_answer),
            duplicate: some(all.duplicate),
            delay: some(all.delay),
            slow_sync: some(all.slow_sync),
            fail_sync: some(2 * all.fail_sync),
            lie: some(all.lie),
            crash: some(all.crash),
            power_cut: some(all.power_cut),
            stall: some(all.stall),
            ..all
        }
    }
}

/// How often each fault of the store or of a node has struck.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct StoreCounts {
    pub requests_lost: u64,
    pub answers_lost: u64,
    pub duplicates: u64,
    pub delays: u64,
    pub slow_syncs: u64,
    pub failed_syncs: u64,
    pub lies: u64,
    pub crashes: u64,
    pub power_cuts: u64,
    pub stalls: u64,
    pub torn_tails: u64,
    pub damaged_tails: u64,
    pub records_lost: u64,
    pub unknown_outcomes: u64,
    pub node_crashes: u64,
    pub node_pauses: u64,
    pub store_cuts: u64,
    pub splits: u64,
    pub ways_cut: u64,
    pub coordinator_stalls: u64,
    pub late_views: u64,
    pub batches: u64,
}

impl StoreCounts {
    /// Names and numbers, in order.
    pub fn list(&self) -> [(&'static str, u64); 21] {
        [
            ("requests to the store lost", self.requests_lost),
            ("answers lost after the act", self.answers_lost),
            ("requests doubled", self.duplicates),
            ("requests and answers delayed", self.delays),
            ("slow syncs", self.slow_syncs),
            ("failed syncs", self.failed_syncs),
            ("syncs that lied", self.lies),
            ("stores killed", self.crashes),
            ("power cuts", self.power_cuts),
            ("stores stopped for a while", self.stalls),
            ("torn tails cut", self.torn_tails),
            ("... with whole records behind", self.damaged_tails),
            ("records lost to a lie", self.records_lost),
            ("outcomes unknown to the node", self.unknown_outcomes),
            ("nodes killed", self.node_crashes),
            ("nodes stopped for a while", self.node_pauses),
            ("nodes cut off from the store", self.store_cuts),
            ("nodes cut off from each other", self.splits),
            ("coordinator stalls", self.coordinator_stalls),
            ("views of the directory late", self.late_views),
            ("batches", self.batches),
        ]
    }

    /// Adds the counts of another run.
    pub fn add(&mut self, other: &StoreCounts) {
        self.requests_lost += other.requests_lost;
        self.answers_lost += other.answers_lost;
        self.duplicates += other.duplicates;
        self.delays += other.delays;
        self.slow_syncs += other.slow_syncs;
        self.failed_syncs += other.failed_syncs;
        self.lies += other.lies;
        self.crashes += other.crashes;
        self.power_cuts += other.power_cuts;
        self.stalls += other.stalls;
        self.torn_tails += other.torn_tails;
        self.damaged_tails += other.damaged_tails;
        self.records_lost += other.records_lost;
        self.unknown_outcomes += other.unknown_outcomes;
        self.node_crashes += other.node_crashes;
        self.node_pauses += other.node_pauses;
        self.store_cuts += other.store_cuts;
        self.splits += other.splits;
        self.ways_cut += other.ways_cut;
        self.coordinator_stalls += other.coordinator_stalls;
        self.late_views += other.late_views;
        self.batches += other.batches;
    }
}

/// A safety of the simulated store switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreMutant {
    /// Answers are given before what they say is synced.
    AnswersFirst,
    /// What is read after a crash is believed without its checksum.
    TailBelieved,
}

/// What the store did, for whoever checks it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Fact {
    /// An entity was given to an owner.
    Activated(store::Claim),
    /// An entity was given back.
    Released(store::Claim),
    /// Documents were written, by themselves or in a transaction.
    Wrote(Save),
    /// A transaction was done.
    Committed(TxnId),
    /// A node was declared dead by another.
    Died(store::Incarnation),
    /// The store is back. What was answered and is not there any more, if its disk had lied.
    Restarted {
        /// Whether anything that was answered is gone.
        lost: bool,
        /// Transactions among it.
        transactions: Vec<TxnId>,
        /// What it begins with: a copy.
        store: Store,
    },
    /// It could not be read again, though its disk had told the truth.
    Unreadable(String),
}

/// What becomes of a copy of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It waits for its turn.
    Waits,
    /// Nobody listened, to this copy or another.
    Refused,
    /// Nobody listens to this copy; another was taken before.
    Unknown,
}

/// What the vault asks of whoever moves its time.
pub(crate) enum Next {
    /// Call `synced` with this life then.
    Sync(u64, Duration),
    /// Send these answers.
    Answer(Vec<(u64, Reply)>),
    /// It has ended: call `start` after that time.
    Ended(Duration),
}

#[derive(Debug)]
pub(crate) struct Vault {
    limits: Limits,
    mutant: Option<StoreMutant>,
    pub faults: StoreFaults,
    pub counts: StoreCounts,
    random: Random,
    disk: Disk,
    /// Rises with each start.
    life: u64,
    up: Option<Up>,
    pub stalled_until: Instant,
    /// Until when syncs are not true.
    pub lies_until: Instant,
    pub facts: Vec<Fact>,
    /// The transactions of each record.
    done: Vec<(u64, TxnId)>,
    /// Requests that were refused, by the store or because nobody listened.
    refused: BTreeSet<u64>,
    /// Requests of which a copy was taken.
    taken: BTreeSet<u64>,
}

#[derive(Debug)]
struct Up {
    /// In memory.
    store: Store,
    records: u64,
    waiting: Vec<(u64, Want)>,
    /// Answers of the batch that is being synced.
    flight: Option<Vec<(u64, Reply)>>,
}

impl Vault {
    pub fn new(random: Random, limits: Limits, mutant: Option<StoreMutant>) -> Self {
        let mut vault = Vault {
            limits,
            mutant,
            faults: StoreFaults::none(),
            counts: StoreCounts::default(),
            random,
            disk: Disk::default(),
            life: 0,
            up: None,
            stalled_until: Instant::ZERO,
            lies_until: Instant::ZERO,
            facts: Vec::new(),
            done: Vec::new(),
            refused: BTreeSet::new(),
            taken: BTreeSet::new(),
        };
        vault.start();
        vault.facts.clear();
        vault
    }

    pub fn is_up(&self) -> bool {
        self.up.is_some()
    }

    /// Whether the store of that life is still there.
    pub fn is_life(&self, life: u64) -> bool {
        self.life == life && self.up.is_some()
    }

    /// What it holds now, done but perhaps not durable. What is durable, if it is away.
    pub fn look(&self) -> Store {
        match &self.up {
            Some(up) => Store::of_shard(shard(&up.store, |shard| shard.clone())),
            None => {
                let mut shard = Shard::recorded(self.limits.clone());
                let read = journal::read(self.disk.bytes(), |record| {
                    drop(shard.apply_record(record));
                });
                debug_assert!(read.is_ok() || self.disk.has_lied(), "{read:?}");
                Store::of_shard(shard)
            }
        }
    }

    /// Takes a request, or a second copy of it.
    pub fn take(&mut self, id: u64, want: Want) -> Taken {
        match &mut self.up {
            Some(up) => {
                self.taken.insert(id);
                up.waiting.push((id, want));
                Taken::Waits
            }
            None if self.taken.contains(&id) => Taken::Unknown,
            // Whoever is told that nobody listened is told that it is not done: no other copy is.
            None => {
                self.refused.insert(id);
                Taken::Refused
            }
        }
    }

    /// Begins with what waits, unless a batch is under way.
    pub fn work(&mut self, now: Instant) -> Option<Next> {
        if self.stalled_until > now {
            return None;
        }
        let Vault { up, facts, done, refused, .. } = self;
        let up = up.as_mut().filter(|up| up.flight.is_none() && !up.waiting.is_empty())?;
        let mut answers = Vec::new();
        for (id, want) in std::mem::take(&mut up.waiting) {
            // Drivers number their batches on the server: of a request that was answered, no second
            // copy is tried. One of a request that was done is done no more by its own id.
            if refused.contains(&id) {
                continue;
            }
            let reply = run(&up.store, want, facts);
            match &reply {
                Reply::Told(Told::Committed(_, Ok(receipt))) => {
                    done.push((up.records, receipt.id));
                }
                Reply::Told(Told::Committed(_, Err(_))) => drop(refused.insert(id)),
                _ => {}
            }
            answers.push((id, reply));
        }
        let record = shard(&up.store, Shard::take_record);
        if record.is_empty() {
            return Some(Next::Answer(answers));
        }
        self.counts.batches += 1;
        let mut bytes = Vec::with_capacity(record.len() + journal::RECORD_OVERHEAD);
        journal::append(&mut bytes, up.records, &record);
        up.records += 1;
        self.disk.append(&bytes);
        up.flight = Some(answers);
        let mut takes = Duration::from_micros(500 + self.random.below(3_000));
        if self.strikes(self.faults.slow_sync) {
            self.counts.slow_syncs += 1;
            takes += self.up_to(self.faults.slow_max);
        }
        Some(Next::Sync(self.life, takes))
    }

    /// Gives what may be told before the sync, which is nothing unless that safety is off.
    pub fn told_early(&mut self) -> Vec<(u64, Reply)> {
        let early = self.mutant == Some(StoreMutant::AnswersFirst);
        let flight = self.up.as_mut().and_then(|up| up.flight.as_mut());
        flight.filter(|_| early).map(std::mem::take).unwrap_or_default()
    }

    /// The sync has ended.
    pub fn synced(&mut self, now: Instant) -> Next {
        if self.strikes(self.faults.fail_sync) {
            self.counts.failed_syncs += 1;
            self.disk.sync(Sync::Failed);
            return self.crash(false);
        }
        let lies = self.lies_until > now;
        self.counts.lies += u64::from(lies);
        self.disk.sync(if lies { Sync::Lied } else { Sync::Done });
        let up = self.up.as_mut().expect("the caller asked is_life");
        Next::Answer(up.flight.take().unwrap_or_default())
    }

    /// The process ends, or the whole machine.
    pub fn crash(&mut self, power: bool) -> Next {
        self.up = None;
        if power {
            self.counts.power_cuts += 1;
            self.disk.power_cut(&mut self.random);
        } else {
            self.counts.crashes += 1;
            self.disk.crash(&mut self.random);
        }
        let away = self.faults.away_max;
        Next::Ended(Duration::from_millis(50) + self.up_to(away))
    }

    /// Reads the disk and goes on from there.
    pub fn start(&mut self) {
        self.life += 1;
        self.stalled_until = Instant::ZERO;
        let mut shard = Shard::recorded(self.limits.clone());
        let (claimed, has_lied) = (self.disk.claimed(), self.disk.has_lied());
        let (mut unreadable, mut broken) = (None, None);
        let mut apply = |record: &[u8]| {
            if let Err(error) = shard.apply_record(record) {
                unreadable = Some(error.to_string());
            }
        };
        let records_of = |tail: journal::Tail| (tail.records, tail.bytes);
        let (mut records, length) = if self.mutant == Some(StoreMutant::TailBelieved) {
            records_of(journal::read_unchecked(self.disk.bytes(), &mut apply))
        } else {
            match journal::read(self.disk.bytes(), &mut apply) {
                Ok(tail) => records_of(tail),
                Err(damaged) if has_lied => {
                    // Whoever runs it restores what is whole.
                    self.counts.damaged_tails += 1;
                    let whole = &self.disk.bytes()[..damaged.at];
                    journal::read(whole, &mut apply).map_or((0, 0), records_of)
                }
                Err(damaged) => {
                    broken = Some(damaged.to_string());
                    (0, 0)
                }
            }
        };
        let unreadable = unreadable.or(broken);
        self.facts.extend(unreadable.map(Fact::Unreadable));
        self.counts.torn_tails += u64::from(length < self.disk.bytes().len());
        let lost = length < claimed;
        self.disk.cut(length);
        let gone = self.done.iter().filter(|(record, _)| *record >= records);
        let transactions = gone.map(|(_, id)| *id).collect();
        self.done.retain(|(record, _)| *record < records);
        if shard.is_empty() {
            shard.found();
        } else if lost || self.strikes(250) {
            // What nodes know of it may be newer than it is: a failover.
            let known = shard.generation();
            drop(known.and_then(|known| shard.raise_generation(known)));
        }
        self.counts.records_lost += u64::from(lost);
        let record = shard.take_record();
        if !record.is_empty() {
            let mut bytes = Vec::new();
            journal::append(&mut bytes, records, &record);
            records += 1;
            self.disk.append(&bytes);
        }
        // What was never answered may be there: it is served only once it is durable.
        self.disk.sync(Sync::Done);
        let store = Store::of_shard(shard);
        self.up = Some(Up { store, records, waiting: Vec::new(), flight: None });
        let store = self.look();
        self.facts.push(Fact::Restarted { lost, transactions, store });
    }

    /// A supervisor saw a node's process exit.
    pub fn bury(&mut self, node: store::Incarnation) {
        let Some(up) = &mut self.up else { return };
        shard(&up.store, |shard| {
            let nodes = shard.nodes().unwrap_or_default();
            if let Some(known) = nodes.into_iter().find(|known| known.incarnation == node) {
                drop(shard.mark_dead(node, known.beat));
            }
        });
    }

    /// Does a transaction beside the cluster, as a tool would, without delay or fault.
    pub fn commit(&mut self, txn: &Transaction) -> Result<Receipt, Error> {
        let Some(up) = &mut self.up else {
            return Err(Error::Unavailable("it is down".to_owned()));
        };
        shard(&up.store, |shard| shard.commit(txn))
    }

    /// Whether a fault of that chance per thousand strikes.
    pub fn strikes(&mut self, rate: u64) -> bool {
        rate > 0 && self.random.chance(rate, 1000)
    }

    pub fn up_to(&mut self, most: Duration) -> Duration {
        Duration::from_micros(self.random.below(most.as_micros() as u64 + 1))
    }
}

fn shard<R>(store: &Store, act: impl FnOnce(&mut Shard) -> R) -> R {
    store.with_shard(act).expect("it is in memory")
}

/// Does one request, as the rules have it.
fn run(store: &Store, want: Want, facts: &mut Vec<Fact>) -> Reply {
    let ask = match want {
        Want::Ask(ask) => ask,
        Want::Beat(ask, me) => {
            return Reply::Beat(shard(store, |shard| match ask {
                BeatAsk::Nodes => BeatTold::Nodes(shard.nodes()),
                BeatAsk::MarkDead(who, beat) => {
                    let result = shard.mark_dead(who, beat);
                    facts.extend(result.is_ok().then_some(Fact::Died(who)));
                    BeatTold::Marked(who, result)
                }
                _ => BeatTold::Beat(shard.beat(me)),
            }));
        }
    };
    let before = match &ask {
        Ask::Commit(_, txn) => shard(store, |shard| shard.lookup(txn.id)).ok().flatten(),
        _ => None,
    };
    let told = Arc::new(Mutex::new(None));
    let cell = Arc::clone(&told);
    ask.clone().submit(store, move |answer| {
        *cell.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
    });
    let told = told.lock().unwrap_or_else(PoisonError::into_inner).take();
    let told = told.expect("a store in memory answers at once");
    note(ask, &told, before.is_none(), facts);
    Reply::Told(told)
}

/// Notes what a request has done.
fn note(ask: Ask, told: &Told, is_new: bool, facts: &mut Vec<Fact>) {
    match (ask, told) {
        (_, Told::Activated(each)) => {
            let taken = each.iter().filter_map(|(_, result)| result.as_ref().ok());
            facts.extend(taken.map(|taken| Fact::Activated(taken.claim)));
        }
        (Ask::Save(_, save), Told::Saved(_, _, Ok(_))) => facts.push(Fact::Wrote(save)),
        (Ask::Release(_, claim, _), Told::Released(_, _, Ok(()))) => {
            facts.push(Fact::Released(claim));
        }
        (Ask::Commit(_, txn), Told::Committed(_, Ok(_))) if is_new => {
            facts.push(Fact::Committed(txn.id));
            facts.extend(txn.writes.into_iter().map(Fact::Wrote));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat() -> Want {
        Want::Beat(BeatAsk::Beat, store::Incarnation(7))
    }

    /// Seed 2734 of the data suite: a deal was told not to be done, since the store was away, and was
    /// done by a second copy of its request that came when it was back.
    #[test]
    fn a_request_that_nobody_took_is_not_done_by_a_later_copy() {
        let mut vault = Vault::new(Random::from_seed(1), Limits::default(), None);
        drop(vault.crash(false));
        assert_eq!(vault.take(1, beat()), Taken::Refused);
        vault.start();
        assert_eq!(vault.take(1, beat()), Taken::Waits);
        let Some(Next::Answer(answers)) = vault.work(Instant::ZERO) else { panic!("it works") };
        assert!(answers.is_empty(), "{answers:?}");
    }

    #[test]
    fn a_request_that_was_taken_is_never_said_to_be_refused() {
        let mut vault = Vault::new(Random::from_seed(1), Limits::default(), None);
        assert_eq!(vault.take(1, beat()), Taken::Waits);
        drop(vault.crash(false));
        assert_eq!(vault.take(1, beat()), Taken::Unknown);
    }
}
