//! Operations: logs, metrics, signals, and the console.
#![forbid(unsafe_code)]

mod console;
pub mod log;
mod signal;

pub use console::{ConsoleOptions, State, routes};
pub use signal::{Signal, Signals, tell_process};
