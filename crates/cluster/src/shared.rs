use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use env::{Clock, Instant};

use crate::attached::Attached;
use crate::contest::Waiters;
use crate::keys::Keys;
use crate::view::View;
use crate::wire::{Reply, Request};
use crate::{Change, Key, Options, Registry, contest};

/// How long a node that leaves waits for the coordinator.
pub(crate) const LEAVE_WAIT: Duration = Duration::from_secs(1);

/// What all clones of a [`Cluster`](crate::Cluster) share.
pub(crate) struct Shared {
    state: Mutex<State>,
    /// The directory's revision, so that a look for news costs no lock.
    pub revision: AtomicU64,
    /// The last revision of keys.
    pub keys_revision: AtomicU64,
    pub listeners: Mutex<Vec<Listener>>,
    pub checks: Mutex<Vec<(String, Check)>>,
    /// Why the coordinator does not let this process in, as it said last.
    shut_out: Mutex<Option<String>>,
    /// Speaks to the coordinator, if it is not this process's own.
    pub driver: Option<Driver>,
}

pub(crate) struct State {
    pub registry: Registry,
    pub keys: Keys,
    pub contests: Waiters,
    /// With a coordinator elsewhere, registry and keys only show what it holds.
    pub attached: Option<Attached>,
    pub view: View,
}

/// The handle's end of the thread that speaks to a coordinator.
pub(crate) struct Driver {
    pub clock: Clock,
    pub answer_wait: Duration,
    /// How long a first registration waits: the node gives no sign of life meanwhile.
    pub listing_wait: Duration,
    /// Says that there is something to ask for.
    pub wake: Box<dyn Fn() + Send + Sync>,
    /// Says that nobody is left.
    pub stop: Box<dyn Fn() + Send + Sync>,
}

/// Judges a value before it is written.
pub(crate) type Check = Arc<dyn Fn(&str, &[u8]) -> Result<(), String> + Send + Sync>;

/// Tells one follower that there is news; gives `false` once it no longer wants to hear.
pub(crate) type Listener = Box<dyn FnMut() -> bool + Send>;

impl Driver {
    pub fn wake(&self) {
        (self.wake)();
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(driver) = &self.driver {
            (driver.stop)();
        }
    }
}

