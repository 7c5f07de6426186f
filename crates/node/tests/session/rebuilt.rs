//! What a home does that has put sessions together again, or has them no more.

use std::time::Duration;

use env::{Instant, WallTime};
use node::session::{Binding, Bindings, Homes, Login, Options, Refusal, Scope};
use proto::AccountId;
use proto::frame::{CloseCode, Seen};
use proto::link::{Admission, Held, HomeFrame, Leads, LinkFrame, Named, Report, Slot, WorkerId};

use crate::harness::{AVATAR, Map, Port, Wires, avatar, session, worker};

const ME: WorkerId = worker(10);
const LOST: WorkerId = worker(9);
const GATE: WorkerId = worker(1);
const OTHER_GATE: WorkerId = worker(2);
const ACCOUNT: AccountId = AccountId(7);
const CONN: Slot = Slot { index: 3, generation: 1 };

struct World {
    homes: Homes,
    map: Map,
    now: Instant,
}

impl World {
    fn new() -> World {
        Self::whose_game(|_| Ok(Vec::new()))
    }

    fn whose_game(
        chooses: impl Fn(&Login<'_>) -> Result<Vec<Binding>, Refusal> + 'static,
    ) -> World {
        let homes = Homes::new(ME, Options::default(), Bindings::new(chooses));
        let now = Instant::from_nanos(1_000_000_000);
        World { homes, map: Map { home: ME, ..Map::default() }, now }
    }

    /// The home has the list of nodes; before that it is the home of nobody.
    fn begun(mut self) -> World {
        self.sent(GATE, |homes, io| homes.handle_nodes(io));
        self
    }

    /// Runs `act` at the home, and gives what it sent to `to`.
    fn sent<R>(
        &mut self,
        to: WorkerId,
        act: impl FnOnce(&mut Homes, &mut Scope<'_, Port<'_>, Map>) -> R,
    ) -> Vec<Vec<u8>> {
        let mut wires = Wires::new();
        let mut port = Port { from: ME, wires: &mut wires, room: usize::MAX };
        let (now, wall) = (self.now, WallTime(1_000_000));
        let mut io = Scope { now, wall, out: &mut port, places: &self.map };
        act(&mut self.homes, &mut io);
        wires.remove(&(ME, to)).unwrap_or_default().into()
    }

    fn hears(&mut self, from: WorkerId, frame: &LinkFrame<'_>, to: WorkerId) -> Vec<Vec<u8>> {
        self.sent(to, |homes, io| homes.handle_link(io, from, frame))
    }

    /// The client of session 1 resumes it, with its third connection.
    fn resumed(&mut self) -> Vec<Vec<u8>> {
        self.resumed_at(GATE)
    }

    /// The same; gives what `to` hears of it.
    fn resumed_at(&mut self, to: WorkerId) -> Vec<Vec<u8>> {
        let (streams, groups) = (vec![Seen { handle: 3, number: 4 }], Vec::new());
        let resume = LinkFrame::Resume {
            conn: CONN,
            session: session(1),
            account: ACCOUNT,
            level: 2,
            generation: 3,
            streams,
            groups,
        };
        self.hears(GATE, &resume, to)
    }

    /// A gate tells of session 1, on `CONN` or waiting, with `generation`.
    fn told(&mut self, gate: WorkerId, conn: Option<Slot>, generation: u64) -> Vec<Vec<u8>> {
        self.told_of(gate, conn, generation, Vec::new())
    }

    fn told_of(
        &mut self,
        gate: WorkerId,
        conn: Option<Slot>,
        generation: u64,
        streams: Vec<Named<'_>>,
    ) -> Vec<Vec<u8>> {
        let report = Report {
            conn,
            session: session(1),
            account: ACCOUNT,
            level: 1,
            generation,
            since_ms: 5,
            lost: LOST,
            last_stream: 0,
            streams,
        };
        self.hears(gate, &LinkFrame::Home(HomeFrame::Report(report)), gate)
    }
}

impl World {
    /// Session 1 is put together from what `GATE` told, and has a stream open at `owner`: gives its handle.
    fn with_stream(owner: WorkerId, slot: Slot) -> (World, u32) {
        let mut world = World::new();
        world.told(GATE, Some(CONN), 1);
        world.now += Duration::from_secs(10);
        world.sent(GATE, |homes, io| homes.handle_timeout(io));
        world.map.owners.insert(AVATAR, owner);
        let (session, account) = (session(1), ACCOUNT);
        let rebind = LinkFrame::Rebind { session, account, name: "avatar", target: avatar(7) };
        let sent = world.hears(owner, &rebind, owner);
        let asked = frames(&sent).find_map(|frame| match frame {
            LinkFrame::Bind { stream, .. } => Some(stream),
            _ => None,
        });
        let stream = asked.expect("its owner is asked to open it");
        world.hears(owner, &LinkFrame::Bound { session, account, stream, slot, epoch: 1 }, owner);
        (world, stream)
    }
}

fn frames(sent: &[Vec<u8>]) -> impl Iterator<Item = LinkFrame<'_>> {
    sent.iter().map(|payload| LinkFrame::decode(payload).expect("a frame").1)
}

