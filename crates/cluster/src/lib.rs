//! Who is there and who owns what: the registry of nodes and the hash that places entities.
//!
//! The registry gives discovery and hints. It is never the judge of ownership: that is the
//! store's owner row.
#![forbid(unsafe_code)]

mod directory;
mod registry;

pub use directory::{Directory, NodeInfo, SESSION_KIND};
pub use registry::{Error, Options, Registry};

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use env::Instant;
use proto::Incarnation;

/// The cluster as one process sees it: a cheap clone.
///
/// Nodes register here and follow the [`Directory`] by its revision.
#[derive(Clone)]
pub struct Cluster {
    shared: Arc<Shared>,
}

struct Shared {
    registry: Mutex<Registry>,
    /// The directory's revision, so that a look for news costs no lock.
    revision: AtomicU64,
    listeners: Mutex<Vec<Listener>>,
}

/// Tells one follower that there is news; gives `false` once it no longer wants to hear.
type Listener = Box<dyn FnMut() -> bool + Send>;

impl Cluster {
    /// A registry within this process.
    pub fn embedded(options: Options) -> Self {
        let registry = Registry::new(options);
        let revision = AtomicU64::new(registry.directory().revision());
        let shared =
            Shared { registry: Mutex::new(registry), revision, listeners: Mutex::default() };
        Cluster { shared: Arc::new(shared) }
    }

    /// Lists a node, or changes what is listed of it, and starts its lease anew.
    ///
    /// # Errors
    ///
    /// `Invalid` says which field to correct; `Full` means that `nodes_max` is reached.
    pub fn register(&self, now: Instant, info: NodeInfo) -> Result<(), Error> {
        self.change(|registry| registry.register(now, info))
    }

    /// Prolongs the lease of a node. Due every third of the lease.
    ///
    /// # Errors
    ///
    /// `NotListed` if the lease ran out: register again.
    pub fn renew(&self, now: Instant, node: Incarnation) -> Result<(), Error> {
        self.change(|registry| registry.renew(now, node))
    }

    /// Takes a node off the list; none such is fine.
    pub fn deregister(&self, node: Incarnation) {
        self.change(|registry| registry.deregister(node));
    }

    /// Drops nodes whose lease ran out by `now`.
    pub fn handle_timeout(&self, now: Instant) {
        self.change(|registry| registry.handle_timeout(now));
    }

    /// When [`handle_timeout`](Self::handle_timeout) has work.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.lock().poll_timeout()
    }

    /// The nodes listed now.
    pub fn directory(&self) -> Arc<Directory> {
        self.lock().directory()
    }

    /// The directory if it is newer than `revision`. Costs one atomic read if not.
    pub fn directory_after(&self, revision: u64) -> Option<Arc<Directory>> {
        if self.shared.revision.load(Ordering::Acquire) <= revision {
            return None;
        }
        Some(self.directory()).filter(|directory| directory.revision() > revision)
    }

    /// Has `listener` called after each change, on the thread that made it, until it gives
    /// `false`. It should only wake somebody, who then asks
    /// [`directory_after`](Self::directory_after).
    pub fn on_change(&self, listener: impl FnMut() -> bool + Send + 'static) {
        let mut listeners = self.shared.listeners.lock().unwrap_or_else(|e| e.into_inner());
        listeners.push(Box::new(listener));
    }

    fn change<R>(&self, change: impl FnOnce(&mut Registry) -> R) -> R {
        let mut registry = self.lock();
        let result = change(&mut registry);
        let revision = registry.directory().revision();
        drop(registry);
        if self.shared.revision.fetch_max(revision, Ordering::AcqRel) < revision {
            let mut listeners = self.shared.listeners.lock().unwrap_or_else(|e| e.into_inner());
            listeners.retain_mut(|listener| listener());
        }
        result
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.shared.registry.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("directory", &self.directory()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn followers_hear_of_changes_until_they_stop() {
        let cluster = Cluster::embedded(Options::default());
        let heard = Arc::new(AtomicU32::new(0));
        let counter = heard.clone();
        cluster.on_change(move || counter.fetch_add(1, Ordering::SeqCst) < 1);
        let now = Instant::ZERO;
        let before = cluster.directory().revision();
        assert!(cluster.directory_after(before).is_none());
        cluster.register(now, NodeInfo::new("a", Incarnation(1))).unwrap();
        assert_eq!(heard.load(Ordering::SeqCst), 1);
        // Registering the same again only prolongs the lease.
        cluster.register(now, NodeInfo::new("a", Incarnation(1))).unwrap();
        cluster.renew(now, Incarnation(1)).unwrap();
        assert_eq!(heard.load(Ordering::SeqCst), 1);
        let news = cluster.directory_after(before).unwrap();
        assert_eq!(news.nodes().count(), 1);
        cluster.deregister(Incarnation(1));
        cluster.deregister(Incarnation(1));
        assert_eq!(heard.load(Ordering::SeqCst), 2);
        cluster.register(now, NodeInfo::new("b", Incarnation(2))).unwrap();
        assert_eq!(heard.load(Ordering::SeqCst), 2);
    }
}
