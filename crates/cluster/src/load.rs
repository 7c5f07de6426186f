//! How loaded nodes are: each says so under a key of its own in the registry, which goes with its lease.

use std::collections::BTreeMap;
use std::time::Duration;

use env::Instant;
use proto::Incarnation;
use proto::codec::{Decoder, put_array, put_uint};

use crate::wire::Malformed;
use crate::{Cluster, Expect, KeyError, Watch};

/// How loaded a node says it is. All of it is of one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Share of its processors that was used, 0 to 1: a mean over 6 s of samples of a second.
    pub cpu: f64,
    /// For how long its ticks were late, at worst, since the report before.
    pub tick_lag: Duration,
    /// For how long mail waited, at worst.
    pub mail_delay: Duration,
    /// Memory in use, in bytes; 0 if the system does not tell.
    pub memory_bytes: u64,
    /// Sessions at home there.
    pub sessions: u32,
    /// Rooms there, and seats that are reserved for rooms.
    pub rooms: u32,
    /// Rooms that it takes at most; 0 is any number.
    pub rooms_max: u32,
    /// Messages that wait for its services.
    pub queued: u32,
}

impl Load {
    /// Rooms that it still takes; `None` for any number.
    pub fn free_slots(&self) -> Option<u32> {
        (self.rooms_max > 0).then(|| self.rooms_max.saturating_sub(self.rooms))
    }

    /// A MessagePack array that only grows at its end. `count` makes each report another.
    fn encode(&self, count: u64) -> Vec<u8> {
        let mut out = Vec::new();
        put_array(&mut out, 10);
        put_uint(&mut out, VERSION);
        put_uint(&mut out, count);
        put_uint(&mut out, (self.cpu.clamp(0.0, 1_000.0) * 1e6) as u64);
        put_uint(&mut out, self.tick_lag.as_micros() as u64);
        put_uint(&mut out, self.mail_delay.as_micros() as u64);
        put_uint(&mut out, self.memory_bytes);
        for number in [self.sessions, self.rooms, self.rooms_max, self.queued] {
            put_uint(&mut out, u64::from(number));
        }
        out
    }

    fn decode(bytes: &[u8]) -> Result<Load, Malformed> {
        let d = &mut Decoder::new(bytes);
        let fields = d.array()?;
        if fields < 10 || d.uint()? != VERSION {
            return Err(Malformed::new("a load of an unknown version"));
        }
        d.uint()?;
        let cpu = d.uint()? as f64 / 1e6;
        let [tick_lag, mail_delay] =
            [Duration::from_micros(d.uint()?), Duration::from_micros(d.uint()?)];
        let memory_bytes = d.uint()?;
        let mut small = || Ok::<u32, Malformed>(d.uint()?.min(u64::from(u32::MAX)) as u32);
        let (sessions, rooms, rooms_max, queued) = (small()?, small()?, small()?, small()?);
        for _ in 10..fields {
            d.skip()?;
        }
        d.leave();
        d.end()?;
        Ok(Load { cpu, tick_lag, mail_delay, memory_bytes, sessions, rooms, rooms_max, queued })
    }
}

const VERSION: u64 = 1;
const PREFIX: &str = "load/";

impl Cluster {
    /// Tells everybody how loaded a listed node is; `count` rises from report to report. Goes with the node's
    /// lease. Blocks as [`put`](Self::put) does.
    ///
    /// # Errors
    ///
    /// As `put`; the next report makes up for it.
    pub fn report_load(&self, node: Incarnation, load: &Load, count: u64) -> Result<(), KeyError> {
        let key = format!("{PREFIX}{node}");
        self.put(&key, load.encode(count), Some(node), Expect::Any).map(drop)
    }

    /// Follows how loaded nodes are.
    pub fn loads(&self) -> Loads {
        Loads { watch: self.watch(PREFIX), known: BTreeMap::new() }
    }
}

