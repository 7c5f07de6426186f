//! Placeholder of the `gate` crate.
