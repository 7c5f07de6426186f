//! Routes as a service of the cluster: clients reach it by a stream, entities by its stub.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};

use env::Instant;
use proto::codec::{Bytes, Decoder, Fields, Message, Problem, put_array};
use proto::frame::Status;
use proto::schema::{self, SchemaBuilder};
use proto::{DecodeError, EntityId, decode};

use super::{
    Answer, Asked, Failure, HANDLER_FAILED, Options, Output, Peer, RouteError, Router, Routes,
    Started,
};
use crate::call::{Call, CallEnd};
use crate::cx::{self, Caller, Cx, Link};
use crate::entity::{Callers, Class, Entity, Hook, Hooks, KindInfo, MethodInfo};
use crate::error::CallError;
use crate::module::{describe_kind, describe_method};
use crate::pattern::Pattern;
use crate::step::{Step, Turn};
use crate::timer::Schedule;

/// An app made of routes that runs as a service: `host.register::<Routed<Chat>>()`.
///
/// Each worker makes its own router by [`routes`](Self::routes).
pub trait RouteApp: Sized + 'static {
    /// The kind of the service; unique within a cluster.
    const NAME: &'static str;

    /// The limits of its routers.
    const OPTIONS: Options = Options { requests_max: 888, answer_wait: ANSWER_WAIT };

    /// Declares the routes.
    fn routes() -> Routes<RouteCx<Self>>;
}

/// Most entities that are remembered as connections.
const ENTITIES_MAX: usize = 4_096;

/// Numbers of entities' connections start here, above those of clients.
const FIRST_ENTITY: u64 = 1 << 63;

const ANSWER_WAIT: std::time::Duration = std::time::Duration::from_secs(4);

/// What handlers and hooks of an app reach the cluster through: all that a context offers.
pub struct RouteCx<A: RouteApp> {
    cx: Cx<Routed<A>>,
}

impl<A: RouteApp> Deref for RouteCx<A> {
    type Target = Cx<Routed<A>>;

    fn deref(&self) -> &Self::Target {
        &self.cx
    }
}

impl<A: RouteApp> Clone for RouteCx<A> {
    fn clone(&self) -> Self {
        RouteCx { cx: self.cx.twin() }
    }
}

impl<A: RouteApp> fmt::Debug for RouteCx<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteCx").field("app", &A::NAME).finish_non_exhaustive()
    }
}

/// The service that an app of routes is.
///
/// Its method `route` takes `[command, body]` and answers `[code, body]`; `send` takes the same
/// and has no answer. The caller of an async handler gets its answer when the handler ends.
pub struct Routed<A: RouteApp> {
    /// `None` until the start hooks have run, or if they failed.
    router: Option<Router<RouteCx<A>>>,
    wakers: Arc<Wakers>,
    /// Answers on their way to the turns that wait for them.
    answers: BTreeMap<u64, Answer>,
    next_sequence: u64,
    /// Connections of clients, by their number in the router.
    clients: BTreeMap<u64, cx::Peer>,
    /// Connections of entities that call, and the number of the next.
    entities: BTreeMap<EntityId, u64>,
    next_entity: u64,
    /// When the timer rings that is set.
    armed: Option<Instant>,
}

/// The turns that wait for answers.
#[derive(Default)]
struct Wakers {
    told: AtomicBool,
    waiting: Mutex<BTreeMap<u64, Waker>>,
}

