//! Streams that move with their entity to another worker: the client sees the same streams, with the
//! same numbers.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use env::{FastMap, Instant};
use proto::frame::CloseCode;
use proto::link::{
    Check, HomeFrame, LinkFrame, Slot, WorkerId, put_slot, put_worker, read_slot, read_up,
    read_worker,
};
use proto::stream::Inbound;
use proto::{
    AccountId, EntityId, Incarnation, MethodId, Reader, SessionId, WireError, put_blob, put_varint,
};

use super::kept::Kept;
use super::ports::{Entities, PeerInfo};
use super::stream::{Latest, Link, Rare, Stream};
use super::streams::{Entry, Streams, find_mut};
use super::{Mutant, Outlet, Places, Scope};

/// Most frames kept for the streams of one entity that is on its way.
const LATE_MAX: usize = 4_096;
/// Most streams known that have gone.
const GONE_MAX: usize = 1 << 16;
/// For how long they are known.
const GONE_KEEP: Duration = Duration::from_secs(60);
/// How long a frame that came ahead of others waits for them.
const EARLY_WAIT: Duration = Duration::from_secs(2);
/// Most such frames of one stream.
const EARLY_MAX: usize = 256;
/// Most former owners of a stream whose clients' frames are taken.
const ROUTES_MAX: usize = 8;
/// Limits of what is read.
const NAME_BYTES_MAX: usize = 256;
const FRAME_BYTES_MAX: usize = 1 << 20;
const ITEMS_MAX: u64 = 1 << 16;

/// Names a stream wherever it is.
type Name = (SessionId, u32);

/// What a worker knows of streams that are on their way, have gone, or have just come.
#[derive(Debug, Default)]
pub(super) struct Moving {
    /// Frames for the streams of entities that are frozen: who sent them, and for which stream.
    late: FastMap<EntityId, Vec<(WorkerId, Slot, Vec<u8>)>>,
    gone: FastMap<Name, Gone>,
    gone_slots: FastMap<Slot, Name>,
    gone_routes: FastMap<(u32, u32), Name>,
    order: VecDeque<(Instant, Name, Slot, u32)>,
    /// Streams that came lately: until then frames may come ahead of others.
    settling: VecDeque<(Instant, Slot)>,
}

/// Where a stream went.
#[derive(Clone, Copy, Debug)]
struct Gone {
    entity: EntityId,
    to: WorkerId,
    until: Instant,
    home: WorkerId,
    account: AccountId,
}

/// What a stream has while frames come to it by two ways.
#[derive(Debug, Default)]
pub(super) struct Settling(Option<Box<Moved>>);

/// What most streams, which have never moved, need no place for.
#[derive(Debug, Default)]
struct Moved {
    /// The names of its connection where it was: slots at those owners.
    routes: Vec<(WorkerId, Slot)>,
    /// Frames that came ahead of others, with their numbers.
    early: Vec<(u64, Vec<u8>)>,
    until: Option<Instant>,
}

impl Settling {
    /// A stream that came with these names of its connection, and waits until then.
    fn new(routes: Vec<(WorkerId, Slot)>, until: Instant) -> Self {
        Settling(Some(Box::new(Moved { routes, early: Vec::new(), until: Some(until) })))
    }

    fn routes(&self) -> &[(WorkerId, Slot)] {
        self.0.as_ref().map_or(&[], |moved| &moved.routes)
    }

    /// Whether frames may still come by another way.
    pub fn waits(&self) -> bool {
        self.0.as_ref().is_some_and(|moved| moved.until.is_some())
    }

    /// Keeps a frame that came ahead of others. `false` if it must not have.
    pub fn keep(&mut self, now: Instant, number: u64, frame: &[u8]) -> bool {
        let Some(moved) = &mut self.0 else { return false };
        let fits = moved.until.is_some_and(|until| until > now) && moved.early.len() < EARLY_MAX;
        if fits && !moved.early.iter().any(|(known, _)| *known == number) {
            moved.early.push((number, frame.to_vec()));
        }
        fits
    }

    /// The frame with that number, if it came before its time.
    #[inline]
    pub fn take(&mut self, number: u64) -> Option<Vec<u8>> {
        let early = &mut self.0.as_mut()?.early;
        let at = early.iter().position(|(known, _)| *known == number)?;
        Some(early.swap_remove(at).1)
    }

    /// All frames that came ahead, in order.
    fn take_all(&mut self) -> Vec<Vec<u8>> {
        let early = self.0.as_mut().map(|moved| std::mem::take(&mut moved.early));
        let mut early = early.unwrap_or_default();
        early.sort_by_key(|(number, _)| *number);
        early.into_iter().map(|(_, frame)| frame).collect()
    }

