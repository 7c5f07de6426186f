//! Rust of a schema: types, stubs over `client::Client`, and enums of what servers tell and ask.
//!
//! For programs that cannot depend on the game's own crate. The text uses `client`, `proto` and
//! `macros`, whatever stands for them where it is included. Equal schemas give equal texts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use crate::schema::{
    Delivery, Field, Form, Interface, Method, Pattern, Presence, Schema, Shape, TypeBody, Variant,
};

/// The Rust module for the client part of `schema`.
pub fn rust(schema: &Schema) -> String {
    let part = schema.client_part();
    let mut module = Module { schema: &part, ordered: ordered(&part), text: String::new() };
    module.line("// Generated from the interface of the game; do not edit.");
    module.line("#![allow(dead_code, missing_docs, non_camel_case_types, clippy::all)]\n");
    module.line("/// Hash of the interface, for the handshake.");
    let hash = schema.interface_hash();
    module.line(format!("pub const INTERFACE_HASH: u64 = {hash:#018x};\n"));
    for (name, body) in &part.types {
        match body {
            TypeBody::Struct(fields) => module.put_struct(name, fields),
            TypeBody::Enum { variants, fallback } => module.put_enum(name, variants, *fallback),
        }
    }
    for (name, interface) in &part.interfaces {
        match interface.form {
            Form::Client => module.put_client(interface),
            // The client part leaves deadlines out.
            Form::Entity | Form::Service => {
                module.put_stubs(interface, &schema.interfaces[name]);
            }
        }
    }
    let end = module.text.trim_end().len();
    module.text.truncate(end);
    module.text.push('\n');
    module.text
}

struct Module<'a> {
    schema: &'a Schema,
    /// Types that are keys of maps or items of sets.
    ordered: BTreeSet<String>,
    text: String,
}

