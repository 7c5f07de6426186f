//! Entities kept in the store: one owner, nothing lost that was promised.

mod deals;
mod documents;
mod game;
mod keep;
mod process;
mod rig;
