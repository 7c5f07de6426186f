//! Nodes of one worker each over one store in memory, on a clock that moves by hand. Each node
//! believes that every entity belongs to it, so that only the store decides.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use cluster::{Directory, NodeInfo};
use env::{Clock, Instant, ManualClock, Random, WallTime};
use mesh::{Key as MeshKey, Mesh};
use node::data::{Ask, Beat, BeatAsk, Life, Options, Told, Trouble};
use node::session::Bindings;
use node::{DataParts, Event, Host, HostOptions, Outside, Report, Worker, WorkerParts};
use proto::link::WorkerId;
use proto::{Incarnation, KindId};
use store::{Error, Store};

/// What a node sends and is sent.
enum Post {
    Ask(usize, Ask),
    Told(usize, Told),
    Beat(usize, BeatAsk),
    Beaten(usize, BeatTold),
}

enum BeatTold {
    Beat(Result<store::Pulse, Error>),
    Nodes(Result<Vec<store::NodeBeat>, Error>),
    Marked(store::Incarnation, Result<(), Error>),
}

/// One life of a node.
struct Seat {
    worker: Worker,
    outside: Outside,
    beat: Beat,
    /// Nothing of it reaches the store: it waits here.
    cut: bool,
    held: Vec<Post>,
    /// It does nothing, as a stopped process.
    frozen: bool,
    troubles: Vec<Trouble>,
    gone: Vec<Event>,
}

pub struct Rig {
    pub store: Store,
    pub hand: ManualClock,
    clock: Clock,
    options: Options,
    /// Whether nodes that start now have a store.
    pub kept: bool,
    register: fn(&mut Host),
    kinds: Vec<KindId>,
    seats: Vec<Option<Seat>>,
    posts: BTreeMap<(Instant, u64), Post>,
    number: u64,
    /// How long a request or an answer is under way.
    pub way: Duration,
    /// So many of the next answers are lost after the store did what was asked.
    pub lose_answers: usize,
    /// What of the asks is refused with which error, while it gives one.
    pub refuse: Option<fn(&Ask) -> Option<Error>>,
    /// Whether the store cannot be reached by anyone.
    pub away: bool,
    /// All asks so far, by their names.
    pub asked: Vec<&'static str>,
    seed: u64,
}

/// A call under way.
pub struct Pending<T> {
    future: Pin<Box<dyn Future<Output = T>>>,
    done: Option<T>,
}

impl<T> Pending<T> {
    fn poll(&mut self) {
        if self.done.is_none() {
            let mut context = Context::from_waker(Waker::noop());
            if let Poll::Ready(value) = self.future.as_mut().poll(&mut context) {
                self.done = Some(value);
            }
        }
    }
}

impl Rig {
    pub fn new(register: fn(&mut Host), kinds: Vec<KindId>) -> Self {
        Rig::with(register, kinds, Options::default(), store::Limits::default())
    }

    pub fn with(
        register: fn(&mut Host),
        kinds: Vec<KindId>,
        options: Options,
        limits: store::Limits,
    ) -> Self {
        let (clock, hand) = Clock::manual(WallTime(1_700_000_000_000));
        hand.advance(Duration::from_secs(100));
        Rig {
            store: Store::memory(limits),
            hand,
            clock,
            options,
            kept: true,
            register,
            kinds,
            seats: Vec::new(),
            posts: BTreeMap::new(),
            number: 0,
            way: Duration::from_millis(2),
            lose_answers: 0,
            refuse: None,
            away: false,
            asked: Vec::new(),
            seed: 0,
        }
    }

    /// Starts a node; gives its number. It has beaten once when this returns.
    pub fn start(&mut self) -> usize {
        self.seed += 1;
        let number = self.seats.len();
        let me = WorkerId { node: Incarnation(100 + number as u64), worker: 0 };
        let options = mesh::Options { cluster: "test".into(), ..mesh::Options::default() };
        let key = MeshKey::shared(&[7; 32]);
        let name = format!("node-{number}");
        let mut worker = Worker::new(WorkerParts {
            me,
            workers: 1,
            host: HostOptions::default(),
            sessions: node::session::Options::default(),
            bindings: Bindings::none(),
            mesh: Mesh::new(me, &name, options, key, Random::from_seed(self.seed)),
            clock: self.clock.clone(),
            random: Random::from_seed(self.seed),
            data: self
                .kept
                .then(|| DataParts { options: self.options.clone(), ..DataParts::default() }),
        });
        (self.register)(worker.host());
        let mut info = NodeInfo::new(&name, me.node);
        info.workers = 1;
        info.kinds = self.kinds.clone();
        worker.set_directory(Arc::new(Directory::new(1, [Arc::new(info)])), |_| false);
        let outside = worker.outside();
        self.seats.push(Some(Seat {
            worker,
            outside,
            beat: Beat::new(self.options.clone(), me.node, self.hand.now()),
            cut: false,
            held: Vec::new(),
            frozen: false,
            troubles: Vec::new(),
            gone: Vec::new(),
        }));
        self.run_for(Duration::from_millis(20));
        number
    }

