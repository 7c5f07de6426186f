//! What gates, homes and owners of streams say when a live connection goes on at another gate.

use super::fields::{put_group, read_group};
use super::{GroupId, Slot, WorkerId, put_slot, put_worker, read_slot, read_worker};
use crate::WireError;
use crate::frame::RESUME_STREAMS_MAX;
use crate::id::{AccountId, SessionId};
use crate::varint::{Reader, put_varint};

/// A frame about a live connection that goes on at another gate.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Shift {
    /// Gate to home: this connection is `to` at `gate` from now on.
    Session {
        conn: Slot,
        session: SessionId,
        account: AccountId,
        generation: u64,
        gate: WorkerId,
        to: Slot,
    },
    /// Home to the former gate, after all that it has said there: the handles of the streams that
    /// are open, or `None` if it cannot be now.
    SessionDone { conn: Slot, streams: Option<Vec<u32>> },
    /// Gate to the owner of a stream, after all that the client has sent: what is for the client
    /// goes to `to` at `gate` from now on.
    Stream { slot: Slot, conn: Slot, stream: u32, gate: WorkerId, to: Slot },
    /// Owner to the former gate, after all that it has sent to the client there: done, or not now.
    StreamDone { conn: Slot, stream: u32, done: bool },
    /// Owner to the next gate, after the route of the stream: the connection is in this group by
    /// it, as its client knows.
    Member { group: GroupId, conn: Slot, stream: u32 },
}

mod kind {
    pub const SESSION: u8 = 0x68;
    pub const SESSION_DONE: u8 = 0x69;
    pub const STREAM: u8 = 0x6a;
    pub const STREAM_DONE: u8 = 0x6b;
    pub const MEMBER: u8 = 0x6c;
}

impl Shift {
    pub(super) const FIRST: u8 = kind::SESSION;
    pub(super) const LAST: u8 = kind::MEMBER;

    pub(super) const fn kind(&self) -> u8 {
        match self {
            Shift::Session { .. } => kind::SESSION,
            Shift::SessionDone { .. } => kind::SESSION_DONE,
            Shift::Stream { .. } => kind::STREAM,
            Shift::StreamDone { .. } => kind::STREAM_DONE,
            Shift::Member { .. } => kind::MEMBER,
        }
    }

    pub(super) fn decode(kind: u8, r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(match kind {
            kind::SESSION => Shift::Session {
                conn: read_slot(r)?,
                session: SessionId(r.array()?),
                account: AccountId(r.varint()?),
                generation: r.varint()?,
                gate: read_worker(r)?,
                to: read_slot(r)?,
            },
            kind::SESSION_DONE => {
                Shift::SessionDone { conn: read_slot(r)?, streams: read_streams(r)? }
            }
            kind::STREAM => Shift::Stream {
                slot: read_slot(r)?,
                conn: read_slot(r)?,
                stream: r.varint_u32()?,
                gate: read_worker(r)?,
                to: read_slot(r)?,
            },
            kind::STREAM_DONE => {
                Shift::StreamDone { conn: read_slot(r)?, stream: r.varint_u32()?, done: r.flag()? }
            }
            kind::MEMBER => Shift::Member {
                group: read_group(r)?,
                conn: read_slot(r)?,
                stream: r.varint_u32()?,
            },
            other => return Err(WireError::Kind(other)),
        })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Shift::Session { conn, session, account, generation, gate, to } => {
                put_slot(out, *conn);
                out.extend_from_slice(&session.0);
                put_varint(out, account.0);
                put_varint(out, *generation);
                put_worker(out, *gate);
                put_slot(out, *to);
            }
            Shift::SessionDone { conn, streams } => {
                put_slot(out, *conn);
                out.push(u8::from(streams.is_some()));
                if let Some(streams) = streams {
                    debug_assert!(streams.len() <= RESUME_STREAMS_MAX, "a session has no more");
                    put_varint(out, streams.len() as u64);
                    streams.iter().for_each(|stream| put_varint(out, u64::from(*stream)));
                }
            }
            Shift::Stream { slot, conn, stream, gate, to } => {
                put_slot(out, *slot);
                put_slot(out, *conn);
                put_varint(out, u64::from(*stream));
                put_worker(out, *gate);
                put_slot(out, *to);
            }
            Shift::StreamDone { conn, stream, done } => {
                put_slot(out, *conn);
                put_varint(out, u64::from(*stream));
                out.push(u8::from(*done));
            }
            Shift::Member { group, conn, stream } => {
                put_group(out, *group);
                put_slot(out, *conn);
                put_varint(out, u64::from(*stream));
            }
        }
    }
}

fn read_streams(r: &mut Reader<'_>) -> Result<Option<Vec<u32>>, WireError> {
    if !r.flag()? {
        return Ok(None);
    }
    let count = r.varint()?;
    if count > RESUME_STREAMS_MAX as u64 {
        return Err(WireError::Range);
    }
    (0..count).map(|_| r.varint_u32()).collect::<Result<_, _>>().map(Some)
}
