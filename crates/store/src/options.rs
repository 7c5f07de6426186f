use std::time::Duration;

/// How much a [`Store`](crate::Store) takes in at once, and the limits of its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Operations that may wait; one more is [`Busy`](crate::Error::Busy).
    pub queue_ops_max: usize,
    /// Bytes of the operations that may wait.
    pub queue_bytes_max: usize,
    /// Operations of one durable transaction.
    pub batch_ops_max: usize,
    /// Bytes of the operations of one durable transaction.
    pub batch_bytes_max: usize,
    /// Bytes of the database's page cache.
    pub cache_bytes: usize,
    /// Limits of rows and requests.
    pub limits: Limits,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            queue_ops_max: 65_536,
            queue_bytes_max: 64 << 20,
            batch_ops_max: 16_384,
            batch_bytes_max: 8 << 20,
            cache_bytes: 256 << 20,
            limits: Limits::default(),
        }
    }
}

/// Limits of rows and requests. They are checked when something is written, so lowering one makes
/// nothing unreadable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Sub-documents of one entity.
    pub documents_max: usize,
    /// Bytes of a sub-document's name.
    pub name_bytes_max: usize,
    /// Bytes of all sub-documents of an entity, with their names.
    pub entity_bytes_max: usize,
    /// Entities of one [`activate_many`](crate::Store::activate_many).
    pub activate_max: usize,
    /// Entities whose claims a transaction shows, written or not.
    pub txn_entities_max: usize,
    /// Ledger operations of a transaction.
    pub txn_ledger_max: usize,
    /// Outbox messages of a transaction.
    pub txn_messages_max: usize,
    /// Bytes of an outbox message, topic and body.
    pub message_bytes_max: usize,
    /// Bytes of a transaction's note for the audit.
    pub note_bytes_max: usize,
    /// Bytes of an item's data.
    pub item_bytes_max: usize,
    /// Items of one holder.
    pub items_max: usize,
    /// Currencies of one holder.
    pub currencies_max: usize,
    /// Records of one read, write or transaction.
    pub records_max: usize,
    /// Bytes of a record's key.
    pub record_key_bytes_max: usize,
    /// Bytes of a record.
    pub record_bytes_max: usize,
    /// Rows that one call reads or forgets.
    pub scan_max: usize,
    /// Whether the store is a shard of a set, which serves some slots only.
    #[doc(hidden)]
    pub sharded: bool,
    /// A rule switched off, to prove that a simulation notices. Only [`Shard`](crate::Shard) and the
    /// stores that run its rules look at it.
    #[doc(hidden)]
    pub mutant: Option<Mutant>,
}

/// One rule of a shard switched off.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// A write is done whatever epoch and incarnation it names.
    AnyEpoch,
    /// A write is done whatever version it builds on.
    AnyVersion,
    /// A transaction is done each time that it is asked for.
    IdsForgotten,
    /// An entity is given to whoever asks, released or not.
    OwnedGiven,
    /// A shard goes on serving slots that it has given up.
    SlotsUnfenced,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            documents_max: 64,
            name_bytes_max: 64,
            entity_bytes_max: 1 << 20,
            activate_max: 1_024,
            txn_entities_max: 16,
            txn_ledger_max: 64,
            txn_messages_max: 16,
            message_bytes_max: 64 << 10,
            note_bytes_max: 256,
            item_bytes_max: 4 << 10,
            items_max: 10_000,
            currencies_max: 256,
            records_max: 64,
            record_key_bytes_max: 128,
            record_bytes_max: 1 << 20,
            scan_max: 4_096,
            sharded: false,
            mutant: None,
        }
    }
}

/// How far a journal has landed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LandingReport {
    /// The last entry of the journal.
    pub position: u64,
    /// The last entry that has landed.
    pub landed: u64,
    /// Bytes of the entries between.
    pub backlog_bytes: u64,
    /// How long the oldest of them waits.
    pub lag: Duration,
    /// Rows and entries that could not land.
    pub aside: u64,
    /// Whether this process lands.
    pub leads: bool,
    /// What keeps it from landing, if something does.
    pub trouble: Option<String>,
}

/// Where reads that may be old were answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FollowerCounts {
    /// By a follower.
    pub follower: u64,
    /// By the leader, since the followers were, or may have been, too far behind.
    pub too_old: u64,
    /// By the leader, since the follower did not answer, or had too much to do.
    pub away: u64,
}
