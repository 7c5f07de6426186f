//! Stores on real servers: shared by processes, killed, cut and frozen.

use store::*;

use crate::bank::{commits_meanwhile, gold, mint};
use crate::conformance::{A, B};
use crate::database::{Database, Trick, Wire, patiently, quick};

macro_rules! on {
    ($feature:literal, $kind:ident, $test:ident) => {
        #[cfg(feature = $feature)]
        #[test]
        fn $kind() {
            if !servers::skipped() {
                super::tests::$test(&crate::database::Database::$kind());
            }
        }
    };
}

/// Each test once per kind of server.
macro_rules! on_each_server {
    ($($test:ident)*) => {
        $(
            mod $test {
                on!("postgres", postgres, $test);
                on!("mysql", mysql, $test);
                on!("redis", redis, $test);
                on!("mongodb", mongodb, $test);
            }
        )*
    };
}

/// Each test once per kind of server that speaks SQL.
macro_rules! on_each_sql_server {
    ($($test:ident)*) => {
        $(
            mod $test {
                on!("postgres", postgres, $test);
                on!("mysql", mysql, $test);
            }
        )*
    };
}

on_each_server! {
    several_handles_share_a_shard_and_lose_nothing
    a_killed_server_loses_nothing_acknowledged_and_doubles_nothing
    a_commit_cut_from_its_answer_is_found_out_and_done_once
    a_frozen_holder_of_the_lock_does_not_stop_others
    a_server_that_stays_away_is_told_and_comes_back
    processes_that_come_at_once_make_one_shard
    large_documents_and_batches_fit
}

on_each_sql_server! {
    a_wrong_password_or_database_is_refused_and_never_shown
}

#[cfg(feature = "postgres")]
#[test]
fn postgres_that_could_lose_what_it_acknowledged_is_refused() {
    if servers::skipped() {
        return;
    }
    let server = servers::Postgres::start_with(&[("fsync", "off")]).unwrap();
    let database = Database::Postgres(server);
    refused_unless_loss_is_accepted(&database, "fsync = on");
    // This one is each session's own business.
    let database = Database::postgres();
    database.sql("ALTER SYSTEM SET synchronous_commit = off");
    database.sql("SELECT pg_reload_conf()");
    let store = database.open(database.instance().port(), &database.make());
    store.commit(mint(1)).wait().unwrap();
}

#[cfg(feature = "mysql")]
#[test]
fn mysql_that_could_lose_what_it_acknowledged_is_refused() {
    if servers::skipped() {
        return;
    }
    let database = Database::mysql();
    let cases = [
        ("SET GLOBAL innodb_flush_log_at_trx_commit = 2", "innodb_flush_log_at_trx_commit = 1"),
        ("SET GLOBAL innodb_flush_log_at_trx_commit = 1", ""),
    ];
    for (set, says) in cases {
        database.sql(set);
        if says.is_empty() {
            drop(database.open(database.instance().port(), &database.make()));
        } else {
            refused_unless_loss_is_accepted(&database, says);
        }
    }
}

#[cfg(any(feature = "postgres", feature = "mysql"))]
fn refused_unless_loss_is_accepted(database: &Database, says: &str) {
    let url = database.url(database.admin(), database.instance().port(), &database.make());
    match database.open_at(&url, quick()) {
        Err(OpenError::NotDurable { reason, .. }) => assert!(reason.contains(says), "{reason}"),
        other => panic!("{other:?}"),
    }
    let options = ServerOptions { accept_loss: true, ..quick() };
    database.open_at(&url, options).unwrap().commit(mint(1)).wait().unwrap();
}

mod tests {
    use super::*;

    pub fn several_handles_share_a_shard_and_lose_nothing(database: &Database) {
        let (port, name) = (database.instance().port(), database.make());
        let stores: Vec<Store> = (0..3).map(|_| database.open(port, &name)).collect();
        std::thread::scope(|scope| {
            for (number, store) in stores.iter().enumerate() {
                scope.spawn(move || {
                    for step in 0..60 {
                        let id = 1 + number as u128 * 1_000 + step;
                        patiently(|| store.commit(mint(id)).wait()).unwrap();
                    }
                });
            }
        });
        for store in &stores {
            assert_eq!(gold(store), 180);
        }
        let (one, two) = (&stores[0], &stores[1]);
        one.beat(A).wait().unwrap();
        two.beat(B).wait().unwrap();
        let ask = |incarnation| Activate { key: Key(7), generation: 1, incarnation, reclaim: None };
        let taken = one.activate(ask(A)).wait().unwrap();
        assert!(matches!(two.activate(ask(B)).wait(), Err(Error::Owned { .. })));
        two.mark_dead(A, 1).wait().unwrap();
        assert_eq!(two.activate(ask(B)).wait().unwrap().claim.epoch, 2);
        let patch = Patch::from([("bag".to_owned(), Some(vec![1]))]);
        let late = one.save(Save { claim: taken.claim, version: 0, patch }).wait();
        assert!(matches!(late, Err(Error::Fenced { .. })), "{late:?}");
        assert_eq!(one.verify().wait().unwrap().faults, Vec::<String>::new());
    }

    pub fn a_killed_server_loses_nothing_acknowledged_and_doubles_nothing(database: &Database) {
        let (port, name) = (database.instance().port(), database.make());
        let stores: Vec<Store> = (0..2).map(|_| database.open(port, &name)).collect();
        commits_meanwhile(&stores, |more| {
            for _ in 1..=3 {
                more(20);
                database.instance().kill();
                database.instance().start_again().unwrap();
            }
            more(20);
        });
    }

