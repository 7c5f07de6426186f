//! A data process: stores that others use over the network.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use env::Clock;
use env::metrics::{Counter, Registry};

use super::calls::serve;
use super::link::{self, FRAME_MAX, Opener, Sealer};
use super::meters::{Meters, why};
use super::wire::Wire;
use crate::error::Error;
use crate::row::{Reader, Writer};
use crate::store::Store;

/// How a [`DataService`] works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataOptions {
    /// Connections at once; more are closed.
    pub connections_max: usize,
    /// Requests of one connection that are under way; while there are so many, no more are read.
    pub requests_max: usize,
    /// Bytes of answers that one connection may wait to take; it is closed beyond that.
    pub answers_bytes_max: usize,
    /// How long a peer may take to prove that it has the key, and to take what it is sent.
    pub peer_wait: Duration,
}

impl Default for DataOptions {
    fn default() -> Self {
        DataOptions {
            connections_max: 1_024,
            requests_max: 65_536,
            answers_bytes_max: 256 << 20,
            peer_wait: Duration::from_secs(5),
        }
    }
}

/// What a [`DataService`] works with.
#[derive(Clone, Debug)]
pub struct DataParts<'a> {
    /// The stores by their names, of which one may be empty: the default one. Each shard of a store is
    /// served beside it as `NAME/SHARD`, for tools.
    pub stores: Vec<(String, Store)>,
    /// What whoever asks must have.
    pub key: &'a [u8],
    /// Gets the service's figures, `data_*`.
    pub metrics: Registry,
}

/// Stores that other processes use by [`Store::proxy`], each under its name (empty: the default one).
///
/// Whoever has the key may ask for everything; nothing is told to anybody else. Each connection has two
/// threads. What is asked of several data processes at once is decided by the store behind them, as if
/// each were a process with the store open. Dropping it ends all connections.
pub struct DataService {
    shared: Arc<Shared>,
    address: SocketAddr,
    accepting: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for DataService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DataService({})", self.address)
    }
}

struct Shared {
    stores: BTreeMap<String, Store>,
    key: Vec<u8>,
    clock: Clock,
    meters: Meters,
    options: DataOptions,
    is_over: AtomicBool,
    /// By number, so that they can be ended.
    peers: Mutex<BTreeMap<u64, (TcpStream, Option<JoinHandle<()>>)>>,
}

