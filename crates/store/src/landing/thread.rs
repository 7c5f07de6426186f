//! The thread that lands a journal.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use env::Random;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::adopt::{Adopted, NotAdopted, adopt, is_usable};
use super::worker::{Pace, Round, Trouble, Worker};
use super::{Journal, LandingOptions, Settle};
use crate::error::OpenError;
use crate::options::LandingReport;
use crate::store::Store;

/// How long a thread that ends goes on landing what there is.
const LAST_WAIT: Duration = Duration::from_secs(5);
/// The longest pause after something failed.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// What a thread is made of.
pub(crate) struct Open<J> {
    pub journal: J,
    pub target: Store,
    pub options: LandingOptions,
    /// How long the journal may take to be usable, unless it is being filled.
    pub open_wait: Duration,
    pub random: Random,
}

/// A thread that lands a journal until this is dropped.
pub(crate) struct Landing {
    target: Store,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    settle: Arc<Settle>,
    report: Mutex<LandingReport>,
    stop: AtomicBool,
    stopped: Notify,
}

impl Landing {
    /// Starts it and waits until the journal can be used.
    pub fn start<J: Journal + Send + 'static>(open: Open<J>) -> Result<Self, OpenError> {
        let shared = Arc::<Shared>::default();
        let server = open.journal.shown();
        let io = |source| OpenError::Io { path: server.clone(), source };
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(io)?;
        let (told, opened) = mpsc::channel();
        let target = open.target.clone();
        let work = Work {
            journal: open.journal,
            target: open.target,
            options: open.options,
            shared: Arc::clone(&shared),
            worker: Worker::default(),
            random: open.random,
            trouble: None,
        };
        let open_wait = open.open_wait;
        let thread = std::thread::Builder::new().name("landing".to_owned());
        let thread = thread.spawn(move || runtime.block_on(work.run(open_wait, &told)));
        let landing = Landing { target, shared, thread: Some(thread.map_err(io)?) };
        opened.recv().unwrap_or_else(|_| {
            Err(OpenError::Away { server, reason: "its landing thread ended".to_owned() })
        })?;
        Ok(landing)
    }

    pub fn target(&self) -> Store {
        self.target.clone()
    }

    pub fn settle(&self) -> Arc<Settle> {
        Arc::clone(&self.shared.settle)
    }

    pub fn report(&self) -> LandingReport {
        self.shared.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.stopped.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic of it is in the log.
            drop(thread.join());
        }
        self.shared.settle.close();
    }
}

struct Work<J> {
    journal: J,
    target: Store,
    options: LandingOptions,
    shared: Arc<Shared>,
    worker: Worker,
    random: Random,
    /// What keeps it from landing, and since when.
    trouble: Option<(String, Instant)>,
}

/// What a turn of the thread came to.
enum Turn {
    /// Nothing is left to be done by us.
    Quiet,
    /// There may be more.
    More,
}

/// Why a turn failed, and whether that passes by itself.
struct Failed {
    reason: String,
    is_final: bool,
}

impl<J: Journal> Work<J> {
    async fn run(mut self, open_wait: Duration, told: &mpsc::Sender<Result<(), OpenError>>) {
        let (begun, mut is_open, mut pause) = (Instant::now(), false, Duration::ZERO);
        let mut stopping: Option<Instant> = None;
        loop {
            let turn = self.turn().await;
            self.shared.settle.expire(self.options.settle_wait);
            if stopping.is_none() && self.shared.stop.load(Ordering::Relaxed) {
                stopping = Some(Instant::now());
            }
            let wait = match turn {
                Ok(turn) => {
                    self.well();
                    if !is_open {
                        is_open = true;
                        // Whoever opens waits for it.
                        let _ = told.send(Ok(()));
                    }
                    pause = Duration::ZERO;
                    match turn {
                        Turn::More => Duration::ZERO,
                        Turn::Quiet if stopping.is_some() => return,
                        Turn::Quiet => self.interval(),
                    }
                }
                Err(Failed { reason, is_final }) => {
                    let refused = self.journal.refused();
                    if let Some(error) = refused.filter(|_| !is_open) {
                        let _ = told.send(Err(error));
                        return;
                    }
                    if !is_open && (is_final || begun.elapsed() >= open_wait) {
                        let server = self.journal.shown();
                        let error = if is_final {
                            OpenError::Denied { server, reason }
                        } else {
                            OpenError::Away { server, reason }
                        };
                        let _ = told.send(Err(error));
                        return;
                    }
                    self.ill(reason);
                    pause = (pause * 2).clamp(Duration::from_millis(20), PAUSE_MAX);
                    pause
                }
            };
            let is_late = |since: Instant| since.elapsed() >= LAST_WAIT;
            if stopping.is_some_and(is_late) || (stopping.is_some() && self.trouble.is_some()) {
                return;
            }
            self.wait(wait).await;
        }
    }

