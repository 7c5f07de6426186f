//! Carries what the entities want of the store, and what the store says.

use env::Instant;
use proto::link::{LinkFrame, WorkerId};
use proto::{EntityId, Incarnation};

use super::links::Links;
use super::{Report, Worker};
use crate::data::{Act, Ask, CommitOutcome, Keeper, Life, Options, SagaWish, Sagas, Stats, Told};
use crate::session::Outlet;

/// What a worker keeps entities with.
#[derive(Clone, Debug, Default)]
pub struct DataParts {
    /// Limits and waits.
    pub options: Options,
    /// The names of the stores beside the default one. Their numbers are 1 and so on, the default
    /// one's is 0.
    pub stores: Vec<String>,
}

impl Worker {
    /// What keeps that entity, if there are stores.
    pub(super) fn keeper_of(&mut self, id: EntityId) -> Option<&mut Keeper> {
        let store = self.host.store_of(id.kind);
        self.keepers.get_mut(store)
    }

    /// The next request to the default store, to be answered by [`handle_told`](Self::handle_told).
    pub fn poll_ask(&mut self) -> Option<Ask> {
        self.poll_ask_of(0)
    }

    /// The next request to the store of that number, to be answered by
    /// [`handle_told_by`](Self::handle_told_by).
    pub fn poll_ask_of(&mut self, store: usize) -> Option<Ask> {
        let ask = self.keepers.get_mut(store)?.poll_ask();
        ask.or_else(|| self.sagas.as_mut()?.poll_ask(store))
    }

    /// An answer of the default store.
    pub fn handle_told(&mut self, now: Instant, told: Told) {
        self.handle_told_by(now, 0, told);
    }

    /// An answer of the store of that number.
    pub fn handle_told_by(&mut self, now: Instant, store: usize, told: Told) {
        let told = match (told, &mut self.sagas) {
            (Told::Record(tag, told), Some(sagas)) if Sagas::is_ours(tag) => {
                return sagas.handle_told(now, self.host.wall(), tag, told);
            }
            (told, _) => told,
        };
        if let Some(keeper) = self.keepers.get_mut(store) {
            keeper.handle_told(now, told);
        }
    }

    /// What is known of this node's life, as the default store has it.
    pub fn handle_life(&mut self, now: Instant, life: Life) {
        self.handle_life_by(now, 0, life);
    }

    /// What is known of this node's life, as the store of that number has it.
    pub fn handle_life_by(&mut self, now: Instant, store: usize, life: Life) {
        let Some(keeper) = self.keepers.get_mut(store) else { return };
        match life {
            Life::Alive(sent, generation) => keeper.handle_pulse(now, sent, generation),
            Life::Dead => keeper.handle_dead(now),
            Life::Away => keeper.handle_store_away(now),
            Life::Known(nodes) => keeper.handle_known(nodes),
            Life::Buried(_) | Life::MassDeath(_) | Life::Doubt(_) => {}
        }
    }

    /// What its entities in the store are at.
    pub(crate) fn data_stats(&self) -> Stats {
        let now = self.host.now();
        self.keepers.iter().fold(Stats::default(), |sum, keeper| sum.and(keeper.stats(now)))
    }

    /// Whether all is saved and given back.
    pub fn is_saved(&self) -> bool {
        self.keepers.iter().all(Keeper::is_idle)
    }

    /// How many entities have changes that are not saved.
    pub fn unsaved(&self) -> usize {
        self.keepers.iter().map(Keeper::unsaved).sum()
    }

    /// Looks at the clock before anything is handled: a node that the store has not heard of lets
    /// nothing happen.
    pub(super) fn mind_the_store(&mut self, now: Instant) {
        for (store, keeper) in self.keepers.iter_mut().enumerate() {
            keeper.handle_timeout(now);
            self.host.hold(store, keeper.is_parked());
        }
    }

    /// Other nodes came or went.
    pub(super) fn note_listed(&mut self, now: Instant) {
        let directory = self.directory();
        let others = directory.nodes().filter(|info| info.incarnation != self.me.node);
        let keeping = others.filter(|info| !info.kinds.is_empty()).map(|info| info.incarnation);
        let keeping: Vec<Incarnation> = keeping.collect();
        for keeper in &mut self.keepers {
            keeper.handle_listed(now, keeping.iter().copied());
        }
    }

    /// Tells all other nodes that the store does not answer here.
    fn tell_away(&mut self, now: Instant) {
        let directory = self.directory();
        let others = directory.nodes().filter(|info| info.incarnation != self.me.node);
        for info in others.filter(|info| !info.kinds.is_empty()) {
            for worker in 0..info.workers {
                let to = WorkerId { node: info.incarnation, worker };
                let mut out = Links { mesh: &mut self.mesh, now, unsent: &mut self.unsent };
                out.control(to, &LinkFrame::StoreAway);
            }
        }
    }

