//! The seams to the outside world: clock, randomness, timers, ids, counters.
//!
//! Nothing here is global: each value is made by the process that uses it, or by a test.
#![forbid(unsafe_code)]

mod calendar;
mod clock;
mod hash;
mod ids;
pub mod metrics;
mod random;
mod time;
pub mod usage;
mod wheel;

pub use calendar::{Calendar, CalendarError};
pub use clock::{Clock, ManualClock};
pub use hash::{FastHasher, FastMap, FastSet};
pub use ids::IdMaker;
pub use random::Random;
pub use time::{Instant, WallTime};
pub use wheel::{TimerKey, Wheel};
