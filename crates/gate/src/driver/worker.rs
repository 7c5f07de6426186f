#[cfg(unix)]
mod shifting;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use cluster::{Cluster, Directory, NodeInfo};
use env::{Clock, Instant, WallTime};
use mesh::{Heard, LinkId, PeerChange, PeerInfo, Wires};
use proto::Incarnation;
use proto::link::Slot;
use transport::ws::{self, Piece, UpgradeOptions};
use transport::{Board, Doorbell, Event, ListenerId, Read, Sockets, Token, Write};

use crate::driver::client::{Client, Opening, Speech, decoder, open};
use crate::driver::metrics::Metrics;
use crate::driver::{Command, HttpSink, LANE_BYTES_MAX, Setup, Shared, lock};
use crate::{Closing, Gate, Rule};

/// Bytes read from a socket at a time.
const SCRATCH_BYTES: usize = 64 * 1024;

/// Bytes of clients after which links are written at once: as much as a node reads at a time.
/// Waiting for all clients would only push it out of the caches on the way.
const FLUSH_BYTES: usize = 56 * 1024;

/// How often the worker's figures are shown, at most, and how much longer that is for each
/// connection it has.
const SHOW_EVERY: Duration = Duration::from_millis(250);
const SHOW_EVERY_CONNECTION: Duration = Duration::from_micros(10);

/// How long an ending worker waits for its last frames to leave.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How long a worker without clients stays, so that what it wrote last leaves.
const PARTING: Duration = Duration::from_millis(50);

/// The open ports of one worker.
#[derive(Default)]
pub(crate) struct Ports {
    pub(crate) clients: Vec<ListenerId>,
    pub(crate) mesh: Option<ListenerId>,
}

/// How the gate stays on the list of nodes.
struct Listing {
    info: NodeInfo,
    renew_at: Instant,
}

/// One gate worker with its sockets.
pub(crate) struct Loop {
    worker: u8,
    gate: Gate,
    sockets: Sockets,
    ports: Ports,
    wires: Wires,
    doorbell: Doorbell,
    clock: Clock,
    upgrade: UpgradeOptions,
    http: Option<HttpSink>,
    shared: Arc<Shared>,
    metrics: Metrics,
    /// By the index of their slots.
    clients: Vec<Option<(Slot, Client)>>,
    /// By the index of their tokens; what is free names no client.
    by_token: Vec<Slot>,
    board: Board,
    cluster: Option<Cluster>,
    /// Revision of the directory that the worker goes by.
    revision: u64,
    listing: Option<Listing>,
    renew_every: Duration,
    peers: Vec<Incarnation>,
    /// Nodes that are not on the list any more but still linked.
    unlisted: Vec<Incarnation>,
    scratch: Vec<u8>,
    /// Bytes read from clients since the links were last written.
    unflushed: usize,
    /// Nodes whose links broke and that the gate was not told of yet.
    lost: Vec<Incarnation>,
    /// Lanes of other workers that took no more.
    blocked_lanes: Vec<u8>,
    shown_at: Instant,
    /// Set when the worker is to end, to the time it ends at the latest.
    ends_at: Option<Instant>,
    is_draining: bool,
    /// Where connections go that the successor has a place for.
    #[cfg(unix)]
    giving: Option<std::sync::mpsc::Sender<crate::driver::handover::Handed>>,
}

