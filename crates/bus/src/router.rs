use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use env::Instant;

use crate::recent::Recent;
use crate::subject::{is_pattern, is_subject, matches};
use crate::topics::Topics;
use crate::types::{Accepted, Listen, Post, Taken, Verdict, cut};
use crate::{Counters, Dead, Delivery, Error, Options};

/// The pure core of a bus within one process: who listens to what, and what waits for whom.
///
/// Inputs that make somebody ready append that one's waker to `wakers`.
#[derive(Debug)]
pub(crate) struct Router {
    options: Options,
    topics: Topics,
    listeners: BTreeMap<u64, Listener>,
    next_listener: u64,
    queues: BTreeMap<u64, Queue>,
    next_queue: u64,
    groups: BTreeMap<(String, String), u64>,
    /// Queues by exact subject, and those with wildcards.
    exact: BTreeMap<String, BTreeSet<u64>>,
    wild: BTreeMap<String, BTreeSet<u64>>,
    /// Messages that were given out and not finished, by receipt, and when that must be done.
    held: BTreeMap<u64, Held>,
    leases: BTreeSet<(Instant, u64)>,
    next_receipt: u64,
    next_id: u128,
    ids: Recent,
    dead: VecDeque<(Option<u64>, Dead)>,
    next_place: u128,
    counters: Counters,
}

/// What waits for a listener, or for whichever member of a group asks first.
#[derive(Debug)]
struct Queue {
    pattern: String,
    group: Option<String>,
    items: VecDeque<Item>,
    bytes: usize,
    /// Given out and not finished; they count as waiting.
    held: usize,
    members: BTreeSet<u64>,
    dropped: u64,
}

#[derive(Debug)]
struct Listener {
    queue: u64,
    credits: usize,
    lease: Duration,
    held: usize,
    waker: Option<Waker>,
}

#[derive(Clone, Debug)]
struct Item {
    subject: Arc<str>,
    body: Arc<[u8]>,
    id: Option<u128>,
    attempts: u32,
    /// It may not be lost.
    is_kept: bool,
}

#[derive(Debug)]
struct Held {
    listener: u64,
    queue: u64,
    until: Instant,
    item: Item,
}

impl Router {
    pub(crate) fn new(options: Options) -> Self {
        Router {
            ids: Recent::new(options.ids_kept),
            options,
            topics: Topics::default(),
            listeners: BTreeMap::new(),
            next_listener: 1,
            queues: BTreeMap::new(),
            next_queue: 1,
            groups: BTreeMap::new(),
            exact: BTreeMap::new(),
            wild: BTreeMap::new(),
            held: BTreeMap::new(),
            leases: BTreeSet::new(),
            next_receipt: 1,
            // Above those that a program is likely to number its own messages with.
            next_id: 1 << 127,
            dead: VecDeque::new(),
            next_place: 1,
            counters: Counters::default(),
        }
    }

    pub(crate) fn declare(&mut self, pattern: &str, delivery: Delivery) -> Result<(), Error> {
        let listeners = self.queues.values().map(|queue| queue.pattern.as_str());
        self.topics.declare(pattern, delivery, listeners)
    }

    pub(crate) fn listen(
        &mut self,
        listen: &Listen,
        wakers: &mut Vec<Waker>,
    ) -> Result<u64, Error> {
        let Listen { pattern, group, credits, lease } = listen;
        if !is_pattern(pattern) {
            return Err(Error::BadSubject(pattern.into()));
        }
        if self.listeners.len() >= self.options.subscriptions_max {
            return Err(Error::Full(self.listeners.len()));
        }
        let id = self.next_listener;
        self.next_listener += 1;
        let key = group.clone().map(|group| (pattern.clone(), group));
        let queue = match key.as_ref().and_then(|key| self.groups.get(key)) {
            Some(queue) => *queue,
            None => self.open(pattern, group.as_deref()),
        };
        self.queue(queue).members.insert(id);
        let lease = lease.unwrap_or(self.options.lease);
        let listener = Listener { queue, credits: *credits, lease, held: 0, waker: None };
        self.listeners.insert(id, listener);
        self.wake(queue, wakers);
        Ok(id)
    }

