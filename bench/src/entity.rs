//! Local messages and calls of entities, next to plain loops and to ractor, kameo and actix, in
//! rounds that take turns; a million idle entities; calls between two workers.
//!
//! Times are CPU time: of the one thread that does the work, or of the process where two threads
//! do. A thousand entities are addressed at random. Memory is the growth of the resident set of
//! a fresh process that only makes the entities; calls between two workers have a fresh process in
//! each round, since its CPU is measured: what other subjects leave behind is not theirs.
//!
//! Goals in nanoseconds were set next to references that took so long; where those take longer in
//! the same run, the goals are as much higher.

mod across;

use std::collections::VecDeque;
use std::future::Future;
use std::hint::black_box;
use std::pin::pin;
use std::process::Command;
use std::task::{Context, Poll, Waker};

use anyhow::{Context as _, bail, ensure};
use env::{Clock, WallTime};
use node::rt::Cx;
use node::{Host, HostOptions, HostSetup, Ref};
use rustix::time::{ClockId, clock_gettime};

use macros::{entity, rpc};

const ENTITIES: u64 = 1_000;
const ROUNDS: usize = 7;
const IN_FLIGHT: u64 = 64;
const IDLE: usize = 1_000_000;
/// Peers are filled with fewer, since a million of theirs would not fit.
const IDLE_PEERS: usize = 100_000;
/// Tells between two rounds of handling.
const BURST: u64 = 256;

const GOAL_TELL: f64 = 30.0;
const GOAL_CALL: f64 = 60.0;
const GOAL_ACROSS: f64 = 300.0;
/// Nanoseconds of the references on the machine for which these goals are meant: the loop with a
/// mailbox, the slab, Tokio's channels.
const THEN_TELL: f64 = 10.0;
const THEN_CALL: f64 = 2.0;
const THEN_ACROSS: f64 = 265.0;
const GOAL_IDLE_BYTES: f64 = 300.0;
const GOAL_SPAWN_SECONDS: f64 = 1.0;

/// Tells a child process of this benchmark what to measure: the name of a subject, of which a
/// million are made, or one of the two below.
const PART: &str = "MAINSTAY_BENCH_ENTITY_PART";
/// What a child process says: bytes and nanoseconds of one.
const PART_LINE: &str = "bytes and nanoseconds of one: ";
const ACROSS: &str = "calls between workers";
const CHANNELS: &str = "calls over channels";

/// What is measured, the engine's own first, then the plain loops.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Subject {
    Mainstay,
    Plain,
    Actix,
    Ractor,
    Kameo,
}

const SUBJECTS: [Subject; 5] =
    [Subject::Mainstay, Subject::Plain, Subject::Actix, Subject::Ractor, Subject::Kameo];

/// Nanoseconds of CPU for one message.
#[derive(Clone, Copy, Debug)]
struct Costs {
    tell: f64,
    call: f64,
}

