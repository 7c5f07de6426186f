//! How the output of the attribute macros fits together.
//!
//! `#[rpc]` sees only methods, `#[entity]` and `#[component]` see only fields. What the first
//! writes ([`Methods`]) is joined by what the others write ([`Module`], [`Part`] and the
//! [`Entity`] itself). Games do not name these traits; they are public for generated code.

use std::cell::RefCell;
use std::future::Future;
use std::marker::PhantomData;
use std::rc::Rc;

use proto::frame::Status;
use proto::schema::{self, SchemaBuilder};
use proto::{DecodeError, KindId, MethodId, name_hash};

use crate::cx::{Cx, Link};
use crate::entity::{Callers, Class, Entity, Hook, Hooks, KindInfo, MethodInfo, Rate};
use crate::step::{Step, Turn};
use crate::timer::Schedule;

/// State that methods belong to: an entity itself, or one of its components.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no entity, component or service",
    label = "put `#[entity]`, `#[component(of = ..)]` or `#[service]` on the type"
)]
pub trait Module: Sized + 'static {
    /// The entity that it is, or is part of.
    type Owner: Entity;
    /// The type's full path; tells components apart.
    const NAME: &'static str;
    /// The [`NAME`](Self::NAME)s of the components that must start before this one.
    const NEEDS: &'static [&'static str] = &[];
    /// Whether it is a stateless service, whose turns all run side by side.
    const SERVICE: bool = false;
}

/// The methods of a module. `#[rpc]` writes it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no `#[rpc]` block",
    label = "write `#[rpc] impl {Self} {{ .. }}`; it may be empty"
)]
pub trait Methods: Module {
    /// One variant per remote method and timer.
    type Message: Send + 'static;
    /// One variant per method that answers.
    type Reply: Send + 'static;
    /// What servers call methods on.
    type Stub<'c, P: Part<Module = Self>>;
    /// What timers are started on.
    type Timers<'c, P: Part<Module = Self>>;
    /// The ids of the methods that clients and operators may name.
    type Ids;
    /// What can listen to topics.
    type Events<P: Part<Module = Self>>;

    /// The methods, without their component's field.
    const METHODS: &'static [MethodInfo];
    /// The hooks there are.
    const HOOKS: Hooks;
    /// Those among them that are `async`.
    const HOOKS_ASYNC: Hooks;

    /// Handles one message; `wrap` makes the owner's reply.
    fn dispatch<W>(turn: Turn<Self::Owner, Self>, message: Self::Message, wrap: W) -> Step
    where
        W: Fn(Self::Reply) -> <Self::Owner as Entity>::Reply + Copy + 'static;

    /// The position in [`METHODS`](Self::METHODS) of the method that a message is for.
    fn position(message: &Self::Message) -> usize;

    /// Appends the arguments as one array.
    fn encode_message(message: &Self::Message, out: &mut Vec<u8>);

    /// Reads the arguments of the method at `position` and checks their limits.
    ///
    /// # Errors
    ///
    /// What is wrong with the bytes or an argument.
    fn decode_message(position: usize, body: &[u8]) -> Result<Self::Message, DecodeError>;

    /// Appends a reply or the method's own error; tells which.
    fn encode_reply(reply: &Self::Reply, out: &mut Vec<u8>) -> Status;

    /// Reads the reply of the method at `position`.
    ///
    /// # Errors
    ///
    /// What is wrong with the bytes.
    fn decode_reply(
        position: usize,
        status: Status,
        body: &[u8],
    ) -> Result<Self::Reply, DecodeError>;

    /// Makes the stub of these methods as `P`.
    fn stub<P: Part<Module = Self>>(link: Link<'_, P::Owner>) -> Self::Stub<'_, P>;

    /// Makes the timers of these methods as `P`.
    fn timers<P: Part<Module = Self>>(schedule: Schedule<'_, P::Owner>) -> Self::Timers<'_, P>;

    /// What of these methods as `P` can listen to topics.
    fn events<P: Part<Module = Self>>() -> Self::Events<P>;

    /// The ids of the methods in the component `field`; empty for an entity's own.
    fn ids(field: &str) -> Self::Ids;

    /// Runs a hook that is not `async`; does nothing if there is none.
    fn hook_now(&mut self, cx: &mut Cx<Self::Owner>, hook: &Hook);

    /// Runs a hook, `async` or not.
    fn hook_later(
        state: Rc<RefCell<Self>>,
        cx: &mut Cx<Self::Owner>,
        hook: &Hook,
    ) -> impl Future<Output = ()>;

    /// Describes the methods in the component `field` (empty for an entity's own), adding the
    /// types they use.
    fn describe(field: &str, schema: &mut SchemaBuilder) -> Vec<schema::Method>;
}

/// A place of a module in its entity: how its messages and replies fit into the entity's.
pub trait Part: 'static {
    /// The entity.
    type Owner: Entity;
    /// The module in this place.
    type Module: Methods<Owner = Self::Owner>;

    /// Makes the entity's message of the module's.
    fn message(message: <Self::Module as Methods>::Message) -> <Self::Owner as Entity>::Message;

    /// Takes the module's reply out of the entity's; `None` if it is another part's.
    fn reply(reply: <Self::Owner as Entity>::Reply) -> Option<<Self::Module as Methods>::Reply>;
}

/// The place of an entity's own methods.
pub struct Own<E>(PhantomData<fn() -> E>);

impl<E: OwnPart> Part for Own<E> {
    type Owner = E;
    type Module = E;

