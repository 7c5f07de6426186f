//! Where entities that may move are, as far as this worker has heard; and mail for one that moved
//! lately, which waits until what was sent the old way has come there.
//!
//! A worker has one way to each entity: for what is sent here, for what others sent here and is sent on, and
//! for what a mailbox held of an entity that proved to be elsewhere. It takes another way only behind a
//! marker that went the way before, which comes to the entity after all that went there; or when the store
//! gives it the entity. Nothing else clears a way: neither that a move is called off, nor what others say
//! of the entity meanwhile.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use env::{FastMap, Instant};
use proto::link::{LinkFrame, Slot, WorkerId};
use proto::{EntityId, Incarnation};

use super::hub::{Hub, bump};
use super::lane::Parcel;
use super::mail::{Mail, Origin, Sender};
use super::router::Place;
use super::shard::Shard;
use crate::entity::Entity;
use crate::error::Fault;

/// For how long a place is used that nothing was sent to: longer than mail is held for a marker, so that
/// nothing is under way after it, which another way could overtake.
const KEEP: Duration = Duration::from_secs(40);
/// How long mail is held for a marker: longer than a link stands still before it is given up (24 s).
const MARKER_WAIT: Duration = Duration::from_secs(30);
/// How often the marker is sent again meanwhile, and who sends to where an entity was is told where it
/// went: either may have been lost with a link.
const MARKER_EVERY: Duration = Duration::from_secs(1);
/// How long mail is held at most for an entity that is coming here: its move ends before.
const COMING_WAIT: Duration = Duration::from_secs(80);
/// For how long a worker knows where an entity went.
const DEPARTED_KEEP: Duration = Duration::from_secs(60);
/// Most places known, and most entities that have gone.
const ROUTES_MAX: usize = 1 << 17;
/// Most messages held for one entity.
const HELD_MAX: usize = 1_024;
/// How often a message may be sent on.
const HOPS_MAX: u8 = 4;

/// A message that waits for its entity's way to be clear, or what comes behind such.
pub struct Held {
    /// Who sent it.
    pub from: WorkerId,
    /// A `Call` or `Marker` frame, or the last step of a `Move`.
    pub payload: Vec<u8>,
    /// Who waits for its answer here.
    pub call: Option<Slot>,
}

struct Route {
    at: WorkerId,
    used: Instant,
    moving: Option<Moving>,
}

/// Until all that was sent to `old` has come to the entity.
struct Moving {
    old: WorkerId,
    /// When something was last sent there.
    used: Instant,
    /// Of the marker; 0 for an entity that is coming here.
    number: u64,
    /// When the marker is sent again.
    again: Instant,
    until: Instant,
    held: Vec<Held>,
}

/// What is known of a node to which mail is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is listed: a marker may reach it.
    Listed,
    /// It is off the list, and may live all the same: what was sent to it may be sent on yet.
    Apart,
    /// It does nothing any more.
    Dead,
}

struct Departed {
    /// Where mail of others goes; the same way as mail from here, while that is known.
    to: WorkerId,
    until: Instant,
    /// Who was told, and when.
    told: BTreeMap<WorkerId, Instant>,
}

/// Where a message to an entity goes.
pub enum Way {
    /// There.
    To(WorkerId),
    /// It waits.
    Held,
    /// Nothing is known: where it is placed.
    Placed,
}

/// The places of one worker's mail.
#[derive(Default)]
pub struct Routes {
    known: RefCell<FastMap<EntityId, Route>>,
    departed: RefCell<FastMap<EntityId, Departed>>,
    sweep_at: Cell<Instant>,
    /// When the first of those that move is given up.
    moving_until: Cell<Option<Instant>>,
    markers: Cell<u64>,
    /// How often the message has been sent on that is being handled, and who sent it on last.
    hops: Cell<u8>,
    via: Cell<Option<WorkerId>>,
    /// The time of the worker's turn.
    pub now: Cell<Instant>,
    /// Markers are not awaited: a fault, to prove that checks notice.
    pub unordered: Cell<bool>,
}

/// Mail that may go now, and where.
pub type Cleared = Vec<(EntityId, WorkerId, Vec<Held>)>;

impl Routes {
    pub fn way(&self, id: EntityId, now: Instant) -> Way {
        let mut known = self.known.borrow_mut();
        match known.get_mut(&id) {
            Some(route) if route.moving.is_some() => Way::Held,
            Some(route) if now.since(route.used) <= KEEP => {
                route.used = now;
                Way::To(route.at)
            }
            _ => Way::Placed,
        }
    }

