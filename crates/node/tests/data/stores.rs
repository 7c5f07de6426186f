//! Kinds in stores of their own: each is kept where it says, and stands still alone.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use cluster::{Directory, NodeInfo};
use env::{Clock, Instant, ManualClock, Random, WallTime};
use macros::{Document, entity, rpc};
use mesh::{Key as MeshKey, Mesh};
use node::data::{Ask, Batch, CommitError, Deal, Life, RecordError, Told, holder};
use node::rt::{Cx, Ref};
use node::session::Bindings;
use node::{DataParts, Entity, HostOptions, Outside, Worker, WorkerParts};
use proto::Incarnation;
use proto::link::WorkerId;
use store::{
    Currency, Key, Limits, SagaEnd, SagaId, SagaPlan, SagaStep, SagaWork, Store, Transaction, TxnId,
};

const GOLD: Currency = Currency(1);

#[entity(root = node::rt, document)]
#[derive(Default, Document)]
#[document(root = node::rt)]
struct Island {
    #[persist]
    trees: u64,
}

#[rpc(root = node::rt)]
impl Island {
    #[invoke(server)]
    fn plant(&mut self) -> u64 {
        self.trees += 1;
        self.trees
    }
}

#[entity(root = node::rt, document, store = "accounts")]
#[derive(Default, Document)]
#[document(root = node::rt)]
struct Wallet {
    #[persist]
    logins: u64,
}

#[rpc(root = node::rt)]
impl Wallet {
    #[invoke(server)]
    fn login(&mut self) -> u64 {
        self.logins += 1;
        self.logins
    }

