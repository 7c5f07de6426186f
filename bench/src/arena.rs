//! A thousand bots in one arena at 20 steps a second, gate hop included, next to the bare writes
//! of the same bytes.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bots::{GuestGrants, Load, Options, Swarm};
use client::Address;
use env::Random;
use mainstay::Running;
use mainstay::config::{Config, Keys};

use crate::raw::{Child, enter_child, pin, spawn_child};

const PLAYERS: u32 = 1000;
const SETTLE: Duration = Duration::from_secs(10);
const MEASURE: Duration = Duration::from_secs(20);
const STEPS_PER_SECOND: u32 = 20;

/// Runs the arena and prints what it cost.
///
/// # Errors
///
/// The server or the bots could not be started.
pub fn run() -> anyhow::Result<bool> {
    pin(1)?;
    let server = spawn_child(&["child-arena"], 0)?;
    let grants = GuestGrants::new(&format!("http://{}", server.addr()))?;
    let mut load = Load::steady(PLAYERS, SETTLE + MEASURE);
    load.ramp = Duration::from_secs(5);
    let measured_from = load.ramp + SETTLE;
    let options = Options::new(Address::tcp(server.addr().to_string()), load);
    let swarm = Swarm::new(options, grants, |_| Box::new(arena::BotPlayer::new(PLAYERS)))?;
    let mut before = None;
    let mut after = None;
    let summary = swarm.run(|progress| {
        if progress.elapsed >= measured_from && before.is_none() {
            before = snapshot(&server).ok();
        }
        if before.is_some() {
            after = snapshot(&server).ok();
        }
    })?;
    let (before, after) = (before.context("no figures")?, after.context("no figures")?);
    let folder = folder_of(server.pid());
    drop(server);
    let stored = std::fs::metadata(folder.join("local.store")).map_or(0, |file| file.len());
    let _ = std::fs::remove_dir_all(&folder);
    let span = (after.at - before.at).as_secs_f64();
    let share = (after.cpu - before.cpu).as_secs_f64() / span;
    let steps = after.steps - before.steps;
    let (late, skipped) = (after.late - before.late, after.skipped - before.skipped);
    let bytes = (after.bytes_out - before.bytes_out) as f64 / span / f64::from(PLAYERS);
    let per_step = bytes / f64::from(STEPS_PER_SECOND);
    let bare = reference(per_step as usize)?;

    println!("{summary}\n");
    println!("{PLAYERS} bots in one arena, {span:.0} s measured, server pinned to one core\n");
    println!("steps run                       {steps:>10}");
    println!("steps more than one step late   {late:>10}");
    println!("steps skipped                   {skipped:>10}");
    println!("a step takes                    {:>10.2} ms", after.step_ms);
    println!("share of a core, all in all     {:>10.1} %", share * 100.0);
    println!("bare writes of the same bytes   {:>10.1} %", bare * 100.0);
    println!("ratio to the bare writes        {:>10.2}", share / bare);
    println!("size of the store at the end    {:>10.1} MiB", stored as f64 / f64::from(1 << 20));
    println!("received by each bot            {:>10.0} B/s, {per_step:.0} B a step", bytes);
    let met = summary.passed() && late == 0 && skipped == 0;
    println!(
        "\nno step more than one step late, no wrong answer, no lost session: {}",
        goal(met, late + skipped)
    );
    Ok(met)
}

fn goal(met: bool, steps: u64) -> String {
    if met { "met".to_owned() } else { format!("missed by {steps} steps, or by the bots' verdict") }
}

/// The server's figures at one moment.
struct Snapshot {
    at: Instant,
    cpu: Duration,
    steps: u64,
    late: u64,
    skipped: u64,
    step_ms: f64,
    bytes_out: u64,
}

fn snapshot(server: &Child) -> anyhow::Result<Snapshot> {
    let mut stream = TcpStream::connect(server.addr())?;
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    stream.write_all(
        b"GET /console/state.json HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n",
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let body = answer.split_once("\r\n\r\n").context("no HTTP answer")?.1;
    let state: serde_json::Value = serde_json::from_str(body)?;
    let tables = state["tables"].as_array().context("no tables")?;
    let rows = |title: &str| -> Vec<serde_json::Value> {
        let table = tables.iter().find(|table| table["title"] == title);
        table.and_then(|table| table["rows"].as_array()).cloned().unwrap_or_default()
    };
    let scenes = rows("Scenes");
    ensure!(scenes.len() == 1, "{} arenas are open instead of one", scenes.len());
    let number = |column: usize| scenes[0][column].as_f64().unwrap_or(0.0);
    let gate = rows("Gate");
    let bytes_out = gate.iter().find(|row| row[0] == "bytes out").context("no gate figures")?;
    Ok(Snapshot {
        at: Instant::now(),
        cpu: server.cpu()?,
        steps: number(3) as u64,
        skipped: number(4) as u64,
        late: number(5) as u64,
        step_ms: number(7),
        bytes_out: bytes_out[1].as_u64().unwrap_or(0),
    })
}

/// `bench child-arena`: the sample as its users run it.
///
/// # Errors
///
/// It could not be started.
pub fn child() -> anyhow::Result<()> {
    enter_child()?;
    let app = arena::app();
    let folder = folder_of(std::process::id());
    let settings = [
        "processes.local.listen.clients=\"127.0.0.1:0\"".to_owned(),
        format!("data={:?}", folder.display().to_string()),
    ];
    let config = Config::load(None, &settings, &app.role_names())?;
    let process = config.choose(None).map_err(anyhow::Error::msg)?;
    let keys = Keys::kept(&folder, &mut Random::from_os())?;
    let running = Running::start(&app, &config.cluster, process, &keys)?;
    println!("port {}", running.addresses()[0].port());
    loop {
        std::thread::park();
    }
}

/// Where the server of that process id keeps what its players own. The parent removes it.
fn folder_of(pid: u32) -> PathBuf {
    std::env::temp_dir().join(format!("mainstay-bench-{pid}"))
}

/// The share of a core that bare writes of `bytes` to each of the connections take, 20 times a
/// second.
fn reference(bytes: usize) -> anyhow::Result<f64> {
    let child = spawn_child(&["child-broadcast", &bytes.to_string()], 0)?;
    let mut streams = Vec::new();
    for _ in 0..PLAYERS {
        let stream = TcpStream::connect(child.addr())?;
        stream.set_nonblocking(true)?;
        streams.push(stream);
    }
    let mut scratch = vec![0; 64 * 1024];
    let mut drain = |span: Duration| {
        let end = Instant::now() + span;
        while Instant::now() < end {
            for stream in &mut streams {
                // Nothing to read yet is no fault.
                let _ = stream.read(&mut scratch);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    drain(Duration::from_secs(1));
    let (start, cpu) = (Instant::now(), child.cpu()?);
    drain(Duration::from_secs(5));
    Ok((child.cpu()? - cpu).as_secs_f64() / start.elapsed().as_secs_f64())
}

/// `bench child-broadcast BYTES`: the bare writes.
///
/// # Errors
///
/// A connection breaks.
pub fn child_broadcast(bytes: usize) -> anyhow::Result<()> {
    enter_child()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("port {}", listener.local_addr()?.port());
    let mut streams = Vec::new();
    for _ in 0..PLAYERS {
        let (stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        streams.push(stream);
    }
    let period = Duration::from_secs(1) / STEPS_PER_SECOND;
    let body = vec![7; bytes.max(1)];
    let mut next = Instant::now();
    loop {
        for stream in &mut streams {
            stream.write_all(&body)?;
        }
        next += period;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}
