use std::time::Duration;

use node::session::{Delivery, Options};
use proto::frame::{CloseCode, Status, StreamUp};

use crate::harness::{ECHO, PUSH, SLOW, World, avatar, worker};

const OWNER: u64 = 20;

/// An older server checked for repeated messages on encoded bytes, so the check never matched:
/// calls pending at a reconnect were never failed and could run twice, and the buffer of messages
/// to be sent again grew without end.
///
/// Here a call that was running when its connection broke is answered once, on whichever
/// connection the client has then, and what is kept for it is bounded.
#[test]
fn x8_calls_pending_at_a_break_are_answered_once_and_buffers_are_bounded() {
    let options = Options { held_frames_max: 8, ..Options::default() };
    let mut world = World::new(8, &options);
    let player = world.client(7, 1);
    world.login(player, 1);
    world.run();
    world.say(player, "avatar", true, SLOW, 1);
    world.run();
    world.kill(player);
    world.say(player, "avatar", true, ECHO, 2);
    world.resume(player, 2);
    world.run();
    let (slot, ..) = world.server(OWNER).fake.requests[0].clone();
    world.kill(player);
    world.run();
    world.with(worker(OWNER), |server, io| {
        server.streams.reply(io.out, slot, 1, Status::Ok, &1u64.to_le_bytes());
    });
    world.resume(player, 1);
    world.run();
    let mut answers = world.clients[player].replies.clone();
    answers.sort_unstable();
    assert_eq!(answers, [(1, Status::Ok, 1), (2, Status::Ok, 2)]);
    assert_eq!(world.server(OWNER).fake.log.len(), 2, "each ran once");

    world.kill(player);
    world.run();
    let unacked_before = world.server(OWNER).streams.stats().unacked;
    for n in 0..1_000u64 {
        world.with(worker(OWNER), |server, io| {
            server.streams.push(io.out, slot, (PUSH, Delivery::Reliable), &n.to_le_bytes());
        });
        assert!(world.server(OWNER).streams.stats().unacked <= unacked_before + 8);
    }
    world.run();
    world.assert_empty();
}

/// An older gate chose a lobby for a client once and never again, did not report clients that
/// left, and leaked their handlers.
///
/// Here the owner is chosen anew when it is lost, the entity hears of every client that comes and
/// goes, and nothing is left when all have gone.
#[test]
fn x22_lost_owners_are_chosen_again_and_leavers_leave_nothing() {
    let mut world = World::new(22, &Options::default());
    let player = world.client(7, 1);
    world.login(player, 1);
    world.run();
    world.say(player, "avatar", true, ECHO, 1);
    world.run();
    world.map.owners.insert(crate::harness::AVATAR, worker(21));
    world.node_down(worker(OWNER));
    world.run();
    // The gate could not know whether frames to the lost owner arrived: the client resumes.
    assert_eq!(world.clients[player].closed, [CloseCode::Unavailable]);
    world.resume(player, 2);
    world.run();
    world.pass(Duration::from_millis(200));
    world.say(player, "avatar", true, ECHO, 2);
    world.run();
    assert_eq!(world.clients[player].replies.last().unwrap(), &(1, Status::Ok, 2));
    assert_eq!(world.server(21).fake.log.len(), 1, "the first message came at once");

    let others: Vec<usize> = (0..20u8).map(|n| world.client(100 + u64::from(n), 100 + n)).collect();
    for (player, gate) in others.iter().zip([1, 2].into_iter().cycle()) {
        world.login(*player, gate);
    }
    world.run();
    for player in others.into_iter().chain([player]) {
        if player % 2 == 0 {
            world.logout(player);
        } else {
            world.kill(player);
        }
    }
    world.run();
    world.pass(Duration::from_secs(60));
    world.assert_empty();
    let visits = &world.server(21).fake.visits;
    let count = |what: &str| visits.iter().filter(|visit| visit.contains(what)).count();
    assert_eq!((count(" online"), count(" offline")), (21, 21), "each came and went once");
}

/// An older gate trusted the identity that a client wrote into its messages, dropped messages
/// that it could not route, and lost joins of groups that came before the handshake had ended.
///
/// Here the identity is the session's, a command without a route is answered, and whatever comes
/// before the welcome waits for it.
#[test]
fn x23_identity_is_the_sessions_and_early_joins_wait() {
    // Every order in which links may deliver, as far as 200 seeds reach.
    for seed in 0..200 {
        let mut world = World::new(seed, &Options::default());
        let player = world.client(7, 1);
        world.login(player, 1);
        let mut joined = false;
        loop {
            let streams = &world.server(OWNER).streams;
            let slot = streams.peers_of(avatar(7)).next().map(|peer| peer.slot);
            if let (false, Some(slot)) = (joined, slot) {
                joined = true;
                world.with(worker(OWNER), |server, io| {
                    let kind = proto::KindId::of("team");
                    let group = server.streams.create_group(avatar(7), kind, "team").unwrap();
                    server.streams.join(io.out, group, slot).unwrap();
                    let cast = (PUSH, Delivery::Reliable);
                    server.streams.cast(io.out, group, cast, &1u64.to_le_bytes()).unwrap();
                });
            }
            if !world.step() {
                break;
            }
        }
        let client = &world.clients[player];
        assert_eq!((client.welcomed, client.casts.len()), (1, 1), "seed {seed}");
        // The body names another account; the entity is told the session's.
        world.say(player, "avatar", true, ECHO, 8);
        world.run();
        assert_eq!(world.server(OWNER).fake.log, [(avatar(7), 7, ECHO, 8)]);
        let stray = StreamUp::Tell { number: 1, ack: 0, method: ECHO, body: &[] };
        world.send_up(player, 99, stray);
        world.run();
        assert_eq!(world.clients[player].faults, [(1, Status::NotFound)]);
    }
}

/// A home ended a session while its way to an owner was down: what it said of the stream was lost, nobody
/// said it again, and the entity had a client for ever that had long gone.
#[test]
fn a_stream_whose_end_was_told_in_vain_ends_all_the_same() {
    let mut world = World::new(5, &Options::default());
    let player = world.client(7, 1);
    let other = world.client(8, 2);
    world.login(player, 1);
    world.login(other, 1);
    world.run();
    world.kill(player);
    world.run();
    world.now += Duration::from_secs(61);
    let home = worker(10);
    world.with(home, |server, io| server.homes.handle_timeout(io));
    world.wires.remove(&(home, worker(OWNER)));
    world.run();
    let streams = |world: &mut World| world.server(OWNER).streams.stats().streams;
    assert_eq!(streams(&mut world), 2, "one of them has lost its session");
    for _ in 0..240 {
        world.pass(Duration::from_secs(1));
    }
    assert_eq!(streams(&mut world), 1);
    // The other one was asked after as well, and goes on.
    world.say(other, "avatar", true, ECHO, 1);
    world.run();
    assert_eq!(world.clients[other].replies, [(1, Status::Ok, 1)]);
    assert!(world.clients[other].closed.is_empty());
}
