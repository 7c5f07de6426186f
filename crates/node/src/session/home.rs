use std::rc::Rc;

use env::Instant;
use proto::frame::{CloseCode, Seen, SeenGroup};
use proto::link::{HomeFrame, LinkFrame, Slot, WorkerId};
use proto::{AccountId, EntityId, SessionId};

use super::handles::Handles;
use super::login::SessionInfo;
use super::rebuild::HANDLES_MAX;
use super::{Options, Outlet, seen_of};

#[derive(Debug)]
pub(super) struct Session {
    pub id: SessionId,
    pub account: AccountId,
    pub level: u8,
    /// Highest generation that was admitted.
    pub generation: u64,
    /// When it began, by the wall clock of its first home.
    pub since_ms: u64,
    pub link: SessionLink,
    pub handles: Handles,
    pub streams: Vec<Stream>,
    /// Streams that others took the place of, and when their client is told once more.
    pub released: Vec<(Instant, u32)>,
    /// Whether the game has logged it in, which is more than having shown a ticket.
    pub logged_in: bool,
    /// What the game calls it, in order.
    pub tags: Box<[Box<str>]>,
    /// It is put together from what gates and owners say of it.
    pub is_rebuilding: bool,
    /// When it goes on with what is known then.
    pub rebuilt_by: Instant,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum SessionLink {
    Attached {
        gate: WorkerId,
        conn: Slot,
    },
    /// `gate`: where it was connected last, if that is known.
    Waiting {
        until: Instant,
        gate: WorkerId,
    },
}

impl SessionLink {
    /// Whether both may be about one connection; who waits does not know which he had.
    pub fn may_be(self, other: SessionLink) -> bool {
        let place = |link| match link {
            SessionLink::Attached { gate, conn } => (gate, Some(conn)),
            SessionLink::Waiting { gate, .. } => (gate, None),
        };
        let ((gate, conn), (other_gate, other_conn)) = (place(self), place(other));
        let is_one = conn.zip(other_conn).is_none_or(|(one, other)| one == other);
        gate == other_gate && is_one
    }
}

#[derive(Debug)]
pub(super) struct Stream {
    pub handle: u32,
    pub name: Rc<str>,
    pub target: EntityId,
    /// The session cannot begin without it.
    pub required: bool,
    /// It was open once: to be opened again as long as the session lives.
    pub lasting: bool,
    pub tries: u32,
    /// Two homes had tales of its session: its client may have been told by one of them that it has ended.
    pub is_doubtful: bool,
    /// Its client may have another stream under this handle, from a second home that let it in.
    pub is_contested: bool,
    /// Its owner was lost, or it was overtaken, while it was asked for, under this handle or an earlier one: its client
    /// may have heard of it.
    pub may_be_told: bool,
    pub state: StreamState,
}

#[derive(Debug)]
pub(super) enum StreamState {
    /// To be asked for again at this time.
    Pausing {
        until: Instant,
    },
    /// Asked for with the session's `generation` of then.
    Asked {
        owner: WorkerId,
        until: Instant,
        generation: u64,
        resumed: Option<Box<Resumed>>,
    },
    Bound {
        owner: WorkerId,
        slot: Slot,
    },
    /// It was open when its home was lost: its owner is to say whether it still has it.
    Awaited,
}

/// What a client that resumed has of a stream that is being asked for: its last frame, and the last one
/// of each group.
#[derive(Clone, Debug, Default)]
pub(super) struct Resumed {
    pub seen: u64,
    pub groups: Vec<Seen>,
}

impl Session {
    pub fn info(&self) -> SessionInfo {
        SessionInfo {
            session: self.id,
            account: self.account,
            level: self.level,
            generation: self.generation,
            gate: match self.link {
                SessionLink::Attached { gate, .. } => Some(gate),
                SessionLink::Waiting { .. } => None,
            },
            streams: self.streams.iter().map(|s| (s.name.to_string(), s.target)).collect(),
            logged_in: self.logged_in,
            tags: self.tags.iter().map(ToString::to_string).collect(),
        }
    }

    /// Where pushes go that are for the session as such: its oldest open stream.
    pub fn first_stream(&self) -> Option<(WorkerId, Slot)> {
        self.streams.iter().find_map(|stream| match stream.state {
            StreamState::Bound { owner, slot } => Some((owner, slot)),
            _ => None,
        })
    }

    pub fn is_attached(&self) -> bool {
        matches!(self.link, SessionLink::Attached { .. })
    }

    /// Whether it is on a connection and was not put together from owners' tales alone.
    pub fn is_playing(&self) -> bool {
        self.is_attached() && self.since_ms > 0
    }

