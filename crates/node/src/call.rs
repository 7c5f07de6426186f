use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use env::Instant;
use proto::frame::Status;
use proto::link::Slot;
use proto::{EntityId, Incarnation};

use crate::cx::Link;
use crate::entity::Entity;
use crate::error::{CallError, Fault};
use crate::host::hub::Hub;
use crate::host::mail::{NONE, Sender};
use crate::host::people::ClientLane;
use crate::host::send::{OWN_WAIT, Wait};
use crate::host::shard::Shard;
use crate::host::turns::TurnId;

/// A call to an entity of kind `T` that gives an `O`. Nothing is sent before it is first polled;
/// dropping it afterwards tells the other side that nobody waits.
#[must_use = "a call does nothing unless it is awaited"]
pub struct Call<T: Entity, O> {
    shard: Rc<Shard<T>>,
    home: Incarnation,
    key: u64,
    sender: Sender,
    turn: TurnId,
    wait_nanos: u64,
    begun: Instant,
    extract: fn(Result<T::Reply, CallError>) -> O,
    /// Until it is sent.
    message: Option<Result<T::Message, Fault>>,
    /// Where its answer comes; [`NO_SLOT`] before it is sent and after its end.
    slot: Slot,
}

const NO_SLOT: Slot = Slot { index: NONE, generation: 0 };

/// A call's future is never pinned inside: it holds no reference to itself.
impl<T: Entity, O> Unpin for Call<T, O> {}

impl<T: Entity, O> Call<T, O> {
    #[inline]
    pub(crate) fn new(
        link: &Link<'_, T>,
        message: Result<T::Message, Fault>,
        extract: fn(Result<T::Reply, CallError>) -> O,
    ) -> Self {
        Call {
            shard: Rc::clone(&link.shard),
            home: link.home,
            key: link.key,
            sender: link.sender,
            turn: link.turn,
            wait_nanos: OWN_WAIT,
            begun: Instant::ZERO,
            extract,
            message: Some(message),
            slot: NO_SLOT,
        }
    }

    /// Waits at most this long, instead of the method's or the node's time. Never longer than
    /// whoever called the turn that makes the call.
    pub fn deadline(mut self, limit: Duration) -> Self {
        self.wait_nanos = u64::try_from(limit.as_nanos()).unwrap_or(OWN_WAIT - 1).min(OWN_WAIT - 1);
        self
    }

    #[inline]
    fn end(&mut self, result: Result<T::Reply, Fault>) -> O {
        self.slot = NO_SLOT;
        (self.extract)(result.map_err(|fault| self.error(fault)))
    }

    #[cold]
    fn error(&self, fault: Fault) -> CallError {
        let id = EntityId { kind: T::KIND.id, home: self.home, key: self.key };
        fault.into_error(id, self.shard.hub.now.get() - self.begun)
    }
}

impl<T: Entity, O> Future for Call<T, O> {
    type Output = O;

    #[inline]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<O> {
        let this = self.get_mut();
        let waker = this.shard.hub.other_waiter(this.turn, context);
        if this.slot != NO_SLOT {
            return match this.shard.poll_call(this.slot, this.turn, waker) {
                Some(result) => Poll::Ready(this.end(result)),
                None => Poll::Pending,
            };
        }
        let message = this.message.take();
        this.shard.hub.poke();
        this.begun = this.shard.hub.now.get();
        let sent = match message {
            Some(Ok(message)) => {
                let wait = Wait { turn: this.turn, nanos: this.wait_nanos, waker };
                this.shard.send_call(this.home, this.key, this.sender, message, wait)
            }
            Some(Err(fault)) => Err(fault),
            None => panic!("a call was polled after its end"),
        };
        match sent {
            Ok(slot) => {
                this.slot = slot;
                Poll::Pending
            }
            Err(fault) => Poll::Ready(this.end(Err(fault))),
        }
    }
}

impl<T: Entity, O> Drop for Call<T, O> {
    fn drop(&mut self) {
        if self.slot != NO_SLOT {
            self.shard.hub.poke();
            self.shard.drop_call(self.slot, self.turn);
        }
    }
}

impl<T: Entity, O> fmt::Debug for Call<T, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("to", &(T::KIND.name, self.key)).finish_non_exhaustive()
    }
}

/// The reply to a call was another method's: a peer with a wrong interface.
pub fn wrong_reply() -> CallError {
    CallError::Failed(EntityId::default())
}

/// A call to one client, under way. Gives the status and the encoded answer.
#[must_use = "the answer comes by awaiting"]
pub struct ClientCall {
    hub: Rc<Hub>,
    turn: TurnId,
    begun: Instant,
    state: Result<u64, Option<Fault>>,
}

impl ClientCall {
    pub(crate) fn new(hub: &Rc<Hub>, turn: TurnId, begun: Result<u64, Fault>) -> Self {
        let state = begun.map_err(Some);
        ClientCall { hub: Rc::clone(hub), turn, begun: hub.now.get(), state }
    }
}

impl Future for ClientCall {
    type Output = Result<(Status, Vec<u8>), CallError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let result = match &mut self.state {
            Err(fault) => Err(fault.take().unwrap_or(Fault::TIMEOUT)),
            Ok(tag) => {
                let tag = *tag;
                let waiter = self.hub.waiter(context);
                let answer = self.hub.clients.borrow_mut().poll_call(tag, waiter);
                match answer {
                    None => return Poll::Pending,
                    Some(result) => {
                        self.state = Err(None);
                        self.hub.forget_client_call(self.turn, tag);
                        result
                    }
                }
            }
        };
        let waited = self.hub.now.get() - self.begun;
        Poll::Ready(result.map_err(|fault| fault.into_error(EntityId::default(), waited)))
    }
}

impl Drop for ClientCall {
    fn drop(&mut self) {
        if let Ok(tag) = self.state {
            ClientLane::drop_call(&mut self.hub.clients.borrow_mut(), tag);
            self.hub.forget_client_call(self.turn, tag);
        }
    }
}

impl fmt::Debug for ClientCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCall").finish_non_exhaustive()
    }
}
