//! What the parent knows: what it asked for, what it was told, and what must be there then.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::Context;
use mainstay::node::data::{key_of, read_document};
use mainstay::prelude::*;
use mainstay::store::{ItemId, Store};

use super::game::{GOLD, MINTED, THING, Trader};

/// What a transaction is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Mint,
    /// As `Mint`, by a job that is done later.
    Order,
    Sell {
        item: u64,
        to: u64,
    },
    Melt {
        item: u64,
    },
    Train,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    account: u64,
    op: Op,
    at: Instant,
    is_acknowledged: bool,
}

/// One player as the ledger must have it.
#[derive(Clone, Debug, Default)]
pub struct Account {
    pub gold: u64,
    pub items: BTreeSet<u64>,
    pub trained: u64,
    /// As stored after the last crash.
    pub level: u64,
    /// Levels that were answered since, with the time.
    answered: Vec<(Instant, u64)>,
}

/// The whole of it.
#[derive(Debug, Default)]
pub struct Model {
    next: u64,
    open: BTreeMap<u64, Asked>,
    pub accounts: BTreeMap<u64, Account>,
    /// Place in the store's audit up to which all is accounted for.
    sequence: u64,
    /// The slowest transaction of a single player since the last crash, while the store was there: what
    /// a flush took.
    flush: Duration,
    /// That there was no store for a time since the last crash.
    away: Option<Away>,
    pub totals: Totals,
}

/// A time without a store: its database, or its only data process, was killed apart.
#[derive(Clone, Copy, Debug)]
struct Away {
    killed: Instant,
    /// When it took connections again.
    ready: Option<Instant>,
    /// When a transaction was acknowledged again.
    serves: Option<Instant>,
}

/// Counts over all crashes.
#[derive(Debug, Default)]
pub struct Totals {
    pub acknowledged: u64,
    /// Done, but cut off before the answer came.
    pub done_untold: u64,
    /// Neither done nor answered.
    pub not_done: u64,
    pub lost: u64,
    pub doubled: u64,
    /// Everything that does not add up, one line each.
    pub faults: Vec<String>,
    pub levels: u64,
    /// The age of the oldest level lost, without the time in which the store was away.
    pub worst_loss: Duration,
    /// The same with that time.
    pub worst_age: Duration,
    /// By how much the worst loss was more than the bound and a flush of the same round.
    pub over: Duration,
    /// The slowest of all flushes.
    pub slowest_flush: Duration,
}

impl Model {
    pub fn new(accounts: impl IntoIterator<Item = u64>) -> Self {
        let accounts = accounts.into_iter().map(|account| (account, Account::default()));
        Model { next: 1, accounts: accounts.collect(), ..Model::default() }
    }

    /// Notes a transaction before it is asked for; its id.
    pub fn ask(&mut self, account: u64, op: Op) -> u64 {
        let id = self.next;
        self.next += 1;
        self.open.insert(id, Asked { account, op, at: Instant::now(), is_acknowledged: false });
        id
    }

    /// The server said that it is done.
    pub fn acknowledge(&mut self, id: u64) {
        self.totals.acknowledged += 1;
        let Some(asked) = self.open.get_mut(&id) else { return };
        asked.is_acknowledged = true;
        let was_there = Away::was_there(self.away, asked.at);
        if asked.op == Op::Mint && was_there {
            self.flush = self.flush.max(asked.at.elapsed());
        }
    }

    /// The transactions that were acknowledged before they were done.
    pub fn owed(&self) -> Vec<u64> {
        let owed = |asked: &Asked| asked.is_acknowledged && asked.op == Op::Order;
        self.open.iter().filter(|(_, asked)| owed(asked)).map(|(id, _)| *id).collect()
    }

    /// The server said that a level is reached.
    pub fn level(&mut self, account: u64, level: u64) {
        self.totals.levels += 1;
        self.account(account).answered.push((Instant::now(), level));
    }

    /// The database, or the only data process, is killed.
    pub fn store_killed(&mut self) {
        self.away = Some(Away { killed: Instant::now(), ready: None, serves: None });
    }

    /// It takes connections again.
    pub fn store_ready(&mut self) {
        if let Some(away) = &mut self.away {
            away.ready = Some(Instant::now());
        }
    }

    /// A transaction was acknowledged by the store that is back.
    pub fn store_serves(&mut self) {
        if let Some(away) = &mut self.away {
            away.serves = Some(Instant::now());
        }
    }

    /// Holds what the store has after a crash at `killed` against what was said; `bound` is the loss
    /// that is allowed beside a flush. `sums`: also reads all of its rows and adds them up.
    pub fn settle(
        &mut self,
        store: &Store,
        (killed, bound): (Instant, Duration),
        sums: bool,
    ) -> anyhow::Result<()> {
        // What was under way at the kill had taken that long already.
        let mints = self.open.values().filter(|asked| asked.op == Op::Mint);
        let away = self.away.take();
        let waiting =
            mints.filter(|asked| !asked.is_acknowledged && Away::was_there(away, asked.at));
        let waited = waiting.map(|asked| killed.saturating_duration_since(asked.at)).max();
        let flush = std::mem::take(&mut self.flush).max(waited.unwrap_or_default());
        self.totals.slowest_flush = self.totals.slowest_flush.max(flush);
        self.settle_transactions(store)?;
        let accounts: Vec<u64> = self.accounts.keys().copied().collect();
        for account in accounts {
            let Some(at) = self.settle_account(store, account)? else { continue };
            let age = killed.saturating_duration_since(at);
            let lost = age.saturating_sub(Away::between(away, at, killed));
            self.totals.worst_age = self.totals.worst_age.max(age);
            self.totals.worst_loss = self.totals.worst_loss.max(lost);
            self.totals.over = self.totals.over.max(lost.saturating_sub(bound + flush));
        }
        if !sums {
            return Ok(());
        }
        let verdict = store.verify().wait()?;
        self.totals.faults.extend(verdict.faults);
        let gold: u128 = self.accounts.values().map(|account| u128::from(account.gold)).sum();
        let items: u128 = self.accounts.values().map(|account| account.items.len() as u128).sum();
        let held = (
            verdict.currencies.get(&GOLD).copied().unwrap_or(0),
            verdict.items.get(&THING).copied().unwrap_or(0),
        );
        if held != (gold, items) {
            self.fault(format!(
                "the store has {held:?} of gold and items, {gold} and {items} is due"
            ));
        }
        Ok(())
    }

