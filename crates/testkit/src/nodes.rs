//! Nodes that are killed, stand still or are cut off; and a coordinator that is late.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cluster::{Directory, NodeInfo};
use env::Instant;
use node::Outside;
use proto::Incarnation;
use proto::frame::CloseCode;

use crate::cluster::Cluster;
use crate::net::{Happening, Place, Site};
use crate::places::{GateSeat, NodeSeat, WorkerSeat};
use crate::vault::Fact;
use crate::wire::Cut;

/// How the coordinator treats the list of nodes.
#[derive(Clone, Debug, Default)]
pub struct CoordinatorFaults {
    /// A place learns of a change late, per thousand.
    pub late_view: u64,
    /// The longest that it takes to.
    pub late_max: Duration,
    /// It stands still, per thousand and second: nothing changes meanwhile, and afterwards some nodes
    /// are missing for a moment, since their leases ran out.
    pub stall: u64,
    /// The longest standstill.
    pub stall_max: Duration,
}

impl CoordinatorFaults {
    /// Everything goes wrong now and then.
    pub fn all() -> Self {
        CoordinatorFaults {
            late_view: 300,
            late_max: Duration::from_secs(4),
            stall: 40,
            stall_max: Duration::from_secs(8),
        }
    }
}

impl Cluster {
    /// How many nodes there are, killed ones included.
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// Whether the node runs.
    pub fn is_up(&self, node: usize) -> bool {
        !self.nodes[node].workers.is_empty()
    }

    /// Whether the node knows that it was declared dead: it has to be started anew.
    pub fn is_dead(&self, node: usize) -> bool {
        self.nodes[node].is_dead
    }

    /// When the node said last that it does not reach the store.
    pub fn said_away(&self, node: usize) -> Option<Instant> {
        self.nodes[node].said_away
    }

    /// How often a node has begun.
    pub fn node_life(&self, node: usize) -> u32 {
        self.nodes[node].life
    }

    /// The present life of a node, as the store knows it.
    pub fn incarnation(&self, node: usize) -> store::Incarnation {
        store::Incarnation(self.nodes[node].info.incarnation.0)
    }

    /// How often nodes have declared others dead.
    pub fn buried(&self) -> u64 {
        self.nodes.iter().map(|seat| seat.buried).sum()
    }

    /// A caller at a worker of a node that is no entity. `None` while the node is down.
    pub fn outside(&self, node: usize, worker: u8) -> Option<Outside> {
        Some(self.nodes[node].workers.get(usize::from(worker))?.worker.outside())
    }

    /// Lets a worker see what was asked of it from [`outside`](Self::outside).
    pub fn poke(&mut self, node: usize, worker: u8) {
        if self.is_up(node) {
            self.settle(Place::Worker(node, worker));
        }
    }

    /// Kills a node without a word: what it had in memory is gone, what it had sent still arrives.
    /// It is back, as another life, after `pause`. `seen`: its supervisor tells the store at once.
    pub fn kill_node(&mut self, node: usize, pause: Duration, seen: bool) {
        let now = self.now();
        if !self.is_up(node) {
            return;
        }
        self.vault.counts.node_crashes += 1;
        self.net.counts.node_kills += 1;
        self.notes.add(now, || format!("node {node} is killed for {pause:?}"));
        let seat = &mut self.nodes[node];
        let incarnation = seat.info.incarnation;
        seat.end();
        self.detach(Site::Node(node));
        for worker in 0..self.options.workers {
            self.net.vanish(now, Place::Worker(node, worker));
        }
        self.net.forget_node(node);
        if seen {
            self.vault.bury(store::Incarnation(incarnation.0));
        }
        self.net.at(now + pause, Happening::NodeStart(node));
        // Its lease runs out, or it is back before.
        let lease = Duration::from_millis(300 + self.net.random.below(5_000));
        self.net.at(now + lease, Happening::Directory);
    }

    /// Has a node give up what it has: from now on it is home to nothing new, and hands its sessions
    /// over. It ends in order once none are left, after `most` at the latest, and is back as another
    /// life `pause` later.
    pub fn drain_node(&mut self, node: usize, most: Duration, pause: Duration) {
        let now = self.now();
        if !self.is_up(node) || self.nodes[node].info.draining {
            return;
        }
        self.net.counts.node_drains += 1;
        self.notes.add(now, || format!("node {node} drains"));
        let mut info = cluster::NodeInfo::clone(&self.nodes[node].info);
        info.draining = true;
        self.relist_as(now, Site::Node(node), info.clone());
        self.nodes[node].info = Arc::new(info);
        self.net.at(now, Happening::Directory);
        let life = self.nodes[node].life;
        self.net.at(now, Happening::Leave(node, life, now + most, pause));
    }

