//! Pending calls: answers that turns of this worker wait for, typed by the target's replies.

use std::task::Waker;

use env::Instant;
use proto::link::{Slot, WorkerId};
use proto::{EntityId, Incarnation};

use super::mail::NONE;
use super::turns::TurnId;
use crate::entity::Entity;
use crate::error::Fault;

/// Bits of a slot's index that name the call within its shard; the rest name the shard.
pub(crate) const CALL_BITS: u32 = 20;

/// Most calls of one shard: as many as the bits can name, but for one.
pub(crate) const CALLS_MAX: u32 = (1 << CALL_BITS) - 1;

/// Most shards: what the other bits can name.
pub(crate) const SHARDS_MAX: usize = 1 << (32 - CALL_BITS);

/// The shard in a packed index.
pub(crate) const fn shard_of(packed: u32) -> usize {
    (packed >> CALL_BITS) as usize
}

/// The position within the shard in a packed index.
pub(crate) const fn call_of(packed: u32) -> u32 {
    packed & CALLS_MAX
}

/// Who is told when the answer is there.
#[derive(Debug)]
pub(crate) enum Waiter {
    /// A turn of this worker, through the ready queue.
    Turn(TurnId),
    /// Anything else that polls futures.
    Waker(Waker),
}

/// Where a call went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// To an entity of this worker, by its position.
    Here(u32),
    /// To another worker or node.
    There(WorkerId),
}

/// How far a pending call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Free,
    Waiting,
    Done,
}

/// A call that waits for its answer, or has it.
pub(crate) struct Pending<E: Entity> {
    pub deadline: Instant,
    home: Incarnation,
    key: u64,
    /// The turn that made the call and is told of its answer.
    pub turn: TurnId,
    generation: u32,
    next_free: u32,
    /// The target's position, or its worker's number.
    place: u32,
    pub method: u16,
    phase: Phase,
    /// The target's node; `NONE` for this worker.
    node: Incarnation,
    /// Who is told instead of the turn.
    waker: Option<Waker>,
    // Apart, so that a reply is moved alone. In a call that is done one of them is there.
    reply: Option<E::Reply>,
    fault: Option<Box<Fault>>,
}

/// What a new call is about.
pub(crate) struct NewCall {
    pub method: u16,
    pub turn: TurnId,
    pub home: Incarnation,
    pub key: u64,
    pub sent: Sent,
    pub deadline: Instant,
    /// Who is told, if it is not the turn.
    pub waker: Option<Waker>,
}

/// The pending calls of a shard.
pub(crate) struct Calls<E: Entity> {
    shard: u32,
    slots: Vec<Pending<E>>,
    free: u32,
    open: u32,
}

impl<E: Entity> Pending<E> {
    /// Who was called.
    pub fn target(&self) -> EntityId {
        EntityId { kind: E::KIND.id, home: self.home, key: self.key }
    }

    /// Where the call went.
    pub fn sent(&self) -> Sent {
        if self.node == Incarnation::NONE {
            Sent::Here(self.place)
        } else {
            Sent::There(WorkerId { node: self.node, worker: self.place as u8 })
        }
    }

    /// Who was called is at `worker` now.
    pub fn went_to(&mut self, worker: WorkerId) {
        self.node = worker.node;
        self.place = u32::from(worker.worker);
    }

    /// Whether there is no answer yet.
    pub fn is_waiting(&self) -> bool {
        self.phase == Phase::Waiting
    }

    /// Puts the reply in; gives the turn that is to be told, or `None` if [`waiter`](Self::waiter)
    /// knows who is.
    #[inline(always)]
    pub fn settle_reply(&mut self, reply: E::Reply) -> Option<TurnId> {
        self.phase = Phase::Done;
        self.reply = Some(reply);
        self.waker.is_none().then_some(self.turn)
    }

    /// Puts the answer in; gives who is to be told.
    pub fn settle(&mut self, result: Result<E::Reply, Fault>) -> Waiter {
        self.phase = Phase::Done;
        match result {
            Ok(reply) => self.reply = Some(reply),
            Err(fault) => self.fault = Some(Box::new(fault)),
        }
        self.waiter()
    }

    /// Who is told that the call is done.
    pub fn waiter(&mut self) -> Waiter {
        match self.waker.take() {
            None => Waiter::Turn(self.turn),
            Some(waker) => Waiter::Waker(waker),
        }
    }

    /// Notes who is told; `None` for the turn.
    #[inline]
    pub fn wait(&mut self, waker: Option<Waker>) {
        if waker.is_some() || self.waker.is_some() {
            self.waker = waker;
        }
    }
}

impl<E: Entity> Calls<E> {
    pub fn new(shard: u16) -> Self {
        Calls { shard: u32::from(shard) << CALL_BITS, slots: Vec::new(), free: NONE, open: 0 }
    }

    /// Calls that wait or whose answer was not taken yet.
    #[inline]
    pub fn open_count(&self) -> u32 {
        self.open
    }

