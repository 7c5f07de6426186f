//! The connection: greeting, admission, heartbeat, reconnect.

use std::time::Duration;

use env::Instant;
use proto::frame::{
    CloseCode, DownFrame, PREFACE, Seen, SeenGroup, UpFrame, VERSION, Welcome, split_frame,
};

use super::{Core, Resume, State};
use crate::error::{CallError, End, Lost};
use crate::event::{Event, Transport};
use proto::ticket::{login_proof, resume_proof};

/// Why handling a frame ends the connection.
pub(super) enum Break {
    Lost(Lost),
    End(End),
}

impl From<proto::WireError> for Break {
    fn from(error: proto::WireError) -> Self {
        Break::End(End::Protocol(error.to_string()))
    }
}

pub(super) fn protocol(what: &str) -> Break {
    Break::End(End::Protocol(what.to_owned()))
}

impl Core {
    /// The connection asked for by `Output::Connect` stands.
    pub fn handle_connected(&mut self, now: Instant, transport: Transport) {
        if !matches!(self.state, State::Connecting { .. }) {
            return;
        }
        self.state = State::Greeting { until: now + self.limits.handshake_wait };
        self.clear_buffers();
        if transport == Transport::Tcp {
            self.outbox.extend_from_slice(&PREFACE);
            self.stats.bytes_out += PREFACE.len() as u64;
        }
        let agent = self.identity.agent.clone();
        let interface = self.identity.interface;
        self.send(&UpFrame::Hello { version: VERSION, features: 0, interface, agent: &agent });
    }

    /// The connection ended, or could not be made.
    pub fn handle_closed(&mut self, now: Instant) {
        self.attached = false;
        if !matches!(self.state, State::Rest | State::Pausing { .. }) {
            self.lose(now, Lost::Closed);
        }
    }

    /// Bytes arrived. A later call may bring the rest of a frame.
    pub fn handle_bytes(&mut self, now: Instant, bytes: &[u8]) {
        if !self.attached || matches!(self.state, State::Rest | State::Pausing { .. }) {
            return;
        }
        self.heard_at = now;
        self.stats.bytes_in += bytes.len() as u64;
        if self.inbox.is_empty() {
            let taken = self.handle_frames(now, bytes);
            self.inbox.extend_from_slice(&bytes[taken..]);
        } else {
            let mut inbox = std::mem::take(&mut self.inbox);
            inbox.extend_from_slice(bytes);
            let taken = self.handle_frames(now, &inbox);
            if taken < inbox.len() {
                inbox.drain(..taken);
                self.inbox = inbox;
            }
        }
    }

    /// Handles all whole frames at the start of `bytes` and tells how much they took; all of it
    /// if the connection is over.
    fn handle_frames(&mut self, now: Instant, bytes: &[u8]) -> usize {
        let mut at = 0;
        loop {
            if !self.attached || matches!(self.state, State::Rest | State::Pausing { .. }) {
                return bytes.len();
            }
            let max = match self.state {
                State::Up { .. } => self.limits.frame_bytes_max,
                _ => self.limits.greeting_bytes_max,
            };
            let result = match split_frame(&bytes[at..], max) {
                Ok(None) => return at,
                Ok(Some((payload, taken))) => {
                    at += taken;
                    self.stats.frames_in += 1;
                    DownFrame::decode(payload)
                        .map_err(Break::from)
                        .and_then(|frame| self.handle_frame(now, frame))
                }
                Err(error) => Err(Break::from(error)),
            };
            match result {
                Ok(()) if self.outbox.len() > self.limits.outgoing_bytes_max => {
                    self.lose(now, Lost::Stuck);
                }
                Ok(()) => {}
                Err(Break::Lost(reason)) => self.lose(now, reason),
                Err(Break::End(end)) => {
                    if self.is_connected() && matches!(end, End::Protocol(_)) {
                        self.send(&UpFrame::Close { code: CloseCode::Protocol, reason: "" });
                        self.wants_close = true;
                    }
                    self.end(end);
                }
            }
        }
    }

