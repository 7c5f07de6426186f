//! Games whose entities are kept: in one process on a file, and in a simulated cluster.

use std::path::{Path, PathBuf};
use std::time::Duration;

use mainstay::client::{Address, Event, Polled};
use mainstay::config::{Config, Input, Keys};
use mainstay::env::{Clock, Random, WallTime};
use mainstay::prelude::*;
use mainstay::proto::ticket::Claims;
use mainstay::testkit::{Cluster, Faults};
use mainstay::{Running, StartError};

/// What a player keeps.
#[entity(document)]
#[derive(Default, Document)]
struct Diver {
    /// The deepest dive.
    #[persist]
    depth: u32,
    #[persist]
    finds: Component<Finds>,
}

#[component(of = Diver)]
#[derive(Default, Document)]
struct Finds {
    #[persist(len = ..=100)]
    pearls: Vec<String>,
}

#[rpc]
impl Diver {
    #[request(client)]
    fn dive(&mut self, to: u32) -> u32 {
        self.depth = self.depth.max(to);
        self.depth
    }

    #[invoke(server)]
    fn sink(&mut self, to: u32) -> u32 {
        self.dive(to)
    }
}

#[rpc]
impl Finds {
    #[request(client)]
    fn find(&mut self, name: String) -> u32 {
        self.pearls.push(name);
        self.pearls.len() as u32
    }
}

fn app() -> App {
    App::new("reef").entity::<Diver>().agent::<Diver>("me")
}

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let folders = (0..).map(|n| parent.join(format!("{name}-{}-{n}", std::process::id())));
        let made = folders.into_iter().find(|path| std::fs::create_dir(path).is_ok());
        Folder(made.unwrap())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn start(text: &str) -> Result<Running, StartError> {
    let app = app();
    let input = Input::of_text("reef.json", text);
    let config = Config::from_input(&input, &mainstay::config::Roles::standard(["diver"])).unwrap();
    let keys = Keys { tickets: vec![(1, [7; 32])], ..Keys::default() };
    Running::start(&app, &config.cluster, &config.processes[0], &keys)
}

fn dive(running: &Running, key: u64, to: u32) -> u32 {
    let node = running.node().expect("it holds entities");
    let answer = node.spawn(0, move |out| async move { out.entity::<Diver>(key).sink(to).await });
    answer.blocking_recv().unwrap().unwrap()
}

fn file(folder: &Path, store: &str) -> String {
    format!(
        r#"{{
            "cluster": "reef", "data": {:?}, {store}
            "processes": {{"all": {{"roles": ["node"], "workers": 2}}}},
        }}"#,
        folder.display().to_string()
    )
}

#[test]
fn one_process_keeps_its_entities_in_the_data_folder() {
    let folder = Folder::new("reef");
    let text = file(&folder.0.join("data"), "");
    let running = start(&text).unwrap();
    assert_eq!(dive(&running, 1, 30), 30);
    assert!(running.stop(Duration::ZERO).unfinished.is_empty());
    assert!(folder.0.join("data/all.store").is_file());
    let running = start(&text).unwrap();
    assert_eq!(dive(&running, 1, 10), 30);
    running.stop(Duration::ZERO);
}

/// A client of a process, from its first connection on.
fn diver(running: &Running, account: u64) -> Polled {
    let issued = Clock::system().wall();
    let expires = WallTime(issued.0 + 60_000);
    let name = "Ann".to_owned();
    let claims = Claims { account: AccountId(account), level: 0, name, issued, expires };
    let grant = running.ticket_keys().issue(&mut Random::from_os(), claims);
    let address = Address::tcp(running.addresses()[0].to_string());
    Polled::new(mainstay::client::Options::new(address), grant)
}

