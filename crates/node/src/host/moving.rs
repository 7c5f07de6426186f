//! What a host has for whoever moves its entities to other nodes.

use std::rc::Rc;

use proto::link::{LinkFrame, MoveStep, WorkerId};
use proto::{EntityId, Incarnation, WireError};
use store::{Claim, Documents};

use super::Host;
use super::routes::{Routes, Standing};
use super::shard::AnyShard;
use crate::cx::Peer;
use crate::data::Changes;

/// How far an entity is that is to be frozen.
#[derive(Debug)]
pub(crate) enum Freezing {
    /// It cannot move any more.
    Lost,
    /// Turns of it are open.
    Waits,
    /// It is frozen, and this is to be saved.
    Frozen(Changes),
}

impl Host {
    fn at(&self, id: EntityId) -> Option<(Rc<dyn AnyShard>, u32)> {
        let shard = self.hub.shard_of_kind(id.kind)?;
        let target = shard.target(id)?;
        Some((shard, target.index))
    }

    /// Whether keyed entities of the kind may live here and are kept in the store.
    pub(crate) fn may_come(&self, id: EntityId) -> bool {
        let shard = self.hub.shard_of_kind(id.kind);
        id.home == Incarnation::NONE
            && shard.is_some_and(|shard| shard.may_have(id) && shard.kind().document)
    }

    /// From now on no turn of the entity begins. `false` if it cannot move.
    pub(crate) fn begin_freeze(&mut self, id: EntityId) -> bool {
        self.at(id).is_some_and(|(shard, index)| shard.begin_freeze(index))
    }

    /// Freezes an entity once its turns have ended. `hooked`: whether its hook has run.
    pub(crate) fn try_freeze(&mut self, id: EntityId, hooked: &mut bool) -> Freezing {
        match self.at(id) {
            Some((shard, index)) => shard.try_freeze(index, hooked),
            None => Freezing::Lost,
        }
    }

    /// What a frozen entity has beside its documents and streams.
    pub(crate) fn pack(&mut self, id: EntityId) -> Option<Vec<u8>> {
        self.at(id).map(|(shard, index)| shard.pack(index))
    }

    /// Its messages that came later.
    pub(crate) fn pack_late(&mut self, id: EntityId) -> Option<Vec<u8>> {
        self.at(id).map(|(shard, index)| shard.pack_late(index))
    }

    /// Lets a frozen entity go on, under `claim` if it was taken anew.
    pub(crate) fn thaw(&mut self, id: EntityId, claim: Option<Claim>) {
        if let Some((shard, index)) = self.at(id) {
            shard.thaw(index, claim);
        }
    }

    /// The entity is at `to` now.
    pub(crate) fn depart(&mut self, id: EntityId, to: WorkerId) {
        if let Some((shard, index)) = self.at(id) {
            shard.depart(index, to);
        }
        let now = self.hub.now.get();
        self.hub.routes.departed(id, to, now);
        self.hub.routes.note(id, to, now);
    }

    /// The entity was looked for here and is at `at`. What its mailbox held, `late`, goes there behind
    /// what went another way.
    pub(crate) fn found_elsewhere(&mut self, id: EntityId, at: WorkerId, late: &[u8]) {
        let (hub, now) = (&self.hub, self.hub.now.get());
        if let Some((shard, index)) = self.at(id) {
            shard.depart(index, at);
        }
        hub.routes.departed(id, at, now);
        let step = LinkFrame::Move { entity: id, number: 0, step: MoveStep::Late, body: late };
        match hub.routes.found(id, (hub.me, at), now) {
            Ok(()) => hub.frames.borrow_mut().control(at, &step),
            Err(marker) => {
                if !hub.hold_behind(id, hub.me, &step) {
                    tracing::warn!(entity = %id, "late mail is lost: too much waits");
                }
                if let Some((by, number)) = marker {
                    hub.send_marker(id, by, number);
                }
            }
        }
    }

    /// Begins an entity that came from another node.
    pub(crate) fn arrive(
        &mut self,
        id: EntityId,
        stored: (Documents, Claim),
        packed: (&[u8], &[Vec<u8>]),
        peers: &[(Peer, bool)],
    ) -> Result<(), String> {
        let Some(shard) = self.hub.shard_of_kind(id.kind) else {
            return Err("its kind is not known here".to_owned());
        };
        self.hub.routes.is_here(id);
        shard.arrive(id, stored, packed, peers)
    }

