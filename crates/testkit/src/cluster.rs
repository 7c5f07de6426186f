use std::sync::Arc;
use std::time::Duration;

use client::{CallError, CallId, Event, RequestId, TellId};
use cluster::{Directory, NodeInfo};
use env::{Clock, Instant, ManualClock, Random, WallTime};
use node::session::Bindings;
use node::{Host, HostOptions, WorkerStats};
use proto::frame::Status;
use proto::link::WorkerId;
use proto::ticket::{Claims, TicketKeys};
use proto::{AccountId, Incarnation, KindId, Message, MethodId, Scope};

use crate::clients::{ClientId, ClientSeat, RequestResult};
use crate::coordinator::{CenterFaults, Coordination};
use crate::faults::{Counts, Faults};
use crate::net::{Callee, End, Happening, Net, PipeId, Place, Site, Way};
use crate::nodes::CoordinatorFaults;
use crate::notes::Notes;
use crate::places::{GateSeat, Ground, NodeSeat, WorkerSeat};
use crate::trace::Trace;
use crate::vault::{StoreCounts, StoreFaults, StoreMutant, Vault};
use crate::wire::{Want, Wire};

/// Registers the kinds of a game at each worker.
pub type Register = Arc<dyn Fn(&mut Host) + Send + Sync>;

/// What a simulated cluster is made of.
#[derive(Clone)]
pub struct Options {
    /// Everything random follows from it.
    pub seed: u64,
    /// Gates; clients try one after the other.
    pub gates: usize,
    /// Nodes, each with `workers`.
    pub nodes: usize,
    /// Workers of each node.
    pub workers: u8,
    /// What goes wrong until [`Cluster::heal`].
    pub faults: Faults,
    /// Registers the game's kinds.
    pub register: Register,
    /// Ids of those kinds.
    pub kinds: Vec<KindId>,
    /// Those of them that are local to a zone or channel. Each node is of those of `host`.
    pub local: Vec<(KindId, Scope)>,
    /// What new sessions are bound to.
    pub bindings: Bindings,
    /// Limits of gates.
    pub gate: gate::Options,
    /// Limits of sessions.
    pub sessions: node::session::Options,
    /// Limits of entities.
    pub host: HostOptions,
    /// Whether there is a store, for kinds that have documents.
    pub stored: bool,
    /// How nodes keep documents.
    pub data: node::data::Options,
    /// Limits of the store.
    pub store: store::Limits,
    /// What goes wrong at the store and on the way to it until [`Cluster::heal`].
    pub store_faults: StoreFaults,
    /// What goes wrong at the coordinator until [`Cluster::heal`].
    pub coordinator_faults: CoordinatorFaults,
    /// The coordinator is a process of its own that is reached over the network: how long its leases are,
    /// and its faults. Without it every place is told of each change, as `coordinator_faults` have it.
    pub coordinator: Option<(Duration, CenterFaults)>,
    /// A safety of the simulated store switched off.
    #[doc(hidden)]
    pub store_mutant: Option<StoreMutant>,
    /// How many lines of [`Cluster::notes`] are kept. 0: none are made.
    pub notes_max: usize,
    /// After so many steps nothing happens any more; see [`Cluster::is_exhausted`].
    pub events_max: u64,
}

impl Options {
    /// One gate and one node with two workers, where nothing goes wrong.
    pub fn new(seed: u64, register: Register, kinds: Vec<KindId>, bindings: Bindings) -> Self {
        Options {
            seed,
            gates: 1,
            nodes: 1,
            workers: 2,
            faults: Faults::none(),
            register,
            kinds,
            local: Vec::new(),
            bindings,
            gate: gate::Options::default(),
            sessions: node::session::Options::default(),
            host: HostOptions::default(),
            stored: false,
            data: node::data::Options::default(),
            store: store::Limits::default(),
            store_faults: StoreFaults::none(),
            coordinator_faults: CoordinatorFaults::default(),
            coordinator: None,
            store_mutant: None,
            notes_max: 0,
            events_max: u64::MAX,
        }
    }
}

