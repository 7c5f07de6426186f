//! Safeties that can be switched off, to see that a run would notice.

use mainstay::node::session::Mutant as Session;
use testkit::{GateMutant as Gate, Options};

/// One safety switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    Session(Session),
    Gate(Gate),
}

/// All of them, by the names of the command line.
pub const ALL: [(&str, Mutant); 14] = [
    ("duplicates-taken", Mutant::Session(Session::DuplicatesTaken)),
    ("nothing-replayed", Mutant::Session(Session::NothingReplayed)),
    ("any-generation", Mutant::Session(Session::AnyGeneration)),
    ("tickets-forgotten", Mutant::Session(Session::TicketsForgotten)),
    ("stale-detach-taken", Mutant::Session(Session::StaleDetachTaken)),
    ("window-endless", Mutant::Session(Session::WindowEndless)),
    ("ends-untold", Mutant::Session(Session::EndsUntold)),
    ("casts-forgotten", Mutant::Session(Session::CastsForgotten)),
    ("answers-forgotten", Mutant::Session(Session::AnswersForgotten)),
    ("calls-endless", Mutant::Session(Session::CallsEndless)),
    ("stale-frames-taken", Mutant::Session(Session::StaleFramesTaken)),
    ("held-dropped", Mutant::Gate(Gate::HeldDropped)),
    ("breaks-untold", Mutant::Gate(Gate::EndsUntold)),
    ("groups-kept", Mutant::Gate(Gate::GroupsKept)),
];

impl Mutant {
    pub fn find(name: &str) -> Option<Mutant> {
        ALL.iter().find(|(known, _)| *known == name).map(|(_, mutant)| *mutant)
    }

    /// Switches it off in all gates or nodes of a cluster.
    pub fn put(self, options: &mut Options) {
        match self {
            Mutant::Session(mutant) => options.sessions.mutant = Some(mutant),
            Mutant::Gate(mutant) => options.gate.mutant = Some(mutant),
        }
    }
}
