use crate::{Address, Identity, Limits};

/// How a client reaches the game.
#[derive(Clone, Debug)]
pub struct Options {
    /// Gates, tried in turn.
    pub addresses: Vec<Address>,
    /// What the client tells of itself.
    pub identity: Identity,
    /// What it holds and waits for.
    pub limits: Limits,
    /// Events that wait to be read before reading from the server pauses.
    pub events_max: usize,
    /// Most bytes read in one go, so that a flood cannot keep the caller.
    pub read_bytes_max: usize,
}

impl Options {
    /// One gate and the usual limits.
    pub fn new(address: Address) -> Self {
        Options {
            addresses: vec![address],
            identity: Identity::default(),
            limits: Limits::default(),
            events_max: 1024,
            read_bytes_max: 256 * 1024,
        }
    }
}
