//! Asking those who work on a queue, and answering from wherever.
//!
//! What is asked is published to a topic that may lose nothing, with the right to answer it in front. A
//! worker claims it before it begins: so what was cleared or has expired meanwhile is not begun. The right
//! is judged where it was asked, and is good once. Desks speak to each other over the bus, at most once
//! and repeated, under `mainstay.desk`.

mod asks;
mod note;
#[cfg(test)]
mod tests;
mod types;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use env::{Clock, Random};

use crate::{Accepted, Answer, Bus, Error, Options, Subscription};
use asks::{Asks, Opened, Output};
use note::Outcome;

pub use types::{AnswerError, Ask, AskError, Cleared, DeskCounters, End, Gone, Owner, Right};

/// Where all desks hear what concerns all.
const ALL: &str = "mainstay.desk.all";
/// How often the thread looks whether the desk is still there.
const LOOK: Duration = Duration::from_secs(1);

/// One process's place to ask and to answer from. A cheap clone.
#[derive(Clone)]
pub struct Desk(Arc<Shared>);

struct Shared {
    bus: Bus,
    clock: Clock,
    asks: Mutex<Asks>,
    /// Whose sleep ends when there is a sooner timeout.
    thread: Mutex<Option<Thread>>,
}

impl Desk {
    /// Opens a desk on a bus, with a thread that reads its notes. `random` makes what nobody may guess.
    ///
    /// # Errors
    ///
    /// `Full`, or `Closed` if no thread can be started.
    pub fn open(bus: &Bus, options: Options, clock: &Clock, random: Random) -> Result<Desk, Error> {
        let asks = Asks::new(options, random);
        let own = bus.subscribe(&subject_of(asks.id()))?;
        let all = bus.subscribe(ALL)?;
        let shared = Arc::new(Shared {
            bus: bus.clone(),
            clock: clock.clone(),
            asks: Mutex::new(asks),
            thread: Mutex::new(None),
        });
        let weak = Arc::downgrade(&shared);
        let thread = std::thread::Builder::new().name("bus-desk".to_owned());
        let handle = thread.spawn(move || run(&weak, own, all)).map_err(|_| Error::Closed)?;
        *shared.thread.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(handle.thread().clone());
        Ok(Desk(shared))
    }

    /// Asks whoever works on `subject`, a topic that may lose nothing. The answer comes once, within the
    /// time; dropping what is given back clears what was asked.
    ///
    /// # Errors
    ///
    /// `Busy` when as many wait as may, here or at the bus; what else the bus refuses. Here or in the answer.
    pub fn ask(&self, subject: &str, ask: Ask, body: &[u8]) -> Result<Asked, AskError> {
        let now = self.0.clock.now();
        let opened = self.0.act(|asks| asks.ask(now, subject, ask, body))?;
        let Opened { number, message, body, answer } = opened;
        let mut asked = Asked { desk: self.clone(), number, accepted: None, answer };
        // What is not taken is withdrawn as it is dropped.
        asked.accepted = Some(self.0.bus.publish_within(subject, message, body, ask.wait)?);
        Ok(asked)
    }

    /// Clears all that was asked for a client, here and by every other process that can be reached. What
    /// has not begun will not; of what has, the answer is dropped. Gives what was cleared here.
    pub fn clear(&self, client: u64) -> Cleared {
        self.0.act(|asks| {
            asks.clear_elsewhere(client);
            asks.clear(client)
        })
    }

    /// An owner is gone from this process: clears what was asked here and says that it ends then.
    pub fn owner_gone(&self, owner: Owner, gone: Gone) -> Cleared {
        self.0.act(|asks| asks.owner_gone(owner, gone))
    }

    /// What a message of a queue holds: the right to answer it and what is asked. `None` if it was
    /// published by who wants no answer.
    pub fn open_letter(body: &[u8]) -> Option<(Right, &[u8])> {
        note::unseal(body)
    }

    /// A worker is about to begin what the right is for.
    ///
    /// # Errors
    ///
    /// In the answer: `Refused` if nobody wants it any more, then it is done with; `Unreachable`.
    pub fn claim(&self, right: Right) -> Verdict {
        let now = self.0.clock.now();
        Verdict(self.0.act(|asks| asks.claim(now, right)))
    }

    /// Answers. It is said again until it is judged; of several answers one is taken.
    ///
    /// # Errors
    ///
    /// In the answer: `Refused`, `Unreachable`, `TooLong`.
    pub fn answer(&self, right: Right, body: Vec<u8>) -> Verdict {
        self.say(right, Outcome::Value(body))
    }

    /// Answers that nobody can do it.
    pub fn fail(&self, right: Right, cause: &str) -> Verdict {
        self.say(right, Outcome::Failed(crate::types::cut(cause.to_owned())))
    }