impl Wakers {
    /// Wakes them once for all answers that come until the next look.
    fn tell(&self) {
        if !self.told.swap(true, Ordering::AcqRel) {
            let waiting = std::mem::take(&mut *self.lock());
            waiting.into_values().for_each(Waker::wake);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<A: RouteApp> Routed<A> {
    /// Whether the routes may start: no command or blueprint twice, no time of zero.
    ///
    /// # Errors
    ///
    /// What is wrong.
    pub fn check() -> Result<(), RouteError> {
        A::routes().check().map(drop)
    }

    fn new() -> Self {
        Routed {
            router: None,
            wakers: Arc::default(),
            answers: BTreeMap::new(),
            next_sequence: 1,
            clients: BTreeMap::new(),
            entities: BTreeMap::new(),
            next_entity: FIRST_ENTITY,
            armed: None,
        }
    }

    fn start(&mut self, cx: &mut RouteCx<A>) {
        let wakers = Arc::clone(&self.wakers);
        let notify = Arc::new(move || wakers.tell());
        match Router::start(A::routes(), A::OPTIONS, cx.now(), cx, Some(notify)) {
            Ok(router) => self.router = Some(router),
            Err(error) => tracing::error!(app = A::NAME, "routes cannot start: {error}"),
        }
        self.pump(cx);
    }

    /// The router's number of the caller's connection; opens one for an entity.
    fn connection(&mut self, cx: &mut RouteCx<A>) -> u64 {
        match cx.caller() {
            Caller::Client(peer) => number_of(&peer),
            Caller::Entity(id) => match self.entities.get(&id) {
                Some(known) => *known,
                None => self.open_entity(cx, id),
            },
            Caller::Operator | Caller::Outside | Caller::Own => {
                let inner = Peer {
                    connection: u64::MAX,
                    address: "inside".to_owned(),
                    endpoint: "inside".to_owned(),
                };
                self.open(cx, inner);
                u64::MAX
            }
        }
    }

    /// Opens a connection for an entity; the one opened longest ago makes room.
    fn open_entity(&mut self, cx: &mut RouteCx<A>, id: EntityId) -> u64 {
        if self.entities.len() >= ENTITIES_MAX
            && let Some((oldest, number)) = self.entities.iter().min_by_key(|(_, number)| **number)
        {
            let (oldest, number) = (*oldest, *number);
            self.entities.remove(&oldest);
            if let Some(router) = &mut self.router {
                router.handle_closed(cx.now(), cx, number);
            }
        }
        let connection = self.next_entity;
        self.next_entity += 1;
        self.entities.insert(id, connection);
        let peer = Peer { connection, address: id.to_string(), endpoint: "mesh".to_owned() };
        self.open(cx, peer);
        connection
    }

    fn open(&mut self, cx: &mut RouteCx<A>, peer: Peer) {
        if let Some(router) = &mut self.router {
            router.handle_open(cx.now(), cx, peer);
        }
    }

    fn online(&mut self, cx: &mut RouteCx<A>, client: &cx::Peer) {
        let number = number_of(client);
        if self.clients.insert(number, client.clone()).is_some() {
            return;
        }
        self.open(
            cx,
            Peer {
                connection: number,
                address: format!("account {}", client.account().0),
                endpoint: client.stream().to_owned(),
            },
        );
        if let Some(router) = &mut self.router {
            router.handle_come(cx.now(), cx, number);
        }
        self.pump(cx);
    }

    /// A lost connection may come back: only the end of the stream closes it here.
    fn offline(&mut self, cx: &mut RouteCx<A>, client: &cx::Peer) {
        if cx.peers().contains(client) {
            return;
        }
        let number = number_of(client);
        self.clients.remove(&number);
        if let Some(router) = &mut self.router {
            router.handle_closed(cx.now(), cx, number);
        }
        self.pump(cx);
    }

    fn begin(&mut self, cx: &mut RouteCx<A>, ask: Ask, answers: bool) -> (u64, Started) {
        let connection = self.connection(cx);
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let asked =
            Asked { command: ask.command, sequence: answers.then_some(sequence), body: ask.body };
        let Some(router) = &mut self.router else {
            self.answers.insert(sequence, Answer { code: HANDLER_FAILED, body: Vec::new() });
            return (sequence, Started::Done);
        };
        let started = router.handle_request(cx.now(), cx, connection, asked);
        self.pump(cx);
        (sequence, started)
    }

    fn finish(&mut self, cx: &mut RouteCx<A>, id: u64, result: Result<(), Failure>) {
        if let Some(router) = &mut self.router {
            router.handle_finished(cx.now(), cx, id, result);
        }
        self.pump(cx);
    }

    fn tick(&mut self, cx: &mut RouteCx<A>) {
        self.armed = None;
        if let Some(router) = &mut self.router {
            router.handle_timeout(cx.now(), cx);
        }
        self.pump(cx);
    }

    /// Takes up what the router put out, and sets the next timer.
    fn pump(&mut self, cx: &mut RouteCx<A>) {
        let Some(router) = &mut self.router else { return };
        self.wakers.told.store(false, Ordering::Release);
        router.handle_answers(cx.now(), cx);
        while let Some(output) = router.poll_output() {
            match output {
                Output::Answer { sequence, answer, .. } => {
                    self.answers.insert(sequence, answer);
                    if let Some(waker) = self.wakers.lock().remove(&sequence) {
                        waker.wake();
                    }
                }
                Output::Close { connection, reason } => {
                    if let Some(client) = self.clients.get(&connection) {
                        tracing::info!(app = A::NAME, reason, "stream ended by its routes");
                        cx.unbind(client, client.stream());
                    } else {
                        self.entities.retain(|_, number| *number != connection);
                        router.handle_closed(cx.now(), cx, connection);
                    }
                }
                Output::Report { place, failure } => {
                    tracing::warn!(app = A::NAME, place, "{failure}");
                }
            }
        }
        let due = router.poll_timeout();
        if due.is_some_and(|due| self.armed.is_none_or(|armed| due < armed)) {
            self.armed = due;
            cx.cancel("route");
            let wait = due.unwrap_or(Instant::NEVER) - cx.now();
            cx.after(wait).key("route").start(|| RouteMessage::Tick);
        }
    }

    /// The answer to request `sequence`, or the wish to be woken for it.
    fn poll_answer(
        &mut self,
        cx: &mut RouteCx<A>,
        sequence: u64,
        waker: &Waker,
    ) -> Poll<RouteReply> {
        self.wakers.lock().insert(sequence, waker.clone());
        self.pump(cx);
        let Some(answer) = self.answers.remove(&sequence) else { return Poll::Pending };
        self.wakers.lock().remove(&sequence);
        Poll::Ready(RouteReply(answer.code, Bytes(answer.body)))
    }
}

fn number_of(client: &cx::Peer) -> u64 {
    let slot = client.slot();
    (u64::from(slot.generation) << 32 | u64::from(slot.index)) & !FIRST_ENTITY
}

impl<A: RouteApp> fmt::Debug for Routed<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Routed").field("app", &A::NAME).finish_non_exhaustive()
    }
}

/// A command with its body.
#[derive(Clone, Debug)]
pub struct Ask {
    command: u32,
    body: Vec<u8>,
}

/// What a service of routes is sent.
#[derive(Clone, Debug)]
pub enum RouteMessage {
    /// Wants an answer.
    Route(Ask),
    /// Wants none.
    Send(Ask),
    /// Its own timer.
    Tick,
}

/// What a service of routes answers: code and body.
#[derive(Clone, Debug)]
pub struct RouteReply(i32, Bytes);

/// Calls a service of routes from an entity.
pub struct RouteStub<'c, A: RouteApp> {
    link: Link<'c, Routed<A>>,
}

