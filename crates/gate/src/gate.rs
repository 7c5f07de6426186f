use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use cluster::Directory;
use env::{Instant, Random, WallTime, Wheel};
use mesh::Mesh;
use proto::WireError;
use proto::frame::{CloseCode, DownFrame, split_frame};
use proto::link::{HomeFrame, LinkFrame, Slot, WorkerId};
use proto::ticket::TicketKeys;

use crate::bucket::Price;
use crate::conn::{Conn, Phase, Ping, Session};
use crate::groups::Groups;
use crate::guard::Guard;
use crate::homes::Homes;
use crate::options::Mutant;
use crate::output::Merge;
use crate::policy::Policy;
use crate::shift::Shifts;
use crate::table::Table;
use crate::timers::{Drain, SWEEP};
use crate::{Options, Rule, Stats};

/// Most empty buffers kept for the next connection that needs one.
const POOL_MAX: usize = 256;

/// Buffers that grew larger than this, in bytes, are given back to the system.
const POOL_BUFFER_BYTES_MAX: usize = 64 * 1024;

/// How long a client is not read after a link was full.
const RETRY: Duration = Duration::from_millis(10);

/// One worker of a gate: clients on one side, links to the workers of nodes on the other.
///
/// Pure: bytes, events and time are handed in by `handle_*`; afterwards the caller drains
/// [`poll_dirty`](Gate::poll_dirty), [`poll_close`](Gate::poll_close),
/// [`poll_readable`](Gate::poll_readable) and the outputs of [`mesh`](Gate::mesh), and calls
/// [`handle_timeout`](Gate::handle_timeout) no later than [`poll_timeout`](Gate::poll_timeout).
pub struct Gate {
    pub(crate) options: Options,
    pub(crate) messages: Price,
    pub(crate) bytes: Price,
    pub(crate) keys: TicketKeys,
    pub(crate) directory: Arc<Directory>,
    pub(crate) random: Random,
    pub(crate) mesh: Mesh,
    pub(crate) conns: Table<Conn>,
    pub(crate) groups: Groups,
    pub(crate) homes: Homes,
    pub(crate) guard: Guard,
    pub(crate) wheel: Wheel<Due>,
    pub(crate) dirty: VecDeque<Slot>,
    pub(crate) pool: Pool,
    pub(crate) scratch: Vec<u8>,
    pub(crate) policies: Vec<Policy>,
    /// Hashes of the interfaces that clients may be made for; empty takes all.
    pub(crate) interfaces: Vec<u64>,
    pub(crate) stats: Stats,
    pub(crate) closing: VecDeque<(Slot, Closing)>,
    pub(crate) readable: VecDeque<Slot>,
    merge: Merge,
    /// What fired, taken out of the wheel before it is acted on.
    pub(crate) due: Vec<Due>,
    pub(crate) drain: Option<Drain>,
    pub(crate) shifts: Shifts,
}

/// Everything a [`Gate`] is made of.
pub struct Parts {
    /// Limits and waits.
    pub options: Options,
    /// Opens tickets and resume tokens, seals new tokens.
    pub keys: TicketKeys,
    /// Which nodes there are; replaced by [`Gate::set_directory`].
    pub directory: Arc<Directory>,
    /// Makes challenges; must be secret outside of tests.
    pub random: Random,
    /// The links of this worker.
    pub mesh: Mesh,
    /// Rules at the edge, asked in order until one does not pass a frame.
    pub policies: Vec<Policy>,
}

/// How soon a connection's socket is to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Closing {
    /// When its output is written.
    AfterOutput,
    /// Now: the client had its time.
    Now,
}

/// Why a connection was not taken. Its socket is to be closed without a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("connection refused by rule {}", rule.name())]
pub struct Refused {
    /// The rule that refused it.
    pub rule: Rule,
}

/// What a timer was set for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// The limit of the connection's phase.
    Phase(Slot),
    /// A begun frame should have ended.
    Frame(Slot),
    /// A paused connection tries again.
    Retry(Slot),
    /// The home should have ended the streams of a lost owner.
    Owner(Slot),
    /// Homes that were lost are told of their sessions again.
    Homes,
    Sweep,
    DrainStep,
    /// Connections wait to go on elsewhere.
    Shifts,
}

/// Empty buffers that keep their memory.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    buffers: Vec<Vec<u8>>,
}