    /// Whether a node gives up what it has.
    pub fn is_draining(&self, node: usize) -> bool {
        self.nodes[node].info.draining
    }

    /// Ends a node that drains, if it is empty or its time is over.
    pub(crate) fn handle_leave(
        &mut self,
        now: Instant,
        (node, life): (usize, u32),
        until: Instant,
        pause: Duration,
    ) {
        if !self.is_up(node) || self.nodes[node].life != life {
            return;
        }
        let holds = |seat: &WorkerSeat| {
            let stats = seat.worker.stats();
            stats.homes.sessions + stats.homes.leaving > 0
                || stats.moves.open > 0
                || !seat.worker.strays().is_empty()
                || seat.worker.streams_left() > 0
        };
        if now < until && self.nodes[node].workers.iter().any(holds) {
            let soon = now + Duration::from_millis(20);
            return self.net.at(soon, Happening::Leave(node, life, until, pause));
        }
        let wall = self.wall();
        self.delist(now, Site::Node(node));
        for worker in 0..self.options.workers {
            let seat = &mut self.nodes[node].workers[usize::from(worker)];
            seat.worker.keep_directory();
            let (code, reason) = (CloseCode::GoingAway, "the server is going down");
            seat.worker.stop(now, wall, code, reason);
            self.settle(Place::Worker(node, worker));
        }
        self.nodes[node].ends_by = now + self.options.data.stop_wait;
        // A moment for its last frames.
        let soon = now + Duration::from_millis(200);
        self.net.at(soon, Happening::End(node, life, pause));
    }

    /// The process of a node that was stopped is gone.
    pub(crate) fn handle_end(&mut self, now: Instant, (node, life): (usize, u32), pause: Duration) {
        if !self.is_up(node) || self.nodes[node].life != life {
            return;
        }
        let is_saved = self.nodes[node].workers.iter().all(|seat| seat.worker.is_saved());
        if !is_saved && now < self.nodes[node].ends_by {
            let soon = now + Duration::from_millis(50);
            return self.net.at(soon, Happening::End(node, life, pause));
        }
        self.nodes[node].end();
        self.detach(Site::Node(node));
        for worker in 0..self.options.workers {
            self.net.vanish(now, Place::Worker(node, worker));
        }
        self.net.forget_node(node);
        self.net.at(now, Happening::Directory);
        self.net.at(now + pause, Happening::NodeStart(node));
    }

    /// Has an entity move to a node, wherever it is: an operator at the node `by` says so. `false` if it
    /// cannot.
    pub fn move_entity(&mut self, by: usize, id: proto::EntityId, to: usize) -> bool {
        let to = self.nodes[to].info.incarnation;
        let worker = id.worker(self.options.workers);
        let Some(seat) = self.nodes[by].workers.get_mut(usize::from(worker)) else { return false };
        let taken = seat.worker.move_entity(id, to);
        self.settle(Place::Worker(by, worker));
        taken
    }

    /// The coordinator lists a node as one that goes, or no longer: nothing is placed there.
    pub fn mark_draining(&mut self, node: usize, draining: bool) {
        let now = self.now();
        let info = Arc::make_mut(&mut self.nodes[node].info);
        info.draining = draining;
        self.notes.add(now, || format!("node {node} draining: {draining}"));
        self.net.at(now, Happening::Directory);
    }

    /// Entities of a node that belong elsewhere.
    pub fn strays(&self, node: usize) -> usize {
        self.nodes[node].workers.iter().map(|seat| seat.worker.strays().len()).sum()
    }

    /// What became of moves of all workers that run, together.
    pub fn moves(&self) -> node::MoveStats {
        let mut sum = node::MoveStats::default();
        for seat in self.nodes.iter().flat_map(|node| &node.workers) {
            let moves = seat.worker.stats().moves;
            sum.begun += moves.begun;
            sum.gone += moves.gone;
            sum.stayed += moves.stayed;
            sum.came += moves.came;
            sum.open += moves.open;
            sum.strays += moves.strays;
        }
        sum
    }

    /// Somebody knows that a node's life has ended, and tells the store.
    pub fn bury(&mut self, incarnation: store::Incarnation) {
        self.vault.bury(incarnation);
    }

