mod peers;

use std::borrow::Cow;
use std::collections::VecDeque;
use std::net::SocketAddr;

use env::{FastMap, Instant, Random};
use proto::Incarnation;
use proto::frame::{put_frame, split_frame};
use proto::link::{LinkFrame, WorkerId, destination, is_begin};

use self::peers::Peer;
use crate::key::{Key, Side};
use crate::link::{Beat, HANDSHAKE_BYTES_MAX, Identity, Link, OWN_KINDS_END, Reason, Stage, Step};
use crate::local::{Lane, LocalFrames, Mark};
use crate::options::describe;
use crate::{Counters, LinkId, Options, PeerInfo, Refused, SendError};

/// The links of one worker to all other nodes, and its lanes to the workers of its own.
///
/// A link to a node is dialed on the first frame to it. Frames are queued per link and leave in
/// one write per turn. After any `handle_*` and any `send`, drain [`poll_output`](Self::poll_output)
/// and [`poll_local`](Self::poll_local) until they give `None`.
///
/// Frames of one sending worker to one receiving worker arrive in order and at most once. When a
/// link breaks, what was sent on it may be lost: [`Output::PeerDown`] says so, and the sender
/// alone knows what to do about it. It does not come behind what was sent on the next link, whichever
/// worker that leads to: each link begins with a number, and the worker that a frame is for drops
/// what came by a lower one than it has seen.
#[derive(Debug)]
pub struct Mesh {
    me: Identity,
    options: Options,
    random: Random,
    links: Vec<LinkSlot>,
    links_free: Vec<u32>,
    links_open: usize,
    /// Accepted links that have not proven themselves.
    handshakes: usize,
    peers: Vec<Option<Peer>>,
    peers_free: Vec<u32>,
    peer_index: FastMap<Incarnation, u32>,
    /// The node that a frame was sent to last, and its link. A link stays its peer's until it ends.
    recent: (Incarnation, LinkId),
    outputs: VecDeque<Output>,
    lanes: Vec<Lane>,
    lanes_listed: VecDeque<u8>,
    /// Links that this worker has begun to send on: the number of the last one.
    begun: u64,
    /// The highest number of a link that was heard of each sender, by links here and by lanes.
    latest: FastMap<WorkerId, u64>,
    /// So many senders are known when those of unlisted nodes are forgotten.
    latest_max: usize,
    /// Memory of batches that were read.
    spares: Vec<Vec<u8>>,
    /// No deadline lies before this; it may lie before the first deadline.
    next_timeout: Instant,
    counters: Counters,
    /// What `output` gives for a link that is gone.
    nowhere: Vec<u8>,
}

#[derive(Debug, Default)]
struct LinkSlot {
    generation: u32,
    link: Option<Link>,
}

/// A frame that came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame<'b> {
    /// The worker that sent it.
    pub from: WorkerId,
    /// From the kind byte on, as [`proto::link::LinkFrame::decode`] reads it.
    pub payload: Cow<'b, [u8]>,
}

/// What the driver has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Connect to the node, then call `handle_connected` or `handle_connect_failed`.
    Dial {
        /// The name of the link from now on.
        link: LinkId,
        /// The node.
        to: Incarnation,
        /// Where; `None` for a node of this process.
        address: Option<SocketAddr>,
    },
    /// Write what [`Mesh::output`] holds; announced once until this is taken.
    Flush(LinkId),
    /// Close the connection of the link, which is gone already.
    Close(LinkId),
    /// Frames to and from the node go through.
    PeerUp(Incarnation),
    /// What was sent to the node and not answered may be lost, as may be what it sent here.
    PeerDown(Incarnation),
}

/// Senders that are known before any is forgotten: what an unlisted node sent may still be under way
/// in this process, but not of so many.
const LATEST_MIN: usize = 1024;
const SPARES_MAX: usize = 8;
const SPARE_BYTES_MAX: usize = 1024 * 1024;