impl Pool {
    /// Gives `buffer` memory if it has none.
    #[inline]
    pub(crate) fn fill(&mut self, buffer: &mut Vec<u8>) {
        if buffer.capacity() == 0
            && let Some(ready) = self.buffers.pop()
        {
            *buffer = ready;
        }
    }

    /// Takes back the memory of a buffer whose content is not needed.
    #[inline]
    pub(crate) fn recycle(&mut self, mut buffer: Vec<u8>) {
        let size = buffer.capacity();
        if size > 0 && size <= POOL_BUFFER_BYTES_MAX && self.buffers.len() < POOL_MAX {
            buffer.clear();
            self.buffers.push(buffer);
        }
    }
}

/// Why a connection ends, and what its home is told.
pub(crate) struct End<'a> {
    pub(crate) code: CloseCode,
    pub(crate) reason: &'a str,
    pub(crate) home: Notice,
}

/// What the home of a session hears about its end here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// The session waits for a resume.
    Detached,
    /// The client said goodbye.
    Logout,
    /// Nothing: the home ended it.
    Nothing,
    /// The session was ended by a former home.
    Over,
}

impl<'a> End<'a> {
    /// An end that the gate decides and the home must hear of.
    pub(crate) const fn new(code: CloseCode, reason: &'a str) -> Self {
        End { code, reason, home: Notice::Detached }
    }
}

/// Whether the bytes after a frame are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    Next,
    /// The frame was not taken; it and what follows waits.
    Pause,
    Ended,
}

impl Gate {
    /// A gate without connections.
    pub fn new(now: Instant, parts: Parts) -> Self {
        let Parts { options, keys, directory, random, mesh, policies } = parts;
        let mut wheel = Wheel::new(now, Wheel::<Due>::TICK);
        wheel.insert(now + SWEEP, Due::Sweep);
        Gate {
            messages: Price::new(options.messages),
            bytes: Price::new(options.bytes),
            guard: Guard::new(&options),
            keys,
            directory,
            random,
            mesh,
            conns: Table::new(),
            groups: Groups::default(),
            homes: Homes::default(),
            wheel,
            dirty: VecDeque::new(),
            pool: Pool::default(),
            scratch: Vec::new(),
            policies,
            interfaces: Vec::new(),
            stats: Stats::default(),
            closing: VecDeque::new(),
            readable: VecDeque::new(),
            merge: Merge::default(),
            due: Vec::new(),
            drain: None,
            shifts: Shifts::default(),
            options,
        }
    }

    /// Names the interfaces that clients may be made for, by their hashes: this release's and
    /// those it works together with. Without any, all are taken.
    pub fn set_interfaces(&mut self, hashes: Vec<u64>) {
        self.interfaces = hashes;
    }

    /// Takes a new connection from `peer`.
    ///
    /// # Errors
    ///
    /// `Refused` names the limit that is reached; it is counted.
    pub fn handle_open(&mut self, now: Instant, peer: SocketAddr) -> Result<Slot, Refused> {
        let refused = if self.drain.is_some() {
            Err(Rule::Draining)
        } else if self.conns.len() >= self.options.connections_max {
            Err(Rule::Connections)
        } else {
            self.guard.open(now, peer.ip())
        };
        if let Err(rule) = refused {
            self.stats.hit(rule);
            return Err(Refused { rule });
        }
        self.stats.opened += 1;
        let limit = now + self.options.handshake_max;
        let slot = self.conns.insert(Conn {
            peer,
            phase: Phase::Hello,
            input: Vec::new(),
            output: Vec::new(),
            look_at: self.options.output_bytes_before_login,
            heard_at: now,
            frame_at: now,
            // The slot is needed for the timer; it takes this one's place at once.
            timer: self.wheel.insert(limit, Due::Sweep),
            ping: Ping::default(),
            is_dirty: false,
            is_paused: false,
            is_watched: false,
        });
        self.set_timer(slot, limit);
        Ok(slot)
    }

