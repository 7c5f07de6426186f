//! What must not be lost: items and currency through the ledger.

use std::time::Duration;

use node::data::{Ask, key_of};
use node::rt::Ref;
use node::{Entity, Host};
use store::{Error, ItemId, Of};

use crate::game::{Avatar, GOLD};
use crate::rig::{Rig, said};

const SECOND: Duration = Duration::from_secs(1);

fn register(host: &mut Host) {
    host.register::<Avatar>();
}

fn rig() -> Rig {
    said();
    Rig::new(register, vec![Avatar::KIND.id])
}

fn mint(rig: &mut Rig, node: usize, key: u64, id: u64, amount: u64) -> String {
    let call =
        rig.call(node, move |out| async move { out.entity::<Avatar>(key).mint(id, amount).await });
    call.unwrap()
}

fn forge(rig: &mut Rig, node: usize, key: u64, item: u64) -> String {
    rig.call(node, move |out| async move { out.entity::<Avatar>(key).forge(item).await }).unwrap()
}

fn train(rig: &mut Rig, node: usize, key: u64, id: u64, price: u64) -> String {
    let call =
        rig.call(node, move |out| async move { out.entity::<Avatar>(key).train(id, price).await });
    call.unwrap()
}

fn level_stored(rig: &Rig, key: u64) -> u64 {
    let key = key_of(Ref::<Avatar>::keyed(key).id());
    let stored = rig.store.load(key).wait().unwrap().unwrap();
    let mut avatar = Avatar::default();
    if let Some(bytes) = stored.documents.get("self") {
        node::data::read_document(&mut avatar, bytes).unwrap();
    }
    avatar.level
}

fn gold(rig: &Rig, key: u64) -> u64 {
    let holder = key_of(Ref::<Avatar>::keyed(key).id());
    let held = rig.store.holdings(holder).wait().unwrap();
    held.balances.get(&GOLD).copied().unwrap_or(0)
}

fn is_conserved(rig: &Rig) {
    assert_eq!(rig.store.verify().wait().unwrap().faults, Vec::<String>::new());
}

#[test]
fn a_deal_is_in_the_store_when_it_is_told() {
    let mut rig = rig();
    let node = rig.start();
    assert_eq!(mint(&mut rig, node, 1, 1, 50), "ok 50");
    rig.kill(node);
    assert_eq!(gold(&rig, 1), 50);
    is_conserved(&rig);
}

#[test]
fn the_same_deal_twice_is_done_once() {
    let mut rig = rig();
    let node = rig.start();
    assert_eq!(mint(&mut rig, node, 1, 1, 50), "ok 50");
    assert_eq!(mint(&mut rig, node, 1, 1, 50), "ok 50");
    assert_eq!(gold(&rig, 1), 50);
    let other = mint(&mut rig, node, 1, 1, 60);
    assert!(other.contains("another content"), "{other}");
}

#[test]
fn a_deal_that_the_ledger_refuses_says_why_and_does_nothing() {
    let mut rig = rig();
    let node = rig.start();
    mint(&mut rig, node, 1, 1, 5);
    let refused = train(&mut rig, node, 1, 2, 20);
    assert!(refused.ends_with("has 5 of currency 1, 20 are needed"), "{refused}");
    assert_eq!(gold(&rig, 1), 5);
    rig.run_for(2 * SECOND);
    assert_eq!(level_stored(&rig, 1), 0);
}

#[test]
fn a_payment_and_what_it_buys_are_written_together() {
    let mut rig = rig();
    let node = rig.start();
    mint(&mut rig, node, 1, 1, 50);
    assert_eq!(train(&mut rig, node, 1, 2, 20), "ok 2");
    // No second has passed: the level came with the payment.
    rig.kill(node);
    assert_eq!((gold(&rig, 1), level_stored(&rig, 1)), (30, 1));
}

#[test]
fn deals_that_write_wait_for_the_save_under_way_and_later_saves_build_on_them() {
    let mut rig = rig();
    let node = rig.start();
    mint(&mut rig, node, 1, 1, 50);
    for id in 0..5 {
        rig.call(node, |out| async move { out.entity::<Avatar>(1).rise(10).await }).unwrap();
        rig.run_for(Duration::from_millis(999));
        assert!(train(&mut rig, node, 1, 10 + id, 1).starts_with("ok"));
    }
    rig.run_for(2 * SECOND);
    assert_eq!((gold(&rig, 1), level_stored(&rig, 1)), (45, 55));
    assert_eq!(rig.troubles(node), []);
}

