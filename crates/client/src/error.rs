use proto::frame::{CloseCode, Status};

/// Why a request gave no value, or why nothing could be sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The method's own error, encoded as the method declares it.
    #[error("the method answered with its own error ({} bytes)", .0.len())]
    App(Vec<u8>),
    /// The server refused or failed it; `Busy` and `Unavailable` may be tried again later.
    #[error("the server answered {0:?}")]
    Refused(Status),
    /// No answer in time. It may have run: repeat only what is idempotent.
    #[error("no answer in time; the request may have run")]
    Timeout,
    /// There was no connection in time, or its stream ended before. It did not run and will not:
    /// repeat it at will.
    #[error("the request was not sent")]
    NotSent,
    /// The server went back to a state before this command; it did not last.
    #[error("the server went back to an earlier state")]
    RolledBack,
    /// Too much waits for the server already. Nothing was sent: back off.
    #[error("{frames} commands of {bytes} bytes wait for the server already")]
    Full {
        /// Commands that wait.
        frames: usize,
        /// Bytes of their bodies.
        bytes: usize,
    },
    /// The body is longer than the server accepts.
    #[error("a frame of {len} bytes is over the server's limit of {max}")]
    TooLong {
        /// Length of the frame, in bytes.
        len: usize,
        /// The limit, in bytes.
        max: usize,
    },
    /// No stream of that name is bound.
    #[error("no stream {0:?} is bound")]
    NotBound(String),
    /// The answer is not of the type that was asked for: the program is older or newer than the
    /// server.
    #[error("the answer cannot be read: {0}")]
    BadReply(proto::DecodeError),
    /// The session ended; see [`End::next`].
    #[error("the session ended: {0}")]
    Ended(End),
}

impl CallError {
    /// The method's own error as `E`, if it is one.
    pub fn app<E: proto::Message>(&self) -> Option<E> {
        match self {
            CallError::App(body) => proto::decode(body).ok(),
            _ => None,
        }
    }
}

/// Why a session ended for good.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum End {
    /// The server closed it.
    #[error("closed by the server: {code:?} {reason}")]
    Server {
        /// The kind of reason.
        code: CloseCode,
        /// For logs and, if the game says so, for the player.
        reason: String,
    },
    /// The server's bytes are not of this protocol, or the versions do not match.
    #[error("the server speaks something else: {0}")]
    Protocol(String),
    /// No server could be reached within the allowed tries.
    #[error("no server answered")]
    Unreachable,
    /// This side said goodbye.
    #[error("logged out")]
    Goodbye,
}

/// What can be done after an [`End`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Get a new ticket and log in again; no need to ask the player.
    Login,
    /// Ask the player: the account is in use elsewhere.
    Ask,
    /// This program is too old for the server.
    Update,
    /// Try again later.
    Later,
    /// Nothing: it is over.
    Stop,
}

impl End {
    /// What can be done now.
    pub fn next(&self) -> Next {
        match self {
            End::Server { code, .. } => match code {
                CloseCode::Ticket | CloseCode::SessionLost => Next::Login,
                CloseCode::Replaced | CloseCode::AlreadyPlaying => Next::Ask,
                CloseCode::Version => Next::Update,
                code if code.may_resume() => Next::Later,
                _ => Next::Stop,
            },
            End::Protocol(_) => Next::Update,
            End::Unreachable => Next::Later,
            End::Goodbye => Next::Stop,
        }
    }
}

/// Why a connection broke; the session goes on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Lost {
    /// The connection ended or could not be made.
    #[error("connection closed")]
    Closed,
    /// The server said to come back.
    #[error("server said {0:?}")]
    Told(CloseCode),
    /// The server was silent too long.
    #[error("server is silent")]
    Silent,
    /// Connecting or the handshake took too long.
    #[error("connecting took too long")]
    Slow,
    /// The server does not read what we send.
    #[error("server does not read")]
    Stuck,
    /// A numbered frame was missing.
    #[error("a frame was missing")]
    Gap,
    /// This side cut it on purpose, see [`Core::cut`](crate::Core::cut).
    #[error("cut on purpose")]
    Cut,
}