    fn open(&mut self, pattern: &str, group: Option<&str>) -> u64 {
        let number = self.next_queue;
        self.next_queue += 1;
        let queue = Queue {
            pattern: pattern.into(),
            group: group.map(Into::into),
            items: VecDeque::new(),
            bytes: 0,
            held: 0,
            members: BTreeSet::new(),
            dropped: 0,
        };
        self.queues.insert(number, queue);
        if let Some(group) = group {
            self.groups.insert((pattern.into(), group.into()), number);
        }
        let by_pattern = if is_subject(pattern) { &mut self.exact } else { &mut self.wild };
        by_pattern.entry(pattern.into()).or_default().insert(number);
        number
    }

    pub(crate) fn unlisten(&mut self, id: u64, wakers: &mut Vec<Waker>) {
        let Some(listener) = self.listeners.remove(&id) else { return };
        let number = listener.queue;
        let queue = self.queue(number);
        queue.members.remove(&id);
        if queue.members.is_empty() {
            // What may be lost is lost with the last who listens, also in a group.
            let is_group = queue.group.is_some();
            queue.items.retain(|item| is_group && item.is_kept);
            queue.bytes = queue.items.iter().map(|item| item.body.len()).sum();
        }
        self.wake(number, wakers);
        self.close_idle(number);
    }

    pub(crate) fn publish(
        &mut self,
        post: Post,
        wakers: &mut Vec<Waker>,
    ) -> Result<Accepted, Error> {
        let Post { subject, id, body, .. } = post;
        if !is_subject(&subject) {
            return Err(Error::BadSubject(subject));
        }
        let (bytes, max) = (body.len(), self.options.message_bytes_max);
        if bytes > max {
            return Err(Error::TooLong { bytes, max });
        }
        if id.is_some_and(|id| self.ids.has(id)) {
            self.counters.repeated += 1;
            return Ok(Accepted::Repeated);
        }
        let is_kept = self.topics.delivery(&subject).is_kept();
        let receivers = self.receivers(&subject);
        let is_full = |number: &u64| !self.queues[number].has_room(&self.options, bytes);
        if is_kept && receivers.iter().any(is_full) {
            self.counters.busy += 1;
            return Err(Error::Busy(subject));
        }
        if let Some(id) = id {
            self.ids.add(id);
        }
        let id = id.or_else(|| is_kept.then(|| self.fresh_id()));
        self.counters.published += 1;
        if receivers.is_empty() {
            self.counters.unheard += 1;
        }
        let subject: Arc<str> = subject.into();
        for number in receivers {
            let queue = self.queues.get_mut(&number).expect("receivers are there");
            if queue.has_room(&self.options, bytes) {
                let (subject, body) = (subject.clone(), body.clone());
                queue.push_back(Item { subject, body, id, attempts: 0, is_kept });
                self.wake(number, wakers);
            } else {
                queue.dropped += 1;
                self.counters.dropped += 1;
            }
        }
        Ok(Accepted::New)
    }

    /// Takes a message back from all who have it waiting and not in hand.
    pub(crate) fn withdraw(&mut self, subject: &str, id: u128) {
        for number in self.receivers(subject) {
            let queue = self.queue(number);
            queue.items.retain(|item| item.id != Some(id));
            queue.bytes = queue.items.iter().map(|item| item.body.len()).sum();
            self.close_idle(number);
        }
    }

    /// How many messages that may not be lost wait for a group and are in nobody's hands.
    pub(crate) fn waiting(&self, pattern: &str, group: &str) -> u64 {
        let queue = self.groups.get(&(pattern.into(), group.into()));
        let items = queue.into_iter().flat_map(|queue| &self.queues[queue].items);
        items.filter(|item| item.is_kept).count() as u64
    }

    pub(crate) fn attempts_max(&self) -> u32 {
        self.options.attempts_max
    }

