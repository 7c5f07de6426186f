//! What a store is asked, asked of its shards: of one, or of all.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use super::Sharded;
use crate::answer::{Answer, channel};
use crate::error::Error;
use crate::ledger::{Holdings, Item, ItemId, Receipt, Supply, Transaction, TxnId, Verdict};
use crate::record::{Lock, LockAsk, Record, RecordId, RecordWrite, Records};
use crate::rules::{Activations, Of};
use crate::slots::Slot;
use crate::store::Store;
use crate::types::{Activate, Activated, Claim, Entity, Incarnation, Key, NodeBeat, Pulse, Save};

/// Gives all answers, in their order, once they are there.
pub(super) fn gather<T: Send + 'static>(
    answers: Vec<Answer<T>>,
    then: impl FnOnce(Vec<Result<T, Error>>) + Send + 'static,
) {
    let count = answers.len();
    if count == 0 {
        return then(Vec::new());
    }
    let all: Vec<Option<Result<T, Error>>> = (0..count).map(|_| None).collect();
    let state = Arc::new(Mutex::new((all, count, Some(then))));
    for (at, answer) in answers.into_iter().enumerate() {
        let state = Arc::clone(&state);
        answer.on_ready(move |told| {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            let (all, left, then) = &mut *state;
            all[at] = Some(told);
            *left -= 1;
            if *left > 0 {
                return;
            }
            let (all, then) = (std::mem::take(all), then.take());
            drop(state);
            if let Some(then) = then {
                then(all.into_iter().flatten().collect());
            }
        });
    }
}

/// Has something done with a set that is still there. It is not held while an answer is given, so
/// that whoever drops the last handle sees its shards closed.
pub(super) fn with<R>(
    set: &Weak<Sharded>,
    act: impl FnOnce(&Arc<Sharded>) -> R,
) -> Result<R, Error> {
    let set = set.upgrade().ok_or_else(|| Error::Stopped("it was closed".to_owned()))?;
    Ok(act(&set))
}

/// The first error that says most, if there is one.
fn all_or_error<T>(answers: Vec<Result<T, Error>>) -> Result<Vec<T>, Error> {
    let mut all = Vec::with_capacity(answers.len());
    let mut failed = None;
    for answer in answers {
        match answer {
            Ok(told) => all.push(told),
            Err(error @ Error::Dead(_)) => failed = Some(error),
            Err(error) => drop(failed.get_or_insert(error)),
        }
    }
    failed.map_or(Ok(all), Err)
}

/// A node that is dead in one shard is dead in all, wherever else it still beats.
const MARKS_MAX: u32 = 10;

fn mark(store: Store, of: Incarnation, beat: u64, tries: u32) -> Answer<()> {
    let (sender, answer) = channel();
    store.mark_dead(of, beat).on_ready(move |told| match told {
        Err(Error::BeatMoved { current, .. }) if tries > 0 => {
            mark(store, of, current, tries - 1).on_ready(|told| sender.send(told));
        }
        told => sender.send(told),
    });
    answer
}

fn records(store: &Store, ids: Vec<RecordId>, age_max: Option<Duration>) -> Answer<Records> {
    match age_max {
        Some(age_max) => store.records_aged(ids, age_max),
        None => store.records(ids),
    }
}

impl Sharded {
    fn of_all<T: Send + 'static, U: Send + 'static>(
        self: &Arc<Self>,
        ask: impl Fn(&Store) -> Answer<T>,
        then: impl FnOnce(&Self, Vec<T>) -> Result<U, Error> + Send + 'static,
    ) -> Answer<U> {
        let (sender, answer) = channel();
        let set = Arc::downgrade(self);
        gather(self.members().iter().map(|(_, store)| ask(store)).collect(), move |answers| {
            let told = all_or_error(answers).and_then(|all| with(&set, |set| then(set, all))?);
            sender.send(told);
        });
        answer
    }

    pub fn beat(self: &Arc<Self>, incarnation: Incarnation) -> Answer<Pulse> {
        let ask = move |store: &Store| store.beat(incarnation);
        self.of_all(ask, |set, pulses| {
            let mut map = set.map();
            for (shard, pulse) in pulses.iter().enumerate() {
                map.learn_generation(shard, pulse.generation);
            }
            let beat = pulses.iter().map(|pulse| pulse.beat).min().unwrap_or(0);
            Ok(Pulse { generation: map.generation(), beat })
        })
    }

