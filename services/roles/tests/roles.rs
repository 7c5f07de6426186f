//! Roles of accounts in a simulated cluster.

use std::time::Duration;

use mainstay::prelude::*;
use mainstay::store::{self, Limits, RecordId, RecordWrite, Store, Transaction, TxnId};
use mainstay::testkit::{ClientError, Cluster, Faults, Game, Player};
use roles::{Archive, Loaded, Moved, Options, Role, Roles, RolesError, Rules, Survey};

/// How long deleted roles are kept here.
const KEPT: Duration = Duration::from_secs(120);

/// Stands for the game's own code.
#[entity]
#[derive(Default)]
struct Keeper;

#[rpc]
impl Keeper {
    #[request(client)]
    async fn save(
        &mut self,
        cx: &mut Cx<Self>,
        account: u64,
        id: u64,
        version: u64,
        text: String,
    ) -> Result<u64, RolesError> {
        let saved = cx.entity::<Roles>(account).save(id, version, Bytes::from(text.into_bytes()));
        saved.await.map_err(app_error)
    }

    #[request(client)]
    async fn keep(&mut self, cx: &mut Cx<Self>, is_leader: bool) -> Result<(), RolesError> {
        let (mine, reason) = (cx.entity::<Roles>(cx.key()), "guild leader".to_owned());
        let done = if is_leader { mine.keep(reason).await } else { mine.let_go(reason).await };
        done.map_err(app_error)
    }

    #[request(client)]
    async fn relocate(
        &mut self,
        cx: &mut Cx<Self>,
        id: u64,
        server: u32,
    ) -> Result<Role, RolesError> {
        cx.entity::<Roles>(cx.key()).relocate(id, server).await.map_err(app_error)
    }
}

fn app_error(failure: Failure<RolesError>) -> RolesError {
    match failure {
        Failure::App(error) => error,
        Failure::Call(_) => RolesError::Unavailable,
    }
}

fn app() -> App {
    let (servers, data_bytes_max) = (vec![1, 2], 100);
    let options =
        Options { roles_max: 3, servers, data_bytes_max, keep_deleted: KEPT, ..Options::default() };
    roles::install(App::new("tale"), options).entity::<Keeper>().agent::<Keeper>("keeper")
}

type Answer<T> = Result<T, RolesError>;

fn answer<T>(result: Result<T, ClientError>) -> Answer<T> {
    result.map_err(|error| match error {
        ClientError::App(bytes) => mainstay::proto::decode(&bytes).unwrap(),
        other => panic!("{other:?}"),
    })
}

/// One player in a game.
struct At<'g> {
    game: &'g Game,
    player: Player,
}

impl At<'_> {
    async fn ask<A: Message, R: Message>(&self, method: &str, arguments: &A) -> Answer<R> {
        answer(self.player.request("roles", method, arguments).await)
    }

    async fn create(&self, server: u32, name: &str) -> Answer<Role> {
        // Two a second are allowed.
        self.game.sleep(Duration::from_secs(1)).await;
        self.ask("create", &(server, name.to_owned())).await
    }

    async fn list(&self) -> Vec<String> {
        let roles: Vec<Role> = self.ask("list", &()).await.unwrap();
        let shown = roles.into_iter().map(|role| {
            let gone = if role.deleted_ms.is_some() { " deleted" } else { "" };
            format!("{}/{}{gone}", role.server, role.name)
        });
        shown.collect()
    }
}

async fn enter(game: &Game, account: u64) -> At<'_> {
    At { game, player: game.client(account).await }
}

