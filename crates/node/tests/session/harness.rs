use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use env::{Instant, Random, WallTime};
use node::session::{
    Binding, Bindings, Delivery, Entities, FromClient, Homes, Opening, Options, Outlet, PeerInfo,
    Places, Scope, Streams,
};
use proto::frame::{CloseCode, DownFrame, Seen, SeenGroup, Status, StreamUp, UpFrame};
use proto::link::{Admission, GroupId, HomeFrame, LinkFrame, Selected, Shift, Slot, WorkerId};
use proto::stream::{Arrival, Inbound, Limits, Outbound};
use proto::{AccountId, EntityId, Incarnation, KindId, MethodId, Reader, SessionId};

use crate::shifts::Leaving;

pub const AVATAR: KindId = KindId::of("avatar");
pub const ARENA: KindId = KindId::of("arena");
/// Replies with its argument and pushes it back too.
pub const ECHO: MethodId = MethodId::of("echo");
/// Is not answered until the test says so.
pub const SLOW: MethodId = MethodId::of("slow");
/// Is refused by the entity.
pub const DENIED: MethodId = MethodId::of("denied");
pub const TELL: MethodId = MethodId::of("tell");
pub const PUSH: MethodId = MethodId::of("push");

pub const fn worker(node: u64) -> WorkerId {
    WorkerId { node: Incarnation(node), worker: 0 }
}

pub const fn avatar(key: u64) -> EntityId {
    EntityId::keyed(AVATAR, key)
}

pub fn session(n: u8) -> SessionId {
    SessionId([n; 16])
}

/// Which worker serves what: one home, and an owner for each kind.
#[derive(Clone, Debug, Default)]
pub struct Map {
    pub home: WorkerId,
    pub owners: BTreeMap<KindId, WorkerId>,
    /// Other workers that may have sessions.
    pub others: Vec<WorkerId>,
    /// Those that say when they have handed over what is not theirs any more.
    pub workers: Vec<WorkerId>,
}

impl Places for Map {
    fn worker_of(&self, entity: EntityId) -> Option<WorkerId> {
        self.owners.get(&entity.kind).copied()
    }

    fn home_of(&self, _account: AccountId) -> Option<WorkerId> {
        Some(self.home)
    }

    fn former_homes(&self) -> Vec<WorkerId> {
        self.others.clone()
    }

    fn workers(&self) -> Vec<WorkerId> {
        self.workers.clone()
    }
}

pub type Wires = BTreeMap<(WorkerId, WorkerId), VecDeque<Vec<u8>>>;

/// The links out of one worker.
pub struct Port<'a> {
    pub from: WorkerId,
    pub wires: &'a mut Wires,
    /// Frames that a link takes before it is full.
    pub room: usize,
}

impl Outlet for Port<'_> {
    fn send(&mut self, to: WorkerId, write: impl FnOnce(&mut Vec<u8>)) -> bool {
        let wire = self.wires.entry((self.from, to)).or_default();
        if wire.len() >= self.room {
            return false;
        }
        let mut payload = Vec::new();
        write(&mut payload);
        wire.push_back(payload);
        true
    }

    fn control(&mut self, to: WorkerId, frame: &LinkFrame<'_>) {
        let mut payload = Vec::new();
        frame.encode(to.worker, &mut payload);
        self.wires.entry((self.from, to)).or_default().push_back(payload);
    }
}

/// Entities that write down what reached them.
#[derive(Debug, Default)]
pub struct Fake {
    /// `(entity, account, method, argument)`.
    pub log: Vec<(EntityId, u64, MethodId, u64)>,
    /// `online`, `away` and `offline` of clients.
    pub visits: Vec<String>,
    /// Requests to be answered.
    pub requests: VecDeque<(Slot, u64, MethodId, Vec<u8>)>,
    pub answers: Vec<(u64, Status, Vec<u8>)>,
    pub groups: Vec<GroupId>,
    pub selected: Vec<Selected>,
    pub refuses: Option<Status>,
    pub loads: bool,
}

impl Entities for Fake {
    type Seat = EntityId;
    type Peer = PeerInfo;

    fn activate(&mut self, target: EntityId) -> Opening<EntityId> {
        match self.refuses {
            Some(status) => Opening::Refused(status),
            None if self.loads => Opening::Loading,
            None => Opening::Ready(target),
        }
    }

    fn peer(&mut self, info: &PeerInfo) -> PeerInfo {
        info.clone()
    }

