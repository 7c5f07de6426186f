use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use proto::{Namespace, Scope};
use tables::{Data, Item, Limits, Map, Place, Problem, Problems, Value, parse, setting};

use super::developer::{Developer, PARTS};
use super::process::{self, Cluster};
use super::roles::{Role, Roles};
use super::{BusPlace, Config, CoordinatorPlace, Input, KeyRefs, Options, StorePlace, groups};

/// The layers of a configuration as they were read, before their options are sorted out.
#[derive(Clone)]
pub(super) struct Layers {
    /// File, environment and command line, lowest first.
    stack: Vec<Value>,
    /// All of them over each other; its `options` are those of the whole cluster only.
    pub merged: Value,
}

/// Without the values: secrets may stand among them.
impl std::fmt::Debug for Layers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Layers").field("stack", &self.stack.len()).finish_non_exhaustive()
    }
}

/// Names beginning with `MAINSTAY_` that are no settings: what the command itself reads, and what
/// benchmarks, simulator and tests do.
const OTHER_NAMES: &[&str] = &[
    "MAINSTAY_CONFIG",
    "MAINSTAY_PROCESS",
    "MAINSTAY_BUS",
    "MAINSTAY_SUPERVISED",
    "MAINSTAY_GONE",
    "MAINSTAY_SKIP_SERVERS",
    "MAINSTAY_BENCH_",
    "MAINSTAY_SIM_",
    "MAINSTAY_TEST_",
];

/// The address of clients and browsers where no file gives another.
const LOCAL: &str = "127.0.0.1:7000";
const NAME_BYTES_MAX: usize = 64;
const CHANNELS_MAX: usize = 1_024;

/// Reads and validates everything.
pub(super) fn read(input: &Input, roles: &Roles) -> Result<Config, Vec<Problem>> {
    let problems = Problems::new();
    let file = match &input.file {
        Some((path, bytes)) => parse(&path.display().to_string(), bytes, &Limits::default()),
        None => Ok(without_file(roles)),
    };
    let file = file.map_err(|problem| vec![problem])?;
    if file.as_map().is_none() {
        let message = format!("{} where the object of a cluster file should be", file.kind());
        return Err(vec![Problem { place: file.place, path: String::new(), message }]);
    }
    let mut layers = Layers { merged: file.clone(), stack: vec![file] };
    layers.add_environment(&input.environment);
    layers.add_settings(&input.settings, &problems);

    let folder = match &input.file {
        Some((path, _)) => path.parent().unwrap_or(Path::new("")).to_path_buf(),
        None => PathBuf::new(),
    };
    let config = layers.clone().into_config(&folder, roles.clone(), &problems);
    let mut found = problems.into_vec();
    // An option of the whole cluster is read once for each process.
    let mut seen = BTreeSet::new();
    found.retain(|problem| seen.insert((problem.place.clone(), problem.message.clone())));
    match config {
        Some(config) if found.is_empty() => Ok(config),
        _ => Err(found),
    }
}

/// One process with every role of the game, on loopback.
fn without_file(roles: &Roles) -> Value {
    let place = Place::whole("default");
    let text = |text: &str| Value::new(place.clone(), Data::Text(text.to_string()));
    let object = |entries: Vec<(&str, Value)>| {
        let mut map = Map::default();
        for (name, value) in entries {
            map.insert(name.to_string(), place.clone(), value);
        }
        Value::new(place.clone(), Data::Map(map))
    };
    let all = roles.union();
    // A process that is all there is needs nobody in front of its stores, and nobody to agree with.
    let is_alone = |role: &Role| !role.data && !role.watcher;
    let alone = roles.names().filter(|name| roles.role(name).is_none_or(is_alone));
    let names = alone.map(text).collect();
    let mut process = vec![("roles", Value::new(place.clone(), Data::List(names)))];
    if all.gate {
        process.push(("listen", object(vec![("clients", text(LOCAL))])));
    } else if all.http() {
        process.push(("listen", object(vec![("web", text(LOCAL))])));
    }
    let processes = object(vec![("local", object(process))]);
    object(vec![("cluster", text("local")), ("processes", processes)])
}

