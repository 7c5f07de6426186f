use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::error::Error;
use crate::port::Port;
use crate::process::{all_stopped, give, poll, signal_all, user, within};

/// How long a server may take to start or to stop, on a loaded machine.
const LIMIT: Duration = Duration::from_secs(90);

/// Waits until its standard input closes, which it does when the process that holds the other end is gone; then ends
/// all that works in the folder, and removes it.
const WATCHDOG: &str = r#"
trap '' INT TERM HUP
cd /
while read -r line; do :; done
for round in 1 2 3; do
    for process in /proc/[0-9]*; do
        case "$(readlink "$process/cwd")" in "$1" | "$1"/*) kill -9 "${process#/proc/}" ;; esac
    done
done 2>/dev/null
rm -rf "$1"
"#;

/// Makes folder names differ within a process.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// One program of a server.
pub(crate) struct Program {
    pub path: PathBuf,
    pub arguments: Vec<OsString>,
    pub environment: Vec<(&'static str, OsString)>,
}

/// What a server is, for [`Instance::prepare`].
pub(crate) struct Plan {
    pub server: &'static str,
    /// Whom it runs as, where this process is root.
    pub user: Option<&'static str>,
    /// Ends it cleanly.
    pub stop: Signal,
    /// Tells whether it is ready.
    pub probe: fn(u16) -> bool,
}

/// A server with its folder and port: what all servers of this crate have in common.
///
/// All methods may be called from any thread.
pub struct Instance {
    plan: Plan,
    folder: PathBuf,
    port: Port,
    programs: Mutex<Vec<Program>>,
    running: Mutex<Vec<Child>>,
    watchdog: Child,
}

impl Instance {
    /// A folder, a port and a watchdog, with nothing started yet.
    pub(crate) fn prepare(plan: Plan) -> Result<Self, Error> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("mainstay-{}-{}-{number}", plan.server, std::process::id());
        // Links are resolved because the kernel names working folders so.
        let parent = std::env::temp_dir().canonicalize().map_err(Error::system("folder"))?;
        let folder = parent.join(name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).map_err(Error::system("folder of a server"))?;
        let port = Port::reserve()?;
        let watchdog = Command::new("sh")
            .args(["-c", WATCHDOG, "sh"])
            .arg(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(Error::system("watchdog"))?;
        let programs = Mutex::new(Vec::new());
        Ok(Self { plan, folder, port, programs, running: Mutex::new(Vec::new()), watchdog })
    }

    /// What to start, in this order; the last is the server itself.
    pub(crate) fn set_programs(&self, programs: Vec<Program>) {
        *self.programs.lock().expect("no panic under this lock") = programs;
    }

    /// Runs a program to its end, as the server's user and in its folder.
    pub(crate) fn run(&self, program: &Path, arguments: &[OsString]) -> Result<(), Error> {
        self.give_folder()?;
        let mut command = self.command(program);
        let output = command.args(arguments).stdin(Stdio::null()).output();
        let output = output.map_err(Error::system(program.display().to_string()))?;
        if output.status.success() {
            return Ok(());
        }
        let text = [output.stdout, output.stderr].concat();
        let output = String::from_utf8_lossy(&text).into_owned();
        Err(Error::Program { program: program.display().to_string(), output })
    }

    fn give_folder(&self) -> Result<(), Error> {
        match self.plan.user.and_then(user) {
            Some(user) => give(&self.folder, user).map_err(Error::system("owner of the folder")),
            None => Ok(()),
        }
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.folder);
        if let Some((user, group)) = self.plan.user.and_then(user) {
            command.uid(user).gid(group);
        }
        command
    }

    /// Starts the programs without waiting until they are ready.
    pub(crate) fn spawn(&self) -> Result<(), Error> {
        self.give_folder()?;
        let mut running = self.running.lock().expect("no panic under this lock");
        assert!(running.is_empty(), "{} runs already", self.plan.server);
        for program in self.programs.lock().expect("no panic under this lock").iter() {
            let log = File::options().create(true).append(true).open(self.log_path());
            let log = log.map_err(Error::system("log of a server"))?;
            let child = self
                .command(&program.path)
                .args(&program.arguments)
                .envs(program.environment.iter().cloned())
                .stdin(Stdio::null())
                .stdout(log.try_clone().map_err(Error::system("log of a server"))?)
                .stderr(log)
                .process_group(0)
                .spawn()
                .map_err(Error::system(program.path.display().to_string()))?;
            running.push(child);
        }
        Ok(())
    }

    /// Waits until the server answers its protocol.
    pub(crate) fn await_ready(&self) -> Result<(), Error> {
        let start = Instant::now();
        let mut ended = None;
        let ready = poll(LIMIT, || {
            let mut running = self.running.lock().expect("no panic under this lock");
            ended = running.last_mut().and_then(|child| child.try_wait().ok().flatten());
            drop(running);
            ended.is_some() || (self.plan.probe)(self.port.number)
        });
        let server = self.plan.server;
        if let Some(status) = ended {
            return Err(Error::Ended { server, status: status.to_string(), log: self.log() });
        }
        if ready {
            return Ok(());
        }
        let waited = start.elapsed();
        Err(Error::Late { server, what: "become ready", waited, log: self.log() })
    }

    /// Starts it again on the same data and port, after [`kill`](Self::kill) or [`stop`](Self::stop). Returns once
    /// it is ready.
    pub fn start_again(&self) -> Result<(), Error> {
        self.spawn()?;
        self.await_ready()
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port.number
    }

    /// Where it keeps everything; removed when this is dropped.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Ends all its processes at once, as a crash would. Returns when they are gone and the port is free.
    pub fn kill(&self) {
        let mut running = self.running.lock().expect("no panic under this lock");
        // First stopped, so that none sees another die and reacts.
        signal_all(&self.folder, Signal::STOP);
        poll(LIMIT, || {
            signal_all(&self.folder, Signal::KILL);
            // A child that has not come as far as its folder yet is not seen above.
            for child in running.iter_mut() {
                let _ = child.kill();
            }
            within(&self.folder).is_empty()
        });
        for mut child in running.drain(..) {
            let _ = child.wait();
        }
        poll(LIMIT, || TcpListener::bind(("127.0.0.1", self.port.number)).is_ok());
    }

    /// Ends it cleanly. Returns when all its processes are gone.
    pub fn stop(&self) -> Result<(), Error> {
        let mut running = self.running.lock().expect("no panic under this lock");
        if let Some(pid) = running.last().and_then(|child| Pid::from_raw(child.id() as i32)) {
            let _ = kill_process(pid, self.plan.stop);
        }
        let start = Instant::now();
        let ended = poll(LIMIT, || {
            running.last_mut().is_none_or(|child| child.try_wait().is_ok_and(|end| end.is_some()))
        });
        drop(running);
        if !ended {
            let (server, waited) = (self.plan.server, start.elapsed());
            return Err(Error::Late { server, what: "stop", waited, log: self.log() });
        }
        // What the server leaves behind, such as a name service.
        self.kill();
        Ok(())
    }

    /// Stops all its processes in mid-flight: connections stay open, nothing answers.
    /// Returns when they stand still.
    pub fn freeze(&self) {
        poll(LIMIT, || {
            signal_all(&self.folder, Signal::STOP);
            all_stopped(&self.folder)
        });
    }

    /// Lets them run on after [`freeze`](Self::freeze).
    pub fn thaw(&self) {
        signal_all(&self.folder, Signal::CONT);
    }

    /// The end of what it printed.
    pub fn log(&self) -> String {
        let text = fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&text[text.len().saturating_sub(4096)..]).into_owned()
    }

    fn log_path(&self) -> PathBuf {
        self.folder.join("log")
    }
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} on 127.0.0.1:{}", self.plan.server, self.port.number)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.folder);
        // Nothing is left for it to do; the line only makes the write side ours until here.
        if let Some(stdin) = &mut self.watchdog.stdin {
            let _ = stdin.write_all(b"\n");
        }
        let _ = self.watchdog.kill();
        let _ = self.watchdog.wait();
    }
}

/// Gives a server type what every [`Instance`] can.
macro_rules! instance {
    ($name:ident) => {
        impl std::ops::Deref for $name {
            type Target = crate::instance::Instance;
            fn deref(&self) -> &Self::Target {
                &self.instance
            }
        }
    };
}
pub(crate) use instance;

/// Builds an argument list.
macro_rules! arguments {
    ($($argument:expr),* $(,)?) => {
        vec![$(std::ffi::OsString::from($argument)),*]
    };
}
pub(crate) use arguments;
