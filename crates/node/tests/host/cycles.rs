use std::time::Duration;

use expect_test::{Expect, expect};
use node::HostOptions;

use crate::actor::{Actor, brief};
use crate::rig::{Map, Rig, trace, worker};

const SECOND: Duration = Duration::from_secs(1);

/// Where actors 1, 2, 3 live: together, on workers of one node, on nodes.
fn rigs() -> Vec<(&'static str, Rig)> {
    let spread = |at: [(u64, u8); 3]| {
        let map = Map::default();
        for (key, place) in (1u64..).zip(at) {
            let id = node::Ref::<Actor>::keyed(key).id();
            map.places.borrow_mut().insert(id, worker(place.0, place.1));
        }
        map
    };
    let here = [worker(1, 0)];
    let workers = [worker(1, 0), worker(1, 1), worker(1, 2)];
    let nodes = [worker(1, 0), worker(2, 0), worker(3, 1)];
    let options = HostOptions::default;
    vec![
        ("here", Rig::many(options(), &here, &spread([(1, 0), (1, 0), (1, 0)]))),
        ("workers", Rig::many(options(), &workers, &spread([(1, 0), (1, 1), (1, 2)]))),
        ("nodes", Rig::many(options(), &nodes, &spread([(1, 0), (2, 0), (3, 1)]))),
    ]
}

/// Runs a script on one worker, and on three workers and three nodes. In the latter two nobody may
/// have waited for a deadline either.
fn check(expected: &Expect, elsewhere: &str, script: impl Fn(&mut Rig)) {
    for (place, mut rig) in rigs() {
        for host in &mut rig.hosts {
            host.register::<Actor>();
        }
        script(&mut rig);
        let trace = trace();
        match place {
            "here" => expected.assert_eq(&trace),
            _ => {
                assert!(trace.contains(elsewhere), "{place}: {trace}");
                assert!(!trace.contains("Timeout"), "{place}: {trace}");
            }
        }
        for host in &rig.hosts {
            assert!(host.is_quiet(), "{place}: {:?}", host.stats());
        }
    }
}

#[test]
fn entity_that_calls_itself_fails_at_once() {
    check(
        &expect![[r#"
            0ms self: "1<Cycle[1]"
        "#]],
        "0ms self: \"1<Cycle[1]\"",
        |rig| {
            let call = rig.outside().entity::<Actor>(1).relay(vec![1]);
            rig.start("self", async move { brief(call.await) });
            rig.pass(Duration::from_millis(10));
        },
    );
}

#[test]
fn call_that_comes_back_to_its_caller_fails_at_once_and_names_the_ring() {
    check(
        &expect![[r#"
            0ms ring: "1<2<3<Cycle[3 1 2]"
        "#]],
        "0ms ring: \"1<2<3<Cycle[",
        |rig| {
            let call = rig.outside().entity::<Actor>(1).relay(vec![2, 3, 1]);
            rig.start("ring", async move { brief(call.await) });
            rig.pass(Duration::from_millis(10));
        },
    );
}

#[test]
fn chain_without_a_ring_is_no_cycle() {
    check(
        &expect![[r#"
            0ms chain: "1<2<3<end"
        "#]],
        "0ms chain: \"1<2<3<end",
        |rig| {
            let call = rig.outside().entity::<Actor>(1).relay(vec![2, 3, 4]);
            rig.start("chain", async move { brief(call.await) });
            rig.pass(Duration::from_millis(10));
        },
    );
}

#[test]
fn two_calls_that_meet_are_found_and_the_younger_fails() {
    check(
        &expect![[r#"
            20ms first: "1<2<end"
            20ms second: "2<Cycle[2 1]"
        "#]],
        "2<Cycle[2",
        |rig| {
            let outside = rig.outside();
            // 1 calls 2 after 10 ms, 2 calls 1 after 20 ms.
            let first = outside.entity::<Actor>(1).relay_later(10, vec![2, 4]);
            let second = outside.entity::<Actor>(2).relay_later(20, vec![1]);
            rig.start("first", async move { brief(first.await) });
            rig.start("second", async move { brief(second.await) });
            rig.pass(SECOND);
        },
    );
}

#[test]
fn three_calls_that_meet_are_found() {
    check(
        &expect![[r#"
            30ms first: "1<2<end"
            30ms second: "2<3<end"
            30ms third: "3<Cycle[3 1 2]"
        "#]],
        "3<Cycle[3",
        |rig| {
            let outside = rig.outside();
            let calls = [
                ("first", outside.entity::<Actor>(1).relay_later(10, vec![2, 4])),
                ("second", outside.entity::<Actor>(2).relay_later(20, vec![3, 5])),
                ("third", outside.entity::<Actor>(3).relay_later(30, vec![1])),
            ];
            for (name, call) in calls {
                rig.start(name, async move { brief(call.await) });
            }
            rig.pass(SECOND);
        },
    );
}

#[test]
fn interleaved_method_may_be_called_back() {
    // 1 (interleaved) calls 2, which calls 1 back: no ring, since 1 is not held.
    check(
        &expect![[r#"
            0ms back: "2<1<2<end"
        "#]],
        "0ms back: \"2<1<",
        |rig| {
            let outside = rig.outside();
            let call = outside.entity::<Actor>(5).relay_to_beside(1, vec![2, 1]);
            rig.start("back", async move { brief(call.await).replacen("5<", "2<", 1) });
            rig.pass(Duration::from_millis(10));
        },
    );
}

#[test]
fn ring_through_an_interleaved_turn_is_found() {
    // 1's interleaved turn calls 2, which is held and calls 3, which is held and calls 2.
    check(
        &expect![[r#"
            20ms first: "1<2<end"
            20ms second: "2<3<end"
            20ms third: "3<Cycle[3 2]"
        "#]],
        "3<Cycle[3",
        |rig| {
            let outside = rig.outside();
            let second = outside.entity::<Actor>(2).relay_later(10, vec![3, 4]);
            let third = outside.entity::<Actor>(3).relay_later(20, vec![2]);
            let first = outside.entity::<Actor>(1).relay_beside(vec![2, 4]);
            rig.start("first", async move { brief(first.await) });
            rig.start("second", async move { brief(second.await) });
            rig.start("third", async move { brief(third.await) });
            rig.pass(SECOND);
        },
    );
}

#[test]
fn chain_that_is_too_long_is_a_cycle() {
    // Calls to other workers carry their chain, which has a limit.
    let map = Map::default();
    for key in 1..=40 {
        let id = node::Ref::<Actor>::keyed(key).id();
        map.places.borrow_mut().insert(id, worker(1 + key % 2, 0));
    }
    let mut rig = Rig::many(HostOptions::default(), &[worker(1, 0), worker(2, 0)], &map);
    for host in &mut rig.hosts {
        host.register::<Actor>();
    }
    let call = rig.outside().entity::<Actor>(1).relay((2..=40).collect());
    rig.start("long", async move { brief(call.await) });
    rig.pass(Duration::from_millis(10));
    let trace = trace();
    assert!(trace.contains("32<Cycle") || trace.contains("33<Cycle"), "{trace}");
}
