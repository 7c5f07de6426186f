//! What a player owns for good: coins and items of the ledger.
//!
//! A deal takes as long as the ledger does, which may be away just when nobody knows what became of
//! it. So deals have turns of their own, one at a time, and the avatar answers meanwhile.

use std::time::Duration;

use mainstay::node::Held;
use mainstay::prelude::*;
use mainstay::store::{Currency, Holdings, ItemId, ItemKind, Key, TxnId};

use crate::avatar::Avatar;
use crate::messages::{ArenaClient, BuyError, Parcel, Purse};
use crate::rules;

/// Coins, as the ledger calls them.
pub const COINS: Currency = Currency(1);
/// A star that was picked up.
pub const STAR: ItemKind = ItemKind(1);
/// A hat that was bought.
pub const HAT: ItemKind = ItemKind(2);

/// How long a deal waits for its turn, at most.
const TURN_WAIT: Duration = Duration::from_secs(1);

/// What is known of the player's part of the ledger; nothing until it was read.
#[component(of = Avatar)]
#[derive(Default)]
pub struct Wallet {
    known: Option<Purse>,
    /// Who makes a deal now.
    deals: Locks<()>,
}

#[rpc]
impl Wallet {
    /// Coins and items, as the ledger has them.
    #[request(client)]
    async fn purse(&mut self, cx: &mut Cx<Avatar>) -> Result<Purse, BuyError> {
        if self.known.is_none() {
            self.known = read(cx).await;
        }
        self.known.clone().ok_or(BuyError::Later)
    }

    /// Buys a hat. `order` is the client's own number for it: asking again with the same number
    /// buys no second one.
    #[request(client, interleave, rate = "5/s")]
    async fn buy_hat(this: This<Self>, cx: &mut Cx<Avatar>, order: u64) -> Result<Purse, BuyError> {
        let deals = this.with(|wallet| wallet.deals.clone());
        let _turn = next(deals, cx).await.ok_or(BuyError::Later)?;
        let bought = cx.commit(hat(cx.key(), cx.holder(), order)).await;
        if let Err(CommitError::Unavailable) = bought {
            // Nothing was done. The player is told at once: reading would wait for the ledger as well.
            return Err(BuyError::Later);
        }
        // Whatever became of it, and however often it was asked for, the ledger knows best.
        let known = read(cx).await;
        this.with(|wallet| wallet.known.clone_from(&known));
        match (bought, known) {
            (Ok(_), Some(purse)) => {
                tell(cx, &purse);
                Ok(purse)
            }
            (Err(CommitError::Refused(_)), _) => Err(BuyError::Poor),
            _ => Err(BuyError::Later),
        }
    }
}

impl Wallet {
    /// Reads the ledger again before it says anything.
    pub(crate) fn forget(&mut self) {
        self.known = None;
    }
}

/// Waits for the turn of a deal, which lasts until it is dropped. `None` if others take too long.
pub(crate) async fn turn(wallet: &Component<Wallet>, cx: &Cx<Avatar>) -> Option<Held<()>> {
    let deals = wallet.borrow().deals.clone();
    next(deals, cx).await
}

async fn next(deals: Locks<()>, cx: &Cx<Avatar>) -> Option<Held<()>> {
    cx.timeout(TURN_WAIT, deals.acquire(())).await.ok()
}

/// What the player owns, for the avatar's own handlers.
pub(crate) async fn purse(wallet: &Component<Wallet>, cx: &Cx<Avatar>) -> Option<Purse> {
    let known = wallet.borrow().known.clone();
    if known.is_some() {
        return known;
    }
    let read = read(cx).await;
    wallet.borrow().known.clone_from(&read);
    read
}

/// Remembers and tells what the player owns now.
pub(crate) fn set(wallet: &Component<Wallet>, cx: &Cx<Avatar>, purse: Purse) {
    tell(cx, &purse);
    wallet.borrow().known = Some(purse);
}

async fn read(cx: &Cx<Avatar>) -> Option<Purse> {
    cx.holdings(cx.holder()).await.ok().map(|held| count(&held))
}

fn tell(cx: &Cx<Avatar>, purse: &Purse) {
    for peer in cx.peers() {
        cx.client::<ArenaClient>(&peer).purse(purse.clone());
    }
}

/// Counts what a holder has.
fn count(held: &Holdings) -> Purse {
    let of = |kind| held.items.values().filter(|item| item.kind == kind).count() as u32;
    let coins = held.balances.get(&COINS).copied().unwrap_or(0);
    Purse { coins, stars: of(STAR), hats: of(HAT) }
}

/// What a parcel is worth to somebody who has some stars already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loot {
    pub coins: u64,
    pub stars: u32,
}

impl Loot {
    /// A bag holds so many stars; what is over is sold at once.
    pub fn of(parcel: &Parcel, stars: u32) -> Loot {
        let room = rules::STARS_MAX.saturating_sub(stars);
        let kept = parcel.stars.min(room);
        let sold = u64::from(parcel.stars - kept) * rules::STAR_COINS;
        Loot { coins: u64::from(parcel.coins) + sold, stars: kept }
    }

    pub fn is_empty(self) -> bool {
        self.coins == 0 && self.stars == 0
    }

    /// The deal that pays it out. Its id and those of the items come from the parcel's, so that
    /// it is the same deal at every try.
    pub fn deal(self, to: Key, account: u64, parcel: u64) -> Deal {
        let id = id(account, parcel);
        let mut deal = Deal::new(TxnId(id), "loot");
        if self.coins > 0 {
            deal = deal.mint(to, COINS, self.coins);
        }
        for n in 0..self.stars {
            deal = deal.make(ItemId(id + u128::from(n)), STAR, to, Vec::new());
        }
        deal
    }
}

/// The deal by which an account buys a hat under its own number.
fn hat(account: u64, to: Key, order: u64) -> Deal {
    // Orders and parcels are numbered apart.
    let id = id(account, order | 1 << 63);
    let deal = Deal::new(TxnId(id), "a hat");
    deal.burn(to, COINS, rules::HAT_COINS).make(ItemId(id), HAT, to, Vec::new())
}

/// A new parcel's number: it leaves 256 to what its deal makes, and is apart from orders.
pub(crate) fn parcel_id(random: &mut mainstay::env::Random) -> u64 {
    random.u64() & !(1 << 63 | 0xff)
}

fn id(account: u64, number: u64) -> u128 {
    u128::from(account) << 64 | u128::from(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_beyond_the_bag_are_sold() {
        let parcel = Parcel { id: 1, coins: 3, stars: 4, ..Parcel::default() };
        assert_eq!(Loot::of(&parcel, 0), Loot { coins: 3, stars: 4 });
        let full = rules::STARS_MAX - 1;
        let coins = 3 + 3 * rules::STAR_COINS;
        assert_eq!(Loot::of(&parcel, full), Loot { coins, stars: 1 });
        assert!(Loot::of(&Parcel { kills: 1, ..Parcel::default() }, 0).is_empty());
    }
}
