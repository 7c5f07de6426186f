//! What a data process tells of its work in the metrics.

use std::collections::BTreeMap;
use std::time::Duration;

use env::metrics::{Counter, Gauge, Histogram, Registry, SECONDS};

use super::calls::CALLS;
use super::link::Refused;
use crate::error::Error;

/// Figures of one data process.
pub(super) struct Meters {
    pub connections: Gauge,
    under_way: Gauge,
    received: Counter,
    pub sent: Counter,
    calls: BTreeMap<u8, Counter>,
    registry: Registry,
    /// By the name of the store.
    took: BTreeMap<String, Histogram>,
}

impl Meters {
    pub fn new<'a>(registry: &Registry, stores: impl Iterator<Item = &'a String>) -> Self {
        let bytes = |name, help| registry.counter(name, help, &[]);
        let call = |(number, name): &(u8, &str)| {
            let help = "Requests that were read, by what is asked.";
            (*number, registry.counter("data_requests", help, &[("call", name)]))
        };
        let took = |name: &String| {
            let help = "From when a request was read until its answer was there, by store.";
            let store = if name.is_empty() { "default" } else { name };
            let labels = [("store", store)];
            (name.clone(), registry.histogram("data_request_seconds", help, &labels, SECONDS))
        };
        Meters {
            connections: registry.gauge("data_connections", "Connections of other processes.", &[]),
            under_way: registry.gauge(
                "data_requests_under_way",
                "Requests that were read and are not answered.",
                &[],
            ),
            received: bytes("data_received_bytes", "Bytes of requests."),
            sent: bytes("data_sent_bytes", "Bytes of answers."),
            calls: CALLS.iter().map(call).collect(),
            registry: registry.clone(),
            took: stores.filter(|name| !name.contains('/')).map(took).collect(),
        }
    }

    /// A request came.
    pub fn asked(&self, number: u8, bytes: usize) {
        self.under_way.inc();
        self.received.add(bytes as u64);
        if let Some(calls) = self.calls.get(&number) {
            calls.inc();
        }
    }

    /// A request could not be read.
    pub fn unreadable(&self) {
        self.under_way.dec();
    }

    /// A request of that store, or one of its shards, was answered.
    pub fn answered(&self, store: &str, took: Duration, error: Option<&Error>) {
        self.under_way.dec();
        let store = store.split_once('/').map_or(store, |(name, _)| name);
        if let Some(times) = self.took.get(store) {
            times.observe_duration(took);
        }
        if let Some(error) = error {
            let help = "Requests that were answered by an error, by why: refused is what the rules \
                        of the store do not allow.";
            let why = match error {
                Error::Busy => "busy",
                Error::Unavailable(_) => "unavailable",
                Error::Unknown(_) => "unknown",
                Error::Stopped(_) => "stopped",
                Error::Corrupt { .. } => "corrupt",
                _ => "refused",
            };
            self.registry.counter("data_errors", help, &[("why", why)]).inc();
        }
    }

    /// A connection was not taken.
    pub fn turned_away(&self, why: &'static str) {
        let help = "Connections that were not taken, by why: key (the peer does not have the \
                    cluster's), store (there is none of that name), full (there are too many), \
                    silent (it said nothing, or something else).";
        self.registry.counter("data_connections_refused", help, &[("why", why)]).inc();
    }
}

/// Why somebody is not let in, as the metrics have it.
pub(super) fn why(refused: &Refused) -> &'static str {
    match refused {
        Refused::Key => "key",
        Refused::Store => "store",
        Refused::Broken(_) => "silent",
    }
}
