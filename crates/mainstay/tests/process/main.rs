//! A game as a process of its own: signals, exit codes and what it says. The process is this test
//! binary, called again.

mod bus;
mod cluster;
mod errands;
#[cfg(unix)]
mod up;
mod waiting;
#[cfg(any(feature = "postgres", feature = "mysql", feature = "redis"))]
mod watch;
mod zones;

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use mainstay::Exit;
use mainstay::client::{Address, Event, Grant, Polled};
use mainstay::env::{Clock, Random, WallTime};
use mainstay::prelude::*;
use mainstay::proto::MethodId;
use mainstay::proto::ticket::{Claims, TicketKeys};

/// Names the arguments of the child, one per line.
const ARGUMENTS: &str = "GAME_ARGUMENTS";
/// Names the game of the child, if it is not the bells.
const GAME: &str = "GAME_NAME";

/// Names what a build of the game does badly.
const FAULT: &str = "GAME_FAULT";

const KEY: [u8; 32] = [0xab; 32];

#[entity]
#[derive(Default)]
struct Bell {
    rings: u64,
    /// Tells one life of it from another.
    life: u64,
}

#[rpc]
impl Bell {
    #[request(client)]
    fn ring(&mut self) -> u64 {
        assert!(fault() != "panic", "this build rings no bell");
        self.rings += 1;
        self.rings
    }

    #[hook]
    fn created(&mut self, cx: &mut Cx<Self>) {
        self.life = cx.random(|random| random.u64());
    }

    /// Which life of the bell it is, and how often it has rung in it.
    #[request(client)]
    fn chime(&mut self) -> (u64, u64) {
        (self.life, self.ring())
    }

    /// Never gives its worker back.
    #[tell(client)]
    fn hang(&mut self) {
        println!("hanging");
        loop {
            std::thread::park();
        }
    }
}

/// A scene whose steps take time.
#[entity(steps_per_second = 40)]
#[derive(Default)]
struct Clockwork;

#[rpc]
impl Clockwork {
    #[hook]
    fn step(&mut self, _cx: &mut Cx<Self>, _steps: mainstay::scene::Steps) {
        // Short enough for a bad measurement not to count, or three times as long as is usual.
        let spin = match fault().as_str() {
            "none" => return,
            "slow" => Duration::from_millis(3),
            _ => Duration::from_millis(1),
        };
        let begun = std::time::Instant::now();
        while begun.elapsed() < spin {}
    }
}

/// Not a test of its own: what the child runs.
#[test]
fn child() {
    let Ok(arguments) = std::env::var(ARGUMENTS) else { return };
    let is_process = arguments.lines().any(|word| word == "--process");
    match fault().as_str() {
        "hang" if is_process => std::thread::park(),
        "exit" if is_process => std::process::exit(7),
        _ => {}
    }
    let app = match std::env::var(GAME).as_deref() {
        Ok("post") => bus::app(),
        Ok("errands") => errands::app(),
        #[cfg(any(feature = "postgres", feature = "mysql", feature = "redis"))]
        Ok("tills") => watch::app(),
        #[cfg(unix)]
        Ok("echoes") => up::handover::app(),
        Ok("tallies") => waiting::app(),
        Ok("gatehouses") => zones::app(),
        Ok("clocks") => bells().entity::<Clockwork>().bind::<Clockwork>("clock", |_| 1),
        _ => bells(),
    };
    let exit = mainstay::run_with(app, arguments.lines().map(str::to_owned), |running| {
        println!("{} has started", running.name());
    });
    std::process::exit(match exit {
        Exit::Well => 0,
        Exit::Unfinished => 1,
        Exit::NotStarted => 2,
    });
}

fn bells() -> App {
    App::new("bells").entity::<Bell>().bind::<Bell>("bell", |_| 1)
}

/// What this build does badly.
fn fault() -> String {
    std::env::var(FAULT).unwrap_or_default()
}

