//! Processes of one cluster file that find each other through their coordinator.

use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::time::Instant;

use super::*;

/// Nothing that is waited for takes so long but by a fault.
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder with a cluster file in it, which goes with the test.
struct Layout(PathBuf);

impl Layout {
    /// A gate and a node, and what else the file says.
    fn new(name: &str, more: &str) -> Layout {
        let node =
            r#""node": {"roles": ["node"], "workers": 1, "listen": {"mesh": "127.0.0.1:0"}}"#;
        Layout::with(name, more, node)
    }

    /// A gate and other processes.
    fn with(name: &str, more: &str, others: &str) -> Layout {
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
        let file = self.0.join("cluster.json").display().to_string();
        let mut arguments = vec!["--cluster", &file, "--process", process];
        arguments.extend(more);
        // A folder that is not there: the cluster's outlives each process.
        Game::spawn(self.0.join(process), &arguments)
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

/// Polls until the session has ended; gives why.
fn ended(player: &mut Polled) -> String {
    let start = Instant::now();
    loop {
        match player.poll() {
            Some(event @ Event::Ended { .. }) => return format!("{event:?}"),
            Some(_) => {}
            None => rest(),
        }
        assert!(start.elapsed() < PATIENCE, "the session goes on without its home");
    }
}

/// What is in memory only goes with its process: the session ends, the client is told, and may
/// come again at once.
#[test]
fn a_gate_and_a_node_find_each_other_and_a_killed_node_is_replaced() {
    let layout = Layout::new("find", "");
    // The gate is there before anybody knows a node.
    let mut gate = layout.start("gate");
    let address = gate.address();
    let mut ann = stubborn_player(address.clone(), None);
    let mut node = layout.start("node");
    assert_eq!(ring(&mut ann).0, 1);
    assert_eq!(ring(&mut ann).0, 2);
    node.child.kill().unwrap();
    node.child.wait().unwrap();
    let _node = layout.start("node");
    let end = ended(&mut ann);
    assert!(end.contains("SessionLost") && end.contains("log in again"), "{end}");
    let mut ann = stubborn_player(address, None);
    assert_eq!(ring(&mut ann).0, 1);
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