/// A worker whose first frame of a gate came before it had looked at the list had no way to answer. So who
/// logged in waited for five seconds, and was refused then: the ticket had been used.
#[test]
fn who_is_first_at_a_process_that_starts_is_heard_by_all_workers() {
    let folder = Folder::new("first");
    let text = file(&folder.0, "")
        .replace(r#"["node"]"#, r#"["gate", "node"], "listen": {"clients": "127.0.0.1:0"}"#);
    for life in 0..60 {
        let running = start(&text).unwrap();
        let mut divers: Vec<_> = (1..=4).map(|account| diver(&running, account)).collect();
        while !divers.iter().all(|diver| diver.core().is_bound("me")) {
            for diver in &mut divers {
                if let Some(event @ Event::Ended { .. }) = diver.poll() {
                    panic!("in life {life}: {event:?}");
                }
            }
            std::thread::yield_now();
        }
        let stats = running.node().unwrap().stats();
        let unsent: Vec<_> = stats.workers.iter().flatten().map(|worker| worker.unsent).collect();
        assert_eq!(unsent, [0, 0], "in life {life}");
        running.stop(Duration::ZERO);
    }
}

/// Kept beside the divers, in a store of its own.
#[entity(document, store = "accounts")]
#[derive(Default, Document)]
struct Purse {
    #[persist]
    coins: u32,
}

#[rpc]
impl Purse {
    #[invoke(server)]
    async fn earn(&mut self, cx: &mut Cx<Self>, coins: u32) -> u32 {
        self.coins += coins;
        let minted = cx.update_record::<Coinage, ()>(&1, |all| all.minted += u64::from(coins));
        minted.await.expect("its store is there");
        self.coins
    }
}

/// Shared by all purses, and kept beside them.
#[derive(Debug, Default, Document)]
#[document(record = "coinage", key = u32, store = "accounts")]
struct Coinage {
    #[persist]
    minted: u64,
}

fn start_with_purses(text: &str) -> Result<Running, StartError> {
    let app = app().entity::<Purse>().record::<Coinage>();
    let input = Input::of_text("reef.json", text);
    let roles = mainstay::config::Roles::standard(["diver", "purse"]);
    let config = Config::from_input(&input, &roles).unwrap();
    let checked = config.check_app(&app);
    let keys = Keys { tickets: vec![(1, [7; 32])], ..Keys::default() };
    let started = Running::start(&app, &config.cluster, &config.processes[0], &keys);
    assert_eq!(checked.is_ok(), started.is_ok(), "what the check says holds");
    started
}

fn earn(running: &Running, key: u64, coins: u32) -> u32 {
    let node = running.node().expect("it holds entities");
    let answer =
        node.spawn(0, move |out| async move { out.entity::<Purse>(key).earn(coins).await });
    answer.blocking_recv().unwrap().unwrap()
}

#[test]
fn f3_several_stores_are_named_in_the_cluster_file_and_used_at_once() {
    let folder = Folder::new("purses");
    let path = folder.0.join("accounts.store");
    let accounts = path.display().to_string();
    let text = file(
        &folder.0.join("data"),
        &format!("\"stores\": {{\"accounts\": {{\"embedded\": {accounts:?}}}}},"),
    );
    let running = start_with_purses(&text).unwrap();
    assert_eq!((dive(&running, 1, 30), earn(&running, 1, 5)), (30, 5));
    assert!(running.stop(Duration::ZERO).unfinished.is_empty());
    let running = start_with_purses(&text).unwrap();
    assert_eq!((dive(&running, 1, 10), earn(&running, 1, 1)), (30, 6));
    assert!(running.stop(Duration::ZERO).unfinished.is_empty());
    // Each file has its own kinds, and nothing of the others.
    let has = |file: &Path, key| {
        let store = store::Store::embedded(file, store::Options::default()).unwrap();
        store.load(key).wait().unwrap().is_some()
    };
    let records = |file: &Path| {
        let store = store::Store::embedded(file, store::Options::default()).unwrap();
        store.scan_records(mainstay::proto::KindId::of("coinage").0, None, 9).wait().unwrap().len()
    };
    let (diver, purse) = (holder(Ref::<Diver>::keyed(1)), holder(Ref::<Purse>::keyed(1)));
    assert!(has(&path, purse) && !has(&path, diver));
    let default = folder.0.join("data/all.store");
    assert!(has(&default, diver) && !has(&default, purse));
    assert_eq!((records(&path), records(&default)), (1, 0));
}

/// Processes of one cluster file, in this one.
fn start_one(text: &str, name: &str) -> Result<Running, StartError> {
    let app = app().entity::<Purse>().record::<Coinage>();
    let input = Input::of_text("reef.json", text);
    let roles = mainstay::config::Roles::standard(["diver", "purse"]);
    let config = Config::from_input(&input, &roles).unwrap();
    let keys = Keys { tickets: vec![(1, [7; 32])], ..Keys::default() };
    Running::start(&app, &config.cluster, config.process(name).unwrap(), &keys)
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn with_data_processes(folder: &Path, store: &str, data: usize) -> String {
    let data: String = (1..=data)
        .map(|n| {
            format!(r#""data-{n}": {{"roles": ["data"], "listen": {{"data": {}}}}},"#, free_port())
        })
        .collect();
    format!(
        r#"{{
            "cluster": "reef", "data": {:?}, {store}
            "processes": {{
                "node": {{"roles": ["node"], "workers": 2, "listen": {{"mesh": 0}}}}, {data}
            }},
        }}"#,
        folder.display().to_string()
    )
}

/// The same game as in one process: what is kept, in the default store and in a named one, is kept by a
/// process of its own, which may be started again while the game goes on.
#[test]
fn f14_a_data_process_stands_in_front_of_the_stores() {
    let folder = Folder::new("reef");
    let accounts = folder.0.join("accounts.store").display().to_string();
    let stores = format!("\"stores\": {{\"accounts\": {{\"embedded\": {accounts:?}}}}},");
    let text = with_data_processes(&folder.0.join("data"), &stores, 1);
    let data = start_one(&text, "data-1").unwrap();
    let node = start_one(&text, "node").unwrap();
    assert_eq!((dive(&node, 1, 30), earn(&node, 1, 5)), (30, 5));
    assert!(folder.0.join("data/data-1.store").is_file());

    assert!(data.stop(Duration::ZERO).unfinished.is_empty());
    // It plays on in memory, and is saved when the process is back; its node was not taken for dead.
    assert_eq!(dive(&node, 1, 31), 31);
    let data = start_one(&text, "data-1").unwrap();
    assert_eq!((dive(&node, 1, 20), earn(&node, 1, 1)), (31, 6));
    assert!(node.stop(Duration::ZERO).unfinished.is_empty());
    let node = start_one(&text, "node").unwrap();
    assert_eq!((dive(&node, 1, 10), earn(&node, 1, 1)), (31, 7));
    assert!(node.stop(Duration::ZERO).unfinished.is_empty());
    assert!(data.stop(Duration::ZERO).unfinished.is_empty());
    // It was the only one that had the files open.
    let store = store::Store::embedded(&accounts, store::Options::default()).unwrap();
    assert!(store.load(holder(Ref::<Purse>::keyed(1))).wait().unwrap().is_some());
}

#[cfg(feature = "sqlite")]
#[test]
fn f14_of_two_data_processes_either_may_be_lost() {
    let folder = Folder::new("reef");
    let path = folder.0.join("reef.sqlite").display().to_string();
    let accounts = folder.0.join("accounts.sqlite").display().to_string();
    let stores = format!(
        "\"store\": {{\"sqlite\": {path:?}}}, \"stores\": {{\"accounts\": {{\"sqlite\": {accounts:?}}}}},"
    );
    let text = with_data_processes(&folder.0.join("data"), &stores, 2);
    let mut data: Vec<Option<Running>> =
        ["data-1", "data-2"].map(|name| Some(start_one(&text, name).unwrap())).into();
    let node = start_one(&text, "node").unwrap();
    let mut to = 1;
    for round in 0..4 {
        assert_eq!((dive(&node, to.into(), to), earn(&node, 1, 1)), (to, to));
        to += 1;
        data[round % 2] = None;
        // Another entity is taken through the one that is left.
        assert_eq!((dive(&node, to.into(), to), earn(&node, 1, 1)), (to, to));
        to += 1;
        let name = ["data-1", "data-2"][round % 2];
        data[round % 2] = Some(start_one(&text, name).unwrap());
    }
    assert!(node.stop(Duration::ZERO).unfinished.is_empty());
    let node = start_one(&text, "node").unwrap();
    assert_eq!((dive(&node, 1, 0), dive(&node, 8, 0), earn(&node, 1, 0)), (1, 8, 8));
    node.stop(Duration::ZERO);
}

#[test]
fn f14_an_embedded_store_has_one_data_process() {
    let folder = Folder::new("reef");
    let accounts = "\"stores\": {\"accounts\": {\"memory\": true}},";
    let text = with_data_processes(&folder.0, accounts, 2);
    let refused = start_one(&text, "data-1").map(drop).unwrap_err();
    assert!(matches!(refused, StartError::StoreShared { .. }), "{refused}");
    let nobody = start_one(&with_data_processes(&folder.0, accounts, 1), "node").map(drop);
    let nobody = nobody.unwrap_err().to_string();
    assert!(nobody.contains("data service at 127.0.0.1") && nobody.contains("cannot be reached"));
}

#[test]
fn f3_a_store_that_the_cluster_file_does_not_name_is_refused_with_the_nearest() {
    let folder = Folder::new("purses");
    let refused = |stores: &str| {
        let started = start_with_purses(&file(&folder.0, stores));
        started.map(|_| ()).unwrap_err().to_string()
    };
    assert_eq!(
        refused("\"stores\": {\"acounts\": {\"memory\": true}},"),
        "`purse` is kept in the store \"accounts\", which the cluster file does not name; did you \
         mean \"acounts\"?"
    );
    assert_eq!(
        refused(""),
        "`purse` is kept in the store \"accounts\", which the cluster file does not name: add \
         \"stores\": {\"accounts\": {..}}"
    );
}

#[test]
fn lag_and_saves_are_shown_in_the_metrics() {
    let folder = Folder::new("reef");
    let running = start(&file(&folder.0, "")).unwrap();
    dive(&running, 1, 30);
    let shown = |name: &str| -> f64 {
        let samples = running.metrics().samples();
        let of_name = samples.iter().filter(|sample| sample.name.starts_with(name));
        of_name.map(|sample| sample.value).sum()
    };
    let begun = std::time::Instant::now();
    while shown("data_saves") < 1.0 || shown("data_owned") < 1.0 {
        dive(&running, 1, 31);
        assert!(begun.elapsed() < Duration::from_secs(20), "nothing is shown");
    }
    assert!(shown("data_lag_seconds") < 5.0);
    running.stop(Duration::ZERO);
}

#[test]
fn the_cluster_file_says_where_the_store_is() {
    let folder = Folder::new("reef");
    let path = folder.0.join("deep/sea.store");
    let text =
        file(&folder.0, &format!("\"store\": {{\"embedded\": {:?}}},", path.display().to_string()));
    let running = start(&text).unwrap();
    dive(&running, 1, 30);
    assert!(path.is_file());
    // A second process with the same file is refused, whatever it would do with it.
    let second = start(&text).map(|_| ()).unwrap_err().to_string();
    assert!(second.contains("in use"), "{second}");
    running.stop(Duration::ZERO);
    let text = file(&folder.0, "\"store\": {\"memory\": true},");
    let running = start(&text).unwrap();
    assert_eq!(dive(&running, 1, 5), 5);
    running.stop(Duration::ZERO);
}

#[test]
fn a_store_for_one_process_is_refused_to_several() {
    let folder = Folder::new("reef");
    let text = format!(
        r#"{{
            "cluster": "reef", "data": {:?},
            "processes": {{
                "a": {{"roles": ["node"], "listen": {{"mesh": "127.0.0.1:7900"}}}},
                "b": {{"roles": ["node"], "listen": {{"mesh": "127.0.0.1:7901"}}}},
            }},
        }}"#,
        folder.0.display().to_string()
    );
    assert!(matches!(start(&text), Err(StartError::StoreShared { .. })));
}