    fn online(&mut self, _: EntityId, peer: &PeerInfo) {
        self.visits.push(format!("{} online", peer.account.0));
    }

    fn offline(&mut self, _: EntityId, peer: &PeerInfo, code: CloseCode, ended: bool) {
        let how = if ended { "offline" } else { "away" };
        self.visits.push(format!("{} {how} {code:?}", peer.account.0));
    }

    fn deliver(
        &mut self,
        _: Instant,
        seat: EntityId,
        peer: &PeerInfo,
        message: FromClient<'_>,
    ) -> Result<(), Status> {
        if message.method == DENIED {
            return Err(Status::Denied);
        }
        let argument = number(message.body);
        self.log.push((seat, peer.account.0, message.method, argument));
        if let Some((tag, _)) = message.request {
            self.requests.push_back((peer.slot, tag, message.method, message.body.to_vec()));
        }
        Ok(())
    }

    fn answered(&mut self, tag: u64, status: Status, body: &[u8]) {
        self.answers.push((tag, status, body.to_vec()));
    }
}

pub fn number(body: &[u8]) -> u64 {
    body.try_into().map_or(0, u64::from_le_bytes)
}

/// A node: homes and streams of one worker.
pub struct Server {
    pub homes: Homes,
    pub streams: Streams<Fake>,
    pub fake: Fake,
}

/// A gate that follows the protocol, without limits and ciphers.
#[derive(Debug, Default)]
pub struct Gate {
    pub conns: BTreeMap<Slot, Conn>,
    next: u32,
    /// Members of each group.
    /// Members: connections and the streams by which they are.
    pub groups: BTreeMap<GroupId, BTreeSet<(Slot, u32)>>,
    pub faults: usize,
}

#[derive(Debug)]
pub struct Conn {
    pub client: usize,
    pub account: AccountId,
    pub session: SessionId,
    pub generation: u64,
    pub home: WorkerId,
    pub welcomed: bool,
    pub held: Vec<Vec<u8>>,
    /// It goes to another gate.
    pub leaving: Option<Box<Leaving>>,
    /// It has come from another gate, and waits for these routes.
    pub expects: Option<Vec<u32>>,
    /// `None` for a stream that has ended, which never leads anywhere again.
    pub routes: BTreeMap<u32, Option<(WorkerId, Slot)>>,
    pub up: VecDeque<Vec<u8>>,
    pub down: VecDeque<Vec<u8>>,
}

/// A client that follows the protocol with nothing but `proto::stream`.
#[derive(Debug, Default)]
pub struct Client {
    pub account: u64,
    pub session: SessionId,
    pub generation: u64,
    pub at: Option<(WorkerId, Slot)>,
    pub welcomed: u32,
    pub streams: BTreeMap<u32, ClientStream>,
    pub names: BTreeMap<String, u32>,
    pub closed: Vec<CloseCode>,
    pub pushes: Vec<u64>,
    pub replies: Vec<(u64, Status, u64)>,
    pub casts: Vec<(u64, u64)>,
    /// Group handle and number of the last cast seen.
    pub groups: BTreeMap<u32, u64>,
    /// Groups and the streams by which it is in them.
    pub members: BTreeSet<(u32, u32)>,
    pub resyncs: u32,
    pub faults: Vec<(u64, Status)>,
    pub calls: Vec<(u32, u64, u64)>,
    pub gone: Vec<u32>,
    /// It sends frames that it does not number itself.
    pub crooked: bool,
    pub acked_down: u64,
}

#[derive(Debug)]
pub struct ClientStream {
    pub out: Outbound<(bool, MethodId, Vec<u8>)>,
    pub inbound: Inbound,
    pub live: bool,
}

pub struct World {
    pub now: Instant,
    pub wall: WallTime,
    pub random: Random,
    pub map: Map,
    pub wires: Wires,
    pub room: usize,
    pub servers: BTreeMap<WorkerId, Server>,
    pub gates: BTreeMap<WorkerId, Gate>,
    pub clients: Vec<Client>,
    /// Everything delivered, counted.
    pub steps: u64,
}

