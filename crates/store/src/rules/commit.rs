//! Transactions over documents and ledger.

use std::collections::{BTreeMap, BTreeSet};

use super::owner::{claimed, save};
use super::record;
use super::rows::{
    FORGOTTEN, HolderRow, OUTBOX_SEQUENCE, OutboxRow, TXN_SEQUENCE, TxnRow, currency_key, held_key,
    kind_key, moved_currency_key, moved_kind_key,
};
use super::{at_most, check_generation, made_row, put_made, slots};
use crate::error::{Error, Refusal};
use crate::ledger::{
    AuditEntry, Currency, Holdings, Item, ItemId, ItemKind, LedgerOp, Outgoing, Receipt, Supply,
    Transaction, TxnId,
};
use crate::options::Mutant;
use crate::row;
use crate::slots::Slot;
use crate::tables::{Stage, Table};
use crate::types::Key;

/// `content` is the transaction's content hash.
pub(crate) fn commit(
    s: &mut Stage<'_>,
    txn: &Transaction,
    content: [u8; 32],
) -> Result<Receipt, Error> {
    s.expect(rows_of(txn));
    let (id, forgets) = (txn.id.0.to_be_bytes(), s.limits.mutant == Some(Mutant::IdsForgotten));
    // Nearly every transaction is asked for once.
    if !s.take_for_new(Table::Txn, &id)
        && let Some(done) = s.row::<TxnRow>(Table::Txn, &id)?.filter(|_| !forgets)
    {
        let same = done.content == content;
        return if same { Ok(done.receipt) } else { Err(Error::TxnReused(txn.id)) };
    }
    check_shape(s, txn)?;
    check_generation(s, txn.generation)?;
    for claim in &txn.claims {
        claimed(s, claim, |_| Ok(()))?;
        s.touch(Slot::of(claim.key));
    }
    if txn.writes.is_empty()
        && txn.claims.is_empty()
        && txn.ops.is_empty()
        && txn.records.is_empty()
    {
        s.touch(txn.slot.unwrap_or_else(|| Slot::of_txn(txn.id)));
    }
    let mut versions = BTreeMap::new();
    for write in &txn.writes {
        versions.insert(write.claim.key, save(s, write)?);
    }
    record::apply(s, &txn.records)?;
    for (&holder, &version) in &txn.ledgers {
        let current = holder_row(s, holder)?.version;
        if current != version {
            return Err(Error::LedgerMoved { holder, current });
        }
    }
    let mut books = Books { s, txn: txn.id, holders: BTreeMap::new(), moved: BTreeSet::new() };
    for op in &txn.ops {
        books.apply(op)?;
    }
    let (ledgers, balances) = books.close();
    let sequence = next(s, TXN_SEQUENCE)?;
    record(s, txn, content, Receipt { id: txn.id, sequence, versions, ledgers, balances })
}

/// Rows that a transaction reads unless it is refused early.
fn rows_of(txn: &Transaction) -> impl Iterator<Item = (Table, Vec<u8>)> {
    let of = |table, key: &[u8]| (table, key.to_vec());
    let of_row = of;
    let holder = move |key: Key| of(Table::Holder, &key.0.to_be_bytes());
    let item = move |item: ItemId| of(Table::Item, &item.0.to_be_bytes());
    let claims = txn.writes.iter().map(|write| write.claim).chain(txn.claims.iter().copied());
    let entities = claims.map(move |claim| of(Table::Entity, &claim.key.0.to_be_bytes()));
    let ops = txn.ops.iter().flat_map(move |op| match *op {
        LedgerOp::Make { item: id, kind, holder: to, .. } => {
            vec![item(id), holder(to), of(Table::Supply, &kind_key(kind))]
        }
        LedgerOp::Move { item: id, from, to } => vec![item(id), holder(from), holder(to)],
        LedgerOp::Change { item: id, holder: of, .. }
        | LedgerOp::Destroy { item: id, holder: of } => vec![item(id), holder(of)],
        LedgerOp::Mint { holder: to, currency, .. } => {
            vec![holder(to), of(Table::Supply, &currency_key(currency))]
        }
        LedgerOp::Burn { holder: from, currency, .. } => {
            vec![holder(from), of(Table::Supply, &currency_key(currency))]
        }
        LedgerOp::Pay { from, to, .. } => vec![holder(from), holder(to)],
        LedgerOp::SendItem { item: id, kind, holder: of, .. }
        | LedgerOp::ReceiveItem { item: id, kind, holder: of, .. } => {
            vec![item(id), holder(of), of_row(Table::Supply, &moved_kind_key(kind))]
        }
        LedgerOp::Send { holder: of, currency, .. }
        | LedgerOp::Receive { holder: of, currency, .. } => {
            vec![holder(of), of_row(Table::Supply, &moved_currency_key(currency))]
        }
    });
    let ledgers = txn.ledgers.keys().map(move |key| holder(*key));
    let counters = [TXN_SEQUENCE, OUTBOX_SEQUENCE].map(|key| of(Table::Meta, key));
    let records = txn.records.iter().flat_map(record::places);
    entities.chain(ops).chain(ledgers).chain(records).chain(counters)
}

