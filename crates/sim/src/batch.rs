//! Many seeds, on some threads; and what is said about them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::PanicHookInfo;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::mutants::{self, Mutant};
use crate::outcome::{Outcome, Tally};
use crate::suite::Suite;
use anyhow::{bail, ensure};

/// From this many seeds on, a fault or state that was never seen makes the whole run void.
const SEEDS_TO_SEE_ALL: u64 = 200;

/// One of so many seeds runs twice.
const TWICE: u64 = 100;

thread_local! {
    /// Where the last panic of this thread was, for the violation that it becomes.
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Keeps a panic for the report of its run instead of printing it at once.
pub fn remember_panic(info: &PanicHookInfo<'_>) {
    PANIC.with(|last| *last.borrow_mut() = info.to_string());
}

/// Seeds to run.
pub struct Batch {
    pub suite: Suite,
    pub from: u64,
    pub seeds: u64,
    pub mutant: Option<Mutant>,
    pub threads: usize,
    /// Whether the rest runs too when one has failed.
    pub keep_going: bool,
}

/// What they have shown.
pub struct Report {
    seeds: u64,
    twice: u64,
    took: Duration,
    simulated: Duration,
    suite: Suite,
    faults: Tally,
    sights: Tally,
    mutant: Option<Mutant>,
    /// The failed seed that comes first, and what was violated.
    pub failure: Option<(u64, Vec<String>)>,
    /// All that failed, each with what was violated first.
    failed: BTreeMap<u64, String>,
}

impl Batch {
    /// Runs until all are done, or one has failed.
    pub fn run(&self) -> Report {
        let began = Instant::now();
        let next = AtomicU64::new(self.from);
        let failed = AtomicBool::new(false);
        let empty = Report {
            seeds: 0,
            twice: 0,
            took: Duration::ZERO,
            simulated: Duration::ZERO,
            suite: self.suite,
            faults: Tally::default(),
            sights: Tally::default(),
            mutant: self.mutant,
            failure: None,
            failed: BTreeMap::new(),
        };
        let report = Mutex::new(empty);
        std::thread::scope(|scope| {
            for _ in 0..self.threads.max(1) {
                scope.spawn(|| {
                    while !failed.load(Ordering::Relaxed) {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= self.from + self.seeds {
                            return;
                        }
                        let mut outcome = self.suite.run(seed, self.mutant, 0);
                        with_place(&mut outcome);
                        let twice = seed.is_multiple_of(TWICE) && outcome.violations.is_empty();
                        if twice && self.suite.run(seed, self.mutant, 0).hash != outcome.hash {
                            let text = "repetition: a second run of this seed went another way";
                            outcome.violations.push(text.to_owned());
                        }
                        if let Some(text) = outcome.violations.first() {
                            if self.keep_going {
                                println!("seed {seed}: {text}");
                                report.lock().expect("no thread panics").add(seed, twice, outcome);
                                continue;
                            }
                            failed.store(true, Ordering::Relaxed);
                        }
                        report.lock().expect("no thread panics").add(seed, twice, outcome);
                    }
                });
            }
        });
        let mut report = report.into_inner().expect("no thread panics");
        report.took = began.elapsed();
        report
    }
}

fn with_place(outcome: &mut Outcome) {
    for text in outcome.violations.iter_mut().filter(|text| text.starts_with("panic: ")) {
        let place = PANIC.with(|last| last.borrow().clone());
        if !place.is_empty() {
            *text = format!("{text} ({})", place.replace('\n', " "));
        }
    }
}

impl Report {
    fn add(&mut self, seed: u64, twice: bool, outcome: Outcome) {
        self.seeds += 1;
        self.twice += u64::from(twice);
        self.simulated += outcome.simulated;
        self.faults.add(&outcome.faults);
        self.sights.add(&outcome.sights);
        if let Some(text) = outcome.violations.first() {
            self.failed.insert(seed, text.clone());
        }
        let is_first = self.failure.as_ref().is_none_or(|(first, _)| seed < *first);
        if !outcome.violations.is_empty() && is_first {
            self.failure = Some((seed, outcome.violations));
        }
    }

    fn unseen(&self) -> Vec<&'static str> {
        let all = self.faults.0.iter().chain(&self.sights.0);
        let all = all.filter(|(name, _)| !self.suite.rare().contains(name));
        all.filter(|(_, count)| *count == 0).map(|(name, _)| *name).collect()
    }

    /// Whether so little went wrong in so many runs that they prove nothing.
    pub fn is_void(&self) -> bool {
        self.seeds >= SEEDS_TO_SEE_ALL && !self.unseen().is_empty()
    }

    pub fn show(&self, lines: usize) {
        if let Some((seed, violations)) = &self.failure {
            explain((self.suite, *seed, self.mutant), violations, lines);
        }
        println!("faults");
        for (name, count) in &self.faults.0 {
            println!("  {name:<34} {count:>12}");
        }
        println!("seen");
        for (name, count) in &self.sights.0 {
            println!("  {name:<34} {count:>12}");
        }
        let seconds = self.took.as_secs_f64();
        println!(
            "{} seeds in {seconds:.1} s: {:.1} a second, {:.1} simulated hours, {} of them twice",
            self.seeds,
            self.seeds as f64 / seconds,
            self.simulated.as_secs_f64() / 3600.0,
            self.twice,
        );
        if self.is_void() {
            println!("never seen: {}", self.unseen().join(", "));
        }
        for (seed, text) in &self.failed {
            println!("failed: seed {seed}: {text}");
        }
        if self.failure.is_none() {
            println!("no violation");
        }
    }
}

