//! What each zone or channel has its own of, and what there is once.

use macros::service;
use node::rt::{Outside, Ref};
use node::{CallError, Entity};
use proto::{LOCAL_KEY_MAX, Namespace};

use super::*;

const EAST: Namespace = Namespace::zone("east");
const WEST: Namespace = Namespace::zone("west");

/// Each zone has one.
#[entity(root = node::rt, singleton, zone)]
#[derive(Default)]
pub struct Auction {
    total: u64,
}

#[rpc(root = node::rt)]
impl Auction {
    #[invoke(server)]
    fn bid(&mut self, _cx: &mut Cx<Self>, n: u64) -> u64 {
        self.total += n;
        self.total
    }
}

/// Each zone has any number.
#[entity(root = node::rt, zone)]
#[derive(Default)]
pub struct Stall {
    sold: u64,
}

#[rpc(root = node::rt)]
impl Stall {
    #[invoke(server)]
    fn sell(&mut self, cx: &mut Cx<Self>) -> (u64, u64) {
        self.sold += 1;
        (cx.key(), self.sold)
    }

    /// Has the next stall of its zone sell.
    #[invoke(server)]
    async fn pass_on(&mut self, cx: &mut Cx<Self>) -> (u64, u64) {
        cx.entity::<Stall>(cx.key() + 1).sell().await.expect("the zone has it")
    }
}

/// A service of each zone, which talks to what its zone has.
#[service(root = node::rt, zone)]
#[derive(Default)]
pub struct Herald;

#[rpc(root = node::rt)]
impl Herald {
    #[invoke]
    async fn bid(&self, cx: &mut Cx<Self>, n: u64) -> Result<u64, String> {
        cx.service::<Auction>().bid(n).await.map_err(|error| error.to_string())
    }
}

/// Each channel has one.
#[service(root = node::rt, channel)]
#[derive(Default)]
pub struct Shop;

#[rpc(root = node::rt)]
impl Shop {
    #[invoke]
    fn is_open(&self) -> bool {
        true
    }
}

/// There is one in the cluster, for all zones.
#[entity(root = node::rt, singleton, global)]
#[derive(Default)]
pub struct Mint {
    coined: u64,
}

#[rpc(root = node::rt)]
impl Mint {
    #[invoke(server)]
    fn coin(&mut self, _cx: &mut Cx<Self>) -> u64 {
        self.coined += 1;
        self.coined
    }

    /// Bids where it is, if that is in one zone.
    #[invoke(server)]
    async fn bid(&mut self, cx: &mut Cx<Self>) -> bool {
        cx.service::<Auction>().bid(1).await.is_ok()
    }
}

fn all() -> NodeApp {
    NodeApp::new().kind::<Auction>().kind::<Stall>().kind::<Herald>().kind::<Shop>().kind::<Mint>()
}

fn zoned(name: &str, zones: &[&str]) -> NodeOptions {
    let zones = zones.iter().map(ToString::to_string).collect();
    NodeOptions { zones, channels: vec!["web".to_owned()], ..options(name, 2) }
}

fn start(process: &mut Process, app: &NodeApp, options: NodeOptions) -> NodeHandle {
    Node::start(app, options, process.env(Key::shared(&[7; 32]))).expect("the node starts")
}

/// Does something from a worker of a node.
fn ask<F: Future<Output: Send + 'static> + 'static>(
    node: &NodeHandle,
    act: impl FnOnce(Outside) -> F + Send + 'static,
) -> F::Output {
    node.spawn(0, act).blocking_recv().expect("the worker runs")
}

fn bid(node: &NodeHandle, within: Namespace, n: u64) -> Result<u64, CallError> {
    ask(
        node,
        move |outside| async move { outside.at(Ref::<Auction>::local(within, 0)).bid(n).await },
    )
}

fn bid_here(node: &NodeHandle, n: u64) -> Result<u64, CallError> {
    ask(node, move |outside| async move { outside.service::<Auction>().bid(n).await })
}

fn is_not_found<T>(result: Result<T, CallError>) -> bool {
    matches!(result, Err(CallError::NotFound(_)))
}

/// A process was of one zone, and what the attribute said was ignored: all zones had one auction.
#[test]
fn x19_a_process_hosts_several_zones_and_each_has_its_own() {
    let mut process = Process::new();
    let node = start(&mut process, &all(), zoned("both", &["east", "west"]));
    assert_eq!(bid(&node, EAST, 3), Ok(3));
    assert_eq!(bid(&node, WEST, 5), Ok(5));
    assert_eq!(bid(&node, EAST, 1), Ok(4));
    // Stateless services too: those of a zone talk to what their zone has.
    let herald = |within| {
        ask(&node, move |outside| async move {
            outside.at(Ref::<Herald>::local(within, 0)).bid(10).await
        })
    };
    assert_eq!(herald(EAST), Ok(14));
    assert_eq!(herald(WEST), Ok(15));
    // Keys are those of the zone.
    for within in [EAST, WEST] {
        let sold = ask(&node, move |outside| async move {
            outside.at(Ref::<Stall>::local(within, 7)).pass_on().await
        });
        assert_eq!(sold, Ok((8, 1)));
    }
    // Of two zones of the process none goes without saying.
    let error = bid_here(&node, 1).unwrap_err();
    assert!(matches!(error, CallError::NotFound(_)), "{error:?}");
    assert!(error.to_string().contains("name one by `Ref::local`"), "{error}");
    assert_eq!(
        ask(&node, |outside| async move { outside.service::<Mint>().bid().await }),
        Ok(false)
    );
    assert_eq!((bid(&node, EAST, 0), bid(&node, WEST, 0)), (Ok(14), Ok(15)));
}

