//! The JSON of `mainstay schema`, from which SDKs in other languages are generated.

use std::fmt::Write;

use super::{Delivery, Field, Interface, Method, Presence, Schema, Shape, TypeBody, Variant};
use crate::frame::VERSION;

/// Format of the JSON; raised when a reader must change.
const FORMAT: u64 = 1;

impl Schema {
    /// The schema as indented JSON with a newline at its end. Equal schemas give equal texts.
    ///
    /// Shapes are words (`"u8"`) or objects with one key (`{"list": "u8"}`, `{"type": "Item"}`);
    /// the interface hash is a text, since it does not fit a JavaScript number.
    pub fn to_json(&self) -> String {
        let interfaces = self.interfaces.iter().map(|(name, i)| (name.clone(), interface(i)));
        let types = self.types.iter().map(|(name, body)| (name.clone(), type_body(body)));
        let documents = self.documents.iter().map(|(name, document)| {
            let body = object([
                ("version", Json::Number(document.version.into())),
                ("oldest", Json::Number(document.oldest.into())),
                ("fields", fields(&document.fields)),
            ]);
            (name.clone(), body)
        });
        let root = object([
            ("format", Json::Number(FORMAT)),
            ("protocol", Json::Number(u64::from(VERSION))),
            ("interface_hash", Json::Text(format!("{:016x}", self.interface_hash()))),
            ("interfaces", Json::Object(interfaces.collect())),
            ("types", Json::Object(types.collect())),
            ("documents", Json::Object(documents.collect())),
        ]);
        let mut text = String::new();
        root.write(&mut text, 0);
        text.push('\n');
        text
    }
}

