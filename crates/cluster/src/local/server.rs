use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::thread;
use std::time::Duration;

use env::{Clock, Instant, Random};

use super::file::{FileError, StateFile};
use super::place::{Address, Place};
use super::{FRAME_BYTES_MAX, read_frame, write_frame};
use crate::host::{Host, first_revision};
use crate::wire::{Ask, Tell};
use crate::{Change, Options};

/// Most processes attached at once.
const CONNECTIONS_MAX: usize = 1024;
/// Most messages that wait for one process; one that is slower is cut off and comes again.
const QUEUE_MAX: usize = 8192;
/// Most questions handled in one turn. Fewer changes than the history keeps.
const BATCH_MAX: usize = 256;
/// A sign of life is sent so often.
pub(super) const ALIVE_EVERY: Duration = Duration::from_secs(1);
/// The longest first message, which anybody may send.
const HELLO_BYTES_MAX: usize = 1024;
/// Bytes of keys in one part of all keys, about.
const PART_BYTES: usize = 256 << 10;
/// A turn that comes so late says that this process stood still.
const PAUSE: Duration = Duration::from_secs(3);

enum Event {
    Opened(u64, TcpStream),
    Ask(u64, Ask),
    Closed(u64),
    Stop,
}

/// A coordinator that this process hosts. Dropping it ends it.
pub(super) struct Server {
    events: Sender<Event>,
    address: Address,
    thread: Option<thread::JoinHandle<()>>,
}

struct Core {
    host: Host,
    file: StateFile,
    clock: Clock,
    token: String,
    connections: BTreeMap<u64, Connection>,
    events: Sender<Event>,
}

struct Connection {
    output: SyncSender<Tell>,
    stream: TcpStream,
    /// Whether it has shown that it may come in.
    admitted: bool,
}

