//! What admitted clients and the workers behind them say to each other.

use std::net::SocketAddr;

use env::{Instant, WallTime};
use mesh::SendError;
use proto::frame::{CloseCode, DownFrame, Status, StreamUp, UpFrame, head, put_frame, split_frame};
use proto::link::{self, GroupId, LinkFrame, Slot, WorkerId};
use proto::{Incarnation, MethodId, Reader, WireError, put_varint};

use crate::conn::{Conn, Lead, Membership, Phase, Route, Session};
use crate::gate::{Due, End, Flow, Gate, Notice, touch};
use crate::login::Admitted;
use crate::options::Mutant;
use crate::policy::{EdgeFrame, Verdict};
use crate::{Banned, OverRate, Rule};

/// Bursts that a session may be over its rate before it is closed all the same.
const BURSTS_OVER_MAX: u64 = 4;

/// What rates and policies say to a client's frame.
enum Ruling {
    Pass,
    Drop,
    /// It goes on as an empty call of no method, so that its number is used up.
    Empty,
    Close(&'static str),
}

/// Whether an owner refuses a client's message as nothing that it may do. Those answers have no
/// body, so the status is their last byte; only then is the frame read.
#[inline]
fn is_denial(frame: &[u8]) -> bool {
    frame.first() == Some(&head::REPLY)
        && frame.last() == Some(&(Status::Denied as u8))
        && matches!(DownFrame::decode(frame), Ok(DownFrame::Reply { status: Status::Denied, .. }))
}

impl Gate {
    /// Forwards the frames at the start of `data` as long as there is nothing special about them;
    /// gives how many bytes they took. The hot path: nothing is allocated, bodies are not read.
    pub(crate) fn forward(&mut self, now: Instant, slot: Slot, data: &[u8]) -> usize {
        if !self.policies.is_empty() {
            return 0;
        }
        let Some(conn) = self.conns.get_mut(slot) else { return 0 };
        let Phase::Session(session) = &mut conn.phase else { return 0 };
        if session.waiting.is_some() {
            return 0;
        }
        let mut at = 0;
        while let Ok(Some((payload, used))) = split_frame(&data[at..], self.options.frame_bytes_max)
        {
            let head = payload[0];
            if !(head::TELL..=head::ACK_UP).contains(&head) {
                break;
            }
            let mut reader = Reader::new(&payload[1..]);
            let Ok(stream) = reader.varint_u32() else { break };
            let Some(&Route { lead: Lead::To(owner), slot: to, .. }) = session.route(stream) else {
                break;
            };
            let rates = (session.messages, session.bytes);
            let over = session.messages.draw(now, self.messages, 1)
                + session.bytes.draw(now, self.bytes, payload.len() as u64);
            let write =
                |out: &mut Vec<u8>| link::put_up(out, owner.worker, to, head, reader.rest());
            if over > 0 || self.mesh.send(now, owner, write).is_err() {
                // Looked at again with all that may have to be done about it.
                (session.messages, session.bytes) = rates;
                break;
            }
            self.stats.frames_up += 1;
            at += used;
        }
        at
    }

