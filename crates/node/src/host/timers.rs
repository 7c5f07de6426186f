//! Timers of entities: 1:N keys, repeats without drift, callbacks as ordinary messages.

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use env::{Calendar, Instant, TimerKey, WallTime};
use proto::link::Slot;
use proto::{Reader, WireError, put_blob, put_varint};

use super::event::Event;
use super::hub::{Alarm, bump, drop_quietly};
use super::mail::{Body, Mail, NONE, Origin, Sender};
use super::shard::{CLOSING, QUARANTINED, Shard};
use super::watch::method_path;
use crate::entity::Entity;
use crate::error::Fault;
use proto::frame::Status;

/// Most callbacks that a timer catches up on after a stall; older ones are skipped, in phase.
const OWED_MAX: u32 = 16;

/// A timer to be set.
pub(crate) struct NewTimer<E: Entity> {
    pub key: Option<Cow<'static, str>>,
    pub first: Instant,
    /// `None` for a single callback.
    pub interval: Option<Duration>,
    /// Callbacks in all; `None` for ever.
    pub times: Option<u32>,
    /// When it calls back by the calendar, and the first such time.
    pub calendar: Option<Box<Plan>>,
    pub make: Box<dyn Fn() -> E::Message>,
}

/// When a timer calls back by the calendar.
pub(crate) struct Plan {
    pub calendar: Calendar,
    /// The next time, as the wall will show it.
    pub next: WallTime,
}

impl Plan {
    /// When to look, as far as is known now.
    pub fn due(&self, now: Instant, wall: WallTime) -> Instant {
        now + Duration::from_millis(self.next.0.saturating_sub(wall.0))
    }

    /// The wall clock was set. What is planned stays, so that nothing happens twice, unless it has
    /// become nonsense because the clock went back by days.
    pub fn clock_was_set(&mut self, wall: WallTime) {
        if let Some(fresh) = self.calendar.next_after(wall)
            && self.next.0.saturating_sub(fresh.0) > NONSENSE_MS
        {
            self.next = fresh;
        }
    }
}

/// How far a clock that goes back may move a plan into the future.
const NONSENSE_MS: u64 = 2 * 24 * 3_600 * 1_000;

struct Timer<E: Entity> {
    entity: u32,
    key: Option<Cow<'static, str>>,
    /// When the next callback is due.
    due: Instant,
    interval: Option<Duration>,
    /// Callbacks that are still to come due; `None` for ever.
    left: Option<u32>,
    calendar: Option<Box<Plan>>,
    make: Box<dyn Fn() -> E::Message>,
    alarm: Option<TimerKey>,
    /// Whether a callback lies in the mailbox or runs.
    queued: bool,
    /// Callbacks that came due meanwhile.
    owed: u32,
    cancelled: bool,
    /// The entity's timers around it.
    next: u32,
    prev: u32,
}

/// A timer that came along with an entity from another node.
pub(crate) struct MovedTimer<E: Entity> {
    key: Option<Cow<'static, str>>,
    /// Until the next callback; `None` if only those that are queued are left.
    wait: Option<Duration>,
    interval: Option<Duration>,
    left: Option<u32>,
    calendar: Option<Box<Plan>>,
    queued: bool,
    owed: u32,
    make: Box<dyn Fn() -> E::Message>,
}

/// What is packed of a timer beside its message.
mod has {
    pub const KEY: u8 = 1;
    pub const ALARM: u8 = 2;
    pub const INTERVAL: u8 = 4;
    pub const LEFT: u8 = 8;
    pub const CALENDAR: u8 = 16;
    pub const QUEUED: u8 = 32;
}

/// The longest key of a timer, and its longest arguments.
const KEY_BYTES_MAX: usize = 4_096;
const ARGUMENT_BYTES_MAX: usize = 1 << 20;

impl<E: Entity> Timer<E> {
    /// The message of one callback, for its entity. Cloning its arguments is game code, so it may
    /// panic.
    fn made(&self) -> (Option<E::Message>, u32) {
        (catch_unwind(AssertUnwindSafe(|| (self.make)())).ok(), self.entity)
    }
}

struct TimerSlot<E: Entity> {
    generation: u32,
    timer: Option<Timer<E>>,
}

/// The timers of a shard.
pub(crate) struct TimerTable<E: Entity> {
    slots: Vec<TimerSlot<E>>,
    free: Vec<u32>,
    len: u32,
}

