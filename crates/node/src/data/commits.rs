//! Transactions of one worker: sent once, looked up if nobody knows what became of them.

use std::collections::BTreeMap;

use env::Instant;
use proto::EntityId;
use store::{Error, Holdings, Key, Patch, Receipt, Refusal, Save, Transaction, TxnId};

use super::ask::{Ask, key_of};
use super::deal::Deal;
use super::keeper::{Act, Flight, Keeper};
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

/// A transaction that an entity wants done.
#[derive(Debug)]
pub(crate) struct CommitRequest {
    pub tag: u64,
    /// Whose claim it shows.
    pub who: Option<EntityId>,
    pub deal: Deal,
    /// What of the entity's documents is written with it.
    pub patch: Option<Patch>,
    pub at_ms: u64,
}

/// A transaction under way.
#[derive(Debug)]
pub(crate) struct CommitFlight {
    txn: Box<Transaction>,
    who: Option<EntityId>,
    /// The epoch and documents, if it writes the entity.
    writes: Option<(u64, Patch)>,
    was_unknown: bool,
    attempts: u32,
}

/// What became of it.
#[derive(Debug)]
pub(crate) enum CommitOutcome {
    Done(Result<Receipt, CommitError>),
    Held(Result<Holdings, Error>),
    Record(Result<RecordTold, Error>),
}

impl Keeper {
    /// An entity wants a transaction done. One [`Act::Deliver`] with its tag follows.
    pub fn handle_commit(&mut self, now: Instant, request: CommitRequest) {
        if self.commits.len() >= self.options.commits_max {
            if let (Some(id), Some(patch)) = (request.who, request.patch) {
                self.write_later(id, patch, now);
            }
            return self.deliver(request.tag, Err(CommitError::Unavailable));
        }
        let Some(id) = request.who else { return self.send_commit(request, None) };
        let Some(owned) = self.owned(id).filter(|owned| !owned.is_leaving()) else {
            return self.deliver(request.tag, Err(CommitError::Lost));
        };
        if request.patch.is_some() {
            owned.commits.push_back(request);
            self.write(now, id);
        } else {
            self.send_commit(request, None);
        }
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
    pub(super) fn commit_writes(&mut self, _now: Instant, id: EntityId, request: CommitRequest) {
        let Some(owned) = self.owned(id) else { return };
        // What still waits to be saved goes along, under what the transaction writes.
        let mut patch = std::mem::take(&mut owned.pending);
        patch.extend(request.patch.clone().unwrap_or_default());
        owned.flight = Flight::Commit;
        let save = Save { claim: owned.claim, version: owned.version, patch };
        self.send_commit(request, Some(save));
    }

    fn send_commit(&mut self, request: CommitRequest, write: Option<Save>) {
        let CommitRequest { tag, who, deal, at_ms, .. } = request;
        let own = who.and_then(|id| self.claim(id)).filter(|_| write.is_none());
        let generation = match self.generation() {
            Some(now) if deal.generation.is_none_or(|read| read == now) => Ok(now),
            Some(_) => Err(CommitError::Record(RecordError::FailedOver)),
            None => Err(CommitError::Unavailable),
        };
        let generation = match generation {
            Ok(generation) => generation,
            Err(error) => {
                let patch = write.map(|save| (save.claim.epoch, save.patch));
                let flight = CommitFlight::new(Transaction::new(deal.id, 0), who, patch);
                self.commits.insert(tag, flight);
                return self.settle(tag, Err(error));
            }
        };
        let mut txn = Transaction::new(deal.id, generation);
        let writes = write.as_ref().map(|save| (save.claim.epoch, save.patch.clone()));
        let mut claims = BTreeMap::new();
        for claim in own.into_iter().chain(deal.claims) {
            claims.insert(claim.key, claim);
        }
        if let Some(save) = write {
            claims.remove(&save.claim.key);
            txn.writes.push(save);
        }
        txn.claims = claims.into_values().collect();
        txn.ledgers = deal.ledgers;
        txn.records = deal.records;
        txn.ops = deal.ops;
        txn.messages = deal.messages;
        txn.note = deal.note;
        txn.at_ms = at_ms;
        self.asks.push_back(Ask::Commit(tag, Box::new(txn.clone())));
        self.commits.insert(tag, CommitFlight::new(txn, who, writes));
    }

    pub(super) fn committed(&mut self, now: Instant, tag: u64, result: Result<Receipt, Error>) {
        let Some(flight) = self.commits.get_mut(&tag) else { return };
        let (was_unknown, id) = (flight.was_unknown, flight.txn.id);
        let outcome = match result {
            Ok(receipt) => Ok(receipt),
            Err(Error::Unknown(_)) => {
                flight.was_unknown = true;
                return self.look_up_later(now, tag);
            }
            Err(Error::Busy | Error::Unavailable(_)) if was_unknown => {
                return self.look_up_later(now, tag);
            }
            Err(error @ (Error::Busy | Error::Unavailable(_) | Error::Stopped(_))) => {
                self.note_stop(&error);
                // Once it was sent without an answer, nothing but the store itself can tell.
                Err(if was_unknown { CommitError::Unknown(id) } else { CommitError::Unavailable })
            }
            Err(error) => Err(self.why_not(now, tag, error)),
        };
        self.settle_at(now, tag, outcome);
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
            error @ (Error::RecordConflict { .. } | Error::Locked { .. } | Error::LockLost(_)) => {
                CommitError::Record(error.into())
            }
            other => CommitError::Invalid(other.to_string()),
        }
    }

