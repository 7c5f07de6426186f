//! The rules of a shard: each reads rows, compares, and puts its writes on a [`Stage`].

mod commit;
mod index;
#[cfg_attr(
    not(any(test, feature = "remote")),
    expect(dead_code, reason = "only a journal in Redis lands")
)]
pub(crate) mod landing;
mod owner;
pub(crate) mod raw;
mod record;
mod rows;
pub(crate) mod slots;
mod verify;

pub use commit::Of;
pub(crate) use commit::{
    audit, commit, forget, holdings, item, lookup, outbox, outbox_ack, supply,
};
pub(crate) use owner::{
    Activations, activate, activate_many, beat, load, mark_dead, node, nodes, release, save,
};
pub(crate) use record::{
    lock_record, records, renew_lock, scan_records, unlock_record, write_records,
};
pub(crate) use rows::is_of_one;
#[cfg(feature = "remote")]
pub(crate) use verify::looked_up;
pub(crate) use verify::verify;

use crate::error::Error;
use crate::row::Row;
use crate::tables::{Stage, Table};
#[cfg(feature = "redis")]
use crate::types::Entity;
use crate::types::Key;

/// The stored format written here; see `docs/store-format.md`.
pub(crate) const FORMAT_VERSION: u64 = 1;

/// The newest stored format that is known here: that of a shard of a set.
pub(crate) const FORMAT_KNOWN: u64 = slots::SHARD_FORMAT;

/// The key of the row that names the format.
#[cfg(feature = "remote")]
pub(crate) const FORMAT_KEY: &[u8] = rows::FORMAT;

/// The key of the row that holds the generation.
#[cfg(feature = "remote")]
pub(crate) const GENERATION_KEY: &[u8] = rows::GENERATION;

/// Makes the rows that a shard is born with.
pub(crate) fn found(s: &mut Stage<'_>) {
    s.put(Table::Meta, rows::FORMAT, &FORMAT_VERSION);
    s.put(Table::Meta, rows::GENERATION, &1u64);
}

/// The stored format, `None` if this is no store.
pub(crate) fn format(s: &Stage<'_>) -> Result<Option<u64>, Error> {
    s.row(Table::Meta, rows::FORMAT)
}

/// The shard's generation.
pub(crate) fn generation(s: &Stage<'_>) -> Result<u64, Error> {
    s.row(Table::Meta, rows::GENERATION)?
        .ok_or(Error::Corrupt { table: Table::Meta.name(), key: crate::row::hex(rows::GENERATION) })
}

/// Raises the generation from `current` by one.
pub(crate) fn raise_generation(s: &mut Stage<'_>, current: u64) -> Result<u64, Error> {
    check_generation(s, current)?;
    s.put(Table::Meta, rows::GENERATION, &(current + 1));
    Ok(current + 1)
}

/// The stored bytes of an entity, for a copy that is kept elsewhere.
#[cfg(feature = "redis")]
pub(crate) fn row_of_entity(key: Key, entity: &Entity) -> Vec<u8> {
    let Entity { owner, version, documents } = entity.clone();
    let row = rows::EntityRow { owner, version, documents };
    crate::row::encode(Table::Entity, &key.0.to_be_bytes(), &row)
}

/// An entity from a copy of its stored bytes, `None` if they are damaged.
#[cfg(feature = "redis")]
pub(crate) fn entity_of_row(key: Key, bytes: &[u8]) -> Option<Entity> {
    let row: rows::EntityRow =
        crate::row::decode(Table::Entity, &key.0.to_be_bytes(), bytes).ok()?;
    Some(Entity { owner: row.owner, version: row.version, documents: row.documents })
}

fn check_generation(s: &Stage<'_>, named: u64) -> Result<(), Error> {
    let current = generation(s)?;
    if named == current { Ok(()) } else { Err(Error::Generation { current }) }
}

fn at_most(what: &'static str, size: usize, max: usize) -> Result<(), Error> {
    if size > max { Err(Error::TooLarge { what, size, max }) } else { Ok(()) }
}

/// A row of an entity or holder, `None` only if it was never made.
fn made_row<R: Row>(s: &Stage<'_>, table: Table, key: Key) -> Result<Option<R>, Error> {
    let row = s.row(table, &key.0.to_be_bytes())?;
    if row.is_none() {
        check_never_made(s, table, key)?;
    }
    Ok(row)
}

/// An error if the row of that entity or holder was lost.
fn check_never_made(s: &Stage<'_>, table: Table, key: Key) -> Result<(), Error> {
    let id = key.0.to_be_bytes();
    if s.row::<u64>(Table::Meta, &rows::made_key(table, key))?.is_some() {
        return Err(Error::Corrupt { table: table.name(), key: crate::row::hex(&id) });
    }
    Ok(())
}

/// Writes a row of an entity or holder; `is_new` if there was none.
fn put_made<R: Row>(s: &mut Stage<'_>, table: Table, key: Key, row: &R, is_new: bool) {
    s.put(table, &key.0.to_be_bytes(), row);
    if is_new {
        s.put(Table::Meta, &rows::made_key(table, key), &1u64);
    }
}
