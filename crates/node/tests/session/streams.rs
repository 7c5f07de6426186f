use std::time::Duration;

use node::session::{Delivery, GroupError, Options};
use proto::frame::{CloseCode, Status, StreamUp};
use proto::link::{Check, HomeFrame, LinkFrame, Slot};
use proto::{AccountId, KindId, MethodId, Reader};

use crate::harness::{DENIED, ECHO, PUSH, SLOW, TELL, World, avatar, worker};

const OWNER: u64 = 20;
const CONFIRM: MethodId = MethodId::of("confirm");

/// One player, logged in at gate 1; gives the slot of the stream to its avatar.
fn playing(options: &Options) -> (World, usize, Slot) {
    let mut world = World::new(1, options);
    let player = world.client(7, 1);
    world.login(player, 1);
    world.run();
    let slot = slot_of(&mut world, 7);
    (world, player, slot)
}

fn slot_of(world: &mut World, account: u64) -> Slot {
    let streams = &world.server(OWNER).streams;
    let slot = streams.peers_of(avatar(account)).next().map(|peer| peer.slot);
    slot.expect("the avatar has a client")
}

fn push(world: &mut World, slot: Slot, delivery: Delivery, value: u64) {
    world.with(worker(OWNER), |server, io| {
        server.streams.push(io.out, slot, (PUSH, delivery), &value.to_le_bytes());
    });
}

#[test]
fn refused_commands_are_answered_never_dropped() {
    let (mut world, player, _) = playing(&Options::default());
    world.say(player, "avatar", false, DENIED, 1);
    world.say(player, "avatar", true, DENIED, 2);
    world.say(player, "avatar", false, TELL, 3);
    world.run();
    let client = &world.clients[player];
    assert_eq!(client.replies, [(1, Status::Denied, 0), (2, Status::Denied, 0)]);
    assert_eq!(world.server(OWNER).fake.log.len(), 1, "what follows is handled");
}

/// A refused tell was named by a frame that went out once: with the connection it was lost, and the
/// acknowledgement of the resume said that the tell was handled.
#[test]
fn a_refused_tell_is_named_also_after_a_break() {
    let (mut world, player, _) = playing(&Options::default());
    world.say(player, "avatar", false, DENIED, 1);
    while world.server(OWNER).streams.stats().refused == 0 {
        assert!(world.step(), "the tell arrives");
    }
    world.kill(player);
    world.run();
    world.resume(player, 2);
    world.run();
    assert_eq!(world.clients[player].replies, [(1, Status::Denied, 0)]);
}

#[test]
fn open_requests_are_limited_and_the_next_is_busy() {
    let (mut world, player, _) = playing(&Options { open_requests_max: 2, ..Options::default() });
    for n in 0..3 {
        world.say(player, "avatar", true, SLOW, n);
    }
    world.run();
    assert_eq!(world.clients[player].replies, [(3, Status::Busy, 0)]);
    assert_eq!(world.server(OWNER).streams.stats().open_requests, 2);
}

#[test]
fn a_second_reply_reaches_nobody() {
    let (mut world, player, slot) = playing(&Options::default());
    world.say(player, "avatar", true, SLOW, 5);
    world.run();
    for status in [Status::Ok, Status::Failed] {
        world.with(worker(OWNER), |server, io| {
            server.streams.reply(io.out, slot, 1, status, &5u64.to_le_bytes());
        });
    }
    world.run();
    assert_eq!(world.clients[player].replies, [(1, Status::Ok, 5)]);
    assert_eq!(world.server(OWNER).streams.stats().second_replies, 1);
}

#[test]
fn a_repeated_request_gets_the_first_answer_and_does_not_run_again() {
    let (mut world, player, _) = playing(&Options::default());
    for n in 0..70 {
        world.say(player, "avatar", true, ECHO, n);
        world.run();
    }
    let before = world.server(OWNER).fake.log.len();
    let stream = world.clients[player].names["avatar"];
    for number in [70, 7, 1] {
        world.clients[player].replies.clear();
        let body = &[0; 8];
        let ack = 0;
        let frame = StreamUp::Request { number, ack, method: ECHO, deadline_ms: 0, body };
        world.send_up(player, stream, frame);
        world.run();
        let expected = match number {
            1 => (1, Status::Repeated, 0),
            number => (number, Status::Ok, number - 1),
        };
        assert_eq!(world.clients[player].replies, [expected]);
    }
    assert_eq!(world.server(OWNER).fake.log.len(), before, "nothing ran twice");
    assert_eq!(world.server(OWNER).streams.stats().duplicates, 3);
}