impl<A: RouteApp> RouteStub<'_, A> {
    /// Asks `command` with `body`; gives code and body of the answer.
    pub fn ask(
        &self,
        command: u32,
        body: impl Into<Vec<u8>>,
    ) -> Call<Routed<A>, Result<Answer, CallError>> {
        let message = RouteMessage::Route(Ask { command, body: body.into() });
        let replied = |RouteReply(code, body)| Poll::Ready(Ok(Answer { code, body: body.0 }));
        self.link.call(message, CallEnd { replied, failed: Err })
    }

    /// Sends `command` with `body` one-way.
    ///
    /// # Errors
    ///
    /// Why it was not taken.
    pub fn send(&self, command: u32, body: impl Into<Vec<u8>>) -> Result<(), CallError> {
        self.link.tell(RouteMessage::Send(Ask { command, body: body.into() }))
    }
}

impl<A: RouteApp> fmt::Debug for RouteStub<'_, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteStub").field("app", &A::NAME).finish_non_exhaustive()
    }
}

const CALLERS: Callers = Callers { client: true, server: true, operator: false };

const METHODS: &[MethodInfo] = &[
    MethodInfo { callers: CALLERS, interleave: true, ..MethodInfo::new("route", Pattern::Request) },
    MethodInfo { callers: CALLERS, interleave: true, ..MethodInfo::new("send", Pattern::Tell) },
    MethodInfo::timer("tick"),
];

/// Per app, since a constant of a generic item cannot be promoted otherwise.
struct Kind<A>(PhantomData<A>);

impl<A: RouteApp> Kind<A> {
    const INFO: KindInfo = KindInfo {
        methods: METHODS,
        hooks: Hooks::CREATED.and(Hooks::ONLINE).and(Hooks::OFFLINE).and(Hooks::DESTROYED),
        ..KindInfo::new(A::NAME, Class::Service)
    };
}

impl<A: RouteApp> Entity for Routed<A> {
    type Message = RouteMessage;
    type Reply = RouteReply;
    type Stub<'c> = RouteStub<'c, A>;
    type Timers<'c> = Schedule<'c, Self>;

