//! The coordinator as a process of its own: the cores of the real one and of those attached to it, whose
//! messages go over lines that break, lag and are cut.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ::cluster::carried::{Attached, Center, Stored};
use ::cluster::{NodeInfo, Options};
use env::{Instant, Random};

use crate::cluster::Cluster;
use crate::net::{Happening, Place, Site};

/// What goes wrong at the coordinator and on the way to it. Chances are per thousand and second.
#[derive(Clone, Debug, Default)]
pub struct CenterFaults {
    /// It stands still for up to `stall_max`; what is sent to it waits there.
    pub stall: u64,
    /// The longest standstill.
    pub stall_max: Duration,
    /// Its process ends, and is back within `away_max`.
    pub restart: u64,
    /// The longest time that it is away.
    pub away_max: Duration,
    /// One that comes back has nothing, per thousand.
    pub emptied: u64,
    /// One that comes back has what it had some time ago, per thousand.
    pub restored: u64,
    /// It loses the lease of somebody who has renewed it.
    pub lose_lease: u64,
    /// A message is late, per thousand of messages, up to `late_max`.
    pub late: u64,
    /// The longest that a message takes.
    pub late_max: Duration,
}

impl CenterFaults {
    /// A random choice of faults at random rates.
    pub fn swarm(random: &mut Random) -> Self {
        let mut some = |rate: u64| rate * [0, 0, 1, 2, 4][random.below(5) as usize] / 2;
        CenterFaults {
            stall: some(40),
            stall_max: Duration::from_secs(7),
            restart: some(40),
            away_max: Duration::from_secs(5),
            emptied: 300,
            restored: 300,
            lose_lease: some(40),
            late: some(30),
            late_max: Duration::from_secs(2),
        }
    }
}

/// How often each has struck.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub struct CenterCounts {
    pub stalls: u64,
    pub restarts: u64,
    pub emptied: u64,
    pub restored: u64,
    pub leases_lost: u64,
    pub lates: u64,
    pub lines_broken: u64,
}

impl CenterCounts {
    /// Names and numbers, in order.
    pub fn list(&self) -> [(&'static str, u64); 7] {
        [
            ("coordinators stopped for a while", self.stalls),
            ("coordinators restarted", self.restarts),
            ("... emptied", self.emptied),
            ("... restored from an old copy", self.restored),
            ("leases lost", self.leases_lost),
            ("messages of the coordinator late", self.lates),
            ("lines to the coordinator broken", self.lines_broken),
        ]
    }
}

/// A coordinator that is silent for so long is given up.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// It gives a sign of life so often.
const ALIVE_EVERY: Duration = Duration::from_secs(1);
/// A standstill of it after which all leases get their full time.
const PAUSE: Duration = Duration::from_secs(3);
/// The first and the longest pause between two attempts to attach.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// The coordinator and the ends of all lines to it.
pub(crate) struct Coordination {
    pub(crate) options: Options,
    pub(crate) faults: CenterFaults,
    pub(crate) counts: CenterCounts,
    random: Random,
    center: Option<Center>,
    /// Rises with each start of it.
    life: u32,
    /// When it gives its next sign of life.
    alive_at: Instant,
    stalled_until: Instant,
    /// What its disk held at some times.
    copies: Vec<Stored>,
    processes: BTreeMap<Site, Process>,
    lines: u64,
}

/// A process that is attached to the coordinator, or tries to be.
struct Process {
    attached: Attached,
    info: NodeInfo,
    /// Names this life of it.
    number: u64,
    line: Option<Line>,
    retry_at: Instant,
    pause: Duration,
    renew_at: Instant,
    wake_at: Instant,
    /// The list that its places go by.
    revision: u64,
}

#[derive(Debug)]
struct Line {
    number: u64,
    heard_at: Instant,
    /// Nothing sent in a direction arrives before what was sent before.
    last: [Instant; 2],
    /// What a cut holds up, by direction: to the coordinator, from it.
    stuck: [Vec<Vec<u8>>; 2],
}

/// Which way a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Course {
    Up,
    Down,
}

impl Coordination {
    pub(crate) fn new(random: Random, options: Options, faults: CenterFaults) -> Self {
        Coordination {
            options,
            faults,
            counts: CenterCounts::default(),
            random,
            center: None,
            life: 0,
            alive_at: Instant::ZERO,
            stalled_until: Instant::ZERO,
            copies: Vec::new(),
            processes: BTreeMap::new(),
            lines: 0,
        }
    }

    fn strikes(&mut self, rate: u64) -> bool {
        rate > 0 && self.random.chance(rate, 1000)
    }

