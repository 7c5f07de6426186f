//! What the store of a round lies in.

use anyhow::Context;

/// A database of our own, or none: then the store is a file.
pub enum Database {
    None,
    #[cfg(feature = "postgres")]
    Postgres(servers::Postgres),
    #[cfg(feature = "mysql")]
    Mariadb(servers::Mariadb),
    #[cfg(feature = "mongodb")]
    Mongo(servers::Mongo),
    #[cfg(feature = "redis")]
    Redis(servers::Redis),
}

/// What is killed, and how often unless it is told.
#[derive(Clone, Copy)]
pub struct Backend {
    pub name: &'static str,
    /// The store, as a cluster file calls it.
    pub store: &'static str,
    /// Data processes in front of it.
    pub data: usize,
    pub kills: u32,
}

const fn plain(name: &'static str, kills: u32) -> Backend {
    Backend { name, store: name, data: 0, kills }
}

/// The backends that are built in. Those with data processes have the names of the columns of
/// `table_of_backends_and_cases`.
pub const BACKENDS: &[Backend] = &[
    plain("embedded", 200),
    #[cfg(feature = "sqlite")]
    plain("sqlite", 200),
    #[cfg(feature = "postgres")]
    plain("postgres", 200),
    #[cfg(feature = "mysql")]
    plain("mysql", 200),
    #[cfg(feature = "mongodb")]
    plain("mongodb", 20),
    #[cfg(feature = "redis")]
    plain("redis", 20),
    Backend { name: "proxy", store: "embedded", data: 1, kills: 20 },
    #[cfg(feature = "postgres")]
    Backend { name: "2 proxies", store: "postgres", data: 2, kills: 20 },
];

impl Backend {
    pub fn find(name: &str) -> anyhow::Result<Backend> {
        let found = BACKENDS.iter().find(|backend| backend.name == name).copied();
        let names = || BACKENDS.iter().map(|backend| backend.name).collect::<Vec<_>>().join(", ");
        found.with_context(|| format!("{name:?} is not built in: there are {}", names()))
    }

    /// Whether its store is a database, which can be away while Mainstay goes on.
    pub fn has_database(&self) -> bool {
        !["embedded", "sqlite"].contains(&self.store)
    }
}

impl Database {
    /// Starts what a store needs; the store as a cluster file names it.
    pub fn start(store: &str) -> anyhow::Result<(Database, String)> {
        let (database, place) = match store {
            #[cfg(feature = "postgres")]
            "postgres" => {
                let server = servers::Postgres::start()?;
                let url = server.url();
                (Database::Postgres(server), url)
            }
            #[cfg(feature = "mysql")]
            "mysql" => {
                let server = servers::Mariadb::start()?;
                let url = server.url();
                (Database::Mariadb(server), url)
            }
            #[cfg(feature = "mongodb")]
            "mongodb" => {
                let server = servers::Mongo::start()?;
                let url = server.url();
                // It is a single server that has transactions all the same.
                let place = format!("{{{store:?}: {{\"url\": {url:?}, \"accept_loss\": true}}}}");
                return Ok((Database::Mongo(server), place));
            }
            #[cfg(feature = "redis")]
            "redis" => {
                let server = servers::Redis::start()?;
                let url = server.url();
                (Database::Redis(server), url)
            }
            _ => (Database::None, "game.store".to_owned()),
        };
        Ok((database, format!("{{{store:?}: {place:?}}}")))
    }

    /// Kills it.
    pub fn kill(&self) {
        match self {
            Database::None => {}
            #[cfg(feature = "postgres")]
            Database::Postgres(server) => server.kill(),
            #[cfg(feature = "mysql")]
            Database::Mariadb(server) => server.kill(),
            #[cfg(feature = "mongodb")]
            Database::Mongo(server) => server.kill(),
            #[cfg(feature = "redis")]
            Database::Redis(server) => server.kill(),
        }
    }

    /// Starts it again on what lies on its disk.
    pub fn start_again(&self) -> anyhow::Result<()> {
        match self {
            Database::None => Ok(()),
            #[cfg(feature = "postgres")]
            Database::Postgres(server) => Ok(server.start_again()?),
            #[cfg(feature = "mysql")]
            Database::Mariadb(server) => Ok(server.start_again()?),
            #[cfg(feature = "mongodb")]
            Database::Mongo(server) => Ok(server.start_again()?),
            #[cfg(feature = "redis")]
            Database::Redis(server) => Ok(server.start_again()?),
        }
    }
}
