//! Mail between the workers of one node: typed, never encoded, in batches.
//!
//! A batch goes from one worker to another for one kind: its messages, and apart from them the
//! answers, cancellations and probes, which no limit refuses. How batches travel is the driver's
//! business; how many messages may be under way is counted here.

use std::any::Any;
use std::fmt;
use std::mem;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use env::Instant;
use proto::link::{Slot, WorkerId};
use proto::{EntityId, Incarnation, KindId};

use super::cycle::{Probe, Walk};
use super::hub::bump;
use super::mail::{Body, Mail, Origin, RemoteOrigin, Sender};
use super::shard::{BUSY, CLOSING, Cells, QUARANTINED, Shard, hash};
use crate::entity::Entity;
use crate::error::Fault;

/// One message on its way to another worker.
pub(crate) struct Parcel<M> {
    pub home: Incarnation,
    pub key: u64,
    pub call: Option<Slot>,
    pub sender: Sender,
    pub deadline: Instant,
    pub chain: Box<[EntityId]>,
    pub message: M,
}

/// What waits to go to one worker. Its memory travels with it, and comes back with what that
/// worker sends.
pub(crate) struct Lane<E: Entity> {
    parcels: Vec<Parcel<E::Message>>,
    replies: Vec<(Slot, Result<E::Reply, Fault>)>,
    cancels: Vec<Slot>,
    probes: Vec<Probe>,
    /// Of entities that moved away from there; behind all messages before them.
    markers: Vec<(EntityId, u64)>,
    dirty: bool,
}

/// What a shard has for the other workers of its node.
#[expect(clippy::vec_box, reason = "the boxes travel")]
pub(crate) struct Lanes<E: Entity> {
    /// By worker.
    to: Vec<Box<Lane<E>>>,
    /// Empty ones that came from other workers.
    spare: Vec<Box<Lane<E>>>,
}

/// Takes batches to the other workers of the node while the turn that fills them goes on.
pub(crate) trait Neighbours {
    /// Whether `worker` is awake, so that it can begin with a part of what it will be told.
    fn is_awake(&self, worker: u8) -> bool;
    /// Takes a batch to it.
    fn post(&self, worker: u8, batch: Batch);
}

/// Messages and answers after which a neighbour that is awake is given what there is. One that
/// sleeps is woken once, at the end of the turn.
const POST_AFTER: usize = 32;

/// Most empty lanes that a shard keeps.
const SPARE_MAX: usize = 8;

/// Most messages, and answers, that an empty lane keeps room for.
const LANE_KEEP: usize = 1_024;

impl<E: Entity> Lanes<E> {
    pub fn new() -> Self {
        Lanes { to: Vec::new(), spare: Vec::new() }
    }

    pub fn clear(&mut self) {
        *self = Lanes::new();
    }

    /// Keeps the memory of an empty lane for what is sent next.
    fn keep(&mut self, mut lane: Box<Lane<E>>) {
        if self.spare.len() < SPARE_MAX {
            lane.parcels.shrink_to(LANE_KEEP);
            lane.replies.shrink_to(LANE_KEEP);
            lane.dirty = false;
            self.spare.push(lane);
        }
    }
}

impl<E: Entity> Lane<E> {
    fn new() -> Self {
        Lane {
            parcels: Vec::new(),
            replies: Vec::new(),
            cancels: Vec::new(),
            probes: Vec::new(),
            markers: Vec::new(),
            dirty: false,
        }
    }
}

/// How full the queue to one worker is: each side counts for itself, so that a message costs no
/// atomic write.
#[derive(Default)]
pub(crate) struct Depth {
    /// Messages put into the queue.
    sent: u32,
    /// Messages that have arrived or were lost, as the other side counts.
    arrived: Arc<AtomicU32>,
}

impl Depth {
    fn waiting(&self) -> u32 {
        self.sent.wrapping_sub(self.arrived.load(Ordering::Relaxed))
    }
}

/// Messages and answers from one worker for one kind, on their way to another worker of the node.
pub struct Batch {
    from: WorkerId,
    kind: KindId,
    load: Box<dyn Any + Send>,
    /// Given back when the messages have arrived, or were lost.
    credit: Credit,
}

/// Room in the queue between two workers, taken by messages under way.
struct Credit {
    arrived: Arc<AtomicU32>,
    taken: u32,
}