/// What is still there of clients: all zero after they went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Connections that gates hold.
    pub connections: u64,
    /// Groups that gates know members of.
    pub gate_groups: u64,
    /// Sessions that homes hold.
    pub sessions: u64,
    /// Streams that entities hold.
    pub streams: u64,
    /// Members of groups.
    pub members: u64,
}

/// A cluster in one thread. Time passes only in [`run_for`](Cluster::run_for) and what waits.
pub struct Cluster {
    pub(crate) options: Options,
    clock: ManualClock,
    pub(crate) ground: Ground,
    pub(crate) net: Net,
    pub(crate) nodes: Vec<NodeSeat>,
    pub(crate) gates: Vec<GateSeat>,
    clients: Vec<ClientSeat>,
    pub(crate) revision: u64,
    pub(crate) trace: Trace,
    pub(crate) notes: Notes,
    pub(crate) healed: bool,
    pub(crate) vault: Vault,
    pub(crate) wire: Wire,
    /// Until when the coordinator tells nobody anything.
    pub(crate) coordinator_until: Instant,
    /// The coordinator, if it is a process of its own.
    pub(crate) coordination: Option<Coordination>,
}

impl Cluster {
    /// Starts the cluster; it has found itself when this returns.
    pub fn new(options: Options) -> Self {
        let mut random = Random::from_seed(options.seed);
        let notes = Notes::new(options.notes_max);
        let (clock, hands) = Clock::manual(WallTime(1_700_000_000_000));
        let keys = TicketKeys::new(vec![(1, [42; 32])]);
        let net = Net::new(random.fork(), Faults::none());
        let mut ground = Ground { clock, keys, random };
        let now = hands.now();
        // Not of the others' randomness, so that a store changes nothing for clusters without one.
        let own = Random::from_seed(options.seed ^ 0x570e);
        let vault = Vault::new(own, options.store.clone(), options.store_mutant);
        let nodes = (0..options.nodes).map(|n| NodeSeat::new(&mut ground, &options, n)).collect();
        let gates =
            (0..options.gates).map(|n| GateSeat::new(&mut ground, &options, now, n)).collect();
        let mut cluster = Cluster {
            options,
            clock: hands,
            ground,
            net,
            nodes,
            gates,
            clients: Vec::new(),
            revision: 0,
            trace: Trace::new(),
            notes,
            healed: false,
            vault,
            wire: Wire::default(),
            coordinator_until: Instant::ZERO,
            coordination: None,
        };
        (0..cluster.options.nodes).for_each(|n| cluster.start_heart(now, n));
        cluster.net.at(now, Happening::Directory);
        cluster.start_coordination(now);
        cluster.run_for(Duration::from_millis(500));
        if let (Some(all), Some((_, faults))) =
            (&mut cluster.coordination, &cluster.options.coordinator)
        {
            all.faults = faults.clone();
        }
        cluster.net.faults = cluster.options.faults.clone();
        cluster.vault.faults = cluster.options.store_faults.clone();
        cluster.net.at(now + Duration::from_secs(1), Happening::Strike);
        cluster
    }

    pub(crate) fn wall(&self) -> WallTime {
        self.clock.wall()
    }

    /// The time in the cluster.
    pub fn now(&self) -> Instant {
        self.clock.now()
    }

    /// What has happened so far, as a hash.
    pub fn trace(&self) -> Trace {
        self.trace
    }

    /// What happened last, for people; empty unless [`Options::notes_max`] asks for it.
    pub fn notes(&self) -> impl Iterator<Item = &str> {
        self.notes.lines()
    }

    /// Adds a line of the test's own to the notes. `line` is not called if none are kept.
    pub fn note(&mut self, line: impl FnOnce() -> String) {
        let now = self.now();
        self.notes.add(now, line);
    }

    /// How often each fault has struck.
    pub fn counts(&self) -> Counts {
        let mut counts = self.net.counts;
        counts.resent = self.clients.iter().map(|seat| seat.core.stats().resent).sum();
        counts
    }

