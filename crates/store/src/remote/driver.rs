//! The thread of a store on a server: takes batches, makes attempts, and stays connected.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use env::Random;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::attempt::{Attempt, Remembered, Wanted};
use super::follow::Followers;
use super::options::ServerOptions;
use super::steer::Steered;
use super::verify::verify;
use super::{CommitFailure, ConnectError, Failure, Found, Link, Mode, Place, Server};
use crate::answer::Sender;
use crate::error::{Error, OpenError};
use crate::landing::Settle;
use crate::ledger::Verdict;
use crate::options::FollowerCounts;
use crate::queue::{Job, Queue, StopOnEnd};
use crate::row;
use crate::rules;
use crate::tables::{Table, Writes};
use crate::thread::{Thread, check_format};

/// Rows of one page of a scan, at first and at most.
const PAGE_FIRST: usize = 128;
const PAGE_MAX: usize = 4_096;
/// Rows asked for in one round trip, at least and at most; between them, what their size allows.
const FETCH_MIN: usize = 64;
const FETCH_MAX: usize = 4_096;
/// How often a batch may fail on fresh connections before its requests are tried one by one.
const FAILED_MAX: u32 = 2;

/// Why a connection is given up although its server answers.
const MOVED: &str = "its watchers say that another server takes writes";

/// A store on a server, and its thread.
pub(crate) struct Remote {
    kind: &'static str,
    names: Vec<String>,
    steer: watch::Sender<Option<String>>,
    /// The first is dropped first: what it has not answered goes to the other.
    followers: Option<Followers>,
    thread: Thread,
    verify: Box<dyn Fn() -> Verify + Send + Sync>,
}

/// Verifies on the thread that calls it.
type Verify = Box<dyn FnOnce() -> Result<Verdict, Error> + Send>;

impl Remote {
    /// Connects and starts the thread.
    pub fn open<S: Server>(server: S, options: ServerOptions) -> Result<Self, OpenError> {
        Self::open_settled(server, options, None)
    }

    /// As [`Remote::open`]; what is valuable is answered when `settle` says that it has landed.
    pub fn open_settled<S: Server>(
        server: S,
        options: ServerOptions,
        settle: Option<Arc<Settle>>,
    ) -> Result<Self, OpenError> {
        let server = Arc::new(server);
        let system = |source| OpenError::Io { path: server.shown(), source };
        let own = runtime().map_err(system)?;
        let queue = Arc::new(Queue::new(options.store.clone()));
        let of_followers = Arc::clone(&queue);
        let (told, opened) = std::sync::mpsc::channel();
        let (steer, steered) = Steered::new();
        let of_driver = (Arc::clone(&server), Arc::clone(&queue), options.clone());
        let mut driver = Driver::new(of_driver, steered);
        driver.settle = settle;
        let thread = Thread::start(queue, [move || own.block_on(driver.run(&told))]);
        let thread = thread.map_err(system)?;
        opened.recv().unwrap_or_else(|_| {
            let reason = "its thread ended".to_owned();
            Err(OpenError::Away { server: server.shown(), reason })
        })?;
        let has_followers = server.followers() > 0;
        let followers = has_followers.then(|| Followers::start(&server, &of_followers, &options));
        let followers = followers.transpose()?;
        let names = server.names();
        let verify = Box::new(move || -> Verify {
            let (server, options) = (Arc::clone(&server), options.clone());
            Box::new(move || {
                let own = runtime().map_err(|error| Error::Unavailable(error.to_string()))?;
                verify(&own, &*server, &options)
            })
        });
        Ok(Remote { kind: S::KIND, names, steer, followers, thread, verify })
    }

    /// The name of what it is stored in.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// Has this server of several used from now on, and no other; `false` if there is none of that name.
    pub fn steer(&self, to: &str) -> bool {
        let is_known = self.names.is_empty() || self.names.iter().any(|name| name == to);
        if is_known {
            self.steer.send_replace(Some(to.to_owned()));
        }
        is_known
    }

    pub fn thread(&self) -> &Thread {
        &self.thread
    }

    /// Its followers, if it has some.
    pub fn followers(&self) -> Option<&Followers> {
        self.followers.as_ref()
    }

    /// Where reads that may be old were answered.
    pub fn follower_counts(&self) -> FollowerCounts {
        self.followers.as_ref().map(Followers::counts).unwrap_or_default()
    }

