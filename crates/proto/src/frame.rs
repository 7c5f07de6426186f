//! The client leg: what a client and a gate say to each other.
//!
//! A frame is `varint length | head byte | header fields | body`, on every transport.
//! `docs/protocol.md` describes it byte by byte.

use crate::id::{MethodId, SessionId};
use crate::varint::{Reader, put_blob, put_varint, varint_len};
use crate::{KindId, WireError};

/// The protocol version that this build speaks.
pub const VERSION: u8 = 1;

/// First bytes of a plain TCP connection, before its first frame; tells it from HTTP.
pub const PREFACE: [u8; 4] = *b"MSY1";

/// Bits 5-7 of the head byte. All must be zero in version 1.
pub const HEAD_FLAGS: u8 = 0xe0;

/// The longest text field (names, reasons), in bytes.
pub const TEXT_BYTES_MAX: usize = 256;

/// The longest ticket, in bytes.
pub const TICKET_BYTES_MAX: usize = 1024;

/// The longest resume token, in bytes.
pub const TOKEN_BYTES_MAX: usize = 256;

/// The most streams that one `Resume` lists.
pub const RESUME_STREAMS_MAX: usize = 32;

/// The most memberships in groups that one `Resume` lists, one for each stream and group. With
/// [`RESUME_STREAMS_MAX`] streams a `Resume` fits the 4 KiB that a client may send before it is
/// let in, whatever the numbers are.
pub const RESUME_GROUPS_MAX: usize = 160;

/// Head byte values.
pub mod head {
    #![allow(missing_docs)]
    pub const HELLO: u8 = 0x01;
    pub const LOGIN: u8 = 0x02;
    pub const RESUME: u8 = 0x03;
    pub const TELL: u8 = 0x04;
    pub const REQUEST: u8 = 0x05;
    pub const ANSWER: u8 = 0x06;
    pub const ACK_UP: u8 = 0x07;
    pub const PING: u8 = 0x08;
    pub const PONG: u8 = 0x09;
    pub const CLOSE: u8 = 0x0a;
    pub const CHALLENGE: u8 = 0x11;
    pub const WELCOME: u8 = 0x12;
    pub const BOUND: u8 = 0x13;
    pub const UNBOUND: u8 = 0x14;
    pub const RESUMED: u8 = 0x15;
    pub const REPLY: u8 = 0x16;
    pub const PUSH: u8 = 0x17;
    pub const CALL: u8 = 0x18;
    pub const ACK_DOWN: u8 = 0x19;
    pub const CAST: u8 = 0x1a;
    pub const JOINED: u8 = 0x1b;
    pub const LEFT: u8 = 0x1c;
    pub const FAULT: u8 = 0x1d;
}

/// How a call or request ended; also the reason of a `Fault`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Status {
    Ok = 0,
    /// The method's own error; the body carries it.
    App = 1,
    /// No answer in time; the outcome is unknown.
    Timeout = 2,
    Busy = 3,
    Gone = 4,
    NotFound = 5,
    Denied = 6,
    BadArgument = 7,
    Cycle = 8,
    Unavailable = 9,
    /// The owner crashed and went back to an earlier state; the command did not last.
    RolledBack = 10,
    UnknownMethod = 11,
    /// The number was used before and its answer is no longer kept.
    Repeated = 12,
    /// The handler failed inside (a panic). Details stay on the server.
    Failed = 13,
}

impl Status {
    /// The status with `code`; an unknown code is `Failed`.
    pub const fn from_code(code: u64) -> Self {
        match code {
            0 => Status::Ok,
            1 => Status::App,
            2 => Status::Timeout,
            3 => Status::Busy,
            4 => Status::Gone,
            5 => Status::NotFound,
            6 => Status::Denied,
            7 => Status::BadArgument,
            8 => Status::Cycle,
            9 => Status::Unavailable,
            10 => Status::RolledBack,
            11 => Status::UnknownMethod,
            12 => Status::Repeated,
            _ => Status::Failed,
        }
    }
}

