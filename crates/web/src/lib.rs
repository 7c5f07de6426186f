//! HTTP beside the game: pages, guest tickets, and the routes that a game or the console adds.
#![forbid(unsafe_code)]

mod assets;
mod server;
mod ticket;

pub use assets::{Asset, assets};
pub use axum;
pub use server::{Options, Refused, Server};
pub use ticket::{GrantText, GuestOptions, Guests, guest_routes};
