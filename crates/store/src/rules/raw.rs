//! Rows as they are stored, for copies of a whole store.

use super::landing::{OWN, not_a_target};
use super::rows::{EntityRow, FORMAT, HolderRow, OutboxRow, RecordRow, TxnRow};
use crate::dump::{Place, RawRow};
use crate::error::Error;
use crate::ledger::{AuditEntry, Item, Supply};
use crate::row;
use crate::tables::{Stage, Table};
use crate::types::{Entity, Key};

/// Stands in `meta` while an import is under way.
pub(crate) const IMPORT: &[u8] = b"import";

/// The rows after a place, in the order of tables and keys, until they are `bytes_max` together.
pub(crate) fn page(
    s: &Stage<'_>,
    after: Option<&Place>,
    bytes_max: usize,
) -> Result<Vec<RawRow>, Error> {
    let (mut rows, mut bytes) = (Vec::new(), 0);
    for table in Table::ALL {
        let number = table as u8;
        let from = match after {
            Some(place) if place.table > number => continue,
            Some(place) if place.table == number => place.key.clone(),
            _ => Vec::new(),
        };
        let passed = after.filter(|place| place.table == number);
        s.scan(table, &from, &mut |key, stored| {
            let is_own = table == Table::Meta && OWN.contains(&key);
            if is_own || passed.is_some_and(|place| place.key == key) {
                return Ok(true);
            }
            if bytes >= bytes_max {
                return Ok(false);
            }
            check(table, key, stored)?;
            bytes += key.len() + stored.len() + 9;
            let place = Place { table: number, key: key.to_vec() };
            rows.push(RawRow { place, bytes: stored.to_vec() });
            Ok(true)
        })?;
        if bytes >= bytes_max {
            break;
        }
    }
    Ok(rows)
}

/// Whether a stored row can be read.
pub(crate) fn check(table: Table, key: &[u8], stored: &[u8]) -> Result<(), Error> {
    match table {
        Table::Meta | Table::Node => row::decode::<u64>(table, key, stored).map(drop),
        Table::Entity => row::decode::<EntityRow>(table, key, stored).map(drop),
        Table::Holder => row::decode::<HolderRow>(table, key, stored).map(drop),
        Table::Item => row::decode::<Item>(table, key, stored).map(drop),
        Table::Held => row::decode::<()>(table, key, stored),
        Table::Supply => row::decode::<Supply>(table, key, stored).map(drop),
        Table::Txn => row::decode::<TxnRow>(table, key, stored).map(drop),
        Table::Audit => row::decode::<AuditEntry>(table, key, stored).map(drop),
        Table::Outbox => row::decode::<OutboxRow>(table, key, stored).map(drop),
        Table::Record => row::decode::<RecordRow>(table, key, stored).map(drop),
        Table::Slot => super::slots::check_row(key, stored),
        #[cfg(feature = "remote")]
        Table::Writer => Err(Error::Malformed("a table that no copy has")),
    }
}

/// The entity of a row, if it is one of the table of entities.
pub(crate) fn entity(place: &Place, bytes: &[u8]) -> Result<Option<(Key, Entity)>, Error> {
    if place.table != Table::Entity as u8 {
        return Ok(None);
    }
    let EntityRow { owner, version, documents } = row::decode(Table::Entity, &place.key, bytes)?;
    let key = <[u8; 16]>::try_from(place.key.as_slice());
    let key =
        key.map_err(|_| Error::Corrupt { table: Table::Entity.name(), key: row::hex(&place.key) })?;
    Ok(Some((Key(u128::from_be_bytes(key)), Entity { owner, version, documents })))
}

/// The table of a number, if copies have it.
pub(crate) fn table(number: u8) -> Option<Table> {
    Table::ALL.into_iter().find(|table| *table as u8 == number)
}

/// Marks the shard as being filled. `Ok(false)`: it holds something else, nothing was done.
///
/// What was filled by an import under the same mark before may be there: it is written again.
pub(crate) fn begin(s: &mut Stage<'_>, mark: u64, replace: bool) -> Result<bool, Error> {
    not_a_target(s)?;
    let marked = s.row::<u64>(Table::Meta, IMPORT)?;
    let mut is_empty = true;
    for table in Table::ALL.into_iter().filter(|table| *table != Table::Meta) {
        s.scan(table, &[], &mut |_, _| {
            is_empty = false;
            Ok(false)
        })?;
    }
    if !is_empty && !replace && marked != Some(mark) {
        return Ok(false);
    }
    s.put(Table::Meta, IMPORT, &mark);
    Ok(true)
}

/// Removes rows of a shard that is being filled, all but its format and mark; how many.
pub(crate) fn clear(s: &mut Stage<'_>, bytes_max: usize) -> Result<usize, Error> {
    let rows = page(s, None, bytes_max + META_BYTES)?;
    let mut gone = 0;
    for RawRow { place, .. } in rows {
        let table = table(place.table).expect("just read");
        if table == Table::Meta && [FORMAT, IMPORT].contains(&place.key.as_slice()) {
            continue;
        }
        s.remove(table, &place.key);
        gone += 1;
    }
    Ok(gone)
}

/// More than the rows that stay take.
const META_BYTES: usize = 1024;

/// Writes rows of a copy into a shard that was marked; its own format row stays.
pub(crate) fn fill(s: &mut Stage<'_>, rows: &[RawRow], mark: u64) -> Result<(), Error> {
    if s.row::<u64>(Table::Meta, IMPORT)? != Some(mark) {
        return Err(Error::Malformed("another import has begun meanwhile"));
    }
    for RawRow { place, bytes } in rows {
        let table = table(place.table).ok_or(Error::Malformed("a table that is not known"))?;
        check(table, &place.key, bytes)?;
        if table == Table::Meta && [FORMAT, IMPORT].contains(&place.key.as_slice()) {
            continue;
        }
        s.put_raw(table, &place.key, bytes.clone());
    }
    Ok(())
}

/// The shard is whole: nodes may come.
pub(crate) fn end(s: &mut Stage<'_>, mark: u64) -> Result<(), Error> {
    if s.row::<u64>(Table::Meta, IMPORT)? != Some(mark) {
        return Err(Error::Malformed("another import has begun meanwhile"));
    }
    s.remove(Table::Meta, IMPORT);
    Ok(())
}
