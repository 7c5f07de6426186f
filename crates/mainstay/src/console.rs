//! What the console shows of a process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bus::Presence;
use cluster::Cluster;
use env::{Clock, Instant};
use node::{NodeHandle, WorkerStats};
use serde_json::{Value, json};

use crate::waiting::{self, Waits};

/// Where the console's figures come from. A cheap clone.
#[derive(Clone)]
pub(crate) struct Source(Arc<Inner>);

struct Inner {
    name: String,
    clock: Clock,
    started: Instant,
    node: Option<Arc<NodeHandle>>,
    cluster: Cluster,
    gate: Mutex<Option<gate::Observer>>,
    /// For what it waits before it runs, and whether its bus is there then.
    waits: Mutex<(Waits, Presence)>,
}

impl Source {
    pub(crate) fn new(
        name: &str,
        clock: Clock,
        node: Option<Arc<NodeHandle>>,
        cluster: &Cluster,
    ) -> Self {
        let (name, started, cluster) = (name.to_owned(), clock.now(), cluster.clone());
        let (gate, waits) = (Mutex::new(None), Mutex::default());
        Source(Arc::new(Inner { name, clock, started, node, cluster, gate, waits }))
    }

    pub(crate) fn set_waits(&self, waits: Waits) {
        self.0.waits.lock().unwrap_or_else(PoisonError::into_inner).0 = waits;
    }

    pub(crate) fn set_bus(&self, bus: Presence) {
        self.0.waits.lock().unwrap_or_else(PoisonError::into_inner).1 = bus;
    }

    pub(crate) fn set_gate(&self, gate: Option<&gate::Server>) {
        let observer = gate.map(gate::Server::observer);
        *self.0.gate.lock().unwrap_or_else(PoisonError::into_inner) = observer;
    }

    pub(crate) fn into_state(self) -> ops::State {
        Arc::new(move || self.state())
    }

    fn state(&self) -> Value {
        let Inner { name, clock, started, node, cluster, gate, waits } = &*self.0;
        let node_stats = node.as_ref().map(|node| node.stats()).unwrap_or_default();
        let workers: Vec<_> = node_stats.workers.iter().flatten().collect();
        let gate = gate.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let parked = workers.iter().any(|worker| worker.data.parked);
        let (waits, bus) = waits.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut waits_for = waiting::of_running((cluster, &bus), gate.is_some(), parked);
        waits_for.extend(waits.get());
        let gate = gate.map(|gate| gate.stats()).unwrap_or_default();
        let sum = |count: fn(&WorkerStats) -> usize| -> usize {
            workers.iter().map(|stats| count(stats)).sum()
        };
        let bound = sum(|stats| stats.streams.streams);
        let entities = sum(|s| s.host.kinds.iter().map(|kind| kind.entities).sum());
        let groups = sum(|stats| stats.streams.groups).max(gate.groups as usize);
        json!({
            "node": name,
            "uptime_s": (clock.now() - *started).as_secs(),
            "tiles": [
                {"name": "sessions", "value": sum(|stats| stats.homes.sessions)},
                {"name": "connections", "value": gate.connections},
                {"name": "bound streams", "value": bound},
                {"name": "groups", "value": groups},
                {"name": "entities", "value": entities},
                {"name": "open requests", "value": sum(|stats| stats.streams.open_requests)},
            ],
            "tables": [
                nodes_table(cluster),
                waits_table(&waits_for),
                workers_table(&node_stats),
                entities_table(&workers),
                scenes_table(&workers),
                stored_table(&workers),
                slow_table(&workers),
                refusals_table(&workers),
                gate_table(&gate),
                rules_table(&gate),
            ],
        })
    }
}

fn column(name: &str) -> Value {
    json!({"name": name, "number": false})
}

fn number(name: &str) -> Value {
    json!({"name": name, "number": true})
}

/// What is kept in the store, by worker.
fn stored_table(workers: &[&WorkerStats]) -> Value {
    let rows: Vec<_> = workers
        .iter()
        .enumerate()
        .filter(|(_, worker)| worker.data != node::data::Stats::default())
        .map(|(index, worker)| {
            let data = &worker.data;
            json!([
                index,
                data.owned,
                data.loading,
                data.dirty,
                data.dirty_bytes,
                data.lag.as_millis() as u64,
                data.saved,
                data.save_errors,
                data.poisoned,
                data.lost,
                data.committed,
                data.commit_errors,
                if data.parked { "yes" } else { "" },
            ])
        })
        .collect();
    let names = [
        "worker",
        "owned",
        "loading",
        "unsaved",
        "unsaved bytes",
        "lag ms",
        "saves",
        "save errors",
        "set aside",
        "lost",
        "deals",
        "deals failed",
    ];
    let columns = names.map(number).into_iter().chain([column("stands still")]);
    json!({
        "title": "Stored",
        "columns": columns.collect::<Vec<_>>(),
        "rows": rows,
        "empty": "no kind of this game has documents",
    })
}

