//! Calling clients: what the stubs of `#[client]` interfaces are made of.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use proto::frame::Status;
use proto::link::Slot;
use proto::schema::{self, SchemaBuilder};
use proto::{DecodeError, EntityId, KindId, Message, MethodId};

use crate::cx::{ClientCall, Cx, GroupSlot, Outside, Peer, PushMode};
use crate::entity::Entity;
use crate::error::{CallError, Failure, Fault};

/// What a client lets servers call. `#[client]` on a trait writes it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no client interface",
    label = "declare it with `#[client] trait {Self} {{ .. }}`"
)]
pub trait ClientInterface: Sized + 'static {
    /// What methods of one client are called on.
    type Stub<'c>;
    /// What methods of a group are called on.
    type Cast<'c>;

    /// Unique within a cluster.
    const NAME: &'static str;
    /// Its methods.
    const METHODS: &'static [ClientMethod];

    /// Makes the stub of one client.
    fn stub(link: ClientLink<'_>) -> Self::Stub<'_>;

    /// Makes the stub of a group.
    fn cast(link: GroupLink<'_>) -> Self::Cast<'_>;

    /// Adds the interface and its types to a schema.
    fn describe(schema: &mut SchemaBuilder);
}

/// What is fixed about one method of a client.
#[derive(Clone, Copy, Debug)]
pub struct ClientMethod {
    /// Its name.
    pub name: &'static str,
    /// [`MethodId::of`] the name.
    pub id: MethodId,
    /// Former names.
    pub aliases: &'static [&'static str],
    /// Whether the client answers.
    pub answers: bool,
    /// How long the server waits for an answer, in milliseconds.
    pub deadline_ms: u32,
}

impl ClientMethod {
    /// How long a server waits for a client's answer unless the method says otherwise.
    pub const DEADLINE_MS: u32 = 2_000;

    /// A method without an answer, as a base to write others from.
    pub const fn new(name: &'static str) -> Self {
        ClientMethod {
            name,
            id: MethodId::of(name),
            aliases: &[],
            answers: false,
            deadline_ms: Self::DEADLINE_MS,
        }
    }
}

/// Refuses two methods with one id.
///
/// # Panics
///
/// If there are two; in a constant that is a compile error.
pub const fn distinct_methods(methods: &[ClientMethod]) {
    let mut at = 0;
    while at < methods.len() {
        let mut other = at + 1;
        while other < methods.len() {
            assert!(methods[at].id.0 != methods[other].id.0, "two methods have one id: rename one");
            other += 1;
        }
        at += 1;
    }
}

/// The part of a context that reaches clients.
pub(crate) trait Port {
    fn push(&self, peer: &Peer, method: MethodId, mode: PushMode, body: &dyn Fn(&mut Vec<u8>));
    fn call(
        &self,
        peer: &Peer,
        method: MethodId,
        deadline: Duration,
        body: &dyn Fn(&mut Vec<u8>),
    ) -> ClientCall;
    fn cast(
        &self,
        group: GroupSlot,
        method: MethodId,
        mode: PushMode,
        body: &dyn Fn(&mut Vec<u8>),
    ) -> Told;
}

macro_rules! port {
    ($($header:tt)*) => {
        $($header)* {
            fn push(
                &self,
                peer: &Peer,
                method: MethodId,
                mode: PushMode,
                body: &dyn Fn(&mut Vec<u8>),
            ) {
                self.push_raw(peer, method, mode, |out| body(out));
            }

            fn call(
                &self,
                peer: &Peer,
                method: MethodId,
                deadline: Duration,
                body: &dyn Fn(&mut Vec<u8>),
            ) -> ClientCall {
                self.call_client_raw(peer, method, Some(deadline), |out| body(out))
            }

            fn cast(
                &self,
                group: GroupSlot,
                method: MethodId,
                mode: PushMode,
                body: &dyn Fn(&mut Vec<u8>),
            ) -> Told {
                self.group_cast_raw(group, method, mode, |out| body(out))
            }
        }
    };
}

port!(impl<E: Entity> Port for Cx<E>);
port!(impl Port for Outside);

impl<E: Entity> Cx<E> {
    /// The methods of the client `peer`.
    pub fn client<C: ClientInterface>(&self, peer: &Peer) -> C::Stub<'_> {
        C::stub(ClientLink { port: self, peer: peer.clone(), deadline: None })
    }

    /// Opens a group of clients. It lives until this entity is gone or closes it.
    pub fn group<C: ClientInterface>(&self, name: &str) -> Group<C> {
        Group::new(self.group_open(name, KindId::of(C::NAME)))
    }

    /// The methods of all members of `group`.
    pub fn cast<C: ClientInterface>(&self, group: &Group<C>) -> C::Cast<'_> {
        C::cast(GroupLink { port: self, group: group.slot })
    }
}

impl Outside {
    /// The methods of the client `peer`.
    pub fn client<C: ClientInterface>(&self, peer: &Peer) -> C::Stub<'_> {
        C::stub(ClientLink { port: self, peer: peer.clone(), deadline: None })
    }
}

/// What the stub of one client wraps.
pub struct ClientLink<'c> {
    port: &'c dyn Port,
    peer: Peer,
    deadline: Option<Duration>,
}

impl ClientLink<'_> {
    /// Waits at most `deadline` for answers, instead of what the methods declare.
    #[must_use]
    pub fn within(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Sends without an answer, in order with everything else for this client. A client that is
    /// gone is no error: what was sent is dropped and counted.
    pub fn push(&self, method: &ClientMethod, mode: PushMode, body: impl Fn(&mut Vec<u8>)) {
        self.port.push(&self.peer, method.id, mode, &body);
    }

    /// Sends and waits for the answer. `finish` reads it.
    pub fn call<O>(
        &self,
        method: &ClientMethod,
        body: impl Fn(&mut Vec<u8>),
        finish: fn(Answered) -> O,
    ) -> ClientAnswer<O> {
        let declared = Duration::from_millis(u64::from(method.deadline_ms));
        let deadline = self.deadline.unwrap_or(declared);
        ClientAnswer { call: self.port.call(&self.peer, method.id, deadline, &body), finish }
    }
}

