//! Index rows: written and removed with the documents whose values they are.

use super::commit::corrupt;
use super::rows::{EntityRow, RecordRow, record_key};
use super::{at_most, slots};
use crate::error::Error;
use crate::index::{INDEX_KIND, INDEX_SHEET, IndexEntry, Indexed, LIST_KIND, Place};
use crate::record::{Change, RecordId, RecordWrite};
use crate::row::hex;
use crate::slots::Slot;
use crate::tables::{Stage, Table};
use crate::types::Key;

/// What one document may have in indexes.
const ENTRIES_MAX: usize = 32;

/// Where it is written what a record has in indexes.
pub(super) fn list_key(of: &RecordId) -> Vec<u8> {
    record_key(LIST_KIND, &record_key(of.kind, &of.key))
}

/// The key of an index row in its table.
pub(super) fn row_key(place: &Place, of: &Indexed) -> Vec<u8> {
    record_key(INDEX_KIND, &place.key(of))
}

/// A row that is to be written once all that go with this operation are gone.
pub(super) struct Added {
    of: Indexed,
    place: Place,
    /// For the error.
    index: String,
}

/// The sub-document of an entity that says what it has in indexes changed.
pub(super) fn of_entity(
    s: &mut Stage<'_>,
    key: Key,
    was: Option<&[u8]>,
    is: Option<&[u8]>,
) -> Result<(), Error> {
    let is = is.map_or(Ok(Vec::new()), Place::read_list);
    let is = is.map_err(|_| Error::Malformed("what an entity has in indexes cannot be read"))?;
    at_most("index entries of a document", is.len(), ENTRIES_MAX)?;
    if is.iter().any(|place| place.unique) {
        return Err(Error::Malformed("a unique index is of records"));
    }
    let was = was.map_or(Ok(Vec::new()), Place::read_list);
    let was = was.map_err(|_| corrupt(Table::Entity, &key.0.to_be_bytes()))?;
    let of = Indexed::Entity(key);
    for gone in was.iter().filter(|place| !is.contains(place)) {
        s.remove(Table::Record, &row_key(gone, &of));
    }
    for new in is.iter().filter(|place| !was.contains(place)) {
        put(s, &row_key(new, &of), of.to_bytes());
    }
    Ok(())
}

/// Removes what a record has in indexes and will not have after this write; the rest is to be added.
pub(super) fn of_record(s: &mut Stage<'_>, write: &RecordWrite) -> Result<Vec<Added>, Error> {
    let entries: &[IndexEntry] = match &write.change {
        Change::Indexed { entries, .. } => entries,
        Change::Remove => &[],
        Change::Keep | Change::Put(_) => return Ok(Vec::new()),
    };
    at_most("index entries of a document", entries.len(), ENTRIES_MAX)?;
    let mut added = Vec::new();
    let of = Indexed::Record(write.id.clone());
    for entry in entries {
        let place = Place { prefix: entry.prefix(), unique: entry.unique };
        added.push(Added { of: of.clone(), place, index: entry.index.clone() });
    }
    let mut is: Vec<Place> = added.iter().map(|added| added.place.clone()).collect();
    is.sort();
    is.dedup();
    let key = list_key(&write.id);
    let was = listed(s, &key)?;
    for gone in was.iter().filter(|place| !is.contains(place)) {
        let key = row_key(gone, &of);
        same_shard(s, gone, &key)?;
        s.remove(Table::Record, &key);
    }
    if is.is_empty() && !was.is_empty() {
        s.remove(Table::Record, &key);
    } else if is != was {
        put(s, &key, Place::list(is));
    }
    added.retain(|added| !was.contains(&added.place));
    Ok(added)
}

/// The rows of unique values, which are read before they are written.
pub(super) fn unique_keys(write: &RecordWrite) -> Vec<Vec<u8>> {
    let Change::Indexed { entries, .. } = &write.change else { return Vec::new() };
    let of = Indexed::Record(write.id.clone());
    let unique = entries.iter().filter(|entry| entry.unique);
    unique.map(|entry| row_key(&Place { prefix: entry.prefix(), unique: true }, &of)).collect()
}

/// What a record has in indexes.
pub(super) fn listed(s: &Stage<'_>, key: &[u8]) -> Result<Vec<Place>, Error> {
    let row: Option<RecordRow> = s.row(Table::Record, key)?;
    let body = row.and_then(|row| row.body);
    let listed = body.as_deref().map_or(Ok(Vec::new()), Place::read_list);
    listed.map_err(|_| corrupt(Table::Record, key))
}

impl Added {
    /// Writes it.
    pub fn put(self, s: &mut Stage<'_>) -> Result<(), Error> {
        let Added { of, place, index } = self;
        let key = row_key(&place, &of);
        if place.unique {
            same_shard(s, &place, &key)?;
            let there: Option<RecordRow> = s.row(Table::Record, &key)?;
            let by = there.and_then(|row| row.body).map(|body| Indexed::from_bytes(&body));
            let by = by.transpose().map_err(|_| corrupt(Table::Record, &key))?;
            if let (Some(Indexed::Record(by)), Indexed::Record(id)) = (by, &of)
                && by != *id
            {
                return Err(Error::Taken { index: index.into(), by });
            }
        }
        put(s, &key, of.to_bytes());
        Ok(())
    }
}

