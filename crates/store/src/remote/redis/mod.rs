//! A shard in Redis: a hash of rows and a sorted set of keys for each table, and a count of commits.
//!
//! Nothing is locked. A batch remembers the count it was made on, and the script that commits it does nothing if the
//! count has moved. So a process that stands still stops nobody. All keys of a shard have one hash tag.
//!
//! Redis has no snapshots. Whoever reads a whole shard says so first; until it is done, commits keep what they
//! replace, and the reader puts that back into what it sees (`moment`).

mod address;
mod journal;
mod moment;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Client, Cmd, ErrorKind, RedisError, ServerErrorKind, Value};

use self::address::{Address, Where};
pub(crate) use self::journal::RedisJournal;
use self::moment::Moment;
use super::options::ServerOptions;
use super::{
    CommitFailure, ConnectError, Failure, Found, Link, Listed, Mode, Page, Place, Server, Watch,
};
use crate::error::OpenError;
use crate::landing::{self, Acknowledge, LandingOptions};
use crate::options::Limits;
use crate::rules;
use crate::tables::{MemoryTables, Stage, Table, Writes};
use crate::watcher::Seen;

const SCRIPTS: [&str; 5] = [
    include_str!("get.lua"),
    include_str!("page.lua"),
    include_str!("watch.lua"),
    include_str!("commit.lua"),
    include_str!("journal.lua"),
];

/// Numbers of [`SCRIPTS`].
const GET: usize = 0;
const PAGE: usize = 1;
const WATCH: usize = 2;
const COMMIT: usize = 3;
const JOURNAL: usize = 4;

/// What decides whether keys vanish.
const EVICTION: [&str; 2] = ["maxmemory", "maxmemory-policy"];

/// What helps beside the settings if there is a journal.
const OR_LANDED: &str =
    ", or acknowledge what is valuable when it has landed (`acknowledge: \"landed\"`)";

/// What must be set for every acknowledged write to be on disk.
const DURABLE: [(&str, &str); 3] =
    [("appendonly", "yes"), ("appendfsync", "always"), ("no-appendfsync-on-rewrite", "no")];

/// Where the server is.
pub(crate) struct Redis {
    address: Address,
    followers: Vec<Address>,
    options: ServerOptions,
    /// How its journal lands, if it has one.
    journal: Option<LandingOptions>,
    /// The highest count of commits that was seen. A lower one means that the server lost some.
    highest: Arc<AtomicU64>,
}

impl Redis {
    /// Reads an address: `redis://host:port/database?shard=name`, or
    /// `redis-sentinel://host:port,host:port/primary/database?shard=name`.
    pub fn new(
        url: &str,
        options: &ServerOptions,
        journal: Option<LandingOptions>,
    ) -> Result<Self, OpenError> {
        let address = Address::parse(url, options)?;
        let followers = options.followers.iter().map(|url| Address::parse(url, options));
        let followers = followers.collect::<Result<Vec<_>, _>>()?;
        let is_one = |follower: &Address| matches!(follower.at, Where::Server(_));
        if !followers.iter().all(|follower| is_one(follower) && follower.prefix == address.prefix) {
            let reason = "a follower is one server, with the shard's name as in `url`";
            return Err(OpenError::Malformed(reason.to_owned()));
        }
        if options.authorities.is_some() {
            let reason = "connections to Redis are not encrypted, so there is nobody to believe";
            return Err(OpenError::Malformed(reason.to_owned()));
        }
        let (options, highest) = (options.clone(), Arc::default());
        let this = Self { address, followers, options, journal, highest };
        if matches!(this.address.at, Where::Sentinels { .. }) && !this.may_lose() {
            let reason = "replicas of Redis follow later than commits are acknowledged, so a failover may lose some";
            let server = this.address.shown;
            let reason = format!("{reason}{}", this.journal.as_ref().map_or("", |_| OR_LANDED));
            return Err(OpenError::NotDurable { server, reason });
        }
        Ok(this)
    }

