//! `mainstay data` on stores that a test fills.

use std::sync::Arc;

use mainstay::config::Keys;
use mainstay::env::metrics::Registry;
use mainstay::env::{Instant, Random};
use mainstay::store::{
    Activate, Amends, Currency, DataOptions, DataParts, DataService, Incarnation, ItemId, ItemKind,
    Key, LedgerOp, Offer, Options, Patch, SagaId, SagaOptions, SagaPlan, SagaRun, SagaTold,
    SagaWant, Save, Store, Transaction, TxnId,
};

use crate::command::{Folder, mainstay, well};

const ME: Incarnation = Incarnation(5);

fn avatar(account: u64) -> Key {
    Key(u128::from(mainstay::proto::name_hash("avatar")) << 64 | u128::from(account))
}

/// Three avatars with a document, ten coins and an item each, left by a node that was killed.
fn filled(folder: &Folder) -> String {
    std::fs::create_dir_all(folder.join("data")).unwrap();
    let store = Store::embedded(folder.join("data/local.store"), Options::default()).unwrap();
    let generation = store.beat(ME).wait().unwrap().generation;
    for account in 1..=3u64 {
        let key = avatar(account);
        let ask = Activate { key, generation, incarnation: ME, reclaim: None };
        let claim = store.activate(ask).wait().unwrap().claim;
        // Schema version 1 and a name, as MessagePack.
        let document = vec![0x92, 1, 0xa3, b'A', b'n', b'n'];
        let patch = Patch::from([("self".to_owned(), Some(document))]);
        let mut txn = Transaction::new(TxnId(u128::from(account)), generation);
        txn.writes = vec![Save { claim, version: 0, patch }];
        txn.note = "a gift".to_owned();
        txn.at_ms = 1_000_000_000_000;
        let mint = LedgerOp::Mint { holder: key, currency: Currency(1), amount: 10 };
        let make = LedgerOp::Make {
            item: ItemId(u128::from(account)),
            kind: ItemKind(1),
            holder: key,
            data: Vec::new(),
        };
        store.commit(txn.with(mint).with(make)).wait().unwrap();
    }
    folder.text("data")
}

#[test]
fn an_entity_is_shown_with_its_owner_documents_holdings_and_history() {
    let folder = Folder::new("data");
    let data = filled(&folder);
    let said = well(&["data", "show", "avatar/2", "--data", &data]);
    for part in [
        "owner: epoch 1, node 0000000000000005",
        "self (6 bytes): [1, \"Ann\"]",
        "currency 1: 10",
        "item 2: item kind 1",
        "2001-09-09T01:46:40Z transaction 2 \"a gift\"",
        "+ 10 of currency 1, made",
    ] {
        assert!(said.contains(part), "{part} is missing: {said}");
    }
    let said = well(&["data", "list", "--kind", "avatar", "--data", &data]);
    assert_eq!(said.lines().count(), 4, "{said}");
    let (found, said) = mainstay(&["data", "show", "avatar/99", "--data", &data]);
    assert!(!found && said.contains("never active"), "{said}");
    let (_, said) = mainstay(&["data", "show", "avatar", "--data", &data]);
    assert!(said.contains("write KIND/NUMBER"), "{said}");
    let (_, said) = mainstay(&["data", "list", "--data", &folder.text("nothing")]);
    assert!(said.contains("there is no store"), "{said}");
    assert!(!folder.join("nothing").exists(), "looking makes nothing");
}

#[test]
fn an_import_takes_a_copy_whole_or_not_at_all() {
    let folder = Folder::new("data");
    let data = filled(&folder);
    let copy = folder.text("all.copy");
    let said = well(&["data", "export", &copy, "--data", &data]);
    assert!(said.contains("entity            3 rows"), "{said}");
    assert!(well(&["data", "verify", &copy]).contains("is whole"));
    let (went_well, said) = mainstay(&["data", "export", &copy, "--data", &data]);
    assert!(!went_well && said.contains("--force"), "{said}");

    let target = format!("embedded:{}", folder.text("target.store"));
    let whole = std::fs::read(&copy).unwrap();
    let broken = folder.text("broken.copy");
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 16;
    for bytes in [&whole[..whole.len() - 7], &flipped, b"what is this?"] {
        std::fs::write(&broken, bytes).unwrap();
        let (went_well, said) = mainstay(&["data", "import", &broken, "--store", &target]);
        assert!(!went_well && said.contains("nothing was changed"), "{said}");
        assert!(!folder.join("target.store").exists());
    }
    let said = well(&["data", "import", &copy, "--store", &target]);
    assert!(said.contains("currency 1: 30 with all holders"), "{said}");
    let (went_well, said) = mainstay(&["data", "import", &copy, "--store", &target]);
    assert!(!went_well && said.contains("--replace"), "{said}");
    well(&["data", "import", &copy, "--replace", "--store", &target]);
    let shown = |place: &[&str]| well(&[&["data", "show", "avatar/3"], place].concat());
    let (here, there) = (shown(&["--data", &data]), shown(&["--store", &target]));
    // Nobody beats where the copy came in.
    let here = here.replace("which has it", "which is dead, so it is free");
    assert_eq!(here, there);
}

