//! Reads at followers: never older than their limit, whatever becomes of the follower.

use std::time::{Duration, Instant};

use servers::Instance;
use store::*;

use crate::database::{patiently, quick};

const AGE: Duration = Duration::from_millis(1_500);
/// Nothing that is waited for takes so long but by a fault.
const PATIENCE: Duration = Duration::from_secs(60);

fn id() -> RecordId {
    RecordId { kind: 7, key: b"guild".to_vec() }
}

/// A record that is written again and again, and when each of its values was acknowledged.
struct Watched {
    store: Store,
    generation: u64,
    written: Vec<Instant>,
}

impl Watched {
    fn new(store: Store) -> Self {
        let mut this = Watched { store, generation: 1, written: Vec::new() };
        this.write();
        this
    }

    fn write(&mut self) {
        let change = Change::Put(vec![self.written.len() as u8]);
        let version = self.written.len() as u64;
        let write = RecordWrite { id: id(), version, change, fence: None, unlock: false };
        let told =
            patiently(|| self.store.write_records(self.generation, vec![write.clone()]).wait());
        assert_eq!(told, Ok(vec![version + 1]));
        self.written.push(Instant::now());
    }

    /// Reads with the limit `age_max`: what is told was true then or later.
    fn read(&self, age_max: Duration) -> u64 {
        let asked = Instant::now();
        let told = patiently(|| self.store.records_aged(vec![id()], age_max).wait()).unwrap();
        let version = told.records[0].version;
        let must = self.written.iter().filter(|at| **at + age_max <= asked).count() as u64;
        assert!(
            version >= must,
            "version {version}, but {must} was acknowledged {age_max:?} before"
        );
        version
    }

    fn counts(&self) -> FollowerCounts {
        self.store.follower_counts()
    }

