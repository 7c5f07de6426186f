//! What a handler reaches the world through.

mod reference;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use env::{Calendar, Instant, Random, WallTime};
use proto::frame::CloseCode;
use proto::link::Slot;
use proto::{
    AccountId, EntityId, Incarnation, KindId, LOCAL_KEY_MAX, MethodId, Namespace, Scope, SessionId,
};

use crate::call::{Call, CallEnd};
use crate::entity::{Entity, Rate};
use crate::error::{CallError, Elapsed, Fault};
use crate::host::hub::Hub;
use crate::host::mail::{Origin, Sender, SenderForm};
use crate::host::people::ClientCallRequest;
use crate::host::requests::OpenRequest;
use crate::host::shard::{CLOSING, Shard};
use crate::host::turns::TurnId;
use crate::push::Told;
use crate::timer::{Missed, Schedule, TimerId, Times};
use crate::users::Users;

pub use crate::call::ClientCall;
pub use crate::host::people::{GroupSlot, PushMode};
pub use crate::host::sleep::{Blocking, PoolFull, Sleep};
pub use reference::Ref;

/// Who called the handler.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Caller {
    /// Another entity or service.
    Entity(EntityId),
    /// A client, by its session: never by anything that it says itself.
    Client(Peer),
    /// An operator, through the console.
    Operator,
    /// Server code that is no entity, such as a web handler.
    Outside,
    /// The entity itself: a timer or a point of its life.
    Own,
}

/// One client at one entity: what the session layer vouches for. A cheap clone; lives as long as
/// the stream does, and names nothing after that.
#[derive(Clone)]
pub struct Peer {
    shared: Rc<PeerShared>,
}

/// What is known of a client.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    /// The stream, on the worker that owns it.
    pub slot: Slot,
    /// The session.
    pub session: SessionId,
    /// The account.
    pub account: AccountId,
    /// Login level of the account.
    pub level: u8,
    /// Number of the stream in its session.
    pub handle: u32,
    /// Name of the stream, as the client knows it.
    pub stream: Rc<str>,
}

struct PeerShared {
    info: PeerInfo,
    /// Tokens left per method that has a rate, and when they were counted.
    rates: RefCell<Vec<(KindId, u16, f64, Instant)>>,
    refused: Cell<u64>,
}

impl Peer {
    /// Made by the session layer, once per stream.
    pub fn new(info: PeerInfo) -> Self {
        let shared = PeerShared { info, rates: RefCell::default(), refused: Cell::new(0) };
        Peer { shared: Rc::new(shared) }
    }

    /// The stream.
    pub fn slot(&self) -> Slot {
        self.shared.info.slot
    }

    /// The session.
    pub fn session(&self) -> SessionId {
        self.shared.info.session
    }

    /// The account.
    pub fn account(&self) -> AccountId {
        self.shared.info.account
    }

    /// Login level of the account.
    pub fn level(&self) -> u8 {
        self.shared.info.level
    }

    /// Number of the stream in its session: it keeps it where its entity moves, and no other stream of
    /// the session ever has it.
    pub fn handle(&self) -> u32 {
        self.shared.info.handle
    }

    /// Name of the stream, as the client knows it.
    pub fn stream(&self) -> &str {
        &self.shared.info.stream
    }

    /// How many messages were refused because they came too fast.
    pub fn refused(&self) -> u64 {
        self.shared.refused.get()
    }

    /// Takes a token of the method's bucket, if there is one.
    pub(crate) fn spend(&self, kind: KindId, method: u16, rate: Rate, now: Instant) -> bool {
        let mut rates = self.shared.rates.borrow_mut();
        let full = f64::from(rate.count);
        let at = rates.iter().position(|(of, which, ..)| *of == kind && *which == method);
        let bucket = match at {
            Some(at) => &mut rates[at],
            None => {
                rates.push((kind, method, full, now));
                let last = rates.len() - 1;
                &mut rates[last]
            }
        };
        let passed = (now - bucket.3).as_secs_f64() * 1_000.0;
        bucket.2 = full.min(bucket.2 + passed * full / f64::from(rate.per_ms.max(1)));
        bucket.3 = now;
        if bucket.2 < 1.0 {
            self.shared.refused.set(self.shared.refused.get() + 1);
            return false;
        }
        bucket.2 -= 1.0;
        true
    }
}

