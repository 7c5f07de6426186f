//! What a worker does with a shard whose kind it does not name.

use super::*;

impl<E: Entity> AnyShard for Shard<E> {
    fn kind(&self) -> &'static KindInfo {
        E::KIND
    }

    fn is_hosted(&self) -> bool {
        self.hosted.get()
    }

    fn may_have(&self, id: EntityId) -> bool {
        Shard::may_have(self, id)
    }

    fn note_sole(&self, node: Option<(Incarnation, u8)>) {
        self.sole.set(node);
    }

    fn stats(&self) -> ShardStats {
        let cells = self.cells.borrow();
        let used = || cells.slots.iter().filter(|slot| slot.used);
        ShardStats {
            kind: E::KIND.name,
            entities: cells.len(),
            mail: cells.room.len(),
            mail_longest: used().map(|slot| slot.mailbox.len).max().unwrap_or(0),
            calls: self.calls.borrow().open_count(),
            timers: self.timers.borrow().len(),
            busy: used().filter(|slot| slot.flags & BUSY != 0).count(),
            quarantined: used().filter(|slot| slot.flags & QUARANTINED != 0).count(),
        }
    }

    fn handled(&self, method: u16) -> u64 {
        self.counts.get(usize::from(method.wrapping_add(1))).map_or(0, Cell::get)
    }

    fn refused(&self, method: u16) -> u64 {
        self.refusals.get(usize::from(method)).map_or(0, Cell::get)
    }

    fn clear(&self) {
        // Taken out first: a drop of the game's must not find the table borrowed.
        let cells = self.cells.replace(Cells::new());
        drop_quietly(cells);
        let timers = self.timers.replace(TimerTable::new());
        drop_quietly(timers);
        self.peers.borrow_mut().clear();
        self.lanes.borrow_mut().clear();
        self.sheets.borrow_mut().clear();
    }

    fn run(self: Rc<Self>, round: &[Ready], at: &mut usize) {
        self.run_entities(round, at);
        self.hub.running.what.set(What::Nothing);
    }

    fn handler_panicked(self: Rc<Self>, index: u32, text: String) {
        let running = &self.hub.running;
        let (turn, method) = (running.turn.replace(TurnId::NONE), running.method.get());
        let node = running.node.replace(NONE);
        let origin = self.cells.borrow_mut().room.end(node);
        let origin = match self.unlink_turn(index, turn) {
            Some(closed) => {
                drop_quietly(closed.future);
                closed.origin
            }
            None => origin,
        };
        self.recover(index, origin, method, text);
    }

    fn spawn_new(self: Rc<Self>) -> Result<EntityId, Fault> {
        let id = self.hub.next_room(E::KIND.id);
        self.spawn(id, || self.create(id))?;
        Ok(id)
    }

    fn target(&self, id: EntityId) -> Option<Target> {
        let index = self.cells.borrow().find(id.home, id.key)?;
        self.target_of(index)
    }

    fn activate(self: Rc<Self>, id: EntityId) -> Result<(Target, bool), Fault> {
        let index = self.find_or_activate(id)?;
        let flags = self.cells.borrow().get(index).map_or(0, |slot| slot.flags);
        // One that ends is asked for again when it has: a stream to it would end with it.
        if flags & (QUARANTINED | CLOSING) != 0 {
            return Err(Fault::UNAVAILABLE);
        }
        let target = self.target_of(index).ok_or(Fault::GONE)?;
        Ok((target, flags & LOADING == 0))
    }

    fn activated(self: Rc<Self>, id: EntityId, loaded: Result<(), Fault>) {
        let Some(index) = self.cells.borrow().find(id.home, id.key) else { return };
        let made = loaded.and_then(|()| self.create(id)?.ok_or(Fault::NOT_FOUND));
        let result = match made {
            Ok(state) => {
                if !self.begin(index, state) {
                    return;
                }
                self.target_of(index).ok_or(Status::Gone)
            }
            Err(fault) => {
                self.drop_mail(index, &fault);
                self.close(index, CloseCode::Unavailable, false);
                Err(fault.status())
            }
        };
        self.hub.event(Event::Activated { id, result });
    }

    fn loaded(
        self: Rc<Self>,
        id: EntityId,
        documents: Documents,
        claim: Claim,
    ) -> Result<(), String> {
        self.load(id, documents, claim)
    }

    fn collect(self: Rc<Self>, index: u32) -> Option<Found> {
        self.changes(index)
    }

    fn written(&self, index: u32, is_stored: bool) {
        if let Some(sheets) = self.sheets.borrow_mut().get_mut(&index) {
            sheets.written(is_stored);
        }
    }

    fn evict(self: Rc<Self>, index: u32) {
        self.sheets.borrow_mut().remove(&index);
        self.close(index, CloseCode::Unavailable, false);
    }

    fn let_go_all(self: Rc<Self>, code: CloseCode) {
        if E::KIND.document {
            for index in 0..self.places() {
                if !self.is_packed(index) {
                    Rc::clone(&self).destroy(index, code);
                }
            }
        }
    }

    fn nudge_all(&self) {
        if E::KIND.document {
            for index in 0..self.places() {
                self.nudge(index);
            }
        }
    }

    fn begin_freeze(&self, index: u32) -> bool {
        Shard::begin_freeze(self, index)
    }

    fn try_freeze(self: Rc<Self>, index: u32, hooked: &mut bool) -> Freezing {
        Shard::try_freeze(&self, index, hooked)
    }

    fn pack(&self, index: u32) -> Vec<u8> {
        Shard::pack(self, index)
    }

    fn pack_late(&self, index: u32) -> Vec<u8> {
        Shard::pack_late(self, index)
    }

    fn thaw(self: Rc<Self>, index: u32, claim: Option<Claim>) {
        Shard::thaw(&self, index, claim);
    }

    fn depart(self: Rc<Self>, index: u32, to: WorkerId) {
        Shard::depart(&self, index, to);
    }

    fn arrive(
        self: Rc<Self>,
        id: EntityId,
        stored: (Documents, Claim),
        packed: (&[u8], &[Vec<u8>]),
        peers: &[(Peer, bool)],
    ) -> Result<(), String> {
        Shard::arrive(&self, id, stored, packed, peers)
    }

    fn take_late(self: Rc<Self>, id: EntityId, packed: &[u8]) -> Result<(), WireError> {
        Shard::take_late(&self, id, packed)
    }

    fn reroute_calls(&self, id: EntityId, to: WorkerId) {
        Shard::reroute_calls(self, id, to);
    }

    fn send_held(self: Rc<Self>, to: WorkerId, held: crate::host::routes::Held) {
        Shard::send_held(&self, to, held);
    }

    fn lane_marker(&self, worker: u8, id: EntityId, number: u64) {
        Shard::lane_marker(self, worker, id, number);
    }

    fn is_loading(&self, index: u32) -> bool {
        let cells = self.cells.borrow();
        cells.get(index).is_some_and(|slot| slot.flags & (LOADING | FROZEN) == LOADING)
    }

    fn destroy(self: Rc<Self>, index: u32, code: CloseCode) -> bool {
        {
            let mut cells = self.cells.borrow_mut();
            let Some(slot) = cells.get_mut(index) else { return false };
            slot.flags |= CLOSING;
        }
        self.end(index, code);
        true
    }

    fn lift_quarantine(self: Rc<Self>, id: EntityId) -> bool {
        let Some(index) = self.cells.borrow().find(id.home, id.key) else { return false };
        {
            let mut cells = self.cells.borrow_mut();
            let Some(slot) = cells.get_mut(index) else { return false };
            if slot.flags & QUARANTINED == 0 {
                return false;
            }
            slot.flags &= !QUARANTINED;
        }
        self.panics.borrow_mut().remove(&index);
        match E::KIND.on_panic {
            OnPanic::Restart => self.restart(index, id),
            OnPanic::Remove => self.close(index, CloseCode::Unavailable, false),
        }
        true
    }

    fn hook(self: Rc<Self>, index: u32, hook: Hook) {
        if !E::KIND.hooks.has(hook.bit()) {
            return;
        }
        let mut cells = self.cells.borrow_mut();
        if cells.get(index).is_some_and(|slot| slot.flags & (CLOSING | QUARANTINED) == 0) {
            self.push(&mut cells, index, hook_mail(hook));
        }
    }

    fn hook_all(self: Rc<Self>, hook: Hook) {
        self.hook_some(&hook, 0, u32::MAX);
    }

    fn hook_some(self: Rc<Self>, hook: &Hook, first: u32, max: u32) -> Option<u32> {
        if !E::KIND.hooks.has(hook.bit()) {
            return None;
        }
        let len = self.cells.borrow().slots.len() as u32;
        let end = len.min(first.saturating_add(max));
        for index in first..end {
            Rc::clone(&self).hook(index, hook.clone());
        }
        (end < len).then_some(end)
    }

    fn replan(&self) {
        Shard::replan(self);
    }

    fn id_at(&self, index: u32) -> Option<EntityId> {
        self.cells.borrow().get(index)?;
        Some(self.id_of(index))
    }

    fn is_current(&self, target: Target) -> bool {
        let cells = self.cells.borrow();
        cells.get(target.index).is_some_and(|slot| slot.generation == target.generation)
    }

    fn bind_peer(&self, index: u32, peer: &Peer, bound: bool) {
        let mut all = self.peers.borrow_mut();
        let peers = all.entry(index).or_default();
        if bound && let Some(known) = peers.iter_mut().find(|other| other.slot() == peer.slot()) {
            // They stay in the order in which they came, as their streams are.
            *known = peer.clone();
            return;
        }
        peers.retain(|other| other.slot() != peer.slot());
        if bound {
            if peers.is_empty() {
                // Most entities have one; the first push would take room for four.
                peers.reserve_exact(1);
            }
            peers.push(peer.clone());
        } else if peers.is_empty() {
            all.remove(&index);
        }
    }

    fn is_busy(&self, entity: u32) -> bool {
        self.cells.borrow().get(entity).is_some_and(|slot| slot.flags & BUSY != 0)
    }

    fn exclusive_turn(&self, entity: u32) -> Option<TurnId> {
        if !self.is_busy(entity) {
            return None;
        }
        let open = self.turns_of(entity);
        let turns = self.hub.turns.borrow();
        open.into_iter().find(|id| turns.get(*id).is_some_and(|turn| turn.exclusive))
    }

    fn open_turns(&self, entity: u32) -> Vec<TurnId> {
        self.turns_of(entity)
    }

    fn turn_done(self: Rc<Self>, entity: u32, id: TurnId) {
        if let Some(closed) = self.unlink_turn(entity, id) {
            drop_quietly(closed.future);
            // Only if the handler ended without an answer, which generated code cannot do.
            self.answer(closed.origin, Err(Fault::FAILED));
        }
        self.go_on(entity);
    }

    fn turn_given_up(self: Rc<Self>, entity: u32, id: TurnId) {
        let ending = self.cells.borrow().get(entity).is_some_and(|slot| slot.flags & ENDING != 0);
        // A wait for time that begins after the entity's end has no end of its own: loops end here.
        let sleeps = {
            let (turns, sleeps) = (self.hub.turns.borrow(), self.hub.sleeps.borrow());
            turns.get(id).is_some_and(|turn| turn.sleeps.iter().any(|at| sleeps.is_waiting(*at)))
        };
        if ending
            && sleeps
            && let Some(closed) = self.unlink_turn(entity, id)
        {
            drop_quietly(closed.future);
            self.answer(closed.origin, Err(Fault::GONE));
            self.go_on(entity);
        }
    }

    fn end_now(self: Rc<Self>, index: u32) {
        if let Some(target) = self.target_of(index)
            && self.hub.deals.borrow().contains_key(&(self.index, index))
        {
            // What it pays for must not be torn apart: the outcome becomes known.
            let until = self.hub.now.get() + self.hub.options.call_wait;
            self.hub.endings.borrow_mut().push_back((until, target));
            return self.hub.sweep_by(until);
        }
        let open = self.cells.borrow().get(index).map_or(0, |slot| slot.open);
        let id = self.id_of(index);
        tracing::warn!(entity = %id, open, "turns did not come to an end with their entity");
        self.close(index, CloseCode::Goodbye, true);
    }

    fn turn_panicked(self: Rc<Self>, entity: u32, id: TurnId, text: String) {
        let method = self.hub.turns.borrow().get(id).map_or(HOOK, |turn| turn.method);
        let origin = self.unlink_turn(entity, id).map_or(Origin::Tell, |closed| closed.origin);
        self.recover(entity, origin, method, text);
    }

    fn call_name(&self, packed: u32) -> Option<Slot> {
        self.calls.borrow().name(packed)
    }

    fn call_info(&self, packed: u32) -> Option<(Slot, Sent, EntityId, TurnId)> {
        let calls = self.calls.borrow();
        let name = calls.name(packed)?;
        calls.at(packed).map(|call| (name, call.sent(), call.target(), call.turn))
    }

    fn fail_call(&self, slot: Slot, fault: Fault, below: &mut Vec<TurnId>) -> bool {
        self.fail(slot, fault, below)
    }

    fn refuse_call(&self, slot: Slot, fault: Fault) {
        self.settle(slot, Err(fault));
    }

    fn sweep(&self, now: Instant, below: &mut Vec<TurnId>) -> Instant {
        let expired = self.calls.borrow().waiting(|call| call.deadline <= now);
        for slot in expired {
            bump(&self.hub.count.timeouts);
            self.fail(slot, Fault::TIMEOUT, below);
        }
        self.calls.borrow().next_deadline()
    }

    fn node_down(&self, node: Incarnation) {
        let lost = self
            .calls
            .borrow()
            .waiting(|call| matches!(call.sent(), Sent::There(worker) if worker.node == node));
        let mut below = Vec::new();
        for slot in lost {
            // A room dies with its node. Whether anything else ran is not known.
            let target = self.calls.borrow().at(slot.index).map(|call| call.target());
            let is_room = target.is_some_and(|target| target.home == node);
            let fault = if is_room { Fault::GONE } else { Fault::TIMEOUT };
            self.fail(slot, fault, &mut below);
        }
    }

    fn drop_unwanted(&self, entity: u32) {
        self.drop_requests(entity);
    }

    fn answer_encoded(&self, slot: Slot, status: Status, body: &[u8]) {
        self.complete_encoded(slot, status, body);
    }

    fn deliver_encoded(self: Rc<Self>, call: crate::host::remote::EncodedCall<'_>) {
        self.accept_encoded(call);
    }

    fn deliver_client(
        &self,
        target: Target,
        peer: &Peer,
        message: &crate::host::people::ClientMessage<'_>,
    ) -> Result<(), Status> {
        if !self.is_current(target) {
            return Err(Status::Gone);
        }
        self.accept_client(target.index, peer, message)
    }

    fn publish(self: Rc<Self>, topic: &str, body: &[u8]) {
        self.hear(topic, body);
    }

    fn fire_timer(self: Rc<Self>, timer: Slot) {
        self.timer_due(timer);
    }

    fn take_batch(&self, worker: u8) -> Option<crate::host::lane::Batch> {
        self.batch_for(worker)
    }

    fn handle_batch(self: Rc<Self>, batch: crate::host::lane::Batch) {
        self.accept_batch(batch);
    }

    fn send_probe(&self, worker: u8, probe: crate::host::cycle::Probe) {
        self.lane_probe(worker, probe);
    }
}
