//! The game that is killed: traders with a level, gold and items, in one process or many.

use std::time::Duration;

use mainstay::prelude::*;
use mainstay::store::{Currency, ItemId, ItemKind, TxnId};

pub const GOLD: Currency = Currency(1);
pub const THING: ItemKind = ItemKind(1);
/// What a mint gives.
pub const MINTED: u64 = 10;

/// A player. `level` is saved within a second, `trained` in the transaction that pays for it.
#[entity(document)]
#[derive(Default, Document)]
pub struct Trader {
    #[persist]
    pub level: u64,
    #[persist]
    pub trained: u64,
}

/// Where a trader asks for the price before it sells. Its state is of no worth: it is gone with its node.
#[entity]
#[derive(Default)]
pub struct Stall {
    asked: u64,
}

/// How many there are.
const STALLS: u64 = 64;

/// All in one process.
pub fn app() -> App {
    App::new("crash").entity::<Trader>().agent::<Trader>("me")
}

/// What a player ordered and is to get, sooner or later, once.
#[derive(Message)]
struct Parcel {
    to: u64,
    id: u64,
}

impl Job for Parcel {
    const QUEUE: &'static str = "parcels";
}

/// A carrier tries again for so long before somebody else does.
const CARRIED_MAX: Duration = Duration::from_secs(30);
/// And waits so long in between.
const KNOCK_EVERY: Duration = Duration::from_millis(200);

/// With stalls and parcels, to be spread over processes.
pub fn spread_app() -> App {
    let carriers = Pull::new("all").workers(4).limit(CARRIED_MAX);
    App::new("chaos")
        .entity::<Trader>()
        .entity::<Stall>()
        .agent::<Trader>("me")
        .queue(Queue::new(carry).group(carriers))
}

/// Does not return before the parcel is there: what fails too often would be set aside.
async fn carry(parcel: Parcel, work: Work) -> Done {
    loop {
        let taken = work.entity::<Trader>(parcel.to).receive(parcel.id).await;
        if taken.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(KNOCK_EVERY).await;
    }
}

#[rpc]
impl Trader {
    /// D1: accepted when it is answered.
    #[request(client)]
    fn rise(&mut self) -> u64 {
        self.level += 1;
        self.level
    }

    #[request(client)]
    fn look(&mut self) -> (u64, u64) {
        (self.level, self.trained)
    }

    /// D2: makes gold and an item.
    #[request(client)]
    async fn mint(&mut self, cx: &mut Cx<Self>, id: u64) -> Result<u64, String> {
        mint(cx, id).await
    }

    /// As `mint`, later: acknowledged when the order cannot be lost any more.
    #[request(client)]
    async fn order(&mut self, cx: &mut Cx<Self>, id: u64) -> Result<u64, String> {
        let order = cx.submit(&Parcel { to: cx.key(), id }).map_err(|error| error.to_string())?;
        order.await.map(|_| id).map_err(|error| error.to_string())
    }

    /// What was ordered comes, perhaps once more.
    #[invoke(server)]
    async fn receive(&mut self, cx: &mut Cx<Self>, id: u64) -> Result<u64, String> {
        mint(cx, id).await
    }

    /// D2: destroys an item.
    #[request(client)]
    async fn melt(&mut self, cx: &mut Cx<Self>, id: u64, item: u64) -> Result<u64, String> {
        let deal = Deal::new(TxnId(id.into()), "melt").destroy(ItemId(item.into()), cx.holder());
        told(cx.commit(deal).await)
    }

    /// D2: gives an item to another player, who pays one gold for it.
    #[request(client)]
    async fn sell(
        &mut self,
        cx: &mut Cx<Self>,
        id: u64,
        item: u64,
        to: u64,
    ) -> Result<u64, String> {
        sell(cx, id, item, (to, 1)).await
    }

    /// As `sell`, at the price that a stall says, which is of another process as a rule.
    #[request(client)]
    async fn sell_at_stall(
        &mut self,
        cx: &mut Cx<Self>,
        id: u64,
        item: u64,
        to: u64,
    ) -> Result<u64, String> {
        let price = cx.entity::<Stall>(id % STALLS).price().await;
        let price = price.map_err(|error| format!("the stall: {error}"))?;
        sell(cx, id, item, (to, price)).await
    }

    /// D2: pays one gold for training; payment and document are one.
    #[request(client)]
    async fn train(&mut self, cx: &mut Cx<Self>, id: u64) -> Result<u64, String> {
        self.trained += 1;
        let deal = Deal::new(TxnId(id.into()), "train").burn(cx.holder(), GOLD, 1);
        let done = cx.commit_with(self, deal).await;
        if done.is_err() {
            self.trained -= 1;
        }
        told(done)
    }

    #[invoke(server, interleave)]
    async fn pledge(_this: This<Self>, cx: &mut Cx<Self>) -> Option<Pledge> {
        cx.pledge()
    }
}

#[rpc]
impl Stall {
    #[invoke(server)]
    fn price(&mut self) -> u64 {
        self.asked += 1;
        1
    }
}

/// Makes gold and an item, as transaction `id`.
async fn mint(cx: &mut Cx<Trader>, id: u64) -> Result<u64, String> {
    let deal = Deal::new(TxnId(id.into()), "mint").mint(cx.holder(), GOLD, MINTED).make(
        ItemId(id.into()),
        THING,
        cx.holder(),
        Vec::new(),
    );
    told(cx.commit(deal).await)
}

/// Gives an item to a buyer who pays the price for it, as transaction `id`.
async fn sell(
    cx: &mut Cx<Trader>,
    id: u64,
    item: u64,
    (to, price): (u64, u64),
) -> Result<u64, String> {
    let pledge = cx.entity::<Trader>(to).pledge().await;
    let pledge = pledge.map_err(|error| format!("{error}"))?.ok_or("it has no claim")?;
    let (me, buyer) = (cx.holder(), pledge.holder());
    let deal = Deal::new(TxnId(id.into()), "sell")
        .with(pledge)
        .give(ItemId(item.into()), me, buyer)
        .pay(buyer, me, GOLD, price);
    told(cx.commit(deal).await)
}

fn told(done: Result<mainstay::store::Receipt, CommitError>) -> Result<u64, String> {
    done.map(|receipt| receipt.sequence).map_err(|error| error.to_string())
}
