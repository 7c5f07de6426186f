//! The embedded store: changes through a worker's write-behind, transactions with many in flight,
//! and a storm of logins, each next to a bare redb loop of the same rows, in rounds that take
//! turns.
//!
//! Rates are of wall time, since the disk is a part of what is measured. The bare loops write rows
//! of the same keys and lengths as are found in the store's file, each batch in one transaction
//! that is durable (redb's default, one sync) before the next begins. All files lie in one
//! temporary folder, which is removed at the end.

mod bare;
mod deals;
mod player;
mod recovery;
#[cfg(feature = "servers")]
mod server;

pub use recovery::{child as recovery_child, run as run_recovery};
#[cfg(feature = "servers")]
pub use server::run as run_server;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use env::Random;
use rustix::time::{ClockId, clock_gettime};

use bare::Bare;
use deals::{Deals, Shape};
use player::{CHANGES_HZ, Seat};

use crate::entity::median;

const ROUNDS: usize = 3;
/// How long each subject is measured in each round.
const SPAN: Duration = Duration::from_millis(1_200);

/// Players whose every change is a write.
const WRITERS: u64 = 32_768;
/// How long their changes wait: short, so that it is the disk that is measured.
const WRITERS_SAVE_AFTER: Duration = Duration::from_millis(100);
const GOAL_SAVES: f64 = 50_000.0;
/// What D1 promises: a crash loses at most a second and one flush.
const GOAL_LOSS: Duration = Duration::from_secs(1);
/// A flush as `kill_9_loses_no_deal_and_at_most_the_last_second_of_the_rest` grants it.
const FLUSH: Duration = Duration::from_millis(800);

/// Players who change many times in a second, and log in at once afterwards.
const PLAYERS: u64 = 10_000;
const PLAY: Duration = Duration::from_secs(4);
const GOAL_FEWER: f64 = 5.0;

/// How much slower than the bare loop transactions may be.
const GOAL_COMMIT: f64 = 1.5;

/// Measures and prints the tables. Returns whether every goal is met.
///
/// # Errors
/// If a file cannot be written, or the store refuses something.
pub fn run() -> anyhow::Result<bool> {
    let folder = Folder::new()?;
    println!("The embedded store, medians of {ROUNDS} rounds of {SPAN:?} for each subject");
    println!("in {}, where a sync takes {:.2} ms\n", folder.0.display(), sync_ms(&folder.0)?);
    println!("| | mainstay | reference | ratio | goal | |");
    println!("|---|--:|--:|--:|--:|---|");
    let mut notes = Vec::new();
    let met =
        [saves(&folder, &mut notes)?, play_and_storm(&folder)?, commits(&folder, &mut notes)?];
    println!("\nRounds, and CPU time of the whole process for each\n{}", notes.join("\n"));
    Ok(met.into_iter().all(|met| met))
}

/// D1, nothing coalesced: each change is a write.
fn saves(folder: &Folder, notes: &mut Vec<String>) -> anyhow::Result<bool> {
    let path = folder.file("saves.store");
    let mut seat = Seat::open(&path, seat_options(WRITERS_SAVE_AFTER))?;
    let order = shuffled(WRITERS);
    seat.change_all(&order)?;
    seat.drain()?;
    // The bare loops write the rows that stand in the closed file.
    drop(seat);
    let rows = bare::rows_of(&path, "entity")?;
    let mut bare = Bare::filled(&folder.file("saves.redb"), &rows, false)?;
    let mut repair = Bare::filled(&folder.file("saves-repair.redb"), &rows, true)?;
    let mut seat = Seat::open(&path, seat_options(WRITERS_SAVE_AFTER))?;
    seat.change_all(&order)?;
    seat.drain()?;
    let (mut own, mut lag, mut loops, mut repairs) = (vec![], Duration::ZERO, vec![], vec![]);
    for _ in 0..ROUNDS {
        let (rate, oldest) = seat.saturate(&order, SPAN)?;
        own.push(rate);
        lag = lag.max(oldest);
        loops.push(bare.update_rate(SPAN)?);
        repairs.push(repair.update_rate(SPAN)?);
    }
    let (_, loops) = medians(notes, "saves", &own, &loops);
    let (own, repairs) = medians(notes, "the same, reference with quick repair", &own, &repairs);
    let met = at_least("200-byte sub-documents saved/s, nothing coalesced", own, loops, GOAL_SAVES);
    println!(
        "| the same, next to a loop with redb's quick repair, as the store has it | {own:.0} | \
         {repairs:.0} | {:.2} | | |",
        own / repairs
    );
    Ok(met & loss("oldest unsaved change meanwhile", lag))
}

