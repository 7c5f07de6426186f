//! The entity host: everything that entities of one worker do, and nothing of threads, sockets or
//! Tokio.
//!
//! A [`Host`] is driven by its worker: inputs through `handle_*` and `deliver_*`, then
//! [`turn`](Host::turn) until it has nothing more to do, then outputs through `drain_*` and
//! `poll_*`. Delivery always enqueues; nothing re-enters a handler.

mod away;
mod calls;
mod cycle;
mod daily;
mod event;
mod frames;
pub(crate) mod hub;
mod index;
mod lane;
pub(crate) mod mail;
mod moving;
mod namespaces;
pub(crate) mod people;
mod remote;
pub(crate) mod requests;
mod router;
pub(crate) mod routes;
mod saved;
pub(crate) mod send;
pub(crate) mod shard;
pub(crate) mod sleep;
mod steps;
pub(crate) mod timers;
mod topics;
pub(crate) mod turns;
mod watch;

pub use event::Event;
pub use frames::FrameClass;
pub(crate) use frames::Leaving;
pub use lane::Batch;
pub(crate) use lane::Neighbours;
pub(crate) use moving::Freezing;
pub use people::{ClientMessage, ClientOut, ClientRequest, GroupSlot};
pub use router::{Alone, Place, Router};
pub use shard::{ShardStats, Target};
pub use sleep::{BlockingPool, Inline};
pub use steps::SceneStats;
pub use watch::{BUCKETS_US, Beat, MethodStats, Pulse};

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use env::{Clock, Instant, Random, WallTime};
use proto::frame::{CloseCode, Status};
use proto::link::{Call, Slot, WorkerId};
use proto::{EntityId, Incarnation, KindId};

use crate::cx::{Outside, Peer};
use crate::entity::{Class, Entity, Hook, Hooks, KindInfo};
use crate::error::Fault;
use crate::options::HostOptions;
use crate::placing::{RoomCount, USHER, Usher};
use calls::shard_of;
use cycle::Probe;
use hub::{Hub, Ready};

/// What a host is given by its worker.
pub struct HostSetup {
    /// Which worker of which node.
    pub me: WorkerId,
    /// How many workers the node has.
    pub workers: u8,
    /// For the time that handlers take; `turn` is told the time it works with.
    pub clock: Clock,
    /// Randomness for handlers.
    pub random: Random,
    /// Where entities are that are not here.
    pub router: Rc<dyn Router>,
}

impl HostSetup {
    /// A host on its own, for tests: one worker of one node, everything is here.
    pub fn alone(clock: Clock, seed: u64) -> Self {
        HostSetup {
            me: WorkerId { node: Incarnation(1), worker: 0 },
            workers: 1,
            clock,
            random: Random::from_seed(seed),
            router: Rc::new(Alone),
        }
    }
}

impl fmt::Debug for HostSetup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostSetup").field("me", &self.me).finish_non_exhaustive()
    }
}

/// What became of the wish to have an entity here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// It is here.
    Ready(Target),
    /// It is being loaded; an [`Event::Activated`] will tell.
    Loading,
    /// It is not, and will not be.
    Refused(Status),
}

/// What a host holds and has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HostStats {
    /// By kind, in the order of registration.
    pub kinds: Vec<ShardStats>,
    /// Scenes and what their steps cost.
    pub scenes: Vec<SceneStats>,
    /// Turns that are open.
    pub turns: u32,
    /// Entities and turns that are ready to run.
    pub ready: usize,
    /// Calls to clients that wait for an answer.
    pub client_calls: usize,
    /// Alarms: timers and sleeps.
    pub alarms: usize,
    /// Answers that came after their call was over.
    pub late_replies: u64,
    /// Answers that nobody took.
    pub dropped_replies: u64,
    /// Messages whose caller had given up before they were handled.
    pub expired_mail: u64,
    /// Calls that ran into their deadline.
    pub timeouts: u64,
    /// Messages refused because a limit was reached.
    pub busy: u64,
    /// Messages refused because their sender may not send them.
    pub denied: u64,
    /// Messages refused for their arguments.
    pub bad_arguments: u64,
    /// Calls refused because they would wait on themselves.
    pub cycles: u64,
    /// Probes sent to other workers.
    pub probes: u64,
    /// Handlers that panicked.
    pub panics: u64,
    /// Times that a timer skipped callbacks after a stall.
    pub timer_overruns: u64,
    /// Tells of clients that a newer one replaced.
    pub replaced: u64,
    /// Messages and replies to other nodes that were over the limit.
    pub too_long: u64,
    /// Events that nobody asked for in time.
    pub lost_events: u64,
}

