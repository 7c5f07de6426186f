//! Sagas over the shards of a store: whichever node dies, they are done or undone as a whole.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;

use node::data::{Ask, Change, CommitError, Deal, RecordAsk, amend};
use node::{Cx, Entity, Host, rt};
use store::{
    Currency, Error, Item, ItemId, ItemKind, Key, LedgerOp, Limits, Offer, SagaEnd, SagaError,
    SagaId, SagaPlan, SagaStep, SagaWork, Store, Transaction, TxnId,
};

use super::rig::{Rig, said};

const GOLD: Currency = Currency(1);
const SWORD: ItemKind = ItemKind(4);

#[derive(Debug, Default, macros::Document)]
#[document(root = rt, record = "sagas.guild", key = u64)]
struct Guild {
    #[persist]
    members: Vec<u64>,
}

/// Takes a member in, unless the guild is full.
#[derive(Clone, Debug, PartialEq, macros::Message)]
#[message(root = rt)]
struct Join {
    who: u64,
}

impl Change for Join {
    const NAME: &'static str = "guild.join";
    type Record = Guild;

    fn change(&self, guild: &mut Guild) -> Result<(), String> {
        if guild.members.len() >= 2 {
            return Err("the guild is full".to_owned());
        }
        guild.members.push(self.who);
        Ok(())
    }
}

/// Takes that back.
#[derive(Clone, Debug, PartialEq, macros::Message)]
#[message(root = rt)]
struct Leave {
    who: u64,
}

impl Change for Leave {
    const NAME: &'static str = "guild.leave";
    type Record = Guild;

    fn change(&self, guild: &mut Guild) -> Result<(), String> {
        guild.members.retain(|member| *member != self.who);
        Ok(())
    }
}

#[macros::entity(root = node::rt)]
#[derive(Default)]
struct Broker;

#[macros::rpc(root = node::rt)]
impl Broker {
    /// The sword of `seller` for gold of `buyer`.
    #[invoke(server, deadline = "60s")]
    async fn trade(&mut self, cx: &mut Cx<Self>, id: u64, keys: (u64, u64), price: u64) -> String {
        let (seller, buyer) = (Key(keys.0.into()), Key(keys.1.into()));
        let item = Item { kind: SWORD, holder: None, last_txn: TxnId(0), data: vec![1] };
        let plan = SagaPlan::trade(
            "trade",
            Offer::new(seller).item(ItemId(7), item),
            Offer::new(buyer).amount(GOLD, price),
        );
        told(cx.saga(SagaId(id.into()), plan).await)
    }

    /// Pays 30 for a place in the guild 1.
    #[invoke(server, deadline = "60s")]
    async fn join(&mut self, cx: &mut Cx<Self>, id: u64, who: u64, bank: u64) -> String {
        let (player, bank) = (Key(who.into()), Key(bank.into()));
        let plan = SagaPlan::new("guild join")
            .step(
                SagaStep::new("pay", SagaWork::new().send(player, GOLD, 30))
                    .undone_by(SagaWork::new().receive(player, GOLD, 30)),
            )
            .step(
                SagaStep::new("join", SagaWork::new().amend(amend(&1, &Join { who })))
                    .undone_by(SagaWork::new().amend(amend(&1, &Leave { who }))),
            )
            .step(SagaStep::new("bank", SagaWork::new().receive(bank, GOLD, 30)));
        told(cx.saga(SagaId(id.into()), plan).await)
    }

    /// As if a deal could send something off.
    #[invoke(server)]
    async fn smuggle(&mut self, cx: &mut Cx<Self>, who: u64) -> String {
        let op = LedgerOp::Send { holder: Key(who.into()), currency: GOLD, amount: 1 };
        match cx.commit(Deal::new(TxnId(1), "off").op(op)).await {
            Err(CommitError::Invalid(why)) => why,
            other => format!("{other:?}"),
        }
    }
}

fn told(end: Result<SagaEnd, SagaError>) -> String {
    match end {
        Ok(SagaEnd::Done) => "done".to_owned(),
        Ok(SagaEnd::Undone { step, why }) => format!("undone at {step}: {why}"),
        Err(error) => error.to_string(),
    }
}

fn register(host: &mut Host) {
    host.register::<Broker>();
    host.register_change::<Join>();
    host.register_change::<Leave>();
}

