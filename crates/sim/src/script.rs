//! One run: a cluster, some clients, much that goes wrong, and then everything must be right again.

use std::time::Duration;

use mainstay::env::{Instant, Random};
use mainstay::node::session::SecondLogin;
use mainstay::testkit::sim_options;
use testkit::{Cluster, Faults};

use crate::book::Shared;
use crate::game::{self, HALLS};
use crate::mutants::Mutant;
use crate::outcome::{Outcome, Tally, caught};
use crate::player::{Heard, Laws, Player, Standing};

/// A run takes some thousand steps; one that takes so many more goes on for ever.
const EVENTS_MAX: u64 = 300_000;

/// How often the rare states were seen that a good run must come through.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sights {
    pub heard: Heard,
    pub duplicates: u64,
    pub replayed: u64,
    pub repeated: u64,
    pub stale: u64,
    pub overflows: u64,
    pub resumes_refused: u64,
    pub second_logins: u64,
    pub expired: u64,
    pub logins_refused: u64,
    pub cycles: u64,
    pub timeouts: u64,
    pub chains: u64,
    pub confirmed: u64,
    pub timers: u64,
    pub goodbyes: u64,
    pub handed_over: u64,
    pub rebuilt: u64,
    pub held: u64,
    pub passed: u64,
}

impl Sights {
    /// Names and numbers; each must be seen in a long run.
    pub fn list(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("answers", self.heard.answers),
            ("failed requests", self.heard.errors),
            ("pushes", self.heard.pushes),
            ("casts", self.heard.casts),
            ("calls to clients", self.heard.calls),
            ("... answered", self.confirmed),
            ("links of call chains", self.chains),
            ("cycles of calls", self.cycles),
            ("calls over their deadline", self.timeouts),
            ("timers fired once", self.timers),
            ("streams opened anew", self.heard.rebound),
            ("duplicates suppressed", self.duplicates),
            ("messages replayed", self.replayed),
            ("answers given again", self.repeated),
            ("late frames of old connections", self.stale),
            ("resumes refused", self.resumes_refused),
            ("casts missed and told so", self.heard.missed),
            ("tells of unknown outcome", self.heard.unconfirmed),
            ("overflows", self.overflows),
            ("second logins", self.second_logins),
            ("... replaced the first", self.heard.endings[0]),
            ("... refused", self.heard.endings[1]),
            ("used tickets refused", self.heard.endings[2]),
            ("clients told of a lost session", self.heard.endings[3]),
            ("resume windows over", self.expired),
            ("logins refused", self.logins_refused),
            ("goodbyes", self.goodbyes),
        ]
    }

    /// The same, with what happens only where nodes die.
    fn of_homes(&self) -> Vec<(&'static str, u64)> {
        let mut list = self.list();
        list.extend([
            ("sessions handed over", self.handed_over),
            ("sessions put together again", self.rebuilt),
            ("frames that waited for a session", self.held),
            ("frames passed on to a new home", self.passed),
        ]);
        list
    }
}

/// Runs one seed.
pub fn run(seed: u64, mutant: Option<Mutant>, notes_max: usize, nodes_die: bool) -> Outcome {
    let mut script = Script::new((seed, mutant), notes_max, nodes_die);
    if let Some(text) = caught(|| script.play()) {
        script.book.open().violation(text);
    }
    script.outcome()
}

struct Script {
    cluster: Cluster,
    book: Shared,
    random: Random,
    laws: Laws,
    accounts: u64,
    players: Vec<Player>,
    started: Instant,
    looked_at: Instant,
    /// Of the suite where nodes die.
    with_homes: bool,
}

