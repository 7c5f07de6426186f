use std::time::Duration;

use expect_test::{Expect, expect};
use node::HostOptions;

use crate::actor::{Actor, brief};
use crate::rig::{Rig, say, trace};

/// Runs a script on a host in both modes: typed, and with every call encoded.
fn check(expected: &Expect, script: impl Fn(&mut Rig)) {
    for encode_all in [false, true] {
        let mut rig = Rig::new(HostOptions { encode_all, ..HostOptions::default() });
        rig.host().register::<Actor>();
        script(&mut rig);
        expected.assert_eq(&trace());
        assert!(rig.host().is_quiet(), "{:?}", rig.host().stats());
    }
}

const SECOND: Duration = Duration::from_secs(1);

/// The engine of 2021 let two handlers of one entity mix at every await, so that each saw the
/// other's half-done changes.
#[test]
fn x11_handlers_of_one_entity_do_not_mix_at_awaits() {
    check(
        &expect![[r#"
            1 begins 100
            1 ends 100
            1 begins 50
            100ms first: Ok(1)
            1 ends 50
            150ms second: Ok(2)
            150ms third: Ok(7)
        "#]],
        |rig| {
            let outside = rig.outside();
            rig.start("first", outside.entity::<Actor>(1).slow(100));
            rig.start("second", outside.entity::<Actor>(1).slow(50));
            rig.start("third", outside.entity::<Actor>(1).add(5));
            rig.pass(SECOND);
        },
    );
}

#[test]
fn other_entities_go_on_meanwhile() {
    check(
        &expect![[r#"
            1 begins 100
            2 begins 50
            0ms 3: Ok(5)
            2 ends 50
            50ms 2: Ok(1)
            1 ends 100
            100ms 1: Ok(1)
        "#]],
        |rig| {
            let outside = rig.outside();
            rig.start("1", outside.entity::<Actor>(1).slow(100));
            rig.start("2", outside.entity::<Actor>(2).slow(50));
            rig.start("3", outside.entity::<Actor>(3).add(5));
            rig.pass(SECOND);
        },
    );
}

#[test]
fn interleaved_turns_run_side_by_side() {
    check(
        &expect![[r#"
            1 begins 100 beside
            1 begins 50 beside
            0ms add: Ok(5)
            1 ends 50 beside
            50ms short: Ok(6)
            1 ends 100 beside
            100ms long: Ok(7)
        "#]],
        |rig| {
            let outside = rig.outside();
            rig.start("long", outside.entity::<Actor>(1).slow_beside(100));
            rig.start("short", outside.entity::<Actor>(1).slow_beside(50));
            rig.start("add", outside.entity::<Actor>(1).add(5));
            rig.pass(SECOND);
        },
    );
}

#[test]
fn exclusive_turn_has_the_entity_to_itself_beside_interleaved_ones() {
    // The interleaved turn is due after 50 ms, but runs on only when the exclusive one has ended.
    check(
        &expect![[r#"
            1 begins 50 beside
            1 begins 100
            1 ends 100
            1 ends 50 beside
            100ms beside: Ok(2)
            100ms alone: Ok(1)
        "#]],
        |rig| {
            let outside = rig.outside();
            rig.start("beside", outside.entity::<Actor>(1).slow_beside(50));
            rig.start("alone", outside.entity::<Actor>(1).slow(100));
            rig.pass(SECOND);
        },
    );
}

#[test]
fn number_of_interleaved_turns_is_bounded() {
    let mut rig = Rig::new(HostOptions { entity_turns_max: 2, ..HostOptions::default() });
    rig.host().register::<Actor>();
    let outside = rig.outside();
    for name in ["a", "b", "c"] {
        rig.start(name, outside.entity::<Actor>(1).slow_beside(100));
    }
    rig.pass(SECOND);
    expect![[r#"
        1 begins 100 beside
        1 begins 100 beside
        1 ends 100 beside
        1 ends 100 beside
        1 begins 100 beside
        100ms a: Ok(1)
        100ms b: Ok(2)
        1 ends 100 beside
        200ms c: Ok(3)
    "#]]
    .assert_eq(&trace());
}

#[test]
fn delivery_always_enqueues_and_keeps_order() {
    check(
        &expect![[r#"
            1 spread
            1 notes from outside
            1 notes from myself
            2 notes from 1
        "#]],
        |rig| {
            let outside = rig.outside();
            outside.entity::<Actor>(1).spread(2).unwrap();
            outside.entity::<Actor>(1).note("from outside".into()).unwrap();
            rig.settle();
        },
    );
}

#[test]
fn messages_of_one_sender_arrive_in_order() {
    check(&expect![""], |rig| {
        let outside = rig.outside();
        for n in 0..200 {
            outside.entity::<Actor>(1).note(n.to_string()).unwrap();
        }
        rig.settle();
        let expected: String = (0..200).map(|n| format!("1 notes {n}\n")).collect();
        assert_eq!(trace(), expected);
    });
}

#[test]
fn busy_entity_does_not_starve_its_neighbours() {
    let options = HostOptions { batch: 4, mailbox_max: 100_000, ..HostOptions::default() };
    let mut rig = Rig::new(options);
    rig.host().register::<Actor>();
    let outside = rig.outside();
    for n in 0..10 {
        outside.entity::<Actor>(1).note(n.to_string()).unwrap();
    }
    outside.entity::<Actor>(2).note("me too".into()).unwrap();
    rig.settle();
    let trace = trace();
    let at = trace.lines().position(|line| line == "2 notes me too");
    assert_eq!(at, Some(4), "{trace}");
}

#[test]
fn a_turn_of_the_worker_is_bounded() {
    let options = HostOptions { batch: 1, turn_budget: 10, ..HostOptions::default() };
    let mut rig = Rig::new(options);
    rig.host().register::<Actor>();
    let outside = rig.outside();
    for key in 0..25 {
        outside.entity::<Actor>(key).note("x".into()).unwrap();
    }
    let (now, wall) = (rig.hand.now(), rig.hand.wall());
    let mut left = Vec::new();
    for _ in 0..4 {
        let again = rig.host().turn(now, wall);
        left.push((trace().lines().count(), again.is_some()));
    }
    assert_eq!(left, [(10, true), (10, true), (5, false), (0, false)]);
}

#[test]
fn turns_of_a_worker_are_bounded() {
    let mut rig = Rig::new(HostOptions { turns_max: 2, ..HostOptions::default() });
    rig.host().register::<Actor>();
    let outside = rig.outside();
    for key in 1..=3 {
        let call = outside.entity::<Actor>(key).slow(10);
        rig.start(&key.to_string(), async move { brief(call.await) });
    }
    rig.pass(SECOND);
    say("later");
    let call = outside.entity::<Actor>(3).slow(10);
    rig.start("3", async move { brief(call.await) });
    rig.pass(SECOND);
    expect![[r#"
        1 begins 10
        2 begins 10
        0ms 3: "Busy(3)"
        1 ends 10
        2 ends 10
        10ms 1: "1"
        10ms 2: "1"
        later
        3 begins 10
        3 ends 10
        1010ms 3: "1"
    "#]]
    .assert_eq(&trace());
}
