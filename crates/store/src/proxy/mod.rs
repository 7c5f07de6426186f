//! The data service in processes of its own: a [`DataService`] serves stores to others over the network, and
//! `Store::proxy` is a store behind several such processes, of which any may be lost.

mod calls;
mod client;
mod link;
mod meters;
mod server;
#[cfg(test)]
mod tests;
mod wire;

use std::time::Duration;

pub(crate) use calls::{
    ActivateMany, ActivateOne, Audit, Beat, Commit, Forget, Generation, HoldingsOf, ItemOf, Load,
    LoadAged, LockRecord, Lookup, MarkDead, Node, Nodes, Outbox, OutboxAck, RaiseGeneration,
    ReadRecords, ReadRecordsAged, Release, RenewLock, Rows, SaveOne, ScanRecords, ScanRecordsAged,
    ShardNames, SupplyOf, UnlockRecord, Verify, WriteRecords,
};
pub(crate) use client::Proxy;
pub use client::ProxyOptions;
pub use server::{DataOptions, DataParts, DataService};

/// How often both sides say that they are there.
const PING: Duration = Duration::from_secs(1);