#[test]
fn a_gap_is_closed_to_be_resumed_and_the_same_gap_again_ends_the_session() {
    let (mut world, player, _) = playing(&Options::default());
    let stream = world.clients[player].names["avatar"];
    let body = &[0; 8];
    let tell = |number| StreamUp::Tell { number, ack: 0, method: TELL, body };
    world.send_up(player, stream, tell(2));
    world.send_up(player, stream, tell(3));
    world.run();
    assert_eq!(world.clients[player].closed, [CloseCode::Unavailable]);
    assert!(world.server(OWNER).fake.log.is_empty(), "nothing is taken after a gap");
    // Sent again in order, it is as if nothing had been.
    world.resume(player, 2);
    world.run();
    (1..=3).for_each(|number| world.send_up(player, stream, tell(number)));
    world.send_up(player, stream, tell(5));
    world.run();
    assert_eq!(world.server(OWNER).fake.log.len(), 3);
    assert_eq!(world.server(OWNER).streams.stats().gaps, 2);
    // Left out twice, it is the client's fault.
    world.clients[player].crooked = true;
    world.resume(player, 1);
    world.run();
    world.send_up(player, stream, tell(5));
    world.run();
    assert_eq!(world.clients[player].closed.last(), Some(&CloseCode::Protocol));
    world.assert_empty();
}

/// Seed 13900 of the suite of clusters: after a move, what had come ahead of others was looked at once more
/// when its connection had been left, and its client was held to leave out the same command twice.
#[test]
fn what_came_ahead_of_others_is_void_with_its_connection() {
    let (mut world, player, _) = playing(&Options::default());
    let stream = world.clients[player].names["avatar"];
    world.with(worker(OWNER), |server, io| {
        let (streams, mut packed) = (&mut server.streams, Vec::new());
        streams.freeze(avatar(7));
        streams.pack(avatar(7), &mut packed);
        streams.depart(io.now, io.out, avatar(7), worker(OWNER));
        let seat = (&mut server.fake, avatar(7));
        streams.arrive(io.now, io.out, seat, avatar(7), &mut Reader::new(&packed)).unwrap();
    });
    world.run();
    let frame = StreamUp::Tell { number: 2, ack: 0, method: TELL, body: &[0; 8] };
    world.send_up(player, stream, frame);
    world.run();
    assert_eq!(world.server(OWNER).streams.stats().gaps, 0, "the first may come another way");
    world.kill(player);
    world.run();
    world.pass(Duration::from_secs(3));
    assert_eq!(world.server(OWNER).streams.stats().gaps, 0, "it is sent again by the next one");
}

/// Seed 35408 of the suite of clusters: the word that a stream was lost with its next owner came to a home that had handed
/// the session over. The next home asked for it where it had been, and was not answered for a minute.
#[test]
fn who_asks_for_a_stream_that_was_lost_with_its_next_owner_is_told() {
    let (mut world, player, slot) = playing(&Options::default());
    let (session, stream) = (world.clients[player].session, world.clients[player].names["avatar"]);
    let (home, next, account) = (world.map.home, worker(33), AccountId(7));
    let is_told = |world: &mut World| {
        let words = world.wires.remove(&(worker(OWNER), home)).unwrap_or_default();
        words.iter().any(|word| {
            matches!(LinkFrame::decode(word).unwrap().1, LinkFrame::Lost { stream: s, .. } if s == stream)
        })
    };
    world.with(worker(OWNER), |server, io| {
        server.streams.depart(io.now, io.out, avatar(7), next);
        server.streams.new_owner_away(io.out, next.node, None);
    });
    assert!(is_told(&mut world), "whoever is the home by then");
    world.with(worker(OWNER), |server, io| {
        let (generation, is_attached) = (1, true);
        let check = Check { slot, session, account, stream, generation, is_attached };
        let check = LinkFrame::Home(HomeFrame::Check(check));
        server.streams.handle_link(io, &mut server.fake, home, &check);
    });
    assert!(is_told(&mut world), "the home that asks");
}

