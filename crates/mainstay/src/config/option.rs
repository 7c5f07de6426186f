use std::time::Duration;

use tables::{Data, Item, Value, show_bytes, show_duration};

use super::Options;

/// One option of a crate's `Options`: how it is called, read, shown and described.
pub(super) struct Opt<T> {
    pub name: &'static str,
    pub doc: &'static str,
    pub kind: Kind<T>,
}

type Get<T, V> = fn(&T) -> V;
type Set<T, V> = fn(&mut T, V);

pub(super) enum Kind<T> {
    Count { low: u64, high: u64, get: Get<T, u64>, set: Set<T, u64> },
    Bytes { low: u64, high: u64, get: Get<T, u64>, set: Set<T, u64> },
    Real { low: f64, high: f64, get: Get<T, f64>, set: Set<T, f64> },
    Span { low: Duration, high: Duration, get: Get<T, Duration>, set: Set<T, Duration> },
    Flag { get: Get<T, bool>, set: Set<T, bool> },
    Rate { bytes: bool, get: Get<T, (u32, u32)>, set: Set<T, (u32, u32)> },
    Choice { names: &'static [&'static str], get: Get<T, usize>, set: Set<T, usize> },
    Text { get: Get<T, String>, set: Set<T, String> },
    Daily { get: Get<T, env::Calendar>, set: Set<T, env::Calendar> },
}

/// All options of one crate, under one name of the file's `options`.
pub(super) struct Table<T: 'static> {
    pub name: &'static str,
    pub doc: &'static str,
    pub slot: fn(&Options) -> &T,
    pub slot_mut: fn(&mut Options) -> &mut T,
    pub options: &'static [Opt<T>],
}

/// A [`Table`] of whatever type.
pub(super) trait Group {
    fn name(&self) -> &'static str;
    fn doc(&self) -> &'static str;
    fn read(&self, item: &Item<'_>, options: &mut Options);
    /// Name and value of every option.
    fn show(&self, options: &Options) -> Vec<(&'static str, String)>;
    /// Name, unit with range, and meaning of every option.
    fn describe(&self) -> Vec<(&'static str, String, &'static str)>;
    /// Sets every option to the ends of its range and back; names those that do not hold them.
    #[cfg(test)]
    fn misfits(&self) -> Vec<&'static str>;
}

impl<T> Group for Table<T> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn doc(&self) -> &'static str {
        self.doc
    }

    fn read(&self, item: &Item<'_>, options: &mut Options) {
        let Some(section) = item.section() else { return };
        let slot = (self.slot_mut)(options);
        for option in self.options {
            if let Some(item) = section.item(option.name) {
                option.read(&item, slot);
            }
        }
    }

    fn show(&self, options: &Options) -> Vec<(&'static str, String)> {
        let slot = (self.slot)(options);
        self.options.iter().map(|option| (option.name, option.show(slot))).collect()
    }

    fn describe(&self) -> Vec<(&'static str, String, &'static str)> {
        self.options.iter().map(|option| (option.name, option.unit(), option.doc)).collect()
    }

    #[cfg(test)]
    fn misfits(&self) -> Vec<&'static str> {
        let mut options = Options::default();
        let slot = (self.slot_mut)(&mut options);
        let bad = self.options.iter().filter(|option| !option.fits(slot));
        bad.map(|option| option.name).collect()
    }
}

impl<T> Opt<T> {
    fn read(&self, item: &Item<'_>, slot: &mut T) -> Option<()> {
        match &self.kind {
            Kind::Count { low, high, set, .. } => set(slot, item.int(*low..=*high)?),
            Kind::Bytes { low, high, set, .. } => set(slot, item.bytes(*low..=*high)?),
            Kind::Real { low, high, set, .. } => set(slot, item.float(*low..=*high)?),
            Kind::Span { low, high, set, .. } => set(slot, item.duration(*low..=*high)?),
            Kind::Flag { set, .. } => set(slot, item.bool()?),
            Kind::Rate { bytes, set, .. } => set(slot, read_rate(item, *bytes)?),
            Kind::Choice { names, set, .. } => {
                let choices: Vec<(&str, usize)> = names.iter().copied().zip(0..).collect();
                set(slot, item.one_of(&choices)?);
            }
            Kind::Text { set, .. } => set(slot, item.text()?.to_string()),
            Kind::Daily { set, .. } => set(slot, read_daily(item)?),
        }
        Some(())
    }

    /// The value as the file would hold it.
    fn show(&self, slot: &T) -> String {
        let text =
            |text: String| Value::new(tables::Place::whole(""), Data::Text(text)).to_string();
        match &self.kind {
            Kind::Count { get, .. } => get(slot).to_string(),
            Kind::Bytes { get, .. } => text(show_bytes(get(slot))),
            Kind::Real { get, .. } => get(slot).to_string(),
            Kind::Span { get, .. } => text(show_duration(get(slot))),
            Kind::Flag { get, .. } => get(slot).to_string(),
            Kind::Rate { bytes, get, .. } => {
                let (per_second, burst) = get(slot);
                let one = |n: u32| {
                    if *bytes { text(show_bytes(n.into())) } else { n.to_string() }
                };
                format!("{{\"per_second\": {}, \"burst\": {}}}", one(per_second), one(burst))
            }
            Kind::Choice { names, get, .. } => text(names[get(slot)].to_string()),
            Kind::Text { get, .. } => text(get(slot)),
            Kind::Daily { get, .. } => {
                let shown = get(slot).to_string();
                text(shown.strip_prefix("daily ").unwrap_or(&shown).to_owned())
            }
        }
    }

