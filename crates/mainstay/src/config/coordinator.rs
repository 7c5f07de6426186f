use std::path::{Path, PathBuf};

use tables::Item;

use super::Vault;
use super::developer::Developer;
use super::keys::Secret;

/// Through what the processes of a cluster find each other.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CoordinatorPlace {
    /// Within this process, which is alone.
    Process,
    /// In this folder, of the processes of one machine; one of them hosts it.
    Embedded(PathBuf),
    /// An etcd v3 cluster. Needs the feature `etcd`.
    Etcd(EtcdPlace),
}

/// An etcd cluster, and how it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EtcdPlace {
    /// Its members, such as `http://10.0.0.1:2379`, or all at `https://..`.
    pub endpoints: Vec<String>,
    /// What its keys begin with, so that several clusters can share it.
    pub prefix: String,
    /// Who is let in, if etcd asks for that.
    pub user: Option<String>,
    /// Certificates of the authorities that members are believed by, in place of the public ones.
    pub authorities: Option<PathBuf>,
    /// A certificate and its key, which members are shown.
    pub certificate: Option<(PathBuf, PathBuf)>,
    password: Option<Secret>,
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
        let etcd = section.item("etcd");
        let etcd = etcd.and_then(|item| EtcdPlace::read(&item, folder, cluster, developer));
        match (embedded, etcd) {
            (Some(path), None) => {
                Some(CoordinatorPlace::Embedded(developer.folder(&folder.join(path))))
            }
            (None, Some(etcd)) => Some(CoordinatorPlace::Etcd(etcd)),
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

impl EtcdPlace {
    /// Reads `{"endpoints": [..], "prefix": .., "user": .., "password": .., "authorities": .., "certificate": ..,
    /// "key": ..}`. Paths start at `folder`.
    fn read(
        item: &Item<'_>,
        folder: &Path,
        cluster: &str,
        developer: &Developer,
    ) -> Option<EtcdPlace> {
        let section = item.section()?;
        let endpoints = section.need("endpoints").and_then(|item| read_endpoints(&item));
        let prefix = section.item("prefix").and_then(|item| item.text());
        let prefix = prefix
            .map_or_else(|| format!("mainstay/{cluster}/"), |prefix| developer.prefixed(prefix));
        let user = section.item("user").and_then(|item| item.text());
        let password = section.item("password");
        let password = password.and_then(|item| Secret::read(&item, folder));
        let file = |name: &'static str| Some(folder.join(section.item(name)?.text()?));
        let (authorities, certificate, key) =
            (file("authorities"), file("certificate"), file("key"));
        let endpoints = endpoints?;
        let encrypts = endpoints.iter().any(|endpoint| endpoint.starts_with(ENCRYPTED));
        if user.is_some() != password.is_some() {
            item.fail(
                "a user of etcd has a `password`, and a password a `user`: give both or none",
            );
        } else if certificate.is_some() != key.is_some() {
            item.fail("a `certificate` has a `key`: give both or none");
        } else if !encrypts && (authorities.is_some() || certificate.is_some()) {
            item.fail(
                "certificates are for encrypted connections: write the endpoints as https://..",
            );
        } else if endpoints.iter().any(|endpoint| endpoint.starts_with(ENCRYPTED) != encrypts) {
            item.fail("some endpoints are encrypted and others not: write all as https://..");
        }
        Some(EtcdPlace {
            endpoints,
            prefix,
            user: user.map(str::to_owned),
            authorities,
            certificate: certificate.zip(key),
            password,
        })
    }

    /// The user's password, from where the file says it is.
    ///
    /// # Errors
    /// What is missing there, without telling the password.
    pub fn password(&self, vault: &Vault) -> Result<Option<String>, String> {
        self.password.as_ref().map(|secret| secret.reveal(vault)).transpose()
    }
}

const ENCRYPTED: &str = "https://";

fn read_endpoints(item: &Item<'_>) -> Option<Vec<String>> {
    let mut endpoints = Vec::new();
    for item in item.list(ENDPOINTS_MAX)? {
        let Some(text) = item.text() else { continue };
        let rest = ["http://", ENCRYPTED].iter().find_map(|scheme| text.strip_prefix(scheme));
        let rest = rest.unwrap_or_default();
        if rest.contains('@') {
            item.fail("no user in an address of etcd: give `user` and `password`");
        } else if rest.is_empty() || rest.contains('/') {
            item.fail(format!("{text:?} is no member of etcd: write \"http://10.0.0.1:2379\""));
        }
        endpoints.push(text.to_owned());
    }
    if endpoints.is_empty() {
        item.fail("name at least one member of etcd under endpoints");
    }
    Some(endpoints)
}
