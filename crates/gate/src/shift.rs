//! Live connections that go on at a successor of this gate, and those that come from a predecessor.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use env::Instant;
use proto::frame::{CloseCode, RESUME_STREAMS_MAX};
use proto::link::{LinkFrame, Shift, Slot, WorkerId, put_worker, read_worker};
use proto::{AccountId, Reader, SessionId, WireError, put_blob, put_varint};

use crate::bucket::Bucket;
use crate::conn::{Conn, Lead, Phase, Ping, Routes, Session, Waiting};
use crate::gate::{Due, End, Gate, touch};
use crate::homes::Known;
use crate::{Options, Rule};

/// How often those are asked again who could not do it.
const AGAIN: Duration = Duration::from_millis(25);

/// How long a connection that is not read waits until it may go. Then its client resumes.
const LEAVING_MAX: Duration = Duration::from_secs(3);

/// The longest address, as text.
const ADDRESS_BYTES_MAX: usize = 64;

/// Output of a connection that is taken over, beyond what it may hold, in bytes.
const OUTPUT_SLACK: usize = 1024 * 1024;

/// The connections that are about to go to a successor.
#[derive(Debug, Default)]
pub(crate) struct Shifts {
    leaving: BTreeMap<Slot, Leaving>,
    ready: VecDeque<Slot>,
    is_armed: bool,
}

/// One of them. Its client is not read.
#[derive(Debug)]
struct Leaving {
    gate: WorkerId,
    to: Slot,
    until: Instant,
    /// The home has refused.
    is_refused: bool,
    /// The open streams, once its home speaks to the successor.
    streams: Option<Vec<u32>>,
    /// Streams whose owners were asked, and where.
    asked: Vec<(u32, Slot)>,
    done: Vec<u32>,
}

/// What is not there yet of a connection that comes from a predecessor.
#[derive(Debug, Default)]
pub(crate) struct Arriving {
    /// The streams that must have a route before it goes on, once the connection itself is here.
    expects: Option<Vec<u32>>,
}

impl Shifts {
    pub(crate) fn forget(&mut self, slot: Slot) {
        self.leaving.remove(&slot);
    }
}

// -- the former gate --

impl Gate {
    /// Chooses up to `max` connections that can go on elsewhere, of those that `may` allows, and
    /// reads them no more. Gives what their next gate must know of each to
    /// [`reserve`](Self::reserve) a place. For each, [`shift`](Self::shift) or
    /// [`stay`](Self::stay) is to follow.
    pub fn offer(
        &mut self,
        now: Instant,
        max: usize,
        may: impl Fn(Slot) -> bool,
    ) -> Vec<(Slot, Vec<u8>)> {
        let chosen = self.conns.iter().filter(|(slot, conn)| {
            let settled = !self.homes.is_unsettled(now, *slot) && may(*slot);
            settled && !conn.is_paused && conn.session().is_some_and(may_go)
        });
        let chosen: Vec<Slot> = chosen.map(|(slot, _)| slot).take(max).collect();
        let mut offers = Vec::with_capacity(chosen.len());
        for slot in chosen {
            let conn = self.conns.get_mut(slot).expect("just chosen");
            conn.is_paused = true;
            let session = conn.session().expect("just chosen");
            let mut offer = Vec::with_capacity(96);
            put_blob(&mut offer, conn.peer.to_string().as_bytes());
            offer.extend_from_slice(&session.id.0);
            put_varint(&mut offer, session.account.0);
            offer.push(session.level);
            put_varint(&mut offer, session.generation);
            put_worker(&mut offer, session.home);
            offers.push((slot, offer));
        }
        offers
    }

    /// The next gate has a place for a connection that was offered: its home and the owners of its
    /// streams are told. [`poll_left`](Self::poll_left) names it when all of them are there.
    pub fn shift(&mut self, now: Instant, slot: Slot, (gate, to): (WorkerId, Slot)) {
        if self.conns.get(slot).and_then(Conn::session).is_none() {
            return;
        }
        let until = now + LEAVING_MAX;
        let (streams, asked, done) = (None, Vec::new(), Vec::new());
        let leaving = Leaving { gate, to, until, is_refused: false, streams, asked, done };
        self.shifts.leaving.insert(slot, leaving);
        self.ask_home_to_shift(now, slot);
        if !std::mem::replace(&mut self.shifts.is_armed, true) {
            self.wheel.insert(now + AGAIN, Due::Shifts);
        }
    }

