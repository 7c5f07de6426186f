//! The arena itself: a pure, deterministic simulation. No network, no clock.

use mainstay::env::Random;
use mainstay::scene::ecs::{Entity, World as Ecs};
use mainstay::scene::{Board, Grid, GridOptions, ReplicaId};

use crate::rules::{self, part};

mod saved;

pub use saved::{Saved, SavedPickup, SavedPlayer};

/// A player's wish for the next steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Input {
    /// Direction of movement, each -1, 0 or 1 after clamping.
    pub x: i8,
    /// Down is positive.
    pub y: i8,
    /// Where to aim; 256 is a full circle, 0 points to the right.
    pub angle: u8,
    /// Whether the trigger is held.
    pub fire: bool,
}

/// Names a player within the arena.
pub type PlayerId = ReplicaId;

/// What a player has reached in this arena.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Score {
    /// Points.
    pub points: u32,
    /// Others beaten.
    pub kills: u32,
    /// Times beaten.
    pub deaths: u32,
}

/// Something worth telling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happening {
    /// Somebody beat somebody.
    Killed {
        /// Who shot.
        killer: PlayerId,
        /// Who was hit.
        victim: PlayerId,
    },
    /// Somebody picked something up.
    Picked {
        /// Who.
        player: PlayerId,
        /// A power-up, not a medkit.
        power: bool,
    },
    /// Somebody is back.
    Respawned {
        /// Who.
        player: PlayerId,
    },
}

struct Body {
    x: f32,
    y: f32,
    vx: f32,
    vy: f32,
}

struct Player {
    id: PlayerId,
    colour: u8,
    input: Input,
    health: u8,
    loaded_at: u64,
    power_until: u64,
    dead_until: Option<u64>,
    score: Score,
}

impl Player {
    fn new(id: PlayerId, colour: u8) -> Self {
        Player {
            id,
            colour: colour & 0x0f,
            input: Input::default(),
            health: rules::HEALTH,
            loaded_at: 0,
            power_until: 0,
            dead_until: None,
            score: Score::default(),
        }
    }
}

struct Shot {
    id: ReplicaId,
    owner: PlayerId,
    dies_at: u64,
}

struct Pickup {
    id: ReplicaId,
    power: bool,
    back_at: Option<u64>,
}

/// Replica ids of players lie below this, those of shots above.
const SHOTS_FROM: u32 = 1 << 14;
const PICKUPS_FROM: u32 = 1 << 13;

/// One arena.
pub struct World {
    ecs: Ecs,
    board: Board,
    grid: Grid,
    random: Random,
    edge: f32,
    step: u64,
    players: Vec<Option<Entity>>,
    next_shot: u32,
    happenings: Vec<Happening>,
}

impl World {
    /// Most players of one arena.
    pub const PLAYERS_MAX: usize = PICKUPS_FROM as usize - 1;

    /// An empty arena, sized for about `capacity` players.
    pub fn new(capacity: u32, mut random: Random) -> Self {
        let edge = rules::map_edge(capacity);
        let options =
            GridOptions { origin: (0.0, 0.0), size: (edge, edge), cell: rules::VIEW_RADIUS / 2.0 };
        let mut ecs = Ecs::new();
        for n in 0..capacity.div_ceil(8).clamp(8, 400) {
            let id = ReplicaId(PICKUPS_FROM + n);
            let (x, y) = place(&mut random, edge);
            let pickup = Pickup { id, power: n % 4 == 3, back_at: None };
            ecs.spawn((Body { x, y, vx: 0.0, vy: 0.0 }, pickup));
        }
        World {
            ecs,
            board: Board::new(rules::layout()),
            grid: Grid::new(options),
            random,
            edge,
            step: 0,
            players: Vec::new(),
            next_shot: 0,
            happenings: Vec::new(),
        }
    }

    /// Edge of the map, in units.
    pub fn edge(&self) -> f32 {
        self.edge
    }

