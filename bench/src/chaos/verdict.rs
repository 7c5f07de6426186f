//! What came of it: totals, the audit of the stores, and whether each demand is met.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use mainstay::config::Config;
use mainstay::store::Store;

use super::stage::Stage;
use super::{CONVERGED_MAX, Counts, Crowd, DEADLINE, MARGIN, PROCESSES};
use crate::traders::{Model, game};

/// How long the journal may take to land what is left of it.
const LANDED_MAX: Duration = Duration::from_secs(60);
/// Entries of the audit read at once.
const PAGE: usize = 1_000;

/// How a run went.
pub struct Verdict {
    pub faults: usize,
    pub played: Duration,
    /// Players that did not end.
    pub left: usize,
    /// What was under way in the processes when nobody asked any more.
    pub open: Vec<String>,
    pub stopped_well: bool,
    /// How long it took until all was well, or what was not.
    pub converged: Result<Duration, String>,
}

impl Verdict {
    /// Reads both stores and prints all. Tells whether every demand is met.
    pub fn audit(&self, store: &Store, crowd: &Crowd) -> anyhow::Result<bool> {
        let mut model = crowd.model();
        model.settle(store, (Instant::now(), Duration::ZERO), true)?;
        landed(store)?;
        let target = store.landing_target().context("the store has a journal")?;
        compare(store, &target)?.into_iter().for_each(|fault| model.fault(fault));
        Ok(self.print(&model, crowd.counts()))
    }

    fn print(&self, model: &Model, counts: &Counts) -> bool {
        let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
        let totals = &model.totals;
        println!("\n{} faults in {:.0} s\n", self.faults, self.played.as_secs_f64());
        println!("calls                                {:>10}", count(&counts.calls));
        println!("acknowledged                         {:>10}", totals.acknowledged);
        println!("declined by the game                 {:>10}", count(&counts.declined));
        println!("failed with an error or in time      {:>10}", count(&counts.failed));
        println!("done, though nobody was told         {:>10}", totals.done_untold);
        println!("asked for and not done               {:>10}", totals.not_done);
        println!("log-ins                              {:>10}", count(&counts.logins));
        println!("longest call                         {:>10} ms", count(&counts.longest_ms));
        println!("acknowledged and lost                {:>10}", totals.lost);
        println!("done twice                           {:>10}", totals.doubled);
        if let Ok(took) = self.converged {
            println!("all well after the last fault        {:>10.1} s", took.as_secs_f64());
        }
        for fault in totals.faults.iter().chain(&self.open) {
            println!("FAULT: {fault}");
        }
        println!();
        let demands = self.demands(model, count(&counts.unresolved));
        for (what, missed) in &demands {
            match missed {
                None => println!("{what}: met"),
                Some(by) => println!("{what}: missed by {by}"),
            }
        }
        demands.iter().all(|(_, missed)| missed.is_none())
    }

    /// Each demand, and by what it is missed if it is.
    fn demands(&self, model: &Model, unresolved: u64) -> [(String, Option<String>); 5] {
        let totals = &model.totals;
        let (lost, doubled, faults) = (totals.lost, totals.doubled, totals.faults.len());
        let exact = lost == 0 && doubled == 0 && faults == 0;
        let unresolved = unresolved + self.left as u64;
        let resolved = unresolved == 0 && self.open.is_empty();
        let converged = match &self.converged {
            Ok(took) if *took <= CONVERGED_MAX => None,
            Ok(took) => Some(format!("{:.1} s", (*took - CONVERGED_MAX).as_secs_f64())),
            Err(ill) => Some(ill.clone()),
        };
        // Nothing is shown by players who do nothing.
        let least = self.played.as_secs() / 10 * model.accounts.len() as u64;
        [
            (
                "0 acknowledged valuables lost or doubled, sums exact in Redis and PostgreSQL"
                    .into(),
                (!exact).then(|| format!("{lost} lost, {doubled} doubled, {faults} faults")),
            ),
            (
                format!(
                    "every call ends within its deadline of {} s and {} s, and none is left in a process",
                    DEADLINE.as_secs(),
                    MARGIN.as_secs()
                ),
                (!resolved).then(|| format!("{unresolved} calls, {} left", self.open.len())),
            ),
            (
                format!(
                    "all players trade, all nodes are listed and all is healthy {} s after the last fault",
                    CONVERGED_MAX.as_secs()
                ),
                converged,
            ),
            (
                "all processes stop well in the end".into(),
                (!self.stopped_well).then(|| "what the log says".into()),
            ),
            (
                format!("the players are busy: {least} trades or more"),
                (totals.acknowledged < least).then(|| (least - totals.acknowledged).to_string()),
            ),
        ]
    }
}

/// The store that the processes have.
pub fn open_store(stage: &Stage) -> anyhow::Result<Store> {
    let config = Config::check(stage.layout.file(), &game::spread_app().role_names())?;
    let process = config.process(PROCESSES[PROCESSES.len() - 1]).context("it has one")?;
    Ok(mainstay::open_store(&process.store)?)
}

