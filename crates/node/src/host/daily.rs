//! The day changes: the daily hook of all entities, and clocks that are set.

use std::rc::Rc;
use std::time::Duration;

use env::{Calendar, Instant, WallTime};

use super::hub::Hub;
use super::timers::Plan;
use crate::entity::Hook;

/// Places of entities that one turn tells of the new day, so that it is not felt.
const PLACES_PER_TURN: u32 = 4_096;

/// A clock that moves by more than this against the other was set.
const SET_MS: u64 = 1_000;

/// How often an idle worker looks whether the wall clock was set.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// When the day of the game changes.
pub(super) struct Daily {
    plan: Option<Plan>,
    /// Whether any kind here wants to know.
    wanted: bool,
    /// Who is told next: shard and place.
    cursor: Option<(usize, u32)>,
    /// Wall time minus worker time.
    skew: u64,
}

impl Daily {
    pub fn new(calendar: Calendar, hub: &Hub) -> Self {
        let (now, wall) = (hub.now.get(), hub.wall.get());
        let next = calendar.next_after(wall);
        Daily {
            plan: next.map(|next| Plan { calendar, next }),
            wanted: false,
            cursor: None,
            skew: skew(now, wall),
        }
    }

    /// A kind with the hook is here.
    pub fn want(&mut self) {
        self.wanted = true;
    }

    /// Does what is due. The hub's times are this turn's.
    pub fn handle_time(&mut self, hub: &Rc<Hub>) {
        let (now, wall) = (hub.now.get(), hub.wall.get());
        let skew = skew(now, wall);
        let moved = skew.wrapping_sub(self.skew) as i64;
        if moved.unsigned_abs() > SET_MS {
            self.skew = skew;
            if let Some(plan) = &mut self.plan {
                plan.clock_was_set(wall);
            }
            if hub.calendars.get() > 0 {
                hub.all_shards().iter().for_each(|shard| shard.replan());
            }
        }
        if let Some(plan) = &mut self.plan
            && plan.next <= wall
        {
            match plan.calendar.next_after(wall) {
                Some(next) => plan.next = next,
                None => self.plan = None,
            }
            self.cursor = self.wanted.then_some((0, 0));
        }
        if let Some(cursor) = self.cursor.take() {
            self.cursor = tell(hub, cursor);
        }
    }

    /// When it has something to do.
    pub fn poll_timeout(&self, hub: &Hub) -> Option<Instant> {
        if self.cursor.is_some() {
            return Some(hub.now.get());
        }
        if !self.wanted && hub.calendars.get() == 0 {
            return None;
        }
        let (now, wall) = (hub.now.get(), hub.wall.get());
        let look = now + LOOK_EVERY;
        let plan = self.plan.as_ref().filter(|_| self.wanted);
        Some(plan.map_or(look, |plan| plan.due(now, wall).min(look)))
    }
}

fn tell(hub: &Rc<Hub>, (mut shard, mut first): (usize, u32)) -> Option<(usize, u32)> {
    while let Some(told) = hub.shard_at(shard) {
        if let Some(next) = told.hook_some(&Hook::Daily, first, PLACES_PER_TURN) {
            return Some((shard, next));
        }
        (shard, first) = (shard + 1, 0);
    }
    None
}

fn skew(now: Instant, wall: WallTime) -> u64 {
    wall.0.wrapping_sub(now.as_millis())
}