    const KIND: &'static KindInfo = &Kind::<A>::INFO;

    fn create(_: u64) -> Option<Self> {
        Some(Routed::new())
    }

    fn dispatch(turn: Turn<Self>, message: RouteMessage) -> Step {
        match message {
            RouteMessage::Tick => turn.tell(|this, cx| this.tick(&mut RouteCx { cx: cx.twin() })),
            RouteMessage::Route(ask) => turn.run(move |state, cx| async move {
                let mut cx = RouteCx { cx };
                let sequence = work(&state, &mut cx, ask, true).await;
                poll_fn(|context| {
                    state.borrow_mut().poll_answer(&mut cx, sequence, context.waker())
                })
                .await
            }),
            RouteMessage::Send(ask) => turn.run_quiet(move |state, cx| async move {
                work(&state, &mut RouteCx { cx }, ask, false).await;
            }),
        }
    }

    fn hook(turn: Turn<Self>, hook: Hook) -> Step {
        turn.tell(move |this, cx| {
            let cx = &mut RouteCx { cx: cx.twin() };
            match &hook {
                Hook::Created => this.start(cx),
                Hook::Online(client) => this.online(cx, client),
                Hook::Offline(client, _) => this.offline(cx, client),
                Hook::Destroyed => {
                    if let Some(router) = &mut this.router {
                        router.stop(cx.now(), cx);
                    }
                }
                _ => {}
            }
        })
    }

    fn method(message: &RouteMessage) -> usize {
        match message {
            RouteMessage::Route(_) => 0,
            RouteMessage::Send(_) => 1,
            RouteMessage::Tick => 2,
        }
    }

    fn encode_message(message: &RouteMessage, out: &mut Vec<u8>) {
        match message {
            RouteMessage::Route(ask) | RouteMessage::Send(ask) => {
                put_array(out, 2);
                ask.command.encode(out);
                proto::codec::put_binary(out, &ask.body);
            }
            RouteMessage::Tick => put_array(out, 0),
        }
    }

    fn decode_message(method: usize, body: &[u8]) -> Result<RouteMessage, DecodeError> {
        let d = &mut Decoder::new(body);
        let mut fields = Fields::begin(d)?;
        let command = fields.required(d, "command")?;
        let Bytes(body) = fields.required(d, "body")?;
        fields.end(d)?;
        d.end()?;
        let ask = Ask { command, body };
        match method {
            0 => Ok(RouteMessage::Route(ask)),
            1 => Ok(RouteMessage::Send(ask)),
            _ => Err(Problem::Missing.into()),
        }
    }

    fn encode_reply(RouteReply(code, body): &RouteReply, out: &mut Vec<u8>) -> Status {
        put_array(out, 2);
        code.encode(out);
        body.encode(out);
        Status::Ok
    }

    fn decode_reply(_: usize, status: Status, body: &[u8]) -> Result<RouteReply, DecodeError> {
        if status != Status::Ok {
            return Err(Problem::Missing.into());
        }
        decode::<(i32, Bytes)>(body).map(|(code, body)| RouteReply(code, body))
    }

    fn stub(link: Link<'_, Self>) -> RouteStub<'_, A> {
        RouteStub { link }
    }

    fn timers(schedule: Schedule<'_, Self>) -> Schedule<'_, Self> {
        schedule
    }

    fn describe(schema: &mut SchemaBuilder) {
        let methods: Vec<_> = METHODS[..2]
            .iter()
            .map(|info| {
                let mut method = describe_method("", info);
                let command = schema::Field::new("command", u32::shape(schema));
                method.args = vec![command, schema::Field::new("body", Bytes::shape(schema))];
                method.reply = info.answers().then(|| <(i32, Bytes)>::shape(schema));
                method
            })
            .collect();
        describe_kind(Self::KIND, methods, schema);
    }
}

/// Takes a request through the router and its handler to the end; gives the request's number.
async fn work<A: RouteApp>(
    state: &Rc<RefCell<Routed<A>>>,
    cx: &mut RouteCx<A>,
    ask: Ask,
    answers: bool,
) -> u64 {
    let (sequence, started) = state.borrow_mut().begin(cx, ask, answers);
    if let Started::Later(later) = started {
        let result = later.work.await;
        state.borrow_mut().finish(cx, later.id, result);
    }
    sequence
}
