use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::task::{Context, Poll, Waker};
use std::thread::JoinHandle;
use std::time::Duration;

use cluster::{Cluster, Contest, Error, Expect, KeyError, NodeInfo, Watch};
use env::metrics::{Counter, Gauge, Registry};
use env::{Clock, Instant, Random};
use proto::Incarnation;
use serde_json::{Value, json};
use store::{Failover, ServerAsk, ServerTold, Servers, Stage, Watcher, WatcherAsk};

use super::keys::{self, Named};
use super::{Watched, servers};
use crate::StartError;
use crate::config::{Group, Process};

/// The name of the election.
const CONTEST: &str = "watcher";
/// Writes to the coordinator that may wait; votes are told again each second.
const WRITES_MAX: usize = 256;
/// A registration that failed is tried again after this.
const REGISTER_AGAIN: Duration = Duration::from_secs(1);

/// Which servers may be promoted.
enum Promote {
    /// Those, the first first.
    These(Vec<String>),
    /// Whichever their sentinels choose.
    Any,
}

/// Watches the servers of all stores, until it is dropped.
pub(crate) struct WatchRole {
    events: Sender<Event>,
    thread: Option<JoinHandle<()>>,
    shown: Watched,
    life: Incarnation,
}

enum Event {
    Changed,
    Told(usize, ServerTold),
    Stop,
}

impl WatchRole {
    /// Starts to watch all stores of the process that are on several servers.
    pub(crate) fn start(
        process: &Process,
        (cluster, clock, metrics): (Cluster, Clock, Registry),
    ) -> Result<Self, StartError> {
        let (events, heard) = channel();
        let life = Incarnation(Random::from_os().u64() | 1);
        let (now, options) = (clock.now(), &process.options.watcher);
        let mut stores = Vec::new();
        for (at, group) in process.groups(None).into_iter().enumerate() {
            let told = events.clone();
            let tell = move |told_of| drop(told.send(Event::Told(at, told_of)));
            let servers = servers::open(&group, options, Box::new(tell))?;
            let watcher = Watcher::new(now, life.0, options.clone(), Vec::new());
            stores.push(Store::new(&metrics, &group, (servers, watcher)));
        }
        let changed = events.clone();
        cluster.on_change(move || changed.send(Event::Changed).is_ok());
        cluster.add_check(keys::PREFIX, keys::check);
        let system = |source| {
            let what = "cannot watch the servers of stores".to_owned();
            StartError::System { what, source }
        };
        let (writes, to_write) = sync_channel(WRITES_MAX);
        let of_writer = cluster.clone();
        let builder = std::thread::Builder::new().name("watcher-writes".to_owned());
        builder.spawn(move || write(&of_writer, &to_write)).map_err(system)?;
        let shown = Watched::default();
        let mut running = Running {
            name: format!("{}-watcher", process.name),
            roles: process.roles.clone(),
            watch: cluster.watch(keys::PREFIX),
            cluster,
            clock,
            life,
            renew_every: process.options.registry.lease / 3,
            renew_at: now,
            contest: None,
            stores,
            writes,
            shown: shown.clone(),
        };
        let builder = std::thread::Builder::new().name("watcher".to_owned());
        let thread = builder.spawn(move || running.run(&heard)).map_err(system)?;
        Ok(WatchRole { events, thread: Some(thread), shown, life })
    }

    /// This life of it, as it is listed.
    pub(crate) fn life(&self) -> Incarnation {
        self.life
    }

    /// How the servers of each store are.
    pub(crate) fn watched(&self) -> Watched {
        self.shown.clone()
    }
}

