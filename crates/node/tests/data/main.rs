//! Entities kept in the store: one owner, nothing lost that was promised.

mod agenda;
mod beats;
mod chaos;
mod deals;
mod documents;
mod game;
mod indexes;
mod keep;
mod killed;
mod maps;
mod process;
mod records;
mod rig;
mod sagas;
mod stores;
