//! Calls from one worker to another, through a node as games run it: two threads, each with its
//! sockets, its inbox and Tokio.

use std::sync::OnceLock;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use cluster::Cluster;
use env::{Clock, Random};
use macros::{entity, rpc};
use node::rt::Cx;
use node::{Node, NodeApp, NodeEnv, NodeHandle, NodeOptions, Ref};
use rustix::time::ClockId;
use transport::Board;

use super::own::Counter;
use super::{ENTITIES, IN_FLIGHT, Order, timed_by};

const WORKERS: u8 = 2;
/// Calls of one caller: a quarter of a million in all.
const EACH: u64 = 4_000;

/// Calls the counters of the other worker.
#[entity(root = node::rt)]
#[derive(Default)]
pub struct Caller;

#[rpc(root = node::rt)]
impl Caller {
    #[invoke(deadline = "10m")]
    async fn calls(&mut self, cx: &mut Cx<Self>, count: u64) -> u64 {
        let mut order = Order(cx.key());
        let mut answered = 0;
        let keys = AWAY.get_or_init(|| (0..ENTITIES).map(|n| key_on(1, n)).collect());
        for at in 0..count {
            let key = keys[order.next() as usize];
            answered += u64::from(cx.entity::<Counter>(key).add(at).await.is_ok());
        }
        answered
    }
}

/// Keys of a thousand counters that live on worker 1.
static AWAY: OnceLock<Vec<u64>> = OnceLock::new();

/// A key that lives on `worker`, another one for each `n`.
fn key_on(worker: u8, n: u64) -> u64 {
    let at = |key: u64| Ref::<Counter>::keyed(key).id().worker(WORKERS);
    (n * 64..).find(|key| at(*key) == worker).unwrap_or_default()
}

/// What a run cost.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Nanoseconds of the process's CPU for one call, and of time.
    pub cpu: f64,
    pub wall: f64,
    /// Calls for each turn of the two workers.
    pub calls_per_turn: f64,
}

fn start() -> anyhow::Result<NodeHandle> {
    let app = NodeApp::new().kind::<Caller>().kind::<Counter>();
    let options = NodeOptions { workers: WORKERS, ..NodeOptions::new("node") };
    let env = NodeEnv {
        clock: Clock::system(),
        random: Random::from_seed(1),
        cluster: Cluster::embedded(cluster::Options::default()),
        board: Board::new(),
        mesh_key: mesh::Key::none(),
        store: None,
        stores: Vec::new(),
        metrics: env::metrics::Registry::new(),
        bus: None,
    };
    Ok(Node::start(&app, options, env)?)
}

/// 64 callers on worker 0, each of which waits for one call after the other.
fn round(node: &NodeHandle, each: u64) -> anyhow::Result<u64> {
    let callers = (0..IN_FLIGHT).map(|n| {
        let key = key_on(0, n);
        node.spawn(0, move |outside| outside.entity::<Caller>(key).calls(each))
    });
    let callers: Vec<_> = callers.collect();
    let mut answered = 0;
    for caller in callers {
        answered += caller.blocking_recv().context("a worker stopped")??;
    }
    Ok(answered)
}

/// Calls under way on two workers of a node, 64 at a time.
///
/// # Errors
///
/// If the node does not start, or a call gets no answer.
pub fn run() -> anyhow::Result<Run> {
    let node = start()?;
    // What is made once: the entities, the lanes, the tables.
    round(&node, ENTITIES / 8)?;
    let turns = || node.stats().turns.iter().sum::<u64>() as f64;
    let (count, before, began) = (EACH * IN_FLIGHT, turns(), Instant::now());
    let mut answered = Ok(0);
    let cpu = timed_by(ClockId::ProcessCPUTime, count, || answered = round(&node, EACH));
    let wall = began.elapsed().as_nanos() as f64 / count as f64;
    let answered = answered?;
    ensure!(answered == count, "{answered} answers");
    let calls_per_turn = count as f64 / (turns() - before);
    Ok(Run { cpu, wall, calls_per_turn })
}

/// Nanoseconds of the process's CPU for one call, 64 of them under way.
///
/// # Errors
///
/// As [`run`].
pub fn measure() -> anyhow::Result<f64> {
    Ok(run()?.cpu)
}

/// `bench entity-across`: again and again, for a profiler.
///
/// # Errors
///
/// As [`run`].
pub fn run_core() -> anyhow::Result<bool> {
    for _ in 0..super::ROUNDS {
        let Run { cpu, wall, calls_per_turn } = run()?;
        println!("{cpu:.0} ns of CPU, {wall:.0} ns of time, {calls_per_turn:.1} calls a turn");
    }
    Ok(true)
}

/// The same over Tokio's channels: a task per entity, an answer through a oneshot.
pub fn channels() -> anyhow::Result<f64> {
    use tokio::sync::{mpsc, oneshot};
    let each = 1_000;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build()?;
    let nanos = timed_by(ClockId::ProcessCPUTime, each * IN_FLIGHT, || {
        runtime.block_on(async {
            let mut senders = Vec::new();
            for _ in 0..ENTITIES {
                let (sender, mut receiver) = mpsc::channel::<(u64, oneshot::Sender<u64>)>(1_024);
                senders.push(sender);
                tokio::spawn(async move {
                    let mut sum = 0u64;
                    while let Some((n, answer)) = receiver.recv().await {
                        sum = sum.wrapping_add(n);
                        let _ = answer.send(sum);
                    }
                });
            }
            let callers = (1..=IN_FLIGHT).map(|key| {
                let senders = senders.clone();
                tokio::spawn(async move {
                    let mut order = Order(key);
                    for at in 0..each {
                        let (sender, receiver) = oneshot::channel();
                        let _ = senders[order.next() as usize].send((at, sender)).await;
                        let _ = receiver.await;
                    }
                })
            });
            for caller in callers.collect::<Vec<_>>() {
                let _ = caller.await;
            }
        });
    });
    Ok(nanos)
}
