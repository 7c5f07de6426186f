use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What a topic promises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Delivery {
    /// Each listener gets it once or not at all: a full listener loses it, which is counted.
    #[default]
    AtMostOnce,
    /// Each listener gets it until it says that it is done with it; publishing is refused while
    /// a listener is full. The same id is taken once.
    AtLeastOnce,
    /// As `AtLeastOnce`, also over a restart of everything; groups keep their mail while nobody
    /// is in them.
    Durable,
}

impl Delivery {
    /// Whether nothing of it may be lost.
    pub fn is_kept(self) -> bool {
        self != Delivery::AtMostOnce
    }
}

impl fmt::Display for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Delivery::AtMostOnce => "at most once",
            Delivery::AtLeastOnce => "at least once",
            Delivery::Durable => "durable",
        })
    }
}

/// Why the bus did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// At start: configure another backend or declare less.
    #[error("{topic:?} is declared {delivery}, which the {backend} bus cannot give: {advice}")]
    CannotGive {
        /// The topic.
        topic: String,
        /// What it declares.
        delivery: Delivery,
        /// The backend.
        backend: &'static str,
        /// What to do.
        advice: String,
    },
    /// At start: two declarations of one topic differ.
    #[error("{topic:?} is declared {first} and {second}: make them the same")]
    Contradiction {
        /// The topic.
        topic: String,
        /// What was declared first.
        first: Delivery,
        /// What was declared then.
        second: Delivery,
    },
    /// At start: no subject may belong to two topics that may lose nothing.
    #[error("{first:?} and {second:?} share subjects: declare topics that do not, or one for both")]
    Overlap {
        /// The topic that was declared first.
        first: String,
        /// The topic that was declared then.
        second: String,
    },
    /// At start: declare topics before anybody listens to them.
    #[error("{topic:?} is declared after {listener:?} is listened to: declare it before")]
    Late {
        /// The topic.
        topic: String,
        /// Who listens already.
        listener: String,
    },
    /// Correct it: words of `a-z A-Z 0-9 _ -` joined by dots; in patterns also `*` for one word
    /// and a last `>` for the rest.
    #[error("{0:?} is no subject: words of a-z A-Z 0-9 _ - joined by dots, 255 bytes at most")]
    BadSubject(String),
    /// Send less at once.
    #[error("a message of {bytes} bytes is over the limit of {max}")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The limit, in bytes.
        max: usize,
    },
    /// A listener of a topic that may lose nothing is full, or too much waits for the server.
    /// Back off, then retry under the same id: some listeners may have got it.
    #[error("a listener of {0:?} is full: back off")]
    Busy(String),
    /// Unsubscribe or raise the limit.
    #[error("{0} subscriptions are open: raise subscriptions_max")]
    Full(usize),
    /// Nobody knows whether it was accepted: retry under the same id.
    #[error("{subject:?} was not confirmed within {waited:?}")]
    Unconfirmed {
        /// Where it was published.
        subject: String,
        /// How long it was tried.
        waited: Duration,
    },
    /// The dead letter was replayed or discarded before.
    #[error("there is no such dead letter (any more)")]
    NotFound,
    /// Nobody is there to replay it to, and the letter stays: start who listens, then replay it.
    #[error("nobody listens to {subject:?}{}: start who does, then replay", of_group(group))]
    Unheard {
        /// Where it was published.
        subject: String,
        /// The group that could not finish it.
        group: Option<String>,
    },
    /// The server is not there: back off, then retry.
    #[error("the {0} server is not there")]
    Unavailable(&'static str),
    /// The bus has ended.
    #[error("the bus has ended")]
    Closed,
}

fn of_group(group: &Option<String>) -> String {
    group.as_ref().map_or_else(String::new, |group| format!(" in the group {group:?}"))
}

impl Error {
    /// That nobody is there to replay `dead` to.
    pub(crate) fn unheard(dead: &Dead) -> Error {
        Error::Unheard { subject: dead.subject.clone(), group: dead.group.clone() }
    }
}

