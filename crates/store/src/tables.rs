//! Tables of rows by key, and the stage on which one operation's writes wait until it succeeded.

use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, Deref};

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

/// Sees the stored bytes of a row, `None` if there is none.
pub(crate) type See<'s> = dyn FnMut(Option<&[u8]>) -> Result<(), Error> + 's;

/// What the rules read.
pub(crate) trait Read {
    /// The stored bytes of a row.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Error>;
    /// Shows them where they lie, once, unless it fails. Nothing else may be read meanwhile.
    fn see(&self, table: Table, key: &[u8], see: &mut See<'_>) -> Result<(), Error> {
        see(self.get(table, key)?.as_deref())
    }
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

/// The same while they are on their way to a [`Batch`].
pub(crate) type Staged = BTreeMap<(Table, RowKey), Option<Vec<u8>>>;

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

/// A row that a rule took for new.
pub(crate) type Guessed = (Table, KeyBytes, Option<Vec<u8>>);

/// One operation at work: it reads its own writes, which nobody else sees until it has succeeded.
///
/// So an operation that fails half-way has changed nothing, whatever its rules did before.
pub(crate) struct Stage<'a> {
    under: &'a dyn Read,
    pub limits: &'a Limits,
    writes: Staged,
    /// Slots that it concerns beside those of the rows that it writes.
    touched: BTreeSet<Slot>,
    sharded: bool,
    /// Whether it may do with rows of any slot what it likes.
    unchecked: bool,
    /// Whether a row may be taken for new.
    guesses: bool,
    /// The row that was.
    guessed: Option<(Table, RowKey)>,
}

impl<'a> Stage<'a> {
    pub fn new(under: &'a dyn Read, limits: &'a Limits) -> Self {
        let (writes, touched) = (BTreeMap::new(), BTreeSet::new());
        let (sharded, unchecked) = (limits.sharded, false);
        Stage { under, limits, writes, touched, sharded, unchecked, guesses: false, guessed: None }
    }

    pub fn into_writes(self) -> Writes {
        let bytes = |((table, key), row): ((Table, RowKey), _)| ((table, key.to_vec()), row);
        self.writes.into_iter().map(bytes).collect()
    }

    pub fn into_staged(self) -> Staged {
        self.writes
    }

    /// Lets the rule take one row for new without a look. Whoever applies the writes finds out whether
    /// it is, and if not, or if the rule refuses, runs it again without this.
    pub fn guess(&mut self) {
        self.guesses = true;
    }

    /// Whether that row, which the rule will write, may be taken for new without a look. What the rule
    /// says then is believed only if it writes.
    pub fn take_for_new(&mut self, table: Table, key: &[u8]) -> bool {
        let takes = self.guesses && self.guessed.is_none() && !self.checks_slots();
        if takes {
            self.guessed = Some((table, RowKey::of(key)));
        }
        takes
    }

    /// The writes, and of them the row that was taken for new: its key and its bytes, `None` if there
    /// are none.
    pub fn into_guessed(mut self) -> (Staged, Option<Guessed>) {
        let mut row = |place: &(Table, RowKey)| self.writes.remove(place).flatten();
        let guessed = self.guessed.as_ref().map(|place| (place.0, place.1.bytes(), row(place)));
        (self.writes, guessed)
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
        let written = self.writes.keys().map(|(table, key)| (*table, key.to_vec())).collect();
        let marks = rules::slots::marks(self, &written, &self.touched)?;
        for mark in marks {
            self.put(Table::Slot, &mark, &());
        }
        Ok(())
    }

    /// The bytes of a row as they are, whoever's it is.
    pub fn stored(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        match self.writes.get(&(table, RowKey::of(key))) {
            Some(written) => Ok(written.clone()),
            None => self.under.get(table, key),
        }
    }

    /// A row; an error if its slot is not here.
    pub fn row<R: Row>(&self, table: Table, key: &[u8]) -> Result<Option<R>, Error> {
        let mut row = None;
        self.see(table, key, |bytes| {
            row = bytes.map(|bytes| row::decode(table, key, bytes)).transpose()?;
            Ok(())
        })?;
        Ok(row)
    }

