//! One operating-system thread for each worker: a current-thread Tokio runtime with the worker's
//! sockets nested in it.

mod beat;
mod gauges;
mod inbox;
mod keeper;
mod load;
mod patience;
mod pool;

use std::future::poll_fn;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;
use std::{io, mem, thread};

use cluster::Cluster;
use env::{Clock, Instant, WallTime};
use mesh::{Heard, PeerChange, Wires};
use proto::Incarnation;
use proto::frame::CloseCode;
use store::Store;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use transport::{Board, Doorbell, Event, Read, Sockets, Token};

pub(crate) use beat::{Pace, Pacemaker};
use inbox::Inboxes;
pub(crate) use inbox::{Inbox, Mail, Task};
pub use keeper::Stuck;
pub(crate) use keeper::{Keeper, KeeperParts, Lease};
pub(crate) use load::{LoadParts, Reporter};
use patience::{LOOK, LinkWatch, MOMENT, Patience};
pub(crate) use pool::Pool;

use crate::data::Trouble;
use crate::worker::{FRAMES_PER_ROUND, Report, Worker, WorkerStats};

/// Turns without a pause after which Tokio's tasks have their turn too.
const YIELD_EVERY: u32 = 8;

/// Events at once from which on the sockets are asked for more before the worker thinks of sleep.
/// With fewer it goes to sleep at once: whatever comes meanwhile wakes it.
const EVENTS_BUSY: usize = 16;

/// Frames of one read after which their answers leave, where the other end works at the same time:
/// each side has something to do while the other does its part, and neither sleeps.
const FRAMES_PER_WRITE: usize = 32;

/// How long the sockets are left alone at most by a worker that is always woken by other threads. Tokio asks
/// them whenever the worker sleeps.
const BELLS: Duration = Duration::from_micros(200);

/// Bytes read at once.
const SCRATCH_BYTES: usize = 64 * 1024;

/// What a worker's thread begins with.
pub(crate) struct Seat {
    pub index: u8,
    pub sockets: Sockets,
    pub doorbell: Doorbell,
    pub board: Board,
    pub clock: Clock,
    pub cluster: Cluster,
    pub inboxes: Vec<Arc<Inbox>>,
    pub beacon: Arc<Beacon>,
    /// How long an ending worker waits for its last frames to leave.
    pub flush_wait: Duration,
    /// Where entities with documents are kept: the default store, and those with names.
    pub stores: Vec<Store>,
    /// How long an ending worker waits for its last saves.
    pub save_wait: Duration,
    /// Makes the worker, on its own thread.
    pub build: Box<dyn FnOnce() -> Worker + Send>,
}

/// What a worker is at, for the keeper's thread to look at.
#[derive(Debug, Default)]
pub(crate) struct Beacon {
    /// When the turn under way began, in nanoseconds; 0 between turns.
    since: AtomicU64,
    /// What its host runs.
    pub pulse: std::sync::OnceLock<Arc<crate::host::Pulse>>,
    /// Turns done.
    pub turns: AtomicU64,
}

impl Beacon {
    fn begin(&self, now: Instant) {
        self.since.store(now.as_nanos().max(1), Ordering::Relaxed);
    }

    fn end(&self) {
        self.since.store(0, Ordering::Relaxed);
        self.turns.store(self.turns.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// When the turn under way began.
    pub fn since(&self) -> Option<Instant> {
        match self.since.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(Instant::from_nanos(nanos)),
        }
    }
}

impl Seat {
    /// Starts the thread. It gives what the worker held when it was told to stop.
    pub fn start(self, name: &str) -> io::Result<thread::JoinHandle<WorkerStats>> {
        thread::Builder::new().name(format!("{name}-{}", self.index)).spawn(move || {
            let _end = End(self.inboxes[usize::from(self.index)].clone());
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .event_interval(YIELD_EVERY)
                .build()
                .expect("the system has descriptors for a runtime");
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime, Driver::new(self).run())
        })
    }
}

/// Closes the inbox of a worker whose thread ends, also if it ends by a panic.
struct End(Arc<Inbox>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.close();
    }
}

struct Driver {
    index: u8,
    worker: Worker,
    wires: Wires,
    sockets: Sockets,
    doorbell: Doorbell,
    board: Board,
    clock: Clock,
    cluster: Cluster,
    /// Of the directory in use.
    revision: u64,
    inboxes: Vec<Arc<Inbox>>,
    beacon: Arc<Beacon>,
    flush_wait: Duration,
    stores: Vec<Store>,
    save_wait: Duration,
    events: Vec<Event>,
    mail: Vec<Mail>,
    /// Whether another worker of the node said something in this turn, or was told something.
    talked: bool,
    patience: Patience,
    /// Whether links are looked at instead of sleeping.
    watch: LinkWatch,
    /// Nodes whose links broke, until the worker is told at the end of the turn: behind what came
    /// from them.
    down: Vec<Incarnation>,
    /// When the sockets were last asked.
    polled: Instant,
    /// What ended the sleep before this turn.
    woken: Woken,
    /// Since when it looks for their mail instead of sleeping.
    looking: Option<Instant>,
    scratch: Box<[u8]>,
    /// What was held when the order to stop came, and when to end at the latest.
    stopping: Option<(WorkerStats, Instant)>,
}

