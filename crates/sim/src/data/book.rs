//! What was told and what is stored, next to each other.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mainstay::env::Instant;
use mainstay::node::data::read_document;
use mainstay::store::{Claim, Documents, Incarnation, Key, LedgerOp, Save, Store, TxnId};
use testkit::Fact;

use super::game::{GOLD, Player, key, txn};

/// An answer that a player gave.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// When the call began.
    pub since: Instant,
    /// When its answer was heard.
    pub at: Instant,
    pub steps: u64,
    pub epoch: u64,
}

/// What the store said when an owner began.
#[derive(Clone, Copy, Debug)]
struct Began {
    steps: u64,
    node: usize,
    incarnation: u64,
}

/// A time in which saves may have been late, at one node or at all.
#[derive(Clone, Copy, Debug)]
struct Trouble {
    from: Instant,
    to: Instant,
    node: Option<usize>,
}

/// A player as the store has it.
#[derive(Clone, Copy, Debug, Default)]
struct Stored {
    steps: u64,
    epoch: u64,
    incarnation: u64,
}

/// All that is checked in one run.
#[derive(Default)]
pub struct Book {
    violations: Vec<String>,
    /// How late after an answer what it told of must be stored, if nothing is wrong.
    pub window: Duration,
    troubles: Vec<Trouble>,
    /// Nodes that are cut off from the store, and since when.
    cut_off: BTreeMap<usize, Instant>,
    /// Which node each incarnation is.
    nodes: BTreeMap<u64, usize>,
    /// Nodes that alone are cut off from the store while it works, and since when.
    alone: BTreeMap<usize, Instant>,
    /// When each node said last that it does not reach the store.
    away: Vec<Option<Instant>>,
    /// Which nodes were declared dead, and when.
    dead: BTreeMap<u64, Instant>,
    answers: BTreeMap<u64, Vec<(usize, Answer)>>,
    /// The newest epoch and steps that were heard by when.
    heard: BTreeMap<u64, Vec<(Instant, (u64, u64))>>,
    stored: BTreeMap<Key, Stored>,
    began: BTreeMap<(Key, u64), Began>,
    told: BTreeSet<u64>,
    denied: BTreeSet<u64>,
    /// Deals that pay for a lesson, and whose.
    lessons: BTreeMap<u64, u64>,
    /// Calls from before tell of what a disk has lost, which nodes learn of late.
    blind_until: Option<Instant>,
    /// What a disk has lost that had said otherwise.
    excused: BTreeSet<TxnId>,
    pub seen: Seen,
}

/// How often the rare states were seen that a good run must come through.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    pub answers: u64,
    pub done: u64,
    pub not_done: u64,
    pub unknown: u64,
    pub failed_calls: u64,
    pub takeovers: u64,
    pub epochs: u64,
    pub releases: u64,
    pub lost_answers: u64,
    pub failovers: u64,
}

/// A node that is cut off for so long has parked, and what it said before has been heard.
const PARKED_BY: Duration = Duration::from_millis(5_300);

/// That another does not reach the store is believed for so long, its way included.
const AWAY_FOR: Duration = Duration::from_millis(2_600);

/// When a node that reaches the store has learnt that it went back, and what it said is heard.
const LEARNT_BY: Duration = Duration::from_secs(12);

/// How long before a fault's end its mark is still felt: the longest pause between two tries, and
/// a wait for an answer.
const AFTERMATH: Duration = Duration::from_secs(12);

impl Book {
    pub fn new(window: Duration) -> Self {
        Book { window, ..Book::default() }
    }

    pub fn violation(&mut self, text: impl Into<String>) {
        if self.violations.len() < 20 {
            self.violations.push(text.into());
        }
    }

    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    /// Something is wrong with a node, or with the store, from one time to another.
    pub fn trouble(&mut self, node: Option<usize>, from: Instant, to: Instant) {
        self.troubles.push(Trouble { from, to, node });
    }

    /// Which node alone is cut off from the store now, if one is.
    pub fn is_alone(&mut self, now: Instant, node: Option<usize>) {
        self.alone.retain(|known, _| Some(*known) == node);
        if let Some(node) = node {
            self.alone.entry(node).or_insert(now);
        }
    }

