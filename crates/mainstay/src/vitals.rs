//! How a process is, for its supervisor and for `mainstay status`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use bus::Presence;
use cluster::Cluster;
use env::metrics::Registry;
use env::{Clock, Instant, usage};
use node::NodeHandle;
use proto::Incarnation;
use serde_json::{Value, json};

use crate::config::Process;
use crate::process::Running;
use crate::waiting::{self, Waits};
use crate::watch::Watched;

/// How often figures are taken.
const TAKE_EVERY: Duration = Duration::from_millis(500);
/// Over which time processor time is averaged.
const CPU_SPAN: Duration = Duration::from_secs(6);
/// Older ones say nothing of how it is.
const FIGURES_OLD: Duration = Duration::from_secs(10);

/// What a process says of itself while it waits to start, which it began so long ago.
pub(crate) fn of_start(process: &Process, release: u32, passed: Duration, waits: &Waits) -> Value {
    json!({
        "name": process.name,
        "pid": std::process::id(),
        "lives": [],
        "roles": process.roles,
        "release": release,
        "addresses": [],
        "ready": false,
        "waits": waits.get().into_iter().collect::<Vec<_>>(),
        "up_s": passed.as_secs(),
        "up_ms": passed.as_millis() as u64,
        "cpu_ms": cpu_ms(),
        "memory_bytes": usage::memory_bytes(),
    })
}

/// What a process says of itself. Its workers are asked by a thread of its own, so that an answer is there at
/// once, however busy they are; it says how old it is.
#[derive(Clone)]
pub(crate) struct Vitals(Arc<Inner>);

struct Inner {
    name: String,
    roles: Vec<String>,
    addresses: Vec<String>,
    clock: Clock,
    started: Instant,
    node: Option<Weak<NodeHandle>>,
    gate: Option<gate::Observer>,
    bus: Presence,
    cluster: Cluster,
    /// What of the list of nodes is this process.
    listed: Vec<Incarnation>,
    metrics: Registry,
    release: u32,
    /// Of stores whose servers it watches.
    stores: Option<Watched>,
    figures: Mutex<Figures>,
    /// Processor time at the last looks.
    looks: Mutex<VecDeque<(Instant, u64)>>,
}

#[derive(Clone, Default)]
struct Figures {
    taken: Option<Instant>,
    sessions: usize,
    entities: usize,
    mail: u64,
    calls: u64,
    requests: usize,
    busy: u64,
    panics: u64,
    /// Entities with documents stand still.
    parked: bool,
    /// Messages by the time they took; see [`node::BUCKETS_US`].
    handled: [u64; node::BUCKETS_US.len() + 1],
    /// Messages and replies that were thrown away or refused.
    discards: u64,
    timeouts: u64,
    scenes: usize,
    /// Steps that began more than one step late.
    late_steps: u64,
    /// How long the slowest worker took to come to a question.
    delay: Duration,
    /// By kind of scene: steps, and the sum over its scenes of what a step takes, in seconds, with their number.
    steps: BTreeMap<&'static str, (u64, f64, u32)>,
}

impl Vitals {
    pub(crate) fn of(running: &Running, process: &Process) -> Vitals {
        let clock = Clock::system();
        let (cluster, listed) = running.listing();
        let inner = Arc::new(Inner {
            name: process.name.clone(),
            roles: process.roles.clone(),
            addresses: running.addresses().iter().map(ToString::to_string).collect(),
            started: clock.now(),
            clock,
            node: running.watched(),
            gate: running.gate().map(gate::Server::observer),
            bus: running.bus(),
            cluster,
            listed,
            metrics: running.metrics().clone(),
            release: running.release(),
            stores: running.watched_stores(),
            figures: Mutex::default(),
            looks: Mutex::default(),
        });
        let weak = Arc::downgrade(&inner);
        thread::spawn(move || {
            while let Some(inner) = weak.upgrade() {
                inner.look();
                inner.take();
                drop(inner);
                thread::sleep(TAKE_EVERY);
            }
        });
        Vitals(inner)
    }