    pub(crate) fn handle_node_start(&mut self, now: Instant, node: usize) {
        if self.is_up(node) {
            return;
        }
        let (life, buried) = (self.nodes[node].life, self.nodes[node].buried);
        let mut seat = NodeSeat::new(&mut self.ground, &self.options, node);
        seat.life = life + 1;
        seat.buried = buried;
        self.nodes[node] = seat;
        self.notes.add(now, || format!("node {node} begins anew"));
        self.start_heart(now, node);
        let info = NodeInfo::clone(&self.nodes[node].info);
        self.attach(now, Site::Node(node), info);
        self.net.at(now + Duration::from_millis(50), Happening::Directory);
    }

    pub(crate) fn start_heart(&mut self, now: Instant, node: usize) {
        if self.options.stored {
            self.nodes[node].beat_at = now;
            self.net.at(now, Happening::Beat(node));
        }
    }

    /// Stops the node's process, as a debugger or a paused machine does, for `span`.
    pub fn pause_node(&mut self, node: usize, span: Duration) {
        let until = self.now() + span;
        let now = self.now();
        self.vault.counts.node_pauses += 1;
        self.notes.add(now, || format!("node {node} stands still for {span:?}"));
        let seat = &mut self.nodes[node];
        seat.stalled_until = seat.stalled_until.max(until);
        for worker in &mut seat.workers {
            worker.stalled_until = worker.stalled_until.max(until);
        }
    }

    /// Cuts a node off from the store, or joins it again.
    pub fn cut_store(&mut self, node: usize, cut: Option<Cut>) {
        let now = self.now();
        if self.nodes[node].cut == cut {
            return;
        }
        self.notes.add(now, || format!("node {node} and the store: {cut:?}"));
        self.vault.counts.store_cuts += u64::from(cut.is_some());
        self.nodes[node].cut = cut;
    }

    /// Whether a node is cut off from the store.
    pub fn is_cut(&self, node: usize) -> bool {
        self.nodes[node].cut.is_some()
    }

    /// Cuts two nodes off from each other, or joins them again. Both still reach the store.
    pub fn split_nodes(&mut self, one: usize, other: usize, apart: bool) {
        let now = self.now();
        self.notes.add(now, || format!("nodes {one} and {other} apart: {apart}"));
        let pair = (one.min(other), one.max(other));
        if apart {
            self.vault.counts.splits += 1;
            self.net.split(now, pair);
        } else {
            self.net.join(pair);
        }
    }

    /// The store stands still for `span`: it does nothing, and what is asked waits there.
    pub fn stall_store(&mut self, span: Duration) {
        let now = self.now();
        self.notes.add(now, || format!("the store stands still for {span:?}"));
        self.vault.stalled_until = self.vault.stalled_until.max(now + span);
        let until = self.vault.stalled_until;
        self.net.at(until, Happening::StoreWork);
    }

    /// Whether the store runs; it may stand still.
    pub fn is_store_up(&self) -> bool {
        self.vault.is_up()
    }

    /// Whether the store runs and does not stand still.
    pub fn is_store_working(&self) -> bool {
        self.vault.is_up() && self.vault.stalled_until <= self.now()
    }

    /// What the store did since the last time, in order.
    pub fn facts(&mut self) -> Vec<Fact> {
        std::mem::take(&mut self.vault.facts)
    }

    pub(crate) fn node_stalled_until(&self, node: usize, worker: Option<u8>) -> Option<Instant> {
        let seat = &self.nodes[node];
        match worker {
            None => Some(seat.stalled_until),
            Some(worker) => {
                seat.workers.get(usize::from(worker)).map(|worker| worker.stalled_until)
            }
        }
    }

    /// The streams that entities have, for people to look at.
    pub fn streams(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (node, seat) in self.nodes.iter().enumerate() {
            for (worker, seat) in seat.workers.iter().enumerate() {
                let streams = seat.worker.streams().into_iter();
                found.extend(streams.map(|text| format!("worker {node}.{worker}: {text}")));
            }
        }
        found
    }