#[test]
fn a36_a_call_stays_in_its_zone_unless_it_names_another() {
    let mut process = Process::new();
    let east = start(&mut process, &all(), zoned("east", &["east"]));
    let west = start(&mut process, &all(), zoned("west", &["west"]));
    // A node that runs nothing of them, in no zone.
    let plain = start(&mut process, &NodeApp::new().kind::<Counter>(), options("plain", 1));
    assert_eq!(bid_here(&east, 1), Ok(1));
    assert_eq!(bid_here(&west, 2), Ok(2));
    assert_eq!(bid_here(&west, 2), Ok(4));
    assert!(is_not_found(bid_here(&plain, 1)));
    // Whoever names the zone reaches it from anywhere.
    for node in [&east, &west, &plain] {
        assert_eq!((bid(node, EAST, 0), bid(node, WEST, 0)), (Ok(1), Ok(4)));
    }
    // A zone that nobody hosts, a channel of the same name, what has no zone, a key beyond all zones.
    for within in [Namespace::zone("north"), Namespace::channel("east"), Namespace::NONE] {
        assert!([&east, &west, &plain].into_iter().all(|node| is_not_found(bid(node, within, 1))));
    }
    let sell = |stall: Ref<Stall>| {
        ask(&west, move |outside| async move { outside.at(stall).sell().await })
    };
    assert_eq!(sell(Ref::local(EAST, LOCAL_KEY_MAX)), Ok((LOCAL_KEY_MAX, 1)));
    let beyond = Ref::<Stall>::local(EAST, 1).id().key;
    assert!(is_not_found(sell(Ref::local(WEST, beyond))));
    assert!(is_not_found(sell(Ref::keyed(beyond))));
    // What is global is one, from wherever it is asked for.
    let coined: Vec<_> = [&east, &west, &east]
        .map(|node| ask(node, |outside| async move { outside.service::<Mint>().coin().await }))
        .into();
    assert_eq!(coined, [Ok(1), Ok(2), Ok(3)]);
}

#[test]
fn a36_channels_are_apart_from_zones() {
    let mut process = Process::new();
    let node = start(&mut process, &all(), zoned("one", &["web"]));
    let open = |within| {
        ask(&node, move |outside| async move {
            outside.at(Ref::<Shop>::local(within, 0)).is_open().await
        })
    };
    assert_eq!(open(Namespace::channel("web")), Ok(true));
    assert!(is_not_found(open(Namespace::zone("web"))));
    assert!(is_not_found(open(Namespace::channel("app"))));
    let here = ask(&node, |outside| async move { outside.service::<Shop>().is_open().await });
    assert_eq!(here, Ok(true));
    assert_ne!(Auction::KIND.scope, Shop::KIND.scope);
}

/// In a cluster that names no zones there is one.
#[test]
fn a36_without_zones_what_is_local_is_there_once() {
    let mut process = Process::new();
    let nodes = ["one", "two"].map(|name| start(&mut process, &all(), options(name, 2)));
    assert_eq!(bid_here(&nodes[0], 1), Ok(1));
    assert_eq!(bid_here(&nodes[1], 1), Ok(2));
    let keyed =
        ask(&nodes[0], |outside| async move { outside.at(Ref::<Auction>::keyed(0)).bid(1).await });
    assert_eq!(keyed, Ok(3));
    assert!(is_not_found(bid(&nodes[0], EAST, 1)));
}

/// When the node of a zone has gone, nobody of another zone takes its things over.
#[test]
fn a36_a_zone_without_nodes_is_taken_over_by_none() {
    let mut process = Process::new();
    let east = start(&mut process, &all(), zoned("east", &["east"]));
    let west = start(&mut process, &all(), zoned("west", &["west"]));
    assert_eq!(bid(&west, EAST, 1), Ok(1));
    east.stop();
    let seen = ask(&west, |outside| async move {
        // Its links end a moment after it was taken off the list.
        for _ in 0..500 {
            match outside.at(Ref::<Auction>::local(EAST, 0)).bid(1).await {
                Err(CallError::NotFound(_)) => return true,
                Ok(_) => return false,
                Err(_) => {}
            }
        }
        false
    });
    assert!(seen);
    assert_eq!(bid_here(&west, 1), Ok(1));
}
