//! Clients: what they ask of entities, and what entities send to them.

use std::time::Duration;

use env::{FastMap, Instant};
use proto::frame::{CloseCode, Status};
use proto::link::Slot;
use proto::{DecodeError, Decoder, EntityId, KindId, MethodId};

use super::calls::Waiter;
use super::hub::{Hub, bump};
use super::mail::{Body, Node, Origin};
use super::requests::Ended;
use super::shard::{Cells, Shard, Target};
use crate::cx::Peer;
use crate::entity::{Entity, Latest, MethodInfo};
use crate::error::Fault;
use crate::pattern::Pattern;
use crate::push::GroupClosed;

/// A message of a client to the entity behind one of its streams.
#[derive(Clone, Copy, Debug)]
pub struct ClientMessage<'a> {
    /// Which method.
    pub method: MethodId,
    /// Its arguments.
    pub body: &'a [u8],
    /// Who waits for the answer; `None` for a tell.
    pub request: Option<ClientRequest>,
}

/// A request of a client.
#[derive(Clone, Copy, Debug)]
pub struct ClientRequest {
    /// Comes back with the reply.
    pub tag: u64,
    /// How long the client waits; `None` for the method's own time.
    pub wait: Option<Duration>,
}

/// How a push may be treated on a slow or lossy way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushMode {
    /// Every one arrives, in order.
    Reliable,
    /// Only the newest with this key is kept.
    Latest(u64),
    /// It may be lost.
    Unreliable,
}

/// Names a group of clients on the worker that owns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupSlot(pub Slot);

/// What entities have for clients and their sessions, in the order in which they said it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientOut<'a> {
    /// One-way to one client.
    Push {
        /// The stream.
        peer: Slot,
        /// A method of the client's interface.
        method: MethodId,
        /// How it may be treated.
        mode: PushMode,
        /// Its arguments.
        body: &'a [u8],
    },
    /// The answer to a request.
    Reply {
        /// The stream.
        peer: Slot,
        /// As it came with the request.
        tag: u64,
        /// How it ended.
        status: Status,
        /// The reply, or the method's own error.
        body: &'a [u8],
    },
    /// A call to one client, to be answered by
    /// [`Host::client_answered`](super::Host::client_answered) within `wait`.
    Call {
        /// The stream.
        peer: Slot,
        /// Comes back with the answer.
        tag: u64,
        /// A method of the client's interface.
        method: MethodId,
        /// How long the caller waits.
        wait: Duration,
        /// Its arguments.
        body: &'a [u8],
    },
    /// A group begins. It ends with its owner, or by `GroupClose`.
    GroupOpen {
        /// The entity that owns it.
        owner: Option<Target>,
        /// Its name here.
        group: GroupSlot,
        /// Its name for people.
        name: &'a str,
        /// The client interface that is called.
        kind: KindId,
    },
    /// A client joins.
    GroupJoin {
        /// Which group.
        group: GroupSlot,
        /// Which stream.
        peer: Slot,
    },
    /// A client leaves.
    GroupLeave {
        /// Which group.
        group: GroupSlot,
        /// Which stream.
        peer: Slot,
    },
    /// One-way to all members.
    GroupCast {
        /// Which group.
        group: GroupSlot,
        /// A method of the client's interface.
        method: MethodId,
        /// How it may be treated.
        mode: PushMode,
        /// Its arguments.
        body: &'a [u8],
    },
    /// A group ends.
    GroupClose {
        /// Which group.
        group: GroupSlot,
    },
    /// The session of this client gets a stream to `target` under `name`, instead of what has that name.
    Bind {
        /// Any stream of the session.
        peer: Slot,
        /// Name of the stream.
        name: &'a str,
        /// Where it leads.
        target: EntityId,
    },
    /// The session's stream `name` ends.
    Unbind {
        /// Any stream of the session.
        peer: Slot,
        /// Name of the stream.
        name: &'a str,
    },
    /// The session ends.
    Kick {
        /// Any stream of the session.
        peer: Slot,
        /// What the client is told.
        code: CloseCode,
        /// The same in words.
        reason: &'a str,
    },
}

