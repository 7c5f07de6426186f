//! A gate with real sockets, pipes and threads, before a scripted node.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;

use cluster::{NodeInfo, SESSION_KIND};
use mesh::{Heard, Wires};
use proto::frame::{DownFrame, StreamUp, UpFrame, VERSION, put_frame, split_frame};
use proto::link::{HomeFrame, LinkFrame, Shift};
use proto::ticket::{Claims, login_proof};
use proto::{AccountId, KindId, MethodId, Reader};
use transport::ws::{Decoder, Piece, Role, check_answer, put_masked, request};
use transport::{Doorbell, Event, Read, Token};

use super::*;

const GATE: Incarnation = Incarnation(11);
const NODE: Incarnation = Incarnation(22);
/// The gate's successor.
#[cfg(unix)]
const NEXT: Incarnation = Incarnation(33);
const ECHO: MethodId = MethodId::of("echo");

/// A node that admits everybody and echoes.
struct Echo {
    stop: Arc<AtomicBool>,
    waker: Waker,
    thread: Option<JoinHandle<Vec<String>>>,
    address: Option<SocketAddr>,
}

struct EchoLoop {
    mesh: Mesh,
    sockets: Sockets,
    wires: Wires,
    doorbell: Doorbell,
    heard: Vec<String>,
}

impl Echo {
    /// Links by pipe over `board`, or by TCP without one.
    fn start(board: &Board, over_tcp: bool) -> Echo {
        let clock = Clock::system();
        let mut sockets = Sockets::new(transport::Options::default(), clock.clone()).unwrap();
        let me = WorkerId { node: NODE, worker: 0 };
        let links = mesh::Options::default();
        let mesh = Mesh::new(me, "echo", links, Key::none(), Random::from_seed(5));
        let address = over_tcp.then(|| {
            let any = SocketAddr::from(([127, 0, 0, 1], 0));
            sockets.listen(any, ListenOptions::default()).unwrap().1
        });
        let waker = sockets.waker();
        let doorbell = board.open(NODE.0, 0, sockets.waker());
        let stop = Arc::new(AtomicBool::new(false));
        let node = EchoLoop {
            mesh,
            sockets,
            wires: Wires::new(board.clone()),
            doorbell,
            heard: Vec::new(),
        };
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || node.run(&clock, &stopped));
        Echo { stop, waker, thread: Some(thread), address }
    }

    fn directory(&self) -> Arc<Directory> {
        let mut info = NodeInfo::new("echo", NODE);
        info.kinds = vec![SESSION_KIND];
        info.mesh = self.address.into_iter().collect();
        Arc::new(Directory::new(1, [Arc::new(info)]))
    }

    /// Stops it and gives what it heard besides calls.
    fn stop(mut self) -> Vec<String> {
        self.stop.store(true, Ordering::SeqCst);
        self.waker.wake();
        self.thread.take().unwrap().join().unwrap()
    }
}

impl EchoLoop {
    fn run(mut self, clock: &Clock, stopped: &AtomicBool) -> Vec<String> {
        let mut events = Vec::new();
        while !stopped.load(Ordering::SeqCst) {
            self.sockets.poll(Some(Duration::from_millis(100)), &mut events).unwrap();
            let now = clock.now();
            self.mesh.handle_timeout(now);
            for event in events.drain(..) {
                if let Event::Woken = event {
                    for end in self.doorbell.take() {
                        self.wires.accept_pipe(now, &mut self.mesh, &mut self.sockets, end);
                    }
                } else if let Event::Accepted { socket, .. } = event {
                    self.wires.accept(now, &mut self.mesh, &mut self.sockets, socket);
                }
                let Self { mesh, sockets, wires, .. } = &mut self;
                if let Heard::Readable(token, link) = wires.handle_event(now, mesh, sockets, &event)
                {
                    self.read(now, token, link);
                }
            }
            self.wires.flush(now, &mut self.mesh, &mut self.sockets, |_| {});
        }
        self.heard
    }

