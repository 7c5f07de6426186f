use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use env::{Clock, Instant, Random};
use proto::frame::Status;
use proto::ticket::Grant;
use proto::{Message, MethodId};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};

use crate::line::{Broken, Line, decode_reply, encode_args};
use crate::{CallError, CallId, Core, End, Event, Options, Output, RequestId, Stats, TellId};

/// Acts that wait for the client's task.
const ACTS_MAX: usize = 256;

/// A client for async programs. A cheap clone; its work is done by a task of its own on the
/// Tokio runtime that made it, which needs time and net enabled. When the last clone is dropped,
/// the session says goodbye.
#[derive(Clone, Debug)]
pub struct Client {
    acts: mpsc::Sender<Act>,
}

/// What happens to a [`Client`], in order. Dropping it discards all events; keeping it without
/// reading makes the client pause reading from the server.
#[derive(Debug)]
pub struct Events {
    events: mpsc::Receiver<Event>,
}

impl Events {
    /// The next event, or `None` when the client is gone. Replies do not come here.
    ///
    /// Cancel-safe.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// The next event if there is one already.
    pub fn try_next(&mut self) -> Option<Event> {
        self.events.try_recv().ok()
    }
}

#[derive(Debug)]
enum Act {
    Request {
        stream: String,
        method: MethodId,
        body: Vec<u8>,
        deadline: Option<Duration>,
        done: oneshot::Sender<Result<Vec<u8>, CallError>>,
    },
    Tell {
        stream: String,
        method: MethodId,
        body: Vec<u8>,
        done: oneshot::Sender<Result<TellId, CallError>>,
    },
    TellLatest {
        stream: String,
        method: MethodId,
        key: u64,
        body: Vec<u8>,
        done: oneshot::Sender<Result<(), CallError>>,
    },
    Answer {
        call: CallId,
        status: Status,
        body: Vec<u8>,
    },
    Publish(MethodId),
    Login(Grant),
    Cut,
    Ping,
    Close,
    Stats(oneshot::Sender<Stats>),
}

impl Client {
    /// Logs in. Keeps trying as the limits say.
    ///
    /// # Errors
    ///
    /// Why the server did not let us in; [`End::next`] says what can be done.
    pub async fn connect(options: Options, grant: Grant) -> Result<(Client, Events), End> {
        let (acts, acts_in) = mpsc::channel(ACTS_MAX);
        let (events_out, events) = mpsc::channel(options.events_max.max(1));
        let (up, is_up) = oneshot::channel();
        let core =
            Core::new(options.identity.clone(), options.limits.clone(), grant, Random::from_os());
        let task = Task {
            line: Line::new(core, options.addresses.clone().into()),
            clock: Clock::system(),
            connecting: None,
            socket: None,
            wants_write: false,
            waiting: BTreeMap::new(),
            backlog: VecDeque::new(),
            events: events_out,
            up: Some(up),
            scratch: vec![0; options.read_bytes_max.clamp(1024, 64 * 1024)],
        };
        tokio::spawn(task.run(acts_in));
        match is_up.await {
            Ok(Ok(())) => Ok((Client { acts }, Events { events })),
            Ok(Err(end)) => Err(end),
            Err(_) => Err(End::Goodbye),
        }
    }

    /// Calls `method` of the entity behind `stream`. `args` is the tuple of its arguments, or
    /// `()`. Waits for the stream to be bound, and over broken connections.
    ///
    /// # Errors
    ///
    /// See [`CallError`]; [`CallError::app`] gives the method's own error.
    pub async fn request<A: Message, R: Message>(
        &self,
        stream: &str,
        method: MethodId,
        args: &A,
    ) -> Result<R, CallError> {
        decode_reply(self.request_bytes(stream, method, encode_args(args), None).await)
    }

