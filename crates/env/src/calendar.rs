use std::fmt;

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp};

use crate::WallTime;

mod cron;

/// When something happens by the calendar: daily, weekly, or as a cron line says, in a time zone.
///
/// Daylight saving: a time that the clocks skip fires once, at the moment after the gap; a time
/// that comes twice fires at its first coming. Only a schedule for every hour (`*` as the hour)
/// fires in both, since it counts minutes that pass.
///
/// Time zone rules are those compiled in, so every machine agrees.
#[derive(Clone, PartialEq, Eq)]
pub struct Calendar {
    zone: TimeZone,
    fields: Fields,
    text: String,
}

/// Why a text is no calendar.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CalendarError {
    /// A time of day that is none.
    #[error("{0:?} is no time of day: write hours and minutes, such as \"05:00\" or \"23:59:30\"")]
    Time(String),
    /// A time zone that is not in the IANA database.
    #[error("{0:?} is no time zone: use an IANA name such as \"Asia/Shanghai\" or \"UTC\"")]
    Zone(String),
    /// A cron line that does not have five fields.
    #[error("{0:?} is no cron line: write minute, hour, day of month, month and day of week")]
    Cron(String),
    /// A part of one field of a cron line.
    #[error(
        "{part:?} is no {field} of a cron line: {low} to {high}, lists a,b, ranges a-b, steps */n"
    )]
    Field {
        /// Which field.
        field: &'static str,
        /// The offending part.
        part: String,
        /// The smallest value of the field.
        low: u8,
        /// The greatest value of the field.
        high: u8,
    },
    /// A date that no year has, such as 31 February.
    #[error("{0:?} never comes: no such day in any of these months")]
    Never(String),
}

/// Bit sets of what a moment's local time must be in.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fields {
    second: i8,
    minutes: u64,
    hours: u32,
    days: u32,
    months: u16,
    /// Bit 0 is Sunday.
    weekdays: u8,
    /// With both a day and a weekday given, cron wants either.
    either_day: bool,
    every_hour: bool,
}

/// Leap days on one weekday are at most 40 years apart.
const YEARS_AHEAD: i16 = 41;

impl Calendar {
    /// Every day at `time` (`"05:00"` or `"05:00:30"`) in `zone` (an IANA name).
    ///
    /// # Errors
    /// [`CalendarError::Time`], [`CalendarError::Zone`].
    pub fn daily(time: &str, zone: &str) -> Result<Self, CalendarError> {
        let fields = Fields::at(parse_time(time)?);
        Ok(Calendar { zone: parse_zone(zone)?, fields, text: format!("daily {time} {zone}") })
    }

    /// Every week on `days` (`"mon"`, or several: `"sat,sun"`, `"mon-fri"`) at `time` in `zone`.
    ///
    /// # Errors
    /// As [`Calendar::daily`], and [`CalendarError::Field`] for a day that is none.
    pub fn weekly(days: &str, time: &str, zone: &str) -> Result<Self, CalendarError> {
        let mut fields = Fields::at(parse_time(time)?);
        fields.weekdays = cron::weekdays(days)?;
        let text = format!("weekly {days} {time} {zone}");
        Ok(Calendar { zone: parse_zone(zone)?, fields, text })
    }

    /// As a cron line of five fields says, in `zone`: minute, hour, day of month, month, day of
    /// week (0 and 7 are Sunday). Lists, ranges, steps and English names of months and days are
    /// understood; with both days given, either will do.
    ///
    /// # Errors
    /// [`CalendarError`] but `Time`.
    pub fn cron(line: &str, zone: &str) -> Result<Self, CalendarError> {
        let fields = cron::parse(line)?;
        Ok(Calendar { zone: parse_zone(zone)?, fields, text: format!("cron {line} {zone}") })
    }

    /// As text, from which [`from_text`](Self::from_text) makes the same again.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What [`text`](Self::text) gave.
    ///
    /// # Errors
    /// As the three functions that make calendars; [`CalendarError::Cron`] for what none of them made.
    pub fn from_text(text: &str) -> Result<Self, CalendarError> {
        let bad = || CalendarError::Cron(text.to_owned());
        let (form, rest) = text.split_once(' ').ok_or_else(bad)?;
        let (when, zone) = rest.rsplit_once(' ').ok_or_else(bad)?;
        match form {
            "daily" => Calendar::daily(when, zone),
            "weekly" => {
                let (days, time) = when.rsplit_once(' ').ok_or_else(bad)?;
                Calendar::weekly(days, time, zone)
            }
            "cron" => Calendar::cron(when, zone),
            _ => Err(bad()),
        }
    }

    /// The first time it happens after `time`, never at it. `None` only at the end of the
    /// calendar, some 8,000 years from now.
    pub fn next_after(&self, time: WallTime) -> Option<WallTime> {
        let after = Timestamp::from_millisecond(i64::try_from(time.0).ok()?).ok()?;
        let next = if self.fields.every_hour {
            self.next_by_minutes(after)
        } else {
            self.next_by_dates(after)
        };
        u64::try_from(next?.as_millisecond()).ok().map(WallTime)
    }