impl Script {
    fn new((seed, mutant): (u64, Option<Mutant>), notes_max: usize, nodes_die: bool) -> Self {
        // Not the cluster's own randomness, so that a change of the game leaves the script alone.
        let mut random = Random::from_seed(seed ^ 0x5eed_0001);
        let book = Shared::default();
        // Every tenth run is one where nothing goes wrong by itself.
        let is_calm = random.chance(1, 10);
        let faults = if is_calm { Faults::none() } else { Faults::swarm(&mut random) };
        let mut options = sim_options(&game::app(&book), seed, faults);
        options.gates = 1 + random.below(3) as usize;
        options.nodes = 1 + random.below(3) as usize;
        options.workers = 1 + random.below(3) as u8;
        options.notes_max = notes_max;
        options.events_max = EVENTS_MAX;
        let mut laws = Laws { is_calm, window: Duration::from_secs(20), ..Laws::default() };
        if random.chance(1, 3) {
            laws.refuses_second = true;
            options.sessions.second_login = SecondLogin::Refuse;
        }
        if random.chance(1, 5) {
            laws.may_overflow = true;
            options.sessions.held_frames_max = 6;
        }
        if random.chance(1, 5) {
            laws.may_miss_casts = true;
            options.sessions.group_ring_frames_max = 3;
        }
        options.sessions.resume_window = laws.window;
        laws.nodes_die = nodes_die && !is_calm;
        book.open().nodes_die = laws.nodes_die;
        if let Some(mutant) = mutant {
            mutant.put(&mut options);
        }
        let cluster = Cluster::new(options);
        let started = cluster.now();
        let accounts = 3 + random.below(4);
        Script {
            cluster,
            book,
            random,
            laws,
            accounts,
            players: Vec::new(),
            started,
            looked_at: started,
            with_homes: nodes_die,
        }
    }

    fn play(&mut self) {
        self.storm();
        self.heal();
        self.empty();
        for player in &self.players {
            player.audit();
        }
    }

    fn is_broken(&self) -> bool {
        let mut book = self.book.open();
        if self.cluster.is_exhausted() && book.violations().is_empty() {
            book.violation("steps: it never comes to an end");
        }
        !book.violations().is_empty()
    }

    /// The part in which things go wrong.
    fn storm(&mut self) {
        for account in 1..=self.accounts {
            self.login(account);
        }
        let length = Duration::from_millis(15_000 + self.random.below(30_000));
        let end = self.cluster.now() + length;
        while self.cluster.now() < end && !self.is_broken() {
            let pause = if self.random.chance(1, 3) { 0 } else { 20 + self.random.below(220) };
            self.wait(Duration::from_millis(pause));
            self.act();
        }
    }

    fn login(&mut self, account: u64) {
        let mut player = Player::new(&mut self.cluster, &self.book, account, self.laws);
        for other in self.players.iter_mut().filter(|other| other.account == account) {
            other.is_followed = true;
            player.follows = true;
            // Its login may come through later than this one, also if it has left since.
            player.follows_outsider |= other.standing != Standing::Ended && !other.was_in;
        }
        self.players.push(player);
    }

    fn wait(&mut self, time: Duration) {
        self.cluster.run_for(time);
        self.look();
    }

    fn look(&mut self) {
        let answers = self.random.chance(7, 8);
        for player in &mut self.players {
            player.look(&mut self.cluster, answers);
        }
        let now = self.cluster.now();
        let counts = self.cluster.counts();
        {
            let mut book = self.book.open();
            book.gate_deaths.resize(counts.gate_kills as usize, now);
        }
        if now - self.looked_at >= Duration::from_secs(1) {
            self.looked_at = now;
            self.check_limits();
        }
    }