    /// As [`request`](Self::request), waiting at most `deadline`.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    pub async fn request_within<A: Message, R: Message>(
        &self,
        deadline: Duration,
        stream: &str,
        method: MethodId,
        args: &A,
    ) -> Result<R, CallError> {
        decode_reply(self.request_bytes(stream, method, encode_args(args), Some(deadline)).await)
    }

    /// As [`request`](Self::request) with an encoded argument list and an encoded answer.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    pub async fn request_bytes(
        &self,
        stream: &str,
        method: MethodId,
        body: Vec<u8>,
        deadline: Option<Duration>,
    ) -> Result<Vec<u8>, CallError> {
        let (done, result) = oneshot::channel();
        let stream = stream.to_owned();
        self.act(Act::Request { stream, method, body, deadline, done }).await?;
        result.await.unwrap_or(Err(CallError::Ended(End::Goodbye)))
    }

    /// Sends a message to the entity behind `stream`: in order, at most once. Ready when it is
    /// taken, not when it is handled. The id names it in [`Event::Refused`] and
    /// [`Event::Unconfirmed`].
    ///
    /// # Errors
    ///
    /// Nothing was taken.
    pub async fn tell<A: Message>(
        &self,
        stream: &str,
        method: MethodId,
        args: &A,
    ) -> Result<TellId, CallError> {
        self.tell_bytes(stream, method, encode_args(args)).await
    }

    /// Sends a message of which only the newest per `key` matters; it may be lost.
    ///
    /// # Errors
    ///
    /// Nothing was taken.
    pub async fn tell_latest<A: Message>(
        &self,
        stream: &str,
        method: MethodId,
        key: u64,
        args: &A,
    ) -> Result<(), CallError> {
        self.tell_latest_bytes(stream, method, key, encode_args(args)).await
    }

    /// As [`tell`](Self::tell) with an encoded argument list.
    ///
    /// # Errors
    ///
    /// Nothing was taken.
    pub async fn tell_bytes(
        &self,
        stream: &str,
        method: MethodId,
        body: Vec<u8>,
    ) -> Result<TellId, CallError> {
        let (done, result) = oneshot::channel();
        let stream = stream.to_owned();
        self.act(Act::Tell { stream, method, body, done }).await?;
        result.await.unwrap_or(Err(CallError::Ended(End::Goodbye)))
    }

    /// As [`tell_latest`](Self::tell_latest) with an encoded argument list.
    ///
    /// # Errors
    ///
    /// Nothing was taken.
    pub async fn tell_latest_bytes(
        &self,
        stream: &str,
        method: MethodId,
        key: u64,
        body: Vec<u8>,
    ) -> Result<(), CallError> {
        let (done, result) = oneshot::channel();
        let stream = stream.to_owned();
        self.act(Act::TellLatest { stream, method, key, body, done }).await?;
        result.await.unwrap_or(Err(CallError::Ended(End::Goodbye)))
    }

    /// Answers an [`Event::Call`] with a value.
    pub async fn answer<R: Message>(&self, call: CallId, value: &R) {
        let _ =
            self.act(Act::Answer { call, status: Status::Ok, body: proto::encode(value) }).await;
    }

    /// Answers an [`Event::Call`] with the method's own error.
    pub async fn refuse<E: Message>(&self, call: CallId, error: &E) {
        let body = proto::encode(error);
        let _ = self.act(Act::Answer { call, status: Status::App, body }).await;
    }

    /// Allows the server to call `method`; its calls come as [`Event::Call`].
    pub async fn publish(&self, method: MethodId) {
        let _ = self.act(Act::Publish(method)).await;
    }

    /// Starts over as a new session, as after [`Event::Ended`].
    pub async fn login(&self, grant: Grant) {
        let _ = self.act(Act::Login(grant)).await;
    }

    /// Breaks the connection on purpose; the session resumes.
    pub async fn cut(&self) {
        let _ = self.act(Act::Cut).await;
    }

    /// Measures the round trip now.
    pub async fn ping(&self) {
        let _ = self.act(Act::Ping).await;
    }

    /// Says goodbye. Open requests fail.
    pub async fn close(&self) {
        let _ = self.act(Act::Close).await;
    }

    /// Counters so far.
    pub async fn stats(&self) -> Stats {
        let (done, stats) = oneshot::channel();
        let _ = self.act(Act::Stats(done)).await;
        stats.await.unwrap_or_default()
    }

    async fn act(&self, act: Act) -> Result<(), CallError> {
        self.acts.send(act).await.map_err(|_| CallError::Ended(End::Goodbye))
    }
}

