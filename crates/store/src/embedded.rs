//! A shard in a redb file, behind two threads that commit what waits in durable transactions.

use std::cell::{OnceCell, RefCell};
use std::path::Path;
use std::sync::{Arc, Weak};

use redb::{
    Database, DatabaseError, ReadOnlyTable, ReadableTable, StorageError, TableDefinition,
    WriteTransaction,
};

use crate::answer::Sender;
use crate::error::{Error, OpenError};
use crate::ledger::Verdict;
use crate::options::{Limits, Options};
use crate::queue::Queue;
use crate::rules;
use crate::tables::{Batch, MemoryTables, Read, See, Stage, Table, Visit, Written};
use crate::thread::{Thread, check_format, create_once};

use pipeline::Pipeline;

mod pipeline;
#[cfg(test)]
mod tests;

type Bytes = &'static [u8];
type Definition = TableDefinition<'static, Bytes, Bytes>;

fn definition(table: Table) -> Definition {
    TableDefinition::new(table.name())
}

/// The store's file and its threads.
pub(crate) struct Embedded {
    thread: Thread,
    /// Held for a snapshot only; the threads own the database and close it as they end.
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

    /// Checks what is stored and starts the threads.
    pub fn start(database: Database, shown: &str, options: Options) -> Result<Self, OpenError> {
        let damaged = |reason: String| OpenError::Damaged { path: shown.to_owned(), reason };
        complete(&database).map_err(damaged)?;
        let snapshot = Snapshot::take(&database).map_err(damaged)?;
        check_format(shown, rules::format(&Stage::new(&snapshot, &options.limits)))?;
        drop(snapshot);
        let (database, limits) = (Arc::new(database), options.limits.clone());
        let weak = Arc::downgrade(&database);
        let queue = Arc::new(Queue::new(options));
        let pipeline = Arc::new(Pipeline::new(Arc::clone(&queue), database));
        let serve = |pipeline: Arc<Pipeline>| move || pipeline.serve();
        let thread = Thread::start(queue, [serve(Arc::clone(&pipeline)), serve(pipeline)]);
        let thread = thread.map_err(|source| OpenError::Io { path: shown.to_owned(), source })?;
        Ok(Embedded { thread, database: weak, limits })
    }

    /// Makes the tables of a new store; the database is durable afterwards.
    pub fn found(database: &Database) -> Result<(), String> {
        let txn = database.begin_write().map_err(shown)?;
        for table in Table::ALL {
            drop(txn.open_table(definition(table)).map_err(shown)?);
        }
        let mut rows = Batch::new(MemoryTables::default());
        let limits = Limits::default();
        let mut stage = Stage::new(&rows, &limits);
        rules::found(&mut stage);
        let writes = stage.into_staged();
        rows.apply(writes);
        Writing::new(&txn).write(&rows.into_parts().0)?;
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

/// The tables of a transaction that is being written.
struct Writing<'t> {
    txn: &'t WriteTransaction,
    /// Those that were read from or written to.
    tables: [OnceCell<redb::Table<'t, Bytes, Bytes>>; Table::ALL.len()],
    fault: Fault,
}

impl<'t> Writing<'t> {
    fn new(txn: &'t WriteTransaction) -> Self {
        Writing { txn, tables: Default::default(), fault: Fault::default() }
    }

    fn put(&mut self, table: Table, key: &[u8], bytes: Option<&[u8]>) -> Result<(), String> {
        self.table(table).map_err(shown)?;
        let table = self.tables[table as usize].get_mut().expect("it was opened above");
        match bytes {
            Some(bytes) => table.insert(key, bytes).map(drop),
            None => table.remove(key).map(drop),
        }
        .map_err(shown)
    }

    /// Puts a row where none is; leaves one that is there as it is, and says false.
    fn put_new(&mut self, table: Table, key: &[u8], bytes: &[u8]) -> Result<bool, String> {
        self.table(table).map_err(shown)?;
        let table = self.tables[table as usize].get_mut().expect("it was opened above");
        let old = table.insert(key, bytes).map_err(shown)?.map(|old| old.value().to_vec());
        if let Some(old) = &old {
            table.insert(key, old.as_slice()).map_err(shown)?;
        }
        Ok(old.is_none())
    }

    fn write(&mut self, written: &Written) -> Result<(), String> {
        for (table, rows) in written.tables() {
            for (key, bytes) in rows {
                self.put(table, &key, bytes)?;
            }
        }
        Ok(())
    }

    fn table(&self, table: Table) -> Result<&redb::Table<'t, Bytes, Bytes>, Error> {
        let cell = &self.tables[table as usize];
        if let Some(open) = cell.get() {
            return Ok(open);
        }
        let open =
            self.txn.open_table(definition(table)).map_err(|error| self.fault.note(error))?;
        Ok(cell.get_or_init(|| open))
    }
}

impl AsRef<Fault> for Writing<'_> {
    fn as_ref(&self) -> &Fault {
        &self.fault
    }
}