/// A client that was told that a stream has ended heard later, from an owner that had not heard of it, how
/// far it had come on that stream, and took it for nonsense.
#[test]
fn a_stream_that_its_client_does_not_know_any_more_is_opened_anew() {
    let (mut world, player, _) = playing(&Options::default());
    world.say(player, "avatar", true, ECHO, 1);
    world.run();
    let before = world.clients[player].names["avatar"];
    world.kill(player);
    world.run();
    world.clients[player].streams.clear();
    world.clients[player].names.clear();
    world.resume(player, 2);
    world.run();
    world.pass(Duration::from_secs(1));
    world.run();
    let after = world.clients[player].names["avatar"];
    assert!(after > before, "{before} then {after}");
    world.clients[player].replies.clear();
    world.say(player, "avatar", true, ECHO, 2);
    world.run();
    assert_eq!(world.clients[player].replies, [(1, Status::Ok, 2)]);
    assert!(world.clients[player].closed.is_empty());
    assert_eq!(world.server(OWNER).streams.stats().streams, 1);
}

#[test]
fn a_stream_that_its_owner_lost_unheard_is_opened_anew_within_half_a_resume_window() {
    let (mut world, player, slot) = playing(&Options::default());
    world.pass(Duration::from_secs(1));
    world.with(worker(OWNER), |server, io| {
        let end = LinkFrame::Unbind { slot, code: CloseCode::Unavailable };
        server.streams.handle_link(io, &mut server.fake, worker(10), &end);
    });
    world.run();
    assert!(world.clients[player].names.is_empty(), "the client was told");
    world.pass(Duration::from_secs(31));
    world.run();
    world.pass(Duration::from_secs(1));
    world.run();
    world.say(player, "avatar", true, ECHO, 2);
    world.run();
    assert_eq!(world.clients[player].replies, [(1, Status::Ok, 2)]);
}

#[test]
fn acknowledging_what_was_never_sent_ends_the_session() {
    for frame in [
        StreamUp::Ack { ack: 1 },
        StreamUp::Tell { number: 1, ack: 9, method: TELL, body: &[] },
        StreamUp::Request { number: 0, ack: 0, method: ECHO, deadline_ms: 0, body: &[] },
    ] {
        let (mut world, player, _) = playing(&Options::default());
        let stream = world.clients[player].names["avatar"];
        world.send_up(player, stream, frame);
        world.run();
        assert_eq!(world.clients[player].closed, [CloseCode::Protocol], "{frame:?}");
        world.assert_empty();
    }
}

#[test]
fn acknowledgements_come_after_32_frames_or_a_second() {
    let (mut world, player, _) = playing(&Options::default());
    for n in 0..31 {
        world.say(player, "avatar", false, TELL, n);
    }
    world.run();
    assert_eq!(world.clients[player].acked_down, 0);
    world.say(player, "avatar", false, TELL, 31);
    world.run();
    assert_eq!(world.clients[player].acked_down, 1);
    world.pass(Duration::from_secs(2));
    world.say(player, "avatar", false, TELL, 32);
    world.run();
    world.pass(Duration::from_millis(999));
    assert_eq!(world.clients[player].acked_down, 1);
    world.pass(Duration::from_millis(1));
    assert_eq!(world.clients[player].acked_down, 2);
    let handle = world.clients[player].names["avatar"];
    assert!(world.clients[player].streams[&handle].out.is_empty(), "all is acknowledged");
}