    fn read(&mut self, now: env::Instant, token: Token, link: mesh::LinkId) {
        let mut scratch = vec![0; 65_536];
        let read = self.sockets.read(token, &mut scratch);
        if let Read::Data(n) | Read::More(n) = read {
            let mut input = &scratch[..n];
            while let Some(frame) = self.mesh.next_frame(now, link, &mut input) {
                self.answer(now, frame.from, &frame.payload);
            }
        }
        match read {
            Read::More(_) => self.sockets.read_later(token),
            Read::Closed(_) => {
                self.wires.handle_closed(now, &mut self.mesh, &mut self.sockets, token);
            }
            _ => {}
        }
    }

    fn answer(&mut self, now: env::Instant, from: WorkerId, payload: &[u8]) {
        let mut send = |frame: LinkFrame<'_>| {
            self.mesh.send_reply(now, from, |out| frame.encode(from.worker, out)).unwrap();
        };
        match LinkFrame::decode(payload).unwrap().1 {
            LinkFrame::Open(admission) => {
                let conn = admission.conn;
                send(LinkFrame::Welcome {
                    conn,
                    session: admission.session,
                    account: admission.account,
                    generation: 1,
                    resumed: false,
                    resume_window_ms: 60_000,
                });
                send(LinkFrame::Route {
                    conn,
                    stream: 1,
                    owner: WorkerId { node: NODE, worker: 0 },
                    // The test's owner finds the connection by its own slot.
                    slot: conn,
                    kind: KindId::of("echo"),
                    epoch: 1,
                    name: "echo",
                    announce: true,
                });
            }
            LinkFrame::Up { slot: conn, frame } => {
                let mut reader = Reader::new(frame);
                let head = reader.byte().unwrap();
                let up = StreamUp::decode_fields(head, &mut reader).unwrap();
                let StreamUp::Tell { number, body, .. } = up else { return };
                let mut down = Vec::new();
                DownFrame::Push { stream: 1, number, ack: number, method: ECHO, body }
                    .encode(&mut down);
                send(LinkFrame::Down { conn, frame: &down });
            }
            LinkFrame::Detached { code, .. } => self.heard.push(format!("Detached {code:?}")),
            LinkFrame::Logout { .. } => self.heard.push("Logout".into()),
            LinkFrame::Home(HomeFrame::Report(report)) => {
                let Some(conn) = report.conn else { return };
                let (code, reason) = (CloseCode::Unavailable, "resume");
                send(LinkFrame::Close { conn, code, reason });
            }
            LinkFrame::Home(_) => {}
            LinkFrame::Shift(Shift::Session { conn, .. }) => {
                let streams = Some(vec![1]);
                send(LinkFrame::Shift(Shift::SessionDone { conn, streams }));
            }
            LinkFrame::Shift(Shift::Stream { conn, stream, gate, to, .. }) => {
                let done = Shift::StreamDone { conn, stream, done: true };
                send(LinkFrame::Shift(done));
                let route = LinkFrame::Route {
                    conn: to,
                    stream,
                    owner: WorkerId { node: NODE, worker: 0 },
                    slot: to,
                    kind: KindId::of("echo"),
                    epoch: 1,
                    name: "echo",
                    announce: false,
                };
                let sent = self.mesh.send(now, gate, |out| route.encode(gate.worker, out));
                sent.expect("the next gate is linked");
            }
            other => self.heard.push(format!("{other:?}")),
        }
    }
}

/// A blocking client.
struct Player {
    stream: TcpStream,
    /// Present for a WebSocket.
    decoder: Option<Decoder>,
    input: Vec<u8>,
}

