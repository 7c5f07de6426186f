//! Who is declared dead, and who is not.

use std::collections::BTreeMap;
use std::time::Duration;

use env::Instant;
use node::data::{Beat, BeatAsk, Life, Options};
use proto::Incarnation;
use store::{Error, NodeBeat, Pulse};

/// An observer and what it reads: each node's beat, and whether it still rises.
struct Sky {
    beat: Beat,
    now: Instant,
    others: BTreeMap<u64, (u64, bool)>,
    unreadable: bool,
    lives: Vec<Life>,
}

impl Sky {
    fn new(others: u64) -> Self {
        Sky::with(others, Options::default())
    }

    fn with(others: u64, options: Options) -> Self {
        let now = Instant::from_nanos(1_000_000_000);
        Sky {
            beat: Beat::new(options, Incarnation(1), now),
            now,
            others: (2..2 + others).map(|node| (node, (1, true))).collect(),
            unreadable: false,
            lives: Vec::new(),
        }
    }

    fn stops(&mut self, node: u64) {
        self.others.get_mut(&node).unwrap().1 = false;
    }

    /// Lets seconds pass; gives who was declared dead in them, and how often the brake was told of.
    fn run(&mut self, seconds: u64) -> (Vec<u64>, usize) {
        self.lives.clear();
        for _ in 0..seconds {
            self.beat.handle_timeout(self.now);
            self.now += Duration::from_millis(10);
            while let Some(ask) = self.beat.poll_ask() {
                self.answer(ask);
            }
            while let Some(life) = self.beat.poll_life() {
                self.lives.push(life);
            }
            self.now += Duration::from_millis(990);
            self.others.values_mut().filter(|(_, lives)| *lives).for_each(|(beat, _)| *beat += 1);
        }
        let dead = self.lives.iter().filter_map(|life| match life {
            Life::Buried(node) => Some(node.0),
            _ => None,
        });
        let braked = self.lives.iter().filter(|life| matches!(life, Life::MassDeath(_))).count();
        (dead.collect(), braked)
    }

    fn answer(&mut self, ask: BeatAsk) {
        match ask {
            BeatAsk::Beat => self.beat.handle_beat(self.now, Ok(Pulse { generation: 1, beat: 1 })),
            BeatAsk::Nodes if self.unreadable => {
                self.beat.handle_nodes(self.now, Err(Error::Busy));
            }
            BeatAsk::Nodes => {
                let rows = self.others.iter().map(|(node, (beat, _))| NodeBeat {
                    incarnation: store::Incarnation(*node),
                    alive: true,
                    beat: *beat,
                });
                self.beat.handle_nodes(self.now, Ok(rows.collect()));
            }
            BeatAsk::MarkDead(node, beat) => {
                let (current, _) = self.others[&node.0];
                let result = if current == beat {
                    self.others.remove(&node.0);
                    Ok(())
                } else {
                    Err(Error::BeatMoved { incarnation: node, current })
                };
                self.beat.handle_marked(node, result);
            }
            _ => {}
        }
    }
}

#[test]
fn a_node_that_stands_still_is_declared_dead_after_six_seconds() {
    let mut sky = Sky::new(5);
    assert_eq!(sky.run(20), (vec![], 0));
    sky.stops(3);
    assert_eq!(sky.run(6), (vec![], 0));
    assert_eq!(sky.run(2), (vec![3], 0));
    assert_eq!(sky.run(20), (vec![], 0));
}

#[test]
fn a_reading_that_failed_starts_the_wait_anew() {
    let mut sky = Sky::new(5);
    sky.run(3);
    sky.stops(3);
    sky.run(5);
    sky.unreadable = true;
    sky.run(1);
    sky.unreadable = false;
    assert_eq!(sky.run(6), (vec![], 0));
    assert_eq!(sky.run(2), (vec![3], 0));
}

#[test]
fn of_two_nodes_one_may_die() {
    let mut sky = Sky::new(1);
    sky.run(3);
    sky.stops(2);
    assert_eq!(sky.run(9), (vec![2], 0));
}

/// The brake is against what one cannot know; here it is known.
#[test]
fn nodes_of_whose_end_there_is_proof_are_declared_dead_at_once_however_many() {
    let gone = vec![Incarnation(2), Incarnation(3), Incarnation(4), Incarnation(99)];
    let mut sky = Sky::with(4, Options { gone, ..Options::default() });
    (2..=4).for_each(|node| sky.stops(node));
    assert_eq!(sky.run(1), (vec![2, 3, 4], 0));
    assert_eq!(sky.run(20), (vec![], 0), "the fifth lives");
    // They do not count against others that die later.
    sky.stops(5);
    assert_eq!(sky.run(9), (vec![5], 0));
}

/// A stalled store or network looks like the death of everybody else.
#[test]
fn deaths_of_more_than_a_third_at_once_are_not_believed() {
    let mut sky = Sky::new(5);
    sky.run(3);
    (2..=4).for_each(|node| sky.stops(node));
    let (dead, braked) = sky.run(60);
    assert_eq!((dead, braked), (vec![], 1), "told once");
    // One of them is back: what is left is few enough.
    sky.others.get_mut(&2).unwrap().1 = true;
    let (dead, _) = sky.run(60);
    assert_eq!(dead, [3, 4]);
}

/// Seed 17176: a node was cut off, and went on because another, whose beats had no answers although
/// they came, said that it did not reach the store either. A third that saw only the first one's beat
/// stand still declared it dead while it still answered.
#[test]
fn d19_nobody_is_declared_dead_while_most_say_that_they_do_not_reach_the_store() {
    let mut sky = Sky::new(2);
    sky.run(3);
    sky.stops(2);
    let mut run = |said: &[u64], seconds| {
        let mut dead = Vec::new();
        for _ in 0..seconds {
            for node in said {
                sky.beat.handle_away(sky.now, Incarnation(*node));
            }
            dead.extend(sky.run(1).0);
        }
        dead
    };
    assert_eq!(run(&[2, 3], 20), [0; 0], "two of three go on without it");
    assert_eq!(run(&[2], 3), [0; 0], "it may have heard the other's last word later");
    assert_eq!(run(&[2], 3), [2], "alone it does not go on");
}

/// Seed 5494: one that went on knew of three nodes, two of them cut off. A fourth had come, so that
/// the others saw two of four.
#[test]
fn d19_a_node_that_is_new_counts_when_those_who_go_on_could_hear_of_it() {
    let mut sky = Sky::new(2);
    sky.run(3);
    sky.stops(2);
    let said = |sky: &mut Sky| {
        for node in [2, 3] {
            sky.beat.handle_away(sky.now, Incarnation(node));
        }
        sky.run(1).0
    };
    for _ in 0..10 {
        assert_eq!(said(&mut sky), [0; 0]);
    }
    sky.others.insert(4, (1, true));
    for _ in 0..3 {
        assert_eq!(said(&mut sky), [0; 0], "they may not know of it");
    }
    let dead: Vec<u64> = (0..3).flat_map(|_| said(&mut sky)).collect();
    assert_eq!(dead, [2], "two of four are not most of them");
}

#[test]
fn d19_who_is_not_known_in_the_store_or_speaks_alone_saves_nobody() {
    let mut sky = Sky::new(3);
    sky.run(3);
    sky.stops(2);
    let mut dead = Vec::new();
    for _ in 0..8 {
        for node in [3, 77, 78, 79] {
            sky.beat.handle_away(sky.now, Incarnation(node));
        }
        dead.extend(sky.run(1).0);
    }
    assert_eq!(dead, [2]);
}
