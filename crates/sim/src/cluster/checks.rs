//! What must be right again once nothing goes wrong any more, and what must be gone.

use std::task::{Context, Poll, Waker};
use std::time::Duration;

use mainstay::env::Instant;
use mainstay::node::session::Options;

use super::game::{PASSING, Post};
use super::{Probe, Script};
use crate::player::{Player, Standing};

/// All must be well so long after the last fault.
const REST: Duration = Duration::from_secs(40);

impl Script {
    /// Nothing goes wrong any more: everybody must come to rest, connected and answered.
    pub fn heal(&mut self) {
        if self.is_broken() {
            return;
        }
        self.cluster.note(|| "all faults end".to_owned());
        self.strikes.iter_mut().for_each(|strike| strike.end());
        self.end_strikes(self.cluster.now());
        self.cluster.heal();
        // So many deaths at once are not believed: an operator says that they are true.
        for incarnation in std::mem::take(&mut self.graves) {
            self.cluster.bury(incarnation);
        }
        let end = self.cluster.now() + REST;
        // What broke last is learnt late.
        // Each session is looked over twice in a window.
        self.wait(self.laws.window / 2 + Duration::from_secs(2));
        while self.cluster.now() < end && !self.is_at_rest() && !self.is_broken() {
            self.wait(Duration::from_millis(250));
        }
        if self.is_broken() {
            return;
        }
        self.check_rest("after the last fault");
        for player in self.players.iter_mut().filter(|player| player.is_playing()) {
            let wait = Duration::from_secs(30);
            player.request(&mut self.cluster, ("agent", "add"), None, wait);
            player.request(&mut self.cluster, ("shop", "browse"), None, wait);
        }
        for player in &mut self.players {
            player.calm_from_now();
        }
        self.probe();
        // Entities may still be at work for clients that have left.
        let end = self.cluster.now() + Duration::from_secs(31);
        self.wait(Duration::from_millis(250));
        while self.cluster.now() < end && !self.is_at_rest() && !self.is_broken() {
            self.wait(Duration::from_millis(250));
        }
        self.check_rest("after the last round");
        // What was under way just now may still change memberships.
        let end = self.cluster.now() + self.laws.window / 2 + Duration::from_secs(4);
        while self.cluster.now() < end && self.strangers().is_some() && !self.is_broken() {
            self.wait(Duration::from_millis(250));
        }
        if let Some(text) = self.strangers() {
            self.book.open().violation(text);
        }
    }

