//! Homes that look whether others stand where they believe them to stand.
//!
//! Gates, homes and owners tell each other of each change once. Where links break, homes are lost and lists of
//! nodes differ, all at the same time, such a word may be lost with nobody left who would say it again. So a
//! home goes through its sessions, and who stands elsewhere says so.

use std::ops::Bound::{Excluded, Unbounded};
use std::time::Duration;

use env::Instant;
use proto::AccountId;
use proto::frame::CloseCode;
use proto::link::{Check, HomeFrame, Leads, LinkFrame, Slot, WorkerId};

use super::home::{Session, SessionLink, StreamState};
use super::orphans::cut_off;
use super::ports::Entities;
use super::streams::find_mut;
use super::{Homes, Outlet, Places, Scope, Streams};

/// How often some of the sessions are looked at, at most.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// Which sessions of a home are looked at next, and when.
#[derive(Debug, Default)]
pub(super) struct Audit {
    at: Instant,
    after: Option<AccountId>,
}

impl Homes {
    /// When [`audit`](Self::audit) has something to do. A mutant is to be noticed, not made good.
    pub(super) fn audit_timeout(&self) -> Option<Instant> {
        let is_on = !self.sessions.is_empty() && self.options.mutant.is_none();
        is_on.then_some(self.audit.at)
    }

    /// Asks after the connection and the streams of each session twice in a resume window.
    pub(super) fn audit<O: Outlet, P: Places + ?Sized>(&mut self, io: &mut Scope<'_, O, P>) {
        if self.audit_timeout().is_none_or(|at| at > io.now) {
            return;
        }
        let is_first = self.audit.at == Instant::ZERO;
        let (len, span) = (self.sessions.len() as u32, self.options.resume_window / 2);
        let pause = (span / len).max(CHECK_EVERY);
        self.audit.at = io.now + pause;
        if is_first {
            return;
        }
        let share = (u128::from(len) * pause.as_nanos()).div_ceil(span.as_nanos().max(1));
        for _ in 0..share.min(u128::from(len)) {
            let from = self.audit.after.map_or(Unbounded, Excluded);
            let next = self.sessions.range((from, Unbounded)).next();
            let Some((&account, session)) = next.or_else(|| self.sessions.iter().next()) else {
                return;
            };
            self.audit.after = Some(account);
            if !session.is_rebuilding && io.places.home_of(account) == Some(self.me) {
                session.check(io.out);
                self.let_go_of_gone(io, account);
            }
        }
    }
}

impl Session {
    /// Tells its gate and the owners of its streams how they should stand.
    fn check(&self, out: &mut impl Outlet) {
        let (session, account, generation) = (self.id, self.account, self.generation);
        let is_attached = self.is_attached();
        let check = |slot, stream| {
            let check = Check { slot, session, account, stream, generation, is_attached };
            LinkFrame::Home(HomeFrame::Check(check))
        };
        if let SessionLink::Attached { gate, conn } = self.link {
            out.control(gate, &check(conn, 0));
        }
        for stream in &self.streams {
            let StreamState::Bound { owner, slot } = stream.state else { continue };
            out.control(owner, &check(slot, stream.handle));
            if let SessionLink::Attached { gate, conn } = self.link {
                out.control(gate, &check(conn, stream.handle));
            }
        }
    }
}

impl Homes {
    /// A gate tells of a connection that it has, and whose session should be at home here.
    pub(super) fn led<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        gate: WorkerId,
        leads: &Leads,
    ) {
        if self.options.mutant.is_some() {
            return;
        }
        let &Leads { conn, session, account, ref streams, .. } = leads;
        let close = |io: &mut Scope<'_, O, P>, code, reason| {
            io.out.control(gate, &LinkFrame::Close { conn, code, reason });
        };
        if self.current(account, session).is_none()
            && let Some(end) = self.ended.get(&session)
        {
            return close(io, end.code, "the session has ended");
        }
        let stands = match self.sessions.get(&account) {
            Some(known) if known.id == session => {
                let is_it = |g, c| (g, c) == (gate, conn);
                known.is_rebuilding
                    || matches!(known.link, SessionLink::Attached { gate, conn } if is_it(gate, conn))
            }
            Some(_) => false,
            // It may be on its way, or with somebody who takes himself for the home.
            None => {
                self.moves.is_unsettled()
                    || self.moves.may_come(io.now)
                    || io.places.home_of(account) != Some(self.me)
            }
        };
        if !stands {
            return close(io, CloseCode::Unavailable, "the session's home has moved: resume");
        }
        self.end_unknown(io, (gate, conn), account, streams.iter().copied());
        if self.current(account, session).is_some_and(|known| !known.is_rebuilding) {
            self.open_above_foreign(io, account, streams.iter().copied());
        }
    }

    /// A gate has streams of a session that this home does not know: the word that they have ended was lost, with a
    /// home that said so perhaps. What was replaced just now ends by itself.
    pub(super) fn end_unknown<O: Outlet, P: Places + ?Sized>(
        &self,
        io: &mut Scope<'_, O, P>,
        (gate, conn): (WorkerId, Slot),
        account: AccountId,
        streams: impl Iterator<Item = u32>,
    ) {
        let Some(known) = self.sessions.get(&account).filter(|known| !known.is_rebuilding) else {
            return;
        };
        for stream in streams.filter(|stream| !known.knows(*stream)) {
            let code = CloseCode::Unavailable;
            io.out.control(gate, &LinkFrame::Unroute { conn, stream, code });
        }
    }
}

impl<E: Entities> Streams<E> {
    /// The home of a stream's session says how it should stand.
    pub(super) fn checked<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        entities: &mut E,
        home: WorkerId,
        check: &Check,
    ) {
        let out = &mut *io.out;
        let &Check { slot, session, account, stream: handle, generation, is_attached } = check;
        let found = find_mut(&mut self.table, slot)
            .filter(|stream| stream.info.session == session && stream.info.handle == handle);
        let Some(stream) = found else {
            let code = CloseCode::Unavailable;
            out.control(home, &LinkFrame::Lost { session, account, stream: handle, code });
            return;
        };
        if stream.home != home {
            if io.places.home_of(account) != Some(home) {
                return;
            }
            // It was not heard that the session has moved there.
            self.adopt(out, home, slot, (session, account, handle));
        }
        let stream = find_mut(&mut self.table, slot).expect("it was found");
        if generation < stream.generation {
            return;
        }
        let stands = stream.is_attached() && generation == stream.generation;
        if is_attached && !stands {
            // It never heard of that connection, or has given it up, and its gate was not told.
            cut_off(out, home, (session, account));
        } else if !is_attached && stream.is_attached() {
            stream.generation = generation;
            stream.go_away();
            entities.offline(stream.seat, &stream.peer, CloseCode::Unavailable, false);
            self.groups.away(slot.index);
        }
    }

    /// The slot that a home means with a frame about one stream.
    pub(super) fn slot_meant(frame: &LinkFrame<'_>) -> Option<Slot> {
        match frame {
            LinkFrame::Attach { slot, .. }
            | LinkFrame::Detach { slot, .. }
            | LinkFrame::Unbind { slot, .. }
            | LinkFrame::Home(
                HomeFrame::Unlisted { slot }
                | HomeFrame::Adopt { slot, .. }
                | HomeFrame::Check(Check { slot, .. }),
            ) => Some(*slot),
            LinkFrame::Forward(forward) => Some(forward.slot),
            _ => None,
        }
    }
}
