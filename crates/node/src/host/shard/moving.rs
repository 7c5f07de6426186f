//! Entities that move between nodes: held between turns, packed, given up here and begun there.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::frame::Status;
use proto::link::{Call, LinkFrame, WorkerId};
use proto::{Reader, WireError, put_blob, put_varint};

use super::*;
use crate::host::Freezing;
use crate::host::mail::{Node, RemoteOrigin};
use crate::host::people::key_hash;
use crate::host::timers::MovedTimer;

/// The longest name and the longest value of what an entity carries along, and the longest message.
const NAME_BYTES_MAX: usize = 256;
const VALUE_BYTES_MAX: usize = 1 << 20;
/// Most timers, things carried and messages of one parcel: more is damage.
const ITEMS_MAX: u64 = 1 << 16;

/// What a packed message is.
mod tag {
    pub const CALL: u8 = 0;
    pub const TELL: u8 = 1;
    pub const REQUEST: u8 = 2;
    pub const TIMER: u8 = 3;
    pub const OFFLINE: u8 = 4;
    pub const DAILY: u8 = 5;
    pub const RELOADED: u8 = 6;
}

/// A message that came along, before it is in a mailbox.
struct Unpacked<E: Entity> {
    body: Body<E>,
    method: u16,
    sender: Sender,
    from: From,
}

/// Who waits for such a message.
enum From {
    Nobody,
    Far(Box<RemoteOrigin>),
    Tell(Peer, u32),
    Request(Peer, u64, Instant),
    Timer(usize),
}

impl<E: Entity> Shard<E> {
    /// From now on no turn of the entity begins. `false` if it cannot move.
    pub fn begin_freeze(&self, index: u32) -> bool {
        let mut cells = self.cells.borrow_mut();
        let Some(slot) = cells.get_mut(index) else { return false };
        let fits = slot.flags & (LOADING | CLOSING | QUARANTINED | FROZEN) == 0;
        if fits {
            slot.flags |= FROZEN;
        }
        fits
    }

    /// Whether the entity was packed to be sent to another node: no turn of it may begin here.
    pub fn is_packed(&self, index: u32) -> bool {
        let packed = FROZEN | LOADING;
        self.cells.borrow().get(index).is_some_and(|slot| slot.flags & packed == packed)
    }

    /// Freezes an entity whose turns have all ended; gives what is to be saved of it.
    pub fn try_freeze(self: &Rc<Self>, index: u32, hooked: &mut bool) -> Freezing {
        let place = (self.index, index);
        let look = || {
            let cells = self.cells.borrow();
            let slot = cells.get(index)?;
            let gone = slot.flags & (CLOSING | QUARANTINED | LOADING) != 0;
            (!gone && slot.flags & FROZEN != 0).then_some(slot.open == 0)
        };
        let is_idle = match look() {
            None => return Freezing::Lost,
            Some(is_idle) => is_idle && !self.hub.deals.borrow().contains_key(&place),
        };
        if !is_idle {
            return Freezing::Waits;
        }
        if !std::mem::replace(hooked, true) && E::KIND.hooks.has(Hooks::BEFORE_MOVE) {
            self.hub.carried.borrow_mut().remove(&place);
            self.run_hook_now(index, self.id_of(index), Hook::BeforeMove);
            match look() {
                None => return Freezing::Lost,
                Some(false) => return Freezing::Waits,
                Some(true) => {}
            }
        }
        let Some(Found::All(changes, false)) = self.changes(index) else { return Freezing::Waits };
        if look() != Some(true) {
            return Freezing::Waits;
        }
        if let Some(slot) = self.cells.borrow_mut().get_mut(index) {
            slot.flags |= LOADING;
        }
        self.hub.requests.borrow_mut().pause(place, true);
        Freezing::Frozen(changes)
    }

