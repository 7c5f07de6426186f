use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use env::Clock;

use crate::backend::Backend;
use crate::local::Local;
use crate::subject::is_subject;
use crate::types::{Accepted, Listen, Post, Taken, Verdict};
use crate::{Answer, Counters, Dead, Delivery, Error, Options, Presence};

/// Publishes and subscribes. A cheap clone; which backend is behind it, nobody can tell.
///
/// What a backend gives in each class of [`Delivery`] stands in `docs/semantics.md`.
#[derive(Clone)]
pub struct Bus {
    backend: Arc<dyn Backend>,
    /// What all subjects begin with, with its dot; empty for none.
    scope: Arc<str>,
}

impl Bus {
    /// A bus within this process: at most once, or at least once as long as the process lives.
    pub fn embedded(options: Options, clock: &Clock) -> Self {
        Bus::over(Local::start(options, clock))
    }

    /// A bus of NATS servers, which need not be there yet: at most once over core NATS; at least
    /// once and durable over JetStream.
    ///
    /// # Errors
    ///
    /// What the system says if no thread can be started.
    #[cfg(feature = "nats")]
    pub fn nats(
        nats: crate::NatsOptions,
        options: Options,
        clock: &Clock,
    ) -> std::io::Result<Self> {
        crate::remote::nats::start(nats, options, clock).map(|backend| Bus::over(backend))
    }

    /// A bus of a RabbitMQ server or cluster, which need not be there yet: all classes.
    ///
    /// # Errors
    ///
    /// What the system says if no thread can be started.
    #[cfg(feature = "rabbitmq")]
    pub fn rabbitmq(
        rabbitmq: crate::RabbitmqOptions,
        options: Options,
        clock: &Clock,
    ) -> std::io::Result<Self> {
        crate::remote::rabbitmq::start(rabbitmq, options, clock).map(|backend| Bus::over(backend))
    }

    fn over(backend: Arc<dyn Backend>) -> Self {
        Bus { backend, scope: "".into() }
    }

    /// The same bus with names of its own: a zone, a developer. What is declared, published and
    /// listened to through it meets nothing of other scopes. Scopes within scopes are fine.
    ///
    /// # Errors
    ///
    /// `BadSubject` if `name` could not be the beginning of a subject.
    pub fn scope(&self, name: &str) -> Result<Bus, Error> {
        if !is_subject(name) {
            return Err(Error::BadSubject(name.into()));
        }
        Ok(Bus { backend: self.backend.clone(), scope: format!("{}{name}.", self.scope).into() })
    }

    /// Declares what the topics that `pattern` matches promise, before anybody listens to them.
    /// Undeclared ones are at most once; where several patterns match, the strongest holds.
    /// All processes that use a topic declare it alike.
    ///
    /// Waits for a server's word, `answer_wait` at most; see [`refused`](Self::refused).
    ///
    /// # Errors
    ///
    /// `CannotGive`, `Contradiction`, `Overlap`, `Late` or `BadSubject`: refuse to start.
    pub fn declare(&self, pattern: &str, delivery: Delivery) -> Result<(), Error> {
        self.backend.declare(&self.full(pattern), delivery)
    }

    /// What a server refused after it was declared while the server was away: topics, and why.
    pub fn refused(&self) -> Vec<(String, String)> {
        self.backend.refused()
    }

    /// Hands a message to all listeners of `subject` at this moment.
    ///
    /// Never waits, and takes as long however slow a listener is. The answer may be dropped; of a
    /// topic that may lose nothing it says when the message is safe. Until then it is offered to
    /// the server again and again, for ever.
    ///
    /// # Errors
    ///
    /// `BadSubject`, `TooLong`; `Busy` for topics that may lose nothing, here or in the answer.
    pub fn publish(
        &self,
        subject: &str,
        body: impl Into<Arc<[u8]>>,
    ) -> Result<Answer<Accepted>, Error> {
        self.post(subject, None, body.into(), None)
    }

