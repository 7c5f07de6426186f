//! A shard in a MongoDB database: one collection of rows, beside them the count of commits.
//!
//! A row's `_id` is its table's name and its key in hexadecimal, because strings sort byte by byte and binary values
//! sort by their length first. An attempt reads one snapshot and holds nothing; its commit is one transaction, which
//! raises the count and does nothing if it has moved.
//!
//! The driver's futures must not be dropped half-way, and our caller drops what takes too long. So each step runs on a
//! task of its own, and a link whose step was given up is of no use any more.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use ::mongodb::bson::{Binary, Bson, Document, doc, spec::BinarySubtype};
use ::mongodb::error::{
    Error, ErrorKind, TRANSIENT_TRANSACTION_ERROR, UNKNOWN_TRANSACTION_COMMIT_RESULT,
};
use ::mongodb::options::{
    Acknowledgment, ClientOptions, ConnectionString, Credential, HostInfo, Tls, TlsOptions,
    TransactionOptions, WriteConcern,
};
use ::mongodb::{Client, ClientSession, Collection, Database};

use super::options::ServerOptions;
use super::{
    CommitFailure, ConnectError, Failure, Found, Link, Listed, Mode, Page, Place, Server, Watch,
    first_writes,
};
use crate::error::OpenError;
use crate::row::hex;
use crate::tables::{Table, Writes};
use crate::watcher::{Seen, hosts_of};

/// Ids of one query: servers that stand in for MongoDB refuse five hundred ("Expression tree is too large").
const ASKED_MAX: usize = 250;
/// The collection of rows.
const ROWS: &str = "rows";
/// The `_id` of the count of commits; no row has such a one.
const COMMITS: &str = "commits";
/// Of one command, which may have at most 16 MiB.
const COMMAND_ROWS_MAX: usize = 1_000;
const COMMAND_BYTES_MAX: usize = 8 << 20;

/// Where MongoDB is if an address does not say it.
const PORT: u16 = 27017;

/// `Unauthorized`, `AuthenticationFailed`.
const DENIED: [i32; 2] = [13, 18];
/// `IllegalOperation`: transactions on a server without a replica set. `NotAReplicaSet`, `InvalidOptions` of snapshots.
const NO_TRANSACTIONS: [i32; 3] = [20, 123, 246];
/// `NamespaceExists`.
const EXISTS: i32 = 48;
/// `WriteConflict`.
const CONFLICT: i32 = 112;

/// Where the database is.
pub(crate) struct Mongodb {
    connection: ConnectionString,
    database: String,
    shown: String,
    options: ServerOptions,
    /// Members that are read, each asked by itself whatever it is.
    followers: Vec<ConnectionString>,
}

impl Mongodb {
    /// Reads an address: `mongodb://user@host,host/database?replicaSet=name`; without a database `mainstay`.
    pub fn new(url: &str, options: &ServerOptions) -> Result<Self, OpenError> {
        let (connection, hosts) = parse(url, options)?;
        let database = database_of(&connection);
        let shown = format!("MongoDB database {database} at {}", hosts.join(","));
        let mut followers = Vec::new();
        for url in &options.followers {
            let (mut follower, hosts) = parse(url, options)?;
            if hosts.len() != 1 || database_of(&follower) != database {
                let reason = "a follower is one member, with the database as in `url`";
                return Err(OpenError::Malformed(reason.to_owned()));
            }
            follower.direct_connection = Some(true);
            followers.push(follower);
        }
        Ok(Self { connection, database, shown, options: options.clone(), followers })
    }

    /// The same database as one member has it.
    fn at(&self, connection: ConnectionString) -> Self {
        Mongodb {
            connection,
            database: self.database.clone(),
            shown: self.shown.clone(),
            options: self.options.clone(),
            followers: Vec::new(),
        }
    }

