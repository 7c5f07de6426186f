use std::collections::BTreeMap;
use std::time::Duration;

use mainstay::env::Random;
use mainstay::prelude::*;
use mainstay::scene::{ReplicaId, Steps, Viewer, ViewerOptions};

use crate::avatar::Avatar;
use crate::lobby::Lobby;
use crate::messages::{ArenaClient, Input, Name, Parcel, Row};
use crate::parcels::Parcels;
use crate::rules;
use crate::world::{self, Happening, PlayerId, Saved, World};

/// How long an entered player may take to bind the `arena` stream.
const BIND_WAIT: Duration = Duration::from_secs(10);
/// The same after the arena was put together again: its client may be away for all of its resume window.
const RETURN_WAIT: Duration = Duration::from_secs(90);
/// By how many steps an arena goes on later than it was kept: clients have seen some of those after that.
const STEPS_SKIPPED: u64 = 10 * rules::STEPS_PER_SECOND as u64;
/// How long an arena without players waits for the last parcels to arrive.
const PARCELS_WAIT: Duration = Duration::from_secs(60);

/// One arena: a scene of 20 steps a second. It ends when the last player has left.
///
/// Each second it is saved. If its node dies it goes on at another one as it was then, and players go on in
/// it; if its node is to end, it moves with all that it has.
#[entity(document, create = Field::open, steps_per_second = 20)]
#[derive(Document)]
pub struct Field {
    /// Players and what lies around, as of the last save.
    #[persist]
    kept: Kept,
    world: World,
    players: BTreeMap<u64, Player>,
    group: Option<Group<ArenaClient>>,
    /// Reused at each step.
    interest: Vec<(ReplicaId, f32)>,
    packet: Vec<u8>,
    had_players: bool,
    /// What avatars do not have yet.
    parcels: Parcels,
    seconds: u64,
    /// Seconds without players.
    empty_for: u64,
    /// Key of the lobby that fills this arena.
    size: u32,
    /// Where the epochs of views begin: above those of this arena's former lives.
    views_from: u64,
}

/// What is kept of an arena.
#[derive(Clone, Debug, Default, PartialEq, Message)]
struct Kept {
    world: Saved,
    /// Who plays: account, id within the arena, name.
    players: Vec<(u64, u32, String)>,
}

struct Player {
    id: PlayerId,
    name: String,
    /// `None` until the client's stream is bound.
    peer: Option<Peer>,
    viewer: Viewer,
    told: world::Score,
    /// Until when the stream has to be bound, in milliseconds.
    awaited_until: u64,
}

impl Field {
    /// Names arena `index` of those for `size` players.
    pub fn key(size: u32, index: u16) -> u64 {
        u64::from(size) << 16 | u64::from(index)
    }

    /// The arena of that key, empty.
    fn open(key: u64) -> Self {
        let size = (key >> 16) as u32;
        Field {
            kept: Kept::default(),
            world: World::new(size, Random::from_seed(key)),
            players: BTreeMap::new(),
            group: None,
            interest: Vec::new(),
            packet: Vec::new(),
            had_players: false,
            parcels: Parcels::default(),
            seconds: 0,
            empty_for: 0,
            size,
            views_from: 0,
        }
    }

    fn viewer(&self) -> Viewer {
        Viewer::new(ViewerOptions { first_epoch: self.views_from, ..ViewerOptions::default() })
    }
}

#[rpc]
impl Field {
    /// Puts an account's player into the arena; a player who is in it already stays as is.
    #[invoke(server)]
    fn enter(&mut self, cx: &mut Cx<Self>, account: u64, name: String) -> Option<u32> {
        let viewer = self.viewer();
        let awaited_until = cx.now().as_millis() + BIND_WAIT.as_millis() as u64;
        if let Some(player) = self.players.get_mut(&account) {
            player.name = name;
            // It may be another session, which has seen nothing yet.
            player.peer = None;
            player.viewer = viewer;
            player.awaited_until = awaited_until;
            return Some(player.id.0);
        }
        let id = self.world.join((account % 16) as u8)?;
        let player =
            Player { id, name, peer: None, viewer, told: world::Score::default(), awaited_until };
        self.players.insert(account, player);
        self.had_players = true;
        Some(id.0)
    }

    /// Where the player wants to go. Sent as `latest`: what is overtaken is dropped.
    #[tell(client)]
    fn steer(&mut self, cx: &mut Cx<Self>, input: Input) {
        let Some(player) = player_of(&mut self.players, cx) else { return };
        player.viewer.acknowledge(input.seen);
        let Input { x, y, angle, fire, .. } = input;
        self.world.steer(player.id, world::Input { x, y, angle, fire });
    }

    /// Says something to everybody in the arena.
    #[tell(client, rate = "2/s")]
    fn say(&mut self, cx: &mut Cx<Self>, #[arg(len = 1..=120)] text: String) {
        let Some(player) = player_of(&mut self.players, cx) else { return };
        let from = player.name.clone();
        if let Some(group) = &self.group {
            cx.cast(group).chat(from, text);
        }
    }