/// D1, coalescing: many changes of each player in a second; then all of them log in at once.
fn play_and_storm(folder: &Folder) -> anyhow::Result<bool> {
    let path = folder.file("players.store");
    let mut seat = Seat::open(&path, node::data::Options::default())?;
    let order = shuffled(PLAYERS);
    seat.change_all(&order)?;
    seat.drain()?;
    let played = seat.play(&order, PLAY)?;
    drop(seat);
    let accepted = played.changes as f64 / PLAY.as_secs_f64();
    let verdict = verdict(accepted >= GOAL_SAVES, GOAL_SAVES / accepted);
    println!(
        "| changes accepted/s ({PLAYERS} players, {CHANGES_HZ}/s each) | {accepted:.0} | | | \
         >= {GOAL_SAVES:.0} | {verdict} |"
    );
    let mut met = accepted >= GOAL_SAVES;
    let (changes, writes) = (played.changes as f64, played.writes as f64);
    met &= at_least("of those, changes for each database write", changes / writes, 1.0, GOAL_FEWER);
    met &= loss("oldest unsaved change meanwhile", played.oldest);

    let (mut storms, mut p99s, mut reads, mut writes) = (vec![], vec![], vec![], vec![]);
    for _ in 0..ROUNDS {
        let mut seat = Seat::open(&path, node::data::Options::default())?;
        let entered = seat.storm(&order)?.took;
        drop(seat);
        storms.push(ms(entered[entered.len() - 1]));
        p99s.push(ms(entered[entered.len() * 99 / 100]));
        let (read, written) = bare::read_and_rewrite(&path, &order)?;
        reads.push(ms(read));
        writes.push(ms(written));
    }
    let (storm, reads, writes) = (median(storms), median(reads), median(writes));
    println!(
        "| {PLAYERS} logins at once, ms (plain reads) | {storm:.0} | {reads:.1} | \
         {:.0} | report | |",
        storm / reads
    );
    println!(
        "| the same, ms (bare read and durable write of each row) | {storm:.0} | {writes:.0} | \
         {:.1} | report | |",
        storm / writes
    );
    println!(
        "| 99th of 100 logins, ms after the first was asked | {:.0} | | | report | |",
        median(p99s)
    );
    Ok(met)
}

/// D2: transactions with many in flight.
fn commits(folder: &Folder, notes: &mut Vec<String>) -> anyhow::Result<bool> {
    let mut met = true;
    for (what, shape) in [("documents", Shape::Documents), ("balances", Shape::Balances)] {
        let path = folder.file(&format!("{what}.store"));
        let mut deals = Deals::open(&path, shape)?;
        // Half of the pairs deal in each: afterwards all rows are as long as they stay.
        deals.run(Duration::ZERO)?;
        deals.run(Duration::ZERO)?;
        drop(deals);
        let rows = bare::rows_of(&path, shape.table())?;
        let of_txn = [bare::row_bytes(&path, "txn")?, bare::row_bytes(&path, "audit")?];
        let mut bare = Bare::filled(&folder.file(&format!("{what}.redb")), &rows, false)?;
        let mut deals = Deals::open(&path, shape)?;
        let (mut own, mut loops) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            own.push(deals.run(SPAN)?);
            loops.push(bare.deal_rate(SPAN, of_txn)?);
        }
        let (own, loops) = medians(notes, &format!("transactions of two {what}"), &own, &loops);
        let ratio = loops / own;
        let verdict = verdict(ratio <= GOAL_COMMIT, ratio / GOAL_COMMIT);
        met &= ratio <= GOAL_COMMIT;
        println!(
            "| transactions/s of two {what}, {} in flight | {own:.0} | {loops:.0} | \
             {ratio:.2} | <= {GOAL_COMMIT} | {verdict} |",
            deals::IN_FLIGHT
        );
    }
    Ok(met)
}

