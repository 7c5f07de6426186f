//! What homes of sessions, gates and owners of streams say when homes move or are lost.

use std::ops::Range;

use super::{
    Slot, TAGS_MAX, WorkerId, put_entity, put_slot, put_worker, read_entity, read_slot, read_worker,
};
use crate::WireError;
use crate::frame::{
    CloseCode, RESUME_GROUPS_MAX, RESUME_STREAMS_MAX, Seen, TEXT_BYTES_MAX, put_seen, put_text,
    read_seen,
};
use crate::id::{AccountId, EntityId, SessionId};
use crate::varint::{Reader, put_varint};

/// Most used tickets, and most ended sessions, in one [`HomeFrame::Past`].
pub const PAST_MAX: usize = 1_024;

/// Most runs of handles in one [`HomeFrame::HandOver`].
pub const HANDLE_RUNS_MAX: usize = 8;

/// A frame about homes of sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum HomeFrame<'a> {
    /// Home to gate, before the streams are there: what the session of this connection is bound to,
    /// for a later home to hear.
    Wanted(Wanted<'a>),
    /// To a gate: the sender is the home of this connection's session from now on.
    Homed { conn: Slot, session: SessionId, account: AccountId, generation: u64 },
    /// To the owner of a stream: the sender is the home of its session from now on.
    Adopt { slot: Slot, session: SessionId, account: AccountId, stream: u32 },
    /// Home to owner, before `Attach`: the client that resumes does not list this stream. Either it has
    /// not heard of it yet, or it was told that the stream has ended.
    Unlisted { slot: Slot },
    /// Home to owner and gate, now and then: how the stream or connection stands as far as the home knows.
    Check(Check),
    /// Gate to home, now and then: a connection that it has.
    Leads(Leads),
    /// Gate to home: a session that it has, or had a moment ago, and whose home it has lost.
    Report(Report<'a>),
    /// Owner to home: a stream that it has, and whose home it has lost.
    Held(Held<'a>),
    /// To a home, and from a home to the last gate: this session has ended.
    Over { session: SessionId, account: AccountId, code: CloseCode },
    /// Home to home: a session, to be answered with `Taken`.
    HandOver(HandOver<'a>),
    /// Home to home: what must not be forgotten of sessions that were, to be answered with `Taken`.
    Past(Past),
    /// The new home has what came with this ticket.
    Taken { ticket: u64 },
    /// Home to home: a frame of `from` that came to where the home is not.
    Pass { from: WorkerId, hops: u8, payload: &'a [u8] },
    /// Home to all that may be home to sessions: a client wants to go on with this session, which the sender does not
    /// know. To be answered with `Sought`, after what ended it if that is known (`Over`).
    Seek { session: SessionId, account: AccountId },
    /// Whether the sender has the session that was sought.
    Sought { session: SessionId, account: AccountId, is_here: bool },
    /// To all homes: the sender knows the homes by this layout, and has said before this frame all
    /// that it had to say about sessions whose home is another one now.
    Settled { layout: u64 },
}

/// See [`HomeFrame::Wanted`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Wanted<'a> {
    pub conn: Slot,
    /// When the session began, by the wall clock of its first home.
    pub since_ms: u64,
    pub streams: Vec<Named<'a>>,
}

/// See [`HomeFrame::Check`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Check {
    /// Of the stream, or of the connection.
    pub slot: Slot,
    pub session: SessionId,
    pub account: AccountId,
    /// 0 for the connection.
    pub stream: u32,
    pub generation: u64,
    /// Whether the session is on a connection, the one of this generation.
    pub is_attached: bool,
}

/// See [`HomeFrame::Leads`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Leads {
    pub conn: Slot,
    pub session: SessionId,
    pub account: AccountId,
    pub generation: u64,
    /// What leads from it to owners.
    pub streams: Vec<u32>,
}

/// A stream by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Named<'a> {
    pub stream: u32,
    pub target: EntityId,
    pub name: &'a str,
}

/// See [`HomeFrame::Report`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Report<'a> {
    /// `None`: it waits for a resume.
    pub conn: Option<Slot>,
    pub session: SessionId,
    pub account: AccountId,
    pub level: u8,
    pub generation: u64,
    pub since_ms: u64,
    /// The home that is lost.
    pub lost: WorkerId,
    /// The highest handle of a stream that the gate has heard of.
    pub last_stream: u32,
    pub streams: Vec<Named<'a>>,
}

