//! What avatars and shops have done, under which owner, and what the store was told of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mainstay::env::Instant;
use mainstay::node::data::read_document;
use mainstay::proto::EntityId;
use mainstay::store::{Claim, Incarnation, Key, Save, Store, TxnId};
use testkit::Fact;

use super::game::{Kept, txn};
use crate::book::{Life, Shared};

/// A handle on what a run has noted: entities hold one, so does the script.
#[derive(Clone)]
pub struct Deeds(Arc<Mutex<Noted>>);

impl Deeds {
    pub fn new(book: &Shared) -> Self {
        let noted = Noted { book: book.clone(), ..Noted::default() };
        Deeds(Arc::new(Mutex::new(noted)))
    }

    pub fn open(&self) -> MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An entity under its present owner.
#[derive(Clone, Copy, Debug)]
struct Owned {
    epoch: u64,
    steps: u64,
}

/// What the store was told of an entity.
#[derive(Clone, Copy, Debug, Default)]
struct Stored {
    epoch: u64,
    incarnation: u64,
    steps: u64,
}

/// All that is checked of entities that are kept.
#[derive(Default)]
pub struct Noted {
    book: Shared,
    /// Nodes die or stand still in this run, and what they have in memory with them.
    pub nodes_die: bool,
    pub keys: BTreeMap<Key, EntityId>,
    owned: BTreeMap<EntityId, Owned>,
    /// The last steps of each entity under each epoch.
    under: BTreeMap<(EntityId, u64), u64>,
    /// When an entity came along whole, by the name of its life.
    left_at: BTreeMap<u64, Vec<Instant>>,
    /// When an entity was taken from the store, and not the first time: who had it has lost it, or given it back.
    taken_at: BTreeMap<EntityId, Vec<Instant>>,
    /// When each letter was sent, by sender, address and number.
    posted_at: BTreeMap<(u64, u64, u64), Instant>,
    /// The last letter of each sender to each life of an entity.
    letters: BTreeMap<(EntityId, u64, u64), u64>,
    /// All letters that came, by receiver, sender and number.
    arrived: BTreeSet<(EntityId, u64, u64)>,
    pub keeps_log: bool,
    /// What happened, for people.
    pub log: Vec<(Instant, String)>,
    sales: BTreeMap<(Life, u64), EntityId>,
    stored: BTreeMap<Key, Stored>,
    /// Deals that clients were told to be done, and of which account.
    promised: Vec<(u64, TxnId)>,
    denied: Vec<TxnId>,
    pub sent: u64,
    pub seen: Seen,
}

/// How often what a run must come through was seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    pub deeds: u64,
    pub owners: u64,
    pub arrivals: u64,
    pub letters: u64,
    pub unordered: u64,
    pub sales: u64,
    pub promised: u64,
    pub denied: u64,
    pub released: u64,
    pub forgotten: u64,
}

impl Noted {
    fn violation(&self, text: impl Into<String>) {
        self.book.open().violation(text);
    }

    // -- owners --

    /// An entity begins under an epoch. `carried`: the steps that it has come along with.
    pub fn began(
        &mut self,
        now: Instant,
        (id, life): (EntityId, u64),
        epoch: u64,
        steps: u64,
        carried: Option<u64>,
    ) {
        self.seen.owners += 1;
        self.note(now, || format!("{id} begins under {epoch}: {steps} steps, carried {carried:?}"));
        let before = self.owned.insert(id, Owned { epoch, steps });
        self.under.insert((id, epoch), steps);
        let Some(before) = before else { return };
        if epoch <= before.epoch {
            let last = before.epoch;
            self.violation(format!("owners: {id} begins under epoch {epoch} after {last}"));
        }
        if steps > before.steps {
            let last = before.steps;
            self.violation(format!("owners: {id} begins with {steps} steps, it had done {last}"));
        }
        self.seen.forgotten += u64::from(steps < before.steps);
        let Some(carried) = carried else {
            return self.taken_at.entry(id).or_default().push(now);
        };
        self.seen.arrivals += 1;
        self.left_at.entry(life).or_default().push(now);
        if carried != steps || steps != before.steps {
            let last = before.steps;
            self.violation(format!(
                "moves: {id} comes with {steps} stored and {carried} carried steps, it had {last}"
            ));
        }
    }

