//! The gate: where clients come in, and are kept apart from everything behind.
//!
//! A gate admits clients by ticket, forwards frames between their streams and the workers that
//! own them without looking inside, copies casts to groups, and holds every limit of the edge.
//! It keeps no state of a session that a resume at another gate would miss.
#![forbid(unsafe_code)]

mod bucket;
mod conn;
mod driver;
mod gate;
mod groups;
mod guard;
mod homes;
mod login;
mod operate;
mod options;
mod output;
mod policy;
mod shift;
mod stats;
mod table;
#[cfg(test)]
mod tests;
mod timers;
mod traffic;

pub use conn::ConnectionInfo;
pub use driver::{Failed, HttpSink, Observer, PolicyMaker, Server, Setup, StartError};
#[cfg(unix)]
pub use driver::{GivenAway, Taker};
pub use gate::{Closing, Gate, Parts, Refused};
pub use guard::{Banned, Network};
#[doc(hidden)]
pub use options::Mutant;
pub use options::{Options, OverRate, Rate};
pub use policy::{EdgeFrame, Policy, Verdict, method_level, method_rate};
pub use stats::{Rule, Stats};