#[cfg(not(feature = "sqlite"))]
#[test]
fn a_store_that_was_not_built_in_says_so() {
    let folder = Folder::new("reef");
    let text = file(&folder.0, "\"store\": {\"sqlite\": \"reef.sqlite\"},");
    let refused = start(&text).map(|_| ()).unwrap_err().to_string();
    assert!(refused.contains("needs \"sqlite\" in the features of `mainstay`"), "{refused}");
}

#[cfg(feature = "sqlite")]
#[test]
fn choosing_sqlite_is_configuration_only() {
    let folder = Folder::new("reef");
    let path = folder.0.join("reef.sqlite").display().to_string();
    let text = file(&folder.0, &format!("\"store\": {{\"sqlite\": {path:?}}},"));
    for round in 1..=2 {
        let running = start(&text).unwrap();
        assert_eq!(dive(&running, 1, round), round);
        assert!(running.stop(Duration::ZERO).unfinished.is_empty());
    }
    assert!(folder.0.join("reef.sqlite").is_file());
}

#[cfg(feature = "postgres")]
#[test]
fn choosing_postgres_is_configuration_only() {
    if servers::skipped() {
        return;
    }
    let server = servers::Postgres::start().unwrap();
    let folder = Folder::new("reef");
    std::fs::write(folder.0.join("password"), "any, for who needs none\n").unwrap();
    let store = format!(
        "\"store\": {{\"postgres\": {{\"url\": {:?}, \"password\": {{\"file\": {:?}}}}}}},",
        server.url(),
        folder.0.join("password").display().to_string(),
    );
    kept_from_one_start_to_the_next(&file(&folder.0, &store));
}

