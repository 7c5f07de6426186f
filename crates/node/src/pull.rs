//! Pull workers: they ask for work when they have time for it.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bus::{Delivery, Listen, Message as Letter, Subscription};
use env::metrics::{Counter, Gauge, Registry};
use proto::codec::{DecodeError, Message};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::cx::Outside;
use crate::topics::NodeBus;

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
    dyn Fn(&[u8], Work) -> Result<Pin<Box<dyn Future<Output = Done>>>, DecodeError> + Send + Sync,
>;

/// A queue of jobs, its groups of pull workers, and what they do.
#[derive(Clone)]
pub struct Queue {
    name: String,
    /// What its workers listen to in place of jobs, if it is a topic.
    topic: Option<(String, Delivery)>,
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
        Queue::of(J::QUEUE, None, act)
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
        Queue::of(name, Some((topic.to_owned(), delivery)), act)
    }

    fn of<M: Message + 'static, F>(
        name: &str,
        topic: Option<(String, Delivery)>,
        act: impl Fn(M, Work) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Done> + 'static,
    {
        let act = Arc::new(act);
        let act: Act = Arc::new(move |body, work| {
            let (job, act) = (proto::decode::<M>(body)?, Arc::clone(&act));
            // Called within the job's own task, which falls alone if it panics before its first await.
            Ok(Box::pin(async move { act(job, work).await }) as Pin<Box<dyn Future<Output = Done>>>)
        });
        Queue { name: name.to_owned(), topic, durable: false, groups: Vec::new(), act }
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
        if let Some(topic) = &self.topic {
            return vec![topic.clone()];
        }
        let delivery = match self.durable || shared {
            true => Delivery::Durable,
            false => Delivery::AtLeastOnce,
        };
        let groups = self.all_groups();
        groups.iter().map(|group| (subject_of(&self.name, &group.name), delivery)).collect()
    }

    fn all_groups(&self) -> Vec<Pull> {
        match self.groups.is_empty() {
            true => vec![Pull::new("all")],
            false => self.groups.clone(),
        }
    }

    /// How a member of the group listens.
    fn listen(&self, group: &Pull) -> Listen {
        match &self.topic {
            // Several groups of workers on one topic are one group of the bus: each message is done once.
            Some((topic, _)) => Listen::to(topic).in_group(&self.name),
            None => Listen::to(subject_of(&self.name, &group.name)).in_group("workers"),
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
}

impl Work {
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
    meters: Meters,
    crew: Crew,
}

#[derive(Clone)]
struct Meters {
    workers: Gauge,
    busy: Gauge,
    done: Counter,
    failed: Counter,
    over: Counter,
}

impl Meters {
    fn new(registry: &Registry, node: &str, queue: &str, group: &str) -> Self {
        let labels = [("node", node), ("queue", queue), ("group", group)];
        Meters {
            workers: registry.gauge("work_workers", "Pull workers there are.", &labels),
            busy: registry.gauge("work_busy", "Pull workers that do a job now.", &labels),
            done: registry.counter("work_done", "Jobs done.", &labels),
            failed: registry.counter("work_failed", "Jobs that failed and come again.", &labels),
            over: registry.counter("work_over_limit", "Jobs over their time limit.", &labels),
        }
    }
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
        let work = Work {
            outside: outside.clone(),
            subject: letter.subject().to_owned(),
            id: letter.id().unwrap_or_default(),
            attempt: letter.attempt(),
        };
        let cause = match (self.act)(letter.body(), work) {
            Ok(job) => self.within_limit(job, &letter).await,
            Err(error) => Some(format!("it cannot be read: {error}")),
        };
        match cause {
            None => {
                self.meters.done.add(1);
                letter.done();
            }
            Some(cause) => {
                self.meters.failed.add(1);
                let (place, attempt) = (&self.place, letter.attempt());
                tracing::warn!(place, attempt, cause, "a job failed");
                letter.fail(cause);
            }
        }
    }

    /// Why the job failed, if it did. It is a task of its own, so that its panic is its own.
    async fn within_limit(
        &self,
        job: Pin<Box<dyn Future<Output = Done>>>,
        letter: &Letter,
    ) -> Option<String> {
        let end = Instant::now() + self.limit;
        // A panic, or a job that never awaits, is the watch's to report.
        let mut task =
            tokio::task::spawn_local(async move { job.await.map_err(|e| e.to_string()) });
        loop {
            tokio::select! {
                done = &mut task => return match done {
                    Ok(result) => result.err(),
                    Err(_) => Some("its worker panicked".to_owned()),
                },
                () = sleep_until(end) => {
                    task.abort();
                    self.meters.over.add(1);
                    return Some(format!("it is over its limit of {:?}", self.limit));
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