#[test]
fn away_clients_keep_reliable_and_newest_values_and_miss_the_rest() {
    let (mut world, player, slot) = playing(&Options::default());
    world.kill(player);
    world.run();
    push(&mut world, slot, Delivery::Reliable, 1);
    push(&mut world, slot, Delivery::Unreliable, 2);
    push(&mut world, slot, Delivery::Latest(1), 3);
    push(&mut world, slot, Delivery::Latest(2), 4);
    push(&mut world, slot, Delivery::Latest(1), 5);
    push(&mut world, slot, Delivery::Reliable, 6);
    world.resume(player, 2);
    world.run();
    assert_eq!(world.clients[player].pushes, [1, 6, 5, 4]);
    assert_eq!(world.server(OWNER).streams.stats().dropped, 1);
    assert_eq!(
        world.server(OWNER).fake.visits,
        ["7 online", "7 away Idle", "7 online"],
        "the entity hears of it"
    );
}

#[test]
fn a_client_that_is_away_too_long_loses_its_session_not_a_message() {
    let options = Options { held_frames_max: 3, ..Options::default() };
    let (mut world, player, slot) = playing(&options);
    world.kill(player);
    world.run();
    for n in 0..3 {
        push(&mut world, slot, Delivery::Reliable, n);
    }
    world.run();
    assert_eq!(world.server(10).homes.stats().sessions, 1);
    push(&mut world, slot, Delivery::Reliable, 3);
    world.run();
    world.assert_empty();
    assert_eq!(world.server(OWNER).streams.stats().overflows, 1);
    assert_eq!(world.server(OWNER).fake.visits.last().unwrap(), "7 offline SessionLost");
    world.resume(player, 1);
    world.run();
    assert_eq!(world.clients[player].closed, [CloseCode::SessionLost]);
}

#[test]
fn a_slow_reader_is_closed_and_resumes_without_loss() {
    let options = Options { unacked_frames_max: 40, ..Options::default() };
    let (mut world, player, slot) = playing(&options);
    for n in 0..45 {
        push(&mut world, slot, Delivery::Reliable, n);
    }
    world.run();
    assert_eq!(world.clients[player].closed, [CloseCode::SlowReader]);
    world.resume(player, 1);
    world.run();
    assert_eq!(world.clients[player].pushes, (0..45).collect::<Vec<_>>());
    assert_eq!(world.server(OWNER).streams.stats().slow_readers, 1);
    assert_eq!(world.server(OWNER).fake.visits, ["7 online", "7 away SlowReader", "7 online"]);
}

#[test]
fn a_reader_that_never_catches_up_is_given_up() {
    let options = Options { unacked_frames_max: 4, ..Options::default() };
    let (mut world, player, slot) = playing(&options);
    for round in 1..=4 {
        // It reads nothing: what it is sent is lost with each connection.
        push(&mut world, slot, Delivery::Reliable, 0);
        for _ in 0..4 {
            push(&mut world, slot, Delivery::Reliable, 0);
        }
        world.clients[player].streams.clear();
        world.run();
        let codes = &world.clients[player].closed;
        let expected = if round < 4 { CloseCode::SlowReader } else { CloseCode::SessionLost };
        assert_eq!(codes.last(), Some(&expected), "round {round}");
        if round < 4 {
            world.resume(player, 1);
            world.run();
        }
    }
    world.assert_empty();
}

#[test]
fn a_full_link_to_the_gate_is_a_slow_reader_too() {
    let (mut world, player, slot) = playing(&Options::default());
    world.room = 5;
    for n in 0..9 {
        push(&mut world, slot, Delivery::Reliable, n);
    }
    world.run();
    world.room = usize::MAX;
    assert_eq!(world.clients[player].closed, [CloseCode::SlowReader]);
    world.resume(player, 2);
    world.run();
    assert_eq!(world.clients[player].pushes, (0..9).collect::<Vec<_>>());
}

