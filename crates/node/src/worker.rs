//! One worker: entities, sessions and links put together, still without sockets, threads or a
//! clock of its own.

mod clients;
mod data;
mod ears;
mod links;
mod moves;
mod singletons;
mod topics;
mod users;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use cluster::{Cluster, Directory, Load, NodeInfo, Placement, PlacementOptions};
use env::{Clock, FastMap, Instant, Random, WallTime};
use mesh::{LinkId, Mesh, PeerInfo as MeshPeer};
use proto::frame::{CloseCode, Status};
use proto::link::{self, Check, GroupId, HomeFrame, LinkFrame, Shift, WorkerId};
use proto::{AccountId, Incarnation, SessionId};

use crate::cx::{GroupSlot, Outside};
use crate::data::{self as data_stats, Keeper, Sagas, Trouble};
use crate::host::{
    Batch, Event, FrameClass, Host, HostSetup, HostStats, Leaving, MethodStats, Pulse, Router,
    Target,
};
use crate::options::HostOptions;
use crate::session::{
    Bindings, HomeStats, Homes, Mutant, Options as Sessions, Outlet, Places, Scope, SessionInfo,
    StreamStats, Streams,
};

use clients::client_out;
pub use data::DataParts;
use ears::Ears;
use links::{Links, View};
pub use moves::MoveStats;
use moves::Moves;
pub use topics::PublishStats;
use topics::Topics;

/// Most pairs of another worker and a topic that it listens to which a worker keeps in mind.
const TOPICS_HEARD_MAX: usize = 1 << 18;

/// Frames of one read that wait for entities at once.
pub(crate) const FRAMES_PER_ROUND: usize = 128;

/// Rounds of entities' work and its delivery within one turn, before the driver looks at its
/// sockets again.
const ROUNDS_MAX: usize = 8;

/// What a [`Worker`] is made of.
pub struct WorkerParts {
    /// Who it is.
    pub me: WorkerId,
    /// How many workers the node has.
    pub workers: u8,
    /// Limits of its entities.
    pub host: HostOptions,
    /// Limits of its sessions.
    pub sessions: Sessions,
    /// What new sessions are bound to.
    pub bindings: Bindings,
    /// Its links.
    pub mesh: Mesh,
    /// For the measuring of handlers; time itself is handed to each call.
    pub clock: Clock,
    /// Where its entities' randomness comes from.
    pub random: Random,
    /// How it keeps entities in the store. `None`: kinds with documents cannot be had.
    pub data: Option<DataParts>,
}

/// What a worker has to tell whoever watches over it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Report {
    /// Something about an entity or handler.
    Host(Event),
    /// Something about what is stored.
    Data(Trouble),
    /// Another node says that it does not reach the default store: whoever judges who is dead there
    /// has to know ([`Beat::handle_away`](crate::data::Beat::handle_away)).
    StoreAway(Incarnation),
    /// A frame of another worker could not be read, or is not for a node.
    BadFrame {
        /// Who sent it.
        from: WorkerId,
        /// What is wrong with it.
        problem: String,
    },
}

/// What a worker holds and has seen.
#[derive(Clone, Debug, Default)]
pub struct WorkerStats {
    /// Entities, mail and calls.
    pub host: HostStats,
    /// Sessions whose home it is.
    pub homes: HomeStats,
    /// Streams and groups.
    pub streams: StreamStats,
    /// Methods with handlers over their budget, or with messages refused: kind, path, figures.
    pub methods: Vec<(&'static str, String, MethodStats)>,
    /// Entities kept in the store.
    pub data: data_stats::Stats,
    /// Entities whose last changes could not be saved before the worker ended.
    pub unsaved: usize,
    /// Entities that move between nodes.
    pub moves: MoveStats,
    /// Links.
    pub mesh: mesh::Counters,
    /// Frames that could not be read or were for somebody else.
    pub bad_frames: u64,
    /// Frames that could not be sent because their way was full or closed.
    pub unsent: u64,
    /// Messages of topics.
    pub publishes: PublishStats,
    /// Reports dropped because nobody took them.
    pub reports_lost: u64,
}

/// Entities, sessions and links of one worker.
///
/// Give it what came in with the `handle_*` functions, then call [`turn`](Self::turn), then move
/// what [`mesh`](Self::mesh) and [`poll_batch`](Self::poll_batch) hold. In simulation many of
/// them run on one thread.
pub struct Worker {
    me: WorkerId,
    host: Host,
    homes: Homes,
    streams: Streams<Host>,
    mesh: Mesh,
    view: Rc<View>,
    /// The groups that entities know by these names.
    groups: FastMap<GroupSlot, OwnedGroup>,
    /// Frames for other workers of this node.
    local: VecDeque<(u8, Vec<u8>)>,
    reports: VecDeque<Report>,
    bad_frames: u64,
    unsent: u64,
    topics: Topics,
    publishes: PublishStats,
    reports_lost: u64,
    /// One for each store, the default one first; none without stores.
    keepers: Vec<Keeper>,
    ears: Option<Ears>,
    sagas: Option<Sagas>,
    /// The list of nodes is another one; those that it has lost, and whether they were reached.
    nodes_changed: Option<Vec<(Incarnation, bool)>>,
    moves: Moves,
    /// When singletons are looked after.
    singletons_at: Option<Instant>,
    /// The node is leaving.
    keeps_directory: bool,
    /// Nodes say nothing of their load, and are taken for idle.
    takes_for_idle: bool,
}

/// What a worker adds to the load of its node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figures {
    pub sessions: u32,
    /// Messages that wait for services.
    pub queued: u32,
    /// For how long steps were late, at worst, since this was last asked.
    pub tick_lag: Duration,
}

