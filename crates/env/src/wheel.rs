use std::fmt;
use std::time::Duration;

use crate::Instant;

#[cfg(test)]
mod tests;

/// Names one timer of a [`Wheel`]. Keys of timers that have fired or were cancelled stay
/// harmless: they name nothing (until 2^32 later inserts have passed).
///
/// The default key names nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimerKey {
    index: u32,
    generation: u32,
}

/// A hierarchical timing wheel: insert, cancel and fire in O(1), whatever the number of timers.
///
/// A timer never fires early, and less than one tick late if the wheel is advanced in time.
/// Timers fire in the order of their ticks, those of one tick in the order of their insertion.
/// A deadline that has passed (a zero delay) fires at the next advance; one inserted while an
/// advance is being drained fires at the one after it.
///
/// 256 slots of one tick, then four levels of 64 (the layout of skynet's and older Linux
/// timers): 2^32 ticks, 497 days at the usual 10 ms. What lies beyond waits in a list that is
/// looked through once in 2^32 ticks, so it is as exact. Timers live in one slab as doubly
/// linked lists: 24 bytes each beside an `Option<T>`.
pub struct Wheel<T> {
    start: Instant,
    /// Nanoseconds.
    tick: u64,
    /// How far the wheel was advanced.
    now: Instant,
    /// The last tick whose timers were made due: the one that `now` lies in.
    current: u64,
    /// The first `LISTS` nodes are the heads of the circular lists, the others timers.
    nodes: Vec<Node<T>>,
    free: u32,
    len: usize,
    generation: u32,
    /// One bit for each list of the near slots that is not empty.
    near: [u64; 4],
    /// The same for the slots of each upper level.
    upper: [u64; 4],
}

struct Node<T> {
    at: Instant,
    next: u32,
    prev: u32,
    generation: u32,
    value: Option<T>,
}

const NEAR_BITS: u32 = 8;
const NEAR: u64 = 1 << NEAR_BITS;
const LEVEL_BITS: u32 = 6;
const LEVELS: u32 = 4;
const LEVEL: u64 = 1 << LEVEL_BITS;
/// All bits of a tick that the slots can tell apart.
const SPAN_BITS: u32 = NEAR_BITS + LEVELS * LEVEL_BITS;

/// Timers more than `SPAN_BITS` away.
const FAR: u32 = NEAR as u32 + LEVELS * LEVEL as u32;
/// Timers that fire in the advance that is under way.
const DUE: u32 = FAR + 1;
/// Timers inserted when already due: they fire in the next advance.
const SOON: u32 = FAR + 2;
const LISTS: u32 = FAR + 3;
const NIL: u32 = u32::MAX;

/// A slab larger than this is given back when its last timer is gone.
const KEEP_NODES: usize = LISTS as usize + 65_536;

impl<T> Wheel<T> {
    /// The usual tick: 10 ms.
    pub const TICK: Duration = Duration::from_millis(10);

    /// An empty wheel whose first tick begins at `start`.
    ///
    /// # Panics
    /// If `tick` is zero or longer than 584 years.
    pub fn new(start: Instant, tick: Duration) -> Self {
        let tick = u64::try_from(tick.as_nanos()).expect("a tick fits 64 bits of nanoseconds");
        assert!(tick > 0, "a tick takes time");
        let mut nodes = Vec::with_capacity(LISTS as usize);
        nodes.extend((0..LISTS).map(|head| Node::head(head)));
        Wheel {
            start,
            tick,
            now: start,
            current: 0,
            nodes,
            free: NIL,
            len: 0,
            generation: 0,
            near: [0; 4],
            upper: [0; 4],
        }
    }

    /// How many timers wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no timer waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes held on the heap, for free nodes too.
    pub fn heap_bytes(&self) -> usize {
        self.nodes.capacity() * size_of::<Node<T>>()
    }

    /// Sets a timer: `value` is handed back by the first advance at or after `at`.
    ///
    /// # Panics
    /// At 2^32 timers.
    pub fn insert(&mut self, at: Instant, value: T) -> TimerKey {
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let index = self.free;
        let index = if index != NIL {
            let node = &mut self.nodes[index as usize];
            self.free = node.next;
            node.at = at;
            node.generation = generation;
            node.value = Some(value);
            index
        } else {
            let index = self.nodes.len();
            if index == self.nodes.capacity() {
                // Half as much again, not twice: a million timers shall not hold room for two.
                self.nodes.reserve_exact(index / 2);
            }
            assert!(index < NIL as usize, "a wheel holds less than 2^32 timers");
            self.nodes.push(Node { at, next: NIL, prev: NIL, generation, value: Some(value) });
            index as u32
        };
        self.len += 1;
        let list = if at <= self.now { SOON } else { self.slot(self.tick_of(at)) };
        self.append(list, index);
        TimerKey { index, generation }
    }

