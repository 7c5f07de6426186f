//! One run of the data suite: nodes that keep players in a store, much that goes wrong with both, and
//! then everything must be right again.

mod book;
mod game;

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use mainstay::env::{Instant, Random};
use mainstay::node::Outside;
use mainstay::node::Ref;
use mainstay::node::rt::CallError;
use mainstay::store::Incarnation;
use mainstay::testkit::sim_options;
use testkit::{Cluster, CoordinatorFaults, Cut, Fact, Faults, StoreFaults};

use crate::outcome::{Outcome, Tally, caught};
use book::{Answer, Book};
use game::{Player, Told};

use crate::mutants::Mutant;

/// A run takes some ten thousand steps; one that takes so many more goes on for ever.
const EVENTS_MAX: u64 = 600_000;
/// How long a caller waits for an answer, and a little.
const CALL_LIMIT: Duration = Duration::from_millis(6_500);

/// Runs one seed.
pub fn run(seed: u64, mutant: Option<Mutant>, notes_max: usize, moves: bool) -> Outcome {
    let mut script = Script::new(seed, mutant, notes_max);
    script.moves = moves;
    if let Some(text) = caught(|| script.play()) {
        script.book.violation(text);
    }
    script.outcome()
}

type Call<T> = Pin<Box<dyn Future<Output = Result<T, CallError>>>>;

enum Under {
    /// Gives steps and epoch.
    Play(Call<(u64, u64)>),
    Stones(Call<(u64, u64)>),
    Deal(u64, Call<Told>),
}

/// A call under way.
struct Pending {
    node: usize,
    life: u32,
    player: u64,
    since: Instant,
    under: Under,
}

/// A fault of a node that ends by itself.
#[derive(Clone, Copy)]
struct Fault {
    node: usize,
    /// Cut off from that node, not from the store.
    from: Option<usize>,
    until: Instant,
}

struct Script {
    cluster: Cluster,
    book: Book,
    random: Random,
    players: u64,
    workers: u8,
    is_calm: bool,
    /// Operators send players from node to node.
    moves: bool,
    pending: Vec<Pending>,
    faults: Vec<Fault>,
    paused_until: Vec<Instant>,
    deals: u64,
    started: Instant,
    looked_at: Instant,
    store_was_away: bool,
    /// Lives of nodes that ended without anybody telling the store.
    graves: Vec<Incarnation>,
}

impl Script {
    fn new(seed: u64, mutant: Option<Mutant>, notes_max: usize) -> Self {
        let mut random = Random::from_seed(seed ^ 0xda7a_0001);
        let is_calm = random.chance(1, 20);
        let mut options = sim_options(&game::app(), seed, Faults::none());
        options.gates = 0;
        options.nodes = 2 + random.below(3) as usize;
        options.workers = 1 + random.below(2) as u8;
        options.notes_max = notes_max;
        options.events_max = EVENTS_MAX;
        if !is_calm {
            options.store_faults = StoreFaults::swarm(&mut random);
            options.faults = Faults { cut_link: 1, ..Faults::swarm(&mut random) };
            if random.chance(2, 3) {
                options.coordinator_faults = CoordinatorFaults::all();
            }
        }
        if let Some(mutant) = mutant {
            mutant.put(&mut options);
        }
        let mut book = Book::new(window(&options));
        let (nodes, workers) = (options.nodes, options.workers);
        let cluster = Cluster::new(options);
        let started = cluster.now();
        book.trouble(None, started, started);
        Script {
            cluster,
            book,
            players: 3 + random.below(4),
            random,
            workers,
            is_calm,
            moves: false,
            pending: Vec::new(),
            faults: Vec::new(),
            paused_until: vec![started; nodes],
            deals: 0,
            started,
            looked_at: started,
            store_was_away: false,
            graves: Vec::new(),
        }
    }

    fn play(&mut self) {
        self.storm();
        self.heal();
        self.empty();
    }

