//! The client SDK: [`Core`] is the protocol as a pure state machine, [`Line`] adds the framing of
//! its transport, [`Client`] is for async programs and [`Polled`] for game loops.
#![forbid(unsafe_code)]

mod address;
mod client;
mod core;
mod error;
mod event;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
mod limits;
mod line;
mod options;
mod polled;
mod stats;

pub use crate::core::{Core, Identity};
pub use address::{Address, AddressError};
pub use client::{Client, Events};
pub use error::{CallError, End, Lost, Next};
pub use event::{CallId, Event, Output, RequestId, TellId, Transport};
pub use limits::Limits;
pub use line::{Broken, Line, decode_reply, encode_args};
pub use options::Options;
pub use polled::Polled;
pub use proto::ticket::Grant;
pub use stats::Stats;
