use std::sync::Arc;

use env::Instant;
use proto::frame::{CloseCode, Status};
use proto::{KindId, MethodId, SessionId};

use crate::error::{CallError, End, Lost};

/// Names one request of one [`Core`](crate::Core).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Names one tell of one [`Core`](crate::Core).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TellId(pub u64);

/// Names one call of the server that waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// What happened, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The server let us in.
    Connected {
        /// The session.
        session: SessionId,
        /// Whether the session goes on (true) or is new (false).
        resumed: bool,
    },
    /// A stream leads to an entity of `kind` now, or to another one than before.
    Bound {
        /// The stream's name.
        stream: Arc<str>,
        /// What it leads to.
        kind: KindId,
    },
    /// A stream ended. Its open requests have failed.
    Unbound {
        /// The stream's name.
        stream: Arc<str>,
        /// Why.
        code: CloseCode,
    },
    /// A message of the entity behind `stream`.
    Push {
        /// The stream's name.
        stream: Arc<str>,
        /// Which message.
        method: MethodId,
        /// Its encoded arguments.
        body: Vec<u8>,
    },
    /// The entity behind `stream` asks; answer with [`Core::answer`](crate::Core::answer).
    Call {
        /// For the answer.
        call: CallId,
        /// The stream's name.
        stream: Arc<str>,
        /// Which method.
        method: MethodId,
        /// When the server stops waiting.
        deadline: Instant,
        /// Its encoded arguments.
        body: Vec<u8>,
    },
    /// We take part in a group now, or (after a resume) still do.
    Joined {
        /// The group's name.
        group: Arc<str>,
        /// What it carries.
        kind: KindId,
        /// How many messages of it we missed for good, because we were away too long: fetch anew
        /// what they would have told. 0 if none, and when we come in.
        missed: u64,
    },
    /// We no longer take part in a group.
    Left {
        /// The group's name.
        group: Arc<str>,
    },
    /// A message to all members of a group.
    Cast {
        /// The group's name.
        group: Arc<str>,
        /// Which message.
        method: MethodId,
        /// Its encoded arguments.
        body: Vec<u8>,
    },
    /// A request ended. Comes exactly once for each that was taken.
    Reply {
        /// Which request.
        request: RequestId,
        /// The encoded answer, or why there is none.
        result: Result<Vec<u8>, CallError>,
    },
    /// A tell reached the entity's node but was not taken, such as by a full mailbox.
    Refused {
        /// The stream's name.
        stream: Arc<str>,
        /// Which tell; `None` for one that was sent as `tell_latest`.
        tell: Option<TellId>,
        /// Why.
        status: Status,
    },
    /// The stream of a tell ended before the server said that it was handled. A tell that is
    /// neither named by this nor by [`Refused`](Event::Refused) was handled, or, after
    /// [`RolledBack`](Event::RolledBack), had been.
    Unconfirmed {
        /// The stream's name.
        stream: Arc<str>,
        /// Which tell.
        tell: TellId,
        /// If true, it may have been handled or not. If false, it was not and will not be: repeat
        /// it at will.
        sent: bool,
    },
    /// The entity behind `stream` crashed and went back to an earlier state. Its commands after
    /// `durable` did not last; requests among them that waited have failed with `RolledBack`.
    RolledBack {
        /// The stream's name.
        stream: Arc<str>,
        /// Number of the last command known to have been saved.
        durable: u64,
        /// Number of the last command sent.
        sent: u64,
    },
    /// The connection broke; the session goes on and reconnecting has begun.
    Lost {
        /// Why.
        reason: Lost,
    },
    /// Attempt `attempt` (1, 2, ...) to connect comes at `at`.
    Retry {
        /// Which attempt in a row.
        attempt: u32,
        /// When.
        at: Instant,
    },
    /// The session is over. All requests have failed, and tells that were not known to be handled
    /// were named as unconfirmed; streams and groups are gone.
    Ended {
        /// Why, and what can be done next.
        end: End,
    },
}

/// What the loop around a [`Core`](crate::Core) has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Connect; answer with `handle_connected`, or `handle_closed` if it fails.
    Connect {
        /// How often it was tried since the server last let us in; for choosing an address.
        attempt: u32,
    },
    /// Send what [`Core::outgoing`](crate::Core::outgoing) holds.
    Flush,
    /// Close the connection, or stop connecting, and report nothing more of it.
    Close,
}

/// What carries the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A plain byte stream; begins with the preface.
    Tcp,
    /// WebSocket messages; the handshake took the preface's place.
    WebSocket,
}