/// Why a connection or session was closed. The client decides by it what to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum CloseCode {
    /// The client or the game said goodbye: final.
    Goodbye = 0,
    /// Bytes that the protocol does not allow: final for this client build.
    Protocol = 1,
    /// Ticket missing, expired, reused or foreign: get a new ticket.
    Ticket = 2,
    /// The session is gone or too much was lost: log in again.
    SessionLost = 3,
    /// Another login of the account took over: final until the player acts.
    Replaced = 4,
    /// An operator or the game removed the player: final.
    Kicked = 5,
    /// Resume later or elsewhere: the server is going down or moving.
    GoingAway = 6,
    /// Too slow in reading: resume.
    SlowReader = 7,
    /// Too slow in sending or in logging in.
    SlowSender = 8,
    /// Over a limit: back off, then resume.
    Limit = 9,
    /// Silent too long: resume.
    Idle = 10,
    /// Nothing can serve the session now: try again later.
    Unavailable = 11,
    /// The client is too old: update.
    Version = 12,
    /// The second login was refused because the account is playing elsewhere.
    AlreadyPlaying = 13,
}

impl CloseCode {
    /// The code with number `code`; an unknown one is `Protocol`.
    pub const fn from_code(code: u64) -> Self {
        match code {
            0 => CloseCode::Goodbye,
            2 => CloseCode::Ticket,
            3 => CloseCode::SessionLost,
            4 => CloseCode::Replaced,
            5 => CloseCode::Kicked,
            6 => CloseCode::GoingAway,
            7 => CloseCode::SlowReader,
            8 => CloseCode::SlowSender,
            9 => CloseCode::Limit,
            10 => CloseCode::Idle,
            11 => CloseCode::Unavailable,
            12 => CloseCode::Version,
            13 => CloseCode::AlreadyPlaying,
            _ => CloseCode::Protocol,
        }
    }

    /// Whether the client may come back with its resume token.
    pub const fn may_resume(self) -> bool {
        matches!(
            self,
            CloseCode::GoingAway
                | CloseCode::SlowReader
                | CloseCode::SlowSender
                | CloseCode::Limit
                | CloseCode::Idle
                | CloseCode::Unavailable
        )
    }
}

/// Looks for one whole frame at the start of `bytes`.
///
/// Gives the payload (head byte onwards) and how many bytes it took with its length, or `None`
/// if more bytes are needed.
///
/// # Errors
///
/// `Empty` for a zero length, `TooLong` as soon as the length is known to be over `max`.
#[inline]
pub fn split_frame(bytes: &[u8], max: usize) -> Result<Option<(&[u8], usize)>, WireError> {
    let mut reader = Reader::new(bytes);
    let len = match reader.varint() {
        Ok(len) => len,
        Err(WireError::Truncated) => return Ok(None),
        Err(error) => return Err(error),
    };
    if len == 0 {
        return Err(WireError::Empty);
    }
    if len > max as u64 {
        return Err(WireError::TooLong { len, max });
    }
    let start = bytes.len() - reader.rest().len();
    let end = start + len as usize;
    Ok(bytes.get(start..end).map(|payload| (payload, end)))
}

/// Appends one frame whose payload `write` produces.
///
/// The length is known only afterwards, so one byte is reserved and the rarer longer payload is
/// moved by the few bytes its length needs. Allocates nothing but what `out` grows by.
#[inline(always)]
pub fn put_frame(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = open_frame(out);
    write(out);
    close_frame(out, start);
}

/// Begins a frame, whose payload is to be appended next; gives what [`close_frame`] wants to know.
#[inline(always)]
pub fn open_frame(out: &mut Vec<u8>) -> usize {
    out.push(0);
    out.len() - 1
}

/// Ends the frame that [`open_frame`] began at `start`; gives the length of its payload.
#[inline(always)]
pub fn close_frame(out: &mut Vec<u8>, start: usize) -> usize {
    let len = out.len() - start - 1;
    if len < 0x80 {
        out[start] = len as u8;
    } else {
        make_room_for_length(out, start, len as u64);
    }
    len
}

