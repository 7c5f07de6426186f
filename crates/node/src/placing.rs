//! Places for what is made next: a room is made at a node that has the load and the slots for it, on a seat that is
//! reserved there.
//!
//! Each worker chooses by itself among the nodes (`cluster::Placement`), by what they report; the node that
//! is chosen keeps the seat, so that no two choosers give away the same slot.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use cluster::{NoPlace, Placement, PlacementOptions, Seat, Wanted};
use env::Instant;
use macros::{Message, entity, rpc};
use proto::{EntityId, Incarnation, KindId};

use crate::cx::{Cx, Link, Outside, Ref, Source};
use crate::entity::Entity;
use crate::error::{CallError, Failure};
use crate::host::hub::Hub;
use crate::host::sleep::Sleep;

/// How many nodes are asked for one seat.
const TRIES_MAX: usize = 4;
/// How long a node is waited for that is asked to keep a seat: others are there.
const SEAT_WAIT: Duration = Duration::from_secs(1);
/// How long the first report of a node is waited for, if nobody else has room: one comes every 2 s.
const REPORT_WAIT: Duration = Duration::from_secs(3);
/// How often it is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The kind that keeps a node's seats.
pub(crate) const USHER: KindId = KindId::of("mainstay.usher");

/// Rooms and seats of a node, all its workers together.
#[derive(Debug, Default)]
pub(crate) struct RoomCount {
    pub rooms: AtomicU32,
    pub seats: AtomicU32,
    /// Most of both; 0 is any number.
    pub max: AtomicU32,
}

impl RoomCount {
    /// Rooms and seats.
    pub fn taken(&self) -> u32 {
        self.rooms.load(Ordering::Relaxed) + self.seats.load(Ordering::Relaxed)
    }

    fn has_room(&self) -> bool {
        let max = self.max.load(Ordering::Relaxed);
        max == 0 || self.taken() < max
    }
}

