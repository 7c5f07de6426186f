use std::cell::RefCell;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::{
    Data, Entry, Map, Place, Problem, Value, nearest, parse_bytes, parse_duration, show_bytes,
    show_duration,
};

/// Collects what is wrong while a file is read, so that all errors are reported at once.
#[derive(Debug, Default)]
pub struct Problems {
    list: RefCell<Vec<Problem>>,
}

/// More problems of one file are not worth reading.
const PROBLEMS_MAX: usize = 100;

impl Problems {
    /// No problems yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one. Dropped silently if there are 100 already.
    pub fn add(&self, problem: Problem) {
        let mut list = self.list.borrow_mut();
        if list.len() < PROBLEMS_MAX {
            list.push(problem);
        }
    }

    /// Adds one at `place`, with the path of keys that leads there.
    pub fn add_at(&self, place: &Place, path: &str, message: impl Into<String>) {
        let (place, path) = (place.clone(), path.to_string());
        self.add(Problem { place, path, message: message.into() });
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.borrow().is_empty()
    }

    /// All of them, sorted by place.
    pub fn into_vec(self) -> Vec<Problem> {
        let mut list = self.list.into_inner();
        list.sort_by(|a, b| (&a.place, &a.path).cmp(&(&b.place, &b.path)));
        list
    }
}

/// A value on its way into a typed option. Each reading method gives `None` and notes the problem
/// if the value is not what it asks for.
#[derive(Clone, Debug)]
pub struct Item<'a> {
    value: &'a Value,
    path: String,
    problems: &'a Problems,
}

impl<'a> Item<'a> {
    /// The root of a file.
    pub fn root(value: &'a Value, problems: &'a Problems) -> Self {
        Item { value, path: String::new(), problems }
    }

    /// The value as it was written.
    pub fn value(&self) -> &'a Value {
        self.value
    }

    /// Where it was written.
    pub fn place(&self) -> &'a Place {
        &self.value.place
    }

    /// The keys that lead here, joined by dots.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Notes that something is wrong here.
    pub fn fail(&self, message: impl Into<String>) {
        self.problems.add_at(&self.value.place, &self.path, message);
    }

    /// A text.
    pub fn text(&self) -> Option<&'a str> {
        match &self.value.data {
            Data::Text(text) => Some(text),
            _ => self.wrong("a text in \"quotes\""),
        }
    }

    /// `true` or `false`.
    pub fn bool(&self) -> Option<bool> {
        match self.value.data {
            Data::Bool(value) => Some(value),
            _ => self.wrong("true or false"),
        }
    }

    /// A whole number within `range`.
    pub fn int<T>(&self, range: RangeInclusive<T>) -> Option<T>
    where
        T: TryFrom<i128> + PartialOrd + Display,
    {
        let Data::Int(value) = self.value.data else { return self.wrong("a whole number") };
        match T::try_from(value).ok().filter(|value| range.contains(value)) {
            Some(value) => Some(value),
            None => self.outside(value, range.start(), range.end()),
        }
    }

    /// A number within `range`, whole or not.
    pub fn float(&self, range: RangeInclusive<f64>) -> Option<f64> {
        let value = match self.value.data {
            Data::Int(value) => value as f64,
            Data::Float(value) => value,
            _ => return self.wrong("a number"),
        };
        if range.contains(&value) {
            return Some(value);
        }
        self.outside(value, range.start(), range.end())
    }

    /// A span of time within `range`: a text of number and unit, such as `"4s"`.
    pub fn duration(&self, range: RangeInclusive<Duration>) -> Option<Duration> {
        let expected = "a time with its unit, such as \"4s\", \"250ms\", \"5min\" or \"1h\"";
        let text = self.value.as_text().or_else(|| self.wrong(expected))?;
        let span = parse_duration(text).or_else(|| self.wrong(expected))?;
        if range.contains(&span) {
            return Some(span);
        }
        let (low, high) = (show_duration(*range.start()), show_duration(*range.end()));
        self.outside(text, &low, &high)
    }

    /// A number of bytes within `range`: a whole number, or a text such as `"64KiB"`.
    pub fn bytes(&self, range: RangeInclusive<u64>) -> Option<u64> {
        let expected = "a number of bytes, such as 512, \"64KiB\" or \"1MiB\"";
        let bytes = match &self.value.data {
            Data::Int(value) => u64::try_from(*value).ok(),
            Data::Text(text) => parse_bytes(text),
            _ => None,
        };
        let bytes = bytes.or_else(|| self.wrong(expected))?;
        if range.contains(&bytes) {
            return Some(bytes);
        }
        let (low, high) = (show_bytes(*range.start()), show_bytes(*range.end()));
        self.outside(show_bytes(bytes), &low, &high)
    }

    /// One of the texts in `choices`, as the value beside it.
    pub fn one_of<T: Clone>(&self, choices: &[(&str, T)]) -> Option<T> {
        let text = self.text()?;
        if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text) {
            return Some(value.clone());
        }
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        self.fail(format!("{text:?} is unknown{}", hint(text, &names)));
        None
    }

    /// The items of a list of at most `len_max`.
    pub fn list(&self, len_max: usize) -> Option<Vec<Item<'a>>> {
        let Data::List(items) = &self.value.data else { return self.wrong("a list in [ ]") };
        if items.len() > len_max {
            self.fail(format!("{} items where at most {len_max} may be", items.len()));
            return None;
        }
        let items = items.iter().enumerate().map(|(at, value)| Item {
            value,
            path: join(&self.path, &at.to_string()),
            problems: self.problems,
        });
        Some(items.collect())
    }

    /// The entries of an object whose names are data, such as the names of processes.
    pub fn entries(&self) -> Option<Vec<(&'a Entry, Item<'a>)>> {
        let map = self.map()?;
        let entries = map.iter().map(|entry| {
            let path = join(&self.path, &entry.name);
            (entry, Item { value: &entry.value, path, problems: self.problems })
        });
        Some(entries.collect())
    }

    /// An object with known keys.
    pub fn section(&self) -> Option<Section<'a>> {
        let map = self.map()?;
        let asked = RefCell::new(Vec::new());
        Some(Section { map, item: self.clone(), asked })
    }

    fn map(&self) -> Option<&'a Map> {
        match &self.value.data {
            Data::Map(map) => Some(map),
            _ => self.wrong("an object in { }"),
        }
    }

    fn wrong<T>(&self, expected: &str) -> Option<T> {
        let found = match &self.value.data {
            Data::Text(text) => format!("{:?}", text.chars().take(60).collect::<String>()),
            Data::List(_) | Data::Map(_) | Data::Null => self.value.kind().to_string(),
            _ => self.value.to_string(),
        };
        self.fail(format!("{found} where {expected} should be"));
        None
    }

    fn outside<T>(&self, value: impl Display, low: impl Display, high: impl Display) -> Option<T> {
        self.fail(format!("{value} is not within {low} to {high}"));
        None
    }
}

