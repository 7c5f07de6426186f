use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::task::Waker;

use crate::subject::{is_pattern, is_subject, matches};
use crate::{Delivery, Error};

/// Limits of an embedded bus.
#[derive(Clone, Debug)]
pub struct Options {
    /// Most subscriptions open at once.
    pub subscriptions_max: usize,
    /// Most messages that wait for one listener or are in its hands.
    pub queue_messages_max: usize,
    /// Most bytes of messages that wait for one listener.
    pub queue_bytes_max: usize,
    /// Longest message, in bytes.
    pub message_bytes_max: usize,
    /// How many published ids are remembered.
    pub ids_kept: usize,
    /// How often a message is given out at most before it is set aside.
    pub attempts_max: u32,
    /// Most messages kept that were set aside.
    pub dead_max: usize,
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
        }
    }
}

/// What a bus did since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Counters {
    pub published: u64,
    /// Published while nobody listened.
    pub unheard: u64,
    pub delivered: u64,
    /// Lost to a full listener, where the topic allows it.
    pub dropped: u64,
    /// Refused because a listener was full, where the topic allows no loss.
    pub busy: u64,
    /// Published again under an id that was known.
    pub repeated: u64,
    /// Given out again.
    pub redelivered: u64,
    /// Set aside after too many attempts.
    pub dead: u64,
}

/// The pure core: who listens to what, and what waits for whom.
///
/// Inputs that make somebody ready append that one's waker to `wakers`.
#[derive(Debug)]
pub(crate) struct Router {
    options: Options,
    declared: BTreeMap<String, Delivery>,
    listeners: BTreeMap<u64, Listener>,
    next_listener: u64,
    /// Targets by exact subject, and those with wildcards.
    exact: BTreeMap<String, BTreeSet<Target>>,
    wild: BTreeMap<String, BTreeSet<Target>>,
    groups: BTreeMap<(String, String), Group>,
    /// Messages that were given out and not finished, by receipt.
    held: BTreeMap<u64, Held>,
    next_receipt: u64,
    ids: BTreeSet<u128>,
    ids_in_order: VecDeque<u128>,
    dead: VecDeque<(String, Arc<[u8]>)>,
    counters: Counters,
}

/// Who gets one copy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    Listener(u64),
    Group(String),
}

#[derive(Debug)]
struct Listener {
    pattern: String,
    group: Option<String>,
    queue: VecDeque<Item>,
    queue_bytes: usize,
    /// Messages given out and not finished; they count as waiting.
    held: usize,
    waker: Option<Waker>,
    dropped: u64,
}

#[derive(Debug, Default)]
struct Group {
    members: VecDeque<u64>,
    /// What the last member left behind.
    backlog: VecDeque<Item>,
}

#[derive(Clone, Debug)]
struct Item {
    subject: Arc<str>,
    body: Arc<[u8]>,
    attempts: u32,
    /// It may not be lost.
    is_kept: bool,
}

#[derive(Debug)]
struct Held {
    listener: u64,
    /// Where it belongs if the listener is gone.
    group: Option<(String, String)>,
    item: Item,
}

/// A message on its way to a listener.
#[derive(Debug)]
pub(crate) struct Taken {
    pub subject: Arc<str>,
    pub body: Arc<[u8]>,
    pub attempt: u32,
    pub receipt: Option<u64>,
}

