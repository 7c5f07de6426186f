//! Services and entities that are not stored, at a node that goes: what they were asked is answered, and their
//! players are led to where they are placed now.

use std::time::Duration;

use ::testkit::{ClientId, Cluster, Faults};
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
    ms: u64,
}

/// All nodes are drained in turn while players ask the service and their desks all the time.
#[test]
fn h5_no_request_fails_to_services_and_unstored_entities_whose_nodes_drain() {
    let app = App::new("lead").entity::<Scale>().entity::<Desk>();
    let app = app.bind::<Scale>("scale", |_| 0).bind::<Desk>("desk", |login| login.account.0 % 7);
    let mut options = sim_options(&app, 3, Faults::none());
    options.nodes = 3;
    let mut cluster = Cluster::new(options);
    let clients: Vec<ClientId> = (1..=40).map(|account| cluster.client(account)).collect();
    let bound = cluster.run_until(20 * SECOND, |cluster| {
        let is_in = |c: &ClientId| ["scale", "desk"].iter().all(|s| cluster.core(*c).is_bound(s));
        clients.iter().all(is_in)
    });
    assert!(bound);
    clients.iter().for_each(|client| drop(cluster.events(*client)));
    let (mut asked, mut seated) = (Vec::new(), Vec::new());
    let (mut round, mut led) = (0u64, 0);
    for node in 0..3 {
        cluster.drain_node(node, 20 * SECOND, SECOND);
        let begun = round;
        while cluster.is_draining(node) && cluster.is_up(node) || round < begun + 100 {
            round += 1;
            for client in &clients {
                let ms = 1 + (round * 37) % 400;
                let wait = 10 * SECOND;
                let client = *client;
                let request = cluster.start(client, ("scale", "weigh"), &(ms,), wait).unwrap();
                asked.push(Asked { client, request, ms });
                let request = cluster.start(client, ("desk", "ask"), &(), wait).unwrap();
                seated.push((client, request));
            }
            cluster.run_for(Duration::from_millis(20));
            assert!(round < begun + 900, "node {node} does not end before its time is over");
        }
        cluster.run_for(3 * SECOND);
        assert!(cluster.is_up(node) && !cluster.is_draining(node), "it is back");
        for client in &clients {
            for event in cluster.events(*client) {
                match event {
                    Event::Bound { .. } => led += 1,
                    other => panic!("a player notices that node {node} goes: {other:?}"),
                }
            }
        }
    }
    cluster.run_for(5 * SECOND);
    assert!(led >= 40, "{led} streams lead elsewhere, at least those to the service");
    for Asked { client, request, ms } in asked {
        let answer = cluster.take_result(client, request).expect("it ends").unwrap();
        assert_eq!(proto::decode::<u64>(&answer).unwrap(), ms);
    }
    for (client, request) in seated {
        assert!(matches!(cluster.take_result(client, request), Some(Ok(_))));
    }
}
