use std::fmt;
use std::time::Duration;

use proto::frame::Status;
use proto::{EntityId, Incarnation, Namespace};

/// Why a call gave no reply. Each variant says what the caller can do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The handler may have run: retry only what is idempotent.
    #[error("no reply from {target} within {waited:?}")]
    Timeout {
        /// Who was called.
        target: EntityId,
        /// How long the caller waited.
        waited: Duration,
    },
    /// A mailbox, a queue or the number of calls in flight is at its limit. Nothing was done: back
    /// off, then retry.
    #[error("{0} is busy: a mailbox or the number of calls in flight is at its limit")]
    Busy(EntityId),
    /// Final: the entity existed and is no more.
    #[error("{0} is gone")]
    Gone(EntityId),
    /// Final: there is no such entity or kind.
    #[error("{0} does not exist{hint}", hint = Unnamed(*.0))]
    NotFound(EntityId),
    /// Nothing was done: its node runs a release that does not have the method, yet or any more. Do
    /// without it while both releases run.
    #[error("{0} is at a node whose release does not have this method")]
    UnknownMethod(EntityId),
    /// Final: this caller may not call the method.
    #[error("{0} may not be called like this")]
    Denied(EntityId),
    /// Final: an argument is outside what the method allows, or could not be read.
    #[error("{target} refused an argument: {problem}")]
    BadArgument {
        /// Who was called.
        target: EntityId,
        /// Which argument, and why.
        problem: Box<str>,
    },
    /// The call would have waited on itself. Change who calls whom, make one of the methods
    /// `interleave`, or answer with a `tell`.
    #[error("the call would wait on itself: {}", Ring(ring))]
    Cycle {
        /// Who waits for whom; the last waits for the first.
        ring: Box<[EntityId]>,
    },
    /// Its node is away, or it is quarantined. Nothing was done: retry later.
    #[error("{0} cannot be reached now")]
    Unavailable(EntityId),
    /// Its owner went back to an earlier state: what this call did, did not last.
    #[error("{0} went back to an earlier state")]
    RolledBack(EntityId),
    /// The handler panicked; the log of its node says how.
    #[error("the handler of {0} failed")]
    Failed(EntityId),
    /// Whoever called the turn that made this call no longer waits, or its entity was destroyed.
    /// The outcome is unknown. Finish quickly: nobody reads the answer.
    #[error("the call to {0} was given up, because nobody waits for its caller")]
    Cancelled(EntityId),
}

/// Why a method that has an error of its own gave no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure<E> {
    /// The call itself failed.
    #[error(transparent)]
    Call(CallError),
    /// The method answered with its own error.
    #[error("the method answered with an error")]
    App(E),
}

impl<E> From<CallError> for Failure<E> {
    fn from(error: CallError) -> Self {
        Failure::Call(error)
    }
}

/// A wait took longer than it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not done within {0:?}")]
pub struct Elapsed(pub Duration);

impl CallError {
    /// How this error travels.
    pub const fn status(&self) -> Status {
        match self {
            CallError::Timeout { .. } | CallError::Cancelled(_) => Status::Timeout,
            CallError::Busy(_) => Status::Busy,
            CallError::Gone(_) => Status::Gone,
            CallError::NotFound(_) => Status::NotFound,
            CallError::UnknownMethod(_) => Status::UnknownMethod,
            CallError::Denied(_) => Status::Denied,
            CallError::BadArgument { .. } => Status::BadArgument,
            CallError::Cycle { .. } => Status::Cycle,
            CallError::Unavailable(_) => Status::Unavailable,
            CallError::RolledBack(_) => Status::RolledBack,
            CallError::Failed(_) => Status::Failed,
        }
    }
}

/// What went wrong with a call, before its target and waiting time are added. Small, because it
/// lies next to every pending reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Any status but `Ok` and `App`.
    Status(Status),
    /// The caller of the calling turn no longer waits.
    Cancelled,
    BadArgument(Box<str>),
    Cycle(Box<[EntityId]>),
}

impl Fault {
    pub(crate) const TIMEOUT: Fault = Fault::Status(Status::Timeout);
    pub(crate) const BUSY: Fault = Fault::Status(Status::Busy);
    pub(crate) const GONE: Fault = Fault::Status(Status::Gone);
    pub(crate) const NOT_FOUND: Fault = Fault::Status(Status::NotFound);
    pub(crate) const DENIED: Fault = Fault::Status(Status::Denied);
    pub(crate) const UNAVAILABLE: Fault = Fault::Status(Status::Unavailable);
    pub(crate) const FAILED: Fault = Fault::Status(Status::Failed);
    pub(crate) const ROLLED_BACK: Fault = Fault::Status(Status::RolledBack);

    /// The fault as the caller sees it.
    pub(crate) fn into_error(self, target: EntityId, waited: Duration) -> CallError {
        match self {
            Fault::Cancelled => CallError::Cancelled(target),
            Fault::BadArgument(problem) => CallError::BadArgument { target, problem },
            Fault::Cycle(ring) => CallError::Cycle { ring },
            Fault::Status(status) => match status {
                Status::Timeout => CallError::Timeout { target, waited },
                Status::Busy => CallError::Busy(target),
                Status::Gone => CallError::Gone(target),
                Status::NotFound => CallError::NotFound(target),
                Status::UnknownMethod => CallError::UnknownMethod(target),
                Status::Denied => CallError::Denied(target),
                Status::BadArgument => {
                    CallError::BadArgument { target, problem: "refused by its node".into() }
                }
                Status::Cycle => CallError::Cycle { ring: Box::new([target]) },
                Status::Unavailable => CallError::Unavailable(target),
                Status::RolledBack => CallError::RolledBack(target),
                Status::Ok | Status::App | Status::Repeated | Status::Failed => {
                    CallError::Failed(target)
                }
            },
        }
    }

    /// How this fault travels.
    pub(crate) fn status(&self) -> Status {
        match self {
            Fault::Status(status) => *status,
            Fault::Cancelled => Status::Timeout,
            Fault::BadArgument(_) => Status::BadArgument,
            Fault::Cycle(_) => Status::Cycle,
        }
    }
}

/// Says so if the target is in no zone or channel, which none but a local kind's is by intent.
struct Unnamed(EntityId);

impl fmt::Display for Unnamed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.home == Incarnation::NONE && self.0.namespace() == Namespace::NOWHERE {
            f.write_str(
                ": if its kind is local to a zone or channel, there are several here: name one by \
                 `Ref::local`, with a key up to `LOCAL_KEY_MAX`",
            )?;
        }
        Ok(())
    }
}

struct Ring<'a>(&'a [EntityId]);

impl fmt::Display for Ring<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for entity in self.0 {
            write!(f, "{entity} → ")?;
        }
        match self.0.first() {
            Some(first) => write!(f, "{first}"),
            None => f.write_str("unknown"),
        }
    }
}
