use std::path::{Path, PathBuf};

use tables::Item;

/// Where the entities that have documents are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StorePlace {
    /// In this file, of one process.
    Embedded(PathBuf),
    /// In this SQLite file, which the processes of one machine may share. Needs the feature
    /// `sqlite`.
    Sqlite(PathBuf),
    /// In memory: what is kept ends with the process. For tests.
    Memory,
}

impl StorePlace {
    /// Reads `{"embedded": "path"}`, `{"sqlite": "path"}` or `{"memory": true}`. Paths start at
    /// `folder`.
    pub(super) fn read(item: &Item<'_>, folder: &Path) -> Option<StorePlace> {
        let section = item.section()?;
        let path =
            |name| section.item(name).and_then(|item| item.text()).map(|text| folder.join(text));
        let memory = section.item("memory").and_then(|item| item.bool()).unwrap_or(false);
        let named = [
            path("embedded").map(StorePlace::Embedded),
            path("sqlite").map(StorePlace::Sqlite),
            memory.then_some(StorePlace::Memory),
        ];
        let mut named = named.into_iter().flatten();
        let (first, second) = (named.next(), named.next());
        if second.is_some() {
            item.fail("a process has one store: name only one");
        }
        if first.is_none() {
            item.fail("name the store: {\"embedded\": \"path\"}");
        }
        first
    }
}
