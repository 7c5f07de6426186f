//! What a process waits for. Processes are started in any order: each waits for what it needs, says so, and
//! goes on when that is there.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bus::Presence;
use cluster::{Cluster, NodeInfo, SESSION_KIND};
use env::metrics::Registry;
use env::{Clock, Random};
use proto::Incarnation;
use transport::Listeners;
use web::Server;
use web::axum::Router;
use web::axum::http::{StatusCode, header};

use crate::config::{Keys, Process};
use crate::console;
use crate::process::Port;

/// Asks those who come too early to come again.
const AGAIN_AFTER_S: &str = "2";
/// So much of what a process waits for is in the list of nodes.
const LISTED_CHARS_MAX: usize = 200;
/// The end of waiting does not wait for those who look on.
const STOP_WAIT: Duration = Duration::from_millis(100);

/// What a process waits for at its start; nothing once it runs. A cheap clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Waits(Arc<Mutex<Option<String>>>);

impl Waits {
    /// From now on for this, or for nothing any more.
    pub(crate) fn set(&self, what: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }

    pub(crate) fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What a process that runs waits for before it can do its work.
pub(crate) fn of_running(
    (cluster, bus): (&Cluster, &Presence),
    has_gate: bool,
    parked: bool,
) -> Vec<String> {
    let mut waits = Vec::new();
    if cluster.old_since().is_some() {
        waits.push(match cluster.shut_out() {
            Some(reason) => format!("the coordinator: {reason}"),
            None => "the coordinator".to_owned(),
        });
    }
    if has_gate && cluster.directory().offering(SESSION_KIND).next().is_none() {
        waits.push("a node that is home to sessions".to_owned());
    }
    if bus.is_away() {
        waits.push("the server of the bus".to_owned());
    }
    if parked {
        waits.push("its store: what has documents stands still".to_owned());
    }
    waits
}

/// Stands for a process that waits: in the list of nodes, and where its pages and its console will be.
pub(crate) struct Anteroom {
    waits: Waits,
    nodes: Cluster,
    clock: Clock,
    info: NodeInfo,
    web: Option<(Server, JoinHandle<()>)>,
    ports: Vec<Port>,
}

impl Anteroom {
    /// Opens it.
    pub(crate) fn open(
        process: &Process,
        keys: &Keys,
        (nodes, clock, registry): (&Cluster, &Clock, &Registry),
        listeners: &Listeners,
    ) -> Anteroom {
        let life = Incarnation(Random::from_os().u64() | 1);
        let mut info = NodeInfo::new(process.name.clone(), life);
        info.roles.clone_from(&process.roles);
        let (nodes, clock, waits) = (nodes.clone(), clock.clone(), Waits::default());
        let mut room = Anteroom { waits, nodes, clock, info, web: None, ports: Vec::new() };
        if process.runs.http() {
            room.serve(process, keys, registry, listeners);
        }
        room
    }

    /// Says for what it waits.
    pub(crate) fn tell(&mut self, what: &str) {
        let now = self.clock.now();
        let is_known = self.waits.get().as_deref() == Some(what);
        if is_known && self.nodes.renew(now, self.info.incarnation).is_ok() {
            return;
        }
        self.waits.set(Some(what.to_owned()));
        self.info.waits_for = what.chars().take(LISTED_CHARS_MAX).collect();
        if let Err(error) = self.nodes.register(now, self.info.clone()) {
            tracing::debug!(%error, "nobody else is told for what this process waits");
        }
    }

    /// Answers at the ports of the process, as far as they are named.
    fn serve(&mut self, process: &Process, keys: &Keys, registry: &Registry, open: &Listeners) {
        let source = console::Source::new(&process.name, self.clock.clone(), None, &self.nodes);
        source.set_waits(self.waits.clone());
        let waits = self.waits.clone();
        let mut router = Router::new().fallback(move || {
            let text = waits.get().unwrap_or_default();
            let head = [(header::RETRY_AFTER, AGAIN_AFTER_S)];
            async move { (StatusCode::SERVICE_UNAVAILABLE, head, format!("waiting for {text}\n")) }
        });
        if process.runs.console {
            let options = ops::ConsoleOptions { key: keys.console.clone() };
            router = router.merge(ops::routes(source.into_state(), registry.clone(), options));
        }
        let options = web::Options { stop_wait: STOP_WAIT, ..process.options.web.clone() };
        let Ok((server, thread)) = Server::start(router, options) else { return };
        self.web = Some((server.clone(), thread));
        let named = |address: &&SocketAddr| address.port() != 0;
        let all = process.web.iter().chain(&process.console).chain(&process.clients);
        for address in all.filter(named) {
            match Port::open(*address, open, server.clone(), &self.clock) {
                Ok(port) => self.ports.push(port),
                // It will be said by the start itself, if it is still so.
                Err(error) => {
                    tracing::warn!(%error, "nothing answers there while the process waits")
                }
            }
        }
    }
}

impl Drop for Anteroom {
    fn drop(&mut self) {
        self.ports.drain(..).for_each(Port::close);
        if let Some((server, thread)) = self.web.take() {
            server.stop();
            drop(thread.join());
        }
        self.nodes.deregister(self.info.incarnation);
    }
}