/// The entities of one worker.
pub struct Host {
    hub: Rc<Hub>,
    /// The round that is being run, and how far it is.
    round: Vec<Ready>,
    at: usize,
    /// How much of the round the turn's budget was charged with.
    charged: usize,
    shards: Vec<Rc<dyn shard::AnyShard>>,
    woken: Vec<u32>,
    daily: daily::Daily,
}

impl Host {
    /// A host without kinds.
    pub fn new(options: HostOptions, setup: HostSetup) -> Self {
        let calendar = options.daily.clone();
        let hub = Hub::new(options, setup);
        Host {
            daily: daily::Daily::new(calendar, &hub),
            hub,
            round: Vec::new(),
            at: 0,
            charged: 0,
            shards: Vec::new(),
            woken: Vec::new(),
        }
    }

    /// Offers a kind: its entities may live here. Twice is once.
    ///
    /// # Panics
    ///
    /// If another type has the same kind name or alias.
    pub fn register<E: Entity>(&mut self) {
        self.hub.shard::<E>().hosted.set(true);
        if E::KIND.document {
            self.place_kind(E::KIND.id, E::KIND.store);
        }
        if E::KIND.hooks.has(Hooks::DAILY) {
            self.daily.want();
        }
    }

    /// Offers a kind whose keyed entities, singletons or services `make` makes from their key.
    ///
    /// # Panics
    ///
    /// As [`register`](Self::register).
    pub fn register_with<E: Entity>(&mut self, make: impl Fn(u64) -> Option<E> + 'static) {
        self.register::<E>();
        *self.hub.shard::<E>().factory.borrow_mut() = Some(Rc::new(make));
    }

    /// Who and where it is.
    pub fn me(&self) -> WorkerId {
        self.hub.me
    }

