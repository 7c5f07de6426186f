//! What stands in the rows of each table, and under which keys.

use std::collections::BTreeMap;

use crate::ledger::{
    AuditEntry, Currency, Item, ItemId, ItemKind, Message, Receipt, Supply, TxnId,
};
use crate::record::{Lock, Record};
use crate::row::{self, Damaged, Reader, Row, Writer};
use crate::tables::Table;
use crate::types::{Documents, Incarnation, Key, Owner};

pub(crate) const FORMAT: &[u8] = b"format";
pub(crate) const GENERATION: &[u8] = b"generation";
pub(crate) const TXN_SEQUENCE: &[u8] = b"txn sequence";
pub(crate) const OUTBOX_SEQUENCE: &[u8] = b"outbox sequence";
pub(crate) const FORGOTTEN: &[u8] = b"forgotten";

pub(crate) fn alive_key(incarnation: Incarnation) -> [u8; 9] {
    node_key(0, incarnation)
}

pub(crate) fn dead_key(incarnation: Incarnation) -> [u8; 9] {
    node_key(1, incarnation)
}

fn node_key(dead: u8, incarnation: Incarnation) -> [u8; 9] {
    let mut key = [dead; 9];
    key[1..].copy_from_slice(&incarnation.0.to_be_bytes());
    key
}

pub(crate) fn held_key(holder: Key, item: ItemId) -> [u8; 32] {
    let mut key = [0; 32];
    key[..16].copy_from_slice(&holder.0.to_be_bytes());
    key[16..].copy_from_slice(&item.0.to_be_bytes());
    key
}

const MADE: u8 = b'+';

/// Whether a row of `meta` is about one entity or holder, and not about the shard.
pub(crate) fn is_of_one(meta_key: &[u8]) -> bool {
    meta_key.first() == Some(&MADE)
}

/// Stands in `meta` for each row of entities and holders that was ever made: a row that is gone all
/// the same was lost, and must not pass for one that never was.
pub(crate) fn made_key(table: Table, key: Key) -> [u8; 18] {
    let mut made = [MADE; 18];
    made[1] = table as u8;
    made[2..].copy_from_slice(&key.0.to_be_bytes());
    made
}

pub(crate) fn currency_key(currency: Currency) -> [u8; 5] {
    supply_key(0, currency.0)
}

pub(crate) fn kind_key(kind: ItemKind) -> [u8; 5] {
    supply_key(1, kind.0)
}

/// What came from other shards and went to them.
pub(crate) fn moved_currency_key(currency: Currency) -> [u8; 5] {
    supply_key(2, currency.0)
}

pub(crate) fn moved_kind_key(kind: ItemKind) -> [u8; 5] {
    supply_key(3, kind.0)
}

fn supply_key(class: u8, of: u32) -> [u8; 5] {
    let mut key = [class; 5];
    key[1..].copy_from_slice(&of.to_be_bytes());
    key
}

pub(crate) fn record_key(kind: u32, key: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes(), key].concat()
}

/// A counter of the meta and node tables.
impl Row for u64 {
    fn put(&self, w: &mut Writer) {
        w.u64(*self);
    }

    fn take(r: &mut Reader<'_>) -> Result<Self, Damaged> {
        r.u64()
    }
}

/// The presence of a row of the held table.
impl Row for () {
    fn put(&self, _: &mut Writer) {}

    fn take(_: &mut Reader<'_>) -> Result<Self, Damaged> {
        Ok(())
    }
}

#[derive(Debug, Clone)]
pub(crate) struct EntityRow {
    pub owner: Owner,
    pub version: u64,
    pub documents: Documents,
}

impl Row for EntityRow {
    fn room(&self) -> usize {
        self.view().room()
    }

    fn put(&self, w: &mut Writer) {
        self.view().put(w);
    }

    fn take(r: &mut Reader<'_>) -> Result<Self, Damaged> {
        let EntityView { owner, version, documents } = EntityView::take(r)?;
        let own = |(name, document): (&str, &[u8])| (name.to_owned(), document.to_vec());
        Ok(EntityRow { owner, version, documents: documents.into_iter().map(own).collect() })
    }
}