    /// A node is alive if it is in one of the shards; its beat is the lowest of those, so that one
    /// that reaches only some of them stands still.
    pub fn nodes(self: &Arc<Self>) -> Answer<Vec<NodeBeat>> {
        self.of_all(Store::nodes, |_, all| {
            let mut beats = BTreeMap::<Incarnation, u64>::new();
            for node in all.into_iter().flatten() {
                let beat = beats.entry(node.incarnation).or_insert(node.beat);
                *beat = node.beat.min(*beat);
            }
            let node = |(incarnation, beat)| NodeBeat { incarnation, alive: true, beat };
            Ok(beats.into_iter().map(node).collect())
        })
    }

    pub fn node(self: &Arc<Self>, incarnation: Incarnation) -> Answer<Option<NodeBeat>> {
        let ask = move |store: &Store| store.node(incarnation);
        self.of_all(ask, |_, rows| {
            let rows: Vec<NodeBeat> = rows.into_iter().flatten().collect();
            let alive = rows.iter().any(|row| row.alive);
            let counted = rows.iter().filter(|row| row.alive == alive);
            let beat = counted.map(|row| row.beat).min().unwrap_or(0);
            Ok(rows.first().map(|row| NodeBeat { alive, beat, ..*row }))
        })
    }

    pub fn mark_dead(self: &Arc<Self>, of: Incarnation, beat: u64) -> Answer<()> {
        let (sender, answer) = channel();
        let set = Arc::downgrade(self);
        let rows = self.members().iter().map(|(_, store)| store.node(of)).collect();
        gather(rows, move |rows| {
            let rows = match all_or_error(rows) {
                Ok(rows) => rows,
                Err(error) => return sender.send(Err(error)),
            };
            let alive = rows.iter().flatten().filter(|row| row.alive);
            let current = alive.clone().map(|row| row.beat).min().unwrap_or(0);
            if rows.iter().all(Option::is_none) {
                return sender.send(Err(Error::UnknownNode(of)));
            }
            if alive.count() > 0 && current != beat {
                return sender.send(Err(Error::BeatMoved { incarnation: of, current }));
            }
            let marked = with(&set, |set| {
                let marked = set.members().iter().zip(&rows).filter_map(|((_, store), row)| {
                    let row = row.filter(|row| row.alive)?;
                    Some(mark(store.clone(), of, row.beat, MARKS_MAX))
                });
                marked.collect()
            });
            gather(marked.unwrap_or_default(), move |marked| {
                sender.send(all_or_error(marked).map(drop))
            });
        });
        answer
    }

    pub fn generation(self: &Arc<Self>) -> Answer<u64> {
        self.of_all(Store::generation, |set, all| {
            let mut map = set.map();
            all.into_iter().enumerate().for_each(|(at, known)| map.learn_generation(at, known));
            Ok(map.generation())
        })
    }

    /// Raises that of each shard.
    pub fn raise_generation(self: &Arc<Self>, current: u64) -> Answer<u64> {
        let known = {
            let map = self.map();
            if map.generation() != current {
                let (sender, answer) = channel();
                sender.send(Err(Error::Generation { current: map.generation() }));
                return answer;
            }
            (0..self.members().len()).map(|at| map.generation_of(at)).collect::<Vec<_>>()
        };
        let (sender, answer) = channel();
        let set = Arc::downgrade(self);
        let raised = self.members().iter().zip(known);
        let raised = raised.map(|((_, store), known)| store.raise_generation(known)).collect();
        gather(raised, move |raised| {
            let learn = |set: &Self, all: Vec<u64>| {
                let mut map = set.map();
                all.into_iter().enumerate().for_each(|(at, n)| map.learn_generation(at, n));
                map.generation()
            };
            let told = all_or_error(raised).and_then(|all| with(&set, |set| learn(set, all)));
            sender.send(told);
        });
        answer
    }