/// What ended a worker's sleep.
#[derive(Clone, Copy, Debug, Default)]
enum Woken {
    /// It did not sleep.
    #[default]
    Not,
    /// There may be something at the sockets.
    BySockets,
    /// Mail, or a task; Tokio saw nothing at the sockets.
    ByBell,
}

/// Names the poll of the sockets to Tokio, which only waits for it.
struct PollFd(RawFd);

impl AsRawFd for PollFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

impl Driver {
    fn new(seat: Seat) -> Self {
        let mut worker = (seat.build)();
        let inbox = seat.inboxes[usize::from(seat.index)].clone();
        worker.host().on_wake(Arc::new(move || inbox.wake()));
        worker.host().set_neighbours(Rc::new(Inboxes(seat.inboxes.clone())));
        let _ = seat.beacon.pulse.set(worker.pulse());
        Driver {
            index: seat.index,
            worker,
            wires: Wires::new(seat.board.clone()),
            sockets: seat.sockets,
            doorbell: seat.doorbell,
            board: seat.board,
            clock: seat.clock,
            cluster: seat.cluster,
            revision: 0,
            inboxes: seat.inboxes,
            beacon: seat.beacon,
            flush_wait: seat.flush_wait,
            stores: seat.stores,
            save_wait: seat.save_wait,
            events: Vec::new(),
            mail: Vec::new(),
            talked: false,
            patience: Patience::default(),
            watch: LinkWatch::default(),
            down: Vec::new(),
            polled: Instant::from_nanos(0),
            woken: Woken::Not,
            looking: None,
            scratch: vec![0; SCRATCH_BYTES].into_boxed_slice(),
            stopping: None,
        }
    }

