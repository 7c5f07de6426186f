//! What is played in the cluster suite: avatars and shops that are kept and move, posts and rooms that are
//! not, all of which speak to each other and to clients.

use std::collections::BTreeMap;
use std::time::Duration;

use mainstay::App;
use mainstay::env::Instant;
use mainstay::prelude::*;
use mainstay::proto::SessionId;
use mainstay::store::{Currency, TxnId};

use super::deeds::Deeds;
use crate::book::{DENIED, Life, Shared, answer};
use crate::game::{
    Alarms, CALL, HALLS, Hall, Place, RELAYS, Relay, Room, Seats, failed, take, timed,
};

pub const GOLD: Currency = Currency(1);
/// Stored entities that many play with.
pub const SHOPS: u64 = 3;
/// Entities in memory that many write to.
const POSTS: u64 = 2;
/// Without clients and mail for so many looks an entity leaves.
const IDLE_MAX: u32 = 3;
const IDLE_EVERY: Duration = Duration::from_millis(1_500);

/// The game of one run, which notes what it sees in `book` and `deeds`.
pub fn app(book: &Shared, deeds: &Deeds) -> App {
    let both = || (book.clone(), deeds.clone());
    let (avatars, shops, posts) = (both(), both(), both());
    let (relays, halls, admitted) = (book.clone(), book.clone(), book.clone());
    App::new("clustered")
        .entity_with::<Avatar>(move |_| Avatar { steps: 0, paid: 0, soul: Soul::new(&avatars) })
        .entity_with::<Shop>(move |_| Shop { steps: 0, paid: 0, soul: Soul::new(&shops) })
        .entity_with::<Post>(move |_| Post::new(&posts))
        .entity_with::<Relay>(move |_| Relay::new(&relays))
        .entity_with::<Hall>(move |_| Hall::new(&halls))
        .entity::<Room>()
        .agent::<Avatar>("agent")
        .bind::<Shop>("shop", |login| login.account.0 % SHOPS)
        .bindings(move |login| {
            // A session that its home was lost to is chosen for again, without a ticket.
            if !login.address.is_empty() {
                admitted.open().admitted(login.session);
            }
            Ok(Vec::new())
        })
}

/// The kinds of which nothing may be left once all clients have gone.
pub const PASSING: [&str; 4] = ["Avatar", "Shop", "Post", "Room"];

/// Names the deal that command `n` of a client asks for.
pub fn txn(life: Life, n: u64) -> TxnId {
    TxnId(u128::from(life) << 64 | u128::from(n))
}

fn epoch<E: mainstay::rt::Entity>(cx: &Cx<E>) -> u64 {
    cx.pledge().map_or(0, |pledge| pledge.epoch())
}

// -- what avatars and shops have in common --

/// A client at an entity, as it travels.
#[derive(Clone, Debug, Message)]
struct Chair {
    session: SessionId,
    handle: u32,
    tag: u64,
    told: u64,
    newest: u64,
}

/// What an entity takes along.
#[derive(Clone, Debug, Default, Message)]
struct Luggage {
    life: u64,
    steps: u64,
    chairs: Vec<Chair>,
    posted: BTreeMap<u64, u64>,
    alarms: Vec<u64>,
}

/// What an entity has in memory.
struct Soul {
    book: Shared,
    deeds: Deeds,
    /// Names its life since it was loaded, through all its moves.
    life: u64,
    seats: Seats,
    /// The last number written to each other entity.
    posted: BTreeMap<u64, u64>,
    alarms: Alarms,
    idle: u32,
}

impl Soul {
    fn new((book, deeds): &(Shared, Deeds)) -> Self {
        Soul {
            book: book.clone(),
            deeds: deeds.clone(),
            life: 0,
            seats: Seats::default(),
            posted: BTreeMap::new(),
            alarms: Alarms::new(book),
            idle: 0,
        }
    }