/// Shows what a seed has violated and what came before, by running it once more with notes.
fn explain((suite, seed, mutant): Run, violations: &[String], lines: usize) {
    println!("seed {seed} has failed:");
    for text in violations {
        println!("  {text}");
    }
    let outcome = suite.run(seed, mutant, lines);
    for line in &outcome.notes {
        println!("  | {line}");
    }
    let (of, without) = (suite.flag(), flag(suite, mutant));
    println!("run it again: cargo run --release -p sim --{of} --seed {seed}{without}");
}

type Run = (Suite, u64, Option<Mutant>);

fn flag(suite: Suite, mutant: Option<Mutant>) -> String {
    let name = mutants::of(suite).iter().find(|(_, known)| Some(*known) == mutant);
    name.map(|(name, _)| format!(" --mutant {name}")).unwrap_or_default()
}

/// Runs one seed twice.
pub fn repeat((suite, seed, mutant): Run, lines: usize) -> anyhow::Result<()> {
    let mut first = suite.run(seed, mutant, 0);
    with_place(&mut first);
    let second = suite.run(seed, mutant, 0);
    println!("seed {seed}: trace {:016x}, again {:016x}", first.hash, second.hash);
    println!("{:.1} simulated seconds", first.simulated.as_secs_f64());
    for (name, count) in first.faults.0.iter().chain(&first.sights.0) {
        println!("  {name:<34} {count:>12}");
    }
    ensure!(first.hash == second.hash, "the two runs went different ways");
    if !first.violations.is_empty() {
        explain((suite, seed, mutant), &first.violations, lines);
        bail!("seed {seed} has failed");
    }
    println!("no violation");
    Ok(())
}

/// Switches off each safety in turn. Only seeds that pass with all safeties on count.
pub fn try_mutants(suite: Suite, from: u64, most: u64, threads: usize) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut missed = 0;
    for &(name, mutant) in mutants::of(suite) {
        match first_noticed(suite, mutant, from..from + most, threads) {
            Some((seed, violation)) => {
                let what: String = violation.chars().take(90).collect();
                println!("{name:<20} seed {seed:<5} {what}");
            }
            None => {
                missed += 1;
                println!("{name:<20} not noticed in {most} seeds");
            }
        }
    }
    println!("{} mutants in {:.1} s", mutants::of(suite).len(), began.elapsed().as_secs_f64());
    ensure!(missed == 0, "{missed} mutants were not noticed");
    Ok(())
}

/// The first seed that fails with `mutant` and passes without it, and what it has violated.
fn first_noticed(
    suite: Suite,
    mutant: Mutant,
    seeds: Range<u64>,
    threads: usize,
) -> Option<(u64, String)> {
    let mut from = seeds.start;
    while from < seeds.end {
        let count = seeds.end - from;
        let mutant = Some(mutant);
        let batch = Batch { suite, from, seeds: count, mutant, threads, keep_going: false };
        let (seed, violations) = batch.run().failure?;
        let without = suite.run(seed, None, 0).violations;
        match without.first() {
            None => return violations.into_iter().next().map(|first| (seed, first)),
            Some(text) => println!("seed {seed} fails with all safeties on: {text}"),
        }
        from = seed + 1;
    }
    None
}
