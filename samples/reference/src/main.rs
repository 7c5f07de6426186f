//! The arena as it is played in earnest: three gates, three scene nodes and two service nodes on etcd,
//! NATS, PostgreSQL and Redis. It is the same game, by the same code, as the one-process demo.
//!
//! `cargo run --release -p reference` starts private servers in a temporary folder, writes the cluster
//! file and looks after the eight processes until Ctrl-C. `mainstay status`, `drain`, `restart` and the
//! rest work on the cluster file that it names.

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Parser;
use mainstay::Exit;
use servers::{Etcd, Nats, Postgres, Redis};

const CLUSTER: &str = include_str!("../cluster.json");
/// What begins the list of places in it.
const MACROS: &str = "    \"$MACRO$\": {\n";

/// Plays the arena on eight processes and real servers, all on this machine.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where the first gate takes in clients; the others have the next two ports.
    #[arg(long, default_value = "127.0.0.1:7000")]
    listen: SocketAddr,
    /// Folder of the cluster file, keys and logs. What players own is in the servers, which end with this.
    #[arg(long, default_value = "reference-data")]
    data: PathBuf,
}

fn main() -> Exit {
    // The supervisor starts this program again for each process.
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.iter().any(|word| word == "--cluster") {
        return mainstay::run_with(arena::app(), words.into_iter(), |_| {});
    }
    match Servers::start().and_then(|servers| servers.play(&Arguments::parse())) {
        Ok(exit) => exit,
        Err(error) => {
            eprintln!("error: {error:#}");
            Exit::NotStarted
        }
    }
}

struct Servers {
    etcd: Vec<Etcd>,
    nats: Nats,
    postgres: Postgres,
    redis: Redis,
}

impl Servers {
    fn start() -> anyhow::Result<Self> {
        let hint = "`cargo xtask setup` installs the servers";
        Ok(Servers {
            etcd: Etcd::cluster(3).context(hint)?,
            nats: Nats::start().context(hint)?,
            postgres: Postgres::start().context(hint)?,
            redis: Redis::start().context(hint)?,
        })
    }

    fn play(&self, arguments: &Arguments) -> anyhow::Result<Exit> {
        std::fs::create_dir_all(&arguments.data)?;
        let data = arguments.data.canonicalize()?;
        let file = data.join("cluster.json");
        std::fs::write(&file, self.cluster_file(&data, arguments.listen)?)
            .with_context(|| format!("writing {}", file.display()))?;
        println!("the cluster file is {}", file.display());
        let words = ["--cluster".to_owned(), file.display().to_string(), "--up".to_owned()];
        Ok(mainstay::run_with(arena::app(), words.into_iter(), |_| {}))
    }

    /// The sample's cluster file, with the places of these servers.
    fn cluster_file(&self, data: &Path, listen: SocketAddr) -> anyhow::Result<String> {
        let endpoints: Vec<String> = self.etcd.iter().map(Etcd::url).collect();
        let text = |text: &dyn Display| format!("{:?}", text.to_string());
        let places = [
            ("DATA", text(&data.display())),
            ("LISTEN", text(&listen)),
            ("ETCD", format!("{endpoints:?}")),
            ("NATS", text(&self.nats.url())),
            ("REDIS", text(&self.redis.url())),
            ("POSTGRES", text(&self.postgres.url())),
        ];
        let places = places.map(|(name, value)| format!("        \"{name}\": {value},\n")).concat();
        let (before, rest) = CLUSTER.split_once(MACROS).context("cluster.json names no places")?;
        let (_, after) = rest.split_once("    },\n").context("cluster.json has no end of them")?;
        Ok(format!("{before}{MACROS}{places}    }},\n{after}"))
    }
}
