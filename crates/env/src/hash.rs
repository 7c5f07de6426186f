use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

/// A hash map with a fixed, fast hasher.
///
/// For keys that we made ourselves: a peer who may choose keys freely could make them collide.
/// Its order is the same in every run but means nothing: do not iterate where order shows.
pub type FastMap<K, V> = HashMap<K, V, BuildHasherDefault<FastHasher>>;

/// A hash set with a fixed, fast hasher; see [`FastMap`].
pub type FastSet<T> = HashSet<T, BuildHasherDefault<FastHasher>>;

/// Hashes by one folded 64×64→128-bit multiplication a word (the mixing step of wyhash).
#[derive(Clone, Copy, Debug, Default)]
pub struct FastHasher {
    state: u64,
}

const FIRST: u64 = 0xa076_1d64_78bd_642f;
const SECOND: u64 = 0xe703_7ed1_a0b4_28db;

impl FastHasher {
    fn mix(&mut self, word: u64) {
        let wide = u128::from(self.state ^ word ^ FIRST) * u128::from(SECOND);
        self.state = (wide as u64) ^ ((wide >> 64) as u64);
    }
}

impl Hasher for FastHasher {
    fn write(&mut self, bytes: &[u8]) {
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            self.mix(u64::from_le_bytes(word.try_into().expect("eight bytes")));
        }
        let rest = words.remainder();
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        // The length tells apart inputs that differ in trailing zeros only.
        self.mix(u64::from_le_bytes(last) ^ ((bytes.len() as u64) << 56));
    }

    fn write_u8(&mut self, n: u8) {
        self.mix(u64::from(n));
    }

    fn write_u16(&mut self, n: u16) {
        self.mix(u64::from(n));
    }

    fn write_u32(&mut self, n: u32) {
        self.mix(u64::from(n));
    }

    fn write_u64(&mut self, n: u64) {
        self.mix(n);
    }

    fn write_u128(&mut self, n: u128) {
        self.mix(n as u64);
        self.mix((n >> 64) as u64);
    }

    fn write_usize(&mut self, n: usize) {
        self.mix(n as u64);
    }

    fn finish(&self) -> u64 {
        self.state
    }
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher, BuildHasherDefault};

    use super::*;

    fn hash(value: impl std::hash::Hash) -> u64 {
        BuildHasherDefault::<FastHasher>::default().hash_one(value)
    }

    #[test]
    fn hashes_are_fixed_and_spread() {
        assert_eq!(hash(1u64), hash(1u64));
        assert_ne!(hash("a"), hash("a\0"));
        assert_ne!(hash([1u8, 2].as_slice()), hash([1u8, 2, 0].as_slice()));
        // hashbrown takes the bucket from the low bits and a tag from the top seven.
        let mut low = [0u32; 64];
        let mut high = [0u32; 64];
        for n in 0..64_000u64 {
            low[(hash(n) & 63) as usize] += 1;
            high[(hash(n << 32) >> 58) as usize] += 1;
        }
        assert!(low.iter().chain(&high).all(|n| (700..1_300).contains(n)), "{low:?} {high:?}");
    }
}
