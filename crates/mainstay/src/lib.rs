//! Mainstay: a distributed game server engine.
//!
//! A game declares entities, components, services and what it tells clients, puts them into an
//! [`App`], and hands that to [`run`]. One cluster file says which roles each process plays;
//! without one, all of them run in this process.
//!
//! ```no_run
//! use mainstay::prelude::*;
//!
//! /// A bell that everybody can ring.
//! #[entity]
//! #[derive(Default)]
//! struct Bell {
//!     rings: u64,
//! }
//!
//! #[rpc]
//! impl Bell {
//!     /// Rings it, and tells how often it was rung.
//!     #[request(client)]
//!     fn ring(&mut self, _cx: &mut Cx<Self>) -> u64 {
//!         self.rings += 1;
//!         self.rings
//!     }
//! }
//!
//! fn main() -> mainstay::Exit {
//!     mainstay::run(App::new("hello").entity::<Bell>().bind::<Bell>("bell", |_login| 1))
//! }
//! ```
//!
//! What an entity is to keep is marked; what must never be lost or doubled is a deal:
//!
//! ```no_run
//! use mainstay::prelude::*;
//! use mainstay::store::Currency;
//!
//! /// What a player has. Saved within a second of each change, in the data folder unless the
//! /// cluster file names a store.
//! #[entity(document)]
//! #[derive(Default, Document)]
//! struct Player {
//!     #[persist(range = ..=100)]
//!     level: u32,
//! }
//!
//! #[rpc]
//! impl Player {
//!     /// Pays for a level: both are in the store when the player is told, or neither.
//!     #[request(client)]
//!     async fn train(&mut self, cx: &mut Cx<Self>) -> bool {
//!         self.level += 1;
//!         let deal = Deal::new(cx.deal_id(), "training").burn(cx.holder(), Currency(1), 50);
//!         let done = cx.commit_with(self, deal).await.is_ok();
//!         if !done {
//!             self.level -= 1;
//!         }
//!         done
//!     }
//! }
//!
//! fn main() -> mainstay::Exit {
//!     mainstay::run(App::new("keep").entity::<Player>().agent::<Player>("me"))
//! }
//! ```
#![forbid(unsafe_code)]

mod app;
mod arguments;
pub mod config;
mod console;
mod control;
mod interface;
mod line;
mod opening;
pub mod operate;
pub mod prelude;
mod process;
mod reaching;
mod release;
mod run;
pub mod testkit;
mod up;
mod vitals;
mod waiting;
mod watch;
mod zones;

/// What generated code uses. Not for games.
pub mod rt {
    pub use node::rt::*;
    pub use proto::codec::*;
}

pub use app::{App, AppError};
pub use bots;
pub use bus;
pub use client;
pub use env;
pub use macros::test;
pub use node;
pub use opening::{open_served_store, open_store};
pub use process::{Running, StartError, Stopped};
pub use proto;
pub use reaching::open_bus;
pub use run::{Exit, run, run_with};
pub use scene;
pub use store;
pub use tables;
pub use transport;
pub use web;
