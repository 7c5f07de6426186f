//! Messages by subject: a source does not know its listeners.
//!
//! Each topic declares its delivery class; a backend that cannot give it refuses at start. The
//! embedded backend serves one process. See [`Bus`].
#![forbid(unsafe_code)]

mod router;
mod subject;

pub use router::{Counters, Options};
pub use subject::{SUBJECT_BYTES_MAX, is_pattern, is_subject, matches};

use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use router::{Router, Taken};

/// What a topic promises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Delivery {
    /// Each listener gets it once or not at all: a full listener loses it, which is counted.
    #[default]
    AtMostOnce,
    /// Each listener gets it until it says that it is done with it; publishing is refused while
    /// a listener is full. The same id is taken once.
    AtLeastOnce,
    /// As `AtLeastOnce`, also over a restart of everything.
    Durable,
}

impl fmt::Display for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Delivery::AtMostOnce => "at most once",
            Delivery::AtLeastOnce => "at least once",
            Delivery::Durable => "durable",
        })
    }
}

/// Why the bus did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// At start: configure another backend or declare less.
    #[error("{topic:?} is declared {delivery}, which the {backend} bus cannot give: {advice}")]
    CannotGive {
        /// The topic.
        topic: String,
        /// What it declares.
        delivery: Delivery,
        /// The backend.
        backend: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// At start: two declarations of one topic differ.
    #[error("{topic:?} is declared {first} and {second}: make them the same")]
    Contradiction {
        /// The topic.
        topic: String,
        /// What was declared first.
        first: Delivery,
        /// What was declared then.
        second: Delivery,
    },
    /// Correct it: words of `a-z A-Z 0-9 _ -` joined by dots; in patterns also `*` for one word
    /// and a last `>` for the rest.
    #[error("{0:?} is no subject: words of a-z A-Z 0-9 _ - joined by dots, 256 bytes at most")]
    BadSubject(String),
    /// Send less at once.
    #[error("a message of {bytes} bytes is over the limit of {max}")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The limit, in bytes.
        max: usize,
    },
    /// A listener of a topic that may lose nothing is full; nobody got it. Back off, then retry.
    #[error("a listener of {0:?} is full: back off")]
    Busy(String),
    /// Unsubscribe or raise the limit.
    #[error("{0} subscriptions are open: raise subscriptions_max")]
    Full(usize),
}

/// Publishes and subscribes. A cheap clone; which backend is behind it, nobody can tell.
#[derive(Clone)]
pub struct Bus {
    router: Arc<Mutex<Router>>,
}

impl Bus {
    /// A bus within this process: at most once, or at least once as long as the process lives.
    pub fn embedded(options: Options) -> Self {
        Bus { router: Arc::new(Mutex::new(Router::new(options))) }
    }

    /// Declares what the topics that `pattern` matches promise. Undeclared ones are at most once;
    /// where several patterns match, the strongest holds.
    ///
    /// # Errors
    ///
    /// `CannotGive`, `Contradiction` or `BadSubject`: refuse to start.
    pub fn declare(&self, pattern: &str, delivery: Delivery) -> Result<(), Error> {
        if delivery == Delivery::Durable {
            return Err(Error::CannotGive {
                topic: pattern.into(),
                delivery,
                backend: "embedded",
                advice: "set bus = \"nats\" in the cluster file, or declare it at least once",
            });
        }
        self.lock().declare(pattern, delivery)
    }

    /// Hands a message to all listeners of `subject` at this moment; gives how many there are.
    ///
    /// Never waits, and takes as long however slow a listener is.
    ///
    /// # Errors
    ///
    /// `BadSubject`, `TooLong`; `Busy` for topics that may lose nothing.
    pub fn publish(&self, subject: &str, body: impl Into<Arc<[u8]>>) -> Result<usize, Error> {
        self.publish_inner(subject, None, body.into())
    }

    /// As [`publish`](Self::publish), but an `id` that was published before (as far back as
    /// `ids_kept`) is not handed out again; that gives 0.
    ///
    /// # Errors
    ///
    /// As `publish`.
    pub fn publish_once(
        &self,
        subject: &str,
        id: u128,
        body: impl Into<Arc<[u8]>>,
    ) -> Result<usize, Error> {
        self.publish_inner(subject, Some(id), body.into())
    }

