//! What metrics show of pull workers and of questions to them.

use std::time::Duration;

use bus::{Desk, DeskCounters};
use env::metrics::{Counter, Gauge, Registry};
use tokio::time::sleep;

use super::{Pull, Queue};
use crate::topics::NodeBus;

/// How often what must be asked for is shown.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A server, which every process asks, is asked each so many times.
const SERVER_EVERY: u64 = 5;

/// Of one group of workers.
#[derive(Clone)]
pub(super) struct Meters {
    pub workers: Gauge,
    pub busy: Gauge,
    pub done: Counter,
    pub failed: Counter,
    pub over: Counter,
    pub skipped: Counter,
    pub refused: Counter,
}

impl Meters {
    pub fn new(registry: &Registry, node: &str, queue: &str, group: &str) -> Self {
        let labels = [("node", node), ("queue", queue), ("group", group)];
        Meters {
            workers: registry.gauge("work_workers", "Pull workers there are.", &labels),
            busy: registry.gauge("work_busy", "Pull workers that do a job now.", &labels),
            done: registry.counter("work_done", "Jobs done.", &labels),
            failed: registry.counter("work_failed", "Jobs that failed and come again.", &labels),
            over: registry.counter("work_over_limit", "Jobs over their time limit.", &labels),
            skipped: registry.counter(
                "work_skipped",
                "Questions not begun: whoever asked wants no answer.",
                &labels,
            ),
            refused: registry.counter("work_refused", "Answers that came too late.", &labels),
        }
    }
}

/// What metrics show that must be asked for.
pub(crate) struct Shown {
    bus: NodeBus,
    waiting: Vec<Waiting>,
    desk: Option<DeskMeters>,
}

/// How much waits for one group of workers.
struct Waiting {
    subject: String,
    group: String,
    gauge: Gauge,
}

struct DeskMeters {
    desk: Desk,
    shown: DeskCounters,
    counters: Vec<Counter>,
}

/// What a desk counts, by the names of the metrics.
const COUNTED: [(&str, &str, fn(&DeskCounters) -> u64); 6] = [
    ("asks_asked", "Questions asked by this process.", |it| it.asked),
    ("asks_answered", "Questions answered.", |it| it.answered),
    ("asks_busy", "Questions not asked: as many wait as may.", |it| it.busy),
    ("asks_cleared", "Questions cleared.", |it| it.cleared),
    ("asks_expired", "Questions not answered in time.", |it| it.expired),
    ("asks_refused", "Answers refused: late, second or forged.", |it| it.refused),
];

impl Shown {
    pub fn new<'a>(
        queues: impl Iterator<Item = &'a Queue>,
        bus: &NodeBus,
        (registry, node): (&Registry, &str),
    ) -> Self {
        let help = "Jobs that wait for the group, in whichever process its workers are.";
        let waiting = queues.flat_map(|queue| {
            let gauge = |group: &Pull| {
                let labels = [("node", node), ("queue", queue.name()), ("group", &group.name)];
                registry.gauge("work_waiting", help, &labels)
            };
            let of = |group: &Pull| Waiting {
                subject: queue.subject(group),
                group: queue.bus_group().to_owned(),
                gauge: gauge(group),
            };
            // All groups of workers on one topic are given what waits for that.
            let groups = queue.all_groups();
            let several = if queue.is_of_topic() { 1 } else { groups.len() };
            groups.iter().take(several).map(of).collect::<Vec<_>>()
        });
        let counter =
            |(name, help, _): &(&str, &str, _)| registry.counter(name, help, &[("node", node)]);
        let desk = bus.desk().map(|desk| DeskMeters {
            desk: desk.clone(),
            shown: DeskCounters::default(),
            counters: COUNTED.iter().map(counter).collect(),
        });
        Shown { bus: bus.clone(), waiting: waiting.collect(), desk }
    }

    /// Shows it again and again, as far as the bus knows, for ever.
    pub async fn run(mut self) {
        let (bus, mut turn) = (self.bus.bus(), 0);
        while !self.waiting.is_empty() || self.desk.is_some() {
            if let Some(DeskMeters { desk, shown, counters }) = &mut self.desk {
                let now = desk.counters();
                for ((_, _, of), counter) in COUNTED.iter().zip(counters) {
                    counter.add(of(&now) - of(shown));
                }
                *shown = now;
            }
            let is_due = !self.bus.is_shared() || turn % SERVER_EVERY == 0;
            for Waiting { subject, group, gauge } in self.waiting.iter().filter(|_| is_due) {
                // A server that is away is asked again.
                if let Ok(waiting) = bus.waiting(subject, group).await {
                    gauge.set(waiting as f64);
                }
            }
            turn += 1;
            sleep(LOOK_EVERY).await;
        }
    }
}