impl Read for Writing<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.fault.get(self.table(table)?, key)
    }

    fn see(&self, table: Table, key: &[u8], see: &mut See<'_>) -> Result<(), Error> {
        self.fault.see(self.table(table)?, key, see)
    }

    fn scan(&self, table: Table, from: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
        self.fault.scan(self.table(table)?, from, visit)
    }
}

/// The tables as they were at one moment.
struct Snapshot {
    txn: redb::ReadTransaction,
    /// Those that were read from.
    tables: [OnceCell<ReadOnlyTable<Bytes, Bytes>>; Table::ALL.len()],
    fault: Fault,
}

impl Snapshot {
    fn take(database: &Database) -> Result<Self, String> {
        use redb::ReadableDatabase;
        let txn = database.begin_read().map_err(shown)?;
        Ok(Snapshot { txn, tables: Default::default(), fault: Fault::default() })
    }

    fn table(&self, table: Table) -> Result<&ReadOnlyTable<Bytes, Bytes>, Error> {
        let cell = &self.tables[table as usize];
        if let Some(open) = cell.get() {
            return Ok(open);
        }
        let open =
            self.txn.open_table(definition(table)).map_err(|error| self.fault.note(error))?;
        Ok(cell.get_or_init(|| open))
    }
}

impl AsRef<Fault> for Snapshot {
    fn as_ref(&self) -> &Fault {
        &self.fault
    }
}

impl Read for Snapshot {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.fault.get(self.table(table)?, key)
    }

    fn see(&self, table: Table, key: &[u8], see: &mut See<'_>) -> Result<(), Error> {
        self.fault.see(self.table(table)?, key, see)
    }

    fn scan(&self, table: Table, from: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
        self.fault.scan(self.table(table)?, from, visit)
    }
}

/// The first failure of the storage below, which each reading notes.
#[derive(Default)]
struct Fault {
    first: RefCell<Option<String>>,
}

impl Fault {
    /// Whether all reads succeeded: a rule's answer after a failed one means nothing.
    fn check(&self) -> Result<(), String> {
        self.first.borrow().clone().map_or(Ok(()), Err)
    }

    fn note(&self, error: impl std::fmt::Display) -> Error {
        let reason = error.to_string();
        self.first.borrow_mut().get_or_insert_with(|| reason.clone());
        Error::Stopped(reason)
    }

    fn get(&self, rows: &impl Rows, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let found = rows.get(key).map_err(|error| self.note(error))?;
        Ok(found.map(|bytes| bytes.value().to_vec()))
    }

    fn see(&self, rows: &impl Rows, key: &[u8], see: &mut See<'_>) -> Result<(), Error> {
        let found = rows.get(key).map_err(|error| self.note(error))?;
        see(found.as_ref().map(|bytes| bytes.value()))
    }

    fn scan(&self, rows: &impl Rows, from: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
        for row in rows.range(from..).map_err(|error| self.note(error))? {
            let (key, bytes) = row.map_err(|error| self.note(error))?;
            if !visit(key.value(), bytes.value())? {
                break;
            }
        }
        Ok(())
    }
}

/// A table to read from.
trait Rows: ReadableTable<Bytes, Bytes> {}

impl<T: ReadableTable<Bytes, Bytes>> Rows for T {}
