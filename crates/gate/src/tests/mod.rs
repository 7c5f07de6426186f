//! The gate between a scripted client and a scripted home.

mod groups;
mod limits;
mod login;
mod regressions;
mod shift;
mod traffic;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use cluster::{Directory, NodeInfo, SESSION_KIND};
use env::{Instant, Random, WallTime};
use mesh::{Key, Mesh, local_frames};
use proto::frame::{
    CloseCode, DownFrame, Seen, StreamUp, UpFrame, VERSION, put_frame, split_frame,
};
use proto::link::{GroupId, HomeFrame, LinkFrame, Slot, WorkerId};
use proto::ticket::{Claims, Grant, TicketKeys, login_proof, resume_proof};
use proto::{AccountId, Incarnation, KindId, MethodId, SessionId};

use crate::{Closing, Gate, Options, Parts, Policy, Refused, Rule};

/// The node under test: worker 0 is the home and owner of everything, worker 1 the gate.
const NODE: Incarnation = Incarnation(1);
/// Another node that owns streams now and then.
const FAR: Incarnation = Incarnation(2);
const HOME: WorkerId = WorkerId { node: NODE, worker: 0 };
const FAR_OWNER: WorkerId = WorkerId { node: FAR, worker: 0 };
const KIND: KindId = KindId::of("avatar");
const ADD: MethodId = MethodId::of("add");
const STREAM_SLOT: Slot = Slot { index: 40, generation: 2 };

struct Rig {
    gate: Gate,
    now: Instant,
    wall: WallTime,
    keys: TicketKeys,
    random: Random,
    /// Whether sockets take what is written.
    is_reading: bool,
    trace: String,
}

/// What a client knows after its login.
struct Player {
    conn: Slot,
    session: SessionId,
    secret: [u8; 32],
    token: Vec<u8>,
}

fn rig() -> Rig {
    Rig::new(Options::default(), Vec::new())
}

fn rig_with(change: impl FnOnce(&mut Options)) -> Rig {
    let mut options = Options::default();
    change(&mut options);
    Rig::new(options, Vec::new())
}

impl Rig {
    fn new(options: Options, policies: Vec<Policy>) -> Self {
        let now = Instant::from_nanos(1_000_000_000);
        let me = WorkerId { node: NODE, worker: 1 };
        let links = mesh::Options { workers: 2, ..mesh::Options::default() };
        let mut mesh = Mesh::new(me, "gate", links, Key::none(), Random::from_seed(1));
        let far = mesh::PeerInfo { name: "far".into(), addresses: Vec::new() };
        mesh.set_peer(FAR, far);
        let mut home = NodeInfo::new("home", NODE);
        home.kinds = vec![SESSION_KIND];
        let keys = TicketKeys::new(vec![(1, [7; 32])]);
        let parts = Parts {
            options,
            keys: keys.clone(),
            directory: Arc::new(Directory::new(1, [Arc::new(home)])),
            random: Random::from_seed(2),
            mesh,
            policies,
        };
        Rig {
            gate: Gate::new(now, parts),
            now,
            wall: WallTime(1_000_000_000),
            keys,
            random: Random::from_seed(3),
            is_reading: true,
            trace: String::new(),
        }
    }

    fn open(&mut self, address: &str) -> Result<Slot, Refused> {
        self.gate.handle_open(self.now, SocketAddr::new(address.parse().unwrap(), 5000))
    }

    fn client(&mut self, conn: Slot, frame: &UpFrame<'_>) {
        let mut bytes = Vec::new();
        put_frame(&mut bytes, |out| frame.encode(out));
        self.raw(conn, &bytes);
    }

    fn raw(&mut self, conn: Slot, bytes: &[u8]) {
        self.gate.handle_bytes(self.now, self.wall, conn, bytes);
        self.drain();
    }

    fn home(&mut self, frame: &LinkFrame<'_>) {
        self.link(HOME, frame);
    }

    fn link(&mut self, from: WorkerId, frame: &LinkFrame<'_>) {
        let mut payload = Vec::new();
        frame.encode(1, &mut payload);
        self.gate.handle_link(self.now, self.wall, from, &payload);
        self.drain();
    }