impl Drop for Credit {
    fn drop(&mut self) {
        self.arrived.fetch_add(self.taken, Ordering::Relaxed);
    }
}

impl Batch {
    /// The worker that it comes from.
    pub fn from(&self) -> WorkerId {
        self.from
    }

    /// How many messages are in it, answers not counted.
    pub fn messages(&self) -> u32 {
        self.credit.taken
    }

    pub(crate) fn kind(&self) -> KindId {
        self.kind
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("from", &self.from)
            .field("kind", &self.kind)
            .field("messages", &self.credit.taken)
            .finish_non_exhaustive()
    }
}

impl<E: Entity> Shard<E> {
    #[inline(always)]
    fn with_lane<R>(&self, worker: u8, with: impl FnOnce(&mut Lane<E>) -> R) -> R {
        let mut lanes = self.lanes.borrow_mut();
        let at = usize::from(worker);
        if lanes.to.len() <= at {
            lanes.to.resize_with(at + 1, || Box::new(Lane::new()));
        }
        let lane = &mut lanes.to[at];
        if !mem::replace(&mut lane.dirty, true) {
            self.hub.dirty_lanes.borrow_mut().push((self.index, worker));
        }
        with(lane)
    }

    /// Posts what waits for `worker`, if that is enough and it is awake.
    #[inline(never)]
    fn post_early(&self, worker: u8) {
        let neighbours = self.hub.neighbours.borrow().clone();
        if let Some(neighbours) = neighbours
            && neighbours.is_awake(worker)
            && let Some(batch) = self.batch_for(worker)
        {
            neighbours.post(worker, batch);
        }
    }

    /// Takes room for one message to `worker`.
    pub fn reserve_lane(&self, worker: u8) -> Result<(), Fault> {
        let mut depths = self.hub.depths.borrow_mut();
        let at = usize::from(worker);
        if depths.len() <= at {
            depths.resize_with(at + 1, Depth::default);
        }
        let depth = &mut depths[at];
        if depth.waiting() >= self.hub.options.worker_queue_max {
            bump(&self.hub.count.busy);
            return Err(Fault::BUSY);
        }
        depth.sent = depth.sent.wrapping_add(1);
        Ok(())
    }

    #[inline(always)]
    pub fn lane_call(&self, worker: u8, parcel: Parcel<E::Message>) {
        let is_enough = self.with_lane(worker, |lane| {
            lane.parcels.push(parcel);
            lane.parcels.len().is_multiple_of(POST_AFTER)
        });
        if is_enough {
            self.post_early(worker);
        }
    }

    #[inline(always)]
    pub fn lane_reply(&self, worker: u8, call: Slot, result: Result<E::Reply, Fault>) {
        let is_enough = self.with_lane(worker, |lane| {
            lane.replies.push((call, result));
            lane.replies.len().is_multiple_of(POST_AFTER)
        });
        if is_enough {
            self.post_early(worker);
        }
    }

    pub fn lane_cancel(&self, worker: u8, call: Slot) {
        self.with_lane(worker, |lane| lane.cancels.push(call));
    }

    pub fn lane_probe(&self, worker: u8, probe: Probe) {
        self.with_lane(worker, |lane| lane.probes.push(probe));
    }

    pub fn lane_marker(&self, worker: u8, id: EntityId, number: u64) {
        self.with_lane(worker, |lane| lane.markers.push((id, number)));
    }

    /// Takes what waits for `worker`.
    pub fn batch_for(&self, worker: u8) -> Option<Batch> {
        let mut lanes = self.lanes.borrow_mut();
        let lanes = &mut *lanes;
        let lane = lanes.to.get_mut(usize::from(worker))?;
        if !lane.dirty {
            return None;
        }
        let empty = lanes.spare.pop().unwrap_or_else(|| Box::new(Lane::new()));
        let full = mem::replace(lane, empty);
        let taken = full.parcels.len() as u32;
        let arrived = match self.hub.depths.borrow().get(usize::from(worker)) {
            Some(depth) => Arc::clone(&depth.arrived),
            // Nothing was sent: there are only answers.
            None => Arc::default(),
        };
        let credit = Credit { arrived, taken };
        Some(Batch { from: self.hub.me, kind: E::KIND.id, load: full, credit })
    }

