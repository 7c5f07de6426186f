//! One saga, driven from wherever it is to its end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use env::{Instant, Random};

use super::check::slots;
use super::ids::{PLACES, place_record, saga_record, txn_of};
use super::plan::{SagaPlan, SagaStep, SagaWork};
use super::state::{Phase, State, hash_of};
use super::{Amends, SagaEnd, SagaError, SagaId, SagaMutant, SagaOptions};
use crate::error::Error;
use crate::ledger::{Receipt, Transaction};
use crate::record::{Change, Record, RecordId, RecordWrite, Records};
use crate::slots::Slot;

/// What a saga asks of a store.
#[derive(Debug, Clone)]
pub struct SagaAsk {
    /// Of which; empty: the default one.
    pub store: String,
    /// What.
    pub want: SagaWant,
}

/// See [`SagaAsk`].
#[derive(Debug, Clone)]
pub enum SagaWant {
    /// Read these.
    Read(Vec<RecordId>),
    /// Write these, under that generation.
    Write(u64, Vec<RecordWrite>),
    /// Do a transaction.
    Commit(Box<Transaction>),
}

/// What the store says.
#[derive(Debug, Clone)]
pub enum SagaTold {
    /// To `Read`.
    Read(Result<Records, Error>),
    /// To `Write`.
    Written(Result<(), Error>),
    /// To `Commit`.
    Committed(Result<Receipt, Error>),
}

/// How many places are looked at before a saga is refused.
const PLACES_TRIED: u32 = 24;
/// Bytes kept of why a step was refused.
const WHY_BYTES_MAX: usize = 240;

/// What it waits for.
#[derive(Debug)]
enum Doing {
    /// How it stands, and whether a place is free.
    Look,
    /// Its place.
    Take,
    /// Its record, for the first time.
    Begin,
    /// Its record, further on.
    Note(Box<State>),
    /// That nobody begins it any more.
    Forbid,
    /// The records that a step changes.
    Amend,
    Act,
    /// That a try of the step is never done; and why it was not, if that is known.
    Seal(Option<String>),
    /// Its place as it is now, to be given back.
    Leave,
    Left,
}

/// What to do after a pause.
#[derive(Debug, Clone)]
enum Next {
    Look,
    Drive,
    Seal(Option<String>),
}

/// Drives one saga. Pure: after each `handle_*`, drain [`poll_ask`](Self::poll_ask); exactly one
/// [`handle_told`](Self::handle_told) answers each.
///
/// Several may drive one saga at once: they hinder each other, and do nothing twice.
#[derive(Debug)]
pub struct SagaRun {
    id: SagaId,
    /// What it is to be, if it is to be begun.
    plan: Option<(SagaPlan, [u8; 32])>,
    amends: Arc<Amends>,
    options: SagaOptions,
    random: Random,
    driver: u64,
    wall_ms: u64,
    /// The generation of each store, as it was last heard.
    generations: BTreeMap<String, u64>,
    /// The place that it has or had.
    place: Option<u32>,
    places_tried: u32,
    state: Option<State>,
    version: u64,
    /// The record's version while somebody else drives, and since when it is that.
    seen: Option<(u64, Instant)>,
    doing: Option<Doing>,
    pause: Option<(Instant, Next)>,
    attempts: u32,
    ask: Option<SagaAsk>,
    end: Option<Result<SagaEnd, SagaError>>,
    over: bool,
}

impl SagaRun {
    /// Begins a saga; if it was begun before, follows it to its end. `plan` must have passed its
    /// [check](SagaPlan::check).
    pub fn begin(
        id: SagaId,
        plan: SagaPlan,
        amends: Arc<Amends>,
        options: SagaOptions,
        mut random: Random,
        now: Instant,
    ) -> Self {
        let hash = hash_of(&plan);
        let place = random.u32() % PLACES;
        Self::new((id, Some((plan, hash)), Some(place)), amends, options, random, now)
    }

