//! What is counted: numbers that must come once and in order, and what became of everything else.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mainstay::bots::{Histogram, Summary};
use mainstay::prelude::*;

/// Numbers that are missing and still remembered; more are lost at once.
const MISSING_MAX: usize = 10_000;

/// Numbers from 1 on, as they are heard: each once, each after the one before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub struct Order {
    /// The highest that was heard.
    pub last: u64,
    /// Lower ones that were not.
    pub missing: BTreeSet<u64>,
    /// Missing ones that were forgotten about.
    pub forgotten: u64,
    /// How many came a second time.
    pub doubled: u64,
    /// How many came after a higher one.
    pub reordered: u64,
}

impl Order {
    /// Takes a number; whether it was the next.
    pub fn hear(&mut self, number: u64) -> bool {
        if number > self.last {
            let is_next = number == self.last + 1;
            for missed in self.last + 1..number {
                if self.missing.len() < MISSING_MAX {
                    self.missing.insert(missed);
                } else {
                    self.forgotten += number - missed;
                    break;
                }
            }
            self.last = number;
            return is_next;
        }
        if self.missing.remove(&number) {
            self.reordered += 1;
        } else {
            self.doubled += 1;
        }
        false
    }

    /// How many did not come, of those up to `sent`.
    pub fn lost(&self, sent: u64) -> u64 {
        self.missing.len() as u64 + self.forgotten + sent.saturating_sub(self.last)
    }
}

/// What happened to the messages of one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    pub sent: u64,
    pub lost: u64,
    pub doubled: u64,
    pub reordered: u64,
}

impl Heard {
    /// Adds what one end sent and the other one heard.
    pub fn add(&mut self, sent: u64, order: &Order) {
        self.sent += sent;
        self.lost += order.lost(sent);
        self.doubled += order.doubled;
        self.reordered += order.reordered;
    }

    /// What is wrong, all in all.
    pub fn faults(&self) -> u64 {
        self.lost + self.doubled + self.reordered
    }
}

/// What players waited for while processes of a role were restarted.
#[derive(Clone, Debug, Default)]
pub struct Pauses {
    /// The longest time that a player waited for an answer of a service.
    pub services: Histogram,
    /// The same of an entity that is not stored.
    pub rooms: Histogram,
    /// From the loss of a connection until the session went on.
    pub breaks: Histogram,
}

/// All that is counted, over all players.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Commands of players to their stored entities, as those heard them.
    pub up: Heard,
    /// Messages of those to their players, as these heard them.
    pub down: Heard,
    /// Messages between players and entities that are not stored: within one life of those nothing
    /// may be missing, over all lives none may come twice or after a later one.
    pub rooms: Heard,
    /// Requests to services that were answered.
    pub answers: u64,
    /// Such that ended otherwise, by service and reason.
    pub failed: BTreeMap<String, u64>,
    /// Answers and reports that were not as they must be.
    pub wrong: u64,
    /// Streams to services that ended, or began anew and had forgotten something.
    pub cut_streams: u64,
    /// Requests to entities that are not stored, and those that ended with their entity, by the reason.
    pub room_answers: u64,
    pub room_failed: BTreeMap<String, u64>,
    /// How often such an entity began anew under a player.
    pub lives: u64,
    /// Players whose messages were added up at the end.
    pub settled: u64,
    /// Breaks of connections that players saw.
    pub breaks: u64,
    /// By role.
    pub pauses: BTreeMap<&'static str, Pauses>,
    /// The first things that were wrong, for people.
    pub complaints: Vec<String>,
}

/// Complaints that are kept as text.
const COMPLAINTS_MAX: usize = 20;

impl Counts {
    pub fn complain(&mut self, text: impl FnOnce() -> String) {
        if self.complaints.len() < COMPLAINTS_MAX {
            self.complaints.push(text());
        }
    }

    /// Counts a request to a service that ended without an answer.
    pub fn fail(&mut self, stream: &str, error: &str) {
        *self.failed.entry(format!("{stream}: {error}")).or_default() += 1;
    }

    /// Counts requests that players' drivers did not even take.
    pub fn add_not_taken(&mut self, summaries: &[Summary]) {
        for (reason, count) in summaries.iter().flat_map(|summary| &summary.failed_requests) {
            *self.failed.entry(format!("not taken: {reason}")).or_default() += count;
        }
    }

    /// Counts what is not as it must be.
    pub fn check(&mut self, good: bool, text: impl FnOnce() -> String) {
        if !good {
            self.wrong += 1;
            self.complain(text);
        }
    }
}

/// What the bots' own driver counted, over all of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sessions {
    pub players: u64,
    pub logins: u64,
    pub lost: u64,
    pub resumes: u64,
    /// Bots that gave up or were not connected at the end.
    pub failed: u64,
    /// What the scripts of the arena found wrong.
    pub wrong: u64,
}

/// One demand: what was counted, and how much of it is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    pub what: &'static str,
    pub counted: u64,
    pub allowed: u64,
}

impl Demand {
    pub fn is_met(&self) -> bool {
        self.counted <= self.allowed
    }
}

