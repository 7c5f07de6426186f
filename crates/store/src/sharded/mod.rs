//! One store over several shards: each request goes to the shard that has its slot.
//!
//! The shards themselves know what they have; the map here is what this process believes. Where it is
//! old, the shard that is asked says where the slot went, and the request is sent there.

mod all;
mod map;
mod mover;
mod moves;
mod open;
mod route;

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::answer::Answer;
use crate::error::{Error, OpenError};
use crate::ledger::{LedgerOp, Transaction};
use crate::slots::{ShardInfo, Slot, SlotAsk, SlotTold};
use crate::store::Store;
use crate::types::Key;
use map::Map;
pub use mover::{MoveCounts, MoveEnd, Side, SlotMove};

/// A set of shards behind one handle.
pub(crate) struct Sharded {
    members: Vec<(String, Store)>,
    map: Mutex<Map>,
    later: route::Later,
    redirects: AtomicU64,
}

impl fmt::Debug for Sharded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.members.iter().map(|(name, _)| name)).finish()
    }
}

impl Sharded {
    pub fn open(members: Vec<(String, Store)>) -> Result<Arc<Self>, OpenError> {
        open::open(members).map(Arc::new)
    }

    fn new(members: Vec<(String, Store)>, map: Map) -> Self {
        let redirects = AtomicU64::new(0);
        Sharded { members, map: Mutex::new(map), later: route::Later::default(), redirects }
    }

    fn map(&self) -> MutexGuard<'_, Map> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The shards with their names.
    pub fn members(&self) -> &[(String, Store)] {
        &self.members
    }

    /// How often a shard said that a slot is elsewhere.
    pub fn redirects(&self) -> u64 {
        self.redirects.load(std::sync::atomic::Ordering::Relaxed)
    }

    #[cfg(test)]
    pub fn shard_of_slot(&self, slot: Slot) -> usize {
        self.map().place(slot).shard
    }

    /// The shard that is believed to have a key.
    pub fn shard_of(&self, key: Key) -> usize {
        self.map().place(Slot::of(key)).shard
    }
}

fn describe(store: &Store) -> Answer<ShardInfo> {
    let (sender, answer) = crate::answer::channel();
    store.slots(SlotAsk::Describe).on_ready(move |told| {
        sender.send(match told {
            Ok(SlotTold::Shard(info)) => Ok(*info),
            Ok(_) => Err(Error::Malformed("another answer than that was asked for")),
            Err(error) => Err(error),
        });
    });
    answer
}

impl Transaction {
    /// The slots that it concerns, at least one.
    pub(crate) fn slots(&self) -> Vec<Slot> {
        let keys = self.writes.iter().map(|write| write.claim.key);
        let keys = keys.chain(self.claims.iter().map(|claim| claim.key));
        let keys = keys.chain(self.ledgers.keys().copied());
        let keys = keys.chain(self.ops.iter().flat_map(LedgerOp::holders));
        let records = self.records.iter().map(|record| Slot::of_record(&record.id));
        let mut slots: Vec<Slot> = keys.map(Slot::of).chain(records).collect();
        slots.sort_unstable();
        slots.dedup();
        if slots.is_empty() {
            slots.push(self.slot.unwrap_or_else(|| Slot::of_txn(self.id)));
        }
        slots
    }

    /// Whether all that it does is to use up its id.
    fn is_nothing(&self) -> bool {
        self.writes.is_empty()
            && self.claims.is_empty()
            && self.ledgers.is_empty()
            && self.ops.is_empty()
            && self.records.is_empty()
            && self.messages.is_empty()
            && self.slot.is_none()
    }
}

impl LedgerOp {
    /// Whose ledger it changes.
    pub fn holders(&self) -> impl Iterator<Item = Key> + use<> {
        let (one, other) = match self {
            LedgerOp::Make { holder, .. }
            | LedgerOp::Change { holder, .. }
            | LedgerOp::Destroy { holder, .. }
            | LedgerOp::Mint { holder, .. }
            | LedgerOp::Burn { holder, .. }
            | LedgerOp::SendItem { holder, .. }
            | LedgerOp::ReceiveItem { holder, .. }
            | LedgerOp::Send { holder, .. }
            | LedgerOp::Receive { holder, .. } => (*holder, None),
            LedgerOp::Move { from, to, .. } | LedgerOp::Pay { from, to, .. } => (*from, Some(*to)),
        };
        std::iter::once(one).chain(other)
    }
}
