//! Placeholder of the `cluster` crate.
