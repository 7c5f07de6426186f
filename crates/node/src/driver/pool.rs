use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use crate::host::BlockingPool;

type Job = Box<dyn FnOnce() + Send>;

/// A few threads for work that blocks, shared by the workers of a node. A cheap clone.
#[derive(Clone)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    queue: Mutex<Queue>,
    news: Condvar,
    jobs_max: usize,
}

struct Queue {
    jobs: VecDeque<Job>,
    open: bool,
}

impl Pool {
    /// Starts `threads` threads called after `name`; at most `jobs_max` jobs wait.
    pub fn start(name: &str, threads: usize, jobs_max: usize) -> io::Result<Self> {
        let queue = Mutex::new(Queue { jobs: VecDeque::new(), open: true });
        let shared = Arc::new(Shared { queue, news: Condvar::new(), jobs_max });
        let pool = Pool { shared };
        for at in 0..threads {
            let shared = pool.shared.clone();
            let started = thread::Builder::new()
                .name(format!("{name}-blocking-{at}"))
                .spawn(move || shared.run());
            if let Err(error) = started {
                pool.close();
                return Err(error);
            }
        }
        Ok(pool)
    }

    /// Lets the threads end after what is queued.
    pub fn close(&self) {
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner).open = false;
        self.shared.news.notify_all();
    }
}

impl Shared {
    fn run(&self) {
        loop {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            let job = loop {
                if let Some(job) = queue.jobs.pop_front() {
                    break job;
                }
                if !queue.open {
                    return;
                }
                queue = self.news.wait(queue).unwrap_or_else(PoisonError::into_inner);
            };
            drop(queue);
            // A job catches its own panic and passes it to whoever waits for it.
            job();
        }
    }
}

impl BlockingPool for Pool {
    fn spawn(&self, job: Job) -> bool {
        let mut queue = self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if !queue.open || queue.jobs.len() >= self.shared.jobs_max {
            return false;
        }
        queue.jobs.push_back(job);
        drop(queue);
        self.shared.news.notify_one();
        true
    }
}
