//! Copies of entities in the process and in Redis: fresh enough, loaded once, and never in the way.

use std::sync::Arc;
use std::time::{Duration, Instant};

use servers::{Instance, Redis};
use store::*;

use crate::conformance::{A, patch};

const AGE: Duration = Duration::from_secs(2);

fn options() -> CacheOptions {
    // A loaded machine may be slow to answer; what is tried here is not how long that may take.
    CacheOptions { age_max: AGE, reply_wait: Duration::from_secs(10), ..CacheOptions::default() }
}

/// A store with one entity that was saved once.
fn store() -> (Store, Claim) {
    let store = Store::memory(Limits::default());
    store.beat(A).wait().unwrap();
    let ask = Activate { key: Key(7), generation: 1, incarnation: A, reclaim: None };
    let claim = store.activate(ask).wait().unwrap().claim;
    save(&store, claim, 0);
    (store, claim)
}

fn save(store: &Store, claim: Claim, version: u64) {
    let patch = patch("bag", &format!("written {version}"));
    store.save(Save { claim, version, patch }).wait().unwrap();
}

fn version(cache: &Cache) -> u64 {
    cache.load(Key(7)).wait().unwrap().unwrap().version
}

#[test]
fn a_copy_is_found_near_then_far_then_in_the_store() {
    if servers::skipped() {
        return;
    }
    let server = Redis::start_with(&["--appendonly", "no"]).unwrap();
    let (store, _) = store();
    // So old that only what the counts say decides where it was found.
    let options = CacheOptions { age_max: Duration::from_secs(600), ..options() };
    let open = || Cache::redis(store.clone(), &server.url(), options.clone()).unwrap();
    let (one, two) = (open(), open());
    let entity = one.load(Key(7)).wait().unwrap().unwrap();
    assert_eq!(entity.documents["bag"], b"written 0");
    assert_eq!(one.counts(), CacheCounts { store: 1, ..CacheCounts::default() });
    // The copy goes to Redis after the answer.
    let until = Instant::now() + Duration::from_secs(60);
    while !redis_has_a_copy(&server) {
        assert!(Instant::now() < until);
        std::thread::yield_now();
    }
    let far = two.load(Key(7)).wait().unwrap().unwrap();
    assert_eq!(far, entity);
    // Whoever wrote no copy hears of none, so this one stays.
    assert!(Arc::ptr_eq(&far, &two.load(Key(7)).wait().unwrap().unwrap()));
    assert_eq!(two.counts(), CacheCounts { near: 1, far: 1, ..CacheCounts::default() });
    // That there is none is kept as well.
    assert_eq!(one.load(Key(8)).wait(), Ok(None));
    assert_eq!(one.load(Key(8)).wait(), Ok(None));
    // Word of its own writing comes back to the first, whose near copy ends with it.
    let counts = one.counts();
    assert_eq!((counts.store, counts.near + counts.far), (2, 1), "{counts:?}");
    // A cache that was wiped is filled again.
    ask(&server, "FLUSHALL");
    assert_eq!(open().load(Key(7)).wait().unwrap().unwrap().version, 1);
}

fn redis_has_a_copy(server: &Redis) -> bool {
    ask(server, "DBSIZE").starts_with(":1")
}

fn ask(server: &Redis, command: &str) -> String {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    stream.write_all(format!("{command}\r\n").as_bytes()).unwrap();
    let mut answer = vec![0; 1024];
    let read = stream.read(&mut answer).unwrap();
    String::from_utf8_lossy(&answer[..read]).into_owned()
}

