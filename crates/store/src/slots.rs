//! Slots: how keys are spread over shards, and what is said about it. Pure.

use std::fmt;

use crate::index::{INDEX_KIND, LIST_KIND, slot_of_key};
use crate::ledger::TxnId;
use crate::record::RecordId;
use crate::types::Key;

/// How many slots there are, in every set of shards and for ever.
pub const SLOTS: u16 = 1_024;

/// The kind of records that are chunks of maps. The first 16 bytes of such a key name a region of its
/// map, whose chunks are in one slot; see `docs/store-format.md`.
pub const CHUNK_KIND: u32 = u32::from_be_bytes(*b"grid");

/// A part of all keys, which is in one shard as a whole.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u16);

impl Slot {
    /// The slot of an entity or holder: of the low 96 bits of its key, so that what belongs to an
    /// entity can be kept with it under the same low bits.
    pub fn of(key: Key) -> Self {
        let low = key.0 & ((1 << 96) - 1);
        Self::of_number(mix((low >> 64) as u64) ^ low as u64)
    }

    /// The slot of a record.
    pub fn of_record(id: &RecordId) -> Self {
        Self::of_record_key(id.kind, &id.key)
    }

    pub(crate) fn of_record_key(kind: u32, key: &[u8]) -> Self {
        match (kind, key.split_first_chunk::<4>()) {
            (INDEX_KIND, _) => return slot_of_key(key),
            // Where the record is whose list it is.
            (LIST_KIND, Some((of, key))) => {
                return Self::of_plain_key(u32::from_be_bytes(*of), key);
            }
            _ => {}
        }
        Self::of_plain_key(kind, key)
    }

    fn of_plain_key(kind: u32, key: &[u8]) -> Self {
        let key = match key.first_chunk::<16>() {
            Some(region) if kind == CHUNK_KIND => region,
            _ => key,
        };
        // FNV-1a.
        let bytes = kind.to_be_bytes();
        let bytes = bytes.iter().chain(key);
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self::of_number(hash)
    }

    /// The slot of a transaction that concerns no entity, holder or record.
    pub(crate) fn of_txn(id: TxnId) -> Self {
        Self::of_number(mix((id.0 >> 64) as u64) ^ id.0 as u64)
    }

    fn of_number(n: u64) -> Self {
        Slot((mix(n) % u64::from(SLOTS)) as u16)
    }
}

/// The finaliser of splitmix64 (Steele, Lea, Flood 2014).
fn mix(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "slot {}", self.0)
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slot({})", self.0)
    }
}

/// How a slot stands in a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotState {
    /// It is here.
    Here,
    /// It is here and is being copied: what changes is marked, to be copied again.
    Copying,
    /// It is here, but nothing of it is written: its last changes are being copied.
    Frozen,
    /// It went to another shard; its rows are still to be removed.
    Gone,
    /// It went to another shard, and nothing of it is left.
    Cleaned,
    /// It is being copied here and is not served yet.
    Arriving,
}

impl SlotState {
    /// Whether the shard is the one that has it.
    pub fn is_here(self) -> bool {
        matches!(self, SlotState::Here | SlotState::Copying | SlotState::Frozen)
    }
}

/// A slot as a shard has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotInfo {
    /// Which.
    pub slot: Slot,
    /// How it stands.
    pub state: SlotState,
    /// Rises by one each time that it goes to another shard; the first is 1.
    pub version: u64,
    /// The shard from which or to which it goes or went; empty if there is none.
    pub peer: String,
    /// Which move this is about; 0 if none.
    pub token: u64,
    /// What is added to the shard's generation to have the slot's, which no move changes. Once the
    /// slot is gone: the slot's generation itself.
    pub offset: u64,
}

/// What a shard says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardInfo {
    /// Its name, and the names of the shards of which the set was founded; `None` if it is in no set.
    pub shard: Option<(String, Vec<String>)>,
    /// Whether anything is kept in it.
    pub is_empty: bool,
    /// Its generation.
    pub generation: u64,
    /// Its slots, all that it has a row of, in order.
    pub slots: Vec<SlotInfo>,
}

/// A row on its way from one shard to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moving {
    /// Number of its table.
    pub table: u8,
    /// Its key.
    pub key: Vec<u8>,
    /// What is stored; `None`: it was removed.
    pub row: Option<Vec<u8>>,
}

/// What a slot holds of currencies and of kinds of items.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SlotSums {
    /// By currency.
    pub currencies: std::collections::BTreeMap<u32, u128>,
    /// By kind of item.
    pub items: std::collections::BTreeMap<u32, u128>,
}

