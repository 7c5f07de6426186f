use std::collections::BTreeMap;
use std::fmt::{self, Write};

use crate::Place;

/// A value of a file, and where it was written. Equality looks at the data alone.
#[derive(Clone, Debug)]
pub struct Value {
    /// Where it was written; for the value of a macro, where the macro was used.
    pub place: Place,
    /// What it is.
    pub data: Data,
}

/// What a [`Value`] is.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number without fraction and exponent.
    Int(i128),
    /// A number with fraction or exponent; always finite.
    Float(f64),
    /// A text with its macros replaced.
    Text(String),
    /// An array.
    List(Vec<Value>),
    /// An object.
    Map(Map),
}

/// An object: entries in the order of the file, each name once.
#[derive(Clone, Debug, Default)]
pub struct Map {
    entries: Vec<Entry>,
    index: BTreeMap<String, usize>,
}

/// One entry of a [`Map`].
#[derive(Clone, Debug)]
pub struct Entry {
    /// The key.
    pub name: String,
    /// Where the key was written.
    pub place: Place,
    /// Its value.
    pub value: Value,
}

/// A value without parts, or an empty list or object, with its path from the root.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// Names and indices, joined by dots.
    pub path: String,
    /// The value.
    pub value: Value,
}

impl Value {
    /// `data`, written at `place`.
    pub fn new(place: Place, data: Data) -> Self {
        Value { place, data }
    }

    /// What kind of value it is, for messages: "a text", "a number".
    pub fn kind(&self) -> &'static str {
        match self.data {
            Data::Null => "null",
            Data::Bool(_) => "a boolean",
            Data::Int(_) => "a whole number",
            Data::Float(_) => "a number",
            Data::Text(_) => "a text",
            Data::List(_) => "a list",
            Data::Map(_) => "an object",
        }
    }

    /// The object it is, or `None`.
    pub fn as_map(&self) -> Option<&Map> {
        if let Data::Map(map) = &self.data { Some(map) } else { None }
    }

    /// The text it is, or `None`.
    pub fn as_text(&self) -> Option<&str> {
        if let Data::Text(text) = &self.data { Some(text) } else { None }
    }

    /// The entry of an object at `name`, or `None`.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.as_map()?.get(name)
    }

    /// The value at a dotted path of object keys, or `None`.
    pub fn at_path(&self, path: &str) -> Option<&Value> {
        path.split('.').try_fold(self, |value, name| value.get(name))
    }

    /// Lays `over` on top: objects are joined key by key, anything else is replaced.
    pub fn overlay(&mut self, over: Value) {
        match (&mut self.data, over.data) {
            (Data::Map(below), Data::Map(above)) => {
                for entry in above.entries {
                    match below.index.get(&entry.name) {
                        Some(&at) => below.entries[at].value.overlay(entry.value),
                        None => _ = below.insert(entry.name, entry.place, entry.value),
                    }
                }
            }
            (_, data) => *self = Value { place: over.place, data },
        }
    }

    /// Wraps this value into an object for each name of a dotted path, so that it can be laid
    /// over a file.
    pub fn under(self, path: &str) -> Value {
        path.rsplit('.').fold(self, |value, name| {
            let place = value.place.clone();
            let mut map = Map::default();
            map.insert(name.to_string(), place.clone(), value);
            Value { place, data: Data::Map(map) }
        })
    }

    /// All values without parts, in the order of the file.
    pub fn leaves(&self) -> Vec<Leaf> {
        let mut leaves = Vec::new();
        self.collect_leaves("", &mut leaves);
        leaves
    }

    fn collect_leaves(&self, path: &str, leaves: &mut Vec<Leaf>) {
        let below = |name: &str| {
            if path.is_empty() { name.to_string() } else { format!("{path}.{name}") }
        };
        match &self.data {
            Data::Map(map) if !map.is_empty() => {
                map.iter().for_each(|e| e.value.collect_leaves(&below(&e.name), leaves));
            }
            Data::List(items) if !items.is_empty() => {
                for (at, item) in items.iter().enumerate() {
                    item.collect_leaves(&below(&at.to_string()), leaves);
                }
            }
            _ => leaves.push(Leaf { path: path.to_string(), value: self.clone() }),
        }
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        self.data == other.data
    }
}

impl fmt::Display for Value {
    /// As JSON on one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.data {
            Data::Null => f.write_str("null"),
            Data::Bool(value) => write!(f, "{value}"),
            Data::Int(value) => write!(f, "{value}"),
            // The debug form keeps the ".0" that tells a float from a whole number.
            Data::Float(value) => write!(f, "{value:?}"),
            Data::Text(text) => write_text(f, text),
            Data::List(items) => {
                f.write_char('[')?;
                for (at, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if at == 0 { "" } else { ", " })?;
                }
                f.write_char(']')
            }
            Data::Map(map) => {
                f.write_char('{')?;
                for (at, entry) in map.iter().enumerate() {
                    f.write_str(if at == 0 { "" } else { ", " })?;
                    write_text(f, &entry.name)?;
                    write!(f, ": {}", entry.value)?;
                }
                f.write_char('}')
            }
        }
    }
}

/// Writes a text so that [`crate::parse`] reads it back, dollars included.
fn write_text(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_char('"')?;
    for char in text.chars() {
        match char {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            '$' => f.write_str("$$")?,
            char if char < ' ' => write!(f, "\\u{:04x}", u32::from(char))?,
            char => f.write_char(char)?,
        }
    }
    f.write_char('"')
}

impl Map {
    /// How many entries it has.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The value at `name`, or `None`.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.entry(name).map(|entry| &entry.value)
    }

    /// The entry at `name`, or `None`.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.index.get(name).map(|&at| &self.entries[at])
    }

    /// The entries in the order of the file.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Entry> {
        self.entries.iter()
    }

    /// The entries in the order of the file, to change them in place. Names must stay.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.entries.iter_mut()
    }

    /// Adds an entry at the end. `false`, and nothing happens, if the name is taken.
    pub fn insert(&mut self, name: String, place: Place, value: Value) -> bool {
        if self.index.contains_key(&name) {
            return false;
        }
        self.index.insert(name.clone(), self.entries.len());
        self.entries.push(Entry { name, place, value });
        true
    }

    /// Takes an entry out, keeping the order of the others.
    pub fn remove(&mut self, name: &str) -> Option<Entry> {
        let at = self.index.remove(name)?;
        self.index.values_mut().filter(|other| **other > at).for_each(|other| *other -= 1);
        Some(self.entries.remove(at))
    }
}

impl PartialEq for Map {
    /// Order does not matter.
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len()
            && self.iter().all(|entry| other.get(&entry.name) == Some(&entry.value))
    }
}