/// Why there is no place. Each variant says what the caller can do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlaceError {
    /// Nothing was made.
    #[error(transparent)]
    NoPlace(#[from] NoPlace),
    /// After `Timeout` there may be a room that nobody knows.
    #[error(transparent)]
    Call(#[from] CallError),
}

/// A seat for a room at some node: kept there for 10 s, for whoever has this. It may be sent to others.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
#[message(root = proto)]
pub struct Reservation {
    kind: u32,
    node: u64,
    name: String,
    addresses: Vec<String>,
    ticket: (u64, u64),
    roles: Vec<String>,
    zone: Option<String>,
    interface: Option<u64>,
}

impl Reservation {
    /// The node.
    pub fn node(&self) -> Incarnation {
        Incarnation(self.node)
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where other nodes reach it, best first; empty if only its own process can.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// Names the seat: it can be taken once.
    pub fn ticket(&self) -> u128 {
        u128::from(self.ticket.0) << 64 | u128::from(self.ticket.1)
    }
}

/// The way to a place for a room of kind `T`: what it has to be, then [`spawn`](Self::spawn), or
/// [`reserve`](Self::reserve) and later [`take`](Self::take).
#[must_use]
pub struct Placing<T: Entity> {
    hub: Rc<Hub>,
    from: Source,
    roles: Vec<String>,
    zone: Option<String>,
    interface: Option<u64>,
    near: Option<Incarnation>,
    kind: PhantomData<fn() -> T>,
}

impl<E: Entity> Cx<E> {
    /// Finds a place for a room of kind `T`, at whichever node has the load and the slots for it. The room is made
    /// there by the kind itself: `#[entity(room, create = path)]`, or a maker given to the app.
    pub fn placing<T: Entity>(&self) -> Placing<T> {
        Placing::new(self.hub(), self.source())
    }
}

impl Outside {
    /// As [`Cx::placing`].
    pub fn placing<T: Entity>(&self) -> Placing<T> {
        Placing::new(self.hub_rc(), self.source())
    }
}

impl<T: Entity> Placing<T> {
    fn new(hub: &Rc<Hub>, from: Source) -> Self {
        Placing {
            hub: Rc::clone(hub),
            from,
            roles: Vec::new(),
            zone: None,
            interface: None,
            near: None,
            kind: PhantomData,
        }
    }

    /// Only at a node of this zone.
    pub fn zone(mut self, zone: &str) -> Self {
        self.zone = Some(zone.to_owned());
        self
    }

    /// Only at a node with this role.
    pub fn role(mut self, role: &str) -> Self {
        self.roles.push(role.to_owned());
        self
    }

    /// Only at a node built with this interface.
    pub fn interface(mut self, hash: u64) -> Self {
        self.interface = Some(hash);
        self
    }

    /// At this node if it may be and is not a tenth more loaded than the one that would be chosen.
    pub fn near(mut self, node: Incarnation) -> Self {
        self.near = Some(node);
        self
    }

    /// Reserves a seat. It is kept for 10 s; one that nobody takes is free again. If a node is listed that fits and
    /// has not reported how loaded it is yet, as just after a start, that is waited for up to 3 s before all are `Full`.
    ///
    /// # Errors
    ///
    /// `NoPlace` if no node offers the kind with what is wanted, or none has room.
    pub async fn reserve(&self) -> Result<Reservation, PlaceError> {
        let Some(placement) = self.hub.router.placement() else {
            return Err(NoPlace::Nowhere.into());
        };
        let (wanted, until) = (self.wanted(), self.hub.now_outside() + REPORT_WAIT);
        for _ in 0..TRIES_MAX {
            let seat = self.choose(&placement, &wanted, until).await?;
            let ticket = ((seat.ticket >> 64) as u64, seat.ticket as u64);
            let kept = usher(&self.hub, &self.from, seat.node, 0);
            match kept.reserve(T::KIND.id.0, ticket).deadline(SEAT_WAIT).await {
                Ok(()) => {
                    // Kept there from now on, and shown by that node's reports.
                    let _ = placement.borrow_mut().take(self.hub.now_outside(), seat.ticket);
                    return Ok(self.reservation(seat.node, ticket));
                }
                Err(Failure::Call(error @ (CallError::Cancelled(_) | CallError::Cycle { .. }))) => {
                    placement.borrow_mut().handle_refusal(seat.ticket);
                    return Err(error.into());
                }
                Err(_) => placement.borrow_mut().handle_refusal(seat.ticket),
            }
        }
        Err(NoPlace::Full.into())
    }

    /// Chooses by what this worker has heard of. It may not have heard of a node that others have heard of.
    async fn choose(
        &self,
        placement: &RefCell<Placement>,
        wanted: &Wanted,
        until: Instant,
    ) -> Result<Seat, NoPlace> {
        loop {
            let now = self.hub.now_outside();
            let chosen = placement.borrow_mut().reserve(now, wanted);
            let may_come = now < until && placement.borrow().expects_report(wanted);
            if chosen != Err(NoPlace::Full) || !may_come {
                return chosen;
            }
            let next = now + LOOK_EVERY;
            let sleep = Sleep::new(&self.hub, self.from.turn, next);
            self.hub.poke();
            sleep.await;
            // Sleeps end early once nobody waits for the turn.
            if self.hub.now_outside() < next {
                return chosen;
            }
        }
    }

    /// Makes the room on a reserved seat. If the node has gone meanwhile, the room is made at another one that
    /// fits as well: the reference tells where.
    ///
    /// # Errors
    ///
    /// `NoPlace::Gone` if the seat was taken, has run out, or is for another kind; `Failed` if the kind does not
    /// make rooms by itself, which the log of the node says.
    pub async fn take(&self, reservation: &Reservation) -> Result<Ref<T>, PlaceError> {
        if reservation.kind != T::KIND.id.0 {
            return Err(NoPlace::Gone.into());
        }
        let node = reservation.node();
        let error = match self.take_at(node, reservation).await {
            Err(PlaceError::Call(error)) => error,
            told => return told,
        };
        let is_lost = match error {
            CallError::Gone(_) | CallError::NotFound(_) | CallError::Unavailable(_) => true,
            CallError::Timeout { .. } => !self.hub.router.lists(node),
            _ => false,
        };
        if !is_lost {
            return Err(error.into());
        }
        let again = Placing::<T> {
            roles: reservation.roles.clone(),
            zone: reservation.zone.clone(),
            interface: reservation.interface,
            ..Placing::new(&self.hub, self.from)
        };
        let other = again.reserve().await?;
        again.take_at(other.node(), &other).await
    }

    async fn take_at(
        &self,
        node: Incarnation,
        reservation: &Reservation,
    ) -> Result<Ref<T>, PlaceError> {
        let there = usher(&self.hub, &self.from, node, 0);
        match there.take(reservation.kind, reservation.ticket).await {
            Ok(0) => {
                let room = EntityId { kind: T::KIND.id, home: node, key: 0 };
                Err(CallError::Failed(room).into())
            }
            Ok(key) => Ok(Ref::room(node, key)),
            Err(Failure::App(Refused {})) => Err(NoPlace::Gone.into()),
            Err(Failure::Call(error)) => Err(error.into()),
        }
    }

    /// Reserves a seat and makes the room on it.
    ///
    /// # Errors
    ///
    /// As [`reserve`](Self::reserve).
    pub async fn spawn(&self) -> Result<Ref<T>, PlaceError> {
        let reservation = self.reserve().await?;
        self.take(&reservation).await
    }

    fn wanted(&self) -> Wanted {
        let mut wanted = Wanted::of(T::KIND.id);
        for role in &self.roles {
            wanted = wanted.role(role);
        }
        if let Some(zone) = &self.zone {
            wanted = wanted.zone(zone);
        }
        if let Some(hash) = self.interface {
            wanted = wanted.interface(hash);
        }
        match self.near {
            Some(node) => wanted.near(node),
            None => wanted,
        }
    }

    fn reservation(&self, node: Incarnation, ticket: (u64, u64)) -> Reservation {
        let (name, addresses) = self.hub.router.found_at(node).unwrap_or_default();
        Reservation {
            kind: T::KIND.id.0,
            node: node.0,
            name,
            addresses: addresses.iter().map(ToString::to_string).collect(),
            ticket,
            roles: self.roles.clone(),
            zone: self.zone.clone(),
            interface: self.interface,
        }
    }
}

impl<T: Entity> fmt::Debug for Placing<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Placing");
        debug.field("kind", &T::KIND.name).field("roles", &self.roles).field("zone", &self.zone);
        debug.finish_non_exhaustive()
    }
}

