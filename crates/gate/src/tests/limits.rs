//! Each limit of the edge, one test each.

use expect_test::{Expect, expect};

use super::*;
use crate::{Banned, Network, OverRate, Rate};
use proto::frame::Status;

fn check(rig: &mut Rig, expected: Expect) {
    expected.assert_eq(&rig.trace());
}

#[test]
fn connections_in_total() {
    let mut rig = rig_with(|options| options.connections_max = 2);
    rig.open("10.0.0.1").unwrap();
    let second = rig.open("10.0.0.2").unwrap();
    assert_eq!(rig.open("10.0.0.3").unwrap_err().rule, Rule::Connections);
    rig.gate.handle_closed(rig.now, second);
    rig.open("10.0.0.3").unwrap();
    assert_eq!(rig.hits(Rule::Connections), 1);
}

#[test]
fn connections_of_one_address() {
    let mut rig = rig_with(|options| options.connections_per_address_max = 2);
    let first = rig.open("10.0.0.1").unwrap();
    rig.open("::ffff:10.0.0.1").unwrap();
    assert_eq!(rig.open("10.0.0.1").unwrap_err().rule, Rule::AddressConnections);
    rig.open("10.0.0.2").unwrap();
    rig.gate.handle_closed(rig.now, first);
    rig.open("10.0.0.1").unwrap();
    // A proxy may stand on the loopback.
    for _ in 0..10 {
        rig.open("127.0.0.1").unwrap();
    }
}

#[test]
fn handshakes_of_one_network() {
    let mut rig = rig_with(|options| options.handshakes_per_network = Rate::new(1, 3));
    for last in 1..=3 {
        rig.open(&format!("10.0.0.{last}")).unwrap();
    }
    assert_eq!(rig.open("10.0.0.4").unwrap_err().rule, Rule::NetworkHandshakes);
    // A flood from one network does not touch the next.
    rig.open("10.0.1.4").unwrap();
    for last in 1..=3 {
        rig.open(&format!("2001:db8:1:1::{last}")).unwrap();
    }
    assert_eq!(rig.open("2001:db8:1:1:ffff::1").unwrap_err().rule, Rule::NetworkHandshakes);
    rig.open("2001:db8:1:2::1").unwrap();
    rig.pass(secs(1));
    rig.open("10.0.0.4").unwrap();
    assert_eq!(rig.hits(Rule::NetworkHandshakes), 2);
    rig.pass(secs(60));
    assert_eq!(rig.gate.remembered(), 0);
}

