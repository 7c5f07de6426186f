use std::path::{Path, PathBuf};
use std::time::Duration;

use tables::Item;

use super::Vault;
use super::keys::Secret;

/// Where the entities that have documents are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StorePlace {
    /// In this file, of one process.
    Embedded(PathBuf),
    /// In this SQLite file, which the processes of one machine may share. Needs the feature
    /// `sqlite`.
    Sqlite(PathBuf),
    /// In a PostgreSQL database, which any number of processes may share. Needs the feature
    /// `postgres`.
    Postgres(StoreServer),
    /// In a MariaDB or MySQL database, which any number of processes may share. Needs the feature
    /// `mysql`.
    Mysql(StoreServer),
    /// In Redis, which any number of processes may share. Needs the feature `redis`.
    Redis(StoreServer),
    /// In a MongoDB database, which any number of processes may share. Needs the feature `mongodb`.
    Mongodb(StoreServer),
    /// In a journal in Redis, which lands in another store. Needs the feature `redis`.
    Journal(Box<JournalPlace>),
    /// In memory: what is kept ends with the process. For tests.
    Memory,
    /// In several of these, each with its name: every key is in the shard that has its slot.
    Shards(Vec<(String, StorePlace)>),
}

/// A journal, and where it lands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct JournalPlace {
    /// The Redis that has it.
    pub redis: StoreServer,
    /// The store in which it lands, which nobody else uses.
    pub target: StorePlace,
    /// Whether what is valuable is acknowledged only when it has landed.
    pub acknowledge_landed: bool,
    /// How long changes are gathered before they land, if not as long as usual.
    pub interval: Option<Duration>,
}

impl JournalPlace {
    /// Reads `{"redis": .., "target": {..}, "acknowledge": "journal" | "landed", "interval": ".."}`.
    fn read(item: &Item<'_>, folder: &Path) -> Option<Self> {
        let section = item.section()?;
        let redis = section.need("redis").and_then(|redis| StoreServer::read(&redis, folder));
        let target = section.need("target").and_then(|target| {
            let place = StorePlace::read(&target, folder)?;
            if matches!(place, StorePlace::Journal(_)) {
                target.fail("a journal lands in a store that has none itself");
                return None;
            }
            Some(place)
        });
        let acknowledge = section.item("acknowledge").and_then(|item| {
            let said = item.text()?;
            if !["journal", "landed"].contains(&said) {
                item.fail(
                    "what is valuable is acknowledged by the \"journal\" or when it has \"landed\"",
                );
            }
            Some(said == "landed")
        });
        let interval = section
            .item("interval")
            .and_then(|item| item.duration(Duration::from_millis(1)..=Duration::from_secs(3_600)));
        Some(JournalPlace {
            redis: redis?,
            target: target?,
            acknowledge_landed: acknowledge.unwrap_or(false),
            interval,
        })
    }
}

/// A database on a server.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreServer {
    /// Where it is, with the user and without the password.
    pub url: String,
    /// Certificates of authorities that it is believed by, beside the public ones.
    pub authorities: Option<PathBuf>,
    /// Whether it may lose what it acknowledged.
    pub accept_loss: bool,
    /// Addresses of its followers, at which what may be old is read.
    pub followers: Vec<String>,
    password: Option<Secret>,
}

impl StoreServer {
    /// Reads `"url"` or `{"url": .., "password": .., "authorities": .., "accept_loss": .., "followers": [..]}`.
    fn read(item: &Item<'_>, folder: &Path) -> Option<StoreServer> {
        let text = |item: &Item<'_>| {
            let url = item.text()?;
            // `scheme://user:password@host`; it would be shown wherever the address is.
            let (_, rest) = url.split_once("://").unwrap_or_default();
            let user = rest.split(['/', '?']).next().and_then(|rest| rest.rsplit_once('@'));
            if user.is_some_and(|(user, _)| user.contains(':')) {
                item.fail("no password in the address: give it as `password`");
                return None;
            }
            Some(url.to_owned())
        };
        if item.value().as_text().is_some() {
            let url = text(item)?;
            return Some(StoreServer {
                url,
                password: None,
                authorities: None,
                accept_loss: false,
                followers: Vec::new(),
            });
        }
        let section = item.section()?;
        let password = section.item("password").and_then(|item| Secret::read(&item, folder));
        let authorities = section.item("authorities").and_then(|item| item.text());
        let accept_loss = section.item("accept_loss").and_then(|item| item.bool());
        let mut followers = Vec::new();
        for follower in
            section.item("followers").and_then(|item| item.list(FOLLOWERS_MAX)).unwrap_or_default()
        {
            followers.extend(text(&follower));
        }
        Some(StoreServer {
            followers,
            url: section.need("url").and_then(|item| text(&item))?,
            password,
            authorities: authorities.map(|file| folder.join(file)),
            accept_loss: accept_loss.unwrap_or(false),
        })
    }

    /// The password, from where the file says it is.
    ///
    /// # Errors
    /// What is missing there, without telling the password.
    pub fn password(&self, vault: &Vault) -> Result<Option<String>, String> {
        self.password.as_ref().map(|secret| secret.reveal(vault)).transpose()
    }
}

