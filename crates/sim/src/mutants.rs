//! Safeties that can be switched off, to see that a run would notice.

use std::time::Duration;

use mainstay::node::data::Mutant as Data;
use mainstay::node::session::Mutant as Session;
use mainstay::store::Mutant as Rule;
use testkit::{GateMutant as Gate, Options, StoreMutant as Disk};

use crate::suite::Suite;

/// One safety switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    Session(Session),
    Gate(Gate),
    /// Of the rules that every store runs.
    Rule(Rule),
    /// Of the simulated store.
    Disk(Disk),
    /// Of how nodes keep documents.
    Data(Data),
    /// Nodes never park.
    NeverParks,
}

/// Those of the suite of sessions, by the names of the command line.
const SESSIONS: [(&str, Mutant); 14] = [
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

/// Those of the suite of data.
const DATA: [(&str, Mutant); 10] = [
    ("any-epoch", Mutant::Rule(Rule::AnyEpoch)),
    ("any-version", Mutant::Rule(Rule::AnyVersion)),
    ("ids-forgotten", Mutant::Rule(Rule::IdsForgotten)),
    ("owned-given", Mutant::Rule(Rule::OwnedGiven)),
    ("answers-first", Mutant::Disk(Disk::AnswersFirst)),
    ("tail-believed", Mutant::Disk(Disk::TailBelieved)),
    ("released-unsaved", Mutant::Data(Data::ReleasedUnsaved)),
    ("unknown-is-failure", Mutant::Data(Data::UnknownIsFailure)),
    ("refused-too-early", Mutant::Data(Data::RefusedTooEarly)),
    ("never-parks", Mutant::NeverParks),
];

/// Those of the suite of slots.
const SLOTS: [(&str, Mutant); 1] = [("slots-unfenced", Mutant::Rule(Rule::SlotsUnfenced))];

/// Those of the suite of whole clusters.
const CLUSTER: [(&str, Mutant); 19] = [
    ("duplicates-taken", Mutant::Session(Session::DuplicatesTaken)),
    ("nothing-replayed", Mutant::Session(Session::NothingReplayed)),
    ("any-generation", Mutant::Session(Session::AnyGeneration)),
    ("tickets-forgotten", Mutant::Session(Session::TicketsForgotten)),
    ("window-endless", Mutant::Session(Session::WindowEndless)),
    ("ends-untold", Mutant::Session(Session::EndsUntold)),
    ("casts-forgotten", Mutant::Session(Session::CastsForgotten)),
    ("answers-forgotten", Mutant::Session(Session::AnswersForgotten)),
    ("stale-frames-taken", Mutant::Session(Session::StaleFramesTaken)),
    ("ring-not-moved", Mutant::Session(Session::RingNotMoved)),
    ("nothing-held", Mutant::Session(Session::NothingHeld)),
    ("moves-untold", Mutant::Session(Session::MovesUntold)),
    ("orphans-ended", Mutant::Session(Session::OrphansEnded)),
    ("breaks-untold", Mutant::Gate(Gate::EndsUntold)),
    ("groups-kept", Mutant::Gate(Gate::GroupsKept)),
    ("homes-end", Mutant::Gate(Gate::HomesEnd)),
    ("any-epoch", Mutant::Rule(Rule::AnyEpoch)),
    ("owned-given", Mutant::Rule(Rule::OwnedGiven)),
    ("released-unsaved", Mutant::Data(Data::ReleasedUnsaved)),
];

/// All safeties of a suite.
pub fn of(suite: Suite) -> &'static [(&'static str, Mutant)] {
    match suite {
        Suite::Sessions => &SESSIONS,
        Suite::Data | Suite::Moves => &DATA,
        Suite::Slots => &SLOTS,
        Suite::Cluster => &CLUSTER,
    }
}

impl Mutant {
    pub fn find(suite: Suite, name: &str) -> Option<Mutant> {
        of(suite).iter().find(|(known, _)| *known == name).map(|(_, mutant)| *mutant)
    }

    /// Switches it off in a whole cluster.
    pub fn put(self, options: &mut Options) {
        match self {
            Mutant::Session(mutant) => options.sessions.mutant = Some(mutant),
            Mutant::Gate(mutant) => options.gate.mutant = Some(mutant),
            Mutant::Rule(mutant) => options.store.mutant = Some(mutant),
            Mutant::Disk(mutant) => options.store_mutant = Some(mutant),
            Mutant::Data(mutant) => options.data.mutant = Some(mutant),
            Mutant::NeverParks => options.data.park_after = Duration::from_secs(3_600),
        }
    }
}
