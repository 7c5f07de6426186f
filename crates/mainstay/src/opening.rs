//! Opening the stores of a process, which may come later than it.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use cluster::Cluster;
use env::Clock;
use env::metrics::Registry;
use node::NodeApp;
use store::Store;
use transport::Listeners;

use crate::config::{JournalPlace, Keys, Process, StorePlace, StoreServer};
use crate::process::{StartError, system};
use crate::waiting::Anteroom;

/// How long requests wait for a store that is away. Nodes try again by themselves, and tell whoever waits for a
/// deal within two seconds that nothing was done; so what they ask must not stay with the store for longer.
const AWAY_WAIT: Duration = Duration::from_millis(1_500);
/// How long a store may take to be there for whoever does not wait for it.
pub(crate) const OPEN_WAIT: Duration = Duration::from_secs(10);
/// How long one of the tries takes of a process that waits, beside that of a connection that is not refused.
const TRY_WAIT: Duration = Duration::from_millis(500);

/// The default store, and those with names.
pub(crate) type Stores = (Option<Store>, Vec<(String, Store)>);

/// The stores of one process: its own, or those that data processes serve.
pub(crate) struct Opening<'a, 'b> {
    process: &'a Process,
    keys: &'a Keys,
    stores: Option<(Store, Vec<(String, Store)>)>,
    around: Around,
    /// While it waits.
    anteroom: Option<Anteroom>,
    patience: Option<Patience<'b>>,
}

/// What a process that waits is seen by: the list of nodes, its figures, its ports.
type Around = (Cluster, Clock, Registry, Listeners);

/// Is told what the process waits for, after each try; says whether to try again.
pub(crate) type Patience<'a> = &'a mut dyn FnMut(&str) -> bool;

impl<'a, 'b> Opening<'a, 'b> {
    /// Has opened none. Without patience the first try is the last.
    pub(crate) fn new(
        process: &'a Process,
        keys: &'a Keys,
        around: Around,
        patience: Option<Patience<'b>>,
    ) -> Self {
        Opening { process, keys, stores: None, around, anteroom: None, patience }
    }

    /// What is open.
    pub(crate) fn opened(&self) -> Option<&(Store, Vec<(String, Store)>)> {
        self.stores.as_ref()
    }

    /// Opens the stores, if the game keeps anything.
    pub(crate) fn for_game(&mut self, app: &NodeApp) -> Result<Stores, StartError> {
        if !app.needs_store() {
            return Ok((None, Vec::new()));
        }
        let (store, stores) = self.open()?;
        Ok((Some(store), stores))
    }

    /// Opens them and serves them to others.
    pub(crate) fn serve(
        &mut self,
        at: SocketAddr,
        registry: &Registry,
    ) -> Result<store::DataService, StartError> {
        let (store, stores) = self.open()?;
        let stores = std::iter::once((String::new(), store)).chain(stores).collect();
        let parts = store::DataParts { stores, key: self.keys.data(), metrics: registry.clone() };
        store::DataService::start(at, parts, store::DataOptions::default())
            .map_err(system(format!("cannot serve the stores at {at}")))
    }

    fn open(&mut self) -> Result<(Store, Vec<(String, Store)>), StartError> {
        if let Some(open) = &self.stores {
            return Ok(open.clone());
        }
        let process = self.process;
        let default = self.wait_for("", &process.store)?;
        let mut named = Vec::new();
        for (name, place) in &process.stores {
            named.push((name.clone(), self.wait_for(name, place)?));
        }
        self.anteroom = None;
        Ok(self.stores.insert((default, named)).clone())
    }

    /// Opens one, as often as it takes until its server is there.
    fn wait_for(&mut self, name: &str, place: &StorePlace) -> Result<Store, StartError> {
        loop {
            let away = match self.open_one(name, place) {
                Err(StartError::Store(error @ store::OpenError::Away { .. })) => error,
                opened => return opened,
            };
            let Some(patience) = &mut self.patience else { return Err(away.into()) };
            let what = match name {
                "" => format!("the store: {away}"),
                name => format!("the store {name:?}: {away}"),
            };
            let (nodes, clock, registry, listeners) = &self.around;
            let open = || {
                let around = (nodes, clock, registry);
                Anteroom::open(self.process, self.keys, around, listeners)
            };
            self.anteroom.get_or_insert_with(open).tell(&what);
            if !patience(&what) {
                return Err(away.into());
            }
        }
    }