    /// Shows the stored bytes of a row where they lie, once, unless it fails; an error if its slot is
    /// not here. `see` must read nothing else.
    pub fn see(
        &self,
        table: Table,
        key: &[u8],
        mut see: impl FnMut(Option<&[u8]>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if self.checks_slots()
            && let Some(slot) = rules::slots::slot_of_row(table, key)
        {
            rules::slots::serves(self, slot)?;
        }
        match self.writes.get(&(table, RowKey::of(key))) {
            Some(written) => see(written.as_deref()),
            None => self.under.see(table, key, &mut see),
        }
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
        self.put_raw(table, key, row::encode(table, key, row));
    }

    /// Writes the stored bytes of a row.
    pub fn put_raw(&mut self, table: Table, key: &[u8], bytes: Vec<u8>) {
        self.writes.insert((table, RowKey::of(key)), Some(bytes));
    }

    pub fn remove(&mut self, table: Table, key: &[u8]) {
        self.writes.insert((table, RowKey::of(key)), None);
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RowKey {
    /// The first 16 bytes, big-endian; zeros where it is shorter.
    head: (u64, u64),
    /// How many of them there are. Of two keys with one head, the shorter begins the other.
    head_bytes: u8,
    /// What follows.
    rest: Box<[u8]>,
}

impl Ord for RowKey {
    fn cmp(&self, other: &Self) -> Ordering {
        let heads = (self.head, self.head_bytes).cmp(&(other.head, other.head_bytes));
        // To compare two slices is a call, also of empty ones.
        if heads.is_eq() && !(self.rest.is_empty() && other.rest.is_empty()) {
            return self.rest.cmp(&other.rest);
        }
        heads
    }
}

impl PartialOrd for RowKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl RowKey {
    fn of(key: &[u8]) -> Self {
        let (head, rest) = key.split_at(key.len().min(16));
        let mut bytes = [0; 16];
        bytes[..head.len()].copy_from_slice(head);
        let (head_bytes, number) = (head.len() as u8, u128::from_be_bytes(bytes));
        RowKey { head: ((number >> 64) as u64, number as u64), head_bytes, rest: rest.into() }
    }

    /// The key as bytes.
    fn bytes(&self) -> KeyBytes {
        let number = u128::from(self.head.0) << 64 | u128::from(self.head.1);
        let (head, bytes) = (number.to_be_bytes(), self.head_bytes);
        if self.rest.is_empty() {
            return KeyBytes::Short { head, bytes };
        }
        KeyBytes::Long([&head[..usize::from(bytes)], &self.rest].concat())
    }

    fn to_vec(&self) -> Vec<u8> {
        self.bytes().to_vec()
    }
}

/// The bytes of a [`RowKey`]; most need no memory of their own.
pub(crate) enum KeyBytes {
    Short { head: [u8; 16], bytes: u8 },
    Long(Vec<u8>),
}

impl Deref for KeyBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            KeyBytes::Short { head, bytes } => &head[..usize::from(*bytes)],
            KeyBytes::Long(bytes) => bytes,
        }
    }
}

type Rows = BTreeMap<RowKey, Option<Vec<u8>>>;

/// Rows that were written and are not in the database yet; `None` removes.
///
/// The database gets them all at the end, each row once and in the order of the keys: a counter that
/// every operation raises is one write, and neighbours find their page in the processor's cache.
#[derive(Debug, Default)]
pub(crate) struct Written {
    tables: [Rows; Table::ALL.len()],
}

impl Written {
    pub fn apply(&mut self, writes: Staged) {
        for ((table, key), bytes) in writes {
            self.tables[table as usize].insert(key, bytes);
        }
    }

    /// The tables that it has rows of, each with those rows in the order of their keys.
    pub fn tables(
        &self,
    ) -> impl Iterator<Item = (Table, impl Iterator<Item = (KeyBytes, Option<&[u8]>)>)> {
        let tables = Table::ALL.into_iter().zip(&self.tables).filter(|(_, rows)| !rows.is_empty());
        tables.map(|(table, rows)| {
            (table, rows.iter().map(|(key, bytes)| (key.bytes(), bytes.as_deref())))
        })
    }

    fn get(&self, table: Table, at: &RowKey) -> Option<&Option<Vec<u8>>> {
        self.tables[table as usize].get(at)
    }

