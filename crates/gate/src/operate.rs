//! What operators and the rest of the cluster do to a gate.

use std::sync::Arc;
use std::time::Duration;

use cluster::Directory;
use env::Instant;
use proto::Incarnation;
use proto::frame::CloseCode;
use proto::link::Slot;

use crate::conn::{Conn, ConnectionInfo, Lead, Session};
use crate::gate::{Due, End, Gate};
use crate::timers::Drain;
use crate::{Banned, Rule, Stats};

/// How often a drain closes its next share of the connections.
const DRAIN_STEP: Duration = Duration::from_millis(100);

impl Gate {
    /// Replaces what is known of the nodes. New homes are told of the sessions that are theirs now.
    pub fn set_directory(&mut self, now: Instant, directory: Arc<Directory>) {
        self.directory = directory;
        self.follow_homes(now);
    }

    /// The link to a node broke. Sessions whose home was there go on until another one has them, or
    /// it is found to live; those with streams to it are told to resume if their home does not end
    /// these in a moment. Its groups are left.
    pub fn handle_peer_down(&mut self, now: Instant, node: Incarnation) {
        let leads_there = |session: &Session| {
            let mut leads = session.routes.iter().map(|route| route.lead);
            leads.any(|lead| matches!(lead, Lead::To(owner) if owner.node == node))
        };
        let touched = |session: &Session| session.home.node == node || leads_there(session);
        let lost: Vec<Slot> = self
            .conns
            .iter()
            .filter(|(_, conn)| conn.session().is_some_and(touched))
            .map(|(slot, _)| slot)
            .collect();
        for slot in lost {
            self.stats.hit(Rule::NodeLost);
            let session = self.conns.get(slot).and_then(Conn::session).expect("just found");
            let (has_home_there, has_streams_there) =
                (session.home.node == node, leads_there(session));
            if has_home_there {
                self.lose_home(now, slot);
            }
            if has_streams_there {
                self.lose_routes(now, slot, node);
            }
        }
        for group in self.groups.of_node(node) {
            self.lose_group(now, group);
        }
    }

    /// Takes no more connections and closes all there are with `GoingAway`, evenly over `span`.
    /// Clients resume at another gate. [`is_drained`](Gate::is_drained) tells when it is done.
    pub fn drain(&mut self, now: Instant, span: Duration) {
        if self.drain.is_some() {
            return;
        }
        let left: Vec<Slot> = self.conns.slots().collect();
        let steps = (span.as_millis() / DRAIN_STEP.as_millis()).max(1) as usize;
        self.drain = Some(Drain { step: left.len().div_ceil(steps).max(1), left });
        self.handle_drain_step(now);
    }

    pub(crate) fn handle_drain_step(&mut self, now: Instant) {
        let Some(drain) = &mut self.drain else { return };
        let rest = drain.left.len().saturating_sub(drain.step);
        let step = drain.left.split_off(rest);
        if !drain.left.is_empty() {
            self.wheel.insert(now + DRAIN_STEP, Due::DrainStep);
        }
        for slot in step {
            self.end(now, slot, &End::new(CloseCode::GoingAway, "this gate is going down"));
        }
    }

    /// Whether a drain was begun and no connection is left.
    pub fn is_drained(&self) -> bool {
        self.drain.is_some() && self.conns.len() == 0
    }

    /// Bans an address range or account for `span` and closes what it has here. `false` if there
    /// are too many bans.
    pub fn ban(&mut self, now: Instant, whom: Banned, span: Duration) -> bool {
        if !self.guard.ban(whom, now + span) {
            return false;
        }
        let is_meant = |conn: &Conn| match whom {
            Banned::Network(_) => self.guard.is_banned(now, conn.peer.ip()),
            Banned::Account(account) => conn.session().is_some_and(|s| s.account == account),
        };
        let meant: Vec<Slot> =
            self.conns.iter().filter(|(_, conn)| is_meant(conn)).map(|(slot, _)| slot).collect();
        for slot in meant {
            self.stats.hit(Rule::Banned);
            self.end(now, slot, &End::new(CloseCode::Kicked, "banned"));
        }
        true
    }

    /// Lifts a ban; `false` if there was none.
    pub fn lift_ban(&mut self, whom: Banned) -> bool {
        self.guard.lift(whom)
    }

    /// Closes one connection. Its session waits for a resume if `code` allows one.
    pub fn close(&mut self, now: Instant, slot: Slot, code: CloseCode, reason: &str) {
        self.end(now, slot, &End::new(code, reason));
    }

    /// What this worker holds and did.
    pub fn stats(&self) -> Stats {
        let mut stats = self.stats;
        stats.connections = self.conns.len() as u64;
        stats.groups = self.groups.len() as u64;
        stats.members = self.groups.members() as u64;
        for (_, conn) in self.conns.iter() {
            if let Some(session) = conn.session() {
                stats.routes += session.streams() as u64;
                let count = if conn.is_live() { &mut stats.sessions } else { &mut stats.waiting };
                *count += 1;
            }
        }
        stats
    }

    /// What is remembered of addresses, networks, accounts and bans, as a number of entries.
    pub fn remembered(&self) -> usize {
        self.guard.remembered() + self.homes.remembered()
    }

    /// Up to `max` connections, lowest slot first.
    pub fn connections(&self, max: usize) -> Vec<ConnectionInfo> {
        self.conns.iter().take(max).map(|(slot, conn)| conn.info(slot)).collect()
    }
}