    /// Whether it may lose what it acknowledged: by itself, or because what is valuable is not acknowledged there.
    fn may_lose(&self) -> bool {
        let lands_first = |journal: &LandingOptions| journal.acknowledge == Acknowledge::Landed;
        self.options.accept_loss || self.journal.as_ref().is_some_and(lands_first)
    }

    async fn connect_to(&self, client: &Client) -> Result<MultiplexedConnection, RedisError> {
        let configuration = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.options.connect_wait))
            .set_response_timeout(Some(self.options.reply_wait));
        client.get_multiplexed_async_connection_with_config(&configuration).await
    }

    /// Where writes go at present, and its name if it may become another.
    async fn primary(&self) -> Result<(Client, String), ConnectError> {
        let (sentinels, name) = match &self.address.at {
            Where::Server(client) => return Ok((client.clone(), String::new())),
            Where::Sentinels { sentinels, name } => (sentinels, name),
        };
        let mut reasons = Vec::new();
        for sentinel in sentinels {
            let asked = async {
                let mut link = self.connect_to(sentinel).await?;
                let mut ask = ::redis::cmd("SENTINEL");
                ask.arg("get-master-addr-by-name").arg(name);
                ask.query_async::<Option<(String, u16)>>(&mut link).await
            };
            match asked.await {
                Ok(Some((host, port))) => {
                    let client = self.address.client(&host, port).map_err(ConnectError::Refused)?;
                    return Ok((client, format!("{host}:{port}")));
                }
                Ok(None) => reasons.push(format!("no primary {name:?} is known")),
                Err(error) => reasons.push(error.to_string()),
            }
        }
        Err(ConnectError::Away(reasons.join("; ")))
    }

    /// Refuses a server that would lose what it acknowledged, or is not the one to write to. Whether it never loses
    /// anything.
    async fn check(&self, link: &mut MultiplexedConnection) -> Result<bool, ConnectError> {
        let refusal = |error: RedisError| self.refusal(&error);
        let role: Vec<Value> = ::redis::cmd("ROLE").query_async(link).await.map_err(refusal)?;
        if role.into_iter().next().map(bytes).as_deref() != Some(b"master") {
            return Err(ConnectError::Away("it is a replica".to_owned()));
        }
        let mut settings = BTreeMap::new();
        for name in EVICTION.into_iter().chain(DURABLE.map(|(name, _)| name)) {
            let asked = ::redis::cmd("CONFIG").arg("GET").arg(name).query_async(link).await;
            let pair: Vec<String> = match asked {
                Ok(pair) => pair,
                Err(error) if error.is_io_error() => return Err(refusal(error)),
                // Where settings cannot be read, only the operator knows them.
                Err(_) if self.may_lose() => continue,
                Err(error) => {
                    return self.refuse(format!("it does not allow CONFIG GET: {error}"));
                }
            };
            settings.insert(name, pair.into_iter().nth(1).unwrap_or_default());
        }
        let is = |name, value| settings.get(name).is_none_or(|found| found == value);
        // Rows that vanish one by one leave what nobody can make sense of, so this is never accepted.
        if !is("maxmemory", "0") && !is("maxmemory-policy", "noeviction") {
            return self.refuse("it removes keys: set maxmemory-policy noeviction".to_owned());
        }
        match DURABLE.iter().find(|(name, right)| !is(name, right)) {
            Some((name, right)) if !self.may_lose() => {
                let or = self.journal.as_ref().map_or("", |_| OR_LANDED);
                self.refuse(format!("{name} is {}: set {name} {right}{or}", settings[name]))
            }
            Some(_) => Ok(false),
            // Of settings that could not be read nothing is known.
            None => {
                let all = DURABLE.iter().all(|(name, _)| settings.contains_key(name));
                Ok(all && matches!(self.address.at, Where::Server(_)))
            }
        }
    }

    fn refuse<T>(&self, reason: String) -> Result<T, ConnectError> {
        let server = self.address.shown.clone();
        Err(ConnectError::Refused(OpenError::NotDurable { server, reason }))
    }

    /// Looks that the journal can be used; who lands it sees to that.
    async fn join(&self, link: &mut RedisLink, server: &str) -> Result<(), Failure> {
        let life = link.life(0, 0, server).await.map_err(|away| Failure::Lost(away.0))?;
        match life.run.filter(|_| life.is_intact) {
            Some(run) => {
                link.run = Some(run);
                Ok(())
            }
            None => Err(Failure::Lost(
                "the journal is not ready, or may have lost something".to_owned(),
            )),
        }
    }

    /// Makes the first rows unless they are there, and raises the generation if commits may have been lost.
    async fn found(&self, link: &mut RedisLink) -> Result<(), Failure> {
        let place: Place = (Table::Meta, rules::GENERATION_KEY.to_vec());
        let primary = link.primary().await?;
        let row = link.begin(Mode::Write, std::slice::from_ref(&place)).await?.pop().flatten();
        let highest = self.highest.load(Ordering::Relaxed).max(link.count);
        let is_new = link.primary != primary;
        if row.is_none() && highest == 0 {
            return link.change(&super::first_writes(), is_new).await;
        }
        let lost = link.count < highest || (is_new && !primary.is_empty());
        if !lost {
            let nothing = Writes::new();
            return if is_new { link.change(&nothing, true).await } else { Ok(()) };
        }
        tracing::warn!(
            server = self.address.shown,
            "the store failed over and may have lost commits"
        );
        if row.is_none() {
            let reason = "all that was stored there is gone: restore it".to_owned();
            return Err(Failure::Lost(reason));
        }
        let (mut tables, limits) = (MemoryTables::default(), Limits::default());
        tables.apply(Writes::from([(place, row)]));
        let mut stage = Stage::new(&tables, &limits);
        rules::generation(&stage)
            .and_then(|current| rules::raise_generation(&mut stage, current))
            .map_err(|error| Failure::Lost(error.to_string()))?;
        link.change(&stage.into_writes(), is_new).await?;
        // What was lost is known by now; before, whoever comes back to an empty server would make it anew.
        self.highest.store(link.count + 1, Ordering::Relaxed);
        Ok(())
    }

    /// Has it take a server without rows for one that has lost them, and not for a new one.
    pub fn only_found(self) -> Self {
        self.highest.fetch_max(1, Ordering::Relaxed);
        self
    }

    /// Whether a failed connection is worth another try.
    fn refusal(&self, error: &RedisError) -> ConnectError {
        let reason = error.to_string();
        let is_auth = error.kind() == ErrorKind::AuthenticationFailed;
        if is_auth || matches!(error.code(), Some("NOAUTH" | "WRONGPASS" | "NOPERM")) {
            let server = self.address.shown.clone();
            return ConnectError::Refused(OpenError::Denied { server, reason });
        }
        ConnectError::Away(reason)
    }
}

