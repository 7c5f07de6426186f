//! Looking at what others own: stored documents of any entity, with copies that spare the store. Pure but
//! for what game code awaits.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::ops::Deref;
use std::time::Duration;

use env::Instant;
use store::{Entity as StoredEntity, Error, Key, RecordId};

use super::ask::key_of;
use super::commits::CommitOutcome;
use super::deal::poll_wait;
use super::records::{RecordError, RecordTold};
use super::sheets::Sheets;
use crate::cx::{Cx, Ref};
use crate::entity::Entity;

/// Copies of one worker, and the bytes of their documents.
const COPIES_MAX: usize = 10_000;
const COPY_BYTES_MAX: usize = 16 << 20;

/// An entity's documents as they were stored at one moment. What is not kept is as a new entity has it.
#[derive(Debug)]
pub struct Peek<T> {
    version: u64,
    value: T,
}

impl<T> Peek<T> {
    /// How often its documents were written until then.
    pub fn version(&self) -> u64 {
        self.version
    }
}

impl<T> Deref for Peek<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// A copy, or the reading that will be one.
#[derive(Debug)]
struct Copy {
    /// What it shows was true then, or later.
    since: Instant,
    /// The reading.
    tag: u64,
    /// What it gave, once it did.
    found: Option<Option<StoredEntity>>,
    bytes: usize,
}

/// What to do for somebody who wants to look.
#[derive(Debug)]
pub(super) enum Look {
    /// It is here.
    Copy(Option<StoredEntity>),
    /// Wait for that reading, too.
    Wait(u64),
    /// Read it under a tag of its own, as it was at most so long ago.
    Read(Duration),
}

/// The copies of one worker: many who look at the same cause one reading, and those who come after are
/// answered by its copy for as long as they may be.
#[derive(Debug, Default)]
pub(crate) struct Peeks {
    copies: BTreeMap<Key, Copy>,
    /// In the order in which they came, with those that were replaced meanwhile.
    order: VecDeque<(Key, u64)>,
    bytes: usize,
    readings: BTreeMap<u64, Key>,
}

impl Peeks {
    /// What is to be done for who looks `now`, and takes what was true at most `age_max` before.
    pub(super) fn look(&self, now: Instant, key: Key, age_max: Duration) -> Look {
        let is_young = |copy: &&Copy| now.since(copy.since) <= age_max;
        match self.copies.get(&key).filter(is_young) {
            Some(Copy { found: Some(found), .. }) => Look::Copy(found.clone()),
            Some(copy) => Look::Wait(copy.tag),
            // Half of the age is left for those who come after.
            None => Look::Read(age_max / 2),
        }
    }

    /// A reading has begun.
    pub(super) fn begin(&mut self, now: Instant, key: Key, age: Duration, tag: u64) {
        let since = Instant::from_nanos(now.as_nanos().saturating_sub(age.as_nanos() as u64));
        self.remove(key);
        self.copies.insert(key, Copy { since, tag, found: None, bytes: 0 });
        self.order.push_back((key, tag));
        self.readings.insert(tag, key);
        while self.copies.len() > COPIES_MAX {
            self.remove_oldest();
        }
        if self.order.len() > 2 * COPIES_MAX {
            let copies = &self.copies;
            self.order.retain(|(key, tag)| copies.get(key).is_some_and(|copy| copy.tag == *tag));
        }
    }

    /// A reading has ended.
    pub(super) fn handle_told(&mut self, tag: u64, told: &Result<RecordTold, Error>) {
        let Some(key) = self.readings.remove(&tag) else { return };
        let Some(copy) = self.copies.get_mut(&key).filter(|copy| copy.tag == tag) else { return };
        let Ok(RecordTold::Peeked(found)) = told else {
            // Whoever comes next tries again.
            return self.remove(key);
        };
        copy.bytes = found.as_ref().map_or(0, bytes_of);
        copy.found = Some(found.clone());
        self.bytes += copy.bytes;
        while self.bytes > COPY_BYTES_MAX {
            self.remove_oldest();
        }
    }

    fn remove(&mut self, key: Key) {
        if let Some(copy) = self.copies.remove(&key) {
            self.bytes -= copy.bytes;
        }
    }

    fn remove_oldest(&mut self) {
        while let Some((key, tag)) = self.order.pop_front() {
            if self.copies.get(&key).is_some_and(|copy| copy.tag == tag) {
                return self.remove(key);
            }
        }
    }
}

fn bytes_of(entity: &StoredEntity) -> usize {
    entity.documents.iter().map(|(name, bytes)| name.len() + bytes.len()).sum::<usize>() + 64
}

