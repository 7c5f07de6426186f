//! Placeholder of the `scene` crate.
