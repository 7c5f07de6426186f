//! What travels must be a message; a service takes `&self`; an entity has an `#[rpc]` block.
use macros::{entity, rpc, service};
use std::collections::HashMap;

struct Secret;

#[entity(root = node::rt)]
#[derive(Default)]
struct Counter;

#[rpc(root = node::rt)]
impl Counter {
    #[invoke]
    fn give(&mut self, secret: Secret) {
        drop(secret);
    }

    #[invoke]
    fn map(&self) -> HashMap<u8, u8> {
        HashMap::new()
    }
}

#[service(root = node::rt)]
#[derive(Default)]
struct Dice;

#[rpc(root = node::rt)]
impl Dice {
    #[invoke]
    fn roll(&mut self) -> u8 {
        4
    }
}

fn main() {}