impl Server for Redis {
    type Link = RedisLink;
    const KIND: &'static str = "redis";
    const SEES_LOSS: bool = true;

    fn shown(&self) -> String {
        self.address.shown.clone()
    }

    fn followers(&self) -> usize {
        self.followers.len()
    }

    async fn connect_follower(&self, follower: usize) -> Result<RedisLink, ConnectError> {
        let refusal = |error: RedisError| self.refusal(&error);
        let Where::Server(client) = &self.followers[follower].at else {
            return Err(ConnectError::Away("it is no single server".to_owned()));
        };
        let connection = self.connect_to(client).await.map_err(refusal)?;
        // What a follower counts says nothing of what its leader has lost.
        let mut link = self.dress(connection, String::new(), Arc::default()).await?;
        if self.journal.is_some() {
            // All that is read together is of one run: in another one entries are counted anew.
            let life = link.life(0, 0, "").await.map_err(|away| ConnectError::Away(away.0))?;
            let none = || ConnectError::Away("it has no journal yet".to_owned());
            link.run = Some(life.run.ok_or_else(none)?);
        }
        Ok(link)
    }

    async fn connect(&self, _: usize) -> Result<RedisLink, ConnectError> {
        let (mut link, server) = self.link().await?;
        let ready = match self.journal {
            Some(_) => self.join(&mut link, &server).await,
            None => self.found(&mut link).await,
        };
        match ready {
            Ok(()) => Ok(link),
            Err(Failure::Retry(reason) | Failure::Lost(reason)) => Err(ConnectError::Away(reason)),
        }
    }
}

