//! One run of the cluster suite: gates, nodes and a coordinator, entities that are kept and move and such
//! that are not, players with sessions; all of it breaks, and then everything must be right again.

mod checks;
mod deeds;
mod game;
mod strikes;

use std::collections::BTreeMap;
use std::time::Duration;

use mainstay::env::{Instant, Random};
use mainstay::store::Incarnation;
use mainstay::testkit::sim_options;
use testkit::{CenterFaults, Faults};

use crate::book::Shared;
use crate::game::HALLS;
use crate::mutants::Mutant;
use crate::outcome::{Outcome, Tally, caught};
use crate::player::Laws;
use crate::stage::{Deed, More, Stage, pick};
use deeds::Deeds;
use game::SHOPS;
use strikes::Strike;

/// A run takes some ten thousand steps; one that takes so many more goes on for ever.
const EVENTS_MAX: u64 = 600_000;

/// Runs one seed.
pub fn run(seed: u64, mutant: Option<Mutant>, notes_max: usize) -> Outcome {
    let mut script = Script::new(seed, mutant, notes_max);
    if let Some(text) = caught(|| script.play()) {
        script.stage.book.open().violation(text);
    }
    script.outcome()
}

/// What clients do, in thousandths.
const DEEDS: [(u64, Deed); 22] = [
    (160, Deed::Ask(("agent", "add"), More::Nothing)),
    (260, Deed::Tell(("agent", "note"), More::Nothing)),
    (320, Deed::Ask(("agent", "slow"), More::Below(700))),
    (380, Deed::Ask(("agent", "chain"), More::Below(5))),
    (420, Deed::Ask(("agent", "duel"), More::Other)),
    (500, Deed::Ask(("agent", "pay"), More::UpTo(40))),
    (560, Deed::Ask(("agent", "buy"), More::Below(SHOPS))),
    (660, Deed::Tell(("agent", "post"), More::Any)),
    (710, Deed::Ask(("agent", "enter"), More::Below(HALLS))),
    (715, Deed::Tell(("agent", "quit"), More::Nothing)),
    (730, Deed::Tell(("agent", "drop_me"), More::Nothing)),
    (745, Deed::Tell(("agent", "flood"), More::UpTo(40))),
    (775, Deed::Tell(("agent", "alarm"), More::Nothing)),
    (815, Deed::Ask(("room", "hit"), More::Nothing)),
    (855, Deed::Tell(("room", "shout"), More::Nothing)),
    (895, Deed::Ask(("shop", "browse"), More::Nothing)),
    (920, Deed::Tell(("shop", "haggle"), More::Nothing)),
    (945, Deed::Cut),
    (960, Deed::Burst),
    (970, Deed::Leave),
    (980, Deed::Abandon),
    (1_000, Deed::LogIn),
];

struct Script {
    stage: Stage,
    deeds: Deeds,
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
}

impl Script {
    fn new(seed: u64, mutant: Option<Mutant>, notes_max: usize) -> Self {
        let mut random = Random::from_seed(seed ^ 0xc1a5_7e12);
        let (book, accounts) = (Shared::default(), 3 + random.below(3));
        let deeds = Deeds::new(&book);
        // Every tenth run is one where nothing goes wrong by itself; entities move about all the same.
        let is_calm = random.chance(1, 10);
        let faults = if is_calm { Faults::none() } else { Faults::swarm(&mut random) };
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
        (laws.patience, laws.streams) = (Duration::from_secs(45), &["agent", "shop"]);
        laws.nodes_die = !is_calm;
        laws.draw(&mut random, [4, 6, 6], &mut options);
        {
            let mut book = book.open();
            (book.admissions, book.entities_move) = (Some(BTreeMap::new()), true);
        }
        {
            let mut noted = deeds.open();
            noted.nodes_die = laws.nodes_die;
            noted.keeps_log = notes_max > 0;
            noted.keys = game::keys(accounts).into_iter().collect();
        }
        if let Some(mutant) = mutant {
            mutant.put(&mut options);
        }
        let (nodes, kinds) = (options.nodes, strikes::kinds(&mut random));
        let stage = Stage::new(options, (&book, random), laws, accounts);
        let started = stage.cluster.now();
        Script {
            stage,
            deeds,
            kinds,
            strikes: Vec::new(),
            paused_until: vec![started; nodes],
            graves: Vec::new(),
            state: String::new(),
            upheaval_at: started,
        }
    }

