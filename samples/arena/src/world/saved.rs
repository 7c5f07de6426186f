//! What is kept of an arena, and an arena made of it.

use mainstay::prelude::*;
use mainstay::scene::ReplicaId;

use super::{Body, Pickup, Player, Score, World};

/// Enough of an arena to go on with it elsewhere. Shots in flight are not.
#[derive(Clone, Debug, Default, PartialEq, Message)]
pub struct Saved {
    /// The last step.
    pub step: u64,
    /// Its players, by their ids.
    pub players: Vec<SavedPlayer>,
    /// What lies there, or will again.
    pub pickups: Vec<SavedPickup>,
}

/// A player as kept.
#[derive(Clone, Debug, Default, PartialEq, Message)]
pub struct SavedPlayer {
    /// The player's id within the arena.
    pub id: u32,
    /// Which of the 16 colours.
    pub colour: u8,
    /// Place.
    pub x: f32,
    /// Place.
    pub y: f32,
    /// Health.
    pub health: u8,
    /// The step up to which shots are tripled.
    pub power_until: u64,
    /// Of one who is beaten: the step at which it comes back.
    pub dead_until: Option<u64>,
    /// Points.
    pub points: u32,
    /// Others beaten.
    pub kills: u32,
    /// Times beaten.
    pub deaths: u32,
}

/// A medkit or star as kept.
#[derive(Clone, Debug, Default, PartialEq, Message)]
pub struct SavedPickup {
    /// Its id.
    pub id: u32,
    /// A star, not a medkit.
    pub power: bool,
    /// Place.
    pub x: f32,
    /// Place.
    pub y: f32,
    /// Of one that was taken: the step at which it is back.
    pub back_at: Option<u64>,
}

impl World {
    /// What is kept of it.
    pub fn save(&self) -> Saved {
        let players = self.players.iter().flatten().filter_map(|entity| {
            let (body, player) = (self.ecs.get::<&Body>(*entity), self.ecs.get::<&Player>(*entity));
            let (body, player) = (body.ok()?, player.ok()?);
            let Score { points, kills, deaths } = player.score;
            Some(SavedPlayer {
                id: player.id.0,
                colour: player.colour,
                x: body.x,
                y: body.y,
                health: player.health,
                power_until: player.power_until,
                dead_until: player.dead_until,
                points,
                kills,
                deaths,
            })
        });
        let players = players.collect();
        let mut all = self.ecs.query::<(&Body, &Pickup)>();
        let pickups = all.iter().map(|(body, pickup)| SavedPickup {
            id: pickup.id.0,
            power: pickup.power,
            x: body.x,
            y: body.y,
            back_at: pickup.back_at,
        });
        let mut pickups: Vec<SavedPickup> = pickups.collect();
        pickups.sort_by_key(|pickup| pickup.id);
        Saved { step: self.step, players, pickups }
    }

    /// Goes on with what was kept, `skipped` steps later: clients may have seen steps after those that were kept,
    /// and go by the number. What has no place on this map is left out.
    pub fn restore(&mut self, saved: &Saved, skipped: u64) {
        self.step = saved.step + skipped;
        let edge = self.edge;
        let on_map = |x: f32, y: f32| (0.0..=edge).contains(&x) && (0.0..=edge).contains(&y);
        for kept in saved.players.iter().filter(|kept| on_map(kept.x, kept.y)) {
            let at = (kept.id as usize).wrapping_sub(1);
            if at >= Self::PLAYERS_MAX || self.entity(ReplicaId(kept.id)).is_some() {
                continue;
            }
            let player = Player {
                health: kept.health,
                power_until: kept.power_until + skipped,
                dead_until: kept.dead_until.map(|until| until + skipped),
                score: Score { points: kept.points, kills: kept.kills, deaths: kept.deaths },
                ..Player::new(ReplicaId(kept.id), kept.colour)
            };
            let body = Body { x: kept.x, y: kept.y, vx: 0.0, vy: 0.0 };
            if at >= self.players.len() {
                self.players.resize(at + 1, None);
            }
            self.players[at] = Some(self.ecs.spawn((body, player)));
        }
        for (body, pickup) in self.ecs.query_mut::<(&mut Body, &mut Pickup)>() {
            let at = saved.pickups.binary_search_by_key(&pickup.id.0, |kept| kept.id);
            let Some(kept) = at.ok().map(|at| &saved.pickups[at]) else { continue };
            if on_map(kept.x, kept.y) {
                (body.x, body.y) = (kept.x, kept.y);
                pickup.power = kept.power;
                pickup.back_at = kept.back_at.map(|at| at + skipped);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use mainstay::env::Random;

    use super::super::Input;
    use super::*;

    #[test]
    fn an_arena_goes_on_from_what_was_kept() {
        let mut world = World::new(20, Random::from_seed(3));
        let ids: Vec<_> = (0..20).map(|n| world.join(n).unwrap()).collect();
        world.leave(ids[4]);
        for (n, id) in ids.iter().enumerate() {
            let (x, y) = ((n % 3) as i8 - 1, (n % 2) as i8);
            world.steer(*id, Input { x, y, angle: n as u8 * 13, fire: true });
        }
        for _ in 0..400 {
            world.step();
        }
        let saved = world.save();
        assert!(saved.players.iter().any(|player| player.points > 0), "{saved:?}");
        assert!(saved.pickups.iter().any(|pickup| pickup.back_at.is_some()), "{saved:?}");
        let mut next = World::new(20, Random::from_seed(99));
        next.restore(&saved, 0);
        assert_eq!(next.save(), saved);
        // Places are free and taken as they were.
        assert_eq!(next.join(0), Some(ids[4]));
        // Later by the clock of steps, but what is to come takes as long.
        let mut later = World::new(20, Random::from_seed(99));
        later.restore(&saved, 200);
        let again = later.save();
        assert_eq!(again.step, saved.step + 200);
        for (old, new) in saved.players.iter().zip(&again.players) {
            assert_eq!(new.dead_until, old.dead_until.map(|until| until + 200));
            assert_eq!((new.points, new.x.to_bits()), (old.points, old.x.to_bits()));
        }
        later.step();
        assert_eq!(later.players(), 19);
    }

    #[test]
    fn what_was_kept_badly_does_no_harm() {
        let mut world = World::new(20, Random::from_seed(3));
        let kept = |id, x| SavedPlayer { id, x, y: 10.0, ..SavedPlayer::default() };
        let players =
            vec![kept(0, 9.0), kept(2, f32::NAN), kept(3, 9.0), kept(3, 8.0), kept(u32::MAX, 9.0)];
        world.restore(&Saved { step: 7, players, pickups: Vec::new() }, 1);
        assert_eq!(world.save().players.iter().map(|kept| kept.id).collect::<Vec<_>>(), [3]);
        world.step();
    }
}
