//! Workers and adopters over a journal and a target that are values. Every step of theirs may be the last: they are
//! dropped at any of them, as `kill -9` does, and others go on.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use env::Random;

use super::adopt::{Adopted, NotAdopted, adopt, is_usable};
use super::worker::{Pace, Round, Trouble, Worker};
use super::*;
use crate::options::Limits;
use crate::row;
use crate::rules;
use crate::tables::Table;

type Rows = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

/// The journal's server.
#[derive(Debug, Clone, Default)]
struct Server {
    run: Option<u64>,
    /// The life of the server that the run is of, and the one that goes on.
    server: u64,
    life: u64,
    rows: Rows,
    commits: u64,
    landed: u64,
    bytes: u64,
    landed_bytes: u64,
    entries: BTreeMap<u64, Entry>,
    aside: Aside,
    adopting: Option<u64>,
    filling: bool,
}

impl Server {
    fn put(&mut self, writes: &Writes) {
        for (place, row) in writes {
            match row {
                Some(row) => self.rows.insert(place.clone(), row.clone()),
                None => self.rows.remove(place),
            };
        }
        self.commits += 1;
        let bytes = encode(writes);
        self.bytes += bytes.len() as u64;
        let entry = Entry { position: self.commits, total: self.bytes, bytes };
        self.entries.insert(self.commits, entry);
    }

    fn begin(&mut self, beginning: &Beginning) {
        (self.run, self.server, self.landed) = (Some(beginning.run), self.life, beginning.landed);
        self.put(&beginning.writes);
        (self.adopting, self.filling) = (None, false);
    }

    fn is_ready(&self) -> bool {
        self.run.is_some() && self.server == self.life
    }
}

/// All that outlives a worker.
#[derive(Clone)]
struct World {
    server: Arc<Mutex<Server>>,
    target: Store,
    /// Rows that the target does not take.
    refused: Arc<Mutex<Option<Vec<u8>>>>,
    /// Lands whatever comes, wherever the target is: to show that the check of it is needed.
    careless: bool,
    /// The life of the server in which this process began to adopt: its connection does not outlive that.
    begun: u64,
}

impl World {
    fn new() -> Self {
        World {
            server: Arc::default(),
            target: Store::memory(Limits::default()),
            refused: Arc::default(),
            careless: false,
            begun: 0,
        }
    }

    fn server(&self) -> std::sync::MutexGuard<'_, Server> {
        self.server.lock().unwrap()
    }

    fn landed(&self) -> Landed {
        self.target.read(|s| rule::landed(s)).wait().unwrap()
    }

    fn landed_rows(&self) -> Rows {
        let rows = self.target.rows(None, usize::MAX).wait().unwrap();
        let rows = rows.into_iter().map(|row| {
            let table = rules::raw::table(row.place.table).unwrap();
            ((table, row.place.key), row.bytes)
        });
        rows.collect()
    }
}