impl EntityRow {
    fn view(&self) -> EntityView<'_> {
        let &EntityRow { owner, version, ref documents } = self;
        let documents = documents.iter();
        let documents = documents.map(|(name, document)| (name.as_str(), document.as_slice()));
        EntityView { owner, version, documents: documents.collect() }
    }
}

/// An entity's row whose documents stay where they lie.
pub(crate) struct EntityView<'a> {
    pub owner: Owner,
    pub version: u64,
    pub documents: BTreeMap<&'a str, &'a [u8]>,
}

impl<'a> EntityView<'a> {
    fn room(&self) -> usize {
        let each = self.documents.iter().map(|(name, document)| 8 + name.len() + document.len());
        29 + each.sum::<usize>()
    }

    fn put(&self, w: &mut Writer) {
        w.u64(self.owner.epoch);
        w.u64(self.owner.incarnation.0);
        w.u8(u8::from(self.owner.released));
        w.u64(self.version);
        w.count(self.documents.len());
        for (name, document) in &self.documents {
            w.text(name);
            w.blob(document);
        }
    }

    /// The stored bytes, see [`encode`](crate::row::encode).
    pub fn encode(&self, key: Key) -> Vec<u8> {
        let id = key.0.to_be_bytes();
        row::encode_with(Table::Entity, &id, self.room(), |w| self.put(w))
    }

