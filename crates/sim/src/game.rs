//! The game that is simulated: everything the engine promises is used, and checked where it shows.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use mainstay::App;
use mainstay::env::Instant;
use mainstay::prelude::*;
use mainstay::proto::link::Slot;

use crate::book::{Life, Shared, answer};

/// Entities that chains of calls run through.
pub const RELAYS: u64 = 6;
/// Halls, each with a room.
pub const HALLS: u64 = 2;

/// How long a call between entities may take.
pub const CALL: Duration = Duration::from_secs(3);
const CONFIRM: Duration = Duration::from_secs(1);

/// The game of one run, which notes what it sees in `book`.
pub fn app(book: &Shared) -> App {
    let (agents, relays, halls) = (book.clone(), book.clone(), book.clone());
    let admitted = book.clone();
    App::new("simulated")
        .entity_with::<Agent>(move |_| Agent {
            book: agents.clone(),
            seats: Seats::default(),
            alarms: Alarms::new(&agents),
        })
        .entity_with::<Relay>(move |_| Relay::new(&relays))
        .entity_with::<Hall>(move |_| Hall::new(&halls))
        .entity::<Room>()
        .agent::<Agent>("agent")
        .bindings(move |login| {
            // A session that its home was lost to is chosen for again, without a ticket.
            if !login.address.is_empty() {
                admitted.open().admitted(login.session);
            }
            Ok(Vec::new())
        })
}

/// What clients are told. `tag` names the stream or group, `k` counts from 1.
#[client]
pub trait SimClient {
    /// Numbered by the entity: none may miss, none may come twice.
    #[sync]
    fn told(tag: u64, k: u64);
    /// Only the newest counts: they may be missed, but never go back.
    #[sync(latest)]
    fn newest(tag: u64, k: u64);
    /// To be answered with `answer(tag, 0, q)`.
    #[call(deadline = "1s")]
    fn confirm(tag: u64, q: u64) -> u64;
    /// The casts of group `group` after `k` are for this client.
    #[sync]
    fn entered(group: u64, k: u64);
    /// To a group, none missing.
    #[sync]
    fn cast(group: u64, k: u64);
    /// To a group, some missing.
    #[sync(unreliable)]
    fn spark(group: u64, k: u64);
}

/// The clients at an entity: each has a stream, named by a tag.
#[derive(Default)]
pub struct Seats {
    known: BTreeMap<Slot, Seat>,
}

/// How far a client at an entity is: the tag of its stream, and what it was told last.
#[derive(Clone, Copy, Debug, Message)]
pub struct Place {
    pub tag: u64,
    pub told: u64,
    pub newest: u64,
}

pub struct Seat {
    book: Shared,
    me: EntityId,
    pub peer: Peer,
    pub at: Place,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.book.open().seat_dropped(self.me, self.at.tag);
    }
}

impl Seat {
    fn tell<E: mainstay::rt::Entity>(&mut self, cx: &Cx<E>) {
        self.at.told += 1;
        cx.client::<SimClient>(&self.peer).told(self.at.tag, self.at.told);
    }

    fn show<E: mainstay::rt::Entity>(&mut self, cx: &Cx<E>) {
        self.at.newest += 1;
        cx.client::<SimClient>(&self.peer).newest(self.at.tag, self.at.newest);
    }
}

impl Seats {
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Seat> {
        self.known.values()
    }

    /// Takes note of a client; `true` if its stream is new.
    pub fn online(&mut self, book: &Shared, me: EntityId, peer: &Peer) -> bool {
        if self.known.contains_key(&peer.slot()) {
            return false;
        }
        let tag = book.open().tag();
        self.sit(book, me, peer, Place { tag, told: 0, newest: 0 });
        true
    }

    /// A client has a stream that goes on from there.
    pub fn sit(&mut self, book: &Shared, me: EntityId, peer: &Peer, at: Place) {
        book.open().online(me, at.tag);
        let seat = Seat { book: book.clone(), me, peer: peer.clone(), at };
        self.known.insert(peer.slot(), seat);
    }

    /// Takes note that a client is away, or gone.
    pub fn offline(&mut self, book: &Shared, me: EntityId, peers: &[Peer], peer: &Peer) {
        if peers.contains(peer) {
            return;
        }
        // It may have been heard of before: both that it broke off and that it is over.
        if let Some(seat) = self.known.remove(&peer.slot()) {
            book.open().offline(me, seat.at.tag);
        }
    }

    /// Tells all clients the next number.
    pub fn tell_all<E: mainstay::rt::Entity>(&mut self, cx: &Cx<E>) {
        self.known.values_mut().for_each(|seat| seat.tell(cx));
    }