    /// An entity does something, its step number `steps`, under `epoch`.
    pub fn acted(&mut self, now: Instant, id: EntityId, epoch: u64, steps: u64) {
        self.seen.deeds += 1;
        let Some(owned) = self.owned.get_mut(&id) else {
            return self.violation(format!("owners: {id} acts that never began"));
        };
        let known = *owned;
        // It may have been taken back after a move that was given up: it goes on as it was.
        if epoch >= known.epoch {
            (owned.epoch, owned.steps) = (epoch, steps);
        }
        if epoch < known.epoch {
            let text = format!("owners: {id} acts at {now:?} under epoch {epoch}: {known:?}");
            self.violation(text);
        } else if steps != known.steps + 1 {
            self.violation(format!("steps: {id} takes step {steps} after {}", known.steps));
        }
        self.under.insert((id, epoch), steps);
    }

    /// An entity is at work under `epoch`: nobody has begun with it since.
    pub fn is_owner(&mut self, now: Instant, id: EntityId, epoch: u64) {
        let known = self.owned.get(&id).map_or(0, |owned| owned.epoch);
        if epoch < known {
            self.violation(format!("owners: {id} works at {now:?} under {epoch}, not {known}"));
        }
    }

    // -- what entities say to each other --

    /// A letter arrives at the entity with the address `at`: number `k` of its sender for it. `life` names the
    /// life of one that is in memory alone: of those there may be two for a while, on nodes that do not agree
    /// on who is there.
    pub fn mail(&mut self, now: Instant, (to, life, at): (EntityId, u64, u64), from: u64, k: u64) {
        self.seen.letters += 1;
        self.note(now, || format!("letter {k} of {from} comes to {to} in life {life}"));
        if !self.arrived.insert((to, from, k)) {
            return self.violation(format!("twice: letter {k} of {from} came to {to} again"));
        }
        let last = self.letters.entry((to, life, from)).or_default();
        let before = std::mem::replace(last, k.max(*last));
        if k > before {
            return;
        }
        if self.is_unordered(now, (from, to, at), (k, before)) {
            self.seen.unordered += 1;
        } else {
            self.violation(format!("order: letter {k} of {from} came to {to} after {before}"));
        }
    }

    /// Whether no order is promised between two letters, of which the first comes last and now: the sender has
    /// moved between them, and the way from where it was may be the slower; or the receiver was taken over
    /// since the first was sent, and who had it before sends on what still comes there.
    fn is_unordered(
        &self,
        now: Instant,
        (from, to, at): (u64, EntityId, u64),
        (first, second): (u64, u64),
    ) -> bool {
        let posted = |k| self.posted_at.get(&(from, at, k));
        let (Some(first), Some(second)) = (posted(first), posted(second)) else { return false };
        let mut moves = self.left_at.get(&from).into_iter().flatten();
        let mut takeovers = self.taken_at.get(&to).into_iter().flatten();
        moves.any(|at| (first..=second).contains(&at))
            || takeovers.any(|at| (first..=&now).contains(&at))
    }

    fn note(&mut self, now: Instant, line: impl FnOnce() -> String) {
        if self.keeps_log {
            self.log.push((now, line()));
        }
    }

    /// A letter is sent.
    pub fn posted(&mut self, now: Instant, from: u64, to: u64, k: u64) {
        self.sent += 1;
        self.posted_at.insert((from, to, k), now);
        self.note(now, || format!("{from} sends letter {k} to {to}"));
    }

    /// A shop sells for command `n` of a client.
    pub fn sold(&mut self, shop: EntityId, life: Life, n: u64) {
        self.seen.sales += 1;
        if let Some(before) = self.sales.insert((life, n), shop) {
            self.violation(format!("twice: {before} and {shop} sold for {n} of client {life}"));
        }
    }

    // -- deals --

    pub fn told(&mut self, account: u64, (life, n): (Life, u64), done: bool) {
        if done {
            self.seen.promised += 1;
            self.promised.push((account, txn(life, n)));
        } else {
            self.seen.denied += 1;
            self.denied.push(txn(life, n));
        }
    }

    // -- what the store does --

