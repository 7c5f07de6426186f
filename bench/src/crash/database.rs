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
    pub kills: u32,
}

/// The backends that are built in.
pub const BACKENDS: &[Backend] = &[
    Backend { name: "embedded", kills: 200 },
    #[cfg(feature = "sqlite")]
    Backend { name: "sqlite", kills: 200 },
    #[cfg(feature = "postgres")]
    Backend { name: "postgres", kills: 200 },
    #[cfg(feature = "mysql")]
    Backend { name: "mysql", kills: 200 },
    #[cfg(feature = "mongodb")]
    Backend { name: "mongodb", kills: 20 },
    #[cfg(feature = "redis")]
    Backend { name: "redis", kills: 20 },
];

impl Backend {
    pub fn find(name: &str) -> anyhow::Result<Backend> {
        let found = BACKENDS.iter().find(|backend| backend.name == name).copied();
        let names = || BACKENDS.iter().map(|backend| backend.name).collect::<Vec<_>>().join(", ");
        found.with_context(|| format!("{name} is not built in: there are {}", names()))
    }
}

impl Database {
    /// Starts what a backend needs; the store as a cluster file names it.
    pub fn start(backend: &str) -> anyhow::Result<(Database, String)> {
        let (database, place) = match backend {
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
                let place = format!("{{{backend:?}: {{\"url\": {url:?}, \"accept_loss\": true}}}}");
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
        Ok((database, format!("{{{backend:?}: {place:?}}}")))
    }

    /// Whether it is a process of its own.
    pub fn is_server(&self) -> bool {
        !matches!(self, Database::None)
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
