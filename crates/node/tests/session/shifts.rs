//! Live connections that go from one gate to the other, at any point and in any order that links allow.

use std::collections::BTreeMap;

use node::session::{Delivery, Options};
use proto::KindId;
use proto::frame::CloseCode;
use proto::link::{LinkFrame, Shift, Slot, WorkerId};

use crate::harness::{ECHO, PUSH, World, avatar, worker};
use crate::model;

/// What a gate knows of a connection that is about to go to another one.
#[derive(Debug)]
pub struct Leaving {
    pub gate: WorkerId,
    pub to: Slot,
    /// The open streams, by the home, and those whose owners have done it.
    streams: Option<Vec<u32>>,
    asked: BTreeMap<u32, Slot>,
    done: Vec<u32>,
}

impl World {
    /// Has the connection of a client go to another gate, if it is settled.
    pub fn shift(&mut self, client: usize, gate: u64) {
        let Some((from, slot)) = self.clients[client].at.filter(|(at, _)| *at != worker(gate))
        else {
            return;
        };
        let Some(conn) = self.gates.get(&from).and_then(|gate| gate.conns.get(&slot)) else {
            return;
        };
        if !conn.welcomed || conn.leaving.is_some() || !self.gates.contains_key(&worker(gate)) {
            return;
        }
        let generation = conn.generation;
        let to = self.connect(client, gate, generation);
        self.clients[client].at = Some((from, slot));
        let gate = worker(gate);
        let asked = BTreeMap::new();
        let leaving = Leaving { gate, to, streams: None, asked, done: Vec::new() };
        let conn = self.gates.get_mut(&from).and_then(|gate| gate.conns.get_mut(&slot));
        conn.expect("just seen").leaving = Some(Box::new(leaving));
        self.ask_home(from, slot);
    }

    fn ask_home(&mut self, at: WorkerId, slot: Slot) {
        let Some(conn) = self.gates[&at].conns.get(&slot) else { return };
        let Some(leaving) = &conn.leaving else { return };
        let (session, account, generation) = (conn.session, conn.account, conn.generation);
        let (gate, to) = (leaving.gate, leaving.to);
        let ask = Shift::Session { conn: slot, session, account, generation, gate, to };
        let home = conn.home;
        self.send(at, home, &LinkFrame::Shift(ask));
    }

    /// A gate hears of a connection that goes or comes.
    pub fn gate_shift(&mut self, at: WorkerId, frame: &Shift) {
        let gate = self.gates.get_mut(&at).expect("a gate of the test");
        let conn = match frame {
            Shift::SessionDone { conn, .. } | Shift::StreamDone { conn, .. } => *conn,
            &Shift::Member { group, conn, stream } => {
                if gate
                    .conns
                    .get(&conn)
                    .is_some_and(|c| matches!(c.routes.get(&stream), Some(Some(_))))
                {
                    gate.groups.entry(group).or_default().insert((conn, stream));
                }
                return;
            }
            other => panic!("no frame for a gate: {other:?}"),
        };
        let Some(leaving) = gate.conns.get_mut(&conn).and_then(|conn| conn.leaving.as_mut()) else {
            return;
        };
        match frame {
            Shift::SessionDone { streams: None, .. } => return self.ask_home(at, conn),
            Shift::SessionDone { streams, .. } => leaving.streams.clone_from(streams),
            Shift::StreamDone { stream, done: true, .. } => {
                leaving.done.push(*stream);
                for members in gate.groups.values_mut() {
                    members.remove(&(conn, *stream));
                }
                gate.groups.retain(|_, members| !members.is_empty());
            }
            Shift::StreamDone { stream, .. } => {
                leaving.asked.remove(stream);
            }
            _ => unreachable!(),
        }
        self.go_on(at, conn);
    }

