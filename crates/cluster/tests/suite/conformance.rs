//! One list of cases, run on every backend.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use cluster::{Change, Cluster, Contest, Expect, KeyError, NodeInfo};
use env::Clock;
use proto::schema::{Form, Interface, Method, Pattern, Schema, SchemaBuilder, Shape};
use proto::{Incarnation, KindId, Scope};

use crate::bench::*;

type Case = (&'static str, fn(&Bench));

const CASES: &[Case] = &[
    ("a listed node is seen by all, and its changes", a_listed_node_is_seen_by_all),
    ("a node that renews stays, a dead one leaves", a_dead_node_leaves),
    ("a node that leaves is gone at once", a_node_that_leaves_is_gone_at_once),
    ("a node that another buries is off the list", a_buried_node_is_off_the_list),
    ("a node that was taken for dead registers again", a_lost_lease_is_begun_again),
    ("nodes that do not understand each other are refused", unfit_nodes_are_refused),
    ("what cannot be listed or written is refused", bad_input_is_refused),
    ("of two writers one wins", of_two_writers_one_wins),
    ("who has written finds what it wrote", who_has_written_finds_what_it_wrote),
    ("a watch adds up to what there is", a_watch_adds_up),
    ("a watch that lags far behind adds up too", a_late_watch_adds_up),
    ("an emptied kind yields none", an_emptied_kind_yields_none),
    ("a name has one owner and goes with it", a_name_has_one_owner),
    ("settings are judged, and reach who comes late", settings_are_judged),
    ("one wins, and numbers only rise", one_wins_and_numbers_only_rise),
    ("a dead holder's lock is free after the lease", a_dead_holders_lock_is_free),
    ("a restarted node does not wait for its former self", a_restarted_node_does_not_wait),
    ("a contest needs a listed node", a_contest_needs_a_listed_node),
    ("five hundred names are there within a second", many_names_are_seen_soon),
];

type Backend = (&'static str, fn() -> Option<Bench>);

const MEMORY: Backend = ("memory", || {
    let cluster = Cluster::embedded(options());
    let attach = Box::new(move || cluster.clone());
    Some(Bench { attach, clock: Clock::system(), slow: false })
});

const EMBEDDED: Backend = ("embedded", || {
    let folder = Folder::new("conformance");
    let clock = Clock::system();
    let attach = {
        let clock = clock.clone();
        Box::new(move || Cluster::attach(folder.path(), options(), &clock).unwrap())
    };
    Some(Bench { attach, clock, slow: true })
});

#[cfg(feature = "etcd")]
const ETCD: Backend = ("etcd", crate::etcd::bench);

fn run_all(backend: Backend) {
    for (name, case) in CASES {
        println!("{name}");
        if let Some(bench) = backend.1() {
            case(&bench);
        }
    }
}

#[test]
fn memory_coordinator_conforms() {
    run_all(MEMORY);
}

#[test]
fn embedded_coordinator_conforms() {
    run_all(EMBEDDED);
}

#[cfg(feature = "etcd")]
#[test]
fn etcd_coordinator_conforms() {
    run_all(ETCD);
}

/// Prints backends × cases: `cargo test -p cluster --all-features backends_and_cases -- --nocapture`.
#[test]
fn table_of_backends_and_cases() {
    let backends = [
        MEMORY,
        EMBEDDED,
        #[cfg(feature = "etcd")]
        ETCD,
    ];
    let heads: String = backends.iter().map(|(name, ..)| format!(" {name:>9}")).collect();
    println!("{:<60}{heads}", "case");
    let mut failed = Vec::new();
    for (name, case) in CASES {
        let mut line = format!("{name:<60}");
        for backend in backends {
            let ran = std::panic::catch_unwind(|| backend.1().map(|bench| case(&bench)));
            let word = match &ran {
                Ok(Some(())) => "passes",
                Ok(None) => "skipped",
                Err(_) => "FAILS",
            };
            line += &format!(" {word:>9}");
            if ran.is_err() {
                failed.push((backend.0, *name));
            }
        }
        println!("{line}");
    }
    assert_eq!(failed, []);
}

// ---- registry ----

fn a_listed_node_is_seen_by_all(bench: &Bench) {
    let [a, b] = [bench.attach(), bench.attach()];
    let mut info = info("a");
    info.mesh = vec!["127.0.0.1:7100".parse().unwrap(), "[::1]:7100".parse().unwrap()];
    info.roles = vec!["node".into()];
    info.kinds = vec![KindId::of("avatar")];
    info.zones = vec!["east".into(), "west".into()];
    info.channels = vec!["web".into()];
    info.local = vec![(KindId::of("avatar"), Scope::Zone), (KindId::of("shop"), Scope::Channel)];
    info.waits_for = "the store".into();
    info.relays = false;
    info.workers = 3;
    info.weight = 9;
    info.interface = u64::MAX;
    info.schema = schema(true);
    let _life = Life::of(&a, info.clone());
    let seen = |cluster: &Cluster| cluster.directory().node(info.incarnation).cloned();
    assert_eq!(seen(&a), Some(info.clone()));
    bench.eventually("b sees it too", &[], || seen(&b) == Some(info.clone()));
    let mut leaving = info.clone();
    leaving.draining = true;
    a.register(bench.clock.now(), leaving.clone()).unwrap();
    bench.eventually("b sees the change", &[], || seen(&b) == Some(leaving.clone()));
}

fn a_dead_node_leaves(bench: &Bench) {
    let [a, b] = [bench.attach(), bench.attach()];
    let living = Life::start(&a, "living");
    let dying = Life::start(&a, "dying");
    bench.eventually("both are listed", &[], || names(&b) == "dying living");
    let revision = b.directory().revision();
    drop(dying);
    bench.eventually("one leaves", &[&a, &b], || names(&b) == "living");
    assert!(b.directory_after(revision).is_some());
    // Longer than a lease.
    let start = bench.clock.now();
    bench.eventually("time passes", &[&a, &b], || bench.clock.now().since(start) > LEASE * 2);
    assert_eq!(names(&b), "living");
    drop(living);
    bench.eventually("all are gone", &[&a, &b], || names(&b).is_empty());
}

fn a_node_that_leaves_is_gone_at_once(bench: &Bench) {
    let [a, b] = [bench.attach(), bench.attach()];
    let life = Life::start(&a, "a");
    bench.eventually("it is listed", &[], || names(&b) == "a");
    let node = life.node;
    drop(life);
    a.deregister(node);
    assert_eq!(names(&a), "");
    bench.eventually("it is gone", &[], || names(&b).is_empty());
    a.deregister(node);
}

fn a_buried_node_is_off_the_list(bench: &Bench) {
    let [a, b] = [bench.attach(), bench.attach()];
    let life = Life::start(&a, "a");
    bench.eventually("it is listed", &[], || names(&b) == "a");
    let revision = b.directory().revision();
    b.bury(life.node);
    bench.eventually("it is taken off", &[], || b.directory_after(revision).is_some());
    // Who lives after all lists itself again.
    bench.eventually("it is back", &[], || names(&a) == "a" && names(&b) == "a");
    b.bury(Incarnation(u64::MAX));
}

fn a_lost_lease_is_begun_again(bench: &Bench) {
    let [a, b] = [bench.attach(), bench.attach()];
    let info = info("a");
    drop(Life::of(&a, info.clone()));
    bench.eventually("it is taken for dead", &[&a, &b], || {
        names(&b).is_empty() && a.renew(bench.clock.now(), info.incarnation).is_err()
    });
    let _life = Life::of(&a, info);
    bench.eventually("it is back", &[], || names(&b) == "a");
}

fn schema(number: bool) -> Option<Arc<Schema>> {
    let mut method = Method::new("pay", Pattern::Invoke);
    method.callers.server = true;
    method.reply = Some(if number { Shape::U64 } else { Shape::Text });
    let mut builder = SchemaBuilder::new();
    builder.interface(Interface {
        name: "bank".into(),
        id: KindId::of("bank"),
        form: Form::Entity,
        aliases: Vec::new(),
        methods: [(method.path.clone(), method)].into(),
    });
    Some(Arc::new(builder.finish().unwrap()))
}

fn unfit_nodes_are_refused(bench: &Bench) {
    let [a, b] = [bench.attach(), bench.attach()];
    let first = Life::of(&a, NodeInfo { schema: schema(true), ..info("first") });
    bench.eventually("it is listed", &[], || names(&b) == "first");
    let other = NodeInfo { schema: schema(false), ..info("other") };
    // On a slow machine it is not known yet when it returns.
    let outcome = b.register(bench.clock.now(), other.clone());
    bench.eventually("it is refused", &[], || b.refused().len() == 1);
    let (_, error) = b.refused().remove(0);
    assert!(error.contains("\"other\" is not admitted") && error.contains("bank.pay"), "{error}");
    assert!(outcome.is_err_and(|outcome| outcome.to_string() == error) || bench.slow);
    assert_eq!(names(&b), "first");
    let node = first.node;
    drop(first);
    a.deregister(node);
    bench.eventually("the first has left", &[], || names(&b).is_empty());
    let _other = Life::of(&b, other);
    assert_eq!(names(&b), "other");
    bench.eventually("it is refused no more", &[], || b.refused().is_empty());
}

fn bad_input_is_refused(bench: &Bench) {
    let a = bench.attach();
    let now = bench.clock.now();
    assert!(a.register(now, NodeInfo { name: "a b".into(), ..info("a") }).is_err());
    assert!(a.register(now, NodeInfo { workers: 0, ..info("a") }).is_err());
    assert!(a.renew(now, Incarnation(u64::MAX)).is_err());
    let put = |key: &str, bytes: usize| a.put(key, vec![0; bytes], None, Expect::Any);
    let too_long = "k".repeat(257);
    let much = options().keys.value_bytes_max;
    for (key, bytes) in [("", 0), (&*too_long, 0), ("a\n", 0), ("a", much + 1)] {
        assert!(matches!(put(key, bytes), Err(KeyError::Invalid { .. })), "{key:?} {bytes}");
    }
    for key in ["contest/x", "node/x"] {
        assert!(put(key, 0).is_err());
        assert!(a.delete(key, Expect::Any).is_err());
    }
    put("a", much).unwrap();
    assert_eq!(a.range("").0.len(), 1);
    assert!(a.contend("", Incarnation(1)).is_err());
    assert!(a.contend("a/b", Incarnation(1)).is_err());
}

// ---- keys ----

fn put(cluster: &Cluster, key: &str, value: &str, expect: Expect) -> Result<u64, KeyError> {
    cluster.put(key, value.as_bytes(), None, expect)
}

fn text(cluster: &Cluster, key: &str) -> Option<String> {
    cluster.get(key).map(|key| String::from_utf8_lossy(&key.value).into_owned())
}

fn of_two_writers_one_wins(bench: &Bench) {
    let [a, b] = [bench.attach(), bench.attach()];
    let first = put(&a, "x", "1", Expect::Absent).unwrap();
    let conflict = |changed| Err(KeyError::Conflict { key: "x".into(), changed });
    assert_eq!(put(&b, "x", "2", Expect::Absent), conflict(first));
    let second = put(&b, "x", "2", Expect::Changed(first)).unwrap();
    assert!(second > first);
    assert_eq!(put(&a, "x", "3", Expect::Changed(first)), conflict(second));
    assert_eq!(a.delete("x", Expect::Changed(first)), conflict(second).map(|_: u64| true));
    assert_eq!(a.delete("x", Expect::Changed(second)), Ok(true));
    assert_eq!(a.delete("x", Expect::Any), Ok(false));
    assert_eq!(put(&a, "x", "3", Expect::Changed(second)), conflict(0));
    let third = put(&b, "x", "4", Expect::Absent).unwrap();
    bench.eventually("a sees it", &[], || text(&a, "x").as_deref() == Some("4"));
    // Made anew it has a higher number than all before.
    assert_eq!(a.get("x").map(|key| (key.created, key.changed)), Some((third, third)));
    assert!(third > second);
}

fn who_has_written_finds_what_it_wrote(bench: &Bench) {
    let a = bench.attach();
    for n in 0..50 {
        let revision = put(&a, "x", &n.to_string(), Expect::Any).unwrap();
        assert_eq!(text(&a, "x"), Some(n.to_string()));
        assert_eq!(a.get("x").unwrap().changed, revision);
        assert_eq!(a.range("x").1, revision);
    }
    a.delete("x", Expect::Any).unwrap();
    assert_eq!(a.get("x"), None);
}

/// What changes add up to.
#[derive(Default)]
struct Sum(BTreeMap<String, Vec<u8>>, u64);

impl Sum {
    fn add(&mut self, changes: Vec<Change>) -> usize {
        let count = changes.len();
        for change in changes {
            assert!(change.revision >= self.1, "in order");
            self.1 = change.revision;
            match change.now {
                Some(now) => drop(self.0.insert(change.key.to_string(), now.value.to_vec())),
                None => assert!(self.0.remove(&*change.key).is_some(), "each deletion once"),
            }
        }
        count
    }

    fn is(&self, cluster: &Cluster, prefix: &str) -> bool {
        let (all, _) = cluster.range(prefix);
        let all = all.into_iter().map(|(key, now)| (key.to_string(), now.value.to_vec()));
        self.0 == all.collect()
    }
}

fn a_watch_adds_up(bench: &Bench) {
    let [a, b, c] = [bench.attach(), bench.attach(), bench.attach()];
    put(&a, "w/early", "", Expect::Any).unwrap();
    put(&a, "other", "", Expect::Any).unwrap();
    bench.eventually("c knows the early one", &[], || c.get("w/early").is_some());
    let mut watch = c.watch("w/");
    let mut sum = Sum::default();
    assert_eq!(sum.add(watch.take()), 1);
    let writers: Vec<_> = [a.clone(), b]
        .into_iter()
        .map(|cluster| {
            std::thread::spawn(move || {
                for n in 0..60 {
                    put(&cluster, &format!("w/{}", n % 7), &n.to_string(), Expect::Any).unwrap();
                    if n % 5 == 0 {
                        cluster.delete(&format!("w/{}", n % 3), Expect::Any).unwrap();
                    }
                }
            })
        })
        .collect();
    bench.eventually("the writers are done", &[], || {
        sum.add(watch.take());
        writers.iter().all(|writer| writer.is_finished())
    });
    put(&a, "w/last", "", Expect::Any).unwrap();
    bench.eventually("all is heard", &[], || {
        sum.add(watch.take());
        sum.0.contains_key("w/last")
    });
    assert!(sum.is(&a, "w/"));
    assert!(watch.take().is_empty());
}

fn a_late_watch_adds_up(bench: &Bench) {
    let [a, b] = [bench.attach(), bench.attach()];
    put(&a, "w/gone", "", Expect::Any).unwrap();
    put(&a, "w/stays", "", Expect::Any).unwrap();
    bench.eventually("b knows them", &[], || b.range("w/").0.len() == 2);
    let mut watch = b.watch("w/");
    let mut sum = Sum::default();
    sum.add(watch.take());
    let (_, before) = b.range("w/");
    a.delete("w/gone", Expect::Any).unwrap();
    // More than the history holds.
    for n in 0..options().keys.history_max {
        put(&a, &format!("w/{}", n % 9), &n.to_string(), Expect::Any).unwrap();
    }
    put(&a, "w/last", "", Expect::Any).unwrap();
    bench.eventually("b knows all", &[], || b.get("w/last").is_some());
    assert!(matches!(b.changes_after(before, "w/"), Err(KeyError::Compacted(_))));
    sum.add(watch.take());
    assert!(sum.is(&a, "w/"));
}

fn an_emptied_kind_yields_none(bench: &Bench) {
    let [a, b] = [bench.attach(), bench.attach()];
    put(&a, "k/1", "", Expect::Any).unwrap();
    let mut watch = b.watch("k/");
    let mut sum = Sum::default();
    bench.eventually("it is heard of", &[], || sum.add(watch.take()) > 0);
    a.delete("k/1", Expect::Any).unwrap();
    bench.eventually("nothing is left", &[], || {
        sum.add(watch.take());
        sum.0.is_empty()
    });
    assert!(b.range("k/").0.is_empty());
    assert!(b.watch("k/").take().is_empty());
}

fn a_name_has_one_owner(bench: &Bench) {
    let [a, b] = [bench.attach(), bench.attach()];
    let (one, two) = (Life::start(&a, "one"), Life::start(&b, "two"));
    let take = |cluster: &Cluster, node| cluster.put("name/x", *b"", Some(node), Expect::Absent);
    let first = take(&a, one.node).unwrap();
    let conflict = Err(KeyError::Conflict { key: "name/x".into(), changed: first });
    assert_eq!(take(&b, two.node), conflict);
    let nobody = Incarnation(u64::MAX);
    assert_eq!(take(&b, nobody), Err(KeyError::NotListed(nobody)));
    bench.eventually("b knows whose it is", &[], || {
        b.get("name/x").is_some_and(|key| key.owner == Some(one.node))
    });
    drop(one);
    bench.eventually("it goes with its owner", &[&a, &b], || b.get("name/x").is_none());
    assert!(take(&b, two.node).unwrap() > first);
    let node = two.node;
    drop(two);
    b.deregister(node);
    bench.eventually("it goes at once", &[], || a.get("name/x").is_none());
}

fn settings_are_judged(bench: &Bench) {
    let [a, b] = [bench.attach(), bench.attach()];
    for cluster in [&a, &b] {
        cluster.add_check("config/", |_, value| {
            let text = std::str::from_utf8(value).map_err(|e| e.to_string())?;
            text.parse::<u32>().map(drop).map_err(|e| format!("{text:?}: {e}"))
        });
    }
    put(&a, "config/rate", "5", Expect::Any).unwrap();
    let error = put(&a, "config/rate", "five", Expect::Any).unwrap_err().to_string();
    assert!(error.contains("cannot be written: \"five\""), "{error}");
    let mut watch = b.watch("config/");
    let mut sum = Sum::default();
    bench.eventually("b hears", &[], || sum.add(watch.take()) > 0);
    assert_eq!(sum.0["config/rate"], b"5");
    put(&b, "config/rate", "6", Expect::Any).unwrap();
    sum.add(watch.take());
    assert_eq!(sum.0["config/rate"], b"6");
    // Who comes late finds it.
    assert_eq!(text(&bench.attach(), "config/rate").as_deref(), Some("6"));
}

// ---- contests ----

fn wait_for(bench: &Bench, contest: &Contest, clusters: &[&Cluster]) -> u64 {
    let mut fence = None;
    bench.eventually("the contest is won", clusters, || {
        fence = contest.fence();
        fence.is_some()
    });
    fence.unwrap()
}

fn one_wins_and_numbers_only_rise(bench: &Bench) {
    let clusters = [bench.attach(), bench.attach(), bench.attach()];
    let lives: Vec<_> =
        clusters.iter().zip(["a", "b", "c"]).map(|(c, name)| Life::start(c, name)).collect();
    let mut contests = Vec::new();
    for (cluster, life) in clusters.iter().zip(&lives) {
        let contest = cluster.contend("leader", life.node).unwrap();
        // In line before the next comes.
        let (reader, count) = (&clusters[0], contests.len() + 1);
        bench.eventually("it is in line", &[], || reader.range("contest/leader/").0.len() == count);
        contests.push(contest);
    }
    let mut last = 0;
    for (at, contest) in contests.into_iter().enumerate() {
        let fence = wait_for(bench, &contest, &[]);
        assert!(fence > last);
        last = fence;
        for (other, cluster) in clusters.iter().enumerate() {
            bench.eventually("all agree", &[], || {
                cluster.holder("leader") == Some((lives[at].node, fence))
            });
            assert!(cluster.is_current("leader", fence), "{other}");
            assert!(!cluster.is_current("leader", fence - 1));
        }
        let mut cx = Context::from_waker(Waker::noop());
        assert_eq!(contest.poll_won(&mut cx), Poll::Ready(Ok(fence)));
    }
    bench.eventually("nobody holds it", &[], || clusters[1].holder("leader").is_none());
}

fn a_dead_holders_lock_is_free(bench: &Bench) {
    let [a, b] = [bench.attach(), bench.attach()];
    let (one, two) = (Life::start(&a, "one"), Life::start(&b, "two"));
    let first = a.contend("lock", one.node).unwrap();
    let held = wait_for(bench, &first, &[]);
    let second = b.contend("lock", two.node).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(second.fence(), None);
    drop(one);
    let next = wait_for(bench, &second, &[&a, &b]);
    assert!(next > held);
    bench.eventually("the late holder knows", &[], || first.fence().is_none());
    assert!(!b.is_current("lock", held));
}

fn a_restarted_node_does_not_wait(bench: &Bench) {
    let [a, b] = [bench.attach(), bench.attach()];
    let old = Life::start(&a, "same");
    let first = a.contend("leader", old.node).unwrap();
    let held = wait_for(bench, &first, &[]);
    let new = Life::start(&b, "same");
    let second = b.contend("leader", new.node).unwrap();
    assert!(wait_for(bench, &second, &[]) > held);
    bench.eventually("the former self knows", &[], || first.fence().is_none());
}

fn a_contest_needs_a_listed_node(bench: &Bench) {
    let a = bench.attach();
    let nobody = Incarnation(u64::MAX);
    assert!(matches!(a.contend("x", nobody), Err(KeyError::NotListed(node)) if node == nobody));
}

fn many_names_are_seen_soon(bench: &Bench) {
    let [a, b] = [bench.attach(), bench.attach()];
    let life = Life::start(&a, "a");
    let writers: Vec<_> = (0..10)
        .map(|writer| {
            let (a, node) = (a.clone(), life.node);
            std::thread::spawn(move || {
                for n in 0..50 {
                    a.put(&format!("name/{writer}-{n}"), *b"", Some(node), Expect::Absent).unwrap();
                }
            })
        })
        .collect();
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    let start = std::time::Instant::now();
    bench.eventually("all names are seen", &[], || b.range("name/").0.len() == 500);
    println!("500 names: {:?} after the last", start.elapsed());
}
