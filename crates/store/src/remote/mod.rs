//! A shard on a database server that several processes share: what PostgreSQL, MariaDB and others
//! have in common.
//!
//! A backend is two traits: a [`Server`] makes a [`Link`], and a link reads and writes rows inside
//! attempts that exclude each other, whichever process makes them. The rules stay where they are:
//! the [`driver`] takes a batch of requests, has their rows fetched together, runs the rules over
//! them ([`attempt`]) and writes what they wrote in one commit. So a batch costs about three round
//! trips, however many requests are in it.
//!
//! Every commit also writes the row of its writer (`Table::Writer`). When a connection breaks after
//! a commit was sent, that row tells on the next connection whether it was done, so the outcome is
//! unknown only while the server stays away.

mod attempt;
mod driver;
mod follow;
#[cfg(feature = "mongodb")]
mod mongodb;
#[cfg(feature = "mysql")]
mod mysql;
mod options;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "redis")]
mod redis;
mod steer;
#[cfg(test)]
mod tests;
mod verify;
mod watched;

use std::future::Future;

use crate::error::OpenError;
use crate::options::Limits;
use crate::rules;
use crate::tables::{MemoryTables, Stage, Table, Writes};

pub(crate) use driver::Remote;
#[cfg(feature = "mongodb")]
pub(crate) use mongodb::Mongodb;
#[cfg(feature = "mysql")]
pub(crate) use mysql::Mysql;
pub use options::{Password, ServerOptions};
#[cfg(feature = "postgres")]
pub(crate) use postgres::Postgres;
#[cfg(feature = "redis")]
pub(crate) use redis::{Redis, RedisJournal};
pub(crate) use watched::{Listed, Watch};
pub use watched::{ServerAsk, ServerTold, Servers};

/// A row's place: its table and key.
pub(crate) type Place = (Table, Vec<u8>);

/// A row's bytes, `None` if there is none.
pub(crate) type Found = Option<Vec<u8>>;

/// Rows in the order of their keys.
pub(crate) type Page = Vec<(Vec<u8>, Vec<u8>)>;

/// Where a shard is kept.
pub(crate) trait Server: Send + Sync + 'static {
    /// A connection.
    type Link: Link + Send;

    /// What it is: "postgres".
    const KIND: &'static str;

    /// Whether connecting raises the generation by itself where commits were lost. Otherwise the
    /// driver does, by the rows of writers.
    const SEES_LOSS: bool = false;

    /// Where it is, for log lines and errors: no password.
    fn shown(&self) -> String;

    /// At how many hosts it may be, one of which takes writes at a time.
    fn hosts(&self) -> usize {
        1
    }

    /// Their names, as `host:port`; none if only the server's manager knows them.
    fn names(&self) -> Vec<String> {
        Vec::new()
    }

    /// How many followers it has that may be read.
    fn followers(&self) -> usize {
        0
    }

    /// Connects to one of the followers, only to read there.
    fn connect_follower(
        &self,
        follower: usize,
    ) -> impl Future<Output = Result<Self::Link, ConnectError>> {
        async move { Err(ConnectError::Away(format!("there is no follower {follower}"))) }
    }

    /// Connects to one of the hosts if that takes writes, checks that what is acknowledged is durable
    /// there, and makes the tables and the first rows (`rules::found`) if there are none; several
    /// processes may do so at once. The stored format is checked by the caller.
    fn connect(&self, host: usize) -> impl Future<Output = Result<Self::Link, ConnectError>>;
}

/// A connection. The caller limits how long each call may take; one that is given up half-way ends
/// the link.
pub(crate) trait Link {
    /// Starts an attempt and reads the rows at `first`, in their order, in one round trip if the
    /// server can.
    ///
    /// From here to its end, an attempt to [`Mode::Write`] sees the shard as no other process
    /// changes it: either the shard's lock is held, or [`Link::commit`] fails with
    /// [`CommitFailure::Retry`] if anything was committed meanwhile. [`Mode::Read`] sees one moment
    /// and excludes nobody.
    fn begin(
        &mut self,
        mode: Mode,
        first: &[Place],
    ) -> impl Future<Output = Result<Vec<Found>, Failure>>;

    /// Reads rows, in the order of `places`, in one round trip.
    fn get_many(&mut self, places: &[Place]) -> impl Future<Output = Result<Vec<Found>, Failure>>;

    /// Reads the first rows of a table whose keys are not below `from`, at most `max`.
    fn page(
        &mut self,
        table: Table,
        from: &[u8],
        max: usize,
    ) -> impl Future<Output = Result<Page, Failure>>;

    /// Writes all and ends the attempt: all of it, durably, or nothing.
    fn commit(&mut self, writes: &Writes) -> impl Future<Output = Result<(), CommitFailure>>;

    /// The name of its server, if a manager has chosen that.
    fn place(&self) -> Option<String> {
        None
    }

    /// Of a server with a journal: its run, and the last entry of which anything is that the attempt read or wrote.
    fn position(&self) -> (u64, u64) {
        (0, 0)
    }

    /// Ends the attempt without having changed anything.
    fn abort(&mut self) -> impl Future<Output = Result<(), Failure>>;
}

/// What an attempt is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Read,
    Write,
}

/// The rows that a shard is born with.
pub(crate) fn first_writes() -> Writes {
    let (empty, limits) = (MemoryTables::default(), Limits::default());
    let mut stage = Stage::new(&empty, &limits);
    rules::found(&mut stage);
    stage.into_writes()
}

/// The address of each host in one that may name several.
#[cfg(any(feature = "postgres", feature = "mysql"))]
pub(crate) fn each_host(url: &str) -> Vec<String> {
    let Some((scheme, rest)) = url.split_once("://") else { return vec![url.to_owned()] };
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let (user, hosts) = match authority.rsplit_once('@') {
        Some((user, hosts)) => (format!("{user}@"), hosts),
        None => (String::new(), authority),
    };
    hosts.split(',').map(|host| format!("{scheme}://{user}{host}{path}")).collect()
}

/// Whether what is said to a host does not leave this machine.
#[cfg(any(feature = "postgres", feature = "mysql"))]
pub(crate) fn stays_here(host: &str) -> bool {
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse();
    host == "localhost" || ip.is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

/// Why no connection was made.
#[derive(Debug)]
pub(crate) enum ConnectError {
    /// The server is not there, or not ready: another try may succeed.
    Away(String),
    /// It will not serve us as it is; another try helps only after somebody changed something.
    Refused(OpenError),
}

/// Why an attempt failed before anything of it could be durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Others were in the way: abort, then make the same attempt anew.
    Retry(String),
    /// The connection is of no use any more, or the server refused the statement.
    Lost(String),
}

/// Why a commit did not say that it was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CommitFailure {
    /// Nothing was done because others were in the way.
    Retry(String),
    /// Nothing was done, and the connection is of no use any more.
    Lost(String),
    /// The connection broke after the commit may have been sent.
    Unknown(String),
}