#[test]
fn a_ticket_does_not_admit_again_while_the_session_lives_that_was_put_together() {
    let mut world = World::new();
    world.told(GATE, Some(CONN), 1);
    world.sent(GATE, |homes, io| {
        let later = io.now + Duration::from_secs(10);
        let mut io = Scope { now: later, wall: io.wall, out: &mut *io.out, places: io.places };
        homes.handle_timeout(&mut io);
    });
    let conn = Slot { index: 4, generation: 1 };
    let open = LinkFrame::Open(Admission {
        conn,
        session: session(1),
        account: ACCOUNT,
        expires_ms: 2_000_000,
        since_ms: 1_000_000,
        level: 1,
        name: "someone",
        address: "192.0.2.1:7",
    });
    let sent = world.hears(OTHER_GATE, &open, OTHER_GATE);
    let refused = |frame: LinkFrame<'_>| matches!(frame, LinkFrame::Close { conn: c, code: CloseCode::Ticket, .. } if c == conn);
    assert!(frames(&sent).any(refused));
    assert_eq!(world.homes.session_of(ACCOUNT), Some(session(1)));
    assert_eq!(world.homes.stats().replaced, 0);
}

/// The word of an opening and that of the move of what was opened come from two owners, by two ways. The
/// home took the later one for another stream of that name, and ended the only one that there was.
#[test]
fn a_stream_that_moves_before_the_word_of_its_opening_came_stays_open() {
    let (first, next) = (worker(20), worker(21));
    let mut world = World::new();
    world.map.owners.insert(AVATAR, first);
    world.told(GATE, Some(CONN), 1);
    world.sent(GATE, |homes, io| {
        let later = io.now + std::time::Duration::from_secs(10);
        let mut io = Scope { now: later, wall: io.wall, out: &mut *io.out, places: io.places };
        homes.handle_timeout(&mut io);
    });
    let (session, account) = (session(1), ACCOUNT);
    let rebind = LinkFrame::Rebind { session, account, name: "avatar", target: avatar(7) };
    let sent = world.hears(first, &rebind, first);
    let asked = frames(&sent).find_map(|frame| match frame {
        LinkFrame::Bind { stream, .. } => Some(stream),
        _ => None,
    });
    let stream = asked.expect("its owner is asked to open it");
    let slot = |index| Slot { index, generation: 1 };
    let moved = LinkFrame::StreamMoved { session, account, stream, slot: slot(5) };
    assert_eq!(world.hears(next, &moved, next).len(), 0);
    let bound = LinkFrame::Bound { session, account, stream, slot: slot(4), epoch: 1 };
    assert_eq!(world.hears(first, &bound, first).len(), 0);
    let conn = slot(9);
    let (streams, groups) = (vec![Seen { handle: stream, number: 0 }], Vec::new());
    let resume =
        LinkFrame::Resume { conn, session, account, level: 1, generation: 2, streams, groups };
    let sent = world.hears(GATE, &resume, next);
    let is_it = |frame| matches!(frame, LinkFrame::Attach { slot: at, .. } if at == slot(5));
    assert!(frames(&sent).any(is_it));
}

/// The word that it had ended was lost with the way to the gate: its client played on with nobody.
#[test]
fn a_gate_that_asks_after_a_session_that_has_ended_is_told_how() {
    let mut world = World::new();
    let (session, account, code) = (session(1), ACCOUNT, CloseCode::Replaced);
    world.hears(OTHER_GATE, &LinkFrame::Home(HomeFrame::Over { session, account, code }), GATE);
    let (conn, generation, streams) = (CONN, 1, Vec::new());
    let leads = Leads { conn, session, account, generation, streams };
    let sent = world.hears(GATE, &LinkFrame::Home(HomeFrame::Leads(leads)), GATE);
    let is_it = |frame| matches!(frame, LinkFrame::Close { conn, code: CloseCode::Replaced, .. } if conn == CONN);
    assert!(frames(&sent).any(is_it));
}