/// A group and the entity that opened it, if one did.
#[derive(Clone, Copy)]
struct OwnedGroup {
    id: GroupId,
    owner: Option<Target>,
}

/// Most reports kept for a driver that does not ask.
const REPORTS_MAX: usize = 4_096;

/// What chooses nodes for new rooms, with randomness of its own: what others draw is not changed by it.
fn placement(me: WorkerId) -> Placement {
    let seed = me.node.0.rotate_left(17) ^ u64::from(me.worker) << 48;
    Placement::new(PlacementOptions::default(), Random::from_seed(seed))
}

impl Worker {
    /// A worker without entities and sessions. Register its kinds on [`host`](Self::host).
    pub fn new(parts: WorkerParts) -> Self {
        let WorkerParts { me, workers, host, sessions, bindings, mesh, clock, mut random, data } =
            parts;
        let sagas = data.as_ref().map(|data| {
            // An incarnation is random; what others draw is not changed by this.
            let seed = me.node.0 ^ u64::from(me.worker) << 56;
            let (options, stores) = (data.options.sagas.clone(), data.stores.clone());
            Sagas::new(options, stores, me.worker == 0, Random::from_seed(seed))
        });
        let stores = data.as_ref().map(|data| data.stores.clone()).unwrap_or_default();
        let keepers = data.map_or_else(Vec::new, |data| {
            let keeper = |_| Keeper::new(data.options.clone(), me.node, random.fork());
            (0..=data.stores.len()).map(keeper).collect()
        });
        let view = Rc::new(View {
            me,
            workers,
            directory: RefCell::new(Arc::new(Directory::default())),
            users: Rc::default(),
            routes: Rc::default(),
            bus: RefCell::default(),
            placement: Rc::new(RefCell::new(placement(me))),
            cluster: RefCell::default(),
        });
        let unordered = sessions.mutant == Some(Mutant::MarkerNotAwaited);
        view.routes.unordered.set(unordered);
        let router = Rc::clone(&view) as Rc<dyn Router>;
        let mut host = Host::new(host, HostSetup { me, workers, clock, random, router });
        host.set_stores(stores);
        Worker {
            me,
            host,
            homes: Homes::new(me, sessions.clone(), bindings),
            streams: Streams::new(me, sessions),
            mesh,
            view,
            groups: FastMap::default(),
            local: VecDeque::new(),
            reports: VecDeque::new(),
            bad_frames: 0,
            unsent: 0,
            topics: Topics::new(TOPICS_HEARD_MAX),
            publishes: PublishStats::default(),
            reports_lost: 0,
            keepers,
            ears: None,
            sagas,
            nodes_changed: None,
            moves: Moves::default(),
            singletons_at: None,
            keeps_directory: false,
            takes_for_idle: false,
        }
    }

    /// Who it is.
    pub fn me(&self) -> WorkerId {
        self.me
    }

    /// Its entities, to register kinds.
    pub fn host(&mut self) -> &mut Host {
        &mut self.host
    }

    /// A caller of its entities that is no entity.
    pub fn outside(&self) -> Outside {
        self.host.outside()
    }

