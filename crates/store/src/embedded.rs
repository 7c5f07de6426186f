//! A shard in a redb file, behind a thread that commits what waits in one durable transaction.

use std::cell::RefCell;
use std::path::Path;
use std::sync::{Arc, Weak};

use redb::{Database, DatabaseError, ReadableTable, StorageError, TableDefinition, TableError};

use crate::answer::Sender;
use crate::error::{Error, OpenError};
use crate::ledger::Verdict;
use crate::options::{Limits, Options};
use crate::queue::{Failed, Job, Queue, serve};
use crate::rules;
use crate::tables::{Batch, Read, Stage, Table, Visit};
use crate::thread::{Thread, check_format, create_once};

#[cfg(test)]
mod tests;

type Definition = TableDefinition<'static, &'static [u8], &'static [u8]>;

fn definition(table: Table) -> Definition {
    TableDefinition::new(table.name())
}

/// The store's file and its thread.
pub(crate) struct Embedded {
    thread: Thread,
    /// Held for a snapshot only; the thread owns the database and closes it as it ends.
    database: Weak<Database>,
    limits: Limits,
}

impl Embedded {
    pub fn open(path: &Path, options: Options) -> Result<Self, OpenError> {
        let shown = path.display().to_string();
        create_once(path, |making| {
            let database = Database::create(making).map_err(|error| opening(&shown, error))?;
            let founded = Embedded::found(&database);
            founded.map_err(|reason| OpenError::Damaged { path: shown.clone(), reason })
        })?;
        let mut builder = Database::builder();
        builder.set_cache_size(options.cache_bytes);
        let database = builder.open(path).map_err(|error| opening(&shown, error))?;
        Self::start(database, &shown, options)
    }

    /// Checks what is stored and starts the thread.
    pub fn start(database: Database, shown: &str, options: Options) -> Result<Self, OpenError> {
        let damaged = |reason: String| OpenError::Damaged { path: shown.to_owned(), reason };
        complete(&database).map_err(damaged)?;
        let snapshot = Snapshot::take(&database).map_err(damaged)?;
        check_format(shown, rules::format(&Stage::new(&snapshot, &options.limits)))?;
        drop(snapshot);
        let (database, limits) = (Arc::new(database), options.limits.clone());
        let weak = Arc::downgrade(&database);
        let queue = Arc::new(Queue::new(options));
        let of_thread = Arc::clone(&queue);
        let thread = Thread::start(queue, move || {
            serve(&of_thread, |limits, batch| {
                commit(&database, limits, batch).map_err(Failed::Broken)
            });
        });
        let thread = thread.map_err(|source| OpenError::Io { path: shown.to_owned(), source })?;
        Ok(Embedded { thread, database: weak, limits })
    }

    /// Makes the tables of a new store; the database is durable afterwards.
    pub fn found(database: &Database) -> Result<(), String> {
        let txn = database.begin_write().map_err(shown)?;
        {
            let mut rows = Batch::new(Open::new(&txn)?);
            let limits = Limits::default();
            let mut stage = Stage::new(&rows, &limits);
            rules::found(&mut stage);
            let writes = stage.into_writes();
            rows.apply(writes);
            rows.write()?;
        }
        txn.commit().map_err(shown)
    }

    pub fn thread(&self) -> &Thread {
        &self.thread
    }

    /// Reads the whole of one snapshot, one at a time.
    pub fn verify(&self, sender: Sender<Verdict>) {
        self.thread.verify(sender, || {
            let (database, limits) = (self.database.upgrade()?, self.limits.clone());
            // The database is closed before the answer: whoever hears it may open the file anew.
            Some(move || {
                Snapshot::take(&database)
                    .map_err(Error::Stopped)
                    .and_then(|snapshot| rules::verify(&mut Stage::new(&snapshot, &limits)))
            })
        });
    }
}

/// Adds the table that a store of an earlier release has not: slots came after records.
fn complete(database: &Database) -> Result<(), String> {
    use redb::{ReadableDatabase, TableHandle};
    let names = database.begin_read().map_err(shown)?;
    let names = names.list_tables().map_err(shown)?;
    let names: Vec<String> = names.map(|table| table.name().to_owned()).collect();
    let has = |table: Table| names.iter().any(|name| name == table.name());
    if !has(Table::Record) || has(Table::Slot) {
        return Ok(());
    }
    let txn = database.begin_write().map_err(shown)?;
    drop(txn.open_table(definition(Table::Slot)).map_err(shown)?);
    txn.commit().map_err(shown)
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
        let mut rows = Batch::new(Open::new(&txn)?);
        for job in batch {
            let mut stage = Stage::new(&rows, limits);
            let apply = job.run(&mut stage);
            let writes = stage.into_writes();
            rows.under.check()?;
            if apply && !writes.is_empty() {
                rows.apply(writes);
                wrote = true;
            }
        }
        rows.write()?;
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

impl Batch<Open<'_>> {
    fn write(self) -> Result<(), String> {
        let (mut open, written) = self.into_parts();
        for ((table, key), bytes) in written {
            let table = &mut open.tables[table as usize];
            match bytes {
                Some(bytes) => table.insert(key.as_slice(), bytes.as_slice()).map(drop),
                None => table.remove(key.as_slice()).map(drop),
            }
            .map_err(shown)?;
        }
        Ok(())
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
