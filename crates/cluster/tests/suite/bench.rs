//! Coordinators under test, and nodes that live at them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use cluster::{Cluster, KeyOptions, NodeInfo, Options};
use env::Clock;
use proto::Incarnation;

/// The lease of all tests: as short as etcd allows.
pub const LEASE: Duration = Duration::from_secs(2);
/// Nothing that is waited for takes so long but by a fault.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn options() -> Options {
    let keys = KeyOptions { history_max: 64, ..KeyOptions::default() };
    Options { lease: LEASE, keys, answer_wait: Duration::from_secs(10), ..Options::default() }
}

/// A coordinator, and a way for one more process to come to it.
pub struct Bench {
    pub attach: Box<dyn Fn() -> Cluster>,
    pub clock: Clock,
    /// Whether an answer may take longer than a node waits for it.
    pub slow: bool,
}

impl Bench {
    pub fn attach(&self) -> Cluster {
        let cluster = (self.attach)();
        eventually("the coordinator is there", || cluster.old_since().is_none());
        cluster
    }

    /// Waits for `what`, and lets leases run out meanwhile where nobody else does.
    pub fn eventually(&self, what: &str, clusters: &[&Cluster], mut holds: impl FnMut() -> bool) {
        eventually(what, || {
            clusters.iter().for_each(|cluster| cluster.handle_timeout(self.clock.now()));
            holds()
        });
    }
}

pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A node that renews its lease until it is dropped; then it is dead without a word.
pub struct Life {
    pub node: Incarnation,
    dead: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

static NEXT: AtomicU64 = AtomicU64::new(1);

pub fn info(name: &str) -> NodeInfo {
    NodeInfo::new(name, Incarnation(NEXT.fetch_add(1, Ordering::SeqCst)))
}

impl Life {
    pub fn start(cluster: &Cluster, name: &str) -> Life {
        Life::of(cluster, info(name))
    }

    pub fn of(cluster: &Cluster, info: NodeInfo) -> Life {
        let life = Life::begin(cluster, info);
        eventually("the node is listed", || cluster.directory().node(life.node).is_some());
        life
    }

    /// One that is not waited for to be listed.
    pub fn begin(cluster: &Cluster, info: NodeInfo) -> Life {
        let clock = Clock::system();
        let node = info.incarnation;
        cluster.register(clock.now(), info.clone()).unwrap();
        let dead = Arc::new(AtomicBool::new(false));
        let (cluster, is_dead) = (cluster.clone(), dead.clone());
        let thread = std::thread::spawn(move || {
            while !is_dead.load(Ordering::SeqCst) {
                let now = clock.now();
                if cluster.renew(now, node).is_err() {
                    drop(cluster.register(now, info.clone()));
                }
                std::thread::sleep(LEASE / 20);
            }
        });
        Life { node, dead, thread: Some(thread) }
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.dead.store(true, Ordering::SeqCst);
        drop(self.thread.take().map(JoinHandle::join));
    }
}

/// The names of all listed nodes.
pub fn names(cluster: &Cluster) -> String {
    let directory = cluster.directory();
    let mut names: Vec<_> = directory.nodes().map(|info| info.name.clone()).collect();
    names.sort();
    names.join(" ")
}

/// A folder that goes with the test.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let number = NEXT.fetch_add(1, Ordering::SeqCst);
        let name = format!("mainstay-cluster-{name}-{}-{number}", std::process::id());
        Folder(std::env::temp_dir().join(name))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}
