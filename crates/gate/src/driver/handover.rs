//! Live connections that go from a gate to its successor, two processes on one machine: the threads of the
//! workers give and take them, and one thread on each side talks over a Unix socket.

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use proto::link::{Slot, WorkerId, put_slot, put_worker, read_slot, read_worker};
use proto::{Reader, WireError, put_blob, put_varint};
use transport::pass::{self, PASSED_MAX};

use crate::driver::{Command, Server, Shared};

/// What is spoken. A gate of another release that speaks otherwise takes nothing, and clients resume there.
const HELLO: &[u8] = b"mainstay gates 1";

/// Connections that are not read at the same time, of all workers together.
const WAVE: usize = 1_024;

/// How long a successor may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// How long a worker may take for its part of a wave: more than any connection waits.
const WORKER_WAIT: Duration = Duration::from_secs(5);

/// Bytes in one message, before the last connection of it.
const BODY_BYTES: usize = 256 * 1024;

/// The longest state of one connection; one that has more resumes.
const STATE_BYTES_MAX: usize = 512 * 1024;

/// A connection on its way, with the worker and place at the next gate.
pub(crate) struct Handed {
    pub(crate) worker: u8,
    pub(crate) slot: Slot,
    pub(crate) stream: TcpStream,
    pub(crate) state: Vec<u8>,
}

/// Connections that a worker offers, and what the next gate must know of each.
pub(crate) type Offers = Vec<(Slot, Vec<u8>)>;

/// Where each of them goes, if anywhere.
pub(crate) type Places = Vec<(Slot, Option<(WorkerId, Slot)>)>;

/// What became of the connections of a gate that gave them to its successor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GivenAway {
    /// The successor has them, and their clients noticed nothing.
    pub given: usize,
    /// From the first one that was not read to the last that was sent.
    pub took: Duration,
}

/// Takes over the connections of a predecessor. A cheap clone that does not keep the gate.
#[derive(Clone)]
pub struct Taker {
    shared: Weak<Shared>,
}

impl Server {
    /// Gives its live plain connections to the successor at the other end of `line`, which
    /// [takes](Taker::take) them. From the first word on it accepts no more. Blocks until that is
    /// over; then [`drain`](Server::drain) is to follow.
    ///
    /// # Errors
    ///
    /// The successor does not answer, or in another way: whoever is still here resumes there.
    pub fn give_to(&self, line: &UnixStream) -> io::Result<GivenAway> {
        line.set_read_timeout(Some(SILENCE_MAX))?;
        line.set_write_timeout(Some(SILENCE_MAX))?;
        pass::send(line, HELLO, &[])?;
        check_hello(&receive(line)?.0)?;
        let mut sum = GivenAway::default();
        let begun = Instant::now();
        loop {
            let offers = self.collect_offers();
            if offers.iter().all(Vec::is_empty) {
                break;
            }
            let places = ask_for_places(line, &offers)?;
            let (sender, receiver) = channel();
            for ((post, offers), places) in self.shared.workers.iter().zip(offers).zip(places) {
                let slots = offers.into_iter().map(|(slot, _)| slot);
                post.tell(Command::Shift(slots.zip(places).collect(), sender.clone()));
            }
            drop(sender);
            let given = send_all(line, &receiver)?;
            sum.given += given;
            if given == 0 {
                // What has no place there is offered again and again.
                break;
            }
        }
        sum.took = begun.elapsed();
        Ok(sum)
    }

    /// Takes over connections of a predecessor, as long as this gate lives.
    pub fn taker(&self) -> Taker {
        Taker { shared: Arc::downgrade(&self.shared) }
    }

    fn collect_offers(&self) -> Vec<Offers> {
        let max = WAVE.div_ceil(self.shared.workers.len());
        let asked = self.shared.workers.iter().map(|post| {
            let (sender, receiver) = channel();
            post.tell(Command::Offer(max, sender));
            receiver
        });
        let asked: Vec<Receiver<Offers>> = asked.collect();
        asked.iter().map(|offers| offers.recv_timeout(WORKER_WAIT).unwrap_or_default()).collect()
    }
}

impl Taker {
    /// Takes what a predecessor [gives](Server::give_to) at the other end of `line`, on a thread of
    /// its own, until that has ended or says what cannot be understood.
    pub fn take(&self, line: UnixStream) {
        let shared = self.shared.clone();
        let take = move || match take_all(&shared, &line) {
            Ok(0) => {}
            Ok(taken) => tracing::info!(taken, "live connections taken over"),
            Err(error) => tracing::warn!(%error, "no more connections of the predecessor"),
        };
        let thread = std::thread::Builder::new().name("gate-takes".to_owned()).spawn(take);
        if let Err(error) = thread {
            tracing::warn!(%error, "no thread to take over connections");
        }
    }
}

// -- the former gate --

/// Asks for a place for each connection, worker by worker.
fn ask_for_places(
    line: &UnixStream,
    offers: &[Offers],
) -> io::Result<Vec<Vec<Option<(WorkerId, Slot)>>>> {
    let mut body = Vec::new();
    for offers in offers {
        put_varint(&mut body, offers.len() as u64);
        offers.iter().for_each(|(_, offer)| put_blob(&mut body, offer));
    }
    pass::send(line, &body, &[])?;
    let (body, _) = receive(line)?;
    let mut r = Reader::new(&body);
    let read_places = |offers: &Offers| {
        offers
            .iter()
            .map(|_| Ok(if r.flag()? { Some(read_place(&mut r)?) } else { None }))
            .collect()
    };
    offers.iter().map(read_places).collect::<Result<_, WireError>>().map_err(garbage)
}

