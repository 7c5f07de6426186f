//! The physical limit: a bare epoll echo server, and the load generator that all echo
//! benchmarks share.
//!
//! How to use it for another server:
//!
//! ```ignore
//! let server = raw::spawn_child(&["child-gate"], SERVER_CPU)?;      // prints "port N" when ready
//! raw::pin(CLIENT_CPU)?;
//! let load = raw::Load { addr: server.addr(), connections: 100, window: 1, ..Load::default() };
//! let outcome = raw::run_load(&load, |n| MyProtocol::new(n), || server.cpu())?;
//! println!("{:.2} s/M", outcome.server_seconds_per_million());
//! ```
//!
//! Cost is CPU time of the server's threads per message, from the scheduler's own books: on a
//! shared machine it is steady where wall time is not. Compare only figures of the same run.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use env::Clock;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use transport::Sockets;

/// Where the server under test runs.
pub const SERVER_CPU: usize = 0;

/// Where the load generator runs.
pub const CLIENT_CPU: usize = 1;

/// Bytes of a message's body in all echo benchmarks.
pub const BODY_BYTES: usize = 32;

/// What one connection of the load generator speaks.
pub trait Protocol {
    /// Appends what opens the conversation.
    fn start(&mut self, out: &mut Vec<u8>);

    /// Takes bytes that arrived, appends what the handshake needs next, and gives how many
    /// requests were answered by them.
    ///
    /// # Errors
    ///
    /// The answer is wrong: the run ends.
    fn receive(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> anyhow::Result<usize>;

    /// Whether the handshake is over and requests may be made.
    fn is_ready(&self) -> bool;

    /// Appends one request.
    fn request(&mut self, out: &mut Vec<u8>);
}

/// The raw echo: every 32 bytes come back.
#[derive(Debug, Default)]
pub struct Echo {
    received: usize,
}

impl Protocol for Echo {
    fn start(&mut self, _: &mut Vec<u8>) {}

    fn receive(&mut self, bytes: &[u8], _: &mut Vec<u8>) -> anyhow::Result<usize> {
        let before = self.received / BODY_BYTES;
        self.received += bytes.len();
        Ok(self.received / BODY_BYTES - before)
    }

    fn is_ready(&self) -> bool {
        true
    }

    fn request(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[0x5a; BODY_BYTES]);
    }
}

/// A closed loop: each connection keeps `window` requests in flight.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// The server.
    pub addr: SocketAddr,
    /// How many connections.
    pub connections: usize,
    /// Requests in flight on each.
    pub window: usize,
    /// Time before measuring starts.
    pub warmup: Duration,
    /// Time of measuring.
    pub time: Duration,
    /// Connections that shake hands at the same time.
    pub handshakes: usize,
}

impl Default for Load {
    /// 100 connections, window 1, half a second of warming up and 3 s of measuring.
    fn default() -> Self {
        Load {
            addr: (Ipv4Addr::LOCALHOST, 0).into(),
            connections: 100,
            window: 1,
            warmup: Duration::from_millis(500),
            time: Duration::from_secs(3),
            handshakes: 64,
        }
    }
}

/// What a run gave.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Requests answered while measuring.
    pub messages: u64,
    /// How long measuring took.
    pub elapsed: Duration,
    /// CPU time of the server meanwhile.
    pub server_cpu: Duration,
    /// CPU time of the generator meanwhile.
    pub client_cpu: Duration,
    /// Time from connecting the first to the last being ready.
    pub login: Duration,
    /// Round trips in microseconds, sorted.
    latencies: Vec<u32>,
}

impl Outcome {
    /// CPU seconds of the server per million messages, which is microseconds per message.
    pub fn server_seconds_per_million(&self) -> f64 {
        self.server_cpu.as_secs_f64() * 1e6 / self.messages.max(1) as f64
    }

    /// Messages answered per second of wall time.
    pub fn messages_per_second(&self) -> f64 {
        self.messages as f64 / self.elapsed.as_secs_f64()
    }

