use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{io, thread};

use cluster::{Cluster, Error, NodeInfo};
use env::{Clock, Instant};

use super::Beacon;

/// How often the workers are looked at, at least.
const LOOK_EVERY_MAX: Duration = Duration::from_millis(100);

/// A turn of a worker that takes too long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// Which worker.
    pub worker: u8,
    /// Kind, method path and key of the entity whose handler runs, if one does.
    pub running: Option<(&'static str, String, u64)>,
    /// For how long, when it was seen first.
    pub since: Duration,
}

/// How a node stays listed.
pub(crate) struct Lease {
    pub cluster: Cluster,
    pub info: NodeInfo,
    /// Due every third of the lease.
    pub renew_every: Duration,
}

pub(crate) struct KeeperParts {
    pub clock: Clock,
    pub lease: Lease,
    pub beacons: Vec<Arc<Beacon>>,
    pub stuck_after: Duration,
}

/// A thread of its own that keeps the node listed and reports workers that are stuck, however
/// busy the workers are.
pub(crate) struct Keeper {
    stop: Sender<()>,
    thread: thread::JoinHandle<()>,
    reports: Arc<Mutex<Vec<Stuck>>>,
}

/// Most reports kept.
const REPORTS_MAX: usize = 256;

impl Keeper {
    pub fn start(name: &str, parts: KeeperParts) -> io::Result<Self> {
        let (stop, stopped) = channel();
        let reports = Arc::new(Mutex::new(Vec::new()));
        let kept = reports.clone();
        let thread = thread::Builder::new()
            .name(format!("{name}-keeper"))
            .spawn(move || run(&parts, &stopped, &kept))?;
        Ok(Keeper { stop, thread, reports })
    }

    /// The turns that took too long so far, oldest first.
    pub fn stuck(&self) -> Vec<Stuck> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes the node off the list and ends the thread.
    pub fn stop(self) {
        drop(self.stop);
        let _ = self.thread.join();
    }
}

fn run(parts: &KeeperParts, stopped: &Receiver<()>, reports: &Mutex<Vec<Stuck>>) {
    let lease = &parts.lease;
    let mut renew_at = parts.clock.now() + lease.renew_every;
    let mut told = vec![None; parts.beacons.len()];
    let look_every = LOOK_EVERY_MAX.min(parts.stuck_after / 4).max(Duration::from_millis(1));
    while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(look_every) {
        let now = parts.clock.now();
        if now >= renew_at {
            renew_at = now + lease.renew_every;
            renew(lease, now);
        }
        lease.cluster.handle_timeout(now);
        for ((worker, beacon), told) in (0u8..).zip(&parts.beacons).zip(&mut told) {
            look(parts, now, (worker, beacon), told, reports);
        }
    }
    lease.cluster.deregister(lease.info.incarnation);
}

/// A node whose lease is gone registers again, for ever: the list only gives hints.
fn renew(lease: &Lease, now: Instant) {
    match lease.cluster.renew(now, lease.info.incarnation) {
        Ok(()) => {}
        Err(Error::NotListed { .. }) => {
            if let Err(error) = lease.cluster.register(now, lease.info.clone()) {
                tracing::error!(%error, "this node cannot be listed again; trying on");
            }
        }
        Err(error) => tracing::error!(%error, "the lease cannot be renewed; trying on"),
    }
}

fn look(
    parts: &KeeperParts,
    now: Instant,
    (worker, beacon): (u8, &Beacon),
    told: &mut Option<Instant>,
    reports: &Mutex<Vec<Stuck>>,
) {
    let Some(since) = beacon.since() else { return };
    if now.since(since) < parts.stuck_after || *told == Some(since) {
        return;
    }
    *told = Some(since);
    let running = beacon.pulse.get().and_then(|pulse| pulse.read().running);
    let stuck = Stuck { worker, running, since: now.since(since) };
    tracing::error!(worker, running = ?stuck.running, since = ?stuck.since, "a worker is stuck");
    let mut reports = reports.lock().unwrap_or_else(PoisonError::into_inner);
    if reports.len() < REPORTS_MAX {
        reports.push(stuck);
    }
}