/// An object whose keys are known. When it is dropped, every key that was not asked for is noted
/// as unknown, with the nearest key that was.
#[derive(Debug)]
pub struct Section<'a> {
    map: &'a Map,
    item: Item<'a>,
    asked: RefCell<Vec<&'a str>>,
}

impl<'a> Section<'a> {
    /// The value at `name`; `None` if there is none.
    pub fn item(&self, name: &'a str) -> Option<Item<'a>> {
        self.asked.borrow_mut().push(name);
        let value = self.map.get(name)?;
        let path = join(&self.item.path, name);
        Some(Item { value, path, problems: self.item.problems })
    }

    /// The value at `name`; if there is none, that is noted as a problem.
    pub fn need(&self, name: &'a str) -> Option<Item<'a>> {
        let item = self.item(name);
        if item.is_none() {
            self.item.fail(format!("the field {name:?} is missing"));
        }
        item
    }

    /// The object itself, to note problems that concern several keys.
    pub fn this(&self) -> &Item<'a> {
        &self.item
    }

    /// The entry at `name` with the place of its key, without counting as asked for.
    pub fn entry(&self, name: &str) -> Option<&'a Entry> {
        self.map.entry(name)
    }
}

impl Drop for Section<'_> {
    fn drop(&mut self) {
        let asked = self.asked.borrow();
        for entry in self.map.iter().filter(|entry| !asked.contains(&entry.name.as_str())) {
            let path = join(&self.item.path, &entry.name);
            let message = format!("unknown key{}", hint(&entry.name, &asked));
            self.item.problems.add_at(&entry.place, &path, message);
        }
    }
}

/// Names listed in an error, when none is near.
const LISTED_MAX: usize = 12;

