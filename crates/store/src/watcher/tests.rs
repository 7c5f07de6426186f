use std::collections::BTreeMap;
use std::time::Duration;

use env::{Instant, Random};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// Watchers over servers of which some do not answer, and the one place where failovers are recorded.
struct World {
    now: Instant,
    watchers: BTreeMap<u64, Watcher>,
    /// What each server says to whoever asks it.
    servers: BTreeMap<&'static str, Option<Seen>>,
    /// Watchers that hear and tell nothing.
    cut: Vec<u64>,
    recorded: Option<Failover>,
    /// Whether the manager does what it is asked, and whether it says so.
    promotes: Option<bool>,
    promoted: Vec<Failover>,
    pushed: Vec<(u64, String)>,
    random: Option<Random>,
}

fn seen(is_primary: bool, position: u64) -> Option<Seen> {
    Some(Seen { is_primary, position })
}

impl World {
    fn new(watchers: u64, priorities: [(&'static str, Option<u32>); 3]) -> Self {
        let now = Instant::from_nanos(1_000_000_000_000);
        let servers: Vec<Watched> = priorities
            .iter()
            .map(|(name, priority)| Watched { name: (*name).to_owned(), priority: *priority })
            .collect();
        let watcher = |me| (me, Watcher::new(now, me, WatcherOptions::default(), servers.clone()));
        let mut world = World {
            now,
            watchers: (1..=watchers).map(watcher).collect(),
            servers: priorities.iter().map(|(name, _)| (*name, seen(*name == "a", 7))).collect(),
            cut: Vec::new(),
            recorded: None,
            promotes: Some(true),
            promoted: Vec::new(),
            pushed: Vec::new(),
            random: None,
        };
        world.elect(1);
        world
    }

    fn elect(&mut self, elected: u64) {
        let now = self.now;
        for (me, watcher) in &mut self.watchers {
            watcher.handle_elected(now, *me == elected);
        }
        self.carry();
    }

    fn run(&mut self, seconds: u64) {
        for _ in 0..seconds * 4 {
            self.now += SECOND / 4;
            for watcher in self.watchers.values_mut() {
                if self.now >= watcher.poll_timeout() {
                    watcher.handle_timeout(self.now);
                }
            }
            self.carry();
        }
    }

    fn carry(&mut self) {
        loop {
            let mut asks = Vec::new();
            for (me, watcher) in &mut self.watchers {
                asks.extend(std::iter::from_fn(|| watcher.poll_ask()).map(|ask| (*me, ask)));
            }
            if asks.is_empty() {
                return;
            }
            for (me, ask) in asks {
                self.act(me, ask);
            }
        }
    }

    fn is_lost(&mut self) -> bool {
        self.random.as_mut().is_some_and(|random| random.below(4) == 0)
    }

    fn act(&mut self, me: u64, ask: WatcherAsk) {
        let (now, is_cut) = (self.now, self.cut.contains(&me));
        let lost = self.is_lost();
        match ask {
            WatcherAsk::Ping(server) if !is_cut && !lost => {
                let answer = *self.servers.get(server.as_str()).expect("it is one of them");
                if let (Some(watcher), Some(seen)) = (self.watchers.get_mut(&me), answer) {
                    watcher.handle_seen(now, &server, seen);
                }
            }
            WatcherAsk::Vote(server, is_down) if !is_cut && !lost => {
                for (other, watcher) in &mut self.watchers {
                    if *other != me && !self.cut.contains(other) {
                        watcher.handle_vote(now, me, &server, is_down);
                    }
                }
            }
            WatcherAsk::Ping(_) | WatcherAsk::Vote(..) => {}
            WatcherAsk::Record(failover) if !is_cut => {
                let last = self.recorded.as_ref().map_or(0, |last| last.number);
                let fits = match failover.is_over {
                    true => failover.number == last,
                    false => failover.number == last + 1,
                };
                if fits {
                    self.recorded = Some(failover);
                }
                for (other, watcher) in &mut self.watchers {
                    if let Some(recorded) =
                        self.recorded.clone().filter(|_| !self.cut.contains(other))
                    {
                        watcher.handle_failover(now, recorded);
                    }
                }
            }
            WatcherAsk::Record(_) => {}
            WatcherAsk::Promote(failover) => {
                self.promoted.push(failover.clone());
                if self.promotes == Some(true) {
                    for (name, seen) in &mut self.servers {
                        if let Some(seen) = seen {
                            seen.is_primary = *name == failover.to;
                        }
                    }
                }
                if let (Some(watcher), Some(done)) = (self.watchers.get_mut(&me), self.promotes) {
                    watcher.handle_promoted(now, failover.number, done);
                }
            }
            WatcherAsk::Push(primary) => self.pushed.push((me, primary)),
        }
    }

    fn promotions(&self) -> Vec<(&str, &str)> {
        self.promoted.iter().map(|one| (one.from.as_str(), one.to.as_str())).collect()
    }
}

const ALIKE: [(&str, Option<u32>); 3] = [("a", Some(1)), ("b", Some(1)), ("c", Some(1))];

/// A vote was never taken back: servers that had been away for a moment, one after the other, were down for
/// good, and the next real failure was judged by votes of last week.
#[test]
fn x32_votes_are_withdrawn_when_the_server_answers_again() {
    let mut world = World::new(3, ALIKE);
    world.run(10);
    // Each of two watchers loses sight of the primary once, at different times.
    for me in [1, 2] {
        world.cut = vec![me];
        world.run(7);
        assert!(world.watchers[&me].is_down("a"));
        world.cut.clear();
        world.run(2);
        assert!(!world.watchers[&me].is_down("a"), "it answers again");
    }
    world.run(30);
    assert_eq!(world.promotions(), [], "never two who saw it down at once");
    assert_eq!(world.watchers[&3].primary(), Some("a"));
}

/// The failover was begun anew each second for as long as the first took, and by each new elected watcher.
#[test]
fn x32_a_failover_under_way_is_begun_once() {
    let mut world = World::new(3, ALIKE);
    world.run(10);
    // The manager takes its time, and says nothing.
    world.promotes = None;
    world.servers.insert("a", None);
    world.run(12);
    assert_eq!(world.promotions(), [("a", "b")]);
    world.elect(2);
    world.run(10);
    assert_eq!(world.promotions().len(), 1, "the one who is elected now goes on waiting");
    world.servers.insert("b", seen(true, 7));
    world.run(3);
    assert_eq!(world.watchers[&2].primary(), Some("b"));
    assert!(world.recorded.as_ref().is_some_and(|last| last.is_over));
    // The old one comes back and believes that it is still the primary.
    world.servers.insert("a", seen(true, 7));
    world.run(60);
    assert_eq!(world.promotions().len(), 1);
    assert!(world.watchers.values().all(|watcher| watcher.primary() == Some("b")));
}

#[test]
fn f20_two_who_believe_to_be_elected_promote_once() {
    let mut world = World::new(3, ALIKE);
    world.run(10);
    let now = world.now;
    world.watchers.get_mut(&2).unwrap().handle_elected(now, true);
    world.servers.insert("a", None);
    world.run(20);
    assert_eq!(world.promotions(), [("a", "b")]);
}

/// Whoever was first in the list was promoted, whatever its priority and however far behind it was.
#[test]
fn x32_who_has_most_is_promoted_and_of_equals_the_first_by_priority() {
    for (positions, priorities, chosen) in [
        ((7, 7), (Some(2), Some(1)), Some("c")),
        ((7, 7), (Some(1), Some(2)), Some("b")),
        ((8, 7), (Some(2), Some(1)), Some("b")),
        ((8, 7), (None, Some(1)), Some("c")),
        ((8, 7), (None, None), None),
    ] {
        let mut world = World::new(2, [("a", Some(1)), ("b", priorities.0), ("c", priorities.1)]);
        world.servers.insert("b", seen(false, positions.0));
        world.servers.insert("c", seen(false, positions.1));
        world.run(10);
        world.servers.insert("a", None);
        world.run(20);
        let promoted: Vec<&str> = world.promotions().iter().map(|(_, to)| *to).collect();
        assert_eq!(
            promoted,
            chosen.into_iter().collect::<Vec<_>>(),
            "{positions:?} {priorities:?}"
        );
    }
}

/// Nodes were never told of the server that had taken the place of another.
#[test]
fn x32_who_takes_writes_is_pushed_once_and_by_each_who_is_elected() {
    let mut world = World::new(2, ALIKE);
    world.run(10);
    world.servers.insert("a", None);
    world.run(20);
    let pushed = |world: &World| -> Vec<(u64, String)> { world.pushed.clone() };
    assert_eq!(pushed(&world), [(1, "a".to_owned()), (1, "b".to_owned())]);
    world.elect(2);
    world.run(20);
    assert_eq!(pushed(&world)[2..], [(2, "b".to_owned())], "the first may have told nobody");
}

#[test]
fn f20_one_watcher_alone_promotes_nobody() {
    let mut world = World::new(2, ALIKE);
    world.run(10);
    world.cut = vec![2];
    world.run(3);
    world.servers.insert("a", None);
    world.run(60);
    assert_eq!(world.promotions(), [], "it may be the one who is cut off");
    world.cut.clear();
    world.run(20);
    assert_eq!(world.promotions(), [("a", "b")]);
}

#[test]
fn f20_a_server_that_cannot_be_promoted_is_followed_by_another() {
    let mut world = World::new(2, ALIKE);
    world.run(10);
    world.promotes = Some(false);
    world.servers.insert("a", None);
    world.run(60);
    let promotions = world.promotions();
    assert!((3..=13).contains(&promotions.len()), "{promotions:?}");
    assert_eq!(promotions[..3], [("a", "b"), ("a", "c"), ("a", "b")]);
}

/// Servers and watchers come and go, and a quarter of all pings and votes are lost: at any time one
/// failover is under way at most, each is asked for once, and in the end all know the primary that there is.
#[test]
fn f20_whatever_is_lost_one_failover_at_a_time_and_all_know_its_end() {
    for seed in 0..60 {
        let mut world = World::new(3, ALIKE);
        let mut random = Random::from_seed(seed);
        world.random = Some(Random::from_seed(seed + 1_000));
        let mut positions = 7;
        for _ in 0..30 {
            match random.below(5) {
                0 => world.cut = vec![1 + random.below(3)],
                1 => world.cut.clear(),
                2 => {
                    let elected = 1 + random.below(3);
                    world.elect(elected);
                }
                3 => {
                    let name = ["a", "b", "c"][random.below(3) as usize];
                    world.servers.insert(name, None);
                }
                _ => {
                    positions += 1;
                    for name in ["a", "b", "c"] {
                        // Who comes back has lost what it was, if another has its place.
                        let is_primary = match &world.recorded {
                            Some(last) => last.to == name,
                            None => name == "a",
                        };
                        world.servers.insert(name, seen(is_primary, positions));
                    }
                }
            }
            let seconds = 1 + random.below(20);
            world.run(seconds);
        }
        let mut numbers: Vec<u64> = world.promoted.iter().map(|one| one.number).collect();
        let all = numbers.len();
        numbers.dedup();
        assert_eq!(numbers.len(), all, "seed {seed}: one was asked for twice");
        world.cut.clear();
        world.random = None;
        for name in ["a", "b", "c"] {
            let is_primary = world.recorded.as_ref().map_or("a", |last| &last.to) == name;
            world.servers.insert(name, seen(is_primary, positions));
        }
        world.elect(1);
        let recorded = world.recorded.clone();
        let now = world.now;
        for (watcher, recorded) in world.watchers.values_mut().zip(std::iter::repeat(recorded)) {
            recorded.into_iter().for_each(|recorded| watcher.handle_failover(now, recorded));
        }
        world.run(120);
        let primary =
            world.servers.iter().find(|(_, seen)| seen.is_some_and(|seen| seen.is_primary));
        let is = primary.expect("there is one").0.to_string();
        for (me, watcher) in &world.watchers {
            assert_eq!(watcher.primary(), Some(is.as_str()), "seed {seed}, watcher {me}");
        }
    }
}
