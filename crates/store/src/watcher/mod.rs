//! Watchers of a store's servers: they judge together which are down, and the elected one has another promoted.
//!
//! Pure: whoever drives it sends what it asks for and tells it what happened.

#[cfg(test)]
mod tests;

use std::cmp::Reverse;
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
    /// 1 s, 5 s, 2 and 30 s.
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

/// How far a [`Failover`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The other server is to take writes.
    Promoting,
    /// It does, and no claim from before holds.
    Done,
    /// It was refused: the one that is down is still the primary.
    Failed,
}

/// That another server takes the place of one, as all watchers know it: it is kept where one alone can
/// write over what it has read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failover {
    /// Rises by one with each.
    pub number: u64,
    /// The watcher that began it. With the number it names the failover for ever.
    pub begun_by: u64,
    /// The watcher that sees to it now.
    pub by: u64,
    /// The server that is down.
    pub from: String,
    /// The server that takes its place.
    pub to: String,
    /// How far it is.
    pub stage: Stage,
    /// Servers whose place was taken by this one or an earlier one, and that have not been seen to follow
    /// another since: if they take writes, they lack what was written elsewhere.
    pub left: Vec<String>,
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
    /// Have `to` promoted, unless it takes writes already: [`Watcher::handle_promoted`].
    Promote(Failover),
    /// Raise the store's generation at `to`, unless that was done for this failover:
    /// [`Watcher::handle_raised`].
    Raise(Failover),
    /// Tell every node that this server takes writes.
    Push(String),
}

#[derive(Debug, Default)]
struct State {
    heard: Option<Instant>,
    seen: Option<Seen>,
    is_down: bool,
    /// It was seen to follow another after its place had been taken.
    has_followed: bool,
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
    /// The one that a manager of the servers names.
    managed: Option<String>,
    /// What nodes have been told, as it stands there.
    told: Option<String>,
    /// What was last asked to be pushed, and when.
    pushed: Option<(String, Instant)>,
    failover: Option<Failover>,
    /// When the last one was heard of, or a write of one was asked for.
    failover_at: Instant,
    /// What this one has asked to be written.
    begun: Option<Failover>,
    /// When it was asked to raise the generation.
    raising: Option<Instant>,
    ping_at: Instant,
    asks: VecDeque<WatcherAsk>,
}

impl Watcher {
    /// A watcher that begins at `now`; nobody is down before `down_after` from then. `me` is used by no
    /// other watcher, ever.
    pub fn new(now: Instant, me: u64, options: WatcherOptions, servers: Vec<Watched>) -> Self {
        let mut watcher = Watcher {
            me,
            states: BTreeMap::new(),
            options,
            servers: Vec::new(),
            is_elected: false,
            primary: None,
            managed: None,
            told: None,
            pushed: None,
            failover: None,
            failover_at: now,
            begun: None,
            raising: None,
            ping_at: now,
            asks: VecDeque::new(),
        };
        watcher.handle_servers(now, servers, None);
        watcher
    }

    /// Who it is.
    pub fn me(&self) -> u64 {
        self.me
    }

    /// What is to be done next.
    pub fn poll_ask(&mut self) -> Option<WatcherAsk> {
        self.asks.pop_front()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) next.
    pub fn poll_timeout(&self) -> Instant {
        self.ping_at
    }

    /// The servers that are watched.
    pub fn servers(&self) -> impl Iterator<Item = &str> {
        self.servers.iter().map(|server| server.name.as_str())
    }

    /// The server that takes writes, as far as this watcher knows.
    pub fn primary(&self) -> Option<&str> {
        self.primary.as_deref()
    }

    /// Whether this watcher is the elected one.
    pub fn is_elected(&self) -> bool {
        self.is_elected
    }

    /// The last failover, as far as this watcher knows.
    pub fn failover(&self) -> Option<&Failover> {
        self.failover.as_ref()
    }

    /// Whether this watcher votes that the server is down.
    pub fn is_down(&self, server: &str) -> bool {
        self.states.get(server).is_some_and(|state| state.is_down)
    }

    /// What the server answered last.
    pub fn seen(&self, server: &str) -> Option<Seen> {
        self.states.get(server).and_then(|state| state.seen)
    }

    /// Whether the server takes writes although another is the primary: somebody should stop it.
    pub fn is_rival(&self, now: Instant, server: &str) -> bool {
        self.primary().is_some_and(|primary| primary != server)
            && !self.failover.as_ref().is_some_and(|last| last.stage == Stage::Promoting)
            && self.answers(now, server).is_some_and(|seen| seen.is_primary)
    }

    /// The servers there are now, and which of them a manager names as the primary, if they have one.
    pub fn handle_servers(&mut self, now: Instant, servers: Vec<Watched>, managed: Option<String>) {
        self.states.retain(|name, _| servers.iter().any(|server| server.name == *name));
        for server in &servers {
            let fresh = || State { heard: Some(now), ..State::default() };
            self.states.entry(server.name.clone()).or_insert_with(fresh);
        }
        (self.servers, self.managed) = (servers, managed);
        self.judge(now);
    }

