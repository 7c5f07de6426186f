use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use env::{FastMap, Instant};
use proto::frame::{CloseCode, Seen, Status, StreamUp};
use proto::link::{GroupId, HomeFrame, LinkFrame, Slot, Tag, WorkerId};
use proto::stream::Arrival;
use proto::{AccountId, EntityId, Incarnation, KindId, MethodId, Reader, SessionId};

use super::groups::Groups;
use super::leading::Leading;
use super::moving::{Moving, Settling};
use super::orphans::{Orphans, cut_off};
use super::ports::{Delivery, Entities, FromClient, Opening, PeerInfo, StreamStats};
use super::stream::{Link, OpenCall, Sent, Stream};
use super::{GroupError, Mutant, Options, Outlet, Places, Scope};

pub(super) type StreamOf<E> = Stream<<E as Entities>::Seat, <E as Entities>::Peer>;

/// The streams that end at this worker's entities.
///
/// Frames come in with [`handle_link`](Self::handle_link) and [`handle_up`](Self::handle_up);
/// what entities say goes out with [`reply`](Self::reply), [`push`](Self::push),
/// [`call`](Self::call) and the group verbs. After each batch call [`settle`](Self::settle).
pub struct Streams<E: Entities> {
    pub(super) me: WorkerId,
    pub(super) options: Options,
    pub(super) table: Vec<Entry<E>>,
    pub(super) free: Vec<u32>,
    pub(super) len: usize,
    pub(super) by_entity: FastMap<EntityId, Vec<u32>>,
    pub(super) groups: Groups,
    pub(super) moving: Moving,
    pub(super) leading: Leading,
    loading: Vec<Loading>,
    pub(super) orphans: Orphans,
    /// Streams to be acknowledged at the end of the turn.
    ack_due: Vec<u32>,
    /// When to look whether an acknowledgement is owed; in order, for the wait is always the same.
    ack_timers: VecDeque<(Instant, Slot)>,
    call_timers: BTreeSet<(Instant, u32, u64)>,
    /// Streams that must end, and calls that failed, found while the entities were in use.
    ends: Vec<(Slot, CloseCode)>,
    /// Streams whose connection was closed from here, for their entities to hear of it.
    closed: Vec<(Slot, CloseCode)>,
    failed: Vec<(u64, Status)>,
    epochs: u64,
    pub(super) stats: StreamStats,
}

pub(super) struct Entry<E: Entities> {
    pub(super) generation: u32,
    /// The name that the last connection of any stream in this place was given.
    pub(super) routes: u32,
    pub(super) stream: Option<Box<StreamOf<E>>>,
}

/// A binding whose entity is being loaded.
#[derive(Debug)]
struct Loading {
    target: EntityId,
    from: WorkerId,
    session: SessionId,
    account: AccountId,
    level: u8,
    handle: u32,
    name: Rc<str>,
    place: Option<(WorkerId, Slot)>,
    generation: u64,
}

impl<E: Entities> fmt::Debug for Streams<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streams").field("me", &self.me).field("len", &self.len).finish()
    }
}