impl Router {
    pub(crate) fn new(options: Options) -> Self {
        Router {
            options,
            declared: BTreeMap::new(),
            listeners: BTreeMap::new(),
            next_listener: 1,
            exact: BTreeMap::new(),
            wild: BTreeMap::new(),
            groups: BTreeMap::new(),
            held: BTreeMap::new(),
            next_receipt: 1,
            ids: BTreeSet::new(),
            ids_in_order: VecDeque::new(),
            dead: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    pub(crate) fn declare(&mut self, pattern: &str, delivery: Delivery) -> Result<(), Error> {
        if !is_pattern(pattern) {
            return Err(Error::BadSubject(pattern.into()));
        }
        match self.declared.insert(pattern.into(), delivery) {
            Some(first) if first != delivery => {
                let (topic, second) = (pattern.into(), delivery);
                self.declared.insert(pattern.into(), first);
                Err(Error::Contradiction { topic, first, second })
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn subscribe(&mut self, pattern: &str, group: Option<&str>) -> Result<u64, Error> {
        if !is_pattern(pattern) {
            return Err(Error::BadSubject(pattern.into()));
        }
        if self.listeners.len() >= self.options.subscriptions_max {
            return Err(Error::Full(self.listeners.len()));
        }
        let id = self.next_listener;
        self.next_listener += 1;
        let mut listener = Listener {
            pattern: pattern.into(),
            group: group.map(Into::into),
            queue: VecDeque::new(),
            queue_bytes: 0,
            held: 0,
            waker: None,
            dropped: 0,
        };
        let target = match group {
            None => Target::Listener(id),
            Some(name) => {
                let group = self.groups.entry((pattern.into(), name.into())).or_default();
                group.members.push_back(id);
                for item in group.backlog.drain(..) {
                    listener.push_back(item);
                }
                Target::Group(name.into())
            }
        };
        self.targets(pattern).entry(pattern.into()).or_default().insert(target);
        self.listeners.insert(id, listener);
        Ok(id)
    }

    pub(crate) fn unsubscribe(&mut self, id: u64, wakers: &mut Vec<Waker>) {
        let Some(listener) = self.listeners.remove(&id) else { return };
        let Listener { pattern, group, queue, .. } = listener;
        let Some(name) = group else {
            self.remove_target(&pattern, &Target::Listener(id));
            return;
        };
        let key = (pattern, name);
        let group = self.groups.get_mut(&key).expect("a member's group is there");
        group.members.retain(|member| *member != id);
        // What may be lost is lost with its listener, also in a group.
        for item in queue.into_iter().filter(|item| item.is_kept) {
            self.pass_on(&key, item, wakers);
        }
        self.forget_group(&key);
    }

    pub(crate) fn publish(
        &mut self,
        subject: &str,
        id: Option<u128>,
        body: Arc<[u8]>,
        wakers: &mut Vec<Waker>,
    ) -> Result<usize, Error> {
        if !is_subject(subject) {
            return Err(Error::BadSubject(subject.into()));
        }
        let (bytes, max) = (body.len(), self.options.message_bytes_max);
        if bytes > max {
            return Err(Error::TooLong { bytes, max });
        }
        if id.is_some_and(|id| self.ids.contains(&id)) {
            self.counters.repeated += 1;
            return Ok(0);
        }
        let is_kept = self.delivery(subject) != Delivery::AtMostOnce;
        let receivers = self.receivers(subject, bytes);
        let is_full = |id: &u64| !self.listeners[id].has_room(&self.options, bytes);
        if is_kept && receivers.iter().any(is_full) {
            self.counters.busy += 1;
            return Err(Error::Busy(subject.into()));
        }
        if let Some(id) = id {
            self.remember(id);
        }
        self.counters.published += 1;
        if receivers.is_empty() {
            self.counters.unheard += 1;
        }
        let subject: Arc<str> = subject.into();
        for id in &receivers {
            let listener = self.listeners.get_mut(id).expect("receivers are there");
            if listener.has_room(&self.options, bytes) {
                let (subject, body) = (subject.clone(), body.clone());
                listener.push_back(Item { subject, body, attempts: 0, is_kept });
                wakers.extend(listener.waker.take());
            } else {
                listener.dropped += 1;
                self.counters.dropped += 1;
            }
        }
        Ok(receivers.len())
    }

    /// The next message of a listener, or its waker is kept.
    pub(crate) fn take_or_wait(&mut self, id: u64, waker: &Waker) -> Option<Taken> {
        let taken = self.take(id);
        if taken.is_none()
            && let Some(listener) = self.listeners.get_mut(&id)
        {
            match &mut listener.waker {
                Some(kept) => kept.clone_from(waker),
                none => *none = Some(waker.clone()),
            }
        }
        taken
    }

    pub(crate) fn take(&mut self, id: u64) -> Option<Taken> {
        let listener = self.listeners.get_mut(&id)?;
        let mut item = listener.queue.pop_front()?;
        listener.queue_bytes -= item.body.len();
        item.attempts += 1;
        self.counters.delivered += 1;
        self.counters.redelivered += u64::from(item.attempts > 1);
        let (subject, body) = (item.subject.clone(), item.body.clone());
        let attempt = item.attempts;
        let receipt = item.is_kept.then(|| {
            let receipt = self.next_receipt;
            self.next_receipt += 1;
            let group = listener.group.clone().map(|name| (listener.pattern.clone(), name));
            self.held.insert(receipt, Held { listener: id, group, item });
            listener.held += 1;
            receipt
        });
        Some(Taken { subject, body, attempt, receipt })
    }

    /// A message is finished with.
    pub(crate) fn done(&mut self, receipt: u64) {
        let Some(held) = self.held.remove(&receipt) else { return };
        if let Some(listener) = self.listeners.get_mut(&held.listener) {
            listener.held -= 1;
        }
        if let Some(key) = held.group {
            self.forget_group(&key);
        }
    }

    /// A message was dropped unfinished: it goes back to the front of its queue, or to the rest
    /// of its group.
    pub(crate) fn give_back(&mut self, receipt: u64, wakers: &mut Vec<Waker>) {
        let Some(held) = self.held.remove(&receipt) else { return };
        let Held { listener, group, item } = held;
        if let Some(listener) = self.listeners.get_mut(&listener) {
            listener.held -= 1;
        }
        if item.attempts >= self.options.attempts_max {
            self.counters.dead += 1;
            if self.dead.len() == self.options.dead_max {
                self.dead.pop_front();
            }
            self.dead.push_back((item.subject.as_ref().into(), item.body));
        } else if let Some(listener) = self.listeners.get_mut(&listener) {
            listener.queue_bytes += item.body.len();
            listener.queue.push_front(item);
            wakers.extend(listener.waker.take());
        } else if let Some(key) = &group {
            self.pass_on(key, item, wakers);
        }
        if let Some(key) = group {
            self.forget_group(&key);
        }
    }

    pub(crate) fn dropped(&self, id: u64) -> u64 {
        self.listeners.get(&id).map_or(0, |listener| listener.dropped)
    }

    pub(crate) fn counters(&self) -> Counters {
        self.counters
    }

    pub(crate) fn take_dead(&mut self) -> Vec<(String, Arc<[u8]>)> {
        std::mem::take(&mut self.dead).into()
    }

    fn delivery(&self, subject: &str) -> Delivery {
        let of = self.declared.iter().filter(|(pattern, _)| matches(pattern, subject));
        of.map(|(_, delivery)| *delivery).max().unwrap_or_default()
    }

    /// Who gets a message of so many bytes: every listener of its own, and of each group the next
    /// member that has room.
    fn receivers(&mut self, subject: &str, bytes: usize) -> Vec<u64> {
        let mut receivers = Vec::new();
        let exact = self.exact.get_key_value(subject).into_iter();
        let wild = self.wild.iter().filter(|(pattern, _)| matches(pattern, subject));
        for (pattern, targets) in exact.chain(wild) {
            for target in targets {
                match target {
                    Target::Listener(id) => receivers.push(*id),
                    Target::Group(name) => {
                        let key = (pattern.clone(), name.clone());
                        let Some(group) = self.groups.get_mut(&key) else { continue };
                        let listeners = &self.listeners;
                        let has_room = |id: &u64| listeners[id].has_room(&self.options, bytes);
                        let at = group.members.iter().position(has_room).unwrap_or(0);
                        if let Some(id) = group.members.remove(at) {
                            group.members.push_back(id);
                            receivers.push(id);
                        }
                    }
                }
            }
        }
        receivers
    }

    /// Gives a message that may not be lost to a member of its group, or keeps it for the next.
    fn pass_on(&mut self, key: &(String, String), item: Item, wakers: &mut Vec<Waker>) {
        let Some(group) = self.groups.get_mut(key) else { return };
        let Some(id) = group.members.pop_front() else {
            group.backlog.push_back(item);
            return;
        };
        group.members.push_back(id);
        let listener = self.listeners.get_mut(&id).expect("members are there");
        // Over its limit if need be: it was accepted once.
        listener.push_back(item);
        wakers.extend(listener.waker.take());
    }

    /// Forgets a group without members and mail.
    fn forget_group(&mut self, key: &(String, String)) {
        let is_held = |held: &Held| held.group.as_ref() == Some(key);
        let is_idle = |group: &Group| group.members.is_empty() && group.backlog.is_empty();
        if self.groups.get(key).is_some_and(is_idle) && !self.held.values().any(is_held) {
            self.groups.remove(key);
            self.remove_target(&key.0, &Target::Group(key.1.clone()));
        }
    }

    fn targets(&mut self, pattern: &str) -> &mut BTreeMap<String, BTreeSet<Target>> {
        if is_subject(pattern) { &mut self.exact } else { &mut self.wild }
    }

    fn remove_target(&mut self, pattern: &str, target: &Target) {
        let by_pattern = self.targets(pattern);
        if let Some(targets) = by_pattern.get_mut(pattern) {
            targets.remove(target);
            if targets.is_empty() {
                by_pattern.remove(pattern);
            }
        }
    }

    fn remember(&mut self, id: u128) {
        if self.ids_in_order.len() >= self.options.ids_kept
            && let Some(oldest) = self.ids_in_order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        self.ids.insert(id);
        self.ids_in_order.push_back(id);
    }
}

impl Listener {
    fn has_room(&self, options: &Options, bytes: usize) -> bool {
        self.queue.len() + self.held < options.queue_messages_max
            && (self.queue_bytes + bytes <= options.queue_bytes_max || self.queue.is_empty())
    }

    fn push_back(&mut self, item: Item) {
        self.queue_bytes += item.body.len();
        self.queue.push_back(item);
    }
}
