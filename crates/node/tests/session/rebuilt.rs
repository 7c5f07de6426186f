//! What a home does that has put sessions together again, or has them no more.

use env::{Instant, WallTime};
use node::session::{Bindings, Homes, Options, Scope};
use proto::AccountId;
use proto::frame::CloseCode;
use proto::link::{Admission, HomeFrame, LinkFrame, Report, Slot, WorkerId};

use crate::harness::{Map, Port, Wires, session, worker};

const ME: WorkerId = worker(10);
const LOST: WorkerId = worker(9);
const GATE: WorkerId = worker(1);
const OTHER_GATE: WorkerId = worker(2);
const ACCOUNT: AccountId = AccountId(7);
const CONN: Slot = Slot { index: 3, generation: 1 };

struct World {
    homes: Homes,
    map: Map,
}

impl World {
    fn new() -> World {
        let bindings = Bindings::new(|_| Ok(Vec::new()));
        let homes = Homes::new(ME, Options::default(), bindings);
        World { homes, map: Map { home: ME, ..Map::default() } }
    }

    /// Runs `act` at the home, and gives what it sent to `to`.
    fn sent<R>(
        &mut self,
        to: WorkerId,
        act: impl FnOnce(&mut Homes, &mut Scope<'_, Port<'_>, Map>) -> R,
    ) -> Vec<Vec<u8>> {
        let mut wires = Wires::new();
        let mut port = Port { from: ME, wires: &mut wires, room: usize::MAX };
        let (now, wall) = (Instant::from_nanos(1_000_000_000), WallTime(1_000_000));
        let mut io = Scope { now, wall, out: &mut port, places: &self.map };
        act(&mut self.homes, &mut io);
        wires.remove(&(ME, to)).unwrap_or_default().into()
    }

    fn hears(&mut self, from: WorkerId, frame: &LinkFrame<'_>, to: WorkerId) -> Vec<Vec<u8>> {
        self.sent(to, |homes, io| homes.handle_link(io, from, frame))
    }

    /// A gate tells of session 1, on `CONN` or waiting, with `generation`.
    fn told(&mut self, gate: WorkerId, conn: Option<Slot>, generation: u64) -> Vec<Vec<u8>> {
        let report = Report {
            conn,
            session: session(1),
            account: ACCOUNT,
            level: 1,
            generation,
            since_ms: 5,
            lost: LOST,
            last_stream: 0,
            streams: Vec::new(),
        };
        self.hears(gate, &LinkFrame::Home(HomeFrame::Report(report)), gate)
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
        let later = io.now + std::time::Duration::from_secs(10);
        let mut io = Scope { now: later, wall: io.wall, out: &mut *io.out, places: io.places };
        homes.handle_timeout(&mut io);
    });
    let conn = Slot { index: 4, generation: 1 };
    let open = LinkFrame::Open(Admission {
        conn,
        session: session(1),
        account: ACCOUNT,
        expires_ms: 2_000_000,
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