    fn handle_frame(&mut self, now: Instant, frame: DownFrame<'_>) -> Result<(), Break> {
        match (self.state, frame) {
            (_, DownFrame::Close { code, reason }) => Err(self.told(code, reason)),
            (_, DownFrame::Ping { token }) => {
                self.send(&UpFrame::Pong { token });
                Ok(())
            }
            (_, DownFrame::Pong { token }) => {
                if let Some((_, at)) = self.ping.take_if(|(sent, _)| *sent == token) {
                    self.stats.measured(now - at);
                }
                Ok(())
            }
            (State::Greeting { .. }, DownFrame::Challenge { version, nonce, wall_ms, .. }) => {
                if version != VERSION {
                    let what = format!("version {version} instead of {VERSION}");
                    return Err(Break::End(End::Protocol(what)));
                }
                self.server_wall = Some((wall_ms, now));
                self.prove(now, &nonce);
                Ok(())
            }
            (State::Admitting { resuming, .. }, DownFrame::Welcome(welcome)) => {
                self.welcome(now, resuming, &welcome)
            }
            (State::Up { .. }, frame) => self.handle_stream_frame(now, frame),
            _ => Err(protocol("a frame out of order")),
        }
    }

    /// The server closed the connection with a reason.
    fn told(&mut self, code: CloseCode, reason: &str) -> Break {
        if code.may_resume() {
            if matches!(code, CloseCode::Limit | CloseCode::Unavailable) {
                // Coming back at once would make it worse.
                self.streak = self.streak.max(1);
            }
            return Break::Lost(Lost::Told(code));
        }
        Break::End(End::Server { code, reason: reason.to_owned() })
    }

    /// Shows ticket or resume token, with a proof that it is ours.
    fn prove(&mut self, now: Instant, nonce: &[u8; 16]) {
        let until = now + self.limits.handshake_wait;
        self.state = State::Admitting { until, resuming: self.resume.is_some() };
        self.fit_resume();
        if let Some(resume) = &mut self.resume {
            resume.generation += 1;
            let seen = |handle, number| Seen { handle, number };
            let bound = self.streams.iter();
            let streams = bound
                .filter_map(|stream| Some(seen(stream.handle?, stream.inbound.applied())))
                .collect();
            let mut groups = Vec::new();
            for group in &self.groups {
                let number = group.last;
                let by = |stream: &u32| SeenGroup { group: group.handle, stream: *stream, number };
                groups.extend(group.streams.iter().map(by));
            }
            let proof = resume_proof(&resume.secret, nonce, &resume.token, resume.generation);
            let (token, generation) = (resume.token.clone(), resume.generation);
            let token = &token;
            self.send(&UpFrame::Resume { token, proof, generation, streams, groups });
        } else if let Some(grant) = &self.grant {
            let proof = login_proof(&grant.secret, nonce, &grant.ticket);
            let ticket = grant.ticket.clone();
            self.send(&UpFrame::Login { ticket: &ticket, proof });
        }
    }

    fn welcome(
        &mut self,
        now: Instant,
        resuming: bool,
        welcome: &Welcome<'_>,
    ) -> Result<(), Break> {
        let secret = match (&self.resume, &self.grant) {
            (Some(resume), _) => resume.secret,
            (None, Some(grant)) => grant.secret,
            (None, None) => return Err(protocol("a welcome for nobody")),
        };
        let resumed = resuming && welcome.resumed;
        if resuming && !resumed {
            // The server began anew: nothing of before lasts.
            self.forget_streams(&CallError::RolledBack);
        }
        self.resume = Some(Resume {
            session: welcome.session,
            secret,
            token: welcome.token.to_vec(),
            generation: welcome.generation,
        });
        self.state = State::Up { since: now };
        self.tries = 0;
        let wish = Duration::from_millis(u64::from(welcome.heartbeat_ms));
        let own = self.limits.heartbeat;
        self.heartbeat = if wish.is_zero() { own } else { own.min(wish) };
        self.send_bytes_max = welcome.frame_bytes_max as usize;
        for stream in &mut self.streams {
            stream.hold();
        }
        if resumed {
            self.stats.resumes += 1;
        } else {
            self.stats.logins += 1;
        }
        self.events.push_back(Event::Connected { session: welcome.session, resumed });
        self.send_ping(now);
        Ok(())
    }

