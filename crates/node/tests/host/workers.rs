use std::time::Duration;

use expect_test::{Expect, expect};
use node::{HostOptions, Place, Ref};
use proto::Incarnation;
use proto::frame::Status;
use proto::link::{Call, Slot, WorkerId};

use crate::actor::{Actor, brief};
use crate::rig::{Map, Rig, say, trace, worker};

const SECOND: Duration = Duration::from_secs(1);

/// Two hosts: actors with an even key live on the second, which is `second`.
fn rig(options: HostOptions, second: WorkerId) -> Rig {
    let map = Map::default();
    for key in (0..100).step_by(2) {
        map.places.borrow_mut().insert(Ref::<Actor>::keyed(key).id(), second);
    }
    let mut rig = Rig::many(options, &[worker(1, 0), second], &map);
    for host in &mut rig.hosts {
        host.register::<Actor>();
    }
    rig
}

/// Runs a script over two workers of one node, and over two nodes.
fn check(expected: &Expect, script: impl Fn(&mut Rig)) {
    for second in [worker(1, 1), worker(2, 3)] {
        let mut rig = rig(HostOptions::default(), second);
        script(&mut rig);
        expected.assert_eq(&trace());
        for host in &rig.hosts {
            assert!(host.is_quiet(), "{:?}", host.stats());
        }
    }
}