#[inline(never)]
fn make_room_for_length(out: &mut Vec<u8>, start: usize, len: u64) {
    let end = out.len();
    let more = varint_len(len) - 1;
    out.resize(end + more, 0);
    out.copy_within(start + 1..end, start + 1 + more);
    let mut rest = len;
    for byte in &mut out[start..start + more] {
        *byte = rest as u8 | 0x80;
        rest >>= 7;
    }
    out[start + more] = rest as u8;
}

/// A stream or group, and how far its client has come in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Handle of the stream or group.
    pub handle: u32,
    /// Number of the last frame that the client handled.
    pub number: u64,
}

/// A membership that a resuming client lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeenGroup {
    /// Handle of the group.
    pub group: u32,
    /// Handle of the stream by which the client is a member.
    pub stream: u32,
    /// Number of the last cast that the client handled.
    pub number: u64,
}

/// What a client sends.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum UpFrame<'a> {
    Hello {
        version: u8,
        features: u64,
        interface: u64,
        agent: &'a str,
    },
    Login {
        ticket: &'a [u8],
        proof: [u8; 32],
    },
    /// `generation` is the one that the client asks for: one more than the highest it was ever
    /// given or asked for. So of two racing resumes exactly one wins.
    Resume {
        token: &'a [u8],
        proof: [u8; 32],
        generation: u64,
        streams: Vec<Seen>,
        groups: Vec<SeenGroup>,
    },
    /// Any frame of a stream: `Tell`, `Request`, `Answer`, `Ack`.
    Stream {
        stream: u32,
        frame: StreamUp<'a>,
    },
    Ping {
        token: u64,
    },
    Pong {
        token: u64,
    },
    Close {
        code: CloseCode,
        reason: &'a str,
    },
}

/// A frame from a client to the entity behind one of its streams.
///
/// `number` counts 1, 2, 3 ... within the stream; 0 marks a frame that may be lost.
/// `ack` is the number of the last frame of the other direction that was handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum StreamUp<'a> {
    Tell {
        number: u64,
        ack: u64,
        method: MethodId,
        body: &'a [u8],
    },
    /// `deadline_ms` 0 means the method's own deadline.
    Request {
        number: u64,
        ack: u64,
        method: MethodId,
        deadline_ms: u32,
        body: &'a [u8],
    },
    Answer {
        number: u64,
        ack: u64,
        call: u64,
        status: Status,
        body: &'a [u8],
    },
    Ack {
        ack: u64,
    },
}

impl<'a> UpFrame<'a> {
    /// Reads a payload as [`split_frame`] gives it.
    pub fn decode(payload: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(payload);
        let head = read_head(&mut reader)?;
        let frame = match head {
            head::HELLO => UpFrame::Hello {
                version: reader.byte()?,
                features: reader.varint()?,
                interface: reader.u64()?,
                agent: reader.text(TEXT_BYTES_MAX)?,
            },
            head::LOGIN => {
                UpFrame::Login { ticket: reader.blob(TICKET_BYTES_MAX)?, proof: reader.array()? }
            }
            head::RESUME => UpFrame::Resume {
                token: reader.blob(TOKEN_BYTES_MAX)?,
                proof: reader.array()?,
                generation: reader.varint()?,
                streams: read_seen(&mut reader, RESUME_STREAMS_MAX)?,
                groups: read_seen_groups(&mut reader)?,
            },
            head::TELL | head::REQUEST | head::ANSWER | head::ACK_UP => {
                let stream = reader.varint_u32()?;
                let frame = StreamUp::decode_fields(head, &mut reader)?;
                return Ok(UpFrame::Stream { stream, frame });
            }
            head::PING => UpFrame::Ping { token: reader.varint()? },
            head::PONG => UpFrame::Pong { token: reader.varint()? },
            head::CLOSE => UpFrame::Close {
                code: CloseCode::from_code(reader.varint()?),
                reason: reader.text(TEXT_BYTES_MAX)?,
            },
            other => return Err(WireError::Kind(other)),
        };
        reader.end()?;
        Ok(frame)
    }

