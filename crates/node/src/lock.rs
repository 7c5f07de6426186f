use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// A lock for each object that a key names, for turns of one entity that run side by side: who
/// changes an object over several awaits holds its lock meanwhile, and the other objects go on.
///
/// First come, first served. A cheap clone: take one out of the state before waiting. Bound the
/// wait, which also ends it with its turn: `cx.timeout(limit, locks.acquire(item)).await?`.
/// Nothing is kept for keys that nobody holds.
pub struct Locks<K> {
    table: Rc<RefCell<BTreeMap<K, Queue>>>,
}

/// Who waits for one key that is held.
#[derive(Default)]
struct Queue {
    next: u64,
    waiting: VecDeque<(u64, Waker)>,
    /// Whose turn it is, until it takes it.
    granted: Option<u64>,
}

/// The lock of one object, until it is dropped.
#[must_use = "the lock is given back when this is dropped"]
pub struct Held<K: Ord> {
    table: Rc<RefCell<BTreeMap<K, Queue>>>,
    /// `None` once it was handed on.
    key: Option<K>,
}

/// Waits for the lock of one object.
#[must_use = "a lock is taken by awaiting"]
pub struct Acquire<K: Ord> {
    table: Rc<RefCell<BTreeMap<K, Queue>>>,
    key: Option<K>,
    /// Its place in the queue.
    place: Option<u64>,
}

impl<K: Ord + Clone> Locks<K> {
    /// All are free.
    pub fn new() -> Self {
        Locks { table: Rc::default() }
    }

    /// Waits for the lock of `key`. Dropping the future gives up the place in the queue.
    pub fn acquire(&self, key: K) -> Acquire<K> {
        Acquire { table: Rc::clone(&self.table), key: Some(key), place: None }
    }

    /// Takes the lock of `key` if it is free now.
    pub fn try_acquire(&self, key: K) -> Option<Held<K>> {
        let mut table = self.table.borrow_mut();
        if table.contains_key(&key) {
            return None;
        }
        table.insert(key.clone(), Queue::default());
        drop(table);
        Some(Held { table: Rc::clone(&self.table), key: Some(key) })
    }

    /// How many objects are locked.
    pub fn held(&self) -> usize {
        self.table.borrow().len()
    }
}

impl<K: Ord + Clone> Unpin for Acquire<K> {}

impl<K: Ord + Clone> Future for Acquire<K> {
    type Output = Held<K>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Held<K>> {
        let this = &mut *self;
        let Some(key) = &this.key else { panic!("a lock was polled after it was given") };
        {
            let mut table = this.table.borrow_mut();
            match table.get_mut(key) {
                None => {
                    table.insert(key.clone(), Queue::default());
                }
                Some(queue) => match this.place {
                    Some(place) if queue.granted == Some(place) => queue.granted = None,
                    Some(place) => {
                        let found = queue.waiting.iter_mut().find(|(other, _)| *other == place);
                        if let Some((_, waker)) = found {
                            waker.clone_from(context.waker());
                        }
                        return Poll::Pending;
                    }
                    None => {
                        this.place = Some(queue.next);
                        queue.waiting.push_back((queue.next, context.waker().clone()));
                        queue.next += 1;
                        return Poll::Pending;
                    }
                },
            }
        }
        this.place = None;
        Poll::Ready(Held { table: Rc::clone(&this.table), key: this.key.take() })
    }
}

impl<K: Ord> Drop for Acquire<K> {
    fn drop(&mut self) {
        let (Some(key), Some(place)) = (&self.key, self.place) else { return };
        let mut table = self.table.borrow_mut();
        let Some(queue) = table.get_mut(key) else { return };
        if queue.granted == Some(place) {
            // It was its turn: the next one's, then.
            queue.granted = None;
            drop(table);
            release(&self.table, key);
        } else {
            queue.waiting.retain(|(other, _)| *other != place);
        }
    }
}

impl<K: Ord> Drop for Held<K> {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            release(&self.table, &key);
        }
    }
}

/// Hands the lock of `key` to the next in line, or forgets it.
fn release<K: Ord>(table: &RefCell<BTreeMap<K, Queue>>, key: &K) {
    let next = {
        let mut table = table.borrow_mut();
        let Some(queue) = table.get_mut(key) else { return };
        match queue.waiting.pop_front() {
            Some((place, waker)) => {
                queue.granted = Some(place);
                Some(waker)
            }
            None => {
                table.remove(key);
                None
            }
        }
    };
    next.into_iter().for_each(Waker::wake);
}

impl<K> Clone for Locks<K> {
    fn clone(&self) -> Self {
        Locks { table: Rc::clone(&self.table) }
    }
}

impl<K> Default for Locks<K> {
    fn default() -> Self {
        Locks { table: Rc::new(RefCell::new(BTreeMap::new())) }
    }
}

impl<K> fmt::Debug for Locks<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Locks").field("held", &self.table.borrow().len()).finish()
    }
}

impl<K: Ord + fmt::Debug> fmt::Debug for Held<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Held").field(&self.key).finish()
    }
}

impl<K: Ord + fmt::Debug> fmt::Debug for Acquire<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acquire").field("key", &self.key).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll<K: Ord + Clone>(acquire: &mut Acquire<K>) -> Option<Held<K>> {
        match Pin::new(acquire).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(held) => Some(held),
            Poll::Pending => None,
        }
    }

    #[test]
    fn first_come_first_served_and_other_keys_go_on() {
        let locks = Locks::new();
        let first = poll(&mut locks.acquire("sword")).unwrap();
        let mut waiting = [(); 3].map(|()| locks.acquire("sword"));
        assert!(waiting.iter_mut().all(|acquire| poll(acquire).is_none()));
        assert!(locks.try_acquire("sword").is_none());
        let shield = locks.try_acquire("shield").unwrap();
        assert_eq!(locks.held(), 2);
        drop(first);
        let [one, two, three] = &mut waiting;
        // Not the last one's turn, though it asks first; and nobody can push in.
        assert!(poll(three).is_none() && locks.try_acquire("sword").is_none());
        let second = poll(one).unwrap();
        assert!(poll(two).is_none());
        drop((second, shield));
        assert!(poll(two).is_some());
        assert!(poll(three).is_some());
        assert_eq!(locks.held(), 0);
    }

    #[test]
    fn who_gives_up_holds_nobody_up() {
        let locks = Locks::new();
        let first = poll(&mut locks.acquire(7)).unwrap();
        let (mut one, mut two, mut three) = (locks.acquire(7), locks.acquire(7), locks.acquire(7));
        assert!([&mut one, &mut two, &mut three].map(poll).iter().all(Option::is_none));
        // One gives up while it waits, the next when it is its turn.
        drop(one);
        drop(first);
        drop(two);
        let held = poll(&mut three).unwrap();
        assert_eq!(format!("{held:?} {locks:?}"), "Held(Some(7)) Locks { held: 1 }");
        drop(held);
        assert_eq!(locks.held(), 0);
    }
}
