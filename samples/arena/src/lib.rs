//! A top-down arena: people and bots move, shoot, pick things up, chat, and see a score table.
//!
//! `rules` and `world` are the game, without any engine. `avatar` is a player's own entity, which is
//! kept, `wallet` what it owns, `lobby` finds a field with room, `field` is a scene that runs one
//! arena at 20 steps a second. What is collected there goes to the avatar in `parcels`.

mod avatar;
mod bot;
mod field;
mod lobby;
mod messages;
mod parcels;
pub mod rules;
mod wallet;
mod web;
pub mod world;

use mainstay::prelude::*;

pub use avatar::{Avatar, Record};
pub use bot::Player as BotPlayer;
pub use field::Field;
pub use lobby::{Lobby, Place};
pub use messages::{
    ArenaClient, BuyError, Input, Name, Parcel, PlayError, Playing, Profile, Purse, Row,
};
pub use wallet::{COINS, HAT, STAR, Wallet};

/// The game: hand it to `mainstay::run`.
pub fn app() -> App {
    App::new("arena")
        .entity::<Avatar>()
        .entity::<Lobby>()
        .entity::<Field>()
        .client::<ArenaClient>()
        .agent::<Avatar>("avatar")
        .page(web::ASSETS)
}
