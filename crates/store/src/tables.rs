//! Tables of rows by key, and the stage on which one operation's writes wait until it succeeded.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use crate::error::Error;
use crate::options::Limits;
use crate::row::{self, Reader, Row, Writer};
use crate::rules;
use crate::slots::Slot;

/// The tables of a shard. The numbers and names are part of the stored format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Table {
    Meta = 0,
    Node = 1,
    Entity = 2,
    Holder = 3,
    Item = 4,
    Held = 5,
    Supply = 6,
    Txn = 7,
    Audit = 8,
    Outbox = 9,
    Record = 10,
    /// Of a shard of a set: its slots, and what is under way with them.
    Slot = 11,
    /// What each writer committed last; only on servers, and no rule reads it.
    #[cfg(feature = "remote")]
    Writer = 255,
}

impl Table {
    /// The tables of every backend.
    pub const ALL: [Table; 12] = [
        Table::Meta,
        Table::Node,
        Table::Entity,
        Table::Holder,
        Table::Item,
        Table::Held,
        Table::Supply,
        Table::Txn,
        Table::Audit,
        Table::Outbox,
        Table::Record,
        Table::Slot,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Table::Meta => "meta",
            Table::Node => "node",
            Table::Entity => "entity",
            Table::Holder => "holder",
            Table::Item => "item",
            Table::Held => "held",
            Table::Supply => "supply",
            Table::Txn => "txn",
            Table::Audit => "audit",
            Table::Outbox => "outbox",
            Table::Record => "record",
            Table::Slot => "slot",
            #[cfg(feature = "remote")]
            Table::Writer => "writer",
        }
    }
}

/// Sees one row of a scan; false ends it.
pub(crate) type Visit<'v> = dyn FnMut(&[u8], &[u8]) -> Result<bool, Error> + 'v;

/// What the rules read.
pub(crate) trait Read {
    /// The stored bytes of a row.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Error>;
    /// Shows the rows from `from` on, in the order of their keys.
    fn scan(&self, table: Table, from: &[u8], visit: &mut Visit<'_>) -> Result<(), Error>;
    /// Whether it is worth telling early which rows will be read.
    fn is_far(&self) -> bool {
        false
    }
}

/// A row to be written; `None` removes it.
pub(crate) type Write = ((Table, Vec<u8>), Option<Vec<u8>>);

/// Rows that one operation writes; `None` removes.
pub(crate) type Writes = BTreeMap<(Table, Vec<u8>), Option<Vec<u8>>>;

/// Writes as bytes, each group with its count first.
pub(crate) fn to_bytes(writes: &Writes) -> Vec<u8> {
    let mut w = Writer::new();
    if !writes.is_empty() {
        w.count(writes.len());
    }
    for ((table, key), bytes) in writes {
        w.u8(*table as u8);
        w.blob(key);
        w.u8(u8::from(bytes.is_some()));
        w.blob(bytes.as_deref().unwrap_or_default());
    }
    w.into_bytes()
}

/// Groups of writes, one after the other. `None` if the bytes are none.
pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Vec<Writes>> {
    let (mut groups, mut r) = (Vec::new(), Reader::new(bytes));
    while !r.is_empty() {
        let mut writes = Writes::new();
        for _ in 0..r.count().ok()? {
            let table = *Table::ALL.get(usize::from(r.u8().ok()?))?;
            let (key, there, row) = (r.blob().ok()?, r.flag().ok()?, r.blob().ok()?);
            writes.insert((table, key), there.then_some(row));
        }
        groups.push(writes);
    }
    Some(groups)
}

/// One operation at work: it reads its own writes, which nobody else sees until it has succeeded.
///
/// So an operation that fails half-way has changed nothing, whatever its rules did before.
pub(crate) struct Stage<'a> {
    under: &'a dyn Read,
    pub limits: &'a Limits,
    writes: Writes,
    /// Slots that it concerns beside those of the rows that it writes.
    touched: BTreeSet<Slot>,
    sharded: bool,
    /// Whether it may do with rows of any slot what it likes.
    unchecked: bool,
}

impl<'a> Stage<'a> {
    pub fn new(under: &'a dyn Read, limits: &'a Limits) -> Self {
        let (writes, touched) = (BTreeMap::new(), BTreeSet::new());
        Stage { under, limits, writes, touched, sharded: limits.sharded, unchecked: false }
    }

    pub fn into_writes(self) -> Writes {
        self.writes
    }

    /// Takes part in moving slots, so that it looks after them itself.
    pub fn leave_slots_unchecked(&mut self) {
        self.unchecked = true;
    }

    /// It is of a shard of a set, which serves some slots only.
    pub fn check_slots(&mut self) {
        self.sharded = true;
    }

    pub fn is_sharded(&self) -> bool {
        self.sharded
    }

    fn checks_slots(&self) -> bool {
        self.sharded && !self.unchecked
    }

