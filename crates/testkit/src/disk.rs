//! A disk that may lie: what is written is there after a crash of the process, what is synced after
//! a power cut, unless the disk only said so.

use env::Random;

/// What became of a sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sync {
    Done,
    /// It says done, and is not.
    Lied,
    /// The operating system says that it failed. It forgets what it could not write, so a second
    /// sync would say done.
    Failed,
}

/// One file that grows.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    /// As a process reads it.
    bytes: Vec<u8>,
    /// So much of it survives a power cut.
    durable: usize,
    /// So much of it was said to.
    claimed: usize,
}

/// A sector is on the disk whole or not at all.
const SECTOR: usize = 64;

impl Disk {
    pub fn append(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub fn sync(&mut self, outcome: Sync) {
        match outcome {
            Sync::Done => {
                self.durable = self.bytes.len();
                self.claimed = self.bytes.len();
            }
            Sync::Lied => self.claimed = self.bytes.len(),
            Sync::Failed => {}
        }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether it said of something that it is durable that is not.
    pub fn has_lied(&self) -> bool {
        self.claimed > self.durable
    }

    /// So many bytes were said to be durable.
    pub fn claimed(&self) -> usize {
        self.claimed
    }

    /// Drops what lies behind `length`; what is left counts as durable.
    pub fn cut(&mut self, length: usize) {
        self.bytes.truncate(length);
        self.durable = self.bytes.len();
        self.claimed = self.claimed.min(length).max(self.durable);
    }

    /// The process ends within a write: of what was not synced, some more or less is there.
    pub fn crash(&mut self, random: &mut Random) {
        let open = self.bytes.len() - self.claimed;
        let kept = random.below(open as u64 + 1) as usize;
        if random.chance(1, 2) {
            self.bytes.truncate(self.claimed + kept);
        }
    }

    /// The power goes: of what was not synced, any sectors may be there, and others not.
    pub fn power_cut(&mut self, random: &mut Random) {
        let open = self.bytes.len() - self.durable;
        let kept = self.durable + random.below(open as u64 + 1) as usize;
        let scrambles = random.chance(1, 2);
        self.bytes.truncate(kept);
        let mut at = self.durable;
        while scrambles && at < kept {
            let end = ((at / SECTOR + 1) * SECTOR).min(kept);
            if random.chance(1, 3) {
                self.bytes[at..end].fill(0);
            }
            at = end;
        }
    }
}
