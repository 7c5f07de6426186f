//! How late ticks come at 20 and 60 Hz while one core is loaded to 70 %: a scene's steps on a node
//! and the deadline under them next to a bare timerfd and to Tokio's interval, all at the same
//! time.
//!
//! The load is a gate and its node at work for players on the other core, who use that up as much.
//! It comes in two ways: evenly, as from players who send when they like, and in bursts that take
//! the whole core for 2.8 of every 4 ms. A burst shows the scheduler, not the ticker: a thread that
//! wakes meanwhile may have to wait until the one that runs has had its slice. And it is measured
//! with the tickers free to run anywhere, as a node's workers are, and with all of them held on the
//! loaded core, the worst there is.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use env::{Clock, Instant};
use macros::{entity, rpc};
use node::rt::Cx;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use scene::Steps;
use transport::{Board, Event, Options, Sockets};

use crate::entity::median;
use crate::gate::{load_average, player, start_scenes};
use crate::raw;

const RATES_HZ: [u64; 2] = [20, 60];
const TIME: Duration = Duration::from_secs(12);
/// Of all shapes, taking turns: at 20 Hz the third-longest pause that the machine takes is the p99 of one.
const ROUNDS: usize = 3;
const LOAD_SHARE: f64 = 0.7;
const GOAL_P50_US: f64 = 200.0;
const GOAL_P99_US: f64 = 2000.0;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Subject {
    Scene,
    Deadline,
    Timerfd,
    Tokio,
}

/// How the gate's load comes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Flow {
    Even,
    Bursts,
}

impl Subject {
    /// The bare timer first: the others are compared with it.
    const ALL: [Subject; 4] = [Subject::Timerfd, Subject::Scene, Subject::Deadline, Subject::Tokio];

    fn name(self) -> &'static str {
        match self {
            Subject::Scene => "a scene's steps",
            Subject::Deadline => "mainstay deadline",
            Subject::Timerfd => "bare timerfd",
            Subject::Tokio => "tokio interval",
        }
    }

    /// Lateness of each tick, in nanoseconds.
    fn measure(self, period: Duration, ticks: u32) -> anyhow::Result<Vec<u64>> {
        match self {
            Subject::Scene => scene(period, ticks),
            Subject::Deadline => deadline(period, ticks),
            Subject::Timerfd => timerfd(period, ticks),
            Subject::Tokio => tokio_interval(period, ticks),
        }
    }
}

/// `bench tick`: prints the table; whether the goal was met by what the engine drives, under an
/// even load and with tickers free to run anywhere.
///
/// # Errors
///
/// The system gives no timer, socket or thread.
pub fn run() -> anyhow::Result<bool> {
    println!(
        "Tick lateness, medians of {ROUNDS} rounds of {TIME:?} each, a gate and its node at {:.0} % of one core",
        LOAD_SHARE * 100.0
    );
    println!("goal: p50 <= {GOAL_P50_US:.0} us, p99 <= {GOAL_P99_US:.0} us, even load, free\n");
    let shapes = [
        (Flow::Even, "even, free", None),
        (Flow::Even, "even, on the loaded core", Some(raw::SERVER_CPU)),
        (Flow::Bursts, "bursts, free", None),
        (Flow::Bursts, "bursts, on the loaded core", Some(raw::SERVER_CPU)),
    ];
    let mut rounds: [Vec<Round>; 4] = Default::default();
    for _ in 0..ROUNDS {
        for ((flow, _, cpu), rounds) in shapes.iter().zip(&mut rounds) {
            rounds.push(run_shape(*flow, *cpu)?);
        }
    }
    let mut is_met = true;
    for ((flow, place, cpu), rounds) in shapes.iter().zip(&rounds) {
        let is_judged = *flow == Flow::Even && cpu.is_none();
        is_met &= print_shape(place, rounds) || !is_judged;
    }
    println!("{}", load_average());
    Ok(is_met)
}

/// What one round of a shape came to.
struct Round {
    /// Share of its core that the load took.
    share: f64,
    /// By rate and subject: p50, p99 and the worst, in microseconds.
    late: Vec<[f64; 3]>,
}

