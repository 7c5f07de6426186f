//! Homes that are lost: their sessions are put together again from those who still know.
//!
//! Gates tell of the sessions that they have or had a moment ago, with the names and targets of
//! their streams; owners tell of the streams that they have. Both tell it to whoever is the home
//! now, until that has answered. What nobody has is opened anew under its name.

use std::time::Duration;

use env::Instant;
use proto::frame::CloseCode;
use proto::link::{Held, HomeFrame, LinkFrame, Named, Report, Slot, Wanted, WorkerId};
use proto::{AccountId, Incarnation, SessionId};

use super::handles::Handles;
use super::home::{Session, SessionLink, Stream, StreamState};
use super::login::{Binding, Login, Refusal};
use super::moves::{Ended, SETTLE_WAIT};
use super::{Homes, Mutant, Outlet, Places, Scope};

/// How long the other reports of a session may be behind its first, when all should be there.
const LATE_WAIT: Duration = Duration::from_secs(1);

/// Handles of streams that a lost home may have given out without anybody having heard of them.
const HANDLES_SKIPPED: u32 = 1 << 16;

/// A client that names a stream above it did not hear of that from a home.
pub(super) const HANDLES_MAX: u32 = 1 << 31;

impl Homes {
    /// A gate tells of a session whose home it has lost.
    pub(super) fn handle_report<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        gate: WorkerId,
        report: &Report<'_>,
    ) {
        self.moves.progress(io.now);
        let (id, account) = (report.session, report.account);
        if let Some(code) = self.is_over(id, report.generation) {
            return refuse(io, gate, report, code);
        }
        let found = self.sessions.get(&account);
        let here = found.map(|found| (found.id, found.since_ms));
        match here {
            // Only owners have told of that one: its gate will say whether it is the later of the two.
            Some((known, 0)) if known != id && found.is_some_and(|found| found.is_rebuilding) => {
                return;
            }
            Some((known, _)) if known == id => {
                if !self.merge_report(io, gate, report) {
                    return;
                }
            }
            Some((_, since_ms)) if since_ms > report.since_ms => {
                self.stats.replaced += 1;
                let (code, generation) = (CloseCode::Replaced, report.generation);
                self.note_ended(io.now, id, Ended { code, account, generation });
                return refuse(io, gate, report, CloseCode::Replaced);
            }
            // One that waits may have been replaced long ago by one of which only owners have told.
            Some((_, since_ms)) if report.conn.is_none() && since_ms == 0 => return,
            // Neither is known to be the later one: the one stays that was told of first.
            Some((_, since_ms)) if report.conn.is_none() && since_ms == report.since_ms => return,
            _ if here.is_none() && !self.is_home_of(io, account) => return,
            // Its gate will hear of the home that has it, or asks again: the way to whom it went to may have broken.
            None if report.lost == self.me && self.moves.may_be_elsewhere(io.now, account) => {
                return;
            }
            // This home was not lost, so what it does not know is over.
            None if report.lost == self.me => {
                return refuse(io, gate, report, CloseCode::SessionLost);
            }
            _ => {
                match here {
                    Some((_, 0)) => self.leave_unsaid(io, account),
                    Some(_) => {
                        self.stats.replaced += 1;
                        let reason = "the account logged in elsewhere";
                        self.end(io, account, CloseCode::Replaced, reason, false);
                    }
                    None => {}
                }
                self.rebuild(io.now, (id, account), report.level, report.generation);
                self.connect(io.now, gate, report);
            }
        }
        for overtaken in self.note_wanted(account, report) {
            self.open_anew(io, account, overtaken);
        }
        if let Some(conn) = report.conn {
            let handles = report.streams.iter().map(|named| named.stream);
            self.end_unknown(io, (gate, conn), account, handles);
            let generation = report.generation;
            let homed = HomeFrame::Homed { conn, session: id, account, generation };
            io.out.control(gate, &LinkFrame::Home(homed));
        }
    }

    /// Lets go of a session of which no gate has told: how it has ended, and whether, is not said.
    fn leave_unsaid<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        account: AccountId,
    ) {
        if let Some(session) = self.sessions.remove(&account) {
            self.unset_timers(&session);
            self.dismiss(io, &session, CloseCode::Unavailable, "", false);
        }
    }

    /// A gate's tale of a session that is here. Gives whether it holds.
    fn merge_report<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        gate: WorkerId,
        report: &Report<'_>,
    ) -> bool {
        let account = report.account;
        let found = self.sessions.get(&account).expect("the caller looked");
        let (link, generation, is_rebuilding) = (found.link, found.generation, found.is_rebuilding);
        let is_it = |conn: Slot| matches!(link, SessionLink::Attached { gate: g, conn: c } if (g, c) == (gate, conn));
        if report.lost == self.me {
            // It was not this home that was lost but the way to it, and what was on the way.
            if let Some(conn) = report.conn {
                let (code, reason) = (CloseCode::Unavailable, "the way to the session broke");
                io.out.control(gate, &LinkFrame::Close { conn, code, reason });
                let (id, generation) = (report.session, report.generation);
                self.detached(io, (gate, conn), (id, account), generation, code);
            }
            return false;
        }
        if report.generation < generation {
            // Only that connection is over: a gate that had one is not told that the session is.
            if report.conn.is_some() {
                refuse(io, gate, report, CloseCode::Replaced);
            }
            return false;
        }
        if report.generation > generation {
            if let SessionLink::Attached { gate, conn } = link {
                let reason = "a newer connection has resumed this session";
                let code = CloseCode::Replaced;
                io.out.control(gate, &LinkFrame::Close { conn, code, reason });
            }
            self.connect(io.now, gate, report);
            return true;
        }
        match (link, report.conn) {
            (SessionLink::Attached { .. }, Some(conn)) if is_it(conn) => true,
            // A login that two homes have let in: nobody knows which of the two its client goes by.
            (SessionLink::Attached { .. }, Some(_)) => {
                refuse(io, gate, report, CloseCode::Unavailable);
                false
            }
            (SessionLink::Attached { gate: known, conn }, None) if known == gate => {
                let id = report.session;
                self.detached(io, (gate, conn), (id, account), generation, CloseCode::Unavailable);
                true
            }
            (SessionLink::Waiting { .. }, Some(_)) if is_rebuilding => {
                self.connect(io.now, gate, report);
                true
            }
            // Its streams were told that the client is away: only a resume attaches them again.
            (SessionLink::Waiting { .. }, Some(_)) => {
                refuse(io, gate, report, CloseCode::Unavailable);
                false
            }
            (_, None) => true,
        }
    }

    fn is_home_of<O, P: Places + ?Sized>(&self, io: &Scope<'_, O, P>, account: AccountId) -> bool {
        io.places.home_of(account) == Some(self.me)
    }

    /// A session of which nothing is known yet but that it is.
    fn rebuild(
        &mut self,
        now: Instant,
        (id, account): (SessionId, AccountId),
        level: u8,
        generation: u64,
    ) {
        self.stats.rebuilt += 1;
        let wait = if self.moves.is_unsettled() { SETTLE_WAIT } else { LATE_WAIT };
        let (gate, handles) = (WorkerId::default(), Handles::from(self.above(0)));
        let session = Session {
            id,
            account,
            level,
            generation,
            since_ms: 0,
            link: SessionLink::Waiting { until: now + self.options.resume_window, gate },
            handles,
            logged_in: false,
            tags: Box::default(),
            streams: Vec::new(),
            released: Vec::new(),
            is_rebuilding: true,
            rebuilt_by: now + wait,
        };
        self.sessions.insert(account, Box::new(session));
        self.set_timers(now, account);
    }

    /// Whether nobody may be left who knows a session but its client: it is not here, did not end as
    /// far as anybody knows, and a home that may have had it was lost a moment ago.
    pub(super) fn may_be_forgotten<O: Outlet, P: Places + ?Sized>(
        &self,
        io: &Scope<'_, O, P>,
        session: SessionId,
        account: AccountId,
    ) -> bool {
        let is_told = !self.moves.is_unsettled() && !self.moves.may_come(io.now);
        io.now < self.moves.forgotten_until
            && is_told
            && !self.sessions.contains_key(&account)
            && !self.ended.contains_key(&session)
    }

    /// Goes on with a session of which only its client knows, as with a login: the game chooses its
    /// streams or refuses it. `known` are the highest generation and the highest handle of a stream
    /// that the client has heard of.
    pub(super) fn begin_again<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        (id, account): (SessionId, AccountId),
        level: u8,
        (generation, handle): (u64, u32),
    ) -> Result<(), Refusal> {
        if self.sessions.len() >= self.options.sessions_max {
            let reason = "this server has no room: try later".to_owned();
            return Err(Refusal { code: CloseCode::Unavailable, reason });
        }
        let login = Login { session: id, account, level, name: "", address: "" };
        let bindings = self.bindings.choose(&login)?;
        self.rebuild(io.now, (id, account), level, generation);
        let next_stream = self.above(handle);
        let found = self.sessions.get_mut(&account).expect("it was just made");
        found.handles.skip_to(next_stream);
        found.is_rebuilding = false;
        self.timers.remove(&(found.rebuilt_by, account, u32::MAX));
        for binding in bindings {
            self.bind(io, account, (&binding.name, binding.target), true);
        }
        Ok(())
    }

    /// Puts a session on the connection that its gate tells of, or has it wait.
    fn connect(&mut self, now: Instant, gate: WorkerId, report: &Report<'_>) {
        let account = report.account;
        let Some(found) = self.sessions.get_mut(&account) else { return };
        if let SessionLink::Waiting { until, .. } = found.link {
            self.timers.remove(&(until, account, 0));
        }
        found.generation = report.generation;
        found.link = match report.conn {
            Some(conn) => SessionLink::Attached { gate, conn },
            None => {
                let until = now + self.options.resume_window;
                self.timers.insert((until, account, 0));
                SessionLink::Waiting { until, gate }
            }
        };
    }

    /// Takes note of the streams that a gate knows; whoever has them may have said so already. Gives those whose
    /// names another home has meanwhile given to newer ones, which the client goes by.
    fn note_wanted(&mut self, account: AccountId, report: &Report<'_>) -> Vec<u32> {
        let streams_max = self.options.session_streams();
        let handles = report.streams.iter().map(|named| named.stream);
        let next_stream = self.above(handles.fold(report.last_stream, u32::max));
        let Some(found) = self.sessions.get_mut(&account) else { return Vec::new() };
        // Also late: of two sessions of one account the later login counts.
        found.since_ms = found.since_ms.max(report.since_ms);
        if !found.is_rebuilding {
            let is_newer = |s: &Stream, n: &Named<'_>| n.name == &*s.name && n.stream > s.handle;
            let is_here = |stream| found.streams.iter().any(|s| s.handle == stream);
            let newer = report.streams.iter().filter(|named| !is_here(named.stream));
            let newer: Vec<&Named<'_>> = newer.collect();
            let overtaken = found.streams.iter().filter(|s| newer.iter().any(|n| is_newer(s, n)));
            let overtaken: Vec<u32> = overtaken.map(|stream| stream.handle).collect();
            if !overtaken.is_empty() {
                found.handles.skip_to(next_stream);
            }
            return overtaken;
        }
        found.handles.skip_to(next_stream);
        for named in &report.streams {
            let is_known = found.streams.iter().any(|s| s.handle == named.stream);
            if !is_known && found.streams.len() < streams_max {
                found.streams.push(opened(named, StreamState::Awaited));
            }
        }
        Vec::new()
    }

    /// An owner tells of a stream whose home it has lost.
    pub(super) fn handle_held<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        owner: WorkerId,
        held: &Held<'_>,
    ) {
        // Of a stream that has not lost its home it is only asked whether this one knows it.
        let is_question = held.lost.node == Incarnation::NONE;
        if !is_question {
            self.moves.progress(io.now);
        } else {
            // Who has the session knows its streams, whatever others may have to say yet.
            let is_here = self.current(held.account, held.session).is_some();
            let may_come = self.moves.is_unsettled() || self.moves.may_come(io.now);
            if may_come && !is_here || self.options.mutant == Some(Mutant::EndsUntold) {
                return;
            }
        }
        let elsewhere = io.places.home_of(held.account).filter(|home| *home != self.me);
        if let Some(home) = elsewhere
            && is_question
            && !self.sessions.contains_key(&held.account)
        {
            // It has gone on, or was never here.
            return self.pass(io, owner, home, &LinkFrame::Home(HomeFrame::Held(held.clone())));
        }
        let was_here = is_question || held.lost == self.me;
        let (id, account, slot) = (held.session, held.account, held.slot);
        let handle = held.stream.stream;
        let unbind = |io: &mut Scope<'_, O, P>, code| {
            if is_question {
                // It takes another for its home, and believes only that one.
                adopt_at(io, owner, (slot, id, account, handle));
            }
            io.out.control(owner, &LinkFrame::Unbind { slot, code });
        };
        if let Some(code) = self.is_over(id, held.generation) {
            return unbind(io, code);
        }
        match self.sessions.get(&account) {
            None if !self.is_home_of(io, account) => return,
            // Its owner will hear of the home that has it, or asks again.
            None if was_here && self.moves.may_be_elsewhere(io.now, account) => return,
            // This home was not lost, so what it does not know is over.
            None if was_here => return unbind(io, CloseCode::Unavailable),
            None => self.rebuild(io.now, (id, account), held.level, held.generation),
            // Which of the two is over is not known before a gate has told of them.
            Some(other) if other.id != id && other.is_rebuilding => return,
            Some(other) if other.id != id => return unbind(io, CloseCode::Unavailable),
            Some(_) => {}
        }
        let bound = StreamState::Bound { owner, slot };
        let next_stream = self.above(handle);
        let streams_max = self.options.session_streams();
        let found = self.sessions.get_mut(&account).expect("it is here");
        let has_room = found.streams.len() < streams_max;
        let known = found.streams.iter_mut().find(|stream| stream.handle == handle);
        let is_same = |state: &StreamState| matches!(state, &StreamState::Bound { owner: o, slot: s } if (o, s) == (owner, slot));
        let is_open = |state: &StreamState| matches!(state, StreamState::Bound { .. });
        let is_asked = |state: &StreamState| matches!(state, &StreamState::Asked { owner: o, .. } if o == owner);
        match known {
            // The way to this home broke, and what was on it is lost: also the word that the stream has moved there.
            Some(stream) if held.lost == self.me && is_open(&stream.state) => {
                unbind(io, CloseCode::Unavailable);
                return self.open_anew(io, account, handle);
            }
            _ if held.lost == self.me => return unbind(io, CloseCode::Unavailable),
            // It may be on its way to another owner, or be waited for there.
            Some(stream) if is_question && !is_same(&stream.state) => return,
            Some(stream) if is_same(&stream.state) => {}
            Some(stream) if matches!(stream.state, StreamState::Awaited) => stream.state = bound,
            Some(stream) if is_asked(&stream.state) => {
                adopt_at(io, owner, (slot, id, account, handle));
                return self.bound(io, owner, (id, account), handle, slot);
            }
            None if found.is_rebuilding && has_room => {
                found.streams.push(opened(&held.stream, bound));
            }
            _ => return unbind(io, CloseCode::Unavailable),
        }
        if found.is_rebuilding {
            found.handles.skip_to(next_stream);
            if let Some((logged_in, tags)) = &held.tags {
                found.logged_in = *logged_in;
                found.tags = tags.iter().map(|tag| Box::from(*tag)).collect();
            }
            if held.generation > found.generation {
                // A newer connection was admitted than the one that is known, and is gone.
                let old = std::mem::replace(&mut found.generation, held.generation);
                if let SessionLink::Attached { gate, conn } = found.link {
                    let code = CloseCode::Unavailable;
                    let reason = "a newer connection has resumed this session";
                    io.out.control(gate, &LinkFrame::Close { conn, code, reason });
                    found.generation = old;
                    self.detached(io, (gate, conn), (id, account), old, code);
                    let found = self.sessions.get_mut(&account).expect("it is here");
                    found.generation = held.generation;
                }
            }
        }
        adopt_at(io, owner, (slot, id, account, handle));
    }

    /// Somebody knows that a session has ended.
    pub(super) fn handle_over<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        (session, account): (SessionId, AccountId),
        code: CloseCode,
    ) {
        let end = Ended { code, account, generation: 0 };
        if self.current(account, session).is_none() {
            self.note_ended(io.now, session, end);
        } else if end.was_meant() {
            self.end(io, account, code, "the session has ended", false);
        }
    }

    /// All who know something of the sessions that are put together have said it.
    pub(super) fn finish_rebuilding<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
    ) {
        let rebuilding = self.sessions.values().filter(|session| session.is_rebuilding);
        let accounts: Vec<AccountId> = rebuilding.map(|session| session.account).collect();
        for account in accounts {
            self.finish(io, account);
        }
    }

    /// Goes on with a session as it is known now: what nobody has is opened anew.
    pub(super) fn finish<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        account: AccountId,
    ) {
        let found = self.sessions.get_mut(&account).filter(|found| found.is_rebuilding);
        let Some(found) = found else { return };
        found.is_rebuilding = false;
        self.timers.remove(&(found.rebuilt_by, account, u32::MAX));
        found.streams.sort_by_key(|stream| stream.handle);
        // A switch between two streams of one name was under way.
        let is_open = |s: &Stream| matches!(s.state, StreamState::Bound { .. });
        let open = found.streams.iter().filter(|s| is_open(s));
        let open: Vec<_> = open.map(|s| (s.name.clone(), s.handle)).collect();
        let (generation, waits) = (found.generation, !found.is_attached());
        found.streams.retain(|old| {
            let StreamState::Bound { owner, slot } = old.state else { return true };
            let is_replaced =
                open.iter().any(|(name, handle)| *name == old.name && *handle > old.handle);
            if is_replaced {
                let code = CloseCode::Goodbye;
                io.out.control(owner, &LinkFrame::Unbind { slot, code });
            } else if waits {
                let code = CloseCode::Unavailable;
                io.out.control(owner, &LinkFrame::Detach { slot, generation, code });
            }
            !is_replaced
        });
        let is_awaited = |s: &&Stream| matches!(s.state, StreamState::Awaited);
        let awaited: Vec<u32> = found.streams.iter().filter(is_awaited).map(|s| s.handle).collect();
        for handle in awaited {
            self.owner_away(io, account, handle);
        }
        self.bind_anew(io, account);
        self.release_held(io, account);
    }

    /// If no gate has told of a session, streams of which no owner has told either are known to
    /// nobody: those that each session of its account begins with are opened anew.
    fn bind_anew<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        account: AccountId,
    ) {
        let Some(found) = self.sessions.get(&account).filter(|found| found.since_ms == 0) else {
            return;
        };
        let (session, level, name, address) = (found.id, found.level, "", "");
        let login = Login { session, account, level, name, address };
        let is_there = |binding: &Binding| found.streams.iter().any(|s| *s.name == *binding.name);
        let bindings = self.bindings.choose(&login).unwrap_or_default();
        let missing: Vec<Binding> = bindings.into_iter().filter(|b| !is_there(b)).collect();
        for binding in missing {
            self.bind(io, account, (&binding.name, binding.target), true);
        }
    }

    /// A handle above all that may have been given out when `handle` was the highest known. Two
    /// homes, one lost after the other, do not begin with the same, nor does one home twice.
    pub(super) fn above(&mut self, handle: u32) -> u32 {
        self.handles_skipped += 1;
        let life = self.me.node.0 ^ u64::from(self.me.worker) << 4;
        let spread = (life ^ self.handles_skipped).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let own = spread as u32 & (HANDLES_SKIPPED - 16);
        handle.saturating_add(HANDLES_SKIPPED) / HANDLES_SKIPPED * HANDLES_SKIPPED + own
    }

    /// Tells the gate of a session what it is bound to, for a later home to hear.
    pub(super) fn tell_wanted<O: Outlet>(out: &mut O, session: &Session, only: Option<u32>) {
        let SessionLink::Attached { gate, conn } = session.link else { return };
        let streams = session.streams.iter();
        let streams = streams.filter(|stream| only.is_none_or(|only| stream.handle == only));
        let streams =
            streams.map(|s| Named { stream: s.handle, target: s.target, name: &s.name }).collect();
        let wanted = Wanted { conn, since_ms: session.since_ms, streams };
        out.control(gate, &LinkFrame::Home(HomeFrame::Wanted(wanted)));
    }
}