    pub fn a_commit_cut_from_its_answer_is_found_out_and_done_once(database: &Database) {
        let wire = Wire::to(database);
        let store = database.open(wire.port, &database.make());
        let tricks = [Trick::CutBefore, Trick::CutAfter, Trick::CutBefore, Trick::CutAfter];
        for (trick, n) in tricks.into_iter().zip(1..) {
            wire.play(trick);
            // Several in one batch, which is done or not as a whole.
            let answers: Vec<_> = (0..5).map(|m| store.commit(mint(n * 10 + m))).collect();
            for answer in answers {
                answer.wait().unwrap();
            }
            assert!(wire.is_played());
            assert_eq!(gold(&store), 5 * n as u64, "{trick:?}");
        }
        let audit = store.audit(0, usize::MAX).wait().unwrap();
        assert_eq!(audit.len(), 20);
    }

    pub fn a_frozen_holder_of_the_lock_does_not_stop_others(database: &Database) {
        let (port, name) = (database.instance().port(), database.make());
        let wire = Wire::to(database);
        let (frozen, free) = (database.open(wire.port, &name), database.open(port, &name));
        wire.play(Trick::Freeze);
        let stuck = frozen.commit(mint(1));
        while !wire.is_played() {
            std::thread::yield_now();
        }
        // The lock is held, and nobody there to give it back.
        patiently(|| free.commit(mint(2)).wait()).unwrap();
        // The frozen one gives its connection up, finds that nothing was done, and does it.
        assert_eq!(stuck.wait().unwrap().id, TxnId(1));
        wire.thaw();
        assert_eq!(gold(&free), 2);
        assert_eq!(free.audit(0, usize::MAX).wait().unwrap().len(), 2);
    }

    pub fn a_server_that_stays_away_is_told_and_comes_back(database: &Database) {
        let name = database.make();
        let options = ServerOptions {
            away_wait: std::time::Duration::from_millis(300),
            pause_max: std::time::Duration::from_millis(200),
            ..quick()
        };
        let url = database.url(database.admin(), database.instance().port(), &name);
        let store = database.open_at(&url, options).unwrap();
        store.commit(mint(1)).wait().unwrap();
        database.instance().stop().unwrap();
        let away = store.commit(mint(2)).wait();
        assert!(matches!(away, Err(Error::Unavailable(_))), "{away:?}");
        // By now the answer is immediate.
        let away = store.load(Key(1)).wait();
        assert!(matches!(away, Err(Error::Unavailable(_))), "{away:?}");
        database.instance().start_again().unwrap();
        patiently(|| store.commit(mint(2)).wait()).unwrap();
        assert_eq!(gold(&store), 2);
    }

    pub fn processes_that_come_at_once_make_one_shard(database: &Database) {
        let (port, name) = (database.instance().port(), database.make());
        std::thread::scope(|scope| {
            let opening: Vec<_> =
                (0..6).map(|_| scope.spawn(|| database.open(port, &name))).collect();
            for (number, opened) in opening.into_iter().enumerate() {
                let store = opened.join().unwrap();
                patiently(|| store.commit(mint(1 + number as u128)).wait()).unwrap();
                assert_eq!(gold(&store), 1 + number as u64);
            }
        });
    }

    #[cfg(any(feature = "postgres", feature = "mysql"))]
    pub fn a_wrong_password_or_database_is_refused_and_never_shown(database: &Database) {
        let (port, name) = (database.instance().port(), database.make());
        database.make_user("player", "right horse");
        let open = |url: &str, password: &str| {
            let password = Some(Password(password.to_owned()));
            database.open_at(url, ServerOptions { password, ..quick() })
        };
        let url = database.url("player", port, &name);
        drop(open(&url, "right horse").unwrap());
        let wrong = open(&url, "battery staple");
        let nowhere = open(&database.url("player", port, "nowhere"), "right horse");
        for refused in [&wrong, &nowhere] {
            assert!(matches!(refused, Err(OpenError::Denied { .. })), "{refused:?}");
        }
        let shown = format!("{wrong:?} {nowhere:?}");
        assert!(!shown.contains("battery") && !shown.contains("horse"), "{shown}");
        let malformed = database.open_at("nonsense", quick());
        assert!(matches!(malformed, Err(OpenError::Malformed(_))), "{malformed:?}");
    }

    pub fn large_documents_and_batches_fit(database: &Database) {
        let store = database.open(database.instance().port(), &database.make());
        store.beat(A).wait().unwrap();
        let large = Limits::default().entity_bytes_max - 1;
        let entities = if database.is_slow() { 4 } else { 24 };
        let asks = (0..entities).map(|key| Activate {
            key: Key(key),
            generation: 1,
            incarnation: A,
            reclaim: None,
        });
        let taken = store.activate_many(asks.collect()).wait().unwrap();
        let claims: Vec<Claim> = taken.into_iter().map(|taken| taken.unwrap().claim).collect();
        for version in 0..2 {
            let saves = claims.iter().map(|claim| {
                let patch = Patch::from([("a".to_owned(), Some(vec![version as u8; large]))]);
                store.save(Save { claim: *claim, version, patch })
            });
            let saves: Vec<_> = saves.collect();
            for save in saves {
                assert_eq!(save.wait(), Ok(version + 1));
            }
        }
        let entity = store.load(Key(3)).wait().unwrap().unwrap();
        assert_eq!(entity.documents["a"], vec![1; large]);
        assert_eq!(store.verify().wait().unwrap().faults, Vec::<String>::new());
    }
}
