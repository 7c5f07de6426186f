use std::time::Duration;

use env::Random;

/// What goes wrong, and how often. Chances are per thousand.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// A connection of a client breaks within a piece of bytes that is being sent.
    pub cut_client: u64,
    /// A link between nodes breaks within a piece of bytes that is being sent.
    pub cut_link: u64,
    /// One end of a broken connection learns of it late, up to `late_max`.
    pub late_end: u64,
    /// The longest that an end takes to learn that its connection broke.
    pub late_max: Duration,
    /// A piece of bytes is delayed up to `delay_max`.
    pub delay: u64,
    /// The longest delay.
    pub delay_max: Duration,
    /// A link between nodes carries nothing for up to `lag_max`: what is sent on it meanwhile
    /// arrives afterwards, in order, while other links are as fast as ever.
    pub lag: u64,
    /// The longest lag.
    pub lag_max: Duration,
    /// The connection of a client breaks right after the client has asked to be let in, which the
    /// gate hears up to `lag_max` later.
    pub cut_admission: u64,
    /// Bytes arrive in smaller pieces than they were sent in.
    pub split: u64,
    /// A gate is killed and comes back, per second.
    pub kill_gate: u64,
    /// A worker or gate does nothing for up to `stall_max`, per second.
    pub stall: u64,
    /// The longest stall.
    pub stall_max: Duration,
    /// A client connects to a gate that does not take it.
    pub refuse: u64,
}

impl Faults {
    /// Nothing goes wrong.
    pub fn none() -> Self {
        Faults::default()
    }

    /// Everything goes wrong now and then.
    pub fn all() -> Self {
        Faults {
            cut_client: 8,
            cut_link: 1,
            late_end: 300,
            late_max: Duration::from_secs(4),
            delay: 20,
            delay_max: Duration::from_millis(800),
            lag: 2,
            lag_max: Duration::from_secs(3),
            cut_admission: 100,
            split: 300,
            kill_gate: 20,
            stall: 60,
            stall_max: Duration::from_millis(1500),
            refuse: 100,
        }
    }

    /// A random choice of faults at random rates, so that some seeds have few and strong ones.
    pub fn swarm(random: &mut Random) -> Self {
        let all = Faults::all();
        let mut some = |rate: u64| {
            let scale = [0, 0, 1, 2, 4][random.below(5) as usize];
            rate * scale / 2
        };
        Faults {
            cut_client: some(all.cut_client),
            cut_link: some(all.cut_link),
            late_end: some(all.late_end),
            delay: some(all.delay),
            lag: some(all.lag),
            cut_admission: some(all.cut_admission),
            split: some(all.split),
            kill_gate: some(all.kill_gate),
            stall: some(all.stall),
            refuse: some(all.refuse),
            ..all
        }
    }
}

/// How often each fault struck, and how often the rare things were seen that it should lead to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Counts {
    pub client_cuts: u64,
    pub link_cuts: u64,
    pub late_ends: u64,
    pub admission_cuts: u64,
    pub delays: u64,
    pub lags: u64,
    pub splits: u64,
    pub gate_kills: u64,
    pub node_kills: u64,
    pub node_drains: u64,
    pub stalls: u64,
    pub refusals: u64,
    pub resumes: u64,
    pub resent: u64,
    pub sessions_lost: u64,
    pub events: u64,
}

impl Counts {
    /// Names and numbers, in order.
    pub fn list(&self) -> [(&'static str, u64); 16] {
        [
            ("client connections cut", self.client_cuts),
            ("... right after asking to be let in", self.admission_cuts),
            ("links cut", self.link_cuts),
            ("ends that learnt late", self.late_ends),
            ("pieces delayed", self.delays),
            ("links that lagged", self.lags),
            ("pieces split", self.splits),
            ("gates killed", self.gate_kills),
            ("nodes killed", self.node_kills),
            ("nodes drained", self.node_drains),
            ("stalls", self.stalls),
            ("connects refused", self.refusals),
            ("sessions resumed", self.resumes),
            ("commands sent again", self.resent),
            ("sessions lost", self.sessions_lost),
            ("events", self.events),
        ]
    }

    /// Adds the counts of another run.
    pub fn add(&mut self, other: &Counts) {
        self.client_cuts += other.client_cuts;
        self.link_cuts += other.link_cuts;
        self.late_ends += other.late_ends;
        self.admission_cuts += other.admission_cuts;
        self.delays += other.delays;
        self.lags += other.lags;
        self.splits += other.splits;
        self.gate_kills += other.gate_kills;
        self.node_kills += other.node_kills;
        self.node_drains += other.node_drains;
        self.stalls += other.stalls;
        self.refusals += other.refusals;
        self.resumes += other.resumes;
        self.resent += other.resent;
        self.sessions_lost += other.sessions_lost;
        self.events += other.events;
    }
}
