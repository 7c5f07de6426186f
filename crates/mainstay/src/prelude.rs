//! What most modules of a game use.

pub use bus::{AnswerError, AskError, Delivery, Gone};
pub use env::{Calendar, WallTime};
pub use macros::{Document, Message, client, component, entity, rpc, service};
pub use node::data::{
    Agenda, Batch, Change, CommitError, Deal, Document, Draft, Edit, EntityHits, Grid, MapError,
    Overdue, Pledge, Query, Record, RecordError, RecordHits, Snapshot, Spot, amend, holder,
};
pub use node::{
    Answered, CallError, Caller, ClientQuestion, Component, Cx, Done, Failure, Group, Job, Locks,
    Missed, Peer, Pull, Question, Queue, Ref, Reply, RightTo, This, TimerId, Times, Work,
};
pub use proto::frame::CloseCode;
pub use proto::{AccountId, Bytes, EntityId, Message, Namespace};
pub use store::{Offer, SagaEnd, SagaError, SagaId, SagaPlan, SagaStep, SagaWork};
pub use tracing;

pub use crate::App;