    /// Where it is known to be, without a message to it.
    pub fn find(&self, id: EntityId) -> Option<WorkerId> {
        let now = self.now.get();
        let known = self.known.borrow();
        known.get(&id).filter(|route| now.since(route.used) <= KEEP).map(|route| route.at)
    }

    /// Something is sent to `at`: later mail goes there as well.
    pub fn note(&self, id: EntityId, at: WorkerId, now: Instant) {
        self.sweep(now);
        let mut known = self.known.borrow_mut();
        if known.len() < ROUTES_MAX || known.contains_key(&id) {
            let route = known.entry(id).or_insert(Route { at, used: now, moving: None });
            (route.at, route.used) = (at, now);
        }
    }

    /// Forgets what is old, now and then.
    fn sweep(&self, now: Instant) {
        if now < self.sweep_at.get() {
            return;
        }
        self.sweep_at.set(now + KEEP);
        let is_used = |_: &EntityId, route: &mut Route| {
            route.moving.is_some() || now.since(route.used) <= KEEP
        };
        self.known.borrow_mut().retain(is_used);
        self.departed.borrow_mut().retain(|_, departed| departed.until > now);
    }

    /// The entity is said to be at `at` and no more at `old`. Gives the number of the marker that is to
    /// be sent, and to whom, if mail may be on its way there. Who is asked for the entity although mail
    /// goes elsewhere is not heard, unless that node is off the list by `lists`: then there is no other way
    /// to find it.
    pub fn moved(
        &self,
        id: EntityId,
        (old, at): (WorkerId, WorkerId),
        now: Instant,
        lists: impl Fn(Incarnation) -> bool,
    ) -> Option<(WorkerId, u64)> {
        let mut known = self.known.borrow_mut();
        match known.get_mut(&id) {
            Some(route) if now.since(route.used) <= KEEP || route.moving.is_some() => {
                let before = route.at;
                if before == at || before != old && lists(before.node) {
                    return None;
                }
                let used = std::mem::replace(&mut route.used, now);
                route.at = at;
                self.lead(id, at);
                if self.unordered.get() {
                    return None;
                }
                if route.moving.is_some() {
                    // What is held goes on waiting: the marker under way goes all the way.
                    return None;
                }
                Some((before, self.begin_marker(route, (before, used), now)))
            }
            _ => {
                drop(known);
                self.note(id, at, now);
                self.lead(id, at);
                None
            }
        }
    }

    /// The entity may come here from `old`: what is sent to it from here waits from now on.
    ///
    /// # Errors
    ///
    /// Mail is on its way there by another worker, and has to come there first: to whom a marker with
    /// which number is to be sent, unless one is on its way.
    pub fn coming(
        &self,
        id: EntityId,
        (me, old): (WorkerId, WorkerId),
        now: Instant,
    ) -> Result<(), Option<(WorkerId, u64)>> {
        let mut known = self.known.borrow_mut();
        let route = known.entry(id).or_insert(Route { at: old, used: now, moving: None });
        if route.moving.as_ref().is_some_and(|moving| moving.number == 0) {
            return Ok(());
        }
        self.redirect(id, route, (me, old), now)?;
        let until = now + COMING_WAIT;
        let (number, again, held) = (0, until, Vec::new());
        route.moving = Some(Moving { old, used: now, number, again, until, held });
        Ok(())
    }

    /// The entity was looked for here and is found at `at`.
    ///
    /// # Errors
    ///
    /// As for [`coming`](Self::coming): mail waits until then.
    pub fn found(
        &self,
        id: EntityId,
        (me, at): (WorkerId, WorkerId),
        now: Instant,
    ) -> Result<(), Option<(WorkerId, u64)>> {
        self.sweep(now);
        let mut known = self.known.borrow_mut();
        let route = known.entry(id).or_insert(Route { at, used: now, moving: None });
        self.redirect(id, route, (me, at), now)
    }

    /// From now on mail goes to `at`: what went another way has to come there first.
    fn redirect(
        &self,
        id: EntityId,
        route: &mut Route,
        (me, at): (WorkerId, WorkerId),
        now: Instant,
    ) -> Result<(), Option<(WorkerId, u64)>> {
        if route.moving.is_some() {
            return Err(None);
        }
        // What this worker has sent to itself lies in the mailbox here.
        let is_there = route.at == at || route.at == me;
        let is_old = now.since(route.used) > KEEP;
        let before = std::mem::replace(&mut route.at, at);
        let used = std::mem::replace(&mut route.used, now);
        self.lead(id, at);
        if is_there || is_old || self.unordered.get() {
            return Ok(());
        }
        Err(Some((before, self.begin_marker(route, (before, used), now))))
    }

