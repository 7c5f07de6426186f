use std::collections::{BTreeMap, BTreeSet};

use proto::Incarnation;
use proto::link::WorkerId;

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
