use std::time::Duration;

use env::{Instant, WallTime};
use expect_test::{Expect, expect};
use node::session::{Binding, Bindings, Homes, Login, Options, Refusal, Scope, SecondLogin};
use proto::frame::{CloseCode, Seen, Status};
use proto::link::{Admission, LinkFrame, Slot, WorkerId};
use proto::{AccountId, EntityId, Incarnation, SessionId};

use crate::harness::{ARENA, AVATAR, Map, Port, Wires, avatar, session, worker};

const HOME: WorkerId = worker(10);

/// Runs a script against the home at node 10. One word a step, arguments after it:
///
/// - `open CONN ACCOUNT SESSION`, `resume CONN ACCOUNT SESSION GENERATION [stream=number ...]`,
///   `broke CONN ACCOUNT SESSION GENERATION`, `goodbye ACCOUNT SESSION GENERATION`: from gate 1, or
///   from gate 2 if `CONN` is over 99 (for the others: `@2` in front).
/// - `bound ACCOUNT SESSION STREAM SLOT`, `refused ACCOUNT SESSION STREAM STATUS`,
///   `lost ACCOUNT SESSION STREAM CODE`: from the owner at node 20, `@21` for another.
/// - `rebind ACCOUNT SESSION NAME`, `release ACCOUNT SESSION NAME`, `kick ACCOUNT`,
///   `drop ACCOUNT`.
/// - `+SECONDS`, `down NODE`.
///
/// The trace is each step, then the frames that came of it.
fn check(options: Options, script: &str, expect: Expect) -> Homes {
    let bindings = Bindings::new(|login: &Login<'_>| {
        if login.account.0 == 13 {
            let reason = "banned until Monday".to_owned();
            return Err(Refusal { code: CloseCode::Kicked, reason });
        }
        Ok(vec![Binding { name: "avatar".into(), target: avatar(login.account.0) }])
    });
    let mut homes = Homes::new(HOME, options, bindings);
    let owners = [(AVATAR, worker(20)), (ARENA, worker(21))].into();
    let map = Map { home: HOME, owners, ..Map::default() };
    let (mut now, mut wall) = (Instant::from_nanos(0), 0u64);
    let mut trace = String::new();
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let mut wires = Wires::new();
        let mut port = Port { from: HOME, wires: &mut wires, room: usize::MAX };
        let mut io = Scope { now, wall: WallTime(wall), out: &mut port, places: &map };
        let mut words = line.split_whitespace().peekable();
        let from = words.next_if(|word| word.starts_with('@')).map(|at| worker(int(&at[1..])));
        let word = words.next().expect("a line has a word");
        let args: Vec<&str> = words.collect();
        if let Some(seconds) = word.strip_prefix('+') {
            let time = Duration::from_secs_f64(seconds.parse().expect("seconds"));
            now += time;
            wall += time.as_millis() as u64;
            io.now = now;
            io.wall = WallTime(wall);
            homes.handle_timeout(&mut io);
        } else if word == "down" {
            homes.handle_peer_down(&mut io, Incarnation(int(args[0])));
        } else {
            let frame = parse(word, &args, wall);
            let by_owner = matches!(word, "bound" | "refused" | "lost");
            let usual = if by_owner { worker(20) } else { gate_of(&frame) };
            homes.handle_link(&mut io, from.unwrap_or(usual), &frame);
        }
        trace.push_str(line);
        trace.push('\n');
        for ((_, to), payloads) in &wires {
            for payload in payloads {
                let (_, frame) = LinkFrame::decode(payload).expect("our own frame");
                // What gates keep in mind for later homes has tests of its own.
                if matches!(frame, LinkFrame::Home(_)) {
                    continue;
                }
                trace.push_str(&format!("    {}: {}\n", to.node.0, show(&frame)));
            }
        }
    }
    expect.assert_eq(&trace);
    homes
}

fn int(text: &str) -> u64 {
    text.parse().expect("a number")
}

fn gate_of(frame: &LinkFrame<'_>) -> WorkerId {
    let conn = match frame {
        LinkFrame::Open(admission) => admission.conn,
        LinkFrame::Resume { conn, .. } | LinkFrame::Detached { conn, .. } => *conn,
        _ => Slot::default(),
    };
    worker(if conn.index > 99 { 2 } else { 1 })
}