    /// It concerns that slot, whatever it writes.
    pub fn touch(&mut self, slot: Slot) {
        if self.checks_slots() {
            self.touched.insert(slot);
        }
    }

    /// Makes sure that all it writes is of slots that are here, and marks it where a slot is being
    /// copied. Whoever applies the writes calls this first.
    pub fn seal(&mut self) -> Result<(), Error> {
        if !self.checks_slots() || (self.writes.is_empty() && self.touched.is_empty()) {
            return Ok(());
        }
        let written = self.writes.keys().cloned().collect();
        let marks = rules::slots::marks(self, &written, &self.touched)?;
        for mark in marks {
            self.put(Table::Slot, &mark, &());
        }
        Ok(())
    }

    /// The bytes of a row as they are, whoever's it is.
    pub fn stored(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        match self.writes.get(&(table, key.to_vec())) {
            Some(written) => Ok(written.clone()),
            None => self.under.get(table, key),
        }
    }

    /// A row; an error if its slot is not here.
    pub fn row<R: Row>(&self, table: Table, key: &[u8]) -> Result<Option<R>, Error> {
        if self.checks_slots()
            && let Some(slot) = rules::slots::slot_of_row(table, key)
        {
            rules::slots::serves(self, slot)?;
        }
        // The allocation of the look-up key is spared while nothing is written yet.
        if !self.writes.is_empty()
            && let Some(written) = self.writes.get(&(table, key.to_vec()))
        {
            return written.as_ref().map(|bytes| row::decode(table, key, bytes)).transpose();
        }
        self.under.get(table, key)?.map(|bytes| row::decode(table, key, &bytes)).transpose()
    }

    /// Says that these rows will be read, so that rows on a server are fetched together.
    pub fn expect<K: AsRef<[u8]>>(&self, rows: impl IntoIterator<Item = (Table, K)>) {
        if self.under.is_far() {
            for (table, key) in rows {
                // What is wrong with a row is told to the rule when it reads it.
                let _ = self.under.get(table, key.as_ref());
            }
        }
    }

    pub fn put<R: Row>(&mut self, table: Table, key: &[u8], row: &R) {
        let bytes = row::encode(table, key, row);
        self.writes.insert((table, key.to_vec()), Some(bytes));
    }

    /// Writes a row as another store had it.
    pub fn put_raw(&mut self, table: Table, key: &[u8], bytes: Vec<u8>) {
        self.writes.insert((table, key.to_vec()), Some(bytes));
    }

    pub fn remove(&mut self, table: Table, key: &[u8]) {
        self.writes.insert((table, key.to_vec()), None);
    }

    /// Shows rows as they were before this operation.
    ///
    /// # Panics
    /// If the operation wrote already: what it wrote would be missing.
    pub fn scan(&self, table: Table, from: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
        assert!(self.writes.is_empty(), "an operation scans before it writes");
        self.under.scan(table, from, visit)
    }
}

/// A key as it is sorted by: most are compared without a look elsewhere, and need no memory of their own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct RowKey {
    /// The first 16 bytes, big-endian; zeros where it is shorter.
    head: u128,
    /// How many of them there are. Of two keys with one head, the shorter begins the other.
    head_bytes: u8,
    /// What follows.
    rest: Vec<u8>,
}

impl RowKey {
    fn of(key: &[u8]) -> Self {
        let (head, rest) = key.split_at(key.len().min(16));
        let mut bytes = [0; 16];
        bytes[..head.len()].copy_from_slice(head);
        let head_bytes = head.len() as u8;
        RowKey { head: u128::from_be_bytes(bytes), head_bytes, rest: rest.to_vec() }
    }

    fn bytes(&self) -> Vec<u8> {
        let head = self.head.to_be_bytes();
        [&head[..usize::from(self.head_bytes)], &self.rest].concat()
    }
}

type Written = BTreeMap<RowKey, Option<Vec<u8>>>;

/// What the operations of one transaction have written so far, over the rows that were there before.
///
/// The database gets it all at the end, each row once and in the order of the keys: a counter that
/// every operation raises is one write, and neighbours find their page in the processor's cache.
pub(crate) struct Batch<R> {
    pub under: R,
    written: [Written; Table::ALL.len()],
    /// Rows about the shard itself as they are below: every operation reads some of them.
    common: RefCell<Written>,
}

impl<R: Read> Batch<R> {
    pub fn new(under: R) -> Self {
        Batch { under, written: Default::default(), common: RefCell::default() }
    }

    pub fn apply(&mut self, writes: Writes) {
        for ((table, key), bytes) in writes {
            self.written[table as usize].insert(RowKey::of(&key), bytes);
        }
    }

    /// The rows below, and what is to be written over them, by table and key.
    pub fn into_parts(self) -> (R, impl Iterator<Item = Write>) {
        let of_table = |(table, written): (Table, Written)| {
            written.into_iter().map(move |(key, bytes)| ((table, key.bytes()), bytes))
        };
        (self.under, Table::ALL.into_iter().zip(self.written).flat_map(of_table))
    }
}

