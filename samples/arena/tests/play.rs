//! The arena in a simulated cluster.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use arena::{Avatar, Input, Playing, Profile, Purse, Row};
use mainstay::prelude::*;
use mainstay::proto;
use mainstay::store::{LedgerOp, Transaction, TxnId};
use mainstay::testkit::{ClientError, Cluster, Event, Faults, Game, Player, method_id};

async fn enter(game: &Game, account: u64) -> (Player, Playing) {
    let player = game.client(account).await;
    let name = format!("player {account}");
    let playing = player.request("avatar", "play", &(name, 20u32)).await.unwrap();
    player.bound("arena").await;
    (player, playing)
}

fn views(events: &[Event]) -> usize {
    let view = method_id("view");
    events
        .iter()
        .filter(|event| matches!(event, Event::Push { method, .. } if *method == view))
        .count()
}

/// Clients of the last release must still be understood.
#[test]
fn the_interface_is_what_interface_lock_promises() {
    mainstay::testkit::check_interface("interface.lock", &arena::app());
}

#[mainstay::test(seed = 3)]
async fn players_share_an_arena_and_see_twenty_steps_a_second(cluster: Cluster) {
    let game = cluster.start(&arena::app());
    let (ann, a) = enter(&game, 1).await;
    let (bob, b) = enter(&game, 2).await;
    assert_ne!(a.me, b.me);
    ann.events();
    bob.events();
    game.sleep(Duration::from_secs(5)).await;
    for player in [&ann, &bob] {
        let seen = views(&player.events());
        assert!((95..=105).contains(&seen), "{seen} views in 5 s");
    }
}

#[mainstay::test(seed = 4)]
async fn a_cut_keeps_the_player_and_the_score(cluster: Cluster) {
    let game = cluster.start(&arena::app());
    let (ann, playing) = enter(&game, 1).await;
    let before: Row = ann.request("arena", "score", &()).await.unwrap();
    ann.cut();
    let after: Row = ann.request("arena", "score", &()).await.unwrap();
    assert_eq!((before.id, after.id), (playing.me, playing.me));
}

#[mainstay::test(seed = 5)]
async fn bad_names_and_arguments_are_refused(cluster: Cluster) {
    let game = cluster.start(&arena::app());
    let ann = game.client(1).await;
    let bad = ann.request::<_, Playing>("avatar", "play", &("x".repeat(17), 20u32)).await;
    assert!(matches!(bad, Err(ClientError::Refused(proto::frame::Status::BadArgument))), "{bad:?}");
    let blank = ann.request::<_, Playing>("avatar", "play", &("   ".to_owned(), 20u32)).await;
    let Err(ClientError::App(body)) = blank else { panic!("{blank:?}") };
    assert_eq!(proto::decode(&body), Ok(arena::PlayError::Name));
}

#[mainstay::test(seed = 6, faults = Faults::all())]
async fn nothing_is_left_when_all_have_gone(cluster: Cluster) {
    let game = cluster.start(&arena::app());
    let mut players = Vec::new();
    for account in 1..=6 {
        players.push(enter(&game, account).await.0);
    }
    game.sleep(Duration::from_secs(20)).await;
    game.heal();
    players.iter().for_each(Player::leave);
    game.sleep(Duration::from_secs(120)).await;
    assert_eq!(game.left(), Default::default());
}

/// What the avatar told its client it owns, newest last.
fn purses(events: &[Event]) -> Vec<Purse> {
    let purse = method_id("purse");
    let told = events.iter().filter_map(|event| match event {
        Event::Push { method, body, .. } if *method == purse => {
            Some(proto::decode::<(Purse,)>(body).unwrap().0)
        }
        _ => None,
    });
    told.collect()
}

/// Walks up and down the map in lanes until something that was picked up is owned for good.
async fn sweep(game: &Game, player: &Player) -> Purse {
    for turn in 0..400u32 {
        let (x, y) = match turn % 8 {
            0..=2 => (0, -1),
            3 | 7 => (if turn < 200 { 1 } else { -1 }, 0),
            _ => (0, 1),
        };
        let input = Input { x, y, ..Input::default() };
        player.tell("arena", "steer", &(input,)).unwrap();
        game.sleep(Duration::from_millis(if x == 0 { 1_700 } else { 250 })).await;
        if let Some(purse) = purses(&player.events()).pop() {
            return purse;
        }
    }
    panic!("nothing was picked up in ten minutes");
}

fn ledger(game: &Game, account: u64) -> Purse {
    let held = game.store().holdings(holder(Ref::<Avatar>::keyed(account))).wait().unwrap();
    let of = |kind| held.items.values().filter(|item| item.kind == kind).count() as u32;
    let coins = held.balances.get(&arena::COINS).copied().unwrap_or(0);
    Purse { coins, stars: of(arena::STAR), hats: of(arena::HAT) }
}

#[mainstay::test(seed = 7)]
async fn what_is_picked_up_is_in_the_ledger_when_it_is_told(cluster: Cluster) {
    let game = cluster.start(&arena::app());
    let (ann, _) = enter(&game, 1).await;
    let told = sweep(&game, &ann).await;
    assert!(told.coins > 0 || told.stars > 0);
    assert_eq!(ledger(&game, 1), told);
    let verdict = game.store().verify().wait().unwrap();
    assert_eq!(verdict.faults, Vec::<String>::new());
    // What was collected just before leaving arrives all the same, and the record is saved.
    ann.leave();
    game.sleep(Duration::from_secs(20)).await;
    let kept = game.store().load(holder(Ref::<Avatar>::keyed(1))).wait().unwrap().unwrap();
    assert_eq!(kept.documents.keys().collect::<Vec<_>>(), ["record", "self"]);
    let (ann, _) = enter(&game, 1).await;
    let profile: Profile = ann.request("avatar", "profile", &()).await.unwrap();
    assert_eq!((profile.name.as_str(), profile.games), ("player 1", 2));
    let purse: Purse = ann.request("avatar", "wallet.purse", &()).await.unwrap();
    assert_eq!(purse, ledger(&game, 1));
}

