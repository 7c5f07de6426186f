//! The store's two threads: while one answers a batch, the other writes the next.
//!
//! Rules run over the tables of the transaction that they write to, so each row is found there while its
//! pages are at hand, and what comes while a batch is answered is in the tables by the time that ends.
//! Batches are answered in the order in which they were committed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use redb::Database;

use super::{Fault, Snapshot, Writing, shown};
use crate::error::Error;
use crate::queue::{Job, Queue, StopOnEnd, Taken};
use crate::tables::{Batch, Read, Stage, Staged};

pub(super) struct Pipeline {
    queue: Arc<Queue>,
    database: Arc<Database>,
    /// Held while a batch is taken, run and committed. Poisoned: the other thread panicked there.
    writes: Mutex<()>,
    /// Whether the batch that was committed last is still being answered.
    answers: AtomicBool,
}

/// Why a batch was not done, and what its jobs are told.
struct Failed {
    reason: String,
    error: fn(String) -> Error,
}

impl Failed {
    /// Nothing was done.
    fn stopped(reason: String) -> Self {
        Failed { reason, error: Error::Stopped }
    }

    /// The operating system may have thrown away what it could not write, and a second sync may then
    /// say all is well: nothing after this can be believed.
    fn unknown(error: impl std::fmt::Display) -> Self {
        Failed { reason: shown(error), error: Error::Unknown }
    }
}

impl Pipeline {
    pub fn new(queue: Arc<Queue>, database: Arc<Database>) -> Self {
        Pipeline { queue, database, writes: Mutex::default(), answers: AtomicBool::new(false) }
    }

    /// Has batch after batch done until the queue is closed or the storage fails. To be run by two
    /// threads.
    pub fn serve(&self) {
        let _stop = StopOnEnd(&self.queue);
        while self.turn().is_some() {}
    }

    /// Has one batch done. `None` if it was the last.
    fn turn(&self) -> Option<()> {
        let writes = self.writes.lock().ok()?;
        let mut batch = self.queue.take()?;
        if let Err(Failed { reason, error }) = self.run(&mut batch) {
            self.queue.stop(&reason);
            batch.jobs.into_iter().for_each(|job| job.refuse(error(reason.clone())));
            return None;
        }
        self.answers.store(true, Ordering::SeqCst);
        drop(writes);
        batch.jobs.into_iter().for_each(Job::done);
        // Only now, so that what the answers lead to can still be a part of the next batch: with few
        // in flight that would otherwise be half as large as it can be.
        self.answers.store(false, Ordering::SeqCst);
        self.queue.wake();
        Some(())
    }

    /// Runs the rules of a batch, and of what comes while the one before is being answered. What they
    /// write is durable when this returns `Ok`.
    fn run(&self, batch: &mut Taken) -> Result<(), Failed> {
        let mut ran = 0;
        let Some(first) = self.look(batch, &mut ran)? else { return Ok(()) };
        let mut txn = self.database.begin_write().map_err(Failed::unknown)?;
        // Reopening after a crash then need not read the whole file.
        txn.set_quick_repair(true);
        let mut rows = Batch::new(Writing::new(&txn));
        rows.apply_through(first, Writing::put).map_err(Failed::unknown)?;
        self.run_each(batch, &mut ran, &mut rows, |rows, job| {
            self.write(rows, job).map(|()| None)
        })?;
        let (written, mut rows) = rows.into_parts();
        rows.write(&written).map_err(Failed::unknown)?;
        drop(rows);
        txn.commit().map_err(Failed::unknown)
    }

    /// Runs the rules up to the first that writes, and gives back what that is. A transaction for what
    /// only reads would cost more than the reading.
    fn look(&self, batch: &mut Taken, ran: &mut usize) -> Result<Option<Staged>, Failed> {
        // While there is a snapshot, pages that it has cannot be used anew: it ends with this.
        let snapshot = Snapshot::take(&self.database).map_err(Failed::stopped)?;
        let run = |rows: &mut Batch<_>, job: &mut dyn Job| self.run_one(rows, job);
        self.run_each(batch, ran, &mut Batch::new(snapshot), run)
    }

    /// Runs the rules of one job, and puts what they write into the tables.
    fn write(&self, rows: &mut Batch<Writing<'_>>, job: &mut dyn Job) -> Result<(), Failed> {
        let mut stage = Stage::new(rows, &self.queue.options.limits);
        stage.guess();
        let applies = job.run(&mut stage);
        let (writes, guessed) = stage.into_guessed();
        rows.under.fault.check().map_err(Failed::stopped)?;
        let is_new = match guessed {
            None => true,
            // To put it is to look whether it is there.
            Some((table, key, Some(row))) if applies => {
                rows.under.put_new(table, &key, &row).map_err(Failed::unknown)?
            }
            Some(_) => false,
        };
        let writes = match (is_new, applies) {
            (true, true) => Some(writes),
            (true, false) => None,
            (false, _) => self.run_one(rows, job)?,
        };
        let applied = writes.map(|writes| rows.apply_through(writes, Writing::put));
        applied.unwrap_or(Ok(())).map_err(Failed::unknown)
    }

    /// Runs the rules of one job, and gives back what they write if it is anything.
    fn run_one<R: Read + AsRef<Fault>>(
        &self,
        rows: &Batch<R>,
        job: &mut dyn Job,
    ) -> Result<Option<Staged>, Failed> {
        let mut stage = Stage::new(rows, &self.queue.options.limits);
        let applies = job.run(&mut stage);
        let writes = stage.into_staged();
        rows.under.as_ref().check().map_err(Failed::stopped)?;
        Ok((applies && !writes.is_empty()).then_some(writes))
    }

    /// Has `run` do the jobs of a batch from the one numbered `ran` on until it gives writes back, or
    /// nothing is left to run and the batch before is answered.
    fn run_each<R>(
        &self,
        batch: &mut Taken,
        ran: &mut usize,
        rows: &mut Batch<R>,
        mut run: impl FnMut(&mut Batch<R>, &mut dyn Job) -> Result<Option<Staged>, Failed>,
    ) -> Result<Option<Staged>, Failed> {
        let mut is_due = false;
        // A batch of thousands changes most pages of its tables, and two of half its size nearly as many
        // each: while jobs come faster than they run, the disk waits for them.
        while *ran < batch.jobs.len() || !is_due {
            while let Some(job) = batch.jobs.get_mut(*ran) {
                *ran += 1;
                if let Some(writes) = run(rows, &mut **job)? {
                    return Ok(Some(writes));
                }
            }
            let answered = || !self.answers.load(Ordering::SeqCst);
            is_due = self.queue.take_more(batch, answered).map_err(Failed::stopped)?;
        }
        Ok(None)
    }
}
