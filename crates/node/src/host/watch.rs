//! How long handlers take, at the price of one clock reading for many of them.
//!
//! Messages are measured in slices of up to 64. A slice shorter than 10 µs tells exactly what the
//! histogram wants to know of each message in it, so nothing is noted down. A slice that took a
//! millisecond switches to one reading per message for a while, so that a handler that is slow
//! again is told from its neighbours. The driver's watchdog thread sees a handler that is stuck right now through
//! [`Pulse`].

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use env::{Clock, Instant};

use super::mail::HOOK;
use crate::entity::KindInfo;

const SLICE: usize = 64;
/// Messages measured one by one after a slice that took [`LONG`], and at the start.
const EXACT: u32 = 1_024;
const LONG: Duration = Duration::from_millis(1);

/// Upper ends of the histogram's buckets, in microseconds; the last bucket has none.
pub const BUCKETS_US: [u64; 12] =
    [10, 50, 100, 500, 1_000, 5_000, 10_000, 50_000, 100_000, 500_000, 1_000_000, 5_000_000];

/// What one method cost so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MethodStats {
    /// Messages handled.
    pub handled: u64,
    /// How many took less than each of [`BUCKETS_US`], and how many took longer than all.
    pub buckets: [u64; BUCKETS_US.len() + 1],
    /// How many were over the budget of a handler.
    pub slow: u64,
    /// The longest.
    pub worst: Duration,
    /// Messages refused before the handler: for who sent them, how fast, or their arguments.
    pub refused: u64,
}

/// A handler over its budget.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlowHandler {
    pub shard: u16,
    pub method: u16,
    pub entity: u32,
    pub took: Duration,
    pub shared: u32,
}

/// Which message of which entity: `entity << 32 | shard << 16 | method`, so that it is one word.
#[derive(Clone, Copy, Default)]
struct Entry(u64);

impl Entry {
    #[inline]
    fn new(shard: u16, method: u16, entity: u32) -> Self {
        Entry(u64::from(entity) << 32 | u64::from(shard) << 16 | u64::from(method))
    }

    fn shard(self) -> u16 {
        (self.0 >> 16) as u16
    }

    fn method(self) -> u16 {
        self.0 as u16
    }

