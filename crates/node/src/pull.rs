//! Pull workers: they ask for work when they have time for it.

mod meters;

use std::cell::Cell;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bus::{AnswerError, Delivery, Desk, Listen, Message as Letter, Right, Subscription};
use env::metrics::{Gauge, Registry};
use proto::codec::{DecodeError, Message};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::asking::{Answered, Question, Reply, RightTo, subject_of_questions};
use crate::cx::Outside;
use crate::topics::NodeBus;
use meters::Meters;

pub(crate) use meters::Shown;

/// How a pull worker ended with a job. What failed comes again, and is set aside as a dead letter when
/// it has failed often enough.
pub type Done = Result<(), Box<dyn Error>>;

/// Work for the pull workers of a queue.
pub trait Job: Message + 'static {
    /// Name of its queue: words of `a-z A-Z 0-9 _ -` joined by dots.
    const QUEUE: &'static str;

    /// The router function: the name of the group of workers that does it.
    fn group(&self) -> &str {
        "all"
    }
}

/// The subject on which jobs for a group wait: what `mainstay trigger` and [`bus::Trigger`] name.
pub fn subject_of(queue: &str, group: &str) -> String {
    format!("work.{queue}.{group}")
}

/// One group of pull workers.
#[derive(Clone, Debug)]
pub struct Pull {
    name: String,
    workers: usize,
    credits: usize,
    limit: Duration,
}

impl Pull {
    /// One worker, which has one job in hand, for at most 30 s.
    pub fn new(name: &str) -> Self {
        Pull { name: name.to_owned(), workers: 1, credits: 1, limit: Duration::from_secs(30) }
    }

    /// So many workers in each process that runs the queue. They share its worker threads.
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers.max(1);
        self
    }

    /// So many jobs are handed to a worker at once, which does one after the other: more than one hides the
    /// way from the bus.
    #[must_use]
    pub fn credits(mut self, credits: usize) -> Self {
        self.credits = credits.max(1);
        self
    }

    /// A job that takes longer is broken off at its next await, reported, and comes again elsewhere.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }
}

type Act = Arc<
    dyn Fn(&[u8], Work) -> Result<Pin<Box<dyn Future<Output = End>>>, DecodeError> + Send + Sync,
>;

/// How a job ended: what is to be answered.
type End = Result<Said, Box<dyn Error>>;

enum Said {
    /// Nothing, since nobody asked.
    Nothing,
    Now(Vec<u8>),
    Elsewhere,
}

/// What workers listen to.
#[derive(Clone)]
enum Source {
    Jobs,
    Questions,
    Topic(String, Delivery),
}

/// A queue of jobs, its groups of pull workers, and what they do.
#[derive(Clone)]
pub struct Queue {
    name: String,
    source: Source,
    durable: bool,
    groups: Vec<Pull>,
    act: Act,
}