    /// Takes bytes of the client's stream of frames. The first ones follow the preface, or are
    /// those of the first WebSocket message. `wall` dates tickets.
    ///
    /// While [`is_paused`](Gate::is_paused) the caller reads no more from the client.
    pub fn handle_bytes(&mut self, now: Instant, wall: WallTime, slot: Slot, bytes: &[u8]) {
        let Some(conn) = self.conns.get_mut(slot) else { return };
        if bytes.is_empty() || matches!(conn.phase, Phase::Closing) {
            return;
        }
        conn.heard_at = now;
        self.stats.bytes_in += bytes.len() as u64;
        if conn.is_paused {
            conn.input.extend_from_slice(bytes);
            let over = conn.input.len() > 2 * self.options.frame_bytes_max + (1 << 18);
            assert!(!over, "a paused connection is not read");
            return;
        }
        let mut rest = bytes;
        if !conn.input.is_empty() {
            match self.complete(now, wall, slot, bytes) {
                Some(used) => rest = &bytes[used..],
                None => return,
            }
        }
        let used = self.parse(now, wall, slot, rest);
        self.keep(now, slot, &rest[used..]);
    }

    /// Fills up the begun frame. Gives the bytes used for it, or `None` if nothing is to be parsed
    /// now: it is still open, was kept, or the connection has ended.
    fn complete(
        &mut self,
        now: Instant,
        wall: WallTime,
        slot: Slot,
        bytes: &[u8],
    ) -> Option<usize> {
        let mut used = 0;
        loop {
            let max = self.frame_max(slot)?;
            let conn = self.conns.get_mut(slot)?;
            match announced(&conn.input, max) {
                Err(error) => {
                    self.refuse(now, slot, error);
                    return None;
                }
                Ok(Some(total)) if conn.input.len() == total => break,
                Ok(total) => {
                    let missing = total.map_or(1, |total| total - conn.input.len());
                    let next = &bytes[used..bytes.len().min(used + missing)];
                    if next.is_empty() {
                        return None;
                    }
                    conn.input.extend_from_slice(next);
                    used += next.len();
                }
            }
        }
        let input = std::mem::take(&mut self.conns.get_mut(slot)?.input);
        let parsed = self.parse(now, wall, slot, &input);
        if parsed < input.len() {
            // Paused at this frame: all the rest waits with it.
            let conn = self.conns.get_mut(slot)?;
            conn.input = input;
            conn.input.extend_from_slice(&bytes[used..]);
            return None;
        }
        self.pool.recycle(input);
        Some(used)
    }

    /// Handles all whole frames of `data`; gives how many of its bytes are done with.
    fn parse(&mut self, now: Instant, wall: WallTime, slot: Slot, data: &[u8]) -> usize {
        let mut at = 0;
        while at < data.len() {
            at += self.forward(now, slot, &data[at..]);
            if at == data.len() {
                break;
            }
            let Some(max) = self.frame_max(slot) else { return data.len() };
            match split_frame(&data[at..], max) {
                Ok(Some((payload, used))) => match self.handle_frame(now, wall, slot, payload) {
                    Flow::Next => at += used,
                    Flow::Pause => return at,
                    Flow::Ended => return data.len(),
                },
                Ok(None) => return at,
                Err(error) => {
                    self.refuse(now, slot, error);
                    return data.len();
                }
            }
        }
        at
    }

    /// Keeps the begun frame until the rest of it comes.
    fn keep(&mut self, now: Instant, slot: Slot, rest: &[u8]) {
        if rest.is_empty() {
            return;
        }
        let Some(conn) = self.conns.get_mut(slot) else { return };
        self.pool.fill(&mut conn.input);
        conn.input.extend_from_slice(rest);
        conn.frame_at = now;
        if !conn.is_watched && !conn.is_paused {
            conn.is_watched = true;
            self.wheel.insert(now + self.options.frame_grace, Due::Frame(slot));
        }
    }

    /// The longest payload allowed now; `None` if the connection takes no more bytes.
    #[inline]
    fn frame_max(&self, slot: Slot) -> Option<usize> {
        match self.conns.get(slot)?.phase {
            Phase::Hello | Phase::Challenged(_) => Some(self.options.frame_bytes_before_login),
            Phase::Session(_) => Some(self.options.frame_bytes_max),
            Phase::Closing => None,
        }
    }

    #[inline]
    fn handle_frame(&mut self, now: Instant, wall: WallTime, slot: Slot, payload: &[u8]) -> Flow {
        let Some(conn) = self.conns.get(slot) else { return Flow::Ended };
        match &conn.phase {
            Phase::Session(session) if session.waiting.is_none() => {
                self.handle_live(now, slot, payload)
            }
            Phase::Closing => Flow::Ended,
            _ => self.handle_early(now, wall, slot, payload),
        }
    }

