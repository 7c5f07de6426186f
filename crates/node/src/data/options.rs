use std::time::Duration;

use proto::Incarnation;

/// How a node keeps the documents of its entities. Plain data, as a configuration file holds it.
#[derive(Clone, Debug)]
pub struct Options {
    /// Until when a change is saved, if the store is as fast as it was of late: what a crash may
    /// lose. It waits for others for a tenth of that less, or for half of it if the store is slow.
    pub save_after: Duration,
    /// How often the node tells the store that it lives.
    pub beat_every: Duration,
    /// Without an acknowledged beat for so long, entities with documents stand still.
    pub park_after: Duration,
    /// Without an acknowledged beat for so long, a node tells the others; and what it hears from them
    /// counts for so long. If most of the nodes of the store cannot reach it, entities go on in
    /// memory: nobody can be declared dead then.
    pub away_after: Duration,
    /// A node whose beat stood still for so long, under reads without a gap, is declared dead. Longer
    /// than `park_after` of every node.
    pub judge_after: Duration,
    /// Former lives of this node that are known to be over, because whoever looks after it saw their
    /// processes end. They are declared dead at once, however many.
    pub gone: Vec<Incarnation>,
    /// How long mail of an entity waits until the store can be asked for it.
    pub activate_wait: Duration,
    /// Most entities asked for in one request.
    pub activate_batch_max: usize,
    /// Most bytes of documents, per worker, that are changed and not saved; above, entities with
    /// documents stand still until the store has caught up.
    pub dirty_bytes_max: usize,
    /// The first pause before something is tried again; it doubles, with jitter.
    pub retry_first: Duration,
    /// The longest such pause.
    pub retry_max: Duration,
    /// The pause before a document that the store refuses is tried again.
    pub poison_retry: Duration,
    /// Most transactions under way, per worker.
    pub commits_max: usize,
    /// How long a transaction waits for a store that is away before it fails.
    pub commit_wait: Duration,
    /// How long a stopping node waits for its last saves.
    pub stop_wait: Duration,
    /// How often the sums of the ledger are checked; zero is never.
    pub audit_every: Duration,
    /// How sagas are driven, and when one that stands still is taken over.
    pub sagas: store::SagaOptions,
    /// A safety switched off, to prove that a simulation notices.
    #[doc(hidden)]
    pub mutant: Option<Mutant>,
}

/// One safety of keeping switched off.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// An entity is given back before it is saved.
    ReleasedUnsaved,
    /// A transaction of unknown outcome is told not to be done.
    UnknownIsFailure,
    /// A refusal counts although the first try may still be under way.
    RefusedTooEarly,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            save_after: Duration::from_secs(1),
            beat_every: Duration::from_secs(1),
            park_after: Duration::from_secs(5),
            away_after: Duration::from_secs(2),
            judge_after: Duration::from_secs(6),
            gone: Vec::new(),
            activate_wait: Duration::from_secs(3),
            activate_batch_max: 256,
            dirty_bytes_max: 64 << 20,
            retry_first: Duration::from_millis(100),
            retry_max: Duration::from_secs(5),
            poison_retry: Duration::from_secs(30),
            commits_max: 4_096,
            commit_wait: Duration::from_secs(2),
            stop_wait: Duration::from_secs(10),
            audit_every: Duration::from_secs(600),
            sagas: store::SagaOptions::default(),
            mutant: None,
        }
    }
}