    /// What it is doing now, for a watchdog on another thread.
    pub fn pulse(&self) -> Arc<Pulse> {
        self.host.pulse()
    }

    /// Its links, for whoever moves their bytes.
    pub fn mesh(&mut self) -> &mut Mesh {
        &mut self.mesh
    }

    /// The memberships of a session in groups of its entities: handles of stream and group, as its
    /// client knows them. Looks at every stream.
    pub fn memberships_of(&self, session: SessionId) -> Vec<(u32, u32)> {
        self.streams.memberships_of(session)
    }

    /// What it holds and has seen. Looks at every stream.
    pub fn stats(&self) -> WorkerStats {
        let mut methods = self.host.method_stats();
        methods.retain(|(_, _, stats)| stats.slow > 0 || stats.refused > 0);
        WorkerStats {
            methods,
            host: self.host.stats(),
            homes: self.homes.stats(),
            streams: self.streams.stats(),
            data: self.data_stats(),
            unsaved: 0,
            moves: self.move_stats(),
            mesh: self.mesh.counters(),
            bad_frames: self.bad_frames,
            unsent: self.unsent,
            publishes: self.publishes,
            reports_lost: self.reports_lost,
        }
    }

    /// Up to `max` of the sessions whose home it is, from account `first` on.
    pub fn sessions(&self, first: AccountId, max: usize) -> Vec<SessionInfo> {
        self.homes.list(first, max)
    }

    /// Its streams, for people to look at.
    pub fn streams(&self) -> Vec<String> {
        self.streams.list()
    }

    /// From now on the list of nodes is what it is: the node leaves it, and ends what it has.
    pub fn keep_directory(&mut self) {
        self.keeps_directory = true;
    }

    /// Sessions that are at home here, or that their next home has not taken yet.
    pub fn sessions_left(&self) -> usize {
        let stats = self.homes.stats();
        stats.sessions + stats.leaving
    }

    /// Streams of a node that is to go whose clients are not led to where their entities are placed now.
    pub fn streams_left(&self) -> usize {
        // Before it has followed the list it does not know of any.
        self.streams.led() + usize::from(self.nodes_changed.is_some())
    }

    /// What there is to tell about entities and peers.
    pub fn poll_report(&mut self) -> Option<Report> {
        self.reports.pop_front()
    }

    /// The directory that is in use.
    pub fn directory(&self) -> Arc<Directory> {
        self.view.directory.borrow().clone()
    }

    /// Uses a newer directory: links to nodes that are no longer listed end. `in_process` tells
    /// which nodes are reached without sockets.
    pub fn set_directory(
        &mut self,
        directory: Arc<Directory>,
        in_process: impl Fn(Incarnation) -> bool,
    ) {
        if self.keeps_directory {
            return;
        }
        let before = self.view.directory.replace(directory.clone());
        self.view.placement.borrow_mut().set_directory(directory.clone());
        if self.takes_for_idle {
            let idle = |info: &NodeInfo| (info.incarnation, Load::default());
            let loads: Vec<_> = directory.nodes().map(idle).collect();
            self.handle_loads(Instant::ZERO, &loads);
        }
        self.host.set_sole(|kind| directory.offers_alone(kind));
        self.note_directory();
        let vanished = self.nodes_changed.get_or_insert_default();
        for info in before.nodes() {
            if directory.node(info.incarnation).is_none() {
                vanished.push((info.incarnation, self.mesh.is_up(info.incarnation)));
                if info.draining {
                    self.moves.note_left(info.incarnation);
                }
                self.mesh.remove_peer(info.incarnation);
                self.topics.forget(info.incarnation);
            }
        }
        for info in directory.nodes() {
            let node = info.incarnation;
            if node == self.me.node || before.node(node) == Some(info) {
                continue;
            }
            // A node without kinds, such as a gate, holds nobody who could say anything.
            if before.node(node).is_none() && !info.kinds.is_empty() {
                self.topics.tell(node);
            }
            let addresses = if in_process(node) { Vec::new() } else { info.mesh.clone() };
            self.mesh.set_peer(node, MeshPeer { name: info.name.clone(), addresses });
        }
    }

    /// Lets its entities have locks of the coordinator.
    pub fn set_cluster(&mut self, cluster: Cluster) {
        *self.view.cluster.borrow_mut() = Some(cluster);
    }

