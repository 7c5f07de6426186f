//! The whole way of a message: client, gate, link, entity on a node, and back.
//!
//! Run by `bench gate` with the raw echo in the same rounds. A gate process and a node process
//! linked over TCP, and both in one process linked by a pipe, share one CPU; the load generator
//! has the other. Also: WebSocket next to plain TCP, the delay that is added, memory of idle
//! sessions, and a storm of connections next to bare accepting.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use cluster::{Cluster, Directory, NodeInfo, SESSION_KIND};
use env::{Clock, Random, WallTime};
use gate::{Options, Rate, Server, Setup};
use macros::{Message, entity, rpc};
use node::rt::Cx;
use node::session::Binding;
use node::{Node, NodeApp, NodeEnv, NodeHandle, NodeOptions};
use proto::frame::{DownFrame, PREFACE, StreamUp, UpFrame, VERSION, head, put_frame, split_frame};
use proto::link::{LinkFrame, Slot, WorkerId};
use proto::ticket::{Claims, Grant, TicketKeys, login_proof};
use proto::{AccountId, EntityId, Incarnation, KindId, MethodId};
use transport::Board;
use transport::ws::{self, Decoder, Piece, Role, UpgradeOptions};

use crate::raw::{
    BODY_BYTES, CLIENT_CPU, Child, Echo, Load, Outcome, Protocol, SERVER_CPU, enter_child, hold,
    pin, run_load, spawn_child,
};

const GATE: Incarnation = Incarnation(11);

/// Gives the node its incarnation, so that the gate's process knows it too.
const NODE_SEED: u64 = 22;

fn node_id() -> Incarnation {
    Incarnation(Random::from_seed(NODE_SEED).u64() | 1)
}
pub(crate) const ECHO: MethodId = MethodId::of("echo");

const ROUNDS: usize = 5;
const SHAPES: [(usize, usize); 4] = [(100, 1), (1000, 1), (100, 16), (1000, 16)];
const IDLE_SESSIONS: usize = 9_000;

/// How much more than the raw echo a message may cost, by window.
const COST_GOALS: [(usize, f64); 2] = [(1, 1.3), (16, 2.0)];
const WEB_GOAL: f64 = 1.15;
const IDLE_BYTES_GOAL: f64 = 2048.0;
const STORM_GOAL: f64 = 2.0;
const DELAY_GOAL_US: f64 = 1000.0;

/// `bench gate`.
///
/// # Errors
///
/// A server fails or answers wrongly.
pub fn run() -> anyhow::Result<bool> {
    let servers = start_servers()?;
    let mut met = echo(&servers, &SHAPES)?;
    met &= delay(&servers)?;
    met &= storm(&servers)?;
    drop(servers);
    met &= idle()?;
    Ok(met)
}

/// `bench gate CONNECTIONS WINDOW`: the echo alone, in one shape.
///
/// # Errors
///
/// See [`run`].
pub fn run_shape(connections: &str, window: &str) -> anyhow::Result<bool> {
    let shape = (connections.parse()?, window.parse()?);
    ensure!(COST_GOALS.iter().any(|(of, _)| *of == shape.1), "there is no goal for this window");
    echo(&start_servers()?, &[shape])
}

fn start_servers() -> anyhow::Result<Servers> {
    let raw = spawn_child(&["child-raw-echo", "0"], SERVER_CPU)?;
    let node = spawn_child(&["child-node"], SERVER_CPU)?;
    let gate = spawn_child(&["child-gate", &node.addr().to_string()], SERVER_CPU)?;
    let both = spawn_child(&["child-gate-and-node"], SERVER_CPU)?;
    pin(CLIENT_CPU)?;
    let servers = Servers { raw, gate, node, both };
    println!(
        "one core for the servers, one for the load; {ROUNDS} rounds, median; {}",
        load_average()
    );
    Ok(servers)
}

