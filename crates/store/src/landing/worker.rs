//! Lands a journal, a span at a time. Everything that must outlive a worker is in the journal and the target.

use std::collections::BTreeMap;

use super::entry::{Aside, Folded, name};
use super::{Away, Entry, Journal, Life, Span, Target};
use crate::error::Error;
use crate::rules::landing::Landed;
use crate::tables::{self, Writes};

/// How often a span may fail although the target answers before it is looked for the row at fault.
const FAILED_MAX: u32 = 3;

/// What a worker knows. It may be forgotten at any time.
#[derive(Debug, Default)]
pub(crate) struct Worker {
    failed: u32,
    /// When what is set aside is tried again.
    again_at_ms: u64,
}

/// What one round did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Round {
    /// All that there is has landed, up to this position.
    Idle(u64),
    /// It has landed up to this position; there may be more.
    Landed(u64),
    /// The journal must be adopted: the target has what it has not, or waits for another run.
    Behind,
}

/// Why a round did not end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trouble {
    Journal(String),
    Target(String),
    /// Does not pass by itself.
    Stuck(String),
}

impl From<Away> for Trouble {
    fn from(away: Away) -> Self {
        Trouble::Journal(away.0)
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Trouble::Target(error.to_string())
    }
}

/// Limits of a round, and its time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pub batch_bytes_max: usize,
    pub aside_pause_ms: u64,
    /// Milliseconds since 1970.
    pub now_ms: u64,
}

impl Worker {
    /// Lands the next span of a journal that has a run.
    pub async fn round(
        &mut self,
        journal: &mut impl Journal,
        target: &impl Target,
        life: &Life,
        pace: &Pace,
    ) -> Result<Round, Trouble> {
        let Some(run) = life.run else { return Ok(Round::Behind) };
        let Some(landed) = self.begun(target, run).await? else { return Ok(Round::Behind) };
        if landed.position > life.position {
            return Ok(Round::Behind);
        }
        let mut aside = if life.aside > 0 { journal.aside().await? } else { Aside::new() };
        if !aside.is_empty() && pace.now_ms >= self.again_at_ms {
            self.again_at_ms = pace.now_ms + pace.aside_pause_ms;
            self.try_again(journal, target, (run, landed.position), &mut aside).await?;
        }
        // Those of before have landed, but whoever did it did not say so.
        let first = life.landed.min(landed.position);
        let entries = journal.entries(first, pace.batch_bytes_max).await?;
        let (old, new): (Vec<Entry>, Vec<Entry>) =
            entries.into_iter().partition(|entry| entry.position <= landed.position);
        if let Some(last) = old.last() {
            journal.landed(run, (last.position, last.total)).await?;
        }
        let Some(last) = new.last() else {
            let more = !old.is_empty() && landed.position < life.position;
            return Ok(if more {
                Round::Landed(landed.position)
            } else {
                Round::Idle(landed.position)
            });
        };
        let end = (last.position, last.total);
        let span = Span { run, from: landed.position, to: end.0, at_ms: pace.now_ms };
        follows(&new, landed.position)?;
        let mut folded = Folded::default();
        new.iter().for_each(|entry| folded.add(entry));
        self.put_aside(journal, std::mem::take(&mut folded.aside)).await?;
        self.land(journal, target, span, &folded.writes).await?;
        // What came after a row that is set aside stands in its place by now.
        let passed: BTreeMap<_, _> = aside
            .into_keys()
            .filter(|key| folded.writes.keys().any(|(table, of)| name(*table, of) == *key))
            .map(|key| (key, None))
            .collect();
        if !passed.is_empty() {
            journal.put_aside(passed).await?;
        }
        journal.landed(run, end).await?;
        Ok(Round::Landed(end.0))
    }

    /// Where the target is; ends its change to this run. `None`: it is not this run's.
    async fn begun(&self, target: &impl Target, run: u64) -> Result<Option<Landed>, Trouble> {
        let landed = target.landed().await?;
        if landed.next == Some(run) {
            target.settle(run).await?;
            return Ok(Some(target.landed().await?).filter(|landed| landed.run == Some(run)));
        }
        Ok(Some(landed).filter(|landed| landed.run == Some(run) && landed.next.is_none()))
    }