/// One output without its bytes, which lie in the lane's buffer up to `end`.
struct Item {
    what: What,
    end: usize,
}

enum What {
    Push { peer: Slot, method: MethodId, mode: PushMode },
    Reply { peer: Slot, tag: u64, status: Status },
    Call { peer: Slot, tag: u64, method: MethodId, wait: Duration },
    GroupOpen { owner: Option<Target>, group: GroupSlot, kind: KindId },
    GroupJoin { group: GroupSlot, peer: Slot },
    GroupLeave { group: GroupSlot, peer: Slot },
    GroupCast { group: GroupSlot, method: MethodId, mode: PushMode },
    GroupClose { group: GroupSlot },
    Bind { peer: Slot, target: EntityId },
    Unbind { peer: Slot },
    Kick { peer: Slot, code: CloseCode },
}

/// Outputs to clients, and calls to them that wait for an answer.
pub(crate) struct ClientLane {
    bytes: Vec<u8>,
    items: Vec<Item>,
    next_group: u32,
    /// Groups that are open, and whose they are.
    groups: FastMap<u32, Option<Target>>,
    owned: FastMap<Target, Vec<u32>>,
    calls: std::collections::BTreeMap<u64, ClientPending>,
}

struct ClientPending {
    peer: Slot,
    deadline: Instant,
    waiter: Option<Waiter>,
    result: Option<Result<(Status, Vec<u8>), Fault>>,
}

/// Buffers above this are given back after a flood.
const KEEP_BYTES: usize = 1 << 20;

/// Most calls to clients that wait, all entities of the worker together.
const CLIENT_CALLS_MAX: usize = 65_536;

impl ClientLane {
    pub fn new() -> Self {
        ClientLane {
            bytes: Vec::new(),
            items: Vec::new(),
            next_group: 0,
            groups: FastMap::default(),
            owned: FastMap::default(),
            calls: std::collections::BTreeMap::new(),
        }
    }