    /// The last step run.
    pub fn step_number(&self) -> u64 {
        self.step
    }

    /// What everybody could see.
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// How many players take part.
    pub fn players(&self) -> usize {
        self.players.iter().flatten().count()
    }

    /// Adds a player; `None` if the arena is full.
    pub fn join(&mut self, colour: u8) -> Option<PlayerId> {
        let free = self.players.iter().position(Option::is_none);
        let at = free.unwrap_or(self.players.len());
        if at >= Self::PLAYERS_MAX {
            return None;
        }
        // Id 0 stays unused: it means "nobody" to clients.
        let id = ReplicaId(at as u32 + 1);
        let (x, y) = place(&mut self.random, self.edge);
        let player = Player::new(id, colour);
        let entity = self.ecs.spawn((Body { x, y, vx: 0.0, vy: 0.0 }, player));
        if at == self.players.len() {
            self.players.push(Some(entity));
        } else {
            self.players[at] = Some(entity);
        }
        Some(id)
    }

    /// Takes a player out.
    pub fn leave(&mut self, id: PlayerId) {
        let Some(entity) = self.entity(id) else { return };
        self.players[id.0 as usize - 1] = None;
        self.board.remove(id);
        self.ecs.despawn(entity).expect("listed players exist");
    }

    /// Sets what a player wants; impossible values are clamped.
    pub fn steer(&mut self, id: PlayerId, input: Input) {
        let Some(entity) = self.entity(id) else { return };
        let mut player = self.ecs.get::<&mut Player>(entity).expect("listed players exist");
        player.input = Input { x: input.x.clamp(-1, 1), y: input.y.clamp(-1, 1), ..input };
    }

    /// Brings a dead player back at once. `false` if the player is alive or unknown.
    pub fn respawn(&mut self, id: PlayerId) -> bool {
        let Some(entity) = self.entity(id) else { return false };
        let mut player = self.ecs.get::<&mut Player>(entity).expect("listed players exist");
        match &mut player.dead_until {
            Some(until) => {
                *until = self.step;
                true
            }
            None => false,
        }
    }

    /// What a player has reached.
    pub fn score(&self, id: PlayerId) -> Option<Score> {
        let player = self.ecs.get::<&Player>(self.entity(id)?).ok()?;
        Some(player.score)
    }

    /// Where a player is.
    pub fn position(&self, id: PlayerId) -> Option<(f32, f32)> {
        let body = self.ecs.get::<&Body>(self.entity(id)?).ok()?;
        Some((body.x, body.y))
    }

    /// Everything within `radius` of a point, with squared distances.
    pub fn near(&self, at: (f32, f32), radius: f32, found: impl FnMut(ReplicaId, f32)) {
        self.grid.near(at.0, at.1, radius, found);
    }

    /// Runs one step and gives what happened in it.
    pub fn step(&mut self) -> Vec<Happening> {
        self.step += 1;
        self.move_players();
        self.revive();
        self.fly_shots();
        self.index();
        self.hit();
        self.pick_up();
        self.publish();
        std::mem::take(&mut self.happenings)
    }

    fn move_players(&mut self) {
        let (step, edge) = (self.step, self.edge);
        let mut fired = Vec::new();
        for (body, player) in self.ecs.query_mut::<(&mut Body, &mut Player)>() {
            if player.dead_until.is_some() {
                (body.vx, body.vy) = (0.0, 0.0);
                continue;
            }
            let input = player.input;
            let (x, y) = (f32::from(input.x), f32::from(input.y));
            let length = x.hypot(y).max(1.0);
            body.vx = x / length * rules::SPEED;
            body.vy = y / length * rules::SPEED;
            body.x = (body.x + body.vx).clamp(rules::BODY, edge - rules::BODY);
            body.y = (body.y + body.vy).clamp(rules::BODY, edge - rules::BODY);
            if input.fire && step >= player.loaded_at {
                player.loaded_at = step + rules::RELOAD_STEPS;
                let spread: &[u8] = if player.power_until > step { &[250, 0, 6] } else { &[0] };
                for turn in spread {
                    fired.push((player.id, body.x, body.y, input.angle.wrapping_add(*turn)));
                }
            }
        }
        for (owner, x, y, angle) in fired {
            self.fire(owner, x, y, angle);
        }
    }

