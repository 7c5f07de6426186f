//! A file that only grows, record after record: how it is written, and how much of it is believed
//! after a crash.
//!
//! Pure: it knows bytes, not files. Whoever writes it syncs one record before it writes the next, so
//! that after a crash only the last one can be torn. [`read`] cuts such a tail; a bad record that
//! good ones follow was no crash, and nothing after it can be believed, so it is an error.
//! `docs/store-format.md` has the bytes.

use crate::row::crc;

/// The first bytes of each record.
const MARK: [u8; 4] = *b"MSjr";

/// Bytes of a record beside what it carries.
pub const RECORD_OVERHEAD: usize = 20;

/// Appends one record, the `number`th of its file, which counts from 0.
///
/// # Panics
///
/// If `body` is longer than 4 GiB.
pub fn append(out: &mut Vec<u8>, number: u64, body: &[u8]) {
    let length = u32::try_from(body.len()).expect("a record is far below 4 GiB").to_le_bytes();
    let number = number.to_le_bytes();
    out.extend_from_slice(&MARK);
    out.extend_from_slice(&length);
    out.extend_from_slice(&number);
    out.extend_from_slice(&crc(&[&length, &number, body]).to_le_bytes());
    out.extend_from_slice(body);
}

/// How a journal ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tail {
    /// Whole records.
    pub records: u64,
    /// Bytes of them: the file is to be cut here before more is written.
    pub bytes: usize,
}

/// A record cannot be read, and good ones follow it: the file was changed or its disk has failed.
/// Restore it from a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("record {number} at byte {at} is damaged, and whole records follow it")]
pub struct Damaged {
    /// Which record.
    pub number: u64,
    /// Where it begins.
    pub at: usize,
}

/// Shows the body of each whole record in their order, and tells where the last one ends.
///
/// # Errors
///
/// [`Damaged`], before any record is shown.
pub fn read<'a>(file: &'a [u8], mut see: impl FnMut(&'a [u8])) -> Result<Tail, Damaged> {
    let tail = check(file, true)?;
    show(file, tail, &mut see);
    Ok(tail)
}

/// As [`read`], but believes every record whose length fits: for the proof that simulations notice.
#[doc(hidden)]
pub fn read_unchecked<'a>(file: &'a [u8], mut see: impl FnMut(&'a [u8])) -> Tail {
    let tail = check(file, false).expect("without a check nothing is damaged");
    show(file, tail, &mut see);
    tail
}

fn show<'a>(file: &'a [u8], tail: Tail, see: &mut impl FnMut(&'a [u8])) {
    let mut at = 0;
    while at < tail.bytes {
        let (body, next) = record(file, at).expect("it was read before");
        see(body);
        at = next;
    }
}

fn check(file: &[u8], checked: bool) -> Result<Tail, Damaged> {
    let mut tail = Tail { records: 0, bytes: 0 };
    while let Some((body, next)) = record(file, tail.bytes) {
        if checked && !is_whole(file, tail.bytes, body, tail.records) {
            break;
        }
        tail = Tail { records: tail.records + 1, bytes: next };
    }
    let is_followed = checked && (tail.bytes..file.len()).any(|at| is_later(file, at, tail));
    if is_followed { Err(Damaged { number: tail.records, at: tail.bytes }) } else { Ok(tail) }
}

/// The body of the record at `at` and where the next one begins, if it has a mark and fits.
fn record(file: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let head = file.get(at..)?.get(..RECORD_OVERHEAD)?;
    if head[..4] != MARK {
        return None;
    }
    let length = u32::from_le_bytes(head[4..8].try_into().ok()?) as usize;
    let from = at + RECORD_OVERHEAD;
    let body = file.get(from..)?.get(..length)?;
    Some((body, from + length))
}

fn number(file: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(file[at + 8..at + 16].try_into().expect("eight bytes"))
}

fn is_whole(file: &[u8], at: usize, body: &[u8], expected: u64) -> bool {
    let head = &file[at..at + RECORD_OVERHEAD];
    number(file, at) == expected
        && crc(&[&head[4..8], &head[8..16], body]).to_le_bytes() == head[16..20]
}

/// Whether a whole record of a later number begins at `at`.
fn is_later(file: &[u8], at: usize, tail: Tail) -> bool {
    file[at] == MARK[0]
        && record(file, at).is_some_and(|(body, _)| {
            let found = number(file, at);
            found > tail.records && is_whole(file, at, body, found)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal(bodies: &[&[u8]]) -> Vec<u8> {
        let mut file = Vec::new();
        for (number, body) in (0..).zip(bodies) {
            append(&mut file, number, body);
        }
        file
    }

    fn bodies(file: &[u8]) -> Result<Vec<Vec<u8>>, Damaged> {
        let mut found = Vec::new();
        read(file, |body| found.push(body.to_vec())).map(|_| found)
    }

    const THREE: [&[u8]; 3] = [b"first", b"", b"the third record"];

    #[test]
    fn a_journal_gives_back_what_was_appended() {
        let file = journal(&THREE);
        assert_eq!(bodies(&file).unwrap(), THREE);
        assert_eq!(read(&file, |_| ()).unwrap(), Tail { records: 3, bytes: file.len() });
        assert_eq!(bodies(&[]).unwrap(), Vec::<Vec<u8>>::new());
    }

    #[test]
    fn a_tail_torn_anywhere_is_cut_at_the_last_whole_record() {
        let (file, whole) = (journal(&THREE), journal(&THREE[..2]).len());
        for end in whole..file.len() {
            assert_eq!(read(&file[..end], |_| ()), Ok(Tail { records: 2, bytes: whole }));
            // Of the right length, but the rest never reached the disk.
            let mut torn = file[..end].to_vec();
            torn.resize(file.len(), 0);
            assert_eq!(bodies(&torn).unwrap(), &THREE[..2], "{end}");
        }
    }

    #[test]
    fn flipped_bits_before_whole_records_are_refused_and_none_is_ever_served() {
        let file = journal(&THREE);
        let last = journal(&THREE[..2]).len();
        for bit in 0..file.len() * 8 {
            let mut flipped = file.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            match bodies(&flipped) {
                Ok(found) => {
                    assert!(bit / 8 >= last && found == THREE[..2], "bit {bit}: {found:?}")
                }
                Err(Damaged { at, .. }) => assert!(at <= bit / 8 && bit / 8 < last, "bit {bit}"),
            }
        }
    }

    #[test]
    fn what_an_older_file_left_behind_is_no_part_of_a_newer_one() {
        let mut file = journal(&[b"new"]);
        let whole = file.len();
        append(&mut file, 7, b"of the file that lay here before");
        assert!(
            read(&file, |_| ()).is_err(),
            "it may be the end of this one, of which more is lost"
        );
        let mut file = journal(&[b"new"]);
        append(&mut file, 0, b"old");
        assert_eq!(read(&file, |_| ()), Ok(Tail { records: 1, bytes: whole }));
    }
}