    /// Mail of others goes the same way as that from here.
    fn lead(&self, id: EntityId, at: WorkerId) {
        if let Some(departed) = self.departed.borrow_mut().get_mut(&id) {
            departed.to = at;
        }
    }

    /// Mail waits from now on for a marker that goes by `old`, where something was last sent when `used`
    /// says.
    fn begin_marker(
        &self,
        route: &mut Route,
        (old, used): (WorkerId, Instant),
        now: Instant,
    ) -> u64 {
        let number = self.markers.get() + 1;
        self.markers.set(number);
        let (again, until) = (now + MARKER_EVERY, now + MARKER_WAIT);
        route.moving = Some(Moving { old, used, number, again, until, held: Vec::new() });
        self.wake_by(again);
        number
    }

    /// Whether mail waits for an entity that is coming here.
    pub fn is_coming(&self, id: EntityId) -> bool {
        let known = self.known.borrow();
        let moving = known.get(&id).and_then(|route| route.moving.as_ref());
        moving.is_some_and(|moving| moving.number == 0)
    }

    /// Whether mail waits for the way to an entity to be clear.
    fn is_held(&self, id: EntityId) -> bool {
        self.known.borrow().get(&id).is_some_and(|route| route.moving.is_some())
    }

    fn wake_by(&self, at: Instant) {
        let first = self.moving_until.get().map_or(at, |first| first.min(at));
        self.moving_until.set(Some(first));
    }

    /// The marker came to the entity at `at`.
    pub fn passed(&self, id: EntityId, number: u64, at: WorkerId, now: Instant) -> Cleared {
        let mut known = self.known.borrow_mut();
        let Some(route) = known.get_mut(&id) else { return Vec::new() };
        let Some(moving) = route.moving.take_if(|moving| moving.number == number) else {
            return Vec::new();
        };
        // If it has come to whom it was sent, and nothing follows it, then that way is as old as before: whoever
        // is there may know nothing of the entity, and is not to be asked for ever.
        let is_unused = at == moving.old && moving.held.is_empty();
        (route.at, route.used) = (at, if is_unused { moving.used } else { now });
        self.lead(id, at);
        vec![(id, at, moving.held)]
    }

    /// Gives what waits for an entity that was to come here and does not, but is at `at`. What waits for
    /// a marker goes on waiting.
    pub fn not_coming(&self, id: EntityId, at: WorkerId, now: Instant) -> Vec<Held> {
        if self.is_coming(id) { self.settle(id, at, now) } else { Vec::new() }
    }

    /// The store gives the entity to this worker, or it is to come here and does not: gives all that
    /// waited, which may go to `at`. What is sent from now on lies in the mailbox here.
    pub fn settle(&self, id: EntityId, at: WorkerId, now: Instant) -> Vec<Held> {
        let mut known = self.known.borrow_mut();
        let Some(route) = known.get_mut(&id) else { return Vec::new() };
        (route.at, route.used) = (at, now);
        route.moving.take().map(|moving| moving.held).unwrap_or_default()
    }

    /// What was on its way from and to `node` may be lost, a marker too: it is sent again. `standing`: of
    /// the node now. One that is off the list may live, and send mail on that it got late: what is sent to
    /// the same entities waits until that cannot be any more.
    pub fn node_down(&self, node: Incarnation, standing: Standing, now: Instant) {
        let mut known = self.known.borrow_mut();
        for route in known.values_mut() {
            let at = route.at;
            match &mut route.moving {
                Some(moving) if moving.old.node == node || at.node == node => {
                    moving.again = now;
                    self.wake_by(now);
                }
                None if standing == Standing::Apart
                    && at.node == node
                    && now.since(route.used) <= KEEP
                    && !self.unordered.get() =>
                {
                    self.begin_marker(route, (at, route.used), now);
                }
                _ => {}
            }
        }
        if standing != Standing::Listed {
            known.retain(|_, route| route.at.node != node || route.moving.is_some());
            self.departed.borrow_mut().retain(|_, departed| departed.to.node != node);
        }
    }