    fn up_to(&mut self, most: Duration) -> Duration {
        Duration::from_micros(self.random.below(most.as_micros() as u64 + 1))
    }

    /// The process at the other end of a line.
    fn at_line(&self, line: u64) -> Option<Site> {
        let is_it = |process: &Process| process.line.as_ref().is_some_and(|l| l.number == line);
        self.processes.iter().find(|(_, process)| is_it(process)).map(|(site, _)| *site)
    }
}

impl Cluster {
    /// Starts the coordinator and attaches all who are there, if it is a process of its own.
    pub(crate) fn start_coordination(&mut self, now: Instant) {
        let Some((lease, _)) = self.options.coordinator else { return };
        let options = Options { lease, ..Options::default() };
        let random = Random::from_seed(self.options.seed ^ 0xc00d);
        self.coordination = Some(Coordination::new(random, options, CenterFaults::default()));
        self.start_center(now, None);
        for gate in 0..self.gates.len() {
            let info = NodeInfo::clone(&self.gates[gate].info());
            self.attach(now, Site::Gate(gate), info);
        }
        for node in 0..self.nodes.len() {
            let info = NodeInfo::clone(&self.nodes[node].info);
            self.attach(now, Site::Node(node), info);
        }
    }

    /// How often the faults of the coordinator have struck.
    pub fn center_counts(&self) -> CenterCounts {
        self.coordination.as_ref().map(|all| all.counts).unwrap_or_default()
    }

    fn coordination(&mut self) -> &mut Coordination {
        self.coordination.as_mut().expect("only asked for where there is one")
    }

    /// A process begins, and wants to be listed.
    pub(crate) fn attach(&mut self, now: Instant, site: Site, info: NodeInfo) {
        let clock = self.ground.clock.clone();
        let Some(all) = &mut self.coordination else { return };
        all.lines += 1;
        let attached = Attached::new(&all.options, &clock);
        attached.register(now, info.clone());
        let process = Process {
            attached,
            info,
            number: all.lines,
            line: None,
            retry_at: now,
            pause: PAUSES.0,
            renew_at: now + all.options.lease / 3,
            wake_at: Instant::NEVER,
            revision: 0,
        };
        all.processes.insert(site, process);
        self.work_process(now, site);
    }

    /// The process is gone without a word.
    pub(crate) fn detach(&mut self, site: Site) {
        let Some(all) = &mut self.coordination else { return };
        let gone = all.processes.remove(&site).and_then(|process| process.line);
        if let (Some(line), Some(center)) = (gone, &mut all.center) {
            center.handle_gone(line.number);
        }
    }

    /// A process says something else of itself.
    pub(crate) fn relist_as(&mut self, now: Instant, site: Site, info: NodeInfo) {
        let Some(process) = self.coordination.as_mut().and_then(|c| c.processes.get_mut(&site))
        else {
            return;
        };
        process.info = info.clone();
        process.attached.register(now, info);
        self.work_process(now, site);
    }

    /// A process that ends takes itself off the list.
    pub(crate) fn delist(&mut self, now: Instant, site: Site) {
        let Some(process) = self.coordination.as_mut().and_then(|c| c.processes.get_mut(&site))
        else {
            return;
        };
        process.attached.deregister(now, process.info.incarnation);
        process.renew_at = Instant::NEVER;
        self.work_process(now, site);
    }

    /// A process does what is due for the coordinator.
    pub(crate) fn work_process(&mut self, now: Instant, site: Site) {
        let is_up = self.coordination.as_ref().is_some_and(|all| all.center.is_some());
        let all = self.coordination();
        let lease = all.options.lease;
        let Some(process) = all.processes.get_mut(&site) else { return };
        if process.line.as_ref().is_some_and(|line| now - line.heard_at >= SILENCE_MAX) {
            self.break_line(now, site);
        }
        let all = self.coordination();
        let Some(process) = all.processes.get_mut(&site) else { return };
        let mut messages = Vec::new();
        if process.line.is_none() && process.retry_at <= now {
            if is_up {
                all.lines += 1;
                let number = all.lines;
                let stuck = [Vec::new(), Vec::new()];
                process.line = Some(Line { number, heard_at: now, last: [now; 2], stuck });
                messages.push(process.attached.hello());
            } else {
                process.retry_at = now + process.pause;
                process.pause = (process.pause * 2).min(PAUSES.1);
            }
        }
        if process.renew_at <= now {
            process.renew_at = now + lease / 3;
            if process.attached.renew(now, process.info.incarnation).is_err() {
                process.attached.register(now, process.info.clone());
            }
        }
        process.attached.handle_timeout(now);
        messages.extend(std::iter::from_fn(|| process.attached.poll_message()));
        let line = process.line.as_ref().map(|line| line.number);
        for message in messages {
            if let Some(line) = line {
                self.send_line(now, site, line, Course::Up, message);
            }
        }
        self.show_views(now, site);
        self.plan_process(now, site);
    }

