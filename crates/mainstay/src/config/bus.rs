use std::path::{Path, PathBuf};

use bus::Delivery;
use tables::{Data, Item, Limits, Map, Problems, Value, parse};

use super::developer::Developer;
use super::keys::Secret;
use super::layers::cluster_name;
use super::{ConfigError, Input, Vault};

/// Over what topics and jobs travel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum BusPlace {
    /// Over the mesh, and within each process.
    #[default]
    Embedded,
    /// Over NATS servers. Needs the feature `nats`.
    Nats(BusServer),
    /// Over a RabbitMQ server or cluster. Needs the feature `rabbitmq`.
    Rabbitmq(BusServer),
}

/// Servers of a bus.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BusServer {
    /// Where they are, with the user and without the password.
    pub urls: Vec<String>,
    /// What the names of all that is kept there begin with.
    pub prefix: String,
    /// A credentials file of NATS (`.creds`).
    pub credentials: Option<PathBuf>,
    /// How many NATS servers keep what may not be lost.
    pub replicas: usize,
    password: Option<Secret>,
}

const URLS_MAX: usize = 16;
/// What of a file tells which bus it names.
const OF_FILE: &[&str] = &["cluster", "developer", "bus"];

impl BusPlace {
    /// The bus that the cluster file at `path` names, for tools that work on it beside a game whose roles and
    /// entities they do not know: as the developer with this name has it, or else the file's.
    ///
    /// # Errors
    /// [`ConfigError`] with everything that is wrong about the bus.
    pub fn of_file(path: &Path, developer: Option<String>) -> Result<BusPlace, ConfigError> {
        let (_, bytes) = Input::of_file(path)?.file.unwrap_or_default();
        let source = path.display().to_string();
        let file = parse(&source, &bytes, &Limits::default());
        let file = file.map_err(|problem| ConfigError::Invalid(vec![problem]))?;
        let mut own = Map::default();
        let entries = file.as_map().into_iter().flat_map(Map::iter);
        for entry in entries.filter(|entry| OF_FILE.contains(&entry.name.as_str())) {
            own.insert(entry.name.clone(), entry.place.clone(), entry.value.clone());
        }
        let own = Value::new(file.place.clone(), Data::Map(own));
        let problems = Problems::new();
        let place = Self::read_root(&Item::root(&own, &problems), path, developer);
        match problems.is_empty() {
            true => Ok(place.unwrap_or_default()),
            false => Err(ConfigError::Invalid(problems.into_vec())),
        }
    }

    fn read_root(root: &Item<'_>, path: &Path, developer: Option<String>) -> Option<Self> {
        let root = root.section()?;
        // All are asked for: what is not is an unknown key.
        let (cluster, bus) = (root.need("cluster"), root.item("bus"));
        let of_file = Developer::read(root.item("developer"));
        let developer = developer.map_or(of_file, |name| Developer::called(Some(name)));
        let cluster = developer.named(&cluster_name(&cluster?)?);
        Self::read(&bus?, path.parent().unwrap_or(Path::new("")), &cluster, &developer)
    }

    /// Reads `"embedded"`, `{"nats": ..}` or `{"rabbitmq": ..}`. Paths start at `folder`.
    pub(super) fn read(
        item: &Item<'_>,
        folder: &Path,
        cluster: &str,
        developer: &Developer,
    ) -> Option<Self> {
        const FORMS: &str = "\"embedded\", {\"nats\": \"nats://10.0.0.1:4222\"} or {\"rabbitmq\": \"amqp://10.0.0.1:5672\"}";
        match item.value().as_text() {
            Some("embedded") => return Some(BusPlace::Embedded),
            Some(other) => {
                item.fail(format!("{other:?} is no bus: write {FORMS}"));
                return None;
            }
            None => {}
        }
        let section = item.section()?;
        let nats = section.item("nats");
        let nats = nats.and_then(|item| {
            let schemes = ["nats://", "tls://"];
            BusServer::read(&item, folder, (cluster, developer), &schemes).map(BusPlace::Nats)
        });
        let rabbitmq = section.item("rabbitmq");
        let rabbitmq = rabbitmq.and_then(|item| {
            let schemes = ["amqp://", "amqps://"];
            BusServer::read(&item, folder, (cluster, developer), &schemes).map(BusPlace::Rabbitmq)
        });
        match (nats, rabbitmq) {
            (Some(_), Some(_)) => {
                item.fail("a cluster has one bus: name only one");
                None
            }
            (None, None) => {
                if section.item("nats").is_none() && section.item("rabbitmq").is_none() {
                    item.fail(format!("name the bus: {FORMS}"));
                }
                None
            }
            (nats, rabbitmq) => nats.or(rabbitmq),
        }
    }

