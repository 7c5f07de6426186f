use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::WallTime;

/// Makes 64-bit ids that sort by time, without asking anybody.
///
/// From the highest bit: 0, 41 bits of milliseconds since 2024-01-01 (good until 2093), 10 bits
/// of node number, 12 bits of sequence. So an id is also a positive `i64`.
///
/// The (millisecond, sequence) pair only ever grows: when the wall clock steps back or the 4,096
/// ids of a millisecond are used up, the maker borrows from the milliseconds to come. A process
/// that starts again under the same node number must therefore be told where its predecessor
/// ended ([`IdMaker::resume`]), or be given another number (a leased one).
///
/// Any number of threads may share one maker.
#[derive(Debug)]
pub struct IdMaker {
    node: u64,
    /// Milliseconds since the epoch above the sequence, of the last id made.
    last: AtomicU64,
}

const SEQUENCE_BITS: u32 = 12;
const NODE_BITS: u32 = 10;
const TIME_BITS: u32 = 41;

impl IdMaker {
    /// Node numbers are below this.
    pub const NODES_MAX: u16 = 1 << NODE_BITS;

    /// Zero of the ids' time: 2024-01-01T00:00:00Z.
    pub const EPOCH: WallTime = WallTime(1_704_067_200_000);

    /// A maker for `node`, a number that no other maker has at the same time.
    ///
    /// # Panics
    /// If `node` is not below [`IdMaker::NODES_MAX`].
    pub fn new(node: u16) -> Self {
        assert!(node < Self::NODES_MAX, "node numbers are below {}", Self::NODES_MAX);
        IdMaker { node: u64::from(node), last: AtomicU64::new(0) }
    }

    /// As [`IdMaker::new`], but every id will be greater than those of a predecessor with the
    /// same node number whose [`IdMaker::watermark`] was `watermark`.
    ///
    /// # Panics
    /// If `node` is not below [`IdMaker::NODES_MAX`].
    pub fn resume(node: u16, watermark: WallTime) -> Self {
        let maker = Self::new(node);
        let millis = watermark.0.saturating_sub(Self::EPOCH.0).min((1 << TIME_BITS) - 1);
        maker.last.store((millis + 1) << SEQUENCE_BITS, Ordering::Relaxed);
        maker
    }

    /// A new id. Greater than every id that this maker made before.
    ///
    /// # Panics
    /// In the year 2093, when 41 bits of milliseconds are used up.
    pub fn make(&self, wall: WallTime) -> u64 {
        let millis = wall.0.saturating_sub(Self::EPOCH.0);
        assert!(millis >> TIME_BITS == 0, "the time of ids ends in 2093");
        let earliest = millis << SEQUENCE_BITS;
        let before = self
            .last
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(earliest.max(last + 1)))
            .expect("the update never declines");
        let made = earliest.max(before + 1);
        assert!(made >> (TIME_BITS + SEQUENCE_BITS) == 0, "the time of ids is used up");
        let (millis, sequence) = (made >> SEQUENCE_BITS, made & ((1 << SEQUENCE_BITS) - 1));
        millis << (NODE_BITS + SEQUENCE_BITS) | self.node << SEQUENCE_BITS | sequence
    }

    /// The millisecond of the last id, possibly borrowed from the future. To be stored by whoever
    /// may use the same node number again.
    pub fn watermark(&self) -> WallTime {
        WallTime(Self::EPOCH.0 + (self.last.load(Ordering::Relaxed) >> SEQUENCE_BITS))
    }

    /// How far the maker has run ahead of the clock: zero, unless the clock stepped back or more
    /// than 4 million ids a second are asked for.
    pub fn borrowed(&self, wall: WallTime) -> Duration {
        Duration::from_millis(self.watermark().0.saturating_sub(wall.0.max(Self::EPOCH.0)))
    }

    /// When `id` was made, exact unless the maker had borrowed.
    pub fn time_of(id: u64) -> WallTime {
        WallTime(Self::EPOCH.0 + (id >> (NODE_BITS + SEQUENCE_BITS)))
    }

    /// Which node made `id`.
    pub fn node_of(id: u64) -> u16 {
        ((id >> SEQUENCE_BITS) & ((1 << NODE_BITS) - 1)) as u16
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const NOW: WallTime = WallTime(IdMaker::EPOCH.0 + 123_456_789);

    #[test]
    fn ids_carry_time_and_node_and_sort() {
        let maker = IdMaker::new(1_023);
        let first = maker.make(NOW);
        let second = maker.make(NOW);
        let third = maker.make(WallTime(NOW.0 + 1));
        assert!(first < second && second < third && third < 1 << 63);
        assert_eq!(IdMaker::time_of(first), NOW);
        assert_eq!(IdMaker::node_of(first), 1_023);
        let elsewhere = IdMaker::new(0).make(WallTime(NOW.0 + 1));
        assert!(second < elsewhere && elsewhere < third);
    }

    /// The old counter ran over into the time field after 9,999 ids and repeated itself.
    #[test]
    fn exhausting_a_millisecond_borrows_and_never_repeats() {
        let maker = IdMaker::new(3);
        let ids: BTreeSet<u64> = (0..50_000).map(|_| maker.make(NOW)).collect();
        assert_eq!(ids.len(), 50_000);
        assert!(ids.iter().all(|id| IdMaker::node_of(*id) == 3));
        assert_eq!(maker.borrowed(NOW), Duration::from_millis(50_000 / 4_096));
        assert_eq!(maker.borrowed(WallTime(NOW.0 + 60_000)), Duration::ZERO);
    }

    #[test]
    fn a_clock_stepping_back_never_repeats() {
        let maker = IdMaker::new(3);
        let mut last = 0;
        for step in [0, 5, 3, 3, 0, 1, 6] {
            for _ in 0..5_000 {
                let id = maker.make(WallTime(NOW.0 + step));
                assert!(id > last);
                last = id;
            }
        }
        assert!(maker.make(WallTime(0)) > last, "even before the epoch");
    }

    #[test]
    fn a_successor_starts_above_its_predecessor() {
        let maker = IdMaker::new(3);
        let last = (0..10_000).map(|_| maker.make(NOW)).last().expect("made some");
        let next = IdMaker::resume(3, maker.watermark());
        assert!(next.make(WallTime(NOW.0 - 86_400_000)) > last);
    }

    #[test]
    fn threads_share_one_maker() {
        let maker = IdMaker::new(7);
        let ids = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..20_000).map(|_| maker.make(NOW)).collect::<Vec<_>>()))
                .collect();
            threads.into_iter().flat_map(|t| t.join().expect("no panic")).collect::<BTreeSet<_>>()
        });
        assert_eq!(ids.len(), 80_000);
    }
}
