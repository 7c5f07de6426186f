//! Kills a server at random points under trades and saves, and counts what it had promised.
//!
//! The server is a process of its own with a cluster file. What it acknowledged is what its clients
//! read over the protocol; what must be there is computed from that and compared with the store. A
//! database, and data processes in front of the store, are killed apart from it, at moments of their
//! own, while the server goes on.

mod database;
mod outage;
mod served;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use env::Random;
use mainstay::client::{Address, CallError, Client, End, Events, Options};
use mainstay::config::{Config, Keys, StorePlace};
use mainstay::prelude::CloseCode;
use mainstay::proto::MethodId;
use mainstay::proto::ticket::TicketKeys;
use mainstay::store::Store;

use crate::traders::{Model, ask, choose, game, grant, note, trade};
use database::{BACKENDS, Backend, Database};
use served::{Places, Served};

/// The process that is killed in each round, as the cluster file calls it.
const MAINSTAY: &str = "local";

const PLAYERS: u64 = 16;
/// The server is killed at a random moment this long after its players are in.
const RUN_MIN: Duration = Duration::from_millis(200);
const RUN_SPREAD: Duration = Duration::from_millis(2_000);
/// Every so many times it is killed while it starts.
const EARLY_EVERY: u32 = 10;
/// For how long what was on its way may still arrive after the kill.
const DRAIN: Duration = Duration::from_millis(100);
/// Its database, or a data process, is killed this long after its players are in, or sooner.
const BREAK_SPREAD: Duration = Duration::from_millis(800);
/// How long Mainstay may take to be served again by a store that is back.
const SERVED_MAX: Duration = Duration::from_secs(30);
/// Then it goes on for this long before it is killed itself, so that D1 is bounded again.
const CATCH_UP: Duration = Duration::from_millis(1_500);
/// Every so many times all rows of a server's store are read and added up; of a file's, always.
const SUMS_EVERY: u32 = 20;
/// D1 is lost for at most this, and a flush. The time in which the store is away is not counted.
const D1_BOUND: Duration = Duration::from_secs(1);

struct Plan {
    backends: Vec<Backend>,
    /// How often each is killed; otherwise as often as is asked of the backend.
    kills: Option<u32>,
    /// Instead of all that: each database is away for so long, once.
    outage: Option<Duration>,
    seed: u64,
}

/// `bench crash [--backend NAME]... [--kills N | --outage SECONDS] [--seed N]`.
///
/// # Errors
///
/// A server does not start, or a store cannot be read after a crash.
pub fn run(arguments: &[&str]) -> anyhow::Result<bool> {
    let plan = read(arguments)?;
    println!("seed {}", plan.seed);
    let mut met = true;
    for backend in &plan.backends {
        met &= match plan.outage {
            Some(away) => outage::run(*backend, away, plan.seed)?,
            None => crash(*backend, plan.kills.unwrap_or(backend.kills), plan.seed)?,
        };
    }
    Ok(met)
}

fn read(arguments: &[&str]) -> anyhow::Result<Plan> {
    let seed = Random::from_os().u64();
    let mut plan = Plan { backends: Vec::new(), kills: None, outage: None, seed };
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let mut value = || {
            let value = words.next().copied().filter(|value| !value.starts_with("--"));
            value.with_context(|| format!("{word} needs a value: {OPTIONS}"))
        };
        match *word {
            "--backend" => plan.backends.push(Backend::find(value()?)?),
            "--kills" => plan.kills = Some(number(word, value()?)?),
            "--outage" => plan.outage = Some(Duration::from_secs(number(word, value()?)?)),
            "--seed" => plan.seed = number(word, value()?)?,
            _ => bail!("unknown option {word}: {OPTIONS}"),
        }
    }
    if plan.outage.is_some() {
        if let Some(backend) = plan.backends.iter().find(|backend| !backend.has_database()) {
            bail!("{} has no database that could be away: name another --backend", backend.name);
        }
        ensure!(plan.kills.is_none(), "--outage goes without --kills");
    }
    if plan.backends.is_empty() {
        let is_meant = |backend: &&Backend| plan.outage.is_none() || backend.has_database();
        plan.backends = BACKENDS.iter().filter(is_meant).copied().collect();
    }
    Ok(plan)
}