    /// Whether this one is the watcher that has servers promoted. One that was elected begins with what
    /// it has been told by [`handle_failover`](Self::handle_failover).
    pub fn handle_elected(&mut self, now: Instant, is_elected: bool) {
        if is_elected && !self.is_elected {
            self.pushed = None;
            self.failover_at = now;
            self.raising = None;
        }
        self.is_elected = is_elected;
        self.judge(now);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if now >= self.ping_at {
            // It was this process that stood still: what others did meanwhile is not known.
            if now - self.ping_at >= self.options.down_after / 2 {
                for state in self.states.values_mut().filter(|state| !state.is_down) {
                    state.heard = Some(now);
                }
            }
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
        state.has_followed |= !seen.is_primary;
        if std::mem::take(&mut state.is_down) {
            self.asks.push_back(WatcherAsk::Vote(server.to_owned(), false));
        }
        if seen.is_primary && self.primary.is_none() && !self.is_left(server) {
            self.primary = Some(server.to_owned());
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

    /// What nodes have been told by the elected watcher; `None`: nothing stands there. Who is elected pushes
    /// again, every [`down_after`](WatcherOptions::down_after), until the primary stands there.
    pub fn handle_pushed(&mut self, now: Instant, primary: Option<&str>) {
        self.told = primary.map(str::to_owned);
        if let Some(primary) = primary
            && self.states.contains_key(primary)
            && (!self.is_elected || self.primary.is_none())
        {
            self.primary = Some(primary.to_owned());
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
            self.raising = None;
        }
        let is_new = self.failover.as_ref().is_none_or(|known| known.number < recorded.number);
        if let Some(state) = self.states.get_mut(&recorded.from).filter(|_| is_new) {
            state.has_followed = false;
        }
        match recorded.stage {
            Stage::Done if self.states.contains_key(&recorded.to) => {
                self.primary = Some(recorded.to.clone());
            }
            // Whoever starts while it is down knows by this what it was.
            _ if self.primary.is_none() && self.states.contains_key(&recorded.from) => {
                self.primary = Some(recorded.from.clone());
            }
            _ => {}
        }
        let is_asked = is_own && self.is_elected && recorded.stage == Stage::Promoting;
        if is_asked && self.successor(now, &recorded).is_none() {
            self.asks.push_back(WatcherAsk::Promote(recorded.clone()));
        }
        self.failover = Some(recorded);
        self.judge(now);
    }

    /// What became of a promotion. If it was refused, another server may be tried.
    pub fn handle_promoted(&mut self, now: Instant, number: u64, is_done: bool) {
        if let Some(last) = self.under_way(number).filter(|_| !is_done) {
            self.asks.push_back(WatcherAsk::Record(Failover { stage: Stage::Failed, ..last }));
        }
        self.judge(now);
    }

    /// What became of [`WatcherAsk::Raise`]. If it failed, it is asked again.
    pub fn handle_raised(&mut self, now: Instant, raised: &Failover, is_done: bool) {
        let last = self.under_way(raised.number).filter(|_| is_done && self.is_elected);
        if let Some(last) = last {
            let (to, stage) = (raised.to.clone(), Stage::Done);
            self.asks.push_back(WatcherAsk::Record(Failover { to, stage, ..last }));
        }
        self.judge(now);
    }

    fn under_way(&self, number: u64) -> Option<Failover> {
        let is_it = |last: &Failover| last.number == number && last.stage == Stage::Promoting;
        self.failover.clone().filter(is_it)
    }

    /// Does what follows from all that is known.
    fn judge(&mut self, now: Instant) {
        if !self.is_elected {
            return;
        }
        let last = self.failover.clone();
        if let Some(last) = last.as_ref().filter(|last| last.stage == Stage::Promoting) {
            if self.see_to(now, last) || now - self.failover_at < self.options.promote_wait {
                return;
            }
        } else {
            self.push(now);
        }
        let wait = match self.begun.is_some() {
            true => self.options.promote_wait,
            // A manager that refuses is not asked without end.
            false => self.options.down_after,
        };
        let is_first = last.is_none() && self.begun.is_none();
        if !is_first && now - self.failover_at < wait {
            return;
        }
        let Some(from) = self.primary.clone() else { return };
        let to = self.claimant(now, &from).or_else(|| {
            self.is_voted_down(now, &from).then(|| self.candidate(now, &from)).flatten()
        });
        let Some(to) = to else { return };
        let number = last.as_ref().map_or(0, |last| last.number) + 1;
        let mut left = last.map_or_else(Vec::new, |last| last.left);
        left.push(from.clone());
        left.sort();
        left.dedup();
        left.retain(|name| *name == from || (*name != to && self.is_left(name)));
        let (me, stage) = (self.me, Stage::Promoting);
        self.ask_record(now, Failover { number, begun_by: me, by: me, from, to, stage, left });
    }

    /// Has nodes told of the primary if they are not; what was asked may be lost on its way.
    fn push(&mut self, now: Instant) {
        let Some(primary) = self.primary.clone().filter(|_| self.primary != self.told) else {
            return;
        };
        let is_asked = self
            .pushed
            .as_ref()
            .is_some_and(|(pushed, at)| *pushed == primary && now - *at < self.options.down_after);
        if !is_asked {
            self.pushed = Some((primary.clone(), now));
            self.asks.push_back(WatcherAsk::Push(primary));
        }
    }

    /// Goes on with a failover that is under way; whether there is nothing else to do.
    fn see_to(&mut self, now: Instant, last: &Failover) -> bool {
        if let Some(to) = self.successor(now, last) {
            let is_due = |at: Instant| now - at >= self.options.down_after;
            if self.raising.is_none_or(is_due) {
                self.raising = Some(now);
                self.asks.push_back(WatcherAsk::Raise(Failover { to, ..last.clone() }));
            }
            return true;
        }
        // Whoever saw to it before is gone. It was looked meanwhile whether it is done.
        let is_late = now - self.failover_at >= 2 * self.options.ping_every;
        if last.by != self.me && self.begun.is_none() && is_late {
            self.ask_record(now, Failover { by: self.me, ..last.clone() });
        }
        false
    }

    fn ask_record(&mut self, now: Instant, failover: Failover) {
        self.failover_at = now;
        self.begun = Some(failover.clone());
        self.asks.push_back(WatcherAsk::Record(failover));
    }

    /// The server that takes writes in the place of the one that a failover leaves: a manager may have
    /// chosen another one.
    fn successor(&self, now: Instant, failover: &Failover) -> Option<String> {
        let takes = |name: &&str| self.answers(now, name).is_some_and(|seen| seen.is_primary);
        let to = Some(failover.to.as_str()).filter(takes);
        let other = || {
            let other = self.managed.as_deref().filter(|name| *name != failover.from);
            other.filter(takes)
        };
        to.or_else(other).map(str::to_owned)
    }

    /// What it said, if that was not long ago.
    fn answers(&self, now: Instant, server: &str) -> Option<Seen> {
        let state = self.states.get(server)?;
        state.seen.filter(|_| state.heard.is_some_and(|at| now - at < self.options.down_after))
    }

    /// Whether another server has taken the place of this one, which may not have noticed.
    fn is_left(&self, server: &str) -> bool {
        let has_followed = self.states.get(server).is_some_and(|state| state.has_followed);
        let is_named = |last: &Failover| {
            let is_undone = last.from == server && last.stage != Stage::Done;
            !is_undone && last.left.iter().any(|name| name == server)
        };
        !has_followed && self.failover.as_ref().is_some_and(is_named)
    }

    /// A server that somebody else has promoted. One that merely says that it takes writes, while the
    /// primary does as well or is away for a moment, is none.
    fn claimant(&self, now: Instant, primary: &str) -> Option<String> {
        let has_stepped_down = self.answers(now, primary).is_some_and(|seen| !seen.is_primary);
        let is_down = self.is_voted_down(now, primary);
        let claims = |name: &&str| {
            let is_free = (has_stepped_down || is_down) && !self.is_left(name);
            *name != primary
                && (is_free || self.managed.as_deref() == Some(*name))
                && self.answers(now, name).is_some_and(|seen| seen.is_primary)
        };
        self.servers().find(claims).map(str::to_owned)
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
        let had_some = self.seen(from).is_some_and(|seen| seen.position > 0);
        let mut able = Vec::new();
        for server in self.servers.iter().filter(|server| server.name != from) {
            // One that has received nothing yet would be promoted to an empty store.
            let has_some = |seen: &Seen| seen.position > 0 || !had_some;
            let seen = self.answers(now, &server.name);
            let seen = seen.filter(|seen| !seen.is_primary).filter(has_some);
            let (Some(priority), Some(seen)) = (server.priority, seen) else { continue };
            // Who was tried last comes after all others.
            let was_tried = failed == Some(&server.name);
            able.push((was_tried, Reverse(seen.position), priority, &server.name));
        }
        able.into_iter().min().map(|(.., name)| name.clone())
    }
}

/// The servers that an address names, each as `host:port`, in their order; none if it is no address of the
/// form `scheme://user@host:port,host:port/..`.
pub fn hosts_of(url: &str, default_port: u16) -> Vec<String> {
    let Some((_, rest)) = url.split_once("://") else { return Vec::new() };
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let hosts = authority.rsplit_once('@').map_or(authority, |(_, hosts)| hosts);
    let named = |host: &str| match host.rsplit_once(':') {
        Some((_, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => {
            host.to_owned()
        }
        _ => format!("{host}:{default_port}"),
    };
    hosts.split(',').filter(|host| !host.is_empty()).map(named).collect()
}