impl Player {
    fn plain(address: SocketAddr) -> Player {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"MSY1").unwrap();
        Player { stream, decoder: None, input: Vec::new() }
    }

    fn web(address: SocketAddr) -> Player {
        let mut stream = TcpStream::connect(address).unwrap();
        let options = UpgradeOptions::default();
        stream.write_all(&request("localhost", &options, [3; 16])).unwrap();
        let mut head = Vec::new();
        let used = loop {
            let mut piece = [0; 1024];
            let n = stream.read(&mut piece).unwrap();
            assert!(n > 0, "{}", String::from_utf8_lossy(&head));
            head.extend_from_slice(&piece[..n]);
            if let Some(used) = check_answer(&head, &options, [3; 16]).unwrap() {
                break used;
            }
        };
        assert_eq!(used, head.len());
        let decoder = Some(Decoder::new(Role::Client, 1 << 20));
        Player { stream, decoder, input: Vec::new() }
    }

    fn send(&mut self, frames: &[UpFrame<'_>]) {
        let mut bytes = Vec::new();
        for frame in frames {
            put_frame(&mut bytes, |out| frame.encode(out));
        }
        if self.decoder.is_some() {
            let mut masked = Vec::new();
            // In two messages, cut inside a frame.
            let (first, second) = bytes.split_at(bytes.len() / 2);
            for part in [first, second] {
                put_masked(&mut masked, part, [1, 2, 3, 4]);
            }
            bytes = masked;
        }
        self.stream.write_all(&bytes).unwrap();
    }

    /// The next frame, or `None` at the end of the connection.
    fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some((payload, used)) = split_frame(&self.input, 1 << 20).unwrap() {
                let payload = payload.to_vec();
                self.input.drain(..used);
                return Some(payload);
            }
            let mut piece = [0; 4096];
            let n = self.stream.read(&mut piece).ok().filter(|n| *n > 0)?;
            let Some(decoder) = &mut self.decoder else {
                self.input.extend_from_slice(&piece[..n]);
                continue;
            };
            let mut rest = &mut piece[..n];
            while let Some(piece) = decoder.next(&mut rest).unwrap() {
                // After a close the end of the socket follows.
                if let Piece::Data(data) = piece {
                    self.input.extend_from_slice(data);
                }
            }
        }
    }

    fn login(&mut self, keys: &TicketKeys, account: u64) {
        let wall = Clock::system().wall();
        let claims = Claims {
            account: AccountId(account),
            level: 0,
            name: "Ada".into(),
            issued: wall,
            expires: env::WallTime(wall.0 + 60_000),
        };
        let grant = keys.issue(&mut Random::from_seed(account), claims);
        self.send(&[UpFrame::Hello { version: VERSION, features: 0, interface: 0, agent: "t" }]);
        let challenge = self.next().expect("a challenge");
        let Ok(DownFrame::Challenge { nonce, .. }) = DownFrame::decode(&challenge) else {
            panic!()
        };
        let proof = login_proof(&grant.secret, &nonce, &grant.ticket);
        self.send(&[UpFrame::Login { ticket: &grant.ticket, proof }]);
        let welcome = self.next().expect("a welcome");
        assert!(matches!(DownFrame::decode(&welcome), Ok(DownFrame::Welcome(_))));
        let bound = self.next().expect("a stream");
        assert!(matches!(DownFrame::decode(&bound), Ok(DownFrame::Bound { stream: 1, .. })));
    }

    fn echo(&mut self, bodies: &[&[u8]]) {
        let frames: Vec<UpFrame<'_>> = (1u64..)
            .zip(bodies)
            .map(|(number, body)| UpFrame::Stream {
                stream: 1,
                frame: StreamUp::Tell { number, ack: 0, method: ECHO, body },
            })
            .collect();
        self.send(&frames);
        for body in bodies {
            let frame = self.next().expect("an echo");
            match DownFrame::decode(&frame) {
                Ok(DownFrame::Push { body: got, .. }) => assert_eq!(got, *body),
                other => panic!("{other:?}"),
            }
        }
    }
}

fn setup(echo: &Echo, board: &Board) -> Setup {
    let keys = TicketKeys::new(vec![(1, [7; 32])]);
    let mut setup = Setup::new("gate", GATE, keys);
    setup.board = board.clone();
    setup.directory = echo.directory();
    setup
}