    /// A connection that nothing is known of yet.
    async fn link(&self) -> Result<MongodbLink, Error> {
        let client = self.client().await?;
        let database = client.database(&self.database);
        let inner = Inner {
            rows: database.collection(ROWS),
            database,
            client,
            session: None,
            count: 0,
            commit_wait: self.options.reply_wait,
        };
        Ok(MongodbLink { inner: Some(Box::new(inner)) })
    }

    async fn client(&self) -> Result<Client, Error> {
        let mut options = ClientOptions::parse(self.connection.clone()).await?;
        options.app_name = Some("mainstay".to_owned());
        options.connect_timeout = Some(self.options.connect_wait);
        options.server_selection_timeout = Some(self.options.connect_wait);
        options.min_pool_size = Some(0);
        options.max_pool_size = Some(2);
        if let Some(file) = &self.options.authorities {
            let tls = TlsOptions::builder().ca_file_path(file.clone()).build();
            options.tls = Some(Tls::Enabled(tls));
        }
        Client::with_options(options)
    }

    /// Refuses a server that has no transactions.
    async fn check(&self, database: &Database) -> Result<(), ConnectError> {
        let hello = database.run_command(doc! { "hello": 1 }).await;
        let hello = hello.map_err(|error| refusal(&self.shown, &error))?;
        let is_set = hello.contains_key("setName")
            || hello.get_str("msg").is_ok_and(|msg| msg == "isdbgrid");
        if is_set || self.options.accept_loss {
            return Ok(());
        }
        Err(ConnectError::Refused(single(&self.shown)))
    }
}

/// An address and its hosts.
fn parse(url: &str, options: &ServerOptions) -> Result<(ConnectionString, Vec<String>), OpenError> {
    let mut connection =
        ConnectionString::parse(url).map_err(|error| OpenError::Malformed(error.to_string()))?;
    let HostInfo::HostIdentifiers(hosts) = &connection.host_info else {
        let reason = "addresses by DNS records are not built in: name the hosts";
        return Err(OpenError::Malformed(reason.to_owned()));
    };
    let hosts = hosts.iter().map(ToString::to_string).collect();
    if let Some(password) = &options.password {
        let credential = connection.credential.get_or_insert_with(Credential::default);
        credential.password = Some(password.0.clone());
    }
    Ok((connection, hosts))
}

fn database_of(connection: &ConnectionString) -> String {
    connection.default_database.clone().unwrap_or("mainstay".to_owned())
}

fn single(shown: &str) -> OpenError {
    let reason = "it is a single server, which has no transactions: start it as a replica set \
                  (--replSet, then rs.initiate())";
    OpenError::NotDurable { server: shown.to_owned(), reason: reason.to_owned() }
}

/// Whether a failed connection is worth another try.
fn refusal(shown: &str, error: &Error) -> ConnectError {
    let (server, reason) = (shown.to_owned(), error.to_string());
    match code(error) {
        _ if matches!(&*error.kind, ErrorKind::Authentication { .. }) => {
            ConnectError::Refused(OpenError::Denied { server, reason })
        }
        Some(code) if DENIED.contains(&code) => {
            ConnectError::Refused(OpenError::Denied { server, reason })
        }
        Some(code) if NO_TRANSACTIONS.contains(&code) => ConnectError::Refused(single(shown)),
        _ => ConnectError::Away(reason),
    }
}

impl Server for Mongodb {
    type Link = MongodbLink;
    const KIND: &'static str = "mongodb";

    fn shown(&self) -> String {
        self.shown.clone()
    }

    fn followers(&self) -> usize {
        self.followers.len()
    }

    /// A session with snapshots reads at a secondary what a majority has.
    async fn connect_follower(&self, follower: usize) -> Result<MongodbLink, ConnectError> {
        let link = self.at(self.followers[follower].clone()).link().await;
        link.map_err(|error| refusal(&self.shown, &error))
    }

