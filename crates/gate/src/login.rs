//! From the first frame to the home's decision.

use std::time::Duration;

use env::{Instant, WallTime};
use proto::frame::{CloseCode, DownFrame, Seen, SeenGroup, UpFrame, VERSION, Welcome};
use proto::link::{Admission, LinkFrame, Slot, WorkerId};
use proto::ticket::{self, ResumeClaims};
use proto::{AccountId, SessionId, WireError};

use crate::bucket::Bucket;
use crate::conn::{Conn, Phase, Routes, Session, Waiting};
use crate::gate::{End, Flow, Gate, touch};
use crate::{Options, Rule};

/// Who a client proved to be.
struct Proved {
    session: SessionId,
    account: AccountId,
    secret: [u8; 32],
    level: u8,
    generation: u64,
}

impl Gate {
    /// A frame of a client that its home has not admitted yet.
    pub(crate) fn handle_early(
        &mut self,
        now: Instant,
        wall: WallTime,
        slot: Slot,
        payload: &[u8],
    ) -> Flow {
        let frame = match UpFrame::decode(payload) {
            Ok(frame) => frame,
            Err(error) => {
                self.refuse(now, slot, error);
                return Flow::Ended;
            }
        };
        let conn = self.conns.get_mut(slot).expect("a frame came from it");
        match (&conn.phase, frame) {
            (_, UpFrame::Close { .. }) => self.end_by_client(now, slot, CloseCode::Goodbye),
            (_, UpFrame::Ping { token }) => {
                self.pool.fill(&mut conn.output);
                let pong = DownFrame::Pong { token };
                proto::frame::put_frame(&mut conn.output, |out| pong.encode(out));
                touch(&mut self.dirty, conn, slot);
                if conn.output.len() > self.options.output_bytes_before_login {
                    self.stats.hit(Rule::OutputBeforeLogin);
                    let end = End::new(CloseCode::SlowReader, "reads too slowly");
                    self.end(now, slot, &end);
                    return Flow::Ended;
                }
                Flow::Next
            }
            (_, UpFrame::Pong { .. }) => Flow::Next,
            (Phase::Hello, UpFrame::Hello { version, interface, .. }) => {
                self.handle_hello(now, wall, slot, (version, interface))
            }
            (Phase::Challenged(nonce), UpFrame::Login { ticket, proof }) => {
                let nonce = *nonce;
                self.handle_login(now, wall, slot, (&nonce, ticket, &proof))
            }
            (
                Phase::Challenged(nonce),
                UpFrame::Resume { token, proof, generation, streams, groups },
            ) => {
                let nonce = *nonce;
                let shown = (&nonce, token, &proof);
                self.handle_resume(now, wall, slot, shown, generation, streams, groups)
            }
            (_, _) => {
                self.refuse(now, slot, WireError::Kind(payload[0]));
                Flow::Ended
            }
        }
    }

    fn handle_hello(
        &mut self,
        now: Instant,
        wall: WallTime,
        slot: Slot,
        (version, interface): (u8, u64),
    ) -> Flow {
        if version != VERSION {
            self.stats.hit(Rule::Version);
            let reason = format!("this server speaks version {VERSION}");
            self.end(now, slot, &End::new(CloseCode::Version, &reason));
            return Flow::Ended;
        }
        if !self.accepts(interface) {
            self.stats.hit(Rule::Version);
            let reason = "update needed: this client was made for another interface";
            self.end(now, slot, &End::new(CloseCode::Version, reason));
            return Flow::Ended;
        }
        let nonce = self.random.bytes();
        let conn = self.conns.get_mut(slot).expect("it said hello");
        conn.phase = Phase::Challenged(nonce);
        self.pool.fill(&mut conn.output);
        conn.put(&DownFrame::Challenge { version: VERSION, features: 0, nonce, wall_ms: wall.0 });
        touch(&mut self.dirty, conn, slot);
        Flow::Next
    }

    /// A client that does not say what it was made for is let in; its calls are checked one by
    /// one. So is one for the interface of some listed node: two releases run side by side.
    fn accepts(&self, interface: u64) -> bool {
        let is_listed = || self.directory.nodes().any(|info| info.interface == interface);
        interface == 0
            || self.interfaces.is_empty()
            || self.interfaces.contains(&interface)
            || is_listed()
    }

