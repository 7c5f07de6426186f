//! Data that no entity owns, such as accounts and guilds: read by anybody, and written by whoever read
//! it last.
//!
//! A [`Snapshot`] can only be read. A [`Draft`] can be changed, and is written with the version that
//! it was read at: if somebody else was faster, nothing is written and the writer decides anew. A
//! draft that was locked is the same type, but others wait. Writing many at once is all or nothing.

use std::fmt;
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::time::Duration;

use env::Instant;
use proto::KindId;
use proto::codec::Message;
use store::{
    Change, Entity as StoredEntity, Error, Key, Lock, LockAsk, Receipt, Record as Stored, RecordId,
    RecordWrite, Records as StoredRecords, Transaction,
};

use super::deal::{Deal, Waiting};
use super::document::{Document, Tail, read, write};
use super::index::entry_of;
use crate::cx::Cx;
use crate::entity::Entity;
use crate::host::hub::Hub;

/// How often [`Cx::update`] tries.
const TRIES: u32 = 16;
/// How often a lock that somebody else has is looked at, at most and at least.
const LOOK_MIN: Duration = Duration::from_millis(20);
const LOOK_MAX: Duration = Duration::from_millis(500);

/// A document with a key of its own. `#[derive(Document)]` with
/// `#[document(record = "guild", key = u64)]` writes it.
///
/// One that was never written is its `Default`, if the caller wants one at all.
pub trait Record: Document + Default + 'static {
    /// Names this sort of record for ever.
    const NAME: &'static str;
    /// The store that keeps it, one that the cluster file names; empty: the default one.
    const STORE: &'static str = "";
    /// What tells one from another; a tuple for a compound key. Its encoding is at most 128 bytes.
    type Key: Message;
}

/// Why records were not read or written. Each variant says what the caller can do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// Somebody else has written it since it was read: read and decide again.
    #[error("{id} is at version {current} by now")]
    Conflict {
        /// The record.
        id: RecordId,
        /// Its version.
        current: u64,
    },
    /// Another record has a value of which there may be one: choose another.
    #[error("a value of the index {index} is that of {by} already")]
    Taken {
        /// The index: the record's name, then that of the index.
        index: String,
        /// Who has it.
        by: RecordId,
    },
    /// Somebody else has it to himself: try later.
    #[error("{0} is locked")]
    Locked(RecordId),
    /// The lock has ended, for it was not renewed in time: nothing was written. Lock it again.
    #[error("the lock on {0} has ended")]
    LockLost(RecordId),
    /// The store failed over since it was read: read and decide again.
    #[error("the store has failed over since the record was read")]
    FailedOver,
    /// What is stored cannot be read by this release, or is damaged: it is never taken as empty.
    #[error("{id} cannot be read: {problem}")]
    Unreadable {
        /// The record.
        id: RecordId,
        /// Why.
        problem: String,
    },
    /// A mistake in the caller: the batch or deal has records of two stores. Do it in a saga, with a step in
    /// each.
    #[error(
        "records of the store {first:?} and of {second:?} cannot be written together (empty: the default one)"
    )]
    TwoStores {
        /// One of the stores.
        first: String,
        /// The other.
        second: String,
    },
    /// A mistake in the caller that another try does not mend; nothing was written.
    #[error("the records cannot be written: {0}")]
    Invalid(String),
    /// Nothing was done: the store is away or has too much to do. Try later.
    #[error("the store cannot be reached now")]
    Unavailable,
    /// It may have been written or not: read it again. What must happen exactly once belongs into a
    /// [`Deal`].
    #[error("nobody knows whether it was written")]
    Unknown,
}

