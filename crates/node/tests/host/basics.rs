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
    assert!(rig.host().is_quiet());
}

#[test]
fn unknown_kind_is_not_found_at_once() {
    let mut rig = Rig::new(HostOptions::default());
    let outside = rig.outside();
    let answer = rig.now_done(outside.entity::<Counter>(7).add(5));
    assert!(matches!(answer, Err(CallError::NotFound(_))));
}