    /// Takes all nodes for idle, for ever: where nobody reports their load, as in a simulation.
    pub fn take_all_for_idle(&mut self) {
        self.takes_for_idle = true;
        self.view.placement.borrow_mut().set_report_age_max(Duration::MAX);
    }

    /// What of the node's load is this worker's. Costs little.
    pub(crate) fn take_figures(&mut self) -> Figures {
        Figures {
            sessions: self.homes.stats().sessions as u32,
            queued: self.host.service_mail(),
            tick_lag: self.host.take_tick_lag(),
        }
    }

    /// Nodes have reported how loaded they are: what is placed next goes by that.
    pub fn handle_loads(&mut self, now: Instant, loads: &[(Incarnation, Load)]) {
        let mut placement = self.view.placement.borrow_mut();
        loads.iter().for_each(|(node, load)| placement.handle_report(now, *node, *load));
    }

    // -- in --

    /// Takes bytes that came over a link. Of many frames some are handled and answered before the
    /// next are looked at: what they take lies in the nearest cache then.
    pub fn handle_bytes(&mut self, now: Instant, wall: WallTime, link: LinkId, bytes: &[u8]) {
        let mut input = bytes;
        while self.handle_round(now, wall, link, &mut input, FRAMES_PER_ROUND) {}
    }

    /// As [`handle_bytes`](Self::handle_bytes), for up to `frames` frames, which are moved out of
    /// `input` and handled. `false` if there were fewer: all of `input` is taken then, and what they
    /// brought is for the next [`turn`](Self::turn).
    pub(crate) fn handle_round(
        &mut self,
        now: Instant,
        wall: WallTime,
        link: LinkId,
        input: &mut &[u8],
        frames: usize,
    ) -> bool {
        for _ in 0..frames {
            let Some(frame) = self.mesh.next_frame(now, link, input) else { return false };
            self.handle_frame(now, wall, frame.from, &frame.payload);
        }
        self.host.turn(now, wall);
        self.deliver(now);
        true
    }

    /// Takes a batch of frames from a worker of this node, as its mesh wrote it.
    pub fn handle_local(&mut self, now: Instant, wall: WallTime, batch: Vec<u8>) {
        let mut count = 0;
        let mut frames = mesh::local_frames(&batch);
        while let Some((from, payload)) = self.mesh.next_local(now, &mut frames) {
            self.handle_frame(now, wall, from, payload);
            self.work_between(now, wall, &mut count);
        }
        self.mesh.recycle(batch);
    }

    /// Counts a frame, and lets entities work when there were many.
    #[inline]
    fn work_between(&mut self, now: Instant, wall: WallTime, count: &mut usize) {
        *count += 1;
        if *count == FRAMES_PER_ROUND {
            *count = 0;
            self.host.turn(now, wall);
            self.deliver(now);
        }
    }

    /// Takes a batch of calls from a worker of this node, as [`poll_batch`](Self::poll_batch)
    /// gave it there.
    pub fn handle_batch(&mut self, now: Instant, batch: Batch) {
        self.host.handle_batch(now, batch);
    }

    /// Takes one frame of another worker.
    pub fn handle_frame(&mut self, now: Instant, wall: WallTime, from: WorkerId, payload: &[u8]) {
        // What clients say is most of all, and is spared the long way.
        if let Some((slot, frame)) = link::read_up(payload) {
            let mut out = Links { mesh: &mut self.mesh, now, unsent: &mut self.unsent };
            self.streams.handle_up(now, &mut out, &mut self.host, (from, slot), frame);
            return;
        }
        // Then what entities ask each other.
        if let Some((call, status, body)) = link::read_answer(payload) {
            return self.host.handle_answer(call, status, body);
        }
        if let Some(call) = link::read_call(payload) {
            return self.host.handle_call(now, from, &call);
        }
        self.handle_other_frame(now, wall, from, payload);
    }

