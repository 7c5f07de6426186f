//! A process that writes to an embedded store is killed; what it had been answered must be there.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use store::*;

use crate::conformance::A;
use crate::folder::Folder;

const CHILD: &str = "MAINSTAY_STORE_CRASH_CHILD";
const GOLD: Currency = Currency(1);
const BANK: Key = Key(1);
const PLAYERS: u128 = 8;

/// Not a test by itself: what the killed process runs. It prints a line for each answer.
#[test]
fn crash_child() {
    let Ok(path) = std::env::var(CHILD) else { return };
    let store = open(std::path::Path::new(&path));
    let mut next = store.audit(0, usize::MAX).wait().map(|all| all.len() as u128 + 1).unwrap();
    store.beat(A).wait().unwrap();
    let claims: Vec<_> = (0..PLAYERS).map(|player| claim(&store, Key(100 + player))).collect();
    let mut versions = claims.iter().map(|(_, version)| *version).collect::<Vec<_>>();
    loop {
        let mut answers = Vec::new();
        for player in 0..PLAYERS as usize {
            let claim = claims[player].0;
            let patch = Patch::from([("last".to_owned(), Some(next.to_le_bytes().to_vec()))]);
            let mut txn = Transaction::new(TxnId(next), 1);
            txn.writes = vec![Save { claim, version: versions[player], patch }];
            // Each takes from the bank what is brought into it, and makes one item.
            let txn = txn
                .with(LedgerOp::Mint { holder: BANK, currency: GOLD, amount: 3 })
                .with(LedgerOp::Pay { from: BANK, to: claim.key, currency: GOLD, amount: 2 })
                .with(LedgerOp::Make {
                    item: ItemId(next),
                    kind: ItemKind(1),
                    holder: claim.key,
                    data: Vec::new(),
                });
            answers.push((next, store.commit(txn)));
            versions[player] += 1;
            next += 1;
        }
        for (id, answer) in answers {
            answer.wait().unwrap();
            let mut out = std::io::stdout().lock();
            writeln!(out, "done {id}").unwrap();
            out.flush().unwrap();
        }
    }
}

/// The backend goes by the file's name.
fn open(path: &std::path::Path) -> Store {
    #[cfg(feature = "sqlite")]
    if path.extension().is_some_and(|ending| ending == "sqlite") {
        return Store::sqlite(path, Options::default()).unwrap();
    }
    Store::embedded(path, Options::default()).unwrap()
}

fn claim(store: &Store, key: Key) -> (Claim, u64) {
    let epoch = store.load(key).wait().unwrap().map(|entity| entity.owner.epoch);
    let ask = Activate { key, generation: 1, incarnation: A, reclaim: epoch };
    let taken = store.activate(ask).wait().unwrap();
    (taken.claim, taken.version)
}

/// Runs until the process has been killed; the highest transaction it was told of.
fn run_and_kill(path: &std::path::Path, after_lines: usize) -> u128 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::crash_child", "--nocapture", "--test-threads=1"])
        .env(CHILD, path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut last = 0;
    let mut seen = 0;
    let mut killed = false;
    // After the kill the pipe still holds what was said before it.
    while let Some(Ok(line)) = lines.next() {
        // The test harness may print before our first line, on the same line.
        if let Some((_, id)) = line.rsplit_once("done ")
            && let Ok(id) = id.parse()
        {
            last = id;
            seen += 1;
        }
        if seen >= after_lines && !killed {
            child.kill().unwrap();
            killed = true;
        }
    }
    child.wait().unwrap();
    assert!(killed, "the child ended by itself after {seen} answers");
    last
}

#[test]
fn acknowledged_commits_survive_kill_9() {
    let folder = Folder::new("crash");
    survive(&folder.file());
}

#[cfg(feature = "sqlite")]
#[test]
fn acknowledged_commits_survive_kill_9_in_sqlite() {
    let folder = Folder::new("crash");
    survive(&folder.file().with_extension("sqlite"));
}

fn survive(path: &std::path::Path) {
    let mut acknowledged = 0;
    for round in 0..5 {
        acknowledged = run_and_kill(path, 5 + 13 * round).max(acknowledged);
        let store = open(path);
        let audit = store.audit(0, usize::MAX).wait().unwrap();
        let committed = audit.len() as u128;
        assert!(committed >= acknowledged, "{acknowledged} told, {committed} there");
        for id in 1..=committed {
            let receipt = store.lookup(TxnId(id)).wait().unwrap().expect("none is missing");
            assert_eq!(u128::from(receipt.sequence), id);
            assert!(store.item(ItemId(id)).wait().unwrap().is_some());
        }
        let verdict = store.verify().wait().unwrap();
        assert_eq!(verdict.faults, Vec::<String>::new());
        assert_eq!(verdict.currencies[&GOLD], committed * 3);
        assert_eq!(verdict.items[&ItemKind(1)], committed);
        let saves: u64 = (0..PLAYERS)
            .map(|player| store.load(Key(100 + player)).wait().unwrap().unwrap().version)
            .sum();
        assert_eq!(u128::from(saves), committed, "documents and ledger moved together");
    }
}

#[test]
fn dropping_the_last_handle_keeps_what_was_asked() {
    let folder = Folder::new("drop");
    let open = || Store::embedded(folder.file(), Options::default()).unwrap();
    let store = open();
    for id in 1..=100 {
        let mint = LedgerOp::Mint { holder: BANK, currency: GOLD, amount: 1 };
        drop(store.commit(Transaction::new(TxnId(id), 1).with(mint)));
    }
    drop(store);
    assert_eq!(open().holdings(BANK).wait().unwrap().balances[&GOLD], 100);
}

#[test]
fn answers_wake_futures_and_call_back() {
    let folder = Folder::new("answers");
    let store = Store::embedded(folder.file(), Options::default()).unwrap();
    let (told, hears) = std::sync::mpsc::channel();
    store.beat(A).on_ready(move |pulse| told.send(pulse.unwrap().beat).unwrap());
    assert_eq!(hears.recv_timeout(Duration::from_secs(10)), Ok(1));
    let mut answer = Box::pin(store.beat(A));
    let waker = std::task::Waker::from(std::sync::Arc::new(Unpark(std::thread::current())));
    let mut cx = std::task::Context::from_waker(&waker);
    let pulse = loop {
        match answer.as_mut().poll(&mut cx) {
            std::task::Poll::Ready(pulse) => break pulse.unwrap(),
            std::task::Poll::Pending => std::thread::park_timeout(Duration::from_secs(10)),
        }
    };
    assert_eq!(pulse.beat, 2);
    let pulse = store.beat(A).wait_for(Duration::from_secs(10)).expect("in time").unwrap();
    assert_eq!(pulse.beat, 3);
}

struct Unpark(std::thread::Thread);

impl std::task::Wake for Unpark {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.unpark();
    }
}
