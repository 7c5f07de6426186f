//! The table of open turns: those that have an async handler under way.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};

use env::Instant;

use super::calls::CallList;
use super::mail::{NONE, Origin, Sender};
use crate::turn::Placed;

/// Names one turn. A stale id names nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TurnId {
    pub index: u32,
    pub generation: u32,
}

impl TurnId {
    /// A plain handler, or no handler at all: it cannot wait.
    pub const NONE: TurnId = TurnId { index: NONE, generation: 0 };

    pub fn is_none(self) -> bool {
        self.index == NONE
    }
}

/// A turn that is open. The memory is used again for later turns, with its waker and lists.
pub(crate) struct TurnSlot {
    pub generation: u32,
    pub used: bool,
    pub shard: u16,
    pub entity: u32,
    pub method: u16,
    /// Whether it has the entity to itself.
    pub exclusive: bool,
    /// Whether it lies in the ready queue.
    pub queued: bool,
    /// Whether it was woken while an exclusive turn had the entity.
    pub deferred: bool,
    /// Whether nobody waits for it any more.
    pub cancelled: bool,
    /// Whether no other turn waits for it, as was found once: none will.
    pub is_outermost: bool,
    pub origin: Origin,
    pub sender: Sender,
    pub deadline: Instant,
    /// Most calls that its entity may have in flight.
    pub calls_max: u32,
    /// The next open turn of the same entity.
    pub next: u32,
    pub future: Option<Placed>,
    pub waker: Option<Waker>,
    /// Slots of the calls it waits for, packed with their shards.
    pub calls: CallList,
    /// Slots of its sleeps.
    pub sleeps: Vec<u32>,
    /// Tags of its calls to clients.
    pub client_calls: Vec<u64>,
}

/// What a new turn is about.
pub(crate) struct NewTurn {
    pub shard: u16,
    pub entity: u32,
    pub method: u16,
    pub exclusive: bool,
    pub origin: Origin,
    pub sender: Sender,
    pub deadline: Instant,
    /// Most calls that the entity may have in flight.
    pub calls_max: u32,
}

/// All turns of a worker.
pub(crate) struct Turns {
    slots: Vec<TurnSlot>,
    free: Vec<u32>,
    open: u32,
}

impl Turns {
    pub fn new() -> Self {
        Turns { slots: Vec::new(), free: Vec::new(), open: 0 }
    }

    pub fn open_count(&self) -> u32 {
        self.open
    }

    #[inline(always)]
    pub fn open(&mut self, turn: NewTurn) -> TurnId {
        self.open += 1;
        if let Some(index) = self.free.pop() {
            let slot = &mut self.slots[index as usize];
            slot.used = true;
            slot.shard = turn.shard;
            slot.entity = turn.entity;
            slot.method = turn.method;
            slot.exclusive = turn.exclusive;
            slot.origin = turn.origin;
            slot.sender = turn.sender;
            slot.deadline = turn.deadline;
            slot.calls_max = turn.calls_max;
            return TurnId { index, generation: slot.generation };
        }
        let index = self.slots.len() as u32;
        self.slots.push(TurnSlot {
            generation: 0,
            used: true,
            shard: turn.shard,
            entity: turn.entity,
            method: turn.method,
            exclusive: turn.exclusive,
            queued: false,
            deferred: false,
            cancelled: false,
            is_outermost: false,
            origin: turn.origin,
            sender: turn.sender,
            deadline: turn.deadline,
            calls_max: turn.calls_max,
            next: NONE,
            future: None,
            waker: None,
            calls: CallList::new(),
            sleeps: Vec::new(),
            client_calls: Vec::new(),
        });
        TurnId { index, generation: 0 }
    }

    /// Frees a turn; gives what it still held, to be dropped by the caller.
    pub fn close(&mut self, id: TurnId) -> Option<Closed> {
        let slot = self.get_mut(id)?;
        slot.generation = slot.generation.wrapping_add(1);
        slot.used = false;
        slot.queued = false;
        slot.deferred = false;
        slot.cancelled = false;
        slot.is_outermost = false;
        slot.next = NONE;
        slot.calls.clear();
        slot.sleeps.clear();
        slot.client_calls.clear();
        let closed =
            Closed { origin: std::mem::take(&mut slot.origin), future: slot.future.take() };
        self.free.push(id.index);
        self.open -= 1;
        Some(closed)
    }