    /// Tells all clients the next number, also the one of which only the newest counts.
    pub fn beat<E: mainstay::rt::Entity>(&mut self, cx: &Cx<E>) {
        for seat in self.known.values_mut() {
            seat.tell(cx);
            seat.show(cx);
        }
    }
}

/// The alarms of an entity that have not gone off.
pub struct Alarms {
    book: Shared,
    /// Names this holder of them: where they move, the former one is dropped before or after it comes.
    holder: u64,
    set: Vec<u64>,
}

impl Drop for Alarms {
    fn drop(&mut self) {
        let mut book = self.book.open();
        self.set.iter().for_each(|alarm| book.alarm_dropped(*alarm, self.holder));
    }
}

impl Alarms {
    pub fn new(book: &Shared) -> Self {
        Alarms { book: book.clone(), holder: 0, set: Vec::new() }
    }

    /// Takes those over that came along with an entity.
    pub fn hold(&mut self, set: Vec<u64>) {
        let mut book = self.book.open();
        self.holder = book.tag();
        set.iter().for_each(|alarm| book.alarm_held(*alarm, self.holder));
        drop(book);
        self.set = set;
    }

    pub fn set(&mut self, due: Instant) -> u64 {
        let alarm = self.book.open().alarm_set(due, self.holder);
        self.set.push(alarm);
        alarm
    }

    pub fn ring(&mut self, now: Instant, alarm: u64) {
        self.set.retain(|known| *known != alarm);
        self.book.open().alarm_rings(now, alarm);
    }

    /// Those that have not rung.
    pub fn open(&self) -> &[u64] {
        &self.set
    }
}

/// Awaits a call that has to end by its limit.
pub async fn timed<T>(
    book: &Shared,
    (limit, what): (Duration, &'static str),
    now: impl Fn() -> Instant,
    call: impl Future<Output = T>,
) -> T {
    let id = book.open().call_begins(now(), limit, what);
    let mut open = OpenCall { book, id: Some(id) };
    let result = call.await;
    open.id = None;
    book.open().call_ends(now(), id);
    result
}

/// A call that somebody waits for.
struct OpenCall<'a> {
    book: &'a Shared,
    id: Option<u64>,
}

impl Drop for OpenCall<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.book.open().call_dropped(id);
        }
    }
}

/// Notes that a client's command is handled now.
pub fn take<T: mainstay::rt::Entity>(book: &Shared, cx: &Cx<T>, life: Life, n: u64) {
    let mut book = book.open();
    if let Caller::Client(peer) = cx.caller() {
        book.came(life, peer.account().0);
    }
    book.applied(cx.id(), life, n);
}

/// The answer to a command whose own call failed.
pub fn failed(book: &Shared, error: &CallError) -> u64 {
    match error {
        CallError::Cycle { .. } => book.open().cycles += 1,
        CallError::Timeout { .. }
        | CallError::Cancelled(_)
        | CallError::Unavailable(_)
        | CallError::Gone(_) => {}
        CallError::Busy(_) => {}
        error => book.open().violation(format!("calls: {error}")),
    }
    0
}

/// An account's entity: every session of the account has its first stream here.
#[entity]
pub struct Agent {
    book: Shared,
    seats: Seats,
    alarms: Alarms,
}

#[rpc]
impl Agent {
    #[request(client)]
    fn add(&mut self, cx: &mut Cx<Self>, life: Life, n: u64) -> u64 {
        take(&self.book, cx, life, n);
        answer(cx.key(), life, n)
    }

    #[tell(client)]
    fn note(&mut self, cx: &mut Cx<Self>, life: Life, n: u64) {
        take(&self.book, cx, life, n);
    }

    /// Answers late, so that connections break between.
    #[request(client)]
    async fn slow(&mut self, cx: &mut Cx<Self>, life: Life, n: u64, ms: u64) -> u64 {
        take(&self.book, cx, life, n);
        cx.sleep(Duration::from_millis(ms.min(2_000))).await;
        answer(cx.key(), life, n)
    }

    /// Asks through other entities, on other workers and nodes.
    #[request(client)]
    async fn chain(&mut self, cx: &mut Cx<Self>, life: Life, n: u64, hops: u32) -> u64 {
        take(&self.book, cx, life, n);
        let (book, key) = (self.book.clone(), cx.key());
        let call = cx.entity::<Relay>(n % RELAYS).pass(key, life, n, hops.min(5)).deadline(CALL);
        match timed(&book, (CALL, "a chain"), || cx.now(), call).await {
            Ok(value) => value,
            Err(error) => failed(&book, &error),
        }
    }