    /// As [`publish`](Self::publish), but an `id` that was published before (as far back as ids
    /// are remembered) is not handed out again.
    ///
    /// # Errors
    ///
    /// As `publish`.
    pub fn publish_once(
        &self,
        subject: &str,
        id: u128,
        body: impl Into<Arc<[u8]>>,
    ) -> Result<Answer<Accepted>, Error> {
        self.post(subject, Some(id), body.into(), None)
    }

    /// As [`publish_once`](Self::publish_once), but what is not confirmed within `within` is
    /// given up: the answer is `Unconfirmed`.
    ///
    /// # Errors
    ///
    /// As `publish`.
    pub fn publish_within(
        &self,
        subject: &str,
        id: u128,
        body: impl Into<Arc<[u8]>>,
        within: Duration,
    ) -> Result<Answer<Accepted>, Error> {
        self.post(subject, Some(id), body.into(), Some(within))
    }

    fn post(
        &self,
        subject: &str,
        id: Option<u128>,
        body: Arc<[u8]>,
        within: Option<Duration>,
    ) -> Result<Answer<Accepted>, Error> {
        self.backend.publish(Post { subject: self.full(subject), id, body, within })
    }

    /// Listens to all subjects that `pattern` matches, from now on.
    ///
    /// # Errors
    ///
    /// `BadSubject` or `Full`.
    pub fn subscribe(&self, pattern: &str) -> Result<Subscription, Error> {
        self.listen(Listen::to(pattern))
    }

    /// Shares the subjects with all other members of `group` on the same pattern: each message
    /// goes to one of them. Mail of a member that leaves goes to the others.
    ///
    /// # Errors
    ///
    /// `BadSubject` or `Full`.
    pub fn subscribe_group(&self, pattern: &str, group: &str) -> Result<Subscription, Error> {
        self.listen(Listen::to(pattern).in_group(group))
    }

    /// Listens with credits and leases as said.
    ///
    /// # Errors
    ///
    /// `BadSubject` or `Full`.
    pub fn listen(&self, mut listen: Listen) -> Result<Subscription, Error> {
        if let Some(group) = listen.group.as_ref().filter(|group| !is_subject(group)) {
            return Err(Error::BadSubject(group.clone()));
        }
        listen.pattern = self.full(&listen.pattern);
        let (id, ready) = self.backend.listen(&listen)?;
        let attempts_max = self.backend.attempts_max();
        Ok(Subscription { bus: self.clone(), id, ready, attempts_max })
    }

    /// Tells whether the server is there.
    pub fn presence(&self) -> Presence {
        self.backend.presence()
    }

    /// What this process did so far.
    pub fn counters(&self) -> Counters {
        self.backend.counters()
    }

    /// The oldest messages of this scope that no handler of any process would finish with, at most
    /// `max`, under their full names. They stay until replayed, discarded, or pushed out by newer ones.
    pub fn dead(&self, max: usize) -> Answer<Vec<Dead>> {
        self.backend.dead(&self.scope, max)
    }

    /// Gives a dead letter once more to those who could not finish it, and to nobody else.
    ///
    /// # Errors
    ///
    /// In the answer: `NotFound`; `Unheard` if they are gone (RabbitMQ: if nobody at all listens to the
    /// subject); `Busy` or `Unavailable`. The letter stays then.
    pub fn replay(&self, dead: &Dead) -> Answer<()> {
        self.backend.bury(dead, true)
    }

    /// Takes a dead letter away for good.
    pub fn discard(&self, dead: &Dead) -> Answer<()> {
        self.backend.bury(dead, false)
    }

    /// How many messages that may not be lost wait for the group that listens to `pattern`, in whichever
    /// process, and are in nobody's hands; 0 if there is no such group.
    ///
    /// # Errors
    ///
    /// In the answer: `Unavailable` while the server is away.
    pub fn waiting(&self, pattern: &str, group: &str) -> Answer<u64> {
        self.backend.waiting(&self.full(pattern), group)
    }

    /// Takes back what was published under `id`, as far as nobody has it in hand and the backend can: at a
    /// server it stays, and is given out.
    pub fn withdraw(&self, subject: &str, id: u128) {
        self.backend.withdraw(&self.full(subject), id);
    }