    fn plan_process(&mut self, now: Instant, site: Site) {
        let Some(process) = self.coordination().processes.get_mut(&site) else { return };
        let silence = process.line.as_ref().map_or(process.retry_at, |l| l.heard_at + SILENCE_MAX);
        let due = process.attached.poll_timeout().unwrap_or(Instant::NEVER);
        let next = due.min(silence).min(process.renew_at).max(now + Duration::from_millis(1));
        if process.wake_at <= now || next < process.wake_at {
            process.wake_at = next;
            let number = process.number;
            self.net.at(next, Happening::Process(site, number));
        }
    }

    /// A process looks at its watch.
    pub(crate) fn wake_process(&mut self, now: Instant, site: Site, number: u64) {
        let all = self.coordination();
        if all.processes.get(&site).is_some_and(|process| process.number == number) {
            self.work_process(now, site);
        }
    }

    /// Tells the places of a process what its list of nodes is now.
    fn show_views(&mut self, now: Instant, site: Site) {
        let Some(process) = self.coordination().processes.get_mut(&site) else { return };
        let directory = process.attached.directory();
        if std::mem::replace(&mut process.revision, directory.revision()) == directory.revision() {
            return;
        }
        match site {
            Site::Gate(gate) => self.hand_view(now, Place::Gate(gate), &directory),
            Site::Node(node) => {
                for worker in 0..self.options.workers {
                    self.hand_view(now, Place::Worker(node, worker), &directory);
                }
            }
            Site::Coordinator => {}
        }
    }

    fn hand_view(&mut self, now: Instant, place: Place, directory: &Arc<::cluster::Directory>) {
        self.net.at(now, Happening::View(place, Arc::clone(directory)));
    }

    fn break_line(&mut self, now: Instant, site: Site) {
        let all = self.coordination();
        let Some(process) = all.processes.get_mut(&site) else { return };
        let Some(line) = process.line.take() else { return };
        process.attached.handle_disconnected(now);
        process.retry_at = now + process.pause;
        process.pause = (process.pause * 2).min(PAUSES.1);
        all.counts.lines_broken += 1;
        if let Some(center) = &mut all.center {
            center.handle_gone(line.number);
        }
        self.notes.add(now, || format!("{site} loses the coordinator"));
    }

    fn send_line(&mut self, now: Instant, site: Site, line: u64, course: Course, message: Vec<u8>) {
        let ends = (site, Site::Coordinator);
        let ends = if course == Course::Up { ends } else { (ends.1, ends.0) };
        let is_cut = self.net.is_way_cut(ends.0, ends.1);
        let healed = self.healed;
        let all = self.coordination();
        let mut way = Duration::from_micros(50 + all.random.below(400));
        if !healed && all.strikes(all.faults.late) {
            all.counts.lates += 1;
            way += all.up_to(all.faults.late_max);
        }
        let Some(process) = all.processes.get_mut(&site) else { return };
        let Some(open) = process.line.as_mut().filter(|open| open.number == line) else { return };
        if is_cut {
            open.stuck[course as usize].push(message);
            return;
        }
        let last = &mut open.last[course as usize];
        *last = (now + way).max(*last);
        let at = *last;
        self.net.at(at, Happening::Line(line, course, message));
    }

    /// What a cut held up goes on.
    pub(crate) fn free_lines(&mut self, now: Instant) {
        let Some(all) = &mut self.coordination else { return };
        let mut freed = Vec::new();
        for (site, process) in &mut all.processes {
            let Some(line) = &mut process.line else { continue };
            for course in [Course::Up, Course::Down] {
                for message in std::mem::take(&mut line.stuck[course as usize]) {
                    freed.push((*site, line.number, course, message));
                }
            }
        }
        // One whose way is cut still is held up again.
        for (site, line, course, message) in freed {
            self.send_line(now, site, line, course, message);
        }
    }