/// `bench gate CONNECTIONS WINDOW SECONDS`: plain load on a gate and a node, for a profiler.
///
/// # Errors
///
/// See [`run`].
pub fn run_load_only(connections: &str, window: &str, seconds: &str) -> anyhow::Result<bool> {
    let node = spawn_child(&["child-node"], SERVER_CPU)?;
    let gate = spawn_child(&["child-gate", &node.addr().to_string()], SERVER_CPU)?;
    println!("gate is process {}, node is process {}", gate.pid(), node.pid());
    pin(CLIENT_CPU)?;
    let load = Load {
        addr: gate.addr(),
        connections: connections.parse()?,
        window: window.parse()?,
        time: Duration::from_secs(seconds.parse()?),
        ..Load::default()
    };
    let gate_cpu = gate.cpu()?;
    let outcome = run_load(
        &load,
        |index| Player::new(index as u64, false),
        || Ok(gate.cpu()? + node.cpu()?),
    )?;
    let share = (gate.cpu()? - gate_cpu).as_secs_f64() * 1e6 / outcome.messages as f64;
    let both = outcome.server_seconds_per_million();
    println!("{both:.3} s/M, of which the gate with its logins about {share:.3}");
    Ok(true)
}

struct Servers {
    raw: Child,
    gate: Child,
    node: Child,
    both: Child,
}

impl Servers {
    /// CPU time of gate and node together.
    fn pair_cpu(&self) -> anyhow::Result<Duration> {
        Ok(self.gate.cpu()? + self.node.cpu()?)
    }
}

// ---- echo ----

const WAYS: [&str; 4] = ["raw echo", "gate + node, tcp", "gate + node, ws", "one process, tcp"];

fn echo(servers: &Servers, shapes: &[(usize, usize)]) -> anyhow::Result<bool> {
    let mut met = true;
    let mut accounts = 0;
    for &(connections, window) in shapes {
        let mut rounds: [Vec<Outcome>; WAYS.len()] = Default::default();
        let mut shares = Vec::new();
        for _ in 0..ROUNDS {
            for (way, rounds) in rounds.iter_mut().enumerate() {
                accounts += 10_000;
                let shares = &mut shares;
                rounds.push(echo_once(servers, way, connections, window, accounts, shares)?);
            }
        }
        println!("\n{connections} connections, {window} in flight");
        println!(
            "{:>20} {:>9} {:>8} {:>9} {:>9} {:>10}",
            "", "s/M", "of raw", "p50 us", "p99 us", "msg/s"
        );
        let costs: Vec<f64> =
            rounds.iter().map(|rounds| median(rounds).server_seconds_per_million()).collect();
        for (way, rounds) in WAYS.iter().zip(&rounds) {
            let outcome = median(rounds);
            println!(
                "{way:>20} {:>9.3} {:>8.2} {:>9.0} {:>9.0} {:>10.0}",
                outcome.server_seconds_per_million(),
                outcome.server_seconds_per_million() / costs[0],
                outcome.latency_us(0.5),
                outcome.latency_us(0.99),
                outcome.messages_per_second(),
            );
        }
        shares.sort_by(f64::total_cmp);
        println!("    of gate + node the node has {:.3} s/M", shares[shares.len() / 2]);
        let (_, goal) = COST_GOALS.into_iter().find(|(of, _)| *of == window).expect("a goal");
        met &= judge("gate + node over the raw echo", costs[1] / costs[0], goal);
        met &= judge("one process over the raw echo", costs[3] / costs[0], goal);
        met &= judge("WebSocket over plain", costs[2] / costs[1], WEB_GOAL);
    }
    Ok(met)
}

fn echo_once(
    servers: &Servers,
    way: usize,
    connections: usize,
    window: usize,
    first_account: u64,
    shares: &mut Vec<f64>,
) -> anyhow::Result<Outcome> {
    let time = Duration::from_millis(1_500);
    let load = Load { connections, window, time, ..Load::default() };
    let player = |is_web| move |index| Player::new(first_account + index as u64, is_web);
    let gate = servers.gate.addr();
    match way {
        0 => {
            let load = Load { addr: servers.raw.addr(), ..load };
            run_load(&load, |_| Echo::default(), || servers.raw.cpu())
        }
        1 => {
            let mut node = Vec::new();
            let outcome = run_load(&Load { addr: gate, ..load }, player(false), || {
                node.push(servers.node.cpu()?);
                servers.pair_cpu()
            })?;
            let share = (node[1] - node[0]).as_secs_f64() * 1e6 / outcome.messages as f64;
            shares.push(share);
            Ok(outcome)
        }
        2 => run_load(&Load { addr: gate, ..load }, player(true), || servers.pair_cpu()),
        _ => {
            let load = Load { addr: servers.both.addr(), ..load };
            run_load(&load, player(false), || servers.both.cpu())
        }
    }
}