    /// Reads the whole of one moment on a connection of its own, one at a time.
    pub fn verify(&self, sender: Sender<Verdict>) {
        self.thread.verify(sender, || Some((self.verify)()));
    }
}

/// For the sockets and timers of a client, on one thread.
pub(super) fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

type Jobs = VecDeque<Box<dyn Job>>;

struct Driver<S: Server> {
    server: Arc<S>,
    queue: Arc<Queue>,
    options: ServerOptions,
    link: Option<S::Link>,
    outage: Option<Outage>,
    connected_at: Instant,
    random: Random,
    /// The key of this writer's row, and the number of its last commit.
    writer: [u8; 16],
    commits: u64,
    /// The last of them that the server said is done, and the highest generation that was seen.
    acknowledged: u64,
    generation: u64,
    /// The host that is used, and of each how far the commits went when it was left for another.
    host: usize,
    left: Vec<Option<u64>>,
    steered: Steered,
    remembered: Remembered,
    /// How many rows the next round trip may ask for.
    fetch: usize,
    settle: Option<Arc<Settle>>,
    /// Where in the journal the last attempt was.
    position: (u64, u64),
}

/// A time without a connection.
struct Outage {
    since: Instant,
    pause: Duration,
    next_try: Instant,
    reason: String,
}

/// A batch between its attempts.
struct Batch {
    jobs: Jobs,
    /// Commits of it whose outcome is not known yet: their numbers, and of how many jobs.
    pending: Vec<(u64, usize)>,
    /// When the first attempt at what is left of it began.
    since: Instant,
    /// How often it failed although there was a connection.
    failed: u32,
}

/// What happens to a driver that waits.
enum Event {
    Batch(Vec<Box<dyn Job>>),
    Try,
    Moved,
    Close,
}

/// What became of an attempt.
enum Attempted {
    /// So many jobs, from the first on, are done and durable.
    Done(usize),
    Retry(String),
    Lost(String),
}

impl<S: Server> Driver<S> {
    fn new(
        (server, queue, options): (Arc<S>, Arc<Queue>, ServerOptions),
        steered: Steered,
    ) -> Self {
        let (mut random, hosts) = (Random::from_os(), server.hosts());
        Driver {
            server,
            queue,
            options,
            link: None,
            outage: None,
            connected_at: Instant::now(),
            writer: random.bytes(),
            random,
            commits: 0,
            acknowledged: 0,
            generation: 0,
            host: 0,
            left: vec![None; hosts],
            steered,
            remembered: Remembered::default(),
            fetch: FETCH_MIN,
            settle: None,
            position: (0, 0),
        }
    }

    async fn run(mut self, told: &std::sync::mpsc::Sender<Result<(), OpenError>>) {
        let opened = self.open().await;
        let is_open = opened.is_ok();
        // Whoever opens waits for it.
        let _ = told.send(opened);
        if !is_open {
            return;
        }
        let queue = Arc::clone(&self.queue);
        let _stop = StopOnEnd(&queue);
        loop {
            let event = {
                let next_try = self.outage.as_ref().map(|outage| outage.next_try);
                let batch = pin!(std::future::poll_fn(|cx| queue.poll_take(cx)));
                tokio::select! {
                    batch = batch => batch.map_or(Event::Close, Event::Batch),
                    () = sleep_until(next_try.unwrap_or_else(Instant::now)), if next_try.is_some() => Event::Try,
                    () = self.steered.moved(), if next_try.is_none() => Event::Moved,
                }
            };
            match event {
                Event::Batch(jobs) => self.serve(jobs.into()).await,
                Event::Close => return,
                Event::Try => self.reconnect().await,
                Event::Moved => self.lose(MOVED.to_owned()),
            }
        }
    }

    /// Makes the first connection, waiting for a server that is still starting.
    async fn open(&mut self) -> Result<(), OpenError> {
        let until = Instant::now() + self.options.open_wait;
        let mut pause = self.options.pause_max / 10;
        loop {
            let reason = match self.connect().await {
                Ok(link) => {
                    self.link = Some(link);
                    return Ok(());
                }
                Err(ConnectError::Refused(error)) => return Err(error),
                Err(ConnectError::Away(reason)) => reason,
            };
            if Instant::now() + pause >= until {
                return Err(OpenError::Away { server: self.server.shown(), reason });
            }
            sleep(pause).await;
            pause = (pause * 2).min(self.options.pause_max);
        }
    }

