//! A pattern on a route that cannot carry it does not compile (A34).
use macros::{client, entity, rpc};
use node::rt::Cx;

#[entity(root = node::rt)]
#[derive(Default)]
struct Counter;

#[rpc(root = node::rt)]
impl Counter {
    #[invoke(client)]
    fn a(&mut self, _cx: &mut Cx<Self>) {}

    #[request(server)]
    fn b(&mut self) {}

    #[sync]
    fn c(&mut self) {}

    #[notify]
    fn d(&mut self) {}
}

#[client(root = node::rt)]
trait Page {
    #[request]
    fn e();
}

fn main() {}