    /// Answers that there will be no answer.
    pub fn leave_unanswered(&self, right: Right) -> Verdict {
        self.say(right, Outcome::Unanswered)
    }

    fn say(&self, right: Right, outcome: Outcome) -> Verdict {
        let now = self.0.clock.now();
        Verdict(self.0.act(|asks| asks.answer(now, right, outcome)))
    }

    /// How many that were asked here wait for the workers of `subject`.
    pub fn queued(&self, subject: &str) -> usize {
        self.0.lock().queued(subject)
    }

    /// What it did so far.
    pub fn counters(&self) -> DeskCounters {
        self.0.lock().counters
    }
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Asks> {
        // It holds no invariant across a panic: it calls nothing of the user's.
        self.asks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn act<R>(&self, act: impl FnOnce(&mut Asks) -> R) -> R {
        let (result, output, is_sooner) = {
            let mut asks = self.lock();
            let before = asks.poll_timeout();
            let result = act(&mut asks);
            let output: Vec<_> = std::iter::from_fn(|| asks.poll_output()).collect();
            let next = asks.poll_timeout();
            (result, output, next.is_some_and(|next| before.is_none_or(|before| next < before)))
        };
        for output in output {
            match output {
                Output::Tell(desk, bytes) => self.tell(&subject_of(desk), bytes),
                Output::TellAll(bytes) => self.tell(ALL, bytes),
                Output::Withdraw(subject, id) => self.bus.withdraw(&subject, id),
            }
        }
        if is_sooner {
            let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(thread) = &*thread {
                thread.unpark();
            }
        }
        result
    }

    fn tell(&self, subject: &str, bytes: Vec<u8>) {
        if let Err(error) = self.bus.publish(subject, bytes) {
            tracing::warn!(subject, %error, "a note was not taken by the bus");
        }
    }
}

fn subject_of(desk: u128) -> String {
    format!("mainstay.desk.{desk:032x}")
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn run(desk: &Weak<Shared>, mut own: Subscription, mut all: Subscription) {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        let Some(shared) = desk.upgrade() else { return };
        for ear in [&mut own, &mut all] {
            while let Poll::Ready(message) = ear.poll_next(&mut context) {
                shared.act(|asks| asks.handle_note(message.body()));
                message.done();
            }
        }
        let now = shared.clock.now();
        shared.act(|asks| asks.handle_timeout(now));
        let next = shared.lock().poll_timeout();
        drop(shared);
        std::thread::park_timeout(next.map_or(LOOK, |next| (next - now).min(LOOK)));
    }
}

/// What was asked. Await it, or [`wait`](Self::wait) for it on a thread; dropped before its end it is
/// cleared.
#[must_use = "dropping it clears what was asked"]
pub struct Asked {
    desk: Desk,
    number: u64,
    accepted: Option<Answer<Accepted>>,
    answer: Answer<asks::Asked>,
}

impl Asked {
    /// Blocks for the answer, at most so long. `None`: not yet; it can be waited for again.
    pub fn wait(&mut self, at_most: Duration) -> Option<Result<Vec<u8>, AskError>> {
        let clock = self.desk.0.clock.clone();
        let until = clock.now() + at_most;
        if let Some(accepted) = &mut self.accepted {
            match accepted.wait(at_most)? {
                Ok(_) => self.accepted = None,
                Err(error) => return Some(Err(error.into())),
            }
        }
        let left = until - clock.now();
        self.answer.wait(left).map(|told| told.unwrap_or_else(|error| Err(error.into())))
    }
}

impl Future for Asked {
    type Output = Result<Vec<u8>, AskError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(accepted) = &mut self.accepted
            && let Poll::Ready(told) = Pin::new(accepted).poll(cx)
        {
            self.accepted = None;
            if let Err(error) = told {
                return Poll::Ready(Err(error.into()));
            }
        }
        let told = std::task::ready!(Pin::new(&mut self.answer).poll(cx));
        Poll::Ready(told.unwrap_or_else(|error| Err(error.into())))
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let number = self.number;
        self.desk.0.act(|asks| asks.withdraw(number));
    }
}

impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asked").field("number", &self.number).finish_non_exhaustive()
    }
}

/// What the desk that asked says of a claim or an answer. Dropping it changes nothing.
#[derive(Debug)]
pub struct Verdict(Answer<asks::Verdict>);

impl Verdict {
    /// Blocks for it, at most so long. `None`: not yet; it can be waited for again.
    pub fn wait(&mut self, at_most: Duration) -> Option<Result<(), AnswerError>> {
        self.0.wait(at_most).map(|told| told.unwrap_or_else(|error| Err(error.into())))
    }
}

impl Future for Verdict {
    type Output = Result<(), AnswerError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let told = std::task::ready!(Pin::new(&mut self.0).poll(cx));
        Poll::Ready(told.unwrap_or_else(|error| Err(error.into())))
    }
}
