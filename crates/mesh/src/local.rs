use proto::frame::{put_frame, split_frame};
use proto::link::WorkerId;
use proto::{Incarnation, Reader, put_varint};

/// Whose a run of frames is, and by which of its links it came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    pub from: WorkerId,
    /// As its `Begin` has it; 0 for what did not come by a link, or by one without.
    pub link: u64,
}

/// Mail for one worker of this node: frames, each run of one sender and link after its mark.
///
/// The mark is a zero length, which no frame has, then node (8 bytes, little-endian), worker and
/// the link's number (a varint).
#[derive(Debug, Default)]
pub(crate) struct Lane {
    pub bytes: Vec<u8>,
    /// The last mark in `bytes`.
    mark: Option<Mark>,
    /// It is in the list of lanes with mail.
    pub listed: bool,
    /// The driver could not pass on the last batch; it waits in `bytes`.
    pub blocked: bool,
}

impl Lane {
    /// Appends a frame; gives the length of its payload.
    #[inline(always)]
    pub(crate) fn push(&mut self, mark: Mark, write: impl FnOnce(&mut Vec<u8>)) -> usize {
        if self.mark != Some(mark) {
            self.mark = Some(mark);
            self.bytes.push(0);
            self.bytes.extend_from_slice(&mark.from.node.0.to_le_bytes());
            self.bytes.push(mark.from.worker);
            put_varint(&mut self.bytes, mark.link);
        }
        let before = self.bytes.len();
        let mut len = 0;
        put_frame(&mut self.bytes, |out| {
            write(out);
            len = out.len() - before - 1;
        });
        len
    }

    /// Takes back what was appended after the lane had `len` bytes.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.bytes.truncate(len);
        self.mark = None;
    }

    /// Takes all mail, leaving `spare` to fill next.
    pub(crate) fn take(&mut self, spare: Vec<u8>) -> Vec<u8> {
        self.mark = None;
        std::mem::replace(&mut self.bytes, spare)
    }

    /// Puts a batch back in front of what came since.
    pub(crate) fn put_back(&mut self, mut batch: Vec<u8>) {
        batch.append(&mut self.bytes);
        self.bytes = batch;
    }
}

/// Reads a batch that a [`Mesh`](crate::Mesh) of this process wrote for a worker of the same node, by
/// [`Mesh::next_local`](crate::Mesh::next_local).
pub fn local_frames(batch: &[u8]) -> LocalFrames<'_> {
    LocalFrames { rest: batch, mark: Mark::default(), is_late: false }
}

/// Where a batch is being read.
#[derive(Clone, Debug)]
pub struct LocalFrames<'a> {
    rest: &'a [u8],
    mark: Mark,
    /// What follows up to the next mark is thrown away.
    pub(crate) is_late: bool,
}

impl<'a> LocalFrames<'a> {
    /// Goes on to the next frame. Gives the mark that was passed, if one was.
    pub(crate) fn pass_marks(&mut self) -> Option<Mark> {
        let mut passed = None;
        while let Some((0, rest)) = self.rest.split_first() {
            let mut reader = Reader::new(rest);
            let node = Incarnation(reader.u64().expect("our own batch is whole"));
            let worker = reader.byte().expect("our own batch is whole");
            let link = reader.varint().expect("our own batch is whole");
            self.mark = Mark { from: WorkerId { node, worker }, link };
            passed = Some(self.mark);
            self.rest = reader.rest();
        }
        passed
    }

    /// The frame that is next, behind its mark.
    pub(crate) fn take(&mut self) -> Option<(WorkerId, &'a [u8])> {
        if self.rest.is_empty() {
            return None;
        }
        let (payload, used) =
            split_frame(self.rest, usize::MAX).ok().flatten().expect("our own batch is whole");
        self.rest = &self.rest[used..];
        Some((self.mark.from, payload))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_senders_and_links_read_back() {
        let mark =
            |node, worker, link| Mark { from: WorkerId { node: Incarnation(node), worker }, link };
        let mail = [
            (mark(1, 0, 1), vec![1; 3]),
            (mark(1, 0, 1), vec![2; 200]),
            (mark(1, 0, 300), vec![2; 200]),
            (mark(2, 7, 0), vec![3]),
            (mark(1, 0, 1), vec![4; 70_000]),
        ];
        let mut lane = Lane::default();
        let push = |lane: &mut Lane, at: usize| {
            let (mark, payload) = &mail[at];
            assert_eq!(lane.push(*mark, |out| out.extend_from_slice(payload)), payload.len());
        };
        push(&mut lane, 0);
        push(&mut lane, 1);
        push(&mut lane, 2);
        let first = lane.take(Vec::new());
        push(&mut lane, 3);
        lane.put_back(first);
        push(&mut lane, 4);
        let batch = lane.take(Vec::new());
        let mut frames = local_frames(&batch);
        let mut read = Vec::new();
        loop {
            frames.pass_marks();
            let Some((from, payload)) = frames.take() else { break };
            assert_eq!(from, frames.mark.from);
            read.push((frames.mark, payload.to_vec()));
        }
        assert_eq!(read, mail);
    }
}