    /// Ends a connection whose bytes cannot be read.
    pub(crate) fn refuse(&mut self, now: Instant, slot: Slot, error: WireError) {
        self.stats.hit(match error {
            WireError::TooLong { .. } => Rule::FrameBytes,
            _ => Rule::Protocol,
        });
        self.end(now, slot, &End::new(CloseCode::Protocol, &error.to_string()));
    }

    /// The client gave a sign of life below the stream of frames.
    pub fn handle_alive(&mut self, now: Instant, slot: Slot) {
        if let Some(conn) = self.conns.get_mut(slot) {
            conn.heard_at = now;
        }
    }

    /// Counts what the caller held back itself, below the stream of frames.
    pub fn note(&mut self, rule: Rule) {
        self.stats.hit(rule);
    }

    /// The client's socket is closed: by the client, by an error, or after
    /// [`poll_close`](Gate::poll_close).
    pub fn handle_closed(&mut self, now: Instant, slot: Slot) {
        self.end(now, slot, &End::new(CloseCode::GoingAway, ""));
        let Some(conn) = self.conns.remove(slot) else { return };
        self.guard.closed(conn.peer.ip());
        self.wheel.cancel(conn.timer);
        self.pool.recycle(conn.output);
    }

    /// Says goodbye to a client and detaches its session. Does nothing if that is under way.
    pub(crate) fn end(&mut self, now: Instant, slot: Slot, end: &End<'_>) {
        let Some(conn) = self.conns.get_mut(slot) else { return };
        if matches!(conn.phase, Phase::Closing) {
            return;
        }
        self.shifts.forget(slot);
        if let Phase::Session(session) = std::mem::replace(&mut conn.phase, Phase::Closing) {
            self.detach(now, slot, &session, end);
            self.part(now, slot, &session, end.code);
        }
        let conn = self.conns.get_mut(slot).expect("it was there");
        self.pool.recycle(std::mem::take(&mut conn.input));
        if end.code == CloseCode::SlowReader {
            // It would not read what is queued either.
            conn.output.clear();
        }
        conn.put(&DownFrame::Close { code: end.code, reason: end.reason });
        conn.is_paused = false;
        touch(&mut self.dirty, conn, slot);
        self.closing.push_back((slot, Closing::AfterOutput));
        self.set_timer(slot, now + self.options.linger);
    }

    /// Removes what the gate holds of a session and tells its home.
    fn detach(&mut self, now: Instant, conn: Slot, session: &Session, end: &End<'_>) {
        let mutant = self.options.mutant;
        for membership in &session.memberships {
            if mutant != Some(Mutant::GroupsKept) {
                self.leave_group(*membership);
            }
        }
        let (id, account, generation) = (session.id, session.account, session.generation);
        let frame = match end.home {
            Notice::Nothing => return,
            Notice::Detached if mutant == Some(Mutant::EndsUntold) => return,
            Notice::Detached => {
                LinkFrame::Detached { conn, session: id, account, generation, code: end.code }
            }
            Notice::Logout => LinkFrame::Logout { session: id, account, generation },
            Notice::Over => {
                LinkFrame::Home(HomeFrame::Over { session: id, account, code: end.code })
            }
        };
        self.send(now, session.home, &frame);
    }

    /// Sends what passes a full link. If the node cannot be reached it learns from the break of
    /// the link itself.
    pub(crate) fn send(&mut self, now: Instant, to: WorkerId, frame: &LinkFrame<'_>) {
        let _ = self.mesh.send_reply(now, to, |out| frame.encode(to.worker, out));
    }

    /// Sets the timer of the connection's phase.
    pub(crate) fn set_timer(&mut self, slot: Slot, at: Instant) {
        let conn = self.conns.get_mut(slot).expect("timers are set for connections that are there");
        self.wheel.cancel(conn.timer);
        conn.timer = self.wheel.insert(at, Due::Phase(slot));
    }

    /// A connection's client is not read until [`poll_readable`](Gate::poll_readable) names it.
    pub fn is_paused(&self, slot: Slot) -> bool {
        self.conns.get(slot).is_some_and(|conn| conn.is_paused)
    }

    pub(crate) fn pause(&mut self, now: Instant, slot: Slot) {
        let conn = self.conns.get_mut(slot).expect("it has just sent a frame");
        conn.is_paused = true;
        self.stats.hit(Rule::Paused);
        self.wheel.insert(now + RETRY, Due::Retry(slot));
    }

