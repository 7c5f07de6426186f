//! The reference layout as it is run in earnest: its eight processes under a supervisor, on servers of their own,
//! asked and told what to do the way people do it.
//!
//! The game of the processes is this very program, so that a benchmark can add kinds of its own to the arena:
//! `bench child-layout GAME --cluster FILE ..`.

use std::fs::File;
use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use env::Random;
use mainstay::config::Keys;
use mainstay::operate::{self, ProcessState, Progress, Replacement};
use mainstay::proto::ticket::TicketKeys;
use mainstay::{App, Exit};
use reference::Servers;

/// How long the layout may take to be ready, on a loaded machine.
const START_MAX: Duration = Duration::from_secs(120);
/// How long it may take to stop.
const STOP_MAX: Duration = Duration::from_secs(120);
/// How long it may take to end at once.
const KILL_MAX: Duration = Duration::from_secs(10);
/// How often it is asked how it is.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// What the processes run, and with what beside the sample's cluster file.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// The name of the game, for [`child`].
    pub game: &'a str,
    /// Settings of the cluster file that are different, as `--set` has them.
    pub settings: &'a [&'a str],
    /// Arguments for the supervisor, such as `--stall-after`.
    pub arguments: &'a [&'a str],
}

/// The layout; ended when it is dropped.
#[derive(Debug)]
pub struct Layout {
    // Dropped before the servers.
    supervisor: Supervisor,
    /// What it runs on.
    pub servers: Servers,
    file: PathBuf,
    data: PathBuf,
    gates: Vec<SocketAddr>,
    clears: bool,
}

#[derive(Debug)]
struct Supervisor(Child);

impl Layout {
    /// Starts servers and processes, and waits until all are ready.
    ///
    /// # Errors
    ///
    /// A server is not installed, or not all were ready within two minutes.
    pub fn start(plan: Plan<'_>) -> anyhow::Result<Layout> {
        let servers = Servers::start()?;
        let name = format!("mainstay-layout-{}-{}", plan.game, std::process::id());
        let folder = std::env::temp_dir().join(name);
        let file = servers.write_cluster_file(&folder, (Ipv4Addr::LOCALHOST, 0).into())?;
        Self::start_on(servers, file, plan)
    }

