use std::path::{Path, PathBuf};

use tables::Item;

/// Where the entities that have documents are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StorePlace {
    /// In this file, of one process.
    Embedded(PathBuf),
    /// In memory: what is kept ends with the process. For tests.
    Memory,
}

impl StorePlace {
    /// Reads `{"embedded": "path"}` or `{"memory": true}`. Paths start at `folder`.
    pub(super) fn read(item: &Item<'_>, folder: &Path) -> Option<StorePlace> {
        let section = item.section()?;
        let embedded = section.item("embedded").and_then(|item| item.text());
        let memory = section.item("memory").and_then(|item| item.bool()).unwrap_or(false);
        match (embedded, memory) {
            (Some(_), true) => {
                item.fail("a store is embedded or in memory, not both");
                None
            }
            (Some(path), false) => Some(StorePlace::Embedded(folder.join(path))),
            (None, true) => Some(StorePlace::Memory),
            (None, false) => {
                item.fail("name the store: {\"embedded\": \"path\"}");
                None
            }
        }
    }
}
