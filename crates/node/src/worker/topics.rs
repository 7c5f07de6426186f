use std::collections::{BTreeMap, BTreeSet};

use env::Instant;
use proto::link::{LinkFrame, WorkerId};
use proto::{Incarnation, name_hash};

use super::Worker;
use super::links::Links;
use crate::session::Outlet as _;

/// Messages of topics, as one worker saw them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PublishStats {
    /// Copies sent to other nodes: one to each that listens.
    pub sent: u64,
    /// Copies that came from other nodes.
    pub heard: u64,
    /// Copies that did not get further because the way was full or closed.
    pub lost: u64,
}

/// Who listens to what, over all nodes: this worker's own topics, and what others said of theirs.
#[derive(Debug)]
pub(super) struct Topics {
    mine: BTreeSet<String>,
    others: BTreeMap<String, BTreeSet<WorkerId>>,
    /// How many pairs `others` holds.
    heard: usize,
    heard_max: usize,
    /// Nodes that are to be told of `mine`.
    untold: BTreeSet<Incarnation>,
}

impl Topics {
    pub fn new(heard_max: usize) -> Self {
        Topics {
            mine: BTreeSet::new(),
            others: BTreeMap::new(),
            heard: 0,
            heard_max,
            untold: BTreeSet::new(),
        }
    }

    /// What this worker's entities listen to.
    pub fn mine(&self) -> impl Iterator<Item = &str> {
        self.mine.iter().map(String::as_str)
    }

    /// The first entity of this worker listens, or the last one no longer does.
    pub fn set_mine(&mut self, topic: &str, on: bool) {
        if on {
            self.mine.insert(topic.to_owned());
        } else {
            self.mine.remove(topic);
        }
    }

    /// Whether an entity of this worker listens.
    pub fn is_mine(&self, topic: &str) -> bool {
        self.mine.contains(topic)
    }

    /// Another worker listens, or no longer does. `false` if there is no room to note it.
    #[must_use]
    pub fn hear(&mut self, from: WorkerId, topic: &str, on: bool) -> bool {
        if !on {
            if let Some(workers) = self.others.get_mut(topic) {
                self.heard -= usize::from(workers.remove(&from));
                if workers.is_empty() {
                    self.others.remove(topic);
                }
            }
            return true;
        }
        if self.heard >= self.heard_max {
            return self.others.get(topic).is_some_and(|workers| workers.contains(&from));
        }
        let workers = self.others.entry(topic.to_owned()).or_default();
        self.heard += usize::from(workers.insert(from));
        true
    }

    /// The other workers that listen to `topic`.
    pub fn listeners(&self, topic: &str) -> impl Iterator<Item = WorkerId> {
        self.others.get(topic).into_iter().flatten().copied()
    }

    /// A node is no longer listed: what it listens to is forgotten.
    pub fn forget(&mut self, node: Incarnation) {
        self.untold.remove(&node);
        let mut heard = self.heard;
        self.others.retain(|_, workers| {
            workers.retain(|worker| {
                let stays = worker.node != node;
                heard -= usize::from(!stays);
                stays
            });
            !workers.is_empty()
        });
        self.heard = heard;
    }

    /// A node must be told (again) what this worker listens to: it is new, or what was on the way
    /// to it may be lost.
    pub fn tell(&mut self, node: Incarnation) {
        self.untold.insert(node);
    }

    /// The nodes that must be told.
    pub fn take_untold(&mut self) -> BTreeSet<Incarnation> {
        std::mem::take(&mut self.untold)
    }
}

/// The worker of a node that gets what is said to a topic elsewhere, for all of them. Always the same one, so
/// that what one source says stays in order.
fn relay_of(topic: &str, workers: u8) -> u8 {
    (name_hash(topic) % u32::from(workers.max(1))) as u8
}

