use std::fmt::Write;

use expect_test::{Expect, expect};

use super::*;

fn wall(text: &str) -> WallTime {
    let at: Timestamp = text.parse().expect("a timestamp");
    WallTime(at.as_millisecond() as u64)
}

/// The next `count` times after `start`, in UTC and locally.
fn check(calendar: &Calendar, start: &str, count: usize, expect: Expect) {
    let mut time = wall(start);
    let mut out = String::new();
    for _ in 0..count {
        time = calendar.next_after(time).expect("comes again");
        let at = Timestamp::from_millisecond(time.0 as i64).expect("in range");
        let _ = writeln!(out, "{at} {}", calendar.zone.to_datetime(at).strftime("%a %F %T"));
    }
    expect.assert_eq(&out);
}

#[test]
fn daily_reset_keeps_its_local_hour_through_daylight_saving() {
    let reset = Calendar::daily("05:00", "Europe/Berlin").expect("valid");
    check(
        &reset,
        "2026-03-28T04:00:00Z",
        3,
        expect![[r#"
        2026-03-29T03:00:00Z Sun 2026-03-29 05:00:00
        2026-03-30T03:00:00Z Mon 2026-03-30 05:00:00
        2026-03-31T03:00:00Z Tue 2026-03-31 05:00:00
    "#]],
    );
    check(
        &reset,
        "2026-10-24T02:59:59.999Z",
        3,
        expect![[r#"
        2026-10-24T03:00:00Z Sat 2026-10-24 05:00:00
        2026-10-25T04:00:00Z Sun 2026-10-25 05:00:00
        2026-10-26T04:00:00Z Mon 2026-10-26 05:00:00
    "#]],
    );
}

#[test]
fn a_skipped_time_fires_once_after_the_gap() {
    let calendar = Calendar::daily("02:30", "Europe/Berlin").expect("valid");
    check(
        &calendar,
        "2026-03-28T00:00:00Z",
        3,
        expect![[r#"
        2026-03-28T01:30:00Z Sat 2026-03-28 02:30:00
        2026-03-29T01:00:00Z Sun 2026-03-29 03:00:00
        2026-03-30T00:30:00Z Mon 2026-03-30 02:30:00
    "#]],
    );
    let twice = Calendar::cron("30,45 2 * * *", "Europe/Berlin").expect("valid");
    check(
        &twice,
        "2026-03-28T01:40:00Z",
        3,
        expect![[r#"
        2026-03-28T01:45:00Z Sat 2026-03-28 02:45:00
        2026-03-29T01:00:00Z Sun 2026-03-29 03:00:00
        2026-03-30T00:30:00Z Mon 2026-03-30 02:30:00
    "#]],
    );
    let around = Calendar::cron("30 1-3 * * *", "Europe/Berlin").expect("valid");
    check(
        &around,
        "2026-03-28T22:00:00Z",
        4,
        expect![[r#"
        2026-03-29T00:30:00Z Sun 2026-03-29 01:30:00
        2026-03-29T01:00:00Z Sun 2026-03-29 03:00:00
        2026-03-29T01:30:00Z Sun 2026-03-29 03:30:00
        2026-03-29T23:30:00Z Mon 2026-03-30 01:30:00
    "#]],
    );
}

#[test]
fn a_repeated_time_fires_at_its_first_coming() {
    let calendar = Calendar::daily("02:30", "Europe/Berlin").expect("valid");
    check(
        &calendar,
        "2026-10-24T12:00:00Z",
        2,
        expect![[r#"
        2026-10-25T00:30:00Z Sun 2026-10-25 02:30:00
        2026-10-26T01:30:00Z Mon 2026-10-26 02:30:00
    "#]],
    );
}

#[test]
fn every_hour_counts_minutes_that_pass() {
    let calendar = Calendar::cron("*/30 * * * *", "Europe/Berlin").expect("valid");
    check(
        &calendar,
        "2026-10-24T23:45:00Z",
        6,
        expect![[r#"
        2026-10-25T00:00:00Z Sun 2026-10-25 02:00:00
        2026-10-25T00:30:00Z Sun 2026-10-25 02:30:00
        2026-10-25T01:00:00Z Sun 2026-10-25 02:00:00
        2026-10-25T01:30:00Z Sun 2026-10-25 02:30:00
        2026-10-25T02:00:00Z Sun 2026-10-25 03:00:00
        2026-10-25T02:30:00Z Sun 2026-10-25 03:30:00
    "#]],
    );
    check(
        &calendar,
        "2026-03-29T00:15:00Z",
        3,
        expect![[r#"
        2026-03-29T00:30:00Z Sun 2026-03-29 01:30:00
        2026-03-29T01:00:00Z Sun 2026-03-29 03:00:00
        2026-03-29T01:30:00Z Sun 2026-03-29 03:30:00
    "#]],
    );
}

#[test]
fn midnight_may_be_skipped() {
    let calendar = Calendar::daily("00:00", "America/Sao_Paulo").expect("valid");
    check(
        &calendar,
        "2018-11-03T12:00:00Z",
        2,
        expect![[r#"
        2018-11-04T03:00:00Z Sun 2018-11-04 01:00:00
        2018-11-05T02:00:00Z Mon 2018-11-05 00:00:00
    "#]],
    );
    // Samoa left out a whole day.
    let calendar = Calendar::daily("12:00", "Pacific/Apia").expect("valid");
    check(
        &calendar,
        "2011-12-28T23:00:00Z",
        4,
        expect![[r#"
        2011-12-29T22:00:00Z Thu 2011-12-29 12:00:00
        2011-12-30T10:00:00Z Sat 2011-12-31 00:00:00
        2011-12-30T22:00:00Z Sat 2011-12-31 12:00:00
        2011-12-31T22:00:00Z Sun 2012-01-01 12:00:00
    "#]],
    );
}

#[test]
fn weekly_and_cron_lines() {
    let weekly = Calendar::weekly("mon", "05:00:30", "Asia/Shanghai").expect("valid");
    check(
        &weekly,
        "2026-01-01T00:00:00Z",
        2,
        expect![[r#"
        2026-01-04T21:00:30Z Mon 2026-01-05 05:00:30
        2026-01-11T21:00:30Z Mon 2026-01-12 05:00:30
    "#]],
    );
    let weekend = Calendar::weekly("fri-sun", "20:00", "UTC").expect("valid");
    check(
        &weekend,
        "2026-01-01T00:00:00Z",
        4,
        expect![[r#"
        2026-01-02T20:00:00Z Fri 2026-01-02 20:00:00
        2026-01-03T20:00:00Z Sat 2026-01-03 20:00:00
        2026-01-04T20:00:00Z Sun 2026-01-04 20:00:00
        2026-01-09T20:00:00Z Fri 2026-01-09 20:00:00
    "#]],
    );
    let cron = Calendar::cron("0 5 * * 1", "UTC").expect("valid");
    check(
        &cron,
        "2026-01-05T05:00:00Z",
        1,
        expect![[r#"
        2026-01-12T05:00:00Z Mon 2026-01-12 05:00:00
    "#]],
    );
    let either = Calendar::cron("0 0 13 * fri", "UTC").expect("valid");
    check(
        &either,
        "2026-01-01T00:00:00Z",
        4,
        expect![[r#"
        2026-01-02T00:00:00Z Fri 2026-01-02 00:00:00
        2026-01-09T00:00:00Z Fri 2026-01-09 00:00:00
        2026-01-13T00:00:00Z Tue 2026-01-13 00:00:00
        2026-01-16T00:00:00Z Fri 2026-01-16 00:00:00
    "#]],
    );
    let leap = Calendar::cron("15 6-8/2 29 FEB *", "UTC").expect("valid");
    check(
        &leap,
        "2096-02-29T07:00:00Z",
        3,
        expect![[r#"
        2096-02-29T08:15:00Z Wed 2096-02-29 08:15:00
        2104-02-29T06:15:00Z Fri 2104-02-29 06:15:00
        2104-02-29T08:15:00Z Fri 2104-02-29 08:15:00
    "#]],
    );
    let minutes = Calendar::cron("5/20 * 1 jan *", "UTC").expect("valid");
    check(
        &minutes,
        "2026-01-01T23:06:00Z",
        3,
        expect![[r#"
        2026-01-01T23:25:00Z Thu 2026-01-01 23:25:00
        2026-01-01T23:45:00Z Thu 2026-01-01 23:45:00
        2027-01-01T00:05:00Z Fri 2027-01-01 00:05:00
    "#]],
    );
}

#[test]
fn wrong_texts_are_refused() {
    let mut out = String::new();
    for time in ["", "5", "24:00", "05:60", "+5:00", "05:00:00:00", "5 am"] {
        let _ = writeln!(out, "{}", Calendar::daily(time, "UTC").expect_err("wrong"));
    }
    let _ = writeln!(out, "{}", Calendar::daily("05:00", "Berlin").expect_err("wrong"));
    for line in ["* * * *", "60 * * * *", "* 5-3 * * *", "*/0 * * * *", "* * 0 * *", "1, * * * *"] {
        let _ = writeln!(out, "{}", Calendar::cron(line, "UTC").expect_err("wrong"));
    }
    for line in ["* * * foo *", "* * * * 8", "0 0 31 2,4 *", "a-b-c * * * *", "-1 * * * *"] {
        let _ = writeln!(out, "{}", Calendar::cron(line, "UTC").expect_err("wrong"));
    }
    expect![[r#"
        "" is no time of day: write hours and minutes, such as "05:00" or "23:59:30"
        "5" is no time of day: write hours and minutes, such as "05:00" or "23:59:30"
        "24:00" is no time of day: write hours and minutes, such as "05:00" or "23:59:30"
        "05:60" is no time of day: write hours and minutes, such as "05:00" or "23:59:30"
        "+5:00" is no time of day: write hours and minutes, such as "05:00" or "23:59:30"
        "05:00:00:00" is no time of day: write hours and minutes, such as "05:00" or "23:59:30"
        "5 am" is no time of day: write hours and minutes, such as "05:00" or "23:59:30"
        "Berlin" is no time zone: use an IANA name such as "Asia/Shanghai" or "UTC"
        "* * * *" is no cron line: write minute, hour, day of month, month and day of week
        "60" is no minute of a cron line: 0 to 59, lists a,b, ranges a-b, steps */n
        "5-3" is no hour of a cron line: 0 to 23, lists a,b, ranges a-b, steps */n
        "*/0" is no minute of a cron line: 0 to 59, lists a,b, ranges a-b, steps */n
        "0" is no day of month of a cron line: 1 to 31, lists a,b, ranges a-b, steps */n
        "" is no minute of a cron line: 0 to 59, lists a,b, ranges a-b, steps */n
        "foo" is no month of a cron line: 1 to 12, lists a,b, ranges a-b, steps */n
        "8" is no day of week of a cron line: 0 to 7, lists a,b, ranges a-b, steps */n
        "0 0 31 2,4 *" never comes: no such day in any of these months
        "a-b-c" is no minute of a cron line: 0 to 59, lists a,b, ranges a-b, steps */n
        "-1" is no minute of a cron line: 0 to 59, lists a,b, ranges a-b, steps */n
    "#]]
    .assert_eq(&out);
}

#[test]
fn what_was_missed_while_down_is_known() {
    let reset = Calendar::daily("05:00", "UTC").expect("valid");
    assert!(reset.missed(wall("2026-01-01T06:00:00Z"), wall("2026-01-02T05:00:00Z")));
    assert!(!reset.missed(wall("2026-01-01T05:00:00Z"), wall("2026-01-02T04:59:59Z")));
}

#[test]
fn agrees_with_a_look_at_every_minute() {
    let mut random = crate::Random::from_seed(11);
    let zones = ["Europe/Berlin", "Europe/London", "Asia/Jerusalem", "Asia/Kolkata"];
    for round in 0..24 {
        let zone = *random.pick(&zones).expect("some");
        let line = match round % 3 {
            0 => format!("{} {} * * *", random.below(60), random.below(24)),
            1 => format!("*/{} * * * {}", 1 + random.below(59), random.below(8)),
            _ => format!("{} 1-3 {} * *", random.below(60), 1 + random.below(28)),
        };
        let calendar = Calendar::cron(&line, zone).expect("valid");
        let spring = round % 2 == 0;
        let mut minute = wall(if spring { "2026-03-25T00:00:00Z" } else { "2026-10-21T00:00:00Z" });
        let mut seen = Vec::new();
        let end = WallTime(minute.0 + 6 * 86_400_000);
        let mut next = minute;
        while let Some(time) = calendar.next_after(next).filter(|time| *time <= end) {
            assert!(time > next);
            seen.push(time);
            next = time;
        }
        // Outside the hours of a change, exactly the minutes whose fields match are seen.
        while minute < end {
            minute.0 += 60_000;
            let at = Timestamp::from_millisecond(minute.0 as i64).expect("in range");
            let near = |hours| {
                let there = at.checked_add(SignedDuration::from_hours(hours)).expect("in range");
                calendar.zone.to_offset(there)
            };
            if near(-3) != near(3) {
                continue;
            }
            let local = calendar.zone.to_datetime(at);
            let holds = calendar.fields.holds_date(local.date())
                && calendar.fields.hours & (1 << local.hour()) != 0
                && calendar.fields.minutes & (1 << local.minute()) != 0;
            assert_eq!(holds, seen.binary_search(&minute).is_ok(), "{line} {zone} {local}");
        }
    }
}
