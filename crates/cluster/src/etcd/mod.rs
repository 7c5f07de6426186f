//! An etcd v3 cluster as coordinator.
//!
//! Under the prefix, `k/KEY` holds a key, `era` what is added to etcd's revisions, and `beat` when
//! somebody was last there. etcd counts from 1 again when it was emptied, and goes back when it is
//! restored from a copy; numbers told here must only rise. So whoever finds the era missing, or
//! finds keys that contradict what it has seen, or is the first after nobody was there, sets a new
//! era above all that was told. Every write is made under the era that its writer knows.

mod line;
mod value;

use std::fmt;
use std::path::PathBuf;
use std::sync::Weak;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use env::{Clock, Instant, Random};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::shared::Shared;
use line::{Leases, Line};

/// How an etcd cluster is reached.
#[derive(Clone, Debug)]
pub struct EtcdOptions {
    /// Its members, such as `http://10.0.0.1:2379` or `https://..`. One at a time is spoken to; when
    /// it does not answer, the next.
    pub endpoints: Vec<String>,
    /// Who is let in, if etcd asks for that.
    pub user: Option<EtcdUser>,
    /// By what members at `https://..` are believed, and what they are shown.
    pub tls: EtcdTls,
    /// What all keys begin with.
    pub prefix: String,
    /// How long one request may take before the next member is tried.
    pub request_wait: Duration,
    /// How often a member is asked for a sign of life. One that is silent for twice as long is
    /// given up.
    pub alive_every: Duration,
}

/// A user of etcd. The password is never shown.
#[derive(Clone)]
pub struct EtcdUser {
    /// As etcd calls it.
    pub name: String,
    /// Their password.
    pub password: String,
}

impl fmt::Debug for EtcdUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EtcdUser({:?})", self.name)
    }
}

/// Files (PEM) for encrypted connections to etcd. They are read for each connection: new ones may take
/// their places.
#[derive(Clone, Debug, Default)]
pub struct EtcdTls {
    /// Certificates of the authorities that members are believed by; without it the public ones.
    pub authorities: Option<PathBuf>,
    /// A certificate and its key, which members are shown.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

impl EtcdOptions {
    /// Requests within 3 s, signs of life every 2 s.
    pub fn new(endpoints: impl IntoIterator<Item = String>, prefix: &str) -> Self {
        EtcdOptions {
            endpoints: endpoints.into_iter().collect(),
            user: None,
            tls: EtcdTls::default(),
            prefix: prefix.to_owned(),
            request_wait: Duration::from_secs(3),
            alive_every: Duration::from_secs(2),
        }
    }
}

/// The first and the longest pause between two attempts.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
const TICK: Duration = Duration::from_secs(1);

/// Wakes the loop from any thread.
#[derive(Default)]
pub(crate) struct Signal {
    notify: Notify,
    stopped: AtomicBool,
}

impl Signal {
    pub fn wake(&self) {
        self.notify.notify_one();
    }

    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.wake();
    }
}

/// What the loop goes on with.
enum Event {
    Woken,
    Tick,
    Reply(u64, Result<crate::wire::Reply, line::Broken>),
    News(Result<line::News, line::Broken>),
}

/// Keeps a process attached to etcd, until nobody holds `shared` any more.
pub(crate) async fn run(
    shared: Weak<Shared>,
    etcd: EtcdOptions,
    options: crate::Options,
    clock: Clock,
    signal: &Signal,
) {
    let mut random = Random::from_os();
    let mut member = random.index(etcd.endpoints.len().max(1));
    let mut leases = Leases::default();
    let mut pause = PAUSES.0;
    let mut told = None;
    while !signal.stopped.load(Ordering::Acquire) {
        let wait = etcd.request_wait * 3;
        let opening = Line::open(&etcd, member, &shared, &clock);
        match timeout(wait, opening).await.unwrap_or_else(|_| Err(line::silent())) {
            Ok(mut line) => {
                (pause, told) = (PAUSES.0, None);
                let broken =
                    serve(&shared, &mut line, &mut leases, (&options, &clock), signal).await;
                let Some(shared) = shared.upgrade() else { return };
                shared.handle_disconnected(clock.now());
                tracing::warn!(%broken, "etcd is away; trying on");
            }
            Err(broken) => {
                let shut_out = broken.shut_out(&etcd);
                // Each reason once; one that is away may be silent in many ways.
                if told.as_ref() != Some(&shut_out) {
                    match &shut_out {
                        Some(reason) => tracing::error!("{reason}; trying on"),
                        None => tracing::warn!(%broken, "etcd is not there; trying on"),
                    }
                    told = Some(shut_out.clone());
                }
                let Some(shared) = shared.upgrade() else { return };
                shared.set_shut_out(shut_out);
            }
        }
        member = member.wrapping_add(1);
        let until = clock.now() + pause + pause.mul_f64(random.unit_f64());
        pause = (pause * 2).min(PAUSES.1);
        loop {
            let now = clock.now();
            let Some(shared) = shared.upgrade() else { return };
            shared.handle_timeout(now);
            drop(shared);
            if now >= until || signal.stopped.load(Ordering::Acquire) {
                break;
            }
            let _ = timeout(until.since(now), signal.notify.notified()).await;
        }
    }
}

/// Goes on until something breaks, or nobody is left.
async fn serve(
    shared: &Weak<Shared>,
    line: &mut Line,
    leases: &mut Leases,
    (options, clock): (&crate::Options, &Clock),
    signal: &Signal,
) -> line::Broken {
    let mut look_at = clock.now() + options.lease / 3;
    let mut running = None;
    loop {
        let wait = {
            let Some(shared) = shared.upgrade() else { return line::over() };
            if signal.stopped.load(Ordering::Acquire) {
                return line::over();
            }
            let now = clock.now();
            shared.handle_timeout(now);
            if running.is_none() {
                if let Some((id, request)) = shared.poll_request() {
                    running = Some((id, line.act(request, leases.clone())));
                } else if now >= look_at {
                    look_at = now + options.lease / 3;
                    // Nobody waits for its answer: only whether there is one.
                    running = Some((0, line.look(clock.wall(), leases.clone())));
                }
            }
            let at = shared.poll_timeout().unwrap_or(Instant::NEVER).min(look_at);
            at.since(now).min(TICK)
        };
        let event = tokio::select! {
            news = line.news() => Event::News(news),
            done = async {
                match &mut running {
                    Some((id, act)) => (*id, act.as_mut().await),
                    None => std::future::pending().await,
                }
            } => {
                running = None;
                let (id, result) = done;
                Event::Reply(id, result.map(|(reply, held)| { *leases = held; reply }))
            }
            () = signal.notify.notified() => Event::Woken,
            () = tokio::time::sleep(wait) => Event::Tick,
        };
        let Some(shared) = shared.upgrade() else { return line::over() };
        let now = clock.now();
        match event {
            Event::Woken | Event::Tick | Event::Reply(0, Ok(_)) => {}
            Event::Reply(id, Ok(reply)) => shared.handle_reply(now, id, reply),
            Event::News(Ok(news)) => {
                line.note(&news);
                if !news.changes.is_empty() {
                    shared.handle_changes(now, news.changes);
                }
            }
            Event::Reply(_, Err(broken)) | Event::News(Err(broken)) => return broken,
        }
    }
}