    /// Nothing more comes ahead: the first that did.
    fn over(&mut self) -> Option<Vec<u8>> {
        let moved = self.0.as_mut()?;
        moved.until = None;
        let first = moved.early.drain(..).min_by_key(|(number, _)| *number);
        first.map(|(_, frame)| frame)
    }
}

impl<E: Entities> Streams<E> {
    /// A place for one more stream.
    pub(super) fn vacant(&mut self) -> Slot {
        let index = self.free.pop().unwrap_or_else(|| {
            self.table.push(Entry { generation: 1, routes: 0, stream: None });
            (self.table.len() - 1) as u32
        });
        self.slot_of(index)
    }

    /// The entity is frozen: frames for its streams wait. Gives the gates of their clients.
    pub fn freeze(&mut self, entity: EntityId) -> BTreeSet<WorkerId> {
        let (mut gates, mut late) = (BTreeSet::new(), Vec::new());
        for index in self.by_entity.get(&entity).cloned().unwrap_or_default() {
            let slot = self.slot_of(index);
            let Some(stream) = &mut self.table[index as usize].stream else { continue };
            stream.frozen = true;
            let Some(gate) = stream.gate() else { continue };
            gates.insert(gate);
            // What came ahead of others waits for them there.
            let route = Slot { index, generation: stream.route };
            for frame in stream.settling.take_all() {
                let mut payload = Vec::new();
                LinkFrame::Up { slot: route, frame: &frame }.encode(self.me.worker, &mut payload);
                late.push((gate, slot, payload));
            }
        }
        self.moving.late.insert(entity, late);
        gates
    }

    /// Keeps a frame for a stream that is frozen. `false` if it is not.
    pub(super) fn is_late(&mut self, from: WorkerId, slot: Slot, frame: &LinkFrame<'_>) -> bool {
        let Some(stream) = find_mut(&mut self.table, slot).filter(|stream| stream.frozen) else {
            return false;
        };
        let mut payload = Vec::new();
        frame.encode(self.me.worker, &mut payload);
        let late = self.moving.late.entry(stream.target).or_default();
        if late.len() < LATE_MAX {
            late.push((from, slot, payload));
        }
        true
    }

    /// The frozen entity goes on: its streams do as well. Gives what came meanwhile.
    pub fn thaw(&mut self, entity: EntityId) -> Vec<(WorkerId, Vec<u8>)> {
        for index in self.by_entity.get(&entity).cloned().unwrap_or_default() {
            if let Some(stream) = &mut self.table[index as usize].stream {
                stream.frozen = false;
            }
        }
        let late = self.moving.late.remove(&entity).unwrap_or_default();
        late.into_iter().map(|(from, _, payload)| (from, payload)).collect()
    }

    /// All streams of a frozen entity.
    pub fn pack(&self, entity: EntityId, out: &mut Vec<u8>) {
        let indices = self.by_entity.get(&entity).map_or(&[][..], Vec::as_slice);
        put_varint(out, indices.len() as u64);
        for index in indices {
            if let Some(stream) = &self.table[*index as usize].stream {
                stream.pack(out, self.options.mutant == Some(Mutant::RingNotMoved));
            }
        }
    }

    /// The entity is at `to` now: its streams are forgotten here, and frames for them sent on.
    pub fn depart<O: Outlet>(&mut self, now: Instant, out: &mut O, entity: EntityId, to: WorkerId) {
        while let Some((until, ..)) = self.moving.order.front()
            && (*until <= now || self.moving.order.len() > GONE_MAX)
        {
            let (_, name, slot, route) = self.moving.order.pop_front().expect("just seen");
            if self.moving.gone.get(&name).is_some_and(|gone| gone.until <= now) {
                self.moving.gone.remove(&name);
            }
            self.moving.gone_slots.remove(&slot);
            self.moving.gone_routes.remove(&(slot.index, route));
        }
        let late = self.moving.late.remove(&entity).unwrap_or_default();
        for index in self.by_entity.remove(&entity).unwrap_or_default() {
            let slot = self.slot_of(index);
            let Some(stream) = self.remove(index) else { continue };
            let name = (stream.info.session, stream.info.handle);
            self.groups.forget(out, index);
            let (home, account) = (stream.home, stream.info.account);
            let gone = Gone { entity, to, until: now + GONE_KEEP, home, account };
            self.moving.gone.insert(name, gone);
            self.moving.gone_slots.insert(slot, name);
            self.moving.gone_routes.insert((index, stream.route), name);
            self.moving.order.push_back((now + GONE_KEEP, name, slot, stream.route));
        }
        self.groups.entity_gone(out, entity);
        for (from, slot, payload) in late {
            let Some(name) = self.moving.gone_slots.get(&slot).copied() else { continue };
            match LinkFrame::decode(&payload) {
                Ok((_, LinkFrame::StreamPassed { from, to, payload, .. })) => {
                    self.send_on(out, name, (from, to), payload);
                }
                _ => self.send_on(out, name, (from, self.me), &payload),
            }
        }
    }