type Connecting = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;

/// The loop around one [`Line`].
struct Task {
    line: Line,
    clock: Clock,
    /// The attempt to connect that goes on, with its number.
    connecting: Option<(u32, Connecting)>,
    socket: Option<TcpStream>,
    /// Bytes wait for the socket.
    wants_write: bool,
    waiting: BTreeMap<RequestId, oneshot::Sender<Result<Vec<u8>, CallError>>>,
    /// Events that found no room.
    backlog: VecDeque<Event>,
    events: mpsc::Sender<Event>,
    up: Option<oneshot::Sender<Result<(), End>>>,
    scratch: Vec<u8>,
}

enum Wake {
    Act(Option<Act>),
    Connected(io::Result<TcpStream>),
    Ready,
    Room,
    Timeout,
}

impl Task {
    async fn run(mut self, mut acts: mpsc::Receiver<Act>) {
        self.line.core_mut().start(self.clock.now());
        let mut leaving = false;
        loop {
            self.drain();
            if leaving && self.line.core().is_ended() {
                return;
            }
            let now = self.clock.now();
            let deadline = self.line.poll_timeout().map(|at| at.since(now));
            let wake = tokio::select! {
                act = acts.recv(), if !leaving => Wake::Act(act),
                result = connected(&mut self.connecting) => Wake::Connected(result),
                () = ready(&self.socket, self.backlog.is_empty(), self.wants_write) => Wake::Ready,
                () = room(&self.events, !self.backlog.is_empty()) => Wake::Room,
                () = sleep(deadline) => Wake::Timeout,
            };
            let now = self.clock.now();
            match wake {
                Wake::Act(None) => {
                    leaving = true;
                    self.line.core_mut().close();
                }
                Wake::Act(Some(act)) => {
                    self.act(now, act);
                    // What came meanwhile goes out with the same write.
                    while let Ok(act) = acts.try_recv() {
                        self.act(now, act);
                    }
                }
                Wake::Connected(result) => self.connected(now, result),
                Wake::Ready => self.read(now),
                Wake::Room => {}
                Wake::Timeout => {
                    // Bytes that wait are signs of life and come first.
                    self.read(now);
                    self.line.handle_timeout(now);
                }
            }
        }
    }

    fn act(&mut self, now: Instant, act: Act) {
        let core = self.line.core_mut();
        match act {
            Act::Request { stream, method, body, deadline, done } => {
                match core.request(now, &stream, method, &body, deadline) {
                    Ok(request) => {
                        self.waiting.insert(request, done);
                    }
                    Err(error) => {
                        let _ = done.send(Err(error));
                    }
                }
            }
            Act::Tell { stream, method, body, done } => {
                let _ = done.send(core.tell(now, &stream, method, &body));
            }
            Act::TellLatest { stream, method, key, body, done } => {
                let _ = done.send(core.tell_latest(&stream, method, key, &body));
            }
            Act::Answer { call, status, body } => {
                // Without room the server's deadline ends the call.
                let _ = core.answer(now, call, status, &body);
            }
            Act::Publish(method) => core.publish(method),
            Act::Login(grant) => core.login(now, grant),
            Act::Cut => core.cut(now),
            Act::Ping => core.ping(now),
            Act::Close => core.close(),
            Act::Stats(done) => {
                let _ = done.send(core.stats());
            }
        }
    }

    fn connected(&mut self, now: Instant, result: io::Result<TcpStream>) {
        let Some((attempt, _)) = self.connecting.take() else { return };
        match result {
            Ok(socket) => {
                let _ = socket.set_nodelay(true);
                self.socket = Some(socket);
                self.line.handle_connected(now, attempt);
                self.wants_write = self.line.has_outgoing();
            }
            Err(error) => {
                tracing::debug!(%error, "no connection");
                self.line.handle_closed(now);
            }
        }
    }