    /// A frame of an admitted client that may need more than forwarding.
    pub(crate) fn handle_live(&mut self, now: Instant, slot: Slot, payload: &[u8]) -> Flow {
        let head = payload[0];
        if !(head::TELL..=head::ACK_UP).contains(&head) {
            return self.handle_control(now, slot, payload);
        }
        let mut reader = Reader::new(&payload[1..]);
        let Ok(stream) = reader.varint_u32() else {
            self.refuse(now, slot, WireError::Truncated);
            return Flow::Ended;
        };
        let fields = reader.rest();
        let conn = self.conns.get_mut(slot).expect("a frame came from it");
        let Phase::Session(session) = &mut conn.phase else { return Flow::Ended };
        let (owner, to) = match session.routes.find_mut(stream) {
            Some(Route { lead: Lead::To(owner), slot, .. }) => (*owner, *slot),
            Some(Route { lead: Lead::Lost, .. }) => {
                self.stats.hit(Rule::NodeLost);
                return Flow::Next;
            }
            _ => return self.handle_unroutable(slot, stream, head, fields),
        };
        let rates = (session.messages, session.bytes);
        let over_messages = session.messages.draw(now, self.messages, 1);
        let over_bytes = session.bytes.draw(now, self.bytes, payload.len() as u64);
        if over_messages + over_bytes > 0 || !self.policies.is_empty() {
            let over = (over_bytes, Rule::Bytes).max((over_messages, Rule::Messages));
            let peer = conn.peer;
            match self.judge(now, slot, (head, stream, fields), over, peer) {
                Ruling::Pass => {}
                Ruling::Drop => {
                    if let Some(session) = self.session_mut(slot) {
                        (session.messages, session.bytes) = rates;
                    }
                    return Flow::Next;
                }
                Ruling::Empty => return self.forward_empty(now, slot, (owner, to), head, fields),
                Ruling::Close(reason) => {
                    self.end(now, slot, &End::new(CloseCode::Limit, reason));
                    return Flow::Ended;
                }
            }
        }
        let sent =
            self.mesh.send(now, owner, |out| link::put_up(out, owner.worker, to, head, fields));
        if let Err(error) = sent {
            if let Some(session) = self.session_mut(slot) {
                (session.messages, session.bytes) = rates;
            }
            return self.handle_unsent(now, slot, owner.node, error);
        }
        self.stats.frames_up += 1;
        Flow::Next
    }

    /// The link to an owner took no frame. What was numbered must not be skipped, so either the
    /// client waits, or it keeps the frame until it has heard what became of the stream.
    #[cold]
    fn handle_unsent(
        &mut self,
        now: Instant,
        slot: Slot,
        node: Incarnation,
        error: SendError,
    ) -> Flow {
        if error == SendError::Full {
            self.pause(now, slot);
            return Flow::Pause;
        }
        self.stats.hit(Rule::NodeLost);
        self.lose_routes(now, slot, node);
        Flow::Next
    }

    /// Marks the streams of a connection that led to a lost node. The home has a moment to end
    /// them; if it does not, it may not know, and the client resumes.
    pub(crate) fn lose_routes(&mut self, now: Instant, slot: Slot, node: Incarnation) {
        let Some(session) = self.session_mut(slot) else { return };
        for route in session.routes.iter_mut() {
            if matches!(route.lead, Lead::To(owner) if owner.node == node) {
                route.lead = Lead::Lost;
            }
        }
        self.wheel.insert(now + self.options.owner_wait, Due::Owner(slot));
    }

    /// A stream's owner was lost a while ago.
    pub(crate) fn handle_owner_due(&mut self, now: Instant, slot: Slot) {
        let Some(session) = self.conns.get(slot).and_then(Conn::session) else { return };
        if session.routes.iter().any(|route| route.lead == Lead::Lost) {
            if self.homes.is_unsettled(now, slot) {
                self.wheel.insert(now + self.options.owner_wait, Due::Owner(slot));
                return;
            }
            let reason = "a server was lost, resume";
            self.end(now, slot, &End::new(CloseCode::Unavailable, reason));
        }
    }