    /// It begins here, with what it took along if it has moved.
    fn begin<E: mainstay::rt::Entity>(&mut self, cx: &Cx<E>, steps: u64) {
        let luggage = cx.carried::<Luggage>("luggage");
        let carried = luggage.as_ref().map(|luggage| luggage.steps);
        self.life = luggage.as_ref().map_or_else(|| self.book.open().tag(), |known| known.life);
        self.alarms.hold(luggage.as_ref().map(|known| known.alarms.clone()).unwrap_or_default());
        let me = cx.id();
        self.deeds.open().began(cx.now(), (me, self.life), epoch(cx), steps, carried);
        let Some(luggage) = luggage else { return };
        self.posted = luggage.posted;
        for peer in cx.peers() {
            let is_its = |c: &&Chair| (c.session, c.handle) == (peer.session(), peer.handle());
            let Some(chair) = luggage.chairs.iter().find(is_its) else { continue };
            let &Chair { tag, told, newest, .. } = chair;
            self.seats.sit(&self.book, me, &peer, Place { tag, told, newest });
        }
        let is_here = |tag: u64| self.seats.iter().any(|seat| seat.at.tag == tag);
        for chair in luggage.chairs.iter().filter(|chair| !is_here(chair.tag)) {
            self.book.open().offline(me, chair.tag);
        }
    }

    fn pack<E: mainstay::rt::Entity>(&self, cx: &Cx<E>, steps: u64) {
        let chairs = self.seats.iter().map(|seat| {
            let Place { tag, told, newest } = seat.at;
            let (session, handle) = (seat.peer.session(), seat.peer.handle());
            Chair { session, handle, tag, told, newest }
        });
        let luggage = Luggage {
            life: self.life,
            steps,
            chairs: chairs.collect(),
            posted: self.posted.clone(),
            alarms: self.alarms.open().to_vec(),
        };
        cx.carry("luggage", &luggage);
    }

    /// Something is done now, by the owner of this epoch.
    fn act<E: mainstay::rt::Entity>(&mut self, cx: &Cx<E>, steps: u64) {
        self.idle = 0;
        self.deeds.open().acted(cx.now(), cx.id(), epoch(cx), steps);
    }

    fn online(&mut self, me: EntityId, peer: &Peer) {
        self.idle = 0;
        self.seats.online(&self.book, me, peer);
    }

    fn offline(&mut self, me: EntityId, peers: &[Peer], peer: &Peer) {
        self.seats.offline(&self.book, me, peers, peer);
    }

    /// Looks whether anybody needs it; gives whether it may go.
    fn is_idle(&mut self) -> bool {
        self.idle += 1;
        self.idle > IDLE_MAX && self.seats.is_empty() && self.alarms.open().is_empty()
    }

    /// The next number for a letter to another entity, if `send` sends it.
    fn post(&mut self, now: Instant, to: u64, send: impl FnOnce(u64, u64) -> bool) {
        let number = self.posted.get(&to).copied().unwrap_or(0) + 1;
        if send(self.life, number) {
            self.posted.insert(to, number);
            self.deeds.open().posted(now, self.life, to, number);
        }
    }
}

// -- kinds --

/// An account's entity: every session of the account has its first stream here.
#[entity(document)]
#[derive(Document)]
pub struct Avatar {
    /// What it has done.
    #[persist]
    steps: u64,
    /// Deals that it has paid for: written with them.
    #[persist]
    paid: u64,
    soul: Soul,
}

impl Avatar {
    /// A client's command is handled now.
    fn take(&mut self, cx: &Cx<Self>, life: Life, n: u64) {
        take(&self.soul.book, cx, life, n);
        self.act(cx);
    }

    fn act(&mut self, cx: &Cx<Self>) {
        self.steps += 1;
        self.soul.act(cx, self.steps);
    }
}

#[rpc]
impl Avatar {
    #[request(client)]
    fn add(&mut self, cx: &mut Cx<Self>, life: Life, n: u64) -> u64 {
        self.take(cx, life, n);
        answer(cx.key(), life, n)
    }

    #[tell(client)]
    fn note(&mut self, cx: &mut Cx<Self>, life: Life, n: u64) {
        self.take(cx, life, n);
    }

