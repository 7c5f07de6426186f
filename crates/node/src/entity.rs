use proto::frame::{CloseCode, Status};
use proto::schema::SchemaBuilder;
use proto::{DecodeError, KindId, MethodId, Scope, name_hash};

use scene::Steps;

use crate::cx::{Link, Peer};
use crate::data::{BadDocument, Sheets};
use crate::pattern::Pattern;
use crate::step::{Step, Turn};
use crate::timer::Schedule;

/// A kind of entity or service: state with remote methods. `#[entity]` and `#[rpc]` write it.
pub trait Entity: Sized + 'static {
    /// One variant per remote method and per timer method, with its arguments.
    type Message: Send + 'static;
    /// One variant per method that answers.
    type Reply: Send + 'static;
    /// What a caller calls methods on.
    type Stub<'c>;
    /// What timers are started on.
    type Timers<'c>;

    /// Its name, methods and limits.
    const KIND: &'static KindInfo;

    /// Makes the entity that a first call to `key` asked for, before its document is loaded. `None`
    /// if the kind is only ever spawned.
    fn create(key: u64) -> Option<Self> {
        let _ = key;
        None
    }

    /// Handles one message: ends with one of the verbs of [`Turn`].
    fn dispatch(turn: Turn<Self>, message: Self::Message) -> Step;

    /// Handles one point of its life. Only those named in [`KindInfo::hooks`] come.
    fn hook(turn: Turn<Self>, hook: Hook) -> Step {
        let _ = hook;
        turn.skip()
    }

    /// Which method a message is for: its position in [`KindInfo::methods`].
    fn method(message: &Self::Message) -> usize;

    /// Appends the arguments as one MessagePack array.
    fn encode_message(message: &Self::Message, out: &mut Vec<u8>);

    /// Reads the arguments of the method at position `method`.
    ///
    /// # Errors
    ///
    /// What is wrong with the bytes, or with an argument that is outside its declared range.
    fn decode_message(method: usize, body: &[u8]) -> Result<Self::Message, DecodeError>;

    /// Appends a reply, or the method's own error; tells which by `Ok` or `App`.
    fn encode_reply(reply: &Self::Reply, out: &mut Vec<u8>) -> Status;

    /// Reads the reply of the method at position `method`; `status` is `Ok` or `App`.
    ///
    /// # Errors
    ///
    /// What is wrong with the bytes.
    fn decode_reply(method: usize, status: Status, body: &[u8])
    -> Result<Self::Reply, DecodeError>;

    /// Makes the stub over a link.
    fn stub(link: Link<'_, Self>) -> Self::Stub<'_>;

    /// Makes the timer stub over a schedule.
    fn timers(schedule: Schedule<'_, Self>) -> Self::Timers<'_>;

    /// Reads the stored sub-documents into an entity that was just made.
    ///
    /// # Errors
    ///
    /// The first that cannot be read; the entity does not start then.
    fn load(&mut self, sheets: &mut Sheets) -> Result<(), BadDocument> {
        let _ = sheets;
        Ok(())
    }

    /// Shows the sub-documents for writing.
    fn save(&self, sheets: &mut Sheets) {
        let _ = sheets;
    }

    /// Adds what is stored of it to a schema.
    fn describe_documents(schema: &mut SchemaBuilder) {
        let _ = schema;
    }

    /// Adds the kind and its types to a schema, and what is stored of it.
    fn describe(schema: &mut SchemaBuilder) {
        let _ = schema;
    }
}

/// What is fixed about a kind.
#[derive(Debug)]
pub struct KindInfo {
    /// Unique within a cluster.
    pub name: &'static str,
    /// [`KindId::of`] the name.
    pub id: KindId,
    /// Former names: peers that use them mean this kind.
    pub aliases: &'static [&'static str],
    /// How it comes into being and who owns it.
    pub class: Class,
    /// Whether each zone or channel has its own. Never so of rooms, which are where they were made.
    pub scope: Scope,
    /// Its methods and those of its components, flat.
    pub methods: &'static [MethodInfo],
    /// The points of its life that it wants to hear of.
    pub hooks: Hooks,
    /// Whether its entities are kept in the store: loaded before their first turn, saved after
    /// they change.
    pub document: bool,
    /// The store that they are kept in, as the cluster file names it; empty is the default one.
    pub store: &'static str,
    /// What happens to an entity whose handler panicked.
    pub on_panic: OnPanic,
    /// Steps per second if the kind is a scene, 1 to 128; 0 if it is none.
    pub steps_per_second: u16,
    /// Most messages that wait for one entity; 0 is the node's setting.
    pub mailbox_max: u32,
    /// Most calls that one entity has in flight; 0 is the node's setting.
    pub calls_max: u32,
    /// Most `interleave` turns of one entity open at a time; 0 is the node's setting.
    pub turns_max: u32,
    /// Most calls to all entities of the kind that one worker has in flight, whoever makes them; 0
    /// is 888 for a service, the node's setting for others.
    pub in_flight_max: u32,
}