    fn handle_login(
        &mut self,
        now: Instant,
        wall: WallTime,
        slot: Slot,
        (nonce, ticket, proof): (&[u8; 16], &[u8], &[u8; 32]),
    ) -> Flow {
        let opened = match self.keys.open_ticket(ticket, wall) {
            Ok(opened) => opened,
            Err(error) => return self.refuse_ticket(now, slot, &error.to_string()),
        };
        if !ticket::is_same(&ticket::login_proof(&opened.secret, nonce, ticket), proof) {
            return self.refuse_ticket(now, slot, "the proof does not fit the ticket");
        }
        let claims = opened.claims;
        let home = match self.find_home(now, slot, claims.account, claims.level) {
            Ok(home) => home,
            Err(flow) => return flow,
        };
        let peer = self.conns.get(slot).expect("it logs in").peer;
        let open = LinkFrame::Open(Admission {
            conn: slot,
            session: opened.session,
            account: claims.account,
            expires_ms: claims.expires.0,
            since_ms: wall.0,
            level: claims.level,
            name: &claims.name,
            address: &peer.ip().to_string(),
        });
        let proved = Proved {
            session: opened.session,
            account: claims.account,
            secret: opened.secret,
            level: claims.level,
            generation: 1,
        };
        self.ask_home(now, slot, home, &open, proved)
    }

    #[allow(clippy::too_many_arguments)]
    fn handle_resume(
        &mut self,
        now: Instant,
        wall: WallTime,
        slot: Slot,
        (nonce, token, proof): (&[u8; 16], &[u8], &[u8; 32]),
        generation: u64,
        streams: Vec<Seen>,
        groups: Vec<SeenGroup>,
    ) -> Flow {
        let claims = match self.keys.open_resume(token, wall) {
            Ok(claims) => claims,
            Err(error) => return self.refuse_ticket(now, slot, &error.to_string()),
        };
        let expected = ticket::resume_proof(&claims.secret, nonce, token, generation);
        if !ticket::is_same(&expected, proof) {
            return self.refuse_ticket(now, slot, "the proof does not fit the token");
        }
        let home = match self.find_home(now, slot, claims.account, claims.level) {
            Ok(home) => home,
            Err(flow) => return flow,
        };
        let listed: Vec<u32> = streams.iter().map(|seen| seen.handle).collect();
        let resume = LinkFrame::Resume {
            conn: slot,
            session: claims.session,
            account: claims.account,
            level: claims.level,
            generation,
            streams,
            groups,
        };
        let proved = Proved {
            session: claims.session,
            account: claims.account,
            secret: claims.secret,
            level: claims.level,
            generation,
        };
        let flow = self.ask_home(now, slot, home, &resume, proved);
        if let Some(session) = self.conns.get_mut(slot).and_then(Conn::session_mut) {
            listed.into_iter().for_each(|stream| session.add_listed(stream));
        }
        flow
    }

    fn refuse_ticket(&mut self, now: Instant, slot: Slot, reason: &str) -> Flow {
        self.stats.hit(Rule::Ticket);
        self.end(now, slot, &End::new(CloseCode::Ticket, reason));
        Flow::Ended
    }

    /// The home of an account that may log in now.
    fn find_home(
        &mut self,
        now: Instant,
        slot: Slot,
        account: AccountId,
        level: u8,
    ) -> Result<WorkerId, Flow> {
        let Options { connections_max, operator_places, operator_level, .. } = self.options;
        let is_crowded = self.conns.len() > connections_max.saturating_sub(operator_places);
        let ruled = if is_crowded && level < operator_level {
            Err(Rule::OperatorPlaces)
        } else {
            self.guard.login(now, account)
        };
        let (code, reason) = match ruled {
            Ok(()) => match self.directory.home(account) {
                Some(home) => return Ok(home),
                None => {
                    self.stats.hit(Rule::HomeWait);
                    (CloseCode::Unavailable, "no node serves sessions")
                }
            },
            Err(rule) => {
                self.stats.hit(rule);
                match rule {
                    Rule::Banned => (CloseCode::Kicked, "banned"),
                    Rule::OperatorPlaces => (CloseCode::Limit, "this server is full"),
                    _ => (CloseCode::Limit, "too many logins of this account"),
                }
            }
        };
        self.end(now, slot, &End::new(code, reason));
        Err(Flow::Ended)
    }