impl<E: Entities> Streams<E> {
    /// No streams yet, at worker `me`.
    pub fn new(me: WorkerId, options: Options) -> Self {
        Streams {
            me,
            options,
            table: Vec::new(),
            free: Vec::new(),
            len: 0,
            by_entity: FastMap::default(),
            groups: Groups::new(me),
            moving: Moving::default(),
            leading: Leading::default(),
            loading: Vec::new(),
            orphans: Orphans::default(),
            ack_due: Vec::new(),
            ack_timers: VecDeque::new(),
            call_timers: BTreeSet::new(),
            ends: Vec::new(),
            closed: Vec::new(),
            failed: Vec::new(),
            epochs: 0,
            stats: StreamStats::default(),
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let ack = self.ack_timers.front().map(|(at, _)| *at);
        let are_endless = self.options.mutant == Some(Mutant::CallsEndless);
        let call = self.call_timers.first().map(|(at, ..)| *at).filter(|_| !are_endless);
        [ack, call, self.settles_at(), self.leading.poll_timeout()].into_iter().flatten().min()
    }

    // -- from homes --

    /// Handles a frame from a home: `Bind`, `Attach`, `Detach`, `Unbind`, `Forward`, `Adopt`. Others
    /// are ignored, and so is what a former home of a stream's session still says.
    pub fn handle_link<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        entities: &mut E,
        from: WorkerId,
        frame: &LinkFrame<'_>,
    ) {
        if let Some(slot) = Self::slot_meant(frame)
            && (self.is_late(from, slot, frame) || self.went(io.out, from, slot, frame))
        {
            return;
        }
        match frame {
            LinkFrame::StreamPassed { .. } => self.handle_passed(io, entities, frame),
            LinkFrame::Bind { target, .. } => {
                let is_led = self.leading.is_led(*target, io.places.worker_of(*target), self.me);
                self.bind(io.out, entities, (from, is_led), frame);
            }
            LinkFrame::Attach { slot, .. }
            | LinkFrame::Detach { slot, .. }
            | LinkFrame::Home(HomeFrame::Unlisted { slot })
                if self.is_former_home(*slot, from) =>
            {
                self.stats.stale += 1;
            }
            LinkFrame::Attach { slot, gate, conn, generation, seen, groups } => {
                let place = (*gate, *conn);
                self.attach(io.out, entities, *slot, place, *generation, (*seen, groups));
            }
            &LinkFrame::Detach { slot, generation, code } => {
                let Some(stream) = self.find_mut(slot) else { return };
                if generation < stream.generation {
                    return;
                }
                stream.generation = generation;
                if stream.is_attached() {
                    stream.go_away();
                    entities.offline(stream.seat, &stream.peer, code, false);
                    self.groups.away(slot.index);
                }
            }
            &LinkFrame::Unbind { slot, code } => {
                if self.is_former_home(slot, from) && !self.orphans.has(slot.index) {
                    self.stats.stale += 1;
                    return;
                }
                if self.leading.lingers(io.now, slot, code) {
                    return;
                }
                self.note_ending(io.now, slot, from, code);
                self.end(io.out, entities, slot, code);
            }
            &LinkFrame::Home(HomeFrame::Unlisted { slot }) => {
                self.unlisted(io.out, entities, slot);
            }
            LinkFrame::Home(HomeFrame::Check(check)) => {
                self.checked(io, entities, from, check);
            }
            &LinkFrame::Home(HomeFrame::Adopt { slot, session, account, stream }) => {
                self.adopt(io.out, from, slot, (session, account, stream));
            }
            LinkFrame::Forward(forward) => {
                let how = (forward.method, forward.mode.into());
                self.push(io.out, forward.slot, how, forward.body);
            }
            _ => {}
        }
    }

    fn is_former_home(&mut self, slot: Slot, from: WorkerId) -> bool {
        find_mut(&mut self.table, slot).is_some_and(|stream| stream.home != from)
    }

    fn bind<O: Outlet>(
        &mut self,
        out: &mut O,
        entities: &mut E,
        (from, is_led): (WorkerId, bool),
        frame: &LinkFrame<'_>,
    ) {
        let &LinkFrame::Bind {
            session,
            account,
            level,
            stream,
            target,
            gate,
            conn,
            generation,
            name,
            ..
        } = frame
        else {
            unreachable!("the caller matched it");
        };
        let wish = Loading {
            target,
            from,
            session,
            account,
            level,
            handle: stream,
            name: name.into(),
            place: (gate.node != Incarnation::NONE).then_some((gate, conn)),
            generation,
        };
        self.end_orphans(out, entities, (session, target));
        if is_led {
            return not_bound(out, &wish, Status::Unavailable);
        }
        if self.len + self.loading.len() >= self.options.streams_max {
            return not_bound(out, &wish, Status::Busy);
        }
        match entities.activate(target) {
            Opening::Ready(seat) => self.open(out, entities, wish, seat),
            Opening::Loading => self.loading.push(wish),
            Opening::Refused(status) => not_bound(out, &wish, status),
        }
    }

    /// Goes on with the bindings that waited for `target` to be loaded.
    pub fn handle_activated<O: Outlet>(
        &mut self,
        out: &mut O,
        entities: &mut E,
        target: EntityId,
        result: Result<E::Seat, Status>,
    ) {
        let mut at = 0;
        while at < self.loading.len() {
            if self.loading[at].target != target {
                at += 1;
                continue;
            }
            let wish = self.loading.remove(at);
            match result {
                Ok(seat) => self.open(out, entities, wish, seat),
                Err(status) => not_bound(out, &wish, status),
            }
        }
    }