    /// Calls another agent, which may be calling this one.
    #[request(client)]
    async fn duel(&mut self, cx: &mut Cx<Self>, life: Life, n: u64, other: u64) -> u64 {
        take(&self.book, cx, life, n);
        let (book, key) = (self.book.clone(), cx.key());
        let call = cx.entity::<Agent>(other).parry(key, life, n).deadline(CALL);
        match timed(&book, (CALL, "a duel"), || cx.now(), call).await {
            Ok(value) => value,
            Err(error) => failed(&book, &error),
        }
    }

    #[invoke(server)]
    async fn parry(&mut self, cx: &mut Cx<Self>, key: u64, life: Life, n: u64) -> u64 {
        cx.sleep(Duration::from_millis(n % 40)).await;
        answer(key, life, n)
    }

    /// Asks the clients of this account.
    #[request(client)]
    async fn survey(&mut self, cx: &mut Cx<Self>, life: Life, n: u64) -> u64 {
        take(&self.book, cx, life, n);
        let book = self.book.clone();
        let seats: Vec<_> =
            self.seats.iter().map(|seat| (seat.peer.clone(), seat.at.tag)).collect();
        for (peer, tag) in seats {
            let call = cx.client::<SimClient>(&peer).confirm(tag, n);
            match timed(&book, (CONFIRM, "a call to a client"), || cx.now(), call).await {
                Ok(value) if value == answer(tag, 0, n) => book.open().answered_by_clients += 1,
                Ok(_) => book.open().violation("answers: a client's call got another's answer"),
                Err(_) => {}
            }
        }
        answer(cx.key(), life, n)
    }

    /// Has the client bound to the room of a hall.
    #[request(client)]
    async fn enter(&mut self, cx: &mut Cx<Self>, life: Life, n: u64, hall: u64) -> u64 {
        take(&self.book, cx, life, n);
        let Caller::Client(peer) = cx.caller() else { return 0 };
        let book = self.book.clone();
        let call = cx.entity::<Hall>(hall % HALLS).find().deadline(CALL);
        match timed(&book, (CALL, "a hall"), || cx.now(), call).await {
            // It may have ended since.
            Ok(Some(room)) if cx.bind(&peer, "room", room).is_ok() => answer(cx.key(), life, n),
            Ok(_) => 0,
            Err(error) => failed(&book, &error),
        }
    }

    #[tell(client)]
    fn quit(&mut self, cx: &mut Cx<Self>, life: Life, n: u64) {
        take(&self.book, cx, life, n);
        if let Caller::Client(peer) = cx.caller() {
            cx.unbind(&peer, "room");
        }
    }

    /// Has the server drop the connection; the session goes on.
    #[tell(client)]
    fn drop_me(&mut self, cx: &mut Cx<Self>, life: Life, n: u64) {
        take(&self.book, cx, life, n);
        if let Caller::Client(peer) = cx.caller() {
            cx.kick(&peer, CloseCode::GoingAway, "as asked");
        }
    }

    /// Sends many numbered messages at once.
    #[tell(client)]
    fn flood(&mut self, cx: &mut Cx<Self>, life: Life, n: u64, count: u64) {
        take(&self.book, cx, life, n);
        (0..count.min(200)).for_each(|_| self.seats.tell_all(cx));
    }

    /// Sets timers that must fire once, none early.
    #[tell(client)]
    fn alarm(&mut self, cx: &mut Cx<Self>, life: Life, n: u64) {
        take(&self.book, cx, life, n);
        let time = Duration::from_millis(n * 37 % 1_500);
        let id = self.alarms.set(cx.now() + time);
        cx.after(time).ring(id);
    }

    #[timer]
    fn ring(&mut self, cx: &mut Cx<Self>, id: u64) {
        self.alarms.ring(cx.now(), id);
    }

    #[timer]
    fn beat(&mut self, cx: &mut Cx<Self>) {
        self.seats.beat(cx);
    }

    #[hook]
    fn online(&mut self, cx: &mut Cx<Self>, peer: Peer) {
        self.seats.online(&self.book, cx.id(), &peer);
        if !cx.has_timer("beat") {
            let time = Duration::from_millis(600);
            cx.every(time, time, Times::Forever).key("beat").beat();
        }
    }

    #[hook]
    fn offline(&mut self, cx: &mut Cx<Self>, peer: Peer, _code: CloseCode) {
        self.seats.offline(&self.book, cx.id(), &cx.peers(), &peer);
        if self.seats.is_empty() {
            cx.cancel("beat");
        }
    }
}