/// What gate, link and node together add to the median round trip of the raw echo: of one client
/// alone, and of a hundred that keep a core busy.
fn delay(servers: &Servers) -> anyhow::Result<bool> {
    let mut met = true;
    let mut accounts = 100_000_000;
    println!("\nadded median delay");
    for connections in [1, 100] {
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            accounts += 10_000;
            let once = |way| {
                echo_once(servers, way, connections, 1, accounts, &mut Vec::new())
                    .map(|outcome| outcome.latency_us(0.5))
            };
            let (raw, ours) = (once(0)?, once(1)?);
            rounds.push((ours - raw, raw, ours));
        }
        rounds.sort_by(|one, two| one.0.total_cmp(&two.0));
        let (added, raw, ours) = rounds[rounds.len() / 2];
        println!("    {connections} connections: raw {raw:.0} us, gate + node {ours:.0} us");
        met &= judge("microseconds added", added, DELAY_GOAL_US);
    }
    Ok(met)
}

/// The round of median cost.
fn median(rounds: &[Outcome]) -> &Outcome {
    let mut sorted: Vec<&Outcome> = rounds.iter().collect();
    let cost = |outcome: &&Outcome| outcome.server_seconds_per_million();
    sorted.sort_by(|one, two| cost(one).total_cmp(&cost(two)));
    sorted[sorted.len() / 2]
}

/// Prints whether a goal was met.
pub fn judge(what: &str, value: f64, goal: f64) -> bool {
    if value <= goal {
        println!("    met: {what} {value:.2}, goal {goal}");
        true
    } else {
        println!(
            "    MISSED by {:.0} %: {what} {value:.2}, goal {goal}",
            (value / goal - 1.0) * 100.0
        );
        false
    }
}

/// How busy the machine is, for the record.
pub fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    format!("load average {}", text.split(' ').next().unwrap_or("unknown"))
}

// ---- the gate's own code ----

/// `bench gate-core`: what the gate itself adds to a message, without sockets: the best of many
/// short runs.
///
/// # Errors
///
/// None, but for a login that does not work.
pub fn run_core() -> anyhow::Result<bool> {
    let (now, wall) = (env::Instant::from_nanos(1 << 40), Clock::system().wall());
    let me = WorkerId { node: GATE, worker: 1 };
    let owner = WorkerId { node: GATE, worker: 0 };
    let links = mesh::Options { workers: 2, ..mesh::Options::default() };
    let mut info = NodeInfo::new("node", GATE);
    info.kinds = vec![SESSION_KIND];
    let fast = Rate::new(100_000_000, 100_000_000);
    let mut gate = gate::Gate::new(
        now,
        gate::Parts {
            options: Options { messages: fast, bytes: fast, ..Options::default() },
            keys: keys(),
            directory: Arc::new(Directory::new(1, [Arc::new(info)])),
            random: Random::from_os(),
            mesh: mesh::Mesh::new(me, "gate", links, mesh::Key::none(), Random::from_os()),
            policies: Vec::new(),
        },
    );
    let mut player = Player::new(1, false);
    let conn = gate.handle_open(now, (Ipv4Addr::LOCALHOST, 1).into())?;
    let mut up = Vec::new();
    put_hello(&mut up);
    gate.handle_bytes(now, wall, conn, &up);
    up.clear();
    let challenge = gate.take_output(conn);
    player.take(&challenge, &mut up)?;
    gate.handle_bytes(now, wall, conn, &up);
    let mut link = |frame: &LinkFrame<'_>| {
        let mut payload = Vec::new();
        frame.encode(1, &mut payload);
        gate.handle_link(now, wall, owner, &payload);
    };
    let (session, account) = (player.grant.session, AccountId(1));
    let (generation, resumed, resume_window_ms) = (1, false, 60_000);
    link(&LinkFrame::Welcome { conn, session, account, generation, resumed, resume_window_ms });
    let (slot, kind, name) = (Slot { index: 300, generation: 5 }, KindId::of("echo"), "echo");
    let announce = true;
    link(&LinkFrame::Route { conn, stream: 1, owner, slot, kind, epoch: 1, name, announce });
    let bound = gate.take_output(conn);
    player.take(&bound, &mut Vec::new())?;
    up.clear();
    (0..16).for_each(|_| player.request(&mut up));
    let mut reply = Vec::new();
    let (status, body) = (proto::frame::Status::Ok, &[7; BODY_BYTES][..]);
    DownFrame::Reply { stream: 1, number: 200, ack: 300, request: 300, status, body }
        .encode(&mut reply);
    let mut down = Vec::new();
    LinkFrame::Down { conn, frame: &reply }.encode(1, &mut down);
    while gate.poll_dirty().is_some() {}
    let best_up = best_nanos(|| {
        gate.handle_bytes(now, wall, conn, &up);
        if let Some((_, batch)) = gate.mesh().poll_local() {
            gate.mesh().recycle(batch);
        }
    });
    let best_down = best_nanos(|| {
        (0..16).for_each(|_| gate.handle_link(now, wall, owner, &down));
        while let Some(conn) = gate.poll_dirty() {
            let output = gate.take_output(conn);
            gate.recycle(output);
        }
    });
    println!("the gate's own code: {best_up:.0} ns a frame up, {best_down:.0} ns a frame down");
    Ok(true)
}