    fn message(message: <E as Methods>::Message) -> <E as Entity>::Message {
        E::own_message(message)
    }

    fn reply(reply: <E as Entity>::Reply) -> Option<<E as Methods>::Reply> {
        E::own_reply(reply)
    }
}

/// How an entity's own messages and replies fit among those of its components.
pub trait OwnPart: Entity + Methods<Owner = Self> {
    /// Makes the entity's message of its own part's.
    fn own_message(message: <Self as Methods>::Message) -> <Self as Entity>::Message;

    /// Takes the own part's reply out of the entity's.
    fn own_reply(reply: <Self as Entity>::Reply) -> Option<<Self as Methods>::Reply>;
}

/// Makes a `T` by its `Default` if it has one. Generated code asks
/// `(&Make::<T>::new()).make()` with both traits in scope; the compiler takes the first that fits.
#[derive(Debug)]
pub struct Make<T>(PhantomData<T>);

impl<T> Make<T> {
    /// Asks for a `T`.
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Self {
        Make(PhantomData)
    }
}

/// The way to make a type that has a `Default`.
pub trait MakeByDefault<T> {
    /// Makes it.
    fn make(&self) -> Option<T>;
}

impl<T: Default> MakeByDefault<T> for Make<T> {
    fn make(&self) -> Option<T> {
        Some(T::default())
    }
}

/// The way for a type that has none.
pub trait MakeNothing<T> {
    /// Makes nothing.
    fn make(&self) -> Option<T>;
}

impl<T> MakeNothing<T> for &Make<T> {
    fn make(&self) -> Option<T> {
        None
    }
}

/// The id of `name` in the component `field`; `field` is empty for an entity's own methods.
pub fn method_id(field: &str, name: &str) -> MethodId {
    let id = MethodId::of(name);
    if field.is_empty() { id } else { MethodId::in_component(name_hash(field), id) }
}

/// `name`, or `field.name`.
pub fn method_path(field: &str, name: &str) -> String {
    if field.is_empty() { name.to_owned() } else { format!("{field}.{name}") }
}

/// One method for the schema, without its types.
pub fn describe_method(field: &str, info: &MethodInfo) -> schema::Method {
    let pattern = match info.pattern {
        Some(crate::pattern::Pattern::Request) => schema::Pattern::Request,
        Some(crate::pattern::Pattern::Invoke) => schema::Pattern::Invoke,
        _ => schema::Pattern::Tell,
    };
    let Callers { client, server, operator } = info.callers;
    let mut method = schema::Method::new(&method_path(field, info.name), pattern);
    method.callers = schema::Callers { client, server, operator };
    method.level = info.level;
    method.deadline_ms = info.deadline_ms;
    method.idempotent = info.idempotent;
    method.rate = info.rate.map(rate_text);
    method.aliases = info.aliases.iter().map(|alias| method_path(field, alias)).collect();
    method
}

fn rate_text(rate: Rate) -> String {
    match rate.per_ms {
        1_000 => format!("{}/s", rate.count),
        60_000 => format!("{}/m", rate.count),
        3_600_000 => format!("{}/h", rate.count),
        other => format!("{}/{other}ms", rate.count),
    }
}

/// Adds a kind with its methods to a schema.
pub fn describe_kind(
    kind: &KindInfo,
    methods: impl IntoIterator<Item = schema::Method>,
    schema: &mut SchemaBuilder,
) {
    let form = match kind.class {
        Class::Service => schema::Form::Service,
        Class::Keyed | Class::Room | Class::Singleton => schema::Form::Entity,
    };
    schema.interface(schema::Interface {
        name: kind.name.to_owned(),
        id: KindId::of(kind.name),
        form,
        aliases: kind.aliases.iter().map(|alias| (*alias).to_owned()).collect(),
        methods: methods.into_iter().map(|method| (method.path.clone(), method)).collect(),
    });
}

/// A component as [`start_order`] sees it.
#[derive(Clone, Copy, Debug)]
pub struct Needs {
    /// The field's name.
    pub field: &'static str,
    /// Its type's [`Module::NAME`].
    pub name: &'static str,
    /// Its type's [`Module::NEEDS`].
    pub needs: &'static [&'static str],
}

