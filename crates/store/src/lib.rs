//! Owner rows, documents and the ledger: the core on which the data service stands.
//!
//! A [`Store`] is one shard. It decides who owns an entity, keeps its sub-documents, and moves
//! items and currency in transactions that happen once. Every write names the shard's generation,
//! the owner's epoch and incarnation, and the version it builds on; the operation that writes
//! compares them, so a stale owner is refused whatever it believes.
//!
//! ```
//! # use store::*;
//! # fn main() -> Result<(), Error> {
//! let store = Store::memory(Limits::default());
//! let me = Incarnation(7);
//! let generation = store.beat(me).wait()?.generation;
//! let ask = Activate { key: Key(1), generation, incarnation: me, reclaim: None };
//! let taken = store.activate(ask).wait()?;
//! let patch = Patch::from([("bag".to_owned(), Some(b"rope".to_vec()))]);
//! let version = store.save(Save { claim: taken.claim, version: taken.version, patch }).wait()?;
//! assert_eq!(version, 1);
//! # Ok(())
//! # }
//! ```
//!
//! The rules are written once over tables of bytes ([`Shard`] holds them in memory and is pure) and
//! run the same on every backend. What is stored is described byte by byte in
//! `docs/store-format.md`.
//!
//! Nodes keep their entities in it: `node::data` has write-behind, documents and deals.
//!
//! # What it is not yet
//! Missing is the intent to release to one node (for moves). A full disk ends an embedded store like any other failed write.
#![forbid(unsafe_code)]
#![cfg_attr(
    all(
        feature = "remote",
        not(any(
            test,
            feature = "postgres",
            feature = "mysql",
            feature = "redis",
            feature = "mongodb"
        ))
    ),
    allow(dead_code, reason = "without a backend's own feature nothing uses it")
)]

mod answer;
#[cfg(feature = "redis")]
mod cache;
pub mod dump;
mod embedded;
mod error;
mod index;
pub mod journal;
#[cfg(feature = "remote")]
#[cfg_attr(
    not(feature = "redis"),
    expect(dead_code, unused_imports, reason = "only a journal in Redis lands")
)]
mod landing;
mod ledger;
mod options;
mod proxy;
mod queue;
mod record;
#[cfg(feature = "remote")]
mod remote;
mod row;
mod rules;
mod saga;
mod shard;
mod sharded;
mod slots;
#[cfg(feature = "sqlite")]
mod sqlite;
mod store;
mod tables;
mod thread;
mod types;
mod watcher;

pub use answer::Answer;
#[cfg(feature = "redis")]
pub use cache::{Cache, CacheCounts, CacheOptions};
pub use dump::{DumpError, DumpSummary};
pub use error::{Error, OpenError, Refusal};
pub use index::{INDEX_KIND, INDEX_SHEET, IndexEntry, IndexHit, Indexed};
#[cfg(feature = "redis")]
pub use landing::{Acknowledge, LandingOptions};
pub use ledger::{
    AuditEntry, Currency, Holdings, Item, ItemId, ItemKind, LedgerOp, Message, Outgoing, Receipt,
    Supply, Transaction, TxnId, Verdict,
};
#[doc(hidden)]
pub use options::Mutant;
pub use options::{FollowerCounts, LandingReport, Limits, Options};
pub use proxy::{DataOptions, DataParts, DataService, ProxyOptions};
pub use record::{Change, Lock, LockAsk, Record, RecordId, RecordWrite, Records};
#[cfg(feature = "remote")]
pub use remote::{Password, ServerAsk, ServerOptions, ServerTold, Servers};
pub use rules::Of;
#[doc(hidden)]
pub use saga::SagaMutant;
pub use saga::{
    Amend, Amends, Offer, SagaAsk, SagaEnd, SagaError, SagaId, SagaOptions, SagaPlan, SagaPoint,
    SagaReport, SagaRun, SagaStage, SagaStep, SagaTold, SagaWant, SagaWatch, SagaWork,
};
pub use shard::Shard;
pub use sharded::{MoveCounts, MoveEnd, Side, SlotMove};
pub use slots::{
    CHUNK_KIND, Moving, SLOTS, ShardInfo, Slot, SlotAsk, SlotInfo, SlotState, SlotSums, SlotTold,
};
pub use store::Store;
pub use types::{
    Activate, Activated, Claim, Documents, Entity, Incarnation, Key, NodeBeat, Owner, Patch, Pulse,
    Save,
};
pub use watcher::{Failover, Seen, Stage, Watched, Watcher, WatcherAsk, WatcherOptions, hosts_of};
