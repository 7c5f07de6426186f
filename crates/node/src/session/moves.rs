//! Homes that move: a session goes to the worker that is the home of its account now.
//!
//! What is the home of an account follows from the list of nodes. When that changes, each home hands
//! its sessions over to where they belong, and then tells all homes that it has (`Settled`). A home
//! that was not told so by everybody yet is *unsettled*: what concerns an account of which it has no
//! session waits, for the session may be on its way. What still comes to a former home is passed on.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use env::Instant;
use proto::frame::CloseCode;
use proto::link::{
    HandOver, HandedState, HandedStream, HomeFrame, LinkFrame, Named, PAST_MAX, Past, Shift,
    WorkerId,
};
use proto::{AccountId, Incarnation, SessionId};

use super::handles::Handles;
use super::home::{Resumed, Session, SessionLink, Stream, StreamState};
use super::homes::unwanted;
use super::{Homes, Mutant, Outlet, Places, Scope};

/// How long others may take to say what they know when homes have changed.
pub(super) const SETTLE_WAIT: Duration = Duration::from_secs(3);

/// The longest that is waited for others while they still say something.
const SETTLE_MAX: Duration = Duration::from_secs(20);

/// Sessions and lists on their way to other homes at once.
const IN_FLIGHT_MAX: usize = 512;

/// Times that a frame is passed on.
const HOPS_MAX: u8 = 4;

/// Frames that wait for sessions on their way; one more is refused.
const HELD_MAX: usize = 65_536;

/// What a worker's homes have to do with other homes.
#[derive(Debug, Default)]
pub(super) struct Moves {
    /// The choice of homes that this worker goes by.
    layout: Option<u64>,
    /// The homes that it named.
    known: BTreeSet<WorkerId>,
    /// The layout that each other worker has settled for.
    told: BTreeMap<WorkerId, u64>,
    /// Who has not settled for the present layout.
    expected: BTreeSet<WorkerId>,
    /// Nodes whose link broke.
    down: BTreeSet<Incarnation>,
    /// Since when and until when others are waited for.
    unsettled: Option<(Instant, Instant)>,
    /// Who has not settled for it when that was no longer waited for, and for how long that counts:
    /// they may have sessions that belong here.
    unheard: BTreeSet<WorkerId>,
    unheard_until: Instant,
    /// Until when a session that nobody knows may be one of a home that was lost.
    pub(super) forgotten_until: Instant,
    /// Others are to hear that all was handed over.
    to_announce: bool,
    /// Those of them that could not be told.
    untold: BTreeSet<WorkerId>,
    /// To be handed over.
    queue: VecDeque<Item>,
    in_flight: BTreeMap<u64, (WorkerId, Item)>,
    /// The first ticket that was not yet under way at `resend_at`: all before it are sent again then.
    resend_below: u64,
    resend_at: Option<Instant>,
    tickets: u64,
    /// Where accounts have gone whose frames may still come here, and until when.
    away: BTreeMap<AccountId, WorkerId>,
    away_order: VecDeque<(Instant, AccountId)>,
    /// Frames for accounts whose session may be on its way, in the order in which they came.
    held: BTreeMap<AccountId, Vec<(WorkerId, Vec<u8>)>>,
    selects: Vec<(WorkerId, Vec<u8>)>,
    held_len: usize,
    /// What others had to say to the home that this one is not by its own list, and when it came.
    early: VecDeque<(Instant, WorkerId, Vec<u8>)>,
    /// Sessions are here that belong, by this worker's list, where they came from: when they are sent there all the same,
    /// should nothing be heard from there.
    misplaced: Option<Instant>,
    /// When what was lost on its way is handed over again.
    retry_at: Option<Instant>,
    /// How often the frame that is handled now was passed on.
    hops: u8,
}

/// What is handed over.
#[derive(Debug)]
enum Item {
    /// Of this account, if it still has a session here.
    Account(AccountId),
    /// A session that has left already.
    Session(Box<Session>),
    Past(Past),
}

impl Moves {
    pub fn is_unsettled(&self) -> bool {
        self.unsettled.is_some()
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        let away = self.away_order.front().map(|(at, _)| *at);
        let settles = self.unsettled.map(|(_, until)| until);
        let timers = [settles, away, self.retry_at, self.resend_at, self.misplaced];
        timers.into_iter().flatten().min()
    }

    /// Sessions that have left and were not yet taken.
    pub fn leaving(&self) -> usize {
        self.queue.len() + self.in_flight.len()
    }

    /// Whether the session of an account has left and was not yet taken.
    pub fn is_leaving(&self, account: AccountId) -> bool {
        let mut items = self.in_flight.values().map(|(_, item)| item).chain(&self.queue);
        items.any(|item| matches!(item, Item::Session(session) if session.account == account))
    }