    fn put(&mut self, what: What, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.bytes);
        self.items.push(Item { what, end: self.bytes.len() });
    }

    pub fn push(
        &mut self,
        peer: Slot,
        method: MethodId,
        mode: PushMode,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        self.put(What::Push { peer, method, mode }, write);
    }

    pub fn group_open(&mut self, owner: Option<Target>, name: &str, kind: KindId) -> GroupSlot {
        self.next_group += 1;
        let group = GroupSlot(Slot { index: self.next_group, generation: 0 });
        self.groups.insert(self.next_group, owner);
        if let Some(owner) = owner {
            self.owned.entry(owner).or_default().push(self.next_group);
        }
        self.put(What::GroupOpen { owner, group, kind }, |out| out.extend(name.as_bytes()));
        group
    }

    pub fn group_join(&mut self, group: GroupSlot, peer: Slot) {
        self.put(What::GroupJoin { group, peer }, |_| ());
    }

    pub fn group_leave(&mut self, group: GroupSlot, peer: Slot) {
        self.put(What::GroupLeave { group, peer }, |_| ());
    }

    pub fn group_cast(
        &mut self,
        group: GroupSlot,
        method: MethodId,
        mode: PushMode,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), GroupClosed> {
        if !self.groups.contains_key(&group.0.index) {
            return Err(GroupClosed);
        }
        self.put(What::GroupCast { group, method, mode }, write);
        Ok(())
    }

    /// The group is no more: casts to it are errors.
    pub fn group_gone(&mut self, group: GroupSlot) {
        if let Some(Some(owner)) = self.groups.remove(&group.0.index)
            && let Some(owned) = self.owned.get_mut(&owner)
        {
            owned.retain(|other| *other != group.0.index);
            if owned.is_empty() {
                self.owned.remove(&owner);
            }
        }
    }

    /// The groups of an entity end with it.
    pub fn owner_gone(&mut self, owner: Target) {
        for group in self.owned.remove(&owner).unwrap_or_default() {
            self.groups.remove(&group);
        }
    }

    pub fn group_close(&mut self, group: GroupSlot) {
        self.group_gone(group);
        self.put(What::GroupClose { group }, |_| ());
    }

    pub fn bind(&mut self, peer: Slot, name: &str, target: EntityId) {
        self.put(What::Bind { peer, target }, |out| out.extend(name.as_bytes()));
    }

    pub fn unbind(&mut self, peer: Slot, name: &str) {
        self.put(What::Unbind { peer }, |out| out.extend(name.as_bytes()));
    }

    pub fn kick(&mut self, peer: Slot, code: CloseCode, reason: &str) {
        self.put(What::Kick { peer, code }, |out| out.extend(reason.as_bytes()));
    }

    /// Begins a call to a client.
    pub fn call(
        &mut self,
        tag: u64,
        new: ClientCallRequest,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), Fault> {
        if self.calls.len() >= CLIENT_CALLS_MAX {
            return Err(Fault::BUSY);
        }
        let ClientCallRequest { peer, method, deadline, wait } = new;
        let pending = ClientPending { peer, deadline, waiter: None, result: None };
        self.calls.insert(tag, pending);
        self.put(What::Call { peer, tag, method, wait }, write);
        Ok(())
    }

    /// Takes the answer of a call to a client, or notes who waits now.
    pub fn poll_call(
        &mut self,
        tag: u64,
        waiter: Waiter,
    ) -> Option<Result<(Status, Vec<u8>), Fault>> {
        let Some(call) = self.calls.get_mut(&tag) else { return Some(Err(Fault::TIMEOUT)) };
        match call.result.take() {
            Some(result) => {
                self.calls.remove(&tag);
                Some(result)
            }
            None => {
                call.waiter = Some(waiter);
                None
            }
        }
    }

    /// Answers a request without a body.
    pub fn reply(&mut self, peer: Slot, tag: u64, status: Status) {
        self.put(What::Reply { peer, tag, status }, |_| ());
    }

    pub fn drop_call(&mut self, tag: u64) {
        self.calls.remove(&tag);
    }

    /// An answer came; gives who is to be told, or an error if nobody waits for it.
    pub fn answered(
        &mut self,
        tag: u64,
        result: Result<(Status, Vec<u8>), Fault>,
    ) -> Result<Option<Waiter>, ()> {
        match self.calls.get_mut(&tag) {
            Some(call) if call.result.is_none() => {
                call.result = Some(result);
                Ok(call.waiter.take())
            }
            _ => Err(()),
        }
    }

    /// Fails the calls whose time is over, or that went to `peer`; gives who is to be told.
    fn fail_where(&mut self, fault: &Fault, test: impl Fn(&ClientPending) -> bool) -> Vec<Waiter> {
        let mut told = Vec::new();
        for call in self.calls.values_mut() {
            if call.result.is_none() && test(call) {
                call.result = Some(Err(fault.clone()));
                told.extend(call.waiter.take());
            }
        }
        told
    }

    /// Fails calls whose time is over.
    pub fn sweep(&mut self, now: Instant) -> (Vec<Waiter>, Instant) {
        let told = self.fail_where(&Fault::TIMEOUT, |call| call.deadline <= now);
        let waiting = self.calls.values().filter(|call| call.result.is_none());
        let next = waiting.map(|call| call.deadline).min().unwrap_or(Instant::NEVER);
        (told, next)
    }

    /// Fails calls to a client that is gone.
    pub fn peer_gone(&mut self, peer: Slot) -> Vec<Waiter> {
        self.fail_where(&Fault::GONE, |call| call.peer == peer)
    }

    pub fn open_calls(&self) -> usize {
        self.calls.len()
    }
}

/// A call to a client about to begin.
pub(crate) struct ClientCallRequest {
    pub peer: Slot,
    pub method: MethodId,
    pub deadline: Instant,
    pub wait: Duration,
}

