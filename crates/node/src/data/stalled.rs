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
    /// Since when nothing was answered but that the store is away.
    away: Option<Instant>,
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

    /// Whether the store was away for it.
    fn is_away(&self) -> bool {
        let error = match self {
            Told::Activated(each) => each.iter().find_map(|(_, result)| result.as_ref().err()),
            Told::Saved(_, _, result) => result.as_ref().err(),
            Told::Released(_, _, result) => result.as_ref().err(),
            Told::Loaded(_, _, result) => result.as_ref().err(),
            Told::Committed(_, result) => result.as_ref().err(),
            Told::LookedUp(_, result) => result.as_ref().err(),
            Told::Held(_, result) => result.as_ref().err(),
            Told::Record(_, result) => result.as_ref().err(),
        };
        matches!(error, Some(Error::Unavailable(_) | Error::Unknown(_)))
    }
}

impl Keeper {
    /// Learns from an answer whether the store is there.
    pub(super) fn note_answer(&mut self, now: Instant, told: &Told) {
        if told.is_answer() {
            self.store_answers(now);
        } else if told.is_away() {
            self.stalled.away.get_or_insert(now);
        }
    }

    /// Until when a transaction that was asked for at `since` waits for a store that is away. One that has
    /// been away for longer than that holds up nobody else.
    pub(super) fn commit_until(&self, since: Instant) -> Instant {
        self.stalled.away.map_or(since, |away| away.min(since)) + self.options.commit_wait
    }

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
        stalled.away = None;
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

#[cfg(test)]
mod tests {
    use store::TxnId;

    use super::super::ask::Ask;
    use super::super::commits::{CommitOutcome, CommitRequest};
    use super::super::deal::Deal;
    use super::super::keeper::Act;
    use super::super::options::Options;
    use super::*;

    /// Has a transaction done of a store that says all the time that it is away; gives how long it took to say so.
    fn commit(keeper: &mut Keeper, mut now: Instant, tag: u64) -> Duration {
        let began = now;
        let deal = Deal::new(TxnId(u128::from(tag)), "a hat");
        let (store, who, shown, patch) = (0, None, Default::default(), None);
        keeper.handle_commit(now, CommitRequest { tag, store, who, deal, shown, patch, at_ms: 0 });
        loop {
            while let Some(Ask::Commit(tag, _)) = keeper.poll_ask() {
                let away = Error::Unavailable("broken pipe".to_owned());
                keeper.handle_told(now, Told::Committed(tag, Err(away)));
            }
            while let Some(act) = keeper.poll_act() {
                if let Act::Deliver(_, CommitOutcome::Done(result)) = act {
                    assert!(result.is_err());
                    return now.since(began);
                }
            }
            now = keeper.poll_timeout().expect("it is tried again");
            keeper.handle_timeout(now);
        }
    }

    #[test]
    fn a_store_that_has_been_away_for_long_holds_nobody_up() {
        let mut keeper =
            Keeper::new(Options::default(), proto::Incarnation(1), env::Random::from_seed(1));
        let now = Instant::ZERO + Duration::from_secs(100);
        keeper.handle_pulse(now, now, 1);
        let wait = Options::default().commit_wait;
        assert!(commit(&mut keeper, now, 1) >= wait, "it may come back at once");
        assert_eq!(commit(&mut keeper, now + wait, 2), Duration::ZERO);
        let later = now + wait + wait;
        keeper.handle_pulse(later, later, 1);
        assert!(commit(&mut keeper, later, 3) >= wait, "it was there meanwhile");
    }
}
