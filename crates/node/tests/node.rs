//! Nodes as their users see them: threads, sockets, pipes and all.

#[path = "node/placing.rs"]
mod placing;
#[path = "node/questions.rs"]
mod questions;
#[path = "node/scenes.rs"]
mod scenes;
#[path = "node/zones.rs"]
mod zones;

use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::Duration;

use cluster::Cluster;
use env::{Clock, Random};
use macros::{entity, rpc};
use mesh::Key;
use node::rt::{CallError, CloseCode, Cx};
use node::{Chosen, Node, NodeApp, NodeEnv, NodeError, NodeHandle, NodeOptions, Users};
use proto::link::WorkerId;
use proto::{AccountId, EntityId, KindId};
use transport::Board;

static LATCH: Mutex<bool> = Mutex::new(false);
static OPENED: Condvar = Condvar::new();

#[entity(root = node::rt)]
#[derive(Default)]
struct Counter {
    total: u64,
}

#[rpc(root = node::rt)]
impl Counter {
    #[invoke(server)]
    fn add(&mut self, _cx: &mut Cx<Self>, n: u64) -> u64 {
        self.total += n;
        self.total
    }

    /// Adds to this counter and to the next one, wherever that is.
    #[invoke(server)]
    async fn add_to_both(&mut self, cx: &mut Cx<Self>, n: u64) -> u64 {
        self.total += n;
        let next = cx.entity::<Counter>(cx.key() + 1).add(n).await;
        self.total + next.expect("the other counter answers")
    }

    /// Keeps its worker from everything else until the test lets it go.
    #[invoke(server, deadline = "60s")]
    fn block(&mut self, _cx: &mut Cx<Self>) {
        let mut open = LATCH.lock().expect("nobody panics with it");
        while !*open {
            open = OPENED.wait(open).expect("nobody panics with it");
        }
    }

    /// Gives how late a sleep of `ms` ended, in microseconds.
    #[invoke(server)]
    async fn nap(&mut self, cx: &mut Cx<Self>, ms: u64) -> u64 {
        let clock = Clock::system();
        let begun = clock.now();
        cx.sleep(Duration::from_millis(ms)).await;
        let slept = clock.now() - begun;
        slept.saturating_sub(Duration::from_millis(ms)).as_micros() as u64
    }

    /// Has a lock of the cluster to itself for so long, and gives its number; 0 if it is not had in time.
    #[invoke(server, deadline = "60s")]
    async fn hold(&mut self, cx: &mut Cx<Self>, ms: u64, wait: u64) -> u64 {
        let Ok(lock) = cx.lock("market", Duration::from_millis(wait)).await else { return 0 };
        cx.sleep(Duration::from_millis(ms)).await;
        lock.fence().unwrap_or_default()
    }

    /// Sums up on a thread for blocking work.
    #[invoke(server)]
    async fn sum(&mut self, cx: &mut Cx<Self>, to: u64) -> u64 {
        cx.blocking(move || (1..=to).sum()).await.unwrap_or_default()
    }
}

/// Listens to a topic.
#[entity(root = node::rt)]
#[derive(Default)]
struct Reader {
    heard: Vec<u64>,
}

type ReaderMessage = <Reader as node::Entity>::Message;

#[rpc(root = node::rt)]
impl Reader {
    #[invoke(server)]
    fn listen(&mut self, cx: &mut Cx<Self>, on: bool) {
        if on {
            cx.subscribe("news", ReaderMessage::Hear);
        } else {
            cx.unsubscribe("news");
        }
    }

    #[tell(server)]
    fn hear(&mut self, _cx: &mut Cx<Self>, n: u64) {
        self.heard.push(n);
    }

    #[invoke(server)]
    fn heard(&mut self, _cx: &mut Cx<Self>) -> Vec<u64> {
        self.heard.clone()
    }
}

/// One process: a cluster, a board, and the nodes on it.
struct Process {
    cluster: Cluster,
    board: Board,
    seed: u64,
}

impl Process {
    fn new() -> Self {
        let cluster = Cluster::embedded(cluster::Options::default());
        Process { cluster, board: Board::new(), seed: 1 }
    }

    fn env(&mut self, key: Key) -> NodeEnv {
        self.seed += 1;
        NodeEnv {
            clock: Clock::system(),
            random: Random::from_seed(self.seed),
            cluster: self.cluster.clone(),
            board: self.board.clone(),
            mesh_key: key,
            store: None,
            stores: Vec::new(),
            metrics: env::metrics::Registry::new(),
            bus: None,
        }
    }

