//! What the strict bots play with beside the arena: one entity of each sort, which number and check what they hear.

use std::collections::BTreeMap;
use std::time::Duration;

use mainstay::prelude::*;

use super::count::Order;

/// Names of the streams.
pub const CLERK: &str = "clerk";
pub const SCALE: &str = "scale";
pub const DESK: &str = "desk";

/// Players who share a desk.
const DESK_PLAYERS: u64 = 40;
/// Every so many weighings take their time, so that some are under way at any moment.
const SLOW_EVERY: u64 = 4;
const SLOW: Duration = Duration::from_millis(50);
/// How often a clerk tells its player something unasked.
const TELL_EVERY: Duration = Duration::from_secs(2);

pub fn app() -> App {
    arena::app()
        .entity::<Clerk>()
        .entity::<Scale>()
        .entity::<Desk>()
        .client::<Strict>()
        .agent::<Clerk>(CLERK)
        .bind::<Scale>(SCALE, |_| 0)
        .bind::<Desk>(DESK, |login| login.account.0 / DESK_PLAYERS)
}

/// What players are told.
#[client]
pub trait Strict {
    /// The clerk's messages, from 1 on; the last number of the player that it had heard.
    #[sync]
    fn told(number: u64, heard: u64);

    /// The desk's messages to this player, from 1 on in each life of the desk; which number of the
    /// player it is about.
    #[sync]
    fn noted(life: u64, number: u64, about: u64);
}

/// What an entity heard and told, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub struct Account {
    /// The number that was asked with.
    pub asked: u64,
    /// What was heard of this player.
    pub heard: Order,
    /// How many messages this player was told.
    pub told: u64,
    /// The life of the entity, by random; 0 for one that has a single life.
    pub life: u64,
}

/// A player's own entity at a service node: stored, so it has one life through all restarts.
#[entity(document)]
#[derive(Default, Document)]
pub struct Clerk {
    #[persist]
    heard: Order,
    #[persist]
    told: u64,
}

#[rpc]
impl Clerk {
    /// A numbered request.
    #[request(client)]
    fn ask(&mut self, number: u64) -> Account {
        self.heard.hear(number);
        Account { asked: number, heard: self.heard.clone(), told: self.told, life: 0 }
    }

    /// A numbered message, answered by one.
    #[tell(client)]
    fn note(&mut self, cx: &mut Cx<Self>, number: u64) {
        self.heard.hear(number);
        self.tell(cx);
    }

    #[hook]
    fn loaded(&mut self, cx: &mut Cx<Self>) {
        cx.every(TELL_EVERY, TELL_EVERY, Times::Forever).key("tell").say();
    }

    #[timer]
    fn say(&mut self, cx: &mut Cx<Self>) {
        self.tell(cx);
    }
}

impl Clerk {
    fn tell(&mut self, cx: &mut Cx<Self>) {
        let Some(peer) = cx.peers().into_iter().next() else { return };
        self.told += 1;
        cx.client::<Strict>(&peer).told(self.told, self.heard.last);
    }
}

/// A service: it has no state, and any node that offers it may answer.
#[service]
#[derive(Default)]
pub struct Scale;

#[rpc]
impl Scale {
    /// The sum; now and then only after a while.
    #[request(client)]
    async fn weigh(&self, cx: &mut Cx<Self>, number: u64, more: u64) -> u64 {
        if number.is_multiple_of(SLOW_EVERY) {
            cx.sleep(SLOW).await;
        }
        number.wrapping_add(more)
    }
}

/// An entity of some players at a scene node: not stored, so it begins anew elsewhere when its node stops.
#[entity]
#[derive(Default)]
pub struct Desk {
    life: u64,
    players: BTreeMap<u64, Sheet>,
}

/// What a desk knows of one player.
#[derive(Debug, Default)]
struct Sheet {
    heard: Order,
    told: u64,
}

#[rpc]
impl Desk {
    #[hook]
    fn created(&mut self, cx: &mut Cx<Self>) {
        self.life = cx.random(|random| random.u64()) | 1;
    }

    /// A numbered request.
    #[request(client)]
    fn ask(&mut self, cx: &mut Cx<Self>, number: u64) -> Account {
        let life = self.life;
        let Some((_, sheet)) = self.hear(cx, number) else { return Account::default() };
        Account { asked: number, heard: sheet.heard.clone(), told: sheet.told, life }
    }

    /// A numbered message, answered by one.
    #[tell(client)]
    fn note(&mut self, cx: &mut Cx<Self>, number: u64) {
        let life = self.life;
        let Some((peer, sheet)) = self.hear(cx, number) else { return };
        sheet.told += 1;
        let told = sheet.told;
        cx.client::<Strict>(&peer).noted(life, told, number);
    }
}

impl Desk {
    fn hear(&mut self, cx: &Cx<Self>, number: u64) -> Option<(Peer, &mut Sheet)> {
        let Caller::Client(peer) = cx.caller() else { return None };
        let sheet = self.players.entry(peer.account().0).or_insert_with(|| Sheet {
            // What an earlier life heard is gone with it.
            heard: Order { last: number.saturating_sub(1), ..Order::default() },
            told: 0,
        });
        sheet.heard.hear(number);
        Some((peer, sheet))
    }
}
