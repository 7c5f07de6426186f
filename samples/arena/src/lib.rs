//! The arena sample.
