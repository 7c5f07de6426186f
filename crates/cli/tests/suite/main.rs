//! The built command as its users run it: real processes, real files.

mod archive;
mod arena;
mod command;
mod data;
mod deploy;
#[cfg(target_os = "linux")]
mod disk;
mod player;
#[cfg(feature = "nats")]
mod trigger;
#[cfg(feature = "sqlite")]
mod up;
