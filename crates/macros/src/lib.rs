//! Placeholder of the `macros` crate.
