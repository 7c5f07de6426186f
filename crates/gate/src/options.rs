use std::time::Duration;

/// A sustained rate with room for a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Units a second in the long run. 0 forbids everything beyond the burst.
    pub per_second: u32,
    /// Units that may come at once.
    pub burst: u32,
}

impl Rate {
    /// `per_second` in the long run, `burst` at once.
    pub const fn new(per_second: u32, burst: u32) -> Self {
        Rate { per_second, burst }
    }

    /// So high that it never holds anyone back.
    pub const UNLIMITED: Rate = Rate::new(u32::MAX, u32::MAX);
}

/// What happens to a session that sends more than its rate allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OverRate {
    /// Frames that may be lost are dropped; numbered ones go through until the session is four
    /// bursts over, then it is closed with `Limit`.
    #[default]
    Thin,
    /// Everything goes through; it is only counted.
    Warn,
    /// The connection is closed with `Limit` at once.
    Close,
}

/// Limits and waits of one gate worker. Every default is safe for the open internet.
#[derive(Clone, Debug)]
pub struct Options {
    /// Most connections of this worker, logged in or not.
    pub connections_max: usize,
    /// Most connections from one address.
    pub connections_per_address_max: u32,
    /// New connections from one network: /24 of IPv4, /64 of IPv6.
    pub handshakes_per_network: Rate,
    /// Logins and resumes of one account.
    pub logins_per_account: Rate,
    /// Whether the two limits per address spare the loopback, behind which a proxy may stand.
    pub spare_loopback: bool,
    /// How many of `connections_max` only operators may take.
    pub operator_places: usize,
    /// The ticket level from which on an account counts as an operator.
    pub operator_level: u8,
    /// From accept to a complete `Login` or `Resume`.
    pub handshake_max: Duration,
    /// How long a session's home may take to admit it.
    pub home_wait: Duration,
    /// Longest frame payload before login, in bytes.
    pub frame_bytes_before_login: usize,
    /// Longest frame payload after login, in bytes.
    pub frame_bytes_max: usize,
    /// Most output that waits for a client that is not logged in, in bytes.
    pub output_bytes_before_login: usize,
    /// A silent connection is pinged after this long. Zero switches heartbeats off.
    pub heartbeat: Duration,
    /// Heartbeats without a sign of life after which a connection is dead.
    pub heartbeats_missed_max: u32,
    /// Silence after which a connection is closed if heartbeats are off.
    pub idle_max: Duration,
    /// How long a begun frame may stay open whatever its sender's speed.
    pub frame_grace: Duration,
    /// After the grace, the least speed of a sender with an open frame, in bytes a second.
    pub sender_bytes_per_second_min: u32,
    /// Output above which unnumbered frames to a client are merged, newest wins, in bytes.
    pub output_bytes_thin: usize,
    /// Output above which a client is closed with `SlowReader`, in bytes.
    pub output_bytes_max: usize,
    /// Most bytes held for a client whose login or route is not complete yet.
    pub held_bytes_max: usize,
    /// Most streams of a session.
    pub streams_max: usize,
    /// Most groups of a connection.
    pub groups_max: usize,
    /// Client frames of one session.
    pub messages: Rate,
    /// Bytes of client frames of one session.
    pub bytes: Rate,
    /// What is done with a session over `messages` or `bytes`.
    pub over_rate: OverRate,
    /// Messages of one account that owners refuse with `Denied`; over it the account is banned.
    pub denied: Rate,
    /// How long such a ban holds.
    pub denied_ban: Duration,
    /// How long the home has to end the streams of a lost owner before the client is told to
    /// resume.
    pub owner_wait: Duration,
    /// Life of a resume token. The home judges the resume window, so this only bounds keys.
    pub token_life: Duration,
    /// How long a closing connection may take to read its last frames.
    pub linger: Duration,
    /// Switches one safety off. Only the simulator sets this, to prove that it would notice.
    #[doc(hidden)]
    pub mutant: Option<Mutant>,
}

/// A safety of gates that the simulator can switch off.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// What comes for a client before its welcome is dropped.
    HeldDropped,
    /// The home of a session does not hear that its connection has ended.
    EndsUntold,
    /// A connection that ends stays in its groups.
    GroupsKept,
    /// A connection ends when the home of its session is lost.
    HomesEnd,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            connections_max: 500_000,
            connections_per_address_max: 256,
            handshakes_per_network: Rate::new(100, 500),
            logins_per_account: Rate::new(1, 10),
            spare_loopback: true,
            operator_places: 64,
            operator_level: 128,
            handshake_max: Duration::from_secs(5),
            home_wait: Duration::from_secs(4),
            frame_bytes_before_login: 4 * 1024,
            frame_bytes_max: 64 * 1024,
            output_bytes_before_login: 4 * 1024,
            heartbeat: Duration::from_secs(6),
            heartbeats_missed_max: 3,
            idle_max: Duration::from_secs(60),
            frame_grace: Duration::from_secs(5),
            sender_bytes_per_second_min: 1024,
            output_bytes_thin: 32 * 1024,
            output_bytes_max: 256 * 1024,
            held_bytes_max: 64 * 1024,
            streams_max: 256,
            groups_max: 256,
            messages: Rate::new(200, 1_000),
            bytes: Rate::new(128 * 1024, 512 * 1024),
            over_rate: OverRate::Thin,
            denied: Rate::new(1, 50),
            denied_ban: Duration::from_secs(10 * 60),
            owner_wait: Duration::from_millis(1_500),
            token_life: Duration::from_secs(24 * 3600),
            linger: Duration::from_secs(1),
            mutant: None,
        }
    }
}
