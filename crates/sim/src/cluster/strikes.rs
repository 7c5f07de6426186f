//! What goes wrong with nodes and gates, beside what the cluster's own faults do.

use std::time::Duration;

use mainstay::env::{Instant, Random};
use testkit::Site;

use super::Script;

/// A fault that ends by itself.
#[derive(Clone, Copy, Debug)]
pub struct Strike {
    what: What,
    until: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// Two nodes refuse each other's connections.
    Split(usize, usize),
    /// Nothing passes from one process to another, and nobody is told.
    Cut(Site, Site),
}

/// What may befall gates and nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    GateKill,
    NodeKill,
    Pause,
    Drain,
    Split,
    NodeCut,
    GateCut,
    LineCut,
}

/// A random choice of them, so that some runs have few and many of those.
pub fn kinds(random: &mut Random) -> Vec<Kind> {
    use Kind::{Drain, GateCut, GateKill, LineCut, NodeCut, NodeKill, Pause, Split};
    let all = [GateKill, NodeKill, Pause, Drain, Split, NodeCut, GateCut, LineCut];
    all.into_iter().filter(|_| random.chance(1, 2)).collect()
}

/// A node that stands still for so long may be taken for dead.
const LONG: Duration = Duration::from_millis(2_500);

impl Script {
    /// Something happens to a gate or a node.
    pub fn strike(&mut self) {
        if self.kinds.is_empty() {
            return;
        }
        let kind = self.kinds[self.stage.random.below(self.kinds.len() as u64) as usize];
        let nodes = self.stage.cluster.nodes();
        let node = self.stage.random.below(nodes as u64) as usize;
        let gate = self.stage.random.below(self.stage.cluster.gates() as u64) as usize;
        let some = self.stage.random.below(10_000);
        let other = (node + 1 + some as usize % (nodes - 1)) % nodes;
        let now = self.stage.cluster.now();
        let pause = Duration::from_millis(100 + some % 5_000);
        let is_there =
            |n: &usize| self.stage.cluster.is_up(*n) && !self.stage.cluster.is_draining(*n);
        let others = (0..nodes).filter(|n| *n != node && is_there(n)).count();
        match kind {
            Kind::GateKill => self.stage.cluster.kill_gate(gate, pause),
            Kind::NodeKill if self.stage.cluster.is_up(node) => {
                self.kill(node, pause, some.is_multiple_of(3));
            }
            Kind::Pause if self.stage.cluster.is_up(node) && self.paused_until[node] <= now => {
                let until = now + Duration::from_millis(100 + some % 8_000);
                self.stage.cluster.pause_node(node, until - now);
                self.paused_until[node] = until;
                self.stage.book.open().stands_still(now, until);
                if until - now > LONG {
                    self.node_may_be_missed(until);
                }
            }
            Kind::Drain if others > 0 && is_there(&node) => {
                let most = Duration::from_secs(20);
                self.stage.book.open().node_end = Some(now + most);
                self.stage.cluster.drain_node(node, most, pause);
            }
            Kind::Split => self.begin(What::Split(node.min(other), node.max(other))),
            Kind::NodeCut => self.cut(Site::Node(node), Site::Node(other)),
            Kind::GateCut => self.cut(Site::Node(node), Site::Gate(gate)),
            Kind::LineCut if some.is_multiple_of(3) => {
                self.cut(Site::Gate(gate), Site::Coordinator);
            }
            Kind::LineCut => self.cut(Site::Node(node), Site::Coordinator),
            _ => {}
        }
    }

    /// Cuts the ways between two processes, or one of them.
    fn cut(&mut self, one: Site, other: Site) {
        let which = self.stage.random.below(3);
        if which != 0 {
            self.begin(What::Cut(one, other));
        }
        if which != 1 {
            self.begin(What::Cut(other, one));
        }
    }

    fn begin(&mut self, what: What) {
        if self.strikes.iter().any(|strike| strike.what == what) {
            return;
        }
        let until =
            self.stage.cluster.now() + Duration::from_millis(100 + self.stage.random.below(8_000));
        match what {
            What::Split(one, other) => self.stage.cluster.split_nodes(one, other, true),
            What::Cut(from, to) => self.stage.cluster.cut_way(from, to, true),
        }
        self.strikes.push(Strike { what, until });
    }

    /// What a node has may be given to others from now on, as if it had died.
    fn node_may_be_missed(&mut self, until: Instant) {
        let now = self.stage.cluster.now();
        let mut book = self.stage.book.open();
        book.node_deaths.push(now);
        book.node_end = book.node_end.max(Some(until));
    }

    pub fn kill(&mut self, node: usize, pause: Duration, seen: bool) {
        let now = self.stage.cluster.now();
        self.node_may_be_missed(now);
        self.graves.push(self.stage.cluster.incarnation(node));
        self.stage.cluster.kill_node(node, pause, seen);
        self.paused_until[node] = now;
    }

    /// Ends what is over, and starts nodes anew that know that they were declared dead.
    pub fn end_strikes(&mut self, now: Instant) {
        for at in (0..self.strikes.len()).rev() {
            if self.strikes[at].until <= now {
                match self.strikes.remove(at).what {
                    What::Split(one, other) => self.stage.cluster.split_nodes(one, other, false),
                    What::Cut(from, to) => self.stage.cluster.cut_way(from, to, false),
                }
            }
        }
        for node in 0..self.stage.cluster.nodes() {
            if self.stage.cluster.is_dead(node) {
                self.kill(node, Duration::from_secs(1), true);
            }
        }
    }
}

impl Strike {
    /// It is over at the next look.
    pub fn end(&mut self) {
        self.until = Instant::ZERO;
    }
}