struct Market {
    rig: Rig,
    /// Players in shards of their own: 50 gold and the sword, 90 gold, nothing.
    keys: [u64; 3],
}

fn market() -> Market {
    said();
    AWAY.set(None);
    let mut rig = Rig::new(register, vec![Broker::KIND.id]);
    let shard = |name: &str| (name.to_owned(), Store::memory(Limits::default()));
    rig.store = Store::sharded(vec![shard("a"), shard("b"), shard("c")]).expect("they are new");
    let of =
        |shard| (1..).find(|key| rig.store.shard_of(Key(u128::from(*key))) == shard).expect("some");
    let keys: [u64; 3] = [of(0), of(1), of(2)];
    let [one, two, _] = keys.map(|key| Key(key.into()));
    let mint = |holder, amount| LedgerOp::Mint { holder, currency: GOLD, amount };
    let make = LedgerOp::Make { item: ItemId(7), kind: SWORD, holder: one, data: vec![1] };
    for (id, op) in [mint(one, 50), make, mint(two, 90)].into_iter().enumerate() {
        let generation = rig.store.generation().wait().unwrap();
        let txn = Transaction::new(TxnId(900 + id as u128), generation).with(op);
        rig.store.commit(txn).wait().unwrap();
    }
    Market { rig, keys }
}

impl Market {
    fn begin_trade(&mut self, node: usize, id: u64, price: u64) -> super::rig::Pending<String> {
        let keys = (self.keys[0], self.keys[1]);
        self.rig.begin(node, move |out| async move {
            let told = out.entity::<Broker>(id).trade(id, keys, price).await;
            told.unwrap_or_else(|error| error.to_string())
        })
    }

    fn begin_join(&mut self, node: usize, id: u64) -> super::rig::Pending<String> {
        let (who, bank) = (self.keys[1], self.keys[2]);
        self.rig.begin(node, move |out| async move {
            let told = out.entity::<Broker>(id).join(id, who, bank).await;
            told.unwrap_or_else(|error| error.to_string())
        })
    }

    /// The gold of each, and who has the sword. What is on its way is nobody's.
    fn stand(&self) -> ([u64; 3], Option<usize>) {
        let held = self.keys.map(|key| self.rig.store.holdings(Key(key.into())).wait().unwrap());
        let gold = [0, 1, 2].map(|at: usize| held[at].balances.get(&GOLD).copied().unwrap_or(0));
        (gold, held.iter().position(|held| !held.items.is_empty()))
    }

    fn members(&self) -> usize {
        let id = amend(&1, &Join { who: 0 }).record;
        let found = self.rig.store.records(vec![id]).wait().unwrap();
        let mut guild = Guild::default();
        if let Some(bytes) = &found.records[0].body {
            node::data::read_document(&mut guild, bytes).unwrap();
        }
        guild.members.len()
    }

    /// Nothing was made or lost, counting what is on its way.
    fn audit(&self) {
        let verdict = self.rig.store.verify().wait().unwrap();
        assert_eq!(verdict.faults, Vec::<String>::new());
        let of = |held: Option<&u128>, away: Option<&i128>| {
            held.map_or(0, |n| *n as i128) + away.copied().unwrap_or(0)
        };
        assert_eq!(of(verdict.currencies.get(&GOLD), verdict.transit.get(&GOLD)), 140);
        assert_eq!(of(verdict.items.get(&SWORD), verdict.items_transit.get(&SWORD)), 1);
    }
}

#[test]
fn f8_a_trade_between_two_shards_is_done_or_undone() {
    let mut market = market();
    let node = market.rig.start();
    let mut dear = market.begin_trade(node, 1, 91);
    let told = market.rig.finish(&mut dear);
    assert!(told.starts_with("undone at swap: ") && told.ends_with("91 are needed"), "{told}");
    assert_eq!(market.stand(), ([50, 90, 0], Some(0)));
    let mut trade = market.begin_trade(node, 2, 80);
    assert_eq!(market.rig.finish(&mut trade), "done");
    assert_eq!(market.stand(), ([130, 10, 0], Some(1)));
    let mut again = market.begin_trade(node, 2, 80);
    assert_eq!(market.rig.finish(&mut again), "done", "it is the same saga");
    let mut other = market.begin_trade(node, 2, 10);
    assert_eq!(market.rig.finish(&mut other), "saga 2 is another saga already");
    market.audit();
}