/// The word that a stream had ended was lost with the way to the gate: its client went on to say things there, and took
/// itself for a member of its groups.
#[test]
fn a_stream_that_only_its_gate_knows_ends_for_its_client() {
    let (mut world, known) = World::with_stream(worker(20), Slot { index: 4, generation: 1 });
    let (session, account, generation, streams) = (session(1), ACCOUNT, 1, vec![7, known]);
    let leads = Leads { conn: CONN, session, account, generation, streams };
    let sent = world.hears(GATE, &LinkFrame::Home(HomeFrame::Leads(leads)), GATE);
    let ended = frames(&sent).map(|frame| match frame {
        LinkFrame::Unroute { conn: CONN, stream, .. } => stream,
        other => panic!("{other:?}"),
    });
    assert_eq!(ended.collect::<Vec<_>>(), [7]);
}

/// Seed 14592 of the suite of clusters: a home that was about to lose its links told the gate that a stream had ended,
/// in vain, and handed the session over without it. What its client had said there was neither handled nor given up.
#[test]
fn a_stream_that_its_former_home_has_ended_unheard_ends_when_its_gate_tells_of_it() {
    let (mut world, stream) = World::with_stream(worker(20), Slot { index: 4, generation: 1 });
    let named = |stream| Named { stream, target: avatar(7), name: "avatar" };
    let sent = world.told_of(GATE, Some(CONN), 1, vec![named(1), named(stream)]);
    let ended = frames(&sent).filter_map(|frame| match frame {
        LinkFrame::Unroute { conn: CONN, stream, .. } => Some(stream),
        _ => None,
    });
    assert_eq!(ended.collect::<Vec<_>>(), [1]);
}

/// Seed 16101 of the suite of clusters: the word that a stream had moved was lost with the way to its home. That ended
/// it where it was, but took it to be open where it had been, so that a resume led nowhere.
#[test]
fn a_stream_that_has_moved_unheard_is_opened_anew() {
    let (first, next) = (worker(20), worker(21));
    let slot = |index| Slot { index, generation: 1 };
    for at_gate in [false, true] {
        let (mut world, stream) = World::with_stream(first, slot(4));
        let held = LinkFrame::Home(HomeFrame::Held(Held {
            session: session(1),
            account: ACCOUNT,
            level: 1,
            generation: 1,
            slot: slot(5),
            lost: ME,
            stream: Named { stream, target: avatar(7), name: "avatar" },
            tags: None,
        }));
        let sent = world.hears(next, &held, if at_gate { GATE } else { next });
        let ends = |frame| match frame {
            LinkFrame::Unroute { stream: ended, .. } => at_gate && ended == stream,
            LinkFrame::Unbind { slot: at, .. } => !at_gate && at == slot(5),
            _ => false,
        };
        assert!(frames(&sent).any(ends), "{:?}", frames(&sent).collect::<Vec<_>>());
    }
}

/// Seed 9553 of the suite of clusters: a gate that had not heard that a session was replaced told of it first, and pushed
/// out the one that had replaced it, of which its owners alone had told.
#[test]
fn a_session_of_which_only_owners_have_told_is_not_taken_for_the_older_one() {
    let mut world = World::new();
    let owner = worker(20);
    let held = LinkFrame::Home(HomeFrame::Held(Held {
        session: session(2),
        account: ACCOUNT,
        level: 1,
        generation: 1,
        slot: Slot { index: 5, generation: 1 },
        lost: LOST,
        stream: Named { stream: 1, target: avatar(7), name: "avatar" },
        tags: None,
    }));
    world.hears(owner, &held, owner);
    assert!(world.told(GATE, Some(CONN), 1).is_empty(), "it is not known yet which is later");
    assert_eq!(world.homes.session_of(ACCOUNT), Some(session(2)));
    let later = |world: &mut World| {
        let report = Report {
            conn: Some(CONN),
            session: session(2),
            account: ACCOUNT,
            level: 1,
            generation: 1,
            since_ms: 6,
            lost: LOST,
            last_stream: 1,
            streams: Vec::new(),
        };
        let report = LinkFrame::Home(HomeFrame::Report(report));
        world.hears(OTHER_GATE, &report, GATE)
    };
    // All who know something have had their time.
    world.now += Duration::from_secs(10);
    world.sent(GATE, |homes, io| homes.handle_timeout(io));
    world.told(GATE, Some(CONN), 1);
    assert_eq!(world.homes.session_of(ACCOUNT), Some(session(1)));
    let sent = later(&mut world);
    assert_eq!(world.homes.session_of(ACCOUNT), Some(session(2)));
    assert_eq!(refusal(&sent), Some(CloseCode::Replaced));
}

