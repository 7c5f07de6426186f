//! Records: versions compared at each write, and locks.

use super::rows::{RecordRow, record_key};
use super::{at_most, check_generation, generation, index, slots};
use crate::error::Error;
use crate::index::{INDEX_KIND, LIST_KIND};
use crate::record::{Change, Lock, LockAsk, Record, RecordId, RecordWrite, Records};
use crate::row;
use crate::tables::{Stage, Table};

/// Bytes of the records that one scan gives, apart from its last.
const SCAN_BYTES: usize = 8 << 20;

pub(crate) fn records(s: &mut Stage<'_>, ids: &[RecordId]) -> Result<Records, Error> {
    at_most("records to read", ids.len(), s.limits.records_max)?;
    s.expect(ids.iter().map(place));
    let generation = generation(s)?;
    let records = ids.iter().map(|id| Ok(row_of(s, id)?.unwrap_or_default().into()));
    Ok(Records { generation, records: records.collect::<Result<_, Error>>()? })
}

pub(crate) fn scan_records(
    s: &mut Stage<'_>,
    kind: u32,
    after: Option<&[u8]>,
    max: usize,
) -> Result<Vec<(Vec<u8>, Record)>, Error> {
    let (mut found, mut bytes, max) = (Vec::new(), 0, max.min(s.limits.scan_max));
    let here = if s.is_sharded() { slots::counted(s)? } else { None };
    let prefix = kind.to_be_bytes();
    let mut from = record_key(kind, after.unwrap_or_default());
    if after.is_some() {
        from.push(0);
    }
    s.scan(Table::Record, &from, &mut |key, stored| {
        let Some(key_of) = key.strip_prefix(&prefix) else { return Ok(false) };
        if found.len() >= max || bytes >= SCAN_BYTES {
            return Ok(false);
        }
        let is_here = |here: &std::collections::BTreeSet<_>| {
            slots::slot_of_row(Table::Record, key).is_some_and(|slot| here.contains(&slot))
        };
        if !here.as_ref().is_none_or(is_here) {
            return Ok(true);
        }
        let record = Record::from(row::decode::<RecordRow>(Table::Record, key, stored)?);
        if let Some(body) = &record.body {
            bytes += body.len();
            found.push((key_of.to_vec(), record));
        }
        Ok(true)
    })?;
    Ok(found)
}

pub(crate) fn write_records(
    s: &mut Stage<'_>,
    generation: u64,
    writes: &[RecordWrite],
) -> Result<Vec<u64>, Error> {
    at_most("records to write", writes.len(), s.limits.records_max)?;
    s.expect(writes.iter().flat_map(places));
    check_generation(s, generation)?;
    apply(s, writes)
}

/// Does all writes or, if it fails, none that counts; the versions afterwards.
pub(super) fn apply(s: &mut Stage<'_>, writes: &[RecordWrite]) -> Result<Vec<u64>, Error> {
    let mut ids: Vec<&RecordId> = writes.iter().map(|write| &write.id).collect();
    ids.sort();
    if ids.windows(2).any(|two| two[0] == two[1]) {
        return Err(Error::Malformed("a record is written twice"));
    }
    let (mut versions, mut added) = (Vec::with_capacity(writes.len()), Vec::new());
    for write in writes {
        versions.push(apply_one(s, write)?);
        added.extend(index::of_record(s, write)?);
    }
    // After all that goes, so that one record may have what another gives up with it.
    for write in added {
        write.put(s)?;
    }
    Ok(versions)
}

