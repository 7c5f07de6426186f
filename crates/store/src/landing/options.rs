use std::time::Duration;

/// When what is valuable (D2) is acknowledged by a store with a journal: transactions and their look-up, records that
/// are written, messages of the outbox, a raised generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Acknowledge {
    /// When it is in the journal, whose server must then sync every write before it answers.
    #[default]
    Journal,
    /// When it has landed. The journal's server may lose what it has: everything else is lost with it.
    Landed,
}

/// How a journal lands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LandingOptions {
    /// When what is valuable is acknowledged.
    pub acknowledge: Acknowledge,
    /// How long entries are gathered before they land. While somebody waits for them it is a hundredth of this.
    pub interval: Duration,
    /// Bytes of entries that land in one transaction; one entry may have more.
    pub batch_bytes_max: usize,
    /// Bytes of entries that have not landed. When there are more, commits are [`Busy`](crate::Error::Busy).
    pub backlog_bytes_max: usize,
    /// How long an answer waits until what it says has landed; then it is
    /// [`Unknown`](crate::Error::Unknown).
    pub settle_wait: Duration,
    /// How long a worker that gives no sign of life keeps the others from landing.
    pub lease: Duration,
    /// How often what was set aside is tried again.
    pub aside_pause: Duration,
}

impl Default for LandingOptions {
    fn default() -> Self {
        LandingOptions {
            acknowledge: Acknowledge::default(),
            interval: Duration::from_millis(500),
            batch_bytes_max: 4 << 20,
            backlog_bytes_max: 512 << 20,
            settle_wait: Duration::from_secs(5),
            lease: Duration::from_secs(3),
            aside_pause: Duration::from_secs(30),
        }
    }
}
