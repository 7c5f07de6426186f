//! Placeholder of the `bus` crate.