    /// Randomness for the test's own choices, part of the seed.
    pub fn random(&mut self) -> &mut Random {
        &mut self.ground.random
    }

    /// How often the faults of the store and of nodes have struck.
    pub fn store_counts(&self) -> StoreCounts {
        self.vault.counts
    }

    /// What the store holds now, to look at: a copy, which nobody else has.
    pub fn store(&self) -> store::Store {
        self.vault.look()
    }

    /// Does a transaction beside the cluster, as a tool would, without delay or fault.
    ///
    /// # Errors
    ///
    /// See [`store::Store::commit`]; [`store::Error::Unavailable`] while the store is away.
    pub fn commit(&mut self, txn: &store::Transaction) -> Result<store::Receipt, store::Error> {
        self.vault.commit(txn)
    }

    /// From now on nothing goes wrong: what must converge has time to. Whoever is cut off or stands
    /// still goes on.
    pub fn heal(&mut self) {
        let now = self.now();
        self.net.faults = Faults::none();
        self.vault.faults = StoreFaults::none();
        self.healed = true;
        self.net.join_all();
        self.net.mend_all(now);
        self.free_lines(now);
        if let Some(all) = &mut self.coordination {
            all.faults = CenterFaults::default();
        }
        for node in 0..self.nodes.len() {
            self.cut_store(node, None);
        }
        self.net.at(now, Happening::Relist);
    }

    // -- clients --

    /// A client of `account`, which starts to connect.
    pub fn client(&mut self, account: u64) -> ClientId {
        let now = self.now();
        let wall = self.clock.wall();
        let claims = Claims {
            account: AccountId(account),
            level: 0,
            name: format!("player {account}"),
            issued: wall,
            expires: WallTime(wall.0 + 600_000),
        };
        let grant = self.ground.keys.issue(&mut self.ground.random, claims);
        let number = self.clients.len();
        let random = self.ground.random.fork();
        let mut seat = ClientSeat::new(number, grant, random, 1000);
        seat.core.start(now);
        self.clients.push(seat);
        self.settle_client(number);
        ClientId(number)
    }

    /// The client's protocol core, to look at.
    pub fn core(&self, client: ClientId) -> &client::Core {
        &self.clients[client.0].core
    }

    /// Whether the client's session is over.
    pub fn is_ended(&self, client: ClientId) -> bool {
        self.clients[client.0].ended
    }

    /// What happened at the client since the last call, replies apart.
    pub fn events(&mut self, client: ClientId) -> Vec<Event> {
        self.clients[client.0].events.drain(..).collect()
    }

    /// Starts a request with encoded arguments.
    ///
    /// # Errors
    ///
    /// If the client did not take it.
    pub fn start_request(
        &mut self,
        client: ClientId,
        stream: &str,
        method: MethodId,
        body: &[u8],
        wait: Duration,
    ) -> Result<RequestId, CallError> {
        let now = self.now();
        let id = self.clients[client.0].request(now, stream, method, body, wait);
        self.settle_client(client.0);
        id
    }

    /// The result of a request, once it has one.
    pub fn take_result(&mut self, client: ClientId, request: RequestId) -> Option<RequestResult> {
        self.clients[client.0].results.remove(&request)
    }

    /// Requests that have no result yet.
    pub fn open_requests(&self) -> usize {
        self.clients.iter().map(|seat| seat.core.requests_open()).sum()
    }

    /// Sends a request and lets time pass until it has ended.
    ///
    /// # Errors
    ///
    /// What the client was told.
    ///
    /// # Panics
    ///
    /// If the answer is not what `R` reads, or there is none within a simulated minute.
    pub fn request<A: Message, R: Message>(
        &mut self,
        client: ClientId,
        stream: &str,
        method: &str,
        arguments: &A,
    ) -> Result<R, CallError> {
        let body = client::encode_args(arguments);
        let wait = Duration::from_secs(30);
        let method = MethodId::of(method);
        let request = self.start_request(client, stream, method, &body, wait)?;
        let done = self.run_until(Duration::from_secs(60), |cluster| {
            cluster.clients[client.0].results.contains_key(&request)
        });
        assert!(done, "a request ends within its deadline");
        let answer = self.take_result(client, request).expect("just seen")?;
        Ok(proto::decode(&answer).expect("the answer is what the method declares"))
    }