    pub fn is_asked(&self, handle: u32, of: WorkerId) -> bool {
        self.streams.iter().any(|stream| {
            stream.handle == handle
                && matches!(stream.state, StreamState::Asked { owner, .. } if owner == of)
        })
    }

    pub fn is_open(&self, handle: u32) -> bool {
        let is_it = |stream: &&Stream| stream.handle == handle;
        let found = self.streams.iter().find(is_it);
        found.is_some_and(|stream| matches!(stream.state, StreamState::Bound { .. }))
    }

    /// Whether a stream is one of its own, or was a moment ago.
    pub fn knows(&self, handle: u32) -> bool {
        self.has(handle) || self.released.iter().any(|(_, released)| *released == handle)
    }

    pub fn take_handle(&mut self) -> u32 {
        self.handles.take()
    }

    /// The highest of the handles that a client has which another home has given out: this one does not know for which
    /// name.
    pub fn highest_foreign(&self, handles: impl Iterator<Item = u32>) -> Option<u32> {
        let foreign = handles.filter(|handle| !self.knows(*handle) && !self.handles.gave(*handle));
        foreign.filter(|handle| *handle < HANDLES_MAX).max()
    }

    fn has(&self, handle: u32) -> bool {
        self.streams.iter().any(|stream| stream.handle == handle)
    }

    pub fn add_stream(&mut self, name: &str, target: EntityId) -> &mut Stream {
        let handle = self.take_handle();
        self.streams.push(Stream {
            handle,
            name: name.into(),
            target,
            required: false,
            lasting: false,
            tries: 0,
            is_doubtful: false,
            is_contested: false,
            may_be_told: false,
            state: StreamState::Pausing { until: Instant::ZERO },
        });
        self.streams.last_mut().expect("just pushed")
    }

    pub fn welcome(&self, out: &mut impl Outlet, options: &Options, resumed: bool) {
        let SessionLink::Attached { gate, conn } = self.link else {
            unreachable!("a session is welcomed at its connection");
        };
        let window_ms = options.resume_window.as_millis();
        let frame = LinkFrame::Welcome {
            conn,
            session: self.id,
            account: self.account,
            generation: self.generation,
            resumed,
            resume_window_ms: u32::try_from(window_ms).unwrap_or(u32::MAX),
        };
        out.control(gate, &frame);
    }

    /// Attaches all streams to the connection that resumed, and has the client told of those that
    /// are no more. Gives those that have to be opened anew, because the client has been told that they have ended.
    pub fn attach_streams(
        &mut self,
        out: &mut impl Outlet,
        (gate, conn): (WorkerId, Slot),
        streams: &[Seen],
        listed_groups: &[SeenGroup],
    ) -> Vec<u32> {
        let generation = self.generation;
        for item in streams {
            if !self.has(item.handle) {
                let code = CloseCode::Unavailable;
                out.control(gate, &LinkFrame::Unroute { conn, stream: item.handle, code });
            }
        }
        let mut ended = Vec::new();
        for stream in &mut self.streams {
            let is_listed = streams.iter().any(|item| item.handle == stream.handle);
            stream.is_doubtful &= !is_listed;
            let number = seen_of(streams, stream.handle);
            let by_it = listed_groups.iter().filter(|item| item.stream == stream.handle);
            let listed = by_it.map(|item| Seen { handle: item.group, number: item.number });
            match &mut stream.state {
                StreamState::Bound { .. } if stream.is_doubtful || stream.is_contested => {
                    ended.push(stream.handle);
                }
                &mut StreamState::Bound { owner, slot } => {
                    let groups = listed.collect();
                    let seen = number;
                    if !is_listed {
                        out.control(owner, &LinkFrame::Home(HomeFrame::Unlisted { slot }));
                    }
                    let frame = LinkFrame::Attach { slot, gate, conn, generation, seen, groups };
                    out.control(owner, &frame);
                }
                StreamState::Asked { resumed, .. } => {
                    let groups = listed.collect();
                    *resumed = Some(Box::new(Resumed { seen: number, groups }));
                }
                StreamState::Pausing { .. } | StreamState::Awaited => {}
            }
        }
        ended
    }
}

impl Stream {
    pub fn owner(&self) -> Option<WorkerId> {
        match self.state {
            StreamState::Pausing { .. } | StreamState::Awaited => None,
            StreamState::Asked { owner, .. } | StreamState::Bound { owner, .. } => Some(owner),
        }
    }

    /// When its timer goes off, if it has one.
    pub fn timer(&self) -> Instant {
        match self.state {
            StreamState::Pausing { until } | StreamState::Asked { until, .. } => until,
            StreamState::Bound { .. } | StreamState::Awaited => Instant::NEVER,
        }
    }
}
