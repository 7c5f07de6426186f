use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::mpsc;
use std::time::Duration;

use env::{Clock, Instant, Random};
use proto::frame::Status;
use proto::ticket::Grant;
use proto::{Message, MethodId};
use socket2::{Domain, Protocol, Socket, Type};

use crate::line::{Line, decode_reply, encode_args};
use crate::{Address, CallError, CallId, Core, Event, Options, Output, RequestId, TellId};

type Callback = Box<dyn FnOnce(&mut Polled, Result<Vec<u8>, CallError>)>;

/// A client for a game loop: [`poll`](Polled::poll) once a frame moves bytes without blocking and
/// runs the callbacks, on the calling thread. Nothing happens in between.
pub struct Polled {
    line: Line,
    clock: Clock,
    socket: Connection,
    blocked: bool,
    callbacks: BTreeMap<RequestId, Callback>,
    scratch: Vec<u8>,
    read_bytes_max: usize,
}

enum Connection {
    None,
    /// A thread asks for the host's addresses, since the system's resolver blocks.
    Resolving(u32, mpsc::Receiver<Vec<SocketAddr>>),
    /// The addresses that are left to try come after the one being tried.
    Connecting(u32, Socket, Vec<SocketAddr>),
    Open(TcpStream),
}

impl fmt::Debug for Polled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Polled").field("line", &self.line).finish_non_exhaustive()
    }
}

impl Polled {
    /// Starts to log in; the first `poll` begins to connect.
    pub fn new(options: Options, grant: Grant) -> Self {
        let Options { addresses, identity, limits, read_bytes_max, .. } = options;
        let clock = Clock::system();
        let mut core = Core::new(identity, limits, grant, Random::from_os());
        core.start(clock.now());
        Polled {
            line: Line::new(core, addresses.into()),
            clock,
            socket: Connection::None,
            blocked: false,
            callbacks: BTreeMap::new(),
            scratch: vec![0; 16 * 1024],
            read_bytes_max: read_bytes_max.max(16 * 1024),
        }
    }