#[mainstay::test(seed = 1)]
async fn roles_are_made_listed_deleted_and_restored(cluster: Cluster) {
    let game = cluster.start(&app());
    let ann = enter(&game, 1).await;
    assert_eq!(ann.list().await, Vec::<String>::new());
    let mira = ann.create(1, "Mira").await.unwrap();
    ann.create(2, "Mira").await.unwrap();
    assert_eq!(ann.list().await, ["1/Mira", "2/Mira"]);

    assert_eq!(ann.create(1, "mIRA").await, Err(RolesError::NameTaken));
    assert_eq!(ann.create(3, "Tov").await, Err(RolesError::NoSuchServer));
    for bad in ["", "a", "two words", "an unusually long name"] {
        assert_eq!(ann.create(1, bad).await, Err(RolesError::BadName), "{bad:?}");
    }
    ann.create(1, "Tov").await.unwrap();
    assert_eq!(ann.create(1, "Ulla").await, Err(RolesError::TooMany));

    assert_eq!(ann.ask("delete", &(mira.id,)).await, Ok(()));
    assert_eq!(ann.ask::<_, ()>("delete", &(mira.id,)).await, Err(RolesError::Deleted));
    assert_eq!(ann.ask::<_, Loaded>("load", &(mira.id,)).await, Err(RolesError::Deleted));
    assert_eq!(ann.list().await, ["1/Mira deleted", "2/Mira", "1/Tov"]);
    let restored: Role = ann.ask("restore", &(mira.id,)).await.unwrap();
    assert_eq!(restored, mira);
    assert_eq!(ann.ask::<_, Role>("restore", &(mira.id,)).await, Err(RolesError::NotDeleted));
}

#[mainstay::test(seed = 2)]
async fn a_deleted_role_is_gone_after_its_time_and_its_name_is_free(cluster: Cluster) {
    let game = cluster.start(&app());
    let mira = {
        let (ann, bob) = (enter(&game, 1).await, enter(&game, 2).await);
        let mira = ann.create(1, "Mira").await.unwrap();
        ann.ask::<_, ()>("delete", &(mira.id,)).await.unwrap();
        assert_eq!(bob.create(1, "Mira").await, Err(RolesError::NameTaken), "it may come back");
        ann.player.leave();
        bob.player.leave();
        mira
    };
    game.sleep(KEPT).await;
    let (ann, bob) = (enter(&game, 1).await, enter(&game, 2).await);
    assert_eq!(ann.list().await, Vec::<String>::new());
    bob.create(1, "Mira").await.unwrap();
    assert_eq!(ann.ask::<_, Role>("restore", &(mira.id,)).await, Err(RolesError::NoSuchRole));
    // What was swept away was the old role, not the new owner of its name.
    assert_eq!(ann.create(1, "Mira").await, Err(RolesError::NameTaken));
    assert_eq!(bob.list().await, ["1/Mira"]);
    ann.create(2, "Mira").await.unwrap();
    assert_eq!(ann.list().await, ["2/Mira"]);
}

#[mainstay::test(seed = 3)]
async fn foreign_roles_are_refused_as_if_they_were_none(cluster: Cluster) {
    let game = cluster.start(&app());
    let (ann, bob) = (enter(&game, 1).await, enter(&game, 2).await);
    let mira = ann.create(1, "Mira").await.unwrap();
    assert_eq!(bob.ask::<_, Loaded>("load", &(mira.id,)).await, Err(RolesError::NoSuchRole));
    assert_eq!(bob.ask::<_, ()>("delete", &(mira.id,)).await, Err(RolesError::NoSuchRole));
    assert_eq!(bob.ask::<_, Role>("restore", &(mira.id,)).await, Err(RolesError::NoSuchRole));
    // Saving and moving are for the game's own code.
    let arguments = (mira.id, 1u64, Bytes::default());
    let saved = bob.player.request::<_, u64>("roles", "save", &arguments).await;
    assert!(matches!(saved, Err(ClientError::Refused(_))));
    let moved = bob.player.request::<_, Role>("roles", "relocate", &(mira.id, 2u32)).await;
    assert!(matches!(moved, Err(ClientError::Refused(_))));
    assert_eq!(ann.list().await, ["1/Mira"]);
}

