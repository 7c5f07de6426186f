use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A number that only grows. A cheap clone; all clones count together.
#[derive(Clone, Debug, Default)]
pub struct Counter {
    value: Arc<AtomicU64>,
}

impl Counter {
    /// A counter of no registry, that nobody sees.
    pub fn detached() -> Self {
        Self::default()
    }

    /// Counts one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Counts `n`.
    pub fn add(&self, n: u64) {
        self.value.fetch_add(n, Ordering::Relaxed);
    }

    /// How many were counted.
    pub fn value(&self) -> u64 {
        self.value.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down. A cheap clone; all clones show the same.
#[derive(Clone, Debug, Default)]
pub struct Gauge {
    bits: Arc<AtomicU64>,
}

impl Gauge {
    /// A gauge of no registry, that nobody sees.
    pub fn detached() -> Self {
        Self::default()
    }

    /// Shows `value`.
    pub fn set(&self, value: f64) {
        self.bits.store(value.to_bits(), Ordering::Relaxed);
    }

    /// Shows `n` more.
    pub fn add(&self, n: f64) {
        add_f64(&self.bits, n);
    }

    /// Shows one more.
    pub fn inc(&self) {
        self.add(1.0);
    }

    /// Shows one less.
    pub fn dec(&self) {
        self.add(-1.0);
    }

    /// What is shown.
    pub fn value(&self) -> f64 {
        f64::from_bits(self.bits.load(Ordering::Relaxed))
    }
}

/// Counts observations by size. A cheap clone; all clones count together.
#[derive(Clone, Debug)]
pub struct Histogram {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    bounds: Box<[f64]>,
    /// One more than `bounds`: the last is for what exceeds them all.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Histogram {
    /// A histogram of no registry, that nobody sees. `bounds` are the buckets' inclusive upper
    /// ends.
    ///
    /// # Panics
    /// If `bounds` is empty or not strictly rising and finite.
    pub fn detached(bounds: &[f64]) -> Self {
        assert!(!bounds.is_empty(), "a histogram has a bucket");
        assert!(bounds.iter().all(|bound| bound.is_finite()), "bounds are finite");
        assert!(bounds.windows(2).all(|pair| pair[0] < pair[1]), "bounds rise");
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        let inner = Inner { bounds: bounds.into(), counts, sum: AtomicU64::new(0) };
        Histogram { inner: Arc::new(inner) }
    }

    /// Counts one observation of `value`. Not-a-number is ignored.
    pub fn observe(&self, value: f64) {
        if value.is_nan() {
            return;
        }
        let bucket = self.inner.bounds.partition_point(|bound| *bound < value);
        self.inner.counts[bucket].fetch_add(1, Ordering::Relaxed);
        add_f64(&self.inner.sum, value);
    }

    /// Counts one observation of a span, in seconds.
    pub fn observe_duration(&self, span: Duration) {
        self.observe(span.as_secs_f64());
    }

    /// How many were observed.
    pub fn count(&self) -> u64 {
        self.inner.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// The sum of all that was observed.
    pub fn sum(&self) -> f64 {
        f64::from_bits(self.inner.sum.load(Ordering::Relaxed))
    }

    /// The value that a share of `q` (0 to 1) of the observations do not exceed, interpolated
    /// within its bucket; the highest bound for what exceeds them all. `None` without any.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let counts: Vec<u64> = self.counts();
        let total: u64 = counts.iter().sum();
        if total == 0 {
            return None;
        }
        let rank = q.clamp(0.0, 1.0) * total as f64;
        let mut below = 0u64;
        for (bucket, count) in counts.iter().enumerate() {
            let upto = below + count;
            if *count > 0 && upto as f64 >= rank {
                let Some(&upper) = self.inner.bounds.get(bucket) else { break };
                let lower = if bucket == 0 { 0.0 } else { self.inner.bounds[bucket - 1] };
                let share = (rank - below as f64).max(0.0) / *count as f64;
                return Some(lower.min(upper) + (upper - lower.min(upper)) * share);
            }
            below = upto;
        }
        self.inner.bounds.last().copied()
    }

    pub(super) fn bounds(&self) -> &[f64] {
        &self.inner.bounds
    }

    pub(super) fn counts(&self) -> Vec<u64> {
        self.inner.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }
}

fn add_f64(bits: &AtomicU64, n: f64) {
    let mut seen = bits.load(Ordering::Relaxed);
    loop {
        let sum = (f64::from_bits(seen) + n).to_bits();
        match bits.compare_exchange_weak(seen, sum, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return,
            Err(now) => seen = now,
        }
    }
}
