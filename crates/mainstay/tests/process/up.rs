//! Processes under a supervisor: their ports, their successors, their builds. Everything is this test binary,
//! called by scripts that stand for builds of a game.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use mainstay::operate::{self, Progress, Replacement, Trial};

use super::*;

pub(super) mod handover;
#[cfg(feature = "nats")]
mod tasks;

/// Nothing that is waited for takes so long but by a fault.
const PATIENCE: Duration = Duration::from_secs(90);

/// A cluster that is up, in a folder that goes with it.
struct Up {
    folder: PathBuf,
    child: Child,
    said: Arc<Mutex<String>>,
}

impl Up {
    /// Brings up the processes of `processes`, from the build `good`.
    fn new(name: &str, more: &str, processes: &str) -> Up {
        Self::leased(name, more, processes, Duration::from_secs(3))
    }

    /// As `new`; its nodes stay listed for so long without a word of theirs.
    fn leased(name: &str, more: &str, processes: &str, lease: Duration) -> Up {
        Self::of("clocks", name, (more, processes), lease)
    }

    /// As `leased`, of another game.
    fn of(game: &str, name: &str, (more, processes): (&str, &str), lease: Duration) -> Up {
        let folder =
            std::env::temp_dir().join(format!("mainstay-up-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        let key = KEY.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let text = format!(
            r#"{{"cluster": "bells", "keys": {{"tickets": [{{"id": 1, "key": "{key}"}}]}}, {more}
            "options": {{"registry": {{"lease": "{}s"}}}}, "processes": {{{processes}}}}}"#,
            lease.as_secs()
        );
        std::fs::write(folder.join("cluster.json"), text).unwrap();
        let good = build_of(game, &folder, "good", "");
        let file = folder.join("cluster.json").display().to_string();
        let mut child = Command::new(&good)
            .args(["--cluster", &file, "--up", "--up-program", &good.display().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let pipes: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for pipe in pipes {
            let said = said.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    *said.lock().unwrap() += &(line + "\n");
                }
            });
        }
        let up = Up { folder, child, said };
        up.until("all are ready", || {
            let states = up.states();
            !states.is_empty() && states.iter().all(|state| state.state == "running")
        });
        up
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !holds() {
            assert!(begun.elapsed() < PATIENCE, "{what} takes too long: {}", self.said());
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    fn states(&self) -> Vec<operate::ProcessState> {
        operate::status(&self.data())
    }

    fn state(&self, name: &str) -> operate::ProcessState {
        self.states().into_iter().find(|state| state.name == name).unwrap_or_default()
    }

    fn pid(&self, name: &str) -> u64 {
        self.state(name).pid.unwrap_or_else(|| panic!("{name} does not run: {}", self.said()))
    }

    fn address(&self, name: &str) -> SocketAddr {
        let said = self.state(name).said.unwrap();
        said["addresses"][0].as_str().unwrap().parse().unwrap()
    }

    fn order(&self, what: &Replacement) -> Result<u64, String> {
        operate::replace(&self.data(), what).map_err(|error| error.to_string())
    }

    /// Has processes replaced and waits until that is over.
    fn replace(&self, what: &Replacement) -> Progress {
        let number = self.order(what).unwrap();
        let mut last = Progress::default();
        self.until("replacing", || {
            last = operate::progress(&self.data()).unwrap_or_default();
            last.number == number && last.over
        });
        last
    }

    fn tell(&self, signal: &str, pid: u64) {
        let pid = pid.to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A build of the game: a script, which is this test binary with a fault.
fn build(folder: &Path, name: &str, fault: &str) -> PathBuf {
    build_of("clocks", folder, name, fault)
}

fn build_of(game: &str, folder: &Path, name: &str, fault: &str) -> PathBuf {
    let path = folder.join(name);
    let own = std::env::current_exe().unwrap().display().to_string();
    let text = format!(
        "#!/bin/sh\n{ARGUMENTS}=\"$(printf '%s\\n' \"$@\")\" {GAME}={game} {FAULT}='{fault}' \
         exec '{own}' child --exact --nocapture\n"
    );
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

const GATE: &str =
    r#""gate": {"roles": ["gate"], "listen": {"clients": "127.0.0.1:0", "mesh": 0}},"#;
const NODE: &str = r#""node": {"roles": ["node"], "workers": 1, "listen": {"mesh": 0}},"#;

fn one(name: &str) -> Replacement {
    Replacement { names: vec![name.to_owned()], ..Replacement::default() }
}

/// Connects all the time, and counts; each connect is refused or not.
struct Knocking {
    stop: Arc<AtomicBool>,
    tries: Arc<AtomicU64>,
    thread: Option<std::thread::JoinHandle<Vec<String>>>,
}

impl Knocking {
    fn at(address: SocketAddr) -> Knocking {
        let (stop, tries) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (stop.clone(), tries.clone());
        let thread = std::thread::spawn(move || {
            let mut refused = Vec::new();
            while !stopped.load(Ordering::SeqCst) {
                match TcpStream::connect(address) {
                    Ok(stream) => drop(stream),
                    Err(error) => refused.push(error.to_string()),
                }
                count.fetch_add(1, Ordering::SeqCst);
                std::thread::park_timeout(Duration::from_millis(2));
            }
            refused
        });
        Knocking { stop, tries, thread: Some(thread) }
    }

    /// Ends it; gives what was refused.
    fn end(mut self) -> Vec<String> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap()
    }
}

/// The ports are the supervisor's: a gate that crashes leaves no time in which connects are refused, and who comes
/// meanwhile is served by the next one. A gate that is to stay down refuses.
#[test]
fn h11_no_connect_is_refused_while_a_gate_is_killed_and_comes_back() {
    let up = Up::new("port", "", &format!("{GATE}{NODE}"));
    let address = up.address("gate");
    let knocking = Knocking::at(address);
    for _ in 0..2 {
        let before = up.pid("gate");
        up.tell("-KILL", before);
        // It comes in between two gates, and plays with the next one.
        let mut ann = stubborn_player(Address::tcp(address.to_string()), None);
        assert!(cluster::ring(&mut ann).0 > 0);
        up.until("the next gate", || up.state("gate").pid.is_some_and(|pid| pid != before));
        assert_eq!(up.address("gate"), address);
    }
    let tries = knocking.tries.load(Ordering::SeqCst);
    let refused = knocking.end();
    assert!(refused.is_empty() && tries > 20, "{tries} tries: {refused:?}");
    operate::drain(&up.data(), "gate").unwrap();
    up.until("its end", || up.state("gate").state == "stopped");
    up.until("refusals", || TcpStream::connect(address).is_err());
    operate::start(&up.data(), "gate").unwrap();
    up.until("its start", || up.state("gate").state == "running");
    assert!(TcpStream::connect(up.address("gate")).is_ok());
}

/// The new gate is there before the old one leaves, and clients go on with their sessions.
#[test]
fn h7_a_successor_takes_the_place_when_it_is_ready_and_the_old_one_drains() {
    let up = Up::new("switch", "", &format!("{GATE}{NODE}"));
    let address = up.address("gate");
    let mut ann = stubborn_player(Address::tcp(address.to_string()), None);
    assert_eq!(cluster::ring(&mut ann).0, 1);
    let knocking = Knocking::at(address);
    let before = up.pid("gate");
    let done = up.replace(&one("gate"));
    assert_eq!(done.failed, None, "{done:?} {}", up.said());
    let (rings, events) = cluster::ring(&mut ann);
    assert_eq!(rings, 2, "{events:#?}");
    assert!(!events.iter().any(|event| event.contains("Lost")), "{events:#?}");
    assert!(up.pid("gate") != before && up.state("gate").restarts == Some(0));
    assert_eq!(knocking.end(), Vec::<String>::new());
    // One that gets HUP has its supervisor do the same, and so does the supervisor for all.
    let (gate, node) = (up.pid("gate"), up.pid("node"));
    up.tell("-HUP", gate);
    up.until("another gate", || up.state("gate").pid.is_some_and(|pid| pid != gate));
    up.until("its end", || operate::progress(&up.data()).is_some_and(|progress| progress.over));
    let gate = up.pid("gate");
    assert_eq!(up.pid("node"), node);
    up.tell("-HUP", u64::from(up.child.id()));
    let changed = |name: &str, old: u64| up.state(name).pid.is_some_and(|pid| pid != old);
    up.until("all others", || changed("gate", gate) && changed("node", node));
    up.until("its end", || operate::progress(&up.data()).is_some_and(|progress| progress.over));
    let said = operate::progress(&up.data()).unwrap();
    let order = ["node is replaced", "gate is replaced"];
    let at = order.map(|text| said.lines.iter().position(|line| line == text).unwrap());
    assert!(at[0] < at[1] && said.failed.is_none(), "{said:?}");
}

/// What starts now hangs, ends, or cannot be started: the old one stays, and is asked and looked after as before.
#[test]
fn h7_a_successor_that_is_not_ready_in_time_ends_and_the_old_one_stays() {
    let up = Up::new("stay", "", &format!("{GATE}{NODE}"));
    let mut ann = stubborn_player(Address::tcp(up.address("gate").to_string()), None);
    assert_eq!(cluster::ring(&mut ann).0, 1);
    let (gate, node) = (up.pid("gate"), up.pid("node"));
    let all = Replacement { ready_max: Duration::from_secs(3), ..Replacement::default() };
    for (fault, why) in [
        ("hang", "the successor of node was not ready within 3 s; node stays"),
        ("exit", "the successor of node has ended: exit status: 7; node stays"),
    ] {
        build(&up.folder, "good", fault);
        let done = up.replace(&all);
        assert_eq!(done.failed.as_deref(), Some(why), "{}", up.said());
        assert_eq!((up.pid("gate"), up.pid("node")), (gate, node));
    }
    std::fs::remove_file(up.folder.join("good")).unwrap();
    let error = up.order(&all).unwrap_err();
    assert!(error.contains("cannot start") && error.contains("good"), "{error}");
    let states: Vec<String> = up.states().into_iter().map(|state| state.name).collect();
    assert_eq!(states, ["gate", "node"]);
    assert_eq!(cluster::ring(&mut ann).0, 2);
    // One that is down is not made up by a restart, and there is no other of this name.
    assert!(up.order(&one("bell")).unwrap_err().contains("there are gate, node"));
    operate::drain(&up.data(), "gate").unwrap();
    up.until("its end", || up.state("gate").state == "stopped");
    let error = up.order(&one("gate")).unwrap_err();
    assert!(error.contains("gate is stopped") && error.contains("--undo gate"), "{error}");
}

/// What only one can have is said before anything ends. In place it is done with a pause, in which clients wait.
#[test]
fn h7_what_cannot_run_beside_its_successor_is_refused_or_ends_first() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let node = format!(
        r#""node": {{"roles": ["node"], "workers": 1, "listen": {{"mesh": "127.0.0.1:{free}"}}}},"#
    );
    let up = Up::new("alone", "", &format!("{GATE}{node}"));
    let error = up.order(&Replacement::default()).unwrap_err();
    assert!(error.contains("node cannot run beside its successor"), "{error}");
    assert!(error.contains(&format!(":{free}: write \"mesh\": 0")), "{error}");
    assert!(error.ends_with("--in-place"), "{error}");
    let before = up.pid("node");
    let in_place = Replacement { in_place: true, ..one("node") };
    let done = up.replace(&in_place);
    assert_eq!(done.failed, None, "{done:?} {}", up.said());
    assert!(up.pid("node") != before && up.state("node").restarts == Some(0));
    let lines = ["node ends, and starts again after that", "node is back"];
    assert_eq!(done.lines, lines);
    // With a game that keeps nothing, all in one process, nobody else is found.
    drop(up);
    let up = Up::new(
        "lone",
        "",
        r#""all": {"roles": ["gate", "node"], "listen": {"clients": "127.0.0.1:0"}},"#,
    );
    let address = up.address("all");
    let error = up.order(&one("all")).unwrap_err();
    assert!(error.contains("name a \"coordinator\""), "{error}");
    let knocking = Knocking::at(address);
    let done = up.replace(&Replacement { in_place: true, ..one("all") });
    assert_eq!(done.failed, None, "{done:?} {}", up.said());
    assert_eq!(knocking.end(), Vec::<String>::new());
    assert_eq!(up.address("all"), address);
}

/// One after the other; a node that is not well stops it, and the others stay as they are.
#[test]
fn h9_a_rolling_restart_goes_on_while_all_are_well_and_stops_at_the_first_that_is_not() {
    let nodes = r#""node": {"roles": ["node"], "workers": 1, "count": 2, "listen": {"mesh": 0}},"#;
    let up = Up::new("rolling", "", &format!("{GATE}{nodes}"));
    let pids = || ["node-1", "node-2", "gate"].map(|name| up.pid(name));
    let before = pids();
    let done = up.replace(&Replacement::default());
    assert_eq!(done.failed, None, "{done:?} {}", up.said());
    let replaced = |line: &&String| line.ends_with("is replaced");
    let replaced: Vec<&String> = done.lines.iter().filter(replaced).collect();
    assert_eq!(replaced, ["node-1 is replaced", "node-2 is replaced", "gate is replaced"]);
    let after = pids();
    assert!(before.iter().all(|pid| !after.contains(pid)), "{before:?} {after:?}");
    // One stands still.
    up.tell("-STOP", after[1]);
    up.until("silence", || up.state("node-2").state == "not ready");
    let brief = Replacement { ready_max: Duration::from_secs(8), ..Replacement::default() };
    let done = up.replace(&brief);
    up.tell("-CONT", after[1]);
    let failed = done.failed.unwrap_or_default();
    assert_eq!(failed, "node-2 is running, but not ready", "{}", up.said());
    assert_eq!(pids()[2], after[2], "the gate is not touched");
}

/// Players who ring without end and check what they are told.
struct Ringing {
    stop: Arc<AtomicBool>,
    told: Arc<Mutex<Told>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// What they were told.
#[derive(Default)]
struct Told {
    /// Rings by the bell's lives: each counts once.
    rings: BTreeSet<(u64, u64)>,
    wrong: Vec<String>,
}

/// One of them.
struct Ringer {
    player: Polled,
    /// Since when a ring is under way, and the answer before it.
    state: Arc<Mutex<(Option<Instant>, (u64, u64))>>,
}

impl Ringer {
    fn new(address: &Address, account: u64) -> Ringer {
        Ringer { player: player_of(address.clone(), account, None), state: Arc::default() }
    }

    /// Rings, unless the last ring is not answered yet: each has one answer, in time.
    fn ring(&mut self, told: &Arc<Mutex<Told>>) {
        let since = self.state.lock().unwrap().0;
        if let Some(since) = since {
            if since.elapsed() > PATIENCE / 2 {
                told.lock().unwrap().wrong.push("a ring is not answered".to_owned());
                self.state.lock().unwrap().0 = Some(Instant::now());
            }
            return;
        }
        let (state, told) = (self.state.clone(), told.clone());
        let then = move |_: &mut _, reply: Result<(u64, u64), _>| {
            let (mut state, mut told) = (state.lock().unwrap(), told.lock().unwrap());
            if state.0.take().is_none() {
                told.wrong.push(format!("an answer to nothing: {reply:?}"));
            }
            let Ok(now) = reply else { return };
            let before = std::mem::replace(&mut state.1, now);
            if !told.rings.insert(now) || now.0 == before.0 && now.1 <= before.1 {
                told.wrong.push(format!("{now:?} after {before:?}: one ring counts twice"));
            }
        };
        // Refused while it is not bound or too much is on its way.
        if self.player.request_then("bell", MethodId::of("chime"), &(), then).is_ok() {
            self.state.lock().unwrap().0 = Some(Instant::now());
        }
    }
}

impl Ringing {
    /// So many of them.
    fn at(address: SocketAddr, players: u64) -> Ringing {
        let (stop, told) = (Arc::new(AtomicBool::new(false)), Arc::<Mutex<Told>>::default());
        let (stopped, heard) = (stop.clone(), told.clone());
        let address = Address::tcp(address.to_string());
        let thread = std::thread::spawn(move || {
            let mut all: Vec<_> = (100..100 + players).map(|n| Ringer::new(&address, n)).collect();
            while !stopped.load(Ordering::SeqCst) {
                for (ringer, account) in all.iter_mut().zip(100..) {
                    ringer.ring(&heard);
                    let mut events = std::iter::from_fn(|| ringer.player.poll());
                    if let Some(end) = events.find(|event| matches!(event, Event::Ended { .. })) {
                        let text = format!("the session of {account} has ended: {end:?}");
                        heard.lock().unwrap().wrong.push(text);
                        *ringer = Ringer::new(&address, account);
                    }
                }
                std::thread::park_timeout(Duration::from_millis(5));
            }
        });
        Ringing { stop, told, thread: Some(thread) }
    }

    /// Waits until all goes on, and checks that nobody was lost or told wrongly so far.
    fn check(&self, up: &Up, when: &str) {
        let rings = || self.told.lock().unwrap().rings.len();
        let before = rings();
        up.until("rings", || rings() > before + 20);
        let wrong = self.told.lock().unwrap().wrong.clone();
        assert!(wrong.is_empty(), "{when}: {wrong:#?} {}", up.said());
    }
}

impl Drop for Ringing {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

/// What the build that a process runs from does badly.
fn fault_of(pid: u64) -> String {
    told(pid, FAULT).unwrap_or("none is said".to_owned())
}

/// What a process was told by its environment.
fn told(pid: u64, name: &str) -> Option<String> {
    let all = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    let all = String::from_utf8_lossy(&all).into_owned();
    let found = all.split('\0').find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    found.map(str::to_owned)
}

/// Others had to wait six seconds until they took a killed node for dead, and longer for several, although its
/// supervisor had seen it end.
#[cfg(target_os = "linux")]
#[test]
fn d19_the_next_process_is_told_whose_end_its_supervisor_saw() {
    let up = Up::new("proof", "", &format!("{GATE}{NODE}"));
    let mut gone: Vec<String> = Vec::new();
    for _ in 0..2 {
        let before = up.state("node");
        let pid = before.pid.unwrap();
        assert_eq!(told(pid, "MAINSTAY_GONE").unwrap_or_default(), gone.join(","));
        let lives = before.said.unwrap()["lives"].as_array().unwrap().clone();
        assert_eq!(lives.len(), 1);
        gone.extend(lives.iter().map(ToString::to_string));
        up.tell("-KILL", pid);
        up.until("the next", || {
            let now = up.state("node");
            now.state == "running" && now.pid.is_some_and(|now| now != pid)
        });
    }
    // One that ends in order says so itself.
    let pid = up.pid("node");
    let done = up.replace(&one("node"));
    assert_eq!(done.failed, None, "{}", up.said());
    assert_eq!(told(up.pid("node"), "MAINSTAY_GONE").unwrap_or_default(), gone.join(","));
    assert!(up.pid("node") != pid);
}

/// What was sent to a killed node waited for three seconds, because the node was listed until its lease ran out,
/// although its supervisor had seen it end. One without a store had nobody else to tell of it.
#[cfg(target_os = "linux")]
#[test]
fn h11_a_node_whose_end_its_supervisor_saw_is_listed_no_more() {
    let options = ::cluster::Options { lease: 2 * PATIENCE, ..::cluster::Options::default() };
    let up = Up::leased("unlisted", "", &format!("{GATE}{NODE}"), options.lease);
    let folder = up.data().join("coordinator");
    let onlooker = ::cluster::Cluster::attach(&folder, options, &Clock::system()).unwrap();
    let is_listed = |life| onlooker.directory().node(life).is_some();
    let said = up.state("node").said.unwrap();
    let life = mainstay::proto::Incarnation(said["lives"][0].as_u64().unwrap());
    up.until("it is listed", || is_listed(life));
    up.tell("-KILL", up.pid("node"));
    up.until("it is listed no more", || !is_listed(life));
}

/// Three bad builds: each is stopped and taken back without anybody's doing, and then a good one goes through.
/// Whoever plays meanwhile keeps the session and is answered.
#[cfg(target_os = "linux")]
#[test]
fn h9_bad_builds_are_taken_back_by_themselves_and_a_good_one_goes_through() {
    let up = Up::new("upgrade", "", &format!("{GATE}{NODE}"));
    let ringing = Ringing::at(up.address("gate"), 6);
    ringing.check(&up, "before all");
    let upgrade = |fault: &str, watch: u64| {
        let binary = Some(build(&up.folder, &format!("build-{fault}"), fault));
        let watch = Duration::from_secs(watch);
        let upgrade = Some(Trial { binary, canaries: 1, watch });
        Replacement { ready_max: Duration::from_secs(20), upgrade, ..Replacement::default() }
    };
    let steps = |least: u64| {
        let said = up.state("node").said.unwrap_or_default();
        said["steps"]["clockwork"]["count"].as_u64().is_some_and(|count| count >= least)
    };
    let gate = up.pid("gate");
    for (fault, why) in [
        ("hang", ["the successor of node was not ready within 5 s; node stays"; 2]),
        ("panic", ["handlers panicked in"; 2]),
        // Steps are messages too: beside other load the second may show first.
        ("slow", ["a step of clockwork takes", "a message takes about"]),
    ] {
        // The old build shows what is usual.
        up.until("steps", || steps(60));
        let mut order = upgrade(fault, 80);
        if fault == "hang" {
            order.ready_max = Duration::from_secs(5);
        }
        let done = up.replace(&order);
        let failed = done.failed.unwrap_or_default();
        let is_why = why.iter().any(|why| failed.contains(why));
        assert!(is_why, "{fault}: {failed}: {}", up.said());
        if fault != "hang" {
            assert!(failed.ends_with("; all run from the old build again"), "{failed}");
        }
        assert_eq!(fault_of(up.pid("node")), "", "{}", up.said());
        assert_eq!(up.pid("gate"), gate, "the others never had it");
        ringing.check(&up, fault);
    }
    let done = up.replace(&upgrade("none", 2));
    assert_eq!(done.failed, None, "{}", up.said());
    assert_eq!(["gate", "node"].map(|name| fault_of(up.pid(name))), ["none", "none"]);
    ringing.check(&up, "a good build");
    // What crashes comes back from the new build.
    let before = up.pid("node");
    up.tell("-KILL", before);
    up.until("the next", || up.state("node").pid.is_some_and(|pid| pid != before));
    assert_eq!(fault_of(up.pid("node")), "none");
    ringing.check(&up, "a crash");
}
