use std::borrow::Cow;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use env::{Calendar, Instant, WallTime};
use proto::link::Slot;

use crate::entity::Entity;
use crate::host::shard::Shard;
use crate::host::timers::{NewTimer, Plan};

/// Names one timer of one entity. Harmless when the timer is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimerId(pub(crate) Slot);

impl TimerId {
    /// Names no timer: what setting one gives when the worker has too many, or the entity ends.
    pub const NONE: TimerId = TimerId(Slot { index: u32::MAX, generation: 0 });
}

/// How often a timer calls back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    /// This often, the first included.
    Count(u32),
    /// Until it is cancelled.
    Forever,
}

impl From<u32> for Times {
    fn from(count: u32) -> Self {
        Times::Count(count)
    }
}

/// What becomes of the times of a calendar that passed while the entity was not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missed {
    /// They are skipped: the first callback is the next time to come.
    Skip,
    /// If any passed after `since` (when the entity last did it, as its game noted it down), the
    /// first callback comes at once, one for all of them.
    RunOnce {
        /// After this, up to now, is what was missed.
        since: WallTime,
    },
}

/// A timer about to be set: when, how often, under which key. The timer stub of the entity is
/// wrapped around it and names the callback.
pub struct Schedule<'c, E: Entity> {
    shard: &'c Rc<Shard<E>>,
    entity: u32,
    key: Option<Cow<'static, str>>,
    first: Instant,
    interval: Option<Duration>,
    times: Times,
    plan: Option<Box<Plan>>,
}

impl<'c, E: Entity> Schedule<'c, E> {
    pub(crate) fn new(
        shard: &'c Rc<Shard<E>>,
        entity: u32,
        first: Instant,
        interval: Option<Duration>,
        times: Times,
    ) -> Self {
        Schedule { shard, entity, key: None, first, interval, times, plan: None }
    }

    /// By the calendar, for ever.
    pub(crate) fn on(
        shard: &'c Rc<Shard<E>>,
        entity: u32,
        calendar: &Calendar,
        missed: Missed,
    ) -> Self {
        let (now, wall) = (shard.hub.now.get(), shard.hub.wall.get());
        let next = match missed {
            Missed::RunOnce { since } if calendar.missed(since, wall) => Some(wall),
            _ => calendar.next_after(wall),
        };
        let plan = next.map(|next| Box::new(Plan { calendar: calendar.clone(), next }));
        let first = plan.as_ref().map_or(now, |plan| plan.due(now, wall));
        // After the end of all calendars there is no callback.
        let times = if plan.is_some() { Times::Forever } else { Times::Count(0) };
        Schedule { shard, entity, key: None, first, interval: None, times, plan }
    }

    /// Puts the timer under a key. A key may have many timers; cancelling it cancels them all.
    #[must_use]
    pub fn key(mut self, key: impl Into<Cow<'static, str>>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Sets the timer. `make` makes the message of each callback.
    pub fn start(self, make: impl Fn() -> E::Message + 'static) -> TimerId {
        let times = match self.times {
            Times::Count(count) => Some(count),
            Times::Forever => None,
        };
        let slot = self.shard.set_timer(
            self.entity,
            NewTimer {
                key: self.key,
                first: self.first,
                interval: self.interval,
                times,
                calendar: self.plan,
                make: Box::new(make),
            },
        );
        slot.map_or(TimerId::NONE, TimerId)
    }
}

impl<E: Entity> fmt::Debug for Schedule<'_, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schedule")
            .field("key", &self.key)
            .field("first", &self.first)
            .field("interval", &self.interval)
            .field("times", &self.times)
            .finish_non_exhaustive()
    }
}
