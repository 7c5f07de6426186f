//! Placeholder of the `tables` crate.