    fn entity(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// What was being handled when something else began.
#[derive(Clone, Copy)]
pub(crate) struct Watched(u64, u64);

pub(crate) struct Watch {
    clock: Clock,
    slow: Duration,
    pulse: Arc<Pulse>,
    ring: [Cell<Entry>; SLICE],
    filled: Cell<usize>,
    /// How many messages make a slice now.
    slice: Cell<usize>,
    /// When the slice began; `NEVER` between turns of the worker.
    since: Cell<Instant>,
    /// Messages that are still measured one by one.
    exact: Cell<u32>,
    stats: RefCell<Vec<Vec<MethodStats>>>,
    found: RefCell<Vec<SlowHandler>>,
}

/// What a worker is doing now, for a watchdog on another thread.
#[derive(Debug, Default)]
pub struct Pulse {
    /// Rises with each slice of messages handled.
    count: AtomicU64,
    /// One more than the [`Entry`] that runs; 0 when idle.
    current: AtomicU64,
    key: AtomicU64,
    kinds: Mutex<Vec<&'static KindInfo>>,
}

/// A reading of a [`Pulse`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat {
    /// Rises with every few messages handled: equal twice while something runs means stuck.
    pub count: u64,
    /// Kind, method path and key of the entity that runs; `None` when idle.
    pub running: Option<(&'static str, String, u64)>,
}

impl Pulse {
    /// Reads it; from any thread.
    pub fn read(&self) -> Beat {
        let count = self.count.load(Ordering::Acquire);
        let current = self.current.load(Ordering::Acquire);
        if current == 0 {
            return Beat { count, running: None };
        }
        let entry = Entry(current - 1);
        let (shard, method) = (usize::from(entry.shard()), entry.method());
        let kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let running = kinds
            .get(shard)
            .map(|kind| (kind.name, method_path(kind, method), self.key.load(Ordering::Acquire)));
        Beat { count, running }
    }

    pub(crate) fn add_kind(&self, kind: &'static KindInfo) {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner).push(kind);
    }
}

/// The path of a method by its position.
pub(crate) fn method_path(kind: &KindInfo, method: u16) -> String {
    match kind.methods.get(usize::from(method)) {
        Some(info) => info.path(),
        None if method == HOOK => "hook".to_owned(),
        None => "?".to_owned(),
    }
}

impl Watch {
    pub fn new(clock: Clock, slow: Duration) -> Self {
        Watch {
            clock,
            slow,
            pulse: Arc::default(),
            ring: [const { Cell::new(Entry(0)) }; SLICE],
            filled: Cell::new(0),
            slice: Cell::new(1),
            since: Cell::new(Instant::NEVER),
            exact: Cell::new(EXACT),
            stats: RefCell::default(),
            found: RefCell::default(),
        }
    }

    /// The clock's time just now, apart from the worker's.
    pub fn now(&self) -> Instant {
        self.clock.now()
    }

    pub fn pulse(&self) -> &Arc<Pulse> {
        &self.pulse
    }

    /// The worker goes on.
    pub fn resume(&self) {
        if self.since.get() == Instant::NEVER {
            self.since.set(self.clock.now());
        }
    }

    /// A message is about to be handled.
    #[inline]
    pub fn begin(&self, shard: u16, method: u16, entity: u32, key: u64) {
        let filled = self.filled.get();
        let entry = Entry::new(shard, method, entity);
        self.ring[filled % SLICE].set(entry);
        self.filled.set(filled + 1);
        let pulse = &*self.pulse;
        pulse.key.store(key, Ordering::Relaxed);
        pulse.current.store(entry.0 + 1, Ordering::Release);
    }

    /// What is being handled, to come back to it.
    #[inline]
    pub fn current(&self) -> Watched {
        let pulse = &*self.pulse;
        Watched(pulse.current.load(Ordering::Relaxed), pulse.key.load(Ordering::Relaxed))
    }

    /// Goes on with what was being handled.
    #[inline]
    pub fn again(&self, watched: Watched) {
        let Watched(current, key) = watched;
        let entry = Entry(current.wrapping_sub(1));
        self.begin(entry.shard(), entry.method(), entry.entity(), key);
    }

    /// The message was handled.
    #[inline]
    pub fn end(&self) {
        if self.filled.get() >= self.slice.get() {
            self.close_slice();
        }
    }

    /// The worker stops for now.
    pub fn pause(&self) {
        if self.filled.get() > 0 {
            self.close_slice();
        }
        self.since.set(Instant::NEVER);
        self.pulse.current.store(0, Ordering::Release);
    }

    #[cold]
    #[inline(never)]
    fn close_slice(&self) {
        let now = self.clock.now();
        let took = now - self.since.replace(now);
        let filled = self.filled.replace(0);
        self.pulse.count.fetch_add(1, Ordering::Release);
        let exact = if took >= LONG { EXACT } else { self.exact.get().saturating_sub(1) };
        self.exact.set(exact);
        self.slice.set(if exact > 0 { 1 } else { SLICE });
        if took < Duration::from_micros(BUCKETS_US[0]) {
            return;
        }
        let entries = self.ring[..filled.min(SLICE)].iter().map(Cell::get);
        let each = took / filled.max(1) as u32;
        let bucket = BUCKETS_US.partition_point(|end| each >= Duration::from_micros(*end));
        let mut stats = self.stats.borrow_mut();
        for entry in entries.clone() {
            let stats = at(&mut stats, entry);
            stats.buckets[bucket] += 1;
            stats.worst = stats.worst.max(each);
        }
        if took >= self.slow {
            // Of several, the one that was the slowest before is the best guess.
            let worst = entries.max_by_key(|entry| at(&mut stats, *entry).worst);
            if let Some(worst) = worst {
                at(&mut stats, worst).slow += 1;
                self.found.borrow_mut().push(SlowHandler {
                    shard: worst.shard(),
                    method: worst.method(),
                    entity: worst.entity(),
                    took,
                    shared: filled as u32,
                });
            }
        }
    }

    /// Handlers over their budget since the last time.
    pub fn take_slow(&self) -> Vec<SlowHandler> {
        let mut found = self.found.borrow_mut();
        if found.is_empty() { Vec::new() } else { std::mem::take(&mut found) }
    }

    /// What a method of a shard cost, of which `handled` messages were handled. Those that are not
    /// noted down took less than 10 µs.
    pub fn stats(&self, shard: u16, method: u16, handled: u64) -> MethodStats {
        let stats = self.stats.borrow();
        let methods = stats.get(usize::from(shard));
        let noted = methods.and_then(|methods| methods.get(slot_of(method)));
        let mut stats = noted.copied().unwrap_or_default();
        let others: u64 = stats.buckets[1..].iter().sum();
        stats.handled = handled.max(others);
        stats.buckets[0] = stats.handled - others;
        stats
    }
}

/// Hooks come first in the table.
fn slot_of(method: u16) -> usize {
    usize::from(method.wrapping_add(1))
}

fn at(stats: &mut Vec<Vec<MethodStats>>, entry: Entry) -> &mut MethodStats {
    let (shard, method) = (usize::from(entry.shard()), slot_of(entry.method()));
    if stats.len() <= shard {
        stats.resize_with(shard + 1, Vec::new);
    }
    let methods = &mut stats[shard];
    if methods.len() <= method {
        methods.resize_with(method + 1, MethodStats::default);
    }
    &mut methods[method]
}

#[cfg(test)]
mod tests {
    use super::*;
    use env::WallTime;

    static KIND: KindInfo = KindInfo::new("kind", crate::entity::Class::Keyed);

    /// What goes on after a call that was answered in place is not taken for who answered it.
    #[test]
    fn watch_tells_who_calls_from_who_answers_in_place() {
        let (clock, hand) = Clock::manual(WallTime(1));
        let watch = Watch::new(clock, Duration::from_millis(50));
        watch.pulse().add_kind(&KIND);
        watch.resume();
        watch.begin(0, 1, 7, 70);
        hand.advance(Duration::from_millis(1));
        watch.end();
        let outer = watch.current();
        watch.begin(0, 2, 8, 80);
        hand.advance(Duration::from_millis(2));
        assert_eq!(watch.pulse().read().running.map(|running| running.2), Some(80));
        watch.end();
        watch.again(outer);
        assert_eq!(watch.pulse().read().running.map(|running| running.2), Some(70));
        hand.advance(Duration::from_millis(90));
        watch.end();
        watch.pause();
        let slow: Vec<_> =
            watch.take_slow().iter().map(|slow| (slow.entity, slow.method)).collect();
        assert_eq!(slow, [(7, 1)]);
        assert_eq!(watch.stats(0, 2, 1).worst, Duration::from_millis(2));
        assert_eq!(watch.stats(0, 1, 1).worst, Duration::from_millis(90));
    }
}
