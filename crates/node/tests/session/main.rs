//! Sessions, streams and groups together with gates and clients that follow `docs/protocol.md`,
//! on a network that delivers in any order the links allow and breaks at any point.

mod harness;
mod homes;
mod merge;
mod model;
mod rebuilt;
mod regressions;
mod shifts;
mod streams;
mod users;