impl Worker {
    /// Carries a message to all workers that listen, this one included: one copy to each other node. A listener
    /// whose way is full misses it; nobody waits.
    pub(super) fn publish(&mut self, now: Instant, topic: &str, body: &[u8]) {
        self.hand_on(now, topic, body);
        let (directory, me, mut done) = (self.directory(), self.me.node, None);
        for to in self.topics.listeners(topic).filter(|to| to.node != me) {
            if done == Some(to.node) {
                continue;
            }
            let relay = directory.node(to.node).filter(|info| info.relays);
            // One of an earlier release has no relay: each of its workers gets a copy.
            let (to, frame) = match relay {
                Some(info) => {
                    done = Some(to.node);
                    let worker = relay_of(topic, info.workers);
                    (WorkerId { worker, ..to }, LinkFrame::Relay { subject: topic, body })
                }
                None => (to, LinkFrame::Publish { subject: topic, body }),
            };
            match self.mesh.send(now, to, |bytes| frame.encode(to.worker, bytes)) {
                Ok(()) => self.publishes.sent += 1,
                Err(_) => self.publishes.lost += 1,
            }
        }
    }

    /// Gives a message to all who listen on this node.
    pub(super) fn hand_on(&mut self, now: Instant, topic: &str, body: &[u8]) {
        if self.topics.is_mine(topic) {
            self.host.handle_publish(topic, body);
        }
        let me = self.me.node;
        for to in self.topics.listeners(topic).filter(|to| to.node == me) {
            let frame = LinkFrame::Publish { subject: topic, body };
            let sent = self.mesh.send(now, to, |bytes| frame.encode(to.worker, bytes));
            self.publishes.lost += u64::from(sent.is_err());
        }
    }

    /// This worker listens, or no longer does, and tells all who have to know.
    pub(super) fn listen(&mut self, now: Instant, topic: &str, on: bool) {
        self.topics.set_mine(topic, on);
        let me = self.me;
        if self.is_carried(topic) {
            match relay_of(topic, self.view.workers) {
                relay if relay == me.worker => self.mind_the_bus(topic),
                relay => self.tell_listener(now, WorkerId { worker: relay, ..me }, topic, on),
            }
            return;
        }
        let directory = self.directory();
        let nodes = directory.nodes().filter(|info| !info.kinds.is_empty());
        let others = nodes.filter(|info| info.incarnation != me.node);
        let mut told: Vec<(Incarnation, u8)> =
            others.map(|info| (info.incarnation, info.workers)).collect();
        told.push((me.node, self.view.workers));
        for node in told {
            self.announce(now, node, topic, on);
        }
    }

    /// Another worker listens, or no longer does.
    pub(super) fn note_listener(&mut self, from: WorkerId, topic: &str, on: bool) {
        if !self.topics.hear(from, topic, on) {
            self.publishes.lost += 1;
            tracing::error!(node = %from.node, topic, "too many topics: not noted");
        }
        if from.node == self.me.node && self.is_carried(topic) {
            self.mind_the_bus(topic);
        }
    }

    /// Tells a node that came, or may have missed it, what this worker listens to.
    pub(super) fn tell_topics(&mut self, now: Instant, node: (Incarnation, u8)) {
        let mine = self.topics.mine().filter(|topic| !self.is_carried(topic));
        let mine: Vec<String> = mine.map(str::to_owned).collect();
        for topic in mine {
            self.announce(now, node, &topic, true);
        }
    }

    fn announce(
        &mut self,
        now: Instant,
        (node, workers): (Incarnation, u8),
        topic: &str,
        on: bool,
    ) {
        let me = self.me;
        let all = (0..workers).map(|worker| WorkerId { node, worker });
        for to in all.filter(|to| *to != me) {
            self.tell_listener(now, to, topic, on);
        }
    }

    fn tell_listener(&mut self, now: Instant, to: WorkerId, topic: &str, on: bool) {
        let mut out = Links { mesh: &mut self.mesh, now, unsent: &mut self.unsent };
        out.control(to, &LinkFrame::Listen { subject: topic, on });
    }

    /// Whether the bus carries `topic`, and not the mesh.
    fn is_carried(&self, topic: &str) -> bool {
        self.ears.as_ref().is_some_and(|ears| ears.takes(topic))
    }

    /// Listens on the bus as long as any worker of this node does, for all of them.
    fn mind_the_bus(&mut self, topic: &str) {
        let me = self.me.node;
        let on = self.topics.is_mine(topic)
            || self.topics.listeners(topic).any(|worker| worker.node == me);
        if let Some(ears) = &mut self.ears {
            ears.listen(topic, on);
        }
    }
}
