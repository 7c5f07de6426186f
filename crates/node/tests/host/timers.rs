use std::time::Duration;

use expect_test::expect;
use macros::{entity, rpc};
use node::rt::{Cx, TimerId, Times};
use node::{HostOptions, Ref};

use crate::rig::{Rig, say, trace};

const SECOND: Duration = Duration::from_secs(1);

/// Sets timers and says when they call back.
#[entity(root = node::rt)]
#[derive(Default)]
struct Clockwork {
    last: Option<TimerId>,
    left: u32,
}

#[rpc(root = node::rt)]
impl Clockwork {
    /// `times` 0 is for ever.
    #[tell(server)]
    fn every(
        &mut self,
        cx: &mut Cx<Self>,
        name: String,
        first_ms: u64,
        interval_ms: u64,
        times: u32,
    ) {
        let (first, interval) =
            (Duration::from_millis(first_ms), Duration::from_millis(interval_ms));
        let times = if times == 0 { Times::Forever } else { Times::Count(times) };
        self.last = Some(cx.every(first, interval, times).key(name.clone()).ring(name));
    }

    #[tell(server)]
    fn after(&mut self, cx: &mut Cx<Self>, name: String, ms: u64) {
        self.last = Some(cx.after(Duration::from_millis(ms)).key(name.clone()).ring(name));
    }

    #[timer]
    fn ring(&mut self, cx: &mut Cx<Self>, name: String) {
        say(format!("{} {name}", cx.now().as_millis() - 2_000));
    }

    #[invoke]
    fn cancel(&mut self, cx: &mut Cx<Self>, key: String) -> u64 {
        cx.cancel(&key) as u64
    }

    #[invoke]
    fn cancel_last(&mut self, cx: &mut Cx<Self>) -> bool {
        self.last.is_some_and(|timer| cx.cancel_timer(timer))
    }

    #[invoke]
    fn has(&mut self, cx: &mut Cx<Self>, key: String) -> (bool, bool) {
        (cx.has_timer(&key), self.last.is_some_and(|timer| cx.has_timer_id(timer)))
    }

    /// Cancels itself when it was called `left` times.
    #[tell(server)]
    fn countdown(&mut self, cx: &mut Cx<Self>, left: u32, times: u32) {
        self.left = left;
        self.last = Some(cx.every(SECOND, SECOND, times).key("down").down());
    }

    #[timer]
    async fn down(&mut self, cx: &mut Cx<Self>) {
        self.left -= 1;
        say(format!("{} down {}", cx.now().as_millis() - 2_000, self.left));
        cx.sleep(Duration::from_millis(10)).await;
        if self.left == 0 {
            let timer = self.last.unwrap();
            say(format!("cancelled {} {}", cx.cancel_timer(timer), cx.cancel_timer(timer)));
            say(format!("has {} {}", cx.has_timer("down"), cx.has_timer_id(timer)));
        }
    }

    #[tell(server)]
    fn failing(&mut self, cx: &mut Cx<Self>) {
        cx.every(SECOND, SECOND, 3u32).key("fails").fail();
        cx.every(SECOND, SECOND, 3u32).key("panics").panic_now();
    }

    #[timer]
    fn fail(&mut self, cx: &mut Cx<Self>) -> Result<(), String> {
        say(format!("{} fails", cx.now().as_millis() - 2_000));
        Err("not today".into())
    }

    #[timer]
    fn panic_now(&mut self, cx: &mut Cx<Self>) {
        say(format!("{} panics", cx.now().as_millis() - 2_000));
        panic!("in a callback");
    }

    #[tell(server)]
    fn end(&mut self, cx: &mut Cx<Self>) {
        cx.destroy();
    }

    #[invoke]
    async fn hold(&mut self, cx: &mut Cx<Self>, ms: u64) -> bool {
        cx.sleep(Duration::from_millis(ms)).await;
        true
    }

    #[invoke]
    async fn patient(&mut self, cx: &mut Cx<Self>, ms: u64, limit_ms: u64) -> bool {
        let long = cx.sleep(Duration::from_millis(ms));
        cx.timeout(Duration::from_millis(limit_ms), long).await.is_ok()
    }
}

fn rig() -> Rig {
    let mut rig = Rig::new(HostOptions::default());
    rig.host().register::<Clockwork>();
    rig
}