    pub(crate) fn show(&self) -> Value {
        let inner = &*self.0;
        let now = inner.clock.now();
        let figures = inner.figures.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let node = inner.node.as_ref().and_then(Weak::upgrade);
        let turn = node.as_ref().and_then(|node| node.longest_turn()).unwrap_or_default();
        let gate = inner.gate.as_ref().map(gate::Observer::stats);
        let load = node.as_ref().map(|node| node.load()).unwrap_or_default();
        json!({
            "name": inner.name,
            "pid": std::process::id(),
            "lives": inner.listed.iter().map(|life| life.0).collect::<Vec<_>>(),
            "roles": inner.roles,
            "release": inner.release,
            "final_release": crate::release::last(&inner.cluster),
            "addresses": inner.addresses,
            "ready": inner.is_ready(now, &figures),
            "waits": waiting::of_running((&inner.cluster, &inner.bus), inner.gate.is_some(), figures.parked),
            "up_s": (now - inner.started).as_secs(),
            "up_ms": (now - inner.started).as_millis() as u64,
            "cpu_ms": cpu_ms(),
            "cpu_percent": inner.cpu(now),
            "memory_bytes": usage::memory_bytes(),
            "turn_ms": turn.as_millis() as u64,
            "turns": node.as_ref().map_or(0, |node| node.turns()),
            "figures_age_ms": figures.taken.map(|taken| (now - taken).as_millis() as u64),
            "sessions": figures.sessions,
            "entities": figures.entities,
            "mail": figures.mail,
            "calls": figures.calls,
            "requests": figures.requests,
            "busy": figures.busy,
            "panics": figures.panics,
            "discards": figures.discards + gate.as_ref().map_or(0, |gate| gate.rules().map(|rule| rule.1).sum()),
            "timeouts": figures.timeouts,
            "scenes": figures.scenes,
            "late_steps": figures.late_steps,
            "tick_lag_ms": load.tick_lag.as_millis() as u64,
            "rooms": load.rooms,
            "rooms_max": load.rooms_max,
            "queue": load.queued,
            "delay_ms": inner.delay(&figures, turn).as_millis() as u64,
            "handled": figures.handled,
            "steps": steps(&figures),
            "connections": gate.as_ref().map_or(0, |gate| gate.connections),
            "frames": gate.as_ref().map_or(0, |gate| gate.frames_up),
            "frames_down": gate.as_ref().map_or(0, |gate| gate.frames_down),
            "jobs": jobs(&inner.metrics),
            "work": work(&inner.metrics),
            "stores": inner.stores.as_ref().map(Watched::show),
        })
    }
}

impl Inner {
    /// Whether it can do its work: others know it, its workers answer, and its store has it.
    fn is_ready(&self, now: Instant, figures: &Figures) -> bool {
        let directory = self.cluster.directory();
        if !self.listed.iter().all(|life| directory.node(*life).is_some()) {
            return false;
        }
        let Some(node) = self.node.as_ref() else { return true };
        let works = node.upgrade().is_some_and(|node| node.store_failed().is_none());
        let is_new = figures.taken.is_some_and(|taken| now - taken < FIGURES_OLD);
        works && is_new && !figures.parked
    }

    /// Notes down how much processor time was used.
    fn look(&self) {
        let Some(used) = cpu_ms() else { return };
        let now = self.clock.now();
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        looks.push_back((now, used));
        // A stuck worker delays looks, so that there are fewer.
        while looks.len() > 2 && looks.front().is_some_and(|(at, _)| now - *at > CPU_SPAN) {
            looks.pop_front();
        }
    }