impl Mesh {
    /// The mesh of worker `me` of the node called `name`. `random` must be secret
    /// ([`Random::from_os`]) outside tests.
    ///
    /// # Panics
    ///
    /// If a name is over 256 bytes, or `me` is not among `options.workers`.
    pub fn new(me: WorkerId, name: &str, options: Options, key: Key, random: Random) -> Self {
        let text_max = proto::frame::TEXT_BYTES_MAX;
        assert!(name.len() <= text_max, "the node's name is over {text_max} bytes");
        assert!(options.cluster.len() <= text_max, "the cluster's name is over {text_max} bytes");
        assert!(me.worker < options.workers, "worker {} of {}", me.worker, options.workers);
        let lanes = (0..options.workers).map(|_| Lane::default()).collect();
        let me = Identity { id: me, name: name.into(), cluster: options.cluster.clone(), key };
        Mesh {
            me,
            options,
            random,
            links: Vec::new(),
            links_free: Vec::new(),
            links_open: 0,
            handshakes: 0,
            peers: Vec::new(),
            peers_free: Vec::new(),
            peer_index: FastMap::default(),
            recent: (Incarnation::NONE, LinkId::new(u32::MAX, 0)),
            outputs: VecDeque::new(),
            lanes,
            lanes_listed: VecDeque::new(),
            begun: 0,
            latest: FastMap::default(),
            latest_max: LATEST_MIN,
            spares: Vec::new(),
            next_timeout: Instant::NEVER,
            counters: Counters::default(),
            nowhere: Vec::new(),
        }
    }

    /// Who this is.
    pub fn me(&self) -> WorkerId {
        self.me.id
    }

    /// What was done so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    // ---- which nodes there are ----

    /// Lists a node, or changes how to reach it. Ourselves is ignored.
    pub fn set_peer(&mut self, node: Incarnation, info: PeerInfo) {
        if node == self.me.id.node {
            return;
        }
        let at = self.peer_entry(node);
        self.peer_mut(at).info = Some(info);
    }

    /// Takes a node off the list: its links are closed and its mail is dropped.
    pub fn remove_peer(&mut self, node: Incarnation) {
        let Some(&at) = self.peer_index.get(&node) else { return };
        let peer = self.peer_mut(at);
        peer.info = None;
        peer.retry_at = None;
        let had_mail = !peer.pending.is_empty();
        self.drop_pending(at);
        let was_up = self.peer_mut(at).links_up > 0;
        let of_peer = |slot: &LinkSlot| slot.link.as_ref().is_some_and(|l| l.peer == Some(at));
        let links: Vec<LinkId> = (0u32..)
            .zip(&self.links)
            .filter(|(_, slot)| of_peer(slot))
            .map(|(index, slot)| LinkId::new(index, slot.generation))
            .collect();
        for link in links {
            self.close_link(Instant::ZERO, link, Reason::Removed);
        }
        // The last link takes an unlisted peer with it; without links it goes here.
        if let Some(&at) = self.peer_index.get(&node) {
            self.forget_peer(at);
        }
        if had_mail && !was_up {
            self.outputs.push_back(Output::PeerDown(node));
        }
    }

    /// How to reach a node, if it is listed.
    pub fn peer(&self, node: Incarnation) -> Option<&PeerInfo> {
        let at = *self.peer_index.get(&node)?;
        self.peers[at as usize].as_ref()?.info.as_ref()
    }

    /// Whether frames to the node go through now.
    pub fn is_up(&self, node: Incarnation) -> bool {
        let peer = self.peer_index.get(&node).and_then(|at| self.peers[*at as usize].as_ref());
        peer.is_some_and(|peer| peer.link.is_some())
    }

    /// Whether what is sent to the node now is lost: it is not known, or could not be reached lately.
    pub fn is_down(&self, node: Incarnation) -> bool {
        let peer = self.peer_index.get(&node).and_then(|at| self.peers[*at as usize].as_ref());
        node != self.me.id.node && peer.is_none_or(|peer| peer.link.is_none() && peer.down)
    }

    /// The round trip to a node, as the last ping measured it; links are pinged when silent.
    pub fn round_trip(&self, node: Incarnation) -> Option<std::time::Duration> {
        let peer = self.peers[*self.peer_index.get(&node)? as usize].as_ref()?;
        self.links[peer.link?.index as usize].link.as_ref()?.round_trip
    }

    // ---- sending ----

    /// Appends one frame for `to`, whose payload `write` produces, destination byte included.
    ///
    /// # Errors
    ///
    /// See [`SendError`]; nothing was sent then.
    #[inline(always)]
    pub fn send(
        &mut self,
        now: Instant,
        to: WorkerId,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), SendError> {
        self.put(now, to, self.options.queue_bytes_soft, write)
    }

