//! Placeholder of the `bots` crate.
