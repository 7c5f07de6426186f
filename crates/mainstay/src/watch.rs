//! The servers of stores: processes with that role watch them, one of these has others promoted, and all
//! processes that have the stores open follow (decision 0016).

mod follow;
#[cfg_attr(
    not(any(feature = "postgres", feature = "mysql", feature = "redis", feature = "mongodb")),
    expect(dead_code, reason = "only servers are watched")
)]
mod keys;
#[cfg(any(feature = "postgres", feature = "mysql", feature = "redis", feature = "mongodb"))]
mod role;
#[cfg(not(any(feature = "postgres", feature = "mysql", feature = "redis", feature = "mongodb")))]
#[path = "watch/unbuilt.rs"]
mod role;
#[cfg(any(feature = "postgres", feature = "mysql", feature = "redis", feature = "mongodb"))]
mod servers;

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

pub(crate) use follow::Follow;
pub(crate) use role::WatchRole;

/// What a process knows of the servers of each store.
#[derive(Clone, Default)]
pub(crate) struct Watched(Arc<Mutex<Vec<Value>>>);

impl Watched {
    /// For `mainstay status`.
    pub(crate) fn show(&self) -> Vec<Value> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    #[cfg(any(feature = "postgres", feature = "mysql", feature = "redis", feature = "mongodb"))]
    fn set(&self, shown: Vec<Value>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = shown;
    }
}
