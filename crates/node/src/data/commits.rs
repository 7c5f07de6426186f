//! Transactions of one worker: sent once, looked up if nobody knows what became of them.

use std::collections::BTreeMap;

use env::Instant;
use proto::EntityId;
use store::{
    Error, Holdings, Key, LedgerOp, Patch, Receipt, Refusal, SagaEnd, SagaError, Save, Transaction,
    TxnId,
};

use super::ask::{Ask, key_of};
use super::deal::Deal;
use super::keeper::{Act, Flight, Keeper};
use super::options::Mutant;
use super::records::{RecordAsk, RecordError, RecordTold};

/// Why a transaction was not done. Each variant says what the caller can do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// The ledger's rules do not allow it: tell whoever asked.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The ledger of `holder` is at another version than the deal names: read and decide again.
    #[error("the ledger of {holder} is at version {current}")]
    Moved {
        /// The holder.
        holder: Key,
        /// Its ledger version.
        current: u64,
    },
    /// Of the records that are written with it.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// One of the entities whose claims the deal shows has another owner by now, or none: ask it
    /// again.
    #[error("the claim on {0} has ended")]
    Stale(Key),
    /// The calling entity itself is not this node's any more: finish quickly, nothing counts.
    #[error("this node does not own the entity any more")]
    Lost,
    /// What it concerns is kept in two stores, and one transaction is in one of them. Nothing was
    /// done: make a saga of it, with a step in each.
    #[error(
        "the deal concerns what is in {} and what is in {}: no deal goes over two stores, make a \
         saga of it (`cx.saga`), with a step in each",
        name_store(.first),
        name_store(.second)
    )]
    TwoStores {
        /// One of them; empty: the default one.
        first: String,
        /// The other.
        second: String,
    },
    /// Its documents were being written another way: try again.
    #[error("the documents were changed meanwhile")]
    Conflict,
    /// Nothing was done: the store is away or has too much to do. Try later.
    #[error("the store cannot be reached now")]
    Unavailable,
    /// A mistake in the deal that another try does not mend.
    #[error("the deal cannot be: {0}")]
    Invalid(String),
    /// It may have been done or not: look the id up once the store is back; never make another.
    #[error("nobody knows what became of {0}")]
    Unknown(TxnId),
}

fn name_store(name: &str) -> String {
    if name.is_empty() { "the default store".to_owned() } else { format!("the store {name:?}") }
}

/// A transaction that an entity wants done.
#[derive(Debug)]
pub(crate) struct CommitRequest {
    pub tag: u64,
    /// The number of the store that it is done in.
    pub store: usize,
    /// Whose claim it shows.
    pub who: Option<EntityId>,
    pub deal: Deal,
    /// What of its documents had changed before the turn that asks: it is saved in any case.
    pub shown: Patch,
    /// What of the entity's documents is written with it.
    pub patch: Option<Patch>,
    pub at_ms: u64,
}

/// A transaction under way.
#[derive(Debug)]
pub(crate) struct CommitFlight {
    txn: Box<Transaction>,
    who: Option<EntityId>,
    writes: Option<Written>,
    since: Instant,
    was_unknown: bool,
    /// Why it is not to be done, while the store is told so.
    given_up: Option<CommitError>,
    pub(super) attempts: u32,
}

/// What a transaction writes of the entity that asks.
#[derive(Debug)]
struct Written {
    epoch: u64,
    /// What waited to be saved anyway.
    pending: Patch,
    /// All that is written.
    patch: Patch,
}

/// What became of it.
#[derive(Debug)]
pub(crate) enum CommitOutcome {
    Done(Result<Receipt, CommitError>),
    Held(Result<Holdings, Error>),
    Record(Result<RecordTold, Error>),
    Saga(Result<SagaEnd, SagaError>),
}