fn read_place(r: &mut Reader<'_>) -> Result<(WorkerId, Slot), WireError> {
    Ok((read_worker(r)?, read_slot(r)?))
}

/// Sends connections as the workers let go of them, until all have.
fn send_all(line: &UnixStream, handed: &Receiver<Handed>) -> io::Result<usize> {
    let (mut sent, mut is_over) = (0, false);
    while !is_over {
        let Ok(first) = handed.recv_timeout(WORKER_WAIT) else { break };
        let (mut body, mut streams) = (Vec::new(), Vec::new());
        let mut next = Some(first);
        while let Some(Handed { worker, slot, stream, state }) = next.take() {
            if state.len() <= STATE_BYTES_MAX {
                body.push(worker);
                put_slot(&mut body, slot);
                put_blob(&mut body, &state);
                streams.push(stream);
            }
            if streams.len() < PASSED_MAX && body.len() < BODY_BYTES {
                match handed.try_recv() {
                    Ok(one) => next = Some(one),
                    Err(error) => is_over = error == TryRecvError::Disconnected,
                }
            }
        }
        if !streams.is_empty() {
            let descriptors: Vec<BorrowedFd<'_>> = streams.iter().map(AsFd::as_fd).collect();
            pass::send(line, &body, &descriptors)?;
            sent += streams.len();
        }
    }
    Ok(sent)
}

// -- the next gate --

fn take_all(shared: &Weak<Shared>, line: &UnixStream) -> io::Result<usize> {
    match pass::receive(line)? {
        // Nothing was to be given.
        None => return Ok(0),
        Some((word, _)) => check_hello(&word)?,
    }
    pass::send(line, HELLO, &[])?;
    let mut taken = 0;
    while let Some((body, descriptors)) = pass::receive(line)? {
        let Some(shared) = shared.upgrade() else { break };
        if descriptors.is_empty() {
            pass::send(line, &reserve(&shared, &body)?, &[])?;
            continue;
        }
        taken += descriptors.len();
        let mut r = Reader::new(&body);
        let workers = shared.workers.len();
        let mut dealt: Vec<Vec<Handed>> = (0..workers).map(|_| Vec::new()).collect();
        for descriptor in descriptors {
            let worker = r.byte().map_err(garbage)?;
            let slot = read_slot(&mut r).map_err(garbage)?;
            let state = r.blob(STATE_BYTES_MAX).map_err(garbage)?.to_vec();
            let stream = TcpStream::from(descriptor);
            if let Some(share) = dealt.get_mut(usize::from(worker)) {
                share.push(Handed { worker, slot, stream, state });
            }
        }
        for (post, share) in shared.workers.iter().zip(dealt) {
            if !share.is_empty() {
                post.tell(Command::Import(share));
            }
        }
    }
    Ok(taken)
}

/// Has the workers make places for what is offered; gives the answer.
fn reserve(shared: &Shared, body: &[u8]) -> io::Result<Vec<u8>> {
    let workers = shared.workers.len();
    let mut r = Reader::new(body);
    let mut dealt: Vec<Vec<Vec<u8>>> = (0..workers).map(|_| Vec::new()).collect();
    // In the order of the question: which worker was asked.
    let mut order = Vec::new();
    let mut from = 0;
    while r.end().is_err() {
        for _ in 0..r.varint().map_err(garbage)? {
            let worker = from % workers;
            dealt[worker].push(r.blob(STATE_BYTES_MAX).map_err(garbage)?.to_vec());
            order.push(worker);
        }
        from += 1;
    }
    let asked = shared.workers.iter().zip(dealt).map(|(post, offers)| {
        let (sender, receiver): (Sender<_>, _) = channel();
        post.tell(Command::Reserve(offers, sender));
        receiver
    });
    let asked: Vec<Receiver<Vec<Option<(WorkerId, Slot)>>>> = asked.collect();
    let answers = asked.iter().map(|places| places.recv_timeout(WORKER_WAIT).unwrap_or_default());
    let mut answers: Vec<_> = answers.map(Vec::into_iter).collect();
    let mut answer = Vec::new();
    for worker in order {
        let place = answers[worker].next().flatten();
        answer.push(u8::from(place.is_some()));
        if let Some((worker, slot)) = place {
            put_worker(&mut answer, worker);
            put_slot(&mut answer, slot);
        }
    }
    Ok(answer)
}

// -- both --

fn check_hello(said: &[u8]) -> io::Result<()> {
    let text = "the other gate speaks otherwise";
    if said == HELLO { Ok(()) } else { Err(io::Error::new(io::ErrorKind::InvalidData, text)) }
}

fn receive(line: &UnixStream) -> io::Result<(Vec<u8>, Vec<std::os::fd::OwnedFd>)> {
    let ended = || io::Error::new(io::ErrorKind::UnexpectedEof, "the other gate has ended");
    pass::receive(line)?.ok_or_else(ended)
}

fn garbage(error: WireError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