impl PartialEq for Peer {
    fn eq(&self, other: &Self) -> bool {
        self.slot() == other.slot()
    }
}

impl Eq for Peer {}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PeerInfo { slot, account, stream, .. } = &self.shared.info;
        write!(f, "Peer({stream} of {}, {}.{})", account.0, slot.index, slot.generation)
    }
}

/// Who sends.
#[derive(Clone, Copy)]
pub(crate) struct Source {
    pub sender: Sender,
    /// The turn that makes calls.
    pub turn: TurnId,
}

/// The way to one entity: what stubs wrap.
///
/// Its order of fields matters, and that it refers to who sends: a call copies them right after
/// they were written, and a load of two words at once that were stored one by one has to wait
/// until both are in the cache.
#[repr(C)]
pub struct Link<'c, T: Entity> {
    pub(crate) shard: Rc<Shard<T>>,
    pub(crate) home: Incarnation,
    pub(crate) from: &'c Source,
    pub(crate) key: u64,
}

impl<'c, T: Entity> Link<'c, T> {
    #[inline(always)]
    pub(crate) fn new(hub: &Rc<Hub>, id: EntityId, from: &'c Source) -> Self {
        let EntityId { home, key, .. } = id;
        Link { shard: hub.shard::<T>(), home, from, key }
    }

    /// The entity that it leads to.
    pub fn id(&self) -> EntityId {
        EntityId { kind: T::KIND.id, home: self.home, key: self.key }
    }

    /// Makes a call. `outcome` takes the method's value out of the reply.
    #[inline(always)]
    pub fn call<O>(&self, message: T::Message, outcome: CallEnd<T::Reply, O>) -> Call<T, O> {
        Call::new(self, Ok(message), outcome)
    }

    /// Makes a call that fails with `BadArgument` when it is awaited.
    pub fn refused<O>(
        &self,
        problem: impl Into<Box<str>>,
        outcome: CallEnd<T::Reply, O>,
    ) -> Call<T, O> {
        Call::new(self, Err(Fault::BadArgument(problem.into())), outcome)
    }

    /// Sends a message that nobody waits for.
    ///
    /// # Errors
    ///
    /// Why it was not taken: `Busy`, `Gone`, `NotFound`, `Denied`, `Unavailable`. What was taken
    /// may still be lost with a node.
    #[inline(always)]
    pub fn tell(&self, message: T::Message) -> Result<(), CallError> {
        self.shard.hub.poke();
        match self.shard.send_tell(self.home, self.key, self.from.sender, message) {
            Ok(()) => Ok(()),
            Err(fault) => Err(fault.into_error(self.id(), Duration::ZERO)),
        }
    }

    /// A message whose arguments are outside their limits.
    ///
    /// # Errors
    ///
    /// Always `BadArgument`.
    pub fn tell_refused(&self, problem: impl Into<Box<str>>) -> Result<(), CallError> {
        Err(CallError::BadArgument { target: self.id(), problem: problem.into() })
    }
}

impl<T: Entity> Clone for Link<'_, T> {
    fn clone(&self) -> Self {
        Link { shard: Rc::clone(&self.shard), ..*self }
    }
}

impl<T: Entity> fmt::Debug for Link<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("to", &self.id()).finish_non_exhaustive()
    }
}

/// What a handler of kind `E` reaches the world through.
pub struct Cx<E: Entity> {
    shard: Rc<Shard<E>>,
    entity: u32,
    /// The entity itself, and its turn.
    from: Source,
}

impl<E: Entity> Cx<E> {
    #[inline]
    pub(crate) fn new(shard: Rc<Shard<E>>, entity: u32, turn: TurnId, me: Sender) -> Self {
        Cx { shard, entity, from: Source { sender: me, turn } }
    }

    /// Makes it the context of the next message's plain handler.
    #[inline(always)]
    pub(crate) fn begin(&mut self, entity: u32, me: Sender) {
        self.entity = entity;
        self.from.sender = me;
    }

