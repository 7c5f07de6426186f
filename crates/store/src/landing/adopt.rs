//! Begins a run of a journal: from what is left of it, or from what has landed.

use super::{Away, Beginning, Journal, Life, Target};
use crate::error::Error;
use crate::rules;
use crate::rules::landing::Landed;
use crate::tables::{Table, Writes};

/// How far the generation rises with each run: further than by all raises that may have been lost with the one before,
/// so that no claim from then fits again.
const GENERATIONS: u64 = 1_000;
/// Bytes of rows that are copied at once.
const FILL_BYTES: usize = 1 << 20;

/// How a run was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Adopted {
    /// Another process has just begun it.
    Already { run: u64 },
    /// It goes on with all that its server has.
    Renewed { run: u64, position: u64 },
    /// It was filled from what had landed up to that position.
    Filled { run: u64, position: u64, landed_at_ms: u64 },
}

/// Why none was begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotAdopted {
    /// Try again.
    Busy(String),
    /// Somebody has to change something first.
    Refused(String),
}

impl From<Away> for NotAdopted {
    fn from(away: Away) -> Self {
        NotAdopted::Busy(format!("the journal is away: {}", away.0))
    }
}

impl From<Error> for NotAdopted {
    fn from(error: Error) -> Self {
        NotAdopted::Busy(format!("the landing target: {error}"))
    }
}

/// Whether a journal can be used as it is, by what its target says. Without a word from the target it is believed.
pub(crate) fn is_usable(life: &Life, landed: Option<&Landed>) -> bool {
    let is_behind = |landed: &Landed| {
        let is_its = landed.run == life.run || landed.next == life.run;
        is_its && landed.position > life.position
    };
    life.run.is_some() && life.is_intact && !landed.is_some_and(is_behind)
}

/// Begins a run. `token` tells adopters apart; `lineage` names the journal if the target never had one.
pub(crate) async fn adopt(
    journal: &mut impl Journal,
    target: &impl Target,
    token: u64,
    lineage: u32,
) -> Result<Adopted, NotAdopted> {
    if !journal.begin(token).await? {
        return Err(NotAdopted::Busy("another process begins the journal anew".to_owned()));
    }
    // Read under the lock of adopters: another may just have done it.
    let life = journal.life(false).await?;
    let landed = target.landed().await?;
    // One that was claimed and never began keeps it from landing.
    let is_its = landed.next.or(landed.run) == life.run;
    if is_its && is_usable(&life, Some(&landed)) {
        let run = life.run.expect("it is usable");
        return Ok(Adopted::Already { run });
    }
    let goes_on = going_on(&life, &landed)?;
    let last = [landed.run, landed.next, life.run].into_iter().flatten().max();
    // Runs of one journal rise; their upper half names it.
    let run = last.map_or((u64::from(lineage) | 1) << 32, |last| last) + 1;
    if !target.claim(landed, run).await? {
        return Err(NotAdopted::Busy("another process takes the landing target".to_owned()));
    }
    let is_first = landed.run.is_none() && landed.next.is_none();
    let mut writes = Writes::new();
    if !is_first {
        let key = rules::GENERATION_KEY;
        let raised = raised(&life, &landed, run);
        let row = crate::row::encode(Table::Meta, key, &raised);
        writes.insert((Table::Meta, key.to_vec()), Some(row));
    }
    let beginning = Beginning { run, landed: landed.position, writes };
    let lost = || NotAdopted::Busy("another process began the journal anew".to_owned());
    if goes_on {
        let old = life.run.expect("it goes on");
        if !journal.renew(token, old, &beginning).await? {
            return Err(lost());
        }
        return Ok(Adopted::Renewed { run, position: life.position });
    }
    if !journal.clear(token).await? {
        return Err(lost());
    }
    let mut after = None;
    loop {
        let rows = target.rows(after, FILL_BYTES).await?;
        let Some(last) = rows.last() else { break };
        after = Some(last.place.clone());
        if !journal.fill(token, rows).await? {
            return Err(lost());
        }
    }
    if !journal.open(token, &beginning).await? {
        return Err(lost());
    }
    let Landed { position, at_ms: landed_at_ms, .. } = landed;
    Ok(Adopted::Filled { run, position, landed_at_ms })
}

/// The generation of a new run: above that of all runs before, also of those that are lost.
fn raised(life: &Life, landed: &Landed, run: u64) -> u64 {
    let before = (run & u64::from(u32::MAX)) - 1;
    let by_run = landed.first_generation + GENERATIONS * before;
    by_run.max(landed.generation + 1).max(life.generation.unwrap_or(0) + 1)
}

/// Whether a run is the target's, or one of those around it that nothing has landed since. Of these several may have
/// been claimed; whichever of them began, it goes on from where the target is.
fn is_known(run: u64, landed: &Landed) -> bool {
    let last = landed.next.or(landed.run);
    landed.before.or(landed.run) <= Some(run) && Some(run) <= last
}

/// Whether what the journal's server has is what has landed and more.
fn going_on(life: &Life, landed: &Landed) -> Result<bool, NotAdopted> {
    let Some(run) = life.run else {
        if life.has_rows {
            let reason = "the journal's server has a store that was used without a landing target: export it, \
                          remove it there, and import the copy";
            return Err(NotAdopted::Refused(reason.to_owned()));
        }
        return Ok(false);
    };
    let is_of_it = |last: u64| last >> 32 == run >> 32;
    if !landed.next.or(landed.run).is_some_and(is_of_it) {
        let reason = "the journal is of another landing target: name the right one, or remove the journal from its \
                      server to begin with what is in this target";
        return Err(NotAdopted::Refused(reason.to_owned()));
    }
    // One of an earlier run was left behind: what it has and the target has not, others have gone on without.
    Ok(is_known(run, landed) && life.position >= landed.position)
}
