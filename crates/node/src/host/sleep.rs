//! Waiting inside a turn: for time, and for blocking work.

use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread;

use env::{Instant, TimerKey};
use proto::link::Slot;

use super::calls::Waiter;
use super::hub::{Alarm, Hub};
use super::turns::TurnId;

/// The sleeps of a worker.
pub(crate) struct Sleeps {
    slots: Vec<SleepSlot>,
    free: Vec<u32>,
}

struct SleepSlot {
    generation: u32,
    waiter: Option<Waiter>,
    over: bool,
    key: Option<TimerKey>,
}

impl Sleeps {
    pub fn new() -> Self {
        Sleeps { slots: Vec::new(), free: Vec::new() }
    }

    fn insert(&mut self) -> Slot {
        if let Some(index) = self.free.pop() {
            let slot = &mut self.slots[index as usize];
            slot.over = false;
            return Slot { index, generation: slot.generation };
        }
        let index = self.slots.len() as u32;
        self.slots.push(SleepSlot { generation: 0, waiter: None, over: false, key: None });
        Slot { index, generation: 0 }
    }

    fn get_mut(&mut self, slot: Slot) -> Option<&mut SleepSlot> {
        let found = self.slots.get_mut(slot.index as usize)?;
        (found.generation == slot.generation).then_some(found)
    }

    fn remove(&mut self, slot: Slot) -> Option<TimerKey> {
        let found = self.get_mut(slot)?;
        found.generation = found.generation.wrapping_add(1);
        found.waiter = None;
        let key = found.key.take();
        self.free.push(slot.index);
        key
    }

    /// Time is up; gives who is to be told.
    pub fn fire(&mut self, slot: Slot) -> Option<Waiter> {
        let found = self.get_mut(slot)?;
        found.over = true;
        found.key = None;
        found.waiter.take()
    }

    /// Whether the sleep that uses `index` is not over.
    pub fn is_waiting(&self, index: u32) -> bool {
        self.slots.get(index as usize).is_some_and(|slot| !slot.over)
    }

    /// Ends the sleep that uses `index` before its time; its alarm stays until it is dropped.
    pub fn end_early(&mut self, index: u32) -> Option<Waiter> {
        let found = self.slots.get_mut(index as usize)?;
        found.over = true;
        found.waiter.take()
    }
}

/// Waits until a point in time. Ends early if nobody waits for the turn any more; a sleep that is
/// begun after that takes its full time.
#[must_use = "a sleep does nothing unless it is awaited"]
pub struct Sleep {
    hub: Rc<Hub>,
    turn: TurnId,
    at: Instant,
    slot: Option<Slot>,
}

impl Sleep {
    pub(crate) fn new(hub: &Rc<Hub>, turn: TurnId, at: Instant) -> Self {
        Sleep { hub: Rc::clone(hub), turn, at, slot: None }
    }

    fn begin(&mut self, context: &Context<'_>) {
        let slot = {
            let mut sleeps = self.hub.sleeps.borrow_mut();
            let slot = sleeps.insert();
            let key = self.hub.alarms.borrow_mut().insert(self.at, Alarm::Sleep(slot));
            let waiter = self.hub.waiter(context);
            if let Some(found) = sleeps.get_mut(slot) {
                found.key = Some(key);
                found.waiter = Some(waiter);
            }
            slot
        };
        if let Some(turn) = self.hub.turns.borrow_mut().get_mut(self.turn) {
            turn.sleeps.push(slot.index);
        }
        self.slot = Some(slot);
    }

    fn end(&mut self) {
        let Some(slot) = self.slot.take() else { return };
        let key = self.hub.sleeps.borrow_mut().remove(slot);
        if let Some(key) = key {
            self.hub.alarms.borrow_mut().cancel(key);
        }
        if let Some(turn) = self.hub.turns.borrow_mut().get_mut(self.turn)
            && let Some(at) = turn.sleeps.iter().position(|index| *index == slot.index)
        {
            turn.sleeps.swap_remove(at);
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Some(slot) = self.slot else {
            self.begin(context);
            return Poll::Pending;
        };
        let waiter = self.hub.waiter(context);
        let over = match self.hub.sleeps.borrow_mut().get_mut(slot) {
            Some(found) if !found.over => {
                found.waiter = Some(waiter);
                false
            }
            _ => true,
        };
        if over {
            self.end();
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.end();
    }
}

impl fmt::Debug for Sleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sleep").field("until", &self.at).finish_non_exhaustive()
    }
}

/// Where blocking work runs.
pub trait BlockingPool {
    /// Takes a job. `false` if the pool is full; the job was not taken.
    fn spawn(&self, job: Box<dyn FnOnce() + Send>) -> bool;
}

/// Runs jobs at once, on the worker's own thread: for simulation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Inline;

impl BlockingPool for Inline {
    fn spawn(&self, job: Box<dyn FnOnce() + Send>) -> bool {
        job();
        true
    }
}

/// The pool for blocking work has no room: back off, then retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the pool for blocking work is full")]
pub struct PoolFull;

/// Blocking work that runs elsewhere. Its panic is passed on to the turn that waits for it.
#[must_use = "the result of blocking work must be awaited"]
pub struct Blocking<T> {
    shared: Option<Arc<Mutex<Shared<T>>>>,
}

struct Shared<T> {
    result: Option<thread::Result<T>>,
    waker: Option<Waker>,
}

impl<T: Send + 'static> Blocking<T> {
    pub(crate) fn start(
        pool: &dyn BlockingPool,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Self {
        let shared = Arc::new(Mutex::new(Shared { result: None, waker: None }));
        let filled = Arc::clone(&shared);
        let taken = pool.spawn(Box::new(move || {
            let result = catch_unwind(AssertUnwindSafe(work));
            let mut shared = filled.lock().unwrap_or_else(PoisonError::into_inner);
            shared.result = Some(result);
            let waker = shared.waker.take();
            drop(shared);
            if let Some(waker) = waker {
                waker.wake();
            }
        }));
        Blocking { shared: taken.then_some(shared) }
    }
}

impl<T> Future for Blocking<T> {
    type Output = Result<T, PoolFull>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(shared) = &self.shared else { return Poll::Ready(Err(PoolFull)) };
        let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
        match shared.result.take() {
            Some(Ok(value)) => Poll::Ready(Ok(value)),
            Some(Err(panic)) => {
                drop(shared);
                resume_unwind(panic)
            }
            None => {
                shared.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl<T> fmt::Debug for Blocking<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blocking").finish_non_exhaustive()
    }
}