#[test]
fn calls_tells_and_errors_cross_workers_and_nodes() {
    check(
        &expect![[r#"
            2 spread
            2 notes from myself
            3 notes from 2
        "#]],
        |rig| {
            let outside = rig.outside();
            assert_eq!(rig.now_done(outside.entity::<Actor>(2).add(10)), Ok(10));
            assert_eq!(rig.now_done(outside.entity::<Actor>(1).buy(2, 4)), Ok("left 6".into()));
            assert_eq!(rig.now_done(outside.entity::<Actor>(1).buy(2, 9)), Ok("poor by 3".into()));
            assert_eq!(
                rig.now_done(outside.entity::<Actor>(1).relay(vec![2, 3, 4])),
                Ok("1<2<3<end".into())
            );
            outside.entity::<Actor>(2).spread(3).unwrap();
            rig.settle();
            let crash = outside.entity::<Actor>(4).crash("x".into());
            assert_eq!(rig.now_done(async move { brief(crash.await) }), "Failed(4)");
        },
    );
}

#[test]
fn caller_is_known_across_workers_and_nodes() {
    check(&expect![""], |rig| {
        let outside = rig.outside();
        assert_eq!(rig.now_done(outside.entity::<Actor>(2).who()), Ok("Outside".into()));
    });
}

#[test]
fn deadline_and_cancellation_cross_workers_and_nodes() {
    for second in [worker(1, 1), worker(2, 3)] {
        let mut rig = rig(HostOptions::default(), second);
        let outside = rig.outside();
        let call = outside.entity::<Actor>(1).call_call_slow((2, 3), 60_000, 50);
        rig.start("top", async move { brief(call.await).contains("Timeout(2") });
        rig.pass(SECOND);
        let trace = trace();
        assert!(trace.contains("3 begins 60000"), "{trace}");
        assert!(trace.contains("3 ends 60000 cancelled"), "{trace}");
        assert!(
            trace.contains("2 got Timeout(3") || trace.contains("2 got Cancelled(3"),
            "{trace}"
        );
        assert!(trace.contains("51ms top: true"), "{trace}");
        for host in &rig.hosts {
            assert!(host.is_quiet(), "{:?}", host.stats());
        }
    }
}

#[test]
fn messages_between_two_entities_arrive_in_order() {
    for second in [worker(1, 1), worker(2, 3)] {
        let mut rig = rig(HostOptions::default(), second);
        let outside = rig.outside();
        for n in 0..100 {
            outside.entity::<Actor>(2).note(n.to_string()).unwrap();
        }
        rig.settle();
        let expected: String = (0..100).map(|n| format!("2 notes {n}\n")).collect();
        assert_eq!(trace(), expected);
    }
}

#[test]
fn queue_between_workers_is_bounded_and_replies_pass_all_the_same() {
    let options = HostOptions { worker_queue_max: 3, ..HostOptions::default() };
    let mut rig = rig(options, worker(1, 1));
    let outside = rig.outside();
    let tells: Vec<bool> =
        (0..5).map(|n| outside.entity::<Actor>(2).note(n.to_string()).is_ok()).collect();
    assert_eq!(tells, [true, true, true, false, false]);
    let call = outside.entity::<Actor>(2).add(1);
    rig.start("full", async move { brief(call.await) });
    rig.settle();
    // Room again, once the batch has arrived.
    assert_eq!(rig.now_done(outside.entity::<Actor>(2).add(1)), Ok(1));
    // The way back is as full as can be: answers pass.
    rig.start("slow", outside.entity::<Actor>(2).slow(10));
    rig.settle();
    let back = rig.hosts[1].outside();
    for n in 0..3 {
        back.entity::<Actor>(1).note(n.to_string()).unwrap();
    }
    assert!(back.entity::<Actor>(1).note("no".into()).is_err());
    rig.pass(SECOND);
    let trace = trace();
    assert!(trace.contains("0ms full: \"Busy(2)\""), "{trace}");
    assert!(trace.contains("10ms slow: Ok(2)"), "{trace}");
}

/// Requests had a limit and replies another one: what was over it was dropped without a word, or
/// broke the link for everybody.
#[test]
fn a17_requests_and_replies_have_one_limit_and_typed_errors() {
    let limit = HostOptions { message_bytes_max: 1_000, ..HostOptions::default() };
    let cases =
        [(limit.clone(), worker(2, 3)), (HostOptions { encode_all: true, ..limit }, worker(1, 1))];
    for (options, second) in cases {
        let mut rig = rig(options, second);
        let outside = rig.outside();
        let mut ask = |len: usize, times: u64| {
            let call = outside.entity::<Actor>(2).echo("x".repeat(len), times);
            rig.now_done(async move { brief(call.await.map(|text| text.len())) })
        };
        // Three bytes for the length of a text, two more for the list of arguments.
        assert_eq!(ask(995, 1), "995");
        assert_eq!(
            ask(996, 1),
            "BadArgument(a message of 1001 bytes is over the limit of 1000 (message_bytes_max))"
        );
        assert_eq!(ask(1, 997), "997");
        assert_eq!(ask(1, 998), "Failed(2)");
        assert_eq!(ask(1, 100_000), "Failed(2)");
        // Whatever came before, the way is as it was.
        assert_eq!(ask(10, 10), "100");
        let text = "y".repeat(2_000);
        let told = outside.entity::<Actor>(2).note(text).map(|()| "told");
        assert!(brief(told).starts_with("BadArgument(a message of"), "a tell");
        let too_long: u64 = rig.hosts.iter().map(|host| host.stats().too_long).sum();
        assert_eq!(too_long, 4);
        assert!(rig.hosts.iter().all(node::Host::is_quiet));
    }
}

#[test]
fn full_link_to_a_node_is_busy() {
    let mut rig = rig(HostOptions::default(), worker(2, 0));
    let outside = rig.outside();
    rig.refuse = true;
    let call = outside.entity::<Actor>(2).add(1);
    rig.start("refused", async move { brief(call.await) });
    rig.settle();
    rig.refuse = false;
    assert_eq!(rig.now_done(outside.entity::<Actor>(2).add(1)), Ok(1));
    assert!(trace().contains("0ms refused: \"Busy(2)\""));
}

#[test]
fn dead_node_fails_calls_and_cancels_what_it_waited_for() {
    let mut rig = rig(HostOptions::default(), worker(2, 0));
    let outside = rig.outside();
    rig.start("slow", {
        let call = outside.entity::<Actor>(2).slow(60_000);
        async move { brief(call.await).starts_with("Timeout(2") }
    });
    let far = rig.hosts[1].outside();
    rig.start("theirs", {
        let call = far.entity::<Actor>(1).slow(60_000);
        async move { brief(call.await) }
    });
    rig.settle();
    rig.cut = Some(Incarnation(2));
    rig.hosts[0].handle_node_down(Incarnation(2));
    rig.pass(Duration::from_millis(10));
    let trace = trace();
    // Whether the call ran is not known; the turn that nobody waits for any more comes to its end.
    assert!(trace.contains("0ms slow: true"), "{trace}");
    assert!(trace.contains("1 ends 60000 cancelled"), "{trace}");
    assert!(rig.hosts[0].is_quiet(), "{:?}", rig.hosts[0].stats());
}

#[test]
fn lost_answer_is_a_timeout_and_nothing_leaks() {
    let mut rig = rig(HostOptions::default(), worker(2, 0));
    let outside = rig.outside();
    rig.start("lost", {
        let call = outside.entity::<Actor>(2).slow(100);
        async move { brief(call.await).starts_with("Timeout(2") }
    });
    rig.pass(Duration::from_millis(50));
    rig.cut = Some(Incarnation(2));
    rig.pass(Duration::from_secs(5));
    assert!(trace().contains("ms lost: true"));
    for host in &rig.hosts {
        assert!(host.is_quiet(), "{:?}", host.stats());
    }
}

/// Of a kind that is offered here a list of nodes without anybody who offers it is wrong for a moment.
#[test]
fn places_that_cannot_be_reached_fail_at_once() {
    let map = Map::default();
    let places = [(1, Place::Gone), (2, Place::Unknown), (3, Place::Away)];
    for (key, place) in places {
        map.fixed.borrow_mut().insert(Ref::<Actor>::keyed(key).id(), place);
    }
    let mut rig = Rig::many(HostOptions::default(), &[worker(1, 0)], &map);
    rig.host().register::<Actor>();
    let outside = rig.outside();
    for (key, _) in places {
        let call = outside.entity::<Actor>(key).add(1);
        rig.start(&key.to_string(), async move { brief(call.await) });
    }
    expect![[r#"
        0ms 1: "Gone(1)"
        0ms 2: "Unavailable(2)"
        0ms 3: "Unavailable(3)"
    "#]]
    .assert_eq(&trace());
}

#[test]
fn call_to_a_node_without_the_kind_is_not_found() {
    let second = worker(2, 0);
    let map = Map::default();
    map.places.borrow_mut().insert(Ref::<Actor>::keyed(2).id(), second);
    let mut rig = Rig::many(HostOptions::default(), &[worker(1, 0), second], &map);
    rig.hosts[0].register::<Actor>();
    let call = rig.outside().entity::<Actor>(2).add(1);
    assert_eq!(rig.now_done(async move { brief(call.await) }), "NotFound(2)");
}

#[test]
fn hostile_frames_are_answered_or_dropped() {
    let mut rig = rig(HostOptions::default(), worker(2, 0));
    let now = rig.now();
    let from = worker(2, 0);
    let target = Ref::<Actor>::keyed(1).id();
    let method = |name: &str| proto::MethodId::of_path(name);
    let slot = |index| Some(Slot { index, generation: 0 });
    let call = |call, name: &str, body: &'static [u8]| Call {
        call,
        from,
        target,
        method: method(name),
        remaining_ms: 1_000,
        sender: None,
        chain: Vec::new(),
        body,
    };
    let host = rig.host();
    host.handle_call(now, from, &call(slot(1), "nothing", &[]));
    host.handle_call(now, from, &call(slot(2), "add", &[0xc1]));
    host.handle_call(now, from, &call(slot(3), "note", &[0x91, 0xa0]));
    host.handle_call(now, from, &call(None, "add", &[0x91, 1]));
    host.handle_call(now, from, &call(slot(4), "add", &[0x91, 1]));
    // Answers, cancellations and probes for what does not exist.
    for index in [0, 7, u32::MAX] {
        let slot = Slot { index, generation: 9 };
        host.handle_answer(slot, Status::Ok, &[0xc1]);
        host.handle_cancel(from, slot);
        host.handle_probe(from, worker(1, 0), slot, target, u64::MAX);
        host.handle_probe(from, from, slot, target, 0);
        host.handle_ring(slot);
    }
    let wall = rig.hand.wall();
    rig.host().turn(now, wall);
    rig.host().drain_frames(|to, _, payload| {
        assert_eq!(to, from);
        let (_, frame) = proto::link::LinkFrame::decode(payload).unwrap();
        say(format!("{frame:?}"));
        true
    });
    expect![[r#"
        Answer { call: Slot { index: 1, generation: 0 }, status: UnknownMethod, body: [] }
        Answer { call: Slot { index: 2, generation: 0 }, status: BadArgument, body: [] }
        Answer { call: Slot { index: 3, generation: 0 }, status: Denied, body: [] }
        Answer { call: Slot { index: 4, generation: 0 }, status: Ok, body: [1] }
    "#]]
    .assert_eq(&trace());
}
