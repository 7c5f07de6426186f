//! After a panic in game code.

use super::*;

impl<E: Entity> Shard<E> {
    /// After a panic: the call fails, the entity starts again, is removed or shut off.
    pub fn recover(self: &Rc<Self>, index: u32, origin: Origin, method: u16, text: String) {
        bump(&self.hub.count.panics);
        let id = self.id_of(index);
        self.report_panic(id, method_path(E::KIND, method), text);
        self.answer(origin, Err(Fault::FAILED));
        if self.cells.borrow().get(index).is_none_or(|slot| slot.flags & CLOSING != 0) {
            self.close(index, CloseCode::Goodbye, false);
            return;
        }
        self.drop_turns(index, &Fault::ROLLED_BACK);
        if self.panics_too_often(index) {
            if let Some(slot) = self.cells.borrow_mut().get_mut(index) {
                slot.flags = slot.flags & !READY | QUARANTINED;
            }
            self.drop_mail(index, &Fault::UNAVAILABLE);
            self.hub.event(Event::Quarantined(id));
            return;
        }
        match E::KIND.on_panic {
            OnPanic::Restart => self.restart(index, id),
            OnPanic::Remove => self.close(index, CloseCode::Unavailable, false),
        }
    }

    pub fn restart(self: &Rc<Self>, index: u32, id: EntityId) {
        let by_event = self.hub.options.activate_by_event && !E::KIND.document;
        if by_event && id.home == Incarnation::NONE {
            let old = match self.cells.borrow_mut().get_mut(index) {
                Some(slot) => {
                    slot.flags = slot.flags & !READY | LOADING;
                    slot.state.take()
                }
                None => None,
            };
            drop_quietly(old);
            self.hub.event(Event::Activate(id));
            return;
        }
        // A room has no key that it could be made from again.
        let made = match id.home == Incarnation::NONE {
            true if E::KIND.document => self.begin_again(index, id),
            true => self.create(id),
            false => Ok(None),
        };
        let Ok(Some(state)) = made else {
            self.close(index, CloseCode::Unavailable, false);
            return;
        };
        let old = {
            let mut cells = self.cells.borrow_mut();
            let Cells { slots, room, .. } = &mut *cells;
            let slot = &mut slots[index as usize];
            slot.flags &= !READY;
            if E::KIND.hooks.has(Hooks::CREATED) {
                room.push_front(&mut slot.mailbox, hook_mail(Hook::Created));
            }
            slot.state.replace(Rc::new(RefCell::new(state)))
        };
        drop_quietly(old);
        self.nudge(index);
    }

    fn panics_too_often(&self, index: u32) -> bool {
        let now = self.hub.now.get();
        let window = self.hub.options.panic_window;
        let mut panics = self.panics.borrow_mut();
        let times = panics.entry(index).or_default();
        times.retain(|at| now - *at < window);
        times.push(now);
        times.len() >= PANICS_MAX
    }

    pub fn report_panic(&self, id: EntityId, method: String, text: String) {
        tracing::error!(entity = %id, kind = E::KIND.name, method, "a handler panicked: {text}");
        self.hub.event(Event::Panicked { id, method, text });
    }
}
