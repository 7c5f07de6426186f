//! The reference layout with a fault every fifteen seconds, under players who trade.
//!
//! What they were told is done is held against the stores afterwards, every call is timed, and after the last
//! fault all must be well again.

mod bots;
mod network;
mod plan;
mod stage;
mod verdict;

use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use env::{Clock, Random};
use mainstay::client::Address;
use mainstay::config::{Config, CoordinatorPlace};
use mainstay::store::{Store, TxnId};

use crate::layout::tell;
use bots::{Counts, Crowd, DEADLINE, MARGIN};
use plan::{Act, ETCD, Fault, PROCESSES};
use stage::Stage;
pub use stage::{GAME, child};
use verdict::Verdict;

/// A fault begins this long after the one before.
const EVERY: Duration = Duration::from_secs(15);
/// Players play for so long before the first.
const BEFORE: Duration = Duration::from_secs(10);
/// All is well again this long after the last fault is over.
pub const CONVERGED_MAX: Duration = Duration::from_secs(30);
/// When it is given up.
const GIVEN_UP: Duration = Duration::from_secs(120);
/// How often it is looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What is asked for.
#[derive(Clone, Debug)]
struct Wish {
    minutes: f64,
    seed: u64,
    players: u64,
    cuts: bool,
    /// In a network of its own.
    inside: bool,
    /// Only this fault of the plan, counted from 1.
    only: Option<usize>,
}

/// `bench chaos [--minutes N] [--seed N] [--players N] [--no-cuts]`.
///
/// # Errors
///
/// Servers or processes do not start, or a store cannot be read afterwards.
pub fn run(arguments: &[&str]) -> anyhow::Result<bool> {
    let wish = read(arguments)?;
    if wish.cuts && !wish.inside {
        network::check()?;
        // Bridge and namespaces are gone with it, however it ends.
        let seed = wish.seed.to_string();
        let mut command = Command::new("unshare");
        command.arg("--net").arg(std::env::current_exe()?).arg("chaos").args(arguments);
        let status = command.args(["--seed", &seed, "--inside", "yes"]).status()?;
        return Ok(status.success());
    }
    play(&wish)
}

fn read(arguments: &[&str]) -> anyhow::Result<Wish> {
    let seed = Random::from_os().u64() >> 32;
    let mut wish = Wish { minutes: 10.0, seed, players: 64, cuts: true, inside: false, only: None };
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        if *word == "--no-cuts" {
            wish.cuts = false;
            continue;
        }
        let value = *words.next().with_context(|| format!("{word} needs a value"))?;
        let number = || format!("{word} is a number");
        match *word {
            "--minutes" => wish.minutes = value.parse().with_context(number)?,
            "--seed" => wish.seed = value.parse().with_context(number)?,
            "--players" => wish.players = value.parse().with_context(number)?,
            "--only" => wish.only = Some(value.parse().with_context(number)?),
            "--inside" => wish.inside = true,
            _ => bail!(
                "unknown option {word}: --minutes N, --seed N, --players N, --only N, --no-cuts"
            ),
        }
    }
    ensure!(wish.players > 1, "nobody trades alone: --players is 2 or more");
    Ok(wish)
}