    async fn connect(&self, _: usize) -> Result<MongodbLink, ConnectError> {
        let mut link = self.link().await.map_err(|error| refusal(&self.shown, &error))?;
        let database = link.run(|inner| Box::pin(async { inner.database.clone() })).await;
        self.check(&database.map_err(away)?).await?;
        let shown = self.shown.clone();
        link.run(move |inner| Box::pin(async move { inner.found(&shown).await }))
            .await
            .map_err(away)??;
        Ok(link)
    }
}

impl Watch for Mongodb {
    /// To one member, whatever it is.
    type Line = Client;
    /// Commits are acknowledged by a majority, so none is lost when another member is elected.
    const LOSES_NOTHING: bool = true;

    async fn list(&self) -> Result<Listed, String> {
        let HostInfo::HostIdentifiers(hosts) = &self.connection.host_info else {
            return Err("addresses by DNS records are not built in".to_owned());
        };
        let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        Ok(Listed { names: hosts_of(&format!("://{}", hosts.join(",")), PORT), primary: None })
    }

    async fn line(&self, name: &str) -> Result<Client, String> {
        let address = name.parse().map_err(|error: Error| error.to_string())?;
        let mut connection = self.connection.clone();
        connection.host_info = HostInfo::HostIdentifiers(vec![address]);
        connection.direct_connection = Some(true);
        self.at(connection).client().await.map_err(|error| error.to_string())
    }

    async fn see(&self, line: &mut Client) -> Result<Seen, String> {
        // The driver's futures must not be dropped half-way.
        let database = line.database(&self.database);
        let asked = tokio::spawn(async move { database.run_command(doc! { "hello": 1 }).await });
        let hello = asked.await.map_err(|error| error.to_string())?;
        let hello = hello.map_err(|error| error.to_string())?;
        let last = hello.get_document("lastWrite").and_then(|last| last.get_document("opTime"));
        let position = last.and_then(|last| last.get_timestamp("ts"));
        let position = position.map_or(0, |at| u64::from(at.time) << 32 | u64::from(at.increment));
        Ok(Seen { is_primary: hello.get_bool("isWritablePrimary").unwrap_or(false), position })
    }

    async fn promote(&self, _: &str, _: &str) -> Result<(), String> {
        Err("the members of a replica set elect their primary themselves".to_owned())
    }
}

fn away(failure: Failure) -> ConnectError {
    match failure {
        Failure::Retry(reason) | Failure::Lost(reason) => ConnectError::Away(reason),
    }
}

/// A client with its session, or nothing after a step was given up.
pub(crate) struct MongodbLink {
    inner: Option<Box<Inner>>,
}

struct Inner {
    client: Client,
    database: Database,
    rows: Collection<Document>,
    /// Of the attempt: all that it reads is of one snapshot.
    session: Option<ClientSession>,
    /// The count of commits that the attempt is made on.
    count: i64,
    commit_wait: Duration,
}

type Step<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

impl MongodbLink {
    /// Takes a step that goes on to its end even if nobody waits for it any more.
    async fn run<T: Send + 'static>(
        &mut self,
        step: impl for<'a> FnOnce(&'a mut Inner) -> Step<'a, T> + Send + 'static,
    ) -> Result<T, Failure> {
        let lost = || Failure::Lost("a step on this connection was given up".to_owned());
        let mut inner = self.inner.take().ok_or_else(lost)?;
        let step = tokio::spawn(async move {
            let done = step(&mut inner).await;
            (inner, done)
        });
        let (inner, done) = step.await.map_err(|_| lost())?;
        self.inner = Some(inner);
        Ok(done)
    }
}

impl Inner {
    /// Makes the collection and the first rows unless they are there.
    async fn found(&mut self, shown: &str) -> Result<(), ConnectError> {
        self.begin(Vec::new()).await.map_err(away)?;
        if self.count > 0 {
            return Ok(());
        }
        let made = self.database.create_collection(ROWS).await;
        if let Err(error) = made
            && code(&error) != Some(EXISTS)
        {
            return Err(refusal(shown, &error));
        }
        let (changes, removals) = commands(&first_writes());
        // Several may try this at once; those who come late find it done.
        self.transact(changes, removals).await.map_err(|error| match error {
            Aborted::Conflict => ConnectError::Away("another process makes the tables".to_owned()),
            Aborted::Error(error) | Aborted::Commit(error) => refusal(shown, &error),
        })
    }

