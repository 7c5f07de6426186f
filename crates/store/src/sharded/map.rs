//! Which shard has which slot, as one process knows it. Pure.

use crate::error::Error;
use crate::slots::{SLOTS, ShardInfo, Slot, SlotState};

/// Where a slot is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub shard: usize,
    /// Rises with each move; 0: not known.
    pub version: u64,
    pub offset: u64,
    /// The move that is said to have brought it here, and the slot's generation at its end.
    pub moved: Option<(u64, u64)>,
}

#[derive(Debug)]
pub(super) struct Map {
    names: Vec<String>,
    slots: Vec<Place>,
    generations: Vec<u64>,
    /// The generation of the whole.
    whole: u64,
}

impl Map {
    pub fn new(names: Vec<String>) -> Self {
        let generations = vec![0; names.len()];
        Map { names, slots: vec![Place::default(); SLOTS.into()], generations, whole: 1 }
    }

    pub fn place(&self, slot: Slot) -> Place {
        self.slots[usize::from(slot.0)]
    }

    /// The shard that has all of these.
    pub fn shard_of(&self, slots: &[Slot]) -> Result<usize, Error> {
        let mut shards = slots.iter().map(|slot| self.place(*slot).shard);
        let first = shards.next().unwrap_or(0);
        match shards.find(|shard| *shard != first) {
            None => Ok(first),
            Some(other) => {
                let [one, other] = [first, other].map(|shard| self.names[shard].clone());
                Err(Error::AcrossShards { one, other })
            }
        }
    }

    pub fn generation_of(&self, shard: usize) -> u64 {
        self.generations[shard]
    }

    pub fn learn_generation(&mut self, shard: usize, generation: u64) {
        let known = &mut self.generations[shard];
        if generation > *known {
            *known = generation;
            let has_slots =
                self.slots.iter().any(|place| place.shard == shard && place.version > 0);
            self.whole += u64::from(has_slots);
        }
    }

    /// The generation of the whole, as this process counts it: it rises whenever that of a slot is
    /// seen to have risen, and no move changes it.
    pub fn generation(&self) -> u64 {
        self.whole
    }

    fn of_slot(&self, place: &Place) -> u64 {
        self.generations[place.shard].wrapping_add(place.offset)
    }

    /// Begins to count: the map is whole.
    pub fn begin(&mut self) {
        let raised = self.generations.iter().enumerate().map(|(shard, generation)| {
            let has_slots = self.slots.iter().any(|place| place.shard == shard);
            if has_slots { generation.saturating_sub(1) } else { 0 }
        });
        self.whole = 1 + raised.sum::<u64>();
    }

    /// Takes in that a slot is at another shard. False if that is no news, or no shard known here.
    pub fn learn_moved(&mut self, slot: Slot, to: &str, version: u64, by: (u64, u64)) -> bool {
        let Some(shard) = self.names.iter().position(|name| name == to) else { return false };
        let before = self.place(slot);
        if before.version >= version {
            return false;
        }
        self.whole += u64::from(self.of_slot(&before) != by.1);
        let offset = by.1.wrapping_sub(self.generations[shard]);
        let moved = Some(by);
        self.slots[usize::from(slot.0)] = Place { shard, version, offset, moved };
        true
    }

    /// Takes in what a shard says of itself.
    pub fn learn_shard(&mut self, shard: usize, info: &ShardInfo) {
        self.learn_generation(shard, info.generation);
        let mut raised = false;
        for slot in info.slots.iter().filter(|slot| slot.state.is_here()) {
            let before = self.place(slot.slot);
            if slot.version >= before.version {
                let (version, offset) = (slot.version, slot.offset);
                let place = Place { shard, version, offset, moved: None };
                raised |= self.of_slot(&before) != self.of_slot(&place);
                self.slots[usize::from(slot.slot.0)] = place;
            }
        }
        self.whole += u64::from(raised);
    }

    /// Takes in what a shard has given up. The one that got it may not serve it yet, and has to be
    /// told by which move it came.
    pub fn learn_gone(&mut self, info: &ShardInfo) {
        for slot in &info.slots {
            if matches!(slot.state, SlotState::Gone | SlotState::Cleaned) {
                self.learn_moved(slot.slot, &slot.peer, slot.version, (slot.token, slot.offset));
            }
        }
    }

    /// The first slot of which nobody knows where it is.
    pub fn missing(&self) -> Option<Slot> {
        let at = self.slots.iter().position(|place| place.version == 0)?;
        Some(Slot(at as u16))
    }
}
