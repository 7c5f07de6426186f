//! A node as a value: starts its workers, answers questions about them, stops them.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::mpsc;
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{fmt, io, thread};

use bus::Subscription;
use cluster::{Cluster, NodeInfo, SESSION_KIND};
use env::metrics::Registry;
use env::{Clock, Random};
use mesh::{Key, Mesh};
use proto::frame::CloseCode;
use proto::link::WorkerId;
use proto::schema::Schema;
use proto::{AccountId, EntityId, Incarnation, KindId, Scope};
use store::Store;
use transport::{Board, ListenOptions, Sockets};

use crate::cx::Outside;
use crate::data::{self, Change, Grid, Record};
use crate::driver::{
    Beacon, Inbox, Keeper, KeeperParts, Lease, LoadParts, Mail, Pace, Pacemaker, Pool, Reporter,
    Seat, Stuck, Task,
};
use crate::entity::{Entity, KindInfo};
use crate::host::Host;
use crate::options::HostOptions;
use crate::placing::RoomCount;
use crate::pull::{Crew, Puller, Queue, Shown, found, founded};
use crate::session::{self, Binding, Bindings, Login, Refusal};
use crate::topics::NodeBus;
use crate::worker::{DataParts, Worker, WorkerParts, WorkerStats};

/// Limits, waits and names of a node. Plain data, as a configuration file holds it.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Unique within the cluster; survives restarts, and placement goes by it.
    pub name: String,
    /// Threads that hold entities, 1..=255; 0 is one for each core.
    pub workers: u8,
    /// What it is configured to be, for people and for the console.
    pub roles: Vec<String>,
    /// The zones that it is of. One that is of none hosts what is local to a zone as the only zone of a
    /// cluster that names none.
    pub zones: Vec<String>,
    /// The channels that it is of; as `zones`.
    pub channels: Vec<String>,
    /// Rooms that it takes at most when they are placed ([`Cx::placing`](crate::Cx::placing)); 0 is any number.
    pub rooms_max: u32,
    /// Whether it is home to sessions.
    pub sessions: bool,
    /// Its share of keyed entities next to other nodes, 1..=64.
    pub weight: u32,
    /// Where other nodes reach it; `None` if only its own process can. Port 0 is any.
    pub mesh_listen: Option<SocketAddr>,
    /// The address that others are told, where it differs from the one listened on.
    pub mesh_public: Option<SocketAddr>,
    /// Limits of links. `workers` is set from this node's.
    pub mesh: mesh::Options,
    /// Limits of sockets, per worker.
    pub sockets: transport::Options,
    /// Limits of entities, per worker.
    pub host: HostOptions,
    /// Limits of sessions, streams and groups, per worker.
    pub session: session::Options,
    /// Most bytes of frames that wait from one worker to another.
    pub worker_queue_bytes_max: usize,
    /// Threads for blocking work, shared by the workers.
    pub blocking_threads: usize,
    /// Most jobs that wait for such a thread.
    pub blocking_jobs_max: usize,
    /// A turn of a worker that takes longer is reported while it lasts.
    pub stuck_after: Duration,
    /// How often the node tells that it is still there: a third of the registry's lease.
    pub renew_every: Duration,
    /// How entities with documents are kept.
    pub data: data::Options,
    /// How long a stopping worker waits for its last frames to leave.
    pub flush_wait: Duration,
    /// How long a stopping node waits for other nodes to take over its sessions.
    pub hand_over_wait: Duration,
    /// How long [`NodeHandle::stats`] and [`NodeHandle::ask`] wait for a worker.
    pub answer_wait: Duration,
}

impl NodeOptions {
    /// A node called `name` with a worker per core that holds sessions and is reached by its own
    /// process only.
    pub fn new(name: impl Into<String>) -> Self {
        NodeOptions {
            name: name.into(),
            workers: 0,
            roles: Vec::new(),
            zones: Vec::new(),
            channels: Vec::new(),
            rooms_max: 0,
            sessions: true,
            weight: 1,
            mesh_listen: None,
            mesh_public: None,
            mesh: mesh::Options::default(),
            sockets: transport::Options::default(),
            host: HostOptions::default(),
            session: session::Options::default(),
            worker_queue_bytes_max: 8 * 1024 * 1024,
            blocking_threads: 4,
            blocking_jobs_max: 1_024,
            stuck_after: Duration::from_secs(1),
            renew_every: Duration::from_secs(5),
            data: data::Options::default(),
            flush_wait: Duration::from_secs(2),
            hand_over_wait: Duration::from_secs(16),
            answer_wait: Duration::from_secs(2),
        }
    }
}

