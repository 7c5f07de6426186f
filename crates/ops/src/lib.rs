//! Placeholder of the `ops` crate.
