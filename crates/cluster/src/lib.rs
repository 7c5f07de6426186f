//! Who is there and who owns what: the registry of nodes, the hash that places entities, and
//! keys with revisions, of which locks, elections, names and settings are made.
//!
//! The registry gives discovery and hints. It is never the judge of ownership: that is the
//! store's owner row.
#![forbid(unsafe_code)]

mod contest;
mod directory;
mod keys;
mod registry;

pub use contest::{Contest, Lost};
pub use directory::{Directory, NodeInfo, SESSION_KIND};
pub use keys::{Change, Expect, KEY_BYTES_MAX, Key, KeyError, KeyOptions};
pub use registry::{Error, Options, Registry};

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use contest::Waiters;
use env::Instant;
use keys::Keys;
use proto::Incarnation;

/// The cluster as one process sees it: a cheap clone.
///
/// Nodes register here and follow the [`Directory`] by its revision.
#[derive(Clone)]
pub struct Cluster {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// The directory's revision, so that a look for news costs no lock.
    revision: AtomicU64,
    /// The last revision of keys.
    keys_revision: AtomicU64,
    listeners: Mutex<Vec<Listener>>,
    checks: Mutex<Vec<(String, Check)>>,
}

struct State {
    registry: Registry,
    keys: Keys,
    contests: Waiters,
}

/// Judges a value before it is written.
type Check = Arc<dyn Fn(&str, &[u8]) -> Result<(), String> + Send + Sync>;

/// Tells one follower that there is news; gives `false` once it no longer wants to hear.
type Listener = Box<dyn FnMut() -> bool + Send>;

impl Cluster {
    /// A registry within this process.
    pub fn embedded(options: Options) -> Self {
        let keys = Keys::new(options.keys.clone());
        let registry = Registry::new(options);
        let revision = AtomicU64::new(registry.directory().revision());
        let shared = Shared {
            state: Mutex::new(State { registry, keys, contests: Waiters::default() }),
            revision,
            keys_revision: AtomicU64::new(0),
            listeners: Mutex::default(),
            checks: Mutex::default(),
        };
        Cluster { shared: Arc::new(shared) }
    }

    /// Lists a node, or changes what is listed of it, and starts its lease anew.
    ///
    /// # Errors
    ///
    /// `Invalid` says which field to correct; `Incompatible` names the node that it does not fit;
    /// `Full` means that `nodes_max` is reached.
    pub fn register(&self, now: Instant, info: NodeInfo) -> Result<(), Error> {
        self.change(|state| state.registry.register(now, info))
    }

    /// Nodes that were not admitted, by name, and why; each until it is.
    pub fn refused(&self) -> Vec<(String, String)> {
        let state = self.lock();
        state.registry.refused().iter().map(|(name, why)| (name.clone(), why.clone())).collect()
    }

    /// Prolongs the lease of a node. Due every third of the lease.
    ///
    /// # Errors
    ///
    /// `NotListed` if the lease ran out: register again.
    pub fn renew(&self, now: Instant, node: Incarnation) -> Result<(), Error> {
        self.change(|state| state.registry.renew(now, node))
    }

    /// Takes a node off the list; none such is fine.
    pub fn deregister(&self, node: Incarnation) {
        self.change(|state| state.registry.deregister(node));
    }

    /// Drops nodes whose lease ran out by `now`.
    pub fn handle_timeout(&self, now: Instant) {
        self.change(|state| state.registry.handle_timeout(now));
    }

