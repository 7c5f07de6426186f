//! The built command as its users run it: real processes, real files.

mod arena;
mod command;
mod data;
mod player;
#[cfg(feature = "nats")]
mod trigger;
#[cfg(feature = "sqlite")]
mod up;