#[test]
fn a_player_is_brought_back_and_nobody_else_is_touched() {
    let folder = Folder::new("data");
    let data = filled(&folder);
    let copy = folder.text("before.copy");
    well(&["data", "export", &copy, "--data", &data]);
    let made = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let then = made.as_millis() as u64;
    {
        let store = Store::embedded(folder.join("data/local.store"), Options::default()).unwrap();
        let (from, to) = (avatar(1), avatar(2));
        let mut txn = Transaction::new(TxnId(50), 1);
        txn.at_ms = then + 1_000;
        let pay = LedgerOp::Pay { from, to, currency: Currency(1), amount: 9 };
        let destroy = LedgerOp::Destroy { item: ItemId(1), holder: from };
        store.commit(txn.with(pay).with(destroy)).wait().unwrap();
    }
    let to = then.to_string();
    let words = ["data", "restore", "avatar/1", "--to", &to, "--copy", &copy, "--data", &data];
    let said = well(&[&words[..], &["--dry-run"]].concat());
    assert!(said.contains("nothing was changed"), "{said}");
    well(&words);
    let said = well(&["data", "show", "avatar/1", "--data", &data]);
    assert!(said.contains("currency 1: 10") && said.contains("restored to"), "{said}");
    assert!(said.contains("item kind 1"), "{said}");
    let other = well(&["data", "show", "avatar/2", "--data", &data]);
    assert!(other.contains("currency 1: 19"), "{other}");
    assert!(well(&["data", "verify", "--data", &data]).contains("the ledger adds up"));
    let early = well(&["data", "restore", "avatar/1", "--to", &to, "--data", &data]);
    assert!(early.contains("nothing is to be done"), "{early}");
    let words = ["data", "restore", "avatar/1", "--to", "1000", "--copy", &copy, "--data", &data];
    let (went_well, said) = mainstay(&words);
    assert!(!went_well && said.contains("name an earlier copy"), "{said}");
}

#[test]
fn a_store_in_which_a_node_beats_is_not_copied() {
    // Only a store that several processes share can be opened beside a server.
    let folder = Folder::new("data");
    if cfg!(not(feature = "sqlite")) {
        let (_, said) = mainstay(&["data", "verify", "--store", "sqlite:nowhere.sqlite"]);
        assert!(said.contains("there is no store"), "{said}");
        return;
    }
    shared::check(&folder);
}

#[cfg(not(feature = "sqlite"))]
mod shared {
    pub fn check(_: &super::Folder) {}
}

#[cfg(feature = "sqlite")]
mod shared {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    pub fn check(folder: &Folder) {
        let file = folder.join("game.sqlite");
        let store = Store::sqlite(&file, Options::default()).unwrap();
        store.beat(ME).wait().unwrap();
        let stop = AtomicBool::new(false);
        let place = format!("sqlite:{}", file.display());
        let copy = folder.text("all.copy");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    let _ = store.beat(ME).wait();
                    std::thread::park_timeout(std::time::Duration::from_millis(100));
                }
            });
            let (went_well, said) = mainstay(&["data", "export", &copy, "--store", &place]);
            stop.store(true, Ordering::SeqCst);
            assert!(!went_well && said.contains("uses the store now"), "{said}");
        });
        assert!(!folder.join("all.copy").exists());
        well(&["data", "export", &copy, "--store", &place]);
    }
}