    fn unit(&self) -> String {
        match &self.kind {
            Kind::Count { low, high, .. } => format!("count, {low} to {high}"),
            Kind::Bytes { low, high, .. } => {
                format!("bytes, {} to {}", show_bytes(*low), show_bytes(*high))
            }
            Kind::Real { low, high, .. } => format!("number, {low} to {high}"),
            Kind::Span { low, high, .. } => {
                format!("time, {} to {}", show_duration(*low), show_duration(*high))
            }
            Kind::Flag { .. } => "true or false".to_string(),
            Kind::Rate { bytes: false, .. } => "rate: per_second and burst".to_string(),
            Kind::Rate { bytes: true, .. } => "rate in bytes: per_second and burst".to_string(),
            Kind::Choice { names, .. } => format!("one of {}", names.join(", ")),
            Kind::Text { .. } => "text".to_string(),
            Kind::Daily { .. } => "time of day and time zone".to_string(),
        }
    }

    #[cfg(test)]
    fn fits(&self, slot: &mut T) -> bool {
        match &self.kind {
            Kind::Count { low, high, get, set } | Kind::Bytes { low, high, get, set } => {
                let default = get(slot);
                set(slot, *low);
                let holds_low = get(slot) == *low;
                set(slot, *high);
                holds_low && get(slot) == *high && (low..=high).contains(&&default)
            }
            Kind::Span { low, high, get, .. } => (*low..=*high).contains(&get(slot)),
            Kind::Real { low, high, get, .. } => (*low..=*high).contains(&get(slot)),
            Kind::Choice { names, get, set } => (0..names.len()).all(|at| {
                set(slot, at);
                get(slot) == at
            }),
            _ => true,
        }
    }
}

fn read_rate(item: &Item<'_>, bytes: bool) -> Option<(u32, u32)> {
    let section = item.section()?;
    let read = |item: Item<'_>| {
        if bytes {
            item.bytes(0..=u32::MAX.into()).map(|n| n as u32)
        } else {
            item.int(0..=u32::MAX)
        }
    };
    let per_second = section.need("per_second").and_then(read);
    let burst = section.need("burst").and_then(read);
    Some((per_second?, burst?))
}

fn read_daily(item: &Item<'_>) -> Option<env::Calendar> {
    let text = item.text()?;
    let (time, zone) = text.split_once(' ').unwrap_or((text, "UTC"));
    match env::Calendar::daily(time, zone.trim()) {
        Ok(calendar) => Some(calendar),
        Err(error) => {
            item.fail(error.to_string());
            None
        }
    }
}

/// A time of day and a time zone.
macro_rules! daily {
    ($field:ident, $doc:expr) => {
        Opt {
            name: stringify!($field),
            doc: $doc,
            kind: Kind::Daily {
                get: |options| options.$field.clone(),
                set: |options, value| options.$field = value,
            },
        }
    };
}

/// A whole number without unit.
macro_rules! count {
    ($field:ident, $low:expr, $high:expr, $doc:expr) => {
        Opt {
            name: stringify!($field),
            doc: $doc,
            kind: Kind::Count {
                low: $low,
                high: $high,
                get: |options| options.$field as u64,
                set: |options, value| options.$field = value as _,
            },
        }
    };
}

/// A number of bytes.
macro_rules! bytes {
    ($field:ident, $low:expr, $high:expr, $doc:expr) => {
        Opt {
            name: stringify!($field),
            doc: $doc,
            kind: Kind::Bytes {
                low: $low,
                high: $high,
                get: |options| options.$field as u64,
                set: |options, value| options.$field = value as _,
            },
        }
    };
}

/// A span of time; the range is in milliseconds.
macro_rules! span {
    ($field:ident, $low:expr, $high:expr, $doc:expr) => {
        Opt {
            name: stringify!($field),
            doc: $doc,
            kind: Kind::Span {
                low: Duration::from_millis($low),
                high: Duration::from_millis($high),
                get: |options| options.$field,
                set: |options, value| options.$field = value,
            },
        }
    };
}

macro_rules! real {
    ($field:ident, $low:expr, $high:expr, $doc:expr) => {
        Opt {
            name: stringify!($field),
            doc: $doc,
            kind: Kind::Real {
                low: $low,
                high: $high,
                get: |options| options.$field,
                set: |options, value| options.$field = value,
            },
        }
    };
}

macro_rules! flag {
    ($field:ident, $doc:expr) => {
        Opt {
            name: stringify!($field),
            doc: $doc,
            kind: Kind::Flag {
                get: |options| options.$field,
                set: |options, value| options.$field = value,
            },
        }
    };
}

macro_rules! text {
    ($field:ident, $doc:expr) => {
        Opt {
            name: stringify!($field),
            doc: $doc,
            kind: Kind::Text {
                get: |options| options.$field.clone(),
                set: |options, value| options.$field = value,
            },
        }
    };
}

/// A `gate::Rate`.
macro_rules! rate {
    ($field:ident, $bytes:expr, $doc:expr) => {
        Opt {
            name: stringify!($field),
            doc: $doc,
            kind: Kind::Rate {
                bytes: $bytes,
                get: |options| (options.$field.per_second, options.$field.burst),
                set: |options, (per_second, burst)| {
                    options.$field = gate::Rate::new(per_second, burst);
                },
            },
        }
    };
}

/// One of several values: each with its name in the file.
macro_rules! choice {
    ($field:ident, [$($name:literal = $value:expr),+], $doc:expr) => {
        Opt {
            name: stringify!($field),
            doc: $doc,
            kind: Kind::Choice {
                names: &[$($name),+],
                get: |options| {
                    let all = [$($value),+];
                    all.iter().position(|value| *value == options.$field).unwrap_or(0)
                },
                set: |options, at| options.$field = [$($value),+][at],
            },
        }
    };
}

pub(super) use {bytes, choice, count, daily, flag, rate, real, span, text};
