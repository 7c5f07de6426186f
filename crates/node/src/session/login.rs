use std::fmt;
use std::rc::Rc;

use proto::frame::CloseCode;
use proto::link::WorkerId;
use proto::{AccountId, EntityId, SessionId};

/// A login that passed the gate: who it is, for the game to choose what it is bound to. Asked for
/// a session whose home and gate were lost together, name and address are empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login<'a> {
    /// The new session.
    pub session: SessionId,
    /// The account that the ticket names.
    pub account: AccountId,
    /// Login level of the account.
    pub level: u8,
    /// Name in the ticket.
    pub name: &'a str,
    /// The client's address as text.
    pub address: &'a str,
}

/// One entity that a session reaches, under the name that its client knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Name of the stream.
    pub name: String,
    /// Where it leads.
    pub target: EntityId,
}

/// Why the game does not admit a login. The client is told both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What the client should do next.
    pub code: CloseCode,
    /// For people.
    pub reason: String,
}

type BindingsFn = dyn Fn(&Login<'_>) -> Result<Vec<Binding>, Refusal>;

/// The game's choice of the bindings that each new session starts with. A cheap clone.
#[derive(Clone)]
pub struct Bindings(Rc<BindingsFn>);

impl Bindings {
    /// Bindings as `choose` says.
    pub fn new(choose: impl Fn(&Login<'_>) -> Result<Vec<Binding>, Refusal> + 'static) -> Self {
        Bindings(Rc::new(choose))
    }

    pub(super) fn choose(&self, login: &Login<'_>) -> Result<Vec<Binding>, Refusal> {
        (self.0)(login)
    }

    /// Admits everybody and binds nothing.
    pub fn none() -> Self {
        Self::new(|_| Ok(Vec::new()))
    }
}

impl fmt::Debug for Bindings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bindings(..)")
    }
}

/// What a worker's homes hold and have seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HomeStats {
    /// Sessions now, connected or not.
    pub sessions: usize,
    /// Sessions now that wait for a resume.
    pub waiting: usize,
    /// Used tickets remembered now.
    pub used_tickets: usize,
    /// Logins admitted.
    pub logins: u64,
    /// Logins refused, for whatever reason.
    pub refused: u64,
    /// Resumes admitted.
    pub resumes: u64,
    /// Resumes refused.
    pub resumes_refused: u64,
    /// Sessions ended by a goodbye.
    pub goodbyes: u64,
    /// Sessions ended because nobody resumed them in time.
    pub expired: u64,
    /// Sessions ended by a second login.
    pub replaced: u64,
    /// Sessions ended by a kick.
    pub kicked: u64,
    /// Sessions ended because too much was lost or the client broke the protocol.
    pub lost: u64,
    /// Bindings that could not be made and were given up.
    pub bindings_failed: u64,
    /// Sessions chosen by account, login or tag, each time they were.
    pub selected: u64,
    /// Accounts asked for that had no session.
    pub unknown: u64,
    /// Sessions handed over to another home.
    pub handed_over: u64,
    /// Sessions taken over from another home.
    pub taken_over: u64,
    /// Sessions put together again after their home was lost.
    pub rebuilt: u64,
    /// Frames that waited for a session on its way.
    pub held: u64,
    /// Frames passed on to where a session has gone.
    pub passed: u64,
    /// Sessions now that are on their way to another home.
    pub leaving: usize,
}

/// One session, for people to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    /// Its id.
    pub session: SessionId,
    /// Whose it is.
    pub account: AccountId,
    /// Login level of the account.
    pub level: u8,
    /// How often it was bound to a connection, or tried to be.
    pub generation: u64,
    /// The gate that its client is connected to; `None` while it waits for a resume.
    pub gate: Option<WorkerId>,
    /// Its streams by name, and where they lead.
    pub streams: Vec<(String, EntityId)>,
    /// Whether the game has logged it in.
    pub logged_in: bool,
    /// What the game calls it.
    pub tags: Vec<String>,
}