    fn fire(&mut self, owner: PlayerId, x: f32, y: f32, angle: u8) {
        let id = ReplicaId(SHOTS_FROM + self.next_shot);
        self.next_shot = (self.next_shot + 1) % (1 << 15);
        let (sin, cos) = rules::radians(angle).sin_cos();
        let (vx, vy) = (cos * rules::SHOT_SPEED, sin * rules::SHOT_SPEED);
        let body = Body { x, y, vx, vy };
        let step = self.step;
        self.board.set(id, part::WHAT, &[1], step);
        self.board.set(id, part::PLACE, &quantise(&body), step);
        self.board.set(id, part::MOTION, &motion(&body, angle), step);
        self.board.set(id, part::BORN, &(step as u16).to_le_bytes(), step);
        let shot = Shot { id, owner, dies_at: step + rules::SHOT_STEPS };
        self.ecs.spawn((body, shot));
    }

    fn revive(&mut self) {
        let (step, edge) = (self.step, self.edge);
        for (body, player) in self.ecs.query_mut::<(&mut Body, &mut Player)>() {
            if player.dead_until.is_some_and(|until| step >= until) {
                player.dead_until = None;
                player.health = rules::HEALTH;
                (body.x, body.y) = place(&mut self.random, edge);
                self.happenings.push(Happening::Respawned { player: player.id });
            }
        }
    }

    fn fly_shots(&mut self) {
        let (step, edge) = (self.step, self.edge);
        let mut gone = Vec::new();
        for (entity, body, shot) in self.ecs.query_mut::<(Entity, &mut Body, &Shot)>() {
            body.x += body.vx;
            body.y += body.vy;
            let inside = (0.0..edge).contains(&body.x) && (0.0..edge).contains(&body.y);
            if step >= shot.dies_at || !inside {
                gone.push((entity, shot.id));
            }
        }
        self.drop_shots(gone);
    }

    fn drop_shots(&mut self, gone: Vec<(Entity, ReplicaId)>) {
        for (entity, id) in gone {
            self.board.remove(id);
            self.ecs.despawn(entity).expect("queried just now");
        }
    }

    /// Sorts everything that lies on the map into the grid.
    fn index(&mut self) {
        let mut points = Vec::with_capacity(self.ecs.len() as usize);
        for (body, player) in self.ecs.query_mut::<(&Body, &Player)>() {
            points.push((player.id, body.x, body.y));
        }
        for (body, shot) in self.ecs.query_mut::<(&Body, &Shot)>() {
            points.push((shot.id, body.x, body.y));
        }
        for (body, pickup) in self.ecs.query_mut::<(&Body, &Pickup)>() {
            if pickup.back_at.is_none() {
                points.push((pickup.id, body.x, body.y));
            }
        }
        self.grid.rebuild(points.iter().copied());
    }

    fn hit(&mut self) {
        let mut hits = Vec::new();
        // A shot flies further in a step than a body is wide: half-way points count too.
        let reach = rules::BODY + rules::SHOT_SPEED / 4.0;
        for (entity, body, shot) in self.ecs.query_mut::<(Entity, &Body, &Shot)>() {
            let mut nearest: Option<(PlayerId, f32)> = None;
            for back in [0.0, 0.5] {
                let (x, y) = (body.x - body.vx * back, body.y - body.vy * back);
                self.grid.near(x, y, reach, |id, distance| {
                    let better = nearest.is_none_or(|(_, best)| distance < best);
                    if id.0 < PICKUPS_FROM && id != shot.owner && better {
                        nearest = Some((id, distance));
                    }
                });
            }
            if let Some((victim, _)) = nearest {
                hits.push((entity, shot.id, shot.owner, victim));
            }
        }
        let mut gone = Vec::new();
        for (entity, id, owner, victim) in hits {
            if self.hurt(owner, victim) {
                gone.push((entity, id));
            }
        }
        self.drop_shots(gone);
    }