    /// The new owner of streams that went from here may have died before their homes heard of it: those
    /// that have not are told that the streams are lost. `entity`: only those of that one.
    pub fn new_owner_away<O: Outlet>(
        &mut self,
        out: &mut O,
        node: Incarnation,
        entity: Option<EntityId>,
    ) {
        let is_it =
            |gone: &Gone| gone.to.node == node && entity.is_none_or(|entity| gone.entity == entity);
        let mut lost: Vec<(Name, Gone)> =
            self.moving.gone.extract_if(|_, gone| is_it(gone)).collect();
        lost.sort_unstable_by_key(|(name, _)| *name);
        for ((session, stream), Gone { home, account, .. }) in lost {
            let code = CloseCode::Unavailable;
            out.control(home, &LinkFrame::Lost { session, account, stream, code });
        }
    }

    /// Sends a frame on whose stream has gone with its entity: over the mesh also if it has come back
    /// here. `false` if it has not gone, or its new owner was lost.
    pub(super) fn went<O: Outlet>(
        &mut self,
        out: &mut O,
        from: WorkerId,
        slot: Slot,
        frame: &LinkFrame<'_>,
    ) -> bool {
        let name = match frame {
            LinkFrame::Up { .. } => self.moving.gone_routes.get(&(slot.index, slot.generation)),
            _ => self.moving.gone_slots.get(&slot),
        };
        let Some(name) = name.copied().filter(|name| self.moving.gone.contains_key(name)) else {
            return false;
        };
        let mut payload = Vec::new();
        frame.encode(self.me.worker, &mut payload);
        self.send_on(out, name, (from, self.me), &payload);
        true
    }

    fn send_on<O: Outlet>(
        &self,
        out: &mut O,
        name: Name,
        (from, to_whom): (WorkerId, WorkerId),
        payload: &[u8],
    ) {
        let Some(Gone { entity, to, .. }) = self.moving.gone.get(&name).copied() else { return };
        let (session, stream) = name;
        let frame = LinkFrame::StreamPassed { entity, session, stream, from, to: to_whom, payload };
        out.control(to, &frame);
    }

