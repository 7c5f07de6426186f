//! What all shards of a worker share: time, ready queue, turns, alarms, outputs.

use std::any::Any;
use std::cell::{Cell, OnceCell, Ref, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use env::{FastMap, Instant, Random, WallTime, Wheel};
use proto::link::{Slot, WorkerId};
use proto::{EntityId, Incarnation, KindId};

use super::HostSetup;
use super::calls::{SHARDS_MAX, Waiter, shard_of};
use super::cycle::Graph;
use super::event::{Event, Events};
use super::frames::Frames;
use super::lane::{Depth, Neighbours};
use super::mail::{IN_PLACE, NONE, Origin, RemoteOrigin, Sender};
use super::namespaces::Namespaces;
use super::people::ClientLane;
use super::requests::Requests;
use super::router::Router;
use super::routes::Routes;
use super::shard::{AnyShard, Shard, Target};
use super::sleep::Sleeps;
use super::steps::Scenes;
use super::turns::{TurnId, Turns, Wakes, turn_waker};
use super::watch::Watch;
use crate::data::{Changes, Desk, Stores};
use crate::entity::{Entity, KindInfo};
use crate::error::Fault;
use crate::options::HostOptions;
use crate::placing::RoomCount;
use crate::turn::{Placed, Slots};

/// Places for shards that are found without a look into the table of all.
const NEAR: usize = 64;

/// Most origins of answered messages whose memory is kept.
const ORIGINS_KEPT: usize = 1_024;

/// What is ready to run.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ready {
    /// An entity with mail.
    Entity { shard: u16, index: u32 },
    /// A turn whose wait is over.
    Turn(TurnId),
}

/// What comes due.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Alarm {
    Timer { shard: u16, timer: Slot },
    Sleep(Slot),
}

/// What is running: for panics, and for the context of a plain handler.
pub(crate) struct Running {
    pub what: Cell<What>,
    /// The message's node in its shard's mailroom, if its origin is more than a tell; else `NONE`.
    pub node: Cell<u32>,
    pub method: Cell<u16>,
    /// The turn that the message became, while that is polled first.
    pub turn: Cell<TurnId>,
    /// Who sent a message that has no node.
    pub sender: Cell<Sender>,
    /// Whether an entity may have ended itself.
    pub is_closing: Cell<bool>,
}

/// What was running when a call was answered in place.
pub(crate) struct Outer {
    what: What,
    node: u32,
    method: u16,
    turn: TurnId,
    sender: Sender,
    is_closing: bool,
}

/// Which entity or turn is running.
#[derive(Clone, Copy, Debug)]
pub(crate) enum What {
    Nothing,
    Entity { shard: u16, index: u32 },
    Turn { shard: u16, index: u32, turn: TurnId },
}

impl Running {
    fn new() -> Self {
        Running {
            what: Cell::new(What::Nothing),
            node: Cell::new(NONE),
            method: Cell::new(0),
            turn: Cell::new(TurnId::NONE),
            sender: Cell::new(Sender::OWN),
            is_closing: Cell::new(false),
        }
    }

    /// A handler runs in place of the call that it answers. Gives what to restore after it.
    #[inline(always)]
    pub fn begin_in_place(&self, shard: u16, index: u32, method: u16, sender: Sender) -> Outer {
        Outer {
            what: self.what.replace(What::Entity { shard, index }),
            node: self.node.replace(IN_PLACE),
            method: self.method.replace(method),
            turn: self.turn.replace(TurnId::NONE),
            sender: self.sender.replace(sender),
            is_closing: self.is_closing.replace(false),
        }
    }

    /// The handler that ran in place is over.
    #[inline(always)]
    pub fn restore(&self, outer: Outer) {
        self.what.set(outer.what);
        self.node.set(outer.node);
        self.method.set(outer.method);
        self.turn.set(outer.turn);
        self.sender.set(outer.sender);
        self.is_closing.set(outer.is_closing);
    }
}

/// Things that a worker's host counts.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub late_replies: Cell<u64>,
    pub dropped_replies: Cell<u64>,
    pub expired_mail: Cell<u64>,
    pub timeouts: Cell<u64>,
    pub busy: Cell<u64>,
    pub denied: Cell<u64>,
    pub bad_arguments: Cell<u64>,
    pub cycles: Cell<u64>,
    pub panics: Cell<u64>,
    pub probes: Cell<u64>,
    pub timer_overruns: Cell<u64>,
    pub replaced: Cell<u64>,
    pub too_long: Cell<u64>,
}