impl From<Error> for RecordError {
    fn from(error: Error) -> Self {
        match error {
            Error::RecordConflict { id, current } => RecordError::Conflict { id, current },
            Error::Taken { index, by } => RecordError::Taken { index: index.into(), by },
            Error::Locked { id, .. } => RecordError::Locked(id),
            Error::LockLost(id) => RecordError::LockLost(id),
            Error::Generation { .. } => RecordError::FailedOver,
            Error::Unknown(_) => RecordError::Unknown,
            Error::Busy | Error::Unavailable(_) | Error::Stopped(_) => RecordError::Unavailable,
            other => RecordError::Invalid(other.to_string()),
        }
    }
}

impl RecordError {
    /// Whether reading and deciding again may help.
    pub fn is_conflict(&self) -> bool {
        matches!(self, RecordError::Conflict { .. } | RecordError::FailedOver)
    }
}

/// Something about records that an entity wants of the store.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RecordAsk {
    /// Read these.
    Read(Vec<RecordId>),
    /// Read these as they were at most so long ago.
    ReadAged(Vec<RecordId>, Duration),
    /// Read an entity that somebody may own, as it was at most so long ago.
    Peek(Key, Duration),
    /// List a kind from after a key on, at most so many.
    List(u32, Option<Vec<u8>>, usize),
    /// Write these, read under that generation.
    Write(u64, Vec<RecordWrite>),
    /// Take one to oneself.
    Lock(LockAsk),
    /// Say that a lock's holder is still there.
    Renew(RecordId, u64),
    /// Give a lock back.
    Unlock(RecordId, u64),
    /// Do a step of a saga.
    Commit(Box<Transaction>),
}

/// What the store says to a [`RecordAsk`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RecordTold {
    /// As they are.
    Read(StoredRecords),
    /// The entity, if it was ever activated.
    Peeked(Option<StoredEntity>),
    /// Keys and records.
    List(Vec<(Vec<u8>, Stored)>),
    /// Written, or nothing else to say.
    Done,
    /// Locked, and as it is.
    Locked(Lock, StoredRecords),
    /// A step of a saga is done.
    Committed(Receipt),
}

impl RecordAsk {
    /// The entity that it is about: it is asked where that is kept, anything else in the default store.
    pub(crate) fn entity(&self) -> Option<Key> {
        match self {
            RecordAsk::Peek(key, _) => Some(*key),
            _ => None,
        }
    }

    /// Puts the request to `store`; `tell` gets the answer, perhaps on the store's thread.
    pub(super) fn submit(
        self,
        store: &store::Store,
        tell: impl FnOnce(Result<RecordTold, Error>) + Send + 'static,
    ) {
        match self {
            RecordAsk::Read(ids) => {
                store.records(ids).on_ready(|result| tell(result.map(RecordTold::Read)));
            }
            RecordAsk::ReadAged(ids, age_max) => {
                let answer = store.records_aged(ids, age_max);
                answer.on_ready(|result| tell(result.map(RecordTold::Read)));
            }
            RecordAsk::Peek(key, age_max) => {
                let answer = store.load_aged(key, age_max);
                answer.on_ready(|result| tell(result.map(RecordTold::Peeked)));
            }
            RecordAsk::List(kind, after, max) => {
                let answer = store.scan_records(kind, after, max);
                answer.on_ready(|result| tell(result.map(RecordTold::List)));
            }
            RecordAsk::Write(generation, writes) => {
                let answer = store.write_records(generation, writes);
                answer.on_ready(|result| tell(result.map(|_| RecordTold::Done)));
            }
            RecordAsk::Lock(ask) => store.lock_record(ask).on_ready(|result| {
                tell(result.map(|(lock, found)| RecordTold::Locked(lock, found)));
            }),
            RecordAsk::Renew(id, fence) => {
                store
                    .renew_lock(id, fence)
                    .on_ready(|result| tell(result.map(|()| RecordTold::Done)));
            }
            RecordAsk::Unlock(id, fence) => {
                let answer = store.unlock_record(id, fence);
                answer.on_ready(|result| tell(result.map(|()| RecordTold::Done)));
            }
            RecordAsk::Commit(txn) => {
                store.commit(*txn).on_ready(|result| tell(result.map(RecordTold::Committed)));
            }
        }
    }
}