    /// Every node reaches every other: by the entities in memory that are there.
    fn probe(&mut self) {
        let mut probes: Vec<Probe> = Vec::new();
        for node in 0..self.cluster.nodes() {
            let Some(out) = self.cluster.outside(node, 0) else {
                self.book.open().violation(format!("liveness: node {node} does not run"));
                continue;
            };
            for key in 0..8 {
                let out = out.clone();
                let call = async move { out.entity::<Post>(key).here().await };
                probes.push((node, key, Box::pin(call)));
            }
        }
        let end = self.cluster.now() + Duration::from_secs(10);
        let mut context = Context::from_waker(Waker::noop());
        while !probes.is_empty() && !self.is_broken() {
            let mut waiting = Vec::new();
            for (node, key, mut call) in probes {
                match call.as_mut().poll(&mut context) {
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(error)) => {
                        let text =
                            format!("liveness: post {key} is not reached by {node}: {error}");
                        self.book.open().violation(text);
                    }
                    Poll::Pending if self.cluster.now() >= end => {
                        let text = format!("calls: one from node {node} to post {key} has no end");
                        self.book.open().violation(text);
                    }
                    Poll::Pending => waiting.push((node, key, call)),
                }
            }
            probes = waiting;
            (0..self.cluster.nodes()).for_each(|node| self.cluster.poke(node, 0));
            self.wait(Duration::from_millis(20));
        }
    }

    /// A client that takes itself for a member of other groups than the owners of groups do.
    fn strangers(&self) -> Option<String> {
        self.players.iter().filter(|player| player.is_playing()).find_map(|player| {
            let (believed, known) = self.cluster.memberships(player.id);
            let life = player.life;
            (believed != known).then(|| {
                format!("groups: client {life} believes to be in {believed:?}, but is in {known:?}")
            })
        })
    }

    fn is_at_rest(&self) -> bool {
        let rests = |player: &Player| {
            let core = self.cluster.core(player.id);
            let is_bound = core.is_bound("agent") && core.is_bound("shop");
            !player.is_playing() || core.is_connected() && is_bound && player.is_idle()
        };
        let nodes = 0..self.cluster.nodes();
        let runs = |n: &usize| self.cluster.is_up(*n) && !self.cluster.is_draining(*n);
        nodes.clone().filter(runs).count() == nodes.len()
            && self.players.iter().all(rests)
            && self.book.open().calls_open().is_empty()
            && self.cluster.wrong_views().is_empty()
    }

    fn check_rest(&self, when: &str) {
        for player in self.players.iter().filter(|player| player.is_playing()) {
            let core = self.cluster.core(player.id);
            let what = if !core.is_connected() {
                "is not connected"
            } else if !core.is_bound("agent") {
                "has no stream"
            } else if !core.is_bound("shop") {
                "has no stream to its shop"
            } else if !player.is_idle() {
                "waits for an answer"
            } else {
                continue;
            };
            let text = format!("liveness: client {} {what} {when}", player.life);
            self.book.open().violation(text);
        }
        let calls = self.book.open().calls_open();
        if !calls.is_empty() {
            self.book.open().violation(format!("liveness: {calls:?} goes on {when}"));
        }
        if let Some(text) = self.cluster.wrong_views().first() {
            self.book.open().violation(format!("directory: {text} {when}"));
        }
    }

    /// All go, one way or another: nothing of them may be left.
    pub fn empty(&mut self) {
        if self.is_broken() {
            return;
        }
        for at in 0..self.players.len() {
            if !self.players[at].is_playing() {
                continue;
            }
            let (silent, goodbye) = (self.random.chance(1, 2), self.random.chance(1, 2));
            let player = &mut self.players[at];
            if goodbye {
                player.standing = Standing::Left;
                self.cluster.leave(player.id);
            } else {
                player.standing = Standing::Gone;
                self.cluster.abandon(player.id, silent);
            }
        }
        // A silent client is missed after three heartbeats, and homes are asked after streams of which they
        // do not speak any more, twice in a window.
        let limit = 3 * self.laws.window + Duration::from_secs(40);
        let end = self.cluster.now() + limit;
        while self.cluster.now() < end && !self.leftovers().is_empty() && !self.is_broken() {
            self.wait(Duration::from_secs(1));
        }
        for text in self.leftovers() {
            self.book.open().violation(text);
        }
    }

    /// What is still there of clients and of what was played.
    fn leftovers(&self) -> Vec<String> {
        let mut found = Vec::new();
        let left = self.cluster.left();
        if left != testkit::Left::default() {
            found.push(format!("left: {left:?}, {:?}", self.cluster.streams()));
        }
        let book = self.book.open();
        if book.peers() > 0 {
            found.push(format!("left: {} clients at entities", book.peers()));
        }
        if !book.calls_open().is_empty() {
            found.push(format!("calls: {:?} have never ended", book.calls_open()));
        }
        let alarms = self.deeds.open().alarms_open();
        if alarms > 0 {
            found.push(format!("timers: {alarms} have never fired"));
        }
        for stats in self.cluster.worker_stats() {
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
        let nodes = 0..self.cluster.nodes();
        let lives = nodes.map(|n| (self.cluster.node_life(n), self.cluster.is_up(n)));
        let lives: Vec<_> = lives.collect();
        let draining = (0..self.cluster.nodes()).filter(|n| self.cluster.is_draining(*n)).count();
        let state = format!("{lives:?} {draining} {:?}", self.cluster.center_counts());
        if state != self.state || !self.cluster.wrong_views().is_empty() {
            self.upheaval_at = now;
            self.state = state;
        }
        let mut book = self.book.open();
        book.now = now;
        for first in std::mem::take(&mut book.admitted_twice) {
            if self.upheaval_at < first {
                book.violation("ticket: one ticket has let two sessions begin");
            }
        }
    }

    /// Once a second: no queue is over its limit, and no handler has panicked.
    pub fn check_limits(&mut self) {
        let sessions = Options::default();
        let mut book = self.book.open();
        for stats in self.cluster.worker_stats() {
            let streams = stats.streams;
            let most = streams.streams * (sessions.unacked_frames_max + sessions.held_frames_max);
            if streams.unacked > most
                || streams.open_requests > streams.streams * sessions.open_requests_max
                || streams.open_calls > streams.streams * sessions.open_calls_max
            {
                book.violation(format!("limits: {streams:?}"));
            }
            if stats.host.panics > 0 || stats.bad_frames > 0 {
                let (panics, frames) = (stats.host.panics, stats.bad_frames);
                book.violation(format!("panic: {panics} handlers, {frames} bad frames"));
            }
            if streams.second_replies > 0 || streams.violations > 0 {
                let (replies, broken) = (streams.second_replies, streams.violations);
                book.violation(format!("streams: {replies} second replies, {broken} violations"));
            }
            // Fewer requests are on their way in a run than answers are kept.
            if streams.forgotten > 0 {
                let forgotten = streams.forgotten;
                book.violation(format!("answers: {forgotten} repeated requests got none"));
            }
            for kind in &stats.host.kinds {
                if kind.mail_longest > 1_024 || kind.quarantined > 0 {
                    book.violation(format!("limits: {kind:?}"));
                }
            }
        }
    }
}
