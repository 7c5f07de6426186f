//! What the arena needs to be played in earnest: etcd, NATS, PostgreSQL and Redis, started privately on free
//! ports, and the cluster file of its eight processes with their places in it.

pub mod orders;

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use servers::{Etcd, Nats, Postgres, Redis};

const CLUSTER: &str = include_str!("../cluster.json");
/// What begins the list of places in it.
const MACROS: &str = "    \"$MACRO$\": {\n";

/// The servers; they end when this is dropped.
#[derive(Debug)]
pub struct Servers {
    /// The three members of the coordinator.
    pub etcd: Vec<Etcd>,
    /// The bus.
    pub nats: Nats,
    /// Where all that is stored lands in the end.
    pub postgres: Postgres,
    /// The store that acknowledges.
    pub redis: Redis,
}

impl Servers {
    /// Starts them all.
    ///
    /// # Errors
    ///
    /// One is not installed, or does not start.
    pub fn start() -> anyhow::Result<Self> {
        let hint = "`cargo xtask setup` installs the servers";
        Ok(Servers {
            etcd: Etcd::cluster(3).context(hint)?,
            nats: Nats::start().context(hint)?,
            postgres: Postgres::start().context(hint)?,
            redis: Redis::start().context(hint)?,
        })
    }

    /// Writes the cluster file into the folder `data`, which is made, and where its processes will keep what is
    /// theirs. The first gate takes in clients at `listen`, the others at the next two ports.
    ///
    /// # Errors
    ///
    /// The folder cannot be made or written to.
    pub fn write_cluster_file(&self, data: &Path, listen: SocketAddr) -> anyhow::Result<PathBuf> {
        std::fs::create_dir_all(data).with_context(|| format!("making {}", data.display()))?;
        let data = data.canonicalize()?;
        let file = data.join("cluster.json");
        std::fs::write(&file, self.cluster_file(&data, listen)?)
            .with_context(|| format!("writing {}", file.display()))?;
        Ok(file)
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
