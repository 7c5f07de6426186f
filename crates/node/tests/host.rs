//! The entity host: turns, calls, limits, panics, timers, clients, other workers and nodes.

mod support;

#[path = "host/actor.rs"]
mod actor;
#[path = "host/basics.rs"]
mod basics;
#[path = "host/calendar.rs"]
mod calendar;
#[path = "host/calls.rs"]
mod calls;
#[path = "host/clients.rs"]
mod clients;
#[path = "host/cycles.rs"]
mod cycles;
#[path = "host/ending.rs"]
mod ending;
#[path = "host/life.rs"]
mod life;
#[path = "host/panics.rs"]
mod panics;
#[path = "host/rig.rs"]
mod rig;
#[path = "host/timers.rs"]
mod timers;
#[path = "host/turns.rs"]
mod turns;
#[path = "host/workers.rs"]
mod workers;
