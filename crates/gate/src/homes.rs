//! Homes of sessions that move or are lost: what the gate keeps in mind to tell the next ones.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use env::Instant;
use proto::frame::{CloseCode, RESUME_STREAMS_MAX};
use proto::link::{Check, HomeFrame, Leads, LinkFrame, Named, Report, Slot, Wanted, WorkerId};
use proto::{AccountId, EntityId, Incarnation, SessionId};

use crate::Rule;
use crate::conn::{Conn, Lead, Session};
use crate::gate::{Due, End, Gate};
use crate::options::Mutant;
use crate::timers::SWEEP;

/// How often a home that does not answer is told again.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// How long a connection waits for its session to have a home again.
const HOMELESS_MAX: Duration = Duration::from_secs(60);

/// How long a new home has to end the streams of lost owners.
const HOME_GRACE: Duration = Duration::from_secs(6);

/// Sessions without a connection, and ends of sessions, that are kept in mind.
const KEPT_MAX: usize = 20_000;

/// Names of streams that are kept once for all sessions.
const NAMES_MAX: usize = 1_024;

/// What the gate knows of sessions beside their connections.
#[derive(Debug)]
pub(crate) struct Homes {
    layout: Option<u64>,
    /// Connections whose session has lost its home, and when they are given up.
    homeless: BTreeMap<Slot, Instant>,
    /// Connections whose session has found a new home, and until when that is news.
    found: BTreeMap<Slot, Instant>,
    is_armed: bool,
    /// Sessions that wait for a resume, for as long as their home lets them.
    parked: BTreeMap<SessionId, Parked>,
    parked_order: VecDeque<(Instant, SessionId)>,
    /// Sessions that ended here.
    over: VecDeque<(Instant, Over)>,
    names: BTreeSet<Arc<str>>,
    /// Counts the looks at whether homes know of the sessions here.
    looks: u32,
    /// The resume window, as homes told it.
    window: Duration,
}

/// A stream that a session is bound to, for a later home to hear.
#[derive(Clone, Debug)]
pub(crate) struct Bound {
    stream: u32,
    target: EntityId,
    name: Arc<str>,
    /// Its home took it to be open when it looked last, and its owner had not led it here.
    is_missed: bool,
}

/// What a later home of a session would have to hear.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// When it began, by the wall clock of its first home.
    since_ms: u64,
    /// What it is bound to.
    bound: Vec<Bound>,
}

#[derive(Debug)]
struct Parked {
    account: AccountId,
    level: u8,
    generation: u64,
    home: WorkerId,
    last_stream: u32,
    known: Known,
}

#[derive(Clone, Copy, Debug)]
struct Over {
    session: SessionId,
    account: AccountId,
    code: CloseCode,
    home: WorkerId,
}

impl Default for Homes {
    fn default() -> Self {
        Homes {
            layout: None,
            homeless: BTreeMap::new(),
            found: BTreeMap::new(),
            is_armed: false,
            parked: BTreeMap::new(),
            parked_order: VecDeque::new(),
            over: VecDeque::new(),
            names: BTreeSet::new(),
            looks: 0,
            window: Duration::from_secs(60),
        }
    }
}

impl Homes {
    pub(crate) fn set_window(&mut self, window: Duration) {
        self.window = window;
    }

    /// Whether the session of a connection has no home, or found one a moment ago.
    pub(crate) fn is_unsettled(&self, now: Instant, conn: Slot) -> bool {
        self.homeless.contains_key(&conn) || self.found.get(&conn).is_some_and(|until| *until > now)
    }

    /// A connection goes on elsewhere.
    pub(crate) fn forget_conn(&mut self, conn: Slot) {
        self.homeless.remove(&conn);
        self.found.remove(&conn);
    }

    /// The session is on a connection again.
    pub(crate) fn forget_parked(&mut self, session: SessionId) {
        self.parked.remove(&session);
    }

    /// What is remembered, as a number of entries.
    pub(crate) fn remembered(&self) -> usize {
        self.parked.len() + self.over.len()
    }

    fn name(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.names.get(name) {
            return known.clone();
        }
        let name: Arc<str> = name.into();
        if self.names.len() < NAMES_MAX {
            self.names.insert(name.clone());
        }
        name
    }