    fn full(&self, subject: &str) -> String {
        format!("{}{subject}", self.scope)
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Bus");
        out.field("backend", &self.backend).field("scope", &self.scope).finish_non_exhaustive()
    }
}

/// A listener with its bounded queue. Dropping it ends it.
#[derive(Debug)]
pub struct Subscription {
    bus: Bus,
    id: u64,
    ready: Answer<()>,
    attempts_max: u32,
}

impl Subscription {
    /// Blocks until messages published from now on will come, at most so long; tells whether that
    /// is so. A server that is away is waited for meanwhile.
    pub fn wait_ready(&mut self, at_most: Duration) -> bool {
        match self.ready.wait(at_most) {
            Some(Ok(())) => {
                self.ready = Answer::given(Ok(()));
                true
            }
            _ => false,
        }
    }

    /// The next message, if one waits and a credit is free.
    pub fn try_next(&mut self) -> Option<Message> {
        let taken = self.bus.backend.take(self.id, None);
        taken.map(|taken| self.message(taken))
    }

    /// The next message; the waker of `cx` hears of it if none waits.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Message> {
        match self.bus.backend.take(self.id, Some(cx.waker())) {
            Some(taken) => Poll::Ready(self.message(taken)),
            None => Poll::Pending,
        }
    }

    /// Waits for the next message. Safe to cancel: nothing is taken before it is given.
    pub async fn next(&mut self) -> Message {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// How many messages this listener, or its group, lost in this process because it was full.
    pub fn dropped(&self) -> u64 {
        self.bus.backend.dropped(self.id)
    }

    fn message(&self, taken: Taken) -> Message {
        let backend = &self.bus.backend;
        let receipt = taken.receipt.map(|number| Receipt { backend: backend.clone(), number });
        let Taken { subject, body, id, attempt, .. } = taken;
        let is_last = attempt >= self.attempts_max;
        Message { subject, scope: self.bus.scope.len(), body, id, attempt, is_last, receipt }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.bus.backend.unlisten(self.id);
    }
}

/// A message as a listener gets it.
///
/// One of a topic that may lose nothing comes again unless [`done`](Self::done) is called before
/// it is dropped, as when its handler panics, and before its lease runs out.
#[derive(Debug)]
pub struct Message {
    subject: Arc<str>,
    /// So many bytes of the subject are the scope's.
    scope: usize,
    body: Arc<[u8]>,
    id: Option<u128>,
    attempt: u32,
    is_last: bool,
    receipt: Option<Receipt>,
}

#[derive(Debug)]
struct Receipt {
    backend: Arc<dyn Backend>,
    number: u64,
}

impl Message {
    /// Where it was published.
    pub fn subject(&self) -> &str {
        self.subject.get(self.scope..).unwrap_or(&self.subject)
    }

    /// What was published.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The same each time that it is given out, so that what it causes can be done once. Of topics
    /// that may lose nothing it is always there.
    pub fn id(&self) -> Option<u128> {
        self.id
    }

    /// 1 for the first time that it is given out, and so on.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Whether it is set aside if it fails now.
    pub fn is_last_attempt(&self) -> bool {
        self.is_last
    }

    /// It is handled and must not come again.
    pub fn done(mut self) {
        self.settle(Verdict::Done);
    }

    /// It must come again, or be set aside with this cause if it came often enough.
    pub fn fail(mut self, cause: impl Into<String>) {
        self.settle(Verdict::Again(cause.into()));
    }

    /// Begins its lease anew, if that has not run out.
    pub fn extend(&self) {
        if let Some(receipt) = &self.receipt {
            receipt.backend.settle(receipt.number, Verdict::Extend);
        }
    }

    fn settle(&mut self, verdict: Verdict) {
        if let Some(receipt) = self.receipt.take() {
            receipt.backend.settle(receipt.number, verdict);
        }
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        let panicked = std::thread::panicking();
        let cause = if panicked { "its handler panicked" } else { "it was dropped unfinished" };
        self.settle(Verdict::Again(cause.to_owned()));
    }
}
