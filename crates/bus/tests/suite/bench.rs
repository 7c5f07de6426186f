//! What a case works on, and how it waits.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake};
use std::thread::Thread;
use std::time::{Duration, Instant};

use bus::{Accepted, Bus, Error, Listen, Message, Options, Subscription};

/// How long anything may take on a loaded machine.
pub const LONG: Duration = Duration::from_secs(60);

/// One backend for one case.
pub struct Bench {
    /// A handle as another process would have it. Within one process all have the same.
    pub attach: Box<dyn Fn() -> Bus>,
    /// The server behind it, if there is one.
    pub server: Option<Arc<dyn Server>>,
}

/// A server that can die.
pub trait Server {
    fn kill(&self);
    fn start_again(&self);
    fn freeze(&self);
    fn thaw(&self);
}

impl Bench {
    pub fn attach(&self) -> Bus {
        (self.attach)()
    }
}

/// Small limits and short times.
pub fn options() -> Options {
    Options {
        queue_messages_max: 4,
        kept_messages_max: 4,
        attempts_max: 3,
        message_bytes_max: 1000,
        silence_wait: Duration::from_secs(2),
        answer_wait: LONG,
        ..Options::default()
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future on this thread, at most so long.
pub fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let end = Instant::now() + limit;
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Some(value);
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        std::thread::park_timeout(left);
    }
}

/// Publishes and waits until it is safe.
pub fn send(bus: &Bus, subject: &str, text: &str) -> Result<Accepted, Error> {
    let mut answer = bus.publish(subject, text.as_bytes())?;
    answer.wait(LONG).expect("an answer in time")
}

/// As [`send`], again while it is busy.
pub fn send_on(bus: &Bus, subject: &str, text: &str) {
    let id = u128::from_le_bytes(rand());
    let end = Instant::now() + LONG;
    loop {
        let sent = bus.publish_once(subject, id, text.as_bytes());
        match sent.and_then(|mut answer| answer.wait(LONG).expect("an answer in time")) {
            Ok(_) => return,
            Err(Error::Busy(_)) if Instant::now() < end => std::thread::yield_now(),
            Err(error) => panic!("{subject} {text}: {error}"),
        }
    }
}

pub fn rand() -> [u8; 16] {
    env::Random::from_os().bytes()
}

/// Listens; from here on nothing is missed.
pub fn listen(bus: &Bus, listen: Listen) -> Subscription {
    let mut subscription = bus.listen(listen).unwrap();
    assert!(subscription.wait_ready(LONG), "listened to in time");
    subscription
}

pub fn subscribe(bus: &Bus, pattern: &str) -> Subscription {
    listen(bus, Listen::to(pattern))
}

/// The next message.
pub fn next(subscription: &mut Subscription) -> Message {
    within(LONG, subscription.next()).expect("a message in time")
}

pub fn text(message: &Message) -> String {
    String::from_utf8(message.body().to_vec()).unwrap()
}

/// Takes the next `count` messages and finishes with them.
pub fn take(subscription: &mut Subscription, count: usize) -> String {
    let mut texts = Vec::new();
    for _ in 0..count {
        let message = next(subscription);
        texts.push(text(&message));
        message.done();
    }
    texts.join(" ")
}

/// Takes all up to the text `end`, and finishes with it.
pub fn take_until(subscription: &mut Subscription, end: &str) -> Vec<String> {
    let mut texts = Vec::new();
    loop {
        let message = next(subscription);
        let text = text(&message);
        message.done();
        if text == end {
            return texts;
        }
        texts.push(text);
    }
}

/// Tries until it holds.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}
