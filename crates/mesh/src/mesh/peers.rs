//! The other nodes: dialing them, keeping their mail meanwhile, choosing their links.

use env::Instant;
use proto::Incarnation;
use proto::frame::put_frame;
use proto::link::LinkFrame;

use super::{Mesh, Output, append, find};
use crate::key::Side;
use crate::link::{Reason, Stage};
use crate::{LinkId, PeerInfo, SendError};

/// Another node.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) node: Incarnation,
    /// `None` for a node that came to us before we heard of it.
    pub(super) info: Option<PeerInfo>,
    /// Where our frames go, while it is up.
    pub(super) link: Option<LinkId>,
    /// The dials under way: the first to be proven wins.
    pub(super) dials: Vec<LinkId>,
    /// How many of the addresses this round of dials has tried.
    pub(super) tried: usize,
    /// When to dial the next address beside the ones under way.
    pub(super) next_dial: Instant,
    /// Frames that wait for a link, and until when.
    pub(super) pending: Vec<u8>,
    pub(super) pending_until: Instant,
    /// When to dial again.
    pub(super) retry_at: Option<Instant>,
    /// Dials that failed in a row.
    pub(super) failures: u32,
    /// It was announced as down and has not been up since.
    pub(super) down: bool,
    /// Links that are up, ours and theirs.
    pub(super) links_up: u32,
}

impl Mesh {
    /// Keeps a frame for a node without a link, and dials it if nobody does.
    pub(super) fn put_pending(
        &mut self,
        now: Instant,
        at: u32,
        limit: usize,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), SendError> {
        let peer = self.peers[at as usize].as_mut().expect("indexed peers are there");
        if peer.info.is_none() {
            return Err(SendError::Unknown);
        }
        if peer.down {
            return Err(SendError::Down);
        }
        if peer.pending.len() >= limit.min(self.options.pending_bytes_max) {
            self.counters.full += 1;
            return Err(SendError::Full);
        }
        append(&mut peer.pending, self.options.frame_bytes_max, write)?;
        if peer.pending_until == Instant::NEVER {
            peer.pending_until = now + self.options.pending_wait;
            self.next_timeout = self.next_timeout.min(peer.pending_until);
        }
        let is_idle = peer.dials.is_empty() && peer.retry_at.is_none();
        if is_idle {
            self.dial_all(now, at);
        }
        Ok(())
    }

    pub(super) fn handle_peer_timeout(&mut self, now: Instant, at: u32) {
        let Some(peer) = self.peers[at as usize].as_mut() else { return };
        if peer.pending_until <= now {
            let node = peer.node;
            peer.down = true;
            self.drop_pending(at);
            self.outputs.push_back(Output::PeerDown(node));
        }
        let peer = self.peer_mut(at);
        if peer.retry_at.is_some_and(|retry_at| retry_at <= now) {
            peer.retry_at = None;
            self.dial_all(now, at);
        } else if peer.next_dial <= now {
            self.dial_next(now, at);
        }
        let peer = self.peers[at as usize].as_ref().expect("dialing removes no peer");
        let retry_at = peer.retry_at.unwrap_or(Instant::NEVER);
        let next = retry_at.min(peer.pending_until).min(peer.next_dial);
        self.next_timeout = self.next_timeout.min(next);
    }

    /// Begins a round of dials: the first address now, each other when those before it have
    /// failed or had `dial_stagger` (as RFC 8305 does), until one is up.
    pub(super) fn dial_all(&mut self, now: Instant, at: u32) {
        self.peer_mut(at).tried = 0;
        self.dial_next(now, at);
    }

    pub(super) fn dial_next(&mut self, now: Instant, at: u32) {
        let peer = self.peers[at as usize].as_mut().expect("the caller looked");
        peer.next_dial = Instant::NEVER;
        let Some(info) = &peer.info else { return };
        if peer.link.is_some() {
            // It came to us meanwhile.
            return;
        }
        if self.links_open >= self.options.links_max {
            if peer.dials.is_empty() {
                self.plan_retry(now, at);
            }
            return;
        }
        let address = info.addresses.get(peer.tried).copied();
        peer.tried += 1;
        if peer.tried < info.addresses.len() {
            peer.next_dial = now + self.options.dial_stagger;
            self.next_timeout = self.next_timeout.min(peer.next_dial);
        }
        let node = peer.node;
        self.counters.dials += 1;
        let deadline = now + self.options.connect_wait;
        let link = self.insert_link(Side::Dialer, Stage::Dialing, deadline);
        find(&mut self.links, link).expect("just inserted").peer = Some(at);
        self.peer_mut(at).dials.push(link);
        self.outputs.push_back(Output::Dial { link, to: node, address });
    }