    /// Asks owners, or lets the connection go. Also called when a route has come.
    pub fn go_on(&mut self, at: WorkerId, slot: Slot) {
        let Some(gate) = self.gates.get_mut(&at) else { return };
        let Some(conn) = gate.conns.get_mut(&slot) else { return };
        let Some(leaving) = conn.leaving.as_mut() else { return };
        let Some(open) = &leaving.streams else { return };
        let is_waited_for = |stream: &u32| {
            conn.routes
                .get(stream)
                .is_none_or(|lead| lead.is_some() && !leaving.done.contains(stream))
        };
        let is_ready = !open.iter().chain(conn.routes.keys()).any(is_waited_for);
        let mut asking = Vec::new();
        for (stream, lead) in &conn.routes {
            let &Some((owner, at)) = lead else { continue };
            if !leaving.done.contains(stream) && leaving.asked.insert(*stream, at) != Some(at) {
                let (gate, to, stream) = (leaving.gate, leaving.to, *stream);
                asking.push((owner, Shift::Stream { slot: at, conn: slot, stream, gate, to }));
            }
        }
        for (owner, frame) in asking {
            self.send(at, owner, &LinkFrame::Shift(frame));
        }
        if is_ready {
            self.arrive(at, slot);
        }
    }

    /// The socket is with the next gate.
    fn arrive(&mut self, at: WorkerId, slot: Slot) {
        let conn = self.gates.get_mut(&at).and_then(|gate| gate.conns.remove(&slot));
        let conn = conn.expect("it is ready");
        let leaving = conn.leaving.expect("it is ready");
        let client = &mut self.clients[conn.client];
        let is_here = client.at == Some((at, slot));
        let gate = self.gates.get_mut(&leaving.gate);
        let Some(next) = gate.and_then(|gate| gate.conns.get_mut(&leaving.to)).filter(|_| is_here)
        else {
            client.at = client.at.filter(|_| !is_here);
            return;
        };
        client.at = Some((leaving.gate, leaving.to));
        next.up = conn.up;
        next.down = conn.down;
        for (stream, _) in conn.routes.iter().filter(|(_, lead)| lead.is_none()) {
            next.routes.entry(*stream).or_insert(None);
        }
        let expected = leaving.done.into_iter();
        next.expects = Some(expected.filter(|s| conn.routes.get(s) != Some(&None)).collect());
        self.settle_in(leaving.gate, leaving.to);
    }

    /// What has come goes on when its routes are there.
    pub fn settle_in(&mut self, at: WorkerId, slot: Slot) {
        let Some(conn) = self.gates.get_mut(&at).and_then(|gate| gate.conns.get_mut(&slot)) else {
            return;
        };
        let Some(expects) = &conn.expects else { return };
        if expects.iter().all(|stream| conn.routes.contains_key(stream)) {
            conn.expects = None;
            conn.welcomed = true;
            conn.down.extend(std::mem::take(&mut conn.held));
        }
    }
}

/// Whenever a connection goes over, and whatever is on its way then, nothing is lost, doubled or out of order, and
/// the client is told nothing of it.
#[test]
fn c10_a_shift_at_every_point_loses_and_doubles_nothing() {
    let whole = model::run(1, &Options::default(), |_| false);
    for at in 0..whole.steps {
        let mut done = false;
        let world = model::run(1, &Options::default(), |world| {
            if !done && world.steps >= at {
                // Not before it is welcome.
                world.shift(0, 2);
                done = world.clients[0].welcomed > 0;
            }
            false
        });
        assert_eq!(world.clients[0].generation, 1, "no resume");
    }
}

#[test]
fn c10_shifts_at_random_points_between_breaks_lose_and_double_nothing() {
    let mut quiet = 0;
    for seed in 0..300 {
        let every = 5 + seed % 60;
        let mut kills = 0;
        let world = model::run(seed, &Options::default(), |world| {
            if world.random.chance(1, every) {
                let gate = 1 + world.random.below(2);
                world.shift(0, gate);
            }
            let now = seed % 3 > 0 && kills < 20 && world.random.chance(1, 3 * every);
            kills += u32::from(now);
            now
        });
        quiet += u64::from(world.clients[0].generation == 1);
    }
    assert!(quiet >= 100, "who is not killed does not resume: {quiet}");
}

