use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use env::{Clock, Instant};
use mio::Interest;
use mio::net::{TcpListener, TcpStream};

use crate::memory::End;
use crate::table::Table;
use crate::timer::Timer;
use crate::waker::News;
use crate::{Token, Waker};

/// Limits of a [`Sockets`].
#[derive(Clone, Debug)]
pub struct Options {
    /// Most sockets and pipes open at once; what is accepted above it is closed at once.
    pub sockets_max: usize,
    /// Most connections accepted from one listener before the others have their turn.
    pub accepts_per_poll: usize,
    /// How long accepting rests after the system refused (no descriptors, no memory).
    pub accept_pause: Duration,
    /// How long a finished socket waits for its peer to read the rest and close.
    pub linger: Duration,
    /// Keep the deadline by the poll's own timeout even where the system has exact timers.
    pub portable_timer: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            sockets_max: 500_000,
            accepts_per_poll: 256,
            accept_pause: Duration::from_millis(100),
            linger: Duration::from_secs(1),
            portable_timer: false,
        }
    }
}

/// How a port is opened.
#[derive(Clone, Copy, Debug)]
pub struct ListenOptions {
    /// Connections that the system keeps for us until they are accepted.
    pub backlog: u32,
    /// Several listeners may share the port; the system deals connections out among them.
    pub reuse_port: bool,
}

impl Default for ListenOptions {
    /// Backlog 4,096, port shared.
    fn default() -> Self {
        ListenOptions { backlog: 4096, reuse_port: true }
    }
}

/// Names one listener of one [`Sockets`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerId(pub(crate) Token);

/// What [`Sockets::poll`] found.
#[derive(Debug)]
pub enum Event {
    /// A listener has a new connection; it may already be readable, which is told separately.
    Accepted {
        /// Where it came in.
        listener: ListenerId,
        /// The new socket.
        socket: Token,
        /// Its other end.
        peer: SocketAddr,
    },
    /// A connection begun here is made.
    Connected(Token),
    /// A connection begun here was not made; its token is closed already.
    ConnectFailed(Token, io::Error),
    /// Read until it gives something else than [`Read::More`]: it is not told again before.
    Readable(Token),
    /// There is room again after [`Write::Partial`].
    Writable(Token),
    /// [`Waker::wake`] was called, perhaps more than once.
    Woken,
    /// The deadline of [`Sockets::arm_timer`] is reached; it is no longer set.
    Timer,
}

/// What [`Sockets::read`] gave.
#[derive(Debug)]
pub enum Read {
    /// So many bytes, and nothing more for now.
    Data(usize),
    /// So many bytes, and perhaps more: read again, or call [`Sockets::read_later`].
    More(usize),
    /// Nothing for now.
    Blocked,
    /// The peer ended (`None`) or the connection broke. Close the token.
    Closed(Option<io::Error>),
}

/// What [`Sockets::write`] did.
#[derive(Debug)]
pub enum Write {
    /// Everything is with the system; `out` is empty and keeps its memory.
    All,
    /// What was taken is gone from `out`. [`Event::Writable`] follows.
    Partial,
    /// The connection broke. Close the token.
    Closed(Option<io::Error>),
}

/// What a [`Sockets`] did since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Counters {
    pub accepted: u64,
    /// Closed at once because `sockets_max` were open.
    pub refused: u64,
    /// The system failed to accept, and accepting paused.
    pub accept_pauses: u64,
    pub connected: u64,
    pub connect_failures: u64,
    pub reads: u64,
    pub read_bytes: u64,
    pub writes: u64,
    pub written_bytes: u64,
    pub polls: u64,
}

