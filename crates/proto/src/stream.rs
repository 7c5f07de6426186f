//! Numbered streams: what makes a message arrive in order and at most once across connections.
//!
//! Both ends of a stream hold one [`Outbound`] and one [`Inbound`]. The server's pair lives with
//! the bound entity, never in a gate.

use std::collections::VecDeque;
use std::rc::Rc;

/// Limits on what one direction of a stream keeps for a peer that is away.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most frames kept until they are acknowledged.
    pub frames_max: usize,
    /// Most bytes of bodies kept until they are acknowledged.
    pub bytes_max: usize,
}

impl Default for Limits {
    /// 256 frames or 64 KiB.
    fn default() -> Self {
        Limits { frames_max: 256, bytes_max: 64 * 1024 }
    }
}

/// The limits were reached: the peer was away too long or reads too slowly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {frames} frames or {bytes} bytes wait for an acknowledgement")]
pub struct Overflow {
    /// Frames kept now.
    pub frames: usize,
    /// Bytes kept now.
    pub bytes: usize,
}

/// The sending half: numbers frames and keeps them until the peer acknowledges them.
#[derive(Debug)]
pub struct Outbound<T> {
    limits: Limits,
    /// Number of the last frame pushed.
    last: u64,
    /// Number of the last frame acknowledged; `kept` starts right after it.
    acked: u64,
    bytes: usize,
    kept: VecDeque<(T, usize)>,
}

impl<T> Outbound<T> {
    /// Starts at number 1.
    pub fn new(limits: Limits) -> Self {
        Outbound { limits, last: 0, acked: 0, bytes: 0, kept: VecDeque::new() }
    }

    /// The number that the next [`push`](Self::push) will give.
    pub fn next_number(&self) -> u64 {
        self.last + 1
    }

    /// Number of the last frame pushed; 0 before the first.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Number of the last frame that the peer acknowledged.
    pub fn acked(&self) -> u64 {
        self.acked
    }

    /// How many frames are kept.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// How many bytes the kept frames count.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether everything was acknowledged.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Keeps `frame`, which counts as `bytes`, and gives its number.
    ///
    /// # Errors
    ///
    /// `Overflow` if the limits are reached; the frame was not taken.
    pub fn push(&mut self, frame: T, bytes: usize) -> Result<u64, Overflow> {
        if self.kept.len() >= self.limits.frames_max
            || self.bytes + bytes > self.limits.bytes_max && !self.kept.is_empty()
        {
            return Err(Overflow { frames: self.kept.len(), bytes: self.bytes });
        }
        self.last += 1;
        self.bytes += bytes;
        self.kept.push_back((frame, bytes));
        Ok(self.last)
    }

    /// Forgets everything up to `number`. An acknowledgement of what was never sent gives `false`
    /// and changes nothing; an old one is harmless.
    #[must_use]
    pub fn acknowledge(&mut self, number: u64) -> bool {
        if number > self.last {
            return false;
        }
        while self.acked < number {
            let (_, bytes) = self.kept.pop_front().expect("kept holds acked+1..=last");
            self.bytes -= bytes;
            self.acked += 1;
        }
        if self.kept.is_empty() {
            // An idle stream holds no memory.
            self.kept.shrink_to(8);
        }
        true
    }

    /// The kept frames with their numbers, oldest first.
    pub fn kept(&self) -> impl Iterator<Item = (u64, &T)> {
        (self.acked + 1..).zip(self.kept.iter().map(|(frame, _)| frame))
    }
}

/// What to do with a numbered frame that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The next one: handle it.
    Next,
    /// Handled before: drop it, repeat its answer.
    Duplicate,
    /// Frames before it are missing: the peer broke the protocol.
    Gap,
}

/// The receiving half: lets each number through once and in order, and tells when an
/// acknowledgement is due.
#[derive(Clone, Debug, Default)]
pub struct Inbound {
    applied: u64,
    told: u64,
}

impl Inbound {
    /// Frames handled without telling the peer before it must be told.
    pub const UNTOLD_MAX: u64 = 32;

    /// Goes on after `applied`.
    pub fn resume_after(applied: u64) -> Self {
        Inbound { applied, told: applied }
    }

    /// Takes note of frame `number` (not 0).
    pub fn arrive(&mut self, number: u64) -> Arrival {
        match number.cmp(&(self.applied + 1)) {
            std::cmp::Ordering::Less => Arrival::Duplicate,
            std::cmp::Ordering::Greater => Arrival::Gap,
            std::cmp::Ordering::Equal => {
                self.applied = number;
                Arrival::Next
            }
        }
    }

    /// Number of the last frame handled.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// Gives the number to acknowledge in a frame that is being sent anyway.
    pub fn tell(&mut self) -> u64 {
        self.told = self.applied;
        self.applied
    }

    /// Whether something is handled that the peer has not been told of.
    pub fn owes(&self) -> bool {
        self.told < self.applied
    }

    /// Whether the peer must be told now, without waiting for a frame to ride on.
    pub fn is_due(&self) -> bool {
        self.applied - self.told >= Self::UNTOLD_MAX
    }
}

/// The last answers of a stream, so that a repeated request gets its first answer again.
#[derive(Debug, Default)]
pub struct Answers {
    bytes: usize,
    kept: VecDeque<(u64, Rc<[u8]>)>,
}

impl Answers {
    /// Most answers kept.
    pub const ANSWERS_MAX: usize = 64;

    /// Most bytes of answers kept; a single longer one is kept alone.
    pub const BYTES_MAX: usize = 64 * 1024;

    /// Keeps the answer to request `number`, and forgets the oldest beyond the limits.
    pub fn keep(&mut self, number: u64, answer: Rc<[u8]>) {
        self.bytes += answer.len();
        self.kept.push_back((number, answer));
        while self.kept.len() > Self::ANSWERS_MAX
            || self.bytes > Self::BYTES_MAX && self.kept.len() > 1
        {
            let (_, oldest) = self.kept.pop_front().expect("more than one is kept");
            self.bytes -= oldest.len();
        }
    }

    /// The answer to request `number`, if it is still kept.
    pub fn find(&self, number: u64) -> Option<&Rc<[u8]>> {
        self.kept.iter().rev().find(|(kept, _)| *kept == number).map(|(_, answer)| answer)
    }
}