    /// As [`send`](Self::send), for an answer, an acknowledgement or whatever frees the other
    /// side: passes a queue at its soft limit.
    ///
    /// # Errors
    ///
    /// As `send`, but not `Full`: at the hard limit the link is closed instead, which gives
    /// `Down`. (`Full` comes only from a node not reached yet or a worker of this node.)
    #[inline(always)]
    pub fn send_reply(
        &mut self,
        now: Instant,
        to: WorkerId,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), SendError> {
        self.put(now, to, self.options.queue_bytes_hard, write)
    }

    /// Appends `frames`, each behind its length as [`put_frame`] writes it, none of them with more
    /// than `longest` bytes of payload. `false`, and nothing is sent, where more has to be looked at
    /// than a link that is up and has room: send them one by one then.
    pub fn send_run(&mut self, to: WorkerId, frames: &[u8], longest: usize) -> bool {
        if longest > self.options.frame_bytes_max || to.node == self.me.id.node {
            return false;
        }
        if to.node != self.recent.0 {
            let Ok(Ok(id)) = self.look_up(to.node) else { return false };
            self.recent = (to.node, id);
        }
        let id = self.recent.1;
        let Some(link) = find(&mut self.links, id) else { return false };
        if link.out.len() + frames.len() > self.options.queue_bytes_soft {
            return false;
        }
        link.out.extend_from_slice(frames);
        link.used = true;
        if !link.listed {
            link.listed = true;
            self.outputs.push_back(Output::Flush(id));
        }
        true
    }

    #[inline(always)]
    fn put(
        &mut self,
        now: Instant,
        to: WorkerId,
        limit: usize,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), SendError> {
        if to.node == self.me.id.node {
            let mark = Mark { from: self.me.id, link: 0 };
            return self.put_local(mark, to.worker, limit, write);
        }
        if self.recent.0 != to.node || find(&mut self.links, self.recent.1).is_none() {
            match self.look_up(to.node)? {
                Ok(id) => self.recent = (to.node, id),
                Err(at) => return self.put_pending(now, at, limit, write),
            }
        }
        let id = self.recent.1;
        let link = find(&mut self.links, id).expect("a peer's link is there");
        let waiting = link.out.len();
        if waiting >= self.options.queue_bytes_hard {
            self.close_link(now, id, Reason::Overflow);
            return Err(SendError::Down);
        }
        if waiting >= limit {
            self.counters.full += 1;
            return Err(SendError::Full);
        }
        append(&mut link.out, self.options.frame_bytes_max, write)?;
        link.used = true;
        if !link.listed {
            link.listed = true;
            self.outputs.push_back(Output::Flush(id));
        }
        Ok(())
    }

    /// The link to a node, or the place of one that has none yet.
    #[cold]
    #[inline(never)]
    fn look_up(&self, node: Incarnation) -> Result<Result<LinkId, u32>, SendError> {
        let at = *self.peer_index.get(&node).ok_or(SendError::Unknown)?;
        let peer = self.peers[at as usize].as_ref().expect("indexed peers are there");
        Ok(peer.link.ok_or(at))
    }

    #[inline(always)]
    fn put_local(
        &mut self,
        mark: Mark,
        to: u8,
        limit: usize,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), SendError> {
        let lane = self.lanes.get_mut(to as usize).ok_or(SendError::Unknown)?;
        let before = lane.bytes.len();
        if before >= limit {
            self.counters.full += 1;
            return Err(SendError::Full);
        }
        let bytes = lane.push(mark, write);
        let max = self.options.frame_bytes_max;
        if bytes > max {
            lane.truncate(before);
            return Err(SendError::TooLong { bytes, max });
        }
        if !lane.listed && !lane.blocked {
            lane.listed = true;
            self.lanes_listed.push_back(to);
        }
        Ok(())
    }

    // ---- links: what the driver tells ----

    /// A connection came in.
    ///
    /// # Errors
    ///
    /// A limit is reached: close the connection.
    pub fn handle_accepted(&mut self, now: Instant) -> Result<LinkId, Refused> {
        if self.handshakes >= self.options.handshakes_max {
            self.counters.refused_limit += 1;
            return Err(Refused::Handshakes(self.handshakes));
        }
        if self.links_open >= self.options.links_max {
            self.counters.refused_limit += 1;
            return Err(Refused::Links(self.links_open));
        }
        self.handshakes += 1;
        let deadline = now + self.options.handshake_wait;
        Ok(self.insert_link(Side::Acceptor, Stage::Hello, deadline))
    }