impl Loop {
    pub(crate) fn new(
        worker: u8,
        gate: Gate,
        sockets: Sockets,
        ports: Ports,
        setup: &Setup,
        metrics: Metrics,
        shared: Arc<Shared>,
    ) -> Self {
        Loop {
            worker,
            gate,
            ports,
            wires: Wires::new(setup.board.clone()),
            doorbell: setup.board.open(setup.incarnation.0, worker, sockets.waker()),
            sockets,
            clock: setup.clock.clone(),
            upgrade: setup.upgrade.clone(),
            http: setup.http.clone(),
            shared,
            metrics,
            clients: Vec::new(),
            by_token: Vec::new(),
            board: setup.board.clone(),
            cluster: setup.cluster.clone(),
            revision: 0,
            listing: None,
            renew_every: setup.renew_every,
            peers: Vec::new(),
            unlisted: Vec::new(),
            scratch: vec![0; SCRATCH_BYTES],
            unflushed: 0,
            lost: Vec::new(),
            blocked_lanes: Vec::new(),
            shown_at: Instant::ZERO,
            ends_at: None,
            is_draining: false,
            #[cfg(unix)]
            giving: None,
        }
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// Runs until told to end.
    pub(crate) fn run(&mut self) -> io::Result<()> {
        let mut events = Vec::new();
        loop {
            let timeout = self.timeout(self.clock.now());
            self.sockets.poll(timeout, &mut events)?;
            let (now, wall) = (self.clock.now(), self.clock.wall());
            self.gate.handle_timeout(now);
            self.gate.mesh().handle_timeout(now);
            for event in events.drain(..) {
                self.handle_event(now, wall, event);
            }
            self.settle(now, wall);
            self.stay_listed(now);
            if self.is_over(now) {
                self.show(now);
                if let (Some(listing), Some(cluster)) = (&self.listing, &self.cluster) {
                    cluster.deregister(listing.info.incarnation);
                }
                return Ok(());
            }
        }
    }

    fn timeout(&mut self, now: Instant) -> Option<Duration> {
        let mut next = self.gate.poll_timeout();
        let renew_at = self.listing.as_ref().map(|listing| listing.renew_at);
        for other in [self.gate.mesh().poll_timeout(), self.ends_at, renew_at] {
            next = match (next, other) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
        if !self.blocked_lanes.is_empty() {
            return Some(Duration::from_millis(1));
        }
        next.map(|at| at.since(now))
    }

    fn handle_event(&mut self, now: Instant, wall: WallTime, event: Event) {
        match event {
            Event::Readable(token) | Event::Writable(token) => {
                let is_readable = matches!(event, Event::Readable(_));
                if let Some(slot) = self.slot_of(token) {
                    if is_readable {
                        self.read_client(now, wall, slot, token);
                    } else {
                        self.write_client(now, slot);
                    }
                    return;
                }
            }
            Event::Accepted { listener, socket, peer } => {
                self.accept(now, listener, socket, peer);
                return;
            }
            Event::Woken => {
                self.handle_woken(now, wall);
                return;
            }
            _ => {}
        }
        let heard = self.wires.handle_event(now, self.gate.mesh(), &mut self.sockets, &event);
        if let Heard::Readable(token, link) = heard {
            self.read_link(now, wall, token, link);
        }
    }

    fn accept(&mut self, now: Instant, listener: ListenerId, token: Token, peer: SocketAddr) {
        if self.ports.mesh == Some(listener) {
            self.wires.accept(now, self.gate.mesh(), &mut self.sockets, token);
            return;
        }
        match self.gate.handle_open(now, peer) {
            Ok(slot) => {
                self.add_client(slot, Client::new(token));
            }
            Err(_) => self.sockets.close(token),
        }
    }

    fn add_client(&mut self, slot: Slot, client: Client) {
        let at = client.token.index();
        if self.by_token.len() <= at {
            self.by_token.resize(at + 1, Slot::default());
        }
        self.by_token[at] = slot;
        let at = slot.index as usize;
        if self.clients.len() <= at {
            self.clients.resize_with(at + 1, || None);
        }
        self.clients[at] = Some((slot, client));
    }

    /// The client whose socket this is.
    #[inline]
    fn slot_of(&self, token: Token) -> Option<Slot> {
        let slot = *self.by_token.get(token.index())?;
        let (at, client) = self.clients.get(slot.index as usize)?.as_ref()?;
        (*at == slot && client.token == token).then_some(slot)
    }

    fn client(&mut self, slot: Slot) -> Option<&mut Client> {
        let (at, client) = self.clients.get_mut(slot.index as usize)?.as_mut()?;
        if *at == slot { Some(client) } else { None }
    }

    fn forget(&mut self, now: Instant, slot: Slot) -> Option<Client> {
        self.client(slot)?;
        let (_, client) = self.clients[slot.index as usize].take()?;
        self.by_token[client.token.index()] = Slot::default();
        self.gate.handle_closed(now, slot);
        Some(client)
    }

    fn drop_client(&mut self, now: Instant, slot: Slot) {
        if let Some(client) = self.forget(now, slot) {
            self.sockets.close(client.token);
        }
    }

    fn read_client(&mut self, now: Instant, wall: WallTime, slot: Slot, token: Token) {
        if self.gate.is_paused(slot) {
            // It is read again when the pause is over.
            return;
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        let read = self.sockets.read(token, &mut scratch);
        if let Read::Data(n) | Read::More(n) = read {
            self.take_bytes(now, wall, slot, &mut scratch[..n]);
            self.unflushed += n;
            if self.unflushed >= FLUSH_BYTES {
                self.flush_links(now);
            }
        }
        match read {
            Read::More(_) => self.sockets.read_later(token),
            Read::Closed(_) => self.drop_client(now, slot),
            Read::Data(_) | Read::Blocked => {}
        }
        self.scratch = scratch;
    }

    fn take_bytes(&mut self, now: Instant, wall: WallTime, slot: Slot, bytes: &mut [u8]) {
        let Some(client) = self.client(slot) else { return };
        match &mut client.speech {
            Speech::Plain => self.gate.handle_bytes(now, wall, slot, bytes),
            Speech::WebSocket(_) => self.take_messages(now, wall, slot, bytes),
            Speech::Unknown(head) if head.is_empty() => {
                self.take_opening(now, wall, slot, bytes);
            }
            Speech::Unknown(head) => {
                head.extend_from_slice(bytes);
                let mut head = std::mem::take(head);
                self.take_opening(now, wall, slot, &mut head);
            }
        }
    }

    /// Bytes of a connection that has not said what it speaks.
    fn take_opening(&mut self, now: Instant, wall: WallTime, slot: Slot, head: &mut [u8]) {
        let opening = open(head, &self.upgrade);
        let Some(client) = self.client(slot) else { return };
        match opening {
            Opening::More => client.speech = Speech::Unknown(head.to_vec()),
            Opening::Frames(used) => {
                client.speech = Speech::Plain;
                self.gate.handle_bytes(now, wall, slot, &head[used..]);
            }
            Opening::Messages(used, response) => {
                client.speech = Speech::WebSocket(decoder());
                client.wire = response;
                self.write_client(now, slot);
                self.take_messages(now, wall, slot, &mut head[used..]);
            }
            Opening::Http => self.hand_on(now, slot, head),
            Opening::Refuse(response) => {
                client.wire = response;
                client.is_closing = true;
                self.gate.note(Rule::Protocol);
                self.write_client(now, slot);
            }
            Opening::Garbage => {
                self.gate.note(Rule::Protocol);
                self.drop_client(now, slot);
            }
        }
    }

    /// Gives a connection that speaks HTTP to whoever serves that.
    fn hand_on(&mut self, now: Instant, slot: Slot, head: &[u8]) {
        let Some(client) = self.forget(now, slot) else { return };
        let Some(http) = &self.http else {
            self.sockets.close(client.token);
            return;
        };
        match self.sockets.detach(client.token) {
            Ok(stream) => http(stream, head.to_vec()),
            Err(error) => {
                tracing::debug!(%error, "a connection ended before it was handed on");
                self.sockets.close(client.token);
            }
        }
    }

    fn take_messages(&mut self, now: Instant, wall: WallTime, slot: Slot, bytes: &mut [u8]) {
        let mut input = bytes;
        loop {
            let Some(client) = self.client(slot) else { return };
            let Speech::WebSocket(decoder) = &mut client.speech else { return };
            let (len, used) = decoder.take_short(input);
            if used > 0 {
                self.gate.handle_bytes(now, wall, slot, &input[..len]);
                input = &mut input[used..];
                continue;
            }
            let code = match decoder.next(&mut input) {
                Ok(None) => return,
                Ok(Some(Piece::Data(data))) => {
                    self.gate.handle_bytes(now, wall, slot, data);
                    continue;
                }
                Ok(Some(Piece::Ping(ping))) => {
                    client.put_pong(&ping);
                    self.gate.handle_alive(now, slot);
                    self.write_client(now, slot);
                    continue;
                }
                Ok(Some(Piece::Pong)) => {
                    self.gate.handle_alive(now, slot);
                    continue;
                }
                Ok(Some(Piece::Close(code))) => code.unwrap_or(1000),
                Err(code) => {
                    self.gate.note(Rule::Protocol);
                    code as u16
                }
            };
            // Nothing may follow, so what the gate has for it is thrown away.
            let Some(client) = self.client(slot) else { return };
            ws::put_close(&mut client.wire, code, "", None);
            client.is_closing = true;
            self.gate.take_output(slot);
            self.write_client(now, slot);
            return;
        }
    }

    /// Writes what waits for a client, then what the gate has for it.
    fn write_client(&mut self, now: Instant, slot: Slot) {
        let Some((at, client)) = self.clients.get_mut(slot.index as usize).and_then(Option::as_mut)
        else {
            return;
        };
        if *at != slot {
            return;
        }
        if !client.wire.is_empty() {
            match self.sockets.write(client.token, &mut client.wire) {
                Write::All => self.gate.recycle(std::mem::take(&mut client.wire)),
                Write::Partial => return,
                Write::Closed(_) => return self.drop_client(now, slot),
            }
        }
        let mut output = self.gate.take_output(slot);
        if !output.is_empty() {
            if client.is_web() {
                ws::wrap_binary(&mut output, 0);
            }
            match self.sockets.write(client.token, &mut output) {
                Write::All => self.gate.recycle(output),
                Write::Partial => {
                    client.wire = output;
                    return;
                }
                Write::Closed(_) => return self.drop_client(now, slot),
            }
        }
        if client.is_closing {
            self.finish(now, slot);
        }
    }

    /// Writes a client's new output, unless older one waits.
    fn flush_client(&mut self, now: Instant, slot: Slot) {
        let Some(client) = self.client(slot) else { return };
        match client.speech {
            // Nobody there who would understand it.
            Speech::Unknown(_) => drop(self.gate.take_output(slot)),
            _ if client.wire.is_empty() => self.write_client(now, slot),
            _ => {}
        }
    }

    /// Everything is written: says the end and lets the client read it.
    fn finish(&mut self, now: Instant, slot: Slot) {
        if let Some(client) = self.forget(now, slot) {
            self.sockets.finish(client.token);
        }
    }

    /// Closes a client when its last frames are written.
    fn close_client(&mut self, now: Instant, slot: Slot, closing: Closing) {
        let Some(client) = self.client(slot) else {
            // One that has not come from its former gate yet.
            self.gate.handle_closed(now, slot);
            return;
        };
        if closing == Closing::Now {
            self.drop_client(now, slot);
            return;
        }
        if client.is_closing {
            return;
        }
        client.is_closing = true;
        match client.speech {
            Speech::Unknown(_) => self.drop_client(now, slot),
            Speech::Plain => self.write_client(now, slot),
            Speech::WebSocket(_) => {
                // The goodbye in our own frames, then WebSocket's.
                let mut output = self.gate.take_output(slot);
                ws::wrap_binary(&mut output, 0);
                ws::put_close(&mut output, 1000, "", None);
                if let Some(client) = self.client(slot) {
                    client.wire.append(&mut output);
                }
                self.write_client(now, slot);
            }
        }
    }

    fn read_link(&mut self, now: Instant, wall: WallTime, token: Token, link: LinkId) {
        let mut scratch = std::mem::take(&mut self.scratch);
        let read = self.sockets.read(token, &mut scratch);
        if let Read::Data(n) | Read::More(n) = read {
            let mut input = &scratch[..n];
            while let Some(frame) = self.gate.mesh().next_frame(now, link, &mut input) {
                self.gate.handle_link(now, wall, frame.from, &frame.payload);
            }
        }
        match read {
            Read::More(_) => self.sockets.read_later(token),
            Read::Closed(_) => {
                self.wires.handle_closed(now, self.gate.mesh(), &mut self.sockets, token);
            }
            Read::Data(_) | Read::Blocked => {}
        }
        self.scratch = scratch;
    }

    /// A gate whose lease is gone registers again, for ever: the list only gives hints.
    fn stay_listed(&mut self, now: Instant) {
        let (Some(listing), Some(cluster)) = (&mut self.listing, &self.cluster) else { return };
        if now < listing.renew_at {
            return;
        }
        listing.renew_at = now + self.renew_every;
        let renewed = match cluster.renew(now, listing.info.incarnation) {
            Err(cluster::Error::NotListed(_)) => cluster.register(now, listing.info.clone()),
            other => other,
        };
        if let Err(error) = renewed {
            tracing::error!(%error, "this gate cannot be listed; trying on");
        }
        cluster.handle_timeout(now);
    }

    fn handle_woken(&mut self, now: Instant, wall: WallTime) {
        let newer = self.cluster.as_ref().and_then(|c| c.directory_after(self.revision));
        if let Some(directory) = newer {
            self.revision = directory.revision();
            self.set_directory(now, &directory);
        }
        for end in self.doorbell.take() {
            self.wires.accept_pipe(now, self.gate.mesh(), &mut self.sockets, end);
        }
        let shared = self.shared.clone();
        let post = &shared.workers[usize::from(self.worker)];
        let batches = {
            let mut lane = lock(&post.lane);
            lane.bytes = 0;
            std::mem::take(&mut lane.batches)
        };
        for batch in batches {
            let mut frames = mesh::local_frames(&batch);
            while let Some((from, payload)) = self.gate.mesh().next_local(now, &mut frames) {
                self.gate.handle_link(now, wall, from, payload);
            }
            self.gate.mesh().recycle(batch);
        }
        let commands = std::mem::take(&mut *lock(&post.commands));
        for command in commands {
            self.handle_command(now, command);
        }
    }

    fn handle_command(&mut self, now: Instant, command: Command) {
        match command {
            Command::Directory(directory) => self.set_directory(now, &directory),
            Command::Listed(info) => {
                self.listing = Some(Listing { info, renew_at: now + self.renew_every });
            }
            Command::Drain(span) => {
                self.stop_accepting();
                self.is_draining = true;
                self.gate.drain(now, span);
            }
            Command::Stop => {
                self.stop_accepting();
                self.gate.drain(now, Duration::ZERO);
                self.is_draining = true;
                self.ends_at.get_or_insert(now + LAST_WORDS);
            }
            Command::Ban(whom, span) => {
                self.gate.ban(now, whom, span);
            }
            Command::LiftBan(whom) => {
                self.gate.lift_ban(whom);
            }
            Command::Close(slot, code, reason) => self.gate.close(now, slot, code, &reason),
            Command::List(max, answer) => {
                // Who asked may have stopped waiting.
                let _ = answer.send(self.gate.connections(max));
            }
            #[cfg(unix)]
            Command::Offer(max, answer) => {
                self.stop_accepting();
                let _ = answer.send(self.offer(now, max));
            }
            #[cfg(unix)]
            Command::Shift(places, sender) => {
                for (slot, place) in places {
                    match place {
                        Some(place) => self.gate.shift(now, slot, place),
                        None => self.gate.stay(now, slot),
                    }
                }
                self.giving = Some(sender);
            }
            #[cfg(unix)]
            Command::Reserve(offers, answer) => {
                let _ = answer.send(self.reserve(now, &offers));
            }
            #[cfg(unix)]
            Command::Import(handed) => {
                handed.into_iter().for_each(|handed| self.import(now, handed));
            }
        }
    }

    fn stop_accepting(&mut self) {
        for listener in self.ports.clients.drain(..) {
            self.sockets.close_listener(listener);
        }
    }

    fn set_directory(&mut self, now: Instant, directory: &Arc<Directory>) {
        let gone: Vec<Incarnation> =
            self.peers.iter().copied().filter(|node| directory.node(*node).is_none()).collect();
        self.peers = directory.nodes().map(|info| info.incarnation).collect();
        for info in directory.nodes() {
            let node = info.incarnation;
            let is_near = self.board.has(node.0);
            let addresses = if is_near { Vec::new() } else { info.mesh.clone() };
            self.gate.mesh().set_peer(node, PeerInfo { name: info.name.clone(), addresses });
        }
        self.gate.set_directory(now, directory.clone());
        for node in gone {
            // The list is a hint: who still answers stays until the link breaks.
            if self.gate.mesh().is_up(node) {
                self.unlisted.push(node);
            } else {
                self.gate.mesh().remove_peer(node);
                self.gate.handle_peer_down(now, node);
            }
        }
        let peers = &self.peers;
        self.unlisted.retain(|node| !peers.contains(node));
    }

    /// The link to a node broke.
    fn handle_lost(&mut self, now: Instant, node: Incarnation) {
        if let Some(at) = self.unlisted.iter().position(|unlisted| *unlisted == node) {
            self.unlisted.swap_remove(at);
            self.gate.mesh().remove_peer(node);
        }
        self.gate.handle_peer_down(now, node);
    }

    /// Does all that follows from what was handled: each output once, until nothing is left.
    fn settle(&mut self, now: Instant, wall: WallTime) {
        loop {
            while let Some(slot) = self.gate.poll_readable() {
                if let Some(client) = self.client(slot) {
                    let token = client.token;
                    self.sockets.read_later(token);
                }
            }
            while let Some(slot) = self.gate.poll_dirty() {
                self.flush_client(now, slot);
            }
            while let Some((slot, closing)) = self.gate.poll_close() {
                self.close_client(now, slot, closing);
            }
            #[cfg(unix)]
            self.give(now);
            self.flush_links(now);
            let lost = std::mem::take(&mut self.lost);
            let had_lanes = self.pass_lanes(now, wall);
            if lost.is_empty() && !had_lanes {
                break;
            }
            for node in lost {
                self.handle_lost(now, node);
            }
        }
        let connections = u32::try_from(self.clients.len()).unwrap_or(u32::MAX);
        if now.since(self.shown_at) >= SHOW_EVERY + SHOW_EVERY_CONNECTION * connections {
            self.show(now);
        }
    }

    /// Writes what the links have to say.
    fn flush_links(&mut self, now: Instant) {
        self.unflushed = 0;
        let (mesh, lost) = (self.gate.mesh(), &mut self.lost);
        self.wires.flush(now, mesh, &mut self.sockets, |change| {
            if let PeerChange::Down(node) = change {
                lost.push(node);
            }
        });
    }

    /// Passes mail on to other workers of this gate; its own is handled at once. Tells whether
    /// there was some of that.
    fn pass_lanes(&mut self, now: Instant, wall: WallTime) -> bool {
        for worker in std::mem::take(&mut self.blocked_lanes) {
            self.gate.mesh().handle_local_room(worker);
        }
        let mut had_own = false;
        while let Some((worker, batch)) = self.gate.mesh().poll_local() {
            if worker == self.worker {
                had_own = true;
                let mut frames = mesh::local_frames(&batch);
                while let Some((from, payload)) = self.gate.mesh().next_local(now, &mut frames) {
                    self.gate.handle_link(now, wall, from, payload);
                }
                self.gate.mesh().recycle(batch);
                continue;
            }
            let post = &self.shared.workers[usize::from(worker)];
            let mut lane = lock(&post.lane);
            if lane.bytes + batch.len() > LANE_BYTES_MAX && lane.bytes > 0 {
                drop(lane);
                self.gate.mesh().handle_local_full(worker, batch);
                self.blocked_lanes.push(worker);
                continue;
            }
            lane.bytes += batch.len();
            lane.batches.push(batch);
            drop(lane);
            post.waker.wake();
        }
        had_own
    }

    fn show(&mut self, now: Instant) {
        self.shown_at = now;
        let stats = self.gate.stats();
        self.metrics.show(&stats);
        *lock(&self.shared.workers[usize::from(self.worker)].stats) = stats;
    }

    /// Whether the worker was told to end and has said all it had to.
    fn is_over(&mut self, now: Instant) -> bool {
        if !self.is_draining {
            return false;
        }
        if self.gate.is_drained() {
            // The homes' notices and the clients' last frames are on their way: a moment for them.
            let moment = now + PARTING;
            self.ends_at = Some(self.ends_at.map_or(moment, |at| at.min(moment)));
        }
        self.ends_at.is_some_and(|at| at <= now)
    }
}
