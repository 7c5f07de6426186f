use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::mem;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use env::{Instant, Random};

use crate::answer::{Sender, channel};
use crate::recent::Recent;
use crate::subject::{intersection, is_pattern, is_subject};
use crate::topics::Topics;
use crate::types::{Accepted, Listen, Post, Taken, Verdict, cut};
use crate::{Answer, Counters, Dead, Delivery, Error, Options};

/// Ids of finished messages that a group remembers in one process.
const FINISHED_KEPT: usize = 4096;

/// The pure core of one process's end of a bus with a server: what was declared and is listened
/// to, what waits to be taken, what is in hands, and what the server has not confirmed.
///
/// The driver carries [`Order`]s to the server, and asks [`Front::next_post`] for what to publish.
pub(crate) struct Front {
    backend: &'static str,
    options: Options,
    random: Random,
    topics: Topics,
    /// Whether the server has the topic, and who waits to hear so.
    made: BTreeMap<String, Made>,
    ears: BTreeMap<u64, Ear>,
    next_ear: u64,
    held: BTreeMap<u64, Held>,
    leases: BTreeSet<(Instant, u64)>,
    next_receipt: u64,
    pending: BTreeMap<u64, Pending>,
    deadlines: BTreeSet<(Instant, u64)>,
    by_id: BTreeMap<u128, u64>,
    unsent: BTreeSet<u64>,
    next_post: u64,
    /// What may be lost and was not given to the driver yet.
    live: VecDeque<Live>,
    /// How many of those were given to the driver, and whether it still has the last of them.
    live_taken: u64,
    live_in_hand: bool,
    ids: Recent,
    finished: BTreeMap<(String, String), Recent>,
    orders: VecDeque<Order>,
    counters: Counters,
}

#[derive(Default)]
struct Made {
    is_there: bool,
    refused: Option<String>,
    waiting: Vec<Sender<()>>,
}

/// What the driver shall tell the server.
#[derive(Debug)]
pub(crate) enum Order {
    Declare {
        topic: String,
        delivery: Delivery,
    },
    Listen(Listening),
    Unlisten {
        ear: u64,
    },
    /// A message is done with, or must come again.
    Settle {
        tag: u64,
        is_done: bool,
    },
    /// A message is to be kept as a dead letter, then done with.
    SetAside {
        tag: u64,
        dead: Dead,
    },
    Dead {
        scope: String,
        max: usize,
        sender: Sender<Vec<Dead>>,
    },
    Bury {
        dead: Dead,
        replay: bool,
        sender: Sender<()>,
    },
    /// How many messages wait for a group.
    Waiting {
        group: String,
        kept: Vec<Kept>,
        sender: Sender<u64>,
    },
}

/// How the server shall be listened to.
#[derive(Clone, Debug)]
pub(crate) struct Listening {
    pub ear: u64,
    pub pattern: String,
    pub group: Option<String>,
    /// A name that no other listener has.
    pub name: String,
    pub credits: usize,
    /// How many of the messages that may be lost were published before: they are not for it.
    pub after: u64,
    pub kept: Vec<Kept>,
}

/// A topic that may lose nothing, what of it is listened to, and its class.
pub(crate) type Kept = (String, String, Delivery);

/// A listener.
struct Ear {
    listening: Listening,
    lease: Duration,
    queue: VecDeque<Item>,
    bytes: usize,
    held: usize,
    waker: Option<Waker>,
    dropped: u64,
    /// When it last took, finished or prolonged something.
    active_at: Instant,
    /// It let a lease run out: the server gives it nothing until it asks again.
    is_stuck: bool,
    /// Parts that the server has not confirmed.
    parts: usize,
    ready: Option<Sender<()>>,
}

impl Ear {
    /// Whose ids it remembers as finished.
    fn key(&self) -> (String, String) {
        let Listening { pattern, group, name, .. } = &self.listening;
        (pattern.clone(), group.clone().unwrap_or_else(|| format!("={name}")))
    }
}

#[derive(Clone, Debug)]
struct Item {
    subject: Arc<str>,
    body: Arc<[u8]>,
    id: Option<u128>,
    attempts: u32,
    came_at: Instant,
    /// What the driver knows it by; none if it may be lost.
    tag: Option<u64>,
}