impl StorePlace {
    /// Reads `{"embedded": "path"}`, `{"sqlite": "path"}`, `{"memory": true}`, `{"shards": {..}}`, the
    /// name of a kind of server with its [`StoreServer`], or a [`JournalPlace`]. Paths start at `folder`.
    pub(super) fn read(item: &Item<'_>, folder: &Path) -> Option<StorePlace> {
        let section = item.section()?;
        let shards = section.item("shards").and_then(|item| Self::read_shards(&item, folder));
        let path =
            |name| section.item(name).and_then(|item| item.text()).map(|text| folder.join(text));
        let server = |name| section.item(name).and_then(|item| StoreServer::read(&item, folder));
        let journal = section.item("journal").and_then(|item| JournalPlace::read(&item, folder));
        let memory = section.item("memory").and_then(|item| item.bool()).unwrap_or(false);
        let named = [
            path("embedded").map(StorePlace::Embedded),
            path("sqlite").map(StorePlace::Sqlite),
            server("postgres").map(StorePlace::Postgres),
            server("mysql").map(StorePlace::Mysql),
            server("redis").map(StorePlace::Redis),
            server("mongodb").map(StorePlace::Mongodb),
            journal.map(|place| StorePlace::Journal(Box::new(place))),
            memory.then_some(StorePlace::Memory),
            shards,
        ];
        let mut named = named.into_iter().flatten();
        let (first, second) = (named.next(), named.next());
        if second.is_some() {
            item.fail("a process has one store: name only one");
        }
        let servers = ["postgres", "mysql", "redis", "mongodb", "shards", "journal"];
        let is_named = servers.iter().any(|name| section.item(name).is_some());
        if first.is_none() && !is_named {
            item.fail("name the store: {\"embedded\": \"path\"}");
        }
        first
    }

    /// Reads `{"NAME": {..}, ..}`: stores beside the default one.
    pub(super) fn read_named(item: &Item<'_>, folder: &Path) -> Vec<(String, StorePlace)> {
        let mut stores: Vec<(String, StorePlace)> = Vec::new();
        let entries = item.entries().unwrap_or_default();
        if entries.len() > NAMED_MAX {
            item.fail(format!("{} stores where up to {NAMED_MAX} may be", entries.len()));
            return stores;
        }
        for (entry, store) in entries {
            let name = &entry.name;
            if !is_name(name) {
                store.fail("a store's name has 1 to 32 letters a-z, digits and hyphens");
            }
            let Some(place) = Self::read(&store, folder) else { continue };
            if let Some((other, _)) = stores.iter().find(|(_, known)| known.is_same_as(&place)) {
                store.fail(format!("it is the same store as {other:?}"));
            }
            stores.push((name.clone(), place));
        }
        stores
    }

    /// Reads `{"NAME": {..}, ..}`, each as a store by itself.
    fn read_shards(item: &Item<'_>, folder: &Path) -> Option<StorePlace> {
        let mut shards: Vec<(String, StorePlace)> = Vec::new();
        let entries = item.entries()?;
        if entries.is_empty() || entries.len() > SHARDS_MAX {
            item.fail(format!("{} shards where 1 to {SHARDS_MAX} may be", entries.len()));
            return None;
        }
        for (entry, shard) in entries {
            let name = &entry.name;
            if !is_name(name) {
                shard.fail("a shard's name has 1 to 32 letters a-z, digits and hyphens");
            }
            // What is wrong with one is noted; the others are read all the same.
            let Some(place) = Self::read(&shard, folder) else { continue };
            if matches!(place, StorePlace::Shards(_)) {
                shard.fail("a shard has no shards");
            }
            if let Some((other, _)) = shards.iter().find(|(_, known)| known.is_same_as(&place)) {
                shard.fail(format!("it is the same store as shard {other:?}"));
            }
            shards.push((name.clone(), place));
        }
        Some(StorePlace::Shards(shards))
    }

    pub(super) fn is_same_as(&self, other: &StorePlace) -> bool {
        match (self, other) {
            (StorePlace::Memory, StorePlace::Memory) => false,
            (StorePlace::Postgres(one), StorePlace::Postgres(other))
            | (StorePlace::Mysql(one), StorePlace::Mysql(other))
            | (StorePlace::Redis(one), StorePlace::Redis(other))
            | (StorePlace::Mongodb(one), StorePlace::Mongodb(other)) => one.url == other.url,
            (one, other) => one == other,
        }
    }

    /// Whether it cannot be open in two processes.
    pub fn is_for_one_process(&self) -> bool {
        self.exclusive_file().is_some()
    }

    /// The file that only one process may have open, if there is one.
    pub(crate) fn exclusive_file(&self) -> Option<&Path> {
        match self {
            StorePlace::Embedded(file) => Some(file),
            StorePlace::Shards(shards) => {
                shards.iter().find_map(|(_, place)| place.exclusive_file())
            }
            _ => None,
        }
    }
}

/// Each has a thread and a connection.
const FOLLOWERS_MAX: usize = 16;

/// Each has a bit of 64, as the default one.
const NAMED_MAX: usize = 63;

fn is_name(name: &str) -> bool {
    let is_of_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=32).contains(&name.len()) && name.chars().all(is_of_name)
}

/// There are 1,024 slots; more shards than this would have too few each.
const SHARDS_MAX: usize = 256;
