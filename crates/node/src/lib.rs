//! Workers, entities, components, services, sessions and groups.
#![deny(unsafe_code)]

mod asking;
mod call;
mod carry;
mod component;
mod cx;
pub mod data;
mod driver;
mod entity;
mod error;
mod feed;
mod guard;
mod host;
mod lock;
mod module;
mod node;
mod options;
mod orders;
pub mod pattern;
mod placing;
mod pull;
mod push;
pub mod route;
pub mod rt;
pub mod session;
mod step;
mod timer;
mod topics;
mod turn;
mod users;
mod worker;

pub use asking::{Answered, Answering, Asking, Question, Reply, RightTo};
pub use call::{Call, CallEnd, ClientCall, wrong_reply};
pub use component::Component;
pub use cx::{
    Blocking, Caller, Cx, GroupSlot, Link, Outside, Peer, PeerInfo, PoolFull, PushMode, Ref,
    Reporter, Sleep, This,
};
pub use driver::Stuck;
pub use entity::{
    Callers, Class, Entity, Hook, Hooks, KindInfo, Latest, MethodInfo, OnPanic, Rate, method_table,
};
pub use error::{CallError, Elapsed, Failure};
pub use feed::{ClientQuestion, Feed, FeedStub};
pub use guard::{guard, guarded};
pub use host::{
    Activation, Alone, BUCKETS_US, Batch, Beat, BlockingPool, ClientMessage, ClientOut,
    ClientRequest, Event, FrameClass, Host, HostSetup, HostStats, Inline, MethodStats, Place,
    Pulse, Router, SceneStats, ShardStats, Target,
};
pub use lock::{Acquire, Held, Locks};
pub use node::{Node, NodeApp, NodeEnv, NodeError, NodeHandle, NodeOptions, NodeStats, StopReport};
pub use options::HostOptions;
pub use orders::{USERS_TOPIC, UsersOrder};
pub use placing::{PlaceError, Placing, Reservation};
pub use pull::{Done, Job, Pull, Queue, Work, subject_of};
pub use push::*;
pub use step::{Step, Turn};
pub use timer::{Missed, Schedule, TimerId, Times};
pub use topics::NodeBus;
pub use users::{Chosen, Outcome, UserLane, Users};
pub use worker::{DataParts, MoveStats, PublishStats, Report, Worker, WorkerParts, WorkerStats};
