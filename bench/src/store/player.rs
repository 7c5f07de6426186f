//! A node's worker with players that are kept, driven by hand over an embedded store: what a node
//! does, with nothing between the load and the worker.

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use anyhow::ensure;
use cluster::{Directory, NodeInfo};
use env::{Clock, Instant, Random};
use macros::{Document, component, entity, rpc};
use mesh::{Key as MeshKey, Mesh};
use node::data::{Life, Options, Told, bury_all, key_of};
use node::rt::codec::Bytes;
use node::rt::{CallError, Component, Ref};
use node::session::Bindings;
use node::{DataParts, Entity, HostOptions, Outside, Worker, WorkerParts};
use proto::Incarnation;
use proto::link::WorkerId;
use store::{Error, Key, Pulse, Store};

use super::{Meter, Rate};

/// Bytes of the sub-document that changes.
pub const BAG_BYTES: usize = 200;
/// How often each player of [`Seat::play`] changes in a second.
pub const CHANGES_HZ: u64 = 10;

/// Changes put in before the worker has its turn.
const BURST: usize = 256;
/// How often the worker is asked what it holds, which looks at every entity.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(20);

/// Somebody whose bag is kept.
#[entity(root = node::rt, document)]
#[derive(Default, Document)]
#[document(root = node::rt)]
pub struct Player {
    #[persist]
    bag: Component<Bag>,
}

#[component(root = node::rt, of = Player)]
#[derive(Default, Document)]
#[document(root = node::rt)]
pub struct Bag {
    #[persist]
    bytes: Bytes,
}

#[rpc(root = node::rt)]
impl Player {
    #[tell(server)]
    fn enter(&mut self) {
        let what = self.bag.with(|bag| bag.bytes.0.first_chunk().copied());
        let what = what.map_or(0, u64::from_le_bytes);
        let login = Login { at: Clock::system().now(), what };
        ENTERED.with_borrow_mut(|entered| entered.push(login));
    }
}

#[rpc(root = node::rt)]
impl Bag {
    #[tell(server)]
    fn put(&mut self, what: u64) {
        let mut bytes = vec![0; BAG_BYTES];
        bytes[..8].copy_from_slice(&what.to_le_bytes());
        self.bytes = Bytes(bytes);
    }
}

/// A player's first message was handled.
struct Login {
    at: Instant,
    /// What was last put into its bag.
    what: u64,
}

thread_local! {
    static ENTERED: RefCell<Vec<Login>> = const { RefCell::new(Vec::new()) };
}

/// Under which key a player is stored.
pub fn player_key(key: u64) -> Key {
    key_of(Ref::<Player>::keyed(key).id())
}

/// What the store's thread answers.
enum Answer {
    Told(Told),
    Beaten(Instant, Result<Pulse, Error>),
}

/// What came of [`Seat::storm`].
pub struct Storm {
    /// How long each took until it was handled, in order.
    pub took: Vec<Duration>,
    /// What each had in its bag: the number of the change that put it there.
    pub found: Vec<u64>,
}

/// What came of [`Seat::play`].
pub struct Played {
    pub changes: u64,
    pub writes: u64,
    pub oldest: Duration,
}

/// A worker, its store and the loop between them.
pub struct Seat {
    worker: Worker,
    outside: Outside,
    store: Store,
    me: Incarnation,
    clock: Clock,
    beat_at: Instant,
    look_at: Instant,
    answers: Receiver<Answer>,
    tell: Sender<Answer>,
    changes: u64,
    writes: u64,
    /// Players whose write was answered since somebody asked.
    saved: Vec<u64>,
    open_asks: usize,
    oldest: Duration,
}

impl Seat {
    pub fn open(path: &Path, options: Options) -> anyhow::Result<Self> {
        Self::over(Store::embedded(path, store::Options::default())?, options)
    }

