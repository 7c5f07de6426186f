//! Processes of one cluster file that find each other through their coordinator.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use ::cluster::{Cluster, Directory, NodeInfo};
use mainstay::client::CallError as Refused;
use mainstay::proto::{Incarnation, KindId};

use super::*;

/// Nothing that is waited for takes so long but by a fault.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// A folder with a cluster file in it, which goes with the test.
pub(super) struct Layout(pub(super) PathBuf);

impl Layout {
    /// A gate and a node, and what else the file says.
    pub(super) fn new(name: &str, more: &str) -> Layout {
        Layout::with_nodes(name, more, &["node"])
    }

    /// A gate and nodes.
    fn with_nodes(name: &str, more: &str, nodes: &[&str]) -> Layout {
        let node = |name: &&str| {
            format!(
                r#""{name}": {{"roles": ["node"], "workers": 1, "listen": {{"mesh": "127.0.0.1:0"}}}}"#
            )
        };
        Layout::with(name, more, &nodes.iter().map(node).collect::<Vec<_>>().join(","))
    }

    /// A gate and other processes.
    pub(super) fn with(name: &str, more: &str, others: &str) -> Layout {
        let folder = std::env::temp_dir().join(format!("mainstay-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        let key = KEY.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let text = format!(
            r#"{{"cluster": "bells", "keys": {{"tickets": [{{"id": 1, "key": "{key}"}}]}}, {more}
            "options": {{"registry": {{"lease": "3s"}}}},
            "processes": {{
                "gate": {{"roles": ["gate"], "listen": {{"clients": "127.0.0.1:0", "mesh": "127.0.0.1:0"}}}},
                {others},
            }}}}"#
        );
        std::fs::write(folder.join("cluster.json"), text).unwrap();
        Layout(folder)
    }

    fn start(&self, process: &str) -> Game {
        self.start_with(process, &[])
    }

    fn start_with(&self, process: &str, more: &[&str]) -> Game {
        self.start_game("bells", process, more)
    }

    pub(super) fn start_game(&self, game: &str, process: &str, more: &[&str]) -> Game {
        let file = self.0.join("cluster.json").display().to_string();
        let mut arguments = vec!["--cluster", &file, "--process", process];
        arguments.extend(more);
        // A folder that is not there: the cluster's outlives each process.
        Game::spawn_game(game, self.0.join(process), &arguments)
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Rings until it is answered; gives what the bell said, and what happened meanwhile.
pub(super) fn ring(player: &mut Polled) -> (u64, Vec<String>) {
    let start = Instant::now();
    let (sender, answer) = channel();
    let (mut events, mut asked) = (Vec::new(), false);
    loop {
        if !asked && player.core().is_bound("bell") {
            let sender = sender.clone();
            let then = move |_: &mut _, reply: Result<u64, _>| drop(sender.send(reply));
            asked = player.request_then("bell", MethodId::of("ring"), &(), then).is_ok();
        }
        while let Some(event) = player.poll() {
            events.push(format!("{event:?}"));
        }
        match answer.try_recv() {
            Ok(Ok(rings)) => return (rings, events),
            Ok(Err(error)) => {
                events.push(format!("{error:?}"));
                asked = false;
            }
            Err(_) => rest(),
        }
        assert!(start.elapsed() < PATIENCE, "no answer: {events:#?}");
    }
}

/// What is in memory only goes with its process, the session does not: the gate still has it, and
/// tells the next home.
#[test]
fn a_gate_and_a_node_find_each_other_and_a_killed_node_is_replaced() {
    let layout = Layout::new("find", "");
    // The gate is there before anybody knows a node.
    let mut gate = layout.start("gate");
    let address = gate.address();
    let mut ann = stubborn_player(address, None);
    let mut node = layout.start("node");
    assert_eq!(ring(&mut ann).0, 1);
    assert_eq!(ring(&mut ann).0, 2);
    node.child.kill().unwrap();
    node.child.wait().unwrap();
    let _node = layout.start("node");
    let (rings, events) = ring(&mut ann);
    assert_eq!(rings, 1, "the bell began anew: {events:#?}");
    let felt = ["Ended", "Lost {", "Connected"];
    let is_felt = |event: &String| felt.iter().any(|e| event.starts_with(e));
    assert!(!events.iter().any(is_felt), "{events:#?}");
}

/// Some who ring, each with a session of its own.
struct Crowd {
    players: Vec<Polled>,
    answers: Receiver<Result<u64, String>>,
    sender: Sender<Result<u64, String>>,
    open: usize,
    answered: Vec<u64>,
    /// What else happened to any of them.
    events: Vec<String>,
}

impl Crowd {
    fn new(address: &Address, accounts: std::ops::Range<u64>) -> Crowd {
        let (sender, answers) = channel();
        let players = accounts.map(|account| player_of(address.clone(), account, None)).collect();
        let (open, answered, events) = (0, Vec::new(), Vec::new());
        let mut crowd = Crowd { players, answers, sender, open, answered, events };
        crowd.until("all are in", |crowd| {
            crowd.players.iter().all(|player| player.core().is_bound("bell"))
        });
        crowd.events.clear();
        crowd
    }

    fn until(&mut self, what: &str, mut holds: impl FnMut(&Crowd) -> bool) {
        let start = Instant::now();
        while !holds(self) {
            for player in &mut self.players {
                while let Some(event) = player.poll() {
                    self.events.push(format!("{event:?}"));
                }
            }
            while let Ok(answer) = self.answers.try_recv() {
                self.open -= 1;
                match answer {
                    Ok(rings) => self.answered.push(rings),
                    Err(error) => self.events.push(error),
                }
            }
            assert!(start.elapsed() < PATIENCE, "{what}: {:#?}", self.events);
            rest();
        }
    }

    /// Each rings once, and hears the answer.
    fn round(&mut self) {
        for player in &mut self.players {
            let sender = self.sender.clone();
            let then = move |_: &mut _, reply: Result<u64, Refused>| {
                drop(sender.send(reply.map_err(|error| format!("{error:?}"))));
            };
            player.request_then("bell", MethodId::of("ring"), &(), then).unwrap();
            self.open += 1;
        }
        self.until("all are answered", |crowd| crowd.open == 0);
    }

    /// So often that what follows from a change has time to, whatever the machine is busy with.
    fn play(&mut self, span: Duration) {
        let start = Instant::now();
        while start.elapsed() < span {
            self.round();
        }
    }
}

/// Which of two nodes has the bell.
fn owner_of_the_bell(names: [&'static str; 2]) -> &'static str {
    let kind = KindId::of("bell");
    let node = |(n, name): (u64, &str)| {
        let mut info = NodeInfo::new(name, Incarnation(n));
        info.kinds = vec![kind];
        Arc::new(info)
    };
    let directory = Directory::new(1, (1..).zip(names).map(node));
    let owner = directory.owner_hint(EntityId::keyed(kind, 1)).unwrap();
    names[owner.node.0 as usize - 1]
}

/// The bell is on one node, the homes of the players on both. The other node is killed, is back,
/// and is then made to go in order. Nobody logs in again or even connects again, and each ring
/// counts once.
#[test]
fn c18_homes_that_are_killed_and_drained_cost_no_login_and_no_message() {
    let layout = Layout::with_nodes("homes", "", &["east", "west"]);
    let mut gate = layout.start("gate");
    let address = gate.address();
    let with_bell = owner_of_the_bell(["east", "west"]);
    let other = if with_bell == "east" { "west" } else { "east" };
    let mut stays = layout.start(with_bell);
    stays.wait_for("has started");
    let mut victim = layout.start(other);
    victim.wait_for("has started");
    let mut crowd = Crowd::new(&address, 100..116);
    crowd.play(Duration::from_millis(500));
    victim.child.kill().unwrap();
    victim.child.wait().unwrap();
    crowd.play(Duration::from_secs(1));
    let mut back = layout.start(other);
    back.wait_for("has started");
    crowd.play(Duration::from_secs(5));
    back.signal("-TERM");
    crowd.play(Duration::from_secs(3));
    let (status, said) = back.end();
    assert!(status.success(), "{said}");
    crowd.play(Duration::from_secs(1));
    assert!(crowd.events.is_empty(), "{:#?}", crowd.events);
    crowd.answered.sort_unstable();
    let all: Vec<u64> = (1..=crowd.answered.len() as u64).collect();
    assert_eq!(crowd.answered, all, "each ring has counted once");
}

/// The gate had no address for links: it called the homes, and whoever had called it before could answer it. A
/// node that had an entity and no homes never reached it.
#[test]
fn a_player_plays_with_an_entity_on_a_process_without_homes() {
    let roles = r#""roles": {"homes": {"sessions": true}, "bells": {"entities": ["bell"]}},"#;
    let others = r#""homes": {"roles": ["homes"], "workers": 1, "listen": {"mesh": "127.0.0.1:0"}},
        "bells": {"roles": ["bells"], "workers": 1, "listen": {"mesh": "127.0.0.1:0"}}"#;
    let layout = Layout::with("third", roles, others);
    let mut gate = layout.start("gate");
    let (_homes, _bells) = (layout.start("homes"), layout.start("bells"));
    let mut ann = stubborn_player(gate.address(), None);
    assert_eq!(ring(&mut ann).0, 1);
    assert_eq!(ring(&mut ann).0, 2);
}

/// Both processes came to the coordinator that the gate hosts. The gate is killed, the node hosts
/// it, and the next gate finds the node there: the session is still at the node, and goes on.
#[test]
fn a_session_outlives_the_process_of_its_gate_and_of_the_coordinator() {
    let layout = Layout::new("outlive", "");
    let mut gate = layout.start("gate");
    let address = gate.address();
    let _node = layout.start("node");
    let mut ann = stubborn_player(address.clone(), None);
    assert_eq!(ring(&mut ann).0, 1);
    gate.child.kill().unwrap();
    gate.child.wait().unwrap();
    let listen = format!("processes.gate.listen.clients={}", address.port());
    let _gate = layout.start_with("gate", &["--set", &listen]);
    let (rings, events) = ring(&mut ann);
    assert_eq!(rings, 2, "{events:#?}");
    assert!(events.iter().any(|event| event.contains("resumed: true")), "{events:#?}");
}

/// Going offline was once announced when all else was over, and never on a signal. Only who is killed is listed until
/// its lease is over.
#[test]
fn d13_a_process_that_is_told_to_end_leaves_the_list_at_once_and_a_killed_one_after_its_lease() {
    let layout = Layout::new("leave", "");
    let coordinator = layout.0.join("data").join("coordinator");
    let options = ::cluster::Options::default();
    let onlooker = Cluster::attach(&coordinator, options, &Clock::system()).unwrap();
    let until_listed = |name: &str, is_listed: bool| {
        let start = Instant::now();
        while onlooker.directory().nodes().any(|node| node.name == name) != is_listed {
            assert!(start.elapsed() < PATIENCE, "{name} listed: {}", !is_listed);
            rest();
        }
    };
    // Far longer than anything is waited for here.
    let leased = ["--set", "options.registry.lease=600s"];
    for signal in ["-TERM", "-INT"] {
        for (process, listed_as) in [("gate", "gate-gate"), ("node", "node")] {
            let game = layout.start_with(process, &leased);
            until_listed(listed_as, true);
            game.signal(signal);
            until_listed(listed_as, false);
            let (status, said) = game.end();
            assert!(status.success(), "{signal} {process}: {said}");
        }
    }

    // Before it is done with what it has to do: this one has a turn that never ends.
    let mut gate = layout.start("gate");
    let slow = [&leased[..], &["--set", "options.drain.node_max=3600s"]].concat();
    let mut node = layout.start_with("node", &slow);
    let mut ann = stubborn_player(gate.address(), None);
    assert_eq!(ring(&mut ann).0, 1);
    ann.tell("bell", MethodId::of("hang"), &()).unwrap();
    while ann.poll().is_some() {}
    node.wait_for("hanging");
    node.signal("-TERM");
    until_listed("node", false);
    assert!(node.child.try_wait().unwrap().is_none(), "it is not over yet");
    node.signal("-TERM");
    assert_eq!(node.end().0.code(), Some(1));

    let mut node = layout.start("node");
    until_listed("node", true);
    node.child.kill().unwrap();
    node.child.wait().unwrap();
    until_listed("node", false);
}

/// What a page gets that asks for the zones: the state of `north`, and of `south`.
fn zones(address: &str) -> (String, String) {
    use std::io::Write;
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    let ask = "GET /zones HTTP/1.1\r\nHost: zones\r\nConnection: close\r\n\r\n";
    stream.write_all(ask.as_bytes()).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    let (head, body) = said.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{said}");
    let state = |name: &str| {
        let zone = body.split('{').find(|zone| zone.contains(&format!(r#""name":"{name}""#)));
        let zone = zone.unwrap_or_else(|| panic!("no {name}: {body}"));
        let state = zone.split(r#""state":""#).nth(1).unwrap();
        state.split('"').next().unwrap().to_owned()
    };
    (state("north"), state("south"))
}

/// A killed node stays listed for its lease, a minute here; its silence shows before.
#[test]
fn d14_players_see_zones_and_one_whose_node_was_killed_is_closed_after_6_s() {
    let node = r#""node": {"roles": ["node"], "zone": "north", "workers": 1,
        "listen": {"mesh": "127.0.0.1:0"}}"#;
    let layout = Layout::with("zones", r#""zones": {"north": {}, "south": {}},"#, node);
    let file = layout.0.join("cluster.json");
    let text = std::fs::read_to_string(&file).unwrap();
    let text = text.replace(r#"["gate"]"#, r#"["gate", "web"]"#).replace("3s", "60s");
    std::fs::write(&file, text).unwrap();
    let mut gate = layout.start("gate");
    let line = gate.wait_for("is ready: http://");
    let address = line.trim().rsplit('/').next().unwrap().to_owned();
    let until = |is_closed: bool| {
        let begun = Instant::now();
        // Busy or full if others have the machine.
        while (zones(&address).0 == "closed") != is_closed || zones(&address).1 != "closed" {
            assert!(begun.elapsed() < PATIENCE, "{:?}", zones(&address));
            std::thread::park_timeout(Duration::from_millis(50));
        }
        begun.elapsed()
    };
    until(true);
    let mut node = layout.start("node");
    until(false);
    node.child.kill().unwrap();
    node.child.wait().unwrap();
    // Its last report may be two seconds old.
    assert!(until(true) > Duration::from_secs(3), "a report counts for 6 s");
    let _node = layout.start("node");
    until(false);
}