/// What a node gets from outside: objects, as opposed to [`NodeOptions`].
#[derive(Debug)]
pub struct NodeEnv {
    /// Time.
    pub clock: Clock,
    /// Secrets and the entities' randomness.
    pub random: Random,
    /// The list of nodes.
    pub cluster: Cluster,
    /// Where the nodes of this process find each other.
    pub board: Board,
    /// The secret that the nodes of the cluster share.
    pub mesh_key: Key,
    /// Where entities with documents are kept. An embedded one that was just opened is to be
    /// cleared of its former nodes first: [`data::bury_all`](crate::data::bury_all).
    pub store: Option<Store>,
    /// Stores beside it, for the kinds that name them; at most 63.
    pub stores: Vec<(String, Store)>,
    /// Where its counters are shown.
    pub metrics: Registry,
    /// The bus with the topics of the game. Without one, topics go over the mesh and there are no queues.
    pub bus: Option<NodeBus>,
}

type Register = Arc<dyn Fn(&mut Host) + Send + Sync>;
type Choose = Arc<dyn Fn(&Login<'_>) -> Result<Vec<Binding>, Refusal> + Send + Sync>;

/// The game's part of a node: the kinds it offers and what it binds clients to.
#[derive(Clone, Default)]
pub struct NodeApp {
    kinds: Vec<KindId>,
    /// Those of them that are local to a zone or channel.
    local: Vec<(KindId, Scope)>,
    /// The first kind that has a document, or sort of record.
    kept: Option<&'static str>,
    /// Kinds with documents, also such as are only offered elsewhere.
    placed: Vec<&'static KindInfo>,
    /// Sorts of records, and the stores that they name.
    records: Vec<(&'static str, &'static str)>,
    register: Vec<Register>,
    /// Queues, and whether this node has workers for them.
    queues: Vec<(Queue, bool)>,
    bindings: Option<Choose>,
    interface: u64,
    schema: Option<Arc<Schema>>,
}

impl NodeApp {
    /// Offers nothing yet.
    pub fn new() -> Self {
        NodeApp::default()
    }

    /// Offers entities of a kind, or a service.
    #[must_use]
    pub fn kind<E: Entity>(mut self) -> Self {
        self.kinds.push(E::KIND.id);
        if E::KIND.scope != Scope::Global {
            self.local.push((E::KIND.id, E::KIND.scope));
        }
        if E::KIND.document {
            self.kept.get_or_insert(E::KIND.name);
        }
        self = self.knows(E::KIND);
        self.register.push(Arc::new(|host: &mut Host| {
            host.register::<E>();
        }));
        self
    }

    /// Knows in which store a kind is kept that other nodes offer, for deals that concern its entities.
    #[must_use]
    pub fn knows(mut self, kind: &'static KindInfo) -> Self {
        if kind.document {
            self.placed.push(kind);
        }
        self
    }

    /// Keeps records of that sort.
    #[must_use]
    pub fn record<R: Record>(mut self) -> Self {
        self.kept.get_or_insert(R::NAME);
        self.records.push((R::NAME, R::STORE));
        self.register.push(Arc::new(|host: &mut Host| host.register_record::<R>()));
        self
    }

    /// Gives jobs to a queue, and does them if `works`.
    #[must_use]
    pub fn queue(mut self, queue: Queue, works: bool) -> Self {
        self.queues.push((queue, works));
        self
    }

    /// Lets sagas name that change of a record.
    #[must_use]
    pub fn change<C: Change>(mut self) -> Self {
        self.kept.get_or_insert(C::NAME);
        self.register.push(Arc::new(|host: &mut Host| host.register_change::<C>()));
        self
    }

    /// Keeps a map, and lets sagas move what lies on it.
    #[must_use]
    pub fn map<G: Grid>(mut self) -> Self {
        self.kept.get_or_insert(G::NAME);
        self.register.push(Arc::new(|host: &mut Host| host.register_map::<G>()));
        self
    }

    /// Chooses what each login is bound to, on whichever worker is its home. Without it a login
    /// is bound to nothing.
    #[must_use]
    pub fn bindings(
        mut self,
        choose: impl Fn(&Login<'_>) -> Result<Vec<Binding>, Refusal> + Send + Sync + 'static,
    ) -> Self {
        self.bindings = Some(Arc::new(choose));
        self
    }

    /// Tells what it declares. A node that does not fit those that are listed is not admitted.
    #[must_use]
    pub fn schema(mut self, schema: Schema) -> Self {
        self.interface = schema.interface_hash();
        self.schema = Some(Arc::new(schema));
        self
    }

    /// Whether something of it is kept in a store.
    pub fn needs_store(&self) -> bool {
        self.kept.is_some()
    }

    /// Registers its kinds on a host that somebody else drives, such as a simulation.
    pub fn register_on(&self, host: &mut Host) {
        for kind in &self.placed {
            host.place_kind(kind.id, kind.store);
        }
        for register in &self.register {
            register(host);
        }
        host.open_places();
    }

    /// Does something with every worker's host before it starts, such as spawning.
    #[must_use]
    pub fn on_host(mut self, act: impl Fn(&mut Host) + Send + Sync + 'static) -> Self {
        self.register.push(Arc::new(act));
        self
    }
}

impl fmt::Debug for NodeApp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeApp").field("kinds", &self.kinds).finish_non_exhaustive()
    }
}

