//! The entities of one kind on one worker: their states, mailboxes and turns.

mod any;
mod in_place;
mod moving;
mod recover;
mod run;
mod saved;

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::Ordering;

use env::{FastMap, Instant};
use proto::frame::{CloseCode, Status};
use proto::link::{Slot, WorkerId};
use proto::{EntityId, Incarnation, MethodId, Scope, WireError, name_hash};
use store::{Claim, Documents};

use super::Freezing;
use super::calls::{Calls, Sent};
use super::event::Event;
use super::hub::{Hub, Ready, What, bump, drop_quietly, panic_text};
use super::index::Index;
use super::lane::Lanes;
use super::mail::{
    Body, HOOK, IN_PLACE, Mail, Mailbox, Mailroom, NONE, Origin, Sender, SenderForm,
};
use super::timers::TimerTable;
use super::topics::Ears;
use super::turns::{NewTurn, TurnId};
use super::watch::method_path;
use crate::cx::{Cx, Peer, Ref};
use crate::data::{Changes, Found, Sheets};
use crate::entity::{Class, Entity, Hook, Hooks, KindInfo, OnPanic};
use crate::error::Fault;
use crate::placing::USHER;
use crate::step::{Step, Turn};

/// Where an entity is within its worker. A stale one names nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    pub(crate) shard: u16,
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// It lies in the ready queue, or is running.
pub(crate) const READY: u8 = 1;
/// An exclusive turn is open.
pub(crate) const BUSY: u8 = 2;
/// Its document is not there yet.
pub(crate) const LOADING: u8 = 4;
/// It ends with the turn that runs.
pub(crate) const CLOSING: u8 = 8;
/// It panicked too often.
pub(crate) const QUARANTINED: u8 = 16;
/// It ends with its open turns, which were told.
pub(crate) const ENDING: u8 = 32;
/// It may have changed since it was last looked at for saving.
pub(crate) const TOUCHED: u8 = 64;

/// It is about to move to another node: no turn of it begins. With `LOADING`, it was packed.
pub(crate) const FROZEN: u8 = 128;

/// One entity: a line of the cache.
#[repr(align(64))]
pub(crate) struct EntitySlot<E> {
    pub state: Option<Rc<RefCell<E>>>,
    pub home: Incarnation,
    pub key: u64,
    pub generation: u32,
    pub mailbox: Mailbox,
    /// Its first open turn.
    pub turns: u32,
    /// Its first timer.
    pub timers: u32,
    pub open: u16,
    pub flags: u8,
    pub used: bool,
}

/// All entities of the shard.
pub(crate) struct Cells<E: Entity> {
    pub slots: Vec<EntitySlot<E>>,
    pub free: Vec<u32>,
    /// Positions by home and key.
    pub ids: Index,
    pub room: Mailroom<E>,
}

/// Limits of the kind, with the node's where it has none of its own.
pub(crate) struct Limits {
    pub mailbox_max: u32,
    pub calls_max: u32,
    /// Most calls to the kind that this worker has in flight.
    pub in_flight_max: u32,
    pub turns_max: u16,
}

/// One kind on one worker.
pub(crate) struct Shard<E: Entity> {
    pub hub: Rc<Hub>,
    pub index: u16,
    /// Whether entities of the kind may live here.
    pub hosted: Cell<bool>,
    /// The only node that offers the kind and its workers, if that is known: then an entity's key
    /// says where it is.
    pub sole: Cell<Option<(Incarnation, u8)>>,
    pub cells: RefCell<Cells<E>>,
    pub calls: RefCell<Calls<E>>,
    pub timers: RefCell<TimerTable<E>>,
    pub lanes: RefCell<Lanes<E>>,
    pub limits: Limits,
    methods: FastMap<u32, u16>,
    /// Clients that are bound to an entity.
    pub peers: RefCell<FastMap<u32, Vec<Peer>>>,
    /// When entities panicked lately.
    panics: RefCell<FastMap<u32, Vec<Instant>>>,
    pub ears: RefCell<Ears<E>>,
    /// What the call gave that was answered in place.
    answered: RefCell<Option<Result<E::Reply, Box<Fault>>>>,
    /// Messages handled, by method; hooks first.
    counts: Box<[Cell<u64>]>,
    /// Messages refused before their handler, by method.
    refusals: Box<[Cell<u64>]>,
    /// What the store has of the entities that are kept there.
    pub sheets: RefCell<FastMap<u32, Sheets>>,
    /// Makes keyed entities instead of `Entity::create`.
    pub factory: RefCell<Option<Rc<dyn Fn(u64) -> Option<E>>>>,
}

