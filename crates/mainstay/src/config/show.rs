use std::collections::BTreeMap;
use std::fmt::{self, Write};

use tables::{Place, Value};

use super::groups::groups;
use super::{Config, Options, Process};

/// One effective value of a process, and the layer it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// The keys that lead there, joined by dots.
    pub path: String,
    /// The value as the file would hold it; `"***"` for a secret.
    pub value: String,
    /// `default`, a place of the file, an environment variable or a `--set`.
    pub origin: String,
}

/// One difference between two cluster files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The keys that lead there, joined by dots.
    pub path: String,
    /// What the first file has there, and where.
    pub old: Option<(String, String)>,
    /// What the second file has there, and where.
    pub new: Option<(String, String)>,
}

/// Keys of the file beside `options`: path, what it is, default, meaning.
const FIELDS: &[[&str; 4]] = &[
    ["cluster", "name", "required", "Name of the cluster; nodes of another one are refused."],
    [
        "developer",
        "name",
        "none",
        "Whose copy of the cluster it is: it shares servers with other copies and sees nothing of them. Addresses of store servers have {developer} where the name goes.",
    ],
    ["channels", "list of names", "none", "The channels that players come by."],
    [
        "data",
        "path",
        "\"data\"",
        "Folder of generated keys, embedded stores and logs. Relative paths start at the file's folder.",
    ],
    [
        "keys.tickets",
        "list of {id, key}",
        "made and kept in data",
        "Keys of tickets and resume tokens, each with a number from 0 to 255. The first seals, all open: put a new one first, remove the old one a day later.",
    ],
    [
        "keys.mesh",
        "secret",
        "made and kept in data",
        "The key by which nodes know each other. Required where listen.mesh is not a loopback address.",
    ],
    [
        "keys.console",
        "secret",
        "none",
        "What a remote visitor of the console must show. Without one only this machine may look.",
    ],
    [
        "store.embedded",
        "path",
        "PROCESS.store in data",
        "File in which entities with documents are kept, of one process. Only opened if the game has such entities.",
    ],
    [
        "store.sqlite",
        "path",
        "none",
        "SQLite file instead, which the processes of one machine may share. Needs the feature sqlite.",
    ],
    [
        "store.postgres",
        "url or object",
        "none",
        "PostgreSQL database instead, which any number of processes may share: its url, or an object with what follows. Needs the feature postgres.",
    ],
    [
        "store.postgres.url",
        "url",
        "required",
        "postgres://game@db.example:5432/game; several hosts by commas, of which the one that takes writes is used. No password in it.",
    ],
    ["store.postgres.password", "secret", "none", "The user's password."],
    [
        "store.postgres.authorities",
        "path",
        "the public ones",
        "Certificates (PEM) of further authorities that the server is believed by.",
    ],
    [
        "store.postgres.accept_loss",
        "true or false",
        "false",
        "Use a server that may lose what it acknowledged; else it is refused.",
    ],
    [
        "store.postgres.followers",
        "list of urls",
        "none",
        "Its followers, one host each (postgres://game@standby.example:5432/game), at which reads that name an age limit go while they are no older.",
    ],
    [
        "store.postgres.promote",
        "list of servers",
        "none",
        "Servers of its url (\"standby.example:5432\") that processes with the role watcher may promote when the one that takes writes is down: the one that has most, of equals the first. Needs the right to execute pg_promote().",
    ],
    [
        "store.mysql",
        "url or object",
        "none",
        "MariaDB or MySQL database instead, which any number of processes may share: its url, or an object with what follows. Needs the feature mysql.",
    ],
    [
        "store.mysql.url",
        "url",
        "required",
        "mysql://game@db.example:3306/game; several hosts by commas, of which the one that takes writes is used. No password in it.",
    ],
    ["store.mysql.password", "secret", "none", "The user's password."],
    [
        "store.mysql.authorities",
        "path",
        "the public ones",
        "Certificates (PEM) of further authorities that the server is believed by.",
    ],
    [
        "store.mysql.accept_loss",
        "true or false",
        "false",
        "Use a server that may lose what it acknowledged; else it is refused.",
    ],
    [
        "store.mysql.followers",
        "list of urls",
        "none",
        "Its followers, one host each (mysql://game@standby.example:3306/game), at which reads that name an age limit go while they are no older.",
    ],
    [
        "store.mysql.promote",
        "list of servers",
        "none",
        "Servers of its url (\"replica.example:3306\") that processes with the role watcher may promote when the one that takes writes is down: the one that has most, of equals the first. MariaDB only. Needs the rights to stop a replica and to set read_only.",
    ],
    [
        "store.redis",
        "url or object",
        "none",
        "Redis instead, which any number of processes may share: its url, or an object with what follows. Needs the feature redis.",
    ],
    [
        "store.redis.url",
        "url",
        "required",
        "redis://cache.example:6379/0?shard=name, or redis-sentinel://host:26379,host:26379/primary/0?shard=name. No password in it, no encryption.",
    ],
    ["store.redis.password", "secret", "none", "The user's password."],
    [
        "store.redis.accept_loss",
        "true or false",
        "false",
        "Use a server that may lose what it acknowledged (without appendfsync always, and with sentinels always); else it is refused.",
    ],
    [
        "store.redis.followers",
        "list of urls",
        "none",
        "Its replicas, one host each (redis://replica.example:6379/0?shard=name), at which reads that name an age limit go while they are no older.",
    ],
    [
        "store.redis.promote",
        "true or false",
        "false",
        "Whether processes with the role watcher ask the sentinels for a failover when they hold the primary for down and the sentinels do nothing.",
    ],
    [
        "store.mongodb",
        "url or object",
        "none",
        "MongoDB database instead, which any number of processes may share: its url, or an object with what follows. Needs the feature mongodb.",
    ],
    [
        "store.mongodb.url",
        "url",
        "required",
        "mongodb://game@a.example,b.example/game?replicaSet=name&tls=true. No password in it.",
    ],
    [
        "store.mongodb.followers",
        "list of urls",
        "none",
        "Members that are read, one host each (mongodb://game@b.example/game), at which reads that name an age limit go while they are no older.",
    ],
    ["store.mongodb.password", "secret", "none", "The user's password."],
    [
        "store.mongodb.authorities",
        "path",
        "the public ones",
        "Certificates (PEM) of further authorities that the server is believed by; switches encryption on.",
    ],
    [
        "store.mongodb.accept_loss",
        "true or false",
        "false",
        "Use a server that says it is no replica set; else it is refused.",
    ],
    [
        "store.memory",
        "true or false",
        "false",
        "Keep them in memory instead: what is kept ends with the process.",
    ],
    [
        "store.shards.NAME",
        "object",
        "none",
        "Several stores instead, each named and written as one: every entity is in the shard that has its slot.",
    ],
    [
        "stores.NAME",
        "object",
        "none",
        "A store beside the default one, written as `store` is: kinds that name it are kept there.",
    ],
    [
        "coordinator.embedded",
        "path",
        "coordinator in data",
        "Folder through which the processes of one machine find each other; one of them hosts it. Not opened if there is one process.",
    ],
    [
        "coordinator.etcd.endpoints",
        "list of text",
        "none",
        "Members of an etcd v3 cluster instead (http://.., or all at https://..), for processes on several machines. Needs the feature etcd.",
    ],
    ["coordinator.etcd.prefix", "text", "\"mainstay/CLUSTER/\"", "What its keys begin with."],
    [
        "coordinator.etcd.user",
        "text",
        "none",
        "A user of etcd that may read and write what begins with the prefix.",
    ],
    ["coordinator.etcd.password", "secret", "none", "The user's password."],
    [
        "coordinator.etcd.authorities",
        "path",
        "the public ones",
        "Certificates (PEM) of the authorities that members at https://.. are believed by. Read for each connection.",
    ],
    [
        "coordinator.etcd.certificate",
        "path",
        "none",
        "A certificate (PEM) that members are shown; with its key. Read for each connection.",
    ],
    ["coordinator.etcd.key", "path", "none", "The key (PEM) of that certificate."],
    [
        "bus",
        "\"embedded\" or object",
        "\"embedded\"",
        "Over what topics and jobs travel: the mesh and each process itself, or the servers named below.",
    ],
    [
        "bus.nats",
        "url or object",
        "none",
        "NATS: nats://game@10.0.0.4:4222 or tls://.., in an object as url, which may be a list. No password in it. Needs the feature nats.",
    ],
    ["bus.nats.password", "secret", "none", "The user's password."],
    ["bus.nats.prefix", "text", "the cluster's name", "What the names of all topics begin with."],
    ["bus.nats.credentials", "path", "none", "A credentials file (.creds)."],
    ["bus.nats.replicas", "1..=5", "1", "How many servers keep what may not be lost."],
    [
        "bus.rabbitmq",
        "url or object",
        "none",
        "RabbitMQ: amqp://game@10.0.0.4:5672 or amqps://.., in an object as url, which may be a list. No password in it. Needs the feature rabbitmq.",
    ],
    ["bus.rabbitmq.password", "secret", "none", "The user's password."],
    [
        "bus.rabbitmq.prefix",
        "text",
        "the cluster's name",
        "What the names of all queues begin with.",
    ],
    ["options", "object", "{}", "Options of all processes, see below."],
    ["zones.NAME.options", "object", "{}", "Options of the processes of a zone."],
    ["roles.NAME.gate", "true or false", "false", "Processes with this role take in clients."],
    ["roles.NAME.sessions", "true or false", "false", "They are home to sessions."],
    [
        "roles.NAME.entities",
        "\"all\" or list of names",
        "[]",
        "They run these entity kinds and services.",
    ],
    ["roles.NAME.web", "true or false", "false", "They serve the game's HTTP routes."],
    ["roles.NAME.console", "true or false", "false", "They serve console and metrics."],
    [
        "roles.NAME.data",
        "true or false",
        "false",
        "They stand in front of the stores: processes without such a role reach the stores through them.",
    ],
    [
        "roles.NAME.watcher",
        "true or false",
        "false",
        "They watch the servers of stores that are on several, and lead all processes to the one that takes writes.",
    ],
    [
        "processes.NAME.roles",
        "list of names",
        "required",
        "Roles of the game, or of \"roles\" above.",
    ],
    [
        "processes.NAME.zone",
        "name or list of names",
        "none",
        "The zones it belongs to: it hosts what is local to each of them. Options of several lie over each other in this order.",
    ],
    [
        "processes.NAME.channel",
        "name or list of names",
        "none",
        "The channels it belongs to: it hosts what is local to each of them.",
    ],
    ["processes.NAME.host", "text", "\"\"", "The machine it runs on; ports clash only within one."],
    [
        "processes.NAME.count",
        "count, 1 to 1000",
        "none",
        "So many processes NAME-1, NAME-2, ..., whose ports count up from the given ones.",
    ],
    [
        "processes.NAME.workers",
        "\"auto\" or count, 1 to 255",
        "\"auto\"",
        "Threads that run entities and sessions; auto is one for each core.",
    ],
    [
        "processes.NAME.gate_workers",
        "\"auto\" or count, 1 to 255",
        "\"auto\"",
        "Threads that hold clients.",
    ],
    [
        "processes.NAME.weight",
        "count, 1 to 64",
        "1",
        "Its share of keyed entities next to other processes.",
    ],
    [
        "processes.NAME.listen.clients",
        "address or list",
        "none",
        "Where clients come in, over TCP and WebSocket alike. Required by roles that take in clients.",
    ],
    [
        "processes.NAME.listen.web",
        "address or list",
        "none",
        "Where HTTP is served; a gate serves it on listen.clients too.",
    ],
    [
        "processes.NAME.listen.console",
        "address or list",
        "none",
        "Where only the console is served; without it, wherever HTTP is.",
    ],
    [
        "processes.NAME.listen.mesh",
        "address",
        "none",
        "Where other processes link up. Required if there are several.",
    ],
    [
        "processes.NAME.listen.data",
        "address",
        "none",
        "Where processes without the role `data` reach the stores. Required by that role.",
    ],
    [
        "processes.NAME.listen.advertise",
        "address",
        "listen.mesh",
        "Where other processes find it, if listen.mesh is 0.0.0.0.",
    ],
    [
        "processes.NAME.listen.origins",
        "list of origins",
        "[]",
        "Origins that browsers may play from, such as \"https://game.example\"; empty lets all in.",
    ],
    ["processes.NAME.options", "object", "{}", "Options of this process."],
];