/// Seed 15186 of the suite of clusters: a gate told of an older session that waited, another of the later one, which
/// waited too and was dropped, so that its client could not resume it.
#[test]
fn of_two_sessions_that_wait_the_later_login_counts_in_any_order() {
    for is_later_first in [false, true] {
        let mut world = World::new();
        let tell = |world: &mut World, (id, since_ms)| {
            let report = Report {
                conn: None,
                session: session(id),
                account: ACCOUNT,
                level: 1,
                generation: 1,
                since_ms,
                lost: LOST,
                last_stream: 0,
                streams: Vec::new(),
            };
            let report = LinkFrame::Home(HomeFrame::Report(report));
            world.hears(GATE, &report, GATE);
        };
        let (first, second) = if is_later_first { ((2, 6), (1, 5)) } else { ((1, 5), (2, 6)) };
        tell(&mut world, first);
        tell(&mut world, second);
        assert_eq!(world.homes.session_of(ACCOUNT), Some(session(2)));
        // Which of two is the later one may not be known: they do not push each other out in turn.
        tell(&mut world, (3, 6));
        assert_eq!(world.homes.session_of(ACCOUNT), Some(session(2)));
    }
}

/// Seed 38600 of the suite of clusters: a node was off the list for a moment and had handed its sessions over; the way
/// to who had them broke, and before they came back their gate was told that they had ended.
#[test]
fn a_session_that_may_come_back_is_not_over_for_the_gate_that_asks_after_it() {
    let other = worker(11);
    let mut world = World::new();
    world.map.workers = vec![other];
    let mut world = world.begun();
    let report = |conn| {
        LinkFrame::Home(HomeFrame::Report(Report {
            conn,
            session: session(1),
            account: ACCOUNT,
            level: 1,
            generation: 1,
            since_ms: 5,
            lost: ME,
            last_stream: 0,
            streams: Vec::new(),
        }))
    };
    assert!(world.hears(GATE, &report(Some(CONN)), GATE).is_empty());
    assert!(world.hears(GATE, &report(None), GATE).is_empty());
    world.hears(other, &LinkFrame::Home(HomeFrame::Settled { layout: 0 }), GATE);
    let sent = world.hears(GATE, &report(Some(CONN)), GATE);
    assert_eq!(refusal(&sent), Some(CloseCode::SessionLost));
}

/// Gates have their own clocks: one that is behind would have the later session pushed out by the one that it replaced.
#[test]
fn a_session_is_later_than_the_one_that_it_replaced_by_whatever_clock() {
    let mut world = World::new();
    world.told(GATE, Some(CONN), 1);
    world.now += Duration::from_secs(10);
    world.sent(GATE, |homes, io| homes.handle_timeout(io));
    let open = LinkFrame::Open(Admission {
        conn: Slot { index: 4, generation: 1 },
        session: session(2),
        account: ACCOUNT,
        expires_ms: 2_000_000,
        since_ms: 3,
        level: 1,
        name: "someone",
        address: "192.0.2.1:7",
    });
    let sent = world.hears(OTHER_GATE, &open, OTHER_GATE);
    let since = frames(&sent).find_map(|frame| match frame {
        LinkFrame::Home(HomeFrame::Wanted(wanted)) => Some(wanted.since_ms),
        _ => None,
    });
    assert_eq!(since, Some(6));
}

