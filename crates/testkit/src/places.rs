//! Gates and workers as the simulated cluster holds them.

use std::sync::Arc;

use cluster::{Directory, NodeInfo};
use env::{Clock, Instant, Random, WallTime};
use gate::Gate;
use mesh::{Key, LinkId, Mesh, Output, PeerInfo};
use node::data::{Ask, Beat};
use node::{DataParts, Report, Worker, WorkerParts};
use proto::Incarnation;
use proto::link::WorkerId;
use proto::ticket::TicketKeys;

use crate::cluster::Options;
use crate::net::{Callee, End, Happening, Net, Place};
use crate::wire::Cut;

/// A gate process, or the hole it left.
pub(crate) struct GateSeat {
    pub(crate) name: String,
    pub(crate) incarnation: Incarnation,
    pub(crate) gate: Option<Gate>,
    pub(crate) stalled_until: Instant,
    pub(crate) wake_at: Option<Instant>,
    peers: Vec<Incarnation>,
}

/// A node process with its workers.
pub(crate) struct NodeSeat {
    pub(crate) info: Arc<NodeInfo>,
    /// None while it is down.
    pub(crate) workers: Vec<WorkerSeat>,
    /// Rises with each start.
    pub(crate) life: u32,
    /// Its thread that beats.
    pub(crate) beat: Beat,
    /// When that is to be woken, as it was said last.
    pub(crate) beat_at: Instant,
    pub(crate) stalled_until: Instant,
    /// When its process ends at the latest, once it was told to.
    pub(crate) ends_by: Instant,
    /// How it is cut off from the store.
    pub(crate) cut: Option<Cut>,
    /// The coordinator has forgotten it for a while.
    pub(crate) unlisted: bool,
    /// It knows that it was declared dead.
    pub(crate) is_dead: bool,
    /// How often it has declared others dead.
    pub(crate) buried: u64,
    /// When it said last that it does not reach the store.
    pub(crate) said_away: Option<Instant>,
}

pub(crate) struct WorkerSeat {
    pub(crate) worker: Worker,
    /// Nodes that said that they do not reach the store.
    pub(crate) away: Vec<Incarnation>,
    pub(crate) stalled_until: Instant,
    pub(crate) wake_at: Option<Instant>,
}

/// What all places of a cluster share.
pub(crate) struct Ground {
    pub(crate) clock: Clock,
    pub(crate) keys: TicketKeys,
    pub(crate) random: Random,
}

impl Ground {
    fn mesh(&mut self, me: WorkerId, name: &str, workers: u8) -> Mesh {
        let options = mesh::Options {
            cluster: "simulated".into(),
            workers,
            retry_max: std::time::Duration::from_secs(2),
            ..mesh::Options::default()
        };
        Mesh::new(me, name, options, Key::shared(&[7; 32]), self.random.fork())
    }
}

impl NodeSeat {
    pub(crate) fn new(ground: &mut Ground, options: &Options, number: usize) -> Self {
        let incarnation = Incarnation(ground.random.u64() | 1);
        let name = format!("node-{number}");
        let mut info = NodeInfo::new(&name, incarnation);
        info.workers = options.workers;
        info.kinds = options.kinds.clone();
        info.kinds.push(cluster::SESSION_KIND);
        info.local.clone_from(&options.local);
        info.zones.clone_from(&options.host.zones);
        info.channels.clone_from(&options.host.channels);
        if options.coordinator.is_some() {
            info.started_ms = ground.clock.wall().0;
        }
        let workers = (0..options.workers)
            .map(|worker| {
                let me = WorkerId { node: incarnation, worker };
                let mut host = options.host.clone();
                host.encode_all = true;
                let mut worker = Worker::new(WorkerParts {
                    me,
                    workers: options.workers,
                    host,
                    sessions: options.sessions.clone(),
                    bindings: options.bindings.clone(),
                    mesh: ground.mesh(me, &name, options.workers),
                    clock: ground.clock.clone(),
                    random: ground.random.fork(),
                    data: options.stored.then(|| DataParts {
                        options: options.data.clone(),
                        ..DataParts::default()
                    }),
                });
                worker.take_all_for_idle();
                (options.register)(worker.host());
                WorkerSeat { worker, away: Vec::new(), stalled_until: Instant::ZERO, wake_at: None }
            })
            .collect();
        let now = ground.clock.now();
        NodeSeat {
            info: Arc::new(info),
            workers,
            life: 0,
            beat: Beat::new(options.data.clone(), incarnation, now),
            beat_at: now,
            stalled_until: Instant::ZERO,
            ends_by: Instant::ZERO,
            cut: None,
            unlisted: false,
            is_dead: false,
            buried: 0,
            said_away: None,
        }
    }