/// Waits until the journal has landed.
fn landed(store: &Store) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        let report = store.landing().context("the store has a journal")?;
        if report.landed >= report.position && report.aside == 0 && report.trouble.is_none() {
            return Ok(());
        }
        ensure!(begun.elapsed() < LANDED_MAX, "the journal does not land: {report:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// In what the store and the one in which its journal lands differ.
fn compare(store: &Store, target: &Store) -> anyhow::Result<Vec<String>> {
    let mut faults = Vec::new();
    let mut after = 0;
    loop {
        let (one, other) = (store.audit(after, PAGE), target.audit(after, PAGE));
        let (one, other) = (one.wait()?, other.wait()?);
        let key = |entry: &mainstay::store::AuditEntry| (entry.sequence, entry.txn);
        if !one.iter().map(key).eq(other.iter().map(key)) {
            faults.push(format!(
                "what follows entry {after} of the audit is not the same in both stores"
            ));
            break;
        }
        let Some(last) = one.last() else { break };
        after = last.sequence;
    }
    let (one, other) = (store.verify().wait()?, target.verify().wait()?);
    faults.extend(other.faults);
    if (&one.currencies, &one.items) != (&other.currencies, &other.items) {
        faults.push(format!(
            "the sums differ: {:?} and {:?}, where they land {:?} and {:?}",
            one.currencies, one.items, other.currencies, other.items
        ));
    }
    Ok(faults)
}

#[cfg(test)]
mod tests {
    use mainstay::node::data::key_of;
    use mainstay::prelude::Ref;
    use mainstay::store::{ItemId, LedgerOp, Limits, Transaction, TxnId};

    use super::*;
    use crate::traders::Op;
    use crate::traders::game::{GOLD, MINTED, THING, Trader};

    /// As the game mints.
    fn mint(store: &Store, id: u64, amount: u64) {
        let holder = key_of(Ref::<Trader>::keyed(1).id());
        let generation = store.generation().wait().unwrap();
        let made =
            LedgerOp::Make { item: ItemId(id.into()), kind: THING, holder, data: Vec::new() };
        let txn = Transaction::new(TxnId(id.into()), generation);
        let txn = txn.with(LedgerOp::Mint { holder, currency: GOLD, amount }).with(made);
        store.commit(txn).wait().unwrap();
    }

    fn missed(model: &Model, change: impl FnOnce(&mut Verdict)) -> Vec<usize> {
        let mut verdict = Verdict {
            faults: 1,
            played: Duration::from_secs(10),
            left: 0,
            open: Vec::new(),
            stopped_well: true,
            converged: Ok(CONVERGED_MAX),
        };
        change(&mut verdict);
        let demands = verdict.demands(model, 0);
        let missed = demands.iter().enumerate().filter(|(_, (_, missed))| missed.is_some());
        missed.map(|(at, _)| at).collect()
    }

    fn settled(asked: u64, acknowledged: u64, done: impl Fn(&Store, u64)) -> Model {
        let store = Store::memory(Limits::default());
        let mut model = Model::new(1..=2);
        for number in 0..asked {
            let id = model.ask(1, Op::Mint);
            done(&store, id);
            if number < acknowledged {
                model.acknowledge(id);
            }
        }
        model.settle(&store, (Instant::now(), Duration::ZERO), true).unwrap();
        model
    }

    #[test]
    fn what_was_acknowledged_and_is_not_there_or_not_exact_is_missed() {
        let well = settled(3, 2, |store, id| mint(store, id, MINTED));
        assert_eq!(missed(&well, |_| {}), [0; 0], "{:?}", well.totals.faults);
        assert_eq!((well.totals.done_untold, well.totals.lost), (1, 0));
        let lost = settled(3, 3, |store, id| {
            if id != 2 {
                mint(store, id, MINTED);
            }
        });
        assert_eq!((lost.totals.lost, missed(&lost, |_| {})), (1, vec![0]));
        let doubled = settled(3, 3, |store, id| {
            mint(store, id, MINTED);
            mint(store, id + 100, MINTED);
        });
        assert_eq!((doubled.totals.doubled, missed(&doubled, |_| {})), (3, vec![0]));
        let inexact = settled(3, 3, |store, id| mint(store, id, MINTED + u64::from(id == 2)));
        assert_eq!((inexact.totals.lost, missed(&inexact, |_| {})), (0, vec![0]));
    }

    #[test]
    fn every_other_demand_can_be_missed_as_well() {
        let well = settled(2, 2, |store, id| mint(store, id, MINTED));
        assert_eq!(missed(&well, |verdict| verdict.left = 1), [1]);
        assert_eq!(missed(&well, |verdict| verdict.open.push("gate-1".into())), [1]);
        let late = CONVERGED_MAX + Duration::from_millis(1);
        assert_eq!(missed(&well, |verdict| verdict.converged = Ok(late)), [2]);
        assert_eq!(missed(&well, |verdict| verdict.converged = Err("ill".into())), [2]);
        assert_eq!(missed(&well, |verdict| verdict.stopped_well = false), [3]);
        assert_eq!(missed(&well, |verdict| verdict.played = Duration::from_secs(20)), [4]);
    }

    #[test]
    fn stores_that_are_not_the_same_are_told_apart() {
        let stores = || (Store::memory(Limits::default()), Store::memory(Limits::default()));
        let (one, other) = stores();
        (1..=2).for_each(|id| mint(&one, id, MINTED));
        mint(&other, 1, MINTED);
        assert_eq!(compare(&one, &other).unwrap().len(), 2);
        mint(&other, 2, MINTED);
        assert_eq!(compare(&one, &other).unwrap(), [""; 0]);
        let (one, other) = stores();
        mint(&one, 1, MINTED);
        mint(&other, 1, MINTED + 1);
        assert_eq!(compare(&one, &other).unwrap().len(), 1);
    }
}
