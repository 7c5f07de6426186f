use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Waker;
use std::time::Duration;

use env::Clock;

use crate::backend::Backend;
use crate::router::Router;
use crate::types::{Accepted, Listen, Post, Taken, Verdict};
use crate::{Answer, Counters, Dead, Delivery, Error, Options, Presence};

/// A bus within one process.
pub(crate) struct Local {
    router: Mutex<Router>,
    clock: Clock,
    /// Tells the thread that looks after leases that there is a sooner one.
    sooner: Arc<(Mutex<bool>, Condvar)>,
}

/// How often the thread looks whether the bus is still there.
const LOOK: Duration = Duration::from_secs(1);

impl Local {
    pub fn start(options: Options, clock: &Clock) -> Arc<Local> {
        let sooner = Arc::new((Mutex::new(false), Condvar::new()));
        let router = Mutex::new(Router::new(options));
        let local = Arc::new(Local { router, clock: clock.clone(), sooner: sooner.clone() });
        let weak = Arc::downgrade(&local);
        let thread = std::thread::Builder::new().name("bus-leases".to_owned());
        // Without it leases are looked after at each call only.
        if let Err(error) = thread.spawn(move || look_after(&weak, &sooner)) {
            tracing::error!(%error, "no thread for the leases of the bus");
        }
        local
    }

    fn lock(&self) -> MutexGuard<'_, Router> {
        // The router holds no invariant across a panic: it calls nothing of the user's.
        self.router.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Acts, and wakes outside the lock: whoever is woken may come back at once.
    fn act<R>(&self, act: impl FnOnce(&mut Router, &mut Vec<Waker>) -> R) -> R {
        let mut wakers = Vec::new();
        let result = act(&mut self.lock(), &mut wakers);
        wakers.into_iter().for_each(Waker::wake);
        result
    }

    fn is_sooner(&self) {
        *self.sooner.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.sooner.1.notify_one();
    }
}

fn look_after(local: &Weak<Local>, sooner: &(Mutex<bool>, Condvar)) {
    loop {
        let Some(local) = local.upgrade() else { return };
        let now = local.clock.now();
        local.act(|router, wakers| router.handle_timeout(now, wakers));
        let next = local.lock().poll_timeout();
        drop(local);
        let pause = next.map_or(LOOK, |next| (next - now).min(LOOK));
        let flag = sooner.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = sooner.1.wait_timeout_while(flag, pause, |sooner| !*sooner);
        *waited.unwrap_or_else(PoisonError::into_inner).0 = false;
    }
}

impl Backend for Local {
    fn declare(&self, pattern: &str, delivery: Delivery) -> Result<(), Error> {
        if delivery == Delivery::Durable {
            return Err(Error::CannotGive {
                topic: pattern.into(),
                delivery,
                backend: "embedded",
                advice: "use NATS or RabbitMQ, or declare it at least once".into(),
            });
        }
        self.lock().declare(pattern, delivery)
    }

    fn publish(&self, post: Post) -> Result<Answer<Accepted>, Error> {
        self.act(|router, wakers| router.publish(post, wakers))
            .map(|accepted| Answer::given(Ok(accepted)))
    }

    fn listen(&self, listen: &Listen) -> Result<(u64, Answer<()>), Error> {
        let id = self.act(|router, wakers| router.listen(listen, wakers))?;
        Ok((id, Answer::given(Ok(()))))
    }

    fn unlisten(&self, id: u64) {
        self.act(|router, wakers| router.unlisten(id, wakers));
    }

    fn take(&self, id: u64, waker: Option<&Waker>) -> Option<Taken> {
        let now = self.clock.now();
        let (taken, is_sooner) = {
            let mut router = self.lock();
            let before = router.poll_timeout();
            let taken = router.take(now, id, waker);
            (taken, router.poll_timeout() != before)
        };
        if is_sooner {
            self.is_sooner();
        }
        taken
    }

    fn settle(&self, receipt: u64, verdict: Verdict) {
        let now = self.clock.now();
        self.act(|router, wakers| router.settle(now, receipt, verdict, wakers));
    }

    fn dropped(&self, id: u64) -> u64 {
        self.lock().dropped(id)
    }

    fn counters(&self) -> Counters {
        self.lock().counters()
    }

    fn dead(&self, scope: &str, max: usize) -> Answer<Vec<Dead>> {
        Answer::given(Ok(self.lock().dead(scope, max)))
    }

    fn bury(&self, dead: &Dead, replay: bool) -> Answer<()> {
        Answer::given(self.act(|router, wakers| router.bury(dead.place, replay, wakers)))
    }

    fn waiting(&self, pattern: &str, group: &str) -> Answer<u64> {
        Answer::given(Ok(self.lock().waiting(pattern, group)))
    }

    fn withdraw(&self, subject: &str, id: u128) {
        self.act(|router, _| router.withdraw(subject, id));
    }

    fn attempts_max(&self) -> u32 {
        self.lock().attempts_max()
    }

    fn presence(&self) -> Presence {
        Presence::default()
    }

    fn refused(&self) -> Vec<(String, String)> {
        Vec::new()
    }
}

impl fmt::Debug for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("embedded")
    }
}