impl Shared {
    pub fn new(options: Options, driver: Option<Driver>) -> Self {
        let (lease, nodes_max) = (options.lease, options.nodes_max);
        let keys = Keys::new(options.keys.clone());
        let registry = Registry::new(options);
        let revision = AtomicU64::new(registry.directory().revision());
        let attached = driver.is_some().then(|| Attached::new(lease, nodes_max));
        let (contests, view) = (Waiters::default(), View::new(lease));
        Shared {
            state: Mutex::new(State { registry, keys, contests, attached, view }),
            revision,
            keys_revision: AtomicU64::new(0),
            listeners: Mutex::default(),
            checks: Mutex::default(),
            shut_out: Mutex::default(),
            driver,
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.lock();
        let before = state.keys.revision();
        let directory_before = state.registry.directory().revision();
        let result = change(&mut state);
        for node in state.registry.take_gone() {
            state.keys.end_owner(node);
        }
        let revision = state.registry.directory().revision();
        let keys_revision = state.keys.revision();
        let State { keys, contests, attached, .. } = &mut *state;
        let wakers = match attached {
            // It may also have become known what came of a request.
            Some(_) => contests.take_all(),
            None => contests.after_change(keys, before),
        };
        drop(state);
        self.revision.fetch_max(revision, Ordering::AcqRel);
        self.keys_revision.fetch_max(keys_revision, Ordering::AcqRel);
        if directory_before < revision || before < keys_revision {
            let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
            listeners.retain_mut(|listener| listener());
        }
        wakers.into_iter().for_each(std::task::Waker::wake);
        result
    }

    /// What is wrong with a value, by the checks there are.
    pub fn judge(&self, key: &str, value: &[u8]) -> Result<(), String> {
        // Outside the lock: a check may look at other keys.
        let checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut checks = checks.iter().filter(|(prefix, _)| key.starts_with(prefix));
        checks.try_for_each(|(_, check)| check(key, value))
    }

    pub fn shut_out(&self) -> Option<String> {
        self.shut_out.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    // ---- for the driver ----

    /// It does not let this process in, because of this; or that is not so any more.
    #[cfg(feature = "etcd")]
    pub fn set_shut_out(&self, reason: Option<String>) {
        *self.shut_out.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }

    /// The last revision that this process knows of.
    pub fn keys_seen(&self) -> u64 {
        self.lock().keys.revision()
    }

    /// See [`Keys::contradict`].
    #[cfg(feature = "etcd")]
    pub fn contradict(&self, revision: u64, all: &[(Arc<str>, Key)]) -> bool {
        self.lock().keys.contradict(revision, all)
    }

    /// The coordinator is there and holds these keys, and no other.
    pub fn handle_all(&self, now: Instant, revision: u64, all: Vec<(Arc<str>, Key)>) {
        self.change(|state| {
            state.keys.replace(revision, all);
            let nodes = state.view.handle_all(now, &state.keys);
            state.registry.show(nodes);
            let State { keys, attached, .. } = state;
            let attached = attached.as_mut().expect("there is a driver");
            attached.handle_connected(now);
            // A copy of earlier brings back places that were given up since.
            let places =
                keys.range(contest::PREFIX).filter_map(|(key, now)| Some((key, now.owner?)));
            let stale: Vec<_> =
                places.filter(|(key, node)| attached.is_stale(key, *node)).collect();
            stale.into_iter().for_each(|(key, _)| attached.throw_away(key.to_string()));
            self.tell_news(now, state);
        });
    }

    /// The coordinator's keys changed.
    pub fn handle_changes(&self, now: Instant, changes: Vec<Change>) {
        self.change(|state| {
            if let Some(nodes) = state.view.handle_changes(state.keys.revision(), &changes) {
                state.registry.show(nodes);
            }
            state.keys.apply(changes);
            self.tell_news(now, state);
        });
    }

    fn tell_news(&self, now: Instant, state: &mut State) {
        let revision = state.keys.revision();
        // Before anybody hears that it is there.
        self.keys_revision.fetch_max(revision, Ordering::AcqRel);
        self.revision.fetch_max(state.registry.directory().revision(), Ordering::AcqRel);
        state.attached(|attached, registry| {
            attached.handle_news(now, revision, &registry.directory());
        });
    }

    pub fn handle_reply(&self, now: Instant, id: u64, reply: Reply) {
        self.change(|state| {
            let State { keys, attached, .. } = state;
            let attached = attached.as_mut().expect("there is a driver");
            attached.handle_reply(now, id, reply, keys);
        });
    }

    pub fn handle_disconnected(&self, now: Instant) {
        self.change(|state| state.attached(|attached, _| attached.handle_disconnected(now)));
    }

    pub fn handle_timeout(&self, now: Instant) {
        if self.poll_timeout().is_some_and(|at| at <= now) {
            self.change(|state| {
                if let Some(nodes) = state.view.handle_timeout(now) {
                    state.registry.show(nodes);
                }
                state.attached(|attached, registry| {
                    attached.handle_timeout(now, &registry.directory());
                });
            });
        }
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        let state = self.lock();
        let attached = state.attached.as_ref().and_then(Attached::poll_timeout);
        attached.into_iter().chain(state.view.poll_timeout()).min()
    }

    pub fn poll_request(&self) -> Option<(u64, Request)> {
        self.lock().attached.as_mut().and_then(Attached::poll_request)
    }
}

impl State {
    fn attached<R>(&mut self, act: impl FnOnce(&mut Attached, &Registry) -> R) -> R {
        act(self.attached.as_mut().expect("there is a driver"), &self.registry)
    }
}