/// A link of a chain of calls.
#[entity]
pub struct Relay {
    book: Shared,
}

impl Relay {
    pub fn new(book: &Shared) -> Self {
        Relay { book: book.clone() }
    }
}

#[rpc]
impl Relay {
    #[invoke(server)]
    async fn pass(&mut self, cx: &mut Cx<Self>, key: u64, life: Life, n: u64, hops: u32) -> u64 {
        self.book.open().chains += 1;
        if hops == 0 {
            return answer(key, life, n);
        }
        let book = self.book.clone();
        let next = cx.entity::<Relay>((cx.key() + 1 + n % 2) % RELAYS);
        let call = next.pass(key, life, n, hops - 1).deadline(CALL);
        match timed(&book, (CALL, "a link of a chain"), || cx.now(), call).await {
            Ok(value) => value,
            Err(error) => failed(&book, &error),
        }
    }
}

/// Knows its room, and opens one if there is none.
#[entity]
pub struct Hall {
    book: Shared,
    room: Option<Ref<Room>>,
}

impl Hall {
    pub fn new(book: &Shared) -> Self {
        Hall { book: book.clone(), room: None }
    }
}

#[rpc]
impl Hall {
    #[invoke(server)]
    fn find(&mut self, cx: &mut Cx<Self>) -> Option<Ref<Room>> {
        if self.room.is_none() {
            let group = self.book.open().tag();
            self.room = cx.spawn(Room::new(self.book.clone(), cx.key(), group)).ok();
        }
        self.room
    }

    #[tell(server)]
    fn ended(&mut self, _cx: &mut Cx<Self>, room: Ref<Room>) {
        self.room.take_if(|known| *known == room);
    }
}

/// Lives while clients are in it, and tells them all the same.
#[entity(room)]
pub struct Room {
    book: Shared,
    hall: u64,
    /// Names its reliable group; the live one has the same.
    tag: u64,
    casts: u64,
    sparks: u64,
    idle: u32,
    seats: Seats,
    groups: Option<(Group<SimClient>, Group<SimClient>)>,
}

impl Room {
    fn new(book: Shared, hall: u64, tag: u64) -> Self {
        let seats = Seats::default();
        Room { book, hall, tag, casts: 0, sparks: 0, idle: 0, seats, groups: None }
    }
}

#[rpc]
impl Room {
    #[request(client)]
    fn hit(&mut self, cx: &mut Cx<Self>, life: Life, n: u64) -> u64 {
        take(&self.book, cx, life, n);
        answer(0, life, n)
    }

    #[tell(client)]
    fn shout(&mut self, cx: &mut Cx<Self>, life: Life, n: u64) {
        take(&self.book, cx, life, n);
        self.cast(cx);
    }

    #[hook]
    fn created(&mut self, cx: &mut Cx<Self>) {
        let name = format!("reliable {}", self.tag);
        let live = format!("live {}", self.tag);
        self.groups = Some((cx.group::<SimClient>(&name), cx.group::<SimClient>(&live)));
        let time = Duration::from_millis(450);
        cx.every(time, time, Times::Forever).beat();
    }

    #[timer]
    fn beat(&mut self, cx: &mut Cx<Self>) {
        if self.seats.is_empty() {
            self.idle += 1;
            if self.idle > 20 {
                let _ = cx.entity::<Hall>(self.hall).ended(cx.me());
                cx.destroy();
            }
            return;
        }
        self.idle = 0;
        self.cast(cx);
        self.seats.tell_all(cx);
    }

    #[hook]
    fn online(&mut self, cx: &mut Cx<Self>, peer: Peer) {
        if !self.seats.online(&self.book, cx.id(), &peer) {
            return;
        }
        let Some((reliable, live)) = &self.groups else { return };
        cx.client::<SimClient>(&peer).entered(self.tag, self.casts);
        reliable.join(cx, &peer);
        live.join(cx, &peer);
    }

    #[hook]
    fn offline(&mut self, cx: &mut Cx<Self>, peer: Peer, _code: CloseCode) {
        self.seats.offline(&self.book, cx.id(), &cx.peers(), &peer);
    }
}

impl Room {
    fn cast(&mut self, cx: &Cx<Self>) {
        let Some((reliable, live)) = &self.groups else { return };
        self.casts += 1;
        self.sparks += 1;
        cx.cast(reliable).cast(self.tag, self.casts);
        cx.cast(live).spark(self.tag, self.sparks);
    }
}