    /// Each transaction that is in the store was asked for and is there once; each that was
    /// acknowledged is there.
    fn settle_transactions(&mut self, store: &Store) -> anyhow::Result<()> {
        loop {
            let page = store.audit(self.sequence, 1_000).wait()?;
            let Some(last) = page.last() else { break };
            self.sequence = last.sequence;
            // All asked for at once: one after the other would take a round trip each.
            let receipts: Vec<_> = page.iter().map(|entry| store.lookup(entry.txn)).collect();
            for (entry, receipt) in page.into_iter().zip(receipts) {
                let id = u64::try_from(entry.txn.0).context("an id of ours has 64 bits")?;
                let Some(asked) = self.open.remove(&id) else {
                    self.totals.doubled += 1;
                    self.fault(format!("transaction {id} is there twice or was never asked for"));
                    continue;
                };
                let receipt = receipt.wait()?.with_context(|| format!("{id} has no receipt"))?;
                // Refused after it was lost on the way: its id was used up, so that nothing of it comes late.
                if receipt.ledgers.is_empty() {
                    self.open.insert(id, asked);
                    continue;
                }
                self.totals.done_untold += u64::from(!asked.is_acknowledged);
                self.apply(id, asked);
            }
        }
        for (id, asked) in std::mem::take(&mut self.open) {
            if asked.is_acknowledged {
                self.totals.lost += 1;
                self.fault(format!(
                    "transaction {id} was acknowledged and is not there: {asked:?}"
                ));
            } else {
                self.totals.not_done += 1;
            }
        }
        Ok(())
    }

    fn apply(&mut self, id: u64, asked: Asked) {
        let account = self.account(asked.account);
        match asked.op {
            Op::Mint | Op::Order => {
                account.gold += MINTED;
                account.items.insert(id);
            }
            Op::Sell { item, to } => {
                account.gold += 1;
                account.items.remove(&item);
                let buyer = self.account(to);
                buyer.gold -= 1;
                buyer.items.insert(item);
            }
            Op::Melt { item } => {
                account.items.remove(&item);
            }
            Op::Train => {
                account.gold -= 1;
                account.trained += 1;
            }
        }
    }

    fn account(&mut self, account: u64) -> &mut Account {
        self.accounts.get_mut(&account).expect("all are known")
    }

    /// When the oldest of its levels was answered that is gone.
    fn settle_account(&mut self, store: &Store, of: u64) -> anyhow::Result<Option<Instant>> {
        let holder = key_of(Ref::<Trader>::keyed(of).id());
        let held = store.holdings(holder).wait()?;
        let mut stored = Trader::default();
        if let Some(entity) = store.load(holder).wait()?
            && let Some(bytes) = entity.documents.get("self")
        {
            read_document(&mut stored, bytes)?;
        }
        let account = self.account(of);
        let items: BTreeSet<_> = account.items.iter().map(|id| ItemId((*id).into())).collect();
        let gold = held.balances.get(&GOLD).copied().unwrap_or(0);
        let mut faults = Vec::new();
        if gold != account.gold || !held.items.keys().eq(items.iter()) {
            faults.push(format!(
                "player {of} has {gold} gold and {} items, {} and {} is due",
                held.items.len(),
                account.gold,
                items.len()
            ));
        }
        if stored.trained != account.trained {
            let (is, due) = (stored.trained, account.trained);
            faults.push(format!("player {of} is trained {is} times and paid for {due}"));
        }
        let lost = account.answered.iter().find(|(_, level)| *level > stored.level);
        let lost = lost.map(|(at, _)| *at);
        if stored.level < account.level {
            faults.push(format!("player {of} fell from saved level {}", account.level));
        }
        account.level = stored.level;
        account.answered.clear();
        faults.into_iter().for_each(|fault| self.fault(fault));
        Ok(lost)
    }

    pub fn fault(&mut self, line: String) {
        if self.totals.faults.len() < 100 {
            self.totals.faults.push(line);
        }
    }
}

impl Away {
    /// Whether what was asked for at `asked` met nothing but a store that is there.
    fn was_there(away: Option<Away>, asked: Instant) -> bool {
        away.is_none_or(|away| away.serves.is_some_and(|serves| asked >= serves))
    }

    /// How much of the time from `from` to `to` the store was away.
    fn between(away: Option<Away>, from: Instant, to: Instant) -> Duration {
        let Some(Away { killed, ready, .. }) = away else { return Duration::ZERO };
        ready.unwrap_or(to).min(to).saturating_duration_since(killed.max(from))
    }
}
