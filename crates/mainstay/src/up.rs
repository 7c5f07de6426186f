//! Starts all processes of a cluster file that belong to one machine, and looks after them.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use env::{Clock, Instant};
use ops::{Signal, Signals};
use serde_json::{Value, json};

use crate::config::Config;
use crate::control::{self, Control};
use crate::run::Exit;

mod minder;

use minder::{Act, Limits, Minder};

/// Names a process that has a supervisor: it ends when its standard input does.
pub(crate) const SUPERVISED: &str = "MAINSTAY_SUPERVISED";
/// The supervisor's own port; no process can have this name.
pub(crate) const SUPERVISOR: &str = ".supervisor";

/// How often the processes are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How often they are asked how they are.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// What to start, and how.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The cluster file.
    pub file: PathBuf,
    /// The machine, as the file calls it; the processes of others are left alone.
    pub host: Option<String>,
    /// What the program's arguments begin with.
    pub words: Vec<String>,
    /// Settings that each process gets.
    pub settings: Vec<String>,
    /// After which time a silent or stuck process is killed.
    pub stall_after: Option<Duration>,
}

/// One process, running or not.
struct Kept {
    name: String,
    gate: bool,
    minder: Minder,
    child: Option<Child>,
    started: Instant,
    /// How it ended last.
    ended: Option<Ended>,
}

struct Ended {
    text: String,
    well: bool,
}

/// What comes to the supervisor from its other threads.
enum News {
    /// A process said how it is: its number, and for how long a worker is in one turn.
    Heard(u32, Duration),
    /// An order, and where its answer goes.
    Order(String, String, Sender<Value>),
}

struct Supervisor {
    plan: Plan,
    data: PathBuf,
    clock: Clock,
    kept: Vec<Kept>,
    /// The processes that run, by name, for the thread that asks them.
    running: Arc<Mutex<BTreeMap<String, u32>>>,
    /// Since when all are to stop, and whether at once.
    stopping: Option<Instant>,
}

/// Runs all processes until it is told to stop.
pub(crate) fn run(plan: Plan, config: &Config, mut signals: Signals) -> Result<Exit, String> {
    let hosts = |host: &str| plan.host.as_deref().is_none_or(|wanted| wanted == host);
    let clock = Clock::system();
    let mut limits = Limits::default();
    limits.stall_after = plan.stall_after.unwrap_or(limits.stall_after);
    let mut kept = Vec::new();
    for process in config.processes.iter().filter(|process| hosts(&process.host)) {
        let mut limits = limits.clone();
        limits.stop_max = process.options.drain.node_max + Duration::from_secs(5);
        kept.push(Kept {
            name: process.name.clone(),
            gate: process.runs.gate,
            minder: Minder::new(limits, clock.now()),
            child: None,
            started: clock.now(),
            ended: None,
        });
    }
    if kept.is_empty() {
        let host = plan.host.unwrap_or_default();
        return Err(format!("{} has no process on the host {host:?}", plan.file.display()));
    }
    let data = config.data.clone();
    if control::ask(&data, SUPERVISOR, "status", "").is_some() {
        return Err(format!("{} is up already: see `mainstay status`", plan.file.display()));
    }
    let (tell, news) = channel();
    let orders = tell.clone();
    let answer = move |order: &str, to: &str| {
        let (tell, told) = channel();
        let _ = orders.send(News::Order(order.to_owned(), to.to_owned(), tell));
        told.recv_timeout(Duration::from_secs(1)).unwrap_or_else(|_| json!({"error": "busy"}))
    };
    let control = Control::open(&data, SUPERVISOR, Box::new(answer));
    let _control =
        control.map_err(|error| format!("cannot write into {}: {error}", data.display()))?;
    let running: Arc<Mutex<BTreeMap<String, u32>>> = Arc::default();
    let mut supervisor =
        Supervisor { plan, data, clock, kept, running: running.clone(), stopping: None };
    let asked = supervisor.data.clone();
    thread::spawn(move || ask_all(&asked, &running, &tell));
    println!("starting {} processes; Ctrl-C stops them all", supervisor.kept.len());
    while !supervisor.is_over() {
        if let Some(signal) = signals.newest_once() {
            supervisor.handle_signal(signal);
        }
        supervisor.take_news(&news);
        supervisor.look();
        supervisor.act();
    }
    Ok(supervisor.report())
}