/// Measures and prints the tables. Returns whether every goal is met.
///
/// # Errors
/// If a child process cannot be started, or counts come out wrong.
pub fn run() -> anyhow::Result<bool> {
    if let Ok(part) = std::env::var(PART) {
        let (bytes, nanos) = measure_part(&part)?;
        println!("{PART_LINE}{bytes} {nanos}");
        return Ok(true);
    }
    println!(
        "Messages to {ENTITIES} entities on one worker; ns of CPU each, medians of {ROUNDS} rounds"
    );
    let mut rounds: Vec<Vec<Costs>> = vec![Vec::new(); SUBJECTS.len()];
    let mut across: Vec<(f64, f64)> = Vec::new();
    let mut later: Vec<f64> = Vec::new();
    for round in 0..ROUNDS {
        for turn in 0..SUBJECTS.len() {
            // Each round begins with another one, so that none always comes after the same.
            let at = (round + turn) % SUBJECTS.len();
            rounds[at].push(SUBJECTS[at].measure()?);
        }
        across.push((in_child(ACROSS)?.1, in_child(CHANNELS)?.1));
        later.push(own::measure_async()?);
    }
    let idle: Vec<(f64, f64)> =
        SUBJECTS.iter().map(|subject| in_child(subject.name())).collect::<anyhow::Result<_>>()?;
    let medians: Vec<Costs> = rounds
        .iter()
        .map(|costs| Costs {
            tell: median(costs.iter().map(|costs| costs.tell).collect()),
            call: median(costs.iter().map(|costs| costs.call).collect()),
        })
        .collect();
    println!("\n| | tell | call and answer | idle entity, bytes over its state | spawn, ns |");
    println!("|---|--:|--:|--:|--:|");
    for ((subject, costs), (bytes, nanos)) in SUBJECTS.iter().zip(&medians).zip(&idle) {
        let Costs { tell, call } = costs;
        println!("| {} | {tell:.1} | {call:.1} | {bytes:.0} | {nanos:.0} |", subject.name());
    }
    println!(
        "\nCall and answer of mainstay's, if the method is an `async fn`: {:.1} ns",
        median(later)
    );
    println!("\nRounds (tell/call)");
    for (subject, rounds) in SUBJECTS.iter().zip(&rounds) {
        let each = rounds.iter().map(|costs| format!("{:.0}/{:.0}", costs.tell, costs.call));
        println!("{:>10}: {}", subject.name(), each.collect::<Vec<_>>().join(" "));
    }
    let each = across.iter().map(|(own, channels)| format!("{own:.0}/{channels:.0}"));
    println!("to another worker, over channels: {}", each.collect::<Vec<_>>().join(" "));
    let own_across = median(across.iter().map(|pair| pair.0).collect());
    let channels = median(across.iter().map(|pair| pair.1).collect());
    println!("\n| goal | mainstay | reference | ratio | goal | |");
    println!("|---|--:|--:|--:|--:|---|");
    let spawn_seconds = idle[0].1 * IDLE as f64 / 1e9;
    let goals = [
        Goal::new("tell, ns (own mailbox loop)", medians[0].tell, medians[1].tell, GOAL_TELL)
            .where_it_took(THEN_TELL),
        Goal::new(
            "call and answer, ns (slab and dyn call)",
            medians[0].call,
            medians[1].call,
            GOAL_CALL,
        )
        .where_it_took(THEN_CALL),
        Goal::new(
            "call to another worker, 64 in flight, ns (Tokio channels)",
            own_across,
            channels,
            GOAL_ACROSS,
        )
        .where_it_took(THEN_ACROSS),
        Goal::new("idle entity, bytes (slab)", idle[0].0, idle[1].0, GOAL_IDLE_BYTES),
        Goal::new(
            "spawn a million, s (slab)",
            spawn_seconds,
            idle[1].1 * IDLE as f64 / 1e9,
            GOAL_SPAWN_SECONDS,
        ),
    ];
    goals.iter().for_each(Goal::print);
    Ok(goals.iter().all(Goal::is_met))
}

/// `bench entity-core`: the engine's own tells and calls again and again, for a profiler.
///
/// # Errors
/// If counts come out wrong.
pub fn run_core() -> anyhow::Result<bool> {
    for _ in 0..ROUNDS {
        let (Costs { tell, call }, later) = (own::measure()?, own::measure_async()?);
        println!(
            "tell {tell:.1} ns, call and answer {call:.1} ns, of an async method {later:.1} ns"
        );
    }
    Ok(true)
}

/// `bench entity-count tells N` (or `calls`, `async`): that many messages of the engine's own on a clock that stands
/// still, for a tool that counts instructions.
///
/// # Errors
/// If there is no such message, or counts come out wrong.
pub fn run_count(what: &str, count: &str) -> anyhow::Result<bool> {
    own::count(what, count.parse()?)?;
    Ok(true)
}

pub use across::run_core as run_across;

