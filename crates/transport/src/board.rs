use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::memory::{self, End};
use crate::waker::Waker;

/// Where the workers of one process find each other, to be linked by pipes instead of sockets.
///
/// A cheap clone; every worker that is given the same board can reach all others on it.
#[derive(Clone, Debug, Default)]
pub struct Board {
    shared: Arc<Mutex<Doors>>,
}

#[derive(Debug, Default)]
struct Doors {
    opened: u64,
    by_worker: BTreeMap<(u64, u8), Door>,
}

#[derive(Debug)]
struct Door {
    /// Tells it from one that took its place.
    serial: u64,
    waker: Waker,
    dialed: Vec<End>,
}

/// The listed place of one worker; dropping it takes the worker off the board.
#[derive(Debug)]
pub struct Doorbell {
    board: Board,
    at: (u64, u8),
    serial: u64,
}

/// Most pipes that wait for a worker to take them.
const DIALED_MAX: usize = 4096;

impl Board {
    /// An empty board.
    pub fn new() -> Self {
        Board::default()
    }

    /// Lists a worker of a node. `waker` ends its poll when somebody dials. A worker that is
    /// listed already is replaced.
    pub fn open(&self, node: u64, worker: u8, waker: Waker) -> Doorbell {
        let mut doors = self.lock();
        doors.opened += 1;
        let serial = doors.opened;
        doors.by_worker.insert((node, worker), Door { serial, waker, dialed: Vec::new() });
        Doorbell { board: self.clone(), at: (node, worker), serial }
    }

    /// Whether a worker of the node is listed.
    pub fn has(&self, node: u64) -> bool {
        self.lock().by_worker.range((node, 0)..=(node, u8::MAX)).next().is_some()
    }

    /// Connects to a worker of a node, or to another worker of that node if it is not listed, by a
    /// pipe that holds `bytes_max` bytes each way. `None` if no worker of the node is listed or
    /// too many wait for it already.
    pub fn dial(&self, node: u64, worker: u8, bytes_max: usize) -> Option<End> {
        let mut doors = self.lock();
        let doors = &mut doors.by_worker;
        let at = if doors.contains_key(&(node, worker)) {
            (node, worker)
        } else {
            *doors.range((node, 0)..=(node, u8::MAX)).next()?.0
        };
        let door = doors.get_mut(&at)?;
        if door.dialed.len() >= DIALED_MAX {
            return None;
        }
        let (mine, theirs) = memory::pair(bytes_max);
        door.dialed.push(theirs);
        door.waker.wake();
        Some(mine)
    }

    fn lock(&self) -> MutexGuard<'_, Doors> {
        // A panic of another thread cannot leave the map in a state that hurts.
        self.shared.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Doorbell {
    /// The pipes that others have dialed since the last call; look after `Event::Woken`.
    pub fn take(&self) -> Vec<End> {
        match self.board.lock().by_worker.get_mut(&self.at) {
            Some(door) if door.serial == self.serial => std::mem::take(&mut door.dialed),
            _ => Vec::new(),
        }
    }
}

impl Drop for Doorbell {
    fn drop(&mut self) {
        let mut doors = self.board.lock();
        if doors.by_worker.get(&self.at).is_some_and(|door| door.serial == self.serial) {
            doors.by_worker.remove(&self.at);
        }
    }
}

#[cfg(test)]
mod tests {
    use env::Clock;

    use super::*;
    use crate::{Event, Options, Read, Sockets, Write};

    #[test]
    fn dialed_pipe_reaches_the_listed_worker() {
        let mut near = Sockets::new(Options::default(), Clock::system()).unwrap();
        let mut far = Sockets::new(Options::default(), Clock::system()).unwrap();
        let board = Board::new();
        assert!(board.dial(7, 0, 1024).is_none());
        let bell = board.open(7, 3, far.waker());
        let mine = near.adopt_pipe(board.dial(7, 0, 1024).unwrap()).unwrap();
        let mut events = Vec::new();
        far.poll(None, &mut events).unwrap();
        assert!(matches!(events[..], [Event::Woken]));
        let ends = bell.take();
        assert_eq!(ends.len(), 1);
        let theirs = far.adopt_pipe(ends.into_iter().next().unwrap()).unwrap();
        assert!(matches!(near.write(mine, &mut b"hello".to_vec()), Write::All));
        let mut scratch = [0; 16];
        assert!(matches!(far.read(theirs, &mut scratch), Read::Data(5)));
        drop(bell);
        assert!(board.dial(7, 3, 1024).is_none());
    }
}
