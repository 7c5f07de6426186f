//! Watchers of stores, each a process of its own, beside a node that pays all the time: servers are killed,
//! frozen and paused, and so are watchers.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use ::cluster::Cluster;
use mainstay::Running;
use mainstay::config::{Config, Input, Keys, Roles};
use mainstay::node::NodeHandle;
use mainstay::node::data::Deal;
use mainstay::store::{Currency, Store, TxnId};

use super::*;

const GOLD: Currency = Currency(1);
/// Nothing that is waited for takes so long but by a fault.
const PATIENCE: Duration = Duration::from_secs(120);
/// Of watchers that are to be quick. A busy machine may answer late, so this is not less.
const QUICK: &str = r#"{"ping_every": "200ms", "down_after": "3s"}"#;

/// What is paid into it by a deal of its own each time.
#[entity(document)]
#[derive(Default, Document)]
struct Till {
    #[persist]
    paid: u64,
}

#[rpc]
impl Till {
    /// Whether it was done; `None` if that is not known.
    #[invoke(server)]
    async fn pay(&mut self, cx: &mut Cx<Self>, id: u64) -> Option<bool> {
        let deal = Deal::new(TxnId(u128::from(id)), "pay").mint(cx.holder(), GOLD, 1);
        match cx.commit(deal).await {
            Ok(_) => Some(true),
            Err(mainstay::node::data::CommitError::Unknown(_)) => None,
            Err(_) => Some(false),
        }
    }
}

pub fn app() -> App {
    App::new("tills").entity::<Till>()
}

/// A node in this process, and three watchers that can be killed.
struct Watched {
    node: Option<Running>,
    watchers: Vec<(String, Game)>,
    config: Config,
    coordinator: Cluster,
    /// Last: it goes with the test.
    folder: PathBuf,
}

impl Watched {
    fn new(name: &str, store: &str, options: &str) -> Watched {
        let folder = std::env::temp_dir().join(format!("mainstay-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        let key = KEY.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let data = folder.join("data").display().to_string();
        let text = format!(
            r#"{{"cluster": "tills", "data": {data:?}, "store": {store},
            "keys": {{"tickets": [{{"id": 1, "key": "{key}"}}]}},
            "options": {{"registry": {{"lease": "3s"}}, "watcher": {options}}},
            "processes": {{
                "node": {{"roles": ["node"], "workers": 1, "listen": {{"mesh": "127.0.0.1:0"}}}},
                "watch": {{"roles": ["watcher"], "count": 3}},
            }}}}"#
        );
        let file = folder.join("cluster.json");
        std::fs::write(&file, &text).unwrap();
        let input = Input::of_text("cluster.json", &text);
        let config = Config::from_input(&input, &Roles::standard(["till"])).unwrap();
        let start = |name: String| {
            let arguments = ["--cluster", &file.display().to_string(), "--process", &name];
            let mut game = Game::spawn_game("tills", folder.join(&name), &arguments);
            game.wait_for("has started");
            (name, game)
        };
        let watchers = ["watch-1", "watch-2", "watch-3"].map(|name| start(name.to_owned())).into();
        let keys = Keys { tickets: vec![(1, KEY)], ..Keys::default() };
        let process = config.process("node").unwrap();
        let node = Running::start(&app(), &config.cluster, process, &keys).unwrap();
        let coordinator = folder.join("data/coordinator");
        let options = process.options.registry.clone();
        let coordinator = Cluster::attach(&coordinator, options, &Clock::system()).unwrap();
        Watched { node: Some(node), watchers, config, coordinator, folder }
    }

    fn node(&self) -> &NodeHandle {
        self.node.as_ref().and_then(Running::node).expect("it holds entities")
    }

    /// The default store, by a connection of its own.
    fn store(&self) -> Store {
        mainstay::open_store(&self.config.process("node").unwrap().store).unwrap()
    }

    /// What the elected watcher says, and which process that is.
    fn elected(&self) -> Option<(String, serde_json::Value)> {
        let states = mainstay::operate::status(&self.folder.join("data"));
        states.into_iter().find_map(|state| {
            let store = state.said?["stores"].as_array()?.first()?.clone();
            store["elected"].as_bool()?.then_some((state.name, store))
        })
    }

    /// Until the elected watcher sees the primary there, and all others.
    fn until_watched(&self, primary: &str, others: &str) {
        eventually("all servers are watched", || {
            let Some((_, store)) = self.elected() else { return false };
            let state = |name: &str| {
                let servers = store["servers"].as_array().into_iter().flatten();
                let server = servers.into_iter().find(|server| server["name"] == name);
                server.map(|server| server["state"].as_str().unwrap_or_default().to_owned())
            };
            state(primary).as_deref() == Some("primary")
                && state(others).as_deref() == Some("replica")
                && self.told().as_deref() == Some(primary)
        });
    }