    async fn put_aside(&self, journal: &mut impl Journal, aside: Aside) -> Result<(), Trouble> {
        if aside.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = aside.keys().map(|name| crate::row::hex(name)).collect();
        tracing::error!(
            rows = names.join(" "),
            "rows of the journal cannot land and are set aside"
        );
        let changes = aside.into_iter().map(|(name, row)| (name, Some(row))).collect();
        Ok(journal.put_aside(changes).await?)
    }

    /// Writes a span; if the target refuses it again and again, without the rows that are at fault.
    async fn land(
        &mut self,
        journal: &mut impl Journal,
        target: &impl Target,
        span: Span,
        writes: &Writes,
    ) -> Result<(), Trouble> {
        let failure = match target.land(span, writes.clone()).await {
            Ok(is_landed) => {
                self.failed = 0;
                return moved(is_landed);
            }
            Err(error) => error,
        };
        // One that does not answer at all is away, which is no fault of a row.
        target.landed().await?;
        self.failed += 1;
        if self.failed < FAILED_MAX {
            return Err(failure.into());
        }
        let (good, bad) = self.sort_out(target, span, writes).await?;
        let bad = bad.into_iter().map(|(place, row)| {
            let name = name(place.0, &place.1);
            (name, tables::to_bytes(&Writes::from([(place, row)])))
        });
        self.put_aside(journal, bad.collect()).await?;
        let is_landed = target.land(span, good).await?;
        self.failed = 0;
        moved(is_landed)
    }

    /// The rows of a span that the target takes, and those that it does not, each half by itself.
    async fn sort_out(
        &self,
        target: &impl Target,
        span: Span,
        writes: &Writes,
    ) -> Result<(Writes, Writes), Trouble> {
        let (mut good, mut bad) = (Writes::new(), Writes::new());
        let rows: Vec<_> = writes.iter().map(|(place, row)| (place.clone(), row.clone())).collect();
        let mut parts = vec![rows];
        while let Some(part) = parts.pop() {
            let still = Span { to: span.from, ..span };
            match target.land(still, part.iter().cloned().collect()).await {
                Ok(is_here) => {
                    moved(is_here)?;
                    good.extend(part);
                }
                Err(_) => {
                    target.landed().await?;
                    if let [row] = part.as_slice() {
                        bad.extend([row.clone()]);
                        continue;
                    }
                    let (left, right) = part.split_at(part.len() / 2);
                    parts.extend([right.to_vec(), left.to_vec()]);
                }
            }
        }
        Ok((good, bad))
    }

    /// Lands what is set aside and can land by now.
    async fn try_again(
        &self,
        journal: &mut impl Journal,
        target: &impl Target,
        (run, position): (u64, u64),
        aside: &mut Aside,
    ) -> Result<(), Trouble> {
        let mut back = BTreeMap::new();
        for (name, bytes) in aside.iter() {
            let writes = tables::from_bytes(bytes).filter(|_| name.first() != Some(&255));
            let Some(writes) = writes.and_then(|groups| groups.into_iter().next()) else {
                continue;
            };
            let span = Span { run, from: position, to: position, at_ms: 0 };
            if target.land(span, writes).await == Ok(true) {
                back.insert(name.clone(), None);
            }
        }
        if !back.is_empty() {
            aside.retain(|name, _| !back.contains_key(name));
            journal.put_aside(back).await?;
        }
        Ok(())
    }
}

/// Entries must follow each other: one that is missing would be lost without a word.
fn follows(entries: &[Entry], from: u64) -> Result<(), Trouble> {
    for (entry, expected) in entries.iter().zip(from + 1..) {
        if entry.position != expected {
            let found = entry.position;
            let reason = format!(
                "entry {expected} of the journal is missing, the next is {found}: the landing target was set back"
            );
            return Err(Trouble::Stuck(reason));
        }
    }
    Ok(())
}

fn moved(is_landed: bool) -> Result<(), Trouble> {
    if is_landed {
        return Ok(());
    }
    Err(Trouble::Target("another worker was first".to_owned()))
}
