use env::Instant;

use crate::Rate;

/// A token bucket in one word: the generic cell rate algorithm (ITU-T I.371).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bucket {
    /// When the bucket will be full again, in nanoseconds of the monotonic clock.
    full_at: u64,
}

/// A [`Rate`] with the divisions done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Price {
    /// Nanoseconds in which one unit comes back, times 2^16. 0 means no limit.
    unit: u64,
    /// Nanoseconds in which a whole burst comes back.
    burst: u64,
}

const SECOND: u64 = 1_000_000_000;

impl Price {
    pub(crate) fn new(rate: Rate) -> Self {
        if rate == Rate::UNLIMITED {
            return Price { unit: 0, burst: u64::MAX };
        }
        // A rate of zero comes back within a century, which no process sees.
        let unit = (SECOND << 16) / u64::from(rate.per_second).max(1);
        let unit = if rate.per_second == 0 { unit.saturating_mul(1 << 16) } else { unit };
        let burst = (u128::from(unit) * u128::from(rate.burst)) >> 16;
        Price { unit, burst: u64::try_from(burst).unwrap_or(u64::MAX) }
    }

    #[inline]
    fn cost(self, units: u64) -> u64 {
        u64::try_from((u128::from(self.unit) * u128::from(units)) >> 16).unwrap_or(u64::MAX)
    }
}

impl Bucket {
    /// One from which nothing was taken yet.
    pub(crate) const fn full() -> Self {
        Bucket { full_at: 0 }
    }

    /// Takes `units` if the bucket holds them.
    pub(crate) fn take(&mut self, now: Instant, price: Price, units: u64) -> bool {
        let now = now.as_nanos();
        let after = self.full_at.max(now).saturating_add(price.cost(units));
        if after - now > price.burst {
            return false;
        }
        self.full_at = after;
        true
    }

    /// Takes `units` whatever the bucket holds and tells how many bursts it is overdrawn; 0 if it
    /// is not. More than eight bursts are not held against anyone.
    #[inline]
    pub(crate) fn draw(&mut self, now: Instant, price: Price, units: u64) -> u64 {
        if price.unit == 0 {
            return 0;
        }
        let now = now.as_nanos();
        let worst = now.saturating_add(price.burst.saturating_mul(8));
        self.full_at = self.full_at.max(now).saturating_add(price.cost(units)).min(worst);
        if self.full_at - now <= price.burst { 0 } else { self.debt(now, price) }
    }

    /// How many bursts, rounded up, the bucket is overdrawn.
    fn debt(&self, now: u64, price: Price) -> u64 {
        self.full_at.saturating_sub(now).div_ceil(price.burst.max(1)).saturating_sub(1)
    }

    /// In how many nanoseconds the bucket will be full again.
    pub(crate) fn missing(&self, now: Instant) -> u64 {
        self.full_at.saturating_sub(now.as_nanos())
    }

    /// One that will be full again after so many nanoseconds.
    pub(crate) fn with_missing(now: Instant, nanos: u64) -> Self {
        Bucket { full_at: now.as_nanos().saturating_add(nanos) }
    }

    /// Whether nothing is missing, so that it need not be remembered.
    pub(crate) fn is_full(&self, now: Instant) -> bool {
        self.full_at <= now.as_nanos()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn burst_then_rate() {
        let price = Price::new(Rate::new(10, 5));
        let mut bucket = Bucket::full();
        let start = Instant::from_nanos(SECOND);
        let taken =
            |bucket: &mut Bucket, now| (0..100).filter(|_| bucket.take(now, price, 1)).count();
        assert_eq!(taken(&mut bucket, start), 5);
        assert_eq!(taken(&mut bucket, start + Duration::from_millis(100)), 1);
        assert_eq!(taken(&mut bucket, start + Duration::from_secs(60)), 5);
        assert!(!bucket.is_full(start + Duration::from_secs(60)));
        assert!(bucket.is_full(start + Duration::from_secs(61)));
    }

    #[test]
    fn debt_is_told_in_bursts() {
        let price = Price::new(Rate::new(10, 5));
        let mut bucket = Bucket::full();
        let now = Instant::from_nanos(SECOND);
        let debts: Vec<u64> = (0..16).map(|_| bucket.draw(now, price, 1)).collect();
        assert_eq!(debts, [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3]);
        let unlimited = Price::new(Rate::UNLIMITED);
        assert!((0..1000).all(|_| bucket.take(now, unlimited, u64::MAX / 2000)));
    }

    #[test]
    fn rate_of_zero_allows_its_burst_only() {
        let price = Price::new(Rate::new(0, 2));
        let mut bucket = Bucket::full();
        let now = Instant::from_nanos(SECOND);
        assert!(bucket.take(now, price, 1));
        assert!(bucket.take(now, price, 1));
        assert!(!bucket.take(now + Duration::from_secs(3600), price, 1));
    }
}
