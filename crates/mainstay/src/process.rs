//! One process of a cluster: what its roles need, started and stopped in order.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bus::{Desk, Presence};
use cluster::Cluster;
use env::metrics::Registry;
use env::{Clock, Random, WallTime};
use mesh::Key;
use node::{Node, NodeBus, NodeEnv, NodeHandle, NodeOptions};
use proto::ticket::{Claims, Grant, TicketKeys};
use proto::{AccountId, Incarnation};
use store::Store;
use transport::{Board, Event, ListenOptions, Listeners, Sockets, Waker};
use web::axum::Router;
use web::{Guests, Server};

use crate::config::{CoordinatorPlace, Keys, Process, StorePlace};
use crate::line::Way;
use crate::opening::Opening;
use crate::reaching::{open_bus, open_coordinator};
use crate::watch::{Follow, WatchRole, Watched};
use crate::{App, console, release, zones};

/// How long a gate has to say what it holds.
const ASK_WAIT: Duration = Duration::from_secs(1);

/// Why a process did not start. Nothing of it remains.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The entities' part.
    #[error(transparent)]
    Node(#[from] node::NodeError),
    /// The game's declarations do not fit together.
    #[error(transparent)]
    App(#[from] crate::app::AppError),
    /// The game's declarations.
    #[error(transparent)]
    Schema(#[from] proto::schema::SchemaError),
    /// The clients' part.
    #[error(transparent)]
    Gate(#[from] gate::StartError),
    /// Start the final release or a later one.
    #[error(
        "this build is release {release}, and release {last} is marked final: what that one stored is not for \
         older ones; start release {last} or a later one"
    )]
    Older {
        /// Its number.
        release: u32,
        /// The final one's.
        last: u32,
    },
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] store::OpenError),
    /// The store does not answer.
    #[error("the store in {path} cannot be used: {error}")]
    StoreFailed {
        /// Its file.
        path: String,
        /// What it says.
        error: store::Error,
    },
    /// Run all entities in one process, or wait for a store on a server.
    #[error(
        "{path} is a store for one process, and several processes of the cluster hold entities"
    )]
    StoreShared {
        /// Its file.
        path: String,
    },
    /// Build with that feature, or name another store.
    #[error(
        "{path} needs {feature:?} in the features of `mainstay` in the game's Cargo.toml; or name another \
         store"
    )]
    StoreNotBuilt {
        /// Its file.
        path: String,
        /// The feature of `mainstay`.
        feature: &'static str,
    },
    /// Put it where the file says it is.
    #[error("the store's password: {reason}")]
    StorePassword {
        /// What is missing.
        reason: String,
    },
    /// Build with that feature, or name another bus.
    #[error(
        "the bus needs {0:?} in the features of `mainstay` in the game's Cargo.toml; or name another"
    )]
    BusNotBuilt(&'static str),
    /// Put it where the file says it is.
    #[error("the password of the coordinator: {0}")]
    CoordinatorPassword(String),
    /// It is there and does not let this process in: do what it says.
    #[error("the coordinator: {0}")]
    CoordinatorRefused(String),
    /// Put it where the file says it is.
    #[error("the password of the bus: {0}")]
    BusPassword(String),
    /// The game declares what the bus does not give.
    #[error("the bus: {0}")]
    Bus(#[from] bus::Error),
    /// Build with that feature, or name another coordinator.
    #[error(
        "the coordinator needs {0:?} in the features of `mainstay` in the game's Cargo.toml; or name \
         another"
    )]
    CoordinatorNotBuilt(&'static str),
    /// The system refuses a thread or a port.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// What the system says.
        source: std::io::Error,
    },
}

/// A process that runs. Dropping it stops it at once.
pub struct Running {
    name: String,
    clock: Clock,
    keys: TicketKeys,
    registry: Registry,
    nodes: Cluster,
    node: Option<Arc<NodeHandle>>,
    gate: Option<gate::Server>,
    bus: Presence,
    /// This life of the gate, as the others know it.
    gate_life: Option<Incarnation>,
    web: Option<(Server, JoinHandle<()>)>,
    listeners: Listeners,
    /// Watches the servers of stores.
    watcher: Option<WatchRole>,
    /// Leads its stores to the servers that take writes.
    follow: Option<Follow>,
    /// Its stores, as others use them: the last that goes.
    data: Option<store::DataService>,
    ports: Vec<Port>,
    addresses: Vec<SocketAddr>,
    /// Hashes of the interfaces that clients may be made for.
    interfaces: Vec<u64>,
    /// The number of the game's release.
    release: u32,
}

