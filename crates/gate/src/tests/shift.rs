//! Connections that go from one gate to the next, each with a scripted home and owner.

use proto::link::Shift;

use super::*;

/// How the owner knows the stream by the next gate.
const NEXT_SLOT: Slot = STREAM_SLOT;

/// A gate with a player, and its successor with a place for it.
struct Pair {
    old: Rig,
    new: Rig,
    player: Player,
    /// The place at the successor.
    to: Slot,
}

impl Pair {
    /// `before` happens to the connection while the first gate has it.
    fn new(before: impl FnOnce(&mut Rig, Slot)) -> Pair {
        let (mut old, mut new) = (rig(), rig());
        // Its places have other numbers.
        new.open("10.0.0.9").unwrap();
        let player = old.login("10.0.0.1", 7);
        before(&mut old, player.conn);
        let offers = old.gate.offer(old.now, 10, |_| true);
        let [(slot, offer)] = &offers[..] else { panic!("one can go: {}", offers.len()) };
        assert_eq!(*slot, player.conn);
        let to = new.gate.reserve(new.now, offer).expect("there is room");
        let gate = WorkerId { node: FAR, worker: 1 };
        old.gate.shift(old.now, player.conn, (gate, to));
        Pair { old, new, player, to }
    }

    /// Home and owner do as they are asked.
    fn redirect(&mut self) {
        self.home_redirects(vec![1]);
        self.owner_redirects();
    }

    fn home_redirects(&mut self, streams: Vec<u32>) {
        let (conn, streams) = (self.player.conn, Some(streams));
        self.old.home(&LinkFrame::Shift(Shift::SessionDone { conn, streams }));
    }

    fn owner_redirects(&mut self) {
        let conn = self.player.conn;
        self.old.home(&LinkFrame::Shift(Shift::StreamDone { conn, stream: 1, done: true }));
    }

    fn route(&mut self) {
        let (owner, slot, kind, name) = (HOME, NEXT_SLOT, KIND, "avatar");
        let (stream, epoch, announce) = (1, 1, false);
        let conn = self.to;
        self.new.home(&LinkFrame::Route { conn, stream, owner, slot, kind, epoch, name, announce });
    }

    /// The connection goes over.
    fn go(&mut self) {
        let (slot, _, to) = self.old.gate.poll_left().expect("it can go");
        assert_eq!((slot, to), (self.player.conn, self.to));
        let state = self.old.gate.export(self.old.now, slot).unwrap();
        assert!(self.old.gate.poll_left().is_none() && !self.old.gate.is_shifting());
        self.new.gate.import(self.new.now, to, &state).unwrap();
        self.new.drain();
    }
}

fn lines(trace: &str, with: &str) -> Vec<String> {
    let found = trace.lines().filter_map(|line| line.split_once(with));
    found.map(|(_, rest)| rest.to_owned()).collect()
}

/// Wherever the stream of the client's bytes is cut, and however much of what is for it was written,
/// each message arrives once and in order, both ways.
#[test]
fn c10_nothing_is_lost_doubled_or_reordered_wherever_a_connection_is_cut() {
    let mut bytes = Vec::new();
    for number in 1..=6 {
        put_frame(&mut bytes, |out| tell(1, number, &[b'a'; 20]).encode(out));
    }
    let up: Vec<String> = (1..=6).map(|n| format!("Tell #{n} add {}", "a".repeat(20))).collect();
    let down: Vec<String> = (1..=6).map(|n| format!("1 #{n} x")).collect();
    for cut in 0..=bytes.len() {
        for written in 0..=2 {
            for late in [false, true] {
                let mut pair = Pair::new(|old, conn| {
                    old.raw(conn, &bytes[..cut]);
                    for number in 1..=2 {
                        old.is_reading = number <= written;
                        old.push(conn, number, 1, b"x");
                    }
                });
                // On their way to the first gate when the owner hears of the second.
                pair.old.is_reading = false;
                pair.old.push(pair.player.conn, 3, 1, b"x");
                pair.redirect();
                if !late {
                    pair.route();
                    pair.new.push(pair.to, 4, 1, b"x");
                }
                pair.go();
                if late {
                    // Its frames come later than the connection.
                    assert!(pair.new.gate.is_paused(pair.to));
                    pair.route();
                    pair.new.push(pair.to, 4, 1, b"x");
                }
                pair.new.push(pair.to, 5, 1, b"x");
                assert!(!pair.new.gate.is_paused(pair.to));
                assert_eq!(pair.new.gate.poll_readable(), Some(pair.to));
                pair.new.raw(pair.to, &bytes[cut..]);
                pair.new.push(pair.to, 6, 1, b"x");
                let (old, new) = (pair.old.trace(), pair.new.trace());
                let both = format!("{old}{new}");
                assert_eq!(lines(&both, "Up "), up, "cut {cut}: {both}");
                assert_eq!(lines(&both, "Push "), down, "cut {cut}: {both}");
                assert!(!both.contains("Close") && !both.contains("Welcome"), "{both}");
                let stats = (pair.old.gate.stats(), pair.new.gate.stats());
                assert_eq!((stats.0.given, stats.0.connections), (1, 0));
                assert_eq!((stats.1.taken, stats.1.sessions, stats.1.resumes), (1, 1, 0));
            }
        }
    }
}