    fn is_broken(&mut self) -> bool {
        if self.cluster.is_exhausted() && self.book.violations().is_empty() {
            self.book.violation("steps: it never comes to an end");
        }
        !self.book.violations().is_empty()
    }

    /// The part in which things go wrong.
    fn storm(&mut self) {
        let end = self.cluster.now() + Duration::from_millis(20_000 + self.random.below(20_000));
        while self.cluster.now() < end && !self.is_broken() {
            let pause = if self.random.chance(1, 3) { 0 } else { 10 + self.random.below(150) };
            self.wait(Duration::from_millis(pause));
            self.act();
            if self.moves && self.random.chance(1, 12) {
                self.send_away();
            }
            if !self.is_calm && self.random.chance(1, 50) {
                self.strike();
            }
        }
    }

    fn wait(&mut self, time: Duration) {
        self.cluster.run_for(time);
        self.look();
    }

    fn look(&mut self) {
        let now = self.cluster.now();
        let away = !self.cluster.is_store_working();
        let facts = self.cluster.facts();
        // It may have been away and back since the last look.
        let restarted = facts.iter().any(|fact| matches!(fact, Fact::Restarted { .. }));
        if away || self.store_was_away || restarted {
            self.book.trouble(None, self.looked_at, now);
        }
        self.store_was_away = away;
        let nodes = 0..self.cluster.nodes();
        let cut: Vec<usize> = nodes.clone().filter(|node| self.cluster.is_cut(*node)).collect();
        let alone = match cut[..] {
            [node] if !away => Some(node),
            _ => None,
        };
        self.book.is_alone(now, alone);
        self.book.are_away(nodes.clone().map(|node| self.cluster.said_away(node)).collect());
        for node in nodes {
            self.book.is_node(self.cluster.incarnation(node), node);
        }
        for fact in facts {
            self.book.learn(now, fact);
        }
        if away || !cut.is_empty() {
            self.book.cannot_learn(now);
        }
        let pending = std::mem::take(&mut self.pending);
        for pending in pending {
            self.hear(now, pending);
        }
        for at in (0..self.faults.len()).rev() {
            if self.faults[at].until <= now {
                self.mend(at);
            }
        }
        for node in 0..self.cluster.nodes() {
            // Its operator starts it anew.
            if self.cluster.is_dead(node) {
                self.kill(node, Duration::from_secs(1), true);
            }
        }
        self.looked_at = now;
    }

    fn hear(&mut self, now: Instant, mut pending: Pending) {
        let Pending { node, life, player, since, .. } = pending;
        if self.cluster.node_life(node) != life || !self.cluster.is_up(node) {
            // Whoever asked is gone too.
            return;
        }
        if self.paused_until[node] > now {
            return self.pending.push(pending);
        }
        let mut context = Context::from_waker(Waker::noop());
        let failed = match &mut pending.under {
            Under::Play(call) => match call.as_mut().poll(&mut context) {
                Poll::Pending => None,
                Poll::Ready(Ok((steps, epoch))) => {
                    self.book.answered(player, Answer { since, at: now, steps, epoch });
                    Some(false)
                }
                Poll::Ready(Err(_)) => Some(true),
            },
            Under::Stones(call) => match call.as_mut().poll(&mut context) {
                Poll::Pending => None,
                Poll::Ready(result) => Some(result.is_err()),
            },
            Under::Deal(id, call) => match call.as_mut().poll(&mut context) {
                Poll::Pending => None,
                Poll::Ready(Ok(Told::Done)) => {
                    self.book.told(*id);
                    Some(false)
                }
                Poll::Ready(Ok(Told::NotDone)) => {
                    self.book.denied(*id);
                    Some(false)
                }
                Poll::Ready(Ok(Told::Unknown)) => {
                    self.book.seen.unknown += 1;
                    Some(false)
                }
                Poll::Ready(Ok(Told::Wrong)) => {
                    self.book.violation(format!("deals: {id} is told to be a mistake"));
                    Some(true)
                }
                Poll::Ready(Err(_)) => Some(true),
            },
        };
        match failed {
            Some(failed) => self.book.seen.failed_calls += u64::from(failed),
            None if now > since.max(self.paused_until[node]) + CALL_LIMIT => {
                self.book.violation(format!("calls: one of {since:?} at node {node} never ends"));
            }
            None => self.pending.push(pending),
        }
    }

