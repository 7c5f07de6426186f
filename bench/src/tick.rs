//! How late ticks come at 20 and 60 Hz while one core is loaded to 70 %: the engine's deadline
//! next to a bare timerfd and to Tokio's interval, all at the same time.
//!
//! The load is gate-like: a thread that echoes small messages over loopback TCP for 70 % of each
//! few milliseconds. It is measured twice: with the tickers free to run anywhere, as a node's
//! workers are, and with all of them held on the loaded core, the worst there is.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use env::{Clock, Instant};
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};
use transport::{Event, Options, Sockets};

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
    println!("Tick lateness, {TIME:?} each, one core loaded to {:.0} %", LOAD_SHARE * 100.0);
    println!("goal: p50 <= {GOAL_P50_US:.0} us, p99 <= {GOAL_P99_US:.0} us\n");
    let mut is_met = true;
    for (place, cpu) in [("free", None), ("on the loaded core", Some(raw::SERVER_CPU))] {
        let load = GateLikeLoad::start()?;
        let mut runs = Vec::new();
        for rate in RATES_HZ {
            for subject in Subject::ALL {
                runs.push((rate, subject, start(subject, rate, cpu)));
            }
        }
        for (rate, subject, thread) in runs {
            let mut late = thread.join().map_err(|_| anyhow!("a ticker panicked"))??;
            late.sort_unstable();
            let at = |share: f64| late[((late.len() - 1) as f64 * share) as usize] as f64 / 1e3;
            let (p50, p99, max) = (at(0.5), at(0.99), at(1.0));
            let verdict = match subject {
                Subject::Engine => verdict(p50, p99),
                _ => String::new(),
            };
            println!(
                "{place:>18} {rate:>3} Hz {:<18} p50 {p50:>6.0} us  p99 {p99:>6.0} us  \
                 max {max:>6.0} us  {verdict}",
                subject.name(),
            );
            if cpu.is_none() && subject == Subject::Engine {
                is_met &= p50 <= GOAL_P50_US && p99 <= GOAL_P99_US;
            }
        }
        println!("{place:>18}        load was {:.0} % of its core\n", load.stop()? * 100.0);
    }
    Ok(is_met)
}

fn verdict(p50: f64, p99: f64) -> String {
    if p50 <= GOAL_P50_US && p99 <= GOAL_P99_US {
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

/// A thread that does what a gate does, for a share of one core.
struct GateLikeLoad {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<anyhow::Result<f64>>,
}

const SLICE: Duration = Duration::from_millis(4);

impl GateLikeLoad {
    fn start() -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let stop = stop.clone();
            move || {
                raw::pin(raw::SERVER_CPU)?;
                echo_for_a_share(&stop)
            }
        });
        Ok(GateLikeLoad { stop, thread })
    }

    /// Ends it; gives the share of its core that it used.
    fn stop(self) -> anyhow::Result<f64> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().map_err(|_| anyhow!("the load panicked"))?
    }
}

fn echo_for_a_share(stop: &AtomicBool) -> anyhow::Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    let (mut server, _) = listener.accept()?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let mut bytes = [0; 16 * raw::BODY_BYTES];
    let clock = Clock::system();
    let start = clock.now();
    let start_cpu = thread_cpu();
    while !stop.load(Ordering::SeqCst) {
        let begin = clock.now();
        let begin_cpu = thread_cpu();
        while thread_cpu() - begin_cpu < SLICE.mul_f64(LOAD_SHARE) {
            client.write_all(&bytes).context("the load's socket")?;
            server.read_exact(&mut bytes)?;
            server.write_all(&bytes)?;
            client.read_exact(&mut bytes)?;
        }
        std::thread::sleep(SLICE.saturating_sub(clock.now() - begin));
    }
    Ok((thread_cpu() - start_cpu).as_secs_f64() / (clock.now() - start).as_secs_f64())
}

fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
