//! A kind written by hand: exactly what the attribute macros generate, without components.
//!
//! ```ignore
//! #[derive(Default)]
//! #[entity]
//! struct Counter { n: u64 }
//!
//! #[rpc]
//! impl Counter {
//!     #[invoke(server)] fn add(&mut self, n: u64) -> u64 { .. }
//!     #[tell(server)] fn bump(&mut self, n: u64) { .. }
//!     #[invoke(server)] async fn add_later(&mut self, cx: &mut Cx<Self>, n: u64, ms: u64) -> u64 { .. }
//!     #[tell(server)] fn wind(&mut self, cx: &mut Cx<Self>, n: u64) { .. }
//!     #[timer] fn tick(&mut self, n: u64) { .. }
//! }
//! ```

// As in generated code: the entity is this turn's until the handler ends.
#![allow(clippy::await_holding_refcell_ref)]

use std::task::Poll;
use std::time::Duration;

use node::rt::{
    Call, CallEnd, CallError, Callers, Class, Cx, DecodeError, Entity, KindInfo, Link, Message,
    MethodInfo, Pattern, Schedule, Status, Step, TimerId, Turn, wrong_reply,
};

/// Counts.
#[derive(Debug, Default)]
pub struct Counter {
    /// The sum so far.
    pub n: u64,
}

impl Counter {
    fn add(&mut self, n: u64) -> u64 {
        self.n += n;
        self.n
    }

    fn bump(&mut self, n: u64) {
        self.n += n;
    }

    async fn add_later(&mut self, cx: &mut Cx<Self>, n: u64, ms: u64) -> u64 {
        cx.sleep(Duration::from_millis(ms)).await;
        self.n += n;
        self.n
    }

    fn wind(&mut self, cx: &mut Cx<Self>, n: u64) {
        cx.every(Duration::from_secs(1), Duration::from_secs(1), 3).key("tick").tick(n);
    }

    fn tick(&mut self, n: u64) {
        self.n += n;
    }
}

pub enum CounterMessage {
    Add(u64),
    Bump(u64),
    AddLater(u64, u64),
    Wind(u64),
    Tick(u64),
}

pub enum CounterReply {
    Add(u64),
    AddLater(u64),
}

const METHODS: &[MethodInfo] = &[
    MethodInfo { callers: Callers::SERVER, ..MethodInfo::new("add", Pattern::Invoke) },
    MethodInfo { callers: Callers::SERVER, ..MethodInfo::new("bump", Pattern::Tell) },
    MethodInfo { callers: Callers::SERVER, ..MethodInfo::new("add_later", Pattern::Invoke) },
    MethodInfo { callers: Callers::SERVER, ..MethodInfo::new("wind", Pattern::Tell) },
    MethodInfo::timer("tick"),
];

impl Entity for Counter {
    type Message = CounterMessage;
    type Reply = CounterReply;
    type Stub<'c> = CounterStub<'c>;
    type Timers<'c> = CounterTimers<'c>;

    const KIND: &'static KindInfo =
        &KindInfo { methods: METHODS, ..KindInfo::new("counter", Class::Keyed) };

    fn create(_: u64) -> Option<Self> {
        Some(Counter::default())
    }

    #[inline]
    fn dispatch(turn: Turn<Self>, message: CounterMessage) -> Step {
        match message {
            CounterMessage::Add(n) => turn.call(|this, _| CounterReply::Add(this.add(n))),
            CounterMessage::Bump(n) => turn.tell(|this, _| this.bump(n)),
            CounterMessage::AddLater(n, ms) => turn.run(move |state, mut cx| async move {
                let mut this = state.borrow_mut();
                CounterReply::AddLater(this.add_later(&mut cx, n, ms).await)
            }),
            CounterMessage::Wind(n) => turn.tell(|this, cx| this.wind(cx, n)),
            CounterMessage::Tick(n) => turn.tell(|this, _| this.tick(n)),
        }
    }

    #[inline]
    fn method(message: &CounterMessage) -> usize {
        match message {
            CounterMessage::Add(_) => 0,
            CounterMessage::Bump(_) => 1,
            CounterMessage::AddLater(..) => 2,
            CounterMessage::Wind(_) => 3,
            CounterMessage::Tick(_) => 4,
        }
    }

    fn encode_message(message: &CounterMessage, out: &mut Vec<u8>) {
        match message {
            CounterMessage::Add(n)
            | CounterMessage::Bump(n)
            | CounterMessage::Wind(n)
            | CounterMessage::Tick(n) => {
                [*n].encode(out);
            }
            CounterMessage::AddLater(n, ms) => (*n, *ms).encode(out),
        }
    }

    fn decode_message(method: usize, body: &[u8]) -> Result<CounterMessage, DecodeError> {
        let one = || proto::decode::<[u64; 1]>(body);
        match method {
            0 => one().map(|[n]| CounterMessage::Add(n)),
            1 => one().map(|[n]| CounterMessage::Bump(n)),
            2 => proto::decode(body).map(|(n, ms)| CounterMessage::AddLater(n, ms)),
            3 => one().map(|[n]| CounterMessage::Wind(n)),
            _ => one().map(|[n]| CounterMessage::Tick(n)),
        }
    }

    fn encode_reply(reply: &CounterReply, out: &mut Vec<u8>) -> Status {
        match reply {
            CounterReply::Add(n) | CounterReply::AddLater(n) => n.encode(out),
        }
        Status::Ok
    }

    fn decode_reply(method: usize, _: Status, body: &[u8]) -> Result<CounterReply, DecodeError> {
        let n = proto::decode(body)?;
        Ok(if method == 0 { CounterReply::Add(n) } else { CounterReply::AddLater(n) })
    }

    #[inline]
    fn stub(link: Link<'_, Self>) -> CounterStub<'_> {
        CounterStub { link }
    }

    fn timers(schedule: Schedule<'_, Self>) -> CounterTimers<'_> {
        CounterTimers { schedule }
    }
}

pub struct CounterStub<'c> {
    link: Link<'c, Counter>,
}

impl CounterStub<'_> {
    #[inline]
    pub fn add(&self, n: u64) -> Call<Counter, Result<u64, CallError>> {
        self.link.call(
            CounterMessage::Add(n),
            CallEnd {
                replied: |reply| match reply {
                    CounterReply::Add(n) => Poll::Ready(Ok(n)),
                    _ => Poll::Ready(Err(wrong_reply())),
                },
                failed: Err,
            },
        )
    }

    #[inline]
    pub fn bump(&self, n: u64) -> Result<(), CallError> {
        self.link.tell(CounterMessage::Bump(n))
    }

    #[inline]
    pub fn wind(&self, n: u64) -> Result<(), CallError> {
        self.link.tell(CounterMessage::Wind(n))
    }

    #[inline]
    pub fn add_later(&self, n: u64, ms: u64) -> Call<Counter, Result<u64, CallError>> {
        self.link.call(
            CounterMessage::AddLater(n, ms),
            CallEnd {
                replied: |reply| match reply {
                    CounterReply::AddLater(n) => Poll::Ready(Ok(n)),
                    _ => Poll::Ready(Err(wrong_reply())),
                },
                failed: Err,
            },
        )
    }
}

pub struct CounterTimers<'c> {
    schedule: Schedule<'c, Counter>,
}

impl CounterTimers<'_> {
    pub fn key(self, key: &'static str) -> Self {
        CounterTimers { schedule: self.schedule.key(key) }
    }

    pub fn tick(self, n: u64) -> TimerId {
        self.schedule.start(move || CounterMessage::Tick(n))
    }
}
