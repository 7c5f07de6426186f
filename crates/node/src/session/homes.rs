use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use env::Instant;
use proto::frame::{CloseCode, Seen, Status};
use proto::link::{Admission, HomeFrame, LinkFrame, Shift, Slot, WorkerId};
use proto::{AccountId, EntityId, Incarnation, SessionId};

use super::audit::Audit;
use super::handles::Handles;
use super::home::{Resumed, Session, SessionLink, Stream, StreamState};
use super::login::{Binding, Bindings, HomeStats, Login, SessionInfo};
use super::moves::{Ended, Moves};
use super::rebuild::HANDLES_MAX;
use super::seek::{Elsewhere, Seeks};
use super::{Mutant, Options, Outlet, Places, Scope, SecondLogin};

/// How long the owner of a stream that was replaced has to say to the client that it has ended.
const RELEASED_WAIT: Duration = Duration::from_secs(5);

/// Such streams of one session that are kept in mind.
const RELEASED_MAX: usize = 64;

/// The homes of this worker's sessions: the only judge of who may speak for an account.
///
/// It decides on connection generations, used tickets, bindings and kicks, and tells gates and
/// stream owners what follows. Everything a session holds elsewhere is undone when it ends.
#[derive(Debug)]
pub struct Homes {
    pub(super) me: WorkerId,
    pub(super) options: Options,
    pub(super) bindings: Bindings,
    /// Boxed, because a tree's nodes are half empty.
    pub(super) sessions: BTreeMap<AccountId, Box<Session>>,
    /// Used tickets and when they expire, in wall-clock milliseconds.
    pub(super) used: BTreeMap<SessionId, (u64, AccountId)>,
    used_by_expiry: BTreeSet<(u64, SessionId)>,
    /// How sessions ended, for clients that come back too late: a code, since a reason may be any
    /// text.
    pub(super) ended: BTreeMap<SessionId, Ended>,
    pub(super) ended_order: VecDeque<(Instant, SessionId)>,
    /// `(when, account, stream)`; stream 0 is the end of the resume window, `u32::MAX` that of the
    /// time to put the session together again.
    pub(super) timers: BTreeSet<(Instant, AccountId, u32)>,
    pub(super) moves: Moves,
    pub(super) audit: Audit,
    pub(super) seeks: Seeks,
    /// How often handles were skipped, so that none is given out twice.
    pub(super) handles_skipped: u64,
    pub(super) stats: HomeStats,
}

impl Homes {
    /// No sessions yet, at worker `me`.
    pub fn new(me: WorkerId, options: Options, bindings: Bindings) -> Self {
        Homes {
            me,
            options,
            bindings,
            sessions: BTreeMap::new(),
            used: BTreeMap::new(),
            used_by_expiry: BTreeSet::new(),
            ended: BTreeMap::new(),
            ended_order: VecDeque::new(),
            timers: BTreeSet::new(),
            moves: Moves::default(),
            audit: Audit::default(),
            seeks: Seeks::default(),
            handles_skipped: 0,
            stats: HomeStats::default(),
        }
    }

    /// What is held and what was seen.
    pub fn stats(&self) -> HomeStats {
        HomeStats {
            sessions: self.sessions.len(),
            waiting: self.sessions.values().filter(|s| !s.is_attached()).count(),
            used_tickets: self.used.len(),
            leaving: self.moves.leaving(),
            ..self.stats
        }
    }

    /// Up to `max` sessions from `first` on, in order of their accounts.
    pub fn list(&self, first: AccountId, max: usize) -> Vec<SessionInfo> {
        self.sessions.range(first..).take(max).map(|(_, session)| session.info()).collect()
    }

    /// The session of `account`, if it has one here.
    pub fn session_of(&self, account: AccountId) -> Option<SessionId> {
        self.sessions.get(&account).map(|session| session.id)
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let ended = self.ended_order.front().map(|(at, _)| *at);
        let timer = self.timers.first().map(|(at, ..)| *at);
        let others = [self.moves.poll_timeout(), self.audit_timeout(), self.seeks.poll_timeout()];
        others.into_iter().chain([ended, timer]).flatten().min()
    }