    /// The last step of a move of which this is not the other end any more, or never was: `from` has sent
    /// on messages for an entity.
    pub(crate) fn take_late(
        &mut self,
        id: EntityId,
        from: WorkerId,
        packed: &[u8],
    ) -> Result<(), WireError> {
        let hub = &self.hub;
        let Some(shard) = hub.shard_of_kind(id.kind) else { return Ok(()) };
        if shard.target(id).is_some() {
            return shard.take_late(id, packed);
        }
        let step = LinkFrame::Move { entity: id, number: 0, step: MoveStep::Late, body: packed };
        if hub.waits(id) {
            if !hub.hold_behind(id, from, &step) {
                tracing::warn!(entity = %id, from = %from.node, "late mail is lost: too much waits");
            }
            return Ok(());
        }
        // Whoever has sent it here does not have it.
        match hub.went(id).filter(|to| *to != from) {
            Some(to) => {
                hub.routes.note(id, to, hub.now.get());
                hub.frames.borrow_mut().control(to, &step);
                Ok(())
            }
            None => shard.take_late(id, packed),
        }
    }

    /// Whether mail waits here for the documents of an entity.
    pub(crate) fn is_loading(&self, id: EntityId) -> bool {
        self.at(id).is_some_and(|(shard, index)| shard.is_loading(index))
    }

    /// Where entities are that may move.
    pub(crate) fn routes(&self) -> &Routes {
        &self.hub.routes
    }

    /// The entity may come here from `old`. Whether all mail that was sent to it from here is there;
    /// `asks` counts how often it was asked after by a marker.
    pub(crate) fn coming(&mut self, id: EntityId, old: WorkerId, asks: &mut u8) -> bool {
        match self.hub.routes.coming(id, (self.hub.me, old), self.hub.now.get()) {
            Ok(()) => true,
            Err(marker) => {
                if let Some((by, number)) = marker {
                    *asks = asks.saturating_add(1);
                    self.hub.send_marker(id, by, number);
                }
                false
            }
        }
    }

    /// The entity does not come here: what waits for that goes to `at`.
    pub(crate) fn not_coming(&mut self, id: EntityId, at: WorkerId) {
        let held = self.hub.routes.not_coming(id, at, self.hub.now.get());
        self.hub.send_cleared(vec![(id, at, held)]);
    }

    /// Sends what waited for an entity to come, which is here now, at `at`.
    pub(crate) fn settle_route(&mut self, id: EntityId, at: WorkerId) {
        let held = self.hub.routes.settle(id, at, self.hub.now.get());
        self.hub.send_cleared(vec![(id, at, held)]);
    }

    /// Frames of other workers about where entities are.
    pub(crate) fn handle_forwarded(
        &mut self,
        (via, from): (WorkerId, WorkerId),
        hops: u8,
        payload: &[u8],
    ) -> bool {
        self.hub.handle_forwarded((via, from), hops, payload)
    }

    pub(crate) fn handle_marker(&mut self, from: WorkerId, entity: EntityId, number: u64) {
        self.hub.handle_marker(from, entity, number);
    }

    pub(crate) fn handle_moved(&mut self, entity: EntityId, old: WorkerId, at: WorkerId) {
        self.hub.handle_moved(entity, old, at);
    }

    pub(crate) fn handle_passed(&mut self, entity: EntityId, number: u64, at: WorkerId) {
        let cleared = self.hub.routes.passed(entity, number, at, self.hub.now.get());
        self.hub.send_cleared(cleared);
    }

    /// Nothing more comes from `node`, by the links that there were.
    pub(crate) fn routes_down(&mut self, node: Incarnation, standing: Standing) {
        self.hub.routes.node_down(node, standing, self.hub.now.get());
    }

    pub(crate) fn sweep_routes(&mut self, standing: impl Fn(Incarnation) -> Standing) {
        let (cleared, again) = self.hub.routes.handle_timeout(self.hub.now.get(), standing);
        self.hub.send_cleared(cleared);
        for (id, old, number) in again {
            self.hub.send_marker(id, old, number);
        }
    }

    /// Sends a frame behind all mail that was sent before.
    pub(crate) fn send_behind(&mut self, to: WorkerId, frame: &proto::link::LinkFrame<'_>) {
        self.hub.frames.borrow_mut().control(to, frame);
    }
}
