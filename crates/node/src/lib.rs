//! Placeholder of the `node` crate.
