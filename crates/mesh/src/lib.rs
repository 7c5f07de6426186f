//! Placeholder of the `mesh` crate.