impl Drop for WatchRole {
    fn drop(&mut self) {
        let _ = self.events.send(Event::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What is written to the coordinator.
struct Write {
    key: String,
    /// `None` deletes it.
    value: Option<Vec<u8>>,
    owner: Option<Incarnation>,
    expect: Expect,
}

/// Writes in order, on a thread of its own: an answer may take long.
fn write(cluster: &Cluster, writes: &Receiver<Write>) {
    while let Ok(Write { key, value, owner, expect }) = writes.recv() {
        let done = match value {
            Some(value) => cluster.put(&key, value, owner, expect).map(drop),
            None => cluster.delete(&key, expect).map(drop),
        };
        match done {
            Ok(()) => {}
            // Another watcher was first: what it wrote is heard of.
            Err(KeyError::Conflict { .. }) => tracing::debug!(key, "somebody else wrote first"),
            Err(error) => tracing::warn!(key, %error, "watchers cannot tell each other"),
        }
    }
}

/// The thread's own.
struct Running {
    /// As it is listed among the nodes.
    name: String,
    roles: Vec<String>,
    cluster: Cluster,
    clock: Clock,
    renew_every: Duration,
    life: Incarnation,
    renew_at: Instant,
    contest: Option<Contest>,
    watch: Watch,
    stores: Vec<Store>,
    writes: SyncSender<Write>,
    shown: Watched,
}

impl Running {
    fn run(&mut self, heard: &Receiver<Event>) {
        loop {
            let now = self.clock.now();
            let next = self.stores.iter().map(|store| store.watcher.poll_timeout()).min();
            let next = next.map_or(self.renew_at, |at| at.min(self.renew_at));
            let mut event = match heard.recv_timeout(next.since(now)) {
                Ok(event) => Some(event),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => Some(Event::Stop),
            };
            // What was answered counts before it is judged who has not.
            let now = self.clock.now();
            while let Some(one) = event {
                match one {
                    Event::Stop => return self.leave(),
                    Event::Changed => {}
                    Event::Told(at, told) => self.stores[at].hear(now, told),
                }
                event = heard.try_recv().ok();
            }
            self.stay_listed(now);
            self.learn(now);
            let is_elected = self.is_elected();
            for store in &mut self.stores {
                if store.watcher.is_elected() != is_elected {
                    tracing::info!(
                        store = store.label,
                        is_elected,
                        "elected to watch over a store"
                    );
                    store.watcher.handle_elected(now, is_elected);
                }
                if now >= store.watcher.poll_timeout() {
                    store.servers.ask(ServerAsk::List);
                    store.watcher.handle_timeout(now);
                }
                while let Some(ask) = store.watcher.poll_ask() {
                    store.act(now, ask, (self.life, &self.writes));
                }
                store.measure();
            }
            self.shown.set(self.stores.iter().map(|store| store.show(now)).collect());
        }
    }

    /// Is among the nodes, so that it can be elected and its votes end with it.
    fn stay_listed(&mut self, now: Instant) {
        if now < self.renew_at {
            return;
        }
        let listed = match self.cluster.renew(now, self.life) {
            Err(Error::NotListed(_)) => {
                let mut info = NodeInfo::new(self.name.clone(), self.life);
                info.roles.clone_from(&self.roles);
                info.started_ms = self.clock.wall().0;
                self.cluster.register(now, info)
            }
            renewed => renewed,
        };
        self.renew_at = now + self.renew_every;
        if let Err(error) = listed {
            tracing::warn!(%error, "a watcher is not listed, and cannot be elected");
            self.renew_at = now + REGISTER_AGAIN;
        }
    }

    fn is_elected(&mut self) -> bool {
        if self.contest.is_none() {
            // Not before it is listed; tried again with the next ping.
            self.contest = self.cluster.contend(CONTEST, self.life).ok();
        }
        let Some(contest) = &self.contest else { return false };
        match contest.poll_won(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(_)) => true,
            Poll::Ready(Err(_)) => {
                self.contest = None;
                false
            }
            Poll::Pending => false,
        }
    }

    /// Takes in what watchers have written.
    fn learn(&mut self, now: Instant) {
        for change in self.watch.take() {
            let Some((label, named)) = keys::read_key(&change.key) else { continue };
            let store = self.stores.iter_mut().find(|store| store.label == label);
            let Some(store) = store else { continue };
            let written = change.now.as_ref();
            match (named, written) {
                (Named::Failover, Some(written)) => {
                    store.recorded = Some(written.changed);
                    if let Some(failover) = keys::read_failover(&written.value) {
                        store.learn_failover(now, failover);
                    }
                }
                (Named::Failover, None) => store.recorded = None,
                (Named::Primary, Some(written)) => {
                    if let Some(primary) = keys::read_primary(&written.value) {
                        store.told = Some(primary);
                    }
                }
                (Named::Primary, None) => store.told = None,
                (Named::Vote { watcher, .. }, _) if watcher == self.life => {}
                (Named::Vote { server, watcher }, written) => {
                    store.watcher.handle_vote(now, watcher.0, server, written.is_some());
                }
            }
        }
        for store in &mut self.stores {
            store.watcher.handle_pushed(now, store.told.as_deref());
        }
    }

    fn leave(&mut self) {
        self.contest = None;
        self.cluster.deregister(self.life);
    }
}

/// A store whose servers are watched.
struct Store {
    label: String,
    promote: Promote,
    raises: bool,
    servers: Servers,
    watcher: Watcher,
    /// The revision of the last record of a failover.
    recorded: Option<u64>,
    /// What nodes were told.
    told: Option<String>,
    /// Why a server does not answer.
    reasons: BTreeMap<String, String>,
    /// Why nobody says which servers there are.
    unlisted: Option<String>,
    /// Servers that it has voted down.
    voted: BTreeSet<String>,
    /// Told again and again, so that others know that it is still true.
    votes: u64,
    metrics: Registry,
    gauges: BTreeMap<String, [Gauge; 2]>,
    failovers: Counter,
}

impl Store {
    fn new(metrics: &Registry, group: &Group<'_>, (servers, watcher): (Servers, Watcher)) -> Self {
        let (label, raises) = (group.label.clone(), group.raises);
        let promote = match group.server.promote_by_sentinels {
            true => Promote::Any,
            false => Promote::These(group.server.promote.clone()),
        };
        let help = "Servers of a store whose place was taken by another, seen to by this process.";
        let failovers = metrics.counter("store_failovers_total", help, &[("store", &label)]);
        Store {
            label,
            promote,
            raises,
            servers,
            watcher,
            recorded: None,
            told: None,
            reasons: BTreeMap::new(),
            unlisted: None,
            voted: BTreeSet::new(),
            votes: 0,
            metrics: metrics.clone(),
            gauges: BTreeMap::new(),
            failovers,
        }
    }

    fn hear(&mut self, now: Instant, told: ServerTold) {
        let store = self.label.as_str();
        match told {
            ServerTold::Listed(Ok(listed)) => {
                self.unlisted = None;
                let watched = |name: String| {
                    let priority = self.promote.of(&name);
                    store::Watched { name, priority }
                };
                let servers = listed.names.into_iter().map(watched).collect();
                self.watcher.handle_servers(now, servers, listed.primary);
            }
            ServerTold::Listed(Err(reason)) => {
                if self.unlisted.as_ref() != Some(&reason) {
                    tracing::warn!(store, reason, "nobody says which servers there are");
                    self.unlisted = Some(reason);
                }
            }
            ServerTold::Seen(server, Ok(seen)) => {
                self.reasons.remove(&server);
                self.watcher.handle_seen(now, &server, seen);
            }
            ServerTold::Seen(server, Err(reason)) => {
                tracing::debug!(store, server, reason, "a server does not answer");
                self.reasons.insert(server, reason);
            }
            ServerTold::Promoted(failover, done) => {
                let Failover { number, from, to, .. } = &failover;
                match &done {
                    Ok(()) => tracing::info!(store, number, from, to, "a server was promoted"),
                    Err(reason) => {
                        tracing::error!(store, number, from, to, reason, "a promotion failed");
                    }
                }
                self.watcher.handle_promoted(now, failover.number, done.is_ok());
            }
            ServerTold::Raised(failover, done) => {
                let Failover { number, to, .. } = &failover;
                match &done {
                    Ok(generation) => {
                        tracing::info!(store, number, to, generation, "all claims have ended");
                    }
                    Err(reason) => {
                        tracing::warn!(store, number, to, reason, "claims cannot be ended yet");
                    }
                }
                self.watcher.handle_raised(now, &failover, done.is_ok());
            }
        }
    }

    fn learn_failover(&mut self, now: Instant, failover: Failover) {
        let Failover { number, from, to, stage, .. } = &failover;
        match stage {
            Stage::Promoting => {
                tracing::warn!(store = self.label, number, from, to, "failover begins");
            }
            Stage::Done => tracing::warn!(store = self.label, number, from, to, "failover is done"),
            Stage::Failed => {
                tracing::error!(store = self.label, number, from, to, "failover has failed");
            }
        }
        if *stage == Stage::Done && failover.by == self.watcher.me() {
            self.failovers.inc();
        }
        self.watcher.handle_failover(now, failover);
    }

    fn act(
        &mut self,
        now: Instant,
        ask: WatcherAsk,
        (me, writes): (Incarnation, &SyncSender<Write>),
    ) {
        let store = self.label.as_str();
        let put = |key, value: Option<String>, owner, expect| {
            let write = Write { key, value: value.map(String::into_bytes), owner, expect };
            if writes.try_send(write).is_err() {
                tracing::warn!(store, "the coordinator is away: watchers cannot tell each other");
            }
        };
        match ask {
            WatcherAsk::Ping(server) => self.servers.ask(ServerAsk::Look(server)),
            WatcherAsk::Vote(server, true) => {
                self.votes += 1;
                let reason = self.reasons.get(&server).map_or("no answer", String::as_str);
                if self.voted.insert(server.clone()) {
                    tracing::warn!(store, server, reason, "a server is down, votes this watcher");
                }
                let key = keys::vote_key(store, &server, me);
                put(key, Some(self.votes.to_string()), Some(me), Expect::Any);
            }
            WatcherAsk::Vote(server, false) => {
                self.voted.remove(&server);
                tracing::info!(store, server, "a server answers again: the vote is withdrawn");
                put(keys::vote_key(store, &server, me), None, None, Expect::Any);
            }
            WatcherAsk::Record(failover) => {
                let expect = self.recorded.map_or(Expect::Absent, Expect::Changed);
                let value = keys::show_failover(&failover).to_string();
                put(keys::failover_key(store), Some(value), None, expect);
            }
            WatcherAsk::Promote(failover) => {
                let Failover { number, from, to, .. } = &failover;
                tracing::warn!(store, number, from, to, "has a server promoted");
                self.servers.ask(ServerAsk::Promote(failover));
            }
            WatcherAsk::Raise(failover) if self.raises => {
                self.servers.ask(ServerAsk::Raise(failover));
            }
            WatcherAsk::Raise(failover) => self.watcher.handle_raised(now, &failover, true),
            WatcherAsk::Push(primary) => {
                tracing::info!(store, primary, "nodes are told which server takes writes");
                let failover = self.watcher.failover().map_or(0, |last| last.number);
                let value = keys::show_primary(&primary, failover).to_string();
                put(keys::primary_key(store), Some(value), None, Expect::Any);
            }
        }
    }

    fn measure(&mut self) {
        for server in self.watcher.servers() {
            let [up, primary] = self.gauges.entry(server.to_owned()).or_insert_with(|| {
                let labels = [("store", self.label.as_str()), ("server", server)];
                let up = "Whether this watcher believes that the server is there.";
                let primary = "Whether the server takes writes, by all that this watcher knows.";
                [
                    self.metrics.gauge("store_server_up", up, &labels),
                    self.metrics.gauge("store_server_primary", primary, &labels),
                ]
            });
            up.set(f64::from(u8::from(!self.watcher.is_down(server))));
            primary.set(f64::from(u8::from(self.watcher.primary() == Some(server))));
        }
    }

    fn show(&self, now: Instant) -> Value {
        let state = |server: &str| match self.watcher.seen(server) {
            _ if self.watcher.is_down(server) => "down",
            _ if self.watcher.is_rival(now, server) => "takes writes, but must not",
            _ if self.watcher.primary() == Some(server) => "primary",
            Some(_) => "replica",
            None => "unknown",
        };
        let servers = self.watcher.servers();
        let servers = servers.map(|server| json!({"name": server, "state": state(server)}));
        json!({
            "store": self.label,
            "elected": self.watcher.is_elected(),
            "primary": self.watcher.primary(),
            "servers": servers.collect::<Vec<_>>(),
            "failover": self.watcher.failover().map(keys::show_failover),
        })
    }
}

impl Promote {
    fn of(&self, name: &str) -> Option<u32> {
        match self {
            Promote::These(names) => {
                names.iter().position(|known| known == name).map(|at| at as u32)
            }
            Promote::Any => Some(0),
        }
    }
}
