//! The `mainstay` command.

mod bots;
mod check;
mod data;
mod dead;
mod demo;
mod new;
mod replace;
mod trigger;
mod up;
mod users;

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use mainstay::Exit;

/// Builds, runs and tries out Mainstay game servers.
#[derive(Parser)]
#[command(name = "mainstay", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Plays the arena sample: a server, a page to play in, and bots beside you.
    Demo(demo::Demo),
    /// Sends scripted arena players to a server and checks every answer.
    Bots(bots::Bots),
    /// Makes a game package that compiles, runs in the browser and has a passing test.
    New(new::New),
    /// Starts all processes of a cluster file on this machine and looks after them.
    ///
    /// A process that ends is started again, after pauses that grow; one that is silent or stuck is killed
    /// and started again. What they say is shown with their names. Ctrl-C stops all, gates first, and
    /// reports how each ended. See them with `mainstay status`.
    Up(up::Up),
    /// Shows how the processes of a cluster file on this machine are.
    Status(up::Status),
    /// Shows what happens in the processes each second, as `top` does.
    ///
    /// Counters are shown by what was added each second: frames in and out, turns, messages that were
    /// refused or thrown away, and messages by the time they took. `delay` is how long a message waits
    /// for its worker.
    Top(up::Top),
    /// Has one process finish, save and end while the others go on; it stays down.
    Drain(up::Drain),
    /// Starts a new process beside an old one and ends the old one when the new one is ready.
    ///
    /// If the new one is not ready in time, it ends and the old one stays. It runs from what is at the
    /// program's path now, and reads the cluster file anew.
    Restart(replace::Restart),
    /// Restarts with another build, a few first, and takes it back if it does badly.
    ///
    /// The first ones are watched: if one is not ready in time, ends, has handlers that panic, or takes more
    /// than twice as long for its steps or messages as those of the old build, all go back to the old build.
    Upgrade(replace::Upgrade),
    /// Checks a cluster file without starting anything, or prints what one may hold.
    Check(check::Check),
    /// Looks into a store, copies it, checks it, and brings a player back to an earlier time.
    ///
    /// A store is where a game keeps its players: their saved documents, and a ledger of items and
    /// currency. By default it is the one in the folder `data`, as `mainstay demo` and every game
    /// without a cluster file use it. Stop the server first: an embedded store is for one process.
    Data(data::Data),
    /// Sends an event to a game over its bus, such as a task to its workers.
    Trigger(trigger::Arguments),
    /// Lists what a game's bus set aside because its handlers failed over it, and replays it.
    ///
    /// A message that may not be lost and that was given out as often as `options.bus.attempts_max` says is
    /// a dead letter: it is kept at the bus with the cause of its last failure until it is replayed,
    /// discarded, or pushed out by newer ones.
    DeadLetters(dead::DeadLetters),
    /// Pushes to players of a running game or closes them, over its bus: all, some accounts, or by tags.
    Users(users::Users),
    /// Prints a ticket for an account, sealed with the keys of a cluster file or data folder.
    Ticket(TicketArguments),
    /// Prints the arena's interface; a game prints its own by `cargo run -- --schema`.
    Schema(SchemaArguments),
    /// Runs the arena as a process of a cluster file. Options as those of any game's binary.
    #[command(disable_help_flag = true)]
    Serve {
        /// Passed on; `--help` lists them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

#[derive(clap::Args)]
struct TicketArguments {
    /// Number of the account.
    account: u64,
    /// The cluster file whose keys are used.
    #[arg(long)]
    cluster: Option<PathBuf>,
    /// The data folder whose keys are used, without a cluster file.
    #[arg(long, default_value = "data")]
    data: PathBuf,
}

#[derive(clap::Args)]
struct SchemaArguments {
    /// As a TypeScript client instead of JSON.
    #[arg(long)]
    typescript: bool,
    /// As `interface.lock` instead of JSON.
    #[arg(long, conflicts_with = "typescript")]
    lock: bool,
}

fn main() -> Exit {
    let result = match Cli::parse().command {
        Command::Demo(demo) => demo.run(),
        Command::Bots(bots) => bots.run(),
        Command::New(new) => new.run(),
        Command::Up(up) => up.run(),
        Command::Status(status) => status.run(),
        Command::Top(top) => top.run(),
        Command::Drain(drain) => drain.run(),
        Command::Restart(restart) => restart.run(),
        Command::Upgrade(upgrade) => upgrade.run(),
        Command::Check(check) => check.run(),
        Command::Data(data) => data.run(),
        Command::Trigger(trigger) => trigger.run(),
        Command::DeadLetters(letters) => letters.run(),
        Command::Users(users) => users.run(),
        Command::Ticket(ticket) => Ok(run(&ticket.words())),
        Command::Schema(schema) => Ok(run(&schema.words())),
        Command::Serve { arguments } => Ok(run(&arguments)),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        Exit::NotStarted
    })
}

/// Runs the arena's own command line.
fn run(words: &[String]) -> Exit {
    mainstay::run_with(arena::app(), words.iter().cloned(), |_| {})
}

impl TicketArguments {
    fn words(&self) -> Vec<String> {
        let mut words = vec!["--ticket".to_owned(), self.account.to_string()];
        match &self.cluster {
            Some(file) => words.extend(["--cluster".to_owned(), file.display().to_string()]),
            None => words.extend(["--data".to_owned(), self.data.display().to_string()]),
        }
        words
    }
}

impl SchemaArguments {
    fn words(&self) -> Vec<String> {
        let form = match (self.typescript, self.lock) {
            (true, _) => "--schema-ts",
            (_, true) => "--lock",
            _ => "--schema",
        };
        vec![form.to_owned()]
    }
}