    fn play(&mut self) {
        self.storm();
        self.heal();
        self.empty();
        self.stage.players.iter().for_each(|player| player.audit());
        if !self.stage.is_broken() {
            self.deeds.open().audit(&self.stage.cluster.store());
        }
    }

    /// The part in which things go wrong.
    fn storm(&mut self) {
        for account in 1..=self.stage.accounts {
            self.stage.login(account);
        }
        let length = Duration::from_millis(12_000 + self.stage.random.below(16_000));
        let end = self.stage.cluster.now() + length;
        while self.stage.cluster.now() < end && !self.stage.is_broken() {
            let random = &mut self.stage.random;
            let pause = if random.chance(1, 3) { 0 } else { 20 + random.below(260) };
            self.wait(Duration::from_millis(pause));
            self.act();
            if self.stage.random.chance(1, 12) {
                self.send_away();
            }
            if !self.stage.laws.is_calm && self.stage.random.chance(1, 30) {
                self.strike();
            }
        }
    }

    fn wait(&mut self, time: Duration) {
        let stage = &mut self.stage;
        stage.cluster.run_for(time);
        stage.look();
        let deals = std::mem::take(&mut stage.book.open().deals);
        let facts = stage.cluster.facts();
        {
            let mut deeds = self.deeds.open();
            deals.into_iter().for_each(|(of, command, done)| deeds.told(of, command, done));
            facts.into_iter().for_each(|fact| deeds.learn(fact));
        }
        let now = stage.cluster.now();
        self.judge_admissions(now);
        self.end_strikes(now);
        self.stage.check_limits();
    }

    /// Waits for something that must be, so long at most.
    fn wait_until(&mut self, most: Duration, done: impl Fn(&Self) -> bool) {
        let end = self.stage.cluster.now() + most;
        while self.stage.cluster.now() < end && !done(self) && !self.stage.is_broken() {
            self.wait(Duration::from_millis(250));
        }
    }

    /// Someone does something.
    fn act(&mut self) {
        let Some(at) = self.stage.someone() else { return };
        let random = &mut self.stage.random;
        let (dice, some) = (random.below(1_000), random.below(10_000));
        let wait = Duration::from_millis(4_000 + random.below(8_000));
        let deed = pick(&DEEDS, dice).expect("the list has all thousand");
        self.stage.act(at, deed, some, wait);
    }

    /// An operator has an entity move to another node.
    fn send_away(&mut self) {
        let Stage { cluster, random, accounts, .. } = &mut self.stage;
        let nodes = cluster.nodes() as u64;
        let (by, to) = (random.below(nodes) as usize, random.below(nodes) as usize);
        let number = random.below(*accounts + SHOPS);
        let id = match number.checked_sub(*accounts) {
            Some(shop) => game::shop(shop),
            None => game::avatar(1 + number),
        };
        cluster.move_entity(by, id, to);
    }

    fn outcome(&mut self) -> Outcome {
        let (cluster, seen) = (&self.stage.cluster, self.stage.sights());
        let mut sights = self.deeds.open().seen.list();
        sights.extend(seen.list());
        sights.extend(seen.of_homes());
        sights.extend([
            ("moves of entities", cluster.moves().gone),
            ("moves given up", cluster.moves().stayed),
            ("nodes declared dead by others", cluster.buried()),
        ]);
        let mut faults = cluster.counts().list().to_vec();
        let stored = cluster.store_counts();
        faults.extend([
            ("nodes stopped for a while", stored.node_pauses),
            ("nodes cut off from each other", stored.splits),
            ("ways cut", stored.ways_cut),
        ]);
        let center = cluster.center_counts();
        faults.extend(center.list());
        let center =
            [center.stalls, center.restarts, center.emptied, center.restored, center.leases_lost];
        let mut notes: Vec<String> = cluster.notes().map(str::to_owned).collect();
        for (at, line) in std::mem::take(&mut self.deeds.open().log) {
            let micros = at.as_nanos() / 1_000;
            notes.push(format!("{:>4}.{:06} {line}", micros / 1_000_000, micros % 1_000_000));
        }
        notes.sort_by(|one, other| one.get(..11).cmp(&other.get(..11)));
        let violations = self.stage.book.open().violations().to_vec();
        let with_kinds = |text| format!("{text} [{:?}, {center:?}]", self.kinds);
        Outcome {
            violations: violations.into_iter().map(with_kinds).collect(),
            faults: Tally(faults),
            sights: Tally(sights),
            hash: cluster.trace().hash(),
            simulated: self.stage.simulated(),
            notes,
        }
    }
}
