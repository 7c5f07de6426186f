//! The numbers of the game. Distances are world units, times are steps of 1/20 s.

use std::f32::consts::TAU;

use mainstay::scene::Layout;

/// Steps per second.
pub const STEPS_PER_SECOND: u32 = 20;
/// How far a player sees.
pub const VIEW_RADIUS: f32 = 400.0;
/// Something in view stays in view up to this distance, so that edges do not flicker.
pub const LEAVE_RADIUS: f32 = 440.0;
/// Speed of a player, units per step.
pub const SPEED: f32 = 9.0;
/// Radius of a player's body.
pub const BODY: f32 = 14.0;
/// Speed of a shot, units per step.
pub const SHOT_SPEED: f32 = 26.0;
/// A shot's life, in steps.
pub const SHOT_STEPS: u64 = 16;
/// Steps between two shots of one player.
pub const RELOAD_STEPS: u64 = 6;
/// Damage of a shot.
pub const DAMAGE: u8 = 20;
/// Full health.
pub const HEALTH: u8 = 100;
/// Steps before the dead come back by themselves.
pub const RESPAWN_STEPS: u64 = 60;
/// Steps before something that was picked up lies there again.
pub const PICKUP_STEPS: u64 = 200;
/// How long a power-up lasts, in steps.
pub const POWER_STEPS: u64 = 200;
/// Points for a hit that kills, and for a pick-up.
pub const KILL_POINTS: u32 = 10;
/// Points for a pick-up.
pub const PICKUP_POINTS: u32 = 1;
/// Coins for beating somebody.
pub const KILL_COINS: u32 = 5;
/// Coins that lie in a medkit.
pub const MEDKIT_COINS: u32 = 1;
/// Stars that a bag holds; each further one is sold for [`STAR_COINS`].
pub const STARS_MAX: u32 = 20;
/// What a star is sold for.
pub const STAR_COINS: u64 = 2;
/// The price of a hat.
pub const HAT_COINS: u64 = 25;
/// Seconds between two parcels of one player: what is collected meanwhile is one transaction.
pub const PARCEL_SECONDS: u64 = 3;
/// Positions travel in steps of 1/8 unit.
pub const UNITS: f32 = 8.0;

/// What one replica of the arena is made of. The page decodes the same.
pub mod part {
    /// 1 byte: what it is (0 player, 1 shot, 2 medkit, 3 power-up) and, from bit 4, its colour.
    pub const WHAT: usize = 0;
    /// 4 bytes: x and y, little-endian u16 in 1/8 units.
    pub const PLACE: usize = 1;
    /// 3 bytes: velocity x and y as i8 in 1/4 units per step, then the angle (256 = full circle).
    pub const MOTION: usize = 2;
    /// 1 byte: health.
    pub const HEALTH: usize = 3;
    /// 2 bytes: low bits of the step at which a shot was fired from PLACE.
    pub const BORN: usize = 4;
}

/// The layout of every replica.
pub fn layout() -> Layout {
    Layout::new(&[1, 4, 3, 1, 2]).expect("11 bytes fit")
}

/// An angle byte as radians.
pub fn radians(angle: u8) -> f32 {
    f32::from(angle) * TAU / 256.0
}

/// Edge of the square map for `players` players: the crowd stays equally dense, 49 in view.
pub fn map_edge(players: u32) -> f32 {
    ((players as f32 / 1000.0).sqrt() * 3200.0).max(900.0)
}
