//! A store on PostgreSQL: transactions with many in flight, and a storm of logins, next to loops
//! over the same server that do without a store.
//!
//! The direct loop of transactions is what a game would write by hand, as pgbench runs it: so many
//! connections, each with one transaction at a time (two rows locked, both changed, a receipt and an
//! audit row put in, commit), all statements of one step sent together.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use store::{ServerOptions, Store};
use tokio_postgres::{Client, NoTls};

use super::deals::{self, Deals, Shape};
use super::player::{Seat, player_key};
use super::{Meter, Rate, median, ms, shuffled};

const ROUNDS: usize = 3;
const SPAN: Duration = Duration::from_millis(1_500);
/// Connections of the direct loop.
const DIRECT: usize = 32;
const PAIRS: u64 = 16_384;
const PLAYERS: u64 = 10_000;
/// Bytes of a holder's row, of a receipt and of an audit row, as the store has them.
const ROW_BYTES: [usize; 3] = [33, 200, 110];

/// Measures and prints the table.
///
/// # Errors
/// If the server cannot be started, or refuses something.
pub fn run() -> anyhow::Result<bool> {
    let server = servers::Postgres::start()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let admin = runtime.block_on(connect(&server.url()))?;
    println!("A store on PostgreSQL on this machine, medians of {ROUNDS} rounds\n");
    println!("| | mainstay | reference | ratio |");
    println!("|---|--:|--:|--:|");
    commits(&server, &runtime)?;
    storm(&server, &runtime)?;
    drop(admin);
    Ok(true)
}

fn open(server: &servers::Postgres) -> anyhow::Result<Store> {
    Ok(Store::postgres(&server.url(), ServerOptions::default())?)
}

fn commits(server: &servers::Postgres, runtime: &tokio::runtime::Runtime) -> anyhow::Result<()> {
    let mut deals = Deals::over(open(server)?, Shape::Balances)?;
    deals.run(Duration::ZERO)?;
    let mut direct = runtime.block_on(Direct::prepare(&server.url()))?;
    for (in_flight, what) in [(deals::IN_FLIGHT, "8192"), (DIRECT, "as many as there")] {
        deals.in_flight = in_flight;
        let (mut own, mut loops) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            own.push(deals.run(SPAN)?.per_second);
            loops.push(runtime.block_on(direct.run(SPAN))?.per_second);
        }
        let (own, loops) = (median(own), median(loops));
        println!(
            "| transactions/s of two balances, {what} in flight ({DIRECT} connections, one each) \
             | {own:.0} | {loops:.0} | {:.2} |",
            loops / own
        );
    }
    Ok(())
}

fn storm(server: &servers::Postgres, runtime: &tokio::runtime::Runtime) -> anyhow::Result<()> {
    let order = shuffled(PLAYERS);
    let options = node::data::Options::default;
    let mut seat = Seat::over(open(server)?, options())?;
    seat.change_all(&order)?;
    seat.drain()?;
    drop(seat);
    let client = runtime.block_on(connect(&server.url()))?;
    let (mut storms, mut p99s, mut reads) = (vec![], vec![], vec![]);
    for _ in 0..ROUNDS {
        let mut seat = Seat::over(open(server)?, options())?;
        let entered = seat.storm(&order)?.took;
        storms.push(ms(entered[entered.len() - 1]));
        p99s.push(ms(entered[entered.len() * 99 / 100]));
        drop(seat);
        reads.push(ms(runtime.block_on(read_all(&client, &order))?));
    }
    let (storm, reads) = (median(storms), median(reads));
    println!(
        "| {PLAYERS} logins at once, ms (the same rows read, 1,024 in a statement) | {storm:.0} | \
         {reads:.0} | {:.1} |",
        storm / reads
    );
    let p99 = median(p99s);
    println!("| 99th of 100 logins, ms after the first was asked | {p99:.0} | | |");
    Ok(())
}

/// What it takes to read the players' rows.
///
/// # Errors
///
/// If the server refuses something.
pub fn read_rows(url: &str, order: &[u64]) -> anyhow::Result<Duration> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { read_all(&connect(url).await?, order).await })
}

async fn connect(url: &str) -> anyhow::Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(async move { drop(connection.await) });
    Ok(client)
}

