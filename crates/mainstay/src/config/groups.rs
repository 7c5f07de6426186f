use std::time::Duration;

use tables::{Item, Problems, Value};

mod table;

pub(super) use table::groups;

/// Every option of one process, as the crates take them.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Gate workers.
    pub gate: gate::Options,
    /// Links among nodes. `cluster` and `workers` are filled in from the file's own keys.
    pub mesh: mesh::Options,
    /// Entities of a worker.
    pub host: node::HostOptions,
    /// Sessions, streams and groups of a worker.
    pub session: node::session::Options,
    /// The node around its workers.
    pub node: NodeLimits,
    /// Registry of nodes.
    pub registry: cluster::Options,
    /// Subjects and queues.
    pub bus: bus::Options,
    /// Ports of clients and other processes.
    pub listen: transport::ListenOptions,
    /// Sockets of a worker.
    pub sockets: transport::Options,
    /// HTTP server.
    pub web: web::Options,
    /// Guest tickets.
    pub guests: web::GuestOptions,
    /// Ownership in the store and write-behind.
    pub store: StoreOptions,
    /// Watching the servers of stores.
    pub watcher: store::WatcherOptions,
    /// Stopping.
    pub drain: DrainOptions,
    /// Logs.
    pub log: LogOptions,
}

/// Limits of a node beside those of its workers; see [`node::NodeOptions`].
#[derive(Clone, Debug)]
pub struct NodeLimits {
    /// Most bytes of frames that wait from one worker to another.
    pub worker_queue_bytes_max: usize,
    /// Threads for blocking work, shared by the workers.
    pub blocking_threads: usize,
    /// Most jobs that wait for such a thread.
    pub blocking_jobs_max: usize,
    /// Rooms that it takes at most when they are placed; 0 is any number.
    pub rooms_max: u32,
    /// A turn of a worker that takes longer is reported while it lasts.
    pub stuck_after: Duration,
    /// How long a stopping worker waits for its last frames to leave.
    pub flush_wait: Duration,
    /// How long a question of the console waits for a worker.
    pub answer_wait: Duration,
}

impl Default for NodeLimits {
    /// As the node itself has them.
    fn default() -> Self {
        let node = node::NodeOptions::new("");
        NodeLimits {
            worker_queue_bytes_max: node.worker_queue_bytes_max,
            blocking_threads: node.blocking_threads,
            blocking_jobs_max: node.blocking_jobs_max,
            rooms_max: node.rooms_max,
            stuck_after: node.stuck_after,
            flush_wait: node.flush_wait,
            answer_wait: node.answer_wait,
        }
    }
}

/// Waits of store and ownership (DESIGN §5).
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// How often a node raises its beat.
    pub beat: Duration,
    /// Without an acknowledged beat for this long a node parks its entities.
    pub park_after: Duration,
    /// Without a beat for this long an observer may mark a node dead.
    pub takeover_after: Duration,
    /// How long a change may wait before it is written.
    pub write_behind: Duration,
}

impl Default for StoreOptions {
    /// 1 s, 5 s, 6 s and 1 s.
    fn default() -> Self {
        StoreOptions {
            beat: Duration::from_secs(1),
            park_after: Duration::from_secs(5),
            takeover_after: Duration::from_secs(6),
            write_behind: Duration::from_secs(1),
        }
    }
}

/// How long a process that stops may take.
#[derive(Clone, Debug)]
pub struct DrainOptions {
    /// In all, before it is forced.
    pub node_max: Duration,
    /// For rooms that wait for their own end.
    pub room_max: Duration,
}

impl Default for DrainOptions {
    /// 30 s, and 30 min for rooms.
    fn default() -> Self {
        DrainOptions { node_max: Duration::from_secs(30), room_max: Duration::from_secs(1_800) }
    }
}

/// What is logged where. Files are written to `log` in the data folder.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// Levels by target: `"info"`, or `"info,gate=debug"`.
    pub levels: String,
    /// Show lines on standard error.
    pub console: bool,
    /// Write rolled files.
    pub files: bool,
    /// A file that would grow beyond this is closed and the next begun, in bytes.
    pub file_bytes_max: u64,
    /// Files kept; older ones are deleted.
    pub files_max: usize,
    /// Lines that may wait to be written before further ones are dropped and counted.
    pub queue_lines_max: usize,
}

impl Default for LogOptions {
    /// `info` to the console, no files; 64 MiB each and 10 of them if switched on.
    fn default() -> Self {
        LogOptions {
            levels: "info".to_string(),
            console: true,
            files: false,
            file_bytes_max: 64 << 20,
            files_max: 10,
            queue_lines_max: 16_384,
        }
    }
}

/// Lays the options of one value over `options`.
pub(super) fn read(item: &Item<'_>, options: &mut Options) {
    let Some(section) = item.section() else { return };
    for group in groups() {
        if let Some(item) = section.item(group.name()) {
            group.read(&item, options);
        }
    }
}

/// Notes options that contradict each other. `value` is what the layers hold.
pub(super) fn check(options: &Options, value: &Value, problems: &Problems) {
    let Options { gate, mesh, session, store, watcher, .. } = options;
    let leaves_room = |bytes: usize| bytes + 1024 <= mesh.frame_bytes_max;
    let rules = [
        (
            gate.frame_bytes_before_login <= gate.frame_bytes_max,
            ["gate.frame_bytes_before_login", "gate.frame_bytes_max"],
            "must not exceed",
        ),
        (
            leaves_room(gate.frame_bytes_max),
            ["gate.frame_bytes_max", "mesh.frame_bytes_max"],
            "must leave 1KiB for the headers of a link below",
        ),
        (
            leaves_room(session.body_bytes_max),
            ["session.body_bytes_max", "mesh.frame_bytes_max"],
            "must leave 1KiB for the headers of a link below",
        ),
        (
            gate.output_bytes_thin <= gate.output_bytes_max,
            ["gate.output_bytes_thin", "gate.output_bytes_max"],
            "must not exceed",
        ),
        (
            mesh.queue_bytes_soft < mesh.queue_bytes_hard,
            ["mesh.queue_bytes_soft", "mesh.queue_bytes_hard"],
            "must be below, so that replies find room,",
        ),
        (
            mesh.retry_first <= mesh.retry_max,
            ["mesh.retry_first", "mesh.retry_max"],
            "must not exceed",
        ),
        (
            session.bind_pause <= session.bind_pause_max,
            ["session.bind_pause", "session.bind_pause_max"],
            "must not exceed",
        ),
        (
            store.beat < store.park_after,
            ["store.beat", "store.park_after"],
            "must be below, or every node parks at once,",
        ),
        (
            watcher.ping_every < watcher.down_after,
            ["watcher.ping_every", "watcher.down_after"],
            "must be below, or every server is down at once,",
        ),
        (
            store.park_after < store.takeover_after,
            ["store.park_after", "store.takeover_after"],
            "must be below, or two nodes act for one entity,",
        ),
    ];
    for (holds, [small, great], message) in rules {
        if !holds {
            // Whichever of the two was given is the one to correct.
            let given = value.at_path(small).or_else(|| value.at_path(great)).unwrap_or(value);
            let path = format!("options.{small}");
            problems.add_at(&given.place, &path, format!("{message} options.{great}"));
        }
    }
}