impl<E: Entity> TimerTable<E> {
    pub fn new() -> Self {
        TimerTable { slots: Vec::new(), free: Vec::new(), len: 0 }
    }

    pub fn len(&self) -> u32 {
        self.len
    }

    fn insert(&mut self, timer: Timer<E>) -> Slot {
        self.len += 1;
        if let Some(index) = self.free.pop() {
            let slot = &mut self.slots[index as usize];
            slot.timer = Some(timer);
            return Slot { index, generation: slot.generation };
        }
        let index = self.slots.len() as u32;
        self.slots.push(TimerSlot { generation: 0, timer: Some(timer) });
        Slot { index, generation: 0 }
    }

    fn get_mut(&mut self, slot: Slot) -> Option<&mut Timer<E>> {
        let found = self.slots.get_mut(slot.index as usize)?;
        if found.generation == slot.generation { found.timer.as_mut() } else { None }
    }

    fn at(&self, index: u32) -> Option<(Slot, &Timer<E>)> {
        let slot = self.slots.get(index as usize)?;
        let timer = slot.timer.as_ref()?;
        Some((Slot { index, generation: slot.generation }, timer))
    }

    fn remove(&mut self, slot: Slot) -> Option<Timer<E>> {
        let found = self.slots.get_mut(slot.index as usize)?;
        if found.generation != slot.generation {
            return None;
        }
        let timer = found.timer.take()?;
        found.generation = found.generation.wrapping_add(1);
        self.free.push(slot.index);
        self.len -= 1;
        Some(timer)
    }
}

impl<E: Entity> Shard<E> {
    /// Sets a timer of an entity. `None` if the worker has too many, or the entity is ending.
    pub fn set_timer(&self, entity: u32, new: NewTimer<E>) -> Option<Slot> {
        let hub = &*self.hub;
        if hub.timers.get() >= hub.options.timers_max {
            tracing::error!(kind = E::KIND.name, "the worker has {} timers", hub.timers.get());
            return None;
        }
        let mut cells = self.cells.borrow_mut();
        let owner = cells.get_mut(entity)?;
        if owner.flags & CLOSING != 0 {
            return None;
        }
        let NewTimer { key, first, interval, times, calendar, make } = new;
        if times == Some(0) {
            return None;
        }
        hub.timers.set(hub.timers.get() + 1);
        hub.calendars.set(hub.calendars.get() + u32::from(calendar.is_some()));
        let slot = self.timers.borrow_mut().insert(Timer {
            entity,
            key,
            due: first,
            interval,
            left: if interval.is_some() || calendar.is_some() { times } else { Some(1) },
            calendar,
            make,
            alarm: None,
            queued: false,
            owed: 0,
            cancelled: false,
            next: owner.timers,
            prev: NONE,
        });
        self.timers.borrow_mut().set_prev(owner.timers, slot.index);
        owner.timers = slot.index;
        let alarm = Alarm::Timer { shard: self.index, timer: slot };
        let key = hub.alarms.borrow_mut().insert(first, alarm);
        if let Some(timer) = self.timers.borrow_mut().get_mut(slot) {
            timer.alarm = Some(key);
        }
        Some(slot)
    }

    /// Appends a timer of an entity that moves.
    pub fn pack_timer(&self, slot: Slot, out: &mut Vec<u8>) {
        let now = self.hub.now.get();
        let mut timers = self.timers.borrow_mut();
        let Some(timer) = timers.get_mut(slot) else { return };
        let flag = |is: bool, bit: u8| if is { bit } else { 0 };
        out.push(
            flag(timer.key.is_some(), has::KEY)
                | flag(timer.alarm.is_some(), has::ALARM)
                | flag(timer.interval.is_some(), has::INTERVAL)
                | flag(timer.left.is_some(), has::LEFT)
                | flag(timer.calendar.is_some(), has::CALENDAR)
                | flag(timer.queued, has::QUEUED),
        );
        if let Some(key) = &timer.key {
            put_blob(out, key.as_bytes());
        }
        if timer.alarm.is_some() {
            put_varint(out, (timer.due - now).as_nanos() as u64);
        }
        if let Some(interval) = timer.interval {
            put_varint(out, interval.as_nanos() as u64);
        }
        if let Some(left) = timer.left {
            put_varint(out, u64::from(left));
        }
        if let Some(plan) = &timer.calendar {
            put_blob(out, plan.calendar.text().as_bytes());
            put_varint(out, plan.next.0);
        }
        put_varint(out, u64::from(timer.owed));
        // One whose arguments cannot be cloned is packed as one that is not known there.
        let (message, _) = timer.made();
        let mut body = Vec::new();
        let method = message.as_ref().and_then(|message| {
            E::encode_message(message, &mut body);
            E::KIND.methods.get(E::method(message))
        });
        out.extend_from_slice(&method.map_or(0, |info| info.id.0).to_le_bytes());
        put_blob(out, &body);
    }