pub(crate) fn bump(counter: &Cell<u64>) {
    counter.set(counter.get() + 1);
}

/// The shared part of a worker's host.
pub(crate) struct Hub {
    pub options: HostOptions,
    pub me: WorkerId,
    pub workers: u8,
    pub namespaces: Namespaces,
    pub now: Cell<Instant>,
    pub wall: Cell<WallTime>,
    pub random: RefCell<Random>,
    pub router: Rc<dyn Router>,
    shards: RefCell<Shards>,
    /// Most of the shards, each at a place of its own: by the lowest bits of its kind.
    /// Each holds a `Weak<Shard<T>>`.
    near: [OnceCell<Box<dyn Any>>; NEAR],
    /// What became ready since the host took the last round.
    pub ready: RefCell<Vec<Ready>>,
    pub turns: RefCell<Turns>,
    pub slots: Rc<Slots>,
    pub running: Running,
    /// Whether the host's turn is under way; what is sent then needs no wake.
    pub in_turn: Cell<bool>,
    /// Whether the driver was told of something sent between turns.
    poked: Cell<bool>,
    /// Calls in flight of entities' interleaved turns, by shard and entity.
    pub shared_calls: RefCell<FastMap<(u16, u32), u32>>,
    pub call_wait_nanos: u64,
    /// The waker of the turn that is being polled, by its address, and the turn.
    pub polled: Cell<(*const (), TurnId)>,
    /// Calls that the turn that is being polled may still have answered in place.
    pub in_place: Cell<u32>,
    pub alarms: RefCell<Wheel<Alarm>>,
    pub sleeps: RefCell<Sleeps>,
    pub scenes: RefCell<Scenes>,
    /// Entities that end with their open turns, and how long they wait for those.
    pub endings: RefCell<VecDeque<(Instant, Target)>>,
    /// When the earliest deadline may have come.
    pub sweep_at: Cell<Instant>,
    pub next_room: Cell<u64>,
    pub next_tag: Cell<u64>,
    pub clients: RefCell<ClientLane>,
    pub requests: RefCell<Requests>,
    pub frames: RefCell<Frames>,
    pub events: RefCell<Events>,
    /// How many shards listen to each topic.
    pub topics: RefCell<BTreeMap<String, u32>>,
    pub dirty_lanes: RefCell<Vec<(u16, u8)>>,
    /// How full the queues to the other workers of the node are.
    pub depths: RefCell<Vec<Depth>>,
    /// Who takes batches to them within a turn.
    pub neighbours: RefCell<Option<Rc<dyn Neighbours>>>,
    /// Memory for the origins of messages from other workers.
    #[expect(clippy::vec_box, reason = "the boxes are what is kept: each goes into a mailbox")]
    origins: RefCell<Vec<Box<RemoteOrigin>>>,
    pub pool: RefCell<Rc<dyn super::sleep::BlockingPool>>,
    pub wakes: Arc<Wakes>,
    pub watch: Watch,
    pub count: Counters,
    pub entities: Cell<u32>,
    /// Rooms and seats of the whole node.
    rooms: RefCell<Arc<RoomCount>>,
    pub timers: Cell<u32>,
    /// Timers among them that go by the calendar.
    pub calendars: Cell<u32>,
    /// Where encoded bytes are built that nobody keeps.
    pub scratch: RefCell<Vec<u8>>,
    /// Entities kept in the store that may have changed.
    pub touched: RefCell<Vec<(u16, u32)>>,
    /// What had changed last of such that have ended, until their end is told.
    pub parting: RefCell<BTreeMap<EntityId, Changes>>,
    /// In which store which kinds are kept.
    pub stores: RefCell<Stores>,
    /// The stores whose entities stand still, a bit for each number, and turns of such entities that
    /// would go on.
    pub held: Cell<u64>,
    pub held_turns: RefCell<Vec<TurnId>>,
    /// Transactions of each entity whose handlers have not been told of their ends.
    pub deals: RefCell<BTreeMap<(u16, u32), u32>>,
    /// What entities want of the store.
    pub desk: RefCell<Desk>,
    /// The changes of records that sagas can name.
    pub amends: RefCell<Arc<store::Amends>>,
    /// Where entities are that may move.
    pub routes: Rc<Routes>,
    /// What entities that are about to move, or have moved, carry along.
    pub carried: RefCell<BTreeMap<(u16, u32), BTreeMap<String, Vec<u8>>>>,
    /// The timers that entities had that have moved here and were not told of it yet.
    pub came: RefCell<BTreeMap<(u16, u32), Vec<Slot>>>,
}

