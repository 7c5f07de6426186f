use std::path::Path;
use std::sync::Arc;

use redb::{Database, Durability, ReadableTable, TableDefinition};

use crate::contest;
use crate::wire::{VERSION, key, put_key};
use crate::{Change, Key};
use proto::codec::Decoder;

const KEYS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("keys");
const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers");

/// Revisions are promised in such steps: one write of the promise covers so many changes that
/// need not be stored one by one.
const STEP: u64 = 1 << 20;

/// The state of a coordinator in a file that survives its process at any moment.
///
/// Settings and places in lines are on the disk before anybody hears of them. What a node says of
/// itself may be lost with the process: its node says it again.
pub(super) struct StateFile {
    database: Database,
    promised: u64,
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct FileError(String);

fn failed(error: impl std::fmt::Display) -> FileError {
    FileError(error.to_string())
}

/// Revision and keys.
pub(super) type Stored = (u64, Vec<(Arc<str>, Key)>);

impl StateFile {
    /// Opens the file, or makes it; its revisions begin above `first`.
    pub fn open(path: &Path, first: u64) -> Result<(StateFile, Stored), FileError> {
        let database = Database::create(path).map_err(failed)?;
        let write = database.begin_write().map_err(failed)?;
        let mut revision = first;
        let mut all = Vec::new();
        {
            let mut numbers = write.open_table(NUMBERS).map_err(failed)?;
            let version = numbers.get("version").map_err(failed)?.map(|version| version.value());
            match version {
                None => drop(numbers.insert("version", VERSION).map_err(failed)?),
                Some(VERSION) => {}
                Some(other) => return Err(FileError(format!("is of version {other}"))),
            }
            if let Some(promised) = numbers.get("promised").map_err(failed)? {
                revision = promised.value();
            }
            numbers.insert("promised", revision + STEP).map_err(failed)?;
            let keys = write.open_table(KEYS).map_err(failed)?;
            for item in keys.iter().map_err(failed)? {
                let (name, value) = item.map_err(failed)?;
                all.push((
                    name.value().into(),
                    key(&mut Decoder::new(value.value())).map_err(failed)?,
                ));
            }
        }
        write.commit().map_err(failed)?;
        Ok((StateFile { database, promised: revision + STEP }, (revision, all)))
    }

    /// Stores changes, the last of which made `revision`.
    pub fn write(&mut self, revision: u64, changes: &[Change]) -> Result<(), FileError> {
        let lasting = |change: &Change| {
            change.key.starts_with(contest::PREFIX)
                || change.now.as_ref().is_none_or(|now| now.owner.is_none())
        };
        let promise = revision >= self.promised;
        let mut write = self.database.begin_write().map_err(failed)?;
        if !promise && !changes.iter().any(lasting) {
            write.set_durability(Durability::None).map_err(failed)?;
        }
        {
            let mut keys = write.open_table(KEYS).map_err(failed)?;
            for change in changes {
                match &change.now {
                    Some(now) => {
                        let mut value = Vec::new();
                        put_key(&mut value, now);
                        keys.insert(&*change.key, &*value).map_err(failed)?;
                    }
                    None => drop(keys.remove(&*change.key).map_err(failed)?),
                }
            }
            if promise {
                let mut numbers = write.open_table(NUMBERS).map_err(failed)?;
                numbers.insert("promised", revision + STEP).map_err(failed)?;
            }
        }
        write.commit().map_err(failed)?;
        if promise {
            self.promised = revision + STEP;
        }
        Ok(())
    }
}