#[test]
fn plain_and_web_clients_reach_a_node_of_the_same_process_and_of_another() {
    for over_tcp in [false, true] {
        let board = Board::new();
        let echo = Echo::start(&board, over_tcp);
        let setup = setup(&echo, &board);
        let server = Server::start(setup.clone()).unwrap();
        let address = server.addresses()[0];
        let mut plain = Player::plain(address);
        plain.login(&setup.keys, 1);
        let mut web = Player::web(address);
        web.login(&setup.keys, 2);
        for player in [&mut plain, &mut web] {
            player.echo(&[b"one", &[2; 200], &[3; 30_000], b""]);
        }
        plain.send(&[UpFrame::Close { code: CloseCode::Goodbye, reason: "" }]);
        let close = plain.next().expect("a close frame");
        assert!(matches!(DownFrame::decode(&close), Ok(DownFrame::Close { .. })));
        assert_eq!(plain.next(), None);
        // The other is sent elsewhere.
        server.drain(Duration::ZERO);
        let close = web.next().expect("a close frame");
        let code = CloseCode::GoingAway;
        assert!(
            matches!(DownFrame::decode(&close), Ok(DownFrame::Close { code: c, .. }) if c == code)
        );
        assert_eq!(web.next(), None);
        let shared = server.shared.clone();
        server.join().unwrap();
        let stats = *lock(&shared.workers[0].stats);
        assert_eq!((stats.logins, stats.frames_up, stats.frames_down), (2, 8, 8));
        assert_eq!((stats.connections, stats.sessions), (0, 0));
        assert_eq!(echo.stop(), ["Logout", "Detached GoingAway"]);
    }
}

#[test]
fn several_workers_share_one_port_and_find_their_own_mail() {
    let board = Board::new();
    let echo = Echo::start(&board, true);
    let mut setup = setup(&echo, &board);
    setup.workers = 3;
    let server = Server::start(setup.clone()).unwrap();
    let mut players: Vec<Player> = (0..12)
        .map(|account| {
            let mut player = Player::plain(server.addresses()[0]);
            player.login(&setup.keys, account);
            player
        })
        .collect();
    for player in &mut players {
        player.echo(&[b"x"]);
    }
    let listed = server.connections(100, Duration::from_secs(5));
    assert_eq!(listed.len(), 12);
    assert!(listed.iter().map(|(worker, _)| *worker).any(|worker| worker > 0));
    server.stop();
    server.join().unwrap();
    assert_eq!(echo.stop().len(), 12);
}

/// A port that only its gate held was refused from the gate's end until the next one's start.
#[test]
fn c10_clients_of_a_port_that_outlives_its_gate_wait_for_the_next() {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut listeners = Listeners::default();
    let address = listeners.open(any, 2).unwrap();
    let board = Board::new();
    let echo = Echo::start(&board, true);
    let mut setup = setup(&echo, &board);
    setup.listeners = listeners;
    for workers in [1, 3] {
        // It comes before there is a gate.
        let mut player = Player::plain(address);
        setup.workers = workers;
        let server = Server::start(setup.clone()).unwrap();
        assert_eq!(server.addresses(), [address]);
        player.login(&setup.keys, 1);
        player.echo(&[b"x"]);
        server.drain(Duration::ZERO);
        assert!(player.next().is_some_and(|frame| matches!(
            DownFrame::decode(&frame),
            Ok(DownFrame::Close { code: CloseCode::GoingAway, .. })
        )));
        server.join().unwrap();
    }
    assert_eq!(echo.stop().len(), 2);
}