impl Redis {
    /// A connection that reads and commits.
    async fn dress(
        &self,
        mut connection: MultiplexedConnection,
        primary: String,
        highest: Arc<AtomicU64>,
    ) -> Result<RedisLink, ConnectError> {
        let mut load = ::redis::pipe();
        for script in SCRIPTS {
            load.cmd("SCRIPT").arg("LOAD").arg(script);
        }
        let scripts = load.query_async(&mut connection).await;
        Ok(RedisLink {
            connection,
            scripts: scripts.map_err(|error| self.refusal(&error))?,
            prefix: self.address.prefix.clone(),
            primary,
            highest,
            run: None,
            backlog_bytes_max: self.journal.as_ref().map_or(0, |journal| journal.backlog_bytes_max),
            count: 0,
            done: 0,
            moment: None,
        })
    }

    /// A connection to a shard that may not be there yet, and the name of the server's life if that may lose something
    /// when it ends, else empty.
    async fn link(&self) -> Result<(RedisLink, String), ConnectError> {
        let refusal = |error: RedisError| self.refusal(&error);
        let (client, primary) = self.primary().await?;
        let mut connection = self.connect_to(&client).await.map_err(refusal)?;
        let is_strict = self.check(&mut connection).await?;
        let mut server = String::new();
        if self.journal.is_some() && !is_strict {
            let mut ask = ::redis::cmd("INFO");
            let info = ask.arg("server").query_async::<String>(&mut connection).await;
            let info = info.map_err(refusal)?;
            let id = info.lines().find_map(|line| line.strip_prefix("run_id:"));
            server = id
                .map(str::to_owned)
                .ok_or_else(|| ConnectError::Away("the server does not name its run".to_owned()))?;
        }
        let link = self.dress(connection, primary, Arc::clone(&self.highest)).await?;
        Ok((link, server))
    }
}

/// A connection.
pub(crate) struct RedisLink {
    connection: MultiplexedConnection,
    /// Names of [`SCRIPTS`] on this server.
    scripts: [String; 5],
    prefix: String,
    /// The server's name where it may become another, else empty.
    primary: String,
    highest: Arc<AtomicU64>,
    /// The run of its journal, if it has one.
    run: Option<u64>,
    backlog_bytes_max: usize,
    /// The count of commits that this attempt is made on.
    count: u64,
    /// The count of which everything is that was read or written.
    done: u64,
    /// What is read of one moment while commits go on.
    moment: Option<Moment>,
}

impl RedisLink {
    /// Which server was written to last, by what is stored.
    async fn primary(&mut self) -> Result<String, Failure> {
        let key = format!("{}:primary", self.prefix);
        let found = ::redis::cmd("GET").arg(key).query_async(&mut self.connection).await;
        found.map(Option::unwrap_or_default).map_err(|error| lost(&error))
    }

    fn script(&self, number: usize) -> Cmd {
        let mut command = ::redis::cmd("EVALSHA");
        command.arg(&self.scripts[number]).arg(1).arg(&self.prefix);
        command
    }

