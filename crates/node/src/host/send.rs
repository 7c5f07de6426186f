//! How messages leave a turn, and how answers come back.

use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use env::Instant;
use proto::frame::Status;
use proto::link::{Slot, WorkerId};
use proto::{EntityId, Incarnation};

use super::calls::{NewCall, Sent};
use super::cycle::{Graph, Walk};
use super::hub::{Hub, Ready, bump};
use super::lane::Parcel;
use super::mail::{Body, Mail, NONE, Origin, RemoteOrigin, Sender};
use super::router::Place;
use super::shard::{BUSY, CLOSING, Cells, LOADING, QUARANTINED, READY, Shard, find_on, hash};
use super::turns::TurnId;
use crate::entity::{Class, Entity, MethodInfo};
use crate::error::Fault;

/// Stands for "the method's own time" where a time to wait is meant.
pub(crate) const OWN_WAIT: u64 = u64::MAX;

/// A call that is to be sent.
pub(crate) struct Asking<E: Entity> {
    pub home: Incarnation,
    pub key: u64,
    pub sender: Sender,
    /// The turn that makes the call.
    pub turn: TurnId,
    /// Nanoseconds, or [`OWN_WAIT`].
    pub wait_nanos: u64,
    /// Until it is sent.
    pub message: Option<E::Message>,
    /// Where its answer comes; `NO_CALL` before it is sent and after its end.
    pub slot: Slot,
}

/// Where a message was found to go.
enum Way {
    Here(u32),
    Worker(u8),
    Node(WorkerId),
    /// It has moved: until the way to it is clear its mail waits.
    Held,
}

/// Whether `sender` may call the method from inside the cluster.
#[inline]
pub(crate) fn may_call(info: &MethodInfo, sender: Sender) -> bool {
    if sender.is_operator() { info.callers.operator } else { info.callers.server }
}

impl<E: Entity> Shard<E> {
    /// Sends a call and notes the slot into which its answer comes. `waker` is told of that, if it
    /// is not the turn. The message must be there.
    ///
    /// The usual case, an idle entity of this worker, is handled here with each table borrowed
    /// once; everything else goes the long way. What was just written is not moved as a whole: a
    /// load of two words that were stored as such waits until both are in the cache.
    pub fn send_call(
        self: &Rc<Self>,
        ask: &mut Asking<E>,
        waker: Option<Waker>,
    ) -> Result<(), Box<Fault>> {
        let hub = &*self.hub;
        let method = ask.message.as_ref().map_or(usize::MAX, E::method);
        let Some(info) = E::KIND.methods.get(method) else {
            return self.send_call_far(ask, waker);
        };
        if hub.options.encode_all || !info.answers() || !may_call(info, ask.sender) {
            return self.send_call_far(ask, waker);
        }
        let mut deadline = hub.now.get().as_nanos().saturating_add(match ask.wait_nanos {
            OWN_WAIT => hub.wait_nanos(info.deadline_ms),
            nanos => nanos,
        });
        let (home, key) = (ask.home, ask.key);
        let mut cells = self.cells.borrow_mut();
        let Cells { slots, room, ids, .. } = &mut *cells;
        let found = ids.find(hash(home, key), |index| {
            let slot = &slots[index as usize];
            slot.key == key && slot.home == home
        });
        let Some(index) = found else {
            drop(cells);
            return self.send_call_away(ask, waker, method as u16, deadline);
        };
        let slot = &mut slots[index as usize];
        let mut calls = self.calls.borrow_mut();
        let mut turns = hub.turns.borrow_mut();
        let caller = turns.get_mut(ask.turn);
        let fits = slot.flags & (BUSY | CLOSING | QUARANTINED) == 0
            && slot.mailbox.len < self.limits.mailbox_max
            && room.len() < hub.options.mail_max
            && calls.open_count() < self.limits.in_flight_max
            && caller.as_ref().is_none_or(|turn| {
                turn.exclusive && !turn.cancelled && turn.calls.len() < turn.calls_max as usize
            });
        if !fits {
            drop(turns);
            drop(calls);
            drop(cells);
            return self.send_call_far(ask, waker);
        }
        if let Some(turn) = &caller {
            deadline = deadline.min(turn.deadline.as_nanos());
        }
        let deadline = Instant::from_nanos(deadline);
        let call = calls.insert(NewCall {
            method: method as u16,
            turn: ask.turn,
            home,
            key,
            sent: Sent::Here(index),
            deadline,
            waker,
        });
        if let Some(turn) = caller {
            turn.calls.push(call.index);
        }
        drop(turns);
        drop(calls);
        ask.slot = call;
        let (message, sender) = (&mut ask.message, ask.sender);
        room.push_with(&mut slot.mailbox, |node| node.put(message, call, sender, method as u16));
        if slot.flags & (READY | LOADING) == 0 {
            slot.flags |= READY;
            drop(cells);
            hub.push_ready(Ready::Entity { shard: self.index, index });
        }
        hub.sweep_by(deadline);
        Ok(())
    }

