//! One run of the cluster suite: gates, nodes and a coordinator, entities that are kept and move and such
//! that are not, players with sessions; all of it breaks, and then everything must be right again.

mod checks;
mod deeds;
mod game;
mod strikes;

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use mainstay::env::{Instant, Random};
use mainstay::node::rt::CallError;
use mainstay::node::session::SecondLogin;
use mainstay::store::Incarnation;
use mainstay::testkit::sim_options;
use testkit::{CenterFaults, Cluster, Faults};

use crate::book::Shared;
use crate::game::HALLS;
use crate::mutants::Mutant;
use crate::outcome::{Outcome, Tally, caught};
use crate::player::{Heard, Laws, Player, Standing};
use deeds::Deeds;
use game::SHOPS;
use strikes::Strike;

/// A run takes some ten thousand steps; one that takes so many more goes on for ever.
const EVENTS_MAX: u64 = 600_000;

/// Runs one seed.
pub fn run(seed: u64, mutant: Option<Mutant>, notes_max: usize) -> Outcome {
    let mut script = Script::new(seed, mutant, notes_max);
    if let Some(text) = caught(|| script.play()) {
        script.book.open().violation(text);
    }
    script.outcome()
}

/// A question of every node to every other, after all has healed.
type Probe = (usize, u64, Pin<Box<dyn Future<Output = Result<u64, CallError>>>>);

struct Script {
    cluster: Cluster,
    book: Shared,
    deeds: Deeds,
    random: Random,
    laws: Laws,
    accounts: u64,
    players: Vec<Player>,
    /// Which faults may strike in this run.
    kinds: Vec<strikes::Kind>,
    strikes: Vec<Strike>,
    /// Until when each node stands still.
    paused_until: Vec<Instant>,
    /// Lives of nodes that ended without anybody telling the store.
    graves: Vec<Incarnation>,
    /// What nodes there are and what has befallen the coordinator, when the script looked last.
    state: String,
    /// When that changed last, or when somebody had another view of it.
    upheaval_at: Instant,
    started: Instant,
    looked_at: Instant,
}

impl Script {
    fn new(seed: u64, mutant: Option<Mutant>, notes_max: usize) -> Self {
        let mut random = Random::from_seed(seed ^ 0xc1a5_7e12);
        let (book, accounts) = (Shared::default(), 3 + random.below(3));
        let deeds = Deeds::new(&book);
        // Every tenth run is one where nothing goes wrong by itself; entities move about all the same.
        let is_calm = random.chance(1, 10);
        let faults = if is_calm { Faults::none() } else { Faults::swarm(&mut random) };
        let links_break = !is_calm;
        let mut options = sim_options(&game::app(&book, &deeds), seed, faults);
        options.gates = 2 + random.below(2) as usize;
        options.nodes = 3 + random.below(2) as usize;
        options.workers = 1 + random.below(2) as u8;
        options.notes_max = notes_max;
        options.events_max = EVENTS_MAX;
        let lease = Duration::from_millis(4_000 + random.below(4_000));
        let quiet = is_calm || random.chance(1, 3);
        let center = if quiet { CenterFaults::default() } else { CenterFaults::swarm(&mut random) };
        options.coordinator = Some((lease, center));
        let mut laws = Laws { is_calm, window: Duration::from_secs(20), ..Laws::default() };
        (laws.patience, laws.streams) = (Duration::from_secs(45), 2);
        if random.chance(1, 4) {
            laws.refuses_second = true;
            options.sessions.second_login = SecondLogin::Refuse;
        }
        if random.chance(1, 6) {
            laws.may_overflow = true;
            options.sessions.held_frames_max = 6;
        }
        if random.chance(1, 6) {
            laws.may_miss_casts = true;
            options.sessions.group_ring_frames_max = 3;
        }
        options.sessions.resume_window = laws.window;
        laws.nodes_die = !is_calm;
        {
            let mut book = book.open();
            book.nodes_die = laws.nodes_die;
            book.admissions = Some(std::collections::BTreeMap::new());
        }
        {
            let mut noted = deeds.open();
            (noted.nodes_die, noted.links_break) = (laws.nodes_die, links_break);
            noted.keeps_log = notes_max > 0;
            noted.keys = game::keys(accounts).into_iter().collect();
        }
        if let Some(mutant) = mutant {
            mutant.put(&mut options);
        }
        let nodes = options.nodes;
        let cluster = Cluster::new(options);
        let started = cluster.now();
        Script {
            cluster,
            book,
            deeds,
            laws,
            accounts,
            kinds: strikes::kinds(&mut random),
            random,
            players: Vec::new(),
            strikes: Vec::new(),
            paused_until: vec![started; nodes],
            graves: Vec::new(),
            state: String::new(),
            upheaval_at: started,
            started,
            looked_at: started,
        }
    }