    /// Whether a session that is not here may be with somebody who could not hand it over yet.
    pub fn may_come(&self, now: Instant) -> bool {
        now < self.unheard_until && !self.unheard.is_empty()
    }

    /// Whether the session of an account that is not here may be elsewhere: it has gone on, or somebody did not
    /// say yet that he has handed over all that belongs here.
    pub fn may_be_elsewhere(&self, now: Instant, account: AccountId) -> bool {
        self.away.contains_key(&account) || self.is_unsettled() || self.may_come(now)
    }

    /// Somebody had something to say about a session: there may be more.
    pub fn progress(&mut self, now: Instant) {
        if let Some((since, until)) = &mut self.unsettled {
            *until = (now + SETTLE_WAIT).min(*since + SETTLE_MAX);
        }
    }
}

impl Homes {
    /// The list of nodes has changed: hands over what belongs elsewhere now.
    pub fn handle_nodes<O: Outlet, P: Places + ?Sized>(&mut self, io: &mut Scope<'_, O, P>) {
        let layout = io.places.home_layout();
        if self.moves.layout.replace(layout) == Some(layout) {
            return;
        }
        let homes: BTreeSet<WorkerId> = io.places.homes().into_iter().collect();
        let before = std::mem::replace(&mut self.moves.known, homes);
        let vanished = before.difference(&self.moves.known).copied();
        // A home that begins does not know what others have lost before it.
        if before.is_empty() || vanished.clone().next().is_some() {
            self.moves.forgotten_until = io.now + self.options.resume_window;
        }
        let listed = io.places.workers().into_iter().chain(vanished);
        let moves = &self.moves;
        let is_awaited = |place: &WorkerId| {
            *place != self.me
                && moves.told.get(place) != Some(&layout)
                && !moves.down.contains(&place.node)
                && !io.places.is_followed(place.node)
        };
        let expected: BTreeSet<WorkerId> = listed.filter(is_awaited).collect();
        self.moves.expected = expected;
        self.moves.unheard.clear();
        self.moves.unsettled = Some((io.now, io.now + SETTLE_WAIT));
        self.moves.to_announce = true;
        self.queue_all(io);
        self.send_queued(io);
        let (now, early) = (io.now, std::mem::take(&mut self.moves.early));
        let early = early.into_iter().filter(|(at, ..)| now.since(*at) < SETTLE_WAIT);
        for (_, from, payload) in early {
            let (_, frame) = LinkFrame::decode(&payload).expect("it was read before");
            self.handle_link(io, from, &frame);
        }
        self.settle_if_told(io);
    }

    /// What is known to be lost of a node is its list entry alone: it may still have something to say.
    pub fn expect(&mut self, node: Incarnation) {
        self.moves.down.remove(&node);
    }

    fn queue_all<O: Outlet, P: Places + ?Sized>(&mut self, io: &mut Scope<'_, O, P>) {
        self.moves.misplaced = None;
        let me = self.me;
        let goes = |account: AccountId| io.places.home_of(account).is_some_and(|home| home != me);
        let mut pasts: BTreeMap<WorkerId, Past> = BTreeMap::new();
        let mut full = Vec::new();
        for (&session, &(expires, account)) in &self.used {
            let Some(home) = io.places.home_of(account).filter(|home| *home != me) else {
                continue;
            };
            let past = pasts.entry(home).or_default();
            past.used.push((session, account, expires));
            if past.used.len() == PAST_MAX {
                full.push(std::mem::take(past));
            }
        }
        for &(until, session) in &self.ended_order {
            let Some(end) = self.ended.get(&session) else { continue };
            let account = end.account;
            let Some(home) = io.places.home_of(account).filter(|home| *home != me) else {
                continue;
            };
            let past = pasts.entry(home).or_default();
            past.ended.push((session, account, end.code, millis(until, io.now)));
            if past.ended.len() == PAST_MAX {
                full.push(std::mem::take(past));
            }
        }
        let pasts = full.into_iter().chain(pasts.into_values());
        let pasts = pasts.filter(|past| !past.used.is_empty() || !past.ended.is_empty());
        let accounts = self.sessions.keys().copied().filter(|account| goes(*account));
        // First what must not be admitted again.
        let items = pasts.map(Item::Past).chain(accounts.map(Item::Account));
        self.moves.queue.retain(|item| matches!(item, Item::Session(_)));
        self.moves.queue.extend(items);
    }

