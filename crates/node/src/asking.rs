//! Questions to pull workers: jobs that somebody waits for.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bus::{AnswerError, Ask, AskError, Asked, Cleared, Desk, Gone, Owner, Right, Verdict};
use proto::AccountId;
use proto::codec::{Bytes, DecodeError, Decoder, Message, Problem};
use proto::schema::{SchemaBuilder, Shape};

use crate::cx::{Caller, Cx, Outside, Peer};
use crate::entity::Entity;
use crate::host::hub::Hub;

/// A job for pull workers that is answered: `cx.ask(&question).await`. Its queue is made by
/// [`Queue::answering`](crate::Queue::answering).
pub trait Question: Message + Send + 'static {
    /// What is answered.
    type Answer: Message + Send + 'static;

    /// Name of its queue: words of `a-z A-Z 0-9 _ -` joined by dots.
    const QUEUE: &'static str;

    /// How long the answer is waited for, also while the question waits for a worker.
    const WAIT: Duration = Duration::from_secs(10);

    /// When it is cleared because the client is gone for whom it is asked; never if not set.
    const CLEARED: Option<Gone> = Some(Gone::Ended);

    /// The router function: the name of the group of workers that does it.
    fn group(&self) -> &str {
        "all"
    }
}

/// The subject on which questions for a group wait.
pub(crate) fn subject_of_questions(queue: &str, group: &str) -> String {
    format!("ask.{queue}.{group}")
}

/// How a pull worker ended with a question. What failed comes again; the last time that it may fail,
/// whoever asked is told.
pub type Answered<A> = Result<Reply<A>, Box<dyn std::error::Error>>;

/// What a pull worker has to say to a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply<A> {
    /// This.
    Now(A),
    /// Whoever got the right to answer will: see [`Work::right`](crate::Work::right).
    Elsewhere,
}

/// The right to answer a question once. It travels as an argument of a method, or in whatever message, to
/// another process, which answers by `cx.answer(right, &value).await`.
pub struct RightTo<A> {
    right: Right,
    answer: PhantomData<fn(A)>,
}

impl<A> RightTo<A> {
    pub(crate) fn new(right: Right) -> Self {
        RightTo { right, answer: PhantomData }
    }
}

impl<A> Clone for RightTo<A> {
    fn clone(&self) -> Self {
        RightTo::new(self.right)
    }
}

impl<A> fmt::Debug for RightTo<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RightTo").field(&self.right).finish()
    }
}

/// Travels as 40 bytes.
impl<A> Message for RightTo<A> {
    fn encode(&self, out: &mut Vec<u8>) {
        proto::codec::put_binary(out, &self.right.to_bytes());
    }

    fn decode(d: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let bytes = d.binary()?;
        let right = bytes.try_into();
        let right = right.map_err(|_| Problem::Count { expected: 40, found: bytes.len() })?;
        Ok(RightTo::new(Right::from_bytes(right)))
    }

    fn shape(s: &mut SchemaBuilder) -> Shape {
        Bytes::shape(s)
    }
}

/// A question that was asked; gives the answer. Dropping it clears the question.
#[must_use = "the answer comes by awaiting, and dropping this clears the question"]
pub struct Asking<Q: Question> {
    state: Result<Asked, Option<AskError>>,
    question: PhantomData<fn() -> Q>,
}

impl<Q: Question> Future for Asking<Q> {
    type Output = Result<Q::Answer, AskError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let told = match &mut self.state {
            Ok(asked) => ready!(Pin::new(asked).poll(cx)),
            Err(error) => Err(error.take().unwrap_or(AskError::Unanswered)),
        };
        Poll::Ready(told.and_then(|body| {
            let unread = |error| AskError::Failed(format!("its answer cannot be read: {error}"));
            proto::decode(&body).map_err(unread)
        }))
    }
}

impl<Q: Question> fmt::Debug for Asking<Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asking").field("queue", &Q::QUEUE).finish_non_exhaustive()
    }
}

/// An answer on its way to whoever asked.
#[must_use = "whether it was taken is told by awaiting"]
#[derive(Debug)]
pub struct Answering(Result<Verdict, Option<AnswerError>>);

impl Future for Answering {
    type Output = Result<(), AnswerError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Ok(verdict) => Pin::new(verdict).poll(cx),
            Err(error) => Poll::Ready(Err(error.take().unwrap_or(NO_DESK.into()))),
        }
    }
}

