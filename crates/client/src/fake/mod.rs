//! A server in one value, made of frames and `proto::stream` alone: what tests of clients talk to.
//!
//! It is strict where a gate is: a wrong order of frames, a gap or a false acknowledgement panics,
//! because here the client under test is at fault.

mod gate;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use proto::frame::{
    CloseCode, DownFrame, PREFACE, Seen, SeenGroup, Status, StreamUp, UpFrame, VERSION, Welcome,
    put_frame, split_frame,
};
use proto::stream::{Answers, Arrival, Inbound, Limits, Outbound};
use proto::{KindId, MethodId, SessionId};

pub use gate::FakeGate;

/// Methods of the fake's only entity, which every session reaches as stream `"counter"`.
pub mod method {
    use proto::MethodId;

    /// Answers with its own body.
    pub const ECHO: MethodId = MethodId::of("echo");
    /// Answers with its own body as the method's error.
    pub const FAIL: MethodId = MethodId::of("fail");
    /// Never answers.
    pub const MUTE: MethodId = MethodId::of("mute");
    /// A tell that is only logged.
    pub const NOTE: MethodId = MethodId::of("note");
    /// Pushes its body back.
    pub const PUSH: MethodId = MethodId::of("push");
    /// Calls the client with its body.
    pub const CALL: MethodId = MethodId::of("call");
    /// Joins group `"room"` and casts its body to it.
    pub const ROOM: MethodId = MethodId::of("room");
}

/// The stream that every session has.
pub const STREAM: &str = "counter";
const HANDLE: u32 = 7;
const GROUP: u32 = 3;

/// The server.
#[derive(Debug, Default)]
pub struct FakeServer {
    connections: BTreeMap<u64, Connection>,
    sessions: BTreeMap<Vec<u8>, Session>,
    /// Every command that an entity handled: ticket, epoch, method and body, in order.
    pub log: Vec<(Vec<u8>, u64, MethodId, Vec<u8>)>,
    /// Answers of clients to calls: status and body.
    pub answers: Vec<(Status, Vec<u8>)>,
    /// Whether resumes are refused with `SessionLost`.
    pub forgets: bool,
    /// Whether resumed sessions find their stream ended.
    pub unbinds: bool,
    /// Whether nothing is sent any more, as by a hanging server.
    pub hangs: bool,
}

#[derive(Debug, Default)]
struct Connection {
    web_socket: bool,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    greeted: bool,
    ticket: Option<Vec<u8>>,
    closed: bool,
}

#[derive(Debug)]
struct Session {
    generation: u64,
    epoch: u64,
    connection: Option<u64>,
    outbound: Outbound<Down>,
    inbound: Inbound,
    answers: Answers,
    calls: u64,
    casts: Vec<Vec<u8>>,
    in_group: bool,
}

#[derive(Debug)]
enum Down {
    Reply { request: u64, status: Status, body: Rc<[u8]> },
    Push { body: Vec<u8> },
    Call { call: u64, body: Vec<u8> },
}

impl Session {
    fn new() -> Self {
        Session {
            generation: 0,
            epoch: 1,
            connection: None,
            outbound: Outbound::new(Limits::default()),
            inbound: Inbound::default(),
            answers: Answers::default(),
            calls: 0,
            casts: Vec::new(),
            in_group: false,
        }
    }
}

impl FakeServer {
    /// A connection was accepted. `web_socket`: no preface comes first.
    pub fn open(&mut self, connection: u64, web_socket: bool) {
        let fresh = Connection { web_socket, ..Connection::default() };
        self.connections.insert(connection, fresh);
    }

    /// A connection ended.
    pub fn close(&mut self, connection: u64) {
        self.connections.remove(&connection);
        for session in self.sessions.values_mut() {
            session.connection.take_if(|of| *of == connection);
        }
    }

    /// Bytes for a connection, and whether it closes after them.
    pub fn take_output(&mut self, connection: u64) -> (Vec<u8>, bool) {
        if self.hangs {
            return (Vec::new(), false);
        }
        match self.connections.get_mut(&connection) {
            Some(known) => (std::mem::take(&mut known.outbox), known.closed),
            None => (Vec::new(), true),
        }
    }

    /// Closes the connection of every session with `code`.
    pub fn close_all(&mut self, code: CloseCode) {
        let bound: Vec<_> = self.sessions.values().filter_map(|s| s.connection).collect();
        for connection in bound {
            self.say(connection, &DownFrame::Close { code, reason: "by the test" });
            self.connections.get_mut(&connection).expect("bound").closed = true;
        }
    }

