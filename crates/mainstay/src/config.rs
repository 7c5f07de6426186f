//! The cluster file: one description of all processes, read in layers.
//!
//! | layer, lowest first | from |
//! |---|---|
//! | default | the starting values of every option |
//! | file | `options` of the cluster file |
//! | zone | `options` of the process's zones, in the order in which it names them |
//! | process | `options` of the process |
//! | environment | `MAINSTAY_PATH__OF__KEYS=value`, two underscores where the file nests |
//! | command line | `--set path.of.keys=value` |
//!
//! The file is enhanced JSON (see [`tables::parse`]): comments, trailing commas, macros. Unknown
//! keys, wrong types and values out of range are refused with file, line, column and the nearest
//! valid name; all errors are reported at once. Reading the file opens no socket and asks nobody.
//!
//! ```json5
//! {
//!     "cluster": "arena",
//!     "keys": {
//!         "tickets": [{"id": 1, "key": {"env": "ARENA_TICKET_KEY"}}],
//!         "mesh": {"file": "mesh.key"},
//!     },
//!     "store": {"embedded": "arena.store"},
//!     "stores": {"accounts": {"postgres": "postgres://arena@10.0.0.5/accounts"}},
//!     "coordinator": {"etcd": {"endpoints": ["http://10.0.0.3:2379"]}},
//!     "bus": {"nats": {"url": "nats://arena@10.0.0.4:4222", "password": {"env": "ARENA_BUS"}}},
//!     "options": {"gate": {"heartbeat": "6s"}},
//!     "zones": {"east": {"options": {"session": {"resume_window": "2min"}}}, "west": {}},
//!     "channels": ["web", "app"],
//!     "roles": {"battle": {"entities": ["room"]}},
//!     "processes": {
//!         "gate": {
//!             "roles": ["gate"], "count": 3, "zone": "east",
//!             "listen": {"clients": "0.0.0.0:7000", "mesh": "10.0.0.1:7100"},
//!         },
//!         "battle": {
//!             "roles": ["battle"], "zone": ["east", "west"], "channel": "web",
//!             "listen": {"mesh": "10.0.0.2:7100"}, "host": "b",
//!         },
//!     },
//! }
//! ```
//!
//! With `MAINSTAY_DEVELOPER=ann` (or `"developer": "ann"`) it describes a copy of the cluster that shares
//! servers with other copies and sees nothing of them.
//!
//! [`Config::describe`] prints every key with its unit, range and default.

use std::fmt;
use std::path::{Path, PathBuf};

use tables::Problem;

use crate::{App, AppError};

mod bus;
mod coordinator;
mod developer;
mod groups;
mod input;
mod keys;
mod layers;
mod option;
mod process;
mod roles;
mod show;
mod store;

pub use bus::{BusPlace, BusServer};
pub use coordinator::{CoordinatorPlace, EtcdPlace};
pub(crate) use developer::Developer;
pub use groups::{DrainOptions, LogOptions, NodeLimits, Options, StoreOptions};
pub use input::Input;
pub use keys::{KeyRefs, Keys, Secret, Vault};
pub use process::Process;
pub use roles::{Kinds, Role, Roles};
pub use show::{Change, Effective, difference};
#[cfg(any(feature = "postgres", feature = "mysql", feature = "redis", feature = "mongodb"))]
pub(crate) use store::Group;
pub use store::{JournalPlace, StorePlace, StoreServer};
pub use tables::nearest;

#[cfg(test)]
mod tests;

/// A validated cluster file with all layers applied.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the cluster, with the developer's; nodes of another one are refused.
    pub cluster: String,
    /// Folder of what the processes keep, such as generated keys, embedded stores and logs.
    pub data: PathBuf,
    /// Where the keys are to be found; see [`KeyRefs::resolve`].
    pub keys: KeyRefs,
    /// Names of the zones, in the order of the file.
    pub zones: Vec<String>,
    /// Names of the channels, in the order of the file.
    pub channels: Vec<String>,
    /// Every process of the cluster, in the order of the file, copies counted out.
    pub processes: Vec<Process>,
    layers: layers::Layers,
}

/// Why there is no configuration.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// Something is wrong in it: correct every place and try again.
    Invalid(Vec<Problem>),
}

impl Config {
    /// Reads the cluster file at `path` with environment and command line, as the process that
    /// calls it is to see it. Without a path: one process called `local` with every role of the
    /// game, on loopback.
    ///
    /// `settings` are the command line's `path.of.keys=value`.
    ///
    /// # Errors
    /// [`ConfigError`] with everything that is wrong.
    pub fn load(
        path: Option<&Path>,
        settings: &[String],
        roles: &Roles,
    ) -> Result<Config, ConfigError> {
        Self::from_input(&Input::of_process(path, settings)?, roles)
    }

    /// Reads and validates `path` alone, without environment and command line and without
    /// looking for keys: what `mainstay check FILE` does.
    ///
    /// # Errors
    /// [`ConfigError`] with everything that is wrong.
    pub fn check(path: &Path, roles: &Roles) -> Result<Config, ConfigError> {
        Self::from_input(&Input::of_file(path)?, roles)
    }

    /// Reads a configuration from given texts. Pure.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with everything that is wrong.
    pub fn from_input(input: &Input, roles: &Roles) -> Result<Config, ConfigError> {
        layers::read(input, roles).map_err(ConfigError::Invalid)
    }

    /// Whether the game's declarations fit together, and the processes have what it declares: a bus that gives
    /// the delivery of each topic, the stores that kinds name, the zones of what is local.
    ///
    /// # Errors
    /// What is missing, with what to do.
    pub fn check_app(&self, app: &App) -> Result<(), AppError> {
        app.check()?;
        let runs = self.processes.iter().filter(|process| process.holds_entities());
        for process in runs {
            app.check_bus(&process.bus, !process.shares_entities)?;
            app.check_stores(process)?;
            app.check_scopes(process)?;
        }
        Ok(())
    }

    /// The process called `name`.
    pub fn process(&self, name: &str) -> Option<&Process> {
        self.processes.iter().find(|process| process.name == name)
    }

    /// The process to run: the one called `name`, or the only one there is.
    ///
    /// # Errors
    /// A message that lists the names there are.
    pub fn choose(&self, name: Option<&str>) -> Result<&Process, String> {
        let names = || {
            let names: Vec<&str> = self.processes.iter().map(|p| p.name.as_str()).collect();
            names.join(", ")
        };
        match (name, &self.processes[..]) {
            (Some(name), _) => self.process(name).ok_or_else(|| {
                format!("cluster {} has no process {name:?}: there are {}", self.cluster, names())
            }),
            (None, [only]) => Ok(only),
            (None, _) => Err(format!(
                "cluster {} has several processes: choose one of {} (--process NAME)",
                self.cluster,
                names()
            )),
        }
    }

    /// Every effective value of one process with its origin, keys masked.
    pub fn effective(&self, process: &Process) -> Vec<Effective> {
        show::effective(self, process)
    }

    /// Every key that a cluster file may hold, with unit, range, default and meaning.
    pub fn describe() -> String {
        show::describe()
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::Read { path, error } => {
                write!(f, "cannot read the cluster file {}: {error}", path.display())
            }
            ConfigError::Invalid(problems) => {
                let lines: Vec<String> = problems.iter().map(Problem::to_string).collect();
                f.write_str(&lines.join("\n"))
            }
        }
    }
}

impl std::error::Error for ConfigError {}