    /// When each node said last that it does not reach the store.
    pub fn are_away(&mut self, away: Vec<Option<Instant>>) {
        self.away = away;
    }

    /// Whether so many others said shortly before that they do not reach the store that a node goes on
    /// without it.
    fn may_go_on(&self, node: usize, at: Instant) -> bool {
        let said = self.away.iter().enumerate().filter(|(other, _)| *other != node);
        let away = said.filter(|(_, said)| said.is_some_and(|said| at.since(said) <= AWAY_FOR));
        let away = away.count();
        away > 0 && 2 * (away + 1) > self.away.len()
    }

    /// A node does not reach the store now. So it cannot learn that the store went back, and may go on with
    /// what it has if most say the same.
    pub fn cannot_learn(&mut self, now: Instant) {
        if let Some(until) = self.blind_until.as_mut().filter(|until| now < **until) {
            *until = now + LEARNT_BY;
        }
    }

    /// A node is cut off from the store from now on.
    pub fn is_cut_off(&mut self, now: Instant, node: usize) {
        self.cut_off.insert(node, now);
    }

    /// It is not any more.
    pub fn is_joined(&mut self, now: Instant, node: usize) {
        if let Some(began) = self.cut_off.remove(&node) {
            self.trouble(Some(node), began, now);
        }
    }

    /// A node has that incarnation.
    pub fn is_node(&mut self, incarnation: Incarnation, node: usize) {
        self.nodes.insert(incarnation.0, node);
    }

    // -- what players are told --

    /// A player answered with its steps.
    pub fn answered(&mut self, player: u64, answer: Answer) {
        self.seen.answers += 1;
        let Answer { since, at, steps, epoch } = answer;
        if self.blind_until.is_some_and(|until| since < until) {
            return;
        }
        let heard = self.heard.entry(player).or_default();
        let newest = heard.last().map(|(_, newest)| *newest).unwrap_or_default();
        // What was heard before the call began must be older.
        let before = heard[..heard.partition_point(|(at, _)| *at < since)].last().copied();
        heard.push((at, newest.max((epoch, steps))));
        self.seen.takeovers += u64::from(epoch > newest.0 && newest.0 > 0);
        if let Some((_, before)) = before
            && (epoch, steps) < before
        {
            self.violation(format!(
                "owners: player {player} answers {steps} steps under epoch {epoch} after {before:?}"
            ));
        }
        let Some(&began) = self.began.get(&(key(player), epoch)) else {
            return self.violation(format!("owners: player {player} has epoch {epoch} of nobody"));
        };
        if steps < began.steps {
            let stored = began.steps;
            self.violation(format!(
                "load: player {player} has {steps} steps under epoch {epoch}, stored were {stored}"
            ));
        }
        // One that goes on because most do not reach the store may not be heard by the one that does.
        if let Some(&died) = self.dead.get(&began.incarnation)
            && since > died
            && !self.may_go_on(began.node, since)
        {
            let node = began.node;
            self.violation(format!(
                "parks: node {node} was declared dead at {died:?} and answers {answer:?} for {player}"
            ));
        }
        let alone = self.alone.get(&began.node).copied();
        if let Some(cut) = alone.filter(|cut| since > *cut + PARKED_BY)
            && !self.may_go_on(began.node, since)
        {
            let (node, since) = (began.node, cut);
            self.violation(format!(
                "parks: node {node} is cut off since {since:?} and answers {answer:?} for {player}"
            ));
        }
        self.answers.entry(player).or_default().push((began.node, answer));
    }

    pub fn told(&mut self, id: u64) {
        self.seen.done += 1;
        self.told.insert(id);
    }

    pub fn denied(&mut self, id: u64) {
        self.seen.not_done += 1;
        self.denied.insert(id);
    }

    /// A deal pays for a lesson of `player`.
    pub fn is_lesson(&mut self, id: u64, player: u64) {
        self.lessons.insert(id, player);
    }

    // -- what the store does --

