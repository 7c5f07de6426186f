//! What is refused before anything is done.

use std::collections::{BTreeMap, BTreeSet};

use super::plan::{SagaPlan, SagaStep, SagaWork};
use super::{Amends, SagaError};
use crate::ledger::{Currency, ItemId, ItemKind, LedgerOp};
use crate::row::{Row, Writer};
use crate::slots::Slot;

/// Steps of a saga.
const STEPS_MAX: usize = 32;
/// Bytes of its plan.
const PLAN_BYTES_MAX: usize = 256 << 10;
/// Bytes of a step's name, and of a plan's note.
const NAME_BYTES_MAX: usize = 64;
/// Changes of one step.
const OPS_MAX: usize = 64;
const AMENDS_MAX: usize = 16;
const MESSAGES_MAX: usize = 16;
const MESSAGE_BYTES_MAX: usize = 64 << 10;
const ITEM_BYTES_MAX: usize = 4 << 10;

impl SagaPlan {
    /// What is wrong with it, as far as that can be known before anything is done. `is_store` tells
    /// of each name of a store but the default one's, the empty one, whether there is one.
    ///
    /// # Errors
    ///
    /// All of [`SagaError`] that are mistakes in the plan.
    pub fn check(&self, is_store: impl Fn(&str) -> bool, amends: &Amends) -> Result<(), SagaError> {
        if self.steps.is_empty() {
            return Err(SagaError::Empty);
        }
        at_most("steps of a saga", self.steps.len(), STEPS_MAX)?;
        at_most("bytes of a saga's note", self.note.len(), NAME_BYTES_MAX)?;
        let mut names = BTreeSet::new();
        let mut last_without = None::<&SagaStep>;
        for step in &self.steps {
            at_most("bytes of a step's name", step.name.len(), NAME_BYTES_MAX)?;
            if step.name.is_empty() || !names.insert(&step.name) {
                return Err(SagaError::StepName(step.name.clone()));
            }
            match (&step.undo, last_without) {
                (Some(_), Some(without)) => {
                    return Err(SagaError::NoCompensation(without.name.clone()));
                }
                (Some(undo), None) => check_work(step, undo, amends)?,
                (None, _) => last_without = Some(step),
            }
            check_work(step, &step.act, amends)?;
            if !step.store.is_empty() && !is_store(&step.store) {
                let (step, store) = (step.name.clone(), step.store.clone());
                return Err(SagaError::UnknownStore { step, store });
            }
        }
        self.check_transit()?;
        let mut w = Writer::new();
        self.put(&mut w);
        at_most("bytes of a saga's plan", w.bytes().len(), PLAN_BYTES_MAX)
    }

    /// What is sent is received, and what a step sends is brought back by what undoes it.
    fn check_transit(&self) -> Result<(), SagaError> {
        let mut transit = Transit::default();
        for step in &self.steps {
            let lost = |what| SagaError::NotConserved { step: step.name.clone(), what };
            transit.add(&step.act).map_err(lost)?;
            if let Some(undo) = &step.undo {
                let mut back = transit.clone();
                back.add(undo).map_err(lost)?;
                let mut before = Transit::default();
                for earlier in self.steps.iter().take_while(|other| other.name != step.name) {
                    before.add(&earlier.act).map_err(lost)?;
                }
                if let Some(what) = back.differs_from(&before) {
                    return Err(lost(what));
                }
            }
        }
        match (transit.differs_from(&Transit::default()), self.steps.last()) {
            (Some(what), Some(last)) => {
                Err(SagaError::NotConserved { step: last.name.clone(), what })
            }
            _ => Ok(()),
        }
    }
}

/// What is on its way.
#[derive(Clone, Default, PartialEq, Eq)]
struct Transit {
    amounts: BTreeMap<Currency, u128>,
    items: BTreeMap<ItemId, (ItemKind, Vec<u8>)>,
}

impl Transit {
    fn add(&mut self, work: &SagaWork) -> Result<(), String> {
        for op in &work.ops {
            match op {
                LedgerOp::Send { currency, amount, .. } => {
                    *self.amounts.entry(*currency).or_default() += u128::from(*amount);
                }
                LedgerOp::Receive { currency, amount, .. } => {
                    let on_its_way = self.amounts.entry(*currency).or_default();
                    let left = on_its_way.checked_sub(u128::from(*amount));
                    *on_its_way = left.ok_or_else(|| currency.to_string())?;
                }
                LedgerOp::SendItem { item, kind, data, .. } => {
                    let before = self.items.insert(*item, (*kind, data.clone()));
                    before.map_or(Ok(()), |_| Err(item.to_string()))?;
                }
                LedgerOp::ReceiveItem { item, kind, data, .. } => {
                    let sent = self.items.remove(item);
                    let same = sent.filter(|sent| (sent.0, &sent.1) == (*kind, data));
                    same.ok_or_else(|| item.to_string())?;
                }
                _ => {}
            }
        }
        self.amounts.retain(|_, amount| *amount > 0);
        Ok(())
    }

    fn differs_from(&self, other: &Transit) -> Option<String> {
        let amounts = self.amounts.keys().chain(other.amounts.keys());
        let mut amounts =
            amounts.filter(|currency| self.amounts.get(currency) != other.amounts.get(currency));
        let items = self.items.keys().chain(other.items.keys());
        let mut items = items.filter(|item| self.items.get(item) != other.items.get(item));
        let amount = amounts.next().map(ToString::to_string);
        amount.or_else(|| items.next().map(ToString::to_string))
    }
}

fn check_work(step: &SagaStep, work: &SagaWork, amends: &Amends) -> Result<(), SagaError> {
    at_most("ledger operations of a step", work.ops.len(), OPS_MAX)?;
    at_most("records of a step", work.amends.len(), AMENDS_MAX)?;
    at_most("messages of a step", work.messages.len(), MESSAGES_MAX)?;
    for message in &work.messages {
        let bytes = message.topic.len() + message.body.len();
        at_most("bytes of a message", bytes, MESSAGE_BYTES_MAX)?;
    }
    for op in &work.ops {
        let data = op.bytes() - 64;
        at_most("bytes of an item's data", data, ITEM_BYTES_MAX)?;
    }
    if let Some(amend) = work.amends.iter().find(|amend| !amends.knows(&amend.by)) {
        let (step, by) = (step.name.clone(), amend.by.clone());
        return Err(SagaError::UnknownAmend { step, by });
    }
    if slots(work).len() > 1 {
        return Err(SagaError::AcrossSlots(step.name.clone()));
    }
    Ok(())
}

/// The slots that a step touches.
pub(super) fn slots(work: &SagaWork) -> BTreeSet<Slot> {
    let holders = work.ops.iter().flat_map(LedgerOp::holders).map(Slot::of);
    holders.chain(work.amends.iter().map(|amend| Slot::of_record(&amend.record))).collect()
}

fn at_most(what: &'static str, size: usize, max: usize) -> Result<(), SagaError> {
    if size > max { Err(SagaError::TooLarge { what, size, max }) } else { Ok(()) }
}
