//! What the requests of one batch wrote, kept back until the batch is whole.
//!
//! A row that many of them write, such as a counter, so reaches the storage once, and all rows reach
//! it in the order of their keys.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use crate::error::Error;
use crate::tables::{Read, Table, Visit, Writes};

type Rows = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// The storage below, within one transaction of its own.
pub(crate) trait Below: Read {
    /// Writes a row; `None` removes it.
    fn write(&mut self, table: Table, key: &[u8], row: Option<&[u8]>) -> Result<(), String>;
}

/// Rows that wait, over the storage.
pub(crate) struct Pending<B> {
    below: B,
    written: Vec<Rows>,
    /// Rows of the meta table as they were read, which nearly every request reads.
    read: RefCell<Rows>,
    /// Whether a request scans a table of which rows wait.
    is_scanned: Cell<bool>,
}

impl<B: Below> Pending<B> {
    pub fn new(below: B) -> Self {
        let written = Table::ALL.iter().map(|_| Rows::default()).collect();
        Pending { below, written, read: RefCell::default(), is_scanned: Cell::new(false) }
    }

    pub fn below(&self) -> &B {
        &self.below
    }

    pub fn apply(&mut self, writes: Writes) {
        for ((table, key), row) in writes {
            self.written[table as usize].insert(key, row);
        }
    }

    /// Whether the last request must run again, after [`Pending::flush`].
    pub fn is_scanned(&self) -> bool {
        self.is_scanned.take()
    }

    /// Writes what waits.
    pub fn flush(&mut self) -> Result<(), String> {
        for table in Table::ALL {
            for (key, row) in std::mem::take(&mut self.written[table as usize]) {
                self.below.write(table, &key, row.as_deref())?;
            }
        }
        self.read.get_mut().clear();
        Ok(())
    }
}

impl<B: Below> Read for Pending<B> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        if let Some(row) = self.written[table as usize].get(key) {
            return Ok(row.clone());
        }
        if table != Table::Meta {
            return self.below.get(table, key);
        }
        if let Some(row) = self.read.borrow().get(key) {
            return Ok(row.clone());
        }
        let row = self.below.get(table, key)?;
        self.read.borrow_mut().insert(key.to_vec(), row.clone());
        Ok(row)
    }

    fn scan(&self, table: Table, from: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
        if self.written[table as usize].is_empty() {
            return self.below.scan(table, from, visit);
        }
        self.is_scanned.set(true);
        Err(Error::Busy)
    }
}
