//! A shard in a redb file, behind a thread that commits what waits in one durable transaction.

use std::cell::RefCell;
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;

use redb::{Database, DatabaseError, ReadableTable, StorageError, TableDefinition, TableError};

use crate::answer::Sender;
use crate::error::{Error, OpenError};
use crate::ledger::Verdict;
use crate::options::{Limits, Options};
use crate::pending::{Below, Pending};
use crate::queue::{Asked, Failed, Job, Queue, Work, serve};
use crate::rules;
use crate::tables::{Read, Stage, Table, Visit};

#[cfg(test)]
mod tests;

type Definition = TableDefinition<'static, &'static [u8], &'static [u8]>;

fn definition(table: Table) -> Definition {
    TableDefinition::new(table.name())
}

/// The store's file and its thread.
pub(crate) struct Embedded {
    queue: Arc<Queue>,
    /// Held for a snapshot only; the thread owns the database and closes it as it ends.
    database: Weak<Database>,
    verifying: Mutex<Option<JoinHandle<()>>>,
    limits: Limits,
    thread: Option<JoinHandle<()>>,
}

impl Embedded {
    pub fn open(path: &Path, options: Options) -> Result<Self, OpenError> {
        let shown = path.display().to_string();
        let io = |source| OpenError::Io { path: shown.clone(), source };
        match std::fs::metadata(path) {
            Ok(found) if found.len() == 0 => return Err(OpenError::Empty(shown)),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => create(path, &shown)?,
            Err(error) => return Err(io(error)),
        }
        let mut builder = Database::builder();
        builder.set_cache_size(options.cache_bytes);
        let database = builder.open(path).map_err(|error| opening(&shown, error))?;
        Self::start(database, &shown, options)
    }

    /// Checks what is stored and starts the thread.
    pub fn start(database: Database, shown: &str, options: Options) -> Result<Self, OpenError> {
        let damaged = |reason: String| OpenError::Damaged { path: shown.to_owned(), reason };
        let snapshot = Snapshot::take(&database).map_err(damaged)?;
        let found = rules::format(&Stage::new(&snapshot, &options.limits));
        drop(snapshot);
        match found.map_err(|error| damaged(error.to_string()))? {
            None => return Err(damaged("its format is not named".to_owned())),
            Some(found) if found > rules::FORMAT_VERSION => {
                return Err(OpenError::Newer {
                    path: shown.to_owned(),
                    found: u32::try_from(found).unwrap_or(u32::MAX),
                    known: rules::FORMAT_VERSION as u32,
                });
            }
            Some(_) => {}
        }
        let (database, limits) = (Arc::new(database), options.limits.clone());
        let weak = Arc::downgrade(&database);
        let queue = Arc::new(Queue::new(options));
        let of_thread = Arc::clone(&queue);
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || {
                serve(&of_thread, |limits, batch| {
                    commit(&database, limits, batch).map_err(Failed::Broken)
                });
            })
            .map_err(|source| OpenError::Io { path: shown.to_owned(), source })?;
        Ok(Embedded {
            queue,
            database: weak,
            verifying: Mutex::new(None),
            limits,
            thread: Some(thread),
        })
    }

    /// Makes the tables of a new store; the database is durable afterwards.
    pub fn found(database: &Database) -> Result<(), String> {
        let txn = database.begin_write().map_err(shown)?;
        {
            let mut tables = Open::new(&txn)?;
            let limits = Limits::default();
            let mut stage = Stage::new(&tables, &limits);
            rules::found(&mut stage);
            let writes = stage.into_writes();
            for ((table, key), row) in writes {
                tables.write(table, &key, row.as_deref())?;
            }
        }
        txn.commit().map_err(shown)
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

    /// Reads the whole of one snapshot on a thread of its own, one at a time.
    pub fn verify(&self, sender: Sender<Verdict>) {
        let mut verifying = self.verifying.lock().unwrap_or_else(PoisonError::into_inner);
        if verifying.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return sender.send(Err(Error::Busy));
        }
        // The thread may still be on its way out of a failed database.
        let database = self.database.upgrade().filter(|_| !self.queue.is_stopped());
        let Some(database) = database else {
            return sender.send(Err(self.queue.why_stopped()));
        };
        let limits = self.limits.clone();
        let verify = move || {
            let verdict = Snapshot::take(&database)
                .map_err(Error::Stopped)
                .and_then(|snapshot| rules::verify(&mut Stage::new(&snapshot, &limits)));
            // Whoever hears the answer may open the file anew.
            drop(database);
            sender.send(verdict);
        };
        let thread = std::thread::Builder::new().name("store verify".to_owned()).spawn(verify);
        // Without a thread the sender is dropped, which answers.
        *verifying = thread.ok();
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.queue.close();
        let verifying = self.verifying.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        for thread in [verifying, self.thread.take()].into_iter().flatten() {
            // The last handle may be dropped by a callback, which runs on the thread itself.
            if thread.thread().id() != std::thread::current().id() {
                // A panic of it was told to all that waited.
                drop(thread.join());
            }
        }
    }
}