    /// Places that take others for nodes of the cluster than those that run now.
    pub fn wrong_views(&self) -> Vec<String> {
        let nodes = self.nodes.iter().filter(|seat| !seat.workers.is_empty());
        let nodes = nodes.map(|seat| seat.info.incarnation);
        let gates = self.gates.iter().filter(|seat| seat.gate.is_some());
        let there: BTreeSet<_> = nodes.chain(gates.map(|seat| seat.incarnation)).collect();
        let (mut wrong, mut late) = (Vec::new(), Vec::new());
        let mut compare = |place: Place, listed: BTreeSet<Incarnation>| {
            if listed != there {
                let more = listed.difference(&there).count();
                let less = there.difference(&listed).count();
                wrong.push(format!("{place} lists {more} that are not there, not {less} that are"));
            }
        };
        for (number, seat) in self.gates.iter().enumerate().filter(|(_, seat)| seat.gate.is_some())
        {
            compare(Place::Gate(number), seat.listed().collect());
        }
        for (node, seat) in self.nodes.iter().enumerate() {
            for (worker, seat) in (0u8..).zip(&seat.workers) {
                let directory = seat.worker.directory();
                let listed = directory.nodes().map(|info| info.incarnation).collect();
                compare(Place::Worker(node, worker), listed);
                // What goes is home to nothing, as far as it is known to.
                let leaves = |info: &NodeInfo| {
                    let truth = self.nodes.iter().find(|s| s.info.incarnation == info.incarnation);
                    truth.is_some_and(|truth| truth.info.draining != info.draining)
                };
                if directory.nodes().any(leaves) {
                    let place = Place::Worker(node, worker);
                    late.push(format!("{place} has not heard who leaves"));
                }
            }
        }
        wrong.extend(late);
        wrong
    }

    /// Lets nothing pass from one process to another, or does again. Nobody is told: what is sent
    /// meanwhile comes afterwards, if both ends still wait for it.
    pub fn cut_way(&mut self, from: Site, to: Site, cut: bool) {
        let now = self.now();
        self.notes.add(now, || format!("the way from {from} to {to} is cut: {cut}"));
        if cut {
            self.vault.counts.ways_cut += 1;
            self.net.cut_way(from, to);
        } else {
            self.net.mend_way(now, from, to);
            self.free_lines(now);
        }
    }

    // -- the coordinator --

    /// Tells every place who is there, each when it hears of it.
    pub(crate) fn spread_directory(&mut self, now: Instant) {
        if self.coordinator_until > now || self.coordination.is_some() {
            // It is told when the coordinator goes on.
            return;
        }
        self.revision += 1;
        let listed = self.nodes.iter().filter(|seat| !seat.workers.is_empty() && !seat.unlisted);
        let nodes = listed.map(|seat| Arc::clone(&seat.info));
        let gates = self.gates.iter().filter(|seat| seat.gate.is_some()).map(GateSeat::info);
        let directory = Arc::new(Directory::new(self.revision, nodes.chain(gates)));
        for number in 0..self.gates.len() {
            self.show_directory(now, Place::Gate(number), &directory);
        }
        for node in 0..self.nodes.len() {
            for worker in 0..self.options.workers {
                self.show_directory(now, Place::Worker(node, worker), &directory);
            }
        }
    }

    fn show_directory(&mut self, now: Instant, place: Place, directory: &Arc<Directory>) {
        let faults = &self.options.coordinator_faults;
        if !self.healed && self.vault.strikes(faults.late_view) {
            self.vault.counts.late_views += 1;
            let late = self.vault.up_to(faults.late_max);
            return self.net.at(now + late, Happening::View(place, Arc::clone(directory)));
        }
        self.see_directory(now, place, directory);
    }

    pub(crate) fn see_directory(&mut self, now: Instant, place: Place, directory: &Arc<Directory>) {
        match place {
            Place::Gate(number) => self.gates[number].set_directory(now, directory),
            Place::Worker(node, worker) => {
                let workers = &mut self.nodes[node].workers;
                let Some(seat) = workers.get_mut(usize::from(worker)) else { return };
                // An older view that comes later is no news.
                if seat.worker.directory().revision() >= directory.revision() {
                    return;
                }
                seat.worker.set_directory(directory.clone(), |_| false);
            }
        }
        self.settle(place);
    }

    /// Once a simulated second: the coordinator may stand still.
    pub(crate) fn strike_coordinator(&mut self, now: Instant) {
        let faults = self.options.coordinator_faults.clone();
        if self.coordination.is_some()
            || self.coordinator_until > now
            || !self.vault.strikes(faults.stall)
        {
            return;
        }
        self.vault.counts.coordinator_stalls += 1;
        let span = self.vault.up_to(faults.stall_max);
        self.coordinator_until = now + span;
        self.notes.add(now, || format!("the coordinator stands still for {span:?}"));
        // A stalled coordinator forgets leases that were kept all the time.
        for seat in &mut self.nodes {
            seat.unlisted = self.vault.strikes(500);
        }
        self.net.at(now + span, Happening::Directory);
        let back = self.vault.up_to(Duration::from_secs(3));
        self.net.at(now + span + back, Happening::Relist);
    }

    pub(crate) fn relist(&mut self, now: Instant) {
        self.nodes.iter_mut().for_each(|seat| seat.unlisted = false);
        self.spread_directory(now);
    }
}