#[cfg(feature = "mysql")]
#[test]
fn choosing_mariadb_is_configuration_only() {
    if servers::skipped() {
        return;
    }
    let server = servers::Mariadb::start().unwrap();
    let folder = Folder::new("reef");
    let store = format!("\"store\": {{\"mysql\": {:?}}},", server.url());
    kept_from_one_start_to_the_next(&file(&folder.0, &store));
}

/// Until `done` holds; it takes a minute only by a fault.
#[cfg(any(feature = "postgres", feature = "mysql"))]
fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(60), "in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A node plays on while a replica that was away for some time is promoted: what was saved meanwhile is
/// gone, so the entity is activated anew with what there is, and is saved again.
#[cfg(any(feature = "postgres", feature = "mysql"))]
fn goes_on_after_a_failover_that_lost_something(
    store: &str,
    replica: &servers::Instance,
    [catch_up, switch]: [&dyn Fn(); 2],
) {
    let folder = Folder::new("reef");
    let text = file(&folder.0, store);
    let config = Config::from_input(
        &Input::of_text("reef.json", &text),
        &mainstay::config::Roles::standard(["diver"]),
    );
    let other = mainstay::open_store(&config.unwrap().processes[0].store).unwrap();
    let key = mainstay::node::data::key_of(Ref::<Diver>::keyed(1).id());
    let stored = || {
        let mut diver = Diver::default();
        let found = other.load(key).wait().ok().flatten();
        if let Some(bytes) = found.as_ref().and_then(|found| found.documents.get("self")) {
            mainstay::node::data::read_document(&mut diver, bytes).unwrap();
        }
        diver.depth
    };
    let running = start(&text).unwrap();
    let node = running.node().expect("it holds entities");
    let sunk = |to: u32| {
        let answer = node.spawn(0, move |out| async move { out.entity::<Diver>(1).sink(to).await });
        answer.blocking_recv().unwrap().ok()
    };
    assert_eq!(sunk(30), Some(30));
    eventually("it is saved", || stored() == 30);
    catch_up();
    replica.stop().unwrap();
    assert_eq!(sunk(50), Some(50));
    eventually("the primary has it", || stored() == 50);
    switch();
    eventually("it is what the replica had", || sunk(10) == Some(30));
    eventually("it plays on", || sunk(40) == Some(40));
    eventually("it is saved there", || stored() == 40);
    assert_eq!(other.generation().wait(), Ok(2));
    running.stop(Duration::ZERO);
}

