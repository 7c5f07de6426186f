//! The threads behind a store, and what all stores that have some do alike.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::answer::Sender;
use crate::error::{Error, OpenError};
use crate::ledger::Verdict;
use crate::queue::{Asked, Queue, Work};
use crate::rules;
use crate::tables::Stage;

/// A store's queue, the threads that serve it, and the one that verifies.
pub(crate) struct Thread {
    queue: Arc<Queue>,
    /// With whether it is about to answer.
    verifying: Mutex<Option<(JoinHandle<()>, Arc<AtomicBool>)>>,
    threads: Vec<JoinHandle<()>>,
}

impl Thread {
    /// Starts a thread for each of `serves`, which are to serve `queue` until it is closed.
    pub fn start<S: FnOnce() + Send + 'static>(
        queue: Arc<Queue>,
        serves: impl IntoIterator<Item = S>,
    ) -> std::io::Result<Self> {
        let mut started = Thread { queue, verifying: Mutex::new(None), threads: Vec::new() };
        for serve in serves {
            let thread = std::thread::Builder::new().name("store".to_owned()).spawn(serve)?;
            started.threads.push(thread);
        }
        Ok(started)
    }

    pub fn submit<T: Send + 'static>(
        &self,
        asked: Asked,
        rule: impl FnMut(&mut Stage<'_>) -> Result<T, Error> + Send + 'static,
        sender: Sender<T>,
    ) {
        let work = Work::new(rule, asked, sender);
        if let Err((job, error)) = self.queue.push(Box::new(work), asked.bytes) {
            job.refuse(error);
        }
    }

    /// Reads the whole of one moment on a thread of its own, one at a time: `prepare` is called
    /// here, what it gives is run there.
    pub fn verify<V>(&self, sender: Sender<Verdict>, prepare: impl FnOnce() -> Option<V>)
    where
        V: FnOnce() -> Result<Verdict, Error> + Send + 'static,
    {
        let mut verifying = self.verifying.lock().unwrap_or_else(PoisonError::into_inner);
        let is_busy = |(thread, is_done): &(JoinHandle<()>, Arc<AtomicBool>)| {
            !thread.is_finished() && !is_done.load(Ordering::SeqCst)
        };
        if verifying.as_ref().is_some_and(is_busy) {
            return sender.send(Err(Error::Busy));
        }
        // The thread may still be on its way out of a failed storage.
        let prepared = if self.queue.is_stopped() { None } else { prepare() };
        let Some(verify) = prepared else {
            return sender.send(Err(self.queue.why_stopped()));
        };
        let is_done = Arc::new(AtomicBool::new(false));
        let of_thread = Arc::clone(&is_done);
        // Whoever hears the answer may ask again at once.
        let verify = move || {
            let verdict = verify();
            of_thread.store(true, Ordering::SeqCst);
            sender.send(verdict);
        };
        let thread = std::thread::Builder::new().name("store verify".to_owned()).spawn(verify);
        // Without a thread the sender is dropped, which answers.
        *verifying = thread.ok().map(|thread| (thread, is_done));
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.queue.close();
        let verifying = self.verifying.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let mut threads = std::mem::take(&mut self.threads);
        // The last handle may be dropped by a callback, which runs on one of the threads itself, and
        // for whose end the others may wait.
        let own = std::thread::current().id();
        if threads.iter().any(|thread| thread.thread().id() == own) {
            threads.clear();
        }
        for thread in threads.into_iter().chain(verifying.map(|(thread, _)| thread)) {
            if thread.thread().id() != own {
                // A panic of it was told to all that waited.
                drop(thread.join());
            }
        }
    }
}

/// Makes the file at `path` with `make` unless it is there. It is made under another name first, so
/// that one of the right name is always whole.
pub(crate) fn create_once(
    path: &Path,
    make: impl FnOnce(&Path) -> Result<(), OpenError>,
) -> Result<(), OpenError> {
    let io = |source| OpenError::Io { path: path.display().to_string(), source };
    match std::fs::metadata(path) {
        Ok(found) if found.len() == 0 => return Err(OpenError::Empty(path.display().to_string())),
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(io(error)),
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".new.{}", std::process::id()));
    let making = path.with_file_name(name);
    match std::fs::remove_file(&making) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    make(&making)?;
    File::open(&making).and_then(|file| file.sync_all()).map_err(io)?;
    // Unlike a rename, a link never replaces what another process made meanwhile.
    let linked = std::fs::hard_link(&making, path);
    std::fs::remove_file(&making).map_err(io)?;
    match linked {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(io(error)),
        _ => {}
    }
    sync_folder(path).map_err(io)
}

/// Makes sure that the names in the folder of a file last.
pub(crate) fn sync_folder(path: &Path) -> std::io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder)?.sync_all()
}

/// Whether a store of the format that was found can be used here.
pub(crate) fn check_format(path: &str, found: Result<Option<u64>, Error>) -> Result<(), OpenError> {
    let (path, known) = (path.to_owned(), rules::FORMAT_KNOWN);
    match found {
        Err(error) => Err(OpenError::Damaged { path, reason: error.to_string() }),
        Ok(None) => Err(OpenError::Damaged { path, reason: "its format is not named".to_owned() }),
        Ok(Some(found)) if found > known => Err(OpenError::Newer {
            path,
            found: u32::try_from(found).unwrap_or(u32::MAX),
            known: known as u32,
        }),
        Ok(Some(_)) => Ok(()),
    }
}
