//! What a landing target knows of the journal that lands in it (decision 0010).

use super::{generation, raw, rows};
use crate::error::Error;
use crate::tables::{Stage, Table, Writes};

/// The run of the journal of which the rows are, 0 before the first; there in every target.
pub(crate) const JOURNAL: &[u8] = b"journal";
/// The run that is about to begin; nothing lands while it stands there.
const NEXT: &[u8] = b"journal next";
/// The run before, as long as nothing of this one has landed but what both have.
const BEFORE: &[u8] = b"journal before";
/// The generation when the first run began.
const FIRST: &[u8] = b"journal generation";
/// The position up to which the rows are those of the journal.
const LANDED: &[u8] = b"landed";
/// When that was: milliseconds since 1970 by the clock of whoever did it.
const LANDED_AT: &[u8] = b"landed at";

/// Rows of `meta` that are the target's own: no journal and no copy has them.
pub(crate) const OWN: [&[u8]; 6] = [JOURNAL, NEXT, BEFORE, FIRST, LANDED, LANDED_AT];

/// How far a target is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Landed {
    /// The run that lands in it; `None` if none ever did.
    pub run: Option<u64>,
    /// The run before that, as long as nothing has landed but what both have.
    pub before: Option<u64>,
    /// The run that is about to.
    pub next: Option<u64>,
    /// The position of the last entry that landed.
    pub position: u64,
    /// When it did.
    pub at_ms: u64,
    /// The shard's generation there,
    pub generation: u64,
    /// and as it was when the first run began.
    pub first_generation: u64,
}

/// Which entries land.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    /// Of which run.
    pub run: u64,
    /// Those after this position,
    pub from: u64,
    /// up to this one. The same: rows alone, again.
    pub to: u64,
    /// The time.
    pub at_ms: u64,
}

pub(crate) fn landed(s: &Stage<'_>) -> Result<Landed, Error> {
    s.expect(OWN.map(|key| (Table::Meta, key)));
    let number = |key| s.row::<u64>(Table::Meta, key);
    let generation = generation(s)?;
    Ok(Landed {
        run: number(JOURNAL)?.filter(|run| *run != 0),
        before: number(BEFORE)?,
        next: number(NEXT)?,
        position: number(LANDED)?.unwrap_or(0),
        at_ms: number(LANDED_AT)?.unwrap_or(0),
        generation,
        first_generation: number(FIRST)?.unwrap_or(generation),
    })
}

/// Takes the target for a run that is about to begin, if it still is as it was `seen`. From then on
/// no other run lands. `Ok(false)`: it was not.
pub(crate) fn claim(s: &mut Stage<'_>, seen: &Landed, next: u64) -> Result<bool, Error> {
    if landed(s)? != *seen {
        return Ok(false);
    }
    let mut had_nodes = false;
    if seen.run.is_none() && seen.next.is_none() {
        s.scan(Table::Node, &[], &mut |_, _| {
            had_nodes = true;
            Ok(false)
        })?;
    }
    if seen.run.is_none() && seen.next.is_none() {
        // Nodes that used it without a journal write nothing to it any more.
        let first = seen.generation + u64::from(had_nodes);
        s.put(Table::Meta, rows::GENERATION, &first);
        s.put(Table::Meta, FIRST, &first);
        s.put(Table::Meta, JOURNAL, &0u64);
    }
    s.put(Table::Meta, NEXT, &next);
    Ok(true)
}

/// Lets the run land that has begun. `Ok(false)`: another was claimed since.
pub(crate) fn settle(s: &mut Stage<'_>, run: u64) -> Result<bool, Error> {
    let is = landed(s)?;
    if is.next != Some(run) {
        return Ok(false);
    }
    if let Some(before) = is.before.or(is.run) {
        s.put(Table::Meta, BEFORE, &before);
    }
    s.put(Table::Meta, JOURNAL, &run);
    s.remove(Table::Meta, NEXT);
    Ok(true)
}

/// Writes the rows of a span and its end in one step, if it begins where the target is. `Ok(false)`:
/// it does not, nothing was done. So a span that lands twice changes nothing, and none lands out of order.
pub(crate) fn land(s: &mut Stage<'_>, span: &Span, writes: &Writes) -> Result<bool, Error> {
    let is = landed(s)?;
    if is.run != Some(span.run) || is.next.is_some() || is.position != span.from {
        return Ok(false);
    }
    for ((table, key), row) in writes {
        if *table == Table::Meta && (OWN.contains(&key.as_slice()) || key == rows::FORMAT) {
            continue;
        }
        match row {
            Some(row) => {
                raw::check(*table, key, row)?;
                s.put_raw(*table, key, row.clone());
            }
            None => s.remove(*table, key),
        }
    }
    if span.to > span.from {
        s.put(Table::Meta, LANDED, &span.to);
        s.put(Table::Meta, LANDED_AT, &span.at_ms);
        // A run that was begun anew raises the generation before anything else.
        let begins = (Table::Meta, rows::GENERATION.to_vec());
        if is.before.is_some() && writes.contains_key(&begins) {
            s.remove(Table::Meta, BEFORE);
        }
    }
    Ok(true)
}

/// Refuses what only an authority does, in a store that is a target.
pub(crate) fn not_a_target(s: &Stage<'_>) -> Result<(), Error> {
    if s.row::<u64>(Table::Meta, JOURNAL)?.is_some() {
        let reason = "a journal lands in it: open it together with the journal";
        return Err(Error::Stopped(reason.to_owned()));
    }
    Ok(())
}