    /// Reads what [`pack_timer`](Self::pack_timer) wrote. One whose message cannot be read never
    /// calls back.
    pub fn read_timer(&self, r: &mut Reader<'_>) -> Result<MovedTimer<E>, WireError> {
        let flags = r.byte()?;
        let key = match flags & has::KEY {
            0 => None,
            _ => Some(Cow::Owned(r.text(KEY_BYTES_MAX)?.to_owned())),
        };
        let mut number = |bit: u8| match flags & bit {
            0 => Ok(None),
            _ => r.varint().map(Some),
        };
        let wait = number(has::ALARM)?.map(Duration::from_nanos);
        let interval = number(has::INTERVAL)?.map(Duration::from_nanos);
        let left = number(has::LEFT)?.map(|left| u32::try_from(left).unwrap_or(u32::MAX));
        let calendar = match flags & has::CALENDAR {
            0 => None,
            _ => {
                let text = r.text(KEY_BYTES_MAX)?;
                let calendar = Calendar::from_text(text).map_err(|_| WireError::Range)?;
                Some(Box::new(Plan { calendar, next: WallTime(r.varint()?) }))
            }
        };
        let owed = r.varint_u32()?.min(OWED_MAX);
        let id = r.u32()?;
        let body = r.blob(ARGUMENT_BYTES_MAX)?.to_vec();
        let method = E::KIND.methods.iter().position(|info| info.id.0 == id);
        let readable = method.filter(|at| E::decode_message(*at, &body).is_ok());
        let queued = flags & has::QUEUED != 0;
        let wait = wait.filter(|_| readable.is_some());
        let method = readable.unwrap_or(usize::MAX);
        let make = Box::new(move || match E::decode_message(method, &body) {
            Ok(message) => message,
            Err(error) => panic!("a timer's message was readable before: {error}"),
        });
        Ok(MovedTimer { key, wait, interval, left, calendar, queued, owed, make })
    }

    /// Sets a timer as it was on another node. `None` if there is nothing left of it.
    pub fn restore_timer(&self, entity: u32, moved: MovedTimer<E>) -> Option<Slot> {
        let MovedTimer { key, wait, interval, left, calendar, queued, owed, make } = moved;
        if wait.is_none() && !queued {
            return None;
        }
        let (now, wall) = (self.hub.now.get(), self.hub.wall.get());
        let first = match (&calendar, wait) {
            (Some(plan), Some(_)) => plan.due(now, wall),
            (_, wait) => now + wait.unwrap_or_default(),
        };
        let new = NewTimer { key, first, interval, times: None, calendar, make };
        let slot = self.set_timer(entity, new)?;
        let mut timers = self.timers.borrow_mut();
        let timer = timers.get_mut(slot)?;
        (timer.left, timer.queued, timer.owed) = (left, queued, owed);
        if wait.is_none()
            && let Some(alarm) = timer.alarm.take()
        {
            self.hub.alarms.borrow_mut().cancel(alarm);
        }
        Some(slot)
    }