    /// Appends the payload (no length).
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            UpFrame::Hello { version, features, interface, agent } => {
                out.extend_from_slice(&[head::HELLO, *version]);
                put_varint(out, *features);
                out.extend_from_slice(&interface.to_le_bytes());
                put_text(out, agent);
            }
            UpFrame::Login { ticket, proof } => {
                out.push(head::LOGIN);
                put_blob(out, ticket);
                out.extend_from_slice(proof);
            }
            UpFrame::Resume { token, proof, generation, streams, groups } => {
                out.push(head::RESUME);
                put_blob(out, token);
                out.extend_from_slice(proof);
                put_varint(out, *generation);
                put_seen(out, streams, RESUME_STREAMS_MAX);
                put_seen_groups(out, groups);
            }
            UpFrame::Stream { stream, frame } => {
                out.push(frame.head());
                put_varint(out, u64::from(*stream));
                frame.encode_fields(out);
            }
            UpFrame::Ping { token } => put_token(out, head::PING, *token),
            UpFrame::Pong { token } => put_token(out, head::PONG, *token),
            UpFrame::Close { code, reason } => put_close(out, *code, reason),
        }
    }
}

impl<'a> StreamUp<'a> {
    /// The head byte of this frame.
    pub const fn head(&self) -> u8 {
        match self {
            StreamUp::Tell { .. } => head::TELL,
            StreamUp::Request { .. } => head::REQUEST,
            StreamUp::Answer { .. } => head::ANSWER,
            StreamUp::Ack { .. } => head::ACK_UP,
        }
    }

    /// Reads the fields that follow the stream handle. This is what a gate forwards:
    /// it takes out the handle and leaves head and fields as they came.
    #[inline]
    pub fn decode_fields(head: u8, reader: &mut Reader<'a>) -> Result<Self, WireError> {
        if head == head::ACK_UP {
            let ack = reader.varint()?;
            reader.end()?;
            return Ok(StreamUp::Ack { ack });
        }
        let number = reader.varint()?;
        let ack = reader.varint()?;
        Ok(match head {
            head::TELL => {
                let method = MethodId(reader.u32()?);
                StreamUp::Tell { number, ack, method, body: reader.take_rest() }
            }
            head::REQUEST => {
                let method = MethodId(reader.u32()?);
                let deadline_ms = reader.varint_u32()?;
                StreamUp::Request { number, ack, method, deadline_ms, body: reader.take_rest() }
            }
            head::ANSWER => {
                let call = reader.varint()?;
                let status = Status::from_code(reader.varint()?);
                StreamUp::Answer { number, ack, call, status, body: reader.take_rest() }
            }
            other => return Err(WireError::Kind(other)),
        })
    }

    /// Appends the fields that follow the stream handle.
    pub fn encode_fields(&self, out: &mut Vec<u8>) {
        match *self {
            StreamUp::Tell { number, ack, method, body } => {
                put_varint(out, number);
                put_varint(out, ack);
                out.extend_from_slice(&method.0.to_le_bytes());
                out.extend_from_slice(body);
            }
            StreamUp::Request { number, ack, method, deadline_ms, body } => {
                put_varint(out, number);
                put_varint(out, ack);
                out.extend_from_slice(&method.0.to_le_bytes());
                put_varint(out, u64::from(deadline_ms));
                out.extend_from_slice(body);
            }
            StreamUp::Answer { number, ack, call, status, body } => {
                put_varint(out, number);
                put_varint(out, ack);
                put_varint(out, call);
                put_varint(out, status as u64);
                out.extend_from_slice(body);
            }
            StreamUp::Ack { ack } => put_varint(out, ack),
        }
    }
}

