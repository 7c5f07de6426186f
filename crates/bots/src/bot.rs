use std::collections::BTreeMap;

use client::{CallError, CallId, Core, Event, RequestId, encode_args};
use env::{Instant, Random};
use proto::frame::Status;
use proto::{Message, MethodId};

use crate::Summary;

/// What a script calls one of its requests, to know its answer by.
pub type Tag = u64;

/// What one bot does. Each method is called with the bot it plays; everything sent during a call
/// goes out with one write after it.
///
/// A script whose method panics has failed, and its bot stops; the others go on. A bot that leaves
/// hears nothing more until it is let in again, with `resumed` false.
#[allow(unused_variables)]
pub trait Script {
    /// The server let the bot in: anew, or (`resumed`) its session goes on.
    fn on_connected(&mut self, bot: &mut Bot<'_>, resumed: bool) {}

    /// Something happened: a binding, a message, a call, a break. Answers come to `on_reply`.
    fn on_event(&mut self, bot: &mut Bot<'_>, event: &Event) {}

    /// A request ended; `tag` is what it was sent with. Check the answer with [`Bot::check`].
    fn on_reply(&mut self, bot: &mut Bot<'_>, tag: Tag, result: Result<Vec<u8>, CallError>) {}

    /// Comes at the swarm's tick, also while the bot is not connected.
    fn on_tick(&mut self, bot: &mut Bot<'_>) {}

    /// Whether a request may end so. What is not excused counts as failed; the method's own
    /// errors never do.
    fn excuses(&self, error: &CallError) -> bool {
        false
    }
}

/// A player as its script sees it.
pub struct Bot<'a> {
    pub(crate) index: u32,
    pub(crate) now: Instant,
    pub(crate) core: &'a mut Core,
    pub(crate) random: &'a mut Random,
    pub(crate) asked: &'a mut BTreeMap<RequestId, (Tag, Instant)>,
    pub(crate) summary: &'a mut Summary,
    pub(crate) wish: &'a mut Wish,
}

/// What a script wants done with its bot after the call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Wish {
    #[default]
    Nothing,
    Leave,
    Fail,
}

impl Bot<'_> {
    /// Which of the bots it is, from 0.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The time of this call.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// This bot's own randomness.
    pub fn random(&mut self) -> &mut Random {
        self.random
    }

    /// The client, for what has no method here.
    pub fn core(&mut self) -> &mut Core {
        self.core
    }

    /// Whether it is connected.
    pub fn is_connected(&self) -> bool {
        self.core.is_connected()
    }

    /// Whether `stream` is bound.
    pub fn is_bound(&self, stream: &str) -> bool {
        self.core.is_bound(stream)
    }

    /// Requests without an answer.
    pub fn requests_open(&self) -> usize {
        self.asked.len()
    }

    /// Calls a method; `args` is the tuple of its arguments, or `()`. The answer comes to
    /// [`Script::on_reply`] with `tag`. A request that is not taken counts as failed, without.
    pub fn request<A: Message>(&mut self, stream: &str, method: MethodId, args: &A, tag: Tag) {
        self.request_bytes(stream, method, &encode_args(args), tag);
    }

    /// As [`request`](Self::request) with an encoded argument list.
    pub fn request_bytes(&mut self, stream: &str, method: MethodId, body: &[u8], tag: Tag) {
        self.summary.requests += 1;
        match self.core.request(self.now, stream, method, body, None) {
            Ok(request) => {
                self.asked.insert(request, (tag, self.now));
            }
            Err(error) => {
                self.summary.failed_request(&error);
                let index = self.index;
                self.summary.complain(|| format!("bot {index}: request not taken: {error}"));
            }
        }
    }

    /// Sends a message. One that is not taken counts as a failed request.
    pub fn tell<A: Message>(&mut self, stream: &str, method: MethodId, args: &A) {
        let sent = self.core.tell(self.now, stream, method, &encode_args(args));
        self.note(sent.map(drop));
    }

    /// Sends a message of which only the newest per `key` matters; while the stream is not bound
    /// it is lost, which is no failure.
    pub fn tell_latest<A: Message>(&mut self, stream: &str, method: MethodId, key: u64, args: &A) {
        match self.core.tell_latest(stream, method, key, &encode_args(args)) {
            Err(CallError::NotBound(_)) => {}
            sent => self.note(sent),
        }
    }

    /// Answers a call of the server with a value.
    pub fn answer<R: Message>(&mut self, call: CallId, value: &R) {
        let sent = self.core.answer(self.now, call, Status::Ok, &proto::encode(value));
        self.note(sent);
    }

    /// Allows the server to call `method`.
    pub fn publish(&mut self, method: MethodId) {
        self.core.publish(method);
    }

    /// Counts a wrong answer unless `good`; `text` says what was wrong, for the first few.
    pub fn check(&mut self, good: bool, text: impl FnOnce() -> String) {
        if !good {
            self.summary.wrong_answers += 1;
            let index = self.index;
            self.summary.complain(|| format!("bot {index}: {}", text()));
        }
    }

    /// Cuts the connection; the session resumes.
    pub fn cut(&mut self) {
        self.core.cut(self.now);
    }

    /// Logs out after this call, and in again with a new ticket.
    pub fn leave(&mut self) {
        *self.wish = Wish::Leave;
    }

    /// Gives up: the bot has failed and stops.
    pub fn fail(&mut self, text: &str) {
        let index = self.index;
        self.summary.complain(|| format!("bot {index}: {text}"));
        *self.wish = Wish::Fail;
    }

    fn note(&mut self, sent: Result<(), CallError>) {
        if let Err(error) = sent {
            self.summary.failed_request(&error);
            let index = self.index;
            self.summary.complain(|| format!("bot {index}: not taken: {error}"));
        }
    }
}
