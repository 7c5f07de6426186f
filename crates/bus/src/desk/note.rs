//! What desks write to each other, and what is in front of a job that is asked for.
//!
//! All numbers are little-endian. Each note begins with [`VERSION`] and its kind.

use super::types::{End, Right};

/// The format of notes and envelopes.
const VERSION: u8 = 1;
const CLAIM: u8 = 1;
const ANSWER: u8 = 2;
const VERDICT: u8 = 3;
const CLEAR: u8 = 4;

/// More than a note or an envelope takes beside its body, in bytes.
pub(super) const FRAME_BYTES_MAX: usize = 80;

/// How a job ended that somebody answers for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Value(Vec<u8>),
    Failed(String),
    Unanswered,
}

/// What one desk tells another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Note {
    /// A worker is about to begin.
    Claim { from: u128, call: u64, right: Right },
    /// Somebody uses a right.
    Answer { from: u128, call: u64, right: Right, outcome: Outcome },
    /// What the desk of the right said to `call`.
    Verdict { from: u128, call: u64, refused: Option<End> },
    /// What was asked for a client is asked for no longer.
    Clear { from: u128, client: u64 },
}

impl Note {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        match self {
            Note::Claim { from, call, right } => {
                out.push(CLAIM);
                put_call(&mut out, *from, *call, right);
            }
            Note::Answer { from, call, right, outcome } => {
                out.push(ANSWER);
                put_call(&mut out, *from, *call, right);
                let (status, body): (u8, &[u8]) = match outcome {
                    Outcome::Value(body) => (0, body),
                    Outcome::Failed(cause) => (1, cause.as_bytes()),
                    Outcome::Unanswered => (2, &[]),
                };
                out.push(status);
                out.extend_from_slice(body);
            }
            Note::Verdict { from, call, refused } => {
                out.push(VERDICT);
                out.extend_from_slice(&from.to_le_bytes());
                out.extend_from_slice(&call.to_le_bytes());
                out.push(refused.map_or(0, |end| end as u8));
            }
            Note::Clear { from, client } => {
                out.push(CLEAR);
                out.extend_from_slice(&from.to_le_bytes());
                out.extend_from_slice(&client.to_le_bytes());
            }
        }
        out
    }

    /// `None` for what is no note.
    pub fn decode(bytes: &[u8]) -> Option<Note> {
        let mut rest = bytes.strip_prefix(&[VERSION])?;
        let kind = u8::from_le_bytes(take(&mut rest)?);
        let note = match kind {
            CLAIM => {
                let (from, call, right) = take_call(&mut rest)?;
                Note::Claim { from, call, right }
            }
            ANSWER => {
                let (from, call, right) = take_call(&mut rest)?;
                let [status] = take(&mut rest)?;
                let body = std::mem::take(&mut rest);
                let outcome = match status {
                    0 => Outcome::Value(body.to_vec()),
                    1 => Outcome::Failed(String::from_utf8_lossy(body).into_owned()),
                    2 if body.is_empty() => Outcome::Unanswered,
                    _ => return None,
                };
                Note::Answer { from, call, right, outcome }
            }
            VERDICT => {
                let from = u128::from_le_bytes(take(&mut rest)?);
                let call = u64::from_le_bytes(take(&mut rest)?);
                let [verdict] = take(&mut rest)?;
                let refused = match verdict {
                    0 => None,
                    other => Some(End::from_byte(other)?),
                };
                Note::Verdict { from, call, refused }
            }
            CLEAR => {
                let from = u128::from_le_bytes(take(&mut rest)?);
                let client = u64::from_le_bytes(take(&mut rest)?);
                Note::Clear { from, client }
            }
            _ => return None,
        };
        rest.is_empty().then_some(note)
    }
}

/// A job as it is published: whom to answer, and what is asked.
pub(super) fn seal(right: &Right, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(FRAME_BYTES_MAX + body.len());
    out.push(VERSION);
    out.extend_from_slice(&right.to_bytes());
    out.extend_from_slice(body);
    out
}

/// The contrary of [`seal`]; `None` for what is none.
pub(super) fn unseal(bytes: &[u8]) -> Option<(Right, &[u8])> {
    let mut rest = bytes.strip_prefix(&[VERSION])?;
    let right = Right::from_bytes(take(&mut rest)?);
    Some((right, rest))
}

fn put_call(out: &mut Vec<u8>, from: u128, call: u64, right: &Right) {
    out.extend_from_slice(&from.to_le_bytes());
    out.extend_from_slice(&call.to_le_bytes());
    out.extend_from_slice(&right.to_bytes());
}

fn take_call(rest: &mut &[u8]) -> Option<(u128, u64, Right)> {
    let from = u128::from_le_bytes(take(rest)?);
    let call = u64::from_le_bytes(take(rest)?);
    Some((from, call, Right::from_bytes(take(rest)?)))
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, left) = rest.split_first_chunk::<N>()?;
    *rest = left;
    Some(*taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_read_as_they_were_written_and_nothing_else_is() {
        let right = Right { desk: 1, number: 2, token: 3 };
        let answer = |outcome| Note::Answer { from: 4, call: 5, right, outcome };
        let notes = [
            Note::Claim { from: 4, call: 5, right },
            answer(Outcome::Value(vec![1, 2])),
            answer(Outcome::Failed("no".into())),
            answer(Outcome::Unanswered),
            Note::Verdict { from: 4, call: 5, refused: None },
            Note::Verdict { from: 4, call: 5, refused: Some(End::Cleared) },
            Note::Clear { from: 4, client: 6 },
        ];
        for note in notes {
            let bytes = note.encode();
            assert!(bytes.len() < FRAME_BYTES_MAX);
            assert_eq!(Note::decode(&bytes), Some(note));
            for end in 0..bytes.len() {
                // A shorter answer is another answer, or none; all else is nothing.
                let cut = Note::decode(&bytes[..end]);
                assert!(matches!(cut, None | Some(Note::Answer { .. })), "{cut:?}");
            }
        }
        let other = [[2, VERDICT].as_slice(), &[0; 25]].concat();
        assert_eq!(Note::decode(&other), None);
        assert_eq!(unseal(&seal(&right, b"job")), Some((right, b"job".as_slice())));
        assert_eq!(unseal(b"job"), None);
    }
    #[test]
    fn whatever_comes_is_read_safely() {
        let mut random = env::Random::from_seed(1);
        let mut read = 0;
        for _ in 0..20_000 {
            let mut bytes = random.bytes::<96>();
            bytes[0] = VERSION;
            bytes[1] %= 6;
            let length = usize::from(random.bytes::<1>()[0] % 97);
            if let Some(note) = Note::decode(&bytes[..length]) {
                read += 1;
                // What is no text comes back as something else, which then stays.
                let again = Note::decode(&note.encode());
                assert_eq!(again, Some(note));
            }
        }
        assert!(read > 0, "some of it are notes");
    }
}
