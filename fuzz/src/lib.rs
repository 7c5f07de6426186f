//! The targets, one function each. Those of the wire and of WebSocket are also run by plain tests
//! of their crates, which is where they live.

// Its list and samples are for the plain tests.
#[allow(dead_code)]
#[path = "../../crates/proto/tests/it/targets.rs"]
mod wire;

#[path = "../../crates/transport/tests/hostile/targets.rs"]
mod web;

pub use web::{upgrade, websocket};
pub use wire::{down_frame, link_frame, lock, message, shape, split, ticket, up_frame, varint};

use tables::Limits;

/// Enhanced JSON: what reads well is written as something that reads the same.
pub fn json(data: &[u8]) {
    if let Ok(value) = tables::parse("fuzz", data, &Limits::default()) {
        let again = tables::parse("fuzz", value.to_string().as_bytes(), &Limits::default());
        assert_eq!(again.expect("it was just written"), value);
    }
}

/// A cluster file.
#[cfg(feature = "config")]
pub fn config(data: &[u8]) {
    use mainstay::config::{Config, Input, Roles};
    let input = Input { file: Some(("fuzz.json".into(), data.to_vec())), ..Input::default() };
    if let Err(error) = Config::from_input(&input, &Roles::default()) {
        assert!(!error.to_string().is_empty());
    }
}
