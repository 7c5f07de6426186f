//! Work that concerns several shards or stores: steps, each done once in one of them, or undone.
//!
//! A [`SagaPlan`] is data, and its progress a record of the default store, so any process can go on
//! with what another began. [`SagaRun`] drives one saga; [`SagaWatch`] finds those that nobody drives
//! any more. Both are pure: what they ask of the stores is carried by whoever owns them.

mod check;
mod ids;
mod plan;
mod report;
mod run;
mod state;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::record::Change;

pub use plan::{Amend, Offer, SagaPlan, SagaStep, SagaWork};
pub use report::{SagaPoint, SagaReport, SagaStage};
pub use run::{SagaAsk, SagaRun, SagaTold, SagaWant};
pub use watch::SagaWatch;

/// Names a saga for ever: the key that makes asking twice the same as asking once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SagaId(pub u128);

impl fmt::Display for SagaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "saga {:x}", self.0)
    }
}

impl fmt::Debug for SagaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SagaId({:x})", self.0)
    }
}

/// How a saga ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SagaEnd {
    /// All its steps are done.
    Done,
    /// None is: what was done before a step was refused has been undone.
    Undone {
        /// The step that was refused.
        step: String,
        /// Why.
        why: String,
    },
}

/// Why a saga was not begun, or not followed to its end. Each variant says what the caller can do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SagaError {
    /// A mistake in the plan: it has no steps.
    #[error("a saga has no steps")]
    Empty,
    /// A mistake in the plan: divide it.
    #[error("too large: {what} of {size}, at most {max}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// How large it is.
        size: usize,
        /// The limit.
        max: usize,
    },
    /// A mistake in the plan: after a step that cannot be undone comes one that can. Give the first
    /// its compensation, or put it last.
    #[error("step {0:?} cannot be undone, and steps after it may be: it needs its compensation")]
    NoCompensation(String),
    /// A mistake in the plan: two steps have one name, or one has none.
    #[error("two steps are called {0:?}, or it is no name")]
    StepName(String),
    /// A mistake in the plan: there is no such store.
    #[error("step {step:?} names the store {store:?}, which there is not")]
    UnknownStore {
        /// The step.
        step: String,
        /// What it names.
        store: String,
    },
    /// A mistake in the plan: what a holder has is in the store that its entity is kept in.
    #[error("step {step:?} is of the store {store:?}, and {holder} is kept in {kept:?}")]
    OtherStore {
        /// The step.
        step: String,
        /// The store that it names; empty: the default one.
        store: String,
        /// The holder.
        holder: crate::Key,
        /// The store that the holder is in.
        kept: String,
    },
    /// A mistake in the plan: the record is kept in another store.
    #[error("step {step:?} is of the store {store:?}, and {record} is kept in {kept:?}")]
    RecordElsewhere {
        /// The step.
        step: String,
        /// The store that it names; empty: the default one.
        store: String,
        /// The record.
        record: crate::RecordId,
        /// The store that it is in.
        kept: String,
    },
    /// A mistake in the plan, or this process has an older release: nobody knows that change.
    #[error("step {step:?} changes a record by {by:?}, which is not registered")]
    UnknownAmend {
        /// The step.
        step: String,
        /// What it names.
        by: String,
    },
    /// A mistake in the plan: one step is one transaction, so all that it touches must lie in one
    /// slot (an entity, what it holds, or one record). Make several steps of it.
    #[error("step {0:?} touches keys of two slots, which may be in two shards: divide it")]
    AcrossSlots(String),
    /// A mistake in the plan: what is sent is not what is received, or a compensation does not
    /// bring back what its step took.
    #[error("step {step:?}: {what} would be made or lost on the way")]
    NotConserved {
        /// The step at which that is seen.
        step: String,
        /// What of.
        what: String,
    },
    /// A mistake in the caller: the key stands for another saga already.
    #[error("{0} is another saga already")]
    Reused(SagaId),
    /// So many sagas are under way that no more are begun: back off, then retry with the same key.
    #[error("too many sagas are under way")]
    Busy,
    /// Its record cannot be read by this release, or is damaged: it is left alone.
    #[error("the record of {0} cannot be read")]
    Unreadable(SagaId),
    /// This process has no store to do it in, or the store has stopped. If it was begun, others go on
    /// with it.
    #[error("the store has stopped: {0}")]
    Stopped(String),
}

type Amending = dyn Fn(Option<&[u8]>, &[u8]) -> Result<Change, String> + Send + Sync;

/// Changes of records by their names, so that a saga can say as data what is to become of a record.
#[derive(Clone, Default)]
pub struct Amends(BTreeMap<String, Arc<Amending>>);

impl fmt::Debug for Amends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Amends {
    /// None.
    pub fn new() -> Self {
        Amends::default()
    }

    /// Adds one: of the record's body, if there is one, and what the saga says, it makes the new body
    /// (`None` removes the record) or says why it refuses. It must depend on nothing else.
    pub fn add(
        &mut self,
        name: impl Into<String>,
        change: impl Fn(Option<&[u8]>, &[u8]) -> Result<Option<Vec<u8>>, String> + Send + Sync + 'static,
    ) {
        self.add_change(name, move |body, with| {
            Ok(change(body, with)?.map_or(Change::Remove, Change::Put))
        });
    }

    /// As [`add`](Self::add), of records that have something in indexes.
    pub fn add_change(
        &mut self,
        name: impl Into<String>,
        change: impl Fn(Option<&[u8]>, &[u8]) -> Result<Change, String> + Send + Sync + 'static,
    ) {
        self.0.insert(name.into(), Arc::new(change));
    }

    /// Whether one has that name.
    pub fn knows(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    fn apply(&self, name: &str, body: Option<&[u8]>, with: &[u8]) -> Result<Change, String> {
        match self.0.get(name) {
            Some(change) => change(body, with),
            None => Err(format!("nobody here knows how to do {name:?}")),
        }
    }
}

/// How sagas are driven. Plain data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SagaOptions {
    /// A saga whose record stood still for so long is taken over by whoever sees it.
    pub stale_after: Duration,
    /// How often it is looked whether there are such.
    pub watch_every: Duration,
    /// The first pause before something is tried again; it doubles.
    pub retry_first: Duration,
    /// The longest such pause.
    pub retry_max: Duration,
    /// Sagas that one process takes over at once.
    pub resumed_max: usize,
    /// A safety switched off, to prove that a check notices.
    #[doc(hidden)]
    pub mutant: Option<SagaMutant>,
}

impl Default for SagaOptions {
    fn default() -> Self {
        SagaOptions {
            stale_after: Duration::from_secs(6),
            watch_every: Duration::from_secs(2),
            retry_first: Duration::from_millis(50),
            retry_max: Duration::from_secs(2),
            resumed_max: 64,
            mutant: None,
        }
    }
}

/// One safety of sagas switched off.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SagaMutant {
    /// A compensation is not done.
    UndoSkipped,
    /// Who takes a saga over does its step under another id.
    IdsOfTheDriver,
    /// A refused step is undone without making sure that no late try of it is done.
    RefusedUnsealed,
}