impl Keeper {
    /// An entity wants a transaction done. One [`Act::Deliver`] with its tag follows.
    pub fn handle_commit(&mut self, now: Instant, mut request: CommitRequest) {
        if let Some(owned) = request.who.and_then(|id| self.owned(id)) {
            owned.pending.append(&mut request.shown);
        }
        if self.commits.len() >= self.options.commits_max {
            if let (Some(id), Some(_)) = (request.who, request.patch) {
                self.acts.push_back(Act::Written(id, false));
                self.handle_touched(now, id);
            }
            return self.deliver(request.tag, Err(CommitError::Unavailable));
        }
        let Some(id) = request.who else { return self.send_commit(now, request, None) };
        let Some(owned) = self.owned(id).filter(|owned| !owned.is_leaving()) else {
            return self.deliver(request.tag, Err(CommitError::Lost));
        };
        if request.patch.is_some() {
            let tag = request.tag;
            // What waits so far goes along, under what the transaction writes; what comes later is
            // newer and waits for its own turn.
            request.shown = std::mem::take(&mut owned.pending);
            owned.commits.push_back(request);
            self.write(now, id);
            if self.commit_until(now) <= now {
                self.queued_too_long(now, id, tag);
            } else if self.owned(id).is_some_and(|owned| !owned.commits.is_empty()) {
                self.queued.push_back((now + self.options.commit_wait, id, tag));
            }
        } else {
            self.send_commit(now, request, None);
        }
    }

    /// A transaction that was never sent fails, if it waits still: the save before it gets no answer.
    pub(super) fn queued_too_long(&mut self, now: Instant, id: EntityId, tag: u64) {
        let Some(owned) = self.owned(id) else { return };
        let Some(at) = owned.commits.iter().position(|request| request.tag == tag) else { return };
        let shown = owned.commits.remove(at).map(|request| request.shown);
        owned.put_back(at, shown.unwrap_or_default());
        self.acts.push_back(Act::Written(id, false));
        self.handle_touched(now, id);
        self.deliver(tag, Err(CommitError::Unavailable));
    }

    /// Somebody wants to know what a holder has.
    pub fn handle_holdings(&mut self, tag: u64, holder: Key) {
        self.asks.push_back(Ask::Holdings(tag, holder));
    }

    /// Somebody wants something of records.
    pub fn handle_record(&mut self, tag: u64, ask: RecordAsk) {
        self.asks.push_back(Ask::Record(tag, ask));
    }

    /// The entity's turn to be written by a transaction has come.
    pub(super) fn commit_writes(&mut self, now: Instant, id: EntityId, mut request: CommitRequest) {
        let Some(owned) = self.owned(id) else { return };
        let pending = std::mem::take(&mut request.shown);
        let mut patch = pending.clone();
        patch.extend(request.patch.clone().unwrap_or_default());
        owned.flight = Flight::Commit;
        let save = Save { claim: owned.claim, version: owned.version, patch };
        self.send_commit(now, request, Some((save, pending)));
    }

    fn send_commit(&mut self, now: Instant, request: CommitRequest, write: Option<(Save, Patch)>) {
        let CommitRequest { tag, who, deal, at_ms, .. } = request;
        let own = who.and_then(|id| self.claim(id)).filter(|_| write.is_none());
        let is_transit = |op: &LedgerOp| {
            matches!(
                op,
                LedgerOp::SendItem { .. }
                    | LedgerOp::ReceiveItem { .. }
                    | LedgerOp::Send { .. }
                    | LedgerOp::Receive { .. }
            )
        };
        let generation = match self.generation() {
            _ if deal.ops.iter().any(is_transit) => Err(CommitError::Invalid(
                "only a saga sends off and receives: use `cx.saga`".to_owned(),
            )),
            Some(now) if deal.generation.is_none_or(|read| read == now) => Ok(now),
            Some(_) => Err(CommitError::Record(RecordError::FailedOver)),
            None => Err(CommitError::Unavailable),
        };
        let mut txn = Transaction::new(deal.id, *generation.as_ref().unwrap_or(&0));
        let mut claims = BTreeMap::new();
        for claim in own.into_iter().chain(deal.claims) {
            claims.insert(claim.key, claim);
        }
        let writes = write.map(|(save, pending)| {
            claims.remove(&save.claim.key);
            let written = Written { epoch: save.claim.epoch, pending, patch: save.patch.clone() };
            txn.writes.push(save);
            written
        });
        txn.claims = claims.into_values().collect();
        txn.ledgers = deal.ledgers;
        txn.records = deal.records;
        txn.ops = deal.ops;
        txn.messages = deal.messages;
        txn.note = deal.note;
        txn.at_ms = at_ms;
        let (was_unknown, given_up, attempts) = (false, None, 0);
        let txn = Box::new(txn);
        let ask = Ask::Commit(tag, txn.clone());
        let flight = CommitFlight { txn, who, writes, since: now, was_unknown, given_up, attempts };
        self.commits.insert(tag, flight);
        match generation {
            Ok(_) => self.asks.push_back(ask),
            Err(error) => self.settle(now, tag, Err(error)),
        }
    }

