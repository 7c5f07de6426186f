use std::fmt;

/// The type of a value as peers see it.
///
/// Its text form (`Display`, [`Shape::parse`]) is used by `interface.lock` and by the JSON of
/// `mainstay schema`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Shape {
    /// Nil.
    Unit,
    Bool,
    U8,
    U16,
    U32,
    U64,
    I8,
    I16,
    I32,
    I64,
    F32,
    F64,
    Text,
    Bytes,
    KindId,
    MethodId,
    Incarnation,
    EntityId,
    AccountId,
    SessionId,
    /// Milliseconds since 1970.
    WallTime,
    /// Nil or the value.
    Option(Box<Shape>),
    List(Box<Shape>),
    /// A list without repetition.
    Set(Box<Shape>),
    /// A list of exactly so many items.
    Array(Box<Shape>, usize),
    Tuple(Vec<Shape>),
    Map(Box<Shape>, Box<Shape>),
    /// The id of an entity of the kind with this name.
    Reference(String),
    /// A struct or enum of [`Schema::types`](super::Schema::types).
    Named(String),
}

const PLAIN: &[(&str, Shape)] = &[
    ("unit", Shape::Unit),
    ("bool", Shape::Bool),
    ("u8", Shape::U8),
    ("u16", Shape::U16),
    ("u32", Shape::U32),
    ("u64", Shape::U64),
    ("i8", Shape::I8),
    ("i16", Shape::I16),
    ("i32", Shape::I32),
    ("i64", Shape::I64),
    ("f32", Shape::F32),
    ("f64", Shape::F64),
    ("text", Shape::Text),
    ("bytes", Shape::Bytes),
    ("kind", Shape::KindId),
    ("method", Shape::MethodId),
    ("incarnation", Shape::Incarnation),
    ("entity", Shape::EntityId),
    ("account", Shape::AccountId),
    ("session", Shape::SessionId),
    ("wall", Shape::WallTime),
];

/// How deep the text of a shape may be nested.
const DEPTH_MAX: usize = 32;

impl Shape {
    /// Whether `word` already means something else than a named type in the text form.
    pub(super) fn is_reserved(word: &str) -> bool {
        let made = ["option", "list", "set", "array", "tuple", "map", "ref"];
        made.contains(&word) || PLAIN.iter().any(|(plain, _)| *plain == word)
    }

    /// Reads the text form; `None` if it is none.
    pub fn parse(text: &str) -> Option<Shape> {
        let mut rest = text;
        let shape = parse(&mut rest, 0)?;
        rest.trim().is_empty().then_some(shape)
    }

    /// A name that can be part of an identifier: `list<u8>` is `list_u8`.
    pub fn flat_name(&self) -> String {
        let mut flat = String::new();
        for c in self.to_string().chars() {
            match c {
                '<' | ' ' => flat.push('_'),
                '>' | ',' => {}
                other => flat.push(other),
            }
        }
        flat
    }

    /// Calls `visit` with the names of all types that this one mentions directly.
    pub fn for_each_name(&self, visit: &mut dyn FnMut(&str)) {
        match self {
            Shape::Named(name) => visit(name),
            Shape::Option(item) | Shape::List(item) | Shape::Set(item) | Shape::Array(item, _) => {
                item.for_each_name(visit);
            }
            Shape::Map(key, value) => {
                key.for_each_name(visit);
                value.for_each_name(visit);
            }
            Shape::Tuple(items) => items.iter().for_each(|item| item.for_each_name(visit)),
            _ => {}
        }
    }

    /// Whether nil is one of its values.
    pub(super) fn holds_nil(&self) -> bool {
        matches!(self, Shape::Unit | Shape::Option(_))
    }

    /// Whether an option of something that holds nil is inside: `Some(None)` would come back
    /// as `None`.
    pub(super) fn has_double_option(&self) -> bool {
        match self {
            Shape::Option(item) => item.holds_nil() || item.has_double_option(),
            Shape::List(item) | Shape::Set(item) | Shape::Array(item, _) => {
                item.has_double_option()
            }
            Shape::Map(key, value) => key.has_double_option() || value.has_double_option(),
            Shape::Tuple(items) => items.iter().any(Shape::has_double_option),
            _ => false,
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shape::Option(item) => write!(f, "option<{item}>"),
            Shape::List(item) => write!(f, "list<{item}>"),
            Shape::Set(item) => write!(f, "set<{item}>"),
            Shape::Array(item, count) => write!(f, "array<{item}, {count}>"),
            Shape::Map(key, value) => write!(f, "map<{key}, {value}>"),
            Shape::Reference(kind) => write!(f, "ref<{kind}>"),
            Shape::Named(name) => f.write_str(name),
            Shape::Tuple(items) => {
                f.write_str("tuple<")?;
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        f.write_str(", ")?;
                    }
                    write!(f, "{item}")?;
                }
                f.write_str(">")
            }
            plain => {
                let word = PLAIN.iter().find(|(_, shape)| shape == plain);
                f.write_str(word.expect("every plain shape has a word").0)
            }
        }
    }
}

fn parse(rest: &mut &str, depth: usize) -> Option<Shape> {
    if depth > DEPTH_MAX {
        return None;
    }
    let word = take_word(rest)?;
    if let Some((_, shape)) = PLAIN.iter().find(|(plain, _)| *plain == word) {
        return Some(shape.clone());
    }
    if !Shape::is_reserved(word) {
        return Some(Shape::Named(word.to_owned()));
    }
    take(rest, '<')?;
    let inner = |rest: &mut &str| parse(rest, depth + 1).map(Box::new);
    let shape = match word {
        "option" => Shape::Option(inner(rest)?),
        "list" => Shape::List(inner(rest)?),
        "set" => Shape::Set(inner(rest)?),
        "ref" => Shape::Reference(take_word(rest)?.to_owned()),
        "array" => {
            let item = inner(rest)?;
            take(rest, ',')?;
            Shape::Array(item, take_word(rest)?.parse().ok()?)
        }
        "map" => {
            let key = inner(rest)?;
            take(rest, ',')?;
            Shape::Map(key, inner(rest)?)
        }
        _ => {
            let mut items = vec![*inner(rest)?];
            while take(rest, ',').is_some() {
                items.push(*inner(rest)?);
            }
            Shape::Tuple(items)
        }
    };
    take(rest, '>')?;
    Some(shape)
}

fn take_word<'a>(rest: &mut &'a str) -> Option<&'a str> {
    let text = rest.trim_start();
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let (word, after) = text.split_at(end);
    *rest = after;
    (!word.is_empty()).then_some(word)
}

fn take(rest: &mut &str, wanted: char) -> Option<()> {
    *rest = rest.trim_start().strip_prefix(wanted)?;
    Some(())
}
