//! Entries of a journal as bytes: what one commit wrote.

use std::collections::BTreeMap;

use crate::rules::raw;
use crate::tables::{self, Table, Writes};

/// An entry as the journal keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Counts commits; the first is 1.
    pub position: u64,
    /// Bytes of all entries of the journal up to and with this one.
    pub total: u64,
    /// What [`encode`] gave.
    pub bytes: Vec<u8>,
}

/// Rows that cannot land, by their names: table and key, or 255 and the position of an entry.
pub(crate) type Aside = BTreeMap<Vec<u8>, Vec<u8>>;

/// Writes with a checksum behind them. The rows of writers stay behind: they are of one server.
pub(crate) fn encode(writes: &Writes) -> Vec<u8> {
    let landing = writes.iter().filter(|((table, _), _)| *table != Table::Writer);
    let landing: Writes = landing.map(|(place, row)| (place.clone(), row.clone())).collect();
    let mut bytes = tables::to_bytes(&landing);
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
    bytes
}

/// What [`encode`] was given, `None` if it is damaged.
pub(crate) fn decode(bytes: &[u8]) -> Option<Writes> {
    let (body, sum) = bytes.split_last_chunk::<4>()?;
    if crc32fast::hash(body) != u32::from_le_bytes(*sum) {
        return None;
    }
    Some(tables::from_bytes(body)?.into_iter().flatten().collect())
}

/// The name of a row that is set aside.
pub(crate) fn name(table: Table, key: &[u8]) -> Vec<u8> {
    [&[table as u8], key].concat()
}

/// Several entries as one: of each row the last.
#[derive(Debug, Default)]
pub(crate) struct Folded {
    pub writes: Writes,
    pub aside: Aside,
    pub bytes: usize,
}

impl Folded {
    /// Adds the next entry.
    pub fn add(&mut self, entry: &Entry) {
        self.bytes += entry.bytes.len();
        let Some(writes) = decode(&entry.bytes) else {
            let name = [&[255], entry.position.to_be_bytes().as_slice()].concat();
            self.aside.insert(name, entry.bytes.clone());
            return;
        };
        for ((table, key), row) in writes {
            let name = name(table, &key);
            let is_whole = row.as_ref().is_none_or(|row| raw::check(table, &key, row).is_ok());
            let place = (table, key);
            if is_whole {
                self.aside.remove(&name);
                self.writes.insert(place, row);
            } else {
                self.aside.insert(name, tables::to_bytes(&Writes::from([(place, row)])));
            }
        }
    }
}