/// Makes the file under another name first, so that one of the right name is always whole.
fn create(path: &Path, shown: &str) -> Result<(), OpenError> {
    let io = |source| OpenError::Io { path: shown.to_owned(), source };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".new.{}", std::process::id()));
    let making = path.with_file_name(name);
    match std::fs::remove_file(&making) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    let database = Database::create(&making).map_err(|error| opening(shown, error))?;
    let founded = Embedded::found(&database);
    drop(database);
    founded.map_err(|reason| OpenError::Damaged { path: shown.to_owned(), reason })?;
    // Unlike a rename, a link never replaces what another process made meanwhile.
    let linked = std::fs::hard_link(&making, path);
    std::fs::remove_file(&making).map_err(io)?;
    match linked {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(io(error)),
        _ => {}
    }
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(io)
}

fn opening(shown: &str, error: DatabaseError) -> OpenError {
    let path = shown.to_owned();
    match error {
        DatabaseError::DatabaseAlreadyOpen => OpenError::InUse(path),
        DatabaseError::Storage(StorageError::Io(source))
            if !matches!(
                source.kind(),
                std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof
            ) =>
        {
            OpenError::Io { path, source }
        }
        other => OpenError::Damaged { path, reason: other.to_string() },
    }
}

fn shown(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Runs all jobs in one transaction, which is durable when this returns `Ok`.
fn commit(database: &Database, limits: &Limits, batch: &mut [Box<dyn Job>]) -> Result<(), String> {
    let mut txn = database.begin_write().map_err(shown)?;
    // Reopening after a crash then need not read the whole file.
    txn.set_quick_repair(true);
    let mut wrote = false;
    {
        let mut tables = Pending::new(Open::new(&txn)?);
        for job in batch {
            loop {
                let mut stage = Stage::new(&tables, limits);
                let apply = job.run(&mut stage);
                let writes = stage.into_writes();
                tables.below().check()?;
                if tables.is_scanned() {
                    tables.flush()?;
                    continue;
                }
                if apply && !writes.is_empty() {
                    tables.apply(writes);
                    wrote = true;
                }
                break;
            }
        }
        tables.flush()?;
    }
    if wrote { txn.commit().map_err(shown) } else { txn.abort().map_err(shown) }
}

/// The open tables of a write transaction.
struct Open<'t> {
    tables: Vec<redb::Table<'t, &'static [u8], &'static [u8]>>,
    fault: Fault,
}

impl<'t> Open<'t> {
    fn new(txn: &'t redb::WriteTransaction) -> Result<Self, String> {
        let open = |table| txn.open_table(definition(table)).map_err(shown);
        let tables = Table::ALL.into_iter().map(open).collect::<Result<_, _>>()?;
        Ok(Open { tables, fault: Fault::default() })
    }

    /// Whether all reads succeeded: a rule's answer after a failed one means nothing.
    fn check(&self) -> Result<(), String> {
        self.fault.first.borrow().clone().map_or(Ok(()), Err)
    }
}

impl Below for Open<'_> {
    fn write(&mut self, table: Table, key: &[u8], row: Option<&[u8]>) -> Result<(), String> {
        let table = &mut self.tables[table as usize];
        match row {
            Some(row) => table.insert(key, row).map(drop),
            None => table.remove(key).map(drop),
        }
        .map_err(shown)
    }
}

impl Read for Open<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        get(&self.tables[table as usize], key, &self.fault)
    }

    fn scan(&self, table: Table, from: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
        scan(&self.tables[table as usize], from, visit, &self.fault)
    }
}

/// The tables as they were at one moment.
struct Snapshot {
    tables: Vec<redb::ReadOnlyTable<&'static [u8], &'static [u8]>>,
    fault: Fault,
}

impl Snapshot {
    fn take(database: &Database) -> Result<Self, String> {
        use redb::ReadableDatabase;
        let txn = database.begin_read().map_err(shown)?;
        let open = |table| {
            txn.open_table(definition(table)).map_err(|error: TableError| error.to_string())
        };
        let tables = Table::ALL.into_iter().map(open).collect::<Result<_, _>>()?;
        Ok(Snapshot { tables, fault: Fault::default() })
    }
}

impl Read for Snapshot {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        get(&self.tables[table as usize], key, &self.fault)
    }

    fn scan(&self, table: Table, from: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
        scan(&self.tables[table as usize], from, visit, &self.fault)
    }
}

/// The first failure of the storage below.
#[derive(Default)]
struct Fault {
    first: RefCell<Option<String>>,
}

impl Fault {
    fn note(&self, error: StorageError) -> Error {
        let reason = error.to_string();
        self.first.borrow_mut().get_or_insert_with(|| reason.clone());
        Error::Stopped(reason)
    }
}

type Bytes = &'static [u8];

fn get(
    table: &impl ReadableTable<Bytes, Bytes>,
    key: &[u8],
    fault: &Fault,
) -> Result<Option<Vec<u8>>, Error> {
    let found = table.get(key).map_err(|error| fault.note(error))?;
    Ok(found.map(|bytes| bytes.value().to_vec()))
}

fn scan(
    table: &impl ReadableTable<Bytes, Bytes>,
    from: &[u8],
    visit: &mut Visit<'_>,
    fault: &Fault,
) -> Result<(), Error> {
    for row in table.range(from..).map_err(|error| fault.note(error))? {
        let (key, bytes) = row.map_err(|error| fault.note(error))?;
        if !visit(key.value(), bytes.value())? {
            break;
        }
    }
    Ok(())
}
