use crate::error::Error;
use crate::ledger::{
    AuditEntry, Holdings, Item, ItemId, Outgoing, Receipt, Supply, Transaction, TxnId, Verdict,
};
use crate::options::Limits;
use crate::rules::{self, Activations, Of};
use crate::slots::{SlotAsk, SlotTold};
use crate::tables::{self, MemoryTables, Stage};
use crate::types::{Activate, Activated, Claim, Entity, Incarnation, Key, NodeBeat, Pulse, Save};

/// One shard in memory: tables and the rules over them. Pure: the same calls give the same answers.
///
/// The rules are those of every [`Store`](crate::Store), which documents the calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    tables: MemoryTables,
    limits: Limits,
    /// Bytes of what was written, if they are wanted.
    record: Option<Vec<u8>>,
}

impl Shard {
    /// An empty shard of generation 1.
    pub fn new(limits: Limits) -> Self {
        let mut shard = Shard { tables: MemoryTables::default(), limits, record: None };
        shard.found();
        shard
    }

    /// Runs one rule; its writes are applied if it succeeds.
    pub(crate) fn run<T>(
        &mut self,
        rule: impl FnOnce(&mut Stage<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut stage = Stage::new(&self.tables, &self.limits);
        let answer = rule(&mut stage)?;
        stage.seal()?;
        let writes = stage.into_writes();
        if let Some(record) = &mut self.record {
            record.extend_from_slice(&tables::to_bytes(&writes));
        }
        self.tables.apply(writes);
        Ok(answer)
    }

    /// A shard without any row, to be filled by [`apply_record`](Self::apply_record); it keeps what
    /// it writes from then on for [`take_record`](Self::take_record).
    pub fn recorded(limits: Limits) -> Self {
        Shard { tables: MemoryTables::default(), limits, record: Some(Vec::new()) }
    }

    /// Makes the first rows of a shard that has none.
    pub fn found(&mut self) {
        let founded = self.run(|s| {
            rules::found(s);
            Ok(())
        });
        founded.expect("founding only writes");
    }

    /// Whether it has no row at all.
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// What was written since the last time, as bytes that
    /// [`apply_record`](Self::apply_record) reads; empty if nothing was.
    pub fn take_record(&mut self) -> Vec<u8> {
        self.record.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Writes again what a record says.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] if it is none; then it is written up to there.
    pub fn apply_record(&mut self, record: &[u8]) -> Result<(), Error> {
        let writes = tables::from_bytes(record).ok_or(Error::Malformed("no record of a shard"))?;
        writes.into_iter().for_each(|writes| self.tables.apply(writes));
        Ok(())
    }

    /// See [`Store::beat`](crate::Store::beat).
    pub fn beat(&mut self, incarnation: Incarnation) -> Result<Pulse, Error> {
        self.run(|s| rules::beat(s, incarnation))
    }

    /// See [`Store::nodes`](crate::Store::nodes).
    pub fn nodes(&mut self) -> Result<Vec<NodeBeat>, Error> {
        self.run(rules::nodes)
    }

    /// See [`Store::mark_dead`](crate::Store::mark_dead).
    pub fn mark_dead(&mut self, incarnation: Incarnation, beat: u64) -> Result<(), Error> {
        self.run(|s| rules::mark_dead(s, incarnation, beat))
    }

    /// See [`Store::generation`](crate::Store::generation).
    pub fn generation(&mut self) -> Result<u64, Error> {
        self.run(|s| rules::generation(s))
    }

    /// See [`Store::raise_generation`](crate::Store::raise_generation).
    pub fn raise_generation(&mut self, current: u64) -> Result<u64, Error> {
        self.run(|s| rules::raise_generation(s, current))
    }

    /// See [`Store::activate`](crate::Store::activate).
    pub fn activate(&mut self, ask: &Activate) -> Result<Activated, Error> {
        self.run(|s| rules::activate(s, ask))
    }

    /// See [`Store::activate_many`](crate::Store::activate_many).
    pub fn activate_many(&mut self, asks: &[Activate]) -> Result<Activations, Error> {
        self.run(|s| rules::activate_many(s, asks))
    }

    /// See [`Store::release`](crate::Store::release).
    pub fn release(&mut self, claim: &Claim, version: u64) -> Result<(), Error> {
        self.run(|s| rules::release(s, claim, version))
    }

    /// See [`Store::save`](crate::Store::save).
    pub fn save(&mut self, save: &Save) -> Result<u64, Error> {
        self.run(|s| rules::save(s, save))
    }

    /// See [`Store::load`](crate::Store::load).
    pub fn load(&mut self, key: Key) -> Result<Option<Entity>, Error> {
        self.run(|s| rules::load(s, key))
    }

    /// See [`Store::commit`](crate::Store::commit).
    pub fn commit(&mut self, txn: &Transaction) -> Result<Receipt, Error> {
        self.run(|s| rules::commit(s, txn, txn.content_hash()))
    }

    /// See [`Store::lookup`](crate::Store::lookup).
    pub fn lookup(&mut self, id: TxnId) -> Result<Option<Receipt>, Error> {
        self.run(|s| rules::lookup(s, id))
    }

    /// See [`Store::holdings`](crate::Store::holdings).
    pub fn holdings(&mut self, holder: Key) -> Result<Holdings, Error> {
        self.run(|s| rules::holdings(s, holder))
    }

    /// See [`Store::item`](crate::Store::item).
    pub fn item(&mut self, id: ItemId) -> Result<Option<Item>, Error> {
        self.run(|s| rules::item(s, id))
    }

    /// See [`Store::supply`](crate::Store::supply).
    pub fn supply(&mut self, of: Of) -> Result<Supply, Error> {
        self.run(|s| rules::supply(s, of))
    }

    /// See [`Store::outbox`](crate::Store::outbox).
    pub fn outbox(&mut self, after: u64, max: usize) -> Result<Vec<Outgoing>, Error> {
        self.run(|s| rules::outbox(s, after, max))
    }

    /// See [`Store::outbox_ack`](crate::Store::outbox_ack).
    pub fn outbox_ack(&mut self, up_to: u64) -> Result<usize, Error> {
        self.run(|s| rules::outbox_ack(s, up_to))
    }

    /// See [`Store::audit`](crate::Store::audit).
    pub fn audit(&mut self, after: u64, max: usize) -> Result<Vec<AuditEntry>, Error> {
        self.run(|s| rules::audit(s, after, max))
    }

    /// See [`Store::forget`](crate::Store::forget).
    pub fn forget(&mut self, before_ms: u64) -> Result<usize, Error> {
        self.run(|s| rules::forget(s, before_ms))
    }

    /// See [`Store::slots`](crate::Store::slots).
    pub fn slots(&mut self, ask: &SlotAsk) -> Result<SlotTold, Error> {
        self.run(|s| rules::slots::step(s, ask))
    }

    /// See [`Store::verify`](crate::Store::verify).
    pub fn verify(&mut self) -> Result<Verdict, Error> {
        self.run(rules::verify)
    }
}
