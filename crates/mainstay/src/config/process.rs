use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use tables::{Entry, Item, Place, Problems, Value, nearest};

use proto::Scope;
use store::Store;

use super::layers::check_name;
use super::roles::{Role, Roles};
use super::store::Group;
use super::{BusPlace, CoordinatorPlace, KeyRefs, Kinds, Options, StorePlace};

/// One process of the cluster, with all layers applied.
#[derive(Clone, Debug)]
pub struct Process {
    /// Its name, unique in the cluster; copies of one entry are numbered from 1.
    pub name: String,
    /// The zones it belongs to.
    pub zones: Vec<String>,
    /// The channels it belongs to.
    pub channels: Vec<String>,
    /// All zones of the cluster, which players choose from.
    pub all_zones: Vec<String>,
    /// All channels of the cluster.
    pub all_channels: Vec<String>,
    /// The machine it runs on, as the file calls it; ports clash only within one.
    pub host: String,
    /// Its roles, in the order of the file.
    pub roles: Vec<String>,
    /// What its roles offer together.
    pub runs: Role,
    /// Threads that run entities and sessions; `None` is one for each core.
    pub workers: Option<u8>,
    /// Threads that hold clients, if it is a gate; `None` leaves it to the process.
    pub gate_workers: Option<u8>,
    /// Its share of keyed entities next to other processes, 1 to 64.
    pub weight: u32,
    /// Where clients come in, over TCP and WebSocket alike. HTTP on these ports goes to the
    /// routes of `web` and `console` if the process has them.
    pub clients: Vec<SocketAddr>,
    /// Where else HTTP is served.
    pub web: Vec<SocketAddr>,
    /// Where only the console is served; empty shares the port of `web` or `clients`.
    pub console: Vec<SocketAddr>,
    /// Where other processes of the cluster link up.
    pub mesh: Option<SocketAddr>,
    /// Where other processes reach the stores, if this one stands in front of them.
    pub data_listen: Option<SocketAddr>,
    /// The processes that stand in front of the stores, if this one reaches them so.
    pub data_processes: Vec<SocketAddr>,
    /// Whether some processes of the cluster watch the servers of stores.
    pub is_watched: bool,
    /// Whether other processes have the stores open, too.
    pub shares_stores: bool,
    /// Where they find it, if that is not `mesh` itself; best first, of which a node tells one.
    pub advertise: Vec<SocketAddr>,
    /// Origins that browsers may play from, such as `https://game.example`; empty lets all in.
    pub origins: Vec<String>,
    /// Folder of what the process keeps.
    pub data: PathBuf,
    /// Where entities with documents are kept.
    pub store: StorePlace,
    /// Stores beside it, for the kinds that name them.
    pub stores: Vec<(String, StorePlace)>,
    /// Through what it finds the other processes of the cluster.
    pub coordinator: CoordinatorPlace,
    /// Over what topics and jobs travel.
    pub bus: BusPlace,
    /// Whether other processes of the cluster hold entities or sessions too.
    pub shares_entities: bool,
    /// Limits and waits.
    pub options: Options,
    /// The layers' options over each other, with their places.
    pub(super) effective: Value,
    /// The entry of the file it comes from.
    pub(super) entry: String,
    /// The first role that takes in clients, and the first that serves HTTP, for messages.
    gate_role: Option<String>,
    http_role: Option<String>,
    copies: Option<u16>,
    places: Vec<(&'static str, SocketAddr, Place)>,
    place: Place,
}

/// What a process is checked against.
pub(super) struct Cluster<'a> {
    pub roles: &'a Roles,
    pub zones: &'a [String],
    pub channels: &'a [String],
    pub keys: &'a KeyRefs,
    pub data: &'a Path,
    pub store: Option<&'a StorePlace>,
    pub stores: &'a [(String, StorePlace)],
}

const ROLES_MAX: usize = 64;
/// Zones or channels of one process.
const NAMES_MAX: usize = 1_024;
const ADDRESSES_MAX: usize = 16;
const ORIGINS_MAX: usize = 64;
const COPIES_MAX: u16 = 1_000;

