use expect_test::{Expect, expect};

use super::*;

fn check(rig: &mut Rig, expected: Expect) {
    expected.assert_eq(&rig.trace());
}

#[test]
fn login_binds_streams_after_the_welcome() {
    let mut rig = rig();
    let conn = rig.open("10.0.0.1").unwrap();
    let grant = rig.grant(7, 0);
    rig.ask(conn, &grant);
    // Owners may be faster than the home.
    rig.route(conn, 1, HOME);
    rig.push(conn, 1, 1, b"hi");
    check(
        &mut rig,
        expect![[r#"
        -> Open c0 account 7 Ada from 10.0.0.1
    "#]],
    );
    rig.welcome(conn, grant.session, 7, 1);
    rig.push(conn, 2, 1, b"again");
    rig.client(conn, &tell(1, 1, b"x"));
    check(
        &mut rig,
        expect![[r#"
        c0 Welcome generation 1 resumed false
        c0 Bound 1 avatar epoch 1
        c0 Push 1 #1 hi
        c0 Push 1 #2 again
        -> Up Tell #1 add x
    "#]],
    );
    assert_eq!((rig.gate.stats().sessions, rig.gate.stats().waiting), (1, 0));
}

#[test]
fn goodbye_logs_out_and_leaves_nothing() {
    let mut rig = rig();
    let player = rig.login("10.0.0.1", 7);
    rig.client(player.conn, &UpFrame::Close { code: CloseCode::Goodbye, reason: "" });
    check(
        &mut rig,
        expect![[r#"
        c0 Close Goodbye 
        c0 closed
        -> Logout account 7 generation 1
    "#]],
    );
    assert_eq!(rig.gate.stats().connections, 0);
}

#[test]
fn broken_connection_detaches() {
    let mut rig = rig();
    let player = rig.login("10.0.0.1", 7);
    rig.gate.handle_closed(rig.now, player.conn);
    rig.drain();
    check(
        &mut rig,
        expect![[r#"
        -> Detached account 7 generation 1 GoingAway
    "#]],
    );
    assert_eq!(rig.gate.stats().connections, 0);
}

#[test]
fn client_that_leaves_before_its_welcome_is_detached() {
    let mut rig = rig();
    let conn = rig.open("10.0.0.1").unwrap();
    let grant = rig.grant(7, 0);
    rig.ask(conn, &grant);
    rig.gate.handle_closed(rig.now, conn);
    rig.drain();
    // The answer finds nobody; the home hears it once more.
    rig.welcome(conn, grant.session, 7, 1);
    check(
        &mut rig,
        expect![[r#"
        -> Open c0 account 7 Ada from 10.0.0.1
        -> Detached account 7 generation 1 GoingAway
        -> Detached account 7 generation 1 GoingAway
    "#]],
    );
    assert_eq!(rig.hits(Rule::Stale), 1);
}

#[test]
fn resume_goes_to_the_home_with_what_was_seen() {
    let mut rig = rig();
    let player = rig.login("10.0.0.1", 7);
    rig.gate.handle_closed(rig.now, player.conn);
    rig.drain();
    rig.trace();
    rig.pass(secs(30));
    let conn = rig.open("10.0.0.2").unwrap();
    rig.resume(conn, &player, 2);
    rig.welcome(conn, player.session, 7, 2);
    rig.route(conn, 1, HOME);
    rig.client(conn, &tell(1, 6, b"next"));
    check(
        &mut rig,
        expect![[r#"
        -> Resume c0 account 7 generation 2 [(1, 5)]
        c0 Welcome generation 2 resumed true
        c0 Bound 1 avatar epoch 1
        -> Up Tell #6 add next
    "#]],
    );
    assert_eq!((rig.gate.stats().logins, rig.gate.stats().resumes), (1, 1));
}

#[test]
fn resume_refused_by_the_home_closes_for_good() {
    let mut rig = rig();
    let player = rig.login("10.0.0.1", 7);
    let conn = rig.open("10.0.0.2").unwrap();
    rig.resume(conn, &player, 2);
    rig.home(&LinkFrame::Close { conn, code: CloseCode::SessionLost, reason: "too late" });
    check(
        &mut rig,
        expect![[r#"
        -> Resume c1 account 7 generation 2 [(1, 5)]
        c1 Close SessionLost too late
        c1 closed
    "#]],
    );
}

#[test]
fn superseded_connection_is_closed_by_the_home_alone() {
    let mut rig = rig();
    let player = rig.login("10.0.0.1", 7);
    let code = CloseCode::Replaced;
    rig.home(&LinkFrame::Close { conn: player.conn, code, reason: "you came back elsewhere" });
    check(
        &mut rig,
        expect![[r#"
        c0 Close Replaced you came back elsewhere
        c0 closed
    "#]],
    );
}

#[test]
fn close_by_an_owner_that_may_be_resumed_reaches_the_home() {
    let mut rig = rig();
    let player = rig.login("10.0.0.1", 7);
    let code = CloseCode::SlowReader;
    rig.home(&LinkFrame::Close { conn: player.conn, code, reason: "" });
    check(
        &mut rig,
        expect![[r#"
        c0 Close SlowReader 
        c0 closed
        -> Detached account 7 generation 1 SlowReader
    "#]],
    );
}

#[test]
fn kick_during_login_is_carried_through() {
    let mut rig = rig();
    let conn = rig.open("10.0.0.1").unwrap();
    let grant = rig.grant(7, 0);
    rig.ask(conn, &grant);
    rig.home(&LinkFrame::Close { conn, code: CloseCode::Kicked, reason: "cheater" });
    check(
        &mut rig,
        expect![[r#"
        -> Open c0 account 7 Ada from 10.0.0.1
        c0 Close Kicked cheater
        c0 closed
    "#]],
    );
    assert_eq!(rig.gate.stats().connections, 0);
}

#[test]
fn home_that_does_not_answer_is_not_waited_for() {
    let mut rig = rig();
    let conn = rig.open("10.0.0.1").unwrap();
    let grant = rig.grant(7, 0);
    rig.ask(conn, &grant);
    rig.pass(secs(5));
    check(
        &mut rig,
        expect![[r#"
        -> Open c0 account 7 Ada from 10.0.0.1
        c0 Close Unavailable the session's home does not answer
        c0 closed
        -> Detached account 7 generation 1 Unavailable
    "#]],
    );
    assert_eq!(rig.hits(Rule::HomeWait), 1);
}

#[test]
fn no_node_with_sessions_is_said_at_once() {
    let mut rig = rig();
    rig.gate.set_directory(rig.now, Arc::new(Directory::default()));
    let conn = rig.open("10.0.0.1").unwrap();
    let grant = rig.grant(7, 0);
    rig.ask(conn, &grant);
    check(
        &mut rig,
        expect![[r#"
        c0 Close Unavailable no node serves sessions
        c0 closed
    "#]],
    );
}

#[test]
fn bad_tickets_never_reach_a_home() {
    let mut rig = rig();
    let good = rig.grant(7, 0);
    let foreign = TicketKeys::new(vec![(1, [8; 32])]).issue(
        &mut Random::from_seed(9),
        Claims {
            account: AccountId(7),
            level: 9,
            name: "Eve".into(),
            issued: rig.wall,
            expires: WallTime(rig.wall.0 + 60_000),
        },
    );
    let other = rig.grant(8, 0);
    let cases: [(&str, &[u8], [u8; 32]); 5] = [
        ("none", b"", good.secret),
        ("foreign", &foreign.ticket, foreign.secret),
        ("stolen: without its secret", &good.ticket, other.secret),
        ("cut", &good.ticket[..good.ticket.len() - 1], good.secret),
        ("expired", &good.ticket, good.secret),
    ];
    let mut trace = String::new();
    for (name, ticket, secret) in cases {
        if name == "expired" {
            rig.pass(secs(61));
        }
        let conn = rig.open("10.0.0.1").unwrap();
        let nonce = rig.hello(conn);
        let proof = login_proof(&secret, &nonce, ticket);
        rig.client(conn, &UpFrame::Login { ticket, proof });
        trace += &format!("{name}: {}", rig.trace());
    }
    expect![[r#"
        none: c0 Close Ticket ticket is missing
        c0 closed
        foreign: c0 Close Ticket ticket is not from this cluster, or was changed
        c0 closed
        stolen: without its secret: c0 Close Ticket the proof does not fit the ticket
        c0 closed
        cut: c0 Close Ticket ticket is not from this cluster, or was changed
        c0 closed
        expired: c0 Close Ticket ticket has expired: get a new one
        c0 closed
    "#]]
    .assert_eq(&trace);
    assert_eq!(rig.hits(Rule::Ticket), 5);
}

#[test]
fn proof_of_one_connection_is_no_use_on_another() {
    let mut rig = rig();
    let grant = rig.grant(7, 0);
    let first = rig.open("10.0.0.1").unwrap();
    let nonce = rig.hello(first);
    let proof = login_proof(&grant.secret, &nonce, &grant.ticket);
    let second = rig.open("10.0.0.1").unwrap();
    rig.hello(second);
    rig.client(second, &UpFrame::Login { ticket: &grant.ticket, proof });
    check(
        &mut rig,
        expect![[r#"
        c1 Close Ticket the proof does not fit the ticket
        c1 closed
    "#]],
    );
}

#[test]
fn stolen_resume_token_is_useless_without_the_key() {
    let mut rig = rig();
    let mut player = rig.login("10.0.0.1", 7);
    player.secret = [0; 32];
    let conn = rig.open("10.0.0.2").unwrap();
    rig.resume(conn, &player, 2);
    check(
        &mut rig,
        expect![[r#"
        c1 Close Ticket the proof does not fit the token
        c1 closed
    "#]],
    );
    // A resume token is no ticket either.
    let conn = rig.open("10.0.0.2").unwrap();
    let nonce = rig.hello(conn);
    let proof = login_proof(&player.secret, &nonce, &player.token);
    rig.client(conn, &UpFrame::Login { ticket: &player.token, proof });
    check(
        &mut rig,
        expect![[r#"
        c1 Close Ticket tickets, resume tokens and passes do not stand for each other
        c1 closed
    "#]],
    );
}

#[test]
fn frames_out_of_order_close_with_protocol() {
    let mut rig = rig();
    let grant = rig.grant(7, 0);
    let login = UpFrame::Login { ticket: &grant.ticket, proof: [0; 32] };
    let hello = UpFrame::Hello { version: VERSION, features: 0, interface: 0, agent: "test" };
    // Before hello.
    for frame in [&login, &tell(1, 1, b"x")] {
        let conn = rig.open("10.0.0.1").unwrap();
        rig.client(conn, frame);
    }
    // Twice hello.
    let conn = rig.open("10.0.0.1").unwrap();
    rig.hello(conn);
    rig.client(conn, &hello);
    // Traffic before the home's word.
    let conn = rig.open("10.0.0.1").unwrap();
    rig.ask(conn, &grant);
    rig.client(conn, &tell(1, 1, b"x"));
    check(
        &mut rig,
        expect![[r#"
        c0 Close Protocol frame kind 0x02 is not known here
        c0 closed
        c0 Close Protocol frame kind 0x04 is not known here
        c0 closed
        c0 Close Protocol frame kind 0x01 is not known here
        c0 closed
        -> Open c0 account 7 Ada from 10.0.0.1
        c0 Close Protocol frame kind 0x04 is not known here
        c0 closed
        -> Detached account 7 generation 1 Protocol
    "#]],
    );
    // Login again when logged in.
    let player = rig.login("10.0.0.1", 8);
    rig.client(player.conn, &login);
    check(
        &mut rig,
        expect![[r#"
        c0 Close Protocol frame kind 0x02 is not known here
        c0 closed
        -> Detached account 8 generation 1 Protocol
    "#]],
    );
    assert_eq!(rig.hits(Rule::Protocol), 5);
}

#[test]
fn other_version_is_told_to_update() {
    let mut rig = rig();
    let conn = rig.open("10.0.0.1").unwrap();
    rig.client(conn, &UpFrame::Hello { version: 9, features: 0, interface: 0, agent: "old" });
    check(
        &mut rig,
        expect![[r#"
        c0 Close Version this server speaks version 1
        c0 closed
    "#]],
    );
}

/// X17: the hash of the interface was computed and never compared.
#[test]
fn x17_a_client_of_another_interface_is_told_to_update() {
    let mut rig = rig();
    rig.gate.set_interfaces(vec![7, 8]);
    for (interface, expected) in [(0, false), (8, false), (9, true)] {
        let conn = rig.open("10.0.0.1").unwrap();
        rig.trace();
        rig.client(conn, &UpFrame::Hello { version: 1, features: 0, interface, agent: "x" });
        let said = rig.trace();
        assert_eq!(said.contains("Close Version update needed"), expected, "{interface}: {said}");
    }
}

/// While a release takes the place of another, nodes first, clients of both were to play; those of the new one
/// were told to update by gates of the old one.
#[test]
fn a23_a_client_of_a_listed_nodes_interface_is_let_in_until_that_node_has_gone() {
    let mut rig = rig();
    rig.gate.set_interfaces(vec![7]);
    let next = NodeInfo { interface: 9, ..NodeInfo::new("next", proto::Incarnation(77)) };
    for (listed, expected) in [(vec![], true), (vec![Arc::new(next)], false), (vec![], true)] {
        rig.gate.set_directory(rig.now, Arc::new(Directory::new(2, listed)));
        let conn = rig.open("10.0.0.1").unwrap();
        rig.trace();
        rig.client(conn, &UpFrame::Hello { version: 1, features: 0, interface: 9, agent: "x" });
        let said = rig.trace();
        assert_eq!(said.contains("Close Version update needed"), expected, "{said}");
    }
}

#[test]
fn login_split_at_every_byte_works() {
    let mut whole = rig();
    let conn = whole.open("10.0.0.1").unwrap();
    let grant = whole.grant(7, 0);
    whole.ask(conn, &grant);
    let expected = whole.trace();
    for piece in [1, 2, 3, 5, 7, 50] {
        let mut rig = rig();
        let conn = rig.open("10.0.0.1").unwrap();
        let grant = rig.grant(7, 0);
        let nonce = rig.hello(conn);
        let proof = login_proof(&grant.secret, &nonce, &grant.ticket);
        let mut bytes = Vec::new();
        let login = UpFrame::Login { ticket: &grant.ticket, proof };
        put_frame(&mut bytes, |out| login.encode(out));
        for part in bytes.chunks(piece) {
            rig.raw(conn, part);
        }
        assert_eq!(rig.trace(), expected);
    }
}

#[test]
fn drain_sends_everybody_elsewhere() {
    let mut rig = rig();
    for account in 0..4 {
        rig.login("10.0.0.1", account);
    }
    rig.gate.drain(rig.now, millis(200));
    assert_eq!(rig.open("10.0.0.1").unwrap_err().rule, Rule::Draining);
    rig.drain();
    check(
        &mut rig,
        expect![[r#"
        c2 Close GoingAway this gate is going down
        c3 Close GoingAway this gate is going down
        c2 closed
        c3 closed
        -> Detached account 2 generation 1 GoingAway
        -> Detached account 3 generation 1 GoingAway
    "#]],
    );
    assert!(!rig.gate.is_drained());
    rig.pass(millis(150));
    check(
        &mut rig,
        expect![[r#"
        c0 Close GoingAway this gate is going down
        c1 Close GoingAway this gate is going down
        c0 closed
        c1 closed
        -> Detached account 0 generation 1 GoingAway
        -> Detached account 1 generation 1 GoingAway
    "#]],
    );
    assert!(rig.gate.is_drained());
}