    /// Gives up waiting for markers that did not come for long, or that nobody will send on; and those
    /// that are to be sent again, and to whom.
    pub fn handle_timeout(
        &self,
        now: Instant,
        standing: impl Fn(Incarnation) -> Standing,
    ) -> (Cleared, Vec<(EntityId, WorkerId, u64)>) {
        let (mut cleared, mut again) = (Vec::new(), Vec::new());
        if self.moving_until.get().is_none_or(|at| at > now) {
            return (cleared, again);
        }
        let mut next = None::<Instant>;
        self.known.borrow_mut().retain(|id, route| {
            if let Some(moving) =
                route.moving.take_if(|moving| moving.number != 0 && moving.until <= now)
            {
                cleared.push((*id, route.at, moving.held));
                // Else what waited goes to where the entity is placed, and later mail behind it.
                return standing(route.at.node) == Standing::Listed;
            }
            if let Some(moving) = route.moving.as_mut().filter(|moving| moving.number != 0) {
                if moving.again <= now {
                    moving.again = now + MARKER_EVERY;
                    match standing(moving.old.node) {
                        Standing::Listed => again.push((*id, moving.old, moving.number)),
                        Standing::Apart => {}
                        // What it sent on last may be on its way.
                        Standing::Dead => moving.until = moving.until.min(moving.again),
                    }
                }
                let due = moving.again.min(moving.until);
                next = Some(next.map_or(due, |next| next.min(due)));
            }
            true
        });
        self.moving_until.set(next);
        cleared.sort_by_key(|(id, ..)| *id);
        again.sort_unstable();
        (cleared, again)
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        self.moving_until.get()
    }

    /// Keeps a message until the way is clear; `false` if there are too many.
    fn hold(&self, id: EntityId, held: Held) -> bool {
        let mut known = self.known.borrow_mut();
        let moving = known.get_mut(&id).and_then(|route| route.moving.as_mut());
        let Some(moving) = moving.filter(|moving| moving.held.len() < HELD_MAX) else {
            return false;
        };
        moving.held.push(held);
        true
    }

    // -- of those that left --

    /// The entity has left for `to`, or is not here any more.
    pub fn departed(&self, id: EntityId, to: WorkerId, now: Instant) {
        let mut departed = self.departed.borrow_mut();
        if departed.len() < ROUTES_MAX {
            let (until, told) = (now + DEPARTED_KEEP, BTreeMap::new());
            departed.insert(id, Departed { to, until, told });
        }
    }

    /// The entity is here.
    pub fn is_here(&self, id: EntityId) {
        self.departed.borrow_mut().remove(&id);
    }

    /// Where an entity went that was here.
    pub fn went(&self, id: EntityId) -> Option<WorkerId> {
        let departed = self.departed.borrow();
        let departed = departed.get(&id).filter(|departed| departed.until > self.now.get());
        departed.map(|departed| departed.to)
    }

    /// Whether `from` is to be told where the entity went: once in a while.
    fn is_news(&self, id: EntityId, from: WorkerId) -> bool {
        let mut departed = self.departed.borrow_mut();
        let Some(departed) = departed.get_mut(&id) else { return false };
        let now = self.now.get();
        let before = departed.told.get(&from);
        let is_news = before.is_none_or(|at| now.since(*at) >= MARKER_EVERY);
        if is_news {
            departed.told.insert(from, now);
        }
        is_news
    }
}

impl<E: Entity> Shard<E> {
    /// Keeps a call or tell for an entity that has moved, until the way to it is clear.
    pub fn hold_call(
        &self,
        call: Option<Slot>,
        target: EntityId,
        deadline: Instant,
        message: &E::Message,
        (sender, chain): (Sender, Vec<EntityId>),
    ) -> Result<(), Fault> {
        let mut body = Vec::new();
        E::encode_message(message, &mut body);
        self.check_length(&body).map_err(|problem| Fault::BadArgument(problem.into()))?;
        let method = E::KIND.methods.get(E::method(message)).map(|info| info.id);
        let left = (deadline - self.hub.now.get()).as_nanos().div_ceil(1_000_000);
        let frame = LinkFrame::Call(proto::link::Call {
            call,
            from: self.hub.me,
            target,
            method: method.unwrap_or_default(),
            remaining_ms: u32::try_from(left).unwrap_or(u32::MAX),
            sender: sender.id(self.hub.me.node),
            chain,
            body: &body,
        });
        let mut payload = Vec::new();
        frame.encode(0, &mut payload);
        if self.hub.routes.hold(target, Held { from: self.hub.me, payload, call }) {
            return Ok(());
        }
        bump(&self.hub.count.busy);
        Err(Fault::BUSY)
    }