    pub(crate) fn shard(&self) -> &Rc<Shard<E>> {
        &self.shard
    }

    /// Where the entity is in its shard.
    pub(crate) fn index(&self) -> u32 {
        self.entity
    }

    /// The context of an open turn of the same entity.
    pub(crate) fn of_turn(&self, turn: TurnId) -> Self {
        Cx::new(Rc::clone(&self.shard), self.entity, turn, self.from.sender)
    }

    /// A second context of the same turn.
    pub(crate) fn twin(&self) -> Self {
        Cx::new(Rc::clone(&self.shard), self.entity, self.from.turn, self.from.sender)
    }

    pub(crate) fn hub(&self) -> &Rc<Hub> {
        &self.shard.hub
    }

    /// Who sends what this turn sends.
    pub(crate) fn source(&self) -> Source {
        self.from
    }

    /// The entity's place in its shard.
    pub(crate) fn slot(&self) -> u32 {
        self.entity
    }

    // -- who and when --

    /// Monotonic time of this turn of the worker.
    pub fn now(&self) -> Instant {
        self.hub().now.get()
    }

    /// Wall-clock time of this turn of the worker.
    pub fn wall(&self) -> WallTime {
        self.hub().wall.get()
    }

    /// The entity's own id.
    pub fn id(&self) -> EntityId {
        self.from.sender.id(self.hub().me.node).unwrap_or_default()
    }

    /// The entity's own key.
    pub fn key(&self) -> u64 {
        match E::KIND.scope {
            Scope::Global => self.from.sender.key,
            Scope::Zone | Scope::Channel => self.from.sender.key & LOCAL_KEY_MAX,
        }
    }

    /// The zone or channel that this is done for: the entity's own if its kind is local; else that of the
    /// process, or [`Namespace::NOWHERE`] if it hosts several.
    pub fn namespace(&self, scope: Scope) -> Namespace {
        if scope == E::KIND.scope {
            return EntityId::keyed(E::KIND.id, self.from.sender.key).namespace();
        }
        self.hub().namespaces.only(scope)
    }

    /// A reference to the entity itself.
    pub fn me(&self) -> Ref<E> {
        Ref { id: self.id(), kind: PhantomData }
    }

    /// Lends the worker's randomness, which simulation can repeat.
    pub fn random<R>(&self, with: impl FnOnce(&mut Random) -> R) -> R {
        with(&mut self.hub().random.borrow_mut())
    }

    /// Who called.
    pub fn caller(&self) -> Caller {
        let me = self.hub().me.node;
        let of = |origin: &Origin, sender: Sender| match (sender.form(), origin) {
            (SenderForm::Client, Origin::Client(peer, _)) => Caller::Client(peer.clone()),
            (SenderForm::Client, Origin::Request(request)) => {
                match self.hub().requests.borrow().get(*request).and_then(OpenRequest::peer) {
                    Some(peer) => Caller::Client(peer.clone()),
                    None => Caller::Outside,
                }
            }
            (SenderForm::Outside, _) => Caller::Outside,
            (SenderForm::Operator, _) => Caller::Operator,
            (SenderForm::Own, _) => Caller::Own,
            _ => sender.id_with(origin, me).map_or(Caller::Outside, Caller::Entity),
        };
        if self.from.turn.is_none() {
            return self.shard.with_origin(of);
        }
        let turns = self.hub().turns.borrow();
        turns.get(self.from.turn).map_or(Caller::Outside, |turn| of(&turn.origin, turn.sender))
    }

    /// Whether anybody still waits for this turn's answer. When not, calls fail with `Cancelled`.
    pub fn is_cancelled(&self) -> bool {
        self.hub().turns.borrow().get(self.from.turn).is_some_and(|turn| turn.cancelled)
    }

    /// Lends the entity's whole state, for a component's handler that needs its siblings.
    ///
    /// # Panics
    ///
    /// If the entity is lent already: a handler of the entity itself has it as `self`.
    pub fn with<R>(&self, with: impl FnOnce(&mut E) -> R) -> R {
        let state = self.shard.cells.borrow().get(self.entity).and_then(|slot| slot.state.clone());
        let Some(state) = state else { panic!("{} has no state: it is ending", E::KIND.name) };
        match state.try_borrow_mut() {
            Ok(mut state) => with(&mut state),
            Err(_) => {
                panic!("{} is borrowed already: its own handler has it as `self`", E::KIND.name)
            }
        }
    }

