use cluster::Cluster;
use env::Clock;
use env::metrics::Registry;
use proto::Incarnation;

use super::Watched;
use crate::StartError;
use crate::config::Process;

/// Watches nothing: no store of this build is on servers.
pub(crate) enum WatchRole {}

impl WatchRole {
    pub(crate) fn start(
        process: &Process,
        _: (Cluster, Clock, Registry),
    ) -> Result<Self, StartError> {
        let path = process.groups(None).into_iter().next().map(|group| group.server.url.clone());
        Err(StartError::StoreNotBuilt { path: path.unwrap_or_default(), feature: "postgres" })
    }

    pub(crate) fn life(&self) -> Incarnation {
        match *self {}
    }

    pub(crate) fn watched(&self) -> Watched {
        match *self {}
    }
}
