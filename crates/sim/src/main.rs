//! Runs a game on simulated clusters, thousands of them, each from a seed, while everything breaks
//! that may break; and proves by mutants that it would notice.
#![forbid(unsafe_code)]

mod batch;
mod book;
mod cluster;
mod data;
mod game;
mod mutants;
mod outcome;
mod player;
mod script;
mod slots;
mod stage;
mod suite;

use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Parser;

use batch::Batch;
use mutants::Mutant;
use suite::Suite;

/// Simulates clusters with a game, clients and faults, each from a seed.
#[derive(Debug, Parser)]
#[command(name = "sim")]
struct Args {
    /// What is simulated.
    #[arg(long, value_enum, default_value_t = Suite::Sessions)]
    suite: Suite,
    /// How many seeds to run.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Runs one seed twice, and shows what it did and that it does the same again.
    #[arg(long)]
    seed: Option<u64>,
    /// Lines shown of what happened last before a violation.
    #[arg(long, default_value_t = 60)]
    lines: usize,
    /// Switches one safety off: the runs must fail.
    #[arg(long)]
    mutant: Option<String>,
    /// Switches each safety off in turn; each must be noticed within this many seeds.
    #[arg(long, num_args = 0..=1, default_missing_value = "500")]
    mutants: Option<u64>,
    /// Lists the safeties that can be switched off.
    #[arg(long)]
    list: bool,
    /// Goes on after a seed that fails, and lists them all.
    #[arg(long)]
    keep_going: bool,
    /// Runs at a time.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

fn main() -> ExitCode {
    match simulate(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn simulate(args: &Args) -> anyhow::Result<()> {
    if args.list {
        for (name, _) in mutants::of(args.suite) {
            println!("{name}");
        }
        return Ok(());
    }
    // Panics of a run are violations, reported with their seed.
    std::panic::set_hook(Box::new(batch::remember_panic));
    let find = |name: &String| {
        Mutant::find(args.suite, name)
            .with_context(|| format!("no safety is called {name}: see --list"))
    };
    let mutant = args.mutant.as_ref().map(find).transpose()?;
    if let Some(most) = args.mutants {
        return batch::try_mutants(args.suite, args.from, most, args.threads);
    }
    if let Some(seed) = args.seed {
        return batch::repeat((args.suite, seed, mutant), args.lines);
    }
    let Args { suite, from, seeds, threads, keep_going, .. } = *args;
    let batch = Batch { suite, from, seeds, mutant, threads, keep_going };
    let report = batch.run();
    report.show(args.lines);
    match (&report.failure, report.is_void()) {
        (Some(_), _) => bail!("the simulation has failed"),
        (None, true) => bail!("void: see what was never seen above"),
        (None, false) => Ok(()),
    }
}
