use std::path::{Path, PathBuf};

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
    /// In memory: what is kept ends with the process. For tests.
    Memory,
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
    password: Option<Secret>,
}

impl StoreServer {
    /// Reads `"url"` or `{"url": .., "password": .., "authorities": .., "accept_loss": ..}`.
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
            });
        }
        let section = item.section()?;
        let password = section.item("password").and_then(|item| Secret::read(&item, folder));
        let authorities = section.item("authorities").and_then(|item| item.text());
        let accept_loss = section.item("accept_loss").and_then(|item| item.bool());
        Some(StoreServer {
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
    /// Reads `{"embedded": "path"}`, `{"sqlite": "path"}`, `{"memory": true}`, or the name of a kind
    /// of server with its [`StoreServer`]. Paths start at `folder`.
    pub(super) fn read(item: &Item<'_>, folder: &Path) -> Option<StorePlace> {
        let section = item.section()?;
        let path =
            |name| section.item(name).and_then(|item| item.text()).map(|text| folder.join(text));
        let server = |name| section.item(name).and_then(|item| StoreServer::read(&item, folder));
        let memory = section.item("memory").and_then(|item| item.bool()).unwrap_or(false);
        let named = [
            path("embedded").map(StorePlace::Embedded),
            path("sqlite").map(StorePlace::Sqlite),
            server("postgres").map(StorePlace::Postgres),
            server("mysql").map(StorePlace::Mysql),
            server("redis").map(StorePlace::Redis),
            server("mongodb").map(StorePlace::Mongodb),
            memory.then_some(StorePlace::Memory),
        ];
        let mut named = named.into_iter().flatten();
        let (first, second) = (named.next(), named.next());
        if second.is_some() {
            item.fail("a process has one store: name only one");
        }
        let servers = ["postgres", "mysql", "redis", "mongodb"];
        let is_named = servers.iter().any(|name| section.item(name).is_some());
        if first.is_none() && !is_named {
            item.fail("name the store: {\"embedded\": \"path\"}");
        }
        first
    }
}