/// What a client receives.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum DownFrame<'a> {
    Challenge {
        version: u8,
        features: u64,
        nonce: [u8; 16],
        wall_ms: u64,
    },
    Welcome(Welcome<'a>),
    /// A stream now leads to an entity of `kind`. The client's numbering of a stream starts at 1
    /// in each epoch.
    Bound {
        stream: u32,
        kind: KindId,
        epoch: u64,
        name: &'a str,
    },
    Unbound {
        stream: u32,
        code: CloseCode,
    },
    /// After a resume, once per stream: what the entity has applied and saved. The client sends
    /// the rest again; then what it missed follows.
    Resumed {
        stream: u32,
        epoch: u64,
        applied: u64,
        durable: u64,
    },
    Reply {
        stream: u32,
        number: u64,
        ack: u64,
        request: u64,
        status: Status,
        body: &'a [u8],
    },
    Push {
        stream: u32,
        number: u64,
        ack: u64,
        method: MethodId,
        body: &'a [u8],
    },
    Call {
        stream: u32,
        number: u64,
        ack: u64,
        call: u64,
        deadline_ms: u32,
        method: MethodId,
        body: &'a [u8],
    },
    Ack {
        stream: u32,
        applied: u64,
        durable: u64,
    },
    /// `number` 0: a live group, unnumbered.
    Cast {
        group: u32,
        number: u64,
        method: MethodId,
        body: &'a [u8],
    },
    /// The client is in a group now by `stream`; its next numbered cast is `number + 1`. The
    /// membership ends with the stream, or before it with `Left`.
    Joined {
        group: u32,
        stream: u32,
        kind: KindId,
        number: u64,
        name: &'a str,
    },
    /// The client is not in a group any more by `stream`.
    Left {
        group: u32,
        stream: u32,
    },
    /// Frame `number` of `stream` did not reach an entity.
    Fault {
        stream: u32,
        number: u64,
        status: Status,
    },
    Ping {
        token: u64,
    },
    Pong {
        token: u64,
    },
    Close {
        code: CloseCode,
        reason: &'a str,
    },
}

/// Admission: what the client needs to know from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome<'a> {
    /// The session.
    pub session: SessionId,
    /// How often the session was bound to a connection; rises with each resume.
    pub generation: u64,
    /// Whether this answers a `Resume` (streams go on) or a `Login` (streams are new).
    pub resumed: bool,
    /// Shown at the next resume.
    pub token: &'a [u8],
    /// How long after a break the session can be resumed, in milliseconds.
    pub resume_window_ms: u32,
    /// Send something at least this often, in milliseconds.
    pub heartbeat_ms: u32,
    /// The longest frame payload the gate accepts, in bytes.
    pub frame_bytes_max: u32,
}

impl<'a> DownFrame<'a> {
    /// Reads a payload as [`split_frame`] gives it.
    pub fn decode(payload: &'a [u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(payload);
        let frame = match read_head(&mut r)? {
            head::CHALLENGE => DownFrame::Challenge {
                version: r.byte()?,
                features: r.varint()?,
                nonce: r.array()?,
                wall_ms: r.varint()?,
            },
            head::WELCOME => DownFrame::Welcome(Welcome {
                session: SessionId(r.array()?),
                generation: r.varint()?,
                resumed: r.flag()?,
                token: r.blob(TOKEN_BYTES_MAX)?,
                resume_window_ms: r.varint_u32()?,
                heartbeat_ms: r.varint_u32()?,
                frame_bytes_max: r.varint_u32()?,
            }),
            head::BOUND => DownFrame::Bound {
                stream: r.varint_u32()?,
                kind: KindId(r.u32()?),
                epoch: r.varint()?,
                name: r.text(TEXT_BYTES_MAX)?,
            },
            head::UNBOUND => DownFrame::Unbound {
                stream: r.varint_u32()?,
                code: CloseCode::from_code(r.varint()?),
            },
            head::RESUMED => DownFrame::Resumed {
                stream: r.varint_u32()?,
                epoch: r.varint()?,
                applied: r.varint()?,
                durable: r.varint()?,
            },
            head::REPLY => {
                return Ok(DownFrame::Reply {
                    stream: r.varint_u32()?,
                    number: r.varint()?,
                    ack: r.varint()?,
                    request: r.varint()?,
                    status: Status::from_code(r.varint()?),
                    body: r.take_rest(),
                });
            }
            head::PUSH => {
                return Ok(DownFrame::Push {
                    stream: r.varint_u32()?,
                    number: r.varint()?,
                    ack: r.varint()?,
                    method: MethodId(r.u32()?),
                    body: r.take_rest(),
                });
            }
            head::CALL => {
                return Ok(DownFrame::Call {
                    stream: r.varint_u32()?,
                    number: r.varint()?,
                    ack: r.varint()?,
                    call: r.varint()?,
                    deadline_ms: r.varint_u32()?,
                    method: MethodId(r.u32()?),
                    body: r.take_rest(),
                });
            }
            head::ACK_DOWN => DownFrame::Ack {
                stream: r.varint_u32()?,
                applied: r.varint()?,
                durable: r.varint()?,
            },
            head::CAST => {
                return Ok(DownFrame::Cast {
                    group: r.varint_u32()?,
                    number: r.varint()?,
                    method: MethodId(r.u32()?),
                    body: r.take_rest(),
                });
            }
            head::JOINED => DownFrame::Joined {
                group: r.varint_u32()?,
                stream: r.varint_u32()?,
                kind: KindId(r.u32()?),
                number: r.varint()?,
                name: r.text(TEXT_BYTES_MAX)?,
            },
            head::LEFT => DownFrame::Left { group: r.varint_u32()?, stream: r.varint_u32()? },
            head::FAULT => DownFrame::Fault {
                stream: r.varint_u32()?,
                number: r.varint()?,
                status: Status::from_code(r.varint()?),
            },
            head::PING => DownFrame::Ping { token: r.varint()? },
            head::PONG => DownFrame::Pong { token: r.varint()? },
            head::CLOSE => DownFrame::Close {
                code: CloseCode::from_code(r.varint()?),
                reason: r.text(TEXT_BYTES_MAX)?,
            },
            other => return Err(WireError::Kind(other)),
        };
        r.end()?;
        Ok(frame)
    }

