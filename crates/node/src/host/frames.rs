//! Encoded frames for other nodes, until the driver takes them.

use env::Instant;
use proto::frame::{Status, close_frame, open_frame};
use proto::link::{Call, LinkFrame, Slot, WorkerId, put_answer, put_call};
use proto::{EntityId, MethodId};

use super::hub::{Hub, bump};
use super::mail::Sender;
use super::shard::Shard;
use crate::entity::Entity;
use crate::error::Fault;

/// What a frame may suffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameClass {
    /// A call or tell: may be refused when the way is full.
    Call,
    /// An answer, a cancellation or a probe: must be taken.
    Reply,
}

/// What leaves for another node.
pub(crate) enum Leaving<'a> {
    /// Frames to one worker as they stand on a link, each behind its length, and the length of the
    /// longest payload among them.
    Run { to: WorkerId, frames: &'a [u8], longest: usize },
    /// The payload of one of them.
    One { to: WorkerId, class: FrameClass, payload: &'a [u8] },
}

struct Item {
    to: WorkerId,
    class: FrameClass,
    /// Where the frame ends, which begins where the one before it ends.
    end: usize,
    /// Bytes of its payload, which are its last.
    payload: usize,
    /// The pending call that fails if the frame is refused.
    call: Option<Slot>,
}

pub(crate) struct Frames {
    /// One frame after the other, as they stand on a link.
    bytes: Vec<u8>,
    items: Vec<Item>,
}

/// Buffers above this are given back after a flood.
const KEEP_BYTES: usize = 1 << 20;

/// Bytes up to which frames leave together: limits of links are looked at after each such run.
const RUN_BYTES: usize = 16 * 1024;

impl Frames {
    pub fn new() -> Self {
        Frames { bytes: Vec::new(), items: Vec::new() }
    }

    /// Where the payload of the next frame is written. What a panic left of one is thrown away.
    #[inline]
    fn begin(&mut self) -> &mut Vec<u8> {
        self.bytes.truncate(self.end_of_last());
        open_frame(&mut self.bytes);
        &mut self.bytes
    }

    /// Adds the frame that was written.
    #[inline]
    fn end(&mut self, to: WorkerId, class: FrameClass, call: Option<Slot>) {
        let start = self.end_of_last();
        let payload = close_frame(&mut self.bytes, start);
        self.items.push(Item { to, class, end: self.bytes.len(), payload, call });
    }

    #[inline]
    fn end_of_last(&self) -> usize {
        self.items.last().map_or(0, |item| item.end)
    }

    /// Adds a call that is encoded already.
    pub fn ready(&mut self, to: WorkerId, call: Option<Slot>, payload: &[u8]) {
        self.begin().extend_from_slice(payload);
        self.end(to, FrameClass::Call, call);
    }

    /// Adds a frame that must be taken.
    pub fn control(&mut self, to: WorkerId, frame: &LinkFrame<'_>) {
        frame.encode(to.worker, self.begin());
        self.end(to, FrameClass::Reply, None);
    }

    /// Gives all to `take`, in order: runs first, and one by one the frames of a run that is not
    /// taken. Gives the calls whose frames were refused.
    fn drain(&self, mut take: impl FnMut(Leaving<'_>) -> bool) -> Vec<Slot> {
        let mut refused = Vec::new();
        let (mut rest, mut start) = (&self.items[..], 0);
        while let [first, others @ ..] = rest {
            let goes_along = |item: &&Item| item.to == first.to && item.end - start <= RUN_BYTES;
            let (mut end, mut longest, mut count) = (first.end, first.payload, 1);
            for item in others.iter().take_while(goes_along) {
                (end, longest, count) = (item.end, longest.max(item.payload), count + 1);
            }
            let (run, others) = rest.split_at(count);
            let frames = &self.bytes[start..end];
            if !take(Leaving::Run { to: first.to, frames, longest }) {
                for item in run {
                    let payload = &self.bytes[item.end - item.payload..item.end];
                    let taken = take(Leaving::One { to: item.to, class: item.class, payload });
                    if !taken && item.class == FrameClass::Call {
                        refused.extend(item.call);
                    }
                }
            }
            (rest, start) = (others, end);
        }
        refused
    }
}

impl Hub {
    /// Gives all frames to `take`, in order. `false` refuses a run, whose frames follow one by one,
    /// or a call.
    pub fn drain_frames(self: &std::rc::Rc<Self>, take: impl FnMut(Leaving<'_>) -> bool) {
        let mut taken = self.frames.replace(Frames::new());
        let refused = taken.drain(take);
        taken.bytes.clear();
        taken.items.clear();
        taken.bytes.shrink_to(KEEP_BYTES);
        {
            let mut frames = self.frames.borrow_mut();
            if frames.items.is_empty() {
                *frames = taken;
            }
        }
        for call in refused {
            if let Some(shard) = self.shard_at(super::calls::shard_of(call.index)) {
                bump(&self.count.busy);
                shard.refuse_call(call, Fault::BUSY);
            }
        }
    }
}

impl<E: Entity> Shard<E> {
    /// Encodes a call or tell to another node.
    ///
    /// # Errors
    ///
    /// `BadArgument` if it is over the limit of a message.
    pub fn frame_call(
        &self,
        to: WorkerId,
        call: Option<Slot>,
        target: EntityId,
        deadline: Instant,
        message: &E::Message,
        (sender, chain): (Sender, Vec<EntityId>),
    ) -> Result<(), Fault> {
        let me = self.hub.me;
        let method = E::KIND.methods.get(E::method(message)).map_or(MethodId(0), |info| info.id);
        let remaining = deadline.as_nanos().saturating_sub(self.hub.now.get().as_nanos());
        let remaining_ms = u32::try_from(remaining.div_ceil(1_000_000)).unwrap_or(u32::MAX);
        let sender = sender.id(me.node);
        let head = Call { call, from: me, target, method, remaining_ms, sender, chain, body: &[] };
        let mut frames = self.hub.frames.borrow_mut();
        let bytes = frames.begin();
        put_call(bytes, to.worker, &head);
        let start = bytes.len();
        E::encode_message(message, bytes);
        if let Err(problem) = self.check_length(&bytes[start..]) {
            self.count_refusal(E::method(message) as u16);
            return Err(Fault::BadArgument(problem.into()));
        }
        frames.end(to, FrameClass::Call, call);
        Ok(())
    }

    /// One limit for arguments and replies.
    pub fn check_length(&self, body: &[u8]) -> Result<(), String> {
        let (len, max) = (body.len(), self.hub.options.message_bytes_max);
        if len <= max {
            return Ok(());
        }
        bump(&self.hub.count.too_long);
        Err(format!("a message of {len} bytes is over the limit of {max} (message_bytes_max)"))
    }

    /// Encodes an answer to another node.
    pub fn frame_reply(&self, to: WorkerId, call: Slot, result: Result<E::Reply, Fault>) {
        let result = result.as_ref().map_err(Fault::status);
        self.frame_answer(to, call, |out| match result {
            Ok(reply) => E::encode_reply(reply, out),
            Err(status) => status,
        });
    }

    /// Encodes an answer, whose body and status `write` gives.
    #[inline]
    pub fn frame_answer(
        &self,
        to: WorkerId,
        call: Slot,
        write: impl FnOnce(&mut Vec<u8>) -> Status,
    ) {
        let mut frames = self.hub.frames.borrow_mut();
        put_answer(frames.begin(), to.worker, call, |out| {
            let start = out.len();
            let status = write(out);
            match self.check_length(&out[start..]) {
                Ok(()) => status,
                Err(problem) => {
                    tracing::error!(kind = E::KIND.name, "a reply is not sent: {problem}");
                    out.truncate(start);
                    Status::Failed
                }
            }
        });
        frames.end(to, FrameClass::Reply, None);
    }

    pub fn frame_cancel(&self, to: WorkerId, call: Slot) {
        self.hub.frames.borrow_mut().control(to, &LinkFrame::Cancel { call });
    }
}

#[cfg(test)]
mod tests {
    use proto::Incarnation;
    use proto::frame::split_frame;

    use super::*;

    fn to(node: u64) -> WorkerId {
        WorkerId { node: Incarnation(node), worker: 0 }
    }

    /// What leaves, by node; frames by the length of their payload, those of a run in brackets.
    fn drained(frames: &Frames, takes_run: impl Fn(WorkerId) -> bool) -> String {
        let mut trace = String::new();
        let refused = frames.drain(|leaving| match leaving {
            Leaving::Run { to, frames, longest } => {
                if takes_run(to) {
                    let mut rest = frames;
                    let mut lengths = Vec::new();
                    while let Ok(Some((payload, used))) = split_frame(rest, longest) {
                        lengths.push(payload.len());
                        rest = &rest[used..];
                    }
                    assert!(rest.is_empty());
                    trace += &format!("{}:{lengths:?} ", to.node.0);
                }
                takes_run(to)
            }
            Leaving::One { to, payload, .. } => {
                trace += &format!("{}:{} ", to.node.0, payload.len());
                false
            }
        });
        trace + &format!("refused {:?}", refused.iter().map(|slot| slot.index).collect::<Vec<_>>())
    }

    #[test]
    fn frames_to_one_worker_leave_together_and_one_by_one_where_they_are_not_taken_so() {
        let mut frames = Frames::new();
        let slot = |index| Some(Slot { index, generation: 0 });
        frames.ready(to(1), slot(1), &[7; 10]);
        frames.ready(to(1), slot(2), &[7; 300]);
        // Thrown away, as by a panic.
        frames.begin().extend_from_slice(&[7; 5]);
        frames.ready(to(2), slot(3), &[7; 20]);
        frames.control(to(1), &LinkFrame::StoreAway);
        assert_eq!(drained(&frames, |_| true), "1:[10, 300] 2:[20] 1:[2] refused []");
        // A reply has to be taken: nobody hears that it was not.
        assert_eq!(drained(&frames, |_| false), "1:10 1:300 2:20 1:2 refused [1, 2, 3]");
        assert_eq!(drained(&frames, |to| to.node.0 == 1), "1:[10, 300] 2:20 1:[2] refused [3]");
    }

    #[test]
    fn a_run_is_no_longer_than_limits_may_be_overlooked() {
        let mut frames = Frames::new();
        for _ in 0..3 {
            frames.ready(to(1), None, &[7; RUN_BYTES / 2 - 3]);
        }
        frames.ready(to(1), None, &[7; 2 * RUN_BYTES]);
        let half = RUN_BYTES / 2 - 3;
        let whole = 2 * RUN_BYTES;
        let expected = format!("1:[{half}, {half}] 1:[{half}] 1:[{whole}] refused []");
        assert_eq!(drained(&frames, |_| true), expected);
    }
}
