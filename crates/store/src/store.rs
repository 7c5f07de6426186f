use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::answer::{Answer, channel};
use crate::embedded::Embedded;
use crate::error::{Error, OpenError};
use crate::ledger::{
    AuditEntry, Holdings, Item, ItemId, LedgerOp, Outgoing, Receipt, Supply, Transaction, TxnId,
    Verdict,
};
use crate::options::{Limits, Options};
use crate::proxy::{self, Proxy};
use crate::queue::Asked;
#[cfg(feature = "remote")]
use crate::queue::Work;
use crate::record::{Lock, LockAsk, Record, RecordId, RecordWrite, Records};
use crate::rules::{self, Activations, Of};
use crate::shard::Shard;
use crate::sharded::{MoveCounts, MoveEnd, Sharded, SlotMove};
use crate::slots::{ShardInfo, Slot, SlotAsk, SlotTold};
use crate::tables::Stage;
use crate::types::{Activate, Activated, Claim, Entity, Incarnation, Key, NodeBeat, Pulse, Save};

/// A shard behind a handle: cheap to clone, and the same whatever it is stored in.
///
/// Requests of one handle are done in their order. An answer comes after what it says is durable
/// (for [`Store::memory`]: in memory). Nothing blocks the caller; a full queue answers
/// [`Error::Busy`].
///
/// When the last clone is dropped, all that was asked is done before `drop` returns.
#[derive(Clone)]
pub struct Store {
    backend: Arc<Backend>,
    /// Whether it is asked as a shard of a set.
    is_shard: bool,
}

enum Backend {
    Memory(Mutex<Shard>),
    Embedded(Embedded),
    #[cfg(feature = "sqlite")]
    Sqlite(crate::sqlite::Sqlite),
    #[cfg(feature = "remote")]
    Remote(crate::remote::Remote),
    Sharded(Arc<Sharded>),
    Proxy(Proxy),
    /// The first is dropped first, and ends what it does.
    #[cfg(feature = "redis")]
    Journal(crate::remote::Remote, crate::landing::Landing),
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.backend {
            Backend::Memory(_) => f.write_str("Store::memory"),
            Backend::Embedded(_) => f.write_str("Store::embedded"),
            #[cfg(feature = "sqlite")]
            Backend::Sqlite(_) => f.write_str("Store::sqlite"),
            #[cfg(feature = "remote")]
            Backend::Remote(remote) => write!(f, "Store::{}", remote.kind()),
            Backend::Sharded(set) => write!(f, "Store::sharded({set:?})"),
            Backend::Proxy(_) => f.write_str("Store::proxy"),
            #[cfg(feature = "redis")]
            Backend::Journal(..) => f.write_str("Store::journal"),
        }
    }
}

impl Store {
    /// A store that ends with its last handle. Every answer is there at once.
    pub fn memory(limits: Limits) -> Self {
        Store {
            is_shard: false,
            backend: Arc::new(Backend::Memory(Mutex::new(Shard::new(limits)))),
        }
    }

    /// As [`Store::memory`], with what `shard` holds.
    pub fn of_shard(shard: Shard) -> Self {
        Store { is_shard: false, backend: Arc::new(Backend::Memory(Mutex::new(shard))) }
    }

    /// Has `act` done with the shard of a store in memory; `None` if it is another.
    pub fn with_shard<R>(&self, act: impl FnOnce(&mut Shard) -> R) -> Option<R> {
        match &*self.backend {
            Backend::Memory(shard) => {
                Some(act(&mut shard.lock().unwrap_or_else(PoisonError::into_inner)))
            }
            _ => None,
        }
    }

    /// A store in the file at `path`, made if it is not there; its folder must be.
    ///
    /// One process, one handle and its clones: a second is [`OpenError::InUse`]. A thread commits
    /// what waits, many requests in one durable transaction. If a write to the disk fails, every
    /// request that was under way is answered [`Error::Unknown`] and each later one
    /// [`Error::Stopped`]; only opening the file anew tells what is on it.
    pub fn embedded(path: impl AsRef<Path>, options: Options) -> Result<Self, OpenError> {
        let embedded = Embedded::open(path.as_ref(), options)?;
        Ok(Store { is_shard: false, backend: Arc::new(Backend::Embedded(embedded)) })
    }

    /// A store in the SQLite file at `path`, made if it is not there; its folder must be.
    ///
    /// Several processes of one machine may have it open at once: they wait for each other, for two
    /// seconds at most, then answer [`Error::Busy`]. Else as [`Store::embedded`]; `cache_bytes` is
    /// SQLite's own. The file system must be a local one.
    #[cfg(feature = "sqlite")]
    pub fn sqlite(path: impl AsRef<Path>, options: Options) -> Result<Self, OpenError> {
        let sqlite = crate::sqlite::Sqlite::open(path.as_ref(), options)?;
        Ok(Store { is_shard: false, backend: Arc::new(Backend::Sqlite(sqlite)) })
    }

