//! Watchers of a store's servers: they judge together which are down, and the elected one has another promoted.
//!
//! Pure, and not wired to anything yet: whoever drives it sends what it asks for and tells it what happened.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use env::Instant;

/// How a [`Watcher`] judges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatcherOptions {
    /// How often each server is asked.
    pub ping_every: Duration,
    /// A server that has not answered for so long is voted down. Votes of others count for so long.
    pub down_after: Duration,
    /// So many watchers, this one included, must have voted before another server is promoted.
    pub quorum: usize,
    /// How long a promotion may take before another is begun.
    pub promote_wait: Duration,
}

impl Default for WatcherOptions {
    fn default() -> Self {
        WatcherOptions {
            ping_every: Duration::from_secs(1),
            down_after: Duration::from_secs(5),
            quorum: 2,
            promote_wait: Duration::from_secs(30),
        }
    }
}

/// A server that may be the primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    /// Names it among the servers of the store.
    pub name: String,
    /// Of servers that have the same, the one with the lowest is promoted; `None`: never.
    pub priority: Option<u32>,
}

/// What a server answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Whether it takes writes.
    pub is_primary: bool,
    /// How far it has come in the log that primary and replicas share.
    pub position: u64,
}

/// A promotion, as all watchers know it: it is kept where one alone can write over what it has read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failover {
    /// Rises by one with each.
    pub number: u64,
    /// The watcher that began it.
    pub by: u64,
    /// The server that is down.
    pub from: String,
    /// The server that takes its place.
    pub to: String,
    /// Whether it has ended, well or not.
    pub is_over: bool,
}

/// What a watcher wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatcherAsk {
    /// Ask the server how it is: [`Watcher::handle_seen`] if it answers.
    Ping(String),
    /// Tell the other watchers that this one believes the server to be down, or does not any more. Told
    /// again with each ping as long as it does.
    Vote(String, bool),
    /// Write that over the last failover, if that is still the one known here:
    /// [`Watcher::handle_failover`] with what stands there then.
    Record(Failover),
    /// Have the manager of the servers promote `to`: [`Watcher::handle_promoted`].
    Promote(Failover),
    /// Tell every node that this server takes writes.
    Push(String),
}

#[derive(Debug, Default)]
struct State {
    heard: Option<Instant>,
    seen: Option<Seen>,
    is_down: bool,
    /// Of other watchers, and when they said so.
    votes: BTreeMap<u64, Instant>,
}

/// One watcher. After each `handle_*` drain [`poll_ask`](Self::poll_ask).
#[derive(Debug)]
pub struct Watcher {
    me: u64,
    options: WatcherOptions,
    servers: Vec<Watched>,
    states: BTreeMap<String, State>,
    is_elected: bool,
    /// The server that takes writes, as far as is known.
    primary: Option<String>,
    pushed: Option<String>,
    failover: Option<Failover>,
    /// When the last one was heard of, or a write of one was asked for.
    failover_at: Instant,
    /// What this one has asked to be written.
    begun: Option<Failover>,
    ping_at: Instant,
    asks: VecDeque<WatcherAsk>,
}

impl Watcher {
    /// A watcher that begins at `now`; nobody is down before `down_after` from then. `me` is used by no
    /// other watcher, ever.
    pub fn new(now: Instant, me: u64, options: WatcherOptions, servers: Vec<Watched>) -> Self {
        let fresh = |server: &Watched| {
            (server.name.clone(), State { heard: Some(now), ..State::default() })
        };
        Watcher {
            me,
            states: servers.iter().map(fresh).collect(),
            options,
            servers,
            is_elected: false,
            primary: None,
            pushed: None,
            failover: None,
            failover_at: now,
            begun: None,
            ping_at: now,
            asks: VecDeque::new(),
        }
    }

    /// What is to be done next.
    pub fn poll_ask(&mut self) -> Option<WatcherAsk> {
        self.asks.pop_front()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) next.
    pub fn poll_timeout(&self) -> Instant {
        self.ping_at
    }

    /// The server that takes writes, as far as this watcher knows.
    pub fn primary(&self) -> Option<&str> {
        self.primary.as_deref()
    }

    /// Whether this watcher votes that the server is down.
    pub fn is_down(&self, server: &str) -> bool {
        self.states.get(server).is_some_and(|state| state.is_down)
    }

    /// Whether this one is the watcher that has servers promoted. One that was elected begins with what
    /// it has been told by [`handle_failover`](Self::handle_failover).
    pub fn handle_elected(&mut self, now: Instant, is_elected: bool) {
        if is_elected && !self.is_elected {
            // Whoever was it before may have told nobody.
            self.pushed = None;
            self.failover_at = now;
        }
        self.is_elected = is_elected;
        self.judge(now);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if now >= self.ping_at {
            self.ping_at = now + self.options.ping_every;
            for server in &self.servers {
                let Some(state) = self.states.get_mut(&server.name) else { continue };
                self.asks.push_back(WatcherAsk::Ping(server.name.clone()));
                state.is_down = state.heard.is_none_or(|at| now - at >= self.options.down_after);
                if state.is_down {
                    self.asks.push_back(WatcherAsk::Vote(server.name.clone(), true));
                }
            }
        }
        self.judge(now);
    }

