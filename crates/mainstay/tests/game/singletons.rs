//! Singletons: one in the cluster, there without a call, whoever dies, drains or stands still.

use std::cell::RefCell;
use std::time::Duration;

use ::testkit::{CenterFaults, Cluster, Faults, Options};
use mainstay::App;
use mainstay::prelude::*;
use mainstay::testkit::sim_options;

use crate::support::{clients, secs};

const SECOND: Duration = Duration::from_secs(1);

/// What singletons did, in the order in which it happened: whoever looks on from outside the cluster.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Beat {
    life: u64,
    number: u64,
}

thread_local! {
    static SEEN: RefCell<Vec<Beat>> = const { RefCell::new(Vec::new()) };
}

fn beat(life: u64, number: u64) {
    SEEN.with_borrow_mut(|seen| seen.push(Beat { life, number }));
}

fn take_beats() -> Vec<Beat> {
    SEEN.take()
}

/// Something that goes on by itself, and is kept.
#[entity(singleton, document)]
#[derive(Default, Document)]
struct Guilds {
    #[persist]
    beats: u64,
    life: u64,
}

#[rpc]
impl Guilds {
    #[hook]
    fn loaded(&mut self, cx: &mut Cx<Self>) {
        self.life = cx.random(|random| random.u64());
        cx.every(SECOND / 5, SECOND / 5, Times::Forever).key("beat").beat();
    }

    #[hook]
    fn before_move(&mut self, cx: &mut Cx<Self>) {
        cx.carry("life", &self.life);
    }

    #[hook]
    fn moved(&mut self, cx: &mut Cx<Self>) {
        self.life = cx.carried("life").unwrap_or_default();
    }

    #[timer]
    fn beat(&mut self) {
        self.beats += 1;
        beat(self.life, self.beats);
    }
}

/// The same, kept nowhere.
#[entity(singleton)]
#[derive(Default)]
struct Clock {
    beats: u64,
    life: u64,
}

#[rpc]
impl Clock {
    #[hook]
    fn created(&mut self, cx: &mut Cx<Self>) {
        self.life = cx.random(|random| random.u64());
        cx.every(SECOND / 5, SECOND / 5, Times::Forever).key("beat").beat();
    }

    #[timer]
    fn beat(&mut self) {
        self.beats += 1;
        beat(self.life, self.beats);
    }
}

fn options(app: &App, seed: u64) -> Options {
    let mut options = sim_options(app, seed, Faults::none());
    options.nodes = 3;
    options
}

fn guilds(seed: u64) -> Cluster {
    take_beats();
    let mut cluster = Cluster::new(options(&App::new("guilds").entity::<Guilds>(), seed));
    cluster.run_for(5 * SECOND);
    cluster
}

/// The node that the store says has it.
fn owner(cluster: &Cluster) -> usize {
    let row = cluster.store().load(holder(Ref::<Guilds>::keyed(0))).wait().unwrap().unwrap();
    (0..cluster.nodes())
        .find(|node| cluster.incarnation(*node) == row.owner.incarnation)
        .expect("a node that is known has it")
}

/// The lives in their order; no life may go on once another has begun.
fn lives(beats: &[Beat]) -> Vec<u64> {
    let mut lives: Vec<u64> = Vec::new();
    for beat in beats {
        if lives.last() != Some(&beat.life) {
            assert!(!lives.contains(&beat.life), "two are active at once: {beats:?}");
            lives.push(beat.life);
        }
    }
    lives
}

#[test]
fn d18_a_singleton_is_there_without_a_call_and_once() {
    for seed in 1..=5 {
        let _cluster = guilds(seed);
        let beats = take_beats();
        assert_eq!(lives(&beats).len(), 1, "{beats:?}");
        assert!(beats.len() >= 10, "{beats:?}");
        let in_order = beats.iter().zip(1..).all(|(beat, number)| beat.number == number);
        assert!(in_order, "{beats:?}");
    }
}

#[test]
fn d18_a_singleton_whose_node_is_killed_goes_on_elsewhere_with_what_was_saved() {
    for seed in 1..=5 {
        let mut cluster = guilds(seed);
        let before = take_beats();
        // Its end is seen, or found out by the others.
        let seen = seed % 2 == 0;
        let node = owner(&cluster);
        cluster.kill_node(node, 3_600 * SECOND, seen);
        cluster.run_for(20 * SECOND);
        let after = take_beats();
        assert!(after.len() >= 10, "nobody took it over: {after:?}");
        assert_ne!(owner(&cluster), node);
        let all: Vec<Beat> = before.iter().chain(&after).copied().collect();
        assert_eq!(lives(&all).len(), 2, "{all:?}");
        // A second and a flush may be lost, of five beats a second.
        let (last, first) = (before.last().unwrap().number, after[0].number);
        assert!(first + 8 > last && first > 1, "{last} then {first}");
    }
}

