//! One million timers: insert and cancel on the engine's wheel, next to a Tokio task that sleeps
//! and to a sorted map, in rounds that take turns.
//!
//! Times are CPU time of the one thread that does the work, so that a busy machine does not
//! change the ratio. Deadlines are spread evenly over an hour. Memory is the growth of the
//! resident set of a fresh process that only sets the timers.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::future::Future;
use std::pin::Pin;
use std::process::Command;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use env::{Instant, Random, TimerKey, Wheel};
use rustix::time::{ClockId, clock_gettime};

use crate::entity::median;

const TIMERS: usize = 1_000_000;
const ROUNDS: usize = 7;
const SPREAD_MS: u64 = 3_600_000;
/// How many times cheaper than Tokio insert and cancel shall be.
const GOAL_RATIO: f64 = 10.0;
const GOAL_BYTES: f64 = 64.0;
/// Tells a child process of this benchmark which structure to fill.
const MEMORY_OF: &str = "MAINSTAY_BENCH_TIMERS_MEMORY";
/// How that child begins the line with its answer.
const BYTES_LINE: &str = "bytes of one timer: ";

/// What a timer carries, here as in a worker: a slot and a number.
type Payload = (u32, u32);

/// What is measured, the engine's own first.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Subject {
    Wheel,
    SortedMap,
    SleepTask,
    SleepFuture,
}

const SUBJECTS: [Subject; 4] =
    [Subject::Wheel, Subject::SortedMap, Subject::SleepTask, Subject::SleepFuture];

/// Nanoseconds for one timer; `NAN` where a structure has no such step.
#[derive(Clone, Copy, Debug)]
struct Costs {
    insert: f64,
    cancel: f64,
    cancel_shuffled: f64,
    fire: f64,
    /// One advance of a tick in which nothing is due, a million timers waiting.
    idle_tick: f64,
}

/// Measures and prints the tables. Returns whether every goal is met.
///
/// # Errors
/// If a child process cannot be started, or counts come out wrong.
pub fn run() -> anyhow::Result<bool> {
    if let Ok(name) = std::env::var(MEMORY_OF) {
        let subject = SUBJECTS.iter().find(|subject| subject.name() == name);
        println!("{BYTES_LINE}{}", resident_growth(*subject.context("an unknown structure")?)?);
        return Ok(true);
    }
    println!("One million timers, deadlines spread over an hour, wheel tick 10 ms");
    let deadlines = deadlines();
    let order = shuffled_order();
    let mut rounds: Vec<Vec<Costs>> = vec![Vec::new(); SUBJECTS.len()];
    for round in 0..ROUNDS {
        for turn in 0..SUBJECTS.len() {
            // Each round begins with another one, so that none always comes after the same.
            let at = (round + turn) % SUBJECTS.len();
            rounds[at].push(SUBJECTS[at].measure(&deadlines, &order)?);
        }
    }
    let bytes = SUBJECTS.map(|subject| subject.bytes_in_child());
    let bytes = bytes.into_iter().collect::<anyhow::Result<Vec<f64>>>()?;
    let medians: Vec<Costs> = rounds.iter().map(|costs| median_costs(costs)).collect();
    print_table(&medians, &bytes);
    print_rounds(&rounds);
    Ok(print_goals(&medians, &bytes))
}

impl Subject {
    fn name(self) -> &'static str {
        match self {
            Subject::Wheel => "mainstay wheel",
            Subject::SortedMap => "BTreeMap",
            Subject::SleepTask => "tokio sleep task",
            Subject::SleepFuture => "tokio bare Sleep",
        }
    }

    fn measure(self, deadlines: &[u64], order: &[usize]) -> anyhow::Result<Costs> {
        match self {
            Subject::Wheel => wheel(deadlines, order),
            Subject::SortedMap => sorted_map(deadlines, order),
            Subject::SleepTask => sleep_tasks(deadlines, order),
            Subject::SleepFuture => sleep_futures(deadlines, order),
        }
    }

    fn bytes_in_child(self) -> anyhow::Result<f64> {
        let mut child = Command::new(std::env::current_exe()?);
        let output =
            child.args(std::env::args_os().skip(1)).env(MEMORY_OF, self.name()).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout)?;
        let line = text.lines().find_map(|line| line.strip_prefix(BYTES_LINE));
        line.context("no bytes from a child process")?.parse().context("bytes of a child process")
    }
}

