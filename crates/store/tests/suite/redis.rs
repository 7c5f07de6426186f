//! What is Redis' alone: its settings, reading one moment without snapshots, and a failover by Sentinel.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use servers::{Redis, Sentinel};
use store::*;

use crate::conformance::A;
use crate::database::{patiently, quick};

const GOLD: Currency = Currency(1);

fn mint(id: u128, holder: Key, amount: u64) -> Transaction {
    let mint = LedgerOp::Mint { holder, currency: GOLD, amount };
    Transaction::new(TxnId(id), 1).with(mint)
}

fn accepting() -> ServerOptions {
    ServerOptions { accept_loss: true, ..quick() }
}

#[test]
fn redis_that_could_lose_what_it_acknowledged_is_refused() {
    if servers::skipped() {
        return;
    }
    let cases = [
        (["--appendfsync", "everysec"], "appendfsync always"),
        (["--appendonly", "no"], "appendonly yes"),
        (["--no-appendfsync-on-rewrite", "yes"], "no-appendfsync-on-rewrite no"),
    ];
    for (flags, says) in cases {
        let server = Redis::start_with(&flags).unwrap();
        match Store::redis(&server.url(), quick()) {
            Err(OpenError::NotDurable { reason, .. }) => assert!(reason.contains(says), "{reason}"),
            other => panic!("{other:?}"),
        }
        let store = Store::redis(&server.url(), accepting()).unwrap();
        store.commit(mint(1, Key(1), 1)).wait().unwrap();
    }
    // Rows that vanish one by one are never accepted.
    let evicts = ["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"];
    let server = Redis::start_with(&evicts).unwrap();
    let refused = Store::redis(&server.url(), accepting());
    assert!(matches!(refused, Err(OpenError::NotDurable { .. })), "{refused:?}");
}

#[test]
fn redis_refuses_a_wrong_password_and_a_replica_takes_no_store() {
    if servers::skipped() {
        return;
    }
    let server = Redis::start_with(&["--requirepass", "horse"]).unwrap();
    let open = |password: &str| {
        let password = Some(Password(password.to_owned()));
        Store::redis(&server.url(), ServerOptions { password, ..quick() })
    };
    drop(open("horse").unwrap());
    let wrong = open("battery");
    assert!(matches!(wrong, Err(OpenError::Denied { .. })), "{wrong:?}");
    assert!(!format!("{wrong:?}").contains("battery"));
    for url in ["nonsense", "redis://127.0.0.1:1/?shard=a%20b", "redis-sentinel://127.0.0.1:1"] {
        let malformed = Store::redis(url, accepting());
        assert!(matches!(malformed, Err(OpenError::Malformed(_))), "{malformed:?}");
    }
    let primary = Redis::start().unwrap();
    let replica = Redis::replica(&primary).unwrap();
    let options = ServerOptions { open_wait: Duration::from_millis(300), ..quick() };
    match Store::redis(&replica.url(), options) {
        Err(OpenError::Away { reason, .. }) => assert!(reason.contains("replica"), "{reason}"),
        other => panic!("{other:?}"),
    }
}

/// Ends the other thread also when this one panics.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A check of the whole shard sees one moment of it, although Redis has no snapshots and payments go on: were it not
/// so, sums would not match.
#[test]
fn one_moment_is_read_while_commits_go_on() {
    if servers::skipped() {
        return;
    }
    let server = Redis::start().unwrap();
    let open = || Store::redis(&server.url(), quick()).unwrap();
    let (writer, reader) = (open(), open());
    let holders = 400_u128;
    let seeds: Vec<_> = (0..holders).map(|n| writer.commit(mint(1 + n, Key(n), 10))).collect();
    for seed in seeds {
        seed.wait().unwrap();
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stopping = Stop(&stop);
        let writing = scope.spawn(|| {
            let mut done = 0;
            for step in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                // From the end to the beginning of what is read, so that a reader of no moment misses it.
                let (from, to) = (Key(holders - 1 - step % 100), Key(step % 100));
                let pay = LedgerOp::Pay { from, to, currency: GOLD, amount: 1 };
                let txn = Transaction::new(TxnId(1_000_000 + step), 1).with(pay);
                match patiently(|| writer.commit(txn.clone()).wait()) {
                    Ok(_) => done += 1,
                    Err(Error::Refused(_)) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
            done
        });
        let mut read = 0;
        let until = Instant::now() + Duration::from_secs(60);
        while read < 3 && Instant::now() < until {
            let verdict = patiently(|| reader.verify().wait()).unwrap();
            assert_eq!(verdict.faults, Vec::<String>::new());
            assert_eq!(verdict.currencies[&GOLD], 10 * holders);
            read += 1;
        }
        drop(stopping);
        assert_eq!(read, 3);
        assert!(writing.join().unwrap() > 0);
    });
}

