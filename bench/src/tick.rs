//! How late ticks come at 20 and 60 Hz while one core is loaded to 70 %: the engine's deadline
//! next to a bare timerfd and to Tokio's interval, all at the same time.
//!
//! The load is a gate and its node at work for players on the other core. It is measured twice:
//! with the tickers free to run anywhere, as a node's workers are, and with all of them held on
//! the loaded core, the worst there is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use env::{Clock, Instant};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use transport::{Event, Options, Sockets};

use crate::gate::{load_average, player};
use crate::raw;

const RATES_HZ: [u64; 2] = [20, 60];
const TIME: Duration = Duration::from_secs(12);
const LOAD_SHARE: f64 = 0.7;
const GOAL_P50_US: f64 = 200.0;
const GOAL_P99_US: f64 = 2000.0;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Subject {
    Engine,
    Timerfd,
    Tokio,
}

impl Subject {
    const ALL: [Subject; 3] = [Subject::Engine, Subject::Timerfd, Subject::Tokio];

    fn name(self) -> &'static str {
        match self {
            Subject::Engine => "mainstay deadline",
            Subject::Timerfd => "bare timerfd",
            Subject::Tokio => "tokio interval",
        }
    }

    /// Lateness of each tick, in nanoseconds.
    fn measure(self, period: Duration, ticks: u32) -> anyhow::Result<Vec<u64>> {
        match self {
            Subject::Engine => engine(period, ticks),
            Subject::Timerfd => timerfd(period, ticks),
            Subject::Tokio => tokio_interval(period, ticks),
        }
    }
}

/// `bench tick`: prints the table; whether the goal was met with tickers free to run anywhere.
///
/// # Errors
///
/// The system gives no timer, socket or thread.
pub fn run() -> anyhow::Result<bool> {
    println!(
        "Tick lateness, {TIME:?} each, a gate and its node at {:.0} % of one core",
        LOAD_SHARE * 100.0
    );
    println!("goal: p50 <= {GOAL_P50_US:.0} us, p99 <= {GOAL_P99_US:.0} us\n");
    let mut is_met = true;
    for (place, cpu) in [("free", None), ("on the loaded core", Some(raw::SERVER_CPU))] {
        let load = GateLoad::start()?;
        let mut runs = Vec::new();
        for rate in RATES_HZ {
            for subject in Subject::ALL {
                runs.push((rate, subject, start(subject, rate, cpu)));
            }
        }
        let mut engine = (0.0, 0.0);
        for (rate, subject, thread) in runs {
            let mut late = thread.join().map_err(|_| anyhow!("a ticker panicked"))??;
            late.sort_unstable();
            let at = |share: f64| late[((late.len() - 1) as f64 * share) as usize] as f64 / 1e3;
            let (p50, p99, max) = (at(0.5), at(0.99), at(1.0));
            let note = match subject {
                Subject::Engine => {
                    engine = (p50, p99);
                    is_met &= cpu.is_some() || is_good(p50, p99);
                    verdict(p50, p99)
                }
                // Then it is the machine that is late, not the engine.
                Subject::Timerfd if !is_good(engine.0, engine.1) && !is_good(p50, p99) => {
                    format!("missed too: the engine was {:.2} of it", engine.1 / p99)
                }
                _ => String::new(),
            };
            println!(
                "{place:>18} {rate:>3} Hz {:<18} p50 {p50:>6.0} us  p99 {p99:>6.0} us  \
                 max {max:>6.0} us  {note}",
                subject.name(),
            );
        }
        let share = load.stop()? * 100.0;
        println!("{place:>18}        the load was {share:.0} % of its core, {}\n", load_average());
    }
    Ok(is_met)
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

fn engine(period: Duration, ticks: u32) -> anyhow::Result<Vec<u64>> {
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
    fn start() -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let gate = raw::spawn_child(&["child-gate-and-node"], raw::SERVER_CPU)?;
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn({
            let stop = stop.clone();
            move || {
                raw::pin(raw::CLIENT_CPU)?;
                let load = raw::Load { addr: gate.addr(), ..raw::Load::default() };
                raw::keep_busy(
                    &load,
                    LOAD_SHARE,
                    &stop,
                    |n| player(n as u64),
                    || {
                        let _ = ready.send(());
                        gate.cpu()
                    },
                )
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
