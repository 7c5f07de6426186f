use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::options::Options;

/// How a store on a server is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerOptions {
    /// What the store takes in at once. `cache_bytes` is not used.
    pub store: Options,
    /// How long one connection may take to be made.
    pub connect_wait: Duration,
    /// How long [`Store`](crate::Store) tries to reach the server when it is opened.
    pub open_wait: Duration,
    /// How long one round trip may take before the connection is given up.
    pub reply_wait: Duration,
    /// How long a batch waits for those of other processes before it is
    /// [`Busy`](crate::Error::Busy).
    pub lock_wait: Duration,
    /// How long a process may hold the shard's lock without a sign of life, as the server sees it.
    /// Whole seconds.
    pub holder_wait: Duration,
    /// How long requests wait for a server that went away before they are
    /// [`Unavailable`](crate::Error::Unavailable).
    pub away_wait: Duration,
    /// The longest pause between two tries to connect; the first is a tenth of it.
    pub pause_max: Duration,
    /// Bytes of rows that one durable transaction reads; what needs more is divided.
    pub rows_bytes_max: usize,
    /// The password, if it is not in the address.
    pub password: Option<Password>,
    /// A file with the certificates (PEM) of authorities that the server is believed by, beside
    /// the public ones.
    pub authorities: Option<PathBuf>,
    /// Use a server that may lose what it acknowledged. It is refused otherwise.
    pub accept_loss: bool,
    /// Addresses of followers, one host each, at which what may be old is read: standbys of PostgreSQL,
    /// replicas of MariaDB, MySQL and Redis, secondaries of MongoDB.
    pub followers: Vec<String>,
    /// How often the age of followers is measured while they are read. They are never known to be younger.
    pub follower_beat: Duration,
    /// How long a follower may take to answer before the leader is asked.
    pub follower_wait: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        ServerOptions {
            store: Options { batch_ops_max: 1_024, ..Options::default() },
            connect_wait: Duration::from_secs(3),
            open_wait: Duration::from_secs(10),
            reply_wait: Duration::from_secs(10),
            lock_wait: Duration::from_secs(2),
            holder_wait: Duration::from_secs(5),
            away_wait: Duration::from_secs(5),
            pause_max: Duration::from_secs(1),
            rows_bytes_max: 64 << 20,
            password: None,
            authorities: None,
            accept_loss: false,
            followers: Vec::new(),
            follower_beat: Duration::from_millis(250),
            follower_wait: Duration::from_secs(1),
        }
    }
}

/// A password, which no log line shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(pub String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}
