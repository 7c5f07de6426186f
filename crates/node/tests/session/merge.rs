//! Two sessions of one account, or two tales of one session, that meet at one home: which of them counts,
//! and what becomes of what only the other one knew.

use std::fmt::Write;

use env::{Instant, WallTime};
use expect_test::{Expect, expect};
use node::session::{Bindings, Homes, Options, Scope};
use proto::frame::Seen;
use proto::link::{
    HandOver, HandedState, HandedStream, HomeFrame, LinkFrame, Named, Report, Slot, WorkerId,
};
use proto::{AccountId, SessionId};

use crate::harness::{AVATAR, Map, Port, Wires, avatar, session, worker};
use crate::homes::show;

const ME: WorkerId = worker(10);
const ACCOUNT: AccountId = AccountId(7);

/// A tale: `SESSION gGENERATION sSINCE`, then `@GATE/CONN` if it is connected, then streams: `NAME#HANDLE` that
/// is to be opened, `NAME#HANDLE=OWNER/SLOT` that is open, `NAME#HANDLE?OWNER` that is asked for.
struct Tale<'a> {
    session: SessionId,
    generation: u64,
    since_ms: u64,
    place: Option<(WorkerId, Slot)>,
    streams: Vec<HandedStream<'a>>,
}

fn slot(index: u64) -> Slot {
    Slot { index: index as u32, generation: 1 }
}

fn int(text: &str) -> u64 {
    text.parse().expect("a number")
}

fn pair(text: &str) -> (WorkerId, Slot) {
    let (node, index) = text.split_once('/').expect("NODE/SLOT");
    (worker(int(node)), slot(int(index)))
}

impl<'a> Tale<'a> {
    fn parse(text: &'a str) -> Self {
        let mut words = text.split_whitespace().peekable();
        let mut number = |prefix: &str| {
            let word = words.next().expect("a number");
            int(word.strip_prefix(prefix).expect("its letter"))
        };
        let (id, generation, since_ms) = (number("") as u8, number("g"), number("s"));
        let place = words.next_if(|word| word.starts_with('@')).map(|word| pair(&word[1..]));
        let streams = words.map(stream).collect();
        Tale { session: session(id), generation, since_ms, place, streams }
    }
}

fn stream(word: &str) -> HandedStream<'_> {
    let (name, rest) = word.split_once('#').expect("NAME#HANDLE");
    let (handle, state) = if let Some((handle, at)) = rest.split_once('=') {
        let (owner, slot) = pair(at);
        (handle, HandedState::Bound { owner, slot })
    } else if let Some((handle, owner)) = rest.split_once('?') {
        let (owner, seen, groups) = (worker(int(owner)), 0, Vec::new());
        (handle, HandedState::Asked { owner, generation: 1, seen, groups })
    } else {
        (rest, HandedState::Pausing)
    };
    let stream = Named { stream: int(handle) as u32, target: avatar(7), name };
    HandedStream {
        stream,
        required: false,
        lasting: true,
        is_doubtful: false,
        is_contested: false,
        may_be_told: false,
        tries: 0,
        state,
    }
}

struct World {
    homes: Homes,
    map: Map,
}

impl World {
    fn new() -> World {
        let owners = [(AVATAR, worker(20))].into();
        let map = Map { home: ME, owners, ..Map::default() };
        World { homes: Homes::new(ME, Options::default(), Bindings::none()), map }
    }

    /// Gives what the home says, by whom it is said to.
    fn hears(&mut self, from: WorkerId, frame: &LinkFrame<'_>) -> String {
        let mut wires = Wires::new();
        let mut out = Port { from: ME, wires: &mut wires, room: usize::MAX };
        let now = Instant::from_nanos(1_000_000_000);
        let mut io = Scope { now, wall: WallTime(1_000_000), out: &mut out, places: &self.map };
        self.homes.handle_link(&mut io, from, frame);
        let mut said = String::new();
        for ((_, to), payloads) in &wires {
            for payload in payloads {
                let (_, frame) = LinkFrame::decode(payload).expect("our own frame");
                let text = match &frame {
                    LinkFrame::Home(HomeFrame::Taken { .. }) => continue,
                    LinkFrame::Home(HomeFrame::Adopt { slot, .. }) => {
                        format!("adopt {}", slot.index)
                    }
                    LinkFrame::Home(HomeFrame::Homed { conn, generation, .. }) => {
                        format!("homed {} generation {generation}", conn.index)
                    }
                    LinkFrame::Home(HomeFrame::Over { code, .. }) => format!("over {code:?}"),
                    LinkFrame::Home(HomeFrame::Wanted(wanted)) => {
                        let names = wanted.streams.iter();
                        let names: Vec<_> =
                            names.map(|s| format!("{}#{}", s.name, s.stream)).collect();
                        format!("wanted {}", names.join(" "))
                    }
                    frame => show(frame),
                };
                writeln!(said, "{}: {text}", to.node.0).expect("a string takes all");
            }
        }
        said
    }