/// Nanoseconds for each of the 16 frames that one call handles, in the best of many runs.
fn best_nanos(mut call: impl FnMut()) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..200 {
        let start = Instant::now();
        (0..500).for_each(|_| call());
        best = best.min(start.elapsed().as_nanos() as f64 / (500.0 * 16.0));
    }
    best
}

// ---- storm ----

/// Connects thousands and has each answered once: by the raw echo, by the gate's challenge.
fn storm(servers: &Servers) -> anyhow::Result<bool> {
    let mut ratios = Vec::new();
    let mut shown = Vec::new();
    for _ in 0..3 {
        let bare = storm_once(servers.raw.addr(), OneEcho::default, || servers.raw.cpu())?;
        let ours = storm_once(servers.gate.addr(), FirstAnswer::default, || servers.gate.cpu())?;
        ratios.push(ours.0.as_secs_f64() / bare.0.as_secs_f64());
        shown.push((ours, bare));
    }
    ratios.sort_by(f64::total_cmp);
    let ((wall, cpu), (bare_wall, bare_cpu)) = shown[1];
    println!("\n{IDLE_SESSIONS} connections, each answered once");
    println!("    raw  {bare_wall:.2?}, {bare_cpu:.2?} of server CPU");
    println!("    gate {wall:.2?}, {cpu:.2?} of server CPU (challenges made)");
    Ok(judge("time of the gate over raw accepting", ratios[1], STORM_GOAL))
}

fn storm_once<P: Protocol>(
    addr: SocketAddr,
    mut make: impl FnMut() -> P,
    cpu: impl Fn() -> anyhow::Result<Duration>,
) -> anyhow::Result<(Duration, Duration)> {
    let start = cpu()?;
    let connections = IDLE_SESSIONS;
    let load = Load { addr, connections, window: 0, warmup: Duration::ZERO, ..Load::default() };
    let held = hold(&load, |_| make())?;
    Ok((held.elapsed(), cpu()? - start))
}

/// One request to the raw echo.
#[derive(Default)]
struct OneEcho {
    echo: Echo,
    is_answered: bool,
}

impl Protocol for OneEcho {
    fn start(&mut self, out: &mut Vec<u8>) {
        self.echo.request(out);
    }

    fn receive(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> anyhow::Result<usize> {
        self.is_answered |= self.echo.receive(bytes, out)? > 0;
        Ok(0)
    }

    fn is_ready(&self) -> bool {
        self.is_answered
    }

    fn request(&mut self, _: &mut Vec<u8>) {}
}

/// A hello, answered by the challenge.
#[derive(Default)]
struct FirstAnswer {
    is_answered: bool,
}

impl Protocol for FirstAnswer {
    fn start(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&PREFACE);
        put_hello(out);
    }

    fn receive(&mut self, _: &[u8], _: &mut Vec<u8>) -> anyhow::Result<usize> {
        self.is_answered = true;
        Ok(0)
    }

    fn is_ready(&self) -> bool {
        self.is_answered
    }

