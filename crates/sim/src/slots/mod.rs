//! One run of the suite of slots: nodes that trade for their players in three shards, while slots
//! move between the shards and nodes, movers and shards come and go. Then everything must be there,
//! once.

mod book;
mod node;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use mainstay::env::Random;
use mainstay::store::{
    Activate, Activated, Currency, Error, Incarnation, Key, LedgerOp, Limits, Mutant as Rule,
    Receipt, SLOTS, Save, Shard, Side, Slot, SlotAsk, SlotMove, SlotTold, Transaction, TxnId,
};

use crate::mutants::Mutant;
use crate::outcome::{Outcome, Tally, caught};
use book::Book;
use node::Node;

pub(crate) const SHARDS: [&str; 3] = ["a", "b", "c"];
const NODES: usize = 3;
const PLAYERS: u64 = 24;
const GOLD: Currency = Currency(1);
const START: u64 = 1_000;
/// How long everything may go wrong, and how long it then has to be right again.
const STORM_MS: u64 = 40_000;
const CALM_MS: u64 = 30_000;
/// What waits longer for an answer asks again.
const REPLY_MS: u64 = 1_500;

/// Runs one seed.
pub fn run(seed: u64, mutant: Option<Mutant>, notes_max: usize) -> Outcome {
    let mut world = World::new(seed, mutant, notes_max);
    if let Some(text) = caught(|| world.play()) {
        world.book.violation(text);
    }
    world.outcome()
}

/// What is asked of a shard.
#[derive(Clone, Debug)]
pub(crate) enum Want {
    Activate(Activate),
    Save(Save),
    Commit(Box<Transaction>),
    LookUp(TxnId),
    Generation,
    Slots(SlotAsk),
}

/// What it says.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    Activated(Result<Activated, Error>),
    Saved(Result<u64, Error>),
    Committed(Result<Receipt, Error>),
    LookedUp(Result<Option<Receipt>, Error>),
    Generation(Result<u64, Error>),
    Slots(Result<SlotTold, Error>),
}

/// Who asked, and which of its lives: an answer to a former one is for nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Node(usize, u64),
    Mover(u64),
}

enum Event {
    Ask {
        from: Who,
        number: u64,
        shard: usize,
        want: Want,
    },
    Answer {
        to: Who,
        number: u64,
        shard: usize,
        reply: Box<Reply>,
    },
    Tick(usize, u64),
    Move,
    /// A mover asks again.
    Again(u64, u64),
    Fault,
}

struct Mover {
    job: SlotMove,
    sides: [usize; 2],
    number: u64,
}

#[derive(Default)]
struct Counts {
    lost: u64,
    doubled: u64,
    delayed: u64,
    nodes_killed: u64,
    movers_killed: u64,
    shards_away: u64,
    failovers: u64,
}

pub(crate) struct World {
    now: u64,
    random: Random,
    events: BTreeMap<(u64, u64), Event>,
    number: u64,
    shards: Vec<Shard>,
    away_until: [u64; SHARDS.len()],
    nodes: Vec<Node>,
    movers: BTreeMap<u64, Mover>,
    counts: Counts,
    calm: bool,
    pub book: Book,
}

impl World {
    fn new(seed: u64, mutant: Option<Mutant>, notes_max: usize) -> Self {
        let rule = match mutant {
            Some(Mutant::Rule(rule)) => Some(rule),
            _ => None::<Rule>,
        };
        let limits = Limits { sharded: true, mutant: rule, ..Limits::default() };
        let shards = SHARDS.iter().map(|_| Shard::new(limits.clone())).collect();
        World {
            now: 0,
            random: Random::from_seed(seed),
            events: BTreeMap::new(),
            number: 0,
            shards,
            away_until: [0; SHARDS.len()],
            nodes: Vec::new(),
            movers: BTreeMap::new(),
            counts: Counts::default(),
            calm: false,
            book: Book::new(notes_max),
        }
    }

    fn play(&mut self) {
        self.found();
        for node in 0..NODES {
            self.nodes.push(Node::new(node, &mut self.random));
            self.join(node);
        }
        self.at(500, Event::Move);
        self.at(700, Event::Fault);
        while self.now < STORM_MS && self.step() {}
        self.calm = true;
        self.away_until = [0; SHARDS.len()];
        self.movers.clear();
        self.book.note(self.now, "calm".to_owned());
        self.nodes.iter_mut().for_each(Node::calm_down);
        while self.now < STORM_MS + CALM_MS && self.step() {}
        self.judge();
    }

