use std::time::Duration;

use expect_test::{Expect, expect};
use macros::{rpc, service};
use node::HostOptions;
use node::rt::Cx;

use crate::actor::{Actor, brief};
use crate::rig::{Rig, trace};

fn rig(options: HostOptions) -> Rig {
    let mut rig = Rig::new(options);
    rig.host().register::<Actor>();
    rig
}

/// Runs a script on a host in both modes: typed, and with every call encoded.
fn check(expected: &Expect, script: impl Fn(&mut Rig)) {
    for encode_all in [false, true] {
        let mut rig = rig(HostOptions { encode_all, ..HostOptions::default() });
        script(&mut rig);
        expected.assert_eq(&trace());
        assert!(rig.host().is_quiet(), "{:?}", rig.host().stats());
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn replies_errors_and_callers_are_typed() {
    check(&expect![""], |rig| {
        let outside = rig.outside();
        assert_eq!(rig.now_done(outside.entity::<Actor>(1).add(10)), Ok(10));
        assert_eq!(rig.now_done(outside.entity::<Actor>(2).buy(1, 4)), Ok("left 6".into()));
        assert_eq!(rig.now_done(outside.entity::<Actor>(2).buy(1, 9)), Ok("poor by 3".into()));
        assert_eq!(rig.now_done(outside.entity::<Actor>(1).who()), Ok("Outside".into()));
    });
}

/// Errors of the old engine were strings in a pair that callers forgot to look at.
#[test]
fn x12_errors_are_values_that_cannot_be_overlooked() {
    check(&expect![""], |rig| {
        let outside = rig.outside();
        // The method's own error and the call's are told apart by type, and a failed handler says
        // nothing of its insides to its caller.
        let own = rig.now_done(outside.entity::<Actor>(1).take(5));
        assert!(matches!(own, Err(node::Failure::App(crate::actor::Poor::Missing { coins: 5 }))));
        let inside = rig.now_done(outside.entity::<Actor>(1).crash("secret of the server".into()));
        let error = inside.unwrap_err();
        assert!(matches!(error, node::CallError::Failed(_)));
        assert!(!format!("{error} {error:?}").contains("secret"));
    });
}

/// Calls without a time-out leaked, and operations that failed never completed.
#[test]
fn x18_every_call_resolves_by_its_deadline_and_leaves_nothing() {
    check(
        &expect![[r#"
            1 begins 60000
            1 ends 60000 cancelled
            4002ms default: "Timeout(1 4.002049024s)"
        "#]],
        |rig| {
            let outside = rig.outside();
            let call = outside.entity::<Actor>(1).slow(60_000);
            rig.start("default", async move { brief(call.await) });
            rig.pass(Duration::from_millis(5_000));
            let stats = rig.host().stats();
            assert_eq!((stats.timeouts, stats.kinds[0].calls, stats.turns), (1, 0, 0));
        },
    );
}

#[test]
fn deadline_of_a_call_holds_to_a_few_milliseconds() {
    let mut rig = rig(HostOptions::default());
    let outside = rig.outside();
    for limit in [1, 10, 50, 333] {
        let call = outside.entity::<Actor>(limit).slow(10_000);
        let call = call.deadline(Duration::from_millis(limit));
        rig.start(&limit.to_string(), async move {
            matches!(call.await, Err(node::CallError::Timeout { .. }))
        });
    }
    let mut late = 0;
    for _ in 0..400 {
        rig.pass(Duration::from_millis(1));
    }
    for line in trace().lines().filter(|line| line.contains("true")) {
        let (at, rest) = line.split_once("ms ").unwrap();
        let limit = rest.split_once(':').unwrap().0.parse::<u64>().unwrap();
        let at = at.parse::<u64>().unwrap();
        assert!((limit..=limit + 5).contains(&at), "{line}");
        late += 1;
    }
    assert_eq!(late, 4);
}

#[test]
fn deadline_travels_with_nested_calls() {
    // The inner call would wait for 10 s, but its caller is only waited for for 50 ms.
    check(
        &expect![[r#"
            3 begins 60000
            1 got Timeout(2 51.014656ms)
            2 got Timeout(3 51.014656ms)
            3 ends 60000 cancelled
            51ms top: Ok("Timeout(2 51.014656ms)")
        "#]],
        |rig| {
            let outside = rig.outside();
            rig.start("top", outside.entity::<Actor>(1).call_call_slow((2, 3), 60_000, 50));
            rig.pass(SECOND);
        },
    );
}

#[test]
fn dropping_a_call_fails_the_awaits_of_the_work_below_but_drops_no_turn() {
    check(
        &expect![[r#"
            2 begins 60000
            1 got Cancelled(2)
            2 ends 60000 cancelled
        "#]],
        |rig| {
            let outside = rig.outside();
            {
                let call = outside.entity::<Actor>(1).call_slow(2, 60_000, 10_000);
                let mut call = Box::pin(call);
                let waker = std::task::Waker::noop();
                let mut context = std::task::Context::from_waker(waker);
                assert!(call.as_mut().poll(&mut context).is_pending());
                rig.settle();
                // Here the caller loses interest.
            }
            rig.settle();
            let stats = rig.host().stats();
            // Both answers came when nobody waited any more.
            assert_eq!((stats.turns, stats.late_replies), (0, 2));
        },
    );
}

#[test]
fn late_replies_are_dropped_and_counted() {
    let mut rig = rig(HostOptions::default());
    let outside = rig.outside();
    // The first holds the entity longer than the second is willing to wait, but is itself waited
    // for; so the second is dropped unseen.
    rig.start("long", outside.entity::<Actor>(1).slow(200));
    let call = outside.entity::<Actor>(1).add(1).deadline(Duration::from_millis(100));
    rig.start("short", async move { brief(call.await) });
    rig.pass(SECOND);
    expect![[r#"
        1 begins 200
        101ms short: "Timeout(1 101.346304ms)"
        1 ends 200
        200ms long: Ok(1)
    "#]]
    .assert_eq(&trace());
    let stats = rig.host().stats();
    assert_eq!((stats.expired_mail, stats.late_replies), (1, 1));
    assert_eq!(rig.now_done(outside.entity::<Actor>(1).add(0)), Ok(1));
}

#[test]
fn full_mailbox_is_busy_at_once() {
    let mut rig = rig(HostOptions { mailbox_max: 3, ..HostOptions::default() });
    let outside = rig.outside();
    rig.start("holds", outside.entity::<Actor>(1).slow(100));
    rig.settle();
    for n in 0..3 {
        outside.entity::<Actor>(1).note(n.to_string()).unwrap();
    }
    assert_eq!(brief(outside.entity::<Actor>(1).note("no".into()).map(|()| "taken")), "Busy(1)");
    let call = outside.entity::<Actor>(1).add(1);
    assert_eq!(rig.now_done(async move { brief(call.await) }), "Busy(1)");
    rig.pass(SECOND);
    assert_eq!(rig.now_done(outside.entity::<Actor>(1).add(1)), Ok(2));
    assert_eq!(rig.host().stats().busy, 2);
}

#[test]
fn calls_in_flight_are_bounded_per_entity() {
    let mut rig = rig(HostOptions { entity_calls_max: 3, ..HostOptions::default() });
    let outside = rig.outside();
    let result = rig.now_done(outside.entity::<Actor>(9).call_many(vec![1, 2, 3, 4, 5]));
    assert_eq!(result, Ok("1 2 3 Busy(4) Busy(5)".into()));
    let result = rig.now_done(outside.entity::<Actor>(9).call_many(vec![1, 2, 3]));
    assert_eq!(result, Ok("2 4 6".into()));
}

#[test]
fn calls_in_flight_are_bounded_per_worker() {
    let mut rig = rig(HostOptions { calls_max: 2, ..HostOptions::default() });
    let outside = rig.outside();
    for key in 1..=3 {
        let call = outside.entity::<Actor>(key).slow(10);
        rig.start(&key.to_string(), async move { brief(call.await) });
    }
    rig.pass(SECOND);
    let trace = trace();
    assert!(trace.contains("0ms 3: \"Busy(3)\""), "{trace}");
    assert!(trace.contains("10ms 2: \"1\""), "{trace}");
}

/// A desk that serves two at a time, whoever calls.
#[service(root = node::rt, in_flight_max = 2)]
#[derive(Default)]
struct Counter;

#[rpc(root = node::rt)]
impl Counter {
    #[invoke]
    async fn serve(&self, cx: &mut Cx<Self>, ms: u64) -> u64 {
        cx.sleep(Duration::from_millis(ms)).await;
        ms
    }
}

/// As many as a service takes unless it says otherwise.
#[service(root = node::rt)]
#[derive(Default)]
struct Hall;

#[rpc(root = node::rt)]
impl Hall {
    #[invoke]
    async fn serve(&self, cx: &mut Cx<Self>) -> u64 {
        cx.sleep(Duration::from_millis(10)).await;
        1
    }
}

#[test]
fn a15_calls_in_flight_are_bounded_per_service_over_all_its_callers() {
    let mut rig = rig(HostOptions::default());
    rig.host().register::<Counter>();
    rig.host().register::<Hall>();
    let outside = rig.outside();
    for n in 1..=3 {
        let call = outside.service::<Counter>().serve(10);
        rig.start(&n.to_string(), async move { brief(call.await) });
    }
    rig.pass(Duration::from_millis(20));
    let text = trace();
    assert!(text.starts_with("0ms 3: \"Busy(0)\""), "{text}");
    assert!(text.contains("1: \"10\"") && text.contains("2: \"10\""), "{text}");
    // Room again.
    let call = outside.service::<Counter>().serve(1);
    rig.start("later", async move { brief(call.await) });
    rig.pass(Duration::from_millis(20));
    assert!(trace().contains("later: \"1\""));
    for n in 0..900 {
        let call = outside.service::<Hall>().serve();
        rig.start(&n.to_string(), async move { brief(call.await) });
    }
    let busy = trace().matches("Busy(0)").count();
    assert_eq!(busy, 900 - 888);
    rig.pass(SECOND);
    assert!(rig.host().is_quiet());
}

/// In the old engine replies queued behind requests on one shared semaphore: when all permits
/// were taken by waiting handlers, nobody could answer them until they timed out.
#[test]
fn x10_replies_are_never_refused_however_full_everything_is() {
    let options = HostOptions { mailbox_max: 1, turns_max: 3, ..HostOptions::default() };
    let mut rig = rig(options);
    let outside = rig.outside();
    // Three handlers wait for replies: the worker's turns are all taken.
    rig.start("top", outside.entity::<Actor>(1).call_call_slow((2, 3), 20, 1_000));
    rig.settle();
    assert_eq!(rig.host().stats().turns, 3);
    // The callers' mailboxes are full as well.
    for key in [1, 2, 3] {
        outside.entity::<Actor>(key).note("full".into()).unwrap();
        assert!(outside.entity::<Actor>(key).note("no".into()).is_err());
    }
    rig.pass(SECOND);
    expect![[r#"
        3 begins 20
        3 ends 20
        2 got 1
        3 notes full
        1 got 1
        2 notes full
        1 notes full
        20ms top: Ok("1")
    "#]]
    .assert_eq(&trace());
}

/// The old engine built up the remote path in a shared field: concurrent calls mixed targets.
#[test]
fn x15_concurrent_calls_do_not_mix_their_targets() {
    check(&expect![""], |rig| {
        let outside = rig.outside();
        let others: Vec<u64> = (1..=50).collect();
        let expected: Vec<String> = others.iter().map(u64::to_string).collect();
        // Stubs are values: two of them, used alternately, each keep their target.
        let (a, b) = (outside.entity::<Actor>(101), outside.entity::<Actor>(102));
        let (first, second, third) = (a.add(1), b.add(10), a.add(100));
        assert_eq!(rig.now_done(third), Ok(100));
        assert_eq!(rig.now_done(second), Ok(10));
        assert_eq!(rig.now_done(first), Ok(101));
        let result = rig.now_done(outside.entity::<Actor>(100).call_many(others));
        assert_eq!(result, Ok(expected.join(" ")));
    });
}

#[test]
fn call_that_is_never_awaited_is_never_sent() {
    let mut rig = rig(HostOptions::default());
    let outside = rig.outside();
    drop(outside.entity::<Actor>(1).add(1));
    rig.settle();
    assert_eq!(rig.host().stats().kinds[0].entities, 0);
}

#[test]
fn many_calls_leave_no_slots_behind() {
    let mut rig = rig(HostOptions::default());
    let outside = rig.outside();
    for round in 0..1_000u64 {
        let _ = rig.now_done(outside.entity::<Actor>(round % 7).add(1));
    }
    let stats = rig.host().stats();
    assert_eq!((stats.kinds[0].calls, stats.kinds[0].mail, stats.turns), (0, 0, 0));
    assert_eq!((stats.late_replies, stats.dropped_replies), (0, 0));
}