    fn handle_other_frame(&mut self, now: Instant, wall: WallTime, from: WorkerId, payload: &[u8]) {
        let frame = match LinkFrame::decode(payload) {
            Ok((_, frame)) => frame,
            Err(error) => return self.bad_frame(from, error.to_string()),
        };
        let mut out = Links { mesh: &mut self.mesh, now, unsent: &mut self.unsent };
        let mut io = Scope { now, wall, out: &mut out, places: &*self.view };
        match &frame {
            LinkFrame::Cancel { call } => self.host.handle_cancel(from, *call),
            LinkFrame::Probe { origin, call, target, seen } => {
                self.host.handle_probe(from, *origin, *call, *target, *seen);
            }
            LinkFrame::Ring { call } => self.host.handle_ring(*call),
            LinkFrame::GiveBack { entity } => self.handle_give_back(now, from, *entity),
            LinkFrame::StoreAway => self.handle_store_away(now, from.node),
            LinkFrame::Bind { .. }
            | LinkFrame::Attach { .. }
            | LinkFrame::Detach { .. }
            | LinkFrame::Unbind { .. }
            | LinkFrame::Home(
                HomeFrame::Adopt { .. }
                | HomeFrame::Unlisted { .. }
                | HomeFrame::Check(Check { stream: 1.., .. }),
            )
            | LinkFrame::StreamPassed { .. }
            | LinkFrame::Forward(_) => {
                self.streams.handle_link(&mut io, &mut self.host, from, &frame);
            }
            LinkFrame::Shift(shift @ Shift::Stream { .. }) => {
                self.streams.shift(io.out, from, shift);
            }
            LinkFrame::Selected(selected) => self.view.users.answered(selected),
            LinkFrame::Open(_)
            | LinkFrame::Tag(_)
            | LinkFrame::Select(_)
            | LinkFrame::Resume { .. }
            | LinkFrame::Detached { .. }
            | LinkFrame::Logout { .. }
            | LinkFrame::Bound { .. }
            | LinkFrame::NotBound { .. }
            | LinkFrame::Lost { .. }
            | LinkFrame::Rebind { .. }
            | LinkFrame::Release { .. }
            | LinkFrame::Kick { .. }
            | LinkFrame::Shift(Shift::Session { .. })
            | LinkFrame::Home(_) => self.homes.handle_link(&mut io, from, &frame),
            LinkFrame::Publish { subject, body } => {
                self.publishes.heard += u64::from(from.node != self.me.node);
                self.host.handle_publish(subject, body);
            }
            LinkFrame::Relay { subject, body } => {
                self.publishes.heard += 1;
                self.hand_on(now, subject, body);
            }
            LinkFrame::Listen { subject, on } => self.note_listener(from, subject, *on),
            other if self.handle_move_frame(now, wall, from, other) => {}
            other => {
                let kind = format!("{other:?}");
                let kind = kind.split([' ', '(']).next().unwrap_or_default();
                self.bad_frame(from, format!("{kind} is not for a node"));
            }
        }
    }

    /// A link of another worker of this node to `node` broke: what came for us over it may be
    /// lost. Calls end by their deadlines, but sessions and streams would wait for ever for what
    /// is told only once.
    pub fn handle_way_down(&mut self, now: Instant, wall: WallTime, node: Incarnation) {
        let mut out = Links { mesh: &mut self.mesh, now, unsent: &mut self.unsent };
        self.streams.handle_peer_down(now, &mut out, &mut self.host, node);
        let mut io = Scope { now, wall, out: &mut out, places: &*self.view };
        self.homes.handle_peer_down(&mut io, node);
        self.moves_down(now, node);
    }

    /// Takes note that what was under way to and from `node` may be lost. The other workers of
    /// this node must hear of it by [`handle_way_down`](Self::handle_way_down).
    pub fn handle_peer_down(&mut self, now: Instant, wall: WallTime, node: Incarnation) {
        self.handle_way_down(now, wall, node);
        self.host.handle_node_down(node);
        if self.view.directory.borrow().node(node).is_some_and(|info| !info.kinds.is_empty()) {
            self.topics.tell(node);
        }
    }

    /// Asks the home of the session of `account`, wherever it is, to end it. `false` if no node
    /// holds sessions.
    pub fn kick(
        &mut self,
        now: Instant,
        account: AccountId,
        code: CloseCode,
        reason: &str,
    ) -> bool {
        let Some(home) = self.view.home_of(account) else { return false };
        let session = SessionId::default();
        let frame = LinkFrame::Kick { account, session, code, reason };
        Links { mesh: &mut self.mesh, now, unsent: &mut self.unsent }.control(home, &frame);
        true
    }

