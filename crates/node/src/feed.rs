//! Clients' requests that pull workers answer.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use bus::AskError;
use proto::codec::{DecodeError, Decoder, Fields, Message, Problem, put_array};
use proto::frame::Status;
use proto::schema::{self, SchemaBuilder};

use crate::asking::Question;
use crate::cx::Link;
use crate::entity::{Callers, Class, Entity, KindInfo, MethodInfo, Rate};
use crate::module::{describe_kind, describe_method};
use crate::pattern::Pattern;
use crate::step::{Step, Turn};
use crate::timer::Schedule;

/// A question that clients may ask: their requests feed its queue.
pub trait ClientQuestion: Question {
    /// Name of the service that clients reach, and of the stream that each login gets to it.
    const SERVICE: &'static str;

    /// The login level that a client needs.
    const LEVEL: u8 = 0;

    /// How often one client may ask.
    const RATE: Option<Rate> = None;
}

/// The service that takes clients' requests to pull workers: its method `ask` takes the question and gives
/// its answer.
///
/// A full queue is `Busy` to the client at once; a question that nobody answered in time, or that was
/// cleared, is `Timeout`; one that its workers could not do, `Failed`.
pub struct Feed<Q>(PhantomData<fn() -> Q>);

impl<Q> fmt::Debug for Feed<Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Feed")
    }
}

/// The stub of a feed has no methods: servers ask by `cx.ask`.
#[derive(Clone, Copy, Debug, Default)]
pub struct FeedStub;

/// Longer than the question waits, so that what became of it is told.
const SLACK_MS: u128 = 1_000;

const fn deadline_ms(wait: Duration) -> u32 {
    let ms = wait.as_millis() + SLACK_MS;
    assert!(ms <= u32::MAX as u128, "a client's question waits for 49 days at most");
    ms as u32
}

impl<Q: ClientQuestion> Feed<Q> {
    const METHODS: &'static [MethodInfo] = &[MethodInfo {
        callers: Callers::CLIENT,
        interleave: true,
        level: Q::LEVEL,
        rate: Q::RATE,
        deadline_ms: deadline_ms(Q::WAIT),
        ..MethodInfo::new("ask", Pattern::Request)
    }];
    const INFO: KindInfo =
        KindInfo { methods: Self::METHODS, ..KindInfo::new(Q::SERVICE, Class::Service) };
}

impl<Q: ClientQuestion> Entity for Feed<Q> {
    type Message = Q;
    type Reply = Result<Q::Answer, Status>;
    type Stub<'c> = FeedStub;
    type Timers<'c> = Schedule<'c, Self>;

    const KIND: &'static KindInfo = &Self::INFO;

    fn create(_: u64) -> Option<Self> {
        Some(Feed(PhantomData))
    }

    fn dispatch(turn: Turn<Self>, question: Q) -> Step {
        turn.run(move |_, cx| async move {
            cx.ask(&question).await.map_err(|error| match error {
                AskError::Busy { .. } | AskError::Bus(bus::Error::Busy(_)) => Status::Busy,
                AskError::Cleared | AskError::Timeout(_) => Status::Timeout,
                AskError::Bus(bus::Error::Unconfirmed { .. }) => Status::Timeout,
                AskError::Bus(bus::Error::TooLong { .. }) => Status::BadArgument,
                AskError::Bus(_) => Status::Unavailable,
                AskError::Failed(_) | AskError::Unanswered | _ => Status::Failed,
            })
        })
    }

    fn method(_: &Q) -> usize {
        0
    }

    fn encode_message(question: &Q, out: &mut Vec<u8>) {
        put_array(out, 1);
        question.encode(out);
    }

    fn decode_message(_: usize, body: &[u8]) -> Result<Q, DecodeError> {
        let d = &mut Decoder::new(body);
        let mut fields = Fields::begin(d)?;
        let question = fields.required(d, "question")?;
        fields.end(d)?;
        d.end()?;
        Ok(question)
    }

    fn encode_reply(reply: &Self::Reply, out: &mut Vec<u8>) -> Status {
        match reply {
            Ok(answer) => {
                answer.encode(out);
                Status::Ok
            }
            Err(status) => *status,
        }
    }

    fn decode_reply(_: usize, _: Status, _: &[u8]) -> Result<Self::Reply, DecodeError> {
        // No server may call it, so that none has an answer to read.
        Err(Problem::Missing.into())
    }

    fn stub(_: Link<'_, Self>) -> FeedStub {
        FeedStub
    }

    fn timers(schedule: Schedule<'_, Self>) -> Schedule<'_, Self> {
        schedule
    }

    fn describe(schema: &mut SchemaBuilder) {
        let mut method = describe_method("", &Self::METHODS[0]);
        method.args = vec![schema::Field::new("question", Q::shape(schema))];
        method.reply = Some(Q::Answer::shape(schema));
        describe_kind(Self::KIND, [method], schema);
    }
}
