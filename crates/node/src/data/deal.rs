//! Transactions as game code writes them: items and currency that change hands at once or not at
//! all.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use env::Instant;
use proto::codec::{DecodeError, Decoder, Message};
use proto::schema::{SchemaBuilder, Shape};
use store::{
    Claim, Currency, Error, Holdings, Incarnation, ItemId, ItemKind, Key, LedgerOp,
    Message as StoreMessage, Receipt, SagaEnd, SagaError, SagaId, SagaPlan, TxnId,
};

use super::ask::key_of;
use super::commits::{CommitError, CommitOutcome, CommitRequest};
use super::peeks::{Look, Peeks};
use super::records::{RecordAsk, RecordTold};
use super::sagas::SagaWish;
use crate::cx::{Cx, Ref};
use crate::entity::Entity;
use crate::host::hub::Hub;

/// What an owner shows: that it has an entity now. Plain data: of a trade between two nodes, one
/// sends it to the other, whose transaction holds only if both claims do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pledge(Claim);

impl Pledge {
    /// The owner's epoch: it rises with each owner.
    pub fn epoch(&self) -> u64 {
        self.0.epoch
    }

    /// The entity's key in the store, which is also the holder of what it has.
    pub fn holder(&self) -> Key {
        self.0.key
    }
}

/// Travels as an array of numbers.
impl Message for Pledge {
    fn encode(&self, out: &mut Vec<u8>) {
        let Claim { key, generation, epoch, incarnation } = self.0;
        let (high, low) = ((key.0 >> 64) as u64, key.0 as u64);
        (high, low, generation, epoch, incarnation.0).encode(out);
    }

    fn decode(d: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let (high, low, generation, epoch, incarnation) = <(u64, u64, u64, u64, u64)>::decode(d)?;
        let key = Key(u128::from(high) << 64 | u128::from(low));
        Ok(Pledge(Claim { key, generation, epoch, incarnation: Incarnation(incarnation) }))
    }

    fn shape(s: &mut SchemaBuilder) -> Shape {
        <(u64, u64, u64, u64, u64)>::shape(s)
    }
}

/// The holder that an entity is in the ledger.
pub fn holder<T: Entity>(of: Ref<T>) -> Key {
    key_of(of.id())
}

/// A transaction: its steps are done together, once, or not at all.
///
/// Its id makes it the same deal at every try: keep it with whatever asked for it.
#[derive(Clone, Debug)]
pub struct Deal {
    pub(crate) id: TxnId,
    pub(crate) claims: Vec<Claim>,
    pub(crate) ledgers: BTreeMap<Key, u64>,
    pub(crate) ops: Vec<LedgerOp>,
    pub(crate) messages: Vec<StoreMessage>,
    pub(crate) note: String,
    /// Records written with it, and the generation under which they were read.
    pub(crate) records: Vec<store::RecordWrite>,
    /// The store of these.
    pub(crate) records_in: Option<&'static str>,
    pub(crate) generation: Option<u64>,
}

impl Deal {
    /// A deal that does nothing yet. `note` says why, for the audit.
    pub fn new(id: TxnId, note: impl Into<String>) -> Self {
        Deal {
            id,
            claims: Vec::new(),
            ledgers: BTreeMap::new(),
            ops: Vec::new(),
            messages: Vec::new(),
            note: note.into(),
            records: Vec::new(),
            records_in: None,
            generation: None,
        }
    }

    /// Its id.
    pub fn id(&self) -> TxnId {
        self.id
    }

    /// It holds only if that claim does.
    #[must_use]
    pub fn with(mut self, pledge: Pledge) -> Self {
        self.claims.push(pledge.0);
        self
    }

    /// It holds only if the ledger of `holder` is at that version.
    #[must_use]
    pub fn at_version(mut self, holder: Key, version: u64) -> Self {
        self.ledgers.insert(holder, version);
        self
    }

    /// Makes an item that never was.
    #[must_use]
    pub fn make(self, item: ItemId, kind: ItemKind, holder: Key, data: Vec<u8>) -> Self {
        self.op(LedgerOp::Make { item, kind, holder, data })
    }