/// Reads one entry of `processes`.
pub(super) fn read(
    entry: &Entry,
    item: &Item<'_>,
    cluster: &Cluster<'_>,
    options: Options,
    effective: Value,
) -> Option<Process> {
    check_name(&entry.name, item);
    let section = item.section()?;
    let mut process = Process {
        name: entry.name.clone(),
        zones: Vec::new(),
        channels: Vec::new(),
        all_zones: cluster.zones.to_vec(),
        all_channels: cluster.channels.to_vec(),
        host: String::new(),
        roles: Vec::new(),
        runs: Role::new(),
        workers: None,
        gate_workers: None,
        weight: 1,
        clients: Vec::new(),
        web: Vec::new(),
        console: Vec::new(),
        mesh: None,
        data_listen: None,
        data_processes: Vec::new(),
        is_watched: false,
        shares_stores: false,
        advertise: Vec::new(),
        origins: Vec::new(),
        data: cluster.data.to_path_buf(),
        store: match cluster.store {
            Some(store) => store.clone(),
            None => StorePlace::Embedded(cluster.data.join(format!("{}.store", entry.name))),
        },
        stores: cluster.stores.to_vec(),
        coordinator: CoordinatorPlace::Process,
        bus: BusPlace::Embedded,
        shares_entities: false,
        options,
        effective,
        entry: entry.name.clone(),
        gate_role: None,
        http_role: None,
        copies: None,
        places: Vec::new(),
        place: entry.place.clone(),
    };
    if let Some(item) = section.need("roles") {
        process.read_roles(&item, cluster.roles);
    }
    let of = |word, known: &[String]| section.item(word).map(|item| read_names(&item, word, known));
    process.zones = of("zone", cluster.zones).unwrap_or_default();
    process.channels = of("channel", cluster.channels).unwrap_or_default();
    let host = section.item("host").and_then(|item| item.text());
    process.host = host.unwrap_or_default().to_string();
    process.workers = section.item("workers").and_then(|item| read_workers(&item));
    process.gate_workers = section.item("gate_workers").and_then(|item| read_workers(&item));
    let threads = [process.workers, process.gate_workers].into_iter().flatten();
    if threads.map(u16::from).sum::<u16>() > 255 {
        section.this().fail("workers and gate_workers are at most 255 together");
    }
    process.weight = section.item("weight").and_then(|item| item.int(1..=64)).unwrap_or(1);
    process.copies = section.item("count").and_then(|item| item.int(1..=COPIES_MAX));
    if let Some(listen) = section.item("listen").and_then(|item| item.section()) {
        process.clients = process.listen("clients", listen.item("clients"));
        process.web = process.listen("web", listen.item("web"));
        process.console = process.listen("console", listen.item("console"));
        process.mesh = listen.item("mesh").and_then(|item| {
            let address = read_address(&item)?;
            process.places.push(("mesh", address, item.place().clone()));
            Some(address)
        });
        process.data_listen = listen.item("data").and_then(|item| {
            let address = read_address(&item)?;
            if address.port() == 0 {
                item.fail("the other processes have to know the port");
            }
            process.places.push(("data", address, item.place().clone()));
            Some(address)
        });
        process.advertise =
            listen.item("advertise").map(|item| read_addresses(&item)).unwrap_or_default();
        let origins = listen.item("origins").and_then(|item| item.list(ORIGINS_MAX));
        let origins = origins.unwrap_or_default();
        process.origins = origins.iter().filter_map(read_origin).collect();
    }
    // Read with the layers below and above it.
    section.item("options");
    process.check_listens(section.this());
    Some(process)
}

impl Process {
    /// Whether it holds entities or sessions.
    pub fn holds_entities(&self) -> bool {
        self.runs.sessions || self.runs.entities != Kinds::None
    }

    /// Whether it hosts what is local: it is of a zone, or channel, if the cluster names any.
    pub fn hosts(&self, scope: Scope) -> bool {
        match scope {
            Scope::Global => true,
            Scope::Zone => !self.zones.is_empty() || self.all_zones.is_empty(),
            Scope::Channel => !self.channels.is_empty() || self.all_channels.is_empty(),
        }
    }