    pub fn learn(&mut self, now: Instant, fact: Fact) {
        match fact {
            Fact::Activated(claim) => self.activated(claim),
            Fact::Released(claim) => {
                self.seen.releases += 1;
                self.check_owner("gave back", &claim);
            }
            Fact::Wrote(save) => self.wrote(&save),
            Fact::Committed(_) => {}
            Fact::Died(incarnation) => {
                self.dead.insert(incarnation.0, now);
            }
            Fact::Restarted { lost, transactions, store } => {
                self.excused.extend(transactions);
                // It may have forgotten who is dead.
                self.dead.clear();
                self.restarted(now, lost, &store);
            }
            Fact::Unreadable(problem) => {
                self.violation(format!("disk: the store cannot be read: {problem}"));
            }
            other => self.violation(format!("the store did {other:?}")),
        }
    }

    fn activated(&mut self, claim: Claim) {
        self.seen.epochs += 1;
        let stored = self.stored.entry(claim.key).or_default();
        let before = *stored;
        stored.epoch = claim.epoch;
        stored.incarnation = claim.incarnation.0;
        if claim.epoch <= before.epoch {
            let (epoch, last) = (claim.epoch, before.epoch);
            self.violation(format!("epochs: {} is given epoch {epoch} after {last}", claim.key));
        }
        let Some(&node) = self.nodes.get(&claim.incarnation.0) else {
            return self.violation(format!("owners: {} is given to nobody", claim.key));
        };
        self.began.insert(
            (claim.key, claim.epoch),
            Began { steps: before.steps, node, incarnation: claim.incarnation.0 },
        );
        self.check_loss(claim.key, before.steps);
    }

    fn check_owner(&mut self, what: &str, claim: &Claim) {
        let owner = self.stored.get(&claim.key).copied().unwrap_or_default();
        if (claim.epoch, claim.incarnation) != (owner.epoch, Incarnation(owner.incarnation)) {
            self.violation(format!("owners: {claim:?} {what}, owner is {owner:?}"));
        }
    }

    fn wrote(&mut self, save: &Save) {
        self.check_owner("wrote", &save.claim);
        let Some(Some(bytes)) = save.patch.get("self") else { return };
        let mut player = Player::default();
        if let Err(error) = read_document(&mut player, bytes) {
            return self.violation(format!("documents: {error}"));
        }
        let stored = self.stored.entry(save.claim.key).or_default();
        let before = std::mem::replace(&mut stored.steps, player.steps);
        if player.steps < before {
            let steps = player.steps;
            self.violation(format!("versions: {steps} steps are written over {before}"));
        }
    }

    /// What was never answered may be gone; with a disk that lied, more.
    fn restarted(&mut self, now: Instant, lost: bool, store: &Store) {
        let keys: Vec<Key> = self.stored.keys().copied().collect();
        for key in keys {
            let stored = match store.load(key).wait() {
                Ok(Some(entity)) => Stored {
                    steps: steps_of(&entity.documents),
                    epoch: entity.owner.epoch,
                    incarnation: entity.owner.incarnation.0,
                },
                Ok(None) => Stored::default(),
                Err(error) => return self.violation(format!("disk: {key}: {error}")),
            };
            self.stored.insert(key, stored);
        }
        if lost {
            self.seen.failovers += 1;
            self.heard.clear();
            self.answers.clear();
            self.blind_until = Some(now + LEARNT_BY);
            // All that was acknowledged before counts from what is left.
            self.trouble(None, Instant::ZERO, now);
        }
    }

    /// An owner begins with `steps`: what was told long before is there.
    fn check_loss(&mut self, of: Key, steps: u64) {
        let Some(player) = (1..=PLAYERS_MAX).find(|player| key(*player) == of) else { return };
        let window = self.window;
        let (troubles, cut_off) = (&self.troubles, &self.cut_off);
        let answers = self.answers.entry(player).or_default();
        let lost = answers.iter().filter(|(_, answer)| answer.steps > steps);
        let is_excused = |(node, answer): &(usize, Answer)| {
            let to = answer.at + window;
            // A node that is still cut off has saved nothing since.
            cut_off.get(node).is_some_and(|began| *began <= to)
                || troubles.iter().any(|trouble| {
                    trouble.node.is_none_or(|of| of == *node)
                        && trouble.to + AFTERMATH >= answer.at
                        && trouble.from <= to
                })
        };
        let bad = lost.clone().find(|answer| !is_excused(answer)).copied();
        self.seen.lost_answers += lost.count() as u64;
        // Whatever is lost is lost once.
        answers.retain(|(_, answer)| answer.steps <= steps);
        if let Some((node, bad)) = bad {
            self.violation(format!(
                "lost: player {player} begins with {steps} steps, at {:?} node {node} had told of {}",
                bad.at, bad.steps,
            ));
        }
    }