    /// Somebody does something.
    fn act(&mut self) {
        let node = self.random.below(self.cluster.nodes() as u64) as usize;
        let worker = self.random.below(u64::from(self.workers)) as u8;
        let player = 1 + self.random.below(self.players);
        let some = 1 + self.random.below(40);
        let other = 1 + (player + self.random.below(self.players - 1)) % self.players;
        let dice = self.random.below(100);
        let Some(out) = self.cluster.outside(node, worker) else { return };
        self.deals += 1;
        let id = self.deals;
        let under =
            match dice {
                0..34 => {
                    Under::Play(Box::pin(async move { out.entity::<Player>(player).step().await }))
                }
                34..42 => Under::Stones(Box::pin(async move {
                    out.entity::<Player>(player).bag().put().await
                })),
                42..50 => {
                    Under::Play(Box::pin(async move { out.entity::<Player>(player).look().await }))
                }
                50..58 => {
                    Under::Play(Box::pin(async move { out.entity::<Player>(player).leave().await }))
                }
                _ => Under::Deal(id, self.deal(out, (id, player, other), (dice, some))),
            };
        self.begin(node, worker, player, under);
    }

    fn deal(
        &mut self,
        out: Outside,
        (id, player, other): (u64, u64, u64),
        (dice, some): (u64, u64),
    ) -> Call<Told> {
        match dice {
            58..68 => Box::pin(async move { out.entity::<Player>(player).mint(id, some).await }),
            68..72 => Box::pin(async move { out.entity::<Player>(player).burn(id, some).await }),
            72..77 => Box::pin(async move { out.entity::<Player>(player).forge(id).await }),
            77..88 => {
                self.book.is_lesson(id, player);
                Box::pin(async move { out.entity::<Player>(player).learn(id, some).await })
            }
            _ => Box::pin(async move { out.entity::<Player>(player).trade(id, other, some).await }),
        }
    }

    fn begin(&mut self, node: usize, worker: u8, player: u64, under: Under) {
        let since = self.cluster.now();
        let life = self.cluster.node_life(node);
        // The first poll sends it.
        self.hear(since, Pending { node, life, player, since, under });
        self.cluster.poke(node, worker);
    }

    /// An operator has a player move to another node.
    fn send_away(&mut self) {
        let nodes = self.cluster.nodes() as u64;
        let (by, to) = (self.random.below(nodes) as usize, self.random.below(nodes) as usize);
        let id = Ref::<Player>::keyed(1 + self.random.below(self.players)).id();
        self.cluster.move_entity(by, id, to);
    }

    // -- faults --

    fn strike(&mut self) {
        let node = self.random.below(self.cluster.nodes() as u64) as usize;
        let now = self.cluster.now();
        let until = now + Duration::from_millis(100 + self.random.below(14_000));
        if !self.cluster.is_up(node) {
            return;
        }
        let idle = self.paused_until[node] <= now && !self.cluster.is_cut(node);
        match self.random.below(10) {
            0..3 => {
                let pause = Duration::from_millis(100 + self.random.below(9_000));
                let seen = self.random.chance(1, 3);
                self.kill(node, pause, seen);
            }
            3..6 if idle => {
                self.cluster.pause_node(node, until - now);
                self.paused_until[node] = until;
                self.book.trouble(Some(node), now, until);
            }
            6..9 if idle => {
                let cuts = [Cut::Both, Cut::Answers, Cut::Refused];
                let cut = cuts[self.random.below(3) as usize];
                self.cluster.cut_store(node, Some(cut));
                self.book.is_cut_off(now, node);
                self.faults.push(Fault { node, from: None, until });
            }
            9 => {
                let from = (node + 1) % self.cluster.nodes();
                let is_split = |fault: &Fault| fault.from == Some(from) && fault.node == node;
                if from != node && !self.faults.iter().any(is_split) {
                    self.cluster.split_nodes(node, from, true);
                    self.faults.push(Fault { node, from: Some(from), until });
                }
            }
            _ => {}
        }
    }

