//! How long it takes until a change of one of many listed services is seen by another process' watch.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
#[cfg(feature = "layout")]
use cluster::EtcdOptions;
use cluster::{Cluster, NodeInfo, Options};
use env::Clock;
use proto::Incarnation;

use super::Line;

const SERVICES: u64 = 5_000;
const FEW: u64 = 10;
/// Those of one process.
const EACH: u64 = 625;
const CHANGES: u64 = 100;
const GOAL_MS: f64 = 1_000.0;
/// Well within a lease.
const RENEW_EVERY: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(180);

fn info(number: u64, change: u64) -> NodeInfo {
    let mut info = NodeInfo::new(format!("service-{number}"), Incarnation(number + 1));
    info.started_ms = change;
    info
}

/// Lists so many, some at each of several clients of the coordinator, and changes one after the other.
fn watch(
    services: u64,
    open: &(dyn Fn() -> anyhow::Result<Cluster> + Sync),
) -> anyhow::Result<Vec<Duration>> {
    let clock = Clock::system();
    let clients = services.div_ceil(EACH);
    let all = (0..clients).map(|_| open()).collect::<anyhow::Result<Vec<Cluster>>>()?;
    let watching = open()?;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for (client, cluster) in (0..).zip(&all) {
            let (clock, done) = (&clock, &done);
            scope.spawn(move || {
                let own = client * EACH..((client + 1) * EACH).min(services);
                let mut renewed = Instant::now();
                let mut listed = own.start;
                while !done.load(Ordering::Relaxed) {
                    if listed < own.end {
                        let _ = cluster.register(clock.now(), info(listed, 0));
                        listed += 1;
                    } else {
                        std::thread::sleep(Duration::from_millis(20));
                    }
                    // Also while others are still to be listed: that may take longer than a lease.
                    if renewed.elapsed() > RENEW_EVERY {
                        renewed = Instant::now();
                        for number in own.start..listed {
                            let _ = cluster.renew(clock.now(), Incarnation(number + 1));
                        }
                    }
                }
            });
        }
        let waits = changes(services, &all, &watching, &clock);
        done.store(true, Ordering::Relaxed);
        waits
    })
}

fn changes(
    services: u64,
    all: &[Cluster],
    watching: &Cluster,
    clock: &Clock,
) -> anyhow::Result<Vec<Duration>> {
    let begun = Instant::now();
    while watching.directory().nodes().count() < services as usize {
        ensure!(begun.elapsed() < PATIENCE, "not all {services} are listed");
        std::thread::sleep(Duration::from_millis(50));
    }
    println!("{services} services are listed after {:.1} s", begun.elapsed().as_secs_f64());
    let mut waits = Vec::new();
    for change in 1..=CHANGES {
        let number = change * 7_919 % services;
        let cluster = all.get((number / EACH) as usize).context("a client")?;
        let begun = Instant::now();
        let told = std::thread::scope(|scope| {
            // It waits for its own answer, which is not what is measured.
            scope.spawn(|| cluster.register(clock.now(), info(number, change)));
            let is_seen = || {
                let directory = watching.directory();
                directory
                    .node(Incarnation(number + 1))
                    .is_some_and(|info| info.started_ms == change)
            };
            while !is_seen() {
                ensure!(begun.elapsed() < PATIENCE, "a change is not seen");
                std::thread::sleep(Duration::from_micros(500));
            }
            Ok(begun.elapsed())
        });
        waits.push(told?);
    }
    Ok(waits)
}

fn options() -> Options {
    Options { nodes_max: 8_192, ..Options::default() }
}

/// # Errors
///
/// See [`super::run`].
pub fn run() -> anyhow::Result<Vec<Line>> {
    let folder =
        std::env::temp_dir().join(format!("mainstay-bench-listing-{}", std::process::id()));
    let clock = Clock::system();
    let embedded = |name: &'static str| {
        let (folder, clock) = (folder.join(name), clock.clone());
        move || Ok(Cluster::attach(&folder, options(), &clock)?)
    };
    let mut few = watch(FEW, &embedded("few"))?;
    let mut many = watch(SERVICES, &embedded("many"))?;
    let _ = std::fs::remove_dir_all(&folder);
    let mut lines = vec![Line::waits(
        "a change of one of 5,000 services is seen elsewhere, embedded coordinator, p99",
        "with ten services",
        (&mut few, &mut many),
        GOAL_MS,
    )];
    #[cfg(feature = "layout")]
    {
        let members = servers::Etcd::cluster(3)?;
        let endpoints: Vec<String> = members.iter().map(servers::Etcd::url).collect();
        let etcd = |prefix: &'static str| {
            let (endpoints, clock) = (endpoints.clone(), clock.clone());
            move || {
                let etcd = EtcdOptions::new(endpoints.iter().cloned(), prefix);
                Ok(Cluster::etcd(etcd, options(), &clock)?)
            }
        };
        let mut few = watch(FEW, &etcd("few"))?;
        let mut many = watch(SERVICES, &etcd("many"))?;
        lines.push(Line::waits(
            "a change of one of 5,000 services is seen elsewhere, etcd of three members, p99",
            "with ten services",
            (&mut few, &mut many),
            GOAL_MS,
        ));
    }
    Ok(lines)
}
