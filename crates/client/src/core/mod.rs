mod link;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use env::{Instant, Random};
use proto::frame::{CloseCode, Status, UpFrame, put_frame};
use proto::ticket::Grant;
use proto::{MethodId, SessionId};

use self::stream::{Kept, Stream};
use crate::error::{CallError, End, Lost};
use crate::event::{CallId, Event, Output, RequestId, TellId};
use crate::limits::Limits;
use crate::stats::Stats;

/// What a client tells of itself, and its limits.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// Program and version, for the server's logs.
    pub agent: String,
    /// Hash of the interface that the program was generated from; 0 if it does not say.
    pub interface: u64,
}

/// One client: session, streams, reconnect and resume. Does no I/O and reads no clock.
///
/// After each `handle_*` and each act (`request`, `tell`, ...), call `poll_output` until it
/// returns `None`, then `poll_event` until it returns `None`. Call `handle_timeout` when
/// `poll_timeout` has passed.
#[derive(Debug)]
pub struct Core {
    limits: Limits,
    identity: Identity,
    random: Random,
    grant: Option<Grant>,
    ended: Option<End>,
    resume: Option<Resume>,
    state: State,
    /// Whether the driver has a connection, or is making one.
    attached: bool,
    wants_connect: Option<u32>,
    wants_close: bool,
    flush_told: bool,
    /// Bytes of a frame that is not whole yet.
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    events: VecDeque<Event>,
    /// Breaks in a row without a stable connection between them.
    streak: u32,
    /// Connects since the server last let us in.
    tries: u32,
    heartbeat: Duration,
    /// The longest frame that the server takes.
    send_bytes_max: usize,
    heard_at: Instant,
    ping_at: Instant,
    ping: Option<(u64, Instant)>,
    pings: u64,
    server_wall: Option<(u64, Instant)>,
    streams: Vec<Stream>,
    streams_made: u64,
    groups: Vec<Group>,
    requests: BTreeMap<RequestId, Request>,
    deadlines: BTreeSet<(Instant, RequestId)>,
    requests_made: u64,
    tells_made: u64,
    calls: BTreeMap<CallId, ServerCall>,
    calls_seen: u64,
    published: BTreeSet<MethodId>,
    stats: Stats,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before `start`, or after the end.
    Rest,
    /// Until the next attempt to connect.
    Pausing {
        until: Instant,
    },
    Connecting {
        until: Instant,
    },
    /// `Hello` is sent; the server's nonce comes next.
    Greeting {
        until: Instant,
    },
    /// `Login` or `Resume` is sent.
    Admitting {
        until: Instant,
        resuming: bool,
    },
    Up {
        since: Instant,
    },
}

/// What the server gave for coming back.
#[derive(Debug)]
struct Resume {
    session: SessionId,
    secret: [u8; 32],
    token: Vec<u8>,
    /// The highest one asked for or granted. Each attempt asks for the next, so that the server
    /// can tell a late attempt from a new one.
    generation: u64,
}

#[derive(Debug)]
struct Group {
    handle: u32,
    name: Arc<str>,
    last: u64,
    /// Handles of the streams by which we are a member; at least one.
    streams: Vec<u32>,
}

#[derive(Debug)]
struct Request {
    /// Id of its stream.
    stream: u64,
    number: u64,
    deadline: Instant,
}

#[derive(Debug)]
struct ServerCall {
    /// Id of its stream.
    stream: u64,
    call: u64,
    deadline: Instant,
}

