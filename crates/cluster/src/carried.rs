//! The embedded coordinator and those attached to it, where somebody else carries what they say: for
//! simulations. Pure but for the clock of [`Cluster`](crate::Cluster), which only the waits look at.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use env::{Clock, Instant, WallTime};
use proto::Incarnation;

use crate::host::{Host, first_revision};
use crate::shared::{Driver, Shared};
use crate::wire::{Ask, Request, Tell};
use crate::{Change, Directory, Error, Key, NodeInfo, Options};

/// A coordinator. After each `handle_*`, take what it says by [`poll_tell`](Self::poll_tell).
#[derive(Debug)]
pub struct Center {
    options: Options,
    host: Host,
    /// Those attached, by whatever number their line has.
    attached: BTreeSet<u64>,
    said: VecDeque<(u64, Vec<u8>)>,
    /// What is on its disk.
    stored: Stored,
}

/// The keys of a coordinator, as they lie on its disk.
#[derive(Clone, Debug, Default)]
pub struct Stored {
    revision: u64,
    keys: BTreeMap<Arc<str>, Key>,
}

impl Center {
    /// Begins with what `stored` holds; without it, with nothing.
    pub fn new(now: Instant, wall: WallTime, options: &Options, stored: Option<Stored>) -> Self {
        let first = Stored { revision: first_revision(wall), keys: BTreeMap::new() };
        let stored = stored.unwrap_or(first);
        let keys = stored.keys.iter().map(|(name, key)| (name.clone(), key.clone())).collect();
        let read = (stored.revision, keys);
        let host = Host::new(now, options.keys.clone(), options.lease, read);
        let (attached, said) = (BTreeSet::new(), VecDeque::new());
        Center { options: options.clone(), host, attached, said, stored }
    }

    /// What another one would begin with.
    pub fn stored(&self) -> Stored {
        self.stored.clone()
    }

    /// Takes a message that came over a line.
    pub fn handle(&mut self, now: Instant, line: u64, message: &[u8]) {
        let Ok(ask) = Ask::decode(message) else { return };
        match ask {
            Ask::Hello { seen, .. } => {
                self.host.raise(seen);
                self.publish();
                self.attached.insert(line);
                let all = self.host.all().map(|(name, key)| (name.clone(), key.clone()));
                let part = Tell::Part(all.collect()).encode();
                self.said.push_back((line, part));
                self.said.push_back((line, Tell::All(self.host.revision()).encode()));
            }
            Ask::Request { id, request } if self.attached.contains(&line) => {
                let reply = self.host.handle(now, request);
                self.publish();
                self.said.push_back((line, Tell::Reply { id, reply }.encode()));
            }
            Ask::Request { .. } => {}
        }
    }

    /// A line is gone.
    pub fn handle_gone(&mut self, line: u64) {
        self.attached.remove(&line);
    }

    /// Ends leases that ran out.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.host.handle_timeout(now);
        self.publish();
    }

    /// A sign of life for all who are attached.
    pub fn say_alive(&mut self) {
        let alive = Tell::Alive.encode();
        self.said.extend(self.attached.iter().map(|line| (*line, alive.clone())));
    }

    /// It stood still: nobody could renew.
    pub fn prolong(&mut self, now: Instant) {
        self.host.prolong(now);
    }

    /// Loses the lease of a node, though it was renewed.
    pub fn lose_lease(&mut self, now: Instant, node: Incarnation) {
        let _ = self.host.handle(now, Request::End { node });
        self.publish();
    }

    /// When [`handle_timeout`](Self::handle_timeout) has work.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.host.poll_timeout()
    }

    /// What it says next, and over which line.
    pub fn poll_tell(&mut self) -> Option<(u64, Vec<u8>)> {
        self.said.pop_front()
    }

    /// The options that it was made with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Stores what changed, then tells all.
    fn publish(&mut self) {
        let changes = self.host.take_changes();
        self.stored.revision = self.host.revision();
        if changes.is_empty() {
            return;
        }
        for Change { key, now, .. } in &changes {
            match now {
                Some(now) => drop(self.stored.keys.insert(key.clone(), now.clone())),
                None => drop(self.stored.keys.remove(key)),
            }
        }
        let tell = Tell::Changes(changes).encode();
        self.said.extend(self.attached.iter().map(|line| (*line, tell.clone())));
    }
}

/// A process's end of the line to a [`Center`]: what [`Cluster`](crate::Cluster) is elsewhere.
pub struct Attached {
    shared: Shared,
    parts: Vec<(Arc<str>, Key)>,
}

impl Attached {
    /// One that is not connected yet.
    pub fn new(options: &Options, clock: &Clock) -> Self {
        let driver = Driver {
            clock: clock.clone(),
            answer_wait: options.answer_wait,
            listing_wait: options.answer_wait.min(options.lease / 2),
            wake: Box::new(|| {}),
            stop: Box::new(|| {}),
        };
        Attached { shared: Shared::new(options.clone(), Some(driver)), parts: Vec::new() }
    }

    /// The first message on a new line.
    pub fn hello(&mut self) -> Vec<u8> {
        self.parts.clear();
        Ask::Hello { token: String::new(), seen: self.shared.keys_seen() }.encode()
    }

    /// Takes a message of the coordinator.
    pub fn handle(&mut self, now: Instant, message: &[u8]) {
        match Tell::decode(message) {
            Ok(Tell::Part(part)) => self.parts.extend(part),
            Ok(Tell::All(revision)) => {
                self.shared.handle_all(now, revision, std::mem::take(&mut self.parts));
            }
            Ok(Tell::Changes(changes)) => self.shared.handle_changes(now, changes),
            Ok(Tell::Reply { id, reply }) => self.shared.handle_reply(now, id, reply),
            Ok(Tell::Alive) | Err(_) => {}
        }
    }

    /// The line broke.
    pub fn handle_disconnected(&mut self, now: Instant) {
        self.shared.handle_disconnected(now);
    }

    /// Renews, and gives up what waited too long.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.shared.handle_timeout(now);
    }

    /// When [`handle_timeout`](Self::handle_timeout) has work.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.shared.poll_timeout()
    }

    /// The next message for the coordinator.
    pub fn poll_message(&mut self) -> Option<Vec<u8>> {
        let (id, request) = self.shared.poll_request()?;
        Some(Ask::Request { id, request }.encode())
    }

    /// As [`Cluster::register`](crate::Cluster::register), without waiting.
    pub fn register(&self, now: Instant, info: NodeInfo) {
        let mut state = self.shared.lock();
        let attached = state.attached.as_mut().expect("there is a driver");
        drop(attached.register(now, info));
    }

    /// See [`Cluster::renew`](crate::Cluster::renew).
    ///
    /// # Errors
    ///
    /// `NotListed` if the lease ran out: register again.
    pub fn renew(&self, now: Instant, node: Incarnation) -> Result<(), Error> {
        let mut state = self.shared.lock();
        state.attached.as_mut().expect("there is a driver").renew(now, node)
    }

    /// As [`Cluster::deregister`](crate::Cluster::deregister), without waiting.
    pub fn deregister(&self, now: Instant, node: Incarnation) {
        let mut state = self.shared.lock();
        drop(state.attached.as_mut().expect("there is a driver").deregister(now, node));
    }

    /// The nodes listed now.
    pub fn directory(&self) -> Arc<Directory> {
        self.shared.lock().registry.directory()
    }
}

impl std::fmt::Debug for Attached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attached").field("directory", &self.directory()).finish_non_exhaustive()
    }
}