    /// The kinds that are offered here.
    pub fn kinds(&self) -> Vec<&'static KindInfo> {
        let kinds = self.hub.all_shards().into_iter().filter(|shard| shard.is_hosted());
        kinds.map(|shard| shard.kind()).filter(|kind| kind.id != USHER).collect()
    }

    /// The singletons that may be here: of each local kind one for each zone or channel.
    pub(crate) fn singletons(&self) -> Vec<(&'static KindInfo, EntityId)> {
        let kinds = self.kinds().into_iter().filter(|kind| kind.class == Class::Singleton);
        let ids = kinds.flat_map(|kind| {
            let all = self.hub.namespaces.all(kind.scope).iter();
            all.map(move |within| (kind, EntityId::local(kind.id, *within, 0)))
        });
        ids.collect()
    }

    /// Learns which kinds one node alone offers, and by how many workers.
    pub(crate) fn set_sole(&self, node: impl Fn(KindId) -> Option<(Incarnation, u8)>) {
        self.hub.all_shards().into_iter().for_each(|s| s.note_sole(node(s.kind().id)));
    }

    /// Has rooms made here for whoever wants a place, on any worker of the cluster.
    pub(crate) fn open_places(&mut self) {
        self.register::<Usher>();
        let shard = self.hub.shard::<Usher>();
        let key = u64::from(self.hub.me.worker);
        if shard.add(self.hub.me.node, key, Some(Usher::default())).is_err() {
            tracing::error!("nothing can be placed here: no entity fits");
        }
    }

    /// Counts rooms together with the other workers of the node.
    pub(crate) fn share_rooms(&mut self, rooms: Arc<RoomCount>) {
        self.hub.share_rooms(rooms);
    }

    /// Messages that wait for services.
    pub(crate) fn service_mail(&self) -> u32 {
        let shards = self.hub.all_shards().into_iter();
        shards.filter(|shard| shard.kind().class == Class::Service).map(|s| s.stats().mail).sum()
    }

    /// For how long steps of scenes were late, at worst, since this was last asked.
    pub(crate) fn take_tick_lag(&mut self) -> Duration {
        self.hub.scenes.borrow_mut().take_lag()
    }

    /// The way in for server code that is no entity.
    pub fn outside(&self) -> Outside {
        Outside::new(&self.hub)
    }

    // -- running --

    /// Handles what is ready, up to the turn's budget. Gives when to come again: `now` if more is
    /// ready, `None` if only an input can bring something to do.
    pub fn turn(&mut self, now: Instant, wall: WallTime) -> Option<Instant> {
        self.hub.now.set(self.hub.now.get().max(now));
        self.hub.wall.set(wall);
        self.hub.set_in_turn(true);
        self.take_wakes();
        self.hub.sweep();
        self.daily.handle_time(&self.hub);
        self.hub.fire_alarms();
        self.run_scenes();
        if self.ready_count() > 0 {
            self.hub.watch.resume();
        }
        let mut budget = self.hub.options.turn_budget;
        // Around everything that runs game code, so that a handler need not have one each.
        while let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.run_ready(&mut budget))) {
            self.hub.recover(hub::panic_text(&*panic));
        }
        self.hub.watch.pause();
        self.report_slow();
        self.hub.set_in_turn(false);
        self.next_turn()
    }

    fn run_ready(&mut self, budget: &mut u32) {
        loop {
            // Here, because a panic comes back here too.
            *budget = budget.saturating_sub((self.at - self.charged) as u32);
            self.charged = self.at;
            if *budget == 0 || self.at == self.round.len() && !self.next_round() {
                return;
            }
            match self.round[self.at] {
                Ready::Entity { shard, .. } => {
                    let end = self.round.len().min(self.at + *budget as usize);
                    self.shard(shard).run(&self.round[..end], &mut self.at);
                }
                Ready::Turn(turn) => {
                    self.at += 1;
                    self.hub.run_turn(turn);
                }
            }
        }
    }

    /// Takes what became ready meanwhile. `false` if nothing did.
    fn next_round(&mut self) -> bool {
        if self.hub.wakes.is_any() {
            self.take_wakes();
        }
        self.round.clear();
        self.at = 0;
        self.charged = 0;
        std::mem::swap(&mut self.round, &mut *self.hub.ready.borrow_mut());
        !self.round.is_empty()
    }

    /// A shard, from this host's own list.
    #[inline]
    fn shard(&mut self, index: u16) -> Rc<dyn shard::AnyShard> {
        if usize::from(index) >= self.shards.len() {
            self.shards = self.hub.all_shards();
        }
        Rc::clone(&self.shards[usize::from(index)])
    }

    /// Entities and turns that are ready.
    fn ready_count(&self) -> usize {
        self.round.len() - self.at + self.hub.ready.borrow().len()
    }

    /// When [`turn`](Self::turn) has something to do.
    pub fn next_turn(&self) -> Option<Instant> {
        if self.ready_count() > 0 || self.hub.wakes.is_any() {
            return Some(self.hub.now.get());
        }
        let sweep = self.hub.sweep_at.get();
        let sweep = (sweep != Instant::NEVER).then_some(sweep);
        let alarm = self.hub.alarms.borrow().next_deadline();
        let scene = self.hub.scenes.borrow().next();
        let daily = self.daily.poll_timeout(&self.hub);
        [sweep, alarm, scene, daily].into_iter().flatten().min()
    }

    fn run_scenes(&mut self) {
        let now = self.hub.now.get();
        loop {
            let due = self.hub.scenes.borrow_mut().pop(now);
            let Some((target, steps)) = due else { return };
            match self.current(target) {
                Some(shard) => shard.hook(target.index, Hook::Step(steps)),
                None => self.hub.scenes.borrow_mut().remove((target.shard, target.index)),
            }
        }
    }

    fn take_wakes(&mut self) {
        self.hub.wakes.take(&mut self.woken);
        for index in self.woken.drain(..) {
            let turn = self.hub.turns.borrow().at(index).map(|(id, _)| id);
            if let Some(turn) = turn {
                self.hub.wake_turn(turn);
            }
        }
    }

    fn report_slow(&self) {
        for slow in self.hub.watch.take_slow() {
            let shard = self.hub.any_shard(usize::from(slow.shard));
            let method = watch::method_path(shard.kind(), slow.method);
            let id = shard.id_at(slow.entity);
            let kind = shard.kind().name;
            let (took, shared) = (slow.took, slow.shared);
            tracing::warn!(kind, method, ?id, ?took, shared, "a handler took long");
            self.hub.event(Event::Slow { kind, method, id, took, shared });
        }
    }

    /// Has `notify` called when there is something to do that the driver does not know of: a waker
    /// made a turn ready (on any thread), or [`Outside`] sent something between turns.
    pub fn on_wake(&self, notify: Arc<dyn Fn() + Send + Sync>) {
        self.hub.wakes.set_notify(notify);
    }

    /// Has batches for other workers of the node taken to them while they are filled. Without it
    /// they wait for [`poll_batch`](Self::poll_batch).
    pub(crate) fn set_neighbours(&self, neighbours: Rc<dyn Neighbours>) {
        *self.hub.neighbours.borrow_mut() = Some(neighbours);
    }

    /// Has blocking work run on `pool`. Without one it runs in place.
    pub fn set_blocking_pool(&self, pool: Rc<dyn BlockingPool>) {
        *self.hub.pool.borrow_mut() = pool;
    }

    // -- entities --

    /// Where the entity is, if it is here.
    pub fn find(&self, id: EntityId) -> Option<Target> {
        self.hub.shard_of_kind(id.kind)?.target(id)
    }

    /// Has a keyed entity here, for server code such as a login: what a client says never makes
    /// an entity exist.
    pub fn activate(&mut self, id: EntityId) -> Activation {
        let Some(shard) = self.hub.shard_of_kind(id.kind) else {
            return Activation::Refused(Status::NotFound);
        };
        let activated = shard.activate(id);
        // From now on its mail lies in its mailbox, and what waits for it is to lie before that.
        if activated.is_ok() && self.hub.routes.is_coming(id) {
            self.settle_route(id, self.hub.me);
        }
        match activated {
            Ok((target, true)) => Activation::Ready(target),
            Ok((_, false)) => Activation::Loading,
            Err(fault) => Activation::Refused(fault.status()),
        }
    }

    /// The answer to an [`Event::Activate`]: the entity may live here, or why not. Its mail, which
    /// waited, is handled or refused with that status.
    pub fn handle_activated(&mut self, id: EntityId, result: Result<(), Status>) {
        if let Some(shard) = self.hub.shard_of_kind(id.kind) {
            shard.activated(id, result.map_err(Fault::Status));
        }
    }

    /// Ends an entity: queued mail is answered `Gone`, what its open turns wait for fails, and they
    /// run on to their ends, for at most the time of a call. `false` if it is not here.
    pub fn destroy(&mut self, id: EntityId, code: CloseCode) -> bool {
        let Some(shard) = self.hub.shard_of_kind(id.kind) else { return false };
        match shard.target(id) {
            Some(target) => shard.destroy(target.index, code),
            None => false,
        }
    }

    /// Whether an entity is where it was.
    pub(crate) fn is_there(&self, target: Target) -> bool {
        self.current(target).is_some()
    }

    /// Lets an entity go on that was shut off after panics; it starts again. `false` if it was not.
    pub fn lift_quarantine(&mut self, id: EntityId) -> bool {
        self.hub.shard_of_kind(id.kind).is_some_and(|shard| shard.lift_quarantine(id))
    }

    /// Runs a hook of one entity as its next turn.
    pub fn hook(&mut self, target: Target, hook: Hook) {
        if let Some(shard) = self.current(target) {
            shard.hook(target.index, hook);
        }
    }

    /// Runs a hook of every entity that has it: the daily refresh, a reload.
    pub fn hook_all(&mut self, hook: Hook) {
        for shard in self.hub.all_shards() {
            shard.hook_all(hook.clone());
        }
    }

    fn current(&self, target: Target) -> Option<Rc<dyn shard::AnyShard>> {
        let shard = self.hub.shard_at(usize::from(target.shard))?;
        shard.is_current(target).then_some(shard)
    }

    // -- clients --

    /// A message of a client to the entity that its stream is bound to. Who may call is checked
    /// before the arguments are decoded. After `Ok` to a request exactly one
    /// [`ClientOut::Reply`] with its tag follows.
    ///
    /// # Errors
    ///
    /// Why it was not taken; no reply follows.
    #[inline]
    pub fn deliver_client(
        &mut self,
        now: Instant,
        target: Target,
        peer: &Peer,
        message: ClientMessage<'_>,
    ) -> Result<(), Status> {
        self.hub.now.set(self.hub.now.get().max(now));
        if usize::from(target.shard) >= self.shards.len() {
            self.shards = self.hub.all_shards();
        }
        let shard = self.shards.get(usize::from(target.shard)).ok_or(Status::Gone)?;
        shard.deliver_client(target, peer, &message)
    }

    /// A client was bound to the entity, or is connected again.
    pub fn online(&mut self, target: Target, peer: &Peer) {
        if let Some(shard) = self.current(target) {
            shard.bind_peer(target.index, peer, true);
            shard.hook(target.index, Hook::Online(peer.clone()));
        }
    }

    /// A client is away, or its stream has `ended`.
    pub fn offline(&mut self, target: Target, peer: &Peer, code: CloseCode, ended: bool) {
        if let Some(shard) = self.current(target) {
            if ended {
                shard.bind_peer(target.index, peer, false);
            }
            shard.hook(target.index, Hook::Offline(peer.clone(), code));
        }
        self.hub.asker_gone(peer, ended);
        if ended {
            let told = self.hub.clients.borrow_mut().peer_gone(peer.slot());
            told.into_iter().for_each(|waiter| self.hub.tell_waiter(waiter));
            self.hub.end_requests_of(peer);
        }
    }

    /// The answer of a client to a [`ClientOut::Call`]. One that comes too late is counted.
    pub fn client_answered(&mut self, tag: u64, status: Status, body: &[u8]) {
        let result = match status {
            Status::Ok | Status::App => Ok((status, body.to_vec())),
            status => Err(Fault::Status(status)),
        };
        let told = self.hub.clients.borrow_mut().answered(tag, result);
        match told {
            Ok(waiter) => waiter.into_iter().for_each(|waiter| self.hub.tell_waiter(waiter)),
            Err(()) => hub::bump(&self.hub.count.late_replies),
        }
    }

    /// A group that an entity opened could not be opened, or is closed: casts to it are errors from
    /// now on.
    pub fn group_gone(&mut self, group: GroupSlot) {
        self.hub.clients.borrow_mut().group_gone(group);
    }

    /// Gives everything that entities have for clients and sessions to `take`, in order.
    pub fn drain_clients(&mut self, take: impl FnMut(ClientOut<'_>)) {
        self.hub.drain_clients(take);
    }

    // -- other nodes --

    /// A call or tell from another node.
    pub fn handle_call(&mut self, now: Instant, from: WorkerId, call: &Call<'_>) {
        self.hub.now.set(self.hub.now.get().max(now));
        self.hub.handle_call(from, call);
    }

    /// The answer to a call that went to another node.
    pub fn handle_answer(&mut self, call: Slot, status: Status, body: &[u8]) {
        match self.hub.shard_at(shard_of(call.index)) {
            Some(shard) => shard.answer_encoded(call, status, body),
            None => hub::bump(&self.hub.count.late_replies),
        }
    }

    /// The caller of a call from `from` no longer waits.
    pub fn handle_cancel(&mut self, from: WorkerId, call: Slot) {
        self.hub.cancel_remote(from, call);
    }

    /// A probe for a ring of calls came from `from`.
    pub fn handle_probe(
        &mut self,
        from: WorkerId,
        origin: WorkerId,
        call: Slot,
        target: EntityId,
        seen: u64,
    ) {
        self.hub.graph().handle_probe(Probe { from, origin, call, target, seen });
    }

    /// A call of this worker was found to be part of a ring.
    pub fn handle_ring(&mut self, call: Slot) {
        let Some(shard) = self.hub.shard_at(shard_of(call.index)) else { return };
        let Some((_, _, target, _)) = shard.call_info(call.index) else { return };
        let mut below = Vec::new();
        shard.fail_call(call, Fault::Cycle(Box::new([target])), &mut below);
        below.into_iter().for_each(|turn| self.hub.cancel_turn(turn));
    }

    /// A node is dead: calls to its rooms fail with `Gone`, other calls to it with `Timeout`; turns
    /// that it waited for are told.
    pub fn handle_node_down(&mut self, node: Incarnation) {
        for shard in self.hub.all_shards() {
            shard.node_down(node);
        }
        self.hub.cancel_turns_of(node);
    }

    /// Gives all frames for other nodes to `take`: destination, class, payload. It answers whether it took
    /// the frame; a refused call fails with `Busy`, replies must be taken.
    pub fn drain_frames(&mut self, take: impl FnMut(WorkerId, FrameClass, &[u8]) -> bool) {
        let mut take = take;
        self.hub.drain_frames(|leaving| match leaving {
            Leaving::Run { .. } => false,
            Leaving::One { to, class, payload } => take(to, class, payload),
        });
    }

    /// As [`drain_frames`](Self::drain_frames), with frames to one worker together where `take` takes
    /// them so.
    pub(crate) fn drain_runs(&mut self, take: impl FnMut(Leaving<'_>) -> bool) {
        self.hub.drain_frames(take);
    }

    // -- other workers of this node --

    /// The next batch for another worker of this node, and which.
    pub fn poll_batch(&mut self) -> Option<(u8, Batch)> {
        loop {
            let (shard, worker) = self.hub.dirty_lanes.borrow_mut().pop()?;
            let batch = self.hub.any_shard(usize::from(shard)).take_batch(worker);
            if let Some(batch) = batch {
                return Some((worker, batch));
            }
        }
    }

    /// A batch from another worker of this node. Dropping one instead loses its messages; their
    /// callers run into their deadlines.
    pub fn handle_batch(&mut self, now: Instant, batch: Batch) {
        self.hub.now.set(self.hub.now.get().max(now));
        match self.hub.shard_of_kind(batch.kind()) {
            Some(shard) => shard.handle_batch(batch),
            None => tracing::error!(?batch, "a batch for a kind that this worker does not know"),
        }
    }

    // -- everything else --

    /// A message of a topic, for the entities of this worker that listen.
    pub fn handle_publish(&mut self, topic: &str, body: &[u8]) {
        for shard in self.hub.all_shards() {
            shard.publish(topic, body);
        }
    }

    /// The next thing that the driver should know or do.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.hub.events.borrow_mut().pop()
    }

    /// What runs right now, for a watchdog on another thread.
    pub fn pulse(&self) -> Arc<Pulse> {
        Arc::clone(self.hub.watch.pulse())
    }

    /// What the host holds and has seen. Looks at every entity: not for every turn.
    pub fn stats(&self) -> HostStats {
        let (hub, count) = (&*self.hub, &self.hub.count);
        HostStats {
            kinds: hub
                .all_shards()
                .iter()
                .filter(|shard| shard.kind().id != USHER)
                .map(|shard| shard.stats())
                .collect(),
            turns: hub.turns.borrow().open_count(),
            ready: self.ready_count(),
            client_calls: hub.clients.borrow().open_calls(),
            scenes: hub.scenes.borrow().stats(),
            alarms: hub.alarms.borrow().len(),
            late_replies: count.late_replies.get(),
            dropped_replies: count.dropped_replies.get(),
            expired_mail: count.expired_mail.get(),
            timeouts: count.timeouts.get(),
            busy: count.busy.get(),
            denied: count.denied.get(),
            bad_arguments: count.bad_arguments.get(),
            cycles: count.cycles.get(),
            probes: count.probes.get(),
            panics: count.panics.get(),
            timer_overruns: count.timer_overruns.get(),
            replaced: count.replaced.get(),
            too_long: count.too_long.get(),
            lost_events: hub.events.borrow().lost,
        }
    }

    /// What each method cost so far: kind, path, numbers. Methods that were never called are left
    /// out.
    pub fn method_stats(&self) -> Vec<(&'static str, String, MethodStats)> {
        let mut all = Vec::new();
        for (index, shard) in self.hub.all_shards().iter().enumerate() {
            let kind = shard.kind();
            let methods = (0..kind.methods.len() as u16).chain([mail::HOOK]);
            for method in methods {
                let (handled, refused) = (shard.handled(method), shard.refused(method));
                if handled + refused > 0 {
                    let stats = self.hub.watch.stats(index as u16, method, handled);
                    let stats = MethodStats { refused, ..stats };
                    all.push((kind.name, watch::method_path(kind, method), stats));
                }
            }
        }
        all
    }

    /// Whether nothing is under way: no mail, no turns, no calls.
    pub fn is_quiet(&self) -> bool {
        let stats = self.stats();
        let busy = |kind: &ShardStats| kind.mail > 0 || kind.calls > 0;
        stats.turns == 0 && stats.ready == 0 && !stats.kinds.iter().any(busy)
    }

    /// How long a call waits unless it says otherwise.
    pub fn call_wait(&self) -> Duration {
        self.hub.options.call_wait
    }

    /// How a kind comes into being, if it is known here.
    pub fn class_of(&self, kind: KindId) -> Option<Class> {
        self.hub.shard_of_kind(kind).map(|shard| shard.kind().class)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.shards.clear();
        self.hub.clear();
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("me", &self.hub.me).finish_non_exhaustive()
    }
}