    pub fn activate(self: &Arc<Self>, ask: Activate) -> Answer<Activated> {
        let slots = vec![Slot::of(ask.key)];
        self.ask(slots, Some(ask.generation), move |store, _| store.activate(ask))
    }

    pub fn activate_many(self: &Arc<Self>, asks: Vec<Activate>) -> Answer<Activations> {
        let mut groups = BTreeMap::<usize, Vec<(usize, Activate)>>::new();
        let current = self.map().generation();
        let mut told: Vec<Option<Result<Activated, Error>>> = Vec::new();
        for (at, ask) in asks.iter().enumerate() {
            let stale = ask.generation != current;
            told.push(stale.then_some(Err(Error::Generation { current })));
            if !stale {
                groups.entry(self.shard_of(ask.key)).or_default().push((at, *ask));
            }
        }
        let (sender, answer) = channel();
        let set = Arc::downgrade(self);
        let (shards, groups): (Vec<usize>, Vec<_>) = groups.into_iter().unzip();
        let asked = shards.iter().zip(&groups).map(|(shard, group)| {
            let asks = group.iter().map(|(_, ask)| *ask).collect();
            self.members()[*shard].1.activate_many(asks)
        });
        gather(asked.collect(), move |answers| {
            let mut again = Vec::new();
            for (group, answer) in groups.into_iter().zip(answers) {
                let each = match answer {
                    Ok(each) => each,
                    Err(error @ Error::TooLarge { .. }) => return sender.send(Err(error)),
                    Err(error) => group.iter().map(|_| Err(error.clone())).collect(),
                };
                for ((at, ask), result) in group.into_iter().zip(each) {
                    match result {
                        Err(Error::Moved { .. } | Error::Moving { .. }) => again.push((at, ask)),
                        result => told[at] = Some(result),
                    }
                }
            }
            let (places, asks): (Vec<usize>, Vec<Activate>) = again.into_iter().unzip();
            let again = |set: &Arc<Self>| asks.into_iter().map(|ask| set.activate(ask)).collect();
            gather(with(&set, again).unwrap_or_default(), move |answers| {
                for (at, result) in places.into_iter().zip(answers) {
                    told[at] = Some(result);
                }
                sender.send(Ok(told.into_iter().flatten().collect()));
            });
        });
        answer
    }

    pub fn release(self: &Arc<Self>, claim: Claim, version: u64) -> Answer<()> {
        let slots = vec![Slot::of(claim.key)];
        self.ask(slots, None, move |store, _| store.release(claim, version))
    }

    pub fn save(self: &Arc<Self>, save: Save) -> Answer<u64> {
        let slots = vec![Slot::of(save.claim.key)];
        self.ask(slots, None, move |store, _| store.save(save.clone()))
    }

    pub fn load(self: &Arc<Self>, key: Key) -> Answer<Option<Entity>> {
        self.ask(vec![Slot::of(key)], None, move |store, _| store.load(key))
    }

    pub fn load_aged(self: &Arc<Self>, key: Key, age_max: Duration) -> Answer<Option<Entity>> {
        self.ask(vec![Slot::of(key)], None, move |store, _| store.load_aged(key, age_max))
    }

    pub fn commit(self: &Arc<Self>, mut txn: Transaction) -> Answer<Receipt> {
        let (named, id) = (txn.generation, txn.id);
        if txn.is_nothing() {
            return self.use_up(txn);
        }
        let (slots, (sender, answer)) = (txn.slots(), channel());
        let ask = move |store: &Store, generation| {
            txn.generation = generation;
            store.commit(txn.clone())
        };
        self.request(slots, Some(named), ask, sender).of_txn(id).go();
        answer
    }

    /// Uses up an id, wherever what it was meant for may still come.
    fn use_up(self: &Arc<Self>, txn: Transaction) -> Answer<Receipt> {
        let known = {
            let map = self.map();
            (0..self.members().len()).map(|at| map.generation_of(at)).collect::<Vec<_>>()
        };
        let (sender, answer) = channel();
        let asked = self.members().iter().zip(known).map(|((_, store), generation)| {
            store.commit(Transaction { generation, ..txn.clone() })
        });
        gather(asked.collect(), move |answers| {
            let mut receipt = None;
            let mut failed = None;
            for answer in answers {
                match answer {
                    Ok(done) => receipt = Some(done),
                    Err(error @ Error::TxnReused(_)) => failed = Some(error),
                    Err(error) => drop(failed.get_or_insert(error)),
                }
            }
            let none = Error::Malformed("there is no shard");
            sender.send(failed.map_or_else(|| receipt.ok_or(none), Err));
        });
        answer
    }