    fn key(&self, name: &str) -> Option<serde_json::Value> {
        let key = self.coordinator.get(&format!("watch/store/{name}"))?;
        serde_json::from_slice(&key.value).ok()
    }

    /// The last failover as it is recorded: number, by whom, from, to, stage.
    fn failover(&self) -> Option<(u64, u64, [String; 3])> {
        let found = self.key("failover")?;
        let text = |name: &str| found[name].as_str().unwrap_or_default().to_owned();
        let number = |name: &str| found[name].as_u64().unwrap_or_default();
        Some((number("number"), number("by"), ["from", "to", "stage"].map(text)))
    }

    /// Which server nodes were told to use.
    fn told(&self) -> Option<String> {
        Some(self.key("primary")?["primary"].as_str()?.to_owned())
    }

    /// How often was paid.
    fn gold(&self, store: &Store) -> u64 {
        let holder = mainstay::node::data::holder(Ref::<Till>::keyed(1));
        let mut found = None;
        eventually("it can be read", || {
            found = store.holdings(holder).wait().ok();
            found.is_some()
        });
        found.unwrap().balances.get(&GOLD).copied().unwrap_or(0)
    }

    /// Pays all the time while `meanwhile` runs, which is given a function that waits for so many more.
    /// How often that was acknowledged, and how often nobody knows.
    fn pay_meanwhile(&self, meanwhile: impl FnOnce(&dyn Fn(u64))) -> (u64, u64) {
        let stop = AtomicBool::new(false);
        let (paid, unknown) = (AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for id in 1.. {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    let paying = self
                        .node()
                        .spawn(0, move |out| async move { out.entity::<Till>(1).pay(id).await });
                    match paying.blocking_recv().unwrap() {
                        Ok(Some(true)) => drop(paid.fetch_add(1, Ordering::SeqCst)),
                        Ok(Some(false)) => std::thread::sleep(Duration::from_millis(5)),
                        Ok(None) | Err(_) => drop(unknown.fetch_add(1, Ordering::SeqCst)),
                    }
                }
            });
            let stopping = Stop(&stop);
            meanwhile(&|count| {
                let before = paid.load(Ordering::SeqCst);
                eventually("more is paid", || paid.load(Ordering::SeqCst) >= before + count);
            });
            drop(stopping);
        });
        (paid.into_inner(), unknown.into_inner())
    }
}

/// Ends the other thread also when this one panics.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        for (name, mut watcher) in self.watchers.drain(..).filter(|_| std::thread::panicking()) {
            let mut said = String::new();
            let _ = watcher.child.kill();
            let _ = watcher.output.read_to_string(&mut said);
            eprintln!("{name}: {said}{}", watcher.end().1);
        }
        drop(self.node.take());
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What all kinds of servers have in common: the primary is killed while the node pays, another takes its place
/// by the watchers alone, claims end once, and what was acknowledged is there, but for `may_lose`.
fn is_replaced(
    watched: &Watched,
    (what, from, to): (&str, &str, &str),
    kill: impl FnOnce(),
    may_lose: bool,
) {
    watched.until_watched(from, to);
    let (paid, unknown) = watched.pay_meanwhile(|more| {
        more(30);
        let killed = Instant::now();
        kill();
        eventually("nodes are told", || watched.told().as_deref() == Some(to));
        let told = killed.elapsed();
        more(1);
        println!(
            "{what}: nodes were told {told:?} after the kill, paid again after {:?}",
            killed.elapsed()
        );
        more(30);
    });
    let (number, _, [was, is, stage]) = watched.failover().expect("one is recorded");
    assert_eq!((number, was.as_str(), is.as_str(), stage.as_str()), (1, from, to, "done"));
    let store = watched.store();
    assert_eq!(store.generation().wait(), Ok(2), "raised once");
    let gold = watched.gold(&store);
    assert!(gold <= paid + unknown, "{gold} of {paid} and {unknown}: something was done twice");
    assert!(may_lose || gold >= paid, "{gold} of {paid}: something was lost");
    assert_eq!(store.verify().wait().unwrap().faults, Vec::<String>::new());
}

#[cfg(feature = "postgres")]
mod postgres {
    use super::*;
    use servers::Postgres;

    /// A primary that waits for its standby, with what the cluster file says of them.
    fn pair() -> (Postgres, Postgres, [String; 2], String) {
        let primary = Postgres::start_with(&[("synchronous_standby_names", "*")]).unwrap();
        let standby = Postgres::standby(&primary, &[]).unwrap();
        let [one, two] = [&primary, &standby].map(|host| format!("127.0.0.1:{}", host.port()));
        let store = format!(
            r#"{{"postgres": {{"url": "postgres://postgres@{one},{two}/postgres", "promote": ["{one}", "{two}"]}}}}"#
        );
        (primary, standby, [one, two], store)
    }

