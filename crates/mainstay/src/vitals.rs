//! How a process is, for its supervisor and for `mainstay status`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use cluster::Cluster;
use env::{Clock, Instant};
use node::NodeHandle;
use proto::Incarnation;
use serde_json::{Value, json};

use crate::config::Process;
use crate::process::Running;

/// How often figures are taken.
const TAKE_EVERY: Duration = Duration::from_millis(500);
/// Older ones say nothing of how it is.
const FIGURES_OLD: Duration = Duration::from_secs(10);

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
    cluster: Cluster,
    /// What of the list of nodes is this process.
    listed: Vec<Incarnation>,
    figures: Mutex<Figures>,
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
    handled: [u64; 7],
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
            cluster,
            listed,
            figures: Mutex::default(),
        });
        let weak = Arc::downgrade(&inner);
        thread::spawn(move || {
            while let Some(inner) = weak.upgrade() {
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
        json!({
            "name": inner.name,
            "pid": std::process::id(),
            "roles": inner.roles,
            "addresses": inner.addresses,
            "ready": inner.is_ready(now, &figures),
            "up_s": (now - inner.started).as_secs(),
            "up_ms": (now - inner.started).as_millis() as u64,
            "cpu_ms": cpu_ms(),
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
            "handled": figures.handled,
            "steps": steps(&figures),
            "connections": gate.as_ref().map_or(0, |gate| gate.connections),
            "frames": gate.as_ref().map_or(0, |gate| gate.frames_up),
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

    fn take(&self) {
        let Some(node) = self.node.as_ref().and_then(Weak::upgrade) else { return };
        let stats = node.stats();
        let mut figures = Figures { taken: Some(self.clock.now()), ..Figures::default() };
        for worker in stats.workers.iter().flatten() {
            figures.sessions += worker.homes.sessions;
            figures.requests += worker.streams.open_requests;
            figures.busy += worker.host.busy;
            figures.panics += worker.host.panics;
            figures.parked |= worker.data.parked;
            for (_, _, method) in &worker.methods {
                for (sum, count) in figures.handled.iter_mut().zip(method.buckets) {
                    *sum += count;
                }
            }
            for scene in &worker.host.scenes {
                let kind = figures.steps.entry(scene.kind).or_default();
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
        if stats.workers.iter().all(Option::is_some) {
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

/// Processor time of this process, where the system tells it in files.
fn cpu_ms() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name of the program may hold spaces; it ends with the last bracket.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<u64>().ok();
    // In hundredths of a second on all Linux systems.
    Some((ticks(11)? + ticks(12)?) * 10)
}