    /// Measures the round trip now, instead of at the next heartbeat.
    pub fn ping(&mut self, now: Instant) {
        if self.is_connected() && self.ping.is_none() {
            self.send_ping(now);
        }
    }

    fn send_ping(&mut self, now: Instant) {
        self.ping_at = now + self.heartbeat;
        self.pings += 1;
        self.ping = Some((self.pings, now));
        self.send(&UpFrame::Ping { token: self.pings });
    }

    /// Does what is due. Feed bytes that have arrived first, so that a busy program does not take
    /// its own silence for the server's.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.expire_requests(now);
        match self.state {
            State::Rest => {}
            State::Pausing { until } if until <= now => self.connect(now),
            State::Connecting { until }
            | State::Greeting { until }
            | State::Admitting { until, .. }
                if until <= now =>
            {
                self.lose(now, Lost::Slow);
            }
            State::Up { since } => {
                if now - since >= self.limits.stable_after {
                    self.streak = 0;
                }
                if now >= self.dead_at() {
                    self.lose(now, Lost::Silent);
                    return;
                }
                if now >= self.ping_at {
                    self.send_ping(now);
                }
                self.send_acks(now);
            }
            _ => {}
        }
    }

    /// When `handle_timeout` has something to do; `None` if never.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let state = match self.state {
            State::Rest => None,
            State::Pausing { until }
            | State::Connecting { until }
            | State::Greeting { until }
            | State::Admitting { until, .. } => Some(until),
            State::Up { .. } => {
                let acks = self.streams.iter().filter_map(|stream| stream.ack_at).min();
                let beat = self.ping_at.min(self.dead_at());
                Some(acks.map_or(beat, |ack| ack.min(beat)))
            }
        };
        let request = self.deadlines.first().map(|(deadline, _)| *deadline);
        let call = self.calls.values().map(|call| call.deadline).min();
        [state, request, call].into_iter().flatten().min()
    }

    fn dead_at(&self) -> Instant {
        self.heard_at + self.heartbeat * self.limits.missed_max
    }

    pub(super) fn connect(&mut self, now: Instant) {
        self.tries += 1;
        self.state = State::Connecting { until: now + self.limits.connect_wait };
        self.wants_connect = Some(self.tries);
    }

    /// The connection is of no use any more: pause, then connect again.
    pub(super) fn lose(&mut self, now: Instant, reason: Lost) {
        if self.attached {
            self.wants_close = true;
        }
        self.wants_connect = None;
        self.clear_buffers();
        self.ping = None;
        if let State::Up { since } = self.state {
            self.stats.losses += 1;
            if now - since >= self.limits.stable_after {
                self.streak = 0;
            }
            self.events.push_back(Event::Lost { reason });
        }
        for stream in &mut self.streams {
            stream.hold();
        }
        if self.limits.tries_max.is_some_and(|max| self.tries >= max) {
            self.end(End::Unreachable);
            return;
        }
        self.streak += 1;
        // Jitter of a quarter up or down keeps a crowd from coming back in step.
        let pause = self.limits.pause(self.streak).mul_f64(0.75 + 0.5 * self.random.unit_f64());
        let at = now + pause;
        self.state = State::Pausing { until: at };
        self.events.push_back(Event::Retry { attempt: self.tries + 1, at });
    }
}