    async fn begin(&mut self, ids: Vec<String>) -> Result<Vec<Found>, Failure> {
        let session = self.client.start_session().snapshot(true).await;
        self.session = Some(session.map_err(|error| failure(&error))?);
        self.get(ids, true).await
    }

    /// Rows by their ids, and a look at the count.
    async fn get(&mut self, ids: Vec<String>, begins: bool) -> Result<Vec<Found>, Failure> {
        let mut rows = std::collections::BTreeMap::new();
        let (mut parts, mut begins) = (ids.chunks(ASKED_MAX), begins);
        let mut part = parts.next().unwrap_or_default();
        loop {
            let mut wanted = vec![COMMITS.to_owned()];
            wanted.extend(part.iter().cloned());
            let mut count = 0;
            for mut document in self.find(doc! { "_id": { "$in": wanted } }, None).await? {
                match document.get_str("_id") {
                    Ok(COMMITS) => count = int(&document, "n").unwrap_or(0),
                    Ok(id) => {
                        let id = id.to_owned();
                        rows.insert(id, row(&mut document)?);
                    }
                    Err(_) => return Err(foreign()),
                }
            }
            if std::mem::take(&mut begins) {
                self.count = count;
            } else if self.count != count {
                // A server that keeps its promise about snapshots never gets here.
                return Err(Failure::Retry("another process was first".to_owned()));
            }
            match parts.next() {
                Some(next) => part = next,
                None => break,
            }
        }
        // The same row may be asked for twice.
        Ok(ids.iter().map(|id| rows.get(id).cloned()).collect())
    }

    async fn page(&mut self, table: Table, from: Vec<u8>, max: usize) -> Result<Page, Failure> {
        // The character after `:` ends the table.
        let end = format!("{};", table.name());
        let filter = doc! { "_id": { "$gte": id(table, &from), "$lt": end } };
        let found = self.find(filter, Some(max)).await?;
        self.get(Vec::new(), false).await?;
        let rows = found.into_iter().map(|mut document| {
            let id = document.get_str("_id").map_err(|_| foreign())?;
            let key = id.split_once(':').and_then(|(_, key)| unhex(key)).ok_or_else(foreign)?;
            Ok((key, row(&mut document)?))
        });
        rows.collect()
    }

    async fn find(
        &mut self,
        filter: Document,
        max: Option<usize>,
    ) -> Result<Vec<Document>, Failure> {
        let Some(session) = &mut self.session else {
            return Err(Failure::Lost("no attempt was begun".to_owned()));
        };
        let mut find = self.rows.find(filter);
        if let Some(max) = max {
            find = find.sort(doc! { "_id": 1 }).limit(max as i64);
        }
        let mut cursor = find.session(&mut *session).await.map_err(|error| failure(&error))?;
        let mut found = Vec::new();
        while let Some(document) = cursor.next(session).await {
            found.push(document.map_err(|error| failure(&error))?);
        }
        Ok(found)
    }

    /// Does all of it if no other commit was first.
    async fn transact(
        &mut self,
        changes: Vec<Vec<Document>>,
        removals: Vec<Vec<Document>>,
    ) -> Result<(), Aborted> {
        self.session = None;
        let mut session = self.client.start_session().await.map_err(Aborted::Error)?;
        let concern = WriteConcern::builder().w(Acknowledgment::Majority).journal(true).build();
        let options = TransactionOptions::builder()
            .write_concern(concern)
            .max_commit_time(self.commit_wait)
            .build();
        session.start_transaction().with_options(options).await.map_err(Aborted::Error)?;
        let done = self.change(&mut session, changes, removals).await;
        if let Err(aborted) = done {
            // The server does so by itself if this does not arrive.
            drop(session.abort_transaction().await);
            return Err(aborted);
        }
        session.commit_transaction().await.map_err(Aborted::Commit)
    }