    /// Hands over as much as may be under way at once; then others hear that it is all.
    fn send_queued<O: Outlet, P: Places + ?Sized>(&mut self, io: &mut Scope<'_, O, P>) {
        let mut kept = VecDeque::new();
        while self.moves.in_flight.len() < IN_FLIGHT_MAX
            && let Some(item) = self.moves.queue.pop_front()
        {
            let account = match &item {
                Item::Account(account) => Some(*account),
                Item::Session(session) => Some(session.account),
                Item::Past(past) => {
                    let ended = past.ended.first().map(|ended| ended.1);
                    past.used.first().map(|used| used.1).or(ended)
                }
            };
            let to = account.and_then(|account| io.places.home_of(account));
            match (item, to.filter(|to| *to != self.me)) {
                // What is sent there now is lost, and nobody would say so.
                (item, Some(to)) if !io.out.reaches(to.node) => kept.push_back(item),
                (Item::Account(account), Some(to)) => {
                    self.finish(io, account);
                    let Some(session) = self.sessions.remove(&account) else { continue };
                    self.unset_timers(&session);
                    self.hand_over(io, to, session);
                }
                (Item::Session(session), Some(to)) => self.hand_over(io, to, session),
                // It belongs here again.
                (Item::Session(session), None) => self.restore(io, session),
                (Item::Past(mut past), Some(to)) => {
                    past.ticket = self.next_ticket();
                    io.out.control(to, &LinkFrame::Home(HomeFrame::Past(past.clone())));
                    self.moves.in_flight.insert(past.ticket, (to, Item::Past(past)));
                    self.arm_resend(io.now);
                }
                (_, None) => {}
            }
        }
        let is_all = self.moves.queue.is_empty() && kept.is_empty();
        self.moves.queue.append(&mut kept);
        if is_all {
            self.tell_settled(io);
        }
        if !self.moves.queue.is_empty() && self.moves.in_flight.len() < IN_FLIGHT_MAX
            || !self.moves.untold.is_empty()
        {
            self.moves.retry_at.get_or_insert(io.now + RETRY);
        }
    }

    /// Tells the other homes that all was handed over, as far as they can be reached now.
    fn tell_settled<O: Outlet, P: Places + ?Sized>(&mut self, io: &mut Scope<'_, O, P>) {
        let homes = io.places.homes().into_iter().filter(|home| *home != self.me);
        if std::mem::take(&mut self.moves.to_announce) {
            self.moves.untold = homes.collect();
        } else if !self.moves.untold.is_empty() {
            let homes: BTreeSet<WorkerId> = homes.collect();
            self.moves.untold.retain(|home| homes.contains(home));
        }
        let layout = self.moves.layout.unwrap_or_default();
        self.moves.untold.retain(|home| {
            let reached = io.out.reaches(home.node);
            if reached {
                io.out.control(*home, &LinkFrame::Home(HomeFrame::Settled { layout }));
            }
            !reached
        });
    }

    fn next_ticket(&mut self) -> u64 {
        self.moves.tickets += 1;
        self.moves.tickets
    }

    /// Sends again what nobody has said to have taken for so long: that word may have been lost where the
    /// other end did not know this node for a moment. Taken twice is taken once.
    fn resend<O: Outlet, P: Places + ?Sized>(&mut self, io: &mut Scope<'_, O, P>) {
        if self.moves.in_flight.is_empty() {
            self.moves.resend_at = None;
            return;
        }
        match self.moves.resend_at {
            Some(at) if at > io.now => return,
            Some(_) => {
                let later = self.moves.in_flight.split_off(&self.moves.resend_below);
                let late = std::mem::replace(&mut self.moves.in_flight, later);
                self.moves.queue.extend(late.into_values().map(|(_, item)| item));
                self.send_queued(io);
            }
            None => {}
        }
        self.moves.resend_below = self.moves.tickets + 1;
        self.moves.resend_at = Some(io.now + RESEND);
    }