#[test]
fn the_server_calls_a_client_and_waits_no_longer_than_its_deadline() {
    let (mut world, player, slot) = playing(&Options::default());
    let call = |world: &mut World, tag: u64, deadline| {
        world.with(worker(OWNER), |server, io| {
            let body = tag.to_le_bytes();
            server.streams.call(io.now, io.out, slot, (tag, CONFIRM), deadline, &body);
        });
        world.run();
    };
    call(&mut world, 1, None);
    call(&mut world, 2, Some(Duration::from_secs(5)));
    assert_eq!(world.clients[player].calls, [(1, 1, 1), (1, 2, 2)]);
    let answer =
        |call| StreamUp::Answer { number: 0, ack: 0, call, status: Status::Ok, body: b"yes" };
    world.pass(Duration::from_millis(1_999));
    assert!(world.server(OWNER).fake.answers.is_empty());
    world.pass(Duration::from_millis(1));
    assert_eq!(world.server(OWNER).fake.answers, [(1, Status::Timeout, vec![])]);
    // The late answer reaches nobody; the other call is answered once.
    for id in [1, 2, 2] {
        world.send_up(player, 1, answer(id));
    }
    world.run();
    assert_eq!(
        world.server(OWNER).fake.answers,
        [(1, Status::Timeout, vec![]), (2, Status::Ok, b"yes".to_vec())]
    );
    // A client that leaves fails its calls at once.
    call(&mut world, 3, None);
    world.logout(player);
    world.run();
    assert_eq!(world.server(OWNER).fake.answers.last().unwrap(), &(3, Status::Gone, vec![]));
    call(&mut world, 4, None);
    assert_eq!(world.server(OWNER).fake.answers.last().unwrap(), &(4, Status::Gone, vec![]));
    assert_eq!(world.server(OWNER).streams.poll_timeout(), None, "no timer is left");
    world.assert_empty();
}

#[test]
fn calls_to_one_client_are_limited() {
    let (mut world, _, slot) = playing(&Options { open_calls_max: 1, ..Options::default() });
    for tag in [1, 2] {
        world.with(worker(OWNER), |server, io| {
            server.streams.call(io.now, io.out, slot, (tag, CONFIRM), None, &[]);
        });
    }
    assert_eq!(world.server(OWNER).fake.answers, [(2, Status::Busy, vec![])]);
}

#[test]
fn an_entity_that_is_over_ends_its_streams_and_nothing_else() {
    let (mut world, player, _) = playing(&Options::default());
    world.with(worker(OWNER), |server, io| {
        server.streams.entity_gone(io.out, avatar(7), CloseCode::Goodbye, &[]);
    });
    world.run();
    assert_eq!(world.clients[player].gone, [1]);
    assert!(world.clients[player].closed.is_empty());
    assert_eq!(world.server(10).homes.stats().sessions, 1);
    world.logout(player);
    world.run();
    world.assert_empty();
}

/// An entity that nobody needed any more ended while a client came, which it did not see in time: that client had lost
/// the stream for good.
#[test]
fn a_client_of_which_an_entity_that_ends_has_not_heard_finds_it_anew() {
    let (mut world, player, _) = playing(&Options::default());
    let slot = slot_of(&mut world, 7);
    world.with(worker(OWNER), |server, io| {
        server.streams.entity_gone(io.out, avatar(7), CloseCode::Goodbye, &[slot]);
    });
    world.run();
    world.pass(Duration::from_millis(100));
    assert_eq!(world.clients[player].names["avatar"], 2);
}

#[test]
fn an_entity_that_comes_back_elsewhere_is_bound_again_under_its_name() {
    let (mut world, player, _) = playing(&Options::default());
    world.with(worker(OWNER), |server, io| {
        server.streams.entity_gone(io.out, avatar(7), CloseCode::Unavailable, &[]);
    });
    world.run();
    assert!(world.clients[player].names.is_empty());
    world.pass(Duration::from_millis(100));
    assert_eq!(world.clients[player].names["avatar"], 2, "a new life has a new handle");
    world.say(player, "avatar", true, ECHO, 4);
    world.run();
    assert_eq!(world.clients[player].replies, [(1, Status::Ok, 4)]);
}

#[test]
fn a_binding_waits_while_its_entity_is_loaded() {
    let mut world = World::new(1, &Options::default());
    world.server(OWNER).fake.loads = true;
    let player = world.client(7, 1);
    world.login(player, 1);
    world.run();
    assert!(world.clients[player].names.is_empty());
    world.with(worker(OWNER), |server, io| {
        let (streams, fake) = (&mut server.streams, &mut server.fake);
        streams.handle_activated(io.out, fake, avatar(7), Ok(avatar(7)));
    });
    world.run();
    assert_eq!(world.clients[player].names["avatar"], 1);
}

