//! Counters, gauges and histograms, rendered as OpenMetrics text.

mod handles;
mod registry;

pub use handles::{Counter, Gauge, Histogram};
pub use registry::{CONTENT_TYPE, Registry, Sample};

/// Bucket bounds in seconds for things that take from 10 µs to 10 s.
pub const SECONDS: &[f64] = &[
    0.000_01, 0.000_1, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0,
];

/// Bucket bounds in bytes, from 64 B to 1 MiB.
pub const BYTES: &[f64] =
    &[64.0, 256.0, 1_024.0, 4_096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0];