    /// `false` if the victim is dead already: the shot flies on.
    fn hurt(&mut self, owner: PlayerId, victim: PlayerId) -> bool {
        let step = self.step;
        let Some(entity) = self.entity(victim) else { return false };
        let mut player = self.ecs.get::<&mut Player>(entity).expect("listed players exist");
        if player.dead_until.is_some() {
            return false;
        }
        player.health = player.health.saturating_sub(rules::DAMAGE);
        if player.health > 0 {
            return true;
        }
        player.dead_until = Some(step + rules::RESPAWN_STEPS);
        player.score.deaths += 1;
        drop(player);
        if let Some(entity) = self.entity(owner) {
            let mut killer = self.ecs.get::<&mut Player>(entity).expect("listed players exist");
            killer.score.kills += 1;
            killer.score.points += rules::KILL_POINTS;
        }
        self.happenings.push(Happening::Killed { killer: owner, victim });
        true
    }

    fn pick_up(&mut self) {
        let (step, edge) = (self.step, self.edge);
        let mut takers = Vec::new();
        for (entity, body, pickup) in self.ecs.query_mut::<(Entity, &mut Body, &mut Pickup)>() {
            if let Some(back_at) = pickup.back_at {
                if step >= back_at {
                    pickup.back_at = None;
                    (body.x, body.y) = place(&mut self.random, edge);
                }
                continue;
            }
            let mut taker = None;
            self.grid.near(body.x, body.y, rules::BODY * 1.6, |id, _| {
                if id.0 < PICKUPS_FROM {
                    taker = taker.or(Some(id));
                }
            });
            if let Some(taker) = taker {
                takers.push((entity, taker));
            }
        }
        for (entity, taker) in takers {
            self.take(entity, taker);
        }
    }

    fn take(&mut self, entity: Entity, taker: PlayerId) {
        let step = self.step;
        let Some(player) = self.entity(taker) else { return };
        let mut player = self.ecs.get::<&mut Player>(player).expect("listed players exist");
        if player.dead_until.is_some() {
            return;
        }
        let mut pickup = self.ecs.get::<&mut Pickup>(entity).expect("queried just now");
        pickup.back_at = Some(step + rules::PICKUP_STEPS);
        self.board.remove(pickup.id);
        if pickup.power {
            player.power_until = step + rules::POWER_STEPS;
        } else {
            player.health = rules::HEALTH;
        }
        player.score.points += rules::PICKUP_POINTS;
        self.happenings.push(Happening::Picked { player: taker, power: pickup.power });
    }

    fn publish(&mut self) {
        let step = self.step;
        for (body, player) in self.ecs.query_mut::<(&Body, &Player)>() {
            self.board.set(player.id, part::WHAT, &[player.colour << 4], step);
            self.board.set(player.id, part::PLACE, &quantise(body), step);
            self.board.set(player.id, part::MOTION, &motion(body, player.input.angle), step);
            let health = if player.dead_until.is_some() { 0 } else { player.health };
            self.board.set(player.id, part::HEALTH, &[health], step);
        }
        for (body, pickup) in self.ecs.query_mut::<(&Body, &Pickup)>() {
            if pickup.back_at.is_none() {
                self.board.set(pickup.id, part::WHAT, &[if pickup.power { 3 } else { 2 }], step);
                self.board.set(pickup.id, part::PLACE, &quantise(body), step);
            }
        }
    }

    fn entity(&self, id: PlayerId) -> Option<Entity> {
        *self.players.get((id.0 as usize).checked_sub(1)?)?
    }
}

