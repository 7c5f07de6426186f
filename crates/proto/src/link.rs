//! The inner leg: what the workers of gates and nodes say to each other over mesh links.
//!
//! A link frame is `varint length | kind | destination worker | fields | body`. Within a cluster
//! the two adjacent releases understand each other's frames.

mod calls;
mod fields;
mod homes;
mod kind;
mod moves;
mod select;
mod shift;
mod slotted;

pub use calls::{put_answer, put_call, read_answer, read_call};
pub use fields::{Admission, put_slot, put_worker, read_slot, read_worker};
pub use homes::{
    Check, HANDLE_RUNS_MAX, HandOver, HandedState, HandedStream, Held, HomeFrame, Leads, Named,
    PAST_MAX, Past, Report, Wanted,
};
pub use moves::MoveStep;
pub use select::{
    ACCOUNTS_MAX, Act, Forward, PRESENT_MAX, Present, PushTo, Select, Selected, TAGS_MAX, Tag, Whom,
};
pub use shift::Shift;
pub use slotted::{NumberedDown, put_down, put_numbered_down, put_up, read_down, read_up};

use crate::WireError;
use crate::frame::{
    CloseCode, RESUME_GROUPS_MAX, RESUME_STREAMS_MAX, Seen, SeenGroup, Status, TEXT_BYTES_MAX,
    put_seen, put_seen_groups, put_text, read_seen, read_seen_groups,
};
use crate::id::{AccountId, EntityId, Incarnation, KindId, MethodId, SessionId};
use crate::varint::{Reader, put_varint};
use fields::{put_entity, put_group, read_entity, read_group};

/// The longest chain of callers that a call carries; a longer one fails with `Cycle`.
pub const CHAIN_MAX: usize = 32;

/// A slot of a table with the generation that tells one use of it from the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot {
    /// Position in the table.
    pub index: u32,
    /// Use of that position.
    pub generation: u32,
}

/// One worker of one node: where link frames come from and go to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId {
    /// The node.
    pub node: Incarnation,
    /// Its worker.
    pub worker: u8,
}

/// Names a group across the cluster: the worker that owns it and its slot there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId {
    /// The node that owns the group.
    pub node: Incarnation,
    /// The owning worker.
    pub worker: u8,
    /// The group there.
    pub slot: Slot,
}

impl GroupId {
    /// The handle by which clients know this group: the same at every gate and at every home,
    /// so that a resume can name groups. Two groups of one client share a handle with a chance
    /// of 1 in 2^32; the second join is then refused.
    pub const fn handle(self) -> u32 {
        let mut mixed = self.node.0 ^ ((self.worker as u64) << 56);
        mixed ^= ((self.slot.index as u64) << 32) | self.slot.generation as u64;
        mixed = (mixed ^ (mixed >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed >> 32) as u32
    }
}

/// What one worker sends to another.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum LinkFrame<'a> {
    // -- the link itself (worker 0) --
    Hello {
        version: u8,
        cluster: &'a str,
        from: WorkerId,
        name: &'a str,
        nonce: [u8; 16],
    },
    Prove {
        proof: [u8; 32],
    },
    Ping {
        token: u64,
    },
    Pong {
        token: u64,
    },
    /// The sender sends by this link from here on; what it sent by one of a lower number is late.
    Begin {
        number: u64,
    },

    // -- client traffic --
    /// Gate to stream owner. `frame` is the client's payload without the stream handle:
    /// head byte, then the fields of `StreamUp`.
    Up {
        slot: Slot,
        frame: &'a [u8],
    },
    /// Stream owner to gate. `frame` is a whole payload for the client.
    Down {
        conn: Slot,
        frame: &'a [u8],
    },
    /// Group owner to gate. `frame` is the payload of a `Cast` without head byte and group handle.
    Cast {
        group: GroupId,
        frame: &'a [u8],
    },
    /// Group owner to gate: this connection takes part now, by `stream`; cast `number + 1` is its
    /// first.
    Join {
        group: GroupId,
        conn: Slot,
        stream: u32,
        /// The client's handle of the group, chosen by the group's owner.
        handle: u32,
        kind: KindId,
        number: u64,
        name: &'a str,
    },
    Leave {
        group: GroupId,
        conn: Slot,
        stream: u32,
    },
    /// The group ended; the gate forgets its members.
    Disband {
        group: GroupId,
    },