    /// The entities of all sessions crash and come back in their next epoch; `announce`: clients
    /// that are connected hear of it at once.
    pub fn crash(&mut self, announce: bool) {
        for session in self.sessions.values_mut() {
            let old = std::mem::replace(session, Session::new());
            session.generation = old.generation;
            session.epoch = old.epoch + 1;
            session.connection = old.connection;
        }
        let bound: Vec<_> =
            self.sessions.values().filter_map(|s| Some((s.connection?, s.epoch))).collect();
        for (connection, epoch) in bound.into_iter().filter(|_| announce) {
            let kind = KindId::of(STREAM);
            self.say(connection, &DownFrame::Bound { stream: HANDLE, kind, epoch, name: STREAM });
        }
    }

    /// Ends the stream of all sessions.
    pub fn unbind(&mut self) {
        let bound: Vec<_> = self.sessions.values().filter_map(|s| s.connection).collect();
        for connection in bound {
            let code = CloseCode::Goodbye;
            self.say(connection, &DownFrame::Unbound { stream: HANDLE, code });
        }
    }

    /// Sends a ping on all bound connections.
    pub fn ping(&mut self) {
        let bound: Vec<_> = self.sessions.values().filter_map(|s| s.connection).collect();
        for connection in bound {
            self.say(connection, &DownFrame::Ping { token: 9 });
        }
    }

    /// Pushes `body` to all sessions.
    pub fn push(&mut self, body: &[u8]) {
        let bound: Vec<_> = self.sessions.values().filter_map(|s| s.connection).collect();
        for connection in bound {
            self.send(connection, Down::Push { body: body.to_vec() });
        }
    }

    /// How many pushed frames no client has acknowledged.
    pub fn unacknowledged(&self) -> usize {
        self.sessions.values().map(|session| session.outbound.len()).sum()
    }

    /// Sessions that have a connection.
    pub fn bound_sessions(&self) -> usize {
        self.sessions.values().filter(|session| session.connection.is_some()).count()
    }

    /// Bytes from a client.
    pub fn handle_bytes(&mut self, connection: u64, bytes: &[u8]) {
        let Some(known) = self.connections.get_mut(&connection) else { return };
        known.inbox.extend_from_slice(bytes);
        let mut inbox = std::mem::take(&mut known.inbox);
        let (web_socket, greeted) = (known.web_socket, known.greeted);
        let mut at = 0;
        if !web_socket && !greeted {
            if inbox.len() < PREFACE.len() {
                known.inbox = inbox;
                return;
            }
            assert_eq!(inbox[..4], PREFACE);
            known.greeted = true;
            at = 4;
        }
        while let Some((payload, taken)) = split_frame(&inbox[at..], 64 * 1024).expect("a frame") {
            at += taken;
            self.handle_frame(connection, UpFrame::decode(payload).expect("a frame"));
        }
        if let Some(known) = self.connections.get_mut(&connection) {
            inbox.drain(..at);
            known.inbox = inbox;
        }
    }

    fn say(&mut self, connection: u64, frame: &DownFrame<'_>) {
        if let Some(known) = self.connections.get_mut(&connection)
            && !known.closed
        {
            put_frame(&mut known.outbox, |out| frame.encode(out));
        }
    }

    fn ticket(&self, connection: u64) -> Vec<u8> {
        self.connections[&connection].ticket.clone().expect("frames of streams come after login")
    }

