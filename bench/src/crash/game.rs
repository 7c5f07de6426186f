//! The game that is killed: traders with a level, gold and items.

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

pub fn app() -> App {
    App::new("crash").entity::<Trader>().agent::<Trader>("me")
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
        let deal = Deal::new(TxnId(id.into()), "mint").mint(cx.holder(), GOLD, MINTED).make(
            ItemId(id.into()),
            THING,
            cx.holder(),
            Vec::new(),
        );
        told(cx.commit(deal).await)
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
        let pledge = cx.entity::<Trader>(to).pledge().await;
        let pledge = pledge.map_err(|error| format!("{error}"))?.ok_or("it has no claim")?;
        let (me, buyer) = (cx.holder(), pledge.holder());
        let deal = Deal::new(TxnId(id.into()), "sell")
            .with(pledge)
            .give(ItemId(item.into()), me, buyer)
            .pay(buyer, me, GOLD, 1);
        told(cx.commit(deal).await)
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

fn told(done: Result<mainstay::store::Receipt, CommitError>) -> Result<u64, String> {
    done.map(|receipt| receipt.sequence).map_err(|error| error.to_string())
}