    /// Goes on with a saga that was seen at `place`, once nobody else does.
    pub fn resume(
        id: SagaId,
        place: u32,
        amends: Arc<Amends>,
        options: SagaOptions,
        random: Random,
        now: Instant,
    ) -> Self {
        Self::new((id, None, Some(place)), amends, options, random, now)
    }

    fn new(
        (id, plan, place): (SagaId, Option<(SagaPlan, [u8; 32])>, Option<u32>),
        amends: Arc<Amends>,
        options: SagaOptions,
        mut random: Random,
        now: Instant,
    ) -> Self {
        let mut run = SagaRun {
            id,
            plan,
            amends,
            options,
            driver: random.u64(),
            random,
            wall_ms: 0,
            generations: BTreeMap::new(),
            place,
            places_tried: 0,
            state: None,
            version: 0,
            seen: None,
            doing: None,
            pause: None,
            attempts: 0,
            ask: None,
            end: None,
            over: false,
        };
        run.after(now, Next::Look);
        run
    }

    /// Which.
    pub fn id(&self) -> SagaId {
        self.id
    }

    /// How it ended, once.
    pub fn poll_end(&mut self) -> Option<Result<SagaEnd, SagaError>> {
        self.end.take()
    }

    /// Whether there is nothing left to do.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// What it asks for.
    pub fn poll_ask(&mut self) -> Option<SagaAsk> {
        self.ask.take()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.pause.as_ref().map(|(at, _)| *at)
    }

    /// Time has come. `wall_ms`: milliseconds since 1970, for the audit.
    pub fn handle_timeout(&mut self, now: Instant, wall_ms: u64) {
        self.wall_ms = wall_ms;
        if self.pause.as_ref().is_some_and(|(at, _)| *at <= now) {
            let next = self.pause.take().map(|(_, next)| next);
            self.after(now, next.unwrap_or(Next::Look));
        }
    }

    /// An answer.
    pub fn handle_told(&mut self, now: Instant, told: SagaTold) {
        let Some(doing) = self.doing.take() else { return };
        match (doing, told) {
            (Doing::Look, SagaTold::Read(found)) => self.looked(now, found),
            (Doing::Take, SagaTold::Written(written)) => self.took(now, written),
            (Doing::Begin, SagaTold::Written(written)) => {
                self.note_generation("", written.as_ref().err());
                match written {
                    Ok(()) => self.look(),
                    Err(error) => self.trouble(now, error, Next::Look),
                }
            }
            (Doing::Forbid, SagaTold::Written(written)) => {
                self.note_generation("", written.as_ref().err());
                match written {
                    Ok(()) => {
                        self.end = Some(Err(SagaError::Busy));
                        self.leave_place();
                    }
                    Err(error) => self.trouble(now, error, Next::Look),
                }
            }
            (Doing::Note(next), SagaTold::Written(written)) => self.noted(now, *next, written),
            (Doing::Amend, SagaTold::Read(found)) => self.amend(now, found),
            (Doing::Act, SagaTold::Committed(done)) => self.acted(now, done),
            (Doing::Seal(why), SagaTold::Committed(done)) => self.sealed(now, why, done),
            (Doing::Leave, SagaTold::Read(found)) => self.leave(found),
            // The place is looked after by whoever watches, if it was not given back.
            (Doing::Left, _) => self.over = true,
            _ => self.after(now, Next::Look),
        }
    }

    /// The same as [`handle_told`](Self::handle_told), from whoever does not tell errors apart by what
    /// was asked.
    pub fn handle_answer(&mut self, now: Instant, told: Result<SagaTold, Error>) {
        let told = match (told, &self.doing) {
            (Ok(told), _) => told,
            (Err(error), Some(Doing::Look | Doing::Amend | Doing::Leave)) => {
                SagaTold::Read(Err(error))
            }
            (Err(error), Some(Doing::Act | Doing::Seal(_))) => SagaTold::Committed(Err(error)),
            (Err(error), _) => SagaTold::Written(Err(error)),
        };
        self.handle_told(now, told);
    }

