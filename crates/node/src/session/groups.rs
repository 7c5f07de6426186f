use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use env::FastMap;
use proto::frame::{DownFrame, Seen};
use proto::link::{GroupId, LinkFrame, Shift, Slot, WorkerId, put_down};
use proto::{EntityId, KindId, MethodId, put_varint};

use super::{Mutant, Options, Outlet, seen_of};

/// Why a group could not do as asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// The group has ended or was never here: make a new one.
    #[error("the group does not exist at this worker")]
    NotFound,
    /// The client is not a peer of an entity at this worker: bind it here first.
    #[error("the client has no stream at this worker")]
    NoPeer,
    /// A limit is reached; the text names the option.
    #[error("limit reached: {0}")]
    Full(&'static str),
    /// The message is longer than `body_bytes_max`.
    #[error("the message is over the limit of {max} bytes")]
    TooLong {
        /// The limit.
        max: usize,
    },
}

/// Where a member's client is connected.
pub(super) type Place = Option<(WorkerId, Slot)>;

/// The groups that this worker's entities own: each a set of streams that end at this worker.
///
/// A cast goes once to each gate worker that has a member. Membership follows the stream to a new
/// connection and ends with it.
#[derive(Debug)]
pub struct Groups {
    me: WorkerId,
    table: Vec<Entry>,
    free: Vec<u32>,
    len: usize,
    /// The groups of each stream, by the stream's index.
    of_stream: FastMap<u32, Vec<u32>>,
    of_entity: FastMap<EntityId, Vec<u32>>,
}

#[derive(Debug, Default)]
struct Entry {
    generation: u32,
    group: Option<Group>,
}

#[derive(Debug)]
struct Group {
    owner: EntityId,
    kind: KindId,
    name: Rc<str>,
    /// By the index of the stream.
    members: BTreeMap<u32, Member>,
    /// How many members are connected at each gate worker.
    gates: BTreeMap<WorkerId, u32>,
    /// Number of the last cast.
    last: u64,
    ring: VecDeque<Cast>,
    ring_bytes: usize,
}

#[derive(Debug)]
struct Member {
    /// The client's handle of the stream.
    handle: u32,
    place: Place,
    /// Number of the last cast before it joined.
    since: u64,
}

#[derive(Debug)]
struct Cast {
    number: u64,
    method: MethodId,
    body: Box<[u8]>,
}

impl Groups {
    pub(super) fn new(me: WorkerId) -> Self {
        Groups {
            me,
            table: Vec::new(),
            free: Vec::new(),
            len: 0,
            of_stream: FastMap::default(),
            of_entity: FastMap::default(),
        }
    }

    /// How many groups there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many memberships there are, over all groups.
    pub fn memberships(&self) -> usize {
        self.of_stream.values().map(Vec::len).sum()
    }

    /// How many members `group` has; 0 if it does not exist.
    pub fn members(&self, group: GroupId) -> usize {
        self.find(group).map_or(0, |group| group.members.len())
    }

