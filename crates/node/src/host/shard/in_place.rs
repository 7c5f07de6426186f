//! Calls that are answered where they are made.
//!
//! A call to a plain method of an idle entity of the same worker need not lie in a mailbox: nobody
//! is before it, and a handler that cannot wait has answered when it returns. So it runs within
//! the poll of the turn that calls, where every other handler might have run as well, since an
//! await is where others have their turn. It is one level deep: a plain handler cannot call. A
//! turn has so many of these calls in one poll as an entity has messages in one go; the next one
//! waits in the mailbox, and with it everybody else has their turn.

use super::*;
use crate::host::mail::IN_PLACE;
use crate::host::send::{Asking, OWN_WAIT, may_call};

/// What a call gave.
type Answer<E> = Result<<E as Entity>::Reply, Box<Fault>>;

impl<E: Entity> Shard<E> {
    /// Answers a call at once. `None` if it must go the way of all messages; it still has its
    /// message then.
    #[inline]
    pub fn call_in_place(self: &Rc<Self>, ask: &mut Asking<E>) -> Option<Answer<E>> {
        let hub = &*self.hub;
        let left = hub.in_place.get();
        if left == 0 || self.cells.borrow().len() == 0 {
            return None;
        }
        let method = E::method(ask.message.as_ref()?);
        let info = E::KIND.methods.get(method)?;
        if !info.plain || !info.answers() || !may_call(info, ask.sender) {
            return None;
        }
        let wait = match ask.wait_nanos {
            OWN_WAIT => hub.wait_nanos(info.deadline_ms),
            nanos => nanos,
        };
        {
            let turns = hub.turns.borrow();
            let turn = turns.get(ask.turn)?;
            if wait == 0 || turn.cancelled || turn.deadline <= hub.now.get() {
                return None;
            }
        }
        let (index, state, me) = {
            let cells = self.cells.borrow();
            let index = cells.find(ask.home, ask.key)?;
            let slot = &cells.slots[index as usize];
            let held_up = READY | BUSY | LOADING | CLOSING | QUARANTINED | FROZEN;
            if slot.flags & held_up != 0 || slot.mailbox.len != 0 {
                return None;
            }
            (index, slot.state.clone()?, sender_of::<E>(slot))
        };
        if E::KIND.document && self.is_held(index) {
            return None;
        }
        let mut message = ask.message.take()?;
        if hub.options.encode_all {
            message = match self.recode(message) {
                Ok(message) => message,
                Err(fault) => return Some(Err(Box::new(fault))),
            };
        }
        let method = method as u16;
        let outer = hub.running.begin_in_place(self.index, index, method, ask.sender);
        hub.in_place.set(0);
        let count = &self.counts[usize::from(method) + 1];
        count.set(count.get() + 1);
        hub.watch.end();
        let watched = hub.watch.current();
        hub.watch.begin(self.index, method, index, me.key);
        let mut cx = Cx::new(Rc::clone(self), index, TurnId::NONE, me);
        let turn = Turn::new(&mut cx, state);
        // The turn that calls is not to fall with the handler.
        let ran = catch_unwind(AssertUnwindSafe(|| {
            let _: Step = E::dispatch(turn, message);
        }));
        match ran {
            Err(panic) => self.panicked_in_place(index, panic_text(&*panic)),
            Ok(()) if hub.running.is_closing.get() => self.closed_in_place(index),
            Ok(()) => {}
        }
        hub.watch.end();
        hub.watch.again(watched);
        hub.running.restore(outer);
        hub.in_place.set(left - 1);
        let answer = self.answered.borrow_mut().take();
        let answer = answer.unwrap_or_else(|| Err(Box::new(Fault::FAILED)));
        if hub.options.encode_all {
            let recode = |reply| self.recode_reply(method, reply).map_err(Box::new);
            return Some(answer.and_then(recode));
        }
        Some(answer)
    }

    #[cold]
    #[inline(never)]
    fn panicked_in_place(self: &Rc<Self>, index: u32, text: String) {
        let polled = self.hub.polled.get();
        Rc::clone(self).handler_panicked(index, text);
        // A hook of its end may have been polled.
        self.hub.polled.set(polled);
        *self.answered.borrow_mut() = Some(Err(Box::new(Fault::FAILED)));
    }

    /// The handler that ran in place has ended its entity.
    #[cold]
    #[inline(never)]
    fn closed_in_place(self: &Rc<Self>, index: u32) {
        let polled = self.hub.polled.get();
        self.end(index, CloseCode::Goodbye);
        self.hub.polled.set(polled);
    }

    /// The reply of a handler that runs in place.
    #[inline]
    pub fn reply_in_place(&self, reply: E::Reply) {
        self.end_in_place(Ok(reply));
    }

    #[inline]
    pub fn end_in_place(&self, answer: Answer<E>) {
        if self.hub.running.node.get() == IN_PLACE {
            *self.answered.borrow_mut() = Some(answer);
        }
    }
}
