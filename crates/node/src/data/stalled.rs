//! What waits for a store that is away goes on as soon as that answers again.

use std::collections::BTreeSet;
use std::time::Duration;

use env::Instant;
use proto::EntityId;
use store::Error;

use super::ask::Told;
use super::keeper::{Entry, Keeper, State};

/// What failed because the store did not answer.
#[derive(Debug, Default)]
pub(super) struct Stalled {
    ids: BTreeSet<EntityId>,
    /// Whether transactions wait for another try.
    commits: bool,
    /// When it was tried again last because the store answered, and how often of late.
    woken: Option<Instant>,
    times: u32,
}

impl Stalled {
    fn is_empty(&self) -> bool {
        self.ids.is_empty() && !self.commits
    }

    /// Something failed. After a calm time answers count for much again.
    fn note(&mut self, now: Instant, calm: Duration) {
        if self.is_empty() && self.woken.is_none_or(|at| now.since(at) >= calm) {
            self.times = 0;
        }
    }
}

impl Told {
    /// Whether the store did what it was asked for, so that it is there.
    pub(super) fn is_answer(&self) -> bool {
        match self {
            Told::Activated(each) => each.iter().any(|(_, result)| result.is_ok()),
            Told::Saved(_, _, result) => result.is_ok(),
            Told::Released(_, _, result) => result.is_ok(),
            Told::Loaded(_, _, result) => result.is_ok(),
            Told::Committed(_, result) => result.is_ok(),
            Told::LookedUp(_, result) => result.is_ok(),
            Told::Held(_, result) => result.is_ok(),
            Told::Record(_, result) => result.is_ok(),
        }
    }
}

impl Keeper {
    /// A request about an entity failed with `error`, and is to be tried again.
    pub(super) fn note_stalled(&mut self, now: Instant, id: EntityId, error: &Error) {
        // One that has too much to do answers, so its pauses are needed.
        if !matches!(error, Error::Unavailable(_) | Error::Unknown(_)) {
            return;
        }
        self.stalled.note(now, 2 * self.options.retry_max);
        self.stalled.ids.insert(id);
    }

    /// A transaction is to be tried again, or its outcome looked up.
    pub(super) fn note_stalled_commits(&mut self, now: Instant) {
        self.stalled.note(now, 2 * self.options.retry_max);
        self.stalled.commits = true;
    }

    /// The store answers: what failed while it was away is tried again at once. Another shard may
    /// still be away, so that this happens more and more seldom while it does not help.
    pub(super) fn store_answers(&mut self, now: Instant) {
        let (first, longest) = (self.options.retry_first, self.options.retry_max);
        let stalled = &mut self.stalled;
        if stalled.is_empty() {
            return;
        }
        if let Some(woken) = stalled.woken.filter(|_| stalled.times > 0) {
            let pause = first.saturating_mul(1 << (stalled.times - 1).min(16)).min(longest);
            if now.since(woken) < pause {
                return;
            }
        }
        stalled.woken = Some(now);
        stalled.times += 1;
        let is_first = stalled.times == 1;
        if std::mem::take(&mut stalled.commits) {
            for (_, tag) in std::mem::take(&mut self.commit_timers) {
                if let Some(flight) = self.commits.get_mut(&tag).filter(|_| is_first) {
                    flight.attempts = 0;
                }
                self.retry_commit(now, tag);
            }
        }
        for id in std::mem::take(&mut self.stalled.ids) {
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            if let Entry { state: State::Owned(_), timer: Some(_), attempts } = entry {
                if is_first {
                    *attempts = 0;
                }
                self.set_timer(id, None);
                self.fire(now, id);
            }
        }
    }
}
