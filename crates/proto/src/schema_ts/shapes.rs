//! How values of each shape are typed, written, read, and made when they are missing.

use std::fmt::Write;

use super::{Module, holds_data, live, member, pascal, short_name, type_name};
use crate::schema::{Field, Shape, TypeBody};

impl Module<'_> {
    pub(super) fn type_of(&mut self, shape: &Shape) -> String {
        match shape {
            Shape::Unit => "null".into(),
            Shape::Bool => "boolean".into(),
            Shape::U8 | Shape::U16 | Shape::U32 | Shape::I8 | Shape::I16 | Shape::I32 => {
                "number".into()
            }
            Shape::F32 | Shape::F64 | Shape::KindId | Shape::MethodId | Shape::WallTime => {
                "number".into()
            }
            Shape::U64 | Shape::I64 | Shape::Incarnation | Shape::AccountId => "bigint".into(),
            Shape::Text => "string".into(),
            Shape::Bytes | Shape::SessionId => "Uint8Array".into(),
            Shape::EntityId | Shape::Reference(_) => {
                self.entity_id();
                "EntityId".into()
            }
            Shape::Option(item) => format!("{} | null", self.type_of(item)),
            Shape::List(item) | Shape::Set(item) | Shape::Array(item, _) => {
                let item_type = self.type_of(item);
                let atom = !item_type.contains(' ') || item_type.ends_with('>');
                if atom { format!("{item_type}[]") } else { format!("({item_type})[]") }
            }
            Shape::Tuple(items) => {
                let items: Vec<_> = items.iter().map(|item| self.type_of(item)).collect();
                format!("[{}]", items.join(", "))
            }
            Shape::Map(key, value) => {
                format!("Map<{}, {}>", self.type_of(key), self.type_of(value))
            }
            Shape::Named(name) => type_name(name),
        }
    }

    pub(super) fn entity_id(&mut self) {
        self.helper("type EntityId", "EntityId", |_, _| {
            "/** Names an entity of the cluster. */\n\
             export interface EntityId {\n  kind: number;\n  home: bigint;\n  key: bigint;\n}\n"
                .into()
        });
    }

    /// A statement that writes the value of expression `value`.
    pub(super) fn write(&mut self, shape: &Shape, value: &str) -> String {
        let call = match shape {
            Shape::Unit => return "e.nil();".into(),
            Shape::Bool => "bool",
            Shape::U8 | Shape::U16 | Shape::U32 | Shape::U64 => "uint",
            Shape::KindId | Shape::MethodId | Shape::WallTime => "uint",
            Shape::Incarnation | Shape::AccountId => "uint",
            Shape::I8 | Shape::I16 | Shape::I32 | Shape::I64 => "int",
            Shape::F32 => "f32",
            Shape::F64 => "f64",
            Shape::Text => "text",
            Shape::Bytes | Shape::SessionId => "binary",
            composite => {
                let writer = self.writer(composite);
                return format!("{writer}(e, {value});");
            }
        };
        format!("e.{call}({value});")
    }

    /// The name of a function `(e, value)`.
    pub(super) fn writer(&mut self, shape: &Shape) -> String {
        if let Shape::Named(name) = shape {
            return format!("encode{}", pascal(name));
        }
        let name = format!("write{}", short_name(shape));
        self.helper(&format!("write {shape}"), &name, |module, name| {
            module.import("Encoder");
            let ty = module.type_of(shape);
            let body = module.write_body(shape);
            format!("function {name}(e: Encoder, value: {ty}): void {{\n{body}}}\n")
        })
    }

    pub(super) fn write_body(&mut self, shape: &Shape) -> String {
        match shape {
            Shape::EntityId | Shape::Reference(_) => "  e.array(3);\n  e.uint(value.kind);\n  \
                 e.uint(value.home);\n  e.uint(value.key);\n"
                .into(),
            Shape::Option(item) => {
                let write = self.write(item, "value");
                format!("  if (value === null) e.nil();\n  else {write}\n")
            }
            Shape::List(item) | Shape::Set(item) => {
                let write = self.write(item, "item");
                format!("  e.array(value.length);\n  for (const item of value) {write}\n")
            }
            Shape::Array(item, count) => {
                let write = self.write(item, "item");
                format!(
                    "  if (value.length !== {count}) throw new RangeError(`${{value.length}} items \
                     where {count} are wanted`);\n  e.array({count});\n  for (const item of value) \
                     {write}\n"
                )
            }
            Shape::Tuple(items) => {
                let mut body = format!("  e.array({});\n", items.len());
                for (at, item) in items.iter().enumerate() {
                    let _ = writeln!(body, "  {}", self.write(item, &format!("value[{at}]")));
                }
                body
            }
            Shape::Map(key, value) => {
                let (key, value) = (self.write(key, "key"), self.write(value, "item"));
                format!(
                    "  e.map(value.size);\n  for (const [key, item] of value) {{\n    {key}\n    \
                     {value}\n  }}\n"
                )
            }
            // A plain value inside a function of its own: the answer of a call.
            plain => format!("  {}\n", self.write(plain, "value")),
        }
    }

    /// The name of a function `(d) => value`.
    pub(super) fn reader(&mut self, shape: &Shape) -> String {
        if let Shape::Named(name) = shape {
            return format!("decode{}", pascal(name));
        }
        let name = format!("read{}", short_name(shape));
        self.helper(&format!("read {shape}"), &name, |module, name| {
            module.import("Decoder");
            let ty = module.type_of(shape);
            let body = module.read_body(shape);
            format!("function {name}(d: Decoder): {ty} {{\n{body}}}\n")
        })
    }

    pub(super) fn read_body(&mut self, shape: &Shape) -> String {
        let plain = match shape {
            Shape::Unit => "d.nil();\n  return null;\n".to_owned(),
            Shape::Bool => "return d.bool();\n".to_owned(),
            Shape::U8 => "return d.uint(0xff);\n".to_owned(),
            Shape::U16 => "return d.uint(0xffff);\n".to_owned(),
            Shape::U32 | Shape::KindId | Shape::MethodId => "return d.uint(0xffffffff);\n".into(),
            Shape::U64 | Shape::Incarnation | Shape::AccountId => "return d.uint64();\n".into(),
            Shape::WallTime => "return d.uint();\n".to_owned(),
            Shape::I8 => "return d.int(-0x80, 0x7f);\n".to_owned(),
            Shape::I16 => "return d.int(-0x8000, 0x7fff);\n".to_owned(),
            Shape::I32 => "return d.int(-0x80000000, 0x7fffffff);\n".to_owned(),
            Shape::I64 => "return d.int64();\n".to_owned(),
            Shape::F32 => "return d.f32();\n".to_owned(),
            Shape::F64 => "return d.f64();\n".to_owned(),
            Shape::Text => "return d.text();\n".to_owned(),
            Shape::Bytes => "return d.binary();\n".to_owned(),
            Shape::SessionId => {
                self.import("DecodeError");
                "const value = d.binary();\n  if (value.length !== 16) throw new DecodeError(\"a \
                 session id has 16 bytes\");\n  return value;\n"
                    .to_owned()
            }
            Shape::EntityId | Shape::Reference(_) => {
                let exactly = self.exactly();
                format!(
                    "{exactly}(d, 3);\n  const value = {{ kind: d.uint(0xffffffff), home: \
                     d.uint64(), key: d.uint64() }};\n  d.leave();\n  return value;\n"
                )
            }
            Shape::Option(item) => {
                let read = self.reader(item);
                format!("return d.takeNil() ? null : {read}(d);\n")
            }
            Shape::List(item) | Shape::Set(item) => {
                let (read, ty) = (self.reader(item), self.type_of(shape));
                self.import("within");
                format!(
                    "const items: {ty} = [];\n  const length = d.array();\n  for (let at = 0; at < \
                     length; at++) items.push(within(`[${{at}}]`, () => {read}(d)));\n  \
                     d.leave();\n  return items;\n"
                )
            }
            Shape::Array(item, count) => {
                let (exactly, read) = (self.exactly(), self.reader(item));
                format!(
                    "{exactly}(d, {count});\n  const items = Array.from({{ length: {count} }}, () \
                     => {read}(d));\n  d.leave();\n  return items;\n"
                )
            }
            Shape::Tuple(items) => {
                let exactly = self.exactly();
                let ty = self.type_of(shape);
                let reads: Vec<_> =
                    items.iter().map(|item| format!("{}(d)", self.reader(item))).collect();
                format!(
                    "{exactly}(d, {});\n  const value: {ty} = [{}];\n  d.leave();\n  return \
                     value;\n",
                    items.len(),
                    reads.join(", ")
                )
            }
            Shape::Map(key, value) => {
                let ty = self.type_of(shape);
                let (key, value) = (self.reader(key), self.reader(value));
                format!(
                    "const map: {ty} = new Map();\n  for (let left = d.map(); left > 0; left--) {{\n    \
                     const key = {key}(d);\n    map.set(key, {value}(d));\n  }}\n  d.leave();\n  \
                     return map;\n"
                )
            }
            Shape::Named(_) => unreachable!("named types have functions of their own"),
        };
        format!("  {plain}")
    }

    /// The function that takes the head of an array of a known length.
    pub(super) fn exactly(&mut self) -> String {
        self.helper("exactly", "exactly", |module, name| {
            module.import("Decoder");
            module.import("DecodeError");
            format!(
                "function {name}(d: Decoder, expected: number): void {{\n  const found = \
                 d.array();\n  if (found !== expected) throw new DecodeError(`${{found}} items \
                 where ${{expected}} are wanted`);\n}}\n"
            )
        })
    }

    /// An expression for what a missing field is.
    pub(super) fn default_of_shape(&mut self, shape: &Shape) -> String {
        match shape {
            Shape::Unit | Shape::Option(_) => "null".into(),
            Shape::Bool => "false".into(),
            Shape::U64 | Shape::I64 | Shape::Incarnation | Shape::AccountId => "0n".into(),
            Shape::Text => "\"\"".into(),
            Shape::Bytes => "new Uint8Array(0)".into(),
            Shape::SessionId => "new Uint8Array(16)".into(),
            Shape::EntityId | Shape::Reference(_) => "{ kind: 0, home: 0n, key: 0n }".into(),
            Shape::List(_) | Shape::Set(_) => "[]".into(),
            Shape::Map(..) => "new Map()".into(),
            Shape::Array(item, count) => {
                let item = self.default_of_shape(item);
                format!("Array.from({{ length: {count} }}, () => ({item}))")
            }
            Shape::Tuple(items) => {
                let items: Vec<_> = items.iter().map(|item| self.default_of_shape(item)).collect();
                format!("[{}]", items.join(", "))
            }
            Shape::Named(name) => self.default_of_named(name),
            _ => "0".into(),
        }
    }

    pub(super) fn default_of_named(&mut self, name: &str) -> String {
        match self.schema.types.get(name) {
            Some(TypeBody::Struct(fields)) => self.default_of_fields(fields, ""),
            Some(TypeBody::Enum { variants, .. }) => match variants.first() {
                Some(first) if holds_data(variants) => {
                    let tag = format!("type: \"{}\"", first.name);
                    self.default_of_fields(&first.fields, &tag)
                }
                Some(first) => format!("\"{}\"", first.name),
                None => "null as never".into(),
            },
            None => "null as never".into(),
        }
    }

    pub(super) fn default_of_fields(&mut self, fields: &[Field], tag: &str) -> String {
        let mut parts: Vec<_> = (!tag.is_empty()).then(|| tag.to_owned()).into_iter().collect();
        for field in live(fields) {
            let value = self.default_of_shape(&field.shape);
            parts.push(format!("{}: {value}", member(field)));
        }
        if parts.is_empty() { "{}".into() } else { format!("{{ {} }}", parts.join(", ")) }
    }
}