    /// A store in the PostgreSQL database at `url` (`postgres://user@host:port/database`; several
    /// hosts by commas, of which the one that takes writes is used). What it needs is made there on
    /// first use, in the schema that the user has by default.
    ///
    /// Several processes may have it open at once: each batch of requests takes the shard's lock,
    /// and what waits too long for it is [`Error::Busy`]. If the connection breaks, requests wait
    /// for a new one, then are [`Error::Unavailable`]; a commit whose answer was lost is found out
    /// on the new connection, and is [`Error::Unknown`] only if that took too long. The store
    /// connects again for ever. Blocks until it is connected, at most `open_wait`.
    ///
    /// Except to this machine itself, connections are encrypted and the server's certificate is
    /// checked, unless the address says `sslmode=disable`.
    #[cfg(feature = "postgres")]
    pub fn postgres(url: &str, options: crate::ServerOptions) -> Result<Self, OpenError> {
        let server = crate::remote::Postgres::new(url, &options)?;
        Ok(Self::of_remote(crate::remote::Remote::open(server, options)?))
    }

    /// A store in the MariaDB or MySQL database at `url` (`mysql://user@host:port/database`, also
    /// several hosts). Else as `Store::postgres`; to go without encryption the address says `require_ssl=false`.
    #[cfg(feature = "mysql")]
    pub fn mysql(url: &str, options: crate::ServerOptions) -> Result<Self, OpenError> {
        let server = crate::remote::Mysql::new(url, &options)?;
        Ok(Self::of_remote(crate::remote::Remote::open(server, options)?))
    }

    /// A store in Redis at `url`: `redis://host:port/database?shard=name`, where names of shards tell
    /// several in one database apart (default `0`), or
    /// `redis-sentinel://host:port,host:port/primary/database?shard=name`.
    ///
    /// It is refused unless Redis syncs each write before it answers (`appendonly yes`,
    /// `appendfsync always`), and with sentinels always, since a failover of Redis may lose what was
    /// acknowledged: `accept_loss` takes that. A failover that is seen raises the generation.
    /// Nothing is locked, so a process that stands still stops nobody. Without encryption. Else as
    /// `Store::postgres`.
    #[cfg(feature = "redis")]
    pub fn redis(url: &str, options: crate::ServerOptions) -> Result<Self, OpenError> {
        let server = crate::remote::Redis::new(url, &options, None)?;
        Ok(Self::of_remote(crate::remote::Remote::open(server, options)?))
    }

    /// As `Store::redis`, with a journal of all that is written, which lands in `target`: a store of its own that
    /// nobody else uses. The target may be away for as long as its backlog fits into the journal; when Redis
    /// loses what it has, it is filled again with what has landed, and everything is activated anew.
    ///
    /// Each process that opens it helps to land. Blocks until the journal can be used, which takes as long as
    /// reading the whole target if it has to be filled.
    ///
    /// Errors: [`OpenError::NotDurable`] if Redis may lose what `landing` says is acknowledged there;
    /// [`OpenError::Denied`] if journal and target do not belong together.
    #[cfg(feature = "redis")]
    pub fn journal(
        url: &str,
        options: crate::ServerOptions,
        target: Store,
        landing: crate::LandingOptions,
    ) -> Result<Self, OpenError> {
        let server = || crate::remote::Redis::new(url, &options, Some(landing.clone()));
        let mut random = env::Random::from_os();
        let journal = crate::remote::RedisJournal::new(Arc::new(server()?), random.u64() >> 1);
        let lands_first = landing.acknowledge == crate::Acknowledge::Landed;
        let thread = crate::landing::Landing::start(crate::landing::Open {
            journal,
            target,
            options: landing.clone(),
            open_wait: options.open_wait,
            random,
        })?;
        let settle = lands_first.then(|| thread.settle());
        let remote = crate::remote::Remote::open_settled(server()?, options.clone(), settle)?;
        Ok(Store { backend: Arc::new(Backend::Journal(remote, thread)), is_shard: false })
    }

