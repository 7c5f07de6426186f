use super::{CalendarError, Fields};

struct Field {
    name: &'static str,
    low: u8,
    high: u8,
    /// English names of `low`, `low + 1`, ...
    names: &'static [&'static str],
}

const MINUTE: Field = Field { name: "minute", low: 0, high: 59, names: &[] };
const HOUR: Field = Field { name: "hour", low: 0, high: 23, names: &[] };
const DAY: Field = Field { name: "day of month", low: 1, high: 31, names: &[] };
const MONTH: Field = Field {
    name: "month",
    low: 1,
    high: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
};
const WEEKDAY: Field = Field {
    name: "day of week",
    low: 0,
    high: 7,
    names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
};

/// The longest month there is, from January on.
const MONTH_DAYS: [u32; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

/// Reads a cron line of five fields.
pub(super) fn parse(line: &str) -> Result<Fields, CalendarError> {
    let parts: Vec<&str> = line.split_ascii_whitespace().collect();
    let [minute, hour, day, month, weekday] = parts[..] else {
        return Err(CalendarError::Cron(line.to_string()));
    };
    let fields = Fields {
        second: 0,
        minutes: MINUTE.parse(minute)?,
        hours: HOUR.parse(hour)? as u32,
        days: DAY.parse(day)? as u32,
        months: MONTH.parse(month)? as u16,
        weekdays: weekdays(weekday)?,
        either_day: !day.starts_with('*') && !weekday.starts_with('*'),
        every_hour: hour == "*",
    };
    let comes = (1..=12).any(|month| {
        let days = (1u64 << (MONTH_DAYS[month - 1] + 1)) - 1;
        fields.months & (1 << month) != 0 && u64::from(fields.days) & days != 0
    });
    if comes || fields.either_day {
        Ok(fields)
    } else {
        Err(CalendarError::Never(line.to_string()))
    }
}

/// Reads the last field, in which 7 is Sunday too.
pub(super) fn weekdays(text: &str) -> Result<u8, CalendarError> {
    let days = WEEKDAY.parse(text)?;
    Ok((days & 0x7f | days >> 7) as u8)
}

impl Field {
    fn parse(&self, text: &str) -> Result<u64, CalendarError> {
        text.split(',').try_fold(0, |set, part| Ok(set | self.part(part)?))
    }

    /// `*`, `a`, `a-b`, each with an optional `/step`.
    fn part(&self, part: &str) -> Result<u64, CalendarError> {
        let wrong = || CalendarError::Field {
            field: self.name,
            part: part.to_string(),
            low: self.low,
            high: self.high,
        };
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(number(step).ok_or_else(wrong)?)),
            None => (part, None),
        };
        let (low, high) = if range == "*" {
            (self.low, self.high)
        } else if let Some((low, high)) = range.split_once('-') {
            (self.value(low).ok_or_else(wrong)?, self.value(high).ok_or_else(wrong)?)
        } else {
            let low = self.value(range).ok_or_else(wrong)?;
            (low, if step.is_some() { self.high } else { low })
        };
        // "fri-sun": Sunday as the end of a week is 7.
        let high = if high == 0 && low > 0 && self.high == 7 { 7 } else { high };
        let step = step.unwrap_or(1);
        if low > high || step == 0 {
            return Err(wrong());
        }
        Ok((low..=high).step_by(usize::from(step)).fold(0, |set, value| set | 1 << value))
    }

    fn value(&self, text: &str) -> Option<u8> {
        let lower = text.to_ascii_lowercase();
        if let Some(at) = self.names.iter().position(|name| *name == lower) {
            return Some(self.low + at as u8);
        }
        number(text).filter(|value| (self.low..=self.high).contains(value))
    }
}

fn number(text: &str) -> Option<u8> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}
