//! Reads every row and holds the ledger against its own counts.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;

use super::commit::corrupt;
use super::rows::{
    EntityRow, FORGOTTEN, FORMAT, GENERATION, HolderRow, OutboxRow, RecordRow, TXN_SEQUENCE,
    TxnRow, held_key,
};
use super::{index, slots};
use crate::error::Error;
use crate::index::INDEX_SHEET;
use crate::ledger::{AuditEntry, Currency, Item, ItemId, ItemKind, Supply, Verdict};
use crate::row::{self, Row};
use crate::slots::Slot;
use crate::tables::{Stage, Table};
use crate::types::Key;

const FAULTS_MAX: usize = 100;

/// Rows without those of slots that are another shard's.
struct Counted<'s, 'a> {
    s: &'s Stage<'a>,
    /// `None`: all.
    here: Option<BTreeSet<Slot>>,
}

impl Counted<'_, '_> {
    fn counts(&self, slot: Slot) -> bool {
        self.here.as_ref().is_none_or(|here| here.contains(&slot))
    }
}

impl<'a> Deref for Counted<'_, 'a> {
    type Target = Stage<'a>;

    fn deref(&self) -> &Stage<'a> {
        self.s
    }
}

/// Costs one look at every row. Memory: one row, the kinds and currencies, and the faults.
pub(crate) fn verify(s: &mut Stage<'_>) -> Result<Verdict, Error> {
    s.leave_slots_unchecked();
    let mut verdict = Verdict::default();
    let here = slots::counted(s)?;
    let s = &Counted { s, here };
    each::<u64>(s, Table::Node, &mut verdict, |_, _, _| Ok(()))?;
    let marks = marks(s, &mut verdict)?;
    let counts = |slot| s.counts(slot);
    let mut entities = 0;
    each::<EntityRow>(s, Table::Entity, &mut verdict, |verdict, key, row| {
        entities += 1;
        let sheet = row.documents.get(INDEX_SHEET).map(Vec::as_slice);
        index::Check { counts: &counts, fault: &mut |line| fault(verdict, line) }
            .entity(s, key, sheet)
    })?;
    each::<OutboxRow>(s, Table::Outbox, &mut verdict, |_, _, _| Ok(()))?;
    each::<RecordRow>(s, Table::Record, &mut verdict, |verdict, key, row| {
        index::Check { counts: &counts, fault: &mut |line| fault(verdict, line) }
            .record(s, key, &row)
    })?;
    let (mut counted, mut holders) = (0, 0);
    each::<HolderRow>(s, Table::Holder, &mut verdict, |verdict, _, row| {
        holders += 1;
        counted += u64::from(row.items);
        for (currency, amount) in row.balances {
            *verdict.currencies.entry(currency).or_default() += u128::from(amount);
        }
        Ok(())
    })?;
    if marks != (entities, holders) {
        let line =
            format!("{marks:?} entities and holders were made, there are {entities} and {holders}");
        fault(&mut verdict, line);
    }
    let held = items(s, &mut verdict)?;
    if counted != held {
        fault(&mut verdict, format!("holders count {counted} items, there are {held}"));
    }
    supplies(s, &mut verdict)?;
    transactions(s, &mut verdict)?;
    each_slot_row(s, &mut verdict)?;
    Ok(verdict)
}

/// Checks what stands in `meta`: how many entities and holders were ever made.
fn marks(s: &Counted<'_, '_>, verdict: &mut Verdict) -> Result<(u64, u64), Error> {
    let mut made = (0, 0);
    each::<u64>(s, Table::Meta, verdict, |_, key, _| {
        match key {
            [b'+', table, ..] if *table == Table::Entity as u8 => made.0 += 1,
            [b'+', ..] => made.1 += 1,
            _ => {}
        }
        Ok(())
    })?;
    for needed in [FORMAT, GENERATION] {
        if s.row::<u64>(Table::Meta, needed)?.is_none() {
            fault(verdict, format!("the {} is lost", String::from_utf8_lossy(needed)));
        }
    }
    Ok(made)
}

/// Checks items against the index of who holds them; the number of items that are held.
fn items(s: &Counted<'_, '_>, verdict: &mut Verdict) -> Result<u64, Error> {
    let mut held = 0;
    each::<Item>(s, Table::Item, verdict, |verdict, key, row| {
        let Some(holder) = row.holder else { return Ok(()) };
        let id =
            ItemId(key.try_into().map(u128::from_be_bytes).map_err(|_| corrupt(Table::Item, key))?);
        if !s.counts(Slot::of(holder)) {
            return Ok(());
        }
        held += 1;
        *verdict.items.entry(row.kind).or_default() += 1;
        if s.row::<()>(Table::Held, &held_key(holder, id))?.is_none() {
            fault(verdict, format!("{id} is missing among what {holder} holds"));
        }
        Ok(())
    })?;
    each::<()>(s, Table::Held, verdict, |verdict, key, ()| {
        let (holder, id) =
            key.split_first_chunk::<16>().ok_or_else(|| corrupt(Table::Held, key))?;
        let holder = Key(u128::from_be_bytes(*holder));
        let item = s.row::<Item>(Table::Item, id)?;
        if item.and_then(|item| item.holder) != Some(holder) {
            fault(verdict, format!("{holder} does not hold item {}", row::hex(id)));
        }
        Ok(())
    })?;
    Ok(held)
}