#[cfg(feature = "postgres")]
#[test]
fn a_game_goes_on_when_a_standby_that_lacks_commits_is_promoted() {
    if servers::skipped() {
        return;
    }
    let primary = servers::Postgres::start().unwrap();
    let standby = servers::Postgres::standby(&primary, &[]).unwrap();
    let ports = (primary.port(), standby.port());
    let url = format!("postgres://postgres@127.0.0.1:{},127.0.0.1:{}/postgres", ports.0, ports.1);
    let switch = || {
        primary.kill();
        standby.start_again().unwrap();
        standby.promote().unwrap();
    };
    let steps: [&dyn Fn(); 2] = [&|| standby.await_primary(&primary).unwrap(), &switch];
    let store = format!("\"store\": {{\"postgres\": {url:?}}},");
    goes_on_after_a_failover_that_lost_something(&store, &standby, steps);
}

#[cfg(feature = "mysql")]
#[test]
fn a_game_goes_on_when_a_replica_that_lacks_commits_is_promoted() {
    if servers::skipped() {
        return;
    }
    let flags = ["--server-id=1", "--log-bin=binlog"];
    let primary = servers::Mariadb::start_with(&flags).unwrap();
    let replica = servers::Mariadb::replica(&primary).unwrap();
    let ports = (primary.port(), replica.port());
    let url = format!("mysql://root@127.0.0.1:{},127.0.0.1:{}/mainstay", ports.0, ports.1);
    let switch = || {
        primary.kill();
        replica.start_again().unwrap();
        replica.promote().unwrap();
    };
    let steps: [&dyn Fn(); 2] = [&|| replica.await_primary(&primary).unwrap(), &switch];
    let store = format!("\"store\": {{\"mysql\": {url:?}}},");
    goes_on_after_a_failover_that_lost_something(&store, &replica, steps);
}