    /// Someone does something.
    fn act(&mut self) {
        let playing: Vec<usize> =
            (0..self.players.len()).filter(|at| self.players[*at].is_playing()).collect();
        // An account that is out comes back.
        if playing.len() < self.accounts as usize && self.random.chance(1, 6) || playing.is_empty()
        {
            let account = 1 + self.random.below(self.accounts);
            return self.login(account);
        }
        let at = playing[self.random.below(playing.len() as u64) as usize];
        let dice = self.random.below(1_000);
        let some = self.random.below(10_000);
        let gates = self.random.below(3);
        let wait = Duration::from_millis(4_000 + self.random.below(8_000));
        let cluster = &mut self.cluster;
        let player = &mut self.players[at];
        match dice {
            0..200 => player.request(cluster, ("agent", "add"), None, wait),
            200..340 => player.tell(cluster, ("agent", "note"), None),
            340..420 => player.request(cluster, ("agent", "slow"), Some(some % 700), wait),
            420..490 => player.request(cluster, ("agent", "chain"), Some(some % 5), wait),
            490..540 => {
                let other = 1 + some % self.accounts;
                let other = if other == player.account { 1 + other % self.accounts } else { other };
                player.request(cluster, ("agent", "duel"), Some(other), wait);
            }
            540..580 => player.request(cluster, ("agent", "survey"), None, wait),
            580..660 => player.request(cluster, ("agent", "enter"), Some(some % HALLS), wait),
            660..670 => player.tell(cluster, ("agent", "quit"), None),
            670..690 => player.tell(cluster, ("agent", "drop_me"), None),
            690..710 => player.tell(cluster, ("agent", "flood"), Some(1 + some % 40)),
            710..740 => player.tell(cluster, ("agent", "alarm"), None),
            740..820 => player.request(cluster, ("room", "hit"), None, wait),
            820..900 => player.tell(cluster, ("room", "shout"), None),
            900..940 => cluster.cut(player.id),
            940..955 => {
                for _ in 0..1 + some % 12 {
                    player.request(cluster, ("agent", "add"), None, wait);
                    player.tell(cluster, ("agent", "note"), None);
                }
            }
            955..965 => {
                player.standing = Standing::Left;
                cluster.leave(player.id);
            }
            965..972 => {
                player.standing = Standing::Gone;
                cluster.abandon(player.id, some.is_multiple_of(2));
            }
            972..985 => {
                let account = player.account;
                self.login(account);
            }
            _ if self.laws.is_calm => {}
            985..992 if self.laws.nodes_die => self.end_a_node(some),
            _ => {
                let pause = Duration::from_millis(100 + some % 4_000);
                cluster.kill_gate(gates as usize % cluster.gates(), pause);
            }
        }
    }

    /// A node is killed, or made to go in order.
    fn end_a_node(&mut self, some: u64) {
        let nodes = self.cluster.nodes();
        let node = (some % nodes as u64) as usize;
        let is_there = |n: &usize| self.cluster.is_up(*n) && !self.cluster.is_draining(*n);
        let others = (0..nodes).filter(|n| *n != node && is_there(n)).count();
        let pause = Duration::from_millis(100 + some % 4_000);
        self.book.open().node_end = Some(self.cluster.now());
        if others > 0 && some.is_multiple_of(2) {
            let most = Duration::from_secs(30);
            self.book.open().node_end = Some(self.cluster.now() + most);
            self.cluster.drain_node(node, most, pause);
        } else if self.cluster.is_up(node) {
            let now = self.cluster.now();
            self.book.open().node_deaths.push(now);
            self.cluster.kill_node(node, pause, false);
        }
    }