/// Why a node did not start. Nothing of it remains.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// Correct the option.
    #[error("option {option} of node {node:?} {problem}")]
    Option {
        /// The node's name.
        node: String,
        /// Which option.
        option: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Choose another address, or stop what holds it.
    #[error("cannot listen for nodes on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// Configure a cluster key, or listen on a loopback address.
    #[error("{0} can be reached from other machines: that needs a cluster key")]
    Insecure(SocketAddr),
    /// The system has no threads or descriptors left.
    #[error("the system refuses a thread or descriptor: {0}")]
    System(#[from] io::Error),
    /// Declare less, or configure a bus that gives it.
    #[error(transparent)]
    Bus(#[from] bus::Error),
    /// Give it a store.
    #[error("{kept:?} is to be kept, and node {node:?} has no store to keep it in")]
    NoStore {
        /// The node's name.
        node: String,
        /// The kind or sort of record.
        kept: &'static str,
    },
    /// Give it that store, or have the kind name another.
    #[error("`{kind}` is kept in the store {store:?}, which node {node:?} does not have")]
    UnknownStore {
        /// The node's name.
        node: String,
        /// The kind.
        kind: &'static str,
        /// The store that it names.
        store: &'static str,
    },
    /// The cluster does not list it.
    #[error(transparent)]
    Cluster(#[from] cluster::Error),
}

/// A node that runs. Dropping the handle stops it.
pub struct NodeHandle {
    name: String,
    incarnation: Incarnation,
    mesh_addr: Option<SocketAddr>,
    clock: Clock,
    cluster: Cluster,
    inboxes: Vec<Arc<Inbox>>,
    beacons: Vec<Arc<Beacon>>,
    answer_wait: Duration,
    pool: Pool,
    crew: Crew,
    flush_wait: Duration,
    hand_over_wait: Duration,
    /// As it is listed.
    info: NodeInfo,
    running: RwLock<Option<Running>>,
}

struct Running {
    threads: Vec<JoinHandle<WorkerStats>>,
    keeper: Keeper,
    reporter: Reporter,
    /// One for each store, the default one's first.
    pacemakers: Vec<Pacemaker>,
}

/// What a node holds and has seen.
#[derive(Clone, Debug, Default)]
pub struct NodeStats {
    /// By worker; `None` for one that did not answer in time.
    pub workers: Vec<Option<WorkerStats>>,
    /// Turns done, by worker.
    pub turns: Vec<u64>,
    /// Turns that took too long.
    pub stuck: Vec<Stuck>,
}

/// What a node held when it was told to stop.
#[derive(Clone, Debug, Default)]
pub struct StopReport {
    /// By worker; `None` for one whose thread has panicked.
    pub workers: Vec<Option<WorkerStats>>,
}

impl StopReport {
    /// Entities whose last changes could not be saved in time.
    pub fn unsaved(&self) -> usize {
        self.workers.iter().flatten().map(|worker| worker.unsaved).sum()
    }

    /// Sessions that were ended, streams that were closed.
    pub fn closed(&self) -> (usize, usize) {
        let workers = self.workers.iter().flatten();
        workers.fold((0, 0), |(sessions, streams), worker| {
            (sessions + worker.homes.sessions, streams + worker.streams.streams)
        })
    }
}

/// A game server process, or a part of one: several may live in one process.
#[derive(Debug)]
pub struct Node;

impl Node {
    /// Starts a node: its workers run and it is listed in the cluster when this returns.
    ///
    /// # Errors
    ///
    /// See [`NodeError`].
    pub fn start(
        app: &NodeApp,
        options: NodeOptions,
        env: NodeEnv,
    ) -> Result<NodeHandle, NodeError> {
        let NodeEnv { clock, mut random, cluster, board, mesh_key, store, stores, metrics, bus } =
            env;
        let workers = check(&options, &mesh_key)?;
        let (stores, store_names) = check_stores(app, &options, store, stores)?;
        let crew = Crew::new();
        let (pullers, founding) = hire(app, &crew, bus.as_ref(), (&metrics, &options.name))?;
        let shown = bus.as_ref().map(|bus| {
            let here = app.queues.iter().filter(|(_, works)| *works || bus.is_shared());
            Shown::new(here.map(|(queue, _)| queue), bus, (&metrics, &options.name))
        });
        let incarnation = Incarnation(random.u64() | 1);
        let mut mesh_addr = options.mesh_listen;
        let mut seats = Vec::new();
        for _ in 0..workers {
            let mut sockets = Sockets::new(options.sockets.clone(), clock.clone())?;
            if let Some(address) = mesh_addr {
                let listen = ListenOptions { reuse_port: workers > 1, ..Default::default() };
                let listening = sockets.listen(address, listen);
                let (_, bound) =
                    listening.map_err(|source| NodeError::Listen { address, source })?;
                mesh_addr = Some(bound);
            }
            seats.push(sockets);
        }
        let inboxes: Vec<Arc<Inbox>> = seats
            .iter()
            .map(|_| {
                let bytes_max = options.worker_queue_bytes_max;
                Arc::new(Inbox::new(workers, bytes_max))
            })
            .collect();
        let pool = Pool::start(&options.name, options.blocking_threads, options.blocking_jobs_max)?;
        let beacons: Vec<Arc<Beacon>> = inboxes.iter().map(|_| Arc::default()).collect();
        let rooms = Arc::new(RoomCount::default());
        rooms.max.store(options.rooms_max, std::sync::atomic::Ordering::Relaxed);
        let mut threads = Vec::new();
        for (index, sockets) in (0..workers).zip(seats) {
            let me = WorkerId { node: incarnation, worker: index };
            let parts = Parts {
                me,
                workers,
                app: app.clone(),
                options: options.clone(),
                clock: clock.clone(),
                random: random.fork(),
                mesh_key: mesh_key.clone(),
                pool: pool.clone(),
                stores: (!stores.is_empty()).then(|| store_names.clone()),
                bus: bus.clone(),
                inbox: inboxes[usize::from(index)].clone(),
                rooms: rooms.clone(),
                cluster: cluster.clone(),
            };
            let seat = Seat {
                index,
                doorbell: board.open(incarnation.0, index, sockets.waker()),
                sockets,
                board: board.clone(),
                clock: clock.clone(),
                cluster: cluster.clone(),
                inboxes: inboxes.clone(),
                beacon: beacons[usize::from(index)].clone(),
                flush_wait: options.flush_wait,
                stores: stores.clone(),
                save_wait: options.data.stop_wait,
                build: Box::new(move || parts.build()),
            };
            match seat.start(&options.name) {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    inboxes.iter().for_each(|inbox| inbox.push(Mail::Stop));
                    pool.close();
                    return Err(error.into());
                }
            }
        }
        follow(&cluster, &inboxes);
        let mut info = listing(app, &options, (incarnation, workers), mesh_addr);
        info.started_ms = clock.wall().0;
        let listed = cluster.register(clock.now(), info.clone()).map_err(NodeError::from);
        let own_info = info.clone();
        let lease = Lease { cluster: cluster.clone(), info, renew_every: options.renew_every };
        let stuck_after = options.stuck_after;
        let keeper_beacons = beacons.clone();
        let (pace_clock, pace_cluster) = (clock.clone(), cluster.clone());
        let keeper = listed.and_then(|()| {
            let clock = clock.clone();
            let parts = KeeperParts { clock, lease, beacons: keeper_beacons, stuck_after };
            let keeper = Keeper::start(&options.name, parts)?;
            let parts = LoadParts {
                clock: pace_clock.clone(),
                cluster: pace_cluster.clone(),
                me: incarnation,
                inboxes: inboxes.clone(),
                rooms,
                metrics: metrics.clone(),
            };
            let reporter = Reporter::start(&options.name, parts)?;
            let names = std::iter::once(String::new()).chain(store_names);
            let pace = |(number, (store, store_name))| {
                let pace = Pace {
                    store,
                    number,
                    store_name,
                    me: incarnation,
                    cluster: pace_cluster.clone(),
                    options: options.data.clone(),
                    clock: pace_clock.clone(),
                    inboxes: inboxes.clone(),
                    metrics: metrics.clone(),
                };
                Pacemaker::start(&options.name, pace)
            };
            let pacemakers = stores.into_iter().zip(names).enumerate().map(pace);
            Ok((keeper, reporter, pacemakers.collect::<Result<Vec<_>, _>>()?))
        });
        let (keeper, reporter, pacemakers) = match keeper {
            Ok(keepers) => keepers,
            Err(error) => {
                cluster.deregister(incarnation);
                inboxes.iter().for_each(|inbox| inbox.push(Mail::Stop));
                threads.into_iter().for_each(|thread| drop(thread.join()));
                pool.close();
                return Err(error);
            }
        };
        let node = NodeHandle {
            name: options.name,
            incarnation,
            mesh_addr,
            clock,
            cluster,
            inboxes,
            beacons,
            answer_wait: options.answer_wait,
            pool,
            crew,
            flush_wait: options.flush_wait,
            hand_over_wait: options.hand_over_wait,
            info: own_info,
            running: RwLock::new(Some(Running { threads, keeper, reporter, pacemakers })),
        };
        if let Some(shown) = shown {
            drop(node.spawn(0, |_| shown.run()));
        }
        for (puller, worker) in pullers.into_iter().zip((0..workers).cycle()) {
            drop(node.spawn(worker, |outside| puller.run(outside)));
        }
        drop(node.spawn(0, |_| founded(founding)));
        Ok(node)
    }
}

/// The node's pull workers, and the groups that it holds for others.
fn hire(
    app: &NodeApp,
    crew: &Crew,
    bus: Option<&NodeBus>,
    metrics: (&Registry, &str),
) -> Result<(Vec<Puller>, Vec<Subscription>), bus::Error> {
    let (mut pullers, mut founding) = (Vec::new(), Vec::new());
    let Some(bus) = bus else { return Ok((pullers, founding)) };
    for (queue, works) in &app.queues {
        if *works {
            pullers.extend(crew.hire(queue, bus, metrics)?);
        } else if bus.is_shared() {
            founding.extend(found(queue, bus)?);
        }
    }
    Ok((pullers, founding))
}

/// What one worker is made of, on its way to its thread.
struct Parts {
    me: WorkerId,
    workers: u8,
    app: NodeApp,
    options: NodeOptions,
    clock: Clock,
    random: Random,
    mesh_key: Key,
    pool: Pool,
    /// The names of the stores beside the default one; `None` without any.
    stores: Option<Vec<String>>,
    bus: Option<NodeBus>,
    inbox: Arc<Inbox>,
    rooms: Arc<RoomCount>,
    cluster: Cluster,
}

impl Parts {
    fn build(mut self) -> Worker {
        let options = self.options;
        let mesh_options = mesh::Options { workers: self.workers, ..options.mesh };
        // Challenges must not be guessable, whatever the entities' randomness is seeded with.
        let secret = self.random.fork();
        let mesh = Mesh::new(self.me, &options.name, mesh_options, self.mesh_key, secret);
        let bindings = match self.app.bindings.clone() {
            Some(choose) => Bindings::new(move |login| choose(login)),
            None => Bindings::none(),
        };
        let mut worker = Worker::new(WorkerParts {
            me: self.me,
            workers: self.workers,
            host: HostOptions {
                message_bytes_max: options.mesh.frame_bytes_max - HEADER_BYTES,
                zones: options.zones,
                channels: options.channels,
                ..options.host
            },
            sessions: options.session,
            bindings,
            mesh,
            clock: self.clock,
            random: self.random,
            data: self.stores.map(|stores| DataParts { options: options.data, stores }),
        });
        if let Some(bus) = self.bus {
            let inbox = self.inbox;
            worker.set_bus(bus, move || inbox.wake());
        }
        worker.host().set_blocking_pool(Rc::new(self.pool));
        worker.host().share_rooms(self.rooms);
        worker.set_cluster(self.cluster);
        self.app.register_on(worker.host());
        worker
    }
}

/// What a frame between nodes may need besides the arguments or the reply in it.
const HEADER_BYTES: usize = 8 * 1024;

fn check(options: &NodeOptions, key: &Key) -> Result<u8, NodeError> {
    let wrong = |option, problem| {
        let node = options.name.clone();
        Err(NodeError::Option { node, option, problem })
    };
    if options.name.is_empty() || options.name.len() > proto::frame::TEXT_BYTES_MAX {
        return wrong("name", "must have 1 to 256 bytes");
    }
    if options.mesh.cluster.len() > proto::frame::TEXT_BYTES_MAX {
        return wrong("mesh.cluster", "must have at most 256 bytes");
    }
    if options.mesh.frame_bytes_max < 2 * HEADER_BYTES {
        return wrong("mesh.frame_bytes_max", "must be at least 16 KiB");
    }
    if options.blocking_threads == 0 {
        return wrong("blocking_threads", "must be at least 1");
    }
    if let Some(address) = options.mesh_listen.filter(|address| !key.may_bind(*address)) {
        return Err(NodeError::Insecure(address));
    }
    let cores = thread::available_parallelism().map_or(1, usize::from);
    Ok(match options.workers {
        0 => u8::try_from(cores).unwrap_or(u8::MAX),
        workers => workers,
    })
}

/// The stores, the default one first, and the names of the others.
fn check_stores(
    app: &NodeApp,
    options: &NodeOptions,
    store: Option<Store>,
    named: Vec<(String, Store)>,
) -> Result<(Vec<Store>, Vec<String>), NodeError> {
    let node = options.name.clone();
    let Some(store) = store else {
        return match app.kept {
            Some(kept) => Err(NodeError::NoStore { node, kept }),
            None => Ok((Vec::new(), Vec::new())),
        };
    };
    if named.len() > STORES_MAX {
        return Err(NodeError::Option { node, option: "stores", problem: "are at most 63" });
    }
    let (names, stores): (Vec<_>, Vec<_>) = named.into_iter().unzip();
    let kinds = app.placed.iter().map(|kind| (kind.name, kind.store));
    let is_there = |store: &str| store.is_empty() || names.iter().any(|name| name == store);
    let mut all = kinds.chain(app.records.iter().copied());
    if let Some((kind, store)) = all.find(|(_, store)| !is_there(store)) {
        return Err(NodeError::UnknownStore { node, kind, store });
    }
    Ok((std::iter::once(store).chain(stores).collect(), names))
}

/// Stores beside the default one; each has a bit of 64.
const STORES_MAX: usize = 63;

fn listing(
    app: &NodeApp,
    options: &NodeOptions,
    (incarnation, workers): (Incarnation, u8),
    mesh_addr: Option<SocketAddr>,
) -> NodeInfo {
    let mut info = NodeInfo::new(options.name.clone(), incarnation);
    info.mesh = options.mesh_public.or(mesh_addr).into_iter().collect();
    info.roles = options.roles.clone();
    info.zones.clone_from(&options.zones);
    info.channels.clone_from(&options.channels);
    info.kinds = app.kinds.clone();
    info.local = app.local.clone();
    if options.sessions {
        info.kinds.push(SESSION_KIND);
    }
    info.workers = workers;
    info.weight = options.weight;
    info.interface = app.interface;
    info.schema.clone_from(&app.schema);
    info
}

/// Wakes the workers when the directory changes, for as long as there are any.
fn follow(cluster: &Cluster, inboxes: &[Arc<Inbox>]) {
    let inboxes: Vec<_> = inboxes.iter().map(Arc::downgrade).collect();
    cluster.on_change(move || {
        let mut alive = false;
        for inbox in inboxes.iter().filter_map(std::sync::Weak::upgrade) {
            alive = true;
            inbox.wake();
        }
        alive
    });
}

impl NodeHandle {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// This life of it.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Where it listens for other nodes.
    pub fn mesh_addr(&self) -> Option<SocketAddr> {
        self.mesh_addr
    }

    /// How many workers it has.
    pub fn workers(&self) -> u8 {
        self.inboxes.len() as u8
    }

    /// Has `act` done with a worker, on its thread, and gives what it gives. `None` if the worker
    /// is stopped or does not come to it within `answer_wait`; it may do it later then.
    ///
    /// # Panics
    ///
    /// If there is no such worker.
    pub fn ask<R: Send + 'static>(
        &self,
        worker: u8,
        act: impl FnOnce(&mut Worker) -> R + Send + 'static,
    ) -> Option<R> {
        let (tell, answer) = mpsc::sync_channel(1);
        let task: Task = Box::new(move |worker| {
            let _ = tell.try_send(act(worker));
        });
        self.inboxes[usize::from(worker)].push(Mail::Task(task));
        answer.recv_timeout(self.answer_wait).ok()
    }

    /// Runs a future on a worker's thread, among its entities, and gives its result. Dropping the
    /// receiver does not stop it. An error means that the worker stopped before.
    ///
    /// # Panics
    ///
    /// If there is no such worker.
    pub fn spawn<F, R>(
        &self,
        worker: u8,
        begin: impl FnOnce(Outside) -> F + Send + 'static,
    ) -> tokio::sync::oneshot::Receiver<R>
    where
        F: Future<Output = R> + 'static,
        R: Send + 'static,
    {
        let (tell, answer) = tokio::sync::oneshot::channel();
        let task: Task = Box::new(move |worker| {
            let future = begin(worker.outside());
            tokio::task::spawn_local(async move {
                let _ = tell.send(future.await);
            });
        });
        self.inboxes[usize::from(worker)].push(Mail::Task(task));
        answer
    }

    /// Ends the session of an account, wherever it is at home. `false` if no node holds sessions.
    pub fn kick(&self, account: AccountId, code: CloseCode, reason: &str) -> bool {
        let Some(home) = self.cluster.directory().home(account) else { return false };
        let worker = if home.node == self.incarnation { home.worker } else { 0 };
        let (reason, clock) = (reason.to_owned(), self.clock.clone());
        let task: Task = Box::new(move |worker| {
            worker.kick(clock.now(), account, code, &reason);
        });
        self.inboxes[usize::from(worker)].push(Mail::Task(task));
        true
    }

    /// Has a keyed entity with documents move to another node, live, wherever it is now; it stays there
    /// although it is placed elsewhere, until that node goes. `false` if that node does not offer its
    /// kind. What becomes of it shows in [`WorkerStats::moves`](crate::WorkerStats::moves): it may stay
    /// where it is.
    pub fn move_entity(&self, id: EntityId, to: Incarnation) -> bool {
        let directory = self.cluster.directory();
        if directory.node(to).is_none_or(|info| !info.may_have(id)) {
            return false;
        }
        // Where it is here, if it is; else the worker passes the wish on.
        let at = id.worker(self.workers());
        let task: Task = Box::new(move |worker| {
            worker.move_entity(id, to);
        });
        self.inboxes[usize::from(at)].push(Mail::Task(task));
        true
    }

    /// What it holds and has seen. Waits for each worker, at most `answer_wait`.
    pub fn stats(&self) -> NodeStats {
        let workers = (0..self.workers()).map(|w| self.ask(w, |worker| worker.stats())).collect();
        let turns = self
            .beacons
            .iter()
            .map(|beacon| beacon.turns.load(std::sync::atomic::Ordering::Relaxed));
        NodeStats { workers, turns: turns.collect(), stuck: self.stuck() }
    }

    /// For how long the worker that is longest in one turn is in it; `None` if none is. Asks no worker.
    pub fn longest_turn(&self) -> Option<Duration> {
        let now = self.clock.now();
        self.beacons.iter().filter_map(|beacon| beacon.since()).map(|since| now - since).max()
    }

    /// How loaded it said it was when it reported last: every two seconds.
    pub fn load(&self) -> cluster::Load {
        let running = self.running.read().unwrap_or_else(PoisonError::into_inner);
        running.as_ref().map(|running| running.reporter.last()).unwrap_or_default()
    }

    /// Turns that all workers did so far. Asks no worker.
    pub fn turns(&self) -> u64 {
        let turns = |beacon: &Arc<Beacon>| beacon.turns.load(std::sync::atomic::Ordering::Relaxed);
        self.beacons.iter().map(turns).sum()
    }

    /// The turns that took too long so far, oldest first. Asks no worker.
    pub fn stuck(&self) -> Vec<Stuck> {
        let running = self.running.read().unwrap_or_else(PoisonError::into_inner);
        running.as_ref().map_or_else(Vec::new, |running| running.keeper.stuck())
    }

    /// Why it can keep nothing any more: its store has stopped for good, or has declared it dead.
    /// Only a new start of the process mends that.
    pub fn store_failed(&self) -> Option<String> {
        let running = self.running.read().unwrap_or_else(PoisonError::into_inner);
        running.as_ref()?.pacemakers.iter().find_map(Pacemaker::failed)
    }

    /// What the last check of the default store's ledger found; `None` before the first, or without a
    /// store. Faults in those of others are in the log.
    pub fn audit(&self) -> Option<store::Verdict> {
        let running = self.running.read().unwrap_or_else(PoisonError::into_inner);
        running.as_ref()?.pacemakers.first()?.audit()
    }

    /// Hands its sessions and stored entities over to the other nodes, takes the node off the list, ends what sessions
    /// nobody has taken, closes its streams, and waits until its last frames have left. A second
    /// call reports nothing.
    pub fn stop(&self) -> StopReport {
        let running = self.running.write().unwrap_or_else(PoisonError::into_inner).take();
        let Some(running) = running else { return StopReport::default() };
        self.hand_over();
        // What is still here ends here, although the list will say that it belongs elsewhere.
        for worker in 0..self.workers() {
            let _ = self.ask(worker, Worker::keep_directory);
        }
        running.keeper.stop();
        running.reporter.stop();
        // While the entities that their jobs call are still there.
        let left = self.crew.stop(self.flush_wait);
        if left > 0 {
            tracing::warn!(left, "jobs were broken off; they come again elsewhere");
        }
        self.inboxes.iter().for_each(|inbox| inbox.push(Mail::Stop));
        let workers = running.threads.into_iter().map(|thread| thread.join().ok()).collect();
        // Its last saves need it to be alive.
        running.pacemakers.into_iter().for_each(Pacemaker::stop);
        self.pool.close();
        StopReport { workers }
    }
}

impl NodeHandle {
    /// Has other nodes take over the sessions that are at home here and the entities that are kept in a
    /// store, if there are such nodes.
    fn hand_over(&self) {
        let me = self.incarnation;
        let takes = |info: &NodeInfo| {
            let shares = || info.kinds.iter().any(|kind| self.info.offers(*kind));
            info.incarnation != me && !info.draining && shares()
        };
        let has_others = || self.cluster.directory().nodes().any(&takes);
        if !has_others() {
            return;
        }
        let info = NodeInfo { draining: true, ..self.info.clone() };
        if let Err(error) = self.cluster.register(self.clock.now(), info) {
            return tracing::warn!(%error, "sessions and entities cannot be handed over");
        }
        let is_done = move |worker: &mut Worker| {
            let directory = worker.directory();
            let is_told = directory.node(me).is_none_or(|info| info.draining);
            is_told && left_at(worker) == (0, 0, 0)
        };
        let until = self.clock.now() + self.hand_over_wait;
        while has_others() && self.clock.now() < until {
            // A worker that has panicked has nothing to hand over.
            if (0..self.workers()).all(|w| self.ask(w, is_done).unwrap_or(true)) {
                return;
            }
            thread::park_timeout(LOOK_EVERY);
        }
        for worker in 0..self.workers() {
            let left = self.ask(worker, |worker| left_at(worker)).unwrap_or_default();
            if left == (0, 0, 0) {
                continue;
            }
            let (sessions, entities, streams) = left;
            tracing::warn!(
                worker,
                sessions,
                entities,
                streams,
                "not all is handed over: the rest ends here"
            );
        }
    }
}

/// Sessions, stored entities and streams that a worker has not handed over.
fn left_at(worker: &Worker) -> (usize, usize, usize) {
    (worker.sessions_left(), worker.entities_left(), worker.streams_left())
}

/// How often a stopping node looks whether its sessions have gone.
const LOOK_EVERY: Duration = Duration::from_millis(10);

impl Drop for NodeHandle {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for NodeHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeHandle")
            .field("name", &self.name)
            .field("incarnation", &self.incarnation)
            .field("mesh_addr", &self.mesh_addr)
            .finish_non_exhaustive()
    }
}