const NO_DESK: bus::Error = bus::Error::Unavailable("questions'");

fn owner_of(peer: &Peer) -> Owner {
    let session = u128::from_le_bytes(peer.session().0);
    Owner { client: peer.account().0, part: session ^ u128::from(peer.handle()) }
}

impl Hub {
    fn desk(&self) -> Option<Desk> {
        self.router.bus().and_then(|bus| bus.desk().cloned())
    }

    fn ask<Q: Question>(&self, owner: Option<Owner>, question: &Q) -> Asking<Q> {
        self.poke();
        let ask = Ask { owner, ends: Q::CLEARED, wait: Q::WAIT };
        let state = match self.router.bus() {
            Some(bus) => {
                let subject = subject_of_questions(Q::QUEUE, question.group());
                assert!(
                    bus.keeps(&subject),
                    "the router of queue {:?} chose the group {:?}, which the app's queue does not have",
                    Q::QUEUE,
                    question.group()
                );
                let desk = bus.desk().ok_or(AskError::Bus(NO_DESK));
                desk.and_then(|desk| desk.ask(&subject, ask, &proto::encode(question)))
            }
            None => Err(NO_DESK.into()),
        };
        Asking { state: state.map_err(Some), question: PhantomData }
    }

    fn answer<A: Message>(&self, right: RightTo<A>, answer: &A) -> Answering {
        self.poke();
        let desk = self.desk().ok_or_else(|| Some(NO_DESK.into()));
        Answering(desk.map(|desk| desk.answer(right.right, proto::encode(answer))))
    }

    /// A client is away, or its stream has ended: what was asked for it ends as its question says.
    pub(crate) fn asker_gone(&self, peer: &Peer, ended: bool) {
        if let Some(desk) = self.desk() {
            let gone = if ended { Gone::Ended } else { Gone::Away };
            desk.owner_gone(owner_of(peer), gone);
        }
    }
}

macro_rules! asking {
    ($($header:tt)*) => {
        $($header)* {
            /// Asks the pull workers of a queue, for this client: the question is cleared with it, as
            /// [`Question::CLEARED`] says.
            ///
            /// The answer is an error if the queue is full (`Busy`), if nobody answered in time, if it was
            /// cleared, or if its workers failed too often.
            ///
            /// # Panics
            ///
            /// If the app has no such queue or group.
            pub fn ask_for<Q: Question>(&self, client: &Peer, question: &Q) -> Asking<Q> {
                self.asking_hub().ask(Some(owner_of(client)), question)
            }

            /// Answers a question, wherever it was asked. Of several answers the first is taken; one that is
            /// late, or to a question that was cleared, is refused.
            pub fn answer<A: Message>(&self, right: RightTo<A>, answer: &A) -> Answering {
                self.asking_hub().answer(right, answer)
            }

            /// Clears all questions that were asked for the client with this account, in whichever
            /// process: those that no worker has begun are not begun, of others the answer is dropped.
            /// Gives what was cleared in this process; others are told once, as far as the bus is there.
            pub fn clear_asked(&self, client: AccountId) -> Cleared {
                let desk = self.asking_hub().desk();
                desk.map_or_else(Cleared::default, |desk| desk.clear(client.0))
            }
        }
    };
}

asking!(impl<E: Entity> Cx<E>);
asking!(impl Outside);

impl<E: Entity> Cx<E> {
    /// As [`ask_for`](Self::ask_for), for the client that calls, if it is one.
    ///
    /// # Panics
    ///
    /// As `ask_for`.
    pub fn ask<Q: Question>(&self, question: &Q) -> Asking<Q> {
        let owner = match self.caller() {
            Caller::Client(peer) => Some(owner_of(&peer)),
            _ => None,
        };
        self.hub().ask(owner, question)
    }

    fn asking_hub(&self) -> &Hub {
        self.hub()
    }
}

impl Outside {
    /// As [`ask_for`](Self::ask_for), for no client.
    ///
    /// # Panics
    ///
    /// As `ask_for`.
    pub fn ask<Q: Question>(&self, question: &Q) -> Asking<Q> {
        self.hub_of().ask(None, question)
    }

    fn asking_hub(&self) -> &Hub {
        self.hub_of()
    }
}
