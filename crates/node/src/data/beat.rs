//! That a node lives, as the store sees it; and that another does not.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use env::Instant;
use store::{Error, Incarnation, NodeBeat, Pulse};

use super::options::Options;

/// What the beat wants asked of the store. Each is answered by the `handle_*` of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BeatAsk {
    /// Raise this node's beat.
    Beat,
    /// Read all beats.
    Nodes,
    /// Declare a node dead that stands at that beat.
    MarkDead(Incarnation, u64),
}

/// What is known from the beats.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Life {
    /// A beat that was sent at that time was acknowledged, by a shard of this generation.
    Alive(Instant, u64),
    /// This node was declared dead.
    Dead,
    /// Another node was declared dead: what it had is free.
    Buried(Incarnation),
    /// The store was asked twice in a row and did not answer.
    Away,
    /// These nodes are alive in the store, this one included.
    Known(Arc<[proto::Incarnation]>),
    /// That many nodes stand still at once: more likely the fault is here, so nobody is declared
    /// dead without an operator.
    MassDeath(usize),
    /// So many nodes say that they do not reach the store, most of them: they go on without it, so
    /// nobody is declared dead meanwhile.
    Doubt(usize),
}

/// Beats for one node and watches the others. Pure.
#[derive(Debug)]
pub struct Beat {
    options: Options,
    me: Incarnation,
    next: Instant,
    /// When the beat and the reading under way were sent.
    beating: Option<Instant>,
    reading: Option<Instant>,
    seen: BTreeMap<Incarnation, Seen>,
    known: Arc<[proto::Incarnation]>,
    /// Beats in a row that were not acknowledged.
    failed: u32,
    /// When nodes were declared dead, for the brake.
    buried: VecDeque<Instant>,
    braked: bool,
    /// Who said last when that it does not reach the store.
    away: BTreeMap<Incarnation, Instant>,
    doubts: bool,
    asks: VecDeque<BeatAsk>,
    lives: VecDeque<Life>,
}

#[derive(Debug)]
struct Seen {
    beat: u64,
    /// When it was first seen alive.
    first: Instant,
    since: Instant,
    marking: bool,
}

/// An answer that did not come says something about the store if it is told within this time.
const FRESH: Duration = Duration::from_millis(2_500);

/// Words that a node does not reach the store are believed for so many times as long as those hold
/// on to them who go on because of them.
const AWAY_BELIEVED: u32 = 2;

/// Nodes whose word is kept. More are nonsense.
const AWAY_MAX: usize = 4_096;

/// More deaths than a third of the nodes within this time are not believed.
const BRAKE_WINDOW: Duration = Duration::from_secs(30);