    /// Whether it happened in the span after `since` until `now`: what was missed while down.
    ///
    /// The owner chooses: run once on return if this holds, or wait for
    /// [`Calendar::next_after`] of `now`.
    pub fn missed(&self, since: WallTime, now: WallTime) -> bool {
        self.next_after(since).is_some_and(|next| next <= now)
    }

    fn next_by_dates(&self, after: Timestamp) -> Option<Timestamp> {
        // A gap may have carried yesterday's last time past midnight.
        let today = self.zone.to_datetime(after).date();
        let mut date = today.yesterday().ok()?;
        let last_year = today.year().saturating_add(YEARS_AHEAD);
        while date.year() <= last_year {
            if self.fields.holds_date(date) {
                for time in self.fields.times() {
                    let moment = self.resolve(date.to_datetime(time))?;
                    if moment > after {
                        return Some(moment);
                    }
                }
            }
            date = date.tomorrow().ok()?;
        }
        None
    }

    fn next_by_minutes(&self, after: Timestamp) -> Option<Timestamp> {
        let start = self.zone.to_datetime(after);
        let whole = Timestamp::from_second(after.as_second()).ok()?;
        let to_second = i64::from((self.fields.second - start.second()).rem_euclid(60));
        let mut moment = whole.checked_add(SignedDuration::from_secs(to_second)).ok()?;
        let last_year = start.year().saturating_add(YEARS_AHEAD);
        loop {
            let local = self.zone.to_datetime(moment);
            if local.year() > last_year {
                return None;
            }
            if !self.fields.holds_date(local.date()) {
                let time = Time::new(0, 0, self.fields.second, 0).ok()?;
                let morning = self.resolve(local.date().tomorrow().ok()?.to_datetime(time))?;
                moment = morning.max(moment.checked_add(SignedDuration::from_secs(60)).ok()?);
                continue;
            }
            if moment > after && self.fields.minutes & (1 << local.minute()) != 0 {
                return Some(moment);
            }
            moment = moment.checked_add(SignedDuration::from_secs(60)).ok()?;
        }
    }

    /// The moment at which clocks on the wall first show `local` or, where they skip it, anything
    /// later. So moments come in the order of their local times.
    fn resolve(&self, local: DateTime) -> Option<Timestamp> {
        let ambiguous = self.zone.to_ambiguous_timestamp(local);
        if !matches!(ambiguous.offset(), AmbiguousOffset::Gap { .. }) {
            return ambiguous.earlier().ok();
        }
        // `later` reads the skipped time as if the clocks had not moved: it is after the move.
        let inside = ambiguous.later().ok()?;
        let behind = inside.checked_add(SignedDuration::from_secs(1)).ok()?;
        let gap = self.zone.preceding(behind).next();
        Some(gap.map_or(inside, |transition| transition.timestamp()))
    }
}

impl Fields {
    fn at(time: Time) -> Self {
        Fields {
            second: time.second(),
            minutes: 1 << time.minute(),
            hours: 1 << time.hour(),
            days: u32::MAX,
            months: u16::MAX,
            weekdays: 0x7f,
            either_day: false,
            every_hour: false,
        }
    }

    fn holds_date(&self, date: Date) -> bool {
        let day = self.days & (1 << date.day()) != 0;
        let weekday = self.weekdays & (1 << date.weekday().to_sunday_zero_offset()) != 0;
        let month = self.months & (1 << date.month()) != 0;
        month && if self.either_day { day || weekday } else { day && weekday }
    }

    fn times(&self) -> impl Iterator<Item = Time> {
        let hours = (0..24i8).filter(|hour| self.hours & (1 << hour) != 0);
        hours.flat_map(move |hour| {
            let minutes = (0..60i8).filter(|minute| self.minutes & (1 << minute) != 0);
            minutes.map(move |minute| Time::constant(hour, minute, self.second, 0))
        })
    }
}

impl fmt::Display for Calendar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Calendar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Calendar({})", self.text)
    }
}

fn parse_time(text: &str) -> Result<Time, CalendarError> {
    let wrong = || CalendarError::Time(text.to_string());
    let parts: Vec<&str> = text.split(':').collect();
    if !(2..=3).contains(&parts.len()) {
        return Err(wrong());
    }
    let mut numbers = [0i8; 3];
    for (number, part) in numbers.iter_mut().zip(&parts) {
        let digits = (1..=2).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
        *number = part.parse().ok().filter(|_| digits).ok_or_else(wrong)?;
    }
    Time::new(numbers[0], numbers[1], numbers[2], 0).map_err(|_| wrong())
}

fn parse_zone(name: &str) -> Result<TimeZone, CalendarError> {
    TimeZone::get(name).map_err(|_| CalendarError::Zone(name.to_string()))
}

#[cfg(test)]
mod tests;
