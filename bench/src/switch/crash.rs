//! The reference layout as real processes: how long players wait for their next answer when a gate or a node is
//! gone from one moment to the next.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::ensure;
use mainstay::App;
use mainstay::client::{Address, Options, encode_args};
use mainstay::env::{Clock, Random, WallTime};
use mainstay::proto::AccountId;
use mainstay::proto::ticket::{Claims, TicketKeys};

use super::Line;
use super::ping::{Ping, Question, run_for, run_until};
use crate::layout::{Layout, Plan, tell};

const PLAYERS: u64 = 60;
/// Whoever waits longer has noticed something.
const NOTICED: Duration = Duration::from_millis(150);
const READY_MAX: Duration = Duration::from_secs(120);
const GATE_GOAL_MS: f64 = 3_000.0;
const PROVEN_GOAL_MS: f64 = 2_000.0;
const UNPROVEN_GOAL_MS: f64 = 10_000.0;

/// The game of the processes.
pub fn app() -> App {
    arena::app()
}

struct Crowd {
    layout: Layout,
    keys: TicketKeys,
    pings: Vec<Ping>,
    accounts: u64,
}

impl Crowd {
    fn start() -> anyhow::Result<Crowd> {
        // One that stands still is not looked after, so that nobody sees its end.
        let plan = Plan { game: "switch", settings: &[], arguments: &["--stall-after", "3600"] };
        let layout = Layout::start(plan)?;
        let keys = layout.keys()?;
        let mut crowd = Crowd { layout, keys, pings: Vec::new(), accounts: 0 };
        crowd.enter(PLAYERS)?;
        Ok(crowd)
    }

    /// Lets so many in; gives how long each took to its first answer.
    fn enter(&mut self, count: u64) -> anyhow::Result<Vec<Duration>> {
        let gates: Vec<SocketAddr> = self.layout.gates().to_vec();
        let begun = Instant::now();
        let first = self.pings.len();
        for _ in 0..count {
            self.accounts += 1;
            let mut own: Vec<_> = gates.iter().map(|gate| Address::tcp(gate.to_string())).collect();
            own.rotate_left(self.accounts as usize % gates.len());
            let mut options = Options::new(own.remove(0));
            options.addresses.extend(own);
            options.limits.tries_max = None;
            let issued = Clock::system().wall();
            let expires = WallTime(issued.0 + 3_600_000);
            let name = format!("player {}", self.accounts);
            let account = AccountId(self.accounts);
            let claims = Claims { account, level: 0, name, issued, expires };
            let question = Question {
                stream: "avatar",
                method: "profile",
                body: encode_args(&()),
                pause: Duration::from_millis(10),
            };
            let grant = self.keys.issue(&mut Random::from_os(), claims);
            self.pings.push(Ping::new(options, grant, question));
        }
        run_until(&mut self.pings, "all are in", |all| all.iter().all(Ping::is_in))?;
        let answered = self.pings[first..].iter().filter_map(Ping::first_at);
        Ok(answered.map(|at| at - begun).collect())
    }

    /// Does `harm`, and gives how long those had to wait who noticed it.
    fn felt(
        &mut self,
        harm: impl FnOnce(&Layout) -> anyhow::Result<()>,
    ) -> anyhow::Result<Vec<Duration>> {
        run_for(&mut self.pings, Duration::from_secs(1))?;
        self.pings.iter_mut().for_each(|ping| {
            ping.take_worst();
        });
        harm(&self.layout)?;
        let begun = Instant::now();
        // What is under way when it happens may still be answered; a while later all that are, are in play.
        let settled =
            |ping: &Ping| ping.answered_at().is_some_and(|at| at > begun && at.elapsed() < NOTICED);
        let mut since = None;
        run_until(&mut self.pings, "all are in play again", |all| {
            match all.iter().all(settled) {
                false => since = None,
                true => drop(since.get_or_insert_with(Instant::now)),
            }
            since.is_some_and(|since| since.elapsed() > Duration::from_secs(3))
        })?;
        let waits = self.pings.iter_mut().map(Ping::take_worst);
        Ok(waits.filter(|wait| *wait > NOTICED).collect())
    }

    fn kill(&mut self, name: &str) -> anyhow::Result<Vec<Duration>> {
        let waits = self.felt(|layout| tell("-KILL", layout.pid(name)?))?;
        self.tell_of("killed", name, &waits);
        self.layout.until_ready(READY_MAX)?;
        Ok(waits)
    }

    /// Stops a process for good without an end that anybody could see, as a machine that is gone.
    fn vanish(&mut self, name: &str) -> anyhow::Result<Vec<Duration>> {
        let pid = self.layout.pid(name)?;
        let waits = self.felt(|_| tell("-STOP", pid))?;
        self.tell_of("stopped", name, &waits);
        tell("-KILL", pid)?;
        self.layout.until_ready(READY_MAX)?;
        Ok(waits)
    }

    fn tell_of(&self, what: &str, name: &str, waits: &[Duration]) {
        let worst = waits.iter().max().copied().unwrap_or_default();
        println!("{name} {what}: {} of {PLAYERS} noticed, at worst {worst:.2?}", waits.len());
    }
}

/// # Errors
///
/// See [`super::run`].
pub fn run() -> anyhow::Result<Vec<Line>> {
    let mut crowd = Crowd::start()?;
    let mut reference = crowd.enter(PLAYERS / 3)?;
    crowd.pings.truncate(PLAYERS as usize);
    let (mut gates, mut proven, mut unproven) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..2 {
        for gate in ["gate-1", "gate-2", "gate-3"] {
            gates.extend(crowd.kill(gate)?);
        }
    }
    for _ in 0..3 {
        for node in ["service-1", "service-2"] {
            proven.extend(crowd.kill(node)?);
        }
    }
    for node in ["service-1", "service-2"] {
        unproven.extend(crowd.vanish(node)?);
    }
    ensure!(crowd.layout.stop()?, "not all processes ended well: {}", crowd.layout.said());
    crowd.layout.clear();
    let mut line = |what, waits: &mut [Duration], goal| {
        Line::waits(what, "a log-in to its first answer", (&mut reference, waits), goal)
    };
    Ok(vec![
        line("a gate is killed, until the next answer by another, p99", &mut gates, GATE_GOAL_MS),
        line(
            "a node is killed and its end seen, until the next answer, p99",
            &mut proven,
            PROVEN_GOAL_MS,
        ),
        line(
            "a node is gone and nobody saw its end, until the next answer, p99",
            &mut unproven,
            UNPROVEN_GOAL_MS,
        ),
    ])
}