    /// Lets go of all clients, as before the node stops: ends the sessions whose home is here, and
    /// has the homes of others look for their entities elsewhere.
    pub fn stop(&mut self, now: Instant, wall: WallTime, code: CloseCode, reason: &str) {
        self.stop_moves(now);
        let mut out = Links { mesh: &mut self.mesh, now, unsent: &mut self.unsent };
        self.streams.release_all(&mut out, CloseCode::Unavailable);
        let mut io = Scope { now, wall, out: &mut out, places: &*self.view };
        self.homes.end_all(&mut io, code, reason);
        self.keepers.iter_mut().for_each(Keeper::handle_stop);
        self.host.let_go_all(code);
    }

    // -- work --

    /// Does what is to be done and says when to call again: `now` if there is more to do, `None`
    /// if nothing will happen by itself.
    pub fn turn(&mut self, now: Instant, wall: WallTime) -> Option<Instant> {
        self.view.routes.now.set(now);
        self.handle_timeout(now, wall);
        self.mind_singletons(now);
        self.mind_the_store(now);
        for node in self.topics.take_untold() {
            let workers = self.view.directory.borrow().node(node).map_or(0, |info| info.workers);
            self.tell_topics(now, (node, workers));
        }
        let heard_all = self.hear_the_bus(now);
        let mut next = None;
        for _ in 0..ROUNDS_MAX {
            next = self.host.turn(now, wall);
            let used_up = next.is_some_and(|at| at <= now);
            let busy = self.exchange(now, wall);
            if busy {
                next = Some(now);
            }
            if !busy || used_up {
                break;
            }
        }
        let timeouts = [
            next,
            self.homes.poll_timeout(),
            self.streams.poll_timeout(),
            self.streams.orphans_timeout(),
            self.mesh.poll_timeout(),
            self.view.users.poll_timeout(),
            self.keepers.iter().filter_map(Keeper::poll_timeout).min(),
            (!heard_all).then_some(now),
            self.sagas.as_ref().and_then(Sagas::poll_timeout),
            self.moves_timeout(),
            self.singletons_at,
        ];
        timeouts.into_iter().flatten().min()
    }

    /// Hands over and tells what follows from another list of nodes.
    fn follow_nodes(&mut self, now: Instant, wall: WallTime) {
        let Some(vanished) = self.nodes_changed.take() else { return };
        self.singletons_at = Some(now);
        for (node, was_up) in vanished {
            self.handle_way_down(now, wall, node);
            if was_up {
                // It may live and have something to hand over.
                self.homes.expect(node);
            }
        }
        let mut out = Links { mesh: &mut self.mesh, now, unsent: &mut self.unsent };
        let mut io = Scope { now, wall, out: &mut out, places: &*self.view };
        self.streams.handle_nodes(&mut io, &mut self.host);
        self.homes.handle_nodes(&mut io);
        if self.is_draining() {
            let mut out = Links { mesh: &mut self.mesh, now, unsent: &mut self.unsent };
            let mut io = Scope { now, wall, out: &mut out, places: &*self.view };
            self.streams.lead_away(&mut io, |entity| self.host.may_come(entity));
        }
    }

    fn handle_timeout(&mut self, now: Instant, wall: WallTime) {
        self.follow_nodes(now, wall);
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if is_due(self.view.users.poll_timeout()) {
            self.view.users.handle_timeout(now);
        }
        if is_due(self.mesh.poll_timeout()) {
            self.mesh.handle_timeout(now);
        }
        let mut out = Links { mesh: &mut self.mesh, now, unsent: &mut self.unsent };
        if is_due(self.streams.poll_timeout()) {
            self.streams.handle_timeout(now, &mut out, &mut self.host);
        }
        let mut io = Scope { now, wall, out: &mut out, places: &*self.view };
        if is_due(self.streams.orphans_timeout()) {
            self.streams.mind_orphans(&mut io, &mut self.host);
        }
        if is_due(self.homes.poll_timeout()) {
            self.homes.handle_timeout(&mut io);
        }
    }

    /// Delivers what the entities said, also to the other workers of this node. Gives whether that
    /// may have given them more to do.
    fn exchange(&mut self, now: Instant, wall: WallTime) -> bool {
        let mut busy = self.deliver(now);
        while let Some((worker, batch)) = self.mesh.poll_local() {
            if worker == self.me.worker {
                busy = true;
                let mut frames = mesh::local_frames(&batch);
                while let Some((from, payload)) = self.mesh.next_local(now, &mut frames) {
                    self.handle_frame(now, wall, from, payload);
                }
                self.mesh.recycle(batch);
            } else {
                self.local.push_back((worker, batch));
            }
        }
        busy
    }