impl Hub {
    /// Gives all outputs to `take`, in order.
    pub fn drain_clients(&self, mut take: impl FnMut(ClientOut<'_>)) {
        let (mut bytes, mut items) = {
            let mut lane = self.clients.borrow_mut();
            if lane.items.is_empty() {
                return;
            }
            (std::mem::take(&mut lane.bytes), std::mem::take(&mut lane.items))
        };
        let mut start = 0;
        for item in items.drain(..) {
            let body = &bytes[start..item.end];
            start = item.end;
            // Names were written from `&str`.
            let text = || std::str::from_utf8(body).unwrap_or_default();
            take(match item.what {
                What::Push { peer, method, mode } => ClientOut::Push { peer, method, mode, body },
                What::Reply { peer, tag, status } => ClientOut::Reply { peer, tag, status, body },
                What::Call { peer, tag, method, wait } => {
                    ClientOut::Call { peer, tag, method, wait, body }
                }
                What::GroupOpen { owner, group, kind } => {
                    ClientOut::GroupOpen { owner, group, name: text(), kind }
                }
                What::GroupJoin { group, peer } => ClientOut::GroupJoin { group, peer },
                What::GroupLeave { group, peer } => ClientOut::GroupLeave { group, peer },
                What::GroupCast { group, method, mode } => {
                    ClientOut::GroupCast { group, method, mode, body }
                }
                What::GroupClose { group } => ClientOut::GroupClose { group },
                What::Bind { peer, target } => ClientOut::Bind { peer, name: text(), target },
                What::Unbind { peer } => ClientOut::Unbind { peer, name: text() },
                What::Kick { peer, code } => ClientOut::Kick { peer, code, reason: text() },
            });
        }
        bytes.clear();
        bytes.shrink_to(KEEP_BYTES);
        let mut lane = self.clients.borrow_mut();
        if lane.items.is_empty() {
            lane.bytes = bytes;
            lane.items = items;
        }
    }
}

impl<E: Entity> Shard<E> {
    /// Checks a client's message and puts it into the mailbox.
    ///
    /// The message is taken by reference, and its parts one by one: a copy of what was put together
    /// just before would have to wait for that.
    #[inline(always)]
    pub fn accept_client(
        &self,
        index: u32,
        peer: &Peer,
        message: &ClientMessage<'_>,
    ) -> Result<(), Status> {
        let hub = &*self.hub;
        let method = self.method(message.method).ok_or(Status::UnknownMethod)?;
        let info = &E::KIND.methods[usize::from(method)];
        // A method that only servers invoke is never a client's request, whatever it is marked.
        let pattern = info.pattern.ok_or(Status::UnknownMethod)?;
        let fits = match message.request {
            Some(_) => pattern.answers(),
            None => pattern == Pattern::Tell,
        };
        if !info.callers.client || !fits || peer.level() < info.level {
            bump(&hub.count.denied);
            self.count_refusal(method);
            let account = peer.account().0;
            tracing::info!(kind = E::KIND.name, method = info.name, account, "denied");
            return Err(Status::Denied);
        }
        if let Some(rate) = info.rate
            && !peer.spend(E::KIND.id, method, rate, hub.now.get())
        {
            bump(&hub.count.busy);
            self.count_refusal(method);
            return Err(Status::Busy);
        }
        let mut key = 0;
        let decoded = if info.latest == Latest::Keep {
            self.accepts(&self.cells.borrow(), index).map_err(|fault| fault.status())?;
            E::decode_message(usize::from(method), message.body)
        } else {
            let newer = E::decode_message(usize::from(method), message.body);
            if let Ok(newer) = &newer {
                key = key_hash(info.latest, message.body);
                self.drop_older(index, peer, key, newer);
                self.accepts(&self.cells.borrow(), index).map_err(|fault| fault.status())?;
            }
            newer
        };
        let mut decoded = match decoded {
            Ok(message) => Some(message),
            Err(error) => return Err(self.bad_client_argument(method, &error)),
        };
        match &message.request {
            Some(ClientRequest { tag, wait }) => {
                let deadline = hub.now.get() + self.request_wait(info, *wait);
                hub.sweep_by(deadline);
                let at = (self.index, index);
                let request = hub.requests.borrow_mut().insert(peer.clone(), *tag, deadline, at);
                self.push_client(index, |node| {
                    node.put_client(&mut decoded, Origin::Request(request), method)
                });
            }
            None => {
                let origin = Origin::Client(peer.clone(), key);
                self.push_client(index, |node| node.put_client(&mut decoded, origin, method));
            }
        }
        Ok(())
    }