    /// Has this server (`host:port`) of a store on several used from now on, and no other: what those who
    /// watch them say. A connection to another one is given up at once; what was under way there is found
    /// out at this one. `false` if the store knows no such server; stores that have one server, or follow
    /// it by themselves, go on as before.
    #[cfg_attr(
        not(feature = "remote"),
        expect(unused_variables, reason = "no store is on servers then")
    )]
    pub fn steer(&self, to: &str) -> bool {
        match &*self.backend {
            #[cfg(feature = "remote")]
            Backend::Remote(remote) => remote.steer(to),
            #[cfg(feature = "redis")]
            Backend::Journal(remote, _) => remote.steer(to),
            _ => true,
        }
    }

    /// The store in which the journal lands, to look at; `None` if this store has no journal.
    pub fn landing_target(&self) -> Option<Store> {
        match &*self.backend {
            #[cfg(feature = "redis")]
            Backend::Journal(_, landing) => Some(landing.target()),
            _ => None,
        }
    }

    /// How far the journal has landed, `None` if the store has none.
    pub fn landing(&self) -> Option<crate::LandingReport> {
        match &*self.backend {
            #[cfg(feature = "redis")]
            Backend::Journal(_, landing) => Some(landing.report()),
            _ => None,
        }
    }

    /// A store in the MongoDB database at `url` (`mongodb://user@host,host/database?replicaSet=name`;
    /// default database: `mainstay`), in its collection `rows`.
    ///
    /// It needs transactions and snapshots, so a replica set or a sharded cluster, of version 5.0 or newer; a
    /// single server is refused. Commits are acknowledged by a majority, journalled. A process that
    /// dies in the middle of a commit stops others until the server ends its transaction
    /// (`transactionLifetimeLimitSeconds`, 60 s). Else as `Store::postgres`; whether connections
    /// are encrypted is said in the address (`tls=true`).
    #[cfg(feature = "mongodb")]
    pub fn mongodb(url: &str, options: crate::ServerOptions) -> Result<Self, OpenError> {
        let server = crate::remote::Mongodb::new(url, &options)?;
        Ok(Self::of_remote(crate::remote::Remote::open(server, options)?))
    }

    #[cfg(feature = "remote")]
    pub(crate) fn of_remote(remote: crate::remote::Remote) -> Self {
        Store { is_shard: false, backend: Arc::new(Backend::Remote(remote)) }
    }

    #[cfg(test)]
    pub(crate) fn of_embedded(embedded: Embedded) -> Self {
        Store { is_shard: false, backend: Arc::new(Backend::Embedded(embedded)) }
    }

    /// One store over several, each with its name: every key is in the one that has its slot.
    ///
    /// Shards that are new are made: each of them gets an equal share of the slots, unless one holds
    /// something already, which then has all of them. A shard that comes to a set later has none
    /// until [`move_slots`](Self::move_slots) brings it some. Blocks until all shards have answered.
    ///
    /// A transaction is of one shard; what would be of two is [`Error::AcrossShards`]. A node lives in
    /// all shards or in none. Outbox, audit and copies are each shard's own: see
    /// [`shards`](Self::shards).
    pub fn sharded(shards: Vec<(String, Store)>) -> Result<Self, OpenError> {
        let set = Sharded::open(shards)?;
        Ok(Store { is_shard: false, backend: Arc::new(Backend::Sharded(set)) })
    }

    /// The shards of which it is one store, with their names; none if it is no set.
    pub fn shards(&self) -> &[(String, Store)] {
        self.set().map_or(&[], |set| set.members())
    }

    /// The names of [`shards`](Self::shards), also of a store behind data processes.
    pub fn shard_names(&self) -> Answer<Vec<String>> {
        if let Some(proxy) = self.behind() {
            return proxy.ask(&proxy::ShardNames {});
        }
        let (sender, answer) = channel();
        sender.send(Ok(self.shards().iter().map(|(name, _)| name.clone()).collect()));
        answer
    }

    /// How often a request went to a shard whose slot had moved, and was sent on.
    pub fn redirects(&self) -> u64 {
        self.set().map_or(0, |set| set.redirects())
    }

    /// Which of [`shards`](Self::shards) is believed to have a key.
    pub fn shard_of(&self, key: Key) -> usize {
        self.set().map_or(0, |set| set.shard_of(key))
    }

    /// Which of them is believed to have a slot.
    #[cfg(test)]
    pub(crate) fn shard_of_slot(&self, slot: Slot) -> usize {
        self.set().map_or(0, |set| set.shard_of_slot(slot))
    }

    /// What each shard says of itself and its slots. Blocks; empty if it is no set.
    ///
    /// # Errors
    ///
    /// Of the first shard that does not answer.
    pub fn slot_map(&self) -> Result<Vec<(String, ShardInfo)>, Error> {
        self.set().map_or(Ok(Vec::new()), |set| set.describe())
    }

    /// Moves slots from the shard that has them to another (numbers of [`shards`](Self::shards)) while
    /// nodes go on. Blocks; meant for a tool. `token` is random, and names this move for ever.
    ///
    /// What is written meanwhile waits for a moment at the end of it. Should this process die, the
    /// slots stay where they are, or are where they should be, whatever step it was at; running it
    /// again begins anew. `watch` sees each step before it is asked for, and ends everything by false.
    ///
    /// # Panics
    /// If this store is no set, or has no such shards.
    pub fn move_slots(
        &self,
        slots: Vec<Slot>,
        between: (usize, usize),
        token: u64,
        at_ms: u64,
        watch: impl FnMut(&SlotMove) -> bool,
    ) -> (MoveEnd, MoveCounts) {
        let set = self.set().expect("slots are moved within a set");
        set.move_slots(slots, between, token, at_ms, watch)
    }

    /// The same, asked as a shard of a set.
    pub(crate) fn into_shard(self) -> Self {
        Store { is_shard: true, ..self }
    }

    /// The store that data processes at `addresses` (`host:port`) serve under `name` to whoever has `key`; see
    /// [`DataService`](crate::DataService). One of them is asked at a time, another as soon as that one is
    /// lost or says nothing for `silence_wait`.
    ///
    /// What was asked of one that is lost: readings and beats are asked again, transactions are looked up by
    /// their ids, and are [`Error::Unknown`] as everything else is if they are not found done. Blocks until
    /// one answers, at most `open_wait`. A shard of a store is served as `NAME/SHARD`; to move slots is the
    /// business of whoever has the store itself.
    ///
    /// Errors: [`OpenError::Denied`] if none of them has the key and the store; [`OpenError::Away`].
    pub fn proxy(
        addresses: &[String],
        name: &str,
        key: &[u8],
        options: crate::ProxyOptions,
    ) -> Result<Self, OpenError> {
        let proxy = Proxy::open(addresses, name, key, options)?;
        Ok(Store { is_shard: false, backend: Arc::new(Backend::Proxy(proxy)) })
    }

    pub(crate) fn behind(&self) -> Option<&Proxy> {
        match &*self.backend {
            Backend::Proxy(proxy) => Some(proxy),
            _ => None,
        }
    }

    /// The server that has its rows.
    #[cfg(feature = "remote")]
    fn remote(&self) -> Option<&crate::remote::Remote> {
        match &*self.backend {
            Backend::Remote(remote) => Some(remote),
            #[cfg(feature = "redis")]
            Backend::Journal(remote, _) => Some(remote),
            _ => None,
        }
    }

    fn set(&self) -> Option<&Arc<Sharded>> {
        match &*self.backend {
            Backend::Sharded(set) => Some(set),
            _ => None,
        }
    }

    /// Submits a rule that never writes.
    pub(crate) fn read<T: Send + 'static>(
        &self,
        rule: impl FnMut(&mut Stage<'_>) -> Result<T, Error> + Send + 'static,
    ) -> Answer<T> {
        self.ask(Asked { bytes: SMALL, only_reads: true, settles: false }, rule)
    }

    /// Submits a rule that never writes, and by whose answer something valuable is believed.
    fn read_settled<T: Send + 'static>(
        &self,
        rule: impl FnMut(&mut Stage<'_>) -> Result<T, Error> + Send + 'static,
    ) -> Answer<T> {
        self.ask(Asked { bytes: SMALL, only_reads: true, settles: true }, rule)
    }

    /// Submits a rule that never writes, whose answer may be old.
    fn look<T: Send + 'static>(
        &self,
        age_max: Duration,
        rule: impl FnMut(&mut Stage<'_>) -> Result<T, Error> + Send + 'static,
    ) -> Answer<T> {
        #[cfg(feature = "remote")]
        if let Some(followers) = self.remote().and_then(crate::remote::Remote::followers) {
            let (sender, answer) = channel();
            let asked = Asked { bytes: SMALL, only_reads: true, settles: false };
            let rule = self.guarded(rule);
            followers.look(Box::new(Work::new(rule, asked, sender)), asked.bytes, age_max);
            return answer;
        }
        // Elsewhere there is nothing older.
        let _ = age_max;
        self.read(rule)
    }

    pub(crate) fn submit<T: Send + 'static>(
        &self,
        bytes: usize,
        rule: impl FnMut(&mut Stage<'_>) -> Result<T, Error> + Send + 'static,
    ) -> Answer<T> {
        self.ask(Asked { bytes, only_reads: false, settles: false }, rule)
    }

    /// Submits a rule that does something valuable.
    fn submit_settled<T: Send + 'static>(
        &self,
        bytes: usize,
        rule: impl FnMut(&mut Stage<'_>) -> Result<T, Error> + Send + 'static,
    ) -> Answer<T> {
        self.ask(Asked { bytes, only_reads: false, settles: true }, rule)
    }

    fn ask<T: Send + 'static>(
        &self,
        asked: Asked,
        rule: impl FnMut(&mut Stage<'_>) -> Result<T, Error> + Send + 'static,
    ) -> Answer<T> {
        let (sender, answer) = channel();
        let rule = self.guarded(rule);
        match &*self.backend {
            Backend::Memory(shard) => {
                let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
                let result = shard.run(rule);
                drop(shard);
                sender.send(result);
            }
            Backend::Embedded(embedded) => embedded.thread().submit(asked, rule, sender),
            #[cfg(feature = "sqlite")]
            Backend::Sqlite(sqlite) => sqlite.thread().submit(asked, rule, sender),
            #[cfg(feature = "remote")]
            Backend::Remote(remote) => remote.thread().submit(asked, rule, sender),
            Backend::Sharded(_) => {
                sender.send(Err(Error::Malformed("of a set of shards, ask each by itself")));
            }
            Backend::Proxy(_) => {
                sender.send(Err(Error::Malformed("ask it of a process that has the store itself")));
            }
            #[cfg(feature = "redis")]
            Backend::Journal(remote, _) => remote.thread().submit(asked, rule, sender),
        }
        answer
    }

    /// The same rule, which is refused where the slots that it looks at are not.
    fn guarded<T>(
        &self,
        mut rule: impl FnMut(&mut Stage<'_>) -> Result<T, Error> + Send + 'static,
    ) -> impl FnMut(&mut Stage<'_>) -> Result<T, Error> + Send + 'static {
        let is_shard = self.is_shard;
        move |s: &mut Stage<'_>| {
            if is_shard {
                s.check_slots();
            }
            let told = rule(s)?;
            s.seal()?;
            Ok(told)
        }
    }

    /// Does one step of moving slots, or tells which slots the shard has. For whoever moves them;
    /// not for a store over several shards.
    pub fn slots(&self, ask: SlotAsk) -> Answer<SlotTold> {
        match ask {
            SlotAsk::Describe | SlotAsk::Page { .. } | SlotAsk::Sums { .. } => {
                self.read(move |s| rules::slots::step(s, &ask))
            }
            SlotAsk::Fill { ref rows, .. } => {
                let bytes =
                    rows.iter().map(|row| row.key.len() + row.row.as_ref().map_or(0, Vec::len));
                let bytes = SMALL + bytes.sum::<usize>();
                self.submit(bytes, move |s| rules::slots::step(s, &ask))
            }
            _ => self.submit(SMALL, move |s| rules::slots::step(s, &ask)),
        }
    }

    /// Raises the beat counter of a node, which the first beat makes known to the shard.
    ///
    /// Errors: [`Error::Dead`].
    pub fn beat(&self, incarnation: Incarnation) -> Answer<Pulse> {
        if let Some(proxy) = self.behind() {
            return proxy.ask(&proxy::Beat { incarnation });
        }
        if let Some(set) = self.set() {
            return set.beat(incarnation);
        }
        self.submit(SMALL, move |s| rules::beat(s, incarnation))
    }

    /// The nodes that are not dead, in the order of their incarnations, at most `scan_max`.
    pub fn nodes(&self) -> Answer<Vec<NodeBeat>> {
        if let Some(proxy) = self.behind() {
            return proxy.ask(&proxy::Nodes {});
        }
        if let Some(set) = self.set() {
            return set.nodes();
        }
        self.read(rules::nodes)
    }

    /// The row of one node, dead or alive; `None` if it never beat.
    pub fn node(&self, incarnation: Incarnation) -> Answer<Option<NodeBeat>> {
        if let Some(proxy) = self.behind() {
            return proxy.ask(&proxy::Node { incarnation });
        }
        if let Some(set) = self.set() {
            return set.node(incarnation);
        }
        self.read(move |s| rules::node(s, incarnation))
    }

    /// Declares a node dead for ever if it still stands at `beat`. Done before: `Ok`.
    ///
    /// What it owned is free from then on. What it had sent before an entity was taken may still
    /// arrive and counts; after that it is [`Error::Fenced`].
    ///
    /// Errors: [`Error::BeatMoved`], [`Error::UnknownNode`].
    pub fn mark_dead(&self, incarnation: Incarnation, beat: u64) -> Answer<()> {
        if let Some(proxy) = self.behind() {
            return proxy.ask(&proxy::MarkDead { incarnation, beat });
        }
        if let Some(set) = self.set() {
            return set.mark_dead(incarnation, beat);
        }
        self.submit(SMALL, move |s| rules::mark_dead(s, incarnation, beat))
    }

    /// The shard's generation.
    pub fn generation(&self) -> Answer<u64> {
        if let Some(proxy) = self.behind() {
            return proxy.ask(&proxy::Generation {});
        }
        if let Some(set) = self.set() {
            return set.generation();
        }
        self.read(|s| rules::generation(s))
    }

    /// Raises the generation by one if it is `current`: every claim from before is refused from
    /// then on. The answer is the new one.
    ///
    /// Errors: [`Error::Generation`].
    pub fn raise_generation(&self, current: u64) -> Answer<u64> {
        if let Some(proxy) = self.behind() {
            return proxy.ask(&proxy::RaiseGeneration { current });
        }
        if let Some(set) = self.set() {
            return set.raise_generation(current);
        }
        self.submit_settled(SMALL, move |s| rules::raise_generation(s, current))
    }

    /// Takes an entity that is free, released, or owned by a dead node, with the next epoch.
    ///
    /// Errors: [`Error::Owned`], [`Error::Dead`] or [`Error::UnknownNode`] of the asker,
    /// [`Error::Generation`].
    pub fn activate(&self, ask: Activate) -> Answer<Activated> {
        if let Some(proxy) = self.behind() {
            return proxy.ask(&proxy::ActivateOne { ask });
        }
        if let Some(set) = self.set() {
            return set.activate(ask);
        }
        self.submit(SMALL, move |s| rules::activate(s, &ask))
    }

    /// As many [`Store::activate`] in one step, each with its own outcome, in the same order.
    ///
    /// Errors: [`Error::TooLarge`] above `activate_max`, then none is done.
    pub fn activate_many(&self, asks: Vec<Activate>) -> Answer<Activations> {
        if let Some(proxy) = self.behind() {
            return proxy.ask(&proxy::ActivateMany { asks });
        }
        if let Some(set) = self.set() {
            return set.activate_many(asks);
        }
        self.submit(SMALL * (1 + asks.len()), move |s| rules::activate_many(s, &asks))
    }

    /// Gives an entity back. Save first: `version` must be that of the last save.
    ///
    /// Errors: [`Error::Fenced`], [`Error::Conflict`], [`Error::Generation`].
    pub fn release(&self, claim: Claim, version: u64) -> Answer<()> {
        if let Some(proxy) = self.behind() {
            return proxy.ask(&proxy::Release { claim, version });
        }
        if let Some(set) = self.set() {
            return set.release(claim, version);
        }
        self.submit(SMALL, move |s| rules::release(s, &claim, version))
    }

    /// Writes the sub-documents that changed. The answer is the new version, one above the old.
    ///
    /// Errors: [`Error::Fenced`], [`Error::Conflict`], [`Error::Generation`],
    /// [`Error::TooLarge`], [`Error::Malformed`].
    pub fn save(&self, save: Save) -> Answer<u64> {
        if let Some(proxy) = self.behind() {
            return proxy.ask(&proxy::SaveOne { save });
        }
        if let Some(set) = self.set() {
            return set.save(save);
        }
        self.submit(save.bytes(), move |s| rules::save(s, &save))
    }

    /// Reads an entity, whoever owns it; `None` if it was never activated. Locks nothing.
    ///
    /// Errors: [`Error::Corrupt`], never empty documents in its place.
    pub fn load(&self, key: Key) -> Answer<Option<Entity>> {
        if let Some(proxy) = self.behind() {
            return proxy.ask(&proxy::Load { key });
        }
        if let Some(set) = self.set() {
            return set.load(key);
        }
        self.read(move |s| rules::load(s, key))
    }

    /// As [`Store::load`], as it was at most `age_max` ago: by a follower if the server has one that is
    /// known to be no older, else by the leader. For those who only look; nothing may be decided by it.
    ///
    /// Age is measured by this process' clock alone, from when it knew of what the follower has, so no
    /// clocks need agree. A follower that was made a primary, or whose leader was left for another, may for
    /// that long show what only it was told.
    pub fn load_aged(&self, key: Key, age_max: Duration) -> Answer<Option<Entity>> {
        if let Some(proxy) = self.behind() {
            return proxy.ask(&proxy::LoadAged { key, age_max });
        }
        if let Some(set) = self.set() {
            return set.load_aged(key, age_max);
        }
        self.look(age_max, move |s| rules::load(s, key))
    }

    /// Where reads that may be old were answered, in all shards.
    pub fn follower_counts(&self) -> crate::FollowerCounts {
        match &*self.backend {
            #[cfg(feature = "remote")]
            Backend::Remote(remote) => remote.follower_counts(),
            #[cfg(feature = "redis")]
            Backend::Journal(remote, _) => remote.follower_counts(),
            Backend::Sharded(set) => {
                let each = set.members().iter().map(|(_, store)| store.follower_counts());
                each.fold(crate::FollowerCounts::default(), |sum, one| crate::FollowerCounts {
                    follower: sum.follower + one.follower,
                    too_old: sum.too_old + one.too_old,
                    away: sum.away + one.away,
                })
            }
            _ => crate::FollowerCounts::default(),
        }
    }

    /// Does a transaction once: a second try of the same content gets the same receipt.
    ///
    /// Errors: [`Error::Refused`], [`Error::Fenced`], [`Error::Conflict`],
    /// [`Error::LedgerMoved`], [`Error::Generation`], [`Error::TxnReused`], [`Error::TooLarge`],
    /// [`Error::Malformed`]; nothing was done. A refusal is not remembered: the same id may be
    /// tried again.
    pub fn commit(&self, txn: Transaction) -> Answer<Receipt> {
        if let Some(proxy) = self.behind() {
            return proxy.ask(&proxy::Commit { txn });
        }
        if let Some(set) = self.set() {
            return set.commit(txn);
        }
        // Here rather than on the store's thread, which is the busiest.
        let content = txn.content_hash();
        self.submit_settled(txn.bytes(), move |s| rules::commit(s, &txn, content))
    }

    /// The receipt of a transaction if it was done; how an unknown outcome becomes known.
    pub fn lookup(&self, id: TxnId) -> Answer<Option<Receipt>> {
        if let Some(proxy) = self.behind() {
            return proxy.ask(&proxy::Lookup { id });
        }
        if let Some(set) = self.set() {
            return set.lookup(id);
        }
        self.read_settled(move |s| rules::lookup(s, id))
    }

    /// What a holder has, and its ledger version.
    pub fn holdings(&self, holder: Key) -> Answer<Holdings> {
        if let Some(proxy) = self.behind() {
            return proxy.ask(&proxy::HoldingsOf { holder });
        }
        if let Some(set) = self.set() {
            return set.holdings(holder);
        }
        self.read(move |s| rules::holdings(s, holder))
    }

    /// An item, also one that is destroyed.
    pub fn item(&self, id: ItemId) -> Answer<Option<Item>> {
        if let Some(proxy) = self.behind() {
            return proxy.ask(&proxy::ItemOf { id });
        }
        if let Some(set) = self.set() {
            return set.item(id);
        }
        self.read(move |s| rules::item(s, id))
    }

    /// How much of a currency or kind of item was made and destroyed.
    pub fn supply(&self, of: Of) -> Answer<Supply> {
        if let Some(proxy) = self.behind() {
            return proxy.ask(&proxy::SupplyOf { of });
        }
        if let Some(set) = self.set() {
            return set.supply(of);
        }
        self.read(move |s| rules::supply(s, of))
    }

    /// Messages of committed transactions after a place, oldest first, at most `max` and `scan_max`.
    ///
    /// They stay until [`Store::outbox_ack`], so a relay may deliver one twice, never none.
    pub fn outbox(&self, after: u64, max: usize) -> Answer<Vec<Outgoing>> {
        if let Some(proxy) = self.behind() {
            return proxy.ask(&proxy::Outbox { after, max });
        }
        self.read_settled(move |s| rules::outbox(s, after, max))
    }

    /// Removes messages up to a place. The answer says how many, at most `scan_max`: ask again
    /// while it is not zero.
    pub fn outbox_ack(&self, up_to: u64) -> Answer<usize> {
        if let Some(proxy) = self.behind() {
            return proxy.ask(&proxy::OutboxAck { up_to });
        }
        self.submit(SMALL, move |s| rules::outbox_ack(s, up_to))
    }

    /// What was committed after a place, oldest first, at most `max` and `scan_max`.
    pub fn audit(&self, after: u64, max: usize) -> Answer<Vec<AuditEntry>> {
        if let Some(proxy) = self.behind() {
            return proxy.ask(&proxy::Audit { after, max });
        }
        self.read(move |s| rules::audit(s, after, max))
    }

    /// Forgets the ids of transactions before a time (milliseconds since 1970), oldest first and up
    /// to the first that is not older; the audit keeps them. Keep them for 7 days at least: an id
    /// that is forgotten would be done again. The answer says how many, at most `scan_max`: ask
    /// again while it is not zero.
    pub fn forget(&self, before_ms: u64) -> Answer<usize> {
        if let Some(proxy) = self.behind() {
            return proxy.ask(&proxy::Forget { before_ms });
        }
        if let Some(set) = self.set() {
            return set.forget(before_ms);
        }
        self.submit(SMALL, move |s| rules::forget(s, before_ms))
    }

    /// Reads records as they are at one moment, in the order of `ids`. Locks nothing.
    ///
    /// Errors: [`Error::TooLarge`] above `records_max`, [`Error::Corrupt`].
    pub fn records(&self, ids: Vec<RecordId>) -> Answer<Records> {
        if let Some(proxy) = self.behind() {
            return proxy.ask(&proxy::ReadRecords { ids });
        }
        if let Some(set) = self.set() {
            return set.records(ids, None);
        }
        self.read(move |s| rules::records(s, &ids))
    }

    /// As [`Store::records`], as they were at most `age_max` ago; see [`load_aged`](Self::load_aged). What is
    /// written by what is read so is compared as always.
    pub fn records_aged(&self, ids: Vec<RecordId>, age_max: Duration) -> Answer<Records> {
        if let Some(proxy) = self.behind() {
            return proxy.ask(&proxy::ReadRecordsAged { ids, age_max });
        }
        if let Some(set) = self.set() {
            return set.records(ids, Some(age_max));
        }
        self.look(age_max, move |s| rules::records(s, &ids))
    }

    /// As [`Store::scan_records`], as they were at most `age_max` ago; see
    /// [`load_aged`](Self::load_aged).
    pub fn scan_records_aged(
        &self,
        kind: u32,
        after: Option<Vec<u8>>,
        max: usize,
        age_max: Duration,
    ) -> Answer<Vec<(Vec<u8>, Record)>> {
        if let Some(proxy) = self.behind() {
            return proxy.ask(&proxy::ScanRecordsAged { kind, after, max, age_max });
        }
        if let Some(set) = self.set() {
            return set.scan_records(kind, after, max, Some(age_max));
        }
        self.look(age_max, move |s| rules::scan_records(s, kind, after.as_deref(), max))
    }

    /// The records of a kind whose keys come after `after`, in the order of their keys, at most
    /// `max` and `scan_max`, fewer if they are large. None are left when it gives none.
    pub fn scan_records(
        &self,
        kind: u32,
        after: Option<Vec<u8>>,
        max: usize,
    ) -> Answer<Vec<(Vec<u8>, Record)>> {
        if let Some(proxy) = self.behind() {
            return proxy.ask(&proxy::ScanRecords { kind, after, max });
        }
        if let Some(set) = self.set() {
            return set.scan_records(kind, after, max, None);
        }
        self.read(move |s| rules::scan_records(s, kind, after.as_deref(), max))
    }

    /// Writes records, all or none; the answer is their versions afterwards.
    ///
    /// Errors: [`Error::RecordConflict`], [`Error::Locked`], [`Error::LockLost`],
    /// [`Error::Generation`], [`Error::TooLarge`], [`Error::Malformed`]. After
    /// [`Error::Unknown`] read them: their versions tell. What must happen exactly once goes into a
    /// [`Transaction`].
    pub fn write_records(&self, generation: u64, writes: Vec<RecordWrite>) -> Answer<Vec<u64>> {
        if let Some(proxy) = self.behind() {
            return proxy.ask(&proxy::WriteRecords { generation, writes });
        }
        if let Some(set) = self.set() {
            return set.write_records(generation, writes);
        }
        let bytes = writes.iter().map(RecordWrite::bytes).sum();
        self.submit_settled(bytes, move |s| rules::write_records(s, generation, &writes))
    }

    /// Takes a record to oneself and reads it.
    ///
    /// Errors: [`Error::Locked`], [`Error::TooLarge`], [`Error::Malformed`].
    pub fn lock_record(&self, ask: LockAsk) -> Answer<(Lock, Records)> {
        if let Some(proxy) = self.behind() {
            return proxy.ask(&proxy::LockRecord { ask });
        }
        if let Some(set) = self.set() {
            return set.lock_record(ask);
        }
        self.submit(SMALL, move |s| rules::lock_record(s, &ask))
    }

    /// Says that the holder of a lock is still there.
    ///
    /// Errors: [`Error::LockLost`].
    pub fn renew_lock(&self, id: RecordId, fence: u64) -> Answer<()> {
        if let Some(proxy) = self.behind() {
            return proxy.ask(&proxy::RenewLock { id, fence });
        }
        if let Some(set) = self.set() {
            return set.renew_lock(id, fence);
        }
        self.submit(SMALL, move |s| rules::renew_lock(s, &id, fence))
    }

    /// Gives a lock back without writing.
    ///
    /// Errors: [`Error::LockLost`].
    pub fn unlock_record(&self, id: RecordId, fence: u64) -> Answer<()> {
        if let Some(proxy) = self.behind() {
            return proxy.ask(&proxy::UnlockRecord { id, fence });
        }
        if let Some(set) = self.set() {
            return set.unlock_record(id, fence);
        }
        self.submit(SMALL, move |s| rules::unlock_record(s, &id, fence))
    }

    /// Reads all rows of one moment and adds up the ledger.
    ///
    /// In an embedded store this runs on a thread of its own over what is durable by then, while
    /// writes go on; a second one at the same time is [`Error::Busy`].
    pub fn verify(&self) -> Answer<Verdict> {
        if let Some(proxy) = self.behind() {
            return proxy.ask(&proxy::Verify {});
        }
        if let Some(set) = self.set() {
            return set.verify();
        }
        match &*self.backend {
            Backend::Memory(_) | Backend::Sharded(_) | Backend::Proxy(_) => {
                self.submit(SMALL, rules::verify)
            }
            Backend::Embedded(embedded) => {
                let (sender, answer) = channel();
                embedded.verify(sender);
                answer
            }
            #[cfg(feature = "sqlite")]
            Backend::Sqlite(sqlite) => {
                let (sender, answer) = channel();
                sqlite.verify(sender);
                answer
            }
            #[cfg(feature = "remote")]
            Backend::Remote(remote) => {
                let (sender, answer) = channel();
                remote.verify(sender);
                answer
            }
            #[cfg(feature = "redis")]
            Backend::Journal(remote, _) => {
                let (sender, answer) = channel();
                remote.verify(sender);
                answer
            }
        }
    }
}

/// Bytes that a small request counts for in the queue.
const SMALL: usize = 128;

impl Transaction {
    /// The same transaction with one more change of the ledger.
    pub fn with(mut self, op: LedgerOp) -> Self {
        self.ops.push(op);
        self
    }
}