/// The cast that goes to both gates reaches a member once.
#[test]
fn c10_a_member_of_a_group_gets_each_cast_once() {
    let mut pair = Pair::new(|old, conn| old.join(conn, group(1)));
    let other = pair.old.login("10.0.0.2", 8);
    pair.old.join(other.conn, group(1));
    pair.old.cast(group(1), 4, b"four");
    pair.redirect();
    pair.route();
    let (conn, group_1) = (pair.to, group(1));
    pair.new.home(&LinkFrame::Shift(Shift::Member { group: group_1, conn, stream: 1 }));
    for rig in [&mut pair.old, &mut pair.new] {
        rig.cast(group(1), 5, b"five");
    }
    pair.go();
    pair.new.cast(group(1), 6, b"six");
    let (old, new) = (pair.old.trace(), pair.new.trace());
    let me = format!("c{} ", pair.player.conn.index);
    let at_old: Vec<&str> = old.lines().filter(|line| line.starts_with(&me)).collect();
    assert_eq!(at_old, ["c0 Cast #4 four"]);
    assert_eq!(lines(&new, "Cast "), ["#5 five", "#6 six"]);
    assert!(!new.contains("Joined"), "the client knows: {new}");
    let stats = pair.new.gate.stats();
    assert_eq!((stats.groups, stats.members), (1, 1));
    assert_eq!(pair.old.gate.stats().members, 1);
}

/// What the gate holds of a connection beside its bytes: limits, the way's measure, ended streams.
#[test]
fn c10_a_connection_keeps_its_limits_and_its_measure() {
    let mut pair = Pair::new(|old, conn| {
        old.route(conn, 2, HOME);
        let code = CloseCode::Goodbye;
        old.home(&LinkFrame::Unroute { conn, stream: 2, code });
        // A ping after a silence, and its answer a while later.
        old.pass(secs(7));
        old.pass(millis(40));
        old.client(conn, &UpFrame::Pong { token: 1 });
        for number in 1..=900 {
            old.client(conn, &tell(1, number, b""));
        }
        old.trace();
    });
    pair.redirect();
    pair.route();
    let before = pair.old.gate.connections(1)[0].clone();
    pair.go();
    let after = pair.new.gate.connections(9)[1].clone();
    assert_eq!((after.rtt, after.jitter), (before.rtt, before.jitter));
    assert!(after.rtt.is_some());
    assert_eq!((after.peer, after.session), (before.peer, before.session));
    // Its burst of a thousand is used up soon.
    for number in 901..=1_100 {
        pair.new.client(pair.to, &tell(1, number, b""));
    }
    assert!(pair.new.hits(Rule::Messages) >= 90);
    pair.new.trace();
    pair.new.client(pair.to, &tell(2, 1, b""));
    assert!(pair.new.trace().contains("Unavailable"), "the stream was there once");
}