/// Limits and times of a bus.
#[derive(Clone, Debug)]
pub struct Options {
    /// Most subscriptions open at once.
    pub subscriptions_max: usize,
    /// Most messages that wait in this process for one listener or group, or are in its hands.
    pub queue_messages_max: usize,
    /// Most bytes of messages that wait in this process for one listener or group.
    pub queue_bytes_max: usize,
    /// Longest message, in bytes.
    pub message_bytes_max: usize,
    /// How many published ids are remembered.
    pub ids_kept: usize,
    /// How often a message is given out at most before it is set aside.
    pub attempts_max: u32,
    /// Most messages kept that were set aside.
    pub dead_max: usize,
    /// How long a listener may hold a message that may not be lost before it is given to another.
    pub lease: Duration,
    /// Most messages that wait at a server for one listener, group or topic.
    pub kept_messages_max: usize,
    /// Most messages that wait to be confirmed by a server.
    pub unconfirmed_max: usize,
    /// How long a server remembers ids, where it does.
    pub ids_wait: Duration,
    /// How long a server keeps the mail of who is silent: an at-least-once group without members,
    /// a listener whose process is gone.
    pub idle_wait: Duration,
    /// After how much silence of a process a server gives its unfinished messages to others.
    pub silence_wait: Duration,
    /// How long a start waits for a server's word on what is declared.
    pub answer_wait: Duration,
    /// Most asked for by this process that has no answer.
    pub asks_max: usize,
    /// Most asked for by this process that waits for the workers of one queue.
    pub asks_queued_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            subscriptions_max: 65_536,
            queue_messages_max: 1024,
            queue_bytes_max: 1024 * 1024,
            message_bytes_max: 256 * 1024,
            ids_kept: 65_536,
            attempts_max: 5,
            dead_max: 1024,
            lease: Duration::from_secs(30),
            kept_messages_max: 100_000,
            unconfirmed_max: 4096,
            ids_wait: Duration::from_secs(120),
            idle_wait: Duration::from_secs(300),
            silence_wait: Duration::from_secs(10),
            answer_wait: Duration::from_secs(5),
            asks_max: 65_536,
            asks_queued_max: 1024,
        }
    }
}

/// What a bus did in this process since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Counters {
    pub published: u64,
    /// Published while nobody listened, as far as this process knows.
    pub unheard: u64,
    pub delivered: u64,
    /// Lost to a full listener, or to a server that is away, where the topic allows it.
    pub dropped: u64,
    /// Refused because a listener was full, where the topic allows no loss.
    pub busy: u64,
    /// Came or was published again under an id that was known.
    pub repeated: u64,
    /// Given out again.
    pub redelivered: u64,
    /// Leases that ran out.
    pub expired: u64,
    /// Set aside after too many attempts.
    pub dead: u64,
}

/// Tells whether the server of a bus is there, to whoever looks on without keeping the bus. A cheap clone.
#[derive(Clone, Debug, Default)]
pub struct Presence(Arc<AtomicBool>);

impl Presence {
    /// Whether the server is away: never if there is none.
    pub fn is_away(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    #[cfg(any(feature = "nats", feature = "rabbitmq"))]
    pub(crate) fn set_away(&self, away: bool) {
        self.0.store(away, Ordering::Relaxed);
    }
}

/// What became of a published message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// It is on its way; of a topic that may lose nothing, it is not lost any more.
    New,
    /// Its id was accepted before: it is not handed out again.
    Repeated,
}

/// How somebody listens. Made by [`Listen::to`].
#[derive(Clone, Debug)]
pub struct Listen {
    pub(crate) pattern: String,
    pub(crate) group: Option<String>,
    pub(crate) credits: usize,
    pub(crate) lease: Option<Duration>,
}

impl Listen {
    /// To all subjects that `pattern` matches: each message comes.
    pub fn to(pattern: impl Into<String>) -> Self {
        Listen { pattern: pattern.into(), group: None, credits: 64, lease: None }
    }

    /// As a member of a group: each message goes to one of those that are in it with the same
    /// pattern.
    pub fn in_group(mut self, group: impl Into<String>) -> Self {
        self.group = Some(group.into());
        self
    }

    /// As a worker who asks for work: at most so many messages that may not be lost are in its hands at once,
    /// 64 unless set, at least one.
    pub fn credits(mut self, credits: usize) -> Self {
        self.credits = credits.max(1);
        self
    }

    /// How long it may hold one, in place of [`Options::lease`].
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = Some(lease);
        self
    }
}

/// A message that was set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dead {
    /// Where it was published.
    pub subject: String,
    /// Its id.
    pub id: u128,
    /// What was published.
    pub body: Arc<[u8]>,
    /// The group that could not finish it; none if it was a listener of its own.
    pub group: Option<String>,
    /// How often it was given out.
    pub attempts: u32,
    /// Why the last attempt was none.
    pub cause: String,
    /// Where it is kept.
    pub(crate) place: u128,
}

/// A message on its way to a listener.
#[derive(Debug)]
pub(crate) struct Taken {
    pub subject: Arc<str>,
    pub body: Arc<[u8]>,
    pub id: Option<u128>,
    pub attempt: u32,
    pub receipt: Option<u64>,
}

/// What a listener says of a message in its hands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Done,
    /// It must come again, because of this.
    Again(String),
    /// It takes longer.
    Extend,
}

/// What is published.
#[derive(Clone, Debug)]
pub(crate) struct Post {
    pub subject: String,
    pub id: Option<u128>,
    pub body: Arc<[u8]>,
    /// Given up when it is not confirmed within this.
    pub within: Option<Duration>,
}

/// The longest cause that is kept, in bytes.
pub(crate) const CAUSE_BYTES_MAX: usize = 1024;

/// Cuts a cause to its limit, at a border of characters.
pub(crate) fn cut(mut cause: String) -> String {
    if cause.len() > CAUSE_BYTES_MAX {
        let mut end = CAUSE_BYTES_MAX;
        while !cause.is_char_boundary(end) {
            end -= 1;
        }
        cause.truncate(end);
    }
    cause
}