    fn after(&mut self, now: Instant, next: Next) {
        match next {
            Next::Look => self.look(),
            Next::Drive => self.drive(now),
            Next::Seal(why) => self.seal(now, why),
        }
    }

    fn wait(&mut self, now: Instant, next: Next) {
        self.attempts = self.attempts.saturating_add(1);
        let pause = self.options.retry_first * 2u32.saturating_pow(self.attempts.min(16) - 1);
        let pause = pause.min(self.options.retry_max);
        // Half of it is jitter, so that two do not meet again and again.
        let nanos = u64::try_from(pause.as_nanos() / 2).unwrap_or(u64::MAX).max(1);
        let pause = pause / 2 + Duration::from_nanos(self.random.below(nanos));
        self.pause = Some((now + pause, next));
    }

    /// Something that may be otherwise in a moment, or never is.
    fn trouble(&mut self, now: Instant, error: Error, next: Next) {
        match error {
            Error::Stopped(why) => self.finish(Err(SagaError::Stopped(why))),
            Error::Corrupt { .. } if matches!(next, Next::Look) => {
                self.finish(Err(SagaError::Unreadable(self.id)));
            }
            _ => self.wait(now, next),
        }
    }

    fn finish(&mut self, end: Result<SagaEnd, SagaError>) {
        self.end = Some(end);
        self.over = true;
    }

    fn ask(&mut self, store: &str, want: SagaWant, doing: Doing) {
        self.doing = Some(doing);
        self.ask = Some(SagaAsk { store: store.to_owned(), want });
    }

    fn note_generation(&mut self, store: &str, error: Option<&Error>) {
        if let Some(Error::Generation { current }) = error {
            self.generations.insert(store.to_owned(), *current);
        }
    }

    fn generation(&self, store: &str) -> u64 {
        // One that is not known yet is learnt from the refusal.
        self.generations.get(store).copied().unwrap_or(1)
    }

    // -- its record --

    fn look(&mut self) {
        let mut ids = vec![saga_record(self.id)];
        ids.extend(self.place.map(place_record));
        self.ask("", SagaWant::Read(ids), Doing::Look);
    }

    fn looked(&mut self, now: Instant, found: Result<Records, Error>) {
        let found = match found {
            Ok(found) => found,
            Err(error) => return self.trouble(now, error, Next::Look),
        };
        self.generations.insert(String::new(), found.generation);
        let mut records = found.records.into_iter();
        let (record, place) = (records.next().unwrap_or_default(), records.next());
        self.version = record.version;
        let Some(body) = record.body else { return self.absent(now, place) };
        let Some(state) = State::decode(&body) else {
            return self.finish(Err(SagaError::Unreadable(self.id)));
        };
        if self.plan.as_ref().is_some_and(|(_, hash)| *hash != state.hash) {
            return self.finish(Err(SagaError::Reused(self.id)));
        }
        if let Phase::Ended(end, _) = &state.phase {
            self.end = Some(Ok(end.clone()));
            return self.leave_place();
        }
        if self.plan.is_none() && self.place != Some(state.place) {
            // That place was taken by somebody who was not the first to begin it.
            return self.leave_place();
        }
        if state.driver == self.driver {
            self.attempts = 0;
            self.state = Some(state);
            return self.drive(now);
        }
        match self.seen.filter(|(version, _)| *version == self.version) {
            Some((_, since)) if now.since(since) >= self.options.stale_after => {
                self.seen = None;
                self.note(State { driver: self.driver, ..state });
            }
            seen => {
                self.seen = seen.or(Some((self.version, now)));
                let pause = self.options.stale_after / 8;
                self.pause = Some((now + pause, Next::Look));
            }
        }
    }

