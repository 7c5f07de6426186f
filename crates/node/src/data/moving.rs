//! Entities that move to another node: saved and given back there, taken here; and such that stand as
//! another node's, which is asked for them.

use env::Instant;
use proto::EntityId;
use proto::frame::Status;

use super::keeper::{Act, Flight, Keeper, State, Want};
use super::sheets::{Changes, Found};

/// How far an entity's way to another node is, as its keeper has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaving {
    /// It stays.
    No,
    /// It is frozen; what changed is being saved.
    Saving,
    /// All is saved, and nothing will change.
    Saved,
    /// It is being given back.
    Releasing,
}

impl Keeper {
    /// Whether entities may come here now.
    pub fn takes(&self) -> bool {
        self.generation().is_some() && !self.is_closed() && !self.is_parked()
    }

    /// Whether this node has the entity, and it does not leave.
    pub fn holds(&self, id: EntityId) -> bool {
        self.claim(id).is_some()
    }

    /// The entities that this node has, in order.
    pub fn held(&self) -> Vec<EntityId> {
        let mut ids: Vec<EntityId> =
            self.entries.keys().copied().filter(|id| self.holds(*id)).collect();
        ids.sort_unstable();
        ids
    }

    /// An entity is frozen: what changed is saved, and [`Act::Saved`] tells when that is done.
    pub fn handle_frozen(&mut self, now: Instant, id: EntityId, changes: Changes) {
        let Some(owned) = self.owned(id) else { return };
        owned.moving = Leaving::Saving;
        self.handle_collected(now, id, Some(Found::All(changes, false)));
    }

    /// A frozen entity goes on as before.
    pub fn handle_thawed(&mut self, id: EntityId) {
        if let Some(owned) = self.owned(id) {
            owned.moving = Leaving::No;
        }
    }

    /// Gives a frozen entity back, all of which is saved; [`Act::Released`] tells when that is done.
    pub fn handle_release(&mut self, now: Instant, id: EntityId) {
        if let Some(owned) = self.owned(id) {
            owned.moving = Leaving::Releasing;
            owned.leaving = true;
            self.write(now, id);
        }
    }

    /// Takes a frozen entity again, of which another node may know: under a new epoch, so that the
    /// other cannot take it for what it was.
    pub fn handle_retake(&mut self, now: Instant, id: EntityId) {
        let Some(owned) = self.owned(id) else { return self.handle_activate(now, id) };
        if !matches!(owned.flight, Flight::None) {
            return;
        }
        let reclaim = Some(owned.claim.epoch);
        self.count(id, 0);
        self.set_timer(id, None);
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.state = State::Wanted(Want { reclaim, ..Want::default() });
            self.wanted.push_back(id);
        }
    }

    /// There is nothing more to be written of an entity: what follows if it is on its way.
    pub(super) fn all_written(&mut self, id: EntityId) {
        let Some(owned) = self.owned(id) else { return };
        if owned.moving == Leaving::Saving {
            owned.moving = Leaving::Saved;
            let claim = owned.claim;
            self.acts.push_back(Act::Saved(id, claim));
        }
    }

    /// The entity stands as another node's, which may give it: it is asked for again until then.
    pub(super) fn stands_elsewhere(
        &mut self,
        now: Instant,
        id: EntityId,
        (want, owner): (Want, proto::Incarnation),
    ) {
        let until = want.until.unwrap_or(now + self.options.activate_wait);
        if !want.abandoned {
            self.acts.push_back(Act::Elsewhere(id, owner));
        }
        if want.abandoned || now >= until {
            // It is not left alone for long: it may be free in a moment.
            self.entries.entry(id).and_modify(|entry| entry.attempts = 0);
            return self.refuse(now, id, Status::Unavailable, want.abandoned);
        }
        let pause = self.pause(id).min(self.options.retry_first * 4);
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.state = State::Elsewhere(Want { until: Some(until), reclaim: None, ..want });
        }
        self.set_timer(id, Some((now + pause).min(until)));
    }

    /// The entity may be free by now: it is asked for at once.
    pub fn handle_free(&mut self, now: Instant, id: EntityId) {
        if let Some(State::Elsewhere(_)) = self.entries.get(&id).map(|entry| &entry.state) {
            self.fire(now, id);
        }
    }

    /// How long an entity is waited for that stands as another node's.
    pub fn expect(&mut self, id: EntityId, until: Instant) {
        let state = self.entries.get_mut(&id).map(|entry| &mut entry.state);
        if let Some(State::Wanted(want) | State::Asked(want) | State::Elsewhere(want)) = state {
            want.until = Some(until);
        }
    }

    /// Nobody waits for the entity here any more.
    pub fn handle_given_up(&mut self, now: Instant, id: EntityId) {
        self.handle_gone(now, id, None);
    }
}
