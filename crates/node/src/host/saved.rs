//! What a host has for whoever keeps its entities in the store.

use std::sync::Arc;

use env::{Instant, WallTime};
use proto::frame::CloseCode;
use proto::{EntityId, KindId};
use store::{Amends, Claim, Documents, Key};

use super::Host;
use crate::data::{
    Change, Changes, CommitOutcome, Found, Grid, Record, Wishes, add_change, add_map,
};

impl Host {
    /// The time that it was told last.
    pub(crate) fn now(&self) -> Instant {
        self.hub.now.get()
    }

    /// The wall clock, as it was told last.
    pub(crate) fn wall(&self) -> WallTime {
        self.hub.wall.get()
    }

    /// Lets sagas name a change of a record.
    pub fn register_change<C: Change>(&mut self) {
        add_change::<C>(Arc::make_mut(&mut self.hub.amends.borrow_mut()));
    }

    /// Lets sagas move things of a map from shard to shard.
    pub fn register_map<G: Grid>(&mut self) {
        add_map::<G>(Arc::make_mut(&mut self.hub.amends.borrow_mut()));
    }

    /// The changes of records that sagas can name.
    pub(crate) fn amends(&self) -> Arc<Amends> {
        Arc::clone(&self.hub.amends.borrow())
    }

    /// The documents of an entity that [`Event::Activate`](super::Event::Activate) asked for, and
    /// the claim under which this node has it. It begins with them.
    ///
    /// # Errors
    ///
    /// Why they cannot be read. The entity does not begin then, and its mail is answered `Failed`.
    pub fn handle_loaded(
        &mut self,
        id: EntityId,
        documents: Documents,
        claim: Claim,
    ) -> Result<(), String> {
        match self.hub.shard_of_kind(id.kind) {
            Some(shard) => shard.loaded(id, documents, claim),
            None => Err("its kind is not known here".to_owned()),
        }
    }

    /// The next entity kept in the store that may have changed; each once until
    /// [`collect`](Self::collect).
    pub(crate) fn poll_touched(&mut self) -> Option<EntityId> {
        loop {
            let (shard, index) = self.hub.touched.borrow_mut().pop()?;
            let shard = self.hub.shard_at(usize::from(shard))?;
            if let Some(id) = shard.id_at(index) {
                return Some(id);
            }
        }
    }

    /// What changed of an entity since it was last asked. `None` while that cannot be seen.
    pub(crate) fn collect(&mut self, id: EntityId) -> Option<Found> {
        let shard = self.hub.shard_of_kind(id.kind)?;
        let target = shard.target(id)?;
        shard.collect(target.index)
    }

    /// A transaction that was to write an entity has ended.
    pub(crate) fn written(&mut self, id: EntityId, is_stored: bool) {
        let Some(shard) = self.hub.shard_of_kind(id.kind) else { return };
        if let Some(target) = shard.target(id) {
            shard.written(target.index, is_stored);
        }
    }

    /// Drops an entity that is another node's, without a last turn and without saving.
    pub(crate) fn evict(&mut self, id: EntityId) {
        let Some(shard) = self.hub.shard_of_kind(id.kind) else { return };
        if let Some(target) = shard.target(id) {
            shard.evict(target.index);
        }
    }

    /// Ends all entities that are kept in the store, as before the node stops.
    pub(crate) fn let_go_all(&mut self, code: CloseCode) {
        for shard in self.hub.all_shards() {
            shard.let_go_all(code);
        }
    }

    /// What had changed of an entity that has ended.
    pub(crate) fn take_parting(&mut self, id: EntityId) -> Option<Changes> {
        self.hub.parting.borrow_mut().remove(&id)
    }

    /// Names the stores beside the default one.
    pub(crate) fn set_stores(&mut self, names: Vec<String>) {
        self.hub.stores.borrow_mut().set_names(names);
    }

    /// Notes in which store a kind is kept, also one that is not offered here.
    pub(crate) fn place_kind(&mut self, kind: KindId, store: &'static str) {
        self.hub.stores.borrow_mut().place(kind, store);
    }

    /// Knows in which store a sort of records is kept.
    pub fn register_record<R: Record>(&mut self) {
        self.hub.stores.borrow_mut().place_records(KindId::of(R::NAME).0, R::STORE);
    }

    /// The number of the store that a kind is kept in.
    pub(crate) fn store_of(&self, kind: KindId) -> usize {
        self.hub.stores.borrow().of_kind(kind)
    }

    /// The number of the store that has what a holder has.
    pub(crate) fn store_of_holder(&self, holder: Key) -> usize {
        self.hub.stores.borrow().of_holder(holder)
    }

    /// Has the entities that are kept in the store of that number stand still, or go on: their mail waits.
    pub(crate) fn hold(&mut self, store: usize, held: bool) {
        let before = self.hub.held.get();
        let after = if held { before | 1 << store } else { before & !(1 << store) };
        self.hub.held.set(after);
        if after == before || held {
            return;
        }
        for turn in self.hub.held_turns.take() {
            self.hub.wake_turn(turn);
        }
        for shard in self.hub.all_shards() {
            shard.nudge_all();
        }
    }

    /// What entities want of the store.
    pub(crate) fn take_wishes(&mut self) -> Wishes {
        self.hub.desk.borrow_mut().take()
    }

    /// Answers all wishes so far: this node has no store. Gives whether there were any.
    pub(crate) fn refuse_wishes(&mut self) -> bool {
        let wishes = self.take_wishes();
        let any = !wishes.is_empty();
        for (tag, outcome) in wishes.refuse() {
            self.deliver_outcome(tag, outcome);
        }
        any
    }

    /// What became of a transaction or reading.
    pub(crate) fn deliver_outcome(&mut self, tag: u64, outcome: CommitOutcome) {
        self.hub.deliver(tag, outcome);
    }
}
