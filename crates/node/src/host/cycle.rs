//! Who waits for whom: rings of calls are found when their last call is made.
//!
//! A turn waits for its calls. A call waits for the turn that serves it or, while it lies in a
//! mailbox, for the exclusive turn that holds its target. An interleaved turn waits for the
//! exclusive turn of its own entity. Every edge but the last of a ring exists when the last one
//! is added, and edges are added only by calls to an entity that is busy; so the walk starts
//! there. Where it reaches an edge to another worker, it goes on there as a probe.

use std::rc::Rc;

use proto::EntityId;
use proto::link::{CHAIN_MAX, LinkFrame, Slot, WorkerId};

use super::calls::{Sent, shard_of};
use super::hub::{Hub, bump};
use super::mail::Origin;
use super::turns::TurnId;
use crate::error::Fault;

/// Most turns that one walk looks at; a longer chain is left to its deadline.
const WALK_MAX: usize = 1_024;

/// Most workers that one probe goes through.
const HOPS_MAX: u8 = 64;

/// A call to another worker that a walk came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RemoteEdge {
    pub to: WorkerId,
    pub call: Slot,
    pub target: EntityId,
}

/// A probe on its way to another worker of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Probe {
    pub from: WorkerId,
    pub origin: WorkerId,
    pub call: Slot,
    pub target: EntityId,
    pub seen: u64,
}

/// What a walk found that did not close a ring.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    pub remote: Vec<RemoteEdge>,
}

/// A view of a worker's waits.
pub(crate) struct Graph<'a> {
    hub: &'a Rc<Hub>,
}

impl<'a> Graph<'a> {
    pub fn new(hub: &'a Rc<Hub>) -> Self {
        Graph { hub }
    }

    /// Follows what a call by `goal` to a busy entity would wait for.
    ///
    /// # Errors
    ///
    /// `Cycle` with the entities of the ring if that is `goal` itself.
    pub fn walk_from(&self, shard: u16, entity: u32, goal: TurnId) -> Result<Walk, Fault> {
        match self.hub.any_shard(usize::from(shard)).exclusive_turn(entity) {
            Some(first) => self.walk(first, Some(goal)),
            None => Ok(Walk::default()),
        }
    }

    /// Follows everything that `first` waits for, depth first.
    pub fn walk(&self, first: TurnId, goal: Option<TurnId>) -> Result<Walk, Fault> {
        let mut walk = Walk::default();
        let mut visited = vec![first];
        // Turns on the way, each with what it waits for and was not looked at yet.
        let mut path: Vec<(TurnId, Vec<TurnId>)> = Vec::new();
        let mut at = first;
        loop {
            if Some(at) == goal {
                bump(&self.hub.count.cycles);
                // From the caller to whom it called, and so on around.
                let turns = std::iter::once(at).chain(path.iter().map(|(turn, _)| *turn));
                return Err(Fault::Cycle(turns.map(|turn| self.entity_of(turn)).collect()));
            }
            let next = self.waits_of(at, &mut walk.remote);
            path.push((at, next));
            at = loop {
                let Some((_, rest)) = path.last_mut() else { return Ok(walk) };
                match rest.pop() {
                    Some(turn) if visited.contains(&turn) || visited.len() >= WALK_MAX => {}
                    Some(turn) => break turn,
                    None => {
                        path.pop();
                    }
                }
            };
            visited.push(at);
        }
    }

    /// The turns of this worker that `turn` waits for; calls to other workers are added to `remote`.
    fn waits_of(&self, id: TurnId, remote: &mut Vec<RemoteEdge>) -> Vec<TurnId> {
        let (calls, shard, entity, exclusive) = {
            let turns = self.hub.turns.borrow();
            let Some(turn) = turns.get(id) else { return Vec::new() };
            (turn.calls.to_vec(), turn.shard, turn.entity, turn.exclusive)
        };
        let mut found = Vec::new();
        if !exclusive {
            found.extend(self.hub.any_shard(usize::from(shard)).exclusive_turn(entity));
        }
        for packed in calls {
            let shard = self.hub.any_shard(shard_of(packed));
            let Some((call, sent, target, _)) = shard.call_info(packed) else { continue };
            match sent {
                Sent::There(to) => remote.push(RemoteEdge { to, call, target }),
                Sent::Here(entity) => match shard.exclusive_turn(entity) {
                    Some(turn) => found.push(turn),
                    None => found.extend(self.serving(&shard.open_turns(entity), call)),
                },
            }
        }
        found
    }

    fn serving(&self, open: &[TurnId], call: Slot) -> Option<TurnId> {
        let turns = self.hub.turns.borrow();
        let serves = |id: &&TurnId| {
            turns
                .get(**id)
                .is_some_and(|turn| matches!(turn.origin, Origin::Local(origin) if origin == call))
        };
        open.iter().find(serves).copied()
    }

    fn entity_of(&self, turn: TurnId) -> EntityId {
        let at = self.hub.turns.borrow().get(turn).map(|turn| (turn.shard, turn.entity));
        let id =
            at.and_then(|(shard, entity)| self.hub.any_shard(usize::from(shard)).id_at(entity));
        id.unwrap_or_default()
    }

