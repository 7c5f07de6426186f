use proto::frame::head;
use proto::stream::{Limits, Overflow};
use proto::{Reader, WireError, put_blob, put_varint};

/// Most answers that are given again after their acknowledgement.
const ANSWERS_MAX: usize = 64;

/// So many bytes of them fill a buffer, or a single longer one.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Memory up to twice of this is not given back.
const BUFFER_BYTES: usize = 2048;

/// Length and head byte.
const RECORD_BYTES: usize = 5;

/// What a stream said and may have to say again: frames that its client has not acknowledged, and
/// its last answers.
///
/// A frame is its head byte and its tail: the fields that follow number and acknowledgement. All
/// lie in two buffers, one record after the other, so that keeping a frame costs no allocation:
/// `u32` length of the tail, head byte, tail. An answer stays where it was written until it is
/// forgotten together with all others of its buffer, so that it is never copied.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Number of the last frame kept.
    last: u64,
    /// Number of the last frame acknowledged.
    acked: u64,
    /// Where frames are written.
    current: Buffer,
    /// Those before; its records are all older.
    previous: Buffer,
}

/// Records: acknowledged answers up to `start`, then frames that are not acknowledged.
#[derive(Debug, Default)]
struct Buffer {
    bytes: Vec<u8>,
    start: u32,
    /// Records up to `start`.
    answers: u32,
    /// Records after it, and how many of them are answers.
    open: u32,
    open_answers: u32,
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
        self.count_bytes(self.current.bytes.len(), overhead)
    }

    /// The same while there is a draft, which does not count.
    #[inline]
    pub fn bytes_before(&self, draft: Draft, overhead: usize) -> usize {
        self.count_bytes(draft.0, overhead)
    }

    #[inline]
    fn count_bytes(&self, end: usize, overhead: usize) -> usize {
        let frames = self.len();
        let records = end - self.current.start as usize + self.previous.waiting().len();
        records - frames * RECORD_BYTES + frames * overhead
    }

    /// The records of the frames that are not acknowledged.
    fn waiting(&self) -> impl Iterator<Item = &[u8]> {
        records(self.previous.waiting()).chain(records(self.current.waiting()))
    }

    /// Writes a frame: [`keep`](Self::keep) or [`discard`](Self::discard) it before anything else.
    #[inline]
    pub fn draft(&mut self, head: u8, write: impl FnOnce(&mut Vec<u8>)) -> Draft {
        let out = &mut self.current.bytes;
        let at = out.len();
        out.extend_from_slice(&[0, 0, 0, 0, head]);
        write(out);
        let len = (out.len() - at - RECORD_BYTES) as u32;
        out[at..at + 4].copy_from_slice(&len.to_le_bytes());
        Draft(at)
    }

    /// Length of a draft's tail.
    #[inline]
    pub fn tail_len(&self, draft: Draft) -> usize {
        self.current.bytes.len() - draft.0 - RECORD_BYTES
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
        let current = &mut self.current;
        current.open += 1;
        current.open_answers += u32::from(current.bytes[draft.0 + 4] == head::REPLY);
        Ok(self.last)
    }

    /// Drops a draft.
    pub fn discard(&mut self, draft: Draft) {
        self.current.bytes.truncate(draft.0);
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
        let frames = (number - self.acked) as u32;
        let of_previous = frames.min(self.previous.open);
        if of_previous > 0 {
            self.previous.acknowledge(of_previous);
        }
        if frames > of_previous {
            self.current.acknowledge(frames - of_previous);
            if self.current.is_full() {
                // Of the previous one all is acknowledged, and there are newer answers enough.
                std::mem::swap(&mut self.current, &mut self.previous);
                self.current.clear();
            }
        }
        self.acked = number;
        true
    }

    /// Number, head byte and tail of each frame that is not acknowledged, oldest first.
    pub fn frames(&self) -> impl Iterator<Item = (u64, u8, &[u8])> {
        (self.acked + 1..)
            .zip(self.waiting())
            .map(|(number, record)| (number, record[4], &record[RECORD_BYTES..]))
    }

    /// The tail of the answer to request `number`, if it is still kept.
    pub fn answer(&self, number: u64) -> Option<&[u8]> {
        let is_it = |record: &&[u8]| {
            let tail = &record[RECORD_BYTES..];
            record[4] == head::REPLY && proto::Reader::new(tail).varint() == Ok(number)
        };
        let record = self.waiting().find(is_it).or_else(|| self.last_answers().find(is_it))?;
        Some(&record[RECORD_BYTES..])
    }

    /// The last acknowledged answers, oldest first.
    fn last_answers(&self) -> impl Iterator<Item = &[u8]> {
        let [older, newer] = [&self.previous, &self.current];
        let extra = ((older.answers + newer.answers) as usize).saturating_sub(ANSWERS_MAX);
        records(older.answered()).chain(records(newer.answered())).skip(extra)
    }
}