async fn read_all(client: &Client, order: &[u64]) -> anyhow::Result<Duration> {
    let statement =
        client.prepare("SELECT row FROM mainstay_rows WHERE tab = 2 AND key = ANY($1)").await?;
    let begun = Instant::now();
    let mut rows = 0;
    for keys in order.chunks(1_024) {
        let keys: Vec<[u8; 16]> = keys.iter().map(|key| player_key(*key).0.to_be_bytes()).collect();
        let keys: Vec<&[u8]> = keys.iter().map(<[u8; 16]>::as_slice).collect();
        let found = client.query(&statement, &[&keys]).await?;
        rows += found.iter().filter(|row| !row.get::<_, &[u8]>(0).is_empty()).count();
    }
    anyhow::ensure!(rows == order.len(), "{rows} players were read");
    Ok(begun.elapsed())
}

/// Connections that each do one transaction after the other.
struct Direct {
    clients: Vec<Client>,
    sequence: i64,
}

impl Direct {
    async fn prepare(url: &str) -> anyhow::Result<Self> {
        let mut clients = Vec::new();
        for _ in 0..DIRECT {
            clients.push(connect(url).await?);
        }
        let first = clients.first().context("there are some")?;
        first
            .batch_execute(
                "CREATE TABLE direct_holder (key int8 PRIMARY KEY, row bytea) WITH (fillfactor = 80); \
                 CREATE TABLE direct_txn (key bytea PRIMARY KEY, row bytea); \
                 CREATE TABLE direct_audit (key int8 PRIMARY KEY, row bytea)",
            )
            .await?;
        let row = vec![1_u8; ROW_BYTES[0]];
        let fill = "INSERT INTO direct_holder SELECT n, $1 FROM generate_series(0, $2::int8) n";
        first.execute(fill, &[&row, &(2 * PAIRS as i64)]).await?;
        Ok(Direct { clients, sequence: 0 })
    }

    async fn run(&mut self, span: Duration) -> anyhow::Result<Rate> {
        let meter = Meter::begin();
        let (begun, start) = (Instant::now(), self.sequence);
        let lanes = self.clients.drain(..).enumerate().map(|(lane, client)| {
            let first = start + ((lane as i64) << 24);
            tokio::spawn(run_lane(client, lane as u64, first, begun, span))
        });
        let mut done = 0;
        for lane in lanes.collect::<Vec<_>>() {
            let (client, count) = lane.await??;
            self.clients.push(client);
            done += count;
        }
        // Places of the next run follow those of all lanes.
        self.sequence += 1 << 40;
        Ok(meter.rate(done))
    }
}

async fn run_lane(
    client: Client,
    lane: u64,
    first: i64,
    begun: Instant,
    span: Duration,
) -> anyhow::Result<(Client, u64)> {
    let lock =
        client.prepare("SELECT row FROM direct_holder WHERE key = ANY($1) FOR UPDATE").await?;
    let put = client.prepare("UPDATE direct_holder SET row = $2 WHERE key = ANY($1)").await?;
    let txn = client.prepare("INSERT INTO direct_txn VALUES ($1, $2)").await?;
    let audit = client.prepare("INSERT INTO direct_audit VALUES ($1, $2)").await?;
    let mut random = env::Random::from_os();
    let mut count = 0;
    let [row, receipt, entry] = ROW_BYTES.map(|bytes| vec![lane as u8; bytes]);
    while begun.elapsed() < span {
        // Lanes have their own pairs, as pairs here deal one at a time.
        let pair = (random.below(PAIRS / DIRECT as u64) * DIRECT as u64 + lane) as i64;
        let keys = vec![2 * pair, 2 * pair + 1];
        let begin = client.batch_execute("BEGIN");
        let lock = async { client.query(&lock, &[&keys]).await };
        let (begin, locked) = tokio::join!(biased; begin, lock);
        begin?;
        anyhow::ensure!(locked?.len() == 2, "both rows are there");
        let id = random.bytes::<16>();
        let (id, place) = (id.as_slice(), first + count as i64);
        let put = async { client.execute(&put, &[&keys, &row]).await };
        let receive = async { client.execute(&txn, &[&id, &receipt]).await };
        let record = async { client.execute(&audit, &[&place, &entry]).await };
        let commit = client.batch_execute("COMMIT");
        let (one, two, three, commit) = tokio::join!(biased; put, receive, record, commit);
        let _ = (one?, two?, three?, commit?);
        count += 1;
    }
    Ok((client, count))
}