fn apply_one(s: &mut Stage<'_>, write: &RecordWrite) -> Result<u64, Error> {
    let id = &write.id;
    not_an_index(id)?;
    let mut row = row_of(s, id)?.unwrap_or_default();
    match (row.lock(), write.fence) {
        (Some(lock), Some(fence)) if lock.fence == fence => {}
        (_, Some(_)) => return Err(Error::LockLost(id.clone())),
        (Some(lock), None) => return Err(Error::Locked { id: id.clone(), lock }),
        (None, None) => {}
    }
    if row.version != write.version {
        return Err(Error::RecordConflict { id: id.clone(), current: row.version });
    }
    match &write.change {
        Change::Keep if !write.unlock => return Ok(row.version),
        Change::Keep => {}
        Change::Put(body) | Change::Indexed { body, .. } => {
            at_most("bytes of a record", body.len(), s.limits.record_bytes_max)?;
            row.body = Some(body.clone());
            row.version += 1;
        }
        Change::Remove => {
            row.body = None;
            row.version += 1;
        }
    }
    if write.unlock {
        row.expiry_ms = 0;
    }
    put(s, id, &row);
    Ok(row.version)
}

pub(crate) fn lock_record(s: &mut Stage<'_>, ask: &LockAsk) -> Result<(Lock, Records), Error> {
    if ask.expiry_ms == 0 {
        return Err(Error::Malformed("a lock has no expiry"));
    }
    not_an_index(&ask.id)?;
    let generation = generation(s)?;
    let mut row = row_of(s, &ask.id)?.unwrap_or_default();
    if let Some(lock) = row.lock()
        && ask.seen != Some((lock.fence, lock.beat))
    {
        return Err(Error::Locked { id: ask.id.clone(), lock });
    }
    row.fence += 1;
    row.beat = 0;
    row.expiry_ms = ask.expiry_ms;
    put(s, &ask.id, &row);
    let lock = Lock { fence: row.fence, beat: 0, expiry_ms: row.expiry_ms };
    Ok((lock, Records { generation, records: vec![row.into()] }))
}

pub(crate) fn renew_lock(s: &mut Stage<'_>, id: &RecordId, fence: u64) -> Result<(), Error> {
    let mut row = held(s, id, fence)?;
    row.beat += 1;
    put(s, id, &row);
    Ok(())
}

pub(crate) fn unlock_record(s: &mut Stage<'_>, id: &RecordId, fence: u64) -> Result<(), Error> {
    let mut row = held(s, id, fence)?;
    row.expiry_ms = 0;
    put(s, id, &row);
    Ok(())
}

/// The row of a record that the holder of `fence` must have locked.
fn held(s: &Stage<'_>, id: &RecordId, fence: u64) -> Result<RecordRow, Error> {
    let row = row_of(s, id)?.unwrap_or_default();
    let is_held = row.lock().is_some_and(|lock| lock.fence == fence);
    if is_held { Ok(row) } else { Err(Error::LockLost(id.clone())) }
}

fn not_an_index(id: &RecordId) -> Result<(), Error> {
    match id.kind {
        INDEX_KIND | LIST_KIND => Err(Error::Malformed("index rows are written with documents")),
        _ => Ok(()),
    }
}

/// The rows that a write reads.
pub(super) fn places(write: &RecordWrite) -> impl Iterator<Item = (Table, Vec<u8>)> {
    let list = matches!(write.change, Change::Indexed { .. } | Change::Remove);
    let list = list.then(|| index::list_key(&write.id));
    let rows = list.into_iter().chain(index::unique_keys(write));
    std::iter::once(place(&write.id)).chain(rows.map(|key| (Table::Record, key)))
}

fn place(id: &RecordId) -> (Table, Vec<u8>) {
    (Table::Record, record_key(id.kind, &id.key))
}

fn row_of(s: &Stage<'_>, id: &RecordId) -> Result<Option<RecordRow>, Error> {
    at_most("bytes of a record's key", id.key.len(), s.limits.record_key_bytes_max)?;
    s.row(Table::Record, &record_key(id.kind, &id.key))
}

fn put(s: &mut Stage<'_>, id: &RecordId, row: &RecordRow) {
    s.put(Table::Record, &record_key(id.kind, &id.key), row);
}
