use std::fmt::Debug;
use std::task::Waker;

use crate::types::{Accepted, Listen, Post, Taken, Verdict};
use crate::{Answer, Counters, Dead, Delivery, Error, Presence};

/// What stands behind a [`Bus`](crate::Bus). Nothing here waits, but for `declare`, which may
/// wait for a server's word.
pub(crate) trait Backend: Debug + Send + Sync {
    /// Takes a declaration in, or refuses it if this backend cannot give the class. A server that
    /// is not there yet is told later; what it then refuses is in `refused`.
    fn declare(&self, pattern: &str, delivery: Delivery) -> Result<(), Error>;
    /// Takes a message, or refuses it at once. The answer says when it cannot be lost any more.
    fn publish(&self, post: Post) -> Result<Answer<Accepted>, Error>;
    /// Begins to listen. The answer says when messages published from now on will come.
    fn listen(&self, listen: &Listen) -> Result<(u64, Answer<()>), Error>;
    fn unlisten(&self, id: u64);
    /// The next message of a listener; if there is none, the waker hears of it.
    fn take(&self, id: u64, waker: Option<&Waker>) -> Option<Taken>;
    fn settle(&self, receipt: u64, verdict: Verdict);
    fn dropped(&self, id: u64) -> u64;
    fn counters(&self) -> Counters;
    /// The oldest dead letters whose subjects begin with `scope`.
    fn dead(&self, scope: &str, max: usize) -> Answer<Vec<Dead>>;
    /// Takes a dead letter away; `replay` gives it first to who could not finish it.
    fn bury(&self, dead: &Dead, replay: bool) -> Answer<()>;
    /// How many messages wait for the group with that pattern, in all processes, and are in nobody's hands.
    fn waiting(&self, pattern: &str, group: &str) -> Answer<u64>;
    /// The message with that id need not be given out any more, if nobody has it in hand. A backend that
    /// cannot take it back gives it out.
    fn withdraw(&self, subject: &str, id: u128);
    /// How often a message is given out at most.
    fn attempts_max(&self) -> u32;
    /// What the server refused, and why.
    fn refused(&self) -> Vec<(String, String)>;
    /// Tells whether the server is there.
    fn presence(&self) -> Presence;
}