/// What a stopped process had held.
#[derive(Clone, Debug, Default)]
pub struct Stopped {
    /// Connections that were told to go elsewhere.
    pub connections: u64,
    /// Live connections that its successor has now.
    pub given: usize,
    /// Sessions that ended with their home.
    pub sessions: usize,
    /// Streams that were closed.
    pub streams: usize,
    /// What went wrong on the way: what may not have been finished.
    pub unfinished: Vec<String>,
}

/// A further port for HTTP, with the thread that accepts there.
pub(crate) struct Port {
    stop: Arc<AtomicBool>,
    waker: Waker,
    thread: JoinHandle<()>,
}

/// What a process finds when it starts.
#[derive(Default)]
pub(crate) struct Surroundings<'a> {
    /// Ports that its supervisor has opened already.
    pub listeners: Listeners,
    /// Former lives that are known to be over.
    pub gone: Vec<Incarnation>,
    /// Is told what the process waits for, after each try; says whether to try again. Without it the first try
    /// is the last.
    pub patience: Option<&'a mut dyn FnMut(&str) -> bool>,
}

impl Running {
    /// Starts what `process` is configured to be.
    ///
    /// # Errors
    ///
    /// See [`StartError`].
    pub fn start(
        app: &App,
        cluster: &str,
        process: &Process,
        keys: &Keys,
    ) -> Result<Running, StartError> {
        Self::start_at(app, cluster, process, keys, Surroundings::default())
    }

    /// As [`start`](Self::start), with what is there before the process and outlives it.
    pub(crate) fn start_at(
        app: &App,
        cluster: &str,
        process: &Process,
        keys: &Keys,
        around: Surroundings<'_>,
    ) -> Result<Running, StartError> {
        let Surroundings { listeners, gone, patience } = around;
        app.check()?;
        app.check_bus(&process.bus, !process.shares_entities)?;
        if process.holds_entities() {
            app.check_stores(process)?;
            app.check_scopes(process)?;
        }
        let clock = Clock::system();
        let registry = Registry::new();
        let nodes = open_coordinator(process, &clock)?;
        let (release, wait) = (app.release_number(), process.options.registry.answer_wait);
        if let Some(last) = release::later(&nodes, &clock, wait, release) {
            return Err(StartError::Older { release, last });
        }
        if let Some(reason) = nodes.shut_out() {
            return Err(StartError::CoordinatorRefused(reason));
        }
        // Not all of them have a store that would tell of their end, and that would come later.
        gone.iter().for_each(|life| nodes.bury(*life));
        let board = Board::new();
        let mesh_key = keys.mesh.as_ref().map_or_else(Key::none, Key::shared);
        let tickets = TicketKeys::new(keys.tickets.clone());
        let mut running = Running {
            name: process.name.clone(),
            clock: clock.clone(),
            keys: tickets.clone(),
            registry: registry.clone(),
            nodes: nodes.clone(),
            node: None,
            gate: None,
            bus: Presence::default(),
            gate_life: None,
            web: None,
            listeners,
            watcher: None,
            follow: None,
            data: None,
            ports: Vec::new(),
            addresses: Vec::new(),
            interfaces: app.interfaces()?,
            release,
        };
        let runs = &process.runs;
        let around = (nodes.clone(), clock.clone(), registry.clone(), running.listeners.clone());
        let mut open = Opening::new(process, keys, around, patience);
        if let Some(address) = process.data_listen.filter(|_| runs.data) {
            running.data = Some(open.serve(address, &registry)?);
        }
        if process.holds_entities() {
            let users = node::UsersOrder::queue();
            let offers =
                |name: &str| runs.entities.has(name) || runs.sessions && name == users.name();
            let node_app = app.node_app(offers, |scope| process.hosts(scope)).schema(app.schema()?);
            let (store, stores) = open.for_game(&node_app)?;
            let (bus, presence) = declare_bus(app, process, &clock)?;
            running.bus = presence;
            let env = NodeEnv {
                clock: clock.clone(),
                random: Random::from_os(),
                cluster: nodes.clone(),
                board: board.clone(),
                mesh_key: mesh_key.clone(),
                store,
                stores,
                metrics: registry.clone(),
                bus: Some(bus),
            };
            let mut options = node_options(cluster, process);
            options.data.gone = gone;
            running.node = Some(Arc::new(Node::start(&node_app, options, env)?));
        }
        running.watch_stores(process, open.opened())?;
        if runs.http() {
            let stats =
                console::Source::new(&process.name, clock.clone(), running.node.clone(), &nodes);
            stats.set_bus(running.bus.clone());
            let router = router(app, process, keys, &running, &stats);
            let started = Server::start(router, process.options.web.clone());
            let (server, thread) = started.map_err(system("cannot start the HTTP server"))?;
            running.web = Some((server.clone(), thread));
            if runs.gate {
                running.start_gate(
                    cluster,
                    process,
                    &nodes,
                    (board, mesh_key),
                    Some(server.clone()),
                )?;
                stats.set_gate(running.gate.as_ref());
            }
            for address in process.web.iter().chain(&process.console) {
                let port = Port::open(*address, &running.listeners, server.clone(), &running.clock);
                running.ports.push(port?);
            }
        } else if runs.gate {
            running.start_gate(cluster, process, &nodes, (board, mesh_key), None)?;
        }
        Ok(running)
    }