    fn open_one(&self, name: &str, place: &StorePlace) -> Result<Store, StartError> {
        let open_wait = match self.patience {
            Some(_) => TRY_WAIT,
            None => OPEN_WAIT,
        };
        if self.process.data_processes.is_empty() {
            // What data processes serve has nodes that go on while those are started again.
            let alone = !self.process.runs.data;
            return open_to_play(place, self.process.shares_stores, alone, open_wait);
        }
        open_served(self.process, self.keys, name, open_wait)
    }
}

/// Opens a store through the data processes that `process` uses (see
/// [`data_processes`](Process::data_processes)), by the cluster's keys; `name` is the store's in the cluster
/// file, or empty for the default one. One shard of it is called `NAME/SHARD`.
///
/// # Errors
///
/// [`StartError::Store`]: none of them can be reached, or has the key and the store.
pub fn open_served_store(process: &Process, keys: &Keys, name: &str) -> Result<Store, StartError> {
    open_served(process, keys, name, OPEN_WAIT)
}

fn open_served(
    process: &Process,
    keys: &Keys,
    name: &str,
    open_wait: Duration,
) -> Result<Store, StartError> {
    let addresses: Vec<String> = process.data_processes.iter().map(ToString::to_string).collect();
    let usual = store::ProxyOptions::default();
    let options = store::ProxyOptions { away_wait: AWAY_WAIT, open_wait, ..usual };
    Ok(Store::proxy(&addresses, name, keys.data(), options)?)
}

fn open_to_play(
    place: &StorePlace,
    shared: bool,
    alone: bool,
    open_wait: Duration,
) -> Result<Store, StartError> {
    let Some(file) = place.exclusive_file() else { return open_within(place, open_wait) };
    let path = file.display().to_string();
    if shared {
        return Err(StartError::StoreShared { path });
    }
    let store = open_store(place)?;
    if !alone {
        return Ok(store);
    }
    // Nobody else can have it open, so whoever wrote to it before is gone.
    match node::data::bury_all(&store) {
        Ok(buried) => tracing::debug!(path, buried, "store opened"),
        Err(error) => return Err(StartError::StoreFailed { path, error }),
    }
    Ok(store)
}

/// Opens the store that a configuration names, made if it is not there, for tools that work on it
/// beside or without a game.
///
/// # Errors
///
/// See [`StartError`].
pub fn open_store(place: &StorePlace) -> Result<Store, StartError> {
    open_within(place, OPEN_WAIT)
}

/// Opens a store whose server may take so long to be there.
fn open_within(place: &StorePlace, open_wait: Duration) -> Result<Store, StartError> {
    match place {
        StorePlace::Memory => Ok(Store::memory(store::Limits::default())),
        StorePlace::Embedded(file) => {
            make_folder_of(file)?;
            Ok(Store::embedded(file, store::Options::default())?)
        }
        StorePlace::Sqlite(file) => open_sqlite(file),
        StorePlace::Postgres(server) => open_postgres(server, open_wait),
        StorePlace::Mysql(server) => open_mysql(server, open_wait),
        StorePlace::Redis(server) => open_redis(server, open_wait),
        StorePlace::Mongodb(server) => open_mongodb(server, open_wait),
        StorePlace::Shards(shards) => {
            let open = |(name, place): &(String, StorePlace)| {
                Ok((name.clone(), open_within(place, open_wait)?))
            };
            let shards = shards.iter().map(open).collect::<Result<_, StartError>>()?;
            Ok(Store::sharded(shards)?)
        }
        StorePlace::Journal(place) => open_journal(place, open_wait),
    }
}

#[cfg(feature = "postgres")]
fn open_postgres(server: &StoreServer, open_wait: Duration) -> Result<Store, StartError> {
    Ok(Store::postgres(&server.url, server_options(server, open_wait)?)?)
}