fn subjects() -> impl Iterator<Item = (u64, Subject)> {
    RATES_HZ.into_iter().flat_map(|rate| Subject::ALL.map(|subject| (rate, subject)))
}

/// All tickers at the same time.
fn run_shape(flow: Flow, cpu: Option<usize>) -> anyhow::Result<Round> {
    let load = GateLoad::start(flow)?;
    let runs: Vec<_> = subjects().map(|(rate, subject)| start(subject, rate, cpu)).collect();
    let late = runs.into_iter().map(|thread| {
        let mut late = thread.join().map_err(|_| anyhow!("a ticker panicked"))??;
        late.sort_unstable();
        Ok([0.5, 0.99, 1.0]
            .map(|share| late[((late.len() - 1) as f64 * share) as usize] as f64 / 1e3))
    });
    let late = late.collect::<anyhow::Result<_>>()?;
    Ok(Round { share: load.stop()?, late })
}

/// Whether the engine's own ticks were good.
fn print_shape(place: &str, rounds: &[Round]) -> bool {
    let mut met = true;
    let mut limit = 0.0;
    for (at, (rate, subject)) in subjects().enumerate() {
        let [p50, p99, max] = [0, 1, 2]
            .map(|which| median(rounds.iter().map(|round| round.late[at][which]).collect()));
        let is_ours = matches!(subject, Subject::Scene | Subject::Deadline);
        met &= !is_ours || is_good(p50, p99);
        let mut note = verdict(p50, p99);
        match subject {
            Subject::Timerfd => limit = p99,
            _ => note += &format!(", p99 {:.2} of the bare timer's", p99 / limit),
        }
        println!(
            "{place:>26} {rate:>3} Hz {:<18} p50 {p50:>6.0} us  p99 {p99:>6.0} us  \
             max {max:>6.0} us  {note}",
            subject.name(),
        );
    }
    let share = median(rounds.iter().map(|round| round.share).collect()) * 100.0;
    println!("{place:>26}        the load was {share:.0} % of its core\n");
    met
}

fn is_good(p50: f64, p99: f64) -> bool {
    p50 <= GOAL_P50_US && p99 <= GOAL_P99_US
}

fn verdict(p50: f64, p99: f64) -> String {
    if is_good(p50, p99) {
        return "met".into();
    }
    let worst = (p50 / GOAL_P50_US).max(p99 / GOAL_P99_US);
    format!("missed by {:.0} %", (worst - 1.0) * 100.0)
}

fn start(subject: Subject, rate: u64, cpu: Option<usize>) -> JoinHandle<anyhow::Result<Vec<u64>>> {
    std::thread::spawn(move || {
        if let Some(cpu) = cpu {
            raw::pin(cpu)?;
        }
        let period = Duration::from_nanos(1_000_000_000 / rate);
        let ticks = (TIME.as_nanos() / period.as_nanos()) as u32;
        // Tickers must not all be due in the same instant.
        std::thread::sleep(Duration::from_micros(1700 * rate / 20 + 300 * subject as u64));
        subject.measure(period, ticks)
    })
}

/// Lateness of a scene's steps, from when each was due to its handler.
type Late = Arc<Mutex<Vec<u64>>>;

/// A scene that notes how late its steps are.
#[entity(root = node::rt, room, steps_per_second = 20)]
struct Slow {
    late: Late,
}

#[rpc(root = node::rt)]
impl Slow {
    #[hook]
    fn step(&mut self, cx: &mut Cx<Self>, steps: Steps) {
        note(&self.late, cx.now(), steps, RATES_HZ[0]);
    }
}

/// The same at another rate.
#[entity(root = node::rt, room, steps_per_second = 60)]
struct Fast {
    late: Late,
}

#[rpc(root = node::rt)]
impl Fast {
    #[hook]
    fn step(&mut self, cx: &mut Cx<Self>, steps: Steps) {
        note(&self.late, cx.now(), steps, RATES_HZ[1]);
    }
}

fn note(late: &Late, turn: Instant, steps: Steps, rate: u64) {
    let first = (steps.late + (Clock::system().now() - turn)).as_nanos() as u64;
    let period = 1_000_000_000 / rate;
    let each = (0..u64::from(steps.count)).map(|n| first.saturating_sub(n * period));
    late.lock().expect("nobody panics with it").extend(each);
}