    /// As [`RedisLink::script`] for the scripts that read.
    fn reading(&self, number: usize, begins: bool) -> Cmd {
        let mut command = self.script(number);
        match &self.moment {
            Some(moment) => command.arg("").arg(moment.watch()).arg(moment.known()),
            None if begins => command.arg("").arg("").arg(0),
            None => command.arg(self.count).arg("").arg(0),
        };
        command.arg(self.run_name());
        command
    }

    /// What the server has as the journal's run.
    fn run_name(&self) -> String {
        self.run.map_or_else(String::new, |run| run.to_string())
    }

    /// Has a script read, and takes in what it says beside the rows.
    async fn read(&mut self, command: &Cmd, begins: bool) -> Result<Vec<Vec<u8>>, Failure> {
        let answer = command.query_async::<Vec<Value>>(&mut self.connection).await;
        let mut answer = answer.map_err(|error| lost(&error))?.into_iter();
        let count = number(answer.next().map(bytes).unwrap_or_default());
        let Some(count) = count else {
            let reason = "reading one moment took too long, or the journal was begun anew";
            return Err(Failure::Lost(reason.to_owned()));
        };
        if begins {
            (self.count, self.done) = (count, count);
            self.highest.fetch_max(count, Ordering::Relaxed);
        } else if self.moment.is_none() && count != self.count {
            return Err(Failure::Retry("another process was first".to_owned()));
        }
        let rows = list(answer.next())?;
        if let Some(moment) = &mut self.moment {
            moment.learn(list(answer.next())?)?;
        }
        Ok(rows)
    }

    async fn rows(&mut self, places: &[Place], begins: bool) -> Result<Vec<Found>, Failure> {
        let mut command = self.reading(GET, begins);
        for (table, key) in places {
            command.arg(table.name()).arg(key.as_slice());
        }
        let rows = self.read(&command, begins).await?;
        if rows.len() != places.len() {
            return Err(Failure::Lost("another number of rows than was asked for".to_owned()));
        }
        let rows = rows.into_iter().zip(places).map(|(row, place)| {
            let found = Some(row).filter(|row| !row.is_empty());
            self.moment.as_ref().map_or(found.clone(), |moment| moment.row(place, found))
        });
        Ok(rows.collect())
    }

    async fn live_page(&mut self, table: Table, from: &[u8], max: usize) -> Result<Page, Failure> {
        let mut command = self.reading(PAGE, false);
        let from = if from.is_empty() { b"-".to_vec() } else { [b"[", from].concat() };
        command.arg(table.name()).arg(from).arg(max);
        let mut rows = self.read(&command, false).await?.into_iter();
        let mut page = Page::new();
        while let (Some(key), Some(row)) = (rows.next(), rows.next()) {
            if row.is_empty() {
                return Err(Failure::Lost("a key is listed that has no row".to_owned()));
            }
            page.push((key, row));
        }
        Ok(page)
    }

    async fn write(&mut self, writes: &Writes, name_primary: bool) -> Result<(), CommitFailure> {
        let mut command = self.script(COMMIT);
        command.arg(self.count).arg(if name_primary { self.primary.as_str() } else { "" });
        let entry = self.run.map(|_| landing::encode(writes)).unwrap_or_default();
        command.arg(self.run_name()).arg(entry).arg(self.backlog_bytes_max);
        for ((table, key), row) in writes {
            command.arg(table.name()).arg(key.as_slice()).arg(row.as_deref().unwrap_or_default());
        }
        match command.query_async::<u64>(&mut self.connection).await {
            Ok(1) => {
                self.done = self.count + 1;
                self.highest.fetch_max(self.count + 1, Ordering::Relaxed);
                Ok(())
            }
            Ok(2) => Err(CommitFailure::Lost("the journal was begun anew".to_owned())),
            Ok(3) => Err(CommitFailure::Retry("too much has not landed yet".to_owned())),
            Ok(_) => Err(CommitFailure::Retry("another process was first".to_owned())),
            // What the server refuses before it runs a script.
            Err(error) if is_refused(&error) => Err(CommitFailure::Lost(error.to_string())),
            Err(error) => Err(CommitFailure::Unknown(error.to_string())),
        }
    }

