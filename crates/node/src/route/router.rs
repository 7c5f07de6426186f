use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use env::Instant;

use super::declare::{Handler, Hooks, RouteError, Routes, Table, Work};
use super::request::{
    ANSWER_LOST, ANSWER_TIMEOUT, Answer, BUSY, Failure, Given, Mailbag, Notify, Peer, Request,
    RequestInfo, Responder, Ticket, UNKNOWN_COMMAND,
};

/// Limits of a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Most requests without an answer at a time; more are answered with `BUSY`.
    pub requests_max: usize,
    /// Longest time from a request to its answer.
    pub answer_wait: Duration,
}

impl Default for Options {
    /// 888 requests, 4 s.
    fn default() -> Self {
        Options { requests_max: 888, answer_wait: Duration::from_secs(4) }
    }
}

/// One request as it comes in.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The command number.
    pub command: u32,
    /// The caller's number of this request, given back with the answer; `None` for a one-way
    /// command.
    pub sequence: Option<u64>,
    /// The bytes that came with it.
    pub body: Vec<u8>,
}

/// What a router wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Give an answer to the caller.
    Answer {
        /// The caller's connection.
        connection: u64,
        /// The number that came with the request.
        sequence: u64,
        /// Code and body.
        answer: Answer,
    },
    /// Close a connection after what was put out for it before.
    Close {
        /// Which one.
        connection: u64,
        /// Why, for the log.
        reason: &'static str,
    },
    /// Something failed: for the log.
    Report {
        /// Hook, timer or route.
        place: String,
        /// What it said.
        failure: Failure,
    },
}

/// Whether a request is over or goes on in the background.
pub enum Started {
    /// It is over; its answer is out, or its responder lives elsewhere.
    Done,
    /// Run this and give its result to [`Router::handle_finished`].
    Later(Later),
}

/// An async handler at work.
pub struct Later {
    /// Names it in [`Router::handle_finished`].
    pub id: u64,
    /// The handler's future. Dropping it fails the request.
    pub work: Work,
}

struct Pending {
    info: RequestInfo,
    /// The caller's connection and number.
    connection: u64,
    sequence: u64,
    /// Position of the command's blueprint.
    blueprint: Option<usize>,
    due: Instant,
}

struct Connection {
    peer: Rc<Peer>,
    heard_at: Instant,
    /// Its client came and is not gone.
    client: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Answer(u64),
    Repeat(usize),
    Idle(u64),
}

/// Runs an app of routes. Pure: after each `handle_*`, drain [`poll_output`](Self::poll_output).
///
/// `C` is what handlers and hooks work on; it is handed in with each call.
pub struct Router<C> {
    table: Table<C>,
    options: Options,
    bag: Arc<Mailbag>,
    connections: BTreeMap<u64, Connection>,
    pending: BTreeMap<u64, Pending>,
    /// Async handlers at work: what their after-hooks need.
    running: BTreeMap<u64, (RequestInfo, Option<usize>)>,
    timers: BTreeMap<(Instant, Due), ()>,
    output: VecDeque<Output>,
    next: u64,
    had_first: bool,
    refused: u64,
}

