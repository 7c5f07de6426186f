use env::metrics::{Counter, Gauge, Registry};

use crate::{Rule, Stats};

/// A worker's counters in the registry of the process.
pub(crate) struct Metrics {
    gauges: Vec<(Gauge, fn(&Stats) -> u64)>,
    counters: Vec<(Counter, fn(&Stats) -> u64)>,
    rules: Vec<(Rule, Counter)>,
    /// What was shown last: counters only take what was added.
    shown: Stats,
}

type Field = (&'static str, &'static str, fn(&Stats) -> u64);

const GAUGES: [Field; 6] = [
    ("gate_connections", "Connections now, logged in or not.", |s| s.connections),
    ("gate_sessions", "Admitted sessions now.", |s| s.sessions),
    ("gate_waiting", "Logins and resumes that wait for their home now.", |s| s.waiting),
    ("gate_groups", "Groups with members here now.", |s| s.groups),
    ("gate_members", "Memberships in those groups now.", |s| s.members),
    ("gate_routes", "Routes of streams now.", |s| s.routes),
];

const COUNTERS: [Field; 11] = [
    ("gate_opened", "Connections accepted.", |s| s.opened),
    ("gate_logins", "Sessions admitted by a login.", |s| s.logins),
    ("gate_resumes", "Sessions admitted by a resume.", |s| s.resumes),
    ("gate_taken", "Live connections taken over from a predecessor.", |s| s.taken),
    ("gate_given", "Live connections given to a successor.", |s| s.given),
    ("gate_received_bytes", "Bytes received from clients.", |s| s.bytes_in),
    ("gate_sent_bytes", "Bytes written to clients.", |s| s.bytes_out),
    ("gate_frames_up", "Frames forwarded from clients to owners.", |s| s.frames_up),
    ("gate_frames_down", "Frames forwarded from owners to clients.", |s| s.frames_down),
    ("gate_casts", "Casts received from group owners.", |s| s.casts),
    ("gate_cast_copies", "Copies of casts queued for clients.", |s| s.copies),
];

impl Metrics {
    pub(crate) fn new(registry: &Registry, worker: u8) -> Self {
        let worker = worker.to_string();
        let labels = [("worker", worker.as_str())];
        let gauge = |(name, help, read): &Field| (registry.gauge(name, help, &labels), *read);
        let counter = |(name, help, read): &Field| (registry.counter(name, help, &labels), *read);
        let rule = |rule: &Rule| {
            let labels = [("worker", worker.as_str()), ("rule", rule.name())];
            let help = "How often a rule held something back.";
            (*rule, registry.counter("gate_rule_hits", help, &labels))
        };
        Metrics {
            gauges: GAUGES.iter().map(gauge).collect(),
            counters: COUNTERS.iter().map(counter).collect(),
            rules: Rule::ALL.iter().map(rule).collect(),
            shown: Stats::default(),
        }
    }

    pub(crate) fn show(&mut self, stats: &Stats) {
        for (gauge, read) in &self.gauges {
            gauge.set(read(stats) as f64);
        }
        for (counter, read) in &self.counters {
            counter.add(read(stats) - read(&self.shown));
        }
        for (rule, counter) in &self.rules {
            counter.add(stats.hits(*rule) - self.shown.hits(*rule));
        }
        self.shown = *stats;
    }
}