#[cfg(feature = "redis")]
#[test]
fn choosing_redis_is_configuration_only() {
    if servers::skipped() {
        return;
    }
    let server = servers::Redis::start().unwrap();
    let folder = Folder::new("reef");
    let store = format!("\"store\": {{\"redis\": {:?}}},", server.url() + "?shard=reef");
    kept_from_one_start_to_the_next(&file(&folder.0, &store));
}

#[cfg(feature = "redis")]
#[test]
fn choosing_a_journal_that_lands_elsewhere_is_configuration_only() {
    if servers::skipped() {
        return;
    }
    let server = servers::Redis::start_with(&["--appendfsync", "everysec"]).unwrap();
    let folder = Folder::new("reef");
    let target = folder.0.join("reef.store").display().to_string();
    let journal = |rest: &str| {
        let redis = server.url();
        let store = format!(
            "\"store\": {{\"journal\": {{\"redis\": {redis:?}, \"target\": {{\"embedded\": {target:?}}}{rest}}}}},"
        );
        file(&folder.0, &store)
    };
    let refused = start(&journal("")).map(|_| ()).unwrap_err().to_string();
    assert!(refused.contains("appendfsync"), "{refused}");
    let journal = journal(", \"acknowledge\": \"landed\"");
    kept_from_one_start_to_the_next(&journal);
    let running = start(&journal).unwrap();
    let shown = |name: &str| running.metrics().samples().iter().any(|one| one.name == name);
    assert!(shown("store_landing_lag_seconds") && shown("store_landing_bytes"));
    running.stop(Duration::ZERO);
    // What it acknowledged is in the target, which no node uses by itself.
    let store = mainstay::store::Store::embedded(&target, Default::default()).unwrap();
    let entities = mainstay::store::dump::Place { table: 2, key: Vec::new() };
    let landed = store.rows(Some(entities), 1).wait().unwrap();
    assert!(landed[0].entity().unwrap().is_some());
}

