use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread::JoinHandle;

use env::Clock;
use transport::{Event, ListenOptions, Read, Sniff, Sockets, Token, Waker, sniff, ws};

use super::FakeServer;
use crate::Address;

type Job = Box<dyn FnOnce(&mut FakeServer) + Send>;

/// A [`FakeServer`] behind a real port of this machine, for TCP and WebSocket. Runs in a thread
/// of its own until it is dropped.
#[derive(Debug)]
pub struct FakeGate {
    address: SocketAddr,
    jobs: Option<mpsc::Sender<Job>>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

impl FakeGate {
    /// Opens a port that the system chooses.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn start() -> Self {
        let clock = Clock::system();
        let mut sockets = Sockets::new(transport::Options::default(), clock).expect("a poll");
        let any = "127.0.0.1:0".parse().expect("an address");
        let (_, address) = sockets.listen(any, ListenOptions::default()).expect("a port");
        let waker = sockets.waker();
        let (jobs, inbox) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            Loop { sockets, server: FakeServer::default(), connections: BTreeMap::new(), made: 0 }
                .run(&inbox);
        });
        FakeGate { address, jobs: Some(jobs), waker, thread: Some(thread) }
    }

    /// Where plain TCP clients connect to.
    pub fn tcp(&self) -> Address {
        format!("tcp://{}", self.address).parse().expect("an address")
    }

    /// Where WebSocket clients connect to.
    pub fn web_socket(&self) -> Address {
        format!("ws://{}/play", self.address).parse().expect("an address")
    }

    /// Runs `job` with the server, between its turns, and gives what it gives.
    ///
    /// # Panics
    ///
    /// If the server has panicked, as it does when a client breaks the protocol.
    pub fn with<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut FakeServer) -> R + Send + 'static,
    ) -> R {
        let (done, result) = mpsc::channel();
        let job: Job = Box::new(move |server| {
            let _ = done.send(job(server));
        });
        let jobs = self.jobs.as_ref().expect("kept until dropped");
        jobs.send(job).expect("the fake gate runs");
        self.waker.wake();
        result.recv().expect("the fake gate runs")
    }
}

impl Drop for FakeGate {
    fn drop(&mut self) {
        self.jobs = None;
        self.waker.wake();
        if let Some(thread) = self.thread.take() {
            let result = thread.join();
            assert!(result.is_ok() || std::thread::panicking(), "the fake gate panicked");
        }
    }
}

struct Loop {
    sockets: Sockets,
    server: FakeServer,
    connections: BTreeMap<Token, Connection>,
    made: u64,
}

struct Connection {
    id: u64,
    speaks: Speaks,
    out: Vec<u8>,
}

enum Speaks {
    Unknown(Vec<u8>),
    Plain,
    WebSocket(ws::Decoder),
}

impl Loop {
    fn run(mut self, jobs: &mpsc::Receiver<Job>) {
        let mut events = Vec::new();
        let mut scratch = vec![0; 64 * 1024];
        loop {
            self.sockets.poll(None, &mut events).expect("a poll");
            for event in events.drain(..) {
                match event {
                    Event::Accepted { socket, .. } => {
                        self.made += 1;
                        let speaks = Speaks::Unknown(Vec::new());
                        let fresh = Connection { id: self.made, speaks, out: Vec::new() };
                        self.connections.insert(socket, fresh);
                    }
                    Event::Readable(socket) => self.read(socket, &mut scratch),
                    _ => {}
                }
            }
            loop {
                match jobs.try_recv() {
                    Ok(job) => job(&mut self.server),
                    Err(mpsc::TryRecvError::Empty) => break,
                    Err(mpsc::TryRecvError::Disconnected) => return,
                }
            }
            self.write();
        }
    }

    fn read(&mut self, socket: Token, scratch: &mut [u8]) {
        loop {
            let read = self.sockets.read(socket, scratch);
            match read {
                Read::Data(len) | Read::More(len) => {
                    let good = self.take(socket, &mut scratch[..len]);
                    if !good {
                        return self.close(socket);
                    }
                    if matches!(read, Read::Data(_)) {
                        return;
                    }
                }
                Read::Blocked => return,
                Read::Closed(_) => return self.close(socket),
            }
        }
    }

    fn take(&mut self, socket: Token, mut bytes: &mut [u8]) -> bool {
        let Some(known) = self.connections.get_mut(&socket) else { return false };
        match &mut known.speaks {
            Speaks::Plain => self.server.handle_bytes(known.id, bytes),
            Speaks::WebSocket(decoder) => loop {
                match decoder.next(&mut bytes) {
                    Ok(None) => break,
                    Ok(Some(ws::Piece::Data(data))) => self.server.handle_bytes(known.id, data),
                    Ok(Some(ws::Piece::Ping(_) | ws::Piece::Pong)) => {}
                    Ok(Some(ws::Piece::Close(_))) | Err(_) => return false,
                }
            },
            Speaks::Unknown(head) => {
                head.extend_from_slice(bytes);
                return self.greet(socket);
            }
        }
        true
    }

    /// Finds out what a new connection speaks.
    fn greet(&mut self, socket: Token) -> bool {
        let known = self.connections.get_mut(&socket).expect("it was just read");
        let Speaks::Unknown(head) = &mut known.speaks else { return true };
        match sniff(head) {
            Sniff::More => true,
            Sniff::Preface(_) => {
                let head = std::mem::take(head);
                known.speaks = Speaks::Plain;
                self.server.open(known.id, false);
                self.server.handle_bytes(known.id, &head);
                true
            }
            Sniff::Http => match ws::upgrade(head, &ws::UpgradeOptions::default()) {
                ws::Answer::More => true,
                ws::Answer::Upgrade { response, used } => {
                    let mut rest = head.split_off(used);
                    known.out.extend_from_slice(&response);
                    known.speaks = Speaks::WebSocket(ws::Decoder::new(ws::Role::Server, 64 * 1024));
                    self.server.open(known.id, true);
                    self.take(socket, &mut rest)
                }
                ws::Answer::Http | ws::Answer::Refuse { .. } => false,
            },
            Sniff::Unknown => false,
        }
    }

    fn write(&mut self) {
        let mut closed = Vec::new();
        for (&socket, known) in &mut self.connections {
            let mut closes = false;
            if !matches!(known.speaks, Speaks::Unknown(_)) {
                let (bytes, close) = self.server.take_output(known.id);
                let from = known.out.len();
                known.out.extend_from_slice(&bytes);
                if let Speaks::WebSocket(_) = known.speaks {
                    ws::wrap_binary(&mut known.out, from);
                }
                closes = close;
            }
            if !known.out.is_empty() {
                self.sockets.write(socket, &mut known.out);
            }
            if closes && known.out.is_empty() {
                closed.push(socket);
            }
        }
        for socket in closed {
            if let Some(known) = self.connections.remove(&socket) {
                self.server.close(known.id);
                self.sockets.finish(socket);
            }
        }
    }

    fn close(&mut self, socket: Token) {
        if let Some(known) = self.connections.remove(&socket) {
            self.server.close(known.id);
        }
        self.sockets.close(socket);
    }
}