#[test]
fn what_is_answered_was_true_at_most_so_long_ago() {
    if servers::skipped() {
        return;
    }
    let server = Redis::start_with(&["--appendonly", "no"]).unwrap();
    let (store, claim) = store();
    let open = || Cache::redis(store.clone(), &server.url(), options()).unwrap();
    let caches = [open(), open()];
    let mut written = vec![(Instant::now(), 1)];
    let until = Instant::now() + 4 * AGE;
    while Instant::now() < until {
        // Whatever was under way while the server stood still does not live longer for it.
        if written.len() == 20 {
            server.freeze();
            std::thread::sleep(AGE);
            server.thaw();
        }
        let next = written.len() as u64;
        save(&store, claim, next);
        written.push((Instant::now(), next + 1));
        for cache in &caches {
            let asked = Instant::now();
            let seen = version(cache);
            // The version that replaced what was seen must not have been there for too long when it was asked for.
            if let Some((at, _)) = written.iter().find(|(_, version)| *version > seen) {
                assert!(asked.duration_since(*at) <= AGE, "{seen} of {next}");
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let counts = caches.map(|cache| cache.counts());
    assert!(counts.iter().any(|counts| counts.far > 0), "{counts:?}");
    assert!(counts.iter().all(|counts| counts.near > counts.store), "{counts:?}");
}

#[test]
fn a_change_is_told_to_the_near_copies_of_other_processes() {
    if servers::skipped() {
        return;
    }
    let server = Redis::start_with(&["--appendonly", "no"]).unwrap();
    let (store, claim) = store();
    let options = CacheOptions { age_max: Duration::from_secs(600), ..options() };
    let open = || Cache::redis(store.clone(), &server.url(), options.clone()).unwrap();
    let (one, two) = (open(), open());
    let until = Instant::now() + Duration::from_secs(60);
    for next in 1..=5 {
        let seen = |cache| {
            while version(cache) != next || !redis_has_a_copy(&server) {
                assert!(Instant::now() < until);
                std::thread::yield_now();
            }
        };
        seen(&one);
        seen(&two);
        save(&store, claim, next);
        one.forget(Key(7));
    }
    assert!(two.counts().far > 0, "{two:?}");
}

#[test]
fn many_who_ask_at_once_cause_one_reading() {
    let (store, _) = store();
    let cache = Cache::near(store, CacheOptions { age_max: Duration::from_secs(600), ..options() });
    let cache = cache.unwrap();
    let answers: Vec<_> = (0..1_000).map(|_| cache.load(Key(7))).collect();
    for answer in answers {
        assert_eq!(answer.wait().unwrap().unwrap().version, 1);
    }
    assert_eq!(cache.counts(), CacheCounts { store: 1, near: 999, ..CacheCounts::default() });
}

#[test]
fn a_cache_that_is_away_or_frozen_only_slows_and_what_is_forgotten_is_read_anew() {
    if servers::skipped() {
        return;
    }
    let server = Redis::start_with(&["--appendonly", "no"]).unwrap();
    let (store, claim) = store();
    let options = CacheOptions {
        age_max: Duration::from_secs(600),
        reply_wait: Duration::from_millis(100),
        ..CacheOptions::default()
    };
    let cache = Cache::redis(store.clone(), &server.url(), options).unwrap();
    assert_eq!(version(&cache), 1);
    for (away, next) in [(Instance::freeze as fn(&Instance), 1), (Instance::kill, 2)] {
        away(&server);
        save(&store, claim, next);
        cache.forget(Key(7));
        // Redis may still have the old copy, but cannot be asked.
        assert_eq!(version(&cache), next + 1);
        server.thaw();
    }
    assert!(cache.counts().away >= 1, "{cache:?}");
    server.start_again().unwrap();
    // In time it is used again.
    let until = Instant::now() + Duration::from_secs(60);
    let mut key = 100;
    while !redis_has_a_copy(&server) {
        assert!(Instant::now() < until);
        assert_eq!(cache.load(Key(key)).wait(), Ok(None));
        key += 1;
        std::thread::yield_now();
    }
}

#[test]
fn the_oldest_copies_go_when_there_are_too_many() {
    let (store, _) = store();
    let options = CacheOptions { age_max: Duration::from_secs(600), entries_max: 2, ..options() };
    let cache = Cache::near(store, options).unwrap();
    for key in [1, 2, 3, 3, 1] {
        assert_eq!(cache.load(Key(key)).wait(), Ok(None));
    }
    // The first was gone when it was asked for again.
    assert_eq!(cache.counts(), CacheCounts { store: 4, near: 1, ..CacheCounts::default() });
}