    /// From here on frames for the session go after it, on the same way, so they come behind it.
    fn hand_over<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        to: WorkerId,
        session: Box<Session>,
    ) {
        let ticket = self.next_ticket();
        io.out.control(to, &LinkFrame::Home(HomeFrame::HandOver(packed(ticket, &session, io.now))));
        self.note_away(io.now, session.account, to);
        self.moves.in_flight.insert(ticket, (to, Item::Session(session)));
        self.arm_resend(io.now);
    }

    fn arm_resend(&mut self, now: Instant) {
        if self.moves.resend_at.is_none() {
            self.moves.resend_at = Some(now + RESEND);
            self.moves.resend_below = self.moves.tickets + 1;
        }
    }

    fn note_away(&mut self, now: Instant, account: AccountId, to: WorkerId) {
        if self.moves.away.insert(account, to).is_none() {
            let until = now + self.options.resume_window;
            self.moves.away_order.push_back((until, account));
        }
        while self.moves.away.len() > self.options.sessions_max {
            let Some((_, oldest)) = self.moves.away_order.pop_front() else { break };
            self.moves.away.remove(&oldest);
        }
    }

    /// Takes a session back whose new home was lost, or that belongs here again.
    fn restore<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        session: Box<Session>,
    ) {
        let account = session.account;
        self.moves.away.remove(&account);
        // It may have been put together again here meanwhile, or have come back by another way.
        let mut session = match self.sessions.remove(&account) {
            None => session,
            Some(other) => {
                self.unset_timers(&other);
                self.one_of(io, other, session)
            }
        };
        // Whoever took it may give out handles too, until it hears that there are two.
        let next = self.above(session.handles.next());
        session.handles.skip_to(next);
        self.sessions.insert(account, session);
        self.set_timers(io.now, account);
        self.announce(io, account);
    }

    pub(super) fn handle_taken<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        from: WorkerId,
        ticket: u64,
    ) {
        if self.moves.in_flight.get(&ticket).is_some_and(|(to, _)| *to == from) {
            self.moves.in_flight.remove(&ticket);
            self.stats.handed_over += 1;
        }
        self.send_queued(io);
    }

    /// What was on its way to a node may be lost: it is handed over again, to whoever is the home.
    pub(super) fn moves_peer_down<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        node: Incarnation,
    ) {
        let is_news = self.moves.down.insert(node);
        self.moves.told.retain(|place, _| place.node != node);
        if io.places.is_listed(node) {
            // Only the way broke, maybe: sessions that were on it come again, and so does the word
            // that they were all.
            if is_news {
                self.moves.progress(io.now);
            }
            self.moves.to_announce |= self.moves.layout.is_some();
        } else {
            self.moves.expected.retain(|place| place.node != node);
        }
        self.moves.away.retain(|_, to| to.node != node);
        let lost = self.moves.in_flight.extract_if(.., |_, (to, _)| to.node == node);
        let lost: Vec<Item> = lost.map(|(_, (_, item))| item).collect();
        for item in lost {
            match item {
                Item::Session(session) => {
                    let account = session.account;
                    self.restore(io, session);
                    self.moves.queue.push_back(Item::Account(account));
                }
                item => self.moves.queue.push_back(item),
            }
        }
        self.moves.retry_at = Some(io.now + RETRY);
        self.settle_if_told(io);
    }

    pub(super) fn handle_settled<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        from: WorkerId,
        layout: u64,
    ) {
        self.moves.down.remove(&from.node);
        self.moves.told.insert(from, layout);
        if self.moves.layout == Some(layout) {
            self.moves.unheard.remove(&from);
        }
        if self.moves.layout == Some(layout) {
            self.moves.expected.remove(&from);
            if self.moves.misplaced.is_some() {
                self.queue_all(io);
                self.send_queued(io);
            }
        }
        self.settle_if_told(io);
    }

    fn settle_if_told<O: Outlet, P: Places + ?Sized>(&mut self, io: &mut Scope<'_, O, P>) {
        if self.moves.expected.is_empty() && self.moves.unsettled.is_some() {
            self.settle(io);
        }
    }

    /// Everybody has said what there was to say, or had the time to.
    fn settle<O: Outlet, P: Places + ?Sized>(&mut self, io: &mut Scope<'_, O, P>) {
        self.moves.unsettled = None;
        self.moves.expected.clear();
        // Also those who were not waited for, because there was no way to them.
        let told = |place: &WorkerId| self.moves.told.get(place) == self.moves.layout.as_ref();
        let places = io.places.workers().into_iter();
        let unheard = places.filter(|place| *place != self.me && !told(place));
        self.moves.unheard = unheard.filter(|place| !io.places.is_followed(place.node)).collect();
        self.moves.unheard_until = io.now + self.options.resume_window;
        self.finish_rebuilding(io);
        let held = std::mem::take(&mut self.moves.held);
        for (_, frames) in held {
            self.handle_again(io, frames);
        }
        let selects = std::mem::take(&mut self.moves.selects);
        self.handle_again(io, selects);
    }

    /// Handles what has waited for the session of `account`.
    pub(super) fn release_held<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        account: AccountId,
    ) {
        if let Some(frames) = self.moves.held.remove(&account) {
            self.handle_again(io, frames);
        }
    }

    fn handle_again<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        frames: Vec<(WorkerId, Vec<u8>)>,
    ) {
        self.moves.held_len -= frames.len();
        for (from, payload) in frames {
            let (_, frame) = LinkFrame::decode(&payload).expect("it was read before");
            self.handle_link(io, from, &frame);
        }
    }

    pub(super) fn moves_timeout<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
    ) {
        while let Some(&(at, account)) = self.moves.away_order.front()
            && at <= io.now
        {
            self.moves.away_order.pop_front();
            self.moves.away.remove(&account);
        }
        if self.moves.retry_at.is_some_and(|at| at <= io.now) {
            self.moves.retry_at = None;
            self.send_queued(io);
        }
        if self.moves.misplaced.is_some_and(|at| at <= io.now) {
            self.queue_all(io);
            self.send_queued(io);
        }
        self.resend(io);
        if self.moves.unsettled.is_some_and(|(_, until)| until <= io.now) {
            self.settle(io);
        }
    }

    // -- frames for sessions that are not here --

    /// Whether a frame is kept, passed on or refused, because the session that it is for is not
    /// here, or not whole.
    pub(super) fn is_elsewhere<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        from: WorkerId,
        frame: &LinkFrame<'_>,
    ) -> bool {
        let Some(account) = account_of(frame) else {
            let waits = matches!(frame, LinkFrame::Select(_)) && self.moves.is_unsettled();
            return waits && self.hold(from, None, frame);
        };
        // Who has a session of the account still, and no way to where it belongs, does not admit another one: its home
        // may, by the same ticket.
        let home = io.places.home_of(account).filter(|home| *home != self.me);
        if let (LinkFrame::Open(_), Some(home)) = (frame, home) {
            self.pass(io, from, home, frame);
            return true;
        }
        if let Some(session) = self.sessions.get(&account) {
            // A used ticket may be on its way.
            let may_be_used = self.moves.is_unsettled() && matches!(frame, LinkFrame::Open(_));
            let waits = session.is_rebuilding || may_be_used;
            return waits && self.hold(from, Some(account), frame);
        }
        if let Some(&to) = self.moves.away.get(&account) {
            self.pass(io, from, to, frame);
            return true;
        }
        let begins = matches!(frame, LinkFrame::Resume { .. } | LinkFrame::Kick { .. });
        // Who sent one of these may not have heard for a long time that the session has moved.
        let ends = matches!(
            frame,
            LinkFrame::Detached { .. }
                | LinkFrame::Logout { .. }
                | LinkFrame::Lost { .. }
                | LinkFrame::Home(HomeFrame::Leads(_))
        );
        let passes = begins || ends && !self.moves.is_unsettled();
        if let Some(to) = home.filter(|_| passes) {
            self.pass(io, from, to, frame);
            return true;
        }
        let holds = self.options.mutant != Some(Mutant::NothingHeld);
        holds && self.moves.is_unsettled() && self.hold(from, Some(account), frame)
    }

    /// Keeps a frame until the session is here. `false` if there is no room.
    fn hold(&mut self, from: WorkerId, account: Option<AccountId>, frame: &LinkFrame<'_>) -> bool {
        if self.moves.held_len >= HELD_MAX {
            return false;
        }
        let mut payload = Vec::new();
        frame.encode(self.me.worker, &mut payload);
        self.moves.held_len += 1;
        self.stats.held += 1;
        match account {
            Some(account) => self.moves.held.entry(account).or_default().push((from, payload)),
            None => self.moves.selects.push((from, payload)),
        }
        true
    }

    /// Whether somebody tells of a session as to its home, which this is not by its own list: whoever
    /// tells it may have a later one, and has then said all that this home will be told.
    pub(super) fn is_early<O: Outlet, P: Places + ?Sized>(
        &self,
        io: &Scope<'_, O, P>,
        frame: &HomeFrame<'_>,
    ) -> bool {
        let (session, account) = match frame {
            HomeFrame::Report(report) => (report.session, report.account),
            HomeFrame::Held(held) if held.lost.node != Incarnation::NONE => {
                (held.session, held.account)
            }
            _ => return false,
        };
        let is_unknown =
            !self.sessions.contains_key(&account) && !self.ended.contains_key(&session);
        is_unknown && io.places.home_of(account) != Some(self.me)
    }

    pub(super) fn keep_early(&mut self, now: Instant, from: WorkerId, frame: &LinkFrame<'_>) {
        let early = &mut self.moves.early;
        while early.front().is_some_and(|(at, ..)| now.since(*at) >= SETTLE_WAIT) {
            early.pop_front();
        }
        if early.len() < HELD_MAX {
            let mut payload = Vec::new();
            frame.encode(self.me.worker, &mut payload);
            early.push_back((now, from, payload));
        }
    }

    pub(super) fn pass<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        from: WorkerId,
        to: WorkerId,
        frame: &LinkFrame<'_>,
    ) {
        if self.moves.hops >= HOPS_MAX {
            let (LinkFrame::Open(proto::link::Admission { conn, .. })
            | LinkFrame::Resume { conn, .. }) = frame
            else {
                return;
            };
            let (code, reason) = (CloseCode::Unavailable, "the session's home moves: try again");
            io.out.control(from, &LinkFrame::Close { conn: *conn, code, reason });
            return;
        }
        let mut payload = Vec::new();
        frame.encode(to.worker, &mut payload);
        let hops = self.moves.hops + 1;
        self.stats.passed += 1;
        io.out.control(to, &LinkFrame::Home(HomeFrame::Pass { from, hops, payload: &payload }));
    }

    /// Handles a frame that came to a former home.
    pub(super) fn handle_passed<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        (from, hops): (WorkerId, u8),
        payload: &[u8],
    ) {
        let Ok((_, frame)) = LinkFrame::decode(payload) else { return };
        let is_question = matches!(frame, LinkFrame::Home(HomeFrame::Held(_)));
        if account_of(&frame).is_none() && !is_question {
            return;
        }
        if let &(LinkFrame::Bound { session, account, stream, slot, .. }
        | LinkFrame::StreamMoved { session, account, stream, slot }) = &frame
        {
            // Its owner does not know that the session has moved.
            let adopt = HomeFrame::Adopt { slot, session, account, stream };
            io.out.control(from, &LinkFrame::Home(adopt));
        }
        self.moves.hops = hops;
        self.handle_link(io, from, &frame);
        self.moves.hops = 0;
    }

    // -- what others hand over --

    pub(super) fn handle_past<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        from: WorkerId,
        past: &Past,
    ) {
        for &(session, account, expires) in &past.used {
            self.note_used(session, account, expires);
        }
        for &(session, account, code, _) in &past.ended {
            self.handle_over(io, (session, account), code);
        }
        let ticket = past.ticket;
        io.out.control(from, &LinkFrame::Home(HomeFrame::Taken { ticket }));
    }

    pub(super) fn handle_hand_over<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        from: WorkerId,
        handed: &HandOver<'_>,
    ) {
        self.moves.progress(io.now);
        self.stats.taken_over += 1;
        let account = handed.account;
        self.moves.away.remove(&account);
        let is_it = |item: &Item| matches!(item, Item::Session(s) if s.account == account);
        let sent = self.moves.in_flight.extract_if(.., |_, (_, item)| is_it(item));
        let sent: Vec<Item> = sent.map(|(_, (_, item))| item).collect();
        let mut session = unpacked(handed, io.now, &self.options);
        self.renumber(io.out, &mut session);
        for item in sent {
            if let Item::Session(sent) = item {
                session = self.one_of(io, session, sent);
            }
        }
        let ticket = handed.ticket;
        io.out.control(from, &LinkFrame::Home(HomeFrame::Taken { ticket }));
        if let Some(code) = self.is_over(session.id, session.generation) {
            self.dismiss(io, &session, code, "the session has ended", false);
            return;
        }
        let session = match self.sessions.remove(&account) {
            None => session,
            Some(other) => {
                self.unset_timers(&other);
                self.one_of(io, other, session)
            }
        };
        self.sessions.insert(account, session);
        self.set_timers(io.now, account);
        self.announce(io, account);
        self.release_held(io, account);
        match io.places.home_of(account) {
            Some(home) if home == self.me => {}
            Some(home) if home.node != from.node => {
                self.moves.queue.push_back(Item::Account(account));
                self.send_queued(io);
            }
            Some(_) => self.moves.misplaced = Some(io.now + SETTLE_WAIT),
            None => {}
        }
    }

    /// A session comes from another home, which may give it to a third one as well if it does not hear that it has come
    /// here. Then two go on with it for a while, and a handle that both gave out would lead to two streams.
    fn renumber<O: Outlet>(&mut self, out: &mut O, session: &mut Session) {
        let next = self.above(session.handles.next());
        session.handles.skip_to(next);
        for at in 0..session.streams.len() {
            if let StreamState::Pausing { .. } = session.streams[at].state {
                let handle = session.take_handle();
                let before = std::mem::replace(&mut session.streams[at].handle, handle);
                unwanted(out, session.link, before, CloseCode::Unavailable);
                Self::tell_wanted(out, session, Some(handle));
            }
        }
    }

    /// Tells the gate and the owners of a session that its home is here.
    pub(super) fn announce<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        account: AccountId,
    ) {
        if self.options.mutant == Some(Mutant::MovesUntold) {
            return;
        }
        let Some(found) = self.sessions.get(&account) else { return };
        found.streams.iter().for_each(|stream| adopt(io.out, found, stream));
        if let SessionLink::Attached { gate, conn } = found.link {
            let (session, generation) = (found.id, found.generation);
            let homed = HomeFrame::Homed { conn, session, account, generation };
            io.out.control(gate, &LinkFrame::Home(homed));
        }
        self.let_go_of_gone(io, account);
    }

    /// Of a gate and of owners that have gone before a session came here nobody tells its home: they are off the
    /// list, and there is no way to them.
    pub(super) fn let_go_of_gone<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        account: AccountId,
    ) {
        let Some(found) = self.sessions.get(&account) else { return };
        let is_gone = |at: WorkerId| !io.places.is_listed(at.node) && !io.out.reaches(at.node);
        let lost = found.streams.iter().filter(|stream| stream.owner().is_some_and(is_gone));
        let lost: Vec<u32> = lost.map(|stream| stream.handle).collect();
        let (link, session, generation) = (found.link, found.id, found.generation);
        if let SessionLink::Attached { gate, conn } = link
            && is_gone(gate)
        {
            let (place, code) = ((gate, conn), CloseCode::Unavailable);
            self.detached(io, place, (session, account), generation, code);
        }
        for handle in lost {
            self.owner_away(io, account, handle);
        }
    }

    /// Sets all timers of a session that was not here.
    pub(super) fn set_timers(&mut self, now: Instant, account: AccountId) {
        let Some(session) = self.sessions.get_mut(&account) else { return };
        if let SessionLink::Waiting { until, .. } = session.link {
            self.timers.insert((until, account, 0));
        }
        for stream in &mut session.streams {
            // Its time has stood still.
            if let StreamState::Asked { until, .. } | StreamState::Pausing { until } =
                &mut stream.state
            {
                *until = (*until).max(now);
                self.timers.insert((*until, account, stream.handle));
            }
        }
        if session.is_rebuilding {
            self.timers.insert((session.rebuilt_by, account, u32::MAX));
        }
    }

    /// Whether a session is to go to another home, which alone judges when it has waited long enough: it may have come
    /// there by another way, and be connected.
    pub(super) fn is_on_its_way<O, P: Places + ?Sized>(
        &self,
        io: &Scope<'_, O, P>,
        account: AccountId,
    ) -> bool {
        io.places.home_of(account).is_some_and(|home| home != self.me)
    }

    /// A session without a connection waits a little longer.
    pub(super) fn wait_on(&mut self, now: Instant, account: AccountId) {
        let Some(session) = self.sessions.get_mut(&account) else { return };
        if let SessionLink::Waiting { until, .. } = &mut session.link {
            *until = now + SETTLE_WAIT;
            self.timers.insert((*until, account, 0));
        }
    }

    pub(super) fn unset_timers(&mut self, session: &Session) {
        let account = session.account;
        if let SessionLink::Waiting { until, .. } = session.link {
            self.timers.remove(&(until, account, 0));
        }
        for stream in &session.streams {
            self.timers.remove(&(stream.timer(), account, stream.handle));
        }
        for (until, handle) in &session.released {
            self.timers.remove(&(*until, account, *handle));
        }
        self.timers.remove(&(session.rebuilt_by, account, u32::MAX));
    }
}