    /// Everything of a frozen entity that is not in its documents.
    pub fn pack(&self, index: u32) -> Vec<u8> {
        let mut out = Vec::new();
        let carried = self.hub.carried.borrow();
        let carried = carried.get(&(self.index, index));
        put_varint(&mut out, carried.map_or(0, |all| all.len() as u64));
        for (name, value) in carried.into_iter().flatten() {
            put_blob(&mut out, name.as_bytes());
            put_blob(&mut out, value);
        }
        let timers = self.timers_of(index, None);
        put_varint(&mut out, timers.len() as u64);
        for timer in &timers {
            self.pack_timer(*timer, &mut out);
        }
        self.pack_mail(index, &timers, &mut out);
        out
    }

    /// The messages of a frozen entity that were not packed yet.
    pub fn pack_late(&self, index: u32) -> Vec<u8> {
        let mut out = Vec::new();
        // A timer that came due here comes due there as well.
        self.pack_mail(index, &[], &mut out);
        out
    }

    fn pack_mail(&self, index: u32, timers: &[Slot], out: &mut Vec<u8>) {
        let id = self.id_of(index);
        let (mut count, mut packed) = (0, Vec::new());
        let mut cells = self.cells.borrow_mut();
        let Cells { slots, room, .. } = &mut *cells;
        room.pack(&slots[index as usize].mailbox, |mail| {
            let before = packed.len();
            self.pack_one(id, mail, timers, &mut packed);
            count += u64::from(packed.len() > before);
        });
        put_varint(out, count);
        out.extend_from_slice(&packed);
    }

    fn pack_one(&self, id: EntityId, mail: &Node<E>, timers: &[Slot], out: &mut Vec<u8>) {
        let message = match &mail.body {
            Some(Body::Message(message)) => message,
            Some(Body::Hook(hook)) => return pack_hook(hook, out),
            None => return,
        };
        let mut body = Vec::new();
        E::encode_message(message, &mut body);
        let method = E::KIND.methods.get(usize::from(mail.method)).map_or(0, |info| info.id.0);
        mail.with_origin(|origin| match origin {
            Origin::Timer(timer) => {
                let Some(at) = timers.iter().position(|known| known == timer) else { return };
                out.push(tag::TIMER);
                put_varint(out, at as u64);
                out.extend_from_slice(&method.to_le_bytes());
                put_blob(out, &body);
            }
            Origin::Client(peer, _) => {
                out.push(tag::TELL);
                put_peer(out, peer);
                out.extend_from_slice(&method.to_le_bytes());
                put_blob(out, &body);
            }
            Origin::Request(request) => {
                let requests = self.hub.requests.borrow();
                let Some(request) = requests.get(*request).filter(|open| open.is_open()) else {
                    return;
                };
                let Some(peer) = request.peer() else { return };
                out.push(tag::REQUEST);
                put_peer(out, peer);
                put_varint(out, request.tag);
                put_varint(out, u64::from(self.left_ms(request.until())));
                out.extend_from_slice(&method.to_le_bytes());
                put_blob(out, &body);
            }
            origin => {
                if let Some(call) = self.far_call(id, mail.sender, mail.method, origin, &body) {
                    put_call(out, mail.sender, &call);
                }
            }
        });
    }

    fn left_ms(&self, deadline: Instant) -> u32 {
        let left = (deadline - self.hub.now.get()).as_nanos().div_ceil(1_000_000);
        u32::try_from(left).unwrap_or(u32::MAX)
    }