    /// Answers late, so that much breaks between.
    #[request(client)]
    async fn slow(&mut self, cx: &mut Cx<Self>, life: Life, n: u64, ms: u64) -> u64 {
        self.take(cx, life, n);
        cx.sleep(Duration::from_millis(ms.min(2_000))).await;
        answer(cx.key(), life, n)
    }

    /// Pays for something: durable once it is answered.
    #[request(client)]
    async fn pay(&mut self, cx: &mut Cx<Self>, life: Life, n: u64, price: u64) -> u64 {
        self.take(cx, life, n);
        self.paid += 1;
        let deal = Deal::new(txn(life, n), "pay").mint(cx.holder(), GOLD, price);
        match cx.commit_with(self, deal).await {
            Ok(_) => answer(cx.key(), life, n),
            Err(CommitError::Unknown(_)) => 0,
            Err(CommitError::Invalid(text)) => {
                self.soul.book.open().violation(format!("deals: one cannot be: {text}"));
                0
            }
            Err(_) => {
                self.paid -= 1;
                DENIED
            }
        }
    }

    /// Buys at a shop, which is kept as well, somewhere.
    #[request(client)]
    async fn buy(&mut self, cx: &mut Cx<Self>, life: Life, n: u64, shop: u64) -> u64 {
        self.take(cx, life, n);
        let (book, shop) = (self.soul.book.clone(), shop % SHOPS);
        let call = cx.entity::<Shop>(shop).sell(cx.key(), life, n).deadline(CALL);
        match timed(&book, (CALL, "a purchase"), || cx.now(), call).await {
            Ok(value) => value,
            Err(error) => failed(&book, &error),
        }
    }

    /// Asks through other entities, on other workers and nodes.
    #[request(client)]
    async fn chain(&mut self, cx: &mut Cx<Self>, life: Life, n: u64, hops: u32) -> u64 {
        self.take(cx, life, n);
        let (book, key) = (self.soul.book.clone(), cx.key());
        let call = cx.entity::<Relay>(n % RELAYS).pass(key, life, n, hops.min(5)).deadline(CALL);
        match timed(&book, (CALL, "a chain"), || cx.now(), call).await {
            Ok(value) => value,
            Err(error) => failed(&book, &error),
        }
    }

    /// Calls another avatar, which may be calling this one.
    #[request(client)]
    async fn duel(&mut self, cx: &mut Cx<Self>, life: Life, n: u64, other: u64) -> u64 {
        self.take(cx, life, n);
        let (book, key) = (self.soul.book.clone(), cx.key());
        let call = cx.entity::<Avatar>(other).parry(key, life, n).deadline(CALL);
        match timed(&book, (CALL, "a duel"), || cx.now(), call).await {
            Ok(value) => value,
            Err(error) => failed(&book, &error),
        }
    }

    #[invoke(server)]
    async fn parry(&mut self, cx: &mut Cx<Self>, key: u64, life: Life, n: u64) -> u64 {
        self.act(cx);
        cx.sleep(Duration::from_millis(n % 40)).await;
        answer(key, life, n)
    }

    /// Writes to others, numbered for each of them.
    #[tell(client)]
    fn post(&mut self, cx: &mut Cx<Self>, life: Life, n: u64, to: u64) {
        self.take(cx, life, n);
        let (post, shop, avatar) = (to % POSTS, to % SHOPS, 1 + to % 4);
        let now = cx.now();
        self.soul.post(now, post, |life, k| cx.entity::<Post>(post).mail(life, k).is_ok());
        self.soul.post(now, 10 + shop, |life, k| cx.entity::<Shop>(shop).mail(life, k).is_ok());
        if avatar != cx.key() {
            let send = |life, k| cx.entity::<Avatar>(avatar).mail(life, k).is_ok();
            self.soul.post(now, 20 + avatar, send);
        }
    }

    #[tell(server)]
    fn mail(&mut self, cx: &mut Cx<Self>, from: u64, k: u64) {
        self.soul.deeds.open().mail(cx.now(), (cx.id(), 0, 20 + cx.key()), from, k);
        self.act(cx);
    }