impl<C: 'static> Router<C> {
    /// Checks `routes` and runs the start hooks: the app's, then each blueprint's.
    ///
    /// `notify` is called when an answer is given outside a `handle_*` of this router; the driver
    /// then calls [`handle_answers`](Self::handle_answers).
    ///
    /// # Errors
    ///
    /// A command or blueprint registered twice, a time of zero, a start hook that failed.
    pub fn start(
        routes: Routes<C>,
        options: Options,
        now: Instant,
        cx: &mut C,
        notify: Option<Notify>,
    ) -> Result<Self, RouteError> {
        let table = routes.check()?;
        for (place, hooks) in everywhere(&table) {
            for hook in &hooks.start_worker {
                guard(|| hook(cx))
                    .map_err(|failure| RouteError::Start { place: place.to_owned(), failure })?;
            }
        }
        let timers = table
            .repeats
            .iter()
            .enumerate()
            .map(|(at, repeat)| ((now + repeat.every, Due::Repeat(at)), ()))
            .collect();
        Ok(Router {
            table,
            options,
            bag: Mailbag::new(notify),
            connections: BTreeMap::new(),
            pending: BTreeMap::new(),
            running: BTreeMap::new(),
            timers,
            output: VecDeque::new(),
            next: 1,
            had_first: false,
            refused: 0,
        })
    }

    /// The app's name.
    pub fn name(&self) -> &str {
        &self.table.name
    }

    /// Requests without an answer.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Answers that came a second time, or too late. They go nowhere.
    pub fn refused_answers(&self) -> u64 {
        self.refused
    }

    /// Runs the stop hooks in reverse order of the start: the last blueprint's first.
    pub fn stop(&mut self, now: Instant, cx: &mut C) {
        let places: Vec<_> = everywhere(&self.table).collect();
        for (place, hooks) in places.into_iter().rev() {
            for hook in &hooks.stop_worker {
                note(&mut self.output, place, "stop_worker", guard(|| hook(cx)));
            }
        }
        self.handle_answers(now, cx);
    }

    /// A connection opened. If a hook fails, it is closed.
    pub fn handle_open(&mut self, now: Instant, cx: &mut C, peer: Peer) {
        let id = peer.connection;
        let peer = Rc::new(peer);
        let connection = Connection { peer: peer.clone(), heard_at: now, client: false };
        if self.connections.insert(id, connection).is_some() {
            return;
        }
        if let Some(idle) = self.table.idle {
            self.timers.insert((now + idle, Due::Idle(id)), ());
        }
        let opened =
            self.run_peer_hooks(cx, &peer, "open_connection", true, |hooks| &hooks.open_connection);
        if !opened {
            self.output.push_back(Output::Close { connection: id, reason: "open hook failed" });
        }
        self.handle_answers(now, cx);
    }

    /// The client of a connection logged in. If a hook fails, the connection is closed.
    pub fn handle_come(&mut self, now: Instant, cx: &mut C, connection: u64) {
        let Some(known) = self.connections.get_mut(&connection) else { return };
        known.client = true;
        let peer = known.peer.clone();
        if !self.run_peer_hooks(cx, &peer, "client_come", true, |hooks| &hooks.client_come) {
            self.output.push_back(Output::Close { connection, reason: "client hook failed" });
        }
        self.handle_answers(now, cx);
    }

    /// The client of a connection is gone.
    pub fn handle_gone(&mut self, now: Instant, cx: &mut C, connection: u64) {
        let Some(known) = self.connections.get_mut(&connection) else { return };
        if !std::mem::replace(&mut known.client, false) {
            return;
        }
        let peer = known.peer.clone();
        self.run_peer_hooks(cx, &peer, "client_gone", false, |hooks| &hooks.client_gone);
        self.handle_answers(now, cx);
    }

    /// A connection closed. Answers that it still waited for go nowhere.
    pub fn handle_closed(&mut self, now: Instant, cx: &mut C, connection: u64) {
        self.handle_gone(now, cx, connection);
        let Some(known) = self.connections.remove(&connection) else { return };
        if let Some(idle) = self.table.idle {
            self.timers.remove(&(known.heard_at + idle, Due::Idle(connection)));
        }
        let timers = &mut self.timers;
        self.pending.retain(|id, pending| {
            let stays = pending.connection != connection;
            if !stays {
                timers.remove(&(pending.due, Due::Answer(*id)));
            }
            stays
        });
        self.run_peer_hooks(cx, &known.peer, "close_connection", false, |hooks| {
            &hooks.close_connection
        });
        self.handle_answers(now, cx);
    }

    /// A request came in. One on an unknown connection is dropped.
    pub fn handle_request(
        &mut self,
        now: Instant,
        cx: &mut C,
        connection: u64,
        asked: Asked,
    ) -> Started {
        let Some(known) = self.connections.get_mut(&connection) else { return Started::Done };
        let heard_before = std::mem::replace(&mut known.heard_at, now);
        let peer = known.peer.clone();
        if let Some(idle) = self.table.idle {
            self.timers.remove(&(heard_before + idle, Due::Idle(connection)));
            self.timers.insert((now + idle, Due::Idle(connection)), ());
        }
        let route = self.table.routes.get(&asked.command).cloned();
        if asked.sequence.is_some() && self.pending.len() >= self.options.requests_max {
            self.refuse(connection, &asked, BUSY);
            return Started::Done;
        }
        let info = RequestInfo {
            command: asked.command,
            route: route.as_ref().map_or_else(|| "app".into(), |route| route.place.clone()),
            peer,
        };
        let blueprint = route.as_ref().and_then(|route| route.blueprint);
        let id = self.next;
        self.next += 1;
        let mut request = self.admit(now, id, connection, info, blueprint, asked);
        let started = match route {
            None => {
                if request.asked {
                    request.interrupt(UNKNOWN_COMMAND, Vec::new());
                }
                Started::Done
            }
            Some(route) => match self.before(cx, blueprint, &mut request) {
                Ok(true) => self.run(cx, id, blueprint, &route.handler, request),
                Ok(false) => Started::Done,
                Err(failure) => {
                    self.fail(request, failure);
                    Started::Done
                }
            },
        };
        self.handle_answers(now, cx);
        started
    }

    /// An async handler ended, or was given up (then `result` says why). Its caller gets the
    /// failure's code if nothing else was answered before.
    pub fn handle_finished(
        &mut self,
        now: Instant,
        cx: &mut C,
        id: u64,
        result: Result<(), Failure>,
    ) {
        let Some((info, blueprint)) = self.running.remove(&id) else { return };
        self.take_answers(cx, Some(id).zip(result.as_ref().err()));
        if let Err(failure) = &result {
            self.report(info.route.to_string(), failure.clone());
        }
        self.after(cx, blueprint, &info, result.err().as_ref());
        self.handle_answers(now, cx);
    }

    /// An answer came back from another process. A second one for a ticket is refused.
    pub fn handle_ticket(&mut self, now: Instant, cx: &mut C, ticket: Ticket, answer: Answer) {
        self.settle(cx, ticket.0, answer);
        self.handle_answers(now, cx);
    }

    /// Takes up answers that were given since the last call.
    pub fn handle_answers(&mut self, _now: Instant, cx: &mut C) {
        self.take_answers(cx, None);
    }

    /// Takes up what the mailbag holds. A responder dropped by the `failed` request answers with
    /// that failure's code.
    fn take_answers(&mut self, cx: &mut C, failed: Option<(u64, &Failure)>) {
        let mut closing = Vec::new();
        loop {
            let given = self.bag.take();
            if given.is_empty() {
                break;
            }
            for (id, given) in given {
                let (code, body) = match given {
                    Given::Answer(code, body) => (code, body),
                    Given::Dropped => match failed {
                        Some((which, failure)) if which == id => (failure.code(), Vec::new()),
                        _ => (ANSWER_LOST, Vec::new()),
                    },
                    Given::Close => {
                        closing.push(id);
                        continue;
                    }
                };
                self.settle(cx, id, Answer { code, body });
            }
        }
        for connection in closing {
            let reason = "closed by its handler";
            self.output.push_back(Output::Close { connection, reason });
        }
    }

    /// Advances to `now`: repeat timers, idle connections, answers that are overdue.
    pub fn handle_timeout(&mut self, now: Instant, cx: &mut C) {
        while let Some((&(at, due), ())) = self.timers.first_key_value()
            && at <= now
        {
            self.timers.remove(&(at, due));
            match due {
                Due::Answer(id) => {
                    self.settle(cx, id, Answer { code: ANSWER_TIMEOUT, body: Vec::new() });
                }
                Due::Idle(connection) => {
                    self.output.push_back(Output::Close { connection, reason: "idle" });
                }
                Due::Repeat(which) => {
                    let repeat = self.table.repeats[which].clone();
                    // Counted from when it was due, so that it does not drift; a stall is not
                    // made up for by a burst.
                    let missed = now.since(at).as_nanos() / repeat.every.as_nanos();
                    let missed = u32::try_from(missed).unwrap_or(u32::MAX);
                    let next = at + repeat.every.saturating_mul(missed.saturating_add(1));
                    self.timers.insert((next, due), ());
                    if let Err(failure) = guard(|| (repeat.run)(cx)) {
                        self.report(repeat.place.to_string(), failure);
                    }
                }
            }
        }
        self.handle_answers(now, cx);
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first_key_value().map(|((at, _), ())| *at)
    }

    /// The next thing to do, oldest first.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.output.pop_front()
    }

    /// Enters a request into the books.
    fn admit(
        &mut self,
        now: Instant,
        id: u64,
        connection: u64,
        info: RequestInfo,
        blueprint: Option<usize>,
        asked: Asked,
    ) -> Request {
        let responder = asked.sequence.map(|sequence| {
            let due = now + self.options.answer_wait;
            self.timers.insert((due, Due::Answer(id)), ());
            let info = info.clone();
            self.pending.insert(id, Pending { info, connection, sequence, blueprint, due });
            Responder::new(id, self.bag.clone())
        });
        Request {
            info,
            body: asked.body,
            asked: responder.is_some(),
            responder,
            interrupted: false,
            bag: self.bag.clone(),
        }
    }

    /// Runs the before-hooks in order. `Ok(false)`: interrupted.
    fn before(
        &mut self,
        cx: &mut C,
        blueprint: Option<usize>,
        request: &mut Request,
    ) -> Result<bool, Failure> {
        if !self.had_first {
            for (_, hooks) in everywhere(&self.table) {
                for hook in &hooks.first_request {
                    guard(|| hook(cx, request))?;
                    if request.interrupted {
                        return Ok(false);
                    }
                }
            }
            self.had_first = true;
        }
        for hooks in around(&self.table, blueprint) {
            for hook in &hooks.before_request {
                guard(|| hook(cx, request))?;
                if request.interrupted {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn run(
        &mut self,
        cx: &mut C,
        id: u64,
        blueprint: Option<usize>,
        handler: &Handler<C>,
        mut request: Request,
    ) -> Started {
        match handler {
            Handler::Now(handler) => {
                let result = guard(|| handler(cx, &mut request));
                let info = request.info.clone();
                if let Err(failure) = &result {
                    self.fail(request, failure.clone());
                } else {
                    // Without an answer its responder is dropped here.
                    drop(request);
                }
                self.after(cx, blueprint, &info, result.err().as_ref());
                Started::Done
            }
            Handler::Later(handler) => {
                self.running.insert(id, (request.info.clone(), blueprint));
                let work = Box::pin(Guarded(handler(cx, request)));
                Started::Later(Later { id, work })
            }
        }
    }

    /// Runs the after-hooks: own, app-wide ones of the blueprints, the app's.
    fn after(
        &mut self,
        cx: &mut C,
        blueprint: Option<usize>,
        info: &RequestInfo,
        failure: Option<&Failure>,
    ) {
        for hooks in unwinding(&self.table, blueprint) {
            for hook in &hooks.after_request {
                let result = guard(|| hook(cx, info, failure));
                note(&mut self.output, &info.route, "after_request", result);
            }
        }
    }

    /// A handler or before-hook failed: the caller gets its code, if it still waits.
    fn fail(&mut self, mut request: Request, failure: Failure) {
        if let Some(responder) = request.responder.take() {
            responder.answer_code(failure.code(), Vec::new());
        }
        self.report(request.info.route.to_string(), failure);
    }

    /// Answers without hooks, for a request that was not let in.
    fn refuse(&mut self, connection: u64, asked: &Asked, code: i32) {
        if let Some(sequence) = asked.sequence {
            let answer = Answer { code, body: Vec::new() };
            self.output.push_back(Output::Answer { connection, sequence, answer });
        }
    }

    /// Gives an answer to its caller, through the response hooks.
    fn settle(&mut self, cx: &mut C, id: u64, mut answer: Answer) {
        let Some(pending) = self.pending.remove(&id) else {
            self.refused += 1;
            return;
        };
        self.timers.remove(&(pending.due, Due::Answer(id)));
        for hooks in around(&self.table, pending.blueprint) {
            for hook in &hooks.before_response {
                let result = guard(|| hook(cx, &pending.info, &mut answer));
                if let Err(failure) = &result {
                    answer = Answer { code: failure.code(), body: Vec::new() };
                }
                note(&mut self.output, &pending.info.route, "before_response", result);
            }
        }
        let (connection, sequence) = (pending.connection, pending.sequence);
        let left = answer.clone();
        self.output.push_back(Output::Answer { connection, sequence, answer });
        for hooks in unwinding(&self.table, pending.blueprint) {
            for hook in &hooks.after_response {
                let result = guard(|| hook(cx, &pending.info, &left));
                note(&mut self.output, &pending.info.route, "after_response", result);
            }
        }
    }

    /// Runs one kind of connection hook everywhere. Gives whether all went well; with `strict`
    /// the first failure ends it.
    fn run_peer_hooks(
        &mut self,
        cx: &mut C,
        peer: &Peer,
        name: &str,
        strict: bool,
        select: impl Fn(&Hooks<C>) -> &Vec<super::declare::OnPeer<C>>,
    ) -> bool {
        let mut well = true;
        for (place, hooks) in everywhere(&self.table) {
            for hook in select(hooks) {
                let result = guard(|| hook(cx, peer));
                well &= result.is_ok();
                note(&mut self.output, place, name, result);
                if strict && !well {
                    return false;
                }
            }
        }
        well
    }

    fn report(&mut self, place: String, failure: Failure) {
        self.output.push_back(Output::Report { place, failure });
    }
}

/// All hook sets for what concerns the whole app, with their places.
fn everywhere<C>(table: &Table<C>) -> impl DoubleEndedIterator<Item = (&str, &Hooks<C>)> {
    let blueprints = table.blueprints.iter().flat_map(|blueprint| {
        let name: &str = &blueprint.name;
        [(name, &blueprint.app), (name, &blueprint.own)]
    });
    std::iter::once(("app", &table.hooks)).chain(blueprints)
}

/// The hook sets around a command, on the way in: app, blueprints' app-wide ones, own.
fn around<C>(table: &Table<C>, blueprint: Option<usize>) -> impl Iterator<Item = &Hooks<C>> {
    let own = blueprint.map(|at| &table.blueprints[at].own);
    std::iter::once(&table.hooks).chain(table.blueprints.iter().map(|b| &b.app)).chain(own)
}

/// The same on the way out: own, blueprints' app-wide ones, app.
fn unwinding<C>(table: &Table<C>, blueprint: Option<usize>) -> impl Iterator<Item = &Hooks<C>> {
    let own = blueprint.map(|at| &table.blueprints[at].own);
    own.into_iter()
        .chain(table.blueprints.iter().map(|b| &b.app))
        .chain(std::iter::once(&table.hooks))
}

/// Reports a hook's failure.
fn note(output: &mut VecDeque<Output>, place: &str, hook: &str, result: Result<(), Failure>) {
    if let Err(failure) = result {
        output.push_back(Output::Report { place: format!("{hook} of {place}"), failure });
    }
}

/// Runs game code; a panic is a failure like any other.
fn guard(run: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| Err(panicked(&*panic)))
}

fn panicked(panic: &(dyn Any + Send)) -> Failure {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned());
    Failure::new(format!("panicked: {}", text.as_deref().unwrap_or("no message")))
}

/// An async handler whose panics are failures.
struct Guarded(Work);

impl Future for Guarded {
    type Output = Result<(), Failure>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        catch_unwind(AssertUnwindSafe(|| self.0.as_mut().poll(cx)))
            .unwrap_or_else(|panic| Poll::Ready(Err(panicked(&*panic))))
    }
}
