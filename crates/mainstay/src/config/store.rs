use std::path::{Path, PathBuf};
use std::time::Duration;

use store::Store;
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
        let redis = section
            .need("redis")
            .and_then(|redis| StoreServer::read(&redis, folder, Family::Redis));
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
    /// Its servers that watchers may have promoted (`host:port`), those that are to be first at the front.
    pub promote: Vec<String>,
    /// Whether watchers have its sentinels promote another server.
    pub promote_by_sentinels: bool,
    password: Option<Secret>,
}

/// How the addresses of a kind of server are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    /// The port where an address has none.
    Sql(u16),
    Redis,
    Mongodb,
}

impl Family {
    /// Reads `promote`: a list of servers that the address names, or of sentinels whether they are asked.
    fn read_promote(self, item: &Item<'_>, url: &str, server: &mut StoreServer) {
        let port = match self {
            Family::Sql(port) => port,
            Family::Redis if url.starts_with(SENTINELS) => {
                server.promote_by_sentinels = item.bool().unwrap_or(false);
                return;
            }
            Family::Redis => return item.fail("a Redis without sentinels has no other server"),
            Family::Mongodb => {
                return item.fail("the members of a replica set elect their primary themselves");
            }
        };
        let hosts = store::hosts_of(url, port);
        if hosts.len() < 2 {
            return item.fail("`url` names one server: name those that may take its place as well");
        }
        for item in item.list(PROMOTE_MAX).unwrap_or_default() {
            let Some(text) = item.text() else { continue };
            let name = store::hosts_of(&format!("://{text}"), port).into_iter().next();
            let Some(name) = name.filter(|name| hosts.contains(name)) else {
                let near = tables::nearest(text, hosts.iter().map(String::as_str));
                item.fail(match near {
                    Some(near) => format!("unknown server {text:?}; did you mean {near:?}?"),
                    None => format!("unknown server {text:?}; `url` names {}", hosts.join(", ")),
                });
                continue;
            };
            match server.promote.contains(&name) {
                true => item.fail(format!("the server {name:?} is given twice")),
                false => server.promote.push(name),
            }
        }
    }
}

/// What the address of a Redis with sentinels begins with.
const SENTINELS: &str = "redis-sentinel://";
const PROMOTE_MAX: usize = 64;

impl StoreServer {
    /// Reads `"url"` or `{"url": .., "password": .., "authorities": .., "accept_loss": .., "followers": [..],
    /// "promote": ..}`.
    fn read(item: &Item<'_>, folder: &Path, family: Family) -> Option<StoreServer> {
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
                promote: Vec::new(),
                promote_by_sentinels: false,
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
        let promote = section.item("promote");
        let mut server = StoreServer {
            followers,
            url: section.need("url").and_then(|item| text(&item))?,
            password,
            authorities: authorities.map(|file| folder.join(file)),
            accept_loss: accept_loss.unwrap_or(false),
            promote: Vec::new(),
            promote_by_sentinels: false,
        };
        if let Some(promote) = promote {
            let url = server.url.clone();
            family.read_promote(&promote, &url, &mut server);
        }
        Some(server)
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
        let server = |name, family| {
            section.item(name).and_then(|item| StoreServer::read(&item, folder, family))
        };
        let journal = section.item("journal").and_then(|item| JournalPlace::read(&item, folder));
        let memory = section.item("memory").and_then(|item| item.bool()).unwrap_or(false);
        let named = [
            path("embedded").map(StorePlace::Embedded),
            path("sqlite").map(StorePlace::Sqlite),
            server("postgres", Family::Sql(5432)).map(StorePlace::Postgres),
            server("mysql", Family::Sql(3306)).map(StorePlace::Mysql),
            server("redis", Family::Redis).map(StorePlace::Redis),
            server("mongodb", Family::Mongodb).map(StorePlace::Mongodb),
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

    /// Those that are on several servers of which one takes writes at a time, each as it is called in the
    /// file, where this one is called `label`; with what is open of them, if this one is.
    pub(crate) fn groups<'a>(&'a self, label: &str, open: Option<&Store>) -> Vec<Group<'a>> {
        let group = |server| Group {
            label: label.to_owned(),
            place: self,
            server,
            raises: true,
            open: open.cloned(),
        };
        match self {
            StorePlace::Postgres(server) if store::hosts_of(&server.url, 0).len() > 1 => {
                vec![group(server)]
            }
            StorePlace::Mysql(server) if store::hosts_of(&server.url, 0).len() > 1 => {
                vec![group(server)]
            }
            StorePlace::Mongodb(server) if store::hosts_of(&server.url, 0).len() > 1 => {
                vec![group(server)]
            }
            StorePlace::Redis(server) if server.url.starts_with(SENTINELS) => vec![group(server)],
            StorePlace::Shards(shards) => {
                let of_shard = |(at, (name, place)): (usize, &'a (String, StorePlace))| {
                    let open = open.and_then(|set| set.shards().get(at)).map(|(_, shard)| shard);
                    place.groups(&format!("{label}.shards.{name}"), open)
                };
                shards.iter().enumerate().flat_map(of_shard).collect()
            }
            StorePlace::Journal(journal) => {
                let target = open.and_then(Store::landing_target);
                let label = format!("{label}.journal");
                let mut groups = journal.target.groups(&format!("{label}.target"), target.as_ref());
                if journal.redis.url.starts_with(SENTINELS) {
                    let redis = Group { label: format!("{label}.redis"), ..group(&journal.redis) };
                    groups.push(redis);
                }
                // What has landed is held against the journal, which sees by itself what it has lost.
                groups.iter_mut().for_each(|group| group.raises = false);
                groups
            }
            _ => Vec::new(),
        }
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

/// A store on several servers.
pub(crate) struct Group<'a> {
    /// `store`, `stores.accounts.shards.east`.
    pub label: String,
    /// Which kind of store; of a journal's Redis, the journal.
    #[cfg_attr(
        not(any(feature = "postgres", feature = "mysql", feature = "redis", feature = "mongodb")),
        expect(dead_code, reason = "only servers are watched")
    )]
    pub place: &'a StorePlace,
    pub server: &'a StoreServer,
    /// Whether its generation is raised when another server has taken over.
    pub raises: bool,
    pub open: Option<Store>,
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