/// A node with one worker and one scene on it.
fn scene(period: Duration, ticks: u32) -> anyhow::Result<Vec<u64>> {
    let node = start_scenes(&Board::new(), |app| app.kind::<Slow>().kind::<Fast>())?;
    let late = Late::default();
    let theirs = late.clone();
    let is_slow = period.as_nanos() as u64 == 1_000_000_000 / RATES_HZ[0];
    let made = node.spawn(0, move |outside| async move {
        match is_slow {
            true => outside.spawn(Slow { late: theirs }).map(drop),
            false => outside.spawn(Fast { late: theirs }).map(drop),
        }
    });
    made.blocking_recv().context("the node ended")??;
    loop {
        std::thread::sleep(period);
        let late = late.lock().expect("nobody panics with it");
        if late.len() >= ticks as usize {
            return Ok(late[..ticks as usize].to_vec());
        }
    }
}

fn deadline(period: Duration, ticks: u32) -> anyhow::Result<Vec<u64>> {
    let clock = Clock::system();
    let mut sockets = Sockets::new(Options::default(), clock.clone())?;
    let mut events = Vec::new();
    let mut late = Vec::with_capacity(ticks as usize);
    let mut next = clock.now() + period;
    while late.len() < ticks as usize {
        sockets.arm_timer(next);
        sockets.poll(None, &mut events)?;
        for event in events.drain(..) {
            if matches!(event, Event::Timer) {
                late.push((clock.now() - next).as_nanos() as u64);
                next += period;
            }
        }
    }
    Ok(late)
}

fn timerfd(period: Duration, ticks: u32) -> anyhow::Result<Vec<u64>> {
    let clock = Clock::system();
    let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC)?;
    let mut late = Vec::with_capacity(ticks as usize);
    let start = clock.now() + period;
    let spec = Itimerspec {
        it_interval: timespec(period),
        it_value: timespec(start.since(Instant::ZERO)),
    };
    timerfd_settime(&timer, TimerfdTimerFlags::ABSTIME, &spec)?;
    let mut next = start;
    while late.len() < ticks as usize {
        let mut expiries = [0; 8];
        rustix::io::read(&timer, &mut expiries)?;
        let now = clock.now();
        for _ in 0..u64::from_ne_bytes(expiries) {
            late.push((now - next).as_nanos() as u64);
            next += period;
        }
    }
    Ok(late)
}

fn timespec(time: Duration) -> Timespec {
    Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) }
}

fn tokio_interval(period: Duration, ticks: u32) -> anyhow::Result<Vec<u64>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let start = tokio::time::Instant::now() + period;
        let mut interval = tokio::time::interval_at(start, period);
        let mut late = Vec::with_capacity(ticks as usize);
        for _ in 0..ticks {
            let due = interval.tick().await;
            late.push(tokio::time::Instant::now().duration_since(due).as_nanos() as u64);
        }
        Ok(late)
    })
}

/// A gate with its node, kept busy for a share of one core.
struct GateLoad {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<anyhow::Result<f64>>,
}

impl GateLoad {
    fn start(flow: Flow) -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let gate = raw::spawn_child(&["child-gate-and-node"], raw::SERVER_CPU)?;
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn({
            let stop = stop.clone();
            move || {
                raw::pin(raw::CLIENT_CPU)?;
                let load = raw::Load { addr: gate.addr(), ..raw::Load::default() };
                let cpu = || {
                    let _ = ready.send(());
                    gate.cpu()
                };
                let make = |n| player(n as u64);
                match flow {
                    Flow::Bursts => raw::keep_busy(&load, LOAD_SHARE, &stop, make, cpu),
                    Flow::Even => {
                        let load = raw::Load { connections: 500, window: 8, ..load };
                        raw::keep_steady(&load, LOAD_SHARE, &stop, make, cpu)
                    }
                }
            }
        });
        // The first look at the gate's time means that all players are in.
        is_ready.recv().context("the gate could not be loaded")?;
        Ok(GateLoad { stop, thread })
    }

    /// Ends it; gives the share of its core that it used.
    fn stop(self) -> anyhow::Result<f64> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().map_err(|_| anyhow!("the load panicked"))?
    }
}