fn parse<'a>(word: &str, args: &[&'a str], wall: u64) -> LinkFrame<'a> {
    let conn = |at: usize| Slot { index: int(args[at]) as u32, generation: 1 };
    let account = |at: usize| AccountId(int(args[at]));
    let id = |at: usize| session(int(args[at]) as u8);
    match word {
        "open" => LinkFrame::Open(Admission {
            conn: conn(0),
            account: account(1),
            session: id(2),
            expires_ms: wall + 30_000,
            since_ms: wall,
            level: 1,
            name: "someone",
            address: "192.0.2.1:7",
        }),
        "resume" => LinkFrame::Resume {
            conn: conn(0),
            account: account(1),
            session: id(2),
            level: 1,
            generation: int(args[3]),
            streams: args[4..]
                .iter()
                .map(|pair| {
                    let (handle, number) = pair.split_once('=').expect("stream=number");
                    Seen { handle: int(handle) as u32, number: int(number) }
                })
                .collect(),
            groups: vec![],
        },
        "broke" => LinkFrame::Detached {
            conn: conn(0),
            account: account(1),
            session: id(2),
            generation: int(args[3]),
            code: CloseCode::Idle,
        },
        "goodbye" => {
            LinkFrame::Logout { account: account(0), session: id(1), generation: int(args[2]) }
        }
        "bound" => LinkFrame::Bound {
            account: account(0),
            session: id(1),
            stream: int(args[2]) as u32,
            slot: conn(3),
            epoch: 1,
        },
        "refused" => LinkFrame::NotBound {
            account: account(0),
            session: id(1),
            stream: int(args[2]) as u32,
            status: if args[3] == "busy" { Status::Busy } else { Status::NotFound },
        },
        "lost" => LinkFrame::Lost {
            account: account(0),
            session: id(1),
            stream: int(args[2]) as u32,
            code: match args[3] {
                "gone" => CloseCode::Goodbye,
                "away" => CloseCode::Unavailable,
                "overflow" => CloseCode::SessionLost,
                _ => CloseCode::Protocol,
            },
        },
        "rebind" => LinkFrame::Rebind {
            account: account(0),
            session: id(1),
            name: args[2],
            target: EntityId::keyed(ARENA, 1),
        },
        "release" => LinkFrame::Release { account: account(0), session: id(1), name: args[2] },
        "kick" | "drop" => LinkFrame::Kick {
            account: account(0),
            session: SessionId::default(),
            code: if word == "kick" { CloseCode::Kicked } else { CloseCode::GoingAway },
            reason: "by an operator",
        },
        other => panic!("no step is called {other}"),
    }
}

pub fn show(frame: &LinkFrame<'_>) -> String {
    match frame {
        LinkFrame::Welcome { conn, generation, resumed, .. } => {
            format!("welcome {} generation {generation} resumed {resumed}", conn.index)
        }
        LinkFrame::Close { conn, code, reason } => {
            format!("close {} {code:?} ({reason})", conn.index)
        }
        LinkFrame::Unroute { conn, stream, code } => {
            format!("unroute {} stream {stream} {code:?}", conn.index)
        }
        LinkFrame::Bind { stream, gate, conn, generation, name, .. } => format!(
            "bind stream {stream} {name} for {}/{} generation {generation}",
            gate.node.0, conn.index
        ),
        LinkFrame::Attach { slot, gate, conn, generation, seen, .. } => format!(
            "attach {} to {}/{} generation {generation} seen {seen}",
            slot.index, gate.node.0, conn.index
        ),
        LinkFrame::Detach { slot, generation, .. } => {
            format!("detach {} generation {generation}", slot.index)
        }
        LinkFrame::Unbind { slot, code } => format!("unbind {} {code:?}", slot.index),
        other => format!("{other:?}"),
    }
}