#[mainstay::test(seed = 8)]
async fn a_hat_is_paid_once_however_often_it_is_ordered(cluster: Cluster) {
    let game = cluster.start(&arena::app());
    let (ann, _) = enter(&game, 1).await;
    let poor = ann.request::<_, Purse>("avatar", "wallet.buy_hat", &(1u64,)).await;
    let Err(ClientError::App(body)) = poor else { panic!("{poor:?}") };
    assert_eq!(proto::decode(&body), Ok(arena::BuyError::Poor));
    let to = holder(Ref::<Avatar>::keyed(1));
    let gift = Transaction::new(TxnId(1), 1);
    let gift = gift.with(LedgerOp::Mint { holder: to, currency: arena::COINS, amount: 60 });
    game.commit(&gift).unwrap();
    for order in [1u64, 1, 2, 1] {
        let purse: Purse = ann.request("avatar", "wallet.buy_hat", &(order,)).await.unwrap();
        assert_eq!(purse, ledger(&game, 1));
    }
    let purse = ledger(&game, 1);
    assert_eq!((purse.coins, purse.hats), (10, 2));
}

/// An avatar whose deal had gone out just as the ledger went away answered nothing until that came back.
#[mainstay::test(seed = 11)]
async fn an_avatar_answers_while_nobody_knows_what_became_of_a_deal(cluster: Cluster) {
    let game = cluster.start(&arena::app());
    let (ann, _) = enter(&game, 1).await;
    let to = holder(Ref::<Avatar>::keyed(1));
    let gift = Transaction::new(TxnId(1), 1);
    game.commit(&gift.with(LedgerOp::Mint { holder: to, currency: arena::COINS, amount: 60 }))
        .unwrap();
    for node in [0, 1] {
        game.cut_store(node, true);
    }
    let hat = (1u64,);
    let mut order = pin!(ann.request::<_, Purse>("avatar", "wallet.buy_hat", &hat));
    let is_open = poll_fn(|context| Poll::Ready(order.as_mut().poll(context).is_pending()));
    assert!(is_open.await);
    for _ in 0..20 {
        let profile: Profile = ann.request("avatar", "profile", &()).await.unwrap();
        assert_eq!(profile.games, 1);
        game.sleep(Duration::from_secs(1)).await;
        let more = ann.request::<_, Purse>("avatar", "wallet.buy_hat", &(2u64,)).await;
        let Err(ClientError::App(body)) = more else { panic!("{more:?}") };
        assert_eq!(proto::decode(&body), Ok(arena::BuyError::Later));
    }
    assert!(order.await.is_err(), "nobody can know");
    for node in [0, 1] {
        game.cut_store(node, false);
    }
    game.sleep(Duration::from_secs(10)).await;
    let purse: Purse = ann.request("avatar", "wallet.buy_hat", &hat).await.unwrap();
    assert_eq!((purse.coins, purse.hats), (35, 1));
    assert_eq!(purse, ledger(&game, 1));
}

/// A second session of an account took the first one's place in the arena and saw nothing.
#[mainstay::test(seed = 9)]
async fn a_second_login_of_an_account_plays_on(cluster: Cluster) {
    let game = cluster.start(&arena::app());
    let (_first, before) = enter(&game, 1).await;
    let (second, after) = enter(&game, 1).await;
    assert_eq!(before.edge.to_bits(), after.edge.to_bits());
    game.sleep(Duration::from_secs(20)).await;
    second.events();
    game.sleep(Duration::from_secs(2)).await;
    assert!(views(&second.events()) > 30);
    assert!(second.request::<_, Row>("arena", "score", &()).await.is_ok());
}

/// An arena ended with its node: whoever played there was told nothing, and had lost score and place.
#[mainstay::test(seed = 10)]
async fn an_arena_goes_on_at_another_node_when_its_own_dies(cluster: Cluster) {
    let game = cluster.start(&arena::app());
    let (ann, playing) = enter(&game, 1).await;
    sweep(&game, &ann).await;
    ann.tell("arena", "steer", &(Input::default(),)).unwrap();
    for node in [0, 1, 0, 1] {
        // What was reached is saved by then.
        game.sleep(Duration::from_secs(3)).await;
        let before: Row = ann.request("arena", "score", &()).await.unwrap();
        assert!(before.points > 0);
        ann.events();
        game.kill_node(node, Duration::from_secs(60));
        game.sleep(Duration::from_secs(40)).await;
        ann.bound("arena").await;
        let after: Row = ann.request("arena", "score", &()).await.unwrap();
        assert_eq!((after.id, after.points), (playing.me, before.points), "node {node}");
        let events = ann.events();
        assert!(views(&events) > 200, "{} views after node {node}", views(&events));
        let is_end = |event: &&Event| matches!(event, Event::Ended { .. });
        assert_eq!(events.iter().find(is_end), None, "node {node}");
        game.sleep(Duration::from_secs(30)).await;
    }
    // Whoever comes now plays with those who went on.
    let (bob, other) = enter(&game, 2).await;
    assert_ne!(other.me, playing.me);
    for player in [&ann, &bob] {
        player.events();
        game.sleep(Duration::from_secs(3)).await;
        let seen = player.events();
        let table = |event: &Event| {
            matches!(event, Event::Cast { method, body, .. }
            if *method == method_id("table") && proto::decode::<(Vec<Row>, u32)>(body).unwrap().1 == 2)
        };
        assert!(seen.iter().any(table), "one table of both");
    }
}