    fn kill(&mut self, node: usize, pause: Duration, seen: bool) {
        let now = self.cluster.now();
        self.book.trouble(Some(node), now, now + pause);
        self.graves.push(self.cluster.incarnation(node));
        self.cluster.kill_node(node, pause, seen);
        self.paused_until[node] = now;
        for at in (0..self.faults.len()).rev() {
            if self.faults[at].node == node && self.faults[at].from.is_none() {
                self.mend(at);
            }
        }
    }

    fn mend(&mut self, at: usize) {
        let Fault { node, from, .. } = self.faults.remove(at);
        let now = self.cluster.now();
        match from {
            Some(from) => self.cluster.split_nodes(node, from, false),
            None => {
                self.cluster.cut_store(node, None);
                self.book.is_joined(now, node);
            }
        }
    }

    // -- afterwards --

    /// Nothing goes wrong any more: everybody must come to rest, active and saved.
    fn heal(&mut self) {
        if self.is_broken() {
            return;
        }
        self.cluster.note(|| "all faults end".to_owned());
        while !self.faults.is_empty() {
            self.mend(0);
        }
        self.cluster.heal();
        let end = self.cluster.now() + Duration::from_secs(60);
        while !self.cluster.is_store_working() && !self.is_broken() {
            self.wait(Duration::from_millis(500));
        }
        // So many deaths at once are not believed: an operator says that they are true.
        for incarnation in std::mem::take(&mut self.graves) {
            self.cluster.bury(incarnation);
        }
        let mut active = vec![false; self.players as usize];
        while self.cluster.now() < end && !active.iter().all(|active| *active) && !self.is_broken()
        {
            for player in 1..=self.players {
                if !active[player as usize - 1] {
                    active[player as usize - 1] = self.is_active(player);
                }
            }
            self.wait(Duration::from_millis(500));
        }
        if let Some(player) = active.iter().position(|active| !active) {
            let player = player + 1;
            let stats = self.cluster.worker_stats().into_iter();
            let stats = stats.map(|stats| (stats.host.turns, stats.data.commits_open, stats.data));
            let stats: Vec<_> = stats.collect();
            self.book.violation(format!(
                "liveness: player {player} does not answer after 60 s: {stats:?}"
            ));
        }
    }

    /// Whether a player answers within its time.
    fn is_active(&mut self, player: u64) -> bool {
        let Some(node) = (0..self.cluster.nodes()).find(|node| self.cluster.is_up(*node)) else {
            return false;
        };
        let Some(out) = self.cluster.outside(node, 0) else { return false };
        let before = self.book.seen.answers;
        let call = Box::pin(async move { out.entity::<Player>(player).step().await });
        self.begin(node, 0, player, Under::Play(call));
        let end = self.cluster.now() + CALL_LIMIT;
        while self.cluster.now() < end && self.pending_of(player) && !self.is_broken() {
            self.wait(Duration::from_millis(50));
        }
        self.book.seen.answers > before
    }

    fn pending_of(&self, player: u64) -> bool {
        self.pending.iter().any(|pending| pending.player == player)
    }