/// Writes a record and what it has in indexes.
pub(super) fn change_to<R: Record>(value: &R, body: Vec<u8>) -> Change {
    if !R::INDEXED {
        return Change::Put(body);
    }
    let values = value.indexes();
    let entries = values.iter().map(|value| entry_of(R::NAME, "", value)).collect();
    Change::Indexed { body, entries }
}

pub(super) fn id_of<R: Record>(key: &R::Key) -> RecordId {
    RecordId { kind: KindId::of(R::NAME).0, key: proto::encode(key) }
}

/// What every record that was read has with it.
#[derive(Debug)]
pub(super) struct Read<R> {
    pub id: RecordId,
    generation: u64,
    version: u64,
    /// As it was stored, `None` if there was none.
    pub bytes: Option<Vec<u8>>,
    tail: Tail,
    pub value: R,
}

impl<R: Record> Read<R> {
    fn new(id: RecordId, generation: u64, stored: Stored) -> Result<Self, RecordError> {
        let mut value = R::default();
        let tail = match &stored.body {
            Some(bytes) => read(&mut value, bytes).map_err(|error| RecordError::Unreadable {
                id: id.clone(),
                problem: error.to_string(),
            })?,
            None => Tail::default(),
        };
        let Stored { version, body: bytes, .. } = stored;
        Ok(Read { id, generation, version, bytes, tail, value })
    }
}

/// A record as it was at one moment. It cannot be written.
#[derive(Debug)]
pub struct Snapshot<R>(pub(super) Read<R>);

impl<R> Snapshot<R> {
    /// How often it was written until then.
    pub fn version(&self) -> u64 {
        self.0.version
    }
}

impl<R> Deref for Snapshot<R> {
    type Target = R;

    fn deref(&self) -> &R {
        &self.0.value
    }
}

/// A record that is to be changed. Dropping it changes nothing, and gives its lock back if it has
/// one.
pub struct Draft<R> {
    read: Read<R>,
    held: Option<Held>,
}

impl<R: fmt::Debug> fmt::Debug for Draft<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Draft")
            .field("id", &self.read.id)
            .field("version", &self.read.version)
            .field("value", &self.read.value)
            .field("locked", &self.held.is_some())
            .finish()
    }
}

impl<R> Draft<R> {
    /// The version that it builds on. 0: it was never written.
    pub fn version(&self) -> u64 {
        self.read.version
    }

    /// Whether there was such a record when it was read.
    pub fn exists(&self) -> bool {
        self.read.bytes.is_some()
    }
}

impl<R> Deref for Draft<R> {
    type Target = R;

    fn deref(&self) -> &R {
        &self.read.value
    }
}

impl<R> DerefMut for Draft<R> {
    fn deref_mut(&mut self) -> &mut R {
        &mut self.read.value
    }
}

/// A lock, given back when it is dropped.
struct Held {
    hub: Rc<Hub>,
    store: usize,
    id: RecordId,
    fence: u64,
    is_over: bool,
}

impl Held {
    /// Leaves it to a write to give the lock back.
    fn hand_over(mut self) -> u64 {
        self.is_over = true;
        self.fence
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.is_over {
            let ask = RecordAsk::Unlock(self.id.clone(), self.fence);
            self.hub.desk.borrow_mut().wish(self.store, ask);
        }
    }
}

/// Writes of records that are done together or not at all.
#[derive(Debug, Default)]
#[must_use = "nothing is written before it is given to `Cx::write_records` or `Deal::writing`"]
pub struct Batch {
    generation: Option<u64>,
    writes: Vec<RecordWrite>,
    fault: Option<RecordError>,
    /// The store of its records, once it has some.
    store: Option<&'static str>,
}