const OPTIONS: &str = "there are --backend NAME, --kills N, --outage SECONDS and --seed N";

fn number<T: std::str::FromStr>(option: &str, value: &str) -> anyhow::Result<T> {
    value.parse().ok().with_context(|| format!("{option} takes a number, and {value:?} is none"))
}

/// A folder with a cluster file, gone with it.
struct Place {
    folder: PathBuf,
    store: StorePlace,
    keys: TicketKeys,
    /// Data processes, if there are any.
    served: Option<Served>,
    database: Database,
}

impl Place {
    fn new(backend: Backend) -> anyhow::Result<Place> {
        let name = format!("mainstay-crash-{}-{}", std::process::id(), backend.name);
        let folder = std::env::temp_dir().join(name.replace(' ', "-"));
        std::fs::create_dir_all(&folder)?;
        let (database, store) = Database::start(backend.store)?;
        let places = Places::free(backend.data)?;
        // A process by itself has nobody to link up with.
        let mesh = if backend.data > 0 { ", \"mesh\": 0" } else { "" };
        let text = format!(
            "{{\"cluster\": \"crash\", \"data\": {:?}, \"store\": {store},\n\
             \"processes\": {{{MAINSTAY:?}: {{\"roles\": [\"gate\", \"node\"],\n\
             \"listen\": {{\"clients\": \"127.0.0.1:0\"{mesh}}}}}{}}}}}\n",
            folder.display().to_string(),
            places.entries()
        );
        std::fs::write(folder.join(FILE), text)?;
        let roles = game::app().role_names();
        let config = Config::check(&folder.join(FILE), &roles)?;
        let process = config.choose(Some(MAINSTAY)).map_err(anyhow::Error::msg)?;
        let keys = Keys::kept(&process.data, &mut Random::from_os())?;
        let served = match backend.data {
            0 => None,
            _ => Some(Served::start(&folder, places, process, &keys)?),
        };
        let keys = TicketKeys::new(keys.tickets);
        Ok(Place { store: process.store.clone(), keys, folder, served, database })
    }

    /// The store, once the server is gone: that it is gone we have seen, so what it had is free.
    fn store(&self) -> anyhow::Result<Store> {
        if let Some(served) = &self.served {
            return served.store();
        }
        let store = mainstay::open_store(&self.store)?;
        mainstay::node::data::bury_all(&store)?;
        Ok(store)
    }