struct Game {
    child: Child,
    output: BufReader<ChildStdout>,
    data: PathBuf,
}

impl Game {
    fn start(name: &str, more: &[&str]) -> Game {
        let data = std::env::temp_dir().join(format!("mainstay-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&data);
        let folder = data.display().to_string();
        let tickets = KEY.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let tickets = format!("keys.tickets=[{{\"id\": 1, \"key\": \"{tickets}\"}}]");
        let mut arguments = vec!["--data", &folder, "--set", &tickets];
        if !more.contains(&"--listen") {
            arguments.extend(["--listen", "127.0.0.1:0"]);
        }
        arguments.extend(more);
        Game::spawn(data, &arguments)
    }

    fn spawn(data: PathBuf, arguments: &[&str]) -> Game {
        Game::spawn_game("bells", data, arguments)
    }

    fn spawn_game(game: &str, data: PathBuf, arguments: &[&str]) -> Game {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["child", "--exact", "--nocapture"])
            .env(ARGUMENTS, arguments.join("\n"))
            .env(GAME, game)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Game { child, output, data }
    }

    /// Reads on until a line holds `text`.
    fn wait_for(&mut self, text: &str) -> String {
        let mut line = String::new();
        while !line.contains(text) {
            line.clear();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "it ended before `{text}`");
        }
        line
    }

    /// Where clients come in.
    fn address(&mut self) -> Address {
        let line = self.wait_for("is ready: http://");
        Address::tcp(line.trim().rsplit('/').next().unwrap())
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    fn end(mut self) -> (ExitStatus, String) {
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap(), said)
    }
}

impl Drop for Game {
    fn drop(&mut self) {
        // Does nothing to one that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.data);
    }
}

fn player(address: Address) -> Polled {
    let mut player = stubborn_player(address, Some(1));
    while !player.core().is_bound("bell") {
        player.poll();
        rest();
    }
    player
}

/// A player that tries so often to come in.
fn stubborn_player(address: Address, tries_max: Option<u32>) -> Polled {
    player_of(address, 7, tries_max)
}

fn player_of(address: Address, account: u64, tries_max: Option<u32>) -> Polled {
    player_with(&KEY, address, account, tries_max)
}

/// With a ticket that this key sealed.
fn player_with(key: &[u8; 32], address: Address, account: u64, tries_max: Option<u32>) -> Polled {
    let wall = Clock::system().wall();
    let expires = WallTime(wall.0 + 60_000);
    let name = "Ann".to_owned();
    let claims = Claims { account: AccountId(account), level: 0, name, issued: wall, expires };
    let grant: Grant = TicketKeys::new(vec![(1, *key)]).issue(&mut Random::from_os(), claims);
    let mut options = mainstay::client::Options::new(address);
    options.limits.tries_max = tries_max;
    Polled::new(options, grant)
}

/// Leaves the core to others for a moment.
fn rest() {
    std::thread::park_timeout(Duration::from_millis(1));
}

/// Polls until the server's close is known.
fn told(player: &mut Polled) -> String {
    loop {
        match player.poll() {
            Some(event @ (Event::Lost { .. } | Event::Ended { .. })) => {
                return format!("{event:?}");
            }
            _ => rest(),
        }
    }
}

#[test]
fn k13_int_and_term_end_the_process_well_and_it_reports() {
    for signal in ["-INT", "-TERM"] {
        let mut game = Game::start(&format!("signal{signal}"), &[]);
        let mut ann = player(game.address());
        game.signal(signal);
        assert!(told(&mut ann).contains("GoingAway"));
        let (status, said) = game.end();
        assert_eq!(status.code(), Some(0), "{said}");
        let report = said.lines().find(|line| line.contains("stopped"));
        let report = report.unwrap_or_else(|| panic!("no report: {said}"));
        assert!(report.contains("connections=1") && report.contains("sessions="), "{report}");
    }
}