    /// Processor time used in the last seconds, in percent of one core.
    fn cpu(&self, now: Instant) -> Option<u64> {
        let looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, before) = *looks.front()?;
        let passed = (now - at).as_millis() as u64;
        (passed > 0).then(|| cpu_ms().unwrap_or_default().saturating_sub(before) * 100 / passed)
    }

    /// How long a message waits for its worker about: as long as the last question did, or as long as a worker has been
    /// in one turn now.
    fn delay(&self, figures: &Figures, turn: Duration) -> Duration {
        figures.delay.max(turn)
    }

    fn take(&self) {
        let Some(node) = self.node.as_ref().and_then(Weak::upgrade) else { return };
        let mut figures = Figures { taken: Some(self.clock.now()), ..Figures::default() };
        let mut all = true;
        for worker in 0..node.workers() {
            let begun = self.clock.now();
            let asked = node.ask(worker, |worker| (worker.stats(), worker.host().method_stats()));
            figures.delay = figures.delay.max(self.clock.now() - begun);
            let Some((worker, methods)) = asked else {
                all = false;
                continue;
            };
            figures.sessions += worker.homes.sessions;
            figures.requests += worker.streams.open_requests;
            let host = &worker.host;
            figures.busy += host.busy;
            figures.discards += host.busy + host.denied + host.bad_arguments + host.expired_mail;
            figures.discards += host.dropped_replies + host.late_replies + worker.unsent;
            figures.timeouts += host.timeouts;
            figures.scenes += host.scenes.len();
            figures.panics += worker.host.panics;
            figures.parked |= worker.data.parked;
            for (_, _, method) in &methods {
                for (sum, count) in figures.handled.iter_mut().zip(method.buckets) {
                    *sum += count;
                }
            }
            for scene in &worker.host.scenes {
                let kind = figures.steps.entry(scene.kind).or_default();
                figures.late_steps += scene.late;
                kind.0 += scene.steps;
                kind.1 += scene.took_mean.as_secs_f64();
                kind.2 += 1;
            }
            for kind in &worker.host.kinds {
                figures.entities += kind.entities;
                figures.mail += u64::from(kind.mail);
                figures.calls += u64::from(kind.calls);
            }
        }
        // Half of the workers' figures would look like a loss.
        if all {
            *self.figures.lock().unwrap_or_else(PoisonError::into_inner) = figures;
        }
    }
}

/// By kind of scene how many steps there were, and what one takes.
fn steps(figures: &Figures) -> Value {
    let kinds = figures.steps.iter().map(|(kind, (count, seconds, scenes))| {
        let took_us = seconds * 1e6 / f64::from((*scenes).max(1));
        ((*kind).to_owned(), json!({"count": count, "took_us": took_us.round()}))
    });
    Value::Object(kinds.collect())
}

/// Groups of pull workers: how many there are and are busy, and what they did.
fn work(metrics: &Registry) -> Value {
    let mut groups: BTreeMap<String, serde_json::Map<String, Value>> = BTreeMap::new();
    for sample in metrics.samples() {
        let Some(what) = sample.name.strip_prefix("work_") else { continue };
        let label = |name: &str| sample.labels.iter().find(|(label, _)| label == name);
        let (Some((_, queue)), Some((_, group))) = (label("queue"), label("group")) else {
            continue;
        };
        let name = if group.is_empty() { queue.clone() } else { format!("{queue}.{group}") };
        groups.entry(name).or_default().insert(what.to_owned(), json!(sample.value as u64));
    }
    Value::Object(groups.into_iter().map(|(name, group)| (name, group.into())).collect())
}

/// How many jobs wait for groups of pull workers, as far as that is known here.
fn jobs(metrics: &Registry) -> Option<u64> {
    let samples = metrics.samples();
    let waiting = samples.iter().filter(|sample| sample.name == "work_waiting");
    waiting.map(|sample| sample.value as u64).reduce(|sum, more| sum + more)
}

/// Processor time of this process, in milliseconds.
fn cpu_ms() -> Option<u64> {
    usage::processor_time().map(|used| used.as_millis() as u64)
}
