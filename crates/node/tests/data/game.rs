//! What is kept: an avatar with a bag.

use macros::{Document, Message, component, entity, rpc};
use node::data::{CommitError, Deal, Pledge};
use node::rt::{Component, Cx, Ref, This};
use store::{Currency, ItemId, ItemKind, TxnId};

use crate::rig::say;

pub const GOLD: Currency = Currency(1);
pub const SWORD: ItemKind = ItemKind(7);

#[derive(Clone, Debug, Default, PartialEq, Message)]
#[message(root = proto)]
pub struct Slot {
    pub item: u32,
    pub count: u32,
}

#[entity(root = node::rt, document)]
#[derive(Default, Document)]
#[document(root = node::rt)]
pub struct Avatar {
    #[persist(range = ..=1_000_000)]
    pub level: u64,
    #[persist(len = ..=8)]
    pub name: String,
    /// Not kept.
    pub seen: u64,
    #[persist]
    pub bag: Component<Bag>,
}

#[component(root = node::rt, of = Avatar)]
#[derive(Default, Document)]
#[document(root = node::rt)]
pub struct Bag {
    #[persist]
    pub slots: Vec<Slot>,
    #[persist]
    pub opened: u32,
}

#[rpc(root = node::rt)]
impl Avatar {
    #[invoke(server)]
    fn rise(&mut self, n: u64) -> u64 {
        self.level += n;
        self.seen += n;
        self.level
    }

    /// As `rise`, and tells the epoch of its owner.
    #[invoke(server)]
    fn climb(&mut self, cx: &mut Cx<Self>, n: u64) -> (u64, u64) {
        self.level += n;
        (self.level, cx.pledge().map_or(0, |pledge| pledge.epoch()))
    }

    #[invoke(server)]
    fn look(&mut self) -> (u64, u64) {
        (self.level, self.seen)
    }

    #[tell(server)]
    fn call_it(&mut self, name: String) {
        self.name = name;
    }

    #[invoke(server)]
    fn leave(&mut self, cx: &mut Cx<Self>) {
        cx.destroy();
    }

    #[invoke(server)]
    fn fall(&mut self) {
        self.level = 999;
        panic!("it falls");
    }

    #[invoke(server)]
    async fn ponder(&mut self, cx: &mut Cx<Self>, ms: u64) -> u64 {
        self.level += 1;
        cx.sleep(std::time::Duration::from_millis(ms)).await;
        self.level += 1;
        self.level
    }

    #[invoke(server)]
    async fn mint(&mut self, cx: &mut Cx<Self>, id: u64, amount: u64) -> String {
        let deal = Deal::new(TxnId(u128::from(id)), "mint").mint(cx.holder(), GOLD, amount);
        told(cx.commit(deal).await.map(|receipt| receipt.balances[&(cx.holder(), GOLD)]))
    }

    #[invoke(server)]
    async fn forge(&mut self, cx: &mut Cx<Self>, item: u64) -> String {
        let id = TxnId(1_000 + u128::from(item));
        let deal =
            Deal::new(id, "forge").make(ItemId(u128::from(item)), SWORD, cx.holder(), vec![1]);
        told(cx.commit(deal).await.map(|_| 0))
    }

    /// Pays for a level: the payment and the level are one.
    #[invoke(server)]
    async fn train(&mut self, cx: &mut Cx<Self>, id: u64, price: u64) -> String {
        self.level += 1;
        let deal = Deal::new(TxnId(u128::from(id)), "train").burn(cx.holder(), GOLD, price);
        let done = cx.commit_with(self, deal).await;
        if done.is_err() {
            self.level -= 1;
        }
        told(done.map(|receipt| receipt.sequence))
    }

    /// As `train`, while others go on.
    #[invoke(server, interleave)]
    async fn train_aside(this: This<Self>, cx: &mut Cx<Self>, id: u64) -> String {
        let deal = Deal::new(TxnId(u128::from(id)), "train").mint(cx.holder(), GOLD, 1);
        let done = this.with(|avatar| {
            avatar.level += 1;
            cx.commit_with(avatar, deal)
        });
        told(done.await.map(|receipt| receipt.sequence))
    }

    #[invoke(server)]
    fn pledge(&mut self, cx: &mut Cx<Self>) -> Option<Pledge> {
        cx.pledge()
    }

    /// Buys an item from the avatar `seller`, which has shown `its` pledge.
    #[invoke(server)]
    async fn buy(&mut self, cx: &mut Cx<Self>, its: Pledge, item: u64, price: u64) -> String {
        let (me, seller) = (cx.holder(), its.holder());
        let deal = Deal::new(TxnId(5_000 + u128::from(item)), "trade")
            .with(its)
            .give(ItemId(u128::from(item)), seller, me)
            .pay(me, seller, GOLD, price);
        told(cx.commit(deal).await.map(|receipt| receipt.balances[&(me, GOLD)]))
    }

    #[invoke(server)]
    async fn gold_of(&mut self, cx: &mut Cx<Self>, other: Ref<Avatar>) -> (u64, u64) {
        let held = cx.holdings(node::data::holder(other)).await.expect("it can be read");
        (held.balances.get(&GOLD).copied().unwrap_or(0), held.items.len() as u64)
    }

    #[hook]
    fn loaded(&mut self) {
        say(format!("loaded {}", self.level));
    }

    #[hook]
    fn before_save(&mut self) {
        say(format!("before save {}", self.level));
    }
}

#[rpc(root = node::rt)]
impl Bag {
    #[invoke(server)]
    fn put(&mut self, item: u32) -> u32 {
        self.slots.push(Slot { item, count: 1 });
        self.slots.len() as u32
    }
}

fn told(result: Result<u64, CommitError>) -> String {
    match result {
        Ok(value) => format!("ok {value}"),
        Err(error) => format!("{error}"),
    }
}
