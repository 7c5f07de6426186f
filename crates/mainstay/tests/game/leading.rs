//! Services and entities that are not stored, at a node that goes: what they were asked is answered, and their
//! players are led to where they are placed now.

use std::time::Duration;

use ::testkit::{ClientId, Cluster, Faults, Options};
use client::{Event, RequestId};
use mainstay::App;
use mainstay::prelude::*;
use mainstay::testkit::sim_options;

const SECOND: Duration = Duration::from_secs(1);

/// A service that takes its time.
#[service]
#[derive(Default)]
struct Scale;

#[rpc]
impl Scale {
    #[request(client)]
    async fn weigh(&self, cx: &mut Cx<Self>, ms: u64) -> u64 {
        cx.sleep(Duration::from_millis(ms)).await;
        ms
    }
}

/// Nobody stores it: it begins anew where it is placed.
#[entity]
#[derive(Default)]
struct Desk {
    asked: u64,
}

#[rpc]
impl Desk {
    #[request(client)]
    fn ask(&mut self) -> u64 {
        self.asked += 1;
        self.asked
    }
}

struct Asked {
    client: ClientId,
    request: RequestId,
    /// Of a request to the service.
    ms: Option<u64>,
}

/// Drains all nodes in turn while players ask the service and their desks all the time. Gives how many streams
/// were opened again, and what players noticed or were not answered.
fn drain_all(change: impl FnOnce(&mut Options)) -> (u64, Vec<String>) {
    let app = App::new("lead").entity::<Scale>().entity::<Desk>();
    let app = app.bind::<Scale>("scale", |_| 0).bind::<Desk>("desk", |login| login.account.0 % 7);
    let mut options = sim_options(&app, 3, Faults::none());
    options.nodes = 3;
    change(&mut options);
    let mut cluster = Cluster::new(options);
    let clients: Vec<ClientId> = (1..=15).map(|account| cluster.client(account)).collect();
    let bound = cluster.run_until(20 * SECOND, |cluster| {
        let is_in = |c: &ClientId| ["scale", "desk"].iter().all(|s| cluster.core(*c).is_bound(s));
        clients.iter().all(is_in)
    });
    assert!(bound);
    clients.iter().for_each(|client| drop(cluster.events(*client)));
    let (mut asked, mut led, mut wrong) = (Vec::new(), 0, Vec::new());
    for node in 0..3 {
        cluster.drain_node(node, 20 * SECOND, SECOND);
        let mut rounds = 0u64;
        while cluster.is_draining(node) && cluster.is_up(node) || rounds < 100 {
            rounds += 1;
            let ms = 1 + (rounds * 37) % 250;
            for client in clients.iter().copied() {
                // A mutant may have a stream away for a while.
                let weigh = ("scale", "weigh");
                match cluster.start(client, weigh, &(ms,), 10 * SECOND) {
                    Ok(request) => asked.push(Asked { client, request, ms: Some(ms) }),
                    Err(error) => wrong.push(error.to_string()),
                }
                match cluster.start(client, ("desk", "ask"), &(), 10 * SECOND) {
                    Ok(request) => asked.push(Asked { client, request, ms: None }),
                    Err(error) => wrong.push(error.to_string()),
                }
            }
            cluster.run_for(Duration::from_millis(20));
            assert!(rounds < 900, "node {node} does not end before its time is over");
        }
        cluster.run_for(3 * SECOND);
        assert!(cluster.is_up(node) && !cluster.is_draining(node), "it is back");
        for client in &clients {
            for event in cluster.events(*client) {
                match event {
                    Event::Bound { .. } => led += 1,
                    other => wrong.push(format!("node {node} goes: {other:?}")),
                }
            }
        }
    }
    cluster.run_for(12 * SECOND);
    for Asked { client, request, ms } in asked {
        match (cluster.take_result(client, request).expect("it ends"), ms) {
            (Err(error), _) => wrong.push(error.to_string()),
            (Ok(answer), Some(ms)) => assert_eq!(proto::decode::<u64>(&answer).unwrap(), ms),
            (Ok(_), None) => {}
        }
    }
    (led, wrong)
}

#[test]
fn h5_no_request_fails_to_services_and_unstored_entities_whose_nodes_drain() {
    let (led, wrong) = drain_all(|_| {});
    assert_eq!(wrong, Vec::<String>::new());
    assert!(led >= 15, "{led} streams lead elsewhere, at least those to the service");
}

/// Without that the test above would notice.
#[test]
fn clients_that_are_not_led_away_notice_that_a_node_goes() {
    let (_, wrong) =
        drain_all(|options| options.sessions.mutant = Some(node::session::Mutant::NobodyLed));
    assert!(!wrong.is_empty());
}
