//! Copies of a whole store: written from any backend, read into any other.
//!
//! The bytes are described in `docs/store-format.md`. A copy is of one moment only if no node
//! writes meanwhile: whoever makes one sees to that.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom, Write};

use ring::digest::{Context, SHA256};

use crate::answer::Answer;
use crate::error::Error;
use crate::proxy;
use crate::rules::{self, raw};
use crate::store::Store;
use crate::types::{Entity, Key};

const MAGIC: &[u8; 8] = b"MSTYDUMP";
const VERSION: u32 = 1;
/// Magic, version, store format, time, checksum.
const HEAD_BYTES: usize = 8 + 4 + 8 + 8 + 4;
const BLOCK: u8 = 1;
const END: u8 = 0;
/// What a block is filled up to.
const BLOCK_BYTES: usize = 1 << 20;
/// A longer one is refused before it is read: a row has at most one entity's documents.
const BLOCK_BYTES_MAX: usize = 64 << 20;

/// Where a row stands: tables in the order of their numbers, keys within them as bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Number of the table.
    pub table: u8,
    /// The key.
    pub key: Vec<u8>,
}

/// A row as it is stored, with its version and checksum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawRow {
    /// Where.
    pub place: Place,
    /// What.
    pub bytes: Vec<u8>,
}

impl RawRow {
    /// The entity that stands in the row; `None` if it is one of another table.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`].
    pub fn entity(&self) -> Result<Option<(Key, Entity)>, Error> {
        raw::entity(&self.place, &self.bytes)
    }
}

/// What a copy holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DumpSummary {
    /// When it was made: milliseconds since 1970 by the clock of whoever made it.
    pub at_ms: u64,
    /// Its rows by table.
    pub rows: BTreeMap<&'static str, u64>,
    /// SHA-256 of everything before it.
    pub digest: [u8; 32],
}

impl DumpSummary {
    fn mark(&self) -> u64 {
        u64::from_le_bytes(*self.digest.first_chunk().expect("32 bytes"))
    }
}

/// Why a copy was not made or not taken. Each variant says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DumpError {
    /// The file cannot be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The store below.
    #[error(transparent)]
    Store(#[from] Error),
    /// The file is another program's.
    #[error("it is no copy of a store: it does not begin with MSTYDUMP")]
    Foreign,
    /// Use the release that wrote it, or a later one.
    #[error("it has {what} {found}, this release knows up to {known}")]
    Newer {
        /// What is newer.
        what: &'static str,
        /// What it has.
        found: u64,
        /// What is known here.
        known: u64,
    },
    /// Use another copy: nothing of this one was taken.
    #[error("it is damaged near byte {at}: {what}")]
    Damaged {
        /// Offset in the file.
        at: u64,
        /// What does not fit.
        what: String,
    },
    /// Import into an empty store, or say that what is there is to be replaced.
    #[error("the store is not empty")]
    NotEmpty,
    /// The file was changed between its check and its reading; run the import again.
    #[error("the file was changed while it was read")]
    Changed,
}

impl Store {
    /// The rows after a place as they are stored, in the order of tables and keys, until they are
    /// `bytes_max` together (64 MiB at most); none: that was all. Rows that only one backend has are left out.
    ///
    /// Errors: [`Error::Corrupt`] for a row that cannot be read.
    pub fn rows(&self, after: Option<Place>, bytes_max: usize) -> Answer<Vec<RawRow>> {
        if let Some(proxy) = self.behind() {
            return proxy.ask(&proxy::Rows { after, bytes_max });
        }
        let bytes_max = bytes_max.min(BLOCK_BYTES_MAX);
        self.read(move |s| raw::page(s, after.as_ref(), bytes_max))
    }

    fn begin_import(&self, mark: u64, replace: bool) -> Answer<bool> {
        self.submit(SMALL, move |s| raw::begin(s, mark, replace))
    }

    fn clear_some(&self) -> Answer<usize> {
        self.submit(SMALL, |s| raw::clear(s, BLOCK_BYTES))
    }

    fn fill(&self, rows: Vec<RawRow>, mark: u64) -> Answer<()> {
        let bytes = rows.iter().map(|row| row.place.key.len() + row.bytes.len()).sum::<usize>();
        self.submit(SMALL + bytes, move |s| raw::fill(s, &rows, mark))
    }