impl Shared {
    fn peers(&self) -> MutexGuard<'_, BTreeMap<u64, (TcpStream, Option<JoinHandle<()>>)>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DataService {
    /// Serves the stores at `at`, to whoever has the key.
    ///
    /// # Errors
    ///
    /// What the operating system says to listening there.
    pub fn start(
        at: SocketAddr,
        parts: DataParts<'_>,
        options: DataOptions,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind(at)?;
        let address = listener.local_addr()?;
        let mut stores = BTreeMap::new();
        for (name, store) in parts.stores {
            for (shard, part) in store.shards() {
                stores.insert(format!("{name}/{shard}"), part.clone());
            }
            stores.insert(name, store);
        }
        let shared = Arc::new(Shared {
            meters: Meters::new(&parts.metrics, stores.keys()),
            stores,
            key: parts.key.to_vec(),
            clock: Clock::system(),
            options,
            is_over: AtomicBool::new(false),
            peers: Mutex::default(),
        });
        let of_thread = Arc::clone(&shared);
        let accepting = std::thread::Builder::new()
            .name("data".to_owned())
            .spawn(move || accept(&listener, &of_thread))?;
        Ok(DataService { shared, address, accepting: Some(accepting) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many are connected.
    pub fn connections(&self) -> usize {
        self.shared.peers().len()
    }
}

impl Drop for DataService {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        // What it waits for is a connection.
        let mut own = self.address;
        if own.ip().is_unspecified() {
            own.set_ip(match own {
                SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            });
        }
        let woken = TcpStream::connect_timeout(&own, Duration::from_secs(1)).is_ok();
        if let Some(accepting) = self.accepting.take().filter(|_| woken) {
            drop(accepting.join());
        }
        let peers = std::mem::take(&mut *self.shared.peers());
        for (stream, _) in peers.values() {
            drop(stream.shutdown(Shutdown::Both));
        }
        for thread in peers.into_values().filter_map(|(_, thread)| thread) {
            drop(thread.join());
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for number in 0.. {
        let accepted = listener.accept();
        if shared.is_over.load(Ordering::SeqCst) {
            return;
        }
        let Ok((stream, _)) = accepted else {
            // Out of descriptors, or a peer that is gone already: neither is for ever.
            std::thread::sleep(Duration::from_millis(10));
            continue;
        };
        let mut peers = shared.peers();
        if peers.len() >= shared.options.connections_max {
            shared.meters.turned_away("full");
            continue;
        }
        let Ok(kept) = stream.try_clone() else { continue };
        peers.insert(number, (kept, None));
        let of_peer = Arc::clone(shared);
        let thread = std::thread::Builder::new().name("data peer".to_owned()).spawn(move || {
            // What went wrong with a peer is known to it, or it is gone.
            drop(attend(&of_peer, stream));
            of_peer.peers().remove(&number);
        });
        match (thread, peers.get_mut(&number)) {
            (Ok(thread), Some((_, kept))) => *kept = Some(thread),
            _ => drop(peers.remove(&number)),
        }
    }
}

/// What waits to be sent to one peer.
struct Answers {
    state: Mutex<AnswersState>,
    changed: Condvar,
}

#[derive(Default)]
struct AnswersState {
    ready: Vec<Vec<u8>>,
    bytes: usize,
    under_way: usize,
    is_over: bool,
}

impl Answers {
    fn lock(&self) -> MutexGuard<'_, AnswersState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) {
        self.lock().is_over = true;
        self.changed.notify_all();
    }
}

fn attend(shared: &Arc<Shared>, mut stream: TcpStream) -> Result<(), link::Refused> {
    let wait = Some(shared.options.peer_wait);
    stream.set_nodelay(true)?;
    stream.set_read_timeout(wait)?;
    stream.set_write_timeout(wait)?;
    let has = |name: &str| shared.stores.contains_key(name);
    let random = env::Random::from_os().bytes();
    let answered = link::answer(&mut stream, &shared.key, random, has);
    let (name, sealer, opener) = answered.inspect_err(|refused| {
        shared.meters.turned_away(why(refused));
    })?;
    let Some(store) = shared.stores.get(&name) else { return Ok(()) };
    shared.meters.connections.inc();
    let ended = converse(shared, (&name, store), &stream, (sealer, opener));
    shared.meters.connections.dec();
    ended
}

/// Takes requests and answers them until the connection ends.
fn converse(
    shared: &Arc<Shared>,
    of: (&str, &Store),
    stream: &TcpStream,
    (sealer, opener): (Sealer, Opener),
) -> Result<(), link::Refused> {
    // Peers give signs of life; see `client`.
    stream.set_read_timeout(Some(4 * super::PING))?;
    let answers = Arc::new(Answers { state: Mutex::default(), changed: Condvar::new() });
    let (of_writer, to) = (Arc::clone(&answers), stream.try_clone()?);
    let sent = shared.meters.sent.clone();
    let writer = std::thread::Builder::new().name("data answers".to_owned());
    let writer = writer.spawn(move || write(&of_writer, &to, sealer, &sent))?;
    let ended = read(shared, of, &answers, stream, opener);
    answers.end();
    drop(stream.shutdown(Shutdown::Both));
    drop(writer.join());
    ended
}

fn read(
    shared: &Arc<Shared>,
    (name, store): (&str, &Store),
    answers: &Arc<Answers>,
    stream: &TcpStream,
    mut opener: Opener,
) -> Result<(), link::Refused> {
    let mut from = std::io::BufReader::with_capacity(64 << 10, stream);
    let name: Arc<str> = name.into();
    loop {
        let frame = opener.open(&mut from)?;
        if frame.is_empty() {
            push(answers, Vec::new(), false, &shared.options);
            continue;
        }
        let mut r = Reader::new(&frame);
        let wrong = |_| link::Refused::Broken("a request that cannot be read".to_owned());
        let (id, number) = (r.u64().map_err(wrong)?, r.u8().map_err(wrong)?);
        {
            let mut state = answers.lock();
            while state.under_way >= shared.options.requests_max && !state.is_over {
                let waited = answers.changed.wait(state);
                state = waited.unwrap_or_else(PoisonError::into_inner);
            }
            if state.is_over {
                return Ok(());
            }
            state.under_way += 1;
        }
        shared.meters.asked(number, frame.len());
        let (of_answer, of_shared) = (Arc::clone(answers), Arc::clone(shared));
        let (name, asked) = (Arc::clone(&name), shared.clock.now());
        let tell = move |told: Vec<u8>, error: Option<&Error>| {
            of_shared.meters.answered(&name, of_shared.clock.now() - asked, error);
            let told = if told.len() + 64 > FRAME_MAX { too_large(told.len()) } else { told };
            let answer = [&id.to_le_bytes()[..], &told].concat();
            push(&of_answer, answer, true, &of_shared.options);
        };
        if let Err(damaged) = serve(store, number, &frame[9..], tell) {
            shared.meters.unreadable();
            return Err(wrong(damaged));
        }
    }
}

fn too_large(size: usize) -> Vec<u8> {
    let mut w = Writer::new();
    let told: Result<(), Error> =
        Err(Error::TooLarge { what: "bytes of an answer", size, max: FRAME_MAX });
    told.put(&mut w);
    w.into_bytes()
}

fn push(answers: &Answers, answer: Vec<u8>, ends_one: bool, options: &DataOptions) {
    let mut state = answers.lock();
    state.under_way -= usize::from(ends_one);
    state.bytes += answer.len();
    state.ready.push(answer);
    // It asks, and does not take what it is told.
    state.is_over |= state.bytes > options.answers_bytes_max;
    drop(state);
    answers.changed.notify_all();
}

fn write(answers: &Answers, mut to: &TcpStream, mut sealer: Sealer, sent: &Counter) {
    let mut out = Vec::new();
    loop {
        let ready = {
            let mut state = answers.lock();
            while state.ready.is_empty() && !state.is_over {
                state = answers.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.is_over {
                break;
            }
            state.bytes = 0;
            std::mem::take(&mut state.ready)
        };
        out.clear();
        ready.iter().for_each(|answer| sealer.seal(answer, &mut out));
        if to.write_all(&out).is_err() {
            break;
        }
        sent.add(out.len() as u64);
        if out.capacity() > 1 << 20 {
            out = Vec::new();
        }
    }
    answers.end();
    drop(to.shutdown(Shutdown::Both));
}