    /// Appends the payload (no length).
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            DownFrame::Challenge { version, features, nonce, wall_ms } => {
                out.extend_from_slice(&[head::CHALLENGE, *version]);
                put_varint(out, *features);
                out.extend_from_slice(nonce);
                put_varint(out, *wall_ms);
            }
            DownFrame::Welcome(welcome) => welcome.encode(out),
            DownFrame::Bound { stream, kind, epoch, name } => {
                put_head(out, head::BOUND, *stream);
                out.extend_from_slice(&kind.0.to_le_bytes());
                put_varint(out, *epoch);
                put_text(out, name);
            }
            DownFrame::Unbound { stream, code } => {
                put_head(out, head::UNBOUND, *stream);
                put_varint(out, *code as u64);
            }
            DownFrame::Resumed { stream, epoch, applied, durable } => {
                put_head(out, head::RESUMED, *stream);
                put_varint(out, *epoch);
                put_varint(out, *applied);
                put_varint(out, *durable);
            }
            DownFrame::Reply { stream, number, ack, request, status, body } => {
                put_numbered(out, head::REPLY, *stream, *number, *ack);
                put_varint(out, *request);
                put_varint(out, *status as u64);
                out.extend_from_slice(body);
            }
            DownFrame::Push { stream, number, ack, method, body } => {
                put_numbered(out, head::PUSH, *stream, *number, *ack);
                out.extend_from_slice(&method.0.to_le_bytes());
                out.extend_from_slice(body);
            }
            DownFrame::Call { stream, number, ack, call, deadline_ms, method, body } => {
                put_numbered(out, head::CALL, *stream, *number, *ack);
                put_varint(out, *call);
                put_varint(out, u64::from(*deadline_ms));
                out.extend_from_slice(&method.0.to_le_bytes());
                out.extend_from_slice(body);
            }
            DownFrame::Ack { stream, applied, durable } => {
                put_head(out, head::ACK_DOWN, *stream);
                put_varint(out, *applied);
                put_varint(out, *durable);
            }
            DownFrame::Cast { group, number, method, body } => {
                put_head(out, head::CAST, *group);
                put_varint(out, *number);
                out.extend_from_slice(&method.0.to_le_bytes());
                out.extend_from_slice(body);
            }
            DownFrame::Joined { group, stream, kind, number, name } => {
                put_head(out, head::JOINED, *group);
                put_varint(out, u64::from(*stream));
                out.extend_from_slice(&kind.0.to_le_bytes());
                put_varint(out, *number);
                put_text(out, name);
            }
            DownFrame::Left { group, stream } => {
                put_head(out, head::LEFT, *group);
                put_varint(out, u64::from(*stream));
            }
            DownFrame::Fault { stream, number, status } => {
                put_head(out, head::FAULT, *stream);
                put_varint(out, *number);
                put_varint(out, *status as u64);
            }
            DownFrame::Ping { token } => put_token(out, head::PING, *token),
            DownFrame::Pong { token } => put_token(out, head::PONG, *token),
            DownFrame::Close { code, reason } => put_close(out, *code, reason),
        }
    }
}