#[test]
fn f8_what_changes_a_record_is_undone_with_the_rest() {
    let mut market = market();
    let node = market.rig.start();
    for (id, told, members) in
        [(1, "done", 1), (2, "done", 2), (3, "undone at join: the guild is full", 2)]
    {
        let mut join = market.begin_join(node, id);
        assert_eq!(market.rig.finish(&mut join), told);
        assert_eq!(market.members(), members);
        market.audit();
    }
    assert_eq!(market.stand().0, [50, 30, 60]);
}

#[test]
fn f8_only_sagas_send_off_what_others_receive() {
    let mut market = market();
    let node = market.rig.start();
    let who = market.keys[0];
    let told =
        market.rig.call(node, move |out| async move { out.entity::<Broker>(1).smuggle(who).await });
    assert!(told.unwrap().contains("use `cx.saga`"));
    assert_eq!(market.stand().0, [50, 90, 0]);
}

#[test]
fn f8_a_saga_goes_on_whenever_its_node_is_killed() {
    let mut seen = BTreeMap::<bool, u32>::new();
    for at in 0..40 {
        let mut market = market();
        let (doomed, other) = (market.rig.start(), market.rig.start());
        let _trade = market.begin_trade(doomed, 1, 50);
        let _join = market.begin_join(doomed, 2);
        let _dear = market.begin_trade(doomed, 3, 100);
        for _ in 0..at {
            market.rig.run_for(Duration::from_millis(2));
            market.audit();
        }
        let was_done = market.stand().1 == Some(1);
        *seen.entry(was_done).or_default() += 1;
        market.rig.kill(doomed);
        market.rig.run_for(Duration::from_secs(30));
        market.audit();
        // Whoever asks again is told how it ended, or has it done now.
        let mut trade = market.begin_trade(other, 1, 50);
        let traded = market.rig.finish(&mut trade);
        let mut join = market.begin_join(other, 2);
        let joined = market.rig.finish(&mut join);
        let (mut gold, mut sword) = ([50, 90, 0], Some(0));
        if traded == "done" {
            (gold[0], gold[1], sword) = (gold[0] + 50, gold[1] - 50, Some(1));
        }
        if joined == "done" {
            (gold[1], gold[2]) = (gold[1] - 30, gold[2] + 30);
        }
        let verdict = market.rig.store.verify().wait().unwrap();
        assert_eq!((verdict.transit, verdict.items_transit), Default::default(), "killed at {at}");
        assert_eq!(market.stand(), (gold, sword), "killed at {at}: {traded}, {joined}");
        assert_eq!(market.members(), usize::from(joined == "done"));
        market.audit();
    }
    assert_eq!(seen.len(), 2, "killed only before or only after the trade: {seen:?}");
}

thread_local! {
    static AWAY: Cell<Option<u64>> = const { Cell::new(None) };
}

/// The shard of one player is away.
fn away(ask: &Ask) -> Option<Error> {
    let Ask::Record(_, RecordAsk::Commit(txn)) = ask else { return None };
    let away = AWAY.get().map(|key| Key(key.into()))?;
    let concerns = txn.ops.iter().any(|op| op.holders().any(|key| key == away));
    let is_seal = txn.slot == Some(store::Slot::of(away)) && txn.ops.is_empty();
    (concerns || is_seal).then(|| Error::Unavailable("away".to_owned()))
}

#[test]
fn f8_a_saga_waits_for_a_shard_that_is_away_also_when_its_node_is_killed() {
    for (shard, from) in (0..2).flat_map(|shard| (0..30).step_by(5).map(move |from| (shard, from)))
    {
        let mut market = market();
        market.rig.refuse = Some(away);
        let (doomed, other) = (market.rig.start(), market.rig.start());
        let _trade = market.begin_trade(doomed, 1, 80);
        market.rig.run_for(Duration::from_millis(2 * from));
        AWAY.set(Some(market.keys[shard]));
        market.rig.run_for(Duration::from_secs(20));
        market.audit();
        market.rig.kill(doomed);
        market.rig.run_for(Duration::from_secs(20));
        market.audit();
        AWAY.set(None);
        let mut again = market.begin_trade(other, 1, 80);
        assert_eq!(market.rig.finish(&mut again), "done", "shard {shard} from {from}");
        assert_eq!(market.stand(), ([130, 10, 0], Some(1)));
        market.audit();
    }
}
