//! Calls from an entity on one node to an entity on another, over TCP on loopback, next to the raw
//! echo, tarpc, and request and reply over NATS.
//!
//! The caller's side has one core, the other side the other; a NATS server, where there is one, has
//! both. What is compared is CPU time of all of them for one call with a body of 32 bytes, encoded
//! and decoded as in a game.

mod bare;
mod other;

use std::time::Duration;

use anyhow::{Context as _, ensure};
use cluster::Cluster;
use env::{Clock, Random};
use macros::{entity, rpc};
use node::rt::Cx;
use node::{Node, NodeApp, NodeEnv, NodeHandle, NodeOptions};
use rustix::time::{ClockId, clock_gettime};
use transport::Board;

use crate::raw::{
    BODY_BYTES, CLIENT_CPU, Child, Echo, Load, SERVER_CPU, pin, run_load, spawn_child,
};

pub use self::bare::{run as run_core, run_count};

const ROUNDS: usize = 5;
/// Calls in flight, and how many calls a round makes.
const SHAPES: [(u64, u64); 2] = [(1, 20_000), (64, 256_000)];
/// With one in flight: over two raw echoes, which is what the sockets of both sides cost.
const SERIAL_GOAL: f64 = 1.3;
/// With 64 in flight: CPU seconds for a million, where tarpc takes so many. Where that takes longer in the
/// same run, the goal is as much higher.
const BATCHED_GOAL: f64 = 0.8;
const BATCHED_GOAL_WHERE_TARPC_TOOK: f64 = 2.9;

/// Asks the entity of its own number on the other node, again and again.
#[entity(root = node::rt)]
#[derive(Default)]
pub struct Asker;

#[rpc(root = node::rt)]
impl Asker {
    #[invoke(deadline = "10m")]
    async fn ask(&mut self, cx: &mut Cx<Self>, count: u64) -> u64 {
        let body = vec![0x5a; BODY_BYTES];
        let mut right = 0;
        for _ in 0..count {
            let answer = cx.entity::<Answerer>(cx.key()).echo(body.clone()).await;
            right += u64::from(answer.is_ok_and(|answer| answer == body));
        }
        right
    }
}

/// Gives back what it is given.
#[entity(root = node::rt)]
#[derive(Default)]
pub struct Answerer;

#[rpc(root = node::rt)]
impl Answerer {
    #[invoke]
    fn echo(&mut self, _cx: &mut Cx<Self>, body: Vec<u8>) -> Vec<u8> {
        body
    }
}

/// Two nodes that reach each other over TCP, each with a worker and a core.
struct Pair {
    asking: NodeHandle,
    answering: NodeHandle,
}

impl Pair {
    fn start() -> anyhow::Result<Self> {
        let cluster = Cluster::embedded(cluster::Options::default());
        let start = |name: &str, seed: u64, app: NodeApp, cpu: usize| {
            // Its threads stay where it is started.
            pin(cpu)?;
            let listen = Some("127.0.0.1:0".parse()?);
            let options = NodeOptions { workers: 1, mesh_listen: listen, ..NodeOptions::new(name) };
            let env = NodeEnv {
                clock: Clock::system(),
                random: Random::from_seed(seed),
                cluster: cluster.clone(),
                // Of its own, as if it were another process.
                board: Board::new(),
                mesh_key: mesh::Key::shared(&[7; 32]),
                store: None,
                stores: Vec::new(),
                metrics: env::metrics::Registry::new(),
                bus: None,
            };
            anyhow::Ok(Node::start(&app, options, env)?)
        };
        let answering = start("answering", 1, NodeApp::new().kind::<Answerer>(), SERVER_CPU)?;
        let asking = start("asking", 2, NodeApp::new().kind::<Asker>(), CLIENT_CPU)?;
        Ok(Pair { asking, answering })
    }

    fn calls(&self, in_flight: u64, each: u64) -> anyhow::Result<u64> {
        let askers = (0..in_flight).map(|key| {
            self.asking.spawn(0, move |outside| async move {
                outside.entity::<Asker>(key).ask(each).deadline(Duration::from_secs(120)).await
            })
        });
        let askers: Vec<_> = askers.collect();
        let mut right = 0;
        for asker in askers {
            right += asker.blocking_recv().context("a worker stopped")??;
        }
        Ok(right)
    }
}

/// CPU microseconds of two raw echoes, of so many at a time: what the system does for both sides.
fn two_echoes(raw: &Child, in_flight: u64) -> anyhow::Result<f64> {
    let (time, window) = (Duration::from_millis(700), usize::try_from(in_flight)?);
    let load = Load { addr: raw.addr(), connections: 1, window, time, ..Load::default() };
    let echo = run_load(&load, |_| Echo::default(), || raw.cpu())?;
    Ok(2.0 * echo.server_seconds_per_million())
}

