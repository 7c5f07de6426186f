//! The end that an entity leaves.

use super::*;
use crate::host::Freezing;

/// An entity on its way to another node.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub to: WorkerId,
    pub number: u64,
    pub phase: Phase,
    /// Until when the next thing happens, or it is given up.
    pub until: Instant,
    /// Whether its hook has run.
    hooked: bool,
    /// As whose it was packed.
    packed: Option<Claim>,
    /// Gates that have not said yet that all which was sent to clients has come to them.
    pub gates: BTreeSet<WorkerId>,
    /// Whether all of it has arrived at the other end.
    arrived: bool,
}

/// What an entity that leaves waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Room there.
    Reserving,
    /// The end of its open turns.
    Freezing,
    /// Its last save.
    Saving,
    /// That all of it has arrived there.
    Sending,
    /// That the store has it back.
    Releasing,
    /// That it is taken there.
    Going,
    /// That it is taken here again.
    Retaking,
}

type Step = (WorkerId, EntityId, u64);

impl Worker {
    pub(super) fn begin_move(&mut self, now: Instant, id: EntityId, to: WorkerId) -> bool {
        let placed = self.view.placed(id) == Some(to);
        let known = self.moves.out.contains_key(&id) || to.node == self.me.node;
        let may_go = self.host.may_come(id)
            && self.keeper_of(id).is_some_and(|keeper| keeper.takes() && keeper.holds(id));
        if known || !may_go {
            return false;
        }
        self.moves.stats.begun += 1;
        self.moves.number += 1;
        let number = self.moves.number;
        let out = Outgoing {
            to,
            number,
            phase: Phase::Reserving,
            until: now + STEP_WAIT,
            hooked: false,
            packed: None,
            gates: BTreeSet::new(),
            arrived: false,
        };
        self.moves.out.insert(id, out);
        self.send_step(to, id, number, MoveStep::Reserve, &[u8::from(!placed)]);
        true
    }

    /// The move that a word of its other end is about, if it is in that phase.
    fn outgoing(&mut self, (from, id, number): Step, phase: Phase) -> Option<&mut Outgoing> {
        let out = self.moves.out.get_mut(&id)?;
        (out.to == from && out.number == number && out.phase == phase).then_some(out)
    }

    pub(super) fn reserved(&mut self, now: Instant, step: Step) {
        let Some(out) = self.outgoing(step, Phase::Reserving) else { return };
        (out.phase, out.until) = (Phase::Freezing, now + TURNS_WAIT);
        if !self.host.begin_freeze(step.1) {
            self.stay(now, step.1);
        }
    }

    /// Freezes an entity if its turns have ended. Gives whether it did anything.
    pub(super) fn freeze(&mut self, now: Instant, id: EntityId) -> bool {
        let Some(out) = self.moves.out.get_mut(&id) else { return false };
        match self.host.try_freeze(id, &mut out.hooked) {
            Freezing::Waits => return false,
            Freezing::Lost => self.stay(now, id),
            Freezing::Frozen(changes) => {
                (out.phase, out.until) = (Phase::Saving, now + STEP_WAIT);
                out.gates = self.streams.freeze(id);
                let (gates, number) = (out.gates.clone(), out.number);
                let mut links = Links { mesh: &mut self.mesh, now, unsent: &mut self.unsent };
                for gate in gates {
                    links.control(gate, &LinkFrame::Marker { entity: id, number });
                }
                if let Some(keeper) = self.keeper_of(id) {
                    keeper.handle_frozen(now, id, changes);
                }
            }
        }
        true
    }

    /// All of it is saved: what is in memory is sent.
    pub(in crate::worker) fn saved_moving(&mut self, now: Instant, id: EntityId, claim: Claim) {
        let Some(out) = self.moves.out.get_mut(&id).filter(|out| out.phase == Phase::Saving) else {
            return;
        };
        let (to, number) = (out.to, out.number);
        out.packed = Some(claim);
        let mut parcel = [claim.generation, claim.epoch].map(u64::to_le_bytes).concat();
        self.streams.pack(id, &mut parcel);
        parcel.extend(self.host.pack(id).unwrap_or_default());
        if parcel.len() > PARCEL_BYTES_MAX {
            tracing::warn!(entity = %id, bytes = parcel.len(), "it has too much to move");
            return self.stay(now, id);
        }
        let mut parts = parcel.chunks(PART_BYTES).peekable();
        while let Some(part) = parts.next() {
            let is_last = parts.peek().is_none();
            let step = if is_last { MoveStep::Last } else { MoveStep::Part };
            self.send_step(to, id, number, step, part);
        }
        if let Some(out) = self.moves.out.get_mut(&id) {
            (out.phase, out.until) = (Phase::Sending, now + STEP_WAIT);
        }
    }