    /// How long a request may take: what the client asks for, but never longer than the method's
    /// own time if it has one.
    fn request_wait(&self, info: &MethodInfo, asked: Option<Duration>) -> Duration {
        let own = Duration::from_nanos(self.hub.wait_nanos(info.deadline_ms));
        match asked {
            Some(asked) if info.deadline_ms == 0 => asked.min(MAX_CLIENT_WAIT),
            Some(asked) => asked.min(own),
            None => own,
        }
    }

    #[inline(always)]
    fn push_client(&self, index: u32, fill: impl FnOnce(&mut Node<E>)) {
        let mut cells = self.cells.borrow_mut();
        let Cells { slots, room, .. } = &mut *cells;
        let slot = &mut slots[index as usize];
        room.push_with(&mut slot.mailbox, fill);
        self.make_ready(slot, index);
    }

    #[cold]
    fn bad_client_argument(&self, method: u16, error: &DecodeError) -> Status {
        bump(&self.hub.count.bad_arguments);
        self.count_refusal(method);
        let method = E::KIND.methods[usize::from(method)].name;
        tracing::debug!(kind = E::KIND.name, method, "refused: {error}");
        Status::BadArgument
    }

    /// Takes the older tell of the same client and key out of the mailbox that `newer` replaces.
    fn drop_older(&self, index: u32, peer: &Peer, key: u32, newer: &E::Message) {
        let method = E::method(newer);
        let mut cells = self.cells.borrow_mut();
        let Cells { slots, room, .. } = &mut *cells;
        let slot = &mut slots[index as usize];
        let older = room.drop_first(&mut slot.mailbox, |mail| {
            let Some(Body::Message(older)) = &mail.body else { return false };
            let is_of = |origin: &Origin| matches!(origin, Origin::Client(of, its) if of == peer && *its == key);
            usize::from(mail.method) == method
                && mail.with_origin(is_of)
                && same_key::<E>(older, newer)
        });
        drop(cells);
        if older.is_some() {
            bump(&self.hub.count.replaced);
        }
    }

    /// Answers a client's request, unless it was answered at its deadline.
    #[inline(never)]
    pub fn answer_client(&self, request: u32, result: &Result<E::Reply, Fault>) {
        let ended = self.hub.requests.borrow_mut().remove(request);
        let Some(Ended { peer, tag, had_turn, answered }) = ended else { return };
        if answered {
            if had_turn {
                bump(&self.hub.count.late_replies);
            }
            return;
        }
        let mut lane = self.hub.clients.borrow_mut();
        let ClientLane { bytes, items, .. } = &mut *lane;
        let status = match result {
            Ok(reply) => E::encode_reply(reply, bytes),
            Err(fault) => fault.status(),
        };
        let what = What::Reply { peer: peer.slot(), tag, status };
        items.push(Item { what, end: bytes.len() });
    }
}

/// A hash of the key of a message with these arguments.
pub(super) fn key_hash(latest: Latest, body: &[u8]) -> u32 {
    // FNV-1a, 32 bits.
    let step = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    key_of(latest, body).iter().fold(0x811c_9dc5, step)
}

/// The bytes of a message's key; none if it is the method alone.
fn key_of(latest: Latest, body: &[u8]) -> &[u8] {
    let Latest::Argument(position) = latest else { return &[] };
    let mut decoder = Decoder::new(body);
    let mut skip = || {
        decoder.array()?;
        for _ in 0..position {
            decoder.skip()?;
        }
        let from = decoder.rest();
        decoder.skip()?;
        Ok::<_, DecodeError>(&from[..from.len() - decoder.rest().len()])
    };
    // A missing argument takes its default.
    skip().unwrap_or(&[])
}

/// Whether two messages of one method have the same key, and not just the same hash.
fn same_key<E: Entity>(one: &E::Message, other: &E::Message) -> bool {
    let latest = E::KIND.methods[E::method(one)].latest;
    if latest == Latest::Method {
        return true;
    }
    let [one, other] = [one, other].map(|message| {
        let mut body = Vec::new();
        E::encode_message(message, &mut body);
        body
    });
    key_of(latest, &one) == key_of(latest, &other)
}

/// The longest that a client may ask to wait for a method that has no time of its own.
const MAX_CLIENT_WAIT: Duration = Duration::from_secs(60);
