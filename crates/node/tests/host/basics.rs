use expect_test::expect;
use node::{CallError, HostOptions};

use crate::rig::{Rig, trace};
use crate::support::Counter;

fn rig() -> Rig {
    let mut rig = Rig::new(HostOptions::default());
    rig.host().register::<Counter>();
    rig
}

#[test]
fn hand_written_entity_answers_and_counts() {
    let mut rig = rig();
    let outside = rig.outside();
    assert_eq!(rig.now_done(outside.entity::<Counter>(7).add(5)), Ok(5));
    outside.entity::<Counter>(7).bump(10).unwrap();
    assert_eq!(rig.now_done(outside.entity::<Counter>(7).add(1)), Ok(16));
    assert_eq!(rig.now_done(outside.entity::<Counter>(8).add(1)), Ok(1));
    rig.start("later", outside.entity::<Counter>(8).add_later(1, 250));
    rig.start("behind", outside.entity::<Counter>(8).add(1));
    rig.pass(std::time::Duration::from_secs(1));
    expect![[r#"
        250ms later: Ok(2)
        250ms behind: Ok(3)
    "#]]
    .assert_eq(&trace());
    outside.entity::<Counter>(8).wind(100).unwrap();
    rig.pass(std::time::Duration::from_secs(10));
    assert_eq!(rig.now_done(outside.entity::<Counter>(8).add(0)), Ok(303));
    assert!(rig.host().is_quiet());
}

#[test]
fn unknown_kind_is_not_found_at_once() {
    let mut rig = Rig::new(HostOptions::default());
    let outside = rig.outside();
    let answer = rig.now_done(outside.entity::<Counter>(7).add(5));
    assert!(matches!(answer, Err(CallError::NotFound(_))));
}

#[test]
fn sending_between_turns_wakes_the_driver_once_and_uses_the_time_of_the_clock() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    let mut rig = rig();
    let wakes = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&wakes);
    rig.host().on_wake(Arc::new(move || {
        count.fetch_add(1, Ordering::Relaxed);
    }));
    let outside = rig.outside();
    rig.settle();
    rig.hand.advance(std::time::Duration::from_secs(3_600));
    outside.entity::<Counter>(1).bump(1).unwrap();
    outside.entity::<Counter>(2).bump(1).unwrap();
    assert_eq!(wakes.load(Ordering::Relaxed), 1);
    // The deadline counts from now, not from the last turn an hour ago.
    assert_eq!(rig.now_done(outside.entity::<Counter>(1).add(1)), Ok(2));
    outside.entity::<Counter>(2).bump(1).unwrap();
    assert_eq!(wakes.load(Ordering::Relaxed), 2);
    let stats = rig.host().stats();
    assert_eq!((stats.timeouts, stats.expired_mail), (0, 0));
}
