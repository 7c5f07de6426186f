//! Moving slots, for a tool that waits.

use std::time::Duration;

use super::mover::{MoveCounts, MoveEnd, Side, SlotMove};
use super::{Sharded, describe};
use crate::error::Error;
use crate::slots::{ShardInfo, Slot};

/// The pause before a step that could not be done is asked for again.
const PAUSE: Duration = Duration::from_millis(50);

impl Sharded {
    /// What each shard says of itself, asked one after the other.
    pub fn describe(&self) -> Result<Vec<(String, ShardInfo)>, Error> {
        let each = self.members().iter();
        each.map(|(name, store)| Ok((name.clone(), describe(store).wait()?))).collect()
    }

    /// Moves slots that are all in one shard. Blocks.
    pub fn move_slots(
        &self,
        slots: Vec<Slot>,
        (from, to): (usize, usize),
        token: u64,
        at_ms: u64,
        mut watch: impl FnMut(&SlotMove) -> bool,
    ) -> (MoveEnd, MoveCounts) {
        let [source, target] = [from, to].map(|at| &self.members()[at]);
        let mut job = SlotMove::new(slots, &source.0, &target.0, token, at_ms);
        while let Some((side, ask)) = job.poll_ask() {
            if !watch(&job) {
                break;
            }
            let store = if side == Side::From { &source.1 } else { &target.1 };
            let told = store.slots(ask).wait();
            let waits =
                matches!(told, Err(Error::Busy | Error::Unavailable(_) | Error::Unknown(_)));
            job.handle(told);
            if waits {
                std::thread::sleep(PAUSE);
            }
        }
        if let Ok(infos) = self.describe() {
            let mut map = self.map();
            infos.iter().enumerate().for_each(|(at, (_, info))| map.learn_shard(at, info));
        }
        let stopped = MoveEnd::GivenUp(Error::Stopped("it was told to stop".to_owned()));
        (job.end().cloned().unwrap_or(stopped), job.counts().clone())
    }
}