    /// A callback of the timer is due.
    pub fn timer_due(self: &Rc<Self>, slot: Slot) {
        let now = self.hub.now.get();
        let made = {
            let mut timers = self.timers.borrow_mut();
            let Some(timer) = timers.get_mut(slot) else { return };
            timer.alarm = None;
            if let Some(plan) = &timer.calendar
                && plan.next > self.hub.wall.get()
            {
                // The clock was set back meanwhile.
                timer.due = plan.due(now, self.hub.wall.get());
                let alarm = Alarm::Timer { shard: self.index, timer: slot };
                timer.alarm = Some(self.hub.alarms.borrow_mut().insert(timer.due, alarm));
                return;
            }
            if let Some(left) = &mut timer.left {
                *left -= 1;
            }
            if timer.left != Some(0) && timer.calendar.is_some() {
                self.plan_next(timer, slot);
            } else if timer.left != Some(0) {
                let interval = timer.interval.unwrap_or_default();
                timer.due += interval;
                // After a long stall the oldest callbacks are skipped, the phase is kept.
                let late = (now - timer.due).as_nanos();
                let behind = late.checked_div(interval.as_nanos()).unwrap_or(0);
                let skip = behind.saturating_sub(u128::from(OWED_MAX));
                if skip > 0 {
                    let skip = u64::try_from(skip).unwrap_or(u64::MAX);
                    let nanos = (interval.as_nanos() as u64).saturating_mul(skip);
                    timer.due += Duration::from_nanos(nanos);
                    if let Some(left) = &mut timer.left {
                        *left = u64::from(*left).saturating_sub(skip).max(1) as u32;
                    }
                    bump(&self.hub.count.timer_overruns);
                }
                let alarm = Alarm::Timer { shard: self.index, timer: slot };
                timer.alarm = Some(self.hub.alarms.borrow_mut().insert(timer.due, alarm));
            }
            if timer.queued {
                timer.owed = (timer.owed + 1).min(OWED_MAX);
                return;
            }
            timer.queued = true;
            timer.made()
        };
        self.mail_timer(slot, made);
    }

    /// Sets the alarm of a calendar timer for its next time. What the clock has passed meanwhile
    /// is one callback.
    fn plan_next(&self, timer: &mut Timer<E>, slot: Slot) {
        let Some(plan) = &mut timer.calendar else { return };
        let (now, wall) = (self.hub.now.get(), self.hub.wall.get());
        // At the end of all calendars it just stops.
        let Some(next) = plan.calendar.next_after(plan.next.max(wall)) else { return };
        plan.next = next;
        timer.due = plan.due(now, wall);
        let alarm = Alarm::Timer { shard: self.index, timer: slot };
        timer.alarm = Some(self.hub.alarms.borrow_mut().insert(timer.due, alarm));
    }

    /// The wall clock was set: calendar timers come due at another moment.
    pub fn replan(&self) {
        let (now, wall) = (self.hub.now.get(), self.hub.wall.get());
        let mut timers = self.timers.borrow_mut();
        let mut alarms = self.hub.alarms.borrow_mut();
        for (index, entry) in timers.slots.iter_mut().enumerate() {
            let slot = Slot { index: index as u32, generation: entry.generation };
            let Some(timer) = &mut entry.timer else { continue };
            let (Some(plan), Some(alarm)) = (&mut timer.calendar, timer.alarm) else { continue };
            plan.clock_was_set(wall);
            timer.due = plan.due(now, wall);
            alarms.cancel(alarm);
            let alarm = Alarm::Timer { shard: self.index, timer: slot };
            timer.alarm = Some(alarms.insert(timer.due, alarm));
        }
    }

    fn mail_timer(&self, slot: Slot, (message, entity): (Option<E::Message>, u32)) {
        let Some(message) = message else {
            self.timer_failed(slot, "its arguments cannot be cloned".to_owned());
            self.timer_over(slot);
            return;
        };
        let mut cells = self.cells.borrow_mut();
        let Some(owner) = cells.get_mut(entity) else { return };
        if owner.flags & QUARANTINED != 0 {
            drop(cells);
            self.timer_over(slot);
            return;
        }
        let method = E::method(&message) as u16;
        let mail = Mail {
            origin: Origin::Timer(slot),
            sender: Sender::OWN,
            method,
            body: Body::Message(message),
        };
        self.push(&mut cells, entity, mail);
    }

    /// A callback has ended: the timer goes on, or is over.
    pub fn timer_over(&self, slot: Slot) {
        let next = {
            let mut timers = self.timers.borrow_mut();
            let Some(timer) = timers.get_mut(slot) else { return };
            timer.queued = false;
            if timer.owed > 0 && !timer.cancelled {
                timer.owed -= 1;
                timer.queued = true;
                Some(timer.made())
            } else if timer.cancelled || timer.alarm.is_none() {
                None
            } else {
                return;
            }
        };
        match next {
            Some(made) => self.mail_timer(slot, made),
            None => self.free_timer(slot),
        }
    }