    fn open<O: Outlet>(&mut self, out: &mut O, entities: &mut E, wish: Loading, seat: E::Seat) {
        let slot = self.vacant();
        let index = slot.index;
        let info = PeerInfo {
            slot,
            owner: self.me,
            session: wish.session,
            account: wish.account,
            level: wish.level,
            handle: wish.handle,
            stream: wish.name.clone(),
        };
        let peer = entities.peer(&info);
        self.epochs += 1;
        let parts = (seat, peer);
        let mut stream = Box::new(Stream::new(info, parts, wish.from, wish.target, self.epochs));
        stream.generation = wish.generation;
        match wish.place {
            Some((gate, conn)) if out.reaches(gate.node) => {
                stream.link = Link::Attached { gate, conn };
                stream.route = self.table[index as usize].next_route();
            }
            Some(_) => cut_off(out, wish.from, (wish.session, wish.account)),
            None => {}
        }
        // The route goes the way that all frames of the stream go, so it is there before them.
        stream.announce(out);
        let bound = LinkFrame::Bound {
            session: wish.session,
            account: wish.account,
            stream: wish.handle,
            slot,
            epoch: stream.epoch,
        };
        out.control(wish.from, &bound);
        entities.online(seat, &stream.peer);
        self.table[index as usize].stream = Some(stream);
        self.by_entity.entry(wish.target).or_default().push(index);
        self.len += 1;
    }

    fn attach<O: Outlet>(
        &mut self,
        out: &mut O,
        entities: &mut E,
        slot: Slot,
        (gate, conn): (WorkerId, Slot),
        generation: u64,
        (seen, listed): (u64, &[Seen]),
    ) {
        let Some(stream) = find_mut(&mut self.table, slot) else {
            self.stats.stale += 1;
            return;
        };
        if generation <= stream.generation {
            self.stats.stale += 1;
            return;
        }
        if !out.reaches(gate.node) {
            let (session, account) = (stream.info.session, stream.info.account);
            return cut_off(out, stream.home, (session, account));
        }
        stream.generation = generation;
        if !stream.acknowledge(seen) {
            return self.violation(slot);
        }
        stream.link = Link::Attached { gate, conn };
        let route = self.table[slot.index as usize].next_route();
        let stream = find_mut(&mut self.table, slot).expect("it was found");
        stream.route = route;
        // What came ahead by the former connection is sent once more by this one.
        stream.settling = Settling::default();
        stream.announce(out);
        self.stats.replayed += stream.unacked() as u64;
        let mut took = stream.catch_up(out, &self.options);
        let member = (slot.index, stream.info.handle);
        took &= self.groups.attach(out, &self.options, member, (gate, conn), listed);
        entities.online(stream.seat, &stream.peer);
        if !took {
            self.slow_reader(out, slot);
        }
    }

    // -- from gates --

    /// Handles what a client sent on a stream: head byte and fields, as `Up` carries them. `route`
    /// is the slot that its gate was given for the connection.
    pub fn handle_up<O: Outlet>(
        &mut self,
        now: Instant,
        out: &mut O,
        entities: &mut E,
        (from, route): (WorkerId, Slot),
        frame: &[u8],
    ) {
        let entry = self.table.get_mut(route.index as usize);
        let stream = entry.and_then(|entry| entry.stream.as_deref_mut());
        let any = self.options.mutant == Some(Mutant::StaleFramesTaken);
        let is_present =
            |s: &&mut StreamOf<E>| any || s.route == route.generation && s.gate() == Some(from);
        let Some(stream) = stream.filter(is_present) else {
            if !self.went(out, from, route, &LinkFrame::Up { slot: route, frame }) {
                self.stats.stale += 1;
            }
            return;
        };
        let slot = stream.info.slot;
        if stream.frozen {
            self.is_late(from, slot, &LinkFrame::Up { slot: route, frame });
            return;
        }
        self.take_up(now, out, entities, slot, frame);
    }

    /// Takes what a client sent on a stream, and what came ahead of it.
    pub(super) fn take_up<O: Outlet>(
        &mut self,
        now: Instant,
        out: &mut O,
        entities: &mut E,
        slot: Slot,
        frame: &[u8],
    ) {
        self.take_one(now, out, entities, slot, frame);
        while let Some(stream) = find_mut(&mut self.table, slot)
            && let Some(next) = stream.settling.take(stream.inbound.applied() + 1)
        {
            self.take_one(now, out, entities, slot, &next);
        }
    }