enum Json {
    Bool(bool),
    Number(u64),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

fn object<const N: usize>(pairs: [(&str, Json); N]) -> Json {
    Json::Object(pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

fn texts(texts: &[String]) -> Json {
    Json::List(texts.iter().cloned().map(Json::Text).collect())
}

fn word(text: &str) -> Json {
    Json::Text(text.to_owned())
}

fn interface(interface: &Interface) -> Json {
    let methods = interface.methods.iter().map(|(path, m)| (path.clone(), method(m)));
    object([
        ("id", Json::Number(u64::from(interface.id.0))),
        ("form", word(interface.form.word())),
        ("aliases", texts(&interface.aliases)),
        ("methods", Json::Object(methods.collect())),
    ])
}

fn method(method: &Method) -> Json {
    let callers = method.callers.words();
    let callers = callers.split(',').filter(|caller| *caller != "nobody").map(word);
    let mut pairs = vec![
        ("id", Json::Number(u64::from(method.id.0))),
        ("pattern", word(method.pattern.word())),
        ("callers", Json::List(callers.collect())),
        ("args", fields(&method.args)),
    ];
    pairs.extend(method.reply.as_ref().map(|reply| ("reply", shape(reply))));
    pairs.extend(method.error.as_ref().map(|error| ("error", shape(error))));
    match &method.delivery {
        Delivery::Reliable => {}
        Delivery::Unreliable => pairs.push(("delivery", word("unreliable"))),
        Delivery::Latest(key) => {
            pairs.push(("delivery", word("latest")));
            pairs.extend(key.as_ref().map(|key| ("latest_key", word(key))));
        }
    }
    if method.level > 0 {
        pairs.push(("level", Json::Number(u64::from(method.level))));
    }
    if method.deadline_ms > 0 {
        pairs.push(("deadline_ms", Json::Number(u64::from(method.deadline_ms))));
    }
    pairs.extend(method.rate.as_ref().map(|rate| ("rate", word(rate))));
    if method.idempotent {
        pairs.push(("idempotent", Json::Bool(true)));
    }
    if !method.aliases.is_empty() {
        pairs.push(("aliases", texts(&method.aliases)));
    }
    owned(pairs)
}

fn owned(pairs: Vec<(&str, Json)>) -> Json {
    Json::Object(pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

fn type_body(body: &TypeBody) -> Json {
    match body {
        TypeBody::Struct(list) => object([("struct", fields(list))]),
        TypeBody::Enum { variants, fallback } => {
            let mut pairs = vec![("enum", Json::List(variants.iter().map(variant).collect()))];
            pairs.extend(fallback.map(|number| ("fallback", Json::Number(number))));
            owned(pairs)
        }
    }
}

fn variant(variant: &Variant) -> Json {
    object([
        ("number", Json::Number(variant.number)),
        ("name", word(&variant.name)),
        ("fields", fields(&variant.fields)),
    ])
}

fn fields(fields: &[Field]) -> Json {
    Json::List(fields.iter().map(field).collect())
}

fn field(field: &Field) -> Json {
    let mut pairs = vec![("name", word(&field.name)), ("shape", shape(&field.shape))];
    match field.presence {
        Presence::Required => {}
        Presence::Default => pairs.push(("default", Json::Bool(true))),
        Presence::Retired => pairs.push(("retired", Json::Bool(true))),
    }
    pairs.extend(field.range.as_ref().map(|range| ("range", word(range))));
    pairs.extend(field.len.as_ref().map(|len| ("len", word(len))));
    if field.finite {
        pairs.push(("finite", Json::Bool(true)));
    }
    owned(pairs)
}

fn shape(of: &Shape) -> Json {
    let list = |shapes: &[Shape]| Json::List(shapes.iter().map(shape).collect());
    match of {
        Shape::Option(item) => object([("option", shape(item))]),
        Shape::List(item) => object([("list", shape(item))]),
        Shape::Set(item) => object([("set", shape(item))]),
        Shape::Array(item, count) => {
            object([("array", Json::List(vec![shape(item), Json::Number(*count as u64)]))])
        }
        Shape::Map(key, value) => object([("map", Json::List(vec![shape(key), shape(value)]))]),
        Shape::Tuple(items) => object([("tuple", list(items))]),
        Shape::Reference(kind) => object([("ref", word(kind))]),
        Shape::Named(name) => object([("type", word(name))]),
        plain => word(&plain.to_string()),
    }
}

impl Json {
    /// Appends the text. What has no list or object with content inside stays on one line.
    fn write(&self, text: &mut String, depth: usize) {
        match self {
            Json::Bool(value) => {
                let _ = write!(text, "{value}");
            }
            Json::Number(value) => {
                let _ = write!(text, "{value}");
            }
            Json::Text(value) => write_text(value, text),
            Json::List(items) => {
                let flat = self.is_flat();
                write_items(text, depth, ['[', ']'], flat, items, |item, text| {
                    item.write(text, depth + 1);
                });
            }
            Json::Object(pairs) => {
                let flat = self.is_flat();
                write_items(text, depth, ['{', '}'], flat, pairs, |(key, value), text| {
                    write_text(key, text);
                    text.push_str(": ");
                    value.write(text, depth + 1);
                });
            }
        }
    }

    /// Whether it fits one line: at most one level of small lists and objects inside.
    fn is_flat(&self) -> bool {
        fn height(json: &Json) -> usize {
            match json {
                Json::List(items) => 1 + items.iter().map(height).max().unwrap_or(0),
                Json::Object(pairs) => {
                    1 + pairs.iter().map(|(_, value)| height(value)).max().unwrap_or(0)
                }
                _ => 0,
            }
        }
        height(self) <= 2 && !matches!(self, Json::Object(pairs) if pairs.len() > 4)
    }
}

fn write_items<T>(
    text: &mut String,
    depth: usize,
    [open, close]: [char; 2],
    flat: bool,
    items: &[T],
    mut write: impl FnMut(&T, &mut String),
) {
    text.push(open);
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        if !flat {
            let _ = write!(text, "\n{:width$}", "", width = 2 * (depth + 1));
        } else if index > 0 {
            text.push(' ');
        }
        write(item, text);
    }
    if !flat && !items.is_empty() {
        let _ = write!(text, "\n{:width$}", "", width = 2 * depth);
    }
    text.push(close);
}

fn write_text(value: &str, text: &mut String) {
    text.push('"');
    for c in value.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            c if (c as u32) < 0x20 => {
                let _ = write!(text, "\\u{:04x}", c as u32);
            }
            c => text.push(c),
        }
    }
    text.push('"');
}