#[test]
fn first_delay_and_interval_differ_and_repeats_end() {
    let mut rig = rig();
    let outside = rig.outside();
    outside.entity::<Clockwork>(1).every("a".into(), 500, 1_000, 3).unwrap();
    outside.entity::<Clockwork>(1).after("b".into(), 1_000).unwrap();
    rig.pass(Duration::from_secs(10));
    expect![[r#"
        500 a
        1000 b
        1500 a
        2500 a
    "#]]
    .assert_eq(&trace());
    assert_eq!(rig.host().stats().kinds[0].timers, 0);
    assert_eq!(rig.host().stats().alarms, 0);
}

#[test]
fn a_delay_of_zero_means_the_next_turn() {
    let mut rig = rig();
    rig.outside().entity::<Clockwork>(1).after("now".into(), 0).unwrap();
    rig.settle();
    expect![[r#"
        0 now
    "#]]
    .assert_eq(&trace());
}

#[test]
fn one_key_names_many_timers_and_a_handle_one() {
    let mut rig = rig();
    let outside = rig.outside();
    for _ in 0..3 {
        outside.entity::<Clockwork>(1).after("same".into(), 1_000).unwrap();
    }
    outside.entity::<Clockwork>(1).after("other".into(), 1_000).unwrap();
    // The handle is of the last one, under the key "other".
    assert_eq!(rig.now_done(outside.entity::<Clockwork>(1).has("same".into())), Ok((true, true)));
    assert_eq!(rig.now_done(outside.entity::<Clockwork>(1).cancel_last()), Ok(true));
    assert_eq!(rig.now_done(outside.entity::<Clockwork>(1).cancel_last()), Ok(false));
    assert_eq!(
        rig.now_done(outside.entity::<Clockwork>(1).has("other".into())),
        Ok((false, false))
    );
    assert_eq!(rig.now_done(outside.entity::<Clockwork>(1).cancel("same".into())), Ok(3));
    assert_eq!(rig.now_done(outside.entity::<Clockwork>(1).cancel("same".into())), Ok(0));
    rig.pass(Duration::from_secs(3));
    assert_eq!(trace(), "");
    assert_eq!(rig.host().stats().alarms, 0);
}

/// The old engine's repeats could not be cancelled from their own callback nor on their last
/// round, a failing callback ended them, and they ran on the wall's clock.
#[test]
fn x35_repeat_is_cancelled_from_its_own_callback_also_on_its_last_round() {
    let mut rig = rig();
    let outside = rig.outside();
    outside.entity::<Clockwork>(1).countdown(2, 5).unwrap();
    rig.pass(Duration::from_secs(10));
    expect![[r#"
        1000 down 1
        2000 down 0
        cancelled true false
        has false false
    "#]]
    .assert_eq(&trace());
    // On the last round there is nothing left to cancel but the callback itself.
    outside.entity::<Clockwork>(2).countdown(2, 2).unwrap();
    rig.pass(Duration::from_secs(10));
    expect![[r#"
        11000 down 1
        12000 down 0
        cancelled true false
        has false false
    "#]]
    .assert_eq(&trace());
    assert_eq!(rig.host().stats().kinds[0].timers, 0);
}

#[test]
fn x35_failing_callback_is_reported_and_its_repeats_go_on() {
    let mut rig = rig();
    rig.outside().entity::<Clockwork>(1).failing().unwrap();
    rig.pass(Duration::from_millis(2_500));
    expect![[r#"
        1000 fails
        1000 panics
        2000 fails
        2000 panics
    "#]]
    .assert_eq(&trace());
    let events = rig.events();
    let id = format!("{:?}", Ref::<Clockwork>::keyed(1).id());
    expect![[r#"
        TimerFailed { id: ID, method: "fail", text: "not today" }
        Panicked { id: ID, method: "panic_now", text: "in a callback" }
        TimerFailed { id: ID, method: "panic_now", text: "Failed" }
        TimerFailed { id: ID, method: "fail", text: "not today" }
        Panicked { id: ID, method: "panic_now", text: "in a callback" }
        TimerFailed { id: ID, method: "panic_now", text: "Failed" }
    "#]]
    .assert_eq(&events.replace(&id, "ID"));
}

#[test]
fn x35_intervals_ignore_the_wall_clock_and_do_not_drift() {
    let mut rig = rig();
    rig.outside().entity::<Clockwork>(1).every("tick".into(), 7, 333, 0).unwrap();
    rig.pass(Duration::from_secs(1));
    rig.hand.set_wall(env::WallTime(5));
    rig.pass(Duration::from_secs(332));
    let times: Vec<u64> =
        trace().lines().map(|line| line.split_once(' ').unwrap().0.parse().unwrap()).collect();
    assert_eq!(times.len(), 1_000);
    for (round, at) in (0u64..).zip(times) {
        let due = 7 + round * 333;
        // A wheel of 10 ms ticks fires within one tick, and lateness does not add up.
        assert!((due..=due + 10).contains(&at), "round {round} at {at}, due {due}");
    }
}

#[test]
fn callbacks_missed_in_a_stall_are_made_up_in_order_and_bounded() {
    let mut rig = rig();
    rig.outside().entity::<Clockwork>(1).every("tick".into(), 1_000, 1_000, 0).unwrap();
    rig.settle();
    rig.hand.advance(Duration::from_millis(3_500));
    rig.settle();
    assert_eq!(trace().lines().count(), 3);
    // An hour's stall: the last ones are made up, the phase is kept.
    rig.hand.advance(Duration::from_secs(3_600));
    rig.settle();
    let made_up = trace().lines().count();
    assert!((16..=19).contains(&made_up), "{made_up}");
    rig.pass(Duration::from_millis(1_000));
    expect![[r#"
        3604000 tick
    "#]]
    .assert_eq(&trace());
    assert_eq!(rig.host().stats().timer_overruns, 1);
}

#[test]
fn no_callback_after_destroy() {
    let mut rig = rig();
    let outside = rig.outside();
    outside.entity::<Clockwork>(1).every("tick".into(), 100, 100, 0).unwrap();
    outside.entity::<Clockwork>(1).countdown(9, 9).unwrap();
    rig.pass(Duration::from_millis(250));
    outside.entity::<Clockwork>(1).end().unwrap();
    rig.pass(Duration::from_secs(5));
    expect![[r#"
        100 tick
        200 tick
    "#]]
    .assert_eq(&trace());
    let stats = rig.host().stats();
    assert_eq!((stats.kinds[0].timers, stats.alarms, stats.kinds[0].entities), (0, 0, 0));
}

#[test]
fn callback_that_waits_in_the_mailbox_is_not_run_once_it_is_cancelled() {
    let mut rig = rig();
    let outside = rig.outside();
    outside.entity::<Clockwork>(1).after("late".into(), 100).unwrap();
    rig.settle();
    rig.start("hold", outside.entity::<Clockwork>(1).hold(200));
    rig.start("cancel", outside.entity::<Clockwork>(1).cancel("late".into()));
    rig.pass(SECOND);
    // The callback came due at 100 ms, behind the cancel.
    expect![[r#"
        200ms hold: Ok(true)
        200ms cancel: Ok(1)
    "#]]
    .assert_eq(&trace());
    assert_eq!(rig.host().stats().kinds[0].timers, 0);
}

#[test]
fn repeats_of_a_held_entity_do_not_pile_up() {
    let mut rig = rig();
    let outside = rig.outside();
    outside.entity::<Clockwork>(1).every("tick".into(), 10, 10, 0).unwrap();
    rig.settle();
    rig.start("hold", outside.entity::<Clockwork>(1).hold(3_000));
    rig.pass(Duration::from_millis(2_990));
    assert!(rig.host().stats().kinds[0].mail <= 1);
    rig.pass(Duration::from_millis(15));
    let ticks = trace().lines().filter(|line| line.contains("tick")).count();
    assert!((10..=20).contains(&ticks), "{ticks}");
}

#[test]
fn waits_can_be_bounded() {
    let mut rig = rig();
    let outside = rig.outside();
    rig.start("long", outside.entity::<Clockwork>(1).patient(100, 50));
    rig.start("short", outside.entity::<Clockwork>(2).patient(50, 100));
    rig.pass(SECOND);
    expect![[r#"
        50ms long: Ok(false)
        50ms short: Ok(true)
    "#]]
    .assert_eq(&trace());
    assert_eq!(rig.host().stats().alarms, 0);
}
