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
        let now = Instant::from_nanos(1_000_000_000);
        Sky {
            beat: Beat::new(Options::default(), Incarnation(1), now),
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
