use proto::frame::head;
use proto::stream::{Limits, Overflow};

/// Most answers that are given again after their acknowledgement.
const ANSWERS_MAX: usize = 64;

/// So many bytes of them, or a single longer one, fill a buffer. There are two.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// An idle stream keeps no more memory than this for what it says next.
const IDLE_BYTES_MAX: usize = 2048;

/// Length and head byte.
const RECORD_BYTES: usize = 5;

/// What a stream said and may have to say again: frames that its client has not acknowledged, and
/// its last answers.
///
/// A frame is its head byte and its tail: the fields that follow number and acknowledgement. All
/// lie in two buffers, one record after the other, so that keeping a frame costs no allocation:
/// `u32` length of the tail, head byte, tail.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Number of the last frame kept.
    last: u64,
    /// Number of the last frame acknowledged; the record of the next one lies at `start`.
    acked: u64,
    /// Unacknowledged frames from `start` on. Begins anew whenever all is acknowledged, so that a
    /// stream that is kept up with uses the same few lines of the cache.
    out: Vec<u8>,
    start: u32,
    /// How many of them are answers.
    open_answers: u32,
    answers: Answers,
}

/// Acknowledged answers: records, the newest in `fresh`. When that is full it becomes `older`, so
/// that nothing is looked at to forget it.
#[derive(Debug, Default)]
struct Answers {
    fresh: Vec<u8>,
    older: Vec<u8>,
    /// Records in `fresh` and in `older`.
    count: u32,
    older_count: u32,
}

/// A frame that was written and is not yet kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draft(usize);

impl Kept {
    /// Number of the last frame that the peer acknowledged.
    pub fn acked(&self) -> u64 {
        self.acked
    }

    /// How many frames are not acknowledged.
    #[inline]
    pub fn len(&self) -> usize {
        (self.last - self.acked) as usize
    }

    /// How many bytes those count, `overhead` of each beside its tail.
    #[inline]
    pub fn bytes(&self, overhead: usize) -> usize {
        self.count_bytes(self.out.len(), overhead)
    }

    /// The same while there is a draft, which does not count.
    #[inline]
    pub fn bytes_before(&self, draft: Draft, overhead: usize) -> usize {
        self.count_bytes(draft.0, overhead)
    }

    #[inline]
    fn count_bytes(&self, end: usize, overhead: usize) -> usize {
        let frames = self.len();
        end - self.start as usize - frames * RECORD_BYTES + frames * overhead
    }

    /// The records of the frames that are not acknowledged.
    #[inline]
    fn waiting(&self) -> &[u8] {
        &self.out[self.start as usize..]
    }

    /// Writes a frame: [`keep`](Self::keep) or [`discard`](Self::discard) it before anything else.
    #[inline]
    pub fn draft(&mut self, head: u8, write: impl FnOnce(&mut Vec<u8>)) -> Draft {
        let at = self.out.len();
        self.out.extend_from_slice(&[0, 0, 0, 0, head]);
        write(&mut self.out);
        let len = (self.out.len() - at - RECORD_BYTES) as u32;
        self.out[at..at + 4].copy_from_slice(&len.to_le_bytes());
        Draft(at)
    }

    /// Length of a draft's tail.
    #[inline]
    pub fn tail_len(&self, draft: Draft) -> usize {
        self.out.len() - draft.0 - RECORD_BYTES
    }

    /// Keeps a draft and gives its number, or discards it.
    ///
    /// # Errors
    ///
    /// `Overflow` if the limits are reached, by what is kept without the draft. A frame counts
    /// `overhead` bytes beside its tail.
    #[inline]
    pub fn keep(&mut self, draft: Draft, limits: Limits, overhead: usize) -> Result<u64, Overflow> {
        let frames = self.len();
        let bytes = self.bytes_before(draft, overhead);
        let added = self.tail_len(draft) + overhead;
        if frames >= limits.frames_max || bytes + added > limits.bytes_max && frames > 0 {
            self.discard(draft);
            return Err(Overflow { frames, bytes });
        }
        self.last += 1;
        self.open_answers += u32::from(self.out[draft.0 + 4] == head::REPLY);
        Ok(self.last)
    }