    /// Its stores that are on several servers; `open` are the default one and those with names.
    pub(crate) fn groups(&self, open: Option<&(Store, Vec<(String, Store)>)>) -> Vec<Group<'_>> {
        let mut groups = self.store.groups("store", open.map(|(store, _)| store));
        for (at, (name, place)) in self.stores.iter().enumerate() {
            let open = open.and_then(|(_, stores)| stores.get(at)).map(|(_, store)| store);
            groups.extend(place.groups(&format!("stores.{name}"), open));
        }
        groups
    }

    /// Threads that run entities and sessions on a machine with `cores` cores.
    pub fn workers_on(&self, cores: usize) -> u8 {
        self.workers.unwrap_or(cores.clamp(1, 128) as u8)
    }

    /// Where other processes find its stores.
    pub(super) fn data_at(&self) -> Option<SocketAddr> {
        let mut at = self.data_listen?;
        // On all addresses: at the one by which its mesh is found.
        if at.ip().is_unspecified() {
            at.set_ip(self.advertise.first()?.ip());
        }
        Some(at)
    }

    /// Where other processes find it: `advertise`, or the address it listens on.
    pub fn reachable_at(&self) -> Option<SocketAddr> {
        self.advertise.first().copied().or(self.mesh)
    }

    /// The options of the node that this process runs for its entities and sessions.
    pub fn node_options(&self) -> node::NodeOptions {
        let Options { mesh, sockets, host, session, node, registry, .. } = &self.options;
        node::NodeOptions {
            workers: self.workers.unwrap_or(0),
            roles: self.roles.clone(),
            zones: self.zones.clone(),
            channels: self.channels.clone(),
            rooms_max: node.rooms_max,
            sessions: self.runs.sessions,
            weight: self.weight,
            mesh_listen: self.mesh,
            mesh_public: self.advertise.first().copied(),
            mesh: mesh.clone(),
            sockets: sockets.clone(),
            host: host.clone(),
            session: session.clone(),
            worker_queue_bytes_max: node.worker_queue_bytes_max,
            blocking_threads: node.blocking_threads,
            blocking_jobs_max: node.blocking_jobs_max,
            stuck_after: node.stuck_after,
            renew_every: registry.lease / 3,
            flush_wait: node.flush_wait,
            answer_wait: node.answer_wait,
            ..node::NodeOptions::new(&self.name)
        }
    }

    /// The processes that an entry with `count` stands for: ports count up with the names.
    pub(super) fn copies(self, item: &Item<'_>) -> Vec<Process> {
        let Some(count) = self.copies else { return vec![self] };
        let mut copies = Vec::new();
        for at in 0..count {
            let mut copy = self.clone();
            copy.name = format!("{}-{}", self.name, at + 1);
            let all = copy.clients.iter_mut().chain(&mut copy.web).chain(&mut copy.console);
            let all = all.chain(&mut copy.mesh).chain(&mut copy.advertise);
            let all = all.chain(&mut copy.data_listen);
            let addresses = all.chain(copy.places.iter_mut().map(|(_, address, _)| address));
            for address in addresses.filter(|address| address.port() != 0) {
                match address.port().checked_add(at) {
                    Some(port) => address.set_port(port),
                    None => {
                        item.fail(format!("{count} copies go beyond port 65535"));
                        return copies;
                    }
                }
            }
            copies.push(copy);
        }
        copies
    }

    fn read_roles(&mut self, item: &Item<'_>, roles: &Roles) {
        let items = item.list(ROLES_MAX).unwrap_or_default();
        if items.is_empty() && item.value().as_map().is_none() {
            item.fail("a process without a role does nothing");
        }
        for item in items {
            let Some(name) = item.text() else { continue };
            let Some(role) = roles.role(name) else {
                let near = nearest(name, roles.names());
                let known: Vec<&str> = roles.names().collect();
                item.fail(match near {
                    Some(near) => format!("unknown role {name:?}; did you mean {near:?}?"),
                    None => format!("unknown role {name:?}; the game has {}", known.join(", ")),
                });
                continue;
            };
            if self.roles.iter().any(|other| other == name) {
                item.fail(format!("the role {name:?} is given twice"));
            }
            self.roles.push(name.to_string());
            self.runs.join(role);
            let says = |offers: fn(&Role) -> bool| offers(role).then(|| name.to_string());
            self.gate_role = self.gate_role.take().or_else(|| says(|role| role.gate));
            self.http_role = self.http_role.take().or_else(|| says(Role::http));
        }
    }

    fn listen(&mut self, what: &'static str, item: Option<Item<'_>>) -> Vec<SocketAddr> {
        let Some(item) = item else { return Vec::new() };
        let addresses = read_addresses(&item);
        let place = item.place();
        self.places.extend(addresses.iter().map(|address| (what, *address, place.clone())));
        addresses
    }

    /// Each role has what it listens on, and nothing listens without a role.
    fn check_listens(&self, this: &Item<'_>) {
        if let Some(role) = &self.gate_role
            && self.clients.is_empty()
        {
            this.fail(format!("the role {role:?} takes in clients: listen.clients is missing"));
        }
        if self.gate_role.is_none() && !self.clients.is_empty() && !self.roles.is_empty() {
            this.fail("listen.clients is given, but no role of this process takes in clients");
        }
        let http = [&self.web, &self.console, &self.clients];
        if let Some(role) = &self.http_role
            && http.iter().all(|addresses| addresses.is_empty())
        {
            this.fail(format!("the role {role:?} serves HTTP: listen.web is missing"));
        }
        let served = !self.web.is_empty() || !self.console.is_empty();
        if self.http_role.is_none() && served && !self.roles.is_empty() {
            this.fail(
                "listen.web or listen.console is given, but no role of this process serves HTTP",
            );
        }
        match (self.runs.data, self.data_listen) {
            (true, None) => {
                this.fail("a role stands in front of the stores: listen.data is missing")
            }
            (false, Some(_)) if !self.roles.is_empty() => {
                this.fail("listen.data is given, but no role of this process stands in front of the stores");
            }
            _ => {}
        }
        if self.gate_role.is_none() && self.gate_workers.is_some() && !self.roles.is_empty() {
            this.fail("gate_workers is given, but no role of this process takes in clients");
        }
    }
}

