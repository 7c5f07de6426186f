//! A shard in a SQLite file, behind a thread that commits what waits in one durable transaction.
//!
//! Several processes of one machine may have the file open: each transaction begins by taking
//! SQLite's write lock, so what a rule reads is what it writes over.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, TransactionBehavior, params};

use crate::answer::Sender;
use crate::error::{Error, OpenError};
use crate::ledger::Verdict;
use crate::options::{Limits, Options};
use crate::queue::{Job, Queue, StopOnEnd, Taken};
use crate::rules;
use crate::tables::{Batch, Read, Stage, Table, Visit, Written};
use crate::thread::{Thread, check_format, create_once, sync_folder};

/// How long a transaction waits for another process's before it is `Busy`.
const LOCK_WAIT: Duration = Duration::from_secs(2);
/// "MSYs": marks the file as one of ours.
const APPLICATION_ID: i32 = 0x4d53_5973;

/// The store's file and its thread.
pub(crate) struct Sqlite {
    thread: Thread,
    path: PathBuf,
    limits: Limits,
}

impl Sqlite {
    pub fn open(path: &Path, options: Options) -> Result<Self, OpenError> {
        let shown = path.display().to_string();
        create_once(path, |making| found(making).map_err(|error| damaged(&shown, &error)))?;
        let mut connection = connect(path).map_err(|error| damaged(&shown, &error))?;
        check(&mut connection, &shown, &options.limits)?;
        // SQLite passes over a failure to sync the folder in which it has just made its log.
        let io = |source| OpenError::Io { path: shown.clone(), source };
        sync_folder(path).map_err(io)?;
        let limits = options.limits.clone();
        let queue = Arc::new(Queue::new(options));
        let of_thread = Arc::clone(&queue);
        let thread = Thread::start(queue, [move || serve(&of_thread, &mut connection)]);
        let thread = thread.map_err(|source| OpenError::Io { path: shown, source })?;
        Ok(Sqlite { thread, path: path.to_owned(), limits })
    }

    pub fn thread(&self) -> &Thread {
        &self.thread
    }

    /// Reads the whole of one moment on a connection of its own, one at a time.
    pub fn verify(&self, sender: Sender<Verdict>) {
        self.thread.verify(sender, || {
            let (path, limits) = (self.path.clone(), self.limits.clone());
            Some(move || {
                let verdict = connect(&path).and_then(|mut connection| {
                    let txn = connection.transaction()?;
                    let rows = Rows { connection: &txn, fault: Fault::default() };
                    Ok(rules::verify(&mut Stage::new(&rows, &limits)))
                });
                verdict.unwrap_or_else(|error| Err(Error::Stopped(error.to_string())))
            })
        });
    }
}

/// Makes the tables; all is in the one file afterwards.
fn found(path: &Path) -> rusqlite::Result<()> {
    let mut connection = Connection::open(path)?;
    connection.pragma_update(None, "application_id", APPLICATION_ID)?;
    let txn = connection.transaction()?;
    for table in Table::ALL {
        let name = table.name();
        txn.execute_batch(&format!(
            "CREATE TABLE \"{name}\" (key BLOB PRIMARY KEY, row BLOB NOT NULL) WITHOUT ROWID"
        ))?;
    }
    let limits = Limits::default();
    let mut rows = Batch::new(Rows { connection: &txn, fault: Fault::default() });
    let mut stage = Stage::new(&rows, &limits);
    rules::found(&mut stage);
    let writes = stage.into_staged();
    rows.apply(writes);
    apply(&txn, &rows.into_parts().0)?;
    txn.commit()?;
    connection.close().map_err(|(_, error)| error)
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(LOCK_WAIT)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // Each commit is synced before it is answered.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.set_prepared_statement_cache_capacity(4 * Table::ALL.len());
    Ok(connection)
}

fn check(connection: &mut Connection, shown: &str, limits: &Limits) -> Result<(), OpenError> {
    let mark = connection.pragma_query_value(None, "application_id", |row| row.get::<_, i32>(0));
    if mark.map_err(|error| damaged(shown, &error))? != APPLICATION_ID {
        let (path, reason) = (shown.to_owned(), "it is another program's".to_owned());
        return Err(OpenError::Damaged { path, reason });
    }
    // Slots came after records: a store of an earlier release has no table for them.
    let add =
        "CREATE TABLE IF NOT EXISTS slot (key BLOB PRIMARY KEY, row BLOB NOT NULL) WITHOUT ROWID";
    let has = |name| connection.table_exists(None, name).map_err(|error| damaged(shown, &error));
    if has("record")? && !has("slot")? {
        connection.execute_batch(add).map_err(|error| damaged(shown, &error))?;
    }
    let txn = connection.transaction().map_err(|error| damaged(shown, &error))?;
    let rows = Rows { connection: &txn, fault: Fault::default() };
    check_format(shown, rules::format(&Stage::new(&rows, limits)))
}