    /// Its process is gone.
    pub(crate) fn end(&mut self) {
        self.workers.clear();
        self.stalled_until = Instant::ZERO;
        self.is_dead = false;
    }
}

impl GateSeat {
    pub(crate) fn new(ground: &mut Ground, options: &Options, now: Instant, number: usize) -> Self {
        let mut seat = GateSeat {
            name: format!("gate-{number}"),
            incarnation: Incarnation::NONE,
            gate: None,
            stalled_until: Instant::ZERO,
            wake_at: None,
            peers: Vec::new(),
        };
        seat.start(ground, options, now);
        seat
    }

    /// Starts a new life of the gate.
    pub(crate) fn start(&mut self, ground: &mut Ground, options: &Options, now: Instant) {
        self.incarnation = Incarnation(ground.random.u64() | 1);
        let me = WorkerId { node: self.incarnation, worker: 0 };
        let parts = gate::Parts {
            options: options.gate.clone(),
            keys: ground.keys.clone(),
            directory: Arc::new(Directory::default()),
            random: ground.random.fork(),
            mesh: ground.mesh(me, &self.name, 1),
            policies: Vec::new(),
        };
        self.gate = Some(Gate::new(now, parts));
        self.peers.clear();
    }

    /// The nodes and gates that it knows of.
    pub(crate) fn listed(&self) -> impl Iterator<Item = Incarnation> {
        self.peers.iter().copied()
    }

    pub(crate) fn info(&self) -> Arc<NodeInfo> {
        Arc::new(NodeInfo::new(&self.name, self.incarnation))
    }

    pub(crate) fn set_directory(&mut self, now: Instant, directory: &Arc<Directory>) {
        let Some(gate) = &mut self.gate else { return };
        let gone = self.peers.iter().filter(|node| directory.node(**node).is_none());
        let gone: Vec<_> = gone.copied().collect();
        self.peers = directory.nodes().map(|info| info.incarnation).collect();
        for info in directory.nodes() {
            let peer = PeerInfo { name: info.name.clone(), addresses: Vec::new() };
            gate.mesh().set_peer(info.incarnation, peer);
        }
        gate.set_directory(now, directory.clone());
        for node in gone {
            gate.mesh().remove_peer(node);
            gate.handle_peer_down(now, node);
        }
    }

