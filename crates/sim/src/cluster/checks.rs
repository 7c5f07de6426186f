//! What must be right again once nothing goes wrong any more, and what must be gone.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use mainstay::env::Instant;
use mainstay::node::rt::CallError;

use super::Script;
use super::game::{PASSING, Post};

/// All must be well so long after the last fault.
const REST: Duration = Duration::from_secs(40);

/// A question of every node to every other, after all has healed.
type Probe = (usize, u64, Pin<Box<dyn Future<Output = Result<u64, CallError>>>>);

impl Script {
    /// Nothing goes wrong any more: everybody must come to rest, connected and answered.
    pub fn heal(&mut self) {
        if self.stage.is_broken() {
            return;
        }
        self.stage.cluster.note(|| "all faults end".to_owned());
        self.strikes.iter_mut().for_each(|strike| strike.end());
        self.end_strikes(self.stage.cluster.now());
        self.stage.cluster.heal();
        // So many deaths at once are not believed: an operator says that they are true.
        for incarnation in std::mem::take(&mut self.graves) {
            self.stage.cluster.bury(incarnation);
        }
        let healed = self.stage.cluster.now();
        // What broke last is learnt late: each session is looked over twice in a window.
        let looked_over = self.stage.laws.window / 2 + Duration::from_secs(2);
        // In steps: what nodes take for true meanwhile decides whether a ticket may have been taken twice.
        self.wait_until(looked_over, |_| false);
        self.wait_until(REST - looked_over, Self::is_at_rest);
        if self.stage.is_broken() {
            return;
        }
        self.check_rest("after the last fault");
        self.stage.ask_all(&[("agent", "add"), ("shop", "browse")]);
        self.probe(healed + REST);
        // Entities may still be at work for clients that have left.
        self.wait(Duration::from_millis(250));
        self.wait_until(Duration::from_secs(31), Self::is_at_rest);
        self.check_rest("after the last round");
        // What was under way just now may still change memberships.
        let most = self.stage.laws.window / 2 + Duration::from_secs(4);
        self.wait_until(most, |script| script.stage.strangers().is_none());
        if let Some(text) = self.stage.strangers() {
            self.stage.book.open().violation(text);
        }
    }

    /// Every node reaches every other by `latest`: by the entities in memory that are there. A link may be found dead
    /// no sooner than something is sent over it.
    fn probe(&mut self, latest: Instant) {
        let mut probes: Vec<Probe> = Vec::new();
        for node in 0..self.stage.cluster.nodes() {
            probes.extend((0..8).filter_map(|key| self.ask_post(node, key)));
        }
        let end = latest.max(self.stage.cluster.now()) + Duration::from_secs(10);
        let mut context = Context::from_waker(Waker::noop());
        while !probes.is_empty() && !self.stage.is_broken() {
            let (now, mut waiting) = (self.stage.cluster.now(), Vec::new());
            for (node, key, mut call) in probes {
                match call.as_mut().poll(&mut context) {
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(_)) if now < latest => {
                        waiting.extend(self.ask_post(node, key));
                    }
                    Poll::Ready(Err(error)) => {
                        let text =
                            format!("liveness: post {key} is not reached by {node}: {error}");
                        self.stage.book.open().violation(text);
                    }
                    Poll::Pending if now >= end => {
                        let text = format!("calls: one from node {node} to post {key} has no end");
                        self.stage.book.open().violation(text);
                    }
                    Poll::Pending => waiting.push((node, key, call)),
                }
            }
            probes = waiting;
            (0..self.stage.cluster.nodes()).for_each(|node| self.stage.cluster.poke(node, 0));
            self.wait(Duration::from_millis(20));
        }
    }

    fn ask_post(&self, node: usize, key: u64) -> Option<Probe> {
        let Some(out) = self.stage.cluster.outside(node, 0) else {
            self.stage.book.open().violation(format!("liveness: node {node} does not run"));
            return None;
        };
        let call = async move { out.entity::<Post>(key).here().await };
        Some((node, key, Box::pin(call)))
    }

    fn is_at_rest(&self) -> bool {
        let cluster = &self.stage.cluster;
        let runs = |n: usize| cluster.is_up(n) && !cluster.is_draining(n);
        (0..cluster.nodes()).all(runs)
            && self.stage.is_at_rest()
            && cluster.wrong_views().is_empty()
    }

    fn check_rest(&self, when: &str) {
        self.stage.check_rest(when);
        if let Some(text) = self.stage.cluster.wrong_views().first() {
            self.stage.book.open().violation(format!("directory: {text} {when}"));
        }
    }

    /// All go, one way or another: nothing of them may be left.
    pub fn empty(&mut self) {
        if self.stage.is_broken() {
            return;
        }
        self.stage.send_away();
        // A silent client is missed after three heartbeats, and homes are asked after streams of which they
        // do not speak any more, twice in a window.
        let limit = 3 * self.stage.laws.window + Duration::from_secs(40);
        let end = self.stage.cluster.now() + limit;
        while self.stage.cluster.now() < end
            && !self.leftovers().is_empty()
            && !self.stage.is_broken()
        {
            self.wait(Duration::from_secs(1));
        }
        for text in self.leftovers() {
            self.stage.book.open().violation(text);
        }
    }

    /// What is still there of clients and of what was played.
    fn leftovers(&self) -> Vec<String> {
        let mut found = self.stage.leftovers();
        for stats in self.stage.cluster.worker_stats() {
            let (host, data, homes) = (&stats.host, &stats.data, &stats.homes);
            for kind in &host.kinds {
                if kind.calls > 0 || kind.mail > 0 || kind.busy > 0 {
                    found.push(format!("left: {kind:?}"));
                } else if PASSING.contains(&kind.kind) && kind.entities > 0 {
                    found.push(format!("left: {} of {}", kind.entities, kind.kind));
                }
            }
            if host.client_calls > 0 || stats.streams.open_calls > 0 || stats.streams.groups > 0 {
                let (calls, groups) = (host.client_calls, stats.streams.groups);
                found.push(format!("left: {calls} calls to clients, {groups} groups"));
            }
            if data.owned > 0 || data.dirty > 0 || data.commits_open > 0 || data.parked {
                found.push(format!("left: {data:?}"));
            }
            if stats.moves.open > 0 || homes.leaving > 0 {
                found.push(format!("left: {:?}, {} leaving", stats.moves, homes.leaving));
            }
        }
        found
    }

    /// A ticket admits once, unless nodes did not agree meanwhile on who is home.
    pub fn judge_admissions(&mut self, now: Instant) {
        let nodes = 0..self.stage.cluster.nodes();
        let lives = nodes.map(|n| (self.stage.cluster.node_life(n), self.stage.cluster.is_up(n)));
        let lives: Vec<_> = lives.collect();
        let draining =
            (0..self.stage.cluster.nodes()).filter(|n| self.stage.cluster.is_draining(*n)).count();
        let state = format!("{lives:?} {draining} {:?}", self.stage.cluster.center_counts());
        if state != self.state || !self.stage.cluster.wrong_views().is_empty() {
            self.upheaval_at = now;
            self.state = state;
        }
        let mut book = self.stage.book.open();
        book.now = now;
        for first in std::mem::take(&mut book.admitted_twice) {
            if self.upheaval_at < first {
                book.violation("ticket: one ticket has let two sessions begin");
            }
        }
    }
}
