//! Which node gets what is made next: by load, by what was just given to it, and by seats.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use env::{Instant, Random};
use proto::{Incarnation, KindId};

use crate::{Directory, Load, NodeInfo};

/// How nodes are chosen.
#[derive(Clone, Debug)]
pub struct PlacementOptions {
    /// A node that reported nothing for so long counts as full.
    pub report_age_max: Duration,
    /// How long a reserved seat is kept for whoever it was reserved for.
    pub seat_wait: Duration,
    /// Most seats reserved at once.
    pub seats_max: usize,
    /// Tick lag, or delay of mail, that counts as much as all processors busy.
    pub late: Duration,
    /// How much one placement adds to what a node is taken to be loaded, until it shows in its reports. Enough to
    /// outweigh by a few what one report has by chance; more than what is made may cost in fact, for a while.
    pub anticipated: f64,
    /// How long that takes to fade.
    pub fade: Duration,
}

impl Default for PlacementOptions {
    fn default() -> Self {
        PlacementOptions {
            report_age_max: Duration::from_secs(15),
            seat_wait: Duration::from_secs(10),
            seats_max: 65_536,
            late: Duration::from_millis(100),
            anticipated: 0.05,
            fade: Duration::from_secs(5),
        }
    }
}

/// The windows over which load is averaged, and their weights.
const WINDOWS: [(Duration, f64); 3] =
    [(Duration::from_secs(5), 0.9), (Duration::from_secs(30), 0.2), (Duration::from_secs(90), 0.1)];

/// A report that comes so long after a seat was taken counts what was made there.
const SHOWS_AFTER: Duration = Duration::from_secs(1);

/// What a place is wanted for. Made by [`Wanted::of`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    kind: KindId,
    roles: Vec<String>,
    zone: Option<String>,
    interface: Option<u64>,
    near: Option<Incarnation>,
}

impl Wanted {
    /// A place for an entity of `kind`.
    pub fn of(kind: KindId) -> Self {
        Wanted { kind, roles: Vec::new(), zone: None, interface: None, near: None }
    }

    /// Only at a node of this zone.
    #[must_use]
    pub fn zone(mut self, zone: &str) -> Self {
        self.zone = Some(zone.to_owned());
        self
    }

    /// Only at a node with this role, as a pool has one.
    #[must_use]
    pub fn role(mut self, role: &str) -> Self {
        self.roles.push(role.to_owned());
        self
    }

    /// Only at a node built with this interface.
    #[must_use]
    pub fn interface(mut self, hash: u64) -> Self {
        self.interface = Some(hash);
        self
    }

    /// At this node if it may be and is not a tenth more loaded than the one that would be chosen.
    #[must_use]
    pub fn near(mut self, node: Incarnation) -> Self {
        self.near = Some(node);
        self
    }

    fn fits(&self, info: &NodeInfo) -> bool {
        self.roles.iter().all(|role| info.roles.contains(role))
            && self.zone.as_ref().is_none_or(|zone| info.zones.contains(zone))
            && self.interface.is_none_or(|hash| hash == info.interface)
    }
}

/// A place that is kept for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Where.
    pub node: Incarnation,
    /// Names it.
    pub ticket: u128,
    /// It is kept until then.
    pub until: Instant,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoPlace {
    /// No listed node offers the kind with what is wanted.
    #[error("no node offers that")]
    Nowhere,
    /// Those that do are full or silent: add nodes, or try again later.
    #[error("all nodes that offer that are full, or do not report their load")]
    Full,
    /// The seat was taken, has run out, or its node is gone: reserve another.
    #[error("there is no such seat any more")]
    Gone,
}

/// Chooses nodes for what is made next. Pure; any number of instances work beside each other, none is special.
///
/// Of two nodes drawn at random the less loaded is chosen (Mitzenmacher 2001). A node that was chosen counts as
/// busier at once, so that what happens between two reports spreads.
#[derive(Debug)]
pub struct Placement {
    options: PlacementOptions,
    random: Random,
    directory: Arc<Directory>,
    nodes: BTreeMap<Incarnation, Known>,
    seats: BTreeMap<u128, Seat>,
    /// Tickets with the time at which they run out, soonest first; of some the seat is gone already.
    ends: VecDeque<(Instant, u128)>,
}