    fn handle_frame(&mut self, connection: u64, frame: UpFrame<'_>) {
        if self.connections[&connection].closed {
            return;
        }
        match frame {
            UpFrame::Hello { version, .. } => {
                assert_eq!(version, VERSION);
                let nonce = [connection as u8; 16];
                let challenge =
                    DownFrame::Challenge { version, features: 0, nonce, wall_ms: 1_000 };
                self.say(connection, &challenge);
            }
            UpFrame::Login { ticket, .. } => {
                let fresh = !self.sessions.contains_key(ticket);
                if ticket.starts_with(b"bad") || !fresh && self.sessions[ticket].generation > 1 {
                    let code = CloseCode::Ticket;
                    self.say(connection, &DownFrame::Close { code, reason: "foreign ticket" });
                    self.connections.get_mut(&connection).expect("known").closed = true;
                    return;
                }
                // The ticket again, before any resume: the welcome was lost on its way.
                self.sessions.entry(ticket.to_vec()).or_insert_with(Session::new);
                self.admit(connection, ticket, false, &[], &[]);
            }
            UpFrame::Resume { token, generation, streams, groups, .. } => {
                let known = self.sessions.get(token).is_some_and(|s| generation > s.generation);
                if self.forgets || !known {
                    let code = CloseCode::SessionLost;
                    self.say(connection, &DownFrame::Close { code, reason: "too late" });
                    self.connections.get_mut(&connection).expect("known").closed = true;
                    return;
                }
                self.sessions.get_mut(token).expect("known").generation = generation;
                self.admit(connection, token, true, &streams, &groups);
            }
            UpFrame::Stream { stream, frame } => {
                assert_eq!(stream, HANDLE);
                self.handle_stream(connection, frame);
            }
            UpFrame::Ping { token } => self.say(connection, &DownFrame::Pong { token }),
            UpFrame::Pong { token } => assert_eq!(token, 9),
            UpFrame::Close { code, .. } => {
                assert_eq!(code, CloseCode::Goodbye, "the client found our frames wrong");
                let ticket = self.ticket(connection);
                self.sessions.remove(&ticket);
                self.connections.get_mut(&connection).expect("known").closed = true;
            }
        }
    }

    fn admit(
        &mut self,
        connection: u64,
        ticket: &[u8],
        resumed: bool,
        seen: &[Seen],
        groups: &[SeenGroup],
    ) {
        self.connections.get_mut(&connection).expect("known").ticket = Some(ticket.to_vec());
        let session = self.sessions.get_mut(ticket).expect("known");
        session.generation = session.generation.max(1);
        session.connection = Some(connection);
        let (generation, epoch) = (session.generation, session.epoch);
        let applied = session.inbound.tell();
        let mut id = [0; 16];
        id[..ticket.len().min(16)].copy_from_slice(&ticket[..ticket.len().min(16)]);
        let welcome = Welcome {
            session: SessionId(id),
            generation,
            resumed,
            token: ticket,
            resume_window_ms: 60_000,
            heartbeat_ms: 6_000,
            frame_bytes_max: 64 * 1024,
        };
        self.say(connection, &DownFrame::Welcome(welcome));
        if resumed && self.unbinds {
            let code = CloseCode::Unavailable;
            self.say(connection, &DownFrame::Unbound { stream: HANDLE, code });
            return;
        }
        let kind = KindId::of(STREAM);
        self.say(connection, &DownFrame::Bound { stream: HANDLE, kind, epoch, name: STREAM });
        if !resumed {
            return;
        }
        if let Some(seen) = seen.iter().find(|seen| seen.handle == HANDLE) {
            let session = self.sessions.get_mut(ticket).expect("known");
            if seen.number <= session.outbound.last() {
                let _ = session.outbound.acknowledge(seen.number);
            }
        }
        let durable = applied;
        self.say(connection, &DownFrame::Resumed { stream: HANDLE, epoch, applied, durable });
        self.replay(connection, ticket);
        let session = &self.sessions[ticket];
        let seen = groups.iter().find(|seen| seen.group == GROUP).map(|seen| seen.number);
        if let (true, Some(seen)) = (session.in_group, seen) {
            let missed: Vec<_> = (1..).zip(session.casts.clone()).skip(seen as usize).collect();
            for (number, body) in missed {
                let (group, method) = (GROUP, method::ROOM);
                self.say(connection, &DownFrame::Cast { group, number, method, body: &body });
            }
        }
    }

    fn replay(&mut self, connection: u64, ticket: &[u8]) {
        let session = self.sessions.get_mut(ticket).expect("known");
        let ack = session.inbound.tell();
        let mut out = Vec::new();
        for (number, down) in session.outbound.kept() {
            put_frame(&mut out, |out| down_frame(down, number, ack).encode(out));
        }
        self.connections.get_mut(&connection).expect("known").outbox.append(&mut out);
    }

    fn send(&mut self, connection: u64, down: Down) {
        let ticket = self.ticket(connection);
        let Some(session) = self.sessions.get_mut(&ticket) else { return };
        let number = session.outbound.push(down, 1).expect("tests send little");
        let ack = session.inbound.tell();
        let (_, down) = session.outbound.kept().last().expect("just pushed");
        let known = self.connections.get_mut(&connection).expect("known");
        put_frame(&mut known.outbox, |out| down_frame(down, number, ack).encode(out));
    }