impl KindInfo {
    /// A kind with no methods and the node's limits, as a base to write others from.
    pub const fn new(name: &'static str, class: Class) -> Self {
        KindInfo {
            name,
            id: KindId::of(name),
            aliases: &[],
            class,
            scope: Scope::Global,
            methods: &[],
            hooks: Hooks::NONE,
            document: false,
            store: "",
            on_panic: OnPanic::Restart,
            steps_per_second: 0,
            mailbox_max: 0,
            calls_max: 0,
            turns_max: 0,
            in_flight_max: 0,
        }
    }
}

/// How entities of a kind come into being.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// On the first call to their key, by server code; also by spawn.
    Keyed,
    /// Only by spawn.
    Room,
    /// One in the cluster, with key 0.
    Singleton,
    /// One on each worker, without an owner, with key 0.
    Service,
}

/// What happens to an entity whose handler panicked. The third panic within 60 s quarantines it
/// either way: calls get `Unavailable` until an operator lifts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnPanic {
    /// It starts again as created (or as last saved); waiting messages are then handled. A kind
    /// that cannot be created is removed.
    #[default]
    Restart,
    /// It is removed; waiting messages are answered `Gone`.
    Remove,
}

/// What is fixed about one method.
#[derive(Clone, Copy, Debug)]
pub struct MethodInfo {
    /// The component field it belongs to, empty for the entity's own.
    pub field: &'static str,
    /// Its name.
    pub name: &'static str,
    /// [`MethodId::of`] the name, combined with the field's if there is one.
    pub id: MethodId,
    /// Former names.
    pub aliases: &'static [&'static str],
    /// How it is called; `None` for a timer method, which nobody can call.
    pub pattern: Option<Pattern>,
    /// Who may call it.
    pub callers: Callers,
    /// The login level that a client needs.
    pub level: u8,
    /// How long a caller waits unless it says otherwise, in milliseconds; 0 is the node's setting.
    pub deadline_ms: u32,
    /// Whether it may run twice for one call.
    pub idempotent: bool,
    /// Whether other turns of the entity may run while it waits.
    pub interleave: bool,
    /// Whether its handler is a plain function: it has answered when it returns, so that a call
    /// on the same worker need not wait in a mailbox.
    pub plain: bool,
    /// Which older tells of a client that still wait are replaced by a newer one.
    pub latest: Latest,
    /// How often one client may call it.
    pub rate: Option<Rate>,
}

impl MethodInfo {
    /// A method of the entity's own that nobody may call yet, as a base to write others from.
    pub const fn new(name: &'static str, pattern: Pattern) -> Self {
        MethodInfo {
            field: "",
            name,
            id: MethodId::of(name),
            aliases: &[],
            pattern: Some(pattern),
            callers: Callers::NONE,
            level: 0,
            deadline_ms: 0,
            idempotent: false,
            interleave: false,
            plain: false,
            latest: Latest::Keep,
            rate: None,
        }
    }

    /// A timer method: no peer can name it.
    pub const fn timer(name: &'static str) -> Self {
        let mut method = MethodInfo::new(name, Pattern::Tell);
        method.pattern = None;
        method
    }

    /// The same method as part of the component in `field`.
    pub const fn within(mut self, field: &'static str) -> Self {
        self.field = field;
        self.id = MethodId::in_component(name_hash(field), self.id);
        self
    }

    /// Whether a caller waits for an answer.
    pub const fn answers(&self) -> bool {
        match self.pattern {
            Some(pattern) => pattern.answers(),
            None => false,
        }
    }

    /// `name`, or `field.name`.
    pub fn path(&self) -> String {
        if self.field.is_empty() {
            self.name.to_owned()
        } else {
            format!("{}.{}", self.field, self.name)
        }
    }
}