/// What is known of a node's load.
#[derive(Debug)]
struct Known {
    last: Load,
    at: Instant,
    /// Over each window.
    means: [f64; 3],
    /// What was given to it and cannot show in its reports yet, and when that was true.
    anticipated: f64,
    faded_at: Instant,
    /// Seats that are reserved there.
    seats: u32,
    /// When seats were taken that may not show in its reports yet.
    taken: Vec<Instant>,
    /// It has refused a seat, or not answered, since it reported last.
    refused: bool,
}

impl Placement {
    /// Knows no node yet.
    pub fn new(options: PlacementOptions, random: Random) -> Self {
        Placement {
            options,
            random,
            directory: Arc::default(),
            nodes: BTreeMap::new(),
            seats: BTreeMap::new(),
            ends: VecDeque::new(),
        }
    }

    /// From when on a node that reports nothing counts as full.
    pub fn set_report_age_max(&mut self, age_max: Duration) {
        self.options.report_age_max = age_max;
    }

    /// Uses a newer directory. Seats at nodes that are no longer listed are gone.
    pub fn set_directory(&mut self, directory: Arc<Directory>) {
        self.nodes.retain(|node, _| directory.node(*node).is_some());
        self.seats.retain(|_, seat| directory.node(seat.node).is_some());
        self.directory = directory;
    }

    /// A node reports its load. One that is not listed, or not a number, is not believed.
    pub fn handle_report(&mut self, now: Instant, node: Incarnation, load: Load) {
        if self.directory.node(node).is_none() || !load.cpu.is_finite() {
            return;
        }
        let value = self.options.value(&load);
        let known = self.nodes.entry(node).or_insert_with(|| Known {
            last: load,
            at: now,
            means: [value; 3],
            anticipated: 0.0,
            faded_at: now,
            seats: 0,
            taken: Vec::new(),
            refused: false,
        });
        known.refused = false;
        known.taken.retain(|taken| now - *taken < SHOWS_AFTER);
        for (mean, (window, _)) in known.means.iter_mut().zip(WINDOWS) {
            let passed = (now - known.at).as_secs_f64() / window.as_secs_f64();
            *mean = value + (*mean - value) * (-passed).exp();
        }
        (known.last, known.at) = (load, now);
    }

    /// What a node is taken to be loaded, 0 to about 1 and more; `None` if it is silent, which counts as full.
    pub fn load_of(&self, now: Instant, node: Incarnation) -> Option<f64> {
        let known = self.nodes.get(&node)?;
        if known.refused || now - known.at > self.options.report_age_max {
            return None;
        }
        let weighted = known.means.iter().zip(WINDOWS).map(|(mean, (_, weight))| mean * weight);
        let weights: f64 = WINDOWS.iter().map(|(_, weight)| weight).sum();
        Some(weighted.sum::<f64>() / weights + self.faded(now, known))
    }

    /// Reserves a place.
    ///
    /// # Errors
    ///
    /// `Nowhere` or `Full`.
    pub fn reserve(&mut self, now: Instant, wanted: &Wanted) -> Result<Seat, NoPlace> {
        self.handle_timeout(now);
        if self.seats.len() >= self.options.seats_max {
            return Err(NoPlace::Full);
        }
        let fitting = self.directory.offering(wanted.kind).filter(|info| wanted.fits(info));
        let fitting: Vec<Incarnation> = fitting.map(|info| info.incarnation).collect();
        if fitting.is_empty() {
            return Err(NoPlace::Nowhere);
        }
        let load = |node: &Incarnation| Some((*node, self.load_of(now, *node)?));
        let open: Vec<(Incarnation, f64)> =
            fitting.iter().filter(|node| self.has_room(**node)).filter_map(load).collect();
        let Some(chosen) = self.choose(&open) else { return Err(NoPlace::Full) };
        let near = wanted.near.and_then(|near| open.iter().find(|(node, _)| *node == near));
        let node = near.filter(|(_, load)| *load <= chosen.1 + 0.1).unwrap_or(&chosen).0;
        let fade = self.nodes.get(&node).map_or(0.0, |known| self.faded(now, known));
        if let Some(known) = self.nodes.get_mut(&node) {
            known.anticipated = fade + self.options.anticipated;
            known.faded_at = now;
            known.seats += 1;
        }
        let ticket = u128::from(self.random.u64()) << 64 | u128::from(self.random.u64());
        let seat = Seat { node, ticket, until: now + self.options.seat_wait };
        self.seats.insert(ticket, seat);
        self.ends.push_back((seat.until, ticket));
        Ok(seat)
    }