/// A cluster file whose store is two shards.
fn sharded(folder: &Folder) -> String {
    let file = folder.text("shards.json");
    let text = r#"{"cluster": "c", "processes": {"a": {"roles": ["node"]}}, "store": {"shards": {
        "east": {"embedded": "east.store"}, "west": {"embedded": "west.store"}}}}"#;
    std::fs::write(&file, text).unwrap();
    let open = |name| Store::embedded(folder.join(name), Options::default()).unwrap();
    let east = ("east".to_owned(), open("east.store"));
    let store = Store::sharded(vec![east, ("west".to_owned(), open("west.store"))]).unwrap();
    let generation = store.beat(ME).wait().unwrap().generation;
    for account in 1..=40u64 {
        let key = avatar(account);
        let ask = Activate { key, generation, incarnation: ME, reclaim: None };
        store.activate(ask).wait().unwrap();
        let mint = LedgerOp::Mint { holder: key, currency: Currency(1), amount: 10 };
        let txn = Transaction::new(TxnId(u128::from(account)), generation);
        store.commit(txn.with(mint)).wait().unwrap();
    }
    file
}

#[test]
fn f18_slots_are_shown_and_moved_by_the_command() {
    let folder = Folder::new("data");
    let file = sharded(&folder);
    let at = |words: &[&str]| {
        let words: Vec<&str> = ["data"].iter().chain(words).copied().collect();
        mainstay(&[&words[..], &["--cluster", &file]].concat())
    };
    let well = |words: &[&str]| {
        let (well, said) = at(words);
        assert!(well, "{words:?}: {said}");
        said
    };
    assert!(well(&["slots"]).contains("east                    512"), "{}", well(&["slots"]));
    let between = ["move", "--from", "east", "--to", "west"];
    let said = well(&[&between[..], &["--dry-run"]].concat());
    assert!(said.contains("512 slots from east to west: 0-511"), "{said}");
    assert!(said.contains("dry run") && well(&["slots"]).contains("west                    512"));
    for (words, error) in [
        (vec!["move", "--from", "eest", "--to", "west"], "did you mean \"east\"?"),
        ([&between[..], &["--slots", "700"]].concat(), "slot 700 is with west, not with east"),
        ([&between[..], &["--slots", "5-1024"]].concat(), "`1024` is no slot: they are 0 to 1023"),
        (vec!["move", "--from", "east", "--to", "east"], "the same shard"),
        (vec!["list"], "the store has the shards east, west: name one by --shard"),
    ] {
        let (well, said) = at(&words);
        assert!(!well && said.contains(error), "{said}");
    }
    let said = well(&[&between[..], &["--slots", "3,10-19"]].concat());
    assert!(said.contains("moved 3, 10-19"), "{said}");
    well(&[&between[..], &["--group", "300"]].concat());
    let said = well(&["slots"]);
    assert!(said.contains("east                      0") && said.contains("1024"), "{said}");
    for account in 1..=40 {
        let said = well(&["show", &format!("avatar/{account}")]);
        assert!(said.contains("currency 1: 10") && said.contains("owner: epoch 1"), "{said}");
    }
    assert!(well(&["verify"]).contains("400"), "{}", well(&["verify"]));
    assert_eq!(well(&["list", "--shard", "west"]).lines().count(), 41);
}

#[cfg(feature = "redis")]
#[test]
fn a_journal_is_verified_together_with_what_has_landed() {
    if servers::skipped() {
        return;
    }
    let folder = Folder::new("journal");
    let (data, server) = (filled(&folder), servers::Redis::start().unwrap());
    let target = folder.text("data/local.store");
    let store = format!(
        "{{\"journal\": {{\"redis\": {:?}, \"target\": {{\"embedded\": {target:?}}}}}}}",
        server.url()
    );
    let said = well(&["data", "verify", "--store", &store]);
    for part in ["0 bytes and 0ns behind, 0 rows set aside", "have the same rows"] {
        assert!(said.contains(part), "{part} is missing: {said}");
    }
    let said = well(&["data", "show", "avatar/2", "--store", &store]);
    assert!(said.contains("currency 1: 10"), "{said}");
    // The target by itself is read, and takes in nothing.
    well(&["data", "verify", "--data", &data]);
    let copy = folder.text("copy");
    well(&["data", "export", &copy, "--store", &store]);
    let (went_well, said) = mainstay(&["data", "import", &copy, "--replace", "--data", &data]);
    assert!(!went_well && said.contains("together with the journal"), "{said}");
}