/// Two members, of which one goes over in the middle of casts.
#[test]
fn c10_casts_reach_a_member_once_while_it_goes_over() {
    for seed in 0..200 {
        let mut world = World::new(seed, &Options::default());
        let players = [world.client(7, 1), world.client(8, 2)];
        for player in players {
            world.login(player, 1);
        }
        world.run();
        let group = world.with(worker(20), |server, io| {
            let kind = KindId::of("team");
            let group = server.streams.create_group(avatar(7), kind, "team").unwrap();
            for account in [7, 8] {
                let peer = server.streams.peers_of(avatar(account)).next().unwrap().slot;
                server.streams.join(io.out, group, peer).unwrap();
            }
            group
        });
        world.run();
        for n in 1..=40u64 {
            world.with(worker(20), |server, io| {
                let body = n.to_le_bytes();
                server.streams.cast(io.out, group, (PUSH, Delivery::Reliable), &body).unwrap();
            });
            if n % 10 == 3 {
                world.shift(players[0], 1 + (n / 10 + 1) % 2);
            }
            if n % 7 == 0 {
                world.say(players[0], "avatar", true, ECHO, n);
            }
            for _ in 0..world.random.below(6) {
                world.step();
            }
        }
        world.run();
        let all: Vec<u64> = (1..=40).collect();
        for player in players {
            let client = &world.clients[player];
            let heard: Vec<u64> = client.casts.iter().map(|(_, n)| *n).collect();
            assert_eq!(heard, all, "seed {seed}");
            assert_eq!((client.generation, client.resyncs), (1, 0), "seed {seed}");
        }
        for player in players {
            world.logout(player);
        }
        world.run();
        world.assert_empty();
    }
}

/// A stream that is just being opened leads to the next gate in the end.
#[test]
fn c10_a_stream_that_is_opened_meanwhile_leads_to_the_next_gate() {
    for seed in 0..200 {
        let mut world = World::new(seed, &Options::default());
        let player = world.client(7, 1);
        world.login(player, 1);
        world.run();
        let peer = world.server(20).streams.peers_of(avatar(7)).next().unwrap().slot;
        world.with(worker(20), |server, io| {
            let arena = proto::EntityId::keyed(crate::harness::ARENA, 1);
            server.streams.rebind(io.out, peer, "arena", arena);
        });
        for _ in 0..world.random.below(12) {
            world.step();
        }
        world.shift(player, 2);
        world.run();
        assert_eq!(world.clients[player].at.map(|(gate, _)| gate), Some(worker(2)));
        world.say(player, "arena", true, ECHO, 9).expect("the stream is there");
        world.run();
        assert_eq!(world.clients[player].replies.len(), 1, "seed {seed}");
        assert!(world.clients[player].closed.is_empty());
        world.logout(player);
        world.run();
        world.assert_empty();
    }
}

/// Who goes away in the middle resumes as ever; the place that was kept for it hears the end.
#[test]
fn c10_a_client_that_breaks_off_while_it_goes_over_resumes() {
    for seed in 0..200 {
        let mut world = World::new(seed, &Options::default());
        let player = world.client(7, 1);
        world.login(player, 1);
        world.run();
        world.say(player, "avatar", true, ECHO, 1);
        world.shift(player, 2);
        for _ in 0..world.random.below(8) {
            world.step();
        }
        world.kill(player);
        world.resume(player, 1 + seed % 2);
        world.run();
        world.say(player, "avatar", true, ECHO, 2);
        world.run();
        assert_eq!(world.clients[player].pushes, [1, 2], "seed {seed}");
        let closed = &world.clients[player].closed;
        assert!(closed.iter().all(|code| *code == CloseCode::Replaced), "{closed:?}");
        world.logout(player);
        world.run();
        world.assert_empty();
    }
}