    async fn change(
        &self,
        session: &mut ClientSession,
        mut changes: Vec<Vec<Document>>,
        removals: Vec<Vec<Document>>,
    ) -> Result<(), Aborted> {
        let raise = doc! {
            "q": { "_id": COMMITS, "n": self.count },
            "u": { "$inc": { "n": 1_i64 } },
            "upsert": self.count == 0,
        };
        if changes.is_empty() {
            changes.push(Vec::new());
        }
        changes[0].insert(0, raise);
        for updates in changes {
            let asked = updates.len() as i64;
            let command = doc! { "update": ROWS, "updates": updates };
            let done = self.database.run_command(command).session(&mut *session).await;
            let done = done.map_err(Aborted::Error)?;
            // All but the count is made where it is not found, so only that can be missing.
            if done.contains_key("writeErrors") || int(&done, "n") != Some(asked) {
                return Err(Aborted::Conflict);
            }
        }
        for deletes in removals {
            let command = doc! { "delete": ROWS, "deletes": deletes };
            let done = self.database.run_command(command).session(&mut *session).await;
            if done.map_err(Aborted::Error)?.contains_key("writeErrors") {
                return Err(Aborted::Conflict);
            }
        }
        Ok(())
    }
}

/// Why a transaction did not say that it was done.
enum Aborted {
    /// Another commit was first.
    Conflict,
    /// Before the commit was sent.
    Error(Error),
    /// The answer to the commit.
    Commit(Error),
}

impl Link for MongodbLink {
    async fn begin(&mut self, _: Mode, first: &[Place]) -> Result<Vec<Found>, Failure> {
        let ids: Vec<String> = first.iter().map(|(table, key)| id(*table, key)).collect();
        self.run(move |inner| Box::pin(inner.begin(ids))).await?
    }

    async fn get_many(&mut self, places: &[Place]) -> Result<Vec<Found>, Failure> {
        let ids: Vec<String> = places.iter().map(|(table, key)| id(*table, key)).collect();
        self.run(move |inner| Box::pin(inner.get(ids, false))).await?
    }

    async fn page(&mut self, table: Table, from: &[u8], max: usize) -> Result<Page, Failure> {
        let from = from.to_vec();
        self.run(move |inner| Box::pin(inner.page(table, from, max))).await?
    }

    async fn commit(&mut self, writes: &Writes) -> Result<(), CommitFailure> {
        let (changes, removals) = commands(writes);
        let done = self.run(move |inner| Box::pin(inner.transact(changes, removals))).await;
        let done = done.map_err(|failure| match failure {
            Failure::Retry(reason) | Failure::Lost(reason) => CommitFailure::Unknown(reason),
        })?;
        done.map_err(|aborted| match aborted {
            Aborted::Conflict => CommitFailure::Retry("another process was first".to_owned()),
            Aborted::Error(error) => match failure(&error) {
                Failure::Retry(reason) => CommitFailure::Retry(reason),
                Failure::Lost(reason) => CommitFailure::Lost(reason),
            },
            Aborted::Commit(error) => {
                let unknown = error.contains_label(UNKNOWN_TRANSACTION_COMMIT_RESULT);
                match failure(&error) {
                    Failure::Retry(reason) if !unknown => CommitFailure::Retry(reason),
                    Failure::Retry(reason) | Failure::Lost(reason) => {
                        CommitFailure::Unknown(reason)
                    }
                }
            }
        })
    }

    async fn abort(&mut self) -> Result<(), Failure> {
        self.run(|inner| Box::pin(async { inner.session = None })).await
    }
}

