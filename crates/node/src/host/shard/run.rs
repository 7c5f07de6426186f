//! Entities handle their mail.

use super::*;
use crate::host::mail::Begun;

/// What an entity does next that does not simply take its next message.
enum Pause {
    Rest,
    Later,
    Close,
    GoOn,
}

impl<E: Entity> Shard<E> {
    /// Handles up to a batch of the mail of each entity of `round` from `at` on, while they are of
    /// this shard. All of them in one loop: what they share is fetched once.
    pub fn run_entities(self: &Rc<Self>, round: &[Ready], at: &mut usize) {
        let hub = &*self.hub;
        let running = &hub.running;
        let mut cx = Cx::new(Rc::clone(self), NONE, TurnId::NONE, Sender::OWN);
        let Some(mut index) = self.next_entity(round, at) else { return };
        let mut left = hub.options.batch;
        loop {
            let mut cells = self.cells.borrow_mut();
            let Cells { slots, room, .. } = &mut *cells;
            let Some(slot) = slots.get_mut(index as usize) else { return };
            if slot.mailbox.len == 0
                || slot.flags & (BUSY | LOADING | CLOSING | QUARANTINED | FROZEN) != 0
                || left == 0
                || slot.open >= self.limits.turns_max
            {
                let goes_on = self.pause(slot, room, left);
                if !matches!(goes_on, Pause::GoOn) {
                    drop(cells);
                    match goes_on {
                        Pause::Close => self.end(index, CloseCode::Goodbye),
                        Pause::Later => hub.push_ready(Ready::Entity { shard: self.index, index }),
                        Pause::Rest | Pause::GoOn => {}
                    }
                    let Some(next) = self.next_entity(round, at) else { return };
                    index = next;
                    left = hub.options.batch;
                    continue;
                }
            }
            left = left.saturating_sub(1);
            let Some(state) = slot.state.clone() else { return };
            let me = sender_of::<E>(slot);
            let Some(begun) = room.begin_turn(&mut slot.mailbox) else { return };
            let Begun { body, method, sender, awaited } = begun;
            if awaited == NONE {
                running.sender.set(sender);
            } else {
                if !room.is_wanted(awaited, |origin| self.is_wanted(origin)) {
                    let origin = room.end(awaited);
                    drop(cells);
                    self.skip_unwanted(origin);
                    continue;
                }
                running.node.set(awaited);
            }
            // After its last message it is not looked at again: more mail makes it ready again.
            let is_last = slot.mailbox.len == 0;
            if is_last {
                slot.flags &= !READY;
            }
            drop(cells);
            running.method.set(method);
            let count = &self.counts[usize::from(method.wrapping_add(1))];
            count.set(count.get() + 1);
            hub.watch.begin(self.index, method, index, me.key);
            cx.begin(index, me);
            let turn = Turn::new(&mut cx, state);
            let _: Step = match body {
                Body::Message(message) => E::dispatch(turn, message),
                Body::Hook(hook) => self.run_hook(turn, index, *hook),
            };
            hub.watch.end();
            if awaited != NONE {
                running.node.set(NONE);
                let origin = self.cells.borrow_mut().room.end(awaited);
                if !matches!(origin, Origin::Tell) {
                    // The handler dropped its turn instead of ending it.
                    self.answer(origin, Err(Fault::FAILED));
                }
            }
            if is_last && !running.is_closing.replace(false) {
                let Some(next) = self.next_entity(round, at) else { return };
                index = next;
                left = hub.options.batch;
            }
        }
    }

    /// The next entity of `round`, if it is of this shard.
    #[inline(always)]
    fn next_entity(&self, round: &[Ready], at: &mut usize) -> Option<u32> {
        loop {
            let Some(Ready::Entity { shard, index }) = round.get(*at) else { return None };
            if *shard != self.index {
                return None;
            }
            *at += 1;
            if E::KIND.document && self.is_held(*index) {
                continue;
            }
            self.hub.running.what.set(What::Entity { shard: *shard, index: *index });
            return Some(*index);
        }
    }

    /// What becomes of an entity that does not simply take its next message.
    #[inline(never)]
    fn pause(&self, slot: &mut EntitySlot<E>, room: &Mailroom<E>, left: u32) -> Pause {
        if slot.flags & (CLOSING | BUSY) == CLOSING && slot.used {
            slot.flags &= !READY;
            return Pause::Close;
        }
        let full = slot.open >= self.limits.turns_max
            && room.next_method(&slot.mailbox).is_some_and(interleaves::<E>);
        if slot.flags & (BUSY | LOADING | CLOSING | QUARANTINED | FROZEN) != 0
            || slot.mailbox.len == 0
            // The turn that ends makes it ready again.
            || full
        {
            slot.flags &= !READY;
            return Pause::Rest;
        }
        if left == 0 { Pause::Later } else { Pause::GoOn }
    }
}