    /// Gives each shard a third of the slots, and each player its gold.
    fn found(&mut self) {
        let plan: Vec<String> = SHARDS.map(str::to_owned).to_vec();
        for (at, shard) in self.shards.iter_mut().enumerate() {
            let slots = (0..SLOTS).filter(|slot| home(*slot) == at).map(Slot).collect();
            let (name, plan) = (plan[at].clone(), plan.clone());
            shard.slots(&SlotAsk::Found { name, plan, slots }).expect("it is new");
        }
        for player in 0..PLAYERS {
            let holder = Key(player.into());
            let shard = &mut self.shards[home(Slot::of(holder).0)];
            let id = TxnId(u128::from(player) + 1);
            let mint = LedgerOp::Mint { holder, currency: GOLD, amount: START };
            shard.commit(&Transaction::new(id, 1).with(mint)).expect("it is new");
        }
    }

    /// A life of a node begins: it is known to all shards.
    fn join(&mut self, node: usize) {
        let me = self.nodes[node].me;
        for shard in &mut self.shards {
            shard.beat(me).expect("it is new");
        }
        let life = self.nodes[node].life;
        self.at(1, Event::Tick(node, life));
    }

    fn at(&mut self, in_ms: u64, event: Event) {
        self.number += 1;
        self.events.insert((self.now + in_ms, self.number), event);
    }

    fn step(&mut self) -> bool {
        let Some(((at, _), event)) = self.events.pop_first() else { return false };
        self.now = at;
        match event {
            Event::Ask { from, number, shard, want } => self.serve(from, number, shard, want),
            Event::Answer { to, number, shard, reply } => self.hear(to, number, shard, *reply),
            Event::Tick(node, life) if self.nodes[node].life == life => {
                let asks = self.nodes[node].tick(self.now, &mut self.random, &mut self.book);
                self.send_all(Who::Node(node, life), asks);
                self.at(20, Event::Tick(node, life));
            }
            Event::Tick(..) => {}
            Event::Move if self.calm => {}
            Event::Move => self.begin_move(),
            Event::Again(token, number) => {
                if self.movers.get(&token).is_some_and(|mover| mover.number == number) {
                    self.drive(token);
                }
            }
            Event::Fault if self.calm => {}
            Event::Fault => self.fault(),
        }
        true
    }

    fn send_all(&mut self, from: Who, asks: Vec<(u64, usize, Want)>) {
        for (number, shard, want) in asks {
            self.send(from, number, shard, want);
        }
    }

    /// A request on its way, which may be lost, late or there twice.
    fn send(&mut self, from: Who, number: u64, shard: usize, want: Want) {
        let ways = self.ways();
        for in_ms in ways {
            self.at(in_ms, Event::Ask { from, number, shard, want: want.clone() });
        }
    }

    fn ways(&mut self) -> Vec<u64> {
        let near = 1 + self.random.below(8);
        if self.calm {
            return vec![near];
        }
        match self.random.below(100) {
            0 | 1 => {
                self.counts.lost += 1;
                Vec::new()
            }
            2 | 3 => {
                self.counts.doubled += 1;
                vec![near, near + self.random.below(6_000)]
            }
            4 | 5 => {
                self.counts.delayed += 1;
                vec![near + self.random.below(6_000)]
            }
            _ => vec![near],
        }
    }

    fn serve(&mut self, from: Who, number: u64, at: usize, want: Want) {
        if self.away_until[at] > self.now {
            return;
        }
        let shard = &mut self.shards[at];
        let reply = match want {
            Want::Activate(ask) => Reply::Activated(shard.activate(&ask)),
            Want::Save(save) => Reply::Saved(shard.save(&save)),
            Want::Commit(txn) => Reply::Committed(shard.commit(&txn)),
            Want::LookUp(id) => Reply::LookedUp(shard.lookup(id)),
            Want::Generation => Reply::Generation(shard.generation()),
            Want::Slots(ask) => Reply::Slots(shard.slots(&ask)),
        };
        self.book.mix(self.now, number, at as u64);
        for in_ms in self.ways() {
            let reply = Box::new(reply.clone());
            self.at(in_ms, Event::Answer { to: from, number, shard: at, reply });
        }
    }

    fn hear(&mut self, to: Who, number: u64, shard: usize, reply: Reply) {
        match to {
            Who::Node(node, life) if self.nodes[node].life == life => {
                let heard = self.nodes[node].hear(self.now, number, shard, reply, &mut self.book);
                self.send_all(to, heard);
            }
            Who::Mover(token) => {
                let Reply::Slots(told) = reply else { return };
                let Some(mover) = self.movers.get_mut(&token) else { return };
                if mover.number == number {
                    mover.job.handle(told);
                    self.drive(token);
                }
            }
            Who::Node(..) => {}
        }
    }

    /// The next step of a move, or its end.
    fn drive(&mut self, token: u64) {
        self.number += 1;
        let number = self.number;
        let Some(mover) = self.movers.get_mut(&token) else { return };
        let Some((side, ask)) = mover.job.poll_ask() else {
            let end = format!("move {token:x} ended: {:?}", mover.job.end());
            self.book.moved(mover.job.end());
            self.book.note(self.now, end);
            self.movers.remove(&token);
            return;
        };
        if self.random.chance(1, 60) {
            self.counts.movers_killed += 1;
            let text = format!("mover {token:x} killed at {}", mover.job.step());
            self.book.note(self.now, text);
            self.movers.remove(&token);
            return;
        }
        mover.number = number;
        let shard = mover.sides[usize::from(side == Side::To)];
        self.send(Who::Mover(token), number, shard, Want::Slots(ask));
        self.at(REPLY_MS, Event::Again(token, number));
    }