    #[inline(always)]
    fn take_one<O: Outlet>(
        &mut self,
        now: Instant,
        out: &mut O,
        entities: &mut E,
        slot: Slot,
        frame: &[u8],
    ) {
        let Some(stream) = find_mut(&mut self.table, slot) else { return };
        let mut reader = Reader::new(frame);
        let head = reader.byte();
        let Ok(up) = head.and_then(|head| StreamUp::decode_fields(head, &mut reader)) else {
            return self.violation(slot);
        };
        let (number, ack) = match up {
            StreamUp::Tell { number, ack, .. }
            | StreamUp::Request { number, ack, .. }
            | StreamUp::Answer { number, ack, .. } => (number, ack),
            StreamUp::Ack { ack } => (0, ack),
        };
        // A request without a number could not be told from its repetition.
        let unnumbered_request = number == 0 && matches!(up, StreamUp::Request { .. });
        if !stream.acknowledge(ack) || unnumbered_request {
            return self.violation(slot);
        }
        if number != 0 {
            match stream.inbound.arrive(number) {
                Arrival::Next => {}
                Arrival::Duplicate => {
                    self.stats.duplicates += 1;
                    if self.options.mutant != Some(Mutant::DuplicatesTaken) {
                        if let StreamUp::Request { .. } = up {
                            let repeated = stream.repeat_answer(out, &self.options, number);
                            self.stats.repeated += u64::from(repeated == Some(true));
                            self.stats.forgotten += u64::from(repeated == Some(false));
                        }
                        return;
                    }
                }
                Arrival::Gap if stream.settling.keep(now, number, frame) => return,
                Arrival::Gap => return self.gap(out, slot),
            }
            if stream.inbound.is_due() {
                if !stream.ack_due {
                    stream.ack_due = true;
                    self.ack_due.push(slot.index);
                }
            } else if !stream.ack_armed {
                stream.ack_armed = true;
                self.ack_timers.push_back((now + self.options.ack_wait, slot));
            }
        }
        match up {
            StreamUp::Tell { method, body, .. } => {
                let message = FromClient { method, body, request: None };
                match entities.deliver(now, stream.seat, &stream.peer, message) {
                    Ok(()) => self.stats.delivered += 1,
                    Err(status) => {
                        self.stats.refused += 1;
                        // What may be lost is lost without a word; the rest is answered by a kept
                        // frame, which outlives the connection.
                        if number != 0 {
                            stream.open.push_back(number);
                            self.reply(out, slot, number, status, &[]);
                        }
                    }
                }
            }
            StreamUp::Request { method, deadline_ms, body, .. } => {
                let request = Some((number, deadline_ms));
                let result = if stream.open.len() >= self.options.open_requests_max {
                    Err(Status::Busy)
                } else {
                    let message = FromClient { method, body, request };
                    entities.deliver(now, stream.seat, &stream.peer, message)
                };
                stream.open.push_back(number);
                match result {
                    Ok(()) => self.stats.delivered += 1,
                    Err(status) => {
                        self.stats.refused += 1;
                        self.reply(out, slot, number, status, &[]);
                    }
                }
            }
            StreamUp::Answer { call, status, body, .. } => {
                self.answered(entities, slot, call, status, body);
            }
            StreamUp::Ack { .. } => {}
        }
    }

    fn answered(&mut self, entities: &mut E, slot: Slot, call: u64, status: Status, body: &[u8]) {
        let Some(stream) = find_mut(&mut self.table, slot) else { return };
        // The answer of a call that is over reaches nobody.
        if let Some(at) = stream.rare().calls.iter().position(|open| open.id == call) {
            let open = stream.rare_mut().calls.remove(at);
            self.call_timers.remove(&(open.until, slot.index, call));
            entities.answered(open.tag, status, body);
        }
    }

    // -- from entities --

    /// Answers request `number` of a stream. Only the first answer of each request counts.
    pub fn reply<O: Outlet>(
        &mut self,
        out: &mut O,
        slot: Slot,
        number: u64,
        status: Status,
        body: &[u8],
    ) {
        let Some(stream) = find_mut(&mut self.table, slot) else {
            self.stats.dropped += 1;
            return;
        };
        if stream.open.front() == Some(&number) {
            stream.open.pop_front();
        } else if let Some(at) = stream.open.iter().position(|open| *open == number) {
            stream.open.remove(at);
        } else {
            self.stats.second_replies += 1;
            return;
        }
        let fits = body.len() <= self.options.body_bytes_max;
        let (status, body) = if fits { (status, body) } else { (Status::Failed, &[][..]) };
        let sent = stream.reply(out, &self.options, number, status, body);
        self.sent(out, slot, sent);
    }

