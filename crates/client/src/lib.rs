//! Placeholder of the `client` crate.
