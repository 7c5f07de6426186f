use env::Instant;

/// A hash over everything that happened, in order: two runs of one seed must have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace(u64);

impl Trace {
    pub(crate) const fn new() -> Self {
        Trace(0xcbf2_9ce4_8422_2325)
    }

    pub(crate) fn note(&mut self, now: Instant, what: u8, a: u64, bytes: &[u8]) {
        self.add(&now.as_nanos().to_le_bytes());
        self.add(&[what]);
        self.add(&a.to_le_bytes());
        self.add(bytes);
    }

    fn add(&mut self, bytes: &[u8]) {
        // FNV-1a over 8 bytes at a time: fast enough to hash all traffic.
        for piece in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..piece.len()].copy_from_slice(piece);
            self.0 = (self.0 ^ u64::from_le_bytes(word)).wrapping_mul(0x0000_0100_0000_01b3);
            self.0 ^= self.0 >> 29;
        }
    }

    /// The hash so far.
    pub fn hash(&self) -> u64 {
        self.0
    }
}
