use std::collections::VecDeque;

use env::Instant;
use proto::MethodId;
use proto::frame::{DownFrame, Status, head};
use proto::link::{LinkFrame, NumberedDown, Slot, WorkerId, put_down, put_numbered_down};
use proto::stream::{Inbound, Limits};
use proto::{EntityId, put_varint};

use super::kept::Kept;
use super::moving::Settling;
use super::{Mutant, Options, Outlet, PeerInfo};

/// Connections in a row that are closed for slowness, without a single acknowledgement between
/// them, before the session is given up.
const STALLS_MAX: u32 = 4;

/// Bytes that a kept frame counts beside its body.
const KEPT_OVERHEAD: usize = 16;

/// One stream at its owner: both numberings, and what its client must not miss.
#[derive(Debug)]
pub(super) struct Stream<T, P> {
    pub info: PeerInfo,
    /// The client as the entity knows it.
    pub peer: P,
    /// The entity as its host knows it.
    pub seat: T,
    pub home: WorkerId,
    /// What its entity last told the home of the session: whether it is logged in, and as what.
    pub tags: Option<Box<(bool, Vec<Box<str>>)>>,
    pub target: EntityId,
    pub epoch: u64,
    pub generation: u64,
    /// Names the stream to the gate of its present connection. Every connection gets another
    /// name, so that late frames of an earlier one are told from those of this one, even when
    /// both came through one gate.
    pub route: u32,
    pub link: Link,
    pub inbound: Inbound,
    /// Requests that wait for their answer, oldest first.
    pub open: VecDeque<u64>,
    pub next_call: u64,
    /// A timer runs that will look whether an acknowledgement is owed.
    pub ack_armed: bool,
    /// It is in the list of streams to be acknowledged at the end of the turn.
    pub ack_due: bool,
    /// Its entity is about to move: frames for it wait.
    pub frozen: bool,
    pub settling: Settling,
    pub kept: Kept,
    /// Apart, for most streams never have any of it.
    rare: Option<Box<Rare>>,
}

/// What few streams have.
#[derive(Debug, Default)]
pub(super) struct Rare {
    /// Calls to the client that wait for its answer, oldest first.
    pub calls: Vec<OpenCall>,
    /// What its client, who is away, is told when it is back.
    pub latest: Vec<Latest>,
    /// The last frame before the last gap.
    pub gap_after: Option<u64>,
    /// How often in a row its client was found too slow without having acknowledged anything in
    /// between, and the last frame that it had acknowledged then.
    pub stalls: (u32, u64),
}

impl Rare {
    const NONE: &Rare =
        &Rare { calls: Vec::new(), latest: Vec::new(), gap_after: None, stalls: (0, 0) };

    /// Whether there is none of it.
    pub fn is_none(&self) -> bool {
        let is_calm = self.gap_after.is_none() && self.stalls.0 == 0;
        is_calm && self.calls.is_empty() && self.latest.is_empty()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    Attached {
        gate: WorkerId,
        conn: Slot,
    },
    /// Nobody is connected; so much was kept when that began.
    Away {
        frames: usize,
        bytes: usize,
    },
}

#[derive(Clone, Copy, Debug)]
pub(super) struct OpenCall {
    pub id: u64,
    /// What the caller knows the call by.
    pub tag: u64,
    pub until: Instant,
}

/// The newest value of something while its client is away.
#[derive(Debug)]
pub(super) struct Latest {
    pub key: u64,
    pub method: MethodId,
    pub body: Box<[u8]>,
}

/// What became of a frame for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// It is on its way, or kept for the next connection.
    Yes,
    /// It is kept, but the client reads too slowly: its connection is to be closed.
    TooSlow,
    /// It was not taken: too much is kept for a client that is away.
    Overflow,
}

impl<T, P> Stream<T, P> {
    pub fn new(
        info: PeerInfo,
        (seat, peer): (T, P),
        home: WorkerId,
        target: EntityId,
        epoch: u64,
    ) -> Self {
        Stream {
            info,
            peer,
            seat,
            home,
            tags: None,
            target,
            epoch,
            generation: 0,
            route: 0,
            link: Link::Away { frames: 0, bytes: 0 },
            inbound: Inbound::default(),
            open: VecDeque::new(),
            next_call: 1,
            ack_armed: false,
            ack_due: false,
            frozen: false,
            settling: Settling::default(),
            kept: Kept::default(),
            rare: None,
        }
    }

    /// What few streams have.
    pub fn rare(&self) -> &Rare {
        self.rare.as_deref().unwrap_or(Rare::NONE)
    }

