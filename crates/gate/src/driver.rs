//! The threads of a gate: sockets, links and clocks around [`Gate`](crate::Gate).

mod client;
#[cfg(unix)]
mod handover;
mod metrics;
#[cfg(test)]
mod tests;
mod worker;

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use cluster::{Cluster, Directory, NodeInfo};
use env::metrics::Registry;
use env::{Clock, Random};
use mesh::{Key, Mesh};
use proto::Incarnation;
use proto::frame::CloseCode;
use proto::link::{Slot, WorkerId};
use proto::ticket::TicketKeys;
use transport::ws::UpgradeOptions;
use transport::{Board, ListenOptions, ListenerId, Listeners, Sockets, Waker};

use crate::driver::metrics::Metrics;
use crate::driver::worker::{Loop, Ports};
use crate::{Banned, ConnectionInfo, Gate, Options, Parts, Policy, Stats};

#[cfg(unix)]
pub use crate::driver::handover::{GivenAway, Taker};
#[cfg(unix)]
use crate::driver::handover::{Handed, Offers, Places};

/// Takes connections that speak HTTP but ask for no game stream, with the bytes already read.
/// The stream is non-blocking. Called on the gate's threads: must not block.
pub type HttpSink = Arc<dyn Fn(TcpStream, Vec<u8>) + Send + Sync>;

/// Makes the policies of one worker.
pub type PolicyMaker = Arc<dyn Fn() -> Vec<Policy> + Send + Sync>;

/// Everything that a [`Server`] is started with.
#[derive(Clone)]
pub struct Setup {
    /// The node's name in the cluster.
    pub name: String,
    /// This life of the node. A gate that shares a process with a node has its own.
    pub incarnation: Incarnation,
    /// Threads, each with its own share of the connections; at least 1.
    pub workers: u8,
    /// Where clients come in: plain, WebSocket and HTTP alike. Port 0 lets the system choose.
    pub listen: Vec<SocketAddr>,
    /// Ports of `listen` that are open already and outlive the gate; the others it opens itself.
    pub listeners: Listeners,
    /// Where other nodes come in, if they may.
    pub mesh_listen: Option<SocketAddr>,
    /// Where they reach it, if not there; with port 0, at the port that it listens on.
    pub mesh_public: Option<SocketAddr>,
    /// Limits, of the whole gate: those of connections are divided among the workers.
    pub options: Options,
    /// Limits of the links; their number of workers is set to that of the gate.
    pub links: mesh::Options,
    /// What nodes prove themselves with.
    pub key: Key,
    /// Path, subprotocol and origins of WebSocket clients.
    pub upgrade: UpgradeOptions,
    /// Opens tickets.
    pub keys: TicketKeys,
    /// The clock of the process.
    pub clock: Clock,
    /// Where nodes of the same process are found.
    pub board: Board,
    /// The nodes known at the start; not looked at with `cluster`.
    pub directory: Arc<Directory>,
    /// The list of nodes: the gate follows it and is on it itself, so that every worker of every
    /// node can reach it. Without it, [`Server::set_directory`] tells of changes, and only nodes
    /// with one worker can answer.
    pub cluster: Option<Cluster>,
    /// How often the gate says there that it still runs: a third of the registry's lease.
    pub renew_every: Duration,
    /// Where counters show.
    pub registry: Registry,
    /// Who serves HTTP; without it such connections are closed.
    pub http: Option<HttpSink>,
    /// Rules at the edge.
    pub policies: Option<PolicyMaker>,
    /// Hashes of the interfaces that clients may be made for; empty takes all.
    pub interfaces: Vec<u64>,
}

impl Setup {
    /// One worker on a port of the loopback that the system chooses, with the safe defaults.
    pub fn new(name: impl Into<String>, incarnation: Incarnation, keys: TicketKeys) -> Self {
        Setup {
            name: name.into(),
            incarnation,
            workers: 1,
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            listeners: Listeners::default(),
            mesh_listen: None,
            mesh_public: None,
            options: Options::default(),
            links: mesh::Options::default(),
            key: Key::none(),
            upgrade: UpgradeOptions::default(),
            keys,
            clock: Clock::system(),
            board: Board::new(),
            directory: Arc::new(Directory::default()),
            cluster: None,
            renew_every: cluster::Options::default().lease / 3,
            registry: Registry::new(),
            http: None,
            policies: None,
            interfaces: Vec::new(),
        }
    }
}