impl Layers {
    fn add_environment(&mut self, environment: &[(String, String)]) {
        let mut names: Vec<_> = environment.iter().collect();
        names.sort();
        let mut layer = Value::new(Place::whole("environment"), Data::Map(Map::default()));
        for (name, text) in names {
            let other = OTHER_NAMES
                .iter()
                .any(|other| name == other || (other.ends_with('_') && name.starts_with(other)));
            let Some(path) = name.strip_prefix("MAINSTAY_").filter(|_| !other) else { continue };
            let path = path.to_lowercase().replace("__", ".");
            let value = setting(&format!("environment {name}"), text);
            layer.overlay(value.under(&self.fitted(&path)));
        }
        self.push(layer);
    }

    fn add_settings(&mut self, settings: &[String], problems: &Problems) {
        let mut layer = Value::new(Place::whole("command line"), Data::Map(Map::default()));
        for text in settings {
            let Some((path, value)) = text.split_once('=') else {
                let place = Place::whole(&format!("--set {text}"));
                problems.add_at(&place, "", "write path.of.keys=value");
                continue;
            };
            let value = setting(&format!("--set {path}"), value);
            layer.overlay(value.under(path.trim()));
        }
        self.push(layer);
    }

    fn push(&mut self, layer: Value) {
        self.merged.overlay(layer.clone());
        self.stack.push(layer);
    }

    /// The path with its names as the file writes them: environment variables know neither lower
    /// case nor hyphens.
    fn fitted(&self, path: &str) -> String {
        let mut here = Some(&self.merged);
        let names = path.split('.').map(|name| {
            let map = here.and_then(Value::as_map);
            let same = |entry: &&tables::Entry| {
                entry.name.to_lowercase().replace('-', "_") == name.replace('-', "_")
            };
            let entry = map.and_then(|map| map.iter().find(same));
            here = entry.map(|entry| &entry.value);
            entry.map_or(name, |entry| &entry.name)
        });
        names.collect::<Vec<&str>>().join(".")
    }

    fn into_config(self, folder: &Path, mut roles: Roles, problems: &Problems) -> Option<Config> {
        let merged = self.merged.clone();
        let root = Item::root(&merged, problems).section()?;
        let cluster = root.need("cluster").and_then(|item| cluster_name(&item)).unwrap_or_default();
        let developer = Developer::read(root.item("developer"));
        let cluster = developer.named(&cluster);
        let data = root.item("data").and_then(|item| item.text()).unwrap_or("data");
        let data = developer.folder(&folder.join(data));
        let keys = root.item("keys").and_then(|item| KeyRefs::read(&item, folder));
        let mut keys = keys.unwrap_or_default();
        keys.developer = developer.name().map(str::to_owned);
        if let Some(item) = root.item("roles") {
            roles.read(&item);
        }
        if let Some(item) = root.item("options") {
            groups::read(&item, &mut Options::default());
        }
        let zones = root.item("zones").map(|item| read_zones(&item)).unwrap_or_default();
        let channels = root.item("channels").map(|item| read_channels(&item)).unwrap_or_default();
        let processes = root.need("processes").and_then(|item| item.entries()).unwrap_or_default();
        if processes.is_empty()
            && let Some(entry) = root.entry("processes")
        {
            problems.add_at(&entry.place, "processes", "a cluster has at least one process");
        }
        let store = root.item("store").and_then(|item| {
            let place = StorePlace::read(&item, folder)?;
            developer.store(place, &item)
        });
        let store = store.as_ref();
        let stores = root.item("stores");
        let stores = stores.map(|item| {
            let stores = StorePlace::read_named(&item, folder).into_iter();
            stores
                .filter_map(|(name, place)| Some((name, developer.store(place, &item)?)))
                .collect::<Vec<_>>()
        });
        let stores = stores.unwrap_or_default();
        let facts = Cluster {
            roles: &roles,
            zones: &zones,
            channels: &channels,
            keys: &keys,
            data: &data,
            store,
            stores: &stores,
        };
        let mut all = Vec::new();
        for (entry, item) in processes {
            let zone = item.value().get("zone");
            let of: Vec<&str> = match zone.map(|zone| &zone.data) {
                Some(Data::List(all)) => all.iter().filter_map(Value::as_text).collect(),
                _ => zone.and_then(Value::as_text).into_iter().collect(),
            };
            let effective = self.options_of(&entry.name, &of);
            let options = read_options(&effective, &cluster, problems);
            if let Some(template) = process::read(entry, &item, &facts, options, effective) {
                all.extend(template.copies(&item));
            }
        }
        let coordinator = root.item("coordinator");
        let coordinator = coordinator
            .and_then(|item| CoordinatorPlace::read(&item, folder, &cluster, &developer));
        let coordinator = coordinator.unwrap_or_else(|| match all.len() {
            1 => CoordinatorPlace::Process,
            _ => CoordinatorPlace::Embedded(data.join("coordinator")),
        });
        all.iter_mut().for_each(|process| process.coordinator = coordinator.clone());
        let bus =
            root.item("bus").and_then(|item| BusPlace::read(&item, folder, &cluster, &developer));
        all.iter_mut().for_each(|process| process.bus = bus.clone().unwrap_or_default());
        process::check(&all, &facts, problems);
        let holders = all.iter().filter(|process| process.holds_entities()).count();
        all.iter_mut().for_each(|process| process.shares_entities = holders > 1);
        process::lead_to_data(&mut all, holders > 1);
        let is_watched = all.iter().any(|process| process.runs.watcher);
        all.iter_mut().for_each(|process| process.is_watched = is_watched);
        Some(Config { cluster, data, keys, zones, channels, processes: all, layers: self })
    }

