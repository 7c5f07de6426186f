//! Which store each kind is kept in: the default one, or one that the cluster file names.

use std::collections::BTreeMap;

use proto::{EntityId, KindId};
use store::{Key, LedgerOp, SagaError, SagaPlan, SagaStep, SagaWork};

use super::commits::CommitError;
use super::deal::Deal;
use super::records::RecordError;

/// The stores of a node. Their numbers: 0 is the default one, the named ones follow in their order.
#[derive(Debug, Default)]
pub(crate) struct Stores {
    names: Vec<String>,
    /// Kinds that are not kept in the default one, and those that are and have documents.
    kinds: BTreeMap<KindId, &'static str>,
    /// The same of sorts of records, as far as they are known.
    records: BTreeMap<u32, &'static str>,
}

impl Stores {
    pub fn set_names(&mut self, names: Vec<String>) {
        self.names = names;
    }

    pub fn place(&mut self, kind: KindId, store: &'static str) {
        self.kinds.insert(kind, store);
    }

    pub fn place_records(&mut self, kind: u32, store: &'static str) {
        self.records.insert(kind, store);
    }

    /// The number of the store in which records are kept that name it.
    ///
    /// # Errors
    ///
    /// There is none of that name, and no sort of records was registered that names it: of one that was, a
    /// node is not started without it, so all is kept in one store, as in a simulation.
    pub fn of_records(&self, name: &str) -> Result<usize, RecordError> {
        let is_known = || self.records.values().any(|known| *known == name);
        match self.number(name) {
            Some(number) => Ok(number),
            None if is_known() => Ok(0),
            None => Err(RecordError::Invalid(format!(
                "there is no store {name:?}: register the records that name it with `App::record`"
            ))),
        }
    }

    /// The number of a store; empty is the default one.
    pub fn number(&self, name: &str) -> Option<usize> {
        match name {
            "" => Some(0),
            name => self.names.iter().position(|known| known == name).map(|at| at + 1),
        }
    }

    /// Whether there is one of that name.
    pub fn has(&self, name: &str) -> bool {
        self.number(name).is_some()
    }

    fn name_of(&self, kind: KindId) -> &'static str {
        self.kinds.get(&kind).copied().unwrap_or_default()
    }

    /// Where a kind is kept. A node refuses to start with a name that there is not; where all is kept
    /// in one store, as in a simulation, that is it.
    pub fn of_kind(&self, kind: KindId) -> usize {
        self.number(self.name_of(kind)).unwrap_or(0)
    }

    /// Where the ledger of a holder is: with the entity, the default store if it is none.
    pub fn of_holder(&self, holder: Key) -> usize {
        self.of_kind(kind_of(holder))
    }

    /// Where a deal is done that `who` asks for.
    ///
    /// # Errors
    ///
    /// [`CommitError::TwoStores`].
    pub fn of_deal(&self, who: Option<EntityId>, deal: &Deal) -> Result<usize, CommitError> {
        let claims = deal.claims.iter().map(|claim| claim.key);
        let holders = deal.ops.iter().flat_map(LedgerOp::holders);
        let keys = claims.chain(deal.ledgers.keys().copied()).chain(holders);
        let records = deal.records_in.filter(|_| !deal.records.is_empty());
        let mut names = who
            .map(|id| self.name_of(id.kind))
            .into_iter()
            .chain(keys.map(|key| self.name_of(kind_of(key))))
            .chain(records);
        let first = names.next().unwrap_or_default();
        match names.find(|name| *name != first) {
            None => Ok(self.number(first).unwrap_or(0)),
            Some(second) => {
                Err(CommitError::TwoStores { first: first.to_owned(), second: second.to_owned() })
            }
        }
    }

    /// Whether the steps of a saga name the stores that their holders are in.
    ///
    /// # Errors
    ///
    /// [`SagaError::OtherStore`], [`SagaError::RecordElsewhere`].
    pub fn check_saga(&self, plan: &SagaPlan) -> Result<(), SagaError> {
        for step in &plan.steps {
            for amend in works_of(step).flat_map(|work| &work.amends) {
                let kept = self.records.get(&amend.record.kind).copied().unwrap_or_default();
                if !kept.is_empty() && kept != step.store {
                    return Err(SagaError::RecordElsewhere {
                        step: step.name.clone(),
                        store: step.store.clone(),
                        record: amend.record.clone(),
                        kept: kept.to_owned(),
                    });
                }
            }
            let ops = works_of(step).flat_map(|work| &work.ops);
            let mut holders = ops.flat_map(LedgerOp::holders);
            let elsewhere = |holder: &Key| {
                self.kinds.get(&kind_of(*holder)).is_some_and(|store| *store != step.store)
            };
            if let Some(holder) = holders.find(elsewhere) {
                return Err(SagaError::OtherStore {
                    step: step.name.clone(),
                    store: step.store.clone(),
                    holder,
                    kept: self.name_of(kind_of(holder)).to_owned(),
                });
            }
        }
        Ok(())
    }
}

fn works_of(step: &SagaStep) -> impl Iterator<Item = &SagaWork> {
    [Some(&step.act), step.undo.as_ref()].into_iter().flatten()
}

fn kind_of(key: Key) -> KindId {
    KindId(((key.0 >> 64) & u128::from(u32::MAX)) as u32)
}
