//! Data processes are killed under load; what those were told who use them must be there, once.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use store::*;

use crate::folder::Folder;
use crate::proxy::{KEY, anywhere, parts};

const CHILD: &str = "MAINSTAY_STORE_DATA_CHILD";
const PATIENCE: Duration = Duration::from_secs(60);
const GOLD: Currency = Currency(1);
const KILLS: u64 = 8;
const WRITERS: u64 = 3;

/// Not a test by itself: a data process over the file that is named, until its input ends.
#[test]
fn data_child() {
    let Ok(path) = std::env::var(CHILD) else { return };
    let stores = vec![(String::new(), open(Path::new(&path)))];
    let service = DataService::start(anywhere(), parts(stores), DataOptions::default()).unwrap();
    let mut out = std::io::stdout().lock();
    writeln!(out, "\nserves {}", service.address()).unwrap();
    out.flush().unwrap();
    drop(std::io::stdin().read_to_end(&mut Vec::new()));
    std::process::exit(0);
}

/// The backend goes by the file's name.
fn open(path: &Path) -> Store {
    #[cfg(feature = "sqlite")]
    if path.extension().is_some_and(|ending| ending == "sqlite") {
        return Store::sqlite(path, Options::default()).unwrap();
    }
    Store::embedded(path, Options::default()).unwrap()
}

/// A data process, and an address that stays while one follows another.
struct Seat {
    path: PathBuf,
    address: SocketAddr,
    target: Arc<Mutex<SocketAddr>>,
    child: Child,
}

impl Seat {
    fn new(path: &Path) -> Self {
        let listener = TcpListener::bind(anywhere()).unwrap();
        let address = listener.local_addr().unwrap();
        let (child, serves) = Self::start(path);
        let target = Arc::new(Mutex::new(serves));
        let of_thread = Arc::clone(&target);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(*of_thread.lock().unwrap()) else { continue };
                let back = (server.try_clone().unwrap(), client.try_clone().unwrap());
                std::thread::spawn(move || carry(client, server));
                std::thread::spawn(move || carry(back.0, back.1));
            }
        });
        Seat { path: path.to_owned(), address, target, child }
    }

    fn start(path: &Path) -> (Child, SocketAddr) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "killed::data_child", "--nocapture", "--test-threads=1"])
            .env(CHILD, path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut serves = lines.map_while(Result::ok).filter_map(|line| {
            line.strip_prefix("serves ").map(|address| address.parse().unwrap())
        });
        let serves = serves.next().expect("it serves");
        (child, serves)
    }

    /// By `kill -9`, in the middle of whatever it does; then another takes its place.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let (child, serves) = Self::start(&self.path);
        self.child = child;
        *self.target.lock().unwrap() = serves;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream) {
    drop(std::io::copy(&mut from, &mut to));
    drop(to.shutdown(Shutdown::Both));
    drop(from.shutdown(Shutdown::Both));
}