    // -- the end --

    /// What is stored after all has come to rest.
    pub fn audit(&mut self, store: &Store, players: u64) {
        let verdict = match store.verify().wait() {
            Ok(verdict) => verdict,
            Err(error) => return self.violation(format!("ledger: {error}")),
        };
        if let Some(fault) = verdict.faults.first() {
            self.violation(format!("ledger: {fault}"));
        }
        let mut done = BTreeMap::new();
        let (mut gold, mut swords) = (BTreeMap::<Key, i128>::new(), BTreeMap::new());
        let mut after = 0;
        loop {
            let entries = store.audit(after, 1_000).wait().unwrap_or_default();
            let Some(last) = entries.last() else { break };
            after = last.sequence;
            for entry in entries {
                // One that was given up is in the books with nothing.
                if entry.ops.is_empty() {
                    continue;
                }
                *done.entry(entry.txn).or_insert(0u32) += 1;
                for op in entry.ops {
                    add_up(&op, &mut gold, &mut swords);
                }
            }
        }
        if let Some((id, times)) = done.iter().find(|(_, times)| **times > 1) {
            self.violation(format!("once: {id} was done {times} times"));
        }
        for id in self.told.clone() {
            if !done.contains_key(&txn(id)) && !self.excused.contains(&txn(id)) {
                self.violation(format!("durable: deal {id} was told and is not there"));
            }
        }
        for id in self.denied.clone() {
            if done.contains_key(&txn(id)) {
                self.violation(format!("told: deal {id} was told not to be done, and is"));
            }
        }
        for player in 1..=players {
            self.audit_player(store, player, &done, (&gold, &swords));
        }
    }

    fn audit_player(
        &mut self,
        store: &Store,
        player: u64,
        done: &BTreeMap<TxnId, u32>,
        (gold, swords): (&BTreeMap<Key, i128>, &BTreeMap<u128, Key>),
    ) {
        let held = store.holdings(key(player)).wait().unwrap_or_default();
        let has = i128::from(held.balances.get(&GOLD).copied().unwrap_or(0));
        let should = gold.get(&key(player)).copied().unwrap_or(0);
        let items = held.items.len();
        let made = swords.values().filter(|of| **of == key(player)).count();
        if (has, items) != (should, made) {
            self.violation(format!(
                "sums: player {player} has {has} gold and {items} swords, not {should} and {made}"
            ));
        }
        let lessons =
            self.lessons.iter().filter(|(id, of)| **of == player && done.contains_key(&txn(**id)));
        let paid = lessons.count() as u64;
        let Ok(Some(entity)) = store.load(key(player)).wait() else { return };
        let mut stored = Player::default();
        if let Some(bytes) = entity.documents.get("self")
            && read_document(&mut stored, bytes).is_err()
        {
            self.violation(format!("documents: of player {player} cannot be read"));
        }
        if stored.lessons != paid {
            let has = stored.lessons;
            self.violation(format!("both: player {player} has {has} lessons and paid for {paid}"));
        }
    }
}

/// More than any run has.
pub const PLAYERS_MAX: u64 = 8;

fn steps_of(documents: &Documents) -> u64 {
    let mut player = Player::default();
    match documents.get("self").map(|bytes| read_document(&mut player, bytes)) {
        Some(Ok(_)) => player.steps,
        _ => 0,
    }
}