/// See [`HomeFrame::Held`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Held<'a> {
    pub session: SessionId,
    pub account: AccountId,
    pub level: u8,
    pub generation: u64,
    pub slot: Slot,
    /// The home that is lost.
    pub lost: WorkerId,
    pub stream: Named<'a>,
    /// What its entity last said of the session: whether it is logged in, and as what.
    pub tags: Option<(bool, Vec<&'a str>)>,
}

/// See [`HomeFrame::HandOver`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct HandOver<'a> {
    pub ticket: u64,
    pub session: SessionId,
    pub account: AccountId,
    pub level: u8,
    pub generation: u64,
    pub since_ms: u64,
    pub next_stream: u32,
    /// Runs of the handles that its homes have given out, at most [`HANDLE_RUNS_MAX`].
    pub given: Vec<Range<u32>>,
    /// The gate of its connection, or of its last one.
    pub gate: WorkerId,
    /// Its connection; `None` while it waits for a resume.
    pub conn: Option<Slot>,
    /// For how long it waits still.
    pub left_ms: u32,
    pub logged_in: bool,
    pub tags: Vec<&'a str>,
    pub streams: Vec<HandedStream<'a>>,
}

/// A stream of a session that is handed over.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct HandedStream<'a> {
    pub stream: Named<'a>,
    pub required: bool,
    pub lasting: bool,
    /// Its client may have been told that it has ended.
    pub is_doubtful: bool,
    /// Its client may have another stream under its handle.
    pub is_contested: bool,
    /// Its client may have heard of it although it is not open.
    pub may_be_told: bool,
    pub tries: u32,
    pub state: HandedState,
}

/// How far a stream is that is handed over.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum HandedState {
    Pausing,
    Asked { owner: WorkerId, generation: u64, seen: u64, groups: Vec<Seen> },
    Bound { owner: WorkerId, slot: Slot },
}

/// See [`HomeFrame::Past`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Past {
    pub ticket: u64,
    /// Used tickets, and when they expire in wall-clock milliseconds.
    pub used: Vec<(SessionId, AccountId, u64)>,
    /// How sessions ended, and for how many milliseconds that is remembered.
    pub ended: Vec<(SessionId, AccountId, CloseCode, u32)>,
}

mod kind {
    pub const WANTED: u8 = 0x70;
    pub const HOMED: u8 = 0x71;
    pub const ADOPT: u8 = 0x72;
    pub const REPORT: u8 = 0x73;
    pub const HELD: u8 = 0x74;
    pub const OVER: u8 = 0x75;
    pub const HAND_OVER: u8 = 0x76;
    pub const PAST: u8 = 0x77;
    pub const TAKEN: u8 = 0x78;
    pub const PASS: u8 = 0x79;
    pub const SETTLED: u8 = 0x7a;
    pub const UNLISTED: u8 = 0x7b;
    pub const CHECK: u8 = 0x7c;
    pub const SEEK: u8 = 0x7d;
    pub const SOUGHT: u8 = 0x7e;
    pub const LEADS: u8 = 0x7f;
}

impl<'a> HomeFrame<'a> {
    pub(super) const FIRST: u8 = kind::WANTED;
    pub(super) const LAST: u8 = kind::LEADS;

    pub(super) const fn kind(&self) -> u8 {
        match self {
            HomeFrame::Wanted(_) => kind::WANTED,
            HomeFrame::Homed { .. } => kind::HOMED,
            HomeFrame::Adopt { .. } => kind::ADOPT,
            HomeFrame::Report(_) => kind::REPORT,
            HomeFrame::Held(_) => kind::HELD,
            HomeFrame::Over { .. } => kind::OVER,
            HomeFrame::HandOver(_) => kind::HAND_OVER,
            HomeFrame::Past(_) => kind::PAST,
            HomeFrame::Taken { .. } => kind::TAKEN,
            HomeFrame::Pass { .. } => kind::PASS,
            HomeFrame::Settled { .. } => kind::SETTLED,
            HomeFrame::Unlisted { .. } => kind::UNLISTED,
            HomeFrame::Check(_) => kind::CHECK,
            HomeFrame::Leads(_) => kind::LEADS,
            HomeFrame::Seek { .. } => kind::SEEK,
            HomeFrame::Sought { .. } => kind::SOUGHT,
        }
    }

