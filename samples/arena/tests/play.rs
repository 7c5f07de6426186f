//! The arena in a simulated cluster.

use std::time::Duration;

use arena::{Playing, Row};
use mainstay::proto;
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