fn damaged(shown: &str, error: &rusqlite::Error) -> OpenError {
    OpenError::Damaged { path: shown.to_owned(), reason: error.to_string() }
}

/// Why a batch was not done.
enum Failed {
    /// Nothing of it was done; it may be tried again.
    Busy,
    /// Nobody knows, and nothing after it can be believed.
    Broken(String),
}

/// Has batch after batch done until the queue is closed or the storage fails.
fn serve(queue: &Queue, connection: &mut Connection) {
    let _stop = StopOnEnd(queue);
    while let Some(Taken { jobs: mut batch, .. }) = queue.take() {
        match commit(connection, &queue.options.limits, &mut batch) {
            Ok(()) => batch.into_iter().for_each(Job::done),
            Err(Failed::Busy) => batch.into_iter().for_each(|job| job.refuse(Error::Busy)),
            Err(Failed::Broken(reason)) => {
                // The operating system may have thrown away what it could not write, and a second
                // sync may then say all is well: nothing after this can be believed.
                queue.stop(&reason);
                for job in batch {
                    job.refuse(Error::Unknown(reason.clone()));
                }
                return;
            }
        }
    }
}

/// Runs all jobs in one transaction, which is durable when this returns `Ok`.
fn commit(
    connection: &mut Connection,
    limits: &Limits,
    batch: &mut [Box<dyn Job>],
) -> Result<(), Failed> {
    let broken = |error: rusqlite::Error| Failed::Broken(error.to_string());
    let txn = connection.transaction_with_behavior(TransactionBehavior::Immediate);
    let txn = txn.map_err(|error| match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Failed::Busy,
        _ => Failed::Broken(error.to_string()),
    })?;
    let mut wrote = false;
    let mut rows = Batch::new(Rows { connection: &txn, fault: Fault::default() });
    for job in batch {
        let mut stage = Stage::new(&rows, limits);
        let is_done = job.run(&mut stage);
        let writes = stage.into_staged();
        if let Some(reason) = rows.under.fault.first.take() {
            return Err(Failed::Broken(reason));
        }
        if is_done && !writes.is_empty() {
            rows.apply(writes);
            wrote = true;
        }
    }
    apply(&txn, &rows.into_parts().0).map_err(broken)?;
    if wrote { txn.commit().map_err(broken) } else { txn.rollback().map_err(broken) }
}

fn apply(connection: &Connection, written: &Written) -> rusqlite::Result<()> {
    for (table, rows) in written.tables() {
        let name = table.name();
        for (key, bytes) in rows {
            match bytes {
                Some(bytes) => {
                    let sql =
                        format!("INSERT OR REPLACE INTO \"{name}\" (key, row) VALUES (?1, ?2)");
                    connection.prepare_cached(&sql)?.execute(params![&*key, bytes])?;
                }
                None => {
                    let sql = format!("DELETE FROM \"{name}\" WHERE key = ?1");
                    connection.prepare_cached(&sql)?.execute(params![&*key])?;
                }
            }
        }
    }
    Ok(())
}

/// The rows as one transaction sees them.
struct Rows<'c> {
    connection: &'c Connection,
    fault: Fault,
}

impl Read for Rows<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let sql = format!("SELECT row FROM \"{}\" WHERE key = ?1", table.name());
        let found = self.connection.prepare_cached(&sql).and_then(|mut statement| {
            statement.query_row(params![key], |row| row.get::<_, Vec<u8>>(0)).optional()
        });
        found.map_err(|error| self.fault.note(&error))
    }

    fn scan(&self, table: Table, from: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
        let name = table.name();
        let sql = format!("SELECT key, row FROM \"{name}\" WHERE key >= ?1 ORDER BY key");
        let note = |error| self.fault.note(&error);
        let mut statement = self.connection.prepare_cached(&sql).map_err(note)?;
        let mut rows = statement.query(params![from]).map_err(note)?;
        while let Some(row) = rows.next().map_err(note)? {
            let key = row.get::<_, Vec<u8>>(0).map_err(note)?;
            let bytes = row.get::<_, Vec<u8>>(1).map_err(note)?;
            if !visit(&key, &bytes)? {
                break;
            }
        }
        Ok(())
    }
}

/// The first failure of the storage below.
#[derive(Default)]
struct Fault {
    first: RefCell<Option<String>>,
}

impl Fault {
    fn note(&self, error: &rusqlite::Error) -> Error {
        let reason = error.to_string();
        self.first.borrow_mut().get_or_insert_with(|| reason.clone());
        Error::Stopped(reason)
    }
}