impl Queue {
    /// The queue of jobs `J`. `act` does one; it runs on a worker thread of the node, beside entities.
    /// Without [`group`](Self::group) there is one group called `all`.
    ///
    /// Nothing of it is lost while a process with the queue runs; what a server of the bus has is not lost at
    /// all.
    pub fn new<J: Job, F>(act: impl Fn(J, Work) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Done> + 'static,
    {
        Queue::of(J::QUEUE, Source::Jobs, act, |()| Said::Nothing)
    }

    /// The queue of questions `Q`. `act` gives the answer, or passes the right to answer on. A question that
    /// was cleared or has expired before a worker comes to it is not begun, nor one of a process that says
    /// nothing for 5 s.
    ///
    /// Else it is as safe as a job; an answer is not: who asks waits for it as long as the question says.
    pub fn answering<Q: Question, F>(act: impl Fn(Q, Work) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Answered<Q::Answer>> + 'static,
    {
        Queue::of(Q::QUEUE, Source::Questions, act, |reply| match reply {
            Reply::Now(answer) => Said::Now(proto::encode(&answer)),
            Reply::Elsewhere => Said::Elsewhere,
        })
    }

    /// Takes the messages of a topic that may lose nothing instead, for the group `name`: each goes to one of
    /// the workers that are in it, in whichever process.
    pub fn topic<M: Message + 'static, F>(
        name: &str,
        (topic, delivery): (&str, Delivery),
        act: impl Fn(M, Work) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Done> + 'static,
    {
        let source = Source::Topic(topic.to_owned(), delivery);
        Queue::of(name, source, act, |()| Said::Nothing)
    }

    fn of<M: Message + 'static, R: 'static, F>(
        name: &str,
        source: Source,
        act: impl Fn(M, Work) -> F + Send + Sync + 'static,
        say: fn(R) -> Said,
    ) -> Self
    where
        F: Future<Output = Result<R, Box<dyn Error>>> + 'static,
    {
        let act = Arc::new(act);
        let act: Act = Arc::new(move |body, work| {
            let (job, act) = (proto::decode::<M>(body)?, Arc::clone(&act));
            // Called within the job's own task, which falls alone if it panics before its first await.
            let job = async move { act(job, work).await.map(say) };
            Ok(Box::pin(job) as Pin<Box<dyn Future<Output = End>>>)
        });
        Queue { name: name.to_owned(), source, durable: false, groups: Vec::new(), act }
    }

    /// Has a group of workers.
    ///
    /// # Panics
    ///
    /// If another has that name.
    #[must_use]
    pub fn group(mut self, group: Pull) -> Self {
        let clash = self.groups.iter().any(|other| other.name == group.name);
        assert!(!clash, "two groups of queue {:?} are called {:?}", self.name, group.name);
        self.groups.push(group);
        self
    }

    /// Refuses to start on a bus that does not keep jobs over a restart of everything.
    #[must_use]
    pub fn durable(mut self) -> Self {
        self.durable = true;
        self
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The topics that it needs, each with what it must promise. `shared` tells whether the bus is one of
    /// several processes: then jobs wait also while nobody is there to do them.
    pub fn topics(&self, shared: bool) -> Vec<(String, Delivery)> {
        if let Source::Topic(topic, delivery) = &self.source {
            return vec![(topic.clone(), *delivery)];
        }
        let delivery = match self.durable || shared {
            true => Delivery::Durable,
            false => Delivery::AtLeastOnce,
        };
        let groups = self.all_groups();
        groups.iter().map(|group| (self.subject(group), delivery)).collect()
    }

    /// Whether its workers answer: then whoever runs or asks them needs a desk.
    pub fn answers(&self) -> bool {
        matches!(self.source, Source::Questions)
    }

    fn is_of_topic(&self) -> bool {
        matches!(self.source, Source::Topic(..))
    }

    fn subject(&self, group: &Pull) -> String {
        match &self.source {
            Source::Jobs => subject_of(&self.name, &group.name),
            Source::Questions => subject_of_questions(&self.name, &group.name),
            Source::Topic(topic, _) => topic.clone(),
        }
    }

    fn all_groups(&self) -> Vec<Pull> {
        match self.groups.is_empty() {
            true => vec![Pull::new("all")],
            false => self.groups.clone(),
        }
    }

    /// How a member of the group listens.
    fn listen(&self, group: &Pull) -> Listen {
        Listen::to(self.subject(group)).in_group(self.bus_group())
    }

    /// The bus's name for those who listen. Several groups of workers on one topic are one: each message is
    /// done once.
    fn bus_group(&self) -> &str {
        match &self.source {
            Source::Topic(..) => &self.name,
            Source::Jobs | Source::Questions => "workers",
        }
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Queue");
        debug.field("name", &self.name).field("groups", &self.groups).finish_non_exhaustive()
    }
}

/// What a pull worker reaches the world through while it does a job: entities, services, topics, queues.
#[derive(Debug)]
pub struct Work {
    outside: Outside,
    subject: String,
    id: u128,
    attempt: u32,
    claim: Option<Claim>,
}

/// The right to answer what is being done.
#[derive(Clone, Debug)]
struct Claim {
    right: Right,
    is_passed: Rc<Cell<bool>>,
}

impl Work {
    /// The right to answer the question that is being done, to be passed to whoever will answer it, in
    /// whichever process; the worker itself then says [`Reply::Elsewhere`].
    ///
    /// # Panics
    ///
    /// If it is a job that nobody asked for.
    pub fn right<Q: Question>(&self, _: &Q) -> RightTo<Q::Answer> {
        let claim = self.claim.as_ref().expect("only a question has a right to answer");
        claim.is_passed.set(true);
        RightTo::new(claim.right)
    }

    /// The same whenever this job comes again: what it causes is done once under it.
    pub fn id(&self) -> u128 {
        self.id
    }

    /// 1 for the first time, and so on.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Where it was published.
    pub fn subject(&self) -> &str {
        &self.subject
    }
}

impl Deref for Work {
    type Target = Outside;

    fn deref(&self) -> &Outside {
        &self.outside
    }
}

/// The pull workers of a node.
#[derive(Clone)]
pub(crate) struct Crew {
    shared: Arc<Shared>,
}

struct Shared {
    /// How many jobs are being done.
    busy: Mutex<usize>,
    idle: Condvar,
    stop: watch::Sender<bool>,
}

impl Shared {
    fn busy(&self) -> MutexGuard<'_, usize> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A pull worker before it has a thread.
pub(crate) struct Puller {
    place: String,
    limit: Duration,
    act: Act,
    subscription: Subscription,
    /// Where answers go, if its queue has questions.
    desk: Option<Desk>,
    meters: Meters,
    crew: Crew,
}

/// The lease of a job is begun anew so often, so that only a dead process lets one run out.
const EXTEND_EVERY: Duration = Duration::from_secs(5);
const LEASE: Duration = Duration::from_secs(15);

impl Crew {
    pub fn new() -> Self {
        let (stop, _) = watch::channel(false);
        Crew { shared: Arc::new(Shared { busy: Mutex::new(0), idle: Condvar::new(), stop }) }
    }

    /// Opens the workers of a queue.
    pub fn hire(
        &self,
        queue: &Queue,
        bus: &NodeBus,
        (registry, node): (&Registry, &str),
    ) -> Result<Vec<Puller>, bus::Error> {
        let desk = match queue.answers() {
            true => Some(bus.desk().cloned().ok_or(bus::Error::Unavailable("questions'"))?),
            false => None,
        };
        let mut pullers = Vec::new();
        for group in queue.all_groups() {
            let meters = Meters::new(registry, node, &queue.name, &group.name);
            meters.workers.set(group.workers as f64);
            for _ in 0..group.workers {
                let listen = queue.listen(&group).credits(group.credits).lease(LEASE);
                pullers.push(Puller {
                    place: format!("{}.{}", queue.name, group.name),
                    limit: group.limit,
                    act: queue.act.clone(),
                    subscription: bus.bus().listen(listen)?,
                    desk: desk.clone(),
                    meters: meters.clone(),
                    crew: self.clone(),
                });
            }
        }
        Ok(pullers)
    }

    /// No worker takes another job; waits for what is being done, at most so long. Gives how many jobs were
    /// left: they come again elsewhere.
    pub fn stop(&self, at_most: Duration) -> usize {
        self.shared.stop.send_replace(true);
        let idle = &self.shared.idle;
        let waited = idle.wait_timeout_while(self.shared.busy(), at_most, |busy| *busy > 0);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// Makes the queue's groups exist at a server, so that jobs wait for workers that have not come yet. Kept by a
/// process that has none until the server has them.
pub(crate) fn found(queue: &Queue, bus: &NodeBus) -> Result<Vec<Subscription>, bus::Error> {
    let groups = queue.all_groups();
    groups.iter().map(|group| bus.bus().listen(queue.listen(group).credits(1))).collect()
}

/// Holds what [`found`] gave until the server has it.
pub(crate) async fn founded(mut subscriptions: Vec<Subscription>) {
    while !subscriptions.is_empty() {
        subscriptions.retain_mut(|subscription| !subscription.wait_ready(Duration::ZERO));
        sleep(Duration::from_millis(100)).await;
    }
}

/// One job in hand.
struct Busy(Crew, Gauge);

impl Busy {
    fn new(crew: &Crew, gauge: &Gauge) -> Self {
        *crew.shared.busy() += 1;
        gauge.add(1.0);
        Busy(crew.clone(), gauge.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        *self.0.shared.busy() -= 1;
        self.0.shared.idle.notify_all();
        self.1.add(-1.0);
    }
}

impl Puller {
    /// Does jobs until the crew stops.
    pub async fn run(mut self, outside: Outside) {
        let mut stop = self.crew.shared.stop.subscribe();
        loop {
            let letter = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                letter = self.subscription.next() => letter,
            };
            let busy = Busy::new(&self.crew, &self.meters.busy);
            self.work(letter, &outside).await;
            drop(busy);
        }
    }

    async fn work(&self, letter: Letter, outside: &Outside) {
        let (claim, body) = match &self.desk {
            None => (None, letter.body()),
            Some(desk) => match Desk::open_letter(letter.body()) {
                Some((right, body)) => match desk.claim(right).await {
                    Ok(()) => (Some(Claim { right, is_passed: Rc::default() }), body),
                    // Whoever asked has gone, or would be told too late.
                    Err(AnswerError::Refused(_) | AnswerError::Unreachable(_)) => {
                        self.meters.skipped.add(1);
                        return letter.done();
                    }
                    Err(error) => return self.failed(letter, error.to_string()),
                },
                None => {
                    let cause = "nobody asked for it: ask it with `cx.ask`";
                    return self.failed(letter, cause.to_owned());
                }
            },
        };
        let work = Work {
            outside: outside.clone(),
            subject: letter.subject().to_owned(),
            id: letter.id().unwrap_or_default(),
            attempt: letter.attempt(),
            claim: claim.clone(),
        };
        let end = match (self.act)(body, work) {
            Ok(job) => self.within_limit(job, &letter).await,
            Err(error) => Err(format!("it cannot be read: {error}")),
        };
        if let (Some(desk), Some(claim)) = (&self.desk, claim) {
            self.answer(desk, &claim, &end, letter.is_last_attempt()).await;
        }
        match end {
            Ok(_) => {
                self.meters.done.add(1);
                letter.done();
            }
            Err(cause) => self.failed(letter, cause),
        }
    }

    fn failed(&self, letter: Letter, cause: String) {
        self.meters.failed.add(1);
        let (place, attempt) = (&self.place, letter.attempt());
        tracing::warn!(place, attempt, cause, "a job failed");
        letter.fail(cause);
    }

    /// Tells whoever asked how it ended, if it has ended and nobody else will.
    async fn answer(&self, desk: &Desk, claim: &Claim, end: &Result<Said, String>, is_last: bool) {
        let right = claim.right;
        let verdict = match end {
            Ok(Said::Now(body)) => desk.answer(right, body.clone()),
            Ok(Said::Nothing | Said::Elsewhere) if claim.is_passed.get() => return,
            Ok(Said::Nothing | Said::Elsewhere) => desk.leave_unanswered(right),
            Err(cause) if is_last => desk.fail(right, cause),
            Err(_) => return,
        };
        match verdict.await {
            Ok(()) => {}
            Err(AnswerError::Refused(_)) => self.meters.refused.add(1),
            Err(error) => {
                self.meters.refused.add(1);
                tracing::warn!(place = self.place, %error, "an answer was not taken");
                // What the bus cannot carry is an end as well.
                if let AnswerError::Bus(error) = error {
                    drop(desk.fail(right, &error.to_string()));
                }
            }
        }
    }

    /// How the job ended, or why it failed. It is a task of its own, so that its panic is its own.
    async fn within_limit(
        &self,
        job: Pin<Box<dyn Future<Output = End>>>,
        letter: &Letter,
    ) -> Result<Said, String> {
        let end = Instant::now() + self.limit;
        // A panic, or a job that never awaits, is the watch's to report.
        let mut task =
            tokio::task::spawn_local(async move { job.await.map_err(|e| e.to_string()) });
        loop {
            tokio::select! {
                done = &mut task => return match done {
                    Ok(result) => result,
                    Err(_) => Err("its worker panicked".to_owned()),
                },
                () = sleep_until(end) => {
                    task.abort();
                    self.meters.over.add(1);
                    return Err(format!("it is over its limit of {:?}", self.limit));
                }
                () = sleep(EXTEND_EVERY) => letter.extend(),
            }
        }
    }
}

impl fmt::Debug for Puller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Puller").field("place", &self.place).finish_non_exhaustive()
    }
}
