//! Components that need each other in a ring, or what is not there, do not compile (A5).
use macros::{component, entity, rpc};
use node::rt::Component;

#[entity(root = node::rt)]
#[derive(Default)]
struct Avatar {
    bag: Component<Bag>,
    wallet: Component<Wallet>,
}

#[rpc(root = node::rt)]
impl Avatar {}

#[component(of = Avatar, needs(Wallet), root = node::rt)]
#[derive(Default)]
struct Bag;

#[rpc(root = node::rt)]
impl Bag {}

#[component(of = Avatar, needs(Bag), root = node::rt)]
#[derive(Default)]
struct Wallet;

#[rpc(root = node::rt)]
impl Wallet {}

#[entity(root = node::rt)]
#[derive(Default)]
struct Guild {
    chat: Component<Chat>,
}

#[rpc(root = node::rt)]
impl Guild {}

#[component(of = Guild, needs(Bag), root = node::rt)]
#[derive(Default)]
struct Chat;

#[rpc(root = node::rt)]
impl Chat {}

fn main() {}