    /// The next gate has no place for a connection that was offered: it is read again.
    pub fn stay(&mut self, now: Instant, slot: Slot) {
        self.handle_retry(now, slot);
    }

    /// Whether connections wait to go on elsewhere.
    pub fn is_shifting(&self) -> bool {
        !self.shifts.leaving.is_empty()
    }

    /// The next connection that can go, and where to: [`export`](Self::export) it.
    pub fn poll_left(&mut self) -> Option<(Slot, WorkerId, Slot)> {
        while let Some(slot) = self.shifts.ready.pop_front() {
            if let Some(leaving) = self.shifts.leaving.get(&slot) {
                return Some((slot, leaving.gate, leaving.to));
            }
        }
        None
    }

    /// Forgets a connection that goes on elsewhere; gives what [`import`](Self::import) needs there.
    pub fn export(&mut self, now: Instant, slot: Slot) -> Option<Vec<u8>> {
        let leaving = self.shifts.leaving.remove(&slot)?;
        let conn = self.conns.remove(slot)?;
        self.homes.forget_conn(slot);
        self.guard.closed(conn.peer.ip());
        self.wheel.cancel(conn.timer);
        let Phase::Session(session) = &conn.phase else { return None };
        for membership in &session.memberships {
            self.leave_group(*membership);
        }
        self.stats.given += 1;
        let mut state = Vec::with_capacity(64 + conn.input.len() + conn.output.len());
        let age = |at: Instant| now.since(at).as_micros() as u64;
        put_varint(&mut state, age(conn.heard_at));
        let Ping { token, is_open, sent_at, answered_at, rtt_us, jitter_us } = conn.ping;
        put_varint(&mut state, u64::from(token));
        state.push(u8::from(is_open));
        put_varint(&mut state, age(sent_at));
        put_varint(&mut state, age(answered_at));
        put_varint(&mut state, u64::from(rtt_us));
        put_varint(&mut state, u64::from(jitter_us));
        put_varint(&mut state, session.messages.missing(now));
        put_varint(&mut state, session.bytes.missing(now));
        put_streams(&mut state, &leaving.done);
        let ended = session.routes.iter().filter(|route| route.lead == Lead::Ended);
        put_streams(&mut state, &ended.map(|route| route.stream).collect::<Vec<_>>());
        put_blob(&mut state, &conn.input);
        put_blob(&mut state, &conn.output);
        self.pool.recycle(conn.input);
        self.pool.recycle(conn.output);
        Some(state)
    }

    fn ask_home_to_shift(&mut self, now: Instant, slot: Slot) {
        let Some(session) = self.conns.get(slot).and_then(Conn::session) else { return };
        let Some(leaving) = self.shifts.leaving.get_mut(&slot) else { return };
        leaving.is_refused = false;
        let frame = Shift::Session {
            conn: slot,
            session: session.id,
            account: session.account,
            generation: session.generation,
            gate: leaving.gate,
            to: leaving.to,
        };
        let home = session.home;
        self.send(now, home, &LinkFrame::Shift(frame));
    }

    /// Asks the owners of a connection's streams that were not asked yet; it can go when all are done.
    fn shift_streams(&mut self, now: Instant, slot: Slot) {
        let Some(session) = self.conns.get(slot).and_then(Conn::session) else { return };
        let Some(leaving) = self.shifts.leaving.get_mut(&slot) else { return };
        let Some(open) = &leaving.streams else { return };
        let mut asking = Vec::new();
        let mut is_ready = open.iter().all(|stream| session.route(*stream).is_some());
        for route in session.routes.iter() {
            let Lead::To(owner) = route.lead else {
                is_ready &= route.lead == Lead::Ended;
                continue;
            };
            if leaving.done.contains(&route.stream) {
                continue;
            }
            is_ready = false;
            let question = (route.stream, route.slot);
            if !leaving.asked.contains(&question) {
                leaving.asked.push(question);
                let (gate, to) = (leaving.gate, leaving.to);
                let (at, stream) = (route.slot, route.stream);
                asking.push((owner, Shift::Stream { slot: at, conn: slot, stream, gate, to }));
            }
        }
        if is_ready {
            leaving.done.retain(|stream| {
                session.route(*stream).is_some_and(|route| route.lead != Lead::Ended)
            });
            self.shifts.ready.push_back(slot);
        }
        for (owner, frame) in asking {
            self.send(now, owner, &LinkFrame::Shift(frame));
        }
    }

