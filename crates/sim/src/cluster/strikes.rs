//! What goes wrong with nodes and gates, beside what the cluster's own faults do.

use std::time::Duration;

use mainstay::env::Instant;
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

/// A node that stands still for so long may be taken for dead.
const LONG: Duration = Duration::from_millis(2_500);

impl Script {
    /// Something happens to a gate or a node.
    pub fn strike(&mut self) {
        let nodes = self.cluster.nodes();
        let node = self.random.below(nodes as u64) as usize;
        let gate = self.random.below(self.cluster.gates() as u64) as usize;
        let some = self.random.below(10_000);
        let now = self.cluster.now();
        let pause = Duration::from_millis(100 + some % 5_000);
        let is_there = |n: &usize| self.cluster.is_up(*n) && !self.cluster.is_draining(*n);
        let others = (0..nodes).filter(|n| *n != node && is_there(n)).count();
        match self.random.below(14) {
            0..2 => self.cluster.kill_gate(gate, pause),
            2..5 if self.cluster.is_up(node) => self.kill(node, pause, some.is_multiple_of(3)),
            5..7 if self.cluster.is_up(node) && self.paused_until[node] <= now => {
                let until = now + Duration::from_millis(100 + some % 8_000);
                self.cluster.pause_node(node, until - now);
                self.paused_until[node] = until;
                self.book.open().stands_still(now, until);
                if until - now > LONG {
                    self.node_may_be_missed(until);
                }
            }
            7..9 if others > 0 && is_there(&node) => {
                let most = Duration::from_secs(20);
                self.book.open().node_end = Some(now + most);
                self.cluster.drain_node(node, most, pause);
            }
            9 => {
                let other = (node + 1 + some as usize % (nodes - 1)) % nodes;
                self.begin(What::Split(node.min(other), node.max(other)));
            }
            10..14 => {
                let other = (node + 1 + some as usize % (nodes - 1)) % nodes;
                let gate = Site::Gate(gate);
                let (one, other) = match some % 6 {
                    0..2 => (Site::Node(node), Site::Node(other)),
                    2..4 => (Site::Node(node), gate),
                    4 => (Site::Node(node), Site::Coordinator),
                    _ => (gate, Site::Coordinator),
                };
                let (there, back) = match self.random.below(3) {
                    0 => (true, false),
                    1 => (false, true),
                    _ => (true, true),
                };
                if there {
                    self.begin(What::Cut(one, other));
                }
                if back {
                    self.begin(What::Cut(other, one));
                }
            }
            _ => {}
        }
    }

    fn begin(&mut self, what: What) {
        if self.strikes.iter().any(|strike| strike.what == what) {
            return;
        }
        let until = self.cluster.now() + Duration::from_millis(100 + self.random.below(8_000));
        match what {
            What::Split(one, other) => self.cluster.split_nodes(one, other, true),
            What::Cut(from, to) => self.cluster.cut_way(from, to, true),
        }
        self.strikes.push(Strike { what, until });
    }

    /// What a node has may be given to others from now on, as if it had died.
    fn node_may_be_missed(&mut self, until: Instant) {
        let now = self.cluster.now();
        let mut book = self.book.open();
        book.node_deaths.push(now);
        book.node_end = book.node_end.max(Some(until));
    }

    pub fn kill(&mut self, node: usize, pause: Duration, seen: bool) {
        let now = self.cluster.now();
        self.node_may_be_missed(now);
        self.graves.push(self.cluster.incarnation(node));
        self.cluster.kill_node(node, pause, seen);
        self.paused_until[node] = now;
    }

    /// Ends what is over, and starts nodes anew that know that they were declared dead.
    pub fn end_strikes(&mut self, now: Instant) {
        for at in (0..self.strikes.len()).rev() {
            if self.strikes[at].until <= now {
                match self.strikes.remove(at).what {
                    What::Split(one, other) => self.cluster.split_nodes(one, other, false),
                    What::Cut(from, to) => self.cluster.cut_way(from, to, false),
                }
            }
        }
        for node in 0..self.cluster.nodes() {
            if self.cluster.is_dead(node) {
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