    async fn run(mut self) -> WorkerStats {
        // The poll is dropped before `self`, so the descriptor is open for as long as it lives.
        #[expect(deprecated, reason = "its replacement is unsafe, and nothing is gained by that")]
        let poll = AsyncFd::with_interest(PollFd(self.sockets.raw_fd()), Interest::READABLE)
            .expect("a poll can be nested in Tokio's");
        let mut turns = 0u32;
        loop {
            let now = self.clock.now();
            let wall = self.clock.wall();
            self.beacon.begin(now);
            self.take_mail(now, wall);
            let mut busy = self.asks_sockets(now) && self.take_events(now, wall);
            let next = self.worker.turn(now, wall);
            busy |= self.flush(now, wall);
            self.ask_store();
            self.report();
            self.beacon.end();
            busy |= next.is_some_and(|at| at <= now) || self.sockets.has_more();
            if let Some((held, until)) = &self.stopping
                && (!busy && !self.wires.is_blocked() && self.worker.is_saved() || now >= *until)
            {
                let mut held = held.clone();
                held.unsaved = self.worker.unsaved();
                return held;
            }
            turns = turns.wrapping_add(1);
            let slept = !busy && self.sleep(&poll, now, next).await;
            if !slept && turns.is_multiple_of(YIELD_EVERY) {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Waits for sockets, for mail, for Tokio's tasks or for `next`. `false` if there was mail
    /// already.
    async fn sleep(&mut self, poll: &AsyncFd<PollFd>, now: Instant, next: Option<Instant>) -> bool {
        if self.looks_for_mail(now) || self.watch.looks(self.clock.now()) {
            return false;
        }
        let stop_by = self.stopping.as_ref().map(|(_, until)| *until);
        match [next, stop_by].into_iter().flatten().min() {
            Some(at) => self.sockets.arm_timer(at),
            None => self.sockets.disarm_timer(),
        }
        let inbox = &self.inboxes[usize::from(self.index)];
        if !inbox.fall_asleep() {
            return false;
        }
        let until_woken = wait(poll, inbox);
        self.woken = match self.sockets.unattended_deadline() {
            None => until_woken.await,
            // Only the portable fallback has deadlines that the descriptor does not show.
            Some(at) => {
                let woken = tokio::time::timeout(at.since(now), until_woken).await;
                woken.unwrap_or(Woken::BySockets)
            }
        };
        inbox.wake_up();
        true
    }

    /// Whether the sockets are to be asked in this turn. That costs as much as several calls: while
    /// workers talk it is not done in each of their short turns, and hardly ever when Tokio has
    /// just seen that there is nothing.
    fn asks_sockets(&mut self, now: Instant) -> bool {
        let pause = match mem::take(&mut self.woken) {
            Woken::BySockets => return true,
            Woken::ByBell => BELLS,
            Woken::Not if self.talked => MOMENT,
            Woken::Not => return true,
        };
        now >= self.polled + pause || self.sockets.has_more()
    }

    /// Looks for mail of the other workers for a moment. `false` when that went on for long enough.
    fn looks_for_mail(&mut self, now: Instant) -> bool {
        let began = match self.looking {
            Some(began) => began,
            None if mem::take(&mut self.talked) && self.has_own_core() && self.patience.looks() => {
                now
            }
            None => return false,
        };
        let inbox = &self.inboxes[usize::from(self.index)];
        let (mut seen, until) = (inbox.has_mail(), now + MOMENT);
        while !seen && self.clock.now() < until {
            seen = (0..16).any(|_| {
                std::hint::spin_loop();
                inbox.has_mail()
            });
        }
        let goes_on = seen || until < began + LOOK;
        self.looking = goes_on.then_some(began);
        if !goes_on {
            self.patience.saw(false);
        }
        goes_on
    }

    /// Whether some other worker of the node was last seen on another core: one that shares this
    /// one cannot say anything while this one looks.
    fn has_own_core(&self) -> bool {
        let core = self.inboxes[usize::from(self.index)].core();
        let others = (0u8..).zip(&self.inboxes).filter(|(index, _)| *index != self.index);
        others.map(|(_, inbox)| inbox.core()).any(|other| other.is_none() || other != core)
    }

    fn take_mail(&mut self, now: Instant, wall: WallTime) {
        let mut mail = mem::take(&mut self.mail);
        for sender in self.inboxes[usize::from(self.index)].take(&mut mail) {
            self.inboxes[usize::from(sender)].push(Mail::Room(self.index));
        }
        self.follow_directory();
        for mail in mail.drain(..) {
            match mail {
                Mail::Frames(batch) => self.worker.handle_local(now, wall, batch),
                Mail::Batch(batch) => {
                    self.talked = true;
                    self.inboxes[usize::from(self.index)].note_core();
                    if self.looking.take().is_some() {
                        self.patience.saw(true);
                    }
                    self.worker.handle_batch(now, batch);
                }
                Mail::Task(task) => task(&mut self.worker),
                Mail::Room(worker) => self.worker.mesh().handle_local_room(worker),
                Mail::WayDown(node) => self.worker.handle_way_down(now, wall, node),
                Mail::Told(store, told) => self.worker.handle_told_by(now, store, *told),
                Mail::Life(store, life) => self.worker.handle_life_by(now, store, life),
                Mail::Stop => self.begin_stop(now, wall),
            }
        }
        self.mail = mail;
    }

    fn begin_stop(&mut self, now: Instant, wall: WallTime) {
        if self.stopping.is_none() {
            let saving = !self.worker.is_saved();
            let wait = if saving { self.flush_wait.max(self.save_wait) } else { self.flush_wait };
            self.stopping = Some((self.worker.stats(), now + wait));
            self.worker.stop(now, wall, CloseCode::GoingAway, "the server is going down");
        }
    }

    /// Takes what the sockets have to tell. Gives whether they may have more at once.
    fn take_events(&mut self, now: Instant, wall: WallTime) -> bool {
        self.polled = now;
        let mut events = mem::take(&mut self.events);
        if let Err(error) = self.sockets.poll(Some(Duration::ZERO), &mut events) {
            panic!("the poll of worker {} cannot be used any more: {error}", self.index);
        }
        let busy = events.len() >= EVENTS_BUSY;
        for event in events.drain(..) {
            match event {
                Event::Accepted { socket, .. } => {
                    self.wires.accept(now, self.worker.mesh(), &mut self.sockets, socket);
                }
                Event::Woken => {
                    for end in self.doorbell.take() {
                        self.wires.accept_pipe(now, self.worker.mesh(), &mut self.sockets, end);
                    }
                }
                Event::Timer => {}
                event => {
                    let mesh = self.worker.mesh();
                    let heard = self.wires.handle_event(now, mesh, &mut self.sockets, &event);
                    if let Heard::Readable(token, link) = heard {
                        self.read(now, wall, token, link);
                    }
                }
            }
        }
        self.events = events;
        busy
    }

    /// Reads a link once. What else it holds comes in the next turn: what a read brings is handled
    /// and answered while it lies in the nearest cache, and every link has its turn.
    fn read(&mut self, now: Instant, wall: WallTime, token: Token, link: mesh::LinkId) {
        match self.sockets.read(token, &mut self.scratch) {
            Read::Data(n) => self.take_bytes(now, wall, link, n),
            Read::More(n) => {
                self.take_bytes(now, wall, link, n);
                self.sockets.read_later(token);
            }
            Read::Blocked => {}
            Read::Closed(_) => {
                let mesh = self.worker.mesh();
                self.wires.handle_closed(now, mesh, &mut self.sockets, token);
            }
        }
    }

    /// Has the worker take the first `count` bytes of the scratch memory, which a link brought.
    fn take_bytes(&mut self, now: Instant, wall: WallTime, link: mesh::LinkId, count: usize) {
        self.watch.heard();
        self.follow_directory();
        let scratch = mem::take(&mut self.scratch);
        let mut bytes = &scratch[..count];
        let overlaps = self.watch.pays();
        let frames = if overlaps { FRAMES_PER_WRITE } else { FRAMES_PER_ROUND };
        while self.worker.handle_round(now, wall, link, &mut bytes, frames) {
            if overlaps {
                self.write_links(now);
            }
        }
        self.scratch = scratch;
    }

    /// To be called between taking what others sent and handling it: a gate of this process, for one, begins to
    /// send when the list names it, and until the worker has seen that it cannot answer.
    fn follow_directory(&mut self) {
        if let Some(directory) = self.cluster.directory_after(self.revision) {
            self.revision = directory.revision();
            let board = &self.board;
            self.worker.set_directory(directory, |node| board.has(node.0));
        }
    }

    /// Writes what there is for other nodes. Those that turn out to be down are noted.
    fn write_links(&mut self, now: Instant) {
        let down = &mut self.down;
        self.wires.flush(now, self.worker.mesh(), &mut self.sockets, |change| match change {
            PeerChange::Down(node) => down.push(node),
            PeerChange::Up(node) => tracing::debug!(%node, "node is up"),
        });
    }

    /// Sends everything on its way. Gives whether that gave the worker more to do.
    fn flush(&mut self, now: Instant, wall: WallTime) -> bool {
        self.write_links(now);
        let down = mem::take(&mut self.down);
        for node in &down {
            tracing::debug!(%node, "node is down");
            self.worker.handle_peer_down(now, wall, *node);
        }
        while let Some((to, batch)) = self.worker.poll_local() {
            if let Err(batch) = self.inboxes[usize::from(to)].push_frames(self.index, batch) {
                self.worker.mesh().handle_local_full(to, batch);
            }
        }
        while let Some((to, batch)) = self.worker.poll_batch() {
            self.talked = true;
            self.inboxes[usize::from(to)].push(Mail::Batch(batch));
        }
        // After the frames that came over the link for them.
        let others = (0u8..).zip(&self.inboxes).filter(|(index, _)| *index != self.index);
        for (_, inbox) in others {
            down.iter().for_each(|node| inbox.push(Mail::WayDown(*node)));
        }
        !down.is_empty()
    }

    /// Puts what the worker wants of the store to it. Answers come through the inbox.
    fn ask_store(&mut self) {
        for (number, store) in self.stores.iter().enumerate() {
            while let Some(ask) = self.worker.poll_ask_of(number) {
                let inbox = self.inboxes[usize::from(self.index)].clone();
                ask.submit(store, move |told| inbox.push(Mail::Told(number, Box::new(told))));
            }
        }
    }

    fn report(&mut self) {
        while let Some(report) = self.worker.poll_report() {
            match report {
                Report::BadFrame { from, problem } => {
                    tracing::warn!(node = %from.node, worker = from.worker, problem, "bad frame");
                }
                Report::StoreAway(node) => self.inboxes[usize::from(self.index)].note_away(node),
                Report::Data(trouble) => tell_trouble(&trouble),
                Report::Host(event) => tracing::warn!(?event, "an entity needs attention"),
            }
        }
    }
}

fn tell_trouble(trouble: &Trouble) {
    match trouble {
        Trouble::Parked(true) => {
            tracing::error!(
                "entities with documents stand still: the store does not answer in time"
            );
        }
        Trouble::Parked(false) => tracing::warn!("entities with documents go on"),
        Trouble::StoreStopped(reason) => {
            tracing::error!(reason, "the store has stopped: nothing is saved until a new start");
        }
        trouble => tracing::error!(?trouble, "stored state needs attention"),
    }
}

/// Waits until there is something at the sockets, or the bell rings.
async fn wait(poll: &AsyncFd<PollFd>, inbox: &Inbox) -> Woken {
    let mut rung = pin!(inbox.rung());
    poll_fn(|context| {
        match poll.poll_read_ready(context) {
            Poll::Ready(Ok(mut ready)) => {
                // What comes from now on makes it readable anew; what came before is polled next.
                ready.clear_ready();
                return Poll::Ready(Woken::BySockets);
            }
            Poll::Ready(Err(error)) => {
                panic!("Tokio cannot wait for the sockets any more: {error}")
            }
            Poll::Pending => {}
        }
        rung.as_mut().poll(context).map(|()| Woken::ByBell)
    })
    .await
}