    // -- others --

    /// The entity that `target` names.
    #[inline(always)]
    pub fn at<T: Entity>(&self, target: Ref<T>) -> T::Stub<'_> {
        T::stub(Link::new(self.hub(), target.id, &self.from))
    }

    /// The keyed entity of kind `T` with `key`; if the kind is local, of this
    /// [zone or channel](Self::namespace).
    #[inline(always)]
    pub fn entity<T: Entity>(&self, key: u64) -> T::Stub<'_> {
        self.at(match T::KIND.scope {
            Scope::Global => Ref::<T>::keyed(key),
            scope => Ref::within(self.namespace(scope), key),
        })
    }

    /// The service or singleton `S`; if it is local, of this [zone or channel](Self::namespace). That of
    /// another is `cx.at(Ref::<S>::local(Namespace::zone("east"), 0))`.
    #[inline]
    pub fn service<S: Entity>(&self) -> S::Stub<'_> {
        self.entity::<S>(0)
    }

    /// Makes a room on this worker.
    ///
    /// # Errors
    ///
    /// `Busy` at the limit of entities, `NotFound` if this node does not offer the kind.
    pub fn spawn<T: Entity>(&self, state: T) -> Result<Ref<T>, CallError> {
        spawn(self.hub(), state)
    }

    /// Ends this entity when this turn does: its waiting mail is answered `Gone`, what other open
    /// turns of it wait for fails, its timers are cancelled, its `Destroyed` hook runs.
    pub fn destroy(&self) {
        if let Some(slot) = self.shard.cells.borrow_mut().get_mut(self.entity) {
            slot.flags |= CLOSING;
            self.shard.hub.running.is_closing.set(true);
        }
    }

    // -- time --

    /// Waits. Nobody else has the entity meanwhile, unless the handler is `interleave`. Ends early
    /// once nobody waits for this turn any more.
    pub fn sleep(&self, time: Duration) -> Sleep {
        Sleep::new(self.hub(), self.from.turn, self.now() + time)
    }

    /// Waits until the worker's next turn.
    pub fn next_turn(&self) -> Sleep {
        self.sleep(Duration::ZERO)
    }

    /// Waits for `future`, but not longer than `limit`.
    ///
    /// # Errors
    ///
    /// `Elapsed` if it took longer; the future is dropped.
    pub async fn timeout<F: Future>(
        &self,
        limit: Duration,
        future: F,
    ) -> Result<F::Output, Elapsed> {
        let mut future = pin!(future);
        let mut sleep = pin!(self.sleep(limit));
        std::future::poll_fn(move |context| {
            if let Poll::Ready(output) = future.as_mut().poll(context) {
                return Poll::Ready(Ok(output));
            }
            sleep.as_mut().poll(context).map(|()| Err(Elapsed(limit)))
        })
        .await
    }

    /// A timer that calls back once, after `time`. A time of zero means the worker's next turn.
    pub fn after(&self, time: Duration) -> E::Timers<'_> {
        let first = self.now() + time;
        E::timers(Schedule::new(&self.shard, self.entity, first, None, Times::Count(1)))
    }

    /// A timer that calls back after `first` and then at every `interval`, without drift, `times` in all.
    pub fn every(
        &self,
        first: Duration,
        interval: Duration,
        times: impl Into<Times>,
    ) -> E::Timers<'_> {
        let first = self.now() + first;
        E::timers(Schedule::new(&self.shard, self.entity, first, Some(interval), times.into()))
    }

    /// A timer that calls back once, when the wall shows `wall` as far as is known now; at once if
    /// that has passed.
    pub fn at_wall(&self, wall: WallTime) -> E::Timers<'_> {
        self.after(Duration::from_millis(wall.0.saturating_sub(self.wall().0)))
    }

    /// A timer that calls back whenever `calendar` says, until it is cancelled: `cx.on(&calendar,
    /// Missed::Skip).key("reset").reset()`. It follows the wall clock, also when that is set
    /// (within a minute); no time of the calendar comes twice. What passes while the worker
    /// stands still is one callback.
    pub fn on(&self, calendar: &Calendar, missed: Missed) -> E::Timers<'_> {
        E::timers(Schedule::on(&self.shard, self.entity, calendar, missed))
    }

    /// Cancels all timers under `key`; gives how many. None is no error.
    pub fn cancel(&self, key: &str) -> usize {
        let timers = self.shard.timers_of(self.entity, Some(key));
        timers.into_iter().filter(|timer| self.shard.cancel_timer(*timer)).count()
    }

    /// Cancels one timer. `false` if it is gone, which is no error.
    pub fn cancel_timer(&self, timer: TimerId) -> bool {
        self.shard.has_timer(self.entity, timer.0) && self.shard.cancel_timer(timer.0)
    }

    /// Whether there is a timer under `key`. One whose last callback is running still counts.
    pub fn has_timer(&self, key: &str) -> bool {
        !self.shard.timers_of(self.entity, Some(key)).is_empty()
    }

    /// Whether `timer` is still there. One whose last callback is running still counts.
    pub fn has_timer_id(&self, timer: TimerId) -> bool {
        self.shard.has_timer(self.entity, timer.0)
    }

    /// Runs work that blocks on the node's pool and waits for its result.
    pub fn blocking<R: Send + 'static>(
        &self,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> Blocking<R> {
        let pool = Rc::clone(&*self.hub().pool.borrow());
        Blocking::start(&*pool, work)
    }

    // -- clients --

    /// The clients that are bound to this entity, connected or away.
    pub fn peers(&self) -> Vec<Peer> {
        self.shard.peers.borrow().get(&self.entity).cloned().unwrap_or_default()
    }

    /// Opens a group of clients of the interface `kind`. It ends with this entity.
    pub fn group_open(&self, name: &str, kind: KindId) -> GroupSlot {
        self.hub().clients.borrow_mut().group_open(self.shard.target_of(self.entity), name, kind)
    }

    /// Gives the client's session a stream called `name` that leads to `target`, instead of what has
    /// that name. The session's home opens it, trying again while the target's owner is away.
    ///
    /// # Errors
    ///
    /// What is known here already, and then nothing is done: `Gone` if the target is a room that
    /// has ended, `NotFound` if it was never made or no node offers its kind.
    pub fn bind<T: Entity>(
        &self,
        peer: &Peer,
        name: &str,
        target: Ref<T>,
    ) -> Result<(), CallError> {
        let hub = self.hub();
        if let Err(fault) = hub.shard::<T>().leads_somewhere(target.id) {
            return Err(fault.into_error(target.id, Duration::ZERO));
        }
        hub.clients.borrow_mut().bind(peer.slot(), name, target.id);
        Ok(())
    }

    /// Ends the stream called `name` of the client's session.
    pub fn unbind(&self, peer: &Peer, name: &str) {
        self.hub().clients.borrow_mut().unbind(peer.slot(), name);
    }

    // -- reports --

    /// Reports an error of a timer's callback.
    pub(crate) fn report_failure(&self, error: &dyn fmt::Display) {
        let origin = if self.from.turn.is_none() {
            self.shard.with_origin(|origin, _| match origin {
                Origin::Timer(slot) => Some(*slot),
                _ => None,
            })
        } else {
            match self.hub().turns.borrow().get(self.from.turn).map(|turn| &turn.origin) {
                Some(Origin::Timer(slot)) => Some(*slot),
                _ => None,
            }
        };
        if let Some(slot) = origin {
            self.shard.timer_failed(slot, error.to_string());
        }
    }

    /// What reports of a component's hooks go through.
    pub fn reporter(&self) -> Reporter {
        Reporter { hub: Rc::clone(self.hub()), id: self.id() }
    }
}