/// The sockets, pipes, deadline and waker of one thread.
///
/// Readiness is told on its edge: each event once, until the token was used. A connection costs
/// its descriptor and some 32 bytes here; bytes are read into the caller's scratch memory and written
/// out of the caller's buffers.
#[derive(Debug)]
pub struct Sockets {
    poll: mio::Poll,
    ready: mio::Events,
    table: Table<Entry>,
    options: Options,
    clock: Clock,
    timer: Timer,
    /// What the user armed; `timer` is set to the earlier of this and our own needs.
    user_deadline: Option<Instant>,
    waker: Waker,
    /// Scratch for the waker's news.
    news: Vec<News>,
    /// Tokens to be told readable again, or listeners with more to accept.
    again: Vec<Token>,
    again_spare: Vec<Token>,
    /// Listeners that rest, until when.
    paused: Vec<(Token, Instant)>,
    /// Finished sockets in the order of their deadlines.
    lingering: std::collections::VecDeque<(Token, Instant)>,
    counters: Counters,
}

#[derive(Debug)]
enum Entry {
    Listener(TcpListener),
    Tcp(Tcp),
    Pipe(End),
}

#[derive(Debug)]
struct Tcp {
    stream: TcpStream,
    state: State,
    /// A write found no room.
    blocked: bool,
    /// The system told of an end or error, so a short read is not yet all.
    ending: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Connecting,
    Open,
    /// Our side said its last; what still arrives is thrown away until the peer closes.
    Lingering,
}

const READY_EVENTS: usize = 1024;

impl Sockets {
    /// Makes one without sockets. `clock` is the one that deadlines are meant by.
    ///
    /// # Errors
    ///
    /// What the system says if it has no descriptor left.
    pub fn new(options: Options, clock: Clock) -> io::Result<Self> {
        let poll = mio::Poll::new()?;
        let timer = Timer::new(poll.registry(), options.portable_timer)?;
        let waker = Waker::new(poll.registry())?;
        Ok(Sockets {
            poll,
            ready: mio::Events::with_capacity(READY_EVENTS),
            table: Table::new(),
            options,
            clock,
            timer,
            user_deadline: None,
            waker,
            news: Vec::new(),
            again: Vec::new(),
            again_spare: Vec::new(),
            paused: Vec::new(),
            lingering: std::collections::VecDeque::new(),
            counters: Counters::default(),
        })
    }

    /// Opens a port. Port 0 lets the system choose; the address says what it chose.
    ///
    /// # Errors
    ///
    /// `AddrInUse` and the like, as the system says.
    pub fn listen(
        &mut self,
        addr: SocketAddr,
        options: ListenOptions,
    ) -> io::Result<(ListenerId, SocketAddr)> {
        self.adopt_listener(open_port(addr, options)?)
    }