    /// Does what the line wants, and passes on what happened.
    fn drain(&mut self) {
        while let Some(output) = self.line.poll_output() {
            match output {
                Output::Connect { attempt } => {
                    let target = self.line.address(attempt);
                    let (host, port) = (target.host().to_owned(), target.port());
                    let connect = async move { TcpStream::connect((host.as_str(), port)).await };
                    self.connecting = Some((attempt, Box::pin(connect)));
                }
                Output::Flush => self.write(),
                Output::Close => {
                    self.socket = None;
                    self.connecting = None;
                    self.wants_write = false;
                }
            }
        }
        while let Some(event) = self.line.core_mut().poll_event() {
            self.pass_on(event);
        }
        while let Some(event) = self.backlog.pop_front() {
            if let Err(mpsc::error::TrySendError::Full(event)) = self.events.try_send(event) {
                self.backlog.push_front(event);
                break;
            }
        }
    }

    fn pass_on(&mut self, event: Event) {
        match event {
            Event::Reply { request, result } => {
                if let Some(done) = self.waiting.remove(&request) {
                    let _ = done.send(result);
                }
            }
            event => {
                match (&event, &mut self.up) {
                    (Event::Connected { .. }, up) => {
                        if let Some(up) = up.take() {
                            let _ = up.send(Ok(()));
                        }
                    }
                    (Event::Ended { end }, up) => {
                        if let Some(up) = up.take() {
                            let _ = up.send(Err(end.clone()));
                        }
                    }
                    _ => {}
                }
                self.backlog.push_back(event);
            }
        }
    }

    fn write(&mut self) {
        let Some(socket) = &self.socket else { return };
        loop {
            let out = self.line.outgoing();
            if out.is_empty() {
                self.wants_write = false;
                return;
            }
            match socket.try_write(out) {
                Ok(sent) => {
                    out.drain(..sent);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wants_write = true;
                    return;
                }
                Err(_) => {
                    self.broke();
                    return;
                }
            }
        }
    }

    /// Reads what has arrived, one scratch at most, and writes what waits.
    fn read(&mut self, now: Instant) {
        if self.wants_write {
            self.write();
        }
        let Some(socket) = self.socket.as_ref().filter(|_| self.backlog.is_empty()) else {
            return;
        };
        match socket.try_read(&mut self.scratch) {
            Ok(0) => self.broke(),
            Ok(len) => {
                if self.line.handle_bytes(now, &mut self.scratch[..len]) == Err(Broken) {
                    self.broke();
                } else if self.line.has_outgoing() {
                    self.write();
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.broke(),
        }
    }

    fn broke(&mut self) {
        self.socket = None;
        self.wants_write = false;
        self.line.handle_closed(self.clock.now());
    }
}

async fn connected(connecting: &mut Option<(u32, Connecting)>) -> io::Result<TcpStream> {
    match connecting {
        Some((_, future)) => future.await,
        None => std::future::pending().await,
    }
}

/// Until the socket can be used; for ever without one.
async fn ready(socket: &Option<TcpStream>, reads: bool, writes: bool) {
    let interest = match (reads, writes) {
        (true, true) => Interest::READABLE | Interest::WRITABLE,
        (true, false) => Interest::READABLE,
        (false, true) => Interest::WRITABLE,
        (false, false) => return std::future::pending().await,
    };
    match socket {
        // An error shows again when the socket is used.
        Some(socket) => drop(socket.ready(interest).await),
        None => std::future::pending().await,
    }
}

/// Until an event has room, if one waits.
async fn room(events: &mpsc::Sender<Event>, waits: bool) {
    if waits {
        drop(events.reserve().await);
    } else {
        std::future::pending().await
    }
}

async fn sleep(span: Option<Duration>) {
    match span {
        Some(span) => tokio::time::sleep(span).await,
        None => std::future::pending().await,
    }
}