impl<E: Entity> fmt::Debug for Cx<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cx").field("of", &self.id()).finish_non_exhaustive()
    }
}

/// Where failures of a component's hooks are reported.
#[derive(Clone)]
pub struct Reporter {
    pub(crate) hub: Rc<Hub>,
    pub(crate) id: EntityId,
}

impl fmt::Debug for Reporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reporter").field("of", &self.id).finish_non_exhaustive()
    }
}

/// The state of an entity, for a handler that others may interleave with.
pub struct This<S> {
    state: Rc<RefCell<S>>,
}

impl<S> This<S> {
    /// Made by generated code.
    pub fn new(state: Rc<RefCell<S>>) -> Self {
        This { state }
    }

    /// Lends the state for as long as `with` runs; it cannot be kept across an `await`.
    ///
    /// # Panics
    ///
    /// If called inside itself.
    pub fn with<R>(&self, with: impl FnOnce(&mut S) -> R) -> R {
        match self.state.try_borrow_mut() {
            Ok(mut state) => with(&mut state),
            Err(_) => panic!("`this.with` inside `this.with`"),
        }
    }
}

impl<S> Clone for This<S> {
    fn clone(&self) -> Self {
        This { state: Rc::clone(&self.state) }
    }
}

impl<S> fmt::Debug for This<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("This").finish_non_exhaustive()
    }
}

