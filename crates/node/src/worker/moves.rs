//! Entities move between nodes: reserve, freeze, save, send along what is in memory, give back, take
//! with the next epoch, go on. The store's compare-and-set by the new owner is the one point at which
//! an entity changes hands; no timeout ever decides that.

mod incoming;
mod outgoing;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use env::{Instant, WallTime};
use proto::link::{LinkFrame, MoveStep, WorkerId};
use proto::{EntityId, Incarnation, KindId};
use store::{Claim, Documents};

use super::Worker;
use super::links::{Links, View};
use crate::data::Keeper;
use crate::host::routes::Standing;
use crate::session::{Outlet, Places, Scope};
use incoming::Incoming;
use outgoing::{Outgoing, Phase};

/// Most entities on their way from one worker at a time.
const OPEN_MAX: usize = 128;
/// Most entities on their way to one worker.
const INCOMING_MAX: usize = 4_096;
/// How long an end waits for the other one's next word.
const STEP_WAIT: Duration = Duration::from_secs(2);
/// How long an entity waits for its open turns before it stays where it is.
const TURNS_WAIT: Duration = Duration::from_secs(5);
/// How long what came from a node that has fallen silent is kept: longer than it takes until that is
/// declared dead.
const KEEP: Duration = Duration::from_secs(20);
/// Bytes of one part.
const PART_BYTES: usize = 256 * 1024;
/// The most that one entity may take along.
const PARCEL_BYTES_MAX: usize = 8 << 20;
/// How often an entity is looked for that is to move.
const WISH_HOPS_MAX: u64 = 4;
/// Most nodes kept in mind that went in order.
const LEFT_MAX: usize = 64;
/// How long the nodes of a cluster stay the same before entities move for them.
const STRAY_AFTER: Duration = Duration::from_secs(10);
/// How often some of those are moved.
const STRAY_EVERY: Duration = Duration::from_secs(1);

/// Moves of entities between nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MoveStats {
    /// Moves away that began.
    pub begun: u64,
    /// Entities that went to another node.
    pub gone: u64,
    /// Moves away after which the entity stayed.
    pub stayed: u64,
    /// Entities that came from another node.
    pub came: u64,
    /// Entities on their way now, and such that wait for it.
    pub open: usize,
    /// Entities here that belong elsewhere, when that was last looked at.
    pub strays: usize,
}

/// The moves of one worker.
#[derive(Debug, Default)]
pub(super) struct Moves {
    number: u64,
    out: BTreeMap<EntityId, Outgoing>,
    coming: BTreeMap<EntityId, Incoming>,
    queue: VecDeque<(EntityId, WorkerId)>,
    /// Entities that an operator put here: they stay although they are placed elsewhere.
    pinned: BTreeSet<EntityId>,
    /// When to look for entities that belong elsewhere.
    stray_at: Option<Instant>,
    directory_changed: bool,
    /// The last nodes that went in order: what they had they sent on before.
    left: VecDeque<Incarnation>,
    stats: MoveStats,
}

impl Moves {
    /// A node is off the list that had announced it.
    pub(super) fn note_left(&mut self, node: Incarnation) {
        if self.left.len() >= LEFT_MAX {
            self.left.pop_front();
        }
        self.left.push_back(node);
    }
}

impl Worker {
    /// Has an entity move to a node, wherever it is now. `false` if it cannot be had there. What
    /// becomes of it shows in [`MoveStats`]; it may stay where it is.
    pub fn move_entity(&mut self, id: EntityId, to: Incarnation) -> bool {
        let directory = self.directory();
        let Some(info) = directory.node(to).filter(|info| info.may_have(id)) else {
            return false;
        };
        let to = WorkerId { node: to, worker: id.worker(info.workers) };
        if self.host.find(id).is_some() {
            self.moves.queue.push_back((id, to));
            return true;
        }
        self.take_wish(id, to.node, 0)
    }

    /// An entity is to move that may be here. `hops`: how often it was looked for.
    fn take_wish(&mut self, id: EntityId, to: Incarnation, hops: u64) -> bool {
        if self.host.find(id).is_some() {
            return hops > 0 && self.move_entity(id, to);
        }
        let at = self.host.routes().went(id).or_else(|| self.view.worker_of(id));
        let Some(at) = at.filter(|at| *at != self.me && hops < WISH_HOPS_MAX) else {
            return false;
        };
        self.send_step(at, id, hops + 1, MoveStep::Wish, &to.0.to_le_bytes());
        true
    }

    /// What became of moves.
    pub(super) fn move_stats(&self) -> MoveStats {
        let moves = &self.moves;
        MoveStats { open: moves.out.len() + moves.queue.len(), ..moves.stats }
    }

