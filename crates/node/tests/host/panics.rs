use std::time::Duration;

use expect_test::expect;
use macros::{entity, rpc};
use node::rt::Cx;
use node::{HostOptions, Ref};

use crate::actor::{Actor, brief};
use crate::rig::{Rig, say, trace};

const SECOND: Duration = Duration::from_secs(1);

fn rig() -> Rig {
    let mut rig = Rig::new(HostOptions::default());
    rig.host().register::<Actor>();
    rig.host().register::<Fragile>();
    rig
}

/// Is removed when it panics.
#[entity(root = node::rt, on_panic = remove)]
#[derive(Default)]
struct Fragile {
    n: u64,
}

#[rpc(root = node::rt)]
impl Fragile {
    #[hook]
    fn created(&mut self, cx: &mut Cx<Self>) {
        say(format!("{} created", cx.key()));
    }

    #[invoke]
    fn add(&mut self, n: u64) -> u64 {
        self.n += n;
        self.n
    }

    #[invoke]
    fn crash(&mut self) -> u64 {
        panic!("as it is told");
    }
}

#[test]
fn panic_fails_one_call_and_starts_the_entity_again() {
    let mut rig = rig();
    let outside = rig.outside();
    assert_eq!(rig.now_done(outside.entity::<Actor>(2).add(2)), Ok(2));
    assert_eq!(rig.now_done(outside.entity::<Actor>(1).add(1)), Ok(1));
    let (crash, next) =
        (outside.entity::<Actor>(1).crash("x".into()), outside.entity::<Actor>(1).add(5));
    rig.start("crash", async move { brief(crash.await) });
    rig.start("next", async move { brief(next.await) });
    rig.settle();
    // What waited is handled by the new one; its state is as created.
    expect![[r#"
        0ms crash: "Failed(1)"
        0ms next: "5"
    "#]]
    .assert_eq(&trace());
    assert_eq!(rig.now_done(outside.entity::<Actor>(2).add(0)), Ok(2));
    let id = Ref::<Actor>::keyed(1).id();
    expect![[r#"
        Panicked { id: ID, method: "crash", text: "x" }
    "#]]
    .assert_eq(&rig.events().replace(&format!("{id:?}"), "ID"));
}

#[test]
fn panic_after_an_await_fails_its_call_and_rolls_back_the_turns_beside() {
    let mut rig = rig();
    let outside = rig.outside();
    let calls = [
        ("beside", outside.entity::<Actor>(1).slow_beside(300)),
        ("crash", outside.entity::<Actor>(1).crash_later(100)),
        ("behind", outside.entity::<Actor>(1).add(5)),
    ];
    for (name, call) in calls {
        rig.start(name, async move { brief(call.await) });
    }
    rig.pass(SECOND);
    expect![[r#"
        1 begins 300 beside
        100ms beside: "RolledBack(1)"
        100ms crash: "Failed(1)"
        100ms behind: "5"
    "#]]
    .assert_eq(&trace());
    assert!(rig.host().is_quiet());
}

#[test]
fn kind_may_be_removed_by_a_panic() {
    let mut rig = rig();
    let outside = rig.outside();
    assert_eq!(rig.now_done(outside.entity::<Fragile>(1).add(3)), Ok(3));
    let (crash, next) = (outside.entity::<Fragile>(1).crash(), outside.entity::<Fragile>(1).add(1));
    rig.start("crash", async move { brief(crash.await) });
    rig.start("next", async move { brief(next.await) });
    rig.settle();
    // It can be made again by a later call.
    assert_eq!(rig.now_done(outside.entity::<Fragile>(1).add(4)), Ok(4));
    expect![[r#"
        1 created
        0ms crash: "Failed(1)"
        0ms next: "Gone(1)"
        1 created
    "#]]
    .assert_eq(&trace());
}

#[test]
fn third_panic_within_a_minute_quarantines() {
    let mut rig = rig();
    let outside = rig.outside();
    let crash = |rig: &mut Rig| {
        let call = rig.outside().entity::<Actor>(1).crash("x".into());
        rig.now_done(async move { brief(call.await) })
    };
    // Two, and a third too late to count with them.
    assert_eq!([crash(&mut rig), crash(&mut rig)], ["Failed(1)", "Failed(1)"]);
    rig.pass(Duration::from_secs(61));
    assert_eq!([crash(&mut rig), crash(&mut rig)], ["Failed(1)", "Failed(1)"]);
    let add = outside.entity::<Actor>(1).add(1);
    assert_eq!(rig.now_done(add), Ok(1));
    // The third in time. What waits behind it is refused.
    let (third, behind) =
        (outside.entity::<Actor>(1).crash("x".into()), outside.entity::<Actor>(1).add(1));
    rig.start("third", async move { brief(third.await) });
    rig.start("behind", async move { brief(behind.await) });
    rig.settle();
    let add = outside.entity::<Actor>(1).add(1);
    rig.start("add", async move { brief(add.await) });
    let neighbour = outside.entity::<Actor>(2).add(1);
    rig.start("neighbour", async move { brief(neighbour.await) });
    rig.settle();
    expect![[r#"
        61000ms third: "Failed(1)"
        61000ms behind: "Unavailable(1)"
        61000ms add: "Unavailable(1)"
        61000ms neighbour: "1"
    "#]]
    .assert_eq(&trace());
    assert_eq!(rig.host().stats().kinds[0].quarantined, 1);
    assert!(rig.events().contains("Quarantined"));
    // An operator lifts it.
    assert!(rig.host().lift_quarantine(Ref::<Actor>::keyed(1).id()));
    assert!(!rig.host().lift_quarantine(Ref::<Actor>::keyed(1).id()));
    assert_eq!(rig.now_done(outside.entity::<Actor>(1).add(7)), Ok(7));
}

#[test]
fn slow_handler_is_reported_with_entity_and_method() {
    let mut rig = rig();
    rig.host().register::<Sleepy>();
    HAND.with(|hand| *hand.borrow_mut() = Some(rig.hand.clone()));
    let outside = rig.outside();
    rig.now_done(outside.entity::<Sleepy>(7).block(20)).unwrap();
    assert_eq!(rig.events(), "");
    rig.now_done(outside.entity::<Sleepy>(7).block(60)).unwrap();
    let id = Ref::<Sleepy>::keyed(7).id();
    expect![[r#"
        Slow { kind: "sleepy", method: "block", id: Some(ID), took: 60ms, shared: 1 }
    "#]]
    .assert_eq(&rig.events().replace(&format!("{id:?}"), "ID"));
    let stats = rig.host().method_stats();
    let (kind, method, stats) = &stats[0];
    assert_eq!((*kind, method.as_str(), stats.handled, stats.slow), ("sleepy", "block", 2, 1));
    assert_eq!(
        (stats.buckets[7], stats.buckets[8], stats.worst),
        (1, 1, Duration::from_millis(60))
    );
}

thread_local! {
    static HAND: std::cell::RefCell<Option<env::ManualClock>> = const { std::cell::RefCell::new(None) };
}

/// Holds its worker.
#[entity(root = node::rt)]
#[derive(Default)]
struct Sleepy;

#[rpc(root = node::rt)]
impl Sleepy {
    #[invoke]
    fn block(&mut self, ms: u64) -> bool {
        HAND.with(|hand| hand.borrow().as_ref().unwrap().advance(Duration::from_millis(ms)));
        true
    }
}