/// Seeds 10773 and 16304 of the suite of clusters: a home that could not hand a session over, for the way was cut, let in
/// who logged in anew, as did the account's home by the same ticket.
#[test]
fn who_cannot_hand_a_session_over_leaves_it_to_its_home_to_let_in_another() {
    let next = worker(11);
    let mut world = World::new();
    world.told(GATE, Some(CONN), 1);
    world.map.home = next;
    let open = LinkFrame::Open(Admission {
        conn: Slot { index: 4, generation: 1 },
        session: session(2),
        account: ACCOUNT,
        expires_ms: 2_000_000,
        since_ms: 1_000_000,
        level: 1,
        name: "someone",
        address: "192.0.2.1:7",
    });
    let sent = world.hears(OTHER_GATE, &open, next);
    let is_passed =
        |frame| matches!(frame, LinkFrame::Home(HomeFrame::Pass { from: OTHER_GATE, .. }));
    assert!(frames(&sent).any(is_passed));
    assert_eq!(world.homes.session_of(ACCOUNT), Some(session(1)));
}

#[test]
fn a_gate_that_had_an_older_connection_is_not_told_that_the_session_is_over() {
    let mut world = World::new();
    world.told(GATE, Some(CONN), 2);
    let sent = world.told(OTHER_GATE, None, 1);
    assert_eq!(sent.len(), 0, "{:?}", frames(&sent).collect::<Vec<_>>());
    assert_eq!(world.homes.session_of(ACCOUNT), Some(session(1)));
}

#[test]
fn a_former_home_that_has_forgotten_a_session_passes_on_that_its_connection_broke() {
    let mut world = World::new();
    let next = worker(11);
    world.map.home = next;
    let (generation, code) = (1, CloseCode::Idle);
    let broke =
        LinkFrame::Detached { conn: CONN, session: session(1), account: ACCOUNT, generation, code };
    let sent = world.hears(GATE, &broke, next);
    let is_passed = |frame: LinkFrame<'_>| matches!(frame, LinkFrame::Home(HomeFrame::Pass { from, .. }) if from == GATE);
    assert!(frames(&sent).any(is_passed));
}

fn is_welcomed(sent: &[Vec<u8>]) -> bool {
    frames(sent).any(|frame| {
        matches!(frame, LinkFrame::Welcome { conn: CONN, generation: 3, resumed: true, .. })
    })
}

fn refusal(sent: &[Vec<u8>]) -> Option<CloseCode> {
    frames(sent).find_map(|frame| match frame {
        LinkFrame::Close { conn: CONN, code, .. } => Some(code),
        _ => None,
    })
}

#[test]
fn a_session_that_only_its_client_knows_goes_on_when_its_home_was_lost() {
    let mut world = World::whose_game(|login| {
        assert_eq!((login.account, login.level), (ACCOUNT, 2));
        Ok(vec![Binding { name: "avatar".into(), target: avatar(7) }])
    })
    .begun();
    let sent = world.resumed();
    assert!(is_welcomed(&sent), "{:?}", frames(&sent).collect::<Vec<_>>());
    // What the client knew of streams is over, and what the game gives every session is there.
    let is_over = |frame: LinkFrame<'_>| matches!(frame, LinkFrame::Unroute { stream: 3, .. });
    assert!(frames(&sent).any(is_over));
    let session = &world.homes.list(ACCOUNT, 1)[0];
    assert_eq!(session.streams.iter().map(|s| &*s.0).collect::<Vec<_>>(), ["avatar"]);
    // The connection that it had before does not come back.
    assert_eq!(refusal(&world.resumed()), Some(CloseCode::Replaced));
}

#[test]
fn a_session_that_ended_is_not_begun_again_by_its_client() {
    let mut world = World::new().begun();
    let over = HomeFrame::Over { session: session(1), account: ACCOUNT, code: CloseCode::Kicked };
    world.hears(OTHER_GATE, &LinkFrame::Home(over), GATE);
    assert_eq!(refusal(&world.resumed()), Some(CloseCode::Kicked));
    assert_eq!(world.homes.session_of(ACCOUNT), None);
}

#[test]
fn a_home_that_has_lost_nobody_for_long_knows_which_sessions_there_are() {
    let mut world = World::new().begun();
    world.now += Options::default().resume_window;
    assert_eq!(refusal(&world.resumed()), Some(CloseCode::SessionLost));
}

#[test]
fn the_game_may_refuse_a_session_that_only_its_client_knows() {
    let refuses = |_: &Login<'_>| {
        Err(Refusal { code: CloseCode::Kicked, reason: "banned until Monday".to_owned() })
    };
    let mut world = World::whose_game(refuses).begun();
    assert_eq!(refusal(&world.resumed()), Some(CloseCode::Kicked));
    assert_eq!(world.homes.session_of(ACCOUNT), None);
}

