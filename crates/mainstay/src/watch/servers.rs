use std::time::Duration;

use store::{ServerOptions, ServerTold, Servers, WatcherOptions};

use crate::StartError;
use crate::config::{Group, StorePlace, StoreServer};
use crate::opening::{OPEN_WAIT, server_options};

const CONNECT_WAIT_MIN: Duration = Duration::from_secs(1);

/// Hears what servers answer.
pub(super) type Tell = Box<dyn Fn(ServerTold) + Send>;

/// Connects to the servers of a store, each by itself; `tell` hears what they answer.
pub(super) fn open(
    group: &Group<'_>,
    options: &WatcherOptions,
    tell: Tell,
) -> Result<Servers, StartError> {
    let Group { server, .. } = group;
    let of_server = ServerOptions {
        // A server that answers later is as good as none.
        reply_wait: options.down_after,
        // Of several that know the servers, one that hangs leaves time for the others.
        connect_wait: (options.down_after / 4).max(CONNECT_WAIT_MIN),
        ..server_options(server, OPEN_WAIT)?
    };
    let wait = options.promote_wait;
    match group.place {
        StorePlace::Postgres(_) => postgres(server, of_server, (wait, tell)),
        StorePlace::Mysql(_) => mysql(server, of_server, (wait, tell)),
        StorePlace::Mongodb(_) => mongodb(server, of_server, (wait, tell)),
        // Whoever opens the store judges what it may lose.
        _ => redis(server, ServerOptions { accept_loss: true, ..of_server }, (wait, tell)),
    }
}

macro_rules! opens {
    ($name:ident, $feature:literal) => {
        #[cfg(feature = $feature)]
        fn $name(
            server: &StoreServer,
            options: ServerOptions,
            (wait, tell): (Duration, Tell),
        ) -> Result<Servers, StartError> {
            Ok(Servers::$name(&server.url, options, wait, tell)?)
        }

        #[cfg(not(feature = $feature))]
        fn $name(
            server: &StoreServer,
            _: ServerOptions,
            _: (Duration, Tell),
        ) -> Result<Servers, StartError> {
            Err(StartError::StoreNotBuilt { path: server.url.clone(), feature: $feature })
        }
    };
}

opens!(postgres, "postgres");
opens!(mysql, "mysql");
opens!(redis, "redis");
opens!(mongodb, "mongodb");