/// What a batch is, for whoever has it written.
struct Parts {
    generation: u64,
    writes: Vec<RecordWrite>,
    store: &'static str,
}

impl Batch {
    /// Nothing yet.
    pub fn new() -> Self {
        Batch::default()
    }

    pub(super) fn of(generation: u64, writes: Vec<RecordWrite>) -> Self {
        Batch { generation: Some(generation), writes, fault: None, store: Some("") }
    }

    /// Writes a draft, if it was changed. If not, nobody else may have changed it either.
    pub fn put<R: Record>(self, draft: Draft<R>) -> Self {
        let Draft { read, held } = draft;
        let mut bytes = Vec::new();
        let change = match write(&read.value, &read.tail, &mut bytes) {
            Ok(()) if read.bytes.as_ref() == Some(&bytes) => Ok(Change::Keep),
            Ok(()) => Ok(change_to(&read.value, bytes)),
            Err(error) => Err(RecordError::Invalid(format!("{}: {error}", read.id))),
        };
        self.of_store(R::STORE).add(read.generation, read.id, read.version, change, held)
    }

    /// Writes a record as it was once stored, with whatever a newer release has put into it.
    pub fn put_stored<R: Record>(mut self, draft: Draft<R>, bytes: Vec<u8>) -> Self {
        let Draft { read: found, held } = draft;
        let mut value = R::default();
        if let Err(error) = read(&mut value, &bytes) {
            let (id, problem) = (found.id, error.to_string());
            self.fault.get_or_insert(RecordError::Unreadable { id, problem });
            return self;
        }
        let change = change_to(&value, bytes);
        self.of_store(R::STORE).add(found.generation, found.id, found.version, Ok(change), held)
    }

    /// Writes a draft even if it was not changed, so that it stands in indexes that were declared since it was
    /// written; one that is not there stays so.
    pub fn index<R: Record>(self, draft: Draft<R>) -> Self {
        let Draft { read, held } = draft;
        let change = match &read.bytes {
            Some(bytes) if R::INDEXED => change_to(&read.value, bytes.clone()),
            _ => Change::Keep,
        };
        self.of_store(R::STORE).add(read.generation, read.id, read.version, Ok(change), held)
    }

    /// Removes a record.
    pub fn remove<R: Record>(self, draft: Draft<R>) -> Self {
        let Draft { read, held } = draft;
        let change = if read.bytes.is_some() { Change::Remove } else { Change::Keep };
        self.of_store(R::STORE).add(read.generation, read.id, read.version, Ok(change), held)
    }

    /// Holds only if nobody has written that record since it was read.
    pub fn unchanged<R: Record>(self, snapshot: &Snapshot<R>) -> Self {
        let Read { id, generation, version, .. } = &snapshot.0;
        self.of_store(R::STORE).add(*generation, id.clone(), *version, Ok(Change::Keep), None)
    }

    fn of_store(mut self, store: &'static str) -> Self {
        let first = *self.store.get_or_insert(store);
        if first != store {
            let (first, second) = (first.to_owned(), store.to_owned());
            self.fault.get_or_insert(RecordError::TwoStores { first, second });
        }
        self
    }

    fn add(
        mut self,
        generation: u64,
        id: RecordId,
        version: u64,
        change: Result<Change, RecordError>,
        held: Option<Held>,
    ) -> Self {
        let change = match change {
            Ok(change) => change,
            Err(fault) => {
                // The lock, if there is one, is given back here.
                self.fault.get_or_insert(fault);
                return self;
            }
        };
        if *self.generation.get_or_insert(generation) != generation {
            self.fault.get_or_insert(RecordError::FailedOver);
        }
        let fence = held.map(Held::hand_over);
        let unlock = fence.is_some();
        self.writes.push(RecordWrite { id, version, change, fence, unlock });
        self
    }