    fn handed(&mut self, from: u64, tale: &Tale<'_>) -> String {
        let (gate, conn) = tale.place.map_or((worker(1), None), |(gate, conn)| (gate, Some(conn)));
        let handed = HandOver {
            ticket: 1,
            session: tale.session,
            account: ACCOUNT,
            level: 1,
            generation: tale.generation,
            since_ms: tale.since_ms,
            next_stream: 9,
            given: Vec::new(),
            gate,
            conn,
            left_ms: 20_000,
            logged_in: false,
            tags: Vec::new(),
            streams: tale.streams.clone(),
        };
        self.hears(worker(from), &LinkFrame::Home(HomeFrame::HandOver(handed)))
    }

    fn reported(&mut self, tale: &Tale<'_>) {
        let (gate, conn) = tale.place.expect("a gate tells of a connection");
        let report = Report {
            conn: Some(conn),
            session: tale.session,
            account: ACCOUNT,
            level: 1,
            generation: tale.generation,
            since_ms: tale.since_ms,
            lost: worker(9),
            last_stream: 0,
            streams: tale.streams.iter().map(|handed| handed.stream).collect(),
        };
        self.hears(gate, &LinkFrame::Home(HomeFrame::Report(report)));
    }

    /// What it has now, in one line.
    fn kept(&self) -> String {
        let found = &self.homes.list(ACCOUNT, 1)[0];
        let gate = found.gate.map_or("nowhere".to_owned(), |gate| gate.node.0.to_string());
        format!("session {} generation {} at {gate}", found.session.0[0], found.generation)
    }
}

/// `here` comes first, then `handed`; the trace is what is kept, then what is said.
fn check(here: &str, handed: &str, expect: Expect) {
    let mut world = World::new();
    world.handed(11, &Tale::parse(here));
    let said = world.handed(12, &Tale::parse(handed));
    expect.assert_eq(&format!("{}\n{said}", world.kept()));
}

