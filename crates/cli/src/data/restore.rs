use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use mainstay::Exit;
use mainstay::env::{Clock, Random};
use mainstay::node::data::bury_all;
use mainstay::store::dump::read;
use mainstay::store::{
    Activate, AuditEntry, Currency, Documents, Holdings, Incarnation, ItemId, ItemKind, Key,
    LedgerOp, Patch, Save, Store, Transaction, TxnId,
};

use super::open::{Where, entity, shown};
use super::show::history;
use super::time;

/// Steps of one transaction; the rest goes into further ones.
const STEPS_MAX: usize = 60;

#[derive(clap::Args)]
pub struct Restore {
    /// `KIND/NUMBER`, such as `avatar/7` for the player of account 7.
    entity: String,
    /// The time to go back to: 2026-11-22T05:04:03Z (UTC), or milliseconds since 1970.
    #[arg(long, value_name = "TIME")]
    to: String,
    /// A copy from about that time (`mainstay data export`), for the documents. Without one they
    /// stay as they are.
    #[arg(long, value_name = "FILE")]
    copy: Option<PathBuf>,
    /// Only says what would be done.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    place: Where,
}

/// What has to happen so that a holder has what it had.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    steps: Vec<LedgerOp>,
    /// Items that others have by now: they stay there.
    elsewhere: Vec<(ItemId, Key)>,
    /// Balances that were higher than may be made, or lower than zero: the history is not whole.
    odd: Vec<Currency>,
}

impl Restore {
    pub fn run(self) -> anyhow::Result<Exit> {
        let (key, to) = (entity(&self.entity)?, time::read(&self.to)?);
        let store = self.place.open_one()?;
        self.place.quiet(&store)?;
        let documents = self.copy.as_deref().map(|file| of_copy(file, key, to)).transpose()?;
        let held = store.holdings(key).wait()?;
        let entries = history(&store, key, 0)?;
        let items = items_of(&store, &entries)?;
        let plan = plan(key, to, &held, &entries, &items, &mut Random::from_os());
        ensure!(plan.odd.is_empty(), "the history of {:?} is not whole", plan.odd);
        println!("{} as of {}:", shown(key), time::shown(to));
        plan.steps.iter().for_each(|step| println!("  {step:?}"));
        for (item, holder) in &plan.elsewhere {
            println!("  {item} stays with {}", shown(*holder));
        }
        if let Some(documents) = &documents {
            let names: Vec<_> = documents.keys().map(String::as_str).collect();
            println!("  documents {}", names.join(", "));
        }
        if plan.steps.is_empty() && documents.is_none() {
            println!("  nothing is to be done");
        } else if self.dry_run {
            println!("nothing was changed; without --dry-run it is");
        } else {
            let note = format!("restored to {}", time::shown(to));
            apply(&store, key, &held, plan.steps, documents, &note)?;
            println!("done");
        }
        Ok(Exit::Well)
    }
}

/// The documents that a copy has of an entity.
fn of_copy(file: &Path, key: Key, to: u64) -> anyhow::Result<Documents> {
    let name = file.display();
    let opened = File::open(file).with_context(|| format!("cannot open {name}"))?;
    let mut found = None;
    let summary = read(&mut BufReader::with_capacity(1 << 20, opened), &mut |rows| {
        for row in &rows {
            if let Some((_, entity)) = row.entity()?.filter(|(of, _)| *of == key) {
                found = Some(entity.documents);
            }
        }
        Ok(())
    });
    let summary = summary.with_context(|| format!("{name} cannot be used"))?;
    if summary.at_ms > to {
        let at = time::shown(summary.at_ms);
        bail!("{name} is of {at}, which is later than that time: name an earlier copy");
    }
    found.with_context(|| format!("{name} has no {}", shown(key)))
}

/// What is known now of every item that the history names.
fn items_of(
    store: &Store,
    entries: &[AuditEntry],
) -> anyhow::Result<BTreeMap<ItemId, (ItemKind, Option<Key>)>> {
    let mut items = BTreeMap::new();
    for op in entries.iter().flat_map(|entry| &entry.ops) {
        let (LedgerOp::Make { item, .. }
        | LedgerOp::Move { item, .. }
        | LedgerOp::Change { item, .. }
        | LedgerOp::Destroy { item, .. }
        | LedgerOp::SendItem { item, .. }
        | LedgerOp::ReceiveItem { item, .. }) = op
        else {
            continue;
        };
        if let Some(known) = store.item(*item).wait()? {
            items.insert(*item, (known.kind, known.holder));
        }
    }
    Ok(items)
}

