//! Calls to entities of other nodes.

use std::rc::Rc;
use std::task::Waker;

use env::Instant;
use proto::link::WorkerId;
use proto::{EntityId, Incarnation};

use super::calls::{NewCall, Sent};
use super::router::Place;
use super::send::Asking;
use super::shard::Shard;
use crate::entity::{Class, Entity};
use crate::error::Fault;

impl<E: Entity> Shard<E> {
    /// Sends a call to an entity that is not of this worker, and that waits until `deadline`
    /// nanoseconds unless its turn ends before. Who may call was checked.
    ///
    /// The usual case is handled here, with each table borrowed once: an entity that cannot move, of
    /// another node, is called by a turn that no other one waits for. Everything else goes the long way.
    pub fn send_call_away(
        self: &Rc<Self>,
        ask: &mut Asking<E>,
        waker: Option<Waker>,
        method: u16,
        deadline: u64,
    ) -> Result<(), Box<Fault>> {
        let hub = &*self.hub;
        let target = EntityId { kind: E::KIND.id, home: ask.home, key: ask.key };
        let Some(to) = self.other_node_of(target) else { return self.send_call_far(ask, waker) };
        let mut calls = self.calls.borrow_mut();
        let mut turns = hub.turns.borrow_mut();
        let caller = turns.get_mut(ask.turn);
        let fits = calls.open_count() < self.limits.in_flight_max
            && caller.as_ref().is_none_or(|turn| {
                turn.is_outermost
                    && turn.exclusive
                    && !turn.cancelled
                    && turn.calls.len() < turn.calls_max as usize
            });
        if !fits {
            drop(turns);
            drop(calls);
            return self.send_call_far(ask, waker);
        }
        let until = caller.as_ref().map_or(Instant::NEVER, |turn| turn.deadline);
        let deadline = Instant::from_nanos(deadline).min(until);
        let call = calls.insert(NewCall {
            method,
            turn: ask.turn,
            home: target.home,
            key: target.key,
            sent: Sent::There(to),
            deadline,
            waker,
        });
        if let Some(turn) = caller {
            turn.calls.push(call.index);
        }
        drop(turns);
        drop(calls);
        ask.slot = call;
        if let Some(message) = &ask.message {
            let from = (ask.sender, Vec::new());
            if let Err(fault) = self.frame_call(to, Some(call), target, deadline, message, from) {
                self.settle(call, Err(fault));
            }
        }
        ask.message = None;
        hub.sweep_by(deadline);
        Ok(())
    }

    /// Where the entity is, if it belongs to another node and cannot have moved.
    #[inline]
    fn other_node_of(&self, id: EntityId) -> Option<WorkerId> {
        let me = self.hub.me;
        if E::KIND.document
            || E::KIND.class == Class::Service && self.may_have(id)
            || id.home != Incarnation::NONE && id.home == me.node
        {
            return None;
        }
        match self.sole.get() {
            // One node has them all.
            Some((node, workers)) if id.home == Incarnation::NONE => {
                (node != me.node).then(|| WorkerId { node, worker: id.worker(workers) })
            }
            _ => match self.hub.router.place(id) {
                Place::Node(to) if to.node != me.node => Some(to),
                _ => None,
            },
        }
    }
}