#[test]
fn of_two_sessions_of_one_account_the_later_login_counts() {
    check(
        "1 g4 s5 @1/3 avatar#1=20/4",
        "2 g1 s6 @2/6 avatar#1=20/5",
        expect![[r#"
        session 2 generation 1 at 2
        1: close 3 Replaced (the account logged in elsewhere)
        1: over Replaced
        2: homed 6 generation 1
        20: unbind 4 Replaced
        20: adopt 5
    "#]],
    );
    check(
        "2 g1 s6 @2/6 avatar#1=20/5",
        "1 g4 s5 @1/3 avatar#1=20/4",
        expect![[r#"
        session 2 generation 1 at 2
        1: close 3 Replaced (the account logged in elsewhere)
        1: over Replaced
        2: homed 6 generation 1
        20: unbind 4 Replaced
        20: adopt 5
    "#]],
    );
}

#[test]
fn of_two_tales_of_one_session_the_higher_generation_counts() {
    check(
        "1 g2 s5 @1/3 avatar#1=20/4",
        "1 g3 s5 @2/6 avatar#1=20/4",
        expect![[r#"
        session 1 generation 3 at 2
        1: close 3 Replaced (a newer connection has resumed this session)
        2: wanted avatar#1
        2: homed 6 generation 3
        20: adopt 4
    "#]],
    );
    check(
        "1 g3 s5 @2/6 avatar#1=20/4",
        "1 g2 s5 @1/3 avatar#1=20/4",
        expect![[r#"
        session 1 generation 3 at 2
        1: close 3 Replaced (a newer connection has resumed this session)
        2: wanted avatar#1
        2: homed 6 generation 3
        20: adopt 4
    "#]],
    );
    // Also one of which only is known that it waits.
    check(
        "1 g2 s5 @1/3 avatar#1=20/4",
        "1 g3 s5 avatar#1=20/4",
        expect![[r#"
        session 1 generation 3 at nowhere
        1: close 3 Replaced (a newer connection has resumed this session)
        20: adopt 4
    "#]],
    );
}

#[test]
fn of_two_tales_of_one_connection_both_may_go_on_with_it() {
    check(
        "1 g2 s5 @1/3 avatar#1=20/4",
        "1 g2 s5 @1/3 avatar#1=20/4",
        expect![[r#"
        session 1 generation 2 at 1
        1: wanted avatar#1
        1: homed 3 generation 2
        20: adopt 4
    "#]],
    );
    // Who waits for a resume does not know which connection it was.
    check(
        "1 g2 s5 @1/3 avatar#1=20/4",
        "1 g2 s5 avatar#1=20/4",
        expect![[r#"
        session 1 generation 2 at 1
        1: wanted avatar#1
        1: homed 3 generation 2
        20: adopt 4
    "#]],
    );
}

#[test]
fn two_connections_of_one_generation_are_the_two_of_one_ticket_and_the_other_resumes() {
    check(
        "1 g1 s5 @1/3 avatar#1=20/4",
        "1 g1 s5 @2/6 avatar#1=20/5",
        expect![[r#"
        session 1 generation 1 at 1
        1: wanted avatar#1
        1: homed 3 generation 1
        2: close 6 Unavailable (the session's home has moved: resume)
        20: adopt 5
        20: unbind 5 Unavailable
        20: adopt 4
    "#]],
    );
    check(
        "1 g1 s5 @1/3 avatar#1=20/4",
        "1 g1 s6 @2/6 avatar#1=20/5",
        expect![[r#"
        session 1 generation 1 at 2
        1: close 3 Unavailable (the session's home has moved: resume)
        2: wanted avatar#1
        2: homed 6 generation 1
        20: adopt 4
        20: unbind 4 Unavailable
        20: adopt 5
    "#]],
    );
}

#[test]
fn what_only_the_other_tale_has_is_closed_and_what_it_has_newer_is_opened_anew() {
    check(
        "1 g2 s5 @1/3 avatar#1=20/4",
        "1 g1 s5 room#2=21/5",
        expect![[r#"
        session 1 generation 2 at 1
        1: wanted avatar#1
        1: homed 3 generation 2
        20: adopt 4
        21: adopt 5
        21: unbind 5 Unavailable
    "#]],
    );
    // The client goes by the newest handle that it has heard of.
    check(
        "1 g2 s5 @1/3 avatar#1=20/4",
        "1 g2 s5 @1/3 avatar#2=20/5",
        expect![[r#"
        session 1 generation 2 at 1
        1: unroute 3 stream 1 Unavailable
        1: wanted avatar#118208
        1: homed 3 generation 2
        20: adopt 5
        20: unbind 5 Unavailable
        20: adopt 4
        20: unbind 4 Unavailable
    "#]],
    );
    check(
        "1 g2 s5 @1/3 avatar#2=20/5",
        "1 g2 s5 @1/3 avatar#1=20/4",
        expect![[r#"
        session 1 generation 2 at 1
        1: wanted avatar#2
        1: homed 3 generation 2
        20: adopt 4
        20: unbind 4 Unavailable
        20: adopt 5
    "#]],
    );
}

#[test]
fn what_a_home_knew_is_better_than_what_was_put_together() {
    let mut world = World::new();
    world.reported(&Tale::parse("1 g2 s5 @1/3 avatar#1 room#2"));
    let said = world.handed(12, &Tale::parse("1 g2 s5 @1/3 avatar#1=20/4"));
    expect![[r#"
        session 1 generation 2 at 1
        1: wanted avatar#1
        1: homed 3 generation 2
        20: adopt 4
    "#]]
    .assert_eq(&format!("{}\n{said}", world.kept()));
}

/// Two homes let in one login, and each gave out handle 1: the client had another stream under it than the one that
/// was kept.
#[test]
fn a_handle_that_two_homes_gave_out_leads_nowhere_once_its_client_resumes() {
    let mut world = World::new();
    world.handed(11, &Tale::parse("1 g1 s5 @1/3 avatar#1=20/4"));
    world.handed(12, &Tale::parse("1 g1 s5 @2/6 avatar#1=20/5"));
    let (streams, groups) = (vec![Seen { handle: 1, number: 3 }], Vec::new());
    let (conn, session, account, level) = (slot(8), session(1), ACCOUNT, 1);
    let resume =
        LinkFrame::Resume { conn, session, account, level, generation: 2, streams, groups };
    let said = world.hears(worker(2), &resume);
    expect![[r#"
        1: close 3 Replaced (a newer connection has resumed this session)
        2: wanted avatar#1
        2: welcome 8 generation 2 resumed true
        2: unroute 8 stream 1 Unavailable
        2: wanted avatar#118208
        20: unbind 4 Unavailable
    "#]]
    .assert_eq(&said);
}
