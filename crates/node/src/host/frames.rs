//! Encoded frames for other nodes, until the driver takes them.

use env::Instant;
use proto::frame::Status;
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

struct Item {
    to: WorkerId,
    class: FrameClass,
    end: usize,
    /// The pending call that fails if the frame is refused.
    call: Option<Slot>,
}

pub(crate) struct Frames {
    bytes: Vec<u8>,
    items: Vec<Item>,
}

/// Buffers above this are given back after a flood.
const KEEP_BYTES: usize = 1 << 20;

impl Frames {
    pub fn new() -> Self {
        Frames { bytes: Vec::new(), items: Vec::new() }
    }

    /// Where the next frame is written. What a panic left of one is thrown away.
    #[inline]
    fn begin(&mut self) -> &mut Vec<u8> {
        self.bytes.truncate(self.items.last().map_or(0, |item| item.end));
        &mut self.bytes
    }

    /// Adds the frame that was written.
    #[inline]
    fn end(&mut self, to: WorkerId, class: FrameClass, call: Option<Slot>) {
        self.items.push(Item { to, class, end: self.bytes.len(), call });
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
}

impl Hub {
    /// Gives all frames to `take`, in order. `false` refuses a call.
    pub fn drain_frames(
        self: &std::rc::Rc<Self>,
        mut take: impl FnMut(WorkerId, FrameClass, &[u8]) -> bool,
    ) {
        let Frames { mut bytes, mut items } = self.frames.replace(Frames::new());
        let mut refused = Vec::new();
        let mut start = 0;
        for item in &items {
            let taken = take(item.to, item.class, &bytes[start..item.end]);
            start = item.end;
            if !taken && item.class == FrameClass::Call {
                refused.extend(item.call);
            }
        }
        bytes.clear();
        items.clear();
        bytes.shrink_to(KEEP_BYTES);
        {
            let mut frames = self.frames.borrow_mut();
            if frames.items.is_empty() {
                *frames = Frames { bytes, items };
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
        let remaining = (deadline - self.hub.now.get()).as_nanos().div_ceil(1_000_000);
        let remaining_ms = u32::try_from(remaining).unwrap_or(u32::MAX);
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
