use std::path::{Path, PathBuf};

use tables::Item;

use super::layers::check_name;
use super::{StorePlace, StoreServer};

/// Whose copy of the cluster it is. Everything that outlives a process, or that other processes see, has
/// the name in its own: developers share servers and see nothing of each other.
#[derive(Debug)]
pub(crate) struct Developer(Option<String>);

/// Stands between the name of a cluster and that of the developer; no cluster's name has it.
pub(super) const PARTS: &str = "--";
/// Begins the names of their folders, and of their parts of a prefix; nothing else there begins so.
const OWN: char = '@';
/// What the addresses of shared servers have where the name goes.
const MARK: &str = "{developer}";

impl Developer {
    /// The one with this name, if any.
    pub fn called(name: Option<String>) -> Self {
        Developer(name)
    }

    /// Reads `"ann"`.
    pub fn read(item: Option<Item<'_>>) -> Self {
        let name = item.and_then(|item| {
            let name = item.text()?;
            check_name(name, &item);
            if name.contains(PARTS) {
                item.fail("a developer's name has single hyphens");
            }
            Some(name.to_owned())
        });
        Developer(name)
    }

    pub fn name(&self) -> Option<&str> {
        self.0.as_deref()
    }

    /// Their name of a cluster, or of what is called after it.
    pub fn named(&self, name: &str) -> String {
        match &self.0 {
            Some(developer) => [name, developer].join(PARTS),
            None => name.to_owned(),
        }
    }

    /// Their part of a prefix that ends as it is written.
    pub fn prefixed(&self, prefix: &str) -> String {
        match &self.0 {
            Some(developer) => format!("{prefix}{OWN}{developer}/"),
            None => prefix.to_owned(),
        }
    }

    /// Their folder within a folder.
    pub fn folder(&self, folder: &Path) -> PathBuf {
        match &self.0 {
            Some(developer) => folder.join(format!("{OWN}{developer}")),
            None => folder.to_path_buf(),
        }
    }

    /// Their store in place of a store: files lie in a folder of theirs, addresses of servers say where the
    /// name goes.
    pub fn store(&self, place: StorePlace, item: &Item<'_>) -> Option<StorePlace> {
        let file = |path: PathBuf| {
            let name = path.file_name().unwrap_or_default();
            self.folder(path.parent().unwrap_or(Path::new(""))).join(name)
        };
        Some(match place {
            StorePlace::Embedded(path) => StorePlace::Embedded(file(path)),
            StorePlace::Sqlite(path) => StorePlace::Sqlite(file(path)),
            StorePlace::Postgres(server) => StorePlace::Postgres(self.server(server, item)?),
            StorePlace::Mysql(server) => StorePlace::Mysql(self.server(server, item)?),
            StorePlace::Redis(server) => StorePlace::Redis(self.server(server, item)?),
            StorePlace::Mongodb(server) => StorePlace::Mongodb(self.server(server, item)?),
            StorePlace::Journal(mut journal) => {
                journal.redis = self.server(journal.redis, item)?;
                journal.target = self.store(journal.target, item)?;
                StorePlace::Journal(journal)
            }
            StorePlace::Shards(shards) => {
                let own = |(name, place)| Some((name, self.store(place, item)?));
                StorePlace::Shards(shards.into_iter().map(own).collect::<Option<_>>()?)
            }
            StorePlace::Memory => StorePlace::Memory,
        })
    }

    fn server(&self, mut server: StoreServer, item: &Item<'_>) -> Option<StoreServer> {
        for url in std::iter::once(&mut server.url).chain(&mut server.followers) {
            *url = match &self.0 {
                Some(name) if url.contains(MARK) => url.replace(MARK, name),
                Some(name) => {
                    item.fail(format!(
                        "{url} has no {MARK}: {name:?} would share it with others; write it where the name of \
                         the database is, or of a Redis as `?shard={MARK}`"
                    ));
                    return None;
                }
                None if url.contains(MARK) => {
                    item.fail(format!(
                        "{url} is of a developer: set `developer`, or MAINSTAY_DEVELOPER"
                    ));
                    return None;
                }
                None => continue,
            };
        }
        Some(server)
    }
}
