use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::Error;

/// What a bus will say. Await it, or [`wait`](Self::wait) for it on a thread; dropping it changes nothing of what
/// was asked for.
pub struct Answer<T>(Arc<Cell<T>>);

/// Gives one answer; dropped without one it gives [`Error::Closed`].
pub(crate) struct Sender<T>(Arc<Cell<T>>);

struct Cell<T> {
    slot: Mutex<Slot<T>>,
    ready: Condvar,
}

enum Slot<T> {
    Waiting(Option<Waker>),
    Ready(Result<T, Error>),
    Taken,
}

pub(crate) fn channel<T>() -> (Sender<T>, Answer<T>) {
    let cell = Arc::new(Cell { slot: Mutex::new(Slot::Waiting(None)), ready: Condvar::new() });
    (Sender(cell.clone()), Answer(cell))
}

impl<T> Cell<T> {
    fn lock(&self) -> MutexGuard<'_, Slot<T>> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, value: Result<T, Error>) {
        let mut slot = self.lock();
        if let Slot::Waiting(waker) = &mut *slot {
            let waker = waker.take();
            *slot = Slot::Ready(value);
            drop(slot);
            self.ready.notify_all();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

impl<T> Sender<T> {
    pub fn send(self, value: Result<T, Error>) {
        self.0.set(value);
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.set(Err(Error::Closed));
    }
}

impl<T> Answer<T> {
    /// One that is there already.
    pub fn given(value: Result<T, Error>) -> Self {
        Answer(Arc::new(Cell { slot: Mutex::new(Slot::Ready(value)), ready: Condvar::new() }))
    }

    /// Blocks for the answer, at most so long. `None`: not yet; it can be waited for again.
    pub fn wait(&mut self, at_most: Duration) -> Option<Result<T, Error>> {
        let waiting = |slot: &mut Slot<T>| matches!(slot, Slot::Waiting(_));
        let waited = self.0.ready.wait_timeout_while(self.0.lock(), at_most, waiting);
        let (mut slot, _) = waited.unwrap_or_else(PoisonError::into_inner);
        take(&mut slot)
    }
}

/// The answer, if it is there; nobody gets it twice.
fn take<T>(slot: &mut Slot<T>) -> Option<Result<T, Error>> {
    match std::mem::replace(slot, Slot::Taken) {
        Slot::Ready(value) => Some(value),
        Slot::Taken => Some(Err(Error::Closed)),
        waiting => {
            *slot = waiting;
            None
        }
    }
}

impl<T> Future for Answer<T> {
    type Output = Result<T, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut slot = self.0.lock();
        if let Some(value) = take(&mut slot) {
            return Poll::Ready(value);
        }
        *slot = Slot::Waiting(Some(cx.waker().clone()));
        Poll::Pending
    }
}

impl<T> fmt::Debug for Answer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Answer")
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sender")
    }
}