pub(super) fn describe() -> String {
    let mut out = String::from(
        "Every key of a cluster file, with its unit, default and meaning.\n\n\
         Times are texts such as \"250ms\", \"4s\", \"5min\", \"1h\"; bytes are numbers or texts such\n\
         as \"64KiB\"; addresses are texts such as \"10.0.0.1:7000\" or a port of the loopback;\n\
         a secret is {\"env\": \"NAME\"}, {\"file\": \"path\"} or the text itself.\n",
    );
    for [path, unit, default, doc] in FIELDS {
        let _ = write!(out, "\n{path}: {unit}; default {default}\n    {doc}\n");
    }
    let defaults = Options::default();
    for group in groups() {
        let _ = write!(out, "\noptions.{}: {}\n", group.name(), group.doc());
        let values: BTreeMap<_, _> = group.show(&defaults).into_iter().collect();
        for (name, unit, doc) in group.describe() {
            let _ = write!(out, "  {name}: {unit}; default {}\n      {doc}\n", values[name]);
        }
    }
    out
}

pub(super) fn effective(config: &Config, process: &Process) -> Vec<Effective> {
    let mut all = Vec::new();
    for leaf in config.layers.merged.leaves() {
        let own = format!("processes.{}.", process.entry);
        let is_option = leaf.path.strip_prefix(&own).unwrap_or(&leaf.path).starts_with("options");
        let is_other = leaf.path.starts_with("processes.") && !leaf.path.starts_with(&own);
        if is_option || is_other || leaf.path.starts_with("zones.") {
            continue;
        }
        let value = masked(&leaf.path, &leaf.value);
        all.push(Effective { path: leaf.path, value, origin: leaf.value.place.to_string() });
    }
    for group in groups() {
        for (name, value) in group.show(&process.options) {
            let path = format!("{}.{name}", group.name());
            let origin = process.effective.at_path(&path).map(|value| &value.place);
            let origin = origin.map_or("default".to_string(), Place::to_string);
            all.push(Effective { path: format!("options.{path}"), value, origin });
        }
    }
    all
}