    fn end_import(&self, mark: u64) -> Answer<()> {
        self.submit(SMALL, move |s| raw::end(s, mark))
    }

    /// Writes a copy of everything. `at_ms` is the time that it will carry.
    ///
    /// # Errors
    ///
    /// What cannot be read or written; `out` holds a part then, which no import takes.
    pub fn export(&self, out: &mut dyn Write, at_ms: u64) -> Result<DumpSummary, DumpError> {
        let mut sink = Sink { out, sum: Context::new(&SHA256) };
        let mut head = Vec::with_capacity(HEAD_BYTES);
        head.extend_from_slice(MAGIC);
        head.extend_from_slice(&VERSION.to_le_bytes());
        head.extend_from_slice(&rules::FORMAT_VERSION.to_le_bytes());
        head.extend_from_slice(&at_ms.to_le_bytes());
        head.extend_from_slice(&crc32fast::hash(&head).to_le_bytes());
        sink.write(&head)?;
        let (mut summary, mut after) = (DumpSummary { at_ms, ..DumpSummary::default() }, None);
        loop {
            let rows = self.rows(after, BLOCK_BYTES).wait()?;
            let Some(last) = rows.last() else { break };
            after = Some(last.place.clone());
            sink.block(&rows)?;
            summary.count(&rows);
        }
        let total: u64 = summary.rows.values().sum();
        sink.write(&[END])?;
        sink.write(&total.to_le_bytes())?;
        summary.digest = digest(sink.sum);
        out.write_all(&summary.digest)?;
        out.flush()?;
        Ok(summary)
    }

    /// Takes a copy into this store, which must be empty unless `replace`. Not through data processes: what
    /// one of them was asked and does late would remove what another has filled in.
    ///
    /// The whole copy is checked before anything is written. While rows are written, the store lets no
    /// node beat; an import that broke off is simply run again. What the copy's nodes owned is
    /// theirs until they are declared dead.
    ///
    /// # Errors
    ///
    /// See [`DumpError`].
    pub fn import<F: Read + Seek>(
        &self,
        file: &mut F,
        replace: bool,
    ) -> Result<DumpSummary, DumpError> {
        let start = file.stream_position()?;
        let checked = check(file)?;
        let mark = checked.mark();
        if !self.begin_import(mark, replace).wait()? {
            return Err(DumpError::NotEmpty);
        }
        while self.clear_some().wait()? > 0 {}
        file.seek(SeekFrom::Start(start))?;
        let taken = read(file, &mut |rows| Ok(self.fill(rows, mark).wait()?))?;
        if taken != checked {
            return Err(DumpError::Changed);
        }
        self.end_import(mark).wait()?;
        Ok(taken)
    }
}

const SMALL: usize = 128;

/// Reads a copy to its end and says what it holds, if every part of it is as it was written.
///
/// # Errors
///
/// See [`DumpError`].
pub fn check(file: &mut dyn Read) -> Result<DumpSummary, DumpError> {
    read(file, &mut |_| Ok(()))
}

/// Shows all rows of a copy, block by block. What is shown counts only if this returns `Ok`.
///
/// # Errors
///
/// See [`DumpError`], and what `see` says.
pub fn read(
    file: &mut dyn Read,
    see: &mut dyn FnMut(Vec<RawRow>) -> Result<(), DumpError>,
) -> Result<DumpSummary, DumpError> {
    let mut source = Source { file, at: 0, sum: Context::new(&SHA256) };
    let head = source.array::<HEAD_BYTES>()?;
    if &head[..8] != MAGIC {
        return Err(DumpError::Foreign);
    }
    if u32_at(&head, HEAD_BYTES - 4) != crc32fast::hash(&head[..HEAD_BYTES - 4]) {
        return Err(source.damaged("the head has a wrong checksum"));
    }
    newer("copy format", u64::from(u32_at(&head, 8)), u64::from(VERSION))?;
    newer("store format", u64_at(&head, 12), rules::FORMAT_KNOWN)?;
    let mut summary = DumpSummary { at_ms: u64_at(&head, 20), ..DumpSummary::default() };
    let mut last: Option<Place> = None;
    loop {
        match source.array::<1>()? {
            [BLOCK] => {
                let rows = source.block()?;
                for row in &rows {
                    if last.as_ref().is_some_and(|last| *last >= row.place) {
                        return Err(source.damaged("its rows are out of order"));
                    }
                    last = Some(row.place.clone());
                }
                summary.count(&rows);
                see(rows)?;
            }
            [END] => break,
            _ => return Err(source.damaged("a block of an unknown kind")),
        }
    }
    let total = u64::from_le_bytes(source.array()?);
    if total != summary.rows.values().sum::<u64>() {
        return Err(source.damaged("the number of its rows is wrong"));
    }
    summary.digest = digest(source.sum.clone());
    if source.array::<32>()? != summary.digest {
        return Err(source.damaged("its digest is wrong"));
    }
    if source.file.read(&mut [0])? != 0 {
        return Err(source.damaged("something follows its end"));
    }
    Ok(summary)
}