    #[invoke(server)]
    async fn earn(&mut self, cx: &mut Cx<Self>, id: u64, amount: u64) -> String {
        let deal = Deal::new(TxnId(id.into()), "earned").mint(cx.holder(), GOLD, amount);
        self.logins += 1;
        match cx.commit_with(self, deal).await {
            Ok(_) => "done".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    /// As if a deal could take gold out of the store.
    #[invoke(server)]
    async fn smuggle(&mut self, cx: &mut Cx<Self>, island: u64) -> String {
        let to = holder(Ref::<Island>::keyed(island));
        let deal = Deal::new(TxnId(77), "smuggled").pay(cx.holder(), to, GOLD, 3);
        self.logins += 1;
        match cx.commit_with(self, deal).await {
            Err(error @ CommitError::TwoStores { .. }) => error.to_string(),
            other => format!("{other:?}"),
        }
    }

    /// Pays an island by a saga whose first step names `store`.
    #[invoke(server, deadline = "60s")]
    async fn ship(&mut self, cx: &mut Cx<Self>, store: String, id: u64, island: u64) -> String {
        let (from, to) = (cx.holder(), holder(Ref::<Island>::keyed(island)));
        let plan = SagaPlan::new("shipped")
            .step(
                SagaStep::new("pay", SagaWork::new().send(from, GOLD, 3))
                    .at(store)
                    .undone_by(SagaWork::new().receive(from, GOLD, 3)),
            )
            .step(SagaStep::new("land", SagaWork::new().receive(to, GOLD, 3)));
        match cx.saga(SagaId(id.into()), plan).await {
            Ok(SagaEnd::Done) => "done".to_owned(),
            other => format!("{other:?}"),
        }
    }
}

/// Shared, and kept beside the wallets.
#[derive(Clone, Debug, Default, PartialEq, Document)]
#[document(root = node::rt, record = "charter", key = u64, store = "accounts")]
struct Charter {
    #[persist]
    #[index(unique)]
    title: String,
}

/// Kept in the default store.
#[derive(Clone, Debug, Default, PartialEq, Document)]
#[document(root = node::rt, record = "landmark", key = u64)]
struct Landmark {
    #[persist]
    title: String,
}

/// In a store that there is not.
#[derive(Clone, Debug, Default, PartialEq, Document)]
#[document(root = node::rt, record = "myth", key = u64, store = "nowhere")]
struct Myth {}

#[entity(root = node::rt)]
#[derive(Default)]
struct Clerk {}

fn told<T: std::fmt::Debug>(result: Result<T, RecordError>) -> String {
    result.map_or_else(|error| error.to_string(), |value| format!("{value:?}"))
}

#[rpc(root = node::rt)]
impl Clerk {
    /// Writes a charter that nobody else has locked.
    #[invoke(server, deadline = "60s")]
    async fn charter(&mut self, cx: &mut Cx<Self>, key: u64, title: String) -> String {
        let wait = Duration::from_secs(1);
        let mut draft = match cx.lock_record::<Charter>(&key, wait, wait).await {
            Ok(draft) => draft,
            Err(error) => return error.to_string(),
        };
        draft.title = title;
        told(cx.write_records(Batch::new().put(draft)).await)
    }

    #[invoke(server)]
    async fn titled(&mut self, cx: &mut Cx<Self>, title: String) -> String {
        let hits = match cx.find_records(Charter::by_title(&title), 9).await {
            Ok(hits) => hits,
            Err(error) => return error.to_string(),
        };
        let listed = cx.list_records::<Charter>(None, 9).await.map(|all| all.len());
        format!(
            "{:?} of {}",
            hits.found.iter().map(|(key, _)| key).collect::<Vec<_>>(),
            told(listed)
        )
    }

    /// A charter and a landmark at once, or a charter that the holder pays for.
    #[invoke(server)]
    async fn both(
        &mut self,
        cx: &mut Cx<Self>,
        id: u64,
        with_landmark: bool,
        island: bool,
    ) -> String {
        let drafts = (cx.draft_record::<Charter>(&9).await, cx.draft_record::<Landmark>(&9).await);
        let (Ok(mut charter), Ok(mut landmark)) = drafts else { return "not read".to_owned() };
        charter.title = "both".to_owned();
        landmark.title = "both".to_owned();
        let mut batch = Batch::new().put(charter);
        if with_landmark {
            batch = batch.put(landmark);
            return told(cx.write_records(batch).await);
        }
        let from =
            if island { holder(Ref::<Island>::keyed(1)) } else { holder(Ref::<Wallet>::keyed(1)) };
        let deal = Deal::new(TxnId(id.into()), "paid").burn(from, GOLD, 4);
        match deal.writing(batch) {
            Ok(deal) => match cx.commit(deal).await {
                Ok(_) => "done".to_owned(),
                Err(error) => error.to_string(),
            },
            Err(error) => error.to_string(),
        }
    }

    #[invoke(server)]
    async fn myth(&mut self, cx: &mut Cx<Self>) -> String {
        told(cx.read_record::<Myth>(&1).await.map(|found| found.is_some()))
    }
}

const ACCOUNTS: usize = 1;

/// A node of one worker over two stores in memory, on a clock that moves by hand.
struct Rig {
    worker: Worker,
    outside: Outside,
    stores: [Store; 2],
    /// Stores that do not answer, and what they were asked meanwhile.
    away: [bool; 2],
    asked: [Vec<Ask>; 2],
    told: Arc<Mutex<Vec<(usize, Told)>>>,
    beat_at: Instant,
    hand: ManualClock,
}

type Call<T> = Pin<Box<dyn Future<Output = T>>>;

const ME: Incarnation = Incarnation(100);

impl Rig {
    fn new() -> Self {
        let (clock, hand) = Clock::manual(WallTime(1_700_000_000_000));
        hand.advance(Duration::from_secs(100));
        let me = WorkerId { node: ME, worker: 0 };
        let mesh = mesh::Options { cluster: "test".into(), ..mesh::Options::default() };
        let mut worker = Worker::new(WorkerParts {
            me,
            workers: 1,
            host: HostOptions::default(),
            sessions: node::session::Options::default(),
            bindings: Bindings::none(),
            mesh: Mesh::new(me, "node", mesh, MeshKey::none(), Random::from_seed(1)),
            clock,
            random: Random::from_seed(2),
            data: Some(DataParts { stores: vec!["accounts".to_owned()], ..DataParts::default() }),
        });
        worker.host().register::<Island>();
        worker.host().register::<Wallet>();
        worker.host().register::<Clerk>();
        worker.host().register_record::<Charter>();
        let mut info = NodeInfo::new("node", ME);
        info.workers = 1;
        info.kinds = vec![Island::KIND.id, Wallet::KIND.id, Clerk::KIND.id];
        worker.set_directory(Arc::new(Directory::new(1, [Arc::new(info)])), |_| false);
        let mut rig = Rig {
            outside: worker.outside(),
            worker,
            stores: [(); 2].map(|()| Store::memory(Limits::default())),
            away: [false; 2],
            asked: [Vec::new(), Vec::new()],
            told: Arc::default(),
            beat_at: Instant::ZERO,
            hand,
        };
        rig.run_for(Duration::from_millis(100));
        rig
    }

    /// A store stands still, or answers all that it was asked.
    fn set_away(&mut self, store: usize, away: bool) {
        self.away[store] = away;
    }

    fn work(&mut self) {
        let now = self.hand.now();
        if now >= self.beat_at {
            self.beat_at = now + Duration::from_secs(1);
            for store in 0..2 {
                if !self.away[store] {
                    let pulse = self.stores[store].beat(store::Incarnation(ME.0)).wait().unwrap();
                    self.worker.handle_life_by(now, store, Life::Alive(now, pulse.generation));
                }
            }
        }
        let wall = WallTime(1_700_000_000_000 + now.as_millis());
        while self.worker.turn(now, wall).is_some_and(|at| at <= now) {}
        for store in 0..2 {
            self.asked[store].extend(std::iter::from_fn(|| self.worker.poll_ask_of(store)));
            if self.away[store] {
                continue;
            }
            for ask in std::mem::take(&mut self.asked[store]) {
                let told = Arc::clone(&self.told);
                ask.submit(&self.stores[store], move |answer| {
                    told.lock().unwrap().push((store, answer));
                });
            }
        }
        let told = std::mem::take(&mut *self.told.lock().unwrap());
        for (store, told) in told {
            self.worker.handle_told_by(now, store, told);
        }
    }

    fn run_for(&mut self, span: Duration) {
        let end = self.hand.now() + span;
        while self.hand.now() < end {
            self.work();
            self.hand.advance(Duration::from_millis(5));
        }
    }

    /// Lets a call go on for that long, or until it has ended.
    fn wait<T>(&mut self, call: &mut Call<T>, span: Duration) -> Option<T> {
        let end = self.hand.now() + span;
        while self.hand.now() < end {
            let mut context = Context::from_waker(Waker::noop());
            if let Poll::Ready(value) = call.as_mut().poll(&mut context) {
                return Some(value);
            }
            self.run_for(Duration::from_millis(5));
        }
        None
    }

    fn plant(&mut self) -> u64 {
        let out = self.outside.clone();
        let mut call: Call<_> = Box::pin(async move { out.entity::<Island>(1).plant().await });
        self.wait(&mut call, Duration::from_millis(500)).expect("it is answered").unwrap()
    }

    fn login(&self) -> Call<u64> {
        let out = self.outside.clone();
        Box::pin(async move { out.entity::<Wallet>(1).login().await.unwrap() })
    }

    fn told(&mut self, call: Call<String>) -> String {
        let mut call = call;
        self.wait(&mut call, Duration::from_secs(10)).expect("it is answered")
    }

    fn is_stored(&self, store: usize, key: Key) -> bool {
        let found = self.stores[store].load(key).wait().unwrap();
        found.is_some_and(|entity| !entity.documents.is_empty())
    }

    fn version(&self, store: usize, key: Key) -> u64 {
        self.stores[store].load(key).wait().unwrap().expect("it is there").version
    }

    fn gold(&self, store: usize, key: Key) -> u64 {
        let held = self.stores[store].holdings(key).wait().unwrap();
        held.balances.get(&GOLD).copied().unwrap_or(0)
    }
}

fn island() -> Key {
    holder(Ref::<Island>::keyed(1))
}

fn wallet() -> Key {
    holder(Ref::<Wallet>::keyed(1))
}

#[test]
fn f3_each_kind_is_kept_in_the_store_that_it_names() {
    let mut rig = Rig::new();
    assert_eq!(rig.plant(), 1);
    let mut login = rig.login();
    assert_eq!(rig.wait(&mut login, Duration::from_secs(1)), Some(1));
    rig.run_for(Duration::from_secs(3));
    assert!(rig.is_stored(0, island()) && !rig.is_stored(ACCOUNTS, island()));
    assert!(rig.is_stored(ACCOUNTS, wallet()) && !rig.is_stored(0, wallet()));
    assert_eq!(rig.worker.stats().data.owned, 2);
}

#[test]
fn f23_a_named_store_that_is_away_holds_up_only_its_own_kinds() {
    let mut rig = Rig::new();
    rig.plant();
    let mut login = rig.login();
    assert_eq!(rig.wait(&mut login, Duration::from_secs(1)), Some(1));
    rig.run_for(Duration::from_secs(3));
    let (saved, kept) = (rig.version(0, island()), rig.version(ACCOUNTS, wallet()));
    rig.set_away(ACCOUNTS, true);
    rig.run_for(Duration::from_secs(6));
    let mut login = rig.login();
    for tree in 2..12 {
        assert_eq!(rig.plant(), tree, "the default store is there");
        assert_eq!(rig.wait(&mut login, Duration::from_millis(100)), None, "it may be another's");
    }
    rig.run_for(Duration::from_millis(1_100));
    assert!(rig.version(0, island()) > saved, "it is saved meanwhile");
    assert_eq!(rig.version(ACCOUNTS, wallet()), kept);
    rig.set_away(ACCOUNTS, false);
    assert_eq!(rig.wait(&mut login, Duration::from_secs(3)), Some(2));
    rig.run_for(Duration::from_secs(3));
    assert!(rig.version(ACCOUNTS, wallet()) > kept);
}

#[test]
fn f23_kinds_of_a_named_store_go_on_while_the_default_one_is_away() {
    let mut rig = Rig::new();
    rig.plant();
    rig.set_away(0, true);
    rig.run_for(Duration::from_secs(6));
    let out = rig.outside.clone();
    let mut plant: Call<_> = Box::pin(async move { out.entity::<Island>(1).plant().await });
    for n in 1..10 {
        // The first of these has it loaded.
        let mut login = rig.login();
        assert_eq!(rig.wait(&mut login, Duration::from_millis(500)), Some(n));
        assert!(rig.wait(&mut plant, Duration::from_millis(100)).is_none());
    }
    rig.run_for(Duration::from_millis(1_100));
    assert!(rig.is_stored(ACCOUNTS, wallet()));
    rig.set_away(0, false);
    assert_eq!(rig.wait(&mut plant, Duration::from_secs(3)), Some(Ok(2)));
}

#[test]
fn f3_a_deal_over_two_stores_is_refused_at_once_and_loses_no_change() {
    let mut rig = Rig::new();
    let out = rig.outside.clone();
    let told =
        rig.told(Box::pin(async move { out.entity::<Wallet>(1).earn(5, 10).await.unwrap() }));
    assert_eq!(told, "done");
    assert_eq!(rig.gold(ACCOUNTS, wallet()), 10);
    let kept = rig.version(ACCOUNTS, wallet());
    let out = rig.outside.clone();
    let told = rig.told(Box::pin(async move { out.entity::<Wallet>(1).smuggle(1).await.unwrap() }));
    assert_eq!(
        told,
        "the deal concerns what is in the store \"accounts\" and what is in the default store: no \
         deal goes over two stores, make a saga of it (`cx.saga`), with a step in each"
    );
    assert_eq!((rig.gold(ACCOUNTS, wallet()), rig.gold(0, island())), (10, 0));
    rig.run_for(Duration::from_secs(3));
    assert!(rig.version(ACCOUNTS, wallet()) > kept, "what changed besides is saved");
}

#[test]
fn f8_a_saga_goes_over_two_stores_by_their_names() {
    let mut rig = Rig::new();
    let generation = rig.stores[ACCOUNTS].generation().wait().unwrap();
    let op = store::LedgerOp::Mint { holder: wallet(), currency: GOLD, amount: 10 };
    let txn = Transaction::new(TxnId(900), generation).with(op);
    rig.stores[ACCOUNTS].commit(txn).wait().unwrap();
    let mut ship = |store: &str, id: u64| {
        let (out, store) = (rig.outside.clone(), store.to_owned());
        rig.told(Box::pin(async move { out.entity::<Wallet>(1).ship(store, id, 1).await.unwrap() }))
    };
    let unknown = ship("accuonts", 1);
    assert!(unknown.contains("UnknownStore"), "{unknown}");
    let wrong = ship("", 2);
    assert!(wrong.contains("OtherStore"), "{wrong}");
    assert_eq!(ship("accounts", 3), "done");
    assert_eq!(ship("accounts", 3), "done", "it is the same saga");
    assert_eq!((rig.gold(ACCOUNTS, wallet()), rig.gold(0, island())), (7, 3));
}

/// Asks the clerk, who has no store of its own.
macro_rules! clerk {
    ($rig:expr, $method:ident ( $($arg:expr),* )) => {{
        let out = $rig.outside.clone();
        $rig.told(Box::pin(async move { out.entity::<Clerk>(1).$method($($arg),*).await.unwrap() }))
    }};
}

fn records_in(rig: &Rig, store: usize, name: &str) -> usize {
    let kind = proto::KindId::of(name).0;
    rig.stores[store].scan_records(kind, None, 9).wait().unwrap().len()
}

#[test]
fn f23_records_are_kept_in_the_store_that_they_name() {
    let mut rig = Rig::new();
    assert_eq!(clerk!(rig, charter(1, "Owls".to_owned())), "()");
    assert_eq!(clerk!(rig, charter(1, "Elks".to_owned())), "()", "its lock was given back there");
    assert_eq!(clerk!(rig, titled("Elks".to_owned())), "[1] of 1");
    assert_eq!((records_in(&rig, 0, "charter"), records_in(&rig, ACCOUNTS, "charter")), (0, 1));
    let nowhere = clerk!(rig, myth());
    assert!(nowhere.contains("no store \"nowhere\""), "{nowhere}");
    for store in &rig.stores {
        assert_eq!(store.verify().wait().unwrap().faults, Vec::<String>::new());
    }
}

#[test]
fn f23_records_of_a_named_store_go_on_while_the_default_one_is_away() {
    let mut rig = Rig::new();
    rig.set_away(0, true);
    rig.run_for(Duration::from_secs(6));
    assert_eq!(clerk!(rig, charter(1, "Owls".to_owned())), "()");
    assert_eq!(clerk!(rig, titled("Owls".to_owned())), "[1] of 1");
    rig.set_away(0, false);
    rig.set_away(ACCOUNTS, true);
    rig.run_for(Duration::from_secs(1));
    assert_eq!(rig.plant(), 1, "and the other way round");
    let out = rig.outside.clone();
    let title = "Elks".to_owned();
    let mut call: Call<_> =
        Box::pin(async move { out.entity::<Clerk>(1).charter(2, title).await.unwrap() });
    assert_eq!(rig.wait(&mut call, Duration::from_secs(1)), None);
    assert_eq!(records_in(&rig, 0, "charter"), 0);
}

#[test]
fn f23_records_of_two_stores_are_never_written_together() {
    let mut rig = Rig::new();
    let out = rig.outside.clone();
    let paid =
        rig.told(Box::pin(async move { out.entity::<Wallet>(1).earn(5, 10).await.unwrap() }));
    assert_eq!(paid, "done");
    let two = clerk!(rig, both(6, true, false));
    assert!(two.contains("cannot be written together"), "{two}");
    let two = clerk!(rig, both(7, false, true));
    assert!(two.contains("no deal goes over two stores"), "{two}");
    assert_eq!((records_in(&rig, 0, "landmark"), records_in(&rig, ACCOUNTS, "charter")), (0, 0));
    // With what is kept beside them they are one.
    assert_eq!(clerk!(rig, both(8, false, false)), "done");
    assert_eq!((rig.gold(ACCOUNTS, wallet()), records_in(&rig, ACCOUNTS, "charter")), (6, 1));
}