    /// A write of a connection that is being made, which may start anew.
    async fn change(&mut self, writes: &Writes, name_primary: bool) -> Result<(), Failure> {
        self.write(writes, name_primary).await.map_err(|failure| match failure {
            CommitFailure::Retry(reason) => Failure::Retry(reason),
            CommitFailure::Lost(reason) | CommitFailure::Unknown(reason) => Failure::Lost(reason),
        })
    }
}

impl Link for RedisLink {
    async fn begin(&mut self, mode: Mode, first: &[Place]) -> Result<Vec<Found>, Failure> {
        self.moment = None;
        // Whoever names no rows goes on to scan, which takes more than one round trip.
        if mode == Mode::Read && first.is_empty() {
            let mut watch = self.script(WATCH);
            watch.arg(self.run_name());
            let begun = watch.query_async::<Vec<Value>>(&mut self.connection).await;
            let begun: Vec<_> =
                begun.map_err(|error| lost(&error))?.into_iter().map(bytes).collect();
            self.moment = Some(Moment::new(&begun)?);
            return Ok(Vec::new());
        }
        self.rows(first, true).await
    }

    async fn get_many(&mut self, places: &[Place]) -> Result<Vec<Found>, Failure> {
        self.rows(places, false).await
    }

    async fn page(&mut self, table: Table, from: &[u8], max: usize) -> Result<Page, Failure> {
        let mut from = from.to_vec();
        let mut page = Page::new();
        loop {
            let live = self.live_page(table, &from, max).await?;
            let last = live.last().filter(|_| live.len() >= max).map(|(key, _)| key.clone());
            match &self.moment {
                Some(moment) => page.extend(moment.page(table, &from, last.as_deref(), live)),
                None => page.extend(live),
            }
            let Some(last) = last.filter(|_| page.len() < max) else { break };
            from = last;
            from.push(0);
        }
        page.truncate(max);
        Ok(page)
    }

    async fn commit(&mut self, writes: &Writes) -> Result<(), CommitFailure> {
        self.write(writes, false).await
    }

    fn place(&self) -> Option<String> {
        Some(self.primary.clone()).filter(|primary| !primary.is_empty())
    }

    fn position(&self) -> (u64, u64) {
        (self.run.unwrap_or(0), self.done)
    }

    async fn abort(&mut self) -> Result<(), Failure> {
        // Nothing is held. A watch ends by itself: others may use it too.
        self.moment = None;
        Ok(())
    }
}

impl Watch for Redis {
    type Line = MultiplexedConnection;

    /// The servers that sentinels know; one without sentinels has no others.
    async fn list(&self) -> Result<Listed, String> {
        let said = self.ask_sentinels(|name| {
            let mut ask = ::redis::cmd("SENTINEL");
            ask.arg("get-master-addr-by-name").arg(name);
            ask
        });
        let primary: Option<(String, u16)> = said.await?;
        let (host, port) = primary.ok_or_else(|| "no primary of that name is known".to_owned())?;
        let primary = format!("{host}:{port}");
        let said = self.ask_sentinels(|name| {
            let mut ask = ::redis::cmd("SENTINEL");
            ask.arg("replicas").arg(name);
            ask
        });
        let replicas: Vec<BTreeMap<String, String>> = said.await?;
        let name =
            |of: &BTreeMap<String, String>| Some(format!("{}:{}", of.get("ip")?, of.get("port")?));
        let mut names: Vec<String> = replicas.iter().filter_map(name).collect();
        names.push(primary.clone());
        names.sort();
        names.dedup();
        Ok(Listed { names, primary: Some(primary) })
    }