fn nodes_table(cluster: &Cluster) -> Value {
    let directory = cluster.directory();
    let listed = directory.nodes().map(|info| {
        let state = match &*info.waits_for {
            "" if info.draining => "going down".to_owned(),
            "" => "listed".to_owned(),
            what => format!("waiting for {what}"),
        };
        let interface = match info.interface {
            0 => String::new(),
            hash => format!("{hash:016x}"),
        };
        json!([info.name, info.roles.join(", "), info.workers, interface, state])
    });
    let refused = cluster.refused();
    let refused = refused.iter().map(|(name, why)| json!([name, "", "", "", why]));
    let rows: Vec<_> = listed.chain(refused).collect();
    json!({
        "title": "Nodes",
        "columns": [
            column("name"), column("roles"), number("workers"), column("interface"),
            column("state"),
        ],
        "rows": rows,
    })
}

/// What this process waits for.
fn waits_table(waits_for: &[String]) -> Value {
    json!({
        "title": "Waiting for",
        "columns": [column("what")],
        "rows": waits_for.iter().map(|what| json!([what])).collect::<Vec<_>>(),
        "empty": "nothing",
    })
}

fn workers_table(stats: &node::NodeStats) -> Value {
    let rows: Vec<_> = stats
        .workers
        .iter()
        .enumerate()
        .map(|(index, worker)| match worker {
            Some(worker) => json!([
                index,
                worker.homes.sessions,
                worker.streams.streams,
                worker.host.ready,
                worker.host.turns,
                stats.turns.get(index),
                worker.streams.delivered,
                worker.host.busy,
            ]),
            None => json!([index, "does not answer", "", "", "", stats.turns.get(index), "", ""]),
        })
        .collect();
    json!({
        "title": "Workers",
        "columns": [
            number("worker"), number("sessions"), number("streams"), number("ready"),
            number("open turns"), number("turns"), number("delivered"), number("busy"),
        ],
        "rows": rows,
    })
}

fn entities_table(workers: &[&WorkerStats]) -> Value {
    let mut kinds: std::collections::BTreeMap<&str, [u64; 6]> = std::collections::BTreeMap::new();
    for kind in workers.iter().flat_map(|stats| &stats.host.kinds) {
        let row = kinds.entry(kind.kind).or_default();
        row[0] += kind.entities as u64;
        row[1] += u64::from(kind.mail);
        row[2] = row[2].max(u64::from(kind.mail_longest));
        row[3] += u64::from(kind.calls);
        row[4] += u64::from(kind.timers);
        row[5] += kind.quarantined as u64;
    }
    let rows: Vec<_> =
        kinds.iter().map(|(kind, [a, b, c, d, e, f])| json!([kind, a, b, c, d, e, f])).collect();
    json!({
        "title": "Entities",
        "columns": [
            column("kind"), number("entities"), number("mail"), number("longest mailbox"),
            number("calls"), number("timers"), number("quarantined"),
        ],
        "rows": rows,
    })
}

fn scenes_table(workers: &[&WorkerStats]) -> Value {
    let rows: Vec<_> = workers
        .iter()
        .flat_map(|stats| &stats.host.scenes)
        .map(|scene| {
            json!([
                scene.kind,
                scene.id.key,
                scene.steps_per_second,
                scene.steps,
                scene.skipped,
                scene.late,
                scene.late_worst.as_secs_f64() * 1e3,
                scene.took_mean.as_secs_f64() * 1e3,
                scene.took_worst.as_secs_f64() * 1e3,
            ])
        })
        .collect();
    json!({
        "title": "Scenes",
        "columns": [
            column("kind"), number("key"), number("steps/s"), number("steps"), number("skipped"),
            number("late"), number("worst lateness ms"), number("step ms"), number("worst step ms"),
        ],
        "rows": rows,
        "empty": "no scene runs",
    })
}

fn slow_table(workers: &[&WorkerStats]) -> Value {
    let rows: Vec<_> = workers
        .iter()
        .flat_map(|stats| &stats.methods)
        .filter(|(.., stats)| stats.slow > 0)
        .map(|(kind, method, stats)| {
            json!([kind, method, stats.slow, stats.worst.as_secs_f64() * 1e3])
        })
        .collect();
    json!({
        "title": "Slow handlers",
        "columns": [column("kind"), column("method"), number("over budget"), number("worst ms")],
        "rows": rows,
        "empty": "none over budget",
    })
}