impl Beat {
    /// A node that beats from `now` on.
    pub fn new(options: Options, me: proto::Incarnation, now: Instant) -> Self {
        Beat {
            options,
            me: Incarnation(me.0),
            next: now,
            beating: None,
            reading: None,
            seen: BTreeMap::new(),
            known: Arc::default(),
            failed: 0,
            buried: VecDeque::new(),
            braked: false,
            away: BTreeMap::new(),
            doubts: false,
            asks: VecDeque::new(),
            lives: VecDeque::new(),
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    pub fn poll_timeout(&self) -> Instant {
        self.next
    }

    /// The next thing to ask of the store.
    pub fn poll_ask(&mut self) -> Option<BeatAsk> {
        self.asks.pop_front()
    }

    /// The next thing that is known.
    pub fn poll_life(&mut self) -> Option<Life> {
        self.lives.pop_front()
    }

    /// Beats and looks, unless the last one is still under way.
    pub fn handle_timeout(&mut self, now: Instant) {
        if now < self.next {
            return;
        }
        self.next = now + self.options.beat_every;
        if self.beating.is_none() {
            self.beating = Some(now);
            self.asks.push_back(BeatAsk::Beat);
        }
        if self.reading.is_none() {
            self.reading = Some(now);
            self.asks.push_back(BeatAsk::Nodes);
        }
    }

    /// What became of the beat.
    pub fn handle_beat(&mut self, now: Instant, result: Result<Pulse, Error>) {
        let Some(sent) = self.beating.take() else { return };
        match result {
            Ok(pulse) => {
                self.failed = 0;
                self.lives.push_back(Life::Alive(sent, pulse.generation));
            }
            Err(Error::Dead(_)) => self.lives.push_back(Life::Dead),
            // What stood still itself learns late that nobody answered in time, and knows nothing.
            Err(_) if now.since(sent) > FRESH => self.failed = 0,
            Err(_) => {
                self.failed += 1;
                if self.failed > 1 {
                    self.lives.push_back(Life::Away);
                }
            }
        }
    }

    /// What was read of all nodes.
    pub fn handle_nodes(&mut self, now: Instant, result: Result<Vec<NodeBeat>, Error>) {
        let Some(sent) = self.reading.take() else { return };
        let Ok(nodes) = result else {
            // Who stood still meanwhile is not known.
            self.seen.clear();
            return;
        };
        let alive = nodes.iter().filter(|node| node.alive);
        let others: BTreeMap<Incarnation, u64> = alive
            .filter(|node| node.incarnation != self.me)
            .map(|node| (node.incarnation, node.beat))
            .collect();
        self.seen.retain(|node, _| others.contains_key(node));
        for (&node, &beat) in &others {
            let new = Seen { beat, first: now, since: now, marking: false };
            let seen = self.seen.entry(node).or_insert(new);
            if seen.beat != beat {
                (seen.beat, seen.since, seen.marking) = (beat, now, false);
            }
        }
        let alive = others.keys().copied().chain([self.me]).map(|node| proto::Incarnation(node.0));
        if !alive.clone().eq(self.known.iter().copied()) {
            self.known = alive.collect();
            self.lives.push_back(Life::Known(Arc::clone(&self.known)));
        }
        self.bury_gone();
        self.judge(now, sent, others.len() + 1);
    }

    /// Those of whose end there is proof need not be watched, and say nothing about the store.
    fn bury_gone(&mut self) {
        for node in &self.options.gone {
            let node = Incarnation(node.0);
            let Some(seen) = self.seen.get_mut(&node) else { continue };
            if !std::mem::replace(&mut seen.marking, true) {
                self.asks.push_back(BeatAsk::MarkDead(node, seen.beat));
            }
        }
    }

    /// Whoever stood still from one reading to another, sent so much later, is dead.
    fn judge(&mut self, now: Instant, sent: Instant, known: usize) {
        let after = self.options.judge_after;
        let still = self.seen.values().filter(|seen| sent.since(seen.since) >= after);
        let standing = still.filter(|seen| !seen.marking).count();
        if standing == 0 {
            self.braked = false;
            return;
        }
        if self.doubts(now) {
            return;
        }
        while self.buried.front().is_some_and(|at| now.since(*at) > BRAKE_WINDOW) {
            self.buried.pop_front();
        }
        // One node alone may always die.
        if standing + self.buried.len() > (known / 3).max(1) {
            if !std::mem::replace(&mut self.braked, true) {
                self.lives.push_back(Life::MassDeath(standing));
            }
            return;
        }
        for (node, seen) in &mut self.seen {
            if sent.since(seen.since) >= after && !std::mem::replace(&mut seen.marking, true) {
                self.asks.push_back(BeatAsk::MarkDead(*node, seen.beat));
                self.buried.push_back(now);
            }
        }
    }

    /// Another node said that it does not reach the store.
    pub fn handle_away(&mut self, now: Instant, node: proto::Incarnation) {
        let believed = AWAY_BELIEVED * self.options.away_after;
        self.away.retain(|_, at| now.since(*at) <= believed);
        if self.away.len() < AWAY_MAX {
            self.away.insert(Incarnation(node.0), now);
        }
    }

    /// Whether most nodes said of late that they do not reach the store. They may go on because
    /// they heard it of each other, for `away_after` from when they did, which may be later than here.
    /// Nodes that are new do not count among the others yet: those who go on may not have heard of them.
    fn doubts(&mut self, now: Instant) -> bool {
        let believed = AWAY_BELIEVED * self.options.away_after;
        let said = self.away.iter().filter(|(_, at)| now.since(**at) <= believed);
        let away = said.filter(|(node, _)| self.seen.contains_key(node)).count();
        let known = self.seen.values().filter(|seen| now.since(seen.first) > believed).count() + 1;
        let doubts = 2 * away > known;
        if doubts && !self.doubts {
            self.lives.push_back(Life::Doubt(away));
        }
        self.doubts = doubts;
        doubts
    }

    /// What became of a declaration.
    pub fn handle_marked(&mut self, node: Incarnation, result: Result<(), Error>) {
        match result {
            Ok(()) => {
                self.seen.remove(&node);
                self.lives.push_back(Life::Buried(node));
            }
            // It lives, or nobody knows: it is watched anew.
            Err(_) => {
                self.seen.remove(&node);
            }
        }
    }
}

/// Declares all nodes of a store dead. Only for whoever has just opened an embedded store: that
/// no other process has it open is the proof that the nodes of its last life are gone.
///
/// # Errors
///
/// What the store says; then nobody can take what those nodes had.
pub fn bury_all(store: &store::Store) -> Result<usize, Error> {
    let mut buried = 0;
    loop {
        let nodes = store.nodes().wait()?;
        if nodes.is_empty() {
            return Ok(buried);
        }
        for node in nodes {
            store.mark_dead(node.incarnation, node.beat).wait()?;
            buried += 1;
        }
    }
}
