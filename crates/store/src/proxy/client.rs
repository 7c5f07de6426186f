//! A store behind data processes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{JoinHandle, ThreadId};
use std::time::Duration;

use env::{Clock, Instant, Random};

use super::PING;
use super::calls::{Again, Call, Lookup};
use super::link::{self, FRAME_MAX, Opener, Refused, Sealer};
use super::wire::{In, Names, Wire};
use crate::answer::{Answer, channel};
use crate::error::{Error, OpenError};
use crate::row::{Damaged, Writer};

/// How a store behind data processes is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyOptions {
    /// Requests that may wait; one more is [`Busy`](Error::Busy).
    pub queue_ops_max: usize,
    /// Bytes of the requests that may wait.
    pub queue_bytes_max: usize,
    /// How long one connection may take to be made.
    pub connect_wait: Duration,
    /// How long opening tries to reach one of the processes.
    pub open_wait: Duration,
    /// How long a process may say nothing before another is asked.
    pub silence_wait: Duration,
    /// How long requests wait for any of them before they are [`Unavailable`](Error::Unavailable).
    pub away_wait: Duration,
    /// The longest pause between two rounds over all of them.
    pub pause_max: Duration,
}

impl Default for ProxyOptions {
    fn default() -> Self {
        ProxyOptions {
            queue_ops_max: 65_536,
            queue_bytes_max: 64 << 20,
            connect_wait: Duration::from_secs(3),
            open_wait: Duration::from_secs(10),
            silence_wait: Duration::from_secs(3),
            away_wait: Duration::from_secs(5),
            pause_max: Duration::from_secs(1),
        }
    }
}

/// Gets the answer's bytes, and whether they answer a look-up.
type Tell = Box<dyn FnOnce(Result<Vec<u8>, Error>, bool, &Names) + Send>;

struct Waiting {
    /// Number and content.
    body: Vec<u8>,
    again: Again,
    is_look_up: bool,
    tell: Tell,
}

#[derive(Default)]
struct State {
    next: u64,
    waiting: BTreeMap<u64, Waiting>,
    unsent: BTreeSet<u64>,
    bytes: usize,
    is_closed: bool,
    /// Why the connection is of no use any more.
    broken: Option<String>,
    heard_at: Option<Instant>,
    /// Since when there is no connection, and why.
    outage: Option<(Instant, String)>,
    /// Threads that must not wait for themselves.
    own: Vec<ThreadId>,
}

struct Shared {
    addresses: Vec<String>,
    name: String,
    key: Vec<u8>,
    options: ProxyOptions,
    clock: Clock,
    names: Names,
    state: Mutex<State>,
    changed: Condvar,
}