    /// One dial is up: the others end, but for those whose peer may have proven us already and
    /// send on them.
    pub(super) fn cancel_other_dials(&mut self, now: Instant, at: u32, winner: LinkId) {
        let peer = self.peer_mut(at);
        peer.next_dial = Instant::NEVER;
        peer.dials.retain(|dial| *dial != winner);
        for dial in peer.dials.clone() {
            let stage = find(&mut self.links, dial).map(|link| link.stage);
            if matches!(stage, Some(Stage::Dialing | Stage::Hello)) {
                self.close_link(now, dial, Reason::Superseded);
            }
        }
    }

    /// A dial ended without being up.
    pub(super) fn handle_dial_failed(&mut self, now: Instant, at: u32, id: LinkId) {
        let peer = self.peers[at as usize].as_mut().expect("the caller looked");
        peer.dials.retain(|dial| *dial != id);
        let Some(info) = &peer.info else { return };
        if peer.link.is_some() {
            return;
        }
        if peer.next_dial != Instant::NEVER && peer.tried < info.addresses.len() {
            self.dial_next(now, at);
        } else if peer.dials.is_empty() {
            self.plan_retry(now, at);
        }
    }

    /// Waits longer with each failure, for ever, and never in step with others.
    pub(super) fn plan_retry(&mut self, now: Instant, at: u32) {
        let peer = self.peers[at as usize].as_mut().expect("the caller looked");
        let doubled = self.options.retry_first.saturating_mul(1 << peer.failures.min(16));
        let wait = doubled.min(self.options.retry_max);
        peer.failures = peer.failures.saturating_add(1);
        let nanos = wait.as_nanos() as u64;
        let jittered = nanos / 2 + self.random.below(nanos / 2 + 1);
        let retry_at = now + std::time::Duration::from_nanos(jittered);
        peer.retry_at = Some(retry_at);
        self.next_timeout = self.next_timeout.min(retry_at);
    }

    /// Sends to `peer` on this link from now on.
    pub(super) fn adopt_link(&mut self, at: u32, id: LinkId) {
        let peer = self.peers[at as usize].as_mut().expect("the caller looked");
        peer.link = Some(id);
        peer.down = false;
        peer.pending_until = Instant::NEVER;
        let pending = std::mem::take(&mut peer.pending);
        let node = peer.node;
        self.begun += 1;
        let begin = LinkFrame::Begin { number: self.begun };
        let link = find(&mut self.links, id).expect("the caller looked");
        link.used |= !pending.is_empty();
        put_frame(&mut link.out, |out| begin.encode(0, out));
        link.out.extend_from_slice(&pending);
        self.outputs.push_back(Output::PeerUp(node));
        self.flush(id);
    }

    /// Goes on with another link of the peer, or dials.
    pub(super) fn replace_link(&mut self, now: Instant, at: u32) {
        let other = (0u32..).zip(&self.links).find_map(|(index, slot)| {
            let link = slot.link.as_ref()?;
            (link.is_up() && link.peer == Some(at)).then(|| LinkId::new(index, slot.generation))
        });
        let peer = self.peer_mut(at);
        if peer.info.is_none() {
            return;
        }
        if let Some(other) = other {
            self.adopt_link(at, other);
        } else if peer.dials.is_empty() {
            // A moment's wait, so that both sides do not hammer a node that just fell.
            self.plan_retry(now, at);
        }
    }

    pub(super) fn drop_pending(&mut self, at: u32) {
        let peer = self.peer_mut(at);
        peer.pending_until = Instant::NEVER;
        let dropped = std::mem::take(&mut peer.pending).len();
        self.counters.pending_dropped_bytes += dropped as u64;
    }

    pub(super) fn peer_entry(&mut self, node: Incarnation) -> u32 {
        if let Some(&at) = self.peer_index.get(&node) {
            return at;
        }
        let peer = Peer {
            node,
            info: None,
            link: None,
            dials: Vec::new(),
            tried: 0,
            next_dial: Instant::NEVER,
            pending: Vec::new(),
            pending_until: Instant::NEVER,
            retry_at: None,
            failures: 0,
            down: false,
            links_up: 0,
        };
        let at = self.peers_free.pop().unwrap_or_else(|| {
            self.peers.push(None);
            self.peers.len() as u32 - 1
        });
        self.peers[at as usize] = Some(peer);
        self.peer_index.insert(node, at);
        at
    }

    pub(super) fn peer_mut(&mut self, at: u32) -> &mut Peer {
        self.peers[at as usize].as_mut().expect("indexed peers are there")
    }

    /// Forgets a peer that is neither listed nor connected.
    pub(super) fn forget_peer(&mut self, at: u32) {
        let Some(peer) = &self.peers[at as usize] else { return };
        if peer.info.is_none() && peer.links_up == 0 && peer.dials.is_empty() {
            self.peer_index.remove(&peer.node);
            self.peers[at as usize] = None;
            self.peers_free.push(at);
        }
    }
}
