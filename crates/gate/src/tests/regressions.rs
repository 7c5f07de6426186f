//! Bugs that gates before this one had, by their numbers in the list of old mistakes.

use expect_test::expect;

use super::*;

/// X7: heartbeats were off in the build that shipped, and where they were on, a peer that was a
/// third late was cut off. They are on by default here, and only the third missed one ends it.
#[test]
fn x7_heartbeats_are_on_by_default_and_patient() {
    let options = Options::default();
    assert_eq!((options.heartbeat, options.heartbeats_missed_max), (secs(6), 3));
    let mut rig = rig();
    let player = rig.login("10.0.0.1", 7);
    // An answer to every ping, each nearly two intervals late, keeps the connection.
    for _ in 0..10 {
        rig.pass(millis(11_500));
        rig.client(player.conn, &UpFrame::Pong { token: 0 });
    }
    assert_eq!(rig.gate.stats().sessions, 1);
    rig.pass(millis(18_010));
    assert_eq!(rig.gate.stats().sessions, 0);
    assert!(rig.trace().contains("Close Idle"));
}

/// X9: a forged length made the server buffer without limit, and frames that arrived in one read
/// were thrown away but for the first. The length is judged before a byte of the frame is kept.
#[test]
fn x9_forged_length_buffers_nothing_and_many_frames_in_one_read_all_arrive() {
    let mut rig = rig();
    let player = rig.login("10.0.0.1", 7);
    let mut bytes = Vec::new();
    for number in 1..=5 {
        put_frame(&mut bytes, |out| tell(1, number, b"x").encode(out));
    }
    proto::put_varint(&mut bytes, u64::from(u32::MAX));
    bytes.extend_from_slice(&[0; 10_000]);
    rig.raw(player.conn, &bytes);
    expect![[r#"
        c0 Close Protocol frame of 4294967295 bytes is over the limit of 65536
        c0 closed
        -> Up Tell #1 add x
        -> Up Tell #2 add x
        -> Up Tell #3 add x
        -> Up Tell #4 add x
        -> Up Tell #5 add x
        -> Detached account 7 generation 1 Protocol
    "#]]
    .assert_eq(&rig.trace());
    // A length that never ends, and an empty frame, byte by byte.
    for forged in [&[0xff; 12][..], &[0]] {
        let player = rig.login("10.0.0.1", 8);
        for byte in forged {
            rig.raw(player.conn, std::slice::from_ref(byte));
        }
    }
    assert_eq!(rig.gate.stats().connections, 0);
}

/// X22: the gate chose a lobby once and never again, told nobody of clients that left, leaked a
/// handler for each, and could hold the first message until the second came.
#[test]
fn x22_nothing_is_left_after_all_clients_left() {
    let mut rig = rig();
    let players: Vec<Player> = (0..20).map(|account| rig.login("10.0.0.1", account)).collect();
    for (at, player) in players.iter().enumerate() {
        rig.join(player.conn, group(at as u32 % 3));
    }
    rig.trace();
    // The first message goes out in the turn it came in.
    rig.client(players[0].conn, &tell(1, 1, b"first"));
    expect![[r#"
        -> Up Tell #1 add first
    "#]]
    .assert_eq(&rig.trace());
    for (at, player) in players.iter().enumerate() {
        match at % 4 {
            0 => rig.client(player.conn, &UpFrame::Close { code: CloseCode::Goodbye, reason: "" }),
            1 => rig.gate.handle_closed(rig.now, player.conn),
            2 => rig.raw(player.conn, &[0]),
            _ => rig.home(&LinkFrame::Close {
                conn: player.conn,
                code: CloseCode::Kicked,
                reason: "",
            }),
        }
    }
    rig.drain();
    // The home heard of each but those it ended itself.
    let heard = rig.trace();
    assert_eq!(heard.matches("-> Logout").count(), 5);
    assert_eq!(heard.matches("-> Detached").count(), 10);
    let stats = rig.gate.stats();
    let left = [stats.connections, stats.sessions, stats.groups, stats.members, stats.routes];
    assert_eq!(left, [0; 5]);
    rig.pass(secs(120));
    assert_eq!(rig.gate.remembered(), 0);
}

/// X22: a backend chosen at login was kept when it died. The next login or resume goes where the
/// directory says then.
#[test]
fn x22_home_is_chosen_again_after_a_loss() {
    let mut rig = rig();
    let player = rig.login("10.0.0.1", 7);
    let mut other = NodeInfo::new("other", FAR);
    other.kinds = vec![SESSION_KIND];
    rig.gate.set_directory(rig.now, Arc::new(Directory::new(2, [Arc::new(other)])));
    rig.gate.handle_peer_down(rig.now, NODE);
    rig.drain();
    rig.trace();
    let conn = rig.open("10.0.0.1").unwrap();
    rig.resume(conn, &player, 2);
    // Nothing for the old home; the new one's link is being made.
    expect![[""]].assert_eq(&rig.trace());
    rig.link(
        FAR_OWNER,
        &LinkFrame::Close { conn, code: CloseCode::SessionLost, reason: "log in again" },
    );
    expect![[r#"
        c1 Close SessionLost log in again
        c1 closed
    "#]]
    .assert_eq(&rig.trace());
}

/// X23: the gate believed the identity that the client wrote into its messages, dropped what it
/// could not route, and forgot group joins that came before the end of the handshake.
#[test]
fn x23_identity_is_the_tickets_unroutable_is_told_and_early_joins_wait() {
    let mut rig = rig();
    let conn = rig.open("10.0.0.1").unwrap();
    let grant = rig.grant(7, 0);
    rig.ask(conn, &grant);
    rig.route(conn, 1, HOME);
    rig.join(conn, group(1));
    rig.cast(group(1), 4, b"before the welcome");
    rig.welcome(conn, grant.session, 7, 1);
    rig.cast(group(1), 5, b"after");
    rig.client(conn, &request(77, 1, b"account 8"));
    expect![[r#"
        -> Open c0 account 7 Ada from 10.0.0.1
        c0 Welcome generation 1 resumed false
        c0 Bound 1 avatar epoch 1
        c0 Joined arena #3
        c0 Cast #4 before the welcome
        c0 Cast #5 after
        c0 Fault { stream: 77, number: 1, status: NotFound }
    "#]]
    .assert_eq(&rig.trace());
    assert_eq!(rig.hits(Rule::Unroutable), 1);
}