    /// Lets time pass, stopping at every timer.
    fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some(at) = self.gate.poll_timeout().filter(|at| *at <= end) {
            let passed = at.since(self.now);
            self.now = at.max(self.now);
            self.wall.0 += passed.as_millis() as u64;
            self.gate.handle_timeout(self.now);
            self.drain();
        }
        self.wall.0 += end.since(self.now).as_millis() as u64;
        self.now = end;
    }

    /// Takes all that the gate wants done and writes it down.
    fn drain(&mut self) {
        if self.is_reading {
            while let Some(conn) = self.gate.poll_dirty() {
                let output = self.gate.take_output(conn);
                self.note_output(conn, &output);
                self.gate.recycle(output);
            }
        }
        while let Some((conn, closing)) = self.gate.poll_close() {
            if self.is_reading || closing == Closing::Now {
                writeln!(self.trace, "c{} closed", conn.index).unwrap();
                self.gate.handle_closed(self.now, conn);
            }
        }
        while let Some((worker, batch)) = self.gate.mesh().poll_local() {
            let mut frames = local_frames(&batch);
            while let Some((_, payload)) = self.gate.mesh().next_local(self.now, &mut frames) {
                let (to, frame) = LinkFrame::decode(payload).unwrap();
                assert_eq!(to, worker);
                // Comes by the clock, whatever happens.
                if matches!(frame, LinkFrame::Home(HomeFrame::Leads(_))) {
                    continue;
                }
                writeln!(self.trace, "-> {}", link_text(&frame)).unwrap();
            }
        }
        while self.gate.mesh().poll_output().is_some() {}
    }

    /// As [`drain`](Self::drain), for frames that nobody could read.
    fn drain_unread(&mut self) {
        while let Some(conn) = self.gate.poll_dirty() {
            let output = self.gate.take_output(conn);
            self.gate.recycle(output);
        }
        while let Some((conn, _)) = self.gate.poll_close() {
            self.gate.handle_closed(self.now, conn);
        }
        while let Some((_, batch)) = self.gate.mesh().poll_local() {
            self.gate.mesh().recycle(batch);
        }
    }

    fn note_output(&mut self, conn: Slot, mut output: &[u8]) {
        while let Some((payload, used)) = split_frame(output, 1 << 20).unwrap() {
            output = &output[used..];
            let text = down_text(&DownFrame::decode(payload).unwrap());
            writeln!(self.trace, "c{} {text}", conn.index).unwrap();
        }
        assert!(output.is_empty(), "output ends inside a frame");
    }

    /// What happened since the last call.
    fn trace(&mut self) -> String {
        std::mem::take(&mut self.trace)
    }

    fn grant(&mut self, account: u64, level: u8) -> Grant {
        let claims = Claims {
            account: AccountId(account),
            level,
            name: "Ada".into(),
            issued: self.wall,
            expires: WallTime(self.wall.0 + 60_000),
        };
        self.keys.issue(&mut self.random, claims)
    }

    /// Says hello and gives the nonce of the challenge.
    fn hello(&mut self, conn: Slot) -> [u8; 16] {
        let hello = UpFrame::Hello { version: VERSION, features: 0, interface: 0, agent: "test" };
        let mut bytes = Vec::new();
        put_frame(&mut bytes, |out| hello.encode(out));
        self.gate.handle_bytes(self.now, self.wall, conn, &bytes);
        let mut nonce = None;
        while let Some(conn) = self.gate.poll_dirty() {
            let output = self.gate.take_output(conn);
            let (payload, _) = split_frame(&output, 4096).unwrap().unwrap();
            let Ok(DownFrame::Challenge { nonce: given, .. }) = DownFrame::decode(payload) else {
                panic!("no challenge");
            };
            nonce = Some(given);
        }
        nonce.expect("a challenge")
    }

    /// Logs in as far as the home's decision.
    fn ask(&mut self, conn: Slot, grant: &Grant) {
        let nonce = self.hello(conn);
        let proof = login_proof(&grant.secret, &nonce, &grant.ticket);
        self.client(conn, &UpFrame::Login { ticket: &grant.ticket, proof });
    }

    fn welcome(&mut self, conn: Slot, session: SessionId, account: u64, generation: u64) {
        self.home(&LinkFrame::Welcome {
            conn,
            session,
            account: AccountId(account),
            generation,
            resumed: generation > 1,
            resume_window_ms: 60_000,
        });
    }

    fn route(&mut self, conn: Slot, stream: u32, owner: WorkerId) {
        self.home(&LinkFrame::Route {
            conn,
            stream,
            owner,
            slot: STREAM_SLOT,
            kind: KIND,
            epoch: 1,
            name: "avatar",
            announce: true,
        });
    }

    /// Brings a player of `account` into the game with stream 1; leaves no trace.
    fn login(&mut self, address: &str, account: u64) -> Player {
        let conn = self.open(address).unwrap();
        let grant = self.grant(account, 0);
        self.ask(conn, &grant);
        let mut player =
            Player { conn, session: grant.session, secret: grant.secret, token: Vec::new() };
        let reads = std::mem::replace(&mut self.is_reading, false);
        self.welcome(conn, grant.session, account, 1);
        self.is_reading = reads;
        let dirty = self.gate.poll_dirty().expect("a welcome");
        let output = self.gate.take_output(dirty);
        let (payload, _) = split_frame(&output, 4096).unwrap().unwrap();
        let Ok(DownFrame::Welcome(welcome)) = DownFrame::decode(payload) else {
            panic!("no welcome");
        };
        player.token = welcome.token.to_vec();
        self.route(conn, 1, HOME);
        self.trace.clear();
        player
    }

    fn resume(&mut self, conn: Slot, player: &Player, generation: u64) {
        let nonce = self.hello(conn);
        let proof = resume_proof(&player.secret, &nonce, &player.token, generation);
        self.client(
            conn,
            &UpFrame::Resume {
                token: &player.token,
                proof,
                generation,
                streams: vec![Seen { handle: 1, number: 5 }],
                groups: vec![],
            },
        );
    }

    fn push(&mut self, conn: Slot, number: u64, method: u32, body: &[u8]) {
        let mut frame = Vec::new();
        let method = MethodId(method);
        DownFrame::Push { stream: 1, number, ack: 0, method, body }.encode(&mut frame);
        self.home(&LinkFrame::Down { conn, frame: &frame });
    }

    fn hits(&self, rule: Rule) -> u64 {
        self.gate.stats().hits(rule)
    }
}