/// A home that opens a stream at the moment cannot say yes; it is asked again.
#[test]
fn c10_who_cannot_redirect_now_is_asked_again() {
    let mut pair = Pair::new(|_, _| {});
    let asked = |rig: &mut Rig| (rig.trace().matches("Shift(Session {").count(), rig.now).0;
    pair.old.drain();
    assert_eq!(asked(&mut pair.old), 1);
    let conn = pair.player.conn;
    pair.old.home(&LinkFrame::Shift(Shift::SessionDone { conn, streams: None }));
    pair.old.pass(millis(30));
    assert_eq!(asked(&mut pair.old), 1);
    // A stream that the gate has not heard of yet is waited for.
    pair.home_redirects(vec![1, 2]);
    pair.owner_redirects();
    assert!(pair.old.gate.poll_left().is_none());
    pair.old.route(conn, 2, FAR_OWNER);
    pair.old.pass(millis(30));
    let refused = Shift::StreamDone { conn, stream: 2, done: false };
    pair.old.link(FAR_OWNER, &LinkFrame::Shift(refused));
    assert!(pair.old.gate.poll_left().is_none());
    pair.old.pass(millis(30));
    let done = Shift::StreamDone { conn, stream: 2, done: true };
    pair.old.link(FAR_OWNER, &LinkFrame::Shift(done));
    assert!(pair.old.gate.poll_left().is_some());
}

#[test]
fn c10_a_connection_that_cannot_go_in_time_is_told_to_resume() {
    let mut pair = Pair::new(|_, _| {});
    pair.home_redirects(vec![1]);
    pair.old.pass(secs(4));
    let trace = pair.old.trace();
    assert!(trace.contains("Close GoingAway"), "{trace}");
    assert!(!pair.old.gate.is_shifting());
    // Nobody comes: the place is given back, and the session's home hears that nobody is there.
    pair.new.pass(secs(5));
    let trace = pair.new.trace();
    assert!(trace.contains("Detached account 7 generation 1 Unavailable"), "{trace}");
    let state = vec![0; 40];
    assert!(pair.new.gate.import(pair.new.now, pair.to, &state).is_err());
}

#[test]
fn c10_only_settled_connections_are_offered() {
    let mut rig = rig();
    let player = rig.login("10.0.0.1", 1);
    let early = rig.open("10.0.0.2").unwrap();
    let waiting = rig.open("10.0.0.3").unwrap();
    let grant = rig.grant(3, 0);
    rig.ask(waiting, &grant);
    let twice = rig.login("10.0.0.4", 4);
    rig.route(twice.conn, 2, HOME);
    for stream in [1, 2] {
        rig.join_by(twice.conn, stream, group(1));
    }
    let lost = rig.login("10.0.0.5", 5);
    rig.route(lost.conn, 2, FAR_OWNER);
    rig.gate.handle_peer_down(rig.now, FAR);
    let offered = rig.gate.offer(rig.now, 10, |_| true);
    assert_eq!(offered.iter().map(|(slot, _)| *slot).collect::<Vec<_>>(), [player.conn]);
    assert!(!rig.gate.is_paused(early) && rig.gate.is_paused(player.conn));
    // Without a place it stays, and is read again.
    rig.gate.stay(rig.now, player.conn);
    assert_eq!(rig.gate.poll_readable(), Some(player.conn));
    assert!(rig.gate.offer(rig.now, 10, |_| false).is_empty());
}

/// A gate takes nothing from another build that it does not understand, and nothing makes it panic.
#[test]
fn c10_bytes_of_another_build_are_refused() {
    let mut pair = Pair::new(|_, _| {});
    pair.redirect();
    pair.route();
    let (slot, ..) = pair.old.gate.poll_left().unwrap();
    let state = pair.old.gate.export(pair.old.now, slot).unwrap();
    for len in 0..state.len() {
        assert!(pair.new.gate.import(pair.new.now, pair.to, &state[..len]).is_err(), "{len}");
    }
    let longer = [&state[..], &[0]].concat();
    assert!(pair.new.gate.import(pair.new.now, pair.to, &longer).is_err());
    assert!(pair.new.gate.import(pair.new.now, Slot::default(), &state).is_err());
    assert!(pair.new.gate.import(pair.new.now, pair.to, &state).is_ok());
    assert!(pair.new.gate.import(pair.new.now, pair.to, &state).is_err(), "once");
    let player = pair.old.login("10.0.0.3", 9);
    let offers = pair.old.gate.offer(pair.old.now, 1, |slot| slot == player.conn);
    let offer = &offers[0].1;
    for len in 0..offer.len() {
        assert!(pair.new.gate.reserve(pair.new.now, &offer[..len]).is_none(), "{len}");
    }
    assert!(pair.new.gate.reserve(pair.new.now, offer).is_some());
    pair.new.gate.drain(pair.new.now, secs(1));
    assert!(pair.new.gate.reserve(pair.new.now, offer).is_none(), "it goes down itself");
}