/// Tells the owner of an open stream that its session's home is here.
pub(super) fn adopt(out: &mut impl Outlet, session: &Session, stream: &Stream) {
    if let StreamState::Bound { owner, slot } = stream.state {
        let (account, id, stream) = (session.account, session.id, stream.handle);
        let adopt = HomeFrame::Adopt { slot, session: id, account, stream };
        out.control(owner, &LinkFrame::Home(adopt));
    }
}

/// Whose session a frame is about, if it is about one.
fn account_of(frame: &LinkFrame<'_>) -> Option<AccountId> {
    match frame {
        LinkFrame::Open(admission) => Some(admission.account),
        LinkFrame::Tag(tag) => Some(tag.account),
        LinkFrame::Resume { account, .. }
        | LinkFrame::Detached { account, .. }
        | LinkFrame::Logout { account, .. }
        | LinkFrame::Bound { account, .. }
        | LinkFrame::NotBound { account, .. }
        | LinkFrame::Lost { account, .. }
        | LinkFrame::StreamMoved { account, .. }
        | LinkFrame::Rebind { account, .. }
        | LinkFrame::Release { account, .. }
        | LinkFrame::Kick { account, .. }
        | LinkFrame::Shift(Shift::Session { account, .. })
        | LinkFrame::Home(HomeFrame::Over { account, .. }) => Some(*account),
        LinkFrame::Home(HomeFrame::Leads(leads)) => Some(leads.account),
        _ => None,
    }
}