#[derive(Default)]
struct Shards {
    list: Vec<ShardEntry>,
    /// Positions in `list` by the lowest bits of the kind, without collisions.
    table: Vec<Option<(KindId, u16)>>,
}

struct ShardEntry {
    typed: Box<dyn Any>,
    any: Rc<dyn AnyShard>,
}

impl Hub {
    pub fn new(options: HostOptions, setup: HostSetup) -> Rc<Self> {
        let HostSetup { me, workers, clock, random, router } = setup;
        let now = clock.now();
        let wall = clock.wall();
        let routes = router.routes().unwrap_or_default();
        Rc::new(Hub {
            me,
            workers,
            namespaces: Namespaces::new(&options.zones, &options.channels),
            now: Cell::new(now),
            wall: Cell::new(wall),
            random: RefCell::new(random),
            router,
            shards: RefCell::default(),
            near: [const { OnceCell::new() }; NEAR],
            ready: RefCell::default(),
            turns: RefCell::new(Turns::new()),
            slots: Slots::new(),
            running: Running::new(),
            in_turn: Cell::new(false),
            poked: Cell::new(false),
            shared_calls: RefCell::default(),
            call_wait_nanos: u64::try_from(options.call_wait.as_nanos()).unwrap_or(u64::MAX - 1),
            polled: Cell::new((std::ptr::null(), TurnId::NONE)),
            in_place: Cell::new(0),
            alarms: RefCell::new(Wheel::new(now, Wheel::<Alarm>::TICK)),
            sleeps: RefCell::new(Sleeps::new()),
            scenes: RefCell::default(),
            endings: RefCell::default(),
            sweep_at: Cell::new(Instant::NEVER),
            next_room: Cell::new(1),
            rooms: RefCell::default(),
            next_tag: Cell::new(1),
            clients: RefCell::new(ClientLane::new()),
            requests: RefCell::default(),
            frames: RefCell::new(Frames::new()),
            events: RefCell::new(Events::new()),
            topics: RefCell::default(),
            dirty_lanes: RefCell::default(),
            depths: RefCell::default(),
            neighbours: RefCell::new(None),
            origins: RefCell::default(),
            pool: RefCell::new(Rc::new(super::sleep::Inline)),
            wakes: Wakes::new(),
            watch: Watch::new(clock, options.slow_handler),
            count: Counters::default(),
            entities: Cell::new(0),
            timers: Cell::new(0),
            calendars: Cell::new(0),
            scratch: RefCell::default(),
            touched: RefCell::default(),
            parting: RefCell::default(),
            stores: RefCell::default(),
            held: Cell::new(0),
            held_turns: RefCell::default(),
            deals: RefCell::default(),
            desk: RefCell::default(),
            amends: RefCell::default(),
            routes,
            carried: RefCell::default(),
            came: RefCell::default(),
            options,
        })
    }

    /// The shard of `T`, made if this is the first that is heard of the kind.
    ///
    /// # Panics
    ///
    /// If another type has the same kind name.
    #[inline(always)]
    pub fn shard<T: Entity>(self: &Rc<Self>) -> Rc<Shard<T>> {
        // The place is known when this is compiled: no table's address is looked up.
        if let Some(near) = self.near[T::KIND.id.0 as usize % NEAR].get()
            // By reference, so that what follows need not wait for the types to be compared.
            && let Some(shard) = near.downcast_ref::<Weak<Shard<T>>>()
            && let Some(shard) = shard.upgrade()
        {
            return shard;
        }
        self.any_shard_of::<T>()
    }

