//! Who is there and who owns what: the registry of nodes, the hash that places entities, and
//! keys with revisions, of which locks, elections, names and settings are made.
//!
//! The registry gives discovery and hints. It is never the judge of ownership: that is the
//! store's owner row.
#![forbid(unsafe_code)]

mod answer;
mod attached;
#[doc(hidden)]
pub mod carried;
mod contest;
mod directory;
#[cfg(feature = "etcd")]
mod etcd;
mod host;
mod keys;
mod load;
mod local;
mod placement;
mod registry;
mod shared;
mod view;
mod watch;
mod wire;
mod zones;

pub use contest::{Contest, Lost};
pub use directory::{Directory, NodeInfo, SESSION_KIND};
#[cfg(feature = "etcd")]
pub use etcd::{EtcdOptions, EtcdTls, EtcdUser};
pub use keys::{Change, Expect, KEY_BYTES_MAX, Key, KeyError, KeyOptions};
pub use load::{Load, Loads};
pub use placement::{NoPlace, Placement, PlacementOptions, Seat, Wanted};
pub use registry::{Error, Options, Registry};
pub use watch::Watch;
pub use zones::{Zone, ZoneOptions, ZoneState, Zones};

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;

use env::{Clock, Instant};
use proto::Incarnation;

use local::{Place, Wake};
use shared::{Driver, Shared};
use wire::{Reply, Request};

/// The cluster as one process sees it: a cheap clone.
///
/// Nodes register here and follow the [`Directory`] by its revision. The coordinator behind it is
/// in this process, hosted by one of the processes of this machine, or an etcd cluster. What is
/// read is always answered from what this process knows, also while the coordinator is away; see
/// [`old_since`](Self::old_since). What is registered stays wanted: it is listed as soon as the
/// coordinator is there, and again after every loss, for ever.
#[derive(Clone)]
pub struct Cluster {
    shared: Arc<Shared>,
}

impl Cluster {
    /// A registry within this process.
    pub fn embedded(options: Options) -> Self {
        Cluster { shared: Arc::new(Shared::new(options, None)) }
    }

    /// The registry of those processes of this machine that name the same `folder`. One of them
    /// hosts it and keeps its state there; when that one ends, in whatever way, another goes on.
    ///
    /// # Errors
    ///
    /// What the system says if the folder cannot be made, or no thread started.
    pub fn attach(folder: &Path, options: Options, clock: &Clock) -> io::Result<Self> {
        let place = Place::open(folder)?;
        let (sender, received) = channel();
        let (waker, stopper) = (sender.clone(), sender.clone());
        let driver = Driver {
            clock: clock.clone(),
            answer_wait: options.answer_wait,
            listing_wait: options.answer_wait.min(options.lease / 2),
            wake: Box::new(move || drop(waker.send(Wake::Work))),
            stop: Box::new(move || drop(stopper.send(Wake::Stop))),
        };
        let shared = Arc::new(Shared::new(options.clone(), Some(driver)));
        let (weak, clock) = (Arc::downgrade(&shared), clock.clone());
        std::thread::Builder::new()
            .name("coordinator-attach".to_owned())
            .spawn(move || local::run(weak, place, (options, clock), (sender, received)))?;
        Ok(Cluster { shared })
    }