    /// The options of one process, from the lowest layer to the highest.
    fn options_of(&self, process: &str, zones: &[&str]) -> Value {
        let mut options = Value::new(Place::whole("default"), Data::Map(Map::default()));
        for layer in &self.stack {
            let zones = zones.iter().map(|zone| layer.get("zones")?.get(zone)?.get("options"));
            let process = layer.get("processes").and_then(|all| all.get(process)?.get("options"));
            let parts = std::iter::once(layer.get("options")).chain(zones).chain([process]);
            for part in parts.flatten() {
                options.overlay(part.clone());
            }
        }
        options
    }
}

fn read_zones(item: &Item<'_>) -> Vec<String> {
    let mut zones = Vec::new();
    for (entry, item) in item.entries().unwrap_or_default() {
        check_name(&entry.name, &item);
        check_number(Scope::Zone, &entry.name, &zones, &item);
        zones.push(entry.name.clone());
        let Some(zone) = item.section() else { continue };
        // Options of a zone without processes are checked too.
        if let Some(item) = zone.item("options") {
            groups::read(&item, &mut Options::default());
        }
    }
    zones
}

fn read_channels(item: &Item<'_>) -> Vec<String> {
    let mut channels = Vec::new();
    for item in item.list(CHANNELS_MAX).unwrap_or_default() {
        let Some(name) = name(&item) else { continue };
        if channels.contains(&name) {
            item.fail(format!("the channel {name:?} is given twice"));
        }
        check_number(Scope::Channel, &name, &channels, &item);
        channels.push(name);
    }
    channels
}

/// Two names of one number would be one zone.
fn check_number(scope: Scope, name: &str, others: &[String], item: &Item<'_>) {
    let number = Namespace::of(scope, name);
    let same = |other: &&String| *other != name && Namespace::of(scope, other) == number;
    if let Some(other) = others.iter().find(same) {
        item.fail(format!("{name:?} and {other:?} have one number by chance: rename one of them"));
    }
}

fn read_options(effective: &Value, cluster: &str, problems: &Problems) -> Options {
    let mut options = Options::default();
    let wrapped = effective.clone().under("options");
    if let Some(root) = Item::root(&wrapped, problems).section()
        && let Some(item) = root.item("options")
    {
        groups::read(&item, &mut options);
    }
    options.mesh.cluster = cluster.to_string();
    groups::check(&options, effective, problems);
    options
}

pub(super) fn cluster_name(item: &Item<'_>) -> Option<String> {
    let name = name(item)?;
    if name.contains(PARTS) {
        item.fail(format!("{name:?}: two hyphens part a cluster from its developer, write one"));
    }
    Some(name)
}

/// A name of cluster, zone or process.
pub(super) fn name(item: &Item<'_>) -> Option<String> {
    let text = item.text()?;
    check_name(text, item);
    Some(text.to_string())
}

pub(super) fn check_name(name: &str, item: &Item<'_>) {
    let named = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(named) {
        item.fail(format!("{name:?} is no name: 1 to {NAME_BYTES_MAX} letters, digits, - and _"));
    }
}