impl Module<'_> {
    fn line(&mut self, text: impl AsRef<str>) {
        self.text.push_str(text.as_ref());
        self.text.push('\n');
    }

    /// The Rust type of `shape` inside the type `owner`; what leads back to it is boxed.
    fn type_of(&self, shape: &Shape, owner: Option<&str>) -> String {
        let inner = |shape: &Shape| self.type_of(shape, owner);
        // A list or map has a size of its own, whatever it holds.
        let outer = |shape: &Shape| self.type_of(shape, None);
        match shape {
            Shape::Unit => "()".into(),
            Shape::Text => "String".into(),
            Shape::Bytes => "proto::Bytes".into(),
            Shape::KindId => "proto::KindId".into(),
            Shape::MethodId => "proto::MethodId".into(),
            Shape::Incarnation => "proto::Incarnation".into(),
            Shape::EntityId | Shape::Reference(_) => "proto::EntityId".into(),
            Shape::AccountId => "proto::AccountId".into(),
            Shape::SessionId => "proto::SessionId".into(),
            // Milliseconds since 1970.
            Shape::WallTime => "u64".into(),
            Shape::Option(item) => format!("Option<{}>", inner(item)),
            Shape::List(item) => format!("Vec<{}>", outer(item)),
            Shape::Set(item) => format!("std::collections::BTreeSet<{}>", outer(item)),
            Shape::Array(item, count) => format!("[{}; {count}]", inner(item)),
            Shape::Map(key, value) => {
                format!("std::collections::BTreeMap<{}, {}>", outer(key), outer(value))
            }
            Shape::Tuple(items) => tuple(items.iter().map(inner)),
            Shape::Named(name) => match owner {
                Some(owner) if self.leads_to(name, owner) => format!("Box<{name}>"),
                _ => name.clone(),
            },
            // Bool, integers and floats are called in Rust as in the schema.
            plain => plain.to_string(),
        }
    }

    /// Whether a value of type `from` may directly hold one of type `to`.
    fn leads_to(&self, from: &str, to: &str) -> bool {
        let mut seen = BTreeSet::new();
        let mut open = vec![from.to_owned()];
        while let Some(name) = open.pop() {
            if name == to {
                return true;
            }
            if seen.insert(name.clone())
                && let Some(body) = self.schema.types.get(&name)
            {
                body.for_each_field(&mut |field| directly(&field.shape, &mut open));
            }
        }
        false
    }

    fn derives(&self, name: &str) -> &'static str {
        if self.ordered.contains(name) {
            "#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, macros::Message)]"
        } else {
            "#[derive(Clone, Debug, PartialEq, macros::Message)]"
        }
    }

    fn put_struct(&mut self, name: &str, fields: &[Field]) {
        self.line(self.derives(name));
        self.line("#[message(root = proto)]");
        if fields.is_empty() {
            self.line(format!("pub struct {name} {{}}\n"));
            return;
        }
        let fields = self.fields(name, fields, "pub ", "    ");
        let end = if fields.starts_with('(') { ";\n" } else { "\n" };
        self.line(format!("pub struct {name}{fields}{end}"));
    }

    /// `{ a: u8, .. }` or `(u8, ..)` with the attributes that say how the fields travel.
    fn fields(&self, owner: &str, fields: &[Field], vis: &str, indent: &str) -> String {
        let numbered = fields[0].name.starts_with(|c: char| c.is_ascii_digit());
        let mut text = if numbered { "(\n".to_owned() } else { " {\n".to_owned() };
        let back = &indent[4..];
        for field in fields {
            let mut options = Vec::new();
            match field.presence {
                Presence::Required => {}
                Presence::Retired => options.push("retired".to_owned()),
                Presence::Default => {
                    options.push(format!("default = {}", self.default_of(&field.shape, owner)));
                }
            }
            options.extend(field.range.as_ref().map(|range| format!("range = {range:?}")));
            options.extend(field.len.as_ref().map(|len| format!("len = {len:?}")));
            options.extend(field.finite.then(|| "finite".to_owned()));
            if !options.is_empty() {
                let _ = writeln!(text, "{indent}#[message({})]", options.join(", "));
            }
            let ty = self.type_of(&field.shape, Some(owner));
            let _ = match numbered {
                true => writeln!(text, "{indent}{vis}{ty},"),
                false => writeln!(text, "{indent}{vis}{}: {ty},", ident(&field.name)),
            };
        }
        text.push_str(back);
        text.push(if numbered { ')' } else { '}' });
        text
    }

    /// An expression for what a missing value is.
    fn default_of(&self, shape: &Shape, owner: &str) -> String {
        match shape {
            Shape::Named(name) => {
                let value = match self.schema.types.get(name) {
                    Some(TypeBody::Struct(fields)) => self.default_of_fields(name, name, fields),
                    Some(TypeBody::Enum { variants, .. }) if !variants.is_empty() => {
                        let first = &variants[0];
                        let path = format!("{name}::{}", first.name);
                        self.default_of_fields(name, &path, &first.fields)
                    }
                    _ => "Default::default()".to_owned(),
                };
                if self.leads_to(name, owner) { format!("Box::new({value})") } else { value }
            }
            Shape::Tuple(items) if holds_named(shape) => {
                tuple(items.iter().map(|item| self.default_of(item, owner)))
            }
            Shape::Array(item, _) if holds_named(shape) => {
                format!("std::array::from_fn(|_| {})", self.default_of(item, owner))
            }
            _ => "Default::default()".to_owned(),
        }
    }

    fn default_of_fields(&self, owner: &str, path: &str, fields: &[Field]) -> String {
        let numbered =
            fields.first().is_some_and(|f| f.name.starts_with(|c: char| c.is_ascii_digit()));
        let values: Vec<_> = fields
            .iter()
            .map(|field| {
                let value = self.default_of(&field.shape, owner);
                if numbered { value } else { format!("{}: {value}", ident(&field.name)) }
            })
            .collect();
        match (numbered, fields.is_empty()) {
            (true, _) => format!("{path}({})", values.join(", ")),
            (false, true) if path.contains("::") => path.to_owned(),
            (false, _) => format!("{path} {{ {} }}", values.join(", ")),
        }
    }

    fn put_enum(&mut self, name: &str, variants: &[Variant], fallback: Option<u64>) {
        self.line(self.derives(name));
        self.line("#[message(root = proto)]");
        self.line(format!("pub enum {name} {{"));
        for variant in variants {
            let is_fallback = if fallback == Some(variant.number) { ", fallback" } else { "" };
            self.line(format!("    #[message(id = {}{is_fallback})]", variant.number));
            let fields = match variant.fields.is_empty() {
                true => String::new(),
                false => self.fields(name, &variant.fields, "", "        "),
            };
            self.line(format!("    {}{fields},", variant.name));
        }
        self.line("}\n");
    }

    // -- entities and services --

    fn put_stubs(&mut self, interface: &Interface, whole: &Interface) {
        let mut components: BTreeMap<&str, Vec<&Method>> = BTreeMap::new();
        let mut own = Vec::new();
        for method in interface.methods.values() {
            match method.path.split_once('.') {
                Some((field, _)) => components.entry(field).or_default().push(method),
                None => own.push(method),
            }
        }
        let what = if interface.form == Form::Service { "service" } else { "entity" };
        let name = pascal(&interface.name);
        for (field, methods) in &components {
            let docs = format!("The component `{field}` of the {what} `{}`.", interface.name);
            let stub = format!("{name}{}Stub", pascal(field));
            self.put_stub(&stub, &docs, methods, &[], whole);
        }
        let docs = format!("Calls the {what} `{}` behind a stream.", interface.name);
        let fields: Vec<_> = components.keys().copied().collect();
        self.put_stub(&format!("{name}Stub"), &docs, &own, &fields, whole);
    }

    fn put_stub(
        &mut self,
        stub: &str,
        docs: &str,
        methods: &[&Method],
        components: &[&str],
        whole: &Interface,
    ) {
        self.line(format!("/// {docs}"));
        self.line("#[derive(Clone, Copy)]");
        self.line(format!("pub struct {stub}<'c> {{"));
        self.line("    client: &'c client::Client,\n    stream: &'c str,\n}\n");
        self.line(format!("impl<'c> {stub}<'c> {{"));
        self.line("    /// Calls over the stream called `stream`.");
        self.line("    pub fn new(client: &'c client::Client, stream: &'c str) -> Self {");
        self.line("        Self { client, stream }\n    }");
        for field in components {
            let component = format!("{}{}Stub", stub.trim_end_matches("Stub"), pascal(field));
            self.line(format!("\n    /// The methods of the component `{field}`."));
            self.line(format!("    pub fn {}(self) -> {component}<'c> {{", ident(field)));
            self.line(format!("        {component}::new(self.client, self.stream)\n    }}"));
        }
        for method in methods {
            self.put_call(method, whole.methods[&method.path].deadline_ms);
        }
        self.line("}\n");
    }

    fn put_call(&mut self, method: &Method, deadline_ms: u32) {
        let name = method.path.rsplit('.').next().unwrap_or(&method.path);
        let mut docs = format!("`{}`.", method.path);
        if let Some(error) = &method.error {
            let error = self.type_of(error, None);
            let _ = write!(docs, " Its own error is a `{error}`: `error.app()`.");
        }
        self.line(format!("\n    /// {docs}"));
        let parameters: String = live(&method.args)
            .map(|arg| format!(", {}: {}", argument(arg), self.type_of(&arg.shape, None)))
            .collect();
        let request = method.pattern == Pattern::Request;
        let reply = match (&method.reply, request) {
            (Some(reply), true) => self.type_of(reply, None),
            _ if !request && method.delivery == Delivery::Reliable => "client::TellId".to_owned(),
            _ => "()".to_owned(),
        };
        self.line(format!(
            "    pub async fn {}(&self{parameters}) -> Result<{reply}, client::CallError> {{",
            ident(name)
        ));
        self.line("        let mut body = Vec::new();");
        self.line(format!("        proto::codec::put_array(&mut body, {});", method.args.len()));
        for arg in &method.args {
            self.line(match arg.presence {
                Presence::Retired => "        proto::codec::put_nil(&mut body);".to_owned(),
                _ => format!("        proto::encode_into(&{}, &mut body);", argument(arg)),
            });
        }
        let id = format!("proto::MethodId({:#010x})", method.id.0);
        if request {
            let deadline = match deadline_ms {
                0 => "None".to_owned(),
                ms => format!("Some(std::time::Duration::from_millis({ms}))"),
            };
            self.line(format!("        let deadline = {deadline};"));
            self.line(format!(
                "        client::decode_reply(self.client.request_bytes(self.stream, {id}, body, \
                 deadline).await)"
            ));
        } else {
            let (tell, key) = match &method.delivery {
                Delivery::Reliable => ("tell_bytes", String::new()),
                Delivery::Latest(Some(key)) => {
                    ("tell_latest_bytes", format!("key_of(&{}), ", ident(key)))
                }
                Delivery::Latest(None) | Delivery::Unreliable => {
                    ("tell_latest_bytes", "0, ".to_owned())
                }
            };
            self.line(format!("        self.client.{tell}(self.stream, {id}, {key}body).await"));
        }
        self.line("    }");
        let keyed = matches!(&method.delivery, Delivery::Latest(Some(_)));
        if keyed && !request && !self.text.contains("\nfn key_of<") {
            // Stands before what uses it.
            let start = self.text.find("/// Hash of the interface").unwrap_or(0);
            self.text.insert_str(start, KEY_OF);
        }
    }

    // -- client interfaces --

    fn put_client(&mut self, interface: &Interface) {
        let (calls, pushes): (Vec<&Method>, Vec<&Method>) =
            interface.methods.values().partition(|method| method.pattern == Pattern::Call);
        let name = pascal(&interface.name);
        if !pushes.is_empty() {
            let docs = format!("What servers tell a client by `{}`.", interface.name);
            self.put_messages(&format!("{name}Push"), &docs, &pushes);
        }
        if !calls.is_empty() {
            let docs = format!(
                "What servers ask a client by `{}`. Publish `METHODS`; answer with \
                 `Client::answer` or `refuse`.",
                interface.name
            );
            self.put_messages(&format!("{name}Call"), &docs, &calls);
        }
    }

    fn put_messages(&mut self, name: &str, docs: &str, methods: &[&Method]) {
        self.line(format!("/// {docs}"));
        self.line("#[derive(Clone, Debug, PartialEq)]");
        self.line(format!("pub enum {name} {{"));
        for method in methods {
            if let Some(reply) = &method.reply {
                let reply = self.type_of(reply, None);
                let error = method.error.as_ref().map(|error| self.type_of(error, None));
                let refuse = error.map(|error| format!(", or refuse with a `{error}`"));
                self.line(format!(
                    "    /// Answer with a `{reply}`{}.",
                    refuse.unwrap_or_default()
                ));
            }
            let fields: String = live(&method.args)
                .map(|arg| format!(" {}: {},", argument(arg), self.type_of(&arg.shape, None)))
                .collect();
            self.line(match fields.is_empty() {
                true => format!("    {},", pascal(&method.path)),
                false => {
                    format!("    {} {{{} }},", pascal(&method.path), fields.trim_end_matches(','))
                }
            });
        }
        self.line("}\n");
        self.line(format!("impl {name} {{"));
        self.line("    /// The ids of its methods.");
        let ids: Vec<_> = methods
            .iter()
            .map(|method| format!("proto::MethodId({:#010x})", method.id.0))
            .collect();
        self.line(format!("    pub const METHODS: &[proto::MethodId] = &[{}];\n", ids.join(", ")));
        self.line("    /// Reads the arguments of `method`; `None` if it is of another interface.");
        self.line(
            "    pub fn read(method: proto::MethodId, body: &[u8]) -> Option<Result<Self, \
             proto::DecodeError>> {",
        );
        self.line("        Self::METHODS.contains(&method).then(|| Self::decode(method, body))");
        self.line("    }\n");
        self.line(
            "    fn decode(method: proto::MethodId, body: &[u8]) -> Result<Self, \
             proto::DecodeError> {",
        );
        self.line("        let d = &mut proto::Decoder::new(body);");
        self.line("        #[allow(unused_mut)]");
        self.line("        let mut fields = proto::codec::Fields::begin(d)?;");
        self.line("        let message = match method.0 {");
        for method in methods {
            self.line(format!("            {:#010x} => {{", method.id.0));
            for arg in &method.args {
                let read = self.argument_read(arg);
                self.line(format!("                {read}"));
            }
            let names: Vec<_> = live(&method.args).map(argument).collect();
            let value = match names.is_empty() {
                true => format!("{name}::{}", pascal(&method.path)),
                false => format!("{name}::{} {{ {} }}", pascal(&method.path), names.join(", ")),
            };
            self.line(format!("                {value}\n            }}"));
        }
        self.line("            _ => return Err(proto::codec::Problem::Missing.into()),");
        self.line("        };\n        fields.end(d)?;\n        d.end()?;\n        Ok(message)");
        self.line("    }\n}\n");
    }

    fn argument_read(&self, arg: &Field) -> String {
        let name = &arg.name;
        match arg.presence {
            Presence::Retired => "fields.retired(d)?;".to_owned(),
            Presence::Required => {
                format!("let {} = fields.required(d, {name:?})?;", argument(arg))
            }
            Presence::Default => {
                let default = self.default_of(&arg.shape, "");
                format!("let {} = fields.or_else(d, {name:?}, || {default})?;", argument(arg))
            }
        }
    }
}