    pub fn learn(&mut self, fact: Fact) {
        match fact {
            Fact::Activated(claim) => {
                let stored = self.stored.entry(claim.key).or_default();
                let last = stored.epoch;
                (stored.epoch, stored.incarnation) = (claim.epoch, claim.incarnation.0);
                if claim.epoch <= last {
                    let (key, epoch) = (claim.key, claim.epoch);
                    self.violation(format!("epochs: {key} is given epoch {epoch} after {last}"));
                }
            }
            Fact::Released(claim) => self.released(claim),
            Fact::Wrote(save) => self.wrote(&save),
            Fact::Committed(_) | Fact::Died(_) => {}
            other => self.violation(format!("the store did {other:?}")),
        }
    }

    fn check_owner(&self, what: &str, claim: &Claim) {
        let owner = self.stored.get(&claim.key).copied().unwrap_or_default();
        if (claim.epoch, claim.incarnation) != (owner.epoch, Incarnation(owner.incarnation)) {
            self.violation(format!("owners: {claim:?} {what}, owner is {owner:?}"));
        }
    }

    /// What is given back is saved, all of it.
    fn released(&mut self, claim: Claim) {
        self.seen.released += 1;
        self.check_owner("gave back", &claim);
        let Some(&id) = self.keys.get(&claim.key) else { return };
        let stored = self.stored.get(&claim.key).copied().unwrap_or_default();
        let done = self.under.get(&(id, claim.epoch)).copied();
        if done.is_some_and(|done| done != stored.steps) {
            self.violation(format!("lost: {id} is given back with {stored:?}, not {done:?}"));
        }
    }

    fn wrote(&mut self, save: &Save) {
        self.check_owner("wrote", &save.claim);
        let Some(Some(bytes)) = save.patch.get("self") else { return };
        let mut kept = Kept::default();
        if let Err(error) = read_document(&mut kept, bytes) {
            return self.violation(format!("documents: {error}"));
        }
        let stored = self.stored.entry(save.claim.key).or_default();
        let before = std::mem::replace(&mut stored.steps, kept.steps);
        if kept.steps < before {
            let steps = kept.steps;
            self.violation(format!("versions: {steps} steps are written over {before}"));
        }
    }

    // -- the end --

    /// What is stored after all has come to rest.
    pub fn audit(&self, store: &Store) {
        match store.verify().wait() {
            Ok(verdict) => {
                if let Some(fault) = verdict.faults.first() {
                    self.violation(format!("ledger: {fault}"));
                }
            }
            Err(error) => return self.violation(format!("ledger: {error}")),
        }
        let (mut done, mut paid) = (BTreeMap::<TxnId, u32>::new(), BTreeMap::<Key, u64>::new());
        let mut after = 0;
        loop {
            let entries = store.audit(after, 1_000).wait().unwrap_or_default();
            let Some(last) = entries.last() else { break };
            after = last.sequence;
            for entry in entries.into_iter().filter(|entry| !entry.ops.is_empty()) {
                *done.entry(entry.txn).or_default() += 1;
                for op in entry.ops {
                    if let mainstay::store::LedgerOp::Mint { holder, .. } = op {
                        *paid.entry(holder).or_default() += 1;
                    }
                }
            }
        }
        if let Some((id, times)) = done.iter().find(|(_, times)| **times > 1) {
            self.violation(format!("once: {id} was done {times} times"));
        }
        for (account, id) in self.promised.iter().filter(|(_, id)| !done.contains_key(id)) {
            self.violation(format!("durable: {id} of {account} was told and is not there"));
        }
        for id in self.denied.iter().filter(|id| done.contains_key(id)) {
            self.violation(format!("told: {id} was told not to be done, and is"));
        }
        for (key, id) in &self.keys {
            let Ok(Some(entity)) = store.load(*key).wait() else { continue };
            let mut kept = Kept::default();
            if let Some(bytes) = entity.documents.get("self")
                && let Err(error) = read_document(&mut kept, bytes)
            {
                self.violation(format!("documents: of {id}: {error}"));
            }
            let should = paid.get(key).copied().unwrap_or(0);
            if kept.paid != should {
                let has = kept.paid;
                self.violation(format!("both: {id} has paid {has} times, the ledger has {should}"));
            }
        }
    }
}

impl Seen {
    pub fn list(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("steps of kept entities", self.deeds),
            ("entities loaded", self.owners),
            ("... that came along whole", self.arrivals),
            ("... without their last steps", self.forgotten),
            ("entities given back", self.released),
            ("letters between entities", self.letters),
            ("... out of order, where none is promised", self.unordered),
            ("purchases", self.sales),
            ("deals done", self.promised),
            ("deals not done", self.denied),
        ]
    }
}
