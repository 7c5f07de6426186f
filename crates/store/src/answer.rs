use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::error::Error;

/// The answer to one request: await it, block for it, or have it handed to a function.
///
/// Dropping it takes nothing back: the store does what was asked all the same.
#[must_use = "without looking at the answer nobody knows whether it was done"]
pub struct Answer<T> {
    cell: Arc<Cell<T>>,
}

/// Gets the answer once it is there.
type Callback<T> = Box<dyn FnOnce(Result<T, Error>) + Send>;

enum State<T> {
    Waiting(Option<Waker>),
    /// A thread sleeps until it is there.
    Blocking,
    Callback(Callback<T>),
    Ready(Result<T, Error>),
    Taken,
}

struct Cell<T> {
    state: Mutex<State<T>>,
    ready: Condvar,
}

impl<T> Cell<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(state: &mut State<T>) -> Option<Result<T, Error>> {
        match std::mem::replace(state, State::Taken) {
            State::Ready(result) => Some(result),
            other => {
                *state = other;
                None
            }
        }
    }
}

/// The store's end. Dropped without an answer, it says that the outcome is unknown.
pub(crate) struct Sender<T> {
    cell: Option<Arc<Cell<T>>>,
}

pub(crate) fn channel<T>() -> (Sender<T>, Answer<T>) {
    let state = Mutex::new(State::Waiting(None));
    let cell = Arc::new(Cell { state, ready: Condvar::new() });
    (Sender { cell: Some(Arc::clone(&cell)) }, Answer { cell })
}

impl<T> Sender<T> {
    pub fn send(mut self, result: Result<T, Error>) {
        self.deliver(result);
    }

    fn deliver(&mut self, result: Result<T, Error>) {
        let Some(cell) = self.cell.take() else { return };
        let mut state = cell.lock();
        match std::mem::replace(&mut *state, State::Taken) {
            State::Callback(callback) => {
                drop(state);
                callback(result);
            }
            State::Waiting(waker) => {
                *state = State::Ready(result);
                drop(state);
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            State::Blocking => {
                *state = State::Ready(result);
                drop(state);
                cell.ready.notify_all();
            }
            State::Ready(_) | State::Taken => {}
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.deliver(Err(Error::Unknown("the store's thread ended".to_owned())));
    }
}

impl<T> Answer<T> {
    /// Blocks until the answer is there.
    pub fn wait(self) -> Result<T, Error> {
        let mut state = self.cell.lock();
        loop {
            if let Some(result) = Cell::take(&mut state) {
                return result;
            }
            *state = State::Blocking;
            state = self.cell.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Blocks for the answer, at most so long; the answer itself if it took longer, to wait on.
    pub fn wait_for(self, at_most: Duration) -> Result<Result<T, Error>, Self> {
        let pending = |state: &mut State<T>| !matches!(state, State::Ready(_));
        let mut state = self.cell.lock();
        if pending(&mut state) {
            *state = State::Blocking;
        }
        let waited = self.cell.ready.wait_timeout_while(state, at_most, pending);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let result = Cell::take(&mut state);
        drop(state);
        result.ok_or(self)
    }

    /// Hands the answer to `callback`: at once if it is there, else on a thread of the store, where it
    /// must not block.
    pub fn on_ready(self, callback: impl FnOnce(Result<T, Error>) + Send + 'static) {
        let mut state = self.cell.lock();
        if let Some(result) = Cell::take(&mut state) {
            drop(state);
            callback(result);
        } else {
            *state = State::Callback(Box::new(callback));
        }
    }
}

impl<T> Future for Answer<T> {
    type Output = Result<T, Error>;

    /// # Panics
    /// If polled again after it was ready.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.cell.lock();
        if let Some(result) = Cell::take(&mut state) {
            return Poll::Ready(result);
        }
        match &mut *state {
            State::Waiting(waker) => match waker {
                Some(waker) => waker.clone_from(cx.waker()),
                None => *waker = Some(cx.waker().clone()),
            },
            State::Blocking => *state = State::Waiting(Some(cx.waker().clone())),
            _ => panic!("an answer is taken once"),
        }
        Poll::Pending
    }
}

impl<T> fmt::Debug for Answer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Answer")
    }
}