impl World {
    /// Two gates (nodes 1 and 2), a home (node 10) and two owners (avatars at 20, arenas at 21).
    pub fn new(seed: u64, options: &Options) -> World {
        let home = worker(10);
        let owners = BTreeMap::from([(AVATAR, worker(20)), (ARENA, worker(21))]);
        let bindings = Bindings::new(|login| {
            Ok(vec![Binding { name: "avatar".into(), target: avatar(login.account.0) }])
        });
        let servers = [10, 20, 21].map(|node| {
            let me = worker(node);
            let homes = Homes::new(me, options.clone(), bindings.clone());
            let streams = Streams::new(me, options.clone());
            (me, Server { homes, streams, fake: Fake::default() })
        });
        World {
            now: Instant::from_nanos(1_000_000_000),
            wall: WallTime(1_000_000),
            random: Random::from_seed(seed),
            map: Map { home, owners, ..Map::default() },
            wires: Wires::new(),
            room: usize::MAX,
            servers: servers.into(),
            gates: BTreeMap::from([(worker(1), Gate::default()), (worker(2), Gate::default())]),
            clients: Vec::new(),
            steps: 0,
        }
    }

    pub fn server(&mut self, node: u64) -> &mut Server {
        self.servers.get_mut(&worker(node)).expect("a node of the test")
    }

    /// A client that has not connected yet.
    pub fn client(&mut self, account: u64, n: u8) -> usize {
        self.clients.push(Client { account, session: session(n), ..Client::default() });
        self.clients.len() - 1
    }

    // -- what clients do --

    pub fn login(&mut self, client: usize, gate: u64) -> Slot {
        let (account, session) = (self.clients[client].account, self.clients[client].session);
        self.clients[client].generation = 1;
        let conn = self.connect(client, gate, 1);
        let frame = LinkFrame::Open(Admission {
            conn,
            session,
            account: AccountId(account),
            expires_ms: self.wall.0 + 60_000,
            since_ms: self.wall.0,
            level: 1,
            name: "someone",
            address: "192.0.2.1:7",
        });
        self.send(worker(gate), self.map.home, &frame);
        conn
    }

    pub fn resume(&mut self, client: usize, gate: u64) -> Slot {
        let found = &mut self.clients[client];
        found.generation += 1;
        let generation = found.generation;
        for stream in found.streams.values_mut() {
            stream.live = false;
        }
        let streams = found
            .streams
            .iter()
            .map(|(handle, s)| Seen { handle: *handle, number: s.inbound.applied() })
            .collect();
        let seen = |(group, stream): &(u32, u32)| SeenGroup {
            group: *group,
            stream: *stream,
            number: found.groups[group],
        };
        let groups = found.members.iter().map(seen).collect();
        let (account, session) = (AccountId(found.account), found.session);
        let conn = self.connect(client, gate, generation);
        let level = 1;
        let frame =
            LinkFrame::Resume { conn, session, account, level, generation, streams, groups };
        self.send(worker(gate), self.map.home, &frame);
        conn
    }

    pub fn connect(&mut self, client: usize, gate: u64, generation: u64) -> Slot {
        let (account, session) = (self.clients[client].account, self.clients[client].session);
        let at = self.gates.get_mut(&worker(gate)).expect("a gate of the test");
        at.next += 1;
        let conn = Slot { index: at.next, generation: 1 };
        at.conns.insert(
            conn,
            Conn {
                client,
                account: AccountId(account),
                session,
                generation,
                home: self.map.home,
                welcomed: false,
                held: Vec::new(),
                leaving: None,
                expects: None,
                routes: BTreeMap::new(),
                up: VecDeque::new(),
                down: VecDeque::new(),
            },
        );
        self.clients[client].at = Some((worker(gate), conn));
        conn
    }

    /// The connection breaks; what is on the way in both directions is lost.
    pub fn kill(&mut self, client: usize) {
        if let Some((gate, conn)) = self.clients[client].at.take() {
            self.end_conn(gate, conn, Some(CloseCode::Idle));
        }
    }

    /// The client says goodbye.
    pub fn logout(&mut self, client: usize) {
        let Some((gate, conn)) = self.clients[client].at.take() else { return };
        let Some(found) = self.end_conn(gate, conn, None) else { return };
        let (session, account, generation) = (found.session, found.account, found.generation);
        self.send(gate, found.home, &LinkFrame::Logout { session, account, generation });
    }

    /// Queues a numbered command on the stream called `name`; `None` if there is none.
    pub fn say(
        &mut self,
        client: usize,
        name: &str,
        request: bool,
        method: MethodId,
        argument: u64,
    ) -> Option<u64> {
        let found = &mut self.clients[client];
        let handle = *found.names.get(name)?;
        let stream = found.streams.get_mut(&handle)?;
        let body = argument.to_le_bytes().to_vec();
        let number = stream.out.push((request, method, body), 8).ok()?;
        if stream.live {
            self.send_command(client, handle, number);
        }
        Some(number)
    }