/// The row of a unique value is in a slot of its own, which may be another shard's.
fn same_shard(s: &Stage<'_>, place: &Place, key: &[u8]) -> Result<(), Error> {
    if !place.unique || !s.is_sharded() {
        return Ok(());
    }
    let slot = slots::slot_of_row(Table::Record, key);
    match slot.map_or(Ok(()), |slot| slots::serves(s, slot).map(drop)) {
        Err(Error::Moved { to, .. }) => {
            Err(Error::AcrossShards { one: "of the record".to_owned(), other: to })
        }
        other => other,
    }
}

fn put(s: &mut Stage<'_>, key: &[u8], body: Vec<u8>) {
    let row = RecordRow { version: 1, body: Some(body), ..RecordRow::default() };
    s.put(Table::Record, key, &row);
}

/// What [`verify`](super::verify) says of index rows.
pub(super) struct Check<'c> {
    /// Whether a slot is here: of a unique value and its record, one may be in another shard.
    pub counts: &'c dyn Fn(Slot) -> bool,
    pub fault: &'c mut dyn FnMut(String),
}

impl Check<'_> {
    /// An entity has the index rows that its sheet names.
    pub fn entity(&mut self, s: &Stage<'_>, key: &[u8], sheet: Option<&[u8]>) -> Result<(), Error> {
        let Some(sheet) = sheet else { return Ok(()) };
        let id =
            key.try_into().map(u128::from_be_bytes).map_err(|_| corrupt(Table::Entity, key))?;
        let places = Place::read_list(sheet).map_err(|_| corrupt(Table::Entity, key))?;
        self.rows(s, &Indexed::Entity(Key(id)), &places)
    }

    /// An index row leads to who has it; a list has its index rows.
    pub fn record(&mut self, s: &Stage<'_>, key: &[u8], row: &RecordRow) -> Result<(), Error> {
        let Some((kind, rest)) = key.split_first_chunk::<4>() else { return Ok(()) };
        let damaged = || corrupt(Table::Record, key);
        let body = row.body.as_deref().unwrap_or_default();
        match u32::from_be_bytes(*kind) {
            LIST_KIND => {
                let (kind, of) = rest.split_first_chunk::<4>().ok_or_else(damaged)?;
                let id = RecordId { kind: u32::from_be_bytes(*kind), key: of.to_vec() };
                let places = Place::read_list(body).map_err(|_| damaged())?;
                self.rows(s, &Indexed::Record(id), &places)
            }
            INDEX_KIND => {
                let of = Indexed::from_bytes(body).map_err(|_| damaged())?;
                if !(self.counts)(of.slot()) {
                    return Ok(());
                }
                let places = match &of {
                    Indexed::Record(id) => listed(s, &list_key(id))?,
                    Indexed::Entity(id) => {
                        let row: Option<EntityRow> = s.row(Table::Entity, &id.0.to_be_bytes())?;
                        let sheet = row.and_then(|row| row.documents.get(INDEX_SHEET).cloned());
                        let places = sheet.as_deref().map_or(Ok(Vec::new()), Place::read_list);
                        places.map_err(|_| damaged())?
                    }
                };
                if !places.iter().any(|place| place.key(&of) == rest) {
                    let row = hex(rest);
                    (self.fault)(format!("index row {row} leads to {of:?}, which lacks it"));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn rows(&mut self, s: &Stage<'_>, of: &Indexed, places: &[Place]) -> Result<(), Error> {
        for place in places {
            let key = row_key(place, of);
            if slots::slot_of_row(Table::Record, &key).is_some_and(|slot| !(self.counts)(slot)) {
                continue;
            }
            let row: Option<RecordRow> = s.row(Table::Record, &key)?;
            if row.and_then(|row| row.body).as_deref() != Some(&of.to_bytes()) {
                let row = hex(&place.key(of));
                (self.fault)(format!("the index row {row} of {of:?} is not there"));
            }
        }
        Ok(())
    }
}

/// The row that says whether an index row is right.
#[cfg(feature = "remote")]
pub(super) fn looked_up(key: &[u8], bytes: &[u8]) -> Option<(Table, Vec<u8>)> {
    if key.first_chunk::<4>() != Some(&INDEX_KIND.to_be_bytes()) {
        return None;
    }
    let row: RecordRow = crate::row::decode(Table::Record, key, bytes).ok()?;
    Some(match Indexed::from_bytes(&row.body?).ok()? {
        Indexed::Entity(id) => (Table::Entity, id.0.to_be_bytes().to_vec()),
        Indexed::Record(id) => (Table::Record, list_key(&id)),
    })
}