/// The way into a worker's entities for server code that is no entity: web handlers, the console,
/// tests. Its calls are futures that any executor of the worker's own thread may poll.
#[derive(Clone)]
pub struct Outside {
    hub: Rc<Hub>,
    from: Source,
}

impl Outside {
    pub(crate) fn new(hub: &Rc<Hub>) -> Self {
        Outside {
            hub: Rc::clone(hub),
            from: Source { sender: Sender::OUTSIDE, turn: TurnId::NONE },
        }
    }

    /// The same, calling as an operator: only methods that name operators as callers.
    #[must_use]
    pub fn operator(&self) -> Self {
        Outside {
            hub: Rc::clone(&self.hub),
            from: Source { sender: Sender::OPERATOR, turn: TurnId::NONE },
        }
    }

    /// Monotonic time: of the worker's turn, or just now between turns.
    pub fn now(&self) -> Instant {
        if self.hub.in_turn.get() { self.hub.now.get() } else { self.hub.watch.now() }
    }

    /// The entity that `target` names.
    #[inline]
    pub fn at<T: Entity>(&self, target: Ref<T>) -> T::Stub<'_> {
        T::stub(Link::new(&self.hub, target.id, &self.from))
    }

    /// The keyed entity of kind `T` with `key`.
    #[inline]
    pub fn entity<T: Entity>(&self, key: u64) -> T::Stub<'_> {
        self.at(match T::KIND.scope {
            Scope::Global => Ref::<T>::keyed(key),
            scope => Ref::within(self.namespace(scope), key),
        })
    }

    /// The service or singleton `S`.
    pub fn service<S: Entity>(&self) -> S::Stub<'_> {
        self.entity::<S>(0)
    }

    /// The zone or channel of the process; [`Namespace::NOWHERE`] if it hosts several.
    pub fn namespace(&self, scope: Scope) -> Namespace {
        self.hub.namespaces.only(scope)
    }

    /// Makes a room on this worker.
    ///
    /// # Errors
    ///
    /// As [`Cx::spawn`].
    pub fn spawn<T: Entity>(&self, state: T) -> Result<Ref<T>, CallError> {
        self.hub.poke();
        spawn(&self.hub, state)
    }

    pub(crate) fn hub_of(&self) -> &Hub {
        &self.hub
    }

    pub(crate) fn hub_rc(&self) -> &Rc<Hub> {
        &self.hub
    }

    pub(crate) fn source(&self) -> Source {
        self.from
    }
}

impl fmt::Debug for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outside").finish_non_exhaustive()
    }
}

