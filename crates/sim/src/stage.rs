//! The cluster of a run with the clients that play there, as the suites with clients share them.

use std::time::Duration;

use mainstay::env::{Instant, Random};
use testkit::{Cluster, Left, Options};

use crate::book::Shared;
use crate::outcome::Sights;
use crate::player::{Laws, Player, Standing};

/// A stream and a method there.
type Way = (&'static str, &'static str);

/// What a client does.
#[derive(Clone, Copy, Debug)]
pub enum Deed {
    Ask(Way, More),
    Tell(Way, More),
    /// Its connection breaks.
    Cut,
    /// Much at once.
    Burst,
    Leave,
    /// Its program ends.
    Abandon,
    /// Its account logs in once more.
    LogIn,
}

/// An argument beside client and number.
#[derive(Clone, Copy, Debug)]
pub enum More {
    Nothing,
    Any,
    Below(u64),
    /// From 1 on.
    UpTo(u64),
    /// Another account.
    Other,
}

/// The deed of a throw of the dice, from a list with the number at which each ends.
pub fn pick(deeds: &[(u64, Deed)], dice: u64) -> Option<Deed> {
    deeds.iter().find(|(end, _)| dice < *end).map(|(_, deed)| *deed)
}

/// A cluster and all who play there.
pub struct Stage {
    pub cluster: Cluster,
    pub book: Shared,
    pub random: Random,
    pub laws: Laws,
    pub accounts: u64,
    pub players: Vec<Player>,
    started: Instant,
    limits_at: Instant,
}

impl Stage {
    pub fn new(
        options: Options,
        (book, random): (&Shared, Random),
        laws: Laws,
        accounts: u64,
    ) -> Self {
        book.open().nodes_die = laws.nodes_die;
        let cluster = Cluster::new(options);
        let started = cluster.now();
        Stage {
            cluster,
            book: book.clone(),
            random,
            laws,
            accounts,
            players: Vec::new(),
            started,
            limits_at: started,
        }
    }

    pub fn is_broken(&self) -> bool {
        let mut book = self.book.open();
        if self.cluster.is_exhausted() && book.violations().is_empty() {
            book.violation("steps: it never comes to an end");
        }
        !book.violations().is_empty()
    }

    pub fn simulated(&self) -> Duration {
        self.cluster.now() - self.started
    }

    // -- clients --

    pub fn login(&mut self, account: u64) {
        let mut player = Player::new(&mut self.cluster, &self.book, account, self.laws);
        for other in self.players.iter_mut().filter(|other| other.account == account) {
            other.is_followed = true;
            player.follows = true;
            // Its login may come through later than this one, also if it has left since.
            player.follows_outsider |= other.standing != Standing::Ended && !other.was_in;
        }
        self.players.push(player);
    }

    /// One of those who play; or none, and an account that is out comes back.
    pub fn someone(&mut self) -> Option<usize> {
        let playing: Vec<usize> =
            (0..self.players.len()).filter(|at| self.players[*at].is_playing()).collect();
        if playing.len() < self.accounts as usize && self.random.chance(1, 6) || playing.is_empty()
        {
            let account = 1 + self.random.below(self.accounts);
            self.login(account);
            return None;
        }
        Some(playing[self.random.below(playing.len() as u64) as usize])
    }

    /// A client does something, with `some` number.
    pub fn act(&mut self, at: usize, deed: Deed, some: u64, wait: Duration) {
        let (player, cluster) = (&mut self.players[at], &mut self.cluster);
        let (account, accounts) = (player.account, self.accounts);
        let argument = |more| match more {
            More::Nothing => None,
            More::Any => Some(some),
            More::Below(end) => Some(some % end),
            More::UpTo(most) => Some(1 + some % most),
            More::Other => {
                let other = 1 + some % accounts;
                Some(if other == account { 1 + other % accounts } else { other })
            }
        };
        match deed {
            Deed::Ask(way, more) => player.request(cluster, way, argument(more), wait),
            Deed::Tell(way, more) => player.tell(cluster, way, argument(more)),
            Deed::Cut => cluster.cut(player.id),
            Deed::Burst => {
                for _ in 0..1 + some % 12 {
                    player.request(cluster, ("agent", "add"), None, wait);
                    player.tell(cluster, ("agent", "note"), None);
                }
            }
            Deed::Leave => player.leave(cluster),
            Deed::Abandon => player.abandon(cluster, some.is_multiple_of(2)),
            Deed::LogIn => self.login(account),
        }
    }