    #[inline(never)]
    fn any_shard_of<T: Entity>(self: &Rc<Self>) -> Rc<Shard<T>> {
        let shard = self.find_shard::<T>().unwrap_or_else(|| self.add_shard::<T>());
        let near: Weak<Shard<T>> = Rc::downgrade(&shard);
        // The first of the kinds with one place has it.
        let _ = self.near[T::KIND.id.0 as usize % NEAR].set(Box::new(near));
        shard
    }

    fn find_shard<T: Entity>(&self) -> Option<Rc<Shard<T>>> {
        let shards = self.shards.borrow();
        let index = shards.position(T::KIND.id)?;
        match shards.list[index].typed.downcast_ref::<Rc<Shard<T>>>() {
            Some(shard) => Some(Rc::clone(shard)),
            None => panic!("two kinds are called `{}`: rename one", T::KIND.name),
        }
    }

    fn add_shard<T: Entity>(self: &Rc<Self>) -> Rc<Shard<T>> {
        let mut shards = self.shards.borrow_mut();
        let index = shards.list.len();
        assert!(index < SHARDS_MAX, "a node has at most {SHARDS_MAX} kinds");
        let shard = Shard::<T>::new(Rc::clone(self), index as u16);
        shard.sole.set(self.router.offers_alone(T::KIND.id));
        let entry = ShardEntry {
            typed: Box::new(Rc::clone(&shard)),
            any: Rc::clone(&shard) as Rc<dyn AnyShard>,
        };
        shards.list.push(entry);
        shards.index();
        shard
    }

    /// The shard at `index`, its type hidden.
    #[inline]
    pub fn any_shard(&self, index: usize) -> Rc<dyn AnyShard> {
        Rc::clone(&self.shards.borrow().list[index].any)
    }

    /// The id of the next room.
    pub fn next_room(&self, kind: KindId) -> EntityId {
        let key = self.next_room.get() << 8 | u64::from(self.me.worker);
        EntityId { kind, home: self.me.node, key }
    }