    /// Drops a draft.
    pub fn discard(&mut self, draft: Draft) {
        self.out.truncate(draft.0);
    }

    /// Forgets everything up to `number`, but for the last answers. An acknowledgement of what was
    /// never sent gives `false` and changes nothing; an old one is harmless.
    #[inline]
    #[must_use]
    pub fn acknowledge(&mut self, number: u64) -> bool {
        if number > self.acked {
            return self.take_acknowledgement(number);
        }
        true
    }

    fn take_acknowledgement(&mut self, number: u64) -> bool {
        if number > self.last {
            return false;
        }
        let frames = (number - self.acked) as usize;
        let waiting = &self.out[self.start as usize..];
        if number == self.last
            && self.open_answers as usize == frames
            && frames <= ANSWERS_MAX
            && waiting.len() <= ANSWER_BYTES_MAX
        {
            // The usual case: all that is there, nothing but answers.
            self.answers.append(waiting, frames);
            self.start = self.out.len() as u32;
            self.open_answers = 0;
        } else {
            for _ in 0..frames {
                let record = record(&self.out[self.start as usize..]);
                if record[4] == head::REPLY {
                    self.open_answers -= 1;
                    self.answers.append(record, 1);
                }
                self.start += record.len() as u32;
            }
        }
        self.acked = number;
        if self.start as usize == self.out.len() {
            self.out.clear();
            self.start = 0;
            if self.out.capacity() > IDLE_BYTES_MAX {
                self.out.shrink_to(IDLE_BYTES_MAX);
            }
        } else if self.start as usize > self.out.len() / 2 {
            self.out.drain(..self.start as usize);
            self.start = 0;
        }
        true
    }

    /// Number, head byte and tail of each frame that is not acknowledged, oldest first.
    pub fn frames(&self) -> impl Iterator<Item = (u64, u8, &[u8])> {
        let records = records(self.waiting());
        (self.acked + 1..)
            .zip(records)
            .map(|(number, record)| (number, record[4], &record[RECORD_BYTES..]))
    }

    /// The tail of the answer to request `number`, if it is still kept.
    pub fn answer(&self, number: u64) -> Option<&[u8]> {
        let is_it = |record: &&[u8]| {
            let tail = &record[RECORD_BYTES..];
            record[4] == head::REPLY && proto::Reader::new(tail).varint() == Ok(number)
        };
        let record = records(self.waiting()).find(is_it);
        let record = record.or_else(|| self.answers.last().find(is_it))?;
        Some(&record[RECORD_BYTES..])
    }
}

/// The records in `bytes`.
fn records(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let record = (!rest.is_empty()).then(|| record(rest))?;
        rest = &rest[record.len()..];
        Some(record)
    })
}

/// The record at the start of `bytes`.
#[inline]
fn record(bytes: &[u8]) -> &[u8] {
    let len = u32::from_le_bytes(*bytes.first_chunk().expect("records are whole"));
    &bytes[..RECORD_BYTES + len as usize]
}

impl Answers {
    /// Adds `count` records.
    fn append(&mut self, records: &[u8], count: usize) {
        let headers = (self.count as usize + count) * RECORD_BYTES;
        let tails = self.fresh.len() + records.len() - headers;
        if self.count as usize >= ANSWERS_MAX || tails > ANSWER_BYTES_MAX && self.count > 0 {
            std::mem::swap(&mut self.fresh, &mut self.older);
            self.fresh.clear();
            self.fresh.shrink_to(2 * IDLE_BYTES_MAX);
            self.older_count = std::mem::take(&mut self.count);
        }
        self.fresh.extend_from_slice(records);
        self.count += count as u32;
    }