    /// Sends command `number` as it is kept, once more if it was sent before.
    pub fn send_command(&mut self, client: usize, handle: u32, number: u64) {
        let found = &mut self.clients[client];
        let stream = found.streams.get_mut(&handle).expect("the stream is there");
        let ack = stream.inbound.tell();
        let Some((_, (request, method, body))) = stream.out.kept().find(|(n, _)| *n == number)
        else {
            return;
        };
        let method = *method;
        let frame = if *request {
            StreamUp::Request { number, ack, method, deadline_ms: 0, body }
        } else {
            StreamUp::Tell { number, ack, method, body }
        };
        let mut payload = Vec::new();
        UpFrame::Stream { stream: handle, frame }.encode(&mut payload);
        self.up(client, payload);
    }

    /// Sends any frame of a stream.
    pub fn send_up(&mut self, client: usize, stream: u32, frame: StreamUp<'_>) {
        let mut payload = Vec::new();
        UpFrame::Stream { stream, frame }.encode(&mut payload);
        self.up(client, payload);
    }

    fn up(&mut self, client: usize, payload: Vec<u8>) {
        if let Some((gate, conn)) = self.clients[client].at
            && let Some(conn) = self.gates.get_mut(&gate).and_then(|g| g.conns.get_mut(&conn))
        {
            conn.up.push_back(payload);
        }
    }

    // -- what the world does --

    /// Delivers one thing that is on its way; `false` if nothing is.
    pub fn step(&mut self) -> bool {
        let mut ways: Vec<Way> = Vec::new();
        ways.extend(self.wires.iter().filter(|(_, w)| !w.is_empty()).map(|(w, _)| Way::Link(*w)));
        for (gate, state) in &self.gates {
            for (slot, conn) in &state.conns {
                if !conn.up.is_empty() && conn.welcomed && conn.leaving.is_none() {
                    ways.push(Way::Up(*gate, *slot));
                }
                if !conn.down.is_empty() {
                    ways.push(Way::Down(*gate, *slot));
                }
            }
        }
        let Some(way) = self.random.pick(&ways).copied() else { return false };
        self.steps += 1;
        match way {
            Way::Link((from, to)) => {
                let payload = self.wires.get_mut(&(from, to)).and_then(VecDeque::pop_front);
                self.deliver(from, to, &payload.expect("it was not empty"));
            }
            Way::Up(gate, slot) => {
                let conn = self.gates.get_mut(&gate).and_then(|g| g.conns.get_mut(&slot));
                let payload = conn.expect("listed").up.pop_front().expect("it was not empty");
                self.gate_up(gate, slot, &payload);
            }
            Way::Down(gate, slot) => {
                let conn = self.gates.get_mut(&gate).and_then(|g| g.conns.get_mut(&slot));
                let conn = conn.expect("listed");
                let payload = conn.down.pop_front().expect("it was not empty");
                let client = conn.client;
                if self.clients[client].at == Some((gate, slot)) {
                    self.client_frame(client, &payload);
                }
            }
        }
        true
    }

    /// Delivers until nothing is on its way.
    pub fn run(&mut self) {
        for _ in 0..200_000 {
            if !self.step() {
                return;
            }
        }
        panic!("the world does not come to rest");
    }

    /// Lets time pass, then delivers what comes of it.
    pub fn pass(&mut self, time: Duration) {
        self.now += time;
        self.wall.0 += time.as_millis() as u64;
        for node in self.servers.keys().copied().collect::<Vec<_>>() {
            self.with(node, |server, io| {
                server.homes.handle_timeout(io);
                server.streams.handle_timeout(io.now, io.out, &mut server.fake);
                server.streams.mind_orphans(io, &mut server.fake);
            });
        }
        self.run();
    }

    pub fn with<R>(
        &mut self,
        node: WorkerId,
        act: impl FnOnce(&mut Server, &mut Scope<'_, Port<'_>, Map>) -> R,
    ) -> R {
        let server = self.servers.get_mut(&node).expect("a node of the test");
        let mut port = Port { from: node, wires: &mut self.wires, room: self.room };
        let mut io = Scope { now: self.now, wall: self.wall, out: &mut port, places: &self.map };
        let result = act(server, &mut io);
        server.streams.settle(io.out, &mut server.fake);
        result
    }