    /// The round trip that this share of messages stayed under, in microseconds.
    pub fn latency_us(&self, share: f64) -> f64 {
        let last = self.latencies.len().saturating_sub(1);
        self.latencies.get((last as f64 * share) as usize).copied().unwrap_or(0).into()
    }
}

/// Runs a load against a server whose CPU time `server_cpu` tells.
///
/// # Errors
///
/// A connection breaks, an answer is wrong, or nothing is answered for 10 s.
pub fn run_load<P: Protocol>(
    load: &Load,
    make: impl FnMut(usize) -> P,
    mut server_cpu: impl FnMut() -> anyhow::Result<Duration>,
) -> anyhow::Result<Outcome> {
    let mut generator = Generator::new(load)?;
    let login = generator.connect(make)?;
    generator.start_requests()?;
    generator.run(load.warmup)?;
    generator.answered = 0;
    generator.latencies.clear();
    let (server, client, start) = (server_cpu()?, thread_cpu()?, Instant::now());
    generator.run(load.time)?;
    let (elapsed, messages) = (start.elapsed(), generator.answered);
    let (server_cpu, client_cpu) = (server_cpu()? - server, thread_cpu()? - client);
    ensure!(messages > 0, "the server answered nothing for {elapsed:?}");
    let mut latencies = generator.latencies;
    latencies.sort_unstable();
    Ok(Outcome { messages, elapsed, server_cpu, client_cpu, login, latencies })
}

/// Loads a server to about `share` of one core, in slices of a few milliseconds, until `stop`;
/// gives the share that it was.
///
/// # Errors
///
/// As [`run_load`].
pub fn keep_busy<P: Protocol>(
    load: &Load,
    share: f64,
    stop: &AtomicBool,
    make: impl FnMut(usize) -> P,
    mut server_cpu: impl FnMut() -> anyhow::Result<Duration>,
) -> anyhow::Result<f64> {
    const SLICE: Duration = Duration::from_millis(4);
    const LOOK: Duration = Duration::from_millis(100);
    let mut generator = Generator::new(load)?;
    generator.connect(make)?;
    generator.start_requests()?;
    let start = (Instant::now(), server_cpu()?);
    let mut looked = start;
    let mut active = share;
    while !stop.load(Ordering::SeqCst) {
        let begin = Instant::now();
        while begin.elapsed() < SLICE.mul_f64(active) {
            generator.turn()?;
        }
        std::thread::sleep(SLICE.saturating_sub(begin.elapsed()));
        if looked.0.elapsed() >= LOOK {
            let now = (Instant::now(), server_cpu()?);
            let was = (now.1 - looked.1).as_secs_f64() / (now.0 - looked.0).as_secs_f64();
            active = (active * (share / was.max(0.01)).clamp(0.9, 1.1)).clamp(0.05, 1.0);
            looked = now;
        }
    }
    Ok((server_cpu()? - start.1).as_secs_f64() / start.0.elapsed().as_secs_f64())
}

