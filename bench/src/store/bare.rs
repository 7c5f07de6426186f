//! The bare loops: redb and nothing else, as fast as they can be written over it.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use env::Random;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::deals::IN_FLIGHT;
use super::player::player_key;
use super::{Meter, Rate};

/// As much as the store has by default.
const CACHE_BYTES: usize = 256 << 20;
/// Rows of one durable transaction; the store takes as many operations by default.
const BATCH: usize = 4_096;

type Bytes = &'static [u8];

fn table(name: &str) -> TableDefinition<'_, Bytes, Bytes> {
    TableDefinition::new(name)
}

/// A row as it stands in a file.
pub type Row = (Vec<u8>, Vec<u8>);

/// All rows of a table of a closed store, in a random order.
pub fn rows_of(path: &Path, name: &str) -> anyhow::Result<Vec<Row>> {
    let database = Database::open(path)?;
    let rows = database.begin_read()?.open_table(table(name))?;
    let mut all = Vec::new();
    for row in rows.iter()? {
        let (key, bytes) = row?;
        all.push((key.value().to_vec(), bytes.value().to_vec()));
    }
    Random::from_seed(5).shuffle(&mut all);
    Ok(all)
}

/// Bytes of the last row of a table of a closed store.
pub fn row_bytes(path: &Path, name: &str) -> anyhow::Result<usize> {
    let database = Database::open(path)?;
    let rows = database.begin_read()?.open_table(table(name))?;
    let (_, bytes) = rows.last()?.with_context(|| format!("table {name} is empty"))?;
    Ok(bytes.value().len())
}

/// A file with the rows of a store and no store over it.
pub struct Bare {
    database: Database,
    rows: Vec<Row>,
    next: usize,
    quick_repair: bool,
    sequence: u64,
    random: Random,
}

impl Bare {
    pub fn filled(path: &Path, rows: &[Row], quick_repair: bool) -> anyhow::Result<Self> {
        let database = Database::builder().set_cache_size(CACHE_BYTES).create(path)?;
        let (rows, random) = (rows.to_vec(), Random::from_seed(7));
        let mut bare = Bare { database, rows, next: 0, quick_repair, sequence: 0, random };
        for _ in 0..bare.rows.len().div_ceil(BATCH) {
            bare.update(BATCH)?;
        }
        Ok(bare)
    }

    /// Rows written a second, group commit after group commit.
    pub fn update_rate(&mut self, span: Duration) -> anyhow::Result<Rate> {
        let meter = Meter::begin();
        let mut done = 0;
        while meter.elapsed() < span {
            self.update(BATCH)?;
            done += BATCH;
        }
        Ok(meter.rate(done as u64))
    }

    fn update(&mut self, count: usize) -> anyhow::Result<()> {
        let group = self.next_rows(count);
        let mut txn = self.database.begin_write()?;
        txn.set_quick_repair(self.quick_repair);
        {
            let mut rows = txn.open_table(table("rows"))?;
            for at in group {
                let (key, bytes) = &self.rows[at];
                rows.insert(key.as_slice(), bytes.as_slice())?;
            }
        }
        txn.commit()?;
        Ok(())
    }

    /// The places of the next rows in turn, changed, in the order of their keys: so they are written
    /// fastest.
    fn next_rows(&mut self, count: usize) -> Vec<usize> {
        let all = self.rows.len();
        let mut places: Vec<usize> = (self.next..self.next + count).map(|at| at % all).collect();
        self.next = (self.next + count) % all;
        for at in &places {
            if let Some(last) = self.rows[*at].1.last_mut() {
                *last = last.wrapping_add(1);
            }
        }
        places.sort_unstable_by(|one, other| self.rows[*one].0.cmp(&self.rows[*other].0));
        places
    }

    /// Transactions a second: two rows, a receipt under a random id and an audit row for each, the
    /// counter once for all of a group.
    pub fn deal_rate(&mut self, span: Duration, [txn, audit]: [usize; 2]) -> anyhow::Result<Rate> {
        let (receipt, entry) = (vec![7; txn], vec![9; audit]);
        let meter = Meter::begin();
        let mut done = 0;
        while meter.elapsed() < span {
            self.deal_group(&receipt, &entry)?;
            done += IN_FLIGHT;
        }
        Ok(meter.rate(done as u64))
    }

    fn deal_group(&mut self, receipt: &[u8], entry: &[u8]) -> anyhow::Result<()> {
        let group = self.next_rows(2 * IN_FLIGHT);
        let mut id = || u128::from(self.random.u64()) << 64 | u128::from(self.random.u64());
        let mut ids: Vec<u128> = (0..IN_FLIGHT).map(|_| id()).collect();
        ids.sort_unstable();
        let txn = self.database.begin_write()?;
        {
            let mut rows = txn.open_table(table("rows"))?;
            for at in group {
                let (key, bytes) = &self.rows[at];
                rows.insert(key.as_slice(), bytes.as_slice())?;
            }
            let mut receipts = txn.open_table(table("txn"))?;
            let mut audit = txn.open_table(table("audit"))?;
            for id in ids {
                receipts.insert(id.to_be_bytes().as_slice(), receipt)?;
                self.sequence += 1;
                audit.insert(self.sequence.to_be_bytes().as_slice(), entry)?;
            }
            let mut meta = txn.open_table(table("meta"))?;
            meta.insert(b"txn sequence".as_slice(), self.sequence.to_le_bytes().as_slice())?;
        }
        txn.commit()?;
        Ok(())
    }
}

/// How long it takes to read the rows of those players from a closed store, and to read and write
/// them all in durable groups.
pub fn read_and_rewrite(path: &Path, order: &[u64]) -> anyhow::Result<(Duration, Duration)> {
    let database = Database::builder().set_cache_size(CACHE_BYTES).open(path)?;
    let begun = Instant::now();
    let rows = database.begin_read()?.open_table(table("entity"))?;
    let mut bytes = 0;
    for key in order {
        let key = player_key(*key).0.to_be_bytes();
        let row = rows.get(key.as_slice())?.context("a player's row")?;
        bytes += std::hint::black_box(row.value().to_vec()).len();
    }
    std::hint::black_box(bytes);
    let read = begun.elapsed();
    drop(rows);
    let begun = Instant::now();
    for group in order.chunks(BATCH) {
        let txn = database.begin_write()?;
        {
            let mut rows = txn.open_table(table("entity"))?;
            for key in group {
                let key = player_key(*key).0.to_be_bytes();
                let row = rows.get(key.as_slice())?.context("a player's row")?.value().to_vec();
                rows.insert(key.as_slice(), row.as_slice())?;
            }
        }
        txn.commit()?;
    }
    Ok((read, begun.elapsed()))
}