    /// Has the client bound to the room of a hall.
    #[request(client)]
    async fn enter(&mut self, cx: &mut Cx<Self>, life: Life, n: u64, hall: u64) -> u64 {
        self.take(cx, life, n);
        let Caller::Client(peer) = cx.caller() else { return 0 };
        let book = self.soul.book.clone();
        let hall = hall % HALLS;
        let call = cx.entity::<Hall>(hall).find().deadline(CALL);
        match timed(&book, (CALL, "a hall"), || cx.now(), call).await {
            Ok(Some(room)) if cx.bind(&peer, "room", room).is_ok() => answer(cx.key(), life, n),
            Ok(Some(room)) => {
                // It is gone, maybe with its node, which tells nobody.
                let _ = cx.entity::<Hall>(hall).ended(room);
                0
            }
            Ok(None) => 0,
            Err(error) => failed(&book, &error),
        }
    }

    #[tell(client)]
    fn quit(&mut self, cx: &mut Cx<Self>, life: Life, n: u64) {
        self.take(cx, life, n);
        if let Caller::Client(peer) = cx.caller() {
            cx.unbind(&peer, "room");
        }
    }

    /// Has the server drop the connection; the session goes on.
    #[tell(client)]
    fn drop_me(&mut self, cx: &mut Cx<Self>, life: Life, n: u64) {
        self.take(cx, life, n);
        if let Caller::Client(peer) = cx.caller() {
            cx.kick(&peer, CloseCode::GoingAway, "as asked");
        }
    }

    /// Sends many numbered messages at once.
    #[tell(client)]
    fn flood(&mut self, cx: &mut Cx<Self>, life: Life, n: u64, count: u64) {
        self.take(cx, life, n);
        (0..count.min(200)).for_each(|_| self.soul.seats.tell_all(cx));
    }

    /// Sets timers that must fire once, none early.
    #[tell(client)]
    fn alarm(&mut self, cx: &mut Cx<Self>, life: Life, n: u64) {
        self.take(cx, life, n);
        let time = Duration::from_millis(n * 37 % 1_500);
        let id = self.soul.alarms.set(cx.now() + time);
        cx.after(time).ring(id);
    }

    #[timer]
    fn ring(&mut self, cx: &mut Cx<Self>, id: u64) {
        self.soul.alarms.ring(cx.now(), id);
    }

    #[timer]
    fn beat(&mut self, cx: &mut Cx<Self>) {
        self.soul.deeds.open().is_owner(cx.now(), cx.id(), epoch(cx));
        self.soul.seats.beat(cx);
    }

    #[timer]
    fn look(&mut self, cx: &mut Cx<Self>) {
        if self.soul.is_idle() {
            cx.destroy();
        }
    }

    #[hook]
    fn created(&mut self, cx: &mut Cx<Self>) {
        cx.every(IDLE_EVERY, IDLE_EVERY, Times::Forever).key("look").look();
    }

    #[hook]
    fn loaded(&mut self, cx: &mut Cx<Self>) {
        self.soul.begin(cx, self.steps);
    }

    #[hook]
    fn before_move(&mut self, cx: &mut Cx<Self>) {
        self.soul.pack(cx, self.steps);
    }

    #[hook]
    fn online(&mut self, cx: &mut Cx<Self>, peer: Peer) {
        self.soul.online(cx.id(), &peer);
        if !cx.has_timer("beat") {
            let time = Duration::from_millis(700);
            cx.every(time, time, Times::Forever).key("beat").beat();
        }
    }

    #[hook]
    fn offline(&mut self, cx: &mut Cx<Self>, peer: Peer, _code: CloseCode) {
        self.soul.offline(cx.id(), &cx.peers(), &peer);
        if self.soul.seats.is_empty() {
            cx.cancel("beat");
        }
    }
}

/// A stored entity that many accounts have a stream to.
#[entity(document)]
#[derive(Document)]
pub struct Shop {
    #[persist]
    steps: u64,
    /// Unused: read like an avatar's.
    #[persist]
    paid: u64,
    soul: Soul,
}

#[rpc]
impl Shop {
    #[request(client)]
    fn browse(&mut self, cx: &mut Cx<Self>, life: Life, n: u64) -> u64 {
        take(&self.soul.book, cx, life, n);
        self.act(cx);
        answer(0, life, n)
    }