/// A store behind data processes, and its thread.
pub(crate) struct Proxy {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Connects to one of `addresses` (`host:port`) and asks for the store called `name`.
    pub fn open(
        addresses: &[String],
        name: &str,
        key: &[u8],
        options: ProxyOptions,
    ) -> Result<Self, OpenError> {
        if addresses.is_empty() || name.len() > link::NAME_MAX {
            return Err(OpenError::Malformed("it names no data process, or no store".to_owned()));
        }
        let shared = Arc::new(Shared {
            addresses: addresses.to_vec(),
            name: name.to_owned(),
            key: key.to_vec(),
            options,
            clock: Clock::system(),
            names: Names::default(),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let (told, opened) = mpsc::channel();
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("store proxy".to_owned());
        let thread = thread.spawn(move || Runner::new(of_thread).run(&told));
        let thread = thread.map_err(|source| OpenError::Io { path: shared.shown(), source })?;
        let proxy = Proxy { shared, thread: Some(thread) };
        let ended = OpenError::Malformed("its thread ended".to_owned());
        opened.recv().unwrap_or(Err(ended)).map(|()| proxy)
    }

    /// Sends a request.
    pub fn ask<C: Call>(&self, call: &C) -> Answer<C::Told> {
        let (sender, answer) = channel();
        let body = encode(call);
        let size = body.len();
        if size + 64 > FRAME_MAX {
            let error = Error::TooLarge { what: "bytes of a request", size, max: FRAME_MAX };
            sender.send(Err(error));
            return answer;
        }
        let tell: Tell = Box::new(move |told, is_look_up, names| {
            sender.send(told.and_then(|bytes| decode::<C::Told>(&bytes, is_look_up, names)));
        });
        let (shared, again) = (&self.shared, call.again());
        let waiting = Waiting { body, again, is_look_up: false, tell };
        if let Some((waiting, error)) = shared.push(waiting) {
            waiting.tell(Err(error), &shared.names);
        }
        answer
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.is_closed = true;
        let is_own = state.own.contains(&std::thread::current().id());
        drop(state);
        self.shared.changed.notify_all();
        // The last handle may be dropped by a callback, which runs on the thread itself.
        if let Some(thread) = self.thread.take().filter(|_| !is_own) {
            drop(thread.join());
        }
    }
}

fn encode<C: Call>(call: &C) -> Vec<u8> {
    let mut w = Writer::new();
    w.u8(C::NUMBER);
    call.put(&mut w);
    w.into_bytes()
}

fn decode<T: Wire>(bytes: &[u8], is_look_up: bool, names: &Names) -> Result<T, Error> {
    let mut r = In::new(bytes, names);
    let read = |r: &mut In<'_>| -> Result<Result<T, Error>, Damaged> {
        let told = if is_look_up {
            let unknown = |why: &str| Error::Unknown(format!("its data process was lost: {why}"));
            match <Result<Option<T>, Error>>::take(r)? {
                Ok(Some(told)) => Ok(told),
                // Not done by now, but the first try may still be on its way.
                Ok(None) => Err(unknown("it was not done when it was looked up")),
                Err(error) => Err(unknown(&error.to_string())),
            }
        } else {
            Wire::take(r)?
        };
        r.end()?;
        Ok(told)
    };
    let unreadable = |Damaged| Error::Unknown("the answer cannot be read".to_owned());
    read(&mut r).map_err(unreadable)?
}

impl Waiting {
    fn tell(self, told: Result<Vec<u8>, Error>, names: &Names) {
        let told = match told {
            // What was sent before may have been done.
            Err(error) if self.is_look_up => Err(Error::Unknown(error.to_string())),
            told => told,
        };
        (self.tell)(told, self.is_look_up, names);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shown(&self) -> String {
        format!("data service at {}", self.addresses.join(","))
    }

    /// Has a request sent; gives it back if it is refused.
    fn push(&self, waiting: Waiting) -> Option<(Waiting, Error)> {
        let mut state = self.lock();
        let bytes = waiting.body.len();
        if let Some((since, reason)) = &state.outage
            && self.clock.now() - *since >= self.options.away_wait
        {
            let error = Error::Unavailable(reason.clone());
            return Some((waiting, error));
        }
        let is_full = state.waiting.len() >= self.options.queue_ops_max
            || state.bytes + bytes > self.options.queue_bytes_max.max(bytes);
        if is_full {
            return Some((waiting, Error::Busy));
        }
        state.next += 1;
        let id = state.next;
        state.bytes += bytes;
        state.waiting.insert(id, waiting);
        state.unsent.insert(id);
        drop(state);
        self.changed.notify_all();
        None
    }

    /// Hands an answer to who waits for it.
    fn told(&self, id: u64, bytes: Vec<u8>) {
        let mut state = self.lock();
        let found = state.waiting.remove(&id);
        state.unsent.remove(&id);
        if let Some(waiting) = &found {
            state.bytes -= waiting.body.len();
        }
        let is_last = state.is_closed && state.waiting.is_empty();
        drop(state);
        if let Some(waiting) = found {
            waiting.tell(Ok(bytes), &self.names);
        }
        if is_last {
            self.changed.notify_all();
        }
    }

    fn broken(&self, reason: String) {
        self.lock().broken.get_or_insert(reason);
        self.changed.notify_all();
    }

    /// What is to become of requests whose connection is gone.
    fn settle(&self, reason: &str) {
        let mut state = self.lock();
        let State { waiting, unsent, .. } = &mut *state;
        let sent: Vec<u64> = waiting.keys().filter(|id| !unsent.contains(id)).copied().collect();
        let mut lost = Vec::new();
        for id in sent {
            let Some(request) = waiting.get_mut(&id) else { continue };
            match request.again {
                Again::Ask => drop(unsent.insert(id)),
                Again::LookUp(txn) => {
                    request.body = encode(&Lookup { id: txn });
                    (request.again, request.is_look_up) = (Again::Ask, true);
                    unsent.insert(id);
                }
                Again::Unknown => lost.push(id),
            }
        }
        let lost: Vec<Waiting> = lost.iter().filter_map(|id| waiting.remove(id)).collect();
        state.bytes = state.waiting.values().map(|request| request.body.len()).sum();
        drop(state);
        for request in lost {
            request.tell(Err(Error::Unknown(reason.to_owned())), &self.names);
        }
    }

    /// Answers all that waits.
    fn refuse_all(&self, reason: &str) {
        let mut state = self.lock();
        let all = std::mem::take(&mut state.waiting);
        state.unsent.clear();
        state.bytes = 0;
        drop(state);
        for request in all.into_values() {
            request.tell(Err(Error::Unavailable(reason.to_owned())), &self.names);
        }
    }
}

/// The thread.
struct Runner {
    shared: Arc<Shared>,
    /// Which process is asked next.
    at: usize,
    random: Random,
}

impl Runner {
    fn new(shared: Arc<Shared>) -> Self {
        let mut random = Random::from_os();
        let at = random.below(shared.addresses.len() as u64) as usize;
        Runner { shared, at, random }
    }