    /// Comes back at once instead of waiting. `false` if the player is alive.
    #[request(client)]
    fn respawn(&mut self, cx: &mut Cx<Self>) -> bool {
        player_of(&mut self.players, cx).is_some_and(|player| self.world.respawn(player.id))
    }

    /// The caller's score.
    #[request(client)]
    fn score(&mut self, cx: &mut Cx<Self>) -> Row {
        let Some(player) = player_of(&mut self.players, cx) else { return Row::default() };
        row(player.id, self.world.score(player.id).unwrap_or_default())
    }

    #[hook]
    fn created(&mut self, cx: &mut Cx<Self>) {
        self.group = Some(cx.group::<ArenaClient>("arena"));
        // Not the same pick-ups in each arena of this size.
        self.world = World::new(self.size, cx.random(|random| random.fork()));
        cx.every(Duration::from_secs(1), Duration::from_secs(1), Times::Forever).second();
    }

    /// Goes on with what was kept.
    #[hook]
    fn loaded(&mut self, cx: &mut Cx<Self>) {
        let Kept { world, players } = std::mem::take(&mut self.kept);
        self.views_from = cx.pledge().map_or(0, |pledge| pledge.epoch()) << 8;
        self.world.restore(&world, STEPS_SKIPPED);
        let awaited_until = cx.now().as_millis() + RETURN_WAIT.as_millis() as u64;
        for (account, id, name) in players {
            let id = ReplicaId(id);
            let Some(told) = self.world.score(id) else { continue };
            let viewer = self.viewer();
            self.players
                .insert(account, Player { id, name, peer: None, viewer, told, awaited_until });
            self.had_players = true;
        }
    }

    #[hook]
    fn before_save(&mut self, _cx: &mut Cx<Self>) {
        // Nothing of an arena that has ended.
        self.kept = Kept::default();
        if self.players.is_empty() {
            return;
        }
        self.kept.world = self.world.save();
        let players = self.players.iter();
        self.kept.players = players.map(|(key, p)| (*key, p.id.0, p.name.clone())).collect();
    }

    #[hook]
    fn before_move(&mut self, cx: &mut Cx<Self>) {
        cx.carry("parcels", &self.parcels);
    }

    #[hook]
    fn moved(&mut self, cx: &mut Cx<Self>) {
        self.parcels = cx.carried("parcels").unwrap_or_default();
    }

    #[hook]
    fn online(&mut self, cx: &mut Cx<Self>, peer: Peer) {
        self.had_players = true;
        let names: Vec<_> = self.players.values().map(name_of).collect();
        let Some(player) = self.players.get_mut(&peer.account().0) else { return };
        let is_new = player.peer.is_none();
        player.peer = Some(peer.clone());
        if !is_new {
            return;
        }
        let group = self.group.as_ref().expect("opened when created");
        cx.cast(group).names(vec![name_of(player)]);
        group.join(cx, &peer);
        // What was won before the stream was there was told to nobody.
        cx.client::<ArenaClient>(&peer).own(row(player.id, player.told));
        // In pieces, so that none is over the limit of a frame.
        for piece in names.chunks(200) {
            cx.client::<ArenaClient>(&peer).names(piece.to_vec());
        }
    }

    #[hook]
    fn offline(&mut self, cx: &mut Cx<Self>, peer: Peer, _code: CloseCode) {
        let Some(player) = self.players.get(&peer.account().0) else { return };
        // The player may be here by a newer session already.
        if player.peer.as_ref().is_none_or(|own| own.session() != peer.session()) {
            return;
        }
        self.world.steer(player.id, world::Input::default());
        // A lost connection leaves the player standing; only the end of the session removes it.
        let away = cx.peers().iter().any(|other| other.account() == peer.account());
        if !away {
            self.remove(cx, peer.account().0);
        }
    }

    /// Once a second: the table, the count, and whether anybody is left; an arena that everybody
    /// has left ends.
    #[timer]
    fn second(&mut self, cx: &mut Cx<Self>) {
        let now = cx.now().as_millis();
        let late = |player: &Player| player.peer.is_none() && now > player.awaited_until;
        let late: Vec<_> =
            self.players.iter().filter(|(_, p)| late(p)).map(|(account, _)| *account).collect();
        for account in late {
            self.remove(cx, account);
        }
        let mut rows: Vec<_> = self
            .players
            .values()
            .filter_map(|player| Some(row(player.id, self.world.score(player.id)?)))
            .collect();
        rows.sort_by_key(|row| (std::cmp::Reverse(row.points), row.id));
        rows.truncate(10);
        let players = self.players.len() as u32;
        if let Some(group) = &self.group {
            cx.cast(group).table(rows, players);
        }
        self.seconds += 1;
        let due = cx.random(|random| self.parcels.due(self.seconds, random));
        for (account, parcel) in due {
            if cx.at(cx.me()).deliver(account, parcel).is_err() {
                self.parcels.answered(account, false);
            }
        }
        let lobby = cx.entity::<Lobby>(u64::from(self.size));
        self.empty_for = if self.players.is_empty() { self.empty_for + 1 } else { 0 };
        if self.players.is_empty() && self.had_players {
            let _ = lobby.ended(cx.me());
            let waited = self.empty_for >= PARCELS_WAIT.as_secs();
            if waited && !self.parcels.is_empty() {
                tracing::warn!("an arena ends with parcels that could not be delivered");
            }
            if waited || self.parcels.is_empty() {
                cx.destroy();
            }
        } else {
            let _ = lobby.count(cx.me(), players);
        }
    }