    fn begin_move(&mut self) {
        let pause = 200 + self.random.below(800);
        self.at(pause, Event::Move);
        if self.movers.len() >= 3 {
            return;
        }
        let player = Key(self.random.below(PLAYERS).into());
        let slot = Slot::of(player);
        // Of a shard that may not have it any more.
        let from = self.random.below(3) as usize;
        let serves = |shard: &mut Shard| shard.load(player).is_ok();
        let from = (0..3).find(|at| serves(&mut self.shards[*at])).unwrap_or(from);
        let to = (from + 1 + self.random.below(2) as usize) % 3;
        let mut slots = vec![slot];
        if self.random.chance(1, 3) {
            let more = (0..PLAYERS).map(|player| Slot::of(Key(player.into())));
            let shard = &mut self.shards[from];
            let mut here = |at: &Slot| {
                let of = |player: &u64| Slot::of(Key((*player).into())) == *at;
                let player = (0..PLAYERS).find(of).expect("one of theirs");
                shard.load(Key(player.into())).is_ok()
            };
            slots.extend(more.filter(|at| here(at)));
            slots.sort_unstable();
            slots.dedup();
        }
        let token = self.random.u64() | 1;
        let text = format!("move {token:x}: {slots:?} from {} to {}", SHARDS[from], SHARDS[to]);
        self.book.note(self.now, text);
        let job = SlotMove::new(slots, SHARDS[from], SHARDS[to], token, self.now);
        self.movers.insert(token, Mover { job, sides: [from, to], number: 0 });
        self.drive(token);
    }

    fn fault(&mut self) {
        let pause = 300 + self.random.below(1_500);
        self.at(pause, Event::Fault);
        match self.random.below(8) {
            0..=3 => {
                self.counts.nodes_killed += 1;
                let node = self.random.below(NODES as u64) as usize;
                self.book.note(self.now, format!("node {node} killed"));
                let dead = self.nodes[node].me;
                // Whoever saw its process exit says so everywhere.
                for shard in &mut self.shards {
                    let beat = beat_of(shard, dead);
                    drop(shard.mark_dead(dead, beat));
                }
                self.nodes[node].begin_anew(&mut self.random);
                self.join(node);
            }
            4..=6 => {
                self.counts.shards_away += 1;
                let shard = self.random.below(3) as usize;
                self.away_until[shard] = self.now + self.random.below(3_000);
                self.book.note(self.now, format!("shard {} is away", SHARDS[shard]));
            }
            _ => {
                self.counts.failovers += 1;
                let at = self.random.below(3) as usize;
                let shard = &mut self.shards[at];
                let generation = shard.generation().expect("it is there");
                shard.raise_generation(generation).expect("just read");
                self.book.note(self.now, format!("shard {} failed over", SHARDS[at]));
            }
        }
    }

    /// Everything is there, once, and nothing that was told is missing.
    fn judge(&mut self) {
        for node in &self.nodes {
            node.judge(&mut self.book);
        }
        self.book.judge(&mut self.shards);
    }

    fn outcome(self) -> Outcome {
        let Counts { lost, doubled, delayed, nodes_killed, movers_killed, shards_away, failovers } =
            self.counts;
        let faults = vec![
            ("messages lost", lost),
            ("messages doubled", doubled),
            ("messages delayed", delayed),
            ("nodes killed", nodes_killed),
            ("movers killed", movers_killed),
            ("shards away for a while", shards_away),
            ("failovers", failovers),
        ];
        let simulated = Duration::from_millis(self.now);
        let (violations, sights, hash, notes) = self.book.close();
        Outcome { violations, faults: Tally(faults), sights, hash, simulated, notes }
    }
}

/// The shard of a slot at the beginning.
pub(crate) fn home(slot: u16) -> usize {
    usize::from(slot) * SHARDS.len() / usize::from(SLOTS)
}

fn beat_of(shard: &mut Shard, node: Incarnation) -> u64 {
    let nodes = shard.nodes().expect("it is in memory");
    nodes.iter().find(|known| known.incarnation == node).map_or(0, |known| known.beat)
}

/// Lines of what happened last.
pub(crate) struct Notes {
    max: usize,
    lines: VecDeque<String>,
}

impl Notes {
    pub fn new(max: usize) -> Self {
        Notes { max, lines: VecDeque::new() }
    }

    pub fn add(&mut self, line: String) {
        if self.max > 0 {
            if self.lines.len() == self.max {
                self.lines.pop_front();
            }
            self.lines.push_back(line);
        }
    }

    pub fn into_lines(self) -> Vec<String> {
        self.lines.into()
    }
}
