//! What buses with a server have in common: the pure [`Front`], and a thread of its own that
//! speaks to the server and never gives up.

mod front;
#[cfg(feature = "nats")]
pub(crate) mod nats;
#[cfg(feature = "rabbitmq")]
pub(crate) mod rabbitmq;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use env::{Clock, Random};
use tokio::sync::Notify;

use crate::answer::channel;
use crate::backend::Backend;
use crate::types::{Accepted, Listen, Post, Taken, Verdict};
use crate::{Answer, Counters, Dead, Delivery, Error, Options, Presence};
use front::{Front, Incoming, Live, Order};

/// The first and the longest pause between two attempts.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// How long an ending handle goes on telling its server what it settled.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What the handles and the thread of one bus share.
pub(crate) struct Shared {
    name: &'static str,
    options: Options,
    clock: Clock,
    front: Mutex<Front>,
    /// There are orders, or the time of the next timeout has changed.
    orders: Notify,
    /// There is something to publish.
    posts: Notify,
    /// A message that may be lost was said to the server.
    said: Notify,
    /// A listener has room again.
    room: Notify,
    stopped: AtomicBool,
    presence: Presence,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Front> {
        // The front holds no invariant across a panic: it calls nothing of the user's.
        self.front.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Acts, and wakes whom that made ready, outside the lock.
    fn act<R>(&self, act: impl FnOnce(&mut Front, &mut Vec<Waker>) -> R) -> R {
        let mut wakers = Vec::new();
        let (result, has_orders, has_posts) = {
            let mut front = self.lock();
            let result = act(&mut front, &mut wakers);
            (result, front.has_orders(), front.has_posts())
        };
        wakers.into_iter().for_each(Waker::wake);
        if has_orders {
            self.orders.notify_one();
        }
        if has_posts {
            self.posts.notify_one();
        }
        result
    }

    /// The next message that may be lost. Who asks is done with the one before.
    fn next_live(&self) -> Option<Live> {
        let next = self.lock().next_live();
        self.said.notify_waiters();
        next
    }

    /// Returns when as many of those were said to the server.
    async fn live_said(&self, count: u64) {
        loop {
            let said = self.said.notified();
            if self.lock().is_live_said(count) {
                return;
            }
            said.await;
        }
    }

    /// A message came for a listener.
    fn deliver(&self, ear: u64, message: Incoming) {
        let now = self.clock.now();
        self.act(|front, wakers| front.deliver(now, ear, message, wakers));
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// How long until a lease or a deadline ends, looked at each half second at least.
    fn next_timeout(&self) -> Duration {
        let at_most = Duration::from_millis(500);
        let next = self.lock().poll_timeout();
        next.map_or(at_most, |next| (next - self.clock.now()).min(at_most))
    }

    fn handle_timeout(&self) {
        let now = self.clock.now();
        self.act(|front, wakers| front.handle_timeout(now, wakers));
    }
}

/// The handles' end; the thread ends with it.
pub(crate) struct Remote(Arc<Shared>);

impl Drop for Remote {
    fn drop(&mut self) {
        self.0.stopped.store(true, Ordering::Release);
        self.0.orders.notify_one();
    }
}

/// Starts the thread of a bus, which runs what `run` gives.
fn start<F: Future<Output = ()>>(
    name: &'static str,
    options: Options,
    clock: &Clock,
    run: impl FnOnce(Arc<Shared>) -> F + Send + 'static,
) -> std::io::Result<Arc<Remote>> {
    let front = Front::new(name, options.clone(), Random::from_os());
    let presence = Presence::default();
    presence.set_away(true);
    let shared = Arc::new(Shared {
        name,
        options,
        clock: clock.clone(),
        front: Mutex::new(front),
        orders: Notify::new(),
        posts: Notify::new(),
        said: Notify::new(),
        room: Notify::new(),
        stopped: AtomicBool::new(false),
        presence,
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let threads = shared.clone();
    std::thread::Builder::new()
        .name(format!("bus-{name}"))
        .spawn(move || runtime.block_on(run(threads)))?;
    Ok(Arc::new(Remote(shared)))
}

impl Backend for Remote {
    fn declare(&self, pattern: &str, delivery: Delivery) -> Result<(), Error> {
        let (sender, mut answer) = channel();
        self.0.act(|front, _| front.declare(pattern, delivery, sender))?;
        match answer.wait(self.0.options.answer_wait) {
            Some(Err(Error::Closed)) | None => Ok(()),
            Some(told) => {
                if told.is_err() {
                    self.0.act(|front, _| front.forget(pattern));
                }
                told
            }
        }
    }

    fn publish(&self, post: Post) -> Result<Answer<Accepted>, Error> {
        let now = self.0.clock.now();
        self.0.act(|front, _| front.publish(now, post))
    }

    fn listen(&self, listen: &Listen) -> Result<(u64, Answer<()>), Error> {
        let now = self.0.clock.now();
        self.0.act(|front, _| front.listen(now, listen))
    }

    fn unlisten(&self, id: u64) {
        self.0.act(|front, _| front.unlisten(id));
    }

    fn take(&self, id: u64, waker: Option<&Waker>) -> Option<Taken> {
        let now = self.0.clock.now();
        let (taken, is_news) = {
            let mut front = self.0.lock();
            let before = front.poll_timeout();
            let taken = front.take(now, id, waker);
            (taken, front.poll_timeout() != before || front.has_orders())
        };
        if is_news {
            self.0.orders.notify_one();
        }
        taken
    }

    fn settle(&self, receipt: u64, verdict: Verdict) {
        let now = self.0.clock.now();
        self.0.act(|front, wakers| front.settle(now, receipt, verdict, wakers));
        self.0.room.notify_waiters();
    }

    fn dropped(&self, id: u64) -> u64 {
        self.0.lock().dropped(id)
    }

    fn presence(&self) -> Presence {
        self.0.presence.clone()
    }

    fn counters(&self) -> Counters {
        self.0.lock().counters()
    }

    fn dead(&self, scope: &str, max: usize) -> Answer<Vec<Dead>> {
        let (sender, answer) = channel();
        let order = Order::Dead { scope: scope.to_owned(), max, sender };
        self.0.act(|front, _| front.order(order));
        answer
    }

    fn bury(&self, dead: &Dead, replay: bool) -> Answer<()> {
        let (sender, answer) = channel();
        let order = Order::Bury { dead: dead.clone(), replay, sender };
        self.0.act(|front, _| front.order(order));
        answer
    }

    fn waiting(&self, pattern: &str, group: &str) -> Answer<u64> {
        let (sender, answer) = channel();
        self.0.act(|front, _| front.ask_waiting(pattern, group, sender));
        answer
    }

    fn withdraw(&self, _: &str, _: u128) {
        // It is given out, and whoever takes it asks whether it shall begin.
    }

    fn attempts_max(&self) -> u32 {
        self.0.options.attempts_max
    }

    fn refused(&self) -> Vec<(String, String)> {
        self.0.lock().refused()
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name)
    }
}
