//! The embedded coordinator itself: keys and leases for several processes. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use env::{Instant, WallTime};
use proto::Incarnation;

use crate::keys::Keys;
use crate::wire::{Reply, Request};
use crate::{Change, Expect, Key, KeyError, KeyOptions};

const LEASE_MAX: Duration = Duration::from_secs(3600);

/// Keys and leases. After each `handle_*`, [`take_changes`](Self::take_changes) gives what
/// changed, to be stored and told to all.
#[derive(Debug)]
pub(crate) struct Host {
    keys: Keys,
    leases: BTreeMap<Incarnation, Lease>,
    taken: u64,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    ttl: Duration,
    ends: Instant,
}

/// The first revision of a history that begins at `wall`: above all of one that began before and
/// had no more than a million changes in each second since.
pub(crate) fn first_revision(wall: WallTime) -> u64 {
    wall.0 << 10
}

impl Host {
    /// Goes on with what was stored. Owners have `lease` to come back.
    pub fn new(
        now: Instant,
        options: KeyOptions,
        lease: Duration,
        (revision, keys): (u64, Vec<(Arc<str>, Key)>),
    ) -> Self {
        let owners: BTreeSet<Incarnation> = keys.iter().filter_map(|(_, key)| key.owner).collect();
        let ends = now + lease;
        let leases = owners.into_iter().map(|owner| (owner, Lease { ttl: lease, ends })).collect();
        // A turn may delete every key there is; the history is forgotten after each.
        let history_max = options.keys_max.saturating_mul(2).saturating_add(1024);
        let options = KeyOptions { history_max, ..options };
        Host { keys: Keys::load(options, revision, keys), leases, taken: revision }
    }

    /// Somebody has seen `revision`: what follows gets higher numbers.
    pub fn raise(&mut self, revision: u64) {
        if revision > self.keys.revision() {
            self.keys.raise(revision + 1);
        }
    }

    /// Does what is asked for.
    pub fn handle(&mut self, now: Instant, request: Request) -> Reply {
        match request {
            Request::Lease { node, ttl } => {
                let ttl = ttl.clamp(Duration::from_millis(100), LEASE_MAX);
                let fresh = self.leases.insert(node, Lease { ttl, ends: now + ttl }).is_none();
                Reply::Leased { fresh }
            }
            Request::End { node } => {
                let existed = self.leases.remove(&node).is_some();
                self.keys.end_owner(node);
                Reply::Done { revision: self.keys.revision(), existed }
            }
            Request::Put { key, value, owner, expect } => self
                .done(|host| host.put(&key, value, owner, expect).map(|revision| (revision, true))),
            Request::Delete { key, expect } => self.done(|host| {
                let existed = host.keys.delete(&key, expect)?;
                Ok((host.keys.revision(), existed))
            }),
            Request::Contend { own, key, node } => self.done(|host| {
                let former = host.keys.range(&own).filter(|(_, key)| key.owner != Some(node));
                let former: Vec<Arc<str>> = former.map(|(key, _)| key.clone()).collect();
                for key in former {
                    host.keys.delete(&key, Expect::Any)?;
                }
                Ok((host.put(&key, [].into(), Some(node), Expect::Absent)?, true))
            }),
        }
    }

    /// Ends leases that ran out.
    pub fn handle_timeout(&mut self, now: Instant) {
        for (node, _) in self.leases.extract_if(.., |_, lease| lease.ends <= now) {
            self.keys.end_owner(node);
        }
    }

    /// Gives all leases their full time: after a pause of this process nobody could renew.
    pub fn prolong(&mut self, now: Instant) {
        self.leases.values_mut().for_each(|lease| lease.ends = now + lease.ttl);
    }

    /// When the first lease runs out.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.leases.values().map(|lease| lease.ends).min()
    }

    /// The changes since this was last asked.
    pub fn take_changes(&mut self) -> Vec<Change> {
        let changes = self.keys.changes_after(self.taken, "");
        let changes = changes.expect("a turn makes fewer changes than are kept");
        self.taken = self.keys.revision();
        self.keys.forget();
        changes
    }

    pub fn revision(&self) -> u64 {
        self.keys.revision()
    }

    /// All keys.
    pub fn all(&self) -> impl Iterator<Item = (&Arc<str>, &Key)> {
        self.keys.range("")
    }

    fn put(
        &mut self,
        key: &str,
        value: Arc<[u8]>,
        owner: Option<Incarnation>,
        expect: Expect,
    ) -> Result<u64, KeyError> {
        if let Some(node) = owner.filter(|node| !self.leases.contains_key(node)) {
            return Err(KeyError::NotListed(node));
        }
        self.keys.put(key, value, owner, expect)
    }

    fn done(&mut self, act: impl FnOnce(&mut Self) -> Result<(u64, bool), KeyError>) -> Reply {
        match act(self) {
            Ok((revision, existed)) => Reply::Done { revision, existed },
            Err(error) => Reply::Failed(error),
        }
    }
}