    pub fn lookup(self: &Arc<Self>, id: TxnId) -> Answer<Option<Receipt>> {
        let (sender, answer) = channel();
        let asked = self.members().iter().map(|(_, store)| store.lookup(id)).collect();
        gather(asked, move |answers| {
            let (mut found, mut failed) = (None::<Receipt>, None);
            for answer in answers {
                match answer {
                    Ok(Some(receipt)) => {
                        // Of one that was used up in some shards, the one that says more counts.
                        let says_more =
                            |known: &Receipt| known.ledgers.is_empty() && known.versions.is_empty();
                        if found.as_ref().is_none_or(says_more) {
                            found = Some(receipt);
                        }
                    }
                    Ok(None) => {}
                    Err(error) => failed = Some(error),
                }
            }
            sender.send(match (found, failed) {
                (None, Some(error)) => Err(error),
                (found, _) => Ok(found),
            });
        });
        answer
    }

    pub fn holdings(self: &Arc<Self>, holder: Key) -> Answer<Holdings> {
        self.ask(vec![Slot::of(holder)], None, move |store, _| store.holdings(holder))
    }

    pub fn item(self: &Arc<Self>, id: ItemId) -> Answer<Option<Item>> {
        self.of_all(
            move |store| store.item(id),
            |_, all| {
                let all: Vec<Item> = all.into_iter().flatten().collect();
                let held = all.iter().find(|item| item.holder.is_some()).or(all.first()).cloned();
                Ok(held)
            },
        )
    }

    pub fn supply(self: &Arc<Self>, of: Of) -> Answer<Supply> {
        self.of_all(
            move |store| store.supply(of),
            |_, all| {
                let sum = |sum: Supply, one: Supply| Supply {
                    made: sum.made + one.made,
                    destroyed: sum.destroyed + one.destroyed,
                };
                Ok(all.into_iter().fold(Supply::default(), sum))
            },
        )
    }

    pub fn forget(self: &Arc<Self>, before_ms: u64) -> Answer<usize> {
        self.of_all(move |store| store.forget(before_ms), |_, all| Ok(all.into_iter().sum()))
    }

    /// At one moment if they are in one shard, else each at its own.
    pub fn records(
        self: &Arc<Self>,
        ids: Vec<RecordId>,
        age_max: Option<Duration>,
    ) -> Answer<Records> {
        let slots: Vec<Slot> = ids.iter().map(Slot::of_record).collect();
        let (sender, answer) = channel();
        let set = Arc::downgrade(self);
        if self.map().shard_of(&slots).is_ok() {
            let shared = ids.clone();
            let asked =
                self.ask(slots, None, move |store, _| records(store, shared.clone(), age_max));
            asked.on_ready(move |told| match told {
                Err(Error::AcrossShards { .. }) => {
                    match with(&set, |set| set.each_record(ids, age_max)) {
                        Ok(answer) => answer.on_ready(|told| sender.send(told)),
                        Err(error) => sender.send(Err(error)),
                    }
                }
                told => {
                    let told = told.and_then(|told| with(&set, |set| set.with_generation(told)));
                    sender.send(told);
                }
            });
        } else {
            self.each_record(ids, age_max).on_ready(|told| sender.send(told));
        }
        answer
    }

    fn each_record(
        self: &Arc<Self>,
        ids: Vec<RecordId>,
        age_max: Option<Duration>,
    ) -> Answer<Records> {
        let (sender, answer) = channel();
        let set = Arc::downgrade(self);
        let asked = ids.into_iter().map(|id| {
            let slot = Slot::of_record(&id);
            let ids = vec![id];
            self.ask(vec![slot], None, move |store, _| records(store, ids.clone(), age_max))
        });
        gather(asked.collect(), move |answers| {
            let told = all_or_error(answers).and_then(|all| {
                let generation = with(&set, |set| set.map().generation())?;
                let records = all.into_iter().flat_map(|told| told.records).collect();
                Ok(Records { generation, records })
            });
            sender.send(told);
        });
        answer
    }

