//! What every backend of the store must do, and what the embedded one must survive.
#![forbid(unsafe_code)]

#[cfg(feature = "remote")]
mod bank;
#[cfg(feature = "redis")]
mod cache;
mod conformance;
mod crash;
mod cuts;
#[cfg(feature = "remote")]
mod database;
mod disk;
mod dump;
#[cfg(any(feature = "postgres", feature = "mysql"))]
mod failover;
mod faults;
mod folder;
#[cfg(any(feature = "postgres", feature = "mysql"))]
mod followers;
mod indexes;
#[cfg(feature = "redis")]
mod journal;
mod killed;
mod model;
#[cfg(feature = "mongodb")]
mod mongodb;
mod proxy;
mod records;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "remote")]
mod remote;
#[cfg(feature = "sqlite")]
mod shared;
mod slots;
