//! Replicas that are promoted while the primary's stores commit.

use std::time::{Duration, Instant};

use servers::Instance;
use store::*;

use crate::bank::{commits_meanwhile, gold, mint};
use crate::conformance::A;
use crate::database::{patiently, quick};

fn activate(store: &Store, generation: u64, reclaim: Option<u64>) -> Claim {
    store.beat(A).wait().unwrap();
    let ask = Activate { key: Key(7), generation, incarnation: A, reclaim };
    store.activate(ask).wait().unwrap().claim
}

fn bag(claim: Claim, version: u64) -> Save {
    Save { claim, version, patch: Patch::from([("bag".to_owned(), Some(vec![1]))]) }
}

/// Commits by both stores all the time while `switch` ends the primary and promotes another. Prints how
/// long nobody was answered.
fn switch_under_load(stores: &[Store; 2], what: &str, switch: impl FnOnce() -> Instant) {
    commits_meanwhile(stores, |more| {
        more(50);
        let begun = Instant::now();
        let promoted = switch();
        more(1);
        println!(
            "{what}: answered {:?} after the promotion was done, {:?} after the switch began",
            promoted.elapsed(),
            begun.elapsed(),
        );
        more(50);
    });
}

/// What was acknowledged is there, so claims hold and everything goes on.
fn keeps_all(stores: &[Store; 2], what: &str, switch: impl FnOnce() -> Instant) {
    let claim = activate(&stores[0], 1, None);
    switch_under_load(stores, what, switch);
    assert_eq!(stores[0].save(bag(claim, 0)).wait(), Ok(1));
    assert_eq!(stores[1].generation().wait(), Ok(1));
}

/// A replica that was away while commits went on is promoted: no claim from before holds, all is activated
/// anew, and what is acknowledged then is there. `switch` starts it again once the primary is gone.
fn loses_some(
    stores: &[Store; 2],
    replica: &Instance,
    catch_up: impl FnOnce(),
    switch: impl FnOnce(),
) {
    let claim = activate(&stores[0], 1, None);
    stores[1].commit(mint(1)).wait().unwrap();
    catch_up();
    let known = |store: &Store, id| patiently(|| store.lookup(TxnId(id)).wait()).unwrap();
    replica.stop().unwrap();
    for (store, id) in stores.iter().zip(2..) {
        store.commit(mint(id)).wait().unwrap();
    }
    switch();
    for (store, id) in stores.iter().zip(2..) {
        assert!(known(store, 1).is_some());
        assert_eq!(known(store, id), None, "the replica never heard of it");
        assert_eq!(store.generation().wait(), Ok(2), "raised once, by whoever came first");
    }
    assert_eq!(stores[0].save(bag(claim, 0)).wait(), Err(Error::Generation { current: 2 }));
    assert_eq!(stores[1].commit(mint(4)).wait(), Err(Error::Generation { current: 2 }));
    let claim = activate(&stores[0], 2, Some(claim.epoch));
    assert_eq!(stores[0].save(bag(claim, 0)).wait(), Ok(1));
    assert_eq!(gold(&stores[1]), 1);
    assert_eq!(stores[0].verify().wait().unwrap().faults, Vec::<String>::new());
}

#[cfg(feature = "postgres")]
mod postgres {
    use super::*;
    use servers::Postgres;

    fn url(hosts: [&Postgres; 2]) -> String {
        let [one, two] = hosts.map(|host| host.port());
        format!("postgres://postgres@127.0.0.1:{one},127.0.0.1:{two}/postgres")
    }

    fn open(hosts: [&Postgres; 2], options: &ServerOptions) -> [Store; 2] {
        [0, 1].map(|_| Store::postgres(&url(hosts), options.clone()).unwrap())
    }

    /// With a synchronous standby nothing that was acknowledged is lost.
    #[test]
    fn a_promoted_standby_is_followed_and_has_all_that_was_acknowledged() {
        if servers::skipped() {
            return;
        }
        let primary = Postgres::start_with(&[("synchronous_standby_names", "*")]).unwrap();
        let standby = Postgres::standby(&primary, &[]).unwrap();
        let stores = open([&standby, &primary], &quick());
        keeps_all(&stores, "PostgreSQL", || {
            primary.kill();
            standby.promote().unwrap();
            Instant::now()
        });
    }