    /// How long entries are gathered.
    fn interval(&self) -> Duration {
        if self.shared.settle.is_waited_for() {
            self.options.interval / 100
        } else {
            self.options.interval
        }
    }

    async fn wait(&self, wait: Duration) {
        tokio::select! {
            () = sleep(wait) => {}
            () = self.shared.stopped.notified() => {}
            () = self.shared.settle.nudge.notified(), if wait > self.options.interval / 100 => {
                // Others may be about to wait for the same.
                sleep(self.options.interval / 100).await;
            }
        }
    }

    async fn turn(&mut self) -> Result<Turn, Failed> {
        let life = match self.journal.life(true).await {
            Ok(life) => life,
            Err(away) => return Err(passing(format!("the journal is away: {}", away.0))),
        };
        {
            let mut report = self.shared.report.lock().unwrap_or_else(PoisonError::into_inner);
            report.position = life.position;
            report.landed = life.landed;
            report.backlog_bytes = life.backlog_bytes;
            report.lag = Duration::from_millis(life.lag_ms);
            report.aside = life.aside;
            report.leads = life.leads;
        }
        if !is_usable(&life, None) {
            return self.adopt().await;
        }
        let run = life.run.unwrap_or(0);
        self.shared.settle.learn((run, life.landed), life.aside > 0);
        if !life.leads {
            return Ok(Turn::Quiet);
        }
        let pace = Pace {
            batch_bytes_max: self.options.batch_bytes_max,
            aside_pause_ms: self.options.aside_pause.as_millis() as u64,
            now_ms: life.now_ms,
        };
        match self.worker.round(&mut self.journal, &self.target, &life, &pace).await {
            Ok(Round::Behind) => self.adopt().await,
            // The next look tells those who wait, with what is set aside by then.
            Ok(Round::Landed(_)) => Ok(Turn::More),
            Ok(Round::Idle(_)) => Ok(Turn::Quiet),
            Err(Trouble::Journal(reason)) => Err(passing(format!("the journal is away: {reason}"))),
            Err(Trouble::Target(reason)) => Err(passing(format!("the landing target: {reason}"))),
            Err(Trouble::Stuck(reason)) => Err(passing(reason)),
        }
    }

    async fn adopt(&mut self) -> Result<Turn, Failed> {
        let (token, lineage) = (self.random.u64(), self.random.u32());
        match adopt(&mut self.journal, &self.target, token, lineage).await {
            Ok(Adopted::Already { run }) => {
                tracing::debug!(run, "another process has begun the journal");
                Ok(Turn::More)
            }
            Ok(Adopted::Renewed { run, position }) => {
                tracing::warn!(
                    run,
                    position,
                    "the journal's server began anew and may have lost its last commits: all is activated anew"
                );
                Ok(Turn::More)
            }
            Ok(Adopted::Filled { run, position: 0, .. }) => {
                tracing::info!(run, "a journal begins");
                Ok(Turn::More)
            }
            Ok(Adopted::Filled { run, position, landed_at_ms }) => {
                tracing::error!(
                    run,
                    position,
                    landed_at_ms,
                    "the journal was lost: it was filled again with what had landed; what was accepted after that is lost"
                );
                Ok(Turn::More)
            }
            Err(NotAdopted::Busy(reason)) => Err(passing(reason)),
            Err(NotAdopted::Refused(reason)) => Err(Failed { reason, is_final: true }),
        }
    }

    fn ill(&mut self, reason: String) {
        let is_new = self.trouble.as_ref().is_none_or(|(known, _)| *known != reason);
        if is_new {
            let journal = self.journal.shown();
            tracing::warn!(journal, reason, "nothing lands");
        }
        let since = self.trouble.as_ref().map_or_else(Instant::now, |(_, since)| *since);
        self.tell(Some(reason.clone()));
        self.trouble = Some((reason, since));
    }

    fn well(&mut self) {
        if let Some((_, since)) = self.trouble.take() {
            self.tell(None);
            tracing::info!(journal = self.journal.shown(), away = ?since.elapsed(), "the journal lands again");
        }
    }

    fn tell(&self, trouble: Option<String>) {
        self.shared.report.lock().unwrap_or_else(PoisonError::into_inner).trouble = trouble;
    }
}

fn passing(reason: String) -> Failed {
    Failed { reason, is_final: false }
}