fn wheel(deadlines: &[u64], order: &[usize]) -> anyhow::Result<Costs> {
    let start = Instant::from_nanos(1_000_000_000);
    let fill = |wheel: &mut Wheel<Payload>| -> Vec<TimerKey> {
        let at = |ms: u64| start + Duration::from_millis(ms);
        deadlines.iter().map(|ms| wheel.insert(at(*ms), (*ms as u32, 0))).collect()
    };
    let mut wheel = Wheel::new(start, Wheel::<Payload>::TICK);
    let (insert, keys) = timed(|| fill(&mut wheel));
    let (cancel, hits) = timed(|| keys.iter().filter(|key| wheel.cancel(**key).is_some()).count());
    ensure!(hits == TIMERS && wheel.is_empty());
    let keys = fill(&mut wheel);
    let (cancel_shuffled, hits) =
        timed(|| order.iter().filter(|at| wheel.cancel(keys[**at]).is_some()).count());
    ensure!(hits == TIMERS);
    fill(&mut wheel);
    // Deadlines begin at one second: the first 50 ticks fire nothing.
    let (idle, ()) = timed(|| {
        for tick in 1..=50 {
            wheel.advance(start + Wheel::<Payload>::TICK * tick, |_, _| ());
        }
    });
    let mut fired = 0u64;
    let (fire, ()) = timed(|| {
        for tick in 51..=(SPREAD_MS / 10 + 200) as u32 {
            wheel.advance(start + Wheel::<Payload>::TICK * tick, |_, _| fired += 1);
        }
    });
    ensure!(fired == TIMERS as u64 && wheel.is_empty(), "{fired} timers fired");
    Ok(Costs { insert, cancel, cancel_shuffled, fire, idle_tick: idle * TIMERS as f64 / 50.0 })
}

fn sorted_map(deadlines: &[u64], order: &[usize]) -> anyhow::Result<Costs> {
    let fill = |map: &mut BTreeMap<(u64, u32), Payload>| -> Vec<(u64, u32)> {
        let keys = deadlines.iter().enumerate().map(|(at, ms)| {
            map.insert((*ms, at as u32), (at as u32, 0));
            (*ms, at as u32)
        });
        keys.collect()
    };
    let mut map = BTreeMap::new();
    let (insert, keys) = timed(|| fill(&mut map));
    let (cancel, hits) = timed(|| keys.iter().filter(|key| map.remove(key).is_some()).count());
    ensure!(hits == TIMERS);
    let keys = fill(&mut map);
    let (cancel_shuffled, hits) =
        timed(|| order.iter().filter(|at| map.remove(&keys[**at]).is_some()).count());
    ensure!(hits == TIMERS);
    fill(&mut map);
    let (fire, fired) = timed(|| std::iter::from_fn(|| map.pop_first()).count());
    ensure!(fired == TIMERS);
    Ok(Costs { insert, cancel, cancel_shuffled, fire, idle_tick: f64::NAN })
}

/// Spawns a task that sleeps and lets it run until it waits; cancels by aborting it and letting
/// the runtime drop it.
fn sleep_tasks(deadlines: &[u64], order: &[usize]) -> anyhow::Result<Costs> {
    let runtime = tokio_runtime()?;
    let fill = || {
        runtime.block_on(async {
            let sleep = |ms: &u64| tokio::time::sleep(Duration::from_millis(*ms));
            let tasks: Vec<_> = deadlines.iter().map(|ms| tokio::spawn(sleep(ms))).collect();
            // Queued behind all of them: when this has run, so have they.
            tokio::spawn(async {}).await.expect("an empty task");
            tasks
        })
    };
    let drained = || {
        runtime.block_on(async {
            while runtime.handle().metrics().num_alive_tasks() > 0 {
                tokio::task::yield_now().await;
            }
        });
    };
    let (insert, tasks) = timed(fill);
    ensure!(runtime.handle().metrics().num_alive_tasks() == TIMERS);
    let (cancel, ()) = timed(|| {
        tasks.iter().for_each(|task| task.abort());
        drained();
    });
    drop(tasks);
    let tasks = fill();
    let (cancel_shuffled, ()) = timed(|| {
        order.iter().for_each(|at| tasks[*at].abort());
        drained();
    });
    Ok(Costs { insert, cancel, cancel_shuffled, fire: f64::NAN, idle_tick: f64::NAN })
}