/// Runs the history forward to `to` and compares it with what is held.
fn plan(
    me: Key,
    to: u64,
    held: &Holdings,
    entries: &[AuditEntry],
    items: &BTreeMap<ItemId, (ItemKind, Option<Key>)>,
    random: &mut Random,
) -> Plan {
    let mut plan = Plan::default();
    // The whole history must lead to what is held, else it was begun by an older release.
    let (now, _, _) = replay(me, entries.iter());
    let (then, had, data) = replay(me, entries.iter().filter(|entry| entry.at_ms <= to));
    let currencies: BTreeSet<_> = then.keys().chain(held.balances.keys()).copied().collect();
    for currency in currencies {
        let of = |all: &BTreeMap<Currency, i128>| all.get(&currency).copied().unwrap_or(0);
        let has = i128::from(held.balances.get(&currency).copied().unwrap_or(0));
        let (target, known) = (of(&then), of(&now));
        if known != has || target < 0 {
            plan.odd.push(currency);
            continue;
        }
        let amount = u64::try_from(target.abs_diff(has)).unwrap_or(u64::MAX);
        match target.cmp(&has) {
            std::cmp::Ordering::Greater => {
                plan.steps.push(LedgerOp::Mint { holder: me, currency, amount });
            }
            std::cmp::Ordering::Less => {
                plan.steps.push(LedgerOp::Burn { holder: me, currency, amount });
            }
            std::cmp::Ordering::Equal => {}
        }
    }
    let mut surplus: BTreeMap<_, _> =
        held.items.iter().filter(|(item, _)| !had.contains(item)).collect();
    for item in had.iter().filter(|item| !held.items.contains_key(item)) {
        let Some((kind, holder)) = items.get(item) else { continue };
        if let Some(holder) = holder {
            plan.elsewhere.push((*item, *holder));
            continue;
        }
        // The id of what was destroyed stays used: it comes back under another, once.
        let data = data.get(item).cloned().unwrap_or_default();
        let same = surplus.iter().find(|(_, held)| held.kind == *kind && held.data == data);
        if let Some(same) = same.map(|(id, _)| *id) {
            surplus.remove(same);
            continue;
        }
        let item = ItemId(u128::from(random.u64()) << 64 | u128::from(random.u64()));
        plan.steps.push(LedgerOp::Make { item, kind: *kind, holder: me, data });
    }
    let gone = surplus.keys().map(|item| LedgerOp::Destroy { item: **item, holder: me });
    plan.steps.extend(gone);
    plan
}

type Replayed = (BTreeMap<Currency, i128>, BTreeSet<ItemId>, BTreeMap<ItemId, Vec<u8>>);

/// Balances, items and the items' data after those transactions.
fn replay<'a>(me: Key, entries: impl Iterator<Item = &'a AuditEntry>) -> Replayed {
    let (mut balances, mut items, mut data) = Replayed::default();
    let mut add = |currency: &Currency, amount: i128| {
        *balances.entry(*currency).or_default() += amount;
    };
    for op in entries.flat_map(|entry| &entry.ops) {
        match op {
            LedgerOp::Mint { holder, currency, amount }
            | LedgerOp::Receive { holder, currency, amount }
                if *holder == me =>
            {
                add(currency, i128::from(*amount));
            }
            LedgerOp::Burn { holder, currency, amount }
            | LedgerOp::Send { holder, currency, amount }
                if *holder == me =>
            {
                add(currency, -i128::from(*amount));
            }
            LedgerOp::Pay { from, to, currency, amount } => {
                let gained = i128::from(*to == me) - i128::from(*from == me);
                add(currency, gained * i128::from(*amount));
            }
            LedgerOp::Make { item, holder, data: made, .. }
            | LedgerOp::ReceiveItem { item, holder, data: made, .. }
                if *holder == me =>
            {
                items.insert(*item);
                data.insert(*item, made.clone());
            }
            LedgerOp::Change { item, data: changed, .. } => {
                data.insert(*item, changed.clone());
            }
            LedgerOp::Move { item, to, .. } if *to == me => drop(items.insert(*item)),
            LedgerOp::Move { item, from, .. } if *from == me => drop(items.remove(item)),
            LedgerOp::Destroy { item, .. } | LedgerOp::SendItem { item, .. } => {
                items.remove(item);
            }
            _ => {}
        }
    }
    (balances, items, data)
}

