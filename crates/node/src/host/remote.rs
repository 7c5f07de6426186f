//! Messages that arrive encoded, from other nodes.

use std::rc::Rc;
use std::time::Duration;

use env::Instant;
use proto::frame::Status;
use proto::link::{Call, LinkFrame, Slot, WorkerId};

use super::hub::{Hub, bump};
use super::mail::{Origin, RemoteOrigin, Sender, SenderForm};
use super::shard::Shard;
use super::turns::TurnId;
use crate::entity::Entity;
use crate::error::Fault;

/// A call as it came over a link.
pub(crate) struct EncodedCall<'a> {
    pub call: &'a Call<'a>,
    /// The worker that sent it, as the link knows it.
    pub from: WorkerId,
}

impl<E: Entity> Shard<E> {
    pub fn accept_encoded(self: &Rc<Self>, encoded: EncodedCall<'_>) {
        let EncodedCall { call, from } = encoded;
        let me = self.hub.me.node;
        let sender = call.sender.map_or(Sender::OUTSIDE, |id| Sender::of(id, me));
        let far = call.sender.filter(|_| sender.form() == SenderForm::Far);
        let origin = match (call.call, far) {
            (None, None) => Origin::Tell,
            _ => Origin::Remote(self.hub.keep_origin(RemoteOrigin {
                from,
                call: call.call,
                deadline: match call.call {
                    Some(_) => {
                        let left = Duration::from_millis(u64::from(call.remaining_ms));
                        self.hub.now.get() + left
                    }
                    None => Instant::NEVER,
                },
                sender: far,
                chain: call.chain.as_slice().into(),
            })),
        };
        let Some(method) = self.method(call.method) else {
            self.answer(origin, Err(Fault::Status(Status::UnknownMethod)));
            return;
        };
        let info = &E::KIND.methods[usize::from(method)];
        if !info.callers.server || info.answers() != call.call.is_some() {
            bump(&self.hub.count.denied);
            self.count_refusal(method);
            tracing::warn!(kind = E::KIND.name, method = info.name, from = %from.node, "denied");
            self.answer(origin, Err(Fault::DENIED));
            return;
        }
        let message = match E::decode_message(usize::from(method), call.body) {
            Ok(message) => message,
            Err(error) => {
                bump(&self.hub.count.bad_arguments);
                self.count_refusal(method);
                tracing::warn!(kind = E::KIND.name, method = info.name, "refused: {error}");
                self.answer(origin, Err(Fault::Status(Status::BadArgument)));
                return;
            }
        };
        self.accept_far(call.target, from, message, (origin, sender, method));
    }
}

impl Hub {
    /// A call came from another node, or from a worker of this one whose kinds are other.
    pub fn handle_call(self: &Rc<Self>, from: WorkerId, call: &Call<'_>) {
        match self.shard_of_kind(call.target.kind) {
            Some(shard) => shard.deliver_encoded(EncodedCall { call, from }),
            None => {
                if let Some(slot) = call.call {
                    let status = Status::NotFound;
                    let frame = LinkFrame::Answer { call: slot, status, body: &[] };
                    self.frames.borrow_mut().control(from, &frame);
                }
            }
        }
    }

    /// The caller of a call from another worker no longer waits.
    pub fn cancel_remote(self: &Rc<Self>, from: WorkerId, call: Slot) {
        let serving: Vec<TurnId> = {
            let turns = self.turns.borrow();
            let serves = |origin: &Origin| {
                matches!(origin, Origin::Remote(remote)
                    if remote.from == from && remote.call == Some(call))
            };
            turns.iter().filter(|(_, turn)| serves(&turn.origin)).map(|(id, _)| id).collect()
        };
        serving.into_iter().for_each(|turn| self.cancel_turn(turn));
    }
}