    /// Handles one frame that is meant for a home. Other kinds are ignored, for the caller has
    /// sorted them.
    pub fn handle_link<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        from: WorkerId,
        frame: &LinkFrame<'_>,
    ) {
        if self.is_elsewhere(io, from, frame) {
            return;
        }
        match frame {
            LinkFrame::Home(home) if self.is_early(io, home) => {
                self.keep_early(io.now, from, frame)
            }
            LinkFrame::Home(frame) => self.handle_home(io, from, frame),
            &LinkFrame::Shift(Shift::Session { conn, session, account, generation, gate, to }) => {
                self.shift(io, (from, conn, generation), (session, account), (gate, to));
            }
            LinkFrame::Open(admission) => self.open(io, from, admission),
            LinkFrame::Tag(tag) => self.tag(tag),
            LinkFrame::Select(select) => self.select(io, from, select),
            LinkFrame::Resume { .. } => self.resume(io, from, frame),
            &LinkFrame::Detached { conn, session, account, generation, code } => {
                self.detached(io, (from, conn), (session, account), generation, code);
            }
            &LinkFrame::Logout { session, account, generation }
                if self.current(account, session).is_some_and(|s| s.generation == generation) =>
            {
                self.stats.goodbyes += 1;
                self.end(io, account, CloseCode::Goodbye, "", true);
            }
            &LinkFrame::Bound { session, account, stream, slot, .. } => {
                self.bound(io, from, (session, account), stream, slot);
            }
            &LinkFrame::NotBound { session, account, stream, status } => {
                self.not_bound(io, from, (session, account), stream, status);
            }
            &LinkFrame::Lost { session, account, stream, code } => {
                self.lost(io, from, (session, account), stream, code);
            }
            &LinkFrame::StreamMoved { session, account, stream, slot } => {
                self.stream_moved(io, from, (session, account), stream, slot);
            }
            &LinkFrame::Rebind { session, account, name, target }
                if self.current(account, session).is_some() =>
            {
                self.bind(io, account, (name, target), false);
            }
            &LinkFrame::Release { session, account, name } => {
                self.release(io, session, account, name);
            }
            &LinkFrame::Kick { account, session, code, reason }
                if session == SessionId::default() || self.current(account, session).is_some() =>
            {
                self.kick(io, account, code, reason);
            }
            _ => {}
        }
    }

    fn handle_home<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        from: WorkerId,
        frame: &HomeFrame<'_>,
    ) {
        match frame {
            HomeFrame::Report(report) => self.handle_report(io, from, report),
            HomeFrame::Held(held) => self.handle_held(io, from, held),
            HomeFrame::Leads(leads) => self.led(io, from, leads),
            &HomeFrame::Over { session, account, code } => {
                self.handle_over(io, (session, account), code);
            }
            HomeFrame::HandOver(session) => self.handle_hand_over(io, from, session),
            HomeFrame::Past(past) => self.handle_past(io, from, past),
            &HomeFrame::Taken { ticket } => self.handle_taken(io, from, ticket),
            &HomeFrame::Pass { from, hops, payload } => {
                self.handle_passed(io, (from, hops), payload);
            }
            &HomeFrame::Settled { layout } => self.handle_settled(io, from, layout),
            &HomeFrame::Seek { session, account } => {
                self.handle_seek(io, from, (session, account));
            }
            &HomeFrame::Sought { session, is_here, .. } => {
                self.handle_sought(io, from, session, is_here);
            }
            _ => {}
        }
    }

    /// Ends the session of `account`, if it has one: its client is told `code` and `reason`. A code
    /// that lets a client resume closes only its connection.
    pub fn kick<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        account: AccountId,
        code: CloseCode,
        reason: &str,
    ) {
        let Some(session) = self.sessions.get(&account) else { return };
        if !code.may_resume() {
            self.stats.kicked += 1;
            self.end(io, account, code, reason, false);
        } else if let SessionLink::Attached { gate, conn } = session.link {
            // The gate answers with `Detached`.
            io.out.control(gate, &LinkFrame::Close { conn, code, reason });
        }
    }

    /// Ends all sessions with `code`, as at the end of the node's life.
    pub fn end_all<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        code: CloseCode,
        reason: &str,
    ) {
        let accounts: Vec<_> = self.sessions.keys().copied().collect();
        for account in accounts {
            self.end(io, account, code, reason, false);
        }
    }

    /// Takes note that everything under way to and from `node` may be lost: sessions connected
    /// there wait for a resume, streams that end there are opened anew. Should the node still
    /// live, it is told to let go of them.
    pub fn handle_peer_down<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        node: Incarnation,
    ) {
        let mut detached = Vec::new();
        let mut lost = Vec::new();
        for session in self.sessions.values() {
            if let SessionLink::Attached { gate, conn } = session.link
                && gate.node == node
            {
                let (code, reason) = (CloseCode::Unavailable, "the way to the session broke");
                io.out.control(gate, &LinkFrame::Close { conn, code, reason });
                detached.push(((gate, conn), session.id, session.account, session.generation));
            }
            for stream in &session.streams {
                if stream.owner().is_some_and(|owner| owner.node == node) {
                    lost.push((session.account, stream.handle));
                }
            }
        }
        for (place, session, account, generation) in detached {
            self.detached(io, place, (session, account), generation, CloseCode::Unavailable);
        }
        for (account, handle) in lost {
            if let Some(stream) = self.stream_mut(account, handle)
                && matches!(stream.state, StreamState::Asked { .. })
            {
                // Its client may have it already, and takes its login for done.
                (stream.required, stream.lasting) = (false, true);
            }
            self.open_anew(io, account, handle);
        }
        self.moves_peer_down(io, node);
        self.seeks_peer_down(io, node);
    }

    /// Ends resume windows and repeats what got no answer.
    pub fn handle_timeout<O: Outlet, P: Places + ?Sized>(&mut self, io: &mut Scope<'_, O, P>) {
        while let Some(&(at, session)) = self.ended_order.front()
            && at <= io.now
        {
            self.ended_order.pop_front();
            self.ended.remove(&session);
        }
        self.moves_timeout(io);
        self.seeks_timeout(io);
        self.audit(io);
        while let Some(&(at, account, handle)) = self.timers.first()
            && at <= io.now
        {
            self.timers.pop_first();
            if handle == u32::MAX {
                self.finish(io, account);
                continue;
            }
            if handle == 0 && self.is_on_its_way(io, account) {
                self.wait_on(io.now, account);
                continue;
            }
            if handle == 0 {
                self.stats.expired += 1;
                self.end(io, account, CloseCode::SessionLost, "the resume window is over", false);
                continue;
            }
            let Some(stream) = self.stream_mut(account, handle) else {
                self.release_again(io, account, handle);
                continue;
            };
            match stream.state {
                StreamState::Pausing { .. } => self.ask(io, account, handle),
                StreamState::Asked { .. } => self.owner_away(io, account, handle),
                StreamState::Bound { .. } | StreamState::Awaited => {}
            }
        }
    }

    /// A stream is no more, of which its owner tells the client: it is told once more from here, for the way there may
    /// have broken.
    fn tell_again(&mut self, now: Instant, account: AccountId, handle: u32) {
        let Some(session) = self.sessions.get_mut(&account) else { return };
        if session.released.len() < RELEASED_MAX {
            let until = now + RELEASED_WAIT;
            session.released.push((until, handle));
            self.timers.insert((until, account, handle));
        }
    }

    /// A stream that another took the place of is gone for its client as well. Its owner has told it
    /// so, after its last words, unless the way broke between that owner and a gate that had just taken
    /// the session over.
    fn release_again<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        account: AccountId,
        handle: u32,
    ) {
        let Some(session) = self.sessions.get_mut(&account) else { return };
        session.released.retain(|(_, released)| *released != handle);
        unwanted(io.out, session.link, handle, CloseCode::Goodbye);
    }

    // -- logins --

    fn open<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        gate: WorkerId,
        admission: &Admission<'_>,
    ) {
        let refuse = |homes: &mut Self, io: &mut Scope<'_, O, P>, code: CloseCode, reason: &str| {
            homes.stats.refused += 1;
            if !code.may_resume() {
                // It may be on its way once more, by another gate: that must not come in later.
                homes.use_up(admission);
            }
            io.out.control(gate, &LinkFrame::Close { conn: admission.conn, code, reason });
        };
        self.forget_expired_tickets(io.wall.0);
        if admission.expires_ms <= io.wall.0 {
            return refuse(self, io, CloseCode::Ticket, "the ticket has expired: get a new one");
        }
        if self.is_used(admission) {
            return refuse(self, io, CloseCode::Ticket, "the ticket was used: get a new one");
        }
        let first = self.sessions.get(&admission.account);
        if self.options.second_login == SecondLogin::Refuse
            && first.is_some_and(|session| session.is_attached())
        {
            return refuse(self, io, CloseCode::AlreadyPlaying, "the account is playing elsewhere");
        }
        let full = first.is_none() && self.sessions.len() >= self.options.sessions_max
            || self.used.len() >= self.options.used_tickets_max;
        if full {
            return refuse(self, io, CloseCode::Unavailable, "this server has no room: try later");
        }
        let login = Login {
            session: admission.session,
            account: admission.account,
            level: admission.level,
            name: admission.name,
            address: admission.address,
        };
        let bindings = match self.bindings.choose(&login) {
            Ok(bindings) => bindings,
            Err(refusal) => return refuse(self, io, refusal.code, &refusal.reason),
        };
        if bindings.len() > self.options.session_streams() {
            return refuse(self, io, CloseCode::Limit, "the game binds too many streams");
        }
        let mut since_ms = admission.since_ms;
        if let Some(first) = first {
            // Its gate's clock may be behind that of the other's.
            since_ms = since_ms.max(first.since_ms.saturating_add(1));
            self.stats.replaced += 1;
            self.end(
                io,
                admission.account,
                CloseCode::Replaced,
                "the account logged in elsewhere",
                false,
            );
        }
        self.use_up(admission);
        self.stats.logins += 1;
        self.admit(io, gate, &Admission { since_ms, ..*admission }, bindings);
    }

    fn admit<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        gate: WorkerId,
        admission: &Admission<'_>,
        bindings: Vec<Binding>,
    ) {
        let mut session = Session {
            id: admission.session,
            account: admission.account,
            level: admission.level,
            generation: 1,
            since_ms: admission.since_ms,
            link: SessionLink::Attached { gate, conn: admission.conn },
            handles: Handles::from(1),
            logged_in: false,
            tags: Box::default(),
            streams: Vec::with_capacity(bindings.len()),
            released: Vec::new(),
            is_rebuilding: false,
            rebuilt_by: Instant::NEVER,
        };
        for binding in bindings {
            session.add_stream(&binding.name, binding.target).required = true;
        }
        let handles: Vec<u32> = session.streams.iter().map(|stream| stream.handle).collect();
        Self::tell_wanted(io.out, &session, None);
        session.welcome(io.out, &self.options, false);
        self.sessions.insert(admission.account, Box::new(session));
        for handle in handles {
            self.ask(io, admission.account, handle);
        }
    }

    /// The ticket of a login admits nobody any more.
    fn use_up(&mut self, admission: &Admission<'_>) {
        self.note_used(admission.session, admission.account, admission.expires_ms);
    }

    /// Whether the ticket of a login has begun a session. A home that was put together again has
    /// not heard of used tickets, but it has the sessions that they began, or how those ended.
    fn is_used(&self, admission: &Admission<'_>) -> bool {
        let id = admission.session;
        let began = self.ended.contains_key(&id) || self.session_of(admission.account) == Some(id);
        self.used.contains_key(&id)
            || began && self.options.mutant != Some(Mutant::TicketsForgotten)
    }

    pub(super) fn note_used(&mut self, session: SessionId, account: AccountId, expires_ms: u64) {
        let has_room = self.used.len() < self.options.used_tickets_max;
        if has_room && self.options.mutant != Some(Mutant::TicketsForgotten) {
            self.used.insert(session, (expires_ms, account));
            self.used_by_expiry.insert((expires_ms, session));
        }
    }

    fn forget_expired_tickets(&mut self, wall_ms: u64) {
        while let Some(&(expires, session)) = self.used_by_expiry.first()
            && expires <= wall_ms
        {
            self.used_by_expiry.pop_first();
            self.used.remove(&session);
        }
    }

    // -- connections --

    pub(super) fn detached<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        (from, lost): (WorkerId, Slot),
        (session, account): (SessionId, AccountId),
        generation: u64,
        code: CloseCode,
    ) {
        let until = io.now + self.options.resume_window;
        let Some(found) = self.sessions.get_mut(&account).filter(|found| found.id == session)
        else {
            return;
        };
        // A ticket that was shown on two connections has the same generation on both.
        let is_it = |gate, conn| gate == from && conn == lost;
        let is_here =
            matches!(found.link, SessionLink::Attached { gate, conn } if is_it(gate, conn));
        let is_stale = (found.generation != generation || !is_here)
            && self.options.mutant != Some(Mutant::StaleDetachTaken);
        if is_stale || !found.is_attached() {
            return;
        }
        found.link = SessionLink::Waiting { until, gate: from };
        for stream in &found.streams {
            if let StreamState::Bound { owner, slot } = stream.state {
                io.out.control(owner, &LinkFrame::Detach { slot, generation, code });
            }
        }
        if self.options.mutant != Some(Mutant::WindowEndless) {
            self.timers.insert((until, account, 0));
        }
    }

    fn resume<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        gate: WorkerId,
        frame: &LinkFrame<'_>,
    ) {
        let LinkFrame::Resume { conn, session, account, level, generation, streams, groups } =
            frame
        else {
            unreachable!("the caller matched it");
        };
        let (conn, account, generation) = (*conn, *account, *generation);
        let is_here = self.current(account, *session).is_some();
        let elsewhere = if is_here {
            Elsewhere::Nowhere
        } else {
            self.seek(io, (gate, frame), (*session, account))
        };
        if elsewhere == Elsewhere::Asked {
            return;
        }
        let is_nowhere = elsewhere == Elsewhere::Nowhere;
        if is_nowhere && self.may_be_forgotten(io, *session, account) {
            let handles = streams.iter().map(|stream| stream.handle);
            let highest = handles.filter(|handle| *handle < HANDLES_MAX).max().unwrap_or(0);
            let known = (generation.saturating_sub(1), highest);
            if let Err(refusal) = self.begin_again(io, (*session, account), *level, known) {
                self.stats.resumes_refused += 1;
                let (code, reason) = (refusal.code, refusal.reason.as_str());
                io.out.control(gate, &LinkFrame::Close { conn, code, reason });
                return;
            }
        }
        let Some(found) = self.sessions.get_mut(&account).filter(|found| found.id == *session)
        else {
            self.stats.resumes_refused += 1;
            let is_nowhere = is_nowhere && !self.moves.may_come(io.now);
            let (code, reason) = self.why_ended(is_nowhere, *session, account);
            io.out.control(gate, &LinkFrame::Close { conn, code, reason });
            return;
        };
        if generation <= found.generation && self.options.mutant != Some(Mutant::AnyGeneration) {
            self.stats.resumes_refused += 1;
            let reason = "a newer connection has resumed this session";
            io.out.control(gate, &LinkFrame::Close { conn, code: CloseCode::Replaced, reason });
            return;
        }
        match found.link {
            SessionLink::Attached { gate: old, conn } => {
                let reason = "a newer connection has resumed this session";
                io.out.control(old, &LinkFrame::Close { conn, code: CloseCode::Replaced, reason });
            }
            SessionLink::Waiting { until, .. } => {
                self.timers.remove(&(until, account, 0));
            }
        }
        found.generation = generation;
        found.link = SessionLink::Attached { gate, conn };
        // Its login is done: what cannot be opened now is waited for.
        for stream in &mut found.streams {
            (stream.required, stream.lasting) = (false, true);
        }
        self.stats.resumes += 1;
        Self::tell_wanted(io.out, found, None);
        found.welcome(io.out, &self.options, true);
        let handles = streams.iter().map(|item| item.handle);
        let ended = self.open_above_foreign(io, account, handles);
        let lasting = streams.iter().filter(|item| !ended.contains(&item.handle));
        let streams: Vec<Seen> = lasting.copied().collect();
        let Some(found) = self.sessions.get_mut(&account) else { return };
        for handle in found.attach_streams(io.out, (gate, conn), &streams, groups) {
            self.open_anew(io, account, handle);
        }
    }

    /// What a client hears that resumes a session which is not there, or not anywhere.
    fn why_ended(
        &self,
        is_nowhere: bool,
        session: SessionId,
        account: AccountId,
    ) -> (CloseCode, &'static str) {
        match self.ended.get(&session).map(|end| end.code) {
            Some(CloseCode::Kicked) => (CloseCode::Kicked, "the player was removed"),
            Some(CloseCode::Replaced) => (CloseCode::Replaced, "the account logged in elsewhere"),
            Some(CloseCode::Goodbye) => (CloseCode::SessionLost, "the session has said goodbye"),
            Some(_) => (CloseCode::SessionLost, "the session has ended: log in again"),
            None if !is_nowhere => (CloseCode::Unavailable, "the session's home moves: try again"),
            // Whoever plays is not to be pushed out by one who logs in again for this.
            None if self.sessions.get(&account).is_some_and(|other| other.is_playing()) => {
                (CloseCode::Replaced, "the account logged in elsewhere")
            }
            None => (CloseCode::SessionLost, "the session is not known: log in again"),
        }
    }

    // -- streams --

    /// Binds `target` to the session of `account` under `name`. What had that name is released
    /// when the new stream is open. `lasts`: it is asked for as long as the session lives.
    pub(super) fn bind<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        account: AccountId,
        (name, target): (&str, EntityId),
        lasts: bool,
    ) {
        let Some(session) = self.sessions.get_mut(&account) else { return };
        // What led there before goes on to.
        let led = |s: &Stream| *s.name == *name && s.target == target && s.lasting;
        let lasts = lasts || session.streams.iter().any(led);
        // An older wish for this name that is still open is overtaken by this one.
        let open = |stream: &Stream| matches!(stream.state, StreamState::Bound { .. });
        let mut may_be_told = false;
        if let Some(at) = session.streams.iter().position(|s| *s.name == *name && !open(s)) {
            let old = session.streams.remove(at);
            may_be_told = old.may_be_told || matches!(old.state, StreamState::Asked { .. });
            self.timers.remove(&(old.timer(), account, old.handle));
            unwanted(io.out, session.link, old.handle, CloseCode::Unavailable);
        }
        if session.streams.len() >= self.options.session_streams() {
            tracing::warn!(?account, name, "a session has too many streams for another binding");
            self.stats.bindings_failed += 1;
            return;
        }
        let stream = session.add_stream(name, target);
        (stream.lasting, stream.may_be_told) = (lasts, may_be_told);
        let handle = stream.handle;
        Self::tell_wanted(io.out, session, Some(handle));
        self.ask(io, account, handle);
    }

    /// Asks the owner of a stream's entity to open it. No timer of the stream is set before.
    fn ask<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        account: AccountId,
        handle: u32,
    ) {
        let me = self.me;
        let until = io.now + self.options.bind_wait;
        let Some(session) = self.sessions.get_mut(&account) else { return };
        let (generation, level, id) = (session.generation, session.level, session.id);
        // An owner that opens the stream while nobody is connected learns so at once.
        let (gate, conn) = match session.link {
            SessionLink::Attached { gate, conn } => (gate, conn),
            SessionLink::Waiting { .. } => (WorkerId::default(), Slot::default()),
        };
        let Some(stream) = session.streams.iter_mut().find(|s| s.handle == handle) else { return };
        stream.tries += 1;
        let Some(owner) = io.places.worker_of(stream.target) else {
            self.again(io, account, handle, Status::Unavailable);
            return;
        };
        stream.state = StreamState::Asked { owner, until, generation, resumed: None };
        let frame = LinkFrame::Bind {
            session: id,
            account,
            level,
            stream: handle,
            target: stream.target,
            home: me,
            gate,
            conn,
            generation,
            name: &stream.name,
        };
        io.out.control(owner, &frame);
        self.timers.insert((until, account, handle));
    }

    pub(super) fn bound<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        from: WorkerId,
        (session, account): (SessionId, AccountId),
        handle: u32,
        slot: Slot,
    ) {
        let found = self.sessions.get_mut(&account).filter(|found| found.id == session);
        // It has moved since, which was told sooner, or its owner has told of it in another way.
        if found.as_ref().is_some_and(|found| found.is_open(handle)) {
            return;
        }
        let Some(found) = found.filter(|found| found.is_asked(handle, from)) else {
            // The session or the wish is over, or the session has gone on: what was opened for it must not stay.
            let code = self.ended.get(&session).map_or(CloseCode::Unavailable, |end| end.code);
            io.out.control(from, &LinkFrame::Unbind { slot, code });
            return;
        };
        let (link, now_generation) = (found.link, found.generation);
        let stream = found.streams.iter_mut().find(|s| s.handle == handle).expect("is asked");
        let name = stream.name.clone();
        let bound = StreamState::Bound { owner: from, slot };
        let StreamState::Asked { until, generation, resumed, .. } =
            std::mem::replace(&mut stream.state, bound)
        else {
            unreachable!("is asked");
        };
        self.timers.remove(&(until, account, handle));
        stream.tries = 0;
        stream.required = false;
        stream.lasting = true;
        match link {
            SessionLink::Waiting { .. } => {
                let (generation, code) = (now_generation, CloseCode::Idle);
                io.out.control(from, &LinkFrame::Detach { slot, generation, code });
            }
            SessionLink::Attached { gate, conn } if generation != now_generation => {
                let (generation, resumed) = (now_generation, resumed.unwrap_or_default());
                let Resumed { seen, groups } = *resumed;
                let frame = LinkFrame::Attach { slot, gate, conn, generation, seen, groups };
                io.out.control(from, &frame);
            }
            SessionLink::Attached { .. } => {}
        }
        // Switch done: release what had the name before. A newer stream is not touched, for the
        // client goes by the newest too; if it is open already, this one has come too late.
        let is_open = |s: &Stream| matches!(s.state, StreamState::Bound { .. });
        let named = found.streams.iter().filter(|s| s.name == name && is_open(s));
        let newest = named.map(|s| s.handle).max().expect("this one is open");
        let mut released = Vec::new();
        found.streams.retain(|old| {
            let replaced = old.handle < newest && old.name == name;
            if let (true, StreamState::Bound { owner, slot }) = (replaced, &old.state) {
                let code = CloseCode::Goodbye;
                io.out.control(*owner, &LinkFrame::Unbind { slot: *slot, code });
                released.push(old.handle);
            }
            !replaced
        });
        released.into_iter().for_each(|handle| self.tell_again(io.now, account, handle));
    }

    fn not_bound<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        from: WorkerId,
        (session, account): (SessionId, AccountId),
        handle: u32,
        status: Status,
    ) {
        if self.current(account, session).is_some_and(|found| found.is_asked(handle, from)) {
            self.again(io, account, handle, status);
        }
    }

    fn lost<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        from: WorkerId,
        (session, account): (SessionId, AccountId),
        handle: u32,
        code: CloseCode,
    ) {
        let Some(found) = self.current(account, session) else { return };
        let Some(stream) = found.streams.iter().find(|stream| stream.handle == handle) else {
            return;
        };
        if stream.owner() != Some(from) {
            return;
        }
        match code {
            // The owner told the gate itself, in order with its last frames: the one that it knew of, which may be that
            // of an earlier connection.
            CloseCode::Goodbye => {
                self.remove_stream(account, handle);
                self.tell_again(io.now, account, handle);
            }
            CloseCode::Unavailable => {
                self.again(io, account, handle, Status::Unavailable);
                self.tell_again(io.now, account, handle);
            }
            code => {
                self.stats.lost += 1;
                self.end(io, account, code, "a stream of this session could not go on", false);
            }
        }
    }

    /// A stream went with its entity to another owner. One that is over here is over there as well.
    fn stream_moved<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        from: WorkerId,
        (session, account): (SessionId, AccountId),
        handle: u32,
        slot: Slot,
    ) {
        let known = self.current(account, session).is_some();
        let stream = self.stream_mut(account, handle).filter(|_| known);
        match stream.map(|stream| &mut stream.state) {
            Some(StreamState::Bound { owner, slot: at }) => (*owner, *at) = (from, slot),
            // It has moved on before the word of its opening came, which comes by another way.
            Some(StreamState::Asked { owner, .. }) => {
                *owner = from;
                self.bound(io, from, (session, account), handle, slot);
            }
            _ => {
                let code = self.ended.get(&session).map_or(CloseCode::Unavailable, |end| end.code);
                io.out.control(from, &LinkFrame::Unbind { slot, code });
            }
        }
    }

    fn release<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        session: SessionId,
        account: AccountId,
        name: &str,
    ) {
        let Some(found) = self.current(account, session) else { return };
        let named: Vec<u32> =
            found.streams.iter().filter(|s| *s.name == *name).map(|s| s.handle).collect();
        for handle in named {
            if let Some(stream) = self.stream_mut(account, handle)
                && let StreamState::Bound { owner, slot } = stream.state
            {
                io.out.control(owner, &LinkFrame::Unbind { slot, code: CloseCode::Goodbye });
            }
            if let Some(session) = self.sessions.get(&account) {
                unwanted(io.out, session.link, handle, CloseCode::Goodbye);
            }
            self.remove_stream(account, handle);
        }
    }

    /// Should the owner of a stream still have it, it is told to let go of it.
    pub(super) fn open_anew<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        account: AccountId,
        handle: u32,
    ) {
        if let Some(stream) = self.stream_mut(account, handle)
            && let StreamState::Bound { owner, slot } = stream.state
        {
            io.out.control(owner, &LinkFrame::Unbind { slot, code: CloseCode::Unavailable });
        }
        self.owner_away(io, account, handle);
    }

    /// The owner of a stream is gone or silent. The client is told at once that the stream's handle
    /// has ended; what the owner may still have on the way to the gate comes too late then, for an
    /// ended handle never leads anywhere again.
    pub(super) fn owner_away<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        account: AccountId,
        handle: u32,
    ) {
        let Some(session) = self.sessions.get(&account) else { return };
        if let SessionLink::Attached { gate, conn } = session.link {
            let code = CloseCode::Unavailable;
            io.out.control(gate, &LinkFrame::Unroute { conn, stream: handle, code });
        }
        if let Some(stream) = self.stream_mut(account, handle) {
            stream.may_be_told |= matches!(stream.state, StreamState::Asked { .. });
        }
        self.again(io, account, handle, Status::Unavailable);
    }

    /// Opens the stream's name again under a new handle, after a pause; or gives it up.
    fn again<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        account: AccountId,
        handle: u32,
        status: Status,
    ) {
        let Some(session) = self.sessions.get_mut(&account) else { return };
        let Some(at) = session.streams.iter().position(|s| s.handle == handle) else { return };
        let mut stream = session.streams.remove(at);
        self.timers.remove(&(stream.timer(), account, handle));
        // The name is to lead elsewhere already.
        if session.streams.iter().any(|newer| newer.name == stream.name && newer.handle > handle) {
            return;
        }
        let passing = matches!(status, Status::Unavailable | Status::Busy | Status::Timeout);
        let room_is_gone =
            stream.target.home != Incarnation::NONE && io.places.worker_of(stream.target).is_none();
        let tries_left = stream.lasting || stream.tries < self.options.bind_tries;
        if passing && !room_is_gone && tries_left {
            let doubled = 1u32 << stream.tries.saturating_sub(1).min(16);
            let pause = (self.options.bind_pause * doubled).min(self.options.bind_pause_max);
            let until = io.now + pause;
            let handle = session.take_handle();
            (stream.handle, stream.is_contested) = (handle, false);
            stream.state = StreamState::Pausing { until };
            session.streams.push(stream);
            Self::tell_wanted(io.out, session, Some(handle));
            self.timers.insert((until, account, handle));
            return;
        }
        unwanted(io.out, session.link, handle, CloseCode::Goodbye);
        self.stats.bindings_failed += 1;
        // A client that has heard of it does not go back to what had the name before.
        let is_older = |s: &&Stream| s.name == stream.name && stream.may_be_told;
        if let Some(older) = session.streams.iter().find(is_older).map(|older| older.handle) {
            self.open_anew(io, account, older);
        }
        if stream.required {
            let reason = format!("{} could not be opened: {status:?}", stream.name);
            self.end(io, account, CloseCode::Unavailable, &reason, false);
        }
    }

    // -- ends --

    /// Ends the session of `account` everywhere. `silent`: the client is gone by its own will and
    /// its gate has forgotten it.
    pub(super) fn end<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        account: AccountId,
        code: CloseCode,
        reason: &str,
        silent: bool,
    ) {
        let Some(session) = self.sessions.remove(&account) else { return };
        self.unset_timers(&session);
        self.dismiss(io, &session, code, reason, silent);
        let end = Ended { code, account, generation: session.generation };
        self.note_ended(io.now, session.id, end);
    }

    /// Tells everybody who knows a session that it has ended.
    pub(super) fn dismiss<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        session: &Session,
        code: CloseCode,
        reason: &str,
        silent: bool,
    ) {
        match session.link {
            SessionLink::Attached { gate, conn } if !silent => {
                io.out.control(gate, &LinkFrame::Close { conn, code, reason });
                if code == CloseCode::Replaced {
                    // It is the session that is over, not one connection of it.
                    let (session, account) = (session.id, session.account);
                    let over = HomeFrame::Over { session, account, code };
                    io.out.control(gate, &LinkFrame::Home(over));
                }
            }
            SessionLink::Attached { .. } => {}
            SessionLink::Waiting { gate, .. } if gate.node != Incarnation::NONE => {
                // It keeps the session in mind, should this home be lost.
                let (session, account) = (session.id, session.account);
                let over = HomeFrame::Over { session, account, code };
                io.out.control(gate, &LinkFrame::Home(over));
            }
            SessionLink::Waiting { .. } => {}
        }
        for stream in &session.streams {
            if let StreamState::Bound { owner, slot } = stream.state
                && self.options.mutant != Some(Mutant::EndsUntold)
            {
                io.out.control(owner, &LinkFrame::Unbind { slot, code });
            }
        }
    }

    pub(super) fn note_ended(&mut self, now: Instant, session: SessionId, end: Ended) {
        if self.ended.len() >= self.options.ended_max
            && let Some((_, oldest)) = self.ended_order.pop_front()
        {
            self.ended.remove(&oldest);
        }
        if self.ended.insert(session, end).is_none() {
            self.ended_order.push_back((now + self.options.resume_window, session));
        }
    }

    fn remove_stream(&mut self, account: AccountId, handle: u32) {
        let Some(session) = self.sessions.get_mut(&account) else { return };
        if let Some(at) = session.streams.iter().position(|s| s.handle == handle) {
            let stream = session.streams.remove(at);
            self.timers.remove(&(stream.timer(), account, handle));
        }
    }

    pub(super) fn current(&self, account: AccountId, session: SessionId) -> Option<&Session> {
        self.sessions.get(&account).map(|found| &**found).filter(|found| found.id == session)
    }

    fn stream_mut(&mut self, account: AccountId, handle: u32) -> Option<&mut Stream> {
        let session = self.sessions.get_mut(&account)?;
        session.streams.iter_mut().find(|stream| stream.handle == handle)
    }
}

/// A stream that was asked for is not wanted any more. Its gate forgets its name after a goodbye; else another stream
/// follows under that name.
pub(super) fn unwanted(out: &mut impl Outlet, link: SessionLink, stream: u32, code: CloseCode) {
    if let SessionLink::Attached { gate, conn } = link {
        out.control(gate, &LinkFrame::Unroute { conn, stream, code });
    }
}