    /// Sends a call with all that may happen to one.
    #[inline(never)]
    pub fn send_call_far(
        self: &Rc<Self>,
        ask: &mut Asking<E>,
        waker: Option<Waker>,
    ) -> Result<(), Box<Fault>> {
        let message = ask.message.take().expect("a call has its message until it is sent");
        ask.slot = self.send_anywhere(ask, message, waker)?;
        Ok(())
    }

    fn send_anywhere(
        self: &Rc<Self>,
        ask: &Asking<E>,
        mut message: E::Message,
        waker: Option<Waker>,
    ) -> Result<Slot, Fault> {
        let Asking { home, key, sender, turn, wait_nanos, .. } = *ask;
        let hub = &*self.hub;
        let method = E::method(&message) as u16;
        let info = self.check_method(method, sender)?;
        if !info.answers() {
            return Err(Fault::DENIED);
        }
        let nanos = match wait_nanos {
            OWN_WAIT => hub.wait_nanos(info.deadline_ms),
            nanos => nanos,
        };
        let mut deadline = hub.now.get() + Duration::from_nanos(nanos);
        if self.calls.borrow().open_count() >= self.limits.in_flight_max {
            bump(&hub.count.busy);
            return Err(Fault::BUSY);
        }
        if hub.options.encode_all {
            message = self.recode(message)?;
        }
        let id = EntityId { kind: E::KIND.id, home, key };
        let way = self.way(id)?;
        let sent = match way {
            Way::Here(index) => Sent::Here(index),
            Way::Worker(worker) => Sent::There(WorkerId { node: hub.me.node, worker }),
            Way::Node(worker) => Sent::There(worker),
            // Where it went is noted when it goes.
            Way::Held => Sent::There(hub.me),
        };
        let mut walk = None;
        if let Way::Here(index) = way {
            self.accepts(&self.cells.borrow(), index)?;
            let busy = self.cells.borrow().slots[index as usize].flags & BUSY != 0;
            if busy && !turn.is_none() {
                walk = Some(hub_graph(self).walk_from(self.index, index, turn)?);
            }
        }
        let chain = match way {
            Way::Here(_) => Box::default(),
            _ if turn.is_none() => Box::default(),
            _ => hub_graph(self).chain(turn)?,
        };
        if let Way::Worker(worker) = way {
            self.reserve_lane(worker)?;
        }
        deadline = deadline.min(hub.begin_call(turn)?);
        let new = NewCall { method, turn, home, key, sent, deadline, waker };
        let call = self.calls.borrow_mut().insert(new);
        if let Some(turn) = hub.turns.borrow_mut().get_mut(turn) {
            turn.calls.push(call.index);
        }
        match way {
            Way::Here(index) => {
                let (origin, body) = (Origin::Local(call), Body::Message(message));
                let mail = Mail { origin, sender, body, method };
                self.push(&mut self.cells.borrow_mut(), index, mail);
                if let Some(walk) = walk {
                    self.probe_on(&walk, hub.me, call);
                }
            }
            Way::Worker(worker) => {
                let parcel =
                    Parcel { home, key, call: Some(call), sender, deadline, chain, message };
                self.lane_call(worker, parcel);
            }
            Way::Held => {
                let from = (sender, chain.into_vec());
                if let Err(fault) = self.hold_call(Some(call), id, deadline, &message, from) {
                    self.settle(call, Err(fault));
                }
            }
            Way::Node(to) => {
                let from = (sender, chain.into_vec());
                let sent = self.frame_call(to, Some(call), id, deadline, &message, from);
                if let Err(fault) = sent {
                    self.settle(call, Err(fault));
                }
            }
        }
        hub.sweep_by(deadline);
        Ok(call)
    }

