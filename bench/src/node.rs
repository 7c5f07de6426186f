//! `bench node-core`: what a node itself adds to a request, without sockets and links between.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use env::{Clock, Random};
use mesh::{Key, Mesh, local_frames};
use node::session::{Bindings, Options};
use node::{HostOptions, Worker, WorkerParts};
use proto::frame::{DownFrame, Status, StreamUp};
use proto::link::{LinkFrame, Slot, WorkerId, put_up, read_down};
use proto::{AccountId, EntityId, Incarnation, KindId, SessionId};

use crate::gate::{ECHO, Echoer, body};

/// Requests of one stream that come together.
const WINDOW: usize = 16;

/// Streams whose requests come together: what one read of a link brings.
const TOGETHER: usize = 64;

const NODE: Incarnation = Incarnation(7);
const ME: WorkerId = WorkerId { node: NODE, worker: 0 };
/// Plays the gate and the home of all sessions.
const GATE: WorkerId = WorkerId { node: NODE, worker: 1 };

struct Client {
    slot: Slot,
    sent: u64,
    seen: u64,
}

/// The best and the median of many rounds over all streams, for few and for many streams.
///
/// # Errors
///
/// A wrong answer.
pub fn run() -> anyhow::Result<bool> {
    for streams in [TOGETHER, 1_024] {
        let mut rounds = rounds(streams)?;
        rounds.sort_unstable();
        let nanos = |took: Duration| took.as_nanos() as f64 / (streams * WINDOW) as f64;
        let (best, median) = (nanos(rounds[0]), nanos(rounds[rounds.len() / 2]));
        println!("{streams:>5} streams: best {best:.0} ns a request, median {median:.0} ns");
    }
    Ok(true)
}

fn rounds(streams: usize) -> anyhow::Result<Vec<Duration>> {
    let clock = Clock::system();
    let (now, wall) = (clock.now(), clock.wall());
    let options = mesh::Options { workers: 2, ..mesh::Options::default() };
    let mesh = |me| Mesh::new(me, "node", options.clone(), Key::none(), Random::from_seed(1));
    let mut gate = mesh(GATE);
    let mut worker = Worker::new(WorkerParts {
        me: ME,
        workers: 2,
        host: HostOptions::default(),
        sessions: Options::default(),
        bindings: Bindings::none(),
        mesh: mesh(ME),
        clock: clock.clone(),
        random: Random::from_seed(2),
        data: None,
    });
    worker.host().register::<Echoer>();
    let mut clients = Vec::new();
    for index in 0..streams as u32 {
        let conn = Slot { index, generation: 1 };
        let key = u64::from(index);
        let bind = LinkFrame::Bind {
            session: SessionId([index as u8; 16]),
            account: AccountId(key),
            level: 0,
            stream: 1,
            target: EntityId::keyed(KindId::of("echoer"), key),
            home: GATE,
            gate: GATE,
            conn,
            generation: 1,
            name: "echoer",
        };
        let mut payload = Vec::new();
        bind.encode(0, &mut payload);
        worker.handle_frame(now, wall, GATE, &payload);
        // The first stream in each place has the first name there.
        clients.push(Client { slot: conn, sent: 0, seen: 0 });
    }
    worker.turn(now, wall);
    while let Some((_, batch)) = worker.poll_local() {
        worker.mesh().recycle(batch);
    }
    let body = body();
    let mut all = Vec::new();
    for _ in 0..300.max(400_000 / (streams * WINDOW)) {
        let mut took = Duration::ZERO;
        for first in (0..streams).step_by(TOGETHER) {
            for client in &mut clients[first..first + TOGETHER] {
                for _ in 0..WINDOW {
                    client.sent += 1;
                    let (number, ack) = (client.sent, client.seen);
                    let (method, deadline_ms) = (ECHO, 0);
                    let frame = StreamUp::Request { number, ack, method, deadline_ms, body: &body };
                    let mut fields = Vec::new();
                    frame.encode_fields(&mut fields);
                    gate.send(now, ME, |out| put_up(out, 0, client.slot, frame.head(), &fields))?;
                }
            }
            let (_, batch) = gate.poll_local().context("it was sent")?;
            let now = clock.now();
            let start = Instant::now();
            worker.handle_local(now, wall, batch);
            worker.turn(now, wall);
            let (_, batch) = worker.poll_local().context("there are answers")?;
            took += start.elapsed();
            let mut count = 0;
            let mut frames = local_frames(&batch);
            while let Some((_, payload)) = gate.next_local(now, &mut frames) {
                let (conn, frame) = read_down(payload).context("an answer")?;
                let client = &mut clients[conn.index as usize];
                if let DownFrame::Reply { number, status, body: reply, .. } =
                    DownFrame::decode(frame)?
                {
                    ensure!(status == Status::Ok && reply == body, "the same comes back");
                    client.seen = number;
                    count += 1;
                }
            }
            ensure!(count == TOGETHER * WINDOW, "all are answered");
            worker.mesh().recycle(batch);
        }
        all.push(took);
    }
    Ok(all)
}
