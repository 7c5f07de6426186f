use std::net::SocketAddr;
use std::time::Duration;

use env::{Instant, TimerKey};
use proto::frame::put_frame;
use proto::link::{Slot, WorkerId};
use proto::{AccountId, KindId, SessionId};

use crate::bucket::Bucket;
use crate::homes::Known;
use crate::shift::Arriving;

/// One client connection.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) peer: SocketAddr,
    pub(crate) phase: Phase,
    /// The begun frame, or everything unread while the connection is paused.
    pub(crate) input: Vec<u8>,
    pub(crate) output: Vec<u8>,
    /// Length of `output` at which the next look is taken at what can be merged.
    pub(crate) look_at: usize,
    pub(crate) heard_at: Instant,
    /// When the open frame began.
    pub(crate) frame_at: Instant,
    /// The one timer: handshake limit, admission limit, heartbeat or linger, by phase.
    pub(crate) timer: TimerKey,
    pub(crate) ping: Ping,
    pub(crate) is_dirty: bool,
    pub(crate) is_paused: bool,
    /// Whether a timer watches the open frame.
    pub(crate) is_watched: bool,
}

/// How far a connection has come.
#[derive(Debug)]
pub(crate) enum Phase {
    /// Nothing said yet.
    Hello,
    /// The challenge was sent.
    Challenged([u8; 16]),
    /// The session's home was asked, or has admitted it. Not in a box: nearly all have one, and
    /// each frame needs it.
    Session(Session),
    /// The last frames are on their way out.
    Closing,
}

/// A session on a connection.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: SessionId,
    pub(crate) account: AccountId,
    pub(crate) level: u8,
    pub(crate) generation: u64,
    pub(crate) home: WorkerId,
    /// What a later home would have to hear of it.
    pub(crate) known: Box<Known>,
    /// Present until the home's `Welcome`.
    pub(crate) waiting: Option<Box<Waiting>>,
    pub(crate) routes: Routes,
    /// One for each group.
    pub(crate) memberships: Vec<Membership>,
    /// By which streams: pairs of a group of `memberships` and a stream.
    pub(crate) joined: Vec<(u32, u32)>,
    pub(crate) messages: Bucket,
    pub(crate) bytes: Bucket,
}

/// What a session needs while its home decides.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) secret: [u8; 32],
    /// Whole frames for the client that came before its `Welcome`.
    pub(crate) held: Vec<u8>,
    /// Its home has moved on since it was asked.
    pub(crate) has_moved: bool,
    /// It comes from another gate, and nobody was asked.
    pub(crate) arriving: Option<Arriving>,
}

/// Where a stream leads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    pub(crate) stream: u32,
    pub(crate) slot: Slot,
    pub(crate) lead: Lead,
    pub(crate) kind: KindId,
    pub(crate) epoch: u64,
}

/// The routes of a session. Most have one, which is kept where it is found without another look.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    /// Present unless there are none.
    first: Option<Route>,
    others: Vec<Route>,
}

impl Routes {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Route> {
        self.first.iter().chain(&self.others)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Route> {
        self.first.iter_mut().chain(&mut self.others)
    }

    #[inline]
    fn find(&self, stream: u32) -> Option<&Route> {
        match &self.first {
            Some(first) if first.stream == stream => Some(first),
            _ => self.others.iter().find(|route| route.stream == stream),
        }
    }

    pub(crate) fn find_mut(&mut self, stream: u32) -> Option<&mut Route> {
        self.iter_mut().find(|route| route.stream == stream)
    }

    fn push(&mut self, route: Route) {
        if self.first.is_none() {
            self.first = Some(route);
            return;
        }
        if self.others.len() < 4 {
            // Most sessions have one or two; the first push would take room for four.
            self.others.reserve_exact(1);
        }
        self.others.push(route);
    }

    fn remove(&mut self, at: usize) {
        if at > 0 {
            self.others.remove(at - 1);
        } else {
            self.first = (!self.others.is_empty()).then(|| self.others.remove(0));
        }
    }
}

/// Whether a stream leads somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lead {
    /// To this worker.
    To(WorkerId),
    /// Its owner was lost. The home will end it or the connection will; until then the client
    /// keeps what it sends, as it does until all is acknowledged.
    Lost,
    /// Its client has listed it to resume: its owner leads it on, or its home ends it.
    Listed,
    /// Nowhere any more. Its frames get another answer than those of a stream that never was.
    Ended,
}

/// A group that the connection is in: where it stands, and the connection's place there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Membership {
    pub(crate) group: u32,
    pub(crate) place: u32,
}

/// The last ping to the client and what pings have told so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ping {
    /// Counts pings; the token of the last one.
    pub(crate) token: u32,
    pub(crate) is_open: bool,
    pub(crate) sent_at: Instant,
    /// When a ping was last answered.
    pub(crate) answered_at: Instant,
    /// Smoothed round trip and its mean deviation, in microseconds (RFC 6298). 0: not measured.
    pub(crate) rtt_us: u32,
    pub(crate) jitter_us: u32,
}

impl Ping {
    /// Takes note of an answered ping.
    pub(crate) fn answered(&mut self, now: Instant, token: u64) {
        if !self.is_open || token != u64::from(self.token) {
            return;
        }
        self.is_open = false;
        self.answered_at = now;
        let sample = now.since(self.sent_at).min(Duration::from_secs(60)).as_micros() as u32;
        if self.rtt_us == 0 {
            self.rtt_us = sample.max(1);
            self.jitter_us = sample / 2;
        } else {
            self.jitter_us = (3 * self.jitter_us + self.rtt_us.abs_diff(sample)) / 4;
            self.rtt_us = ((7 * u64::from(self.rtt_us) + u64::from(sample)) / 8).max(1) as u32;
        }
    }
}