    /// `node` dies: links to it break, the others hear of it.
    pub fn node_down(&mut self, node: WorkerId) {
        self.wires.retain(|(from, to), _| *from != node && *to != node);
        self.servers.remove(&node);
        if let Some(gate) = self.gates.remove(&node) {
            for conn in gate.conns.values() {
                let client = &mut self.clients[conn.client];
                client.at = client.at.filter(|(at, _)| *at != node);
            }
        }
        for other in self.servers.keys().copied().collect::<Vec<_>>() {
            self.with(other, |server, io| {
                server.streams.handle_peer_down(io.now, io.out, &mut server.fake, node.node);
                server.homes.handle_peer_down(io, node.node);
            });
        }
        for gate in self.gates.keys().copied().collect::<Vec<_>>() {
            self.gate_lost(gate, node);
        }
    }

    /// The link between two workers breaks: what is on it is lost, and both hear of it.
    pub fn break_link(&mut self, one: WorkerId, other: WorkerId) {
        for way in [(one, other), (other, one)] {
            self.wires.remove(&way);
        }
        for (at, gone) in [(one, other), (other, one)] {
            if self.servers.contains_key(&at) {
                self.with(at, |server, io| {
                    server.streams.handle_peer_down(io.now, io.out, &mut server.fake, gone.node);
                    server.homes.handle_peer_down(io, gone.node);
                });
            } else {
                self.gate_lost(at, gone);
            }
        }
    }

    /// A gate closes the connections that had to do with `node`.
    fn gate_lost(&mut self, gate: WorkerId, node: WorkerId) {
        let conns: Vec<Slot> = self.gates[&gate]
            .conns
            .iter()
            .filter(|(_, c)| c.home == node || c.routes.values().flatten().any(|(o, _)| *o == node))
            .map(|(slot, _)| *slot)
            .collect();
        for slot in conns {
            self.close(gate, slot, CloseCode::Unavailable);
        }
    }

    pub fn send(&mut self, from: WorkerId, to: WorkerId, frame: &LinkFrame<'_>) {
        Port { from, wires: &mut self.wires, room: usize::MAX }.control(to, frame);
    }

    fn deliver(&mut self, from: WorkerId, to: WorkerId, payload: &[u8]) {
        let (_, frame) = LinkFrame::decode(payload).expect("our own frames can be read");
        if self.gates.contains_key(&to) {
            return self.gate_link(from, to, &frame);
        }
        if !self.servers.contains_key(&to) {
            return;
        }
        self.with(to, |server, io| match &frame {
            LinkFrame::Up { slot, frame } => {
                let at = (from, *slot);
                server.streams.handle_up(io.now, io.out, &mut server.fake, at, frame);
            }
            LinkFrame::Bind { .. }
            | LinkFrame::Attach { .. }
            | LinkFrame::Detach { .. }
            | LinkFrame::Unbind { .. }
            | LinkFrame::Home(
                HomeFrame::Adopt { .. } | HomeFrame::Unlisted { .. } | HomeFrame::Check(_),
            )
            | LinkFrame::Forward(_) => {
                server.streams.handle_link(io, &mut server.fake, from, &frame);
            }
            LinkFrame::Selected(selected) => server.fake.selected.push(selected.clone()),
            LinkFrame::Shift(shift @ Shift::Stream { .. }) => {
                server.streams.shift(io.out, from, shift);
            }
            _ => server.homes.handle_link(io, from, &frame),
        });
        self.serve(to);
    }

    /// Answers all requests but the slow ones.
    pub fn serve(&mut self, node: WorkerId) {
        self.with(node, |server, io| {
            let requests = std::mem::take(&mut server.fake.requests);
            for (slot, tag, method, body) in requests {
                if method == SLOW {
                    server.fake.requests.push_back((slot, tag, method, body));
                    continue;
                }
                server.streams.push(io.out, slot, (PUSH, Delivery::Reliable), &body);
                server.streams.reply(io.out, slot, tag, Status::Ok, &body);
            }
        });
    }

    // -- the gate --

