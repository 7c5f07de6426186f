use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Where one answer will be.
struct Cell<T> {
    slot: Mutex<Slot<T>>,
    ready: Condvar,
}

enum Slot<T> {
    Waiting,
    Ready(T),
    /// The other end is gone.
    Closed,
}

/// Waits for one answer.
pub(crate) struct Answer<T>(Arc<Cell<T>>);

/// Gives one answer.
pub(crate) struct Sender<T>(Arc<Cell<T>>);

pub(crate) fn channel<T>() -> (Sender<T>, Answer<T>) {
    let cell = Arc::new(Cell { slot: Mutex::new(Slot::Waiting), ready: Condvar::new() });
    (Sender(cell.clone()), Answer(cell))
}

impl<T> Cell<T> {
    fn lock(&self) -> MutexGuard<'_, Slot<T>> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Sender<T> {
    pub fn send(self, value: T) {
        *self.0.lock() = Slot::Ready(value);
        self.0.ready.notify_all();
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut slot = self.0.lock();
        if matches!(*slot, Slot::Waiting) {
            *slot = Slot::Closed;
            drop(slot);
            self.0.ready.notify_all();
        }
    }
}

impl<T> Answer<T> {
    /// Blocks for the answer, at most so long. `None` if there is none.
    pub fn wait(self, at_most: Duration) -> Option<T> {
        let waiting = |slot: &mut Slot<T>| matches!(slot, Slot::Waiting);
        let waited = self.0.ready.wait_timeout_while(self.0.lock(), at_most, waiting);
        let (mut slot, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *slot, Slot::Closed) {
            Slot::Ready(value) => Some(value),
            Slot::Waiting | Slot::Closed => None,
        }
    }
}

impl<T> std::fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sender")
    }
}