    #[test]
    fn f21_a_standby_is_promoted_by_the_watchers_alone_while_players_pay() {
        if servers::skipped() {
            return;
        }
        let (primary, _standby, [one, two], store) = pair();
        let watched = Watched::new("watch-pg", &store, QUICK);
        is_replaced(&watched, ("PostgreSQL", &one, &two), || primary.kill(), false);
    }

    /// It went on under connections that were open, and was used again when it woke.
    #[test]
    fn f20_a_primary_that_hangs_is_left_and_named_when_it_wakes() {
        if servers::skipped() {
            return;
        }
        let (primary, _standby, [one, two], store) = pair();
        let watched = Watched::new("watch-hang", &store, QUICK);
        is_replaced(&watched, ("PostgreSQL that hangs", &one, &two), || primary.freeze(), false);
        primary.thaw();
        eventually("somebody says that it must be stopped", || {
            watched.elected().is_some_and(|(_, store)| store.to_string().contains("must not"))
        });
        let (paid, _) = watched.pay_meanwhile(|more| more(20));
        assert!(paid >= 20);
        assert_eq!((watched.told(), watched.failover().unwrap().0), (Some(two), 1));
    }

    /// With the usual times: a server is down after 5 s.
    #[test]
    fn f20_a_server_that_pauses_for_three_seconds_keeps_its_place() {
        if servers::skipped() {
            return;
        }
        let (primary, _standby, [one, two], store) = pair();
        let watched = Watched::new("watch-pause", &store, "{}");
        watched.until_watched(&one, &two);
        watched.pay_meanwhile(|more| {
            more(10);
            let mut is_short = false;
            // On a machine that is too busy to pause for three seconds it proves nothing.
            for _ in 0..3 {
                let begun = Instant::now();
                primary.freeze();
                std::thread::sleep(Duration::from_secs(3));
                primary.thaw();
                is_short |= begun.elapsed() < Duration::from_secs(4);
                more(10);
                if is_short {
                    break;
                }
            }
            assert!(!is_short || watched.failover().is_none(), "{:?}", watched.failover());
        });
        assert_eq!(watched.told(), Some(one));
    }

    /// A standby is being promoted, and does not come to it, when the watcher that sees to it is killed.
    #[test]
    fn f20_another_watcher_finishes_what_a_killed_one_began_and_once() {
        if servers::skipped() {
            return;
        }
        let (primary, standby, [one, two], store) = pair();
        let mut watched = Watched::new("watch-killed", &store, QUICK);
        watched.until_watched(&one, &two);
        // The process that would make it a primary; all others answer.
        let ask = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'startup'";
        let startup = standby.sql(ask).unwrap().trim().to_owned();
        let signal = |name: &str| {
            assert!(Command::new("kill").args([name, &startup]).status().unwrap().success());
        };
        signal("-STOP");
        primary.kill();
        eventually("it has begun", || watched.failover().is_some());
        let (_, by, _) = watched.failover().unwrap();
        let (name, _) = watched.elected().expect("it was elected to begin");
        let at = watched.watchers.iter().position(|(known, _)| *known == name).unwrap();
        let (_, mut killed) = watched.watchers.remove(at);
        killed.child.kill().unwrap();
        killed.child.wait().unwrap();
        eventually("another sees to it", || {
            watched.failover().is_some_and(|(_, now, _)| now != by)
        });
        signal("-CONT");
        eventually("it is done", || watched.told().as_ref() == Some(&two));
        let (number, now, [from, to, stage]) = watched.failover().unwrap();
        assert_eq!((number, from, to, stage.as_str()), (1, one, two, "done"));
        assert_ne!(now, by);
        let (paid, _) = watched.pay_meanwhile(|more| more(20));
        let store = watched.store();
        assert_eq!(store.generation().wait(), Ok(2), "raised once");
        assert!(watched.gold(&store) >= paid);
        let (other, _) = watched.elected().expect("somebody is");
        assert_ne!(other, name);
    }

