//! One request on its way to the shard that has its slots.

use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use super::all::{gather, with};
use super::{Sharded, describe};
use crate::answer::{Answer, Sender, channel};
use crate::error::Error;
use crate::ledger::{Receipt, TxnId};
use crate::slots::{Slot, SlotAsk};
use crate::store::Store;

/// How long a request waits before it asks again for a slot that is moving, and how often.
const PAUSE: Duration = Duration::from_millis(25);
const PAUSES_MAX: u32 = 240;
/// Redirections of one request: a bulk move may send one of several slots around for a while.
const REDIRECTS_MAX: u32 = 16;

/// Asks a shard, whose generation is given.
type Asking<T> = Box<dyn FnMut(&Store, u64) -> Answer<T> + Send>;

/// A request under way.
pub(super) struct Request<T> {
    set: Weak<Sharded>,
    slots: Vec<Slot>,
    /// The generation of the whole that it builds on.
    named: Option<u64>,
    /// The transaction that it is.
    txn: Option<TxnId>,
    ask: Asking<T>,
    sender: Sender<T>,
    redirected: u32,
    paused: u32,
    /// Whether all shards were asked what they have, since it seemed to be for several.
    refreshed: bool,
}

impl Sharded {
    /// Asks the shard of these slots.
    pub(super) fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        slots: Vec<Slot>,
        named: Option<u64>,
        ask: impl FnMut(&Store, u64) -> Answer<T> + Send + 'static,
    ) -> Answer<T> {
        let (sender, answer) = channel();
        self.request(slots, named, ask, sender).go();
        answer
    }

    pub(super) fn request<T>(
        self: &Arc<Self>,
        slots: Vec<Slot>,
        named: Option<u64>,
        ask: impl FnMut(&Store, u64) -> Answer<T> + Send + 'static,
        sender: Sender<T>,
    ) -> Request<T> {
        let (set, ask) = (Arc::downgrade(self), Box::new(ask));
        let (redirected, paused, refreshed) = (0, 0, false);
        Request { set, slots, named, txn: None, ask, sender, redirected, paused, refreshed }
    }

    /// Asks all shards what they have.
    fn refresh(self: &Arc<Self>, then: impl FnOnce() + Send + 'static) {
        let set = Arc::downgrade(self);
        let answers = self.members().iter().map(|(_, store)| describe(store)).collect();
        gather(answers, move |infos| {
            let learn = |set: &Arc<Self>| {
                let mut map = set.map();
                for (shard, info) in infos.iter().enumerate() {
                    if let Ok(info) = info {
                        map.learn_shard(shard, info);
                    }
                }
                infos.iter().flatten().for_each(|info| map.learn_gone(info));
            };
            drop(with(&set, learn));
            then();
        });
    }
}