    /// What is read is of the whole's generation, which is known from the beats.
    fn with_generation(&self, told: Records) -> Records {
        Records { generation: self.map().generation(), ..told }
    }

    pub fn write_records(
        self: &Arc<Self>,
        generation: u64,
        writes: Vec<RecordWrite>,
    ) -> Answer<Vec<u64>> {
        let slots = writes.iter().map(|write| Slot::of_record(&write.id)).collect();
        self.ask(slots, Some(generation), move |store, of| store.write_records(of, writes.clone()))
    }

    pub fn lock_record(self: &Arc<Self>, ask: LockAsk) -> Answer<(Lock, Records)> {
        let slots = vec![Slot::of_record(&ask.id)];
        let (sender, answer) = channel();
        let set = Arc::downgrade(self);
        let asked = self.ask(slots, None, move |store, _| store.lock_record(ask.clone()));
        asked.on_ready(move |told| {
            let told = told.and_then(|(lock, records)| {
                Ok((lock, with(&set, |set| set.with_generation(records))?))
            });
            sender.send(told);
        });
        answer
    }

    pub fn renew_lock(self: &Arc<Self>, id: RecordId, fence: u64) -> Answer<()> {
        let slots = vec![Slot::of_record(&id)];
        self.ask(slots, None, move |store, _| store.renew_lock(id.clone(), fence))
    }

    pub fn unlock_record(self: &Arc<Self>, id: RecordId, fence: u64) -> Answer<()> {
        let slots = vec![Slot::of_record(&id)];
        self.ask(slots, None, move |store, _| store.unlock_record(id.clone(), fence))
    }

    pub fn scan_records(
        self: &Arc<Self>,
        kind: u32,
        after: Option<Vec<u8>>,
        max: usize,
        age_max: Option<Duration>,
    ) -> Answer<Vec<(Vec<u8>, Record)>> {
        let ask = move |store: &Store| match age_max {
            Some(age_max) => store.scan_records_aged(kind, after.clone(), max, age_max),
            None => store.scan_records(kind, after.clone(), max),
        };
        self.of_all(ask, move |_, pages| {
            // Behind the end of a page its shard may have more.
            let ends = pages.iter().filter_map(|page| page.last()).map(|(key, _)| key.clone());
            let Some(end) = ends.min() else { return Ok(Vec::new()) };
            let mut all: Vec<_> =
                pages.into_iter().flatten().filter(|(key, _)| *key <= end).collect();
            all.sort_by(|one, other| one.0.cmp(&other.0));
            // A slot that came between two readings is read twice.
            all.dedup_by(|one, other| one.0 == other.0);
            all.truncate(max);
            Ok(all)
        })
    }

    /// Each shard by itself, and the sums of all.
    pub fn verify(self: &Arc<Self>) -> Answer<Verdict> {
        self.of_all(Store::verify, |set, verdicts| {
            let mut whole = Verdict::default();
            for ((name, _), verdict) in set.members().iter().zip(verdicts) {
                whole.rows += verdict.rows;
                for (of, n) in verdict.currencies {
                    *whole.currencies.entry(of).or_default() += n;
                }
                for (of, n) in verdict.items {
                    *whole.items.entry(of).or_default() += n;
                }
                for (of, n) in verdict.transit {
                    *whole.transit.entry(of).or_default() += n;
                }
                for (of, n) in verdict.items_transit {
                    *whole.items_transit.entry(of).or_default() += n;
                }
                let faults = verdict.faults.into_iter();
                whole.faults.extend(faults.map(|fault| format!("shard {name}: {fault}")));
            }
            // What moved with its slot went in one shard and came in another.
            whole.transit.retain(|_, n| *n != 0);
            whole.items_transit.retain(|_, n| *n != 0);
            whole.faults.truncate(100);
            Ok(whole)
        })
    }
}