fn tell(stream: u32, number: u64, body: &[u8]) -> UpFrame<'_> {
    UpFrame::Stream { stream, frame: StreamUp::Tell { number, ack: 0, method: ADD, body } }
}

fn request(stream: u32, number: u64, body: &[u8]) -> UpFrame<'_> {
    let frame = StreamUp::Request { number, ack: 0, method: ADD, deadline_ms: 0, body };
    UpFrame::Stream { stream, frame }
}

const fn group(index: u32) -> GroupId {
    GroupId { node: NODE, worker: 0, slot: Slot { index, generation: 1 } }
}

fn text(bytes: &[u8]) -> String {
    if bytes.len() > 24 {
        format!("{} bytes", bytes.len())
    } else {
        bytes.escape_ascii().to_string()
    }
}

fn down_text(frame: &DownFrame<'_>) -> String {
    match frame {
        DownFrame::Challenge { .. } => "Challenge".into(),
        DownFrame::Welcome(w) => {
            format!("Welcome generation {} resumed {}", w.generation, w.resumed)
        }
        DownFrame::Bound { stream, epoch, name, .. } => {
            format!("Bound {stream} {name} epoch {epoch}")
        }
        DownFrame::Push { stream, number, body, .. } => {
            format!("Push {stream} #{number} {}", text(body))
        }
        DownFrame::Reply { stream, number, request, status, body, .. } => {
            format!("Reply {stream} #{number} to {request} {status:?} {}", text(body))
        }
        DownFrame::Cast { number, body, .. } => format!("Cast #{number} {}", text(body)),
        DownFrame::Joined { number, name, .. } => format!("Joined {name} #{number}"),
        DownFrame::Left { .. } => "Left".into(),
        DownFrame::Close { code, reason } => format!("Close {code:?} {reason}"),
        other => format!("{other:?}"),
    }
}

fn link_text(frame: &LinkFrame<'_>) -> String {
    match frame {
        LinkFrame::Up { slot, frame } => {
            assert_eq!(*slot, STREAM_SLOT);
            let mut reader = proto::Reader::new(frame);
            let head = reader.byte().unwrap();
            match StreamUp::decode_fields(head, &mut reader) {
                Ok(StreamUp::Tell { number, method, body, .. }) => {
                    let method = if method == ADD { "add" } else { "no method" };
                    format!("Up Tell #{number} {method} {}", text(body))
                }
                Ok(StreamUp::Request { number, method, body, .. }) => {
                    let method = if method == ADD { "add" } else { "no method" };
                    format!("Up Request #{number} {method} {}", text(body))
                }
                Ok(other) => format!("Up {other:?}"),
                Err(error) => format!("Up unreadable: {error}"),
            }
        }
        LinkFrame::Open(a) => {
            format!("Open c{} account {} {} from {}", a.conn.index, a.account.0, a.name, a.address)
        }
        LinkFrame::Resume { conn, account, generation, streams, .. } => {
            let seen: Vec<_> = streams.iter().map(|s| (s.handle, s.number)).collect();
            let account = account.0;
            format!("Resume c{} account {account} generation {generation} {seen:?}", conn.index)
        }
        LinkFrame::Home(HomeFrame::Report(report)) => {
            let conn = report.conn.map(|conn| conn.index);
            let streams: Vec<_> = report.streams.iter().map(|s| (s.stream, s.name)).collect();
            let (account, generation) = (report.account.0, report.generation);
            format!("Report {conn:?} account {account} generation {generation} {streams:?}")
        }
        LinkFrame::Detached { account, generation, code, .. } => {
            format!("Detached account {} generation {generation} {code:?}", account.0)
        }
        LinkFrame::Logout { account, generation, .. } => {
            format!("Logout account {} generation {generation}", account.0)
        }
        other => format!("{other:?}"),
    }
}

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}