    pub(super) fn decode(kind: u8, r: &mut Reader<'a>) -> Result<Self, WireError> {
        Ok(match kind {
            kind::WANTED => HomeFrame::Wanted(Wanted {
                conn: read_slot(r)?,
                since_ms: r.varint()?,
                streams: read_list(r, RESUME_STREAMS_MAX, Named::decode)?,
            }),
            kind::HOMED => HomeFrame::Homed {
                conn: read_slot(r)?,
                session: SessionId(r.array()?),
                account: AccountId(r.varint()?),
                generation: r.varint()?,
            },
            kind::ADOPT => HomeFrame::Adopt {
                slot: read_slot(r)?,
                session: SessionId(r.array()?),
                account: AccountId(r.varint()?),
                stream: r.varint_u32()?,
            },
            kind::REPORT => HomeFrame::Report(Report::decode(r)?),
            kind::HELD => HomeFrame::Held(Held::decode(r)?),
            kind::OVER => HomeFrame::Over {
                session: SessionId(r.array()?),
                account: AccountId(r.varint()?),
                code: CloseCode::from_code(r.varint()?),
            },
            kind::HAND_OVER => HomeFrame::HandOver(HandOver::decode(r)?),
            kind::PAST => HomeFrame::Past(Past::decode(r)?),
            kind::TAKEN => HomeFrame::Taken { ticket: r.varint()? },
            kind::PASS => {
                HomeFrame::Pass { from: read_worker(r)?, hops: r.byte()?, payload: r.take_rest() }
            }
            kind::SETTLED => HomeFrame::Settled { layout: r.u64()? },
            kind::UNLISTED => HomeFrame::Unlisted { slot: read_slot(r)? },
            kind::CHECK => HomeFrame::Check(Check::decode(r)?),
            kind::LEADS => HomeFrame::Leads(Leads {
                conn: read_slot(r)?,
                session: SessionId(r.array()?),
                account: AccountId(r.varint()?),
                generation: r.varint()?,
                streams: read_list(r, RESUME_STREAMS_MAX, Reader::varint_u32)?,
            }),
            kind::SEEK => {
                HomeFrame::Seek { session: SessionId(r.array()?), account: AccountId(r.varint()?) }
            }
            kind::SOUGHT => HomeFrame::Sought {
                session: SessionId(r.array()?),
                account: AccountId(r.varint()?),
                is_here: r.flag()?,
            },
            other => return Err(WireError::Kind(other)),
        })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            HomeFrame::Wanted(Wanted { conn, since_ms, streams }) => {
                put_slot(out, *conn);
                put_varint(out, *since_ms);
                put_list(out, streams, |out, stream| stream.encode(out));
            }
            HomeFrame::Homed { conn, session, account, generation } => {
                put_slot(out, *conn);
                out.extend_from_slice(&session.0);
                put_varint(out, account.0);
                put_varint(out, *generation);
            }
            HomeFrame::Adopt { slot, session, account, stream } => {
                put_slot(out, *slot);
                out.extend_from_slice(&session.0);
                put_varint(out, account.0);
                put_varint(out, u64::from(*stream));
            }
            HomeFrame::Report(report) => report.encode(out),
            HomeFrame::Held(held) => held.encode(out),
            HomeFrame::Over { session, account, code } => {
                out.extend_from_slice(&session.0);
                put_varint(out, account.0);
                put_varint(out, *code as u64);
            }
            HomeFrame::HandOver(session) => session.encode(out),
            HomeFrame::Past(past) => past.encode(out),
            HomeFrame::Taken { ticket } => put_varint(out, *ticket),
            HomeFrame::Pass { from, hops, payload } => {
                put_worker(out, *from);
                out.push(*hops);
                out.extend_from_slice(payload);
            }
            HomeFrame::Settled { layout } => out.extend_from_slice(&layout.to_le_bytes()),
            HomeFrame::Unlisted { slot } => put_slot(out, *slot),
            HomeFrame::Check(check) => check.encode(out),
            HomeFrame::Leads(Leads { conn, session, account, generation, streams }) => {
                put_slot(out, *conn);
                out.extend_from_slice(&session.0);
                put_varint(out, account.0);
                put_varint(out, *generation);
                put_list(out, streams, |out, stream| put_varint(out, u64::from(*stream)));
            }
            HomeFrame::Seek { session, account } => {
                out.extend_from_slice(&session.0);
                put_varint(out, account.0);
            }
            HomeFrame::Sought { session, account, is_here } => {
                out.extend_from_slice(&session.0);
                put_varint(out, account.0);
                out.push((*is_here).into());
            }
        }
    }
}

