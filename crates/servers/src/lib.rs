//! Private instances of real servers, for tests and measurements only.
//!
//! Each handle starts a server on a free loopback port with a data folder of its own, waits until it answers its
//! protocol, and ends it when dropped. A watchdog process ends it as well when the process that started it is gone,
//! however that came about. Nothing is shared with servers that the machine may run otherwise.
//!
//! Servers run as configured for production where it matters for what is promised: every acknowledged write is
//! synced. Caches are small.
//!
//! Beside servers there are disks that fail, for what writes files: [`failing_sync`] and [`small_disk`].
//!
//! A test begins with:
//!
//! ```
//! # fn test() {
//! if servers::skipped() {
//!     return;
//! }
//! # }
//! ```

mod disk;
mod error;
mod etcd;
mod instance;
mod mariadb;
mod mongo;
mod nats;
mod port;
mod postgres;
mod probe;
mod process;
mod program;
mod rabbitmq;
mod redis;

pub use disk::{SYNC_FAILS, failing_sync, small_disk};
pub use error::Error;
pub use etcd::Etcd;
pub use instance::Instance;
pub use mariadb::Mariadb;
pub use mongo::Mongo;
pub use nats::Nats;
pub use postgres::Postgres;
pub use program::{MONGO_PACKAGE, Missing, cache, missing, python};
pub use rabbitmq::Rabbitmq;
pub use redis::{Redis, Sentinel};

/// Set to `1`, tests that need servers return at once and say so.
pub const SKIP: &str = "MAINSTAY_SKIP_SERVERS";

/// Whether tests that need servers were switched off by [`SKIP`]; prints a line if so.
pub fn skipped() -> bool {
    let skip = std::env::var(SKIP).is_ok_and(|value| value == "1");
    if skip {
        println!("skipped by {SKIP}");
    }
    skip
}
