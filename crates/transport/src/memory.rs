//! Pipes inside one process that behave like connected sockets.
//!
//! [`pair`] makes the two ends; each is given to the `Sockets` of its thread by
//! [`Sockets::adopt_pipe`](crate::Sockets::adopt_pipe) and is a [`Token`] from then on.

use std::sync::{Arc, Mutex, MutexGuard};

use crate::waker::{News, Waker};
use crate::{Read, Token, Write};

/// One end of a pipe. Dropping it closes the pipe: the other end reads what is left, then the end.
#[derive(Debug)]
pub struct End {
    shared: Arc<Mutex<Shared>>,
    /// Which half this end reads; it writes the other.
    side: usize,
}

#[derive(Debug)]
struct Shared {
    halves: [Half; 2],
}

/// One direction.
#[derive(Debug, Default)]
struct Half {
    bytes: Vec<u8>,
    /// How much of `bytes` was read.
    start: usize,
    bytes_max: usize,
    reader: Option<(Waker, Token)>,
    writer: Option<(Waker, Token)>,
    /// The reader was told of bytes and has not read since.
    told: bool,
    /// The writer wants to hear of room.
    full: bool,
    reader_gone: bool,
    writer_gone: bool,
}

/// Makes a pipe that holds at most `bytes_max` bytes each way (at least 1).
pub fn pair(bytes_max: usize) -> (End, End) {
    let half = || Half { bytes_max: bytes_max.max(1), ..Half::default() };
    let shared = Arc::new(Mutex::new(Shared { halves: [half(), half()] }));
    (End { shared: shared.clone(), side: 0 }, End { shared, side: 1 })
}

impl End {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        // A panic of the other thread cannot leave a half in a state that hurts.
        self.shared.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Registers with a poll. News that came before are told at once.
    pub(crate) fn register(&mut self, waker: &Waker, token: Token) {
        let side = self.side;
        let mut shared = self.lock();
        let reads = &mut shared.halves[side];
        reads.reader = Some((waker.clone(), token));
        if reads.len() > 0 || reads.writer_gone {
            reads.tell_reader();
        }
        shared.halves[1 - side].writer = Some((waker.clone(), token));
    }

    pub(crate) fn read(&mut self, scratch: &mut [u8]) -> Read {
        let side = self.side;
        let mut shared = self.lock();
        let half = &mut shared.halves[side];
        half.told = false;
        let waiting = half.len();
        if waiting == 0 {
            return if half.writer_gone { Read::Closed(None) } else { Read::Blocked };
        }
        let taken = waiting.min(scratch.len());
        scratch[..taken].copy_from_slice(&half.bytes[half.start..half.start + taken]);
        half.start += taken;
        if half.start == half.bytes.len() {
            half.bytes.clear();
            half.start = 0;
            // A burst must not cost its memory for ever.
            half.bytes.shrink_to(64 * 1024);
        }
        if half.full {
            half.full = false;
            if let Some((waker, token)) = &half.writer {
                waker.tell(News::Writable(*token));
            }
        }
        if taken < waiting || taken == scratch.len() || half.writer_gone {
            Read::More(taken)
        } else {
            Read::Data(taken)
        }
    }

    pub(crate) fn write(&mut self, out: &mut Vec<u8>) -> Write {
        let side = 1 - self.side;
        let mut shared = self.lock();
        let half = &mut shared.halves[side];
        if half.reader_gone {
            return Write::Closed(None);
        }
        if out.is_empty() {
            return Write::All;
        }
        let taken = half.room().min(out.len());
        if taken > 0 {
            if half.bytes.is_empty() && taken == out.len() && out.len() <= half.bytes.capacity() {
                // Both keep their memory: the batch changes hands without a copy.
                std::mem::swap(&mut half.bytes, out);
            } else {
                half.bytes.extend_from_slice(&out[..taken]);
                out.drain(..taken);
            }
            if !half.told {
                half.tell_reader();
            }
        }
        if out.is_empty() {
            return Write::All;
        }
        half.full = true;
        Write::Partial
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let side = self.side;
        let mut shared = self.lock();
        let reads = &mut shared.halves[side];
        reads.reader_gone = true;
        reads.reader = None;
        reads.bytes = Vec::new();
        reads.start = 0;
        if let Some((waker, token)) = reads.writer.take() {
            // So that a writer that waits for room learns that there will be none.
            waker.tell(News::Writable(token));
        }
        let writes = &mut shared.halves[1 - side];
        writes.writer_gone = true;
        writes.writer = None;
        writes.tell_reader();
    }
}

impl Half {
    fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    fn room(&self) -> usize {
        self.bytes_max.saturating_sub(self.len())
    }

    fn tell_reader(&mut self) {
        if let Some((waker, token)) = &self.reader {
            self.told = true;
            waker.tell(News::Readable(*token));
        }
    }
}