    pub(super) fn looked_up(
        &mut self,
        now: Instant,
        tag: u64,
        result: Result<Option<Receipt>, Error>,
    ) {
        let Some(flight) = self.commits.get(&tag) else { return };
        match result {
            Ok(Some(receipt)) => self.settle_at(now, tag, Ok(receipt)),
            // It carries its id, so that it cannot be done twice.
            Ok(None) => {
                let again = Ask::Commit(tag, flight.txn.clone());
                self.asks.push_back(again);
            }
            Err(error @ Error::Stopped(_)) => {
                let id = flight.txn.id;
                self.note_stop(&error);
                self.settle_at(now, tag, Err(CommitError::Unknown(id)));
            }
            Err(_) => self.look_up_later(now, tag),
        }
    }

    fn look_up_later(&mut self, now: Instant, tag: u64) {
        let Some(flight) = self.commits.get_mut(&tag) else { return };
        flight.attempts += 1;
        let attempts = flight.attempts - 1;
        let at = now + self.backoff(attempts);
        self.commit_timers.insert((at, tag));
    }

    pub(super) fn retry_commit(&mut self, tag: u64) {
        let Some(flight) = self.commits.get(&tag) else { return };
        self.stats.looked_up += 1;
        let ask = Ask::LookUp(tag, flight.txn.id);
        self.asks.push_back(ask);
    }

    fn settle(&mut self, tag: u64, outcome: Result<Receipt, CommitError>) {
        self.settle_at(Instant::ZERO, tag, outcome);
    }

    /// The end of a transaction: the entity that it writes goes on.
    fn settle_at(&mut self, now: Instant, tag: u64, outcome: Result<Receipt, CommitError>) {
        let Some(flight) = self.commits.remove(&tag) else { return };
        let unknown = matches!(outcome, Err(CommitError::Unknown(_) | CommitError::Conflict));
        if let (Some(id), Some((epoch, patch))) = (flight.who, flight.writes)
            && let Some(owned) = self.owned_under(id, epoch)
        {
            owned.flight = Flight::None;
            match &outcome {
                Ok(receipt) => {
                    owned.version = receipt.versions.get(&key_of(id)).copied().unwrap_or(0);
                    self.write(now, id);
                }
                Err(_) if unknown => self.resolve(now, id, patch),
                // What the handler changed stays changed in memory, so it is saved all the same.
                Err(_) => {
                    self.write_later(id, patch, now);
                    self.write(now, id);
                }
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

impl CommitFlight {
    fn new(txn: Transaction, who: Option<EntityId>, writes: Option<(u64, Patch)>) -> Self {
        CommitFlight { txn: Box::new(txn), who, writes, was_unknown: false, attempts: 0 }
    }
}