    pub(crate) fn handle_retry(&mut self, now: Instant, slot: Slot) {
        let Some(conn) = self.conns.get_mut(slot) else { return };
        if !std::mem::take(&mut conn.is_paused) {
            return;
        }
        let input = std::mem::take(&mut conn.input);
        // Only sessions are paused, and those show no tickets any more.
        let used = self.parse(now, WallTime(0), slot, &input);
        self.keep(now, slot, &input[used..]);
        self.pool.recycle(input);
        if !self.is_paused(slot) {
            self.readable.push_back(slot);
        }
    }

    /// The next connection with new output.
    #[inline]
    pub fn poll_dirty(&mut self) -> Option<Slot> {
        while let Some(slot) = self.dirty.pop_front() {
            if let Some(conn) = self.conns.get_mut(slot) {
                conn.is_dirty = false;
                return Some(slot);
            }
        }
        None
    }

    /// The next connection whose socket is to be closed. After its output, or at once if the same
    /// connection is named again with [`Closing::Now`]; then [`handle_closed`](Gate::handle_closed)
    /// must be called.
    pub fn poll_close(&mut self) -> Option<(Slot, Closing)> {
        while let Some((slot, closing)) = self.closing.pop_front() {
            if self.conns.get(slot).is_some() {
                return Some((slot, closing));
            }
        }
        None
    }

    /// The next connection that may be read again after a pause.
    pub fn poll_readable(&mut self) -> Option<Slot> {
        self.readable.pop_front()
    }

    /// Takes the waiting output of a connection: whole frames. Give the buffer back by
    /// [`recycle`](Gate::recycle) when it is written.
    ///
    /// What is taken counts as sent; while the socket is blocked, leave it here, where it can be
    /// merged and is limited.
    #[inline]
    pub fn take_output(&mut self, slot: Slot) -> Vec<u8> {
        let Some(conn) = self.conns.get_mut(slot) else { return Vec::new() };
        conn.look_at = if conn.is_live() {
            self.options.output_bytes_thin
        } else {
            self.options.output_bytes_before_login
        };
        self.stats.bytes_out += conn.output.len() as u64;
        std::mem::take(&mut conn.output)
    }

    /// Takes back the memory of a written buffer.
    #[inline]
    pub fn recycle(&mut self, buffer: Vec<u8>) {
        self.pool.recycle(buffer);
    }

    /// Looks at output that has grown long: merges what can be merged, gives up a client that
    /// still is too slow.
    #[cold]
    pub(crate) fn crowded(&mut self, now: Instant, slot: Slot) {
        let Some(conn) = self.conns.get_mut(slot) else { return };
        match conn.phase {
            Phase::Closing => return,
            Phase::Hello | Phase::Challenged(_) => {
                self.stats.hit(Rule::OutputBeforeLogin);
                self.end(now, slot, &End::new(CloseCode::SlowReader, "reads too slowly"));
                return;
            }
            Phase::Session(_) => {}
        }
        let merged = self.merge.merge(&mut conn.output);
        self.stats.hit_times(Rule::Merged, merged);
        let Options { output_bytes_thin: thin, output_bytes_max: max, .. } = self.options;
        if conn.output.len() > max {
            self.stats.hit(Rule::SlowReader);
            self.end(now, slot, &End::new(CloseCode::SlowReader, "reads too slowly"));
        } else {
            // Twice the size before the next look, so that looking stays cheap on the whole.
            conn.look_at = (2 * conn.output.len()).clamp(thin, max);
        }
    }

    /// The links of this worker: the caller moves their bytes.
    pub fn mesh(&mut self) -> &mut Mesh {
        &mut self.mesh
    }
}

/// Marks a connection as having output.
#[inline]
pub(crate) fn touch(dirty: &mut VecDeque<Slot>, conn: &mut Conn, slot: Slot) {
    if !conn.is_dirty {
        conn.is_dirty = true;
        dirty.push_back(slot);
    }
}

/// How long the frame at the start of `bytes` is with its length, if that can be told yet.
fn announced(bytes: &[u8], max: usize) -> Result<Option<usize>, WireError> {
    let mut reader = proto::Reader::new(bytes);
    match reader.varint() {
        Ok(0) => Err(WireError::Empty),
        Ok(len) if len > max as u64 => Err(WireError::TooLong { len, max }),
        Ok(len) => Ok(Some(bytes.len() - reader.rest().len() + len as usize)),
        Err(WireError::Truncated) => Ok(None),
        Err(error) => Err(error),
    }
}