/// Two gates over a Unix socket, as between two processes: players play on as if nothing had been.
#[cfg(unix)]
#[test]
fn c10_live_connections_go_to_the_successor_and_clients_notice_nothing() {
    for (workers, next_workers) in [(1, 1), (2, 3)] {
        let board = Board::new();
        let echo = Echo::start(&board, true);
        let mut setup = setup(&echo, &board);
        setup.options.messages = crate::Rate::UNLIMITED;
        setup.options.bytes = crate::Rate::UNLIMITED;
        setup.workers = workers;
        let old = Server::start(setup.clone()).unwrap();
        let address = old.addresses()[0];
        let mut players: Vec<Player> = (0..40)
            .map(|account| {
                let is_web = account % 2 == 1;
                let mut player = if is_web { Player::web(address) } else { Player::plain(address) };
                player.login(&setup.keys, account);
                player.echo(&[b"one", &[2; 20_000]]);
                player
            })
            .collect();
        // Half-open ones cannot go.
        let mut early = Player::plain(address);
        setup.incarnation = NEXT;
        setup.workers = next_workers;
        let new = Server::start(setup.clone()).unwrap();
        // Whoever comes in there has the node linked to it.
        let mut first = Player::plain(new.addresses()[0]);
        let linked = |first: &mut Player, account| first.login(&setup.keys, account);
        linked(&mut first, 100);
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        new.taker().take(theirs);
        // All the time there is something under way.
        let threads: Vec<_> = players
            .drain(..)
            .map(|mut player| {
                std::thread::spawn(move || {
                    for round in 0..200u32 {
                        let body = [round as u8; 300];
                        player.echo(&[&body, b"x", &body]);
                    }
                    player
                })
            })
            .collect();
        let given = old.give_to(&ours).unwrap();
        let mut players: Vec<Player> = threads.into_iter().map(|t| t.join().unwrap()).collect();
        assert_eq!(given.given, 40, "workers {workers}");
        old.drain(Duration::ZERO);
        assert!(early.next().is_none_or(|frame| matches!(
            DownFrame::decode(&frame),
            Ok(DownFrame::Close { code: CloseCode::GoingAway, .. })
        )));
        old.join().unwrap();
        for player in &mut players {
            player.echo(&[b"still here", &[3; 30_000]]);
        }
        assert_eq!(new.connections(100, Duration::from_secs(30)).len(), 41);
        new.stop();
        new.join().unwrap();
        assert_eq!(echo.stop(), vec!["Detached GoingAway"; 41]);
    }
}

/// What is no gate of this release gets nothing, and clients resume as ever.
#[cfg(unix)]
#[test]
fn c10_a_successor_that_speaks_otherwise_gets_nothing() {
    use std::os::unix::net::UnixStream;
    let board = Board::new();
    let echo = Echo::start(&board, false);
    let setup = setup(&echo, &board);
    let server = Server::start(setup.clone()).unwrap();
    let mut player = Player::plain(server.addresses()[0]);
    player.login(&setup.keys, 1);
    let (ours, theirs) = UnixStream::pair().unwrap();
    transport::pass::send(&theirs, b"mainstay gates 2", &[]).unwrap();
    assert!(server.give_to(&ours).is_err());
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    assert!(server.give_to(&ours).is_err());
    // One that ends between its places and the connections.
    let (ours, theirs) = UnixStream::pair().unwrap();
    let dies = std::thread::spawn(move || {
        transport::pass::receive(&theirs).unwrap();
        transport::pass::send(&theirs, b"mainstay gates 1", &[]).unwrap();
        transport::pass::receive(&theirs).unwrap();
    });
    assert!(server.give_to(&ours).is_err());
    dies.join().unwrap();
    server.drain(Duration::ZERO);
    let close = player.next().expect("a close frame");
    let code = CloseCode::GoingAway;
    assert!(matches!(DownFrame::decode(&close), Ok(DownFrame::Close { code: c, .. }) if c == code));
    server.join().unwrap();
    assert_eq!(echo.stop(), ["Detached GoingAway"]);
    // Nor does a gate take what is no gate's.
    let (ours, theirs) = UnixStream::pair().unwrap();
    let server = Server::start(setup).unwrap();
    server.taker().take(theirs);
    transport::pass::send(&ours, b"mainstay gates 2", &[]).unwrap();
    assert!(transport::pass::receive(&ours).unwrap().is_none(), "it hangs up");
}