#[test]
fn login_binds_and_goodbye_leaves_nothing() {
    let homes = check(
        Options::default(),
        "open 5 7 1
         bound 7 1 1 3
         goodbye 7 1 1
         +60",
        expect![[r#"
            open 5 7 1
                1: welcome 5 generation 1 resumed false
                20: bind stream 1 avatar for 1/5 generation 1
            bound 7 1 1 3
            goodbye 7 1 1
                20: unbind 3 Goodbye
            +60
        "#]],
    );
    assert_eq!((homes.stats().sessions, homes.poll_timeout()), (0, None));
}

#[test]
fn sessions_are_listed_for_people() {
    let homes = check(
        Options::default(),
        "open 5 7 1
         open 100 8 2
         broke 5 7 1 1",
        expect![[r#"
            open 5 7 1
                1: welcome 5 generation 1 resumed false
                20: bind stream 1 avatar for 1/5 generation 1
            open 100 8 2
                2: welcome 100 generation 1 resumed false
                20: bind stream 1 avatar for 2/100 generation 1
            broke 5 7 1 1
        "#]],
    );
    let listed = homes.list(AccountId(0), 10);
    let seen: Vec<_> = listed.iter().map(|info| (info.account.0, info.gate)).collect();
    assert_eq!(seen, [(7, None), (8, Some(worker(2)))]);
    assert_eq!(listed[0].streams, [("avatar".to_owned(), avatar(7))]);
    assert_eq!(homes.list(AccountId(8), 10).len(), 1);
    assert_eq!(homes.list(AccountId(0), 1).len(), 1);
}

#[test]
fn tickets_are_good_for_one_login() {
    check(
        Options::default(),
        "open 5 7 1
         open 6 7 1
         goodbye 7 1 1
         open 7 7 1
         open 8 13 2",
        expect![[r#"
            open 5 7 1
                1: welcome 5 generation 1 resumed false
                20: bind stream 1 avatar for 1/5 generation 1
            open 6 7 1
                1: close 6 Ticket (the ticket was used: get a new one)
            goodbye 7 1 1
            open 7 7 1
                1: close 7 Ticket (the ticket was used: get a new one)
            open 8 13 2
                1: close 8 Kicked (banned until Monday)
        "#]],
    );
}

#[test]
fn second_login_kicks_the_first() {
    check(
        Options::default(),
        "open 5 7 1
         bound 7 1 1 3
         open 100 7 2
         resume 6 7 1 2 1=0",
        expect![[r#"
            open 5 7 1
                1: welcome 5 generation 1 resumed false
                20: bind stream 1 avatar for 1/5 generation 1
            bound 7 1 1 3
            open 100 7 2
                1: close 5 Replaced (the account logged in elsewhere)
                2: welcome 100 generation 1 resumed false
                20: unbind 3 Replaced
                20: bind stream 1 avatar for 2/100 generation 1
            resume 6 7 1 2 1=0
                1: close 6 Replaced (the account logged in elsewhere)
        "#]],
    );
}

#[test]
fn second_login_is_refused_while_the_first_is_connected() {
    let options = Options { second_login: SecondLogin::Refuse, ..Options::default() };
    check(
        options,
        "open 5 7 1
         open 6 7 2
         broke 5 7 1 1
         open 6 7 2",
        expect![[r#"
            open 5 7 1
                1: welcome 5 generation 1 resumed false
                20: bind stream 1 avatar for 1/5 generation 1
            open 6 7 2
                1: close 6 AlreadyPlaying (the account is playing elsewhere)
            broke 5 7 1 1
            open 6 7 2
                1: close 6 Ticket (the ticket was used: get a new one)
        "#]],
    );
}

#[test]
fn of_two_racing_resumes_one_wins() {
    check(
        Options::default(),
        "open 5 7 1
         bound 7 1 1 3
         broke 5 7 1 1
         resume 100 7 1 2 1=4
         resume 6 7 1 2 1=4
         broke 5 7 1 1
         resume 7 7 1 3 1=4",
        expect![[r#"
            open 5 7 1
                1: welcome 5 generation 1 resumed false
                20: bind stream 1 avatar for 1/5 generation 1
            bound 7 1 1 3
            broke 5 7 1 1
                20: detach 3 generation 1
            resume 100 7 1 2 1=4
                2: welcome 100 generation 2 resumed true
                20: attach 3 to 2/100 generation 2 seen 4
            resume 6 7 1 2 1=4
                1: close 6 Replaced (a newer connection has resumed this session)
            broke 5 7 1 1
            resume 7 7 1 3 1=4
                1: welcome 7 generation 3 resumed true
                2: close 100 Replaced (a newer connection has resumed this session)
                20: attach 3 to 1/7 generation 3 seen 4
        "#]],
    );
}

#[test]
fn window_ends_the_session_everywhere() {
    let homes = check(
        Options::default(),
        "open 5 7 1
         bound 7 1 1 3
         broke 5 7 1 1
         +59.9
         +0.1
         resume 6 7 1 2 1=0
         +60",
        expect![[r#"
            open 5 7 1
                1: welcome 5 generation 1 resumed false
                20: bind stream 1 avatar for 1/5 generation 1
            bound 7 1 1 3
            broke 5 7 1 1
                20: detach 3 generation 1
            +59.9
            +0.1
                20: unbind 3 SessionLost
            resume 6 7 1 2 1=0
                1: close 6 SessionLost (the session has ended: log in again)
            +60
        "#]],
    );
    assert_eq!((homes.stats().sessions, homes.poll_timeout()), (0, None));
}

#[test]
fn kick_is_carried_through_breaks_and_open_bindings() {
    check(
        Options::default(),
        "open 5 7 1
         broke 5 7 1 1
         kick 7
         bound 7 1 1 3
         resume 6 7 1 2
         open 7 8 2
         bound 8 2 1 4
         kick 8",
        expect![[r#"
            open 5 7 1
                1: welcome 5 generation 1 resumed false
                20: bind stream 1 avatar for 1/5 generation 1
            broke 5 7 1 1
            kick 7
            bound 7 1 1 3
                20: unbind 3 Kicked
            resume 6 7 1 2
                1: close 6 Kicked (the player was removed)
            open 7 8 2
                1: welcome 7 generation 1 resumed false
                20: bind stream 1 avatar for 1/7 generation 1
            bound 8 2 1 4
            kick 8
                1: close 7 Kicked (by an operator)
                20: unbind 4 Kicked
        "#]],
    );
}

#[test]
fn a_kick_that_may_be_resumed_closes_the_connection_only() {
    check(
        Options::default(),
        "open 5 7 1
         drop 7
         broke 5 7 1 1
         drop 7
         resume 6 7 1 2",
        expect![[r#"
            open 5 7 1
                1: welcome 5 generation 1 resumed false
                20: bind stream 1 avatar for 1/5 generation 1
            drop 7
                1: close 5 GoingAway (by an operator)
            broke 5 7 1 1
            drop 7
            resume 6 7 1 2
                1: welcome 6 generation 2 resumed true
        "#]],
    );
}

/// A login broke before its welcome and was repeated on another connection, where it came in
/// first. The end of the first connection was taken for that of the second: the client was
/// connected, but to nobody, until it left.
#[test]
fn the_end_of_a_repeated_logins_first_connection_is_not_that_of_the_second() {
    check(
        Options::default(),
        "open 100 7 1
         bound 7 1 1 3
         open 5 7 1
         broke 5 7 1 1
         open 101 7 1
         broke 101 7 1 1
         broke 100 7 1 1",
        expect![[r#"
            open 100 7 1
                2: welcome 100 generation 1 resumed false
                20: bind stream 1 avatar for 2/100 generation 1
            bound 7 1 1 3
            open 5 7 1
                1: close 5 Ticket (the ticket was used: get a new one)
            broke 5 7 1 1
            open 101 7 1
                2: close 101 Ticket (the ticket was used: get a new one)
            broke 101 7 1 1
            broke 100 7 1 1
                20: detach 3 generation 1
        "#]],
    );
}

/// A name was to lead to another entity when both owners were lost, and both streams were opened
/// again. The client went by the newer one; the home released that, as the older was opened last.
#[test]
fn a_stream_that_is_lost_while_its_name_moves_on_is_not_opened_again() {
    check(
        Options::default(),
        "open 5 7 1
         bound 7 1 1 3
         rebind 7 1 avatar
         rebind 7 1 arena
         @21 bound 7 1 3 9
         rebind 7 1 arena
         down 21
         +0.2
         @21 bound 7 1 5 10",
        expect![[r#"
            open 5 7 1
                1: welcome 5 generation 1 resumed false
                20: bind stream 1 avatar for 1/5 generation 1
            bound 7 1 1 3
            rebind 7 1 avatar
                21: bind stream 2 avatar for 1/5 generation 1
            rebind 7 1 arena
                21: bind stream 3 arena for 1/5 generation 1
            @21 bound 7 1 3 9
            rebind 7 1 arena
                21: bind stream 4 arena for 1/5 generation 1
            down 21
                1: unroute 5 stream 2 Unavailable
                1: unroute 5 stream 3 Unavailable
                1: unroute 5 stream 4 Unavailable
                21: unbind 9 Unavailable
            +0.2
                21: bind stream 5 avatar for 1/5 generation 1
                21: bind stream 6 arena for 1/5 generation 1
            @21 bound 7 1 5 10
                20: unbind 3 Goodbye
        "#]],
    );
}

/// A login was refused for good while it was on its way once more by another gate, and that one
/// was let in when nobody asked for it any more: it ended the session of who was playing.
#[test]
fn a_login_that_was_refused_for_good_does_not_come_in_later() {
    let options = Options { second_login: SecondLogin::Refuse, ..Options::default() };
    check(
        options,
        "open 5 7 1
         open 6 7 2
         broke 5 7 1 1
         open 100 7 2",
        expect![[r#"
            open 5 7 1
                1: welcome 5 generation 1 resumed false
                20: bind stream 1 avatar for 1/5 generation 1
            open 6 7 2
                1: close 6 AlreadyPlaying (the account is playing elsewhere)
            broke 5 7 1 1
            open 100 7 2
                2: close 100 Ticket (the ticket was used: get a new one)
        "#]],
    );
}

#[test]
fn a_binding_that_opens_late_learns_where_the_client_is_now() {
    check(
        Options::default(),
        "open 5 7 1
         broke 5 7 1 1
         resume 100 7 1 2 1=2
         bound 7 1 1 3
         broke 100 7 1 2
         rebind 7 1 arena
         @21 bound 7 1 2 9
         resume 101 7 1 3 1=5 2=0",
        expect![[r#"
            open 5 7 1
                1: welcome 5 generation 1 resumed false
                20: bind stream 1 avatar for 1/5 generation 1
            broke 5 7 1 1
            resume 100 7 1 2 1=2
                2: welcome 100 generation 2 resumed true
            bound 7 1 1 3
                20: attach 3 to 2/100 generation 2 seen 2
            broke 100 7 1 2
                20: detach 3 generation 2
            rebind 7 1 arena
                21: bind stream 2 arena for 0/0 generation 2
            @21 bound 7 1 2 9
                21: detach 9 generation 2
            resume 101 7 1 3 1=5 2=0
                2: welcome 101 generation 3 resumed true
                20: attach 3 to 2/101 generation 3 seen 5
                21: attach 9 to 2/101 generation 3 seen 0
        "#]],
    );
}

#[test]
fn switching_a_binding_releases_the_old_one_after_the_new_one_is_open() {
    check(
        Options::default(),
        "open 5 7 1
         bound 7 1 1 3
         rebind 7 1 arena
         @21 bound 7 1 2 9
         rebind 7 1 arena
         rebind 7 1 arena
         @21 bound 7 1 3 10
         @21 bound 7 1 4 11
         release 7 1 arena
         @21 lost 7 1 4 gone
         lost 7 1 1 gone
         broke 5 7 1 1
         resume 6 7 1 2 1=0",
        expect![[r#"
            open 5 7 1
                1: welcome 5 generation 1 resumed false
                20: bind stream 1 avatar for 1/5 generation 1
            bound 7 1 1 3
            rebind 7 1 arena
                21: bind stream 2 arena for 1/5 generation 1
            @21 bound 7 1 2 9
            rebind 7 1 arena
                21: bind stream 3 arena for 1/5 generation 1
            rebind 7 1 arena
                1: unroute 5 stream 3 Unavailable
                21: bind stream 4 arena for 1/5 generation 1
            @21 bound 7 1 3 10
                21: unbind 10 Unavailable
            @21 bound 7 1 4 11
                21: unbind 9 Goodbye
            release 7 1 arena
                1: unroute 5 stream 4 Goodbye
                21: unbind 11 Goodbye
            @21 lost 7 1 4 gone
            lost 7 1 1 gone
            broke 5 7 1 1
            resume 6 7 1 2 1=0
                1: welcome 6 generation 2 resumed true
                1: unroute 6 stream 1 Unavailable
        "#]],
    );
}

#[test]
fn a_login_whose_entity_does_not_come_is_closed_after_some_tries() {
    check(
        Options { bind_tries: 3, ..Options::default() },
        "open 5 7 1
         refused 7 1 1 busy
         +0.1
         refused 7 1 2 busy
         +0.2
         refused 7 1 3 busy
         open 6 8 2
         refused 8 2 1 notfound
         open 7 9 3
         +4",
        expect![[r#"
            open 5 7 1
                1: welcome 5 generation 1 resumed false
                20: bind stream 1 avatar for 1/5 generation 1
            refused 7 1 1 busy
            +0.1
                20: bind stream 2 avatar for 1/5 generation 1
            refused 7 1 2 busy
            +0.2
                20: bind stream 3 avatar for 1/5 generation 1
            refused 7 1 3 busy
                1: unroute 5 stream 3 Goodbye
                1: close 5 Unavailable (avatar could not be opened: Busy)
            open 6 8 2
                1: welcome 6 generation 1 resumed false
                20: bind stream 1 avatar for 1/6 generation 1
            refused 8 2 1 notfound
                1: unroute 6 stream 1 Goodbye
                1: close 6 Unavailable (avatar could not be opened: NotFound)
            open 7 9 3
                1: welcome 7 generation 1 resumed false
                20: bind stream 1 avatar for 1/7 generation 1
            +4
                1: unroute 7 stream 1 Unavailable
        "#]],
    );
}

#[test]
fn what_breaks_a_stream_ends_the_session_with_its_reason() {
    let homes = check(
        Options::default(),
        "open 5 7 1
         bound 7 1 1 3
         lost 7 1 1 overflow
         open 6 8 2
         bound 8 2 1 4
         lost 8 2 1 protocol",
        expect![[r#"
            open 5 7 1
                1: welcome 5 generation 1 resumed false
                20: bind stream 1 avatar for 1/5 generation 1
            bound 7 1 1 3
            lost 7 1 1 overflow
                1: close 5 SessionLost (a stream of this session could not go on)
                20: unbind 3 SessionLost
            open 6 8 2
                1: welcome 6 generation 1 resumed false
                20: bind stream 1 avatar for 1/6 generation 1
            bound 8 2 1 4
            lost 8 2 1 protocol
                1: close 6 Protocol (a stream of this session could not go on)
                20: unbind 4 Protocol
        "#]],
    );
    assert_eq!(homes.stats().lost, 2);
}

#[test]
fn limits_refuse_with_a_reason() {
    let options = Options {
        sessions_max: 1,
        used_tickets_max: 3,
        session_streams_max: 2,
        ..Options::default()
    };
    check(
        options,
        "open 5 7 1
         open 6 8 2
         open 5 7 3
         rebind 7 3 one
         rebind 7 3 two
         goodbye 7 3 1
         open 5 7 4
         goodbye 7 4 1
         open 5 7 5
         +30
         open 5 7 6",
        expect![[r#"
            open 5 7 1
                1: welcome 5 generation 1 resumed false
                20: bind stream 1 avatar for 1/5 generation 1
            open 6 8 2
                1: close 6 Unavailable (this server has no room: try later)
            open 5 7 3
                1: close 5 Replaced (the account logged in elsewhere)
                1: welcome 5 generation 1 resumed false
                20: bind stream 1 avatar for 1/5 generation 1
            rebind 7 3 one
                21: bind stream 2 one for 1/5 generation 1
            rebind 7 3 two
            goodbye 7 3 1
            open 5 7 4
                1: welcome 5 generation 1 resumed false
                20: bind stream 1 avatar for 1/5 generation 1
            goodbye 7 4 1
            open 5 7 5
                1: close 5 Unavailable (this server has no room: try later)
            +30
            open 5 7 6
                1: welcome 5 generation 1 resumed false
                20: bind stream 1 avatar for 1/5 generation 1
        "#]],
    );
}

#[test]
fn a_lost_gate_detaches_and_a_lost_owner_is_replaced() {
    check(
        Options::default(),
        "open 5 7 1
         bound 7 1 1 3
         down 20
         +0.1
         bound 7 1 2 4
         down 1
         resume 100 7 1 2 1=9 2=0",
        expect![[r#"
            open 5 7 1
                1: welcome 5 generation 1 resumed false
                20: bind stream 1 avatar for 1/5 generation 1
            bound 7 1 1 3
            down 20
                1: unroute 5 stream 1 Unavailable
                20: unbind 3 Unavailable
            +0.1
                20: bind stream 2 avatar for 1/5 generation 1
            bound 7 1 2 4
            down 1
                1: close 5 Unavailable (the way to the session broke)
                20: detach 4 generation 1
            resume 100 7 1 2 1=9 2=0
                2: welcome 100 generation 2 resumed true
                2: unroute 100 stream 1 Unavailable
                20: attach 4 to 2/100 generation 2 seen 0
        "#]],
    );
}

/// Seed 234 of the suite of clusters: a home had put a session together of which another one had opened a stream
/// anew. Its client went by that one, took what it was given here for the older of the two, and was left without either.
#[test]
fn a_stream_below_a_handle_that_another_home_gave_out_is_opened_anew_above_it() {
    check(
        Options::default(),
        "open 5 7 1
         bound 7 1 1 3
         rebind 7 1 arena
         broke 5 7 1 1
         resume 6 7 1 2 208688=1
         +1
         broke 6 7 1 2
         resume 7 7 1 3 4294967295=1
         +1",
        expect![[r#"
            open 5 7 1
                1: welcome 5 generation 1 resumed false
                20: bind stream 1 avatar for 1/5 generation 1
            bound 7 1 1 3
            rebind 7 1 arena
                21: bind stream 2 arena for 1/5 generation 1
            broke 5 7 1 1
                20: detach 3 generation 1
            resume 6 7 1 2 208688=1
                1: welcome 6 generation 2 resumed true
                1: unroute 6 stream 1 Unavailable
                1: unroute 6 stream 2 Unavailable
                1: unroute 6 stream 208688 Unavailable
                20: unbind 3 Unavailable
            +1
                20: bind stream 277232 avatar for 1/6 generation 2
                21: bind stream 277233 arena for 1/6 generation 2
            broke 6 7 1 2
            resume 7 7 1 3 4294967295=1
                1: welcome 7 generation 3 resumed true
                1: unroute 7 stream 4294967295 Unavailable
            +1
        "#]],
    );
}

/// What a home has given out itself it knows the names of: nobody has to begin anew for it.
#[test]
fn streams_go_on_beside_one_that_has_ended_while_their_client_was_away() {
    check(
        Options::default(),
        "open 5 7 1
         bound 7 1 1 3
         rebind 7 1 arena
         @21 bound 7 1 2 4
         broke 5 7 1 1
         @21 lost 7 1 2 gone
         resume 6 7 1 2 1=4 2=1",
        expect![[r#"
            open 5 7 1
                1: welcome 5 generation 1 resumed false
                20: bind stream 1 avatar for 1/5 generation 1
            bound 7 1 1 3
            rebind 7 1 arena
                21: bind stream 2 arena for 1/5 generation 1
            @21 bound 7 1 2 4
            broke 5 7 1 1
                20: detach 3 generation 1
                21: detach 4 generation 1
            @21 lost 7 1 2 gone
            resume 6 7 1 2 1=4 2=1
                1: welcome 6 generation 2 resumed true
                1: unroute 6 stream 2 Unavailable
                20: attach 3 to 1/6 generation 2 seen 4
        "#]],
    );
}

/// Seed 2693 of the suite of clusters: the owner of a stream ended it while it knew of an earlier connection alone, and
/// the client never heard what had become of what it had sent.
#[test]
fn a_stream_that_its_owner_ends_is_over_for_the_connection_that_the_owner_does_not_know() {
    check(
        Options::default(),
        "open 5 7 1
         bound 7 1 1 3
         broke 5 7 1 1
         resume 6 7 1 2 1=4
         lost 7 1 1 away
         +5",
        expect![[r#"
            open 5 7 1
                1: welcome 5 generation 1 resumed false
                20: bind stream 1 avatar for 1/5 generation 1
            bound 7 1 1 3
            broke 5 7 1 1
                20: detach 3 generation 1
            resume 6 7 1 2 1=4
                1: welcome 6 generation 2 resumed true
                20: attach 3 to 1/6 generation 2 seen 4
            lost 7 1 1 away
            +5
                1: unroute 6 stream 1 Goodbye
                20: bind stream 2 avatar for 1/6 generation 2
        "#]],
    );
}
