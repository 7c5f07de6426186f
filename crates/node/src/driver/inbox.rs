use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::Incarnation;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::data::{Life, Told};
use crate::host::{Batch, Neighbours};
use crate::worker::Worker;

/// Work for a worker's own thread, from any other.
pub(crate) type Task = Box<dyn FnOnce(&mut Worker) + Send>;

/// What comes to a worker from its own process.
pub(crate) enum Mail {
    /// Frames from another worker of the node, as its mesh wrote them.
    Frames(Vec<u8>),
    /// Calls from another worker of the node.
    Batch(Batch),
    /// Something to be done with the worker.
    Task(Task),
    /// That worker's queue, which was full, has room again.
    Room(u8),
    /// A link of another worker of the node to that node broke.
    WayDown(Incarnation),
    /// An answer of the store of that number.
    Told(usize, Box<Told>),
    /// What the store of that number knows of this node's life.
    Life(usize, Life),
    /// End all sessions, then the thread.
    Stop,
}

/// The queue in front of one worker: a lane for each worker of the node, each bounded in bytes.
///
/// Senders wake the worker only if it sleeps, and once.
pub(crate) struct Inbox {
    lanes: Mutex<Lanes>,
    /// Whether there is mail; written with `lanes` locked.
    waiting: AtomicBool,
    asleep: AtomicBool,
    /// The core on which the worker was last seen, and 1; 0 if that is not known.
    core: AtomicU32,
    /// Ends the worker's sleep. Not by its sockets, so that it need not ask them what woke it.
    bell: Notify,
    lane_bytes_max: usize,
    /// Nodes that said that they do not reach the store, for the thread that beats.
    away: Mutex<Vec<Incarnation>>,
}

/// The inboxes of a node's workers, as each worker's host knows them.
pub(crate) struct Inboxes(pub Vec<Arc<Inbox>>);

impl Neighbours for Inboxes {
    fn is_awake(&self, worker: u8) -> bool {
        self.0[usize::from(worker)].is_awake()
    }

    fn post(&self, worker: u8, batch: Batch) {
        self.0[usize::from(worker)].push(Mail::Batch(batch));
    }
}

/// Nodes that are noted between two looks. More are nonsense.
const AWAY_MAX: usize = 4_096;

struct Lanes {
    mail: Vec<Mail>,
    /// Bytes of frames in `mail`, by sender.
    bytes: Vec<usize>,
    /// Senders that found their lane full.
    refused: Vec<u8>,
    /// The worker has ended: mail is dropped.
    closed: bool,
}

impl Inbox {
    pub fn new(workers: u8, lane_bytes_max: usize) -> Self {
        let bytes = vec![0; usize::from(workers)];
        let lanes = Lanes { mail: Vec::new(), bytes, refused: Vec::new(), closed: false };
        Inbox {
            lanes: Mutex::new(lanes),
            waiting: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
            core: AtomicU32::new(0),
            bell: Notify::new(),
            lane_bytes_max,
            away: Mutex::new(Vec::new()),
        }
    }

    /// Another node says that it does not reach the store.
    pub fn note_away(&self, node: Incarnation) {
        let mut away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        if !away.contains(&node) && away.len() < AWAY_MAX {
            away.push(node);
        }
    }

    /// Who said so since the last call.
    pub fn take_away(&self) -> Vec<Incarnation> {
        mem::take(&mut *self.away.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes a batch of frames; gives it back if the lane is full. [`Mail::Room`] follows then.
    pub fn push_frames(&self, from: u8, batch: Vec<u8>) -> Result<(), Vec<u8>> {
        let mut lanes = self.lock();
        if lanes.closed {
            return Ok(());
        }
        let waiting = lanes.bytes[usize::from(from)];
        // A batch alone may be over the limit, which is about how much piles up.
        if waiting > 0 && waiting + batch.len() > self.lane_bytes_max {
            if !lanes.refused.contains(&from) {
                lanes.refused.push(from);
            }
            return Err(batch);
        }
        lanes.bytes[usize::from(from)] += batch.len();
        lanes.mail.push(Mail::Frames(batch));
        self.waiting.store(true, Ordering::SeqCst);
        drop(lanes);
        self.wake_sleeper();
        Ok(())
    }

    /// Takes what is bounded elsewhere.
    pub fn push(&self, mail: Mail) {
        let mut lanes = self.lock();
        if lanes.closed {
            drop(lanes);
            return drop(mail);
        }
        lanes.mail.push(mail);
        self.waiting.store(true, Ordering::SeqCst);
        drop(lanes);
        self.wake_sleeper();
    }

    /// The worker has ended: drops what is here and what will come, so that whoever waits for
    /// it learns so.
    pub fn close(&self) {
        let mut lanes = self.lock();
        lanes.closed = true;
        let mail = mem::take(&mut lanes.mail);
        drop(lanes);
        drop(mail);
    }

    /// Takes out all mail, and the workers that are to be told that there is room again. `mail`
    /// must be empty; its memory is used for what comes next.
    pub fn take(&self, mail: &mut Vec<Mail>) -> Vec<u8> {
        if !self.has_mail() {
            return Vec::new();
        }
        let mut lanes = self.lock();
        self.waiting.store(false, Ordering::SeqCst);
        mem::swap(&mut lanes.mail, mail);
        lanes.bytes.fill(0);
        mem::take(&mut lanes.refused)
    }

    /// Whether there is mail.
    #[inline]
    pub fn has_mail(&self) -> bool {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Notes on which core the worker, whose thread this is, runs.
    pub fn note_core(&self) {
        #[cfg(target_os = "linux")]
        {
            let core = u32::try_from(rustix::thread::sched_getcpu()).map_or(0, |core| core + 1);
            self.core.store(core, Ordering::Relaxed);
        }
    }

    /// The core that was noted last; `None` if there is none.
    pub fn core(&self) -> Option<u32> {
        self.core.load(Ordering::Relaxed).checked_sub(1)
    }

    /// Whether the worker is awake, as far as one can know.
    pub fn is_awake(&self) -> bool {
        !self.asleep.load(Ordering::Relaxed)
    }

    /// The worker is about to sleep. `false` if there is mail: it must not.
    pub fn fall_asleep(&self) -> bool {
        // A sender notes its mail, then looks whether the worker sleeps; here it is the other way
        // round: in the one order of both, one of the two sees the other.
        self.asleep.store(true, Ordering::SeqCst);
        let empty = !self.has_mail();
        if !empty {
            self.asleep.store(false, Ordering::SeqCst);
        }
        empty
    }

    /// The worker is awake.
    pub fn wake_up(&self) {
        self.asleep.store(false, Ordering::SeqCst);
    }

    /// Ends the worker's sleep, whether there is mail or not.
    pub fn wake(&self) {
        self.bell.notify_one();
    }

    /// Waits for the next ring of its bell, or does not if it rang since the last.
    pub fn rung(&self) -> Notified<'_> {
        self.bell.notified()
    }

    fn wake_sleeper(&self) {
        if self.asleep.swap(false, Ordering::SeqCst) {
            self.bell.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Lanes> {
        // A panic while it is held leaves nothing half done.
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn core_is_unknown_until_the_worker_notes_it() {
        let inbox = Inbox::new(1, 1024);
        assert_eq!(inbox.core(), None);
        inbox.note_core();
        assert_eq!(inbox.core().is_some(), cfg!(target_os = "linux"));
    }
}