/// A connection, as the console shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionInfo {
    /// Its place in the gate's table.
    pub slot: Slot,
    /// The client's address.
    pub peer: SocketAddr,
    /// The session, once its home admitted it.
    pub session: Option<(SessionId, AccountId)>,
    /// Open streams.
    pub streams: usize,
    /// Groups it is in.
    pub groups: usize,
    /// Smoothed round trip, if it was measured.
    pub rtt: Option<Duration>,
    /// Mean deviation of the round trip, if it was measured.
    pub jitter: Option<Duration>,
    /// Output that waits to be written, in bytes.
    pub queued_bytes: usize,
}

impl Conn {
    pub(crate) fn session(&self) -> Option<&Session> {
        match &self.phase {
            Phase::Session(session) => Some(session),
            _ => None,
        }
    }

    pub(crate) fn session_mut(&mut self) -> Option<&mut Session> {
        match &mut self.phase {
            Phase::Session(session) => Some(session),
            _ => None,
        }
    }

    /// Whether the home admitted a session on this connection.
    pub(crate) fn is_live(&self) -> bool {
        self.session().is_some_and(|session| session.waiting.is_none())
    }

    /// Where frames for the client go now: behind its welcome, if that is not there yet.
    #[inline]
    pub(crate) fn lane(&mut self) -> &mut Vec<u8> {
        if let Phase::Session(session) = &mut self.phase
            && let Some(waiting) = &mut session.waiting
        {
            return &mut waiting.held;
        }
        &mut self.output
    }

    /// Appends a frame that the gate makes itself.
    pub(crate) fn put(&mut self, frame: &proto::frame::DownFrame<'_>) {
        put_frame(self.lane(), |out| frame.encode(out));
    }

    pub(crate) fn info(&self, slot: Slot) -> ConnectionInfo {
        let session = self.session().filter(|session| session.waiting.is_none());
        let measured = self.ping.rtt_us > 0;
        ConnectionInfo {
            slot,
            peer: self.peer,
            session: session.map(|session| (session.id, session.account)),
            streams: session.map_or(0, Session::streams),
            groups: session.map_or(0, |session| session.memberships.len()),
            rtt: measured.then(|| Duration::from_micros(self.ping.rtt_us.into())),
            jitter: measured.then(|| Duration::from_micros(self.ping.jitter_us.into())),
            queued_bytes: self.output.len(),
        }
    }
}

/// Most ended streams that a connection remembers.
const ENDED_MAX: usize = 16;

impl Session {
    /// Notes a stream that its client has and that its owner has not led here yet.
    pub(crate) fn add_listed(&mut self, stream: u32) {
        let (slot, kind) = (Slot::default(), KindId::default());
        self.add_route(Route { stream, slot, lead: Lead::Listed, kind, epoch: 0 });
    }

    /// Whether the owner of a stream has led it here.
    pub(crate) fn is_led(&self, stream: u32) -> bool {
        self.route(stream).is_some_and(|route| route.lead != Lead::Listed)
    }

    /// Adds the route of a stream that is not known yet.
    pub(crate) fn add_route(&mut self, route: Route) {
        self.routes.push(route);
    }

    /// Notes that a stream leads nowhere any more, also if its route did not come yet.
    pub(crate) fn end_route(&mut self, stream: u32) {
        match self.routes.find_mut(stream) {
            Some(route) => route.lead = Lead::Ended,
            None => {
                let (slot, kind) = (Slot::default(), KindId::default());
                self.add_route(Route { stream, slot, lead: Lead::Ended, kind, epoch: 0 });
            }
        }
        let is_ended = |route: &Route| route.lead == Lead::Ended;
        let count = self.routes.iter().filter(|route| is_ended(route)).count();
        let oldest = self.routes.iter().position(is_ended);
        if let Some(oldest) = oldest.filter(|_| count > ENDED_MAX) {
            self.routes.remove(oldest);
        }
    }

    /// Streams that lead somewhere.
    pub(crate) fn streams(&self) -> usize {
        self.routes.iter().filter(|route| route.lead != Lead::Ended).count()
    }

    #[inline]
    pub(crate) fn route(&self, stream: u32) -> Option<&Route> {
        self.routes.find(stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_found_and_leave_in_order() {
        let route = |stream| {
            let (slot, lead) = (Slot::default(), Lead::Lost);
            Route { stream, slot, lead, kind: KindId::default(), epoch: 0 }
        };
        let mut routes = Routes::default();
        (1..=4).for_each(|stream| routes.push(route(stream)));
        let streams = |routes: &Routes| routes.iter().map(|r| r.stream).collect::<Vec<_>>();
        for (at, left) in [(2, vec![1, 2, 4]), (0, vec![2, 4]), (0, vec![4]), (0, vec![])] {
            routes.remove(at);
            assert_eq!(streams(&routes), left);
            for stream in 1..=4 {
                let found = routes.find(stream).map(|route| route.stream);
                assert_eq!(found, left.contains(&stream).then_some(stream));
                assert_eq!(found, routes.find_mut(stream).map(|route| route.stream));
            }
        }
        routes.push(route(9));
        assert_eq!(streams(&routes), [9]);
    }
}
