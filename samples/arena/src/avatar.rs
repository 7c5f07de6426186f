use mainstay::prelude::*;

use crate::lobby::{Lobby, Place};
use crate::messages::{PlayError, Playing};
use crate::rules;

/// A player's own entity: it outlives connections and arenas.
#[entity]
#[derive(Default)]
pub struct Avatar {
    name: String,
    /// What was won and lost, over all arenas.
    record: Component<Record>,
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
        let peer = cx.peers().into_iter().next().ok_or(PlayError::Full)?;
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
        Ok(Playing { me, edge, steps_per_second: rules::STEPS_PER_SECOND })
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

async fn enter<E>(cx: &Cx<Avatar>, place: &Result<Place, E>, name: &str) -> Option<u32> {
    let place = place.as_ref().ok()?;
    cx.at(place.field).enter(cx.key(), name.to_owned()).await.ok()?
}

/// What a player has done in all arenas together.
#[component(of = Avatar)]
#[derive(Default)]
pub struct Record {
    kills: u64,
    deaths: u64,
    points: u64,
}

#[rpc]
impl Record {
    /// Adds what happened in an arena.
    #[tell(server)]
    fn add(&mut self, _cx: &mut Cx<Avatar>, kills: u32, deaths: u32, points: u32) {
        self.kills += u64::from(kills);
        self.deaths += u64::from(deaths);
        self.points += u64::from(points);
    }

    /// Kills, deaths and points of all times.
    #[request(client)]
    fn total(&mut self, _cx: &mut Cx<Avatar>) -> (u64, u64, u64) {
        (self.kills, self.deaths, self.points)
    }
}
