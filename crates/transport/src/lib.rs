//! Sockets for one thread, in-process pipes that look like them, timers that keep their time,
//! and WebSocket framing.
//!
//! One worker owns one [`Sockets`]. It never blocks but in [`Sockets::poll`], holds no buffer
//! for a connection, and is the only place beside `env` that talks to the operating system.
#![forbid(unsafe_code)]

mod board;
mod listeners;
pub mod memory;
#[cfg(unix)]
pub mod pass;
mod sniff;
mod sockets;
mod table;
#[cfg(test)]
mod tests;
mod timer;
mod waker;
pub mod ws;

pub use board::{Board, Doorbell};
pub use listeners::Listeners;
pub use sniff::{SNIFF_BYTES_MAX, Sniff, sniff};
pub use sockets::{Counters, Event, ListenOptions, ListenerId, Options, Read, Sockets, Write};
pub use table::Token;
pub use waker::Waker;