    /// As [`start`](Self::start), on servers that run and with a cluster file of one's own.
    ///
    /// # Errors
    ///
    /// Not all were ready within two minutes.
    pub fn start_on(servers: Servers, file: PathBuf, plan: Plan<'_>) -> anyhow::Result<Layout> {
        let data = operate::data_of(&file)?;
        let log = File::create(data.join("supervisor.log"))?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["child-layout", plan.game, "--cluster"]).arg(&file).arg("--up");
        // Each of its processes is this program in the same part.
        command.args(["--up-word", "child-layout", "--up-word", plan.game]).args(plan.arguments);
        for setting in plan.settings {
            command.args(["--set", setting]);
        }
        let command = command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log);
        let supervisor = Supervisor(command.spawn().context("starting the supervisor")?);
        let gates = Vec::new();
        let mut layout = Layout { supervisor, servers, file, data, gates, clears: false };
        layout.until_ready(START_MAX)?;
        layout.gates = layout.gates_now();
        ensure!(!layout.gates.is_empty(), "no gate names its address");
        Ok(layout)
    }

    /// The cluster file: `mainstay status FILE` and the rest work on it.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Where keys, logs and the ports for operators are.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Where clients come in, gate by gate. The ports are the supervisor's: they stay when gates are restarted.
    pub fn gates(&self) -> &[SocketAddr] {
        &self.gates
    }

    /// What seals tickets.
    ///
    /// # Errors
    ///
    /// The file of keys cannot be read.
    pub fn keys(&self) -> anyhow::Result<TicketKeys> {
        Ok(TicketKeys::new(Keys::kept(&self.data, &mut Random::from_os())?.tickets))
    }

    /// How all processes are, as `mainstay status` has it.
    pub fn states(&self) -> Vec<ProcessState> {
        operate::status(&self.data)
    }

    /// The number at the system of the process of that name.
    ///
    /// # Errors
    ///
    /// It does not run.
    pub fn pid(&self, name: &str) -> anyhow::Result<u32> {
        let state = self.states().into_iter().find(|state| state.name == name);
        let pid = state.and_then(|state| state.pid).with_context(|| format!("no {name} runs"))?;
        Ok(u32::try_from(pid)?)
    }

    /// What is not as it should be: each process that is not ready for work, and how it is.
    pub fn ill(&self) -> Vec<String> {
        let states = self.states();
        if states.is_empty() {
            return vec!["nothing answers".to_owned()];
        }
        let ill = states.iter().filter(|state| state.state != "running" || state.said.is_none());
        ill.map(|state| format!("{} is {}", state.name, state.state)).collect()
    }

    /// Waits until all processes are ready for work.
    ///
    /// # Errors
    ///
    /// They are not within that time, or the supervisor has ended.
    pub fn until_ready(&mut self, within: Duration) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.supervisor.0.try_wait()? {
                bail!("the supervisor has ended, {status}: {}", self.said());
            }
            let ill = self.ill();
            if ill.is_empty() {
                return Ok(());
            }
            if begun.elapsed() > within {
                bail!("not ready within {within:?}: {}; {}", ill.join(", "), self.said());
            }
            std::thread::sleep(ASK_EVERY);
        }
    }

    /// Has processes replaced, as `mainstay restart` does; `look` is called several times a second with how far it
    /// is, and at its end.
    ///
    /// # Errors
    ///
    /// The order is refused, or nobody answers any more. That it failed stands in what is given.
    pub fn replace(
        &self,
        what: &Replacement,
        mut look: impl FnMut(&Progress),
    ) -> anyhow::Result<Progress> {
        let number = operate::replace(&self.data, what)?;
        let mut heard = Instant::now();
        loop {
            if let Some(progress) = operate::progress(&self.data) {
                heard = Instant::now();
                ensure!(progress.number == number, "another order was given");
                look(&progress);
                if progress.over {
                    return Ok(progress);
                }
            }
            let silence = heard.elapsed();
            ensure!(silence < START_MAX, "the supervisor is silent: {}", self.said());
            std::thread::sleep(ASK_EVERY / 4);
        }
    }

    /// The end of what the supervisor and its processes printed.
    pub fn said(&self) -> String {
        let text = std::fs::read_to_string(self.data.join("supervisor.log")).unwrap_or_default();
        let last: Vec<&str> = text.lines().rev().take(12).collect();
        last.into_iter().rev().collect::<Vec<_>>().join(" | ")
    }

    /// Removes the folder with all logs when this is dropped. Without it they stay, for people to see what was wrong.
    pub fn clear(&mut self) {
        self.clears = true;
    }

    /// Stops all processes in order, as Ctrl-C does; gives whether all ended well.
    ///
    /// # Errors
    ///
    /// They do not end.
    pub fn stop(&mut self) -> anyhow::Result<bool> {
        tell("-TERM", self.supervisor.0.id())?;
        let begun = Instant::now();
        loop {
            if let Some(status) = self.supervisor.0.try_wait()? {
                return Ok(status.success());
            }
            ensure!(begun.elapsed() < STOP_MAX, "it does not stop: {}", self.said());
            std::thread::sleep(ASK_EVERY);
        }
    }

    fn gates_now(&self) -> Vec<SocketAddr> {
        let gates = self.states().into_iter().filter(|state| state.name.starts_with("gate"));
        let address = |state: ProcessState| state.said?["addresses"][0].as_str()?.parse().ok();
        gates.filter_map(address).collect()
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // A second signal ends all processes at once; their servers end after this.
        for _ in 0..2 {
            if self.supervisor.0.try_wait().is_ok_and(|status| status.is_none()) {
                let _ = tell("-TERM", self.supervisor.0.id());
                std::thread::sleep(ASK_EVERY);
            }
        }
        let begun = Instant::now();
        while self.supervisor.0.try_wait().is_ok_and(|status| status.is_none())
            && begun.elapsed() < KILL_MAX
        {
            std::thread::sleep(ASK_EVERY);
        }
        let _ = self.supervisor.0.kill();
        let _ = self.supervisor.0.wait();
        if self.clears {
            let _ = std::fs::remove_dir_all(&self.data);
        }
    }
}

/// Sends a signal, by the name that `kill` has for it.
///
/// # Errors
///
/// There is no such process, or it is not ours.
pub fn tell(signal: &str, pid: u32) -> anyhow::Result<()> {
    let status = Command::new("kill").args([signal, &pid.to_string()]).status()?;
    ensure!(status.success(), "process {pid} cannot be told {signal}");
    Ok(())
}

/// `bench child-layout GAME ..`: the supervisor, or one of the processes, with the game `app`.
pub fn child(app: App, arguments: &[&str]) -> Exit {
    if arguments.contains(&"--up") {
        // It ends with its parent, who holds the other end of our input; a process of it has its ports there.
        std::thread::spawn(|| {
            let _ = std::io::stdin().read(&mut [0]);
            std::process::exit(1);
        });
    }
    let words = arguments.iter().map(|word| (*word).to_owned());
    mainstay::run_with(app, words, |_| {})
}