/// Loads a server to about `share` of one core until `stop`, as many clients do of which each
/// sends when it likes: requests leave at an even rate, in steps of a quarter of a millisecond.
/// Gives the share that it was.
///
/// # Errors
///
/// As [`run_load`].
pub fn keep_steady<P: Protocol>(
    load: &Load,
    share: f64,
    stop: &AtomicBool,
    make: impl FnMut(usize) -> P,
    mut server_cpu: impl FnMut() -> anyhow::Result<Duration>,
) -> anyhow::Result<f64> {
    const STEP: Duration = Duration::from_micros(250);
    const LOOK: Duration = Duration::from_millis(100);
    let mut generator = Generator::new(load)?;
    generator.connect(make)?;
    generator.is_paced = true;
    generator.load_on = true;
    let start = (Instant::now(), server_cpu()?);
    let (mut looked, mut sent_at) = (start, start.0);
    let (mut rate, mut due, mut next) = (50_000.0, 0.0, 0);
    while !stop.load(Ordering::SeqCst) {
        let now = Instant::now();
        // What could not be sent during a pause of ours is not made up for in a burst.
        due += (now - sent_at).min(4 * STEP).as_secs_f64() * rate;
        sent_at = now;
        let at = generator.now();
        while due >= 1.0 {
            due -= 1.0;
            next = (next + 1) % generator.connections.len();
            let connection = &mut generator.connections[next];
            if connection.sent.len() < load.window {
                connection.request(1, at);
                connection.flush()?;
            }
        }
        generator.turn_within(Duration::ZERO)?;
        std::thread::sleep(STEP.saturating_sub(now.elapsed()));
        if looked.0.elapsed() >= LOOK {
            let now = (Instant::now(), server_cpu()?);
            let was = (now.1 - looked.1).as_secs_f64() / (now.0 - looked.0).as_secs_f64();
            rate = (rate * (share / was.max(0.01)).clamp(0.9, 1.1)).clamp(1_000.0, 5_000_000.0);
            looked = now;
        }
    }
    Ok((server_cpu()? - start.1).as_secs_f64() / start.0.elapsed().as_secs_f64())
}

/// Connections that have shaken hands and stay open until this is dropped.
pub struct Held<P> {
    generator: Generator<P>,
    elapsed: Duration,
}

/// Connects all that `load` asks for and shakes hands, without requests.
///
/// # Errors
///
/// A connection breaks, or a handshake takes too long.
pub fn hold<P: Protocol>(load: &Load, make: impl FnMut(usize) -> P) -> anyhow::Result<Held<P>> {
    let mut generator = Generator::new(load)?;
    let elapsed = generator.connect(make)?;
    Ok(Held { generator, elapsed })
}

impl<P> Held<P> {
    /// How long it took from connecting the first to the last being ready.
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// How many connections there are.
    pub fn len(&self) -> usize {
        self.generator.connections.len()
    }
}

impl<P: Protocol> Held<P> {
    /// Has each ask once and waits for all answers; gives how long that took.
    ///
    /// # Errors
    ///
    /// A connection breaks, an answer is wrong, or one takes too long.
    pub fn ask_each(&mut self) -> anyhow::Result<Duration> {
        let generator = &mut self.generator;
        (generator.load_on, generator.is_paced) = (true, true);
        let begun = Instant::now();
        let wanted = generator.answered + generator.connections.len() as u64;
        for at in 0..generator.connections.len() {
            let now = generator.now();
            generator.connections[at].request(1, now);
            generator.connections[at].flush()?;
        }
        while generator.answered < wanted {
            ensure!(begun.elapsed() < SILENCE_MAX, "no answer for {SILENCE_MAX:?}");
            generator.turn()?;
        }
        Ok(begun.elapsed())
    }
}

struct Generator<P> {
    load: Load,
    epoll: OwnedFd,
    events: Vec<Event>,
    connections: Vec<Connection<P>>,
    scratch: Vec<u8>,
    answered: u64,
    latencies: Vec<u32>,
    /// Answers since the last latency was kept.
    skipped: u32,
    origin: Instant,
    load_on: bool,
    /// An answer brings no new request.
    is_paced: bool,
}

struct Connection<P> {
    stream: TcpStream,
    protocol: P,
    out: Vec<u8>,
    /// When the requests in flight were sent, in nanoseconds since the origin.
    sent: VecDeque<u64>,
}

/// Of so many answers one latency is kept, so that keeping them costs nothing.
const LATENCY_STRIDE: u32 = 8;
const SILENCE_MAX: Duration = Duration::from_secs(10);

impl<P: Protocol> Generator<P> {
    fn new(load: &Load) -> anyhow::Result<Self> {
        Ok(Generator {
            load: *load,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            events: Vec::with_capacity(1024),
            connections: Vec::with_capacity(load.connections),
            scratch: vec![0; 64 * 1024],
            answered: 0,
            latencies: Vec::with_capacity(1 << 20),
            skipped: 0,
            origin: Instant::now(),
            load_on: false,
            is_paced: false,
        })
    }