    /// The first host of the address took connections and said nothing: the others were never asked. And
    /// when it woke, it was taken for the primary again whenever the other was away.
    #[test]
    fn a_primary_that_hangs_is_left_and_not_used_when_it_wakes() {
        if servers::skipped() {
            return;
        }
        let primary = Postgres::start().unwrap();
        let standby = Postgres::standby(&primary, &[]).unwrap();
        let wait_for = |names: &str| {
            let set = format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'");
            primary.sql(&set).unwrap();
            primary.sql("SELECT pg_reload_conf()").unwrap();
        };
        wait_for("*");
        let wait = Duration::from_secs(1);
        let away_wait = Duration::from_secs(5);
        let options = ServerOptions { reply_wait: wait, connect_wait: wait, away_wait, ..quick() };
        let stores = open([&primary, &standby], &options);
        keeps_all(&stores, "PostgreSQL that hangs", || {
            primary.freeze();
            standby.promote().unwrap();
            Instant::now()
        });
        let before = gold(&stores[0]);
        standby.kill();
        primary.thaw();
        wait_for("");
        let late = stores[0].commit(mint(9_000_000)).wait();
        assert!(late.is_err(), "the former primary lacks what was acknowledged since");
        standby.start_again().unwrap();
        patiently(|| match stores[0].commit(mint(9_000_000)).wait() {
            Err(Error::Unknown(reason)) => Err(Error::Unavailable(reason)),
            other => other,
        })
        .unwrap();
        assert_eq!(gold(&stores[0]), before + 1);
        assert_eq!(stores[0].generation().wait(), Ok(1));
    }

    #[test]
    fn a_standby_that_lacks_commits_has_everything_activated_anew() {
        if servers::skipped() {
            return;
        }
        let primary = Postgres::start().unwrap();
        let standby = Postgres::standby(&primary, &[]).unwrap();
        let stores = open([&primary, &standby], &quick());
        let catch_up = || standby.await_primary(&primary).unwrap();
        loses_some(&stores, &standby, catch_up, || {
            primary.kill();
            standby.start_again().unwrap();
            standby.promote().unwrap();
        });
    }
}

#[cfg(feature = "mysql")]
mod mariadb {
    use super::*;
    use servers::Mariadb;

    fn open(hosts: [&Mariadb; 2]) -> [Store; 2] {
        let [one, two] = hosts.map(|host| host.port());
        let url = format!("mysql://root@127.0.0.1:{one},127.0.0.1:{two}/mainstay");
        [0, 1].map(|_| Store::mysql(&url, quick()).unwrap())
    }

    /// A semi-synchronous replica has received what was acknowledged, and does it before it is promoted.
    #[test]
    fn a_promoted_replica_is_followed_and_has_all_that_was_acknowledged() {
        if servers::skipped() {
            return;
        }
        let primary = Mariadb::start_semi_sync().unwrap();
        let replica = Mariadb::replica(&primary).unwrap();
        let stores = open([&primary, &replica]);
        keeps_all(&stores, "MariaDB", || {
            primary.kill();
            replica.promote().unwrap();
            Instant::now()
        });
    }

    #[test]
    fn a_replica_that_lacks_commits_has_everything_activated_anew() {
        if servers::skipped() {
            return;
        }
        let primary = Mariadb::start_with(&["--server-id=1", "--log-bin=binlog"]).unwrap();
        let replica = Mariadb::replica(&primary).unwrap();
        let stores = open([&primary, &replica]);
        let catch_up = || replica.await_primary(&primary).unwrap();
        loses_some(&stores, &replica, catch_up, || {
            primary.kill();
            replica.start_again().unwrap();
            replica.promote().unwrap();
        });
    }

    /// Users with all rights may write where `read_only` is set, so a former primary went on under stores that
    /// had a connection to it.
    #[test]
    fn a_primary_that_becomes_read_only_is_left() {
        if servers::skipped() {
            return;
        }
        let primary = Mariadb::start_semi_sync().unwrap();
        let replica = Mariadb::replica(&primary).unwrap();
        let stores = open([&primary, &replica]);
        keeps_all(&stores, "MariaDB, planned", || {
            primary.sql("SET GLOBAL read_only = ON").unwrap();
            replica.await_primary(&primary).unwrap();
            replica.promote().unwrap();
            Instant::now()
        });
    }
}