    fn publish_inner(
        &self,
        subject: &str,
        id: Option<u128>,
        body: Arc<[u8]>,
    ) -> Result<usize, Error> {
        let mut wakers = Vec::new();
        let result = self.lock().publish(subject, id, body, &mut wakers);
        // Outside the lock: whoever is woken may come back at once.
        wakers.into_iter().for_each(std::task::Waker::wake);
        result
    }

    /// Listens to all subjects that `pattern` matches, from now on.
    ///
    /// # Errors
    ///
    /// `BadSubject` or `Full`.
    pub fn subscribe(&self, pattern: &str) -> Result<Subscription, Error> {
        self.subscribe_inner(pattern, None)
    }

    /// Shares the subjects with all other members of `group` on the same pattern: each message
    /// goes to one of them. Mail of a member that leaves goes to the others.
    ///
    /// # Errors
    ///
    /// `BadSubject` or `Full`.
    pub fn subscribe_group(&self, pattern: &str, group: &str) -> Result<Subscription, Error> {
        self.subscribe_inner(pattern, Some(group))
    }

    fn subscribe_inner(&self, pattern: &str, group: Option<&str>) -> Result<Subscription, Error> {
        let id = self.lock().subscribe(pattern, group)?;
        Ok(Subscription { bus: self.clone(), id })
    }

    /// What was done so far.
    pub fn counters(&self) -> Counters {
        self.lock().counters()
    }

    /// The messages that no handler would finish with, taken out: at most `dead_max` are kept.
    pub fn take_dead(&self) -> Vec<(String, Arc<[u8]>)> {
        self.lock().take_dead()
    }

    fn lock(&self) -> MutexGuard<'_, Router> {
        // The router holds no invariant across a panic: it calls nothing of the user's.
        self.router.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bus").field("counters", &self.counters()).finish_non_exhaustive()
    }
}

/// A listener with its bounded queue. Dropping it ends it.
#[derive(Debug)]
pub struct Subscription {
    bus: Bus,
    id: u64,
}

impl Subscription {
    /// The next message, if one waits.
    pub fn try_next(&mut self) -> Option<Message> {
        let taken = self.bus.lock().take(self.id);
        taken.map(|taken| self.message(taken))
    }

    /// The next message; the waker of `cx` hears of it if none waits.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Message> {
        let taken = self.bus.lock().take_or_wait(self.id, cx.waker());
        match taken {
            Some(taken) => Poll::Ready(self.message(taken)),
            None => Poll::Pending,
        }
    }

    /// Waits for the next message. Safe to cancel: nothing is taken before it is given.
    pub async fn next(&mut self) -> Message {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// How many messages this listener lost because it was full.
    pub fn dropped(&self) -> u64 {
        self.bus.lock().dropped(self.id)
    }

    fn message(&self, taken: Taken) -> Message {
        let receipt = taken.receipt.map(|number| Receipt { bus: self.bus.clone(), number });
        let Taken { subject, body, attempt, .. } = taken;
        Message { subject, body, attempt, receipt }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut wakers = Vec::new();
        self.bus.lock().unsubscribe(self.id, &mut wakers);
        wakers.into_iter().for_each(std::task::Waker::wake);
    }
}

/// A message as a listener gets it.
///
/// One of a topic that is at least once comes again unless [`done`](Self::done) is called before
/// it is dropped, as when its handler panics.
#[derive(Debug)]
pub struct Message {
    subject: Arc<str>,
    body: Arc<[u8]>,
    attempt: u32,
    receipt: Option<Receipt>,
}

#[derive(Debug)]
struct Receipt {
    bus: Bus,
    number: u64,
}

impl Message {
    /// Where it was published.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// What was published.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// 1 for the first time that it is given out, and so on.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// It is handled and must not come again.
    pub fn done(mut self) {
        if let Some(receipt) = self.receipt.take() {
            receipt.bus.lock().done(receipt.number);
        }
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        let Some(receipt) = self.receipt.take() else { return };
        let mut wakers = Vec::new();
        receipt.bus.lock().give_back(receipt.number, &mut wakers);
        wakers.into_iter().for_each(std::task::Waker::wake);
    }
}

#[cfg(test)]
mod tests;