/// The usher of a worker: a key that no room has.
fn usher<'c>(
    hub: &Rc<Hub>,
    from: &'c Source,
    node: Incarnation,
    worker: u8,
) -> <Usher as Entity>::Stub<'c> {
    let id = EntityId { kind: USHER, home: node, key: u64::from(worker) };
    Usher::stub(Link::new(hub, id, from))
}

/// The seat is not there, or there is no room.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
#[message(root = proto)]
pub(crate) struct Refused {}

/// One on each worker: makes rooms there. The one on worker 0 keeps the node's seats.
#[entity(root = crate::rt, room, name = "mainstay.usher", create = Usher::new)]
#[derive(Default)]
pub(crate) struct Usher {
    /// What for, and until when.
    seats: BTreeMap<(u64, u64), (u32, Instant)>,
    /// The worker that gets the next room.
    next: u8,
}

#[rpc(root = crate::rt)]
impl Usher {
    /// Keeps a seat.
    #[invoke(server)]
    fn reserve(&mut self, cx: &mut Cx<Self>, kind: u32, ticket: (u64, u64)) -> Result<(), Refused> {
        let (now, options) = (cx.now(), PlacementOptions::default());
        self.give_up(cx, now);
        let hub = cx.hub();
        let has_room = hub.rooms().has_room() && self.seats.len() < options.seats_max;
        let offers = hub.shard_of_kind(KindId(kind)).is_some_and(|shard| shard.is_hosted());
        if !offers || !has_room || hub.router.is_leaving() {
            return Err(Refused {});
        }
        self.seats.insert(ticket, (kind, now + options.seat_wait));
        self.count(cx);
        if !cx.has_timer("expire") {
            cx.after(options.seat_wait).key("expire").expire();
        }
        Ok(())
    }

    /// Makes a room on a seat, and gives its key; 0 if the kind makes none.
    #[invoke(server)]
    async fn take(
        &mut self,
        cx: &mut Cx<Self>,
        kind: u32,
        ticket: (u64, u64),
    ) -> Result<u64, Refused> {
        self.give_up(cx, cx.now());
        if self.seats.get(&ticket).is_none_or(|(wanted, _)| *wanted != kind) {
            return Err(Refused {});
        }
        let (me, workers) = (cx.hub().me, cx.hub().workers);
        let worker = self.next % workers;
        self.next = (worker + 1) % workers;
        let made = match worker == me.worker {
            true => self.make(cx, kind),
            false => {
                let from = cx.source();
                usher(cx.hub(), &from, me.node, worker).make(kind).await.unwrap_or(0)
            }
        };
        // Until then the seat is counted: there is one more room now.
        self.seats.remove(&ticket);
        self.count(cx);
        Ok(made)
    }