    /// A server has answered: it is not down, whatever was believed.
    pub fn handle_seen(&mut self, now: Instant, server: &str, seen: Seen) {
        let Some(state) = self.states.get_mut(server) else { return };
        (state.heard, state.seen) = (Some(now), Some(seen));
        if std::mem::take(&mut state.is_down) {
            self.asks.push_back(WatcherAsk::Vote(server.to_owned(), false));
        }
        // One that was left for another which has taken its place is the primary no more, whatever it says.
        let is_left = self
            .failover
            .as_ref()
            .is_some_and(|last| last.from == server && self.primary.as_ref() == Some(&last.to));
        if seen.is_primary && !is_left {
            self.primary = Some(server.to_owned());
            if let Some(last) = self.failover.clone().filter(|last| last.to == server)
                && !last.is_over
                && self.is_elected
            {
                self.asks.push_back(WatcherAsk::Record(Failover { is_over: true, ..last }));
            }
        }
        self.judge(now);
    }

    /// Another watcher votes that a server is down, or takes its vote back.
    pub fn handle_vote(&mut self, now: Instant, watcher: u64, server: &str, is_down: bool) {
        let Some(state) = self.states.get_mut(server) else { return };
        match is_down {
            true => drop(state.votes.insert(watcher, now)),
            false => drop(state.votes.remove(&watcher)),
        }
        self.judge(now);
    }

    /// The last failover as it is recorded; also what stands there after [`WatcherAsk::Record`], by
    /// whomever it was written.
    pub fn handle_failover(&mut self, now: Instant, recorded: Failover) {
        if self.failover.as_ref().is_some_and(|known| known.number > recorded.number) {
            return;
        }
        let begun = self.begun.take_if(|begun| begun.number <= recorded.number);
        let is_own = begun.is_some_and(|begun| begun == recorded);
        if self.failover.as_ref() != Some(&recorded) {
            self.failover_at = now;
        }
        self.failover = Some(recorded.clone());
        if is_own && self.is_elected {
            self.asks.push_back(WatcherAsk::Promote(recorded));
        }
        self.judge(now);
    }

    /// What the manager said to a promotion. If it refused, another server may be tried.
    pub fn handle_promoted(&mut self, now: Instant, number: u64, is_done: bool) {
        let last = self.failover.clone().filter(|last| last.number == number && !last.is_over);
        if let Some(last) = last.filter(|_| !is_done) {
            self.asks.push_back(WatcherAsk::Record(Failover { is_over: true, ..last }));
        }
        self.judge(now);
    }

    /// Does what follows from all that is known.
    fn judge(&mut self, now: Instant) {
        if !self.is_elected {
            return;
        }
        if self.primary.is_some() && self.primary != self.pushed {
            self.pushed = self.primary.clone();
            self.asks.extend(self.primary.clone().map(WatcherAsk::Push));
        }
        let is_under_way = self.failover.as_ref().is_some_and(|last| !last.is_over);
        let wait = match is_under_way || self.begun.is_some() {
            true => self.options.promote_wait,
            // A manager that refuses is not asked without end.
            false => self.options.down_after,
        };
        let is_first = self.failover.is_none() && self.begun.is_none();
        if !is_first && now - self.failover_at < wait {
            return;
        }
        let Some(from) = self.primary.clone().filter(|primary| self.is_voted_down(now, primary))
        else {
            return;
        };
        let Some(to) = self.candidate(now, &from) else { return };
        let number = self.failover.as_ref().map_or(0, |last| last.number) + 1;
        self.failover_at = now;
        let failover = Failover { number, by: self.me, from, to, is_over: false };
        self.begun = Some(failover.clone());
        self.asks.push_back(WatcherAsk::Record(failover));
    }

    /// This watcher and enough others say so now.
    fn is_voted_down(&self, now: Instant, server: &str) -> bool {
        let Some(state) = self.states.get(server) else { return false };
        let counts = |at: &&Instant| now - **at < self.options.down_after;
        state.is_down && 1 + state.votes.values().filter(counts).count() >= self.options.quorum
    }

    /// Who takes the place of `from`: of those that answer the one that has most, then by priority.
    fn candidate(&self, now: Instant, from: &str) -> Option<String> {
        let failed = self.failover.as_ref().filter(|last| last.from == from).map(|last| &last.to);
        let mut able = Vec::new();
        for server in self.servers.iter().filter(|server| server.name != from) {
            let (Some(priority), Some(state)) = (server.priority, self.states.get(&server.name))
            else {
                continue;
            };
            let answers = state.heard.is_some_and(|at| now - at < self.options.down_after);
            let Some(seen) = state.seen.filter(|seen| answers && !seen.is_primary) else {
                continue;
            };
            // Who was tried last comes after all others.
            let was_tried = failed == Some(&server.name);
            able.push((was_tried, std::cmp::Reverse(seen.position), priority, &server.name));
        }
        able.into_iter().min().map(|(.., name)| name.clone())
    }
}