#[test]
fn an_unknown_outcome_is_looked_up_and_told_as_it_is() {
    let mut rig = rig();
    let node = rig.start();
    mint(&mut rig, node, 1, 1, 50);
    // Done, but the answer is lost.
    rig.lose_answers = 1;
    assert_eq!(mint(&mut rig, node, 1, 2, 7), "ok 57");
    assert_eq!(rig.asked.iter().filter(|asked| **asked == "look up").count(), 1);
    // Not done, and the answer is lost: it is done under the same id.
    rig.refuse =
        Some(|ask| matches!(ask, Ask::Commit(..)).then(|| Error::Unknown("cut".to_owned())));
    let mut call =
        rig.begin(node, |out| async move { out.entity::<Avatar>(1).mint(3, 1).await.unwrap() });
    rig.run_for(SECOND / 2);
    assert!(rig.peek(&mut call).is_none(), "nobody is told before it is known");
    rig.refuse = None;
    assert_eq!(rig.finish(&mut call), "ok 58");
    assert_eq!(gold(&rig, 1), 58);
    is_conserved(&rig);
}

#[test]
fn a_deal_that_writes_survives_a_lost_answer() {
    let mut rig = rig();
    let node = rig.start();
    mint(&mut rig, node, 1, 1, 50);
    rig.lose_answers = 1;
    assert_eq!(train(&mut rig, node, 1, 2, 20), "ok 2");
    rig.call(node, |out| async move { out.entity::<Avatar>(1).rise(4).await }).unwrap();
    rig.run_for(2 * SECOND);
    assert_eq!((gold(&rig, 1), level_stored(&rig, 1)), (30, 5));
    assert_eq!(rig.troubles(node), []);
}

#[test]
fn a_stale_owner_can_do_nothing_in_the_entitys_name() {
    let mut rig = rig();
    let (a, b) = (rig.start(), rig.start());
    mint(&mut rig, a, 1, 1, 50);
    let mut late = rig.begin(a, |out| async move { out.entity::<Avatar>(1).mint(2, 1).await });
    rig.freeze(a, true);
    rig.run_for(Duration::from_millis(1));
    rig.freeze(a, false);
    rig.cut(a, true);
    rig.run_for(8 * SECOND);
    assert_eq!(mint(&mut rig, b, 1, 3, 5), "ok 55");
    rig.cut(a, false);
    rig.run_for(2 * SECOND);
    assert_eq!(gold(&rig, 1), 55, "what was under way came too late");
    assert_ne!(rig.peek(&mut late), Some(Ok("ok 51".to_owned())));
    is_conserved(&rig);
}

#[test]
fn a_trade_between_two_nodes_is_one_transaction() {
    let mut rig = rig();
    let (a, b) = (rig.start(), rig.start());
    mint(&mut rig, a, 1, 1, 50);
    assert_eq!(forge(&mut rig, b, 2, 77), "ok 0");
    // The seller's node shows that it has the seller; the buyer's node does the deal.
    let pledge = rig.call(b, |out| async move { out.entity::<Avatar>(2).pledge().await.unwrap() });
    let pledge = pledge.expect("it has a document");
    let bought = rig.call(a, move |out| async move {
        out.entity::<Avatar>(1).buy(pledge, 77, 30).await.unwrap()
    });
    assert_eq!(bought, "ok 20");
    assert_eq!((gold(&rig, 1), gold(&rig, 2)), (20, 30));
    let item = rig.store.item(ItemId(77)).wait().unwrap().unwrap();
    assert_eq!(item.holder, Some(key_of(Ref::<Avatar>::keyed(1).id())));
    let seen = rig.call(a, |out| async move {
        let other = Ref::<Avatar>::keyed(2);
        out.entity::<Avatar>(1).gold_of(other).await.unwrap()
    });
    assert_eq!(seen, (30, 0));
    let supply = rig.store.supply(Of::Currency(GOLD)).wait().unwrap();
    assert_eq!((supply.made, supply.destroyed), (50, 0));
    is_conserved(&rig);
}

/// New World 2021: what a server believed about the other player was no longer true.
#[test]
fn a_trade_with_a_claim_that_has_ended_is_refused() {
    let mut rig = rig();
    let (a, b) = (rig.start(), rig.start());
    mint(&mut rig, a, 1, 1, 50);
    forge(&mut rig, b, 2, 77);
    let pledge = rig.call(b, |out| async move { out.entity::<Avatar>(2).pledge().await.unwrap() });
    let pledge = pledge.unwrap();
    rig.call(b, |out| async move { out.entity::<Avatar>(2).leave().await }).unwrap();
    rig.run_for(SECOND);
    let bought = rig.call(a, move |out| async move {
        out.entity::<Avatar>(1).buy(pledge, 77, 30).await.unwrap()
    });
    assert!(bought.starts_with("the claim on") && bought.ends_with("has ended"), "{bought}");
    assert_eq!((gold(&rig, 1), gold(&rig, 2)), (50, 0));
}