    fn request(&mut self, _: &mut Vec<u8>) {}
}

// ---- idle sessions ----

/// Memory of sessions that do nothing.
fn idle() -> anyhow::Result<bool> {
    let node = spawn_child(&["child-node"], SERVER_CPU)?;
    let gate = spawn_child(&["child-gate", &node.addr().to_string()], SERVER_CPU)?;
    let addr = gate.addr();
    // The first thousand pay for what all share.
    let settle = || std::thread::sleep(Duration::from_secs(1));
    let load = |connections| Load { addr, connections, ..Load::default() };
    let first = hold(&load(1_000), |index| Player::new(index as u64, false))?;
    settle();
    let before = [resident(gate.pid())?, resident(node.pid())?];
    let rest = hold(&load(IDLE_SESSIONS), |index| Player::new(100_000 + index as u64, false))?;
    settle();
    let after = [resident(gate.pid())?, resident(node.pid())?];
    let each = |at: usize| (after[at] as f64 - before[at] as f64) / IDLE_SESSIONS as f64;
    ensure!(rest.len() == IDLE_SESSIONS, "some are missing");
    println!("\n{IDLE_SESSIONS} idle sessions, logged in within {:.2?}", rest.elapsed());
    println!("    gate {:.0} bytes each, node {:.0} bytes each", each(0), each(1));
    drop((first, rest));
    Ok(judge("bytes of user memory of an idle session", each(0) + each(1), IDLE_BYTES_GOAL))
}

/// Resident memory of a process, in bytes.
fn resident(pid: u32) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm"))?;
    let pages: u64 = text.split(' ').nth(1).context("statm is short")?.parse()?;
    Ok(pages * rustix::param::page_size() as u64)
}

// ---- the client ----

/// A client that logs in and calls `echo` of its entity.
struct Player {
    grant: Grant,
    is_ready: bool,
    stream: u32,
    /// Number of the last request, and of the last frame that came.
    sent: u64,
    seen: u64,
    /// Requests answered so far.
    answered: u64,
    input: Vec<u8>,
    /// Present for a WebSocket.
    web: Option<Web>,
    body: [u8; BODY_BYTES],
}

struct Web {
    head: Option<Vec<u8>>,
    decoder: Decoder,
}

const NONCE: [u8; 16] = [7; 16];
/// A real client's is random; its value costs nothing.
const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];

impl Player {
    fn new(account: u64, is_web: bool) -> Self {
        let wall = Clock::system().wall();
        let claims = Claims {
            account: AccountId(account),
            level: 0,
            name: "bench".into(),
            issued: wall,
            expires: WallTime(wall.0 + 600_000),
        };
        let web = || Web { head: Some(Vec::new()), decoder: Decoder::new(Role::Client, 1 << 20) };
        Player {
            grant: keys().issue(&mut Random::from_os(), claims),
            is_ready: false,
            stream: 0,
            sent: 0,
            seen: 0,
            answered: 0,
            input: Vec::new(),
            web: is_web.then(web),
            body: body(),
        }
    }

    fn put(&self, out: &mut Vec<u8>, frame: &UpFrame<'_>) {
        if self.web.is_none() {
            put_frame(out, |out| frame.encode(out));
            return;
        }
        let mut bytes = Vec::with_capacity(128);
        put_frame(&mut bytes, |out| frame.encode(out));
        ws::put_masked(out, &bytes, MASK);
    }

