//! One run of the suite of sessions: gates, nodes that hold, clients; much goes wrong, and then everything must
//! be right again.

use std::time::Duration;

use mainstay::env::Random;
use mainstay::testkit::sim_options;
use testkit::Faults;

use crate::book::Shared;
use crate::game::{self, HALLS};
use crate::mutants::Mutant;
use crate::outcome::{Outcome, Tally, caught};
use crate::player::Laws;
use crate::stage::{Deed, More, Stage, pick};

/// A run takes some thousand steps; one that takes so many more goes on for ever.
const EVENTS_MAX: u64 = 300_000;

/// What clients do, in thousandths; a gate is killed in the rest.
const DEEDS: [(u64, Deed); 18] = [
    (200, Deed::Ask(("agent", "add"), More::Nothing)),
    (340, Deed::Tell(("agent", "note"), More::Nothing)),
    (420, Deed::Ask(("agent", "slow"), More::Below(700))),
    (490, Deed::Ask(("agent", "chain"), More::Below(5))),
    (540, Deed::Ask(("agent", "duel"), More::Other)),
    (580, Deed::Ask(("agent", "survey"), More::Nothing)),
    (660, Deed::Ask(("agent", "enter"), More::Below(HALLS))),
    (670, Deed::Tell(("agent", "quit"), More::Nothing)),
    (690, Deed::Tell(("agent", "drop_me"), More::Nothing)),
    (710, Deed::Tell(("agent", "flood"), More::UpTo(40))),
    (740, Deed::Tell(("agent", "alarm"), More::Nothing)),
    (820, Deed::Ask(("room", "hit"), More::Nothing)),
    (900, Deed::Tell(("room", "shout"), More::Nothing)),
    (940, Deed::Cut),
    (955, Deed::Burst),
    (965, Deed::Leave),
    (972, Deed::Abandon),
    (985, Deed::LogIn),
];

/// Runs one seed.
pub fn run(seed: u64, mutant: Option<Mutant>, notes_max: usize) -> Outcome {
    let mut script = Script { stage: stage(seed, mutant, notes_max) };
    if let Some(text) = caught(|| script.play()) {
        script.stage.book.open().violation(text);
    }
    script.outcome()
}

struct Script {
    stage: Stage,
}

fn stage(seed: u64, mutant: Option<Mutant>, notes_max: usize) -> Stage {
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
    laws.streams = &["agent"];
    laws.draw(&mut random, [3, 5, 5], &mut options);
    if let Some(mutant) = mutant {
        mutant.put(&mut options);
    }
    let accounts = 3 + random.below(4);
    Stage::new(options, (&book, random), laws, accounts)
}

impl Script {
    fn play(&mut self) {
        self.storm();
        self.heal();
        self.empty();
        self.stage.players.iter().for_each(|player| player.audit());
    }

    /// The part in which things go wrong.
    fn storm(&mut self) {
        for account in 1..=self.stage.accounts {
            self.stage.login(account);
        }
        let length = Duration::from_millis(15_000 + self.stage.random.below(30_000));
        let end = self.stage.cluster.now() + length;
        while self.stage.cluster.now() < end && !self.stage.is_broken() {
            let random = &mut self.stage.random;
            let pause = if random.chance(1, 3) { 0 } else { 20 + random.below(220) };
            self.wait(Duration::from_millis(pause));
            self.act();
        }
    }

    fn wait(&mut self, time: Duration) {
        self.stage.cluster.run_for(time);
        self.stage.look();
        self.stage.check_limits();
    }

    /// Waits for something that must be, so long at most.
    fn wait_until(&mut self, most: Duration, done: impl Fn(&Stage) -> bool) {
        let end = self.stage.cluster.now() + most;
        while self.stage.cluster.now() < end && !done(&self.stage) && !self.stage.is_broken() {
            self.wait(Duration::from_millis(250));
        }
    }

    /// Someone does something.
    fn act(&mut self) {
        let Some(at) = self.stage.someone() else { return };
        let random = &mut self.stage.random;
        let (dice, some, gate) = (random.below(1_000), random.below(10_000), random.below(3));
        let wait = Duration::from_millis(4_000 + random.below(8_000));
        match pick(&DEEDS, dice) {
            Some(deed) => self.stage.act(at, deed, some, wait),
            None if self.stage.laws.is_calm => {}
            None => {
                let pause = Duration::from_millis(100 + some % 4_000);
                let gates = self.stage.cluster.gates();
                self.stage.cluster.kill_gate(gate as usize % gates, pause);
            }
        }
    }

    /// Nothing goes wrong any more: everybody must come to rest, connected and answered.
    fn heal(&mut self) {
        if self.stage.is_broken() {
            return;
        }
        self.stage.cluster.note(|| "all faults end".to_owned());
        self.stage.cluster.heal();
        // What broke last is learnt late.
        self.wait(Duration::from_secs(6));
        self.wait_until(Duration::from_secs(24), Stage::is_at_rest);
        if self.stage.is_broken() {
            return;
        }
        self.stage.check_rest("30 s after the last fault");
        self.stage.ask_all(&[("agent", "add")]);
        // Entities may still be at work for clients that have left.
        self.wait(Duration::from_millis(250));
        self.wait_until(Duration::from_secs(31), Stage::is_at_rest);
        self.stage.check_rest("after the last round");
        // What was under way just now may still change memberships.
        self.wait_until(Duration::from_secs(10), |stage| stage.strangers().is_none());
        if let Some(text) = self.stage.strangers() {
            self.stage.book.open().violation(text);
        }
        let stats = self.stage.cluster.worker_stats();
        let open: usize = stats.iter().map(|stats| stats.streams.open_calls).sum();
        if open > 0 {
            let text = format!("calls: {open} to clients have never ended");
            self.stage.book.open().violation(text);
        }
    }

    /// All go, one way or another: nothing of them may be left.
    fn empty(&mut self) {
        if self.stage.is_broken() {
            return;
        }
        self.stage.send_away();
        // A silent client is missed after three heartbeats.
        let end = self.stage.cluster.now() + self.stage.laws.window + Duration::from_secs(30);
        while self.stage.cluster.now() < end && !self.stage.leftovers().is_empty() {
            self.wait(Duration::from_secs(1));
        }
        for text in self.stage.leftovers() {
            self.stage.book.open().violation(text);
        }
    }

    fn outcome(&mut self) -> Outcome {
        let stage = &mut self.stage;
        let violations = stage.book.open().violations().to_vec();
        Outcome {
            violations,
            faults: Tally(stage.cluster.counts().list().to_vec()),
            sights: Tally(stage.sights().list()),
            hash: stage.cluster.trace().hash(),
            simulated: stage.simulated(),
            notes: stage.cluster.notes().map(str::to_owned).collect(),
        }
    }
}