    pub(super) fn committed(&mut self, now: Instant, tag: u64, result: Result<Receipt, Error>) {
        let believes = self.options.mutant != Some(Mutant::UnknownIsFailure);
        let Some(since) = self.commits.get(&tag).map(|flight| flight.since) else { return };
        let until = self.commit_until(since);
        let Some(flight) = self.commits.get_mut(&tag) else { return };
        if flight.given_up.is_some() {
            return self.gave_up(now, tag, result);
        }
        let (was_unknown, id) = (flight.was_unknown, flight.txn.id);
        let outcome = match result {
            Ok(receipt) => Ok(receipt),
            Err(Error::Unknown(_)) if believes => {
                flight.was_unknown = true;
                return self.try_later(now, tag);
            }
            Err(Error::Busy | Error::Unavailable(_)) if was_unknown => {
                return self.try_later(now, tag);
            }
            Err(Error::Unavailable(_)) if now < until => return self.try_later(now, tag),
            Err(
                error @ (Error::Busy
                | Error::Stopped(_)
                | Error::Unavailable(_)
                | Error::Unknown(_)),
            ) => {
                self.note_stop(&error);
                // Once it was sent without an answer, nothing but the store itself can tell.
                Err(if was_unknown { CommitError::Unknown(id) } else { CommitError::Unavailable })
            }
            Err(error) => Err(self.why_not(now, tag, error)),
        };
        let is_sure = self.options.mutant == Some(Mutant::RefusedTooEarly);
        match outcome {
            // The first try may still come, when what stood in its way is gone.
            Err(error @ CommitError::Refused(_)) if was_unknown && !is_sure => {
                if let Some(flight) = self.commits.get_mut(&tag) {
                    flight.given_up = Some(error);
                    self.give_up(now, tag);
                }
            }
            outcome => self.settle(now, tag, outcome),
        }
    }

    /// Uses up the id of a transaction that is not to be done, so that no late try of it is.
    fn give_up(&mut self, now: Instant, tag: u64) {
        let Some(flight) = self.commits.get(&tag) else { return };
        let id = flight.txn.id;
        let Some(generation) = self.generation() else {
            return self.settle(now, tag, Err(CommitError::Unknown(id)));
        };
        let mut nothing = Transaction::new(id, generation);
        nothing.note = "given up".to_owned();
        nothing.at_ms = flight.txn.at_ms;
        self.asks.push_back(Ask::Commit(tag, Box::new(nothing)));
    }

    /// What became of giving up.
    fn gave_up(&mut self, now: Instant, tag: u64, result: Result<Receipt, Error>) {
        let Some(flight) = self.commits.get_mut(&tag) else { return };
        let (id, error) = (flight.txn.id, flight.given_up.clone());
        match result {
            Ok(_) => self.settle(now, tag, Err(error.unwrap_or(CommitError::Unavailable))),
            // It was done after all, or its shard takes no late tries any more.
            Err(Error::TxnReused(_)) => {
                flight.given_up = None;
                self.asks.push_back(Ask::LookUp(tag, id));
            }
            Err(Error::Generation { .. }) => {
                self.failed_over(now);
                self.asks.push_back(Ask::LookUp(tag, id));
            }
            Err(Error::Stopped(_)) => self.settle(now, tag, Err(CommitError::Unknown(id))),
            Err(_) => self.try_later(now, tag),
        }
    }