    /// Sends a message.
    ///
    /// # Errors
    ///
    /// If the client did not take it.
    pub fn tell<A: Message>(
        &mut self,
        client: ClientId,
        stream: &str,
        method: &str,
        arguments: &A,
    ) -> Result<TellId, CallError> {
        let now = self.now();
        let body = client::encode_args(arguments);
        let sent = self.clients[client.0].core.tell(now, stream, MethodId::of(method), &body);
        self.settle_client(client.0);
        sent
    }

    /// Starts a request.
    ///
    /// # Errors
    ///
    /// If the client did not take it.
    pub fn start<A: Message>(
        &mut self,
        client: ClientId,
        (stream, method): (&str, &str),
        arguments: &A,
        wait: Duration,
    ) -> Result<RequestId, CallError> {
        let body = client::encode_args(arguments);
        self.start_request(client, stream, MethodId::of(method), &body, wait)
    }

    /// Lets the server call `method` of this client.
    pub fn publish(&mut self, client: ClientId, method: &str) {
        self.clients[client.0].core.publish(MethodId::of(method));
    }

    /// Answers a call of the server.
    ///
    /// # Errors
    ///
    /// If the client did not take it.
    pub fn answer<R: Message>(
        &mut self,
        client: ClientId,
        call: CallId,
        reply: &R,
    ) -> Result<(), CallError> {
        let now = self.now();
        let body = proto::encode(reply);
        let sent = self.clients[client.0].core.answer(now, call, Status::Ok, &body);
        self.settle_client(client.0);
        sent
    }

    /// Breaks the client's connection; its session goes on.
    pub fn cut(&mut self, client: ClientId) {
        let now = self.now();
        if let Some(pipe) = self.clients[client.0].pipe {
            self.net.cut(now, pipe);
        }
    }

    /// The client is gone without a word. Its connection breaks, or, if `silent`, only stops to
    /// carry anything.
    pub fn abandon(&mut self, client: ClientId, silent: bool) {
        let now = self.now();
        let seat = &mut self.clients[client.0];
        seat.gone = true;
        if !silent {
            self.net.hang_up(now, End::Client(client.0));
        }
    }

    /// Says goodbye.
    pub fn leave(&mut self, client: ClientId) {
        self.clients[client.0].core.close();
        self.settle_client(client.0);
    }

    // -- the cluster --

    /// How many gates there are, killed ones included.
    pub fn gates(&self) -> usize {
        self.gates.len()
    }

    /// Kills a gate without a word; it is back, as another life, after `pause`.
    pub fn kill_gate(&mut self, number: usize, pause: Duration) {
        let now = self.now();
        if self.gates[number].gate.take().is_none() {
            return;
        }
        self.gates[number].stalled_until = now;
        self.net.counts.gate_kills += 1;
        self.notes.add(now, || format!("gate {number} is killed for {pause:?}"));
        self.net.vanish(now, Place::Gate(number));
        self.detach(Site::Gate(number));
        self.net.at(now + pause, Happening::Revive(number));
        self.net.at(now + Duration::from_millis(300), Happening::Directory);
    }

    /// What is left of clients anywhere.
    pub fn left(&self) -> Left {
        let mut left = Left::default();
        for gate in self.gates.iter().filter_map(|seat| seat.gate.as_ref()) {
            let stats = gate.stats();
            left.connections += stats.connections;
            left.gate_groups += stats.groups;
        }
        for stats in self.worker_stats() {
            left.sessions += stats.homes.sessions as u64;
            left.streams += stats.streams.streams as u64;
            left.members += stats.streams.memberships as u64;
        }
        left
    }