    /// Whether a node that fits has reported nothing since it was listed: it may be about to.
    pub fn expects_report(&self, wanted: &Wanted) -> bool {
        let mut fitting = self.directory.offering(wanted.kind).filter(|info| wanted.fits(info));
        fitting.any(|info| !self.nodes.contains_key(&info.incarnation))
    }

    /// Takes a reserved seat: once.
    ///
    /// # Errors
    ///
    /// `Gone`.
    pub fn take(&mut self, now: Instant, ticket: u128) -> Result<Incarnation, NoPlace> {
        self.handle_timeout(now);
        let seat = self.seats.remove(&ticket).ok_or(NoPlace::Gone)?;
        self.give_up(&seat);
        if let Some(known) = self.nodes.get_mut(&seat.node).filter(|known| known.last.rooms_max > 0)
        {
            known.taken.push(now);
        }
        Ok(seat.node)
    }

    /// A node would not keep a seat, or did not answer: the seat is gone, and the node counts as full until its
    /// next report.
    pub fn handle_refusal(&mut self, ticket: u128) {
        let Some(seat) = self.seats.remove(&ticket) else { return };
        self.give_up(&seat);
        if let Some(known) = self.nodes.get_mut(&seat.node) {
            known.refused = true;
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.ends.front().map(|(until, _)| *until)
    }

    /// Gives up seats that nobody took in time.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((until, ticket)) = self.ends.front().copied() {
            let is_over = until <= now;
            if !is_over && self.seats.contains_key(&ticket) {
                return;
            }
            self.ends.pop_front();
            if let Some(seat) = self.seats.remove(&ticket) {
                self.give_up(&seat);
            }
        }
    }

    fn give_up(&mut self, seat: &Seat) {
        if let Some(known) = self.nodes.get_mut(&seat.node) {
            known.seats = known.seats.saturating_sub(1);
        }
    }

    fn has_room(&self, node: Incarnation) -> bool {
        let Some(known) = self.nodes.get(&node) else { return false };
        known.last.rooms_max == 0 || {
            let taken = known.taken.len() as u32;
            known.last.rooms + known.seats + taken < known.last.rooms_max
        }
    }

    /// The less loaded of two that are drawn at random.
    fn choose(&mut self, open: &[(Incarnation, f64)]) -> Option<(Incarnation, f64)> {
        let count = open.len() as u64;
        if count < 2 {
            return open.first().copied();
        }
        let first = self.random.u64() % count;
        let second = (first + 1 + self.random.u64() % (count - 1)) % count;
        let [first, second] = [first, second].map(|at| open[at as usize]);
        Some(if second.1 < first.1 { second } else { first })
    }

    fn faded(&self, now: Instant, known: &Known) -> f64 {
        let passed = (now - known.faded_at).as_secs_f64() / self.options.fade.as_secs_f64();
        known.anticipated * (1.0 - passed).max(0.0)
    }
}

