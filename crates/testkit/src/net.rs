//! Pipes between the ends of connections: in order, with delays, and cut at any byte.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use env::{Instant, Random};
use mesh::LinkId;
use proto::link::Slot;

use crate::faults::{Counts, Faults};

/// A worker or gate of the simulated cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    Gate(usize),
    Worker(usize, u8),
}

/// A process of the simulated cluster, as the network knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Site {
    /// A gate's.
    Gate(usize),
    /// A node's.
    Node(usize),
    /// The coordinator's.
    Coordinator,
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Site::Gate(number) => write!(f, "gate {number}"),
            Site::Node(node) => write!(f, "node {node}"),
            Site::Coordinator => write!(f, "the coordinator"),
        }
    }
}

impl Place {
    /// The process that it is in.
    pub(crate) fn site(self) -> Site {
        match self {
            Place::Gate(number) => Site::Gate(number),
            Place::Worker(node, _) => Site::Node(node),
        }
    }
}

/// What a pipe's end is plugged into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    Client(usize),
    Conn(usize, Slot),
    Link(Place, LinkId),
}

impl End {
    /// The worker or gate that has this end.
    pub(crate) fn place(self) -> Option<Place> {
        match self {
            End::Client(_) => None,
            End::Conn(gate, _) => Some(Place::Gate(gate)),
            End::Link(place, _) => Some(place),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Gate(number) => write!(f, "gate {number}"),
            Place::Worker(node, worker) => write!(f, "worker {node}.{worker}"),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Client(number) => write!(f, "client {number}"),
            End::Conn(gate, slot) => write!(f, "gate {gate} conn {}", slot.index),
            End::Link(place, link) => write!(f, "{place} {link:?}"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PipeId(pub(crate) u64);

/// Which way bytes flow: from the end that opened the pipe, or to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    There,
    Back,
}

/// Something that happens at its time.
#[derive(Debug)]
pub(crate) enum Happening {
    /// The opening end's call reaches the other side.
    Arrive(PipeId),
    /// The opening end hears that it is connected.
    Connected(PipeId),
    ConnectFailed(PipeId, End),
    Bytes(PipeId, Way, Vec<u8>),
    /// An end learns that its pipe is gone.
    Closed(PipeId, End),
    Wake(Place),
    WakeClient(usize),
    /// A gate that was killed is back.
    Revive(usize),
    /// A node hears that the directory has changed.
    Directory,
    Local(usize, u8, Vec<u8>),
    Batch(usize, u8, Box<node::Batch>),
    /// A link of another worker of the node has ended.
    WayDown(usize, u8, proto::Incarnation),
    /// A request reaches the store.
    Request(u64, Box<crate::wire::Want>),
    /// An answer of the store reaches its node.
    Reply(u64, Box<crate::wire::Reply>),
    /// Requests may have waited for too long.
    Expire,
    /// A sync of that life of the store has ended.
    Synced(u64),
    /// The store is back.
    StoreStart,
    /// The store goes on.
    StoreWork,
    /// The thread of a node that beats has something to do.
    Beat(usize),
    /// A node that was killed is back.
    NodeStart(usize),
    /// A node that drains may be empty: which, in which life, until when, and when it is back.
    Leave(usize, u32, Instant, Duration),
    /// The process of a node that was stopped ends.
    End(usize, u32, Duration),
    /// A place hears late of who is there.
    View(Place, std::sync::Arc<cluster::Directory>),
    /// What a gate held of a connection reaches the next gate, in that life; whether its client is there still.
    Shifted(proto::Incarnation, Slot, Vec<u8>, bool),
    /// The coordinator has all nodes on its list again.
    Relist,
    /// A process looks at what it wants of the coordinator: which, in which life.
    Process(Site, u64),
    /// A message reaches an end of a line to the coordinator.
    Line(u64, crate::coordinator::Course, Vec<u8>),
    /// The coordinator, in that life, looks at its watch.
    Center(u32),
    /// The coordinator is back.
    CenterStart(Option<Box<::cluster::carried::Stored>>),
    /// Once a simulated second: may strike a fault.
    Strike,
    /// A test waits for this time.
    Remind,
}

#[derive(Debug)]
struct Pipe {
    from: End,
    to: Option<End>,
    /// Whom the opening end calls.
    callee: Callee,
    /// Nothing sent in a direction arrives before what was sent before.
    last: [Instant; 2],
    open: bool,
    /// Ends whose process is gone: nothing reaches them, by the way that leads there.
    gone: [bool; 2],
    /// Bytes that arrived for an end that does not read now.
    held: Vec<u8>,
    /// What a cut of the way holds up: bytes, and whether the end is to learn of the pipe's.
    stuck: [(Vec<Vec<u8>>, bool); 2],
}

/// Whom a pipe is opened to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Callee {
    Gate(usize),
    Node(proto::Incarnation),
}

pub(crate) struct Net {
    queue: BTreeMap<(Instant, u64), Happening>,
    sequence: u64,
    pipes: BTreeMap<PipeId, Pipe>,
    by_end: BTreeMap<End, PipeId>,
    next_pipe: u64,
    /// Pairs of nodes that do not reach each other, the smaller number first.
    splits: std::collections::BTreeSet<(usize, usize)>,
    /// Ways that carry nothing now, from which process to which.
    cuts: std::collections::BTreeSet<(Site, Site)>,
    pub(crate) random: Random,
    pub(crate) faults: Faults,
    pub(crate) counts: Counts,
}

impl Net {
    pub(crate) fn new(random: Random, faults: Faults) -> Self {
        Net {
            queue: BTreeMap::new(),
            sequence: 0,
            pipes: BTreeMap::new(),
            by_end: BTreeMap::new(),
            next_pipe: 0,
            splits: std::collections::BTreeSet::new(),
            cuts: std::collections::BTreeSet::new(),
            random,
            faults,
            counts: Counts::default(),
        }
    }

    pub(crate) fn at(&mut self, at: Instant, what: Happening) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence), what);
    }

    /// When the next thing happens.
    pub(crate) fn next_at(&self) -> Option<Instant> {
        self.queue.first_key_value().map(|((at, _), _)| *at)
    }

    pub(crate) fn pop(&mut self) -> Option<(Instant, Happening)> {
        self.queue.pop_first().map(|((at, _), what)| (at, what))
    }

    fn chance(&mut self, per_thousand: u64) -> bool {
        per_thousand > 0 && self.random.chance(per_thousand, 1000)
    }

    fn latency(&mut self, link: bool) -> Duration {
        let (least, spread) = if link { (20, 400) } else { (1_000, 30_000) };
        let mut micros = least + self.random.below(spread);
        if self.chance(self.faults.delay) {
            self.counts.delays += 1;
            micros += self.random.below(self.faults.delay_max.as_micros() as u64 + 1);
        }
        if link && self.chance(self.faults.lag) {
            self.counts.lags += 1;
            micros += self.random.below(self.faults.lag_max.as_micros() as u64 + 1);
        }
        Duration::from_micros(micros)
    }

    /// Opens a pipe; its arrival comes later.
    pub(crate) fn open(&mut self, now: Instant, from: End, callee: Callee) {
        self.next_pipe += 1;
        let id = PipeId(self.next_pipe);
        let (last, gone) = ([now; 2], [false; 2]);
        let (held, stuck) = (Vec::new(), Default::default());
        let pipe = Pipe { from, to: None, callee, last, open: true, gone, held, stuck };
        self.pipes.insert(id, pipe);
        self.by_end.insert(from, id);
        let at = now + self.latency(matches!(from, End::Link(..)));
        self.at(at, Happening::Arrive(id));
    }

    /// Whom an arriving pipe calls, if its opener still wants it.
    pub(crate) fn callee(&self, id: PipeId) -> Option<Callee> {
        self.pipes.get(&id).filter(|pipe| pipe.open).map(|pipe| pipe.callee)
    }

    pub(crate) fn accept(&mut self, now: Instant, id: PipeId, to: End) {
        let pipe = self.pipes.get_mut(&id).expect("callee() saw it");
        pipe.to = Some(to);
        let from = pipe.from;
        self.by_end.insert(to, id);
        let at = now + self.latency(matches!(from, End::Link(..)));
        let pipe = self.pipes.get_mut(&id).expect("callee() saw it");
        pipe.last[Way::Back as usize] = at;
        self.at(at, Happening::Connected(id));
    }

    pub(crate) fn refuse(&mut self, now: Instant, id: PipeId) {
        let Some(pipe) = self.pipes.get_mut(&id) else { return };
        pipe.open = false;
        let from = pipe.from;
        if self.by_end.get(&from) == Some(&id) {
            self.by_end.remove(&from);
        }
        self.at(now + Duration::from_millis(1), Happening::ConnectFailed(id, from));
    }

    /// The opening end of a pipe that is open still.
    pub(crate) fn opener(&self, id: PipeId) -> Option<End> {
        let is_there = |pipe: &&Pipe| pipe.open && !pipe.gone[Way::Back as usize];
        self.pipes.get(&id).filter(is_there).map(|pipe| pipe.from)
    }

    /// Whether an end of a pipe is still that of the process that it was plugged into.
    pub(crate) fn is_there(&self, id: PipeId, end: End) -> bool {
        self.pipes.get(&id).is_some_and(|pipe| {
            let way = if pipe.from == end { Way::Back } else { Way::There };
            !pipe.gone[way as usize]
        })
    }

    /// The end that bytes flowing `way` reach, if the pipe is open still.
    pub(crate) fn target(&self, id: PipeId, way: Way) -> Option<End> {
        let pipe = self.pipes.get(&id).filter(|pipe| pipe.open && !pipe.gone[way as usize])?;
        match way {
            Way::There => pipe.to,
            Way::Back => Some(pipe.from),
        }
    }

    /// The end that bytes flowing `way` come from.
    pub(crate) fn source(&self, id: PipeId, way: Way) -> Option<End> {
        let pipe = self.pipes.get(&id)?;
        match way {
            Way::There => Some(pipe.from),
            Way::Back => pipe.to,
        }
    }

    pub(crate) fn send(&mut self, now: Instant, end: End, bytes: Vec<u8>) {
        let Some(&id) = self.by_end.get(&end) else { return };
        if bytes.is_empty() || !self.pipes[&id].open {
            return;
        }
        let is_link = matches!(end, End::Link(..));
        let cut = if is_link { self.faults.cut_link } else { self.faults.cut_client };
        if self.chance(cut) {
            let kept = self.random.below(bytes.len() as u64 + 1) as usize;
            self.pass(now, id, end, bytes[..kept].to_vec());
            if is_link {
                self.counts.link_cuts += 1;
            } else {
                self.counts.client_cuts += 1;
            }
            self.cut(now, id);
            return;
        }
        if bytes.len() > 1 && self.chance(self.faults.split) {
            self.counts.splits += 1;
            let middle = 1 + self.random.below(bytes.len() as u64 - 1) as usize;
            self.pass(now, id, end, bytes[..middle].to_vec());
            self.pass(now, id, end, bytes[middle..].to_vec());
            return;
        }
        self.pass(now, id, end, bytes);
    }

    fn pass(&mut self, now: Instant, id: PipeId, end: End, bytes: Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let latency = self.latency(matches!(end, End::Link(..)));
        let is_cut = self.is_pipe_cut(id, end);
        let pipe = self.pipes.get_mut(&id).expect("by_end holds open pipes");
        let way = if pipe.from == end { Way::There } else { Way::Back };
        if is_cut {
            return pipe.stuck[way as usize].0.push(bytes);
        }
        let last = &mut pipe.last[way as usize];
        *last = (now + latency).max(*last);
        let at = *last;
        self.at(at, Happening::Bytes(id, way, bytes));
    }

    /// Sends what a client asks to be let in with. By chance it takes its time on the way, and the
    /// connection breaks meanwhile: the gate has it when the client has long asked anew elsewhere.
    pub(crate) fn send_admission(&mut self, now: Instant, end: End, bytes: Vec<u8>) {
        let strikes = self.chance(self.faults.cut_admission);
        let Some(&id) = self.by_end.get(&end).filter(|_| strikes) else {
            return self.send(now, end, bytes);
        };
        self.counts.admission_cuts += 1;
        self.counts.client_cuts += 1;
        let late = self.random.below(self.faults.lag_max.as_micros() as u64 + 1);
        let pipe = self.pipes.get_mut(&id).expect("by_end holds known pipes");
        let last = &mut pipe.last[Way::There as usize];
        *last = (now + Duration::from_micros(late)).max(*last);
        self.pass(now, id, end, bytes);
        self.cut(now, id);
    }

    /// Breaks a pipe. What is on its way may still arrive before each end learns of it.
    pub(crate) fn cut(&mut self, now: Instant, id: PipeId) {
        let Some(pipe) = self.pipes.get(&id) else { return };
        let ends = [(Some(pipe.from), Way::Back), (pipe.to, Way::There)];
        let last = pipe.last;
        for (end, way) in ends {
            let Some(end) = end else { continue };
            let mut wait = Duration::from_millis(1 + self.random.below(40));
            if self.chance(self.faults.late_end) {
                self.counts.late_ends += 1;
                let most = self.faults.late_max.as_micros() as u64 + 1;
                wait += Duration::from_micros(self.random.below(most));
            }
            let at = (now + wait).max(last[way as usize]);
            self.tell_end(at, id, way, end);
        }
        // From here on nothing more is sent; each end is unplugged when it learns of the end.
        for end in ends.into_iter().filter_map(|(end, _)| end) {
            self.unplug(id, end);
        }
    }

    /// Takes an end off its pipe. Another life of a gate may have one of the same name, which is
    /// another pipe's.
    fn unplug(&mut self, id: PipeId, end: End) {
        if self.is_plugged(end, id) {
            self.by_end.remove(&end);
        }
    }

    /// An end goes to another process as it is. `false` if its pipe has ended.
    pub(crate) fn reseat(&mut self, from: End, to: End) -> bool {
        let Some(id) = self.by_end.remove(&from) else { return false };
        self.pipes.get_mut(&id).expect("by_end holds known pipes").to = Some(to);
        self.by_end.insert(to, id);
        true
    }

    /// One end hangs up: the other learns of it after what was sent.
    pub(crate) fn hang_up(&mut self, now: Instant, end: End) {
        let Some(id) = self.by_end.remove(&end) else { return };
        let latency = self.latency(matches!(end, End::Link(..)));
        let pipe = self.pipes.get(&id).expect("by_end holds known pipes");
        let (other, way) =
            if pipe.from == end { (pipe.to, Way::There) } else { (Some(pipe.from), Way::Back) };
        let at = (now + latency).max(pipe.last[way as usize]);
        match other {
            Some(other) => {
                self.unplug(id, other);
                self.tell_end(at, id, way, other);
            }
            // It has not arrived yet and will not.
            None => self.pipes.get_mut(&id).expect("just seen").open = false,
        }
    }

    /// The end is gone with its process: nothing reaches it any more.
    pub(crate) fn vanish(&mut self, now: Instant, place: Place) {
        // What is still on its way there does not reach the next life of that process.
        for pipe in self.pipes.values_mut() {
            pipe.gone[Way::Back as usize] |= pipe.from.place() == Some(place);
            pipe.gone[Way::There as usize] |= pipe.to.and_then(End::place) == Some(place);
        }
        let ends: Vec<End> = self
            .by_end
            .keys()
            .copied()
            .filter(|end| match end {
                End::Conn(gate, _) => place == Place::Gate(*gate),
                End::Link(at, _) => *at == place,
                End::Client(_) => false,
            })
            .collect();
        for end in ends {
            if let Some(&id) = self.by_end.get(&end) {
                self.cut(now, id);
            }
        }
    }

    /// What was to happen at a node does not: its process is gone.
    pub(crate) fn forget_node(&mut self, node: usize) {
        self.queue.retain(|_, what| match what {
            Happening::Local(of, ..)
            | Happening::Batch(of, ..)
            | Happening::WayDown(of, ..)
            | Happening::Beat(of)
            | Happening::Wake(Place::Worker(of, _))
            | Happening::View(Place::Worker(of, _), _) => *of != node,
            _ => true,
        });
    }

    /// Two nodes do not reach each other from now on.
    pub(crate) fn split(&mut self, now: Instant, pair: (usize, usize)) {
        self.splits.insert(pair);
        let node = |end: End| match end.place() {
            Some(Place::Worker(node, _)) => Some(node),
            _ => None,
        };
        let between = |pipe: &&Pipe| {
            let ends = (node(pipe.from), pipe.to.and_then(node));
            ends == (Some(pair.0), Some(pair.1)) || ends == (Some(pair.1), Some(pair.0))
        };
        let cut: Vec<PipeId> = self
            .pipes
            .iter()
            .filter(|(_, pipe)| pipe.open && between(pipe))
            .map(|(id, _)| *id)
            .collect();
        for id in cut {
            // What is on its way is lost.
            if let Some(pipe) = self.pipes.get_mut(&id) {
                pipe.open = false;
            }
            self.cut(now, id);
        }
    }

    pub(crate) fn join(&mut self, pair: (usize, usize)) {
        self.splits.remove(&pair);
    }

    pub(crate) fn join_all(&mut self) {
        self.splits.clear();
    }

    pub(crate) fn is_split(&self, one: usize, other: usize) -> bool {
        self.splits.contains(&(one.min(other), one.max(other)))
    }

    // -- ways that carry nothing, of which nobody is told --

    /// From now on nothing passes from one process to another. What is sent meanwhile arrives when that
    /// is over, as far as both ends have patience.
    pub(crate) fn cut_way(&mut self, from: Site, to: Site) {
        self.cuts.insert((from, to));
    }

    /// Ends a cut.
    pub(crate) fn mend_way(&mut self, now: Instant, from: Site, to: Site) {
        if !self.cuts.remove(&(from, to)) {
            return;
        }
        let is_stuck =
            |pipe: &Pipe| pipe.stuck.iter().any(|(bytes, end)| *end || !bytes.is_empty());
        let stuck: Vec<PipeId> =
            self.pipes.iter().filter(|(_, pipe)| is_stuck(pipe)).map(|(id, _)| *id).collect();
        for id in stuck {
            for way in [Way::There, Way::Back] {
                self.free(now, id, way);
            }
        }
    }

    /// Ends all cuts.
    pub(crate) fn mend_all(&mut self, now: Instant) {
        for (from, to) in self.cuts.clone() {
            self.mend_way(now, from, to);
        }
    }

    pub(crate) fn is_way_cut(&self, from: Site, to: Site) -> bool {
        self.cuts.contains(&(from, to))
    }

    /// Whether what `end` sends into a pipe does not pass.
    fn is_pipe_cut(&self, id: PipeId, end: End) -> bool {
        if self.cuts.is_empty() {
            return false;
        }
        let pipe = &self.pipes[&id];
        let other = if pipe.from == end { pipe.to } else { Some(pipe.from) };
        let site = |end: Option<End>| end.and_then(End::place).map(Place::site);
        match (site(Some(end)), site(other)) {
            (Some(from), Some(to)) => self.is_way_cut(from, to),
            _ => false,
        }
    }

    /// The other end of a pipe and the one at which `way` begins.
    fn ends(&self, id: PipeId, way: Way) -> Option<(End, End)> {
        let pipe = self.pipes.get(&id)?;
        let to = pipe.to?;
        Some(if way == Way::There { (pipe.from, to) } else { (to, pipe.from) })
    }

    /// Has the end at which `way` ends learn of the pipe's end, once that can pass.
    fn tell_end(&mut self, at: Instant, id: PipeId, way: Way, end: End) {
        if let Some((from, _)) = self.ends(id, way)
            && self.is_pipe_cut(id, from)
        {
            self.pipes.get_mut(&id).expect("just seen").stuck[way as usize].1 = true;
            return;
        }
        self.at(at, Happening::Closed(id, end));
    }

    fn free(&mut self, now: Instant, id: PipeId, way: Way) {
        let Some((from, to)) = self.ends(id, way) else { return };
        if self.is_pipe_cut(id, from) {
            return;
        }
        let pipe = self.pipes.get_mut(&id).expect("just seen");
        let (bytes, ends) = std::mem::take(&mut pipe.stuck[way as usize]);
        bytes.into_iter().for_each(|bytes| self.pass(now, id, from, bytes));
        if ends {
            let at = self.pipes[&id].last[way as usize].max(now);
            self.at(at, Happening::Closed(id, to));
        }
    }

    pub(crate) fn hold(&mut self, id: PipeId, bytes: Vec<u8>) {
        if let Some(pipe) = self.pipes.get_mut(&id) {
            pipe.held.extend_from_slice(&bytes);
        }
    }

    /// What was held for an end that reads again.
    pub(crate) fn release(&mut self, end: End) -> Vec<u8> {
        let Some(id) = self.by_end.get(&end) else { return Vec::new() };
        self.pipes.get_mut(id).map(|pipe| std::mem::take(&mut pipe.held)).unwrap_or_default()
    }

    /// Forgets pipes of which no end is plugged in and nothing is on its way.
    pub(crate) fn sweep(&mut self, now: Instant) {
        let plugged: std::collections::BTreeSet<_> = self.by_end.values().copied().collect();
        self.pipes.retain(|id, pipe| {
            plugged.contains(id)
                || pipe.stuck.iter().any(|(_, ends)| *ends)
                || pipe.last.iter().any(|at| *at + Duration::from_secs(10) > now)
        });
    }

    /// Whether `end` is plugged into this very pipe.
    pub(crate) fn is_plugged(&self, end: End, id: PipeId) -> bool {
        self.by_end.get(&end) == Some(&id)
    }

    /// Whether `end` is plugged into any pipe.
    pub(crate) fn has_pipe(&self, end: End) -> bool {
        self.by_end.contains_key(&end)
    }
}