    fn seat(&mut self, node: usize) -> &mut Seat {
        self.seats[node].as_mut().expect("the node lives")
    }

    pub fn worker(&mut self, node: usize) -> &mut Worker {
        &mut self.seat(node).worker
    }

    /// The node ends without a word. What it had sent still arrives.
    pub fn kill(&mut self, node: usize) {
        self.seats[node] = None;
    }

    /// Nothing of the node reaches the store any more, or all of it again: late, not lost.
    pub fn cut(&mut self, node: usize, cut: bool) {
        let at = self.hand.now() + self.way;
        let seat = self.seat(node);
        seat.cut = cut;
        if !cut {
            for post in std::mem::take(&mut seat.held) {
                self.post(at, post);
            }
        }
    }

    /// The node's process stands still, or goes on.
    pub fn freeze(&mut self, node: usize, frozen: bool) {
        self.seat(node).frozen = frozen;
    }

    pub fn troubles(&mut self, node: usize) -> Vec<Trouble> {
        std::mem::take(&mut self.seat(node).troubles)
    }

    /// Starts a call.
    pub fn begin<T: 'static, F>(
        &mut self,
        node: usize,
        call: impl FnOnce(Outside) -> F,
    ) -> Pending<T>
    where
        F: Future<Output = T> + 'static,
    {
        let seat = self.seat(node);
        let mut pending = Pending { future: Box::pin(call(seat.outside.clone())), done: None };
        pending.poll();
        pending
    }

    /// Makes a call and lets time pass until it has ended, at most ten seconds.
    pub fn call<T: 'static, F>(&mut self, node: usize, call: impl FnOnce(Outside) -> F) -> T
    where
        F: Future<Output = T> + 'static,
    {
        let mut pending = self.begin(node, call);
        self.finish(&mut pending)
    }

    pub fn finish<T>(&mut self, pending: &mut Pending<T>) -> T {
        let end = self.hand.now() + Duration::from_secs(10);
        while self.hand.now() < end {
            self.settle();
            pending.poll();
            if let Some(done) = pending.done.take() {
                return done;
            }
            self.step(end);
        }
        panic!("a call waits for ever");
    }

    /// The outcome, if it has one by now.
    pub fn peek<T>(&mut self, pending: &mut Pending<T>) -> Option<T> {
        self.settle();
        pending.poll();
        pending.done.take()
    }

    pub fn run_for(&mut self, span: Duration) {
        let end = self.hand.now() + span;
        self.settle();
        while self.hand.now() < end {
            self.step(end);
        }
    }

    /// Lets the next thing happen, or time pass until `end`.
    fn step(&mut self, end: Instant) {
        let now = self.hand.now();
        let post = self.posts.keys().next().map(|(at, _)| *at);
        let seats = self.seats.iter_mut().flatten().filter(|seat| !seat.frozen);
        let wakes = seats.flat_map(|seat| {
            let wall = WallTime(now.as_millis());
            [Some(seat.beat.poll_timeout()), seat.worker.turn(now, wall)]
        });
        let next = wakes.flatten().chain(post).min().unwrap_or(end);
        self.hand.advance_to(next.max(now + Duration::from_micros(100)).min(end));
        self.settle();
    }

    fn settle(&mut self) {
        let now = self.hand.now();
        loop {
            let mut busy = false;
            while let Some(entry) = self.posts.first_entry().filter(|entry| entry.key().0 <= now) {
                busy = true;
                let post = entry.remove();
                self.deliver(now, post);
            }
            for node in 0..self.seats.len() {
                busy |= self.work(now, node);
            }
            if !busy {
                return;
            }
        }
    }

    fn work(&mut self, now: Instant, node: usize) -> bool {
        let Some(seat) = self.seats[node].as_mut().filter(|seat| !seat.frozen) else {
            return false;
        };
        let mut posts = Vec::new();
        seat.beat.handle_timeout(now);
        while let Some(ask) = seat.beat.poll_ask() {
            posts.push(Post::Beat(node, ask));
        }
        while let Some(life) = seat.beat.poll_life() {
            seat.worker.handle_life(now, life.clone());
            if let Life::Dead = life {
                seat.gone.clear();
            }
        }
        let wall = WallTime(1_700_000_000_000 + now.as_millis());
        while seat.worker.turn(now, wall).is_some_and(|at| at <= now) {}
        while let Some(ask) = seat.worker.poll_ask() {
            posts.push(Post::Ask(node, ask));
        }
        while let Some(report) = seat.worker.poll_report() {
            match report {
                Report::Data(trouble) => seat.troubles.push(trouble),
                Report::Host(event) => seat.gone.push(event),
                Report::StoreAway(node) => seat.beat.handle_away(now, node),
                _ => {}
            }
        }
        let busy = !posts.is_empty();
        for post in posts {
            self.post(now + self.way, post);
        }
        busy
    }

    fn post(&mut self, at: Instant, post: Post) {
        self.number += 1;
        self.posts.insert((at, self.number), post);
    }

    fn deliver(&mut self, now: Instant, post: Post) {
        let back = now + self.way;
        match post {
            Post::Ask(node, ask) => {
                if let Some(seat) = self.seats[node].as_mut().filter(|seat| seat.cut) {
                    return seat.held.push(Post::Ask(node, ask));
                }
                self.asked.push(name_of(&ask));
                let told = self.do_ask(ask);
                self.post(back, Post::Told(node, told));
            }
            Post::Beat(node, ask) => {
                if let Some(seat) = self.seats[node].as_mut().filter(|seat| seat.cut) {
                    return seat.held.push(Post::Beat(node, ask));
                }
                let me = store::Incarnation(100 + node as u64);
                let gone = || Error::Unavailable("away".to_owned());
                let told = match ask {
                    BeatAsk::Beat if self.away => BeatTold::Beat(Err(gone())),
                    BeatAsk::Nodes if self.away => BeatTold::Nodes(Err(gone())),
                    BeatAsk::MarkDead(who, _) if self.away => BeatTold::Marked(who, Err(gone())),
                    BeatAsk::Beat => BeatTold::Beat(self.store.beat(me).wait()),
                    BeatAsk::Nodes => BeatTold::Nodes(self.store.nodes().wait()),
                    BeatAsk::MarkDead(who, beat) => {
                        BeatTold::Marked(who, self.store.mark_dead(who, beat).wait())
                    }
                    _ => return,
                };
                self.post(back, Post::Beaten(node, told));
            }
            Post::Told(node, told) => match &mut self.seats[node] {
                Some(seat) if seat.frozen => self.post(now + self.way, Post::Told(node, told)),
                Some(seat) => seat.worker.handle_told(now, told),
                None => {}
            },
            Post::Beaten(node, told) => match &mut self.seats[node] {
                Some(seat) if seat.frozen => self.post(now + self.way, Post::Beaten(node, told)),
                Some(seat) => match told {
                    BeatTold::Beat(result) => seat.beat.handle_beat(now, result),
                    BeatTold::Nodes(result) => seat.beat.handle_nodes(now, result),
                    BeatTold::Marked(who, result) => seat.beat.handle_marked(who, result),
                },
                None => {}
            },
        }
    }

    fn do_ask(&mut self, ask: Ask) -> Told {
        if self.away {
            return told_error(&ask, Error::Unavailable("away".to_owned()));
        }
        if let Some(error) = self.refuse.and_then(|refuse| refuse(&ask)) {
            return told_error(&ask, error);
        }
        let unknown = told_error(&ask, Error::Unknown("the answer was lost".to_owned()));
        let told = Arc::new(Mutex::new(None));
        let cell = Arc::clone(&told);
        ask.submit(&self.store, move |answer| *cell.lock().unwrap() = Some(answer));
        let told = told.lock().unwrap().take().expect("a store in memory answers at once");
        if self.lose_answers > 0 {
            self.lose_answers -= 1;
            return unknown;
        }
        told
    }
}