    fn ask_home(
        &mut self,
        now: Instant,
        slot: Slot,
        home: WorkerId,
        question: &LinkFrame<'_>,
        proved: Proved,
    ) -> Flow {
        if self.mesh.send(now, home, |out| question.encode(home.worker, out)).is_err() {
            self.stats.hit(Rule::HomeWait);
            let reason = "the session's home is overloaded";
            self.end(now, slot, &End::new(CloseCode::Unavailable, reason));
            return Flow::Ended;
        }
        let conn = self.conns.get_mut(slot).expect("it logs in");
        conn.phase = Phase::Session(Session {
            id: proved.session,
            account: proved.account,
            level: proved.level,
            generation: proved.generation,
            home,
            known: Box::default(),
            waiting: Some(Box::new(Waiting {
                secret: proved.secret,
                held: Vec::new(),
                has_moved: false,
                arriving: None,
            })),
            routes: Routes::default(),
            memberships: Vec::new(),
            joined: Vec::new(),
            messages: Bucket::full(),
            bytes: Bucket::full(),
        });
        self.set_timer(slot, now + self.options.home_wait);
        Flow::Next
    }

    /// The home admitted a session: tells the client, then all that waited for this.
    pub(crate) fn handle_welcome(
        &mut self,
        now: Instant,
        wall: WallTime,
        from: WorkerId,
        welcome: Admitted,
    ) {
        let Admitted { conn: slot, session: id, account, generation, resumed, window_ms } = welcome;
        let is_awaited = self
            .conns
            .get(slot)
            .and_then(|conn| conn.session())
            .filter(|session| session.id == id)
            .and_then(|session| session.waiting.as_ref())
            .is_some_and(|waiting| waiting.arriving.is_none());
        if !is_awaited {
            // The client left meanwhile.
            self.stats.hit(Rule::Stale);
            let code = CloseCode::GoingAway;
            let conn = slot;
            let detached = LinkFrame::Detached { conn, session: id, account, generation, code };
            self.send(now, from, &detached);
            return;
        }
        let conn = self.conns.get_mut(slot).expect("it is awaited");
        let session = conn.session_mut().expect("it is awaited");
        let waiting = session.waiting.take().expect("it is awaited");
        session.generation = generation;
        if !waiting.has_moved {
            session.home = from;
        }
        self.homes.set_window(Duration::from_millis(u64::from(window_ms)));
        self.homes.forget_parked(id);
        let claims = ResumeClaims {
            session: id,
            account: session.account,
            secret: waiting.secret,
            level: session.level,
            expires: WallTime(wall.0 + self.options.token_life.as_millis() as u64),
        };
        let token = self.keys.seal_resume(&mut self.random, &claims);
        self.pool.fill(&mut conn.output);
        conn.put(&DownFrame::Welcome(Welcome {
            session: id,
            generation,
            resumed,
            token: &token,
            resume_window_ms: window_ms,
            heartbeat_ms: self.options.heartbeat.as_millis() as u32,
            frame_bytes_max: self.options.frame_bytes_max as u32,
        }));
        conn.output.extend_from_slice(&waiting.held);
        conn.look_at = self.options.output_bytes_thin.max(conn.output.len());
        conn.ping.answered_at = now;
        touch(&mut self.dirty, conn, slot);
        if resumed {
            self.stats.resumes += 1;
        } else {
            self.stats.logins += 1;
        }
        self.beat(now, slot);
    }
}

/// A home's `Welcome`.
pub(crate) struct Admitted {
    pub(crate) conn: Slot,
    pub(crate) session: SessionId,
    pub(crate) account: AccountId,
    pub(crate) generation: u64,
    pub(crate) resumed: bool,
    pub(crate) window_ms: u32,
}