    pub(super) fn arrived(&mut self, now: Instant, step: Step) {
        let Some(out) = self.outgoing(step, Phase::Sending) else { return };
        (out.arrived, out.until) = (true, now + STEP_WAIT);
        self.release(now, step.1, false);
    }

    /// A gate has all that was sent to clients. `false` if no move waits for that.
    pub(super) fn gate_passed(&mut self, now: Instant, (from, id, number): Step) -> bool {
        let Some(out) = self.moves.out.get_mut(&id).filter(|out| out.number == number) else {
            return false;
        };
        let known = out.gates.remove(&from);
        if known {
            self.release(now, id, false);
        }
        known
    }

    /// Gives the entity back, once all of it has arrived and nothing from here is on its way to clients
    /// that could come after what is sent from there.
    fn release(&mut self, now: Instant, id: EntityId, anyhow: bool) {
        let Some(out) = self.moves.out.get_mut(&id) else { return };
        let ready = out.phase == Phase::Sending && out.arrived;
        if !ready || !out.gates.is_empty() && !anyhow {
            return;
        }
        // Only the store can tell when this ends.
        (out.phase, out.until) = (Phase::Releasing, Instant::NEVER);
        if let Some(keeper) = self.keeper_of(id) {
            keeper.handle_release(now, id);
        }
    }

    /// The store has it back: the other end may take it.
    pub(in crate::worker) fn released_moving(&mut self, now: Instant, id: EntityId) {
        let Some(out) = self.moves.out.get_mut(&id) else { return };
        if out.phase != Phase::Releasing {
            return;
        }
        (out.phase, out.until) = (Phase::Going, now + STEP_WAIT);
        let (to, number) = (out.to, out.number);
        let late = self.host.pack_late(id).unwrap_or_default();
        self.send_step(to, id, number, MoveStep::Go, &late);
    }

    /// The other end has it.
    pub(super) fn done(&mut self, now: Instant, (from, id, number): Step) {
        let known = self.moves.out.get(&id).is_some_and(|out| {
            let left = matches!(out.phase, Phase::Releasing | Phase::Going | Phase::Retaking);
            out.to == from && out.number == number && left
        });
        if known {
            self.leave(now, id);
        }
    }

    /// The entity is the other end's: what is left of it here follows.
    fn leave(&mut self, now: Instant, id: EntityId) {
        let Some(out) = self.moves.out.remove(&id) else { return };
        self.moves.stats.gone += 1;
        self.moves.pinned.remove(&id);
        let late = self.host.pack_late(id).unwrap_or_default();
        self.send_step(out.to, id, out.number, MoveStep::Late, &late);
        if let Some(keeper) = self.keeper_of(id) {
            keeper.handle_given_up(now, id);
        }
        let mut links = Links { mesh: &mut self.mesh, now, unsent: &mut self.unsent };
        self.streams.depart(now, &mut links, id, out.to);
        self.streams.went_elsewhere(&mut links, id, out.to);
        self.host.depart(id, out.to);
    }

    pub(super) fn refused(&mut self, now: Instant, wall: WallTime, step: Step) {
        let _ = wall;
        let (from, id, number) = step;
        let Some(out) = self.moves.out.get_mut(&id) else { return };
        if out.to != from || out.number != number {
            return;
        }
        match out.phase {
            Phase::Reserving | Phase::Freezing | Phase::Saving => self.stay(now, id),
            Phase::Sending | Phase::Going => self.take_back(now, id),
            // Its release is under way, or it is being taken back.
            Phase::Releasing | Phase::Retaking => {}
        }
    }

    /// The time for the next step is over, or the other end's node is not reached any more.
    pub(super) fn outgoing_late(&mut self, now: Instant, id: EntityId) {
        let Some(out) = self.moves.out.get(&id) else { return };
        match out.phase {
            Phase::Reserving | Phase::Freezing | Phase::Saving => self.stay(now, id),
            // A gate that does not answer has lost its link, or its clients notice a gap and resume.
            Phase::Sending if out.arrived && now >= out.until => self.release(now, id, true),
            Phase::Sending | Phase::Going | Phase::Retaking => self.take_back(now, id),
            Phase::Releasing => {}
        }
    }