    /// Sends a message to a client. What cannot be sent is dropped and counted; a client that is
    /// away too long loses its session, rather than one of its messages.
    pub fn push<O: Outlet>(
        &mut self,
        out: &mut O,
        slot: Slot,
        (method, delivery): (MethodId, Delivery),
        body: &[u8],
    ) {
        let fits = body.len() <= self.options.body_bytes_max;
        let Some(stream) = find_mut(&mut self.table, slot).filter(|_| fits) else {
            self.stats.dropped += 1;
            return;
        };
        match delivery {
            Delivery::Reliable => {
                let sent = stream.push(out, &self.options, method, body);
                self.sent(out, slot, sent);
            }
            Delivery::Latest(key) if !stream.is_attached() => {
                if !stream.keep_latest(&self.options, key, method, body) {
                    self.stats.dropped += 1;
                }
            }
            Delivery::Latest(_) | Delivery::Unreliable => {
                if !stream.push_live(out, method, body) {
                    self.stats.dropped += 1;
                }
            }
        }
    }

    /// Calls a method of a client. `tag` comes back once, with [`Entities::answered`].
    pub fn call<O: Outlet>(
        &mut self,
        now: Instant,
        out: &mut O,
        slot: Slot,
        (tag, method): (u64, MethodId),
        deadline: Option<Duration>,
        body: &[u8],
    ) {
        let Some(stream) = find_mut(&mut self.table, slot) else {
            self.failed.push((tag, Status::Gone));
            return;
        };
        if stream.rare().calls.len() >= self.options.open_calls_max {
            self.failed.push((tag, Status::Busy));
            return;
        }
        if body.len() > self.options.body_bytes_max {
            self.failed.push((tag, Status::BadArgument));
            return;
        }
        let wait = deadline.unwrap_or(self.options.call_wait);
        let deadline_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
        let id = stream.next_call;
        stream.next_call += 1;
        let until = now + wait;
        let sent = stream.call(out, &self.options, (id, deadline_ms), method, body);
        if sent == Sent::Overflow {
            self.failed.push((tag, Status::Gone));
        } else {
            stream.rare_mut().calls.push(OpenCall { id, tag, until });
            self.call_timers.insert((until, slot.index, id));
        }
        self.sent(out, slot, sent);
    }

    /// Has the home of a client's session bind `target` under `name`; what has that name is
    /// released once the new stream is open.
    pub fn rebind<O: Outlet>(&mut self, out: &mut O, slot: Slot, name: &str, target: EntityId) {
        if let Some(stream) = find_mut(&mut self.table, slot) {
            let (session, account) = (stream.info.session, stream.info.account);
            let (home, frame) = (stream.home, LinkFrame::Rebind { session, account, name, target });
            self.tell_home(out, slot, home, &frame);
        }
    }

    /// Has the home of a client's session end the stream called `name`.
    pub fn release<O: Outlet>(&mut self, out: &mut O, slot: Slot, name: &str) {
        if let Some(stream) = find_mut(&mut self.table, slot) {
            let (session, account) = (stream.info.session, stream.info.account);
            let (home, frame) = (stream.home, LinkFrame::Release { session, account, name });
            self.tell_home(out, slot, home, &frame);
        }
    }

    /// Tells the home of a client's session that it is logged in as what `tags` say, or that it is
    /// not logged in.
    pub fn tag<O: Outlet>(&mut self, out: &mut O, slot: Slot, logged_in: bool, tags: Vec<&str>) {
        if let Some(stream) = find_mut(&mut self.table, slot) {
            let (session, account) = (stream.info.session, stream.info.account);
            let kept = tags.iter().map(|tag| Box::from(*tag)).collect();
            stream.tags = Some(Box::new((logged_in, kept)));
            let home = stream.home;
            let frame = LinkFrame::Tag(Tag { session, account, logged_in, tags });
            self.tell_home(out, slot, home, &frame);
        }
    }

    /// Has the home of a client's session end it. The client is told `code` and `reason`.
    pub fn kick<O: Outlet>(&mut self, out: &mut O, slot: Slot, code: CloseCode, reason: &str) {
        if let Some(stream) = find_mut(&mut self.table, slot) {
            let (session, account) = (stream.info.session, stream.info.account);
            let (home, frame) = (stream.home, LinkFrame::Kick { account, session, code, reason });
            self.tell_home(out, slot, home, &frame);
        }
    }