/// Made less destroyed must be what is held.
fn supplies(s: &Counted<'_, '_>, verdict: &mut Verdict) -> Result<(), Error> {
    let (mut currencies, mut kinds) = (BTreeMap::<u32, (u128, u128)>::new(), BTreeMap::new());
    each::<Supply>(s, Table::Supply, verdict, |verdict, key, row| {
        let [class, of @ ..] = key else { return Err(corrupt(Table::Supply, key)) };
        let of = of.try_into().map(u32::from_be_bytes).map_err(|_| corrupt(Table::Supply, key))?;
        let sums = if class % 2 == 0 { &mut currencies } else { &mut kinds };
        let (made, destroyed) = sums.entry(of).or_insert((0, 0));
        *made += row.made;
        *destroyed += row.destroyed;
        if *class < 2 && row.made < row.destroyed {
            fault(verdict, format!("more destroyed than made of supply {class}/{of}"));
        }
        let away = i128::try_from(row.destroyed).unwrap_or(i128::MAX)
            - i128::try_from(row.made).unwrap_or(i128::MAX);
        match class {
            2 if away != 0 => drop(verdict.transit.insert(Currency(of), away)),
            3 if away != 0 => drop(verdict.items_transit.insert(ItemKind(of), away)),
            _ => {}
        }
        Ok(())
    })?;
    // What came from other shards counts as made here, what went there as destroyed.
    let mut left = |sums: BTreeMap<u32, (u128, u128)>| {
        let mut held = BTreeMap::new();
        for (of, (made, destroyed)) in sums {
            match made.checked_sub(destroyed) {
                None => fault(verdict, format!("{of}: {destroyed} went, of {made}")),
                Some(0) => {}
                Some(left) => drop(held.insert(of, left)),
            }
        }
        held
    };
    let (currencies, kinds) = (left(currencies), left(kinds));
    let currencies = currencies.into_iter().map(|(of, n)| (Currency(of), n));
    let currencies: BTreeMap<Currency, u128> = currencies.collect();
    let kinds: BTreeMap<_, _> = kinds.into_iter().map(|(of, n)| (ItemKind(of), n)).collect();
    if currencies != verdict.currencies {
        let held = &verdict.currencies;
        let line = format!("made less destroyed is {currencies:?}, held are {held:?}");
        fault(verdict, line);
    }
    if kinds != verdict.items {
        let held = &verdict.items;
        let line = format!("made less destroyed is {kinds:?}, held are {held:?}");
        fault(verdict, line);
    }
    Ok(())
}

/// Every transaction that is remembered has its place in the audit, and the other way round.
fn transactions(s: &Counted<'_, '_>, verdict: &mut Verdict) -> Result<(), Error> {
    let forgotten = s.row::<u64>(Table::Meta, FORGOTTEN)?.unwrap_or(0);
    let mut last = 0;
    each::<AuditEntry>(s, Table::Audit, verdict, |verdict, _, entry| {
        if entry.sequence != last + 1 {
            fault(verdict, format!("the audit goes from {last} to {}", entry.sequence));
        }
        last = entry.sequence;
        let txn = s.row::<TxnRow>(Table::Txn, &entry.txn.0.to_be_bytes())?;
        let known = txn.is_some_and(|row| row.receipt.sequence == entry.sequence);
        if known != (entry.sequence > forgotten) {
            fault(verdict, format!("{} of the audit is not what is remembered", entry.txn));
        }
        Ok(())
    })?;
    let counter = s.row::<u64>(Table::Meta, TXN_SEQUENCE)?.unwrap_or(0);
    if counter != last {
        fault(verdict, format!("the audit ends at {last}, the last transaction was {counter}"));
    }
    each::<TxnRow>(s, Table::Txn, verdict, |_, _, _| Ok(()))
}

/// Which other row [`verify`] looks up when it comes to this one: whoever fetches rows by the page can
/// fetch those with it.
#[cfg(feature = "remote")]
pub(crate) fn looked_up(table: Table, key: &[u8], bytes: &[u8]) -> Option<(Table, Vec<u8>)> {
    match table {
        Table::Item => {
            let item: Item = row::decode(table, key, bytes).ok()?;
            let id = ItemId(u128::from_be_bytes(key.try_into().ok()?));
            Some((Table::Held, held_key(item.holder?, id).to_vec()))
        }
        Table::Held => Some((Table::Item, key.get(16..)?.to_vec())),
        Table::Record => index::looked_up(key, bytes),
        Table::Audit => {
            let entry: AuditEntry = row::decode(table, key, bytes).ok()?;
            Some((Table::Txn, entry.txn.0.to_be_bytes().to_vec()))
        }
        _ => None,
    }
}

fn each<R: Row>(
    s: &Counted<'_, '_>,
    table: Table,
    verdict: &mut Verdict,
    mut see: impl FnMut(&mut Verdict, &[u8], R) -> Result<(), Error>,
) -> Result<(), Error> {
    s.scan(table, &[], &mut |key, bytes| {
        if slots::slot_of_row(table, key).is_some_and(|slot| !s.counts(slot)) {
            return Ok(true);
        }
        verdict.rows += 1;
        let seen = row::decode(table, key, bytes).and_then(|row| see(verdict, key, row));
        match seen {
            Err(error @ Error::Corrupt { .. }) => fault(verdict, error.to_string()),
            other => other?,
        }
        Ok(true)
    })
}

fn fault(verdict: &mut Verdict, line: String) {
    if verdict.faults.len() < FAULTS_MAX {
        verdict.faults.push(line);
    }
}

/// Every row about slots can be read.
fn each_slot_row(s: &Counted<'_, '_>, verdict: &mut Verdict) -> Result<(), Error> {
    s.scan(Table::Slot, &[], &mut |key, bytes| {
        if let Err(error) = slots::check_row(key, bytes) {
            fault(verdict, error.to_string());
        }
        Ok(true)
    })
}