    #[inline(always)]
    pub fn insert(&mut self, call: NewCall) -> Slot {
        self.open += 1;
        let (node, place) = match call.sent {
            Sent::Here(position) => (Incarnation::NONE, position),
            Sent::There(worker) => (worker.node, u32::from(worker.worker)),
        };
        let index = self.free;
        let Some(slot) = self.slots.get_mut(index as usize) else {
            return self.grow(call, node, place);
        };
        self.free = slot.next_free;
        slot.deadline = call.deadline;
        slot.home = call.home;
        slot.key = call.key;
        slot.turn = call.turn;
        slot.place = place;
        slot.method = call.method;
        slot.phase = Phase::Waiting;
        slot.node = node;
        // A free slot has none.
        std::mem::forget(std::mem::replace(&mut slot.waker, call.waker));
        Slot { index: self.shard | index, generation: slot.generation }
    }

    #[inline(never)]
    fn grow(&mut self, call: NewCall, node: Incarnation, place: u32) -> Slot {
        let index = self.slots.len() as u32;
        let NewCall { method, turn, home, key, deadline, waker, .. } = call;
        self.slots.push(Pending {
            deadline,
            home,
            key,
            turn,
            generation: 0,
            next_free: NONE,
            place,
            method,
            phase: Phase::Waiting,
            node,
            waker,
            reply: None,
            fault: None,
        });
        Slot { index: self.shard | index, generation: 0 }
    }

    #[inline(always)]
    pub fn get_mut(&mut self, slot: Slot) -> Option<&mut Pending<E>> {
        let call = self.slots.get_mut(call_of(slot.index) as usize)?;
        (call.generation == slot.generation && call.phase != Phase::Free).then_some(call)
    }

    /// The call in `index` now.
    pub fn at(&self, index: u32) -> Option<&Pending<E>> {
        let call = self.slots.get(call_of(index) as usize)?;
        (call.phase != Phase::Free).then_some(call)
    }

    /// The name of the call in `index` now.
    pub fn name(&self, index: u32) -> Option<Slot> {
        let index = call_of(index);
        self.at(index).map(|call| Slot { index: self.shard | index, generation: call.generation })
    }

    /// Frees the slot of a call that is done, and gives its answer.
    #[inline(always)]
    pub fn take(&mut self, slot: Slot) -> Option<Result<E::Reply, Box<Fault>>> {
        let call = self.get_mut(slot)?;
        let answer = match call.reply.take() {
            Some(reply) => Ok(reply),
            None => Err(call.fault.take()?),
        };
        self.free(slot);
        Some(answer)
    }

    /// Frees a slot, whatever is in it. What was in it is given back, to drop it where game code
    /// may run.
    #[must_use]
    pub fn remove(&mut self, slot: Slot) -> Option<(Option<E::Reply>, Option<Box<Fault>>)> {
        let call = self.get_mut(slot)?;
        let held = (call.reply.take(), call.fault.take());
        self.free(slot);
        Some(held)
    }

    #[inline(always)]
    fn free(&mut self, slot: Slot) {
        let call = &mut self.slots[call_of(slot.index) as usize];
        call.phase = Phase::Free;
        call.generation = call.generation.wrapping_add(1);
        call.next_free = self.free;
        if call.waker.is_some() {
            call.waker = None;
        }
        self.free = call_of(slot.index);
        self.open -= 1;
    }

    /// Names of the calls that wait and fulfil `test`.
    pub fn waiting(&self, mut test: impl FnMut(&Pending<E>) -> bool) -> Vec<Slot> {
        let mut found = Vec::new();
        for (index, call) in self.slots.iter().enumerate() {
            if call.phase == Phase::Waiting && test(call) {
                let index = self.shard | index as u32;
                found.push(Slot { index, generation: call.generation });
            }
        }
        found
    }

    /// The earliest deadline of the calls that wait.
    pub fn next_deadline(&self) -> Instant {
        let waiting = self.slots.iter().filter(|call| call.phase == Phase::Waiting);
        waiting.map(|call| call.deadline).min().unwrap_or(Instant::NEVER)
    }
}

/// The calls that one turn waits for, by their packed indices: mostly one.
#[derive(Debug)]
pub(crate) struct CallList {
    first: u32,
    more: Vec<u32>,
}

impl CallList {
    pub fn new() -> Self {
        CallList { first: NONE, more: Vec::new() }
    }

    #[inline]
    pub fn len(&self) -> usize {
        self.more.len() + usize::from(self.first != NONE)
    }

    #[inline]
    pub fn push(&mut self, packed: u32) {
        if self.first == NONE {
            self.first = packed;
        } else {
            self.more.push(packed);
        }
    }

    /// Takes a call out; `false` if it is not in the list.
    #[inline]
    pub fn remove(&mut self, packed: u32) -> bool {
        if self.first == packed {
            self.first = self.more.pop().unwrap_or(NONE);
            return true;
        }
        match self.more.iter().position(|other| *other == packed) {
            Some(at) => {
                self.more.swap_remove(at);
                true
            }
            None => false,
        }
    }

    pub fn clear(&mut self) {
        self.first = NONE;
        self.more.clear();
    }

    pub fn to_vec(&self) -> Vec<u32> {
        let first = (self.first != NONE).then_some(self.first);
        first.into_iter().chain(self.more.iter().copied()).collect()
    }
}
