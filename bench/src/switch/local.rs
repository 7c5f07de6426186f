//! A gate and two nodes that reach each other over TCP, on a store in a file: what a client waits for while a
//! stream of its is switched from one node to the other, and while its avatar moves there.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use mainstay::client::{Address, Options, encode_args};
use mainstay::config::{Config, Vault};
use mainstay::env::Random;
use mainstay::prelude::*;
use mainstay::{App, Running, proto};

use super::Line;
use super::ping::{Ping, Question, run_for, run_until};

/// Clients that are watched, and others that only play.
const WATCHED: usize = 8;
const OTHERS: u64 = 100;
const SWITCHES: usize = 400;
const MOVES: usize = 300;
const AVATAR_BYTES: usize = 4 * 1024;
const SWITCH_GOAL_MS: f64 = 50.0;
const MOVE_GOAL_MS: f64 = 250.0;

/// A player's avatar of 4 KiB.
#[entity(document)]
#[derive(Default, Document)]
pub struct Hero {
    #[persist]
    belongings: Vec<u8>,
    #[persist]
    steps: u64,
    #[persist]
    moves: u64,
}

#[rpc]
impl Hero {
    /// Gives how often it has moved.
    #[request(client)]
    fn step(&mut self, _cx: &mut Cx<Self>) -> u64 {
        if self.belongings.is_empty() {
            self.belongings = vec![0x5a; AVATAR_BYTES];
        }
        self.steps += 1;
        self.moves
    }

    /// Leads the client's stream `table` to one node or the other.
    #[request(client)]
    fn sit(&mut self, cx: &mut Cx<Self>, left: bool) -> bool {
        let Caller::Client(peer) = cx.caller() else { return false };
        let done = match left {
            true => cx.bind(&peer, "table", Ref::<Left>::keyed(cx.key())),
            false => cx.bind(&peer, "table", Ref::<Right>::keyed(cx.key())),
        };
        done.is_ok()
    }

    #[hook]
    fn moved(&mut self, _cx: &mut Cx<Self>) {
        self.moves += 1;
    }
}

/// What a stream leads to on the one node.
#[entity]
#[derive(Default)]
pub struct Left;

#[rpc]
impl Left {
    #[request(client)]
    fn ask(&mut self) -> bool {
        true
    }
}

/// And on the other.
#[entity]
#[derive(Default)]
pub struct Right;

#[rpc]
impl Right {
    #[request(client)]
    fn ask(&mut self) -> bool {
        false
    }
}

/// What runs, all in this process.
struct Rig {
    gate: Running,
    nodes: Vec<Running>,
    folder: PathBuf,
}