    pub(crate) fn sweep(&mut self, now: Instant) {
        while let Some(&(until, session)) = self.parked_order.front()
            && until <= now
        {
            self.parked_order.pop_front();
            self.parked.remove(&session);
        }
        while self.over.front().is_some_and(|(until, _)| *until <= now) {
            self.over.pop_front();
        }
        self.found.retain(|_, until| *until > now);
    }

    fn note_over(&mut self, now: Instant, over: Over) {
        if self.over.len() >= KEPT_MAX {
            self.over.pop_front();
        }
        self.over.push_back((now + self.window, over));
    }
}

impl Gate {
    /// A frame from a home about where homes are.
    pub(crate) fn handle_home(&mut self, now: Instant, from: WorkerId, frame: &HomeFrame<'_>) {
        match frame {
            HomeFrame::Wanted(wanted) => self.handle_wanted(wanted),
            &HomeFrame::Homed { conn, session, account, generation } => {
                self.handle_homed(now, from, conn, (session, account, generation));
            }
            HomeFrame::Check(check) => self.handle_check(now, from, check),
            &HomeFrame::Over { session, account, code } => {
                self.homes.parked.remove(&session);
                self.homes.note_over(now, Over { session, account, code, home: from });
            }
            _ => {
                self.stats.hit(Rule::LinkFrame);
                tracing::warn!(?from, "a link frame is not meant for a gate");
            }
        }
    }

    /// Tells homes of all sessions here twice in a resume window: one that takes a session to be elsewhere
    /// closes its connection here, and ends the streams that it does not know.
    pub(crate) fn audit(&mut self, now: Instant) {
        // A mutant is to be noticed, not made good.
        if self.options.mutant.is_some() {
            return;
        }
        let shares = (self.homes.window.as_secs() / 2 / SWEEP.as_secs()).max(1) as u32;
        self.homes.looks = self.homes.looks.wrapping_add(1);
        let share = self.homes.looks % shares;
        let is_due = |(slot, conn): &(Slot, &Conn)| slot.index % shares == share && conn.is_live();
        let due: Vec<Slot> = self.conns.iter().filter(is_due).map(|(slot, _)| slot).collect();
        for slot in due {
            let Some(found) = self.conns.get(slot).and_then(Conn::session) else { continue };
            let (session, account, generation) = (found.id, found.account, found.generation);
            let listed = self.directory.node(found.home.node).map(|_| found.home);
            let Some(home) = listed.or_else(|| self.directory.home(account)) else { continue };
            let routes = found.routes.iter().filter(|route| route.lead != Lead::Ended);
            let streams = routes.map(|route| route.stream).take(RESUME_STREAMS_MAX).collect();
            let leads = Leads { conn: slot, session, account, generation, streams };
            self.send(now, home, &LinkFrame::Home(HomeFrame::Leads(leads)));
        }
    }

    /// A home takes a session to be on this connection, and a stream of it to be open.
    fn handle_check(&mut self, now: Instant, home: WorkerId, check: &Check) {
        if self.options.mutant.is_some() {
            return;
        }
        let &Check { slot: conn, session, account, stream, generation, .. } = check;
        let found = self.conns.get(conn).and_then(Conn::session);
        let found = found.filter(|s| s.id == session && s.generation == generation);
        // It is told that the connection is gone, or was not heard to be the home.
        if found.is_none_or(|s| s.home != home && self.directory.home(account) == Some(home)) {
            return self.handle_homed(now, home, conn, (session, account, generation));
        }
        let lead = found.and_then(|found| found.route(stream)).map(|route| route.lead);
        let reason = match lead {
            Some(Lead::Ended) => "a stream has ended here alone: resume",
            // The word of it may be on its way at one look, and is lost if it is not here at the next.
            None | Some(Lead::Listed) if stream != 0 && self.is_missed_again(conn, stream) => {
                "a stream was not led here: resume"
            }
            _ => return,
        };
        self.end(now, conn, &End::new(CloseCode::Unavailable, reason));
    }

    /// Notes that a stream should be open and is not; gives whether that was so before.
    fn is_missed_again(&mut self, conn: Slot, stream: u32) -> bool {
        let session = self.conns.get_mut(conn).and_then(Conn::session_mut);
        let bound = session.and_then(|s| s.known.bound.iter_mut().find(|b| b.stream == stream));
        bound.is_some_and(|bound| std::mem::replace(&mut bound.is_missed, true))
    }