    /// A dialed link is connected.
    pub fn handle_connected(&mut self, now: Instant, id: LinkId) {
        let Some(link) = find(&mut self.links, id) else { return };
        assert_eq!(link.stage, Stage::Dialing, "only a dialed link connects, and once");
        link.stage = Stage::Hello;
        link.deadline = now + self.options.handshake_wait;
        self.next_timeout = self.next_timeout.min(link.deadline);
        link.put_hello(&self.me);
        self.flush(id);
    }

    /// A dialed link could not be connected.
    pub fn handle_connect_failed(&mut self, now: Instant, id: LinkId) {
        self.end_link(now, id, Reason::Gone);
    }

    /// The connection of a link ended.
    pub fn handle_closed(&mut self, now: Instant, id: LinkId) {
        self.end_link(now, id, Reason::Gone);
    }

    /// Takes bytes of a link: call it again and again with the same `input` until it gives
    /// `None`, which means that all of `input` is used up.
    ///
    /// Frames for other workers of this node go to their lanes, the link's own are answered.
    /// Bytes of a link that is gone are thrown away.
    #[inline]
    pub fn next_frame<'b>(
        &mut self,
        now: Instant,
        id: LinkId,
        input: &mut &'b [u8],
    ) -> Option<Frame<'b>> {
        // Nearly all frames are whole, for this worker, and on a link that has carried some.
        if let Some(link) = find(&mut self.links, id)
            && link.carries
            && link.assembler.is_empty()
            && let Ok(Some((payload, used))) = split_frame(input, self.options.frame_bytes_max)
            && let [kind, to, ..] = *payload
            && kind >= OWN_KINDS_END
            && to == self.me.id.worker
        {
            link.used = true;
            *input = &input[used..];
            return Some(Frame { from: link.remote.id, payload: Cow::Borrowed(payload) });
        }
        self.next_other_frame(now, id, input)
    }

    fn next_other_frame<'b>(
        &mut self,
        now: Instant,
        id: LinkId,
        input: &mut &'b [u8],
    ) -> Option<Frame<'b>> {
        loop {
            let Some(link) = find(&mut self.links, id) else {
                *input = &[];
                return None;
            };
            let up = link.is_up();
            let max = if up { self.options.frame_bytes_max } else { HANDSHAKE_BYTES_MAX };
            let payload = match link.assembler.next(input, max) {
                Ok(Some(payload)) => payload,
                Ok(None) => {
                    link.hear(now);
                    return None;
                }
                Err(error) => {
                    self.close_link(now, id, Reason::Protocol(error));
                    continue;
                }
            };
            if !up {
                self.handle_handshake(now, id, &payload);
                continue;
            }
            match link.handle_own(now, &payload) {
                Ok(true) if link.out.len() >= self.options.queue_bytes_hard => {
                    self.close_link(now, id, Reason::Overflow);
                }
                Ok(true) => self.flush_if_any(id),
                Ok(false) => {
                    let mark = Mark { from: link.remote.id, link: link.number };
                    if is_begin(&payload) {
                        self.handle_begin(now, id, mark.from, &payload);
                        continue;
                    }
                    link.used = true;
                    if !std::mem::replace(&mut link.carries, true) {
                        self.close_left(now, Some(id), mark);
                    }
                    match destination(&payload) {
                        Ok(to) if to == self.me.id.worker => {
                            return Some(Frame { from: mark.from, payload });
                        }
                        Ok(to) => self.forward(mark, to, &payload),
                        Err(error) => self.close_link(now, id, Reason::Protocol(error)),
                    }
                }
                Err(error) => self.close_link(now, id, Reason::Protocol(error)),
            }
        }
    }

    /// Takes all of `bytes`, giving each frame for this worker to `sink`. For a sink that needs
    /// the mesh itself there is [`next_frame`](Self::next_frame).
    pub fn handle_bytes(
        &mut self,
        now: Instant,
        id: LinkId,
        bytes: &[u8],
        mut sink: impl FnMut(WorkerId, &[u8]),
    ) {
        let mut input = bytes;
        while let Some(frame) = self.next_frame(now, id, &mut input) {
            sink(frame.from, &frame.payload);
        }
    }

    /// Advances to `now`: heartbeats, time limits, dials that are due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if now < self.next_timeout {
            return;
        }
        self.next_timeout = Instant::NEVER;
        for index in 0..self.links.len() as u32 {
            let slot = &self.links[index as usize];
            let id = LinkId::new(index, slot.generation);
            if slot.link.as_ref().is_some_and(|link| link.deadline <= now) {
                self.handle_link_timeout(now, id);
            }
            if let Some(link) = find(&mut self.links, id) {
                self.next_timeout = self.next_timeout.min(link.deadline);
            }
        }
        for at in 0..self.peers.len() as u32 {
            self.handle_peer_timeout(now, at);
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called; never later than needed,
    /// sometimes earlier.
    pub fn poll_timeout(&self) -> Option<Instant> {
        Some(self.next_timeout).filter(|at| *at != Instant::NEVER)
    }

    // ---- links: what the driver asks ----

    /// What is to be done next.
    pub fn poll_output(&mut self) -> Option<Output> {
        let output = self.outputs.pop_front()?;
        if let Output::Flush(id) = &output
            && let Some(link) = find(&mut self.links, *id)
        {
            link.listed = false;
        }
        Some(output)
    }

    /// The bytes to write to a link. The driver removes what it wrote; what it leaves it writes
    /// when the connection has room, unasked.
    pub fn output(&mut self, id: LinkId) -> &mut Vec<u8> {
        match find(&mut self.links, id) {
            Some(link) => &mut link.out,
            None => {
                self.nowhere.clear();
                &mut self.nowhere
            }
        }
    }

    /// Mail for another worker of this node, or for this one: a batch that
    /// [`local_frames`](crate::local_frames) reads.
    pub fn poll_local(&mut self) -> Option<(u8, Vec<u8>)> {
        let worker = self.lanes_listed.pop_front()?;
        let lane = &mut self.lanes[worker as usize];
        lane.listed = false;
        Some((worker, lane.take(self.spares.pop().unwrap_or_default())))
    }

    /// Takes the next frame of a batch from another worker of this node, and who sent it. `None` at the
    /// end of the batch. What came by a link that its sender has left is left out.
    pub fn next_local<'b>(
        &mut self,
        now: Instant,
        frames: &mut LocalFrames<'b>,
    ) -> Option<(WorkerId, &'b [u8])> {
        loop {
            if let Some(mark) = frames.pass_marks() {
                frames.is_late = mark.link != 0 && !self.hear_of(now, None, mark);
            }
            let frame = frames.take()?;
            if !frames.is_late {
                return Some(frame);
            }
            self.counters.late_dropped += 1;
        }
    }

    /// Gives back a batch that was read, so that its memory is used again.
    pub fn recycle(&mut self, mut batch: Vec<u8>) {
        if self.spares.len() < SPARES_MAX && batch.capacity() <= SPARE_BYTES_MAX {
            batch.clear();
            self.spares.push(batch);
        }
    }

    /// The queue to a worker has no room for a batch: it goes back to the front of its lane,
    /// which rests until [`handle_local_room`](Self::handle_local_room).
    pub fn handle_local_full(&mut self, worker: u8, batch: Vec<u8>) {
        let lane = &mut self.lanes[worker as usize];
        lane.put_back(batch);
        lane.blocked = true;
        if std::mem::take(&mut lane.listed) {
            self.lanes_listed.retain(|listed| *listed != worker);
        }
    }

    /// The queue to a worker has room again.
    pub fn handle_local_room(&mut self, worker: u8) {
        let lane = &mut self.lanes[worker as usize];
        if std::mem::take(&mut lane.blocked) && !lane.bytes.is_empty() && !lane.listed {
            lane.listed = true;
            self.lanes_listed.push_back(worker);
        }
    }

    // ---- inside ----

    /// How many links and peers-by-link are held: for tests of clean-up.
    #[cfg(test)]
    pub(crate) fn links_held(&self) -> (usize, usize) {
        (self.links_open, self.handshakes)
    }

    /// How many senders' links are held in mind.
    #[cfg(test)]
    pub(crate) fn senders_known(&self) -> usize {
        self.latest.len()
    }

    /// The other side sends on this link from now on.
    fn handle_begin(&mut self, now: Instant, id: LinkId, from: WorkerId, payload: &[u8]) {
        let number = match LinkFrame::decode(payload) {
            Ok((_, LinkFrame::Begin { number })) => number,
            Ok(_) => unreachable!("its kind was looked at"),
            Err(error) => return self.close_link(now, id, Reason::Protocol(error)),
        };
        let link = find(&mut self.links, id).expect("the caller looked");
        (link.number, link.carries) = (number, true);
        if !self.hear_of(now, Some(id), Mark { from, link: number }) {
            self.close_link(now, id, Reason::Left);
        }
    }

    /// Something comes by a numbered link, here (`id`) or at another worker of this node. `false` if its
    /// sender has left that link for one that was heard of before: it is late.
    fn hear_of(&mut self, now: Instant, id: Option<LinkId>, mark: Mark) -> bool {
        if self.latest.len() >= self.latest_max {
            let known = &self.peer_index;
            self.latest.retain(|from, _| known.contains_key(&from.node));
            self.latest_max = LATEST_MIN.max(2 * self.latest.len());
        }
        let latest = self.latest.entry(mark.from).or_default();
        if mark.link <= *latest {
            return mark.link == *latest;
        }
        *latest = mark.link;
        self.close_left(now, id, mark);
        true
    }

    /// A worker sends on one link at a time and never goes back to one that has ended for it. So
    /// when it is heard on another link, it has left the one before: what may still come there is
    /// late, and what was sent there is lost.
    fn close_left(&mut self, now: Instant, id: Option<LinkId>, mark: Mark) {
        let is_left =
            |link: &Link| link.carries && link.remote.id == mark.from && link.number <= mark.link;
        let left: Vec<LinkId> = (0u32..)
            .zip(&self.links)
            .filter(|(_, slot)| slot.link.as_ref().is_some_and(is_left))
            .map(|(index, slot)| LinkId::new(index, slot.generation))
            .filter(|other| Some(*other) != id)
            .collect();
        for link in left {
            self.close_link(now, link, Reason::Left);
        }
    }

    fn forward(&mut self, mark: Mark, to: u8, payload: &[u8]) {
        let limit = self.options.queue_bytes_hard;
        match self.put_local(mark, to, limit, |out| out.extend_from_slice(payload)) {
            Ok(()) => self.counters.forwarded += 1,
            // Stopping the link instead would let one stuck worker stop its whole node.
            Err(_) => self.counters.local_dropped += 1,
        }
    }

    fn handle_handshake(&mut self, now: Instant, id: LinkId, payload: &[u8]) {
        let link = find(&mut self.links, id).expect("the caller looked");
        let expected = link.peer.and_then(|at| {
            let peer = self.peers[at as usize].as_ref()?;
            Some((peer.node, peer.info.as_ref()?.name.as_str()))
        });
        match link.handle_handshake(&self.me, expected, payload) {
            Step::Wait => self.flush_if_any(id),
            Step::Up => self.handle_up(now, id),
            Step::Refuse(reason) => self.close_link(now, id, reason),
        }
    }

    fn handle_up(&mut self, now: Instant, id: LinkId) {
        let link = find(&mut self.links, id).expect("the caller looked");
        link.start_beat(now, self.options.heartbeat);
        self.next_timeout = self.next_timeout.min(link.deadline);
        let (node, side) = (link.remote.id.node, link.side);
        if side == Side::Acceptor {
            self.handshakes -= 1;
        }
        self.counters.links_up += 1;
        let at = self.peer_entry(node);
        find(&mut self.links, id).expect("still there").peer = Some(at);
        let peer = self.peer_mut(at);
        peer.links_up += 1;
        peer.failures = 0;
        peer.retry_at = None;
        if side == Side::Dialer {
            self.cancel_other_dials(now, at, id);
        }
        let peer = self.peer_mut(at);
        // Of two links made at the same time each side keeps to the one that it used first.
        if peer.link.is_none() {
            self.adopt_link(at, id);
        }
        self.flush_if_any(id);
    }

    fn handle_link_timeout(&mut self, now: Instant, id: LinkId) {
        let (heartbeat, missed_max) = (self.options.heartbeat, self.options.missed_max);
        let link = find(&mut self.links, id).expect("the caller looked");
        if !link.is_up() {
            self.close_link(now, id, Reason::Slow);
            return;
        }
        match link.beat(now, heartbeat, missed_max) {
            Beat::Dead => self.close_link(now, id, Reason::Silent),
            Beat::Ping => self.flush_if_any(id),
            Beat::Fine => {}
        }
    }

    fn insert_link(&mut self, side: Side, stage: Stage, deadline: Instant) -> LinkId {
        let link = Link::new(side, stage, self.random.bytes(), deadline);
        self.next_timeout = self.next_timeout.min(deadline);
        self.links_open += 1;
        let index = self.links_free.pop().unwrap_or_else(|| {
            self.links.push(LinkSlot::default());
            self.links.len() as u32 - 1
        });
        let slot = &mut self.links[index as usize];
        slot.link = Some(link);
        LinkId::new(index, slot.generation)
    }

    /// Ends a link of ours; the driver is told to close it.
    fn close_link(&mut self, now: Instant, id: LinkId, reason: Reason) {
        self.outputs.push_back(Output::Close(id));
        self.end_link(now, id, reason);
    }

    fn end_link(&mut self, now: Instant, id: LinkId, reason: Reason) {
        if find(&mut self.links, id).is_none() {
            return;
        }
        let slot = &mut self.links[id.index as usize];
        let link = slot.link.take().expect("just found");
        slot.generation = slot.generation.wrapping_add(1);
        self.links_free.push(id.index);
        self.links_open -= 1;
        self.count_end(&link, reason);
        if link.side == Side::Acceptor && !link.is_up() {
            self.handshakes -= 1;
        }
        let Some(at) = link.peer else { return };
        if !link.is_up() {
            if reason != Reason::Superseded {
                self.handle_dial_failed(now, at, id);
            }
            self.forget_peer(at);
            return;
        }
        let peer = self.peer_mut(at);
        peer.links_up -= 1;
        let was_ours = peer.link == Some(id);
        if was_ours {
            peer.link = None;
        }
        let node = peer.node;
        if was_ours || link.used {
            self.outputs.push_back(Output::PeerDown(node));
        }
        if was_ours {
            self.replace_link(now, at);
        }
        self.forget_peer(at);
    }

    fn count_end(&mut self, link: &Link, reason: Reason) {
        let counters = &mut self.counters;
        let counter = match reason {
            Reason::Version => &mut counters.refused_version,
            Reason::Cluster => &mut counters.refused_cluster,
            Reason::Key => &mut counters.refused_key,
            Reason::Identity => &mut counters.refused_identity,
            Reason::Protocol(_) => &mut counters.protocol_errors,
            Reason::Silent => &mut counters.silent,
            Reason::Overflow => &mut counters.overflows,
            Reason::Superseded => return,
            Reason::Slow | Reason::Gone | Reason::Left | Reason::Removed => match link.stage {
                Stage::Dialing => &mut counters.dial_failures,
                Stage::Hello | Stage::Prove => &mut counters.handshake_failures,
                Stage::Up => &mut counters.links_down,
            },
        };
        *counter += 1;
        let peer = describe(link.remote.id.node, &link.remote.name);
        let stage = link.stage;
        match reason {
            Reason::Gone | Reason::Left | Reason::Removed => {
                tracing::debug!(%peer, ?stage, ?reason, "link ended");
            }
            _ => tracing::warn!(%peer, ?stage, ?reason, "link closed"),
        }
    }

    fn flush(&mut self, id: LinkId) {
        let Some(link) = find(&mut self.links, id) else { return };
        if !link.listed {
            link.listed = true;
            self.outputs.push_back(Output::Flush(id));
        }
    }

    fn flush_if_any(&mut self, id: LinkId) {
        if find(&mut self.links, id).is_some_and(|link| !link.out.is_empty()) {
            self.flush(id);
        }
    }
}

#[inline]
fn find(links: &mut [LinkSlot], id: LinkId) -> Option<&mut Link> {
    let slot = links.get_mut(id.index as usize)?;
    if slot.generation == id.generation { slot.link.as_mut() } else { None }
}

/// Appends one frame, or nothing if its payload is over `max`.
///
/// Part of who sends, as all on the way here: what `write` has put together is not copied, which
/// would have to wait until it is written.
#[inline(always)]
fn append(
    out: &mut Vec<u8>,
    max: usize,
    write: impl FnOnce(&mut Vec<u8>),
) -> Result<(), SendError> {
    let before = out.len();
    let mut bytes = 0;
    put_frame(out, |out| {
        write(out);
        bytes = out.len() - before - 1;
    });
    if bytes > max {
        out.truncate(before);
        return Err(SendError::TooLong { bytes, max });
    }
    Ok(())
}
