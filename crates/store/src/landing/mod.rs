//! A fast journal with the rows of a shard, and the workers that land it in another store (decision 0010).
//!
//! The journal's server keeps every row and an entry for each commit, in one step. A worker writes entries into the
//! target, in their order, each span together with its end, so what has landed is always the whole shard as it was
//! after some commit. Which worker does it does not matter for that; a lease keeps the others from trying.
//!
//! A journal has a *run*: the time in which nothing of it was lost. When its server lost something, or may have, the
//! journal is *adopted* anew: it goes on from what is left of it, or is filled again from what has landed.

mod adopt;
mod entry;
mod options;
mod settle;
#[cfg(test)]
mod tests;
mod thread;
mod worker;

use std::collections::BTreeMap;

use crate::dump::{Place, RawRow};
use crate::error::{Error, OpenError};
use crate::rules::landing as rule;
use crate::rules::landing::{Landed, Span};
use crate::store::Store;
use crate::tables::Writes;

pub(crate) use entry::{Aside, Entry, encode};
pub use options::{Acknowledge, LandingOptions};
pub(crate) use settle::Settle;
pub(crate) use thread::{Landing, Open};

/// The journal's server does not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Away(pub String);

/// What a journal is at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Life {
    /// The run that goes on, `None` if there is no journal.
    pub run: Option<u64>,
    /// Whether its server cannot have lost anything since the run began.
    pub is_intact: bool,
    /// Whether it has rows, other than of an adoption that did not end.
    pub has_rows: bool,
    /// The last entry.
    pub position: u64,
    /// The last that is known there to have landed.
    pub landed: u64,
    /// Bytes of those that have not.
    pub backlog_bytes: u64,
    /// How long the oldest of them waits.
    pub lag_ms: u64,
    /// How many rows and entries are set aside.
    pub aside: u64,
    /// Whether the asker is to land.
    pub leads: bool,
    /// The shard's generation, if it can be read.
    pub generation: Option<u64>,
    /// Milliseconds since 1970 by its server's clock.
    pub now_ms: u64,
}

/// How a run begins.
#[derive(Debug, Clone)]
pub(crate) struct Beginning {
    pub run: u64,
    /// Where the target is.
    pub landed: u64,
    /// What its first commit writes.
    pub writes: Writes,
}

/// A journal as workers see it. What changes it during an adoption needs the adopter's `token`, and answers whether it
/// still had it.
pub(crate) trait Journal {
    /// Where it is, for log lines and errors.
    fn shown(&self) -> String;
    /// Why its server will not serve us as it is, if that is why it was away.
    fn refused(&mut self) -> Option<OpenError> {
        None
    }
    /// What it is at; asks for the lease to land if `lead`.
    fn life(&mut self, lead: bool) -> impl Future<Output = Result<Life, Away>>;
    /// Entries after a position, until they are `bytes_max` together, at least one.
    fn entries(
        &mut self,
        after: u64,
        bytes_max: usize,
    ) -> impl Future<Output = Result<Vec<Entry>, Away>>;
    /// Forgets entries that have landed.
    fn landed(&mut self, run: u64, entry: (u64, u64)) -> impl Future<Output = Result<(), Away>>;
    /// What is set aside.
    fn aside(&mut self) -> impl Future<Output = Result<Aside, Away>>;
    /// Sets aside what is `Some`, takes back what is `None`.
    fn put_aside(
        &mut self,
        changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    ) -> impl Future<Output = Result<(), Away>>;

    /// Keeps other adopters out for a while; false if one keeps us out. What follows needs the same connection: a server
    /// that was set back meanwhile may still know the token.
    fn begin(&mut self, token: u64) -> impl Future<Output = Result<bool, Away>>;
    /// Goes on with what is there, as another run, if it still is of run `old`.
    fn renew(
        &mut self,
        token: u64,
        old: u64,
        beginning: &Beginning,
    ) -> impl Future<Output = Result<bool, Away>>;
    /// Removes all.
    fn clear(&mut self, token: u64) -> impl Future<Output = Result<bool, Away>>;
    /// Adds rows.
    fn fill(&mut self, token: u64, rows: Vec<RawRow>) -> impl Future<Output = Result<bool, Away>>;
    /// Begins with what was filled in.
    fn open(
        &mut self,
        token: u64,
        beginning: &Beginning,
    ) -> impl Future<Output = Result<bool, Away>>;
}

/// A store in which journals land.
pub(crate) trait Target {
    fn landed(&self) -> impl Future<Output = Result<Landed, Error>>;
    fn claim(&self, seen: Landed, next: u64) -> impl Future<Output = Result<bool, Error>>;
    fn settle(&self, run: u64) -> impl Future<Output = Result<bool, Error>>;
    fn land(&self, span: Span, writes: Writes) -> impl Future<Output = Result<bool, Error>>;
    fn rows(
        &self,
        after: Option<Place>,
        bytes_max: usize,
    ) -> impl Future<Output = Result<Vec<RawRow>, Error>>;
}

impl Target for Store {
    async fn landed(&self) -> Result<Landed, Error> {
        self.read(|s| rule::landed(s)).await
    }

    async fn claim(&self, seen: Landed, next: u64) -> Result<bool, Error> {
        self.submit(128, move |s| rule::claim(s, &seen, next)).await
    }

    async fn settle(&self, run: u64) -> Result<bool, Error> {
        self.submit(128, move |s| rule::settle(s, run)).await
    }

    async fn land(&self, span: Span, writes: Writes) -> Result<bool, Error> {
        let bytes =
            writes.iter().map(|(place, row)| place.1.len() + row.as_ref().map_or(0, Vec::len));
        let bytes = bytes.sum();
        self.submit(bytes, move |s| rule::land(s, &span, &writes)).await
    }

    async fn rows(&self, after: Option<Place>, bytes_max: usize) -> Result<Vec<RawRow>, Error> {
        Store::rows(self, after, bytes_max).await
    }
}