    /// `None` if there are no writes.
    fn into_parts(self) -> Result<Option<Parts>, RecordError> {
        let Batch { generation, writes, fault, store } = self;
        let store = store.unwrap_or_default();
        match fault {
            Some(fault) => Err(fault),
            None => Ok(generation.map(|generation| Parts { generation, writes, store })),
        }
    }
}

impl Deal {
    /// It is done only together with these writes.
    ///
    /// # Errors
    ///
    /// What makes the writes impossible, such as a field outside its limits.
    pub fn writing(mut self, batch: Batch) -> Result<Self, RecordError> {
        if let Some(Parts { generation, writes, store }) = batch.into_parts()? {
            let first = *self.records_in.get_or_insert(store);
            if first != store {
                let (first, second) = (first.to_owned(), store.to_owned());
                return Err(RecordError::TwoStores { first, second });
            }
            if *self.generation.get_or_insert(generation) != generation {
                return Err(RecordError::FailedOver);
            }
            self.records.extend(writes);
        }
        Ok(self)
    }
}

impl<E: Entity> Cx<E> {
    pub(super) fn ask_of_records(&self, store: usize, ask: RecordAsk) -> Waiting {
        self.hub().desk.borrow_mut().ask(store, ask)
    }

    /// The number of the store that keeps records of that sort.
    pub(super) fn store_of<R: Record>(&self) -> Result<usize, RecordError> {
        self.hub().stores.borrow().of_records(R::STORE)
    }

    pub(super) fn read_stored<R: Record>(
        &self,
        ids: Vec<RecordId>,
        age_max: Option<Duration>,
    ) -> impl Future<Output = Result<Vec<Read<R>>, RecordError>> + use<E, R> {
        let told = self.store_of::<R>().map(|store| {
            let ask = match age_max {
                Some(age_max) => RecordAsk::ReadAged(ids.clone(), age_max),
                None => RecordAsk::Read(ids.clone()),
            };
            self.ask_of_records(store, ask)
        });
        async move {
            let RecordTold::Read(found) = told?.await? else { return Err(RecordError::Unknown) };
            let each = ids.into_iter().zip(found.records);
            each.map(|(id, stored)| Read::new(id, found.generation, stored)).collect()
        }
    }

    /// Reads a record; `None` if there is none. Locks nothing and disturbs nobody.
    ///
    /// # Errors
    ///
    /// [`RecordError::Unreadable`], [`RecordError::Unavailable`], [`RecordError::Invalid`].
    pub fn read_record<R: Record>(
        &self,
        key: &R::Key,
    ) -> impl Future<Output = Result<Option<Snapshot<R>>, RecordError>> + use<E, R> {
        let read = self.read_stored::<R>(vec![id_of::<R>(key)], None);
        async move { Ok(read.await?.pop().filter(|read| read.bytes.is_some()).map(Snapshot)) }
    }

    /// Reads several, all as they are at one moment, in the order of `keys`; at most 64.
    ///
    /// # Errors
    ///
    /// As [`read_record`](Self::read_record).
    pub fn read_records<R: Record>(
        &self,
        keys: &[R::Key],
    ) -> impl Future<Output = Result<Vec<Option<Snapshot<R>>>, RecordError>> + use<E, R> {
        let read = self.read_stored::<R>(keys.iter().map(id_of::<R>).collect(), None);
        let present = |read: Read<R>| read.bytes.is_some().then_some(Snapshot(read));
        async move { Ok(read.await?.into_iter().map(present).collect()) }
    }