fn add_up(op: &LedgerOp, gold: &mut BTreeMap<Key, i128>, swords: &mut BTreeMap<u128, Key>) {
    match op {
        LedgerOp::Mint { holder, amount, .. } | LedgerOp::Receive { holder, amount, .. } => {
            *gold.entry(*holder).or_default() += i128::from(*amount);
        }
        LedgerOp::Burn { holder, amount, .. } | LedgerOp::Send { holder, amount, .. } => {
            *gold.entry(*holder).or_default() -= i128::from(*amount);
        }
        LedgerOp::Pay { from, to, amount, .. } => {
            *gold.entry(*from).or_default() -= i128::from(*amount);
            *gold.entry(*to).or_default() += i128::from(*amount);
        }
        LedgerOp::Make { item, holder, .. } | LedgerOp::ReceiveItem { item, holder, .. } => {
            swords.insert(item.0, *holder);
        }
        LedgerOp::Move { item, to, .. } => drop(swords.insert(item.0, *to)),
        LedgerOp::Destroy { item, .. } | LedgerOp::SendItem { item, .. } => {
            swords.remove(&item.0);
        }
        LedgerOp::Change { .. } => {}
    }
}

impl Seen {
    pub fn list(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("answers of players", self.answers),
            ("deals done", self.done),
            ("deals not done", self.not_done),
            ("deals of unknown outcome", self.unknown),
            ("calls that failed", self.failed_calls),
            ("owners followed by others", self.takeovers),
            ("entities given", self.epochs),
            ("entities given back", self.releases),
            ("answers of which a crash took the steps", self.lost_answers),
            ("stores that went back after a lie", self.failovers),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    /// Player 1 is at node 0, under epoch 1, and said at 20 s that it has taken 5 steps.
    fn book() -> Book {
        let mut book = Book::new(SECOND);
        for node in 0..2 {
            book.is_node(Incarnation(node), node as usize);
        }
        take(&mut book, 0, 1);
        book.answered(1, Answer { since: at(20_000), at: at(20_000), steps: 5, epoch: 1 });
        book
    }

    /// A node becomes the owner of player 1, of whom nothing is stored.
    fn take(book: &mut Book, node: u64, epoch: u64) {
        let claim = Claim { key: key(1), generation: 1, epoch, incarnation: Incarnation(node) };
        book.learn(at(30_000), Fact::Activated(claim));
    }

    #[test]
    fn what_is_lost_without_a_fault_is_a_violation() {
        let mut book = book();
        take(&mut book, 1, 2);
        assert_eq!(book.violations().len(), 1, "{:?}", book.violations());
        assert!(book.violations()[0].starts_with("lost: "), "{:?}", book.violations());
    }

    #[test]
    fn what_is_lost_by_a_kill_within_the_window_is_allowed_and_no_more() {
        for (killed, violations) in [(20_900, 0), (21_100, 1)] {
            let mut book = book();
            book.trouble(Some(0), at(killed), at(killed + 500));
            take(&mut book, 1, 2);
            assert_eq!(book.violations().len(), violations, "killed at {killed}");
        }
    }

    /// Seed 3405: a node was cut off from the store, and was still when another took what it had. The
    /// fault was written down only when it ended, so what the node could not save was a violation.
    #[test]
    fn a_node_that_is_still_cut_off_cannot_have_saved() {
        let mut book = book();
        book.is_cut_off(at(20_500), 0);
        take(&mut book, 1, 2);
        assert_eq!(book.violations(), [""; 0]);
        // Later than its second: it was saved before the cut, or should have been.
        let mut book = self::book();
        book.is_cut_off(at(21_500), 0);
        take(&mut book, 1, 2);
        assert_eq!(book.violations().len(), 1);
    }

    /// Seed 1522: one node was joined again in the moment in which another was cut off, and passed for
    /// cut off as long as that one was.
    #[test]
    fn only_the_node_that_is_cut_off_has_to_stand_still() {
        let mut book = book();
        book.is_alone(at(1_000), Some(0));
        book.is_alone(at(2_000), Some(1));
        book.answered(1, Answer { since: at(21_000), at: at(21_000), steps: 6, epoch: 1 });
        assert_eq!(book.violations(), [""; 0]);
        book.is_alone(at(22_000), Some(0));
        book.answered(1, Answer { since: at(28_000), at: at(28_000), steps: 7, epoch: 1 });
        assert!(book.violations()[0].starts_with("parks: "), "{:?}", book.violations());
    }
}