/// Tells all processes through which of them the stores are reached, if they are so. `shared` is whether
/// several of them hold entities.
pub(super) fn lead_to_data(all: &mut [Process], shared: bool) {
    let data: Vec<SocketAddr> = all.iter().filter_map(Process::data_at).collect();
    for process in all {
        process.shares_stores = if data.is_empty() { shared } else { data.len() > 1 };
        if !process.runs.data {
            process.data_processes.clone_from(&data);
        }
    }
}

/// Checks all processes together.
pub(super) fn check(processes: &[Process], cluster: &Cluster<'_>, problems: &Problems) {
    let mut names = BTreeSet::new();
    let hosts: BTreeSet<&str> = processes.iter().map(|process| process.host.as_str()).collect();
    for process in processes {
        let fail = |message: String| {
            problems.add_at(&process.place, &format!("processes.{}", process.entry), message);
        };
        if !names.insert(process.name.as_str()) {
            fail(format!("a process called {:?} is there already", process.name));
        }
        let is_default = |(_, place): &&(String, StorePlace)| place.is_same_as(&process.store);
        if let Some((name, _)) = process.stores.iter().find(is_default) {
            fail(format!("the store {name:?} is its default store as well"));
        }
        check_mesh(process, processes.len() > 1, cluster.keys.mesh.is_some(), &fail);
    }
    let lonely = |process: &&Process| matches!(process.coordinator, CoordinatorPlace::Embedded(_));
    if hosts.len() > 1
        && let Some(process) = processes.iter().find(lonely)
    {
        let message = "processes on several hosts cannot share an embedded one: name members of etcd, {\"etcd\": {\"endpoints\": [..]}}";
        problems.add_at(&process.place, "coordinator", message);
    }
    if hosts.len() > 1 && processes.iter().any(|process| process.runs.gate) {
        let place = &processes[0].place;
        if cluster.keys.tickets.is_empty() {
            let message =
                "keys.tickets is missing: processes on several hosts cannot share made ones";
            problems.add_at(place, "keys", message);
        }
    }
    if let Some(gate) = processes.iter().find(|process| process.runs.gate)
        && !processes.iter().any(|process| process.runs.sessions)
    {
        let path = format!("processes.{}", gate.entry);
        let message = "takes in clients, but no process of the cluster is home to sessions";
        problems.add_at(&gate.place, &path, message);
    }
    check_watchers(processes, problems);
    check_ports(processes, problems);
}

/// Enough of them watch, and there is something to watch.
fn check_watchers(processes: &[Process], problems: &Problems) {
    let watchers: Vec<&Process> = processes.iter().filter(|process| process.runs.watcher).collect();
    let Some(any) = watchers.first().copied().or(processes.first()) else { return };
    let fail = |process: &Process, message: String| {
        problems.add_at(&process.place, &format!("processes.{}", process.entry), message);
    };
    let groups = any.groups(None);
    if watchers.is_empty() {
        let promotes = |group: &&Group<'_>| {
            !group.server.promote.is_empty() || group.server.promote_by_sentinels
        };
        if let Some(group) = groups.iter().find(promotes) {
            let message = format!(
                "{} says which server to promote, but no process has the role `watcher` to see to it",
                group.label
            );
            fail(any, message);
        }
        return;
    }
    if groups.is_empty() {
        fail(any, "a role watches the servers of stores, but no store has several".to_owned());
    }
    for watcher in &watchers {
        let quorum = watcher.options.watcher.quorum;
        if quorum > watchers.len() {
            let message = format!(
                "{quorum} watchers must agree (options.watcher.quorum), but only {} have such a role",
                watchers.len()
            );
            fail(watcher, message);
        }
    }
}