    pub(super) fn create(
        &mut self,
        options: &Options,
        owner: EntityId,
        (kind, name): (KindId, &str),
    ) -> Result<GroupId, GroupError> {
        if self.len >= options.groups_max {
            return Err(GroupError::Full("groups_max"));
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.table.push(Entry { generation: 1, group: None });
            (self.table.len() - 1) as u32
        });
        let entry = &mut self.table[index as usize];
        entry.group = Some(Group {
            owner,
            kind,
            name: name.into(),
            members: BTreeMap::new(),
            gates: BTreeMap::new(),
            last: 0,
            ring: VecDeque::new(),
            ring_bytes: 0,
        });
        self.len += 1;
        self.of_entity.entry(owner).or_default().push(index);
        let slot = Slot { index, generation: entry.generation };
        Ok(GroupId { node: self.me.node, worker: self.me.worker, slot })
    }

    pub(super) fn join(
        &mut self,
        out: &mut impl Outlet,
        options: &Options,
        id: GroupId,
        (stream, handle): (u32, u32),
        place: Place,
    ) -> Result<(), GroupError> {
        let index = self.index_of(id).ok_or(GroupError::NotFound)?;
        let joined = self.of_stream.get(&stream).map_or(0, Vec::len);
        let group = self.table[index as usize].group.as_mut().expect("index_of found it");
        if group.members.contains_key(&stream) {
            return Ok(());
        }
        if group.members.len() >= options.group_members_max {
            return Err(GroupError::Full("group_members_max"));
        }
        if joined >= options.stream_groups() {
            return Err(GroupError::Full("stream_groups_max"));
        }
        group.members.insert(stream, Member { handle, place, since: group.last });
        self.of_stream.entry(stream).or_default().push(index);
        if let Some((gate, conn)) = place {
            *group.gates.entry(gate).or_insert(0) += 1;
            group.send_join(out, id, (gate, conn, handle), group.last);
        }
        Ok(())
    }

    pub(super) fn leave(
        &mut self,
        out: &mut impl Outlet,
        id: GroupId,
        stream: u32,
    ) -> Result<(), GroupError> {
        let index = self.index_of(id).ok_or(GroupError::NotFound)?;
        self.remove_member(out, index, stream);
        if let Some(groups) = self.of_stream.get_mut(&stream) {
            groups.retain(|group| *group != index);
            if groups.is_empty() {
                self.of_stream.remove(&stream);
            }
        }
        Ok(())
    }

    /// Sends one message to all members. Gives the gates that did not take it.
    ///
    /// A reliable cast is numbered: a member that comes back gets what it missed, or learns that
    /// it missed something. Whoever is away misses the others, and a gate may thin them.
    pub(super) fn cast(
        &mut self,
        out: &mut impl Outlet,
        options: &Options,
        id: GroupId,
        (method, reliable): (MethodId, bool),
        body: &[u8],
    ) -> Result<Vec<WorkerId>, GroupError> {
        let index = self.index_of(id).ok_or(GroupError::NotFound)?;
        let group = self.table[index as usize].group.as_mut().expect("index_of found it");
        let number = if reliable { group.keep(options, method, body) } else { 0 };
        let mut refused = Vec::new();
        for &gate in group.gates.keys() {
            let took = out.send(gate, |bytes| {
                LinkFrame::Cast { group: id, frame: &[] }.encode(gate.worker, bytes);
                put_varint(bytes, number);
                bytes.extend_from_slice(&method.0.to_le_bytes());
                bytes.extend_from_slice(body);
            });
            if !took {
                refused.push(gate);
            }
        }
        Ok(refused)
    }

    /// The streams of `group` whose clients are connected at `gate`.
    pub(super) fn members_at(&self, id: GroupId, gate: WorkerId) -> Vec<u32> {
        let at_gate = |member: &Member| member.place.is_some_and(|(place, _)| place == gate);
        self.find(id).map_or_else(Vec::new, |group| {
            group.members.iter().filter(|(_, m)| at_gate(m)).map(|(stream, _)| *stream).collect()
        })
    }

    /// Ends the group.
    pub(super) fn disband(&mut self, out: &mut impl Outlet, id: GroupId) -> Result<(), GroupError> {
        let index = self.index_of(id).ok_or(GroupError::NotFound)?;
        self.end(out, index);
        Ok(())
    }

    /// Ends the groups that `entity` owns.
    pub(super) fn entity_gone(&mut self, out: &mut impl Outlet, entity: EntityId) {
        for index in self.of_entity.remove(&entity).unwrap_or_default() {
            self.end(out, index);
        }
    }

    /// The client of `stream` is connected at `place` now and has seen `listed`, which names the
    /// groups that it takes itself for a member of by this stream.
    ///
    /// Gives `false` if the way to the gate is full.
    pub(super) fn attach(
        &mut self,
        out: &mut impl Outlet,
        options: &Options,
        (stream, handle): (u32, u32),
        (gate, conn): (WorkerId, Slot),
        listed: &[Seen],
    ) -> bool {
        let mut took = self.tell_left(out, (stream, handle), (gate, conn), listed);
        for index in self.of_stream.get(&stream).cloned().unwrap_or_default() {
            let id = self.id_of(index);
            self.remove_place(index, stream);
            let group = self.table[index as usize].group.as_mut().expect("of_stream lists it");
            let member = group.members.get_mut(&stream).expect("of_stream lists it");
            member.place = Some((gate, conn));
            *group.gates.entry(gate).or_insert(0) += 1;
            let seen = seen_of(listed, id.handle()).max(member.since).min(group.last);
            let covered = seen == group.last
                || group.ring.front().is_some_and(|cast| cast.number <= seen + 1);
            let from = if covered { seen } else { group.last };
            let is_new = !listed.iter().any(|item| item.handle == id.handle());
            if !covered && is_new {
                // It joined while it was away: only from where it joined can it tell that it has
                // missed something.
                group.send_join(out, id, (gate, conn, handle), seen);
            }
            group.send_join(out, id, (gate, conn, handle), from);
            if options.mutant == Some(Mutant::CastsForgotten) {
                continue;
            }
            for cast in group.ring.iter().filter(|cast| cast.number > from) {
                took &= out.send(gate, |bytes| {
                    let (number, method) = (cast.number, cast.method);
                    let group = id.handle();
                    let frame = DownFrame::Cast { group, number, method, body: &cast.body };
                    put_down(bytes, gate.worker, conn, |bytes| frame.encode(bytes));
                });
            }
        }
        took
    }

    /// The connection of `stream` is at `place` now, and its client notices nothing: casts until now
    /// came by the former gate, the next ones come by this one.
    pub(super) fn shift(
        &mut self,
        out: &mut impl Outlet,
        (stream, handle): (u32, u32),
        (gate, conn): (WorkerId, Slot),
    ) {
        for index in self.of_stream.get(&stream).cloned().unwrap_or_default() {
            let id = self.id_of(index);
            self.remove_place(index, stream);
            let group = self.table[index as usize].group.as_mut().expect("of_stream lists it");
            let member = group.members.get_mut(&stream).expect("of_stream lists it");
            member.place = Some((gate, conn));
            *group.gates.entry(gate).or_insert(0) += 1;
            let member = Shift::Member { group: id, conn, stream: handle };
            out.control(gate, &LinkFrame::Shift(member));
        }
    }

    /// Tells a client that is back of the groups that it is no member of any more.
    fn tell_left(
        &self,
        out: &mut impl Outlet,
        (stream, handle): (u32, u32),
        (gate, conn): (WorkerId, Slot),
        listed: &[Seen],
    ) -> bool {
        let joined = self.of_stream.get(&stream).map_or(&[][..], Vec::as_slice);
        let is_in = |group| joined.iter().any(|index| self.id_of(*index).handle() == group);
        let mut took = true;
        for left in listed.iter().filter(|item| !is_in(item.handle)) {
            let frame = DownFrame::Left { group: left.handle, stream: handle };
            took &= out.send(gate, |bytes| {
                put_down(bytes, gate.worker, conn, |bytes| frame.encode(bytes));
            });
        }
        took
    }

    /// The handles of the groups that `stream` is a member of.
    pub(super) fn handles_of(&self, stream: u32) -> impl Iterator<Item = u32> {
        let joined = self.of_stream.get(&stream).map_or(&[][..], Vec::as_slice);
        joined.iter().map(|index| self.id_of(*index).handle())
    }

    /// Nobody is connected to `stream` for now.
    pub(super) fn away(&mut self, stream: u32) {
        for index in self.of_stream.get(&stream).cloned().unwrap_or_default() {
            self.remove_place(index, stream);
        }
    }

    /// `stream` has ended: it leaves all its groups. Its gate cleans up by itself if the
    /// connection ends too; otherwise it is told.
    pub(super) fn forget(&mut self, out: &mut impl Outlet, stream: u32) {
        for index in self.of_stream.remove(&stream).unwrap_or_default() {
            self.remove_member(out, index, stream);
        }
    }

    fn end(&mut self, out: &mut impl Outlet, index: u32) {
        let id = self.id_of(index);
        let Some(group) = self.table[index as usize].group.take() else { return };
        for stream in group.members.keys() {
            if let Some(groups) = self.of_stream.get_mut(stream) {
                groups.retain(|other| *other != index);
                if groups.is_empty() {
                    self.of_stream.remove(stream);
                }
            }
        }
        if let Some(groups) = self.of_entity.get_mut(&group.owner) {
            groups.retain(|other| *other != index);
            if groups.is_empty() {
                self.of_entity.remove(&group.owner);
            }
        }
        for gate in group.gates.keys() {
            out.control(*gate, &LinkFrame::Disband { group: id });
        }
        self.len -= 1;
        let entry = &mut self.table[index as usize];
        entry.generation = entry.generation.wrapping_add(1).max(1);
        self.free.push(index);
    }

    /// Takes a member out and tells its gate.
    fn remove_member(&mut self, out: &mut impl Outlet, index: u32, stream: u32) {
        let place = self.remove_place(index, stream);
        let id = self.id_of(index);
        let Some(group) = self.table[index as usize].group.as_mut() else { return };
        if let (Some(member), Some((gate, conn))) = (group.members.remove(&stream), place) {
            out.control(gate, &LinkFrame::Leave { group: id, conn, stream: member.handle });
        }
    }

    /// Takes a member's client off its gate; gives where it was.
    fn remove_place(&mut self, index: u32, stream: u32) -> Place {
        let group = self.table[index as usize].group.as_mut()?;
        let (gate, conn) = group.members.get_mut(&stream)?.place.take()?;
        let count = group.gates.get_mut(&gate).expect("counted when it was attached");
        *count -= 1;
        if *count == 0 {
            group.gates.remove(&gate);
        }
        Some((gate, conn))
    }

    fn find(&self, id: GroupId) -> Option<&Group> {
        self.table[self.index_of(id)? as usize].group.as_ref()
    }

    fn index_of(&self, id: GroupId) -> Option<u32> {
        let entry = self.table.get(id.slot.index as usize)?;
        let ours = id.node == self.me.node
            && id.worker == self.me.worker
            && entry.generation == id.slot.generation
            && entry.group.is_some();
        ours.then_some(id.slot.index)
    }

    fn id_of(&self, index: u32) -> GroupId {
        let generation = self.table[index as usize].generation;
        let slot = Slot { index, generation };
        GroupId { node: self.me.node, worker: self.me.worker, slot }
    }
}

impl Group {
    fn send_join(
        &self,
        out: &mut impl Outlet,
        group: GroupId,
        (gate, conn, stream): (WorkerId, Slot, u32),
        number: u64,
    ) {
        let handle = group.handle();
        let (kind, name) = (self.kind, &*self.name);
        out.control(gate, &LinkFrame::Join { group, conn, stream, handle, kind, number, name });
    }

    /// Numbers a cast and keeps it, at the cost of the oldest.
    fn keep(&mut self, options: &Options, method: MethodId, body: &[u8]) -> u64 {
        self.last += 1;
        self.ring_bytes += body.len();
        self.ring.push_back(Cast { number: self.last, method, body: body.into() });
        while self.ring.len() > options.group_ring_frames_max
            || self.ring_bytes > options.group_ring_bytes_max && self.ring.len() > 1
        {
            let oldest = self.ring.pop_front().expect("the ring is not empty");
            self.ring_bytes -= oldest.body.len();
        }
        self.last
    }
}