    /// A message of server code as a call between nodes. `None` if nobody waits for it any more.
    pub fn far_call<'a>(
        &self,
        target: EntityId,
        sender: Sender,
        method: u16,
        origin: &Origin,
        body: &'a [u8],
    ) -> Option<Call<'a>> {
        let me = self.hub.me;
        let (from, call, deadline, chain) = match origin {
            Origin::Local(call) => {
                let deadline = self.calls.borrow_mut().get_mut(*call)?.deadline;
                (me, Some(*call), deadline, Vec::new())
            }
            Origin::Remote(remote) => {
                (remote.from, remote.call, remote.deadline, remote.chain.to_vec())
            }
            _ => (me, None, Instant::NEVER, Vec::new()),
        };
        if deadline <= self.hub.now.get() {
            return None;
        }
        let sender = sender.id_with(origin, me.node);
        let method = E::KIND.methods.get(usize::from(method)).map(|info| info.id)?;
        let remaining_ms = self.left_ms(deadline);
        Some(Call { call, from, target, method, remaining_ms, sender, chain, body })
    }

    /// Lets an entity go on that was frozen, under `claim` if it was taken anew.
    pub fn thaw(self: &Rc<Self>, index: u32, claim: Option<Claim>) {
        {
            let mut cells = self.cells.borrow_mut();
            let Cells { slots, room, .. } = &mut *cells;
            let Some(slot) = slots.get_mut(index as usize).filter(|slot| slot.used) else { return };
            if slot.flags & FROZEN == 0 {
                return;
            }
            slot.flags &= !(FROZEN | LOADING);
            room.unpack(&slot.mailbox);
        }
        self.hub.requests.borrow_mut().pause((self.index, index), false);
        self.hub.carried.borrow_mut().remove(&(self.index, index));
        if let (Some(claim), Some(sheets)) = (claim, self.sheets.borrow_mut().get_mut(&index)) {
            sheets.set_claim(claim);
        }
        if let Some(target) = self.target_of(index) {
            self.hub.event(Event::Activated { id: self.id_of(index), result: Ok(target) });
        }
        self.hub.sweep_by(self.hub.now.get());
        self.nudge(index);
    }

    /// The entity is at `to` now: it is dropped here without a word to anybody. What its mailbox
    /// held was packed.
    pub fn depart(self: &Rc<Self>, index: u32, to: WorkerId) {
        let Some(target) = self.target_of(index) else { return };
        let id = self.id_of(index);
        self.drop_timers(index);
        loop {
            let origin = {
                let mut cells = self.cells.borrow_mut();
                let Cells { slots, room, .. } = &mut *cells;
                room.drop_next(&mut slots[index as usize].mailbox)
            };
            match origin {
                None => break,
                Some(Origin::Request(request)) => {
                    drop(self.hub.requests.borrow_mut().remove(request));
                }
                Some(_) => {}
            }
        }
        self.reroute_calls(id, to);
        self.sheets.borrow_mut().remove(&index);
        self.forget(index, target);
        self.hub.event(Event::Departed { id, target });
    }

    /// Calls to the entity that wait are answered by `to` now.
    pub fn reroute_calls(&self, id: EntityId, to: WorkerId) {
        let mut calls = self.calls.borrow_mut();
        for slot in calls.waiting(|call| call.target() == id) {
            if let Some(call) = calls.get_mut(slot) {
                call.went_to(to);
            }
        }
    }

    /// Begins an entity that came from another node, with its documents, what was packed there, and the
    /// messages that were packed later. `peers` are its clients, bound already.
    pub fn arrive(
        self: &Rc<Self>,
        id: EntityId,
        (documents, claim): (Documents, Claim),
        (packed, late): (&[u8], &[Vec<u8>]),
        peers: &[(Peer, bool)],
    ) -> Result<(), String> {
        let Some(index) = self.cells.borrow().find(id.home, id.key) else {
            return Err("it is not expected here".to_owned());
        };
        let mut sheets = Sheets::stored(documents, Some(claim));
        let state = self.read_into_new(id, &mut sheets)?;
        let parcel = self.read_parcel(packed, peers).map_err(|error| error.to_string())?;
        let (carried, timers, mut mail) = parcel;
        let known: Vec<Peer> = peers.iter().map(|(peer, _)| peer.clone()).collect();
        for late in late {
            let mut reader = Reader::new(late);
            let read = self.read_mail(&mut reader, &|peer| same_peer(&known, peer));
            mail.extend(read.map_err(|error| error.to_string())?);
        }
        self.sheets.borrow_mut().insert(index, sheets);
        for (peer, _) in peers {
            AnyShard::bind_peer(&**self, index, peer, true);
        }
        let timers: Vec<Option<Slot>> =
            timers.into_iter().map(|timer| self.restore_timer(index, timer)).collect();
        self.hub.carried.borrow_mut().insert((self.index, index), carried);
        let kept = timers.iter().flatten().copied().collect();
        self.hub.came.borrow_mut().insert((self.index, index), kept);
        {
            let mut cells = self.cells.borrow_mut();
            let Cells { slots, room, .. } = &mut *cells;
            let slot = &mut slots[index as usize];
            let later = std::mem::replace(&mut slot.mailbox, Mailbox::EMPTY);
            let online =
                peers.iter().filter(|(_, here)| *here).map(|(p, _)| Hook::Online(p.clone()));
            let hooks = [Hook::Created, Hook::Loaded].into_iter().chain(online);
            for hook in hooks.filter(|hook| E::KIND.hooks.has(hook.bit())) {
                room.push(&mut slot.mailbox, hook_mail(hook));
            }
            room.push(&mut slot.mailbox, hook_mail(Hook::Moved));
            for unpacked in mail {
                let mail = self.to_mail(index, unpacked, &timers);
                room.push(&mut slot.mailbox, mail);
            }
            room.append(&mut slot.mailbox, later);
            slot.flags &= !LOADING;
            slot.state = Some(Rc::new(RefCell::new(state)));
        }
        self.begin_steps(index);
        self.nudge(index);
        let told = self.target_of(index).ok_or(Status::Gone);
        self.hub.event(Event::Activated { id, result: told });
        Ok(())
    }

    /// Before its own hook: of the timers of an entity that has moved those stay that it had, not
    /// those that it set when it was made anew.
    pub fn settle_timers(&self, index: u32) {
        let Some(kept) = self.hub.came.borrow_mut().remove(&(self.index, index)) else { return };
        for timer in self.timers_of(index, None) {
            if !kept.contains(&timer) {
                self.cancel_timer(timer);
            }
        }
    }

    /// Messages that were packed after the parcel, for an entity that is here or belongs here.
    pub fn take_late(self: &Rc<Self>, id: EntityId, packed: &[u8]) -> Result<(), WireError> {
        let index = self.cells.borrow().find(id.home, id.key);
        let known = self.peers.borrow();
        let peers = index.and_then(|index| known.get(&index)).cloned().unwrap_or_default();
        drop(known);
        let mut reader = Reader::new(packed);
        let mail = self.read_mail(&mut reader, &|peer| same_peer(&peers, peer))?;
        reader.end()?;
        for unpacked in mail {
            match self.find_or_activate(id) {
                Ok(index) => {
                    let mail = self.to_mail(index, unpacked, &[]);
                    self.push(&mut self.cells.borrow_mut(), index, mail);
                }
                Err(fault) => {
                    if let From::Far(remote) = unpacked.from {
                        self.answer(Origin::Remote(remote), Err(fault));
                    }
                }
            }
        }
        Ok(())
    }

    fn to_mail(&self, index: u32, unpacked: Unpacked<E>, timers: &[Option<Slot>]) -> Mail<E> {
        let Unpacked { body, method, sender, from } = unpacked;
        let origin = match from {
            From::Nobody => Origin::Tell,
            From::Far(remote) => Origin::Remote(remote),
            From::Tell(peer, key) => Origin::Client(peer, key),
            From::Request(peer, tag, deadline) => {
                let at = (self.index, index);
                self.hub.sweep_by(deadline);
                let request = self.hub.requests.borrow_mut().insert(peer, tag, deadline, at);
                Origin::Request(request)
            }
            From::Timer(at) => match timers.get(at) {
                Some(Some(timer)) => Origin::Timer(*timer),
                _ => Origin::Tell,
            },
        };
        Mail { origin, sender, body, method }
    }

    #[expect(clippy::type_complexity, reason = "taken apart by the only caller")]
    fn read_parcel(
        &self,
        packed: &[u8],
        peers: &[(Peer, bool)],
    ) -> Result<(BTreeMap<String, Vec<u8>>, Vec<MovedTimer<E>>, Vec<Unpacked<E>>), WireError> {
        let mut r = Reader::new(packed);
        let mut carried = BTreeMap::new();
        for _ in 0..count(&mut r)? {
            let name = r.text(NAME_BYTES_MAX)?.to_owned();
            carried.insert(name, r.blob(VALUE_BYTES_MAX)?.to_vec());
        }
        let timers = count(&mut r)?;
        let timers = (0..timers).map(|_| self.read_timer(&mut r)).collect::<Result<_, _>>()?;
        let peers: Vec<Peer> = peers.iter().map(|(peer, _)| peer.clone()).collect();
        let mail = self.read_mail(&mut r, &|peer| same_peer(&peers, peer))?;
        r.end()?;
        Ok((carried, timers, mail))
    }

    fn read_mail(
        &self,
        r: &mut Reader<'_>,
        known: &dyn Fn(Peer) -> Peer,
    ) -> Result<Vec<Unpacked<E>>, WireError> {
        let mut mail = Vec::new();
        for _ in 0..count(r)? {
            mail.extend(self.read_one(r, known)?);
        }
        Ok(mail)
    }

    fn read_one(
        &self,
        r: &mut Reader<'_>,
        known: &dyn Fn(Peer) -> Peer,
    ) -> Result<Option<Unpacked<E>>, WireError> {
        let now = self.hub.now.get();
        let hook = |hook: Hook| {
            let wanted = E::KIND.hooks.has(hook.bit());
            let body = Body::Hook(Box::new(hook));
            wanted.then_some(Unpacked {
                body,
                method: HOOK,
                sender: Sender::OWN,
                from: From::Nobody,
            })
        };
        let (from, sender) = match r.byte()? {
            tag::OFFLINE => {
                let peer = known(read_peer(r)?);
                return Ok(hook(Hook::Offline(peer, CloseCode::from_code(r.varint()?))));
            }
            tag::DAILY => return Ok(hook(Hook::Daily)),
            tag::RELOADED => return Ok(hook(Hook::Reloaded)),
            tag::CALL => return self.read_call(r),
            tag::TELL => (From::Tell(known(read_peer(r)?), 0), Sender::CLIENT),
            tag::REQUEST => {
                let peer = known(read_peer(r)?);
                let (tag, left) = (r.varint()?, r.varint_u32()?);
                let until = now + Duration::from_millis(u64::from(left));
                (From::Request(peer, tag, until), Sender::CLIENT)
            }
            tag::TIMER => (From::Timer(r.varint()? as usize), Sender::OWN),
            other => return Err(WireError::Kind(other)),
        };
        let id = MethodId(r.u32()?);
        let body = r.blob(VALUE_BYTES_MAX)?;
        let Some((message, method)) = self.read_message(id, body) else { return Ok(None) };
        let from = match from {
            From::Tell(peer, _) => {
                let latest = E::KIND.methods[usize::from(method)].latest;
                From::Tell(peer, key_hash(latest, body))
            }
            from => from,
        };
        Ok(Some(Unpacked { body: Body::Message(message), method, sender, from }))
    }

    fn read_call(&self, r: &mut Reader<'_>) -> Result<Option<Unpacked<E>>, WireError> {
        let form = r.byte()?;
        let frame = r.blob(VALUE_BYTES_MAX + 4_096)?;
        let Ok((_, LinkFrame::Call(call))) = LinkFrame::decode(frame) else {
            return Err(WireError::Range);
        };
        let me = self.hub.me.node;
        let (sender, chain) = match (form, call.sender) {
            (1, _) => (Sender::OPERATOR, Vec::new()),
            (2, _) => (Sender::OWN, Vec::new()),
            (_, Some(id)) => (Sender::of(id, me), call.chain),
            (_, None) => (Sender::OUTSIDE, Vec::new()),
        };
        let far = call.sender.filter(|_| sender.form() == SenderForm::Far);
        let left = Duration::from_millis(u64::from(call.remaining_ms));
        let from = match (call.call, far) {
            (None, None) => From::Nobody,
            (waits, sender) => From::Far(Box::new(RemoteOrigin {
                from: call.from,
                call: waits,
                deadline: waits.map_or(Instant::NEVER, |_| self.hub.now.get() + left),
                sender,
                chain: chain.into(),
            })),
        };
        match self.read_message(call.method, call.body) {
            Some((message, method)) => {
                Ok(Some(Unpacked { body: Body::Message(message), method, sender, from }))
            }
            None => {
                if let From::Far(remote) = from {
                    self.answer(Origin::Remote(remote), Err(Fault::Status(Status::UnknownMethod)));
                }
                Ok(None)
            }
        }
    }

    fn read_message(&self, id: MethodId, body: &[u8]) -> Option<(E::Message, u16)> {
        let found = E::KIND.methods.iter().position(|info| info.id == id);
        let method = self.method(id).or(found.map(|at| at as u16))?;
        match E::decode_message(usize::from(method), body) {
            Ok(message) => Some((message, method)),
            Err(error) => {
                tracing::error!(
                    kind = E::KIND.name,
                    method,
                    "a message did not survive a move: {error}"
                );
                None
            }
        }
    }
}