impl Welcome<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(head::WELCOME);
        out.extend_from_slice(&self.session.0);
        put_varint(out, self.generation);
        out.push(u8::from(self.resumed));
        put_blob(out, self.token);
        put_varint(out, u64::from(self.resume_window_ms));
        put_varint(out, u64::from(self.heartbeat_ms));
        put_varint(out, u64::from(self.frame_bytes_max));
    }
}

fn read_head(reader: &mut Reader<'_>) -> Result<u8, WireError> {
    let head = reader.byte()?;
    if head & HEAD_FLAGS != 0 {
        return Err(WireError::Kind(head));
    }
    Ok(head)
}

pub(crate) fn read_seen(reader: &mut Reader<'_>, max: usize) -> Result<Vec<Seen>, WireError> {
    let count = read_count(reader, max)?;
    (0..count)
        .map(|_| Ok(Seen { handle: reader.varint_u32()?, number: reader.varint()? }))
        .collect()
}

pub(crate) fn read_seen_groups(reader: &mut Reader<'_>) -> Result<Vec<SeenGroup>, WireError> {
    let count = read_count(reader, RESUME_GROUPS_MAX)?;
    let item = |reader: &mut Reader<'_>| {
        let (group, stream) = (reader.varint_u32()?, reader.varint_u32()?);
        Ok(SeenGroup { group, stream, number: reader.varint()? })
    };
    (0..count).map(|_| item(reader)).collect()
}

fn read_count(reader: &mut Reader<'_>, max: usize) -> Result<u64, WireError> {
    let count = reader.varint()?;
    if count > max as u64 { Err(WireError::Range) } else { Ok(count) }
}

/// Appends the first `max` items: what is left off counts as not seen.
pub(crate) fn put_seen(out: &mut Vec<u8>, items: &[Seen], max: usize) {
    let items = &items[..items.len().min(max)];
    put_varint(out, items.len() as u64);
    for item in items {
        put_varint(out, u64::from(item.handle));
        put_varint(out, item.number);
    }
}

/// Appends the first [`RESUME_GROUPS_MAX`] items: what is left off counts as not seen.
pub(crate) fn put_seen_groups(out: &mut Vec<u8>, items: &[SeenGroup]) {
    let items = &items[..items.len().min(RESUME_GROUPS_MAX)];
    put_varint(out, items.len() as u64);
    for item in items {
        put_varint(out, u64::from(item.group));
        put_varint(out, u64::from(item.stream));
        put_varint(out, item.number);
    }
}

fn put_head(out: &mut Vec<u8>, head: u8, handle: u32) {
    out.push(head);
    put_varint(out, u64::from(handle));
}

fn put_numbered(out: &mut Vec<u8>, head: u8, stream: u32, number: u64, ack: u64) {
    put_head(out, head, stream);
    put_varint(out, number);
    put_varint(out, ack);
}

fn put_token(out: &mut Vec<u8>, head: u8, token: u64) {
    out.push(head);
    put_varint(out, token);
}

fn put_close(out: &mut Vec<u8>, code: CloseCode, reason: &str) {
    out.push(head::CLOSE);
    put_varint(out, code as u64);
    put_text(out, reason);
}

/// Appends a text field; what is over its limit is left off.
pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    put_blob(out, cut(text).as_bytes());
}

/// The longest prefix of `text` that fits a text field.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