    /// Takes over an open port, as one handed down by a predecessor.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn adopt_listener(
        &mut self,
        listener: std::net::TcpListener,
    ) -> io::Result<(ListenerId, SocketAddr)> {
        listener.set_nonblocking(true)?;
        let mut listener = TcpListener::from_std(listener);
        let addr = listener.local_addr()?;
        let token = self.table.next_token();
        self.poll.registry().register(&mut listener, token.to_mio(), Interest::READABLE)?;
        self.table.insert(Entry::Listener(listener));
        Ok((ListenerId(token), addr))
    }

    /// Stops accepting. Connections that wait in the backlog are refused by the system.
    pub fn close_listener(&mut self, listener: ListenerId) {
        self.paused.retain(|(token, _)| *token != listener.0);
        self.close(listener.0);
    }

    /// Begins a connection. [`Event::Connected`] or [`Event::ConnectFailed`] follows; the caller
    /// keeps the time and may `close` before.
    ///
    /// # Errors
    ///
    /// What can be told at once: no descriptor left, no route.
    pub fn connect(&mut self, addr: SocketAddr) -> io::Result<Token> {
        self.check_room()?;
        let stream = TcpStream::connect(addr)?;
        self.insert_tcp(stream, State::Connecting)
    }

    /// Takes over a connected socket.
    ///
    /// # Errors
    ///
    /// What the system says, or `sockets_max` reached.
    pub fn adopt(&mut self, stream: std::net::TcpStream) -> io::Result<Token> {
        self.check_room()?;
        stream.set_nonblocking(true)?;
        let stream = TcpStream::from_std(stream);
        let _ = stream.set_nodelay(true);
        self.insert_tcp(stream, State::Open)
    }

    /// Takes one end of a pipe of [`memory::pair`](crate::memory::pair).
    ///
    /// # Errors
    ///
    /// `sockets_max` reached.
    pub fn adopt_pipe(&mut self, mut end: End) -> io::Result<Token> {
        self.check_room()?;
        let token = self.table.next_token();
        end.register(&self.waker, token);
        Ok(self.table.insert(Entry::Pipe(end)))
    }

    /// Lets go of a TCP socket, for a server that wants it as its own (non-blocking).
    ///
    /// # Errors
    ///
    /// `NotFound` if the token is no open TCP socket.
    pub fn detach(&mut self, token: Token) -> io::Result<std::net::TcpStream> {
        if !matches!(self.table.get(token), Some(Entry::Tcp(tcp)) if tcp.state == State::Open) {
            return Err(io::Error::new(io::ErrorKind::NotFound, "no open tcp socket"));
        }
        let Some(Entry::Tcp(mut tcp)) = self.table.remove(token) else { unreachable!() };
        self.poll.registry().deregister(&mut tcp.stream)?;
        Ok(tcp.stream.into())
    }

    /// Waits for events and appends them to `events`. `None` waits without end.
    ///
    /// Events of one token come in a useful order: readable before writable. A token may show up
    /// after it was closed within the same batch; using it then finds nothing.
    ///
    /// # Errors
    ///
    /// Only what makes the poll unusable for good.
    pub fn poll(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        let mut timeout = if self.again.is_empty() { timeout } else { Some(Duration::ZERO) };
        if let Some(limit) = self.timer.timeout(|| self.clock.now()) {
            timeout = Some(timeout.map_or(limit, |timeout| timeout.min(limit)));
        }
        self.counters.polls += 1;
        // Taken out for the time of the call, so that events can be looked at while sockets change.
        let mut ready = std::mem::replace(&mut self.ready, mio::Events::with_capacity(0));
        let mut fired = false;
        let mut rounds = 0;
        let result = loop {
            match self.poll.poll(&mut ready, timeout) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    // A signal: the caller decides whether to go on waiting.
                    break Ok(());
                }
                Err(error) => break Err(error),
                Ok(()) => {}
            }
            let mut count = 0;
            for event in &ready {
                count += 1;
                match event.token() {
                    Token::WAKER => self.take_news(events),
                    Token::TIMER => fired = true,
                    token => self.handle_ready(Token::from_mio(token), event, events),
                }
            }
            // All that is ready is taken, so that a poll nested in another one has nothing left.
            rounds += 1;
            if count < READY_EVENTS || rounds > self.table.len() / READY_EVENTS + 1 {
                break Ok(());
            }
            timeout = Some(Duration::ZERO);
        };
        self.ready = ready;
        self.take_again(events);
        self.handle_deadline(fired, events)?;
        result
    }

    /// Reads what is there into `scratch`, which must not be empty.
    pub fn read(&mut self, token: Token, scratch: &mut [u8]) -> Read {
        assert!(!scratch.is_empty(), "scratch has room");
        let read = match self.table.get_mut(token) {
            Some(Entry::Tcp(tcp)) => tcp.read(scratch),
            Some(Entry::Pipe(end)) => end.read(scratch),
            Some(Entry::Listener(_)) | None => return Read::Closed(None),
        };
        if let Read::Data(n) | Read::More(n) = read {
            self.counters.reads += 1;
            self.counters.read_bytes += n as u64;
        }
        read
    }

    /// Has [`Event::Readable`] told again by the next poll, for a token that had its share.
    pub fn read_later(&mut self, token: Token) {
        self.again.push(token);
    }

    /// Hands `out` to the system and removes what it took.
    pub fn write(&mut self, token: Token, out: &mut Vec<u8>) -> Write {
        let before = out.len();
        let write = match self.table.get_mut(token) {
            Some(Entry::Tcp(tcp)) => tcp.write(out),
            Some(Entry::Pipe(end)) => end.write(out),
            Some(Entry::Listener(_)) | None => return Write::Closed(None),
        };
        self.counters.writes += 1;
        self.counters.written_bytes += (before - out.len()) as u64;
        write
    }

    /// Closes at once. What the peer has not read may be lost to it; a token that is not open is
    /// fine.
    pub fn close(&mut self, token: Token) {
        if let Some(entry) = self.table.remove(token) {
            self.deregister(entry);
        }
    }

    /// Closes so that the peer can still read what was written: says the end, throws away what
    /// arrives, and lets go when the peer closes or after `linger`.
    ///
    /// The token means nothing to the caller from here on.
    pub fn finish(&mut self, token: Token) {
        match self.table.get_mut(token) {
            Some(Entry::Tcp(tcp)) if tcp.state == State::Open => {
                if tcp.stream.shutdown(Shutdown::Write).is_err() {
                    self.close(token);
                    return;
                }
                tcp.state = State::Lingering;
                self.lingering.push_back((token, self.clock.now() + self.options.linger));
                self.again.push(token);
                self.set_timer();
            }
            // The other end of a pipe keeps what was written when this one goes.
            _ => self.close(token),
        }
    }

    /// The address of the other end.
    ///
    /// # Errors
    ///
    /// `NotConnected` for what is no TCP socket; else as the system says.
    pub fn peer_addr(&self, token: Token) -> io::Result<SocketAddr> {
        match self.table.get(token) {
            Some(Entry::Tcp(tcp)) => tcp.stream.peer_addr(),
            _ => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Sets the deadline after which a poll gives [`Event::Timer`], by the clock given to `new`.
    ///
    /// There is one; setting it replaces it. Kept to the accuracy of the system's timers (tens of
    /// microseconds on Linux), or to the next millisecond by the portable fallback.
    pub fn arm_timer(&mut self, at: Instant) {
        self.user_deadline = Some(at);
        self.set_timer();
    }

    /// Takes back the deadline.
    pub fn disarm_timer(&mut self) {
        self.user_deadline = None;
        self.set_timer();
    }

    /// The deadline that does not show on [`raw_fd`](Self::raw_fd): who nests this poll in
    /// another one must call `poll` by then. `None` wherever the system has exact timers.
    pub fn unattended_deadline(&self) -> Option<Instant> {
        self.timer.unattended()
    }

    /// Ends a poll from another thread.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// How many sockets, pipes and listeners are open.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether nothing is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the next poll has something to tell without waiting, whatever the descriptor says.
    pub fn has_more(&self) -> bool {
        !self.again.is_empty()
    }

    /// What was done so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The poll's own descriptor, readable while events wait: to nest it in another poll.
    ///
    /// Look at [`has_more`](Self::has_more) before sleeping on it.
    #[cfg(unix)]
    pub fn raw_fd(&self) -> std::os::fd::RawFd {
        use std::os::fd::AsRawFd;
        self.poll.as_raw_fd()
    }

    fn check_room(&mut self) -> io::Result<()> {
        if self.table.len() < self.options.sockets_max {
            return Ok(());
        }
        self.counters.refused += 1;
        let text = format!("{} sockets are open: raise sockets_max", self.options.sockets_max);
        Err(io::Error::new(io::ErrorKind::QuotaExceeded, text))
    }

    fn insert_tcp(&mut self, mut stream: TcpStream, state: State) -> io::Result<Token> {
        let token = self.table.next_token();
        // Both interests once and for all: an edge that nobody waits for costs nothing.
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut stream, token.to_mio(), interest)?;
        let tcp = Tcp { stream, state, blocked: false, ending: false };
        Ok(self.table.insert(Entry::Tcp(tcp)))
    }

    fn deregister(&mut self, entry: Entry) {
        // Epoll forgets a closed descriptor by itself; others must be told.
        let registry = self.poll.registry();
        let _ = match entry {
            Entry::Listener(mut listener) => registry.deregister(&mut listener),
            Entry::Tcp(mut tcp) if !cfg!(target_os = "linux") => {
                registry.deregister(&mut tcp.stream)
            }
            Entry::Tcp(_) | Entry::Pipe(_) => Ok(()),
        };
    }

    fn take_news(&mut self, events: &mut Vec<Event>) {
        if self.waker.take(&mut self.news) {
            events.push(Event::Woken);
        }
        for news in self.news.drain(..) {
            let (token, event) = match news {
                News::Readable(token) => (token, Event::Readable(token)),
                News::Writable(token) => (token, Event::Writable(token)),
            };
            if self.table.get(token).is_some() {
                events.push(event);
            }
        }
    }

    fn take_again(&mut self, events: &mut Vec<Event>) {
        if self.again.is_empty() {
            return;
        }
        let mut again = std::mem::replace(&mut self.again, std::mem::take(&mut self.again_spare));
        for token in again.drain(..) {
            match self.table.get(token) {
                Some(Entry::Listener(_)) => self.accept(token, events),
                Some(Entry::Tcp(tcp)) if tcp.state == State::Lingering => self.discard(token),
                Some(_) => events.push(Event::Readable(token)),
                None => {}
            }
        }
        self.again_spare = again;
    }

    fn handle_ready(&mut self, token: Token, ready: &mio::event::Event, events: &mut Vec<Event>) {
        match self.table.get_mut(token) {
            Some(Entry::Listener(_)) => self.accept(token, events),
            Some(Entry::Tcp(tcp)) => {
                if tcp.state == State::Connecting {
                    match tcp.connected(ready) {
                        Ok(false) => return,
                        Ok(true) => {
                            self.counters.connected += 1;
                            events.push(Event::Connected(token));
                        }
                        Err(error) => {
                            self.counters.connect_failures += 1;
                            self.close(token);
                            events.push(Event::ConnectFailed(token, error));
                            return;
                        }
                    }
                }
                let ending = ready.is_read_closed() || ready.is_write_closed() || ready.is_error();
                tcp.ending |= ending;
                if tcp.state == State::Lingering {
                    self.discard(token);
                    return;
                }
                if ready.is_readable() || ending {
                    events.push(Event::Readable(token));
                }
                if tcp.blocked && ready.is_writable() {
                    tcp.blocked = false;
                    events.push(Event::Writable(token));
                }
            }
            Some(Entry::Pipe(_)) | None => {}
        }
    }

    fn accept(&mut self, token: Token, events: &mut Vec<Event>) {
        if self.paused.iter().any(|(paused, _)| *paused == token) {
            return;
        }
        for _ in 0..self.options.accepts_per_poll {
            let Some(Entry::Listener(listener)) = self.table.get(token) else { return };
            match listener.accept() {
                Ok((stream, peer)) => {
                    if self.table.len() >= self.options.sockets_max {
                        self.counters.refused += 1;
                        continue;
                    }
                    let _ = stream.set_nodelay(true);
                    let Ok(socket) = self.insert_tcp(stream, State::Open) else {
                        self.counters.refused += 1;
                        continue;
                    };
                    self.counters.accepted += 1;
                    events.push(Event::Accepted { listener: ListenerId(token), socket, peer });
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // The client gave up while it waited: not our trouble.
                Err(error) if is_clients_own(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, pause = ?self.options.accept_pause, "cannot accept");
                    self.pause(token);
                    return;
                }
            }
        }
        self.again.push(token);
    }

    /// Stops accepting for a while, after the system had no descriptor or memory for it.
    pub(crate) fn pause(&mut self, listener: Token) {
        self.counters.accept_pauses += 1;
        self.paused.push((listener, self.clock.now() + self.options.accept_pause));
        self.set_timer();
    }

    /// Reads a lingering socket empty, within reason.
    fn discard(&mut self, token: Token) {
        let mut scratch = [0; 4096];
        for _ in 0..16 {
            let Some(Entry::Tcp(tcp)) = self.table.get_mut(token) else { return };
            match tcp.read(&mut scratch) {
                Read::Data(_) | Read::Blocked => return,
                Read::More(_) => {}
                Read::Closed(_) => {
                    self.close(token);
                    return;
                }
            }
        }
        // A peer that keeps sending after the end is not worth our time.
        self.close(token);
    }

    fn set_timer(&mut self) {
        let paused = self.paused.iter().map(|(_, until)| *until).min();
        let lingering = self.lingering.front().map(|(_, until)| *until);
        let wanted = [self.user_deadline, paused, lingering].into_iter().flatten().min();
        if let Err(error) = self.timer.set(wanted, || self.clock.now()) {
            // Cannot happen with valid values; without it the caller's timeouts still serve.
            tracing::error!(%error, "cannot set the timer");
        }
    }

    fn handle_deadline(&mut self, fired: bool, events: &mut Vec<Event>) -> io::Result<()> {
        if !self.timer.take_due(fired, || self.clock.now())? {
            return Ok(());
        }
        let now = self.clock.now();
        if self.user_deadline.is_some_and(|at| at <= now) {
            self.user_deadline = None;
            events.push(Event::Timer);
        }
        let due = self.paused.iter().filter(|(_, until)| *until <= now);
        self.again.extend(due.map(|(token, _)| *token));
        self.paused.retain(|(_, until)| *until > now);
        while self.lingering.front().is_some_and(|(_, until)| *until <= now) {
            let (token, _) = self.lingering.pop_front().expect("front is there");
            self.close(token);
        }
        self.set_timer();
        Ok(())
    }
}