/// Appends a call, with what its frame does not tell of its sender.
fn put_call(out: &mut Vec<u8>, sender: Sender, call: &Call<'_>) {
    let form = match sender.form() {
        SenderForm::Operator => 1,
        SenderForm::Own => 2,
        _ => 0,
    };
    let mut frame = Vec::new();
    LinkFrame::Call(call.clone()).encode(0, &mut frame);
    out.extend_from_slice(&[tag::CALL, form]);
    put_blob(out, &frame);
}

fn pack_hook(hook: &Hook, out: &mut Vec<u8>) {
    match hook {
        Hook::Offline(peer, code) => {
            out.push(tag::OFFLINE);
            put_peer(out, peer);
            put_varint(out, *code as u64);
        }
        Hook::Daily => out.push(tag::DAILY),
        Hook::Reloaded => out.push(tag::RELOADED),
        // The others are of its beginning, which it has again, or come anew.
        _ => {}
    }
}

fn count(r: &mut Reader<'_>) -> Result<u64, WireError> {
    let count = r.varint()?;
    if count > ITEMS_MAX { Err(WireError::Range) } else { Ok(count) }
}

fn put_peer(out: &mut Vec<u8>, peer: &Peer) {
    out.extend_from_slice(&peer.session().0);
    put_varint(out, peer.account().0);
    out.push(peer.level());
    put_varint(out, u64::from(peer.handle()));
    put_blob(out, peer.stream().as_bytes());
}

/// A client as it was known elsewhere. Its stream here is not known.
fn read_peer(r: &mut Reader<'_>) -> Result<Peer, WireError> {
    Ok(Peer::new(crate::cx::PeerInfo {
        slot: Slot { index: u32::MAX, generation: 0 },
        session: proto::SessionId(r.array()?),
        account: proto::AccountId(r.varint()?),
        level: r.byte()?,
        handle: r.varint_u32()?,
        stream: r.text(NAME_BYTES_MAX)?.into(),
    }))
}

/// The same stream among those that are here. A session may have had another one of the same name: what came by that
/// is not answered on this one.
fn same_peer(peers: &[Peer], peer: Peer) -> Peer {
    let is_it =
        |known: &&Peer| known.session() == peer.session() && known.handle() == peer.handle();
    peers.iter().find(is_it).cloned().unwrap_or(peer)
}
