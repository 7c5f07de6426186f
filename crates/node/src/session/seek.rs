//! Homes that ask others for a session before they say that it is not known.
//!
//! Which worker is the home of an account follows from lists of nodes. Those may differ for a while, and a home that
//! had a session by another list may not have been able to hand it over, or not have heard that it should: nothing
//! that a home knows by itself says that there is no such session.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use env::Instant;
use proto::link::{HomeFrame, LinkFrame, WorkerId};
use proto::{AccountId, Incarnation, SessionId};

use super::moves::Ended;
use super::{Homes, Outlet, Places, Scope};

/// How long is waited for answers; always the same, so that those that are sought stand in order.
const SEEK_WAIT: Duration = Duration::from_secs(1);

/// Sessions that are sought at once.
const SEEKS_MAX: usize = 4_096;

/// Resumes that wait for one of them.
const RESUMES_MAX: usize = 8;

/// The sessions that this worker asks others for.
#[derive(Debug, Default)]
pub(super) struct Seeks {
    open: BTreeMap<SessionId, Seek>,
    order: VecDeque<(Instant, SessionId)>,
    /// Nobody has this one, as was just found out; and whether all have said so.
    result: Option<(SessionId, bool)>,
}

#[derive(Debug)]
struct Seek {
    /// When those who have not answered are not waited for any more.
    until: Instant,
    asked: BTreeSet<WorkerId>,
    /// Nobody could not be asked, or has gone since.
    is_heard: bool,
    resumes: Vec<(WorkerId, Vec<u8>)>,
}

/// What is known of a session that is not here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Elsewhere {
    /// Others are asked; the resume waits.
    Asked,
    /// Nobody has it.
    Nowhere,
    /// Nobody who has answered has it.
    Unheard,
}

impl Seeks {
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.order.front().map(|(at, _)| *at)
    }
}

impl Homes {
    /// Asks for the session of a resume, which is not here, unless that was just done.
    pub(super) fn seek<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        (gate, resume): (WorkerId, &LinkFrame<'_>),
        (session, account): (SessionId, AccountId),
    ) -> Elsewhere {
        let is_over = self.ended.get(&session).is_some_and(Ended::was_meant);
        if is_over || self.options.mutant.is_some() {
            return Elsewhere::Nowhere;
        }
        if let Some((_, is_heard)) = self.seeks.result.filter(|(known, _)| *known == session) {
            return if is_heard { Elsewhere::Nowhere } else { Elsewhere::Unheard };
        }
        let mut payload = Vec::new();
        resume.encode(self.me.worker, &mut payload);
        if let Some(open) = self.seeks.open.get_mut(&session) {
            if open.resumes.len() >= RESUMES_MAX {
                return Elsewhere::Unheard;
            }
            open.resumes.push((gate, payload));
            return Elsewhere::Asked;
        }
        if self.seeks.open.len() >= SEEKS_MAX {
            return Elsewhere::Unheard;
        }
        let others = io.places.former_homes().into_iter().filter(|other| *other != self.me);
        let (asked, unreached): (BTreeSet<_>, BTreeSet<_>) =
            others.partition(|other| io.out.reaches(other.node));
        let is_heard = unreached.is_empty();
        if asked.is_empty() {
            return if is_heard { Elsewhere::Nowhere } else { Elsewhere::Unheard };
        }
        for other in &asked {
            io.out.control(*other, &LinkFrame::Home(HomeFrame::Seek { session, account }));
        }
        let until = io.now + SEEK_WAIT;
        let resumes = vec![(gate, payload)];
        self.seeks.open.insert(session, Seek { until, asked, is_heard, resumes });
        self.seeks.order.push_back((until, session));
        Elsewhere::Asked
    }

    /// Another home asks for a session. One that may come here yet, or that has left for somewhere else, is not
    /// spoken of: whoever asks will do it again.
    pub(super) fn handle_seek<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        from: WorkerId,
        (session, account): (SessionId, AccountId),
    ) {
        let is_here = self.current(account, session).is_some();
        if let Some(end) = self.ended.get(&session).filter(|_| !is_here) {
            let over = HomeFrame::Over { session, account, code: end.code };
            io.out.control(from, &LinkFrame::Home(over));
        } else if !is_here && (self.moves.is_unsettled() || self.moves.is_leaving(account)) {
            return;
        }
        let sought = HomeFrame::Sought { session, account, is_here };
        io.out.control(from, &LinkFrame::Home(sought));
    }

    pub(super) fn handle_sought<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        from: WorkerId,
        session: SessionId,
        is_here: bool,
    ) {
        let Some(seek) = self.seeks.open.get_mut(&session) else { return };
        if !seek.asked.remove(&from) {
            return;
        }
        if is_here {
            let seek = self.seeks.open.remove(&session).expect("just seen");
            for (gate, payload) in seek.resumes {
                let (_, resume) = LinkFrame::decode(&payload).expect("it was written here");
                self.pass(io, gate, from, &resume);
            }
        } else if seek.asked.is_empty() {
            self.not_found(io, session);
        }
    }

    pub(super) fn seeks_peer_down<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        node: Incarnation,
    ) {
        let mut done = Vec::new();
        for (session, seek) in &mut self.seeks.open {
            let before = seek.asked.len();
            seek.asked.retain(|other| other.node != node);
            seek.is_heard &= seek.asked.len() == before;
            if seek.asked.is_empty() {
                done.push(*session);
            }
        }
        done.into_iter().for_each(|session| self.not_found(io, session));
    }

    pub(super) fn seeks_timeout<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
    ) {
        while let Some(&(at, session)) = self.seeks.order.front()
            && at <= io.now
        {
            self.seeks.order.pop_front();
            // It may be another that was begun since.
            if let Some(seek) = self.seeks.open.get_mut(&session).filter(|seek| seek.until <= at) {
                seek.is_heard = false;
                self.not_found(io, session);
            }
        }
    }

    /// Nobody has said to have a session: its resumes are judged here, if it has not come meanwhile.
    fn not_found<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        session: SessionId,
    ) {
        let Some(seek) = self.seeks.open.remove(&session) else { return };
        self.seeks.result = Some((session, seek.is_heard));
        for (gate, payload) in seek.resumes {
            let (_, resume) = LinkFrame::decode(&payload).expect("it was written here");
            self.handle_link(io, gate, &resume);
        }
        self.seeks.result = None;
    }
}
