use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
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

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    /// The disk failed or is full, or somebody else has the file: what it holds is still there.
    #[error("{0}")]
    Disk(String),
    /// What it holds cannot be read.
    #[error("{0}")]
    Damaged(String),
}

/// What is said of the file's bytes, else of its disk.
fn failed(error: impl Into<redb::Error>) -> FileError {
    match error.into() {
        redb::Error::Io(error)
            if !matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) =>
        {
            FileError::Disk(error.to_string())
        }
        error @ (redb::Error::PreviousIo | redb::Error::DatabaseAlreadyOpen) => {
            FileError::Disk(error.to_string())
        }
        error => damaged(error),
    }
}

fn damaged(error: impl std::fmt::Display) -> FileError {
    FileError::Damaged(error.to_string())
}

/// Revision and keys.
pub(super) type Stored = (u64, Vec<(Arc<str>, Key)>);

impl StateFile {
    /// Opens the file, or makes it; its revisions begin above `first`.
    pub fn open(path: &Path, first: u64) -> Result<(StateFile, Stored), FileError> {
        // Where bytes are not what they were, the database may also panic.
        let opened = catch_unwind(AssertUnwindSafe(|| StateFile::check_and_read(path, first)));
        opened.unwrap_or_else(|_| Err(damaged("it makes no sense")))
    }

    fn check_and_read(path: &Path, first: u64) -> Result<(StateFile, Stored), FileError> {
        if std::fs::metadata(path).is_ok_and(|found| found.len() == 0) {
            return Err(damaged("it is empty"));
        }
        let mut database = Database::create(path).map_err(failed)?;
        // All checksums: a flipped bit in a setting would be another setting.
        if !database.check_integrity().map_err(failed)? {
            return Err(damaged("its checksums do not fit"));
        }
        let write = database.begin_write().map_err(failed)?;
        let mut revision = first;
        let mut all = Vec::new();
        {
            let mut numbers = write.open_table(NUMBERS).map_err(failed)?;
            let version = numbers.get("version").map_err(failed)?.map(|version| version.value());
            match version {
                None => drop(numbers.insert("version", VERSION).map_err(failed)?),
                Some(VERSION) => {}
                Some(other) => return Err(damaged(format!("is of version {other}"))),
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
                    key(&mut Decoder::new(value.value())).map_err(damaged)?,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn change(revision: u64, key: &str, value: Vec<u8>) -> Change {
        let now = Key { value: value.into(), created: revision, changed: revision, owner: None };
        Change { revision, key: key.into(), now: Some(now) }
    }

    /// A flipped bit in the file was another setting, and nothing said so.
    #[test]
    fn flipped_bits_and_cuts_in_the_state_are_found_or_harmless() {
        let folder = std::env::temp_dir().join(format!("mainstay-state-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("state");
        let (mut file, _) = StateFile::open(&path, 1).unwrap();
        for n in 1..=40 {
            let value = format!("the value of setting {n}").into_bytes();
            file.write(n, &[change(n, &format!("config/setting-{n}"), value)]).unwrap();
        }
        drop(file);
        let (file, (_, kept)) = StateFile::open(&path, 1).unwrap();
        drop(file);
        assert_eq!(kept.len(), 40);
        let whole = std::fs::read(&path).unwrap();
        let filled: Vec<usize> = (0..whole.len()).filter(|&at| whole[at] != 0).collect();
        let mut random = env::Random::from_seed(5);
        let mut refused = 0;
        for round in 0..80 {
            let mut bytes = whole.clone();
            if round < 60 {
                bytes[*random.pick(&filled).unwrap()] ^= 1 << random.below(8);
            } else {
                bytes.truncate(random.below(whole.len() as u64) as usize);
            }
            std::fs::write(&path, &bytes).unwrap();
            match StateFile::open(&path, 1) {
                Ok((_, (_, seen))) => assert!(seen == kept, "other settings were served"),
                Err(FileError::Damaged(_)) => refused += 1,
                Err(error) => panic!("taken for a fault of the disk: {error}"),
            }
        }
        assert!(refused > 10, "only {refused} of 80 were found");
        // Each place where a value stands, one of which is what is read.
        let value = b"the value of setting 7";
        let at = |at: &usize| whole[*at..].starts_with(value);
        let places: Vec<usize> = (0..whole.len()).filter(at).collect();
        let is_found = |place: &usize| {
            let mut bytes = whole.clone();
            bytes[place + 4] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
            StateFile::open(&path, 1).map(|(_, (_, seen))| assert!(seen == kept)).is_err()
        };
        assert!(places.iter().filter(|place| is_found(place)).count() > 0, "of {places:?}");
        std::fs::write(&path, "").unwrap();
        assert!(matches!(StateFile::open(&path, 1), Err(FileError::Damaged(_))));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