/// Asks until there is an answer that says what is so.
fn known<T>(ask: impl Fn() -> Result<T, Error>) -> T {
    let begun = Instant::now();
    loop {
        match ask() {
            Ok(told) => return told,
            Err(Error::Unavailable(_) | Error::Unknown(_) | Error::Busy) => {}
            Err(error) => panic!("{error:?}"),
        }
        assert!(begun.elapsed() < PATIENCE, "nobody answers");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Commits and saves, one after the other, until told to stop; the transactions and the saves that were
/// acknowledged, or found done when nobody had said so.
fn write(store: &Store, claim: Claim, done: &AtomicU64, stop: &AtomicBool) -> (Vec<u128>, u64) {
    let key = claim.key;
    let (mut ids, mut version) = (Vec::new(), 0);
    for id in ((key.0 & 0xff) << 32)..u128::MAX {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let item =
            LedgerOp::Make { item: ItemId(id), kind: ItemKind(1), holder: key, data: Vec::new() };
        let mint = LedgerOp::Mint { holder: key, currency: GOLD, amount: 1 };
        let txn = Transaction::new(TxnId(id), 1).with(mint).with(item);
        // What nobody has done is asked for again under its id.
        let receipt = known(|| match store.commit(txn.clone()).wait() {
            Err(Error::Unknown(why)) => {
                known(|| store.lookup(TxnId(id)).wait()).ok_or(Error::Unknown(why))
            }
            told => told,
        });
        assert_eq!(receipt.id, TxnId(id));
        ids.push(id);

        let patch = Patch::from([("n".to_owned(), Some((version + 1u64).to_le_bytes().to_vec()))]);
        let save = Save { claim, version, patch };
        version = known(|| match store.save(save.clone()).wait() {
            // Done by a try of which nobody said so.
            Err(Error::Unknown(_) | Error::Conflict { .. }) => {
                let found = known(|| store.load(key).wait()).expect("it is there").version;
                if found > version { Ok(found) } else { Err(Error::Busy) }
            }
            told => told,
        });
        done.fetch_add(1, Ordering::SeqCst);
        // However fast the disk is, a holder has room for what it makes here.
        std::thread::sleep(Duration::from_millis(1));
    }
    (ids, version)
}

/// Ends the load also if a check fails while it is there.
struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// `count` data processes over one file are killed in turn under load.
fn survive(path: &Path, count: usize) {
    drop(open(path));
    let mut seats: Vec<Seat> = (0..count).map(|_| Seat::new(path)).collect();
    let addresses: Vec<String> = seats.iter().map(|seat| seat.address.to_string()).collect();
    let options = ProxyOptions { away_wait: Duration::from_secs(20), ..ProxyOptions::default() };
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let told: Vec<(Vec<u128>, u64)> = std::thread::scope(|scope| {
        let writers: Vec<_> = (1..=WRITERS)
            .map(|writer| {
                let store = Store::proxy(&addresses, "", &KEY, options.clone()).unwrap();
                let (me, key) = (Incarnation(100 + writer), Key(5 << 64 | u128::from(writer)));
                store.beat(me).wait().unwrap();
                let ask = Activate { key, generation: 1, incarnation: me, reclaim: None };
                // Nobody is killed yet.
                (store.activate(ask).wait().unwrap().claim, store)
            })
            .collect();
        let stops = Stops(&stop);
        let writers: Vec<_> = writers
            .into_iter()
            .map(|(claim, store)| {
                let (done, stop) = (&done, &stop);
                scope.spawn(move || write(&store, claim, done, stop))
            })
            .collect();
        let begun = Instant::now();
        for kill in 0..KILLS {
            let before = done.load(Ordering::SeqCst);
            while done.load(Ordering::SeqCst) < before + 20 + 7 * kill {
                assert!(begun.elapsed() < 4 * PATIENCE, "they stand still");
                assert!(!writers.iter().any(|writer| writer.is_finished()), "one has failed");
                std::thread::sleep(Duration::from_millis(1));
            }
            seats[kill as usize % count].kill();
        }
        let before = done.load(Ordering::SeqCst);
        while done.load(Ordering::SeqCst) < before + 20 {
            assert!(begun.elapsed() < 4 * PATIENCE, "they stand still after the last");
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(stops);
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    drop(seats);

    let store = open(path);
    let mut all = BTreeSet::new();
    for (writer, (ids, version)) in (1..=WRITERS).zip(told) {
        let key = Key(5 << 64 | u128::from(writer));
        assert_eq!(
            store.load(key).wait().unwrap().unwrap().version,
            version,
            "saves are done once"
        );
        let held = store.holdings(key).wait().unwrap();
        assert_eq!(held.balances[&GOLD], ids.len() as u64, "each is paid once");
        assert_eq!(held.items.len(), ids.len());
        all.extend(ids);
    }
    let (mut committed, mut after) = (Vec::new(), 0);
    loop {
        let page = store.audit(after, usize::MAX).wait().unwrap();
        let Some(last) = page.last() else { break };
        after = last.sequence;
        committed.extend(page.iter().map(|entry| entry.txn.0));
    }
    assert_eq!(committed.len(), all.len());
    let committed: BTreeSet<u128> = committed.into_iter().collect();
    assert_eq!(committed, all, "what was told is there, and nothing else");
    assert_eq!(store.verify().wait().unwrap().faults, Vec::<String>::new());
}

#[test]
fn f14_a_data_process_killed_under_load_loses_and_doubles_nothing() {
    let folder = Folder::new("killed");
    survive(&folder.file(), 1);
}

#[cfg(feature = "sqlite")]
#[test]
fn f14_either_of_two_data_processes_killed_under_load_loses_and_doubles_nothing() {
    let folder = Folder::new("killed");
    survive(&folder.file().with_extension("sqlite"), 2);
}