/// A promoted replica may lack what the old primary acknowledged last, so all claims end and everybody activates anew.
#[test]
fn a_failover_by_sentinel_raises_the_generation() {
    if servers::skipped() {
        return;
    }
    let primary = Redis::start().unwrap();
    let replica = Redis::replica(&primary).unwrap();
    let sentinels: Vec<_> = (0..3).map(|_| Sentinel::start(&primary, "main", 2).unwrap()).collect();
    let hosts: Vec<_> = sentinels.iter().map(|one| format!("127.0.0.1:{}", one.port())).collect();
    let url = format!("redis-sentinel://{}/main?shard=one", hosts.join(","));
    let unaccepted = Store::redis(&url, quick());
    assert!(matches!(unaccepted, Err(OpenError::NotDurable { .. })), "{unaccepted:?}");

    let stores = [0, 1].map(|_| Store::redis(&url, accepting()).unwrap());
    let store = &stores[0];
    store.beat(A).wait().unwrap();
    let ask = |generation| Activate { key: Key(7), generation, incarnation: A, reclaim: None };
    let claim = store.activate(ask(1)).wait().unwrap().claim;
    for id in 1..=20 {
        store.commit(mint(id, Key(1), 1)).wait().unwrap();
    }
    let until = Instant::now() + Duration::from_secs(60);
    let watched =
        |server: &Redis| server.log().contains("MASTER <-> REPLICA sync: Finished with success");
    while !watched(&replica) || !sentinels.iter().all(|one| one.log().contains("+slave ")) {
        assert!(Instant::now() < until, "{}", replica.log());
        std::thread::yield_now();
    }
    primary.kill();
    let raised = patiently(|| store.generation().wait()).unwrap();
    assert_eq!(raised, 2);
    let patch = Patch::from([("bag".to_owned(), Some(vec![1]))]);
    let late = store.save(Save { claim, version: 0, patch }).wait();
    assert_eq!(late, Err(Error::Generation { current: 2 }));
    // The other process finds it raised, and does not raise it again.
    assert_eq!(patiently(|| stores[1].generation().wait()).unwrap(), 2);
    let again = Transaction { generation: 2, ..mint(21, Key(1), 1) };
    patiently(|| stores[1].commit(again.clone()).wait()).unwrap();
    assert_eq!(store.verify().wait().unwrap().faults, Vec::<String>::new());
}

/// A process that found all gone said so, and at its next try made a new, empty shard there.
#[test]
fn redis_that_has_lost_all_is_not_made_anew_by_who_knew_it() {
    use std::io::{Read, Write};
    if servers::skipped() {
        return;
    }
    let server = Redis::start().unwrap();
    let options = ServerOptions { away_wait: Duration::from_millis(300), ..quick() };
    let store = Store::redis(&server.url(), options).unwrap();
    store.commit(mint(1, Key(1), 1)).wait().unwrap();
    let mut line = std::net::TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    line.write_all(b"FLUSHALL\r\n").unwrap();
    let mut said = [0; 16];
    assert!(line.read(&mut said).unwrap() > 0 && said.starts_with(b"+OK"));
    drop(line);
    server.kill();
    server.start_again().unwrap();
    for id in 2..=6 {
        let told = store.commit(mint(id, Key(1), 1)).wait();
        assert!(matches!(told, Err(Error::Unavailable(_) | Error::Unknown(_))), "{told:?}");
    }
    // Whoever is started now begins anew, and who knew it before takes it for another life.
    let other = Store::redis(&server.url(), quick()).unwrap();
    assert_eq!(other.generation().wait(), Ok(1));
    assert_eq!(patiently(|| store.generation().wait()), Ok(2));
}