#[mainstay::test(seed = 4)]
async fn what_belongs_to_a_role_is_loaded_and_saved_at_its_version(cluster: Cluster) {
    let game = cluster.start(&app());
    let ann = enter(&game, 1).await;
    let mira = ann.create(1, "Mira").await.unwrap();
    let loaded: Loaded = ann.ask("load", &(mira.id,)).await.unwrap();
    assert_eq!((loaded.version, loaded.data.len()), (1, 0));
    let save = |version: u64, text: &str| (1u64, mira.id, version, text.to_owned());
    let player = &ann.player;
    let keeper = |arguments: (u64, u64, u64, String)| async move {
        answer(player.request::<_, u64>("keeper", "save", &arguments).await)
    };
    assert_eq!(keeper(save(1, "level 2")).await, Ok(2u64));
    assert_eq!(keeper(save(1, "level 1")).await, Err(RolesError::Conflict(2)));
    assert_eq!(keeper(save(2, &"x".repeat(101))).await, Err(RolesError::TooLarge));
    let loaded: Loaded = ann.ask("load", &(mira.id,)).await.unwrap();
    assert_eq!((loaded.version, &loaded.data[..]), (2, &b"level 2"[..]));
    assert_eq!(keeper((2, mira.id, 2, "theft".to_owned())).await, Err(RolesError::NoSuchRole));
}

#[mainstay::test(seed = 5)]
async fn a_role_moves_to_a_server_where_its_name_is_free(cluster: Cluster) {
    let game = cluster.start(&app());
    let (ann, bob) = (enter(&game, 1).await, enter(&game, 2).await);
    let mira = ann.create(1, "Mira").await.unwrap();
    let taken = bob.create(2, "Mira").await.unwrap();
    let relocate = |id: u64, server: u32| {
        let arguments = (id, server);
        let player = &ann.player;
        async move { answer(player.request::<_, Role>("keeper", "relocate", &arguments).await) }
    };
    assert_eq!(relocate(mira.id, 2).await, Err(RolesError::NameTaken));
    assert_eq!(relocate(taken.id, 1).await, Err(RolesError::NoSuchRole));
    assert_eq!(relocate(mira.id, 9).await, Err(RolesError::NoSuchServer));
    let tov = ann.create(1, "Tov").await.unwrap();
    assert_eq!(relocate(tov.id, 2).await.unwrap().server, 2);
    assert_eq!(ann.list().await, ["1/Mira", "2/Tov"]);
    // Its old name is free again.
    bob.create(1, "Tov").await.unwrap();
}

#[mainstay::test(seed = 6, faults = Faults::all())]
async fn two_players_never_get_one_name(cluster: Cluster) {
    let game = cluster.start(&app());
    let (ann, bob) = (enter(&game, 1).await, enter(&game, 2).await);
    for name in ["Mira", "Tov", "Ulla"] {
        let _ = ann.player.request::<_, Role>("roles", "create", &(1u32, name.to_owned())).await;
        let _ = bob.player.request::<_, Role>("roles", "create", &(1u32, name.to_owned())).await;
        game.sleep(Duration::from_secs(1)).await;
    }
    game.heal();
    let (mut all, of_bob) = (ann.list().await, bob.list().await);
    all.extend(of_bob);
    all.sort();
    assert_eq!(all, ["1/Mira", "1/Tov", "1/Ulla"]);
}

/// Does to the game's store what `job` does to a copy of it.
fn beside<T>(game: &Game, role: u64, job: impl FnOnce(&Store) -> T) -> T {
    let id = |name, key: u64| RecordId {
        kind: mainstay::proto::name_hash(name),
        key: mainstay::proto::encode(&key),
    };
    let ids = vec![id("roles.account", 1), id("roles.roster", 1), id("roles.data", role)];
    let copy = game.store();
    let before = copy.records(ids.clone()).wait().unwrap();
    let told = job(&copy);
    let after = copy.records(ids.clone()).wait().unwrap();
    let changed = ids.into_iter().zip(before.records.into_iter().zip(after.records));
    let writes = changed.filter(|(_, (before, after))| before.body != after.body);
    let writes = writes.map(|(id, (before, after))| {
        let change = after.body.map_or(store::Change::Remove, store::Change::Put);
        RecordWrite { id, version: before.version, change, fence: None, unlock: false }
    });
    let txn = TxnId(u128::from(game.now().as_nanos()) + 1);
    let mut txn = Transaction::new(txn, before.generation);
    txn.records = writes.collect();
    if !txn.records.is_empty() {
        game.commit(&txn).unwrap();
    }
    told
}