#[test]
fn d18_a_singleton_whose_node_drains_moves_and_misses_nothing() {
    for seed in 1..=5 {
        let mut cluster = guilds(seed);
        for _ in 0..3 {
            let node = owner(&cluster);
            cluster.drain_node(node, 10 * SECOND, SECOND);
            cluster.run_for(15 * SECOND);
        }
        let beats = take_beats();
        assert_eq!(lives(&beats).len(), 1, "it was begun anew: {beats:?}");
        let in_order = beats.iter().zip(1..).all(|(beat, number)| beat.number == number);
        assert!(in_order, "{beats:?}");
        assert!(beats.len() > 100, "it stood still: {}", beats.len());
    }
}

#[test]
fn d18_a_singleton_whose_node_stood_still_is_not_there_twice() {
    for seed in 1..=5 {
        take_beats();
        let mut options = options(&App::new("guilds").entity::<Guilds>(), seed);
        options.coordinator = Some((5 * SECOND, CenterFaults::default()));
        let mut cluster = Cluster::new(options);
        cluster.run_for(5 * SECOND);
        let node = owner(&cluster);
        cluster.pause_node(node, 25 * SECOND);
        cluster.run_for(24 * SECOND);
        assert_ne!(owner(&cluster), node);
        cluster.run_for(36 * SECOND);
        let beats = take_beats();
        assert!(lives(&beats).len() >= 2, "another took it over while it stood still: {beats:?}");
    }
}

#[test]
fn d18_a_singleton_that_is_not_kept_begins_anew_where_it_belongs_and_ends_elsewhere() {
    for seed in 1..=5 {
        take_beats();
        let mut cluster = Cluster::new(options(&App::new("clock").entity::<Clock>(), seed));
        cluster.run_for(5 * SECOND);
        let first = lives(&take_beats());
        assert_eq!(first.len(), 1);
        // Each node is away in turn, for so long that all hear of it.
        for node in 0..3 {
            cluster.kill_node(node, 10 * SECOND, true);
            cluster.run_for(20 * SECOND);
            take_beats();
            cluster.run_for(5 * SECOND);
            let beats = take_beats();
            assert_eq!(lives(&beats).len(), 1, "{beats:?}");
            assert!(beats.len() >= 20, "{beats:?}");
        }
    }
}

// -- who is online --

/// Answers who is online, page by page.
#[service]
#[derive(Default)]
struct Porter;

#[rpc]
impl Porter {
    #[request(client)]
    async fn who(&self, cx: &mut Cx<Self>) -> Result<(u64, Vec<u64>), String> {
        let mut accounts = Vec::new();
        loop {
            let first = accounts.last().map_or(0, |last| last + 1);
            let told = cx.users().all().look(AccountId(first), 2).await;
            if !told.complete {
                return Err("not all homes have answered".to_owned());
            }
            if told.present.is_empty() {
                return Ok((told.reached, accounts));
            }
            accounts.extend(told.present.iter().map(|present| present.account.0));
        }
    }
}

#[mainstay::test(seed = 41)]
async fn j11_whoever_asks_is_told_who_is_online_wherever_they_are_at_home(
    cluster: mainstay::testkit::Cluster,
) {
    let app = App::new("porter").entity::<Porter>().bind::<Porter>("porter", |_| 0);
    let game = cluster.start(&app);
    let players = clients(&game, 1..=7).await;
    let who = async || players[0].request::<_, (u64, Vec<u64>)>("porter", "who", &()).await;
    assert_eq!(who().await.unwrap(), (7, (1..=7).collect()));
    players[3].leave();
    // Whoever is killed has its time to come back; the home of whoever was killed comes again.
    game.kill_node(1, secs(2));
    game.sleep(secs(8)).await;
    let mut told = who().await;
    while told.is_err() {
        game.sleep(secs(1)).await;
        told = who().await;
    }
    assert_eq!(told.unwrap(), (6, vec![1, 2, 3, 5, 6, 7]));
}
