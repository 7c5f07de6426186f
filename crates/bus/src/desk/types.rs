use std::fmt;
use std::time::Duration;

use crate::Error;

/// Why what was asked for gave no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// As many wait here for the same workers as may: nothing was asked. Back off, tell whoever asked.
    #[error("{max} wait for the workers of {subject:?} already: back off")]
    Busy {
        /// What was asked.
        subject: String,
        /// The limit.
        max: usize,
    },
    /// It was cleared: what had not begun will not, what had begun goes on and its answer is dropped.
    #[error("it was cleared")]
    Cleared,
    /// It may be done or not, and its answer will be refused.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// Its workers failed as often as they may, the last time because of this. It is a dead letter.
    #[error("no worker could do it: {0}")]
    Failed(String),
    /// It was done by a worker who neither answered nor passed the right to answer on.
    #[error("its worker gave no answer")]
    Unanswered,
    /// The bus did not take it: `Busy` when its queue is full.
    #[error(transparent)]
    Bus(#[from] Error),
}

/// Why an answer was refused, or a job must not begin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// Drop it: whoever asked is not told.
    #[error("the right to answer {0}")]
    Refused(End),
    /// Nobody knows whether it came: who asked may be gone.
    #[error("whoever asked said nothing for {0:?}")]
    Unreachable(Duration),
    /// The bus cannot carry it.
    #[error(transparent)]
    Bus(#[from] Error),
}

/// How a right to answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum End {
    /// It was used.
    Used = 1,
    /// What was asked is cleared.
    Cleared = 2,
    /// The time for it is over, or it is forgotten.
    Expired = 3,
    /// It never was one: its token is wrong.
    Forged = 4,
}

impl End {
    pub(super) fn from_byte(byte: u8) -> Option<End> {
        [End::Used, End::Cleared, End::Expired, End::Forged]
            .into_iter()
            .find(|end| *end as u8 == byte)
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            End::Used => "was used before",
            End::Cleared => "was cleared: nobody waits for the answer",
            End::Expired => "has expired: nobody waits for the answer",
            End::Forged => "is none: its token is wrong",
        })
    }
}

/// The right to answer once. Plain data, which may go to another process in whatever message: whoever
/// has it may use it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Right {
    pub(super) desk: u128,
    pub(super) number: u64,
    pub(super) token: u128,
}

impl Right {
    /// As bytes: the desk, the number, the token, each little-endian.
    pub fn to_bytes(self) -> [u8; 40] {
        let mut bytes = [0; 40];
        bytes[..16].copy_from_slice(&self.desk.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.number.to_le_bytes());
        bytes[24..].copy_from_slice(&self.token.to_le_bytes());
        bytes
    }

    /// The contrary of [`to_bytes`](Self::to_bytes). What no desk gave is refused when it is used.
    pub fn from_bytes(bytes: [u8; 40]) -> Right {
        let part = |from: usize| {
            let (part, _) = bytes[from..].split_first_chunk::<16>().expect("40 bytes");
            u128::from_le_bytes(*part)
        };
        // The number is the lower half of what begins at its place.
        Right { desk: part(0), number: part(16) as u64, token: part(24) }
    }
}

impl fmt::Debug for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Who reads logs shall not be able to answer.
        f.debug_struct("Right").field("number", &self.number).finish_non_exhaustive()
    }
}

/// For whom something is asked: a client, and through what of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// The client: its account.
    pub client: u64,
    /// What of it may go away alone: a stream of a session.
    pub part: u128,
}

/// How an owner is gone. One that has ended is away as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gone {
    /// Its connection is lost. It may come back.
    Away,
    /// For good.
    Ended,
}

/// How something is asked.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// For whom, so that it can be cleared.
    pub owner: Option<Owner>,
    /// When it is cleared because its owner is gone; never if not set.
    pub ends: Option<Gone>,
    /// How long the answer is waited for.
    pub wait: Duration,
}

/// What was cleared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleared {
    /// So many had not begun: they will not.
    pub queued: usize,
    /// So many had begun: they go on, and their answers are dropped.
    pub begun: usize,
}

/// What a desk did since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct DeskCounters {
    pub asked: u64,
    pub answered: u64,
    /// Not asked, because too much waits.
    pub busy: u64,
    pub cleared: u64,
    /// Not answered in time.
    pub expired: u64,
    /// Answers to what was not asked, or no longer.
    pub refused: u64,
    /// What came and was no note of a desk.
    pub unreadable: u64,
}
