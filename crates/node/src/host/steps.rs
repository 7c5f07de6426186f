//! Scenes' steps: when each is due, to the clock's resolution, and what they cost.
//!
//! Not on the timing wheel: its ticks are too coarse for scenes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use env::Instant;
use proto::EntityId;
use scene::{Stepper, StepperOptions, Steps};

use super::Target;

/// One scene and what its steps cost so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SceneStats {
    /// Name of its kind.
    pub kind: &'static str,
    /// Which one.
    pub id: EntityId,
    /// Its rate.
    pub steps_per_second: u16,
    /// Steps run.
    pub steps: u64,
    /// Steps dropped after stalls.
    pub skipped: u64,
    /// Steps that began more than one step late.
    pub late: u64,
    /// The latest that a step began.
    pub late_worst: Duration,
    /// What a step takes, as a moving mean.
    pub took_mean: Duration,
    /// The longest step.
    pub took_worst: Duration,
}

/// Names a scene within a worker: its shard and place there.
type Place = (u16, u32);

#[derive(Debug, Default)]
pub(crate) struct Scenes {
    scenes: BTreeMap<Place, Scene>,
    due: BTreeSet<(Instant, Place)>,
    /// The latest that a step began since that was last asked for.
    lag: Duration,
}

#[derive(Debug)]
struct Scene {
    target: Target,
    stepper: Stepper,
    due: Instant,
    /// A step is in the mailbox and has not run yet.
    pending: bool,
    stats: SceneStats,
}

impl Scenes {
    pub fn add(
        &mut self,
        now: Instant,
        target: Target,
        (kind, id): (&'static str, EntityId),
        rate: u16,
    ) {
        let options =
            StepperOptions { steps_per_second: u32::from(rate), ..StepperOptions::default() };
        let stepper = Stepper::new(options, now);
        let stats = SceneStats {
            kind,
            id,
            steps_per_second: rate,
            steps: 0,
            skipped: 0,
            late: 0,
            late_worst: Duration::ZERO,
            took_mean: Duration::ZERO,
            took_worst: Duration::ZERO,
        };
        let (place, due) = ((target.shard, target.index), stepper.poll_timeout());
        self.remove(place);
        self.due.insert((due, place));
        self.scenes.insert(place, Scene { target, stepper, due, pending: false, stats });
    }

    pub fn remove(&mut self, place: Place) {
        if let Some(scene) = self.scenes.remove(&place) {
            self.due.remove(&(scene.due, place));
        }
    }

    pub fn next(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// The next scene whose steps are due, and which.
    pub fn pop(&mut self, now: Instant) -> Option<(Target, Steps)> {
        loop {
            let (at, place) = *self.due.first()?;
            if at > now {
                return None;
            }
            self.due.pop_first();
            let scene = self.scenes.get_mut(&place).expect("listed while it is due");
            if scene.pending {
                // Still at the last one: what it misses it makes up or skips when it is done.
                scene.due = now + scene.stepper.period();
                self.due.insert((scene.due, place));
                continue;
            }
            let steps = scene.stepper.handle_timeout(now);
            scene.due = scene.stepper.poll_timeout();
            self.due.insert((scene.due, place));
            let Some(steps) = steps else { continue };
            scene.pending = true;
            scene.stats.skipped += steps.skipped;
            return Some((scene.target, steps));
        }
    }

    /// A step is about to run, or was dropped.
    pub fn ran(&mut self, place: Place, now: Instant, steps: Steps, took: Duration) {
        let Some(scene) = self.scenes.get_mut(&place) else { return };
        scene.pending = false;
        let stats = &mut scene.stats;
        stats.steps += u64::from(steps.count);
        // Late by when it was due, and by how long it waited in the mailbox.
        let late = now - scene.stepper.at(steps.first);
        stats.late_worst = stats.late_worst.max(late);
        self.lag = self.lag.max(late);
        stats.late += u64::from(late > scene.stepper.period());
        stats.took_worst = stats.took_worst.max(took);
        stats.took_mean =
            if stats.took_mean.is_zero() { took } else { (stats.took_mean * 31 + took) / 32 };
    }

    pub fn take_lag(&mut self) -> Duration {
        std::mem::take(&mut self.lag)
    }

    pub fn stats(&self) -> Vec<SceneStats> {
        self.scenes.values().map(|scene| scene.stats.clone()).collect()
    }
}