    /// The first of the list lacks what was paid while it was away; the other has it.
    #[test]
    fn x32_the_standby_that_has_most_is_promoted_whatever_the_order() {
        if servers::skipped() {
            return;
        }
        let primary = Postgres::start().unwrap();
        let (first, other) =
            (Postgres::standby(&primary, &[]).unwrap(), Postgres::standby(&primary, &[]).unwrap());
        let at = |host: &Postgres| format!("127.0.0.1:{}", host.port());
        let (one, two, three) = (at(&primary), at(&first), at(&other));
        let store = format!(
            r#"{{"postgres": {{"url": "postgres://postgres@{one},{two},{three}/postgres",
            "promote": ["{two}", "{three}"]}}}}"#
        );
        let watched = Watched::new("watch-most", &store, QUICK);
        watched.until_watched(&one, &two);
        first.stop().unwrap();
        let (paid, unknown) = watched.pay_meanwhile(|more| more(20));
        assert_eq!(unknown, 0);
        other.await_primary(&primary).unwrap();
        primary.kill();
        first.start_again().unwrap();
        eventually("nodes are told", || watched.told().is_some_and(|told| told != one));
        assert_eq!(watched.told(), Some(three));
        let store = watched.store();
        assert_eq!((watched.gold(&store), store.generation().wait()), (paid, Ok(2)));
    }
}

#[cfg(feature = "mysql")]
#[test]
fn f21_a_replica_of_mariadb_is_promoted_by_the_watchers_alone_while_players_pay() {
    if servers::skipped() {
        return;
    }
    let primary = servers::Mariadb::start_semi_sync().unwrap();
    let replica = servers::Mariadb::replica(&primary).unwrap();
    let [one, two] = [&primary, &replica].map(|host| format!("127.0.0.1:{}", host.port()));
    let store = format!(
        r#"{{"mysql": {{"url": "mysql://root@{one},{two}/mainstay", "promote": ["{one}", "{two}"]}}}}"#
    );
    let watched = Watched::new("watch-maria", &store, QUICK);
    is_replaced(&watched, ("MariaDB", &one, &two), || primary.kill(), false);
}

#[cfg(feature = "redis")]
mod redis {
    use super::*;
    use servers::{Redis, Sentinel};

    fn trio() -> (Redis, Redis, Vec<Sentinel>) {
        let primary = Redis::start().unwrap();
        let replica = Redis::replica(&primary).unwrap();
        let start = |_| Sentinel::start(&primary, "main", 2).unwrap();
        let sentinels: Vec<Sentinel> = (0..3).map(start).collect();
        eventually("sentinels know a replica that has all", || {
            let has_all = replica.log().contains("MASTER <-> REPLICA sync: Finished with success");
            has_all && sentinels.iter().all(|one| one.log().contains("+slave "))
        });
        (primary, replica, sentinels)
    }

    /// What their own manager does is followed; a replica may lack what was acknowledged last.
    #[test]
    fn f20_a_failover_by_sentinels_is_followed_by_all_while_players_pay() {
        if servers::skipped() {
            return;
        }
        let (primary, replica, sentinels) = trio();
        let at: Vec<_> = sentinels.iter().map(|one| format!("127.0.0.1:{}", one.port())).collect();
        let url = format!("redis-sentinel://{}/main?shard=one", at.join(","));
        let store = format!(r#"{{"redis": {{"url": "{url}", "accept_loss": true}}}}"#);
        let watched = Watched::new("watch-redis", &store, QUICK);
        let [one, two] = [&primary, &replica].map(|host| format!("127.0.0.1:{}", host.port()));
        is_replaced(&watched, ("Redis", &one, &two), || primary.kill(), true);
    }

    /// Sentinels that would wait for ten minutes are asked for a failover by watchers that do not.
    #[test]
    fn f20_sentinels_that_do_nothing_are_asked_for_a_failover() {
        if servers::skipped() {
            return;
        }
        let (primary, replica, sentinels) = trio();
        for sentinel in &sentinels {
            say(sentinel.port(), "SENTINEL SET main down-after-milliseconds 600000");
        }
        let at: Vec<_> = sentinels.iter().map(|one| format!("127.0.0.1:{}", one.port())).collect();
        let url = format!("redis-sentinel://{}/main?shard=one", at.join(","));
        let store =
            format!(r#"{{"redis": {{"url": "{url}", "accept_loss": true, "promote": true}}}}"#);
        let watched = Watched::new("watch-ask", &store, QUICK);
        let [one, two] = [&primary, &replica].map(|host| format!("127.0.0.1:{}", host.port()));
        let logs = Logs(&replica, &sentinels);
        is_replaced(&watched, ("Redis on request", &one, &two), || primary.kill(), true);
        drop(logs);
    }

    /// Shows what they say if the test fails.
    struct Logs<'a>(&'a Redis, &'a [Sentinel]);

    impl Drop for Logs<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("replica: {}", self.0.log());
                self.1.iter().for_each(|one| eprintln!("sentinel: {}", one.log()));
            }
        }
    }

    fn say(port: u16, words: &str) {
        use std::io::Write;
        let mut line = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        line.write_all(format!("{words}\r\n").as_bytes()).unwrap();
        let mut said = [0; 64];
        let read = line.read(&mut said).unwrap();
        assert!(said[..read].starts_with(b"+OK"), "{}", String::from_utf8_lossy(&said[..read]));
    }
}