    /// Connects all and shakes hands, some at a time.
    fn connect(&mut self, mut make: impl FnMut(usize) -> P) -> anyhow::Result<Duration> {
        let start = Instant::now();
        let mut ready = 0;
        while ready < self.load.connections {
            let last = self.load.connections.min(ready + self.load.handshakes);
            for index in ready..last {
                let stream = TcpStream::connect(self.load.addr)
                    .with_context(|| format!("connecting to {}", self.load.addr))?;
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
                epoll::add(&self.epoll, &stream, EventData::new_u64(index as u64), EventFlags::IN)?;
                let mut protocol = make(index);
                let mut out = Vec::new();
                protocol.start(&mut out);
                let sent = VecDeque::with_capacity(self.load.window);
                self.connections.push(Connection { stream, protocol, out, sent });
                self.connections[index].flush()?;
            }
            let deadline = Instant::now() + SILENCE_MAX;
            while !self.connections[ready..].iter().all(|one| one.protocol.is_ready()) {
                ensure!(Instant::now() < deadline, "handshakes took over {SILENCE_MAX:?}");
                self.turn()?;
            }
            ready = last;
        }
        Ok(start.elapsed())
    }

    fn start_requests(&mut self) -> anyhow::Result<()> {
        self.load_on = true;
        let now = self.now();
        for connection in &mut self.connections {
            connection.request(self.load.window, now);
            connection.flush()?;
        }
        Ok(())
    }

    fn run(&mut self, time: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + time;
        let mut progress = (self.answered, Instant::now());
        while Instant::now() < end {
            self.turn()?;
            if self.answered != progress.0 {
                progress = (self.answered, Instant::now());
            }
            ensure!(progress.1.elapsed() < SILENCE_MAX, "no answer for {SILENCE_MAX:?}");
        }
        Ok(())
    }

    /// Waits for readiness and serves all that is ready.
    fn turn(&mut self) -> anyhow::Result<()> {
        self.turn_within(Duration::from_millis(20))
    }

    fn turn_within(&mut self, limit: Duration) -> anyhow::Result<()> {
        let limit = rustix::event::Timespec {
            tv_sec: limit.as_secs() as i64,
            tv_nsec: limit.subsec_nanos().into(),
        };
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&limit)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let now = self.now();
        for event in &self.events {
            let connection = &mut self.connections[event.data.u64() as usize];
            let len = match connection.stream.read(&mut self.scratch) {
                Ok(0) => bail!("the server closed connection {}", event.data.u64()),
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error).context("reading an answer"),
            };
            let bytes = &self.scratch[..len];
            let answers = connection.protocol.receive(bytes, &mut connection.out)?;
            if answers > 0 && self.load_on {
                self.answered += answers as u64;
                for _ in 0..answers {
                    let sent = connection.sent.pop_front().context("an answer to no request")?;
                    self.skipped += 1;
                    if self.skipped == LATENCY_STRIDE {
                        self.skipped = 0;
                        self.latencies.push(((now - sent) / 1000) as u32);
                    }
                }
                if !self.is_paced {
                    connection.request(answers, now);
                }
            }
            connection.flush()?;
        }
        Ok(())
    }

    fn now(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }
}

impl<P: Protocol> Connection<P> {
    fn request(&mut self, count: usize, now: u64) {
        for _ in 0..count {
            self.protocol.request(&mut self.out);
            self.sent.push_back(now);
        }
    }

    /// Writes what is to be sent. A closed loop never fills a socket, so a refusal is an error.
    fn flush(&mut self) -> anyhow::Result<()> {
        if !self.out.is_empty() {
            self.stream.write_all(&self.out).context("sending requests")?;
            self.out.clear();
        }
        Ok(())
    }
}

/// A process of this program with other arguments: the server under test. Killed on drop.
#[derive(Debug)]
pub struct Child {
    process: std::process::Child,
    addr: SocketAddr,
}

