//! What is simulated.

use crate::mutants::Mutant;
use crate::outcome::Outcome;
use crate::{cluster, data, script, slots};

/// A game with its faults and checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Suite {
    /// Gates, sessions and streams of clients.
    Sessions,
    /// Entities kept in a store.
    Data,
    /// The same, with entities that are sent from node to node.
    Moves,
    /// Slots that move between shards.
    Slots,
    /// Gates, nodes and a coordinator, with all that runs on them.
    Cluster,
}

impl Suite {
    /// Runs one seed. `notes_max` lines of what happened last are kept.
    pub fn run(self, seed: u64, mutant: Option<Mutant>, notes_max: usize) -> Outcome {
        match self {
            Suite::Sessions => script::run(seed, mutant, notes_max),
            Suite::Data => data::run(seed, mutant, notes_max, false),
            Suite::Moves => data::run(seed, mutant, notes_max, true),
            Suite::Slots => slots::run(seed, mutant, notes_max),
            Suite::Cluster => cluster::run(seed, mutant, notes_max),
        }
    }

    /// What need not be seen even in a long run.
    pub fn rare(self) -> &'static [&'static str] {
        match self {
            Suite::Sessions => &["sessions lost", "nodes killed", "nodes drained"],
            // Only a node that was declared dead in the middle of one gives up on knowing.
            Suite::Data => &["deals of unknown outcome", "moves of entities", "moves given up"],
            Suite::Moves => &["deals of unknown outcome"],
            Suite::Slots => &[],
            // The store itself stays well, and clients are not called.
            Suite::Cluster => &[
                "sessions lost",
                "clients told of a lost session",
                "deals not done",
                "calls to clients",
                "... answered",
            ],
        }
    }

    /// As the command line has it.
    pub fn flag(self) -> &'static str {
        match self {
            Suite::Sessions => "",
            Suite::Data => " --suite data",
            Suite::Moves => " --suite moves",
            Suite::Slots => " --suite slots",
            Suite::Cluster => " --suite cluster",
        }
    }
}