    /// Lets the gate work and carries out what it wants. Gives when it wants to be woken.
    pub(crate) fn settle(&mut self, now: Instant, wall: WallTime, at: usize, net: &mut Net) {
        let Some(gate) = &mut self.gate else { return };
        gate.handle_timeout(now);
        gate.mesh().handle_timeout(now);
        loop {
            while let Some(slot) = gate.poll_readable() {
                let held = net.release(End::Conn(at, slot));
                if !held.is_empty() {
                    gate.handle_bytes(now, wall, slot, &held);
                }
            }
            while let Some(slot) = gate.poll_dirty() {
                let output = gate.take_output(slot);
                net.send(now, End::Conn(at, slot), output);
            }
            while let Some((slot, _)) = gate.poll_close() {
                let output = gate.take_output(slot);
                net.send(now, End::Conn(at, slot), output);
                net.hang_up(now, End::Conn(at, slot));
                gate.handle_closed(now, slot);
            }
            let lost = move_links(gate.mesh(), now, Place::Gate(at), net);
            let mut again = !lost.is_empty();
            for node in lost {
                gate.handle_peer_down(now, node);
            }
            while let Some((_, batch)) = gate.mesh().poll_local() {
                again = true;
                let mut frames = mesh::local_frames(&batch);
                while let Some((from, payload)) = gate.mesh().next_local(now, &mut frames) {
                    gate.handle_link(now, wall, from, payload);
                }
            }
            if !again {
                break;
            }
        }
        let next = [gate.poll_timeout(), gate.mesh().poll_timeout()];
        wake(&mut self.wake_at, next.into_iter().flatten().min(), now, Place::Gate(at), net);
    }
}

impl WorkerSeat {
    pub(crate) fn settle(
        &mut self,
        now: Instant,
        wall: WallTime,
        (node, number, workers): (usize, u8, u8),
        net: &mut Net,
    ) -> Vec<Ask> {
        let place = Place::Worker(node, number);
        let mut asks = Vec::new();
        let mut next = self.worker.turn(now, wall);
        loop {
            let lost = move_links(self.worker.mesh(), now, place, net);
            let mut again = !lost.is_empty();
            let soon = now + std::time::Duration::from_micros(5);
            for &peer in &lost {
                self.worker.handle_peer_down(now, wall, peer);
            }
            while let Some((to, batch)) = self.worker.poll_local() {
                net.at(soon, Happening::Local(node, to, batch));
            }
            while let Some((to, batch)) = self.worker.poll_batch() {
                net.at(soon, Happening::Batch(node, to, Box::new(batch)));
            }
            asks.extend(std::iter::from_fn(|| self.worker.poll_ask()));
            for other in (0..workers).filter(|other| *other != number) {
                for &peer in &lost {
                    net.at(soon, Happening::WayDown(node, other, peer));
                }
            }
            again |= next.is_some_and(|at| at <= now);
            if !again {
                break;
            }
            next = self.worker.turn(now, wall);
        }
        while let Some(report) = self.worker.poll_report() {
            if let Report::StoreAway(node) = report {
                self.away.push(node);
            }
        }
        wake(&mut self.wake_at, next, now, place, net);
        asks
    }
}

/// Asks to be woken at `next`, unless an earlier wake-up is under way already.
fn wake(
    known: &mut Option<Instant>,
    next: Option<Instant>,
    now: Instant,
    place: Place,
    net: &mut Net,
) {
    let Some(next) = next else { return };
    // A timeout in the past that nothing came of must not stop time.
    let next = next.max(now + std::time::Duration::from_micros(100));
    if known.is_some_and(|at| at <= next && at > now) {
        return;
    }
    *known = Some(next);
    net.at(next, Happening::Wake(place));
}

/// Carries out what a mesh wants; gives the nodes it lost.
fn move_links(mesh: &mut Mesh, now: Instant, place: Place, net: &mut Net) -> Vec<Incarnation> {
    let mut lost = Vec::new();
    while let Some(output) = mesh.poll_output() {
        match output {
            Output::Dial { link, to, .. } => {
                net.open(now, End::Link(place, link), Callee::Node(to));
            }
            Output::Flush(link) => flush(mesh, now, place, link, net),
            Output::Close(link) => net.hang_up(now, End::Link(place, link)),
            Output::PeerUp(_) => {}
            Output::PeerDown(node) => lost.push(node),
        }
    }
    lost
}

fn flush(mesh: &mut Mesh, now: Instant, place: Place, link: LinkId, net: &mut Net) {
    let bytes = std::mem::take(mesh.output(link));
    net.send(now, End::Link(place, link), bytes);
}
