//! What was told to players, held against what the shards have in the end.

use std::collections::{BTreeMap, BTreeSet};

use mainstay::store::{
    Claim, Key, LedgerOp, MoveEnd, Shard, Slot, SlotAsk, SlotInfo, SlotTold, Transaction, TxnId,
};

use super::{GOLD, Notes, PLAYERS, SHARDS, START};
use crate::outcome::Tally;

pub(crate) struct Book {
    violations: Vec<String>,
    notes: Notes,
    hash: u64,
    deals: BTreeMap<TxnId, (Key, Key, u64)>,
    acknowledged: BTreeSet<TxnId>,
    /// Version and number of each player's document as it was last told, by version.
    saved: BTreeMap<(u64, u64), u64>,
    epochs: BTreeMap<u64, u64>,
    moves: u64,
    given_up: u64,
    saves: u64,
    pub redirected: u64,
    pub taken_over: u64,
    pub thawed: u64,
}

impl Book {
    pub fn new(notes_max: usize) -> Self {
        Book {
            violations: Vec::new(),
            notes: Notes::new(notes_max),
            hash: 0xcbf2_9ce4_8422_2325,
            deals: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
            saved: BTreeMap::new(),
            epochs: BTreeMap::new(),
            moves: 0,
            given_up: 0,
            saves: 0,
            redirected: 0,
            taken_over: 0,
            thawed: 0,
        }
    }

    pub fn note(&mut self, now: u64, line: String) {
        self.notes.add(format!("{now:>6} {line}"));
    }

    pub fn mix(&mut self, now: u64, number: u64, shard: u64) {
        for n in [now, number, shard] {
            self.hash = (self.hash ^ n).wrapping_mul(0x0100_0000_01b3);
        }
    }

    pub fn violation(&mut self, text: String) {
        self.notes.add(format!("VIOLATION {text}"));
        self.violations.push(text);
    }

    pub fn moved(&mut self, end: Option<&MoveEnd>) {
        match end {
            Some(MoveEnd::Moved | MoveEnd::Behind(_)) => self.moves += 1,
            _ => self.given_up += 1,
        }
    }

    pub fn began(&mut self, txn: &Transaction) {
        if let [LedgerOp::Pay { from, to, amount, .. }] = txn.ops[..] {
            self.deals.insert(txn.id, (from, to, amount));
        }
    }

    pub fn acknowledged(&mut self, id: TxnId) {
        self.acknowledged.insert(id);
    }

    /// A player was given to a node, with its document.
    pub fn taken(&mut self, player: u64, claim: &Claim, version: u64, steps: u64) {
        let last = self.epochs.entry(player).or_insert(0);
        *last = claim.epoch.max(*last);
        let told = self.saved.range((player, 0)..=(player, u64::MAX)).next_back();
        let told = told.map_or((0, 0), |((_, version), steps)| (*version, *steps));
        if claim.epoch == *last && version < told.0 {
            let was = format!("version {} with {} was told before", told.0, told.1);
            self.violation(format!("player {player} is at version {version}: {was}"));
        }
        if steps > version {
            self.violation(format!("player {player} made {steps} steps in {version} versions"));
        }
    }

    pub fn saved(&mut self, player: u64, claim: &Claim, version: u64, steps: u64) {
        self.saves += 1;
        if let Some(other) = self.saved.insert((player, version), steps)
            && other != steps
        {
            let epoch = claim.epoch;
            let text = format!("version {version} of player {player} is two things, epoch {epoch}");
            self.violation(text);
        }
    }

    /// Every key is in one shard, every deal was done once, and what was told is there.
    pub fn judge(&mut self, shards: &mut [Shard]) {
        self.judge_slots(shards);
        let mut done: BTreeMap<TxnId, u32> = BTreeMap::new();
        for (at, shard) in shards.iter_mut().enumerate() {
            let verdict = shard.verify().expect("it is in memory");
            for fault in verdict.faults {
                self.violation(format!("shard {}: {fault}", SHARDS[at]));
            }
            let mut after = 0;
            loop {
                let page = shard.audit(after, 1_000).expect("it is in memory");
                let Some(last) = page.last() else { break };
                after = last.sequence;
                for entry in page {
                    *done.entry(entry.txn).or_default() += 1;
                }
            }
        }
        let mut balances: BTreeMap<Key, i128> =
            (0..PLAYERS).map(|player| (Key(player.into()), START.into())).collect();
        for (id, times) in &done {
            if *times > 1 {
                self.violation(format!("{id} was done {times} times"));
            }
            if let Some((from, to, amount)) = self.deals.get(id) {
                *balances.entry(*from).or_default() -= i128::from(*amount);
                *balances.entry(*to).or_default() += i128::from(*amount);
            }
        }
        let lost: Vec<TxnId> =
            self.acknowledged.iter().filter(|id| !done.contains_key(id)).copied().collect();
        for id in lost {
            self.violation(format!("{id} was told to be done and is not"));
        }
        for (key, should) in balances {
            let mut has: Vec<u64> = Vec::new();
            for shard in shards.iter_mut() {
                if let Ok(held) = shard.holdings(key) {
                    has.push(held.balances.get(&GOLD).copied().unwrap_or(0));
                }
            }
            if has.len() != 1 || i128::from(has[0]) != should {
                self.violation(format!("{key} has {has:?}, which should be [{should}]"));
            }
        }
        self.judge_documents(shards);
    }

    fn judge_documents(&mut self, shards: &mut [Shard]) {
        for player in 0..PLAYERS {
            let told = self.saved.range((player, 0)..=(player, u64::MAX)).next_back();
            let Some((&(_, version), &steps)) = told else { continue };
            let key = Key(player.into());
            let found = shards.iter_mut().find_map(|shard| shard.load(key).ok().flatten());
            let Some(found) = found else {
                self.violation(format!("player {player} is gone"));
                continue;
            };
            let bytes = found.documents.get("steps").cloned().unwrap_or_default();
            let has = bytes.try_into().map_or(0, u64::from_le_bytes);
            if found.version < version || has < steps {
                let is = format!("{has} at version {}", found.version);
                self.violation(format!("player {player} has {is}, told were {steps} at {version}"));
            }
        }
    }

    fn judge_slots(&mut self, shards: &mut [Shard]) {
        let mut rows: BTreeMap<Slot, Vec<(&str, SlotInfo)>> = BTreeMap::new();
        for (at, shard) in shards.iter_mut().enumerate() {
            let Ok(SlotTold::Shard(info)) = shard.slots(&SlotAsk::Describe) else {
                return self.violation("a shard does not say what it has".to_owned());
            };
            for slot in info.slots {
                rows.entry(slot.slot).or_default().push((SHARDS[at], slot));
            }
        }
        for player in 0..PLAYERS {
            let slot = Slot::of(Key(player.into()));
            let rows = rows.get(&slot).map(Vec::as_slice).unwrap_or_default();
            if rows.iter().filter(|(_, row)| row.state.is_here()).count() != 1 {
                self.violation(format!("{slot} of player {player} is with {rows:?}"));
            }
        }
    }

    pub fn close(self) -> (Vec<String>, Tally, u64, Vec<String>) {
        let sights = vec![
            ("slots moved", self.moves),
            ("moves given up", self.given_up),
            ("moves ended by others", self.taken_over),
            ("frozen slots thawed", self.thawed),
            ("redirections", self.redirected),
            ("deals told", self.acknowledged.len() as u64),
            ("saves told", self.saves),
        ];
        (self.violations, Tally(sights), self.hash, self.notes.into_lines())
    }
}