    /// Nobody has begun it.
    fn absent(&mut self, now: Instant, place: Option<Record>) {
        let Some((plan, hash)) = self.plan.clone() else {
            // Somebody took a place for it and went no further for long: it is not begun any more.
            match self.seen.filter(|(version, _)| *version == self.version) {
                Some((_, since)) if now.since(since) >= self.options.stale_after => {
                    let write = self.write_of(saga_record(self.id), self.version, Change::Remove);
                    self.ask("", write, Doing::Forbid);
                }
                seen => {
                    self.seen = seen.or(Some((self.version, now)));
                    self.pause = Some((now + self.options.stale_after / 8, Next::Look));
                }
            }
            return;
        };
        let (Some(at), Some(place)) = (self.place, place) else { return self.other_place(now) };
        match place.body {
            Some(body) if body == self.id.0.to_be_bytes() => {
                let (driver, began_ms) = (self.driver, self.wall_ms);
                let phase = Phase::Forward(0, plan);
                let state = State { hash, driver, place: at, tries: 0, began_ms, phase };
                let put = Change::Put(state.encode());
                let write = self.write_of(saga_record(self.id), self.version, put);
                self.ask("", write, Doing::Begin);
            }
            Some(_) => self.other_place(now),
            None => {
                let put = Change::Put(self.id.0.to_be_bytes().to_vec());
                let write = self.write_of(place_record(at), place.version, put);
                self.ask("", write, Doing::Take);
            }
        }
    }

    fn other_place(&mut self, _now: Instant) {
        self.places_tried += 1;
        if self.places_tried > PLACES_TRIED {
            return self.finish(Err(SagaError::Busy));
        }
        self.place = Some(self.random.u32() % PLACES);
        self.look();
    }

    fn took(&mut self, now: Instant, written: Result<(), Error>) {
        self.note_generation("", written.as_ref().err());
        match written {
            Ok(()) => self.look(),
            Err(Error::RecordConflict { .. }) => self.other_place(now),
            Err(error) => self.trouble(now, error, Next::Look),
        }
    }

    fn write_of(&self, id: RecordId, version: u64, change: Change) -> SagaWant {
        let write = RecordWrite { id, version, change, fence: None, unlock: false };
        SagaWant::Write(self.generation(""), vec![write])
    }

    /// Writes how far it is.
    fn note(&mut self, next: State) {
        let put = Change::Put(next.encode());
        let write = self.write_of(saga_record(self.id), self.version, put);
        self.ask("", write, Doing::Note(Box::new(next)));
    }

    fn noted(&mut self, now: Instant, next: State, written: Result<(), Error>) {
        self.note_generation("", written.as_ref().err());
        match written {
            Ok(()) => {
                self.version += 1;
                self.attempts = next.tries;
                if let Phase::Ended(end, _) = &next.phase {
                    self.end = Some(Ok(end.clone()));
                    return self.leave_place();
                }
                let is_again = next.tries > 0;
                self.state = Some(next);
                if is_again { self.wait(now, Next::Drive) } else { self.drive(now) }
            }
            // Somebody else goes on with it, or the answer to an earlier try was lost.
            Err(Error::RecordConflict { .. }) => {
                self.state = None;
                self.look();
            }
            Err(error) => {
                self.state = None;
                self.trouble(now, error, Next::Look);
            }
        }
    }

    /// Gives its place back, if it has it.
    fn leave_place(&mut self) {
        match self.place {
            Some(place) => self.ask("", SagaWant::Read(vec![place_record(place)]), Doing::Leave),
            None => self.over = true,
        }
    }

    fn leave(&mut self, found: Result<Records, Error>) {
        let Ok(found) = found else {
            self.over = true;
            return;
        };
        self.generations.insert(String::new(), found.generation);
        let record = found.records.into_iter().next().unwrap_or_default();
        let is_ours = record.body.as_deref() == Some(&self.id.0.to_be_bytes());
        match self.place.filter(|_| is_ours) {
            Some(place) => {
                let write = self.write_of(place_record(place), record.version, Change::Remove);
                self.ask("", write, Doing::Left);
            }
            None => self.over = true,
        }
    }