/// Lets others take a step, or this one be dropped.
async fn step() {
    let mut is_first = true;
    std::future::poll_fn(|_| {
        if std::mem::take(&mut is_first) { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
}

impl World {
    async fn act<T>(&self, act: impl FnOnce(&mut Server) -> T) -> Result<T, Away> {
        step().await;
        let done = act(&mut self.server());
        step().await;
        Ok(done)
    }

    async fn adopting(
        &self,
        token: u64,
        act: impl FnOnce(&mut Server) -> bool,
    ) -> Result<bool, Away> {
        let begun = self.begun;
        let act = |server: &mut Server| {
            let is_same = server.life == begun;
            is_same && server.adopting == Some(token) && act(server)
        };
        self.act(act).await
    }
}

impl Journal for World {
    fn shown(&self) -> String {
        "world".to_owned()
    }

    async fn life(&mut self, _: bool) -> Result<Life, Away> {
        self.act(|server| Life {
            run: server.run,
            is_intact: server.server == server.life,
            has_rows: !server.rows.is_empty() && !server.filling,
            position: server.commits,
            landed: server.landed,
            backlog_bytes: server.bytes.saturating_sub(server.landed_bytes),
            lag_ms: 0,
            aside: server.aside.len() as u64,
            leads: true,
            generation: generation(&server.rows),
            now_ms: 1,
        })
        .await
    }

    async fn entries(&mut self, after: u64, bytes_max: usize) -> Result<Vec<Entry>, Away> {
        self.act(|server| {
            let mut size = 0;
            let after = server.entries.range(after + 1..).map(|(_, entry)| entry.clone());
            let fits = |entry: &Entry| {
                let is_first = size == 0;
                size += entry.bytes.len();
                is_first || size <= bytes_max
            };
            after.take_while(fits).collect()
        })
        .await
    }

    async fn landed(&mut self, run: u64, (position, total): (u64, u64)) -> Result<(), Away> {
        self.act(|server| {
            if server.run == Some(run) {
                server.landed = server.landed.max(position);
                server.landed_bytes = server.landed_bytes.max(total);
                server.entries = server.entries.split_off(&(position + 1));
            }
        })
        .await
    }

    async fn aside(&mut self) -> Result<Aside, Away> {
        self.act(|server| server.aside.clone()).await
    }

    async fn put_aside(&mut self, changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>) -> Result<(), Away> {
        self.act(|server| {
            for (name, row) in changes {
                match row {
                    Some(row) => server.aside.insert(name, row),
                    None => server.aside.remove(&name),
                };
            }
        })
        .await
    }

    async fn begin(&mut self, token: u64) -> Result<bool, Away> {
        // The lock of one that was dropped ends after a while; here at once, which lets others in more often.
        self.begun = self
            .act(|server| {
                server.adopting = Some(token);
                server.life
            })
            .await?;
        Ok(true)
    }

    async fn renew(&mut self, token: u64, old: u64, beginning: &Beginning) -> Result<bool, Away> {
        self.adopting(token, |server| {
            let is_same = server.run == Some(old);
            if is_same {
                server.begin(beginning);
            }
            is_same
        })
        .await
    }

    async fn clear(&mut self, token: u64) -> Result<bool, Away> {
        self.adopting(token, |server| {
            let (life, adopting) = (server.life, server.adopting);
            *server = Server { life, adopting, filling: true, ..Server::default() };
            true
        })
        .await
    }

    async fn fill(&mut self, token: u64, rows: Vec<RawRow>) -> Result<bool, Away> {
        self.adopting(token, |server| {
            for row in rows {
                let table = rules::raw::table(row.place.table).unwrap();
                server.rows.insert((table, row.place.key), row.bytes);
            }
            true
        })
        .await
    }

    async fn open(&mut self, token: u64, beginning: &Beginning) -> Result<bool, Away> {
        self.adopting(token, |server| {
            server.commits = beginning.landed;
            server.begin(beginning);
            true
        })
        .await
    }
}

impl Target for World {
    async fn landed(&self) -> Result<Landed, Error> {
        step().await;
        Target::landed(&self.target).await
    }

    async fn claim(&self, seen: Landed, next: u64) -> Result<bool, Error> {
        step().await;
        let done = self.target.claim(seen, next).await;
        step().await;
        done
    }

    async fn settle(&self, run: u64) -> Result<bool, Error> {
        step().await;
        let done = self.target.settle(run).await;
        step().await;
        done
    }

    async fn land(&self, mut span: Span, writes: Writes) -> Result<bool, Error> {
        step().await;
        let refused = self.refused.lock().unwrap().clone();
        if writes.keys().any(|(_, key)| Some(key) == refused.as_ref()) {
            return Err(Error::Unavailable("it does not like this row".to_owned()));
        }
        if self.careless {
            span.from = World::landed(self).position;
        }
        let done = self.target.land(span, writes).await;
        step().await;
        done
    }

    async fn rows(&self, after: Option<Place>, _: usize) -> Result<Vec<RawRow>, Error> {
        step().await;
        // Few at a time, so that a copy has many steps.
        let rows = Target::rows(&self.target, after, 64).await;
        step().await;
        rows
    }
}

fn generation(rows: &Rows) -> Option<u64> {
    let key = rules::GENERATION_KEY.to_vec();
    let row = rows.get(&(Table::Meta, key.clone()))?;
    row::decode(Table::Meta, &key, row).ok()
}

/// What a process with a worker does, for ever.
async fn work(mut world: World, seed: u64) {
    let (mut random, mut worker) = (Random::from_seed(seed), Worker::default());
    loop {
        let life = world.life(true).await.unwrap();
        let round = if is_usable(&life, None) {
            let pace = Pace {
                batch_bytes_max: 1 + random.below(300) as usize,
                aside_pause_ms: 0,
                now_ms: life.now_ms,
            };
            let target = world.clone();
            worker.round(&mut world, &target, &life, &pace).await
        } else {
            Ok(Round::Behind)
        };
        match round {
            Ok(Round::Behind) => {
                let (token, target) = (random.u64(), world.clone());
                let adopted = adopt(&mut world, &target, token, 7).await;
                assert!(!matches!(adopted, Err(NotAdopted::Refused(_))), "{adopted:?}");
            }
            Ok(_) | Err(Trouble::Journal(_) | Trouble::Target(_) | Trouble::Stuck(_)) => {}
        }
    }
}

type Process = Pin<Box<dyn Future<Output = ()>>>;

fn process(world: &World, random: &mut Random) -> Process {
    Box::pin(work(world.clone(), random.u64()))
}

fn take_step(process: &mut Process) {
    assert!(process.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
}

/// What must hold, whatever happens.
struct Truth {
    /// The rows after each commit, by position.
    history: Vec<Rows>,
    /// What was told to be landed: run and position of the commit, and its number.
    told: BTreeMap<u64, u64>,
    /// Commits of the run that goes on by position, with their numbers.
    numbers: BTreeMap<u64, (u64, u64)>,
    commits: u64,
    generation: u64,
}

impl Truth {
    fn check(&mut self, world: &World) {
        let landed = world.landed();
        let rows = world.landed_rows();
        let expected = &self.history[landed.position as usize];
        assert_eq!(rows, *expected, "what has landed is the whole of one moment");
        let server = world.server();
        if server.is_ready() {
            self.learn(&server);
            let at = |position: &u64| self.numbers.get(position).map(|(_, number)| *number);
            for (position, number) in &self.told {
                assert_eq!(at(position), Some(*number), "what was told to be landed is there");
            }
        }
    }

    /// Takes in that the journal may have been begun anew, which is a commit of its own.
    fn learn(&mut self, server: &Server) {
        let is_known = self.history.len() as u64 > server.commits
            && self.history[server.commits as usize] == server.rows;
        if is_known {
            return;
        }
        let generation = generation(&server.rows).unwrap();
        assert!(generation > self.generation, "a new run has a higher generation");
        self.generation = generation;
        self.history.truncate(server.commits as usize);
        self.numbers = std::mem::take(&mut self.numbers)
            .into_iter()
            .filter(|(position, _)| *position < server.commits)
            .collect();
        assert_eq!(self.history.len() as u64, server.commits);
        self.history.push(server.rows.clone());
    }

    /// A process commits.
    fn commit(&mut self, world: &World, random: &mut Random) {
        let mut server = world.server();
        if !server.is_ready() {
            return;
        }
        self.learn(&server);
        self.commits += 1;
        let mut writes = Writes::new();
        for _ in 0..=random.below(3) {
            let key = vec![0, 0, 0, 0, 0, 0, 0, 0, random.below(8) as u8];
            let row = row::encode(Table::Node, &key, &self.commits);
            writes.insert((Table::Node, key), Some(row).filter(|_| random.below(4) > 0));
        }
        server.put(&writes);
        self.history.truncate(server.commits as usize);
        self.history.push(server.rows.clone());
        self.numbers.insert(server.commits, (server.run.unwrap(), self.commits));
    }

    /// A process looks what has landed, and tells.
    fn tell(&mut self, world: &World) {
        let server = world.server();
        if server.is_ready() {
            for (position, (run, number)) in &self.numbers {
                if Some(*run) == server.run && *position <= server.landed {
                    self.told.insert(*position, *number);
                }
            }
        }
    }
}

fn simulate(seed: u64, careless: bool) {
    let mut random = Random::from_seed(seed);
    let world = World { careless, ..World::new() };
    let mut processes: Vec<Process> = (0..3).map(|_| process(&world, &mut random)).collect();
    let mut truth = Truth {
        history: vec![world.landed_rows()],
        told: BTreeMap::new(),
        numbers: BTreeMap::new(),
        commits: 0,
        generation: 0,
    };
    let mut kept: Vec<Server> = Vec::new();
    for _ in 0..1_500 {
        let which = random.index(processes.len());
        match random.below(100) {
            0..=1 => processes[which] = process(&world, &mut random),
            2..=14 => truth.commit(&world, &mut random),
            15..=18 => truth.tell(&world),
            19 => kept.push(world.server().clone()),
            // It ends and comes back with what it had a while ago, or with nothing.
            20 if random.below(4) == 0 => {
                let life = world.server().life + 1;
                let back = if random.below(3) == 0 { None } else { kept.pop() };
                kept.clear();
                *world.server() = Server { life, ..back.unwrap_or_default() };
            }
            _ => take_step(&mut processes[which]),
        }
        truth.check(&world);
    }
    // In the end all of it lands, whoever died before.
    let mut last = process(&world, &mut random);
    drop(processes);
    for _ in 0..5_000 {
        take_step(&mut last);
        truth.check(&world);
        let server = world.server();
        if server.is_ready() && server.landed == server.commits {
            break;
        }
    }
    let server = world.server().clone();
    assert_eq!(world.landed().position, server.commits, "seed {seed}");
    assert_eq!(world.landed_rows(), server.rows, "seed {seed}");
    assert_eq!(server.landed_bytes, server.bytes, "nothing is counted as waiting");
}

#[test]
fn what_has_landed_is_one_moment_whoever_dies_and_whatever_is_lost() {
    let seeds = std::env::var("MAINSTAY_TEST_SEEDS").ok().and_then(|n| n.parse().ok());
    for seed in 0..seeds.unwrap_or(60) {
        println!("seed {seed}");
        simulate(seed, false);
    }
}

#[test]
fn without_the_positions_check_the_check_above_fails() {
    let fails = |seed| std::panic::catch_unwind(|| simulate(seed, true)).is_err();
    assert!((0..200).any(fails));
}

/// One process that is never killed, and a journal with some commits.
fn quiet() -> (World, Process) {
    let world = World::new();
    let mut worker = process(&world, &mut Random::from_seed(1));
    run(&world, &mut worker);
    (world, worker)
}

/// Lets a process work until nothing is left, or for long.
fn run(world: &World, process: &mut Process) {
    for _ in 0..2_000 {
        take_step(process);
        let server = world.server();
        if server.is_ready() && server.landed == server.commits && server.aside.is_empty() {
            break;
        }
    }
}

fn node_row(key: u8, value: u64) -> ((Table, Vec<u8>), Vec<u8>) {
    let key = vec![0, 0, 0, 0, 0, 0, 0, 0, key];
    let row = row::encode(Table::Node, &key, &value);
    ((Table::Node, key), row)
}

#[test]
fn a_damaged_row_is_set_aside_and_the_next_of_its_place_lands() {
    let (world, mut worker) = quiet();
    let (good, row) = node_row(1, 10);
    let (bad, mut damaged) = node_row(2, 20);
    damaged[3] ^= 1;
    world
        .server()
        .put(&Writes::from([(good.clone(), Some(row.clone())), (bad.clone(), Some(damaged))]));
    run(&world, &mut worker);
    assert_eq!(world.landed_rows().get(&good), Some(&row));
    assert_eq!(world.landed_rows().get(&bad), None);
    assert_eq!(world.server().aside.len(), 1);
    let (_, later) = node_row(2, 21);
    world.server().put(&Writes::from([(bad.clone(), Some(later.clone()))]));
    run(&world, &mut worker);
    assert_eq!(world.landed_rows().get(&bad), Some(&later));
    assert!(world.server().aside.is_empty());
}

#[test]
fn a_damaged_entry_is_set_aside_and_those_behind_it_land() {
    let (world, mut worker) = quiet();
    let ((one, _), (two, row)) = (node_row(1, 10), node_row(2, 20));
    world.server().put(&Writes::from([(one.clone(), Some(node_row(1, 10).1))]));
    let position = world.server().commits;
    world.server().entries.get_mut(&position).unwrap().bytes[6] ^= 1;
    world.server().put(&Writes::from([(two.clone(), Some(row.clone()))]));
    run(&world, &mut worker);
    assert_eq!(world.landed_rows().get(&one), None);
    assert_eq!(world.landed_rows().get(&two), Some(&row));
    assert_eq!(world.server().aside.len(), 1);
    let server = world.server();
    assert_eq!(server.landed, server.commits);
}

#[test]
fn a_row_that_the_target_refuses_holds_up_no_other_and_lands_when_it_is_taken() {
    let (world, mut worker) = quiet();
    let (bad, row) = node_row(3, 30);
    *world.refused.lock().unwrap() = Some(bad.1.clone());
    let mut writes: Writes =
        (4..9).map(|key| node_row(key, 1)).map(|(place, row)| (place, Some(row))).collect();
    writes.insert(bad.clone(), Some(row.clone()));
    world.server().put(&writes);
    run(&world, &mut worker);
    assert_eq!(world.landed_rows().get(&bad), None);
    assert_eq!(world.landed_rows().get(&node_row(8, 1).0), Some(&node_row(8, 1).1));
    assert_eq!(world.server().aside.len(), 1);
    *world.refused.lock().unwrap() = None;
    run(&world, &mut worker);
    assert_eq!(world.landed_rows().get(&bad), Some(&row));
    assert!(world.server().aside.is_empty());
}

#[test]
fn a_journal_of_another_target_is_refused_and_not_touched() {
    let (world, _) = quiet();
    let other = World { target: Store::memory(Limits::default()), ..world.clone() };
    world.server().life += 1;
    let before = world.server().rows.clone();
    let mut adopting = Box::pin(async {
        let mut journal = other.clone();
        adopt(&mut journal, &other, 1, 9).await
    });
    let outcome = loop {
        let polled = adopting.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        if let Poll::Ready(outcome) = polled {
            break outcome;
        }
    };
    assert!(matches!(outcome, Err(NotAdopted::Refused(_))), "{outcome:?}");
    assert_eq!(world.server().rows, before);
    assert!(!matches!(outcome, Ok(Adopted::Filled { .. })));
}

#[test]
fn a_store_in_which_a_journal_lands_lets_no_node_in() {
    let (world, _) = quiet();
    let beat = world.target.beat(crate::Incarnation(1)).wait();
    let said = beat.unwrap_err().to_string();
    assert!(said.contains("together with the journal"), "{said}");
    // A copy of it is one of the shard alone.
    let mut copy = Vec::new();
    world.target.export(&mut copy, 1).unwrap();
    let elsewhere = Store::memory(Limits::default());
    elsewhere.import(&mut std::io::Cursor::new(copy), false).unwrap();
    elsewhere.beat(crate::Incarnation(1)).wait().unwrap();
}