/// The timer of Tokio without a task: a boxed `Sleep`, polled once; cancelled by dropping it.
fn sleep_futures(deadlines: &[u64], order: &[usize]) -> anyhow::Result<Costs> {
    let runtime = tokio_runtime()?;
    let _inside = runtime.enter();
    let fill = || {
        let mut context = Context::from_waker(Waker::noop());
        let sleeps = deadlines.iter().map(|ms| {
            let mut sleep = Box::pin(tokio::time::sleep(Duration::from_millis(*ms)));
            let polled = sleep.as_mut().poll(&mut context);
            assert!(polled.is_pending(), "it sleeps for a second at least");
            Some(sleep)
        });
        sleeps.collect::<Vec<Option<Pin<Box<tokio::time::Sleep>>>>>()
    };
    let (insert, mut sleeps) = timed(fill);
    let (cancel, ()) = timed(|| sleeps.iter_mut().for_each(|sleep| *sleep = None));
    let mut sleeps = {
        drop(sleeps);
        fill()
    };
    let (cancel_shuffled, ()) = timed(|| order.iter().for_each(|at| sleeps[*at] = None));
    Ok(Costs { insert, cancel, cancel_shuffled, fire: f64::NAN, idle_tick: f64::NAN })
}

fn tokio_runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_time().build()?)
}

/// Fills one structure in this fresh process; how much the process grew for each timer.
fn resident_growth(subject: Subject) -> anyhow::Result<f64> {
    let deadlines = deadlines();
    // The handles are the user's: their room is taken beforehand and not counted.
    let before;
    let after = match subject {
        Subject::Wheel => {
            let mut keys = vec![TimerKey::default(); TIMERS];
            let start = Instant::ZERO;
            before = resident()?;
            let mut wheel = Wheel::new(start, Wheel::<Payload>::TICK);
            for (key, ms) in keys.iter_mut().zip(&deadlines) {
                *key = wheel.insert(start + Duration::from_millis(*ms), (*ms as u32, 0));
            }
            let after = resident()?;
            ensure!(wheel.len() == TIMERS);
            after
        }
        Subject::SortedMap => {
            before = resident()?;
            let mut map: BTreeMap<(u64, u32), Payload> = BTreeMap::new();
            for (at, ms) in deadlines.iter().enumerate() {
                map.insert((*ms, at as u32), (at as u32, 0));
            }
            let after = resident()?;
            ensure!(map.len() == TIMERS);
            after
        }
        Subject::SleepTask => {
            let runtime = tokio_runtime()?;
            before = resident()?;
            runtime.block_on(async {
                for ms in &deadlines {
                    drop(tokio::spawn(tokio::time::sleep(Duration::from_millis(*ms))));
                }
                tokio::spawn(async {}).await.expect("an empty task");
            });
            resident()?
        }
        Subject::SleepFuture => {
            let runtime = tokio_runtime()?;
            let _inside = runtime.enter();
            let mut sleeps = Vec::with_capacity(TIMERS);
            before = resident()?;
            for ms in &deadlines {
                let mut sleep = Box::pin(tokio::time::sleep(Duration::from_millis(*ms)));
                let polled = sleep.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                ensure!(matches!(polled, Poll::Pending));
                sleeps.push(sleep);
            }
            resident()?
        }
    };
    Ok(after.saturating_sub(before) as f64 / TIMERS as f64)
}

/// Bytes of this process in memory.
fn resident() -> anyhow::Result<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let Some(pages) = statm.split_whitespace().nth(1) else { bail!("statm has no second field") };
    Ok(pages.parse::<u64>()? * rustix::param::page_size() as u64)
}

