//! Temporary.
use cluster::SESSION_KIND;
use env::{Clock, Random};
use mesh::{Heard, Key, Mesh, Wires};
use proto::frame::{DownFrame, Status, StreamUp};
use proto::link::{self, LinkFrame, WorkerId};
use proto::{Incarnation, KindId, Reader};
use std::net::SocketAddr;
use std::time::Duration;
use transport::{Board, Event, ListenOptions, Read, Sockets};

pub fn run(
    board: &Board,
    listen: Option<SocketAddr>,
    ready: impl FnOnce(Option<SocketAddr>),
) -> anyhow::Result<()> {
    let _ = SESSION_KIND;
    let clock = Clock::system();
    let node = Incarnation(22);
    let me = WorkerId { node, worker: 0 };
    let mut sockets = Sockets::new(transport::Options::default(), clock.clone())?;
    let mut mesh =
        Mesh::new(me, "node", mesh::Options::default(), Key::none(), Random::from_seed(5));
    let addr = listen.map(|a| sockets.listen(a, ListenOptions::default()).unwrap().1);
    let bell = board.open(22, 0, sockets.waker());
    let mut wires = Wires::new(board.clone());
    ready(addr);
    let mut events = Vec::new();
    let mut scratch = vec![0; 256 * 1024];
    let mut numbers: Vec<u64> = Vec::new();
    loop {
        sockets.poll(Some(Duration::from_secs(1)), &mut events)?;
        let now = clock.now();
        mesh.handle_timeout(now);
        for event in events.drain(..) {
            match event {
                Event::Woken => {
                    for end in bell.take() {
                        wires.accept_pipe(now, &mut mesh, &mut sockets, end);
                    }
                }
                Event::Accepted { socket, .. } => {
                    wires.accept(now, &mut mesh, &mut sockets, socket)
                }
                _ => {}
            }
            if let Heard::Readable(token, link) =
                wires.handle_event(now, &mut mesh, &mut sockets, &event)
            {
                let read = sockets.read(token, &mut scratch);
                if let Read::Data(n) | Read::More(n) = read {
                    let mut input = &scratch[..n];
                    while let Some(frame) = mesh.next_frame(now, link, &mut input) {
                        let from = frame.from;
                        match LinkFrame::decode(&frame.payload).unwrap().1 {
                            LinkFrame::Up { slot: conn, frame } => {
                                let mut reader = Reader::new(frame);
                                let head = reader.byte().unwrap();
                                let StreamUp::Request { number, body, .. } =
                                    StreamUp::decode_fields(head, &mut reader)?
                                else {
                                    continue;
                                };
                                let n = &mut numbers[conn.index as usize];
                                *n += 1;
                                let n = *n;
                                mesh.send(now, from, |out| {
                                    link::put_down(out, from.worker, conn, |out| {
                                        DownFrame::Reply {
                                            stream: 1,
                                            number: n,
                                            ack: number,
                                            request: number,
                                            status: Status::Ok,
                                            body: &body[1..],
                                        }
                                        .encode(out)
                                    })
                                })
                                .unwrap();
                            }
                            LinkFrame::Open(a) => {
                                let conn = a.conn;
                                if numbers.len() <= conn.index as usize {
                                    numbers.resize(conn.index as usize + 1, 0);
                                }
                                numbers[conn.index as usize] = 0;
                                let mut send = |f: LinkFrame<'_>| {
                                    mesh.send(now, from, |out| f.encode(from.worker, out)).unwrap()
                                };
                                send(LinkFrame::Welcome {
                                    conn,
                                    session: a.session,
                                    account: a.account,
                                    generation: 1,
                                    resumed: false,
                                    resume_window_ms: 1,
                                });
                                send(LinkFrame::Route {
                                    conn,
                                    stream: 1,
                                    owner: me,
                                    slot: conn,
                                    kind: KindId::of("e"),
                                    epoch: 1,
                                    name: "echo",
                                    announce: true,
                                });
                            }
                            _ => {}
                        }
                    }
                }
                match read {
                    Read::More(_) => sockets.read_later(token),
                    Read::Closed(_) => wires.handle_closed(now, &mut mesh, &mut sockets, token),
                    _ => {}
                }
            }
        }
        wires.flush(now, &mut mesh, &mut sockets, |_| {});
    }
}