    /// Hands an item over.
    #[must_use]
    pub fn give(self, item: ItemId, from: Key, to: Key) -> Self {
        self.op(LedgerOp::Move { item, from, to })
    }

    /// Destroys an item.
    #[must_use]
    pub fn destroy(self, item: ItemId, holder: Key) -> Self {
        self.op(LedgerOp::Destroy { item, holder })
    }

    /// Makes currency.
    #[must_use]
    pub fn mint(self, holder: Key, currency: Currency, amount: u64) -> Self {
        self.op(LedgerOp::Mint { holder, currency, amount })
    }

    /// Destroys currency.
    #[must_use]
    pub fn burn(self, holder: Key, currency: Currency, amount: u64) -> Self {
        self.op(LedgerOp::Burn { holder, currency, amount })
    }

    /// Pays.
    #[must_use]
    pub fn pay(self, from: Key, to: Key, currency: Currency, amount: u64) -> Self {
        self.op(LedgerOp::Pay { from, to, currency, amount })
    }

    /// Any other step.
    #[must_use]
    pub fn op(mut self, op: LedgerOp) -> Self {
        self.ops.push(op);
        self
    }

    /// Says something to `topic` of the outbox once it is done.
    #[must_use]
    pub fn tell(mut self, topic: impl Into<String>, body: Vec<u8>) -> Self {
        self.messages.push(StoreMessage { topic: topic.into(), body });
        self
    }
}

/// What waits for an answer of the store.
#[derive(Debug, Default)]
pub(crate) struct Wait {
    outcome: Option<CommitOutcome>,
    waker: Option<Waker>,
}

/// What a worker's entities want of the store and have not been told yet.
#[derive(Default)]
pub(crate) struct Desk {
    next: u64,
    waits: BTreeMap<u64, Rc<RefCell<Wait>>>,
    wishes: Wishes,
    /// What was looked at, and who waits for the reading of somebody else.
    peeks: Peeks,
    joined: BTreeMap<u64, Vec<Rc<RefCell<Wait>>>>,
}

/// What entities want of the store, each with its tag.
#[derive(Default)]
pub(crate) struct Wishes {
    pub commits: Vec<CommitRequest>,
    pub readings: Vec<(u64, Key)>,
    /// With the number of the store that is asked.
    pub records: Vec<(u64, usize, RecordAsk)>,
    pub sagas: Vec<SagaWish>,
}

impl Wishes {
    pub fn is_empty(&self) -> bool {
        self.commits.is_empty()
            && self.readings.is_empty()
            && self.records.is_empty()
            && self.sagas.is_empty()
    }

    /// What each gets where there is no store.
    pub fn refuse(self) -> impl Iterator<Item = (u64, CommitOutcome)> {
        let none = || Error::Stopped("this node has no store".to_owned());
        let commits = self
            .commits
            .into_iter()
            .map(|request| (request.tag, CommitOutcome::Done(Err(CommitError::Unavailable))));
        let readings = self.readings.into_iter();
        let readings = readings.map(move |(tag, _)| (tag, CommitOutcome::Held(Err(none()))));
        let records = self.records.into_iter();
        let records = records.map(move |(tag, ..)| (tag, CommitOutcome::Record(Err(none()))));
        let no_store = || SagaError::Stopped("this node has no store".to_owned());
        let sagas = self.sagas.into_iter();
        let sagas = sagas.map(move |wish| (wish.tag, CommitOutcome::Saga(Err(no_store()))));
        commits.chain(readings).chain(records).chain(sagas)
    }
}

impl Desk {
    fn wait(&mut self) -> (u64, Rc<RefCell<Wait>>) {
        self.next += 1;
        let wait = Rc::new(RefCell::new(Wait::default()));
        self.waits.insert(self.next, Rc::clone(&wait));
        (self.next, wait)
    }

