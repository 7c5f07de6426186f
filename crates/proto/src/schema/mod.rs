//! The schema: everything that the Rust declarations promise to peers, as plain data.
//!
//! `mainstay schema` prints it, SDKs are generated from it, `interface.lock` holds it against the
//! next release, and the hash of its client part is compared at the handshake. It verifies ids,
//! it never assigns them: they are hashes of names.

mod builder;
mod client;
mod compare;
mod json;
mod lock;
mod parse;
mod shape;

pub use builder::{SchemaBuilder, SchemaError};
pub use compare::{Change, compare};
pub use lock::{Lock, LockError};
pub use shape::Shape;

use std::collections::BTreeMap;

use crate::id::{KindId, MethodId};

/// All declarations of a game. Equal declarations give equal schemas, whatever their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schema {
    /// Message structs and enums by name.
    pub types: BTreeMap<String, TypeBody>,
    /// Entity kinds, services and client interfaces by name.
    pub interfaces: BTreeMap<String, Interface>,
    /// What is stored, by `kind/sub-document` or `record/name`. No part of what peers call, but the last
    /// release has written it, and the next must read it.
    pub documents: BTreeMap<String, StoredDocument>,
}

/// What is stored of a struct.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredDocument {
    /// The schema version that is written.
    pub version: u32,
    /// The oldest that can be read, by the steps that lead from there.
    pub oldest: u32,
    /// What is saved, in this order.
    pub fields: Vec<Field>,
}

/// What a named type is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TypeBody {
    /// An array of these fields, in this order.
    Struct(Vec<Field>),
    /// A number, or an array of a number and fields.
    Enum {
        /// By ascending number.
        variants: Vec<Variant>,
        /// The number of the variant that stands for unknown ones.
        fallback: Option<u64>,
    },
}

/// One variant of an enum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variant {
    /// What travels.
    pub number: u64,
    /// Its Rust name.
    pub name: String,
    /// What follows the number.
    pub fields: Vec<Field>,
}

/// A field of a struct or variant, or an argument of a method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its Rust name; the position for fields without names.
    pub name: String,
    /// Its type.
    pub shape: Shape,
    /// What a reader does if the writer did not have it.
    pub presence: Presence,
    /// The range that a number must be in, as Rust text such as `1..=100`.
    pub range: Option<String>,
    /// The range that a length must be in, as Rust text.
    pub len: Option<String>,
    /// Whether NaN and the infinities are refused.
    pub finite: bool,
}

/// What a reader does about a field that the writer did not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Its absence is an error.
    Required,
    /// It takes its default.
    Default,
    /// The place is kept, nil is written, anything is skipped.
    Retired,
}

impl Field {
    /// A required field.
    pub fn new(name: &str, shape: Shape) -> Self {
        let name = name.to_owned();
        Field { name, shape, presence: Presence::Required, range: None, len: None, finite: false }
    }

    /// Sets what happens if the field is missing.
    #[must_use]
    pub fn presence(mut self, presence: Presence) -> Self {
        self.presence = presence;
        self
    }

    /// Sets the range that a number must be in.
    #[must_use]
    pub fn range(mut self, range: &str) -> Self {
        self.range = Some(range.to_owned());
        self
    }

    /// Sets the range that a length must be in.
    #[must_use]
    pub fn len(mut self, len: &str) -> Self {
        self.len = Some(len.to_owned());
        self
    }

    /// Refuses NaN and the infinities.
    #[must_use]
    pub fn finite(mut self) -> Self {
        self.finite = true;
        self
    }
}

/// The methods of an entity kind, a service or a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name, unique among all interfaces.
    pub name: String,
    /// The hash of its name.
    pub id: KindId,
    /// What it is.
    pub form: Form,
    /// Earlier names that peers and documents may still use.
    pub aliases: Vec<String>,
    /// By path.
    pub methods: BTreeMap<String, Method>,
}

/// What has an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    /// A stateful entity kind.
    Entity,
    /// A stateless service.
    Service,
    /// What the client implements and servers call.
    Client,
}

/// A remote method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Method {
    /// `name`, or `component.name`.
    pub path: String,
    /// The id of the path: [`MethodId::of_path`].
    pub id: MethodId,
    /// How it is called.
    pub pattern: Pattern,
    /// Who may call it.
    pub callers: Callers,
    /// The login level that a client needs.
    pub level: u8,
    /// Its arguments; they travel as one array.
    pub args: Vec<Field>,
    /// What the answer holds; `None` if there is no answer.
    pub reply: Option<Shape>,
    /// The method's own error.
    pub error: Option<Shape>,
    /// What a slow or lossy path may do to it.
    pub delivery: Delivery,
    /// How long a caller waits unless it says otherwise, in milliseconds; 0 is the cluster's
    /// setting.
    pub deadline_ms: u32,
    /// Whether it may run twice for one call.
    pub idempotent: bool,
    /// How often a client may call it, as declared (`30/s`).
    pub rate: Option<String>,
    /// Earlier paths that peers may still use.
    pub aliases: Vec<String>,
}

impl Method {
    /// A method without arguments, callable by nobody.
    pub fn new(path: &str, pattern: Pattern) -> Self {
        Method {
            path: path.to_owned(),
            id: MethodId::of_path(path),
            pattern,
            callers: Callers::default(),
            level: 0,
            args: Vec::new(),
            reply: None,
            error: None,
            delivery: Delivery::Reliable,
            deadline_ms: 0,
            idempotent: false,
            rate: None,
            aliases: Vec::new(),
        }
    }
}

/// How a method is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pattern {
    /// To an entity or service, no answer.
    Tell,
    /// From a client to an entity or service, with an answer.
    Request,
    /// From a server to an entity or service, with an answer.
    Invoke,
    /// From a server to a client or a group of clients, no answer.
    Sync,
    /// From a server to the members of a group only, no answer.
    Multicast,
    /// From a server to one client, with an answer.
    Call,
    /// From anywhere to the subscribers of a topic.
    Notify,
}

/// Who may call a method. Nobody, unless stated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Callers {
    /// Clients, through their streams.
    pub client: bool,
    /// Entities and services.
    pub server: bool,
    /// Operators, through the console.
    pub operator: bool,
}

/// What a slow or lossy path may do to a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Nothing: every one arrives, in order.
    Reliable,
    /// Only the newest is kept: of the whole method, or per value of this argument.
    Latest(Option<String>),
    /// It may be lost.
    Unreliable,
}