    /// The clients at `entity`, in the order in which they came.
    pub fn peers_of(&self, entity: EntityId) -> impl Iterator<Item = &PeerInfo> {
        let indices = self.by_entity.get(&entity).map_or(&[][..], Vec::as_slice);
        indices.iter().filter_map(|index| {
            self.table[*index as usize].stream.as_ref().map(|stream| &stream.info)
        })
    }

    /// The entity is at `at`: who waits for it here is told to look there.
    pub fn went_elsewhere<O: Outlet>(&mut self, out: &mut O, entity: EntityId, at: WorkerId) {
        for wish in self.loading.extract_if(.., |wish| wish.target == entity) {
            out.control(wish.from, &LinkFrame::Moved { entity, at });
            not_bound(out, &wish, Status::Unavailable);
        }
    }

    /// `entity` is gone: its streams and groups end. `Unavailable` means that it may come back
    /// elsewhere and its clients shall find it there; `Goodbye` that it is over. That was not meant for `newcomers`,
    /// of whom it had not heard: they shall find it in any case.
    pub fn entity_gone<O: Outlet>(
        &mut self,
        out: &mut O,
        entity: EntityId,
        code: CloseCode,
        newcomers: &[Slot],
    ) {
        for index in self.by_entity.remove(&entity).unwrap_or_default() {
            let Some(stream) = self.remove(index) else { continue };
            let is_new = newcomers.contains(&stream.info.slot) && !stream.was_used();
            let code = if is_new { CloseCode::Unavailable } else { code };
            unroute(out, &stream, code);
            let (session, account) = (stream.info.session, stream.info.account);
            let lost = LinkFrame::Lost { session, account, stream: stream.info.handle, code };
            out.control(stream.home, &lost);
            self.groups.forget(out, index);
        }
        self.groups.entity_gone(out, entity);
    }

    /// Ends all streams and groups, as if all entities were gone with `code`, but those that are on their
    /// way to another node with their entities.
    pub fn release_all<O: Outlet>(&mut self, out: &mut O, code: CloseCode) {
        let streams = self.table.iter().filter_map(|entry| entry.stream.as_ref());
        let staying = streams.filter(|stream| !stream.frozen);
        let targets: BTreeSet<EntityId> = staying.map(|stream| stream.target).collect();
        for target in targets {
            self.entity_gone(out, target, code, &[]);
        }
        for wish in std::mem::take(&mut self.loading) {
            not_bound(out, &wish, Status::Unavailable);
        }
    }

    // -- groups --

    /// Makes a group that lasts as long as its owner.
    ///
    /// # Errors
    ///
    /// `Full`.
    pub fn create_group(
        &mut self,
        owner: EntityId,
        kind: KindId,
        name: &str,
    ) -> Result<GroupId, GroupError> {
        self.groups.create(&self.options, owner, (kind, name))
    }

    /// Makes a client a member; it stays one over breaks, until it leaves or its stream ends.
    /// A member that joins again stays what it was.
    ///
    /// # Errors
    ///
    /// `NotFound`, `NoPeer`, `Full`.
    pub fn join<O: Outlet>(
        &mut self,
        out: &mut O,
        group: GroupId,
        slot: Slot,
    ) -> Result<(), GroupError> {
        let stream = find_mut(&mut self.table, slot).ok_or(GroupError::NoPeer)?;
        let place = match stream.link {
            Link::Attached { gate, conn } => Some((gate, conn)),
            Link::Away { .. } => None,
        };
        self.groups.join(out, &self.options, group, (slot.index, stream.info.handle), place)
    }

    /// Takes a client out of a group; one that is no member stays none.
    ///
    /// # Errors
    ///
    /// `NotFound`, `NoPeer`.
    pub fn leave<O: Outlet>(
        &mut self,
        out: &mut O,
        group: GroupId,
        slot: Slot,
    ) -> Result<(), GroupError> {
        find_mut(&mut self.table, slot).ok_or(GroupError::NoPeer)?;
        self.groups.leave(out, group, slot.index)
    }

    /// Sends one message to all members of a group.
    ///
    /// # Errors
    ///
    /// `NotFound`, `TooLong`.
    pub fn cast<O: Outlet>(
        &mut self,
        out: &mut O,
        group: GroupId,
        (method, delivery): (MethodId, Delivery),
        body: &[u8],
    ) -> Result<(), GroupError> {
        let max = self.options.body_bytes_max;
        if body.len() > max {
            return Err(GroupError::TooLong { max });
        }
        let reliable = delivery == Delivery::Reliable;
        let refused = self.groups.cast(out, &self.options, group, (method, reliable), body)?;
        for gate in refused {
            self.stats.dropped += 1;
            if reliable {
                for index in self.groups.members_at(group, gate) {
                    let slot = self.slot_of(index);
                    self.slow_reader(out, slot);
                }
            }
        }
        Ok(())
    }