fn play(wish: &Wish) -> anyhow::Result<bool> {
    let faults = ((wish.minutes * 60.0 / EVERY.as_secs_f64()) as usize).max(1);
    let mut faults = plan::plan(wish.seed, faults, wish.cuts);
    if let Some(only) = wish.only {
        let fault = only.checked_sub(1).and_then(|at| faults.get(at));
        faults = vec![*fault.context("there is no such fault")?];
    }
    let (players, count) = (wish.players, faults.len());
    println!("chaos: seed {}, {players} players, {count} faults", wish.seed);
    if !wish.cuts {
        println!("without one-way cuts: they need network namespaces");
    }
    let mut stage = Stage::start(wish.cuts)?;
    println!("ready: three gates, three scene nodes, two service nodes; {}", servers(wish.cuts));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("no runtime")?;
    let gates = stage.layout.gates().iter().map(|at| Address::tcp(at.to_string())).collect();
    let keys = stage.layout.keys()?;
    let mut crowd = {
        let _entered = runtime.enter();
        Crowd::start(wish.players, gates, &keys, wish.seed)
    };
    let begun = Instant::now();
    let mut show = Show { begun, counts: [0; 3] };
    until(begun + BEFORE);
    show.felt(&crowd, "before the first fault");
    let mut over = Instant::now();
    for (at, fault) in faults.iter().enumerate() {
        until(begun + BEFORE + EVERY * at as u32);
        if at > 0 {
            show.felt(&crowd, "felt");
        }
        strike(&stage, fault, &show)?;
        over = Instant::now();
    }
    let converged = converge(&stage, &crowd, over)?;
    show.felt(&crowd, "felt");
    let played = begun.elapsed();
    let left = runtime.block_on(crowd.stop());
    let store = verdict::open_store(&stage)?;
    await_orders(&store, &crowd)?;
    let open = settle_down(&stage);
    let stopped_well = stage.layout.stop()?;
    let verdict = Verdict { faults: count, played, left, open, stopped_well, converged };
    let met = verdict.audit(&store, &crowd)?;
    match met {
        true => stage.layout.clear(),
        false => println!("logs are in {}", stage.layout.data().display()),
    }
    Ok(met)
}

fn servers(cuts: bool) -> &'static str {
    match cuts {
        true => "each in a network of its own; etcd x3, NATS, PostgreSQL, Redis",
        false => "etcd x3, NATS, PostgreSQL, Redis",
    }
}

fn until(when: Instant) {
    std::thread::sleep(when.saturating_duration_since(Instant::now()));
}

/// Prints what happens, with its time.
struct Show {
    begun: Instant,
    /// Failed and declined calls and log-ins as last shown.
    counts: [u64; 3],
}

impl Show {
    fn line(&self, what: impl std::fmt::Display) {
        println!("[{:6.1} s] {what}", self.begun.elapsed().as_secs_f64());
    }

    /// What players felt since it was shown last.
    fn felt(&mut self, crowd: &Crowd, what: &str) {
        let pauses = crowd.pauses();
        let (median, longest) = (pauses[pauses.len() / 2], pauses[pauses.len() - 1]);
        let counts = crowd.counts();
        let now = [&counts.failed, &counts.declined, &counts.logins];
        let now = now.map(|count| count.load(Ordering::Relaxed));
        let more = |at: usize| now[at] - self.counts[at];
        println!(
            "           {what}: longest pause {:.1} s, of half of the players under {:.1} s; calls failed {}, \
             declined {}; log-ins {}",
            longest.as_secs_f64(),
            median.as_secs_f64(),
            more(0),
            more(1),
            more(2)
        );
        self.counts = now;
    }
}