    /// Looks at all that clients have heard.
    pub fn look(&mut self) {
        let answers = self.random.chance(7, 8);
        for player in &mut self.players {
            player.look(&mut self.cluster, answers);
        }
        let kills = self.cluster.counts().gate_kills as usize;
        self.book.open().gate_deaths.resize(kills, self.cluster.now());
    }

    // -- rest --

    /// Everybody asks something that must be answered now.
    pub fn ask_all(&mut self, ways: &[Way]) {
        for player in self.players.iter_mut().filter(|player| player.is_playing()) {
            for way in ways {
                player.request(&mut self.cluster, *way, None, Duration::from_secs(30));
            }
        }
        self.players.iter_mut().for_each(Player::calm_from_now);
    }

    pub fn is_at_rest(&self) -> bool {
        self.restless().is_empty() && self.book.open().calls_open().is_empty()
    }

    pub fn check_rest(&self, when: &str) {
        for text in self.restless() {
            self.book.open().violation(format!("liveness: {text} {when}"));
        }
        let calls = self.book.open().calls_open();
        if !calls.is_empty() {
            self.book.open().violation(format!("liveness: {calls:?} goes on {when}"));
        }
    }

    /// Clients that are not well.
    fn restless(&self) -> Vec<String> {
        let what = |player: &Player| {
            let core = self.cluster.core(player.id);
            let missing = self.laws.streams.iter().find(|name| !core.is_bound(name));
            if !core.is_connected() {
                Some("is not connected".to_owned())
            } else if let Some(name) = missing {
                Some(format!("has no stream {name}"))
            } else {
                (!player.is_idle()).then(|| "waits for an answer".to_owned())
            }
        };
        let playing = self.players.iter().filter(|player| player.is_playing());
        playing.filter_map(|p| Some(format!("client {} {}", p.life, what(p)?))).collect()
    }

    /// A client that takes itself for a member of other groups than the owners of groups do.
    pub fn strangers(&self) -> Option<String> {
        self.players.iter().filter(|player| player.is_playing()).find_map(|player| {
            let (believed, known) = self.cluster.memberships(player.id);
            let life = player.life;
            (believed != known).then(|| {
                format!("groups: client {life} believes to be in {believed:?}, but is in {known:?}")
            })
        })
    }

    // -- the end --

    /// All go, one way or another.
    pub fn send_away(&mut self) {
        for player in self.players.iter_mut().filter(|player| player.is_playing()) {
            let (silent, goodbye) = (self.random.chance(1, 2), self.random.chance(1, 2));
            if goodbye {
                player.leave(&mut self.cluster);
            } else {
                player.abandon(&mut self.cluster, silent);
            }
        }
    }

    /// What is still there of clients.
    pub fn leftovers(&self) -> Vec<String> {
        let (mut found, book) = (Vec::new(), self.book.open());
        let left = self.cluster.left();
        if left != Left::default() {
            found.push(format!("left: {left:?}, {:?}", self.cluster.streams()));
        }
        found.extend(book.peers().map(|entity| format!("left: a client at {entity}")));
        if !book.calls_open().is_empty() {
            found.push(format!("calls: {:?} have never ended", book.calls_open()));
        }
        if book.alarms_open() > 0 {
            found.push(format!("timers: {} have never fired", book.alarms_open()));
        }
        found
    }

    // -- limits --

    /// Once a second: no queue is over its limit, and no handler has panicked.
    pub fn check_limits(&mut self) {
        let now = self.cluster.now();
        if now - self.limits_at < Duration::from_secs(1) {
            return;
        }
        self.limits_at = now;
        let sessions = mainstay::node::session::Options::default();
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

    /// How often the rare states were seen that a good run must come through.
    pub fn sights(&self) -> Sights {
        let mut sights = Sights::default();
        self.players.iter().for_each(|player| sights.heard.add(&player.heard));
        for stats in self.cluster.worker_stats() {
            let (streams, homes) = (stats.streams, stats.homes);
            sights.duplicates += streams.duplicates;
            sights.replayed += streams.replayed;
            sights.repeated += streams.repeated;
            sights.stale += streams.stale;
            sights.overflows += streams.overflows;
            sights.resumes_refused += homes.resumes_refused;
            sights.second_logins += homes.replaced;
            sights.expired += homes.expired;
            sights.logins_refused += homes.refused;
            sights.goodbyes += homes.goodbyes;
            sights.handed_over += homes.taken_over;
            sights.rebuilt += homes.rebuilt;
            sights.held += homes.held;
            sights.passed += homes.passed;
            sights.timeouts += stats.host.timeouts;
        }
        let book = self.book.open();
        sights.cycles = book.cycles;
        sights.chains = book.chains;
        sights.confirmed = book.answered_by_clients;
        sights.alarms = book.alarms_rung;
        sights
    }
}