    /// Another node does not reach the store.
    pub(super) fn handle_store_away(&mut self, now: Instant, node: Incarnation) {
        if let Some(keeper) = self.keepers.first_mut() {
            keeper.handle_away(now, node);
            self.report(Report::StoreAway(node));
        }
    }

    /// Asks a node for an entity that stands as its own in the store, if it belongs here.
    pub(super) fn ask_back(&mut self, now: Instant, id: EntityId, node: Incarnation) {
        let directory = self.directory();
        let Some(info) = directory.node(node) else { return };
        let to = WorkerId { node, worker: id.worker(info.workers) };
        let mut out = Links { mesh: &mut self.mesh, now, unsent: &mut self.unsent };
        out.control(to, &LinkFrame::GiveBack { entity: id });
    }

    /// Another node was asked for an entity that stands as this one's in the store. If both think that
    /// it belongs there, it moves; else the other is told that it is here.
    pub(super) fn handle_give_back(&mut self, now: Instant, from: WorkerId, id: EntityId) {
        let Some(keeper) = self.keeper_of(id) else { return };
        if keeper.handle_give_back(id) {
            self.is_asked_for(now, from, id);
        }
    }

    /// Carries wishes to the keeper and its acts to the host. Gives whether there were acts.
    pub(super) fn carry_data(&mut self, now: Instant) -> bool {
        if self.keepers.is_empty() {
            return self.host.refuse_wishes();
        }
        while let Some(id) = self.host.poll_touched() {
            let store = self.host.store_of(id.kind);
            self.keepers[store].handle_touched(now, id);
        }
        let wishes = self.host.take_wishes();
        for request in wishes.commits {
            self.keepers[request.store].handle_commit(now, request);
        }
        for (tag, holder) in wishes.readings {
            let store = self.host.store_of_holder(holder);
            self.keepers[store].handle_holdings(tag, holder);
        }
        for (tag, store, ask) in wishes.records {
            let store = ask.entity().map_or(store, |key| self.host.store_of_holder(key));
            self.keepers[store].handle_record(tag, ask);
        }
        let mut acted = self.carry_sagas(now, wishes.sagas);
        for store in 0..self.keepers.len() {
            // What was just asked for goes out with this turn.
            self.keepers[store].handle_timeout(now);
            acted |= self.carry_acts(now, store);
        }
        acted
    }

    /// Carries what sagas want. Gives whether some ended.
    fn carry_sagas(&mut self, now: Instant, wishes: Vec<SagaWish>) -> bool {
        let mut acted = false;
        if let Some(sagas) = &mut self.sagas {
            let is_due = sagas.poll_timeout().is_some_and(|at| at <= now);
            if is_due || !wishes.is_empty() {
                let wall = self.host.wall();
                sagas.set_amends(self.host.amends());
                for wish in wishes {
                    sagas.handle_wish(now, wall, wish);
                }
                sagas.handle_timeout(now, wall);
            }
            while let Some((tag, end)) = sagas.poll_end() {
                acted = true;
                self.host.deliver_outcome(tag, CommitOutcome::Saga(end));
            }
        }
        acted
    }

    /// Has done with the entities what their keeper wants. Gives whether it wanted anything.
    fn carry_acts(&mut self, now: Instant, store: usize) -> bool {
        let (mut acted, mut tells_away) = (false, false);
        while let Some(act) = self.keepers[store].poll_act() {
            acted = true;
            match act {
                Act::Load(id, documents, claim) => {
                    let Some((documents, claim)) = self.load_moving(now, id, (documents, claim))
                    else {
                        continue;
                    };
                    if let Err(problem) = self.host.handle_loaded(id, documents, claim) {
                        self.keepers[store].handle_unreadable(now, id, problem);
                    }
                }
                Act::Refuse(id, status) => {
                    if !self.refuse_moving(now, id) {
                        self.host.handle_activated(id, Err(status));
                    }
                }
                Act::Collect(id) => {
                    let found = self.host.collect(id);
                    self.keepers[store].handle_collected(now, id, found);
                }
                Act::Evict(id) => self.host.evict(id),
                Act::Deliver(tag, outcome) => self.host.deliver_outcome(tag, outcome),
                Act::Elsewhere(id, node) => self.stands_elsewhere(now, id, node),
                Act::Saved(id, claim) => self.saved_moving(now, id, claim),
                Act::Released(id) => self.released_moving(now, id),
                // One worker speaks for its node, of the default store.
                Act::TellAway => tells_away = self.me.worker == 0 && store == 0,
                Act::Written(id, is_stored) => self.host.written(id, is_stored),
            }
        }
        let keeper = &mut self.keepers[store];
        let troubles: Vec<_> = std::iter::from_fn(|| keeper.poll_trouble()).collect();
        troubles.into_iter().for_each(|trouble| self.report(Report::Data(trouble)));
        if tells_away {
            self.tell_away(now);
        }
        acted
    }
}
