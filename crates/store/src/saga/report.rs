//! How sagas stand, for people.

use super::ids::saga_record;
use super::plan::SagaPlan;
use super::state::{Phase, State};
use super::{SagaEnd, SagaId, SagaWatch};
use crate::error::Error;
use crate::store::Store;

/// How a saga stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SagaReport {
    /// Which.
    pub id: SagaId,
    /// When it was begun: milliseconds since 1970.
    pub began_ms: u64,
    /// How far it is.
    pub stage: SagaStage,
}

/// How far a saga is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SagaStage {
    /// A step is being done.
    Forward(SagaPoint),
    /// A step was refused, and those before it are being undone.
    Back {
        /// Which one is undone now.
        at: SagaPoint,
        /// The step that was refused.
        step: String,
        /// Why.
        why: String,
    },
    /// It is over.
    Ended {
        /// How.
        end: SagaEnd,
        /// When: milliseconds since 1970.
        at_ms: u64,
    },
    /// Its record cannot be read by this release, or is damaged.
    Unreadable,
}

/// Where in its plan a saga is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SagaPoint {
    /// What the saga is for.
    pub note: String,
    /// Steps that are done and not undone.
    pub done: usize,
    /// Steps of the plan.
    pub steps: usize,
    /// The step that is being done or undone. `None`: none is left.
    pub step: Option<String>,
    /// The store of that step; empty: the default one.
    pub store: String,
    /// How often that step was refused and tried again.
    pub tries: u32,
}

impl Store {
    /// The sagas that are under way, the oldest first. Waits for the store; one that ends meanwhile
    /// may stand among them as ended, one that begins may be left out.
    ///
    /// # Errors
    ///
    /// What the store says.
    pub fn sagas(&self) -> Result<Vec<SagaReport>, Error> {
        let mut reports = Vec::new();
        let mut after = None;
        loop {
            let page = self.scan_records(SagaWatch::KIND, after, SagaWatch::PAGE).wait()?;
            for id in page.iter().filter_map(|(_, record)| SagaWatch::id_of(record)) {
                reports.extend(self.saga(id)?);
            }
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
        }
        reports.sort_by_key(|report| (report.began_ms, report.id));
        reports.dedup();
        Ok(reports)
    }

    /// How a saga stands; `None` if it was never begun. Waits for the store.
    ///
    /// # Errors
    ///
    /// What the store says.
    pub fn saga(&self, id: SagaId) -> Result<Option<SagaReport>, Error> {
        let found = self.records(vec![saga_record(id)]).wait()?;
        let body = found.records.into_iter().next().and_then(|record| record.body);
        Ok(body.map(|body| match State::decode(&body) {
            Some(state) => SagaReport { id, began_ms: state.began_ms, stage: state.stage() },
            None => SagaReport { id, began_ms: 0, stage: SagaStage::Unreadable },
        }))
    }
}

impl State {
    fn stage(self) -> SagaStage {
        let tries = self.tries;
        match self.phase {
            Phase::Forward(done, plan) => {
                let done = done as usize;
                SagaStage::Forward(point(&plan, done, Some(done), tries))
            }
            Phase::Back(left, plan, step, why) => {
                let left = left as usize;
                SagaStage::Back { at: point(&plan, left, left.checked_sub(1), tries), step, why }
            }
            Phase::Ended(end, at_ms) => SagaStage::Ended { end, at_ms },
        }
    }
}

fn point(plan: &SagaPlan, done: usize, at: Option<usize>, tries: u32) -> SagaPoint {
    let step = at.and_then(|at| plan.steps.get(at));
    SagaPoint {
        note: plan.note.clone(),
        done,
        steps: plan.steps.len(),
        step: step.map(|step| step.name.clone()),
        store: step.map_or_else(String::new, |step| step.store.clone()),
        tries,
    }
}
