//! Players who trade whatever happens, and what they feel of it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use env::Random;
use mainstay::client::{Address, CallError, Client, Options};
use mainstay::proto::ticket::TicketKeys;
use tokio::task::JoinHandle;

use crate::traders::{Model, Op, choose, grant, note, trade};

/// How long a call waits for its answer, as clients do unless they say.
pub const DEADLINE: Duration = Duration::from_secs(5);
/// So much later it counts as never ended: this machine is loaded.
pub const MARGIN: Duration = Duration::from_secs(3);
/// A log-in has several tries, each with its own limits.
const LOGIN_MAX: Duration = Duration::from_secs(120);
/// A player pauses between two trades for about as long.
const PAUSE_MS: (u64, u64) = (50, 200);
/// After a call that failed it waits.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// What all players did.
#[derive(Debug, Default)]
pub struct Counts {
    pub calls: AtomicU64,
    pub acknowledged: AtomicU64,
    /// The game's own answer that it is not done.
    pub declined: AtomicU64,
    /// An error, or no answer in time.
    pub failed: AtomicU64,
    /// Neither answer nor error by deadline and margin.
    pub unresolved: AtomicU64,
    /// Log-ins, the first ones among them.
    pub logins: AtomicU64,
    /// The longest that a call took to end, in milliseconds.
    pub longest_ms: AtomicU64,
}

/// What one player feels.
#[derive(Debug)]
struct Felt {
    /// When it was last told that a trade is done, and when it had asked for that.
    told: Instant,
    asked: Instant,
    /// The longest time between two such since it was last looked at.
    worst: Duration,
}

/// All players.
pub struct Crowd {
    model: Arc<Mutex<Model>>,
    felt: Vec<Arc<Mutex<Felt>>>,
    counts: Arc<Counts>,
    stopped: Arc<AtomicBool>,
    players: Vec<JoinHandle<()>>,
}

/// One of them.
struct Player {
    account: u64,
    of: u64,
    gates: Arc<[Address]>,
    keys: TicketKeys,
    model: Arc<Mutex<Model>>,
    felt: Arc<Mutex<Felt>>,
    counts: Arc<Counts>,
    stopped: Arc<AtomicBool>,
    random: Random,
}

pub fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Crowd {
    /// Lets so many players in at these gates. To be called within a runtime.
    pub fn start(players: u64, gates: Vec<Address>, keys: &TicketKeys, seed: u64) -> Crowd {
        let now = Instant::now();
        let mut crowd = Crowd {
            model: Arc::new(Mutex::new(Model::new(1..=players))),
            felt: Vec::new(),
            counts: Arc::default(),
            stopped: Arc::default(),
            players: Vec::new(),
        };
        let gates: Arc<[Address]> = gates.into();
        let mut random = Random::from_seed(seed);
        for account in 1..=players {
            let felt = Felt { told: now, asked: now, worst: Duration::ZERO };
            let felt = Arc::new(Mutex::new(felt));
            crowd.felt.push(felt.clone());
            let player = Player {
                account,
                of: players,
                gates: gates.clone(),
                keys: keys.clone(),
                model: crowd.model.clone(),
                felt,
                counts: crowd.counts.clone(),
                stopped: crowd.stopped.clone(),
                random: random.fork(),
            };
            crowd.players.push(tokio::spawn(player.live()));
        }
        crowd
    }

    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    pub fn model(&self) -> MutexGuard<'_, Model> {
        lock(&self.model)
    }

    /// How long each player was without a trade at worst since this was last asked, sorted.
    pub fn pauses(&self) -> Vec<Duration> {
        let now = Instant::now();
        let mut pauses: Vec<Duration> = self
            .felt
            .iter()
            .map(|felt| {
                let mut felt = lock(felt);
                std::mem::take(&mut felt.worst).max(now - felt.told)
            })
            .collect();
        pauses.sort_unstable();
        pauses
    }

    /// The players that have done no trade that they began after `since`.
    pub fn idle_since(&self, since: Instant) -> Vec<u64> {
        let idle = self.felt.iter().zip(1..).filter(|(felt, _)| lock(felt).asked <= since);
        idle.map(|(_, account)| account).collect()
    }

    /// Has them end. Gives how many did not.
    pub async fn stop(&mut self) -> usize {
        self.stopped.store(true, Ordering::SeqCst);
        let until = tokio::time::Instant::now() + LOGIN_MAX;
        let mut left = 0;
        for player in self.players.drain(..) {
            let abort = player.abort_handle();
            if !matches!(tokio::time::timeout_at(until, player).await, Ok(Ok(()))) {
                abort.abort();
                left += 1;
            }
        }
        left
    }
}

impl Player {
    async fn live(mut self) {
        let mut items = Vec::new();
        while !self.is_over() {
            let mut options = Options::new(self.gates[0].clone());
            options.addresses = self.gates.to_vec();
            options.addresses.rotate_left(self.random.below(self.gates.len() as u64) as usize);
            let login = Client::connect(options, grant(&self.keys, self.account));
            match tokio::time::timeout(LOGIN_MAX, login).await {
                Ok(Ok((client, _))) => {
                    self.counts.logins.fetch_add(1, Ordering::Relaxed);
                    self.play(&client, &mut items).await;
                    client.close().await;
                }
                Ok(Err(_)) => {}
                Err(_) => self.unresolved("a log-in".to_owned()),
            }
            tokio::time::sleep(AFTER_FAILURE).await;
        }
    }

    fn is_over(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// Trades until the session has ended.
    async fn play(&mut self, client: &Client, items: &mut Vec<u64>) {
        while !self.is_over() {
            let op = match choose(&mut self.random, self.account, items, self.of) {
                Op::Mint if self.random.chance(1, 2) => Op::Order,
                op => op,
            };
            let id = lock(&self.model).ask(self.account, op);
            let asked = Instant::now();
            self.counts.calls.fetch_add(1, Ordering::Relaxed);
            let call = trade(client, "sell_at_stall", id, op);
            let Ok(done) = tokio::time::timeout(DEADLINE + MARGIN, call).await else {
                self.unresolved(format!("transaction {id}, {op:?}"));
                return;
            };
            let took = asked.elapsed().as_millis() as u64;
            self.counts.longest_ms.fetch_max(took, Ordering::Relaxed);
            note(items, id, op, &done);
            let count = match &done {
                Ok(_) => &self.counts.acknowledged,
                Err(CallError::App(_)) => &self.counts.declined,
                Err(_) => &self.counts.failed,
            };
            count.fetch_add(1, Ordering::Relaxed);
            match done {
                Ok(_) => {
                    lock(&self.model).acknowledge(id);
                    lock(&self.felt).told(asked);
                }
                Err(CallError::Ended(_)) => return,
                Err(CallError::App(_)) => {}
                Err(_) => tokio::time::sleep(AFTER_FAILURE).await,
            }
            let pause = PAUSE_MS.0 + self.random.below(PAUSE_MS.1);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    fn unresolved(&self, what: String) {
        self.counts.unresolved.fetch_add(1, Ordering::Relaxed);
        let line = format!("player {}: {what} has neither answer nor error", self.account);
        lock(&self.model).fault(line);
    }
}

impl Felt {
    fn told(&mut self, asked: Instant) {
        let now = Instant::now();
        self.worst = self.worst.max(now - self.told);
        (self.told, self.asked) = (now, asked);
    }
}