/// CPU time of this process so far.
fn own_cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// CPU microseconds of one call, which are CPU seconds of a million; `elsewhere` is what other
/// processes have used so far.
fn cost(
    calls: u64,
    elsewhere: impl Fn() -> anyhow::Result<Duration>,
    work: impl FnOnce() -> anyhow::Result<u64>,
) -> anyhow::Result<f64> {
    let before = own_cpu() + elsewhere()?;
    let right = work()?;
    ensure!(right == calls, "{right} of {calls} answers are right");
    Ok((own_cpu() + elsewhere()? - before).as_secs_f64() * 1e6 / calls as f64)
}

/// `bench calls`.
///
/// # Errors
///
/// A side does not start, or answers wrongly.
pub fn run() -> anyhow::Result<bool> {
    let raw = spawn_child(&["child-raw-echo", "0"], SERVER_CPU)?;
    let pair = Pair::start()?;
    let others = other::Others::start()?;
    println!("medians of {ROUNDS} rounds that take turns; {}", crate::gate::load_average());
    let nothing = || Ok(Duration::ZERO);
    let mut met = true;
    for (in_flight, calls) in SHAPES {
        let each = calls / in_flight;
        // What is made once: links, entities, buffers.
        pair.calls(in_flight, each / 10)?;
        let (mut echoes, mut together) = (Vec::new(), Vec::new());
        let mut costs: Vec<(&str, Vec<f64>)> = vec![("two nodes of Mainstay", Vec::new())];
        costs.extend(others.names().map(|name| (name, Vec::new())));
        for _ in 0..ROUNDS {
            echoes.push(two_echoes(&raw, 1)?);
            together.push(two_echoes(&raw, in_flight)?);
            costs[0].1.push(cost(calls, nothing, || pair.calls(in_flight, each))?);
            for (place, (_, costs)) in costs[1..].iter_mut().enumerate() {
                costs.push(others.cost(place, in_flight, each)?);
            }
        }
        let echo = crate::entity::median(echoes);
        println!("\n{in_flight} in flight, CPU seconds of both sides for a million calls");
        println!("{:>26} {echo:>7.2}", "two raw echoes, one by one");
        let together = crate::entity::median(together);
        println!("{:>26} {together:>7.2}", format!("{in_flight} at a time"));
        let costs: Vec<_> =
            costs.into_iter().map(|(name, costs)| (name, crate::entity::median(costs))).collect();
        for (name, cost) in &costs {
            println!("{name:>26} {cost:>7.2}   {:>5.2} of them", cost / echo);
        }
        met &= match in_flight {
            1 => crate::gate::judge("over two raw echoes", costs[0].1 / echo, SERIAL_GOAL),
            _ => {
                let slower = (costs[1].1 / BATCHED_GOAL_WHERE_TARPC_TOOK).max(1.0);
                println!(
                    "    the goal is {BATCHED_GOAL} where tarpc takes {BATCHED_GOAL_WHERE_TARPC_TOOK}; here it \
                     takes {slower:.2} times that"
                );
                let goal = (BATCHED_GOAL * slower * 100.0).round() / 100.0;
                crate::gate::judge("CPU seconds for a million", costs[0].1, goal)
            }
        };
    }
    Ok(met)
}

/// `bench calls IN-FLIGHT COUNT`: the calls of Mainstay alone, for a profiler.
///
/// # Errors
///
/// As [`run`].
pub fn run_alone(in_flight: &str, count: &str) -> anyhow::Result<bool> {
    let (in_flight, count): (u64, u64) = (in_flight.parse()?, count.parse()?);
    ensure!(in_flight > 0, "at least one call has to be in flight");
    let pair = Pair::start()?;
    let each = count / in_flight;
    pair.calls(in_flight, each.min(1_000))?;
    let turns = || {
        let of = |node: &NodeHandle| node.stats().turns.iter().sum::<u64>();
        (of(&pair.asking), of(&pair.answering))
    };
    let (calls, before) = (in_flight * each, turns());
    let cost = cost(calls, || Ok(Duration::ZERO), || pair.calls(in_flight, each))?;
    let after = turns();
    let per_turn = |before, after| calls as f64 / (after - before) as f64;
    let (asking, answering) = (per_turn(before.0, after.0), per_turn(before.1, after.1));
    println!("{cost:.3} us of CPU a call; {asking:.1} and {answering:.1} calls a turn");
    Ok(true)
}
