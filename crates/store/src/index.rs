//! Indexes: rows that say which documents have a value, written by the rule that writes the document.

use crate::record::RecordId;
use crate::row::{Damaged, Reader, Writer};
use crate::slots::Slot;
use crate::types::Key;

/// The kind of records that are index rows. Only the rules write them.
pub const INDEX_KIND: u32 = u32::from_be_bytes(*b"indx");

/// The kind of records that say what another record has in its indexes.
pub(crate) const LIST_KIND: u32 = u32::from_be_bytes(*b"idxs");

/// The sub-document that says what an entity has in its indexes: see [`IndexEntry::sheet`].
pub const INDEX_SHEET: &str = "#index";

/// Values up to this length stand in the key as they are, longer ones as their hash.
const VALUE_BYTES_MAX: usize = 64;
const HASHED: u8 = 0xff;

/// What a document has in one of its indexes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexEntry {
    /// Names the index for ever.
    pub index: String,
    /// The value: bytes that are equal if and only if the values are.
    pub value: Vec<u8>,
    /// Whether no other record may have the same value. Only for records.
    pub unique: bool,
}

/// What an index row leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Indexed {
    /// An entity.
    Entity(Key),
    /// A record.
    Record(RecordId),
}

/// An index row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexHit {
    /// The row's key, behind which a next search goes on.
    pub at: Vec<u8>,
    /// Whose value it is.
    pub of: Indexed,
}

impl IndexEntry {
    /// Where the keys of the rows of this index and value begin: index u64 | length u8 | value.
    pub fn prefix(&self) -> Vec<u8> {
        let mut named = Writer::new();
        named.u8(u8::from(self.unique));
        named.raw(self.index.as_bytes());
        let mut key = digest(named.bytes())[..8].to_vec();
        match u8::try_from(self.value.len()) {
            Ok(length) if self.value.len() <= VALUE_BYTES_MAX => {
                key.push(length);
                key.extend_from_slice(&self.value);
            }
            _ => {
                key.push(HASHED);
                key.extend_from_slice(&digest(&self.value));
            }
        }
        key
    }

    /// What an entity saves as its sub-document [`INDEX_SHEET`], so that its index rows are written
    /// with it. What is there twice counts once.
    pub fn sheet(entries: &[IndexEntry]) -> Vec<u8> {
        let places =
            entries.iter().map(|entry| Place { prefix: entry.prefix(), unique: entry.unique });
        Place::list(places.collect())
    }

    /// The rows that a search found, of `found` records of [`INDEX_KIND`] behind
    /// [`prefix`](Self::prefix) or a later [`IndexHit::at`]; and whether none can come after them.
    pub fn hits(&self, found: Vec<(Vec<u8>, crate::Record)>) -> Option<(Vec<IndexHit>, bool)> {
        let (prefix, mut hits, mut ends) = (self.prefix(), Vec::new(), found.is_empty());
        for (at, record) in found {
            if !at.starts_with(&prefix) {
                ends = true;
                break;
            }
            let of = Indexed::from_bytes(&record.body?).ok()?;
            hits.push(IndexHit { at, of });
        }
        Some((hits, ends))
    }
}

impl Indexed {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut w = Writer::new();
        match self {
            Indexed::Entity(key) => {
                w.u8(1);
                w.key(*key);
            }
            Indexed::Record(id) => {
                w.u8(2);
                w.u32(id.kind);
                w.blob(&id.key);
            }
        }
        w.into_bytes()
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, Damaged> {
        let mut r = Reader::new(bytes);
        let of = match r.u8()? {
            1 => Indexed::Entity(r.key()?),
            2 => Indexed::Record(RecordId { kind: r.u32()?, key: r.blob()? }),
            _ => return Err(Damaged),
        };
        if r.is_empty() { Ok(of) } else { Err(Damaged) }
    }

    pub(crate) fn slot(&self) -> Slot {
        match self {
            Indexed::Entity(key) => Slot::of(*key),
            Indexed::Record(id) => Slot::of_record(id),
        }
    }

    /// Tells it from others in keys: its own key, or a hash of it.
    fn tag(&self) -> [u8; 16] {
        match self {
            Indexed::Entity(key) => key.0.to_be_bytes(),
            Indexed::Record(_) => {
                digest(&self.to_bytes())[..16].try_into().expect("16 of its 32 bytes")
            }
        }
    }
}

/// One index row, as whoever it leads to remembers it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub prefix: Vec<u8>,
    pub unique: bool,
}

impl Place {
    /// The key of its row among those of [`INDEX_KIND`]; its last two bytes are its slot. A unique value
    /// has one row, in a slot of its own; any other is where its document is.
    pub fn key(&self, of: &Indexed) -> Vec<u8> {
        let mut key = self.prefix.clone();
        let slot = match self.unique {
            true => {
                let hash = digest(&self.prefix);
                Slot(u16::from_be_bytes([hash[0], hash[1]]) % crate::slots::SLOTS)
            }
            false => {
                key.extend_from_slice(&of.tag());
                of.slot()
            }
        };
        key.extend_from_slice(&slot.0.to_be_bytes());
        key
    }

    /// The bytes of a list, in order, each once.
    pub fn list(mut places: Vec<Place>) -> Vec<u8> {
        places.sort();
        places.dedup();
        let mut w = Writer::new();
        w.count(places.len());
        for place in &places {
            w.u8(u8::from(place.unique));
            w.blob(&place.prefix);
        }
        w.into_bytes()
    }

    pub fn read_list(bytes: &[u8]) -> Result<Vec<Place>, Damaged> {
        let mut r = Reader::new(bytes);
        let mut places = Vec::new();
        for _ in 0..r.count()? {
            let (unique, prefix) = (r.flag()?, r.blob()?);
            if prefix.len() > 9 + VALUE_BYTES_MAX {
                return Err(Damaged);
            }
            places.push(Place { prefix, unique });
        }
        if r.is_empty() { Ok(places) } else { Err(Damaged) }
    }
}

/// The slot that the key of an index row says that it is in.
pub(crate) fn slot_of_key(key: &[u8]) -> Slot {
    let slot = key.last_chunk::<2>().map_or(0, |bytes| u16::from_be_bytes(*bytes));
    Slot(slot % crate::slots::SLOTS)
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}