    pub fn over(store: Store, options: Options) -> anyhow::Result<Self> {
        bury_all(&store)?;
        let clock = Clock::system();
        let mut random = Random::from_os();
        let node = Incarnation(random.u64());
        let me = WorkerId { node, worker: 0 };
        let mut worker = Worker::new(WorkerParts {
            me,
            workers: 1,
            host: HostOptions::default(),
            sessions: node::session::Options::default(),
            bindings: Bindings::none(),
            mesh: Mesh::new(me, "node", mesh::Options::default(), MeshKey::none(), random.fork()),
            clock: clock.clone(),
            random,
            data: Some(DataParts { options, ..DataParts::default() }),
        });
        worker.host().register::<Player>();
        let mut info = NodeInfo::new("node", node);
        info.workers = 1;
        info.kinds = vec![Player::KIND.id];
        worker.set_directory(Arc::new(Directory::new(1, [Arc::new(info)])), |_| false);
        let outside = worker.outside();
        let (tell, answers) = channel();
        let now = clock.now();
        let mut seat = Seat {
            worker,
            outside,
            store,
            me: node,
            clock,
            beat_at: now,
            look_at: now,
            answers,
            tell,
            changes: 0,
            writes: 0,
            saved: Vec::new(),
            open_asks: 0,
            oldest: Duration::ZERO,
        };
        let pulse = seat.store.beat(store::Incarnation(node.0)).wait()?;
        seat.worker.handle_life(now, Life::Alive(now, pulse.generation));
        Ok(seat)
    }

    /// Changes each player once; those who are not here come.
    pub fn change_all(&mut self, order: &[u64]) -> anyhow::Result<()> {
        for burst in order.chunks(BURST) {
            for key in burst {
                self.change(*key)?;
            }
            self.pump(Duration::ZERO)?;
        }
        Ok(())
    }

    fn change(&mut self, key: u64) -> Result<(), CallError> {
        self.changes += 1;
        self.outside.entity::<Player>(key).bag().put(self.changes)
    }

    /// Goes on until nothing is unsaved.
    pub fn drain(&mut self) -> anyhow::Result<()> {
        let end = self.clock.now() + PATIENCE;
        loop {
            self.pump(Duration::from_millis(1))?;
            ensure!(self.clock.now() < end, "it is never saved: {:?}", self.worker.stats().data);
            if self.open_asks > 0 {
                continue;
            }
            let data = self.worker.stats().data;
            if data.dirty + data.loading == 0 {
                ensure!(data.refused + data.save_errors + data.lost == 0, "{data:?}");
                self.saved.clear();
                return Ok(());
            }
        }
    }

    /// Changes each player anew as soon as the last change is saved. Writes a second, and how old
    /// the oldest unsaved change was.
    pub fn saturate(&mut self, order: &[u64], span: Duration) -> anyhow::Result<(Rate, Duration)> {
        self.oldest = Duration::ZERO;
        let warm = self.clock.now() + span / 4;
        self.change_all(order)?;
        let mut counted = None;
        loop {
            self.pump(Duration::from_millis(1))?;
            match &counted {
                None if self.clock.now() >= warm => counted = Some((Meter::begin(), self.writes)),
                Some((meter, before)) if meter.elapsed() >= span => {
                    let rate = meter.rate(self.writes - before);
                    self.drain()?;
                    return Ok((rate, self.oldest));
                }
                _ => {}
            }
            let free = std::mem::take(&mut self.saved);
            for burst in free.chunks(BURST) {
                for key in burst {
                    self.change(*key)?;
                }
                self.pump(Duration::ZERO)?;
            }
        }
    }