impl fmt::Debug for ClientLink<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientLink").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

/// What the stub of a group wraps.
#[derive(Clone, Copy)]
pub struct GroupLink<'c> {
    port: &'c dyn Port,
    group: GroupSlot,
}

impl<'c> GroupLink<'c> {
    /// Sends to all whom `port` stands for.
    pub(crate) fn to(port: &'c dyn Port) -> Self {
        GroupLink { port, group: GroupSlot(Slot::default()) }
    }

    /// Sends to every member.
    pub fn push(&self, method: &ClientMethod, mode: PushMode, body: impl Fn(&mut Vec<u8>)) -> Told {
        self.port.cast(self.group, method.id, mode, &body)
    }
}

impl fmt::Debug for GroupLink<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupLink").finish_non_exhaustive()
    }
}

/// What came back from a client.
pub type Answered = Result<(Status, Vec<u8>), CallError>;

/// A call to a client under way. The server waits for it no longer than its deadline.
#[must_use = "the answer comes by awaiting"]
pub struct ClientAnswer<O> {
    call: ClientCall,
    finish: fn(Answered) -> O,
}

impl<O> Future for ClientAnswer<O> {
    type Output = O;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<O> {
        let finish = self.finish;
        Pin::new(&mut self.call).poll(cx).map(finish)
    }
}

impl<O> fmt::Debug for ClientAnswer<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientAnswer").finish_non_exhaustive()
    }
}

/// Reads a client's answer of type `T`.
pub fn answer_of<T: Message>(answered: Answered) -> Result<T, CallError> {
    match answered? {
        (Status::Ok, body) => proto::decode(&body).map_err(unreadable),
        (status, _) => Err(Fault::Status(status).into_error(EntityId::default(), Duration::ZERO)),
    }
}

/// Reads a client's answer of type `T`, or its own error `E`.
pub fn answer_or_error<T: Message, E: Message>(answered: Answered) -> Result<T, Failure<E>> {
    match answered? {
        (Status::App, body) => {
            let error = proto::decode(&body).map_err(|error| Failure::Call(unreadable(error)))?;
            Err(Failure::App(error))
        }
        other => answer_of(Ok(other)).map_err(Failure::Call),
    }
}

/// A client that answers with what cannot be read has failed.
fn unreadable(error: DecodeError) -> CallError {
    CallError::BadArgument {
        target: EntityId::default(),
        problem: format!("the client's answer cannot be read: {error}").into(),
    }
}

/// One method for the schema, without its types.
pub fn describe_client_method(method: &ClientMethod, pattern: schema::Pattern) -> schema::Method {
    let mut described = schema::Method::new(method.name, pattern);
    described.callers = schema::Callers { server: true, ..schema::Callers::default() };
    described.deadline_ms = if method.answers { method.deadline_ms } else { 0 };
    described.aliases = method.aliases.iter().map(|alias| (*alias).to_owned()).collect();
    described
}

/// Adds a client interface to a schema.
pub fn describe_client(
    name: &str,
    aliases: &[&str],
    methods: Vec<schema::Method>,
    schema: &mut SchemaBuilder,
) {
    schema.interface(schema::Interface {
        name: name.to_owned(),
        id: KindId::of(name),
        form: schema::Form::Client,
        aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
        methods: methods.into_iter().map(|method| (method.path.clone(), method)).collect(),
    });
}

/// The key under which only the newest push is kept: one per method and value.
pub fn latest_key(method: MethodId, value: Option<&dyn Fn(&mut Vec<u8>)>) -> u64 {
    // FNV-1a, 64 bits.
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let mut add = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    };
    add(&method.0.to_le_bytes());
    if let Some(write) = value {
        let mut bytes = Vec::new();
        write(&mut bytes);
        add(&bytes);
    }
    hash
}

/// What became of a push to a group. It may be left alone: what went nowhere is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told(pub(crate) Result<(), GroupClosed>);

impl Told {
    /// Whether it was sent to the members, or why not.
    ///
    /// # Errors
    ///
    /// [`GroupClosed`].
    pub fn ok(self) -> Result<(), GroupClosed> {
        self.0
    }
}

/// There is no such group (any more): it was closed, the entity that opened it has ended, or
/// its worker had too many groups to open it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the group is closed: open another one with `cx.group`")]
pub struct GroupClosed;

/// A group of clients that implement `C`: one push reaches them all, copied at the gates.
///
/// A plain value of the entity that opened it; it leads nowhere else.
pub struct Group<C> {
    slot: GroupSlot,
    client: PhantomData<fn() -> C>,
}

impl<C: ClientInterface> Group<C> {
    fn new(slot: GroupSlot) -> Self {
        Group { slot, client: PhantomData }
    }

    /// Takes a client in. Twice is once.
    pub fn join<E: Entity>(&self, cx: &Cx<E>, peer: &Peer) {
        cx.group_join(self.slot, peer);
    }

    /// Lets a client go.
    pub fn leave<E: Entity>(&self, cx: &Cx<E>, peer: &Peer) {
        cx.group_leave(self.slot, peer);
    }

    /// Ends the group; its members are told.
    pub fn close<E: Entity>(self, cx: &Cx<E>) {
        cx.group_close(self.slot);
    }
}

impl<C> fmt::Debug for Group<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").finish_non_exhaustive()
    }
}
