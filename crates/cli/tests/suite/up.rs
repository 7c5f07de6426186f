//! `mainstay up`, `status` and `drain`: a gate and two nodes of the arena on one machine.

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::command::{Folder, command, mainstay, ticket};
use crate::player::Player;

/// Nothing that is waited for takes so long but by a fault.
const PATIENCE: Duration = Duration::from_secs(90);
const PROCESSES: [&str; 3] = ["gate", "node-1", "node-2"];

/// A cluster that is up.
struct Cluster {
    folder: Folder,
    child: Child,
    /// What was said so far.
    said: Arc<Mutex<String>>,
    gate: SocketAddr,
}

impl Cluster {
    fn up(name: &str, more: &[&str]) -> Cluster {
        let folder = Folder::new(name);
        // The gate comes back where clients look for it.
        let gate = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let store = folder.text("arena.store");
        let text = format!(
            r#"{{
                "cluster": "arena", "store": {{"sqlite": {store:?}}},
                "options": {{"registry": {{"lease": "3s"}}}},
                "processes": {{
                    "gate": {{"roles": ["gate", "web"], "listen": {{"clients": "{gate}", "mesh": 0}}}},
                    "node": {{"roles": ["node"], "workers": 1, "count": 2, "listen": {{"mesh": 0}}}},
                }},
            }}"#
        );
        std::fs::write(folder.join("cluster.json"), text).unwrap();
        let file = folder.text("cluster.json");
        let words = [&["up", file.as_str()], more].concat();
        let mut child = command()
            .args(words)
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
        let cluster = Cluster { folder, child, said, gate };
        cluster
            .until("all run", || cluster.states().iter().all(|(_, state, _)| state == "running"));
        cluster
    }

    fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !holds() {
            assert!(begun.elapsed() < PATIENCE, "{what} takes too long: {}", self.said());
            std::thread::park_timeout(Duration::from_millis(100));
        }
    }

    fn status(&self) -> String {
        mainstay(&["status", &self.folder.text("cluster.json")]).1
    }

    /// Name, state and number of each process.
    fn states(&self) -> Vec<(String, String, String)> {
        let status = self.status();
        let rows = status.lines().skip(1).filter(|line| !line.contains(" ended: "));
        let rows = rows.map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let word = |at: usize| words.get(at).copied().unwrap_or_default().to_owned();
            (word(0), word(1), word(2))
        });
        let rows: Vec<_> = rows.filter(|(name, ..)| PROCESSES.contains(&name.as_str())).collect();
        if rows.len() == PROCESSES.len() { rows } else { vec![Default::default()] }
    }

    fn state(&self, name: &str) -> (String, String) {
        let states = self.states();
        let found = states.into_iter().find(|(found, ..)| found == name);
        found.map(|(_, state, pid)| (state, pid)).unwrap_or_default()
    }

    /// Signals a process of the cluster and waits for the one that takes its place.
    fn replace(&self, name: &str, signal: &str) {
        let (_, before) = self.state(name);
        tell(signal, &before);
        self.until("a restart", || {
            let (state, pid) = self.state(name);
            state == "running" && pid != before
        });
    }

    async fn login(&self, name: &str) -> Player {
        let begun = Instant::now();
        loop {
            if let Ok((200, text)) = ticket(self.gate, name, None) {
                return Player::login_with(self.gate, &text).await;
            }
            assert!(begun.elapsed() < PATIENCE, "no ticket: {}", self.said());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until the player is answered, in the session that it has, `after` something.
    async fn play_on(&self, player: &mut Player, after: &str) {
        let begun = Instant::now();
        while !player.is_answered().await {
            assert!(begun.elapsed() < PATIENCE, "no answer after {after}: {}", self.said());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(!player.has_ended(), "a session ended with {after}: {}", self.said());
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tell(signal: &str, pid: &str) {
    assert!(Command::new("kill").args([signal, pid]).status().unwrap().success(), "{signal} {pid}");
}

fn runs(pid: &str) -> bool {
    Command::new("kill").args(["-0", pid]).stderr(Stdio::null()).status().unwrap().success()
}

/// What was in memory goes with its node, but nobody has to log in again, whatever was killed.
#[test]
fn k11_up_starts_again_what_is_killed_and_players_go_on() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut cluster = Cluster::up("up", &[]);
        let mut players = Vec::new();
        for n in 0..12 {
            players.push(cluster.login(&format!("Ann{n}")).await);
        }
        for name in PROCESSES {
            cluster.replace(name, "-KILL");
            for player in &mut players {
                cluster.play_on(player, name).await;
            }
        }
        assert!(cluster.said().contains("node-1 has ended: signal: 9"), "{}", cluster.said());
        // One is told to finish, and stays down; the players go on at the other.
        let file = cluster.folder.text("cluster.json");
        let (_, pid) = cluster.state("node-2");
        for _ in 0..2 {
            let (went_well, said) = mainstay(&["drain", "node-2", &file]);
            assert!(went_well && said.contains("node-2 is stopped: well (exit 0)"), "{said}");
        }
        assert!(!runs(&pid));
        for player in &mut players {
            cluster.play_on(player, "a drain").await;
        }
        let (went_well, said) = mainstay(&["status", &file]);
        assert!(!went_well && said.contains("node-2 ended: well (exit 0)"), "{said}");
        let (went_well, said) = mainstay(&["drain", "node-3", &file]);
        assert!(!went_well && said.contains("there are gate, node-1, node-2"), "{said}");
        let (went_well, said) = mainstay(&["drain", "--undo", "node-2", &file]);
        assert!(went_well && said.trim_end() == "node-2 is running", "{said}");
        let (went_well, said) = mainstay(&["up", &file, "--game", "/no/such/game"]);
        assert!(!went_well && said.contains("cannot run /no/such/game"), "{said}");
        let (went_well, said) = mainstay(&["up", &file]);
        assert!(!went_well && said.contains("is up already"), "{said}");
        // All stop in order, with a report.
        tell("-TERM", &cluster.child.id().to_string());
        let status = cluster.child.wait().unwrap();
        cluster.until("the report", || cluster.said().contains("  node-2: well (exit 0)"));
        let said = cluster.said();
        assert_eq!(status.code(), Some(0), "{said}");
        let at = |text: &str| said.rfind(text).unwrap_or_else(|| panic!("{text}: {said}"));
        assert!(at("gate has ended: well") < at("node-1 has ended: well"), "{said}");
        assert!(said.contains("  gate: well (exit 0), restarts 1"), "{said}");
        let (went_well, said) = mainstay(&["status", &file]);
        assert!(!went_well && said.contains("nothing of"), "{said}");
    });
}

#[test]
fn k11_a_process_that_stands_still_is_killed_and_started_again() {
    let cluster = Cluster::up("stall", &["--stall-after", "3"]);
    cluster.replace("node-1", "-STOP");
    let said = cluster.said();
    assert!(said.contains("node-1 is killed: it has stalled"), "{said}");
}

#[test]
fn k12_processes_end_with_their_supervisor_however_it_ends() {
    let mut cluster = Cluster::up("orphans", &[]);
    let pids: Vec<String> = cluster.states().into_iter().map(|(.., pid)| pid).collect();
    assert!(pids.iter().all(|pid| runs(pid)));
    // Meanwhile, what they do.
    let (file, stats) = (cluster.folder.text("cluster.json"), cluster.folder.text("stats.jsonl"));
    let (went_well, said) = mainstay(&["top", "--once", "--to", &stats, &file]);
    let rows: Vec<&str> = said.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert!(went_well && rows.starts_with(&["process", "gate", "node-1", "node-2"]), "{said}");
    let line: serde_json::Value =
        serde_json::from_str(std::fs::read_to_string(stats).unwrap().trim()).unwrap();
    assert_eq!(line["processes"][1]["said"]["name"], "node-1", "{line}");
    assert!(line["processes"][1]["said"]["memory_bytes"].as_u64() > Some(1 << 20), "{line}");
    cluster.child.kill().unwrap();
    cluster.child.wait().unwrap();
    cluster.until("the end of all", || pids.iter().all(|pid| !runs(pid)));
}

/// Each process in turn is a new one afterwards, and nobody had to log in again.
#[test]
fn h9_all_processes_are_restarted_by_one_command_while_players_play() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let cluster = Cluster::up("rolling", &[]);
        let file = cluster.folder.text("cluster.json");
        let mut players = Vec::new();
        for n in 0..6 {
            players.push(cluster.login(&format!("Ann{n}")).await);
        }
        let pids =
            || -> Vec<String> { cluster.states().into_iter().map(|(.., pid)| pid).collect() };
        let before = pids();
        let (went_well, said) = mainstay(&["restart", "--rolling", &file]);
        assert!(went_well, "{said} {}", cluster.said());
        let replaced: Vec<&str> =
            said.lines().filter(|line| line.ends_with("replaced") || *line == "done").collect();
        let order = ["node-1 is replaced", "node-2 is replaced", "gate is replaced", "done"];
        assert_eq!(replaced, order, "{said}");
        let after = pids();
        assert!(after.len() == 3 && before.iter().all(|pid| !runs(pid)), "{before:?} {after:?}");
        for player in &mut players {
            cluster.play_on(player, "a rolling restart").await;
        }
        // One of them, as another build, which does well.
        let (went_well, said) = mainstay(&["upgrade", "node-2", &file, "--watch", "1"]);
        assert!(went_well && said.contains("node-2 on trial for 1 s"), "{said}");
        let last = pids();
        assert!(last[0] == after[0] && last[1] == after[1] && last[2] != after[2], "{last:?}");
        for player in &mut players {
            cluster.play_on(player, "an upgrade").await;
        }
        for (words, why) in [
            (vec!["restart"], "name a process, or say `--rolling`"),
            (vec!["restart", "--rolling", "gate", &file], "name only the cluster file"),
            (vec!["restart", "node-3", &file], "there are gate, node-1, node-2"),
            (vec!["upgrade", "gate", &file, "--binary", "/no/such/build"], "/no/such/build"),
            (vec!["restart", "--rolling", "/no/such/file"], "/no/such/file"),
        ] {
            let (went_well, said) = mainstay(&words);
            assert!(!went_well && said.contains(why), "{words:?}: {said}");
        }
        assert_eq!(pids(), last);
    });
}