    // -- its steps --

    /// The step that is next, its number, and what is to be done of it.
    fn current(&self) -> Option<(u32, &SagaStep, &SagaWork, bool)> {
        match &self.state.as_ref()?.phase {
            Phase::Forward(done, plan) => {
                let step = plan.steps.get(*done as usize)?;
                Some((*done, step, &step.act, false))
            }
            Phase::Back(left, plan, ..) => {
                let at = left.checked_sub(1)?;
                let step = plan.steps.get(at as usize)?;
                Some((at, step, step.undo.as_ref()?, true))
            }
            Phase::Ended(..) => None,
        }
    }

    fn drive(&mut self, now: Instant) {
        let skips = self.options.mutant == Some(SagaMutant::UndoSkipped);
        let Some((_, step, work, undo)) = self.current() else { return self.advance() };
        if work.is_empty() || (undo && skips) {
            return self.advance();
        }
        if work.amends.is_empty() {
            return self.act(now, Vec::new());
        }
        let ids = work.amends.iter().map(|amend| amend.record.clone()).collect();
        let store = step.store.clone();
        self.ask(&store, SagaWant::Read(ids), Doing::Amend);
    }

    fn amend(&mut self, now: Instant, found: Result<Records, Error>) {
        let found = match found {
            Ok(found) => found,
            Err(Error::Corrupt { table, key }) => {
                let why = format!("a stored row is damaged: {table} {key}");
                return self.seal(now, Some(why));
            }
            Err(error) => return self.trouble(now, error, Next::Drive),
        };
        let Some((_, step, work, _)) = self.current() else { return self.look() };
        let (store, mut writes, mut why) = (step.store.clone(), Vec::new(), None);
        for (amend, record) in work.amends.iter().zip(found.records) {
            let body = record.body.as_deref();
            let change = match self.amends.apply(&amend.by, body, &amend.with) {
                Ok(Change::Put(bytes)) if body == Some(&bytes[..]) => Change::Keep,
                Ok(Change::Remove) if body.is_none() => Change::Keep,
                Ok(change) => change,
                Err(refused) => {
                    why = Some(refused);
                    break;
                }
            };
            let (id, version) = (amend.record.clone(), record.version);
            writes.push(RecordWrite { id, version, change, fence: None, unlock: false });
        }
        self.generations.insert(store, found.generation);
        match why {
            Some(why) => self.seal(now, Some(why)),
            None => self.act(now, writes),
        }
    }

    /// The transaction of the present try, without what it does.
    fn transaction(&self) -> Option<(String, Transaction)> {
        let state = self.state.as_ref()?;
        let (at, step, work, undo) = self.current()?;
        let by_driver = self.options.mutant == Some(SagaMutant::IdsOfTheDriver);
        let tries = if by_driver { self.driver as u32 } else { state.tries };
        let id = txn_of(self.id, at, undo, tries);
        let mut txn = Transaction::new(id, self.generation(&step.store));
        txn.slot = Some(slots(work).first().copied().unwrap_or_else(|| Slot::of_txn(id)));
        txn.at_ms = self.wall_ms;
        Some((step.store.clone(), txn))
    }

    fn act(&mut self, _now: Instant, records: Vec<RecordWrite>) {
        let Some((store, mut txn)) = self.transaction() else { return self.look() };
        let Some((_, step, work, undo)) = self.current() else { return self.look() };
        txn.ops.clone_from(&work.ops);
        txn.messages.clone_from(&work.messages);
        txn.records = records;
        let what = if undo { "undoes" } else { "does" };
        txn.note = format!("{} {what} {:?}", self.id, step.name);
        self.ask(&store, SagaWant::Commit(Box::new(txn)), Doing::Act);
    }