    async fn line(&self, name: &str) -> Result<MultiplexedConnection, String> {
        let place = name.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
        let (host, port) = place.ok_or_else(|| format!("{name} is no address"))?;
        let client = self.address.client(host, port).map_err(|error| error.to_string())?;
        self.connect_to(&client).await.map_err(|error| error.to_string())
    }

    async fn see(&self, line: &mut MultiplexedConnection) -> Result<Seen, String> {
        // `ROLE` forgets the position of a replica that has lost its primary.
        let mut ask = ::redis::cmd("INFO");
        let info = ask.arg("replication").query_async::<String>(line).await;
        let info = info.map_err(|error| error.to_string())?;
        let field = |name: &str| {
            let named = |line: &str| line.strip_prefix(name)?.strip_prefix(':').map(str::to_owned);
            info.lines().find_map(named)
        };
        let is_primary = field("role").as_deref() == Some("master");
        let position = if is_primary { "master_repl_offset" } else { "slave_repl_offset" };
        let position = field(position).and_then(|position| position.trim().parse().ok());
        Ok(Seen { is_primary, position: position.unwrap_or(0) })
    }

    /// Has the sentinels do it, who choose the server themselves.
    async fn promote(&self, from: &str, _: &str) -> Result<(), String> {
        if self.list().await?.primary.as_deref() != Some(from) {
            return Ok(());
        }
        let said = self.ask_sentinels::<Value>(|name| {
            let mut ask = ::redis::cmd("SENTINEL");
            ask.arg("FAILOVER").arg(name);
            ask
        });
        match said.await {
            Err(error) if !error.contains("INPROG") => Err(error),
            _ => Ok(()),
        }
    }
}

impl Redis {
    /// What the first sentinel says that answers.
    async fn ask_sentinels<T: ::redis::FromRedisValue>(
        &self,
        ask: impl Fn(&str) -> Cmd,
    ) -> Result<T, String> {
        let Where::Sentinels { sentinels, name } = &self.address.at else {
            return Err("a Redis without sentinels has no other server".to_owned());
        };
        let mut reasons = Vec::new();
        for sentinel in sentinels {
            let asked = async {
                let mut link = self.connect_to(sentinel).await?;
                ask(name).query_async(&mut link).await
            };
            match asked.await {
                Ok(said) => return Ok(said),
                Err(error) => reasons.push(error.to_string()),
            }
        }
        Err(reasons.join("; "))
    }
}

/// Whether an error says that nothing of a command was done.
fn is_refused(error: &RedisError) -> bool {
    use ServerErrorKind::{BusyLoading, MasterDown, NoPerm, NoScript, ReadOnly};
    match error.kind() {
        ErrorKind::Server(kind) => {
            matches!(kind, BusyLoading | MasterDown | NoPerm | NoScript | ReadOnly)
        }
        _ => matches!(error.code(), Some("BUSY" | "MISCONF" | "NOREPLICAS" | "OOM" | "NOAUTH")),
    }
}

fn lost(error: &RedisError) -> Failure {
    Failure::Lost(error.to_string())
}

fn bytes(value: Value) -> Vec<u8> {
    match value {
        Value::BulkString(bytes) => bytes,
        Value::SimpleString(text) => text.into_bytes(),
        Value::Int(number) => number.to_string().into_bytes(),
        _ => Vec::new(),
    }
}

fn number(bytes: Vec<u8>) -> Option<u64> {
    String::from_utf8(bytes).ok()?.parse().ok()
}

fn list(value: Option<Value>) -> Result<Vec<Vec<u8>>, Failure> {
    match value {
        Some(Value::Array(items)) => Ok(items.into_iter().map(bytes).collect()),
        // Lua has no empty lists of its own.
        Some(Value::Nil) => Ok(Vec::new()),
        _ => Err(Failure::Lost("an answer that a script of ours does not give".to_owned())),
    }
}