    /// A frame for a stream that came here, by the worker where it was. Gives the frame as it would
    /// have come here, unless it is what a client sent: that is handled.
    pub fn handle_passed<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        entities: &mut E,
        frame: &LinkFrame<'_>,
    ) {
        let &LinkFrame::StreamPassed { entity, session, stream, from, to, payload } = frame else {
            return;
        };
        let found = self.by_entity.get(&entity).into_iter().flatten().find(|index| {
            let known = self.table[**index as usize].stream.as_ref();
            known.is_some_and(|s| s.info.session == session && s.info.handle == stream)
        });
        let Some(slot) = found.map(|index| self.slot_of(*index)) else {
            self.stats.stale += 1;
            if self.moving.gone.get(&(session, stream)).is_some_and(|gone| gone.to != self.me) {
                self.send_on(io.out, (session, stream), (from, to), payload);
            } else if let Ok((_, LinkFrame::Home(HomeFrame::Check(check)))) =
                LinkFrame::decode(payload)
            {
                // It came here and is gone, and its home has heard of neither.
                self.tell_moved(io.out, from, &check, Slot::default());
                let (account, code) = (check.account, CloseCode::Unavailable);
                io.out.control(from, &LinkFrame::Lost { session, account, stream, code });
            }
            return;
        };
        if let Some((old, up)) = read_up(payload) {
            let known = find_mut(&mut self.table, slot).expect("it was found");
            if known.frozen {
                let target = known.target;
                let late = self.moving.late.entry(target).or_default();
                let mut whole = Vec::new();
                frame.encode(self.me.worker, &mut whole);
                late.push((from, slot, whole));
            } else if known.settling.routes().contains(&(to, old)) && known.gate() == Some(from) {
                self.take_up(io.now, io.out, entities, slot, up);
            } else {
                self.stats.stale += 1;
            }
            return;
        }
        let Ok((_, mut frame)) = LinkFrame::decode(payload) else { return };
        if let LinkFrame::Home(HomeFrame::Check(check)) = &frame {
            self.tell_moved(io.out, from, check, slot);
        }
        match &mut frame {
            LinkFrame::Attach { slot: at, .. }
            | LinkFrame::Detach { slot: at, .. }
            | LinkFrame::Unbind { slot: at, .. }
            | LinkFrame::Home(
                HomeFrame::Unlisted { slot: at }
                | HomeFrame::Adopt { slot: at, .. }
                | HomeFrame::Check(Check { slot: at, .. }),
            ) => *at = slot,
            LinkFrame::Forward(forward) => forward.slot = slot,
            _ => return,
        }
        self.handle_link(io, entities, from, &frame);
    }

    /// A home that looks for a stream where it was is told where it is.
    fn tell_moved<O: Outlet>(&self, out: &mut O, home: WorkerId, check: &Check, slot: Slot) {
        let &Check { session, account, stream, .. } = check;
        out.control(home, &LinkFrame::StreamMoved { session, account, stream, slot });
    }

    /// Opens the streams of an entity that came here, as they were. Gives their clients, and which of
    /// them are connected.
    ///
    /// # Errors
    ///
    /// What is wrong with the bytes: none is opened then.
    pub fn arrive<O: Outlet>(
        &mut self,
        now: Instant,
        out: &mut O,
        (entities, seat): (&mut E, E::Seat),
        entity: EntityId,
        r: &mut Reader<'_>,
    ) -> Result<Vec<(E::Peer, bool)>, WireError> {
        let count = r.varint()?;
        if count > ITEMS_MAX {
            return Err(WireError::Range);
        }
        let packed: Vec<Packed> = (0..count).map(|_| Packed::read(r)).collect::<Result<_, _>>()?;
        let mut peers = Vec::new();
        for packed in packed {
            let slot = self.vacant();
            let home = packed.home;
            let (session, account, stream) = (packed.session, packed.account, packed.handle);
            let until = now + EARLY_WAIT;
            let mut here = packed.unpack(entities, (seat, entity), (self.me, slot), until);
            self.moving.settling.push_back((until, slot));
            if here.is_attached() {
                here.route = self.table[slot.index as usize].next_route();
                here.reroute(out);
            }
            out.control(home, &LinkFrame::StreamMoved { session, account, stream, slot });
            peers.push((here.peer.clone(), here.is_attached()));
            // What still comes for where it was here before finds it.
            let gone = Gone { entity, to: self.me, until: now + GONE_KEEP, home, account };
            self.moving.gone.insert((session, stream), gone);
            self.moving.order.push_back((now + GONE_KEEP, (session, stream), slot, 0));
            self.table[slot.index as usize].stream = Some(Box::new(here));
            self.by_entity.entry(entity).or_default().push(slot.index);
            self.len += 1;
        }
        Ok(peers)
    }

    /// When [`settle_early`](Self::settle_early) has something to do.
    pub(super) fn settles_at(&self) -> Option<Instant> {
        self.moving.settling.front().map(|(at, _)| *at)
    }

    /// Frames that came ahead of others have waited long enough: something is missing.
    pub(super) fn settle_early<O: Outlet>(&mut self, now: Instant, out: &mut O, entities: &mut E) {
        while let Some(&(at, slot)) = self.moving.settling.front()
            && at <= now
        {
            self.moving.settling.pop_front();
            let Some(stream) = find_mut(&mut self.table, slot) else { continue };
            if let Some(frame) = stream.settling.over() {
                self.take_up(now, out, entities, slot, &frame);
            }
        }
    }

    /// The streams of a frozen entity end here as if it were gone, and what came for them is dropped.
    pub fn forget_late(&mut self, entity: EntityId) {
        self.moving.late.remove(&entity);
    }
}

/// A stream as it was elsewhere.
struct Packed {
    session: SessionId,
    account: AccountId,
    level: u8,
    name: String,
    home: WorkerId,
    handle: u32,
    epoch: u64,
    generation: u64,
    /// The names of its connection at its owners so far.
    routes: Vec<(WorkerId, Slot)>,
    link: Link,
    applied: u64,
    open: VecDeque<u64>,
    next_call: u64,
    kept: Kept,
    rare: Rare,
}

