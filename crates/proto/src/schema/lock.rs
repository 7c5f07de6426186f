use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};

use super::parse::Parser;
use super::{
    Callers, Change, Delivery, Field, Form, Interface, Method, Pattern, Presence, Schema,
    StoredDocument, TypeBody, compare,
};
use crate::id::MethodId;

const HEADER: &str = "# interface.lock, format 1: what this game promises to older peers.
# Written by `MAINSTAY_INTERFACE=update cargo test`, verified by every `cargo test`. Commit it, do not edit it.
";

/// The content of `interface.lock`: the schema of the last release, with what it must remember
/// about the ones before.
///
/// Its text has one fact per line, sorted, so that a change reads well in a review.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lock {
    /// The declarations as released.
    pub schema: Schema,
    /// Interface hashes of older clients that still work.
    pub accepts: BTreeSet<u64>,
    /// Methods that were removed on purpose, as `Kind.path`: their ids must not come back.
    pub retired: BTreeMap<String, MethodId>,
}

/// Why `interface.lock` does not fit the declarations.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// The file is no lock of this format.
    #[error("interface.lock, line {line}: {what}; take it from the last commit again")]
    Parse {
        /// Counted from 1.
        line: usize,
        /// What is wrong there.
        what: String,
    },
    /// The declarations break older peers, documents or clients.
    #[error(
        "the declarations break what interface.lock promises:\n{}\nundo that, or break it on \
         purpose with `MAINSTAY_INTERFACE=break cargo test`",
        Lines(.0)
    )]
    Breaking(
        /// Only the breaking ones.
        Vec<Change>,
    ),
    /// The declarations grew, and the lock was not written since.
    #[error(
        "interface.lock is out of date, write it with `MAINSTAY_INTERFACE=update cargo test`:\n{}",
        Lines(.0)
    )]
    OutOfDate(
        /// All changes.
        Vec<Change>,
    ),
}

struct Lines<'a>(&'a [Change]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, change) in self.0.iter().enumerate() {
            let end = if index + 1 < self.0.len() { "\n" } else { "" };
            write!(f, "  {change}{end}")?;
        }
        Ok(())
    }
}

impl Lock {
    /// The lock of a first release.
    pub fn new(schema: Schema) -> Self {
        Lock { schema, ..Lock::default() }
    }

    /// Reads the text of an `interface.lock`.
    ///
    /// # Errors
    ///
    /// [`LockError::Parse`] with the first bad line.
    pub fn parse(text: &str) -> Result<Self, LockError> {
        let (lock, stated) = Parser::new(text).lock()?;
        let computed = lock.schema.interface_hash();
        match stated {
            Some((_, hash)) if hash == computed => Ok(lock),
            Some((line, _)) => Err(LockError::Parse {
                line,
                what: format!("the client hash of these declarations is {computed:016x}"),
            }),
            None => Err(LockError::Parse { line: 1, what: "the client hash is missing".into() }),
        }
    }

    /// The text of the file.
    pub fn render(&self) -> String {
        let mut text = HEADER.to_owned();
        let _ = writeln!(text, "client {:016x}", self.schema.interface_hash());
        for hash in &self.accepts {
            let _ = writeln!(text, "accept {hash:016x}");
        }
        for (path, id) in &self.retired {
            let _ = writeln!(text, "retired {path} {:08x}", id.0);
        }
        render_schema(&self.schema, &mut text);
        text
    }

    /// Succeeds if `schema` is exactly what was locked.
    ///
    /// # Errors
    ///
    /// [`LockError::Breaking`] if older peers would break, else [`LockError::OutOfDate`].
    pub fn verify(&self, schema: &Schema) -> Result<(), LockError> {
        let changes = self.changes(schema);
        if changes.iter().any(|change| change.breaking) {
            return Err(LockError::Breaking(only_breaking(changes)));
        }
        // Renderings are compared, since a change may be in what `compare` does not look at.
        let is_same = self.schema.to_text() == schema.to_text();
        if is_same { Ok(()) } else { Err(LockError::OutOfDate(changes)) }
    }

