//! How messages leave a turn, and how answers come back.

use std::rc::Rc;
use std::time::Duration;

use env::Instant;
use proto::frame::Status;
use proto::link::{Slot, WorkerId};
use proto::{EntityId, Incarnation};

use super::calls::{CallState, NewCall, Sent, Waiter};
use super::cycle::Walk;
use super::hub::bump;
use super::mail::{Body, FROM_OPERATOR, Mail, NONE, Origin};
use super::router::Place;
use super::shard::{BUSY, Shard, is_pseudo};
use super::turns::TurnId;
use crate::entity::{Class, Entity, MethodInfo};
use crate::error::Fault;

/// What a message is sent with.
pub(crate) struct Outbound<M> {
    pub id: EntityId,
    pub message: M,
    pub from: EntityId,
    pub turn: TurnId,
}

/// Where a message was found to go.
enum Way {
    Here(u32),
    Worker(u8),
    Node(WorkerId),
}

/// Whether `from` may call the method from inside the cluster.
fn may_call(info: &MethodInfo, from: EntityId) -> bool {
    if from == FROM_OPERATOR { info.callers.operator } else { info.callers.server }
}

impl<E: Entity> Shard<E> {
    /// Sends a call. Its answer comes into the slot that is given back.
    #[inline]
    pub fn send_call(
        self: &Rc<Self>,
        out: Outbound<E::Message>,
        limit: Option<Duration>,
        waiter: Waiter,
    ) -> Result<Slot, Fault> {
        let Outbound { id, mut message, from, turn } = out;
        let hub = &*self.hub;
        let method = E::method(&message) as u16;
        let info = self.check_method(method, from)?;
        if !info.answers() {
            return Err(Fault::DENIED);
        }
        let mut deadline = hub.now.get() + limit.unwrap_or_else(|| hub.call_wait(info.deadline_ms));
        if !turn.is_none() {
            deadline = deadline.min(self.check_turn(turn)?);
        }
        if self.calls.borrow().open_count() >= hub.options.calls_max {
            bump(&hub.count.busy);
            return Err(Fault::BUSY);
        }
        if hub.options.encode_all {
            message = self.recode(message)?;
        }
        let way = self.way(id)?;
        let sent = match way {
            Way::Here(index) => Sent::Here(index),
            Way::Worker(worker) => Sent::There(WorkerId { node: hub.me.node, worker }),
            Way::Node(worker) => Sent::There(worker),
        };
        let new = NewCall { method, turn, target: id, sent, deadline, waiter };
        let slot = match way {
            Way::Here(index) => {
                let mut cells = self.cells.borrow_mut();
                self.accepts(&cells, index)?;
                let walk = if cells.slots[index as usize].flags & BUSY != 0 && !turn.is_none() {
                    drop(cells);
                    let walk = self.hub.graph().from_entity(self.index, index, turn);
                    cells = self.cells.borrow_mut();
                    Some(walk?)
                } else {
                    None
                };
                let slot = self.calls.borrow_mut().insert(new);
                let body = Body::Message(message);
                let mail = Mail { origin: Origin::Local(slot), from, deadline, method, body };
                self.push(&mut cells, index, mail);
                drop(cells);
                if let Some(walk) = walk {
                    self.probe_on(&walk, hub.me, slot);
                }
                slot
            }
            Way::Worker(worker) => {
                let chain = hub_chain(self, turn)?;
                self.reserve_lane(worker)?;
                let slot = self.calls.borrow_mut().insert(new);
                self.lane_call(worker, Some(slot), id, from, deadline, method, chain, message);
                slot
            }
            Way::Node(to) => {
                let mut chain = hub_chain(self, turn)?.into_vec();
                if !is_pseudo(from) {
                    chain.push(from);
                }
                let slot = self.calls.borrow_mut().insert(new);
                self.frame_call(to, Some(slot), id, deadline, &message, chain);
                slot
            }
        };
        if !turn.is_none()
            && let Some(turn) = hub.turns.borrow_mut().get_mut(turn)
        {
            turn.calls.push(slot.index);
        }
        hub.sweep_by(deadline);
        Ok(slot)
    }