#[test]
fn k13_a_signal_during_the_start_is_honoured() {
    let game = Game::start("early", &[]);
    game.signal("-TERM");
    let (status, said) = game.end();
    // Either before the process listened to signals, or in order right after its start.
    assert!(status.code().is_none_or(|code| code == 0), "{status:?} {said}");
}

#[test]
fn k13_hup_does_not_end_a_process_without_a_supervisor() {
    let mut game = Game::start("hup", &[]);
    let address = game.address();
    game.signal("-HUP");
    let ann = player(address);
    assert!(ann.core().is_connected());
    game.signal("-INT");
    assert_eq!(game.end().0.code(), Some(0));
}

#[test]
fn k14_what_hangs_is_forced_by_a_second_signal_or_the_limit_and_says_so() {
    let cases = [("second", "3600s", "a second signal"), ("limit", "1s", "the limit for stopping")];
    for (name, limit, why) in cases {
        let limit = format!("options.drain.node_max={limit}");
        let mut game = Game::start(name, &["--set", &limit]);
        let mut ann = player(game.address());
        ann.tell("bell", MethodId::of("hang"), &()).unwrap();
        while ann.poll().is_some() {}
        game.wait_for("hanging");
        game.signal("-INT");
        if name == "second" {
            // Once the first is known to be heard.
            told(&mut ann);
            game.signal("-INT");
        }
        let (status, said) = game.end();
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.contains(&format!("forced to end by {why}")), "{said}");
    }
}

#[test]
fn k12_a_port_in_use_and_a_bad_option_are_said() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (status, said) = Game::start("port", &["--listen", &address]).end();
    assert_eq!(status.code(), Some(2), "{said}");
    assert!(said.contains(&address) && said.contains("in use"), "{said}");
    let (status, said) = Game::start("option", &["--set", "options.gate.hartbeat=6s"]).end();
    assert_eq!(status.code(), Some(2), "{said}");
    assert!(said.contains("heartbeat"), "{said}");
}

/// What one writes to a terminal without a cluster file works without anything else running.
#[test]
fn k12_one_command_serves() {
    let mut game = Game::start("serve", &[]);
    let mut ann = player(game.address());
    let (sender, answer) = std::sync::mpsc::channel();
    let ring = MethodId::of("ring");
    ann.request_then("bell", ring, &(), move |_, reply: Result<u64, _>| {
        let _ = sender.send(reply);
    })
    .unwrap();
    let reply = loop {
        ann.poll();
        match answer.recv_timeout(Duration::from_millis(1)) {
            Ok(reply) => break reply,
            Err(_) => continue,
        }
    };
    assert_eq!(reply, Ok(1));
    game.signal("-INT");
    assert_eq!(game.end().0.code(), Some(0));
}

/// All of the only worker's time goes into one turn that does not end.
#[test]
fn k5_a_process_answers_while_its_workers_are_stuck() {
    let mut game = Game::start("stuck", &["--set", "processes.local.workers=1"]);
    let mut ann = player(game.address());
    ann.tell("bell", MethodId::of("hang"), &()).unwrap();
    while ann.poll().is_some() {}
    game.wait_for("hanging");
    std::thread::park_timeout(Duration::from_millis(50));
    let begun = std::time::Instant::now();
    let states = mainstay::operate::status(&game.data);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!((states[0].name.as_str(), states[0].state.as_str()), ("local", "running"));
    assert_eq!(states[0].pid, Some(u64::from(game.child.id())));
    assert!(states[0].figure("turn_ms").is_some_and(|ms| ms >= 10), "{states:?}");
    // A message would wait at least as long as that turn has taken already.
    assert!(states[0].figure("delay_ms").is_some_and(|ms| ms >= 10), "{states:?}");
    assert!(states[0].figure("memory_bytes").is_some_and(|bytes| bytes > 1 << 20), "{states:?}");
    let top = mainstay::operate::top(&states, None);
    assert!(top.lines().nth(1).is_some_and(|line| line.starts_with("local")), "{top}");
}