    /// Handles all whole frames of `bytes`; gives how many bytes they took.
    fn take(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> anyhow::Result<usize> {
        let mut at = 0;
        while let Some((payload, used)) = split_frame(&bytes[at..], 1 << 20)? {
            at += used;
            self.handle(payload, out)?;
        }
        Ok(at)
    }

    fn handle(&mut self, payload: &[u8], out: &mut Vec<u8>) -> anyhow::Result<()> {
        if payload[0] == head::REPLY {
            return self.handle_reply(payload);
        }
        match DownFrame::decode(payload)? {
            DownFrame::Challenge { nonce, .. } => {
                let proof = login_proof(&self.grant.secret, &nonce, &self.grant.ticket);
                self.put(out, &UpFrame::Login { ticket: &self.grant.ticket, proof });
            }
            DownFrame::Bound { stream, .. } => {
                self.stream = stream;
                self.is_ready = true;
            }
            DownFrame::Ping { token } => self.put(out, &UpFrame::Pong { token }),
            DownFrame::Welcome(_) | DownFrame::Pong { .. } | DownFrame::Ack { .. } => {}
            other => bail!("unexpected {other:?}"),
        }
        Ok(())
    }

    fn handle_reply(&mut self, payload: &[u8]) -> anyhow::Result<()> {
        let DownFrame::Reply { number, request, status, body, .. } = DownFrame::decode(payload)?
        else {
            bail!("not a reply");
        };
        self.answered += 1;
        self.seen = number;
        let is_right = request == self.answered && body == self.body;
        ensure!(is_right, "request {} was answered with {status:?} for {request}", self.answered);
        Ok(())
    }
}

/// The encoded arguments: an array of three large numbers, a middle and a small one.
pub(crate) fn body() -> [u8; BODY_BYTES] {
    let large = u64::MAX - 5;
    let body = proto::encode(&Moved { x: large, y: large, z: large, turn: 40_000, step: 7 });
    body.try_into().expect("three times nine, three, one and the head are 32 bytes")
}

fn keys() -> TicketKeys {
    TicketKeys::new(vec![(1, [9; 32])])
}

fn put_hello(out: &mut Vec<u8>) {
    let hello = UpFrame::Hello { version: VERSION, features: 0, interface: 0, agent: "bench" };
    put_frame(out, |out| hello.encode(out));
}

/// A player of the echo over plain TCP, for other benchmarks that want a gate at work.
pub fn player(account: u64) -> impl Protocol {
    Player::new(account, false)
}

impl Protocol for Player {
    fn start(&mut self, out: &mut Vec<u8>) {
        if self.web.is_some() {
            out.extend_from_slice(&ws::request("localhost", &UpgradeOptions::default(), NONCE));
            let hello =
                UpFrame::Hello { version: VERSION, features: 0, interface: 0, agent: "bench" };
            self.put(out, &hello);
        } else {
            out.extend_from_slice(&PREFACE);
            put_hello(out);
        }
    }