    fn gate_up(&mut self, gate: WorkerId, slot: Slot, payload: &[u8]) {
        let state = self.gates.get_mut(&gate).expect("listed");
        let conn = state.conns.get_mut(&slot).expect("listed");
        let Ok(UpFrame::Stream { stream, frame }) = UpFrame::decode(payload) else {
            panic!("clients of the test send stream frames only");
        };
        if let Some((owner, at)) = conn.routes.get(&stream).copied().flatten() {
            let mut bytes = vec![frame.head()];
            frame.encode_fields(&mut bytes);
            self.send(gate, owner, &LinkFrame::Up { slot: at, frame: &bytes });
        } else {
            state.faults += 1;
            let number = match frame {
                StreamUp::Tell { number, .. }
                | StreamUp::Request { number, .. }
                | StreamUp::Answer { number, .. } => number,
                StreamUp::Ack { .. } => return,
            };
            let status = Status::NotFound;
            put(&mut conn.down, &DownFrame::Fault { stream, number, status });
        }
    }

    fn gate_link(&mut self, from: WorkerId, at: WorkerId, frame: &LinkFrame<'_>) {
        let gate = self.gates.get_mut(&at).expect("a gate of the test");
        match *frame {
            LinkFrame::Welcome { conn, session, account, generation, resumed, .. } => {
                let Some(found) = gate.conns.get_mut(&conn) else {
                    let code = CloseCode::Idle;
                    let frame = LinkFrame::Detached { conn, session, account, generation, code };
                    return self.send(at, from, &frame);
                };
                let welcome = proto::frame::Welcome {
                    session,
                    generation,
                    resumed,
                    token: &[],
                    resume_window_ms: 60_000,
                    heartbeat_ms: 6_000,
                    frame_bytes_max: 65_536,
                };
                put(&mut found.down, &DownFrame::Welcome(welcome));
                found.welcomed = true;
                found.down.extend(std::mem::take(&mut found.held));
            }
            LinkFrame::Close { conn, code, reason } => {
                if let Some(found) = gate.conns.get_mut(&conn) {
                    put(&mut found.down, &DownFrame::Close { code, reason });
                    self.close(at, conn, code);
                }
            }
            LinkFrame::Route { conn, stream, owner, slot, kind, epoch, name, announce } => {
                if let Some(found) = gate.conns.get_mut(&conn)
                    && found.routes.get(&stream) != Some(&None)
                {
                    found.routes.insert(stream, Some((owner, slot)));
                    if announce {
                        found.tell(&DownFrame::Bound { stream, kind, epoch, name });
                    }
                    self.settle_in(at, conn);
                    self.go_on(at, conn);
                }
            }
            LinkFrame::Unroute { conn, stream, code } => {
                if let Some(found) = gate.conns.get_mut(&conn) {
                    found.routes.insert(stream, None);
                    found.tell(&DownFrame::Unbound { stream, code });
                    for members in gate.groups.values_mut() {
                        members.remove(&(conn, stream));
                    }
                    gate.groups.retain(|_, members| !members.is_empty());
                    self.settle_in(at, conn);
                    self.go_on(at, conn);
                }
            }
            LinkFrame::Shift(ref shift) => self.gate_shift(at, shift),
            LinkFrame::Down { conn, frame } => {
                if let Some(found) = gate.conns.get_mut(&conn) {
                    found.tell_bytes(frame.to_vec());
                }
            }
            LinkFrame::Join { group, conn, stream, handle, kind, number, name } => {
                if let Some(found) = gate.conns.get_mut(&conn)
                    && matches!(found.routes.get(&stream), Some(Some(_)))
                {
                    gate.groups.entry(group).or_default().insert((conn, stream));
                    found.tell(&DownFrame::Joined { group: handle, stream, kind, number, name });
                }
            }
            LinkFrame::Leave { group, conn, stream } => {
                let Some(members) = gate.groups.get_mut(&group) else { return };
                if members.remove(&(conn, stream))
                    && let Some(found) = gate.conns.get_mut(&conn)
                {
                    found.tell(&DownFrame::Left { group: group.handle(), stream });
                }
                gate.groups.retain(|_, members| !members.is_empty());
            }
            LinkFrame::Disband { group } => {
                for (conn, stream) in gate.groups.remove(&group).unwrap_or_default() {
                    if let Some(found) = gate.conns.get_mut(&conn) {
                        found.tell(&DownFrame::Left { group: group.handle(), stream });
                    }
                }
            }
            LinkFrame::Cast { group, frame } => {
                let mut r = Reader::new(frame);
                let number = r.varint().expect("our own cast");
                let method = MethodId(r.u32().expect("our own cast"));
                let body = r.take_rest();
                let members = gate.groups.get(&group).into_iter().flatten();
                for conn in members.map(|(conn, _)| *conn).collect::<BTreeSet<_>>() {
                    if let Some(found) = gate.conns.get_mut(&conn) {
                        let group = group.handle();
                        found.tell(&DownFrame::Cast { group, number, method, body });
                    }
                }
            }
            // These gates lose nothing that a home would have to hear again.
            LinkFrame::Home(_) => {}
            ref other => panic!("no frame for a gate: {other:?}"),
        }
    }