    /// Shows the rows that `under` shows, with these over them.
    fn scan(
        &self,
        table: Table,
        from: &[u8],
        visit: &mut Visit<'_>,
        under: impl FnOnce(&mut Visit<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut written = self.tables[table as usize].range(RowKey::of(from)..).peekable();
        let mut goes_on = true;
        under(&mut |key, bytes| {
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
}

/// What the operations of one transaction have written so far, over the rows that were there before.
pub(crate) struct Batch<R> {
    pub under: R,
    written: Written,
    /// Rows about the shard itself as they are below: every operation reads some of them.
    common: RefCell<Rows>,
}

impl<R: Read> Batch<R> {
    pub fn new(under: R) -> Self {
        Batch { under, written: Written::default(), common: RefCell::default() }
    }

    pub fn apply(&mut self, writes: Staged) {
        self.written.apply(writes);
    }

    /// Hands what is written over to `put`, which puts it below, except rows about the shard itself:
    /// counters that every operation raises are to be written once, at the end.
    pub fn apply_through<E>(
        &mut self,
        writes: Staged,
        mut put: impl FnMut(&mut R, Table, &[u8], Option<&[u8]>) -> Result<(), E>,
    ) -> Result<(), E> {
        for ((table, key), row) in writes {
            let bytes = key.bytes();
            if is_common(table, &bytes) {
                self.written.tables[table as usize].insert(key, row);
            } else {
                put(&mut self.under, table, &bytes, row.as_deref())?;
            }
        }
        Ok(())
    }

    /// What is to be written still, and the rows below.
    pub fn into_parts(self) -> (Written, R) {
        (self.written, self.under)
    }
}

/// Whether a row is about the shard itself.
fn is_common(table: Table, key: &[u8]) -> bool {
    table == Table::Meta && !rules::is_of_one(key)
}

impl<R: Read> Read for Batch<R> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let mut row = None;
        self.see(table, key, &mut |bytes| {
            row = bytes.map(<[u8]>::to_vec);
            Ok(())
        })?;
        Ok(row)
    }

    fn see(&self, table: Table, key: &[u8], see: &mut See<'_>) -> Result<(), Error> {
        let at = RowKey::of(key);
        if let Some(written) = self.written.get(table, &at) {
            return see(written.as_deref());
        }
        let is_common = is_common(table, key);
        if is_common && let Some(row) = self.common.borrow().get(&at) {
            return see(row.as_deref());
        }
        if !is_common {
            return self.under.see(table, key, see);
        }
        let row = self.under.get(table, key)?;
        let seen = see(row.as_deref());
        self.common.borrow_mut().insert(at, row);
        seen
    }

    fn scan(&self, table: Table, from: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
        self.written.scan(table, from, visit, |visit| self.under.scan(table, from, visit))
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

    impl MemoryTables {
        fn write(&mut self, written: &Written) {
            for (table, rows) in written.tables() {
                self.apply(rows.map(|(key, row)| ((table, key.to_vec()), row.map(<[u8]>::to_vec))));
            }
        }
    }

    fn shown(read: &dyn Read, table: Table, from: &[u8], at_most: usize) -> Vec<(u8, u8)> {
        let mut rows = Vec::new();
        let visit = &mut |key: &[u8], bytes: &[u8]| {
            rows.push((key[0], bytes[0]));
            Ok(rows.len() < at_most)
        };
        read.scan(table, from, visit).unwrap();
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
            assert_eq!(RowKey::of(one).to_vec(), *one);
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
        for _ in 0..4_000 {
            // Rows about the shard itself are kept until the end.
            let table = if random.chance(1, 2) { Table::Node } else { Table::Meta };
            let is_direct = random.chance(1, 2);
            let mut some = |values: u64| -> Writes {
                let row = |_| {
                    let place = (table, vec![random.below(8) as u8]);
                    (place, random.chance(2, 3).then(|| vec![random.below(values) as u8]))
                };
                (0..5).map(row).collect()
            };
            let mut under = MemoryTables::default();
            under.apply(some(100));
            let mut applied = under.clone();
            let mut batch = Batch::new(under);
            for later in [some(100), some(100)] {
                applied.apply(later.clone());
                let staged = later.into_iter().map(|((t, key), row)| ((t, RowKey::of(&key)), row));
                if is_direct {
                    let put = |under: &mut MemoryTables, t, key: &[u8], row: Option<&[u8]>| {
                        under.apply([((t, key.to_vec()), row.map(<[u8]>::to_vec))]);
                        Ok::<_, Error>(())
                    };
                    batch.apply_through(staged.collect(), put).unwrap();
                } else {
                    batch.apply(staged.collect());
                }
            }
            for from in 0..8 {
                let key = [from];
                assert_eq!(batch.get(table, &key), applied.get(table, &key));
                for at_most in [1, 2, 9] {
                    let shown = |read: &dyn Read| shown(read, table, &key, at_most);
                    assert_eq!(shown(&batch), shown(&applied));
                }
            }
            let (written, mut under) = batch.into_parts();
            under.write(&written);
            assert_eq!(under, applied);
        }
    }
}