#[test]
fn gate_is_on_the_list_of_nodes_for_as_long_as_it_runs() {
    let board = Board::new();
    let echo = Echo::start(&board, false);
    let mut setup = setup(&echo, &board);
    let cluster = Cluster::embedded(cluster::Options::default());
    setup.cluster = Some(cluster.clone());
    let server = Server::start(setup.clone()).unwrap();
    let listed = cluster.directory().node(GATE).cloned().expect("the gate is listed");
    assert_eq!((listed.name.as_str(), listed.workers, listed.kinds.len()), ("gate", 1, 0));
    // A node that comes later is found.
    let node = echo.directory().node(NODE).cloned().unwrap();
    cluster.register(setup.clock.now(), node).unwrap();
    let mut player = Player::plain(server.addresses()[0]);
    player.login(&setup.keys, 1);
    // One that leaves the list but still answers is not given up.
    cluster.deregister(NODE);
    player.echo(&[b"still here"]);
    server.stop();
    server.join().unwrap();
    assert!(cluster.directory().node(GATE).is_none());
    assert_eq!(echo.stop(), ["Detached GoingAway"]);
}

#[test]
fn client_that_does_not_read_is_closed_and_others_do_not_wait() {
    let board = Board::new();
    let echo = Echo::start(&board, true);
    let mut setup = setup(&echo, &board);
    setup.options.messages = crate::Rate::UNLIMITED;
    setup.options.bytes = crate::Rate::UNLIMITED;
    let server = Server::start(setup.clone()).unwrap();
    let mut greedy = Player::plain(server.addresses()[0]);
    greedy.login(&setup.keys, 1);
    let mut modest = Player::plain(server.addresses()[0]);
    modest.login(&setup.keys, 2);
    let writer = std::thread::spawn(move || {
        let body = vec![7; 60_000];
        let mut bytes = Vec::new();
        let frame = StreamUp::Tell { number: 1, ack: 0, method: ECHO, body: &body };
        put_frame(&mut bytes, |out| UpFrame::Stream { stream: 1, frame }.encode(out));
        // What the node cannot take in time is refused, so how much it takes to fill all buffers
        // on the way back depends on its speed.
        let begun = std::time::Instant::now();
        let mut is_open = true;
        while is_open && begun.elapsed() < Duration::from_secs(60) {
            is_open = greedy.stream.write_all(&bytes).is_ok();
        }
        (greedy, is_open)
    });
    while !writer.is_finished() {
        modest.echo(&[b"me too"]);
    }
    let (_greedy, is_open) = writer.join().unwrap();
    assert!(!is_open, "the gate gives up on it");
    modest.echo(&[b"still here"]);
    let shared = server.shared.clone();
    server.stop();
    server.join().unwrap();
    assert_eq!(lock(&shared.workers[0].stats).hits(crate::Rule::SlowReader), 1);
    assert_eq!(echo.stop(), ["Detached SlowReader", "Detached GoingAway"]);
}

