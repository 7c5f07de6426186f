//! Sagas of one worker: those that its entities began, and those that nobody else goes on with.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::sync::Arc;

use env::{Instant, Random, WallTime};
use proto::KindId;
use proto::codec::Message;
use store::{
    Amend, Amends, Error, RecordId, SagaEnd, SagaError, SagaId, SagaOptions, SagaPlan, SagaRun,
    SagaTold, SagaWant, SagaWatch,
};

use super::ask::Ask;
use super::document::{read, write};
use super::records::{Record, RecordAsk, RecordTold, change_to};
use crate::cx::Cx;
use crate::entity::Entity;

/// A change of a record that a saga can name: it is run by whichever node does the step, perhaps after
/// a crash, so it may depend on nothing but the record and its own fields.
pub trait Change: Message {
    /// Names it for ever.
    const NAME: &'static str;
    /// What it changes.
    type Record: Record;

    /// Changes the record, its default if there is none.
    ///
    /// # Errors
    ///
    /// Why not: the saga is undone then, unless nothing of it can be undone any more.
    fn change(&self, record: &mut Self::Record) -> Result<(), String>;
}

/// That `change` be done to the record of `key`, for a step of a saga.
pub fn amend<C: Change>(key: &<C::Record as Record>::Key, change: &C) -> Amend {
    let record = RecordId { kind: KindId::of(C::Record::NAME).0, key: proto::encode(key) };
    Amend { record, by: C::NAME.to_owned(), with: proto::encode(change) }
}

/// Adds a change by its name.
pub(crate) fn add_change<C: Change>(amends: &mut Amends) {
    amends.add_change(C::NAME, |body, with| {
        let change = proto::decode::<C>(with).map_err(|error| error.to_string())?;
        let mut record = C::Record::default();
        let tail = match body {
            Some(bytes) => read(&mut record, bytes).map_err(|error| error.to_string())?,
            None => super::document::Tail::default(),
        };
        change.change(&mut record)?;
        let mut bytes = Vec::new();
        write(&record, &tail, &mut bytes).map_err(|error| error.to_string())?;
        if body == Some(&bytes[..]) {
            Ok(store::Change::Keep)
        } else {
            Ok(change_to(&record, bytes))
        }
    });
}

/// A saga that an entity wants.
pub(crate) struct SagaWish {
    pub tag: u64,
    pub id: SagaId,
    pub plan: SagaPlan,
}

/// Marks the requests that are of sagas.
const OURS: u64 = 1 << 63;
/// The one that lists those under way.
const LIST: u64 = OURS;

/// Drives the sagas of one worker. Pure: after each `handle_*`, drain [`poll_ask`](Self::poll_ask) and
/// [`poll_end`](Self::poll_end).
#[derive(Debug)]
pub(crate) struct Sagas {
    options: SagaOptions,
    random: Random,
    amends: Arc<Amends>,
    next: u64,
    runs: BTreeMap<u64, Driven>,
    /// One worker of a node looks for sagas that nobody drives.
    watch: Option<SagaWatch>,
    /// The names of the stores beside the default one.
    stores: Vec<String>,
    /// With the numbers of the stores that are asked.
    asks: VecDeque<(usize, Ask)>,
    ends: VecDeque<(u64, Result<SagaEnd, SagaError>)>,
}

#[derive(Debug)]
struct Driven {
    run: SagaRun,
    /// Who waits for its end.
    tag: Option<u64>,
}

/// Sagas that a worker drives for its entities at once.
const RUNS_MAX: usize = 1_024;

impl Sagas {
    pub fn new(
        options: SagaOptions,
        stores: Vec<String>,
        watches: bool,
        mut random: Random,
    ) -> Self {
        let every = u64::try_from(options.watch_every.as_nanos()).unwrap_or(u64::MAX).max(1);
        let first = Instant::from_nanos(random.below(every));
        let watch = watches.then(|| SagaWatch::new(options.clone(), first));
        Sagas {
            options,
            random,
            amends: Arc::default(),
            next: 0,
            runs: BTreeMap::new(),
            watch,
            stores,
            asks: VecDeque::new(),
            ends: VecDeque::new(),
        }
    }

    /// The changes of records that are known here.
    pub fn set_amends(&mut self, amends: Arc<Amends>) {
        self.amends = amends;
    }

    pub fn handle_wish(&mut self, now: Instant, wall: WallTime, wish: SagaWish) {
        if self.runs.len() >= RUNS_MAX {
            return self.ends.push_back((wish.tag, Err(SagaError::Busy)));
        }
        let (amends, options) = (Arc::clone(&self.amends), self.options.clone());
        let random = self.random.fork();
        let run = SagaRun::begin(wish.id, wish.plan, amends, options, random, now);
        self.add(now, wall, run, Some(wish.tag));
    }

    fn add(&mut self, now: Instant, wall: WallTime, run: SagaRun, tag: Option<u64>) {
        self.next += 1;
        let number = self.next;
        self.runs.insert(number, Driven { run, tag });
        self.carry(now, wall, number);
    }

    /// What is asked of the store of that number.
    pub fn poll_ask(&mut self, store: usize) -> Option<Ask> {
        let at = self.asks.iter().position(|(of, _)| *of == store)?;
        self.asks.remove(at).map(|(_, ask)| ask)
    }

