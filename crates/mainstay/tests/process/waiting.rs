//! Processes in any order: what is not there yet is waited for, and nothing stops because it is away.

use std::io::Write;
use std::net::TcpStream;
use std::time::Instant;

use serde_json::Value;

use super::cluster::{Layout, PATIENCE, ring};
use super::*;

/// Is kept.
#[entity(document, name = "bell")]
#[derive(Default, Document)]
struct Tally {
    #[persist]
    rings: u64,
}

#[rpc]
impl Tally {
    #[request(client)]
    fn ring(&mut self) -> u64 {
        self.rings += 1;
        self.rings
    }
}

pub(super) fn app() -> App {
    App::new("tallies").entity::<Tally>().bind::<Tally>("bell", |_| 1)
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// What the console of a process shows; nothing if it does not answer.
fn console(port: u16) -> Option<Value> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    let ask = "GET /console/state.json HTTP/1.1\r\nHost: console\r\nConnection: close\r\n\r\n";
    stream.write_all(ask.as_bytes()).ok()?;
    let mut said = String::new();
    stream.read_to_string(&mut said).ok()?;
    serde_json::from_str(said.split_once("\r\n\r\n")?.1).ok()
}

/// The rows of a table.
fn rows(state: &Value, title: &str) -> Vec<Vec<Value>> {
    let table = state["tables"].as_array().unwrap().iter().find(|table| table["title"] == title);
    let rows = table.unwrap()["rows"].as_array().unwrap();
    rows.iter().map(|row| row.as_array().unwrap().clone()).collect()
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// How a process is, as `mainstay status` says it, and for what it waits.
fn status(layout: &Layout, name: &str) -> Option<(String, String)> {
    let states = mainstay::operate::status(&layout.0.join("data"));
    let state = states.into_iter().find(|state| state.name == name)?;
    let waits = state.said.as_ref()?["waits"].as_array()?.clone();
    let waits: Vec<_> = waits.iter().filter_map(Value::as_str).collect();
    Some((state.state, waits.join("; ")))
}

fn stop(mut game: Game) -> ExitStatus {
    game.signal("-TERM");
    until("it ends", || game.child.try_wait().unwrap())
}

/// One that etcd does not let in says why and ends; one that was let in goes on, and says why it is not any more.
#[cfg(feature = "etcd")]
#[test]
fn d17_a_process_with_a_wrong_password_of_etcd_does_not_start_and_says_what_to_do() {
    if servers::skipped() {
        return;
    }
    let etcd = servers::Etcd::start_guarded("secret").unwrap();
    let url = etcd.url();
    let coordinator = format!(
        r#""coordinator": {{"etcd": {{"endpoints": ["{url}"], "user": "root", "password": {{"file": "password"}}}}}},"#
    );
    let node = r#""node": {"roles": ["node"], "workers": 1, "listen": {"mesh": "127.0.0.1:0"}}"#;
    let layout = Layout::with("guarded", &coordinator, node);
    let password = layout.0.join("password");
    let start = |process| layout.start_game("bells", process, &[]);
    let refused = |what: &str| {
        let (status, said) = start("node").end();
        assert_eq!(status.code(), Some(2), "{said}");
        assert!(said.contains(what), "{said}");
        assert!(!said.contains("guess"), "{said}");
    };
    refused("the password of the coordinator: the file");
    std::fs::write(&password, "guess").unwrap();
    refused("knows no user \"root\" with this password: correct `user` and `password`");
    std::fs::write(&password, "secret\n").unwrap();
    let (mut gate, _node) = (start("gate"), start("node"));
    let mut ann = stubborn_player(gate.address(), None);
    assert_eq!(ring(&mut ann).0, 1);
}

/// A node without its store ended, and was started again, until somebody had started the store.
#[test]
fn d16_processes_start_and_stop_in_any_order_and_say_what_they_wait_for() {
    let (pages, data) = (free_port(), free_port());
    let others = format!(
        r#""node": {{"roles": ["node", "console"], "workers": 1,
            "listen": {{"mesh": "127.0.0.1:0", "console": "127.0.0.1:{pages}"}}}},
        "keeper": {{"roles": ["data"], "listen": {{"data": "127.0.0.1:{data}"}}}}"#
    );
    let layout = Layout::with("any-order", "", &others);
    let start = |process| layout.start_game("tallies", process, &[]);
    let mut gate = start("gate");
    let mut ann = stubborn_player(gate.address(), None);
    let waits_for = |what: &'static str| move |said: &(String, String)| said.1 == what;
    until("the gate says so", || {
        status(&layout, "gate").filter(waits_for("a node that is home to sessions"))
    });

    let mut node = start("node");
    let (state, waits) = until("the node says so", || status(&layout, "node"));
    let store = format!("the store: data service at 127.0.0.1:{data} cannot be reached");
    assert!(state == "not ready" && waits.starts_with(&store), "{state}, {waits}");
    // So does its console, and the list of nodes, which everybody else has.
    let listed = until("it is listed", || {
        let state = console(pages)?;
        let waits = rows(&state, "Waiting for").concat();
        assert!(waits.last()?.as_str().unwrap().starts_with(&store), "{waits:?}");
        let row = rows(&state, "Nodes").into_iter().find(|row| row[0] == "node")?;
        Some(row[4].as_str().unwrap().to_owned())
    });
    assert!(listed.starts_with(&format!("waiting for {store}")), "{listed}");
    assert!(node.child.try_wait().unwrap().is_none(), "it did not end");

    let of_keeper = start("keeper");
    assert_eq!(ring(&mut ann).0, 1);
    let is_ready = || status(&layout, "node").filter(|said| *said == ("running".into(), "".into()));
    until("the node waits for nothing", is_ready);
    until("the gate waits for nothing", || status(&layout, "gate").filter(waits_for("")));
    until("the bell is saved", || {
        let stored = rows(&console(pages)?, "Stored");
        (stored.first()?[3] == 0 && stored.first()?[6] != 0).then_some(())
    });

    // What the others need goes first.
    assert!(stop(of_keeper).success());
    assert!(stop(node).success());
    assert!(stop(gate).success());

    // One that waits is told to end; the others come the other way round, and have what was kept.
    let node = start("node");
    until("the node waits", || status(&layout, "node").filter(|said| said.0 == "not ready"));
    assert!(stop(node).success());
    let (_data, _node, mut gate) = (start("keeper"), start("node"), start("gate"));
    let mut ann = stubborn_player(gate.address(), None);
    assert_eq!(ring(&mut ann).0, 2);
}
