//! What clients and the arena tell each other.

use mainstay::prelude::*;

/// A player's wish, sent up to 20 times a second; only the newest counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub struct Input {
    /// Step of the newest view that was handled.
    pub seen: u64,
    /// -1, 0 or 1.
    #[message(range = -1..=1)]
    pub x: i8,
    /// -1, 0 or 1; down is positive.
    #[message(range = -1..=1)]
    pub y: i8,
    /// 256 is a full circle, 0 points to the right.
    pub angle: u8,
    /// Whether the trigger is held.
    pub fire: bool,
}

/// A player who has entered an arena.
#[derive(Clone, Debug, PartialEq, Message)]
pub struct Playing {
    /// The player's id within the arena.
    pub me: u32,
    /// Edge of the square map, in units.
    pub edge: f32,
    /// Steps per second.
    pub steps_per_second: u32,
}

/// Why a player cannot enter.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
pub enum PlayError {
    /// The name is empty or has characters that cannot be shown.
    Name,
    /// Every arena is full.
    Full,
}

/// Who a player is, over all arenas.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub struct Profile {
    /// The name used last; empty if there was none.
    pub name: String,
    /// Arenas entered.
    pub games: u64,
    /// Others beaten.
    pub kills: u64,
    /// Times beaten.
    pub deaths: u64,
    /// Points.
    pub points: u64,
}

/// What a player owns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub struct Purse {
    /// Coins.
    pub coins: u64,
    /// Stars in the bag.
    pub stars: u32,
    /// Hats.
    pub hats: u32,
}

/// Why nothing was bought.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
pub enum BuyError {
    /// There are not enough coins.
    Poor,
    /// The ledger cannot be reached, or nobody knows yet: ask again with the same number.
    Later,
}

/// What a player has won and collected in an arena since the last parcel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub struct Parcel {
    /// Names it, so that it counts once however often it is sent.
    pub id: u64,
    /// Others beaten.
    pub kills: u32,
    /// Times beaten.
    pub deaths: u32,
    /// Points.
    pub points: u32,
    /// Coins.
    pub coins: u32,
    /// Stars.
    pub stars: u32,
}

/// Whom an id belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
pub struct Name {
    /// Id within the arena.
    pub id: u32,
    /// Shown name.
    pub name: String,
}

/// One line of the score table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub struct Row {
    /// Id within the arena.
    pub id: u32,
    /// Points.
    pub points: u32,
    /// Others beaten.
    pub kills: u32,
    /// Times beaten.
    pub deaths: u32,
}

/// What the arena tells its players.
#[client]
pub trait ArenaClient {
    /// What is in view: a packet of `scene::Viewer`.
    #[sync(latest)]
    fn view(packet: Bytes);

    /// Players of the arena that the client has not heard of.
    #[sync]
    fn names(names: Vec<Name>);

    /// A player is gone.
    #[sync]
    fn left(id: u32);

    /// The best ten, once a second, and how many play.
    #[sync(latest)]
    fn table(rows: Vec<Row>, players: u32);

    /// One's own score, whenever it changes.
    #[sync]
    fn own(row: Row);

    /// What one owns, whenever it changes: it is in the ledger when this is told.
    #[sync]
    fn purse(purse: Purse);

    /// Somebody said something.
    #[sync]
    fn chat(from: String, text: String);

    /// `killer` beat `victim`: told to both.
    #[sync]
    fn beaten(killer: u32, victim: u32);
}