    /// Brings a parcel to its avatar. The scene goes on meanwhile.
    #[tell(server, interleave)]
    async fn deliver(this: This<Self>, cx: &mut Cx<Self>, account: u64, parcel: Parcel) {
        let has_arrived = cx.entity::<Avatar>(account).receive(parcel).await;
        let has_arrived = has_arrived.unwrap_or(false);
        this.with(|field| field.parcels.answered(account, has_arrived));
    }

    #[hook]
    fn step(&mut self, cx: &mut Cx<Self>, steps: Steps) {
        for _ in 0..steps.count {
            let happenings = self.world.step();
            self.tell_happenings(cx, &happenings);
        }
        self.tell_views(cx);
    }
}

impl Field {
    fn tell_happenings(&mut self, cx: &mut Cx<Self>, happenings: &[Happening]) {
        if happenings.is_empty() {
            return;
        }
        let by_id: BTreeMap<_, _> = self.players.iter().map(|(key, p)| (p.id, *key)).collect();
        for happening in happenings {
            let account_of = |id: &PlayerId| by_id.get(id).copied();
            let (killer, victim) = match *happening {
                Happening::Killed { killer, victim } => (killer, victim),
                Happening::Picked { player, power } => {
                    if let Some(account) = account_of(&player) {
                        let parcel = self.parcels.of(account);
                        parcel.stars += u32::from(power);
                        parcel.coins += if power { 0 } else { rules::MEDKIT_COINS };
                    }
                    continue;
                }
                Happening::Respawned { .. } => continue,
            };
            if let Some(account) = account_of(&killer) {
                self.parcels.of(account).coins += rules::KILL_COINS;
            }
            for id in [killer, victim] {
                let player = by_id.get(&id).and_then(|key| self.players.get(key));
                if let Some(peer) = player.and_then(|player| player.peer.as_ref()) {
                    cx.client::<ArenaClient>(peer).beaten(killer.0, victim.0);
                }
            }
        }
        for (account, player) in &mut self.players {
            let Some(score) = self.world.score(player.id) else { continue };
            if score == player.told {
                continue;
            }
            let told = std::mem::replace(&mut player.told, score);
            let parcel = self.parcels.of(*account);
            parcel.kills += score.kills - told.kills;
            parcel.deaths += score.deaths - told.deaths;
            parcel.points += score.points - told.points;
            if let Some(peer) = &player.peer {
                cx.client::<ArenaClient>(peer).own(row(player.id, score));
            }
        }
    }

    /// One packet for each client that is connected.
    fn tell_views(&mut self, cx: &mut Cx<Self>) {
        let step = self.world.step_number();
        for player in self.players.values_mut() {
            let Some(peer) = player.peer.as_ref() else {
                continue;
            };
            let Some(place) = self.world.position(player.id) else { continue };
            self.interest.clear();
            let inner = rules::VIEW_RADIUS * rules::VIEW_RADIUS;
            self.world.near(place, rules::LEAVE_RADIUS, |id, distance| {
                // One's own body comes first, whatever the crowd.
                let distance = if id == player.id { -1.0 } else { distance };
                if distance <= inner || player.viewer.sees(id) {
                    self.interest.push((id, distance));
                }
            });
            player.viewer.look(&mut self.interest, step);
            self.packet.clear();
            player.viewer.write(self.world.board(), step, &mut self.packet);
            cx.client::<ArenaClient>(peer).view(Bytes(self.packet.clone()));
        }
    }

    fn remove(&mut self, cx: &mut Cx<Self>, account: u64) {
        let Some(player) = self.players.remove(&account) else { return };
        self.world.leave(player.id);
        if let Some(group) = &self.group {
            cx.cast(group).left(player.id.0);
        }
    }
}

fn player_of<'a>(players: &'a mut BTreeMap<u64, Player>, cx: &Cx<Field>) -> Option<&'a mut Player> {
    let Caller::Client(peer) = cx.caller() else { return None };
    let account = peer.account();
    players.get_mut(&account.0)
}

fn name_of(player: &Player) -> Name {
    Name { id: player.id.0, name: player.name.clone() }
}

fn row(id: PlayerId, score: world::Score) -> Row {
    Row { id: id.0, points: score.points, kills: score.kills, deaths: score.deaths }
}
