use std::net::SocketAddr;
use std::time::Duration;

use proto::Incarnation;

/// Limits and times of a [`Mesh`](crate::Mesh). All meshes of a cluster should have the same.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the cluster; nodes of another one are refused. At most 256 bytes.
    pub cluster: String,
    /// How many workers of this node take local mail: ids `0..workers`.
    pub workers: u8,
    /// Longest frame, in bytes of payload.
    pub frame_bytes_max: usize,
    /// A queue this long takes replies only, in bytes.
    pub queue_bytes_soft: usize,
    /// A link whose queue grows over this is closed, in bytes.
    pub queue_bytes_hard: usize,
    /// Most bytes kept for a node while it cannot be reached yet.
    pub pending_bytes_max: usize,
    /// How long mail waits for a node that cannot be reached before it is dropped.
    pub pending_wait: Duration,
    /// How long a dial may take.
    pub connect_wait: Duration,
    /// How long one address of a node is tried before the next is tried beside it.
    pub dial_stagger: Duration,
    /// How long the handshake may take.
    pub handshake_wait: Duration,
    /// A link silent for this long is pinged.
    pub heartbeat: Duration,
    /// So many pings without any sign of life end a link.
    pub missed_max: u32,
    /// First wait before dialing again; doubles up to `retry_max`, each with jitter.
    pub retry_first: Duration,
    /// Longest wait before dialing again.
    pub retry_max: Duration,
    /// Most accepted links that have not proven themselves yet.
    pub handshakes_max: usize,
    /// Most links.
    pub links_max: usize,
}

impl Default for Options {
    /// One worker of a cluster called `mainstay`, with the starting values.
    fn default() -> Self {
        Options {
            cluster: "mainstay".into(),
            workers: 1,
            frame_bytes_max: 1024 * 1024,
            queue_bytes_soft: 4 * 1024 * 1024,
            queue_bytes_hard: 32 * 1024 * 1024,
            pending_bytes_max: 1024 * 1024,
            pending_wait: Duration::from_secs(3),
            connect_wait: Duration::from_secs(3),
            dial_stagger: Duration::from_millis(250),
            handshake_wait: Duration::from_secs(5),
            heartbeat: Duration::from_secs(6),
            missed_max: 3,
            retry_first: Duration::from_millis(100),
            retry_max: Duration::from_secs(10),
            handshakes_max: 256,
            links_max: 16_384,
        }
    }
}

/// Names one link of one mesh. Never means another one later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// How to reach a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerInfo {
    /// The name that it must prove to have.
    pub name: String,
    /// Its addresses, best first; the first that answers wins. Empty for a node of this process, which the driver finds
    /// by itself.
    pub addresses: Vec<SocketAddr>,
}

/// Why a frame was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// Too much waits already (`Busy`): nothing was sent, back off.
    #[error("the queue to the node is full: back off")]
    Full,
    /// The node is listed but cannot be reached now (`Unavailable`).
    #[error("the node cannot be reached now")]
    Down,
    /// The node is not listed, or has no such worker (`Gone`).
    #[error("the node is not listed")]
    Unknown,
    /// The frame is over `frame_bytes_max` (`BadArgument`).
    #[error("a frame of {bytes} bytes is over the limit of {max}")]
    TooLong {
        /// Its length, in bytes.
        bytes: usize,
        /// The limit, in bytes.
        max: usize,
    },
}

/// Why a link was not taken: close it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// `links_max` is reached.
    #[error("{0} links are open: raise links_max")]
    Links(usize),
    /// `handshakes_max` links are still proving themselves.
    #[error("{0} links are still proving themselves")]
    Handshakes(usize),
}

/// What a mesh did and saw since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Counters {
    pub links_up: u64,
    pub links_down: u64,
    pub dials: u64,
    pub dial_failures: u64,
    /// Closed for another protocol version.
    pub refused_version: u64,
    /// Closed for another cluster's name.
    pub refused_cluster: u64,
    /// Closed for a proof that does not fit the key.
    pub refused_key: u64,
    /// Closed for being another node than the one dialed, or ourselves.
    pub refused_identity: u64,
    /// Closed before anything was proven because a limit was reached.
    pub refused_limit: u64,
    /// Closed in the handshake by time or by the peer.
    pub handshake_failures: u64,
    /// Closed for bytes that the protocol does not allow.
    pub protocol_errors: u64,
    /// Closed for silence.
    pub silent: u64,
    /// Closed for a queue over its hard limit.
    pub overflows: u64,
    /// Sends refused as `Full`.
    pub full: u64,
    /// Bytes dropped because a node could not be reached in time.
    pub pending_dropped_bytes: u64,
    /// Frames for another worker dropped, because there is none or its queue was over the hard
    /// limit.
    pub local_dropped: u64,
    /// Frames passed on from a link to another worker of this node.
    pub forwarded: u64,
    /// Frames from another worker of this node dropped, because they came by a link that their sender
    /// had left for one that was heard before them.
    pub late_dropped: u64,
}

impl LinkId {
    pub(crate) const fn new(index: u32, generation: u32) -> Self {
        LinkId { index, generation }
    }
}

/// Who a link belongs to, in logs.
pub(crate) fn describe(node: Incarnation, name: &str) -> String {
    if name.is_empty() { node.to_string() } else { format!("{name} ({node})") }
}