    /// Asks something about records of the store of that number.
    pub(super) fn ask(&mut self, store: usize, ask: RecordAsk) -> Waiting {
        let (tag, wait) = self.wait();
        self.wishes.records.push((tag, store, ask));
        Waiting { wait }
    }

    /// Looks at an entity, with one reading for many who do.
    pub(super) fn peek(&mut self, now: Instant, key: Key, age_max: Duration) -> Rc<RefCell<Wait>> {
        match self.peeks.look(now, key, age_max) {
            Look::Copy(found) => {
                let outcome = Some(CommitOutcome::Record(Ok(RecordTold::Peeked(found))));
                Rc::new(RefCell::new(Wait { outcome, waker: None }))
            }
            Look::Wait(tag) => {
                let wait = Rc::new(RefCell::new(Wait::default()));
                self.joined.entry(tag).or_default().push(Rc::clone(&wait));
                wait
            }
            Look::Read(age) => {
                let (tag, wait) = self.wait();
                self.wishes.records.push((tag, 0, RecordAsk::Peek(key, age)));
                self.peeks.begin(now, key, age, tag);
                wait
            }
        }
    }

    /// Asks for a saga.
    pub(super) fn saga(&mut self, id: SagaId, plan: SagaPlan) -> Saga {
        let (tag, wait) = self.wait();
        self.wishes.sagas.push(SagaWish { tag, id, plan });
        Saga { wait }
    }

    /// The same, of which nobody waits for the answer.
    pub(super) fn wish(&mut self, store: usize, ask: RecordAsk) {
        self.next += 1;
        self.wishes.records.push((self.next, store, ask));
    }

    /// What was asked since the last time.
    pub(crate) fn take(&mut self) -> Wishes {
        std::mem::take(&mut self.wishes)
    }

    /// Hands out what became of a request.
    pub(crate) fn deliver(&mut self, tag: u64, outcome: CommitOutcome) {
        if let CommitOutcome::Record(told) = &outcome {
            self.peeks.handle_told(tag, told);
            for wait in self.joined.remove(&tag).unwrap_or_default() {
                hand(&wait, CommitOutcome::Record(told.clone()));
            }
        }
        if let Some(wait) = self.waits.remove(&tag) {
            hand(&wait, outcome);
        }
    }
}

fn hand(wait: &RefCell<Wait>, outcome: CommitOutcome) {
    let waker = {
        let mut wait = wait.borrow_mut();
        wait.outcome = Some(outcome);
        wait.waker.take()
    };
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// A transaction under way. Dropping it takes nothing back.
#[must_use = "without looking at the outcome nobody knows whether it was done"]
pub struct Commit {
    wait: Rc<RefCell<Wait>>,
    hub: Rc<Hub>,
    place: (u16, u32),
}

impl fmt::Debug for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Commit").field("wait", &self.wait).finish_non_exhaustive()
    }
}

impl Drop for Commit {
    fn drop(&mut self) {
        let mut deals = self.hub.deals.borrow_mut();
        if let Some(open) = deals.get_mut(&self.place) {
            *open -= 1;
            if *open == 0 {
                deals.remove(&self.place);
            }
        }
    }
}

impl Future for Commit {
    type Output = Result<Receipt, CommitError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        poll_wait(&self.wait, context).map(|outcome| match outcome {
            CommitOutcome::Done(result) => result,
            _ => Err(CommitError::Unavailable),
        })
    }
}

/// A reading of the ledger under way.
#[must_use = "a reading does nothing unless it is awaited"]
#[derive(Debug)]
pub struct Reading {
    wait: Rc<RefCell<Wait>>,
}

impl Future for Reading {
    type Output = Result<Holdings, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        poll_wait(&self.wait, context).map(|outcome| match outcome {
            CommitOutcome::Held(result) => result,
            _ => Err(Error::Busy),
        })
    }
}

/// An answer about records on its way.
#[derive(Debug)]
pub(super) struct Waiting {
    wait: Rc<RefCell<Wait>>,
}

impl Future for Waiting {
    type Output = Result<RecordTold, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        poll_wait(&self.wait, context).map(|outcome| match outcome {
            CommitOutcome::Record(result) => result,
            _ => Err(Error::Busy),
        })
    }
}

