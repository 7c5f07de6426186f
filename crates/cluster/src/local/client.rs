use std::io;
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use env::{Clock, Instant, Random};

use super::place::Place;
use super::server::{ALIVE_EVERY, Server};
use super::{FRAME_BYTES_MAX, read_frame, write_frame};
use crate::wire::{Ask, Tell};
use crate::{Key, Options, Shared};

/// A host that is silent for so long is given up.
const SILENCE_MAX: Duration = Duration::from_secs(5);
const CONNECT_WAIT: Duration = Duration::from_secs(1);
/// The first and the longest pause between two attempts to attach.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// What the loop of an attachment wakes for.
pub(crate) enum Wake {
    /// There is something to ask for.
    Work,
    /// Nobody is left.
    Stop,
    /// What the host says on a connection.
    Tell(u64, Tell),
    /// A connection broke.
    Broken(u64),
}

/// Keeps a process attached to the coordinator of a folder, for as long as anybody uses it.
struct Attachment {
    shared: Weak<Shared>,
    place: Place,
    options: Options,
    clock: Clock,
    events: Receiver<Wake>,
    sender: Sender<Wake>,
    server: Option<Server>,
    /// Messages of earlier connections are passed over.
    connection: u64,
}

/// Runs an [`Attachment`]; ends when nobody holds `shared` any more.
pub(crate) fn run(
    shared: Weak<Shared>,
    place: Place,
    (options, clock): (Options, Clock),
    (sender, events): (Sender<Wake>, Receiver<Wake>),
) {
    let server = None;
    let mut attachment =
        Attachment { shared, place, options, clock, events, sender, server, connection: 0 };
    let mut random = Random::from_os();
    let mut pause = PAUSES.0;
    let mut is_told = false;
    loop {
        let outcome = attachment.attach();
        let ended = match outcome {
            Ok(stream) => {
                pause = PAUSES.0;
                is_told = false;
                attachment.serve(stream)
            }
            Err(error) => {
                if !std::mem::replace(&mut is_told, true) {
                    tracing::warn!(%error, "the coordinator is not there; trying on");
                }
                false
            }
        };
        if ended || attachment.rest(pause + pause.mul_f64(random.unit_f64())) {
            return;
        }
        pause = (pause * 2).min(PAUSES.1);
    }
}

impl Attachment {
    /// Connects to the host, or becomes it.
    fn attach(&mut self) -> io::Result<TcpStream> {
        match self.connect() {
            Ok(stream) => Ok(stream),
            Err(error) => {
                // An own host that nobody can reach is one that ended.
                self.server = None;
                let Some(lock) = self.place.try_lock()? else { return Err(error) };
                let server = Server::start(&self.place, lock, &self.options, &self.clock)?;
                tracing::info!("this process hosts the coordinator");
                self.server = Some(server);
                self.connect()
            }
        }
    }

    fn connect(&mut self) -> io::Result<TcpStream> {
        let address = self.place.read_address()?;
        let mut stream = TcpStream::connect_timeout(&address.socket, CONNECT_WAIT)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(SILENCE_MAX))?;
        let seen = self.shared.upgrade().map_or(0, |shared| shared.keys_seen());
        write_frame(&mut stream, &Ask::Hello { token: address.token, seen }.encode())?;
        self.connection += 1;
        let (number, sender) = (self.connection, self.sender.clone());
        let mut reader = stream.try_clone()?;
        // A host writes at least its sign of life.
        reader.set_read_timeout(Some(SILENCE_MAX.max(ALIVE_EVERY * 3)))?;
        thread::Builder::new().name("coordinator-hear".to_owned()).spawn(move || {
            while let Ok(body) = read_frame(&mut reader, FRAME_BYTES_MAX) {
                let Ok(tell) = Tell::decode(&body) else { break };
                if sender.send(Wake::Tell(number, tell)).is_err() {
                    return;
                }
            }
            let _ = sender.send(Wake::Broken(number));
        })?;
        Ok(stream)
    }

    /// Goes on until the connection breaks (`false`) or nobody is left (`true`).
    fn serve(&mut self, mut stream: TcpStream) -> bool {
        let mut all = Vec::new();
        let mut is_open = true;
        let mut ended = false;
        while is_open && !ended {
            let Some(shared) = self.shared.upgrade() else { break };
            let now = self.clock.now();
            shared.handle_timeout(now);
            while let Some((id, request)) = shared.poll_request() {
                is_open &= write_frame(&mut stream, &Ask::Request { id, request }.encode()).is_ok();
            }
            let wait = wait(now, shared.poll_timeout());
            drop(shared);
            let mut next = match self.events.recv_timeout(wait) {
                Ok(wake) => Some(wake),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return true,
            };
            while let Some(wake) = next.take() {
                match wake {
                    Wake::Tell(number, tell) if number == self.connection => {
                        self.heard(tell, &mut all);
                    }
                    Wake::Broken(number) if number == self.connection => is_open = false,
                    Wake::Stop => ended = true,
                    _ => {}
                }
                next = self.events.try_recv().ok();
            }
        }
        let _ = stream.shutdown(std::net::Shutdown::Both);
        let Some(shared) = self.shared.upgrade() else { return true };
        shared.handle_disconnected(self.clock.now());
        ended
    }

    fn heard(&self, tell: Tell, all: &mut Vec<(Arc<str>, Key)>) {
        let Some(shared) = self.shared.upgrade() else { return };
        let now = self.clock.now();
        match tell {
            Tell::Part(part) => all.extend(part),
            Tell::All(revision) => shared.handle_all(now, revision, std::mem::take(all)),
            Tell::Changes(changes) => shared.handle_changes(now, changes),
            Tell::Reply { id, reply } => shared.handle_reply(now, id, reply),
            Tell::Alive => {}
        }
    }

    /// Waits between two attempts. Gives whether nobody is left.
    fn rest(&self, pause: Duration) -> bool {
        let until = self.clock.now() + pause;
        loop {
            let now = self.clock.now();
            let Some(shared) = self.shared.upgrade() else { return true };
            shared.handle_timeout(now);
            drop(shared);
            if now >= until {
                return false;
            }
            match self.events.recv_timeout(until.since(now)) {
                Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => return true,
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

fn wait(now: Instant, until: Option<Instant>) -> Duration {
    until.map_or(ALIVE_EVERY, |until| until.since(now)).min(ALIVE_EVERY)
}