const KEY_OF: &str = "\
/// What tells messages of which only the newest matters apart.
fn key_of<T: proto::Message>(value: &T) -> u64 {
    let bytes = proto::encode(value);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

";

/// `(A, B)`, with a comma after a single part.
fn tuple(parts: impl Iterator<Item = String>) -> String {
    let parts: Vec<_> = parts.collect();
    let end = if parts.len() == 1 { "," } else { "" };
    format!("({}{end})", parts.join(", "))
}

/// The named types that a value of this shape holds without a list or map in between.
fn directly(shape: &Shape, names: &mut Vec<String>) {
    match shape {
        Shape::Named(name) => names.push(name.clone()),
        Shape::Option(item) | Shape::Array(item, _) => directly(item, names),
        Shape::Tuple(items) => items.iter().for_each(|item| directly(item, names)),
        _ => {}
    }
}

fn holds_named(shape: &Shape) -> bool {
    let mut names = Vec::new();
    directly(shape, &mut names);
    !names.is_empty()
}

impl TypeBody {
    fn for_each_field(&self, visit: &mut dyn FnMut(&Field)) {
        match self {
            TypeBody::Struct(fields) => fields.iter().for_each(visit),
            TypeBody::Enum { variants, .. } => {
                variants.iter().flat_map(|variant| &variant.fields).for_each(visit);
            }
        }
    }
}

/// The types that are keys of maps or items of sets, with all that they hold.
fn ordered(schema: &Schema) -> BTreeSet<String> {
    let mut open: Vec<String> = Vec::new();
    let mut keys = |shape: &Shape| collect_keys(shape, &mut open);
    for body in schema.types.values() {
        body.for_each_field(&mut |field| keys(&field.shape));
    }
    for method in schema.interfaces.values().flat_map(|interface| interface.methods.values()) {
        method.args.iter().for_each(|arg| keys(&arg.shape));
        method.reply.iter().chain(&method.error).for_each(&mut keys);
    }
    let mut found = BTreeSet::new();
    while let Some(name) = open.pop() {
        if found.insert(name.clone())
            && let Some(body) = schema.types.get(&name)
        {
            body.for_each_name(&mut |inner| open.push(inner.to_owned()));
        }
    }
    found
}

fn collect_keys(shape: &Shape, names: &mut Vec<String>) {
    match shape {
        Shape::Set(item) => item.for_each_name(&mut |name| names.push(name.to_owned())),
        Shape::Map(key, value) => {
            key.for_each_name(&mut |name| names.push(name.to_owned()));
            collect_keys(value, names);
        }
        Shape::Option(item) | Shape::List(item) | Shape::Array(item, _) => {
            collect_keys(item, names);
        }
        Shape::Tuple(items) => items.iter().for_each(|item| collect_keys(item, names)),
        _ => {}
    }
}

fn live(fields: &[Field]) -> impl Iterator<Item = &Field> {
    fields.iter().filter(|field| field.presence != Presence::Retired)
}

/// The name of an argument; one that generated code uses itself gets a suffix.
fn argument(arg: &Field) -> String {
    match arg.name.as_str() {
        "body" | "d" | "deadline" | "fields" | "method" => format!("{}_", arg.name),
        name => ident(name),
    }
}

/// A name as an identifier.
fn ident(name: &str) -> String {
    const KEYWORDS: &[&str] = &[
        "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "do",
        "dyn", "else", "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl", "in",
        "let", "loop", "macro", "match", "mod", "move", "mut", "override", "priv", "pub", "ref",
        "return", "static", "struct", "trait", "true", "try", "type", "typeof", "unsafe",
        "unsized", "use", "virtual", "where", "while", "yield",
    ];
    if KEYWORDS.contains(&name) { format!("r#{name}") } else { name.to_owned() }
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
