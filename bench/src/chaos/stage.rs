//! The reference layout with players' trade as its game: each process in its own network, or all on the loopback.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use env::Random;
use reference::Servers;
use servers::{Etcd, Instance, Nats, Postgres, Redis};

use super::network::{self, Network, Place};
use super::plan::{ETCD, PROCESSES, SERVERS};
use crate::layout::{self, Layout, Plan};
use crate::traders::game;

/// The folder, beside the cluster file, with a file for each process that names its network.
const NETWORKS: &str = "networks";
/// Where the first gate takes in clients, unless all share the loopback with others.
const CLIENTS: u16 = 7_000;

/// What is played on.
pub struct Stage {
    // Dropped before its network.
    pub layout: Layout,
    pub network: Option<Network>,
}

impl Stage {
    /// Starts all, and waits until it is ready.
    pub fn start(cuts: bool) -> anyhow::Result<Stage> {
        let network = match cuts {
            true => Some(Network::join(PROCESSES.len(), SERVERS.len())?),
            false => None,
        };
        let folder = std::env::temp_dir().join(format!("mainstay-chaos-{}", std::process::id()));
        std::fs::create_dir_all(folder.join(NETWORKS))?;
        let servers = match cuts {
            true => start_servers(&folder)?,
            false => Servers::start()?,
        };
        let file = folder.join("cluster.json");
        std::fs::write(&file, cluster_file(&folder, &servers, cuts))?;
        for (at, name) in PROCESSES.iter().enumerate() {
            let Some(network) = &network else { break };
            let path = network.path(at);
            std::fs::write(folder.join(NETWORKS).join(name), path.display().to_string())?;
            let run = folder.join("run").join(format!("{name}.json"));
            network::relay(path, move || port_in(&run));
        }
        let layout =
            Layout::start_on(servers, file, Plan { game: GAME, settings: &[], arguments: &[] })?;
        Ok(Stage { layout, network })
    }

    /// A server by its place.
    pub fn server(&self, at: usize) -> &Instance {
        let servers = &self.layout.servers;
        match at {
            3 => &servers.nats,
            4 => &servers.postgres,
            5 => &servers.redis,
            member => &servers.etcd[member],
        }
    }
}

/// The name of the game for `bench child-layout`.
pub const GAME: &str = "chaos";

/// One of the processes of the layout, or their supervisor.
pub fn child(arguments: &[&str]) -> anyhow::Result<mainstay::Exit> {
    let after = |name: &str| {
        let at = arguments.iter().position(|word| *word == name)?;
        arguments.get(at + 1).copied()
    };
    if let (Some(name), Some(file)) = (after("--process"), after("--cluster")) {
        let folder = Path::new(file).parent().unwrap_or(Path::new("."));
        // Before anything of it runs: what it starts is where it is.
        if let Ok(path) = std::fs::read_to_string(folder.join(NETWORKS).join(name)) {
            network::enter(Path::new(&path))?;
        }
    }
    Ok(layout::child(game::spread_app(), arguments))
}

/// The port that a process is asked at.
fn port_in(run: &PathBuf) -> Option<u16> {
    let known: serde_json::Value = serde_json::from_slice(&std::fs::read(run).ok()?).ok()?;
    u16::try_from(known["port"].as_u64()?).ok()
}

/// Starts servers that can be reached over the bridge, each at its own address.
fn start_servers(folder: &Path) -> anyhow::Result<Servers> {
    let hint = "`cargo xtask setup` installs the servers";
    let members: Vec<Ipv4Addr> = (0..ETCD).map(|at| Place::Server(at).address()).collect();
    let trusting = folder.join("pg_hba.conf");
    std::fs::write(&trusting, "host all all 0.0.0.0/0 trust\n")?;
    let trusting = trusting.display().to_string();
    let settings = [("listen_addresses", "*"), ("hba_file", trusting.as_str())];
    Ok(Servers {
        etcd: Etcd::cluster_at(&members).context(hint)?,
        nats: Nats::start_open().context(hint)?,
        postgres: Postgres::start_with(&settings).context(hint)?,
        redis: Redis::start_with(&["--bind", "0.0.0.0", "--protected-mode", "no"]).context(hint)?,
    })
}

/// The sample's layout, where processes have addresses of their own, and the game is another one.
fn cluster_file(folder: &Path, servers: &Servers, cuts: bool) -> String {
    let at = |server: usize, url: String| match cuts {
        true => url.replace("127.0.0.1", &Place::Server(server).address().to_string()),
        false => url,
    };
    let etcd: Vec<String> =
        servers.etcd.iter().enumerate().map(|(member, etcd)| at(member, etcd.url())).collect();
    let (nats, redis) = (at(3, servers.nats.url()), at(5, servers.redis.url()));
    // Over the bridge as well as on the loopback.
    let postgres = at(4, servers.postgres.url()) + "?sslmode=disable";
    let key: String =
        Random::from_os().bytes::<32>().iter().map(|byte| format!("{byte:02x}")).collect();
    let mut processes = String::new();
    for (process, name) in PROCESSES.iter().enumerate() {
        let mesh = match cuts {
            true => Place::Process(process).address(),
            false => Ipv4Addr::LOCALHOST,
        };
        let (role, number) = name.split_once('-').expect("named so");
        let clients = match (role, cuts) {
            ("gate", true) => {
                let number: u16 = number.parse().expect("numbered");
                format!("\"clients\": \"127.0.0.1:{}\", ", CLIENTS + number)
            }
            ("gate", false) => "\"clients\": \"127.0.0.1:0\", ".to_owned(),
            _ => String::new(),
        };
        let workers = if role == "gate" { "" } else { "\"workers\": 1, " };
        let _ = writeln!(
            processes,
            "        {name:?}: {{\"roles\": [{role:?}], {workers}\"listen\": {{{clients}\"mesh\": \"{mesh}:0\"}}}},"
        );
    }
    format!(
        "{{
    \"cluster\": \"chaos\",
    \"data\": {folder:?},
    \"keys\": {{\"mesh\": {key:?}}},
    \"coordinator\": {{\"etcd\": {{\"endpoints\": {etcd:?}}}}},
    \"bus\": {{\"nats\": {{\"url\": {nats:?}}}}},
    \"store\": {{\"journal\": {{\"redis\": {redis:?}, \"target\": {{\"postgres\": {postgres:?}}}}}}},
    \"roles\": {{
        \"scene\": {{\"entities\": [\"stall\", \"parcels\"]}},
        \"service\": {{\"sessions\": true, \"entities\": [\"trader\"]}},
    }},
    \"processes\": {{
{processes}    }},
}}
"
    )
}