/// What is demanded, with what was counted.
pub fn demands(counts: &Counts, sessions: &Sessions, processes: u64) -> Vec<Demand> {
    let none = |what, counted| Demand { what, counted, allowed: 0 };
    let failed = counts.failed.values().sum();
    let logins = sessions.logins.saturating_sub(sessions.players);
    vec![
        none("processes that were not replaced, or ended badly", processes),
        none("sessions lost", sessions.lost),
        none("logins beyond the first of each player", logins),
        none("players that gave up or were not connected at the end", sessions.failed),
        none("failed requests to services", failed),
        none("streams to services that ended or forgot something", counts.cut_streams),
        none("messages to stored entities lost", counts.up.lost),
        none("messages to stored entities doubled", counts.up.doubled),
        none("messages to stored entities out of order", counts.up.reordered),
        none("messages of stored entities lost", counts.down.lost),
        none("messages of stored entities doubled", counts.down.doubled),
        none("messages of stored entities out of order", counts.down.reordered),
        none("messages of unstored entities lost, doubled or out of order", counts.rooms.faults()),
        none("wrong answers", counts.wrong + sessions.wrong),
        none(
            "players whose messages could not be added up",
            sessions.players.saturating_sub(counts.settled),
        ),
    ]
}

/// How long players may wait, by role of what is restarted: the p99 that the speed goals name.
pub fn goal(role: &str) -> Option<Duration> {
    match role {
        // An entity of 4 KiB that moves.
        "service" => Some(Duration::from_millis(250)),
        // A node that is known to be gone.
        "scene" => Some(Duration::from_secs(2)),
        // A resume at another gate.
        "gate" => Some(Duration::from_secs(3)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(numbers: &[u64]) -> Order {
        let mut order = Order::default();
        for number in numbers {
            order.hear(*number);
        }
        order
    }

    #[test]
    fn what_is_lost_doubled_or_out_of_order_is_told_apart() {
        let figures = |numbers: &[u64], sent| {
            let order = heard(numbers);
            (order.lost(sent), order.doubled, order.reordered)
        };
        assert_eq!(figures(&[1, 2, 3], 3), (0, 0, 0));
        assert_eq!(figures(&[1, 3, 4], 4), (1, 0, 0), "in the middle");
        assert_eq!(figures(&[1, 2], 4), (2, 0, 0), "at the end");
        assert_eq!(figures(&[1, 2, 2, 3], 3), (0, 1, 0));
        assert_eq!(figures(&[1, 3, 2, 4], 4), (0, 0, 1));
        assert_eq!(figures(&[1, 3, 2, 2], 3), (0, 1, 1));
        assert_eq!(figures(&[], 5), (5, 0, 0));
        assert_eq!(figures(&[1_000_000], 1_000_000), (999_999, 0, 0), "more than are remembered");
    }

    fn well() -> (Counts, Sessions) {
        let mut counts = Counts { settled: 2, answers: 7, ..Counts::default() };
        counts.up.add(3, &heard(&[1, 2, 3]));
        counts.down.add(2, &heard(&[1, 2]));
        (counts, Sessions { players: 2, logins: 2, resumes: 3, ..Sessions::default() })
    }

    fn missed(counts: &Counts, sessions: &Sessions, processes: u64) -> Vec<(&'static str, u64)> {
        let demands = demands(counts, sessions, processes);
        let missed = demands.into_iter().filter(|demand| !demand.is_met());
        missed.map(|demand| (demand.what, demand.counted)).collect()
    }

    type Break = fn(&mut Counts, &mut Sessions);

    /// Each demand is missed when what it names has happened, and then it alone.
    #[test]
    fn every_demand_can_be_missed() {
        let (counts, sessions) = well();
        assert_eq!(missed(&counts, &sessions, 0), []);
        assert_eq!(missed(&counts, &sessions, 1).len(), 1);
        let breaks: [(&str, Break); 14] = [
            ("sessions lost", |_, sessions| sessions.lost += 1),
            ("logins beyond", |_, sessions| sessions.logins += 1),
            ("players that gave up", |_, sessions| sessions.failed += 1),
            ("failed requests", |counts, _| counts.fail("clerk", "timeout")),
            ("streams to services", |counts, _| counts.cut_streams += 1),
            ("messages to stored entities lost", |c, _| c.up.add(4, &heard(&[1, 2, 4]))),
            ("messages to stored entities doubled", |c, _| c.up.add(2, &heard(&[1, 1, 2]))),
            ("messages to stored entities out of", |c, _| c.up.add(3, &heard(&[1, 3, 2]))),
            ("messages of stored entities lost", |c, _| c.down.add(4, &heard(&[1, 2, 4]))),
            ("messages of stored entities doubled", |c, _| c.down.add(2, &heard(&[1, 1, 2]))),
            ("messages of stored entities out of", |c, _| c.down.add(3, &heard(&[1, 3, 2]))),
            ("messages of unstored entities", |c, _| c.rooms.add(2, &heard(&[2, 1]))),
            ("wrong answers", |counts, _| counts.check(false, || "told wrong".to_owned())),
            ("players whose messages", |counts, _| counts.settled -= 1),
        ];
        for (what, break_it) in breaks {
            let (mut counts, mut sessions) = well();
            break_it(&mut counts, &mut sessions);
            let missed = missed(&counts, &sessions, 0);
            assert!(missed.len() == 1 && missed[0].0.starts_with(what), "{what}: {missed:?}");
            assert_eq!(missed[0].1, 1);
        }
    }
}