    /// A message arrives at an end of a line.
    pub(crate) fn handle_line(
        &mut self,
        now: Instant,
        line: u64,
        course: Course,
        message: Vec<u8>,
    ) {
        let Some(site) = self.coordination().at_line(line) else { return };
        let stalled = match course {
            Course::Up => self.coordination().stalled_until,
            Course::Down => match site {
                Site::Node(node) => self.nodes[node].stalled_until,
                _ => Instant::ZERO,
            },
        };
        if stalled > now {
            return self.net.at(stalled, Happening::Line(line, course, message));
        }
        self.trace.note(now, 6, line, &message);
        match course {
            Course::Up => {
                if let Some(center) = &mut self.coordination().center {
                    center.handle(now, line, &message);
                }
                self.say(now);
            }
            Course::Down => {
                let Some(process) = self.coordination().processes.get_mut(&site) else { return };
                process.pause = PAUSES.0;
                if let Some(line) = &mut process.line {
                    line.heard_at = now;
                }
                process.attached.handle(now, &message);
                self.work_process(now, site);
            }
        }
    }

    /// Sends what the coordinator says.
    fn say(&mut self, now: Instant) {
        let Some(center) = &mut self.coordination().center else { return };
        let said: Vec<_> = std::iter::from_fn(|| center.poll_tell()).collect();
        for (line, message) in said {
            if let Some(site) = self.coordination().at_line(line) {
                self.send_line(now, site, line, Course::Down, message);
            }
        }
    }

    // -- the coordinator --

    /// The coordinator's process begins, with what is on its disk.
    pub(crate) fn start_center(&mut self, now: Instant, stored: Option<Stored>) {
        let wall = self.wall();
        let all = self.coordination();
        all.life += 1;
        all.center = Some(Center::new(now, wall, &all.options, stored));
        (all.alive_at, all.stalled_until) = (now, Instant::ZERO);
        let life = all.life;
        self.net.at(now, Happening::Center(life));
    }

    /// It looks at its watch.
    pub(crate) fn work_center(&mut self, now: Instant, life: u32) {
        let all = self.coordination();
        let (until, is_it) = (all.stalled_until, all.life == life);
        let Some(center) = all.center.as_mut().filter(|_| is_it) else { return };
        if until > now {
            return self.net.at(until, Happening::Center(life));
        }
        if now - all.alive_at > PAUSE {
            center.prolong(now);
        }
        center.handle_timeout(now);
        if all.alive_at <= now {
            all.alive_at = now + ALIVE_EVERY;
            center.say_alive();
            // A copy is made now and then.
            all.copies.push(center.stored());
            if all.copies.len() > 12 {
                all.copies.remove(0);
            }
        }
        let due = center.poll_timeout().unwrap_or(Instant::NEVER);
        let next = due.min(all.alive_at).max(now + Duration::from_millis(1));
        self.net.at(next, Happening::Center(life));
        self.say(now);
    }

    /// The coordinator's process ends; it is back after `away`.
    pub fn restart_coordinator(&mut self, away: Duration) {
        let now = self.now();
        let all = self.coordination();
        let Some(center) = all.center.take() else { return };
        all.counts.restarts += 1;
        let stored = if all.strikes(all.faults.emptied) {
            all.counts.emptied += 1;
            None
        } else if !all.copies.is_empty() && all.strikes(all.faults.restored) {
            all.counts.restored += 1;
            let at = all.random.below(all.copies.len() as u64) as usize;
            Some(all.copies[at].clone())
        } else {
            Some(center.stored())
        };
        let what = if stored.is_some() { "with its keys" } else { "emptied" };
        self.notes.add(now, || format!("the coordinator is away for {away:?}, and back {what}"));
        let sites: Vec<Site> = self.coordination().processes.keys().copied().collect();
        for site in sites {
            self.break_line(now, site);
            self.work_process(now, site);
        }
        self.net.at(now + away, Happening::CenterStart(stored.map(Box::new)));
    }

    /// Once a simulated second: something happens to the coordinator, by chance.
    pub(crate) fn strike_center(&mut self, now: Instant) {
        let Some(all) = &mut self.coordination else { return };
        if all.center.is_none() {
            return;
        }
        if all.strikes(all.faults.stall) && all.stalled_until <= now {
            all.counts.stalls += 1;
            let span = all.up_to(all.faults.stall_max);
            all.stalled_until = now + span;
            self.notes.add(now, || format!("the coordinator stands still for {span:?}"));
        }
        let all = self.coordination();
        if all.strikes(all.faults.lose_lease) && !all.processes.is_empty() {
            all.counts.leases_lost += 1;
            let at = all.random.below(all.processes.len() as u64) as usize;
            let (site, process) = all.processes.iter().nth(at).expect("one of them");
            let (site, node) = (*site, process.info.incarnation);
            if let Some(center) = &mut all.center {
                center.lose_lease(now, node);
            }
            self.notes.add(now, || format!("the coordinator loses the lease of {site}"));
            self.say(now);
        }
        let all = self.coordination();
        if all.strikes(all.faults.restart) {
            let away = all.up_to(all.faults.away_max);
            self.restart_coordinator(away);
        }
    }
}