fn check_mesh(process: &Process, several: bool, has_key: bool, fail: &dyn Fn(String)) {
    if let Some(data) = process.data_listen {
        if !data.ip().is_loopback() && !has_key {
            fail(format!("{data} can be reached from other machines: keys.mesh is missing"));
        }
        if process.data_at().is_none() {
            fail(format!("nobody can dial {data}: listen.advertise is missing"));
        }
    }
    // Nobody links up with what only has stores, or watches them.
    let is_apart = process.data_listen.is_some() || process.runs.watcher;
    if is_apart && process.mesh.is_none() && !process.runs.gate && !process.holds_entities() {
        return;
    }
    let Some(mesh) = process.mesh else {
        if several {
            fail("listen.mesh is missing: the other processes could not reach it".to_string());
        }
        return;
    };
    if !mesh.ip().is_loopback() && !has_key {
        fail(format!("{mesh} can be reached from other machines: keys.mesh is missing"));
    }
    // A port that the system chooses is told through the coordinator.
    if several && process.advertise.is_empty() && mesh.ip().is_unspecified() {
        fail(format!("nobody can dial {mesh}: listen.advertise is missing"));
    }
}

fn check_ports(processes: &[Process], problems: &Problems) {
    let all = processes.iter().flat_map(|process| {
        process.places.iter().map(move |(what, address, place)| (process, *what, *address, place))
    });
    let all: Vec<_> = all.filter(|(_, _, address, _)| address.port() != 0).collect();
    for (at, (process, what, address, place)) in all.iter().enumerate() {
        let clash = all[..at].iter().find(|(other, other_what, taken, _)| {
            let one = other.name == process.name;
            // One process may serve clients, pages and console on one and the same port.
            let shared = one && taken == address && *what != "mesh" && *other_what != "mesh";
            let open = taken.ip().is_unspecified() || address.ip().is_unspecified();
            let same = taken.port() == address.port() && (open || taken.ip() == address.ip());
            other.host == process.host && same && !shared
        });
        let Some((other, other_what, taken, other_place)) = clash else { continue };
        let role = |process: &Process| match process.roles.join(", ") {
            none if none.is_empty() => "none".to_string(),
            roles => roles,
        };
        let message = format!(
            "port clash: {address} (role {}) is {taken} of process {:?} (listen.{other_what}, role {}) at {other_place}",
            role(process),
            other.name,
            role(other),
        );
        problems.add_at(place, &format!("processes.{}.listen.{what}", process.entry), message);
    }
}

/// Reads one name of `known`, or a list of them.
fn read_names(item: &Item<'_>, word: &str, known: &[String]) -> Vec<String> {
    let one = |item: &Item<'_>| {
        let name = item.text()?;
        if !known.iter().any(|known| known == name) {
            let near = nearest(name, known.iter().map(String::as_str));
            item.fail(match near {
                Some(near) => format!("unknown {word} {name:?}; did you mean {near:?}?"),
                None => format!("unknown {word} {name:?}; \"{word}s\" has {}", known.join(", ")),
            });
        }
        Some(name.to_string())
    };
    if !matches!(item.value().data, tables::Data::List(_)) {
        return one(item).into_iter().collect();
    }
    let mut names: Vec<String> = Vec::new();
    for item in item.list(NAMES_MAX).unwrap_or_default() {
        let Some(name) = one(&item) else { continue };
        if names.contains(&name) {
            item.fail(format!("the {word} {name:?} is given twice"));
        }
        names.push(name);
    }
    names
}

fn read_workers(item: &Item<'_>) -> Option<u8> {
    if item.value().as_text() == Some("auto") { None } else { item.int(1..=255) }
}

fn read_addresses(item: &Item<'_>) -> Vec<SocketAddr> {
    if matches!(item.value().data, tables::Data::List(_)) {
        let items = item.list(ADDRESSES_MAX).unwrap_or_default();
        return items.iter().filter_map(read_address).collect();
    }
    read_address(item).into_iter().collect()
}

/// `"127.0.0.1:7000"`, `"[::1]:7000"`, or a port of the loopback.
fn read_address(item: &Item<'_>) -> Option<SocketAddr> {
    if let tables::Data::Int(_) = item.value().data {
        let port = item.int(0..=u16::MAX)?;
        return Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    }
    let text = item.text()?;
    let address = text.parse().ok();
    if address.is_none() {
        item.fail(format!(
            "{text:?} is no address: write \"10.0.0.1:7000\", \"[::1]:7000\" or a port; names are not looked up"
        ));
    }
    address
}

fn read_origin(item: &Item<'_>) -> Option<String> {
    let text = item.text()?;
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    if host.is_none_or(|host| host.is_empty() || host.contains('/')) {
        item.fail(format!("{text:?} is no origin: write \"https://game.example\", without a path"));
    }
    Some(text.to_string())
}