/// Two players bound to the avatar of the first, both in one group of it.
fn grouped() -> (World, [usize; 2], proto::link::GroupId) {
    let mut world = World::new(3, &Options { group_ring_frames_max: 4, ..Options::default() });
    let players = [(7, 1), (8, 2)].map(|(account, n)| world.client(account, n));
    for (player, gate) in players.into_iter().zip([1, 2]) {
        world.login(player, gate);
    }
    world.run();
    let slots = [7, 8].map(|account| slot_of(&mut world, account));
    let group = world.with(worker(OWNER), |server, io| {
        let kind = KindId::of("arena_client");
        let group = server.streams.create_group(avatar(7), kind, "team").unwrap();
        for slot in slots {
            server.streams.join(io.out, group, slot).unwrap();
            server.streams.join(io.out, group, slot).unwrap();
        }
        group
    });
    world.run();
    (world, players, group)
}

fn cast(world: &mut World, group: proto::link::GroupId, delivery: Delivery, value: u64) {
    world.with(worker(OWNER), |server, io| {
        let body = value.to_le_bytes();
        server.streams.cast(io.out, group, (PUSH, delivery), &body).unwrap();
    });
}

#[test]
fn a_cast_goes_once_to_each_gate_and_once_to_each_member() {
    let (mut world, players, group) = grouped();
    cast(&mut world, group, Delivery::Reliable, 1);
    let frames: usize = world.wires.values().map(|wire| wire.len()).sum();
    assert_eq!(frames, 2, "one for each gate");
    cast(&mut world, group, Delivery::Unreliable, 2);
    world.run();
    for player in players {
        assert_eq!(world.clients[player].casts, [(1, 1), (0, 2)]);
    }
}

#[test]
fn a_member_that_resumes_elsewhere_gets_the_reliable_casts_it_missed() {
    let (mut world, [first, second], group) = grouped();
    cast(&mut world, group, Delivery::Reliable, 1);
    world.run();
    world.kill(first);
    world.run();
    for n in 2..=4 {
        cast(&mut world, group, Delivery::Reliable, n);
    }
    cast(&mut world, group, Delivery::Unreliable, 99);
    world.resume(first, 2);
    world.run();
    cast(&mut world, group, Delivery::Reliable, 5);
    world.run();
    assert_eq!(world.clients[first].casts, [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5)]);
    assert_eq!(world.clients[first].resyncs, 0);
    assert_eq!(world.clients[second].casts.len(), 6);
    assert!(world.gates[&worker(1)].groups.is_empty(), "nothing stays at the gate it left");
}

#[test]
fn a_member_that_missed_more_than_the_ring_is_told_to_resync() {
    let (mut world, [first, _], group) = grouped();
    world.kill(first);
    world.run();
    for n in 1..=5 {
        cast(&mut world, group, Delivery::Reliable, n);
    }
    world.resume(first, 1);
    world.run();
    assert_eq!((world.clients[first].resyncs, world.clients[first].casts.len()), (1, 0));
    cast(&mut world, group, Delivery::Reliable, 6);
    world.run();
    assert_eq!(world.clients[first].casts, [(6, 6)]);
}

/// A client joined a group while it was away and missed so much of it that the ring had forgotten
/// the rest; as it had never been in the group, it took the number it was given for its start and
/// went on as if nothing had been missed.
#[test]
fn a_member_that_joined_while_it_was_away_is_told_what_it_missed() {
    let (mut world, [first, _], group) = grouped();
    let newcomer = world.client(9, 3);
    world.login(newcomer, 1);
    world.run();
    world.kill(newcomer);
    world.run();
    let slot = slot_of(&mut world, 9);
    cast(&mut world, group, Delivery::Reliable, 1);
    world.with(worker(OWNER), |server, io| server.streams.join(io.out, group, slot).unwrap());
    for n in 2..=7 {
        cast(&mut world, group, Delivery::Reliable, n);
    }
    world.resume(newcomer, 2);
    world.run();
    assert_eq!((world.clients[newcomer].resyncs, world.clients[newcomer].casts.len()), (1, 0));
    assert_eq!(world.clients[first].casts.len(), 7);
}