pub fn name_of(ask: &Ask) -> &'static str {
    match ask {
        Ask::Activate(_) => "activate",
        Ask::Save(..) => "save",
        Ask::Release(..) => "release",
        Ask::Load(..) => "load",
        Ask::Commit(..) => "commit",
        Ask::LookUp(..) => "look up",
        Ask::Holdings(..) => "holdings",
        Ask::Record(..) => "record",
        _ => "other",
    }
}

fn told_error(ask: &Ask, error: Error) -> Told {
    match ask {
        Ask::Activate(asks) => {
            Told::Activated(asks.iter().map(|(id, _)| (*id, Err(error.clone()))).collect())
        }
        Ask::Save(id, save) => Told::Saved(*id, save.claim.epoch, Err(error)),
        Ask::Release(id, claim, _) => Told::Released(*id, claim.epoch, Err(error)),
        Ask::Load(id, epoch) => Told::Loaded(*id, *epoch, Err(error)),
        Ask::Commit(tag, _) => Told::Committed(*tag, Err(error)),
        Ask::LookUp(tag, _) => Told::LookedUp(*tag, Err(error)),
        Ask::Holdings(tag, _) => Told::Held(*tag, Err(error)),
        Ask::Record(tag, _) => Told::Record(*tag, Err(error)),
        _ => panic!("another request"),
    }
}

thread_local! {
    static SAID: Rc<RefCell<Vec<String>>> = Rc::default();
}

/// Adds a line to the trace of this test.
pub fn say(line: impl Into<String>) {
    SAID.with(|said| said.borrow_mut().push(line.into()));
}

/// Takes the trace.
pub fn said() -> Vec<String> {
    SAID.with(|said| said.take())
}
