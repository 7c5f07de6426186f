//! A database that is away for a minute while players play: what was promised holds, and the log
//! says what is happening.

use std::collections::BTreeMap;
use std::path::Path;

use super::*;

/// What waited is saved within this time after the database acknowledged again.
const CATCH_UP: Duration = Duration::from_secs(3);

/// What the log has to say.
const SAID: [&str; 4] = ["store is away", "stand still", "store is back", "go on"];

/// Has the database of `backend` away for `away` under load.
pub fn run(backend: Backend, away: Duration, seed: u64) -> anyhow::Result<bool> {
    let place = Place::new(backend)?;
    let model: Shared = Arc::new(Mutex::new(Model::new(1..=PLAYERS)));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("no runtime")?;
    let mut run = Run { killed: 1, ..Run::new(backend) };
    run.databases.times = 1;
    let mut server = Server::start(&place.folder, MAINSTAY)?;
    let started = Instant::now();
    let address = server.address(&place.folder)?;
    let breaks = Some(Break { victim: Victim::Database, away, then: CATCH_UP });
    let way = Way { seed, breaks };
    let round = runtime.block_on(round(&place, &address, server, way, &model))?;
    run.recovery = round.served.saturating_duration_since(started);
    run.databases.outage = round.outage;
    let store = place.store()?;
    lock(&model).settle(&store, (round.killed, D1_BOUND), true)?;
    let met = report(&run, &lock(&model));
    let lines = warnings(&place.folder)?;
    println!("\nsaid in the log:");
    for (line, times) in lines.iter().take(20) {
        println!("  {times:>5} x {line}");
    }
    let unsaid = |said: &&str| !lines.keys().any(|line| line.contains(*said));
    let missing: Vec<&str> = SAID.into_iter().filter(unsaid).collect();
    if !missing.is_empty() {
        println!("FAULT: the log never says: {}", missing.join(", "));
    }
    Ok(met && missing.is_empty())
}

/// What a server's log says of the store, and all warnings and errors, without their times; and how
/// often each was said.
fn warnings(folder: &Path) -> anyhow::Result<BTreeMap<String, u32>> {
    let text = std::fs::read_to_string(folder.join("stderr.log"))?;
    let mut lines = BTreeMap::new();
    for line in text.lines() {
        let said = ["WARN", "ERROR"].into_iter().find_map(|level| line.find(level));
        let told = line.find("INFO").filter(|_| line.contains("store is"));
        if let Some(at) = said.or(told) {
            let words: String = line[at..].chars().take(160).collect();
            *lines.entry(words).or_insert(0) += 1;
        }
    }
    Ok(lines)
}