    /// Rooms and seats of the whole node.
    pub fn rooms(&self) -> Ref<'_, Arc<RoomCount>> {
        self.rooms.borrow()
    }

    /// Counts rooms together with other workers from now on.
    pub fn share_rooms(&self, rooms: Arc<RoomCount>) {
        *self.rooms.borrow_mut() = rooms;
    }

    /// Time, also between turns.
    pub fn now_outside(&self) -> Instant {
        if self.in_turn.get() { self.now.get() } else { self.watch.now() }
    }

    /// The shard of a kind, by its id or an alias's.
    pub fn shard_of_kind(&self, kind: KindId) -> Option<Rc<dyn AnyShard>> {
        let shards = self.shards.borrow();
        let index = shards.position(kind)?;
        Some(Rc::clone(&shards.list[index].any))
    }

    /// All shards, in the order of their registration.
    pub fn all_shards(&self) -> Vec<Rc<dyn AnyShard>> {
        self.shards.borrow().list.iter().map(|entry| Rc::clone(&entry.any)).collect()
    }

    /// Lets go of everything, so that the rings of references end.
    pub fn clear(&self) {
        for shard in self.all_shards() {
            shard.clear();
        }
        loop {
            let open = self.turns.borrow().iter().map(|(id, _)| id).next();
            let Some(id) = open else { break };
            let closed = self.turns.borrow_mut().close(id);
            drop(closed);
        }
        let shards = std::mem::take(&mut *self.shards.borrow_mut());
        drop(shards);
    }

    /// Puts the origin of a message from another worker into memory that is used again.
    #[inline(always)]
    pub fn keep_origin(&self, origin: RemoteOrigin) -> Box<RemoteOrigin> {
        match self.origins.borrow_mut().pop() {
            Some(mut kept) => {
                *kept = origin;
                kept
            }
            None => Box::new(origin),
        }
    }

    /// Takes back the memory of an origin that was answered.
    pub fn drop_origin(&self, origin: Box<RemoteOrigin>) {
        let mut origins = self.origins.borrow_mut();
        if origins.len() < ORIGINS_KEPT {
            origins.push(origin);
        }
    }

    #[inline(always)]
    pub fn push_ready(&self, ready: Ready) {
        self.ready.borrow_mut().push(ready);
    }

    /// The host's turn begins or ends.
    pub fn set_in_turn(&self, in_turn: bool) {
        self.in_turn.set(in_turn);
        self.poked.set(false);
    }

    /// Code outside of all entities is about to send something. Between turns the worker's time
    /// may be old and its driver asleep.
    #[inline]
    pub fn poke(&self) {
        if !self.in_turn.get() && !self.poked.get() {
            self.poke_between_turns();
        }
    }

    #[inline(never)]
    fn poke_between_turns(&self) {
        self.now.set(self.now.get().max(self.watch.now()));
        self.poked.set(true);
        self.wakes.notify();
    }

    /// Makes sure that the next sweep comes no later than `deadline`, to the next
    /// four milliseconds: deadlines are coarse, so that one sweep serves many calls.
    #[inline]
    pub fn sweep_by(&self, deadline: Instant) {
        if deadline < self.sweep_at.get() {
            self.sweep_at.set(coarse(deadline));
        }
    }

    /// Wakes a turn through the ready queue.
    #[inline]
    pub fn wake_turn(&self, id: TurnId) {
        let mut turns = self.turns.borrow_mut();
        if let Some(turn) = turns.get_mut(id)
            && !turn.queued
        {
            turn.queued = true;
            drop(turns);
            self.push_ready(Ready::Turn(id));
        }
    }

    /// Who to tell when the future that `context` belongs to can go on.
    #[inline]
    pub fn waiter(&self, context: &Context<'_>) -> Waiter {
        let (waker, turn) = self.polled.get();
        if waker == context.waker().data() && !turn.is_none() {
            Waiter::Turn(turn)
        } else {
            Waiter::Waker(context.waker().clone())
        }
    }

    /// Who to tell if it is not the turn `id`, polled with its own waker.
    #[inline]
    pub fn other_waiter(&self, id: TurnId, context: &Context<'_>) -> Option<Waker> {
        let (waker, turn) = self.polled.get();
        if waker == context.waker().data() && turn == id && !id.is_none() {
            None
        } else {
            Some(context.waker().clone())
        }
    }

    #[inline]
    pub fn tell_waiter(&self, waiter: Waiter) {
        match waiter {
            Waiter::Turn(turn) => self.wake_turn(turn),
            Waiter::Waker(waker) => waker.wake(),
        }
    }

    /// Polls the future of a turn with the turn's own waker, which comes from the turn's slot and
    /// is given back for it. A panic loses it; the slot then makes another.
    #[inline]
    pub fn poll_placed(&self, id: TurnId, placed: &mut Placed, waker: Waker) -> (Poll<()>, Waker) {
        self.polled.set((waker.data(), id));
        self.in_place.set(self.options.batch);
        let poll = placed.poll(&mut Context::from_waker(&waker));
        self.in_place.set(0);
        self.polled.set((std::ptr::null(), TurnId::NONE));
        (poll, waker)
    }

    /// The waker for a turn's first poll.
    pub fn waker_of(&self, id: TurnId) -> Waker {
        let kept = self.turns.borrow_mut().take_waker(id.index);
        kept.unwrap_or_else(|| turn_waker(&self.wakes, id.index))
    }

    /// Nobody on `node` waits for anything any more.
    pub fn cancel_turns_of(self: &Rc<Self>, node: Incarnation) {
        let lost: Vec<TurnId> = {
            let turns = self.turns.borrow();
            let waits = |origin: &Origin| matches!(origin, Origin::Remote(remote) if remote.from.node == node);
            turns.iter().filter(|(_, turn)| waits(&turn.origin)).map(|(id, _)| id).collect()
        };
        lost.into_iter().for_each(|turn| self.cancel_turn(turn));
    }

    /// Whether the entities of a kind stand still, for their store does not answer.
    #[inline]
    pub fn is_held(&self, kind: &KindInfo) -> bool {
        let held = self.held.get();
        held != 0 && kind.document && held >> self.stores.borrow().of_kind(kind.id) & 1 == 1
    }

    /// Goes on with a turn that was woken.
    pub fn run_turn(self: &Rc<Self>, id: TurnId) {
        let (shard, entity, mut placed, waker) = {
            let mut turns = self.turns.borrow_mut();
            let Some(turn) = turns.get_mut(id) else { return };
            turn.queued = false;
            let (shard, entity) = (turn.shard, turn.entity);
            if self.held.get() != 0 && self.is_held(self.any_shard(usize::from(shard)).kind()) {
                self.held_turns.borrow_mut().push(id);
                return;
            }
            if !turn.exclusive && self.any_shard(usize::from(shard)).is_busy(entity) {
                turn.deferred = true;
                return;
            }
            let Some(placed) = turn.future.take() else { return };
            let waker = turn.waker.take();
            self.watch.begin(shard, turn.method, entity, 0);
            (shard, entity, placed, waker)
        };
        let waker = waker.unwrap_or_else(|| turn_waker(&self.wakes, id.index));
        self.running.what.set(What::Turn { shard, index: entity, turn: id });
        let (poll, waker) = self.poll_placed(id, &mut placed, waker);
        self.running.what.set(What::Nothing);
        self.watch.end();
        if poll.is_ready() {
            drop_quietly(placed);
            self.turns.borrow_mut().keep_waker(id.index, Some(waker));
            self.any_shard(usize::from(shard)).turn_done(entity, id);
            return;
        }
        let mut turns = self.turns.borrow_mut();
        let Some(turn) = turns.get_mut(id) else {
            // The turn was ended while it ran.
            drop(turns);
            drop_quietly(placed);
            return;
        };
        turn.future = Some(placed);
        turn.waker = Some(waker);
        if turn.cancelled {
            drop(turns);
            self.any_shard(usize::from(shard)).turn_given_up(entity, id);
        }
    }

    /// After a panic in game code: the call fails, the entity starts again or ends.
    pub fn recover(&self, text: String) {
        self.polled.set((std::ptr::null(), TurnId::NONE));
        self.in_place.set(0);
        self.watch.end();
        match self.running.what.replace(What::Nothing) {
            What::Nothing => tracing::error!("a panic outside of all handlers: {text}"),
            What::Entity { shard, index } => {
                self.any_shard(usize::from(shard)).handler_panicked(index, text);
            }
            What::Turn { shard, index, turn } => {
                self.any_shard(usize::from(shard)).turn_panicked(index, turn, text);
            }
        }
    }

    /// Fails everything that `turn` waits for, and what runs below it. The turn goes on and ends by
    /// itself.
    pub fn cancel_turn(self: &Rc<Self>, turn: TurnId) {
        let mut work = vec![turn];
        while let Some(id) = work.pop() {
            let (calls, sleeps, client_calls) = {
                let mut turns = self.turns.borrow_mut();
                let Some(turn) = turns.get_mut(id) else { continue };
                if turn.cancelled {
                    continue;
                }
                turn.cancelled = true;
                (turn.calls.to_vec(), turn.sleeps.clone(), turn.client_calls.clone())
            };
            for tag in client_calls {
                let told = self.clients.borrow_mut().answered(tag, Err(Fault::Cancelled));
                if let Ok(Some(waiter)) = told {
                    self.tell_waiter(waiter);
                }
            }
            for packed in calls {
                let shard = self.any_shard(shard_of(packed));
                if let Some(slot) = shard.call_name(packed) {
                    shard.fail_call(slot, Fault::Cancelled, &mut work);
                }
            }
            let woken: Vec<Waiter> = {
                let mut table = self.sleeps.borrow_mut();
                sleeps.iter().filter_map(|index| table.end_early(*index)).collect()
            };
            woken.into_iter().for_each(|waiter| self.tell_waiter(waiter));
        }
    }

    /// Fails calls, and ends requests of clients, whose deadline has passed.
    pub fn sweep(self: &Rc<Self>) {
        let now = self.now.get();
        if now < self.sweep_at.get() {
            return;
        }
        let mut next = Instant::NEVER;
        let mut below = Vec::new();
        for shard in self.all_shards() {
            next = next.min(shard.sweep(now, &mut below));
        }
        let (told, next_client) = self.clients.borrow_mut().sweep(now);
        told.into_iter().for_each(|waiter| self.tell_waiter(waiter));
        below.into_iter().for_each(|turn| self.cancel_turn(turn));
        let next_request = self.sweep_requests(now);
        let next_end = self.sweep_endings(now);
        let next = [next, next_client, next_request, next_end].into_iter().min();
        self.sweep_at.set(coarse(next.unwrap_or(Instant::NEVER)));
    }

    /// Ends the entities whose open turns did not end in time. Gives when to look again.
    fn sweep_endings(&self, now: Instant) -> Instant {
        loop {
            let (until, target) = match self.endings.borrow().front() {
                Some((until, target)) => (*until, *target),
                None => return Instant::NEVER,
            };
            let shard = self.any_shard(usize::from(target.shard));
            let current = shard.is_current(target);
            if current && until > now {
                return until;
            }
            self.endings.borrow_mut().pop_front();
            if current {
                shard.end_now(target.index);
            }
        }
    }

    /// Everything that came due by now.
    pub fn fire_alarms(self: &Rc<Self>) {
        self.alarms.borrow_mut().handle_timeout(self.now.get());
        loop {
            let due = self.alarms.borrow_mut().poll();
            match due {
                None => return,
                Some((_, Alarm::Timer { shard, timer })) => {
                    self.any_shard(usize::from(shard)).fire_timer(timer);
                }
                Some((_, Alarm::Sleep(slot))) => {
                    let waiter = self.sleeps.borrow_mut().fire(slot);
                    if let Some(waiter) = waiter {
                        self.tell_waiter(waiter);
                    }
                }
            }
        }
    }

    pub fn event(&self, event: Event) {
        self.events.borrow_mut().push(event);
    }

    /// The graph of who waits for whom, as far as this worker sees it.
    pub fn graph(self: &Rc<Self>) -> Graph<'_> {
        Graph::new(self)
    }
}