    fn play(&mut self) {
        self.storm();
        self.heal();
        self.empty();
        for player in &self.players {
            player.audit();
        }
        if !self.is_broken() {
            self.deeds.open().audit(&self.cluster.store());
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
        let end = self.cluster.now() + Duration::from_millis(12_000 + self.random.below(16_000));
        while self.cluster.now() < end && !self.is_broken() {
            let pause = if self.random.chance(1, 3) { 0 } else { 20 + self.random.below(260) };
            self.wait(Duration::from_millis(pause));
            self.act();
            if self.random.chance(1, 12) {
                self.send_away();
            }
            if !self.laws.is_calm && self.random.chance(1, 30) {
                self.strike();
            }
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
        let deals = std::mem::take(&mut self.book.open().deals);
        let facts = self.cluster.facts();
        {
            let mut deeds = self.deeds.open();
            deals.into_iter().for_each(|(of, command, done)| deeds.told(of, command, done));
            facts.into_iter().for_each(|fact| deeds.learn(fact));
        }
        let now = self.cluster.now();
        self.judge_admissions(now);
        let kills = self.cluster.counts().gate_kills as usize;
        self.book.open().gate_deaths.resize(kills, now);
        self.end_strikes(now);
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
        let wait = Duration::from_millis(4_000 + self.random.below(8_000));
        let cluster = &mut self.cluster;
        let player = &mut self.players[at];
        match dice {
            0..160 => player.request(cluster, ("agent", "add"), None, wait),
            160..260 => player.tell(cluster, ("agent", "note"), None),
            260..320 => player.request(cluster, ("agent", "slow"), Some(some % 700), wait),
            320..380 => player.request(cluster, ("agent", "chain"), Some(some % 5), wait),
            380..420 => {
                let other = 1 + some % self.accounts;
                let other = if other == player.account { 1 + other % self.accounts } else { other };
                player.request(cluster, ("agent", "duel"), Some(other), wait);
            }
            420..500 => player.request(cluster, ("agent", "pay"), Some(1 + some % 40), wait),
            500..560 => player.request(cluster, ("agent", "buy"), Some(some % SHOPS), wait),
            560..660 => player.tell(cluster, ("agent", "post"), Some(some)),
            660..710 => player.request(cluster, ("agent", "enter"), Some(some % HALLS), wait),
            710..715 => player.tell(cluster, ("agent", "quit"), None),
            715..730 => player.tell(cluster, ("agent", "drop_me"), None),
            730..745 => player.tell(cluster, ("agent", "flood"), Some(1 + some % 40)),
            745..775 => player.tell(cluster, ("agent", "alarm"), None),
            775..815 => player.request(cluster, ("room", "hit"), None, wait),
            815..855 => player.tell(cluster, ("room", "shout"), None),
            855..895 => player.request(cluster, ("shop", "browse"), None, wait),
            895..920 => player.tell(cluster, ("shop", "haggle"), None),
            920..945 => cluster.cut(player.id),
            945..960 => {
                for _ in 0..1 + some % 12 {
                    player.request(cluster, ("agent", "add"), None, wait);
                    player.tell(cluster, ("agent", "note"), None);
                }
            }
            960..970 => {
                player.standing = Standing::Left;
                cluster.leave(player.id);
            }
            970..980 => {
                player.standing = Standing::Gone;
                cluster.abandon(player.id, some.is_multiple_of(2));
            }
            _ => {
                let account = player.account;
                self.login(account);
            }
        }
    }

    /// An operator has an entity move to another node.
    fn send_away(&mut self) {
        let nodes = self.cluster.nodes() as u64;
        let (by, to) = (self.random.below(nodes) as usize, self.random.below(nodes) as usize);
        let number = self.random.below(self.accounts + SHOPS);
        let id = match number.checked_sub(self.accounts) {
            Some(shop) => game::shop(shop),
            None => game::avatar(1 + number),
        };
        self.cluster.move_entity(by, id, to);
    }

    fn outcome(&mut self) -> Outcome {
        let mut sights = self.deeds.open().seen.list();
        let mut heard = Heard::default();
        for player in &self.players {
            heard.add(&player.heard);
        }
        let (mut duplicates, mut replayed, mut repeated) = (0, 0, 0);
        let (mut handed_over, mut rebuilt, mut held, mut passed) = (0, 0, 0, 0);
        for stats in self.cluster.worker_stats() {
            duplicates += stats.streams.duplicates;
            replayed += stats.streams.replayed;
            repeated += stats.streams.repeated;
            handed_over += stats.homes.taken_over;
            rebuilt += stats.homes.rebuilt;
            held += stats.homes.held;
            passed += stats.homes.passed;
        }
        let (book, moves) = (self.book.open(), self.cluster.moves());
        sights.extend([
            ("answers", heard.answers),
            ("failed requests", heard.errors),
            ("pushes", heard.pushes),
            ("casts", heard.casts),
            ("streams opened anew", heard.rebound),
            ("tells of unknown outcome", heard.unconfirmed),
            ("links of call chains", book.chains),
            ("cycles of calls", book.cycles),
            ("duplicates suppressed", duplicates),
            ("messages replayed", replayed),
            ("answers given again", repeated),
            ("clients told of a lost session", heard.endings[3]),
            ("sessions handed over", handed_over),
            ("sessions put together again", rebuilt),
            ("frames that waited for a session", held),
            ("frames passed on to a new home", passed),
            ("moves of entities", moves.gone),
            ("moves given up", moves.stayed),
            ("nodes declared dead by others", self.cluster.buried()),
        ]);
        let mut faults = self.cluster.counts().list().to_vec();
        let stored = self.cluster.store_counts();
        let of_nodes = [
            ("nodes stopped for a while", stored.node_pauses),
            ("nodes cut off from each other", stored.splits),
            ("ways cut", stored.ways_cut),
        ];
        faults.extend(of_nodes);
        faults.extend(self.cluster.center_counts().list());
        let center = self.cluster.center_counts();
        let center =
            [center.stalls, center.restarts, center.emptied, center.restored, center.leases_lost];
        let mut notes: Vec<String> = self.cluster.notes().map(str::to_owned).collect();
        for (at, line) in std::mem::take(&mut self.deeds.open().log) {
            let micros = at.as_nanos() / 1_000;
            notes.push(format!("{:>4}.{:06} {line}", micros / 1_000_000, micros % 1_000_000));
        }
        notes.sort_by(|one, other| one.get(..11).cmp(&other.get(..11)));
        Outcome {
            violations: book
                .violations()
                .iter()
                .map(|text| format!("{text} [{:?}, {center:?}]", self.kinds))
                .collect(),
            faults: Tally(faults),
            sights: Tally(sights),
            hash: self.cluster.trace().hash(),
            simulated: self.cluster.now() - self.started,
            notes,
        }
    }
}