fn refusals_table(workers: &[&WorkerStats]) -> Value {
    let mut refused = BTreeMap::new();
    for (kind, method, stats) in workers.iter().flat_map(|stats| &stats.methods) {
        *refused.entry((*kind, method.as_str())).or_insert(0u64) += stats.refused;
    }
    refused.retain(|_, count| *count > 0);
    let rows: Vec<_> =
        refused.iter().map(|((kind, method), count)| json!([kind, method, count])).collect();
    json!({
        "title": "Refused before the handler",
        "columns": [column("kind"), column("method"), number("refused")],
        "rows": rows,
        "empty": "nothing was refused",
    })
}

fn gate_table(gate: &gate::Stats) -> Value {
    let rows = json!([
        ["admitted now", gate.sessions],
        ["waiting for their home", gate.waiting],
        ["routes", gate.routes],
        ["memberships", gate.members],
        ["logins", gate.logins],
        ["resumes", gate.resumes],
        ["bytes in", gate.bytes_in],
        ["bytes out", gate.bytes_out],
        ["frames up", gate.frames_up],
        ["frames down", gate.frames_down],
    ]);
    json!({"title": "Gate", "columns": [column("what"), number("count")], "rows": rows})
}

fn rules_table(gate: &gate::Stats) -> Value {
    let rows: Vec<_> = gate.rules().map(|(rule, hits)| json!([rule.name(), hits])).collect();
    json!({
        "title": "Limits that struck",
        "columns": [column("rule"), number("times")],
        "rows": rows,
        "empty": "none",
    })
}

#[cfg(test)]
mod tests {
    use cluster::NodeInfo;
    use proto::Incarnation;

    use super::*;
    use crate::App;
    use crate::prelude::*;

    mod old {
        use super::*;

        #[entity(root = crate::rt, name = "bank")]
        #[derive(Default)]
        pub struct Bank {}

        #[rpc(root = crate::rt)]
        impl Bank {
            #[invoke]
            fn pay(&mut self) -> u64 {
                1
            }
        }
    }

    mod new {
        use super::*;

        #[entity(root = crate::rt, name = "bank")]
        #[derive(Default)]
        pub struct Bank {}

        #[rpc(root = crate::rt)]
        impl Bank {
            #[invoke]
            fn pay(&mut self) -> String {
                String::new()
            }
        }
    }

    #[test]
    fn d16_who_waits_is_shown_with_what_for() {
        let (clock, _) = Clock::manual(env::WallTime(0));
        let cluster = Cluster::embedded(cluster::Options::default());
        let source = Source::new("two", clock.clone(), None, &cluster);
        let shown = || {
            let state = source.state();
            let rows = |title: &str| {
                let tables = state["tables"].as_array().unwrap();
                tables.iter().find(|table| table["title"] == title).unwrap()["rows"].clone()
            };
            (rows("Nodes"), rows("Waiting for"))
        };
        assert_eq!(shown(), (json!([]), json!([])));
        let mut other = NodeInfo::new("one", Incarnation(1));
        other.waits_for = "the store: it is away".to_owned();
        cluster.register(clock.now(), other.clone()).unwrap();
        let waits = Waits::default();
        waits.set(Some("the store \"accounts\"".to_owned()));
        source.set_waits(waits.clone());
        let state = "waiting for the store: it is away";
        let nodes = json!([["one", "", 1, "", state]]);
        assert_eq!(shown(), (nodes, json!([["the store \"accounts\""]])));
        waits.set(None);
        other.waits_for.clear();
        cluster.register(clock.now(), other).unwrap();
        assert_eq!(shown(), (json!([["one", "", 1, "", "listed"]]), json!([])));
    }

    #[test]
    fn a23_a_node_that_is_not_admitted_is_shown() {
        let (clock, _) = Clock::manual(env::WallTime(0));
        let cluster = Cluster::embedded(cluster::Options::default());
        let register = |name: &str, incarnation, app: App| {
            let schema = app.schema().unwrap();
            let mut info = NodeInfo::new(name, Incarnation(incarnation));
            info.interface = schema.interface_hash();
            info.schema = Some(Arc::new(schema));
            cluster.register(clock.now(), info)
        };
        register("one", 1, App::new("bank").entity::<old::Bank>()).unwrap();
        register("two", 2, App::new("bank").entity::<new::Bank>()).unwrap_err();
        let source = Source::new("one", clock.clone(), None, &cluster);
        let state = source.state();
        let tables = state["tables"].as_array().unwrap();
        assert!(tables.iter().all(|table| table["title"].is_string()), "{tables:?}");
        let nodes = &state["tables"][0];
        assert_eq!(nodes["title"], "Nodes");
        assert_eq!(nodes["rows"].as_array().map(Vec::len), Some(2));
        assert_eq!((&nodes["rows"][0][0], &nodes["rows"][0][4]), (&json!("one"), &json!("listed")));
        let why = nodes["rows"][1][4].as_str().unwrap_or_default();
        assert!(why.contains("not admitted") && why.contains("bank.pay"), "{why}");
    }
}