fn seat_options(save_after: Duration) -> node::data::Options {
    node::data::Options { save_after, ..Default::default() }
}

fn at_least(what: &str, own: f64, reference: f64, goal: f64) -> bool {
    let verdict = verdict(own >= goal, goal / own);
    println!(
        "| {what} | {own:.1} | {reference:.1} | {:.2} | >= {goal:.0} | {verdict} |",
        own / reference
    );
    own >= goal
}

/// The loss window: what a crash would have lost at the worst moment.
fn loss(what: &str, oldest: Duration) -> bool {
    let goal = GOAL_LOSS + FLUSH;
    let met = oldest <= goal;
    let verdict = verdict(met, oldest.as_secs_f64() / goal.as_secs_f64());
    let (oldest, goal) = (ms(oldest), ms(goal));
    println!("| {what}, ms (1 s and a flush) | {oldest:.0} | | | <= {goal:.0} | {verdict} |");
    met
}

fn verdict(met: bool, by: f64) -> String {
    if met { "met".to_owned() } else { format!("missed by {by:.2}x") }
}

/// How fast something was done, and what it cost.
#[derive(Clone, Copy, Debug)]
struct Rate {
    per_second: f64,
    /// Of all threads of this process: the same however busy the machine is.
    cpu_us: f64,
}

/// What is done from now on.
struct Meter {
    begun: Instant,
    cpu: Duration,
}

impl Meter {
    fn begin() -> Self {
        Meter { begun: Instant::now(), cpu: cpu() }
    }

    fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    fn rate(&self, count: u64) -> Rate {
        let count = count as f64;
        let cpu_us = (cpu() - self.cpu).as_secs_f64() * 1e6 / count;
        Rate { per_second: count / self.elapsed().as_secs_f64(), cpu_us }
    }
}

fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The medians of the rates. The rounds as they came go to the notes.
fn medians(notes: &mut Vec<String>, what: &str, own: &[Rate], reference: &[Rate]) -> (f64, f64) {
    let show = |rates: &[Rate]| {
        let each = rates.iter().map(|rate| format!("{:.0}", rate.per_second));
        let cpu = median(rates.iter().map(|rate| rate.cpu_us).collect());
        format!("{} ({cpu:.1} us)", each.collect::<Vec<_>>().join(" "))
    };
    notes.push(format!("{what}/s: mainstay {}, reference {}", show(own), show(reference)));
    let of = |rates: &[Rate]| median(rates.iter().map(|rate| rate.per_second).collect());
    (of(own), of(reference))
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn shuffled(count: u64) -> Vec<u64> {
    let mut order: Vec<u64> = (0..count).collect();
    Random::from_seed(3).shuffle(&mut order);
    order
}

/// What one write and sync of a small file costs here: milliseconds, the median of 20.
fn sync_ms(folder: &Path) -> anyhow::Result<f64> {
    use std::os::unix::fs::FileExt as _;
    let file = std::fs::File::create(folder.join("sync"))?;
    let mut times = Vec::new();
    for at in 0..20 {
        let begun = Instant::now();
        file.write_all_at(&[at; 4_096], 0)?;
        file.sync_data()?;
        times.push(ms(begun.elapsed()));
    }
    Ok(median(times))
}

/// A temporary folder that is removed with it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> anyhow::Result<Self> {
        let name = format!("mainstay-bench-store-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path)?;
        Ok(Folder(path))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("{} stays: {error}", self.0.display());
        }
    }
}
