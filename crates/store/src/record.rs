use std::fmt;

use crate::index::IndexEntry;
use crate::row::{Writer, hex};

/// Names a record for ever: data that no entity owns, such as an account or a guild's charter.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId {
    /// What sort of record it is; records of a kind lie together.
    pub kind: u32,
    /// Its key among those, at most `record_key_bytes_max`. Keys sort as bytes.
    pub key: Vec<u8>,
}

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "record {:08x}/{}", self.kind, hex(&self.key))
    }
}

impl fmt::Debug for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecordId({:08x}/{})", self.kind, hex(&self.key))
    }
}

/// A record as it is stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// Rises by one with each write, also with one that removes. 0: never written.
    pub version: u64,
    /// What it says; `None`: it was removed, or never written.
    pub body: Option<Vec<u8>>,
    /// Who has it to itself.
    pub lock: Option<Lock>,
}

/// A lock on a record. It ends when its holder gives it back, or when somebody who waits has seen
/// `fence` and `beat` unchanged for `expiry_ms` by a clock of its own: clocks need not agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lock {
    /// Rises by one with each holder, so that each write can show which one it comes from.
    pub fence: u64,
    /// Rises by one each time the holder says that it is still there.
    pub beat: u64,
    /// How long it must stay unchanged before it may be broken, in milliseconds.
    pub expiry_ms: u32,
}

/// Records as they were at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Records {
    /// The shard's generation then; writes that build on them have to name it.
    pub generation: u64,
    /// The records, in the order in which they were asked for.
    pub records: Vec<Record>,
}

/// Asks for a record to oneself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockAsk {
    /// The record; there need not be one yet.
    pub id: RecordId,
    /// See [`Lock::expiry_ms`]; at least 1.
    pub expiry_ms: u32,
    /// `fence` and `beat` of a lock that did not change for its expiry: it may be broken.
    pub seen: Option<(u64, u64)>,
}

/// A write of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordWrite {
    /// The record.
    pub id: RecordId,
    /// The version that it builds on. 0: there must be no record, and never was one.
    pub version: u64,
    /// What to do.
    pub change: Change,
    /// The fence of the lock that the writer holds, if it does.
    pub fence: Option<u64>,
    /// Whether that lock is given back with it.
    pub unlock: bool,
}

/// What a write does to a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Nothing: what was read must still be so.
    Keep,
    /// Replaces it, or makes it. What it has in indexes stays.
    Put(Vec<u8>),
    /// The same, and from now on it has exactly these in indexes.
    Indexed {
        /// What it says.
        body: Vec<u8>,
        /// What it has in indexes, at most 32.
        entries: Vec<IndexEntry>,
    },
    /// Removes it, also from its indexes.
    Remove,
}

impl RecordWrite {
    pub(crate) fn bytes(&self) -> usize {
        let body = match &self.change {
            Change::Put(body) => body.len(),
            Change::Indexed { body, entries } => {
                let of = |entry: &IndexEntry| 64 + entry.index.len() + 2 * entry.value.len();
                body.len() + entries.iter().map(of).sum::<usize>()
            }
            Change::Keep | Change::Remove => 0,
        };
        64 + self.id.key.len() + body
    }

    /// What two tries of one transaction must have in common.
    pub(crate) fn put_content(&self, w: &mut Writer) {
        w.u32(self.id.kind);
        w.blob(&self.id.key);
        match &self.change {
            Change::Keep => w.u8(0),
            Change::Put(body) => {
                w.u8(1);
                w.blob(body);
            }
            Change::Remove => w.u8(2),
            Change::Indexed { body, entries } => {
                w.u8(3);
                w.blob(body);
                w.count(entries.len());
                for IndexEntry { index, value, unique } in entries {
                    w.text(index);
                    w.blob(value);
                    w.u8(u8::from(*unique));
                }
            }
        }
    }
}
