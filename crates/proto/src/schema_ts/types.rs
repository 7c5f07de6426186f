//! Structs and enums with their encodings.

use super::{Module, holds_data, limits, live, member, pascal, type_name};
use crate::schema::{Field, Presence, Shape, Variant};

impl Module<'_> {
    pub(super) fn put_struct(&mut self, name: &str, fields: &[Field]) {
        self.import("Encoder");
        self.import("Decoder");
        self.import("Fields");
        let (ty, function) = (type_name(name), pascal(name));
        self.line(format!("export interface {ty} {{"));
        self.put_members(fields, "  ");
        self.line("}\n");

        self.line(format!("export function encode{function}(e: Encoder, value: {ty}): void {{"));
        self.line(format!("  e.array({});", fields.len()));
        self.put_writes(fields, "  ");
        if live(fields).next().is_none() {
            self.line("  void value;");
        }
        self.line("}\n");

        self.line(format!("export function decode{function}(d: Decoder): {ty} {{"));
        self.line("  const fields = Fields.begin(d);");
        let value = self.put_reads(fields, "", "  ");
        self.line("  fields.end(d);");
        self.line(format!("  return {value};"));
        self.line("}\n");
    }

    pub(super) fn put_members(&mut self, fields: &[Field], indent: &str) {
        for field in live(fields) {
            if let Some(limits) = limits(field) {
                self.line(format!("{indent}/** {limits} */"));
            }
            let ty = self.type_of(&field.shape);
            self.line(format!("{indent}{}: {ty};", member(field)));
        }
    }

    pub(super) fn put_writes(&mut self, fields: &[Field], indent: &str) {
        for field in fields {
            let write = match field.presence {
                Presence::Retired => "e.nil();".to_owned(),
                _ => self.write(&field.shape, &format!("value.{}", member(field))),
            };
            self.line(format!("{indent}{write}"));
        }
    }

    /// Reads fields into an object literal, which it gives.
    pub(super) fn put_reads(&mut self, fields: &[Field], tag: &str, indent: &str) -> String {
        let mut parts: Vec<_> = (!tag.is_empty()).then(|| tag.to_owned()).into_iter().collect();
        for (at, field) in fields.iter().enumerate() {
            let read = self.field_read(field);
            if field.presence == Presence::Retired {
                self.line(format!("{indent}{read};"));
                continue;
            }
            self.line(format!("{indent}const field{at} = {read};"));
            parts.push(format!("{}: field{at}", member(field)));
        }
        if parts.is_empty() { "{}".into() } else { format!("{{ {} }}", parts.join(", ")) }
    }

    /// An expression that takes one field from `fields`.
    pub(super) fn field_read(&mut self, field: &Field) -> String {
        let name = &field.name;
        match field.presence {
            Presence::Retired => "fields.retired(d)".into(),
            Presence::Required => {
                format!("fields.required(d, \"{name}\", {})", self.reader(&field.shape))
            }
            Presence::Default => {
                let read = self.reader(&field.shape);
                let ty = self.type_of(&field.shape);
                let default = self.default_of_shape(&field.shape);
                let nil = matches!(field.shape, Shape::Option(_) | Shape::Unit);
                let nil = if nil { ", true" } else { "" };
                let default =
                    if default.starts_with('{') { format!("({default})") } else { default };
                format!("fields.orElse<{ty}>(d, \"{name}\", {read}, () => {default}{nil})")
            }
        }
    }

    pub(super) fn put_enum(&mut self, name: &str, variants: &[Variant], fallback: Option<u64>) {
        self.import("Encoder");
        self.import("Decoder");
        self.import("Fields");
        let (ty, function) = (type_name(name), pascal(name));
        let data = holds_data(variants);
        self.line(format!("export type {ty} ="));
        for (at, variant) in variants.iter().enumerate() {
            let mut members = vec![format!("type: \"{}\"", variant.name)];
            for field in live(&variant.fields) {
                members.push(format!("{}: {}", member(field), self.type_of(&field.shape)));
            }
            let case = match data {
                true => format!("{{ {} }}", members.join("; ")),
                false => format!("\"{}\"", variant.name),
            };
            let end = if at + 1 == variants.len() { ";\n" } else { "" };
            self.line(format!("  | {case}{end}"));
        }

        self.line(format!("export function encode{function}(e: Encoder, value: {ty}): void {{"));
        self.line(if data { "  switch (value.type) {" } else { "  switch (value) {" });
        for variant in variants {
            self.line(format!("    case \"{}\":", variant.name));
            if !variant.fields.is_empty() {
                self.line(format!("      e.array({});", variant.fields.len() + 1));
            }
            self.line(format!("      e.uint({});", variant.number));
            self.put_writes(&variant.fields, "      ");
            self.line("      return;");
        }
        self.line("  }\n}\n");

        self.line(format!("export function decode{function}(d: Decoder): {ty} {{"));
        self.line("  const { number, fields } = Fields.variant(d);");
        self.line(format!("  let value: {ty};"));
        self.line("  switch (number) {");
        for variant in variants {
            self.line(format!("    case {}: {{", variant.number));
            let value = match data {
                true => {
                    let tag = format!("type: \"{}\"", variant.name);
                    self.put_reads(&variant.fields, &tag, "      ")
                }
                false => format!("\"{}\"", variant.name),
            };
            self.line(format!("      value = {value};\n      break;\n    }}"));
        }
        let unknown = variants.iter().find(|variant| Some(variant.number) == fallback);
        match unknown {
            Some(variant) if data => {
                self.line(format!("    default:\n      value = {{ type: \"{}\" }};", variant.name));
            }
            Some(variant) => {
                self.line(format!("    default:\n      value = \"{}\";", variant.name));
            }
            None => {
                self.import("DecodeError");
                self.line(
                    "    default:\n      throw new DecodeError(`no variant has number ${number}`);",
                );
            }
        }
        self.line("  }\n  fields.end(d);\n  return value;\n}\n");
    }
}
