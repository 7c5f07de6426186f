//! What every backend of the store must do, and what the embedded one must survive.
#![forbid(unsafe_code)]

mod conformance;
mod crash;
#[cfg(any(feature = "postgres", feature = "mysql"))]
mod database;
mod dump;
mod faults;
mod folder;
mod model;
mod records;
#[cfg(any(feature = "postgres", feature = "mysql"))]
mod remote;
#[cfg(feature = "sqlite")]
mod shared;
