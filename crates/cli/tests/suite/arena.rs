//! The arena keeps what its players own, whatever happens to the process and wherever it is kept.

use crate::command::{Folder, Server, mainstay, well};
use crate::player::Player;

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(test);
}

fn demo(data: &str) -> Server {
    Server::start(&["demo", "--bots", "5", "--listen", "127.0.0.1:0", "--data", data])
}

/// Another kind of store, if one is built in; else another file.
fn other_store(folder: &Folder) -> (&'static str, String) {
    let kind = if cfg!(feature = "sqlite") { "sqlite" } else { "embedded" };
    (kind, folder.text("other.store"))
}

#[test]
fn profile_coins_and_items_survive_kill_9_and_a_change_of_backend() {
    run(async {
        let folder = Folder::new("arena");
        let data = folder.text("data");
        let server = demo(&data);
        let mut ann = Player::login(&server, "Ann", None).await;
        ann.play("Ann the Great").await;
        ann.collect(3).await;
        let (purse, pass) = (ann.purse.clone(), ann.pass.clone());
        // In the middle of the bots' fights.
        server.kill();
        let said = well(&["data", "verify", "--data", &data]);
        assert!(said.contains("the ledger adds up"), "{said}");

        let server = demo(&data);
        let ann = Player::login(&server, "Ann", Some(&pass)).await;
        assert_eq!(ann.purse, purse);
        let profile = ann.profile().await;
        assert_eq!((profile.name.as_str(), profile.games), ("Ann the Great", 1));
        let (status, refused) = server.ticket("Ann", Some("AAAA"));
        assert_eq!((status, refused["error"].as_str()), (403, Some("bad_pass")));
        server.kill();

        let (kind, place) = other_store(&folder);
        let (copy, store) = (folder.text("arena.copy"), format!("{kind}:{place}"));
        well(&["data", "export", &copy, "--data", &data]);
        well(&["data", "import", &copy, "--store", &store]);
        // What stays behind is not what is used.
        std::fs::remove_file(folder.join("data/local.store")).unwrap();
        let file = format!(
            "{{\"cluster\": \"arena\", \"data\": {data:?}, \"store\": {{{kind:?}: {place:?}}},\n\
             \"processes\": {{\"local\": {{\"roles\": [\"gate\", \"node\", \"web\"],\n\
             \"listen\": {{\"clients\": \"127.0.0.1:0\"}}}}}}}}"
        );
        std::fs::write(folder.join("cluster.json"), file).unwrap();
        let server = Server::start(&["serve", "--cluster", &folder.text("cluster.json")]);
        let mut ann = Player::login(&server, "Ann", Some(&pass)).await;
        assert_eq!(ann.purse, purse);
        assert_eq!(ann.profile().await.name, "Ann the Great");
        ann.play("Ann again").await;
        ann.collect(purse.coins + u64::from(purse.stars) + 1).await;
        let more = ann.purse.clone();
        server.kill();
        let said = well(&["data", "verify", "--cluster", &folder.text("cluster.json")]);
        assert!(said.contains("the ledger adds up"), "{said}");
        assert!(more.coins + u64::from(more.stars) > purse.coins + u64::from(purse.stars));
    });
}

#[test]
fn a_store_that_a_server_uses_is_left_alone() {
    let folder = Folder::new("arena");
    let data = folder.text("data");
    let server = demo(&data);
    let (went_well, said) = mainstay(&["data", "verify", "--data", &data]);
    assert!(!went_well && said.contains("stop the server that has it open"), "{said}");
    server.kill();
    well(&["data", "verify", "--data", &data]);
}
