use std::time::Duration;

use env::Calendar;

/// Limits and waits of one worker's entities. Plain data, as a configuration file holds it.
#[derive(Clone, Debug)]
pub struct HostOptions {
    /// How long a caller waits for an answer, unless the method or the call says otherwise.
    pub call_wait: Duration,
    /// Most messages that wait for one entity, unless its kind says otherwise.
    pub mailbox_max: u32,
    /// Most messages that wait on this worker, all entities together.
    pub mail_max: u32,
    /// Most calls that one entity has in flight, unless its kind says otherwise.
    pub entity_calls_max: u32,
    /// Most calls that this worker has in flight per kind; at most 2^20.
    pub calls_max: u32,
    /// Most `interleave` turns of one entity open at a time, unless its kind says otherwise.
    pub entity_turns_max: u32,
    /// Most turns of this worker open (suspended at an await) at a time.
    pub turns_max: u32,
    /// Most entities on this worker.
    pub entities_max: u32,
    /// Most timers on this worker, all entities together.
    pub timers_max: u32,
    /// Most messages on the way to one other worker of this node.
    pub worker_queue_max: u32,
    /// Most messages that one entity handles before the next one has its turn.
    pub batch: u32,
    /// Most entities (a batch each) and suspended turns that one `turn` runs before it returns to its
    /// driver.
    pub turn_budget: u32,
    /// A handler that takes longer is reported.
    pub slow_handler: Duration,
    /// Longest arguments, and longest reply, that go to another node, in bytes. A node sets it to
    /// the longest frame of its mesh, less 8 KiB: one setting for both.
    pub message_bytes_max: usize,
    /// Three panics of one entity within this time quarantine it.
    pub panic_window: Duration,
    /// When the day of the game changes: the `daily` hook of every entity runs.
    pub daily: Calendar,
    /// How many destroyed entities are remembered, to tell `Gone` from `NotFound`.
    pub gone_max: usize,
    /// Test mode: arguments and replies of local calls are encoded and decoded too, so that
    /// moving an entity to another node changes nothing but time.
    pub encode_all: bool,
    /// Whether keyed entities wait for their document: a first call then asks for an activation
    /// by an event, instead of creating the entity at once.
    pub activate_by_event: bool,
    /// The zones for which what is local is hosted here; none: the only one of a cluster that names
    /// none. A node sets them, and `channels`, to its own.
    pub zones: Vec<String>,
    /// The channels.
    pub channels: Vec<String>,
}

impl Default for HostOptions {
    fn default() -> Self {
        HostOptions {
            call_wait: Duration::from_secs(4),
            mailbox_max: 1_024,
            mail_max: 1 << 20,
            entity_calls_max: 888,
            calls_max: 1 << 16,
            entity_turns_max: 64,
            turns_max: 1 << 16,
            entities_max: 4_000_000,
            timers_max: 1 << 20,
            worker_queue_max: 65_536,
            batch: 32,
            turn_budget: 2_048,
            slow_handler: Duration::from_millis(50),
            message_bytes_max: 1024 * 1024 - 8 * 1024,
            panic_window: Duration::from_secs(60),
            daily: Calendar::daily("05:00", "UTC").expect("a time of day and a time zone"),
            gone_max: 65_536,
            encode_all: false,
            activate_by_event: false,
            zones: Vec::new(),
            channels: Vec::new(),
        }
    }
}