    /// The registry in an etcd v3 cluster, which need not be there yet.
    ///
    /// # Errors
    ///
    /// What the system says if no thread can be started.
    #[cfg(feature = "etcd")]
    pub fn etcd(etcd: EtcdOptions, options: Options, clock: &Clock) -> io::Result<Self> {
        let signal = Arc::new(etcd::Signal::default());
        let (waker, stopper) = (signal.clone(), signal.clone());
        let driver = Driver {
            clock: clock.clone(),
            answer_wait: options.answer_wait,
            listing_wait: options.answer_wait.min(options.lease / 2),
            wake: Box::new(move || waker.wake()),
            stop: Box::new(move || stopper.stop()),
        };
        let shared = Arc::new(Shared::new(options.clone(), Some(driver)));
        let (weak, clock) = (Arc::downgrade(&shared), clock.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new()
            .name("coordinator-etcd".to_owned())
            .spawn(move || runtime.block_on(etcd::run(weak, etcd, options, clock, &signal)))?;
        Ok(Cluster { shared })
    }

    /// Lists a node, or changes what is listed of it, and starts its lease anew.
    ///
    /// Where the coordinator is not in this process, the first call for a node waits until it is
    /// listed, `answer_wait` or half a lease at most: after that it is listed as soon as it can be.
    ///
    /// # Errors
    ///
    /// `Invalid` says which field to correct; `Incompatible` names the node that it does not fit;
    /// `Full` means that `nodes_max` is reached.
    pub fn register(&self, now: Instant, info: NodeInfo) -> Result<(), Error> {
        let Some(driver) = &self.shared.driver else {
            return self.change(|state| state.registry.register(now, info));
        };
        registry::check(&info)?;
        let node = info.incarnation;
        let told = self.attached(|attached| attached.register(now, info));
        driver.wake();
        match told.and_then(|told| told.wait(driver.listing_wait)) {
            Some(Err(error)) => {
                self.attached(|attached| attached.deregister(now, node));
                Err(error)
            }
            _ => Ok(()),
        }
    }

    /// Nodes that were not admitted, by name, and why; each until it is.
    pub fn refused(&self) -> Vec<(String, String)> {
        let state = self.lock();
        let refused = match &state.attached {
            Some(attached) => attached.refused(),
            None => state.registry.refused(),
        };
        refused.iter().map(|(name, why)| (name.clone(), why.clone())).collect()
    }

    /// Prolongs the lease of a node. Due every third of the lease. Where the coordinator is not
    /// in this process, the lease is renewed there for as long as this is called.
    ///
    /// # Errors
    ///
    /// `NotListed` if the lease ran out: register again.
    pub fn renew(&self, now: Instant, node: Incarnation) -> Result<(), Error> {
        if self.shared.driver.is_some() {
            return self.attached(|attached| attached.renew(now, node));
        }
        self.change(|state| state.registry.renew(now, node))
    }

    /// Takes a node off the list; none such is fine. Where the coordinator is not in this
    /// process, waits for it a second at most: a lease that is not ended runs out.
    pub fn deregister(&self, node: Incarnation) {
        let Some(driver) = &self.shared.driver else {
            return self.change(|state| state.registry.deregister(node));
        };
        let now = driver.clock.now();
        let told = self.attached(|attached| attached.deregister(now, node));
        driver.wake();
        if let Some(told) = told.filter(|_| self.old_since().is_none()) {
            let _ = told.wait(driver.answer_wait.min(shared::LEAVE_WAIT));
        }
    }

    /// Takes a node of another process off the list that is known to be dead for good, so that nobody has to
    /// wait for the end of its lease. One that lives after all lists itself again.
    pub fn bury(&self, node: Incarnation) {
        let Some(driver) = &self.shared.driver else {
            return self.change(|state| state.registry.deregister(node));
        };
        self.attached(|attached| attached.bury(node));
        driver.wake();
    }

    /// Drops nodes whose lease ran out by `now`, where that is this process's business.
    pub fn handle_timeout(&self, now: Instant) {
        if self.shared.driver.is_none() {
            self.change(|state| state.registry.handle_timeout(now));
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) has work.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.lock().registry.poll_timeout()
    }

    /// `None` while the coordinator is there. Otherwise since when what is read here may be old;
    /// within it `None` if the coordinator was never there.
    pub fn old_since(&self) -> Option<Option<Instant>> {
        self.lock().attached.as_ref().and_then(attached::Attached::old_since)
    }

    /// Why the coordinator, which is there, does not let this process in, with what to do; `None` while it
    /// does, or is away. It is asked again for ever: a password may be set right meanwhile.
    pub fn shut_out(&self) -> Option<String> {
        self.shared.shut_out()
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
    /// Where the coordinator is not in this process, blocks for its answer, `answer_wait` at most;
    /// a key with an owner is written again, if it is free, when the owner's lease had to be begun
    /// anew.
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
        if let Some(problem) = keys::reserved(key) {
            return invalid(problem.to_owned());
        }
        if let Err(problem) = self.shared.judge(key, &value) {
            return invalid(problem);
        }
        if self.shared.driver.is_some() {
            if let Some(node) = owner.filter(|node| !self.attached(|attached| attached.has(*node)))
            {
                return Err(KeyError::NotListed(node));
            }
            let state = self.lock();
            state.keys.check_form(key, &value)?;
            state.keys.check_room(key)?;
            drop(state);
            let request = Request::Put { key: key.to_owned(), value, owner, expect };
            return self.ask(request).map(|(revision, _)| revision);
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
        if let Some(problem) = keys::reserved(key).map(str::to_owned) {
            return Err(KeyError::Invalid { key: key.to_owned(), problem });
        }
        if self.shared.driver.is_some() {
            let request = Request::Delete { key: key.to_owned(), expect };
            return self.ask(request).map(|(_, existed)| existed);
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

    /// Asks the coordinator, and waits.
    fn ask(&self, request: Request) -> Result<(u64, bool), KeyError> {
        let driver = self.shared.driver.as_ref().expect("asked for with a driver only");
        let until = driver.clock.now() + driver.answer_wait;
        let told = self.attached(|attached| attached.ask(until, request));
        driver.wake();
        // The answer comes by itself when its time is over; this waits for a driver that ends.
        match told.ok_or(KeyError::Unavailable)?.wait(driver.answer_wait * 2) {
            Some(Reply::Done { revision, existed }) => Ok((revision, existed)),
            Some(Reply::Failed(error)) => Err(error),
            Some(Reply::Leased { .. }) | None => Err(KeyError::Unknown),
        }
    }

    fn attached<R>(&self, act: impl FnOnce(&mut attached::Attached) -> R) -> R {
        act(self.lock().attached.as_mut().expect("there is a driver"))
    }

    fn change<R>(&self, change: impl FnOnce(&mut shared::State) -> R) -> R {
        self.shared.change(change)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, shared::State> {
        self.shared.lock()
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
    use std::sync::atomic::{AtomicU32, Ordering};
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