    fn start(&mut self, options: NodeOptions) -> NodeHandle {
        let app = NodeApp::new().kind::<Counter>().kind::<Reader>();
        Node::start(&app, options, self.env(Key::shared(&[7; 32]))).expect("the node starts")
    }
}

fn options(name: &str, workers: u8) -> NodeOptions {
    NodeOptions { workers, ..NodeOptions::new(name) }
}

fn owner(process: &Process, key: u64) -> WorkerId {
    let counter = EntityId::keyed(KindId::of("counter"), key);
    process.cluster.directory().owner_hint(counter).expect("a node offers counters")
}

/// Adds 1 to a counter, from a worker of a node.
fn add(node: &NodeHandle, worker: u8, key: u64) -> Result<u64, CallError> {
    let answer = node
        .spawn(worker, move |outside| async move { outside.entity::<Counter>(key).add(1).await });
    answer.blocking_recv().expect("the worker runs")
}

#[test]
fn workers_of_a_node_call_each_other() {
    let mut process = Process::new();
    let node = process.start(options("one", 3));
    for key in 0..30 {
        assert_eq!(add(&node, 0, key).unwrap(), 1);
        assert_eq!(add(&node, 1, key).unwrap(), 2);
        let both = node.spawn(2, move |outside| async move {
            outside.entity::<Counter>(1_000 + key * 2).add_to_both(1).await
        });
        assert_eq!(both.blocking_recv().unwrap().unwrap(), 2);
    }
    let stats = node.stats();
    let entities = |worker: &Option<node::WorkerStats>| {
        let worker = worker.as_ref().expect("it answers");
        worker.host.kinds.iter().map(|kind| kind.entities).sum::<usize>()
    };
    let held: Vec<usize> = stats.workers.iter().map(entities).collect();
    assert_eq!(held.iter().sum::<usize>(), 90, "{held:?}");
    assert!(held.iter().all(|n| *n > 10), "keys are spread: {held:?}");
    assert!(stats.stuck.is_empty());
}

/// A worker that is awake is given parts of what it will be told while the turn that tells it
/// goes on.
#[test]
fn what_a_worker_is_told_in_one_turn_arrives_in_order_in_however_many_parts() {
    let mut process = Process::new();
    let node = process.start(options("one", 2));
    let lives_there = |key: &u64| EntityId::keyed(KindId::of("reader"), *key).worker(2) == 1;
    let key = (0..).find(lives_there).expect("keys are spread");
    for round in 0..50 {
        let told = node.spawn(0, move |outside| async move {
            let reader = outside.entity::<Reader>(key);
            (0..500).all(|n| reader.hear(round * 500 + n).is_ok())
        });
        assert_eq!(told.blocking_recv(), Ok(true));
        let heard = node.spawn(0, move |outside| async move {
            outside.entity::<Reader>(key).heard().await.expect("it answers")
        });
        let heard = heard.blocking_recv().expect("the worker runs");
        assert!(heard.into_iter().eq(0..(round + 1) * 500), "round {round}");
    }
}

#[test]
fn nodes_of_one_process_call_each_other_over_pipes() {
    let mut process = Process::new();
    let nodes = [process.start(options("one", 2)), process.start(options("two", 2))];
    let elsewhere = |node: &NodeHandle| {
        (0..100).find(|key| owner(&process, *key).node != node.incarnation()).expect("one is")
    };
    for node in &nodes {
        let key = elsewhere(node);
        for worker in [0, 1, 0, 1] {
            add(node, worker, key).expect("the other node answers");
        }
    }
    for node in &nodes {
        let links: u64 =
            node.stats().workers.iter().flatten().map(|worker| worker.mesh.links_up).sum();
        assert!(links >= 2, "they are linked");
    }
}

#[test]
fn nodes_call_each_other_over_tcp_and_only_with_the_key() {
    let cluster = Cluster::embedded(cluster::Options::default());
    let listen = Some("127.0.0.1:0".parse().unwrap());
    let start = |name: &str, seed: u64, key: [u8; 32]| {
        // A board of its own: as if it were another process.
        let mut process = Process { cluster: cluster.clone(), board: Board::new(), seed };
        let options = NodeOptions { mesh_listen: listen, ..options(name, 2) };
        let app = NodeApp::new().kind::<Counter>();
        Node::start(&app, options, process.env(Key::shared(&key))).expect("it starts")
    };
    let one = start("one", 10, [7; 32]);
    let two = start("two", 20, [7; 32]);
    let directory = cluster.directory();
    let at = |node: &NodeHandle| {
        let counter = |key| EntityId::keyed(KindId::of("counter"), key);
        let there = |key: &u64| {
            directory.owner_hint(counter(*key)).is_some_and(|at| at.node == node.incarnation())
        };
        (0..100).find(there).expect("one is")
    };
    for worker in [0, 1] {
        add(&one, worker, at(&two)).expect("over TCP");
        add(&two, worker, at(&one)).expect("over TCP");
    }
    let stranger = start("three", 30, [8; 32]);
    let refused = stranger.spawn(0, {
        let key = at(&one);
        move |outside| async move {
            outside.entity::<Counter>(key).add(1).deadline(Duration::from_millis(500)).await
        }
    });
    assert!(refused.blocking_recv().unwrap().is_err(), "a node without the key is not heard");
    let refusals: u64 = [&one, &two]
        .iter()
        .flat_map(|node| node.stats().workers)
        .map(|worker| worker.expect("it answers").mesh.refused_key)
        .sum();
    assert!(refusals > 0);
}