impl Kept {
    /// Appends all that is kept. `without_frames` leaves out what is not acknowledged: a fault.
    pub fn pack(&self, out: &mut Vec<u8>, without_frames: bool) {
        put_varint(out, self.acked);
        let answers: Vec<&[u8]> = self.last_answers().collect();
        put_varint(out, answers.len() as u64);
        answers.into_iter().for_each(|record| put_blob(out, &record[RECORD_BYTES..]));
        let frames = if without_frames { 0 } else { self.len() };
        put_varint(out, frames as u64);
        for (_, head, tail) in self.frames().take(frames) {
            out.push(head);
            put_blob(out, tail);
        }
    }

    /// Reads what [`pack`](Self::pack) wrote.
    pub fn read(r: &mut Reader<'_>, bytes_max: usize) -> Result<Self, WireError> {
        let limits = Limits { frames_max: usize::MAX, bytes_max: usize::MAX };
        let mut kept = Kept::default();
        let add = |kept: &mut Kept, head: u8, tail: &[u8]| {
            let draft = kept.draft(head, |out| out.extend_from_slice(tail));
            kept.keep(draft, limits, 0).map_err(|_| WireError::Range)
        };
        let acked = r.varint()?;
        for _ in 0..r.varint()? {
            let number = add(&mut kept, head::REPLY, r.blob(bytes_max)?)?;
            let _ = kept.acknowledge(number);
        }
        // From now on by their own numbers.
        (kept.last, kept.acked) = (acked, acked);
        for _ in 0..r.varint()? {
            let head = r.byte()?;
            add(&mut kept, head, r.blob(bytes_max)?)?;
        }
        Ok(kept)
    }
}

impl Buffer {
    #[inline]
    fn waiting(&self) -> &[u8] {
        &self.bytes[self.start as usize..]
    }

    fn answered(&self) -> &[u8] {
        &self.bytes[..self.start as usize]
    }

    /// Whether its answers are as many as are kept.
    fn is_full(&self) -> bool {
        let tails = self.start as usize - self.answers as usize * RECORD_BYTES;
        self.answers as usize >= ANSWERS_MAX || tails > ANSWER_BYTES_MAX
    }

    /// Forgets the first `frames` records that are not acknowledged, but for the answers.
    #[inline]
    fn acknowledge(&mut self, frames: u32) {
        if frames == self.open && frames == self.open_answers {
            // The usual case: all that is there, nothing but answers.
            self.start = self.bytes.len() as u32;
            self.answers += frames;
            (self.open, self.open_answers) = (0, 0);
            return;
        }
        self.acknowledge_some(frames);
    }

    fn acknowledge_some(&mut self, frames: u32) {
        let (mut from, mut to) = (self.start as usize, self.start as usize);
        for _ in 0..frames {
            let record = record(&self.bytes[from..]);
            let (len, is_answer) = (record.len(), record[4] == head::REPLY);
            if is_answer {
                if to < from {
                    self.bytes.copy_within(from..from + len, to);
                }
                to += len;
                self.answers += 1;
                self.open_answers -= 1;
            }
            from += len;
        }
        self.open -= frames;
        self.start = to as u32;
        if to < from {
            self.bytes.drain(to..from);
            self.shrink();
        }
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.shrink();
        *self = Buffer { bytes: std::mem::take(&mut self.bytes), ..Buffer::default() };
    }

    /// Gives memory back after a flood.
    fn shrink(&mut self) {
        let enough = (2 * self.bytes.len()).max(BUFFER_BYTES);
        if self.bytes.capacity() > 2 * enough {
            self.bytes.shrink_to(enough);
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use env::Random;
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
        for request in 501..=1_000 {
            push(&mut kept, request, 10);
            assert!(kept.acknowledge(request));
        }
        let held = kept.current.bytes.capacity() + kept.previous.bytes.capacity();
        assert!(held <= 4 * BUFFER_BYTES, "{held} bytes");
    }
}
