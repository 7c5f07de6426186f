use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;

use jiff::civil::Date;
use jiff::tz::TimeZone;

/// Files that roll by date and by size.
#[derive(Clone, Debug)]
pub struct RollOptions {
    /// Folder; made if it is missing.
    pub folder: PathBuf,
    /// Start of the file names. Give each process its own, such as its node's name.
    pub name: String,
    /// A file that would grow beyond this is closed and the next begun, in bytes.
    pub file_bytes_max: u64,
    /// Files kept; older ones are deleted.
    pub files_max: usize,
}

/// Writes to `NAME.DATE.PID.N.log`: two processes never share a file, even under one name.
pub(super) struct Roll {
    options: RollOptions,
    date: Date,
    number: u32,
    file: File,
    written: u64,
    today: Box<dyn Fn() -> Date + Send>,
}

impl Roll {
    pub(super) fn open(options: RollOptions) -> io::Result<Roll> {
        let today = || jiff::Timestamp::now().to_zoned(TimeZone::UTC).date();
        Roll::open_on(options, Box::new(today))
    }

    fn open_on(options: RollOptions, today: Box<dyn Fn() -> Date + Send>) -> io::Result<Roll> {
        fs::create_dir_all(&options.folder)?;
        let date = today();
        let (file, number) = create(&options, date, 0)?;
        let roll = Roll { options, date, number, file, written: 0, today };
        roll.remove_old();
        Ok(roll)
    }

    fn roll_if_due(&mut self, next: usize) -> io::Result<()> {
        let date = (self.today)();
        let full = self.written > 0 && self.written + next as u64 > self.options.file_bytes_max;
        if date == self.date && !full {
            return Ok(());
        }
        let from = if date == self.date { self.number + 1 } else { 0 };
        (self.file, self.number) = create(&self.options, date, from)?;
        self.date = date;
        self.written = 0;
        self.remove_old();
        Ok(())
    }

    /// Names sort by date, so the first are the oldest. Failing to delete is no reason to stop.
    fn remove_old(&self) {
        let Ok(entries) = fs::read_dir(&self.options.folder) else { return };
        let prefix = format!("{}.", self.options.name);
        let ours = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
            name.starts_with(&prefix) && name.ends_with(".log")
        };
        let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(ours).collect();
        files.sort_by_key(|path| fs::metadata(path).and_then(|meta| meta.modified()).ok());
        let surplus = files.len().saturating_sub(self.options.files_max.max(1));
        for path in &files[..surplus] {
            let _ = fs::remove_file(path);
        }
    }
}

impl Write for Roll {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.roll_if_due(bytes.len())?;
        self.file.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn create(options: &RollOptions, date: Date, from: u32) -> io::Result<(File, u32)> {
    let process = std::process::id();
    for number in from.. {
        let name = format!("{}.{date}.{process}.{number:04}.log", options.name);
        let path = options.folder.join(name);
        match OpenOptions::new().write(true).create_new(true).open(path) {
            Ok(file) => return Ok((file, number)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI8, Ordering};

    use super::*;

    #[test]
    fn a_new_day_begins_a_new_file() {
        let folder = std::env::temp_dir().join(format!("mainstay-days-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        let options = RollOptions {
            folder: folder.clone(),
            name: "node".to_owned(),
            file_bytes_max: 100,
            files_max: 9,
        };
        let day = Arc::new(AtomicI8::new(30));
        let today = {
            let day = day.clone();
            move || Date::constant(2026, 11, day.load(Ordering::Relaxed))
        };
        let mut roll = Roll::open_on(options, Box::new(today)).unwrap();
        roll.write_all(b"of the 30th\n").unwrap();
        roll.write_all(b"also of the 30th\n").unwrap();
        day.store(29, Ordering::Relaxed);
        roll.write_all(b"the clock was set back\n").unwrap();
        let mut files: Vec<_> = fs::read_dir(&folder)
            .unwrap()
            .flatten()
            .map(|file| {
                let name = file.file_name().to_string_lossy().into_owned();
                (name[..15].to_owned(), fs::read_to_string(file.path()).unwrap())
            })
            .collect();
        files.sort();
        let expected = [
            ("node.2026-11-29", "the clock was set back\n"),
            ("node.2026-11-30", "of the 30th\nalso of the 30th\n"),
        ];
        assert_eq!(files, expected.map(|(name, text)| (name.to_owned(), text.to_owned())));
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn files_roll_by_size_and_old_ones_go() {
        let folder = std::env::temp_dir().join(format!("mainstay-roll-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        let options = RollOptions {
            folder: folder.clone(),
            name: "node".to_owned(),
            file_bytes_max: 100,
            files_max: 3,
        };
        let mut roll = Roll::open(options.clone()).unwrap();
        let mut second = Roll::open(options).unwrap();
        for n in 0..20 {
            writeln!(roll, "{n:039}").unwrap();
            writeln!(second, "{n:039}").unwrap();
        }
        let files: Vec<_> = fs::read_dir(&folder).unwrap().flatten().collect();
        assert!(files.len() <= 4, "{files:?}");
        assert!(files.iter().all(|file| file.metadata().unwrap().len() <= 100));
        fs::remove_dir_all(folder).unwrap();
    }
}
