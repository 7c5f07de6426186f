//! Reads at a server's followers, which are behind it by an unknown time.
//!
//! How old a follower's rows are is measured by one clock, this process' own: now and then a beat is
//! written at the leader, a number that is never used twice, and when it was sent is kept. Commits of a
//! shard come one after the other, and followers repeat them in that order; so who shows a beat has all
//! that was committed before the beat was sent. A follower that is paused, cut off or no follower of the
//! leader any more shows no new beats, and is too old after a while, whatever it believes.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use env::{Clock, Instant as Moment, Random};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use super::attempt::{Attempt, Wanted};
use super::driver::{runtime, within};
use super::options::ServerOptions;
use super::{ConnectError, Failure, Link, Mode, Place, Server};
use crate::answer::channel;
use crate::error::OpenError;
use crate::options::FollowerCounts;
use crate::queue::{Asked, Job, Queue, Work};
use crate::row;
use crate::tables::{Stage, Table};

/// Beats that are remembered; who shows none of them is too old for anybody.
const BEATS_MAX: usize = 256;
/// Rows asked for in one round trip.
const FETCH_MAX: usize = 1_024;
/// Readings that may wait for one follower; one more goes to the leader.
const WAITING_MAX: usize = 1_024;
/// Readings of one moment.
const TOGETHER_MAX: usize = 64;
/// Bytes in the queue that a beat counts for.
const BEAT_BYTES: usize = 64;

/// A reading that a follower may answer.
struct Look {
    job: Box<dyn Job>,
    bytes: usize,
    age_max: Duration,
}

/// The followers of one server.
pub(crate) struct Followers {
    shared: Arc<Shared>,
    /// One for each, and its thread.
    followers: Vec<(Option<mpsc::Sender<Look>>, Option<JoinHandle<()>>)>,
}

struct Shared {
    queue: Arc<Queue>,
    options: ServerOptions,
    /// It goes on while the machine sleeps, as followers elsewhere do.
    clock: Clock,
    /// The key of the row in which this process' beats are.
    key: [u8; 16],
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Whose turn it is.
    next: usize,
    /// Of beats that were acknowledged: their numbers, and when they were sent.
    beats: VecDeque<(u64, Moment)>,
    number: u64,
    /// When the last beat was sent, and whether it is under way.
    sent_at: Option<Moment>,
    is_sent: bool,
    counts: FollowerCounts,
}

impl Followers {
    /// Starts a thread for each follower of `server`.
    pub fn start<S: Server>(
        server: &Arc<S>,
        queue: &Arc<Queue>,
        options: &ServerOptions,
    ) -> Result<Self, OpenError> {
        let (queue, options) = (Arc::clone(queue), options.clone());
        let (key, state) = (Random::from_os().bytes(), Mutex::default());
        let shared = Arc::new(Shared { queue, options, clock: Clock::system(), key, state });
        let system = |source| OpenError::Io { path: server.shown(), source };
        let mut followers = Vec::new();
        for number in 0..server.followers() {
            let (sender, looks) = mpsc::channel(WAITING_MAX);
            let own = runtime().map_err(system)?;
            let (server, shared) = (Arc::clone(server), Arc::clone(&shared));
            let follower = Follower { server, shared, number, looks };
            let thread = std::thread::Builder::new().name("store follower".to_owned());
            let thread = thread.spawn(move || own.block_on(follower.run())).map_err(system)?;
            followers.push((Some(sender), Some(thread)));
        }
        Ok(Followers { shared, followers })
    }

    /// Has a reading done by a follower if one is young enough, else by the leader.
    pub fn look(&self, job: Box<dyn Job>, bytes: usize, age_max: Duration) {
        let look = Look { job, bytes, age_max };
        let number = {
            let mut state = self.shared.state();
            state.next = (state.next + 1) % self.followers.len().max(1);
            state.next
        };
        let sender = self.followers.get(number).and_then(|(sender, _)| sender.as_ref());
        let refused = match sender.map(|sender| sender.try_send(look)) {
            Some(Ok(())) => return,
            Some(Err(error)) => error.into_inner(),
            None => return,
        };
        self.shared.to_leader(refused, |counts| &mut counts.away);
    }

    pub fn counts(&self) -> FollowerCounts {
        self.shared.state().counts
    }
}

