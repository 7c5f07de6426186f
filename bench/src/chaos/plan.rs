//! Which faults there are, and when: all of it from the seed.

use std::fmt;
use std::time::Duration;

use env::Random;

use super::network::Place;

/// The processes of the layout, in the order of their places.
pub const PROCESSES: [&str; 8] =
    ["gate-1", "gate-2", "gate-3", "scene-1", "scene-2", "scene-3", "service-1", "service-2"];
/// Its servers, in the order of theirs.
pub const SERVERS: [&str; 6] = ["etcd-1", "etcd-2", "etcd-3", "NATS", "PostgreSQL", "Redis"];
/// Members of etcd come first.
pub const ETCD: usize = 3;
const NATS: usize = 3;
const POSTGRES: usize = 4;
const REDIS: usize = 5;

/// A fault lasts for no longer: it is over before the next one.
const LASTS_MAX_MS: u64 = 12_000;

/// What is done to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Act {
    /// As `kill -9`; the supervisor starts it again.
    Kill(usize),
    /// It stands still, then goes on.
    Stop(usize),
    /// As `kill -9` of the server; it is started again on its data.
    Crash(usize),
    /// It is asked to end; it is started again on its data.
    Restart(usize),
    /// It stands still, then goes on.
    Freeze(usize),
    /// All members of etcd crash.
    CrashEtcd,
    /// What the first sends does not reach the second.
    Cut(Place, Place),
}

/// An act, and how long until it is undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    pub act: Act,
    pub lasts: Duration,
}

/// A kind of act, drawn before it is known whom it strikes.
#[derive(Clone, Copy)]
enum Kind {
    Kill(&'static [usize]),
    Stop(&'static [usize]),
    Crash(&'static [usize]),
    Restart(&'static [usize]),
    Freeze(&'static [usize]),
    CrashEtcd,
    CutProcesses,
    CutServer,
}

const GATES: &[usize] = &[0, 1, 2];
const SCENES: &[usize] = &[3, 4, 5];
const SERVICES: &[usize] = &[6, 7];
const MEMBERS: &[usize] = &[0, 1, 2];

/// Each comes once before any comes again.
const DECK: [Kind; 16] = [
    Kind::Kill(GATES),
    Kind::Kill(SCENES),
    Kind::Kill(SERVICES),
    Kind::Stop(GATES),
    Kind::Stop(SCENES),
    Kind::Stop(SERVICES),
    Kind::Crash(MEMBERS),
    Kind::Crash(&[NATS]),
    Kind::Crash(&[POSTGRES]),
    Kind::Crash(&[REDIS]),
    Kind::Restart(&[NATS, POSTGRES, REDIS]),
    Kind::Freeze(&[0, 1, 2, NATS, POSTGRES, REDIS]),
    Kind::CrashEtcd,
    Kind::CutProcesses,
    Kind::CutProcesses,
    Kind::CutServer,
];

/// So many faults. Without `cuts` there are none of those.
pub fn plan(seed: u64, faults: usize, cuts: bool) -> Vec<Fault> {
    let mut random = Random::from_seed(seed);
    let mut plan = Vec::new();
    let mut deck = Vec::new();
    while plan.len() < faults {
        if deck.is_empty() {
            deck = DECK.to_vec();
            if !cuts {
                deck.retain(|kind| !matches!(kind, Kind::CutProcesses | Kind::CutServer));
            }
        }
        let kind = deck.swap_remove(random.below(deck.len() as u64) as usize);
        let act = draw(&mut random, kind);
        let lasts = match act {
            // Up to the supervisor.
            Act::Kill(_) => 0,
            _ => 500 + random.below(LASTS_MAX_MS - 500),
        };
        plan.push(Fault { act, lasts: Duration::from_millis(lasts) });
    }
    plan
}

fn draw(random: &mut Random, kind: Kind) -> Act {
    let mut any = |of: &[usize]| of[random.below(of.len() as u64) as usize];
    match kind {
        Kind::Kill(of) => Act::Kill(any(of)),
        Kind::Stop(of) => Act::Stop(any(of)),
        Kind::Crash(of) => Act::Crash(any(of)),
        Kind::Restart(of) => Act::Restart(any(of)),
        Kind::Freeze(of) => Act::Freeze(any(of)),
        Kind::CrashEtcd => Act::CrashEtcd,
        Kind::CutProcesses => {
            // Gates have no business with each other.
            let one = any(&[3, 4, 5, 6, 7]);
            let mut other = any(&[0, 1, 2, 3, 4, 5, 6]);
            if other == one {
                other = 7;
            }
            let (one, other) = (Place::Process(one), Place::Process(other));
            if any(&[0, 1]) == 0 { Act::Cut(one, other) } else { Act::Cut(other, one) }
        }
        Kind::CutServer => {
            // Gates know etcd alone.
            let process = any(&[0, 3, 6, 7]);
            let server =
                if process == 0 { any(MEMBERS) } else { any(&[0, 1, 2, NATS, REDIS, REDIS]) };
            let (process, server) = (Place::Process(process), Place::Server(server));
            if any(&[0, 1]) == 0 { Act::Cut(process, server) } else { Act::Cut(server, process) }
        }
    }
}

fn name(place: Place) -> &'static str {
    match place {
        Place::Process(at) => PROCESSES[at],
        Place::Server(at) => SERVERS[at],
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.lasts.as_secs_f64();
        match self.act {
            Act::Kill(at) => write!(f, "kill -9 {}", PROCESSES[at]),
            Act::Stop(at) => write!(f, "{} stands still for {seconds:.1} s", PROCESSES[at]),
            Act::Crash(at) => write!(f, "kill -9 {}, away for {seconds:.1} s", SERVERS[at]),
            Act::Restart(at) => write!(f, "{} is stopped, away for {seconds:.1} s", SERVERS[at]),
            Act::Freeze(at) => write!(f, "{} stands still for {seconds:.1} s", SERVERS[at]),
            Act::CrashEtcd => write!(f, "kill -9 all of etcd, away for {seconds:.1} s"),
            Act::Cut(from, to) => {
                write!(f, "nothing from {} reaches {} for {seconds:.1} s", name(from), name(to))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_faults_again_and_every_kind_comes() {
        assert_eq!(plan(7, 40, true), plan(7, 40, true));
        assert_ne!(plan(7, 40, true), plan(8, 40, true));
        let faults = plan(7, DECK.len(), true);
        let count = |is: fn(&Act) -> bool| faults.iter().filter(|fault| is(&fault.act)).count();
        assert_eq!(count(|act| matches!(act, Act::Kill(_))), 3);
        assert_eq!(count(|act| matches!(act, Act::Stop(_))), 3);
        assert_eq!(count(|act| matches!(act, Act::Crash(_))), 4);
        assert_eq!(count(|act| matches!(act, Act::Cut(..))), 3);
        assert!(plan(7, 100, false).iter().all(|fault| !matches!(fault.act, Act::Cut(..))));
    }

    #[test]
    fn nobody_is_cut_off_from_itself_and_gates_not_from_each_other() {
        for fault in plan(1, 2_000, true) {
            let Act::Cut(from, to) = fault.act else { continue };
            let is_gate = |place| matches!(place, Place::Process(at) if at < GATES.len());
            assert!(from != to && !(is_gate(from) && is_gate(to)), "{fault}");
        }
    }
}