impl Core {
    /// A client at rest. `grant` is what the login service gave; `random` jitters the pauses.
    pub fn new(identity: Identity, limits: Limits, grant: Grant, random: Random) -> Self {
        Core {
            heartbeat: limits.heartbeat,
            send_bytes_max: limits.greeting_bytes_max,
            limits,
            identity,
            random,
            grant: Some(grant),
            ended: None,
            resume: None,
            state: State::Rest,
            attached: false,
            wants_connect: None,
            wants_close: false,
            flush_told: false,
            inbox: Vec::new(),
            outbox: Vec::new(),
            events: VecDeque::new(),
            streak: 0,
            tries: 0,
            heard_at: Instant::ZERO,
            ping_at: Instant::ZERO,
            ping: None,
            pings: 0,
            server_wall: None,
            streams: Vec::new(),
            streams_made: 0,
            groups: Vec::new(),
            requests: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            requests_made: 0,
            tells_made: 0,
            calls: BTreeMap::new(),
            calls_seen: 0,
            published: BTreeSet::new(),
            stats: Stats::default(),
        }
    }

    /// Starts to connect. Does nothing unless at rest.
    pub fn start(&mut self, now: Instant) {
        if self.state == State::Rest && self.grant.is_some() {
            self.tries = 0;
            self.streak = 0;
            self.connect(now);
        }
    }

    /// Starts over as a new session with a new `grant`; a session that still goes on is dropped
    /// and its requests fail.
    pub fn login(&mut self, now: Instant, grant: Grant) {
        if self.state != State::Rest {
            self.end(End::Goodbye);
        }
        self.grant = Some(grant);
        self.ended = None;
        self.start(now);
    }

    /// Says goodbye and ends the session.
    pub fn close(&mut self) {
        if self.state == State::Rest {
            return;
        }
        if matches!(self.state, State::Up { .. }) {
            self.send(&UpFrame::Close { code: CloseCode::Goodbye, reason: "" });
            self.wants_close = true;
        }
        self.end(End::Goodbye);
    }

    /// Breaks the connection on purpose; the session resumes after the usual pause. For tests
    /// and for trying out what a break feels like.
    pub fn cut(&mut self, now: Instant) {
        if self.attached && !matches!(self.state, State::Rest | State::Pausing { .. }) {
            self.lose(now, Lost::Cut);
        }
    }

    /// Allows the server to call `method`. Calls of other methods are answered `UnknownMethod`.
    pub fn publish(&mut self, method: MethodId) {
        self.published.insert(method);
    }

    /// Sends a request to the entity behind `stream`; its end comes as [`Event::Reply`].
    ///
    /// If the stream is not bound yet, the request waits for that. `deadline` counts from now;
    /// without one the method's own holds, and `request_wait` on this side.
    ///
    /// # Errors
    ///
    /// `Full`, `TooLong`, `Ended`: nothing was taken and no event follows.
    pub fn request(
        &mut self,
        now: Instant,
        stream: &str,
        method: MethodId,
        body: &[u8],
        deadline: Option<Duration>,
    ) -> Result<RequestId, CallError> {
        if self.requests.len() >= self.limits.requests_max {
            return Err(CallError::Full { frames: self.requests.len(), bytes: 0 });
        }
        let index = self.stream_index(stream)?;
        let request = RequestId(self.requests_made + 1);
        let kept = Kept::Request { request, method, own: deadline.is_none(), body: body.into() };
        let deadline = now + deadline.unwrap_or(self.limits.request_wait);
        let number = self.push(now, index, kept, Some(deadline))?;
        self.requests_made += 1;
        self.stats.requests += 1;
        let stream = &mut self.streams[index];
        stream.waiting.insert(number, request);
        self.requests.insert(request, Request { stream: stream.id, number, deadline });
        self.deadlines.insert((deadline, request));
        Ok(request)
    }

    /// Forgets a request: it completes with `Timeout` or `NotSent` at once.
    pub fn cancel(&mut self, request: RequestId) {
        self.expire(request);
    }

    /// Sends a message to the entity behind `stream`: in order, at most once, kept over breaks.
    ///
    /// The id names it in [`Event::Refused`] and [`Event::Unconfirmed`].
    ///
    /// # Errors
    ///
    /// `NotBound`, `Full`, `TooLong`, `Ended`: nothing was taken and no event follows.
    pub fn tell(
        &mut self,
        now: Instant,
        stream: &str,
        method: MethodId,
        body: &[u8],
    ) -> Result<TellId, CallError> {
        let index = self.bound_index(stream)?;
        let tell = TellId(self.tells_made + 1);
        self.push(now, index, Kept::Tell { tell, method, body: body.into() }, None)?;
        self.tells_made += 1;
        Ok(tell)
    }

