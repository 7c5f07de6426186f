//! The entity host: turns, calls, limits, panics, timers, clients, other workers and nodes.

mod support;

#[path = "host/rig.rs"]
mod rig;

#[path = "host/basics.rs"]
mod basics;