fn check_shape(s: &Stage<'_>, txn: &Transaction) -> Result<(), Error> {
    let limits = s.limits;
    let entities = txn.writes.len() + txn.claims.len();
    at_most("entities of a transaction", entities, limits.txn_entities_max)?;
    at_most("ledger operations of a transaction", txn.ops.len(), limits.txn_ledger_max)?;
    at_most("ledger versions of a transaction", txn.ledgers.len(), 2 * limits.txn_ledger_max)?;
    at_most("records of a transaction", txn.records.len(), limits.records_max)?;
    at_most("messages of a transaction", txn.messages.len(), limits.txn_messages_max)?;
    at_most("bytes of a transaction's note", txn.note.len(), limits.note_bytes_max)?;
    for message in &txn.messages {
        let bytes = message.topic.len() + message.body.len();
        at_most("bytes of an outbox message", bytes, limits.message_bytes_max)?;
    }
    let written = txn.writes.iter().map(|write| write.claim.key);
    let mut keys = Vec::with_capacity(entities);
    keys.extend(written.chain(txn.claims.iter().map(|claim| claim.key)));
    keys.sort_unstable();
    if keys.windows(2).any(|two| two[0] == two[1]) {
        return Err(Error::Malformed("a transaction names an entity twice"));
    }
    for op in &txn.ops {
        match op {
            LedgerOp::Make { data, .. }
            | LedgerOp::Change { data, .. }
            | LedgerOp::SendItem { data, .. }
            | LedgerOp::ReceiveItem { data, .. } => {
                at_most("bytes of an item's data", data.len(), limits.item_bytes_max)?;
            }
            LedgerOp::Mint { amount: 0, .. }
            | LedgerOp::Burn { amount: 0, .. }
            | LedgerOp::Pay { amount: 0, .. }
            | LedgerOp::Send { amount: 0, .. }
            | LedgerOp::Receive { amount: 0, .. } => {
                return Err(Error::Malformed("an amount is zero"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Writes down that a transaction was done, and gives its receipt back.
fn record(
    s: &mut Stage<'_>,
    txn: &Transaction,
    content: [u8; 32],
    receipt: Receipt,
) -> Result<Receipt, Error> {
    let written = txn.writes.iter().map(|write| write.claim);
    let entry = AuditEntry {
        sequence: receipt.sequence,
        txn: txn.id,
        at_ms: txn.at_ms,
        ops: txn.ops.clone(),
        claims: written.chain(txn.claims.iter().copied()).collect(),
        note: txn.note.clone(),
    };
    s.put(Table::Audit, &receipt.sequence.to_be_bytes(), &entry);
    for message in &txn.messages {
        let sequence = next(s, OUTBOX_SEQUENCE)?;
        let row = OutboxRow { txn: txn.id, message: message.clone() };
        s.put(Table::Outbox, &sequence.to_be_bytes(), &row);
    }
    let row = TxnRow { content, receipt };
    s.put(Table::Txn, &txn.id.0.to_be_bytes(), &row);
    Ok(row.receipt)
}

fn next(s: &mut Stage<'_>, counter: &[u8]) -> Result<u64, Error> {
    let next = s.row::<u64>(Table::Meta, counter)?.unwrap_or(0) + 1;
    s.put(Table::Meta, counter, &next);
    Ok(next)
}

fn holder_row(s: &Stage<'_>, holder: Key) -> Result<HolderRow, Error> {
    Ok(made_row(s, Table::Holder, holder)?.unwrap_or_default())
}

fn item_row(s: &Stage<'_>, item: ItemId) -> Result<Option<Item>, Error> {
    s.row(Table::Item, &item.0.to_be_bytes())
}

/// The ledger while one transaction changes it.
struct Books<'s, 'a> {
    s: &'s mut Stage<'a>,
    txn: TxnId,
    holders: BTreeMap<Key, HolderRow>,
    moved: BTreeSet<(Key, Currency)>,
}

type Closed = (BTreeMap<Key, u64>, BTreeMap<(Key, Currency), u64>);

impl Books<'_, '_> {
    fn apply(&mut self, op: &LedgerOp) -> Result<(), Error> {
        match *op {
            LedgerOp::Make { item, kind, holder, ref data } => {
                if item_row(self.s, item)?.is_some() {
                    return Err(Refusal::ItemExists(item).into());
                }
                let row = Item { kind, holder: None, last_txn: self.txn, data: data.clone() };
                self.count(&kind_key(kind), |supply| supply.made += 1)?;
                self.give_item(item, row, holder)
            }
            LedgerOp::Move { item, from, to } => {
                let row = self.take_item(item, from)?;
                self.give_item(item, row, to)
            }
            LedgerOp::Change { item, holder, ref data } => {
                let row = self.take_item(item, holder)?;
                self.give_item(item, Item { data: data.clone(), ..row }, holder)
            }
            LedgerOp::Destroy { item, holder } => {
                let row = self.take_item(item, holder)?;
                self.count(&kind_key(row.kind), |supply| supply.destroyed += 1)?;
                // The row stays, so that the id is never given out again.
                let row = Item { data: Vec::new(), ..row };
                self.s.put(Table::Item, &item.0.to_be_bytes(), &row);
                Ok(())
            }
            LedgerOp::Mint { holder, currency, amount } => {
                self.count(&currency_key(currency), |supply| supply.made += u128::from(amount))?;
                self.give(holder, currency, amount)
            }
            LedgerOp::Burn { holder, currency, amount } => {
                let burn = |supply: &mut Supply| supply.destroyed += u128::from(amount);
                self.count(&currency_key(currency), burn)?;
                self.take(holder, currency, amount)
            }
            LedgerOp::Pay { from, to, currency, amount } => {
                self.take(from, currency, amount)?;
                self.give(to, currency, amount)
            }
            LedgerOp::SendItem { item, kind, holder, ref data } => {
                let row = self.take_item(item, holder)?;
                if row.kind != kind || row.data != *data {
                    return Err(Refusal::ItemChanged(item).into());
                }
                self.count(&moved_kind_key(kind), |moved| moved.destroyed += 1)?;
                // It is nobody's here any more, and may come back.
                self.s.remove(Table::Item, &item.0.to_be_bytes());
                Ok(())
            }
            LedgerOp::ReceiveItem { item, kind, holder, ref data } => {
                if item_row(self.s, item)?.is_some() {
                    return Err(Refusal::ItemExists(item).into());
                }
                self.count(&moved_kind_key(kind), |moved| moved.made += 1)?;
                let row = Item { kind, holder: None, last_txn: self.txn, data: data.clone() };
                self.give_item(item, row, holder)
            }
            LedgerOp::Send { holder, currency, amount } => {
                let gone = |moved: &mut Supply| moved.destroyed += u128::from(amount);
                self.count(&moved_currency_key(currency), gone)?;
                self.take(holder, currency, amount)
            }
            LedgerOp::Receive { holder, currency, amount } => {
                let came = |moved: &mut Supply| moved.made += u128::from(amount);
                self.count(&moved_currency_key(currency), came)?;
                self.give(holder, currency, amount)
            }
        }
    }

    fn holder(&mut self, key: Key) -> Result<&mut HolderRow, Error> {
        if !self.holders.contains_key(&key) {
            self.holders.insert(key, holder_row(self.s, key)?);
        }
        Ok(self.holders.get_mut(&key).expect("inserted above"))
    }

    fn take(&mut self, holder: Key, currency: Currency, needs: u64) -> Result<(), Error> {
        self.moved.insert((holder, currency));
        let balances = &mut self.holder(holder)?.balances;
        let has = balances.get(&currency).copied().unwrap_or(0);
        match has.checked_sub(needs) {
            None => Err(Refusal::Insufficient { holder, currency, has, needs }.into()),
            Some(0) => {
                balances.remove(&currency);
                Ok(())
            }
            Some(left) => {
                balances.insert(currency, left);
                Ok(())
            }
        }
    }

    fn give(&mut self, holder: Key, currency: Currency, amount: u64) -> Result<(), Error> {
        self.moved.insert((holder, currency));
        let max = self.s.limits.currencies_max;
        let balances = &mut self.holder(holder)?.balances;
        let has = balances.get(&currency).copied();
        if has.is_none() && balances.len() >= max {
            return Err(Refusal::CurrenciesFull(holder).into());
        }
        let sum = has.unwrap_or(0).checked_add(amount);
        balances.insert(currency, sum.ok_or(Refusal::Overflow { holder, currency })?);
        Ok(())
    }

    /// The item's row without its holder, who must have had it.
    fn take_item(&mut self, item: ItemId, holder: Key) -> Result<Item, Error> {
        let row = item_row(self.s, item)?.filter(|row| row.holder == Some(holder));
        let row = row.ok_or(Refusal::NotHeld { item, holder })?;
        let items = &mut self.holder(holder)?.items;
        // A row that says otherwise is damage, which `verify` reports.
        *items = items.saturating_sub(1);
        self.s.remove(Table::Held, &held_key(holder, item));
        Ok(Item { holder: None, last_txn: self.txn, ..row })
    }

    fn give_item(&mut self, item: ItemId, row: Item, holder: Key) -> Result<(), Error> {
        let max = self.s.limits.items_max;
        let items = &mut self.holder(holder)?.items;
        if *items as usize >= max {
            return Err(Refusal::ItemsFull(holder).into());
        }
        *items += 1;
        let row = Item { holder: Some(holder), ..row };
        self.s.put(Table::Item, &item.0.to_be_bytes(), &row);
        self.s.put(Table::Held, &held_key(holder, item), &());
        Ok(())
    }

    fn count(&mut self, key: &[u8; 5], change: impl FnOnce(&mut Supply)) -> Result<(), Error> {
        let mut supply = self.s.row(Table::Supply, key)?.unwrap_or_default();
        change(&mut supply);
        self.s.put(Table::Supply, key, &supply);
        Ok(())
    }

    /// Writes the touched holders, each one version higher.
    fn close(self) -> Closed {
        let (mut ledgers, mut balances) = (BTreeMap::new(), BTreeMap::new());
        for (key, mut row) in self.holders {
            let is_new = row.version == 0;
            row.version += 1;
            ledgers.insert(key, row.version);
            for &(holder, currency) in self.moved.range((key, Currency(0))..=(key, Currency(!0))) {
                let amount = row.balances.get(&currency).copied().unwrap_or(0);
                balances.insert((holder, currency), amount);
            }
            put_made(self.s, Table::Holder, key, &row, is_new);
        }
        (ledgers, balances)
    }
}

pub(crate) fn lookup(s: &mut Stage<'_>, id: TxnId) -> Result<Option<Receipt>, Error> {
    Ok(s.row::<TxnRow>(Table::Txn, &id.0.to_be_bytes())?.map(|row| row.receipt))
}

pub(crate) fn item(s: &mut Stage<'_>, id: ItemId) -> Result<Option<Item>, Error> {
    item_row(s, id)
}

pub(crate) fn holdings(s: &mut Stage<'_>, holder: Key) -> Result<Holdings, Error> {
    let row = holder_row(s, holder)?;
    let mut ids = Vec::new();
    let (prefix, max) = (holder.0.to_be_bytes(), s.limits.items_max);
    s.scan(Table::Held, &prefix, &mut |key, _| {
        let Some(id) = key.strip_prefix(&prefix) else { return Ok(false) };
        let id = id.try_into().map(u128::from_be_bytes);
        ids.push(ItemId(id.map_err(|_| corrupt(Table::Held, key))?));
        Ok(ids.len() < max)
    })?;
    // All are read before one is looked at: what is not there yet is fetched in one go.
    let rows = ids.iter().map(|id| item_row(s, *id)).collect::<Result<Vec<_>, _>>()?;
    let mut items = BTreeMap::new();
    for (id, row) in ids.into_iter().zip(rows) {
        let item = row.filter(|item| item.holder == Some(holder));
        items.insert(id, item.ok_or_else(|| corrupt(Table::Held, &held_key(holder, id)))?);
    }
    if items.len() != row.items as usize && items.len() < max {
        return Err(corrupt(Table::Held, &prefix));
    }
    Ok(Holdings { version: row.version, balances: row.balances, items })
}

pub(crate) fn supply(s: &mut Stage<'_>, of: Of) -> Result<Supply, Error> {
    let key = match of {
        Of::Currency(currency) => currency_key(currency),
        Of::Items(kind) => kind_key(kind),
    };
    Ok(s.row(Table::Supply, &key)?.unwrap_or_default())
}

/// What a supply is asked of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// A currency, in its units.
    Currency(Currency),
    /// A kind of item, by number.
    Items(ItemKind),
}

pub(crate) fn outbox(s: &mut Stage<'_>, after: u64, max: usize) -> Result<Vec<Outgoing>, Error> {
    let (mut messages, max) = (Vec::new(), max.min(s.limits.scan_max));
    s.scan(Table::Outbox, &after.saturating_add(1).to_be_bytes(), &mut |key, bytes| {
        if messages.len() >= max {
            return Ok(false);
        }
        let OutboxRow { txn, message } = row::decode(Table::Outbox, key, bytes)?;
        messages.push(Outgoing { sequence: sequence_of(Table::Outbox, key)?, txn, message });
        Ok(true)
    })?;
    Ok(messages)
}

pub(crate) fn outbox_ack(s: &mut Stage<'_>, up_to: u64) -> Result<usize, Error> {
    let (mut gone, max) = (Vec::new(), s.limits.scan_max);
    s.scan(Table::Outbox, &[], &mut |key, _| {
        let goes = gone.len() < max && sequence_of(Table::Outbox, key)? <= up_to;
        if goes {
            gone.push(key.to_vec());
        }
        Ok(goes)
    })?;
    for key in &gone {
        s.remove(Table::Outbox, key);
    }
    Ok(gone.len())
}

pub(crate) fn audit(s: &mut Stage<'_>, after: u64, max: usize) -> Result<Vec<AuditEntry>, Error> {
    let (mut entries, max) = (Vec::new(), max.min(s.limits.scan_max));
    s.scan(Table::Audit, &after.saturating_add(1).to_be_bytes(), &mut |key, bytes| {
        if entries.len() >= max {
            return Ok(false);
        }
        entries.push(row::decode(Table::Audit, key, bytes)?);
        Ok(true)
    })?;
    Ok(entries)
}

pub(crate) fn forget(s: &mut Stage<'_>, before_ms: u64) -> Result<usize, Error> {
    let forgotten = s.row::<u64>(Table::Meta, FORGOTTEN)?.unwrap_or(0);
    let entries = audit(s, forgotten, usize::MAX)?;
    let arrived = slots::forget_arrived(s, before_ms, s.limits.scan_max)?;
    let mut gone = arrived.len();
    slots::remove_arrived(s, &arrived);
    for entry in entries.iter().take_while(|entry| entry.at_ms < before_ms) {
        s.remove(Table::Txn, &entry.txn.0.to_be_bytes());
        s.put(Table::Meta, FORGOTTEN, &entry.sequence);
        gone += 1;
    }
    Ok(gone)
}

pub(super) fn sequence_of(table: Table, key: &[u8]) -> Result<u64, Error> {
    key.try_into().map(u64::from_be_bytes).map_err(|_| corrupt(table, key))
}

pub(super) fn corrupt(table: Table, key: &[u8]) -> Error {
    Error::Corrupt { table: table.name(), key: row::hex(key) }
}