fn millis(until: Instant, now: Instant) -> u32 {
    u32::try_from(until.since(now).as_millis()).unwrap_or(u32::MAX)
}

fn packed<'a>(ticket: u64, session: &'a Session, now: Instant) -> HandOver<'a> {
    let (gate, conn, left_ms) = match session.link {
        SessionLink::Attached { gate, conn } => (gate, Some(conn), 0),
        SessionLink::Waiting { until, gate } => (gate, None, millis(until, now)),
    };
    let streams = session.streams.iter().map(|stream| HandedStream {
        stream: Named { stream: stream.handle, target: stream.target, name: &stream.name },
        required: stream.required,
        lasting: stream.lasting,
        is_doubtful: stream.is_doubtful,
        is_contested: stream.is_contested,
        may_be_told: stream.may_be_told,
        tries: stream.tries,
        state: match &stream.state {
            StreamState::Pausing { .. } | StreamState::Awaited => HandedState::Pausing,
            StreamState::Asked { owner, generation, resumed, .. } => {
                let Resumed { seen, groups } = resumed.as_deref().cloned().unwrap_or_default();
                HandedState::Asked { owner: *owner, generation: *generation, seen, groups }
            }
            StreamState::Bound { owner, slot } => HandedState::Bound { owner: *owner, slot: *slot },
        },
    });
    HandOver {
        ticket,
        session: session.id,
        account: session.account,
        level: session.level,
        generation: session.generation,
        since_ms: session.since_ms,
        next_stream: session.handles.next(),
        given: session.handles.given(),
        gate,
        conn,
        left_ms,
        logged_in: session.logged_in,
        tags: session.tags.iter().map(|tag| &**tag).collect(),
        streams: streams.collect(),
    }
}