    fn handle_stream(&mut self, connection: u64, frame: StreamUp<'_>) {
        let ticket = self.ticket(connection);
        let session = self.sessions.get_mut(&ticket).expect("known");
        let (number, ack) = match frame {
            StreamUp::Tell { number, ack, .. }
            | StreamUp::Request { number, ack, .. }
            | StreamUp::Answer { number, ack, .. } => (number, ack),
            StreamUp::Ack { ack } => (0, ack),
        };
        assert!(session.outbound.acknowledge(ack), "the client saw what was never sent");
        if number != 0 {
            match session.inbound.arrive(number) {
                Arrival::Next => {}
                Arrival::Gap => panic!("a gap before {number}"),
                Arrival::Duplicate => {
                    let answer = session.answers.find(number).cloned();
                    assert!(answer.is_none_or(|_| session.outbound.last() > 0));
                    return;
                }
            }
        }
        if session.inbound.is_due() {
            let applied = session.inbound.tell();
            let ack = DownFrame::Ack { stream: HANDLE, applied, durable: applied };
            self.say(connection, &ack);
        }
        let session = self.sessions.get_mut(&ticket).expect("known");
        let epoch = session.epoch;
        match frame {
            StreamUp::Tell { method, body, .. } => {
                self.log.push((ticket, epoch, method, body.to_vec()));
                self.handle_tell(connection, method, body);
            }
            StreamUp::Request { method, body, .. } => {
                self.log.push((ticket.clone(), epoch, method, body.to_vec()));
                let status = match method {
                    method::ECHO => Status::Ok,
                    method::FAIL => Status::App,
                    method::MUTE => return,
                    _ => Status::UnknownMethod,
                };
                let body: Rc<[u8]> = body.into();
                session.answers.keep(number, body.clone());
                self.send(connection, Down::Reply { request: number, status, body });
            }
            StreamUp::Answer { call, status, body, .. } => {
                if call != 0 {
                    self.answers.push((status, body.to_vec()));
                }
            }
            StreamUp::Ack { .. } => {}
        }
    }

    fn handle_tell(&mut self, connection: u64, method: MethodId, body: &[u8]) {
        let ticket = self.ticket(connection);
        let session = self.sessions.get_mut(&ticket).expect("known");
        match method {
            method::PUSH => self.send(connection, Down::Push { body: body.to_vec() }),
            method::CALL => {
                session.calls += 1;
                let call = session.calls;
                self.send(connection, Down::Call { call, body: body.to_vec() });
            }
            method::ROOM => {
                session.casts.push(body.to_vec());
                let number = session.casts.len() as u64;
                let joins = !std::mem::replace(&mut session.in_group, true);
                if joins {
                    let joined = DownFrame::Joined {
                        group: GROUP,
                        stream: HANDLE,
                        kind: KindId::of("room"),
                        number: number - 1,
                        name: "room",
                    };
                    self.say(connection, &joined);
                }
                self.say(connection, &DownFrame::Cast { group: GROUP, number, method, body });
            }
            _ => {}
        }
    }
}

fn down_frame(down: &Down, number: u64, ack: u64) -> DownFrame<'_> {
    let stream = HANDLE;
    match down {
        Down::Reply { request, status, body } => {
            DownFrame::Reply { stream, number, ack, request: *request, status: *status, body }
        }
        Down::Push { body } => DownFrame::Push { stream, number, ack, method: method::PUSH, body },
        Down::Call { call, body } => {
            let (call, method, deadline_ms) = (*call, method::CALL, 2_000);
            DownFrame::Call { stream, number, ack, call, deadline_ms, method, body }
        }
    }
}

/// All bodies of `method` in the log, to compare with what was sent.
pub fn bodies(server: &FakeServer, of: MethodId) -> Vec<&[u8]> {
    let of_method = server.log.iter().filter(|(_, _, method, _)| *method == of);
    of_method.map(|(_, _, _, body)| body.as_slice()).collect()
}

/// Whether no body of `method` occurs twice.
pub fn at_most_once(server: &FakeServer, of: MethodId) -> bool {
    let bodies = bodies(server, of);
    bodies.iter().collect::<BTreeSet<_>>().len() == bodies.len()
}
