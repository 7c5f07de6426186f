use mainstay::prelude::*;

use crate::lobby::{Lobby, Place};
use crate::messages::{Parcel, PlayError, Playing, Profile};
use crate::rules;
use crate::wallet::{self, Wallet};

/// Parcels remembered by id; an arena sends a player's parcels one after the other.
const PARCELS_MAX: usize = 8;

/// A player's own entity: it outlives connections, arenas and the process.
///
/// Name and record are saved within a second. Coins and items are in the ledger, where nothing
/// that was told is ever lost or doubled.
#[entity(document)]
#[derive(Default, Document)]
pub struct Avatar {
    #[persist(len = ..=16)]
    name: String,
    /// Ids of the parcels that came last, saved in the transaction that pays them out.
    #[persist(len = ..=8)]
    parcels: Vec<u64>,
    /// What was won and lost, over all arenas.
    #[persist]
    record: Component<Record>,
    /// What the ledger holds for the player.
    wallet: Component<Wallet>,
}

#[rpc]
impl Avatar {
    /// Enters an arena for `size` players. From then on the client has a stream called `arena`.
    #[request(client, rate = "5/s")]
    async fn play(
        &mut self,
        cx: &mut Cx<Self>,
        #[arg(len = 1..=16)] name: String,
        #[arg(range = 10..=2000)] size: u32,
    ) -> Result<Playing, PlayError> {
        let name = name.trim();
        if name.is_empty() || name.chars().any(char::is_control) {
            return Err(PlayError::Name);
        }
        name.clone_into(&mut self.name);
        let Caller::Client(peer) = cx.caller() else { return Err(PlayError::Full) };
        let lobby = cx.entity::<Lobby>(u64::from(size));
        // The arena may end just when we are sent there; then there is another one.
        let mut place = lobby.find_place().await;
        let mut entered = enter(cx, &place, &self.name).await;
        if entered.is_none() {
            place = lobby.find_place().await;
            entered = enter(cx, &place, &self.name).await;
        }
        let (Ok(Place { field, edge }), Some(me)) = (place, entered) else {
            return Err(PlayError::Full);
        };
        cx.bind(&peer, "arena", field).map_err(|_| PlayError::Full)?;
        self.record.borrow().games += 1;
        Ok(Playing { me, edge, steps_per_second: rules::STEPS_PER_SECOND })
    }

    /// Who one is, and what was won and lost so far.
    #[request(client)]
    fn profile(&mut self, _cx: &mut Cx<Self>) -> Profile {
        let Record { games, kills, deaths, points } = *self.record.borrow();
        Profile { name: self.name.clone(), games, kills, deaths, points }
    }

    /// What the player has won and collected in an arena since the last parcel. `true`: it is in
    /// the ledger, now or since an earlier try. The avatar does other things meanwhile.
    #[invoke(server, interleave)]
    async fn receive(this: This<Self>, cx: &mut Cx<Self>, parcel: Parcel) -> bool {
        let wallet = this.with(|avatar| avatar.wallet.clone());
        let Some(_turn) = wallet::turn(&wallet, cx).await else { return false };
        if this.with(|avatar| avatar.parcels.contains(&parcel.id)) {
            return true;
        }
        let Some(mut purse) = wallet::purse(&wallet, cx).await else { return false };
        let loot = wallet::Loot::of(&parcel, purse.stars);
        let (oldest, paid) = this.with(|avatar| {
            let oldest = avatar.note(&parcel);
            // A record alone may wait for the next save.
            let paid = (!loot.is_empty())
                .then(|| cx.commit_with(avatar, loot.deal(cx.holder(), cx.key(), parcel.id)));
            (oldest, paid)
        });
        let Some(paid) = paid else { return true };
        match paid.await {
            Ok(_) => {
                purse.coins += loot.coins;
                purse.stars += loot.stars;
                wallet::set(&wallet, cx, purse);
                true
            }
            Err(error) => {
                tracing::warn!(%error, account = cx.key(), "loot waits to be paid out");
                this.with(|avatar| avatar.forget(&parcel, oldest));
                wallet.borrow().forget();
                false
            }
        }
    }

    /// Asks the server to drop this connection, as an operator or a failing network would. The
    /// session stays; the client resumes it.
    #[tell(client)]
    fn drop_me(&mut self, cx: &mut Cx<Self>) {
        for peer in cx.peers() {
            cx.kick(&peer, CloseCode::GoingAway, "you asked for it");
        }
    }
}

impl Avatar {
    /// A parcel is being paid out. Gives the one that is remembered no more for it.
    fn note(&mut self, parcel: &Parcel) -> Option<u64> {
        self.record.borrow().add(parcel);
        self.parcels.push(parcel.id);
        (self.parcels.len() > PARCELS_MAX).then(|| self.parcels.remove(0))
    }

    /// It was not paid out: all that was remembered before is again.
    fn forget(&mut self, parcel: &Parcel, oldest: Option<u64>) {
        self.record.borrow().take(parcel);
        self.parcels.pop();
        self.parcels.splice(0..0, oldest);
    }
}

async fn enter<E>(cx: &Cx<Avatar>, place: &Result<Place, E>, name: &str) -> Option<u32> {
    let place = place.as_ref().ok()?;
    cx.at(place.field).enter(cx.key(), name.to_owned()).await.ok()?
}

/// What a player has done in all arenas together.
#[component(of = Avatar)]
#[derive(Clone, Default, Document)]
pub struct Record {
    #[persist]
    kills: u64,
    #[persist]
    deaths: u64,
    #[persist]
    points: u64,
    #[persist]
    games: u64,
}

#[rpc]
impl Record {
    /// Kills, deaths and points of all times.
    #[request(client)]
    fn total(&mut self, _cx: &mut Cx<Avatar>) -> (u64, u64, u64) {
        (self.kills, self.deaths, self.points)
    }
}

impl Record {
    fn add(&mut self, parcel: &Parcel) {
        self.kills += u64::from(parcel.kills);
        self.deaths += u64::from(parcel.deaths);
        self.points += u64::from(parcel.points);
    }

    fn take(&mut self, parcel: &Parcel) {
        self.kills -= u64::from(parcel.kills);
        self.deaths -= u64::from(parcel.deaths);
        self.points -= u64::from(parcel.points);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each try to pay out a parcel had forgotten another that was paid out: that one counted again.
    #[test]
    fn a_parcel_that_is_not_paid_out_leaves_what_was_remembered() {
        let parcel = |id| Parcel { id, points: 3, ..Parcel::default() };
        let mut avatar = Avatar::default();
        for id in 1..=PARCELS_MAX as u64 {
            assert_eq!(avatar.note(&parcel(id)), None);
        }
        let before = (avatar.parcels.clone(), avatar.record.borrow().points);
        for _ in 0..3 {
            let oldest = avatar.note(&parcel(100));
            assert_eq!(oldest, Some(1));
            avatar.forget(&parcel(100), oldest);
            assert_eq!((avatar.parcels.clone(), avatar.record.borrow().points), before);
        }
    }
}