impl Drop for Followers {
    fn drop(&mut self) {
        for (sender, _) in &mut self.followers {
            sender.take();
        }
        for (_, thread) in &mut self.followers {
            if let Some(thread) = thread.take()
                && thread.thread().id() != std::thread::current().id()
            {
                drop(thread.join());
            }
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self) -> Place {
        (Table::Writer, self.key.to_vec())
    }

    /// Leaves a reading to the leader.
    fn to_leader(&self, look: Look, why: impl FnOnce(&mut FollowerCounts) -> &mut u64) {
        *why(&mut self.state().counts) += 1;
        if let Err((job, error)) = self.queue.push(look.job, look.bytes) {
            job.refuse(error);
        }
    }

    /// Sends a beat if the last one was long ago.
    fn beat(self: &Arc<Self>) {
        let now = self.clock.now();
        let number = {
            let mut state = self.state();
            let is_due = |at: Moment| now >= at + self.options.follower_beat;
            if state.is_sent || !state.sent_at.is_none_or(is_due) {
                return;
            }
            (state.is_sent, state.sent_at) = (true, Some(now));
            // Never one that was used: what became of a beat may be unknown.
            state.number += 1;
            state.number
        };
        let place = self.place();
        let (sender, answer) = channel();
        let asked = Asked { bytes: BEAT_BYTES, only_reads: false, settles: false };
        let beat = Work::new(
            move |stage: &mut Stage<'_>| {
                stage.put(place.0, &place.1, &number);
                Ok(())
            },
            asked,
            sender,
        );
        if let Err((job, error)) = self.queue.push(Box::new(beat), asked.bytes) {
            job.refuse(error);
        }
        let shared = Arc::downgrade(self);
        answer.on_ready(move |told| {
            let Some(shared) = shared.upgrade() else { return };
            let mut state = shared.state();
            state.is_sent = false;
            if told.is_ok() {
                state.beats.push_back((number, now));
                let over = state.beats.len().saturating_sub(BEATS_MAX);
                state.beats.drain(..over);
            }
        });
    }

    /// Since when, at the latest, who shows that beat may lack something; `None` if that is not known.
    fn sent_at(&self, shown: u64) -> Option<Moment> {
        let state = self.state();
        // A beat whose outcome was never told is as good as the last one before it.
        state.beats.iter().rev().find(|(number, _)| *number <= shown).map(|(_, at)| *at)
    }

    fn is_young(&self, since: Moment, age_max: Duration) -> bool {
        self.clock.now() - since <= age_max
    }

    /// The youngest that a follower can be.
    fn newest(&self) -> Option<Moment> {
        self.state().beats.back().map(|(_, at)| *at)
    }
}

/// One follower, on its thread.
struct Follower<S> {
    server: Arc<S>,
    shared: Arc<Shared>,
    number: usize,
    looks: mpsc::Receiver<Look>,
}

type Connecting<L> = Pin<Box<dyn Future<Output = Result<L, String>>>>;

enum Line<L> {
    Here(L),
    Connecting(Connecting<L>),
    Away(Instant),
}

enum Event<L> {
    Looks(usize),
    Connected(Result<L, String>),
    Again,
    Beat,
}

impl<S: Server> Follower<S> {
    async fn run(mut self) {
        let (mut line, mut looks) = (Line::Connecting(self.connect()), Vec::new());
        // Beats go on for a while after the last reading.
        let mut used_at = None;
        loop {
            let now = Instant::now();
            let beats_until =
                used_at.map(|at: Instant| at + 20 * self.shared.options.follower_beat);
            let beat_at = now + self.shared.options.follower_beat;
            let beats = beats_until.is_some_and(|until| now < until);
            let event = tokio::select! {
                count = self.looks.recv_many(&mut looks, TOGETHER_MAX) => Event::Looks(count),
                event = next_of(&mut line) => event,
                () = sleep_until(beat_at), if beats => Event::Beat,
            };
            match event {
                Event::Looks(0) => return,
                Event::Looks(_) => {
                    used_at = Some(Instant::now());
                    self.shared.beat();
                    let asked = std::mem::take(&mut looks);
                    if let Line::Here(link) = &mut line {
                        if let Err(reason) = self.serve(link, asked).await {
                            self.lose(&mut line, &reason);
                        }
                    } else {
                        self.refuse(asked);
                    }
                }
                Event::Connected(Ok(link)) => line = Line::Here(link),
                Event::Connected(Err(reason)) => self.lose(&mut line, &reason),
                Event::Again => line = Line::Connecting(self.connect()),
                Event::Beat => self.shared.beat(),
            }
        }
    }

    fn connect(&self) -> Connecting<S::Link> {
        let (server, number) = (Arc::clone(&self.server), self.number);
        let wait = self.shared.options.connect_wait;
        Box::pin(async move {
            match timeout(wait, server.connect_follower(number)).await {
                Ok(Ok(link)) => Ok(link),
                Ok(Err(ConnectError::Away(reason))) => Err(reason),
                Ok(Err(ConnectError::Refused(error))) => Err(error.to_string()),
                Err(_) => Err(format!("no connection within {wait:?}")),
            }
        })
    }