    /// The memberships in groups of a client: what it believes, and what the groups' owners know.
    /// Each is a list of handles of stream and group in order. They agree when all is at rest.
    pub fn memberships(&self, client: ClientId) -> (Vec<(u32, u32)>, Vec<(u32, u32)>) {
        let core = &self.clients[client.0].core;
        let mut believed: Vec<_> = core.memberships().collect();
        let mut known = Vec::new();
        if let Some(session) = core.session() {
            for seat in self.nodes.iter().flat_map(|node| &node.workers) {
                known.extend(seat.worker.memberships_of(session));
            }
        }
        believed.sort_unstable();
        known.sort_unstable();
        (believed, known)
    }

    /// What each worker holds and has seen.
    pub fn worker_stats(&self) -> Vec<WorkerStats> {
        let workers = self.nodes.iter().flat_map(|node| &node.workers);
        workers.map(|seat| seat.worker.stats()).collect()
    }

    /// What each gate holds and has done in its present life.
    pub fn gate_stats(&self) -> Vec<gate::Stats> {
        self.gates.iter().filter_map(|seat| Some(seat.gate.as_ref()?.stats())).collect()
    }

    /// Lets `span` pass.
    pub fn run_for(&mut self, span: Duration) {
        let end = self.now() + span;
        self.run_to(end, |_| false);
    }

    /// Lets time pass until `done` holds, at most `span`. Gives whether it does.
    pub fn run_until(&mut self, span: Duration, done: impl FnMut(&Cluster) -> bool) -> bool {
        let end = self.now() + span;
        self.run_to(end, done)
    }

    /// Makes sure that something happens at `at`, so that waiting for that time ends then.
    pub fn remind(&mut self, at: Instant) {
        self.net.at(at, Happening::Remind);
    }

    /// Whether so much has happened that nothing will any more: see [`Options::events_max`].
    pub fn is_exhausted(&self) -> bool {
        self.net.counts.events >= self.options.events_max
    }

    /// Lets the next thing happen. `false` if nothing ever will.
    pub fn step(&mut self) -> bool {
        if self.is_exhausted() {
            return false;
        }
        let Some((at, what)) = self.net.pop() else { return false };
        self.clock.advance_to(at);
        self.net.counts.events += 1;
        self.handle(what);
        true
    }

    fn run_to(&mut self, end: Instant, mut done: impl FnMut(&Cluster) -> bool) -> bool {
        loop {
            if done(self) {
                return true;
            }
            if self.is_exhausted() || self.net.next_at().is_none_or(|at| at > end) {
                self.clock.advance_to(end);
                return done(self);
            }
            self.step();
        }
    }

    fn handle(&mut self, what: Happening) {
        let now = self.now();
        if let Some(until) = self.stalled_until(&what).filter(|until| *until > now) {
            // It will see to this, in this order, when it goes on.
            self.net.at(until, what);
            return;
        }
        match what {
            Happening::Arrive(pipe) => self.arrive(now, pipe),
            Happening::Connected(pipe) => self.connected(now, pipe),
            Happening::ConnectFailed(pipe, end) => self.closed(now, pipe, end, true),
            Happening::Closed(pipe, end) => self.closed(now, pipe, end, false),
            Happening::Bytes(pipe, way, bytes) => self.bytes(now, pipe, way, bytes),
            Happening::Wake(place) => self.settle(place),
            Happening::WakeClient(number) => self.settle_client(number),
            Happening::Revive(number) => {
                self.gates[number].start(&mut self.ground, &self.options, now);
                let info = NodeInfo::clone(&self.gates[number].info());
                self.attach(now, Site::Gate(number), info);
                self.net.at(now, Happening::Directory);
            }
            Happening::Directory => self.spread_directory(now),
            Happening::Local(node, worker, batch) => {
                let wall = self.clock.wall();
                let Some(seat) = self.worker(node, worker) else { return };
                seat.worker.handle_local(now, wall, batch);
                self.settle(Place::Worker(node, worker));
            }
            Happening::Batch(node, worker, batch) => {
                let Some(seat) = self.worker(node, worker) else { return };
                seat.worker.handle_batch(now, *batch);
                self.settle(Place::Worker(node, worker));
            }
            Happening::WayDown(node, worker, peer) => {
                let wall = self.clock.wall();
                let Some(seat) = self.worker(node, worker) else { return };
                seat.worker.handle_way_down(now, wall, peer);
                self.settle(Place::Worker(node, worker));
            }
            Happening::Request(id, want) => self.handle_request(now, id, *want),
            Happening::Reply(id, reply) => self.handle_reply(now, id, *reply),
            Happening::Expire => self.handle_expire(now),
            Happening::Synced(life) => self.handle_synced(now, life),
            Happening::StoreStart => self.handle_store_start(now),
            Happening::StoreWork => self.work_at_store(now),
            Happening::Beat(node) => self.work_heart(now, node),
            Happening::NodeStart(node) => self.handle_node_start(now, node),
            Happening::Leave(node, life, until, pause) => {
                self.handle_leave(now, (node, life), until, pause);
            }
            Happening::End(node, life, pause) => self.handle_end(now, (node, life), pause),
            Happening::View(place, directory) => self.see_directory(now, place, &directory),
            Happening::Shifted(next, to, state, is_open) => {
                self.handle_shifted(now, (next, to), &state, is_open);
            }
            Happening::Relist => self.relist(now),
            Happening::Process(site, number) => self.wake_process(now, site, number),
            Happening::Line(line, course, message) => self.handle_line(now, line, course, message),
            Happening::Center(life) => self.work_center(now, life),
            Happening::CenterStart(stored) => self.start_center(now, stored.map(|stored| *stored)),
            Happening::Strike => self.strike(now),
            Happening::Remind => {}
        }
    }