    /// The records whose keys come after `after`, in the order of their encoded keys (unsigned
    /// numbers by value, texts by length and then by bytes), at most `max`. None are left when it
    /// gives none.
    ///
    /// # Errors
    ///
    /// As [`read_record`](Self::read_record).
    pub fn list_records<R: Record>(
        &self,
        after: Option<&R::Key>,
        max: usize,
    ) -> impl Future<Output = Result<Vec<(R::Key, R)>, RecordError>> + use<E, R> {
        let kind = KindId::of(R::NAME).0;
        let ask = RecordAsk::List(kind, after.map(proto::encode), max);
        let told = self.store_of::<R>().map(|store| self.ask_of_records(store, ask));
        async move {
            let RecordTold::List(found) = told?.await? else { return Err(RecordError::Unknown) };
            let each = found.into_iter().map(|(bytes, stored)| {
                let id = RecordId { kind, key: bytes };
                let key = proto::decode::<R::Key>(&id.key);
                let key = key.map_err(|error| {
                    let problem = format!("its key: {error}");
                    RecordError::Unreadable { id: id.clone(), problem }
                })?;
                Ok((key, Read::new(id, 0, stored)?.value))
            });
            each.collect()
        }
    }

    /// As [`read_record`](Self::read_record), as it was at most `age_max` ago: by a follower of the store's
    /// server if there is one that is known to be no older, else by the server itself. For what is only
    /// shown; a batch that names it as [`unchanged`](Batch::unchanged) is compared all the same.
    ///
    /// # Errors
    ///
    /// As [`read_record`](Self::read_record).
    pub fn read_record_aged<R: Record>(
        &self,
        key: &R::Key,
        age_max: Duration,
    ) -> impl Future<Output = Result<Option<Snapshot<R>>, RecordError>> + use<E, R> {
        let read = self.read_stored::<R>(vec![id_of::<R>(key)], Some(age_max));
        async move { Ok(read.await?.pop().filter(|read| read.bytes.is_some()).map(Snapshot)) }
    }

    /// As [`read_records`](Self::read_records), as they were at most `age_max` ago; see
    /// [`read_record_aged`](Self::read_record_aged).
    ///
    /// # Errors
    ///
    /// As [`read_record`](Self::read_record).
    pub fn read_records_aged<R: Record>(
        &self,
        keys: &[R::Key],
        age_max: Duration,
    ) -> impl Future<Output = Result<Vec<Option<Snapshot<R>>>, RecordError>> + use<E, R> {
        let read = self.read_stored::<R>(keys.iter().map(id_of::<R>).collect(), Some(age_max));
        let present = |read: Read<R>| read.bytes.is_some().then_some(Snapshot(read));
        async move { Ok(read.await?.into_iter().map(present).collect()) }
    }

    /// Reads a record to change it; its default if there is none. Locks nothing: whoever writes
    /// first wins, the other one gets [`RecordError::Conflict`].
    ///
    /// # Errors
    ///
    /// As [`read_record`](Self::read_record).
    pub fn draft_record<R: Record>(
        &self,
        key: &R::Key,
    ) -> impl Future<Output = Result<Draft<R>, RecordError>> + use<E, R> {
        let read = self.read_stored::<R>(vec![id_of::<R>(key)], None);
        async move {
            let read = read.await?.pop().ok_or(RecordError::Unknown)?;
            Ok(Draft { read, held: None })
        }
    }