    /// Reads until the counter has risen by some.
    fn until(&self, counter: fn(FollowerCounts) -> u64) {
        let (before, begun) = (counter(self.counts()), Instant::now());
        while counter(self.counts()) < before + 5 {
            self.read(AGE);
            assert!(begun.elapsed() < PATIENCE, "{:?}", self.counts());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The same while it is written, and at the end every reading shows the last value.
    fn until_written(&mut self, counter: fn(FollowerCounts) -> u64) {
        for _ in 0..5 {
            self.write();
            self.until(counter);
        }
        std::thread::sleep(AGE);
        assert_eq!(self.read(AGE), self.written.len() as u64);
    }
}

/// The way of a follower: used, paused, used again, killed, used again, and in the end promoted while its
/// leader goes on.
fn way(store: Store, follower: &Instance, [pause, resume, promote]: [&dyn Fn(); 3]) {
    let mut watched = Watched::new(store);
    // Of a follower nothing is known before it has shown a beat, so the first reading is the leader's.
    assert_eq!(watched.read(AGE), 1);
    assert_eq!(watched.counts(), FollowerCounts { follower: 0, ..watched.counts() });
    watched.until(|counts| counts.follower);
    watched.until_written(|counts| counts.follower);

    pause();
    watched.write();
    watched.until(|counts| counts.too_old);
    watched.until_written(|counts| counts.too_old);
    resume();
    watched.until_written(|counts| counts.follower);

    follower.freeze();
    watched.until_written(|counts| counts.away);
    follower.thaw();
    watched.until_written(|counts| counts.follower);

    follower.kill();
    watched.until_written(|counts| counts.away);
    follower.start_again().unwrap();
    watched.until_written(|counts| counts.follower);

    // What is read without a limit of age, locked or owned is never asked of a follower.
    let before = watched.counts();
    let told = watched.store.records(vec![id()]).wait().unwrap();
    assert_eq!(told.records[0].version, watched.written.len() as u64);
    let me = Incarnation(1);
    watched.store.beat(me).wait().unwrap();
    let ask = Activate { key: Key(1), generation: 1, incarnation: me, reclaim: None };
    let claim = watched.store.activate(ask).wait().unwrap().claim;
    assert_eq!(watched.counts(), before);
    let entity = watched.store.load_aged(Key(1), AGE).wait().unwrap();
    assert!(entity.is_none_or(|entity| entity.owner.epoch == claim.epoch));
    let listed = watched.store.scan_records_aged(7, None, 10, AGE).wait().unwrap();
    assert_eq!(listed.len(), 1);
    // A limit below what can be known is the leader's.
    let told = watched.store.records_aged(vec![id()], Duration::ZERO).wait().unwrap();
    assert_eq!(told.records[0].version, watched.written.len() as u64);

    promote();
    watched.write();
    watched.until(|counts| counts.too_old);
    watched.until_written(|counts| counts.too_old);
}

fn options(follower: String) -> ServerOptions {
    let wait = Duration::from_millis(500);
    ServerOptions { followers: vec![follower], follower_wait: wait, ..quick() }
}

/// A follower that is not there, or is none of this server, costs nothing but the reading at the leader.
#[cfg(feature = "postgres")]
#[test]
fn f22_a_follower_of_another_server_is_never_believed() {
    if servers::skipped() {
        return;
    }
    let (leader, other) =
        (servers::Postgres::start().unwrap(), servers::Postgres::start().unwrap());
    let stranger = Store::postgres(&other.url(), quick()).unwrap();
    let store = Store::postgres(&leader.url(), options(other.url())).unwrap();
    let change = Change::Put(b"stranger".to_vec());
    let write = RecordWrite { id: id(), version: 0, change, fence: None, unlock: false };
    stranger.write_records(1, vec![write]).wait().unwrap();
    let mut watched = Watched::new(store);
    watched.until_written(|counts| counts.too_old);
    assert_eq!(watched.counts().follower, 0);
    let none = "postgres://postgres@127.0.0.1:1/postgres".to_owned();
    let mut watched =
        Watched { store: Store::postgres(&leader.url(), options(none)).unwrap(), ..watched };
    watched.until_written(|counts| counts.away);
    assert_eq!(watched.counts().follower, 0);
}

#[cfg(feature = "postgres")]
#[test]
fn f22_a_standby_of_postgresql_is_read_while_it_is_young_enough() {
    if servers::skipped() {
        return;
    }
    let primary = servers::Postgres::start().unwrap();
    let standby = servers::Postgres::standby(&primary, &[]).unwrap();
    let store = Store::postgres(&primary.url(), options(standby.url())).unwrap();
    let pause = || drop(standby.sql("SELECT pg_wal_replay_pause()").unwrap());
    let resume = || drop(standby.sql("SELECT pg_wal_replay_resume()").unwrap());
    way(store, &standby, [&pause, &resume, &|| standby.promote().unwrap()]);
}

#[cfg(feature = "mysql")]
#[test]
fn f22_a_replica_of_mariadb_is_read_while_it_is_young_enough() {
    if servers::skipped() {
        return;
    }
    let primary = servers::Mariadb::start_with(&["--server-id=1", "--log-bin=binlog"]).unwrap();
    let replica = servers::Mariadb::replica(&primary).unwrap();
    let store = Store::mysql(&primary.url(), options(replica.url())).unwrap();
    let pause = || drop(replica.sql("STOP SLAVE SQL_THREAD").unwrap());
    let resume = || drop(replica.sql("START SLAVE SQL_THREAD").unwrap());
    way(store, &replica, [&pause, &resume, &|| replica.promote().unwrap()]);
}

/// On a server that speaks MongoDB's protocol and has no replicas: members are asked over connections of their
/// own, and the leader is where such a one says nothing, is cut off, or is none of the set. How far behind a
/// secondary is, and its snapshots, are MongoDB's own and were not shown.
#[cfg(feature = "mongodb")]
#[test]
fn f22_a_member_of_mongodb_is_read_while_it_answers_and_a_stranger_is_never_believed() {
    use crate::proxy::{NOTHING, OPEN, Way};
    if servers::skipped() {
        return;
    }
    let (leader, other) = (servers::Mongo::start().unwrap(), servers::Mongo::start().unwrap());
    let way = Way::to(([127, 0, 0, 1], leader.port()).into());
    let open = |follower: String| {
        Store::mongodb(&leader.url(), ServerOptions { accept_loss: true, ..options(follower) })
    };
    let member = format!("mongodb://{}/", way.address);
    let mut watched = Watched::new(open(member.clone()).unwrap());
    watched.until_written(|counts| counts.follower);
    way.set(NOTHING);
    watched.until_written(|counts| counts.away);
    way.set(OPEN);
    way.cut();
    watched.until_written(|counts| counts.follower);

    let mut watched = Watched { store: open(other.url()).unwrap(), ..watched };
    watched.until_written(|counts| counts.too_old);
    assert_eq!(watched.counts().follower, 0);
    let wrong = open("mongodb://a,b/".to_owned());
    assert!(matches!(wrong, Err(OpenError::Malformed(_))), "{wrong:?}");
    let wrong = open(format!("{member}elsewhere"));
    assert!(matches!(wrong, Err(OpenError::Malformed(_))), "{wrong:?}");
}

/// Redis has no command that holds up a replica, but one that turns it to a leader that is not there.
#[cfg(feature = "redis")]
#[test]
fn f22_a_replica_of_redis_is_read_while_it_is_young_enough() {
    if servers::skipped() {
        return;
    }
    let leader = servers::Redis::start().unwrap();
    let replica = servers::Redis::replica(&leader).unwrap();
    let at = |server: &servers::Redis| server.url() + "?shard=one";
    let store = Store::redis(&at(&leader), options(at(&replica))).unwrap();
    let (port, own) = (leader.port().to_string(), replica.port());
    let tell = |words: &[&str]| replica_of(own, words);
    let pause = || tell(&["127.0.0.1", "1"]);
    let resume = || tell(&["127.0.0.1", &port]);
    way(store, &replica, [&pause, &resume, &|| tell(&["NO", "ONE"])]);
    let other = Store::redis(&at(&leader), options(replica.url() + "?shard=two"));
    assert!(matches!(other, Err(OpenError::Malformed(_))), "{other:?}");
}

/// As of a plain Redis; and a journal that lost all it had, and was filled again with what had landed, is read at its
/// replica as before.
#[cfg(feature = "redis")]
#[test]
fn f22_a_replica_of_a_journal_in_redis_is_read_while_it_is_young_enough() {
    if servers::skipped() {
        return;
    }
    let leader = servers::Redis::start().unwrap();
    let replica = servers::Redis::replica(&leader).unwrap();
    let target = Store::memory(Limits::default());
    let landing = LandingOptions {
        interval: Duration::from_millis(50),
        acknowledge: Acknowledge::Landed,
        ..LandingOptions::default()
    };
    let open = |replica: &servers::Redis| {
        let options = options(replica.url());
        Store::journal(&leader.url(), options, target.clone(), landing.clone()).unwrap()
    };
    let mut watched = Watched::new(open(&replica));
    watched.until_written(|counts| counts.follower);
    let begun = Instant::now();
    while watched.store.landing().is_none_or(|report| report.backlog_bytes > 0) {
        assert!(begun.elapsed() < PATIENCE, "it lands");
        std::thread::sleep(Duration::from_millis(5));
    }
    say(leader.port(), "FLUSHALL");
    // The generation is raised with the new run.
    watched.generation = patiently(|| match watched.store.generation().wait() {
        Ok(1) => Err(Error::Busy),
        told => told,
    })
    .unwrap();
    watched.until_written(|counts| counts.follower);
    drop(watched);

    let leader = servers::Redis::start().unwrap();
    let replica = servers::Redis::replica(&leader).unwrap();
    let target = Store::memory(Limits::default());
    let store = Store::journal(&leader.url(), options(replica.url()), target, landing).unwrap();
    let (port, own) = (leader.port().to_string(), replica.port());
    let pause = || replica_of(own, &["127.0.0.1", "1"]);
    let resume = || replica_of(own, &["127.0.0.1", &port]);
    way(store, &replica, [&pause, &resume, &|| replica_of(own, &["NO", "ONE"])]);
}

/// Says `REPLICAOF` to a server.
#[cfg(feature = "redis")]
fn replica_of(port: u16, words: &[&str]) {
    say(port, &format!("REPLICAOF {}", words.join(" ")));
}

/// Has a server do a command.
#[cfg(feature = "redis")]
fn say(port: u16, command: &str) {
    use std::io::{Read, Write};
    let mut line = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    line.write_all(format!("{command}\r\n").as_bytes()).unwrap();
    let mut said = [0; 64];
    let read = line.read(&mut said).unwrap();
    assert!(said[..read].starts_with(b"+OK"), "{}", String::from_utf8_lossy(&said[..read]));
}