/// A client was taken out of a group while it was away, and never heard of it.
#[test]
fn a_member_that_was_taken_out_while_it_was_away_hears_of_it() {
    let (mut world, [first, second], group) = grouped();
    world.kill(first);
    world.run();
    let slot = slot_of(&mut world, 7);
    world.with(worker(OWNER), |server, io| server.streams.leave(io.out, group, slot).unwrap());
    world.resume(first, 2);
    world.run();
    assert!(world.clients[first].groups.is_empty());
    assert_eq!(world.clients[second].groups.len(), 1);
}

#[test]
fn a_stream_joins_no_more_groups_than_a_resume_can_name_for_it() {
    let (mut world, ..) = grouped();
    let slot = slot_of(&mut world, 7);
    let joined = world.with(worker(OWNER), |server, io| {
        let mut join = || {
            let group = server.streams.create_group(avatar(7), KindId::of("room"), "more").unwrap();
            server.streams.join(io.out, group, slot)
        };
        (0..20).map(|_| join()).take_while(Result::is_ok).count()
    });
    // It is in one already.
    assert_eq!(joined, 9);
    world.with(worker(OWNER), |server, io| {
        let group = server.streams.create_group(avatar(7), KindId::of("room"), "last").unwrap();
        let refused = server.streams.join(io.out, group, slot);
        assert_eq!(refused, Err(GroupError::Full("stream_groups_max")));
    });
}

#[test]
fn groups_end_with_their_owner_and_members_with_their_session() {
    let (mut world, [first, second], group) = grouped();
    world.logout(second);
    world.run();
    assert_eq!(world.server(OWNER).streams.groups().members(group), 1);
    world.with(worker(OWNER), |server, io| {
        server.streams.entity_gone(io.out, avatar(7), CloseCode::Goodbye, &[]);
    });
    world.run();
    assert!(world.clients[first].groups.is_empty());
    let streams = &mut world.server(OWNER).streams;
    assert_eq!((streams.stats().groups, streams.stats().memberships), (0, 0));
    world.with(worker(OWNER), |server, io| {
        let streams = &mut server.streams;
        let unknown = Err(GroupError::NotFound);
        assert_eq!(streams.cast(io.out, group, (PUSH, Delivery::Reliable), &[]), unknown);
    });
    world.logout(first);
    world.run();
    world.assert_empty();
}

#[test]
fn a_lost_gate_leaves_streams_and_groups_to_be_resumed_at_another() {
    let (mut world, [first, second], group) = grouped();
    world.node_down(worker(1));
    world.run();
    push_to(&mut world, 7, 11);
    cast(&mut world, group, Delivery::Reliable, 1);
    world.resume(first, 2);
    world.run();
    assert_eq!(world.clients[first].pushes, [11]);
    assert_eq!(world.clients[first].casts, [(1, 1)]);
    assert_eq!(world.clients[second].casts, [(1, 1)]);
}

fn push_to(world: &mut World, account: u64, value: u64) {
    let slot = slot_of(world, account);
    push(world, slot, Delivery::Reliable, value);
}

#[test]
fn a_lost_home_leaves_its_streams_for_the_next_one_and_no_longer_than_a_resume_may_take() {
    let (mut world, player, _) = playing(&Options::default());
    world.node_down(worker(10));
    world.run();
    assert_eq!(world.clients[player].closed, [CloseCode::Unavailable]);
    world.pass(Options::default().resume_window - Duration::from_secs(1));
    assert_eq!(world.server(OWNER).fake.visits.last().unwrap(), "7 online");
    world.pass(Duration::from_secs(1));
    assert_eq!(world.server(OWNER).fake.visits.last().unwrap(), "7 offline SessionLost");
    world.assert_empty();
}