    /// The same, to be changed.
    pub fn rare_mut(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    #[inline]
    pub fn is_attached(&self) -> bool {
        matches!(self.link, Link::Attached { .. })
    }

    pub fn gate(&self) -> Option<WorkerId> {
        match self.link {
            Link::Attached { gate, .. } => Some(gate),
            Link::Away { .. } => None,
        }
    }

    /// How many frames the client has not acknowledged.
    pub fn unacked(&self) -> usize {
        self.kept.len()
    }

    /// Whether the client has said or acknowledged anything on it.
    pub fn was_used(&self) -> bool {
        self.inbound.applied() > 0 || self.kept.acked() > 0
    }

    /// Notes that the client is too slow. `false` if it has made no progress for so many
    /// connections that sending everything once more would be of no use.
    #[must_use]
    pub fn may_catch_up(&mut self) -> bool {
        let acked = self.kept.acked();
        let (times, before) = self.rare().stalls;
        let times = if before == acked { times + 1 } else { 1 };
        self.rare_mut().stalls = (times, acked);
        times < STALLS_MAX
    }

    /// From now on nobody is connected. What came ahead of other frames is void with the connection: the
    /// client sends it again by the next one.
    pub fn go_away(&mut self) {
        if self.is_attached() {
            self.settling = Settling::default();
            self.link =
                Link::Away { frames: self.kept.len(), bytes: self.kept.bytes(KEPT_OVERHEAD) };
        }
    }

    /// Takes the client's acknowledgement; `false` if it is of a frame that was never sent.
    #[must_use]
    pub fn acknowledge(&mut self, number: u64) -> bool {
        self.kept.acknowledge(number)
    }

    /// Sends the client a reply and keeps it for a repeated request.
    pub fn reply(
        &mut self,
        out: &mut impl Outlet,
        options: &Options,
        request: u64,
        status: Status,
        body: &[u8],
    ) -> Sent {
        self.send_numbered(out, options, head::REPLY, |tail| {
            put_varint(tail, request);
            put_varint(tail, status as u64);
            tail.extend_from_slice(body);
        })
    }

    /// Sends the first answer of `request` once more, or that it is not kept any more, which gives
    /// `false`; nothing while the first run still goes on, which gives `None`.
    pub fn repeat_answer(
        &mut self,
        out: &mut impl Outlet,
        options: &Options,
        request: u64,
    ) -> Option<bool> {
        if self.open.contains(&request) {
            return None;
        }
        let forgotten = options.mutant == Some(Mutant::AnswersForgotten);
        let ack = self.inbound.tell();
        if let Some(tail) = self.kept.answer(request).filter(|_| !forgotten) {
            self.put(out, (0, ack), head::REPLY, |bytes| bytes.extend_from_slice(tail));
            Some(true)
        } else {
            let (stream, status) = (self.info.handle, Status::Repeated);
            self.send(
                out,
                &DownFrame::Reply { stream, number: 0, ack, request, status, body: &[] },
            );
            Some(false)
        }
    }

    /// Sends a numbered push.
    pub fn push(
        &mut self,
        out: &mut impl Outlet,
        options: &Options,
        method: MethodId,
        body: &[u8],
    ) -> Sent {
        self.send_numbered(out, options, head::PUSH, |tail| {
            tail.extend_from_slice(&method.0.to_le_bytes());
            tail.extend_from_slice(body);
        })
    }

    /// Sends a call that the client is to answer.
    pub fn call(
        &mut self,
        out: &mut impl Outlet,
        options: &Options,
        (id, deadline_ms): (u64, u32),
        method: MethodId,
        body: &[u8],
    ) -> Sent {
        self.send_numbered(out, options, head::CALL, |tail| {
            put_varint(tail, id);
            put_varint(tail, u64::from(deadline_ms));
            tail.extend_from_slice(&method.0.to_le_bytes());
            tail.extend_from_slice(body);
        })
    }

    /// Sends an unnumbered push; `false` if nobody is connected or the way is full.
    pub fn push_live(&mut self, out: &mut impl Outlet, method: MethodId, body: &[u8]) -> bool {
        let (stream, ack) = (self.info.handle, self.inbound.tell());
        self.send(out, &DownFrame::Push { stream, number: 0, ack, method, body })
    }

    /// Keeps the newest value of `key` until the client is back; `false` if there are too many.
    pub fn keep_latest(
        &mut self,
        options: &Options,
        key: u64,
        method: MethodId,
        body: &[u8],
    ) -> bool {
        let latest = &mut self.rare_mut().latest;
        if let Some(kept) = latest.iter_mut().find(|l| l.key == key && l.method == method) {
            kept.body = body.into();
            return true;
        }
        if latest.len() >= options.held_latest_max {
            return false;
        }
        latest.push(Latest { key, method, body: body.into() });
        true
    }

    /// Sends the acknowledgement of everything handled.
    pub fn send_ack(&mut self, out: &mut impl Outlet) {
        if !self.is_attached() {
            return;
        }
        let applied = self.inbound.tell();
        self.send(out, &DownFrame::Ack { stream: self.info.handle, applied, durable: applied });
    }

    /// Names itself to the gate of its connection, and to the client.
    pub fn announce(&self, out: &mut impl Outlet) {
        self.lead(out, true);
    }

    /// Names itself to the gate of its connection; `announce`: the client hears of it.
    pub fn lead(&self, out: &mut impl Outlet, announce: bool) {
        if let Link::Attached { gate, conn } = self.link {
            let frame = LinkFrame::Route {
                conn,
                stream: self.info.handle,
                owner: self.info.owner,
                slot: Slot { index: self.info.slot.index, generation: self.route },
                kind: self.target.kind,
                epoch: self.epoch,
                name: &self.info.stream,
                announce,
            };
            out.control(gate, &frame);
        }
    }

    /// Brings a client that has just come back up to date: what was handled, then all that it
    /// has not acknowledged. `false` if the way is full.
    pub fn catch_up(&mut self, out: &mut impl Outlet, options: &Options) -> bool {
        let applied = self.inbound.tell();
        let (stream, epoch) = (self.info.handle, self.epoch);
        let resumed = DownFrame::Resumed { stream, epoch, applied, durable: applied };
        if !self.send(out, &resumed) {
            return false;
        }
        if options.mutant == Some(Mutant::NothingReplayed) {
            return true;
        }
        for (number, head, tail) in self.kept.frames() {
            if !self.put(out, (number, applied), head, |bytes| bytes.extend_from_slice(tail)) {
                return false;
            }
        }
        let latest = self.rare.as_mut().map(|rare| std::mem::take(&mut rare.latest));
        for latest in latest.into_iter().flatten() {
            self.push_live(out, latest.method, &latest.body);
        }
        true
    }

    /// Keeps and sends a frame whose tail `write` produces: twice, for reading back what was just
    /// written takes longer.
    fn send_numbered(
        &mut self,
        out: &mut impl Outlet,
        options: &Options,
        head: u8,
        write: impl Fn(&mut Vec<u8>),
    ) -> Sent {
        let draft = self.kept.draft(head, &write);
        if let Link::Away { frames: held_from, bytes: bytes_from } = self.link {
            let frames = self.kept.len() - held_from;
            let held = self.kept.bytes_before(draft, KEPT_OVERHEAD) - bytes_from;
            let bytes = self.kept.tail_len(draft) + KEPT_OVERHEAD;
            if frames >= options.held_frames_max
                || held + bytes > options.held_bytes_max && frames > 0
            {
                self.kept.discard(draft);
                return Sent::Overflow;
            }
        }
        let limits = Limits {
            frames_max: options.unacked_frames_max + options.held_frames_max,
            bytes_max: options.unacked_bytes_max + options.held_bytes_max,
        };
        let Ok(number) = self.kept.keep(draft, limits, KEPT_OVERHEAD) else {
            return Sent::Overflow;
        };
        if !self.is_attached() {
            return Sent::Yes;
        }
        let ack = self.inbound.tell();
        let took = self.put(out, (number, ack), head, &write);
        let slow = self.kept.len() >= options.unacked_frames_max
            || self.kept.bytes(KEPT_OVERHEAD) >= options.unacked_bytes_max;
        if slow || !took { Sent::TooSlow } else { Sent::Yes }
    }

    /// Sends one frame that may be lost; `false` if nobody is connected or the way is full.
    fn send(&self, out: &mut impl Outlet, frame: &DownFrame<'_>) -> bool {
        let Link::Attached { gate, conn } = self.link else { return false };
        out.send(gate, |bytes| {
            put_down(bytes, gate.worker, conn, |bytes| frame.encode(bytes));
        })
    }

    /// Sends a kept frame, the same byte for byte apart from its acknowledgement each time.
    #[inline]
    fn put(
        &self,
        out: &mut impl Outlet,
        (number, ack): (u64, u64),
        head: u8,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> bool {
        let Link::Attached { gate, conn } = self.link else { return false };
        let frame = NumberedDown { head, stream: self.info.handle, number, ack };
        out.send(gate, |bytes| put_numbered_down(bytes, gate.worker, conn, frame, write))
    }
}