    /// The lock of the next release, which declares `schema`.
    ///
    /// With `accept_breaking` removed methods are retired, and older clients that would break are
    /// accepted no longer.
    ///
    /// # Errors
    ///
    /// [`LockError::Breaking`] unless accepted.
    pub fn update(&self, schema: Schema, accept_breaking: bool) -> Result<Lock, LockError> {
        let changes = self.changes(&schema);
        let breaks = changes.iter().any(|change| change.breaking);
        if breaks && !accept_breaking {
            return Err(LockError::Breaking(only_breaking(changes)));
        }
        let mut next =
            Lock { schema, accepts: self.accepts.clone(), retired: self.retired.clone() };
        let (before, after) = (self.schema.interface_hash(), next.schema.interface_hash());
        if changes.iter().any(|change| change.breaking && change.client) {
            next.accepts.clear();
        } else if before != after {
            next.accepts.insert(before);
        }
        next.accepts.remove(&after);
        for (name, interface) in &self.schema.interfaces {
            for (path, method) in &interface.methods {
                if !next.answers(name, method.id) {
                    next.retired.insert(format!("{name}.{path}"), method.id);
                }
            }
        }
        let present = |path: &String| next.schema.method(path).is_some();
        let back: Vec<String> = next.retired.keys().filter(|path| present(path)).cloned().collect();
        for path in back {
            next.retired.remove(&path);
        }
        Ok(next)
    }

    /// Whether a client built against interface `hash` works with this release.
    pub fn accepts_client(&self, hash: u64) -> bool {
        hash == self.schema.interface_hash() || self.accepts.contains(&hash)
    }

    fn changes(&self, schema: &Schema) -> Vec<Change> {
        let mut changes = compare(&self.schema, schema);
        for (path, id) in &self.retired {
            let Some((kind, _)) = path.split_once('.') else { continue };
            let Some(interface) = schema.interfaces.get(kind) else { continue };
            for method in interface.methods.values().filter(|method| method.id == *id) {
                changes.push(Change {
                    place: format!("{kind}.{}", method.path),
                    what: format!(
                        "reuses the id {:08x} of a removed method, which peers may still call: \
                         choose another name",
                        id.0
                    ),
                    breaking: true,
                    client: method.callers.client || interface.form == Form::Client,
                    absent: false,
                });
            }
        }
        changes
    }

    /// Whether `schema` has a method for `id` of kind `name`, aliases included.
    fn answers(&self, name: &str, id: MethodId) -> bool {
        let interface = self.schema.interface(name);
        interface.is_some_and(|interface| interface.method_by_id(id).is_some())
    }
}

fn only_breaking(mut changes: Vec<Change>) -> Vec<Change> {
    changes.retain(|change| change.breaking);
    changes
}

impl Schema {
    /// The declarations as `interface.lock` has them, one fact per line.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        render_schema(self, &mut text);
        text
    }

    /// Reads what [`to_text`](Self::to_text) gives.
    ///
    /// # Errors
    ///
    /// [`LockError::Parse`] with the first bad line.
    pub fn from_text(text: &str) -> Result<Schema, LockError> {
        Ok(Parser::new(text).lock()?.0.schema)
    }

    /// The interface called `name` now or by an alias.
    pub fn interface(&self, name: &str) -> Option<&Interface> {
        self.interfaces.get(name).or_else(|| {
            self.interfaces.values().find(|interface| interface.aliases.iter().any(|a| a == name))
        })
    }

    /// The method at `Kind.path`.
    fn method(&self, whole: &str) -> Option<&Method> {
        let (kind, path) = whole.split_once('.')?;
        self.interfaces.get(kind)?.methods.get(path)
    }
}

impl Interface {
    /// The method that answers to `id`, by its path or by an alias.
    pub fn method_by_id(&self, id: MethodId) -> Option<&Method> {
        let has_alias =
            |method: &&Method| method.aliases.iter().any(|alias| MethodId::of_path(alias) == id);
        let by_path = self.methods.values().find(|method| method.id == id);
        by_path.or_else(|| self.methods.values().find(has_alias))
    }
}

/// Appends the declarations, one fact per line.
fn render_schema(schema: &Schema, text: &mut String) {
    for interface in schema.interfaces.values() {
        let form = interface.form.word();
        let _ = writeln!(text, "\n{form} {} {:08x}", interface.name, interface.id.0);
        for alias in &interface.aliases {
            let _ = writeln!(text, "  alias {alias}");
        }
        for method in interface.methods.values() {
            render_method(method, text);
        }
    }
    for (name, body) in &schema.types {
        match body {
            TypeBody::Struct(fields) => {
                let _ = writeln!(text, "\nstruct {name}");
                fields.iter().for_each(|field| render_field("  field", field, text));
            }
            TypeBody::Enum { variants, fallback } => {
                let _ = writeln!(text, "\nenum {name}");
                for variant in variants {
                    let _ = writeln!(text, "  variant {} {}", variant.number, variant.name);
                    variant.fields.iter().for_each(|field| render_field("    field", field, text));
                }
                if let Some(number) = fallback {
                    let _ = writeln!(text, "  fallback {number}");
                }
            }
        }
    }
    render_documents(schema, text);
}

