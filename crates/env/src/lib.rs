//! The seams to the outside world: clock, randomness, timers, counters.
//!
//! Nothing here is global: each value is made by the process that uses it, or by a test.
#![forbid(unsafe_code)]

mod clock;
mod hash;
mod random;
mod time;
mod wheel;

pub use clock::{Clock, ManualClock};
pub use hash::{FastHasher, FastMap, FastSet};
pub use random::Random;
pub use time::{Instant, WallTime};
pub use wheel::{TimerKey, Wheel};