/// Two hundred days after a role was made.
fn later(role: &Role) -> u64 {
    role.created_ms + 200 * 24 * 3_600 * 1_000
}

fn rules() -> Rules {
    Rules { idle_days: 180, accounts_max: 10, ..Rules::default() }
}

#[mainstay::test(seed = 7)]
async fn f26_an_archived_account_is_back_when_its_player_logs_in(cluster: Cluster) {
    let kept = Store::memory(Limits::default());
    let archive = Archive::new(kept.clone());
    let app = roles::install_with_archive(App::new("tale"), Options::default(), archive.clone());
    let app = app.entity::<Keeper>().agent::<Keeper>("keeper");
    let game = cluster.start(&app);
    let mira = {
        let ann = enter(&game, 1).await;
        let mira = ann.create(1, "Mira").await.unwrap();
        let level = (1u64, mira.id, 1u64, "level 9".to_owned());
        let saved = ann.player.request("keeper", "save", &level).await;
        assert_eq!(answer(saved), Ok(2u64));
        ann.player.leave();
        mira
    };
    let (then, rules) = (later(&mira), rules());
    let survey = |live: &Store| Archive::survey(live, &[], then, &rules).unwrap();
    let take = |live: &Store| archive.take(live, 1, then, &rules).unwrap();
    assert_eq!(survey(&game.store()).idle.keys().copied().collect::<Vec<_>>(), [1]);
    assert_eq!(beside(&game, mira.id, take), Moved::Done);
    assert_eq!(survey(&game.store()), Survey::default());

    let (ann, bob) = (enter(&game, 1).await, enter(&game, 2).await);
    assert_eq!(bob.create(1, "Mira").await, Err(RolesError::NameTaken), "names stay taken");
    let loaded: Loaded = ann.ask("load", &(mira.id,)).await.unwrap();
    assert_eq!((&loaded.role, &loaded.data[..]), (&mira, &b"level 9"[..]));
    assert_eq!(ann.list().await, ["1/Mira"]);
    let kind = mainstay::proto::name_hash("roles.roster");
    assert_eq!(kept.scan_records(kind, None, 10).wait().unwrap().len(), 0, "nothing is left there");

    // A duty that the game names keeps it here.
    let keep = async |is_leader: bool| {
        answer(ann.player.request::<_, ()>("keeper", "keep", &(is_leader,)).await).unwrap();
    };
    keep(true).await;
    assert_eq!(beside(&game, mira.id, take), Moved::Stays);
    keep(false).await;
    assert_eq!(beside(&game, mira.id, take), Moved::Done);
}

#[mainstay::test(seed = 8)]
async fn f26_without_its_archive_an_account_is_refused_and_never_empty(cluster: Cluster) {
    let game = cluster.start(&app());
    let ann = enter(&game, 1).await;
    let mira = ann.create(1, "Mira").await.unwrap();
    let (then, rules) = (later(&mira), rules());
    let archive = Archive::new(Store::memory(Limits::default()));
    let take = |live: &Store| archive.take(live, 1, then, &rules).unwrap();
    assert_eq!(beside(&game, mira.id, take), Moved::Done);
    assert_eq!(ann.ask::<_, Vec<Role>>("list", &()).await, Err(RolesError::Unavailable));
    assert_eq!(ann.create(2, "Tov").await, Err(RolesError::Unavailable));
    let back = |live: &Store| archive.bring_back(live, 1, then).unwrap();
    assert_eq!(beside(&game, mira.id, back), Moved::Done);
    assert_eq!(ann.list().await, ["1/Mira"]);
}
