//! Timers by the calendar, and the day of the game.

use std::time::Duration;

use env::{Calendar, WallTime};
use expect_test::expect;
use macros::{component, entity, rpc};
use node::rt::{Component, Cx};
use node::{HostOptions, Missed, Ref};
use proto::frame::CloseCode;

use crate::rig::{Rig, say, trace};

/// Saturday, 28 March 2026, 12:00 UTC. In Berlin the clocks go from 02:00 to 03:00 that night.
const NOON: u64 = 1_774_699_200_000;
const HOUR: u64 = 3_600_000;
const DAY: Duration = Duration::from_secs(24 * 3_600);

/// The wall as hours after [`NOON`].
fn hours(wall: WallTime) -> f64 {
    (wall.0 as i64 - NOON as i64) as f64 / HOUR as f64
}

#[entity(root = node::rt)]
#[derive(Default)]
struct Shop {
    stand: Component<Stand>,
}

#[rpc(root = node::rt)]
impl Shop {
    #[invoke]
    fn open_daily(&mut self, cx: &mut Cx<Self>, since: Option<u64>) -> bool {
        let calendar = Calendar::daily("05:00", "Europe/Berlin").unwrap();
        let missed = match since {
            Some(since) => Missed::RunOnce { since: WallTime(since) },
            None => Missed::Skip,
        };
        cx.on(&calendar, missed).key("daily").restock("daily".into());
        cx.has_timer("daily")
    }

    #[invoke]
    fn open_weekly(&mut self, cx: &mut Cx<Self>) -> bool {
        let weekly = Calendar::weekly("mon", "00:30", "UTC").unwrap();
        cx.on(&weekly, Missed::Skip).restock("weekly".into());
        let cron = Calendar::cron("0 */6 * * *", "UTC").unwrap();
        cx.on(&cron, Missed::Skip).restock("cron".into());
        true
    }

    #[invoke]
    fn close(&mut self, cx: &mut Cx<Self>) -> u64 {
        cx.cancel("daily") as u64
    }

    #[tell(server)]
    fn touch(&mut self) {}

    #[timer]
    fn restock(&mut self, cx: &mut Cx<Self>, why: String) {
        say(format!("{why} at {}h", hours(cx.wall())));
    }

    #[hook]
    fn daily(&mut self, cx: &mut Cx<Self>) {
        say(format!("shop {} daily at {}h", cx.key(), hours(cx.wall())));
    }
}

#[component(root = node::rt, of = Shop)]
#[derive(Default)]
struct Stand;

#[rpc(root = node::rt)]
impl Stand {
    #[hook]
    fn daily(&mut self, cx: &mut Cx<Shop>) {
        say(format!("stand of {} daily", cx.key()));
    }
}

fn rig(daily: &str) -> Rig {
    let daily = Calendar::daily(daily, "Asia/Shanghai").unwrap();
    let mut rig = Rig::new(HostOptions { daily, ..HostOptions::default() });
    rig.hand.set_wall(WallTime(NOON));
    rig.host().register::<Shop>();
    rig.settle();
    rig
}

fn shop(rig: &mut Rig, since: Option<u64>) {
    let outside = rig.outside();
    assert_eq!(rig.now_done(outside.entity::<Shop>(1).open_daily(since)), Ok(true));
}

/// Daily resets of the old games slid by an hour with every change of the clocks, and whoever
/// changed the server's time lost a day or had it twice.
#[test]
fn m4_calendar_timers_keep_their_local_hour_through_daylight_saving() {
    // The game's own day is far away from these times.
    let mut rig = rig("01:23:45");
    shop(&mut rig, None);
    rig.pass(DAY * 2);
    let text: String = trace().lines().filter(|line| line.starts_with("daily")).collect();
    // 05:00 in summer time is 03:00 UTC: 15 hours after noon, and then every 24.
    assert_eq!(text, "daily at 15hdaily at 39h");
    let outside = rig.outside();
    assert_eq!(rig.now_done(outside.entity::<Shop>(1).close()), Ok(1));
    rig.pass(DAY * 2);
    assert!(!trace().contains("daily at 63h"));
    rig.host().destroy(Ref::<Shop>::keyed(1).id(), CloseCode::Goodbye);
    assert_eq!(rig.host().stats().alarms, 0);
}

