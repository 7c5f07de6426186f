//! How changes are saved: collected in time, written in order, tried again.

use std::time::Duration;

use env::Instant;
use proto::EntityId;
use proto::frame::Status;
use store::{Entity, Error, Patch, Save};

use super::ask::Ask;
use super::keeper::{Act, Entry, Flight, Keeper, State};
use super::moving::Leaving;
use super::options::Mutant;
use super::report::Trouble;

/// For how long a slow save makes the next ones begin earlier.
const SLOW_FOR: Duration = Duration::from_secs(30);

impl Keeper {
    /// How long a change waits for others: so that it is written before its time is over, even if
    /// it has to wait for a batch that is being written and then takes as long itself.
    pub(super) fn save_wait(&self) -> Duration {
        let (window, (slowest, _)) = (self.options.save_after, self.slowest);
        window - (2 * slowest).clamp(window / 10, window / 2)
    }

    pub(super) fn collect(&mut self, id: EntityId) {
        if self.owned(id).is_some_and(|owned| owned.queued) {
            self.acts.push_back(Act::Collect(id));
        }
    }

    /// Does the next thing that there is to do about an entity, one request at a time.
    pub(super) fn write(&mut self, now: Instant, id: EntityId) {
        let releases_first = self.options.mutant == Some(Mutant::ReleasedUnsaved);
        let Some(owned) = self.owned(id) else { return };
        let skips = releases_first && owned.leaving;
        if !matches!(owned.flight, Flight::None) || owned.retry_at.is_some_and(|at| at > now) {
            return;
        }
        if let Some(request) = owned.commits.pop_front() {
            return self.commit_writes(now, id, request);
        }
        if !owned.pending.is_empty() && !skips {
            let patch = std::mem::take(&mut owned.pending);
            let save = Save { claim: owned.claim, version: owned.version, patch: patch.clone() };
            owned.flight = Flight::Save(patch);
            owned.sent = now;
            self.asks.push_back(Ask::Save(id, save));
            return;
        }
        if owned.queued {
            return;
        }
        owned.unsaved = None;
        self.all_written(id);
        let Some(owned) = self.owned(id) else { return };
        if owned.leaving {
            owned.flight = Flight::Release;
            let ask = Ask::Release(id, owned.claim, owned.version);
            self.asks.push_back(ask);
        }
        self.count(id, 0);
    }

    pub(super) fn saved(
        &mut self,
        now: Instant,
        id: EntityId,
        epoch: u64,
        result: Result<u64, Error>,
    ) {
        let Some(owned) = self.owned_under(id, epoch) else { return };
        let Flight::Save(patch) = std::mem::replace(&mut owned.flight, Flight::None) else {
            return;
        };
        match result {
            Ok(version) => {
                owned.version = version;
                owned.poisoned = false;
                owned.retry_at = None;
                let took = now.since(owned.sent);
                if owned.queued {
                    // What came since waits no longer than for its own turn.
                    owned.unsaved = Some(now);
                }
                self.took(now, took);
                self.stats.saved += 1;
                self.stats.saved_bytes += bytes_of(&patch) as u64;
                self.entries.entry(id).and_modify(|entry| entry.attempts = 0);
                self.write(now, id);
            }
            Err(error) => {
                self.stats.save_errors += 1;
                self.not_saved(now, id, patch, &error);
            }
        }
    }

    fn took(&mut self, now: Instant, took: Duration) {
        let (slowest, at) = self.slowest;
        if took >= slowest || now.since(at) > SLOW_FOR {
            self.slowest = (took, now);
        }
    }