    fn deliver(&mut self, now: Instant) -> bool {
        let mut busy = false;
        let mut out = Links { mesh: &mut self.mesh, now, unsent: &mut self.unsent };
        let (streams, groups) = (&mut self.streams, &mut self.groups);
        let mut refused = Vec::new();
        self.host.drain_clients(|said| {
            busy = true;
            refused.extend(client_out(now, &mut out, streams, groups, said));
        });
        refused.into_iter().for_each(|group| self.host.group_gone(group));
        self.host.drain_runs(|leaving| match leaving {
            Leaving::Run { to, frames, longest } => out.mesh.send_run(to, frames, longest),
            Leaving::One { to, class, payload } => {
                let write = |bytes: &mut Vec<u8>| bytes.extend_from_slice(payload);
                let sent = match class {
                    FrameClass::Call => out.mesh.send(now, to, write),
                    FrameClass::Reply => out.mesh.send_reply(now, to, write),
                };
                out.count(sent)
            }
        });
        busy |= self.carry_events(now);
        busy |= self.carry_users(now);
        busy |= self.carry_data(now);
        busy |= self.carry_moves(now);
        let mut out = Links { mesh: &mut self.mesh, now, unsent: &mut self.unsent };
        self.streams.settle(&mut out, &mut self.host);
        busy
    }

    fn carry_events(&mut self, now: Instant) -> bool {
        let mut busy = false;
        while let Some(event) = self.host.poll_event() {
            busy = true;
            self.handle_event(now, event);
        }
        busy
    }

    /// The groups of an entity that is not here any more end.
    fn end_groups(&mut self, now: Instant, target: Target) {
        let mut out = Links { mesh: &mut self.mesh, now, unsent: &mut self.unsent };
        let owned = |group: &OwnedGroup| group.owner == Some(target);
        let groups = self.groups.extract_if(|_, group| owned(group));
        let mut groups: Vec<GroupId> = groups.map(|(_, group)| group.id).collect();
        groups.sort_unstable();
        for group in groups {
            let _ = self.streams.disband(&mut out, group);
        }
    }

    fn handle_event(&mut self, now: Instant, event: Event) {
        let mut out = Links { mesh: &mut self.mesh, now, unsent: &mut self.unsent };
        match event {
            Event::Activated { id, result } => {
                // It may have ended since, in its first turn: who waits for it asks again.
                let is_there = |target: &Target| self.host.is_there(*target);
                let result =
                    result.and_then(|t| Some(t).filter(is_there).ok_or(Status::Unavailable));
                self.streams.handle_activated(&mut out, &mut self.host, id, result);
            }
            Event::Activate(id) => match self.keeper_of(id) {
                Some(keeper) => keeper.handle_activate(now, id),
                None => {
                    self.host.handle_activated(id, Err(Status::Unavailable));
                    self.report(Report::Host(Event::Activate(id)));
                }
            },
            Event::Gone { id, target, code, newcomers } => {
                let last = self.host.take_parting(id);
                if let Some(keeper) = self.keeper_of(id) {
                    keeper.handle_gone(now, id, last);
                }
                let mut out = Links { mesh: &mut self.mesh, now, unsent: &mut self.unsent };
                self.streams.entity_gone(&mut out, id, code, &newcomers);
                self.end_groups(now, target);
                self.move_over(now, id);
            }
            Event::Departed { target, .. } => self.end_groups(now, target),
            Event::Publish { topic, body } => self.publish(now, &topic, &body),
            Event::Subscribe(topic) => self.listen(now, &topic, true),
            Event::Unsubscribe(topic) => self.listen(now, &topic, false),
            event => self.report(Report::Host(event)),
        }
    }

    // -- out --

    /// Frames for another worker of this node, and which. One whose queue is full is told to
    /// [`Mesh::handle_local_full`].
    pub fn poll_local(&mut self) -> Option<(u8, Vec<u8>)> {
        self.local.pop_front()
    }

    /// Calls for another worker of this node, and which.
    pub fn poll_batch(&mut self) -> Option<(u8, Batch)> {
        self.host.poll_batch()
    }

    fn report(&mut self, report: Report) {
        if self.reports.len() >= REPORTS_MAX {
            self.reports_lost += 1;
        } else {
            self.reports.push_back(report);
        }
    }

    fn bad_frame(&mut self, from: WorkerId, problem: String) {
        self.bad_frames += 1;
        self.report(Report::BadFrame { from, problem });
    }
}
