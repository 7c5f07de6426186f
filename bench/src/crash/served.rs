//! Data processes in front of the store of a round.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use cluster::Cluster;
use env::Clock;
use mainstay::config::{CoordinatorPlace, Keys, Process};
use mainstay::store::Store;

use super::Server;

/// How long a data process may take to serve.
const READY_MAX: Duration = Duration::from_secs(30);

/// Where data processes are to listen.
pub struct Places(Vec<SocketAddr>);

impl Places {
    /// So many ports that nobody has.
    pub fn free(count: usize) -> anyhow::Result<Places> {
        // All are held until all are known, so that none comes twice.
        let held = (0..count).map(|_| TcpListener::bind("127.0.0.1:0"));
        let held = held.collect::<Result<Vec<_>, _>>()?;
        Ok(Places(held.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?))
    }

    /// Their entries of the cluster file.
    pub fn entries(&self) -> String {
        let entry = |(at, address): (usize, &SocketAddr)| {
            let (name, port) = (name(at), address.port());
            format!(",\n{name:?}: {{\"roles\": [\"data\"], \"listen\": {{\"data\": {port}}}}}")
        };
        self.0.iter().enumerate().map(entry).collect()
    }
}

fn name(at: usize) -> String {
    format!("data-{}", at + 1)
}

/// Data processes that run, and what reaches the store through them. Ended when it is dropped.
pub struct Served {
    folder: PathBuf,
    at: Vec<SocketAddr>,
    seats: Mutex<Vec<Option<Server>>>,
    store: Store,
    /// Kept here, so that it outlives whoever is killed.
    nodes: Cluster,
}

impl Served {
    /// Starts them; `process` is one that uses them.
    pub fn start(
        folder: &Path,
        Places(at): Places,
        process: &Process,
        keys: &Keys,
    ) -> anyhow::Result<Served> {
        let CoordinatorPlace::Embedded(coordinator) = &process.coordinator else {
            anyhow::bail!("several processes of one machine share an embedded coordinator");
        };
        let options = process.options.registry.clone();
        let nodes = Cluster::attach(coordinator, options, &Clock::system())?;
        let seats = (0..at.len()).map(|at| Server::start(folder, &name(at)).map(Some));
        let seats = Mutex::new(seats.collect::<anyhow::Result<_>>()?);
        at.iter().try_for_each(until_ready)?;
        let store = mainstay::open_served_store(process, keys, "")?;
        Ok(Served { folder: folder.to_path_buf(), at, seats, store, nodes })
    }

    pub fn count(&self) -> usize {
        self.at.len()
    }

    /// The store through them. What the only node had is free: that it is gone we have seen. What it had
    /// asked and a data process has not done yet is not done any more: it names another generation.
    pub fn store(&self) -> anyhow::Result<Store> {
        self.nodes.directory().nodes().for_each(|node| self.nodes.bury(node.incarnation));
        mainstay::node::data::bury_all(&self.store)?;
        let generation = self.store.generation().wait()?;
        self.store.raise_generation(generation).wait()?;
        Ok(self.store.clone())
    }

    /// As `kill -9`, and starts another in its place, which need not serve yet.
    pub fn kill(&self, at: usize) -> anyhow::Result<()> {
        let mut seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        let killed = seats[at].take().context("it was started again after the last kill")?;
        killed.kill()?;
        seats[at] = Some(Server::start(&self.folder, &name(at))?);
        Ok(())
    }

    /// Waits until it serves.
    pub fn until_ready(&self, at: usize) -> anyhow::Result<()> {
        until_ready(&self.at[at])
    }

    /// Kills all of them, for good.
    pub fn end(&self) {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

fn until_ready(at: &SocketAddr) -> anyhow::Result<()> {
    let begun = Instant::now();
    // It listens once its store is open.
    while TcpStream::connect(at).is_err() {
        ensure!(begun.elapsed() < READY_MAX, "the data process at {at} does not start");
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}