    fn handle_wanted(&mut self, wanted: &Wanted<'_>) {
        let names: Vec<Arc<str>> =
            wanted.streams.iter().map(|named| self.homes.name(named.name)).collect();
        let Some(session) = self.conns.get_mut(wanted.conn).and_then(Conn::session_mut) else {
            return;
        };
        session.known.since_ms = wanted.since_ms;
        for (named, name) in wanted.streams.iter().zip(names) {
            let Session { known, routes, .. } = session;
            let bound = &mut known.bound;
            let has_ended =
                |stream| routes.iter().any(|r| r.stream == stream && r.lead == Lead::Ended);
            bound.retain(|old| {
                old.stream != named.stream && !(old.name == name && has_ended(old.stream))
            });
            if bound.len() < RESUME_STREAMS_MAX {
                bound.reserve_exact(1);
                let is_missed = false;
                bound.push(Bound { stream: named.stream, target: named.target, name, is_missed });
            }
        }
    }

    /// A home has the session of a connection now.
    fn handle_homed(
        &mut self,
        now: Instant,
        home: WorkerId,
        conn: Slot,
        (session, account, generation): (SessionId, AccountId, u64),
    ) {
        let found = self.conns.get_mut(conn).and_then(Conn::session_mut);
        let found = found.filter(|s| s.id == session && s.generation == generation);
        let Some(found) = found else {
            let code = CloseCode::GoingAway;
            let gone = LinkFrame::Detached { conn, session, account, generation, code };
            return self.send(now, home, &gone);
        };
        found.home = home;
        if let Some(waiting) = &mut found.waiting {
            waiting.has_moved = true;
        }
        if self.homes.homeless.remove(&conn).is_some() {
            self.homes.found.insert(conn, now + HOME_GRACE);
        }
    }

    /// The list of nodes has changed: homes of sessions may be others now.
    pub(crate) fn follow_homes(&mut self, now: Instant) {
        let layout = self.directory.home_layout();
        if self.homes.layout.replace(layout) == Some(layout) {
            return;
        }
        self.homes.sweep(now);
        let mut overs = std::mem::take(&mut self.homes.over);
        for (_, over) in &mut overs {
            let next = self.directory.home(over.account);
            if let Some(next) = next.filter(|next| next.node != over.home.node) {
                over.home = next;
                let Over { session, account, code, .. } = *over;
                let frame = HomeFrame::Over { session, account, code };
                self.send(now, next, &LinkFrame::Home(frame));
            }
        }
        self.homes.over = overs;
        let of_lost = |(_, conn): &(Slot, &Conn)| {
            conn.session().is_some_and(|s| s.waiting.is_none() && self.is_lost(s.home.node))
        };
        let lost: Vec<Slot> = self.conns.iter().filter(of_lost).map(|(slot, _)| slot).collect();
        lost.into_iter().for_each(|slot| self.lose_home(now, slot));
        let homeless: Vec<Slot> = self.homes.homeless.keys().copied().collect();
        homeless.into_iter().for_each(|slot| self.tell_home(now, slot));
        self.tell_parked(now);
        let homes: Vec<WorkerId> = self
            .directory
            .offering(cluster::SESSION_KIND)
            .flat_map(|info| {
                let node = info.incarnation;
                (0..info.workers).map(move |worker| WorkerId { node, worker })
            })
            .collect();
        for home in homes {
            self.send(now, home, &LinkFrame::Home(HomeFrame::Settled { layout }));
        }
    }

    /// Whether the homes at a node are lost, as far as the list of nodes tells.
    fn is_lost(&self, node: Incarnation) -> bool {
        self.directory.node(node).is_none()
            || self.directory.is_followed(node) && !self.mesh.is_up(node)
    }

    /// The home of a session is lost, or the way to it. Its streams go on meanwhile.
    pub(crate) fn lose_home(&mut self, now: Instant, slot: Slot) {
        let Some(session) = self.conns.get(slot).and_then(Conn::session) else { return };
        // A resume was under way: its owners may not have heard of this connection, and what the
        // client has seen was known to the lost home alone.
        let is_routed = |bound: &Bound| session.is_led(bound.stream);
        let is_whole = session.generation == 1 || session.known.bound.iter().all(is_routed);
        if session.waiting.is_some() || !is_whole || self.options.mutant == Some(Mutant::HomesEnd) {
            // The home hears of it all the same: maybe only this link is lost.
            self.end(now, slot, &End::new(CloseCode::Unavailable, "a server was lost, resume"));
            return;
        }
        self.homes.homeless.entry(slot).or_insert(now + HOMELESS_MAX);
        self.tell_home(now, slot);
        if !std::mem::replace(&mut self.homes.is_armed, true) {
            self.wheel.insert(now + TELL_EVERY, Due::Homes);
        }
    }