#[test]
fn m4_weekly_and_cron_timers_fire() {
    let mut rig = rig("01:23:45");
    let outside = rig.outside();
    assert_eq!(rig.now_done(outside.entity::<Shop>(1).open_weekly()), Ok(true));
    rig.pass(DAY * 2);
    let text: Vec<String> =
        trace().lines().filter(|line| !line.contains("daily")).map(str::to_owned).collect();
    assert_eq!(
        text.join(", "),
        "cron at 6h, cron at 12h, cron at 18h, cron at 24h, cron at 30h, cron at 36h, \
         weekly at 36.5h, cron at 42h, cron at 48h"
    );
}

#[test]
fn m4_what_was_missed_while_down_runs_once_or_is_skipped() {
    // Away since before two times: one callback, then as usual.
    let mut rig = rig("01:23:45");
    shop(&mut rig, Some(NOON - 40 * HOUR));
    rig.pass(Duration::from_secs(16 * 3_600));
    let daily = |text: String| -> Vec<String> {
        text.lines().filter(|line| line.starts_with("daily")).map(str::to_owned).collect()
    };
    assert_eq!(daily(trace()), ["daily at 0h", "daily at 15h"]);
    // Nothing was missed.
    let mut rig = self::rig("01:23:45");
    shop(&mut rig, Some(NOON - HOUR));
    rig.pass(Duration::from_secs(16 * 3_600));
    assert_eq!(daily(trace()), ["daily at 15h"]);
}

#[test]
fn m4_a_clock_that_is_set_moves_calendar_timers_and_repeats_none() {
    let mut rig = rig("01:23:45");
    shop(&mut rig, None);
    // An hour forward: the timer comes an hour of waiting earlier.
    rig.hand.set_wall(WallTime(NOON + HOUR));
    rig.pass(Duration::from_secs(14 * 3_600));
    let text = trace();
    assert!(text.ends_with("daily at 15h\n"), "{text}");
    // Back over the time that has just been: it does not come again.
    rig.hand.set_wall(WallTime(NOON + 14 * HOUR));
    rig.pass(Duration::from_secs(12 * 3_600));
    let text = trace();
    assert!(!text.contains("daily at 15h"), "{text}");
    rig.pass(Duration::from_secs(13 * 3_600));
    let text = trace();
    assert!(text.ends_with("daily at 39h\n"), "{text}");
    // A clock that had run years ahead and comes home starts afresh.
    rig.hand.set_wall(WallTime(NOON + 1_000 * 24 * HOUR));
    rig.pass(Duration::from_secs(120));
    trace();
    rig.hand.set_wall(WallTime(NOON + 60 * HOUR));
    rig.pass(Duration::from_secs(4 * 3_600));
    let text = trace();
    assert!(text.contains("daily at 63h"), "{text}");
}

/// `daily` was accepted as a hook and nothing ever fired it.
#[test]
fn m4_the_daily_hook_runs_for_every_entity_and_its_components() {
    let mut rig = rig("05:00");
    let outside = rig.outside();
    for key in [1, 2] {
        assert_eq!(rig.now_done(outside.entity::<Shop>(key).close()), Ok(0));
    }
    // 05:00 in Shanghai is 21:00 UTC.
    rig.pass(Duration::from_secs(8 * 3_600));
    assert_eq!(trace(), "");
    rig.pass(Duration::from_secs(40 * 3_600));
    expect![[r#"
        stand of 1 daily
        shop 1 daily at 9h
        stand of 2 daily
        shop 2 daily at 9h
        stand of 1 daily
        shop 1 daily at 33h
        stand of 2 daily
        shop 2 daily at 33h
    "#]]
    .assert_eq(&trace());
}

#[test]
fn m4_a_new_day_of_many_entities_is_spread_over_turns() {
    let mut rig = rig("05:00");
    let outside = rig.outside();
    for key in 1..=10_000 {
        outside.entity::<Shop>(key).touch().unwrap();
    }
    rig.settle();
    trace();
    rig.hand.set_wall(WallTime(NOON + 9 * HOUR));
    let (now, wall) = (rig.hand.now(), rig.hand.wall());
    rig.host().turn(now, wall);
    let one = trace().lines().count();
    assert!((1..=2 * 4_096).contains(&one), "{one}");
    rig.settle();
    assert_eq!(one + trace().lines().count(), 20_000);
}
