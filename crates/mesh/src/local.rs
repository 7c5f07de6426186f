use proto::Incarnation;
use proto::Reader;
use proto::frame::{put_frame, split_frame};
use proto::link::WorkerId;

/// Mail for one worker of this node: frames, each run of one sender after a mark with its id.
///
/// The mark is a zero length, which no frame has, then node (8 bytes, little-endian) and worker.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    pub bytes: Vec<u8>,
    /// The sender that the last mark in `bytes` names.
    from: Option<WorkerId>,
    /// It is in the list of lanes with mail.
    pub listed: bool,
    /// The driver could not pass on the last batch; it waits in `bytes`.
    pub blocked: bool,
}

impl Lane {
    /// Appends a frame of `from`; gives the length of its payload.
    #[inline(always)]
    pub(crate) fn push(&mut self, from: WorkerId, write: impl FnOnce(&mut Vec<u8>)) -> usize {
        if self.from != Some(from) {
            self.from = Some(from);
            self.bytes.push(0);
            self.bytes.extend_from_slice(&from.node.0.to_le_bytes());
            self.bytes.push(from.worker);
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
        self.from = None;
    }

    /// Takes all mail, leaving `spare` to fill next.
    pub(crate) fn take(&mut self, spare: Vec<u8>) -> Vec<u8> {
        self.from = None;
        std::mem::replace(&mut self.bytes, spare)
    }

    /// Puts a batch back in front of what came since.
    pub(crate) fn put_back(&mut self, mut batch: Vec<u8>) {
        batch.append(&mut self.bytes);
        self.bytes = batch;
    }
}

/// Reads a batch that a [`Mesh`](crate::Mesh) of this process wrote for a worker of the same node.
pub fn local_frames(batch: &[u8]) -> LocalFrames<'_> {
    LocalFrames { rest: batch, from: WorkerId::default() }
}

/// The frames of a batch in order, each with its sender.
#[derive(Clone, Debug)]
pub struct LocalFrames<'a> {
    rest: &'a [u8],
    from: WorkerId,
}

impl<'a> Iterator for LocalFrames<'a> {
    type Item = (WorkerId, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        while let Some((0, rest)) = self.rest.split_first() {
            let mut reader = Reader::new(rest);
            let node = Incarnation(reader.u64().expect("our own batch is whole"));
            let worker = reader.byte().expect("our own batch is whole");
            self.from = WorkerId { node, worker };
            self.rest = reader.rest();
        }
        if self.rest.is_empty() {
            return None;
        }
        let (payload, used) =
            split_frame(self.rest, usize::MAX).ok().flatten().expect("our own batch is whole");
        self.rest = &self.rest[used..];
        Some((self.from, payload))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_senders_read_back() {
        let id = |node, worker| WorkerId { node: Incarnation(node), worker };
        let mail = [
            (id(1, 0), vec![1; 3]),
            (id(1, 0), vec![2; 200]),
            (id(2, 7), vec![3]),
            (id(1, 0), vec![4; 70_000]),
        ];
        let mut lane = Lane::default();
        let push = |lane: &mut Lane, at: usize| {
            let (from, payload) = &mail[at];
            assert_eq!(lane.push(*from, |out| out.extend_from_slice(payload)), payload.len());
        };
        push(&mut lane, 0);
        push(&mut lane, 1);
        let first = lane.take(Vec::new());
        push(&mut lane, 2);
        lane.put_back(first);
        push(&mut lane, 3);
        let batch = lane.take(Vec::new());
        let read: Vec<_> = local_frames(&batch).map(|(from, p)| (from, p.to_vec())).collect();
        assert_eq!(read, mail);
    }
}