    /// The entities here that are kept in a store and belong to another node, or to none.
    pub fn strays(&self) -> Vec<EntityId> {
        let held = self.keepers.iter().flat_map(|keeper| keeper.held());
        held.filter(|id| {
            let at = self.view.placed(*id);
            at.is_none_or(|at| at.node != self.me.node) && !self.moves.pinned.contains(id)
        })
        .collect()
    }

    /// Entities that are kept in a store and on their way to another node, or should be.
    pub fn entities_left(&self) -> usize {
        let strays = self.strays().into_iter();
        self.moves.out.len() + strays.filter(|id| self.view.placed(*id).is_some()).count()
    }

    pub(super) fn note_directory(&mut self) {
        self.moves.directory_changed = true;
    }

    pub(super) fn is_draining(&self) -> bool {
        self.view.directory.borrow().node(self.me.node).is_some_and(|info| info.draining)
    }

    /// When [`carry_moves`](Self::carry_moves) has something to do.
    pub(super) fn moves_timeout(&self) -> Option<Instant> {
        let out = self.moves.out.values().map(|out| out.until);
        let coming = self.moves.coming.values().map(|coming| coming.look_at);
        let routes = self.host.routes().poll_timeout();
        out.chain(coming).chain(self.moves.stray_at).chain(routes).min()
    }

    /// Takes moves on. Gives whether anything was done.
    pub(super) fn carry_moves(&mut self, now: Instant) -> bool {
        let (view, keepers, left) = (&self.view, &self.keepers, &self.moves.left);
        self.host.sweep_routes(|node| standing(view, keepers, left, node));
        self.look_for_strays(now);
        let mut busy = self.begin_queued(now);
        if self.moves.out.is_empty() && self.moves.coming.is_empty() {
            return busy;
        }
        let freezing = self.moves.out.iter().filter(|(_, out)| out.phase == Phase::Freezing);
        let freezing: Vec<EntityId> = freezing.map(|(id, _)| *id).collect();
        for id in freezing {
            busy |= self.freeze(now, id);
        }
        let untold = self.moves.coming.iter().filter(|(_, coming)| !coming.told);
        let untold: Vec<EntityId> = untold.map(|(id, _)| *id).collect();
        for id in untold {
            busy |= self.tell_arrived(id);
        }
        let late = self.moves.out.iter().filter(|(_, out)| out.until <= now);
        let late: Vec<EntityId> = late.map(|(id, _)| *id).collect();
        for id in late {
            busy = true;
            self.outgoing_late(now, id);
        }
        let late = self.moves.coming.iter().filter(|(_, coming)| coming.look_at <= now);
        let late: Vec<EntityId> = late.map(|(id, _)| *id).collect();
        for id in late {
            busy = true;
            self.incoming_late(now, id);
        }
        busy
    }

    fn begin_queued(&mut self, now: Instant) -> bool {
        let mut busy = false;
        while self.moves.out.len() < OPEN_MAX
            && let Some((id, to)) = self.moves.queue.pop_front()
        {
            busy |= self.begin_move(now, id, to);
        }
        busy
    }

    /// Entities that are placed elsewhere now move there: all of them if this node is to go, else a few
    /// at a time, and those first that nobody plays with.
    fn look_for_strays(&mut self, now: Instant) {
        if std::mem::take(&mut self.moves.directory_changed) && !self.keepers.is_empty() {
            self.note_listed(now);
            let draining = self.is_draining();
            self.moves.stray_at = Some(if draining { now } else { now + STRAY_AFTER });
        }
        if self.moves.stray_at.is_none_or(|at| at > now) {
            return;
        }
        self.moves.pinned.retain(|id| self.host.find(*id).is_some());
        if self.is_draining() {
            self.moves.pinned.clear();
        }
        let mut strays = self.strays();
        self.moves.stats.strays = strays.len();
        self.moves.stray_at = (!strays.is_empty()).then_some(now + STRAY_EVERY);
        if !self.is_draining() {
            let held: usize = self.keepers.iter().map(|keeper| keeper.held().len()).sum();
            strays.sort_by_key(|id| self.streams.peers_of(*id).next().is_some());
            strays.truncate((held / 100).max(1));
        }
        for id in strays {
            let queued = self.moves.queue.iter().any(|(known, _)| *known == id);
            if let Some(to) = self.view.placed(id)
                && !queued
            {
                self.moves.queue.push_back((id, to));
            }
        }
    }