impl Supervisor {
    fn handle_signal(&mut self, signal: Signal) {
        match signal {
            Signal::Replace => {
                println!("HUP: nothing is replaced; `mainstay drain` stops one process")
            }
            Signal::Finish | Signal::Stop => {
                println!("stopping: gates first, then the others");
                self.stopping = Some(self.clock.now());
            }
            Signal::Force => {
                println!("a second signal: all end at once");
                self.stopping.get_or_insert(self.clock.now());
                for kept in &mut self.kept {
                    kept.kill("a second signal");
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
                News::Heard(number, turn) => {
                    let is =
                        |kept: &&mut Kept| kept.child.as_ref().is_some_and(|c| c.id() == number);
                    if let Some(kept) = self.kept.iter_mut().find(is) {
                        kept.minder.handle_heard(now, turn);
                    }
                }
                News::Order(order, to, tell) => drop(tell.send(self.order(now, &order, &to))),
            }
            next = news.try_recv().ok();
        }
    }

    fn order(&mut self, now: Instant, order: &str, to: &str) -> Value {
        if order == "status" {
            return json!({"processes": self.kept.iter().map(|kept| kept.row(now)).collect::<Vec<_>>()});
        }
        let Some(kept) = self.kept.iter_mut().find(|kept| kept.name == to) else {
            let names: Vec<&str> = self.kept.iter().map(|kept| kept.name.as_str()).collect();
            return json!({"error": format!("there is no process {to:?}: there are {}", names.join(", "))});
        };
        match order {
            "drain" => kept.minder.want(now, false),
            "start" if self.stopping.is_none() => kept.minder.want(now, true),
            "start" => return json!({"error": "all processes are stopping"}),
            other => return json!({"error": format!("there is no order {other:?}")}),
        }
        kept.row(now)
    }

    /// Sees which processes have ended.
    fn look(&mut self) {
        let now = self.clock.now();
        let mut running = BTreeMap::new();
        for kept in &mut self.kept {
            match kept.child.as_mut().map(Child::try_wait) {
                None => {}
                Some(Ok(None)) => {
                    running.insert(kept.name.clone(), kept.child.as_ref().map_or(0, Child::id));
                }
                Some(Ok(Some(status))) => kept.ended(now, describe(status), status.success()),
                Some(Err(error)) => kept.ended(now, error.to_string(), false),
            }
        }
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = running;
        if self.stopping.is_some() {
            let gates = self.kept.iter().any(|kept| kept.gate && !kept.minder.is_down());
            for kept in self.kept.iter_mut().filter(|kept| kept.gate || !gates) {
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
                        kept.name,
                        self.data.join("log").display()
                    ),
                }
            }
        }
    }

    fn is_over(&self) -> bool {
        self.stopping.is_some() && self.kept.iter().all(|kept| kept.minder.is_down())
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
            println!("  {}: {text}{restarts}", kept.name);
            well &= kept.ended.as_ref().is_none_or(|ended| ended.well);
        }
        if well { Exit::Well } else { Exit::Unfinished }
    }
}

impl Kept {
    fn start(&mut self, now: Instant, plan: &Plan) {
        self.started = now;
        match self.spawn(plan) {
            Ok(child) => {
                println!("{} starts, process {}", self.name, child.id());
                self.child = Some(child);
            }
            Err(error) => self.ended(now, format!("it cannot be started: {error}"), false),
        }
    }

    fn spawn(&self, plan: &Plan) -> std::io::Result<Child> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(&plan.words).arg("--cluster").arg(&plan.file).args(["--process", &self.name]);
        for setting in &plan.settings {
            command.args(["--set", setting]);
        }
        // Its input ends with this process, however that ends.
        command.env(SUPERVISED, "1").stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        // Ctrl-C is for the supervisor alone.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn()?;
        copy_lines(&self.name, child.stdout.take(), |line| println!("{line}"));
        copy_lines(&self.name, child.stderr.take(), |line| eprintln!("{line}"));
        Ok(child)
    }

    fn ended(&mut self, now: Instant, text: String, well: bool) {
        self.child = None;
        self.minder.handle_exit(now);
        if self.minder.is_wanted() {
            eprintln!("{} has ended: {text}; it starts again", self.name);
        } else {
            println!("{} has ended: {text}", self.name);
        }
        self.ended = Some(Ended { text, well });
    }

    fn finish(&mut self) {
        if let Some(child) = &mut self.child
            && ops::tell_process(child.id(), Signal::Finish).is_err()
        {
            // Where there are no signals, the end of its input tells it.
            drop(child.stdin.take());
        }
    }

    fn kill(&mut self, why: &str) {
        if let Some(child) = &mut self.child {
            eprintln!("{} is killed: {why}", self.name);
            let _ = child.kill();
        }
    }

    fn row(&self, now: Instant) -> Value {
        json!({
            "name": self.name,
            "state": self.minder.word(),
            "pid": self.child.as_ref().map(Child::id),
            "up_s": self.child.as_ref().map(|_| (now - self.started).as_secs()),
            "restarts": self.minder.restarts(),
            "ended": self.ended.as_ref().map(|ended| &ended.text),
        })
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn describe(status: ExitStatus) -> String {
    match status.code() {
        Some(0) => "well (exit 0)".to_owned(),
        Some(1) => "not all was finished (exit 1)".to_owned(),
        Some(2) => "it did not start (exit 2)".to_owned(),
        _ => status.to_string(),
    }
}

fn copy_lines(name: &str, from: Option<impl Read + Send + 'static>, to: fn(&str)) {
    let Some(from) = from else { return };
    let name = name.to_owned();
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            to(&format!("[{name}] {line}"));
        }
    });
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
                    let turn = Duration::from_millis(said.get("turn_ms")?.as_u64()?);
                    tell.send(News::Heard(number, turn)).ok()
                })
            })
            .collect();
        asking.into_iter().for_each(|thread| drop(thread.join()));
        thread::sleep(ASK_EVERY);
    }
}