#[test]
fn logins_of_one_account() {
    let mut rig = rig_with(|options| options.logins_per_account = Rate::new(1, 2));
    for _ in 0..3 {
        let conn = rig.open("10.0.0.1").unwrap();
        let grant = rig.grant(7, 0);
        rig.ask(conn, &grant);
    }
    check(
        &mut rig,
        expect![[r#"
        -> Open c0 account 7 Ada from 10.0.0.1
        -> Open c1 account 7 Ada from 10.0.0.1
        c2 Close Limit too many logins of this account
        c2 closed
    "#]],
    );
    assert_eq!(rig.hits(Rule::AccountLogins), 1);
}

/// A client that tried out what it may not call was answered `Denied` for as long as it liked.
#[test]
fn a21_calls_that_are_denied_count_towards_a_ban() {
    let mut rig = rig_with(|options| {
        options.denied = Rate::new(1, 3);
        options.denied_ban = secs(60);
    });
    let player = rig.login("10.0.0.1", 7);
    let other = rig.login("10.0.0.2", 8);
    let answer = |rig: &mut Rig, conn, number, status, body: &'static [u8]| {
        let (stream, ack, request) = (1, number, number);
        let frame = DownFrame::Reply { stream, number, ack, request, status, body };
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        rig.home(&LinkFrame::Down { conn, frame: &bytes });
    };
    // Other answers, and what only looks alike, do not count.
    for number in 1..=10 {
        answer(&mut rig, player.conn, number, Status::Ok, &[6]);
        answer(&mut rig, player.conn, number, Status::Busy, b"");
        answer(&mut rig, other.conn, number, Status::BadArgument, b"");
    }
    for number in 11..=13 {
        answer(&mut rig, player.conn, number, Status::Denied, b"");
    }
    assert_eq!(rig.hits(Rule::Denied), 0);
    // The next is one too many.
    answer(&mut rig, player.conn, 14, Status::Denied, b"");
    rig.drain();
    assert_eq!(rig.hits(Rule::Denied), 1);
    let trace = rig.trace();
    assert!(trace.contains("c0 Close Kicked banned") && !trace.contains("c1 Close"), "{trace}");
    let conn = rig.open("10.0.0.3").unwrap();
    rig.resume(conn, &player, 2);
    assert!(rig.trace().contains("Close Kicked banned"));
    rig.pass(secs(61));
    let conn = rig.open("10.0.0.3").unwrap();
    rig.resume(conn, &player, 2);
    assert!(rig.trace().contains("-> Resume"));
}

#[test]
fn bans_hold_for_addresses_and_accounts() {
    let mut rig = rig();
    let player = rig.login("10.0.0.1", 7);
    let other = rig.login("10.0.9.1", 8);
    let network = Banned::Network(Network::new("10.0.0.0".parse().unwrap(), 24));
    assert!(rig.gate.ban(rig.now, network, secs(60)));
    assert!(rig.gate.ban(rig.now, Banned::Account(AccountId(8)), secs(60)));
    rig.drain();
    check(
        &mut rig,
        expect![[r#"
        c0 Close Kicked banned
        c1 Close Kicked banned
        c0 closed
        c1 closed
        -> Detached account 7 generation 1 Kicked
        -> Detached account 8 generation 1 Kicked
    "#]],
    );
    assert_eq!(rig.open("10.0.0.77").unwrap_err().rule, Rule::Banned);
    let conn = rig.open("10.0.9.1").unwrap();
    rig.resume(conn, &other, 2);
    check(
        &mut rig,
        expect![[r#"
        c1 Close Kicked banned
        c1 closed
    "#]],
    );
    assert!(rig.gate.lift_ban(network));
    let conn = rig.open("10.0.0.1").unwrap();
    rig.resume(conn, &player, 2);
    check(
        &mut rig,
        expect![[r#"
        -> Resume c1 account 7 generation 2 [(1, 5)]
    "#]],
    );
}

#[test]
fn places_for_operators() {
    let mut rig = rig_with(|options| {
        options.connections_max = 3;
        options.operator_places = 2;
    });
    for (account, level) in [(1, 0), (2, 0), (3, 200)] {
        let conn = rig.open("10.0.0.1").unwrap();
        let grant = rig.grant(account, level);
        rig.ask(conn, &grant);
    }
    check(
        &mut rig,
        expect![[r#"
        -> Open c0 account 1 Ada from 10.0.0.1
        c1 Close Limit this server is full
        c1 closed
        -> Open c1 account 3 Ada from 10.0.0.1
    "#]],
    );
    assert_eq!(rig.hits(Rule::OperatorPlaces), 1);
}

#[test]
fn first_frame_and_login_within_five_seconds() {
    let mut rig = rig();
    rig.open("10.0.0.1").unwrap();
    let slow = rig.open("10.0.0.2").unwrap();
    rig.pass(millis(4_900));
    rig.hello(slow);
    check(&mut rig, expect![[""]]);
    rig.pass(millis(110));
    check(
        &mut rig,
        expect![[r#"
        c0 Close SlowSender no login in time
        c1 Close SlowSender no login in time
        c0 closed
        c1 closed
    "#]],
    );
    assert_eq!(rig.hits(Rule::HandshakeTime), 2);
}

#[test]
fn frame_bytes_before_and_after_login() {
    let mut rig = rig();
    let conn = rig.open("10.0.0.1").unwrap();
    let mut head = Vec::new();
    proto::put_varint(&mut head, 4097);
    rig.raw(conn, &head);
    let player = rig.login("10.0.0.2", 7);
    rig.client(player.conn, &tell(1, 1, &[0; 60_000]));
    head.clear();
    proto::put_varint(&mut head, 65_537);
    rig.raw(player.conn, &head);
    check(
        &mut rig,
        expect![[r#"
        -> Up Tell #1 add 60000 bytes
        c0 Close Protocol frame of 65537 bytes is over the limit of 65536
        c0 closed
        -> Detached account 7 generation 1 Protocol
    "#]],
    );
    assert_eq!(rig.hits(Rule::FrameBytes), 2);
}

#[test]
fn output_before_login() {
    let mut rig = rig();
    let conn = rig.open("10.0.0.1").unwrap();
    rig.is_reading = false;
    for _ in 0..1_500 {
        rig.client(conn, &UpFrame::Ping { token: 1 });
    }
    assert_eq!(rig.hits(Rule::OutputBeforeLogin), 1);
    rig.is_reading = true;
    rig.pass(secs(1));
    check(
        &mut rig,
        expect![[r#"
        c0 Close SlowReader reads too slowly
        c0 closed
    "#]],
    );
}

#[test]
fn frames_held_before_the_welcome() {
    let mut rig = rig();
    let conn = rig.open("10.0.0.1").unwrap();
    let grant = rig.grant(7, 0);
    rig.ask(conn, &grant);
    for number in 1..=70 {
        rig.push(conn, number, 1, &[0; 1_000]);
    }
    check(
        &mut rig,
        expect![[r#"
        -> Open c0 account 7 Ada from 10.0.0.1
        c0 Close Limit too much came before the login was done
        c0 closed
        -> Detached account 7 generation 1 Limit
    "#]],
    );
    assert_eq!(rig.hits(Rule::Held), 1);
}

#[test]
fn slow_sender() {
    let mut rig = rig();
    let dripping = rig.login("10.0.0.1", 7);
    let fast = rig.login("10.0.0.2", 8);
    let mut frame = Vec::new();
    put_frame(&mut frame, |out| tell(1, 1, &[3; 20_000]).encode(out));
    let mut sent = 0;
    // One drips ten bytes a second, the other sends two kilobytes a second.
    for second in 0..15 {
        if rig.hits(Rule::SlowSender) == 0 {
            rig.raw(dripping.conn, &frame[second * 10..][..10]);
        }
        let next = (sent + 2_000).min(frame.len());
        rig.raw(fast.conn, &frame[sent..next]);
        sent = next;
        rig.pass(secs(1));
    }
    check(
        &mut rig,
        expect![[r#"
        c0 Close SlowSender a frame comes too slowly
        c0 closed
        -> Detached account 7 generation 1 SlowSender
        -> Up Tell #1 add 20000 bytes
    "#]],
    );
    assert_eq!(rig.hits(Rule::SlowSender), 1);
}

#[test]
fn slow_reader_is_thinned_then_closed() {
    let mut rig = rig();
    let player = rig.login("10.0.0.1", 7);
    rig.is_reading = false;
    // What may be lost is merged for ever...
    for round in 0..2_000u32 {
        rig.push(player.conn, 0, round % 3, &[round as u8; 1_000]);
    }
    assert!(rig.hits(Rule::Merged) > 1_900, "{}", rig.hits(Rule::Merged));
    assert_eq!(rig.hits(Rule::SlowReader), 0);
    let queued = rig.gate.connections(1)[0].queued_bytes;
    assert!(queued <= Options::default().output_bytes_thin * 2, "{queued}");
    // ...and what is numbered is kept until the limit.
    let mut number = 0;
    while rig.hits(Rule::SlowReader) == 0 {
        number += 1;
        rig.push(player.conn, number, 1, &[1; 1_000]);
        assert!(number < 400);
    }
    assert!(number > 150, "{number}");
    rig.is_reading = true;
    rig.drain();
    rig.pass(secs(1));
    check(
        &mut rig,
        expect![[r#"
        -> Detached account 7 generation 1 SlowReader
        c0 Close SlowReader reads too slowly
        c0 closed
    "#]],
    );
}

#[test]
fn silent_client_is_pinged_then_closed() {
    let mut rig = rig();
    let silent = rig.login("10.0.0.1", 7);
    let busy = rig.login("10.0.0.2", 8);
    let own = format!("c{} ", silent.conn.index);
    let mut trace = String::new();
    for second in 1..=30 {
        rig.pass(millis(990));
        rig.client(busy.conn, &tell(1, 0, b""));
        rig.pass(millis(10));
        let lines = rig.trace();
        for line in
            lines.lines().filter(|line| line.starts_with(&own) || line.contains("account 7"))
        {
            trace += &format!("{second}s {line}\n");
        }
    }
    expect![[r#"
        6s c0 Ping { token: 1 }
        12s c0 Ping { token: 2 }
        18s c0 Close Idle silent for too long
        18s c0 closed
        18s -> Detached account 7 generation 1 Idle
    "#]]
    .assert_eq(&trace);
    assert_eq!(rig.gate.stats().sessions, 1, "the busy one was not cut off");
}

#[test]
fn idle_limit_without_heartbeats() {
    let mut rig = rig_with(|options| options.heartbeat = Duration::ZERO);
    rig.login("10.0.0.1", 7);
    rig.pass(millis(59_900));
    check(&mut rig, expect![[""]]);
    rig.pass(millis(200));
    check(
        &mut rig,
        expect![[r#"
        c0 Close Idle silent for too long
        c0 closed
        -> Detached account 7 generation 1 Idle
    "#]],
    );
    assert_eq!(rig.hits(Rule::Silent), 1);
}

#[test]
fn rates_by_policy() {
    for (over_rate, expected) in [
        (
            OverRate::Thin,
            expect![[r#"
            -> Up Tell #1 add 
            -> Up Tell #0 add 
            -> Up Tell #2 add 
            -> Up Tell #3 add 
            -> Up Tell #4 add 
            messages 5 thinned 3"#]],
        ),
        (
            OverRate::Warn,
            expect![[r#"
            -> Up Tell #1 add 
            -> Up Tell #0 add 
            -> Up Tell #2 add 
            -> Up Tell #0 add 
            -> Up Tell #3 add 
            -> Up Tell #0 add 
            -> Up Tell #4 add 
            -> Up Tell #0 add 
            messages 5 thinned 0"#]],
        ),
        (
            OverRate::Close,
            expect![[r#"
            -> Up Tell #1 add 
            -> Up Tell #0 add 
            -> Up Tell #2 add 
            c0 Close Limit too many messages
            c0 closed
            -> Detached account 7 generation 1 Limit
            messages 1 thinned 0"#]],
        ),
    ] {
        let mut rig = rig_with(|options| {
            options.messages = Rate::new(1, 3);
            options.over_rate = over_rate;
        });
        let player = rig.login("10.0.0.1", 7);
        for number in 1..=4 {
            rig.client(player.conn, &tell(1, number, b""));
            rig.client(player.conn, &tell(1, 0, b""));
        }
        let hits = rig.hits(Rule::Messages);
        let thinned = rig.hits(Rule::Thinned);
        expected.assert_eq(&format!("{}messages {hits} thinned {thinned}", rig.trace()));
    }
}

#[test]
fn numbered_frames_far_over_the_rate_close() {
    let mut rig = rig_with(|options| options.bytes = Rate::new(100, 1_000));
    let player = rig.login("10.0.0.1", 7);
    for number in 1..=20 {
        rig.client(player.conn, &tell(1, number, &[0; 500]));
    }
    check(
        &mut rig,
        expect![[r#"
        -> Up Tell #1 add 500 bytes
        -> Up Tell #2 add 500 bytes
        -> Up Tell #3 add 500 bytes
        -> Up Tell #4 add 500 bytes
        -> Up Tell #5 add 500 bytes
        -> Up Tell #6 add 500 bytes
        -> Up Tell #7 add 500 bytes
        c0 Close Limit too many messages
        c0 closed
        -> Detached account 7 generation 1 Limit
    "#]],
    );
    assert!(rig.hits(Rule::Bytes) > 0);
}

#[test]
fn pings_count_as_messages() {
    let mut rig = rig_with(|options| options.messages = Rate::new(1, 3));
    let player = rig.login("10.0.0.1", 7);
    for _ in 0..40 {
        rig.client(player.conn, &UpFrame::Ping { token: 1 });
    }
    assert!(rig.trace().ends_with(
        "c0 Close Limit too many messages\nc0 closed\n-> Detached account 7 generation 1 Limit\n"
    ));
}

#[test]
fn streams_and_groups_of_a_session() {
    let mut rig = rig_with(|options| {
        options.streams_max = 3;
        options.groups_max = 2;
    });
    let player = rig.login("10.0.0.1", 7);
    rig.route(player.conn, 2, HOME);
    rig.route(player.conn, 3, HOME);
    // An ended stream makes room.
    let code = CloseCode::Goodbye;
    rig.home(&LinkFrame::Unroute { conn: player.conn, stream: 2, code });
    rig.route(player.conn, 4, HOME);
    rig.trace();
    rig.route(player.conn, 5, HOME);
    check(
        &mut rig,
        expect![[r#"
        c0 Close Limit the session has too many streams
        c0 closed
        -> Detached account 7 generation 1 Limit
    "#]],
    );
    let player = rig.login("10.0.0.1", 8);
    for index in 1..=3 {
        rig.join(player.conn, group(index));
    }
    check(
        &mut rig,
        expect![[r#"
        c0 Joined arena #3
        c0 Joined arena #3
        c0 Close Limit the session is in too many groups
        c0 closed
        -> Detached account 8 generation 1 Limit
    "#]],
    );
    assert_eq!((rig.hits(Rule::Streams), rig.hits(Rule::Groups)), (1, 1));
}

#[test]
fn damaged_bytes_never_panic_and_nothing_piles_up() {
    let mut random = Random::from_seed(11);
    let mut good = Vec::new();
    for number in 1..=4 {
        put_frame(&mut good, |out| tell(1, number, b"body").encode(out));
        put_frame(&mut good, |out| request(1, number, &[3; 90]).encode(out));
        put_frame(&mut good, |out| UpFrame::Ping { token: number }.encode(out));
        let ack = StreamUp::Ack { ack: number };
        put_frame(&mut good, |out| UpFrame::Stream { stream: 9, frame: ack }.encode(out));
    }
    let mut rig = rig_with(|options| options.logins_per_account = Rate::UNLIMITED);
    for round in 0..3_000 {
        let conn = if round % 2 == 0 {
            rig.login("127.0.0.1", round).conn
        } else {
            rig.open("127.0.0.1").unwrap()
        };
        let mut bytes = good.clone();
        for _ in 0..random.below(6) {
            let at = random.index(bytes.len());
            match random.below(3) {
                0 => bytes[at] = random.u32() as u8,
                1 => drop(bytes.drain(at..)),
                _ => bytes.insert(at, random.u32() as u8),
            }
            if bytes.is_empty() {
                break;
            }
        }
        for part in bytes.chunks(1 + random.index(bytes.len() + 1)) {
            rig.gate.handle_bytes(rig.now, rig.wall, conn, part);
        }
        // Links are read by machines of ours, yet garbage must not hurt there either.
        rig.gate.handle_link(rig.now, rig.wall, HOME, &bytes);
        rig.drain_unread();
        rig.gate.handle_closed(rig.now, conn);
    }
    rig.drain_unread();
    let stats = rig.gate.stats();
    assert_eq!([stats.connections, stats.sessions, stats.groups, stats.routes], [0; 4]);
    assert!(rig.hits(Rule::Protocol) > 500, "{}", rig.hits(Rule::Protocol));
}
