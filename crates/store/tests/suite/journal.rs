//! A journal in Redis that lands in a database: both are real.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use servers::Redis;
use store::*;

use crate::conformance::A;
#[cfg(any(feature = "postgres", feature = "mysql", feature = "mongodb"))]
use crate::database::Database;
use crate::database::{patiently, quick};
use crate::folder::Folder;

const GOLD: Currency = Currency(1);
const BANK: Key = Key(1);
/// Redis that loses what it has when it ends.
const FORGETFUL: [&str; 2] = ["--appendonly", "no"];

fn mint(id: u128, generation: u64) -> Transaction {
    let mint = LedgerOp::Mint { holder: BANK, currency: GOLD, amount: 1 };
    Transaction::new(TxnId(id), generation).with(mint)
}

fn lands(acknowledge: Acknowledge) -> LandingOptions {
    LandingOptions {
        acknowledge,
        interval: Duration::from_millis(50),
        settle_wait: Duration::from_secs(30),
        ..LandingOptions::default()
    }
}

fn open(redis: &Redis, target: Store, acknowledge: Acknowledge) -> Store {
    Store::journal(&redis.url(), quick(), target, lands(acknowledge)).unwrap()
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(180);
    while !is_so() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until the target has what the journal has. A slow target is not asked for all of its rows
/// while it has enough to do.
fn landed(store: &Store, target: &Store) {
    until("nothing waits", || {
        store.landing().is_none_or(|report| report.backlog_bytes == 0 && report.trouble.is_none())
    });
    until("it lands", || rows(store) == rows(target));
}

/// All rows of a store as a copy has them.
fn rows(store: &Store) -> Vec<dump::RawRow> {
    patiently(|| store.rows(None, usize::MAX).wait()).unwrap()
}

fn gold(store: &Store) -> u64 {
    let holdings = patiently(|| store.holdings(BANK).wait()).unwrap();
    holdings.balances.get(&GOLD).copied().unwrap_or(0)
}

#[test]
fn a_class_that_the_journal_cannot_give_is_refused() {
    if servers::skipped() {
        return;
    }
    let server = Redis::start_with(&["--appendfsync", "everysec"]).unwrap();
    let target = || Store::memory(Limits::default());
    let refused =
        Store::journal(&server.url(), quick(), target(), lands(Acknowledge::Journal)).unwrap_err();
    let said = refused.to_string();
    assert!(matches!(refused, OpenError::NotDurable { .. }), "{said}");
    assert!(said.contains("appendfsync") && said.contains("landed"), "{said}");
    open(&server, target(), Acknowledge::Landed).commit(mint(1, 1)).wait().unwrap();
}

/// Redis loses all it had again and again: what is valuable was acknowledged when it had landed, so it is there.
#[test]
fn what_was_acknowledged_as_landed_outlives_a_journal_that_is_lost() {
    if servers::skipped() {
        return;
    }
    let server = Redis::start_with(&FORGETFUL).unwrap();
    let target = Store::memory(Limits::default());
    let store = open(&server, target.clone(), Acknowledge::Landed);
    let mut done = Vec::new();
    for round in 0..3u128 {
        let generation = patiently(|| store.generation().wait()).unwrap();
        let under_way: Vec<_> = (0..40)
            .map(|n| 1 + round * 100 + n)
            .map(|id| (id, store.commit(mint(id, generation))))
            .collect();
        for (n, (id, answer)) in under_way.into_iter().enumerate() {
            if n == 20 {
                server.kill();
                server.start_again().unwrap();
            }
            match answer.wait() {
                Ok(_) => done.push(id),
                Err(
                    Error::Unknown(_)
                    | Error::Generation { .. }
                    | Error::Unavailable(_)
                    | Error::Busy,
                ) => {
                    let known = || match store.lookup(TxnId(id)).wait() {
                        Err(Error::Unknown(_)) => Err(Error::Busy),
                        other => other,
                    };
                    done.extend(patiently(known).unwrap().map(|receipt| receipt.id.0));
                }
                Err(error) => panic!("{error:?}"),
            }
        }
    }
    let generation = patiently(|| store.generation().wait()).unwrap();
    assert!(generation > 1, "claims from before a loss do not hold");
    assert!(done.len() >= 20);
    assert_eq!(gold(&store), done.len() as u64);
    landed(&store, &target);
    assert_eq!(gold(&target), done.len() as u64);
    assert_eq!(store.verify().wait().unwrap().faults, Vec::<String>::new());
    assert_eq!(target.verify().wait().unwrap().faults, Vec::<String>::new());
}

/// What a node saved and was told is in the journal comes back with it, and what had not landed is lost with it.
#[test]
fn a_journal_that_is_lost_is_filled_again_with_what_had_landed() {
    if servers::skipped() {
        return;
    }
    let server = Redis::start_with(&FORGETFUL).unwrap();
    let target = Store::memory(Limits::default());
    let store = open(&server, target.clone(), Acknowledge::Landed);
    store.beat(A).wait().unwrap();
    let ask = |generation| Activate { key: Key(7), generation, incarnation: A, reclaim: Some(1) };
    let claim = store.activate(Activate { reclaim: None, ..ask(1) }).wait().unwrap().claim;
    let patch = |n: u8| Patch::from([("bag".to_owned(), Some(vec![n]))]);
    store.save(Save { claim, version: 0, patch: patch(1) }).wait().unwrap();
    landed(&store, &target);
    server.kill();
    server.start_again().unwrap();
    let generation = patiently(|| store.generation().wait()).unwrap();
    let late = store.save(Save { claim, version: 1, patch: patch(2) }).wait();
    assert_eq!(late, Err(Error::Generation { current: generation }));
    let again = store.activate(ask(generation)).wait().unwrap();
    assert_eq!((again.version, &again.documents["bag"]), (1, &vec![1]));
    store.save(Save { claim: again.claim, version: 1, patch: patch(2) }).wait().unwrap();
    landed(&store, &target);
}

/// A Redis that syncs what it acknowledges is killed under load: nothing is lost, nothing is activated anew.
#[test]
fn a_killed_journal_that_keeps_what_it_acknowledged_goes_on() {
    if servers::skipped() {
        return;
    }
    let server = Redis::start().unwrap();
    let target = Store::memory(Limits::default());
    let store = open(&server, target.clone(), Acknowledge::Journal);
    for round in 0..3u128 {
        let under_way: Vec<_> =
            (0..30).map(|n| store.commit(mint(1 + round * 100 + n, 1))).collect();
        server.kill();
        server.start_again().unwrap();
        for answer in under_way {
            answer.wait().unwrap();
        }
    }
    assert_eq!(gold(&store), 90);
    landed(&store, &target);
}

#[test]
fn a_full_journal_says_that_it_is_busy_until_it_lands() {
    if servers::skipped() {
        return;
    }
    let (server, folder) = (Redis::start().unwrap(), Folder::new("journal"));
    let target = Store::embedded(folder.file(), Options::default()).unwrap();
    let options = LandingOptions {
        backlog_bytes_max: 4_000,
        interval: Duration::from_secs(600),
        ..lands(Acknowledge::Journal)
    };
    let server_options = ServerOptions { lock_wait: Duration::from_millis(300), ..quick() };
    let store = Store::journal(&server.url(), server_options, target, options).unwrap();
    // The target lands as long as something comes, but a hundred at once are too many for it.
    let full = (0..100u128).find_map(|burst| {
        let ids = burst * 100 + 1..burst * 100 + 101;
        let answers: Vec<_> = ids.map(|id| store.commit(mint(id, 1))).collect();
        answers.into_iter().find_map(|answer| answer.wait().err())
    });
    assert_eq!(full, Some(Error::Busy));
    let report = store.landing().unwrap();
    drop(store);
    assert!(report.trouble.is_none(), "{report:?}");
    // Whoever comes next lands it.
    let target = Store::embedded(folder.file(), Options::default()).unwrap();
    let store = open(&server, target, Acknowledge::Journal);
    patiently(|| store.commit(mint(99_999, 1)).wait()).unwrap();
}

const CHILD: &str = "MAINSTAY_JOURNAL_CHILD";

/// Not a test by itself: what the killed process runs. It prints a line for each answer.
#[test]
fn journal_child() {
    let Ok(places) = std::env::var(CHILD) else { return };
    let (url, file) = places.split_once('|').unwrap();
    let target = Store::embedded(file, Options::default()).unwrap();
    let store = Store::journal(url, quick(), target, lands(Acknowledge::Landed)).unwrap();
    let known = patiently(|| store.audit(0, usize::MAX).wait()).unwrap();
    for step in 0.. {
        let first = known.len() as u128 + 1 + step * 8;
        let answers: Vec<_> =
            (first..first + 8).map(|id| (id, store.commit(mint(id, 1)))).collect();
        for (id, answer) in answers {
            answer.wait().unwrap();
            println!("\ndone {id}");
        }
    }
}

/// The process that writes and lands is killed at any time, again and again; in the end Redis loses all it has.
#[test]
fn what_a_killed_process_was_told_has_landed_is_in_the_target() {
    if servers::skipped() {
        return;
    }
    let (server, folder) = (Redis::start_with(&FORGETFUL).unwrap(), Folder::new("journal"));
    let file = folder.file();
    let mut done = 0;
    for round in 0..5 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "journal::journal_child", "--nocapture", "--test-threads=1"])
            .env(CHILD, format!("{}|{}", server.url(), file.display()))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let told = lines
            .map_while(Result::ok)
            .filter_map(|line| line.strip_prefix("done ").and_then(|id| id.parse::<u64>().ok()));
        // After the kill the pipe still holds what was said before it.
        for (seen, id) in told.enumerate() {
            done = id;
            if seen == 5 + round * 3 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
    }
    server.kill();
    let target = Store::embedded(&file, Options::default()).unwrap();
    assert!(done >= 5 * 6 && gold(&target) >= done, "{done} were told, {} landed", gold(&target));
    assert_eq!(target.verify().wait().unwrap().faults, Vec::<String>::new());
    for id in 1..=u128::from(done) {
        assert!(target.lookup(TxnId(id)).wait().unwrap().is_some(), "{id}");
    }
}