/// Does it under a claim of its own, so that nobody else can write the entity meanwhile.
fn apply(
    store: &Store,
    key: Key,
    held: &Holdings,
    steps: Vec<LedgerOp>,
    documents: Option<Documents>,
    note: &str,
) -> anyhow::Result<()> {
    bury_all(store)?;
    let mut random = Random::from_os();
    let me = Incarnation(random.u64());
    let generation = store.beat(me).wait()?.generation;
    let ask = Activate { key, generation, incarnation: me, reclaim: None };
    let taken = store.activate(ask).wait()?;
    let mut version = taken.version;
    let mut patch = Patch::new();
    if let Some(documents) = documents {
        // What is no longer there then goes too.
        patch.extend(taken.documents.keys().map(|name| (name.clone(), None)));
        patch.extend(documents.into_iter().map(|(name, bytes)| (name, Some(bytes))));
    }
    let mut ledger = held.version;
    let mut pieces: Vec<Vec<LedgerOp>> = steps.chunks(STEPS_MAX).map(<[_]>::to_vec).collect();
    if pieces.is_empty() {
        pieces.push(Vec::new());
    }
    for ops in pieces {
        let id = TxnId(u128::from(random.u64()) << 64 | u128::from(random.u64()));
        let mut txn = Transaction::new(id, generation);
        let patch = std::mem::take(&mut patch);
        txn.writes = vec![Save { claim: taken.claim, version, patch }];
        txn.ledgers = BTreeMap::from([(key, ledger)]);
        txn.ops = ops;
        txn.note = note.to_owned();
        txn.at_ms = Clock::system().wall().0;
        let receipt = store.commit(txn).wait()?;
        version = receipt.versions[&key];
        ledger = receipt.ledgers.get(&key).copied().unwrap_or(ledger);
    }
    store.release(taken.claim, version).wait()?;
    bury_all(store)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: Key = Key(7);
    const OTHER: Key = Key(8);
    const GOLD: Currency = Currency(1);

    fn commit(store: &Store, at_ms: u64, ops: Vec<LedgerOp>) {
        let id = TxnId(u128::from(at_ms));
        let txn = Transaction { ops, at_ms, ..Transaction::new(id, 1) };
        store.commit(txn).wait().unwrap();
    }

    #[test]
    fn a_holder_gets_back_what_it_had_and_others_keep_theirs() {
        let store = Store::memory(mainstay::store::Limits::default());
        let make =
            |item, data| LedgerOp::Make { item: ItemId(item), kind: ItemKind(1), holder: ME, data };
        let mint = |amount| LedgerOp::Mint { holder: ME, currency: GOLD, amount };
        commit(&store, 10, vec![mint(100), make(1, vec![1]), make(2, vec![2]), make(3, vec![3])]);
        // The time to go back to is here: 100 gold, items 1, 2, 3.
        commit(&store, 30, vec![LedgerOp::Pay { from: ME, to: OTHER, currency: GOLD, amount: 70 }]);
        commit(
            &store,
            40,
            vec![
                LedgerOp::Move { item: ItemId(1), from: ME, to: OTHER },
                LedgerOp::Destroy { item: ItemId(2), holder: ME },
                make(4, vec![4]),
            ],
        );
        let restore = |to| {
            let held = store.holdings(ME).wait().unwrap();
            let entries = history(&store, ME, 0).unwrap();
            let items = items_of(&store, &entries).unwrap();
            let random = &mut Random::from_seed(1);
            (plan(ME, to, &held, &entries, &items, random), held)
        };
        let (plan, held) = restore(20);
        assert_eq!((plan.steps.len(), &plan.elsewhere), (3, &vec![(ItemId(1), OTHER)]));
        let documents = Documents::from([("self".to_owned(), vec![9])]);
        apply(&store, ME, &held, plan.steps, Some(documents), "restored").unwrap();
        let held = store.holdings(ME).wait().unwrap();
        assert_eq!(held.balances[&GOLD], 100);
        let mut data: Vec<_> = held.items.values().map(|item| item.data.clone()).collect();
        data.sort();
        assert_eq!(data, [[2], [3]], "what was destroyed is back, what was made later is gone");
        assert_eq!(store.holdings(OTHER).wait().unwrap().balances[&GOLD], 70);
        assert_eq!(store.load(ME).wait().unwrap().unwrap().documents["self"], [9]);
        let verdict = store.verify().wait().unwrap();
        assert_eq!(verdict.faults, Vec::<String>::new());
        assert_eq!(restore(u64::MAX).0, Plan::default(), "nothing is to be done");
    }
}