    /// The next message of a listener, or its waker is kept.
    pub(crate) fn take(&mut self, now: Instant, id: u64, waker: Option<&Waker>) -> Option<Taken> {
        let taken = self.take_now(now, id);
        if taken.is_none()
            && let Some(waker) = waker
            && let Some(listener) = self.listeners.get_mut(&id)
        {
            match &mut listener.waker {
                Some(kept) => kept.clone_from(waker),
                none => *none = Some(waker.clone()),
            }
        }
        taken
    }

    fn take_now(&mut self, now: Instant, id: u64) -> Option<Taken> {
        let listener = self.listeners.get_mut(&id)?;
        let queue = self.queues.get_mut(&listener.queue).expect("a listener's queue is there");
        if queue.items.front()?.is_kept && listener.held >= listener.credits {
            return None;
        }
        let mut item = queue.items.pop_front()?;
        queue.bytes -= item.body.len();
        item.attempts += 1;
        self.counters.delivered += 1;
        self.counters.redelivered += u64::from(item.attempts > 1);
        let (subject, body, attempt) = (item.subject.clone(), item.body.clone(), item.attempts);
        let message_id = item.id;
        let receipt = item.is_kept.then(|| {
            let receipt = self.next_receipt;
            self.next_receipt += 1;
            let until = now + listener.lease;
            self.leases.insert((until, receipt));
            self.held.insert(receipt, Held { listener: id, queue: listener.queue, until, item });
            listener.held += 1;
            queue.held += 1;
            receipt
        });
        Some(Taken { subject, body, id: message_id, attempt, receipt })
    }

    /// What a listener says of a message in its hands. One whose lease ran out is not in them.
    pub(crate) fn settle(
        &mut self,
        now: Instant,
        receipt: u64,
        verdict: Verdict,
        wakers: &mut Vec<Waker>,
    ) {
        let Some(held) = self.held.get_mut(&receipt) else { return };
        if verdict == Verdict::Extend {
            let Some(listener) = self.listeners.get(&held.listener) else { return };
            self.leases.remove(&(held.until, receipt));
            held.until = now + listener.lease;
            self.leases.insert((held.until, receipt));
            return;
        }
        let held = self.held.remove(&receipt).expect("it is there");
        self.leases.remove(&(held.until, receipt));
        let Held { listener, queue: number, item, .. } = held;
        if let Some(listener) = self.listeners.get_mut(&listener) {
            listener.held -= 1;
            // A credit is free again.
            wakers.extend(listener.waker.take());
        }
        let queue = self.queue(number);
        queue.held -= 1;
        if let Verdict::Again(cause) = verdict {
            let has_heirs = queue.group.is_some() || !queue.members.is_empty();
            if item.attempts >= self.options.attempts_max {
                self.set_aside(number, item, cause);
            } else if has_heirs {
                let queue = self.queue(number);
                queue.bytes += item.body.len();
                queue.items.push_front(item);
                self.wake(number, wakers);
            }
        }
        self.close_idle(number);
    }