impl Server {
    /// Hosts the coordinator of `place`, whose lock is held.
    pub fn start(place: &Place, lock: File, options: &Options, clock: &Clock) -> io::Result<Self> {
        let first = first_revision(clock.wall());
        let (file, stored) = match StateFile::open(&place.state(), first) {
            Ok(opened) => opened,
            // Nothing is wrong with what is stored: whoever tries again finds it.
            Err(FileError::Disk(error)) => {
                let what = "the coordinator's state cannot be opened or written";
                return Err(io::Error::other(format!("{what}: {error}")));
            }
            Err(error @ FileError::Damaged(_)) => {
                // It holds hints and settings; to go on without is better than not to go on.
                let aside = place.state().with_extension("bad");
                tracing::error!(%error, aside = %aside.display(), "the coordinator's state cannot be read: it is put aside, and begun anew");
                std::fs::rename(place.state(), aside)?;
                StateFile::open(&place.state(), first).map_err(io::Error::other)?
            }
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let token = format!("{:016x}{:016x}", Random::from_os().u64(), Random::from_os().u64());
        let address = Address { socket: listener.local_addr()?, token: token.clone() };
        // While nothing of ours holds the lock on: whoever tries after a disk that was full finds it free.
        place.write_address(&address)?;
        let (events, received) = channel();
        let host = Host::new(clock.now(), options.keys.clone(), options.lease, stored);
        let mut core = Core {
            host,
            file,
            clock: clock.clone(),
            token,
            connections: BTreeMap::new(),
            events: events.clone(),
        };
        let accepted = events.clone();
        thread::Builder::new().name("coordinator-accept".to_owned()).spawn(move || {
            for (number, stream) in (0..).zip(listener.incoming()) {
                let Ok(stream) = stream else { continue };
                if accepted.send(Event::Opened(number, stream)).is_err() {
                    return;
                }
            }
        })?;
        let thread = thread::Builder::new().name("coordinator".to_owned()).spawn(move || {
            core.run(&received);
            drop(core);
            // Held to the end: the next host opens the file that this one has closed.
            drop(lock);
        })?;
        Ok(Server { events, address, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.events.send(Event::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        // One last connection lets the accepting thread see it.
        drop(TcpStream::connect(self.address.socket));
    }
}

impl Core {
    fn run(&mut self, events: &Receiver<Event>) {
        let mut alive_at = self.clock.now();
        loop {
            let now = self.clock.now();
            if now.since(alive_at) > PAUSE {
                self.host.prolong(now);
            }
            if now >= alive_at {
                alive_at = now + ALIVE_EVERY;
                self.tell_all(&Tell::Alive);
            }
            let wake_at = self.host.poll_timeout().unwrap_or(alive_at).min(alive_at);
            let mut next = match events.recv_timeout(wake_at.since(now)) {
                Ok(event) => Some(event),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let now = self.clock.now();
            let mut replies = Vec::new();
            for _ in 0..BATCH_MAX {
                match next.take() {
                    None => break,
                    Some(Event::Stop) => return,
                    Some(event) => self.handle(now, event, &mut replies),
                }
                next = events.try_recv().ok();
            }
            if let Some(event) = next {
                self.handle(now, event, &mut replies);
            }
            if now.since(alive_at) <= PAUSE {
                self.host.handle_timeout(now);
            }
            if !self.publish(replies) {
                return;
            }
        }
    }

    fn handle(&mut self, now: Instant, event: Event, replies: &mut Vec<(u64, Tell)>) {
        match event {
            Event::Opened(number, stream) => {
                if let Err(error) = self.open(number, stream) {
                    tracing::warn!(%error, "a process could not attach to the coordinator");
                }
            }
            Event::Closed(number) => self.close(number),
            Event::Ask(number, Ask::Hello { token, seen }) => {
                let Some(connection) = self.connections.get_mut(&number) else { return };
                if connection.admitted || token != self.token {
                    tracing::warn!(
                        "a process with wrong credentials is refused by the coordinator"
                    );
                    self.close(number);
                    return;
                }
                self.host.raise(seen);
                // What is already changed is told as a part of all; nobody else may miss it.
                self.flush();
                if let Some(connection) = self.connections.get_mut(&number) {
                    connection.admitted = true;
                }
                self.tell_everything(number);
            }
            Event::Ask(number, Ask::Request { id, request }) => {
                let reply = self.host.handle(now, request);
                replies.push((number, Tell::Reply { id, reply }));
            }
            Event::Stop => {}
        }
    }

    fn open(&mut self, number: u64, stream: TcpStream) -> io::Result<()> {
        if self.connections.len() >= CONNECTIONS_MAX {
            return Err(io::Error::other("too many processes are attached"));
        }
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(Duration::from_secs(10)))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let (output, told) = sync_channel::<Tell>(QUEUE_MAX);
        let (mut reader, mut writer) = (stream.try_clone()?, stream.try_clone()?);
        let (events, token) = (self.events.clone(), self.token.clone());
        thread::Builder::new().name("coordinator-read".to_owned()).spawn(move || {
            let mut bytes_max = HELLO_BYTES_MAX;
            while let Ok(body) = read_frame(&mut reader, bytes_max) {
                let Ok(ask) = Ask::decode(&body) else { break };
                let is_hello = matches!(&ask, Ask::Hello { token: shown, .. } if *shown == token);
                // Nothing is done for who has not shown its token first.
                if (bytes_max == HELLO_BYTES_MAX) != is_hello {
                    break;
                }
                bytes_max = FRAME_BYTES_MAX;
                let _ = reader.set_read_timeout(None);
                if events.send(Event::Ask(number, ask)).is_err() {
                    return;
                }
            }
            let _ = events.send(Event::Closed(number));
        })?;
        thread::Builder::new().name("coordinator-write".to_owned()).spawn(move || {
            while let Ok(tell) = told.recv() {
                if write_frame(&mut writer, &tell.encode()).is_err() {
                    break;
                }
            }
            let _ = writer.shutdown(std::net::Shutdown::Both);
        })?;
        self.connections.insert(number, Connection { output, stream, admitted: false });
        Ok(())
    }

    fn close(&mut self, number: u64) {
        if let Some(connection) = self.connections.remove(&number) {
            let _ = connection.stream.shutdown(std::net::Shutdown::Both);
        }
    }

    /// Stores and tells what changed, then answers. `false` if it cannot be stored.
    fn publish(&mut self, replies: Vec<(u64, Tell)>) -> bool {
        if !self.flush() {
            return false;
        }
        for (number, reply) in replies {
            self.tell(number, reply);
        }
        true
    }

    fn flush(&mut self) -> bool {
        let changes = self.host.take_changes();
        if changes.is_empty() {
            return true;
        }
        if let Err(error) = self.file.write(self.host.revision(), &changes) {
            // Nobody has heard of the changes. Whoever hosts next goes on from the file.
            tracing::error!(%error, "the coordinator's state cannot be stored; hosting ends");
            return false;
        }
        let mut bytes = 0;
        let size = |change: &Change| {
            change.key.len() + change.now.as_ref().map_or(0, |now| now.value.len()) + 64
        };
        let mut part = Vec::new();
        for change in changes {
            bytes += size(&change);
            part.push(change);
            if bytes > PART_BYTES {
                bytes = 0;
                self.tell_all(&Tell::Changes(std::mem::take(&mut part)));
            }
        }
        self.tell_all(&Tell::Changes(part));
        true
    }

    fn tell_everything(&mut self, number: u64) {
        let (mut parts, mut part, mut bytes) = (Vec::new(), Vec::new(), 0);
        for (name, key) in self.host.all() {
            bytes += name.len() + key.value.len() + 64;
            part.push((name.clone(), key.clone()));
            if bytes > PART_BYTES {
                parts.push(Tell::Part(std::mem::take(&mut part)));
                bytes = 0;
            }
        }
        parts.push(Tell::Part(part));
        parts.push(Tell::All(self.host.revision()));
        for part in parts {
            self.tell(number, part);
        }
    }

    fn tell_all(&mut self, tell: &Tell) {
        let admitted = self.connections.iter().filter(|(_, connection)| connection.admitted);
        let numbers: Vec<u64> = admitted.map(|(number, _)| *number).collect();
        for number in numbers {
            self.tell(number, tell.clone());
        }
    }

    fn tell(&mut self, number: u64, tell: Tell) {
        let Some(connection) = self.connections.get(&number) else { return };
        if connection.output.try_send(tell).is_err() {
            tracing::warn!("a process is too slow for the coordinator; it has to attach again");
            self.close(number);
        }
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        let numbers: Vec<u64> = self.connections.keys().copied().collect();
        numbers.into_iter().for_each(|number| self.close(number));
    }
}