    /// Sends a message that waited on its way.
    pub fn send_held(self: &std::rc::Rc<Self>, to: WorkerId, held: Held) {
        let hub = &self.hub;
        if let Some(slot) = held.call {
            match self.calls.borrow_mut().get_mut(slot) {
                Some(call) => call.went_to(to),
                // Its time is over: nobody waits for what it would do.
                None => return,
            }
        }
        let Ok((_, frame)) = LinkFrame::decode(&held.payload) else { return };
        let call = match frame {
            LinkFrame::Marker { entity, number } if to == hub.me => {
                return hub.handle_marker(held.from, entity, number);
            }
            LinkFrame::Move { entity, body, .. } if to == hub.me => {
                if let Err(error) = self.take_late(entity, body) {
                    tracing::warn!(%entity, from = %held.from.node, "late mail is lost: {error}");
                }
                return;
            }
            LinkFrame::Move { .. } => return hub.frames.borrow_mut().control(to, &frame),
            frame if to != hub.me && held.from != hub.me => {
                return hub.send_on(to, held.from, &frame);
            }
            LinkFrame::Call(call) => call,
            _ => return,
        };
        if to.node != hub.me.node {
            let mut payload = held.payload;
            payload[1] = to.worker;
            return hub.frames.borrow_mut().ready(to, held.call, &payload);
        }
        if to == hub.me {
            return hub.handle_call(held.from, &call);
        }
        // Later mail to a neighbour goes by its lane, so this does.
        let Some(method) = self.method(call.method) else { return };
        let Ok(message) = E::decode_message(usize::from(method), call.body) else { return };
        let sender = call.sender.map_or(Sender::OUTSIDE, |id| Sender::of(id, hub.me.node));
        if let Err(fault) = self.reserve_lane(to.worker) {
            if let Some(slot) = held.call {
                self.settle(slot, Err(fault));
            }
            return;
        }
        let left = Duration::from_millis(u64::from(call.remaining_ms));
        let deadline = hub.now.get() + left;
        let chain = call.chain.into();
        let EntityId { home, key, .. } = call.target;
        let call = held.call;
        self.lane_call(to.worker, Parcel { home, key, call, sender, deadline, chain, message });
    }

    /// Sends mail of `from` on to where its entity went, or keeps it for one that is coming here. Gives it
    /// back if the entity is neither.
    pub fn send_on(&self, target: EntityId, from: WorkerId, mail: Mail<E>) -> Option<Mail<E>> {
        let hub = &self.hub;
        if !E::KIND.document || self.cells.borrow().find(target.home, target.key).is_some() {
            return Some(mail);
        }
        let (went, waits) = (hub.went(target), hub.waits(target));
        let super::mail::Body::Message(message) = &mail.body else { return Some(mail) };
        if went.is_none() && !waits {
            return Some(mail);
        }
        if hub.routes.hops.get() >= HOPS_MAX && !waits {
            // It goes in a circle: the next one asks the store.
            hub.routes.is_here(target);
            self.answer(mail.origin, Err(Fault::UNAVAILABLE));
            return None;
        }
        let mut body = Vec::new();
        E::encode_message(message, &mut body);
        if let Some(mut call) = self.far_call(target, mail.sender, mail.method, &mail.origin, &body)
        {
            if let Origin::Tell = mail.origin {
                call.from = from;
            }
            let from = call.from;
            let frame = LinkFrame::Call(call);
            if waits {
                // What was sent on before may come back with it; this must not overtake that, nor follow
                // behind the marker which says that all of that has come.
                if !hub.hold_behind(target, from, &frame) {
                    self.answer(mail.origin, Err(Fault::BUSY));
                }
                return None;
            }
            if let Some(to) = went {
                hub.routes.note(target, to, hub.now.get());
                hub.send_on(to, from, &frame);
            }
        }
        if let Some(to) = went.filter(|_| !waits) {
            hub.tell_moved(target, from, to);
            // Who sent it on goes on doing so.
            if let Some(via) = hub.routes.via.get() {
                hub.tell_moved(target, via, to);
            }
        }
        None
    }
}