    /// Nothing goes wrong any more: everybody must come to rest, connected and answered.
    fn heal(&mut self) {
        if self.is_broken() {
            return;
        }
        self.cluster.note(|| "all faults end".to_owned());
        self.cluster.heal();
        let end = self.cluster.now() + Duration::from_secs(30);
        // What broke last is learnt late.
        self.wait(Duration::from_secs(6));
        while self.cluster.now() < end && !self.is_at_rest() && !self.is_broken() {
            self.wait(Duration::from_millis(250));
        }
        if self.is_broken() {
            return;
        }
        self.check_rest("30 s after the last fault");
        for player in self.players.iter_mut().filter(|player| player.is_playing()) {
            player.request(&mut self.cluster, ("agent", "add"), None, Duration::from_secs(30));
        }
        for player in &mut self.players {
            player.calm_from_now();
        }
        // Entities may still be at work for clients that have left.
        let end = self.cluster.now() + Duration::from_secs(31);
        self.wait(Duration::from_millis(250));
        while self.cluster.now() < end && !self.is_at_rest() && !self.is_broken() {
            self.wait(Duration::from_millis(250));
        }
        self.check_rest("after the last round");
        // What was under way just now may still change memberships.
        let end = self.cluster.now() + Duration::from_secs(10);
        while self.cluster.now() < end && self.strangers().is_some() {
            self.wait(Duration::from_millis(250));
        }
        if let Some(text) = self.strangers() {
            self.book.open().violation(text);
        }
        let open: usize =
            self.cluster.worker_stats().iter().map(|stats| stats.streams.open_calls).sum();
        if open > 0 {
            self.book.open().violation(format!("calls: {open} to clients have never ended"));
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
            !player.is_playing()
                || core.is_connected() && core.is_bound("agent") && player.is_idle()
        };
        self.players.iter().all(rests) && self.book.open().calls_open().is_empty()
    }

    fn check_rest(&self, when: &str) {
        for player in self.players.iter().filter(|player| player.is_playing()) {
            let core = self.cluster.core(player.id);
            let what = if !core.is_connected() {
                "is not connected"
            } else if !core.is_bound("agent") {
                "has no stream"
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
    }

    /// All go, one way or another: nothing of them may be left.
    fn empty(&mut self) {
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
        // A silent client is missed after three heartbeats.
        let limit = self.laws.window + Duration::from_secs(30);
        let end = self.cluster.now() + limit;
        while self.cluster.now() < end && !self.is_clean() {
            self.wait(Duration::from_secs(1));
        }
        let mut book = self.book.open();
        let left = self.cluster.left();
        if left != testkit::Left::default() {
            book.violation(format!("left: {left:?}"));
        }
        if book.peers() > 0 {
            let peers = book.peers();
            book.violation(format!("left: {peers} clients at entities"));
        }
        if book.timers_open() > 0 {
            book.violation("timers: some have never fired");
        }
        if !book.calls_open().is_empty() {
            book.violation("calls: some have never ended");
        }
    }

    fn is_clean(&self) -> bool {
        let book = self.book.open();
        self.cluster.left() == testkit::Left::default()
            && book.peers() == 0
            && book.timers_open() == 0
            && book.calls_open().is_empty()
    }

    /// Once a second: no queue is over its limit, and no handler has panicked.
    fn check_limits(&mut self) {
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

    fn outcome(&mut self) -> Outcome {
        let mut sights = Sights::default();
        for player in &self.players {
            sights.heard.add(&player.heard);
        }
        for stats in self.cluster.worker_stats() {
            sights.duplicates += stats.streams.duplicates;
            sights.replayed += stats.streams.replayed;
            sights.repeated += stats.streams.repeated;
            sights.stale += stats.streams.stale;
            sights.overflows += stats.streams.overflows;
            sights.resumes_refused += stats.homes.resumes_refused;
            sights.second_logins += stats.homes.replaced;
            sights.expired += stats.homes.expired;
            sights.logins_refused += stats.homes.refused;
            sights.goodbyes += stats.homes.goodbyes;
            sights.handed_over += stats.homes.taken_over;
            sights.rebuilt += stats.homes.rebuilt;
            sights.held += stats.homes.held;
            sights.passed += stats.homes.passed;
            sights.timeouts += stats.host.timeouts;
        }
        let book = self.book.open();
        sights.cycles = book.cycles;
        sights.chains = book.chains;
        sights.confirmed = book.answered_by_clients;
        sights.timers = book.timers_fired;
        Outcome {
            violations: book.violations().to_vec(),
            faults: Tally(self.cluster.counts().list().to_vec()),
            sights: Tally(if self.with_homes { sights.of_homes() } else { sights.list() }),
            hash: self.cluster.trace().hash(),
            simulated: self.cluster.now() - self.started,
            notes: self.cluster.notes().map(str::to_owned).collect(),
        }
    }
}