    /// As [`draft_record`](Self::draft_record), with the record to oneself: waits at most `wait` for
    /// others to give it back.
    ///
    /// Whoever is not done after `expiry` has to [renew](Self::renew_record) it: a lock that stood
    /// still for that long is broken by whoever waits, and what was to be written under it is
    /// refused. Both measure by their own clocks.
    ///
    /// # Errors
    ///
    /// [`RecordError::Locked`] after `wait`; else as [`read_record`](Self::read_record).
    pub async fn lock_record<R: Record>(
        &self,
        key: &R::Key,
        expiry: Duration,
        wait: Duration,
    ) -> Result<Draft<R>, RecordError> {
        let id = id_of::<R>(key);
        let expiry_ms = u32::try_from(expiry.as_millis()).unwrap_or(u32::MAX);
        let until = self.now() + wait;
        let store = self.store_of::<R>()?;
        // What was seen of somebody else's lock, and since when.
        let mut watched: Option<(Lock, Instant)> = None;
        loop {
            let stood = watched.filter(|(lock, since)| {
                self.now() >= *since + Duration::from_millis(u64::from(lock.expiry_ms))
            });
            let seen = stood.map(|(lock, _)| (lock.fence, lock.beat));
            let ask = RecordAsk::Lock(LockAsk { id: id.clone(), expiry_ms, seen });
            let lock = match self.ask_of_records(store, ask).await {
                Ok(RecordTold::Locked(Lock { fence, .. }, found)) => {
                    let hub = Rc::clone(self.hub());
                    let held = Held { hub, store, id: id.clone(), fence, is_over: false };
                    let stored = found.records.into_iter().next().ok_or(RecordError::Unknown)?;
                    let read = Read::new(id, found.generation, stored)?;
                    return Ok(Draft { read, held: Some(held) });
                }
                Ok(_) => return Err(RecordError::Unknown),
                Err(Error::Locked { lock, .. }) => lock,
                Err(error) => return Err(error.into()),
            };
            if watched.is_none_or(|(before, _)| before != lock) {
                watched = Some((lock, self.now()));
            }
            if self.now() >= until {
                return Err(RecordError::Locked(id));
            }
            let look = Duration::from_millis(u64::from(lock.expiry_ms)) / 20;
            self.sleep(look.clamp(LOOK_MIN, LOOK_MAX).min(until - self.now())).await;
        }
    }

    /// Says that a locked draft is still being worked on.
    ///
    /// # Errors
    ///
    /// [`RecordError::LockLost`] if it is not locked any more; [`RecordError::Unavailable`].
    pub fn renew_record<R: Record>(
        &self,
        draft: &Draft<R>,
    ) -> impl Future<Output = Result<(), RecordError>> + use<E, R> {
        let id = draft.read.id.clone();
        let held = draft.held.as_ref();
        let told = held
            .map(|held| self.ask_of_records(held.store, RecordAsk::Renew(id.clone(), held.fence)));
        async move {
            told.ok_or(RecordError::LockLost(id))?.await?;
            Ok(())
        }
    }

    /// Writes what is in `batch`, all or nothing; durable when this is done. Locks of its drafts are
    /// given back.
    ///
    /// # Errors
    ///
    /// See [`RecordError`]; nothing was written, except perhaps with [`RecordError::Unknown`].
    pub fn write_records(
        &self,
        batch: Batch,
    ) -> impl Future<Output = Result<(), RecordError>> + use<E> {
        let parts = batch.into_parts();
        let told = parts.map(|parts| {
            parts.map(|Parts { generation, writes, store }| {
                let store = self.hub().stores.borrow().of_records(store);
                store.map(|store| self.ask_of_records(store, RecordAsk::Write(generation, writes)))
            })
        });
        async move {
            if let Some(told) = told? {
                told?.await?;
            }
            Ok(())
        }
    }

    /// Reads a record, changes it and writes it, anew if somebody else was faster, at most 16 times.
    /// `change` may run several times; what it gives is that of the run that counted.
    ///
    /// # Errors
    ///
    /// [`RecordError::Conflict`] if others were always faster; else as
    /// [`write_records`](Self::write_records).
    pub async fn update_record<R: Record, T>(
        &self,
        key: &R::Key,
        mut change: impl FnMut(&mut R) -> T,
    ) -> Result<T, RecordError> {
        let mut tries = 0;
        loop {
            let mut draft = self.draft_record::<R>(key).await?;
            let value = change(&mut draft);
            match self.write_records(Batch::new().put(draft)).await {
                Ok(()) => return Ok(value),
                Err(error) if error.is_conflict() && tries + 1 < TRIES => tries += 1,
                Err(error) => return Err(error),
            }
            let pause = self.random(|random| random.below(1 << tries.min(6)));
            self.sleep(Duration::from_millis(1 + pause)).await;
        }
    }
}
