//! Starts all processes of a cluster file that belong to one machine, looks after them, and replaces them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use env::{Clock, Instant};
use ops::{Signal, Signals};
use serde_json::{Value, json};

use crate::control::{self, Control};
use crate::run::Exit;

mod judge;
mod kept;
mod minder;
mod program;
mod replace;
mod rollout;

use kept::Kept;
use minder::{Act, Limits};
use program::Program;
use replace::Work;
pub use replace::{Replacement, Trial};

/// Names a process that has a supervisor: its input brings its ports, and it ends when its input does.
pub(crate) const SUPERVISED: &str = "MAINSTAY_SUPERVISED";
/// Its value for a process that is started beside the one that it is to replace; `1` for others.
pub(crate) const STANDBY: &str = "standby";
/// Names the lives of nodes of a process of which the supervisor saw the end, by commas.
pub(crate) const GONE: &str = "MAINSTAY_GONE";
/// The supervisor's own port; no process can have this name.
pub(crate) const SUPERVISOR: &str = ".supervisor";

/// How often the processes are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How often they are asked how they are.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// What to start, and how.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The cluster file.
    pub file: PathBuf,
    /// Where its processes keep what is theirs.
    pub data: PathBuf,
    /// What to start instead of this program.
    pub program: Option<PathBuf>,
    /// What the program's arguments begin with.
    pub words: Vec<String>,
    /// Settings that each process gets.
    pub settings: Vec<String>,
    /// After which time a silent or stuck process is killed.
    pub stall_after: Option<Duration>,
}

/// One process as the file describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub name: String,
    /// It takes in clients.
    pub gate: bool,
    /// It stands in front of the stores, which the others need to the end.
    pub data: bool,
    /// Where it takes in clients and browsers, and with how many threads.
    pub listen: Vec<(SocketAddr, u8)>,
    /// Why it cannot run beside its successor, and what can be done about it.
    pub alone: Option<String>,
    /// How long it may take to end.
    pub stop_max: Duration,
}

impl Member {
    /// When it is stopped: those of a later stage go on until those of all before are down.
    fn stage(&self) -> u8 {
        match (self.data, self.gate) {
            (true, _) => 2,
            (false, is_gate) => u8::from(!is_gate),
        }
    }
}

/// Reads the processes of this machine from the file, as it is now.
pub(crate) type Reader<'a> = Box<dyn Fn() -> Result<Vec<Member>, String> + 'a>;

/// What comes to the supervisor from its other threads.
enum News {
    /// A process said how it is; with its number.
    Heard(u32, Value),
    /// An order, and where its answer goes.
    Order(String, String, Sender<Value>),
}

struct Supervisor<'a> {
    plan: Plan,
    read: Reader<'a>,
    clock: Clock,
    kept: Vec<Kept>,
    /// The processes that run, by name, for the thread that asks them.
    running: Arc<Mutex<BTreeMap<String, u32>>>,
    /// What is being replaced, or was last.
    work: Option<Work>,
    works: u64,
    /// Since when all are to stop, and whether at once.
    stopping: Option<Instant>,
}

/// Runs all processes until it is told to stop.
pub(crate) fn run(plan: Plan, read: Reader<'_>, mut signals: Signals) -> Result<Exit, String> {
    let clock = Clock::system();
    let mut limits = Limits::default();
    limits.stall_after = plan.stall_after.unwrap_or(limits.stall_after);
    let program = match &plan.program {
        Some(path) => Program::open(path)
            .map_err(|error| format!("cannot start {}: {error}", path.display()))?,
        None => Program::own().map_err(|error| format!("cannot find this program: {error}"))?,
    };
    let kept = read()?
        .into_iter()
        .map(|member| Kept::new(member, limits.clone(), program.clone(), clock.now()));
    let mut kept: Vec<Kept> = kept.collect();
    if control::ask(&plan.data, SUPERVISOR, "status", "").is_some() {
        return Err(format!("{} is up already: see `mainstay status`", plan.file.display()));
    }
    // Before anything runs: a port in use is said at once.
    kept.iter_mut().try_for_each(Kept::open_ports)?;
    let (tell, news) = channel();
    let orders = tell.clone();
    let answer = move |order: &str, to: &str| {
        let (tell, told) = channel();
        let _ = orders.send(News::Order(order.to_owned(), to.to_owned(), tell));
        told.recv_timeout(Duration::from_secs(1)).unwrap_or_else(|_| json!({"error": "busy"}))
    };
    let control = Control::open(&plan.data, SUPERVISOR, Box::new(answer));
    let _control =
        control.map_err(|error| format!("cannot write into {}: {error}", plan.data.display()))?;
    let running: Arc<Mutex<BTreeMap<String, u32>>> = Arc::default();
    let asked = plan.data.clone();
    let mut supervisor = Supervisor {
        plan,
        read,
        clock,
        kept,
        running: running.clone(),
        work: None,
        works: 0,
        stopping: None,
    };
    thread::spawn(move || ask_all(&asked, &running, &tell));
    println!("starting {} processes; Ctrl-C stops them all", supervisor.kept.len());
    while !supervisor.is_over() {
        if let Some(signal) = signals.newest_once() {
            supervisor.handle_signal(signal);
        }
        supervisor.take_news(&news);
        supervisor.look();
        supervisor.act();
        supervisor.replace();
    }
    Ok(supervisor.report())
}