    /// One try to connect to the host that takes writes and has all that was acknowledged here; if
    /// none has, to the one that has most.
    async fn connect(&mut self) -> Result<S::Link, ConnectError> {
        let (server, mut reasons) = (Arc::clone(&self.server), Vec::new());
        let mut best: Option<(u64, usize, S::Link)> = None;
        let (to, names) = (self.steered.to(), server.names());
        for host in 0..server.hosts() {
            if let (Some(to), Some(name)) = (&to, names.get(host))
                && to != name
            {
                reasons.push(format!("{name} is not asked: {to} takes writes, say its watchers"));
                continue;
            }
            let mut link = match connect(&*server, &self.options, host).await {
                Ok(link) => link,
                Err(ConnectError::Away(reason)) => {
                    reasons.push(reason);
                    continue;
                }
                Err(refused) => return Err(refused),
            };
            if S::SEES_LOSS || self.acknowledged == 0 {
                self.host = host;
                self.steered.at = link.place().or_else(|| names.get(host).cloned());
                return Ok(link);
            }
            match self.written(&mut link).await {
                Ok(number) if number >= self.acknowledged => {
                    self.change_to(host);
                    return Ok(link);
                }
                // It was not made a replica of the one that took over from it.
                Ok(number) if self.left[host].is_some_and(|left| number <= left) => {
                    reasons.push("a former primary takes writes: stop it".to_owned());
                }
                Ok(number) if best.as_ref().is_some_and(|(most, ..)| *most >= number) => {}
                Ok(number) => best = Some((number, host, link)),
                Err(Failure::Retry(reason) | Failure::Lost(reason)) => reasons.push(reason),
            }
        }
        let away = || ConnectError::Away(reasons.join("; "));
        let (number, host, mut link) = best.ok_or_else(away)?;
        let (server, acknowledged) = (server.shown(), self.acknowledged);
        tracing::error!(server, acknowledged, number, "the store has lost what it acknowledged");
        self.change_to(host);
        match self.raise_generation(&mut link).await {
            Ok(()) => Ok(link),
            Err(Failure::Retry(reason) | Failure::Lost(reason)) => Err(ConnectError::Away(reason)),
        }
    }

    fn change_to(&mut self, host: usize) {
        if host != self.host {
            self.left[self.host] = Some(self.commits);
            self.host = host;
        }
        self.steered.at = self.server.names().get(host).cloned();
    }

    /// The number of the last commit of this writer that the server has.
    async fn written(&self, link: &mut S::Link) -> Result<u64, Failure> {
        let (wait, marker) = (self.options.reply_wait, self.marker());
        let found = within(wait, link.begin(Mode::Read, std::slice::from_ref(&marker))).await?;
        within(wait, link.abort()).await?;
        Ok(number(&marker, found.first())?.unwrap_or(0))
    }

    /// Ends all claims after commits were lost: a standby took over that had not received all, or a
    /// backup was put back, and what claims and versions were built on may be gone.
    async fn raise_generation(&mut self, link: &mut S::Link) -> Result<(), Failure> {
        let wait = self.options.reply_wait;
        let places = [self.marker(), (Table::Meta, rules::GENERATION_KEY.to_vec())];
        let found = within(wait, link.begin(Mode::Write, &places)).await?;
        let gone = || Failure::Lost("all that was stored there is gone: restore it".to_owned());
        let current = number(&places[1], found.get(1))?.ok_or_else(gone)?;
        self.commits += 1;
        let [marker, generation] = places;
        let row = row::encode(marker.0, &marker.1, &self.commits);
        let mut writes = Writes::from([(marker, Some(row))]);
        // Another process may have raised it already, above all that was seen here.
        if current <= self.generation {
            let row = row::encode(generation.0, &generation.1, &(self.generation + 1));
            writes.insert(generation, Some(row));
        }
        let raised = within(wait, async {
            link.commit(&writes).await.map_err(|failure| match failure {
                CommitFailure::Retry(reason) => Failure::Retry(reason),
                CommitFailure::Lost(reason) | CommitFailure::Unknown(reason) => {
                    Failure::Lost(reason)
                }
            })
        });
        raised.await?;
        self.acknowledged = self.commits;
        Ok(())
    }