/// The order in which components start: each after those it needs, otherwise as declared. Gives
/// positions in `parts`.
///
/// # Errors
///
/// If a component needs one that the entity does not have, or some need each other in a ring,
/// which is named. Generated code asks in a constant, so that it is a compile error.
// The large error lives in constants only.
#[allow(clippy::result_large_err)]
pub const fn start_order<const N: usize>(parts: [Needs; N]) -> Result<[usize; N], Disorder> {
    let mut order = [0; N];
    let mut started = [false; N];
    let mut count = 0;
    while count < N {
        let before = count;
        let mut at = 0;
        while at < N {
            match is_ready(&parts, at, &started) {
                Ok(ready) if ready && !started[at] => {
                    order[count] = at;
                    started[at] = true;
                    count += 1;
                }
                Ok(_) => {}
                Err(problem) => return Err(problem),
            }
            at += 1;
        }
        if count == before {
            return Err(ring(&parts, &started));
        }
    }
    Ok(order)
}

#[allow(clippy::result_large_err)]
const fn is_ready(parts: &[Needs], at: usize, started: &[bool]) -> Result<bool, Disorder> {
    let needs = parts[at].needs;
    let mut need = 0;
    while need < needs.len() {
        match position(parts, needs[need]) {
            Some(other) if started[other] => {}
            Some(_) => return Ok(false),
            None => {
                return Err(Disorder::new()
                    .with("component `")
                    .with(parts[at].field)
                    .with("` needs ")
                    .with(needs[need])
                    .with(", and the entity has no component of that type"));
            }
        }
        need += 1;
    }
    Ok(true)
}

const fn position(parts: &[Needs], name: &str) -> Option<usize> {
    let mut at = 0;
    while at < parts.len() {
        if same(parts[at].name, name) {
            return Some(at);
        }
        at += 1;
    }
    None
}

const fn same(left: &str, right: &str) -> bool {
    let (left, right) = (left.as_bytes(), right.as_bytes());
    if left.len() != right.len() {
        return false;
    }
    let mut at = 0;
    while at < left.len() {
        if left[at] != right[at] {
            return false;
        }
        at += 1;
    }
    true
}

/// Why components cannot be started: a text put together in a constant, cut at its end.
#[derive(Clone, Copy)]
pub struct Disorder {
    bytes: [u8; 512],
    len: usize,
}

impl Disorder {
    const fn new() -> Self {
        Disorder { bytes: [0; 512], len: 0 }
    }

    const fn with(mut self, text: &str) -> Self {
        let text = text.as_bytes();
        let mut at = 0;
        while at < text.len() && self.len < self.bytes.len() {
            self.bytes[self.len] = text[at];
            self.len += 1;
            at += 1;
        }
        self
    }

    /// The text.
    pub const fn text(&self) -> &str {
        let (text, _) = self.bytes.split_at(self.len);
        match std::str::from_utf8(text) {
            Ok(text) => text,
            Err(_) => "components cannot be started",
        }
    }
}

impl std::fmt::Debug for Disorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.text())
    }
}

/// Follows unmet needs until a component comes twice, and names the ring.
const fn ring(parts: &[Needs], started: &[bool]) -> Disorder {
    let mut at = 0;
    while started[at] {
        at += 1;
    }
    // After as many steps as there are parts, the walk is inside the ring.
    let mut steps = 0;
    while steps < parts.len() {
        at = next_in_ring(parts, started, at);
        steps += 1;
    }
    let start = at;
    let mut text = Disorder::new().with("components need each other in a ring: ");
    loop {
        text = text.with(parts[at].field).with(" -> ");
        at = next_in_ring(parts, started, at);
        if at == start {
            break;
        }
    }
    text.with(parts[start].field)
}

const fn next_in_ring(parts: &[Needs], started: &[bool], at: usize) -> usize {
    let needs = parts[at].needs;
    let mut need = 0;
    while need < needs.len() {
        if let Some(other) = position(parts, needs[need])
            && !started[other]
        {
            return other;
        }
        need += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    const fn part(field: &'static str, needs: &'static [&'static str]) -> Needs {
        Needs { field, name: field, needs }
    }

    #[test]
    fn components_start_after_what_they_need() {
        const ORDER: Result<[usize; 4], Disorder> = start_order([
            part("shop", &["bag", "wallet"]),
            part("bag", &["wallet"]),
            part("chat", &[]),
            part("wallet", &[]),
        ]);
        assert_eq!(ORDER.unwrap(), [2, 3, 1, 0]);
    }

    #[test]
    fn rings_and_missing_components_are_named() {
        let ring = start_order([
            part("quest", &["shop"]),
            part("shop", &["wallet"]),
            part("bag", &["shop"]),
            part("wallet", &["bag"]),
        ]);
        expect!["components need each other in a ring: shop -> wallet -> bag -> shop"]
            .assert_eq(ring.unwrap_err().text());
        let missing = start_order([part("bag", &["wallet"])]);
        expect!["component `bag` needs wallet, and the entity has no component of that type"]
            .assert_eq(missing.unwrap_err().text());
    }
}