    fn why_not(&mut self, now: Instant, tag: u64, error: Error) -> CommitError {
        let who = self.commits.get(&tag).and_then(|flight| flight.who);
        match error {
            Error::Refused(refusal) => CommitError::Refused(refusal),
            Error::LedgerMoved { holder, current } => CommitError::Moved { holder, current },
            Error::Fenced { key, .. } => match who.filter(|id| key_of(*id) == key) {
                Some(id) => {
                    self.lose(id);
                    CommitError::Lost
                }
                None => CommitError::Stale(key),
            },
            Error::Conflict { .. } => CommitError::Conflict,
            Error::Generation { .. } => {
                self.failed_over(now);
                CommitError::Lost
            }
            error @ (Error::RecordConflict { .. }
            | Error::Taken { .. }
            | Error::Locked { .. }
            | Error::LockLost(_)) => CommitError::Record(error.into()),
            other => CommitError::Invalid(other.to_string()),
        }
    }

    pub(super) fn looked_up(
        &mut self,
        now: Instant,
        tag: u64,
        result: Result<Option<Receipt>, Error>,
    ) {
        let Some(flight) = self.commits.get_mut(&tag) else { return };
        match (result, flight.given_up.take()) {
            (Ok(Some(receipt)), _) => self.settle(now, tag, Ok(receipt)),
            (Ok(None), Some(error)) => self.settle(now, tag, Err(error)),
            // It carries its id, so that it cannot be done twice.
            (Ok(None), None) => {
                let again = Ask::Commit(tag, flight.txn.clone());
                self.asks.push_back(again);
            }
            (Err(error @ Error::Stopped(_)), _) => {
                let id = flight.txn.id;
                self.note_stop(&error);
                self.settle(now, tag, Err(CommitError::Unknown(id)));
            }
            (Err(_), given_up) => {
                flight.given_up = given_up;
                self.try_later(now, tag);
            }
        }
    }

    fn try_later(&mut self, now: Instant, tag: u64) {
        let Some(flight) = self.commits.get_mut(&tag) else { return };
        flight.attempts += 1;
        let attempts = flight.attempts - 1;
        let at = now + self.backoff(attempts);
        self.commit_timers.insert((at, tag));
        self.note_stalled_commits(now);
    }

    pub(super) fn retry_commit(&mut self, now: Instant, tag: u64) {
        let Some(flight) = self.commits.get(&tag) else { return };
        if flight.given_up.is_some() {
            self.give_up(now, tag);
        } else if flight.was_unknown {
            self.stats.looked_up += 1;
            let ask = Ask::LookUp(tag, flight.txn.id);
            self.asks.push_back(ask);
        } else {
            let again = Ask::Commit(tag, flight.txn.clone());
            self.asks.push_back(again);
        }
    }

    /// The end of a transaction: the entity that it writes goes on.
    fn settle(&mut self, now: Instant, tag: u64, outcome: Result<Receipt, CommitError>) {
        let Some(flight) = self.commits.remove(&tag) else { return };
        if let (Some(id), Some(written)) = (flight.who, flight.writes)
            && let Some(owned) = self.owned_under(id, written.epoch)
        {
            owned.flight = Flight::None;
            let is_stored = match &outcome {
                Ok(receipt) => {
                    owned.version = receipt.versions.get(&key_of(id)).copied().unwrap_or(0);
                    self.write(now, id);
                    true
                }
                Err(CommitError::Unknown(_)) => {
                    self.resolve(now, id, written.patch);
                    true
                }
                Err(CommitError::Conflict) => {
                    self.resolve(now, id, written.pending);
                    false
                }
                Err(_) => {
                    self.write_later(id, written.pending, now);
                    self.write(now, id);
                    false
                }
            };
            self.acts.push_back(Act::Written(id, is_stored));
            if !is_stored {
                // What the handler leaves of its change is saved like any other, once it is done.
                self.handle_touched(now, id);
            }
        }
        self.deliver(tag, outcome);
    }

    pub(super) fn deliver(&mut self, tag: u64, outcome: Result<Receipt, CommitError>) {
        match outcome {
            Ok(_) => self.stats.committed += 1,
            Err(_) => self.stats.commit_errors += 1,
        }
        self.acts.push_back(Act::Deliver(tag, CommitOutcome::Done(outcome)));
    }
}