#[test]
fn a_journal_of_another_store_is_refused() {
    if servers::skipped() {
        return;
    }
    let server = Redis::start().unwrap();
    Store::redis(&server.url(), quick()).unwrap().commit(mint(1, 1)).wait().unwrap();
    let target = Store::memory(Limits::default());
    let refused = Store::journal(&server.url(), quick(), target, lands(Acknowledge::Journal));
    let said = refused.unwrap_err().to_string();
    assert!(said.contains("without a landing target"), "{said}");
}

#[cfg(any(feature = "postgres", feature = "mysql", feature = "mongodb"))]
mod databases {
    use super::*;

    /// The target is away under load: the journal holds, and all of it lands when it is back, also through two workers of
    /// which one ends.
    fn a_target_that_is_away_is_caught_up_with(database: &Database, away: Duration) {
        let server = Redis::start().unwrap();
        let name = database.make();
        let target = || {
            let url = database.url(database.admin(), database.instance().port(), &name);
            let away_wait = Duration::from_millis(500);
            database.open_at(&url, ServerOptions { away_wait, ..quick() }).unwrap()
        };
        let mut stores: Vec<Store> =
            (0..2).map(|_| open(&server, target(), Acknowledge::Journal)).collect();
        let (stop, acknowledged) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            let store = stores[0].clone();
            let (stop, acknowledged) = (&stop, &acknowledged);
            // A slow target would take minutes for what piles up meanwhile.
            let pace = Duration::from_millis(if database.is_slow() { 50 } else { 0 });
            let writing = scope.spawn(move || {
                let mut id = 0;
                while !stop.load(Ordering::Relaxed) {
                    id += 1;
                    patiently(|| store.commit(mint(id, 1)).wait()).unwrap();
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(pace);
                }
                id
            });
            let more = |n| {
                let before = acknowledged.load(Ordering::Relaxed);
                until("commits go on", || acknowledged.load(Ordering::Relaxed) >= before + n);
            };
            more(20);
            database.instance().kill();
            let since = Instant::now();
            more(50);
            until("the target is away", || {
                stores.iter().any(|store| store.landing().unwrap().trouble.is_some())
            });
            drop(stores.pop());
            std::thread::sleep(away.saturating_sub(since.elapsed()));
            more(1);
            assert!(stores[0].landing().unwrap().backlog_bytes > 0);
            database.instance().start_again().unwrap();
            more(20);
            stop.store(true, Ordering::Relaxed);
            assert_eq!(gold(&stores[0]), writing.join().unwrap() as u64);
        });
        let target = target();
        landed(&stores[0], &target);
        assert_eq!(gold(&target), acknowledged.load(Ordering::Relaxed));
        assert_eq!(target.verify().wait().unwrap().faults, Vec::<String>::new());
        until("it says so", || {
            let report = stores[0].landing().unwrap();
            report.trouble.is_none() && report.backlog_bytes == 0
        });
    }

    fn away() -> Duration {
        let seconds = std::env::var("MAINSTAY_TEST_AWAY").ok().and_then(|text| text.parse().ok());
        Duration::from_secs(seconds.unwrap_or(3))
    }

    #[cfg(feature = "postgres")]
    #[test]
    fn postgres_that_is_away_is_caught_up_with() {
        if !servers::skipped() {
            a_target_that_is_away_is_caught_up_with(&Database::postgres(), away());
        }
    }

    #[cfg(feature = "mysql")]
    #[test]
    fn mariadb_that_is_away_is_caught_up_with() {
        if !servers::skipped() {
            a_target_that_is_away_is_caught_up_with(&Database::mysql(), away());
        }
    }

    #[cfg(feature = "mongodb")]
    #[test]
    fn mongodb_that_is_away_is_caught_up_with() {
        if !servers::skipped() {
            a_target_that_is_away_is_caught_up_with(&Database::mongodb(), away());
        }
    }
}
