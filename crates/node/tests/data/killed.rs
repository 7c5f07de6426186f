//! A process that trades between two shards is killed: each trade is done or undone as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use macros::{entity, rpc};
use node::data::bury_all;
use node::rt::{Cx, This};
use node::{Node, NodeApp, NodeHandle, NodeOptions};
use store::{
    Currency, Key, LedgerOp, Offer, SagaEnd, SagaError, SagaId, SagaPlan, Store, Transaction, TxnId,
};

use crate::process::{Folder, env};

const CHILD: &str = "MAINSTAY_TEST_SAGA_CHILD";
const ROUND: &str = "MAINSTAY_TEST_SAGA_ROUND";
const GOLD: Currency = Currency(1);
const SILVER: Currency = Currency(2);
const TRADERS: usize = 4;
/// What each has at first: those of the one shard gold, those of the other silver, which runs out.
const GOLD_EACH: u64 = 100_000;
const SILVER_EACH: u64 = 45;
const AT_ONCE: u64 = 6;
/// Kills, at least; more until one comes while something is between the shards.
const ROUNDS: u64 = 5;
const ROUNDS_MAX: u64 = 40;

#[entity(root = node::rt)]
#[derive(Default)]
struct Broker {}

#[rpc(root = node::rt)]
impl Broker {
    /// One gold for silver. Empty: nobody knows how it ended.
    #[invoke(server, deadline = "60s", interleave)]
    async fn swap(this: This<Self>, cx: &mut Cx<Self>, id: u64, keys: (u64, u64)) -> String {
        let _ = this;
        let plan = SagaPlan::trade(
            "swap",
            Offer::new(Key(keys.0.into())).amount(GOLD, 1),
            Offer::new(Key(keys.1.into())).amount(SILVER, price(id)),
        );
        match cx.saga(SagaId(id.into()), plan).await {
            Ok(SagaEnd::Done) => "done".to_owned(),
            Ok(SagaEnd::Undone { .. }) => "undone".to_owned(),
            Err(SagaError::Busy) => String::new(),
            Err(error) => panic!("{error}"),
        }
    }
}

fn price(id: u64) -> u64 {
    1 + id % 5
}

fn open(folder: &Path) -> Store {
    let shard = |name: &str| {
        let path = folder.join(name).with_extension("store");
        (name.to_owned(), Store::embedded(path, store::Options::default()).unwrap())
    };
    Store::sharded(vec![shard("gold"), shard("silver")]).unwrap()
}

/// The traders of each shard.
fn traders(store: &Store) -> [Vec<u64>; 2] {
    [0, 1].map(|shard| {
        let keys = (1..).filter(|key| store.shard_of(Key(u128::from(*key))) == shard);
        keys.take(TRADERS).collect()
    })
}

/// Who trades under that id.
fn of(traders: &[Vec<u64>; 2], id: u64) -> (u64, u64) {
    let (one, other) = (id as usize % TRADERS, id as usize / TRADERS % TRADERS);
    (traders[0][one], traders[1][other])
}

fn start(store: Store) -> NodeHandle {
    bury_all(&store).unwrap();
    let app = NodeApp::new().kind::<Broker>();
    Node::start(&app, NodeOptions::new("local"), env(Some(store))).unwrap()
}

/// How each of these ended, all at once.
fn swap_all(node: &NodeHandle, traders: &[Vec<u64>; 2], ids: &[u64]) -> Vec<String> {
    let begun = ids.iter().map(|&id| {
        let keys = of(traders, id);
        node.spawn(0, move |out| async move {
            let told = out.entity::<Broker>(id % AT_ONCE).swap(id, keys).await;
            told.unwrap_or_default()
        })
    });
    let begun: Vec<_> = begun.collect();
    begun.into_iter().map(|told| told.blocking_recv().expect("the worker lives")).collect()
}

/// Not a test by itself: what the killed process runs. It says what it begins, and how that ended.
#[test]
fn trading_child() {
    let Ok(path) = std::env::var(CHILD) else { return };
    let round: u64 = std::env::var(ROUND).unwrap().parse().unwrap();
    let store = open(Path::new(&path));
    let traders = traders(&store);
    let node = start(store);
    let say = |line: String| {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{line}").unwrap();
        out.flush().unwrap();
    };
    say(String::new());
    for turn in 0.. {
        let first = round * 1_000_000 + turn * AT_ONCE;
        let ids: Vec<u64> = (first..first + AT_ONCE).collect();
        ids.iter().for_each(|id| say(format!("begun {id}")));
        for (id, told) in ids.iter().zip(swap_all(&node, &traders, &ids)) {
            say(format!("ended {id} {told}"));
        }
    }
}

#[derive(Default)]
struct Heard {
    begun: BTreeSet<u64>,
    ended: BTreeMap<u64, String>,
}

