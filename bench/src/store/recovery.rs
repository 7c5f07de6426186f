//! A process is killed (`kill -9`) with the changes of 100,000 players unsaved: how long until all of
//! them are served again, and what they lost.
//!
//! The players' process is a child that reports when each player has an unsaved change; it is killed
//! then. Its successor is this process: it opens the store, declares the dead node dead, and sends
//! each player a message at once. What is found is held against what was saved before.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use node::data::Options;
use store::Store;

use super::player::{Seat, Storm};
use super::{Folder, bare, median, ms, shuffled};

const ROUNDS: usize = 3;
const PLAYERS: u64 = 100_000;
/// What the child says when each player has an unsaved change.
const UNSAVED: &str = "unsaved ";

/// Where the players' store lies.
enum Place<'a> {
    Embedded(&'a Path),
    #[cfg(feature = "servers")]
    Postgres(&'a str),
}

impl<'a> Place<'a> {
    fn read(store: &str, place: &'a str) -> anyhow::Result<Place<'a>> {
        match store {
            "embedded" => Ok(Place::Embedded(Path::new(place))),
            #[cfg(feature = "servers")]
            "postgres" => Ok(Place::Postgres(place)),
            _ => bail!("there are embedded and postgres, not {store:?}"),
        }
    }

    fn words(&self) -> [String; 2] {
        match self {
            Place::Embedded(path) => ["embedded".to_owned(), path.display().to_string()],
            #[cfg(feature = "servers")]
            Place::Postgres(url) => ["postgres".to_owned(), (*url).to_owned()],
        }
    }

    fn open(&self) -> anyhow::Result<Store> {
        Ok(match self {
            Place::Embedded(path) => Store::embedded(path, store::Options::default())?,
            #[cfg(feature = "servers")]
            Place::Postgres(url) => Store::postgres(url, store::ServerOptions::default())?,
        })
    }

    /// What it takes to read the same rows without a store.
    fn read_rows(&self, order: &[u64]) -> anyhow::Result<Duration> {
        match self {
            Place::Embedded(path) => Ok(bare::read_and_rewrite(path, order)?.0),
            #[cfg(feature = "servers")]
            Place::Postgres(url) => super::server::read_rows(url, order),
        }
    }
}

/// How it went.
struct Round {
    /// From the kill until the store was open again; the same after it was closed in order.
    open: Duration,
    reopen: Duration,
    /// From the kill until the first was served, and all.
    first: Duration,
    all: Duration,
    /// What reading the same rows takes.
    reads: Duration,
    /// Players whose last change was lost, and how old the oldest change was that could be.
    lost: usize,
    oldest: Duration,
}

/// Measures and prints the tables.
///
/// # Errors
///
/// If something that had been saved is not found, a store cannot be opened, or a child not be
/// started.
pub fn run() -> anyhow::Result<bool> {
    println!(
        "A process killed (kill -9) with {PLAYERS} players unsaved, medians of {ROUNDS} rounds"
    );
    let folder = Folder::new()?;
    measure("The embedded store", &Place::Embedded(&folder.file("players.store")))?;
    #[cfg(feature = "servers")]
    {
        let server = servers::Postgres::start()?;
        measure("PostgreSQL on this machine", &Place::Postgres(&server.url()))?;
    }
    Ok(true)
}

fn measure(name: &str, place: &Place<'_>) -> anyhow::Result<()> {
    let order = shuffled(PLAYERS);
    let rounds: Vec<Round> =
        (0..ROUNDS).map(|_| round(place, &order)).collect::<anyhow::Result<_>>()?;
    let middle =
        |of: fn(&Round) -> Duration| median(rounds.iter().map(|round| ms(of(round))).collect());
    println!("\n{name}\n\n| | mainstay | reference | ratio |\n|---|--:|--:|--:|");
    let (open, reopen) = (middle(|round| round.open), middle(|round| round.reopen));
    println!(
        "| ms from the kill until the store is open (the same after it was closed in order) | \
         {open:.1} | {reopen:.1} | {:.1} |",
        open / reopen
    );
    println!("| ... until the first player is served | {:.0} | | |", middle(|round| round.first));
    let (all, reads) = (middle(|round| round.all), middle(|round| round.reads));
    println!(
        "| ... until all are (plain reads of the same rows) | {all:.0} | {reads:.0} | {:.1} |",
        all / reads
    );
    let lost: Vec<_> = rounds.iter().map(|round| round.lost.to_string()).collect();
    let oldest = rounds.iter().map(|round| round.oldest).max().unwrap_or_default();
    println!(
        "\nunsaved changes lost in each round: {} of {PLAYERS}, the oldest {:.0} ms old; of what had \
         been saved before: 0",
        lost.join(", "),
        ms(oldest)
    );
    Ok(())
}

fn round(place: &Place<'_>, order: &[u64]) -> anyhow::Result<Round> {
    let mut players = Players::start(place)?;
    let (oldest, turns) = players.wait()?;
    players.kill()?;
    let killed = Instant::now();
    let store = place.open()?;
    let open = killed.elapsed();
    let mut seat = Seat::over(store, Options::default())?;
    let before = killed.elapsed();
    let Storm { took, found } = seat.storm(order)?;
    drop(seat);
    let [first, .., all] = took[..] else { bail!("there are players") };
    let lost = lost(found, turns)?;
    let closed = Instant::now();
    drop(place.open()?);
    let reopen = closed.elapsed();
    let reads = place.read_rows(order)?;
    Ok(Round { open, reopen, first: before + first, all: before + all, reads, lost, oldest })
}

/// How many have the change before the last. Changes are numbered through all players in turn, and
/// each has made `turns` of them, all of which but the last were saved.
///
/// # Errors
///
/// Somebody has less than what was saved, or what somebody else saved.
fn lost(found: Vec<u64>, turns: u64) -> anyhow::Result<usize> {
    let changes: Vec<u64> = found.iter().filter_map(|what| what.checked_sub(1)).collect();
    let mut whose: Vec<u64> = changes.iter().map(|change| change % PLAYERS).collect();
    whose.sort_unstable();
    ensure!(whose.iter().copied().eq(0..PLAYERS), "not every player has what it has saved");
    let older = |turns: u64| changes.iter().filter(|change| **change / PLAYERS < turns).count();
    let (saved, last) = (turns - 2, turns - 1);
    ensure!(older(saved) == 0, "{} players have less than what was saved", older(saved));
    Ok(older(last))
}

/// The process that is killed.
struct Players {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Players {
    fn start(place: &Place<'_>) -> anyhow::Result<Players> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("child-recovery")
            .args(place.words())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = BufReader::new(child.stdout.take().expect("piped"));
        Ok(Players { child, output })
    }

    /// Until each player has an unsaved change; how old the oldest of them is, and how many each
    /// has made.
    fn wait(&mut self) -> anyhow::Result<(Duration, u64)> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        let said = line.trim().strip_prefix(UNSAVED).and_then(|said| said.split_once(' '));
        let (oldest, turns) = said.context("the players' process has ended")?;
        Ok((Duration::from_millis(oldest.parse()?), turns.parse()?))
    }

    /// As `kill -9`, until it is gone.
    fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Players {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// `bench child-recovery STORE PLACE`: lets all players change and be saved, then change once more,
/// says so and goes on until it is killed.
///
/// # Errors
///
/// The store does not take what it is given.
pub fn child(store: &str, place: &str) -> anyhow::Result<()> {
    // It ends with its parent, who holds the other end of our input.
    std::thread::spawn(|| {
        let _ = std::io::Read::read(&mut std::io::stdin(), &mut [0]);
        std::process::exit(0);
    });
    let mut seat = Seat::over(Place::read(store, place)?.open()?, Options::default())?;
    let order: Vec<u64> = (0..PLAYERS).collect();
    seat.change_all(&order)?;
    seat.drain()?;
    let (oldest, further) = seat.soil(&order)?;
    println!("{UNSAVED}{} {}", oldest.as_millis(), 1 + further);
    seat.drain()?;
    bail!("nobody killed it")
}
