//! What each zone has its own of is kept apart, whoever dies.

use std::cell::RefCell;
use std::time::Duration;

use ::testkit::{Cluster, Faults};
use mainstay::App;
use mainstay::config::{Config, Input};
use mainstay::prelude::*;
use mainstay::testkit::sim_options;

const SECOND: Duration = Duration::from_secs(1);
const EAST: Namespace = Namespace::zone("east");
const WEST: Namespace = Namespace::zone("west");

thread_local! {
    static SEEN: RefCell<Vec<(Namespace, u64)>> = const { RefCell::new(Vec::new()) };
}

/// Each zone has one, which is kept.
#[entity(singleton, document, zone)]
#[derive(Default, Document)]
struct Treasury {
    #[persist]
    coins: u64,
}

#[rpc]
impl Treasury {
    #[hook]
    fn loaded(&mut self, cx: &mut Cx<Self>) {
        cx.every(SECOND / 5, SECOND / 5, Times::Forever).key("coin").coin();
    }

    #[hook]
    fn moved(&mut self, _cx: &mut Cx<Self>) {}

    #[timer]
    fn coin(&mut self, cx: &mut Cx<Self>) {
        self.coins += if cx.id().namespace() == EAST { 1 } else { 1_000 };
        SEEN.with_borrow_mut(|seen| seen.push((cx.id().namespace(), self.coins)));
    }
}

/// The node that the store says has that of a zone.
fn owner(cluster: &Cluster, zone: Namespace) -> usize {
    let key = holder(Ref::<Treasury>::local(zone, 0));
    let row = cluster.store().load(key).wait().unwrap().expect("it is kept");
    (0..cluster.nodes())
        .find(|node| cluster.incarnation(*node) == row.owner.incarnation)
        .expect("a node that is known has it")
}

/// What the treasuries had, in order.
fn coins(zone: Namespace) -> Vec<u64> {
    SEEN.with_borrow(|seen| seen.iter().filter(|(of, _)| *of == zone).map(|(_, n)| *n).collect())
}

#[test]
fn a36_each_zone_has_its_own_singleton_and_document_also_after_a_crash() {
    for seed in 1..=4 {
        SEEN.take();
        let mut options =
            sim_options(&App::new("zones").entity::<Treasury>(), seed, Faults::none());
        options.nodes = 3;
        options.host.zones = vec!["east".to_owned(), "west".to_owned()];
        let mut cluster = Cluster::new(options);
        cluster.run_for(5 * SECOND);
        for zone in [EAST, WEST] {
            assert!(coins(zone).len() >= 10, "one begins by itself in each zone");
        }
        let node = owner(&cluster, EAST);
        let west_stays = owner(&cluster, WEST) != node;
        cluster.kill_node(node, 3_600 * SECOND, seed % 2 == 0);
        cluster.run_for(20 * SECOND);
        assert_ne!(owner(&cluster, EAST), node);
        let (east, west) = (coins(EAST), coins(WEST));
        assert!(east.last() > Some(&50) && west.last() > Some(&50_000), "{east:?} {west:?}");
        // What one zone has never got into the other's document, and was taken up where it was saved.
        assert!(east.iter().all(|n| *n < 1_000) && west.iter().all(|n| n % 1_000 == 0));
        let steps_back = |all: &[u64]| all.windows(2).filter(|pair| pair[1] <= pair[0]).count();
        assert!(steps_back(&east) <= 1 && !east[20..].contains(&1), "{east:?}");
        assert!(steps_back(&west) <= usize::from(!west_stays), "{west:?}");
    }
}

/// Nothing would be there, and a login is in no zone.
#[test]
fn a36_what_is_local_needs_a_process_of_a_zone_and_a_stream_that_names_one() {
    let app = App::new("zones").entity::<Treasury>();
    let check_of = |app: &App, process: &str| {
        let text = format!(
            r#"{{"cluster": "a", "zones": {{"east": {{}}}}, "roles": {{"keep": {{"entities": ["treasury"]}}}},
            "processes": {{"one": {{{process}}}}}}}"#
        );
        let config = Config::from_input(&Input::of_text("c.json", &text), &app.role_names());
        config.expect("it is read").check_app(app).map_err(|error| error.to_string())
    };
    let check = |process: &str| check_of(&app, process);
    let error = check(r#""roles": ["keep"]"#).unwrap_err();
    assert!(
        error.contains(r#""one" runs `treasury`"#) && error.ends_with(r#"give it "zone""#),
        "{error}"
    );
    assert_eq!(check(r#""roles": ["keep"], "zone": "east""#), Ok(()));
    // Who runs whatever there is leaves it to others.
    assert_eq!(check(r#""roles": ["node"]"#), Ok(()));
    let bound = App::new("zones").entity::<Treasury>().bind::<Treasury>("treasury", |_| 0);
    let error = check_of(&bound, r#""roles": ["node"], "zone": "east""#).unwrap_err();
    assert!(error.contains("leads to `treasury`, of which there are several"), "{error}");
}