/// Starts `bench ARGS` pinned to one CPU. It must print `port N` as its first line when it is
/// ready to be connected to, on the loopback address.
///
/// # Errors
///
/// It could not be started, or ended before it was ready.
pub fn spawn_child(args: &[&str], cpu: usize) -> anyhow::Result<Child> {
    let program = std::env::current_exe()?;
    let mut process = Command::new(program)
        .args(args)
        .env(CPU_VARIABLE, cpu.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {args:?}"))?;
    let output = process.stdout.take().expect("piped");
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    let port = line.trim().strip_prefix("port ").and_then(|port| port.parse::<u16>().ok());
    let Some(port) = port else {
        let _ = process.kill();
        bail!("{args:?} was to print its port and printed {line:?}");
    };
    Ok(Child { process, addr: (Ipv4Addr::LOCALHOST, port).into() })
}

const CPU_VARIABLE: &str = "MAINSTAY_BENCH_CPU";

/// What every child does first: pins itself where its parent wants it, so that threads it makes
/// are pinned too, and sees to it that it ends with its parent.
///
/// # Errors
///
/// The system refuses.
pub fn enter_child() -> anyhow::Result<()> {
    if let Ok(cpu) = std::env::var(CPU_VARIABLE) {
        pin(cpu.parse()?)?;
        // The parent holds the other end of our input and never writes.
        std::thread::spawn(|| {
            let _ = std::io::stdin().read(&mut [0]);
            std::process::exit(0);
        });
    }
    Ok(())
}

impl Child {
    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// CPU time of all its threads so far.
    ///
    /// # Errors
    ///
    /// It is gone.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        process_cpu(self.pid())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// CPU time of all threads that a process has now.
///
/// # Errors
///
/// There is no such process, or the system keeps no such books.
pub fn process_cpu(pid: u32) -> anyhow::Result<Duration> {
    let mut nanos = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
        let first = text.split_whitespace().next().context("schedstat is empty")?;
        nanos += first.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanos))
}

fn thread_cpu() -> anyhow::Result<Duration> {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

/// Keeps the calling thread, and those that it makes, on one CPU; on the first where there is no
/// such CPU.
///
/// # Errors
///
/// The system refuses.
pub fn pin(cpu: usize) -> anyhow::Result<()> {
    let pin_to = |cpu| {
        let mut set = rustix::thread::CpuSet::new();
        set.set(cpu);
        rustix::thread::sched_setaffinity(None, &set)
    };
    pin_to(cpu).or_else(|_| pin_to(0)).with_context(|| format!("pinning to cpu {cpu}"))
}

/// The limit program, run as `bench child-raw-echo`: one thread, one read and one write for each
/// time a connection becomes readable. Port 0 lets the system choose.
///
/// # Errors
///
/// The port cannot be opened, or the poll fails.
pub fn raw_echo(port: u16) -> anyhow::Result<()> {
    enter_child()?;
    let listener = listen(port)?;
    println!("port {}", listener.local_addr()?.port());
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, EventData::new_u64(u64::MAX), EventFlags::IN)?;
    let mut streams: Vec<Option<TcpStream>> = Vec::new();
    let mut free: Vec<usize> = Vec::new();
    let mut scratch = vec![0; 64 * 1024];
    let mut events: Vec<Event> = Vec::with_capacity(1024);
    loop {
        events.clear();
        match epoll::wait(&epoll, spare_capacity(&mut events), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            if event.data.u64() == u64::MAX {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true)?;
                    stream.set_nodelay(true)?;
                    let index = free.pop().unwrap_or(streams.len());
                    let data = EventData::new_u64(index as u64);
                    epoll::add(&epoll, &stream, data, EventFlags::IN)?;
                    if index == streams.len() {
                        streams.push(None);
                    }
                    streams[index] = Some(stream);
                }
                continue;
            }
            let index = event.data.u64() as usize;
            let Some(stream) = &mut streams[index] else { continue };
            let echoed = match stream.read(&mut scratch) {
                Ok(0) => false,
                Ok(len) => stream.write_all(&scratch[..len]).is_ok(),
                Err(error) => error.kind() == ErrorKind::WouldBlock,
            };
            if !echoed {
                streams[index] = None;
                free.push(index);
            }
        }
    }
}

