use std::collections::BTreeMap;

use proto::{Reader, WireError};

use crate::{Layout, ReplicaId};

/// A packet that does not fit the layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("replication packet is not readable: {0}")]
pub struct PacketError(#[from] WireError);

/// The client's side: what it was told so far.
#[derive(Clone, Debug)]
pub struct Mirror {
    layout: Layout,
    replicas: BTreeMap<ReplicaId, Replica>,
    step: u64,
    epoch: u64,
}

/// One replica as a client knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Components in the layout's order; those never told are zero.
    pub bytes: [u8; Layout::BYTES_MAX],
    /// Step of the last packet that told of it.
    pub told_at: u64,
}

impl Mirror {
    /// Knows nothing yet.
    pub fn new(layout: Layout) -> Self {
        Mirror { layout, replicas: BTreeMap::new(), step: 0, epoch: 0 }
    }

    /// Step of the newest packet; what the client acknowledges.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// What is known, by id.
    pub fn replicas(&self) -> &BTreeMap<ReplicaId, Replica> {
        &self.replicas
    }

    /// Component `at` of a replica.
    pub fn component(&self, id: ReplicaId, at: usize) -> Option<&[u8]> {
        self.replicas.get(&id).map(|replica| &replica.bytes[self.layout.range(at)])
    }

    /// Takes a packet in. Older packets than the newest change nothing.
    pub fn apply(&mut self, packet: &[u8]) -> Result<(), PacketError> {
        let mut reader = Reader::new(packet);
        let epoch = reader.varint()?;
        let step = reader.varint()?;
        if step <= self.step {
            return Ok(());
        }
        if epoch != self.epoch {
            self.replicas.clear();
            self.epoch = epoch;
        }
        let removed = reader.varint()?;
        let mut id = 0u32;
        for _ in 0..removed {
            id = next_id(id, &mut reader)?;
            self.replicas.remove(&ReplicaId(id));
        }
        id = 0;
        while !reader.rest().is_empty() {
            id = next_id(id, &mut reader)?;
            let mask = reader.byte()?;
            let new = Replica { bytes: [0; Layout::BYTES_MAX], told_at: step };
            let replica = self.replicas.entry(ReplicaId(id)).or_insert(new);
            replica.told_at = step;
            for at in (0..8).filter(|at| mask & (1 << at) != 0) {
                let range = self.layout.range(at);
                let bytes = reader.bytes(range.len())?;
                replica.bytes[range].copy_from_slice(bytes);
            }
        }
        self.step = step;
        Ok(())
    }
}

fn next_id(before: u32, reader: &mut Reader<'_>) -> Result<u32, PacketError> {
    before.checked_add(reader.varint_u32()?).ok_or(PacketError(WireError::Range))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Board, Viewer, ViewerOptions};
    use env::Random;

    fn layout() -> Layout {
        Layout::new(&[4, 1, 2]).unwrap()
    }

    /// Whatever is lost, delayed or cut by the budget: once packets get through, the mirror equals
    /// the board within the interest set.
    #[test]
    fn a_lossy_client_converges_to_the_newest_state() {
        for seed in 0..200 {
            let mut random = Random::from_seed(seed);
            let options = ViewerOptions {
                packet_bytes_max: 60,
                visible_max: 12,
                unacknowledged_max: 8,
                first_epoch: 0,
            };
            let (mut board, mut viewer) = (Board::new(layout()), Viewer::new(options));
            let mut mirror = Mirror::new(layout());
            let mut interest = Vec::new();
            for step in 1..200u64 {
                let calm = step > 120;
                if !calm {
                    change(&mut board, &mut random, step);
                    interest.clear();
                    for id in 0..20 {
                        if random.chance(3, 4) {
                            interest.push((ReplicaId(id), random.unit_f64() as f32));
                        }
                    }
                }
                viewer.look(&mut interest, step);
                let mut packet = Vec::new();
                viewer.write(&board, step, &mut packet);
                assert!(packet.len() <= 60 + 4 * 20, "budget");
                if calm || random.chance(2, 3) {
                    mirror.apply(&packet).unwrap();
                    if calm || random.chance(2, 3) {
                        viewer.acknowledge(mirror.step());
                    }
                }
            }
            let seen: Vec<_> = interest
                .iter()
                .map(|(id, _)| *id)
                .filter(|id| board.state(*id).is_some())
                .collect();
            let known: Vec<_> = mirror.replicas().keys().copied().collect();
            assert_eq!(known, seen, "seed {seed}");
            for id in known {
                let (have, want) = (&mirror.replicas()[&id].bytes, &board.state(id).unwrap().bytes);
                assert_eq!(have[..7], want[..7], "seed {seed} {id:?}");
            }
        }
    }

    fn change(board: &mut Board, random: &mut Random, step: u64) {
        for id in 0..20 {
            if random.chance(1, 10) {
                board.remove(ReplicaId(id));
            } else if random.chance(1, 2) {
                let value = (random.below(5) as u32).to_le_bytes();
                board.set(ReplicaId(id), 0, &value, step);
                board.set(ReplicaId(id), 1, &value[..1], step);
                board.set(ReplicaId(id), 2, &value[..2], step);
            }
        }
    }

    #[test]
    fn hostile_packets_are_errors_at_every_cut() {
        let mut board = Board::new(layout());
        board.set(ReplicaId(3), 0, &[1, 2, 3, 4], 1);
        board.set(ReplicaId(900), 1, &[7], 1);
        let mut viewer = Viewer::new(ViewerOptions::default());
        viewer.look(&mut vec![(ReplicaId(3), 0.0), (ReplicaId(900), 1.0)], 1);
        let mut packet = Vec::new();
        viewer.write(&board, 1, &mut packet);
        for end in 0..packet.len() {
            // A cut between two updates is a shorter packet; anything else must be an error.
            let _ = Mirror::new(layout()).apply(&packet[..end]);
        }
        assert!(Mirror::new(layout()).apply(&[0, 1, 0xff, 0xff, 0xff, 0xff, 0x0f]).is_err());
    }
}