    /// Takes a timer back before it fires. `None` if it has fired or was cancelled already.
    pub fn cancel(&mut self, key: TimerKey) -> Option<T> {
        self.node(key)?;
        Some(self.remove(key.index))
    }

    /// What a waiting timer carries.
    pub fn get(&self, key: TimerKey) -> Option<&T> {
        self.node(key)?.value.as_ref()
    }

    /// What a waiting timer carries, to change it in place.
    pub fn get_mut(&mut self, key: TimerKey) -> Option<&mut T> {
        self.node(key)?;
        self.nodes[key.index as usize].value.as_mut()
    }

    /// When a waiting timer is to fire, exactly as it was inserted.
    pub fn deadline(&self, key: TimerKey) -> Option<Instant> {
        self.node(key).map(|node| node.at)
    }

    /// Hands every timer due at `now` to `fire`. Does nothing for a `now` of the past, except
    /// firing what was inserted too late.
    ///
    /// Use [`Wheel::handle_timeout`] and [`Wheel::poll`] where firing needs the wheel itself.
    pub fn advance(&mut self, now: Instant, mut fire: impl FnMut(TimerKey, T)) {
        self.handle_timeout(now);
        while let Some((key, value)) = self.poll() {
            fire(key, value);
        }
    }

    /// Makes every timer that is due at `now` ready for [`Wheel::poll`].
    ///
    /// They can still be cancelled there, also by a timer polled before them.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.splice(SOON);
        self.now = self.now.max(now);
        let target = self.now.since(self.start).as_nanos() as u64 / self.tick;
        while let Some(tick) = self.next_tick().filter(|&tick| tick <= target) {
            self.current = tick;
            if tick & (NEAR - 1) == 0 {
                self.cascade(tick);
            }
            let slot = (tick & (NEAR - 1)) as u32;
            self.splice(slot);
            self.clear_bit(slot);
        }
        self.current = target;
    }

    /// The next timer that the last [`Wheel::handle_timeout`] found due, or `None`.
    pub fn poll(&mut self) -> Option<(TimerKey, T)> {
        let index = self.nodes[DUE as usize].next;
        if index == DUE {
            return None;
        }
        let generation = self.nodes[index as usize].generation;
        Some((TimerKey { index, generation }, self.remove(index)))
    }

    /// When to advance next; `None` while no timer waits.
    ///
    /// Never later than the end of the tick of the earliest deadline. It may be earlier, when a
    /// far slot must be dealt out first (at most five times for one timer). If something is due
    /// already, it is the time that the wheel was advanced to.
    pub fn next_deadline(&self) -> Option<Instant> {
        let ready = !self.is_list_empty(SOON) || !self.is_list_empty(DUE);
        if ready {
            return Some(self.now);
        }
        let tick = self.next_tick()?;
        Some(self.start + Duration::from_nanos(tick.saturating_mul(self.tick)))
    }

    /// Drops all timers. Their keys name nothing afterwards.
    pub fn clear(&mut self) {
        self.release();
        self.len = 0;
    }

    /// The first tick at whose end `at` has passed.
    fn tick_of(&self, at: Instant) -> u64 {
        (at.since(self.start).as_nanos() as u64).div_ceil(self.tick)
    }

    /// The list for a tick that is still to come: as many levels up as the highest digit in
    /// which it differs from the current tick.
    fn slot(&self, tick: u64) -> u32 {
        let differ = tick ^ self.current;
        if differ < NEAR {
            return (tick & (NEAR - 1)) as u32;
        }
        if differ >> SPAN_BITS != 0 {
            return FAR;
        }
        let level = (63 - differ.leading_zeros() - NEAR_BITS) / LEVEL_BITS;
        let digit = (tick >> shift(level)) & (LEVEL - 1);
        NEAR as u32 + level * LEVEL as u32 + digit as u32
    }

    /// The next tick at which a slot must be looked at.
    ///
    /// What lies in a lower level is always earlier than anything above it.
    fn next_tick(&self) -> Option<u64> {
        for (word, bits) in self.near.iter().enumerate() {
            if *bits != 0 {
                let slot = word as u64 * 64 + u64::from(bits.trailing_zeros());
                return Some((self.current & !(NEAR - 1)) | slot);
            }
        }
        for level in 0..LEVELS {
            let bits = self.upper[level as usize];
            if bits != 0 {
                let above = self.current >> shift(level + 1) << shift(level + 1);
                return Some(above | u64::from(bits.trailing_zeros()) << shift(level));
            }
        }
        let turns = self.current >> SPAN_BITS;
        // Past the last turn of 64 bits there is no time left in which anything could fire.
        let next = turns.checked_add(1).filter(|next| next >> (64 - SPAN_BITS) == 0)?;
        (!self.is_list_empty(FAR)).then_some(next << SPAN_BITS)
    }

    /// Deals out the slots that begin with `tick`, from far to near, so that timers of one tick
    /// keep the order of their insertion.
    fn cascade(&mut self, tick: u64) {
        if tick & ((1 << SPAN_BITS) - 1) == 0 {
            self.deal(FAR, tick);
        }
        for level in (0..LEVELS).rev() {
            if tick & ((1 << shift(level)) - 1) == 0 {
                let digit = (tick >> shift(level)) & (LEVEL - 1);
                let list = NEAR as u32 + level * LEVEL as u32 + digit as u32;
                self.clear_bit(list);
                self.deal(list, tick);
            }
        }
    }

    /// Moves each timer of `list` to where it belongs as of `tick`.
    fn deal(&mut self, list: u32, tick: u64) {
        let head = &mut self.nodes[list as usize];
        let mut index = head.next;
        head.next = list;
        head.prev = list;
        while index != list {
            let node = &self.nodes[index as usize];
            let (next, wanted) = (node.next, self.tick_of(node.at));
            let to = if wanted <= tick { DUE } else { self.slot(wanted) };
            self.append(to, index);
            index = next;
        }
    }

    /// Moves all of `list` to the end of the due ones.
    fn splice(&mut self, list: u32) {
        let Node { next: first, prev: last, .. } = self.nodes[list as usize];
        if first == list {
            return;
        }
        let end = self.nodes[DUE as usize].prev;
        self.nodes[end as usize].next = first;
        self.nodes[first as usize].prev = end;
        self.nodes[last as usize].next = DUE;
        self.nodes[DUE as usize].prev = last;
        self.nodes[list as usize].next = list;
        self.nodes[list as usize].prev = list;
    }

    fn append(&mut self, list: u32, index: u32) {
        let last = self.nodes[list as usize].prev;
        let node = &mut self.nodes[index as usize];
        node.prev = last;
        node.next = list;
        self.nodes[last as usize].next = index;
        self.nodes[list as usize].prev = index;
        self.set_bit(list);
    }

    /// Unlinks a timer and frees its node.
    fn remove(&mut self, index: u32) -> T {
        let free = self.free;
        let node = &mut self.nodes[index as usize];
        let (next, prev) = (node.next, node.prev);
        let value = node.value.take().expect("a linked node carries a value");
        node.next = free;
        self.free = index;
        self.nodes[prev as usize].next = next;
        self.nodes[next as usize].prev = prev;
        // Only the head of a list that is empty now is its own neighbour.
        if next == prev && next < LISTS {
            self.clear_bit(next);
        }
        self.len -= 1;
        if self.len == 0 && self.nodes.len() > KEEP_NODES {
            self.release();
        }
        value
    }

    fn node(&self, key: TimerKey) -> Option<&Node<T>> {
        let node = self.nodes.get(key.index as usize)?;
        (node.generation == key.generation && node.value.is_some()).then_some(node)
    }

    fn is_list_empty(&self, list: u32) -> bool {
        self.nodes[list as usize].next == list
    }

    fn set_bit(&mut self, list: u32) {
        if list < NEAR as u32 {
            self.near[(list / 64) as usize] |= 1 << (list % 64);
        } else if list < FAR {
            let slot = list - NEAR as u32;
            self.upper[(slot / 64) as usize] |= 1 << (slot % 64);
        }
    }

    fn clear_bit(&mut self, list: u32) {
        if list < NEAR as u32 {
            self.near[(list / 64) as usize] &= !(1 << (list % 64));
        } else if list < FAR {
            let slot = list - NEAR as u32;
            self.upper[(slot / 64) as usize] &= !(1 << (slot % 64));
        }
    }

    /// Forgets all timers and gives their memory back. Keys stay good: the generation goes on.
    fn release(&mut self) {
        self.nodes.truncate(LISTS as usize);
        self.nodes.shrink_to_fit();
        for head in 0..LISTS {
            self.nodes[head as usize] = Node::head(head);
        }
        self.free = NIL;
        self.near = [0; 4];
        self.upper = [0; 4];
    }
}

impl<T> Node<T> {
    fn head(index: u32) -> Self {
        Node { at: Instant::ZERO, next: index, prev: index, generation: 0, value: None }
    }
}

impl<T> fmt::Debug for Wheel<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wheel")
            .field("len", &self.len)
            .field("next_deadline", &self.next_deadline())
            .finish_non_exhaustive()
    }
}

/// How many bits of a tick lie below the digit of `level`.
const fn shift(level: u32) -> u32 {
    NEAR_BITS + level * LEVEL_BITS
}
