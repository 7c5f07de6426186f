use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// How long a flush waits for a writer that is stuck.
const FLUSH_WAIT: Duration = Duration::from_secs(2);

/// How long it waits between two looks at a queue that is full.
const FLUSH_NAP: Duration = Duration::from_millis(1);

/// A bounded queue in front of a writer thread.
pub(super) struct Sink {
    queue: SyncSender<Job>,
    lost: Arc<AtomicU64>,
}

enum Job {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

impl Sink {
    pub(super) fn start(writer: Box<dyn Write + Send>, queue_lines_max: usize) -> Arc<Sink> {
        let (queue, jobs) = sync_channel(queue_lines_max);
        let lost = Arc::new(AtomicU64::new(0));
        let sink = Arc::new(Sink { queue, lost: lost.clone() });
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write_all(&jobs, writer, &lost))
            .expect("a thread can be started");
        sink
    }

    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Waits until everything that is in the queue is written, but not for a writer that is stuck
    /// (a blocked pipe): that must not keep the process from ending.
    pub(super) fn flush(&self) {
        let (done, wait) = sync_channel(1);
        let mut job = Job::Flush(done);
        // A full queue takes it as soon as the writer has taken a line.
        for _ in 0..FLUSH_WAIT.as_millis() / FLUSH_NAP.as_millis() {
            match self.queue.try_send(job) {
                Ok(()) => {
                    let _ = wait.recv_timeout(FLUSH_WAIT);
                    return;
                }
                Err(TrySendError::Full(back)) => job = back,
                Err(TrySendError::Disconnected(_)) => return,
            }
            std::thread::sleep(FLUSH_NAP);
        }
    }
}

fn write_all(jobs: &Receiver<Job>, mut writer: Box<dyn Write + Send>, lost: &AtomicU64) {
    let mut told = 0;
    while let Ok(job) = jobs.recv() {
        if let Job::Line(line) = &job
            && writer.write_all(line).is_err()
        {
            lost.fetch_add(1, Ordering::Relaxed);
        }
        let now = lost.load(Ordering::Relaxed);
        if now > told
            && writer.write_all(format!("({} log lines lost)\n", now - told).as_bytes()).is_ok()
        {
            told = now;
        }
        if let Job::Flush(done) = job {
            let _ = writer.flush();
            let _ = done.try_send(());
        }
    }
}

/// One formatted line on its way into the queue.
pub(super) struct Line<'a> {
    sink: &'a Sink,
    bytes: Vec<u8>,
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        let line = Job::Line(std::mem::take(&mut self.bytes));
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.sink.queue.try_send(line)
        {
            self.sink.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A sink as a layer holds it.
pub(super) struct Shared(pub(super) Arc<Sink>);

impl<'a> MakeWriter<'a> for Shared {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { sink: &self.0, bytes: Vec::with_capacity(160) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Condvar, Mutex};

    /// Blocks until opened, then collects.
    #[derive(Clone, Default)]
    struct Pipe(Arc<(Mutex<(bool, Vec<u8>)>, Condvar)>);

    impl Pipe {
        fn open(&self) {
            self.0.0.lock().unwrap().0 = true;
            self.0.1.notify_all();
        }
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut state = self.0.0.lock().unwrap();
            while !state.0 {
                state = self.0.1.wait(state).unwrap();
            }
            state.1.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A flush that found the queue full did nothing, so the last lines of a process were lost.
    #[test]
    fn x38_a_flush_waits_for_room_in_a_full_queue() {
        let pipe = Pipe::default();
        let sink = Sink::start(Box::new(pipe.clone()), 4);
        while sink.queue.try_send(Job::Line(b"line\n".to_vec())).is_ok() {}
        let opener = pipe.clone();
        let flusher = std::thread::spawn(move || sink.flush());
        opener.open();
        flusher.join().unwrap();
        let text = String::from_utf8(pipe.0.0.lock().unwrap().1.clone()).unwrap();
        assert!(text.lines().count() >= 4, "{text}");
    }

    /// X38: log lines walked the stack on the caller's thread, the queue had no limit, nothing was
    /// flushed at exit. Here a blocked writer costs the callers nothing but counted lines.
    #[test]
    fn x38_a_blocked_writer_loses_counted_lines_and_never_blocks() {
        let pipe = Pipe::default();
        let sink = Sink::start(Box::new(pipe.clone()), 4);
        let shared = Shared(sink.clone());
        for n in 0..100 {
            let mut line = shared.make_writer();
            writeln!(line, "line {n}").unwrap();
        }
        let lost = sink.lost();
        assert!((95..=96).contains(&lost), "lost {lost}");
        pipe.open();
        while sink.queue.try_send(Job::Line(b"end\n".to_vec())).is_err() {
            std::thread::yield_now();
        }
        sink.flush();
        let text = String::from_utf8(pipe.0.0.lock().unwrap().1.clone()).unwrap();
        assert!(text.starts_with("line 0\n"), "{text}");
        assert!(text.contains(&format!("({lost} log lines lost)")), "{text}");
        assert!(text.ends_with("end\n"), "{text}");
    }
}