#[test]
fn a_message_of_a_topic_reaches_all_listeners_and_only_those() {
    let mut process = Process::new();
    let nodes = [process.start(options("one", 2)), process.start(options("two", 2))];
    let ask = |on: Option<bool>, key: u64| {
        let answer = nodes[0].spawn(0, move |outside| async move {
            let reader = outside.entity::<Reader>(key);
            if let Some(on) = on {
                reader.listen(on).await.expect("it answers");
            }
            reader.heard().await.expect("it answers")
        });
        answer.blocking_recv().expect("the worker runs")
    };
    let say = |node: usize, worker: u8, n: u64| {
        nodes[node].spawn(worker, move |outside| async move { outside.notify("news", &n) });
    };
    say(0, 0, 1);
    for key in 0..8 {
        assert!(ask(Some(true), key).is_empty(), "before it listens nobody hears");
    }
    // A worker that has heard of a listener says something until all have heard of all.
    let mut said = 1;
    let all_know = |n: u64| {
        (0..8).all(|key| (0..4).all(|way| ask(None, key).iter().any(|h| *h >= n && h % 4 == way)))
    };
    while !all_know(2) {
        said += 1;
        say((said / 2 % 2) as usize, (said % 2) as u8, said);
    }
    // From now on each hears each message once, those of one sender in order.
    let from = said + 1;
    for n in from..from + 40 {
        say((n / 2 % 2) as usize, (n % 2) as u8, n);
    }
    for key in 0..8 {
        let mut heard: Vec<u64> = Vec::new();
        while heard.len() < 40 {
            heard = ask(None, key).into_iter().filter(|n| *n >= from).collect();
        }
        for way in 0..4 {
            let one: Vec<u64> = heard.iter().copied().filter(|n| n % 4 == way).collect();
            assert!(one.is_sorted() && one.len() == 10, "{one:?}");
        }
    }
    ask(Some(false), 0);
    let silent = ask(None, 0).len();
    say(0, 0, 1_000_000);
    assert_eq!(ask(None, 0).len(), silent);
}

#[test]
fn users_that_are_nowhere_are_reported() {
    let mut process = Process::new();
    let nodes = [process.start(options("one", 2)), process.start(options("two", 3))];
    let ask = |choose: fn(Users) -> Chosen| {
        let answer = nodes[1].spawn(2, move |outside| async move {
            let chosen = choose(outside.users());
            chosen.kick(CloseCode::Kicked, "nobody is there");
            chosen.outcome().await
        });
        answer.blocking_recv().expect("the worker runs")
    };
    // While a home has not yet learnt of the node that asks, its answer goes nowhere, and the
    // outcome says that it is not complete.
    let outcome = |choose| {
        let mut found = ask(choose);
        for _ in 0..5 {
            if found.complete {
                break;
            }
            found = ask(choose);
        }
        found
    };
    let accounts = [1, 2, 3, 4, 5, 1].map(AccountId);
    let found = outcome(|users| users.many([1, 2, 3, 4, 5, 1].map(AccountId)));
    assert_eq!((found.reached, found.complete), (0, true));
    assert_eq!(found.unknown, accounts[..5]);
    let found = outcome(|users| users.many([1, 2].map(AccountId)).without([AccountId(2)]));
    assert_eq!(found.unknown, [AccountId(1)]);
    let found = outcome(|users| users.all().with_tag("vip"));
    assert_eq!((found.reached, found.unknown.len(), found.complete), (0, 0, true));
}

#[test]
fn an_address_that_others_reach_needs_a_key() {
    let mut process = Process::new();
    let options =
        NodeOptions { mesh_listen: Some("0.0.0.0:0".parse().unwrap()), ..options("open", 1) };
    let started = Node::start(&NodeApp::new(), options, process.env(Key::none()));
    assert!(matches!(started, Err(NodeError::Insecure(_))), "{started:?}");
    assert_eq!(process.cluster.directory().nodes().count(), 0);
}