/// A step of a move, asked of one of the two shards. Each is safe to repeat, and refused if another
/// move of the slots has begun since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SlotAsk {
    /// What the shard says of itself.
    Describe,
    /// Makes it a shard of a set, with these slots, unless it is one.
    Found {
        /// Its name.
        name: String,
        /// The shards of which the set is founded.
        plan: Vec<String>,
        /// What it begins with.
        slots: Vec<Slot>,
    },
    /// Of the source: a move begins.
    Leave {
        /// Which slots.
        slots: Vec<Slot>,
        /// To which shard.
        to: String,
        /// The name of the move; never 0.
        token: u64,
    },
    /// Of the target: the slots will come.
    Expect {
        /// Which slots, each with the number of this try.
        slots: Vec<(Slot, u64)>,
        /// From which shard.
        from: String,
        /// The move.
        token: u64,
    },
    /// Removes what is left of slots that are gone, or of an earlier try of this move.
    Clear {
        /// Which slots.
        slots: Vec<Slot>,
        /// The move.
        token: u64,
        /// Whether the move is given up, and what it brought is to be removed.
        back: bool,
        /// Where the last step ended.
        after: Option<(u8, Vec<u8>)>,
    },
    /// Of the source: some rows.
    Page {
        /// Which slots.
        slots: Vec<Slot>,
        /// Where the last step ended.
        after: Option<(u8, Vec<u8>)>,
    },
    /// Of the target: takes rows in.
    Fill {
        /// Which slots.
        slots: Vec<Slot>,
        /// The move.
        token: u64,
        /// The number of this step, from 1 on: each is done once.
        number: u64,
        /// The rows.
        rows: Vec<Moving>,
        /// The time: milliseconds since 1970.
        at_ms: u64,
    },
    /// Of the source: takes marks of what changed off, and gives those rows as they are now.
    Take {
        /// Which slots.
        slots: Vec<Slot>,
        /// The move.
        token: u64,
        /// The number of this step: each is done once.
        number: u64,
    },
    /// Of the source: nothing of the slots is written from now on.
    Freeze {
        /// Which slots.
        slots: Vec<Slot>,
        /// The move.
        token: u64,
    },
    /// Of the source: the move is given up, where it can be.
    Thaw {
        /// Which slots.
        slots: Vec<Slot>,
        /// The move.
        token: u64,
    },
    /// Of the target: what it was given.
    Sums {
        /// Which slots.
        slots: Vec<Slot>,
        /// The move.
        token: u64,
    },
    /// Of the source: the slots are the target's from now on. The one commit point of a move.
    CutOver {
        /// Which slots, each with the number of this try and what the target was given of it.
        slots: Vec<(Slot, u64, SlotSums)>,
        /// The move.
        token: u64,
    },
    /// Of the target: it serves the slots, which the source has given up.
    Arrive {
        /// Which slots, with version and generation as the source gave them up.
        slots: Vec<(Slot, u64, u64)>,
        /// The move.
        token: u64,
    },
    /// Of the target: forgets a move that was given up, after its rows were removed.
    Drop {
        /// Which slots.
        slots: Vec<Slot>,
        /// The move.
        token: u64,
    },
}

/// An answer to a [`SlotAsk`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SlotTold {
    /// It is done.
    Done,
    /// For `Leave`: the number of this try, for each slot. For `Thaw`: the same, of slots that are back.
    Left(Vec<(Slot, u64)>),
    /// For `Describe`.
    Shard(Box<ShardInfo>),
    /// Rows, and where to go on; `None` after the last.
    Rows(Vec<Moving>, Option<(u8, Vec<u8>)>),
    /// For `Clear`: where to go on.
    Next(Option<(u8, Vec<u8>)>),
    /// For `Sums`.
    Sums(Vec<(Slot, SlotSums)>),
    /// For `CutOver`: version and generation of each slot.
    Gone(Vec<(Slot, u64, u64)>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_spread_over_all_slots() {
        let mut counts = vec![0u32; SLOTS.into()];
        for n in 0..102_400u128 {
            counts[usize::from(Slot::of(Key(7 << 64 | n)).0)] += 1;
        }
        assert!(counts.iter().all(|count| (50..=160).contains(count)), "{counts:?}");
    }

    #[test]
    fn slots_of_keys_never_change() {
        let slots = [0, 1, 0xffff_ffff_ffff_ffff, 5 << 64 | 9].map(|key| Slot::of(Key(key)).0);
        let record = Slot::of_record(&RecordId { kind: 3, key: b"guild".to_vec() }).0;
        assert_eq!((slots, record), ([623, 270, 624, 209], 796));
    }

    #[test]
    fn chunks_of_a_region_share_a_slot_and_regions_are_spread() {
        let slot = |region: u32, chunk: u64| {
            let key = [&[7; 12][..], &region.to_be_bytes(), &chunk.to_be_bytes()].concat();
            Slot::of_record(&RecordId { kind: CHUNK_KIND, key })
        };
        assert!((0..64).all(|chunk| slot(3, chunk) == slot(3, 0)));
        let slots: std::collections::BTreeSet<_> = (0..64).map(|region| slot(region, 0)).collect();
        assert!(slots.len() > 50, "{slots:?}");
        let other = RecordId { kind: CHUNK_KIND + 1, key: vec![7; 24] };
        assert_ne!(Slot::of_record(&other), Slot::of_record_key(other.kind, &other.key[..16]));
    }

    #[test]
    fn what_belongs_to_an_entity_is_in_its_slot() {
        let key = Key(5 << 64 | 9);
        assert_eq!(Slot::of(key), Slot::of(Key(key.0 | 0xabcd << 96)));
    }
}