/// Appends what is stored.
fn render_documents(schema: &Schema, text: &mut String) {
    for (name, StoredDocument { version, oldest, fields }) in &schema.documents {
        let _ = writeln!(text, "\ndocument {name} {version} {oldest}");
        fields.iter().for_each(|field| render_field("  field", field, text));
    }
}

fn render_method(method: &Method, text: &mut String) {
    let (pattern, callers) = (method.pattern.word(), method.callers.words());
    let _ = writeln!(text, "  method {} {:08x} {pattern} {callers}", method.path, method.id.0);
    for alias in &method.aliases {
        let _ = writeln!(text, "    alias {alias}");
    }
    method.args.iter().for_each(|arg| render_field("    arg", arg, text));
    if let Some(shape) = &method.reply {
        let _ = writeln!(text, "    reply {}", without_spaces(&shape.to_string()));
    }
    if let Some(shape) = &method.error {
        let _ = writeln!(text, "    error {}", without_spaces(&shape.to_string()));
    }
    let _ = match &method.delivery {
        Delivery::Reliable => Ok(()),
        Delivery::Latest(None) => writeln!(text, "    latest"),
        Delivery::Latest(Some(key)) => writeln!(text, "    latest {key}"),
        Delivery::Unreliable => writeln!(text, "    unreliable"),
    };
    if method.level > 0 {
        let _ = writeln!(text, "    level {}", method.level);
    }
    if method.deadline_ms > 0 {
        let _ = writeln!(text, "    deadline {}", method.deadline_ms);
    }
    if let Some(rate) = &method.rate {
        let _ = writeln!(text, "    rate {}", without_spaces(rate));
    }
    if method.idempotent {
        text.push_str("    idempotent\n");
    }
}

fn render_field(start: &str, field: &Field, text: &mut String) {
    let shape = without_spaces(&field.shape.to_string());
    let _ = write!(text, "{start} {} {shape}", field.name);
    match field.presence {
        Presence::Required => {}
        Presence::Default => text.push_str(" default"),
        Presence::Retired => text.push_str(" retired"),
    }
    if let Some(range) = &field.range {
        let _ = write!(text, " range={}", without_spaces(range));
    }
    if let Some(len) = &field.len {
        let _ = write!(text, " len={}", without_spaces(len));
    }
    if field.finite {
        text.push_str(" finite");
    }
    text.push('\n');
}

fn without_spaces(text: &str) -> String {
    text.split_whitespace().collect()
}

impl Form {
    pub(super) const ALL: [Form; 3] = [Form::Entity, Form::Service, Form::Client];

    /// The word for it in texts.
    pub const fn word(self) -> &'static str {
        match self {
            Form::Entity => "entity",
            Form::Service => "service",
            Form::Client => "client-interface",
        }
    }
}

impl Pattern {
    pub(super) const ALL: [Pattern; 7] = [
        Pattern::Tell,
        Pattern::Request,
        Pattern::Invoke,
        Pattern::Sync,
        Pattern::Multicast,
        Pattern::Call,
        Pattern::Notify,
    ];

    /// The word for it in texts.
    pub const fn word(self) -> &'static str {
        match self {
            Pattern::Tell => "tell",
            Pattern::Request => "request",
            Pattern::Invoke => "invoke",
            Pattern::Sync => "sync",
            Pattern::Multicast => "multicast",
            Pattern::Call => "call",
            Pattern::Notify => "notify",
        }
    }
}

impl Callers {
    /// The callers, separated by commas; `nobody` if there are none.
    pub fn words(self) -> String {
        let all = [("client", self.client), ("server", self.server), ("operator", self.operator)];
        let words: Vec<_> = all.iter().filter(|(_, may)| *may).map(|(word, _)| *word).collect();
        if words.is_empty() { "nobody".to_owned() } else { words.join(",") }
    }
}
