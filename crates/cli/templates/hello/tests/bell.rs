//! The game in a simulated cluster: two gates, two nodes, no network and no waiting.

use std::time::Duration;

use mainstay::testkit::{Cluster, Faults};

/// Clients of the last release must still be understood.
#[test]
fn the_interface_is_what_interface_lock_promises() {
    mainstay::testkit::check_interface("interface.lock", &hello::app());
}

#[mainstay::test(seed = 1)]
async fn the_bell_counts_for_all(cluster: Cluster) {
    let game = cluster.start(&hello::app());
    let (ann, bob) = (game.client(1).await, game.client(2).await);
    assert_eq!(ann.request::<_, u64>("bell", "ring", &()).await, Ok(1));
    assert_eq!(bob.request::<_, u64>("bell", "ring", &()).await, Ok(2));
}

#[mainstay::test(seed = 2, faults = Faults::all())]
async fn no_ring_is_lost_or_doubled(cluster: Cluster) {
    let game = cluster.start(&hello::app());
    let ann = game.client(1).await;
    for n in 1..=50 {
        assert_eq!(ann.request::<_, u64>("bell", "ring", &()).await, Ok(n));
    }
    game.heal();
    ann.leave();
    game.sleep(Duration::from_secs(90)).await;
    assert_eq!(game.left(), Default::default(), "nothing is left of a client that went");
}
