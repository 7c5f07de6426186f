//! The zones that players choose from, as the registry shows them.

use std::collections::BTreeMap;
use std::time::Duration;

use env::Instant;

use crate::{Cluster, Load, Loads, NodeInfo};

/// One zone: the nodes whose processes name it.
#[derive(Clone, Debug, PartialEq)]
pub struct Zone {
    /// Its name in the cluster file.
    pub name: String,
    /// Whether players may come.
    pub state: ZoneState,
    /// Mean load of its nodes that take new players, 0 to about 1; 0 if it is closed.
    pub load: f64,
    /// Sessions at home at its nodes.
    pub sessions: u32,
}

/// Whether players may come to a zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZoneState {
    /// There is room.
    Open,
    /// There is room, but it is busy.
    Busy,
    /// There is no room now.
    Full,
    /// None of its nodes is there, or gives signs of life.
    Closed,
}

impl ZoneState {
    /// The word for it.
    pub const fn word(self) -> &'static str {
        match self {
            ZoneState::Open => "open",
            ZoneState::Busy => "busy",
            ZoneState::Full => "full",
            ZoneState::Closed => "closed",
        }
    }
}

/// When zones are taken to be what.
#[derive(Clone, Copy, Debug)]
pub struct ZoneOptions {
    /// A node that reports nothing for so long gives no sign of life.
    pub silence_max: Duration,
    /// From this load on a zone is busy.
    pub busy: f64,
    /// From this load on a node takes nobody.
    pub full: f64,
}

impl Default for ZoneOptions {
    /// 6 s; busy from 0.7 on, full from 0.95 on.
    fn default() -> Self {
        ZoneOptions { silence_max: Duration::from_secs(6), busy: 0.7, full: 0.95 }
    }
}

/// Follows the zones. Ask it at least every second.
#[derive(Debug)]
pub struct Zones {
    cluster: Cluster,
    loads: Loads,
    options: ZoneOptions,
    /// All that were seen: one that has gone is closed, and still shown.
    names: Vec<String>,
}

impl Zones {
    /// The zones of a cluster; those of `names` are shown also before any node of theirs is there.
    pub fn new(cluster: &Cluster, names: Vec<String>, options: ZoneOptions) -> Self {
        Zones { cluster: cluster.clone(), loads: cluster.loads(), options, names }
    }

    /// The zones now, by their names.
    pub fn look(&mut self, now: Instant) -> Vec<Zone> {
        self.loads.take(now);
        let directory = self.cluster.directory();
        let nodes: Vec<&NodeInfo> = directory.nodes().collect();
        for zone in nodes.iter().flat_map(|info| &info.zones) {
            if !self.names.contains(zone) {
                self.names.push(zone.clone());
            }
        }
        self.names.sort();
        let mut all: BTreeMap<&str, Vec<Load>> = BTreeMap::new();
        for info in nodes.into_iter().filter(|info| !info.draining) {
            let report = self.loads.of(now, info.incarnation);
            let report = report.filter(|(_, age)| *age < self.options.silence_max);
            for zone in &info.zones {
                all.entry(zone).or_default().extend(report.map(|(load, _)| load));
            }
        }
        let zone = |name: &String| self.options.zone(name, all.get(name.as_str()));
        self.names.iter().map(zone).collect()
    }
}

impl ZoneOptions {
    fn zone(&self, name: &str, loads: Option<&Vec<Load>>) -> Zone {
        let loads = loads.map_or(&[][..], |loads| loads);
        let value = |load: &Load| {
            let taken = f64::from(load.rooms) / f64::from(load.rooms_max.max(1));
            load.cpu.max(if load.rooms_max == 0 { 0.0 } else { taken })
        };
        let sum = loads.iter().map(value).fold(0.0, |sum, load| sum + load);
        let mean = sum / loads.len().max(1) as f64;
        let is_full = |load: &Load| load.free_slots() == Some(0) || load.cpu >= self.full;
        let state = match loads {
            [] => ZoneState::Closed,
            _ if loads.iter().all(is_full) => ZoneState::Full,
            _ if mean >= self.busy => ZoneState::Busy,
            _ => ZoneState::Open,
        };
        let sessions = loads.iter().map(|load| load.sessions).sum();
        Zone { name: name.to_owned(), state, load: mean, sessions }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Options;
    use proto::Incarnation;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos((1_000_000 + ms) * 1_000_000)
    }

    struct Rig {
        cluster: Cluster,
        zones: Zones,
        count: u64,
    }

    impl Rig {
        fn new() -> Rig {
            let cluster = Cluster::embedded(Options::default());
            let zones = Zones::new(&cluster, vec!["south".to_owned()], ZoneOptions::default());
            Rig { cluster, zones, count: 0 }
        }

        fn register(&self, node: u64, zone: &str, draining: bool) {
            let info = NodeInfo::new(format!("node-{node}"), Incarnation(node));
            let info = NodeInfo {
                zones: (!zone.is_empty()).then(|| zone.to_owned()).into_iter().collect(),
                draining,
                ..info
            };
            self.cluster.register(at(0), info).unwrap();
        }

        fn report(&mut self, node: u64, cpu: f64, rooms: u32) {
            self.count += 1;
            let load = Load { cpu, rooms, rooms_max: 10, sessions: 3, ..Load::default() };
            self.cluster.report_load(Incarnation(node), &load, self.count).unwrap();
        }

        fn look(&mut self, ms: u64) -> String {
            let shown = |zone: &Zone| {
                let Zone { name, state, load, sessions } = zone;
                format!("{name} {} {load:.2} {sessions}", state.word())
            };
            self.zones.look(at(ms)).iter().map(shown).collect::<Vec<_>>().join(", ")
        }
    }

    #[test]
    fn d14_a_zone_is_open_busy_or_full_by_what_its_nodes_report() {
        let mut rig = Rig::new();
        assert_eq!(rig.look(0), "south closed 0.00 0");
        rig.register(1, "north", false);
        rig.register(2, "north", false);
        rig.register(3, "", false);
        // Listed, and has said nothing yet.
        assert_eq!(rig.look(0), "north closed 0.00 0, south closed 0.00 0");
        rig.report(1, 0.2, 0);
        rig.report(3, 1.0, 10);
        assert_eq!(rig.look(100), "north open 0.20 3, south closed 0.00 0");
        rig.report(2, 0.9, 9);
        rig.report(1, 0.6, 8);
        assert_eq!(rig.look(200), "north busy 0.85 6, south closed 0.00 0");
        rig.report(2, 0.1, 10);
        rig.report(1, 0.97, 1);
        assert!(rig.look(300).starts_with("north full"), "{}", rig.look(300));
        // One that leaves takes nobody, and one that came does.
        rig.register(2, "north", true);
        rig.register(4, "north", false);
        rig.report(4, 0.0, 0);
        assert_eq!(rig.look(400), "north open 0.48 6, south closed 0.00 0");
    }

    #[test]
    fn d14_a_zone_without_a_sign_of_life_for_6_s_is_closed_and_stays_shown() {
        let mut rig = Rig::new();
        rig.register(1, "north", false);
        rig.report(1, 0.2, 0);
        assert!(rig.look(0).starts_with("north open"));
        assert!(rig.look(5_999).starts_with("north open"));
        assert!(rig.look(6_000).starts_with("north closed 0.00 0"));
        rig.report(1, 0.2, 0);
        assert!(rig.look(7_000).starts_with("north open"));
        rig.cluster.deregister(Incarnation(1));
        assert!(rig.look(7_001).starts_with("north closed"));
    }
}