impl PlacementOptions {
    /// One number for a load: the worst of what it is short of.
    fn value(&self, load: &Load) -> f64 {
        let late = |time: Duration| time.as_secs_f64() / self.late.as_secs_f64();
        let full = f64::from(load.rooms) / f64::from(load.rooms_max.max(1));
        let full = if load.rooms_max == 0 { 0.0 } else { full };
        load.cpu.max(late(load.tick_lag)).max(late(load.mail_delay)).max(full)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: KindId = KindId::of("room");

    fn at(ms: u64) -> Instant {
        Instant::from_nanos((1_000_000 + ms) * 1_000_000)
    }

    fn placement(nodes: u64, seed: u64) -> Placement {
        let info = |n: u64| {
            let mut info = NodeInfo::new(format!("node-{n}"), Incarnation(n));
            info.kinds.push(ROOM);
            info.roles.push(if n.is_multiple_of(2) { "even" } else { "odd" }.to_owned());
            Arc::new(info)
        };
        let mut placement = Placement::new(PlacementOptions::default(), Random::from_seed(seed));
        placement.set_directory(Arc::new(Directory::new(1, (1..=nodes).map(info))));
        placement
    }

    fn report(placement: &mut Placement, ms: u64, node: u64, cpu: f64) {
        let load = Load { cpu, ..Load::default() };
        placement.handle_report(at(ms), Incarnation(node), load);
    }

    /// How far from even a thousand placements over the 5 s between two reports are at worst.
    fn unevenness(mut placement: Placement, nodes: u64) -> f64 {
        (1..=nodes).for_each(|node| report(&mut placement, 0, node, 0.3));
        let mut counts = BTreeMap::new();
        for n in 0..1_000 {
            let seat = placement.reserve(at(n * 5), &Wanted::of(ROOM)).unwrap();
            *counts.entry(seat.node).or_insert(0.0) += 1.0;
        }
        let even = 1_000.0 / nodes as f64;
        let counts = (1..=nodes).map(|n| counts.get(&Incarnation(n)).copied().unwrap_or(0.0));
        counts.map(|count: f64| (count - even).abs() / even).fold(0.0, f64::max)
    }

    #[test]
    fn d6_a_thousand_placements_between_two_reports_spread_within_a_fifth_of_even() {
        for (nodes, seed) in [(2u64, 1u64), (5, 2), (10, 3), (20, 4)] {
            let worst = unevenness(placement(nodes, seed), nodes);
            assert!(worst <= 0.2, "{nodes} nodes: {worst}");
        }
        // It is what was just given that does it.
        let mut blind = placement(20, 4);
        blind.options.anticipated = 0.0;
        let worst = unevenness(blind, 20);
        assert!(worst > 0.2, "{worst}");
    }

    /// A busy machine in the moment of a report: mail waits 50 ms at one node, 5 ms at the other.
    #[test]
    fn d7_what_a_report_has_by_chance_does_not_send_all_to_one_node() {
        let mut placement = placement(2, 10);
        report(&mut placement, 0, 1, 0.50);
        report(&mut placement, 0, 2, 0.05);
        let nodes = (0..40).map(|n| placement.reserve(at(n * 10), &Wanted::of(ROOM)).unwrap().node);
        let busier = nodes.filter(|node| *node == Incarnation(1)).count();
        assert!((10..20).contains(&busier), "{busier}");
    }

    #[test]
    fn d6_several_instances_that_do_not_know_of_each_other_spread_as_well() {
        let mut all: Vec<Placement> = (0..4).map(|seed| placement(10, seed)).collect();
        let mut counts = BTreeMap::new();
        for n in 0..1_000 {
            let placement = &mut all[n % 4];
            if n < 4 {
                (1..=10).for_each(|node| report(placement, 0, node, 0.3));
            }
            let seat = placement.reserve(at(n as u64), &Wanted::of(ROOM)).unwrap();
            *counts.entry(seat.node).or_insert(0u64) += 1;
        }
        assert!(counts.values().all(|count| (80..=120).contains(count)), "{counts:?}");
    }

    #[test]
    fn d7_a_busy_node_gets_less_until_it_has_calmed_down_and_a_peak_is_not_forgotten_at_once() {
        let mut placement = placement(2, 5);
        report(&mut placement, 0, 1, 0.9);
        report(&mut placement, 0, 2, 0.1);
        let seat = placement.reserve(at(1), &Wanted::of(ROOM)).unwrap();
        assert_eq!(seat.node, Incarnation(2));
        // What was given counts at once and fades within 5 s.
        let load = |placement: &Placement, ms| placement.load_of(at(ms), Incarnation(2)).unwrap();
        assert!((load(&placement, 1) - 0.15).abs() < 1e-9);
        assert!((load(&placement, 5_001) - 0.10).abs() < 1e-9);
        // One report of calm after a busy time is not believed at once: 5, 30 and 90 s count.
        report(&mut placement, 5_000, 1, 0.0);
        let calm = placement.load_of(at(5_000), Incarnation(1)).unwrap();
        assert!((0.3..0.6).contains(&calm), "{calm}");
    }

    #[test]
    fn d5_silent_nodes_count_as_full_and_those_that_leave_get_nothing() {
        let mut placement = placement(2, 6);
        assert_eq!(placement.reserve(at(0), &Wanted::of(ROOM)), Err(NoPlace::Full));
        report(&mut placement, 0, 1, 0.0);
        assert!(placement.expects_report(&Wanted::of(ROOM)), "of the other");
        report(&mut placement, 10_000, 2, 0.9);
        assert!(!placement.expects_report(&Wanted::of(ROOM)));
        assert!(!placement.expects_report(&Wanted::of(KindId::of("other"))));
        let late = placement.reserve(at(16_000), &Wanted::of(ROOM)).unwrap();
        assert_eq!(late.node, Incarnation(2), "the other has said nothing for 16 s");
        let mut leaving = NodeInfo::new("node-2", Incarnation(2));
        leaving.kinds.push(ROOM);
        leaving.draining = true;
        placement.set_directory(Arc::new(Directory::new(2, [Arc::new(leaving)])));
        assert_eq!(placement.reserve(at(16_000), &Wanted::of(ROOM)), Err(NoPlace::Nowhere));
        report(&mut placement, 16_000, 2, f64::NAN);
        let other = Wanted::of(KindId::of("other"));
        assert_eq!(placement.reserve(at(16_000), &other), Err(NoPlace::Nowhere));
    }

    #[test]
    fn d8_seats_are_kept_for_a_while_taken_once_and_go_with_their_node() {
        let mut placement = placement(2, 7);
        for node in [1, 2] {
            let load = Load { rooms: 1, rooms_max: 2, ..Load::default() };
            placement.handle_report(at(0), Incarnation(node), load);
        }
        let seats = [0, 1].map(|_| placement.reserve(at(0), &Wanted::of(ROOM)).unwrap());
        assert_ne!(seats[0].node, seats[1].node, "each has one place left");
        assert_eq!(placement.reserve(at(0), &Wanted::of(ROOM)), Err(NoPlace::Full));
        assert_eq!(placement.take(at(1), seats[0].ticket), Ok(seats[0].node));
        assert_eq!(placement.take(at(1), seats[0].ticket), Err(NoPlace::Gone));
        // What is made there does not show in the node's reports yet.
        assert_eq!(placement.reserve(at(2), &Wanted::of(ROOM)), Err(NoPlace::Full));
        // Nobody came for the other one.
        assert_eq!(placement.poll_timeout(), Some(at(10_000)));
        placement.handle_timeout(at(10_000));
        assert_eq!(placement.take(at(10_000), seats[1].ticket), Err(NoPlace::Gone));
        for node in [1, 2] {
            let load = Load { rooms: 1, rooms_max: 2, ..Load::default() };
            placement.handle_report(at(10_000), Incarnation(node), load);
        }
        let seat = placement.reserve(at(10_000), &Wanted::of(ROOM).role("odd")).unwrap();
        assert_eq!(seat.node, Incarnation(1));
        placement.set_directory(Arc::default());
        assert_eq!(placement.take(at(10_001), seat.ticket), Err(NoPlace::Gone));
    }

    #[test]
    fn d8_a_node_that_refuses_a_seat_is_not_asked_again_before_its_next_report() {
        let mut placement = placement(2, 9);
        report(&mut placement, 0, 1, 0.1);
        report(&mut placement, 0, 2, 0.9);
        let seat = placement.reserve(at(0), &Wanted::of(ROOM)).unwrap();
        assert_eq!(seat.node, Incarnation(1));
        placement.handle_refusal(seat.ticket);
        assert_eq!(placement.take(at(0), seat.ticket), Err(NoPlace::Gone));
        let other = placement.reserve(at(0), &Wanted::of(ROOM)).unwrap();
        assert_eq!(other.node, Incarnation(2));
        placement.handle_refusal(other.ticket);
        assert_eq!(placement.reserve(at(0), &Wanted::of(ROOM)), Err(NoPlace::Full));
        report(&mut placement, 1_000, 1, 0.1);
        assert_eq!(placement.reserve(at(1_000), &Wanted::of(ROOM)).unwrap().node, Incarnation(1));
    }

    #[test]
    fn d6_what_is_wanted_is_kept_to_and_nearness_yields_to_load() {
        let mut placement = placement(4, 8);
        (1..=4).for_each(|node| report(&mut placement, 0, node, 0.2));
        let near = Wanted::of(ROOM).near(Incarnation(3));
        assert_eq!(placement.reserve(at(0), &near).unwrap().node, Incarnation(3));
        report(&mut placement, 60_000, 3, 0.9);
        [1, 2, 4].iter().for_each(|node| report(&mut placement, 60_000, *node, 0.2));
        assert_ne!(placement.reserve(at(60_000), &near).unwrap().node, Incarnation(3));
        for _ in 0..20 {
            let even = placement.reserve(at(60_000), &Wanted::of(ROOM).role("even")).unwrap();
            assert!(even.node.0.is_multiple_of(2));
        }
        let foreign = Wanted::of(ROOM).interface(7);
        assert_eq!(placement.reserve(at(60_000), &foreign), Err(NoPlace::Nowhere));
    }
}
