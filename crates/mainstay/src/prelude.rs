//! What most modules of a game use.

pub use bus::Delivery;
pub use env::{Calendar, WallTime};
pub use macros::{Document, Message, client, component, entity, rpc, service};
pub use node::data::{
    Agenda, Batch, CommitError, Deal, Document, Draft, Overdue, Pledge, Record, RecordError,
    Snapshot, holder,
};
pub use node::{
    CallError, Caller, Component, Cx, Done, Failure, Group, Job, Locks, Missed, Peer, Pull, Queue,
    Ref, This, TimerId, Times, Work,
};
pub use proto::frame::CloseCode;
pub use proto::{AccountId, Bytes, EntityId, Message};
pub use tracing;

pub use crate::App;
