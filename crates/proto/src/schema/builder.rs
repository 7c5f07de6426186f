use std::any::type_name;
use std::collections::BTreeMap;

use super::{Field, Interface, Method, Schema, Shape, StoredDocument, TypeBody, Variant};
use crate::id::{KindId, MethodId};

/// Declarations that cannot stand together. Each line names both sides and the way out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the declarations contradict each other:\n{}", problems.join("\n"))]
pub struct SchemaError {
    /// What is wrong, one sentence each.
    pub problems: Vec<String>,
}

/// Collects declarations into a [`Schema`].
#[derive(Debug, Default)]
pub struct SchemaBuilder {
    schema: Schema,
    /// Which Rust type owns a name.
    owners: BTreeMap<String, &'static str>,
    problems: Vec<String>,
}

impl SchemaBuilder {
    /// Starts empty.
    pub fn new() -> Self {
        SchemaBuilder::default()
    }

    /// Adds the struct or enum `T` under `name`, unless it is there already, and gives its shape.
    ///
    /// `body` may describe further types, `T` itself included. Two Rust types under one name
    /// are reported by [`finish`](Self::finish).
    pub fn named<T>(&mut self, name: &str, body: impl FnOnce(&mut Self) -> TypeBody) -> Shape {
        let shape = Shape::Named(name.to_owned());
        let rust = type_name::<T>();
        match self.owners.get(name) {
            Some(owner) if *owner == rust => return shape,
            Some(owner) => {
                self.problems.push(format!(
                    "{owner} and {rust} are both called {name}: give one of them #[message(name = \"..\")]"
                ));
                return shape;
            }
            None => {}
        }
        if Shape::is_reserved(name) {
            self.problems.push(format!(
                "{rust} is called {name}, which means something else in a schema: give it #[message(name = \"..\")]"
            ));
        }
        self.owners.insert(name.to_owned(), rust);
        let mut body = body(self);
        if let TypeBody::Enum { variants, .. } = &mut body {
            variants.sort_by_key(|variant| variant.number);
        }
        self.schema.types.insert(name.to_owned(), body);
        shape
    }

    /// The name of a generic type with its arguments, as one identifier.
    pub fn generic_name(name: &str, arguments: &[Shape]) -> String {
        let mut full = name.to_owned();
        for argument in arguments {
            full.push('_');
            full.push_str(&argument.flat_name());
        }
        full
    }

    /// Adds an interface.
    pub fn interface(&mut self, interface: Interface) {
        let name = interface.name.clone();
        if self.schema.interfaces.contains_key(&name) {
            self.problems.push(format!("two interfaces are called {name}: rename one of them"));
            return;
        }
        self.schema.interfaces.insert(name, interface);
    }

    /// Adds what is stored under `name`, in which blanks become `_`.
    pub fn document(&mut self, name: &str, document: StoredDocument) {
        let name = name.replace(char::is_whitespace, "_");
        self.schema.documents.insert(name, document);
    }

    /// The schema.
    ///
    /// # Errors
    ///
    /// All contradictions: one name or id for two things, fields that cannot be read back.
    pub fn finish(mut self) -> Result<Schema, SchemaError> {
        check_kinds(&self.schema, &mut self.problems);
        for interface in self.schema.interfaces.values() {
            check_methods(interface, &mut self.problems);
        }
        for (name, body) in &self.schema.types {
            match body {
                TypeBody::Struct(fields) => check_fields(name, fields, &mut self.problems),
                TypeBody::Enum { variants, .. } => {
                    check_variants(name, variants, &mut self.problems);
                }
            }
        }
        for (name, document) in &self.schema.documents {
            check_fields(name, &document.fields, &mut self.problems);
        }
        if self.problems.is_empty() {
            Ok(self.schema)
        } else {
            Err(SchemaError { problems: self.problems })
        }
    }
}

/// No two interfaces may answer to one kind id.
fn check_kinds(schema: &Schema, problems: &mut Vec<String>) {
    let mut owners: BTreeMap<KindId, (&str, &str)> = BTreeMap::new();
    for (name, interface) in &schema.interfaces {
        if interface.id != KindId::of(name) {
            problems.push(format!("{name} has an id that is not the hash of its name"));
        }
        for known_as in std::iter::once(name).chain(&interface.aliases) {
            if let Some((other, other_name)) = owners.insert(KindId::of(known_as), (name, known_as))
            {
                problems.push(format!(
                    "{name} (as {known_as}) and {other} (as {other_name}) have one id: rename one of them"
                ));
            }
        }
    }
}

/// No two methods of an interface may answer to one method id.
fn check_methods(interface: &Interface, problems: &mut Vec<String>) {
    let mut owners: BTreeMap<MethodId, (&str, &str)> = BTreeMap::new();
    let kind = &interface.name;
    for (path, method) in &interface.methods {
        if method.id != MethodId::of_path(path) || method.path != *path {
            problems.push(format!("{kind}.{path} has an id that is not the hash of its path"));
        }
        for known_as in std::iter::once(path).chain(&method.aliases) {
            let id = MethodId::of_path(known_as);
            if let Some((other, other_path)) = owners.insert(id, (path, known_as)) {
                problems.push(format!(
                    "{kind}.{path} (as {known_as}) and {kind}.{other} (as {other_path}) have one id: rename one of them"
                ));
            }
        }
        check_method(kind, method, problems);
    }
}

fn check_method(kind: &str, method: &Method, problems: &mut Vec<String>) {
    let whole = format!("{kind}.{}", method.path);
    check_fields(&whole, &method.args, problems);
    for shape in method.reply.iter().chain(&method.error) {
        check_shape(&whole, "the answer", shape, problems);
    }
}

fn check_variants(name: &str, variants: &[Variant], problems: &mut Vec<String>) {
    for pair in variants.windows(2) {
        if pair[0].number == pair[1].number {
            problems.push(format!(
                "{name}::{} and {name}::{} have one number: give one of them #[message(id = ..)]",
                pair[0].name, pair[1].name
            ));
        }
    }
    for variant in variants {
        check_fields(&format!("{name}::{}", variant.name), &variant.fields, problems);
    }
}

fn check_fields(whole: &str, fields: &[Field], problems: &mut Vec<String>) {
    for field in fields {
        check_shape(whole, &field.name, &field.shape, problems);
    }
}

fn check_shape(whole: &str, field: &str, shape: &Shape, problems: &mut Vec<String>) {
    if shape.has_double_option() {
        problems.push(format!(
            "{whole}: {field} is an option of an option or of (), which travels as one nil: use an enum"
        ));
    }
}