    /// Takes in what another worker sent.
    pub fn accept_batch(self: &Rc<Self>, batch: Batch) {
        let Batch { from, load, credit, .. } = batch;
        let Ok(mut lane) = load.downcast::<Lane<E>>() else {
            tracing::error!(kind = E::KIND.name, "a batch of another type with this kind's name");
            return;
        };
        // Answers first: whoever waits has the older claim.
        for (call, result) in lane.replies.drain(..) {
            match result {
                Ok(reply) if !self.hub.options.encode_all => self.settle_reply(call, reply),
                result => self.complete(call, result),
            }
        }
        for parcel in lane.parcels.drain(..) {
            self.accept_parcel(from, parcel);
        }
        for (id, number) in lane.markers.drain(..) {
            self.hub.handle_marker(from, id, number);
        }
        for call in lane.cancels.drain(..) {
            self.hub.cancel_remote(from, call);
        }
        for probe in lane.probes.drain(..) {
            self.hub.graph().handle_probe(probe);
        }
        drop(credit);
        self.lanes.borrow_mut().keep(lane);
    }

    fn accept_parcel(self: &Rc<Self>, from: WorkerId, parcel: Parcel<E::Message>) {
        let Parcel { home, key, call, sender, deadline, chain, message } = parcel;
        let origin = match call {
            Some(_) => {
                let sender = None;
                let remote = RemoteOrigin { from, call, deadline, sender, chain };
                Origin::Remote(self.hub.keep_origin(remote))
            }
            None => Origin::Tell,
        };
        let method = E::method(&message) as u16;
        let target = EntityId { kind: E::KIND.id, home, key };
        self.accept_far(target, from, message, (origin, sender, method));
    }

    /// Puts what another worker sent into its mailbox, or answers why not.
    #[inline(always)]
    pub fn accept_far(
        self: &Rc<Self>,
        target: EntityId,
        from: WorkerId,
        message: E::Message,
        (origin, sender, method): (Origin, Sender, u16),
    ) {
        let EntityId { home, key, .. } = target;
        let mut cells = self.cells.borrow_mut();
        let Cells { slots, room, ids, .. } = &mut *cells;
        let found = ids.find(hash(home, key), |index| {
            let slot = &slots[index as usize];
            slot.key == key && slot.home == home
        });
        // The usual case, an idle entity that is here, at the price of one look.
        if let Some(index) = found
            && let slot = &mut slots[index as usize]
            && slot.flags & (BUSY | CLOSING | QUARANTINED) == 0
            && slot.mailbox.len < self.limits.mailbox_max
            && room.len() < self.hub.options.mail_max
        {
            room.push_with(&mut slot.mailbox, |node| node.put_far(message, origin, sender, method));
            self.make_ready(slot, index);
            return;
        }
        drop(cells);
        let body = Body::Message(message);
        self.accept_mail(target, from, Mail { origin, sender, body, method });
    }

    /// Puts mail from another worker into its mailbox, or answers why not.
    pub fn accept_mail(self: &Rc<Self>, target: EntityId, from: WorkerId, mail: Mail<E>) {
        let Some(mail) = self.send_on(target, from, mail) else { return };
        let taken = self.find_or_activate(target).and_then(|index| {
            let cells = self.cells.borrow();
            self.accepts(&cells, index)?;
            Ok((index, cells.slots[index as usize].flags & BUSY != 0))
        });
        match taken {
            Err(fault) => self.answer(mail.origin, Err(fault)),
            Ok((index, busy)) => {
                let walk = match (&mail.origin, busy) {
                    (Origin::Remote(remote), true) => self.walk_behind(index, remote.call),
                    _ => None,
                };
                let origin = match (&mail.origin, walk.is_some()) {
                    (Origin::Remote(remote), true) => remote.call.map(|call| (remote.from, call)),
                    _ => None,
                };
                self.push(&mut self.cells.borrow_mut(), index, mail);
                if let (Some(walk), Some((from, call))) = (walk, origin) {
                    self.probe_on(&walk, from, call);
                }
            }
        }
    }

    /// What a call from another worker would wait for behind a busy entity.
    fn walk_behind(self: &Rc<Self>, index: u32, call: Option<Slot>) -> Option<Walk> {
        call?;
        let first = crate::host::shard::AnyShard::exclusive_turn(&**self, index)?;
        self.hub.graph().walk(first, None).ok()
    }
}