    /// One try to end an outage; the next is set if it fails.
    async fn reconnect(&mut self) {
        let result = self.connect().await;
        let Some(outage) = &mut self.outage else { return };
        let reason = match result {
            Ok(link) => {
                let away = outage.since.elapsed();
                tracing::info!(server = self.server.shown(), ?away, "store is back");
                self.link = Some(link);
                self.outage = None;
                self.connected_at = Instant::now();
                return;
            }
            Err(ConnectError::Away(reason)) => reason,
            Err(ConnectError::Refused(error)) => {
                // This does not pass by itself, so it is worth a line.
                let reason = error.to_string();
                if outage.reason != reason {
                    tracing::error!(server = self.server.shown(), reason, "store refuses us");
                }
                reason
            }
        };
        outage.reason = reason;
        // Half of the pause is drawn, so that many processes do not come back as one.
        let half = outage.pause / 2;
        let drawn = self.random.below(half.as_nanos().max(1) as u64);
        outage.next_try = Instant::now() + half + Duration::from_nanos(drawn);
        outage.pause = (outage.pause * 2).min(self.options.pause_max);
    }

    /// Notes that the connection is gone. The next try is made at once, unless the last one did not
    /// help for long.
    fn lose(&mut self, reason: String) {
        self.link = None;
        if self.outage.is_none() {
            tracing::warn!(server = self.server.shown(), reason, "store is away");
            let now = Instant::now();
            let pause = self.options.pause_max / 10;
            let is_young = now < self.connected_at + 10 * pause;
            let next_try = if is_young { now + pause } else { now };
            self.outage = Some(Outage { since: now, pause, next_try, reason });
        }
    }

    /// Tries to be connected until the server was away for too long; why not, if so.
    async fn connected(&mut self) -> Result<(), String> {
        while self.link.is_none() {
            let (until, next_try) = match &self.outage {
                Some(outage) => (outage.since + self.options.away_wait, outage.next_try),
                None => unreachable!("without a connection there is an outage"),
            };
            if next_try > until || (Instant::now() > until && next_try > Instant::now()) {
                let outage = self.outage.as_ref();
                return Err(outage.map_or_else(String::new, |outage| outage.reason.clone()));
            }
            sleep_until(next_try).await;
            self.reconnect().await;
        }
        Ok(())
    }

    /// Has a batch done, or answers why it was not.
    async fn serve(&mut self, jobs: Jobs) {
        let mut batch = Batch { jobs, pending: Vec::new(), since: Instant::now(), failed: 0 };
        while !batch.jobs.is_empty() {
            if let Err(reason) = self.connected().await {
                return self.give_up(batch, Error::Unavailable(reason));
            }
            match self.attempt(&mut batch).await {
                Attempted::Done(done) => {
                    batch.jobs.drain(..done).for_each(|job| self.answer(job));
                    batch.pending.clear();
                    (batch.since, batch.failed) = (Instant::now(), 0);
                }
                Attempted::Retry(reason) => {
                    if batch.since.elapsed() >= self.options.lock_wait {
                        tracing::debug!(reason, "store is busy with other processes");
                        return self.give_up(batch, Error::Busy);
                    }
                    let pause = Duration::from_micros(200 + self.random.below(5_000));
                    sleep(pause).await;
                }
                Attempted::Lost(reason) => {
                    self.lose(reason.clone());
                    batch.failed += 1;
                    let Some(left) = self.isolate(batch, reason) else { return };
                    batch = left;
                }
            }
        }
    }

    /// Answers what is durable, or has it wait until it has landed.
    fn answer(&self, job: Box<dyn Job>) {
        match &self.settle {
            Some(settle) if job.settles() => settle.park(self.position, job),
            _ => job.done(),
        }
    }

    /// Refuses the request that fails again and again although the server can be reached; the batch
    /// that is left.
    fn isolate(&self, mut batch: Batch, reason: String) -> Option<Batch> {
        if batch.failed <= 2 * FAILED_MAX {
            return Some(batch);
        }
        if !batch.pending.is_empty() {
            self.give_up(batch, Error::Unavailable(reason));
            return None;
        }
        batch.failed = FAILED_MAX;
        if let Some(job) = batch.jobs.pop_front() {
            job.refuse(Error::Unavailable(reason));
        }
        Some(batch)
    }