/// Why a gate did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The port is taken, or may not be used.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// What was asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Links of a cluster without a secret key may only be taken on the loopback.
    #[error("cannot take links on {0} without a key: set the cluster's mesh key")]
    Key(SocketAddr),
    /// The cluster does not list the gate.
    #[error(transparent)]
    Cluster(#[from] cluster::Error),
    /// Threads or descriptors are used up.
    #[error("cannot start a gate worker: {0}")]
    System(#[from] io::Error),
}

/// Why a gate stopped before it was told to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("gate worker {worker} failed: {message}")]
pub struct Failed {
    /// Which thread.
    pub worker: u8,
    /// What it said.
    pub message: String,
}

/// A running gate. Dropping it stops it without goodbye.
pub struct Server {
    addresses: Vec<SocketAddr>,
    mesh_address: Option<SocketAddr>,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Result<(), Failed>>>,
}

/// Reads the figures of a gate. A cheap clone.
#[derive(Clone)]
pub struct Observer {
    shared: Arc<Shared>,
}

impl Observer {
    /// What the gate holds and did, all workers together; up to a second old.
    pub fn stats(&self) -> Stats {
        let mut total = Stats::default();
        for post in &self.shared.workers {
            total.add(&lock(&post.stats));
        }
        total
    }
}

/// What a worker is told from outside.
pub(crate) enum Command {
    Directory(Arc<Directory>),
    /// The gate is listed like this; the worker that is told keeps it listed.
    Listed(NodeInfo),
    Drain(Duration),
    Stop,
    Ban(Banned, Duration),
    LiftBan(Banned),
    Close(Slot, CloseCode, String),
    List(usize, std::sync::mpsc::Sender<Vec<ConnectionInfo>>),
    /// Up to so many connections are to be offered to the successor. No more are accepted.
    #[cfg(unix)]
    Offer(usize, std::sync::mpsc::Sender<Offers>),
    /// The successor has places for them, or not: those that go are to be sent here.
    #[cfg(unix)]
    Shift(Places, std::sync::mpsc::Sender<Handed>),
    /// A predecessor offers connections.
    #[cfg(unix)]
    Reserve(Vec<Vec<u8>>, std::sync::mpsc::Sender<Vec<Option<(WorkerId, Slot)>>>),
    /// Here they are.
    #[cfg(unix)]
    Import(Vec<Handed>),
}

/// What the threads of a gate share.
pub(crate) struct Shared {
    pub(crate) workers: Vec<Post>,
    /// A worker ended by an error.
    pub(crate) failed: AtomicBool,
}

/// One worker as others see it.
pub(crate) struct Post {
    pub(crate) waker: Waker,
    pub(crate) commands: Mutex<Vec<Command>>,
    pub(crate) lane: Mutex<Lane>,
    pub(crate) stats: Mutex<Stats>,
}

/// Frames from other workers of the gate.
#[derive(Default)]
pub(crate) struct Lane {
    pub(crate) batches: Vec<Vec<u8>>,
    pub(crate) bytes: usize,
}

/// Most bytes that wait for a worker in its lane.
pub(crate) const LANE_BYTES_MAX: usize = 16 * 1024 * 1024;

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A worker that panicked leaves whole values behind.
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl Server {
    /// Opens the ports and starts the threads.
    ///
    /// # Errors
    ///
    /// See [`StartError`]; nothing runs then.
    ///
    /// # Panics
    ///
    /// Without workers, or with names over their limits.
    pub fn start(setup: Setup) -> Result<Server, StartError> {
        assert!(setup.workers > 0, "a gate has at least one worker");
        if let Some(address) = setup.mesh_listen
            && !setup.key.may_bind(address)
        {
            return Err(StartError::Key(address));
        }
        let now = setup.clock.now();
        let mut listen = setup.listen.clone();
        let mut mesh_listen = setup.mesh_listen;
        let mut random = Random::from_os();
        let mut opened = Vec::new();
        for worker in 0..setup.workers {
            let options = transport::Options::default();
            let mut sockets = Sockets::new(options, setup.clock.clone())?;
            let taken = take_ports(&setup, worker, &mut sockets, &mut listen)?;
            // What the first worker was given the others share.
            let ports = open_ports(&mut sockets, taken, &mut listen, &mut mesh_listen)?;
            opened.push((sockets, ports));
        }
        let post = |(sockets, _): &(Sockets, Ports)| Post {
            waker: sockets.waker(),
            commands: Mutex::new(Vec::new()),
            lane: Mutex::default(),
            stats: Mutex::default(),
        };
        let workers = opened.iter().map(post).collect();
        let shared = Arc::new(Shared { workers, failed: AtomicBool::new(false) });
        let mut threads = Vec::new();
        for (worker, (sockets, ports)) in (0u8..).zip(opened) {
            let mut gate = Gate::new(now, parts(&setup, worker, &mut random));
            gate.set_interfaces(setup.interfaces.clone());
            let metrics = Metrics::new(&setup.registry, worker);
            let started = Loop::new(worker, gate, sockets, ports, &setup, metrics, shared.clone());
            let thread = std::thread::Builder::new()
                .name(format!("gate-{worker}"))
                .spawn(move || run(worker, started));
            match thread {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    let stop = Server { addresses: listen, mesh_address: None, shared, threads };
                    stop.tell(|| Command::Stop);
                    return Err(StartError::System(error));
                }
            }
        }
        let mesh_address = mesh_listen;
        let server = Server { addresses: listen, mesh_address, shared, threads };
        match setup.cluster {
            None => server.set_directory(setup.directory),
            Some(cluster) => {
                let shared = Arc::downgrade(&server.shared);
                cluster.on_change(move || {
                    let Some(shared) = shared.upgrade() else { return false };
                    shared.workers.iter().for_each(|post| post.waker.wake());
                    true
                });
                let mut info = NodeInfo::new(setup.name, setup.incarnation);
                let public = |bound: SocketAddr| match setup.mesh_public {
                    Some(public) if public.port() == 0 => {
                        SocketAddr::new(public.ip(), bound.port())
                    }
                    Some(public) => public,
                    None => bound,
                };
                info.mesh = mesh_address.map(public).into_iter().collect();
                info.roles = vec!["gate".into()];
                info.workers = setup.workers;
                // Wakes the workers, who look at the list then.
                cluster.register(now, info.clone())?;
                server.shared.workers[0].tell(Command::Listed(info));
            }
        }
        Ok(server)
    }

    /// Where clients come in.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where other nodes come in.
    pub fn mesh_address(&self) -> Option<SocketAddr> {
        self.mesh_address
    }

    /// Tells the gate which nodes there are now.
    pub fn set_directory(&self, directory: Arc<Directory>) {
        self.tell(|| Command::Directory(directory.clone()));
    }

    /// Takes no more connections, sends all there are elsewhere, evenly over `span`, and ends.
    pub fn drain(&self, span: Duration) {
        self.tell(|| Command::Drain(span));
    }

    /// Says goodbye to all at once and ends.
    pub fn stop(&self) {
        self.tell(|| Command::Stop);
    }

    /// Bans an address range or account and closes what it has here.
    pub fn ban(&self, whom: Banned, span: Duration) {
        self.tell(|| Command::Ban(whom, span));
    }

    /// Lifts a ban.
    pub fn lift_ban(&self, whom: Banned) {
        self.tell(|| Command::LiftBan(whom));
    }

    /// Closes one connection of one worker, as [`connections`](Self::connections) lists it.
    pub fn close(&self, worker: u8, slot: Slot, code: CloseCode, reason: &str) {
        if let Some(post) = self.shared.workers.get(usize::from(worker)) {
            post.tell(Command::Close(slot, code, reason.to_string()));
        }
    }

    /// What the gate holds and did, all workers together; up to a second old.
    pub fn stats(&self) -> Stats {
        self.observer().stats()
    }

    /// A way to ask for the gate's figures from elsewhere, also after it ended.
    pub fn observer(&self) -> Observer {
        Observer { shared: self.shared.clone() }
    }

    /// Up to `max` connections of each worker with its number. Asks the workers and waits for at
    /// most `wait`; those that did not answer by then are left out.
    pub fn connections(&self, max: usize, wait: Duration) -> Vec<(u8, ConnectionInfo)> {
        let asked: Vec<_> = self
            .shared
            .workers
            .iter()
            .map(|post| {
                let (sender, receiver) = std::sync::mpsc::channel();
                post.tell(Command::List(max, sender));
                receiver
            })
            .collect();
        let mut listed = Vec::new();
        for (worker, receiver) in (0u8..).zip(asked) {
            let infos = receiver.recv_timeout(wait).unwrap_or_default();
            listed.extend(infos.into_iter().map(|info| (worker, info)));
        }
        listed
    }

    /// Whether all workers run as they should, or have ended as they were told.
    pub fn is_healthy(&self) -> bool {
        !self.shared.failed.load(Ordering::SeqCst)
    }

    /// Waits for the end that [`drain`](Self::drain) or [`stop`](Self::stop) asked for.
    ///
    /// # Errors
    ///
    /// The first worker that failed.
    pub fn join(mut self) -> Result<(), Failed> {
        let mut result = Ok(());
        for (worker, thread) in (0u8..).zip(std::mem::take(&mut self.threads)) {
            let message = "its thread was lost".to_string();
            let ended = thread.join().unwrap_or(Err(Failed { worker, message }));
            result = result.and(ended);
        }
        result
    }

    fn tell(&self, command: impl Fn() -> Command) {
        for post in &self.shared.workers {
            post.tell(command());
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tell(|| Command::Stop);
    }
}

impl Post {
    fn tell(&self, command: Command) {
        lock(&self.commands).push(command);
        self.waker.wake();
    }
}

/// The ports of one worker that were open before, by their place in `listen`, which says then where they are.
fn take_ports(
    setup: &Setup,
    worker: u8,
    sockets: &mut Sockets,
    listen: &mut [SocketAddr],
) -> Result<Vec<Vec<ListenerId>>, StartError> {
    let mut taken = Vec::new();
    for (at, asked) in setup.listen.iter().enumerate() {
        let mut ids = Vec::new();
        // An address that is there twice has its ports once.
        if !setup.listen[..at].contains(asked) {
            for port in setup.listeners.share(*asked, worker, setup.workers)? {
                let (id, address) = sockets.adopt_listener(port)?;
                listen[at] = address;
                ids.push(id);
            }
        }
        taken.push(ids);
    }
    Ok(taken)
}

fn open_ports(
    sockets: &mut Sockets,
    taken: Vec<Vec<ListenerId>>,
    listen: &mut [SocketAddr],
    mesh_listen: &mut Option<SocketAddr>,
) -> Result<Ports, StartError> {
    let mut ports = Ports::default();
    let mut open = |address: &mut SocketAddr| {
        let options = ListenOptions::default();
        let listening = sockets.listen(*address, options);
        let (listener, opened) =
            listening.map_err(|source| StartError::Listen { address: *address, source })?;
        *address = opened;
        Ok::<_, StartError>(listener)
    };
    for (address, taken) in listen.iter_mut().zip(taken) {
        match taken.is_empty() {
            true => ports.clients.push(open(address)?),
            false => ports.clients.extend(taken),
        }
    }
    if let Some(address) = mesh_listen {
        ports.mesh = Some(open(address)?);
    }
    Ok(ports)
}

fn parts(setup: &Setup, worker: u8, random: &mut Random) -> Parts {
    let me = WorkerId { node: setup.incarnation, worker };
    let links = mesh::Options { workers: setup.workers, ..setup.links.clone() };
    let mesh = Mesh::new(me, &setup.name, links, setup.key.clone(), random.fork());
    let share = usize::from(setup.workers);
    let mut options = setup.options.clone();
    options.connections_max = options.connections_max.div_ceil(share);
    options.operator_places = options.operator_places.div_ceil(share);
    // A client's connections are dealt out by their ports, so one address meets all workers.
    let per_address = options.connections_per_address_max;
    options.connections_per_address_max = per_address.div_ceil(u32::from(setup.workers));
    Parts {
        options,
        keys: setup.keys.clone(),
        directory: setup.directory.clone(),
        random: random.fork(),
        mesh,
        policies: setup.policies.as_ref().map_or_else(Vec::new, |make| make()),
    }
}

/// The body of a worker's thread.
fn run(worker: u8, mut started: Loop) -> Result<(), Failed> {
    let shared = started.shared();
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| started.run()));
    let message = match result {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => format!("its poll failed: {error}"),
        Err(panic) => panic
            .downcast_ref::<&str>()
            .map(|text| text.to_string())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "a panic".into()),
    };
    shared.failed.store(true, Ordering::SeqCst);
    tracing::error!(worker, %message, "a gate worker failed; its connections are lost");
    Err(Failed { worker, message })
}