/// What differs between two cluster files, sorted by path, macros replaced, keys masked.
pub fn difference(old: &Config, new: &Config) -> Vec<Change> {
    let leaves = |config: &Config| -> BTreeMap<String, Value> {
        let leaves = config.layers.merged.leaves().into_iter();
        leaves.map(|leaf| (leaf.path, leaf.value)).collect()
    };
    let (old, new) = (leaves(old), leaves(new));
    let shown = |path: &str, value: &Value| (masked(path, value), value.place.to_string());
    let mut changes = Vec::new();
    let mut paths: Vec<&String> = old.keys().chain(new.keys()).collect();
    paths.sort();
    paths.dedup();
    for path in paths {
        let (before, after) = (old.get(path), new.get(path));
        if before != after {
            changes.push(Change {
                path: path.clone(),
                old: before.map(|value| shown(path, value)),
                new: after.map(|value| shown(path, value)),
            });
        }
    }
    changes
}

/// Those of servers that are no stores.
const PASSWORDS: &[&str] =
    &["bus.nats.password", "bus.rabbitmq.password", "coordinator.etcd.password"];

/// A secret in the file itself is not shown; where one is to be found is.
fn masked(path: &str, value: &Value) -> String {
    let reference = path.ends_with(".env") || path.ends_with(".file") || path.ends_with(".id");
    let secret = path.starts_with("keys.")
        || PASSWORDS.iter().any(|at| path.starts_with(at))
        || (path.starts_with("store.") || path.starts_with("stores."))
            && path.split('.').skip(2).any(|part| part == "password");
    if secret && !reference { "\"***\"".to_string() } else { value.to_string() }
}

impl fmt::Display for Effective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}  ({})", self.path, self.value, self.origin)
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Change { path, old, new } = self;
        match (old, new) {
            (Some((old, from)), Some((new, to))) => {
                write!(f, "~ {path}: {old} ({from}) -> {new} ({to})")
            }
            (Some((old, from)), None) => write!(f, "- {path}: {old} ({from})"),
            (None, Some((new, to))) => write!(f, "+ {path}: {new} ({to})"),
            (None, None) => Ok(()),
        }
    }
}