#[test]
fn a_worker_that_is_stuck_is_reported_and_stops_nobody_else() {
    let mut process = Process::new();
    let options = NodeOptions { stuck_after: Duration::from_millis(50), ..options("stuck", 2) };
    let node = process.start(options);
    let on = |worker| (0..100).find(|key| owner(&process, *key).worker == worker).unwrap();
    let (stuck, free) = (on(0), on(1));
    let blocked =
        node.spawn(0, move |outside| async move { outside.entity::<Counter>(stuck).block().await });
    for _ in 0..20 {
        add(&node, 1, free).expect("the other worker goes on");
    }
    while node.stuck().is_empty() {
        thread::yield_now();
    }
    *LATCH.lock().unwrap() = true;
    OPENED.notify_all();
    blocked.blocking_recv().unwrap().expect("the handler ends");
    let reports = node.stats().stuck;
    assert_eq!(reports.len(), 1, "{reports:?}");
    assert_eq!(reports[0].worker, 0);
    assert_eq!(reports[0].running, Some(("counter", "block".to_owned(), stuck)));
    assert!(reports[0].since >= Duration::from_millis(50));
}

#[test]
fn timers_and_blocking_work_wake_a_sleeping_worker() {
    let mut process = Process::new();
    let node = process.start(options("sleepy", 1));
    let call = |n: u64| {
        node.spawn(0, move |outside| async move { outside.entity::<Counter>(1).nap(n).await })
    };
    let mut late: Vec<u64> = (0..20).map(|_| call(5).blocking_recv().unwrap().unwrap()).collect();
    late.sort_unstable();
    assert!(late[10] < 30_000, "a sleep ends when it should: {late:?}");
    let sum = node.spawn(0, |outside| async move { outside.entity::<Counter>(2).sum(10).await });
    assert_eq!(sum.blocking_recv().unwrap().unwrap(), 55);
    // Tokio's own timers run on the worker's thread too.
    let slept = node.spawn(0, |_| async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        7
    });
    assert_eq!(slept.blocking_recv().unwrap(), 7);
}

#[test]
fn a_node_that_stops_leaves_the_list_and_reports() {
    let mut process = Process::new();
    let node = process.start(options("brief", 2));
    add(&node, 0, 1).unwrap();
    assert_eq!(process.cluster.directory().nodes().count(), 1);
    let report = node.stop();
    assert_eq!(report.workers.len(), 2);
    assert!(report.workers.iter().all(Option::is_some), "no thread panicked");
    assert_eq!(report.closed(), (0, 0));
    assert_eq!(process.cluster.directory().nodes().count(), 0);
    assert!(node.stop().workers.is_empty(), "once is enough");
    let late = node.spawn(0, |_| async {});
    drop(node);
    assert!(late.blocking_recv().is_err(), "a stopped worker says so");
}

#[test]
fn d9_a_lock_is_waited_for_and_is_free_when_it_is_dropped_or_its_node_has_gone() {
    let mut process = Process::new();
    let (one, two) = (process.start(options("one", 1)), process.start(options("two", 1)));
    let keys = |node: &NodeHandle| {
        let here = |key: &u64| owner(&process, *key).node == node.incarnation();
        (0..).find(here).expect("some key is there")
    };
    let (first, second) = (keys(&one), keys(&two));
    let hold = |node: &NodeHandle, key, ms, wait| {
        node.spawn(0, move |out| async move { out.entity::<Counter>(key).hold(ms, wait).await })
    };
    let long = hold(&one, first, 600, 60_000);
    while process.cluster.holder("market").is_none() {
        thread::park_timeout(Duration::from_millis(1));
    }
    assert_eq!(hold(&two, second, 0, 50).blocking_recv().unwrap(), Ok(0), "held by another");
    let next = hold(&two, second, 0, 60_000).blocking_recv().unwrap().unwrap();
    let first_number = long.blocking_recv().unwrap().unwrap();
    assert!(0 < first_number && first_number < next, "{first_number} {next}");
    assert_eq!(process.cluster.holder("market"), None, "given back when it was dropped");
    // One that goes with the lock in its hand.
    let held = hold(&one, first, 50_000, 60_000);
    while process.cluster.holder("market").is_none() {
        thread::park_timeout(Duration::from_millis(1));
    }
    drop(one);
    assert!(hold(&two, second, 0, 60_000).blocking_recv().unwrap().unwrap() > next);
    drop(held);
}
