use std::path::{Path, PathBuf};

use tables::Item;

use super::developer::Developer;

/// Through what the processes of a cluster find each other.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CoordinatorPlace {
    /// Within this process, which is alone.
    Process,
    /// In this folder, of the processes of one machine; one of them hosts it.
    Embedded(PathBuf),
    /// An etcd v3 cluster. Needs the feature `etcd`.
    Etcd {
        /// Its members, such as `http://10.0.0.1:2379`.
        endpoints: Vec<String>,
        /// What its keys begin with, so that several clusters can share it.
        prefix: String,
    },
}

const ENDPOINTS_MAX: usize = 16;

impl CoordinatorPlace {
    /// Reads `{"embedded": "path"}` or `{"etcd": {"endpoints": [..]}}`. Paths start at `folder`.
    pub(super) fn read(
        item: &Item<'_>,
        folder: &Path,
        cluster: &str,
        developer: &Developer,
    ) -> Option<Self> {
        let section = item.section()?;
        let embedded = section.item("embedded").and_then(|item| item.text());
        let etcd = section.item("etcd").and_then(|item| read_etcd(&item, cluster, developer));
        match (embedded, etcd) {
            (Some(path), None) => {
                Some(CoordinatorPlace::Embedded(developer.folder(&folder.join(path))))
            }
            (None, Some(etcd)) => Some(etcd),
            (None, None) => {
                item.fail("name the coordinator: {\"etcd\": {\"endpoints\": [..]}}");
                None
            }
            (Some(_), Some(_)) => {
                item.fail("a cluster has one coordinator: name only one");
                None
            }
        }
    }
}

fn read_etcd(item: &Item<'_>, cluster: &str, developer: &Developer) -> Option<CoordinatorPlace> {
    let section = item.section()?;
    let mut endpoints = Vec::new();
    for item in section.need("endpoints")?.list(ENDPOINTS_MAX)? {
        let Some(text) = item.text() else { continue };
        let rest = text.strip_prefix("http://").unwrap_or_default();
        if rest.is_empty() || rest.contains('/') {
            item.fail(format!("{text:?} is no member of etcd: write \"http://10.0.0.1:2379\""));
        }
        endpoints.push(text.to_owned());
    }
    if endpoints.is_empty() {
        item.fail("name at least one member of etcd under endpoints");
    }
    let prefix = section.item("prefix").and_then(|item| item.text());
    let prefix =
        prefix.map_or_else(|| format!("mainstay/{cluster}/"), |prefix| developer.prefixed(prefix));
    Some(CoordinatorPlace::Etcd { endpoints, prefix })
}
