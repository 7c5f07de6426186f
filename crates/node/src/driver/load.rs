use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{io, thread};

use cluster::{Cluster, Load, Loads};
use env::metrics::{Gauge, Registry};
use env::{Clock, Instant, usage};
use proto::Incarnation;

use super::inbox::{Inbox, Mail, Task};
use crate::placing::RoomCount;

/// Reports of others are taken in so often.
const TELL_EVERY: Duration = Duration::from_millis(200);
/// Processor time is looked at at each so many of these times: every second.
const TELLS_PER_SAMPLE: u32 = 5;
/// Samples that the share of the processors is a mean of.
const SAMPLES: usize = 6;
/// A report is made at each so many samples.
const SAMPLES_PER_REPORT: u32 = 2;
/// How long a worker has to answer; mail for one that does not is late by that.
const ANSWER_WAIT: Duration = Duration::from_secs(1);

/// What a node's load is taken from and told to.
pub(crate) struct LoadParts {
    pub clock: Clock,
    pub cluster: Cluster,
    pub me: Incarnation,
    pub inboxes: Vec<Arc<Inbox>>,
    pub rooms: Arc<RoomCount>,
    pub metrics: Registry,
}

/// A thread of its own that reports the node's load into the registry, and tells its workers what others report.
pub(crate) struct Reporter {
    stop: Sender<()>,
    last: Arc<Mutex<Load>>,
}

impl Reporter {
    pub fn start(name: &str, parts: LoadParts) -> io::Result<Self> {
        let (stop, stopped) = channel();
        let last = Arc::new(Mutex::new(Load::default()));
        let gauges = Gauges::new(&parts.metrics, name);
        let mut state = State {
            loads: parts.cluster.loads(),
            samples: VecDeque::new(),
            count: 0,
            gauges,
            last: last.clone(),
            parts,
        };
        thread::Builder::new().name(format!("{name}-load")).spawn(move || state.run(&stopped))?;
        Ok(Reporter { stop, last })
    }

    /// The last load that was reported.
    pub fn last(&self) -> Load {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the thread, without waiting: it may wait for a coordinator that is away.
    pub fn stop(self) {
        drop(self.stop);
    }
}

struct State {
    parts: LoadParts,
    loads: Loads,
    /// Processor time used by then.
    samples: VecDeque<(Instant, Duration)>,
    /// Reports so far.
    count: u64,
    gauges: Gauges,
    last: Arc<Mutex<Load>>,
}

impl State {
    fn run(&mut self, stopped: &Receiver<()>) {
        for turn in 0u32.. {
            if turn.is_multiple_of(TELLS_PER_SAMPLE) {
                self.sample();
            }
            if turn.is_multiple_of(TELLS_PER_SAMPLE * SAMPLES_PER_REPORT) {
                self.report();
            }
            self.tell_workers();
            if stopped.recv_timeout(TELL_EVERY) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    }

    fn sample(&mut self) {
        let Some(used) = usage::processor_time() else { return };
        self.samples.push_back((self.parts.clock.now(), used));
        if self.samples.len() > SAMPLES + 1 {
            self.samples.pop_front();
        }
    }

    /// Share of the processors used over the samples, 0 to 1.
    fn cpu(&self) -> f64 {
        let (Some((from, before)), Some((to, after))) = (self.samples.front(), self.samples.back())
        else {
            return 0.0;
        };
        let cores = thread::available_parallelism().map_or(1, usize::from) as f64;
        let passed = (*to - *from).as_secs_f64();
        if passed == 0.0 { 0.0 } else { (*after - *before).as_secs_f64() / passed / cores }
    }

    fn report(&mut self) {
        let load = self.load();
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = load;
        self.gauges.show(&load);
        self.count += 1;
        // A coordinator that is away hears of the next one.
        if let Err(error) = self.parts.cluster.report_load(self.parts.me, &load, self.count) {
            tracing::debug!(%error, "this node's load is not told");
        }
    }

    fn load(&self) -> Load {
        let (tell, told) = sync_channel(self.parts.inboxes.len());
        let begun = self.parts.clock.now();
        for inbox in &self.parts.inboxes {
            let tell = tell.clone();
            let task: Task = Box::new(move |worker| {
                let _ = tell.try_send(worker.take_figures());
            });
            inbox.push(Mail::Task(task));
        }
        drop(tell);
        let mut load = Load {
            cpu: self.cpu(),
            memory_bytes: usage::memory_bytes().unwrap_or(0),
            rooms: self.parts.rooms.taken(),
            rooms_max: self.parts.rooms.max.load(Ordering::Relaxed),
            ..Load::default()
        };
        for _ in &self.parts.inboxes {
            let left = (begun + ANSWER_WAIT) - self.parts.clock.now();
            let answer = told.recv_timeout(left);
            load.mail_delay = self.parts.clock.now() - begun;
            let Ok(figures) = answer else { break };
            load.sessions += figures.sessions;
            load.queued += figures.queued;
            load.tick_lag = load.tick_lag.max(figures.tick_lag);
        }
        load
    }

    fn tell_workers(&mut self) {
        let now = self.parts.clock.now();
        let news: Arc<[_]> = self.loads.take(now).into();
        if news.is_empty() {
            return;
        }
        for inbox in &self.parts.inboxes {
            let news = news.clone();
            inbox.push(Mail::Task(Box::new(move |worker| worker.handle_loads(now, &news))));
        }
    }
}

type Shown = (&'static str, &'static str, fn(&Load) -> f64);

const GAUGES: [Shown; 8] = [
    ("node_cpu", "Share of the processors that is used, 0 to 1: a mean over 6 s.", |l| l.cpu),
    ("node_tick_lag_seconds", "For how long steps of scenes were late, at worst.", |l| {
        l.tick_lag.as_secs_f64()
    }),
    ("node_mail_delay_seconds", "For how long mail waits for the slowest worker.", |l| {
        l.mail_delay.as_secs_f64()
    }),
    ("node_memory_bytes", "Memory in use.", |l| l.memory_bytes as f64),
    ("node_sessions", "Sessions at home here.", |l| f64::from(l.sessions)),
    ("node_rooms", "Rooms here, and seats reserved for rooms.", |l| f64::from(l.rooms)),
    ("node_rooms_max", "Rooms that it takes at most; 0 is any number.", |l| f64::from(l.rooms_max)),
    ("node_queue", "Messages that wait for services.", |l| f64::from(l.queued)),
];

/// What an autoscaler goes by.
struct Gauges(Vec<(Gauge, fn(&Load) -> f64)>);

impl Gauges {
    fn new(registry: &Registry, node: &str) -> Self {
        let gauge =
            |(name, help, read): &Shown| (registry.gauge(name, help, &[("node", node)]), *read);
        Gauges(GAUGES.iter().map(gauge).collect())
    }

    fn show(&self, load: &Load) {
        self.0.iter().for_each(|(gauge, read)| gauge.set(read(load)));
    }
}