impl<T: Send + 'static> Request<T> {
    /// It is that transaction: where it cannot be done in one shard, it may have been once.
    pub fn of_txn(self, id: TxnId) -> Self {
        Request { txn: Some(id), ..self }
    }

    pub fn go(mut self) {
        let Some(set) = self.set.upgrade() else {
            return self.sender.send(Err(Error::Stopped("it was closed".to_owned())));
        };
        let map = set.map();
        let (shard, current) = (map.shard_of(&self.slots), map.generation());
        let is_stale = self.named.is_some_and(|named| named != current);
        let shard = match shard {
            Ok(_) if is_stale && self.txn.is_none() => {
                drop(map);
                drop(set);
                return self.sender.send(Err(Error::Generation { current }));
            }
            Ok(shard) => shard,
            Err(error) => {
                drop(map);
                return self.refuse(set, error);
            }
        };
        // One that was done before is known whatever it names; no shard is at generation 0.
        let generation = if is_stale { 0 } else { map.generation_of(shard) };
        drop(map);
        let answer = (self.ask)(&set.members()[shard].1, generation);
        drop(set);
        answer.on_ready(move |told| self.told(shard, told));
    }

    fn told(mut self, shard: usize, told: Result<T, Error>) {
        let Some(set) = self.set.upgrade() else { return self.sender.send(told) };
        match told {
            Err(Error::Moved { slot, to, version, token, generation })
                if self.redirected < REDIRECTS_MAX =>
            {
                self.redirected += 1;
                set.redirects.fetch_add(1, Ordering::Relaxed);
                let news = set.map().learn_moved(slot, &to, version, (token, generation));
                if news || set.map().place(slot).shard != shard {
                    drop(set);
                    return self.go();
                }
                // It says what is known already, or nothing of use.
                set.refresh(move || self.pause());
            }
            Err(Error::Moving { slot, token, is_arriving: true }) => {
                self.take_over(&set, shard, slot, token);
            }
            Err(Error::Moving { slot, token, .. }) if self.paused >= PAUSES_MAX / 2 => {
                // Whoever moves it stands still: the move is off, and its commit point refused.
                let ask = SlotAsk::Thaw { slots: vec![slot], token };
                let answer = set.members()[shard].1.slots(ask);
                drop(set);
                answer.on_ready(move |_| self.pause());
            }
            Err(Error::Moving { .. }) => {
                drop(set);
                self.pause();
            }
            Err(Error::Generation { .. }) => {
                let answer = set.members()[shard].1.generation();
                drop(set);
                answer.on_ready(move |told| {
                    let learn = |set: &Arc<Sharded>| {
                        let mut map = set.map();
                        if let Ok(generation) = told {
                            map.learn_generation(shard, generation);
                        }
                        map.generation()
                    };
                    let current = with(&self.set, learn);
                    self.sender
                        .send(current.and_then(|current| Err(Error::Generation { current })));
                });
            }
            other => {
                drop(set);
                let other = match other {
                    Err(Error::Moved { slot, .. }) => Err(unavailable(slot)),
                    other => other,
                };
                self.sender.send(other);
            }
        }
    }

    /// The slot was given up by its last shard, and this one is not told yet.
    fn take_over(self, set: &Arc<Sharded>, shard: usize, slot: Slot, token: u64) {
        let place = set.map().place(slot);
        match place.moved.filter(|(by, _)| *by == token && place.shard == shard) {
            Some((_, generation)) => {
                let slots = vec![(slot, place.version, generation)];
                let answer = set.members()[shard].1.slots(SlotAsk::Arrive { slots, token });
                answer.on_ready(move |told| match told {
                    Ok(_) if self.paused == 0 => Request { paused: 1, ..self }.go(),
                    _ => self.pause(),
                });
            }
            None => set.refresh(move || self.pause()),
        }
    }

    fn pause(mut self) {
        self.paused += 1;
        if self.paused > PAUSES_MAX {
            let slot = self.slots.first().copied().unwrap_or(Slot(0));
            return self.sender.send(Err(unavailable(slot)));
        }
        match self.set.upgrade() {
            Some(set) => set.later.add(Box::new(move || self.go())),
            None => self.go(),
        }
    }

    /// It is for several shards.
    fn refuse(mut self, set: Arc<Sharded>, error: Error) {
        if !std::mem::replace(&mut self.refreshed, true) {
            // The map may be old.
            return set.refresh(move || self.go());
        }
        let Some(id) = self.txn else {
            drop(set);
            return self.sender.send(Err(error));
        };
        // It may have been done while its slots were in one.
        let again = set.lookup(id);
        drop(set);
        let Request { sender, .. } = self;
        again.on_ready(move |told| match told {
            Ok(Some(receipt)) => Self::send_receipt(sender, receipt, error),
            Ok(None) => sender.send(Err(error)),
            Err(other) => sender.send(Err(other)),
        });
    }

    fn send_receipt(sender: Sender<T>, receipt: Receipt, error: Error) {
        // Only commits name a transaction, and their answers are receipts.
        let receipt: Box<dyn std::any::Any> = Box::new(receipt);
        match receipt.downcast::<T>() {
            Ok(receipt) => sender.send(Ok(*receipt)),
            Err(_) => sender.send(Err(error)),
        }
    }
}

fn unavailable(slot: Slot) -> Error {
    Error::Unavailable(format!("{slot} is moving"))
}

type Task = Box<dyn FnOnce() + Send>;

/// Runs what has to wait a moment, on a thread that is there once it is needed.
#[derive(Default)]
pub(super) struct Later {
    tasks: Mutex<Option<mpsc::Sender<Task>>>,
}

impl Later {
    fn add(&self, task: Task) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = tasks.get_or_insert_with(|| {
            let (sender, waiting) = mpsc::channel::<Task>();
            let run = move || {
                while let Ok(first) = waiting.recv() {
                    std::thread::sleep(PAUSE);
                    let tasks: Vec<Task> =
                        std::iter::once(first).chain(waiting.try_iter()).collect();
                    tasks.into_iter().for_each(|task| task());
                }
            };
            // Without a thread the tasks are dropped, which answers them.
            drop(std::thread::Builder::new().name("store shards".to_owned()).spawn(run));
            sender
        });
        drop(sender.send(task));
    }
}