    /// The gate closes a connection after what is queued for it.
    fn close(&mut self, gate: WorkerId, slot: Slot, code: CloseCode) {
        let Some(conn) = self.gates.get(&gate).and_then(|g| g.conns.get(&slot)) else { return };
        let (client, down) = (conn.client, conn.down.clone());
        if self.clients[client].at == Some((gate, slot)) {
            for payload in down {
                if self.clients[client].at.is_some() {
                    self.client_frame(client, &payload);
                }
            }
            self.clients[client].at = None;
            if self.clients[client].closed.last() != Some(&code) {
                self.clients[client].closed.push(code);
            }
        }
        self.end_conn(gate, slot, code.may_resume().then_some(code));
    }

    fn end_conn(&mut self, gate: WorkerId, slot: Slot, tell: Option<CloseCode>) -> Option<Conn> {
        let state = self.gates.get_mut(&gate)?;
        let conn = state.conns.remove(&slot)?;
        for members in state.groups.values_mut() {
            members.retain(|(member, _)| *member != slot);
        }
        state.groups.retain(|_, members| !members.is_empty());
        if let Some(Leaving { gate, to, .. }) = conn.leaving.as_deref() {
            // It gives up waiting for who does not come.
            self.end_conn(*gate, *to, Some(CloseCode::Unavailable));
        }
        if let Some(code) = tell {
            let (session, account, generation) = (conn.session, conn.account, conn.generation);
            let frame = LinkFrame::Detached { conn: slot, session, account, generation, code };
            self.send(gate, conn.home, &frame);
        }
        Some(conn)
    }

    // -- the client --

    fn client_frame(&mut self, client: usize, payload: &[u8]) {
        let found = &mut self.clients[client];
        match DownFrame::decode(payload).expect("our own frames can be read") {
            DownFrame::Welcome(welcome) => {
                found.welcomed += 1;
                found.generation = found.generation.max(welcome.generation);
            }
            DownFrame::Bound { stream, name, .. } => {
                if found.names.get(name).is_some_and(|known| stream < *known) {
                    return; // It was on its way when a later one had come already.
                }
                if let Some(old) = found.names.insert(name.into(), stream)
                    && old != stream
                {
                    found.streams.remove(&old);
                    found.leave(old, |_| true);
                }
                found.streams.entry(stream).or_insert_with(|| ClientStream {
                    out: Outbound::new(Limits::default()),
                    inbound: Inbound::default(),
                    live: true,
                });
            }
            DownFrame::Unbound { stream, .. } => {
                found.gone.push(stream);
                found.streams.remove(&stream);
                found.leave(stream, |_| true);
                found.names.retain(|_, handle| *handle != stream);
            }
            DownFrame::Resumed { stream, applied, .. } => {
                let Some(state) = found.streams.get_mut(&stream) else { return };
                let honest = state.out.acknowledge(applied);
                assert!(honest || found.crooked, "the server applied what was never sent");
                state.live = true;
                let again: Vec<u64> = state.out.kept().map(|(number, _)| number).collect();
                for number in again {
                    self.send_command(client, stream, number);
                }
            }
            DownFrame::Reply { stream, number, ack, request, status, body } => {
                if self.arrived(client, stream, number, ack) {
                    let replies = &mut self.clients[client].replies;
                    let known = replies.iter().any(|(answered, ..)| *answered == request);
                    // A repeated answer is unnumbered, and of no use if the first one came.
                    if !known || number != 0 {
                        replies.push((request, status, self::number(body)));
                    }
                }
            }
            DownFrame::Push { stream, number, ack, body, .. } => {
                if self.arrived(client, stream, number, ack) {
                    self.clients[client].pushes.push(self::number(body));
                }
            }
            DownFrame::Call { stream, number, ack, call, body, .. } => {
                if self.arrived(client, stream, number, ack) {
                    self.clients[client].calls.push((stream, call, self::number(body)));
                }
            }
            DownFrame::Ack { stream, applied, .. } => {
                found.acked_down += 1;
                if let Some(state) = found.streams.get_mut(&stream) {
                    assert!(state.out.acknowledge(applied));
                }
            }
            DownFrame::Cast { group, number, body, .. } => {
                if number != 0 {
                    // A stream that took another's name has ended the membership of that one, and
                    // brings its own later.
                    let Some(last) = found.groups.get_mut(&group) else { return };
                    assert_eq!(number, *last + 1, "casts come in order, without a gap");
                    *last = number;
                }
                found.casts.push((number, self::number(body)));
            }
            DownFrame::Joined { group, stream, number, .. } => {
                if !found.streams.contains_key(&stream) {
                    return; // Its stream was on its way when a later one had come already.
                }
                found.members.insert((group, stream));
                let last = found.groups.entry(group).or_insert(number);
                if *last < number {
                    *last = number;
                    found.resyncs += 1;
                }
            }
            DownFrame::Left { group, stream } => found.leave(stream, |left| left == group),
            DownFrame::Fault { number, status, .. } => found.faults.push((number, status)),
            DownFrame::Close { code, .. } => found.closed.push(code),
            other => panic!("not sent in this test: {other:?}"),
        }
    }