    /// Sends a message that nobody waits for. `Ok` means that it was taken, not that it arrives.
    ///
    /// Part of each method of a stub: there the message's method is known.
    #[inline(always)]
    pub fn send_tell(
        self: &Rc<Self>,
        home: Incarnation,
        key: u64,
        sender: Sender,
        message: E::Message,
    ) -> Result<(), Fault> {
        let hub = &*self.hub;
        let method = E::method(&message);
        let info = &E::KIND.methods[method];
        if hub.options.encode_all || !may_call(info, sender) {
            return self.send_tell_far(home, key, sender, message);
        }
        let mut cells = self.cells.borrow_mut();
        let Cells { slots, room, ids, .. } = &mut *cells;
        // Mostly the first place that is looked at is its.
        let hash = hash(home, key);
        let first = ids.first(hash);
        let (index, slot) = match slots.get_mut(first as usize) {
            Some(slot) if slot.key == key && slot.home == home => (first, slot),
            _ => match find_on(ids, slots, home, key) {
                Some(index) => (index, &mut slots[index as usize]),
                None => {
                    drop(cells);
                    return self.send_tell_far(home, key, sender, message);
                }
            },
        };
        let fits = slot.flags & (CLOSING | QUARANTINED) == 0
            && slot.mailbox.len < self.limits.mailbox_max
            && room.len() < hub.options.mail_max;
        if !fits {
            drop(cells);
            return self.send_tell_far(home, key, sender, message);
        }
        room.push_with(&mut slot.mailbox, |node| node.put_tell(message, sender, method as u16));
        if slot.flags & (READY | BUSY | LOADING) == 0 {
            slot.flags |= READY;
            drop(cells);
            hub.push_ready(Ready::Entity { shard: self.index, index });
        }
        Ok(())
    }

    #[inline(never)]
    fn send_tell_far(
        self: &Rc<Self>,
        home: Incarnation,
        key: u64,
        sender: Sender,
        mut message: E::Message,
    ) -> Result<(), Fault> {
        let hub = &*self.hub;
        let method = E::method(&message) as u16;
        self.check_method(method, sender)?;
        if hub.options.encode_all {
            message = self.recode(message)?;
        }
        let id = EntityId { kind: E::KIND.id, home, key };
        let deadline = Instant::NEVER;
        match self.way(id)? {
            Way::Here(index) => {
                let mut cells = self.cells.borrow_mut();
                self.accepts(&cells, index)?;
                let (origin, body) = (Origin::Tell, Body::Message(message));
                self.push(&mut cells, index, Mail { origin, sender, body, method });
            }
            Way::Worker(worker) => {
                self.reserve_lane(worker)?;
                let chain = Box::default();
                let parcel = Parcel { home, key, call: None, sender, deadline, chain, message };
                self.lane_call(worker, parcel);
            }
            Way::Held => self.hold_call(None, id, deadline, &message, (sender, Vec::new()))?,
            Way::Node(to) => {
                self.frame_call(to, None, id, deadline, &message, (sender, Vec::new()))?;
            }
        }
        Ok(())
    }