    fn run(mut self, told: &mpsc::Sender<Result<(), OpenError>>) {
        self.shared.lock().own.push(std::thread::current().id());
        let mut line = match self.open() {
            Ok(line) => Some(line),
            Err(error) => {
                // Whoever opens waits for it.
                drop(told.send(Err(error)));
                return;
            }
        };
        drop(told.send(Ok(())));
        let mut pause = self.shared.options.pause_max / 20;
        loop {
            match line.take().map_or_else(|| self.connect(), Ok) {
                Ok((stream, sealer, opener)) => {
                    pause = self.shared.options.pause_max / 20;
                    self.shared.lock().outage = None;
                    let reason = converse(&self.shared, &stream, sealer, opener);
                    self.at += 1;
                    self.shared.settle(&reason);
                    self.shared.lock().outage = Some((self.shared.clock.now(), reason));
                }
                Err(refused) => {
                    self.wait(refused.to_string(), pause);
                    pause = (pause * 2).min(self.shared.options.pause_max);
                }
            }
            let state = self.shared.lock();
            if state.is_closed && state.waiting.is_empty() {
                return;
            }
        }
    }

    /// Lets time pass without a connection.
    fn wait(&mut self, reason: String, pause: Duration) {
        let shared = &self.shared;
        let mut state = shared.lock();
        let now = shared.clock.now();
        let (since, known) = state.outage.get_or_insert_with(|| (now, String::new()));
        known.clone_from(&reason);
        if now - *since >= shared.options.away_wait {
            drop(state);
            shared.refuse_all(&reason);
            state = shared.lock();
        }
        if state.is_closed && state.waiting.is_empty() {
            return;
        }
        // Half of it is drawn, so that many processes do not come back as one.
        let half = pause / 2;
        let drawn = self.random.below(half.as_nanos().max(1) as u64);
        let pause = half + Duration::from_nanos(drawn);
        // Requests need not end the pause, and the end of the handle may.
        let is_open = |state: &mut State| !state.is_closed;
        drop(shared.changed.wait_timeout_while(state, pause, is_open));
    }

    fn open(&mut self) -> Result<(TcpStream, Sealer, Opener), OpenError> {
        let until = self.shared.clock.now() + self.shared.options.open_wait;
        let mut pause = self.shared.options.pause_max / 10;
        loop {
            let server = self.shared.shown();
            match self.connect() {
                Ok(line) => return Ok(line),
                Err(Away { reason, is_final: true }) => {
                    return Err(OpenError::Denied { server, reason });
                }
                Err(Away { reason, .. }) if self.shared.clock.now() + pause >= until => {
                    return Err(OpenError::Away { server, reason });
                }
                Err(_) => std::thread::sleep(pause),
            }
            pause = (pause * 2).min(self.shared.options.pause_max);
        }
    }