    /// Looks at a frame of a session that is over its rate, or that policies want to see.
    #[cold]
    fn judge(
        &mut self,
        now: Instant,
        slot: Slot,
        (head, stream, fields): (u8, u32, &[u8]),
        (over, rule): (u64, Rule),
        peer: SocketAddr,
    ) -> Ruling {
        let Ok(frame) = StreamUp::decode_fields(head, &mut Reader::new(fields)) else {
            // Its owner will say so.
            return Ruling::Pass;
        };
        if over > 0 {
            self.stats.hit(rule);
            let may_be_lost = matches!(frame, StreamUp::Tell { number: 0, .. });
            match self.options.over_rate {
                OverRate::Warn => {}
                OverRate::Close => return Ruling::Close("too many messages"),
                OverRate::Thin if may_be_lost => {
                    self.stats.hit(Rule::Thinned);
                    return Ruling::Drop;
                }
                OverRate::Thin if over >= BURSTS_OVER_MAX => {
                    return Ruling::Close("too many messages");
                }
                OverRate::Thin => {}
            }
        }
        let (StreamUp::Tell { number, method, body, .. }
        | StreamUp::Request { number, method, body, .. }) = frame
        else {
            return Ruling::Pass;
        };
        let session = self.conns.get(slot).and_then(Conn::session).expect("a frame came from it");
        let kind = session.route(stream).map(|route| route.kind).unwrap_or_default();
        let (account, level) = (session.account, session.level);
        let frame = EdgeFrame { account, level, peer, kind, method, number, body };
        for policy in &mut self.policies {
            match policy(now, &frame) {
                Verdict::Pass => continue,
                Verdict::Refuse => {
                    self.stats.hit(Rule::Policy);
                    return if number == 0 { Ruling::Drop } else { Ruling::Empty };
                }
                Verdict::Close => {
                    self.stats.hit(Rule::Policy);
                    return Ruling::Close("refused by a rule of this server");
                }
            }
        }
        Ruling::Pass
    }

    /// Forwards a refused call without its method and body: its number is used up, and its owner
    /// answers with an error as to any method it does not know.
    fn forward_empty(
        &mut self,
        now: Instant,
        slot: Slot,
        (owner, to): (WorkerId, Slot),
        head: u8,
        fields: &[u8],
    ) -> Flow {
        let frame = match StreamUp::decode_fields(head, &mut Reader::new(fields)) {
            Ok(StreamUp::Tell { number, ack, .. }) => {
                StreamUp::Tell { number, ack, method: MethodId(0), body: &[] }
            }
            Ok(StreamUp::Request { number, ack, deadline_ms, .. }) => {
                StreamUp::Request { number, ack, method: MethodId(0), deadline_ms, body: &[] }
            }
            _ => return Flow::Next,
        };
        self.scratch.clear();
        frame.encode_fields(&mut self.scratch);
        let fields = &self.scratch;
        let sent =
            self.mesh.send(now, owner, |out| link::put_up(out, owner.worker, to, head, fields));
        match sent {
            Ok(()) => Flow::Next,
            Err(error) => self.handle_unsent(now, slot, owner.node, error),
        }
    }

    /// A frame for a stream that leads nowhere: the client is told, and it is counted.
    #[cold]
    fn handle_unroutable(&mut self, slot: Slot, stream: u32, head: u8, fields: &[u8]) -> Flow {
        self.stats.hit(Rule::Unroutable);
        let number = Reader::new(fields).varint().unwrap_or(0);
        let conn = self.conns.get_mut(slot).expect("a frame came from it");
        let was_open = conn.session().is_some_and(|session| session.route(stream).is_some());
        if head != head::ACK_UP {
            let status = if was_open { Status::Unavailable } else { Status::NotFound };
            self.pool.fill(&mut conn.output);
            conn.put(&DownFrame::Fault { stream, number, status });
            touch(&mut self.dirty, conn, slot);
        }
        Flow::Next
    }

    /// Any other frame of an admitted client.
    fn handle_control(&mut self, now: Instant, slot: Slot, payload: &[u8]) -> Flow {
        let frame = match UpFrame::decode(payload) {
            Ok(frame) => frame,
            Err(error) => {
                self.refuse(now, slot, error);
                return Flow::Ended;
            }
        };
        let conn = self.conns.get_mut(slot).expect("a frame came from it");
        let Phase::Session(session) = &mut conn.phase else { return Flow::Ended };
        if session.messages.draw(now, self.messages, 1) > BURSTS_OVER_MAX
            && self.options.over_rate != OverRate::Warn
        {
            self.stats.hit(Rule::Messages);
            self.end(now, slot, &End::new(CloseCode::Limit, "too many messages"));
            return Flow::Ended;
        }
        match frame {
            UpFrame::Ping { token } => {
                self.pool.fill(&mut conn.output);
                conn.put(&DownFrame::Pong { token });
                touch(&mut self.dirty, conn, slot);
                if conn.output.len() > conn.look_at {
                    self.crowded(now, slot);
                }
                Flow::Next
            }
            UpFrame::Pong { token } => {
                conn.ping.answered(now, token);
                Flow::Next
            }
            UpFrame::Close { code, .. } => self.end_by_client(now, slot, code),
            _ => {
                self.refuse(now, slot, WireError::Kind(payload[0]));
                Flow::Ended
            }
        }
    }