struct Goal {
    what: &'static str,
    own: f64,
    reference: f64,
    goal: f64,
    /// How much slower the reference is than where the goal was set; 1 if it is not.
    slower: f64,
}

impl Goal {
    fn new(what: &'static str, own: f64, reference: f64, goal: f64) -> Self {
        Goal { what, own, reference, goal, slower: 1.0 }
    }

    /// The goal is meant for a machine where the reference takes `nanos`: on one where it takes more,
    /// or in a minute when it does, the goal is as much higher. It is never lower.
    fn where_it_took(mut self, nanos: f64) -> Self {
        self.slower = (self.reference / nanos).max(1.0);
        self
    }

    fn here(&self) -> f64 {
        self.goal * self.slower
    }

    fn is_met(&self) -> bool {
        self.own <= self.here()
    }

    fn print(&self) {
        let Goal { what, own, reference, goal, slower } = self;
        let verdict = if !self.is_met() {
            format!("missed by {:.2}x", own / self.here())
        } else if own > goal {
            format!("met: {:.1} where the reference is {slower:.2} times slower", self.here())
        } else {
            "met".to_owned()
        };
        let ratio = own / reference;
        println!("| {what} | {own:.2} | {reference:.2} | {ratio:.1} | <= {goal} | {verdict} |");
    }
}

impl Subject {
    fn name(self) -> &'static str {
        match self {
            Subject::Mainstay => "mainstay",
            Subject::Plain => "plain loop",
            Subject::Actix => "actix",
            Subject::Ractor => "ractor",
            Subject::Kameo => "kameo",
        }
    }

    fn measure(self) -> anyhow::Result<Costs> {
        match self {
            Subject::Mainstay => own::measure(),
            Subject::Plain => Ok(plain::measure()),
            Subject::Actix => Ok(peers::actix()),
            Subject::Ractor => peers::ractor(),
            Subject::Kameo => peers::kameo(),
        }
    }

    /// Makes many entities; bytes over their state and nanoseconds for each.
    fn fill(self) -> anyhow::Result<(f64, f64)> {
        match self {
            Subject::Mainstay => own::fill(),
            Subject::Plain => plain::fill(),
            Subject::Actix => peers::fill_actix(),
            Subject::Ractor => peers::fill_ractor(),
            Subject::Kameo => peers::fill_kameo(),
        }
    }
}

/// Measures a part of this benchmark in a fresh process: bytes and nanoseconds of one.
fn in_child(part: &str) -> anyhow::Result<(f64, f64)> {
    let mut child = Command::new(std::env::current_exe()?);
    let output = child.args(std::env::args_os().skip(1)).env(PART, part).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    let line = text.lines().find_map(|line| line.strip_prefix(PART_LINE));
    let (bytes, nanos) =
        line.and_then(|line| line.split_once(' ')).context("no answer from a child process")?;
    Ok((bytes.parse()?, nanos.parse()?))
}

/// What a child process measures.
fn measure_part(part: &str) -> anyhow::Result<(f64, f64)> {
    match part {
        ACROSS => Ok((0.0, across::measure()?)),
        CHANNELS => Ok((0.0, across::channels()?)),
        name => {
            let subject = SUBJECTS.iter().find(|subject| subject.name() == name);
            subject.context("no such subject")?.fill()
        }
    }
}

/// Entities in a random order, the same for all subjects.
struct Order(u64);

impl Order {
    fn new() -> Self {
        Order(1)
    }

    #[inline]
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % ENTITIES
    }
}

/// Runs `work` and divides this thread's CPU time by `count`.
fn timed<T>(count: u64, work: impl FnOnce() -> T) -> f64 {
    timed_by(ClockId::ThreadCPUTime, count, work)
}

fn timed_by<T>(clock: ClockId, count: u64, work: impl FnOnce() -> T) -> f64 {
    let read = || {
        let time = clock_gettime(clock);
        time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
    };
    let before = read();
    black_box(work());
    (read() - before) / count as f64
}