/// A listener with a backlog that a storm of connections fits into.
fn listen(port: u16) -> anyhow::Result<TcpListener> {
    use rustix::net::{AddressFamily, SocketType, bind, listen, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    listen(&socket, 4096)?;
    let listener = TcpListener::from(socket);
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// The same echo over the engine's sockets, run as `bench child-sockets-echo`: what they add to
/// the limit by themselves.
///
/// # Errors
///
/// The port cannot be opened, or the poll fails.
pub fn sockets_echo() -> anyhow::Result<()> {
    enter_child()?;
    let mut sockets = Sockets::new(transport::Options::default(), Clock::system())?;
    let options = transport::ListenOptions::default();
    let (_, addr) = sockets.listen((Ipv4Addr::LOCALHOST, 0).into(), options)?;
    println!("port {}", addr.port());
    let mut scratch = vec![0; 64 * 1024];
    let mut out = Vec::with_capacity(64 * 1024);
    let mut events = Vec::new();
    loop {
        sockets.poll(None, &mut events)?;
        for event in events.drain(..) {
            let transport::Event::Readable(token) = event else { continue };
            loop {
                let read = sockets.read(token, &mut scratch);
                if let transport::Read::Data(len) | transport::Read::More(len) = read {
                    out.extend_from_slice(&scratch[..len]);
                    sockets.write(token, &mut out);
                    out.clear();
                }
                match read {
                    transport::Read::More(_) => {}
                    transport::Read::Data(_) | transport::Read::Blocked => break,
                    transport::Read::Closed(_) => {
                        sockets.close(token);
                        break;
                    }
                }
            }
        }
    }
}

const ROUNDS: usize = 5;

/// `bench raw`: the limit itself and the engine's sockets next to it, in rounds that take turns.
///
/// # Errors
///
/// See [`run_load`].
pub fn run() -> anyhow::Result<bool> {
    let limit = spawn_child(&["child-raw-echo", "0"], SERVER_CPU)?;
    let ours = spawn_child(&["child-sockets-echo"], SERVER_CPU)?;
    pin(CLIENT_CPU)?;
    for (connections, window) in [(100, 1), (100, 16), (1000, 1), (1000, 16)] {
        let mut rounds = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            for (server, rounds) in [&limit, &ours].into_iter().zip(&mut rounds) {
                let time = Duration::from_secs(1);
                let load =
                    Load { addr: server.addr(), connections, window, time, ..Load::default() };
                rounds.push(run_load(&load, |_| Echo::default(), || server.cpu())?);
            }
        }
        let [limit, ours] = rounds.map(|rounds| median(rounds, connections, window));
        println!("{:>42} the sockets cost {:.2} of the limit\n", "", ours / limit);
    }
    Ok(true)
}

/// Prints the round of median cost and gives that cost.
fn median(mut rounds: Vec<Outcome>, connections: usize, window: usize) -> f64 {
    let cost = Outcome::server_seconds_per_million;
    rounds.sort_by(|one, two| cost(one).total_cmp(&cost(two)));
    let outcome = &rounds[rounds.len() / 2];
    println!(
        "{connections:>5} connections, window {window:>2}: server {:.3} s/M, generator {:.3} s/M, \
         {:.0} msg/s, p50 {:.0} us, p99 {:.0} us, all connected in {:.1?}",
        cost(outcome),
        outcome.client_cpu.as_secs_f64() * 1e6 / outcome.messages as f64,
        outcome.messages_per_second(),
        outcome.latency_us(0.5),
        outcome.latency_us(0.99),
        outcome.login,
    );
    cost(outcome)
}
