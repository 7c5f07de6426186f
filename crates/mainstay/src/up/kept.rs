use std::io::{self, BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use env::Instant;
use ops::Signal;
use serde_json::{Value, json};
use transport::Listeners;

use super::judge::Figures;
use super::minder::{Limits, Minder};
use super::program::Program;
use super::rollout::{Facts, Next};
use super::{GONE, Member, Plan, STANDBY, SUPERVISED};

/// What a process said is old after this time.
const SAID_OLD: Duration = Duration::from_secs(4);

/// Ended lives that the next process is told of.
const GONE_MAX: usize = 16;

/// How one is called whose place was taken.
const OLD: &str = "the old";

/// One process of the file, running or not.
pub(super) struct Kept {
    pub member: Member,
    pub minder: Minder,
    /// What it is started from, and what it was before an upgrade.
    pub program: Program,
    pub before: Option<Program>,
    /// Its ports for clients and browsers; open while it is to run, also between two lives of it.
    listeners: Listeners,
    life: Option<Life>,
    /// Started beside it, to take its place.
    next: Option<Life>,
    /// Why it could not be started.
    next_failed: Option<String>,
    /// Those whose place was taken, and that end now.
    leaving: Vec<Leaving>,
    left: Option<String>,
    /// Ends only to start again.
    pub returns: bool,
    crashes: u32,
    /// Lives of its nodes that are over: the next process tells the store. The newest are last.
    gone: Vec<u64>,
    /// How it ended last.
    pub ended: Option<Ended>,
}

/// One process of the system.
struct Life {
    child: Child,
    started: Instant,
    program: Program,
    /// What it said last.
    said: Option<(Instant, Value)>,
    /// How it ended.
    over: Option<String>,
    /// Ends with this process, however that ends.
    #[cfg(unix)]
    line: std::os::unix::net::UnixStream,
}

struct Leaving {
    /// For people.
    what: &'static str,
    life: Life,
    by: Instant,
    killed: bool,
}

pub(super) struct Ended {
    pub text: String,
    pub well: bool,
}

impl Kept {
    pub fn new(member: Member, mut limits: Limits, program: Program, now: Instant) -> Kept {
        limits.stop_max = member.stop_max;
        Kept {
            member,
            minder: Minder::new(limits, now),
            program,
            before: None,
            listeners: Listeners::default(),
            life: None,
            next: None,
            next_failed: None,
            leaving: Vec::new(),
            left: None,
            returns: false,
            crashes: 0,
            gone: Vec::new(),
            ended: None,
        }
    }

    pub fn name(&self) -> &str {
        &self.member.name
    }

    /// Opens the ports that are not open yet, and closes those that it has no more.
    pub fn open_ports(&mut self) -> Result<(), String> {
        let wanted: Vec<SocketAddr> = self.member.listen.iter().map(|(at, _)| *at).collect();
        self.listeners.retain(|at| wanted.contains(&at));
        for (address, threads) in &self.member.listen {
            if !self.listeners.has(*address) {
                let opened = self.listeners.open(*address, *threads);
                opened.map_err(|error| {
                    format!("{} cannot listen on {address}: {error}", self.member.name)
                })?;
            }
        }
        Ok(())
    }

    /// Nobody will accept there for a while, so clients are to be refused instead of waiting.
    pub fn close_ports_if_idle(&mut self) {
        let soon = self.minder.is_wanted() && self.minder.word() != "crash loop" || self.returns;
        if self.life.is_none() && self.next.is_none() && !soon {
            self.listeners = Listeners::default();
        }
    }

    pub fn start(&mut self, now: Instant, plan: &Plan) {
        match self.open_ports().and_then(|()| self.spawn(now, plan, &self.program, false)) {
            Ok(life) => {
                println!("{} starts, process {}", self.name(), life.child.id());
                self.life = Some(life);
            }
            Err(error) => self.handle_end(now, format!("it cannot be started: {error}"), false),
        }
    }

    /// Starts a successor beside it.
    pub fn prepare(&mut self, now: Instant, plan: &Plan, program: &Program) -> Result<(), String> {
        self.open_ports()?;
        let life = self.spawn(now, plan, program, true)?;
        println!("{} starts beside its predecessor, process {}", self.name(), life.child.id());
        #[cfg(unix)]
        if let Some(old) = self.life.as_ref().filter(|_| self.member.gate)
            && let Err(error) = crate::line::introduce(&old.line, &life.line)
        {
            eprintln!("clients of {} are to resume: {error}", self.name());
        }
        self.next = Some(life);
        self.left = None;
        Ok(())
    }

    /// The successor could not be started.
    pub fn fail_next(&mut self, why: String) {
        self.next_failed = Some(why);
    }

    /// The successor takes its place, and it is told to end.
    pub fn switch(&mut self, now: Instant, plan: &Plan) {
        let Some(next) = self.next.take() else { return };
        if let Err(error) = crate::control::take_place(&plan.data, self.name()) {
            eprintln!("{} cannot be asked how it is: {error}", self.name());
        }
        self.before = Some(std::mem::replace(&mut self.program, next.program.clone()));
        self.minder.handle_switched(now);
        if let Some(mut life) = self.life.replace(next) {
            life.finish();
            let by = now + self.minder.stop_max();
            self.leaving.push(Leaving { what: OLD, life, by, killed: false });
        }
    }

    /// Ends the successor.
    pub fn give_up(&mut self, now: Instant, plan: &Plan) {
        self.next_failed = None;
        let Some(mut next) = self.next.take() else { return };
        crate::control::forget(&plan.data, &crate::control::successor_of(self.name()));
        // Others may know one that has said something: it gives back what it got. One that has not is ended at once.
        if next.said.is_some() && next.over.is_none() {
            next.finish();
            let by = now + self.minder.stop_max();
            self.leaving.push(Leaving { what: "the successor of", life: next, by, killed: false });
        }
    }

    fn spawn(
        &self,
        now: Instant,
        plan: &Plan,
        program: &Program,
        standby: bool,
    ) -> Result<Life, String> {
        let mut command = program.command();
        command.args(&plan.words).arg("--cluster").arg(&plan.file).args(["--process", self.name()]);
        for setting in &plan.settings {
            command.args(["--set", setting]);
        }
        command.env(SUPERVISED, if standby { STANDBY } else { "1" });
        if !self.gone.is_empty() {
            let gone: Vec<String> = self.gone.iter().map(u64::to_string).collect();
            command.env(GONE, gone.join(","));
        }
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        // Ctrl-C is for the supervisor alone.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let failed = |error: io::Error| error.to_string();
        // Its input brings the open ports, and ends with this process, however that ends.
        #[cfg(unix)]
        let line = {
            let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(failed)?;
            command.stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)));
            ours
        };
        #[cfg(not(unix))]
        command.stdin(Stdio::piped());
        let mut child = command.spawn().map_err(failed)?;
        // The other end is open here as long as the command is.
        drop(command);
        #[cfg(unix)]
        if let Err(error) = self.listeners.send(&line) {
            eprintln!("{} does not take its ports: {error}", self.name());
        }
        copy_lines(self.name(), child.stdout.take(), |line| println!("{line}"));
        copy_lines(self.name(), child.stderr.take(), |line| eprintln!("{line}"));
        Ok(Life {
            child,
            started: now,
            program: program.clone(),
            said: None,
            over: None,
            #[cfg(unix)]
            line,
        })
    }

    /// Sees what has ended.
    pub fn look(&mut self, now: Instant, plan: &Plan) {
        for leaving in &mut self.leaving {
            if now >= leaving.by && !leaving.killed {
                leaving.killed = true;
                eprintln!(
                    "{} {} is killed: it did not end in time",
                    leaving.what, self.member.name
                );
                let _ = leaving.life.child.kill();
            }
        }
        for gone in self.leaving.extract_if(.., |leaving| leaving.life.has_ended().is_some()) {
            let what = gone.what;
            let Some((text, well)) = gone.life.ended() else { continue };
            println!("{what} {} has ended: {text}", self.member.name);
            if what == OLD {
                self.left = (!well).then_some(text);
            }
        }
        if let Some(next) = &mut self.next {
            next.has_ended();
        }
        if let Some((text, well)) = self.life.as_mut().and_then(Life::has_ended) {
            if self.next.as_ref().is_some_and(|next| next.over.is_none()) {
                eprintln!("{} has ended: {text}; its successor takes its place", self.name());
                self.life = None;
                self.switch(now, plan);
            } else {
                self.handle_end(now, text, well);
            }
        }
    }

    fn handle_end(&mut self, now: Instant, text: String, well: bool) {
        if let Some(life) = self.life.take() {
            self.gone.extend(life.nodes());
            self.gone.drain(..self.gone.len().saturating_sub(GONE_MAX));
        }
        self.minder.handle_exit(now);
        if self.minder.is_wanted() {
            self.crashes += 1;
            eprintln!("{} has ended: {text}; it starts again", self.name());
        } else {
            println!("{} has ended: {text}", self.name());
        }
        self.ended = Some(Ended { text, well });
    }

    /// The processes of the system to be asked, by their names there, with their numbers.
    pub fn lives(&self) -> impl Iterator<Item = (String, u32)> + '_ {
        let life = self.life.iter().map(|life| (self.name().to_owned(), life.child.id()));
        let running = self.next.iter().filter(|next| next.over.is_none());
        let next = running.map(|next| (crate::control::successor_of(self.name()), next.child.id()));
        life.chain(next)
    }

    /// The process with this number has said how it is. Tells whether it is one of these.
    pub fn handle_said(&mut self, now: Instant, number: u32, said: Value) -> bool {
        let life = self.life.as_mut().filter(|life| life.child.id() == number);
        if let Some(life) = life {
            let turn = Duration::from_millis(said["turn_ms"].as_u64().unwrap_or_default());
            self.minder.handle_heard(now, turn);
            life.said = Some((now, said));
            return true;
        }
        let next = self.next.as_mut().filter(|next| next.child.id() == number);
        next.is_some_and(|next| next.said.replace((now, said)).is_none_or(|_| true))
    }

    pub fn finish(&mut self) {
        if let Some(life) = &mut self.life {
            life.finish();
        }
    }

    pub fn kill(&mut self, why: &str) {
        if let Some(life) = &mut self.life {
            eprintln!("{} is killed: {why}", self.member.name);
            let _ = life.child.kill();
        }
    }

    pub fn kill_all(&mut self, why: &str) {
        self.kill(why);
        for leaving in &mut self.leaving {
            let _ = leaving.life.child.kill();
        }
    }

    /// Nothing of it runs, and nothing is to.
    pub fn is_over(&self) -> bool {
        self.minder.is_down() && self.next.is_none() && self.leaving.is_empty()
    }

    pub fn facts(&self, now: Instant) -> Facts {
        let said = self.life.as_ref().and_then(|life| life.said.as_ref());
        let is_ready = |life: &Life| {
            let said = life.said.as_ref();
            said.is_some_and(|(at, said)| now - *at < SAID_OLD && said["ready"] == true)
        };
        Facts {
            name: self.name().to_owned(),
            state: self.minder.word(),
            wanted: self.minder.is_wanted(),
            down: self.minder.is_down(),
            ready: self.minder.word() == "running" && self.life.as_ref().is_some_and(is_ready),
            crashes: self.crashes,
            ended: self.ended.as_ref().map(|ended| ended.text.clone()).unwrap_or_default(),
            next: match &self.next {
                None => self.next_failed.clone().map_or(Next::None, Next::Ended),
                Some(Life { over: Some(text), .. }) => Next::Ended(text.clone()),
                Some(next) if is_ready(next) => Next::Ready,
                Some(_) => Next::Starting,
            },
            leaving: !self.leaving.is_empty(),
            left: self.left.clone(),
            figures: said.map(|(_, said)| Figures::read(said)),
        }
    }

    pub fn row(&self, now: Instant) -> Value {
        json!({
            "name": self.name(),
            "state": match self.facts(now) {
                Facts { state: "running", ready: false, .. } => "not ready",
                Facts { state, .. } => state,
            },
            "pid": self.life.as_ref().map(|life| life.child.id()),
            "up_s": self.life.as_ref().map(|life| (now - life.started).as_secs()),
            "restarts": self.minder.restarts(),
            "ended": self.ended.as_ref().map(|ended| &ended.text),
            "program": self.program.path().display().to_string(),
        })
    }
}

impl Life {
    /// What others know it by. Nothing if it never said so, or if the process that was started is not
    /// the one that said so, whose end nobody saw then.
    fn nodes(&self) -> Vec<u64> {
        let said = self.said.as_ref().map(|(_, said)| said);
        let said = said.filter(|said| said["pid"] == self.child.id());
        let lives = said.and_then(|said| said["lives"].as_array()).into_iter().flatten();
        lives.filter_map(Value::as_u64).collect()
    }

    fn finish(&mut self) {
        if ops::tell_process(self.child.id(), Signal::Finish).is_err() {
            // Where there are no signals, the end of its input tells it.
            drop(self.child.stdin.take());
        }
    }

    /// How it ended, and whether well, once it has.
    fn has_ended(&mut self) -> Option<(String, bool)> {
        let (text, well) = match self.child.try_wait() {
            Ok(None) => return None,
            Ok(Some(status)) => (describe(status), status.success()),
            Err(error) => (error.to_string(), false),
        };
        self.over = Some(text.clone());
        Some((text, well))
    }

    fn ended(mut self) -> Option<(String, bool)> {
        self.has_ended()
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
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