struct Held {
    ear: u64,
    until: Instant,
    item: Item,
}

struct Pending {
    post: Outgoing,
    since: Instant,
    deadline: Option<Instant>,
    /// The server took it as new once, although that was not certain.
    was_new: bool,
    tellers: Vec<Sender<Accepted>>,
}

/// What is published to a topic that may lose nothing.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    pub number: u64,
    pub topic: String,
    pub subject: String,
    pub id: u128,
    pub body: Arc<[u8]>,
    /// It was accepted before, and nobody waits for it.
    pub is_again: bool,
}

/// What is published and may be lost.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    pub subject: String,
    pub id: Option<u128>,
    pub body: Arc<[u8]>,
}

/// What came from the server.
#[derive(Clone, Debug)]
pub(crate) struct Incoming {
    pub subject: String,
    pub body: Arc<[u8]>,
    pub id: Option<u128>,
    /// How often it was given out, with this.
    pub attempts: u32,
    pub tag: Option<u64>,
    /// Replayed: for this group alone, or if empty for those without.
    pub only: Option<String>,
}

impl Front {
    pub fn new(backend: &'static str, options: Options, random: Random) -> Self {
        Front {
            backend,
            ids: Recent::new(options.ids_kept),
            options,
            random,
            topics: Topics::default(),
            made: BTreeMap::new(),
            ears: BTreeMap::new(),
            next_ear: 1,
            held: BTreeMap::new(),
            leases: BTreeSet::new(),
            next_receipt: 1,
            pending: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            by_id: BTreeMap::new(),
            unsent: BTreeSet::new(),
            next_post: 1,
            live: VecDeque::new(),
            live_taken: 0,
            live_in_hand: false,
            finished: BTreeMap::new(),
            orders: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    pub fn counters(&self) -> Counters {
        self.counters
    }

    // ---- topics ----

    pub fn declare(
        &mut self,
        pattern: &str,
        delivery: Delivery,
        sender: Sender<()>,
    ) -> Result<(), Error> {
        let listeners = self.ears.values().map(|ear| ear.listening.pattern.as_str());
        self.topics.declare(pattern, delivery, listeners)?;
        if !delivery.is_kept() {
            sender.send(Ok(()));
            return Ok(());
        }
        let made = self.made.entry(pattern.to_owned()).or_default();
        if made.is_there {
            sender.send(Ok(()));
            return Ok(());
        }
        made.waiting.push(sender);
        self.orders.push_back(Order::Declare { topic: pattern.to_owned(), delivery });
        Ok(())
    }

    /// The server has the topic, or refuses it.
    pub fn topic_made(&mut self, topic: &str, refusal: Option<(Delivery, String)>) {
        let Some(made) = self.made.get_mut(topic) else { return };
        made.is_there = refusal.is_none();
        made.refused = refusal.as_ref().map(|(_, advice)| advice.clone());
        for waiting in mem::take(&mut made.waiting) {
            waiting.send(match &refusal {
                None => Ok(()),
                Some((delivery, advice)) => Err(Error::CannotGive {
                    topic: topic.to_owned(),
                    delivery: *delivery,
                    backend: self.backend,
                    advice: advice.clone(),
                }),
            });
        }
    }

    /// The server lost a topic: it is made again.
    pub fn topic_lost(&mut self, topic: &str) {
        let Some(made) = self.made.get_mut(topic) else { return };
        if mem::replace(&mut made.is_there, false)
            && let Some((_, delivery)) = self.topics.kept_of_topic(topic)
        {
            self.orders.push_back(Order::Declare { topic: topic.to_owned(), delivery });
        }
    }

    /// Takes a declaration back that the server refused.
    pub fn forget(&mut self, pattern: &str) {
        self.topics.forget(pattern);
        self.made.remove(pattern);
    }

    pub fn is_declared(&self, topic: &str) -> bool {
        self.made.contains_key(topic)
    }

    pub fn is_made(&self, topic: &str) -> bool {
        self.made.get(topic).is_some_and(|made| made.is_there)
    }

    pub fn refused(&self) -> Vec<(String, String)> {
        let all = self.made.iter();
        all.filter_map(|(topic, made)| Some((topic.clone(), made.refused.clone()?))).collect()
    }

    // ---- publishing ----

    pub fn publish(&mut self, now: Instant, post: Post) -> Result<Answer<Accepted>, Error> {
        let Post { subject, id, body, within } = post;
        if !is_subject(&subject) {
            return Err(Error::BadSubject(subject));
        }
        let (bytes, max) = (body.len(), self.options.message_bytes_max);
        if bytes > max {
            return Err(Error::TooLong { bytes, max });
        }
        if id.is_some_and(|id| self.ids.has(id)) {
            self.counters.repeated += 1;
            return Ok(Answer::given(Ok(Accepted::Repeated)));
        }
        let Some((topic, _)) = self.topics.kept_of(&subject) else {
            return Ok(self.publish_live(subject, id, body));
        };
        let (sender, answer) = channel();
        if let Some(number) = id.and_then(|id| self.by_id.get(&id)) {
            let pending = self.pending.get_mut(number).expect("what has an id here is pending");
            pending.tellers.push(sender);
            self.counters.repeated += 1;
            return Ok(answer);
        }
        if self.pending.len() >= self.options.unconfirmed_max {
            self.counters.busy += 1;
            return Err(Error::Busy(subject));
        }
        let number = self.next_post;
        self.next_post += 1;
        let id = id.unwrap_or_else(|| u128::from_le_bytes(self.random.bytes()));
        let deadline = within.map(|within| now + within);
        if let Some(deadline) = deadline {
            self.deadlines.insert((deadline, number));
        }
        let topic = topic.to_owned();
        let post = Outgoing { number, topic, subject, id, body, is_again: false };
        let (was_new, tellers) = (false, vec![sender]);
        self.pending.insert(number, Pending { post, since: now, deadline, was_new, tellers });
        self.by_id.insert(id, number);
        self.unsent.insert(number);
        Ok(answer)
    }

    fn publish_live(
        &mut self,
        subject: String,
        id: Option<u128>,
        body: Arc<[u8]>,
    ) -> Answer<Accepted> {
        if let Some(id) = id {
            self.ids.add(id);
        }
        self.counters.published += 1;
        if self.live.len() < self.options.unconfirmed_max {
            self.live.push_back(Live { subject, id, body });
        } else {
            self.counters.dropped += 1;
        }
        Answer::given(Ok(Accepted::New))
    }

    pub fn has_posts(&self) -> bool {
        !self.unsent.is_empty() || !self.live.is_empty()
    }

    /// The next message that may be lost. Who asks is done with the one before.
    pub fn next_live(&mut self) -> Option<Live> {
        let next = self.live.pop_front();
        self.live_in_hand = next.is_some();
        self.live_taken += u64::from(self.live_in_hand);
        next
    }

    /// Whether as many of the messages that may be lost were said to the server.
    pub fn is_live_said(&self, count: u64) -> bool {
        self.live_taken - u64::from(self.live_in_hand) >= count
    }

    /// Publishes a message that was accepted long ago and may be lost to some, unless the topic is gone.
    #[cfg(feature = "nats")]
    pub fn publish_again(&mut self, now: Instant, subject: String, id: u128, body: Arc<[u8]>) {
        let Some((topic, _)) = self.topics.kept_of(&subject) else { return };
        if self.by_id.contains_key(&id) {
            return;
        }
        let (number, topic) = (self.next_post, topic.to_owned());
        self.next_post += 1;
        let post = Outgoing { number, topic, subject, id, body, is_again: true };
        let (deadline, was_new, tellers) = (None, false, Vec::new());
        self.pending.insert(number, Pending { post, since: now, deadline, was_new, tellers });
        self.by_id.insert(id, number);
        self.unsent.insert(number);
    }

    /// The next message to be published: the oldest whose topic the server has.
    pub fn next_post(&mut self) -> Option<Outgoing> {
        let mut unsent = self.unsent.iter();
        let ready = |number: &&u64| self.is_made(&self.pending[*number].post.topic);
        let number = *unsent.find(ready)?;
        self.unsent.remove(&number);
        Some(self.pending[&number].post.clone())
    }

    /// Nobody knows what became of it: it is published again.
    pub fn send_again(&mut self, number: u64) {
        if self.pending.contains_key(&number) {
            self.unsent.insert(number);
        }
    }

    /// The server says what it did with a message, but may lose it: it is published again.
    #[cfg(feature = "nats")]
    pub fn doubted(&mut self, number: u64, accepted: Accepted) {
        if let Some(pending) = self.pending.get_mut(&number) {
            pending.was_new |= accepted == Accepted::New;
        }
        self.send_again(number);
    }

    /// Nobody knows what became of any of it.
    #[cfg(feature = "rabbitmq")]
    pub fn send_all_again(&mut self) {
        self.unsent = self.pending.keys().copied().collect();
    }

    /// The server has taken a message, or refused it.
    pub fn confirmed(&mut self, number: u64, result: Result<Accepted, Error>) {
        let Some(pending) = self.close(number) else { return };
        // What it knows already it had from here.
        let result = result.map(|accepted| if pending.was_new { Accepted::New } else { accepted });
        match &result {
            Ok(accepted) => {
                self.ids.add(pending.post.id);
                self.counters.published += u64::from(*accepted == Accepted::New);
                self.counters.repeated += u64::from(*accepted == Accepted::Repeated);
            }
            Err(Error::Busy(_)) => self.counters.busy += 1,
            Err(_) => {}
        }
        let mut result = result;
        for teller in pending.tellers {
            teller.send(result.clone());
            // Who asked again with the same id did not publish it.
            result = result.map(|_| Accepted::Repeated);
        }
    }

    fn close(&mut self, number: u64) -> Option<Pending> {
        let pending = self.pending.remove(&number)?;
        self.unsent.remove(&number);
        self.by_id.remove(&pending.post.id);
        if let Some(deadline) = pending.deadline {
            self.deadlines.remove(&(deadline, number));
        }
        Some(pending)
    }

    // ---- listening ----

    pub fn listen(&mut self, now: Instant, listen: &Listen) -> Result<(u64, Answer<()>), Error> {
        let Listen { pattern, group, credits, lease } = listen;
        if !is_pattern(pattern) {
            return Err(Error::BadSubject(pattern.clone()));
        }
        if self.ears.len() >= self.options.subscriptions_max {
            return Err(Error::Full(self.ears.len()));
        }
        let ear = self.next_ear;
        self.next_ear += 1;
        let kept = self.kept_of(pattern);
        let name = format!("{:032x}", u128::from_le_bytes(self.random.bytes()));
        let (pattern, group) = (pattern.clone(), group.clone());
        let parts = kept.len() + 1;
        let after = self.live_taken + self.live.len() as u64;
        let listening = Listening { ear, pattern, group, name, credits: *credits, after, kept };
        let (sender, answer) = channel();
        let this = Ear {
            listening: listening.clone(),
            lease: lease.unwrap_or(self.options.lease),
            queue: VecDeque::new(),
            bytes: 0,
            held: 0,
            waker: None,
            dropped: 0,
            active_at: now,
            is_stuck: false,
            parts,
            ready: Some(sender),
        };
        self.finished.entry(this.key()).or_insert_with(|| Recent::new(FINISHED_KEPT));
        self.ears.insert(ear, this);
        self.orders.push_back(Order::Listen(listening));
        Ok((ear, answer))
    }

    /// What of the topics that may lose nothing is in a pattern.
    fn kept_of(&self, pattern: &str) -> Vec<Kept> {
        let kept = self.topics.kept(pattern);
        let parts = kept.filter_map(|(topic, delivery)| {
            Some((topic.to_owned(), intersection(topic, pattern)?, delivery))
        });
        parts.collect()
    }

    /// The server knows of one part of a listener.
    pub fn part_ready(&mut self, ear: u64) {
        let Some(ear) = self.ears.get_mut(&ear) else { return };
        ear.parts = ear.parts.saturating_sub(1);
        if ear.parts == 0
            && let Some(ready) = ear.ready.take()
        {
            ready.send(Ok(()));
        }
    }

    pub fn unlisten(&mut self, id: u64) {
        let Some(ear) = self.ears.remove(&id) else { return };
        for tag in ear.queue.iter().filter_map(|item| item.tag) {
            self.orders.push_back(Order::Settle { tag, is_done: false });
        }
        if ear.listening.group.is_none() {
            self.finished.remove(&ear.key());
        }
        self.orders.push_back(Order::Unlisten { ear: id });
    }

    /// All that is listened to.
    #[cfg(feature = "rabbitmq")]
    pub fn listening(&self) -> Vec<Listening> {
        let all = self.ears.values().filter(|ear| !ear.is_stuck);
        all.map(|ear| ear.listening.clone()).collect()
    }

    /// All topics that may lose nothing.
    #[cfg(feature = "rabbitmq")]
    pub fn kept(&self) -> Vec<(String, Delivery)> {
        self.topics.kept(">").map(|(topic, delivery)| (topic.to_owned(), delivery)).collect()
    }

    /// How many more messages that may not be lost a listener wants.
    pub fn room(&self, ear: u64) -> usize {
        let Some(ear) = self.ears.get(&ear).filter(|ear| !ear.is_stuck) else { return 0 };
        ear.listening.credits.saturating_sub(ear.queue.len() + ear.held)
    }

    /// A message came.
    pub fn deliver(&mut self, now: Instant, ear: u64, message: Incoming, wakers: &mut Vec<Waker>) {
        let Incoming { subject, body, id, attempts, tag, only } = message;
        let Some(this) = self.ears.get_mut(&ear).filter(|ear| tag.is_none() || !ear.is_stuck)
        else {
            let back = |tag| Order::Settle { tag, is_done: false };
            self.orders.extend(tag.map(back));
            return;
        };
        let item = Item { subject: subject.into(), body, id, attempts, came_at: now, tag };
        let Some(tag) = tag else {
            let is_full = this.queue.len() >= self.options.queue_messages_max
                || this.bytes + item.body.len() > self.options.queue_bytes_max
                    && !this.queue.is_empty();
            if is_full {
                this.dropped += 1;
                self.counters.dropped += 1;
                return;
            }
            return this.push(item, wakers);
        };
        let group = this.listening.group.clone().unwrap_or_default();
        let is_finished = id.is_some_and(|id| self.finished[&this.key()].has(id));
        if is_finished || only.is_some_and(|only| only != group) {
            self.counters.repeated += u64::from(is_finished);
            self.orders.push_back(Order::Settle { tag, is_done: true });
            return;
        }
        let hands = self.held.values_mut().filter(|held| held.ear == ear);
        let mut here = hands.map(|held| &mut held.item).chain(&mut this.queue);
        if let Some(here) = here.find(|item| id.is_some() && item.id == id) {
            if attempts > 1 {
                // It came again because the server did not hear from us in time.
                here.tag = Some(tag);
            } else {
                // Somebody published another under the same id.
                self.counters.repeated += 1;
                self.orders.push_back(Order::Settle { tag, is_done: true });
            }
            return;
        }
        if attempts > self.options.attempts_max.saturating_mul(2) {
            let cause = format!("it was given out {attempts} times and nobody said a word");
            return self.set_aside(ear, item, cause);
        }
        this.push(item, wakers);
    }

    /// The connection is gone, and with it what it brought: the server will bring it again.
    #[cfg(feature = "rabbitmq")]
    pub fn disconnected(&mut self) {
        for ear in self.ears.values_mut() {
            ear.queue.retain(|item| item.tag.is_none());
            ear.bytes = ear.queue.iter().map(|item| item.body.len()).sum();
        }
        for made in self.made.values_mut() {
            made.is_there = false;
        }
    }

    pub fn take(&mut self, now: Instant, id: u64, waker: Option<&Waker>) -> Option<Taken> {
        let ear = self.ears.get_mut(&id)?;
        ear.active_at = now;
        if std::mem::take(&mut ear.is_stuck) {
            self.orders.push_back(Order::Listen(ear.listening.clone()));
        }
        let Some(front) = ear.queue.front() else {
            if let Some(waker) = waker {
                ear.waker = Some(waker.clone());
            }
            return None;
        };
        if front.tag.is_some() && ear.held >= ear.listening.credits {
            if let Some(waker) = waker {
                ear.waker = Some(waker.clone());
            }
            return None;
        }
        let item = ear.queue.pop_front()?;
        ear.bytes -= item.body.len();
        self.counters.delivered += 1;
        self.counters.redelivered += u64::from(item.attempts > 1);
        let (subject, body) = (item.subject.clone(), item.body.clone());
        let (message_id, attempt) = (item.id, item.attempts);
        let receipt = item.tag.is_some().then(|| {
            let receipt = self.next_receipt;
            self.next_receipt += 1;
            let until = now + ear.lease;
            self.leases.insert((until, receipt));
            self.held.insert(receipt, Held { ear: id, until, item });
            ear.held += 1;
            receipt
        });
        Some(Taken { subject, body, id: message_id, attempt, receipt })
    }

    pub fn settle(
        &mut self,
        now: Instant,
        receipt: u64,
        verdict: Verdict,
        wakers: &mut Vec<Waker>,
    ) {
        let Some(held) = self.held.get_mut(&receipt) else { return };
        if verdict == Verdict::Extend {
            let Some(ear) = self.ears.get_mut(&held.ear) else { return };
            ear.active_at = now;
            self.leases.remove(&(held.until, receipt));
            held.until = now + ear.lease;
            self.leases.insert((held.until, receipt));
            return;
        }
        let Held { ear, until, item } = self.held.remove(&receipt).expect("it is there");
        self.leases.remove(&(until, receipt));
        if let Some(this) = self.ears.get_mut(&ear) {
            this.held -= 1;
            this.active_at = now;
            wakers.extend(this.waker.take());
            if verdict == Verdict::Done
                && let Some(id) = item.id
            {
                let key = this.key();
                self.finished.get_mut(&key).expect("a listener's memory").add(id);
            }
        }
        match verdict {
            Verdict::Again(cause) if item.attempts >= self.options.attempts_max => {
                self.set_aside(ear, item, cause);
            }
            verdict => {
                let tag = item.tag.expect("what is held has a tag");
                let is_done = verdict == Verdict::Done;
                self.orders.push_back(Order::Settle { tag, is_done });
            }
        }
    }

    fn set_aside(&mut self, ear: u64, item: Item, cause: String) {
        let Some(tag) = item.tag else { return };
        let Some(this) = self.ears.get(&ear) else {
            self.orders.push_back(Order::Settle { tag, is_done: false });
            return;
        };
        self.counters.dead += 1;
        if self.options.dead_max == 0 {
            self.orders.push_back(Order::Settle { tag, is_done: true });
            return;
        }
        let dead = Dead {
            subject: item.subject.as_ref().into(),
            id: item.id.unwrap_or_default(),
            body: item.body,
            group: this.listening.group.clone(),
            attempts: item.attempts,
            cause: cut(cause),
            place: u128::from_le_bytes(self.random.bytes()),
        };
        self.orders.push_back(Order::SetAside { tag, dead });
    }

    /// What is here and not finished: the server must not take us for dead.
    #[cfg(feature = "nats")]
    pub fn tags(&self) -> Vec<u64> {
        let queued = self.ears.values().flat_map(|ear| &ear.queue);
        let held = self.held.values().map(|held| &held.item);
        queued.chain(held).filter_map(|item| item.tag).collect()
    }

    pub fn dropped(&self, ear: u64) -> u64 {
        self.ears.get(&ear).map_or(0, |ear| ear.dropped)
    }

    // ---- time and orders ----

    pub fn handle_timeout(&mut self, now: Instant, wakers: &mut Vec<Waker>) {
        while let Some(&(until, receipt)) = self.leases.first()
            && until <= now
        {
            self.counters.expired += 1;
            let cause = "its lease ran out".to_owned();
            self.suspend(self.held[&receipt].ear);
            self.settle(now, receipt, Verdict::Again(cause), wakers);
        }
        // What came and is not even taken is as if it were in hands.
        let is_idle = |ear: &&Ear| {
            let waits = ear.queue.front().filter(|item| item.tag.is_some());
            waits.is_some_and(|item| now - item.came_at.max(ear.active_at) >= ear.lease)
        };
        let idle: Vec<_> =
            self.ears.values().filter(is_idle).map(|ear| ear.listening.ear).collect();
        idle.into_iter().for_each(|ear| self.suspend(ear));
        while let Some(&(deadline, number)) = self.deadlines.first()
            && deadline <= now
        {
            let Some(pending) = self.close(number) else { break };
            let (subject, waited) = (pending.post.subject, now - pending.since);
            for teller in pending.tellers {
                teller.send(Err(Error::Unconfirmed { subject: subject.clone(), waited }));
            }
        }
    }

    /// A listener hangs: what came for it goes to others, and nothing comes until it asks again.
    fn suspend(&mut self, ear: u64) {
        let Some(this) = self.ears.get_mut(&ear) else { return };
        if mem::replace(&mut this.is_stuck, true) {
            return;
        }
        self.orders.push_back(Order::Unlisten { ear });
        let back = this.queue.iter().filter_map(|item| item.tag);
        self.orders.extend(back.map(|tag| Order::Settle { tag, is_done: false }));
        this.queue.retain(|item| item.tag.is_none());
        this.bytes = this.queue.iter().map(|item| item.body.len()).sum();
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        let lease = self.leases.first().map(|(until, _)| *until);
        let deadline = self.deadlines.first().map(|(deadline, _)| *deadline);
        lease.into_iter().chain(deadline).min()
    }

    /// Asks the server how much waits for a group.
    pub fn ask_waiting(&mut self, pattern: &str, group: &str, sender: Sender<u64>) {
        let (group, kept) = (group.to_owned(), self.kept_of(pattern));
        self.orders.push_back(Order::Waiting { group, kept, sender });
    }

    pub fn order(&mut self, order: Order) {
        self.orders.push_back(order);
    }

    pub fn has_orders(&self) -> bool {
        !self.orders.is_empty()
    }

    pub fn poll_order(&mut self) -> Option<Order> {
        self.orders.pop_front()
    }
}

impl Ear {
    fn push(&mut self, item: Item, wakers: &mut Vec<Waker>) {
        self.bytes += item.body.len();
        self.queue.push_back(item);
        wakers.extend(self.waker.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_waits_until_what_was_published_before_it_is_said() {
        let now = Instant::ZERO;
        let mut front = Front::new("test", Options::default(), Random::from_seed(1));
        let publish = |front: &mut Front| {
            let post = Post { subject: "a".into(), id: None, body: [].into(), within: None };
            front.publish(now, post).unwrap();
        };
        publish(&mut front);
        publish(&mut front);
        front.listen(now, &Listen::to("a")).unwrap();
        let Some(Order::Listen(Listening { after, .. })) = front.poll_order() else { panic!() };
        publish(&mut front);
        let mut said = Vec::new();
        while front.next_live().is_some() {
            said.push(front.is_live_said(after));
        }
        assert_eq!(said, [false, false, true]);
        assert!(front.is_live_said(after));
    }

    /// A server that had it all the time tells a repeat of what is published again in doubt.
    #[cfg(feature = "nats")]
    #[test]
    fn what_is_published_again_in_doubt_is_new_to_who_published_it() {
        let now = Instant::ZERO;
        let mut front = Front::new("test", Options::default(), Random::from_seed(1));
        front.declare("a", Delivery::AtLeastOnce, channel().0).unwrap();
        front.topic_made("a", None);
        let mut publish = |first| {
            let post = Post { subject: "a".into(), id: None, body: [].into(), within: None };
            let mut answer = front.publish(now, post).unwrap();
            let number = front.next_post().unwrap().number;
            front.doubted(number, first);
            assert_eq!(front.next_post().map(|post| post.number), Some(number));
            front.confirmed(number, Ok(Accepted::Repeated));
            answer.wait(Duration::ZERO)
        };
        assert_eq!(publish(Accepted::New), Some(Ok(Accepted::New)));
        assert_eq!(publish(Accepted::Repeated), Some(Ok(Accepted::Repeated)));
    }
}
