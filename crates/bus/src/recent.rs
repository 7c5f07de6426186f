use std::collections::{BTreeSet, VecDeque};

/// The ids that were added last, up to a number.
#[derive(Debug)]
pub(crate) struct Recent {
    max: usize,
    ids: BTreeSet<u128>,
    in_order: VecDeque<u128>,
}

impl Recent {
    pub fn new(max: usize) -> Self {
        Recent { max, ids: BTreeSet::new(), in_order: VecDeque::new() }
    }

    pub fn has(&self, id: u128) -> bool {
        self.ids.contains(&id)
    }

    pub fn add(&mut self, id: u128) {
        if self.max == 0 || !self.ids.insert(id) {
            return;
        }
        self.in_order.push_back(id);
        if self.in_order.len() > self.max
            && let Some(oldest) = self.in_order.pop_front()
        {
            self.ids.remove(&oldest);
        }
    }
}