    /// A frame about a connection that goes on elsewhere, or comes from there.
    pub(crate) fn handle_shift(&mut self, now: Instant, from: WorkerId, frame: Shift) {
        match frame {
            Shift::SessionDone { conn, streams } => {
                let Some(leaving) = self.shifts.leaving.get_mut(&conn) else { return };
                match streams {
                    Some(streams) => {
                        leaving.streams = Some(streams);
                        self.shift_streams(now, conn);
                    }
                    None => leaving.is_refused = true,
                }
            }
            Shift::StreamDone { conn, stream, done } => {
                let Some(leaving) = self.shifts.leaving.get_mut(&conn) else { return };
                if !done {
                    // Asked again with the next look, maybe elsewhere.
                    leaving.asked.retain(|(asked, _)| *asked != stream);
                    return;
                }
                leaving.done.push(stream);
                // Casts come to the next gate from now on.
                self.leave_groups_of(conn, stream);
                self.shift_streams(now, conn);
            }
            Shift::Member { group, conn, stream } => self.join_quietly(now, group, conn, stream),
            Shift::Session { .. } | Shift::Stream { .. } => {
                self.stats.hit(Rule::LinkFrame);
                tracing::warn!(?from, "a link frame is not meant for a gate");
            }
        }
    }

    /// Asks again who could not do it, and gives up those that have waited for too long.
    pub(crate) fn handle_shifts_due(&mut self, now: Instant) {
        self.shifts.is_armed = false;
        let all: Vec<Slot> = self.shifts.leaving.keys().copied().collect();
        for slot in all {
            let Some(leaving) = self.shifts.leaving.get(&slot) else { continue };
            if leaving.until <= now {
                self.end(now, slot, &End::new(CloseCode::GoingAway, "this gate is going down"));
            } else if leaving.is_refused && leaving.streams.is_none() {
                self.ask_home_to_shift(now, slot);
            } else {
                self.shift_streams(now, slot);
            }
        }
        if self.is_shifting() {
            self.shifts.is_armed = true;
            self.wheel.insert(now + AGAIN, Due::Shifts);
        }
    }
}

/// Whether a session can go on elsewhere: what it has is settled, and each of its groups is its by one stream.
fn may_go(session: &Session) -> bool {
    let mut groups: Vec<u32> = session.joined.iter().map(|(group, _)| *group).collect();
    groups.sort_unstable();
    session.waiting.is_none()
        && session.routes.iter().all(|route| !matches!(route.lead, Lead::Lost | Lead::Listed))
        && groups.windows(2).all(|pair| pair[0] != pair[1])
}

// -- the next gate --

impl Gate {
    /// Makes a place for a connection that a predecessor offers. What comes for its client is kept until
    /// [`import`](Self::import), for as long as a home may take to admit somebody. `None` if there is no
    /// room for it, or the offer cannot be read.
    pub fn reserve(&mut self, now: Instant, offer: &[u8]) -> Option<Slot> {
        let Offer { peer, id, account, level, generation, home } = Offer::read(offer).ok()?;
        let is_full = self.conns.len() >= self.options.connections_max;
        if self.drain.is_some() || is_full || !self.guard.adopt(now, peer.ip(), account) {
            return None;
        }
        self.stats.opened += 1;
        let waiting = Waiting {
            secret: [0; 32],
            held: Vec::new(),
            has_moved: false,
            arriving: Some(Arriving::default()),
        };
        let session = Session {
            id,
            account,
            level,
            generation,
            home,
            known: Box::<Known>::default(),
            waiting: Some(Box::new(waiting)),
            routes: Routes::default(),
            memberships: Vec::new(),
            joined: Vec::new(),
            messages: Bucket::full(),
            bytes: Bucket::full(),
        };
        let limit = now + self.options.home_wait;
        let slot = self.conns.insert(Conn {
            peer,
            phase: Phase::Session(session),
            input: Vec::new(),
            output: Vec::new(),
            look_at: self.options.output_bytes_thin,
            heard_at: now,
            frame_at: now,
            timer: self.wheel.insert(limit, Due::Sweep),
            ping: Ping::default(),
            is_dirty: false,
            is_paused: true,
            is_watched: false,
        });
        self.set_timer(slot, limit);
        Some(slot)
    }