/// The last report of each listed node, and when it came. Ask it more often than reports are to be told apart.
#[derive(Debug)]
pub struct Loads {
    watch: Watch,
    known: BTreeMap<Incarnation, (Load, Instant)>,
}

impl Loads {
    /// Takes in what was reported since the last time, and gives that. A report counts from the moment in which
    /// it is taken in, by this process's own clock.
    pub fn take(&mut self, now: Instant) -> Vec<(Incarnation, Load)> {
        let mut news = Vec::new();
        for change in self.watch.take() {
            let Some(node) = change.key.strip_prefix(PREFIX).and_then(parse) else { continue };
            let load = change.now.and_then(|key| Load::decode(&key.value).ok());
            match load {
                Some(load) => {
                    self.known.insert(node, (load, now));
                    news.push((node, load));
                }
                // What cannot be read is not known.
                None => drop(self.known.remove(&node)),
            }
        }
        news
    }

    /// The last report of a node and its age; `None` if there is none.
    pub fn of(&self, now: Instant, node: Incarnation) -> Option<(Load, Duration)> {
        self.known.get(&node).map(|(load, at)| (*load, now - *at))
    }
}

fn parse(text: &str) -> Option<Incarnation> {
    u64::from_str_radix(text, 16).ok().map(Incarnation)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{NodeInfo, Options};

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    const NODE: Incarnation = Incarnation(0xab);

    #[test]
    fn d5_a_report_comes_whole_with_its_age_and_goes_with_its_node() {
        let cluster = Cluster::embedded(Options::default());
        let load = Load {
            cpu: 0.25,
            tick_lag: Duration::from_millis(3),
            mail_delay: Duration::from_micros(70),
            memory_bytes: 1 << 30,
            sessions: 5,
            rooms: 2,
            rooms_max: 8,
            queued: 9,
        };
        assert_eq!(load.free_slots(), Some(6));
        assert_eq!(cluster.report_load(NODE, &load, 1), Err(KeyError::NotListed(NODE)));
        cluster.register(at(0), NodeInfo::new("a", NODE)).unwrap();
        let mut loads = cluster.loads();
        assert_eq!(loads.of(at(0), NODE), None);
        cluster.report_load(NODE, &load, 1).unwrap();
        assert_eq!(loads.take(at(1)), [(NODE, load)]);
        assert_eq!(loads.of(at(4), NODE), Some((load, Duration::from_secs(3))));
        // The same again is news as well.
        cluster.report_load(NODE, &load, 2).unwrap();
        assert_eq!(loads.take(at(5)).len(), 1);
        assert_eq!(loads.of(at(5), NODE), Some((load, Duration::ZERO)));
        cluster.deregister(NODE);
        assert!(loads.take(at(6)).is_empty());
        assert_eq!(loads.of(at(6), NODE), None);
    }

    #[test]
    fn what_is_no_report_counts_as_none() {
        let whole = Load { sessions: 300, ..Load::default() }.encode(7);
        assert!(Load::decode(&whole).is_ok());
        for cut in 0..whole.len() {
            assert!(Load::decode(&whole[..cut]).is_err(), "{cut}");
        }
        // A later release says more.
        let mut more = whole.clone();
        more[0] += 1;
        more.push(5);
        assert_eq!(Load::decode(&more).unwrap().sessions, 300);
        let cluster = Cluster::embedded(Options::default());
        cluster.register(at(0), NodeInfo::new("a", NODE)).unwrap();
        let mut loads = cluster.loads();
        cluster.report_load(NODE, &Load::default(), 1).unwrap();
        loads.take(at(1));
        cluster.put(&format!("load/{NODE}"), &b"x"[..], Some(NODE), Expect::Any).unwrap();
        loads.take(at(2));
        assert_eq!(loads.of(at(2), NODE), None);
        // Other keys under the prefix are nobody's.
        cluster.put("load/none", &b"x"[..], None, Expect::Any).unwrap();
        assert!(loads.take(at(3)).is_empty());
    }
}
