//! Answers that wait until what they say has landed.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::error::Error;
use crate::queue::Job;

/// A place in a journal: its run, and the entry.
pub(crate) type At = (u64, u64);

/// Done jobs whose answers wait.
#[derive(Default)]
pub(crate) struct Settle {
    state: Mutex<State>,
    /// Told when somebody begins to wait.
    pub nudge: Notify,
}

#[derive(Default)]
struct State {
    /// The run, and the last entry of it that has landed.
    landed: At,
    /// Whether rows are set aside: nobody can say then what has landed.
    is_aside: bool,
    is_closed: bool,
    waiting: VecDeque<(At, Instant, Box<dyn Job>)>,
}

impl Settle {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers a job that was done at a place once that has landed.
    pub fn park(&self, at: At, job: Box<dyn Job>) {
        let mut state = self.lock();
        if state.is_closed {
            drop(state);
            return job.refuse(unknown("nothing lands any more"));
        }
        if at.0 == state.landed.0 && at.1 <= state.landed.1 && !state.is_aside {
            drop(state);
            return job.done();
        }
        state.waiting.push_back((at, Instant::now(), job));
        drop(state);
        self.nudge.notify_one();
    }

    /// Takes in how far it has landed.
    pub fn learn(&self, landed: At, is_aside: bool) {
        let mut state = self.lock();
        state.landed = landed;
        state.is_aside = is_aside;
        let ready = state.ready();
        drop(state);
        answer(ready);
    }

    /// Gives up those that have waited for too long.
    pub fn expire(&self, wait: Duration) {
        let mut late = Vec::new();
        let mut state = self.lock();
        let is_late = |(_, since, _): &(At, Instant, Box<dyn Job>)| since.elapsed() >= wait;
        while state.waiting.front().is_some_and(is_late) {
            late.extend(state.waiting.pop_front());
        }
        drop(state);
        for (_, _, job) in late {
            job.refuse(unknown("it is in the journal and has not landed in time"));
        }
    }

    pub fn is_waited_for(&self) -> bool {
        !self.lock().waiting.is_empty()
    }

    /// Answers all, also those that come.
    pub fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        for (_, _, job) in waiting {
            job.refuse(unknown("nothing lands any more"));
        }
    }
}

type Ready = Vec<(Box<dyn Job>, Option<&'static str>)>;

impl State {
    /// Takes out those of which it is known what became of them, with why not if they did not land.
    fn ready(&mut self) -> Ready {
        let mut ready = Ready::new();
        let (run, position) = self.landed;
        let waiting = std::mem::take(&mut self.waiting);
        for (at, since, job) in waiting {
            // Runs rise. Of one that is not known here yet nothing can be said.
            if at.0 < run {
                ready.push((job, Some("the journal was begun anew before it landed")));
            } else if at.0 == run && at.1 <= position {
                let why_not = "rows of the journal are set aside: see the log";
                ready.push((job, self.is_aside.then_some(why_not)));
            } else {
                self.waiting.push_back((at, since, job));
            }
        }
        ready
    }
}

fn answer(ready: Ready) {
    for (job, why_not) in ready {
        match why_not {
            None => job.done(),
            Some(reason) => job.refuse(unknown(reason)),
        }
    }
}

fn unknown(reason: &str) -> Error {
    Error::Unknown(reason.to_owned())
}