impl<E: Entity> Cx<E> {
    /// The documents of any entity as they were stored at most `age_max` before this is asked; `None` if it was never
    /// saved. What its owner changed in the second before that may not be stored yet. For what is only
    /// shown: the owner is not asked, and goes on.
    ///
    /// Many on this worker who look at the same entity cause one reading, whose copy answers them as long
    /// as it is young enough.
    ///
    /// # Errors
    ///
    /// [`RecordError::Unreadable`], [`RecordError::Unavailable`]; [`RecordError::Invalid`] for a kind that
    /// is made by no key.
    pub fn peek<T: Entity>(
        &self,
        of: Ref<T>,
        age_max: Duration,
    ) -> impl Future<Output = Result<Option<Peek<T>>, RecordError>> + use<E, T> {
        let wait = self.hub().desk.borrow_mut().peek(self.now(), key_of(of.id()), age_max);
        async move {
            let told = std::future::poll_fn(|context| poll_wait(&wait, context)).await;
            let CommitOutcome::Record(told) = told else { return Err(RecordError::Unknown) };
            let RecordTold::Peeked(found) = told? else { return Err(RecordError::Unknown) };
            found.map_or(Ok(None), |found| shown(of, found))
        }
    }
}

fn shown<T: Entity>(of: Ref<T>, found: StoredEntity) -> Result<Option<Peek<T>>, RecordError> {
    let version = found.version;
    if version == 0 {
        return Ok(None);
    }
    let none = || RecordError::Invalid(format!("{} is made by no key", T::KIND.name));
    let mut value = T::create(of.key()).ok_or_else(none)?;
    let mut sheets = Sheets::stored(found.documents, None);
    value.load(&mut sheets).map_err(|error| RecordError::Unreadable {
        id: RecordId { kind: T::KIND.id.0, key: of.id().key.to_be_bytes().to_vec() },
        problem: error.to_string(),
    })?;
    Ok(Some(Peek { version, value }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(1_000_000 * (1_000_000 + ms))
    }

    fn told(bytes: usize) -> Result<RecordTold, Error> {
        let owner = store::Owner { epoch: 1, incarnation: store::Incarnation(1), released: false };
        let documents = store::Documents::from([("self".to_owned(), vec![0; bytes])]);
        Ok(RecordTold::Peeked(Some(StoredEntity { owner, version: 1, documents })))
    }

    const AGE: Duration = Duration::from_millis(1_000);

    /// Reads at `ms` and is told.
    fn read(peeks: &mut Peeks, ms: u64, key: u128, bytes: usize) {
        let Look::Read(age) = peeks.look(at(ms), Key(key), AGE) else { panic!("there is a copy") };
        let tag = ms << 32 | key as u64;
        peeks.begin(at(ms), Key(key), age, tag);
        peeks.handle_told(tag, &told(bytes));
    }

    #[test]
    fn f16_a_copy_answers_only_who_may_take_what_is_so_old() {
        let mut peeks = Peeks::default();
        read(&mut peeks, 0, 1, 10);
        let is_copy = |ms, age| {
            matches!(peeks.look(at(ms), Key(1), Duration::from_millis(age)), Look::Copy(_))
        };
        // What was read at 0 was true 500 ms before that, or later.
        assert!(is_copy(0, 1_000) && is_copy(500, 1_000) && !is_copy(501, 1_000));
        assert!(is_copy(0, 500) && !is_copy(0, 499) && is_copy(2_500, 3_000) && !is_copy(0, 0));
    }

    #[test]
    fn f16_copies_have_limits_and_the_oldest_go() {
        let mut peeks = Peeks::default();
        for key in 0..20 {
            read(&mut peeks, 0, key, 1 << 20);
        }
        assert!(
            peeks.bytes <= COPY_BYTES_MAX && peeks.copies.len() == 15,
            "{}",
            peeks.copies.len()
        );
        assert!(matches!(peeks.look(at(0), Key(0), AGE), Look::Read(_)));
        assert!(matches!(peeks.look(at(0), Key(19), AGE), Look::Copy(_)));
        for round in 1..40_000 {
            read(&mut peeks, round * 1_000, (round % 7).into(), 1);
        }
        assert!(peeks.order.len() <= 2 * COPIES_MAX + 1, "{}", peeks.order.len());
        let mut peeks = Peeks::default();
        for key in 0..30_000 {
            read(&mut peeks, 0, key, 1);
        }
        assert_eq!((peeks.copies.len(), peeks.readings.len()), (COPIES_MAX, 0));
        // What cannot be read is tried anew.
        peeks.begin(at(1), Key(1), AGE, 77);
        assert!(matches!(peeks.look(at(1), Key(1), AGE), Look::Wait(77)));
        peeks.handle_told(77, &Err(Error::Busy));
        assert!(matches!(peeks.look(at(1), Key(1), AGE), Look::Read(_)));
    }
}