    /// Lets each player change [`CHANGES_HZ`] times a second, evenly, then saves all.
    pub fn play(&mut self, order: &[u64], span: Duration) -> anyhow::Result<Played> {
        self.oldest = Duration::ZERO;
        let (changes, saved) = (self.changes, self.writes);
        let rate = order.len() as u64 * CHANGES_HZ;
        let begun = self.clock.now();
        let mut next = order.iter().cycle();
        loop {
            let passed = (self.clock.now() - begun).min(span);
            let owed = (passed.as_nanos() as u64 / 1_000) * rate / 1_000_000;
            for key in next.by_ref().take((owed - (self.changes - changes)).min(2_048) as usize) {
                self.change(*key)?;
            }
            self.pump(Duration::from_millis(1))?;
            self.saved.clear();
            if self.clock.now() - begun >= span {
                break;
            }
        }
        let changes = self.changes - changes;
        self.drain()?;
        Ok(Played { changes, writes: self.writes - saved, oldest: self.oldest })
    }

    /// Sends a first message to each player at once.
    pub fn storm(&mut self, order: &[u64]) -> anyhow::Result<Storm> {
        ENTERED.with_borrow_mut(Vec::clear);
        let begun = self.clock.now();
        let end = begun + PATIENCE;
        for key in order {
            self.outside.entity::<Player>(*key).enter()?;
        }
        while ENTERED.with_borrow(Vec::len) < order.len() {
            self.pump(Duration::from_millis(1))?;
            ensure!(self.clock.now() < end, "some never log in");
        }
        let entered = ENTERED.take();
        let mut took: Vec<Duration> = entered.iter().map(|login| login.at - begun).collect();
        took.sort_unstable();
        self.drain()?;
        Ok(Storm { took, found: entered.iter().map(|login| login.what).collect() })
    }

    /// Changes each player once more, and again if saving had begun before all were changed: then
    /// no change of the last turn is saved. How old the oldest of them is, and how many turns it
    /// took.
    pub fn soil(&mut self, order: &[u64]) -> anyhow::Result<(Duration, u64)> {
        let end = self.clock.now() + PATIENCE;
        let mut turns = 0;
        loop {
            self.change_all(order)?;
            turns += 1;
            let data = self.worker.stats().data;
            if data.dirty == order.len() && self.open_asks == 0 {
                return Ok((data.lag, turns));
            }
            ensure!(self.clock.now() < end, "saving begins before all are changed: {data:?}");
            self.drain()?;
        }
    }

    /// One turn of the worker. It may wait for an answer as long as `idle` if nothing is to do.
    fn pump(&mut self, idle: Duration) -> anyhow::Result<()> {
        let now = self.clock.now();
        if now >= self.beat_at {
            self.beat_at = now + Options::default().beat_every;
            let tell = self.tell.clone();
            self.store.beat(store::Incarnation(self.me.0)).on_ready(move |pulse| {
                // Nobody hears the last one.
                let _ = tell.send(Answer::Beaten(now, pulse));
            });
        }
        let mut heard = 0;
        while let Ok(answer) = self.answers.try_recv() {
            self.hear(answer)?;
            heard += 1;
        }
        if now >= self.look_at {
            self.look_at = now + LOOK_EVERY;
            self.oldest = self.oldest.max(self.worker.stats().data.lag);
        }
        let next = self.worker.turn(now, self.clock.wall());
        while let Some(ask) = self.worker.poll_ask() {
            let tell = self.tell.clone();
            self.open_asks += 1;
            heard += 1;
            ask.submit(&self.store, move |told| {
                let _ = tell.send(Answer::Told(told));
            });
        }
        let wait = next.map_or(idle, |next| next.since(self.clock.now()).min(idle));
        if heard == 0
            && !wait.is_zero()
            && let Ok(answer) = self.answers.recv_timeout(wait)
        {
            self.hear(answer)?;
        }
        Ok(())
    }

    fn hear(&mut self, answer: Answer) -> anyhow::Result<()> {
        let now = self.clock.now();
        match answer {
            Answer::Told(told) => {
                self.open_asks -= 1;
                if let Told::Saved(id, _, Ok(_)) = &told {
                    self.writes += 1;
                    self.saved.push(id.key);
                }
                self.worker.handle_told(now, told);
            }
            Answer::Beaten(sent, pulse) => {
                self.worker.handle_life(now, Life::Alive(sent, pulse?.generation));
            }
        }
        Ok(())
    }
}