    /// Whether other processes are on it too.
    pub fn is_shared(&self) -> bool {
        *self != BusPlace::Embedded
    }

    /// Why it cannot give what a topic declares, and what to do; as far as that is known without asking a
    /// server. `alone` tells that one process of the cluster runs entities.
    pub fn refuses(&self, topic: &str, delivery: Delivery, alone: bool) -> Option<String> {
        let problem = match (self, delivery) {
            (BusPlace::Embedded, Delivery::Durable) => {
                "the embedded bus keeps nothing over a restart"
            }
            (BusPlace::Embedded, Delivery::AtLeastOnce) if !alone => {
                "the embedded bus gives that within one process, and several run entities"
            }
            _ => return None,
        };
        let weaker = match delivery {
            Delivery::Durable if alone => "at least once",
            _ => "at most once",
        };
        Some(format!(
            "{topic:?} is declared {delivery}, and {problem}: name a server, \
             \"bus\": {{\"nats\": \"nats://HOST:4222\"}} or {{\"rabbitmq\": \"amqp://HOST:5672\"}}, or declare it {weaker}"
        ))
    }
}

impl BusServer {
    /// Reads `"url"`, or `{"url": .. or [..], "password": .., "prefix": .., "credentials": .., "replicas": ..}`.
    fn read(
        item: &Item<'_>,
        folder: &Path,
        (cluster, developer): (&str, &Developer),
        schemes: &[&str],
    ) -> Option<Self> {
        let mut server = BusServer {
            urls: Vec::new(),
            prefix: cluster.to_owned(),
            credentials: None,
            replicas: 1,
            password: None,
        };
        if item.value().as_text().is_some() {
            server.urls.extend(read_url(item, schemes));
        } else {
            let section = item.section()?;
            let url = section.need("url")?;
            match url.value().as_text() {
                Some(_) => server.urls.extend(read_url(&url, schemes)),
                None => {
                    let urls = url.list(URLS_MAX).unwrap_or_default();
                    server.urls = urls.iter().filter_map(|url| read_url(url, schemes)).collect();
                    if urls.is_empty() {
                        url.fail("name at least one server");
                    }
                }
            }
            server.password = section.item("password").and_then(|item| Secret::read(&item, folder));
            if let Some(prefix) = section.item("prefix") {
                server.prefix = developer.named(&super::layers::name(&prefix)?);
            }
            if schemes.contains(&"nats://") {
                let file = section.item("credentials").and_then(|item| item.text());
                server.credentials = file.map(|file| folder.join(file));
                let replicas = section.item("replicas").and_then(|item| item.int(1..=5u8));
                server.replicas = usize::from(replicas.unwrap_or(1));
            }
        }
        (!server.urls.is_empty()).then_some(server)
    }

    /// The addresses with the password in them, from where the file says it is.
    ///
    /// # Errors
    /// What is missing there, without telling the password.
    pub fn addresses(&self, vault: &Vault) -> Result<Vec<String>, String> {
        let password = self.password.as_ref().map(|secret| secret.reveal(vault)).transpose()?;
        let Some(password) = password else { return Ok(self.urls.clone()) };
        let quoted = quote(&password);
        let with_password = |url: &String| match url.split_once('@') {
            Some((user, rest)) => Ok(format!("{user}:{quoted}@{rest}")),
            None => Err("a password is given, and no user in the address".to_owned()),
        };
        self.urls.iter().map(with_password).collect()
    }
}

fn read_url(item: &Item<'_>, schemes: &[&str]) -> Option<String> {
    let url = item.text()?;
    let Some(rest) = schemes.iter().find_map(|scheme| url.strip_prefix(scheme)) else {
        item.fail(format!(
            "{url:?} is no address of this bus: it begins with {}",
            schemes.join(" or ")
        ));
        return None;
    };
    // It would be shown wherever the address is.
    let user = rest.split(['/', '?']).next().and_then(|rest| rest.rsplit_once('@'));
    if user.is_some_and(|(user, _)| user.contains(':')) {
        item.fail("no password in the address: give it as `password`");
        return None;
    }
    Some(url.to_owned())
}

/// A password as it may stand in an address.
fn quote(password: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(byte);
    let quote = |byte: u8| match plain(&byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    password.bytes().map(quote).collect()
}