    /// Until when the place that `what` happens at does nothing.
    fn stalled_until(&self, what: &Happening) -> Option<Instant> {
        let place = match what {
            Happening::Wake(place) => *place,
            Happening::Local(node, worker, _)
            | Happening::Batch(node, worker, _)
            | Happening::WayDown(node, worker, _) => Place::Worker(*node, *worker),
            Happening::Bytes(pipe, way, _) => self.net.target(*pipe, *way)?.place()?,
            Happening::Closed(_, end) | Happening::ConnectFailed(_, end) => end.place()?,
            Happening::View(place, _) => *place,
            Happening::Beat(node) | Happening::Process(Site::Node(node), _) => {
                return self.node_stalled_until(*node, None);
            }
            _ => return None,
        };
        match place {
            Place::Gate(number) => Some(self.gates[number].stalled_until),
            Place::Worker(node, worker) => self.node_stalled_until(node, Some(worker)),
        }
    }

    fn arrive(&mut self, now: Instant, pipe: PipeId) {
        let Some(callee) = self.net.callee(pipe) else { return };
        let number = pipe.0;
        self.trace.note(now, 1, number, &[]);
        if self.is_unanswered(pipe, callee) {
            return;
        }
        let end = match callee {
            Callee::Gate(number) => self.arrive_at_gate(now, number),
            Callee::Node(incarnation) => self.arrive_at_node(now, incarnation, pipe),
        };
        match end {
            Some(end) => self.net.accept(now, pipe, end),
            None => self.net.refuse(now, pipe),
        }
    }

    /// Whether a call does not reach the other side, or its answer does not come back.
    fn is_unanswered(&self, pipe: PipeId, callee: Callee) -> bool {
        let Callee::Node(to) = callee else { return false };
        let Some(from) = self.net.opener(pipe).and_then(End::place).map(Place::site) else {
            return false;
        };
        let gate = self.gates.iter().position(|seat| seat.incarnation == to).map(Site::Gate);
        let node = || self.nodes.iter().position(|seat| seat.info.incarnation == to);
        let Some(to) = gate.or_else(|| node().map(Site::Node)) else { return false };
        self.net.is_way_cut(from, to) || self.net.is_way_cut(to, from)
    }

    fn arrive_at_gate(&mut self, now: Instant, number: usize) -> Option<End> {
        let rate = self.net.faults.refuse;
        if rate > 0 && self.net.random.chance(rate, 1000) {
            self.net.counts.refusals += 1;
            return None;
        }
        let gate = self.gates[number].gate.as_mut()?;
        let address = std::net::SocketAddr::from(([10, 0, 0, 1], 40_000));
        let slot = gate.handle_open(now, address).ok()?;
        Some(End::Conn(number, slot))
    }

