//! `mainstay data`: the store of a game, looked at and worked on from outside.

mod archive;
mod copy;
mod open;
mod restore;
mod sagas;
mod show;
mod slots;
mod time;

use clap::Subcommand;
use mainstay::Exit;

#[derive(clap::Args)]
pub struct Data {
    #[command(subcommand)]
    act: Act,
}

#[derive(Subcommand)]
enum Act {
    /// Lists entities: who owns them, their version and size.
    List(show::List),
    /// Shows one entity: its owner row, documents, coins and items, and what happened to them.
    Show(show::Show),
    /// Reads every row and adds up the ledger, or checks a copy that `export` wrote.
    Verify(copy::Verify),
    /// Writes a copy of the whole store into one file, which any other store can take in.
    Export(copy::Export),
    /// Takes in a copy that `export` wrote. The store must be empty unless `--replace` is given.
    ///
    /// This is how a game moves to another database: export from the old store, name the new one in
    /// the cluster file, import there.
    Import(copy::Import),
    /// Gives one player back what it had at an earlier time.
    ///
    /// Coins and items are computed from the ledger's history; nothing is taken from other players.
    /// Documents come from a copy, if one is given. All of it is one transaction with a note, and
    /// stands in the history like any other.
    Restore(restore::Restore),
    /// Moves accounts that nobody uses into another store, from which they come back at login.
    ///
    /// Only says what it would do, unless --apply is given. Accounts are those of the roles service;
    /// who has coins or items, or what the game has named, stays unless it is allowed. A run that was
    /// cut off is simply done again.
    Archive(archive::Archive),
    /// Lists sagas that are under way (trades between shards and the like), or shows one.
    ///
    /// A saga is done step by step in several shards or stores, or undone. Servers go on with it by
    /// themselves, whoever began it; one that stays at a step for long waits for what that says.
    Sagas(sagas::Sagas),
    /// Shows which shard of a store has how many slots, and what is moving.
    Slots(slots::Slots),
    /// Moves slots, and with them all that has its key there, from one shard to another.
    ///
    /// Servers may go on meanwhile: what is written to a slot waits for a moment. A move that was cut
    /// off is simply run again; whatever step it was at, nothing is lost and nothing is there twice.
    Move(slots::Move),
}

impl Data {
    pub fn run(self) -> anyhow::Result<Exit> {
        match self.act {
            Act::List(list) => list.run(),
            Act::Show(show) => show.run(),
            Act::Verify(verify) => verify.run(),
            Act::Export(export) => export.run(),
            Act::Import(import) => import.run(),
            Act::Restore(restore) => restore.run(),
            Act::Archive(job) => job.run(),
            Act::Sagas(sagas) => sagas.run(),
            Act::Slots(slots) => slots.run(),
            Act::Move(job) => job.run(),
        }
    }
}