/// What to do after an error before anything could be durable.
fn failure(error: &Error) -> Failure {
    let reason = error.to_string();
    // A broken connection has the label too; waiting for it is our caller's.
    let is_conflict = match &*error.kind {
        ErrorKind::Command(_) | ErrorKind::Write(_) => {
            code(error) == Some(CONFLICT) || error.contains_label(TRANSIENT_TRANSACTION_ERROR)
        }
        _ => false,
    };
    if is_conflict { Failure::Retry(reason) } else { Failure::Lost(reason) }
}

fn code(error: &Error) -> Option<i32> {
    match &*error.kind {
        ErrorKind::Command(error) => Some(error.code),
        _ => None,
    }
}

/// Updates and deletions of single rows, so many as one command may have.
fn commands(writes: &Writes) -> (Vec<Vec<Document>>, Vec<Vec<Document>>) {
    let (mut changes, mut removals) = (Chunks::default(), Chunks::default());
    for ((table, key), row) in writes {
        let id = id(*table, key);
        match row {
            Some(row) => {
                let binary = Binary { subtype: BinarySubtype::Generic, bytes: row.clone() };
                let change = doc! { "q": { "_id": &id }, "u": { "_id": &id, "row": binary }, "upsert": true };
                changes.push(change, row.len());
            }
            None => removals.push(doc! { "q": { "_id": id }, "limit": 1 }, 0),
        }
    }
    (changes.all, removals.all)
}

#[derive(Default)]
struct Chunks {
    all: Vec<Vec<Document>>,
    bytes: usize,
}

impl Chunks {
    fn push(&mut self, document: Document, bytes: usize) {
        let is_full = |last: &Vec<Document>| {
            last.len() >= COMMAND_ROWS_MAX || self.bytes + bytes > COMMAND_BYTES_MAX
        };
        if self.all.last().is_none_or(is_full) {
            self.all.push(Vec::new());
            self.bytes = 0;
        }
        self.bytes += bytes;
        self.all.last_mut().expect("one was pushed").push(document);
    }
}

fn id(table: Table, key: &[u8]) -> String {
    format!("{}:{}", table.name(), hex(key))
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> =
        text.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect::<Option<_>>()?;
    Some(
        digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect(),
    )
}

fn row(document: &mut Document) -> Result<Vec<u8>, Failure> {
    match document.remove("row") {
        Some(Bson::Binary(binary)) => Ok(binary.bytes),
        _ => Err(foreign()),
    }
}

fn foreign() -> Failure {
    Failure::Lost("a document in the collection of rows that is none".to_owned())
}

/// Servers answer with numbers of any type.
fn int(document: &Document, name: &str) -> Option<i64> {
    match document.get(name) {
        Some(Bson::Int32(number)) => Some((*number).into()),
        Some(Bson::Int64(number)) => Some(*number),
        Some(Bson::Double(number)) => Some(*number as i64),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_as_keys_do_and_stay_within_their_table() {
        let keys: [&[u8]; 6] = [b"", b"\0", b"\x01", b"\x01\xff", b"\x0f", b"\xf0\0"];
        let ids = keys.map(|key| id(Table::Held, key));
        assert!(ids.is_sorted());
        assert!(ids.iter().all(|id| id.as_str() >= "held:" && id.as_str() < "held;"));
        for (id, key) in ids.iter().zip(keys) {
            assert_eq!(unhex(id.split_once(':').unwrap().1).unwrap(), key);
        }
    }

    #[test]
    fn commands_stay_below_what_a_server_takes() {
        let mut writes = Writes::new();
        for key in 0..2_500_u32 {
            writes.insert((Table::Entity, key.to_be_bytes().to_vec()), Some(vec![0; 10_000]));
            writes.insert((Table::Txn, key.to_be_bytes().to_vec()), None);
        }
        let (changes, removals) = commands(&writes);
        assert!(changes.iter().all(|chunk| chunk.len() * 10_000 <= COMMAND_BYTES_MAX));
        assert_eq!(changes.iter().map(Vec::len).sum::<usize>(), 2_500);
        assert_eq!(removals.iter().map(Vec::len).collect::<Vec<_>>(), [1_000, 1_000, 500]);
    }
}
