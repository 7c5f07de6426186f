use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use env::Instant;
use proto::EntityId;
use proto::frame::Status;

use crate::cx::Link;
use crate::entity::Entity;
use crate::error::{CallError, Fault};
use crate::host::hub::Hub;
use crate::host::mail::NO_CALL;
use crate::host::people::ClientLane;
use crate::host::send::{Asking, OWN_WAIT};
use crate::host::shard::Shard;
use crate::host::sleep::Sleep;
use crate::host::turns::TurnId;

/// A call to an entity of kind `T` that gives an `O`. Nothing is sent before it is first polled;
/// dropping it afterwards tells the other side that nobody waits.
#[must_use = "a call does nothing unless it is awaited"]
pub struct Call<T: Entity, O> {
    shard: Rc<Shard<T>>,
    ask: Asking<T>,
    begun: Instant,
    outcome: CallEnd<T::Reply, O>,
    /// Why it is not sent.
    refused: Option<Box<Fault>>,
    /// How it asks again.
    retry: Option<Box<Retry>>,
}

/// How what a call gives is made of its end. Two functions, so that a reply of a word or two is
/// handed over in registers.
pub struct CallEnd<R, O> {
    /// Of the entity's reply. Always `Ready`: what a poll gives, so that it need not be moved.
    pub replied: fn(R) -> Poll<O>,
    /// Of what went wrong.
    pub failed: fn(CallError) -> O,
}

impl<R, O> Clone for CallEnd<R, O> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R, O> Copy for CallEnd<R, O> {}

impl<R, O> fmt::Debug for CallEnd<R, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CallEnd")
    }
}

/// A call that may ask more than once.
struct Retry {
    /// Tries that are left after the one under way.
    left: u32,
    /// When the call was first polled; when this try began; how long each takes at most.
    first: Instant,
    tried: Instant,
    share: Duration,
    method: usize,
    /// The message, encoded, once it is known that the method allows this.
    body: Option<Vec<u8>>,
    /// Until the next try.
    pause: Option<Sleep>,
}

/// A call's future is never pinned inside: it holds no reference to itself.
impl<T: Entity, O> Unpin for Call<T, O> {}

impl<T: Entity, O> Call<T, O> {
    #[inline]
    pub(crate) fn new(
        link: &Link<'_, T>,
        message: Result<T::Message, Fault>,
        outcome: CallEnd<T::Reply, O>,
    ) -> Self {
        let (message, refused) = match message {
            Ok(message) => (Some(message), None),
            Err(fault) => (None, Some(Box::new(fault))),
        };
        Call {
            shard: Rc::clone(&link.shard),
            ask: Asking {
                home: link.home,
                key: link.key,
                sender: link.from.sender,
                turn: link.from.turn,
                wait_nanos: OWN_WAIT,
                message,
                slot: NO_CALL,
            },
            begun: Instant::ZERO,
            outcome,
            refused,
            retry: None,
        }
    }

    /// Waits at most this long, instead of the method's or the node's time. Never longer than
    /// whoever called the turn that makes the call.
    pub fn deadline(mut self, limit: Duration) -> Self {
        self.ask.wait_nanos =
            u64::try_from(limit.as_nanos()).unwrap_or(OWN_WAIT - 1).min(OWN_WAIT - 1);
        self
    }

    /// Asks again up to `times` more if nothing is heard within an equal share of the call's time,
    /// or if the target is not to be reached. The handler may run more than once: the method must
    /// be declared `idempotent`, or the call fails with `BadArgument`. All tries together take no
    /// longer than the deadline.
    pub fn retry(mut self, times: u32) -> Self {
        self.retry = (times > 0).then(|| {
            Box::new(Retry {
                left: times,
                first: Instant::ZERO,
                tried: Instant::ZERO,
                share: Duration::ZERO,
                method: 0,
                body: None,
                pause: None,
            })
        });
        self
    }

    #[inline]
    fn end(&mut self, result: Result<T::Reply, Box<Fault>>) -> Poll<O> {
        self.ask.slot = NO_CALL;
        match result {
            Ok(reply) => (self.outcome.replied)(reply),
            Err(fault) => Poll::Ready((self.outcome.failed)(self.error(*fault))),
        }
    }

    #[cold]
    fn error(&self, fault: Fault) -> CallError {
        let id = EntityId { kind: T::KIND.id, home: self.ask.home, key: self.ask.key };
        fault.into_error(id, self.shard.hub.now.get() - self.begun)
    }
}