    /// The client leaves: for good if it says goodbye, else to come back.
    pub(crate) fn end_by_client(&mut self, now: Instant, slot: Slot, code: CloseCode) -> Flow {
        let home = match code {
            CloseCode::Goodbye => Notice::Logout,
            _ => Notice::Detached,
        };
        self.end(now, slot, &End { code, reason: "", home });
        Flow::Ended
    }

    fn session_mut(&mut self, slot: Slot) -> Option<&mut Session> {
        self.conns.get_mut(slot).and_then(Conn::session_mut)
    }

    /// Takes a frame from another worker of the cluster. `wall` dates resume tokens.
    #[inline]
    pub fn handle_link(&mut self, now: Instant, wall: WallTime, from: WorkerId, payload: &[u8]) {
        if let Some((conn, frame)) = link::read_down(payload)
            && !frame.is_empty()
        {
            self.stats.frames_down += 1;
            self.pass_down(now, conn, frame);
            return;
        }
        match LinkFrame::decode(payload) {
            Ok((_, frame)) => self.handle_link_frame(now, wall, from, frame),
            Err(error) => {
                self.stats.hit(Rule::LinkFrame);
                tracing::warn!(?from, %error, "a link frame cannot be read");
            }
        }
    }

    fn handle_link_frame(
        &mut self,
        now: Instant,
        wall: WallTime,
        from: WorkerId,
        frame: LinkFrame<'_>,
    ) {
        match frame {
            LinkFrame::Cast { group, frame } => self.cast(now, group, frame),
            LinkFrame::Join { group, conn, stream, kind, number, name, .. } => {
                let handle = group.handle();
                let joined = DownFrame::Joined { group: handle, stream, kind, number, name };
                self.join_group(now, group, (conn, stream), Some(&joined));
            }
            LinkFrame::Leave { group, conn, stream } => self.leave(now, group, conn, stream),
            LinkFrame::Disband { group } => self.disband(now, group),
            // All that came before it is with the clients: their streams may go on elsewhere.
            LinkFrame::Marker { entity, number } => {
                self.send(now, from, &LinkFrame::Passed { entity, number });
            }
            LinkFrame::Welcome {
                conn,
                session,
                account,
                generation,
                resumed,
                resume_window_ms: window_ms,
            } => {
                let admitted = Admitted { conn, session, account, generation, resumed, window_ms };
                self.handle_welcome(now, wall, from, admitted);
            }
            LinkFrame::Home(frame) => self.handle_home(now, from, &frame),
            LinkFrame::Shift(frame) => self.handle_shift(now, from, frame),
            LinkFrame::Close { conn, code, reason } => {
                // What may be resumed was closed by an owner; the home does not know yet. Nor does
                // it of what a former home has closed.
                let session = self.conns.get(conn).and_then(Conn::session);
                let is_home = session.is_some_and(|s| s.home == from || s.waiting.is_some());
                let home = match code {
                    code if code.may_resume() => Notice::Detached,
                    _ if is_home => Notice::Nothing,
                    CloseCode::Replaced => Notice::Detached,
                    _ => Notice::Over,
                };
                self.end(now, conn, &End { code, reason, home });
            }
            LinkFrame::Route { conn, stream, owner, slot, kind, epoch, name, announce } => {
                let lead = Lead::To(owner);
                let route = Route { stream, slot, lead, kind, epoch };
                let bound = DownFrame::Bound { stream, kind, epoch, name };
                self.handle_route(now, conn, route, (&bound, announce));
            }
            LinkFrame::Unroute { conn, stream, code } => {
                self.handle_unroute(now, conn, stream, code)
            }
            _ => {
                self.stats.hit(Rule::LinkFrame);
                tracing::warn!(?from, "a link frame is not meant for a gate");
            }
        }
    }