    /// The same without the data processes, which are killed for good.
    fn bare_store(&self) -> anyhow::Result<Store> {
        if let Some(served) = &self.served {
            served.end();
        }
        Ok(mainstay::open_store(&self.store)?)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Nobody is to write there any more.
        self.served = None;
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The cluster file in its folder.
const FILE: &str = "cluster.json";

/// The server as a process.
struct Server {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Server {
    fn start(folder: &Path, process: &str) -> anyhow::Result<Server> {
        let log = File::options().create(true).append(true).open(folder.join("stderr.log"))?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(["child-crash", &folder.join(FILE).display().to_string(), process])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()?;
        let output = BufReader::new(child.stdout.take().expect("piped"));
        Ok(Server { child, output })
    }

    fn address(&mut self, folder: &Path) -> anyhow::Result<String> {
        let mut line = String::new();
        while self.output.read_line(&mut line)? > 0 {
            if let Some((_, address)) = line.split_once("http://") {
                return Ok(address.trim().trim_end_matches('/').to_owned());
            }
            line.clear();
        }
        let said = std::fs::read_to_string(folder.join("stderr.log")).unwrap_or_default();
        let last: Vec<_> = said.lines().rev().take(5).collect();
        bail!("the server ended at its start: {}", last.join(" | "));
    }

    /// As `kill -9`; when it was done.
    fn kill(mut self) -> anyhow::Result<Instant> {
        self.child.kill()?;
        let killed = Instant::now();
        self.child.wait()?;
        Ok(killed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `bench child-crash FILE PROCESS`: one of those that are killed.
///
/// # Errors
///
/// It could not be started.
pub fn child(file: &str, process: &str) -> anyhow::Result<()> {
    // It ends with its parent, who holds the other end of our input.
    std::thread::spawn(|| {
        let _ = std::io::Read::read(&mut std::io::stdin(), &mut [0]);
        std::process::exit(0);
    });
    let words = ["--cluster", file, "--process", process].map(str::to_owned);
    let exit = mainstay::run_with(game::app(), words.into_iter(), |_| {});
    ensure!(exit == mainstay::Exit::Well, "the server ended with {exit:?}");
    Ok(())
}

type Shared = Arc<Mutex<Model>>;

fn crash(backend: Backend, kills: u32, seed: u64) -> anyhow::Result<bool> {
    let place = Place::new(backend)?;
    let model: Shared = Arc::new(Mutex::new(Model::new(1..=PLAYERS)));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("no runtime")?;
    let mut random = Random::from_seed(seed);
    let mut run = Run::new(backend);
    while run.is_due(kills) {
        run.killed += 1;
        let mut server = Server::start(&place.folder, MAINSTAY)?;
        let started = Instant::now();
        let killed = if run.killed.is_multiple_of(EARLY_EVERY) {
            std::thread::sleep(Duration::from_millis(random.below(60)));
            server.kill()?
        } else {
            let address = server.address(&place.folder)?;
            let victim = run.victim(kills);
            let breaks =
                victim.map(|victim| Break { victim, away: Duration::ZERO, then: CATCH_UP });
            let way = Way { seed: random.u64(), breaks };
            let round = runtime.block_on(round(&place, &address, server, way, &model))?;
            run.recovery = run.recovery.max(round.served.saturating_duration_since(started));
            if let Some(victim) = victim {
                let count = run.count(victim);
                count.times += 1;
                count.outage = count.outage.max(round.outage);
            }
            round.killed
        };
        let store = place.store()?;
        let mut model = lock(&model);
        let is_last = !run.is_due(kills);
        let sums = !backend.has_database() || run.killed.is_multiple_of(SUMS_EVERY) || is_last;
        model.settle(&store, (killed, D1_BOUND), sums)?;
        if is_last && place.served.is_some() {
            drop(store);
            // What data processes say is there is there without them.
            model.settle(&place.bare_store()?, (killed, D1_BOUND), true)?;
        }
        if !model.totals.faults.is_empty() {
            break;
        }
        if run.killed.is_multiple_of(20) {
            let worst = ms(model.totals.worst_loss);
            let acknowledged = model.totals.acknowledged;
            eprintln!(
                "{}: {} of {kills} kills, {acknowledged} transactions, D1 lost for {worst:.0} ms at worst",
                backend.name, run.killed
            );
        }
    }
    Ok(report(&run, &lock(&model)))
}

/// What is killed apart from Mainstay's process, while that goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Database,
    /// One of the data processes.
    Data,
}

/// How often one of them was killed.
#[derive(Clone, Copy, Default)]
struct Count {
    times: u32,
    /// From the kill until something was acknowledged again, at worst.
    outage: Duration,
}

/// What was done to a backend.
struct Run {
    backend: Backend,
    begun: Instant,
    killed: u32,
    databases: Count,
    data: Count,
    /// From the start of a server until a player was served, at worst.
    recovery: Duration,
}

impl Run {
    fn new(backend: Backend) -> Self {
        let (databases, data) = (Count::default(), Count::default());
        let (begun, recovery) = (Instant::now(), Duration::ZERO);
        Run { backend, begun, killed: 0, databases, data, recovery }
    }

    fn is_due(&self, kills: u32) -> bool {
        self.killed < kills || self.victim(kills).is_some()
    }

    /// What is to be killed next beside Mainstay: by turns what there is, until each was often enough.
    fn victim(&self, kills: u32) -> Option<Victim> {
        let database =
            self.backend.has_database().then_some((self.databases.times, Victim::Database));
        let data = (self.backend.data > 0).then_some((self.data.times, Victim::Data));
        let due = [database, data].into_iter().flatten().filter(|(times, _)| *times < kills);
        due.min_by_key(|(times, _)| *times).map(|(_, victim)| victim)
    }

    fn count(&mut self, victim: Victim) -> &mut Count {
        match victim {
            Victim::Database => &mut self.databases,
            Victim::Data => &mut self.data,
        }
    }
}

/// Something that is killed while Mainstay goes on.
#[derive(Clone, Copy)]
struct Break {
    victim: Victim,
    /// For how long a database stays away.
    away: Duration,
    /// How long the server then goes on at least.
    then: Duration,
}

/// How a round goes.
struct Way {
    seed: u64,
    /// What is killed before the server is.
    breaks: Option<Break>,
}

/// How it went.
struct Round {
    killed: Instant,
    served: Instant,
    outage: Duration,
}

/// Lets players play and kills the server, perhaps something else before.
async fn round(
    place: &Place,
    address: &str,
    server: Server,
    way: Way,
    model: &Shared,
) -> anyhow::Result<Round> {
    let mut seeds = Random::from_seed(way.seed);
    let mut players = Vec::new();
    let mut served = None;
    for account in 1..=PLAYERS {
        let (client, events) = login(place, address, account).await?;
        let (level, trained): (u64, u64) = ask(&client, "look", &()).await?;
        served.get_or_insert_with(Instant::now);
        check_served(model, account, (level, trained));
        let (random, of) = (seeds.fork(), Arc::clone(model));
        players.push(tokio::spawn(async move {
            let _events = events;
            play(&client, account, &of, random).await;
        }));
    }
    let mut outage = Duration::ZERO;
    if let Some(breaks) = way.breaks {
        sleep_up_to(&mut seeds, BREAK_SPREAD).await;
        outage = match (breaks.victim, &place.served) {
            (Victim::Data, Some(served)) => kill_data(served, model, &mut seeds).await?,
            _ => kill_database(place, model, breaks.away).await?,
        };
        tokio::time::sleep(breaks.then).await;
        sleep_up_to(&mut seeds, BREAK_SPREAD).await;
    } else {
        tokio::time::sleep(RUN_MIN).await;
        sleep_up_to(&mut seeds, RUN_SPREAD).await;
    }
    let killed = server.kill()?;
    tokio::time::sleep(DRAIN).await;
    for player in &players {
        player.abort();
    }
    for player in players {
        // Whoever panicked found something that must not be.
        if let Err(error) = player.await
            && error.is_panic()
        {
            bail!("a player: {error}");
        }
    }
    Ok(Round { killed, served: served.unwrap_or(killed), outage })
}

async fn sleep_up_to(random: &mut Random, most: Duration) {
    tokio::time::sleep(Duration::from_micros(random.below(most.as_micros() as u64))).await;
}

/// Kills the database and has it back; for how long nothing was acknowledged.
async fn kill_database(place: &Place, model: &Shared, away: Duration) -> anyhow::Result<Duration> {
    let killed = Instant::now();
    lock(model).store_killed();
    place.database.kill();
    tokio::time::sleep(away).await;
    place.database.start_again()?;
    lock(model).store_ready();
    until_acknowledged(model).await?;
    lock(model).store_serves();
    Ok(killed.elapsed())
}

/// Kills a data process and has it back; for how long nothing was acknowledged. Without the only one
/// there is no store; of several any other stands in, so that nothing is away.
async fn kill_data(
    served: &Served,
    model: &Shared,
    random: &mut Random,
) -> anyhow::Result<Duration> {
    let at = random.below(served.count() as u64) as usize;
    let killed = Instant::now();
    if served.count() > 1 {
        served.kill(at)?;
        until_acknowledged(model).await?;
        let outage = killed.elapsed();
        served.until_ready(at)?;
        return Ok(outage);
    }
    lock(model).store_killed();
    served.kill(at)?;
    served.until_ready(at)?;
    lock(model).store_ready();
    until_acknowledged(model).await?;
    lock(model).store_serves();
    Ok(killed.elapsed())
}

/// Waits until something is acknowledged that was not before.
async fn until_acknowledged(model: &Shared) -> anyhow::Result<()> {
    let before = lock(model).totals.acknowledged;
    let begun = Instant::now();
    while lock(model).totals.acknowledged == before {
        ensure!(begun.elapsed() < SERVED_MAX, "nothing is acknowledged by a store that is back");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// A player is served what is stored.
fn check_served(model: &Shared, account: u64, served: (u64, u64)) {
    let mut model = lock(model);
    let known = &model.accounts[&account];
    if served != (known.level, known.trained) {
        let line = format!("player {account} is served {served:?}; stored is {known:?}");
        model.fault(line);
    }
}

/// Logs in. On a machine that is loaded a connection may be given up after its ticket was used.
async fn login(place: &Place, address: &str, account: u64) -> anyhow::Result<(Client, Events)> {
    let mut tries = 0;
    loop {
        let options = Options::new(Address::tcp(address));
        match Client::connect(options, grant(&place.keys, account)).await {
            Err(End::Server { code: CloseCode::Ticket, .. }) if tries < 10 => tries += 1,
            other => return Ok(other?),
        }
    }
}

fn lock(model: &Shared) -> std::sync::MutexGuard<'_, Model> {
    model.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Levels up and trades until the connection is gone.
async fn play(client: &Client, account: u64, model: &Shared, mut random: Random) {
    let mut items: Vec<u64> = lock(model).accounts[&account].items.iter().copied().collect();
    loop {
        if random.chance(1, 2) {
            match client.request::<_, u64>("me", MethodId::of("rise"), &()).await {
                Ok(level) => lock(model).level(account, level),
                Err(error) if is_over(&error) => return,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
            continue;
        }
        let op = choose(&mut random, account, &mut items, PLAYERS);
        let id = lock(model).ask(account, op);
        let done = trade(client, "sell", id, op).await;
        note(&mut items, id, op, &done);
        match done {
            Ok(_) => lock(model).acknowledge(id),
            Err(CallError::App(_)) => {}
            Err(error) if is_over(&error) => return,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
        tokio::time::sleep(Duration::from_millis(random.below(4))).await;
    }
}

/// Whether there is nobody to ask any more: while its store is away the server refuses, or is late.
fn is_over(error: &CallError) -> bool {
    !matches!(error, CallError::Refused(_) | CallError::Timeout)
}

fn report(run: &Run, model: &Model) -> bool {
    let totals = &model.totals;
    let others = [
        (
            run.backend.has_database(),
            "its database",
            "database killed to first answer      ",
            run.databases,
        ),
        (run.backend.data > 0, "a data process", "data process killed to first answer  ", run.data),
    ];
    let others: Vec<_> = others.into_iter().filter(|(is_there, ..)| *is_there).collect();
    print!("\n{}: Mainstay killed {} times", run.backend.name, run.killed);
    for (_, what, _, count) in &others {
        print!(", {what} {} times", count.times);
    }
    println!(", in {:.0} s, {PLAYERS} players\n", run.begun.elapsed().as_secs_f64());
    println!("transactions acknowledged            {:>10}", totals.acknowledged);
    println!("done, but killed before the answer   {:>10}", totals.done_untold);
    println!("asked for and not done               {:>10}", totals.not_done);
    println!("acknowledged and lost                {:>10}", totals.lost);
    println!("done twice                           {:>10}", totals.doubled);
    println!("levels answered                      {:>10}", totals.levels);
    println!("oldest level lost, worst case        {:>10.0} ms", ms(totals.worst_loss));
    if !others.is_empty() {
        println!("... with the store's absence         {:>10.0} ms", ms(totals.worst_age));
    }
    println!("... more than a second and a flush   {:>10.0} ms", ms(totals.over));
    println!("slowest flush, with its store        {:>10.0} ms", ms(totals.slowest_flush));
    println!("start to first answer, worst case    {:>10.0} ms", ms(run.recovery));
    for (_, _, line, count) in &others {
        println!("{line}{:>10.0} ms", ms(count.outage));
    }
    for fault in &totals.faults {
        println!("FAULT: {fault}");
    }
    let exact = totals.faults.is_empty() && totals.lost == 0 && totals.doubled == 0;
    let least = u64::from(run.killed);
    let busy = totals.acknowledged > least && totals.levels > least;
    let in_time = totals.over.is_zero();
    let verdict = match (exact && busy, in_time) {
        (true, true) => "met".to_owned(),
        (true, false) => format!("missed by {:.0} ms of D1", ms(totals.over)),
        (false, _) => "missed by what is listed above".to_owned(),
    };
    println!(
        "\n0 acknowledged transactions lost or doubled, totals exact, D1 lost for at most a second and \
         one flush: {verdict}"
    );
    if !others.is_empty() {
        println!(
            "(A level's age leaves out the time in which its database, or its only data process, was away, \
             from the kill until it was ready again; a flush is a transaction that was begun while it was there.)"
        );
    }
    exact && busy && in_time
}

fn ms(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}
