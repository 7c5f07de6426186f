//! The seams to the outside world: clock, randomness, disk, spawning, counters.
#![forbid(unsafe_code)]

mod time;

pub use time::{Instant, WallTime};
