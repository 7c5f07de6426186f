use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
#[cfg(feature = "redis")]
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use mainstay::Exit;
use mainstay::env::Clock;
use mainstay::node::data::bury_all;
use mainstay::store::{DumpError, DumpSummary, Store, Verdict, dump};

use super::open::{Where, folder_of};
use super::time;

/// Rows of journal and target are compared in pieces of this size.
#[cfg(feature = "redis")]
const PAGE_BYTES: usize = 1 << 20;

#[derive(clap::Args)]
pub struct Verify {
    /// A copy to check instead of a store.
    copy: Option<PathBuf>,
    #[command(flatten)]
    place: Where,
}

#[derive(clap::Args)]
pub struct Export {
    /// The file to write. It is there only once it is whole.
    file: PathBuf,
    #[command(flatten)]
    place: Where,
    /// Writes over a file that is there already.
    #[arg(long)]
    force: bool,
}

#[derive(clap::Args)]
pub struct Import {
    /// The file that `export` wrote. It is checked whole before anything is changed.
    file: PathBuf,
    #[command(flatten)]
    place: Where,
    /// Removes all that the store holds before. Export it first.
    #[arg(long)]
    replace: bool,
}

impl Verify {
    pub fn run(self) -> anyhow::Result<Exit> {
        if let Some(file) = &self.copy {
            let summary = check(file)?;
            println!("{} is whole", file.display());
            tell(&summary);
            return Ok(Exit::Well);
        }
        let store = self.place.open()?;
        let verdict = tell_verdict(&store.verify().wait()?);
        Ok(verify_target(&store)?.unwrap_or(verdict))
    }
}

/// Verifies where a journal lands, and holds it against the journal if nothing is written meanwhile. `None`: it has none, or
/// all is well.
#[cfg(feature = "redis")]
fn verify_target(store: &Store) -> anyhow::Result<Option<Exit>> {
    const LAND_WAIT: Duration = Duration::from_secs(30);
    let Some(target) = store.landing_target() else { return Ok(None) };
    let begun = Instant::now();
    let report = loop {
        let report = store.landing().context("it has a journal")?;
        if report.backlog_bytes == 0 || begun.elapsed() >= LAND_WAIT {
            break report;
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    println!(
        "landed: {} of {} commits, {} bytes and {:?} behind, {} rows set aside",
        report.landed, report.position, report.backlog_bytes, report.lag, report.aside
    );
    if let Some(trouble) = &report.trouble {
        println!("nothing lands: {trouble}");
    }
    println!("the landing target:");
    let verdict = target.verify().wait()?;
    let exit = tell_verdict(&verdict);
    if !matches!(exit, Exit::Well) || report.aside > 0 {
        return Ok(Some(Exit::Unfinished));
    }
    let mut after = None;
    loop {
        let rows = store.rows(after.clone(), PAGE_BYTES).wait()?;
        let landed = target.rows(after.clone(), PAGE_BYTES).wait()?;
        let differs = rows.iter().zip(&landed).find(|(one, other)| one != other);
        if differs.is_some() || rows.len() != landed.len() {
            let quiet = store.landing().is_some_and(|now| now.position == report.position);
            if !quiet || report.backlog_bytes > 0 {
                println!("journal and target were not compared: something was written meanwhile");
                return Ok(None);
            }
            println!("the target has other rows than the journal");
            return Ok(Some(Exit::Unfinished));
        }
        let Some(last) = rows.last() else { break };
        after = Some(last.place.clone());
    }
    println!("journal and target have the same rows");
    Ok(None)
}

#[cfg(not(feature = "redis"))]
fn verify_target(_: &Store) -> anyhow::Result<Option<Exit>> {
    Ok(None)
}

impl Export {
    pub fn run(self) -> anyhow::Result<Exit> {
        let shown = self.file.display();
        ensure!(
            self.force || !self.file.exists(),
            "{shown} is there already: choose another name, or --force"
        );
        let store = self.place.open_one()?;
        let before = self.place.quiet(&store)?;
        let mut part = self.file.clone().into_os_string();
        part.push(".part");
        let part = PathBuf::from(part);
        let summary = write(&store, &part).and_then(|summary| {
            // A node that came meanwhile may have written between two rows.
            ensure!(
                store.nodes().wait()? == before,
                "a node began to use the store meanwhile: stop it, then export again"
            );
            Ok(summary)
        });
        let placed = summary.and_then(|summary| {
            std::fs::rename(&part, &self.file)?;
            Ok(summary)
        });
        let summary = match placed {
            Ok(summary) => summary,
            Err(error) => {
                let _ = std::fs::remove_file(&part);
                return Err(error.context(format!("{shown} was not written")));
            }
        };
        let synced = File::open(folder_of(&self.file)).and_then(|folder| folder.sync_all());
        synced.with_context(|| {
            format!("{shown} is whole, but a power cut may take it: export it again elsewhere")
        })?;
        println!("{shown} is written");
        tell(&summary);
        Ok(Exit::Well)
    }
}

fn write(store: &Store, part: &Path) -> anyhow::Result<DumpSummary> {
    let file = File::create(part).with_context(|| format!("cannot make {}", part.display()))?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let summary = store.export(&mut out, Clock::system().wall().0)?;
    out.flush()?;
    out.get_ref().sync_all()?;
    Ok(summary)
}

impl Import {
    pub fn run(self) -> anyhow::Result<Exit> {
        let shown = self.file.display();
        // Before a store is made for it.
        check(&self.file)?;
        let store = self.place.open_or_make()?;
        self.place.quiet(&store)?;
        let mut file = BufReader::with_capacity(1 << 20, open(&self.file)?);
        let summary = match store.import(&mut file, self.replace) {
            Ok(summary) => summary,
            Err(DumpError::NotEmpty) => bail!(
                "the store is not empty: name an empty one, or remove all that it holds by --replace"
            ),
            Err(error) => {
                return Err(anyhow::Error::new(error).context(format!("{shown} was not imported")));
            }
        };
        // Its nodes have never been here.
        bury_all(&store)?;
        println!("{shown} is imported");
        tell(&summary);
        Ok(tell_verdict(&store.verify().wait()?))
    }
}

fn open(file: &Path) -> anyhow::Result<File> {
    File::open(file).with_context(|| format!("cannot open {}", file.display()))
}

fn check(file: &Path) -> anyhow::Result<DumpSummary> {
    let mut reader = BufReader::with_capacity(1 << 20, open(file)?);
    dump::check(&mut reader)
        .with_context(|| format!("{} cannot be used, and nothing was changed", file.display()))
}

fn tell(summary: &DumpSummary) {
    let digest: String = summary.digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    println!("  made {}, digest {digest}..", time::shown(summary.at_ms));
    for (table, rows) in &summary.rows {
        println!("  {table:<8} {rows:>10} rows");
    }
}

fn tell_verdict(verdict: &Verdict) -> Exit {
    println!("{} rows were read", verdict.rows);
    for (currency, amount) in &verdict.currencies {
        println!("  {currency}: {amount} with all holders");
    }
    for (kind, count) in &verdict.items {
        println!("  {kind}: {count} with all holders");
    }
    if verdict.faults.is_empty() {
        println!("everything can be read, and the ledger adds up");
        return Exit::Well;
    }
    for fault in &verdict.faults {
        println!("FAULT: {fault}");
    }
    Exit::Unfinished
}