/// Puts the methods of an entity and of its component fields into one table, each component's
/// [`within`](MethodInfo::within) its field. The entity's own come under the field `""`.
///
/// # Panics
///
/// If `N` is not the number of methods, or two of them have one id; in a constant that is a compile error.
pub const fn method_table<const N: usize>(
    groups: &[(&'static str, &[MethodInfo])],
) -> [MethodInfo; N] {
    let mut table = [MethodInfo::timer(""); N];
    let mut filled = 0;
    let mut group = 0;
    while group < groups.len() {
        let (field, methods) = groups[group];
        let mut at = 0;
        while at < methods.len() {
            let method = if field.is_empty() { methods[at] } else { methods[at].within(field) };
            let mut other = 0;
            while other < filled {
                assert!(table[other].id.0 != method.id.0, "two methods have one id: rename one");
                other += 1;
            }
            table[filled] = method;
            filled += 1;
            at += 1;
        }
        group += 1;
    }
    assert!(filled == N, "the table has another length");
    table
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

impl Callers {
    /// Nobody.
    pub const NONE: Callers = Callers { client: false, server: false, operator: false };
    /// Clients only.
    pub const CLIENT: Callers = Callers { client: true, server: false, operator: false };
    /// Entities and services only.
    pub const SERVER: Callers = Callers { client: false, server: true, operator: false };
}

/// Which older tells of a client are replaced by a newer one, while they wait in the mailbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Latest {
    /// None: each is handled.
    #[default]
    Keep,
    /// Those of the same method.
    Method,
    /// Those of the same method with the same value of the argument at this position.
    Argument(u8),
}

/// At most `count` calls in any `per_ms` milliseconds, in the long run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Calls; also how many may come at once.
    pub count: u32,
    /// Milliseconds.
    pub per_ms: u32,
}

/// A set of points in an entity's life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hooks(pub u16);

impl Hooks {
    /// None.
    pub const NONE: Hooks = Hooks(0);
    /// [`Hook::Created`].
    pub const CREATED: Hooks = Hooks(1);
    /// [`Hook::Loaded`].
    pub const LOADED: Hooks = Hooks(2);
    /// [`Hook::Online`].
    pub const ONLINE: Hooks = Hooks(4);
    /// [`Hook::Offline`].
    pub const OFFLINE: Hooks = Hooks(8);
    /// [`Hook::BeforeSave`].
    pub const BEFORE_SAVE: Hooks = Hooks(16);
    /// [`Hook::Daily`].
    pub const DAILY: Hooks = Hooks(32);
    /// [`Hook::Reloaded`].
    pub const RELOADED: Hooks = Hooks(64);
    /// [`Hook::Destroyed`].
    pub const DESTROYED: Hooks = Hooks(128);
    /// [`Hook::Step`].
    pub const STEP: Hooks = Hooks(256);
    /// [`Hook::BeforeMove`].
    pub const BEFORE_MOVE: Hooks = Hooks(512);
    /// [`Hook::Moved`].
    pub const MOVED: Hooks = Hooks(1024);

    /// Both sets.
    pub const fn and(self, other: Hooks) -> Hooks {
        Hooks(self.0 | other.0)
    }

    /// Whether all of `other` are in this set.
    pub const fn has(self, other: Hooks) -> bool {
        self.0 & other.0 == other.0
    }
}

/// A point in an entity's life. Hooks run as turns, in order with the entity's messages.
#[derive(Clone, Debug)]
pub enum Hook {
    /// It was just made; its first turn.
    Created,
    /// Its document was read; after `Created`.
    Loaded,
    /// A client was bound to it, or is connected again.
    Online(Peer),
    /// A client's connection is lost (it may come back), or its stream ended.
    Offline(Peer, CloseCode),
    /// Its document is about to be written.
    BeforeSave,
    /// It is about to move to another node, and may note what is to come along beside its document
    /// (see [`Cx::carry`](crate::Cx::carry)). The move may still be given up.
    BeforeMove,
    /// It has come from another node: after `Created`, `Loaded` and an `Online` for each client that is
    /// connected, before all mail. Its timers are those that it had.
    Moved,
    /// The day changed, as the game's calendar has it.
    Daily,
    /// Tables or scripts were swapped.
    Reloaded,
    /// It is about to be removed; its last turn. Only a plain handler is waited for.
    Destroyed,
    /// Steps of a scene are due ([`KindInfo::steps_per_second`]).
    Step(Steps),
}

impl Hook {
    /// The set that holds just this one.
    pub const fn bit(&self) -> Hooks {
        match self {
            Hook::Created => Hooks::CREATED,
            Hook::Loaded => Hooks::LOADED,
            Hook::Online(_) => Hooks::ONLINE,
            Hook::Offline(..) => Hooks::OFFLINE,
            Hook::BeforeSave => Hooks::BEFORE_SAVE,
            Hook::BeforeMove => Hooks::BEFORE_MOVE,
            Hook::Moved => Hooks::MOVED,
            Hook::Daily => Hooks::DAILY,
            Hook::Reloaded => Hooks::RELOADED,
            Hook::Destroyed => Hooks::DESTROYED,
            Hook::Step(_) => Hooks::STEP,
        }
    }
}