    /// The entities whose turns wait for `turn`, outermost first, without its own.
    ///
    /// # Errors
    ///
    /// `Cycle` if the chain is longer than a call can carry.
    pub fn chain(&self, turn: TurnId) -> Result<Box<[EntityId]>, Fault> {
        if self.hub.turns.borrow().get(turn).is_none_or(|turn| turn.is_outermost) {
            return Ok(Box::default());
        }
        let chain = self.walk_up(turn)?;
        if chain.is_empty()
            && let Some(turn) = self.hub.turns.borrow_mut().get_mut(turn)
        {
            turn.is_outermost = true;
        }
        Ok(chain)
    }

    fn walk_up(&self, turn: TurnId) -> Result<Box<[EntityId]>, Fault> {
        let mut chain = Vec::new();
        let mut at = turn;
        loop {
            enum Next {
                Turn(TurnId),
                End,
            }
            let next = {
                let turns = self.hub.turns.borrow();
                let Some(slot) = turns.get(at) else { break };
                match &slot.origin {
                    Origin::Local(call) => {
                        let shard = self.hub.any_shard(shard_of(call.index));
                        match shard.call_info(call.index) {
                            Some((name, _, _, turn)) if name == *call && !turn.is_none() => {
                                Next::Turn(turn)
                            }
                            _ => Next::End,
                        }
                    }
                    Origin::Remote(remote) => {
                        chain.extend(slot.sender.id_with(&slot.origin, self.hub.me.node));
                        chain.extend(remote.chain.iter().rev());
                        Next::End
                    }
                    _ => Next::End,
                }
            };
            match next {
                Next::Turn(turn) => {
                    chain.push(self.entity_of(turn));
                    at = turn;
                }
                Next::End => break,
            }
            if chain.len() >= CHAIN_MAX {
                break;
            }
        }
        if chain.len() >= CHAIN_MAX {
            bump(&self.hub.count.cycles);
            return Err(Fault::Cycle(chain.into()));
        }
        chain.reverse();
        Ok(chain.into())
    }

    /// Lets a probe go on along a call to another worker. `hops` is how many it made.
    pub fn send_probe(&self, edge: RemoteEdge, origin: WorkerId, call: Slot, hops: u8) {
        if hops >= HOPS_MAX {
            return;
        }
        bump(&self.hub.count.probes);
        let seen = pack_seen(edge.call, hops);
        let target = edge.target;
        if edge.to.node == self.hub.me.node {
            // In the lane of the call that it follows, so that it cannot overtake it.
            let from = self.hub.me;
            let shard = self.hub.any_shard(shard_of(edge.call.index));
            shard.send_probe(edge.to.worker, Probe { from, origin, call, target, seen });
        } else {
            let frame = LinkFrame::Probe { origin, call, target, seen };
            self.hub.frames.borrow_mut().control(edge.to, &frame);
        }
    }

    /// A probe came in: it looks for the caller of `call` of `origin` behind a call from `from` to
    /// `target`.
    pub fn handle_probe(&self, probe: Probe) {
        let (via, hops) = unpack_seen(probe.seen);
        let Some(first) = self.entry(probe.from, via, probe.target) else { return };
        let goal = if probe.origin == self.hub.me {
            match self.hub.any_call(probe.call) {
                Some((name, turn)) if name == probe.call && !turn.is_none() => Some(turn),
                // The call is over: nobody waits.
                _ => return,
            }
        } else {
            None
        };
        match self.walk(first, goal) {
            Err(fault) => {
                let shard = self.hub.any_shard(shard_of(probe.call.index));
                let mut below = Vec::new();
                shard.fail_call(probe.call, fault, &mut below);
                below.into_iter().for_each(|turn| self.hub.cancel_turn(turn));
            }
            Ok(walk) => {
                for edge in walk.remote {
                    self.send_probe(edge, probe.origin, probe.call, hops + 1);
                }
            }
        }
    }

    /// The turn that the call `via` of `from` waits for.
    fn entry(&self, from: WorkerId, via: Slot, target: EntityId) -> Option<TurnId> {
        let serving = {
            let turns = self.hub.turns.borrow();
            turns
                .iter()
                .find(|(_, turn)| match &turn.origin {
                    Origin::Remote(remote) => {
                        remote.from == from && remote.call.is_some_and(|call| same(call, via))
                    }
                    _ => false,
                })
                .map(|(id, _)| id)
        };
        if serving.is_some() {
            return serving;
        }
        let shard = self.hub.shard_of_kind(target.kind)?;
        let found = shard.target(target)?;
        shard.exclusive_turn(found.index)
    }
}

/// A probe's `seen`: the slot of the call that it follows, and how many hops it made.
/// `generation's low 24 bits << 40 | hops << 32 | index`.
fn pack_seen(call: Slot, hops: u8) -> u64 {
    u64::from(call.generation & 0x00ff_ffff) << 40 | u64::from(hops) << 32 | u64::from(call.index)
}

fn unpack_seen(seen: u64) -> (Slot, u8) {
    let slot = Slot { index: seen as u32, generation: (seen >> 40) as u32 };
    (slot, (seen >> 32) as u8)
}

/// Whether a call is the one that a probe names by the low bits of its generation.
fn same(call: Slot, via: Slot) -> bool {
    call.index == via.index && call.generation & 0x00ff_ffff == via.generation
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probe_packs_call_and_hops() {
        let call = Slot { index: 0xdead_beef, generation: 0x0112_3456 };
        let (via, hops) = unpack_seen(pack_seen(call, 63));
        assert_eq!(hops, 63);
        assert!(same(call, via));
        assert!(!same(Slot { generation: 0x0112_3457, ..call }, via));
    }
}