    /// Answers all that is left of a batch.
    fn give_up(&self, batch: Batch, error: Error) {
        let unsure = batch.pending.iter().map(|(_, jobs)| *jobs).max().unwrap_or(0);
        for (at, job) in batch.jobs.into_iter().enumerate() {
            job.refuse(if at < unsure { Error::Unknown(error.to_string()) } else { error.clone() });
        }
    }

    async fn attempt(&mut self, batch: &mut Batch) -> Attempted {
        let wait = self.options.reply_wait;
        match self.try_attempt(batch).await {
            Ok(done) => Attempted::Done(done),
            Err(Failure::Lost(reason)) => Attempted::Lost(reason),
            Err(Failure::Retry(reason)) => {
                let link = self.link.as_mut().expect("an attempt has a connection");
                match within(wait, link.abort()).await {
                    Ok(()) => Attempted::Retry(reason),
                    Err(_) => Attempted::Lost(reason),
                }
            }
        }
    }

    /// Does as many jobs of the batch as fit into one transaction; how many.
    async fn try_attempt(&mut self, batch: &mut Batch) -> Result<usize, Failure> {
        let limits = self.options.store.limits.clone();
        let wait = self.options.reply_wait;
        // One by one once the batch has failed for no reason of the connection.
        let size = if batch.failed > FAILED_MAX { 1 } else { batch.jobs.len() };
        let jobs = &mut batch.jobs.make_contiguous()[..size];
        let reads = batch.pending.is_empty() && jobs.iter().all(|job| job.only_reads());
        let mode = if reads { Mode::Read } else { Mode::Write };

        let guess = Attempt::guess(jobs, &self.remembered, &limits);
        let mut first: Vec<Place> = guess.rows.into_iter().take(self.fetch).collect();
        if !batch.pending.is_empty() {
            first.insert(0, self.marker());
        }
        let link = self.link.as_mut().expect("an attempt has a connection");
        let mut found = here(&mut self.steered, wait, link.begin(mode, &first)).await?;
        if !batch.pending.is_empty() {
            let (marker, row) = (first.remove(0), found.remove(0));
            if let Some((number, done)) = committed(&batch.pending, &marker, row)? {
                self.acknowledged = self.acknowledged.max(number);
                self.position = link.position();
                within(wait, link.abort()).await?;
                return Ok(done);
            }
        }
        let mut attempt = Attempt::default();
        attempt.learn_rows(first, found);
        self.fetch(&mut attempt, Wanted { pages: guess.pages, ..Wanted::default() }).await?;
        loop {
            let wanted = attempt.pass(jobs, &limits);
            let full = attempt.bytes() > self.options.rows_bytes_max && attempt.done() > 0;
            if wanted.is_empty() || full {
                break;
            }
            self.fetch(&mut attempt, wanted).await?;
        }
        self.remembered.learn(&attempt);
        if let Some(seen) = self.remembered.generation() {
            self.generation = self.generation.max(seen);
        }
        self.finish(attempt, &mut batch.pending).await
    }

    /// Commits what an attempt wrote; how many jobs are done.
    async fn finish(
        &mut self,
        mut attempt: Attempt,
        pending: &mut Vec<(u64, usize)>,
    ) -> Result<usize, Failure> {
        let (wait, done) = (self.options.reply_wait, attempt.done());
        let marker = self.marker();
        let link = self.link.as_mut().expect("an attempt has a connection");
        // A commit that may still be on its way must find that another came first.
        if attempt.writes().is_empty() && pending.is_empty() {
            self.position = link.position();
            // What was read is true even if the connection ends here.
            if within(wait, link.abort()).await.is_err() {
                self.lose("it does not end a transaction that only read".to_owned());
            }
            return Ok(done);
        }
        self.commits += 1;
        let row = row::encode(marker.0, &marker.1, &self.commits);
        attempt.write(marker, row);
        let sent = tokio::select! {
            sent = timeout(wait, link.commit(attempt.writes())) => {
                sent.map_err(|_| format!("no answer to a commit within {wait:?}"))
            }
            () = self.steered.moved() => Err(MOVED.to_owned()),
        };
        match sent {
            Ok(Ok(())) => {
                self.acknowledged = self.commits;
                self.position = link.position();
                Ok(done)
            }
            Ok(Err(CommitFailure::Retry(reason))) => Err(Failure::Retry(reason)),
            Ok(Err(CommitFailure::Lost(reason))) => Err(Failure::Lost(reason)),
            Ok(Err(CommitFailure::Unknown(reason))) => {
                pending.push((self.commits, done));
                Err(Failure::Lost(reason))
            }
            Err(reason) => {
                pending.push((self.commits, done));
                Err(Failure::Lost(reason))
            }
        }
    }

