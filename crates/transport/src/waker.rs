use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::Token;

/// Ends the [`poll`](crate::Sockets::poll) of one `Sockets`, from any thread.
///
/// A cheap clone. Wakes that come before the poll has seen the first one cost one atomic each.
#[derive(Clone, Debug)]
pub struct Waker {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    poll: mio::Waker,
    /// The eventfd was written and its event not yet taken.
    signalled: AtomicBool,
    /// Somebody called `wake`, as opposed to a pipe having news.
    woken: AtomicBool,
    /// Pipe ends with news: the token and whether it became readable (else writable).
    news: Mutex<Vec<News>>,
}

/// What a memory pipe tells the poll that owns one of its ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    Readable(Token),
    Writable(Token),
}

impl Waker {
    pub(crate) fn new(registry: &mio::Registry) -> io::Result<Self> {
        let shared = Shared {
            poll: mio::Waker::new(registry, Token::WAKER)?,
            signalled: AtomicBool::new(false),
            woken: AtomicBool::new(false),
            news: Mutex::new(Vec::new()),
        };
        Ok(Waker { shared: Arc::new(shared) })
    }

    /// Makes the current or next poll return with [`Event::Woken`](crate::Event::Woken).
    ///
    /// What was written to memory before this call is seen by the poll's thread after it.
    pub fn wake(&self) {
        self.shared.woken.store(true, Ordering::SeqCst);
        self.signal();
    }

    pub(crate) fn tell(&self, news: News) {
        self.shared.news.lock().unwrap_or_else(|e| e.into_inner()).push(news);
        self.signal();
    }

    fn signal(&self) {
        if !self.shared.signalled.swap(true, Ordering::SeqCst) {
            // Fails only where the system is out of resources; the next wake tries again.
            if self.shared.poll.wake().is_err() {
                self.shared.signalled.store(false, Ordering::SeqCst);
            }
        }
    }

    /// Takes what happened: the news into `news`, and whether `wake` was called.
    pub(crate) fn take(&self, news: &mut Vec<News>) -> bool {
        self.shared.signalled.store(false, Ordering::SeqCst);
        let woken = self.shared.woken.swap(false, Ordering::SeqCst);
        let mut waiting = self.shared.news.lock().unwrap_or_else(|e| e.into_inner());
        news.append(&mut waiting);
        woken
    }
}