/// Most calls to a service that one worker has in flight, unless its kind says otherwise.
const SERVICE_CALLS_MAX: u32 = 888;

/// How many panics within the window quarantine an entity.
const PANICS_MAX: usize = 3;

#[inline(always)]
pub(crate) fn hash(home: Incarnation, key: u64) -> u64 {
    (key ^ home.0.rotate_left(29)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The position of an entity that is not at the first place of its hash.
#[inline(never)]
pub(crate) fn find_on<E>(
    ids: &Index,
    slots: &[EntitySlot<E>],
    home: Incarnation,
    key: u64,
) -> Option<u32> {
    ids.find(hash(home, key), |index| {
        let slot = &slots[index as usize];
        slot.key == key && slot.home == home
    })
}

impl<E: Entity> Cells<E> {
    fn new() -> Self {
        Cells { slots: Vec::new(), free: Vec::new(), ids: Index::new(), room: Mailroom::new() }
    }

    #[inline]
    pub fn find(&self, home: Incarnation, key: u64) -> Option<u32> {
        self.ids.find(hash(home, key), |index| {
            let slot = &self.slots[index as usize];
            slot.key == key && slot.home == home
        })
    }

    #[inline]
    pub fn get_mut(&mut self, index: u32) -> Option<&mut EntitySlot<E>> {
        self.slots.get_mut(index as usize).filter(|slot| slot.used)
    }

    pub fn get(&self, index: u32) -> Option<&EntitySlot<E>> {
        self.slots.get(index as usize).filter(|slot| slot.used)
    }

    /// How many entities there are.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    fn insert(
        &mut self,
        home: Incarnation,
        key: u64,
        state: Option<Rc<RefCell<E>>>,
        flags: u8,
    ) -> u32 {
        let index = match self.free.pop() {
            Some(index) => {
                let slot = &mut self.slots[index as usize];
                slot.state = state;
                slot.home = home;
                slot.key = key;
                slot.flags = flags;
                slot.used = true;
                index
            }
            None => {
                let index = self.slots.len() as u32;
                self.slots.push(EntitySlot {
                    state,
                    home,
                    key,
                    generation: 0,
                    mailbox: Mailbox::EMPTY,
                    turns: NONE,
                    timers: NONE,
                    open: 0,
                    flags,
                    used: true,
                });
                index
            }
        };
        let Cells { ids, slots, .. } = self;
        ids.insert(index, |index| {
            let slot = &slots[index as usize];
            hash(slot.home, slot.key)
        });
        index
    }

    fn remove(&mut self, index: u32) -> Option<Rc<RefCell<E>>> {
        let Cells { ids, slots, free, .. } = self;
        ids.remove(index, |index| {
            let slot = &slots[index as usize];
            hash(slot.home, slot.key)
        });
        free.push(index);
        let slot = &mut slots[index as usize];
        slot.generation = slot.generation.wrapping_add(1);
        slot.used = false;
        slot.flags = 0;
        slot.open = 0;
        slot.state.take()
    }
}

impl<E: Entity> Shard<E> {
    pub fn new(hub: Rc<Hub>, index: u16) -> Rc<Self> {
        let mut methods = FastMap::default();
        for (position, method) in E::KIND.methods.iter().enumerate() {
            if method.pattern.is_none() {
                continue;
            }
            methods.insert(method.id.0, position as u16);
            for alias in method.aliases {
                let mut id = MethodId::of(alias);
                if !method.field.is_empty() {
                    id = MethodId::in_component(name_hash(method.field), id);
                }
                methods.entry(id.0).or_insert(position as u16);
            }
        }
        let or = |own: u32, node: u32| if own == 0 { node } else { own };
        let (kind, options) = (E::KIND, &hub.options);
        let limits = Limits {
            mailbox_max: or(kind.mailbox_max, options.mailbox_max),
            calls_max: or(kind.calls_max, options.entity_calls_max),
            in_flight_max: match (kind.in_flight_max, kind.class) {
                (0, Class::Service) => SERVICE_CALLS_MAX.min(options.calls_max),
                (0, _) => options.calls_max,
                (own, _) => own.min(options.calls_max),
            },
            turns_max: or(kind.turns_max, options.entity_turns_max).min(u32::from(u16::MAX)) as u16,
        };
        hub.watch.pulse().add_kind(kind);
        Rc::new(Shard {
            index,
            hosted: Cell::new(false),
            sole: Cell::new(None),
            cells: RefCell::new(Cells::new()),
            calls: RefCell::new(Calls::new(index)),
            timers: RefCell::new(TimerTable::new()),
            lanes: RefCell::new(Lanes::new()),
            limits,
            methods,
            peers: RefCell::default(),
            panics: RefCell::default(),
            ears: RefCell::new(Ears::new()),
            answered: RefCell::new(None),
            counts: vec![Cell::new(0); kind.methods.len() + 1].into(),
            refusals: vec![Cell::new(0); kind.methods.len()].into(),
            sheets: RefCell::default(),
            factory: RefCell::new(None),
            hub,
        })
    }

    /// The position of a method.
    pub fn method(&self, id: MethodId) -> Option<u16> {
        self.methods.get(&id.0).copied()
    }

    /// A message was refused before its handler: for who sent it, how fast, or its arguments.
    pub fn count_refusal(&self, method: u16) {
        self.refusals.get(usize::from(method)).into_iter().for_each(bump);
    }

    /// The id of the entity at `index`.
    pub fn id_of(&self, index: u32) -> EntityId {
        let cells = self.cells.borrow();
        match cells.slots.get(index as usize) {
            Some(slot) => EntityId { kind: E::KIND.id, home: slot.home, key: slot.key },
            None => EntityId { kind: E::KIND.id, ..EntityId::default() },
        }
    }

    pub fn target_of(&self, index: u32) -> Option<Target> {
        let cells = self.cells.borrow();
        let slot = cells.get(index)?;
        Some(Target { shard: self.index, index, generation: slot.generation })
    }

    /// Whether the node has room for one more entity.
    fn has_room(&self) -> bool {
        self.hub.entities.get() < self.hub.options.entities_max
    }

    /// Adds an entity; its `Created` hook is its first turn.
    ///
    /// # Errors
    ///
    /// `BUSY` if the worker is full or the id is taken.
    pub fn add(
        self: &Rc<Self>,
        home: Incarnation,
        key: u64,
        state: Option<E>,
    ) -> Result<u32, Fault> {
        if !self.has_room() {
            bump(&self.hub.count.busy);
            return Err(Fault::BUSY);
        }
        let flags = if state.is_some() { 0 } else { LOADING };
        let state = state.map(|state| Rc::new(RefCell::new(state)));
        let mut cells = self.cells.borrow_mut();
        let is_there = flags == 0;
        let index = cells.insert(home, key, state, flags);
        self.hub.entities.set(self.hub.entities.get() + 1);
        if is_room::<E>(home) {
            self.hub.rooms().rooms.fetch_add(1, Ordering::Relaxed);
        }
        if is_there && E::KIND.hooks.has(Hooks::CREATED) {
            self.push(&mut cells, index, hook_mail(Hook::Created));
        }
        drop(cells);
        if is_there {
            self.begin_steps(index);
        }
        Ok(index)
    }

    /// Adds the room `id`, the next one of this worker, of the state that `make` gives.
    pub fn spawn(
        self: &Rc<Self>,
        id: EntityId,
        make: impl FnOnce() -> Result<Option<E>, Fault>,
    ) -> Result<(), Fault> {
        if !self.hosted.get() || E::KIND.class == Class::Service {
            return Err(Fault::NOT_FOUND);
        }
        let state = make()?.ok_or(Fault::NOT_FOUND)?;
        self.hub.next_room.set(self.hub.next_room.get() + 1);
        self.add(id.home, id.key, Some(state)).map(drop)
    }

    /// Has the entity stepped from now on, if its kind is a scene.
    fn begin_steps(&self, index: u32) {
        let (kind, id) = (E::KIND, self.id_of(index));
        if kind.steps_per_second > 0
            && let Some(target) = self.target_of(index)
        {
            let (now, rate) = (self.hub.now.get(), kind.steps_per_second);
            self.hub.scenes.borrow_mut().add(now, target, (kind.name, id), rate);
        }
    }

    /// Runs a hook; those of scenes' steps are measured.
    fn run_hook(&self, turn: Turn<'_, E>, index: u32, hook: Hook) -> Step {
        if let Hook::Moved = hook {
            self.settle_timers(index);
            if !E::KIND.hooks.has(Hooks::MOVED) {
                return turn.skip();
            }
        }
        let Hook::Step(steps) = hook else { return E::hook(turn, hook) };
        let before = self.hub.watch.now();
        let step = E::hook(turn, hook);
        let took = self.hub.watch.now() - before;
        let place = (self.index, index);
        self.hub.scenes.borrow_mut().ran(place, before, steps, took);
        step
    }

    /// Puts mail into a mailbox and makes the entity ready, if nothing holds it up.
    #[inline(always)]
    pub fn push(&self, cells: &mut Cells<E>, index: u32, mail: Mail<E>) {
        let Cells { slots, room, .. } = cells;
        let slot = &mut slots[index as usize];
        room.push(&mut slot.mailbox, mail);
        self.make_ready(slot, index);
    }

    /// Makes an entity with new mail ready, if nothing holds it up.
    #[inline(always)]
    pub fn make_ready(&self, slot: &mut EntitySlot<E>, index: u32) {
        if slot.flags & (READY | BUSY | LOADING | QUARANTINED) == 0 {
            slot.flags |= READY;
            self.hub.push_ready(Ready::Entity { shard: self.index, index });
        }
    }

    /// Whether the entity takes one more message from outside.
    #[inline]
    pub fn accepts(&self, cells: &Cells<E>, index: u32) -> Result<(), Fault> {
        let slot = &cells.slots[index as usize];
        if slot.flags & (CLOSING | QUARANTINED) != 0 {
            return Err(if slot.flags & CLOSING != 0 { Fault::GONE } else { Fault::UNAVAILABLE });
        }
        if slot.mailbox.len >= self.limits.mailbox_max
            || cells.room.len() >= self.hub.options.mail_max
        {
            bump(&self.hub.count.busy);
            return Err(Fault::BUSY);
        }
        Ok(())
    }

    /// The entity that `id` names, made or asked for if it is a keyed one that belongs here.
    pub fn find_or_activate(self: &Rc<Self>, id: EntityId) -> Result<u32, Fault> {
        if let Some(index) = self.cells.borrow().find(id.home, id.key) {
            return Ok(index);
        }
        if !self.may_have(id) {
            return Err(Fault::NOT_FOUND);
        }
        if id.home != Incarnation::NONE {
            return Err(self.missing_room(id));
        }
        if E::KIND.class == Class::Room {
            return Err(Fault::NOT_FOUND);
        }
        let by_event = E::KIND.document || self.hub.options.activate_by_event;
        if by_event && E::KIND.class != Class::Service {
            let index = self.add(id.home, id.key, None)?;
            self.hub.event(Event::Activate(self.id_of(index)));
            return Ok(index);
        }
        match self.create(id) {
            Ok(Some(state)) => self.add(id.home, id.key, Some(state)),
            Ok(None) => Err(Fault::NOT_FOUND),
            Err(fault) => Err(fault),
        }
    }

    /// Whether the kind is offered here, and in the zone or channel of `id` if it is local.
    #[inline]
    pub fn may_have(&self, id: EntityId) -> bool {
        self.hosted.get()
            && (matches!(E::KIND.scope, Scope::Global)
                || self.hub.namespaces.has(E::KIND.scope, id.namespace()))
    }

    /// Makes the state of a keyed entity; game code, so it may panic.
    fn create(&self, id: EntityId) -> Result<Option<E>, Fault> {
        let factory = self.factory.borrow().clone();
        let key = Ref::<E>::stored(id.key).key();
        let made = catch_unwind(AssertUnwindSafe(|| match &factory {
            Some(factory) => factory(key),
            None => E::create(key),
        }));
        made.map_err(|panic| {
            self.report_panic(id, "create".to_owned(), panic_text(&*panic));
            Fault::FAILED
        })
    }

    /// Why there is no room with `id`: rooms are numbered, so it is known whether there ever was.
    pub fn missing_room(&self, id: EntityId) -> Fault {
        let was_made = id.key >> 8 < self.hub.next_room.get();
        if id.home == self.hub.me.node && was_made { Fault::GONE } else { Fault::NOT_FOUND }
    }

    /// Takes who waits for the message that is being handled.
    #[inline]
    pub fn take_origin(&self) -> Origin {
        let mut cells = self.cells.borrow_mut();
        match cells.room.node_mut(self.hub.running.node.get()) {
            Some(node) => node.take_origin(),
            None if self.hub.running.node.get() == IN_PLACE => Origin::InPlace,
            None => Origin::Tell,
        }
    }

    /// Looks at who waits for the message that is being handled, and who sent it.
    pub fn with_origin<R>(&self, look: impl FnOnce(&Origin, Sender) -> R) -> R {
        let cells = self.cells.borrow();
        match cells.room.node(self.hub.running.node.get()) {
            Some(node) => node.with_origin(|origin| look(origin, node.sender)),
            None if self.hub.running.node.get() == IN_PLACE => {
                look(&Origin::InPlace, self.hub.running.sender.get())
            }
            None => look(&Origin::Tell, self.hub.running.sender.get()),
        }
    }

    /// Whether a message that somebody waits for is still to be handled.
    #[inline]
    fn is_wanted(&self, origin: &Origin) -> bool {
        match origin {
            Origin::Timer(timer) => self.timer_wanted(*timer),
            origin => self.deadline_of(origin) > self.hub.now.get(),
        }
    }

    /// Until when somebody waits; a call that was dropped is over.
    #[inline]
    fn deadline_of(&self, origin: &Origin) -> Instant {
        match origin {
            Origin::Local(call) => {
                self.calls.borrow_mut().get_mut(*call).map_or(Instant::ZERO, |call| call.deadline)
            }
            Origin::Request(request) => {
                let requests = self.hub.requests.borrow();
                requests.get(*request).map_or(Instant::ZERO, |request| request.deadline)
            }
            Origin::Remote(remote) => remote.deadline,
            Origin::Tell | Origin::InPlace | Origin::Timer(_) | Origin::Client(..) => {
                Instant::NEVER
            }
        }
    }

    #[inline(never)]
    fn skip_unwanted(&self, origin: Origin) {
        match origin {
            Origin::Timer(timer) => self.timer_over(timer),
            origin => {
                bump(&self.hub.count.expired_mail);
                self.answer(origin, Err(Fault::TIMEOUT));
            }
        }
    }

    /// Makes an entity ready that may have been held up.
    pub fn nudge(&self, index: u32) {
        let mut cells = self.cells.borrow_mut();
        let Some(slot) = cells.get_mut(index) else { return };
        let idle = slot.flags & (READY | BUSY | LOADING | QUARANTINED) == 0;
        if idle && (slot.mailbox.len > 0 || slot.flags & CLOSING != 0) {
            slot.flags |= READY;
            drop(cells);
            self.hub.push_ready(Ready::Entity { shard: self.index, index });
        }
    }

    /// Makes the running message an open turn. `None` if the worker has too many.
    #[inline]
    pub fn open_turn(&self, entity: u32) -> Option<TurnId> {
        let running = &self.hub.running;
        let mut turns = self.hub.turns.borrow_mut();
        if turns.open_count() >= self.hub.options.turns_max {
            return None;
        }
        let method = running.method.get();
        if running.node.get() == IN_PLACE {
            tracing::error!(kind = E::KIND.name, method, "a method that is declared plain waits");
            return None;
        }
        let exclusive = !interleaves::<E>(method);
        let mut cells = self.cells.borrow_mut();
        let (origin, sender) = match cells.room.node_mut(running.node.get()) {
            Some(node) => (node.take_origin(), node.sender),
            None => (Origin::Tell, running.sender.get()),
        };
        let deadline = self.deadline_of(&origin);
        let request = match &origin {
            Origin::Request(request) => Some(*request),
            _ => None,
        };
        let id = turns.open(NewTurn {
            shard: self.index,
            entity,
            method,
            exclusive,
            origin,
            sender,
            deadline,
            calls_max: self.limits.calls_max,
        });
        if let Some(request) = request {
            self.hub.requests.borrow_mut().serve(request, id);
        }
        running.turn.set(id);
        if let Some(slot) = cells.get_mut(entity) {
            if let Some(turn) = turns.get_mut(id) {
                turn.next = slot.turns;
            }
            slot.turns = id.index;
            slot.open += 1;
            if exclusive {
                slot.flags |= BUSY;
            }
        }
        Some(id)
    }

    /// An async handler came to its end: answers. The turn itself ends when its future is dropped.
    pub fn finish(&self, id: TurnId, reply: Option<E::Reply>) {
        let origin = match self.hub.turns.borrow_mut().get_mut(id) {
            Some(turn) => std::mem::take(&mut turn.origin),
            None => return,
        };
        match reply {
            Some(reply) => self.answer(origin, Ok(reply)),
            None => self.answer_quiet(origin),
        }
    }

    /// Takes a turn from its entity's list and frees it; gives what it still held.
    pub fn unlink_turn(&self, entity: u32, id: TurnId) -> Option<super::turns::Closed> {
        let mut turns = self.hub.turns.borrow_mut();
        let turn = turns.get(id)?;
        let (exclusive, next, calls) = (turn.exclusive, turn.next, turn.calls.len());
        if !exclusive && calls > 0 {
            self.hub.end_calls(self.index, entity, calls as u32);
        }
        let mut cells = self.cells.borrow_mut();
        if let Some(slot) = cells.get_mut(entity) {
            if slot.turns == id.index {
                slot.turns = next;
            } else {
                turns.unlink(slot.turns, id.index, next);
            }
            slot.open -= 1;
            if exclusive {
                slot.flags &= !BUSY;
            }
        }
        turns.close(id)
    }

    /// Lets the entity go on after a turn that was open has ended.
    pub fn go_on(self: &Rc<Self>, entity: u32) {
        let (open, closing) = {
            let cells = self.cells.borrow();
            let Some(slot) = cells.get(entity) else { return };
            if slot.flags & BUSY != 0 {
                return;
            }
            (slot.turns != NONE, slot.flags & CLOSING != 0)
        };
        if closing {
            self.end(entity, CloseCode::Goodbye);
        }
        if open {
            for id in self.turns_of(entity) {
                let mut turns = self.hub.turns.borrow_mut();
                if let Some(turn) = turns.get_mut(id)
                    && std::mem::take(&mut turn.deferred)
                {
                    drop(turns);
                    self.hub.wake_turn(id);
                }
            }
        }
        if !closing {
            self.nudge(entity);
        }
    }

    /// The open turns of an entity, newest first.
    pub fn turns_of(&self, entity: u32) -> Vec<TurnId> {
        let mut found = Vec::new();
        let turns = self.hub.turns.borrow();
        let mut next = self.cells.borrow().get(entity).map_or(NONE, |slot| slot.turns);
        while let Some((id, turn)) = turns.at(next) {
            found.push(id);
            next = turn.next;
        }
        found
    }

    /// Ends an entity once its open turns are over: their awaits fail, and they run on to their
    /// ends. What still waits for something else after the time of a call is dropped.
    pub fn end(self: &Rc<Self>, index: u32, code: CloseCode) {
        let is_first = {
            let mut cells = self.cells.borrow_mut();
            let Some(slot) = cells.get_mut(index) else { return };
            if slot.open == 0 {
                drop(cells);
                return self.close(index, code, true);
            }
            let is_first = slot.flags & ENDING == 0;
            slot.flags |= CLOSING | ENDING;
            is_first
        };
        self.drop_mail(index, &Fault::GONE);
        if is_first {
            self.drop_timers(index);
            if let Some(target) = self.target_of(index) {
                let until = self.hub.now.get() + self.hub.options.call_wait;
                self.hub.endings.borrow_mut().push_back((until, target));
                self.hub.sweep_by(until);
            }
        }
        for turn in self.turns_of(index) {
            self.hub.cancel_turn(turn);
        }
    }

    /// Ends an entity: last hook, `Gone` for its mail and open turns, timers cancelled.
    pub fn close(self: &Rc<Self>, index: u32, code: CloseCode, with_hook: bool) {
        let Some(target) = self.target_of(index) else { return };
        let id = self.id_of(index);
        if let Some(slot) = self.cells.borrow_mut().get_mut(index) {
            // Nothing more comes in, and nothing makes it ready.
            slot.flags |= CLOSING | READY;
        }
        if E::KIND.document && with_hook {
            self.before_parting(index, id);
        }
        if with_hook && E::KIND.hooks.has(Hooks::DESTROYED) {
            self.run_hook_now(index, id, Hook::Destroyed);
        }
        self.drop_turns(index, &Fault::GONE);
        if E::KIND.document {
            self.part(index, id, with_hook);
        }
        self.drop_timers(index);
        let newcomers = {
            let cells = self.cells.borrow();
            let mailbox = cells.get(index).map(|slot| &slot.mailbox);
            mailbox.map(|mailbox| cells.room.newcomers(mailbox)).unwrap_or_default()
        };
        self.drop_mail(index, &Fault::GONE);
        self.forget(index, target);
        self.hub.event(Event::Gone { id, target, code, newcomers });
    }

    /// Takes an entity out that has left or ended: its state, who it knew, and what it heard.
    fn forget(self: &Rc<Self>, index: u32, target: Target) {
        self.peers.borrow_mut().remove(&index);
        self.panics.borrow_mut().remove(&index);
        self.unsubscribe_all(index);
        if E::KIND.document {
            // Whoever gets its place next is another, or the same one from its documents alone.
            let place = (self.index, index);
            self.hub.carried.borrow_mut().remove(&place);
            self.hub.came.borrow_mut().remove(&place);
        }
        if is_room::<E>(self.id_of(index).home) {
            self.hub.rooms().rooms.fetch_sub(1, Ordering::Relaxed);
        }
        let state = {
            let mut cells = self.cells.borrow_mut();
            let state = cells.remove(index);
            cells.room.shrink();
            state
        };
        self.hub.entities.set(self.hub.entities.get() - 1);
        if E::KIND.steps_per_second > 0 {
            self.hub.scenes.borrow_mut().remove((self.index, index));
        }
        drop_quietly(state);
        self.hub.clients.borrow_mut().owner_gone(target);
    }

    /// Drops the open turns of an entity; whoever waits for them is told `fault`.
    pub fn drop_turns(self: &Rc<Self>, index: u32, fault: &Fault) {
        for id in self.turns_of(index) {
            // What the turn waits for is given up, and what runs below it.
            self.hub.cancel_turn(id);
            if let Some(closed) = self.unlink_turn(index, id) {
                drop_quietly(closed.future);
                self.answer(closed.origin, Err(fault.clone()));
            }
        }
    }

    /// Answers all waiting mail of an entity with `fault`.
    pub fn drop_mail(&self, index: u32, fault: &Fault) {
        loop {
            let origin = {
                let mut cells = self.cells.borrow_mut();
                let Cells { slots, room, .. } = &mut *cells;
                let Some(slot) = slots.get_mut(index as usize) else { return };
                room.drop_next(&mut slot.mailbox)
            };
            let Some(origin) = origin else { return };
            self.answer(origin, Err(fault.clone()));
        }
    }

    /// Drops the requests of clients in a mailbox whose time is over.
    pub fn drop_requests(&self, index: u32) {
        loop {
            let origin = {
                let mut cells = self.cells.borrow_mut();
                let Cells { slots, room, .. } = &mut *cells;
                let Some(slot) = slots.get_mut(index as usize) else { return };
                room.drop_first(&mut slot.mailbox, |mail| {
                    mail.with_origin(|origin| {
                        matches!(origin, Origin::Request(_)) && !self.is_wanted(origin)
                    })
                })
            };
            let Some(origin) = origin else { return };
            self.skip_unwanted(origin);
        }
    }
}

/// Whether an entity with that home takes one of its node's slots.
fn is_room<E: Entity>(home: Incarnation) -> bool {
    home != Incarnation::NONE && E::KIND.id != USHER
}

/// Whether other turns may run while the method at `position` waits.
#[inline]
pub(crate) fn interleaves<E: Entity>(position: u16) -> bool {
    E::KIND.methods.get(usize::from(position)).is_some_and(|method| method.interleave)
}

pub(crate) fn hook_mail<E: Entity>(hook: Hook) -> Mail<E> {
    Mail {
        origin: Origin::Tell,
        sender: Sender::OWN,
        body: Body::Hook(Box::new(hook)),
        method: HOOK,
    }
}

/// A shard whose kind is hidden: what the hub and the drivers need of each.
pub(crate) trait AnyShard {
    fn kind(&self) -> &'static KindInfo;
    fn is_hosted(&self) -> bool;

    /// Whether the kind is offered here, and in the zone or channel of `id` if it is local.
    fn may_have(&self, id: EntityId) -> bool;
    /// That node, of so many workers, alone offers the kind.
    fn note_sole(&self, node: Option<(Incarnation, u8)>);
    fn stats(&self) -> ShardStats;
    fn handled(&self, method: u16) -> u64;
    fn refused(&self, method: u16) -> u64;
    fn clear(&self);

    // Entities.
    /// Handles the mail of the entities of `round` from `at` on, while they are of this shard;
    /// moves `at` on.
    fn run(self: Rc<Self>, round: &[Ready], at: &mut usize);
    /// A plain handler, or the first poll of an async one, panicked.
    fn handler_panicked(self: Rc<Self>, index: u32, text: String);
    fn target(&self, id: EntityId) -> Option<Target>;
    fn activate(self: Rc<Self>, id: EntityId) -> Result<(Target, bool), Fault>;
    fn activated(self: Rc<Self>, id: EntityId, loaded: Result<(), Fault>);
    fn destroy(self: Rc<Self>, index: u32, code: CloseCode) -> bool;
    /// Makes a room of the kind's own state.
    fn spawn_new(self: Rc<Self>) -> Result<EntityId, Fault>;
    fn loaded(
        self: Rc<Self>,
        id: EntityId,
        documents: Documents,
        claim: Claim,
    ) -> Result<(), String>;
    fn collect(self: Rc<Self>, index: u32) -> Option<Found>;
    fn written(&self, index: u32, is_stored: bool);
    fn evict(self: Rc<Self>, index: u32);
    /// Ends all that are kept in the store, but those that are on their way to other nodes.
    fn let_go_all(self: Rc<Self>, code: CloseCode);
    fn nudge_all(&self);

    // Moves between nodes.
    fn begin_freeze(&self, index: u32) -> bool;
    fn try_freeze(self: Rc<Self>, index: u32, hooked: &mut bool) -> Freezing;
    fn pack(&self, index: u32) -> Vec<u8>;
    fn pack_late(&self, index: u32) -> Vec<u8>;
    fn thaw(self: Rc<Self>, index: u32, claim: Option<Claim>);
    fn depart(self: Rc<Self>, index: u32, to: WorkerId);
    fn arrive(
        self: Rc<Self>,
        id: EntityId,
        stored: (Documents, Claim),
        packed: (&[u8], &[Vec<u8>]),
        peers: &[(Peer, bool)],
    ) -> Result<(), String>;
    fn take_late(self: Rc<Self>, id: EntityId, packed: &[u8]) -> Result<(), WireError>;
    fn reroute_calls(&self, id: EntityId, to: WorkerId);
    fn send_held(self: Rc<Self>, to: WorkerId, held: super::routes::Held);
    fn lane_marker(&self, worker: u8, id: EntityId, number: u64);
    /// Whether it waits for its documents and is not one that moves away.
    fn is_loading(&self, index: u32) -> bool;

    fn lift_quarantine(self: Rc<Self>, id: EntityId) -> bool;
    fn hook(self: Rc<Self>, index: u32, hook: Hook);
    fn hook_all(self: Rc<Self>, hook: Hook);
    /// As `hook_all` for at most `max` places from `first` on. Gives where to go on.
    fn hook_some(self: Rc<Self>, hook: &Hook, first: u32, max: u32) -> Option<u32>;
    fn replan(&self);
    fn id_at(&self, index: u32) -> Option<EntityId>;
    fn is_current(&self, target: Target) -> bool;
    fn bind_peer(&self, index: u32, peer: &Peer, bound: bool);

    // Turns.
    fn is_busy(&self, entity: u32) -> bool;
    fn exclusive_turn(&self, entity: u32) -> Option<TurnId>;
    fn open_turns(&self, entity: u32) -> Vec<TurnId>;
    fn turn_done(self: Rc<Self>, entity: u32, id: TurnId);
    /// A turn that nobody waits for waits again.
    fn turn_given_up(self: Rc<Self>, entity: u32, id: TurnId);
    /// The entity's open turns had their time to end.
    fn end_now(self: Rc<Self>, index: u32);
    fn turn_panicked(self: Rc<Self>, entity: u32, id: TurnId, text: String);

    // Calls.
    fn call_name(&self, packed: u32) -> Option<Slot>;
    fn call_info(&self, packed: u32) -> Option<(Slot, Sent, EntityId, TurnId)>;
    fn fail_call(&self, slot: Slot, fault: Fault, below: &mut Vec<TurnId>) -> bool;
    fn refuse_call(&self, slot: Slot, fault: Fault);
    fn sweep(&self, now: Instant, below: &mut Vec<TurnId>) -> Instant;
    fn node_down(&self, node: Incarnation);
    fn drop_unwanted(&self, entity: u32);
    fn answer_encoded(&self, slot: Slot, status: Status, body: &[u8]);
    fn deliver_encoded(self: Rc<Self>, call: super::remote::EncodedCall<'_>);

    /// `Gone` if the target is no longer there.
    fn deliver_client(
        &self,
        target: Target,
        peer: &Peer,
        message: &super::people::ClientMessage<'_>,
    ) -> Result<(), Status>;
    fn publish(self: Rc<Self>, topic: &str, body: &[u8]);

    // Timers and lanes.
    fn fire_timer(self: Rc<Self>, timer: Slot);
    fn take_batch(&self, worker: u8) -> Option<super::lane::Batch>;
    fn handle_batch(self: Rc<Self>, batch: super::lane::Batch);
    fn send_probe(&self, worker: u8, probe: super::cycle::Probe);
}

/// What a shard holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardStats {
    /// Name of the kind.
    pub kind: &'static str,
    /// Entities.
    pub entities: usize,
    /// Messages that wait, all mailboxes together.
    pub mail: u32,
    /// Messages in the longest mailbox.
    pub mail_longest: u32,
    /// Calls to this kind that wait for an answer.
    pub calls: u32,
    /// Timers.
    pub timers: u32,
    /// Entities with an exclusive turn open.
    pub busy: usize,
    /// Entities shut off after panics.
    pub quarantined: usize,
}

/// An entity as the sender of messages.
#[inline]
fn sender_of<E: Entity>(slot: &EntitySlot<E>) -> Sender {
    let form = if slot.home == Incarnation::NONE { SenderForm::Keyed } else { SenderForm::Room };
    Sender::new(slot.key, E::KIND.id, form)
}