#[cfg(not(feature = "postgres"))]
fn open_postgres(server: &StoreServer, _: Duration) -> Result<Store, StartError> {
    Err(StartError::StoreNotBuilt { path: server.url.clone(), feature: "postgres" })
}

#[cfg(feature = "mysql")]
fn open_mysql(server: &StoreServer, open_wait: Duration) -> Result<Store, StartError> {
    Ok(Store::mysql(&server.url, server_options(server, open_wait)?)?)
}

#[cfg(not(feature = "mysql"))]
fn open_mysql(server: &StoreServer, _: Duration) -> Result<Store, StartError> {
    Err(StartError::StoreNotBuilt { path: server.url.clone(), feature: "mysql" })
}

#[cfg(feature = "redis")]
fn open_redis(server: &StoreServer, open_wait: Duration) -> Result<Store, StartError> {
    Ok(Store::redis(&server.url, server_options(server, open_wait)?)?)
}

#[cfg(not(feature = "redis"))]
fn open_redis(server: &StoreServer, _: Duration) -> Result<Store, StartError> {
    Err(StartError::StoreNotBuilt { path: server.url.clone(), feature: "redis" })
}

#[cfg(feature = "redis")]
fn open_journal(place: &JournalPlace, open_wait: Duration) -> Result<Store, StartError> {
    let usual = store::LandingOptions::default();
    let options = store::LandingOptions {
        acknowledge: match place.acknowledge_landed {
            true => store::Acknowledge::Landed,
            false => store::Acknowledge::Journal,
        },
        interval: place.interval.unwrap_or(usual.interval),
        ..usual
    };
    let target = open_within(&place.target, open_wait)?;
    let server = server_options(&place.redis, open_wait)?;
    Ok(Store::journal(&place.redis.url, server, target, options)?)
}

#[cfg(not(feature = "redis"))]
fn open_journal(place: &JournalPlace, _: Duration) -> Result<Store, StartError> {
    Err(StartError::StoreNotBuilt { path: place.redis.url.clone(), feature: "redis" })
}

#[cfg(feature = "mongodb")]
fn open_mongodb(server: &StoreServer, open_wait: Duration) -> Result<Store, StartError> {
    Ok(Store::mongodb(&server.url, server_options(server, open_wait)?)?)
}

#[cfg(not(feature = "mongodb"))]
fn open_mongodb(server: &StoreServer, _: Duration) -> Result<Store, StartError> {
    Err(StartError::StoreNotBuilt { path: server.url.clone(), feature: "mongodb" })
}

#[cfg(any(feature = "postgres", feature = "mysql", feature = "redis", feature = "mongodb"))]
pub(crate) fn server_options(
    server: &StoreServer,
    open_wait: Duration,
) -> Result<store::ServerOptions, StartError> {
    let password = server.password(&crate::config::Vault::system());
    let password = password.map_err(|reason| StartError::StorePassword { reason })?;
    Ok(store::ServerOptions {
        password: password.map(store::Password),
        authorities: server.authorities.clone(),
        accept_loss: server.accept_loss,
        followers: server.followers.clone(),
        away_wait: AWAY_WAIT,
        open_wait,
        ..store::ServerOptions::default()
    })
}

#[cfg(feature = "sqlite")]
fn open_sqlite(file: &Path) -> Result<Store, StartError> {
    make_folder_of(file)?;
    // Whoever wrote to it before may still live: what it had is free once its beat has stood
    // still for long enough.
    Ok(Store::sqlite(file, store::Options::default())?)
}

#[cfg(not(feature = "sqlite"))]
fn open_sqlite(file: &Path) -> Result<Store, StartError> {
    Err(StartError::StoreNotBuilt { path: file.display().to_string(), feature: "sqlite" })
}

fn make_folder_of(file: &Path) -> Result<(), StartError> {
    match file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        None => Ok(()),
        Some(folder) => std::fs::create_dir_all(folder)
            .map_err(system(format!("cannot make the folder of {}", file.display()))),
    }
}