impl Heard {
    fn run_and_kill(&mut self, path: &Path, round: u64) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "killed::trading_child", "--nocapture", "--test-threads=1"])
            .env(CHILD, path)
            .env(ROUND, round.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (mut begun, mut killed) = (0, false);
        // After the kill the pipe still holds what was said before it.
        for line in BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok) {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["begun", id] => {
                    self.begun.insert(id.parse().unwrap());
                    begun += 1;
                }
                ["ended", id, told] if !told.is_empty() => {
                    self.ended.insert(id.parse().unwrap(), told.to_owned());
                }
                _ => {}
            }
            // Within a turn, each time at another place of it.
            if begun >= 5 * AT_ONCE && !killed {
                std::thread::sleep(Duration::from_millis(7 * (round % 13)));
                child.kill().unwrap();
                killed = true;
            }
        }
        child.wait().unwrap();
        assert!(killed, "it ended by itself after {begun}");
    }
}

/// Nothing was made or lost, counting what is on its way; whether something is.
fn audit(store: &Store) -> bool {
    let verdict = store.verify().wait().unwrap();
    assert_eq!(verdict.faults, Vec::<String>::new());
    for (currency, each) in [(GOLD, GOLD_EACH), (SILVER, SILVER_EACH)] {
        let held = verdict.currencies.get(&currency).map_or(0, |held| *held as i128);
        let away = verdict.transit.get(&currency).copied().unwrap_or(0);
        assert_eq!(held + away, i128::from(each) * TRADERS as i128);
    }
    !verdict.transit.is_empty()
}

#[test]
fn f8_sagas_of_a_killed_process_are_done_or_undone_once() {
    let folder = Folder::new("sagas");
    let store = open(&folder.0);
    let traders = traders(&store);
    let of_shard = traders.iter().zip([(GOLD, GOLD_EACH), (SILVER, SILVER_EACH)]);
    let minted = of_shard.flat_map(|(keys, of)| keys.iter().map(move |key| (*key, of)));
    for (id, (key, (currency, amount))) in (1..).zip(minted) {
        let mint = LedgerOp::Mint { holder: Key(key.into()), currency, amount };
        let generation = store.generation().wait().unwrap();
        store.commit(Transaction::new(TxnId(id), generation).with(mint)).wait().unwrap();
    }
    drop(store);

    let mut heard = Heard::default();
    let (mut round, mut on_their_way) = (0, 0);
    while round < ROUNDS || (on_their_way == 0 && round < ROUNDS_MAX) {
        round += 1;
        heard.run_and_kill(&folder.0, round);
        on_their_way += u32::from(audit(&open(&folder.0)));
    }
    let (begun, ended) = (heard.begun.len(), heard.ended.len());
    println!(
        "{round} kills, {on_their_way} with something in transit; {begun} begun, {ended} ended"
    );
    assert!(on_their_way > 0, "never killed between the two shards");
    assert!(heard.ended.len() < heard.begun.len(), "none was cut off");
    assert!(heard.ended.values().any(|told| told == "undone"), "silver never ran out");

    // Whoever asks again is told how it ended, whoever did it, or has it done now.
    let store = open(&folder.0);
    let node = start(store.clone());
    // Silver and gold that changed hands, by trader.
    let (mut open, mut swapped) = (heard.begun.clone(), [BTreeMap::new(), BTreeMap::new()]);
    let began = Instant::now();
    while !open.is_empty() {
        assert!(began.elapsed() < Duration::from_secs(300), "{open:?} do not end");
        let ids: Vec<u64> = open.iter().copied().take(64).collect();
        for (id, told) in ids.iter().zip(swap_all(&node, &traders, &ids)) {
            if told.is_empty() {
                continue;
            }
            open.remove(id);
            if let Some(before) = heard.ended.get(id) {
                assert_eq!(*before, told, "saga {id}");
            }
            if told == "done" {
                let (one, other) = of(&traders, *id);
                for key in [one, other] {
                    *swapped[0].entry(key).or_insert(0) += price(*id);
                    *swapped[1].entry(key).or_insert(0) += 1;
                }
            }
        }
    }
    assert_eq!(node.stop().unsaved(), 0);
    assert!(!audit(&store), "nothing is on its way any more");
    for (shard, keys) in traders.iter().enumerate() {
        for key in keys {
            let held = store.holdings(Key(u128::from(*key))).wait().unwrap().balances;
            let has = |currency| held.get(&currency).copied().unwrap_or(0);
            let silver: u64 = swapped[0].get(key).copied().unwrap_or(0);
            let gold: u64 = swapped[1].get(key).copied().unwrap_or(0);
            match shard {
                0 => assert_eq!((has(GOLD), has(SILVER)), (GOLD_EACH - gold, silver)),
                _ => assert_eq!((has(GOLD), has(SILVER)), (gold, SILVER_EACH - silver)),
            }
        }
    }
}