impl Tcp {
    /// Whether the connection stands now; an error if it will not.
    fn connected(&mut self, ready: &mio::event::Event) -> io::Result<bool> {
        if !ready.is_writable() && !ready.is_error() {
            return Ok(false);
        }
        if let Some(error) = self.stream.take_error()? {
            return Err(error);
        }
        match self.stream.peer_addr() {
            Ok(_) => {
                let _ = self.stream.set_nodelay(true);
                self.state = State::Open;
                self.blocked = false;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn read(&mut self, scratch: &mut [u8]) -> Read {
        loop {
            match self.stream.read(scratch) {
                Ok(0) => return Read::Closed(None),
                // Less than asked for means that there was no more, unless the end has come.
                Ok(n) if n < scratch.len() && !self.ending => return Read::Data(n),
                Ok(n) => return Read::More(n),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Read::Blocked,
                    io::ErrorKind::Interrupted => {}
                    _ => return Read::Closed(Some(error)),
                },
            }
        }
    }

    fn write(&mut self, out: &mut Vec<u8>) -> Write {
        if self.state == State::Lingering {
            return Write::Closed(None);
        }
        let mut written = 0;
        let result = loop {
            if written == out.len() {
                break Write::All;
            }
            if self.blocked || self.state == State::Connecting {
                self.blocked = true;
                break Write::Partial;
            }
            match self.stream.write(&out[written..]) {
                Ok(0) => break Write::Closed(None),
                Ok(n) => written += n,
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => self.blocked = true,
                    io::ErrorKind::Interrupted => {}
                    _ => break Write::Closed(Some(error)),
                },
            }
        };
        if written == out.len() {
            out.clear();
        } else {
            out.drain(..written);
        }
        result
    }
}

/// Opens a port that does not block.
pub(crate) fn open_port(
    addr: SocketAddr,
    options: ListenOptions,
) -> io::Result<std::net::TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    // Without it a restarted node could not take its port back for a minute.
    socket.set_reuse_address(true)?;
    #[cfg(unix)]
    socket.set_reuse_port(options.reuse_port)?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

/// Whether `accept` failed on account of the connection that was to be accepted.
fn is_clients_own(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, TimedOut};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | TimedOut)
}