    /// The last records, oldest first.
    fn last(&self) -> impl Iterator<Item = &[u8]> {
        let extra = ((self.older_count + self.count) as usize).saturating_sub(ANSWERS_MAX);
        records(&self.older).chain(records(&self.fresh)).skip(extra)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use env::Random;
    use proto::put_varint;
    use proto::stream::{Answers as PlainAnswers, Outbound};
    use std::rc::Rc;

    const OVERHEAD: usize = 16;

    /// What is kept, byte for byte, and which answers are still there, next to the plain lists
    /// that the client's side uses.
    #[test]
    fn frames_and_answers_are_kept_as_in_plain_lists() {
        for seed in 0..150 {
            let mut random = Random::from_seed(seed);
            let limits = Limits { frames_max: 100, bytes_max: 200_000 };
            let (mut kept, mut frames) = (Kept::default(), Outbound::new(limits));
            let mut answers = PlainAnswers::default();
            let (mut request, mut acked) = (0, 0);
            let largest = [20, 300, 3_000, 90_000][seed as usize % 4];
            for _ in 0..400 {
                if random.chance(7, 10) {
                    let head = if random.chance(3, 4) { head::REPLY } else { head::PUSH };
                    let mut tail = Vec::new();
                    request += 1;
                    put_varint(&mut tail, request);
                    let len = random.below(largest) as usize;
                    tail.resize(tail.len() + len, request as u8);
                    let draft = kept.draft(head, |out| out.extend_from_slice(&tail));
                    assert_eq!(kept.tail_len(draft), tail.len());
                    let number = kept.keep(draft, limits, OVERHEAD);
                    assert_eq!(number, frames.push((head, tail.clone()), tail.len() + OVERHEAD));
                    if head == head::REPLY && number.is_ok() {
                        answers.keep(request, Rc::from(tail));
                    }
                } else {
                    let number = random.below(frames.last() + 2);
                    assert_eq!(kept.acknowledge(number), frames.acknowledge(number));
                    acked = acked.max(frames.acked());
                }
                assert_eq!((kept.acked(), kept.len()), (acked, frames.len()));
                assert_eq!(kept.bytes(OVERHEAD), frames.bytes());
                let all: Vec<_> = kept.frames().map(|(n, h, t)| (n, (h, t.to_vec()))).collect();
                let wanted: Vec<_> = frames.kept().map(|(n, frame)| (n, frame.clone())).collect();
                assert!(all == wanted, "seed {seed}");
            }
            // Those that are not acknowledged are kept beside the last ones that are.
            for number in 1..=request {
                if let Some(wanted) = answers.find(number) {
                    assert_eq!(kept.answer(number), Some(&**wanted), "seed {seed}");
                }
            }
            assert_eq!(kept.answer(request + 1), None);
        }
    }

    fn push(kept: &mut Kept, request: u64, len: usize) {
        let limits = Limits { frames_max: 10_000, bytes_max: 1 << 24 };
        let draft = kept.draft(head::REPLY, |out| {
            put_varint(out, request);
            out.resize(out.len() + len, 7);
        });
        kept.keep(draft, limits, OVERHEAD).expect("there is room");
    }

    #[test]
    fn the_last_answers_are_kept_and_earlier_ones_forgotten() {
        let mut kept = Kept::default();
        for request in 1..=500 {
            push(&mut kept, request, 30);
            assert!(kept.acknowledge(request));
            let last = request.saturating_sub(ANSWERS_MAX as u64);
            assert!((1..=last).all(|request| kept.answer(request).is_none()));
            assert!((last + 1..=request).all(|request| kept.answer(request).is_some()));
        }
        // A single one may be longer than all are allowed to be.
        for request in 501..=503 {
            push(&mut kept, request, 2 * ANSWER_BYTES_MAX);
            assert!(kept.acknowledge(request));
        }
        assert_eq!(kept.answer(501), None);
        assert!(kept.answer(503).is_some_and(|tail| tail.len() > 2 * ANSWER_BYTES_MAX));
    }

    /// A flood must not be paid for with memory for the rest of the session.
    #[test]
    fn memory_is_given_back_after_a_flood() {
        let mut kept = Kept::default();
        for request in 1..=500 {
            push(&mut kept, request, 1_000);
        }
        assert!(kept.acknowledge(500));
        assert!(kept.out.capacity() <= IDLE_BYTES_MAX);
        for request in 501..=1_000 {
            push(&mut kept, request, 10);
            assert!(kept.acknowledge(request));
        }
        let Answers { fresh, older, .. } = &kept.answers;
        assert!(fresh.capacity() + older.capacity() <= 4 * IDLE_BYTES_MAX);
    }
}