impl Shards {
    #[inline]
    fn position(&self, kind: KindId) -> Option<usize> {
        let mask = self.table.len().wrapping_sub(1);
        match self.table.get(kind.0 as usize & mask) {
            Some(Some((found, index))) if *found == kind => Some(usize::from(*index)),
            _ => None,
        }
    }

    /// Builds the table: the smallest power of two in which no two kinds collide. Kind ids are
    /// hashes, so it stays small.
    fn index(&mut self) {
        let mut ids = Vec::new();
        for (index, entry) in self.list.iter().enumerate() {
            let kind = entry.any.kind();
            ids.push((kind.id, index as u16));
            ids.extend(kind.aliases.iter().map(|alias| (KindId::of(alias), index as u16)));
        }
        let mut size = (ids.len() * 2).next_power_of_two();
        'sizes: loop {
            self.table.clear();
            self.table.resize(size, None);
            for (kind, index) in &ids {
                let place = &mut self.table[kind.0 as usize & (size - 1)];
                if let Some((other, _)) = place {
                    assert!(
                        other != kind,
                        "two kinds have the name or alias with id {:08x}: rename one",
                        kind.0
                    );
                    size *= 2;
                    continue 'sizes;
                }
                *place = Some((*kind, *index));
            }
            return;
        }
    }
}

