use std::time::Duration;

/// Counts durations in buckets that are 6 % wide at most, from 1 µs to over an hour.
#[derive(Clone, Debug)]
pub struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    max: Duration,
}

/// Buckets per doubling.
const PARTS: u64 = 16;
const BUCKETS: usize = 34 * PARTS as usize;

impl Default for Histogram {
    fn default() -> Self {
        Histogram { buckets: vec![0; BUCKETS], count: 0, max: Duration::ZERO }
    }
}

impl Histogram {
    /// Counts one duration.
    pub fn record(&mut self, span: Duration) {
        let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX).max(1);
        self.buckets[bucket(micros).min(BUCKETS - 1)] += 1;
        self.count += 1;
        self.max = self.max.max(span);
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The longest.
    pub fn max(&self) -> Duration {
        self.max
    }

    /// The duration that `per_mille` of 1,000 do not exceed, up to the width of a bucket; zero if
    /// nothing was counted.
    pub fn percentile(&self, per_mille: u64) -> Duration {
        let wanted = (self.count * per_mille).div_ceil(1000);
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if *count > 0 && seen >= wanted {
                return Duration::from_micros(upper(index)).min(self.max);
            }
        }
        Duration::ZERO
    }
}

/// Small numbers have a bucket each; above, each doubling has `PARTS`.
fn bucket(micros: u64) -> usize {
    if micros < PARTS {
        return micros as usize;
    }
    let power = u64::from(micros.ilog2());
    let shift = power - u64::from(PARTS.ilog2());
    ((shift + 1) * PARTS + ((micros >> shift) - PARTS)) as usize
}

/// The longest duration of a bucket, in microseconds.
fn upper(index: usize) -> u64 {
    let index = index as u64;
    if index < PARTS {
        return index;
    }
    let shift = index / PARTS - 1;
    ((index % PARTS + PARTS + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_as_exact_as_promised() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.percentile(990), Duration::ZERO);
        for micros in 1..=100_000u64 {
            histogram.record(Duration::from_micros(micros));
            assert!(upper(bucket(micros)) >= micros);
            assert!(upper(bucket(micros)) as f64 <= micros as f64 * 1.0625, "{micros}");
        }
        let p50 = histogram.percentile(500).as_micros();
        assert!((50_000..53_200).contains(&p50), "{p50}");
        assert_eq!(histogram.percentile(1000), Duration::from_micros(100_000));
        histogram.record(Duration::from_secs(1 << 40));
        assert_eq!(histogram.max(), Duration::from_secs(1 << 40));
    }
}