/// The game runs, and its data process has the file open: what looks at the store goes through that.
#[test]
fn f14_a_store_that_only_a_data_process_reaches_is_looked_at_through_it() {
    let folder = Folder::new("data");
    let data = filled(&folder);
    let path = folder.join("data/local.store");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let file = folder.text("cluster.json");
    let text = format!(
        r#"{{"cluster": "c", "data": {data:?}, "store": {{"embedded": {:?}}}, "processes": {{
            "node": {{"roles": ["node"], "listen": {{"mesh": 0}}}},
            "data": {{"roles": ["data"], "listen": {{"data": {port}}}}}}}}}"#,
        path.display().to_string()
    );
    std::fs::write(&file, text).unwrap();
    let copy = folder.text("all.copy");
    let keys = Keys::kept(&folder.join("data"), &mut Random::from_os()).unwrap();
    let stores = vec![(String::new(), Store::embedded(&path, Options::default()).unwrap())];
    let parts = DataParts { stores, key: keys.data(), metrics: Registry::new() };
    let at = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let service = DataService::start(at, parts, DataOptions::default()).unwrap();

    let shown = well(&["data", "show", "avatar/2", "--cluster", &file]);
    assert!(shown.contains("currency 1: 10") && shown.contains("\"a gift\""), "{shown}");
    let listed = well(&["data", "list", "--kind", "avatar", "--cluster", &file]);
    assert_eq!(listed.lines().count(), 4, "{listed}");
    let said = well(&["data", "verify", "--cluster", &file]);
    assert!(said.contains("currency 1: 30 with all holders"), "{said}");
    well(&["data", "export", &copy, "--cluster", &file]);
    let (went_well, said) = mainstay(&["data", "import", &copy, "--cluster", &file]);
    assert!(!went_well && said.contains("--process"), "{said}");
    let direct = ["data", "show", "avatar/2", "--cluster", &file, "--process", "data"];
    let (went_well, said) = mainstay(&direct);
    assert!(!went_well && said.contains("is in use"), "{said}");

    drop(service);
    let (went_well, said) = mainstay(&["data", "list", "--cluster", &file]);
    assert!(!went_well && said.contains("start one, or name one"), "{said}");
    assert_eq!(well(&direct), shown);
    let copied = well(&["data", "verify", &copy]);
    assert!(copied.contains("is whole"), "{copied}");
}

/// Leaves a gift after `asks` of its requests, as a process does that is killed.
fn saga(store: &Store, asks: usize) {
    let offer = |holder| Offer::new(avatar(holder));
    let plan = SagaPlan::trade("a gift", offer(1).amount(Currency(1), 4), offer(2));
    let (amends, options) = (Arc::new(Amends::new()), SagaOptions::default());
    let (id, now) = (SagaId(0xbeef), Instant::from_nanos(0));
    let mut run = SagaRun::begin(id, plan, amends, options, Random::from_seed(1), now);
    run.handle_timeout(now, 1_000_000_000_000);
    for _ in 0..asks {
        let Some(ask) = run.poll_ask() else { return };
        let told = match ask.want {
            SagaWant::Read(ids) => SagaTold::Read(store.records(ids).wait()),
            SagaWant::Write(generation, writes) => {
                SagaTold::Written(store.write_records(generation, writes).wait().map(drop))
            }
            SagaWant::Commit(txn) => SagaTold::Committed(store.commit(*txn).wait()),
        };
        run.handle_told(now, told);
    }
}

#[test]
fn f8_sagas_under_way_are_listed_and_each_is_shown() {
    let folder = Folder::new("sagas");
    let data = filled(&folder);
    let open = || Store::embedded(folder.join("data/local.store"), Options::default()).unwrap();
    assert_eq!(well(&["data", "sagas", "--data", &data]), "0 under way\n");
    saga(&open(), 5);
    let said = well(&["data", "sagas", "--data", &data]);
    assert_eq!(
        said,
        "1 under way\n\nsaga beef\n  begun 2001-09-09T01:46:40Z\n  \"a gift\": 0 of 2 steps are done\n  \
         now \"take\" in the default store\n"
    );
    assert!(well(&["data", "sagas", "beef", "--data", &data]).contains("saga beef"));
    saga(&open(), 100);
    assert_eq!(well(&["data", "sagas", "--data", &data]), "0 under way\n");
    let (found, said) = mainstay(&["data", "sagas", "abc", "--data", &data]);
    assert!(!found && said.contains("saga abc was never begun in this store"), "{said}");
    let (well, said) = mainstay(&["data", "sagas", "gift", "--data", &data]);
    assert!(!well && said.contains("`gift` is no key of a saga"), "{said}");
}
