//! Tables of rows by key, and the stage on which one operation's writes wait until it succeeded.

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

/// Tables in memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct MemoryTables {
    rows: BTreeMap<(Table, Vec<u8>), Vec<u8>>,
}

impl MemoryTables {
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub fn apply(&mut self, writes: Writes) {
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