    fn arrive_at_node(&mut self, now: Instant, to: Incarnation, pipe: PipeId) -> Option<End> {
        let from = self.net.opener(pipe).and_then(End::place);
        if let Some(at) = self.gates.iter().position(|seat| seat.incarnation == to) {
            let link = self.gates[at].gate.as_mut()?.mesh().handle_accepted(now).ok()?;
            return Some(End::Link(Place::Gate(at), link));
        }
        let at = self.nodes.iter().position(|node| node.info.incarnation == to)?;
        if let Some(Place::Worker(from, _)) = from
            && self.net.is_split(from, at)
        {
            return None;
        }
        // Links are dealt out among the workers, as at accept.
        let worker = (pipe.0 % u64::from(self.options.workers)) as u8;
        let seat = self.worker(at, worker)?;
        let link = seat.worker.mesh().handle_accepted(now).ok()?;
        Some(End::Link(Place::Worker(at, worker), link))
    }

    fn connected(&mut self, now: Instant, pipe: PipeId) {
        match self.net.opener(pipe) {
            Some(End::Client(number)) if self.net.is_plugged(End::Client(number), pipe) => {
                self.clients[number].connected(now, pipe);
                self.settle_client(number);
            }
            Some(End::Link(place, link)) => {
                if !self.net.is_plugged(End::Link(place, link), pipe) {
                    return;
                }
                if let Some(mesh) = self.mesh(place) {
                    mesh.handle_connected(now, link);
                }
                self.settle(place);
            }
            _ => {}
        }
    }

    fn closed(&mut self, now: Instant, pipe: PipeId, end: End, failed: bool) {
        if !self.net.is_there(pipe, end) {
            return;
        }
        self.trace.note(now, 2, u64::from(failed), &[]);
        self.notes.add(now, || format!("{end} learns of its end"));
        match end {
            End::Client(number) => {
                // It may have hung up and called again since.
                if !self.net.has_pipe(end) {
                    self.clients[number].closed(now);
                    self.settle_client(number);
                }
            }
            End::Conn(number, slot) => {
                if let Some(gate) = &mut self.gates[number].gate {
                    gate.handle_closed(now, slot);
                }
                self.settle(Place::Gate(number));
            }
            End::Link(place, link) => {
                if let Some(mesh) = self.mesh(place) {
                    if failed {
                        mesh.handle_connect_failed(now, link);
                    } else {
                        mesh.handle_closed(now, link);
                    }
                }
                self.settle(place);
            }
        }
    }

    fn bytes(&mut self, now: Instant, pipe: PipeId, way: Way, bytes: Vec<u8>) {
        let wall = self.clock.wall();
        let Some(end) = self.net.target(pipe, way) else { return };
        self.trace.note(now, 3, pipe.0, &bytes);
        self.notes.bytes(now, self.net.source(pipe, way), end, &bytes);
        match end {
            End::Client(number) => {
                if self.clients[number].pipe == Some(pipe) {
                    self.clients[number].core.handle_bytes(now, &bytes);
                    self.settle_client(number);
                }
            }
            End::Conn(number, slot) => {
                let Some(gate) = &mut self.gates[number].gate else { return };
                if gate.is_paused(slot) {
                    self.net.hold(pipe, bytes);
                } else {
                    gate.handle_bytes(now, wall, slot, &bytes);
                }
                self.settle(Place::Gate(number));
            }
            End::Link(Place::Gate(number), link) => {
                let Some(gate) = &mut self.gates[number].gate else { return };
                let mut input = &bytes[..];
                while let Some(frame) = gate.mesh().next_frame(now, link, &mut input) {
                    gate.handle_link(now, wall, frame.from, &frame.payload);
                }
                self.settle(Place::Gate(number));
            }
            End::Link(Place::Worker(node, worker), link) => {
                let Some(seat) = self.worker(node, worker) else { return };
                seat.worker.handle_bytes(now, wall, link, &bytes);
                self.settle(Place::Worker(node, worker));
            }
        }
    }