#[cfg(feature = "mongodb")]
#[test]
fn choosing_mongodb_is_configuration_only() {
    if servers::skipped() {
        return;
    }
    let server = servers::Mongo::start().unwrap();
    let folder = Folder::new("reef");
    let store = format!(
        "\"store\": {{\"mongodb\": {{\"url\": {:?}, \"accept_loss\": true}}}},",
        server.url(),
    );
    kept_from_one_start_to_the_next(&file(&folder.0, &store));
}

#[cfg(any(feature = "postgres", feature = "mysql", feature = "redis", feature = "mongodb"))]
fn kept_from_one_start_to_the_next(text: &str) {
    for to in [7, 1] {
        let running = start(text).unwrap();
        assert_eq!(dive(&running, 1, to), 7);
        assert!(running.stop(Duration::ZERO).unfinished.is_empty());
    }
}

#[cfg(not(feature = "postgres"))]
#[test]
fn a_server_that_is_not_built_in_names_its_feature() {
    let folder = Folder::new("reef");
    let text = file(&folder.0, "\"store\": {\"postgres\": \"postgres://game@db/game\"},");
    let refused = start(&text).map(|_| ()).unwrap_err();
    assert!(matches!(refused, StartError::StoreNotBuilt { feature: "postgres", .. }), "{refused}");
}

#[mainstay::test(seed = 31)]
async fn clients_find_what_was_kept(cluster: Cluster) {
    let game = cluster.start(&app());
    let ann = game.client(1).await;
    assert_eq!(ann.request::<_, u32>("me", "dive", &(40u32,)).await.unwrap(), 40);
    assert_eq!(ann.request::<_, u32>("me", "finds.find", &("white".to_owned(),)).await.unwrap(), 1);
    game.sleep(Duration::from_secs(3)).await;
    let kept = game.store().load(holder(Ref::<Diver>::keyed(1))).wait().unwrap().unwrap();
    assert_eq!(kept.documents.keys().collect::<Vec<_>>(), ["finds", "self"]);
}

#[mainstay::test(seed = 32, faults = Faults::all())]
async fn bad_links_change_nothing_about_what_is_kept(cluster: Cluster) {
    let game = cluster.start(&app());
    let ann = game.client(1).await;
    for to in 1..=30u32 {
        assert_eq!(ann.request::<_, u32>("me", "dive", &(to,)).await.unwrap(), to);
    }
    game.heal();
    game.sleep(Duration::from_secs(3)).await;
    let kept = game.store().load(holder(Ref::<Diver>::keyed(1))).wait().unwrap().unwrap();
    let mut diver = Diver::default();
    mainstay::node::data::read_document(&mut diver, &kept.documents["self"]).unwrap();
    assert_eq!(diver.depth, 30);
}

/// The deepest dive of `diver` that is stored.
fn stored_depth(game: &mainstay::testkit::Game, diver: u64) -> u32 {
    let kept = game.store().load(holder(Ref::<Diver>::keyed(diver))).wait().unwrap();
    let mut diver = Diver::default();
    if let Some(bytes) = kept.as_ref().and_then(|kept| kept.documents.get("self")) {
        mainstay::node::data::read_document(&mut diver, bytes).unwrap();
    }
    diver.depth
}

