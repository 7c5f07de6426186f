use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::{Instant, WallTime};

/// Tells the time: a monotonic one that also runs while the machine sleeps, and the wall's.
///
/// A cheap clone. Only loops read it, once per turn; pure code is handed `now`.
#[derive(Clone, Debug)]
pub struct Clock {
    source: Source,
}

#[derive(Clone, Debug)]
enum Source {
    /// `CLOCK_BOOTTIME`, where the system has it.
    #[cfg(target_os = "linux")]
    Boot,
    /// The standard library's clock, counted from the making of this value.
    Portable(std::time::Instant),
    Manual(Arc<Hands>),
}

#[derive(Debug)]
struct Hands {
    now: AtomicU64,
    /// Wall milliseconds at monotonic zero, modulo 2^64.
    wall_base: AtomicU64,
}

impl Clock {
    /// The machine's clock: `CLOCK_BOOTTIME` on Linux, [`Clock::portable`] elsewhere.
    ///
    /// On Linux all clocks of one machine agree, also across processes.
    pub fn system() -> Self {
        #[cfg(target_os = "linux")]
        return Clock { source: Source::Boot };
        #[cfg(not(target_os = "linux"))]
        Self::portable()
    }

    /// The fallback for systems without a boot clock: zero is the moment of this call.
    ///
    /// It may stand still while the machine sleeps. Clones agree; two values made apart do not.
    pub fn portable() -> Self {
        // One second above zero, so that code may subtract small spans from `now`.
        let start = std::time::Instant::now();
        let base = start.checked_sub(Duration::from_secs(1)).unwrap_or(start);
        Clock { source: Source::Portable(base) }
    }

    /// A clock that moves only by its [`ManualClock`]; `now` starts at one second.
    pub fn manual(start: WallTime) -> (Clock, ManualClock) {
        let first = Duration::from_secs(1).as_nanos() as u64;
        let hands = Arc::new(Hands {
            now: AtomicU64::new(first),
            wall_base: AtomicU64::new(start.0.wrapping_sub(first / 1_000_000)),
        });
        (Clock { source: Source::Manual(hands.clone()) }, ManualClock { hands })
    }

    /// The monotonic time. Never steps back.
    pub fn now(&self) -> Instant {
        match &self.source {
            #[cfg(target_os = "linux")]
            Source::Boot => {
                let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
                Instant::from_nanos(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
            }
            Source::Portable(base) => Instant::ZERO + base.elapsed(),
            Source::Manual(hands) => hands.now(),
        }
    }

    /// The wall's time, which the operator may set at will.
    pub fn wall(&self) -> WallTime {
        match &self.source {
            Source::Manual(hands) => hands.wall(),
            _ => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                WallTime(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
            }
        }
    }
}

impl Hands {
    fn now(&self) -> Instant {
        Instant::from_nanos(self.now.load(Ordering::SeqCst))
    }

    fn wall(&self) -> WallTime {
        WallTime(self.wall_base.load(Ordering::SeqCst).wrapping_add(self.now().as_millis()))
    }
}

/// Moves a [`Clock::manual`]. Clones move the same clock.
#[derive(Clone, Debug)]
pub struct ManualClock {
    hands: Arc<Hands>,
}

impl ManualClock {
    /// The monotonic time, as the clock tells it.
    pub fn now(&self) -> Instant {
        self.hands.now()
    }

    /// The wall's time, as the clock tells it.
    pub fn wall(&self) -> WallTime {
        self.hands.wall()
    }

    /// Lets `by` pass on both clocks.
    pub fn advance(&self, by: Duration) {
        let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        self.hands.now.fetch_add(nanos, Ordering::SeqCst);
    }

    /// Jumps to `at`; does nothing if that has passed already.
    pub fn advance_to(&self, at: Instant) {
        self.hands.now.fetch_max(at.as_nanos(), Ordering::SeqCst);
    }

    /// Sets the wall clock, forwards or back, as an operator may. `now` does not move.
    pub fn set_wall(&self, wall: WallTime) {
        let base = wall.0.wrapping_sub(self.now().as_millis());
        self.hands.wall_base.store(base, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_and_portable_clocks_run_forward() {
        for clock in [Clock::system(), Clock::portable()] {
            let first = clock.now();
            let copy = clock.clone();
            assert!(first > Instant::ZERO);
            assert!(copy.now() >= first);
            assert!(clock.wall() > WallTime(1_700_000_000_000));
        }
    }

    #[test]
    fn manual_clock_moves_only_by_hand() {
        let (clock, hand) = Clock::manual(WallTime(1_000_000));
        let start = clock.now();
        assert_eq!(clock.wall(), WallTime(1_000_000));
        hand.advance(Duration::from_millis(1_500));
        assert_eq!(clock.now() - start, Duration::from_millis(1_500));
        assert_eq!(clock.wall(), WallTime(1_001_500));
        hand.advance_to(start);
        assert_eq!(clock.now() - start, Duration::from_millis(1_500));
        hand.set_wall(WallTime(5));
        assert_eq!(clock.wall(), WallTime(5));
        assert_eq!(clock.now() - start, Duration::from_millis(1_500));
    }
}
