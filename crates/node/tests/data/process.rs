//! Real nodes over an embedded store: stopped, started again, killed.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cluster::Cluster;
use env::{Clock, Random};
use node::data::{bury_all, key_of, read_document};
use node::rt::Ref;
use node::{Node, NodeApp, NodeEnv, NodeError, NodeHandle, NodeOptions};
use store::{Store, TxnId};
use transport::Board;

use crate::game::{Avatar, GOLD};

const CHILD: &str = "MAINSTAY_TEST_DATA_CHILD";
const ROUND: &str = "MAINSTAY_TEST_DATA_ROUND";
const PLAYERS: u64 = 8;

/// A folder that is removed with it.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let folders = (0..).map(|n| parent.join(format!("{name}-{}-{n}", std::process::id())));
        let made = folders.into_iter().find(|path| std::fs::create_dir(path).is_ok());
        Folder(made.unwrap())
    }

    fn store(&self) -> PathBuf {
        self.0.join("game.store")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn env(store: Option<Store>) -> NodeEnv {
    NodeEnv {
        clock: Clock::system(),
        random: Random::from_os(),
        cluster: Cluster::embedded(cluster::Options::default()),
        board: Board::new(),
        mesh_key: mesh::Key::none(),
        store,
        stores: Vec::new(),
        metrics: env::metrics::Registry::new(),
        bus: None,
    }
}

fn start(path: &Path) -> NodeHandle {
    let store = Store::embedded(path, store::Options::default()).unwrap();
    bury_all(&store).unwrap();
    let app = NodeApp::new().kind::<Avatar>();
    let options = NodeOptions { workers: 2, ..NodeOptions::new("local") };
    Node::start(&app, options, env(Some(store))).unwrap()
}

fn rise(node: &NodeHandle, key: u64, n: u64) -> u64 {
    let answer = node.spawn(0, move |out| async move { out.entity::<Avatar>(key).rise(n).await });
    answer.blocking_recv().expect("the worker lives").expect("the entity is here")
}

#[test]
fn a_kind_with_documents_needs_a_store() {
    let app = NodeApp::new().kind::<Avatar>();
    let started = Node::start(&app, NodeOptions::new("local"), env(None));
    assert!(matches!(started, Err(NodeError::NoStore { kept: "avatar", .. })));
}

#[test]
fn a_node_that_stops_and_starts_again_goes_on_where_it_was() {
    let folder = Folder::new("again");
    for round in 1..=3 {
        let node = start(&folder.store());
        for key in 1..=20 {
            assert_eq!(rise(&node, key, key), round * key);
        }
        let report = node.stop();
        assert_eq!(report.unsaved(), 0);
    }
}

/// Not a test by itself: what the killed process runs. It prints a line for each answer.
#[test]
fn killed_child() {
    let Ok(path) = std::env::var(CHILD) else { return };
    let round: u64 = std::env::var(ROUND).unwrap().parse().unwrap();
    let node = start(Path::new(&path));
    let mut id = round * 1_000_000;
    loop {
        for key in 1..=PLAYERS {
            let answer = node
                .spawn(0, move |out| async move { out.entity::<Avatar>(key).mint(id, 1).await });
            let minted = answer.blocking_recv().unwrap().unwrap();
            assert!(minted.starts_with("ok"), "{minted}");
            let level = rise(&node, key, 1);
            let mut out = std::io::stdout().lock();
            writeln!(out, "done {id} {key} {level}").unwrap();
            out.flush().unwrap();
            id += 1;
        }
    }
}

/// What the parent was told: deals, and levels with the time they were heard of.
#[derive(Default)]
struct Heard {
    deals: Vec<(u64, u64)>,
    levels: Vec<(Instant, u64, u64)>,
}

fn run_and_kill(path: &Path, round: u64, after: Duration) -> (Heard, Instant) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "process::killed_child", "--nocapture", "--test-threads=1"])
        .env(CHILD, path)
        .env(ROUND, round.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut heard = Heard::default();
    let mut began = None;
    let mut killed = None;
    // After the kill the pipe still holds what was said before it.
    for line in BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok) {
        // The harness may print before our first line, on the same line.
        let Some((_, rest)) = line.rsplit_once("done ") else { continue };
        let numbers: Vec<u64> = rest.split(' ').filter_map(|part| part.parse().ok()).collect();
        let [id, key, level] = numbers[..] else { continue };
        let now = Instant::now();
        heard.deals.push((id, key));
        heard.levels.push((now, key, level));
        let began = *began.get_or_insert(now);
        // How much is done in that time is for the machine to say.
        if killed.is_none() && now - began >= after && heard.deals.len() > 20 {
            child.kill().unwrap();
            killed = Some(Instant::now());
        }
    }
    child.wait().unwrap();
    (heard, killed.expect("it ran until it was killed"))
}

#[test]
fn kill_9_loses_no_deal_and_at_most_the_last_second_of_the_rest() {
    let folder = Folder::new("killed");
    let path = folder.store();
    let mut minted = vec![0; PLAYERS as usize + 1];
    for round in 1..=3 {
        let after = Duration::from_millis(1_500 + 331 * round);
        let (heard, killed) = run_and_kill(&path, round, after);
        let store = Store::embedded(&path, store::Options::default()).unwrap();
        assert_eq!(store.verify().wait().unwrap().faults, Vec::<String>::new());
        for &(id, key) in &heard.deals {
            let done = store.lookup(TxnId(u128::from(id))).wait().unwrap();
            assert!(done.is_some(), "deal {id} was told and is not there");
            minted[key as usize] += 1;
        }
        let mut worst = Duration::ZERO;
        for key in 1..=PLAYERS {
            let holder = key_of(Ref::<Avatar>::keyed(key).id());
            let held = store.holdings(holder).wait().unwrap().balances[&GOLD];
            // One deal may have been done whose answer nobody heard.
            let told = minted[key as usize];
            assert!((told..=told + 1).contains(&held), "player {key}: {held} of {told}");
            minted[key as usize] = held;
            let stored = store.load(holder).wait().unwrap().expect("it was activated");
            let mut avatar = Avatar::default();
            if let Some(bytes) = stored.documents.get("self") {
                read_document(&mut avatar, bytes).unwrap();
            }
            let lost =
                heard.levels.iter().find(|(_, of, level)| *of == key && *level > avatar.level);
            worst = worst.max(lost.map_or(Duration::ZERO, |(at, ..)| killed - *at));
        }
        println!("round {round}: {} answers, lost at most {worst:?}", heard.deals.len());
        // A second, and a flush, which on a busy disk may take a good while.
        assert!(worst <= Duration::from_millis(1_800), "lost {worst:?}");
    }
}