    /// Fetches what is wanted, as much of it as may be read at once.
    async fn fetch(&mut self, attempt: &mut Attempt, wanted: Wanted) -> Result<(), Failure> {
        let (wait, max) = (self.options.reply_wait, self.options.rows_bytes_max);
        let link = self.link.as_mut().expect("an attempt has a connection");
        let mut rows = wanted.rows.into_iter();
        loop {
            let places: Vec<Place> = rows.by_ref().take(self.fetch).collect();
            if places.is_empty() || (attempt.bytes() > max && attempt.done() > 0) {
                break;
            }
            let (asked, before) = (places.len(), attempt.bytes());
            let found = here(&mut self.steered, wait, link.get_many(&places)).await?;
            attempt.learn_rows(places, found);
            // The next round trip asks for what would be a quarter of the limit, by this one's rows.
            let each = (attempt.bytes() - before) / asked + 1;
            self.fetch = (max / 4 / each).clamp(FETCH_MIN, FETCH_MAX);
        }
        for from in wanted.pages {
            let size = attempt.page_size(&from).clamp(PAGE_FIRST, PAGE_MAX);
            let page = here(&mut self.steered, wait, link.page(from.0, &from.1, size)).await?;
            attempt.learn_page(&from, page, size);
        }
        Ok(())
    }

    fn marker(&self) -> Place {
        (Table::Writer, self.writer.to_vec())
    }
}

/// Which commit of unknown outcome turned out to be done, if one was, and of how many jobs it is.
fn committed(
    pending: &[(u64, usize)],
    marker: &Place,
    row: Found,
) -> Result<Option<(u64, usize)>, Failure> {
    let number = number(marker, Some(&row))?;
    Ok(pending.iter().find(|(pending, _)| Some(*pending) == number).copied())
}

/// The number in a row, `None` if there is none.
fn number(place: &Place, row: Option<&Found>) -> Result<Option<u64>, Failure> {
    let Some(Some(row)) = row else { return Ok(None) };
    let number = row::decode(place.0, &place.1, row);
    number.map(Some).map_err(|error| Failure::Lost(error.to_string()))
}

/// One connection to a host, with a look at the stored format.
pub(super) async fn connect<S: Server>(
    server: &S,
    options: &ServerOptions,
    host: usize,
) -> Result<S::Link, ConnectError> {
    let away = |failure| match failure {
        Failure::Retry(reason) | Failure::Lost(reason) => ConnectError::Away(reason),
    };
    let late = |_| ConnectError::Away(format!("no connection within {:?}", options.connect_wait));
    let mut link = timeout(options.connect_wait, server.connect(host)).await.map_err(late)??;
    let format: Place = (Table::Meta, rules::FORMAT_KEY.to_vec());
    let begun = within(options.reply_wait, link.begin(Mode::Read, std::slice::from_ref(&format)));
    let found = begun.await.map_err(away)?.pop().flatten();
    within(options.reply_wait, link.abort()).await.map_err(away)?;
    let found = found.map(|row| row::decode::<u64>(format.0, &format.1, &row)).transpose();
    check_format(&server.shown(), found).map_err(ConnectError::Refused)?;
    Ok(link)
}

/// One round trip, which ends the link if it takes too long or another server is to be used.
async fn here<T>(
    steered: &mut Steered,
    wait: Duration,
    trip: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::select! {
        done = within(wait, trip) => done,
        () = steered.moved() => Err(Failure::Lost(MOVED.to_owned())),
    }
}

/// One round trip, which ends the link if it takes too long.
pub(super) async fn within<T>(
    wait: Duration,
    trip: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let late = |_| Err(Failure::Lost(format!("no answer within {wait:?}")));
    timeout(wait, trip).await.unwrap_or_else(late)
}
