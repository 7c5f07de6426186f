use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use bus::Subscription;
use env::Instant;

use super::Worker;
use crate::topics::NodeBus;

/// Most messages of one topic that are taken from the bus in one turn.
const HEARD_PER_TURN: usize = 256;

/// What this worker's entities listen to on the bus.
pub(super) struct Ears {
    bus: NodeBus,
    open: BTreeMap<String, Subscription>,
    bell: Arc<Bell>,
    waker: Waker,
}

/// Rung by the bus, from any thread, when there may be something to hear.
struct Bell {
    rung: AtomicBool,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.rung.swap(true, Ordering::SeqCst) {
            (self.wake)();
        }
    }
}

impl Ears {
    fn new(bus: NodeBus, wake: Box<dyn Fn() + Send + Sync>) -> Self {
        let bell = Arc::new(Bell { rung: AtomicBool::new(false), wake });
        let waker = Waker::from(bell.clone());
        Ears { bus, open: BTreeMap::new(), bell, waker }
    }

    /// Whether the bus carries `topic`.
    pub fn takes(&self, topic: &str) -> bool {
        self.bus.carries(topic)
    }

    /// From now on, or no longer; saying it again changes nothing.
    pub fn listen(&mut self, topic: &str, on: bool) {
        if !on {
            self.open.remove(topic);
            return;
        }
        if self.open.contains_key(topic) {
            return;
        }
        match self.bus.bus().subscribe(topic) {
            Ok(subscription) => {
                self.open.insert(topic.to_owned(), subscription);
                // It is polled once, so that the bus knows whom to wake.
                self.bell.rung.store(true, Ordering::SeqCst);
            }
            Err(error) => tracing::error!(topic, %error, "cannot be listened to"),
        }
    }
}

impl Worker {
    /// Has entities reach this bus. `wake` ends the sleep of whoever drives the worker; any thread may call it.
    pub fn set_bus(&mut self, bus: NodeBus, wake: impl Fn() + Send + Sync + 'static) {
        self.view.bus.replace(Some(bus.clone()));
        self.ears = Some(Ears::new(bus, Box::new(wake)));
    }

    /// Hands on what came over the bus. `false` if more of it waits.
    pub(super) fn hear_the_bus(&mut self, now: Instant) -> bool {
        let Some(mut ears) = self.ears.take() else { return true };
        let all = !ears.bell.rung.swap(false, Ordering::SeqCst) || self.hear_from(now, &mut ears);
        self.ears = Some(ears);
        all
    }

    fn hear_from(&mut self, now: Instant, ears: &mut Ears) -> bool {
        let mut all = true;
        let mut context = Context::from_waker(&ears.waker);
        for (topic, subscription) in &mut ears.open {
            let mut left = HEARD_PER_TURN;
            while let Poll::Ready(message) = subscription.poll_next(&mut context) {
                self.hand_on(now, topic, message.body());
                message.done();
                left -= 1;
                if left == 0 {
                    all = false;
                    break;
                }
            }
        }
        if !all {
            ears.bell.rung.store(true, Ordering::SeqCst);
        }
        all
    }
}