/// The middle one.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Bytes of this process in memory.
fn resident() -> anyhow::Result<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let Some(pages) = statm.split_whitespace().nth(1) else { bail!("statm has no second field") };
    Ok(pages.parse::<u64>()? * rustix::param::page_size() as u64)
}

/// Makes `count` things with `make`, which keeps them; bytes over `state` and nanoseconds each.
fn filled<T>(count: usize, state: usize, make: impl FnOnce() -> T) -> anyhow::Result<(f64, f64)> {
    let before = resident()?;
    let mut kept = None;
    let nanos = timed(count as u64, || kept = Some(make()));
    let bytes = resident()?.saturating_sub(before) as f64 / count as f64 - state as f64;
    drop(kept);
    Ok((bytes, nanos))
}

/// The engine, through the code that its attributes generate.
mod own {
    use super::*;

    /// Counts; 64 bytes of state, as in all subjects.
    #[entity(root = node::rt)]
    #[derive(Default)]
    pub struct Counter {
        n: u64,
        _rest: [u64; 7],
    }

    #[rpc(root = node::rt)]
    impl Counter {
        #[tell(server)]
        fn bump(&mut self, n: u64) {
            self.n = self.n.wrapping_add(n);
        }

        #[invoke]
        fn add(&mut self, n: u64) -> u64 {
            self.n = self.n.wrapping_add(n);
            self.n
        }

        /// Could wait, but does not.
        #[invoke]
        async fn add_later(&mut self, n: u64) -> u64 {
            self.n = self.n.wrapping_add(n);
            self.n
        }
    }

    /// Sends.
    #[entity(root = node::rt)]
    #[derive(Default)]
    pub struct Driver;

    #[rpc(root = node::rt)]
    impl Driver {
        #[invoke(deadline = "10m")]
        async fn tells(&mut self, cx: &mut Cx<Self>, count: u64) -> u64 {
            let mut order = Order::new();
            let mut taken = 0;
            for at in 0..count {
                taken += u64::from(cx.entity::<Counter>(order.next()).bump(at).is_ok());
                if at % BURST == BURST - 1 {
                    cx.next_turn().await;
                }
            }
            taken
        }

        #[invoke(deadline = "10m")]
        async fn calls(&mut self, cx: &mut Cx<Self>, count: u64) -> u64 {
            let mut order = Order::new();
            let mut answered = 0;
            for at in 0..count {
                answered += u64::from(cx.entity::<Counter>(order.next()).add(at).await.is_ok());
            }
            answered
        }

        #[invoke(deadline = "10m")]
        async fn async_calls(&mut self, cx: &mut Cx<Self>, count: u64) -> u64 {
            let mut order = Order::new();
            let mut answered = 0;
            for at in 0..count {
                let counter = cx.entity::<Counter>(order.next());
                answered += u64::from(counter.add_later(at).await.is_ok());
            }
            answered
        }
    }

    /// Runs a host until `future` is done.
    pub fn drive<F: Future>(host: &mut Host, clock: &Clock, future: F) -> F::Output {
        let mut future = pin!(future);
        loop {
            let polled = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            if let Poll::Ready(output) = polled {
                return output;
            }
            host.turn(clock.now(), clock.wall());
        }
    }

    /// A host with all entities.
    struct Rig {
        host: Host,
        clock: Clock,
    }

    impl Rig {
        fn new(clock: Clock) -> anyhow::Result<Self> {
            let mut host = Host::new(HostOptions::default(), HostSetup::alone(clock.clone(), 1));
            host.register::<Counter>();
            host.register::<Driver>();
            let outside = host.outside();
            for key in 0..ENTITIES {
                outside.entity::<Counter>(key).bump(0)?;
            }
            let mut rig = Rig { host, clock };
            rig.run("tells", 10_000)?;
            Ok(rig)
        }