#[test]
fn http_is_handed_on_and_garbage_is_closed() {
    let board = Board::new();
    let echo = Echo::start(&board, false);
    let mut setup = setup(&echo, &board);
    setup.http = Some(Arc::new(|mut stream, head| {
        stream.set_nonblocking(false).unwrap();
        let answer = format!("HTTP/1.1 200 OK\r\n\r\n{} bytes", head.len());
        stream.write_all(answer.as_bytes()).unwrap();
    }));
    let server = Server::start(setup).unwrap();
    let ask = |text: &[u8]| {
        let mut stream = TcpStream::connect(server.addresses()[0]).unwrap();
        for piece in text.chunks(3) {
            // The other side may have closed already.
            let _ = stream.write_all(piece);
        }
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    };
    assert!(ask(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").starts_with("HTTP/1.1 200 OK"));
    assert_eq!(ask(b"SSH-2.0-OpenSSH"), "");
    let refused = ask(b"GET /play HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n");
    assert!(refused.starts_with("HTTP/1.1 4"), "{refused}");
    server.stop();
    server.join().unwrap();
    assert!(echo.stop().is_empty());
}

#[test]
fn lost_node_is_told_to_its_players_and_the_gate_goes_on() {
    let board = Board::new();
    let echo = Echo::start(&board, true);
    let setup = setup(&echo, &board);
    let server = Server::start(setup.clone()).unwrap();
    let mut player = Player::plain(server.addresses()[0]);
    player.login(&setup.keys, 1);
    echo.stop();
    // The next home hears of the session.
    let echo = Echo::start(&board, true);
    server.set_directory(echo.directory());
    let close = player.next().expect("a close frame");
    match DownFrame::decode(&close) {
        Ok(DownFrame::Close { code, .. }) => assert!(code.may_resume()),
        other => panic!("{other:?}"),
    }
    // The first tries may still find the old address.
    let mut player = Player::plain(server.addresses()[0]);
    player.login(&setup.keys, 2);
    player.echo(&[b"again"]);
    server.stop();
    server.join().unwrap();
}

#[test]
fn broken_web_frames_are_closed_with_their_code() {
    let board = Board::new();
    let echo = Echo::start(&board, false);
    let setup = setup(&echo, &board);
    let server = Server::start(setup.clone()).unwrap();
    let unmasked = [0x82, 0x01, 0x00];
    let text = [0x81, 0x81, 0, 0, 0, 0, b'x'];
    let too_big = [0x82, 0xff, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0];
    for (frame, code) in [(&unmasked[..], 1002), (&text[..], 1003), (&too_big[..], 1009)] {
        let mut player = Player::web(server.addresses()[0]);
        player.login(&setup.keys, code);
        player.stream.write_all(frame).unwrap();
        let mut answer = Vec::new();
        let _ = player.stream.read_to_end(&mut answer);
        assert_eq!(answer[..4], [0x88, 0x02, (code >> 8) as u8, code as u8]);
    }
    server.stop();
    server.join().unwrap();
    assert_eq!(echo.stop(), ["Detached GoingAway"; 3]);
}

#[test]
fn panic_of_a_policy_is_reported_and_counters_show() {
    let board = Board::new();
    let echo = Echo::start(&board, false);
    let mut setup = setup(&echo, &board);
    setup.options.messages = crate::Rate::UNLIMITED;
    setup.policies = Some(Arc::new(|| {
        vec![Box::new(|_, frame| {
            assert_ne!(frame.body, b"boom", "a bad rule");
            crate::Verdict::Pass
        })]
    }));
    let server = Server::start(setup.clone()).unwrap();
    let mut player = Player::plain(server.addresses()[0]);
    player.login(&setup.keys, 1);
    player.echo(&[b"fine"]);
    let mut metrics = String::new();
    while !metrics.contains("gate_frames_up_total{worker=\"0\"} 1") {
        // Counters are shown when something happens after a moment.
        player.send(&[UpFrame::Ping { token: 1 }]);
        player.next().expect("a pong");
        metrics = setup.registry.render_openmetrics();
    }
    assert!(metrics.contains("gate_sessions{worker=\"0\"} 1"), "{metrics}");
    assert!(server.is_healthy());
    let method = ECHO;
    let frame = StreamUp::Tell { number: 2, ack: 0, method, body: b"boom" };
    player.send(&[UpFrame::Stream { stream: 1, frame }]);
    assert_eq!(player.next(), None);
    while server.is_healthy() {
        std::thread::yield_now();
    }
    let failed = server.join().unwrap_err();
    assert!(failed.message.contains("a bad rule"), "{failed}");
    echo.stop();
}

#[test]
fn bad_setups_say_what_is_wrong() {
    let board = Board::new();
    let echo = Echo::start(&board, false);
    let mut setup = setup(&echo, &board);
    setup.mesh_listen = Some("0.0.0.0:0".parse().unwrap());
    let error = Server::start(setup.clone()).err().unwrap().to_string();
    assert_eq!(error, "cannot take links on 0.0.0.0:0 without a key: set the cluster's mesh key");
    setup.mesh_listen = None;
    setup.listen = vec!["203.0.113.7:1".parse().unwrap()];
    let error = Server::start(setup).err().unwrap().to_string();
    assert!(error.starts_with("cannot listen on 203.0.113.7:1: "), "{error}");
    echo.stop();
}