impl Check {
    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Check {
            slot: read_slot(r)?,
            session: SessionId(r.array()?),
            account: AccountId(r.varint()?),
            stream: r.varint_u32()?,
            generation: r.varint()?,
            is_attached: r.flag()?,
        })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        put_slot(out, self.slot);
        out.extend_from_slice(&self.session.0);
        put_varint(out, self.account.0);
        put_varint(out, u64::from(self.stream));
        put_varint(out, self.generation);
        out.push(self.is_attached.into());
    }
}

impl<'a> Named<'a> {
    fn decode(r: &mut Reader<'a>) -> Result<Self, WireError> {
        Ok(Named {
            stream: r.varint_u32()?,
            target: read_entity(r)?,
            name: r.text(TEXT_BYTES_MAX)?,
        })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, u64::from(self.stream));
        put_entity(out, self.target);
        put_text(out, self.name);
    }
}

impl<'a> Report<'a> {
    fn decode(r: &mut Reader<'a>) -> Result<Self, WireError> {
        Ok(Report {
            conn: read_option(r, read_slot)?,
            session: SessionId(r.array()?),
            account: AccountId(r.varint()?),
            level: r.byte()?,
            generation: r.varint()?,
            since_ms: r.varint()?,
            lost: read_worker(r)?,
            last_stream: r.varint_u32()?,
            streams: read_list(r, RESUME_STREAMS_MAX, Named::decode)?,
        })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        put_option(out, self.conn.as_ref(), |out, slot| put_slot(out, *slot));
        out.extend_from_slice(&self.session.0);
        put_varint(out, self.account.0);
        out.push(self.level);
        put_varint(out, self.generation);
        put_varint(out, self.since_ms);
        put_worker(out, self.lost);
        put_varint(out, u64::from(self.last_stream));
        put_list(out, &self.streams, |out, stream| stream.encode(out));
    }
}

impl<'a> Held<'a> {
    fn decode(r: &mut Reader<'a>) -> Result<Self, WireError> {
        Ok(Held {
            session: SessionId(r.array()?),
            account: AccountId(r.varint()?),
            level: r.byte()?,
            generation: r.varint()?,
            slot: read_slot(r)?,
            lost: read_worker(r)?,
            stream: Named::decode(r)?,
            tags: read_option(r, |r| Ok((r.flag()?, read_tags(r)?)))?,
        })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.session.0);
        put_varint(out, self.account.0);
        out.push(self.level);
        put_varint(out, self.generation);
        put_slot(out, self.slot);
        put_worker(out, self.lost);
        self.stream.encode(out);
        put_option(out, self.tags.as_ref(), |out, (logged_in, tags)| {
            out.push(u8::from(*logged_in));
            put_list(out, tags, |out, tag| put_text(out, tag));
        });
    }
}

impl<'a> HandOver<'a> {
    fn decode(r: &mut Reader<'a>) -> Result<Self, WireError> {
        Ok(HandOver {
            ticket: r.varint()?,
            session: SessionId(r.array()?),
            account: AccountId(r.varint()?),
            level: r.byte()?,
            generation: r.varint()?,
            since_ms: r.varint()?,
            next_stream: r.varint_u32()?,
            given: read_list(r, HANDLE_RUNS_MAX, |r| Ok(r.varint_u32()?..r.varint_u32()?))?,
            gate: read_worker(r)?,
            conn: read_option(r, read_slot)?,
            left_ms: r.varint_u32()?,
            logged_in: r.flag()?,
            tags: read_tags(r)?,
            streams: read_list(r, RESUME_STREAMS_MAX, HandedStream::decode)?,
        })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.ticket);
        out.extend_from_slice(&self.session.0);
        put_varint(out, self.account.0);
        out.push(self.level);
        put_varint(out, self.generation);
        put_varint(out, self.since_ms);
        put_varint(out, u64::from(self.next_stream));
        put_list(out, &self.given, |out, run| {
            put_varint(out, u64::from(run.start));
            put_varint(out, u64::from(run.end));
        });
        put_worker(out, self.gate);
        put_option(out, self.conn.as_ref(), |out, slot| put_slot(out, *slot));
        put_varint(out, u64::from(self.left_ms));
        out.push(u8::from(self.logged_in));
        put_list(out, &self.tags, |out, tag| put_text(out, tag));
        put_list(out, &self.streams, |out, stream| stream.encode(out));
    }
}

