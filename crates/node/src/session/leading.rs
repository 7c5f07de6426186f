//! Streams to entities that do not move, at a node that is to go: before it ends, their clients are led to where
//! those entities are placed now, and what they had asked here is answered here.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use env::Instant;
use proto::frame::CloseCode;
use proto::link::{Slot, WorkerId};
use proto::{EntityId, Incarnation, KindId};

use super::ports::Entities;
use super::streams::{Streams, find_mut};
use super::{Mutant, Outlet, Places, Scope};

/// A home that has not answered is asked again after this time.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// How long a client may take to hear that its name leads elsewhere: what it sent before comes until then.
const HEAR_WAIT: Duration = Duration::from_millis(500);
/// How long requests under way may take then.
const ANSWER_WAIT: Duration = Duration::from_secs(4);
/// How often they are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The streams of one worker whose clients are led away.
#[derive(Debug, Default)]
pub(super) struct Leading {
    /// Kinds whose entities are not opened here any more.
    kinds: BTreeSet<KindId>,
    /// By place in the table.
    led: BTreeMap<u32, Led>,
}

#[derive(Debug)]
struct Led {
    slot: Slot,
    /// When something is to be done about it.
    at: Instant,
    /// The client has another stream of that name: when this one ends at the latest.
    until: Option<Instant>,
}

impl Leading {
    /// Whether a stream stays for a while although its home has another one in its place.
    pub fn lingers(&mut self, now: Instant, slot: Slot, code: CloseCode) -> bool {
        let led = self.led.get_mut(&slot.index).filter(|led| led.slot == slot);
        let Some(led) = led.filter(|_| code == CloseCode::Goodbye) else { return false };
        led.at = now + HEAR_WAIT;
        led.until.get_or_insert(now + ANSWER_WAIT);
        true
    }

    /// Whether an entity that is placed at `at` is not opened by `me` any more.
    pub fn is_led(&self, target: EntityId, at: Option<WorkerId>, me: WorkerId) -> bool {
        self.kinds.contains(&target.kind) && at.is_some_and(|at| at.node != me.node)
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        self.led.values().map(|led| led.at).min()
    }
}

impl<E: Entities> Streams<E> {
    /// This node is to go: begins to lead away the clients of all entities that are placed elsewhere now, but for
    /// those of which `moves` holds, which go there themselves, and for those that end with this node.
    pub fn lead_away<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        moves: impl Fn(EntityId) -> bool,
    ) {
        if self.options.mutant == Some(Mutant::NobodyLed) {
            return;
        }
        for (index, entry) in (0u32..).zip(&self.table) {
            let Some(stream) = &entry.stream else { continue };
            let (target, slot) = (stream.target, stream.info.slot);
            let known = self.leading.led.get(&index).is_some_and(|led| led.slot == slot);
            if known || target.home != Incarnation::NONE || moves(target) {
                continue;
            }
            if io.places.worker_of(target).is_some_and(|at| at.node != self.me.node) {
                self.leading.kinds.insert(target.kind);
                self.leading.led.insert(index, Led { slot, at: io.now, until: None });
            }
        }
    }

    /// Streams whose clients have not been led away yet, or wait for answers.
    pub fn led(&self) -> usize {
        self.leading.led.len()
    }

    /// Asks the homes of streams that are to end here, and ends those that are over.
    pub(super) fn lead<O: Outlet>(&mut self, now: Instant, out: &mut O, entities: &mut E) {
        let is_due = |(_, led): &(&u32, &Led)| led.at <= now;
        let due: Vec<u32> =
            self.leading.led.iter().filter(is_due).map(|(index, _)| *index).collect();
        for index in due {
            let Some(led) = self.leading.led.get_mut(&index) else { continue };
            let slot = led.slot;
            let Some(stream) = find_mut(&mut self.table, slot) else {
                self.leading.led.remove(&index);
                continue;
            };
            match led.until {
                None => {
                    led.at = now + ASK_AGAIN;
                    let (name, target) = (stream.info.stream.clone(), stream.target);
                    self.rebind(out, slot, &name, target);
                }
                Some(until) if now < until && !stream.open.is_empty() => led.at = now + LOOK_EVERY,
                Some(_) => {
                    self.leading.led.remove(&index);
                    self.end(out, entities, slot, CloseCode::Goodbye);
                }
            }
        }
    }
}
