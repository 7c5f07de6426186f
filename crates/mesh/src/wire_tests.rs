//! Two meshes over real sockets and over pipes, each on a thread of its own.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use env::{Clock, Random};
use proto::Incarnation;
use proto::link::{LinkFrame, WorkerId};
use transport::{Board, Doorbell, Event, ListenOptions, Read, Sockets, Token};

use crate::{Heard, Key, Mesh, Options, PeerInfo, SendError, Wires};

const PATIENCE: Duration = Duration::from_secs(30);
const FRAMES: u32 = 50_000;

/// One worker: what a driver of a node or gate does, in short.
struct Side {
    clock: Clock,
    sockets: Sockets,
    mesh: Mesh,
    wires: Wires,
    doorbell: Doorbell,
    events: Vec<Event>,
    scratch: Vec<u8>,
    /// The number of the last frame that came.
    received: u32,
    full: u32,
}

fn id(node: u64) -> WorkerId {
    WorkerId { node: Incarnation(node), worker: 0 }
}

impl Side {
    fn new(node: u64, board: &Board) -> Self {
        let clock = Clock::system();
        let sockets = Sockets::new(transport::Options::default(), clock.clone()).unwrap();
        let options = Options { queue_bytes_soft: 256 * 1024, ..Options::default() };
        let key = Key::shared(&[3; 32]);
        let random = Random::from_seed(node);
        Side {
            doorbell: board.open(node, 0, sockets.waker()),
            mesh: Mesh::new(id(node), &node.to_string(), options, key, random),
            wires: Wires::new(board.clone()),
            clock,
            sockets,
            events: Vec::new(),
            scratch: vec![0; 64 * 1024],
            received: 0,
            full: 0,
        }
    }

    /// Sends `FRAMES` numbered frames of different lengths and takes as many, in order.
    /// Goes on until the other has all of its own, which `done` counts.
    fn exchange(mut self, to: u64, done: &AtomicU32) -> Self {
        let end = self.clock.now() + PATIENCE;
        let mut sent = 0;
        let mut is_done = false;
        while done.load(Ordering::SeqCst) < 2 {
            if !is_done && sent == FRAMES && self.received == FRAMES {
                is_done = true;
                done.fetch_add(1, Ordering::SeqCst);
            }
            assert!(self.clock.now() < end, "{sent} sent, {} received", self.received);
            while sent < FRAMES && self.send(to, sent + 1) {
                sent += 1;
            }
            self.turn(Duration::from_millis(5));
        }
        self
    }

    fn send(&mut self, to: u64, number: u32) -> bool {
        let body = vec![number as u8; (number % 1500) as usize];
        let subject = number.to_string();
        let frame = LinkFrame::Publish { subject: &subject, body: &body };
        match self.mesh.send(self.clock.now(), id(to), |out| frame.encode(0, out)) {
            Ok(()) => true,
            Err(SendError::Full) => {
                self.full += 1;
                false
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn turn(&mut self, timeout: Duration) {
        let now = self.clock.now();
        let (mesh, sockets) = (&mut self.mesh, &mut self.sockets);
        self.wires.flush(now, mesh, sockets, |_| {});
        sockets.poll(Some(timeout), &mut self.events).unwrap();
        let now = self.clock.now();
        for end in self.doorbell.take() {
            self.wires.accept_pipe(now, mesh, sockets, end);
        }
        let mut readable = Vec::new();
        for event in self.events.drain(..) {
            match self.wires.handle_event(now, mesh, sockets, &event) {
                Heard::Readable(token, link) => readable.push((token, link)),
                Heard::Done => {}
                Heard::Other => {
                    if let Event::Accepted { socket, .. } = event {
                        self.wires.accept(now, mesh, sockets, socket);
                    }
                }
            }
        }
        for (token, link) in readable {
            self.read(token, link);
        }
        self.mesh.handle_timeout(now);
    }

    fn read(&mut self, token: Token, link: crate::LinkId) {
        let now = self.clock.now();
        loop {
            let read = self.sockets.read(token, &mut self.scratch);
            if let Read::Data(len) | Read::More(len) = read {
                let received = &mut self.received;
                self.mesh.handle_bytes(now, link, &self.scratch[..len], |_, payload| {
                    let (_, frame) = LinkFrame::decode(payload).unwrap();
                    let LinkFrame::Publish { subject, body } = frame else { panic!() };
                    *received += 1;
                    assert_eq!(subject, received.to_string(), "in order, none lost");
                    assert_eq!(body.len(), (*received % 1500) as usize);
                    assert!(body.iter().all(|byte| *byte == *received as u8));
                });
            }
            match read {
                Read::More(_) => {}
                Read::Data(_) | Read::Blocked => return,
                Read::Closed(_) => {
                    let (mesh, sockets) = (&mut self.mesh, &mut self.sockets);
                    self.wires.handle_closed(now, mesh, sockets, token);
                    return;
                }
            }
        }
    }
}

fn exchange(mut one: Side, mut two: Side, addresses: [Option<SocketAddr>; 2]) {
    let peer = |node: u64| PeerInfo {
        name: node.to_string(),
        addresses: addresses[node as usize - 1].into_iter().collect(),
    };
    one.mesh.set_peer(id(2).node, peer(2));
    two.mesh.set_peer(id(1).node, peer(1));
    let done = AtomicU32::new(0);
    let (mut one, mut two) = std::thread::scope(|scope| {
        let one = scope.spawn(|| one.exchange(2, &done));
        let two = scope.spawn(|| two.exchange(1, &done));
        (one.join().unwrap(), two.join().unwrap())
    });
    assert!(one.full + two.full > 0, "the soft limit was never felt");
    // One goes away: the other hears of it and keeps no wire.
    drop(one.doorbell);
    drop(one.sockets);
    one.mesh.remove_peer(id(2).node);
    let end = two.clock.now() + PATIENCE;
    while two.mesh.is_up(id(1).node) {
        assert!(two.clock.now() < end);
        two.turn(Duration::from_millis(5));
    }
    assert!(two.wires.is_empty());
}

#[test]
fn frames_cross_tcp_in_order() {
    let (board_one, board_two) = (Board::new(), Board::new());
    let (mut one, mut two) = (Side::new(1, &board_one), Side::new(2, &board_two));
    let loopback = "127.0.0.1:0".parse().unwrap();
    let listen =
        |side: &mut Side| Some(side.sockets.listen(loopback, ListenOptions::default()).unwrap().1);
    let addresses = [listen(&mut one), listen(&mut two)];
    exchange(one, two, addresses);
}

#[test]
fn frames_cross_pipes_in_order() {
    let board = Board::new();
    exchange(Side::new(1, &board), Side::new(2, &board), [None, None]);
}