        fn run(&mut self, what: &str, count: u64) -> anyhow::Result<()> {
            let outside = self.host.outside();
            let done = drive(&mut self.host, &self.clock, async {
                let driver = outside.entity::<Driver>(0);
                match what {
                    "tells" => driver.tells(count).await,
                    "calls" => driver.calls(count).await,
                    _ => driver.async_calls(count).await,
                }
            })?;
            ensure!(done == count, "{done} of {count}");
            Ok(())
        }
    }

    pub fn count(what: &str, count: u64) -> anyhow::Result<()> {
        ensure!(["tells", "calls", "async"].contains(&what), "tells, calls or async");
        Rig::new(Clock::manual(WallTime(1)).0)?.run(what, count)
    }

    pub fn measure() -> anyhow::Result<Costs> {
        let mut rig = Rig::new(Clock::system())?;
        let (count, mut failed) = (1_000_000, Ok(()));
        let mut measure = |what| {
            timed(count, || {
                failed = std::mem::replace(&mut failed, Ok(())).and(rig.run(what, count))
            })
        };
        let (tell, call) = (measure("tells"), measure("calls"));
        failed?;
        Ok(Costs { tell, call })
    }

    /// A call of a method that could wait.
    pub fn measure_async() -> anyhow::Result<f64> {
        let mut rig = Rig::new(Clock::system())?;
        let (count, mut done) = (1_000_000, Ok(()));
        let nanos = timed(count, || done = rig.run("async", count));
        done.map(|()| nanos)
    }

    pub fn fill() -> anyhow::Result<(f64, f64)> {
        let clock = Clock::system();
        let mut host = Host::new(HostOptions::default(), HostSetup::alone(clock, 1));
        host.register::<Counter>();
        let outside = host.outside();
        let mut last = None;
        let filled = filled(IDLE, size_of::<Counter>(), || {
            for _ in 0..IDLE {
                last = outside.spawn(Counter::default()).ok();
            }
        })?;
        let stats = host.stats();
        ensure!(
            stats.kinds[0].entities == IDLE
                && last.is_some_and(|last: Ref<Counter>| host.find(last.id()).is_some())
        );
        Ok(filled)
    }
}

/// What the work itself costs: a mailbox of its own per entity in one loop for tells, a virtual
/// call by position for calls.
mod plain {
    use super::*;

    trait Handles {
        fn handle(&mut self, method: u16, n: u64) -> u64;
    }

    struct Counter {
        n: u64,
        _rest: [u64; 7],
    }

    impl Handles for Counter {
        #[inline(never)]
        fn handle(&mut self, method: u16, n: u64) -> u64 {
            if method == 1 {
                self.n = self.n.wrapping_add(n);
            }
            self.n
        }
    }

    struct Mailbox {
        state: Counter,
        queue: VecDeque<(u16, u64, Option<u32>)>,
        ready: bool,
    }

    fn counter() -> Counter {
        Counter { n: 0, _rest: [0; 7] }
    }

    fn mailboxes(count: u64) -> Vec<Mailbox> {
        let mailbox = |_| Mailbox { state: counter(), queue: VecDeque::new(), ready: false };
        (0..count).map(mailbox).collect()
    }

    pub fn measure() -> Costs {
        let count = 5_000_000;
        let mut entities = mailboxes(ENTITIES);
        let mut ready = VecDeque::new();
        let tell = timed(count, || {
            let mut order = Order::new();
            for at in 0..count {
                let key = order.next() as u32;
                let entity = &mut entities[key as usize];
                entity.queue.push_back((1, at, None));
                if !std::mem::replace(&mut entity.ready, true) {
                    ready.push_back(key);
                }
                if at % BURST < BURST - 1 {
                    continue;
                }
                while let Some(key) = ready.pop_front() {
                    let entity = &mut entities[key as usize];
                    entity.ready = false;
                    while let Some((method, n, answer)) = entity.queue.pop_front() {
                        let result = entity.state.handle(method, n);
                        if answer.is_some() {
                            black_box(result);
                        }
                    }
                }
            }
        });
        let mut slab: Vec<Box<dyn Handles>> =
            (0..ENTITIES).map(|_| Box::new(counter()) as Box<dyn Handles>).collect();
        let call = timed(count, || {
            let mut order = Order::new();
            (0..count).fold(0, |sum, at| sum ^ slab[order.next() as usize].handle(1, at))
        });
        Costs { tell, call }
    }