    /// How a saga ended, and whom to tell.
    pub fn poll_end(&mut self) -> Option<(u64, Result<SagaEnd, SagaError>)> {
        self.ends.pop_front()
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        let runs = self.runs.values().filter_map(|driven| driven.run.poll_timeout());
        runs.chain(self.watch.as_ref().and_then(SagaWatch::poll_timeout)).min()
    }

    pub fn handle_timeout(&mut self, now: Instant, wall: WallTime) {
        if self.watch.as_mut().is_some_and(|watch| watch.handle_timeout(now)) {
            self.list(None);
        }
        let due = |driven: &Driven| driven.run.poll_timeout().is_some_and(|at| at <= now);
        let due: Vec<u64> =
            self.runs.iter().filter(|(_, driven)| due(driven)).map(|(n, _)| *n).collect();
        due.into_iter().for_each(|number| self.carry(now, wall, number));
    }

    fn list(&mut self, after: Option<Vec<u8>>) {
        let ask = RecordAsk::List(SagaWatch::KIND, after, SagaWatch::PAGE);
        self.asks.push_back((0, Ask::Record(LIST, ask)));
    }

    /// Takes an answer, if it is one to a request of sagas.
    pub fn is_ours(tag: u64) -> bool {
        tag & OURS != 0
    }

    pub fn handle_told(
        &mut self,
        now: Instant,
        wall: WallTime,
        tag: u64,
        told: Result<RecordTold, Error>,
    ) {
        if tag == LIST {
            return self.listed(now, wall, told);
        }
        let number = tag & !OURS;
        let Some(driven) = self.runs.get_mut(&number) else { return };
        // It knows what it asked for: an error is the same for all.
        driven.run.handle_answer(now, told.map(answer_of));
        self.carry(now, wall, number);
    }

    fn listed(&mut self, now: Instant, wall: WallTime, told: Result<RecordTold, Error>) {
        let Some(watch) = &mut self.watch else { return };
        let Ok(RecordTold::List(page)) = told else { return watch.handle_failed(now) };
        if let Some(after) = watch.handle_page(&page) {
            return self.list(Some(after));
        }
        let runs = &self.runs;
        let found = watch.handle_end(now, |id| runs.values().any(|driven| driven.run.id() == id));
        let resumed = self.runs.values().filter(|driven| driven.tag.is_none()).count();
        for (id, place) in found.into_iter().take(self.options.resumed_max.saturating_sub(resumed))
        {
            let (amends, options) = (Arc::clone(&self.amends), self.options.clone());
            let random = self.random.fork();
            let run = SagaRun::resume(id, place, amends, options, random, now);
            self.add(now, wall, run, None);
        }
    }

    /// Carries what a saga asks for, and what became of it.
    fn carry(&mut self, now: Instant, wall: WallTime, number: u64) {
        let Some(driven) = self.runs.get_mut(&number) else { return };
        driven.run.handle_timeout(now, wall.0);
        if let Some(ask) = driven.run.poll_ask() {
            let ask_of = ask.store;
            let ask = match ask.want {
                SagaWant::Read(ids) => RecordAsk::Read(ids),
                SagaWant::Write(generation, writes) => RecordAsk::Write(generation, writes),
                SagaWant::Commit(txn) => RecordAsk::Commit(txn),
            };
            let store = match ask_of.as_str() {
                "" => Some(0),
                name => self.stores.iter().position(|known| known == name).map(|at| at + 1),
            };
            match store {
                Some(store) => self.asks.push_back((store, Ask::Record(OURS | number, ask))),
                // Another process began it, whose cluster file names more.
                None => {
                    let error = Error::Unavailable(format!("there is no store {ask_of:?} here"));
                    driven.run.handle_answer(now, Err(error));
                }
            }
        }
        if let Some(end) = driven.run.poll_end()
            && let Some(tag) = driven.tag.take()
        {
            self.ends.push_back((tag, end));
        }
        if driven.run.is_over() {
            self.runs.remove(&number);
        }
    }
}

fn answer_of(told: RecordTold) -> SagaTold {
    match told {
        RecordTold::Read(found) => SagaTold::Read(Ok(found)),
        RecordTold::Committed(receipt) => SagaTold::Committed(Ok(receipt)),
        _ => SagaTold::Written(Ok(())),
    }
}

impl<E: Entity> Cx<E> {
    /// Does a saga and waits for its end, however long that takes: all its steps, or none. Dropping
    /// this, or a crash of this node, stops nothing: some node goes on with it.
    ///
    /// `id` makes asking again the same saga: keep it with whatever asked for it.
    ///
    /// # Errors
    ///
    /// Mistakes in the plan, before anything is done; [`SagaError::Reused`], [`SagaError::Busy`],
    /// [`SagaError::Unreadable`], [`SagaError::Stopped`].
    pub fn saga(
        &self,
        id: SagaId,
        plan: SagaPlan,
    ) -> impl Future<Output = Result<SagaEnd, SagaError>> + use<E> {
        let hub = self.hub();
        let stores = hub.stores.borrow();
        let checked = plan.check(|name| stores.has(name), &hub.amends.borrow());
        let checked = checked.and_then(|()| stores.check_saga(&plan));
        drop(stores);
        let told = checked.map(|()| hub.desk.borrow_mut().saga(id, plan));
        async move { told?.await }
    }
}