impl Hub {
    /// Whether what others send for an entity that is not here is to wait, as what is sent from here
    /// does: it is coming here, or the way to it is not clear.
    pub fn waits(&self, id: EntityId) -> bool {
        self.routes.is_held(id)
    }

    /// Keeps a frame behind the mail that waits here for the same entity. `false` if none is to wait, or too
    /// much does.
    pub fn hold_behind(&self, id: EntityId, from: WorkerId, frame: &LinkFrame<'_>) -> bool {
        if !self.waits(id) {
            return false;
        }
        let mut payload = Vec::new();
        frame.encode(self.me.worker, &mut payload);
        self.routes.hold(id, Held { from, payload, call: None })
    }

    /// Sends a frame of `from` on to `to`.
    fn send_on(&self, to: WorkerId, from: WorkerId, frame: &LinkFrame<'_>) {
        let mut payload = Vec::new();
        frame.encode(to.worker, &mut payload);
        let hops = self.routes.hops.get() + 1;
        let frame = LinkFrame::Forwarded { from, hops, payload: &payload };
        self.frames.borrow_mut().control(to, &frame);
    }

    /// Where an entity went that was here, if that node is still there.
    pub fn went(&self, entity: EntityId) -> Option<WorkerId> {
        self.routes.went(entity).filter(|to| self.router.lists(to.node))
    }

    /// Where the list of nodes places an entity.
    fn placed(&self, entity: EntityId) -> Option<WorkerId> {
        match self.router.place(entity) {
            Place::Here => Some(self.me),
            Place::Worker(worker) => Some(WorkerId { worker, ..self.me }),
            Place::Node(at) => Some(at),
            Place::Gone | Place::Unknown | Place::Away => None,
        }
    }

    fn tell_moved(&self, entity: EntityId, from: WorkerId, at: WorkerId) {
        if from != self.me && from != at && self.routes.is_news(entity, from) {
            self.frames.borrow_mut().control(from, &LinkFrame::Moved { entity, at });
        }
    }

    /// Something that was sent to where its entity was.
    pub fn handle_forwarded(
        self: &Rc<Self>,
        (via, from): (WorkerId, WorkerId),
        hops: u8,
        payload: &[u8],
    ) -> bool {
        let before = self.routes.hops.replace(hops);
        let via = self.routes.via.replace(Some(via));
        let known = match LinkFrame::decode(payload) {
            Ok((_, LinkFrame::Call(call))) => {
                self.handle_call(from, &call);
                true
            }
            Ok((_, LinkFrame::Marker { entity, number })) => {
                self.handle_marker(from, entity, number);
                true
            }
            _ => false,
        };
        self.routes.hops.set(before);
        self.routes.via.set(via);
        known
    }

    /// All mail of `from` before the marker has come.
    pub fn handle_marker(self: &Rc<Self>, from: WorkerId, entity: EntityId, number: u64) {
        let shard = self.shard_of_kind(entity.kind);
        let is_here = shard.is_some_and(|shard| shard.target(entity).is_some());
        if !is_here && from != self.me && self.waits(entity) {
            // What it is to come behind is held here, and not where the entity is as yet. One that is not
            // held is sent again.
            self.hold_behind(entity, from, &LinkFrame::Marker { entity, number });
            return;
        }
        match self.went(entity).filter(|_| !is_here && self.routes.hops.get() < HOPS_MAX) {
            Some(to) => {
                self.routes.note(entity, to, self.now.get());
                self.send_on(to, from, &LinkFrame::Marker { entity, number });
            }
            None => {
                self.frames.borrow_mut().control(from, &LinkFrame::Passed { entity, number });
            }
        }
    }

    /// The entity is at `at` and not at `old` any more.
    pub fn handle_moved(self: &Rc<Self>, entity: EntityId, old: WorkerId, at: WorkerId) {
        let Some(shard) = self.shard_of_kind(entity.kind) else { return };
        if at == self.me {
            return;
        }
        shard.reroute_calls(entity, at);
        let lists = |node| self.router.lists(node);
        let marker = self.routes.moved(entity, (old, at), self.now.get(), lists);
        drop(shard);
        if let Some((by, number)) = marker {
            self.send_marker(entity, by, number);
        }
    }

    /// Sends a marker the way that mail went.
    pub fn send_marker(&self, entity: EntityId, old: WorkerId, number: u64) {
        if old.node == self.me.node {
            if let Some(shard) = self.shard_of_kind(entity.kind) {
                shard.lane_marker(old.worker, entity, number);
            }
        } else {
            let marker = LinkFrame::Marker { entity, number };
            self.frames.borrow_mut().control(old, &marker);
        }
    }