impl<R: Read> Read for Batch<R> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let at = RowKey::of(key);
        if let Some(written) = self.written[table as usize].get(&at) {
            return Ok(written.clone());
        }
        if table != Table::Meta || rules::is_of_one(key) {
            return self.under.get(table, key);
        }
        if let Some(row) = self.common.borrow().get(&at) {
            return Ok(row.clone());
        }
        let row = self.under.get(table, key)?;
        self.common.borrow_mut().insert(at, row.clone());
        Ok(row)
    }

    fn scan(&self, table: Table, from: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
        let mut written = self.written[table as usize].range(RowKey::of(from)..).peekable();
        let mut goes_on = true;
        self.under.scan(table, from, &mut |key, bytes| {
            let at = RowKey::of(key);
            while let Some((before, row)) = written.next_if(|(before, _)| **before < at) {
                if let Some(row) = row
                    && !visit(&before.bytes(), row)?
                {
                    goes_on = false;
                    return Ok(false);
                }
            }
            goes_on = match written.next_if(|(here, _)| **here == at) {
                Some((_, Some(row))) => visit(key, row)?,
                Some((_, None)) => true,
                None => visit(key, bytes)?,
            };
            Ok(goes_on)
        })?;
        while goes_on && let Some((key, row)) = written.next() {
            goes_on = row.as_ref().map_or(Ok(true), |row| visit(&key.bytes(), row))?;
        }
        Ok(())
    }

    fn is_far(&self) -> bool {
        self.under.is_far()
    }
}

/// Tables in memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct MemoryTables {
    rows: BTreeMap<(Table, Vec<u8>), Vec<u8>>,
}

impl MemoryTables {
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub fn apply(&mut self, writes: impl IntoIterator<Item = Write>) {
        for (place, bytes) in writes {
            match bytes {
                Some(bytes) => self.rows.insert(place, bytes),
                None => self.rows.remove(&place),
            };
        }
    }
}

impl Read for MemoryTables {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.rows.get(&(table, key.to_vec())).cloned())
    }

    fn scan(&self, table: Table, from: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
        let from = Bound::Included((table, from.to_vec()));
        for ((of, key), bytes) in self.rows.range((from, Bound::Unbounded)) {
            if *of != table || !visit(key, bytes)? {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(read: &impl Read, from: &[u8], at_most: usize) -> Vec<(u8, u8)> {
        let mut rows = Vec::new();
        let visit = &mut |key: &[u8], bytes: &[u8]| {
            rows.push((key[0], bytes[0]));
            Ok(rows.len() < at_most)
        };
        read.scan(Table::Node, from, visit).unwrap();
        rows
    }

    #[test]
    fn keys_sort_as_their_bytes_do() {
        let long = |last: &[u8]| [&[7; 16], last].concat();
        let zeros = |count| vec![0; count];
        let mut keys =
            vec![zeros(0), zeros(1), zeros(16), zeros(17), b"a".to_vec(), b"a\0".to_vec()];
        keys.extend([
            b"ab".to_vec(),
            long(b""),
            long(b"\0"),
            long(b"\0\0"),
            long(b"b"),
            vec![255; 40],
        ]);
        let mut random = env::Random::from_seed(7);
        keys.extend((0..500).map(|_| {
            let bytes = (0..random.below(20)).map(|_| random.below(3) as u8);
            bytes.collect::<Vec<u8>>()
        }));
        for one in &keys {
            assert_eq!(RowKey::of(one).bytes(), *one);
            for other in &keys {
                assert_eq!(
                    RowKey::of(one).cmp(&RowKey::of(other)),
                    one.cmp(other),
                    "{one:?} {other:?}"
                );
            }
        }
    }

    #[test]
    fn a_batch_reads_as_if_it_were_written() {
        let mut random = env::Random::from_seed(1);
        for _ in 0..2_000 {
            let mut some = |values: u64| -> Writes {
                let row = |_| {
                    let place = (Table::Node, vec![random.below(8) as u8]);
                    (place, random.chance(2, 3).then(|| vec![random.below(values) as u8]))
                };
                (0..5).map(row).collect()
            };
            let mut under = MemoryTables::default();
            under.apply(some(100));
            let mut applied = under.clone();
            let mut batch = Batch::new(under);
            for writes in [some(100), some(100)] {
                applied.apply(writes.clone());
                batch.apply(writes);
            }
            for from in 0..8 {
                let key = [from];
                assert_eq!(batch.get(Table::Node, &key), applied.get(Table::Node, &key));
                for at_most in [1, 2, 9] {
                    assert_eq!(shown(&batch, &key, at_most), shown(&applied, &key, at_most));
                }
            }
            let (mut under, written) = batch.into_parts();
            under.apply(written);
            assert_eq!(under, applied);
        }
    }
}