    fn arrived(&mut self, client: usize, stream: u32, number: u64, ack: u64) -> bool {
        let Some(state) = self.clients[client].streams.get_mut(&stream) else { return false };
        assert!(state.out.acknowledge(ack), "the server applied what was never sent");
        if number == 0 {
            return true;
        }
        let arrival = state.inbound.arrive(number);
        assert_ne!(arrival, Arrival::Gap, "frame {number} of stream {stream} comes too early");
        if state.inbound.is_due() {
            let ack = state.inbound.tell();
            self.send_up(client, stream, StreamUp::Ack { ack });
        }
        arrival == Arrival::Next
    }

    /// Nothing is left of any session, anywhere.
    /// Closes connections that their clients have left for others: of two logins of one client the
    /// first may come in last.
    pub fn drop_ghosts(&mut self) {
        let is_ghost = |at: WorkerId, slot: Slot, conn: &Conn| {
            self.clients[conn.client].at != Some((at, slot))
        };
        let all = self.gates.iter().flat_map(|(at, gate)| gate.conns.iter().map(|c| (*at, c)));
        let ghosts = all.filter(|(at, (slot, conn))| is_ghost(*at, **slot, conn));
        let ghosts: Vec<_> = ghosts.map(|(at, (slot, _))| (at, *slot)).collect();
        for (gate, slot) in ghosts {
            self.close(gate, slot, CloseCode::Idle);
        }
    }

    pub fn assert_empty(&mut self) {
        for (me, server) in &self.servers {
            let (homes, streams) = (server.homes.stats(), server.streams.stats());
            assert_eq!(homes.sessions, 0, "sessions at {me:?}");
            assert_eq!(streams.streams, 0, "streams at {me:?}");
            assert_eq!(streams.memberships, 0, "memberships at {me:?}");
            assert_eq!((streams.open_calls, streams.open_requests), (0, 0), "open at {me:?}");
        }
        for gate in self.gates.values() {
            assert!(gate.conns.is_empty() && gate.groups.is_empty(), "{gate:?}");
        }
    }
}

impl Client {
    /// Ends the memberships by a stream.
    fn leave(&mut self, stream: u32, meant: impl Fn(u32) -> bool) {
        self.members.retain(|(group, by)| *by != stream || !meant(*group));
        let members = &self.members;
        self.groups.retain(|group, _| members.iter().any(|(member, _)| member == group));
    }
}

#[derive(Clone, Copy, Debug)]
enum Way {
    Link((WorkerId, WorkerId)),
    Up(WorkerId, Slot),
    Down(WorkerId, Slot),
}

impl Conn {
    fn tell(&mut self, frame: &DownFrame<'_>) {
        let mut payload = Vec::new();
        frame.encode(&mut payload);
        self.tell_bytes(payload);
    }

    fn tell_bytes(&mut self, payload: Vec<u8>) {
        if self.welcomed { self.down.push_back(payload) } else { self.held.push(payload) }
    }
}

fn put(queue: &mut VecDeque<Vec<u8>>, frame: &DownFrame<'_>) {
    let mut payload = Vec::new();
    frame.encode(&mut payload);
    queue.push_back(payload);
}
