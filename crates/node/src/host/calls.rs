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

/// A call that waits for its answer.
pub(crate) struct Pending<E: Entity> {
    generation: u32,
    next_free: u32,
    pub method: u16,
    /// The turn that made the call.
    pub turn: TurnId,
    pub home: Incarnation,
    pub key: u64,
    pub sent: Sent,
    pub deadline: Instant,
    pub state: CallState<E>,
}

impl<E: Entity> Pending<E> {
    /// Who was called.
    pub fn target(&self) -> EntityId {
        EntityId { kind: E::KIND.id, home: self.home, key: self.key }
    }
}

/// How far a pending call is.
pub(crate) enum CallState<E: Entity> {
    Free,
    Waiting(Waiter),
    Done(Result<E::Reply, Fault>),
}

/// What a new call is about.
pub(crate) struct NewCall {
    pub method: u16,
    pub turn: TurnId,
    pub home: Incarnation,
    pub key: u64,
    pub sent: Sent,
    pub deadline: Instant,
    pub waiter: Waiter,
}

/// The pending calls of a shard.
pub(crate) struct Calls<E: Entity> {
    shard: u32,
    slots: Vec<Pending<E>>,
    free: u32,
    open: u32,
}

impl<E: Entity> Calls<E> {
    pub fn new(shard: u16) -> Self {
        Calls { shard: u32::from(shard) << CALL_BITS, slots: Vec::new(), free: NONE, open: 0 }
    }

    /// Calls that wait or whose answer was not taken yet.
    pub fn open_count(&self) -> u32 {
        self.open
    }

    #[inline(always)]
    pub fn insert(&mut self, call: NewCall) -> Slot {
        self.open += 1;
        let NewCall { method, turn, home, key, sent, deadline, waiter } = call;
        let state = CallState::Waiting(waiter);
        let index = self.free;
        if let Some(slot) = self.slots.get_mut(index as usize) {
            self.free = slot.next_free;
            slot.method = method;
            slot.turn = turn;
            slot.home = home;
            slot.key = key;
            slot.sent = sent;
            slot.deadline = deadline;
            slot.state = state;
            return Slot { index: self.shard | index, generation: slot.generation };
        }
        let index = self.slots.len() as u32;
        self.slots.push(Pending {
            generation: 0,
            next_free: NONE,
            method,
            turn,
            home,
            key,
            sent,
            deadline,
            state,
        });
        Slot { index: self.shard | index, generation: 0 }
    }

    #[inline(always)]
    pub fn get_mut(&mut self, slot: Slot) -> Option<&mut Pending<E>> {
        let call = self.slots.get_mut(call_of(slot.index) as usize)?;
        (call.generation == slot.generation && !matches!(call.state, CallState::Free))
            .then_some(call)
    }

    /// The call in `index` now.
    pub fn at(&self, index: u32) -> Option<&Pending<E>> {
        let call = self.slots.get(call_of(index) as usize)?;
        (!matches!(call.state, CallState::Free)).then_some(call)
    }

    /// The name of the call in `index` now.
    pub fn name(&self, index: u32) -> Option<Slot> {
        let index = call_of(index);
        self.at(index).map(|call| Slot { index: self.shard | index, generation: call.generation })
    }

    /// Frees a slot; gives the state it had.
    #[inline(always)]
    pub fn remove(&mut self, slot: Slot) -> Option<CallState<E>> {
        let index = call_of(slot.index);
        let free = self.free;
        let call = self.get_mut(slot)?;
        let state = std::mem::replace(&mut call.state, CallState::Free);
        call.generation = call.generation.wrapping_add(1);
        call.next_free = free;
        self.free = index;
        self.open -= 1;
        Some(state)
    }

    /// Names of the calls that wait and fulfil `test`.
    pub fn waiting(&self, mut test: impl FnMut(&Pending<E>) -> bool) -> Vec<Slot> {
        let mut found = Vec::new();
        for (index, call) in self.slots.iter().enumerate() {
            if matches!(call.state, CallState::Waiting(_)) && test(call) {
                let index = self.shard | index as u32;
                found.push(Slot { index, generation: call.generation });
            }
        }
        found
    }

    /// The earliest deadline of the calls that wait.
    pub fn next_deadline(&self) -> Instant {
        let waiting = self.slots.iter().filter(|call| matches!(call.state, CallState::Waiting(_)));
        waiting.map(|call| call.deadline).min().unwrap_or(Instant::NEVER)
    }
}