impl Supervisor<'_> {
    fn handle_signal(&mut self, signal: Signal) {
        match signal {
            Signal::Replace => {
                if let Err(error) = self.begin(&Replacement::default()) {
                    eprintln!("HUP: nothing is replaced: {error}");
                }
            }
            Signal::Finish | Signal::Stop => {
                println!("stopping: gates first, what stands in front of the stores last");
                self.stopping = Some(self.clock.now());
                self.stop_work("all processes are stopping");
            }
            Signal::Force => {
                println!("a second signal: all end at once");
                self.stopping.get_or_insert(self.clock.now());
                self.stop_work("all processes are stopping");
                for kept in &mut self.kept {
                    kept.kill_all("a second signal");
                }
            }
        }
    }

    /// Waits a moment for news.
    fn take_news(&mut self, news: &Receiver<News>) {
        let mut next = news.recv_timeout(LOOK_EVERY).ok();
        while let Some(some) = next {
            let now = self.clock.now();
            match some {
                News::Heard(number, said) => {
                    self.kept.iter_mut().any(|kept| kept.handle_said(now, number, said.clone()));
                }
                News::Order(order, to, tell) => drop(tell.send(self.order(now, &order, &to))),
            }
            next = news.try_recv().ok();
        }
    }

    fn order(&mut self, now: Instant, order: &str, to: &str) -> Value {
        match order {
            "status" => {
                let rows: Vec<Value> = self.kept.iter().map(|kept| kept.row(now)).collect();
                return json!({"processes": rows});
            }
            "replace" => return self.begin_by_order(to),
            "progress" => return self.progress(),
            _ => {}
        }
        let Some(at) = self.kept.iter().position(|kept| kept.name() == to) else {
            return json!({"error": self.no_such(to)});
        };
        if self.work.as_ref().is_some_and(|work| work.is_at(to)) {
            return json!({"error": format!("{to} is being replaced: wait until that is over")});
        }
        let kept = &mut self.kept[at];
        match order {
            "drain" => kept.minder.want(now, false),
            "start" if self.stopping.is_none() => kept.minder.want(now, true),
            "start" => return json!({"error": "all processes are stopping"}),
            other => return json!({"error": format!("there is no order {other:?}")}),
        }
        kept.row(now)
    }

    fn no_such(&self, name: &str) -> String {
        let names: Vec<&str> = self.kept.iter().map(Kept::name).collect();
        format!("there is no process {name:?}: there are {}", names.join(", "))
    }

    /// Sees which processes have ended.
    fn look(&mut self) {
        let now = self.clock.now();
        let mut running = BTreeMap::new();
        for kept in &mut self.kept {
            kept.look(now, &self.plan);
            running.extend(kept.lives());
        }
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = running;
        if self.stopping.is_some() {
            let up = self.kept.iter().filter(|kept| !kept.is_over());
            let first = up.map(|kept| kept.member.stage()).min();
            for kept in self.kept.iter_mut().filter(|kept| Some(kept.member.stage()) <= first) {
                kept.minder.want(now, false);
            }
        }
    }

    fn act(&mut self) {
        let now = self.clock.now();
        for kept in &mut self.kept {
            while let Some(act) = kept.minder.poll(now) {
                match act {
                    Act::Start => kept.start(now, &self.plan),
                    Act::Finish => kept.finish(),
                    Act::Kill(why) => kept.kill(why),
                    Act::Alarm(tries) => eprintln!(
                        "ALARM: {} has ended {tries} times in a row; see {}",
                        kept.name(),
                        self.plan.data.join("log").display()
                    ),
                }
            }
            kept.close_ports_if_idle();
        }
    }

    fn is_over(&self) -> bool {
        self.stopping.is_some() && self.kept.iter().all(Kept::is_over)
    }

    /// Says how each process ended.
    fn report(&self) -> Exit {
        let waited = self.stopping.map_or(Duration::ZERO, |since| self.clock.now() - since);
        println!("stopped after {:.1} s:", waited.as_secs_f64());
        let mut well = true;
        for kept in &self.kept {
            let restarts = match kept.minder.restarts() {
                0 => String::new(),
                restarts => format!(", restarts {restarts}"),
            };
            let text = kept.ended.as_ref().map_or("was not running", |ended| &ended.text);
            println!("  {}: {text}{restarts}", kept.name());
            well &= kept.ended.as_ref().is_none_or(|ended| ended.well);
        }
        if well { Exit::Well } else { Exit::Unfinished }
    }
}

/// Asks all processes how they are, each on a thread of its own: one that stands still delays nobody.
fn ask_all(data: &Path, running: &Mutex<BTreeMap<String, u32>>, tell: &Sender<News>) {
    loop {
        let known = running.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let asking: Vec<_> = known
            .into_keys()
            .map(|name| {
                let (data, tell) = (data.to_path_buf(), tell.clone());
                thread::spawn(move || {
                    let said = control::ask(&data, &name, "status", "")?;
                    let number = u32::try_from(said.get("pid")?.as_u64()?).ok()?;
                    said.get("turn_ms")?.as_u64()?;
                    tell.send(News::Heard(number, said)).ok()
                })
            })
            .collect();
        asking.into_iter().for_each(|thread| drop(thread.join()));
        thread::sleep(ASK_EVERY);
    }
}