    fn acted(&mut self, now: Instant, done: Result<Receipt, Error>) {
        let Some((_, step, _, _)) = self.current() else { return self.look() };
        let store = step.store.clone();
        self.note_generation(&store, done.as_ref().err());
        match done {
            Ok(receipt) if receipt.ledgers.is_empty() => self.seal(now, None),
            Ok(_) => self.advance(),
            // It was done, or it was made sure that it is not.
            Err(Error::TxnReused(_)) => self.seal(now, None),
            Err(
                error @ (Error::Generation { .. }
                | Error::RecordConflict { .. }
                | Error::Locked { .. }
                | Error::Busy
                | Error::Unavailable(_)
                | Error::Unknown(_)
                | Error::Moved { .. }
                | Error::Moving { .. }
                | Error::Stopped(_)),
            ) => self.trouble(now, error, Next::Drive),
            Err(error) => self.seal(now, Some(error.to_string())),
        }
    }

    /// Uses up the id of the present try. If that is refused, the try was done.
    fn seal(&mut self, now: Instant, why: Option<String>) {
        if self.options.mutant == Some(SagaMutant::RefusedUnsealed)
            && let Some(why) = why
        {
            return self.refused(now, why);
        }
        let Some((store, mut txn)) = self.transaction() else { return self.look() };
        // As whoever else gives up on a transaction says it, so that both are the same.
        "given up".clone_into(&mut txn.note);
        self.ask(&store, SagaWant::Commit(Box::new(txn)), Doing::Seal(why));
    }

    fn sealed(&mut self, now: Instant, why: Option<String>, done: Result<Receipt, Error>) {
        let Some((_, step, _, _)) = self.current() else { return self.look() };
        let store = step.store.clone();
        self.note_generation(&store, done.as_ref().err());
        match done {
            Ok(_) => {
                let why = why.unwrap_or_else(|| "an earlier try of it was refused".to_owned());
                self.refused(now, why);
            }
            Err(Error::TxnReused(_)) => self.advance(),
            Err(error) => self.trouble(now, error, Next::Seal(why)),
        }
    }

    /// The present try is not done, and never will be.
    fn refused(&mut self, now: Instant, mut why: String) {
        let Some(state) = self.state.clone() else { return self.look() };
        let cut = (0..=WHY_BYTES_MAX.min(why.len())).rev().find(|at| why.is_char_boundary(*at));
        why.truncate(cut.unwrap_or(0));
        let phase = match state.phase.clone() {
            Phase::Forward(done, plan) => {
                let (before, rest) = plan.steps.split_at(done as usize);
                let can_undo = before.iter().all(|step| step.undo.is_some());
                let name = rest.first().map(|step| step.name.clone()).unwrap_or_default();
                match (can_undo, done) {
                    (true, 0) => self.ended(SagaEnd::Undone { step: name, why }),
                    (true, _) => Phase::Back(done, plan, name, why),
                    (false, _) => return self.again(now, state),
                }
            }
            _ => return self.again(now, state),
        };
        self.note(State { phase, tries: 0, ..state });
    }

    /// What must be done is tried again, under another id.
    fn again(&mut self, _now: Instant, state: State) {
        let tries = state.tries.saturating_add(1);
        self.note(State { tries, ..state });
    }

    fn ended(&self, end: SagaEnd) -> Phase {
        Phase::Ended(end, self.wall_ms)
    }

    /// The present step is done, or undone.
    fn advance(&mut self) {
        let Some(state) = self.state.clone() else { return self.look() };
        let phase = match state.phase.clone() {
            Phase::Forward(done, plan) => {
                let done = done + 1;
                if done as usize >= plan.steps.len() {
                    self.ended(SagaEnd::Done)
                } else {
                    Phase::Forward(done, plan)
                }
            }
            Phase::Back(left, plan, step, why) => match left.saturating_sub(1) {
                0 => self.ended(SagaEnd::Undone { step, why }),
                left => Phase::Back(left, plan, step, why),
            },
            ended @ Phase::Ended(..) => ended,
        };
        self.note(State { phase, tries: 0, ..state });
    }
}