    /// Appends a frame to what goes to a client.
    #[inline]
    fn pass_down(&mut self, now: Instant, slot: Slot, frame: &[u8]) {
        let Some(conn) = self.conns.get_mut(slot) else {
            self.stats.hit(Rule::Stale);
            return;
        };
        let Phase::Session(session) = &mut conn.phase else {
            self.stats.hit(Rule::Stale);
            return;
        };
        let is_live = session.waiting.is_none();
        let lane = match &mut session.waiting {
            None => &mut conn.output,
            Some(_) if self.options.mutant == Some(Mutant::HeldDropped) => return,
            Some(waiting) => &mut waiting.held,
        };
        self.pool.fill(lane);
        put_varint(lane, frame.len() as u64);
        lane.extend_from_slice(frame);
        if is_live && lane.len() <= conn.look_at {
            touch(&mut self.dirty, conn, slot);
        } else {
            self.sent_down(now, slot);
        }
        if is_denial(frame) {
            self.count_denial(now, slot);
        }
    }

    /// The client asked for what it may not have. Too often, and its account is banned.
    #[cold]
    fn count_denial(&mut self, now: Instant, slot: Slot) {
        let Some(session) = self.session_mut(slot) else { return };
        let account = session.account;
        if !self.guard.denied(now, account) {
            self.stats.hit(Rule::Denied);
            tracing::warn!(account = account.0, "banned: it calls what it may not call");
            self.ban(now, Banned::Account(account), self.options.denied_ban);
        }
    }

    /// Tells a client something, now or after its welcome.
    fn tell(&mut self, now: Instant, slot: Slot, frame: &DownFrame<'_>) {
        let Some(conn) = self.conns.get_mut(slot) else { return };
        self.pool.fill(conn.lane());
        conn.put(frame);
        self.sent_down(now, slot);
    }

    /// Checks the limits of what was just appended.
    fn sent_down(&mut self, now: Instant, slot: Slot) {
        let held_max = self.options.held_bytes_max;
        let Some(conn) = self.conns.get_mut(slot) else { return };
        if let Phase::Session(session) = &conn.phase
            && let Some(waiting) = &session.waiting
        {
            if waiting.arriving.is_some() {
                if waiting.held.len() > self.options.output_bytes_max {
                    self.stats.hit(Rule::SlowReader);
                    self.end(now, slot, &End::new(CloseCode::SlowReader, "reads too slowly"));
                }
                return;
            }
            if waiting.held.len() > held_max {
                self.stats.hit(Rule::Held);
                let reason = "too much came before the login was done";
                self.end(now, slot, &End::new(CloseCode::Limit, reason));
            }
            return;
        }
        touch(&mut self.dirty, conn, slot);
        if conn.output.len() > conn.look_at {
            self.crowded(now, slot);
        }
    }