#[test]
fn the_store_away_fails_deals_clearly() {
    let mut rig = rig();
    let node = rig.start();
    mint(&mut rig, node, 1, 1, 50);
    rig.refuse = Some(|ask| matches!(ask, Ask::Commit(..)).then_some(Error::Busy));
    assert_eq!(mint(&mut rig, node, 1, 2, 1), "the store cannot be reached now");
    // With its documents: what the handler changed is not forgotten.
    assert_eq!(train(&mut rig, node, 1, 3, 1), "the store cannot be reached now");
    rig.refuse = None;
    assert_eq!(train(&mut rig, node, 1, 4, 1), "ok 2");
    assert_eq!((gold(&rig, 1), level_stored(&rig, 1)), (49, 1));
}

/// The first try was still under way when the second was refused, and was done after all.
#[test]
fn a_late_try_of_a_deal_that_was_refused_is_not_done() {
    let mut rig = rig();
    let node = rig.start();
    rig.refuse =
        Some(|ask| matches!(ask, Ask::Commit(..)).then(|| Error::Unknown("cut".to_owned())));
    let mut call =
        rig.begin(node, |out| async move { out.entity::<Avatar>(1).train(9, 20).await.unwrap() });
    rig.run_for(Duration::from_millis(60));
    rig.refuse = None;
    let refused = rig.finish(&mut call);
    assert!(refused.ends_with("has 0 of currency 1, 20 are needed"), "{refused}");
    // Now it could be done.
    mint(&mut rig, node, 1, 10, 50);
    let holder = key_of(Ref::<Avatar>::keyed(1).id());
    let mut late = store::Transaction::new(store::TxnId(9), 1);
    late.note = "train".to_owned();
    late = late.with(store::LedgerOp::Burn { holder, currency: GOLD, amount: 20 });
    let late = rig.store.commit(late).wait();
    assert_eq!(late, Err(Error::TxnReused(store::TxnId(9))));
    assert_eq!(gold(&rig, 1), 50);
    is_conserved(&rig);
}

/// A level was saved with the next second's changes, although the payment had failed.
#[test]
fn what_was_not_paid_is_not_saved_whatever_happens_then() {
    let mut rig = rig();
    let node = rig.start();
    mint(&mut rig, node, 1, 1, 50);
    rig.refuse = Some(|ask| matches!(ask, Ask::Commit(..)).then_some(Error::Busy));
    assert_eq!(train(&mut rig, node, 1, 2, 20), "the store cannot be reached now");
    rig.run_for(Duration::from_millis(20));
    rig.kill(node);
    assert_eq!((gold(&rig, 1), level_stored(&rig, 1)), (50, 0));
    // What changed otherwise meanwhile is not forgotten.
    rig.refuse = None;
    let other = rig.start();
    rig.run_for(8 * SECOND);
    rig.call(other, |out| async move { out.entity::<Avatar>(1).rise(10).await }).unwrap();
    rig.refuse = Some(|ask| matches!(ask, Ask::Commit(..)).then_some(Error::Busy));
    train(&mut rig, other, 1, 3, 20);
    rig.run_for(2 * SECOND);
    assert_eq!((gold(&rig, 1), level_stored(&rig, 1)), (50, 10));
}

#[test]
fn a_deal_waits_for_a_store_that_is_back_soon_and_fails_when_it_is_not() {
    let mut rig = rig();
    let node = rig.start();
    mint(&mut rig, node, 1, 1, 50);
    rig.refuse = Some(|ask| {
        matches!(ask, Ask::Commit(..)).then(|| Error::Unavailable("restarting".to_owned()))
    });
    let mut soon =
        rig.begin(node, |out| async move { out.entity::<Avatar>(1).mint(2, 1).await.unwrap() });
    rig.run_for(SECOND);
    rig.refuse = None;
    assert_eq!(rig.finish(&mut soon), "ok 51");
    rig.refuse = Some(|ask| {
        matches!(ask, Ask::Commit(..)).then(|| Error::Unavailable("restarting".to_owned()))
    });
    let before = rig.hand.now();
    assert_eq!(mint(&mut rig, node, 1, 3, 1), "the store cannot be reached now");
    let took = rig.hand.now() - before;
    assert!(took > SECOND && took < 4 * SECOND, "{took:?}");
}
