//! Two sessions of one account, two tales of one session, or handles of two homes, that meet at one home.

use proto::AccountId;
use proto::frame::CloseCode;
use proto::link::LinkFrame;

use super::handles::Handles;
use super::home::{Session, SessionLink, Stream, StreamState};
use super::moves::{Ended, adopt};
use super::{Homes, Outlet, Places, Scope};

impl Homes {
    /// Of two sessions of one account, or two tales of one, the one that counts.
    pub(super) fn one_of<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        here: Box<Session>,
        handed: Box<Session>,
    ) -> Box<Session> {
        if here.id != handed.id {
            let (older, newer) =
                if here.since_ms <= handed.since_ms { (here, handed) } else { (handed, here) };
            if older.since_ms == 0 {
                // Only owners have told of it: whether it is the older one is not known before a gate tells.
                self.dismiss(io, &older, CloseCode::Unavailable, "", false);
                return newer;
            }
            self.stats.replaced += 1;
            let (account, generation) = (older.account, older.generation);
            let end = Ended { code: CloseCode::Replaced, account, generation };
            self.note_ended(io.now, older.id, end);
            let reason = "the account logged in elsewhere";
            self.dismiss(io, &older, CloseCode::Replaced, reason, false);
            return newer;
        }
        // What was put together from reports is not as good as what a home knew.
        let takes_handed = handed.generation > here.generation
            || handed.generation == here.generation
                && (here.is_rebuilding || handed.since_ms > here.since_ms);
        let (mut kept, other) = if takes_handed { (handed, here) } else { (here, handed) };
        // Each has given out handles of which the other does not know for what.
        kept.handles = Handles::from(kept.handles.next().max(other.handles.next()));
        if let SessionLink::Attached { gate, conn } = other.link
            && !matches!(kept.link, SessionLink::Attached { gate: g, conn: c } if (g, c) == (gate, conn))
        {
            let (code, reason) = if kept.generation > other.generation {
                (CloseCode::Replaced, "a newer connection has resumed this session")
            } else {
                (CloseCode::Unavailable, "the session's home has moved: resume")
            };
            io.out.control(gate, &LinkFrame::Close { conn, code, reason });
        }
        for stream in &other.streams {
            let StreamState::Bound { owner, slot } = stream.state else { continue };
            let is_it = |s: &Stream| matches!(s.state, StreamState::Bound { owner: o, slot: s } if (o, s) == (owner, slot));
            if !kept.streams.iter().any(is_it) {
                adopt(io.out, &other, stream);
                let code = CloseCode::Unavailable;
                io.out.control(owner, &LinkFrame::Unbind { slot, code });
            }
        }
        let overtaken =
            |s: &Stream| other.streams.iter().any(|o| o.name == s.name && o.handle > s.handle);
        for at in 0..kept.streams.len() {
            if overtaken(&kept.streams[at]) {
                open_anew(io, &mut kept, at);
            }
        }
        Self::tell_wanted(io.out, &kept, None);
        if kept.generation == other.generation && !kept.link.may_be(other.link) {
            part_contested(&mut kept, &other);
        }
        for stream in &mut kept.streams {
            stream.is_doubtful = true;
            // Where it was open once it is opened again as long as the session lives.
            let is_it = |s: &&Stream| s.name == stream.name && s.lasting;
            if other.streams.iter().any(|s| is_it(&s)) {
                (stream.lasting, stream.required) = (true, false);
            }
        }
        kept
    }

    /// A client that has handles of which this home knows nothing has them from another one, and may go by them where it
    /// had an older stream of that name: what has a lower handle here is opened anew, so that no name goes to a lower one.
    /// Gives what has ended for that.
    pub(super) fn open_above_foreign<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        account: AccountId,
        handles: impl Iterator<Item = u32>,
    ) -> Vec<u32> {
        let Some(session) = self.sessions.get(&account) else { return Vec::new() };
        let Some(foreign) = session.highest_foreign(handles) else { return Vec::new() };
        let lower = session.streams.iter().map(|stream| stream.handle);
        let lower: Vec<u32> = lower.filter(|handle| *handle < foreign).collect();
        let next = self.above(foreign);
        if let Some(session) = self.sessions.get_mut(&account) {
            session.handles.skip_to(next);
        }
        lower.iter().for_each(|handle| self.open_anew(io, account, *handle));
        lower
    }
}

/// A client goes by the newest handle that it has heard for a name: what had the name before is of no use to it.
fn open_anew<O: Outlet, P: Places + ?Sized>(
    io: &mut Scope<'_, O, P>,
    session: &mut Session,
    at: usize,
) {
    let (stream, code) = (&session.streams[at], CloseCode::Unavailable);
    adopt(io.out, session, stream);
    if let StreamState::Bound { owner, slot } = stream.state {
        io.out.control(owner, &LinkFrame::Unbind { slot, code });
    }
    if let SessionLink::Attached { gate, conn } = session.link {
        io.out.control(gate, &LinkFrame::Unroute { conn, stream: stream.handle, code });
    }
    let handle = session.take_handle();
    let stream = &mut session.streams[at];
    (stream.handle, stream.state) = (handle, StreamState::Pausing { until: io.now });
}

/// Two homes have admitted one login, and each has given out the same handles: which of the two the client goes by nobody
/// knows. If it is not the one that is kept it will resume, and show numbers that belong to other streams.
fn part_contested(kept: &mut Session, other: &Session) {
    for at in 0..kept.streams.len() {
        let state = &kept.streams[at].state;
        let place = |state: &StreamState| match state {
            &StreamState::Bound { owner, slot } => Some((owner, slot)),
            _ => None,
        };
        match place(state) {
            None => kept.streams[at].handle = kept.take_handle(),
            known if other.streams.iter().any(|s| place(&s.state) == known) => {}
            Some(_) => kept.streams[at].is_contested = true,
        }
    }
}