    fn handle_route(
        &mut self,
        now: Instant,
        slot: Slot,
        route: Route,
        (bound, mut announce): (&DownFrame<'_>, bool),
    ) {
        let streams_max = self.options.streams_max;
        let Some(session) = self.session_mut(slot) else {
            self.stats.hit(Rule::Stale);
            return;
        };
        let is_full = session.streams() >= streams_max;
        let is_arriving = session.waiting.as_ref().is_some_and(|w| w.arriving.is_some());
        match session.routes.find_mut(route.stream) {
            // What has ended leads nowhere again: the route was overtaken by the stream's end.
            Some(known) if known.lead == Lead::Ended || route.epoch < known.epoch => {
                self.stats.hit(Rule::Stale);
                return;
            }
            Some(known) if known.lead == Lead::Lost => {
                // It has moved on. What was on the way to and from where it was only a resume brings back.
                let reason = "a server was lost, resume";
                self.end(now, slot, &End::new(CloseCode::Unavailable, reason));
                return;
            }
            Some(known) if known.lead != Lead::Listed => *known = route,
            None if is_full => {
                self.stats.hit(Rule::Streams);
                let reason = "the session has too many streams";
                self.end(now, slot, &End::new(CloseCode::Limit, reason));
                return;
            }
            known => {
                // It has moved on, and the word of where it was before has been lost on the way from there. A client
                // that has resumed may wait for what its owner has of the stream, which was lost with that.
                if !announce && !is_arriving && session.generation > 1 {
                    let reason = "the way to an entity broke: resume";
                    self.end(now, slot, &End::new(CloseCode::Unavailable, reason));
                    return;
                }
                announce |= !is_arriving;
                match known {
                    Some(known) => *known = route,
                    None => session.add_route(route),
                }
            }
        }
        if announce {
            self.tell(now, slot, bound);
        }
        self.settle_in(now, slot);
    }

    fn handle_unroute(&mut self, now: Instant, slot: Slot, stream: u32, code: CloseCode) {
        let Some(session) = self.session_mut(slot) else {
            self.stats.hit(Rule::Stale);
            return;
        };
        session.end_route(stream);
        session.unbound(stream, code);
        // Its memberships end with it, also for the client.
        self.leave_groups_of(slot, stream);
        self.tell(now, slot, &DownFrame::Unbound { stream, code });
        self.settle_in(now, slot);
    }

    /// Takes a connection out of the groups that it is in by a stream.
    pub(crate) fn leave_groups_of(&mut self, slot: Slot, stream: u32) {
        let Some(session) = self.session_mut(slot) else { return };
        let left = session.joined.extract_if(.., |(_, by)| *by == stream);
        let left: Vec<u32> = left.map(|(group, _)| group).collect();
        for group in left {
            self.end_membership(slot, group);
        }
    }

    /// Copies one cast to all members: encoded once.
    fn cast(&mut self, now: Instant, id: GroupId, frame: &[u8]) {
        self.stats.casts += 1;
        let Some(group) = self.groups.find(id) else {
            self.stats.hit(Rule::Stale);
            return;
        };
        let mut copy = std::mem::take(&mut self.scratch);
        copy.clear();
        put_frame(&mut copy, |out| {
            out.push(head::CAST);
            put_varint(out, u64::from(id.handle()));
            out.extend_from_slice(frame);
        });
        // A member that is given up leaves the group, and the last one takes its place: from the
        // last to the first each gets its copy once.
        let mut place = self.groups.get(group).members.len();
        while place > 0 {
            place -= 1;
            let Some(&member) = self.groups.get(group).members.get(place) else { continue };
            let conn = self.conns.get_mut(member).expect("members leave when their client does");
            let lane = conn.lane();
            self.pool.fill(lane);
            lane.extend_from_slice(&copy);
            self.stats.copies += 1;
            self.sent_down(now, member);
        }
        self.scratch = copy;
    }

    fn join_group(
        &mut self,
        now: Instant,
        id: GroupId,
        (slot, stream): (Slot, u32),
        joined: Option<&DownFrame<'_>>,
    ) {
        let known = self.groups.find(id);
        let Some(session) = self.conns.get(slot).and_then(Conn::session) else {
            self.stats.hit(Rule::Stale);
            return;
        };
        // Its stream was announced before it; if that has ended since, so has this.
        if session.route(stream).is_none_or(|r| matches!(r.lead, Lead::Ended | Lead::Listed)) {
            self.stats.hit(Rule::Stale);
            return;
        }
        let member = session.memberships.iter().find(|in_it| Some(in_it.group) == known);
        let group = if let Some(member) = member {
            member.group
        } else {
            let mut others = session.memberships.iter().map(|in_it| self.groups.get(in_it.group));
            if session.memberships.len() >= self.options.groups_max
                || others.any(|other| other.id.handle() == id.handle())
            {
                self.stats.hit(Rule::Groups);
                let reason = "the session is in too many groups";
                self.end(now, slot, &End::new(CloseCode::Limit, reason));
                return;
            }
            let membership = self.groups.join(id, slot);
            self.session_mut(slot).expect("it joins").memberships.push(membership);
            membership.group
        };
        let session = self.session_mut(slot).expect("it joins");
        if !session.joined.contains(&(group, stream)) {
            session.joined.push((group, stream));
        }
        if let Some(joined) = joined {
            self.tell(now, slot, joined);
        }
    }

    /// A connection that has come from another gate is in a group, as its client knows.
    pub(crate) fn join_quietly(&mut self, now: Instant, id: GroupId, conn: Slot, stream: u32) {
        self.join_group(now, id, (conn, stream), None);
    }

    fn leave(&mut self, now: Instant, id: GroupId, slot: Slot, stream: u32) {
        let Some(group) = self.groups.find(id) else { return };
        let Some(session) = self.session_mut(slot) else { return };
        let Some(at) = session.joined.iter().position(|in_it| *in_it == (group, stream)) else {
            return;
        };
        session.joined.swap_remove(at);
        self.end_membership(slot, group);
        self.tell(now, slot, &DownFrame::Left { group: id.handle(), stream });
    }

    /// Takes a connection out of a group if it is in it by no stream any more.
    fn end_membership(&mut self, slot: Slot, group: u32) {
        let session = self.session_mut(slot).expect("members are sessions");
        if session.joined.iter().any(|(in_it, _)| *in_it == group) {
            return;
        }
        let at = session.memberships.iter().position(|in_it| in_it.group == group);
        let membership = session.memberships.swap_remove(at.expect("members know their groups"));
        self.leave_group(membership);
    }

    /// Takes a member out of a group; its session must forget the membership.
    pub(crate) fn leave_group(&mut self, membership: Membership) {
        let Some(moved) = self.groups.leave(membership) else { return };
        let session = self.session_mut(moved).expect("members are sessions");
        let moved = session.memberships.iter_mut().find(|in_it| in_it.group == membership.group);
        moved.expect("members know their groups").place = membership.place;
    }

    /// The owner of a group was lost. If it lives its clients are members still, and get what they miss when they
    /// are connected to it again. Streams that have moved on have left its groups behind, which the former owner
    /// may have said in vain.
    pub(crate) fn lose_group(&mut self, now: Instant, id: GroupId) {
        let handle = id.handle();
        self.empty_group(id, |gate, member, stream| {
            let session = gate.session_mut(member).expect("members are sessions");
            if session.route(stream).is_none_or(|route| route.lead != Lead::Lost) {
                gate.tell(now, member, &DownFrame::Left { group: handle, stream });
            }
        });
    }

    /// Ends a group: all members here are told.
    pub(crate) fn disband(&mut self, now: Instant, id: GroupId) {
        let handle = id.handle();
        self.empty_group(id, |gate, member, stream| {
            gate.tell(now, member, &DownFrame::Left { group: handle, stream });
        });
    }

    /// Takes out all members of a group; `told` hears of each and of the streams by which it was
    /// one.
    fn empty_group(&mut self, id: GroupId, mut told: impl FnMut(&mut Self, Slot, u32)) {
        let Some(group) = self.groups.find(id) else { return };
        while let Some(&member) = self.groups.get(group).members.last() {
            let session = self.session_mut(member).expect("members are sessions");
            let by = session.joined.extract_if(.., |(in_it, _)| *in_it == group);
            let by: Vec<u32> = by.map(|(_, stream)| stream).collect();
            self.end_membership(member, group);
            for stream in by {
                told(self, member, stream);
            }
        }
    }
}