    /// Takes back what was held for too long.
    pub(crate) fn handle_timeout(&mut self, now: Instant, wakers: &mut Vec<Waker>) {
        while let Some(&(until, receipt)) = self.leases.first()
            && until <= now
        {
            self.counters.expired += 1;
            let cause = "its lease ran out".to_owned();
            self.settle(now, receipt, Verdict::Again(cause), wakers);
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.leases.first().map(|(until, _)| *until)
    }

    fn set_aside(&mut self, queue: u64, item: Item, cause: String) {
        self.counters.dead += 1;
        if self.options.dead_max == 0 {
            return;
        }
        if self.dead.len() == self.options.dead_max {
            self.dead.pop_front();
        }
        let place = self.next_place;
        self.next_place += 1;
        let dead = Dead {
            subject: item.subject.as_ref().into(),
            id: item.id.unwrap_or_default(),
            body: item.body,
            group: self.queues[&queue].group.clone(),
            attempts: item.attempts,
            cause: cut(cause),
            place,
        };
        self.dead.push_back((Some(queue), dead));
    }

    pub(crate) fn dead(&self, scope: &str, max: usize) -> Vec<Dead> {
        let all = self.dead.iter().map(|(_, dead)| dead);
        all.filter(|dead| dead.subject.starts_with(scope)).take(max).cloned().collect()
    }

    /// Takes a dead letter away, and gives it to its queue again if so asked.
    pub(crate) fn bury(
        &mut self,
        place: u128,
        replay: bool,
        wakers: &mut Vec<Waker>,
    ) -> Result<(), Error> {
        let is_it = |(_, dead): &(Option<u64>, Dead)| dead.place == place;
        let at = self.dead.iter().position(is_it).ok_or(Error::NotFound)?;
        let (queue, dead) = &self.dead[at];
        if replay {
            // The group may have been closed meanwhile, and be another queue now.
            let number = queue.filter(|number| self.queues.contains_key(number)).or_else(|| {
                let mut all = self.queues.iter();
                let found = all.find(|(_, queue)| {
                    queue.group == dead.group && matches(&queue.pattern, &dead.subject)
                });
                found.map(|(number, _)| *number)
            });
            let number = number.ok_or_else(|| Error::unheard(dead))?;
            let item = Item {
                subject: dead.subject.as_str().into(),
                body: dead.body.clone(),
                id: Some(dead.id),
                attempts: 0,
                is_kept: true,
            };
            self.queue(number).push_back(item);
            self.wake(number, wakers);
        }
        self.dead.remove(at);
        Ok(())
    }

    /// How many messages its queue lost.
    pub(crate) fn dropped(&self, id: u64) -> u64 {
        self.listeners.get(&id).map_or(0, |listener| self.queues[&listener.queue].dropped)
    }

    pub(crate) fn counters(&self) -> Counters {
        self.counters
    }

    /// The queues that get a copy.
    fn receivers(&self, subject: &str) -> Vec<u64> {
        let exact = self.exact.get(subject).into_iter();
        let wild = self.wild.iter().filter(|(pattern, _)| matches(pattern, subject));
        exact.chain(wild.map(|(_, queues)| queues)).flatten().copied().collect()
    }

    /// Wakes all who could take from a queue: a waiter may have gone without a word.
    fn wake(&mut self, number: u64, wakers: &mut Vec<Waker>) {
        let queue = &self.queues[&number];
        if queue.items.is_empty() {
            return;
        }
        for id in &queue.members {
            let listener = self.listeners.get_mut(id);
            wakers.extend(listener.and_then(|listener| listener.waker.take()));
        }
    }

    /// Forgets a queue that nobody is in and nothing waits in.
    fn close_idle(&mut self, number: u64) {
        let queue = &self.queues[&number];
        if !queue.members.is_empty() || !queue.items.is_empty() || queue.held > 0 {
            return;
        }
        let Queue { pattern, group, .. } = self.queues.remove(&number).expect("it is there");
        let exact = is_subject(&pattern);
        let by_pattern = if exact { &mut self.exact } else { &mut self.wild };
        if let Some(queues) = by_pattern.get_mut(&pattern) {
            queues.remove(&number);
            if queues.is_empty() {
                by_pattern.remove(&pattern);
            }
        }
        if let Some(group) = group {
            self.groups.remove(&(pattern, group));
        }
    }

    fn queue(&mut self, number: u64) -> &mut Queue {
        self.queues.get_mut(&number).expect("the queue is there")
    }

    fn fresh_id(&mut self) -> u128 {
        self.next_id += 1;
        self.next_id
    }
}

impl Queue {
    fn has_room(&self, options: &Options, bytes: usize) -> bool {
        self.items.len() + self.held < options.queue_messages_max
            && (self.bytes + bytes <= options.queue_bytes_max || self.items.is_empty())
    }

    fn push_back(&mut self, item: Item) {
        self.bytes += item.body.len();
        self.items.push_back(item);
    }
}