    /// The connection is here, with what [`export`](Self::export) gave. It goes on as soon as its streams
    /// have come as well.
    ///
    /// # Errors
    ///
    /// The bytes are not what a gate of this release exports, or the place is not kept any more. The socket
    /// is to be closed; a place that is there ends by its time.
    pub fn import(&mut self, now: Instant, slot: Slot, state: &[u8]) -> Result<(), WireError> {
        let Options { frame_bytes_max, output_bytes_max, .. } = self.options;
        let mut r = Reader::new(state);
        let heard_at = before(now, r.varint()?);
        let ping = Ping {
            token: r.varint_u32()?,
            is_open: r.flag()?,
            sent_at: before(now, r.varint()?),
            answered_at: before(now, r.varint()?),
            rtt_us: r.varint_u32()?,
            jitter_us: r.varint_u32()?,
        };
        let messages = Bucket::with_missing(now, r.varint()?);
        let bytes = Bucket::with_missing(now, r.varint()?);
        let expects = read_streams(&mut r, self.options.streams_max)?;
        let ended = read_streams(&mut r, RESUME_STREAMS_MAX)?;
        let input = r.blob(2 * frame_bytes_max)?;
        let output = r.blob(output_bytes_max + OUTPUT_SLACK)?;
        r.end()?;
        let conn = self.conns.get_mut(slot).ok_or(WireError::Range)?;
        let Phase::Session(session) = &mut conn.phase else { return Err(WireError::Range) };
        let waiting = session.waiting.as_mut().ok_or(WireError::Range)?;
        let arriving = waiting.arriving.as_mut().ok_or(WireError::Range)?;
        arriving.expects = Some(expects);
        (session.messages, session.bytes) = (messages, bytes);
        for stream in ended {
            if session.route(stream).is_none() {
                session.end_route(stream);
            }
        }
        (conn.heard_at, conn.ping) = (heard_at, ping);
        conn.input.extend_from_slice(input);
        conn.output.extend_from_slice(output);
        self.settle_in(now, slot);
        Ok(())
    }

    /// Lets a connection that has come go on, if it is here and its streams are.
    pub(crate) fn settle_in(&mut self, now: Instant, slot: Slot) {
        let Some(conn) = self.conns.get_mut(slot) else { return };
        let Phase::Session(session) = &mut conn.phase else { return };
        let arriving = session.waiting.as_ref().and_then(|waiting| waiting.arriving.as_ref());
        let Some(expects) = arriving.and_then(|arriving| arriving.expects.as_ref()) else { return };
        if expects.iter().any(|stream| session.route(*stream).is_none()) {
            return;
        }
        let waiting = session.waiting.take().expect("it has just been looked at");
        conn.output.extend_from_slice(&waiting.held);
        conn.look_at = self.options.output_bytes_thin.max(conn.output.len());
        touch(&mut self.dirty, conn, slot);
        self.stats.taken += 1;
        self.beat(now, slot);
        // What had come of the client's next frames, and what has waited meanwhile.
        self.handle_retry(now, slot);
    }
}

/// What the next gate must know of a connection before it comes.
struct Offer {
    peer: SocketAddr,
    id: SessionId,
    account: AccountId,
    level: u8,
    generation: u64,
    home: WorkerId,
}

impl Offer {
    fn read(bytes: &[u8]) -> Result<Offer, WireError> {
        let mut r = Reader::new(bytes);
        let peer = r.text(ADDRESS_BYTES_MAX)?.parse().map_err(|_| WireError::Range)?;
        let offer = Offer {
            peer,
            id: SessionId(r.array()?),
            account: AccountId(r.varint()?),
            level: r.byte()?,
            generation: r.varint()?,
            home: read_worker(&mut r)?,
        };
        r.end()?;
        Ok(offer)
    }
}

fn put_streams(out: &mut Vec<u8>, streams: &[u32]) {
    put_varint(out, streams.len() as u64);
    streams.iter().for_each(|stream| put_varint(out, u64::from(*stream)));
}

fn read_streams(r: &mut Reader<'_>, max: usize) -> Result<Vec<u32>, WireError> {
    let count = r.varint()?;
    if count > max as u64 {
        return Err(WireError::Range);
    }
    (0..count).map(|_| r.varint_u32()).collect()
}

/// So many microseconds before `now`, or the beginning of the clock.
fn before(now: Instant, micros: u64) -> Instant {
    Instant::from_nanos(now.as_nanos().saturating_sub(micros.saturating_mul(1_000)))
}