    fn receive(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> anyhow::Result<usize> {
        let before = self.answered;
        let mut input = std::mem::take(&mut self.input);
        if let Some(mut web) = self.web.take() {
            let result = web.read(bytes, &mut input);
            self.web = Some(web);
            result?;
        } else if input.is_empty() {
            let used = self.take(bytes, out)?;
            input.extend_from_slice(&bytes[used..]);
            self.input = input;
            return Ok((self.answered - before) as usize);
        } else {
            input.extend_from_slice(bytes);
        }
        let used = self.take(&input, out)?;
        input.drain(..used);
        self.input = input;
        Ok((self.answered - before) as usize)
    }

    fn is_ready(&self) -> bool {
        self.is_ready
    }

    fn request(&mut self, out: &mut Vec<u8>) {
        self.sent += 1;
        let frame = StreamUp::Request {
            number: self.sent,
            ack: self.seen,
            method: ECHO,
            deadline_ms: 0,
            body: &self.body,
        };
        self.put(out, &UpFrame::Stream { stream: self.stream, frame });
    }
}

impl Web {
    /// Appends the stream of frames in `bytes` to `input`.
    fn read(&mut self, bytes: &[u8], input: &mut Vec<u8>) -> anyhow::Result<()> {
        let mut bytes = bytes.to_vec();
        if let Some(mut head) = self.head.take() {
            head.extend_from_slice(&bytes);
            match ws::check_answer(&head, &UpgradeOptions::default(), NONCE)? {
                Some(used) => bytes = head.split_off(used),
                None => {
                    self.head = Some(head);
                    return Ok(());
                }
            }
        }
        let mut rest = &mut bytes[..];
        while let Some(piece) = self.decoder.next(&mut rest)? {
            if let Piece::Data(data) = piece {
                input.extend_from_slice(data);
            }
        }
        Ok(())
    }
}

// ---- the servers ----

/// The gate with limits that do not hold the load back but are looked at all the same.
fn setup(board: &Board, directory: Arc<Directory>) -> Setup {
    let mut setup = Setup::new("gate", GATE, keys());
    let fast = Rate::new(100_000_000, 100_000_000);
    setup.options = Options { messages: fast, bytes: fast, ..Options::default() };
    setup.board = board.clone();
    setup.directory = directory;
    setup
}

/// The directory of one node, reached at `mesh` or in this process.
fn directory(mesh: Option<SocketAddr>) -> Arc<Directory> {
    let mut info = NodeInfo::new("node", node_id());
    info.kinds = vec![SESSION_KIND];
    info.mesh = mesh.into_iter().collect();
    Arc::new(Directory::new(1, [Arc::new(info)]))
}

/// `bench child-gate NODE`: a gate linked to the node at that address.
///
/// # Errors
///
/// It cannot be started.
pub fn child_gate(node: &str) -> anyhow::Result<()> {
    enter_child()?;
    let node: SocketAddr = node.parse()?;
    let server = Server::start(setup(&Board::new(), directory(Some(node))))?;
    println!("port {}", server.addresses()[0].port());
    server.join()?;
    Ok(())
}

/// A gate before the node at that address, for other benchmarks.
pub fn start_gate(node: SocketAddr, life: Incarnation) -> anyhow::Result<Server> {
    let mut setup = setup(&Board::new(), directory(Some(node)));
    setup.incarnation = life;
    Ok(Server::start(setup)?)
}

/// `bench child-node`: the node behind it.
///
/// # Errors
///
/// It cannot be started.
pub fn child_node() -> anyhow::Result<()> {
    enter_child()?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let node = start_node(&Board::new(), Some(address))?;
    println!("port {}", node.mesh_addr().context("it listens")?.port());
    loop {
        std::thread::park();
    }
}

/// What a player might say 20 times a second: 32 bytes when encoded, and so are the arguments.
#[derive(Message)]
#[message(root = proto)]
struct Moved {
    x: u64,
    y: u64,
    z: u64,
    turn: u16,
    step: u8,
}

/// The entity that every player is bound to.
#[entity(root = node::rt)]
#[derive(Default)]
pub(crate) struct Echoer {}

#[rpc(root = node::rt)]
impl Echoer {
    #[request(client)]
    fn echo(&mut self, _: &mut Cx<Self>, x: u64, y: u64, z: u64, turn: u16, step: u8) -> Moved {
        Moved { x, y, z, turn, step }
    }
}

/// A node with one worker, as any game starts it.
fn start_node(board: &Board, mesh_listen: Option<SocketAddr>) -> anyhow::Result<NodeHandle> {
    let app = NodeApp::new().kind::<Echoer>().bindings(|login| {
        let target = EntityId::keyed(KindId::of("echoer"), login.account.0);
        Ok(vec![Binding { name: "echoer".into(), target }])
    });
    start_app(&app, board, mesh_listen)
}

/// A node with the kinds that `declare` adds, for other benchmarks.
pub(crate) fn start_scenes(
    board: &Board,
    declare: impl FnOnce(NodeApp) -> NodeApp,
) -> anyhow::Result<NodeHandle> {
    start_app(&declare(NodeApp::new()), board, None)
}

fn start_app(
    app: &NodeApp,
    board: &Board,
    mesh_listen: Option<SocketAddr>,
) -> anyhow::Result<NodeHandle> {
    let options = NodeOptions { workers: 1, mesh_listen, ..NodeOptions::new("node") };
    let env = NodeEnv {
        clock: Clock::system(),
        random: Random::from_seed(NODE_SEED),
        cluster: Cluster::embedded(cluster::Options::default()),
        board: board.clone(),
        mesh_key: mesh::Key::none(),
        store: None,
        stores: Vec::new(),
        metrics: env::metrics::Registry::new(),
        bus: None,
    };
    let handle = Node::start(app, options, env)?;
    ensure!(handle.incarnation() == node_id(), "the seed gives the node's incarnation");
    Ok(handle)
}

/// `bench child-gate-and-node`: both in one process.
///
/// # Errors
///
/// It cannot be started.
pub fn child_gate_and_node() -> anyhow::Result<()> {
    enter_child()?;
    let board = Board::new();
    let _node = start_node(&board, None)?;
    let server = Server::start(setup(&board, directory(None)))?;
    println!("port {}", server.addresses()[0].port());
    server.join()?;
    Ok(())
}
