//! Placeholder of the `mainstay` crate.