/// Does a fault and undoes it.
fn strike(stage: &Stage, fault: &Fault, show: &Show) -> anyhow::Result<()> {
    let (layout, lasts) = (&stage.layout, || std::thread::sleep(fault.lasts));
    let servers = |of: &[usize], end: fn(&servers::Instance) -> anyhow::Result<()>| {
        show.line(fault);
        of.iter().try_for_each(|at| end(stage.server(*at)))?;
        lasts();
        // Members of etcd are ready together.
        let again = |at: &usize| stage.server(*at).start_again();
        std::thread::scope(|scope| {
            let starts: Vec<_> = of.iter().map(|at| scope.spawn(move || again(at))).collect();
            starts.into_iter().try_for_each(|start| start.join().expect("no panic"))
        })?;
        show.line("... it is back");
        anyhow::Ok(())
    };
    let killed = |server: &servers::Instance| {
        server.kill();
        Ok(())
    };
    match fault.act {
        Act::Kill(at) | Act::Stop(at) => {
            let Ok(pid) = layout.pid(PROCESSES[at]) else {
                show.line(format!("{fault}: it does not run just now"));
                return Ok(());
            };
            show.line(format!("{fault} (process {pid})"));
            if matches!(fault.act, Act::Kill(_)) {
                return tell("-KILL", pid);
            }
            tell("-STOP", pid)?;
            lasts();
            // Its supervisor may have ended it meanwhile.
            let went_on = tell("-CONT", pid).is_ok();
            show.line(if went_on { "... it goes on" } else { "... it is gone" });
        }
        Act::Crash(at) => servers(&[at], killed)?,
        Act::CrashEtcd => servers(&[0, 1, 2][..ETCD], killed)?,
        Act::Restart(at) => servers(&[at], |server| Ok(server.stop()?))?,
        Act::Freeze(at) => {
            show.line(fault);
            stage.server(at).freeze();
            lasts();
            stage.server(at).thaw();
            show.line("... it goes on");
        }
        Act::Cut(from, to) => {
            let network = stage.network.as_ref().context("there is no network to cut")?;
            show.line(fault);
            network.cut(from, to)?;
            lasts();
            network.heal(from, to)?;
            show.line("... it is healed");
        }
    }
    Ok(())
}

/// Waits until all is well after the last fault; how long that took, or what is not well in the end.
fn converge(
    stage: &Stage,
    crowd: &Crowd,
    over: Instant,
) -> anyhow::Result<Result<Duration, String>> {
    let file = stage.layout.file();
    let app = crate::traders::game::spread_app();
    let config = Config::check(file, &app.role_names())?;
    let process = config.choose(Some(PROCESSES[0])).map_err(anyhow::Error::msg)?;
    let CoordinatorPlace::Etcd(etcd) = &process.coordinator else {
        bail!("the coordinator is etcd");
    };
    let options = cluster::EtcdOptions::new(etcd.endpoints.iter().cloned(), &etcd.prefix);
    let onlooker =
        cluster::Cluster::etcd(options, process.options.registry.clone(), &Clock::system())?;
    let mut was = String::new();
    loop {
        let mut ill = stage.layout.ill();
        let directory = onlooker.directory();
        let listed = |name: &str| {
            let gate = format!("{name}-gate");
            directory.node_named(name).or(directory.node_named(&gate)).is_some()
        };
        let missing = PROCESSES.iter().filter(|name| !listed(name));
        ill.extend(missing.map(|name| format!("{name} is not listed")));
        let idle = crowd.idle_since(over);
        if !idle.is_empty() {
            ill.push(format!("{} players do not trade yet, such as {}", idle.len(), idle[0]));
        }
        if ill.is_empty() {
            return Ok(Ok(over.elapsed()));
        }
        let now = ill.join(", ");
        if over.elapsed() > GIVEN_UP {
            return Ok(Err(now));
        }
        if now != was {
            println!("           {:4.1} s after: {now}", over.elapsed().as_secs_f64());
            was = now;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Waits until all orders that were taken are carried out, or should have been.
fn await_orders(store: &Store, crowd: &Crowd) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut owed = crowd.model().owed();
    while !owed.is_empty() && begun.elapsed() < CONVERGED_MAX {
        let receipts: Vec<_> = owed.iter().map(|id| store.lookup(TxnId((*id).into()))).collect();
        let mut open = Vec::new();
        for (id, receipt) in owed.into_iter().zip(receipts) {
            if receipt.wait()?.is_none() {
                open.push(id);
            }
        }
        owed = open;
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

/// What is still under way within the processes although nobody asks any more.
fn settle_down(stage: &Stage) -> Vec<String> {
    let begun = Instant::now();
    loop {
        let mut open = Vec::new();
        for state in stage.layout.states() {
            for what in ["calls", "requests", "mail"] {
                let count = state.figure(what).unwrap_or_default();
                if count > 0 {
                    open.push(format!("{} has {count} {what} under way", state.name));
                }
            }
        }
        if open.is_empty() || begun.elapsed() > DEADLINE + MARGIN {
            return open;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}
