//! Placeholder of the `web` crate.
