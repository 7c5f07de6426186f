//! What every backend of the store must do, and what the embedded one must survive.
#![forbid(unsafe_code)]

mod conformance;
mod crash;
mod dump;
mod faults;
mod folder;
mod model;
mod records;
#[cfg(feature = "sqlite")]
mod shared;
