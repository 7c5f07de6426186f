//! The client SDK: [`Core`] is the protocol as a pure state machine.
#![forbid(unsafe_code)]

mod core;
mod error;
mod event;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
mod limits;
mod stats;

pub use crate::core::{Core, Identity};
pub use error::{CallError, End, Lost, Next};
pub use event::{CallId, Event, Output, RequestId, Transport};
pub use limits::Limits;
pub use proto::ticket::Grant;
pub use stats::Stats;
