//! What is played: players with documents, items and gold, on whatever node has them.

use mainstay::App;
use mainstay::prelude::*;
use mainstay::store::{Currency, ItemId, ItemKind, Key, TxnId};

pub const GOLD: Currency = Currency(1);
pub const SWORD: ItemKind = ItemKind(7);

pub fn app() -> App {
    App::new("kept").entity::<Player>()
}

/// The holder that a player is in the ledger.
pub fn key(player: u64) -> Key {
    holder(Ref::<Player>::keyed(player))
}

/// What became of a deal, as the player is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Message)]
pub enum Told {
    Done,
    /// Nothing was done, and nothing will be.
    NotDone,
    Unknown,
    /// It is a mistake that nothing here makes.
    #[message(fallback)]
    Wrong,
}

fn told<T>(result: Result<T, CommitError>) -> Told {
    match result {
        Ok(_) => Told::Done,
        Err(CommitError::Unknown(_)) => Told::Unknown,
        Err(CommitError::Invalid(text)) => {
            tracing::error!(text, "a deal that cannot be");
            Told::Wrong
        }
        Err(_) => Told::NotDone,
    }
}

/// Somebody who plays.
#[entity(document)]
#[derive(Default, Document)]
pub struct Player {
    /// Rises with each step: saved behind play.
    #[persist]
    pub steps: u64,
    /// Lessons paid for: written with their payments.
    #[persist]
    pub lessons: u64,
    #[persist]
    bag: Component<Bag>,
}

/// Saved apart from the rest.
#[component(of = Player)]
#[derive(Default, Document)]
pub struct Bag {
    #[persist]
    pub stones: u64,
}

#[rpc]
impl Player {
    /// Gives the steps so far, and the epoch of the owner who says so.
    #[invoke(server)]
    fn step(&mut self, cx: &mut Cx<Self>) -> (u64, u64) {
        self.steps += 1;
        (self.steps, epoch(cx))
    }

    #[invoke(server)]
    fn look(&mut self, cx: &mut Cx<Self>) -> (u64, u64) {
        (self.steps, epoch(cx))
    }

    /// Leaves its node: whoever calls it next finds it anywhere.
    #[invoke(server)]
    fn leave(&mut self, cx: &mut Cx<Self>) -> (u64, u64) {
        cx.destroy();
        (self.steps, epoch(cx))
    }

    #[invoke(server)]
    async fn mint(&mut self, cx: &mut Cx<Self>, id: u64, amount: u64) -> Told {
        let deal = Deal::new(txn(id), "mint").mint(cx.holder(), GOLD, amount);
        told(cx.commit(deal).await)
    }

    #[invoke(server)]
    async fn burn(&mut self, cx: &mut Cx<Self>, id: u64, amount: u64) -> Told {
        let deal = Deal::new(txn(id), "burn").burn(cx.holder(), GOLD, amount);
        told(cx.commit(deal).await)
    }

    #[invoke(server)]
    async fn forge(&mut self, cx: &mut Cx<Self>, id: u64) -> Told {
        let deal = Deal::new(txn(id), "forge").make(item(id), SWORD, cx.holder(), vec![1]);
        told(cx.commit(deal).await)
    }

    /// Pays for a lesson: both or neither.
    #[invoke(server)]
    async fn learn(&mut self, cx: &mut Cx<Self>, id: u64, price: u64) -> Told {
        self.steps += 1;
        self.lessons += 1;
        let deal = Deal::new(txn(id), "learn").burn(cx.holder(), GOLD, price);
        let done = told(cx.commit_with(self, deal).await);
        if done == Told::NotDone {
            self.lessons -= 1;
        }
        done
    }

    /// Says that it is here, for a trade.
    #[invoke(server)]
    fn pledge(&mut self, cx: &mut Cx<Self>) -> Option<Pledge> {
        cx.pledge()
    }

    /// Pays another player, wherever that one is, and gets one of its swords if it has any.
    #[invoke(server)]
    async fn trade(&mut self, cx: &mut Cx<Self>, id: u64, other: u64, price: u64) -> Told {
        let Ok(Some(pledge)) = cx.entity::<Player>(other).pledge().await else {
            return Told::NotDone;
        };
        let Ok(theirs) = cx.holdings(pledge.holder()).await else { return Told::NotDone };
        let me = cx.holder();
        let mut deal =
            Deal::new(txn(id), "trade").with(pledge).pay(me, pledge.holder(), GOLD, price);
        if let Some(sword) = theirs.items.keys().next() {
            deal = deal.give(*sword, pledge.holder(), me);
        }
        told(cx.commit(deal).await)
    }
}

#[rpc]
impl Bag {
    #[invoke(server)]
    fn put(&mut self, cx: &mut Cx<Player>) -> (u64, u64) {
        self.stones += 1;
        (self.stones, epoch(cx))
    }
}

fn epoch(cx: &Cx<Player>) -> u64 {
    cx.pledge().map_or(0, |pledge| pledge.epoch())
}

pub fn txn(id: u64) -> TxnId {
    TxnId(u128::from(id))
}

pub fn item(id: u64) -> ItemId {
    ItemId(1_000_000 + u128::from(id))
}