    /// Keeps an entity of which the other end may have all, and which that could take later: it goes on
    /// under a new epoch, which makes worthless what was sent. No turn of it ever begins under an epoch
    /// that was sent.
    fn take_back(&mut self, now: Instant, id: EntityId) {
        if self.keeper_of(id).is_some_and(|keeper| keeper.is_closed()) {
            return self.let_go(now, id);
        }
        let Some(out) = self.moves.out.get_mut(&id) else { return };
        (out.phase, out.until) = (Phase::Retaking, now + KEEP);
        if let Some(keeper) = self.keeper_of(id) {
            keeper.handle_retake(now, id);
        }
    }

    /// It is this node's again.
    pub(super) fn retaken(
        &mut self,
        now: Instant,
        id: EntityId,
        stored: (Documents, Claim),
    ) -> Option<(Documents, Claim)> {
        let out = self.moves.out.get(&id)?;
        let (to, number, packed) = (out.to, out.number, out.packed);
        self.send_step(to, id, number, MoveStep::Cancel, &[]);
        let is_closed = self.keeper_of(id).is_some_and(|keeper| keeper.is_closed());
        if packed.is_some_and(|packed| follows(packed, stored.1)) && !is_closed {
            self.go_on(now, id, Some(stored.1));
            return None;
        }
        // Somebody had it meanwhile, so what is in memory here is old; or it can go on nowhere.
        self.drop_frozen(now, id);
        if let Some(keeper) = self.keeper_of(id) {
            keeper.handle_gone(now, id, None);
        }
        None
    }

    /// Somebody else has taken it.
    pub(super) fn taken_elsewhere(&mut self, now: Instant, id: EntityId, node: Incarnation) {
        let Some(out) = self.moves.out.get(&id) else { return };
        if out.to.node == node {
            self.leave(now, id);
            // It has not said so: it may have died since.
            let mut out = Links { mesh: &mut self.mesh, now, unsent: &mut self.unsent };
            return self.streams.new_owner_away(&mut out, node, Some(id));
        }
        self.drop_frozen(now, id);
        if let Some(keeper) = self.keeper_of(id) {
            keeper.handle_given_up(now, id);
        }
    }

    fn drop_frozen(&mut self, now: Instant, id: EntityId) {
        self.moves.out.remove(&id);
        self.moves.stats.stayed += 1;
        self.streams.forget_late(id);
        let _ = now;
        self.host.evict(id);
    }

    /// The node stops: what has not been sent stays, and ends as all that is here does. What has been
    /// sent is on its way, and given back without another turn.
    pub(in crate::worker) fn stop_moves(&mut self, now: Instant) {
        self.moves.queue.clear();
        let unsent = |phase| matches!(phase, Phase::Reserving | Phase::Freezing | Phase::Saving);
        let staying = self.moves.out.iter().filter(|(_, out)| unsent(out.phase));
        let staying: Vec<EntityId> = staying.map(|(id, _)| *id).collect();
        staying.into_iter().for_each(|id| self.stay(now, id));
    }

    /// The other end says nothing, and here nothing goes on any more: the entity is given back, for
    /// whoever asks the store for it next.
    fn let_go(&mut self, now: Instant, id: EntityId) {
        let Some(out) = self.moves.out.get_mut(&id) else { return };
        if out.phase == Phase::Sending {
            (out.phase, out.until) = (Phase::Releasing, Instant::NEVER);
            if let Some(keeper) = self.keeper_of(id) {
                keeper.handle_release(now, id);
            }
            return;
        }
        self.drop_frozen(now, id);
    }

    /// The move is given up before anything was sent of the entity.
    fn stay(&mut self, now: Instant, id: EntityId) {
        if let Some(out) = self.moves.out.get(&id) {
            let (to, number) = (out.to, out.number);
            self.send_step(to, id, number, MoveStep::Cancel, &[]);
        }
        if let Some(keeper) = self.keeper_of(id) {
            keeper.handle_thawed(id);
        }
        self.go_on(now, id, None);
    }

    fn go_on(&mut self, now: Instant, id: EntityId, claim: Option<Claim>) {
        if self.moves.out.remove(&id).is_none() {
            return;
        }
        self.moves.stats.stayed += 1;
        self.host.thaw(id, claim);
        let wall = self.host.wall();
        for (from, payload) in self.streams.thaw(id) {
            self.handle_frame(now, wall, from, &payload);
        }
    }
}
