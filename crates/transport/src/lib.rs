//! Placeholder of the `transport` crate.