    pub(crate) fn handle_homes_due(&mut self, now: Instant) {
        self.homes.is_armed = false;
        self.homes.sweep(now);
        let homeless: Vec<(Slot, Instant)> =
            self.homes.homeless.iter().map(|(slot, until)| (*slot, *until)).collect();
        for (slot, until) in homeless {
            if until <= now {
                self.homes.homeless.remove(&slot);
                let reason = "the session's home was lost";
                self.end(now, slot, &End::new(CloseCode::Unavailable, reason));
            } else {
                self.tell_home(now, slot);
            }
        }
        if !self.homes.homeless.is_empty() {
            self.homes.is_armed = true;
            self.wheel.insert(now + TELL_EVERY, Due::Homes);
        }
    }

    /// Tells whoever is the home of a session now that it is here.
    fn tell_home(&mut self, now: Instant, slot: Slot) {
        let Some(session) = self.conns.get(slot).and_then(Conn::session) else {
            self.homes.homeless.remove(&slot);
            return;
        };
        let Some(home) = self.directory.home(session.account) else { return };
        let report = Report {
            conn: Some(slot),
            session: session.id,
            account: session.account,
            level: session.level,
            generation: session.generation,
            since_ms: session.known.since_ms,
            lost: session.home,
            last_stream: session.last_stream(),
            streams: session.known.bound.iter().map(Bound::named).collect(),
        };
        let frame = LinkFrame::Home(HomeFrame::Report(report));
        let _ = self.mesh.send_reply(now, home, |out| frame.encode(home.worker, out));
    }

    /// Tells of the sessions that wait for a resume and have lost their home.
    fn tell_parked(&mut self, now: Instant) {
        let mut parked = std::mem::take(&mut self.homes.parked);
        for (&session, parked) in &mut parked {
            if !self.is_lost(parked.home.node) {
                continue;
            }
            let Some(home) = self.directory.home(parked.account) else { continue };
            let report = Report {
                conn: None,
                session,
                account: parked.account,
                level: parked.level,
                generation: parked.generation,
                since_ms: parked.known.since_ms,
                lost: parked.home,
                last_stream: parked.last_stream,
                streams: parked.known.bound.iter().map(Bound::named).collect(),
            };
            self.send(now, home, &LinkFrame::Home(HomeFrame::Report(report)));
            parked.home = home;
        }
        self.homes.parked = parked;
    }

    /// A connection has ended: keeps of its session what a later home would have to hear.
    pub(crate) fn part(&mut self, now: Instant, slot: Slot, session: &Session, code: CloseCode) {
        self.homes.homeless.remove(&slot);
        self.homes.found.remove(&slot);
        self.homes.sweep(now);
        if session.waiting.is_some() {
            return;
        }
        // A connection may be replaced by one of the same session.
        if code.may_resume() || code == CloseCode::Replaced {
            if self.homes.parked.len() >= KEPT_MAX {
                return;
            }
            let parked = Parked {
                account: session.account,
                level: session.level,
                generation: session.generation,
                home: session.home,
                last_stream: session.last_stream(),
                known: Known::clone(&session.known),
            };
            self.homes.parked.insert(session.id, parked);
            self.homes.parked_order.push_back((now + self.homes.window, session.id));
        } else {
            let (account, home) = (session.account, session.home);
            self.homes.note_over(now, Over { session: session.id, account, code, home });
        }
    }
}

impl Bound {
    fn named(&self) -> Named<'_> {
        Named { stream: self.stream, target: self.target, name: &self.name }
    }
}

impl Session {
    /// The highest handle of a stream that was heard of.
    fn last_stream(&self) -> u32 {
        let routed = self.routes.iter().map(|route| route.stream);
        routed.chain(self.known.bound.iter().map(|bound| bound.stream)).max().unwrap_or(0)
    }

    /// A stream has ended; if it may go on elsewhere its name is still wanted.
    pub(crate) fn unbound(&mut self, stream: u32, code: CloseCode) {
        if code != CloseCode::Unavailable {
            self.known.bound.retain(|bound| bound.stream != stream);
        }
    }
}
