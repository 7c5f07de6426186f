use std::sync::{Arc, Mutex, PoisonError};

use env::metrics::{Counter, Gauge, Registry};
use store::{FollowerCounts, LandingReport};

use super::inbox::{Inbox, Mail};
use crate::data::Stats;

/// What one worker keeps in the store, in the registry of the process.
pub(crate) struct Gauges {
    gauges: Vec<(Gauge, fn(&Stats) -> f64)>,
    counters: Vec<(Counter, fn(&Stats) -> u64)>,
    /// What was shown last: counters only take what was added.
    shown: Stats,
}

type Shown = (&'static str, &'static str, fn(&Stats) -> f64);
type Counted = (&'static str, &'static str, fn(&Stats) -> u64);

const GAUGES: [Shown; 7] = [
    ("data_owned", "Entities owned in the store now.", |s| s.owned as f64),
    ("data_unsaved", "Entities that changed and are not saved now.", |s| s.dirty as f64),
    ("data_unsaved_bytes", "Bytes of their documents.", |s| s.dirty_bytes as f64),
    ("data_lag_seconds", "For how long the oldest change waits to be saved.", |s| {
        s.lag.as_secs_f64()
    }),
    ("data_set_aside", "Documents that the store refuses now.", |s| s.poisoned as f64),
    ("data_deals_open", "Transactions under way now.", |s| s.commits_open as f64),
    ("data_parked", "1 while entities with documents stand still.", |s| f64::from(s.parked)),
];

const COUNTERS: [Counted; 9] = [
    ("data_activated", "Entities taken.", |s| s.activated),
    ("data_refused", "Entities that could not be taken.", |s| s.refused),
    ("data_changes", "Times that an entity may have changed.", |s| s.touched),
    ("data_saves", "Writes done.", |s| s.saved),
    ("data_saved_bytes", "Bytes of documents written.", |s| s.saved_bytes),
    ("data_save_errors", "Writes that failed and were tried again.", |s| s.save_errors),
    ("data_lost", "Entities lost to another owner.", |s| s.lost),
    ("data_deals", "Transactions done.", |s| s.committed),
    ("data_deal_errors", "Transactions that were not done.", |s| s.commit_errors),
];

impl Gauges {
    pub fn new(registry: &Registry, node: &str, worker: usize) -> Self {
        let worker = worker.to_string();
        let labels = [("node", node), ("worker", worker.as_str())];
        let gauge = |(name, help, read): &Shown| (registry.gauge(name, help, &labels), *read);
        let counter = |(name, help, read): &Counted| (registry.counter(name, help, &labels), *read);
        Gauges {
            gauges: GAUGES.iter().map(gauge).collect(),
            counters: COUNTERS.iter().map(counter).collect(),
            shown: Stats::default(),
        }
    }

    fn show(&mut self, stats: Stats) {
        self.gauges.iter().for_each(|(gauge, read)| gauge.set(read(&stats)));
        for (counter, read) in &self.counters {
            counter.add(read(&stats).saturating_sub(read(&self.shown)));
        }
        self.shown = stats;
    }
}

/// How far the store's journal has landed, if it has one.
pub(crate) struct LandingGauges {
    gauges: Vec<(Gauge, fn(&LandingReport) -> f64)>,
}

type LandingShown = (&'static str, &'static str, fn(&LandingReport) -> f64);

const LANDING: [LandingShown; 3] = [
    ("store_landing_lag_seconds", "For how long the oldest commit waits to land.", |report| {
        report.lag.as_secs_f64()
    }),
    ("store_landing_bytes", "Bytes of commits that have not landed.", |report| {
        report.backlog_bytes as f64
    }),
    ("store_landing_set_aside", "Rows that cannot land.", |report| report.aside as f64),
];

impl LandingGauges {
    pub fn new(registry: &Registry, node: &str) -> Self {
        let gauge = |(name, help, read): &LandingShown| {
            (registry.gauge(name, help, &[("node", node)]), *read)
        };
        LandingGauges { gauges: LANDING.iter().map(gauge).collect() }
    }

    pub fn show(&self, report: &LandingReport) {
        self.gauges.iter().for_each(|(gauge, read)| gauge.set(read(report)));
    }
}

/// Where reads went that may be old. Its series are there once there was one.
pub(crate) struct FollowerCounters {
    registry: Registry,
    node: String,
    shown: FollowerCounts,
}

impl FollowerCounters {
    pub fn new(registry: &Registry, node: &str) -> Self {
        let shown = FollowerCounts::default();
        FollowerCounters { registry: registry.clone(), node: node.to_owned(), shown }
    }

    pub fn show(&mut self, counts: FollowerCounts) {
        let help = "Reads that may be old, by who answered: a follower, or the leader because the \
                    follower was too old or away.";
        let before = std::mem::replace(&mut self.shown, counts);
        for (by, count, before) in [
            ("follower", counts.follower, before.follower),
            ("leader_too_old", counts.too_old, before.too_old),
            ("leader_away", counts.away, before.away),
        ] {
            if count > before {
                let labels = [("node", self.node.as_str()), ("by", by)];
                self.registry.counter("store_aged_reads", help, &labels).add(count - before);
            }
        }
    }
}

/// Has each worker show what it keeps, on its own thread.
pub(crate) fn show_all(inboxes: &[Arc<Inbox>], gauges: &[Arc<Mutex<Gauges>>]) {
    for (inbox, gauges) in inboxes.iter().zip(gauges) {
        let gauges = Arc::clone(gauges);
        inbox.push(Mail::Task(Box::new(move |worker| {
            gauges.lock().unwrap_or_else(PoisonError::into_inner).show(worker.data_stats());
        })));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f22_where_aged_reads_went_is_counted() {
        let registry = Registry::new();
        let mut counters = FollowerCounters::new(&registry, "east");
        counters.show(FollowerCounts::default());
        assert!(registry.samples().is_empty());
        counters.show(FollowerCounts { follower: 3, too_old: 1, ..FollowerCounts::default() });
        counters.show(FollowerCounts { follower: 5, too_old: 1, ..FollowerCounts::default() });
        let shown = registry.render_openmetrics();
        let lines = shown.lines().filter(|line| line.starts_with("store_aged_reads"));
        let lines: Vec<&str> = lines.collect();
        assert_eq!(
            lines,
            [
                r#"store_aged_reads_total{node="east",by="follower"} 5"#,
                r#"store_aged_reads_total{node="east",by="leader_too_old"} 1"#,
            ]
        );
    }
}
