//! The sub-documents of one entity in memory, next to what was last given to the store.

use std::collections::BTreeMap;

use store::{Claim, Documents, INDEX_SHEET, IndexEntry, Patch};

use super::document::{Document, DocumentError, Tail, read, write};
use super::index::{IndexValue, entry_of};

/// A sub-document that cannot be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("sub-document {name:?}: {error}")]
pub struct BadDocument {
    /// Its name: a component's field, or [`OWN`] for the entity's own.
    pub name: &'static str,
    /// What is wrong.
    pub error: DocumentError,
}

/// The name of an entity's own sub-document: no field can be called so.
pub const OWN: &str = "self";

/// What generated code reads sub-documents from and shows them to.
#[derive(Debug, Default)]
pub struct Sheets {
    /// As they were last given to the store, with what is not understood of them.
    known: BTreeMap<&'static str, Sheet>,
    /// What was read from the store and not asked for yet.
    stored: Documents,
    patch: Patch,
    bad: Vec<BadDocument>,
    claim: Option<Claim>,
    /// Whether the hook before the next save has run.
    pub(crate) hooked: bool,
    /// What is shown goes into a transaction, which may fail.
    in_deal: bool,
    /// What each sub-document has in indexes.
    indexed: BTreeMap<&'static str, Vec<IndexValue>>,
}

#[derive(Debug, Default)]
struct Sheet {
    bytes: Vec<u8>,
    tail: Tail,
    /// As it was before the first transaction under way that writes it.
    before: Option<Vec<u8>>,
}

/// What is to be written of an entity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The sub-documents that differ from what was last given to the store.
    pub patch: Patch,
    /// Those that must not be written as they are; the others go all the same.
    pub bad: Vec<BadDocument>,
    /// Bytes of all sub-documents that are known.
    pub bytes: usize,
}

/// What can be seen of an entity that is to be saved.
#[derive(Debug)]
pub(crate) enum Found {
    /// All that changed, and whether an open turn may change more.
    All(Changes, bool),
    /// A turn has it to itself: what changed before that turn.
    Before(Changes),
}

impl Sheets {
    /// What the store has of the entity.
    pub(crate) fn stored(documents: Documents, claim: Option<Claim>) -> Self {
        Sheets { stored: documents, claim, ..Sheets::default() }
    }

    /// What the owner shows.
    pub(crate) fn claim(&self) -> Option<Claim> {
        self.claim
    }

    /// It was taken anew, with nobody in between.
    pub(crate) fn set_claim(&mut self, claim: Claim) {
        self.claim = Some(claim);
    }

    /// The same as it was last shown, for an entity that starts again.
    pub(crate) fn again(&mut self) -> Self {
        let stored = self.known.iter().map(|(name, sheet)| {
            let bytes = sheet.before.as_ref().unwrap_or(&sheet.bytes);
            ((*name).to_owned(), bytes.clone())
        });
        // What was never stored is not there.
        let stored = stored.filter(|(_, bytes)| !bytes.is_empty());
        let patch = std::mem::take(&mut self.patch);
        Sheets { patch, ..Sheets::stored(stored.collect(), self.claim) }
    }

    /// Reads the sub-document `name` into a fresh value. What the store does not have stays fresh.
    ///
    /// # Errors
    ///
    /// Which, and what is wrong with it.
    pub fn load<D: Document>(
        &mut self,
        name: &'static str,
        document: &mut D,
    ) -> Result<(), BadDocument> {
        let Some(bytes) = self.stored.remove(name) else { return Ok(()) };
        let tail = read(document, &bytes).map_err(|error| BadDocument { name, error })?;
        self.known.insert(name, Sheet { bytes, tail, before: None });
        self.index(name, document);
        Ok(())
    }

    fn index<D: Document>(&mut self, name: &'static str, document: &D) {
        if D::INDEXED {
            self.indexed.insert(name, document.indexes());
        }
    }

    /// Shows the sub-document `name` for writing, if it has changed.
    pub fn save<D: Document>(&mut self, name: &'static str, document: &D) {
        let known = self.known.entry(name).or_default();
        let mut bytes = Vec::with_capacity(known.bytes.len());
        if let Err(error) = write(document, &known.tail, &mut bytes) {
            self.bad.push(BadDocument { name, error: error.into() });
            return;
        }
        self.show(name, bytes);
        self.index(name, document);
    }

    /// Shows what an entity of `kind` has in indexes, after all its sub-documents were shown.
    pub fn save_indexes(&mut self, kind: &str) {
        if !self.known.contains_key(INDEX_SHEET) {
            let bytes = self.stored.remove(INDEX_SHEET);
            if bytes.is_none() && self.indexed.is_empty() {
                return;
            }
            let sheet = Sheet { bytes: bytes.unwrap_or_default(), ..Sheet::default() };
            self.known.insert(INDEX_SHEET, sheet);
        }
        let each = self.indexed.iter();
        let each = each.flat_map(|(sheet, values)| values.iter().map(move |value| (sheet, value)));
        let entries: Vec<_> = each.map(|(sheet, value)| entry_of(kind, sheet, value)).collect();
        self.show(INDEX_SHEET, IndexEntry::sheet(&entries));
    }

    fn show(&mut self, name: &'static str, bytes: Vec<u8>) {
        let known = self.known.entry(name).or_default();
        if bytes != known.bytes {
            self.patch.insert(name.to_owned(), Some(bytes.clone()));
            let before = std::mem::replace(&mut known.bytes, bytes);
            if self.in_deal {
                known.before.get_or_insert(before);
            }
        }
    }

    /// What changed, for a transaction: until [`written`](Self::written) nobody knows whether it is
    /// stored. Before it what was shown and not taken yet, which is to be stored in any case.
    pub(crate) fn take_for_deal(&mut self, show: impl FnOnce(&mut Sheets)) -> (Patch, Patch) {
        let shown = std::mem::take(&mut self.patch);
        self.in_deal = true;
        show(self);
        self.in_deal = false;
        (shown, self.take_changes().patch)
    }

    /// Shows an entity before a turn that has it to itself; what is bad is told when it is collected.
    pub(crate) fn show_early(&mut self, show: impl FnOnce(&mut Sheets)) {
        show(self);
        self.bad.clear();
    }

    /// The transaction has ended. What it did not store counts as changed again.
    pub(crate) fn written(&mut self, is_stored: bool) {
        for sheet in self.known.values_mut() {
            if let Some(before) = sheet.before.take()
                && !is_stored
            {
                sheet.bytes = before;
            }
        }
    }

    /// What [`save`](Self::save) found since the last time.
    pub(crate) fn take_changes(&mut self) -> Changes {
        Changes {
            patch: std::mem::take(&mut self.patch),
            bad: std::mem::take(&mut self.bad),
            bytes: self.known.iter().map(|(name, sheet)| name.len() + sheet.bytes.len()).sum(),
        }
    }
}