    #[inline]
    pub fn get(&self, id: TurnId) -> Option<&TurnSlot> {
        self.slots.get(id.index as usize).filter(|slot| slot.generation == id.generation)
    }

    #[inline]
    pub fn get_mut(&mut self, id: TurnId) -> Option<&mut TurnSlot> {
        self.slots.get_mut(id.index as usize).filter(|slot| slot.generation == id.generation)
    }

    /// Takes `index`, whose successor is `next`, out of the list that begins at `first`.
    pub fn unlink(&mut self, first: u32, index: u32, next: u32) {
        let mut at = first;
        while let Some(slot) = self.slots.get_mut(at as usize) {
            if slot.next == index {
                slot.next = next;
                return;
            }
            at = slot.next;
        }
    }

    /// Takes the waker of a slot, to poll with it outside this table.
    #[inline]
    pub fn take_waker(&mut self, index: u32) -> Option<Waker> {
        self.slots.get_mut(index as usize)?.waker.take()
    }

    /// Puts the waker of a slot back.
    #[inline]
    pub fn keep_waker(&mut self, index: u32, waker: Option<Waker>) {
        if let Some(slot) = self.slots.get_mut(index as usize) {
            slot.waker = waker;
        }
    }

    /// The turn that uses `index` now.
    pub fn at(&self, index: u32) -> Option<(TurnId, &TurnSlot)> {
        let slot = self.slots.get(index as usize).filter(|slot| slot.used)?;
        Some((TurnId { index, generation: slot.generation }, slot))
    }

    /// All open turns.
    pub fn iter(&self) -> impl Iterator<Item = (TurnId, &TurnSlot)> {
        (0..self.slots.len() as u32).filter_map(|index| self.at(index))
    }
}

/// What a closed turn leaves behind.
pub(crate) struct Closed {
    pub origin: Origin,
    pub future: Option<Placed>,
}

/// Turns made ready by wakers, from whatever thread.
pub(crate) struct Wakes {
    any: AtomicBool,
    turns: Mutex<Vec<u32>>,
    notify: Mutex<Option<Arc<dyn Fn() + Send + Sync>>>,
}

impl Wakes {
    pub fn new() -> Arc<Self> {
        Arc::new(Wakes {
            any: AtomicBool::new(false),
            turns: Mutex::new(Vec::new()),
            notify: Mutex::new(None),
        })
    }

    pub fn set_notify(&self, notify: Arc<dyn Fn() + Send + Sync>) {
        *self.notify.lock().unwrap_or_else(PoisonError::into_inner) = Some(notify);
    }

    /// Moves what was woken to `into`.
    #[inline]
    pub fn take(&self, into: &mut Vec<u32>) {
        if self.any.load(Ordering::Acquire) {
            self.any.store(false, Ordering::Release);
            into.append(&mut self.turns.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Whether anything was woken that was not taken yet.
    pub fn is_any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    fn wake(&self, turn: u32) {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner).push(turn);
        let first = !self.any.swap(true, Ordering::AcqRel);
        if first {
            self.notify();
        }
    }

    /// Tells the driver that there is something to do.
    pub fn notify(&self) {
        let notify = self.notify.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(notify) = notify {
            notify();
        }
    }
}

/// Wakes whatever turn uses a slot. Waking a later turn of the slot is harmless: one more poll.
struct TurnWaker {
    wakes: Arc<Wakes>,
    turn: u32,
}

impl Wake for TurnWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.wakes.wake(self.turn);
    }
}

/// The waker of the turn slot `turn`.
pub(crate) fn turn_waker(wakes: &Arc<Wakes>, turn: u32) -> Waker {
    Waker::from(Arc::new(TurnWaker { wakes: Arc::clone(wakes), turn }))
}