/// Tells a gate that a session that it tells of does not go on there.
fn refuse<O: Outlet, P: Places + ?Sized>(
    io: &mut Scope<'_, O, P>,
    gate: WorkerId,
    report: &Report<'_>,
    code: CloseCode,
) {
    let (session, account) = (report.session, report.account);
    match report.conn {
        Some(conn) => {
            let reason = match code {
                CloseCode::Replaced => "a newer connection or login took over",
                CloseCode::Unavailable => "the session's home has moved: resume",
                _ => "the session has ended",
            };
            io.out.control(gate, &LinkFrame::Close { conn, code, reason });
        }
        None if code.may_resume() => {}
        None => {
            let over = HomeFrame::Over { session, account, code };
            io.out.control(gate, &LinkFrame::Home(over));
        }
    }
}

fn adopt_at<O: Outlet, P: Places + ?Sized>(
    io: &mut Scope<'_, O, P>,
    owner: WorkerId,
    (slot, session, account, stream): (Slot, SessionId, AccountId, u32),
) {
    let adopt = HomeFrame::Adopt { slot, session, account, stream };
    io.out.control(owner, &LinkFrame::Home(adopt));
}

/// A stream that was open when its home was lost.
fn opened(named: &Named<'_>, state: StreamState) -> Stream {
    Stream {
        handle: named.stream,
        name: named.name.into(),
        target: named.target,
        required: false,
        lasting: true,
        tries: 0,
        is_doubtful: true,
        is_contested: false,
        may_be_told: false,
        state,
    }
}