    fn not_saved(&mut self, now: Instant, id: EntityId, patch: Patch, error: &Error) {
        match error {
            Error::Fenced { .. } => self.lose(id),
            Error::Generation { .. } => self.failed_over(now),
            Error::Dead(_) => self.handle_dead(now),
            Error::Unknown(_) | Error::Conflict { .. } => {
                self.note_stop(error);
                if let Some(owned) = self.owned(id) {
                    owned.flight = Flight::Resolve(patch);
                }
                let pause = self.pause(id);
                self.set_timer(id, Some(now + pause));
                self.note_stalled(now, id, error);
            }
            Error::Busy | Error::Stopped(_) | Error::Unavailable(_) => {
                self.note_stop(error);
                self.note_stalled(now, id, error);
                let pause = self.pause(id);
                self.write_later(id, patch, now + pause);
            }
            other => {
                let problem = other.to_string();
                let pause = self.options.poison_retry;
                self.write_later(id, patch, now + pause);
                if let Some(owned) = self.owned(id)
                    && !std::mem::replace(&mut owned.poisoned, true)
                {
                    // It must not hold up the others.
                    self.count(id, 0);
                    self.trouble(Trouble::Poisoned { id, problem });
                }
            }
        }
    }

    /// What was not written waits; newer values of it stay.
    pub(super) fn write_later(&mut self, id: EntityId, patch: Patch, at: Instant) {
        let Some(owned) = self.owned(id) else { return };
        owned.put_back(0, patch);
        owned.retry_at = Some(at);
        self.set_timer(id, Some(at));
    }

    /// Reads what became of a write, for [`Flight::Resolve`].
    pub(super) fn resolve(&mut self, now: Instant, id: EntityId, patch: Patch) {
        if let Some(owned) = self.owned(id) {
            owned.flight = Flight::Resolve(patch);
            self.set_timer(id, Some(now));
        }
    }

    pub(super) fn loaded(
        &mut self,
        now: Instant,
        id: EntityId,
        epoch: u64,
        result: Result<Option<Entity>, Error>,
    ) {
        let me = self.me;
        let Some(owned) = self.owned_under(id, epoch) else { return };
        let Flight::Resolve(patch) = std::mem::replace(&mut owned.flight, Flight::None) else {
            return;
        };
        match result {
            Ok(Some(found)) => {
                let owner = found.owner;
                if owner.epoch != epoch || owner.incarnation != me {
                    return self.lose(id);
                }
                if owner.released {
                    // Only this worker could have given it back.
                    return self.given_back(now, id);
                }
                // Written or not: whole values may be written once more.
                owned.version = found.version;
                owned.put_back(0, patch);
                self.write(now, id);
            }
            Ok(None) => self.lose(id),
            Err(error) => {
                owned.flight = Flight::Resolve(patch);
                self.note_stop(&error);
                let pause = self.pause(id);
                self.set_timer(id, Some(now + pause));
                self.note_stalled(now, id, &error);
            }
        }
    }

    pub(super) fn released(
        &mut self,
        now: Instant,
        id: EntityId,
        epoch: u64,
        result: Result<(), Error>,
    ) {
        let Some(owned) = self.owned_under(id, epoch) else { return };
        if !matches!(owned.flight, Flight::Release) {
            return;
        }
        owned.flight = Flight::None;
        match result {
            Ok(()) | Err(Error::Fenced { .. }) => self.given_back(now, id),
            Err(error) => self.not_saved(now, id, Patch::new(), &error),
        }
    }

    fn given_back(&mut self, now: Instant, id: EntityId) {
        if self.owned(id).is_some_and(|owned| owned.moving == Leaving::Releasing) {
            self.acts.push_back(Act::Released(id));
        }
        let found = self.owned(id).map(|owned| (owned.wanted_again, owned.unreadable));
        let (wanted, unreadable) = found.unwrap_or_default();
        self.stats.released += 1;
        self.forget(id);
        if unreadable {
            // Another release may have it meanwhile; here it would only be read in vain again.
            let until = now + self.options.poison_retry;
            let state = State::Refused { until, status: Status::Failed, unsure: false };
            self.entries.insert(id, Entry { state, timer: None, attempts: 0 });
            self.set_timer(id, Some(until));
        }
        if wanted {
            self.handle_activate(now, id);
        }
    }
}

fn bytes_of(patch: &Patch) -> usize {
    patch.iter().map(|(name, bytes)| name.len() + bytes.as_ref().map_or(0, Vec::len)).sum()
}
