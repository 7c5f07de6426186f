//! What a keeper tells of itself.

use std::time::Duration;

use proto::EntityId;

/// What went wrong with stored state. It stays so until somebody acts, or mends itself.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trouble {
    /// An entity's documents cannot be read by this release, or are damaged: it does not start.
    Unreadable {
        /// Which.
        id: EntityId,
        /// Why.
        problem: String,
    },
    /// A sub-document is outside its limits: it is not written, the entity's others are.
    Invalid {
        /// Whose.
        id: EntityId,
        /// Which, and why.
        problem: String,
    },
    /// The store refuses an entity's documents: they are set aside and tried again slowly.
    Poisoned {
        /// Which.
        id: EntityId,
        /// What the store says.
        problem: String,
    },
    /// Another node has the entity: what was not saved of it is gone.
    Lost(EntityId),
    /// This node was declared dead: all its entities are dropped, and it takes no more.
    Dead,
    /// The store failed over: all entities are dropped and taken again.
    FailedOver,
    /// The store has stopped for good; only a new start tells what is in it.
    StoreStopped(String),
    /// Entities with documents stand still, or go on again.
    Parked(bool),
}

/// What a keeper holds and has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Entities that are owned.
    pub owned: usize,
    /// Entities that are asked for.
    pub loading: usize,
    /// Entities that changed and are not saved.
    pub dirty: usize,
    /// Bytes of their documents.
    pub dirty_bytes: usize,
    /// For how long the oldest change waits to be saved.
    pub lag: Duration,
    /// Documents that the store refuses.
    pub poisoned: usize,
    /// Transactions under way.
    pub commits_open: usize,
    /// Whether entities with documents stand still.
    pub parked: bool,
    /// Entities taken.
    pub activated: u64,
    /// Entities that could not be taken.
    pub refused: u64,
    /// Times that an entity changed.
    pub touched: u64,
    /// Writes done.
    pub saved: u64,
    /// Bytes written.
    pub saved_bytes: u64,
    /// Writes that failed and were tried again.
    pub save_errors: u64,
    /// Entities given back.
    pub released: u64,
    /// Entities lost to another owner.
    pub lost: u64,
    /// Transactions done.
    pub committed: u64,
    /// Transactions that were not done.
    pub commit_errors: u64,
    /// Transactions whose outcome had to be looked up.
    pub looked_up: u64,
}

impl Stats {
    /// Those of two stores together.
    pub(crate) fn and(self, other: Stats) -> Stats {
        Stats {
            owned: self.owned + other.owned,
            loading: self.loading + other.loading,
            dirty: self.dirty + other.dirty,
            dirty_bytes: self.dirty_bytes + other.dirty_bytes,
            lag: self.lag.max(other.lag),
            poisoned: self.poisoned + other.poisoned,
            commits_open: self.commits_open + other.commits_open,
            parked: self.parked || other.parked,
            activated: self.activated + other.activated,
            refused: self.refused + other.refused,
            touched: self.touched + other.touched,
            saved: self.saved + other.saved,
            saved_bytes: self.saved_bytes + other.saved_bytes,
            save_errors: self.save_errors + other.save_errors,
            released: self.released + other.released,
            lost: self.lost + other.lost,
            committed: self.committed + other.committed,
            commit_errors: self.commit_errors + other.commit_errors,
            looked_up: self.looked_up + other.looked_up,
        }
    }
}
