//! Positions of entities by their id: open addressing, half of each entry's word is the hash, so
//! that a look-up touches one line of the table and then the entity itself.
//!
//! An entry's place comes from the hash's highest bits: where the hash is a product with the
//! golden ratio, keys that follow each other are spread evenly, almost without collisions (Knuth,
//! The Art of Computer Programming 3, 6.4).

use super::mail::NONE;

/// Entries: the hash's lower half, then the position.
pub(crate) struct Index {
    entries: Vec<u64>,
    /// How many of the hash's bits are not its place.
    shift: u32,
    len: usize,
}

const EMPTY: u64 = u64::MAX;

impl Index {
    pub fn new() -> Self {
        Index { entries: vec![EMPTY; 8], shift: 64 - 3, len: 0 }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// The position with this hash that `is` it.
    #[inline(always)]
    pub fn find(&self, hash: u64, mut is: impl FnMut(u32) -> bool) -> Option<u32> {
        // Apart from the search, so that nothing is set up for one.
        let first = self.first(hash);
        if first == NONE {
            return None;
        }
        if is(first) { Some(first) } else { self.find_on(hash, is) }
    }

    /// What is at the place of this hash, mostly the position that has it; `NONE` if nothing is.
    #[inline(always)]
    pub fn first(&self, hash: u64) -> u32 {
        self.entries.get((hash >> self.shift) as usize).map_or(NONE, |entry| *entry as u32)
    }

    #[inline(never)]
    fn find_on(&self, hash: u64, mut is: impl FnMut(u32) -> bool) -> Option<u32> {
        let mask = self.entries.len() - 1;
        let mut at = (hash >> self.shift) as usize;
        loop {
            at += 1;
            let entry = self.entries[at & mask];
            if (entry >> 32) as u32 == hash as u32 && is(entry as u32) {
                return Some(entry as u32);
            }
            if entry == EMPTY {
                return None;
            }
        }
    }

    /// Adds a position that is not in it. `hash_of` gives the hash of each position.
    pub fn insert(&mut self, position: u32, hash_of: impl Fn(u32) -> u64) {
        if (self.len + 1) * 10 > self.entries.len() * 7 {
            let bigger = vec![EMPTY; self.entries.len() * 2];
            self.shift -= 1;
            for entry in std::mem::replace(&mut self.entries, bigger) {
                if entry != EMPTY {
                    self.put(entry as u32, hash_of(entry as u32));
                }
            }
        }
        self.put(position, hash_of(position));
        self.len += 1;
    }

    fn put(&mut self, position: u32, hash: u64) {
        let mask = self.entries.len() - 1;
        let mut at = (hash >> self.shift) as usize;
        while self.entries[at] != EMPTY {
            at = (at + 1) & mask;
        }
        self.entries[at] = hash << 32 | u64::from(position);
    }

    /// Takes a position out; those behind it move up, so that no gap cuts a chain.
    pub fn remove(&mut self, position: u32, hash_of: impl Fn(u32) -> u64) {
        let mask = self.entries.len() - 1;
        let mut at = (hash_of(position) >> self.shift) as usize;
        while self.entries[at] as u32 != position {
            if self.entries[at] == EMPTY {
                return;
            }
            at = (at + 1) & mask;
        }
        self.len -= 1;
        let mut next = (at + 1) & mask;
        while self.entries[next] != EMPTY {
            let entry = self.entries[next];
            let home = (hash_of(entry as u32) >> self.shift) as usize;
            // It may move to the gap unless its home lies between the gap and itself.
            if (next.wrapping_sub(home) & mask) >= (next.wrapping_sub(at) & mask) {
                self.entries[at] = entry;
                at = next;
            }
            next = (next + 1) & mask;
        }
        self.entries[at] = EMPTY;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use env::Random;
    use std::collections::BTreeSet;

    #[test]
    fn index_agrees_with_a_set() {
        // Few different hashes, so that chains are long and wrap around.
        let hash_of =
            |position: u32| u64::from(249 + position % 7) << 56 | u64::from(position % 61);
        let mut random = Random::from_seed(5);
        let (mut index, mut set) = (Index::new(), BTreeSet::new());
        for _ in 0..20_000 {
            let position = random.below(300) as u32;
            if set.remove(&position) {
                index.remove(position, hash_of);
            } else {
                set.insert(position);
                index.insert(position, hash_of);
            }
            let probe = random.below(300) as u32;
            let found = index.find(hash_of(probe), |other| other == probe);
            assert_eq!(found.is_some(), set.contains(&probe));
            assert_eq!(index.len(), set.len());
        }
        for position in set {
            index.remove(position, hash_of);
        }
        assert!(index.entries.iter().all(|entry| *entry == EMPTY));
    }
}