    // -- sessions: gate to home --
    Open(Admission<'a>),
    Resume {
        conn: Slot,
        session: SessionId,
        account: AccountId,
        /// Login level of the account, by its token.
        level: u8,
        generation: u64,
        streams: Vec<Seen>,
        groups: Vec<SeenGroup>,
    },
    /// The connection broke or was closed by a limit; the session waits for a resume.
    Detached {
        conn: Slot,
        session: SessionId,
        account: AccountId,
        generation: u64,
        code: CloseCode,
    },
    /// The client said goodbye.
    Logout {
        session: SessionId,
        account: AccountId,
        generation: u64,
    },

    // -- sessions: home to gate (`Route` and `Unroute` also from stream owners) --
    Welcome {
        conn: Slot,
        session: SessionId,
        /// Lets a gate whose client left meanwhile answer with `Detached`.
        account: AccountId,
        generation: u64,
        resumed: bool,
        resume_window_ms: u32,
    },
    /// Close this connection and forget it. Nothing of the session remains at this gate.
    Close {
        conn: Slot,
        code: CloseCode,
        reason: &'a str,
    },
    /// The stream of this connection leads to `slot` at `owner` now.
    Route {
        conn: Slot,
        stream: u32,
        owner: WorkerId,
        slot: Slot,
        kind: KindId,
        epoch: u64,
        name: &'a str,
        announce: bool,
    },
    Unroute {
        conn: Slot,
        stream: u32,
        code: CloseCode,
    },

    // -- streams: home to owner and back --
    /// Open a stream to `target` for this session and answer with `Bound` or `NotBound`.
    Bind {
        session: SessionId,
        account: AccountId,
        level: u8,
        stream: u32,
        target: EntityId,
        home: WorkerId,
        gate: WorkerId,
        conn: Slot,
        generation: u64,
        name: &'a str,
    },
    Bound {
        session: SessionId,
        account: AccountId,
        stream: u32,
        slot: Slot,
        epoch: u64,
    },
    NotBound {
        session: SessionId,
        account: AccountId,
        stream: u32,
        status: Status,
    },
    /// The session is on this connection now; answer there with `Resumed`, then with all that the
    /// client has not seen. A lower `generation` than one seen before is refused.
    Attach {
        slot: Slot,
        gate: WorkerId,
        conn: Slot,
        generation: u64,
        seen: u64,
        /// What the client saw of the groups that it is in by this stream.
        groups: Vec<Seen>,
    },
    /// The session has no connection for now: keep what it must not miss.
    Detach {
        slot: Slot,
        generation: u64,
        code: CloseCode,
    },
    /// The stream ends for good.
    Unbind {
        slot: Slot,
        code: CloseCode,
    },
    /// Owner to home: the stream broke its limits or its entity is gone.
    Lost {
        session: SessionId,
        account: AccountId,
        stream: u32,
        code: CloseCode,
    },
    /// From an entity to the home of a session: bind another entity under `name`, or unbind it.
    Rebind {
        session: SessionId,
        account: AccountId,
        name: &'a str,
        target: EntityId,
    },
    Release {
        session: SessionId,
        account: AccountId,
        name: &'a str,
    },
    /// From anywhere to the home of a session: end it. A `session` of zeros means whichever the
    /// account has.
    Kick {
        account: AccountId,
        session: SessionId,
        code: CloseCode,
        reason: &'a str,
    },

    // -- users --
    Tag(Tag<'a>),
    Select(Select<'a>),
    Selected(Selected),
    Forward(Forward<'a>),

    // -- calls between entities and services --
    Call(Call<'a>),
    Answer {
        call: Slot,
        status: Status,
        body: &'a [u8],
    },
    /// The caller no longer waits.
    Cancel {
        call: Slot,
    },
    /// Travels along outstanding calls to find a ring. See `docs/semantics.md`.
    Probe {
        origin: WorkerId,
        call: Slot,
        target: EntityId,
        seen: u64,
    },
    /// A probe came back: fail this call with `Cycle`.
    Ring {
        call: Slot,
    },

    // -- stored state --
    /// The sender was asked for an entity that stands as the receiver's in the store: unless it
    /// belongs there, it is to be saved and given back.
    GiveBack {
        entity: EntityId,
    },
    /// The sender's last beats were not acknowledged by the store.
    StoreAway,

    // -- bus --
    Publish {
        subject: &'a str,
        body: &'a [u8],
    },
    /// As [`Publish`](LinkFrame::Publish), for all workers of the node that listen: the one that gets it hands it on
    /// to the others. Only to nodes that are listed as knowing it.
    Relay {
        subject: &'a str,
        body: &'a [u8],
    },
    /// The sender's entities listen to a subject, or no longer do.
    Listen {
        subject: &'a str,
        on: bool,
    },

    /// About homes of sessions that move or are lost.
    Home(HomeFrame<'a>),
    /// About live connections that go on at another gate.
    Shift(Shift),
    // -- entities that move --
    /// One step of the move `number` of an entity, as its two ends agree on it.
    Move {
        entity: EntityId,
        number: u64,
        step: MoveStep,
        body: &'a [u8],
    },
    /// The entity is at another worker now.
    Moved {
        entity: EntityId,
        at: WorkerId,
    },
    /// A `Call` or `Marker` that `from` sent to where the entity was.
    Forwarded {
        from: WorkerId,
        hops: u8,
        payload: &'a [u8],
    },
    /// Goes the old way to an entity behind all mail; whoever has it answers with `Passed`.
    Marker {
        entity: EntityId,
        number: u64,
    },
    /// All that was sent before the marker has come to the sender of this, which has the entity.
    Passed {
        entity: EntityId,
        number: u64,
    },
    /// A frame for a stream that has moved with its entity, from where it was: its slot is replaced.
    StreamPassed {
        entity: EntityId,
        session: SessionId,
        stream: u32,
        from: WorkerId,
        /// Whom it was sent to.
        to: WorkerId,
        payload: &'a [u8],
    },
    /// New owner to home: the stream moved here with its entity.
    StreamMoved {
        session: SessionId,
        account: AccountId,
        stream: u32,
        slot: Slot,
    },
}

/// A call to an entity or service on another worker.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Call<'a> {
    /// The caller's pending slot, or `None` for a tell.
    pub call: Option<Slot>,
    pub from: WorkerId,
    pub target: EntityId,
    pub method: MethodId,
    /// What is left of the deadline, in milliseconds. Clocks are never compared between nodes.
    pub remaining_ms: u32,
    /// The entity that calls, if it is one.
    pub sender: Option<EntityId>,
    /// The entities whose turns wait for this call, outermost first, without the sender.
    pub chain: Vec<EntityId>,
    /// What is left of the frame: it may be appended after all else was encoded.
    pub body: &'a [u8],
}

/// Whether a payload is a `Begin`, which is the link's own although an older release does not know it.
/// Above the kinds that are, so that such a one counts it as unreadable and keeps the link.
#[inline]
pub fn is_begin(payload: &[u8]) -> bool {
    payload.first() == Some(&kind::BEGIN)
}

/// The destination worker of a link payload.
///
/// # Errors
///
/// `Truncated` if there is none.
#[inline]
pub fn destination(payload: &[u8]) -> Result<u8, WireError> {
    payload.get(1).copied().ok_or(WireError::Truncated)
}

impl<'a> LinkFrame<'a> {
    /// Reads a payload; gives the frame and the worker that it is for.
    pub fn decode(payload: &'a [u8]) -> Result<(u8, Self), WireError> {
        let mut r = Reader::new(payload);
        let kind = r.byte()?;
        let worker = r.byte()?;
        let frame = match kind {
            kind::OPEN => LinkFrame::Open(Admission::decode(&mut r)?),
            kind::CALL => LinkFrame::Call(Call::decode(&mut r)?),
            kind::TAG => LinkFrame::Tag(Tag::decode(&mut r)?),
            kind::SELECT => LinkFrame::Select(Select::decode(&mut r)?),
            kind::SELECTED => LinkFrame::Selected(Selected::decode(&mut r)?),
            kind::FORWARD => LinkFrame::Forward(Forward::decode(&mut r)?),
            kind::HELLO => LinkFrame::Hello {
                version: r.byte()?,
                cluster: r.text(TEXT_BYTES_MAX)?,
                from: read_worker(&mut r)?,
                name: r.text(TEXT_BYTES_MAX)?,
                nonce: r.array()?,
            },
            kind::PROVE => LinkFrame::Prove { proof: r.array()? },
            kind::PING => LinkFrame::Ping { token: r.varint()? },
            kind::PONG => LinkFrame::Pong { token: r.varint()? },
            kind::BEGIN => LinkFrame::Begin { number: r.varint()? },
            kind::UP => LinkFrame::Up { slot: read_slot(&mut r)?, frame: r.take_rest() },
            kind::DOWN => LinkFrame::Down { conn: read_slot(&mut r)?, frame: r.take_rest() },
            kind::CAST => LinkFrame::Cast { group: read_group(&mut r)?, frame: r.take_rest() },
            kind::JOIN => LinkFrame::Join {
                group: read_group(&mut r)?,
                conn: read_slot(&mut r)?,
                stream: r.varint_u32()?,
                handle: r.varint_u32()?,
                kind: KindId(r.u32()?),
                number: r.varint()?,
                name: r.text(TEXT_BYTES_MAX)?,
            },
            kind::LEAVE => LinkFrame::Leave {
                group: read_group(&mut r)?,
                conn: read_slot(&mut r)?,
                stream: r.varint_u32()?,
            },
            kind::DISBAND => LinkFrame::Disband { group: read_group(&mut r)? },
            kind::RESUME => LinkFrame::Resume {
                conn: read_slot(&mut r)?,
                session: SessionId(r.array()?),
                account: AccountId(r.varint()?),
                level: r.byte()?,
                generation: r.varint()?,
                streams: read_seen(&mut r, RESUME_STREAMS_MAX)?,
                groups: read_seen_groups(&mut r)?,
            },
            kind::DETACHED => LinkFrame::Detached {
                conn: read_slot(&mut r)?,
                session: SessionId(r.array()?),
                account: AccountId(r.varint()?),
                generation: r.varint()?,
                code: CloseCode::from_code(r.varint()?),
            },
            kind::LOGOUT => LinkFrame::Logout {
                session: SessionId(r.array()?),
                account: AccountId(r.varint()?),
                generation: r.varint()?,
            },
            kind::WELCOME => LinkFrame::Welcome {
                conn: read_slot(&mut r)?,
                session: SessionId(r.array()?),
                account: AccountId(r.varint()?),
                generation: r.varint()?,
                resumed: r.flag()?,
                resume_window_ms: r.varint_u32()?,
            },
            kind::CLOSE => LinkFrame::Close {
                conn: read_slot(&mut r)?,
                code: CloseCode::from_code(r.varint()?),
                reason: r.text(TEXT_BYTES_MAX)?,
            },
            kind::ROUTE => LinkFrame::Route {
                conn: read_slot(&mut r)?,
                stream: r.varint_u32()?,
                owner: read_worker(&mut r)?,
                slot: read_slot(&mut r)?,
                kind: KindId(r.u32()?),
                epoch: r.varint()?,
                name: r.text(TEXT_BYTES_MAX)?,
                announce: r.flag()?,
            },
            kind::UNROUTE => LinkFrame::Unroute {
                conn: read_slot(&mut r)?,
                stream: r.varint_u32()?,
                code: CloseCode::from_code(r.varint()?),
            },
            kind::BIND => LinkFrame::Bind {
                session: SessionId(r.array()?),
                account: AccountId(r.varint()?),
                level: r.byte()?,
                stream: r.varint_u32()?,
                target: read_entity(&mut r)?,
                home: read_worker(&mut r)?,
                gate: read_worker(&mut r)?,
                conn: read_slot(&mut r)?,
                generation: r.varint()?,
                name: r.text(TEXT_BYTES_MAX)?,
            },
            kind::BOUND => LinkFrame::Bound {
                session: SessionId(r.array()?),
                account: AccountId(r.varint()?),
                stream: r.varint_u32()?,
                slot: read_slot(&mut r)?,
                epoch: r.varint()?,
            },
            kind::NOT_BOUND => LinkFrame::NotBound {
                session: SessionId(r.array()?),
                account: AccountId(r.varint()?),
                stream: r.varint_u32()?,
                status: Status::from_code(r.varint()?),
            },
            kind::ATTACH => LinkFrame::Attach {
                slot: read_slot(&mut r)?,
                gate: read_worker(&mut r)?,
                conn: read_slot(&mut r)?,
                generation: r.varint()?,
                seen: r.varint()?,
                groups: read_seen(&mut r, RESUME_GROUPS_MAX)?,
            },
            kind::DETACH => LinkFrame::Detach {
                slot: read_slot(&mut r)?,
                generation: r.varint()?,
                code: CloseCode::from_code(r.varint()?),
            },
            kind::UNBIND => LinkFrame::Unbind {
                slot: read_slot(&mut r)?,
                code: CloseCode::from_code(r.varint()?),
            },
            kind::LOST => LinkFrame::Lost {
                session: SessionId(r.array()?),
                account: AccountId(r.varint()?),
                stream: r.varint_u32()?,
                code: CloseCode::from_code(r.varint()?),
            },
            kind::REBIND => LinkFrame::Rebind {
                session: SessionId(r.array()?),
                account: AccountId(r.varint()?),
                name: r.text(TEXT_BYTES_MAX)?,
                target: read_entity(&mut r)?,
            },
            kind::RELEASE => LinkFrame::Release {
                session: SessionId(r.array()?),
                account: AccountId(r.varint()?),
                name: r.text(TEXT_BYTES_MAX)?,
            },
            kind::KICK => LinkFrame::Kick {
                account: AccountId(r.varint()?),
                session: SessionId(r.array()?),
                code: CloseCode::from_code(r.varint()?),
                reason: r.text(TEXT_BYTES_MAX)?,
            },
            kind::ANSWER => LinkFrame::Answer {
                call: read_slot(&mut r)?,
                status: Status::from_code(r.varint()?),
                body: r.take_rest(),
            },
            kind::CANCEL => LinkFrame::Cancel { call: read_slot(&mut r)? },
            kind::PROBE => LinkFrame::Probe {
                origin: read_worker(&mut r)?,
                call: read_slot(&mut r)?,
                target: read_entity(&mut r)?,
                seen: r.varint()?,
            },
            kind::RING => LinkFrame::Ring { call: read_slot(&mut r)? },
            kind::GIVE_BACK => LinkFrame::GiveBack { entity: read_entity(&mut r)? },
            kind::STORE_AWAY => LinkFrame::StoreAway,
            kind::PUBLISH => {
                LinkFrame::Publish { subject: r.text(TEXT_BYTES_MAX)?, body: r.take_rest() }
            }
            kind::RELAY => {
                LinkFrame::Relay { subject: r.text(TEXT_BYTES_MAX)?, body: r.take_rest() }
            }
            kind::LISTEN => LinkFrame::Listen { subject: r.text(TEXT_BYTES_MAX)?, on: r.flag()? },
            HomeFrame::FIRST..=HomeFrame::LAST => LinkFrame::Home(HomeFrame::decode(kind, &mut r)?),
            Shift::FIRST..=Shift::LAST => LinkFrame::Shift(Shift::decode(kind, &mut r)?),
            kind::MOVE => LinkFrame::Move {
                entity: read_entity(&mut r)?,
                number: r.u64()?,
                step: MoveStep::read(&mut r)?,
                body: r.take_rest(),
            },
            kind::MOVED => {
                LinkFrame::Moved { entity: read_entity(&mut r)?, at: read_worker(&mut r)? }
            }
            kind::FORWARDED => LinkFrame::Forwarded {
                from: read_worker(&mut r)?,
                hops: r.byte()?,
                payload: r.take_rest(),
            },
            kind::MARKER => LinkFrame::Marker { entity: read_entity(&mut r)?, number: r.varint()? },
            kind::PASSED => LinkFrame::Passed { entity: read_entity(&mut r)?, number: r.varint()? },
            kind::STREAM_PASSED => LinkFrame::StreamPassed {
                entity: read_entity(&mut r)?,
                session: SessionId(r.array()?),
                stream: r.varint_u32()?,
                from: read_worker(&mut r)?,
                to: read_worker(&mut r)?,
                payload: r.take_rest(),
            },
            kind::STREAM_MOVED => LinkFrame::StreamMoved {
                session: SessionId(r.array()?),
                account: AccountId(r.varint()?),
                stream: r.varint_u32()?,
                slot: read_slot(&mut r)?,
            },
            other => return Err(WireError::Kind(other)),
        };
        r.end()?;
        Ok((worker, frame))
    }

    /// Appends the payload (no length) for destination `worker`.
    pub fn encode(&self, worker: u8, out: &mut Vec<u8>) {
        if let LinkFrame::Call(call) = self {
            return put_call(out, worker, call);
        }
        out.extend_from_slice(&[self.kind(), worker]);
        match self {
            LinkFrame::Call(_) => {}
            LinkFrame::Open(admission) => admission.encode(out),
            LinkFrame::Tag(tag) => tag.encode(out),
            LinkFrame::Select(select) => select.encode(out),
            LinkFrame::Selected(selected) => selected.encode(out),
            LinkFrame::Forward(forward) => forward.encode(out),
            LinkFrame::Home(frame) => frame.encode(out),
            LinkFrame::Shift(frame) => frame.encode(out),
            LinkFrame::Hello { version, cluster, from, name, nonce } => {
                out.push(*version);
                put_text(out, cluster);
                put_worker(out, *from);
                put_text(out, name);
                out.extend_from_slice(nonce);
            }
            LinkFrame::Prove { proof } => {
                out.extend_from_slice(proof);
            }
            LinkFrame::Ping { token: number }
            | LinkFrame::Pong { token: number }
            | LinkFrame::Begin { number } => {
                put_varint(out, *number);
            }
            LinkFrame::Up { slot, frame } => {
                put_slot(out, *slot);
                out.extend_from_slice(frame);
            }
            LinkFrame::Down { conn, frame } => {
                put_slot(out, *conn);
                out.extend_from_slice(frame);
            }
            LinkFrame::Cast { group, frame } => {
                put_group(out, *group);
                out.extend_from_slice(frame);
            }
            LinkFrame::Join { group, conn, stream, handle, kind, number, name } => {
                put_group(out, *group);
                put_slot(out, *conn);
                put_varint(out, u64::from(*stream));
                put_varint(out, u64::from(*handle));
                out.extend_from_slice(&kind.0.to_le_bytes());
                put_varint(out, *number);
                put_text(out, name);
            }
            LinkFrame::Leave { group, conn, stream } => {
                put_group(out, *group);
                put_slot(out, *conn);
                put_varint(out, u64::from(*stream));
            }
            LinkFrame::Disband { group } => {
                put_group(out, *group);
            }
            LinkFrame::Resume { conn, session, account, level, generation, streams, groups } => {
                put_slot(out, *conn);
                out.extend_from_slice(&session.0);
                put_varint(out, account.0);
                out.push(*level);
                put_varint(out, *generation);
                put_seen(out, streams, RESUME_STREAMS_MAX);
                put_seen_groups(out, groups);
            }
            LinkFrame::Detached { conn, session, account, generation, code } => {
                put_slot(out, *conn);
                out.extend_from_slice(&session.0);
                put_varint(out, account.0);
                put_varint(out, *generation);
                put_varint(out, *code as u64);
            }
            LinkFrame::Logout { session, account, generation } => {
                out.extend_from_slice(&session.0);
                put_varint(out, account.0);
                put_varint(out, *generation);
            }
            LinkFrame::Welcome {
                conn,
                session,
                account,
                generation,
                resumed,
                resume_window_ms,
            } => {
                put_slot(out, *conn);
                out.extend_from_slice(&session.0);
                put_varint(out, account.0);
                put_varint(out, *generation);
                out.push(u8::from(*resumed));
                put_varint(out, u64::from(*resume_window_ms));
            }
            LinkFrame::Close { conn, code, reason } => {
                put_slot(out, *conn);
                put_varint(out, *code as u64);
                put_text(out, reason);
            }
            LinkFrame::Route { conn, stream, owner, slot, kind, epoch, name, announce } => {
                put_slot(out, *conn);
                put_varint(out, u64::from(*stream));
                put_worker(out, *owner);
                put_slot(out, *slot);
                out.extend_from_slice(&kind.0.to_le_bytes());
                put_varint(out, *epoch);
                put_text(out, name);
                out.push(u8::from(*announce));
            }
            LinkFrame::Unroute { conn, stream, code } => {
                put_slot(out, *conn);
                put_varint(out, u64::from(*stream));
                put_varint(out, *code as u64);
            }
            LinkFrame::Bind {
                session,
                account,
                level,
                stream,
                target,
                home,
                gate,
                conn,
                generation,
                name,
            } => {
                out.extend_from_slice(&session.0);
                put_varint(out, account.0);
                out.push(*level);
                put_varint(out, u64::from(*stream));
                put_entity(out, *target);
                put_worker(out, *home);
                put_worker(out, *gate);
                put_slot(out, *conn);
                put_varint(out, *generation);
                put_text(out, name);
            }
            LinkFrame::Bound { session, account, stream, slot, epoch } => {
                out.extend_from_slice(&session.0);
                put_varint(out, account.0);
                put_varint(out, u64::from(*stream));
                put_slot(out, *slot);
                put_varint(out, *epoch);
            }
            LinkFrame::NotBound { session, account, stream, status } => {
                out.extend_from_slice(&session.0);
                put_varint(out, account.0);
                put_varint(out, u64::from(*stream));
                put_varint(out, *status as u64);
            }
            LinkFrame::Attach { slot, gate, conn, generation, seen, groups } => {
                put_slot(out, *slot);
                put_worker(out, *gate);
                put_slot(out, *conn);
                put_varint(out, *generation);
                put_varint(out, *seen);
                put_seen(out, groups, RESUME_GROUPS_MAX);
            }
            LinkFrame::Detach { slot, generation, code } => {
                put_slot(out, *slot);
                put_varint(out, *generation);
                put_varint(out, *code as u64);
            }
            LinkFrame::Unbind { slot, code } => {
                put_slot(out, *slot);
                put_varint(out, *code as u64);
            }
            LinkFrame::Lost { session, account, stream, code } => {
                out.extend_from_slice(&session.0);
                put_varint(out, account.0);
                put_varint(out, u64::from(*stream));
                put_varint(out, *code as u64);
            }
            LinkFrame::Rebind { session, account, name, target } => {
                out.extend_from_slice(&session.0);
                put_varint(out, account.0);
                put_text(out, name);
                put_entity(out, *target);
            }
            LinkFrame::Release { session, account, name } => {
                out.extend_from_slice(&session.0);
                put_varint(out, account.0);
                put_text(out, name);
            }
            LinkFrame::Kick { account, session, code, reason } => {
                put_varint(out, account.0);
                out.extend_from_slice(&session.0);
                put_varint(out, *code as u64);
                put_text(out, reason);
            }
            LinkFrame::Answer { call, status, body } => {
                put_slot(out, *call);
                put_varint(out, *status as u64);
                out.extend_from_slice(body);
            }
            LinkFrame::Cancel { call } => {
                put_slot(out, *call);
            }
            LinkFrame::Probe { origin, call, target, seen } => {
                put_worker(out, *origin);
                put_slot(out, *call);
                put_entity(out, *target);
                put_varint(out, *seen);
            }
            LinkFrame::Ring { call } => {
                put_slot(out, *call);
            }
            LinkFrame::GiveBack { entity } => {
                put_entity(out, *entity);
            }
            LinkFrame::StoreAway => {}
            LinkFrame::Publish { subject, body } | LinkFrame::Relay { subject, body } => {
                put_text(out, subject);
                out.extend_from_slice(body);
            }
            LinkFrame::Listen { subject, on } => {
                put_text(out, subject);
                out.push(u8::from(*on));
            }
            LinkFrame::Move { entity, number, step, body } => {
                put_entity(out, *entity);
                out.extend_from_slice(&number.to_le_bytes());
                out.push(*step as u8);
                out.extend_from_slice(body);
            }
            LinkFrame::Moved { entity, at } => {
                put_entity(out, *entity);
                put_worker(out, *at);
            }
            LinkFrame::Forwarded { from, hops, payload } => {
                put_worker(out, *from);
                out.push(*hops);
                out.extend_from_slice(payload);
            }
            LinkFrame::Marker { entity, number } | LinkFrame::Passed { entity, number } => {
                put_entity(out, *entity);
                put_varint(out, *number);
            }
            LinkFrame::StreamPassed { entity, session, stream, from, to, payload } => {
                put_entity(out, *entity);
                out.extend_from_slice(&session.0);
                put_varint(out, u64::from(*stream));
                put_worker(out, *from);
                put_worker(out, *to);
                out.extend_from_slice(payload);
            }
            LinkFrame::StreamMoved { session, account, stream, slot } => {
                out.extend_from_slice(&session.0);
                put_varint(out, account.0);
                put_varint(out, u64::from(*stream));
                put_slot(out, *slot);
            }
        }
    }

    const fn kind(&self) -> u8 {
        match self {
            LinkFrame::Open(_) => kind::OPEN,
            LinkFrame::Call(_) => kind::CALL,
            LinkFrame::Tag(_) => kind::TAG,
            LinkFrame::Select(_) => kind::SELECT,
            LinkFrame::Selected(_) => kind::SELECTED,
            LinkFrame::Forward(_) => kind::FORWARD,
            LinkFrame::Home(frame) => frame.kind(),
            LinkFrame::Shift(frame) => frame.kind(),
            LinkFrame::Hello { .. } => kind::HELLO,
            LinkFrame::Prove { .. } => kind::PROVE,
            LinkFrame::Ping { .. } => kind::PING,
            LinkFrame::Pong { .. } => kind::PONG,
            LinkFrame::Begin { .. } => kind::BEGIN,
            LinkFrame::Up { .. } => kind::UP,
            LinkFrame::Down { .. } => kind::DOWN,
            LinkFrame::Cast { .. } => kind::CAST,
            LinkFrame::Join { .. } => kind::JOIN,
            LinkFrame::Leave { .. } => kind::LEAVE,
            LinkFrame::Disband { .. } => kind::DISBAND,
            LinkFrame::Resume { .. } => kind::RESUME,
            LinkFrame::Detached { .. } => kind::DETACHED,
            LinkFrame::Logout { .. } => kind::LOGOUT,
            LinkFrame::Welcome { .. } => kind::WELCOME,
            LinkFrame::Close { .. } => kind::CLOSE,
            LinkFrame::Route { .. } => kind::ROUTE,
            LinkFrame::Unroute { .. } => kind::UNROUTE,
            LinkFrame::Bind { .. } => kind::BIND,
            LinkFrame::Bound { .. } => kind::BOUND,
            LinkFrame::NotBound { .. } => kind::NOT_BOUND,
            LinkFrame::Attach { .. } => kind::ATTACH,
            LinkFrame::Detach { .. } => kind::DETACH,
            LinkFrame::Unbind { .. } => kind::UNBIND,
            LinkFrame::Lost { .. } => kind::LOST,
            LinkFrame::Rebind { .. } => kind::REBIND,
            LinkFrame::Release { .. } => kind::RELEASE,
            LinkFrame::Kick { .. } => kind::KICK,
            LinkFrame::Answer { .. } => kind::ANSWER,
            LinkFrame::Cancel { .. } => kind::CANCEL,
            LinkFrame::Probe { .. } => kind::PROBE,
            LinkFrame::Ring { .. } => kind::RING,
            LinkFrame::GiveBack { .. } => kind::GIVE_BACK,
            LinkFrame::StoreAway => kind::STORE_AWAY,
            LinkFrame::Publish { .. } => kind::PUBLISH,
            LinkFrame::Relay { .. } => kind::RELAY,
            LinkFrame::Listen { .. } => kind::LISTEN,
            LinkFrame::Move { .. } => kind::MOVE,
            LinkFrame::Moved { .. } => kind::MOVED,
            LinkFrame::Forwarded { .. } => kind::FORWARDED,
            LinkFrame::Marker { .. } => kind::MARKER,
            LinkFrame::Passed { .. } => kind::PASSED,
            LinkFrame::StreamPassed { .. } => kind::STREAM_PASSED,
            LinkFrame::StreamMoved { .. } => kind::STREAM_MOVED,
        }
    }
}