impl<T: Entity, O> Call<T, O> {
    /// One try.
    #[inline(always)]
    fn poll_once(&mut self, context: &mut Context<'_>) -> Poll<Result<T::Reply, Box<Fault>>> {
        let waker = self.shard.hub.other_waiter(self.ask.turn, context);
        if self.ask.slot != NO_CALL {
            return match self.shard.poll_call(self.ask.slot, self.ask.turn, waker) {
                Some(result) => Poll::Ready(result),
                None => Poll::Pending,
            };
        }
        self.shard.hub.poke();
        self.begun = self.shard.hub.now.get();
        if self.ask.message.is_none() {
            let refused = self.refused.take().expect("a call is not polled after its end");
            return Poll::Ready(Err(refused));
        }
        if let Some(answer) = self.shard.call_in_place(&mut self.ask) {
            return Poll::Ready(answer);
        }
        match self.shard.send_call(&mut self.ask, waker) {
            Ok(()) => Poll::Pending,
            Err(fault) => Poll::Ready(Err(fault)),
        }
    }

    /// Tries until there is an answer, or no try is left.
    #[inline(never)]
    fn poll_tries(&mut self, retry: &mut Retry, context: &mut Context<'_>) -> Poll<O> {
        if retry.body.is_none()
            && let Err(fault) = self.prepare(retry)
        {
            return self.end(Err(Box::new(fault)));
        }
        loop {
            if let Some(pause) = &mut retry.pause {
                self.shard.hub.poke();
                ready!(Pin::new(pause).poll(context));
                retry.pause = None;
                let body = retry.body.as_deref().unwrap_or_default();
                let decoded = T::decode_message(retry.method, body);
                match decoded {
                    Ok(message) => self.ask.message = Some(message),
                    Err(_) => return self.end(Err(Box::new(Fault::FAILED))),
                }
                retry.tried = self.shard.hub.now.get();
            }
            let result = ready!(self.poll_once(context));
            let again = matches!(
                result.as_ref().map_err(|fault| &**fault),
                Err(Fault::Status(Status::Timeout | Status::Unavailable))
            );
            if !again || retry.left == 0 {
                self.begun = retry.first;
                return self.end(result);
            }
            retry.left -= 1;
            self.ask.slot = NO_CALL;
            let next = retry.tried + retry.share;
            retry.pause = Some(Sleep::new(&self.shard.hub, self.ask.turn, next));
        }
    }

    /// Checks that the call may ask more than once, and keeps what it says.
    fn prepare(&mut self, retry: &mut Retry) -> Result<(), Fault> {
        let Some(message) = &self.ask.message else { return Ok(()) };
        retry.method = T::method(message);
        let info = &T::KIND.methods[retry.method];
        if !info.idempotent {
            let problem = format!("`{}` is not declared `idempotent`: no retries", info.name);
            return Err(Fault::BadArgument(problem.into()));
        }
        let mut body = Vec::new();
        T::encode_message(message, &mut body);
        retry.body = Some(body);
        let hub = &self.shard.hub;
        let whole = match self.ask.wait_nanos {
            OWN_WAIT => hub.wait_nanos(info.deadline_ms),
            nanos => nanos,
        };
        self.ask.wait_nanos = whole / (u64::from(retry.left) + 1);
        retry.share = Duration::from_nanos(self.ask.wait_nanos);
        retry.first = hub.now.get();
        retry.tried = retry.first;
        Ok(())
    }
}

impl<T: Entity, O> Future for Call<T, O> {
    type Output = O;

    #[inline]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<O> {
        let this = self.get_mut();
        if let Some(mut retry) = this.retry.take() {
            let poll = this.poll_tries(&mut retry, context);
            this.retry = Some(retry);
            return poll;
        }
        match this.poll_once(context) {
            Poll::Ready(result) => this.end(result),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<T: Entity, O> Drop for Call<T, O> {
    fn drop(&mut self) {
        if self.ask.slot != NO_CALL {
            self.shard.hub.poke();
            self.shard.drop_call(self.ask.slot, self.ask.turn);
        }
    }
}

impl<T: Entity, O> fmt::Debug for Call<T, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("to", &(T::KIND.name, self.ask.key)).finish_non_exhaustive()
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