fn newer(what: &'static str, found: u64, known: u64) -> Result<(), DumpError> {
    if found > known { Err(DumpError::Newer { what, found, known }) } else { Ok(()) }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn digest(sum: Context) -> [u8; 32] {
    sum.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

impl DumpSummary {
    fn count(&mut self, rows: &[RawRow]) {
        for row in rows {
            let table = raw::table(row.place.table).map_or("?", |table| table.name());
            *self.rows.entry(table).or_default() += 1;
        }
    }
}

struct Sink<'o> {
    out: &'o mut dyn Write,
    sum: Context,
}

impl Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sum.update(bytes);
        self.out.write_all(bytes)
    }

    fn block(&mut self, rows: &[RawRow]) -> io::Result<()> {
        let mut body = Vec::with_capacity(BLOCK_BYTES + BLOCK_BYTES / 8);
        for RawRow { place, bytes } in rows {
            body.push(place.table);
            for part in [&place.key, bytes] {
                body.extend_from_slice(&(part.len() as u32).to_le_bytes());
                body.extend_from_slice(part);
            }
        }
        self.write(&[BLOCK])?;
        self.write(&(body.len() as u32).to_le_bytes())?;
        self.write(&crc32fast::hash(&body).to_le_bytes())?;
        self.write(&body)
    }
}

struct Source<'f> {
    file: &'f mut dyn Read,
    at: u64,
    sum: Context,
}

impl Source<'_> {
    fn damaged(&self, what: &str) -> DumpError {
        DumpError::Damaged { at: self.at, what: what.to_owned() }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DumpError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), DumpError> {
        match self.file.read_exact(bytes) {
            Ok(()) => {
                self.sum.update(bytes);
                self.at += bytes.len() as u64;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(self.damaged("it ends in the middle"))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn block(&mut self) -> Result<Vec<RawRow>, DumpError> {
        let length = u32::from_le_bytes(self.array()?) as usize;
        if length > BLOCK_BYTES_MAX {
            return Err(self.damaged("a block is longer than any"));
        }
        let sum = u32::from_le_bytes(self.array()?);
        let mut body = Vec::new();
        // In pieces, so that a wrong length costs no more memory than there are bytes.
        while body.len() < length {
            let from = body.len();
            body.resize(length.min(from + BLOCK_BYTES), 0);
            self.fill(&mut body[from..])?;
        }
        if crc32fast::hash(&body) != sum {
            return Err(self.damaged("a block has a wrong checksum"));
        }
        rows_of(&body).ok_or_else(|| self.damaged("a row of a block cannot be read"))
    }
}

fn rows_of(mut body: &[u8]) -> Option<Vec<RawRow>> {
    fn blob(body: &mut &[u8]) -> Option<Vec<u8>> {
        let (length, rest) = body.split_first_chunk::<4>()?;
        let (bytes, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        *body = rest;
        Some(bytes.to_vec())
    }
    let mut rows = Vec::new();
    while let Some((&table, rest)) = body.split_first() {
        body = rest;
        let (key, bytes) = (blob(&mut body)?, blob(&mut body)?);
        raw::check(raw::table(table)?, &key, &bytes).ok()?;
        rows.push(RawRow { place: Place { table, key }, bytes });
    }
    Some(rows)
}
