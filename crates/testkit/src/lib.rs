//! Placeholder of the `testkit` crate.