    /// Ends a group.
    ///
    /// # Errors
    ///
    /// `NotFound`.
    pub fn disband<O: Outlet>(&mut self, out: &mut O, group: GroupId) -> Result<(), GroupError> {
        self.groups.disband(out, group)
    }

    // -- time and other workers --

    /// Finishes a batch: ends what broke, fails what cannot be answered, sends acknowledgements
    /// that are due.
    pub fn settle<O: Outlet>(&mut self, out: &mut O, entities: &mut E) {
        for (slot, code) in std::mem::take(&mut self.ends) {
            let Some(stream) = find_mut(&mut self.table, slot) else { continue };
            let (session, account) = (stream.info.session, stream.info.account);
            let lost = LinkFrame::Lost { session, account, stream: stream.info.handle, code };
            out.control(stream.home, &lost);
            self.end(out, entities, slot, code);
        }
        for (slot, code) in std::mem::take(&mut self.closed) {
            let Some(stream) = find_mut(&mut self.table, slot) else { continue };
            if !stream.is_attached() {
                entities.offline(stream.seat, &stream.peer, code, false);
            }
        }
        for (tag, status) in std::mem::take(&mut self.failed) {
            entities.answered(tag, status, &[]);
        }
        for index in std::mem::take(&mut self.ack_due) {
            let Some(stream) = self.table[index as usize].stream.as_mut() else { continue };
            stream.ack_due = false;
            if stream.inbound.is_due() {
                stream.send_ack(out);
            }
        }
    }

    /// Sends acknowledgements that wait too long and ends calls that were not answered in time.
    pub fn handle_timeout<O: Outlet>(&mut self, now: Instant, out: &mut O, entities: &mut E) {
        while let Some(&(at, slot)) = self.ack_timers.front()
            && at <= now
        {
            self.ack_timers.pop_front();
            let Some(stream) = find_mut(&mut self.table, slot) else { continue };
            stream.ack_armed = false;
            if stream.inbound.owes() {
                stream.send_ack(out);
            }
        }
        self.settle_early(now, out, entities);
        self.lead(now, out, entities);
        let are_endless = self.options.mutant == Some(Mutant::CallsEndless);
        while let Some(&(at, index, call)) = self.call_timers.first()
            && at <= now
            && !are_endless
        {
            let slot = self.slot_of(index);
            // Takes the timer out, for every open call has one and only while it is open.
            self.answered(entities, slot, call, Status::Timeout, &[]);
            self.call_timers.remove(&(at, index, call));
        }
    }

    /// Takes note that everything under way to and from `node` may be lost: its gates' clients
    /// are away; streams whose home it was go on until another one has them, or is found to know
    /// nothing of them.
    pub fn handle_peer_down<O: Outlet>(
        &mut self,
        now: Instant,
        out: &mut O,
        entities: &mut E,
        node: Incarnation,
    ) {
        for (index, entry) in (0u32..).zip(&mut self.table) {
            let Some(stream) = entry.stream.as_mut() else { continue };
            if let Link::Attached { gate, conn } = stream.link
                && gate.node == node
            {
                let (code, reason) = (CloseCode::Unavailable, "the way to an entity broke");
                out.control(gate, &LinkFrame::Close { conn, code, reason });
                stream.go_away();
                entities.offline(stream.seat, &stream.peer, CloseCode::Unavailable, false);
                self.groups.away(index);
            }
        }
        for slot in self.lose_homes(now, node) {
            self.end(out, entities, slot, CloseCode::SessionLost);
        }
        self.loading.retain(|wish| wish.from.node != node);
        for wish in &mut self.loading {
            wish.place = wish.place.filter(|(gate, _)| gate.node != node);
        }
    }

    /// Ends one stream here: its gate, its entity and its calls are told, its home is not.
    pub(super) fn end<O: Outlet>(
        &mut self,
        out: &mut O,
        entities: &mut E,
        slot: Slot,
        code: CloseCode,
    ) {
        if find_mut(&mut self.table, slot).is_none() {
            return;
        }
        let stream = self.remove(slot.index).expect("it was found");
        if let Some(indices) = self.by_entity.get_mut(&stream.target) {
            indices.retain(|index| *index != slot.index);
            if indices.is_empty() {
                self.by_entity.remove(&stream.target);
            }
        }
        unroute(out, &stream, code);
        self.groups.forget(out, slot.index);
        entities.offline(stream.seat, &stream.peer, code, true);
    }