/// The end of the four milliseconds (about) that `deadline` is in.
fn coarse(deadline: Instant) -> Instant {
    const GRAIN: u64 = 1 << 22;
    if deadline == Instant::NEVER {
        return deadline;
    }
    Instant::from_nanos(deadline.as_nanos().saturating_add(GRAIN - 1) & !(GRAIN - 1))
}

/// Drops what belongs to a game. A panic in its `drop` must not take the worker along.
pub(crate) fn drop_quietly<T>(value: T) {
    if catch_unwind(AssertUnwindSafe(|| drop(value))).is_err() {
        tracing::error!("a panic in the drop of {}", std::any::type_name::<T>());
    }
}

/// What a panic says.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic without a text".to_owned()
    }
}

impl Hub {
    /// The name and the calling turn of the pending call in a slot now.
    pub fn any_call(&self, slot: Slot) -> Option<(Slot, TurnId)> {
        let shard = self.shard_at(shard_of(slot.index))?;
        let (name, _, _, turn) = shard.call_info(slot.index)?;
        Some((name, turn))
    }

    /// The shard at `index`, if there is one: for indices that come from peers.
    pub fn shard_at(&self, index: usize) -> Option<Rc<dyn AnyShard>> {
        self.shards.borrow().list.get(index).map(|entry| Rc::clone(&entry.any))
    }
}