    /// A frame about entities that move. `false` if it is none.
    pub(super) fn handle_move_frame(
        &mut self,
        now: Instant,
        wall: WallTime,
        from: WorkerId,
        frame: &LinkFrame<'_>,
    ) -> bool {
        match frame {
            &LinkFrame::Move { entity, number, step, body } => {
                self.handle_step(now, wall, (from, entity, number), (step, body));
            }
            &LinkFrame::Moved { entity, at } => self.handle_moved(now, entity, from, at),
            &LinkFrame::Forwarded { from: sender, hops, payload } => {
                return self.host.handle_forwarded((from, sender), hops, payload);
            }
            &LinkFrame::Marker { entity, number } => self.host.handle_marker(from, entity, number),
            &LinkFrame::Passed { entity, number } => {
                if !self.gate_passed(now, (from, entity, number)) {
                    self.host.handle_passed(entity, number, from);
                }
            }
            LinkFrame::StreamMoved { .. } => {
                let mut out = Links { mesh: &mut self.mesh, now, unsent: &mut self.unsent };
                let mut io = Scope { now, wall, out: &mut out, places: &*self.view };
                self.homes.handle_link(&mut io, from, frame);
            }
            _ => return false,
        }
        true
    }

    fn handle_step(
        &mut self,
        now: Instant,
        wall: WallTime,
        (from, id, number): (WorkerId, EntityId, u64),
        (step, body): (MoveStep, &[u8]),
    ) {
        match step {
            MoveStep::Reserve => self.reserve(now, from, id, number, body.first() == Some(&1)),
            MoveStep::Part | MoveStep::Last => {
                self.take_part(now, (from, id, number), body, step == MoveStep::Last);
            }
            MoveStep::Go => self.take_go(now, (from, id, number), body),
            MoveStep::Late => {
                if let Err(error) = self.host.take_late(id, from, body) {
                    self.bad_frame(from, error.to_string());
                }
            }
            MoveStep::Cancel => self.forget_coming(now, (from, id, number)),
            MoveStep::Reserved => self.reserved(now, (from, id, number)),
            MoveStep::Refused => self.refused(now, wall, (from, id, number)),
            MoveStep::Arrived => self.arrived(now, (from, id, number)),
            MoveStep::Done => self.done(now, (from, id, number)),
            MoveStep::Wish => {
                if let Ok(node) = body.try_into() {
                    self.take_wish(id, Incarnation(u64::from_le_bytes(node)), number);
                }
            }
        }
    }

    /// Goes behind all mail that this worker has sent to `to` before.
    fn send_step(
        &mut self,
        to: WorkerId,
        entity: EntityId,
        number: u64,
        step: MoveStep,
        body: &[u8],
    ) {
        self.host.send_behind(to, &LinkFrame::Move { entity, number, step, body });
    }

    /// Somebody says where an entity is: mail that waits for it here goes there.
    fn handle_moved(&mut self, now: Instant, id: EntityId, from: WorkerId, at: WorkerId) {
        let coming = self.moves.coming.contains_key(&id) || self.moves.out.contains_key(&id);
        if self.host.is_loading(id) && !coming && at != self.me {
            let late = self.host.pack_late(id).unwrap_or_default();
            let mut out = Links { mesh: &mut self.mesh, now, unsent: &mut self.unsent };
            self.streams.went_elsewhere(&mut out, id, at);
            if let Some(keeper) = self.keeper_of(id) {
                keeper.handle_given_up(now, id);
            }
            self.host.found_elsewhere(id, at, &late);
        }
        if self.host.find(id).is_none() {
            self.host.handle_moved(id, from, at);
        } else if at == self.me {
            // This worker looked for it elsewhere, where it had been.
            self.host.routes().note(id, at, now);
        }
    }

    /// The entity stands as another node's in the store: that is asked for it.
    pub(super) fn stands_elsewhere(&mut self, now: Instant, id: EntityId, node: Incarnation) {
        if self.moves.out.contains_key(&id) {
            return self.taken_elsewhere(now, id, node);
        }
        if self.moves.coming.get(&id).is_some_and(|coming| coming.from.node == node) {
            return;
        }
        self.ask_back(now, id, node);
    }

    /// Another node would have an entity of this one.
    pub(super) fn is_asked_for(&mut self, now: Instant, from: WorkerId, id: EntityId) {
        let belongs_here = self.view.placed(id).is_none_or(|at| at == self.me);
        if belongs_here || self.moves.pinned.contains(&id) {
            let at = self.me;
            let mut out = Links { mesh: &mut self.mesh, now, unsent: &mut self.unsent };
            return out.control(from, &LinkFrame::Moved { entity: id, at });
        }
        if !self.moves.out.contains_key(&id) {
            self.begin_move(now, id, from);
        }
    }