#[test]
fn another_session_of_the_account_is_not_pushed_out_by_one_that_only_its_client_knows() {
    let mut world = World::new().begun();
    let other = Admission {
        conn: Slot { index: 4, generation: 1 },
        session: session(2),
        account: ACCOUNT,
        expires_ms: 2_000_000,
        since_ms: 1_000_000,
        level: 1,
        name: "someone",
        address: "192.0.2.1:7",
    };
    world.hears(OTHER_GATE, &LinkFrame::Open(other), OTHER_GATE);
    assert_eq!(refusal(&world.resumed()), Some(CloseCode::Replaced));
    assert_eq!(world.homes.session_of(ACCOUNT), Some(session(2)));
}

/// Whoever tells of a session may have a later list of nodes than the home that it tells: what was
/// told was passed over, and the streams of living owners were opened anew.
#[test]
fn what_a_home_hears_before_it_knows_that_it_is_one_counts_when_it_does() {
    let mut world = World::new();
    world.map.home = worker(11);
    world.told(GATE, Some(CONN), 1);
    assert_eq!(world.homes.session_of(ACCOUNT), None);
    world.map.home = ME;
    let world = world.begun();
    assert_eq!(world.homes.session_of(ACCOUNT), Some(session(1)));
}

#[test]
fn what_a_home_has_heard_long_before_it_is_one_does_not_count() {
    let mut world = World::new();
    world.map.home = worker(11);
    world.told(GATE, Some(CONN), 1);
    world.map.home = ME;
    world.now += Duration::from_secs(3);
    assert_eq!(world.begun().homes.session_of(ACCOUNT), None);
}

/// Lists of nodes differed, and the home that had a session could not be reached when the next one began: that one knew
/// nothing of the session, and ended it for a client that came back.
#[test]
fn a_session_that_is_not_here_is_sought_at_all_that_may_have_it() {
    let (one, two) = (worker(11), worker(12));
    let said = |is_here| {
        let (session, account) = (session(1), ACCOUNT);
        LinkFrame::Home(HomeFrame::Sought { session, account, is_here })
    };
    let mut world = World::new();
    world.map.others = vec![one, two];
    let asked = world.resumed_at(one);
    let is_question = |frame| matches!(frame, LinkFrame::Home(HomeFrame::Seek { session: s, account: ACCOUNT }) if s == session(1));
    assert!(frames(&asked).all(is_question) && asked.len() == 1);
    assert!(world.hears(one, &said(false), GATE).is_empty());
    let passed = world.hears(two, &said(true), two);
    let is_passed = |frame| matches!(frame, LinkFrame::Home(HomeFrame::Pass { from: GATE, .. }));
    assert!(frames(&passed).all(is_passed) && passed.len() == 1);

    assert!(world.resumed().is_empty());
    assert!(world.hears(one, &said(false), GATE).is_empty());
    let ended = world.hears(two, &said(false), GATE);
    assert_eq!(refusal(&ended), Some(CloseCode::SessionLost));
}

#[test]
fn who_does_not_say_that_he_has_a_session_may_have_it() {
    let mut world = World::new();
    world.map.others = vec![worker(11)];
    assert!(world.resumed().is_empty());
    let sent = world.sent(GATE, |homes, io| {
        io.now += Duration::from_secs(1);
        homes.handle_timeout(io);
    });
    assert_eq!(refusal(&sent), Some(CloseCode::Unavailable));
}

/// A home that took itself for that of a session could not open a stream of it, and gave it up; the client had gone on
/// elsewhere.
#[test]
fn a_session_that_lives_is_ended_by_those_who_want_it_to_end_alone() {
    let mut world = World::new();
    world.told(GATE, Some(CONN), 2);
    // It is put together by then.
    world.now += Duration::from_secs(10);
    world.sent(GATE, |homes, io| homes.handle_timeout(io));
    for (code, lives) in [(CloseCode::Unavailable, true), (CloseCode::Kicked, false)] {
        let over = HomeFrame::Over { session: session(1), account: ACCOUNT, code };
        world.hears(OTHER_GATE, &LinkFrame::Home(over), GATE);
        assert_eq!(world.homes.session_of(ACCOUNT).is_some(), lives, "{code:?}");
    }
}
