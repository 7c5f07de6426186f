//! An entity without an `#[rpc]` block.
use macros::entity;

#[entity(root = node::rt)]
#[derive(Default)]
struct Counter;

fn main() {}
