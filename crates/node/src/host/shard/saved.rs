//! Entities that are kept in the store: how they begin, what of them changed, how they leave.

use super::*;

impl<E: Entity> Shard<E> {
    /// How many places there are for entities, used or not.
    pub fn places(&self) -> u32 {
        self.cells.borrow().slots.len() as u32
    }

    /// Lets an entity begin whose document is here. `false` if it has begun already.
    pub fn begin(&self, index: u32, state: E) -> bool {
        let mut cells = self.cells.borrow_mut();
        let Cells { slots, room, .. } = &mut *cells;
        let slot = &mut slots[index as usize];
        if slot.flags & LOADING == 0 {
            return false;
        }
        slot.flags &= !LOADING;
        slot.state = Some(Rc::new(RefCell::new(state)));
        let hooks = [Hook::Loaded, Hook::Created];
        for hook in hooks.into_iter().filter(|hook| E::KIND.hooks.has(hook.bit())) {
            room.push_front(&mut slot.mailbox, hook_mail(hook));
        }
        drop(cells);
        self.begin_steps(index);
        self.nudge(index);
        true
    }

    /// Lets an entity begin with what the store has of it; the error says what cannot be read.
    pub fn load(
        self: &Rc<Self>,
        id: EntityId,
        documents: Documents,
        claim: Claim,
    ) -> Result<(), String> {
        let Some(index) = self.cells.borrow().find(id.home, id.key) else { return Ok(()) };
        let mut sheets = Sheets::stored(documents, Some(claim));
        let result = match self.read_into_new(id, &mut sheets) {
            Ok(state) => {
                self.sheets.borrow_mut().insert(index, sheets);
                if !self.begin(index, state) {
                    return Ok(());
                }
                Ok(())
            }
            Err(problem) => {
                self.drop_mail(index, &Fault::FAILED);
                self.close(index, CloseCode::Unavailable, false);
                Err(problem)
            }
        };
        let told = match result {
            Ok(()) => self.target_of(index).ok_or(Status::Gone),
            Err(_) => Err(Status::Failed),
        };
        self.hub.event(Event::Activated { id, result: told });
        result
    }

    pub(super) fn read_into_new(&self, id: EntityId, sheets: &mut Sheets) -> Result<E, String> {
        let made = self.create(id).map_err(|_| "making the entity panicked".to_owned())?;
        let mut state = made.ok_or_else(|| "its kind makes no entity of a key".to_owned())?;
        // A step from an older version is game code, so it may panic.
        let read = catch_unwind(AssertUnwindSafe(|| state.load(sheets)));
        match read {
            Ok(Ok(())) => Ok(state),
            Ok(Err(bad)) => Err(bad.to_string()),
            Err(panic) => Err(format!("a step panicked: {}", panic_text(&*panic))),
        }
    }

    /// The state as it was last given to the store, for an entity that starts again.
    pub fn begin_again(&self, index: u32, id: EntityId) -> Result<Option<E>, Fault> {
        let mut sheets = match self.sheets.borrow_mut().get_mut(&index) {
            Some(sheets) => sheets.again(),
            None => return Ok(None),
        };
        let state = self.read_into_new(id, &mut sheets).map_err(|problem| {
            tracing::error!(entity = %id, "it cannot start again: {problem}");
            Fault::FAILED
        })?;
        self.sheets.borrow_mut().insert(index, sheets);
        Ok(Some(state))
    }

    /// Notes that the entity may change; whether it must stand still instead.
    #[inline(never)]
    pub fn is_held(&self, index: u32) -> bool {
        let mut cells = self.cells.borrow_mut();
        let Some(slot) = cells.get_mut(index) else { return false };
        if self.hub.is_held(self.kind()) && slot.flags & CLOSING == 0 {
            slot.flags &= !READY;
            return true;
        }
        if slot.flags & TOUCHED == 0 {
            slot.flags |= TOUCHED;
            self.hub.touched.borrow_mut().push((self.index, index));
        }
        false
    }