    fn lose(&self, line: &mut Line<S::Link>, reason: &str) {
        let (server, number) = (self.server.shown(), self.number);
        tracing::debug!(server, number, reason, "a follower is away");
        *line = Line::Away(Instant::now() + self.shared.options.pause_max);
    }

    fn refuse(&self, looks: Vec<Look>) {
        looks.into_iter().for_each(|look| self.shared.to_leader(look, |counts| &mut counts.away));
    }

    /// Answers what can be answered from one moment of the follower, and leaves the rest to the leader.
    async fn serve(&self, link: &mut S::Link, looks: Vec<Look>) -> Result<(), String> {
        let newest = self.shared.newest();
        let (looks, old): (Vec<_>, Vec<_>) = looks
            .into_iter()
            .partition(|look| newest.is_some_and(|at| self.shared.is_young(at, look.age_max)));
        let to_leader = |look| self.shared.to_leader(look, |counts| &mut counts.too_old);
        old.into_iter().for_each(to_leader);
        if looks.is_empty() {
            return Ok(());
        }
        let (mut jobs, limits): (Vec<_>, Vec<_>) =
            looks.into_iter().map(|look| (look.job, (look.bytes, look.age_max))).unzip();
        // A follower that hangs must not hold up whom the leader would answer.
        let wait = self.shared.options.follower_wait;
        let looked = within(wait, async {
            loop {
                // A server without snapshots had another commit meanwhile.
                match self.look(link, &mut jobs).await {
                    Err(Failure::Retry(_)) => tokio::task::yield_now().await,
                    looked => return looked,
                }
            }
        });
        let looked = looked.await;
        let (since, done, failed) = match looked {
            Ok((since, done)) => (since, done, None),
            Err(Failure::Retry(reason) | Failure::Lost(reason)) => {
                (None, vec![false; jobs.len()], Some(reason))
            }
        };
        for ((job, (bytes, age_max)), is_done) in jobs.into_iter().zip(limits).zip(done) {
            let is_young = since.is_some_and(|at| self.shared.is_young(at, age_max));
            if is_done && is_young {
                self.shared.state().counts.follower += 1;
                job.done();
                continue;
            }
            let look = Look { job, bytes, age_max };
            if failed.is_some() || is_young {
                self.shared.to_leader(look, |counts| &mut counts.away);
            } else {
                to_leader(look);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Since when the follower may lack something, and which of the jobs it has answered.
    async fn look(
        &self,
        link: &mut S::Link,
        jobs: &mut [Box<dyn Job>],
    ) -> Result<(Option<Moment>, Vec<bool>), Failure> {
        let limits = &self.shared.options.store.limits;
        let place = self.shared.place();
        let found = link.begin(Mode::Read, std::slice::from_ref(&place)).await?.pop().flatten();
        let shown = found.map(|row| row::decode::<u64>(place.0, &place.1, &row));
        let shown = shown.transpose().map_err(|error| Failure::Lost(error.to_string()))?;
        let since = shown.and_then(|shown| self.shared.sent_at(shown));
        let mut done = vec![false; jobs.len()];
        // What is too old for all need not be read.
        if since.is_some() {
            let mut attempt = Attempt::default();
            loop {
                let mut wanted = Wanted::default();
                for (job, done) in jobs.iter_mut().zip(&mut done) {
                    let lacks = attempt.look(job, limits, done);
                    wanted.rows.extend(lacks.rows);
                    wanted.pages.extend(lacks.pages);
                }
                if wanted.is_empty() {
                    break;
                }
                if attempt.bytes() > self.shared.options.rows_bytes_max {
                    done.fill(false);
                    break;
                }
                let rows: Vec<Place> = wanted.rows.into_iter().collect();
                for some in rows.chunks(FETCH_MAX) {
                    attempt.learn_rows(some.to_vec(), link.get_many(some).await?);
                }
                for from in wanted.pages {
                    let page = link.page(from.0, &from.1, FETCH_MAX).await?;
                    attempt.learn_page(&from, page, FETCH_MAX);
                }
            }
        }
        link.abort().await?;
        Ok((since, done))
    }
}

/// What happens on a line by itself.
async fn next_of<L>(line: &mut Line<L>) -> Event<L> {
    match line {
        Line::Here(_) => std::future::pending().await,
        Line::Connecting(connecting) => Event::Connected(connecting.await),
        Line::Away(until) => {
            sleep_until(*until).await;
            Event::Again
        }
    }
}