/// What reaches clients is the same inside and outside of entities.
macro_rules! client_side {
    ($($header:tt)*) => {
        $($header)* {
            /// Sends to one client without an answer; `write` appends the arguments. In order with
            /// the replies of the same entity.
            pub fn push_raw(
                &self,
                peer: &Peer,
                method: MethodId,
                mode: PushMode,
                write: impl FnOnce(&mut Vec<u8>),
            ) {
                self.lane().clients.borrow_mut().push(peer.slot(), method, mode, write);
            }

            /// Calls one client and waits for its answer, at most `wait` (2 s if not given).
            pub fn call_client_raw(
                &self,
                peer: &Peer,
                method: MethodId,
                wait: Option<Duration>,
                write: impl FnOnce(&mut Vec<u8>),
            ) -> ClientCall {
                let wait = wait.unwrap_or(Duration::from_secs(2));
                let begun = self.lane().call_client(self.lane_turn(), peer, method, wait, write);
                ClientCall::new(self.lane(), self.lane_turn(), begun)
            }

            /// Takes a client into a group.
            pub fn group_join(&self, group: GroupSlot, peer: &Peer) {
                self.lane().clients.borrow_mut().group_join(group, peer.slot());
            }

            /// Takes a client out of a group.
            pub fn group_leave(&self, group: GroupSlot, peer: &Peer) {
                self.lane().clients.borrow_mut().group_leave(group, peer.slot());
            }

            /// Sends to all clients of a group.
            pub fn group_cast_raw(
                &self,
                group: GroupSlot,
                method: MethodId,
                mode: PushMode,
                write: impl FnOnce(&mut Vec<u8>),
            ) -> Told {
                let mut clients = self.lane().clients.borrow_mut();
                let told = clients.group_cast(group, method, mode, write);
                if told.is_err() {
                    tracing::warn!(group = group.0.index, ?method, "a cast to a closed group");
                }
                Told(told)
            }

            /// Ends a group.
            pub fn group_close(&self, group: GroupSlot) {
                self.lane().clients.borrow_mut().group_close(group);
            }

            /// Ends the client's session.
            pub fn kick(&self, peer: &Peer, code: CloseCode, reason: &str) {
                self.lane().clients.borrow_mut().kick(peer.slot(), code, reason);
            }
        }
    };
}

client_side!(impl<E: Entity> Cx<E>);
client_side!(impl Outside);

impl<E: Entity> Cx<E> {
    /// The users of the cluster: log clients in and out, push to users wherever they are.
    pub fn users(&self) -> Users {
        Users::new(self.hub())
    }

    fn lane(&self) -> &Rc<Hub> {
        &self.shard.hub
    }

    fn lane_turn(&self) -> TurnId {
        self.from.turn
    }
}

impl Outside {
    /// The users of the cluster.
    pub fn users(&self) -> Users {
        Users::new(&self.hub)
    }

    fn lane(&self) -> &Rc<Hub> {
        &self.hub
    }

    fn lane_turn(&self) -> TurnId {
        TurnId::NONE
    }
}

impl Hub {
    /// Begins a call to a client.
    fn call_client(
        &self,
        turn: TurnId,
        peer: &Peer,
        method: MethodId,
        wait: Duration,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<u64, Fault> {
        let now = self.now.get();
        let mut deadline = now + wait;
        let tag = self.next_tag.get();
        if let Some(turn) = self.turns.borrow_mut().get_mut(turn) {
            if turn.cancelled {
                return Err(Fault::Cancelled);
            }
            deadline = deadline.min(turn.deadline);
            turn.client_calls.push(tag);
        }
        self.next_tag.set(tag + 1);
        self.sweep_by(deadline);
        let request =
            ClientCallRequest { peer: peer.slot(), method, deadline, wait: deadline - now };
        let begun = self.clients.borrow_mut().call(tag, request, write);
        if begun.is_err() {
            self.forget_client_call(turn, tag);
        }
        begun.map(|()| tag)
    }

    pub(crate) fn forget_client_call(&self, turn: TurnId, tag: u64) {
        if let Some(turn) = self.turns.borrow_mut().get_mut(turn) {
            turn.client_calls.retain(|other| *other != tag);
        }
    }
}

fn spawn<T: Entity>(hub: &Rc<Hub>, state: T) -> Result<Ref<T>, CallError> {
    let shard = hub.shard::<T>();
    let id = hub.next_room(T::KIND.id);
    let made = shard.spawn(id, || Ok(Some(state)));
    made.map_err(|fault| fault.into_error(id, Duration::ZERO))?;
    Ok(Ref { id, kind: PhantomData })
}
