//! What the store of a round lies in.

use anyhow::bail;

/// A database of our own, or none: then the store is a file.
pub enum Database {
    None,
    #[cfg(feature = "postgres")]
    Postgres(servers::Postgres),
    #[cfg(feature = "mysql")]
    Mariadb(servers::Mariadb),
    #[cfg(feature = "mongodb")]
    Mongo(servers::Mongo),
}

/// The backends that are built in.
pub const BACKENDS: &[&str] = &[
    "embedded",
    #[cfg(feature = "sqlite")]
    "sqlite",
    #[cfg(feature = "postgres")]
    "postgres",
    #[cfg(feature = "mysql")]
    "mysql",
    #[cfg(feature = "mongodb")]
    "mongodb",
];

impl Database {
    /// Starts what a backend needs; the store as a cluster file names it.
    pub fn start(backend: &str) -> anyhow::Result<(Database, String)> {
        if !BACKENDS.contains(&backend) {
            bail!("{backend} is not built in: there are {}", BACKENDS.join(", "));
        }
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
                (Database::Mongo(server), url)
            }
            _ => (Database::None, "game.store".to_owned()),
        };
        Ok((database, format!("{{{backend:?}: {place:?}}}")))
    }

    /// Whether it is a process of its own.
    pub fn is_server(&self) -> bool {
        !matches!(self, Database::None)
    }

    /// Kills it, and starts it again on what lies on its disk.
    pub fn kill_and_start(&self) -> anyhow::Result<()> {
        match self {
            Database::None => {}
            #[cfg(feature = "postgres")]
            Database::Postgres(server) => {
                server.kill();
                server.start_again()?;
            }
            #[cfg(feature = "mysql")]
            Database::Mariadb(server) => {
                server.kill();
                server.start_again()?;
            }
            #[cfg(feature = "mongodb")]
            Database::Mongo(server) => {
                server.kill();
                server.start_again()?;
            }
        }
        Ok(())
    }
}