fn unpacked(handed: &HandOver<'_>, now: Instant, options: &super::Options) -> Box<Session> {
    let streams = handed.streams.iter().map(|handed| Stream {
        handle: handed.stream.stream,
        name: handed.stream.name.into(),
        target: handed.stream.target,
        required: handed.required,
        lasting: handed.lasting,
        tries: handed.tries,
        is_doubtful: handed.is_doubtful,
        is_contested: handed.is_contested,
        may_be_told: handed.may_be_told,
        state: match &handed.state {
            HandedState::Pausing => StreamState::Pausing { until: now },
            HandedState::Asked { owner, generation, seen, groups } => StreamState::Asked {
                owner: *owner,
                until: now + options.bind_wait,
                generation: *generation,
                resumed: Some(Box::new(Resumed { seen: *seen, groups: groups.clone() })),
            },
            HandedState::Bound { owner, slot } => StreamState::Bound { owner: *owner, slot: *slot },
        },
    });
    let gate = handed.gate;
    Box::new(Session {
        id: handed.session,
        account: handed.account,
        level: handed.level,
        generation: handed.generation,
        since_ms: handed.since_ms,
        link: match handed.conn {
            Some(conn) => SessionLink::Attached { gate, conn },
            None => {
                let left = Duration::from_millis(u64::from(handed.left_ms));
                SessionLink::Waiting { until: now + left.min(options.resume_window), gate }
            }
        },
        handles: Handles::with_given(handed.next_stream, &handed.given),
        streams: streams.collect(),
        released: Vec::new(),
        logged_in: handed.logged_in,
        tags: handed.tags.iter().map(|tag| Box::from(*tag)).collect(),
        is_rebuilding: false,
        rebuilt_by: Instant::NEVER,
    })
}

/// How long is waited before what was lost on its way is handed over again.
const RETRY: Duration = Duration::from_millis(200);

/// How long is waited for the word that something was taken before it is sent again.
const RESEND: Duration = Duration::from_secs(2);

/// A session's id and how it ended, for those that come back too late.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub code: CloseCode,
    pub account: AccountId,
    /// The highest one of its connections that was known; 0 if that was not said.
    pub generation: u64,
}

impl Ended {
    /// Whether somebody wanted it to end. A session may also end because nobody came back to it, because a stream
    /// could not go on or because its home stops; a home that takes itself for the session's and is not may find so too.
    pub fn was_meant(&self) -> bool {
        !self.code.may_resume() && self.code != CloseCode::SessionLost
    }
}

impl Homes {
    /// How a session has ended of which somebody tells with this generation; `None` if it may go on: it has been
    /// resumed since it was given up somewhere.
    pub(super) fn is_over(&self, session: SessionId, generation: u64) -> Option<CloseCode> {
        let end = self.ended.get(&session)?;
        (end.was_meant() || generation <= end.generation).then_some(end.code)
    }
}
