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
    raised: Vec<Failover>,
    pushed: Vec<(u64, String)>,
    /// Whether nothing of it arrives.
    loses_pushes: bool,
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
            raised: Vec::new(),
            pushed: Vec::new(),
            loses_pushes: false,
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
                // Who writes knew the one that stands there, which is still to end or the one before.
                let fits = match &self.recorded {
                    None => failover.number == 1,
                    Some(last) if failover.number == last.number => last.stage == Stage::Promoting,
                    Some(last) => failover.number == last.number + 1,
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
                    // Another one that takes writes goes on with it.
                    let to = self.servers.get_mut(failover.to.as_str());
                    if let Some(seen) = to.and_then(Option::as_mut) {
                        seen.is_primary = true;
                    }
                }
                if let (Some(watcher), Some(done)) = (self.watchers.get_mut(&me), self.promotes) {
                    watcher.handle_promoted(now, failover.number, done);
                }
            }
            WatcherAsk::Raise(_) if is_cut => {}
            WatcherAsk::Raise(failover) => {
                let takes = self.servers[failover.to.as_str()].is_some_and(|seen| seen.is_primary);
                if takes {
                    self.raised.push(failover.clone());
                }
                let watcher = self.watchers.get_mut(&me).expect("it is one of them");
                watcher.handle_raised(now, &failover, takes);
            }
            WatcherAsk::Push(primary) => {
                if !self.loses_pushes {
                    self.tell(Some(&primary));
                }
                self.pushed.push((me, primary));
            }
        }
    }

    /// What nodes are told stands there.
    fn tell(&mut self, primary: Option<&str>) {
        for watcher in self.watchers.values_mut() {
            watcher.handle_pushed(self.now, primary);
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
    let asked: Vec<(u64, u64)> = world.promoted.iter().map(|one| (one.number, one.by)).collect();
    assert_eq!(asked, [(1, 1), (1, 2)], "the one who is elected now goes on with the same");
    assert_eq!(world.pushed, [(1, "a".to_owned())], "nobody is told before it is done");
    world.servers.insert("b", seen(true, 7));
    world.run(3);
    assert_eq!(world.watchers[&2].primary(), Some("b"));
    assert!(world.recorded.as_ref().is_some_and(|last| last.stage == Stage::Done));
    assert_eq!(world.raised.len(), 1, "{:?}", world.raised);
    assert_eq!(world.raised[0].begun_by, 1, "by whose number it is known that it was done");
    // The old one comes back and believes that it is still the primary.
    world.servers.insert("a", seen(true, 7));
    world.run(60);
    assert_eq!(world.promotions().len(), 2);
    assert!(
        world.watchers[&2].is_rival(world.now, "a") && !world.watchers[&2].is_rival(world.now, "b")
    );
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
        ((0, 7), (Some(1), Some(2)), Some("c")),
        ((0, 0), (Some(1), Some(2)), None),
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
fn x32_who_takes_writes_is_pushed_once() {
    let mut world = World::new(2, ALIKE);
    world.run(10);
    world.servers.insert("a", None);
    world.run(20);
    assert_eq!(world.pushed, [(1, "a".to_owned()), (1, "b".to_owned())]);
    world.elect(2);
    world.run(20);
    assert_eq!(world.pushed.len(), 2, "it stands there");
}

/// The coordinator was away for the moment in which nodes were to be told: they never were, unless another watcher
/// happened to be elected.
#[test]
fn x32_who_takes_writes_is_pushed_until_it_stands_there() {
    let mut world = World::new(2, ALIKE);
    world.run(10);
    world.loses_pushes = true;
    world.servers.insert("a", None);
    world.run(30);
    assert!(world.pushed.len() > 3, "{:?}", world.pushed);
    world.elect(2);
    assert_eq!(world.pushed.last(), Some(&(2, "b".to_owned())), "whoever is elected");
    world.loses_pushes = false;
    world.run(10);
    let arrived = world.pushed.len();
    world.run(20);
    assert_eq!(world.pushed.len(), arrived, "it stands there");
    // The coordinator comes back empty.
    world.tell(None);
    world.carry();
    assert_eq!(world.pushed[arrived..], [(2, "b".to_owned())]);
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
        let mut asked: Vec<(u64, u64)> =
            world.promoted.iter().map(|one| (one.number, one.by)).collect();
        let all = asked.len();
        asked.sort_unstable();
        asked.dedup();
        assert_eq!(asked.len(), all, "seed {seed}: one was asked for twice by the same");
        for one in &world.promoted {
            let same = |other: &&Failover| other.number == one.number;
            let other = world.promoted.iter().find(same).expect("at least itself");
            let what = |one: &Failover| (one.begun_by, one.from.clone(), one.to.clone());
            assert_eq!(what(other), what(one), "seed {seed}: two under one number");
        }
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

/// What nodes were told was true no more after the operator had promoted another server.
#[test]
fn f20_a_server_that_somebody_else_promotes_is_taken_over_and_its_generation_raised() {
    let mut world = World::new(2, [("a", Some(1)), ("b", None), ("c", None)]);
    world.run(10);
    // A planned switch: the primary steps down.
    world.servers.insert("a", seen(false, 9));
    world.servers.insert("c", seen(true, 9));
    world.run(4);
    assert_eq!(world.promotions(), [], "it takes writes already");
    assert_eq!((world.raised.len(), world.raised[0].to.as_str()), (1, "c"));
    assert_eq!(world.pushed.last(), Some(&(1, "c".to_owned())));
    // It dies, and the operator promotes what nobody may promote by itself.
    world.servers.insert("c", None);
    world.servers.insert("b", seen(true, 9));
    world.run(4);
    assert_eq!(world.watchers[&1].primary(), Some("c"), "it may be back in a moment");
    world.run(10);
    assert_eq!((world.raised.len(), world.pushed.last()), (2, Some(&(1, "b".to_owned()))));
    assert_eq!(world.promotions(), []);
}

/// The primary of before the last failover had woken up, and took its place again when the new one was away.
#[test]
fn f20_a_former_primary_that_never_followed_takes_nobodys_place() {
    let mut world = World::new(3, ALIKE);
    world.run(10);
    world.servers.insert("a", None);
    world.run(12);
    assert_eq!(world.promotions(), [("a", "b")]);
    world.servers.insert("a", seen(true, 8));
    world.servers.insert("c", seen(false, 9));
    world.run(5);
    world.servers.insert("b", None);
    // Also not by watchers that are started only now.
    let servers = ["a", "b", "c"].map(|name| Watched { name: name.to_owned(), priority: Some(1) });
    let mut late = Watcher::new(world.now, 4, WatcherOptions::default(), servers.to_vec());
    late.handle_failover(world.now, world.recorded.clone().expect("one was recorded"));
    world.watchers.insert(4, late);
    world.elect(4);
    world.run(20);
    assert_eq!(world.promotions(), [("a", "b"), ("b", "c")]);
    world.servers.insert("c", None);
    world.run(30);
    assert_eq!(world.watchers[&4].primary(), Some("c"));
    assert_eq!(world.promotions().len(), 2, "nobody is left who has what was written");
    // Once it has followed another, it is as good as any.
    world.servers.insert("a", seen(false, 9));
    world.run(20);
    assert_eq!(world.promotions()[2..], [("c", "a")]);
}

/// A manager chose another server than the watcher would have.
#[test]
fn f20_what_a_manager_chooses_is_followed_at_once() {
    let mut world = World::new(2, [("a", None), ("b", None), ("c", None)]);
    world.run(10);
    world.servers.insert("a", None);
    world.servers.insert("c", seen(true, 9));
    let servers = ["a", "b", "c"].map(|name| Watched { name: name.to_owned(), priority: None });
    let now = world.now;
    for watcher in world.watchers.values_mut() {
        watcher.handle_servers(now, servers.to_vec(), Some("c".to_owned()));
    }
    world.run(2);
    assert_eq!(world.pushed.last(), Some(&(1, "c".to_owned())));
    assert_eq!((world.raised.len(), world.promotions().len()), (1, 0));
}

/// A watcher whose machine had slept believed that all servers had been away meanwhile.
#[test]
fn x32_a_watcher_that_stood_still_votes_nobody_down() {
    let mut world = World::new(2, ALIKE);
    world.run(10);
    world.now += 60 * SECOND;
    for watcher in world.watchers.values_mut() {
        watcher.handle_timeout(world.now);
        assert!(["a", "b", "c"].iter().all(|server| !watcher.is_down(server)));
    }
    world.run(10);
    assert_eq!(world.promotions(), []);
    // Who is away is found out all the same, a little later.
    world.servers.insert("a", None);
    world.run(12);
    assert_eq!(world.promotions(), [("a", "b")]);
}

#[test]
fn hosts_are_named_with_their_ports() {
    let of = |url| hosts_of(url, 5_432).join(" ");
    assert_eq!(of("postgres://game@a,b:7/game?x=y"), "a:5432 b:7");
    assert_eq!(of("mysql://a.example:3306/game"), "a.example:3306");
    assert_eq!(of("postgres://[::1],[::1]:6/game"), "[::1]:5432 [::1]:6");
    assert_eq!(of("host=a user=b"), "");
}