    /// When [`handle_timeout`](Self::handle_timeout) has work.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.lock().registry.poll_timeout()
    }

    /// The nodes listed now.
    pub fn directory(&self) -> Arc<Directory> {
        self.lock().registry.directory()
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

    // ---- keys ----

    /// Writes a key and gives the revision of the change. With an `owner` the key goes when that
    /// node's lease ends, as a name under which it can be found should.
    ///
    /// # Errors
    ///
    /// `Conflict` if `expect` does not hold; `Invalid` if a check refuses the value; see
    /// [`KeyError`]. The old value stays.
    pub fn put(
        &self,
        key: &str,
        value: impl Into<Arc<[u8]>>,
        owner: Option<Incarnation>,
        expect: Expect,
    ) -> Result<u64, KeyError> {
        let value = value.into();
        let invalid = |problem| Err(KeyError::Invalid { key: key.to_owned(), problem });
        if key.starts_with(contest::PREFIX) {
            return invalid(contest::RESERVED.to_owned());
        }
        // Outside the lock: a check may look at other keys.
        let checks = self.shared.checks.lock().unwrap_or_else(|e| e.into_inner()).clone();
        for (_, check) in checks.iter().filter(|(prefix, _)| key.starts_with(prefix)) {
            if let Err(problem) = check(key, &value) {
                return invalid(problem);
            }
        }
        self.change(|state| {
            if let Some(node) = owner.filter(|node| !state.registry.lists(*node)) {
                return Err(KeyError::NotListed(node));
            }
            state.keys.put(key, value, owner, expect)
        })
    }

    /// Deletes a key; tells whether there was one.
    ///
    /// # Errors
    ///
    /// `Conflict` if `expect` does not hold.
    pub fn delete(&self, key: &str, expect: Expect) -> Result<bool, KeyError> {
        if key.starts_with(contest::PREFIX) {
            let problem = contest::RESERVED.to_owned();
            return Err(KeyError::Invalid { key: key.to_owned(), problem });
        }
        self.change(|state| state.keys.delete(key, expect))
    }

    /// A key as it is now.
    pub fn get(&self, key: &str) -> Option<Key> {
        self.lock().keys.get(key).cloned()
    }

    /// All keys that begin with `prefix`, in order, and the revision to follow them from.
    pub fn range(&self, prefix: &str) -> (Vec<(Arc<str>, Key)>, u64) {
        let state = self.lock();
        let range = state.keys.range(prefix).map(|(key, value)| (key.clone(), value.clone()));
        (range.collect(), state.keys.revision())
    }

    /// The changes after `revision` to keys that begin with `prefix`, in order and without gap.
    /// Costs one atomic read if there are none. [`on_change`](Self::on_change) tells of news.
    ///
    /// # Errors
    ///
    /// `Compacted`: read [`range`](Self::range) again and follow from there.
    pub fn changes_after(&self, revision: u64, prefix: &str) -> Result<Vec<Change>, KeyError> {
        if self.shared.keys_revision.load(Ordering::Acquire) <= revision {
            return Ok(Vec::new());
        }
        self.lock().keys.changes_after(revision, prefix)
    }

    /// Has each value for a key that begins with `prefix` judged before it is written, from now
    /// on. `check` gives what is wrong with it.
    pub fn add_check(
        &self,
        prefix: &str,
        check: impl Fn(&str, &[u8]) -> Result<(), String> + Send + Sync + 'static,
    ) {
        let mut checks = self.shared.checks.lock().unwrap_or_else(|e| e.into_inner());
        checks.push((prefix.to_owned(), Arc::new(check)));
    }

    // ---- inside ----

    fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.lock();
        let before = state.keys.revision();
        let result = change(&mut state);
        for node in state.registry.take_gone() {
            state.keys.end_owner(node);
        }
        let revision = state.registry.directory().revision();
        let keys_revision = state.keys.revision();
        let State { keys, contests, .. } = &mut *state;
        let wakers = contests.after_change(keys, before);
        drop(state);
        let is_news = self.shared.revision.fetch_max(revision, Ordering::AcqRel) < revision;
        let keys_before = self.shared.keys_revision.fetch_max(keys_revision, Ordering::AcqRel);
        if is_news || keys_before < keys_revision {
            let mut listeners = self.shared.listeners.lock().unwrap_or_else(|e| e.into_inner());
            listeners.retain_mut(|listener| listener());
        }
        wakers.into_iter().for_each(std::task::Waker::wake);
        result
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(|e| e.into_inner())
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
    use std::time::Duration;

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

    fn listed(names: &[&str]) -> Cluster {
        let cluster = Cluster::embedded(Options::default());
        for (n, name) in (1..).zip(names) {
            cluster.register(Instant::ZERO, NodeInfo::new(*name, Incarnation(n))).unwrap();
        }
        cluster
    }

    #[test]
    fn a_name_goes_with_its_node() {
        let cluster = listed(&["a", "b"]);
        let take = |node| cluster.put("name/arena", *b"", Some(Incarnation(node)), Expect::Absent);
        let first = take(1).unwrap();
        assert_eq!(take(2), Err(KeyError::Conflict { key: "name/arena".into(), changed: first }));
        assert_eq!(take(9), Err(KeyError::NotListed(Incarnation(9))));
        let lease = Options::default().lease;
        cluster.renew(Instant::ZERO + lease / 2, Incarnation(2)).unwrap();
        cluster.handle_timeout(Instant::ZERO + lease);
        assert!(cluster.get("name/arena").is_none());
        assert!(take(2).unwrap() > first);
        cluster.deregister(Incarnation(2));
        assert!(cluster.get("name/arena").is_none());
    }

    #[test]
    fn a_bad_setting_is_refused_and_the_old_one_stays() {
        let cluster = listed(&[]);
        cluster.add_check("config/", |_, value| {
            let text = std::str::from_utf8(value).map_err(|e| e.to_string())?;
            text.parse::<u32>().map(drop).map_err(|e| format!("{text:?}: {e}"))
        });
        let set = |text: &str| cluster.put("config/rate", text.as_bytes(), None, Expect::Any);
        set("5").unwrap();
        let error = set("five").unwrap_err().to_string();
        assert!(error.contains("\"config/rate\" cannot be written: \"five\""), "{error}");
        // Who comes late finds the value, and follows from there.
        let (all, revision) = cluster.range("config/");
        assert_eq!((all.len(), &*all[0].1.value), (1, &b"5"[..]));
        set("6").unwrap();
        let changes = cluster.changes_after(revision, "config/").unwrap();
        assert_eq!(&*changes[0].now.as_ref().unwrap().value, b"6");
        assert!(cluster.changes_after(revision + 1, "config/").unwrap().is_empty());
        assert!(cluster.put("contest/x", *b"", None, Expect::Any).is_err());
        assert!(cluster.delete("contest/x", Expect::Any).is_err());
    }

    #[test]
    fn one_wins_and_the_next_in_line_is_woken_alone() {
        use std::task::{Context, Poll, Wake};
        struct Count(AtomicU32);
        impl Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let cluster = listed(&["a", "b", "c"]);
        let contests = [1, 2, 3].map(|n| cluster.contend("leader", Incarnation(n)).unwrap());
        let counts = [(); 3].map(|()| Arc::new(Count(AtomicU32::new(0))));
        let poll = |n: usize| {
            let waker = counts[n].clone().into();
            contests[n].poll_won(&mut Context::from_waker(&waker))
        };
        let woken = || counts.each_ref().map(|count| count.0.load(Ordering::SeqCst));
        let Poll::Ready(Ok(first)) = poll(0) else { panic!() };
        assert!(poll(1).is_pending() && poll(2).is_pending());
        assert_eq!(cluster.holder("leader"), Some((Incarnation(1), first)));
        assert!(cluster.is_current("leader", first));
        cluster.deregister(Incarnation(1));
        assert_eq!(woken(), [0, 1, 0]);
        let Poll::Ready(Ok(second)) = poll(1) else { panic!() };
        assert!(second > first);
        // The late holder is refused by its number, and told when it asks.
        assert!(!cluster.is_current("leader", first));
        assert_eq!(poll(0), Poll::Ready(Err(Lost)));
        let [_, two, three] = contests;
        drop(two);
        assert_eq!(woken(), [0, 1, 1]);
        assert!(three.fence().is_some_and(|third| third > second));
        drop(three);
        assert_eq!(cluster.holder("leader"), None);
    }

    #[test]
    fn a_restarted_node_does_not_wait_for_its_former_self() {
        let cluster = listed(&["a"]);
        let old = cluster.contend("leader", Incarnation(1)).unwrap();
        let now = Instant::ZERO + Duration::from_secs(1);
        cluster.register(now, NodeInfo::new("a", Incarnation(7))).unwrap();
        let new = cluster.contend("leader", Incarnation(7)).unwrap();
        assert!(new.fence() > old.fence() && new.fence().is_some());
        assert_eq!(old.fence(), None);
        // Its end must not end the new one's.
        drop(old);
        assert!(new.fence().is_some());
        assert!(cluster.contend("leader", Incarnation(9)).is_err());
        assert!(cluster.contend("a/b", Incarnation(7)).is_err());
        // Two tasks of one node wait for each other all the same.
        let second = cluster.contend("leader", Incarnation(7)).unwrap();
        assert_eq!(second.fence(), None);
        drop(new);
        assert!(second.fence().is_some());
    }
}