    /// Takes a stream out of the table; its calls fail with `Gone`.
    pub(super) fn remove(&mut self, index: u32) -> Option<Box<StreamOf<E>>> {
        let entry = &mut self.table[index as usize];
        let stream = entry.stream.take()?;
        self.orphans.forget(index);
        entry.generation = entry.generation.wrapping_add(1).max(1);
        self.free.push(index);
        self.len -= 1;
        for call in &stream.rare().calls {
            self.call_timers.remove(&(call.until, index, call.id));
            self.failed.push((call.tag, Status::Gone));
        }
        Some(stream)
    }

    fn sent<O: Outlet>(&mut self, out: &mut O, slot: Slot, sent: Sent) {
        match sent {
            Sent::Yes => {}
            Sent::TooSlow => self.slow_reader(out, slot),
            Sent::Overflow => {
                self.stats.overflows += 1;
                self.ends.push((slot, CloseCode::SessionLost));
            }
        }
    }

    /// Closes the connection of a client that reads too slowly; it may resume, and nothing that
    /// was numbered is lost by it.
    fn slow_reader<O: Outlet>(&mut self, out: &mut O, slot: Slot) {
        let Some(stream) = find_mut(&mut self.table, slot) else { return };
        let Link::Attached { gate, conn } = stream.link else { return };
        self.stats.slow_readers += 1;
        if !stream.may_catch_up() {
            self.stats.overflows += 1;
            self.ends.push((slot, CloseCode::SessionLost));
            return;
        }
        let reason = "the client does not keep up with what it is sent";
        out.control(gate, &LinkFrame::Close { conn, code: CloseCode::SlowReader, reason });
        stream.go_away();
        self.groups.away(slot.index);
        self.closed.push((slot, CloseCode::SlowReader));
    }

    /// A frame is missing. It may be our own fault (a queue inside the server overflowed), so the
    /// client may resume and send it again; one that then leaves it out again is at fault.
    fn gap<O: Outlet>(&mut self, out: &mut O, slot: Slot) {
        let Some(stream) = find_mut(&mut self.table, slot) else { return };
        let applied = stream.inbound.applied();
        if stream.rare_mut().gap_after.replace(applied) == Some(applied) {
            return self.violation(slot);
        }
        self.stats.gaps += 1;
        if let Link::Attached { gate, conn } = stream.link {
            let (code, reason) = (CloseCode::Unavailable, "a command was lost: send it again");
            out.control(gate, &LinkFrame::Close { conn, code, reason });
        }
        stream.go_away();
        self.groups.away(slot.index);
        self.closed.push((slot, CloseCode::Unavailable));
    }

    /// The client broke the protocol: nothing more is taken from it, its home ends the session.
    fn violation(&mut self, slot: Slot) {
        self.stats.violations += 1;
        self.ends.push((slot, CloseCode::Protocol));
        if let Some(stream) = find_mut(&mut self.table, slot) {
            stream.go_away();
            self.groups.away(slot.index);
        }
    }

    fn find_mut(&mut self, slot: Slot) -> Option<&mut StreamOf<E>> {
        find_mut(&mut self.table, slot)
    }

    pub(super) fn slot_of(&self, index: u32) -> Slot {
        Slot { index, generation: self.table[index as usize].generation }
    }
}

impl<E: Entities> Entry<E> {
    pub(super) fn next_route(&mut self) -> u32 {
        self.routes = self.routes.wrapping_add(1);
        self.routes
    }
}

pub(super) fn find_mut<E: Entities>(
    table: &mut [Entry<E>],
    slot: Slot,
) -> Option<&mut StreamOf<E>> {
    let entry = table.get_mut(slot.index as usize)?;
    if entry.generation != slot.generation {
        return None;
    }
    entry.stream.as_deref_mut()
}

fn unroute<T, P>(out: &mut impl Outlet, stream: &Stream<T, P>, code: CloseCode) {
    if let Link::Attached { gate, conn } = stream.link {
        out.control(gate, &LinkFrame::Unroute { conn, stream: stream.info.handle, code });
    }
}

fn not_bound(out: &mut impl Outlet, wish: &Loading, status: Status) {
    let (session, account) = (wish.session, wish.account);
    let frame = LinkFrame::NotBound { session, account, stream: wish.handle, status };
    out.control(wish.from, &frame);
}
