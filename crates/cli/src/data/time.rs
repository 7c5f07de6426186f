use anyhow::{Context, bail};

const DAY_MS: i64 = 24 * 3_600 * 1_000;

/// `2026-11-22T05:04:03Z` of milliseconds since 1970.
pub fn shown(ms: u64) -> String {
    let (days, rest) = (ms as i64 / DAY_MS, ms as i64 % DAY_MS / 1_000);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Reads what `shown` writes, or plain milliseconds.
pub fn read(text: &str) -> anyhow::Result<u64> {
    if let Ok(ms) = text.parse() {
        return Ok(ms);
    }
    let wrong = || {
        format!("`{text}` is no time: write 2026-11-22T05:04:03Z (UTC), or milliseconds since 1970")
    };
    let (date, clock) =
        text.strip_suffix('Z').and_then(|text| text.split_once('T')).with_context(wrong)?;
    let numbers = |text: &str, separator| -> Option<Vec<i64>> {
        text.split(separator).map(|part| part.parse().ok()).collect()
    };
    let (date, clock) = (numbers(date, '-'), numbers(clock, ':'));
    let (Some([year, month, day]), Some([hour, minute, second])) =
        (date.as_deref(), clock.as_deref())
    else {
        bail!(wrong());
    };
    let within = (1970..=9999).contains(year)
        && (1..=12).contains(month)
        && (1..=31).contains(day)
        && (0..24).contains(hour)
        && (0..60).contains(minute)
        && (0..60).contains(second);
    let days = days(*year, *month, *day);
    if !within || civil(days) != (*year, *month, *day) {
        bail!(wrong());
    }
    let ms = days * DAY_MS + (hour * 3_600 + minute * 60 + second) * 1_000;
    u64::try_from(ms).ok().with_context(wrong)
}

/// Year, month and day of a day since 1970 (Howard Hinnant, "chrono-compatible low-level date
/// algorithms").
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let (era, of_era) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    (year, month, of_year - (153 * shifted + 2) / 5 + 1)
}

fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_they_are_shown() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_827_696_000, "2000-02-29T12:34:56Z"),
            (1_795_323_843_000, "2026-11-22T05:04:03Z"),
        ] {
            assert_eq!((shown(ms).as_str(), read(text).unwrap()), (text, ms));
        }
        assert_eq!(read("77").unwrap(), 77);
        for bad in ["", "today", "2026-02-30T00:00:00Z", "2026-11-22", "2026-11-22T25:00:00Z"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