impl Rig {
    fn start() -> anyhow::Result<Rig> {
        let name = format!("mainstay-bench-switch-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder)?;
        let file = folder.join("cluster.json");
        std::fs::write(&file, cluster_file(&folder))?;
        let app = App::new("switch").entity::<Hero>().entity::<Left>().entity::<Right>();
        let app = app.agent::<Hero>("hero");
        let config = Config::load(Some(&file), &[], &app.role_names())?;
        let keys = config.keys.resolve(&Vault::system(), &config.data, &mut Random::from_os());
        let keys = keys.map_err(|problems| anyhow!("{problems:?}"))?;
        let start = |name: &str| {
            let process = config.choose(Some(name)).map_err(anyhow::Error::msg)?;
            anyhow::Ok(Running::start(&app, &config.cluster, process, &keys)?)
        };
        let nodes = vec![start("left")?, start("right")?];
        Ok(Rig { gate: start("gate")?, nodes, folder })
    }

    fn client(&self, account: u64, question: Question) -> Ping {
        let address = Address::tcp(self.gate.addresses()[0].to_string());
        let grant = self.gate.ticket(AccountId(account), "bench", Duration::from_secs(3_600));
        Ping::new(Options::new(address), grant, question)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn cluster_file(folder: &Path) -> String {
    let store = folder.join("game.store").display().to_string();
    let node = |name: &str| {
        format!(
            r#""{name}": {{"roles": ["{name}"], "workers": 1, "listen": {{"mesh": "127.0.0.1:0"}}}},"#
        )
    };
    format!(
        r#"{{
            "cluster": "switch", "coordinator": {{"embedded": "coordinator"}}, "store": {{"sqlite": {store:?}}},
            "roles": {{
                "left": {{"entities": ["hero", "left"], "sessions": true}},
                "right": {{"entities": ["hero", "right"], "sessions": true}},
            }},
            "processes": {{
                "gate": {{"roles": ["gate"], "listen": {{"clients": "127.0.0.1:0", "mesh": "127.0.0.1:0"}}}},
                {} {}
            }},
        }}"#,
        node("left"),
        node("right"),
    )
}

/// Two durable writes of an avatar's size, one after the other: what a move needs of the disk.
fn two_writes(folder: &Path) -> anyhow::Result<Vec<Duration>> {
    use std::io::Write as _;
    let mut file = std::fs::File::create(folder.join("reference"))?;
    let mut waits = Vec::new();
    for _ in 0..100 {
        let begun = Instant::now();
        for _ in 0..2 {
            file.write_all(&[0x5a; AVATAR_BYTES])?;
            file.sync_data()?;
        }
        waits.push(begun.elapsed());
    }
    Ok(waits)
}

/// Longest waits of the watched while nothing happens, each over as long as a change is watched.
fn calm(pings: &mut [Ping]) -> anyhow::Result<Vec<Duration>> {
    let mut waits = Vec::new();
    for _ in 0..50 {
        pings.iter_mut().for_each(|ping| {
            ping.take_worst();
        });
        run_for(pings, Duration::from_millis(40))?;
        waits.extend(pings[..WATCHED].iter_mut().map(Ping::take_worst));
    }
    Ok(waits)
}

/// # Errors
///
/// See [`super::run`].
pub fn run() -> anyhow::Result<Vec<Line>> {
    let rig = Rig::start()?;
    println!(
        "a gate and two nodes in one process, {WATCHED} clients watched, {OTHERS} others with 20 requests a second"
    );
    let question = |stream, method, pause| Question {
        stream,
        method,
        body: encode_args(&()),
        pause: Duration::from_millis(pause),
    };
    let other = |account: u64| rig.client(1_000 + account, question("hero", "step", 50));
    let watched = |method: &'static str, stream| {
        (0..WATCHED as u64).map(move |account| (account, question(stream, method, 1)))
    };
    let sitting = watched("ask", "table").map(|(account, asks)| rig.client(account, asks));
    let mut pings: Vec<Ping> = sitting.chain((0..OTHERS).map(other)).collect();
    let sits = |pings: &mut [Ping], at: usize, left: bool| -> anyhow::Result<()> {
        pings[at].order("hero", "sit", &encode_args(&(left,)))
    };
    // Until the first can be asked for a seat.
    run_until(&mut pings, "the others are in", |all| all[WATCHED..].iter().all(Ping::is_in))?;
    for at in 0..WATCHED {
        run_until(&mut pings, "a seat", |all| sits(all, at, true).is_ok())?;
    }
    run_until(&mut pings, "all sit", |all| all.iter().all(Ping::is_in))?;
    let mut reference = calm(&mut pings)?;
    let mut waits = Vec::new();
    for switch in 0..SWITCHES {
        let (at, left) = (switch % WATCHED, (switch / WATCHED) % 2 == 1);
        pings[at].take_worst();
        sits(&mut pings, at, left)?;
        let wanted = proto::encode(&left);
        run_until(&mut pings, "a switch", |all| all[at].answer() == wanted)?;
        waits.push(pings[at].take_worst());
    }
    let switch = Line::waits(
        "binding switch between two nodes, the longest time without an answer, p99",
        "without a switch",
        (&mut reference, &mut waits),
        SWITCH_GOAL_MS,
    );
    let moving = watched("step", "hero").map(|(account, asks)| rig.client(account + 100, asks));
    pings.splice(..WATCHED, moving).for_each(drop);
    run_until(&mut pings, "all are in", |all| all.iter().all(Ping::is_in))?;
    let mut waits = Vec::new();
    let mut to = [0; WATCHED];
    let first = rig.nodes[0].node().context("a node")?;
    while waits.len() < MOVES {
        let at = waits.len() % WATCHED;
        to[at] = 1 - to[at];
        let target = rig.nodes[to[at]].node().context("a node")?.incarnation();
        let before = pings[at].answer().to_vec();
        pings[at].take_worst();
        let id = Ref::<Hero>::keyed(at as u64 + 100).id();
        let begun = Instant::now();
        first.move_entity(id, target);
        // One that is there already does not move, nor does one that came just now.
        run_until(&mut pings, "a move", |all| {
            all[at].answer() != before || begun.elapsed() > Duration::from_secs(2)
        })?;
        if pings[at].answer() != before {
            waits.push(pings[at].take_worst());
        }
    }
    let mut reference = two_writes(&rig.folder)?;
    let moved = Line::waits(
        "an avatar of 4 KiB moves to the other node, the longest time without an answer, p99",
        "two durable writes of it",
        (&mut reference, &mut waits),
        MOVE_GOAL_MS,
    );
    pings.clear();
    Ok(vec![switch, moved])
}