    /// The documents of an entity that is on its way are here. `None` if it is not on its way: then it
    /// is simply loaded.
    pub(super) fn load_moving(
        &mut self,
        now: Instant,
        id: EntityId,
        stored: (Documents, Claim),
    ) -> Option<(Documents, Claim)> {
        if self.moves.out.contains_key(&id) {
            return self.retaken(now, id, stored);
        }
        if self.moves.coming.contains_key(&id) {
            return self.take_over(now, id, stored);
        }
        self.host.routes().is_here(id);
        self.host.settle_route(id, self.me);
        Some(stored)
    }

    /// Its keeper does not get an entity. `false` if it is not on its way.
    pub(super) fn refuse_moving(&mut self, now: Instant, id: EntityId) -> bool {
        if let Some(out) = self.moves.out.get_mut(&id) {
            // It is tried again, for it is nowhere else.
            (out.phase, out.until) = (Phase::Retaking, now + STEP_WAIT / 2);
            return true;
        }
        if let Some(coming) = self.moves.coming.remove(&id) {
            self.give_up_coming(now, id, &coming);
        }
        false
    }

    /// The entity is no longer here: what was under way with it is over.
    pub(super) fn move_over(&mut self, now: Instant, id: EntityId) {
        self.moves.pinned.remove(&id);
        if let Some(out) = self.moves.out.remove(&id) {
            self.moves.stats.stayed += 1;
            self.streams.forget_late(id);
            self.send_step(out.to, id, out.number, MoveStep::Cancel, &[]);
        }
        if let Some(coming) = self.moves.coming.remove(&id) {
            self.give_up_coming(now, id, &coming);
        }
    }

    /// Nothing more comes from `node`.
    pub(super) fn moves_down(&mut self, now: Instant, node: Incarnation) {
        self.host.routes_down(node, standing(&self.view, &self.keepers, &self.moves.left, node));
        let mut out = Links { mesh: &mut self.mesh, now, unsent: &mut self.unsent };
        self.streams.new_owner_away(&mut out, node, None);
        let out = self.moves.out.iter().filter(|(_, out)| out.to.node == node);
        let out: Vec<EntityId> = out.map(|(id, _)| *id).collect();
        out.into_iter().for_each(|id| self.outgoing_late(now, id));
        let gates = self.moves.out.iter().flat_map(|(id, out)| {
            let there = out.gates.iter().filter(|gate| gate.node == node);
            there.map(|gate| (*gate, *id, out.number))
        });
        let gates: Vec<_> = gates.collect();
        for step in gates {
            self.gate_passed(now, step);
        }
        let coming = self.moves.coming.iter().filter(|(_, coming)| coming.from.node == node);
        let coming: Vec<EntityId> = coming.map(|(id, _)| *id).collect();
        coming.into_iter().for_each(|id| self.incoming_late(now, id));
    }

    /// The kinds that an entity of may come here.
    fn offers(&self, kind: KindId) -> bool {
        self.host.class_of(kind).is_some()
    }
}

/// Whether an entity that was packed under the one claim is as it was then under the other: nobody has had
/// it between them, and the store has not gone back meanwhile, which raises its generation. It may then have
/// lost what is in memory, and give out an epoch twice.
fn follows(packed: Claim, taken: Claim) -> bool {
    packed.generation == taken.generation && packed.epoch + 1 == taken.epoch
}

/// What a node can still do with what was sent to it. Who is off the list is dead once no store has it
/// for alive, and who went in order at once.
fn standing(
    view: &View,
    keepers: &[Keeper],
    left: &VecDeque<Incarnation>,
    node: Incarnation,
) -> Standing {
    if view.directory.borrow().node(node).is_some() {
        Standing::Listed
    } else if !left.contains(&node) && keepers.iter().any(|keeper| keeper.has_for_alive(node)) {
        Standing::Apart
    } else {
        Standing::Dead
    }
}

#[cfg(test)]
mod tests {
    use store::{Incarnation, Key};

    use super::*;

    /// Seed 15675 of the data suite: the store went back while an entity was on its way. It gave out the epoch
    /// that it had given out before, and what the entity took along, a lesson, was never paid for in what it had
    /// kept.
    #[test]
    fn what_was_packed_before_the_store_went_back_is_not_taken() {
        let claim = |generation, epoch| Claim {
            key: Key(1),
            generation,
            epoch,
            incarnation: Incarnation(9),
        };
        assert!(follows(claim(1, 3), claim(1, 4)));
        assert!(!follows(claim(1, 3), claim(1, 5)), "somebody had it");
        assert!(!follows(claim(1, 3), claim(2, 4)), "the store went back");
    }
}