fn place(random: &mut Random, edge: f32) -> (f32, f32) {
    let mut along = || random.unit_f64() as f32 * (edge - 4.0 * rules::BODY) + 2.0 * rules::BODY;
    (along(), along())
}

fn quantise(body: &Body) -> [u8; 4] {
    let x = ((body.x * rules::UNITS) as u16).to_le_bytes();
    let y = ((body.y * rules::UNITS) as u16).to_le_bytes();
    [x[0], x[1], y[0], y[1]]
}

fn motion(body: &Body, angle: u8) -> [u8; 3] {
    let quarter = |speed: f32| (speed * 4.0).clamp(-127.0, 127.0) as i8 as u8;
    [quarter(body.vx), quarter(body.vy), angle]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world() -> World {
        World::new(10, Random::from_seed(1))
    }

    /// Two players side by side; the left one shoots at the right one.
    fn duel() -> (World, PlayerId, PlayerId) {
        let mut world = world();
        let (left, right) = (world.join(1).unwrap(), world.join(2).unwrap());
        for (id, x) in [(left, 400.0), (right, 500.0)] {
            let entity = world.entity(id).unwrap();
            let mut body = world.ecs.get::<&mut Body>(entity).unwrap();
            (body.x, body.y) = (x, 450.0);
        }
        (world, left, right)
    }

    #[test]
    fn five_hits_beat_a_player_who_then_respawns() {
        let (mut world, left, right) = duel();
        world.steer(left, Input { fire: true, ..Input::default() });
        let mut trace = Vec::new();
        for _ in 0..120 {
            trace.extend(
                world.step().into_iter().filter(|what| !is_pick(what)).map(|w| (world.step, w)),
            );
        }
        assert_eq!(trace[0].1, Happening::Killed { killer: left, victim: right });
        assert_eq!(trace[1].1, Happening::Respawned { player: right });
        assert_eq!(trace[1].0 - trace[0].0, rules::RESPAWN_STEPS);
        assert!(world.score(left).unwrap().points >= rules::KILL_POINTS);
        assert_eq!(world.score(right).unwrap().deaths, 1);
    }

    fn is_pick(what: &Happening) -> bool {
        matches!(what, Happening::Picked { .. })
    }

    #[test]
    fn walls_hold_and_impossible_inputs_are_clamped() {
        let mut world = world();
        let id = world.join(0).unwrap();
        world.steer(id, Input { x: -100, y: 127, ..Input::default() });
        for _ in 0..1000 {
            world.step();
        }
        let (x, y) = world.position(id).unwrap();
        assert_eq!((x, y), (rules::BODY, world.edge() - rules::BODY));
    }

    #[test]
    fn leaving_takes_the_body_away_and_frees_the_place() {
        let mut world = world();
        let first = world.join(0).unwrap();
        world.step();
        let before = world.board().len();
        world.leave(first);
        world.leave(first);
        assert_eq!(world.board().len(), before - 1);
        assert_eq!(world.join(0), Some(first));
    }

    #[test]
    fn the_same_seed_and_inputs_give_the_same_arena() {
        let run = || {
            let mut world = World::new(50, Random::from_seed(9));
            let ids: Vec<_> = (0..50).map(|n| world.join(n as u8).unwrap()).collect();
            let mut inputs = Random::from_seed(4);
            let mut all = Vec::new();
            for _ in 0..300 {
                for id in &ids {
                    let bits = inputs.u64();
                    let [x, y, angle, fire, ..] = bits.to_le_bytes();
                    let input =
                        Input { x: x as i8 % 2, y: y as i8 % 2, angle, fire: fire & 1 == 0 };
                    world.steer(*id, input);
                }
                all.extend(world.step());
            }
            (all, ids.iter().map(|id| world.score(*id)).collect::<Vec<_>>())
        };
        assert_eq!(run(), run());
    }
}