fn deadlines() -> Vec<u64> {
    let mut random = Random::from_seed(1);
    (0..TIMERS).map(|_| 1_000 + random.below(SPREAD_MS)).collect()
}

fn shuffled_order() -> Vec<usize> {
    let mut order: Vec<usize> = (0..TIMERS).collect();
    Random::from_seed(2).shuffle(&mut order);
    order
}

/// Runs `work`; nanoseconds of this thread's CPU time for each of a million timers.
fn timed<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let cpu = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
    };
    let before = cpu();
    let result = std::hint::black_box(work());
    ((cpu() - before) / TIMERS as f64, result)
}

fn median_costs(rounds: &[Costs]) -> Costs {
    let of = |field: fn(&Costs) -> f64| median(rounds.iter().map(field).collect());
    Costs {
        insert: of(|costs| costs.insert),
        cancel: of(|costs| costs.cancel),
        cancel_shuffled: of(|costs| costs.cancel_shuffled),
        fire: of(|costs| costs.fire),
        idle_tick: of(|costs| costs.idle_tick),
    }
}

fn print_table(medians: &[Costs], bytes: &[f64]) {
    println!("\nMedians of {ROUNDS} rounds, ns of CPU for one timer\n");
    println!("| | insert | cancel | cancel, shuffled | fire | tick with nothing due | bytes |");
    println!("|---|--:|--:|--:|--:|--:|--:|");
    let show = |value: f64| if value.is_nan() { "-".to_string() } else { format!("{value:.0}") };
    for ((subject, costs), bytes) in SUBJECTS.iter().zip(medians).zip(bytes) {
        println!(
            "| {} | {} | {} | {} | {} | {} | {bytes:.0} |",
            subject.name(),
            show(costs.insert),
            show(costs.cancel),
            show(costs.cancel_shuffled),
            show(costs.fire),
            show(costs.idle_tick),
        );
    }
}

fn print_rounds(rounds: &[Vec<Costs>]) {
    println!("\nRounds (insert/cancel/cancel shuffled, ns)\n");
    for (subject, rounds) in SUBJECTS.iter().zip(rounds) {
        let mut line = String::new();
        for Costs { insert, cancel, cancel_shuffled, .. } in rounds {
            let _ = write!(line, " {insert:.0}/{cancel:.0}/{cancel_shuffled:.0}");
        }
        println!("{:>16}:{line}", subject.name());
    }
}

/// Prints each goal with its reference and ratio; whether all are met.
fn print_goals(medians: &[Costs], bytes: &[f64]) -> bool {
    let (own, tokio) = (&medians[0], &medians[2]);
    println!("\n| goal | mainstay | tokio sleep task | ratio | goal | |");
    println!("|---|--:|--:|--:|--:|---|");
    let mut all_met = true;
    let pairs = [
        ("insert", own.insert, tokio.insert),
        ("cancel", own.cancel, tokio.cancel),
        (
            "insert, and cancel in random order",
            own.insert + own.cancel_shuffled,
            tokio.insert + tokio.cancel_shuffled,
        ),
    ];
    for (what, own, reference) in pairs {
        let ratio = reference / own;
        let met = ratio >= GOAL_RATIO;
        all_met &= met;
        let verdict =
            if met { "met".to_string() } else { format!("missed by {:.1}x", GOAL_RATIO / ratio) };
        println!(
            "| {what} | {own:.0} ns | {reference:.0} ns | {ratio:.1}x | >= {GOAL_RATIO}x | {verdict} |"
        );
    }
    let met = bytes[0] <= GOAL_BYTES;
    let ratio = bytes[2] / bytes[0];
    let verdict =
        if met { "met".to_string() } else { format!("missed by {:.0} B", bytes[0] - GOAL_BYTES) };
    println!(
        "| memory | {:.0} B | {:.0} B | {ratio:.1}x | <= {GOAL_BYTES} B | {verdict} |",
        bytes[0], bytes[2]
    );
    all_met & met
}