    /// A callback that answers has ended. Its own error is reported.
    pub fn timer_answered(&self, slot: Slot, result: Result<E::Reply, Fault>) {
        let text = match &result {
            Ok(reply) => {
                let mut body = Vec::new();
                let status = E::encode_reply(reply, &mut body);
                (status == Status::App).then(|| "it answered with its own error".to_owned())
            }
            Err(fault) => Some(format!("{:?}", fault.status())),
        };
        if let Some(text) = text {
            self.timer_failed(slot, text);
        }
        self.timer_over(slot);
    }

    /// Reports a callback that failed.
    pub fn timer_failed(&self, slot: Slot, text: String) {
        let found = self.timers.borrow_mut().get_mut(slot).map(|timer| timer.entity);
        let Some(entity) = found else { return };
        let method = method_path(E::KIND, self.hub.running.method.get());
        let id = self.id_of(entity);
        tracing::warn!(entity = %id, method, "a timer's callback failed: {text}");
        self.hub.event(Event::TimerFailed { id, method, text });
    }

    /// Cancels one timer. `false` if it is gone or cancelled already.
    pub fn cancel_timer(&self, slot: Slot) -> bool {
        let idle = {
            let mut timers = self.timers.borrow_mut();
            let Some(timer) = timers.get_mut(slot) else { return false };
            if timer.cancelled {
                return false;
            }
            timer.cancelled = true;
            timer.owed = 0;
            if let Some(alarm) = timer.alarm.take() {
                self.hub.alarms.borrow_mut().cancel(alarm);
            }
            !timer.queued
        };
        if idle {
            self.free_timer(slot);
        }
        true
    }

    /// Whether a callback that was mailed is still wanted.
    pub fn timer_wanted(&self, slot: Slot) -> bool {
        self.timers.borrow_mut().get_mut(slot).is_some_and(|timer| !timer.cancelled)
    }

    /// The timers of an entity that are not cancelled, with `key` or all.
    pub fn timers_of(&self, entity: u32, key: Option<&str>) -> Vec<Slot> {
        let timers = self.timers.borrow();
        let mut found = Vec::new();
        let mut next = self.cells.borrow().get(entity).map_or(NONE, |owner| owner.timers);
        while let Some((slot, timer)) = timers.at(next) {
            if !timer.cancelled && (key.is_none() || timer.key.as_deref() == key) {
                found.push(slot);
            }
            next = timer.next;
        }
        found
    }

    /// Whether the timer exists, is not cancelled, and belongs to the entity.
    pub fn has_timer(&self, entity: u32, slot: Slot) -> bool {
        let mut timers = self.timers.borrow_mut();
        timers.get_mut(slot).is_some_and(|timer| !timer.cancelled && timer.entity == entity)
    }

    /// Cancels all timers of an entity that ends.
    pub fn drop_timers(&self, entity: u32) {
        for slot in self.timers_of(entity, None) {
            self.cancel_timer(slot);
        }
        // Those whose callback is under way.
        let mut next = self.cells.borrow().get(entity).map_or(NONE, |owner| owner.timers);
        loop {
            let found = self.timers.borrow().at(next).map(|(slot, timer)| (slot, timer.next));
            let Some((slot, after)) = found else { break };
            next = after;
            self.free_timer(slot);
        }
    }

    fn free_timer(&self, slot: Slot) {
        let timer = {
            let mut timers = self.timers.borrow_mut();
            let Some(timer) = timers.remove(slot) else { return };
            let mut cells = self.cells.borrow_mut();
            if let Some(owner) = cells.get_mut(timer.entity) {
                timers.set_prev(timer.next, timer.prev);
                if owner.timers == slot.index {
                    owner.timers = timer.next;
                } else {
                    timers.set_next(timer.prev, timer.next);
                }
            }
            timer
        };
        self.hub.timers.set(self.hub.timers.get() - 1);
        let by_calendar = u32::from(timer.calendar.is_some());
        self.hub.calendars.set(self.hub.calendars.get() - by_calendar);
        if let Some(alarm) = timer.alarm {
            self.hub.alarms.borrow_mut().cancel(alarm);
        }
        drop_quietly(timer.make);
    }
}

impl<E: Entity> TimerTable<E> {
    fn set_prev(&mut self, index: u32, prev: u32) {
        if let Some(timer) = self.slots.get_mut(index as usize).and_then(|slot| slot.timer.as_mut())
        {
            timer.prev = prev;
        }
    }

    fn set_next(&mut self, index: u32, next: u32) {
        if let Some(timer) = self.slots.get_mut(index as usize).and_then(|slot| slot.timer.as_mut())
        {
            timer.next = next;
        }
    }
}