fn hint(wrong: &str, names: &[&str]) -> String {
    if let Some(near) = nearest(wrong, names.iter().copied()) {
        return format!("; did you mean {near:?}?");
    }
    let mut names = names.to_vec();
    names.sort_unstable();
    names.dedup();
    let more = names.len().saturating_sub(LISTED_MAX);
    names.truncate(LISTED_MAX);
    match (names.is_empty(), more) {
        (true, _) => "; nothing may stand here".to_string(),
        (false, 0) => format!("; known are {}", names.join(", ")),
        (false, more) => format!("; known are {} and {more} more", names.join(", ")),
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_string() } else { format!("{path}.{name}") }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::{Limits, parse};

    fn check(text: &str, expect: Expect) {
        let root = parse("game.json", text.as_bytes(), &Limits::default()).expect("parses");
        let problems = Problems::new();
        read(&Item::root(&root, &problems));
        let lines: Vec<String> = problems.into_vec().iter().map(Problem::to_string).collect();
        expect.assert_eq(&lines.join("\n"));
    }

    fn read(root: &Item<'_>) -> Option<()> {
        let section = root.section()?;
        section.need("name").and_then(|item| item.text());
        section.item("workers").and_then(|item| item.int(1u16..=256));
        section.item("share").and_then(|item| item.float(0.0..=1.0));
        section.item("debug").and_then(|item| item.bool());
        let (low, high) = (Duration::from_millis(1), Duration::from_secs(60));
        section.item("reply_wait").and_then(|item| item.duration(low..=high));
        section.item("frame_bytes_max").and_then(|item| item.bytes(64..=1 << 20));
        section.item("mode").and_then(|item| item.one_of(&[("fast", 1), ("safe", 2)]));
        for item in section.item("ports").and_then(|item| item.list(3)).unwrap_or_default() {
            item.int(1u16..=65_535);
        }
        for (_, item) in section.item("rooms").and_then(|item| item.entries()).unwrap_or_default() {
            let Some(room) = item.section() else { continue };
            room.need("size").and_then(|item| item.int(1u8..=10));
        }
        Some(())
    }

    #[test]
    fn right_values_are_silent() {
        check(
            r#"{"name": "x", "workers": 256, "share": 1, "debug": false, "reply_wait": "1.5s",
                "frame_bytes_max": "64KiB", "mode": "safe", "ports": [1, 65535], "rooms": {}}"#,
            expect![""],
        );
    }

    #[test]
    fn wrong_values_are_all_reported_with_place_and_range() {
        check(
            r#"{
                "workers": 0, "share": "half", "debug": 1,
                "reply_wait": 4, "frame_bytes_max": "64KB",
                "mode": "saef", "ports": [1, -5, 70000],
                "rooms": {"a": {"size": 11}, "b": [], "c": {}},
            }"#,
            expect![[r#"
                game.json:1:1: the field "name" is missing
                game.json:2:28: workers: 0 is not within 1 to 256
                game.json:2:40: share: "half" where a number should be
                game.json:2:57: debug: 1 where true or false should be
                game.json:3:31: reply_wait: 4 where a time with its unit, such as "4s", "250ms", "5min" or "1h" should be
                game.json:3:53: frame_bytes_max: "64KB" where a number of bytes, such as 512, "64KiB" or "1MiB" should be
                game.json:4:25: mode: "saef" is unknown; did you mean "safe"?
                game.json:4:46: ports.1: -5 is not within 1 to 65535
                game.json:4:50: ports.2: 70000 is not within 1 to 65535
                game.json:5:41: rooms.a.size: 11 is not within 1 to 10
                game.json:5:51: rooms.b: a list where an object in { } should be
                game.json:5:60: rooms.c: the field "size" is missing"#]],
        );
        check(
            r#"{"name": null, "workers": 1.0, "reply_wait": "2min", "ports": [1,2,3,4]}"#,
            expect![[r#"
                game.json:1:10: name: null where a text in "quotes" should be
                game.json:1:27: workers: 1.0 where a whole number should be
                game.json:1:46: reply_wait: 2min is not within 1ms to 1min
                game.json:1:63: ports: 4 items where at most 3 may be"#]],
        );
        check("[]", expect!["game.json:1:1: a list where an object in { } should be"]);
    }

    /// Typing errors in keys used to pass unnoticed, so that the option kept its default.
    #[test]
    fn unknown_keys_are_refused_with_the_nearest() {
        check(
            r#"{"name": "x", "wokers": 3, "Reply-Wait": "4s",
                "banana": 1, "rooms": {"a": {"size": 1, "sizes": 2}}}"#,
            expect![[r#"
                game.json:1:15: wokers: unknown key; did you mean "workers"?
                game.json:1:28: Reply-Wait: unknown key; did you mean "reply_wait"?
                game.json:2:17: banana: unknown key; known are debug, frame_bytes_max, mode, name, ports, reply_wait, rooms, share, workers
                game.json:2:57: rooms.a.sizes: unknown key; did you mean "size"?"#]],
        );
    }
}