    /// Sends what waited for a clear way: to where its entity is, or is placed now if that node has gone.
    pub fn send_cleared(self: &Rc<Self>, cleared: Cleared) {
        for (id, at, held) in cleared {
            let Some(shard) = self.shard_of_kind(id.kind) else { continue };
            let is_there = at.node == self.me.node || self.router.lists(at.node);
            let placed = if is_there || held.is_empty() { None } else { self.placed(id) };
            if let Some(placed) = placed {
                self.routes.note(id, placed, self.now.get());
            }
            let at = placed.unwrap_or(at);
            for held in held {
                Rc::clone(&shard).send_held(at, held);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: EntityId = EntityId { kind: proto::KindId(1), home: Incarnation::NONE, key: 1 };

    fn at(node: u64) -> WorkerId {
        WorkerId { node: Incarnation(node), worker: 0 }
    }

    /// Seed 747 of the data suite: two nodes held each other for the one that has an entity, for ever.
    #[test]
    fn where_an_entity_went_is_forgotten_in_time_although_nothing_is_sent() {
        let routes = Routes::default();
        let now = Instant::ZERO + Duration::from_secs(1);
        routes.now.set(now);
        routes.departed(ID, at(2), now);
        assert_eq!(routes.went(ID), Some(at(2)));
        routes.now.set(now + DEPARTED_KEEP);
        assert_eq!(routes.went(ID), None, "nothing was sent since");
    }

    /// Seed 15721 of the data suite: an entity was not taken for ever, as mail had gone to a worker that knew nothing
    /// of it, and each marker which said so made that way a new one.
    #[test]
    fn a_way_that_only_markers_go_grows_old() {
        let (routes, begun) = (Routes::default(), Instant::ZERO + Duration::from_secs(1));
        routes.note(ID, at(2), begun);
        for number in 1..=4 {
            let now = begun + number as u32 * (KEEP / 4);
            assert_eq!(routes.coming(ID, (at(1), at(4)), now), Err(Some((at(2), number))));
            assert_eq!(routes.passed(ID, number, at(2), now).len(), 1);
        }
        assert_eq!(routes.coming(ID, (at(1), at(4)), begun + KEEP + MARKER_EVERY), Ok(()));
    }

    /// Seed 60 of the data suite: a worker asked itself for mail that it had sent to itself, for ever.
    #[test]
    fn what_a_worker_sent_to_itself_is_not_asked_after_when_the_entity_comes() {
        let (routes, now) = (Routes::default(), Instant::ZERO + Duration::from_secs(1));
        assert!(routes.settle(ID, at(1), now).is_empty());
        routes.note(ID, at(1), now);
        assert_eq!(routes.coming(ID, (at(1), at(2)), now), Ok(()));
    }

    /// Seeds 11176 and 14487 of the suite of clusters: a node that was off the list for a moment had a letter, and sent
    /// it on after the next one had come another way.
    #[test]
    fn mail_waits_for_a_node_off_the_list_that_may_send_on_what_it_got() {
        let (routes, now) = (Routes::default(), Instant::ZERO + Duration::from_secs(1));
        routes.note(ID, at(2), now);
        routes.node_down(Incarnation(2), Standing::Apart, now);
        assert!(matches!(routes.way(ID, now), Way::Held));
        let now = now + MARKER_EVERY;
        let (cleared, again) = routes.handle_timeout(now, |_| Standing::Apart);
        assert!(cleared.is_empty() && again.is_empty(), "nothing reaches it");
        let now = now + MARKER_EVERY;
        let (cleared, again) = routes.handle_timeout(now, |_| Standing::Listed);
        assert!(cleared.is_empty());
        assert_eq!(again, [(ID, at(2), 1)]);
        routes.passed(ID, 1, at(2), now);
        assert!(matches!(routes.way(ID, now), Way::To(to) if to == at(2)));
    }

    #[test]
    fn mail_does_not_wait_for_a_node_that_is_dead() {
        let (routes, mut now) = (Routes::default(), Instant::ZERO + Duration::from_secs(1));
        routes.note(ID, at(2), now);
        routes.node_down(Incarnation(2), Standing::Dead, now);
        assert!(matches!(routes.way(ID, now), Way::Placed));
        // It may be known only later.
        routes.note(ID, at(3), now);
        routes.node_down(Incarnation(3), Standing::Apart, now);
        for _ in 0..2 {
            assert!(matches!(routes.way(ID, now), Way::Held));
            now += MARKER_EVERY;
            routes.handle_timeout(now, |_| Standing::Dead);
        }
        assert!(matches!(routes.way(ID, now), Way::Placed), "nothing waits");
    }

    /// What waited for a marker overtook what was under way when another move was called off, or when the
    /// entity was found elsewhere again.
    #[test]
    fn only_its_marker_clears_a_way() {
        let (routes, now) = (Routes::default(), Instant::ZERO + Duration::from_secs(1));
        routes.note(ID, at(2), now);
        assert_eq!(routes.moved(ID, (at(2), at(3)), now, |_| true), Some((at(2), 1)));
        routes.not_coming(ID, at(4), now);
        assert!(matches!(routes.way(ID, now), Way::Held));
        assert_eq!(routes.found(ID, (at(1), at(4)), now), Err(None));
        assert_eq!(routes.passed(ID, 1, at(3), now).len(), 1);
        assert_eq!(routes.found(ID, (at(1), at(3)), now), Ok(()));
        assert_eq!(routes.found(ID, (at(1), at(4)), now), Err(Some((at(3), 2))));
        assert!(matches!(routes.way(ID, now), Way::Held));
        routes.passed(ID, 2, at(4), now);
        assert!(matches!(routes.way(ID, now), Way::To(to) if to == at(4)));
    }

    /// Seeds 60 and 1222 of the test of walkers in a hurry, and 2640 of that of links that break: what a former
    /// owner sent on took another way than what it sent itself, so that none of its markers was behind it.
    #[test]
    fn mail_of_others_goes_the_way_of_ones_own() {
        let (routes, now) = (Routes::default(), Instant::ZERO + Duration::from_secs(1));
        routes.now.set(now);
        routes.departed(ID, at(2), now);
        routes.note(ID, at(2), now);
        assert_eq!(routes.moved(ID, (at(2), at(3)), now, |_| true), Some((at(2), 1)));
        assert_eq!(routes.went(ID), Some(at(3)));
        routes.passed(ID, 1, at(4), now);
        assert_eq!(routes.went(ID), Some(at(4)));
    }

    #[test]
    fn who_goes_on_sending_to_a_former_owner_is_told_again() {
        let (routes, now) = (Routes::default(), Instant::ZERO + Duration::from_secs(1));
        routes.now.set(now);
        routes.departed(ID, at(2), now);
        assert!(routes.is_news(ID, at(3)));
        assert!(!routes.is_news(ID, at(3)));
        routes.now.set(now + MARKER_EVERY);
        assert!(routes.is_news(ID, at(3)), "it may not have heard");
    }

    /// Seed 9170 of the suite of clusters: a home looked for an entity where it is placed, again and again,
    /// and was told where it is, which it did not hear as it knew a node that was off the list.
    #[test]
    fn who_has_an_entity_is_heard_of_others_than_a_node_that_is_off_the_list() {
        let (routes, now) = (Routes::default(), Instant::ZERO + Duration::from_secs(1));
        routes.now.set(now);
        routes.note(ID, at(2), now);
        assert_eq!(routes.moved(ID, (at(3), at(4)), now, |_| true), None);
        assert_eq!(routes.find(ID), Some(at(2)), "what it knows is newer");
        routes.node_down(Incarnation(2), Standing::Apart, now);
        assert_eq!(routes.moved(ID, (at(3), at(4)), now, |node| node != Incarnation(2)), None);
        assert_eq!(routes.find(ID), Some(at(4)));
        assert!(matches!(routes.way(ID, now), Way::Held), "its mail may be under way");
        routes.note(ID, at(2), now);
        let now = now + MARKER_WAIT;
        routes.handle_timeout(now, |_| Standing::Apart);
        assert!(matches!(routes.way(ID, now), Way::Placed), "the node did not come back");
    }

    #[test]
    fn mail_does_not_wait_for_an_entity_that_does_not_come() {
        let (routes, now) = (Routes::default(), Instant::ZERO + Duration::from_secs(1));
        assert_eq!(routes.coming(ID, (at(1), at(2)), now), Ok(()));
        assert!(matches!(routes.way(ID, now), Way::Held));
        assert!(routes.not_coming(ID, at(2), now).is_empty());
        assert!(matches!(routes.way(ID, now), Way::To(to) if to == at(2)));
    }
}