impl<T, P> Stream<T, P> {
    /// Appends all of it but what its owner knows by itself.
    fn pack(&self, out: &mut Vec<u8>, without_ring: bool) {
        out.extend_from_slice(&self.info.session.0);
        put_varint(out, self.info.account.0);
        out.push(self.info.level);
        put_blob(out, self.info.stream.as_bytes());
        put_worker(out, self.home);
        for number in [u64::from(self.info.handle), self.epoch, self.generation] {
            put_varint(out, number);
        }
        let own = Slot { index: self.info.slot.index, generation: self.route };
        let routes = self.settling.routes().iter().copied().chain([(self.info.owner, own)]);
        let routes: Vec<_> = routes.collect();
        let routes = &routes[routes.len().saturating_sub(ROUTES_MAX)..];
        put_varint(out, routes.len() as u64);
        for (owner, slot) in routes {
            put_worker(out, *owner);
            put_slot(out, *slot);
        }
        match self.link {
            Link::Attached { gate, conn } => {
                out.push(1);
                put_worker(out, gate);
                put_slot(out, conn);
            }
            Link::Away { frames, bytes } => {
                out.push(0);
                put_varint(out, frames as u64);
                put_varint(out, bytes as u64);
            }
        }
        let rare = self.rare();
        let (times, before) = rare.stalls;
        // A number that is one more, so that none is 0.
        let gap = rare.gap_after.map_or(0, |number| number + 1);
        for number in [self.inbound.applied(), gap, u64::from(times), before] {
            put_varint(out, number);
        }
        put_varint(out, self.open.len() as u64);
        self.open.iter().for_each(|number| put_varint(out, *number));
        put_varint(out, self.next_call);
        self.kept.pack(out, without_ring);
        put_varint(out, rare.latest.len() as u64);
        for latest in &rare.latest {
            put_varint(out, latest.key);
            out.extend_from_slice(&latest.method.0.to_le_bytes());
            put_blob(out, &latest.body);
        }
    }

    /// Leads its client here, which does not notice.
    fn reroute(&self, out: &mut impl Outlet) {
        self.lead(out, false);
    }
}

impl Packed {
    fn read(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let session = SessionId(r.array()?);
        let account = AccountId(r.varint()?);
        let level = r.byte()?;
        let name = r.text(NAME_BYTES_MAX)?.to_owned();
        let home = read_worker(r)?;
        let (handle, epoch, generation) = (r.varint_u32()?, r.varint()?, r.varint()?);
        let routes = (0..items(r)?).map(|_| Ok((read_worker(r)?, read_slot(r)?)));
        let routes = routes.collect::<Result<_, WireError>>()?;
        let link = match r.byte()? {
            1 => Link::Attached { gate: read_worker(r)?, conn: read_slot(r)? },
            0 => Link::Away { frames: r.varint()? as usize, bytes: r.varint()? as usize },
            _ => return Err(WireError::Range),
        };
        let applied = r.varint()?;
        let gap_after = r.varint()?.checked_sub(1);
        let stalls = (r.varint_u32()?, r.varint()?);
        let open = (0..items(r)?).map(|_| r.varint()).collect::<Result<_, _>>()?;
        let next_call = r.varint()?;
        let kept = Kept::read(r, FRAME_BYTES_MAX)?;
        let latest = (0..items(r)?).map(|_| {
            let (key, method) = (r.varint()?, MethodId(r.u32()?));
            Ok(Latest { key, method, body: r.blob(FRAME_BYTES_MAX)?.into() })
        });
        let latest = latest.collect::<Result<_, WireError>>()?;
        Ok(Packed {
            session,
            account,
            level,
            name,
            home,
            handle,
            epoch,
            generation,
            routes,
            link,
            applied,
            open,
            next_call,
            kept,
            rare: Rare { calls: Vec::new(), latest, gap_after, stalls },
        })
    }

    fn unpack<E: Entities>(
        self,
        entities: &mut E,
        (seat, target): (E::Seat, EntityId),
        (owner, slot): (WorkerId, Slot),
        until: Instant,
    ) -> Stream<E::Seat, E::Peer> {
        let info = PeerInfo {
            slot,
            owner,
            session: self.session,
            account: self.account,
            level: self.level,
            handle: self.handle,
            stream: self.name.into(),
        };
        let peer = entities.peer(&info);
        let mut stream = Stream::new(info, (seat, peer), self.home, target, self.epoch);
        (stream.generation, stream.link) = (self.generation, self.link);
        stream.settling = Settling::new(self.routes, until);
        stream.inbound = Inbound::resume_after(self.applied);
        (stream.open, stream.next_call, stream.kept) = (self.open, self.next_call, self.kept);
        if !self.rare.is_none() {
            *stream.rare_mut() = self.rare;
        }
        stream
    }
}

fn items(r: &mut Reader<'_>) -> Result<u64, WireError> {
    let count = r.varint()?;
    if count > ITEMS_MAX { Err(WireError::Range) } else { Ok(count) }
}