    /// What changed of an entity; while a turn has it to itself, what it was before that turn.
    pub fn changes(self: &Rc<Self>, index: u32) -> Option<Found> {
        if let Some(shown) = self.shown(index) {
            return Some(Found::Before(shown));
        }
        if !self.may_look(index) {
            return None;
        }
        if E::KIND.hooks.has(Hooks::BEFORE_SAVE) {
            let hooked = self
                .sheets
                .borrow_mut()
                .get_mut(&index)
                .map(|sheets| std::mem::replace(&mut sheets.hooked, true));
            if hooked == Some(false) {
                self.run_hook_now(index, self.id_of(index), Hook::BeforeSave);
                // An async hook may have only begun.
                if !self.may_look(index) {
                    return None;
                }
            }
        }
        let open = {
            let mut cells = self.cells.borrow_mut();
            let slot = cells.get_mut(index)?;
            slot.flags &= !TOUCHED;
            if slot.turns != NONE {
                slot.flags |= TOUCHED;
            }
            slot.turns != NONE
        };
        Some(Found::All(self.changes_of(index)?, open))
    }

    /// Between turns, and not on its way out.
    fn may_look(&self, index: u32) -> bool {
        let cells = self.cells.borrow();
        cells.get(index).is_some_and(|slot| {
            let leaves = slot.flags & (CLOSING | ENDING) == CLOSING;
            slot.flags & (BUSY | LOADING) == 0 && !leaves
        })
    }

    /// Of an entity that a turn has to itself: what was shown before that turn began. Not while that
    /// turn is its hook before a save, after which there is more to see.
    fn shown(&self, index: u32) -> Option<Changes> {
        let is_busy = self.cells.borrow().get(index)?.flags & BUSY != 0;
        let mut all = self.sheets.borrow_mut();
        let sheets = all.get_mut(&index).filter(|sheets| is_busy && !sheets.hooked)?;
        Some(sheets.take_changes())
    }

    /// Shows an entity before a turn that will have it to itself: however long that takes, what it
    /// was before is saved in its time.
    #[inline(never)]
    pub fn show_early(&self, index: u32) {
        if interleaves::<E>(self.hub.running.method.get()) || !self.may_look(index) {
            return;
        }
        let Some(state) = self.cells.borrow().get(index).and_then(|slot| slot.state.clone()) else {
            return;
        };
        let Ok(state) = state.try_borrow() else { return };
        if let Some(sheets) = self.sheets.borrow_mut().get_mut(&index) {
            sheets.show_early(|sheets| state.save(sheets));
        }
    }

    fn changes_of(&self, index: u32) -> Option<Changes> {
        let state = self.cells.borrow().get(index)?.state.clone()?;
        let state = state.try_borrow().ok()?;
        let mut all = self.sheets.borrow_mut();
        let sheets = all.get_mut(&index)?;
        sheets.hooked = false;
        state.save(sheets);
        Some(sheets.take_changes())
    }

    /// The hook before the last save.
    pub fn before_parting(self: &Rc<Self>, index: u32, id: EntityId) {
        let is_known = self.sheets.borrow().contains_key(&index);
        if is_known && E::KIND.hooks.has(Hooks::BEFORE_SAVE) {
            self.run_hook_now(index, id, Hook::BeforeSave);
        }
    }

    /// The entity leaves: what changed of it last goes with the news of its end. After a panic its
    /// state is not trusted, and what was saved before stands.
    pub fn part(self: &Rc<Self>, index: u32, id: EntityId, trusted: bool) {
        let is_sound = self
            .cells
            .borrow()
            .get(index)
            .is_some_and(|slot| slot.flags & (LOADING | QUARANTINED) == 0);
        let last = if trusted && is_sound { self.changes_of(index) } else { None };
        self.sheets.borrow_mut().remove(&index);
        if let Some(last) = last {
            self.hub.parting.borrow_mut().insert(id, last);
        }
    }

    /// Runs a hook in place. One that waits is left open.
    pub fn run_hook_now(self: &Rc<Self>, index: u32, id: EntityId, hook: Hook) {
        let state = self.cells.borrow().get(index).and_then(|slot| slot.state.clone());
        let Some(state) = state else { return };
        let running = &self.hub.running;
        running.node.set(NONE);
        running.sender.set(Sender::OWN);
        running.method.set(HOOK);
        running.turn.set(TurnId::NONE);
        let me = Sender::of(id, self.hub.me.node);
        let mut cx = Cx::new(Rc::clone(self), index, TurnId::NONE, me);
        let turn = Turn::new(&mut cx, state);
        let ran = catch_unwind(AssertUnwindSafe(|| E::hook(turn, hook)));
        if let Err(panic) = ran {
            let turn = self.hub.running.turn.get();
            if !turn.is_none() {
                drop(self.unlink_turn(index, turn));
            }
            self.report_panic(id, "hook".to_owned(), panic_text(&*panic));
        }
    }
}