    pub fn fill() -> anyhow::Result<(f64, f64)> {
        filled(IDLE, size_of::<Counter>(), || mailboxes(IDLE as u64))
    }
}

/// Actor libraries, each on one thread, addressed by their own handles.
mod peers {
    use super::*;

    const TELLS: u64 = 200_000;
    const CALLS: u64 = 50_000;

    fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
        Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
    }

    mod ractor_counter {
        use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};

        pub struct Counter;

        pub enum Message {
            Bump(u64),
            Add(u64, RpcReplyPort<u64>),
        }

        impl Actor for Counter {
            type Msg = Message;
            type State = [u64; 8];
            type Arguments = ();

            async fn pre_start(
                &self,
                _: ActorRef<Message>,
                (): (),
            ) -> Result<[u64; 8], ActorProcessingErr> {
                Ok([0; 8])
            }

            async fn handle(
                &self,
                _: ActorRef<Message>,
                message: Message,
                state: &mut [u64; 8],
            ) -> Result<(), ActorProcessingErr> {
                match message {
                    Message::Bump(n) => state[0] = state[0].wrapping_add(n),
                    Message::Add(n, answer) => {
                        state[0] = state[0].wrapping_add(n);
                        let _ = answer.send(state[0]);
                    }
                }
                Ok(())
            }
        }
    }

    async fn ractors(count: usize) -> Vec<ractor::ActorRef<ractor_counter::Message>> {
        let mut actors = Vec::with_capacity(count);
        for _ in 0..count {
            let spawned = ractor::Actor::spawn(None, ractor_counter::Counter, ()).await;
            actors.push(spawned.expect("an actor starts").0);
        }
        actors
    }

    pub fn ractor() -> anyhow::Result<Costs> {
        use ractor_counter::Message;
        runtime()?.block_on(async {
            let actors = ractors(ENTITIES as usize).await;
            let at = |order: &mut Order| &actors[order.next() as usize];
            let drained = async || {
                for actor in &actors {
                    ractor::call!(actor, Message::Add, 0).expect("it answers");
                }
            };
            drained().await;
            let before = cpu();
            let mut order = Order::new();
            for n in 0..TELLS {
                at(&mut order).cast(Message::Bump(n)).expect("it lives");
                if n % BURST == BURST - 1 {
                    tokio::task::yield_now().await;
                }
            }
            drained().await;
            let tell = (cpu() - before) / TELLS as f64;
            let before = cpu();
            for n in 0..CALLS {
                ractor::call!(at(&mut order), Message::Add, n).expect("it answers");
            }
            Ok(Costs { tell, call: (cpu() - before) / CALLS as f64 })
        })
    }

    mod kameo_counter {
        use kameo::prelude::{Actor, ActorRef, Context, Message};

        pub struct Counter(pub [u64; 8]);

        impl Actor for Counter {
            type Args = Self;
            type Error = std::convert::Infallible;

            async fn on_start(state: Self, _: ActorRef<Self>) -> Result<Self, Self::Error> {
                Ok(state)
            }
        }

        pub struct Add(pub u64);

        impl Message<Add> for Counter {
            type Reply = u64;

            async fn handle(&mut self, add: Add, _: &mut Context<Self, u64>) -> u64 {
                self.0[0] = self.0[0].wrapping_add(add.0);
                self.0[0]
            }
        }
    }

    fn kameos(count: usize) -> Vec<kameo::actor::ActorRef<kameo_counter::Counter>> {
        use kameo::actor::Spawn;
        let spawn = |_| {
            let mailbox = kameo::mailbox::unbounded();
            kameo_counter::Counter::spawn_with_mailbox(kameo_counter::Counter([0; 8]), mailbox)
        };
        (0..count).map(spawn).collect()
    }

    pub fn kameo() -> anyhow::Result<Costs> {
        use kameo_counter::Add;
        runtime()?.block_on(async {
            let actors = kameos(ENTITIES as usize);
            let at = |order: &mut Order| &actors[order.next() as usize];
            let drained = async || {
                for actor in &actors {
                    actor.ask(Add(0)).await.expect("it answers");
                }
            };
            drained().await;
            let before = cpu();
            let mut order = Order::new();
            for n in 0..TELLS {
                at(&mut order).tell(Add(n)).await.expect("it lives");
                if n % BURST == BURST - 1 {
                    tokio::task::yield_now().await;
                }
            }
            drained().await;
            let tell = (cpu() - before) / TELLS as f64;
            let before = cpu();
            for n in 0..CALLS {
                at(&mut order).ask(Add(n)).await.expect("it answers");
            }
            Ok(Costs { tell, call: (cpu() - before) / CALLS as f64 })
        })
    }

    mod actix_counter {
        use actix::{Actor, Context, Handler, Message};

        pub struct Counter(pub [u64; 8]);

        impl Actor for Counter {
            type Context = Context<Self>;

            fn started(&mut self, context: &mut Context<Self>) {
                context.set_mailbox_capacity(4_096);
            }
        }

        pub struct Add(pub u64);

        impl Message for Add {
            type Result = u64;
        }

        impl Handler<Add> for Counter {
            type Result = u64;

            fn handle(&mut self, add: Add, _: &mut Context<Self>) -> u64 {
                self.0[0] = self.0[0].wrapping_add(add.0);
                self.0[0]
            }
        }
    }

    fn actixes(count: usize) -> Vec<actix::Addr<actix_counter::Counter>> {
        use actix::Actor as _;
        (0..count).map(|_| actix_counter::Counter([0; 8]).start()).collect()
    }

    pub fn actix() -> Costs {
        use actix_counter::Add;
        actix::System::new().block_on(async {
            let actors = actixes(ENTITIES as usize);
            let at = |order: &mut Order| &actors[order.next() as usize];
            let drained = async || {
                for actor in &actors {
                    actor.send(Add(0)).await.expect("it answers");
                }
            };
            drained().await;
            let before = cpu();
            let mut order = Order::new();
            for n in 0..TELLS {
                at(&mut order).do_send(Add(n));
                if n % BURST == BURST - 1 {
                    tokio::task::yield_now().await;
                }
            }
            drained().await;
            let tell = (cpu() - before) / TELLS as f64;
            let before = cpu();
            for n in 0..CALLS {
                at(&mut order).send(Add(n)).await.expect("it answers");
            }
            Costs { tell, call: (cpu() - before) / CALLS as f64 }
        })
    }

    pub fn fill_ractor() -> anyhow::Result<(f64, f64)> {
        let runtime = runtime()?;
        filled(IDLE_PEERS, 64, || runtime.block_on(ractors(IDLE_PEERS)))
    }

    pub fn fill_kameo() -> anyhow::Result<(f64, f64)> {
        let runtime = runtime()?;
        filled(IDLE_PEERS, 64, || {
            runtime.block_on(async {
                let actors = kameos(IDLE_PEERS);
                for actor in &actors {
                    actor.ask(kameo_counter::Add(0)).await.expect("it answers");
                }
                actors
            })
        })
    }

    pub fn fill_actix() -> anyhow::Result<(f64, f64)> {
        let system = actix::System::new();
        filled(IDLE_PEERS, 64, || {
            system.block_on(async {
                let actors = actixes(IDLE_PEERS);
                for actor in &actors {
                    actor.send(actix_counter::Add(0)).await.expect("it answers");
                }
                actors
            })
        })
    }

    /// This thread's CPU time in nanoseconds.
    fn cpu() -> f64 {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
    }
}