impl<'a> HandedStream<'a> {
    fn decode(r: &mut Reader<'a>) -> Result<Self, WireError> {
        Ok(HandedStream {
            stream: Named::decode(r)?,
            required: r.flag()?,
            lasting: r.flag()?,
            is_doubtful: r.flag()?,
            is_contested: r.flag()?,
            may_be_told: r.flag()?,
            tries: r.varint_u32()?,
            state: match r.byte()? {
                0 => HandedState::Pausing,
                1 => HandedState::Asked {
                    owner: read_worker(r)?,
                    generation: r.varint()?,
                    seen: r.varint()?,
                    groups: read_seen(r, RESUME_GROUPS_MAX)?,
                },
                2 => HandedState::Bound { owner: read_worker(r)?, slot: read_slot(r)? },
                _ => return Err(WireError::Range),
            },
        })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        self.stream.encode(out);
        let Self { required, lasting, is_doubtful, is_contested, may_be_told, .. } = *self;
        let flags = [required, lasting, is_doubtful, is_contested, may_be_told];
        out.extend(flags.map(u8::from));
        put_varint(out, u64::from(self.tries));
        match &self.state {
            HandedState::Pausing => out.push(0),
            HandedState::Asked { owner, generation, seen, groups } => {
                out.push(1);
                put_worker(out, *owner);
                put_varint(out, *generation);
                put_varint(out, *seen);
                put_seen(out, groups, RESUME_GROUPS_MAX);
            }
            HandedState::Bound { owner, slot } => {
                out.push(2);
                put_worker(out, *owner);
                put_slot(out, *slot);
            }
        }
    }
}

impl Past {
    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Past {
            ticket: r.varint()?,
            used: read_list(r, PAST_MAX, |r| {
                Ok((SessionId(r.array()?), AccountId(r.varint()?), r.varint()?))
            })?,
            ended: read_list(r, PAST_MAX, |r| {
                let (session, account) = (SessionId(r.array()?), AccountId(r.varint()?));
                Ok((session, account, CloseCode::from_code(r.varint()?), r.varint_u32()?))
            })?,
        })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.ticket);
        put_list(out, &self.used, |out, (session, account, expires_ms)| {
            out.extend_from_slice(&session.0);
            put_varint(out, account.0);
            put_varint(out, *expires_ms);
        });
        put_list(out, &self.ended, |out, (session, account, code, left_ms)| {
            out.extend_from_slice(&session.0);
            put_varint(out, account.0);
            put_varint(out, *code as u64);
            put_varint(out, u64::from(*left_ms));
        });
    }
}

fn read_tags<'a>(r: &mut Reader<'a>) -> Result<Vec<&'a str>, WireError> {
    read_list(r, TAGS_MAX, |r| r.text(TEXT_BYTES_MAX))
}

fn read_list<'a, T>(
    r: &mut Reader<'a>,
    max: usize,
    read: impl Fn(&mut Reader<'a>) -> Result<T, WireError>,
) -> Result<Vec<T>, WireError> {
    let count = r.varint()?;
    if count > max as u64 {
        return Err(WireError::Range);
    }
    (0..count).map(|_| read(r)).collect()
}

fn put_list<T>(out: &mut Vec<u8>, items: &[T], put: impl Fn(&mut Vec<u8>, &T)) {
    put_varint(out, items.len() as u64);
    items.iter().for_each(|item| put(out, item));
}

fn read_option<'a, T>(
    r: &mut Reader<'a>,
    read: impl FnOnce(&mut Reader<'a>) -> Result<T, WireError>,
) -> Result<Option<T>, WireError> {
    Ok(if r.flag()? { Some(read(r)?) } else { None })
}

fn put_option<T>(out: &mut Vec<u8>, item: Option<&T>, put: impl FnOnce(&mut Vec<u8>, &T)) {
    out.push(u8::from(item.is_some()));
    if let Some(item) = item {
        put(out, item);
    }
}