    fn check_method(&self, method: u16, sender: Sender) -> Result<&'static MethodInfo, Fault> {
        let Some(info) = E::KIND.methods.get(usize::from(method)) else {
            return Err(Fault::Status(Status::UnknownMethod));
        };
        if !may_call(info, sender) {
            bump(&self.hub.count.denied);
            self.count_refusal(method);
            return Err(Fault::DENIED);
        }
        Ok(info)
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
        if E::KIND.class == Class::Service && self.may_have(id) {
            return self.find_or_activate(id).map(Way::Here);
        }
        if E::KIND.document {
            return self.way_of_movable(id);
        }
        match self.sole.get() {
            Some((node, workers)) if node == hub.me.node && id.home == Incarnation::NONE => {
                match id.worker(workers) {
                    worker if worker == hub.me.worker => self.find_or_activate(id).map(Way::Here),
                    worker => Ok(Way::Worker(worker)),
                }
            }
            _ => self.way_to_place(id),
        }
    }

    /// The way to an entity that may have moved: to where mail went lately, so that none is overtaken.
    fn way_of_movable(self: &Rc<Self>, id: EntityId) -> Result<Way, Fault> {
        let hub = &*self.hub;
        let (now, me) = (hub.now.get(), hub.me);
        let way = match hub.routes.way(id, now) {
            super::routes::Way::Held => return Ok(Way::Held),
            super::routes::Way::To(at) if at == me || !hub.router.lists(at.node) => None,
            super::routes::Way::To(at) if at.node == me.node => Some(Way::Worker(at.worker)),
            super::routes::Way::To(at) => Some(Way::Node(at)),
            super::routes::Way::Placed => hub.went(id).filter(|at| *at != me).map(Way::Node),
        };
        let way = match way {
            Some(way) => way,
            None => self.way_to_place(id)?,
        };
        match way {
            Way::Worker(worker) => hub.routes.note(id, WorkerId { worker, ..me }, now),
            Way::Node(at) => hub.routes.note(id, at, now),
            Way::Here(_) | Way::Held => {}
        }
        Ok(way)
    }

    fn way_to_place(self: &Rc<Self>, id: EntityId) -> Result<Way, Fault> {
        let hub = &*self.hub;
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
            // This node offers its kind: the list of nodes has lost it for a moment.
            Place::Unknown if self.may_have(id) => Err(Fault::UNAVAILABLE),
            Place::Unknown => Err(Fault::NOT_FOUND),
            Place::Away => Err(Fault::UNAVAILABLE),
        }
    }

    /// Whether `id` may exist, as far as is known here.
    pub fn leads_somewhere(&self, id: EntityId) -> Result<(), Fault> {
        let hub = &*self.hub;
        if let Some(index) = self.cells.borrow().find(id.home, id.key) {
            let closing = self.cells.borrow().slots[index as usize].flags & CLOSING != 0;
            return if closing { Err(Fault::GONE) } else { Ok(()) };
        }
        if id.home != Incarnation::NONE && id.home == hub.me.node {
            let worker = (id.key & 0xff) as u8;
            return match worker {
                worker if worker == hub.me.worker => Err(self.missing_room(id)),
                worker if worker < hub.workers => Ok(()),
                _ => Err(Fault::NOT_FOUND),
            };
        }
        if E::KIND.class == Class::Service && self.may_have(id) {
            return Ok(());
        }
        match hub.router.place(id) {
            Place::Gone => Err(Fault::GONE),
            Place::Unknown if !self.may_have(id) => Err(Fault::NOT_FOUND),
            Place::Here if !self.may_have(id) || E::KIND.class == Class::Room => {
                Err(Fault::NOT_FOUND)
            }
            _ => Ok(()),
        }
    }

    /// The message as it would arrive on another node.
    pub fn recode(&self, message: E::Message) -> Result<E::Message, Fault> {
        let method = E::method(&message);
        let mut scratch = self.hub.scratch.take();
        scratch.clear();
        E::encode_message(&message, &mut scratch);
        let checked = self.check_length(&scratch);
        let decoded = E::decode_message(method, &scratch);
        self.hub.scratch.replace(scratch);
        checked.map_err(|problem| Fault::BadArgument(problem.into()))?;
        decoded.map_err(|error| {
            bump(&self.hub.count.bad_arguments);
            Fault::BadArgument(error.to_string().into())
        })
    }

    /// The reply as it would arrive on another node.
    pub fn recode_reply(&self, method: u16, reply: E::Reply) -> Result<E::Reply, Fault> {
        let mut scratch = self.hub.scratch.take();
        scratch.clear();
        let status = E::encode_reply(&reply, &mut scratch);
        let checked = self.check_length(&scratch);
        let decoded = E::decode_reply(usize::from(method), status, &scratch);
        self.hub.scratch.replace(scratch);
        checked.map_err(|_| Fault::FAILED)?;
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
            Origin::InPlace => self.end_in_place(result.map_err(Box::new)),
            // By reference: a copy of the reply would have to wait for its parts.
            Origin::Request(request) => self.answer_client(request, &result),
            other => self.answer_far(other, result),
        }
    }

    /// Gives the reply of the message that is being handled to whoever waits for it.
    #[inline]
    pub fn reply(&self, reply: E::Reply) {
        let mut cells = self.cells.borrow_mut();
        let Some(node) = cells.room.node_mut(self.hub.running.node.get()) else {
            return self.reply_in_place(reply);
        };
        if self.hub.options.encode_all {
            let origin = node.take_origin();
            drop(cells);
            return self.answer(origin, Ok(reply));
        }
        let Some(slot) = node.take_call() else {
            let origin = node.take_origin();
            drop(cells);
            return match origin {
                Origin::Remote(remote) => self.reply_far(remote, reply),
                origin => self.answer(origin, Ok(reply)),
            };
        };
        drop(cells);
        self.settle_reply(slot, reply);
    }

    /// Puts a reply into a pending call and tells who waits.
    #[inline(always)]
    pub fn settle_reply(&self, slot: Slot, reply: E::Reply) {
        let mut calls = self.calls.borrow_mut();
        match calls.get_mut(slot) {
            Some(call) if call.is_waiting() => {
                if let Some(turn) = call.settle_reply(reply) {
                    drop(calls);
                    self.hub.wake_turn(turn);
                } else {
                    let waiter = call.waiter();
                    drop(calls);
                    self.hub.tell_waiter(waiter);
                }
            }
            _ => {
                drop(calls);
                bump(&self.hub.count.late_replies);
            }
        }
    }

    /// Gives a reply to another worker. Not the way of all answers, on which it would be moved.
    fn reply_far(&self, remote: Box<RemoteOrigin>, reply: E::Reply) {
        let (from, call) = (remote.from, remote.call);
        self.hub.drop_origin(remote);
        match call {
            Some(call) if from.node == self.hub.me.node => {
                self.lane_reply(from.worker, call, Ok(reply));
            }
            Some(call) => self.frame_answer(from, call, |out| E::encode_reply(&reply, out)),
            None => {}
        }
    }

    #[inline(never)]
    fn answer_far(&self, origin: Origin, result: Result<E::Reply, Fault>) {
        match origin {
            Origin::Tell | Origin::Local(_) | Origin::InPlace => {}
            Origin::Timer(timer) => self.timer_answered(timer, result),
            Origin::Client(..) => {}
            Origin::Request(request) => self.answer_client(request, &result),
            Origin::Remote(remote) => {
                let (from, call) = (remote.from, remote.call);
                self.hub.drop_origin(remote);
                let Some(call) = call else { return };
                if from.node == self.hub.me.node {
                    self.lane_reply(from.worker, call, result);
                } else {
                    self.frame_reply(from, call, result);
                }
            }
        }
    }

    /// A handler without an answer ended.
    pub fn answer_quiet(&self, origin: Origin) {
        match origin {
            Origin::Tell | Origin::Client(..) => {}
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
        match calls.get_mut(slot) {
            Some(call) if call.is_waiting() => {
                let waiter = call.settle(result);
                drop(calls);
                self.hub.tell_waiter(waiter);
            }
            _ => {
                drop(calls);
                bump(&self.hub.count.late_replies);
            }
        }
    }

    /// An encoded answer to a pending call has come.
    pub fn complete_encoded(&self, slot: Slot, status: Status, body: &[u8]) {
        let method = self.calls.borrow_mut().get_mut(slot).map(|call| call.method);
        let Some(method) = method else {
            bump(&self.hub.count.late_replies);
            return;
        };
        let fault = match status {
            Status::Ok | Status::App => match E::decode_reply(usize::from(method), status, body) {
                Ok(reply) => return self.settle_reply(slot, reply),
                Err(error) => {
                    let kind = E::KIND.name;
                    tracing::warn!(kind, method, "an answer does not decode: {error}");
                    Fault::FAILED
                }
            },
            Status::Cycle => {
                let target = self.calls.borrow_mut().get_mut(slot).map(|call| call.target());
                Fault::Cycle(target.into_iter().collect())
            }
            status => Fault::Status(status),
        };
        self.settle(slot, Err(fault));
    }

    /// Fails a pending call. Turns that serve it are added to `below`, for the caller to cancel.
    pub fn fail(&self, slot: Slot, fault: Fault, below: &mut Vec<TurnId>) -> bool {
        let sent = {
            let mut calls = self.calls.borrow_mut();
            let Some(call) = calls.get_mut(slot) else { return false };
            if !call.is_waiting() {
                return false;
            }
            call.sent()
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

    /// Takes the answer of a pending call, or notes who waits for it now: the turn, or `waker`.
    #[inline]
    pub fn poll_call(
        &self,
        slot: Slot,
        turn: TurnId,
        waker: Option<Waker>,
    ) -> Option<Result<E::Reply, Box<Fault>>> {
        let mut calls = self.calls.borrow_mut();
        let call = calls.get_mut(slot)?;
        if call.is_waiting() {
            call.wait(waker);
            return None;
        }
        let answer = calls.take(slot);
        drop(calls);
        self.forget_call(slot, turn);
        answer
    }

    /// A call was dropped before its answer was taken.
    pub fn drop_call(self: &Rc<Self>, slot: Slot, turn: TurnId) {
        let (waiting, sent) = {
            let mut calls = self.calls.borrow_mut();
            let Some(call) = calls.get_mut(slot) else { return };
            let found = (call.is_waiting(), call.sent());
            let held = calls.remove(slot);
            drop(calls);
            drop(held);
            found
        };
        self.forget_call(slot, turn);
        if waiting {
            let mut below = Vec::new();
            self.give_up(slot, sent, &mut below);
            below.into_iter().for_each(|turn| self.hub.cancel_turn(turn));
        } else {
            bump(&self.hub.count.dropped_replies);
        }
    }

    #[inline]
    fn forget_call(&self, slot: Slot, turn: TurnId) {
        if turn.is_none() {
            return;
        }
        let mut turns = self.hub.turns.borrow_mut();
        if let Some(turn) = turns.get_mut(turn)
            && turn.calls.remove(slot.index)
            && !turn.exclusive
        {
            let (shard, entity) = (turn.shard, turn.entity);
            drop(turns);
            self.hub.end_calls(shard, entity, 1);
        }
    }

    /// Sends probes for a call along the remote edges that a walk found.
    pub fn probe_on(&self, walk: &Walk, origin: WorkerId, call: Slot) {
        for edge in &walk.remote {
            self.hub.graph().send_probe(*edge, origin, call, 0);
        }
    }
}

fn hub_graph<E: Entity>(shard: &Rc<Shard<E>>) -> Graph<'_> {
    shard.hub.graph()
}

impl Hub {
    /// How long a call waits unless it says otherwise, in nanoseconds.
    #[inline]
    pub fn wait_nanos(&self, method_ms: u32) -> u64 {
        match method_ms {
            0 => self.call_wait_nanos,
            ms => u64::from(ms) * 1_000_000,
        }
    }

    /// Counts a call of a turn; gives until when the turn itself is waited for.
    fn begin_call(&self, turn: TurnId) -> Result<Instant, Fault> {
        let turns = self.turns.borrow();
        let Some(turn) = turns.get(turn) else { return Ok(Instant::NEVER) };
        if turn.cancelled {
            return Err(Fault::Cancelled);
        }
        let full = if turn.exclusive {
            turn.calls.len() >= turn.calls_max as usize
        } else {
            // All interleaved turns of an entity share its limit.
            let mut shared = self.shared_calls.borrow_mut();
            let open = shared.entry((turn.shard, turn.entity)).or_default();
            let full = *open >= turn.calls_max;
            *open += u32::from(!full);
            full
        };
        if full {
            bump(&self.count.busy);
            return Err(Fault::BUSY);
        }
        Ok(turn.deadline)
    }

    /// Calls of interleaved turns of an entity are over.
    pub fn end_calls(&self, shard: u16, entity: u32, count: u32) {
        let mut shared = self.shared_calls.borrow_mut();
        if let Some(open) = shared.get_mut(&(shard, entity)) {
            *open -= count.min(*open);
            if *open == 0 {
                shared.remove(&(shard, entity));
            }
        }
    }
}