    pub fn take(r: &mut Reader<'a>) -> Result<Self, Damaged> {
        let owner =
            Owner { epoch: r.u64()?, incarnation: Incarnation(r.u64()?), released: r.flag()? };
        let version = r.u64()?;
        let mut documents = BTreeMap::new();
        for _ in 0..r.count()? {
            documents.insert(r.str()?, r.bytes()?);
        }
        Ok(EntityView { owner, version, documents })
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct HolderRow {
    pub version: u64,
    pub items: u32,
    pub balances: BTreeMap<Currency, u64>,
}

impl Row for HolderRow {
    fn room(&self) -> usize {
        16 + 12 * self.balances.len()
    }

    fn put(&self, w: &mut Writer) {
        w.u64(self.version);
        w.u32(self.items);
        w.count(self.balances.len());
        for (currency, amount) in &self.balances {
            w.u32(currency.0);
            w.u64(*amount);
        }
    }

    fn take(r: &mut Reader<'_>) -> Result<Self, Damaged> {
        let (version, items) = (r.u64()?, r.u32()?);
        let mut balances = BTreeMap::new();
        for _ in 0..r.count()? {
            balances.insert(Currency(r.u32()?), r.u64()?);
        }
        Ok(HolderRow { version, items, balances })
    }
}

impl Row for Item {
    fn room(&self) -> usize {
        41 + self.data.len()
    }

    fn put(&self, w: &mut Writer) {
        w.u32(self.kind.0);
        w.u8(u8::from(self.holder.is_some()));
        w.key(self.holder.unwrap_or(Key(0)));
        w.u128(self.last_txn.0);
        w.blob(&self.data);
    }

    fn take(r: &mut Reader<'_>) -> Result<Self, Damaged> {
        let (kind, held, holder) = (ItemKind(r.u32()?), r.flag()?, r.key()?);
        Ok(Item { kind, holder: held.then_some(holder), last_txn: r.txn()?, data: r.blob()? })
    }
}

impl Row for Supply {
    fn put(&self, w: &mut Writer) {
        w.u128(self.made);
        w.u128(self.destroyed);
    }

    fn take(r: &mut Reader<'_>) -> Result<Self, Damaged> {
        Ok(Supply { made: r.u128()?, destroyed: r.u128()? })
    }
}

#[derive(Debug, Clone)]
pub(crate) struct TxnRow {
    pub content: [u8; 32],
    pub receipt: Receipt,
}

impl Row for TxnRow {
    fn room(&self) -> usize {
        let Receipt { versions, ledgers, balances, .. } = &self.receipt;
        68 + 24 * (versions.len() + ledgers.len()) + 28 * balances.len()
    }

    fn put(&self, w: &mut Writer) {
        w.raw(&self.content);
        let Receipt { id, sequence, versions, ledgers, balances } = &self.receipt;
        w.u128(id.0);
        w.u64(*sequence);
        for rows in [versions, ledgers] {
            w.count(rows.len());
            for (key, version) in rows {
                w.key(*key);
                w.u64(*version);
            }
        }
        w.count(balances.len());
        for ((key, currency), amount) in balances {
            w.key(*key);
            w.u32(currency.0);
            w.u64(*amount);
        }
    }

    fn take(r: &mut Reader<'_>) -> Result<Self, Damaged> {
        let (content, id, sequence) = (r.hash()?, r.txn()?, r.u64()?);
        let versions = take_versions(r)?;
        let ledgers = take_versions(r)?;
        let mut balances = BTreeMap::new();
        for _ in 0..r.count()? {
            balances.insert((r.key()?, Currency(r.u32()?)), r.u64()?);
        }
        Ok(TxnRow { content, receipt: Receipt { id, sequence, versions, ledgers, balances } })
    }
}

fn take_versions(r: &mut Reader<'_>) -> Result<BTreeMap<Key, u64>, Damaged> {
    let mut versions = BTreeMap::new();
    for _ in 0..r.count()? {
        versions.insert(r.key()?, r.u64()?);
    }
    Ok(versions)
}

impl Row for AuditEntry {
    fn room(&self) -> usize {
        44 + 64 * self.ops.len() + 40 * self.claims.len() + self.note.len()
    }

    fn put(&self, w: &mut Writer) {
        w.u64(self.sequence);
        w.u128(self.txn.0);
        w.u64(self.at_ms);
        w.count(self.ops.len());
        for op in &self.ops {
            w.op(op);
        }
        w.count(self.claims.len());
        for claim in &self.claims {
            w.claim(claim);
        }
        w.text(&self.note);
    }

    fn take(r: &mut Reader<'_>) -> Result<Self, Damaged> {
        let (sequence, txn, at_ms) = (r.u64()?, r.txn()?, r.u64()?);
        let ops = (0..r.count()?).map(|_| r.op()).collect::<Result<_, _>>()?;
        let claims = (0..r.count()?).map(|_| r.claim()).collect::<Result<_, _>>()?;
        Ok(AuditEntry { sequence, txn, at_ms, ops, claims, note: r.text()? })
    }
}

#[derive(Debug, Clone)]
pub(crate) struct OutboxRow {
    pub txn: TxnId,
    pub message: Message,
}

impl Row for OutboxRow {
    fn put(&self, w: &mut Writer) {
        w.u128(self.txn.0);
        w.text(&self.message.topic);
        w.blob(&self.message.body);
    }

    fn take(r: &mut Reader<'_>) -> Result<Self, Damaged> {
        Ok(OutboxRow { txn: r.txn()?, message: Message { topic: r.text()?, body: r.blob()? } })
    }
}

/// A record. Its row stays when it is removed, so that versions and fences only rise.
#[derive(Debug, Clone, Default)]
pub(crate) struct RecordRow {
    pub version: u64,
    pub fence: u64,
    pub beat: u64,
    /// 0: nobody holds the lock.
    pub expiry_ms: u32,
    pub body: Option<Vec<u8>>,
}

impl RecordRow {
    pub fn lock(&self) -> Option<Lock> {
        let &RecordRow { fence, beat, expiry_ms, .. } = self;
        (expiry_ms != 0).then_some(Lock { fence, beat, expiry_ms })
    }
}

impl From<RecordRow> for Record {
    fn from(row: RecordRow) -> Self {
        Record { version: row.version, lock: row.lock(), body: row.body }
    }
}

impl Row for RecordRow {
    fn put(&self, w: &mut Writer) {
        w.u64(self.version);
        w.u64(self.fence);
        w.u64(self.beat);
        w.u32(self.expiry_ms);
        w.u8(u8::from(self.body.is_some()));
        w.blob(self.body.as_deref().unwrap_or_default());
    }

    fn take(r: &mut Reader<'_>) -> Result<Self, Damaged> {
        let (version, fence, beat, expiry_ms) = (r.u64()?, r.u64()?, r.u64()?, r.u32()?);
        let (present, body) = (r.flag()?, r.blob()?);
        if !present && !body.is_empty() {
            return Err(Damaged);
        }
        Ok(RecordRow { version, fence, beat, expiry_ms, body: present.then_some(body) })
    }
}