    /// Sends a message that nobody waits for. `Ok` means that it was taken, not that it arrives.
    #[inline]
    pub fn send_tell(self: &Rc<Self>, out: Outbound<E::Message>) -> Result<(), Fault> {
        let Outbound { id, mut message, from, turn } = out;
        let hub = &*self.hub;
        let method = E::method(&message) as u16;
        self.check_method(method, from)?;
        if hub.options.encode_all {
            message = self.recode(message)?;
        }
        match self.way(id)? {
            Way::Here(index) => {
                let mut cells = self.cells.borrow_mut();
                self.accepts(&cells, index)?;
                let body = Body::Message(message);
                let deadline = Instant::NEVER;
                let mail = Mail { origin: Origin::Tell, from, deadline, method, body };
                self.push(&mut cells, index, mail);
            }
            Way::Worker(worker) => {
                self.reserve_lane(worker)?;
                let chain = Box::default();
                self.lane_call(worker, None, id, from, Instant::NEVER, method, chain, message);
            }
            Way::Node(to) => {
                let _ = turn;
                let chain = if is_pseudo(from) { Vec::new() } else { vec![from] };
                self.frame_call(to, None, id, Instant::NEVER, &message, chain);
            }
        }
        Ok(())
    }

    #[inline]
    fn check_method(&self, method: u16, from: EntityId) -> Result<&'static MethodInfo, Fault> {
        let Some(info) = E::KIND.methods.get(usize::from(method)) else {
            return Err(Fault::Status(Status::UnknownMethod));
        };
        if !may_call(info, from) {
            bump(&self.hub.count.denied);
            return Err(Fault::DENIED);
        }
        Ok(info)
    }

    /// Whether the turn may make one more call, and until when it is waited for.
    #[inline]
    fn check_turn(&self, id: TurnId) -> Result<Instant, Fault> {
        let turns = self.hub.turns.borrow();
        let Some(turn) = turns.get(id) else { return Ok(Instant::NEVER) };
        if turn.cancelled {
            return Err(Fault::Cancelled);
        }
        let mut open = turn.calls.len();
        if !turn.exclusive {
            // Other turns of the entity may be open too.
            let (shard, entity) = (turn.shard, turn.entity);
            let of_entity =
                turns.iter().filter(|(_, other)| other.shard == shard && other.entity == entity);
            if turns.open_count() > 1 && open as u32 + turns.open_count() >= turn.calls_max {
                open = of_entity.map(|(_, other)| other.calls.len()).sum();
            }
        }
        if open >= turn.calls_max as usize {
            bump(&self.hub.count.busy);
            return Err(Fault::BUSY);
        }
        Ok(turn.deadline)
    }

    /// Where the message goes; makes a keyed entity that belongs here.
    #[inline]
    fn way(self: &Rc<Self>, id: EntityId) -> Result<Way, Fault> {
        if let Some(index) = self.cells.borrow().find(id.home, id.key) {
            return Ok(Way::Here(index));
        }
        self.way_out(id)
    }

    #[inline(never)]
    fn way_out(self: &Rc<Self>, id: EntityId) -> Result<Way, Fault> {
        let hub = &*self.hub;
        if id.home != Incarnation::NONE && id.home == hub.me.node {
            let worker = (id.key & 0xff) as u8;
            if worker == hub.me.worker {
                return self.find_or_activate(id).map(Way::Here);
            }
            return if worker < hub.workers {
                Ok(Way::Worker(worker))
            } else {
                Err(Fault::NOT_FOUND)
            };
        }
        if E::KIND.class == Class::Service && self.hosted.get() {
            return self.find_or_activate(id).map(Way::Here);
        }
        match hub.router.place(id) {
            Place::Here => self.find_or_activate(id).map(Way::Here),
            Place::Worker(worker) if worker == hub.me.worker => {
                self.find_or_activate(id).map(Way::Here)
            }
            Place::Worker(worker) => Ok(Way::Worker(worker)),
            Place::Node(to) if to == hub.me => self.find_or_activate(id).map(Way::Here),
            Place::Node(to) if to.node == hub.me.node => Ok(Way::Worker(to.worker)),
            Place::Node(to) => Ok(Way::Node(to)),
            Place::Gone => Err(Fault::GONE),
            Place::Unknown => Err(Fault::NOT_FOUND),
            Place::Away => Err(Fault::UNAVAILABLE),
        }
    }

    /// The message as it would arrive on another node.
    fn recode(&self, message: E::Message) -> Result<E::Message, Fault> {
        let method = E::method(&message);
        let mut scratch = self.hub.scratch.take();
        scratch.clear();
        E::encode_message(&message, &mut scratch);
        let decoded = E::decode_message(method, &scratch);
        self.hub.scratch.replace(scratch);
        decoded.map_err(|error| {
            bump(&self.hub.count.bad_arguments);
            Fault::BadArgument(error.to_string().into())
        })
    }

    /// The reply as it would arrive on another node.
    fn recode_reply(&self, method: u16, reply: E::Reply) -> Result<E::Reply, Fault> {
        let mut scratch = self.hub.scratch.take();
        scratch.clear();
        let status = E::encode_reply(&reply, &mut scratch);
        let decoded = E::decode_reply(usize::from(method), status, &scratch);
        self.hub.scratch.replace(scratch);
        decoded.map_err(|error| {
            tracing::error!(kind = E::KIND.name, method, "a reply does not decode: {error}");
            Fault::FAILED
        })
    }

    /// Gives an answer, or the lack of one, to whoever waits.
    #[inline]
    pub fn answer(&self, origin: Origin, result: Result<E::Reply, Fault>) {
        match origin {
            Origin::Tell => {}
            Origin::Local(slot) => self.complete(slot, result),
            other => self.answer_far(other, result),
        }
    }

    #[inline(never)]
    fn answer_far(&self, origin: Origin, result: Result<E::Reply, Fault>) {
        match origin {
            Origin::Tell | Origin::Local(_) => {}
            Origin::Timer(timer) => self.timer_answered(timer, result),
            Origin::Client(peer, tag) => self.answer_client(&peer, tag, result),
            Origin::Remote(remote) => {
                let Some(call) = remote.call else { return };
                if remote.from.node == self.hub.me.node {
                    self.lane_reply(remote.from.worker, call, result);
                } else {
                    self.frame_reply(remote.from, call, result);
                }
            }
        }
    }

    /// A handler without an answer ended.
    pub fn answer_quiet(&self, origin: Origin) {
        match origin {
            Origin::Tell => {}
            Origin::Timer(timer) => self.timer_over(timer),
            // Somebody waits for a method that gives no answer: patterns forbid it, a peer of
            // another version may do it all the same.
            other => self.answer(other, Err(Fault::Status(Status::UnknownMethod))),
        }
    }

    /// The answer to a pending call has come.
    #[inline]
    pub fn complete(&self, slot: Slot, result: Result<E::Reply, Fault>) {
        let mut result = result;
        if self.hub.options.encode_all {
            let method = self.calls.borrow_mut().get_mut(slot).map(|call| call.method);
            result = match (result, method) {
                (Ok(reply), Some(method)) => self.recode_reply(method, reply),
                (other, _) => other,
            };
        }
        self.settle(slot, result);
    }

    /// Puts a result into a pending call and tells who waits.
    #[inline]
    pub fn settle(&self, slot: Slot, result: Result<E::Reply, Fault>) {
        let mut calls = self.calls.borrow_mut();
        let Some(call) = calls.get_mut(slot) else {
            drop(calls);
            bump(&self.hub.count.late_replies);
            return;
        };
        if matches!(call.state, CallState::Done(_)) {
            drop(calls);
            bump(&self.hub.count.late_replies);
            return;
        }
        let before = std::mem::replace(&mut call.state, CallState::Done(result));
        drop(calls);
        if let CallState::Waiting(waiter) = before {
            self.hub.tell_waiter(waiter);
        }
    }

    /// An encoded answer to a pending call has come.
    pub fn complete_encoded(&self, slot: Slot, status: Status, body: &[u8]) {
        let method = self.calls.borrow_mut().get_mut(slot).map(|call| call.method);
        let Some(method) = method else {
            bump(&self.hub.count.late_replies);
            return;
        };
        let result = match status {
            Status::Ok | Status::App => {
                E::decode_reply(usize::from(method), status, body).map_err(|error| {
                    tracing::warn!(
                        kind = E::KIND.name,
                        method,
                        "an answer does not decode: {error}"
                    );
                    Fault::FAILED
                })
            }
            Status::Cycle => {
                let target = self.calls.borrow_mut().get_mut(slot).map(|call| call.target);
                Err(Fault::Cycle(target.into_iter().collect()))
            }
            status => Err(Fault::Status(status)),
        };
        self.settle(slot, result);
    }

    /// Fails a pending call. Turns that serve it are added to `below`, for the caller to cancel.
    pub fn fail(&self, slot: Slot, fault: Fault, below: &mut Vec<TurnId>) -> bool {
        let sent = {
            let mut calls = self.calls.borrow_mut();
            let Some(call) = calls.get_mut(slot) else { return false };
            if !matches!(call.state, CallState::Waiting(_)) {
                return false;
            }
            call.sent
        };
        self.settle(slot, Err(fault));
        self.give_up(slot, sent, below);
        true
    }

    /// Nobody waits for the call any more: what serves it is to know.
    fn give_up(&self, slot: Slot, sent: Sent, below: &mut Vec<TurnId>) {
        match sent {
            Sent::Here(index) => below.extend(self.serving(index, slot)),
            Sent::There(worker) if worker.node == self.hub.me.node => {
                self.lane_cancel(worker.worker, slot);
            }
            Sent::There(worker) => self.frame_cancel(worker, slot),
        }
    }

    /// The open turn that serves a local call.
    pub fn serving(&self, index: u32, slot: Slot) -> Option<TurnId> {
        let turns = self.hub.turns.borrow();
        let mut next = self.cells.borrow().get(index).map_or(NONE, |entity| entity.turns);
        while let Some((id, turn)) = turns.at(next) {
            if matches!(turn.origin, Origin::Local(call) if call == slot) {
                return Some(id);
            }
            next = turn.next;
        }
        None
    }

    /// Takes the answer of a pending call, or notes who waits for it now.
    #[inline]
    pub fn poll_call(
        &self,
        slot: Slot,
        turn: TurnId,
        waiter: Waiter,
    ) -> Option<Result<E::Reply, Fault>> {
        {
            let mut calls = self.calls.borrow_mut();
            let call = calls.get_mut(slot)?;
            if let CallState::Waiting(old) = &mut call.state {
                *old = waiter;
                return None;
            }
            match calls.remove(slot) {
                Some(CallState::Done(result)) => {
                    drop(calls);
                    self.forget_call(slot, turn);
                    Some(result)
                }
                _ => None,
            }
        }
    }

    /// A call was dropped before its answer was taken.
    pub fn drop_call(self: &Rc<Self>, slot: Slot, turn: TurnId) {
        let (state, sent) = {
            let mut calls = self.calls.borrow_mut();
            let Some(sent) = calls.get_mut(slot).map(|call| call.sent) else { return };
            (calls.remove(slot), sent)
        };
        self.forget_call(slot, turn);
        match state {
            Some(CallState::Waiting(_)) => {
                let mut below = Vec::new();
                self.give_up(slot, sent, &mut below);
                below.into_iter().for_each(|turn| self.hub.cancel_turn(turn));
            }
            Some(CallState::Done(_)) => bump(&self.hub.count.dropped_replies),
            _ => {}
        }
    }

    #[inline]
    fn forget_call(&self, slot: Slot, turn: TurnId) {
        if turn.is_none() {
            return;
        }
        if let Some(turn) = self.hub.turns.borrow_mut().get_mut(turn)
            && let Some(at) = turn.calls.iter().position(|packed| *packed == slot.index)
        {
            turn.calls.swap_remove(at);
        }
    }

    /// Sends probes for a call along the remote edges that a walk found.
    pub fn probe_on(&self, walk: &Walk, origin: WorkerId, call: Slot) {
        for edge in &walk.remote {
            self.hub.graph().send_probe(*edge, origin, call, 0);
        }
    }
}

/// The entities that wait for a turn, outermost first, without the turn's own.
fn hub_chain<E: Entity>(shard: &Rc<Shard<E>>, turn: TurnId) -> Result<Box<[EntityId]>, Fault> {
    if turn.is_none() { Ok(Box::default()) } else { shard.hub.graph().chain(turn) }
}