/// A saga under way.
pub(super) struct Saga {
    wait: Rc<RefCell<Wait>>,
}

impl Future for Saga {
    type Output = Result<SagaEnd, SagaError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        poll_wait(&self.wait, context).map(|outcome| match outcome {
            CommitOutcome::Saga(result) => result,
            _ => Err(SagaError::Busy),
        })
    }
}

pub(super) fn poll_wait(wait: &RefCell<Wait>, context: &Context<'_>) -> Poll<CommitOutcome> {
    let mut wait = wait.borrow_mut();
    match wait.outcome.take() {
        Some(outcome) => Poll::Ready(outcome),
        None => {
            wait.waker = Some(context.waker().clone());
            Poll::Pending
        }
    }
}

impl<E: Entity> Cx<E> {
    /// The holder that this entity is in the ledger.
    pub fn holder(&self) -> Key {
        key_of(self.id())
    }

    /// That this node has the entity now, for a transaction of somebody else's. `None` while it
    /// has no document in a store.
    pub fn pledge(&self) -> Option<Pledge> {
        self.shard().sheets.borrow().get(&self.slot())?.claim().map(Pledge)
    }

    /// A new id for a deal. Where a client asks for the deal, let it choose the id instead, so that
    /// asking again is the same deal.
    pub fn deal_id(&self) -> TxnId {
        TxnId(self.random(|random| u128::from(random.u64()) << 64 | u128::from(random.u64())))
    }

    /// Does a deal. It shows this entity's claim if its kind has a document: a node that has lost
    /// the entity can do nothing in its name. The outcome is durable when it is told, and is looked
    /// up as long as it is not known.
    pub fn commit(&self, deal: Deal) -> Commit {
        self.begin_commit(deal, || None)
    }

    /// As [`commit`](Self::commit), and writes what changed of the entity's documents in the same
    /// transaction. `state` is the handler's `self`.
    pub fn commit_with(&self, state: &E, deal: Deal) -> Commit {
        self.begin_commit(deal, || {
            let mut sheets = self.shard().sheets.borrow_mut();
            let sheets = sheets.get_mut(&self.slot())?;
            Some(sheets.take_for_deal(|sheets| state.save(sheets)))
        })
    }

    fn begin_commit(
        &self,
        deal: Deal,
        patches: impl FnOnce() -> Option<(store::Patch, store::Patch)>,
    ) -> Commit {
        let hub = self.hub();
        let place = (self.shard().index, self.slot());
        *hub.deals.borrow_mut().entry(place).or_insert(0) += 1;
        let who = E::KIND.document.then(|| self.id());
        let kept = hub.stores.borrow().of_deal(who, &deal);
        let store = match kept {
            Ok(store) => store,
            Err(error) => {
                let outcome = Some(CommitOutcome::Done(Err(error)));
                let wait = Rc::new(RefCell::new(Wait { outcome, waker: None }));
                return Commit { wait, hub: Rc::clone(hub), place };
            }
        };
        let patches = patches();
        let mut desk = hub.desk.borrow_mut();
        let (tag, wait) = desk.wait();
        let at_ms = hub.wall.get().0;
        let (shown, patch) = patches.unzip();
        let shown = shown.unwrap_or_default();
        desk.wishes.commits.push(CommitRequest { tag, store, who, deal, shown, patch, at_ms });
        Commit { wait, hub: Rc::clone(hub), place }
    }

    /// What a holder has, as the store has it.
    pub fn holdings(&self, holder: Key) -> Reading {
        let mut desk = self.hub().desk.borrow_mut();
        let (tag, wait) = desk.wait();
        desk.wishes.readings.push((tag, holder));
        Reading { wait }
    }
}

impl Hub {
    /// Hands out what became of a transaction or reading.
    pub(crate) fn deliver(&self, tag: u64, outcome: CommitOutcome) {
        self.desk.borrow_mut().deliver(tag, outcome);
    }
}