    fn mesh(&mut self, place: Place) -> Option<&mut mesh::Mesh> {
        match place {
            Place::Gate(number) => self.gates[number].gate.as_mut().map(gate::Gate::mesh),
            Place::Worker(node, worker) => self.worker(node, worker).map(|seat| seat.worker.mesh()),
        }
    }

    /// A worker, unless its node is down.
    fn worker(&mut self, node: usize, worker: u8) -> Option<&mut WorkerSeat> {
        self.nodes[node].workers.get_mut(usize::from(worker))
    }

    /// Lets a place work on what came in, unless it is stalled: then it will when that is over.
    pub(crate) fn settle(&mut self, place: Place) {
        let (now, wall) = (self.now(), self.clock.wall());
        match place {
            Place::Gate(number) => {
                let seat = &mut self.gates[number];
                if seat.stalled_until > now {
                    let at = seat.stalled_until;
                    self.net.at(at, Happening::Wake(place));
                    return;
                }
                seat.settle(now, wall, number, &mut self.net);
                self.carry_shifts(number);
            }
            Place::Worker(node, worker) => {
                let workers = &mut self.nodes[node].workers;
                let Some(seat) = workers.get_mut(usize::from(worker)) else { return };
                if seat.stalled_until > now {
                    let at = seat.stalled_until;
                    self.net.at(at, Happening::Wake(place));
                    return;
                }
                let workers = self.options.workers;
                let asks = seat.settle(now, wall, (node, worker, workers), &mut self.net);
                let away = std::mem::take(&mut seat.away);
                let beat = &mut self.nodes[node].beat;
                away.into_iter().for_each(|other| beat.handle_away(now, other));
                for ask in asks {
                    self.send_to_store(now, node, Some(worker), Want::Ask(ask));
                }
            }
        }
    }

    fn settle_client(&mut self, number: usize) {
        let now = self.now();
        self.clients[number].settle(now, self.options.gates, &mut self.net);
    }

    /// Once a simulated second: gates die and places stall, by chance.
    fn strike(&mut self, now: Instant) {
        self.net.sweep(now);
        if self.healed {
            return;
        }
        self.net.at(now + Duration::from_secs(1), Happening::Strike);
        if self.options.stored {
            self.strike_store(now);
        }
        self.strike_coordinator(now);
        self.strike_center(now);
        if self.gates.is_empty() {
            return;
        }
        let faults = self.net.faults.clone();
        let gate = self.net.random.below(self.gates.len() as u64) as usize;
        if faults.kill_gate > 0 && self.net.random.chance(faults.kill_gate, 1000) {
            let pause = Duration::from_millis(200 + self.net.random.below(3000));
            self.kill_gate(gate, pause);
        }
        if faults.stall > 0 && self.net.random.chance(faults.stall, 1000) {
            let most = faults.stall_max.as_millis() as u64 + 1;
            let until = now + Duration::from_millis(self.net.random.below(most));
            let stalled = if self.net.random.chance(1, 2) {
                self.notes.add(now, || format!("gate {gate} stalls until {until:?}"));
                &mut self.gates[gate].stalled_until
            } else {
                let node = self.net.random.below(self.nodes.len() as u64) as usize;
                let worker = self.net.random.below(u64::from(self.options.workers)) as usize;
                self.notes.add(now, || format!("worker {node}.{worker} stalls until {until:?}"));
                let Some(seat) = self.nodes[node].workers.get_mut(worker) else { return };
                &mut seat.stalled_until
            };
            // One that stalls already does not stall longer, so that `stall_max` holds.
            if *stalled < now {
                *stalled = until;
                self.net.counts.stalls += 1;
            }
        }
    }

    /// The worker that is home of an account.
    pub fn home(&self, account: u64) -> Option<WorkerId> {
        let nodes = self.nodes.iter().map(|node| node.info.clone());
        Directory::new(0, nodes).home(AccountId(account))
    }
}
