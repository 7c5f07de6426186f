//! How owners are written beside values. A value without an owner is written as it is, so that
//! settings can be read and written by any tool.

use proto::Incarnation;

const PLAIN: u8 = 0;
const OWNED: u8 = 1;

pub(super) fn encode(owner: Option<Incarnation>, value: &[u8]) -> Vec<u8> {
    match owner {
        Some(owner) => [&[OWNED][..], &owner.0.to_be_bytes(), value].concat(),
        None if matches!(value.first(), Some(&(PLAIN | OWNED))) => [&[PLAIN], value].concat(),
        None => value.to_vec(),
    }
}

pub(super) fn decode(bytes: &[u8]) -> (Option<Incarnation>, &[u8]) {
    match bytes {
        [OWNED, rest @ ..] => match rest.split_first_chunk() {
            Some((owner, value)) => (Some(Incarnation(u64::from_be_bytes(*owner))), value),
            None => (None, bytes),
        },
        [PLAIN, value @ ..] => (None, value),
        value => (None, value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_comes_back_with_its_owner() {
        for owner in [None, Some(Incarnation(7))] {
            for value in [&b""[..], b"5", &[0], &[1], &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]] {
                assert_eq!(decode(&encode(owner, value)), (owner, value));
            }
        }
        assert_eq!(encode(None, b"5"), b"5");
        assert_eq!(decode(&[1, 2]), (None, &[1, 2][..]));
    }
}