    /// One try at each of the processes, from the one whose turn it is.
    fn connect(&mut self) -> Result<(TcpStream, Sealer, Opener), Away> {
        let mut reasons = Vec::new();
        let mut is_final = true;
        for _ in 0..self.shared.addresses.len() {
            let address = &self.shared.addresses[self.at % self.shared.addresses.len()];
            let reason = match connect(&self.shared, address, self.random.bytes()) {
                Ok(line) => return Ok(line),
                Err(Refused::Key) => "it does not have the cluster's key".to_owned(),
                Err(Refused::Store) => format!("it has no store {:?}", self.shared.name),
                Err(Refused::Broken(reason)) => {
                    is_final = false;
                    reason
                }
            };
            reasons.push(format!("{address}: {reason}"));
            self.at += 1;
        }
        Err(Away { reason: reasons.join("; "), is_final })
    }
}

/// Why none of the processes can be used, and whether waiting does not help.
struct Away {
    reason: String,
    is_final: bool,
}

impl std::fmt::Display for Away {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.reason)
    }
}

fn connect(
    shared: &Shared,
    address: &str,
    random: link::Nonce,
) -> Result<(TcpStream, Sealer, Opener), Refused> {
    let wait = shared.options.connect_wait;
    let mut last = Refused::Broken("it has no address".to_owned());
    for at in address.to_socket_addrs()? {
        let mut stream = match TcpStream::connect_timeout(&at, wait) {
            Ok(stream) => stream,
            Err(error) => {
                last = error.into();
                continue;
            }
        };
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(wait))?;
        stream.set_write_timeout(Some(shared.options.silence_wait))?;
        let (sealer, opener) = link::ask(&mut stream, &shared.key, &shared.name, random)?;
        // How long it says nothing is looked at in between.
        stream.set_read_timeout(None)?;
        return Ok((stream, sealer, opener));
    }
    Err(last)
}

/// Sends and hears until the connection ends, or nothing is to be said any more; why.
fn converse(shared: &Shared, stream: &TcpStream, sealer: Sealer, mut opener: Opener) -> String {
    {
        let mut state = shared.lock();
        state.broken = None;
        state.heard_at = Some(shared.clock.now());
    }
    std::thread::scope(|scope| {
        let reader = std::thread::Builder::new().name("store proxy".to_owned());
        let reader = reader.spawn_scoped(scope, || {
            shared.lock().own.push(std::thread::current().id());
            let mut from = std::io::BufReader::with_capacity(64 << 10, stream);
            let error = loop {
                match opener.open(&mut from) {
                    Ok(frame) => {
                        shared.lock().heard_at = Some(shared.clock.now());
                        if let Some((id, told)) = frame.split_first_chunk::<8>() {
                            shared.told(u64::from_le_bytes(*id), told.to_vec());
                        }
                    }
                    Err(error) => break error,
                }
            };
            let me = std::thread::current().id();
            shared.lock().own.retain(|own| *own != me);
            shared.broken(error.to_string());
        });
        let reason = match reader {
            Ok(_) => send(shared, stream, sealer),
            Err(error) => error.to_string(),
        };
        drop(stream.shutdown(Shutdown::Both));
        reason
    })
}

/// Sends what is asked, and a sign of life from time to time.
fn send(shared: &Shared, mut stream: &TcpStream, mut sealer: Sealer) -> String {
    let mut pinged = shared.clock.now();
    loop {
        let mut out = Vec::new();
        {
            let mut state = shared.lock();
            let is_idle = |state: &mut State| {
                let is_over = state.is_closed && state.waiting.is_empty();
                state.unsent.is_empty() && state.broken.is_none() && !is_over
            };
            let waited = shared.changed.wait_timeout_while(state, PING, is_idle);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if let Some(reason) = state.broken.take() {
                return reason;
            }
            if state.is_closed && state.waiting.is_empty() {
                return "it was closed".to_owned();
            }
            let now = shared.clock.now();
            if state.heard_at.is_some_and(|at| now - at >= shared.options.silence_wait) {
                return format!("it said nothing for {:?}", shared.options.silence_wait);
            }
            let State { waiting, unsent, .. } = &mut *state;
            while let Some(id) = unsent.pop_first() {
                let Some(request) = waiting.get(&id) else { continue };
                sealer.seal(&[&id.to_le_bytes()[..], &request.body].concat(), &mut out);
                if out.len() > 1 << 20 {
                    break;
                }
            }
            if now - pinged >= PING {
                pinged = now;
                sealer.seal(&[], &mut out);
            }
        }
        if let Err(error) = stream.write_all(&out) {
            return error.to_string();
        }
    }
}