    /// All is saved; then all leave, and nothing of them may be left.
    fn empty(&mut self) {
        if self.is_broken() {
            return;
        }
        let end = self.cluster.now() + Duration::from_secs(30);
        while self.cluster.now() < end && !self.is_saved() && !self.is_broken() {
            self.wait(Duration::from_millis(250));
        }
        if !self.is_saved() {
            let stats: Vec<_> =
                self.cluster.worker_stats().into_iter().map(|stats| stats.data).collect();
            self.book.violation(format!("liveness: not all is saved after 30 s: {stats:?}"));
        }
        self.wait(Duration::from_secs(1));
        let store = self.cluster.store();
        self.book.audit(&store, self.players);
        let end = self.cluster.now() + Duration::from_secs(40);
        while self.cluster.now() < end && !self.is_clean() && !self.is_broken() {
            // A link may have broken of which nobody has heard yet.
            self.all_leave();
            self.wait(Duration::from_secs(5));
        }
        if !self.is_clean() && !self.is_broken() {
            let stats: Vec<_> =
                self.cluster.worker_stats().into_iter().map(|stats| stats.data).collect();
            self.book.violation(format!("left: {} calls, {stats:?}", self.pending.len()));
        }
    }

    fn all_leave(&mut self) {
        let Some(node) = (0..self.cluster.nodes()).find(|node| self.cluster.is_up(*node)) else {
            return;
        };
        for player in 1..=self.players {
            let Some(out) = self.cluster.outside(node, 0) else { continue };
            let call = Box::pin(async move { out.entity::<Player>(player).leave().await });
            self.begin(node, 0, player, Under::Play(call));
        }
        self.wait(CALL_LIMIT);
    }

    fn is_saved(&self) -> bool {
        let stats = self.cluster.worker_stats();
        let quiet = stats.iter().all(|stats| {
            stats.data.dirty == 0 && stats.data.commits_open == 0 && !stats.data.parked
        });
        quiet && self.pending.is_empty()
    }

    fn is_clean(&self) -> bool {
        let stats = self.cluster.worker_stats();
        let empty = |stats: &mainstay::node::WorkerStats| {
            stats.data.owned == 0 && stats.data.commits_open == 0 && stats.data.dirty_bytes == 0
        };
        stats.iter().all(empty) && self.pending.is_empty()
    }

    fn outcome(&mut self) -> Outcome {
        let mut sights = self.book.seen.list();
        sights.push(("nodes declared dead by others", self.cluster.buried()));
        let (mut looked_up, mut errors, mut lost) = (0, 0, 0);
        for stats in self.cluster.worker_stats() {
            looked_up += stats.data.looked_up;
            errors += stats.data.save_errors;
            lost += stats.data.lost;
        }
        sights.push(("unknown outcomes looked up", looked_up));
        sights.push(("saves tried again", errors));
        sights.push(("entities lost to another owner", lost));
        let moves = self.cluster.moves();
        sights.push(("moves of entities", moves.gone));
        sights.push(("moves given up", moves.stayed));
        Outcome {
            violations: self.book.violations().to_vec(),
            faults: Tally(self.cluster.store_counts().list().to_vec()),
            sights: Tally(sights),
            hash: self.cluster.trace().hash(),
            simulated: self.cluster.now() - self.started,
            notes: self.cluster.notes().map(str::to_owned).collect(),
        }
    }
}

/// How long a change may wait to be stored if nothing is wrong: its second, and a write as slow as
/// the run's faults make it.
fn window(options: &testkit::Options) -> Duration {
    let faults = &options.store_faults;
    // A second, and a write: a sync takes up to 3.5 ms, the way to the store some more.
    let mut window = Duration::from_millis(1_010);
    if faults.slow_sync > 0 {
        // One that waits for another, of which no other gave warning.
        window += 2 * faults.slow_max;
    }
    let breaks = faults.lose_request + faults.lose_answer + faults.delay;
    if breaks > 0 {
        // The wait for an answer, and the pause before the next try, a few times over.
        window += Duration::from_secs(12);
    }
    window
}
