//! What waits for a store's threads.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::answer::Sender;
use crate::error::Error;
use crate::options::Options;
use crate::tables::Stage;

/// One request with its typed answer.
///
/// A backend on a server may run a rule several times, over what it knows of the rows by then; the
/// last run counts.
pub(crate) trait Job: Send {
    /// Runs the rule. The writes are to be applied only if it says true.
    fn run(&mut self, stage: &mut Stage<'_>) -> bool;
    /// Runs the rule only to see what it reads; what the last [`Job::run`] said stands.
    #[cfg(feature = "remote")]
    fn probe(&mut self, stage: &mut Stage<'_>);
    /// Whether the rule never writes.
    #[cfg(feature = "remote")]
    fn only_reads(&self) -> bool;
    /// Whether it is answered only when what it says has landed, where a journal lands.
    #[cfg(feature = "remote")]
    fn settles(&self) -> bool;
    /// Answers what the rule said, which is durable by now.
    fn done(self: Box<Self>);
    /// Answers that nobody knows, or that nothing was done.
    fn refuse(self: Box<Self>, error: Error);
}

/// What a request says of itself beside its rule.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    /// What it counts for in the queue.
    pub bytes: usize,
    /// Whether its rule never writes.
    #[cfg_attr(not(feature = "remote"), expect(dead_code, reason = "only servers ask"))]
    pub only_reads: bool,
    /// See [`Job::settles`].
    #[cfg_attr(not(feature = "remote"), expect(dead_code, reason = "only journals land"))]
    pub settles: bool,
}

pub(crate) struct Work<T, F> {
    rule: F,
    #[cfg_attr(not(feature = "remote"), expect(dead_code, reason = "only servers ask"))]
    asked: Asked,
    result: Option<Result<T, Error>>,
    sender: Sender<T>,
}

impl<T, F> Work<T, F> {
    pub fn new(rule: F, asked: Asked, sender: Sender<T>) -> Self {
        Work { rule, asked, result: None, sender }
    }
}

impl<T, F> Job for Work<T, F>
where
    T: Send,
    F: FnMut(&mut Stage<'_>) -> Result<T, Error> + Send,
{
    fn run(&mut self, stage: &mut Stage<'_>) -> bool {
        let result = self.result.insert((self.rule)(stage));
        result.is_ok()
    }

    #[cfg(feature = "remote")]
    fn probe(&mut self, stage: &mut Stage<'_>) {
        // It ran over guesses.
        drop((self.rule)(stage));
    }

    #[cfg(feature = "remote")]
    fn only_reads(&self) -> bool {
        self.asked.only_reads
    }

    #[cfg(feature = "remote")]
    fn settles(&self) -> bool {
        self.asked.settles
    }

    fn done(self: Box<Self>) {
        self.sender.send(self.result.expect("a job is done after it ran"));
    }

    fn refuse(self: Box<Self>, error: Error) {
        self.sender.send(Err(error));
    }
}

/// So many jobs are worth waking a thread for that can do no more with them than run their rules ahead.
const WORTH_WAKING: usize = 64;

/// What waits for the threads. Only one of them takes at a time.
pub(crate) struct Queue {
    pub options: Options,
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<(Box<dyn Job>, usize)>,
    bytes: usize,
    /// Whether a thread waits for jobs.
    sleeps: bool,
    /// With fewer jobs nobody is woken.
    wake_at: usize,
    closed: bool,
    stopped: Option<String>,
    /// Of the backend that waits without blocking its thread.
    #[cfg(feature = "remote")]
    waker: Option<std::task::Waker>,
}

impl Waiting {
    /// The next batch, if anything waits.
    fn batch(&mut self, options: &Options) -> Option<Taken> {
        let mut taken = Taken::default();
        self.fill(&mut taken, options).then_some(taken)
    }

    /// Adds what waits as far as there is room; at least one job if there is none yet. Returns
    /// whether it added something.
    fn fill(&mut self, taken: &mut Taken, options: &Options) -> bool {
        let had = (taken.jobs.len(), taken.bytes);
        while let Some(&(_, bytes)) = self.jobs.front() {
            let over = taken.bytes + bytes > options.batch_bytes_max
                || taken.jobs.len() >= options.batch_ops_max;
            if over && !taken.jobs.is_empty() {
                break;
            }
            taken.bytes += bytes;
            taken.jobs.extend(self.jobs.pop_front().map(|(job, _)| job));
        }
        self.bytes -= taken.bytes - had.1;
        taken.jobs.len() > had.0
    }
}

/// Jobs that are done together.
#[derive(Default)]
pub(crate) struct Taken {
    pub jobs: Vec<Box<dyn Job>>,
    /// What they count for.
    bytes: usize,
}

pub(crate) type Refused = (Box<dyn Job>, Error);

impl Queue {
    pub fn new(options: Options) -> Self {
        Queue { options, waiting: Mutex::default(), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn push(&self, job: Box<dyn Job>, bytes: usize) -> Result<(), Refused> {
        let mut waiting = self.lock();
        if let Some(reason) = &waiting.stopped {
            return Err((job, Error::Stopped(reason.clone())));
        }
        let full = waiting.jobs.len() >= self.options.queue_ops_max
            || waiting.bytes.saturating_add(bytes) > self.options.queue_bytes_max;
        if full {
            return Err((job, Error::Busy));
        }
        waiting.bytes += bytes;
        waiting.jobs.push_back((job, bytes));
        if waiting.jobs.len() >= waiting.wake_at {
            self.notify(waiting);
        }
        Ok(())
    }

    fn notify(&self, mut waiting: MutexGuard<'_, Waiting>) {
        #[cfg(feature = "remote")]
        if let Some(waker) = waiting.waker.take() {
            drop(waiting);
            return waker.wake();
        }
        // To wake is a system call, also where nobody sleeps.
        let sleeps = std::mem::take(&mut waiting.sleeps);
        drop(waiting);
        if sleeps {
            self.changed.notify_one();
        }
    }

    /// Waits for a change, or for nothing at all.
    fn sleep<'w>(&self, mut waiting: MutexGuard<'w, Waiting>) -> MutexGuard<'w, Waiting> {
        waiting.sleeps = true;
        self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner)
    }

    /// The next batch, at least one job; `None` once the queue is empty and closed or stopped.
    pub fn take(&self) -> Option<Taken> {
        let mut waiting = self.lock();
        loop {
            if let Some(batch) = waiting.batch(&self.options) {
                return Some(batch);
            }
            if waiting.closed || waiting.stopped.is_some() {
                return None;
            }
            waiting = self.sleep(waiting);
        }
    }

    /// Adds to a batch what waits and has room in it. Returns whether `is_due`, after which the batch
    /// should wait no longer; while it is not and there is little to add, this waits. Whoever makes it
    /// true calls [`Queue::wake`] then.
    ///
    /// # Errors
    /// Why the queue was stopped.
    pub fn take_more(&self, taken: &mut Taken, is_due: impl Fn() -> bool) -> Result<bool, String> {
        let mut waiting = self.lock();
        loop {
            if let Some(reason) = &waiting.stopped {
                return Err(reason.clone());
            }
            let is_due = is_due();
            if waiting.fill(taken, &self.options) || is_due {
                return Ok(is_due);
            }
            // What waits all the same has no room.
            waiting.wake_at = if waiting.jobs.is_empty() { WORTH_WAKING } else { usize::MAX };
            waiting = self.sleep(waiting);
            waiting.wake_at = 0;
        }
    }

    /// Has whoever waits in [`Queue::take_more`] look again.
    pub fn wake(&self) {
        self.notify(self.lock());
    }

    /// As [`Queue::take`], for the one thread that has other things to wait for too.
    #[cfg(feature = "remote")]
    pub fn poll_take(
        &self,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Vec<Box<dyn Job>>>> {
        let mut waiting = self.lock();
        if let Some(batch) = waiting.batch(&self.options) {
            return std::task::Poll::Ready(Some(batch.jobs));
        }
        if waiting.closed {
            return std::task::Poll::Ready(None);
        }
        waiting.waker = Some(cx.waker().clone());
        std::task::Poll::Pending
    }

    pub fn close(&self) {
        let mut waiting = self.lock();
        waiting.closed = true;
        self.notify(waiting);
    }

    /// Refuses all that waits and all that comes.
    pub fn stop(&self, reason: &str) {
        let mut waiting = self.lock();
        waiting.stopped.get_or_insert_with(|| reason.to_owned());
        waiting.bytes = 0;
        let jobs = std::mem::take(&mut waiting.jobs);
        self.notify(waiting);
        for (job, _) in jobs {
            job.refuse(Error::Stopped(reason.to_owned()));
        }
    }

    /// Whether the storage has failed or the thread has ended.
    pub fn is_stopped(&self) -> bool {
        self.lock().stopped.is_some()
    }

    pub fn why_stopped(&self) -> Error {
        let reason = self.lock().stopped.clone();
        Error::Stopped(reason.unwrap_or_else(|| "it was closed".to_owned()))
    }
}

/// Ends the queue whichever way the thread ends.
pub(crate) struct StopOnEnd<'a>(pub &'a Queue);

impl Drop for StopOnEnd<'_> {
    fn drop(&mut self) {
        self.0.stop("its thread ended");
    }
}