    /// Sends a message of which only the newest per `key` matters: unnumbered, replaced by a
    /// later one as long as it waits, lost if the connection breaks just then.
    ///
    /// # Errors
    ///
    /// `NotBound`, `Full`, `TooLong`, `Ended`: nothing was taken.
    pub fn tell_latest(
        &mut self,
        stream: &str,
        method: MethodId,
        key: u64,
        body: &[u8],
    ) -> Result<(), CallError> {
        let index = self.bound_index(stream)?;
        self.check_length(body.len())?;
        let waiting: usize = self.streams.iter().map(|stream| stream.latest.len()).sum();
        let latest = &mut self.streams[index].latest;
        if let Some(old) = latest.iter_mut().find(|old| old.method == method && old.key == key) {
            old.body.clear();
            old.body.extend_from_slice(body);
            return Ok(());
        }
        if waiting >= self.limits.latest_max {
            return Err(CallError::Full { frames: waiting, bytes: 0 });
        }
        latest.push(stream::Latest { method, key, body: body.into() });
        self.flush_told = false;
        Ok(())
    }

    /// Answers a call of the server. One whose deadline has passed is dropped quietly.
    ///
    /// # Errors
    ///
    /// `Full` or `TooLong`: nothing was taken and the call still waits.
    pub fn answer(
        &mut self,
        now: Instant,
        call: CallId,
        status: Status,
        body: &[u8],
    ) -> Result<(), CallError> {
        let Some(waiting) = self.calls.get(&call) else { return Ok(()) };
        let (stream, number) = (waiting.stream, waiting.call);
        let Some(index) = self.streams.iter().position(|known| known.id == stream) else {
            return Ok(());
        };
        let kept = Kept::Answer { call: number, status, body: body.into() };
        self.push(now, index, kept, None)?;
        self.calls.remove(&call);
        Ok(())
    }

    /// What has to be done next, or `None`. See [`Output`].
    pub fn poll_output(&mut self) -> Option<Output> {
        if self.attached && !self.flush_told && self.has_outgoing() {
            self.flush_told = true;
            return Some(Output::Flush);
        }
        if self.wants_close {
            self.wants_close = false;
            self.attached = false;
            self.clear_buffers();
            return Some(Output::Close);
        }
        let attempt = self.wants_connect.take()?;
        self.attached = true;
        Some(Output::Connect { attempt })
    }

    /// The bytes to send. The driver takes out what it has sent and comes back for the rest when
    /// the transport accepts more; until then it ignores `Output::Flush`.
    pub fn outgoing(&mut self) -> &mut Vec<u8> {
        /// While this much waits already, newer states may still replace older ones.
        const SOON_BYTES: usize = 16 * 1024;
        if self.outbox.len() < SOON_BYTES {
            self.put_latest();
        } else {
            self.flush_told = false;
        }
        &mut self.outbox
    }

    /// What happened next, or `None`.
    pub fn poll_event(&mut self) -> Option<Event> {
        let event = self.events.pop_front();
        if self.events.is_empty() && self.events.capacity() > 16 {
            self.events = VecDeque::new();
        }
        event
    }

    /// Whether the server has let us in and the connection holds.
    pub fn is_connected(&self) -> bool {
        matches!(self.state, State::Up { .. })
    }

    /// Whether the server has been asked to let us in and has not answered yet.
    pub fn is_asking(&self) -> bool {
        matches!(self.state, State::Admitting { .. })
    }

    /// Whether nothing happens any more until `start` or `login`.
    pub fn is_ended(&self) -> bool {
        self.state == State::Rest
    }

    /// Whether `stream` is bound to an entity.
    pub fn is_bound(&self, stream: &str) -> bool {
        self.bound_index(stream).is_ok()
    }

