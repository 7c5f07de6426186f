//! Live connections that go on at another gate: what their homes and the owners of their streams do.

use proto::link::{HomeFrame, LinkFrame, Shift, Slot, WorkerId};
use proto::{AccountId, SessionId};

use super::home::{SessionLink, StreamState};
use super::homes::Homes;
use super::ports::Entities;
use super::stream::Link;
use super::streams::Streams;
use super::{Outlet, Places, Scope};

/// A connection of a session: where it is, and how often the session was connected.
type Place = (WorkerId, Slot, u64);

impl Homes {
    /// A gate asks that a connection of its go on elsewhere. While a stream is being opened, its
    /// owner may not know of the other gate: not then.
    pub(super) fn shift<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        (from, conn, generation): Place,
        (session, account): (SessionId, AccountId),
        (gate, to): (WorkerId, Slot),
    ) {
        let found = self.sessions.get_mut(&account).filter(|found| found.id == session);
        let found = found.filter(|found| {
            let is_here = matches!(found.link, SessionLink::Attached { gate, conn: at } if gate == from && at == conn);
            let is_settled = |state: &StreamState| {
                matches!(state, StreamState::Bound { .. } | StreamState::Pausing { .. })
            };
            is_here
                && found.generation == generation
                && found.streams.iter().all(|stream| is_settled(&stream.state))
                && io.out.reaches(gate.node)
        });
        let Some(found) = found else {
            let refused = Shift::SessionDone { conn, streams: None };
            return io.out.control(from, &LinkFrame::Shift(refused));
        };
        found.link = SessionLink::Attached { gate, conn: to };
        let homed = HomeFrame::Homed { conn: to, session, account, generation };
        io.out.control(gate, &LinkFrame::Home(homed));
        Self::tell_wanted(io.out, found, None);
        let is_open = |state: &StreamState| matches!(state, StreamState::Bound { .. });
        let open = found.streams.iter().filter(|stream| is_open(&stream.state));
        let streams = Some(open.map(|stream| stream.handle).collect());
        io.out.control(from, &LinkFrame::Shift(Shift::SessionDone { conn, streams }));
    }
}

impl<E: Entities> Streams<E> {
    /// Handles `Shift::Stream`; others are ignored. All that the client sent by the former gate came
    /// before, and all that it is sent by that gate goes before the answer. While frames of it may
    /// come by another way, as when its entity moves, it is not done.
    pub fn shift<O: Outlet>(&mut self, out: &mut O, from: WorkerId, frame: &Shift) {
        let &Shift::Stream { slot: route, conn, stream: handle, gate, to } = frame else { return };
        let entry = self.table.get_mut(route.index as usize);
        let stream = entry.and_then(|entry| entry.stream.as_deref_mut());
        let stream = stream.filter(|stream| {
            stream.route == route.generation
                && stream.link == Link::Attached { gate: from, conn }
                && stream.info.handle == handle
                && !stream.frozen
                && !stream.settling.waits()
                && out.reaches(gate.node)
        });
        let done = stream.is_some();
        let answer = Shift::StreamDone { conn, stream: handle, done };
        out.control(from, &LinkFrame::Shift(answer));
        let Some(stream) = stream else { return };
        stream.link = Link::Attached { gate, conn: to };
        let index = stream.info.slot.index;
        let route = self.table[index as usize].next_route();
        let stream = self.table[index as usize].stream.as_deref_mut().expect("it was found");
        stream.route = route;
        stream.lead(out, false);
        self.groups.shift(out, (index, handle), (gate, to));
    }
}