#[mainstay::test(seed = 33)]
async fn divers_of_a_killed_node_go_on_at_another_with_what_was_saved(cluster: Cluster) {
    let game = cluster.start(&app());
    let mut divers = Vec::new();
    for account in 1..=6u32 {
        let diver = game.client(account.into()).await;
        assert_eq!(diver.request::<_, u32>("me", "dive", &(account,)).await.unwrap(), account);
        divers.push(diver);
    }
    game.sleep(Duration::from_secs(3)).await;
    game.kill_node(0, Duration::from_secs(3_600));
    // Whoever was there is let in again elsewhere, once the node is known to be dead.
    game.sleep(Duration::from_secs(10)).await;
    for (account, diver) in (1..=6u32).zip(&mut divers) {
        let mut deepest = None;
        for _ in 0..20 {
            // A session whose home was there has ended: a player logs in anew.
            let asked = depth_of(diver).await;
            if let Some(depth) = asked {
                deepest = Some(depth);
                break;
            }
            *diver = game.client(account.into()).await;
            game.sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(deepest, Some(account), "what was saved is there");
    }
}

async fn depth_of(diver: &mainstay::testkit::Player) -> Option<u32> {
    diver.request::<_, u32>("me", "dive", &(0u32,)).await.ok()
}

#[mainstay::test(seed = 34)]
async fn divers_move_back_to_a_node_that_is_back(cluster: Cluster) {
    let game = cluster.start(&app());
    for account in 1..=6u32 {
        let diver = game.client(account.into()).await;
        assert_eq!(diver.request::<_, u32>("me", "dive", &(account,)).await.unwrap(), account);
        diver.leave();
    }
    game.sleep(Duration::from_secs(3)).await;
    for node in 0..2 {
        // Long enough that the other takes over what is asked for.
        game.kill_node(node, Duration::from_secs(20));
        game.sleep(Duration::from_secs(12)).await;
        for account in 1..=6u32 {
            let diver = game.client(account.into()).await;
            let depth = diver.request::<_, u32>("me", "dive", &(0u32,)).await;
            assert_eq!(depth.unwrap(), account, "at the one that is left");
            diver.leave();
        }
        game.sleep(Duration::from_secs(20)).await;
        // Half of them belong to the node that is back, and stand as the other's.
        for account in 1..=6u32 {
            let diver = game.client(account.into()).await;
            let mut depth = diver.request::<_, u32>("me", "dive", &(0u32,)).await;
            for _ in 0..10 {
                if depth.is_ok() {
                    break;
                }
                game.sleep(Duration::from_secs(1)).await;
                depth = diver.request::<_, u32>("me", "dive", &(0u32,)).await;
            }
            assert_eq!(depth.unwrap(), account, "account {account} after node {node} was back");
            diver.leave();
        }
    }
}

#[mainstay::test(seed = 35)]
async fn play_goes_on_while_the_whole_store_is_away(cluster: Cluster) {
    let game = cluster.start(&app());
    let ann = game.client(1).await;
    assert_eq!(ann.request::<_, u32>("me", "dive", &(1u32,)).await.unwrap(), 1);
    game.sleep(Duration::from_secs(3)).await;
    let away = Duration::from_secs(30);
    game.stall_store(away);
    let back = game.now() + away;
    let mut depth = 1;
    while game.now() < back {
        depth += 1;
        let before = game.now();
        let dived = ann.request::<_, u32>("me", "dive", &(depth,)).await;
        assert_eq!(dived.unwrap(), depth, "in memory");
        assert!(game.now() - before < Duration::from_secs(1), "nothing stands still");
        if game.now() + Duration::from_secs(2) < back {
            assert_eq!(stored_depth(&game, 1), 1, "nothing can be saved");
        }
        game.sleep(Duration::from_secs(1)).await;
    }
    game.sleep(Duration::from_secs(12)).await;
    assert_eq!(stored_depth(&game, 1), depth, "all is saved afterwards");
}

#[mainstay::test(seed = 36)]
async fn a_node_that_alone_does_not_reach_the_store_stands_still(cluster: Cluster) {
    let game = cluster.start(&app());
    let ann = game.client(1).await;
    assert_eq!(ann.request::<_, u32>("me", "dive", &(1u32,)).await.unwrap(), 1);
    game.sleep(Duration::from_secs(3)).await;
    let owner = |game: &mainstay::testkit::Game| {
        let kept = game.store().load(holder(Ref::<Diver>::keyed(1))).wait().unwrap().unwrap();
        kept.owner.incarnation
    };
    let first = owner(&game);
    let at = usize::from(game.incarnation(0) != first);
    game.cut_store(at, true);
    game.sleep(Duration::from_millis(5_500)).await;
    let before = game.now();
    let dived = ann.request::<_, u32>("me", "dive", &(9u32,)).await;
    assert!(dived.is_err() && game.now() - before > Duration::from_secs(2), "{dived:?}: it waits");
    game.sleep(Duration::from_secs(4)).await;
    assert!(game.store().nodes().wait().unwrap().iter().all(|node| node.incarnation != first));
}