    /// Moves bytes and time on, then gives the next event. Call it until it gives `None`, once
    /// per frame of the game. Replies to requests with a callback do not show as events.
    pub fn poll(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.line.core_mut().poll_event() {
                match event {
                    Event::Reply { request, result } => {
                        match self.callbacks.remove(&request) {
                            Some(callback) => callback(self, result),
                            None => return Some(Event::Reply { request, result }),
                        }
                        continue;
                    }
                    event => return Some(event),
                }
            }
            let now = self.clock.now();
            if !self.turn(now) {
                return None;
            }
        }
    }

    /// Sends a request; `then` gets its answer, during some later `poll`. `args` is the tuple of
    /// the arguments, or `()`.
    ///
    /// # Errors
    ///
    /// Nothing was taken, and `then` is not called.
    pub fn request_then<A: Message, R: Message>(
        &mut self,
        stream: &str,
        method: MethodId,
        args: &A,
        then: impl FnOnce(&mut Polled, Result<R, CallError>) + 'static,
    ) -> Result<(), CallError> {
        let request = self.request(stream, method, &encode_args(args), None)?;
        let callback = Box::new(|polled: &mut Polled, result| then(polled, decode_reply(result)));
        self.callbacks.insert(request, callback);
        Ok(())
    }

    /// Sends a request with an encoded argument list; its end comes as [`Event::Reply`].
    ///
    /// # Errors
    ///
    /// Nothing was taken.
    pub fn request(
        &mut self,
        stream: &str,
        method: MethodId,
        body: &[u8],
        deadline: Option<Duration>,
    ) -> Result<RequestId, CallError> {
        let now = self.clock.now();
        self.line.core_mut().request(now, stream, method, body, deadline)
    }

    /// Sends a message: in order, at most once. The id names it in [`Event::Refused`] and
    /// [`Event::Unconfirmed`].
    ///
    /// # Errors
    ///
    /// Nothing was taken.
    pub fn tell<A: Message>(
        &mut self,
        stream: &str,
        method: MethodId,
        args: &A,
    ) -> Result<TellId, CallError> {
        let now = self.clock.now();
        self.line.core_mut().tell(now, stream, method, &encode_args(args))
    }

    /// Sends a message of which only the newest per `key` matters; it may be lost.
    ///
    /// # Errors
    ///
    /// Nothing was taken.
    pub fn tell_latest<A: Message>(
        &mut self,
        stream: &str,
        method: MethodId,
        key: u64,
        args: &A,
    ) -> Result<(), CallError> {
        self.line.core_mut().tell_latest(stream, method, key, &encode_args(args))
    }

    /// Answers an [`Event::Call`] with a value.
    ///
    /// # Errors
    ///
    /// No room: the call still waits.
    pub fn answer<R: Message>(&mut self, call: CallId, value: &R) -> Result<(), CallError> {
        let now = self.clock.now();
        self.line.core_mut().answer(now, call, Status::Ok, &proto::encode(value))
    }

    /// Allows the server to call `method`.
    pub fn publish(&mut self, method: MethodId) {
        self.line.core_mut().publish(method);
    }

    /// Starts over as a new session.
    pub fn login(&mut self, grant: Grant) {
        let now = self.clock.now();
        self.line.core_mut().login(now, grant);
    }

    /// Breaks the connection on purpose; the session resumes.
    pub fn cut(&mut self) {
        let now = self.clock.now();
        self.line.core_mut().cut(now);
    }

    /// Says goodbye; one more `poll` sends it.
    pub fn close(&mut self) {
        self.line.core_mut().close();
    }

    /// The state machine, to look at.
    pub fn core(&self) -> &Core {
        self.line.core()
    }

    /// One round of reading, timers and writing. Whether events may have come of it.
    fn turn(&mut self, now: Instant) -> bool {
        self.outputs(now);
        let mut moved = self.advance(now);
        moved |= self.read(now);
        if self.line.poll_timeout().is_some_and(|at| at <= now) {
            self.line.handle_timeout(now);
            moved = true;
        }
        self.outputs(now);
        if self.blocked || self.line.has_outgoing() {
            self.write(now);
        }
        moved
    }

    fn outputs(&mut self, now: Instant) {
        while let Some(output) = self.line.poll_output() {
            match output {
                Output::Connect { attempt } => {
                    let address = self.line.address(attempt).clone();
                    self.socket = resolve(attempt, &address);
                }
                Output::Flush => self.write(now),
                Output::Close => self.socket = Connection::None,
            }
        }
    }

    /// Brings a connection that is being made forward.
    fn advance(&mut self, now: Instant) -> bool {
        let (attempt, failed, mut left) =
            match std::mem::replace(&mut self.socket, Connection::None) {
                Connection::Resolving(attempt, addresses) => match addresses.try_recv() {
                    Ok(addresses) => (attempt, true, addresses),
                    Err(mpsc::TryRecvError::Empty) => {
                        self.socket = Connection::Resolving(attempt, addresses);
                        return false;
                    }
                    Err(mpsc::TryRecvError::Disconnected) => (attempt, true, Vec::new()),
                },
                Connection::Connecting(attempt, socket, left) => match is_connected(&socket) {
                    Ok(true) => {
                        let _ = socket.set_tcp_nodelay(true);
                        self.socket = Connection::Open(socket.into());
                        self.line.handle_connected(now, attempt);
                        return true;
                    }
                    Ok(false) => {
                        self.socket = Connection::Connecting(attempt, socket, left);
                        return false;
                    }
                    Err(_) => (attempt, true, left),
                },
                other => {
                    self.socket = other;
                    return false;
                }
            };
        debug_assert!(failed);
        while let Some(address) = left.pop() {
            if let Ok(socket) = begin_connect(address) {
                self.socket = Connection::Connecting(attempt, socket, left);
                return false;
            }
        }
        self.line.handle_closed(now);
        true
    }

    fn read(&mut self, now: Instant) -> bool {
        let mut total = 0;
        while let Connection::Open(socket) = &mut self.socket {
            match socket.read(&mut self.scratch) {
                Ok(0) => self.broke(now),
                Ok(len) => {
                    total += len;
                    if self.line.handle_bytes(now, &mut self.scratch[..len]).is_err() {
                        self.broke(now);
                    }
                    if total >= self.read_bytes_max {
                        return true;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return total > 0,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.broke(now),
            }
            if !matches!(self.socket, Connection::Open(_)) {
                return true;
            }
        }
        false
    }

    fn write(&mut self, now: Instant) {
        while let Connection::Open(socket) = &mut self.socket {
            let out = self.line.outgoing();
            self.blocked = false;
            if out.is_empty() {
                return;
            }
            match socket.write(out) {
                Ok(sent) => drop(out.drain(..sent)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked = true;
                    return;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.broke(now),
            }
        }
    }

    fn broke(&mut self, now: Instant) {
        self.socket = Connection::None;
        self.blocked = false;
        self.line.handle_closed(now);
    }
}

/// Begins to find the addresses of a host; an IP address needs nobody to be asked.
fn resolve(attempt: u32, address: &Address) -> Connection {
    let (answer, addresses) = mpsc::channel();
    let (host, port) = (address.host().to_owned(), address.port());
    if let Ok(ip) = host.parse() {
        let _ = answer.send(vec![SocketAddr::new(ip, port)]);
    } else {
        std::thread::spawn(move || {
            let found = (host.as_str(), port).to_socket_addrs();
            let mut found: Vec<_> = found.map(Iterator::collect).unwrap_or_default();
            // They are taken from the end.
            found.reverse();
            let _ = answer.send(found);
        });
    }
    Connection::Resolving(attempt, addresses)
}

fn begin_connect(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    match socket.connect(&address.into()) {
        Ok(()) => Ok(socket),
        Err(error) if is_in_progress(&error) => Ok(socket),
        Err(error) => Err(error),
    }
}

fn is_in_progress(error: &io::Error) -> bool {
    // Unix tells EINPROGRESS, which the standard library has no stable kind for; Windows
    // WSAEWOULDBLOCK.
    error.kind() == io::ErrorKind::WouldBlock
        || matches!(error.raw_os_error(), Some(code) if cfg!(unix) && code == in_progress_code())
}

const fn in_progress_code() -> i32 {
    if cfg!(any(target_os = "linux", target_os = "android")) { 115 } else { 36 }
}

/// Whether a connection that was begun stands now.
fn is_connected(socket: &Socket) -> io::Result<bool> {
    if let Some(error) = socket.take_error()? {
        return Err(error);
    }
    match socket.peer_addr() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
        // Some systems say so while they connect.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(false),
        Err(error) => Err(error),
    }
}
