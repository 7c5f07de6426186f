//! `bench calls-core`: what the two nodes themselves add to calls, without sockets and threads: both in
//! one loop, which hands the bytes of one to the other.

use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use cluster::{Directory, NodeInfo};
use env::{Clock, Random, WallTime};
use mesh::{Key, LinkId, Mesh, Output};
use node::session::{Bindings, Options};
use node::{CallError, HostOptions, Worker, WorkerParts};
use proto::link::WorkerId;
use proto::{Incarnation, KindId};
use rustix::time::{ClockId, clock_gettime};

use super::{Answerer, Asker};

/// Calls in flight.
const TOGETHER: u64 = 64;
/// Calls of each of them in a round.
const EACH: u64 = 2_000;
const ROUNDS: usize = 15;
const ASKING: Incarnation = Incarnation(7);
const ANSWERING: Incarnation = Incarnation(8);

/// A node and its end of the link.
struct Side {
    worker: Worker,
    link: Option<LinkId>,
    /// CPU time that it has used.
    took: Duration,
}

struct Pair {
    clock: Clock,
    /// CPU time of this thread so far.
    cpu: fn() -> Duration,
    asking: Side,
    answering: Side,
}

type Asked = Pin<Box<dyn Future<Output = Result<u64, CallError>>>>;

/// CPU time of this thread so far.
fn own_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

impl Side {
    fn new(clock: &Clock, name: &str, node: Incarnation) -> Self {
        let me = WorkerId { node, worker: 0 };
        let (key, random) = (Key::shared(&[7; 32]), Random::from_seed(node.0));
        let worker = Worker::new(WorkerParts {
            me,
            workers: 1,
            host: HostOptions::default(),
            sessions: Options::default(),
            bindings: Bindings::none(),
            mesh: Mesh::new(me, name, mesh::Options::default(), key, random),
            clock: clock.clone(),
            random: Random::from_seed(node.0 + 10),
            data: None,
        });
        Side { worker, link: None, took: Duration::ZERO }
    }

    fn work(&mut self, clock: &Clock, cpu: fn() -> Duration, bytes: &[u8]) {
        let (now, wall, began) = (clock.now(), clock.wall(), cpu());
        if let Some(link) = self.link {
            self.worker.handle_bytes(now, wall, link, bytes);
        }
        self.worker.turn(now, wall);
        self.took += cpu() - began;
    }

    /// What there is for the other side. `dialed` is called when it is to be dialed.
    fn take_bytes(
        &mut self,
        now: env::Instant,
        mut dialed: impl FnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        while let Some(output) = self.worker.mesh().poll_output() {
            match output {
                Output::Dial { link, .. } => {
                    self.link = Some(link);
                    self.worker.mesh().handle_connected(now, link);
                    dialed()?;
                }
                Output::Flush(link) => bytes = mem::take(self.worker.mesh().output(link)),
                Output::PeerUp(_) => {}
                other => bail!("the link does not hold: {other:?}"),
            }
        }
        Ok(bytes)
    }

    /// Gives back the memory of what was taken.
    fn recycle(&mut self, mut bytes: Vec<u8>) {
        bytes.clear();
        if let Some(link) = self.link {
            *self.worker.mesh().output(link) = bytes;
        }
    }
}

impl Pair {
    fn new(clock: Clock, cpu: fn() -> Duration) -> Self {
        let mut asking = Side::new(&clock, "asking", ASKING);
        let mut answering = Side::new(&clock, "answering", ANSWERING);
        asking.worker.host().register::<Asker>();
        answering.worker.host().register::<Answerer>();
        let node = |name: &str, node, kind| NodeInfo {
            kinds: vec![KindId::of(kind)],
            ..NodeInfo::new(name, node)
        };
        let nodes = [node("asking", ASKING, "asker"), node("answering", ANSWERING, "answerer")]
            .map(Arc::new);
        let directory = Arc::new(Directory::new(1, nodes));
        asking.worker.set_directory(directory.clone(), |_| false);
        answering.worker.set_directory(directory, |_| false);
        Pair { clock, cpu, asking, answering }
    }

    fn calls(&mut self, each: u64) -> anyhow::Result<()> {
        let outside = self.asking.worker.outside();
        let ask = |key| -> Asked {
            let outside = outside.clone();
            Box::pin(async move { outside.entity::<Asker>(key).ask(each).await })
        };
        let mut asked: Vec<Asked> = (0..TOGETHER).map(ask).collect();
        let context = &mut Context::from_waker(Waker::noop());
        let all_wait = asked.iter_mut().all(|asked| asked.as_mut().poll(context).is_pending());
        ensure!(all_wait, "nothing is answered before its node has worked");
        let (clock, cpu) = (&self.clock, self.cpu);
        self.asking.work(clock, cpu, &[]);
        loop {
            let answering = &mut self.answering;
            let calls = self.asking.take_bytes(clock.now(), || {
                let now = clock.now();
                answering.link = Some(answering.worker.mesh().handle_accepted(now)?);
                Ok(())
            })?;
            if calls.is_empty() {
                break;
            }
            answering.work(clock, cpu, &calls);
            self.asking.recycle(calls);
            let answers = answering
                .take_bytes(clock.now(), || bail!("answers go back over the same link"))?;
            self.asking.work(clock, cpu, &answers);
            self.answering.recycle(answers);
        }
        for asked in &mut asked {
            match asked.as_mut().poll(context) {
                Poll::Ready(right) => ensure!(right? == each, "a wrong answer"),
                Poll::Pending => bail!("calls are not answered"),
            }
        }
        Ok(())
    }
}

/// The best and the median of many rounds.
///
/// # Errors
///
/// A wrong answer.
pub fn run() -> anyhow::Result<bool> {
    let mut pair = Pair::new(Clock::system(), own_cpu);
    pair.calls(EACH)?;
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        (pair.asking.took, pair.answering.took) = (Duration::ZERO, Duration::ZERO);
        pair.calls(EACH)?;
        let nanos = |took: Duration| took.as_nanos() as f64 / (TOGETHER * EACH) as f64;
        rounds.push((nanos(pair.asking.took), nanos(pair.answering.took)));
    }
    let (asking, answering): (Vec<_>, Vec<_>) = rounds.into_iter().unzip();
    for (side, costs) in [("asking", asking), ("answering", answering)] {
        let best = costs.iter().copied().min_by(f64::total_cmp).context("there were rounds")?;
        let median = crate::entity::median(costs);
        println!("{side:>10}: best {best:.0} ns a call, median {median:.0} ns");
    }
    Ok(true)
}

/// `bench calls-count N`: that many calls of each of 64 on a clock that stands still, for a tool that
/// counts instructions.
///
/// # Errors
///
/// A wrong answer.
pub fn run_count(each: &str) -> anyhow::Result<bool> {
    // Nor is the CPU's time read: such a tool has its own.
    let mut pair = Pair::new(Clock::manual(WallTime(1)).0, || Duration::ZERO);
    pair.calls(each.parse()?)?;
    Ok(true)
}