    /// Makes a room on this worker, and gives its key; 0 if the kind makes none.
    #[invoke(server)]
    fn make(&mut self, cx: &mut Cx<Self>, kind: u32) -> u64 {
        let Some(shard) = cx.hub().shard_of_kind(KindId(kind)) else { return 0 };
        let name = shard.kind().name;
        match shard.spawn_new() {
            Ok(id) => id.key,
            Err(fault) => {
                let hint = "`#[entity(room, create = path)]` says how";
                tracing::error!(kind = name, ?fault, "a room cannot be made: {hint}");
                0
            }
        }
    }

    /// Gives up seats that nobody took.
    #[timer]
    fn expire(&mut self, cx: &mut Cx<Self>) {
        self.give_up(cx, cx.now());
        if let Some(until) = self.seats.values().map(|(_, until)| *until).min() {
            cx.after(until - cx.now()).key("expire").expire();
        }
    }
}

impl Usher {
    fn new(_: u64) -> Self {
        Usher::default()
    }

    fn give_up(&mut self, cx: &Cx<Self>, now: Instant) {
        self.seats.retain(|_, (_, until)| *until > now);
        self.count(cx);
    }

    fn count(&self, cx: &Cx<Self>) {
        cx.hub().rooms().seats.store(self.seats.len() as u32, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use env::{Clock, WallTime};

    use super::*;
    use crate::host::{Host, HostSetup};
    use crate::options::HostOptions;

    #[entity(root = crate::rt, room, create = Duel::new)]
    struct Duel;

    impl Duel {
        fn new(_: u64) -> Self {
            Duel
        }
    }

    #[rpc(root = crate::rt)]
    impl Duel {}

    /// Asks the usher of a host on its own, and runs it until it has answered.
    fn ask<R: 'static, F: Future<Output = R> + 'static>(
        host: &mut Host,
        now: Instant,
        act: impl FnOnce(Outside) -> F,
    ) -> R {
        let mut future = Box::pin(act(host.outside()));
        let context = &mut std::task::Context::from_waker(std::task::Waker::noop());
        loop {
            if let std::task::Poll::Ready(done) = future.as_mut().poll(context) {
                return done;
            }
            host.turn(now, WallTime(0));
        }
    }

    async fn reserve(out: Outside, number: u64) -> bool {
        let (hub, from) = (out.hub_rc().clone(), out.source());
        let there = usher(&hub, &from, Incarnation(1), 0);
        there.reserve(Duel::KIND.id.0, (0, number)).await.is_ok()
    }

    async fn take(out: Outside, number: u64) -> bool {
        let (hub, from) = (out.hub_rc().clone(), out.source());
        usher(&hub, &from, Incarnation(1), 0).take(Duel::KIND.id.0, (0, number)).await.is_ok()
    }

    #[test]
    fn d8_seats_that_nobody_takes_are_free_after_their_time() {
        let (clock, _) = Clock::manual(WallTime(0));
        let mut now = clock.now();
        let mut host = Host::new(HostOptions::default(), HostSetup::alone(clock, 3));
        host.register::<Duel>();
        host.open_places();
        let rooms = std::sync::Arc::new(RoomCount::default());
        rooms.max.store(2, Ordering::Relaxed);
        host.share_rooms(rooms.clone());
        host.turn(now, WallTime(0));
        assert!(ask(&mut host, now, |out| reserve(out, 1)));
        assert!(ask(&mut host, now, |out| reserve(out, 2)));
        assert!(!ask(&mut host, now, |out| reserve(out, 3)));
        assert!(ask(&mut host, now, |out| take(out, 1)));
        assert!(!ask(&mut host, now, |out| take(out, 1)), "once");
        assert_eq!(rooms.taken(), 2);
        now += Duration::from_secs(9);
        assert!(!ask(&mut host, now, |out| reserve(out, 4)));
        // Also if nobody asks.
        now += Duration::from_secs(1);
        while host.turn(now, WallTime(0)) == Some(now) {}
        assert_eq!(rooms.taken(), 1);
        assert!(!ask(&mut host, now, |out| take(out, 2)), "too late");
        assert!(ask(&mut host, now, |out| reserve(out, 5)));
        // What is no seat of anybody's is refused.
        assert!(!ask(&mut host, now, |out| take(out, 77)));
    }
}