    /// All who are here hear of it.
    #[tell(client)]
    fn haggle(&mut self, cx: &mut Cx<Self>, life: Life, n: u64) {
        take(&self.soul.book, cx, life, n);
        self.act(cx);
        self.soul.seats.tell_all(cx);
    }

    /// Sells to an avatar: once for each command.
    #[invoke(server)]
    fn sell(&mut self, cx: &mut Cx<Self>, key: u64, life: Life, n: u64) -> u64 {
        self.soul.deeds.open().sold(cx.id(), life, n);
        self.act(cx);
        answer(key, life, n)
    }

    #[tell(server)]
    fn mail(&mut self, cx: &mut Cx<Self>, from: u64, k: u64) {
        self.soul.deeds.open().mail(cx.now(), (cx.id(), 0, 10 + cx.key()), from, k);
        self.act(cx);
    }

    #[timer]
    fn look(&mut self, cx: &mut Cx<Self>) {
        if self.soul.is_idle() {
            cx.destroy();
        }
    }

    #[hook]
    fn created(&mut self, cx: &mut Cx<Self>) {
        cx.every(IDLE_EVERY, IDLE_EVERY, Times::Forever).key("look").look();
    }

    #[hook]
    fn loaded(&mut self, cx: &mut Cx<Self>) {
        self.soul.begin(cx, self.steps);
    }

    #[hook]
    fn before_move(&mut self, cx: &mut Cx<Self>) {
        self.soul.pack(cx, self.steps);
    }

    #[hook]
    fn online(&mut self, cx: &mut Cx<Self>, peer: Peer) {
        self.soul.online(cx.id(), &peer);
    }

    #[hook]
    fn offline(&mut self, cx: &mut Cx<Self>, peer: Peer, _code: CloseCode) {
        self.soul.offline(cx.id(), &cx.peers(), &peer);
    }
}

impl Shop {
    fn act(&mut self, cx: &Cx<Self>) {
        self.steps += 1;
        self.soul.act(cx, self.steps);
    }
}

/// Takes letters, in memory alone.
#[entity]
pub struct Post {
    deeds: Deeds,
    /// Names its life.
    life: u64,
    idle: u32,
}

impl Post {
    fn new((book, deeds): &(Shared, Deeds)) -> Self {
        Post { deeds: deeds.clone(), life: book.open().tag(), idle: 0 }
    }
}

#[rpc]
impl Post {
    #[tell(server)]
    fn mail(&mut self, cx: &mut Cx<Self>, from: u64, k: u64) {
        self.idle = 0;
        self.deeds.open().mail(cx.now(), (cx.id(), self.life, cx.key()), from, k);
    }

    /// Says that it can be reached.
    #[invoke(server)]
    fn here(&mut self, _cx: &mut Cx<Self>) -> u64 {
        self.idle = 0;
        1
    }

    #[timer]
    fn look(&mut self, cx: &mut Cx<Self>) {
        self.idle += 1;
        if self.idle > IDLE_MAX {
            cx.destroy();
        }
    }

    #[hook]
    fn created(&mut self, cx: &mut Cx<Self>) {
        cx.every(IDLE_EVERY, IDLE_EVERY, Times::Forever).key("look").look();
    }
}

/// An account's avatar, for whoever moves it.
pub fn avatar(account: u64) -> EntityId {
    Ref::<Avatar>::keyed(account).id()
}

pub fn shop(key: u64) -> EntityId {
    Ref::<Shop>::keyed(key).id()
}

/// Where the store has an entity of them.
pub fn keys(accounts: u64) -> Vec<(mainstay::store::Key, EntityId)> {
    let avatars = (1..=accounts).map(|key| (holder(Ref::<Avatar>::keyed(key)), avatar(key)));
    avatars.chain((0..SHOPS).map(|key| (holder(Ref::<Shop>::keyed(key)), shop(key)))).collect()
}

/// What an avatar or shop has in the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Document)]
pub struct Kept {
    #[persist]
    pub steps: u64,
    #[persist]
    pub paid: u64,
}
