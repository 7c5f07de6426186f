//! TypeScript of a schema: types, their encodings, stubs for entities and services, and handlers
//! for what servers call.
//!
//! The text depends on the package `mainstay` (`sdk/typescript`) for `Encoder`, `Decoder`,
//! `Fields`, `Stream` and `Group`, and on nothing else. Equal schemas give equal texts.

mod calls;
mod handlers;
mod shapes;
mod types;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use crate::schema::{Field, Form, Method, Presence, Schema, Shape, TypeBody, Variant};

/// The TypeScript module for the client part of `schema`.
pub fn typescript(schema: &Schema) -> String {
    let part = schema.client_part();
    let mut module = Module::new(&part);
    for (name, body) in &part.types {
        match body {
            TypeBody::Struct(fields) => module.put_struct(name, fields),
            TypeBody::Enum { variants, fallback } => module.put_enum(name, variants, *fallback),
        }
    }
    for (name, interface) in &part.interfaces {
        // The client part leaves deadlines out; they are the default of a request.
        let whole = &schema.interfaces[name];
        match interface.form {
            Form::Client => module.put_handlers(interface),
            Form::Entity | Form::Service => module.put_stubs(interface, whole),
        }
    }
    module.finish(schema.interface_hash())
}

/// What is written so far.
struct Module<'a> {
    schema: &'a Schema,
    body: String,
    /// Readers, writers and small functions in the order they must stand, with their names.
    helpers: Vec<String>,
    /// Names of helpers by what they are for.
    known: BTreeMap<String, String>,
    taken: BTreeSet<String>,
    imports: BTreeSet<&'static str>,
}

/// Names that a type of the game cannot have in TypeScript.
const RESERVED_TYPES: &[&str] = &[
    "Answer",
    "Array",
    "BigInt",
    "Boolean",
    "CallError",
    "CallOptions",
    "DecodeError",
    "Decoder",
    "Encoder",
    "EntityId",
    "Error",
    "Fields",
    "Group",
    "Map",
    "Number",
    "Object",
    "Promise",
    "Read",
    "Refused",
    "Set",
    "Stream",
    "String",
    "Uint8Array",
    "Write",
];

/// Words that cannot name a parameter, and the names that generated functions use themselves.
const RESERVED_WORDS: &[&str] = &[
    "arguments",
    "await",
    "body",
    "break",
    "case",
    "catch",
    "class",
    "const",
    "continue",
    "d",
    "debugger",
    "default",
    "delete",
    "do",
    "e",
    "else",
    "enum",
    "eval",
    "export",
    "extends",
    "false",
    "fields",
    "finally",
    "for",
    "function",
    "if",
    "implements",
    "import",
    "in",
    "instanceof",
    "interface",
    "let",
    "new",
    "null",
    "options",
    "package",
    "private",
    "protected",
    "public",
    "return",
    "static",
    "super",
    "switch",
    "this",
    "throw",
    "true",
    "try",
    "typeof",
    "undefined",
    "var",
    "void",
    "while",
    "with",
    "yield",
];

impl<'a> Module<'a> {
    fn new(schema: &'a Schema) -> Self {
        Module {
            schema,
            body: String::new(),
            helpers: Vec::new(),
            known: BTreeMap::new(),
            taken: BTreeSet::new(),
            imports: BTreeSet::new(),
        }
    }

    fn finish(self, hash: u64) -> String {
        let mut text =
            String::from("// Generated from the interface of the game; do not edit.\n\n");
        if !self.imports.is_empty() {
            let imports: Vec<_> = self.imports.iter().copied().collect();
            let _ = writeln!(text, "import {{ {} }} from \"mainstay\";\n", imports.join(", "));
        }
        let _ = writeln!(
            text,
            "/** Hash of the interface, for `interfaceHash` of a session. */\n\
             export const INTERFACE_HASH = {hash:#018x}n;\n"
        );
        for helper in &self.helpers {
            text.push_str(helper);
            text.push('\n');
        }
        text.push_str(&self.body);
        let end = text.trim_end().len();
        text.truncate(end);
        text.push('\n');
        text
    }

    fn import(&mut self, name: &'static str) {
        self.imports.insert(name);
    }

    fn line(&mut self, text: impl AsRef<str>) {
        self.body.push_str(text.as_ref());
        self.body.push('\n');
    }

    /// Adds a helper once; gives its name. `make` writes it after its own helpers.
    fn helper(
        &mut self,
        key: &str,
        name: &str,
        make: impl FnOnce(&mut Self, &str) -> String,
    ) -> String {
        if let Some(known) = self.known.get(key) {
            return known.clone();
        }
        let mut unique = name.to_owned();
        while !self.taken.insert(unique.clone()) {
            unique.push('_');
        }
        self.known.insert(key.to_owned(), unique.clone());
        let text = make(self, &unique);
        self.helpers.push(text);
        unique
    }
}

/// The fields that are not retired.
fn live(fields: &[Field]) -> impl Iterator<Item = &Field> {
    fields.iter().filter(|field| field.presence != Presence::Retired)
}

/// Whether any variant has fields, so that values are objects and not words.
fn holds_data(variants: &[Variant]) -> bool {
    variants.iter().any(|variant| !variant.fields.is_empty())
}

/// What is known of a field's limits, in words.
fn limits(field: &Field) -> Option<String> {
    let mut parts = Vec::new();
    if let Some(range) = &field.range {
        parts.push(format!("is in {range}"));
    }
    if let Some(len) = &field.len {
        parts.push(format!("has a length in {len}"));
    }
    if field.finite {
        parts.push("is finite".to_owned());
    }
    (!parts.is_empty()).then(|| parts.join(" and "))
}

/// `total` of `record.total`.
fn own_name(method: &Method) -> &str {
    method.path.rsplit('.').next().unwrap_or(&method.path)
}

/// Part of a helper's name for `shape`; helpers of one name get a suffix.
fn short_name(shape: &Shape) -> String {
    match shape {
        Shape::Tuple(items) => format!("Tuple{}", items.len()),
        _ => pascal(&shape.flat_name()).chars().take(40).collect(),
    }
}

/// The name of a field as a member of an object.
fn member(field: &Field) -> String {
    match field.name.chars().next() {
        Some(first) if first.is_ascii_digit() => format!("value{}", field.name),
        _ if field.name == "type" => "type_".to_owned(),
        _ => camel(&field.name),
    }
}

/// The name of an argument as a parameter.
fn parameter(field: &Field) -> String {
    let name = member(field);
    if RESERVED_WORDS.contains(&name.as_str()) { format!("{name}_") } else { name }
}

/// The name of a type.
fn type_name(name: &str) -> String {
    if RESERVED_TYPES.contains(&name) { format!("{name}_") } else { name.to_owned() }
}

/// `steps_per_second` → `stepsPerSecond`.
fn camel(name: &str) -> String {
    let wide = pascal(name);
    let mut chars = wide.chars();
    match chars.next() {
        Some(first) => {
            let camel: String = first.to_lowercase().chain(chars).collect();
            if camel == "constructor" { "constructor_".to_owned() } else { camel }
        }
        None => String::new(),
    }
}

/// `arena_client` → `ArenaClient`.
fn pascal(name: &str) -> String {
    name.split(['_', '.', '-'])
        .flat_map(|part| {
            let mut chars = part.chars();
            let first = chars.next().map(|c| c.to_uppercase().collect::<String>());
            first.into_iter().chain([chars.collect()])
        })
        .collect()
}