    /// The handle of `stream`, if it is bound to an entity: by which [`progress`](Self::progress) and
    /// [`memberships`](Self::memberships) name it. A later stream of the name has another.
    pub fn handle(&self, stream: &str) -> Option<u32> {
        self.streams[self.bound_index(stream).ok()?].handle
    }

    /// The groups that we take ourselves for a member of: pairs of the handles of the stream by
    /// which we are, and of the group.
    pub fn memberships(&self) -> impl Iterator<Item = (u32, u32)> {
        let by = |group: &'_ Group| {
            let handle = group.handle;
            group.streams.clone().into_iter().map(move |stream| (stream, handle))
        };
        self.groups.iter().flat_map(by)
    }

    /// How far each bound stream has come: its handle, the number of the last command that was sent
    /// and that of the last one known to be handled.
    pub fn progress(&self) -> impl Iterator<Item = (u32, u64, u64)> {
        self.streams.iter().filter_map(Stream::progress)
    }

    /// How many requests wait for their answer.
    pub fn requests_open(&self) -> usize {
        self.requests.len()
    }

    /// The session, once the server has let us in.
    pub fn session(&self) -> Option<SessionId> {
        self.resume.as_ref().map(|resume| resume.session)
    }

    /// The server's wall clock, in milliseconds since 1970, as far as the handshake told. Late by
    /// up to one trip.
    pub fn server_wall_ms(&self, now: Instant) -> Option<u64> {
        let (wall_ms, at) = self.server_wall?;
        Some(wall_ms.saturating_add(u64::try_from((now - at).as_millis()).unwrap_or(u64::MAX)))
    }

    /// Counters so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    fn send(&mut self, frame: &UpFrame<'_>) {
        let before = self.outbox.len();
        put_frame(&mut self.outbox, |out| frame.encode(out));
        self.sent(before);
    }

    /// Takes note of one frame that was appended at `before`.
    fn sent(&mut self, before: usize) {
        self.stats.bytes_out += (self.outbox.len() - before) as u64;
        self.stats.frames_out += 1;
        self.flush_told = false;
    }

    /// For what else a connection needs to be unpredictable.
    pub(crate) fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    pub(crate) fn has_outgoing(&self) -> bool {
        !self.outbox.is_empty()
            || self.streams.iter().any(|stream| stream.is_live() && !stream.latest.is_empty())
    }

    fn clear_buffers(&mut self) {
        self.inbox = Vec::new();
        self.outbox = Vec::new();
    }

    fn check_length(&self, body: usize) -> Result<(), CallError> {
        /// Head, handle, number, acknowledgement, method and deadline at their longest.
        const FIELDS_BYTES_MAX: usize = 40;
        let len = body + FIELDS_BYTES_MAX;
        // Before the first admission the server's limit is not known; the usual one is assumed.
        let max = if self.resume.is_some() { self.send_bytes_max } else { 64 * 1024 };
        if len > max { Err(CallError::TooLong { len, max }) } else { Ok(()) }
    }

    /// Ends the session: fails all requests, forgets streams and groups.
    fn end(&mut self, end: End) {
        self.state = State::Rest;
        self.wants_connect = None;
        // A farewell that was just written still goes out.
        if self.attached && !self.wants_close {
            self.clear_buffers();
            self.wants_close = true;
        }
        self.grant = None;
        self.resume = None;
        self.ended = Some(end.clone());
        self.forget_streams(&CallError::Ended(end.clone()));
        self.events.push_back(Event::Ended { end });
    }

    /// Fails all requests and forgets streams, groups and server calls.
    fn forget_streams(&mut self, error: &CallError) {
        for stream in &self.streams {
            self.events.extend(stream.unconfirmed());
        }
        for (request, _) in std::mem::take(&mut self.requests) {
            let result = Err(error.clone());
            self.events.push_back(Event::Reply { request, result });
        }
        self.deadlines.clear();
        self.calls.clear();
        self.streams.clear();
        self.groups.clear();
    }
}