    /// Follows those who watch the servers of stores, and watches them itself if it is to.
    fn watch_stores(
        &mut self,
        process: &Process,
        open: Option<&(Store, Vec<(String, Store)>)>,
    ) -> Result<(), StartError> {
        if process.is_watched && process.data_processes.is_empty() && open.is_some() {
            let groups = process.groups(open).into_iter();
            let stores = groups.filter_map(|group| Some((group.label, group.open?))).collect();
            let follow = Follow::start(&self.nodes, stores);
            self.follow = Some(follow.map_err(system("cannot follow the servers of stores"))?);
        }
        if process.runs.watcher {
            let around = (self.nodes.clone(), self.clock.clone(), self.registry.clone());
            self.watcher = Some(WatchRole::start(process, around)?);
        }
        Ok(())
    }

    fn start_gate(
        &mut self,
        cluster: &str,
        process: &Process,
        nodes: &Cluster,
        (board, key): (Board, Key),
        http: Option<Server>,
    ) -> Result<(), StartError> {
        let incarnation = Incarnation(Random::from_os().u64() | 1);
        let name = format!("{}-gate", process.name);
        let mut setup = gate::Setup::new(name, incarnation, self.keys.clone());
        setup.workers = process.gate_workers.unwrap_or(1);
        setup.listen.clone_from(&process.clients);
        // Nodes that the gate has no business with at first may have some with it. A node in the same
        // process has the port that was named.
        let own = |address: SocketAddr| match process.holds_entities() {
            true => SocketAddr::new(address.ip(), 0),
            false => address,
        };
        setup.mesh_listen = process.mesh.map(own);
        setup.mesh_public = process.advertise.first().copied().map(own);
        setup.listeners = self.listeners.clone();
        setup.options = process.options.gate.clone();
        setup.links = mesh::Options { cluster: cluster.to_owned(), ..process.options.mesh.clone() };
        setup.key = key;
        setup.upgrade.origins.clone_from(&process.origins);
        setup.clock = self.clock.clone();
        setup.board = board;
        setup.cluster = Some(nodes.clone());
        setup.renew_every = process.options.registry.lease / 3;
        setup.registry = self.registry.clone();
        setup.interfaces.clone_from(&self.interfaces);
        setup.http = http.map(|server| {
            let sink: gate::HttpSink = Arc::new(move |stream, read| {
                if let Err(refused) = server.serve(stream, read) {
                    tracing::warn!(%refused, "an HTTP connection was dropped");
                }
            });
            sink
        });
        let server = gate::Server::start(setup)?;
        self.addresses = server.addresses().to_vec();
        self.gate = Some(server);
        self.gate_life = Some(incarnation);
        Ok(())
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where clients and browsers come in.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Its counters.
    pub fn metrics(&self) -> &Registry {
        &self.registry
    }

    /// Its entities, if it holds any.
    pub fn node(&self) -> Option<&NodeHandle> {
        self.node.as_deref()
    }

    /// Its entities, for whoever watches them without keeping them.
    pub(crate) fn watched(&self) -> Option<std::sync::Weak<NodeHandle>> {
        self.node.as_ref().map(Arc::downgrade)
    }

    /// The number of the game's release; 0 if it has none.
    pub(crate) fn release(&self) -> u32 {
        self.release
    }

    /// The list of nodes, and what of it is this process.
    pub(crate) fn listing(&self) -> (Cluster, Vec<Incarnation>) {
        let node = self.node.as_ref().map(|node| node.incarnation());
        let lives = node.into_iter().chain(self.gate_life);
        let lives = lives.chain(self.watcher.as_ref().map(WatchRole::life));
        (self.nodes.clone(), lives.collect())
    }

    /// What it knows of the servers of stores, if it watches them.
    pub(crate) fn watched_stores(&self) -> Option<Watched> {
        self.watcher.as_ref().map(WatchRole::watched)
    }

    /// Tells whether the server of its bus is there.
    pub(crate) fn bus(&self) -> Presence {
        self.bus.clone()
    }

    /// Its gate, if it has one.
    pub fn gate(&self) -> Option<&gate::Server> {
        self.gate.as_ref()
    }

    /// The keys that seal its tickets: for bots and tools inside this process.
    pub fn ticket_keys(&self) -> TicketKeys {
        self.keys.clone()
    }

    /// A ticket for an account, good for `life`: for tests and tools on this machine.
    pub fn ticket(&self, account: AccountId, name: &str, life: Duration) -> Grant {
        let claims = claims(&self.clock, account, name, life);
        self.keys.issue(&mut Random::from_os(), claims)
    }

    /// Stops in order: no new clients, clients told, sessions ended, last frames out. `span` is
    /// how long clients are given to go elsewhere.
    pub fn stop(self, span: Duration) -> Stopped {
        self.stop_for(span, None)
    }

    /// As [`stop`](Self::stop), with the way to a successor that takes over what it can.
    pub(crate) fn stop_for(mut self, span: Duration, successor: Option<Way>) -> Stopped {
        let mut stopped = Stopped::default();
        self.watcher = None;
        for port in std::mem::take(&mut self.ports) {
            port.close();
        }
        if let Some(gate) = self.gate.take() {
            if let Some(way) = successor {
                stopped.given = give(&gate, &way);
            }
            // Asked for, because its figures may be a second old.
            stopped.connections = gate.connections(usize::MAX, ASK_WAIT).len() as u64;
            if span.is_zero() {
                gate.stop();
            } else {
                gate.drain(span);
            }
            if let Err(failed) = gate.join() {
                stopped.unfinished.push(failed.to_string());
            }
        }
        if let Some(node) = self.node.take() {
            let report = node.stop();
            (stopped.sessions, stopped.streams) = report.closed();
            if report.unsaved() > 0 {
                stopped.unfinished.push(format!("{} entities are not saved", report.unsaved()));
            }
            for (worker, stats) in report.workers.iter().enumerate() {
                if stats.is_none() {
                    stopped.unfinished.push(format!("worker {worker} has panicked"));
                }
            }
        }
        drop(self.follow.take());
        drop(self.data.take());
        if let Some((server, thread)) = self.web.take() {
            server.stop();
            if thread.join().is_err() {
                stopped.unfinished.push("the HTTP server has panicked".to_owned());
            }
        }
        stopped
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Running");
        debug.field("name", &self.name).field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

/// Gives the live connections of a gate to its successor; tells how many it has now.
#[cfg(unix)]
fn give(gate: &gate::Server, way: &Way) -> usize {
    match gate.give_to(way) {
        Ok(given) => {
            tracing::info!(count = given.given, took = ?given.took, "live connections given away");
            given.given
        }
        Err(error) => {
            tracing::info!(%error, "the successor takes no live connections: clients resume there");
            0
        }
    }
}

#[cfg(not(unix))]
fn give(_: &gate::Server, way: &Way) -> usize {
    match *way {}
}

pub(crate) fn claims(clock: &Clock, account: AccountId, name: &str, life: Duration) -> Claims {
    let issued = clock.wall();
    let expires = WallTime(issued.0 + life.as_millis() as u64);
    Claims { account, level: 0, name: name.to_owned(), issued, expires }
}

/// Why a process cannot run beside another one that is started from the same entry of the file, and what to change.
pub(crate) fn alone_because(app: &App, process: &Process) -> Option<String> {
    if process.coordinator == CoordinatorPlace::Process {
        return Some(
            "nobody else finds it: name a \"coordinator\", such as {\"embedded\": \"coordinator\"}"
                .to_owned(),
        );
    }
    if let Some(data) = process.data_listen {
        return Some(format!(
            "only one can serve the stores at {data}; where there are several data processes, one pauses at a time"
        ));
    }
    if !process.holds_entities() {
        return None;
    }
    if let Some(mesh) = process.mesh.filter(|mesh| mesh.port() != 0) {
        return Some(format!(
            "only one can take links on {mesh}: write \"mesh\": 0 for a port of its own"
        ));
    }
    let offers = |name: &str| process.runs.entities.has(name);
    if !app.node_app(offers, |scope| process.hosts(scope)).needs_store()
        || !process.data_processes.is_empty()
    {
        return None;
    }
    let stores = process.stores.iter().map(|(_, place)| place);
    let file = std::iter::once(&process.store).chain(stores).find_map(StorePlace::exclusive_file);
    file.map(|file| {
        format!(
            "the store in {} is for one process: name one that several can have open, such as \
             \"store\": {{\"sqlite\": \"game.store\"}}",
            file.display()
        )
    })
}

/// Opens the bus and declares on it what the game has. A server need not be there yet.
fn declare_bus(
    app: &App,
    process: &Process,
    clock: &Clock,
) -> Result<(NodeBus, Presence), StartError> {
    let bus = open_bus(&process.bus, process.options.bus.clone(), clock)?;
    let (shared, presence) = (process.bus.is_shared(), bus.presence());
    let bus = NodeBus::new(bus, shared, app.topics(shared))?;
    if !app.has_questions() {
        return Ok((bus, presence));
    }
    let desk = Desk::open(bus.bus(), process.options.bus.clone(), clock, Random::from_os())?;
    Ok((bus.with_desk(desk), presence))
}

fn node_options(cluster: &str, process: &Process) -> NodeOptions {
    let options = &process.options;
    NodeOptions {
        workers: process.workers.unwrap_or(0),
        roles: process.roles.clone(),
        zones: process.zones.clone(),
        channels: process.channels.clone(),
        rooms_max: options.node.rooms_max,
        sessions: process.runs.sessions,
        weight: process.weight,
        mesh_listen: process.mesh,
        mesh_public: process.advertise.first().copied(),
        mesh: mesh::Options { cluster: cluster.to_owned(), ..options.mesh.clone() },
        sockets: options.sockets.clone(),
        host: options.host.clone(),
        session: options.session.clone(),
        renew_every: options.registry.lease / 3,
        data: node::data::Options {
            beat_every: options.store.beat,
            park_after: options.store.park_after,
            judge_after: options.store.takeover_after,
            save_after: options.store.write_behind,
            ..node::data::Options::default()
        },
        ..NodeOptions::new(process.name.clone())
    }
}

fn router(
    app: &App,
    process: &Process,
    keys: &Keys,
    running: &Running,
    stats: &console::Source,
) -> Router {
    let mut router = Router::new();
    if process.runs.web {
        router = router.merge(app.router());
        if app.offers_guests() {
            let options = process.options.guests.clone();
            let random = Random::from_os();
            let guests = Guests::new(running.keys.clone(), running.clock.clone(), random, options);
            router = router.merge(web::guest_routes(guests));
        }
        if !process.all_zones.is_empty() {
            router = router.merge(zones::route(&running.nodes, &running.clock, &process.all_zones));
        }
    }
    if process.runs.console {
        let options = ops::ConsoleOptions { key: keys.console.clone() };
        let metrics = running.registry.clone();
        router = router.merge(ops::routes(stats.clone().into_state(), metrics, options));
    }
    router
}

pub(crate) fn system(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> StartError {
    let what = what.into();
    move |source| StartError::System { what, source }
}

impl Port {
    pub(crate) fn open(
        address: SocketAddr,
        listeners: &Listeners,
        server: Server,
        clock: &Clock,
    ) -> Result<Port, StartError> {
        let failed = || system(format!("cannot serve HTTP on {address}"));
        let sockets = Sockets::new(transport::Options::default(), clock.clone());
        let mut sockets = sockets.map_err(failed())?;
        let open = listeners.share(address, 0, 1).map_err(failed())?;
        if open.is_empty() {
            // Nobody else is to have it by mistake.
            let options = ListenOptions { reuse_port: false, ..ListenOptions::default() };
            sockets.listen(address, options).map_err(failed())?;
        }
        for port in open {
            sockets.adopt_listener(port).map_err(failed())?;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, waker) = (stop.clone(), sockets.waker());
        let thread = std::thread::Builder::new()
            .name("http-accept".to_owned())
            .spawn(move || accept_http(sockets, &server, &stopped));
        Ok(Port { stop, waker, thread: thread.map_err(failed())? })
    }

    pub(crate) fn close(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.waker.wake();
        drop(self.thread.join());
    }
}

fn accept_http(mut sockets: Sockets, server: &Server, stopped: &AtomicBool) {
    let mut events = Vec::new();
    while sockets.poll(None, &mut events).is_ok() && !stopped.load(Ordering::SeqCst) {
        for event in events.drain(..) {
            let Event::Accepted { socket, .. } = event else { continue };
            // One that has closed already is let go.
            let Ok(stream) = sockets.detach(socket) else { continue };
            if let Err(refused) = server.serve(stream, Vec::new()) {
                tracing::warn!(%refused, "an HTTP connection was dropped");
            }
        }
    }
}
